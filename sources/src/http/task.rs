//! The client of source `http`: what came is taken, and its requests are answered.

use std::sync::Arc;
use std::time::Duration;

use sluice_bridges::message::Mapped;
use sluice_connect::task::{SourceTask, TaskError};

use super::HttpConfig;
use super::server::{Pending, Server, Waiting};
use crate::queue::{Acknowledge, Delivery, QueueSettings, QueueSource, Receive};
use crate::topic::Until;

/// The source's task.
pub(crate) fn open(settings: &HttpConfig) -> Box<dyn SourceTask> {
    let queue = QueueSettings {
        name: settings.name().to_owned(),
        until: Until::Forever,
        unacknowledged_max: usize::try_from(settings.unacknowledged).unwrap_or(usize::MAX),
        // Who waits for an answer gets it while there is time to publish.
        publish_within: Some(settings.timeout.0 / 2),
    };
    let settings = settings.clone();
    Box::new(QueueSource::new(queue, move || Ok(Listener(Arc::new(Server::open(&settings)?)))))
}

struct Listener(Arc<Server>);

impl Drop for Listener {
    /// What was taken is still answered.
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Receive for Listener {
    type Tag = Arc<Pending>;

    fn next(&mut self) -> Result<Option<Delivery<Arc<Pending>>>, TaskError> {
        self.0.listen()?;
        let Some(Waiting { request, said, place, body }) = self.0.next() else { return Ok(None) };
        let mapped = Mapped {
            message_id: said.key.as_ref().map(|key| format!("{key}/{place}").into()),
            properties: said.properties.clone(),
            ..Mapped::default()
        };
        Ok(Some(Delivery { tag: request, mapped: Ok((mapped, Some(said.at_ms))), body }))
    }

    fn wait(&mut self, timeout: Duration) {
        self.0.wait(timeout);
    }

    fn ready(&mut self) -> Option<u64> {
        u64::try_from(self.0.ready()).ok()
    }

    fn is_empty(&mut self) -> Result<bool, TaskError> {
        Ok(self.0.ready() == 0)
    }

    fn acknowledge(&self) -> Arc<dyn Acknowledge<Arc<Pending>>> {
        Arc::new(Answers { _server: Arc::clone(&self.0) })
    }
}

/// Answers requests. The server lives as long as one may be answered.
struct Answers {
    _server: Arc<Server>,
}

impl Acknowledge<Arc<Pending>> for Answers {
    fn acknowledge(&self, requests: Vec<Arc<Pending>>) -> Result<(), TaskError> {
        requests.iter().for_each(|request| request.stored());
        Ok(())
    }
}

//! The client of source `zeromq`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_bridges::zeromq::inbound::{Inbound, Wanted};
use sluice_bridges::zeromq::mapping::to_message;
use sluice_connect::task::{Class, SourceTask, TaskError};

use super::ZeromqConfig;
use crate::queue::{Acknowledge, Delivery, QueueSettings, QueueSource, Receive};
use crate::topic::Until;

/// What names the chain: a socket has no name.
const NAME: &str = "zeromq";

/// The source's task.
pub(crate) fn open(settings: &ZeromqConfig) -> Box<dyn SourceTask> {
    // Nobody waits to be told that messages are there.
    let queue = QueueSettings {
        name: NAME.to_owned(),
        until: Until::Forever,
        unacknowledged_max: usize::MAX,
        publish_within: None,
    };
    let settings = settings.clone();
    Box::new(QueueSource::new(queue, move || Client::new(&settings)))
}

struct Client {
    endpoint: String,
    inbound: Inbound,
}

impl Client {
    fn new(settings: &ZeromqConfig) -> Result<Self, TaskError> {
        let endpoint = settings.endpoint().map_err(|(_, problem)| TaskError::new(Class::Config, problem))?;
        let all = || vec![String::new()];
        let prefixes = match settings.kind() {
            sluice_bridges::zeromq::Kind::Sub if settings.prefixes.is_empty() => all(),
            _ => settings.prefixes.clone(),
        };
        let wanted = Wanted {
            kind: settings.kind(),
            prefixes,
            high_water_mark: settings.high_water_mark,
            message_max: settings.body_max.as_u64(),
        };
        let inbound = Inbound::open(endpoint, wanted)?;
        Ok(Self { endpoint: inbound.endpoint().to_string(), inbound })
    }
}

impl Receive for Client {
    type Tag = ();

    fn next(&mut self) -> Result<Option<Delivery<()>>, TaskError> {
        Ok(self.inbound.try_next()?.map(|received| match received {
            Ok(frames) => {
                let (mapped, body) = to_message(&self.endpoint, frames);
                Delivery { tag: (), mapped: Ok((mapped, None)), body: body.into() }
            }
            Err(reason) => Delivery { tag: (), mapped: Err(reason), body: Bytes::new() },
        }))
    }

    fn wait(&mut self, timeout: Duration) {
        self.inbound.wait(timeout);
    }

    /// Nobody knows.
    fn ready(&mut self) -> Option<u64> {
        None
    }

    fn is_empty(&mut self) -> Result<bool, TaskError> {
        Ok(false)
    }

    fn acknowledge(&self) -> Arc<dyn Acknowledge<()>> {
        Arc::new(Nobody)
    }
}

/// There is nothing to acknowledge.
struct Nobody;

impl Acknowledge<()> for Nobody {
    fn acknowledge(&self, _: Vec<()>) -> Result<(), TaskError> {
        Ok(())
    }
}

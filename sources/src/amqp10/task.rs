//! The client of source `amqp10`: one receiver on one session.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_bridges::amqp10::client::Link;
use sluice_bridges::amqp10::mapping::to_message;
use sluice_bridges::amqp10::receive::{Messages, Settler, Tag};
use sluice_client::Tls;
use sluice_connect::task::{Class, SourceTask, TaskError};

use super::Amqp10Config;
use crate::queue::{Acknowledge, Delivery, QueueSettings, QueueSource, Receive};

/// The source's task.
pub(crate) fn open(settings: &Amqp10Config) -> Box<dyn SourceTask> {
    let queue = QueueSettings {
        name: settings.queue.clone(),
        until: settings.until,
        unacknowledged_max: usize::from(settings.prefetch),
        publish_within: None,
    };
    let settings = settings.clone();
    Box::new(QueueSource::new(queue, move || Client::new(&settings)))
}

struct Client {
    queue: String,
    messages: Messages,
}

impl Client {
    /// Attaches, so that a queue that is missing is told at once. Credit is what makes the broker send.
    fn new(settings: &Amqp10Config) -> Result<Self, TaskError> {
        let way = settings.way().map_err(|problem| TaskError::new(Class::Config, problem))?;
        let tls = way.address.is_secure.then(|| tls(settings, &way.address.host)).transpose()?;
        let link = Arc::new(Link::open(&way, tls.as_ref(), settings.body_max.as_u64())?);
        let messages = Messages::attach(&link, &settings.queue, u32::from(settings.prefetch))?;
        Ok(Self { queue: settings.queue.clone(), messages })
    }
}

fn tls(settings: &Amqp10Config, host: &str) -> Result<sluice_bridges::stream::Tls, TaskError> {
    Tls::for_host(settings.tls.as_ref(), host)
        .map_err(|e| TaskError::new(Class::Config, "cannot speak TLS as asked for").because(e))
}

impl Receive for Client {
    type Tag = Tag;

    fn next(&mut self) -> Result<Option<Delivery<Tag>>, TaskError> {
        let Some((tag, message)) = self.messages.try_next()? else { return Ok(None) };
        let mapped = message.and_then(|message| to_message(&self.queue, message));
        Ok(Some(match mapped {
            Ok((mapped, born, body)) => Delivery { tag, mapped: Ok((mapped, born)), body: body.into() },
            Err(reason) => Delivery { tag, mapped: Err(reason), body: Bytes::new() },
        }))
    }

    fn wait(&mut self, timeout: Duration) {
        self.messages.wait(timeout);
    }

    /// Brokers do not tell.
    fn ready(&mut self) -> Option<u64> {
        None
    }

    fn is_empty(&mut self) -> Result<bool, TaskError> {
        self.messages.is_drained()
    }

    fn acknowledge(&self) -> Arc<dyn Acknowledge<Tag>> {
        Arc::new(Acker(self.messages.settler()))
    }
}

struct Acker(Arc<Settler>);

impl Acknowledge<Tag> for Acker {
    fn acknowledge(&self, tags: Vec<Tag>) -> Result<(), TaskError> {
        self.0.accept(tags)
    }
}

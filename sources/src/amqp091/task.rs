//! The client of source `amqp091`: one consumer on one channel. Delivery tags of a channel rise by one, so a message is
//! acknowledged with all before it.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use lapin::message::Delivery as Delivered;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use sluice_bridges::amqp091::client::{Link, short};
use sluice_bridges::amqp091::mapping::{self, to_message};
use sluice_client::Tls;
use sluice_connect::task::{Class, SourceTask, TaskError};

use super::Amqp091Config;
use crate::queue::{Acknowledge, Delivery, QueueSettings, QueueSource, Receive};

/// The source's task.
pub(crate) fn open(settings: &Amqp091Config) -> Box<dyn SourceTask> {
    let queue = QueueSettings {
        name: settings.queue.clone(),
        until: settings.until,
        unacknowledged_max: usize::from(settings.prefetch),
        publish_within: None,
    };
    let settings = settings.clone();
    Box::new(QueueSource::new(queue, move || Consumer::new(&settings)))
}

struct Consumer {
    queue: String,
    prefetch: u16,
    /// Made by the first read: whoever only looks takes no messages.
    consumer: Option<lapin::Consumer>,
    /// What came while it was waited for.
    waiting: Option<lapin::Result<Delivered>>,
    link: Arc<Link>,
}

impl Consumer {
    fn new(settings: &Amqp091Config) -> Result<Self, TaskError> {
        let way = settings.way().map_err(|problem| TaskError::new(Class::Config, problem))?;
        let tls = way.address.is_secure.then(|| tls(settings, &way.address.host)).transpose()?;
        let link = Arc::new(Link::open(&way, tls, settings.body_max.as_u64())?);
        let queue = settings.queue.clone();
        link.ready(&queue)?;
        Ok(Self { queue, prefetch: settings.prefetch, consumer: None, waiting: None, link })
    }

    fn consumer(&mut self) -> Result<&mut lapin::Consumer, TaskError> {
        if self.consumer.is_none() {
            let what = format!("cannot consume queue {}", self.queue);
            let channel = &self.link.channel;
            self.link.ask(&what, channel.basic_qos(self.prefetch, BasicQosOptions::default()))?;
            let (tag, options) = (ShortString::default(), BasicConsumeOptions::default());
            let consumer = channel.basic_consume(short(&self.queue)?, tag, options, FieldTable::default());
            self.consumer = Some(self.link.ask(&what, consumer)?);
        }
        self.consumer.as_mut().ok_or_else(|| TaskError::new(Class::Fatal, "there is no consumer"))
    }
}

fn tls(settings: &Amqp091Config, host: &str) -> Result<sluice_bridges::stream::Tls, TaskError> {
    Tls::for_host(settings.tls.as_ref(), host)
        .map_err(|e| TaskError::new(Class::Config, "cannot speak TLS as asked for").because(e))
}

impl Receive for Consumer {
    type Tag = u64;

    fn next(&mut self) -> Result<Option<Delivery<u64>>, TaskError> {
        let next = match self.waiting.take() {
            Some(waiting) => Some(waiting),
            None => match self.consumer()?.next().now_or_never() {
                None => return Ok(None),
                Some(next) => next,
            },
        };
        let what = format!("queue {}: the consumer has ended", self.queue);
        let delivered = match next {
            Some(Ok(delivered)) => delivered,
            Some(Err(error)) => return Err(self.link.failed(&what, error)),
            // Its queue was deleted, or it moved.
            None => return Err(TaskError::new(Class::Retry, format!("{what}: the broker cancelled it"))),
        };
        let said = mapping::Delivered {
            queue: &self.queue,
            exchange: delivered.exchange.as_str(),
            routing_key: delivered.routing_key.as_str(),
            is_again: delivered.redelivered,
        };
        let mapped = to_message(said, &delivered.properties);
        Ok(Some(Delivery { tag: delivered.delivery_tag, mapped, body: delivered.data.into() }))
    }

    fn wait(&mut self, timeout: Duration) {
        let (link, waiting) = (Arc::clone(&self.link), self.waiting.is_some());
        if let (false, Some(consumer)) = (waiting, &mut self.consumer) {
            let next = link.wait(async { tokio::time::timeout(timeout, consumer.next()).await });
            self.waiting = next.ok().flatten();
            // One that has ended says so at the next read, and at once.
        }
    }

    fn ready(&mut self) -> Option<u64> {
        self.link.ready(&self.queue).ok().map(u64::from)
    }

    /// The first answer may overtake messages on their way to the channel; the second comes behind them.
    fn is_empty(&mut self) -> Result<bool, TaskError> {
        for _ in 0..2 {
            if self.link.ready(&self.queue)? > 0 {
                return Ok(false);
            }
        }
        if self.waiting.is_none()
            && let Some(next) = self.consumer()?.next().now_or_never()
        {
            self.waiting = next;
        }
        Ok(self.waiting.is_none())
    }

    fn acknowledge(&self) -> Arc<dyn Acknowledge<u64>> {
        Arc::new(Acker { queue: self.queue.clone(), link: Arc::clone(&self.link) })
    }
}

struct Acker {
    queue: String,
    link: Arc<Link>,
}

impl Acknowledge<u64> for Acker {
    fn acknowledge(&self, tags: Vec<u64>) -> Result<(), TaskError> {
        let Some(&last) = tags.last() else { return Ok(()) };
        let what = format!("cannot acknowledge messages of queue {}", self.queue);
        let all_before = BasicAckOptions { multiple: true };
        self.link.ask(&what, self.link.channel.basic_ack(last, all_before))
    }
}

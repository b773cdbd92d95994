//! Many messages for one queue that are handed over together and have one answer.

use std::sync::Arc;

use sluice_protocol::batch::{self, BatchItem};
use sluice_protocol::message::{UNIQ_KEY, WAIT, push_property};
use sluice_protocol::topic::RETRY_PREFIX;
use tokio::sync::oneshot;

use crate::clock::now_ms;
use crate::error::Error;
use crate::lane::{Batch, Kind, Waiting};
use crate::message::is_alone;
use crate::producer::{Core, MESSAGE_BYTES, Producer};
use crate::route::Queue;
use crate::sent::Receipt;

/// Messages that go to one queue in one request: stored there together, in this order.
///
/// ```no_run
/// # async fn example(producer: sluice_client::Producer, queue: sluice_client::Queue) -> Result<(), sluice_client::Error> {
/// let mut batch = producer.batch(&queue);
/// for number in ["1", "2", "3"] {
///     // A batch that is full says so.
///     assert!(batch.push(number.as_bytes(), [("number", number)])?);
/// }
/// producer.submit_batch(batch).await?.await?;
/// # Ok(())
/// # }
/// ```
pub struct MessageBatch {
    core: Arc<Core>,
    queue: Queue,
    bytes: Vec<u8>,
    messages: usize,
    /// Properties while they are put together.
    properties: Vec<u8>,
}

impl MessageBatch {
    /// Adds a message with these properties; one that has no id is given one. `false`: it is not added, since the batch
    /// is full, or since the message must go alone (see [`crate::Message::is_alone`]) or is not waited for.
    pub fn push<'p>(
        &mut self,
        body: &[u8],
        properties: impl IntoIterator<Item = (&'p str, &'p str)>,
    ) -> Result<bool, Error> {
        let settings = self.core.settings();
        self.core.check(&self.queue.topic, body.len())?;
        if self.queue.topic.as_str().starts_with(RETRY_PREFIX) {
            return Ok(false);
        }
        self.properties.clear();
        let mut has_id = false;
        for (name, value) in properties {
            if is_alone(name) || name == WAIT {
                return Ok(false);
            }
            has_id |= name == UNIQ_KEY && !value.is_empty();
            push_property(&mut self.properties, name, value)?;
        }
        if !has_id {
            push_property(&mut self.properties, UNIQ_KEY, &self.core.new_id(now_ms()))?;
        }
        let weight = body.len() + self.properties.len() + MESSAGE_BYTES;
        let is_full = self.messages == settings.batch_messages_max
            || self.messages > 0 && self.bytes.len() + weight > settings.batch_bytes_max;
        if is_full {
            return Ok(false);
        }
        batch::push(&mut self.bytes, &BatchItem { flag: 0, body, properties: &self.properties })?;
        self.messages += 1;
        Ok(true)
    }

    /// How many messages it has.
    pub const fn len(&self) -> usize {
        self.messages
    }

    /// Whether it has none.
    pub const fn is_empty(&self) -> bool {
        self.messages == 0
    }
}

impl Producer {
    /// A batch of no messages for a queue.
    pub fn batch(&self, queue: &Queue) -> MessageBatch {
        let (core, queue) = (Arc::clone(self.core()), queue.clone());
        MessageBatch { core, queue, bytes: Vec::new(), messages: 0, properties: Vec::new() }
    }

    /// Hands a batch over, waiting only while too much is in flight. It goes to its queue behind what was handed over
    /// before.
    pub async fn submit_batch(&self, batch: MessageBatch) -> Result<Receipt<()>, Error> {
        let core = self.core();
        let (done, answer) = oneshot::channel();
        if batch.is_empty() {
            // Whoever waits for the answer has it.
            drop(done.send(Ok(())));
            return Ok(Receipt(answer));
        }
        let lane = core.lane_of(&batch.queue).await?;
        let kind = Kind { is_pinned: true, is_whole: true, waits: true, sys_flag: 0 };
        let weight = core.reserve(batch.bytes.len() + batch.messages * MESSAGE_BYTES).await?;
        let waiting = Waiting::All { messages: batch.messages, done };
        let mut whole = Batch::new(kind);
        (whole.bytes, whole.waiting, whole.weight) = (batch.bytes, waiting, weight);
        lane.add_batch(core, whole);
        Ok(Receipt(answer))
    }
}

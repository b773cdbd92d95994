//! Messages that consumers see later or elsewhere: where they are stored first, and how a stored one is stored again.
//!
//! Asked of every send, so that one without such a wish costs one walk over its properties.

use std::borrow::Cow;

use sluice_protocol::delay::{self, TIMER_DUE, TIMER_TOPIC, TIMERS};
use sluice_protocol::id::{QueueId, TopicName};
use sluice_protocol::message::{self, DELAY, Message, PropertyError, REAL_QUEUE_ID, REAL_TOPIC, UNIQ_KEY};
use sluice_protocol::record::Record;
use sluice_protocol::topic::{DLQ_PREFIX, RETRY_PREFIX};
use sluice_store::Batch;

use crate::broker::Broker;
use crate::reply::Reply;
use crate::send::{Place, illegal};
use crate::timer;
use crate::topic::own_topic;
use crate::transaction::{HALF, TRAN_MSG, TRANSACTION_ID};

impl Broker {
    /// Where a message is stored first that is for the queue `place`, with its properties changed to it; `None` if
    /// consumers see it there at once.
    pub(crate) fn divert(&self, place: &Place, properties: &mut Vec<u8>) -> Result<Option<Place>, Reply> {
        let (mut half, mut delay, mut timer) = (false, None, false);
        for (name, value) in message::entries(properties) {
            if name == TRAN_MSG.as_bytes() {
                half = value.eq_ignore_ascii_case(b"true");
            } else if name == DELAY.as_bytes() {
                let level = str::from_utf8(value).ok().and_then(|level| level.parse().ok());
                delay = level.and_then(|level| self.store.delay_levels().get(level));
            } else {
                timer |= TIMERS.iter().any(|timer| name == timer.as_bytes());
            }
        }
        // A committed message that comes back from a consumer is no half again.
        if half && !place.0.as_str().starts_with(RETRY_PREFIX) && !place.0.as_str().starts_with(DLQ_PREFIX) {
            let id = message::property(properties, UNIQ_KEY).unwrap_or_default().to_owned();
            let set = message::set_property(properties, TRANSACTION_ID, &id);
            set.and_then(|()| set_real(place, properties)).map_err(|error| illegal(error.to_string()))?;
            return Ok(Some((own_topic(HALF), QueueId::ZERO)));
        }
        if let Some(level) = delay {
            if timer {
                *properties = message::without(properties, &TIMERS);
            }
            set_real(place, properties).map_err(|error| illegal(error.to_string()))?;
            return Ok(Some((own_topic(delay::TOPIC), level.queue())));
        }
        if !timer {
            return Ok(None);
        }
        let now = self.store.now_ms()?;
        let Some(due) = timer::due(properties, now)? else { return Ok(None) };
        let set = message::set_property(properties, TIMER_DUE, &due.to_string());
        set.and_then(|()| set_real(place, properties)).map_err(|error| illegal(error.to_string()))?;
        Ok(Some((own_topic(TIMER_TOPIC), timer::queue_of(due - now))))
    }
}

/// Keeps in the properties which queue a message is for.
fn set_real((topic, queue): &Place, properties: &mut Vec<u8>) -> Result<(), PropertyError> {
    message::set_property(properties, REAL_TOPIC, topic.as_str())?;
    message::set_property(properties, REAL_QUEUE_ID, &queue.to_string())
}

/// Stored messages on their way to the queues that they are for.
#[derive(Default)]
pub(crate) struct Released {
    pub(crate) batch: Batch,
    /// The queues, each once.
    pub(crate) places: Vec<Place>,
}

impl Released {
    /// Adds a stored message as `change` makes it, for the queue that its properties name. One that no queue can
    /// take any more is told of and left out: nothing would ever bring it on.
    pub(crate) fn add<'a>(
        &mut self,
        broker: &Broker,
        record: &Record<'a>,
        properties: &'a [u8],
        change: impl FnOnce(Message<'a>) -> Message<'a>,
    ) {
        let message = change(Message { properties, store_host: broker.host, ..record.message() });
        let pushed = self.push(broker, properties, &message);
        if let Err(reason) = pushed {
            let log_offset = record.log_offset;
            tracing::warn!(topic = record.topic, log_offset, %reason, "a message can not be brought to its queue, and is left out");
        }
    }

    /// Adds a message for the queue that its properties name, or says why it can not be there.
    pub(crate) fn push(
        &mut self,
        broker: &Broker,
        properties: &[u8],
        message: &Message<'_>,
    ) -> Result<(), Cow<'static, str>> {
        let (topic, queue) = real(properties).ok_or("its properties name none")?;
        let known = broker.store.topic(&topic);
        if known.is_none_or(|known| queue.index() >= known.queues as usize) {
            return Err(format!("queue {queue} of topic {topic} does not exist").into());
        }
        self.batch.push(&topic, queue, message).map_err(|error| error.to_string())?;
        let place = (topic, queue);
        if !self.places.contains(&place) {
            self.places.push(place);
        }
        Ok(())
    }
}

/// The queue that a diverted message is for.
pub(crate) fn real(properties: &[u8]) -> Option<Place> {
    let topic = TopicName::stored(message::property(properties, REAL_TOPIC)?).ok()?;
    let queue = QueueId::new(message::property(properties, REAL_QUEUE_ID)?.parse().ok()?).ok()?;
    Some((topic, queue))
}

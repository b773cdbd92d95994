//! Delay levels: a task for each brings messages to their queues when their time has come.
//!
//! All messages of a level wait equally long, so its queue is in the order of delivery: only its head is ever looked
//! at, however many wait, and one offset says after a restart where to go on. It is kept with what it delivers, both or
//! neither, so that no crash delivers twice. A clock that is set back holds a message up for a second more at most.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_protocol::delay::{Level, TOPIC};
use sluice_protocol::id::{QueueId, QueueOffset, TopicName};
use sluice_protocol::record;
use sluice_store::{Error as StoreError, With};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::broker::Broker;
use crate::divert::Released;
use crate::topic::own_topic;

/// Bytes of messages that are delivered together.
const READ_BYTES: usize = 1 << 20;
/// The clock is looked at again after so long at most: someone may set it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a queue of waiting messages has to do next.
pub(crate) enum Next {
    /// More is due.
    Now,
    /// Its first message is due in so many ms.
    In(i64),
    /// The same, unless something arrives that may be due before.
    InOrSooner(i64),
    /// Nothing waits.
    Never,
}

/// Starts the tasks.
pub(crate) fn start(broker: &Arc<Broker>, stop: &watch::Receiver<bool>, tasks: &mut JoinSet<()>) {
    let topic = own_topic(TOPIC);
    // Those of levels that are no more may hold messages, too.
    let queues = broker.store.topic(&topic).map_or(0, |topic| topic.queues);
    for queue in QueueId::all(queues) {
        let level = broker.store.delay_levels().of_queue(queue);
        let (broker, topic) = (Arc::clone(broker), topic.clone());
        let arrivals = broker.long_poll.arrivals(&topic, level.queue());
        let behind = Arc::new(Mutex::default());
        let step = move || {
            let mut behind = behind.lock().unwrap_or_else(PoisonError::into_inner);
            broker.deliver_level(&topic, level, &mut behind)
        };
        tasks.spawn(repeat("delayed messages", arrivals, stop.clone(), step));
    }
}

/// Runs `step` on a thread that may block, again and again as it says.
pub(crate) async fn repeat(
    what: &'static str,
    arrivals: Arc<tokio::sync::Notify>,
    mut stop: watch::Receiver<bool>,
    step: impl Fn() -> Result<Next, StoreError> + Clone + Send + 'static,
) {
    while !*stop.borrow() {
        let arrived = arrivals.notified();
        tokio::pin!(arrived);
        // Listen before looking, or what comes between is missed.
        arrived.as_mut().enable();
        let next = match tokio::task::spawn_blocking(step.clone()).await {
            Ok(Ok(next)) => next,
            Ok(Err(StoreError::Closed { .. } | StoreError::Poisoned { .. })) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::warn!(%error, "{what} can not be delivered, trying again");
                Next::In(1000)
            }
        };
        let wait = match next {
            Next::Now => continue,
            Next::In(ms) | Next::InOrSooner(ms) => {
                Some(Duration::from_millis(ms.unsigned_abs()).min(LOOK_AGAIN))
            }
            Next::Never => None,
        };
        let listen = !matches!(next, Next::In(_));
        tokio::select! {
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            () = arrived, if listen => {}
            _ = stop.changed() => {}
        }
    }
}

/// For as long as the clock is behind the times of what waits, because it was set back: ends of the level's queue as they
/// were seen, each with the instant at which what is below it has waited as long as its level.
#[derive(Default)]
struct Behind(VecDeque<(QueueOffset, Instant)>);

impl Behind {
    /// How long the message at an offset has to wait yet, in ms.
    fn wait(&mut self, level: Level, at: QueueOffset, end: QueueOffset) -> i64 {
        let (now, whole) = (Instant::now(), Duration::from_millis(level.ms().unsigned_abs()));
        if self.0.back().is_none_or(|(seen, _)| *seen < end) {
            self.0.push_back((end, now + whole));
        }
        while self.0.front().is_some_and(|(seen, _)| *seen <= at) {
            self.0.pop_front();
        }
        let left = self.0.front().map_or(whole, |(_, due)| due.saturating_duration_since(now));
        i64::try_from(left.as_millis()).unwrap_or(i64::MAX)
    }
}

impl Broker {
    /// Delivers what of a level is due.
    fn deliver_level(
        &self,
        topic: &TopicName,
        level: Level,
        behind: &mut Behind,
    ) -> Result<Next, StoreError> {
        let Some((first, end)) = self.store.offsets(topic, level.queue()) else { return Ok(Next::Never) };
        let from = self.store.delay_offset(level).unwrap_or(first).clamp(first, end);
        if from == end {
            behind.0.clear();
            return Ok(Next::Never);
        }
        let read = match self.store.read_records(topic, level.queue(), from, READ_BYTES, usize::MAX) {
            // Retention passed it meanwhile.
            Err(StoreError::Expired { .. }) => return Ok(Next::Now),
            read => read?,
        };
        let now = self.store.now_ms()?;
        let (mut next, mut later) = (read.next, None);
        let mut released = Released::default();
        for record in read.runs.iter().flat_map(|run| record::records(&run.bytes)).map_while(Result::ok) {
            let at = QueueOffset::new(record.queue_offset);
            let mut wait = record.store_timestamp_ms.saturating_add(level.ms()).saturating_sub(now);
            if wait > level.ms() {
                wait = behind.wait(level, at, end);
            }
            if wait > 0 {
                (next, later) = (at, Some(wait));
                break;
            }
            released.add(self, &record, record.properties, |message| message);
        }
        if next > from {
            let Released { batch, places } = released;
            let (_, ticket) = self.store.append_with(batch, &With::Delivered { level, next })?;
            if self.sync {
                self.store.durable(ticket)?;
            }
            self.long_poll.arrived_at(&places);
        }
        Ok(later.map_or(Next::Now, Next::In))
    }
}

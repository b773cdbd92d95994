//! Who waits for messages of which queue, and how many wait for each connection and group.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sluice_protocol::delay;
use sluice_protocol::id::{GroupName, QueueId, TopicName};
use tokio::sync::Notify;

use crate::metrics::Present;
use crate::send::Place;

/// Pulls that are held for one connection; a client holds one for each queue.
const HELD_MAX: usize = 20_000;

/// Who waits, by queue.
type Waiting = Mutex<HashMap<(TopicName, QueueId), Weak<Notify>>>;

/// Arrivals by queue, and held pulls by connection.
#[derive(Default)]
pub(crate) struct LongPoll {
    queues: Waiting,
    /// The queues of messages that come later, at which the broker itself always waits: apart, so that an arrival
    /// elsewhere costs nothing as long as no client waits.
    later: Waiting,
    /// Who waits for messages in any queue of a topic.
    topics: Mutex<HashMap<TopicName, Weak<Notify>>>,
    held: Counts<u64>,
    pops: Counts<Pops>,
}

/// Group, topic and queue of pops that wait; no queue for those that wait at all of them.
type Pops = (GroupName, TopicName, Option<QueueId>);

/// How many there are of each.
type Counts<K> = Arc<Mutex<HashMap<K, usize>>>;

/// One of them, counted as long as it lives.
pub(crate) struct Counted<K: Eq + Hash> {
    key: K,
    counts: Counts<K>,
}

impl<K: Eq + Hash> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.key)),
        }
    }
}

/// Counts one more; `None` if there are `max` already.
fn count<K: Clone + Eq + Hash>(counts: &Counts<K>, key: K, max: usize) -> Option<Counted<K>> {
    let mut table = counts.lock().unwrap_or_else(PoisonError::into_inner);
    let number = table.entry(key.clone()).or_default();
    if *number >= max {
        return None;
    }
    *number += 1;
    Some(Counted { key, counts: Arc::clone(counts) })
}

/// One held pull.
pub(crate) struct Held {
    _counted: Counted<u64>,
    _present: Present,
}

impl LongPoll {
    /// Counts a held pull of a connection; `None` if it has too many.
    pub(crate) fn hold(&self, outlet: u64) -> Option<Held> {
        let counted = count(&self.held, outlet, HELD_MAX)?;
        Some(Held { _counted: counted, _present: Present::held_pull() })
    }

    /// Counts a held pop, see [`LongPoll::held_pops`].
    pub(crate) fn hold_pop(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: Option<QueueId>,
    ) -> Option<Counted<Pops>> {
        count(&self.pops, (group.clone(), topic.clone(), queue), usize::MAX)
    }

    /// How many pops of a group are held at a queue, or without one at all queues at once.
    pub(crate) fn held_pops(&self, group: &GroupName, topic: &TopicName, queue: Option<QueueId>) -> usize {
        let table = self.pops.lock().unwrap_or_else(PoisonError::into_inner);
        table.get(&(group.clone(), topic.clone(), queue)).copied().unwrap_or(0)
    }

    fn waiting(&self, topic: &TopicName) -> &Waiting {
        if matches!(topic.as_str(), delay::TOPIC | delay::TIMER_TOPIC) { &self.later } else { &self.queues }
    }

    /// What tells of messages that arrive in a queue.
    pub(crate) fn arrivals(&self, topic: &TopicName, queue: QueueId) -> Arc<Notify> {
        let mut queues = self.waiting(topic).lock().unwrap_or_else(PoisonError::into_inner);
        waiting_at(&mut queues, (topic.clone(), queue))
    }

    /// What tells of messages that arrive in any queue of a topic.
    pub(crate) fn arrivals_of(&self, topic: &TopicName) -> Arc<Notify> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        waiting_at(&mut topics, topic.clone())
    }

    /// Messages of these queues can be read.
    pub(crate) fn arrived_at(&self, places: &[Place]) {
        places.iter().for_each(|(topic, queue)| self.arrived(topic, *queue));
    }

    /// Messages of a queue can be read.
    pub(crate) fn arrived(&self, topic: &TopicName, queue: QueueId) {
        let queues = self.waiting(topic).lock().unwrap_or_else(PoisonError::into_inner);
        let waiting =
            (!queues.is_empty()).then(|| queues.get(&(topic.clone(), queue)).and_then(Weak::upgrade));
        drop(queues);
        let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let of_all = topics.get(topic).and_then(Weak::upgrade);
        drop(topics);
        waiting.flatten().into_iter().chain(of_all).for_each(|waiting| waiting.notify_waiters());
    }
}

/// What tells of arrivals at one place, made where nobody waits yet.
fn waiting_at<K: Eq + Hash>(places: &mut HashMap<K, Weak<Notify>>, place: K) -> Arc<Notify> {
    if let Some(there) = places.get(&place).and_then(Weak::upgrade) {
        return there;
    }
    if places.len() >= 1024 && places.len() == places.capacity() {
        places.retain(|_, waiting| waiting.strong_count() > 0);
    }
    let made = Arc::new(Notify::new());
    places.insert(place, Arc::downgrade(&made));
    made
}

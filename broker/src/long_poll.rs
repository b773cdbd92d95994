//! Who waits for messages of which queue, and how many wait for each connection.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sluice_protocol::delay;
use sluice_protocol::id::{QueueId, TopicName};
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
    held: Arc<Mutex<HashMap<u64, usize>>>,
}

/// One held pull, counted as long as it lives.
pub(crate) struct Held {
    outlet: u64,
    counts: Arc<Mutex<HashMap<u64, usize>>>,
    _present: Present,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.outlet) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.outlet)),
        }
    }
}

impl LongPoll {
    /// Counts a held pull of a connection; `None` if it has too many.
    pub(crate) fn hold(&self, outlet: u64) -> Option<Held> {
        let mut counts = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(outlet).or_default();
        if *count >= HELD_MAX {
            return None;
        }
        *count += 1;
        Some(Held { outlet, counts: Arc::clone(&self.held), _present: Present::held_pull() })
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

//! Messages that groups were handed by pops and have not acknowledged: nobody else gets them before their time is over.
//!
//! The store keeps them ([`sluice_store::Leases`]); here they stand with the instant at which each can be handed out
//! again, which no clock that is set moves. After a restart they have left what the clock says, but never more than they
//! were given.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluice_protocol::id::{GroupName, QueueId, QueueOffset, TopicName};
use sluice_store::{Error as StoreError, Lease, LeaseChange, Leases, Store};
use tokio::time::Instant;

use crate::send::Place;

/// Messages of a queue that a group may hold.
const QUEUE_MAX: usize = 10_000;
/// Messages that all groups may hold.
const ALL_MAX: usize = 200_000;

/// What each group holds, by queue.
type Queues = HashMap<(GroupName, Place), Arc<Mutex<HeldQueue>>>;

/// What all groups hold.
pub(crate) struct Held {
    queues: Mutex<Queues>,
    count: Arc<AtomicUsize>,
    handle: AtomicI32,
}

/// What a group holds of a queue.
pub(crate) struct HeldQueue {
    /// First queue offset that was never handed out; unknown until the group's first pop, and after a reset.
    pub(crate) next: Option<i64>,
    open: BTreeMap<i64, (Lease, Instant)>,
    /// When they can be handed out again, and their queue offsets.
    due: BTreeSet<(Instant, i64)>,
    /// Whether a pop got nothing because others hold what it wants.
    pub(crate) awaited: bool,
    count: Arc<AtomicUsize>,
}

impl Held {
    /// What the store says is held.
    pub(crate) fn load(store: &Store, now_ms: i64) -> Self {
        // From where it counts it does not come to a number that an answer before the restart told.
        let handle = AtomicI32::new(i32::try_from(now_ms & 0x3FFF_FFFF).unwrap_or(0));
        let this = Self { queues: Mutex::default(), count: Arc::default(), handle };
        let now = Instant::now();
        for (group, topic, queue, leases) in store.leases() {
            let Leases { next, open } = leases;
            let held = this.queue(&group, &topic, queue);
            let mut held = lock(&held);
            let left = |lease: &Lease| {
                let given = lease.until_ms.saturating_sub(lease.popped_ms).max(0);
                let left = lease.until_ms.saturating_sub(now_ms).clamp(0, given);
                Duration::from_millis(left.unsigned_abs())
            };
            let due = open.into_iter().map(|(offset, lease)| (offset, lease, now + left(&lease)));
            held.change(next, due.collect(), &[]);
        }
        let count = this.count.load(Ordering::Relaxed);
        if count > 0 {
            tracing::info!(
                messages = count,
                "messages that were popped before wait for their acknowledgement"
            );
        }
        this
    }

    /// Tells the leases of one answer from those of others.
    pub(crate) fn handle(&self) -> i32 {
        self.handle.fetch_add(1, Ordering::Relaxed) & i32::MAX
    }

    fn table(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A group's part of a queue.
    pub(crate) fn queue(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: QueueId,
    ) -> Arc<Mutex<HeldQueue>> {
        let made = || {
            let count = Arc::clone(&self.count);
            let (open, due) = (BTreeMap::new(), BTreeSet::new());
            Arc::new(Mutex::new(HeldQueue { next: None, open, due, awaited: false, count }))
        };
        Arc::clone(self.table().entry((group.clone(), (topic.clone(), queue))).or_insert_with(made))
    }

    /// The same, if the group ever popped from it.
    pub(crate) fn known(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: QueueId,
    ) -> Option<Arc<Mutex<HeldQueue>>> {
        self.table().get(&(group.clone(), (topic.clone(), queue))).map(Arc::clone)
    }

    /// Runs what sets a group's committed offset by another way: what it holds of the queue counts no more.
    pub(crate) fn reset(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: QueueId,
        commit: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let Some(held) = self.known(group, topic, queue) else { return commit() };
        let mut held = lock(&held);
        commit()?;
        held.forget();
        Ok(())
    }

    /// Forgets what was held of a topic, or by a group.
    pub(crate) fn remove(&self, gone: impl Fn(&GroupName, &TopicName) -> bool) {
        let mut table = self.table();
        let removed: Vec<_> = table.extract_if(|(group, (topic, _)), _| gone(group, topic)).collect();
        drop(table);
        for (_, held) in removed {
            lock(&held).forget();
        }
    }

    /// Drops the queues of which nothing is held: the committed offset says all of them.
    pub(crate) fn expire(&self) {
        self.table().retain(|_, held| Arc::strong_count(held) > 1 || !lock(held).open.is_empty());
    }
}

/// Each change is whole once the store has taken it.
pub(crate) fn lock(held: &Mutex<HeldQueue>) -> MutexGuard<'_, HeldQueue> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HeldQueue {
    /// How many more messages the group may hold.
    pub(crate) fn room(&self) -> usize {
        let all = ALL_MAX.saturating_sub(self.count.load(Ordering::Relaxed));
        QUEUE_MAX.saturating_sub(self.open.len()).min(all)
    }

    /// Whether it holds any.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// At most `max` messages whose time is over, in the order of their offsets.
    pub(crate) fn over(&self, now: Instant, max: usize) -> Vec<i64> {
        let over = self.due.range(..=(now, i64::MAX)).take(max);
        let mut offsets: Vec<i64> = over.map(|(_, offset)| *offset).collect();
        offsets.sort_unstable();
        offsets
    }

    /// When the first message can be handed out again.
    pub(crate) fn first_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// When the last one can.
    pub(crate) fn last_due(&self) -> Option<Instant> {
        self.due.last().map(|(due, _)| *due)
    }

    /// Messages below a queue offset, at most `max`.
    pub(crate) fn below(&self, first: i64, max: usize) -> Vec<i64> {
        self.open.range(..first).take(max).map(|(offset, _)| *offset).collect()
    }

    pub(crate) fn lease(&self, offset: i64) -> Option<Lease> {
        self.open.get(&offset).map(|(lease, _)| *lease)
    }

    /// Makes a change that the store has taken; the leases are begun at `now`.
    pub(crate) fn apply(&mut self, change: &LeaseChange, now: Instant) {
        let begun = change.begun.iter().map(|(offset, lease)| {
            let given = lease.until_ms.saturating_sub(lease.popped_ms).max(0);
            (*offset, *lease, now + Duration::from_millis(given.unsigned_abs()))
        });
        self.change(change.next, begun.collect(), &change.ended);
    }

    fn change(&mut self, next: i64, begun: Vec<(i64, Lease, Instant)>, ended: &[i64]) {
        self.next = Some(next);
        for (offset, lease, due) in begun {
            match self.open.insert(offset, (lease, due)) {
                Some((_, before)) => drop(self.due.remove(&(before, offset))),
                None => drop(self.count.fetch_add(1, Ordering::Relaxed)),
            }
            self.due.insert((due, offset));
        }
        for offset in ended {
            if let Some((_, due)) = self.open.remove(offset) {
                self.due.remove(&(due, *offset));
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Knows nothing any more; the committed offset says where the group is.
    fn forget(&mut self) {
        self.count.fetch_sub(self.open.len(), Ordering::Relaxed);
        self.open.clear();
        self.due.clear();
        self.next = None;
    }
}

impl Drop for HeldQueue {
    fn drop(&mut self) {
        self.count.fetch_sub(self.open.len(), Ordering::Relaxed);
    }
}

/// First queue offset that was never handed out to a group, if it pops.
pub(crate) fn next_of(
    held: &Held,
    group: &GroupName,
    topic: &TopicName,
    queue: QueueId,
) -> Option<QueueOffset> {
    lock(&*held.known(group, topic, queue)?).next.map(QueueOffset::new)
}

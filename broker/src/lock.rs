//! Queue locks, by which one client of a group at a time consumes a queue in order: codes 41 and 42.
//!
//! A client renews its locks every 20 s. They end 60 s after the last renewal, when they are given back, and at once
//! when the client leaves its group or its connection ends. Kept in memory: after a restart the clients ask again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluice_protocol::id::{GroupName, QueueId, TopicName};
use sluice_protocol::queue::{LockBatch, LockedBatch, MessageQueue};
use tokio::time::Instant;

use crate::broker::Broker;
use crate::dispatch::Request;
use crate::reply::Reply;
use crate::send::Place;

/// How long a lock is held without a renewal; a client itself trusts it for half of that.
const HELD_FOR: Duration = Duration::from_secs(60);

/// Who holds which queue, by group.
#[derive(Default)]
pub(crate) struct Locks(Mutex<HashMap<GroupName, HashMap<Place, Holder>>>);

struct Holder {
    client_id: String,
    /// The connection that it asked by, which may not have sent a heartbeat yet.
    outlet: u64,
    until: Instant,
}

impl Locks {
    fn table(&self) -> MutexGuard<'_, HashMap<GroupName, HashMap<Place, Holder>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes or renews the lock of a queue; whether the client holds it now.
    fn take(&self, group: &GroupName, client_id: &str, outlet: u64, place: Place, now: Instant) -> bool {
        let until = now + HELD_FOR;
        let mut table = self.table();
        let holders = table.entry(group.clone()).or_default();
        let made = || Holder { client_id: client_id.to_owned(), outlet, until };
        let holder = holders.entry(place).or_insert_with(made);
        if holder.client_id != client_id {
            if holder.until > now {
                return false;
            }
            tracing::info!(%group, client = client_id, before = holder.client_id, "took a queue lock that was not renewed");
            client_id.clone_into(&mut holder.client_id);
        }
        (holder.outlet, holder.until) = (outlet, until);
        true
    }

    /// Whether anyone of the group holds a queue: then it consumes in order.
    pub(crate) fn are_held(&self, group: &GroupName, now: Instant) -> bool {
        self.table().get(group).is_some_and(|holders| holders.values().any(|holder| holder.until > now))
    }

    /// Gives back what a client holds: all of it, or some queues.
    pub(crate) fn release(&self, group: &GroupName, client_id: &str, places: Option<&[Place]>) {
        let mut table = self.table();
        let Some(holders) = table.get_mut(group) else { return };
        holders.retain(|place, holder| {
            holder.client_id != client_id || places.is_some_and(|places| !places.contains(place))
        });
        if holders.is_empty() {
            table.remove(group);
        }
    }

    /// Gives back what was asked for by a connection that ended.
    pub(crate) fn left(&self, outlet: u64) {
        self.keep(|holder| holder.outlet != outlet);
    }

    /// Drops the locks that nobody renewed.
    pub(crate) fn expire(&self, now: Instant) {
        self.keep(|holder| holder.until > now);
    }

    fn keep(&self, is_kept: impl Fn(&Holder) -> bool) {
        self.table().retain(|_, holders| {
            holders.retain(|_, holder| is_kept(holder));
            !holders.is_empty()
        });
    }
}

impl Broker {
    pub(crate) fn lock_queues(&self, request: &Request<'_>, outlet: u64) -> Result<Reply, Reply> {
        let asked = LockBatch::decode(request.body)?;
        let group = GroupName::new(&asked.consumer_group)?;
        let now = Instant::now();
        let locked = asked.mq_set.into_iter().filter(|queue| {
            // Only a queue that is there, so that no client can fill the table.
            let place = self.place_of(queue).filter(|(topic, id)| self.store.offsets(topic, *id).is_some());
            place.is_some_and(|place| self.groups.locks.take(&group, &asked.client_id, outlet, place, now))
        });
        Ok(Reply::body(LockedBatch { lock_ok_mq_set: locked.collect() }.encode()))
    }

    pub(crate) fn unlock_queues(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = LockBatch::decode(request.body)?;
        let group = GroupName::new(&asked.consumer_group)?;
        let places: Vec<Place> = asked.mq_set.iter().filter_map(|queue| self.place_of(queue)).collect();
        self.groups.locks.release(&group, &asked.client_id, Some(&places));
        Ok(Reply::ok())
    }

    /// The queue that a client names, if it is one of this broker.
    fn place_of(&self, queue: &MessageQueue) -> Option<Place> {
        let ours = queue.broker_name == self.settings.name;
        let place = (TopicName::new(&queue.topic).ok()?, QueueId::new(queue.queue_id).ok()?);
        ours.then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(queue: i32) -> Place {
        (TopicName::new("t").unwrap(), QueueId::new(queue).unwrap())
    }

    #[test]
    fn a_lock_ends_when_nobody_renews_it() {
        let (locks, group) = (Locks::default(), GroupName::new("g").unwrap());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(locks.take(&group, "one", 1, place(0), start));
        assert!(
            !locks.take(&group, "two", 2, place(0), at(59)) && locks.take(&group, "two", 2, place(1), at(59))
        );
        assert!(locks.take(&group, "one", 1, place(0), at(59)));
        assert!(!locks.take(&group, "two", 2, place(0), at(118)) && locks.are_held(&group, at(118)));
        assert!(!locks.are_held(&group, at(120)));
        assert!(locks.take(&group, "two", 2, place(0), at(120)));
        assert!(!locks.take(&group, "one", 1, place(0), at(120)));
        locks.expire(at(121));
        assert!(locks.are_held(&group, at(121)));
    }

    #[test]
    fn what_one_holds_only_that_one_gives_back() {
        let (locks, group, now) = (Locks::default(), GroupName::new("g").unwrap(), Instant::now());
        let take = |client, queue| locks.take(&group, client, u64::from(client == "two"), place(queue), now);
        assert!(take("one", 0) && take("one", 1) && take("two", 2));
        locks.release(&group, "two", Some(&[place(0)]));
        assert!(!take("two", 0));
        locks.release(&group, "one", Some(&[place(0)]));
        assert!(take("two", 0) && !take("two", 1));
        locks.release(&group, "one", None);
        assert!(take("two", 1));
        locks.release(&group, "two", None);
        assert!(!locks.are_held(&group, now) && locks.table().is_empty());
        assert!(take("one", 0) && take("two", 1));
        locks.left(0);
        assert!(take("two", 0) && !take("one", 1));
    }
}

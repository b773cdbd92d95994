//! Messages that groups were handed by pops and have not acknowledged.
//!
//! Of a queue a group keeps the first offset that was never handed out, and the leases of those before it that are not
//! acknowledged; all others are consumed. The first of them is the group's committed offset, so that a group without
//! leases is its committed offset and nothing else. `sluice/leases.json` is written by checkpoints:
//! `{"TopicTest@CG":{"0":{"next":9,"open":{"7":{…}}}}}`. Never writes a file; the checkpoint does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sluice_protocol::id::{GroupName, QueueId, TopicName};

/// A message that a group was handed and has not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// When it was handed out last, in ms since 1970-01-01 UTC.
    pub popped_ms: i64,
    /// With that time, tells it from other leases of the message.
    pub handle: i32,
    /// When the message may be handed out again, in ms since 1970-01-01 UTC.
    pub until_ms: i64,
    /// How often it was handed out.
    pub times: i32,
}

/// What of a queue a group was handed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    /// First queue offset that was never handed out.
    pub next: i64,
    /// By queue offset, those that are not acknowledged.
    pub open: BTreeMap<i64, Lease>,
}

/// A change of the leases of a group in a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseChange {
    /// First queue offset that was never handed out, from now on.
    pub next: i64,
    /// Queue offsets that were handed out, with their leases; in place of those that they had.
    pub begun: Vec<(i64, Lease)>,
    /// Queue offsets of messages that are consumed.
    pub ended: Vec<i64>,
}

impl Leases {
    /// Makes a change.
    pub fn change(&mut self, change: &LeaseChange) {
        self.next = change.next;
        self.open.extend(change.begun.iter().copied());
        for offset in &change.ended {
            self.open.remove(offset);
        }
    }

    /// The group's committed offset: the first message that is not consumed.
    pub fn committed(&self) -> i64 {
        self.open.keys().next().copied().map_or(self.next, |first| first.min(self.next))
    }
}

/// The leases of all groups, by topic and group, then by queue id; those without any are left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeaseTable {
    table: BTreeMap<String, BTreeMap<i32, Leases>>,
    /// Whether the file must be written again.
    pub(crate) changed: bool,
}

impl LeaseTable {
    /// The table in the text of the file.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let table = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Ok(Self { table, changed: false })
    }

    /// The text of the file.
    pub(crate) fn to_json(&self) -> String {
        // Numbers and names always have a text.
        serde_json::to_string(&self.table).unwrap_or_default()
    }

    /// Makes a change, and gives the offset that the group has committed by it.
    pub(crate) fn change(
        &mut self,
        group: &GroupName,
        topic: &TopicName,
        queue: i32,
        change: &LeaseChange,
    ) -> i64 {
        let key = key(group, topic);
        let queues = self.table.entry(key.clone()).or_default();
        let leases = queues.entry(queue).or_default();
        leases.change(change);
        let committed = leases.committed();
        if leases.open.is_empty() {
            queues.remove(&queue);
            if queues.is_empty() {
                self.table.remove(&key);
            }
        }
        self.changed = true;
        committed
    }

    /// Forgets the leases of a group in a queue.
    pub(crate) fn forget(&mut self, group: &GroupName, topic: &TopicName, queue: i32) {
        if self.table.is_empty() {
            return;
        }
        if let Some(queues) = self.table.get_mut(&key(group, topic)) {
            self.changed |= queues.remove(&queue).is_some();
        }
    }

    /// Forgets the leases in a topic.
    pub(crate) fn remove_topic(&mut self, topic: &str) {
        self.remove(|(name, _)| name == topic);
    }

    /// Forgets the leases of a group.
    pub(crate) fn remove_group(&mut self, group: &str) {
        self.remove(|(_, name)| name == group);
    }

    fn remove(&mut self, gone: impl Fn((&str, &str)) -> bool) {
        let before = self.table.len();
        self.table.retain(|key, _| !key.split_once('@').is_some_and(&gone));
        self.changed |= self.table.len() < before;
    }

    /// Drops the leases of messages beyond the end of their queue, as `end` tells it for a topic and queue id.
    pub(crate) fn clamp(&mut self, end: impl Fn(&str, i32) -> Option<i64>) {
        for (key, queues) in &mut self.table {
            let topic = key.split_once('@').map_or(key.as_str(), |(topic, _)| topic);
            for (&queue, leases) in queues {
                let Some(end) = end(topic, queue).filter(|end| leases.next > *end) else { continue };
                tracing::warn!(topic, queue_id = queue, queue_offset = leases.next, end, "took leases back");
                leases.next = end;
                leases.open.retain(|offset, _| *offset < end);
                self.changed = true;
            }
        }
    }

    /// Forgets the leases of groups that have committed something else: another broker served them meanwhile.
    pub(crate) fn settle(&mut self, committed: impl Fn(&GroupName, &TopicName, i32) -> Option<i64>) {
        for (group, topic, queue, leases) in self.all() {
            if leases.open.is_empty() || committed(&group, &topic, queue.get()) != Some(leases.committed()) {
                self.forget(&group, &topic, queue.get());
            }
        }
    }

    /// All that have leases.
    pub(crate) fn all(&self) -> Vec<(GroupName, TopicName, QueueId, Leases)> {
        let of_key = |(key, queues): (&String, &BTreeMap<i32, Leases>)| {
            let (topic, group) = key.split_once('@')?;
            let (topic, group) = (TopicName::stored(topic).ok()?, GroupName::new(group).ok()?);
            let queues =
                queues.iter().filter_map(|(id, leases)| Some((QueueId::new(*id).ok()?, leases.clone())));
            Some(
                queues
                    .map(move |(id, leases)| (group.clone(), topic.clone(), id, leases))
                    .collect::<Vec<_>>(),
            )
        };
        self.table.iter().filter_map(of_key).flatten().collect()
    }
}

fn key(group: &GroupName, topic: &TopicName) -> String {
    format!("{topic}@{group}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(times: i32) -> Lease {
        Lease { popped_ms: 100, handle: 1, until_ms: 160, times }
    }

    fn names() -> (GroupName, TopicName) {
        (GroupName::new("g").unwrap(), TopicName::new("t").unwrap())
    }

    #[test]
    fn the_first_message_that_is_not_consumed_is_committed() {
        let (group, topic) = names();
        let mut table = LeaseTable::default();
        let mut change = |next, begun: &[i64], ended: &[i64]| {
            let begun = begun.iter().map(|offset| (*offset, lease(1))).collect();
            table.change(&group, &topic, 0, &LeaseChange { next, begun, ended: ended.to_vec() })
        };
        assert_eq!(change(5, &[0, 1, 4], &[]), 0);
        assert_eq!(change(5, &[], &[1]), 0);
        assert_eq!(change(8, &[6], &[0]), 4);
        assert_eq!(change(8, &[4], &[]), 4);
        assert_eq!(change(8, &[], &[4, 6, 7]), 8);
        assert!(table.all().is_empty(), "a committed offset says it all");
    }

    #[test]
    fn the_file_holds_what_is_open_and_nothing_beyond_the_end_of_a_queue() {
        let (group, topic) = names();
        let mut table = LeaseTable::default();
        let begun = vec![(3, lease(1)), (7, lease(2))];
        table.change(&group, &topic, 2, &LeaseChange { next: 9, begun, ended: Vec::new() });
        let mut read = LeaseTable::parse(&table.to_json()).unwrap();
        assert_eq!(read.all(), table.all());
        read.clamp(|_, _| Some(5));
        read.settle(|_, _, _| Some(3));
        let (.., leases) = read.all().remove(0);
        assert_eq!((leases.next, leases.open.keys().copied().collect::<Vec<_>>()), (5, vec![3]));
        read.remove_group("other");
        assert_eq!(read.all().len(), 1);
        let mut served = read.clone();
        served.settle(|_, _, _| Some(4));
        assert!(served.all().is_empty(), "another broker went on");
        read.remove_topic("t");
        assert!(read.all().is_empty() && read.changed);
    }
}

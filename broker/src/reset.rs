//! Where a group shall go on, set by an administrator: code 222.
//!
//! The offsets are committed at once. A member that pulls from elsewhere is told where to go on, once, and what it
//! commits before that is passed over, so that it can not undo the reset.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sluice_protocol::code::ResponseCode;
use sluice_protocol::id::{GroupName, QueueId, QueueOffset, TopicName};
use sluice_protocol::queue::ResetOffsets;
use sluice_protocol::request;

use crate::broker::Broker;
use crate::dispatch::Request;
use crate::reply::{Reply, no_group, no_topic};

/// The resets that members have not heard of.
#[derive(Default)]
pub(crate) struct Resets {
    queues: Mutex<HashMap<(GroupName, TopicName, QueueId), i64>>,
    /// Their number, so that a pull looks at nothing else where there are none.
    count: AtomicUsize,
}

impl Resets {
    fn lock(&self) -> MutexGuard<'_, HashMap<(GroupName, TopicName, QueueId), i64>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, group: &GroupName, topic: &TopicName, queue: QueueId, offset: i64) {
        let mut queues = self.lock();
        queues.insert((group.clone(), topic.clone(), queue), offset);
        self.count.store(queues.len(), Ordering::Release);
    }

    /// Where a member shall go on that has not heard of a reset.
    pub(crate) fn take(&self, group: &GroupName, topic: &TopicName, queue: QueueId) -> Option<i64> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut queues = self.lock();
        let taken = queues.remove(&(group.clone(), topic.clone(), queue));
        self.count.store(queues.len(), Ordering::Release);
        taken
    }

    /// Whether a member has not heard of a reset.
    pub(crate) fn is_pending(&self, group: &GroupName, topic: &TopicName, queue: QueueId) -> bool {
        self.count.load(Ordering::Acquire) > 0
            && self.lock().contains_key(&(group.clone(), topic.clone(), queue))
    }
}

impl Broker {
    /// Sets a group's offsets in a topic to a time, or one of them to an offset.
    pub(crate) fn reset_offset(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::ResetOffset::parse(&request.header.fields)?;
        let (topic, group) = (TopicName::new(asked.topic)?, GroupName::new(asked.group)?);
        let known = self.store.topic(&topic).ok_or_else(|| no_topic(&topic))?;
        if self.groups.settings(&group).is_none() {
            return Err(no_group(&group));
        }
        let queues: Vec<QueueId> = match asked.queue_id.filter(|queue| *queue >= 0) {
            Some(queue) => vec![QueueId::new(queue)?],
            None => QueueId::all(known.access.read_queues).collect(),
        };
        let mut offset_table = BTreeMap::new();
        for queue in queues {
            let Some((first, end)) = self.store.offsets(&topic, queue) else {
                let remark =
                    format!("topic {topic} has {} queues, there is none with number {queue}", known.queues);
                return Err(Reply::refuse(ResponseCode::INVALID_PARAMETER, remark));
            };
            let wanted = match asked.offset.filter(|offset| *offset >= 0) {
                Some(offset) => QueueOffset::new(offset).clamp(first, end),
                None if asked.timestamp < 0 => end,
                None => self.store.offset_at(&topic, queue, asked.timestamp)?,
            };
            // Without force nothing is passed over that the group has not read.
            let committed = self.store.committed_offset(&group, &topic, queue);
            let offset = committed.filter(|at| !asked.is_force && *at < wanted).unwrap_or(wanted);
            let commit = || self.store.commit_offset(&group, &topic, queue, offset);
            self.held.reset(&group, &topic, queue, commit)?;
            self.resets.set(&group, &topic, queue, offset.get());
            offset_table.insert(self.named(&topic, queue), offset.get());
        }
        tracing::info!(%group, %topic, queues = offset_table.len(), timestamp = asked.timestamp, "offsets were reset");
        Ok(Reply::body(ResetOffsets { offset_table }.encode()))
    }
}

//! Offsets: what groups committed, and where queues begin and end; codes 14, 15, 29 to 32, 208.

use std::collections::BTreeMap;

use sluice_protocol::code::ResponseCode;
use sluice_protocol::id::{GroupName, QueueId, QueueOffset, TopicName};
use sluice_protocol::queue::{ConsumeOffset, ConsumeStats, MessageQueue};
use sluice_protocol::record::Record;
use sluice_protocol::{request, response};

use crate::broker::Broker;
use crate::dispatch::Request;
use crate::lease::next_of;
use crate::reply::{Reply, no_group};

/// A queue that begins so near to the log's end is young: a new group gets all of it, in bytes.
const YOUNG_BYTES: u64 = 1 << 30;

fn offset(offset: i64) -> Reply {
    Reply::fields(&response::Offset { offset }.fields())
}

impl Broker {
    pub(crate) fn query_offset(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::QueryConsumerOffset::parse(&request.header.fields)?;
        let (group, topic) = (GroupName::new(asked.consumer_group)?, TopicName::new(asked.topic)?);
        let queue = QueueId::new(asked.queue_id)?;
        if let Some(committed) = self.store.committed_offset(&group, &topic, queue) {
            return Ok(offset(committed.get()));
        }
        // A young queue counts from 0, or a new group would miss what came before its first heartbeat.
        let zero = asked.set_zero_if_not_found.unwrap_or(true) && self.is_young(&topic, queue);
        if zero {
            return Ok(offset(0));
        }
        let remark = format!("group {group} has no offset of queue {queue} of topic {topic}");
        Err(Reply::refuse(ResponseCode::QUERY_NOT_FOUND, remark))
    }

    /// Whether a queue still has its first message, and not for long.
    pub(crate) fn is_young(&self, topic: &TopicName, queue: QueueId) -> bool {
        self.store.offsets(topic, queue).is_some_and(|(first, _)| first.get() == 0)
            && self
                .first_log_offset(topic, queue)
                .is_none_or(|at| self.store.log_end().get().saturating_sub(at) < YOUNG_BYTES)
    }

    fn first_log_offset(&self, topic: &TopicName, queue: QueueId) -> Option<u64> {
        let read = self.store.read_records(topic, queue, QueueOffset::new(0), 1, 1).ok()?;
        read.runs.first().map(|run| run.log_offset.get())
    }

    pub(crate) fn commit_offset(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::UpdateConsumerOffset::parse(&request.header.fields)?;
        let (group, topic) = (GroupName::new(asked.consumer_group)?, TopicName::new(asked.topic)?);
        if asked.commit_offset < 0 {
            let remark = format!("offset {} is below 0", asked.commit_offset);
            return Err(Reply::refuse(ResponseCode::INVALID_PARAMETER, remark));
        }
        if self.groups.settings(&group).is_none() {
            return Err(no_group(&group));
        }
        let queue = QueueId::new(asked.queue_id)?;
        if self.resets.is_pending(&group, &topic, queue) {
            return Ok(Reply::ok());
        }
        self.commit(&group, &topic, queue, QueueOffset::new(asked.commit_offset))?;
        Ok(Reply::ok())
    }

    /// Keeps an offset; where messages are durable when they are acknowledged, offsets are too.
    pub(crate) fn commit(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: QueueId,
        offset: QueueOffset,
    ) -> Result<(), sluice_store::Error> {
        let commit =
            || self.held.reset(group, topic, queue, || self.store.commit_offset(group, topic, queue, offset));
        if self.sync { tokio::task::block_in_place(commit) } else { commit() }
    }

    pub(crate) fn max_offset(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::GetMaxOffset::parse(&request.header.fields)?;
        let ends = self.store.offsets(&TopicName::new(asked.topic)?, QueueId::new(asked.queue_id)?);
        Ok(offset(ends.map_or(0, |(_, end)| end.get())))
    }

    pub(crate) fn min_offset(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::GetMinOffset::parse(&request.header.fields)?;
        let ends = self.store.offsets(&TopicName::new(asked.topic)?, QueueId::new(asked.queue_id)?);
        Ok(offset(ends.map_or(0, |(first, _)| first.get())))
    }

    pub(crate) fn search_offset(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::SearchOffset::parse(&request.header.fields)?;
        let (topic, queue) = (TopicName::new(asked.topic)?, QueueId::new(asked.queue_id)?);
        let upper = asked.boundary_type.is_some_and(|kind| kind.eq_ignore_ascii_case("UPPER"));
        let time = if upper { asked.timestamp.saturating_add(1) } else { asked.timestamp };
        let mut found = self.store.offset_at(&topic, queue, time)?.get();
        if upper {
            // The last message of that time or before.
            let first = self.store.offsets(&topic, queue).map_or(0, |(first, _)| first.get());
            found = (found - 1).max(first);
        }
        Ok(offset(found))
    }

    pub(crate) fn earliest_time(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::GetEarliestMsgStoreTime::parse(&request.header.fields)?;
        let (topic, queue) = (TopicName::new(asked.topic)?, QueueId::new(asked.queue_id)?);
        let first = self.store.offsets(&topic, queue).map(|(first, _)| first);
        let timestamp = first.and_then(|first| self.stored_at(&topic, queue, first)).unwrap_or(-1);
        Ok(Reply::fields(&response::Timestamp { timestamp }.fields()))
    }

    /// A queue as bodies name it.
    pub(crate) fn named(&self, topic: &TopicName, queue: QueueId) -> MessageQueue {
        let broker_name = self.settings.name.clone();
        MessageQueue { broker_name, queue_id: queue.get(), topic: topic.to_string() }
    }

    /// When a message was stored, in ms since 1970-01-01 UTC.
    pub(crate) fn stored_at(&self, topic: &TopicName, queue: QueueId, at: QueueOffset) -> Option<i64> {
        let read = self.store.read_records(topic, queue, at, 1, 1).ok()?;
        let record = Record::decode(&read.runs.first()?.bytes).ok()?;
        Some(record.store_timestamp_ms)
    }

    /// How far a group is, in the topics that it committed offsets of or subscribes to.
    pub(crate) fn consume_stats(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::GetConsumeStats::parse(&request.header.fields)?;
        let group = GroupName::new(asked.consumer_group)?;
        let mut topics: Vec<TopicName> = Vec::new();
        match (asked.topic.filter(|topic| !topic.is_empty()), asked.topic_list) {
            (Some(topic), _) => topics.push(TopicName::new(topic)?),
            (None, Some(list)) if !list.is_empty() => {
                for topic in list.split(';').filter(|topic| !topic.is_empty()) {
                    topics.push(TopicName::new(topic)?);
                }
            }
            _ => topics.extend(self.store.topics().into_iter().map(|topic| topic.name)),
        }
        Ok(Reply::body(self.stats_of(&group, topics).encode()))
    }

    /// How far a group is in some topics, as far as it committed offsets there.
    pub(crate) fn stats_of(
        &self,
        group: &GroupName,
        topics: impl IntoIterator<Item = TopicName>,
    ) -> ConsumeStats {
        let mut offset_table = BTreeMap::new();
        for topic in topics {
            let Some(known) = self.store.topic(&topic) else { continue };
            for queue in QueueId::all(known.access.read_queues) {
                let Some(committed) = self.store.committed_offset(group, &topic, queue) else { continue };
                let end = self.store.offsets(&topic, queue).map_or(0, |(_, end)| end.get());
                let last = QueueOffset::new((committed.get() - 1).max(0));
                let state = ConsumeOffset {
                    broker_offset: end,
                    consumer_offset: committed.get(),
                    last_timestamp: self.stored_at(&topic, queue, last).unwrap_or(0),
                    pull_offset: next_of(&self.held, group, &topic, queue).unwrap_or(committed).get(),
                };
                offset_table.insert(self.named(&topic, queue), state);
            }
        }
        ConsumeStats { consume_tps: 0.0, offset_table }
    }
}

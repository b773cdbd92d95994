//! What administration tools ask for and set beyond what clients need: codes 18, 26, 207, 225, 303, 305, 306, 316, 317,
//! 321, 328, 329, 343 and 345.

use std::collections::{BTreeMap, BTreeSet};

use sluice_protocol::body::TopicList;
use sluice_protocol::code::ResponseCode;
use sluice_protocol::heartbeat::QuerySubscription;
use sluice_protocol::id::{GroupName, QueueId, QueueOffset, TopicName};
use sluice_protocol::queue::{
    BrokerConsumeStats, ConsumeQueueUnit, ConsumeStats, ConsumeTimeSpans, QueryConsumeQueue, QueueTimeSpan,
};
use sluice_protocol::record::Record;
use sluice_protocol::request;
use sluice_protocol::topic::{SubscriptionGroupList, TopicConfigList};

use crate::broker::Broker;
use crate::dispatch::Request;
use crate::reply::{Reply, no_topic};
use crate::topic::is_system;

/// Topics or groups of one request.
const LIST_MAX: usize = 10_000;
/// Units of a consume queue in one answer.
const UNITS_MAX: i32 = 1_000;

impl Broker {
    /// Makes or changes topics: code 18.
    pub(crate) fn update_topics(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let list = TopicConfigList::decode(request.body)?.topic_config_list;
        check_len(list.len())?;
        list.iter().try_for_each(|config| self.set_topic(config))?;
        Ok(Reply::ok())
    }

    /// Makes or changes groups: code 225.
    pub(crate) fn update_groups(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let list = SubscriptionGroupList::decode(request.body)?.group_config_list;
        check_len(list.len())?;
        for config in list {
            self.set_group(&GroupName::new(&config.group_name)?, config)?;
        }
        Ok(Reply::ok())
    }

    /// Forgets a group's settings, and its offsets if asked to: code 207.
    pub(crate) fn delete_group(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::DeleteSubscriptionGroup::parse(&request.header.fields)?;
        let group = GroupName::new(asked.group_name)?;
        let offsets = asked.clean_offset.unwrap_or(false);
        // It waits for the disk.
        tokio::task::block_in_place(|| self.store.delete_group(&group, offsets))?;
        self.groups.forget(&group);
        if offsets {
            self.held.remove(|of, _| *of == group);
        }
        tracing::info!(%group, offsets, "group deleted");
        Ok(Reply::ok())
    }

    /// What the broker was started with: code 26.
    pub(crate) fn broker_config(&self) -> Reply {
        let settings = &self.settings;
        let mut text = String::new();
        for (name, value) in [
            ("brokerName", settings.name.clone()),
            ("brokerClusterName", settings.cluster.clone()),
            ("brokerId", "0".to_owned()),
            ("brokerRole", if self.sync { "SYNC_MASTER" } else { "ASYNC_MASTER" }.to_owned()),
            ("flushDiskType", if self.sync { "SYNC_FLUSH" } else { "ASYNC_FLUSH" }.to_owned()),
            ("listenPort", settings.listen.port().to_string()),
            ("brokerIP1", settings.address()),
            ("namesrvAddr", settings.name_servers.join(";")),
            ("autoCreateTopicEnable", settings.auto_create_topics.to_string()),
            ("transactionCheckMax", settings.transaction_check.times.to_string()),
            ("transactionCheckInterval", settings.transaction_check.every.as_millis().to_string()),
            ("transactionTimeOut", settings.transaction_check.after.as_millis().to_string()),
        ] {
            text.push_str(&format!("{name}={value}\n"));
        }
        Reply::body(text.into_bytes())
    }

    /// The topics that the broker keeps for itself: code 305.
    pub(crate) fn own_topics(&self) -> Reply {
        let topics = self.store.topics().into_iter().map(|topic| topic.name.to_string());
        let topic_list = topics.filter(|name| is_system(name)).collect();
        Reply::body(TopicList { broker_addr: None, topic_list }.encode())
    }

    /// Drops what retention lets go, as it would be dropped soon anyway: codes 306, 316 and 329.
    pub(crate) fn drop_expired(&self) -> Result<Reply, Reply> {
        tokio::task::block_in_place(|| self.store.retain())?;
        Ok(Reply::ok())
    }

    /// The topics that a group subscribes to or committed offsets in: code 343.
    pub(crate) fn topics_of_group(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::QuerySubscription::parse(&request.header.fields)?;
        let group = GroupName::new(asked.group)?;
        let topic_list = self.topics_of(&group).into_iter().collect();
        Ok(Reply::body(TopicList { broker_addr: None, topic_list }.encode()))
    }

    fn topics_of(&self, group: &GroupName) -> BTreeSet<String> {
        let mut topics: BTreeSet<String> = self.groups.subscriptions(group).into_keys().collect();
        let committed =
            |topic: &TopicName| self.store.groups_of(topic).iter().any(|other| other == group.as_str());
        let known = self.store.topics().into_iter().map(|topic| topic.name);
        topics.extend(known.filter(committed).map(|topic| topic.to_string()));
        topics
    }

    /// How a group subscribes to a topic: code 345.
    pub(crate) fn subscription(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::QuerySubscription::parse(&request.header.fields)?;
        let (group, topic) = (GroupName::new(asked.group)?, asked.topic.unwrap_or_default().to_owned());
        let subscription_data = self.groups.subscriptions(&group).remove(&topic);
        Ok(Reply::body(QuerySubscription { group: group.to_string(), subscription_data, topic }.encode()))
    }

    /// When the messages of a group's queues were stored: code 303.
    pub(crate) fn time_spans(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::QueryConsumeTimeSpan::parse(&request.header.fields)?;
        let (topic, group) = (TopicName::new(asked.topic)?, GroupName::new(asked.group)?);
        let known = self.store.topic(&topic).ok_or_else(|| no_topic(&topic))?;
        let now = self.store.now_ms()?;
        let mut consume_time_span_set = Vec::new();
        for queue in QueueId::all(known.access.read_queues) {
            let Some((first, end)) = self.store.offsets(&topic, queue) else { continue };
            let at = |offset: i64| self.stored_at(&topic, queue, QueueOffset::new(offset));
            let next = self.store.committed_offset(&group, &topic, queue);
            let consumed = next.filter(|next| *next > first).and_then(|next| at(next.get() - 1));
            let behind = next.filter(|next| *next < end).and_then(|next| at(next.get()));
            consume_time_span_set.push(QueueTimeSpan {
                consume_time_stamp: consumed.unwrap_or(-1),
                delay_time: behind.map_or(0, |stored| now - stored),
                max_time_stamp: at(end.get() - 1).unwrap_or(-1),
                message_queue: self.named(&topic, queue),
                min_time_stamp: at(first.get()).unwrap_or(-1),
                ..QueueTimeSpan::default()
            });
        }
        Ok(Reply::body(ConsumeTimeSpans { consume_time_span_set }.encode()))
    }

    /// Units of a consume queue: code 321.
    pub(crate) fn consume_queue(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::QueryConsumeQueue::parse(&request.header.fields)?;
        let (topic, queue) = (TopicName::new(asked.topic)?, QueueId::new(asked.queue_id)?);
        let (first, end) = self.store.offsets(&topic, queue).ok_or_else(|| no_topic(&topic))?;
        let group = asked.consumer_group.filter(|group| !group.is_empty());
        let subscription_data = match group.map(GroupName::new).transpose()? {
            Some(group) => self.groups.subscriptions(&group).remove(topic.as_str()),
            None => None,
        };
        let mut body = QueryConsumeQueue {
            max_queue_index: end.get(),
            min_queue_index: first.get(),
            subscription_data,
            ..QueryConsumeQueue::default()
        };
        if asked.index < first.get() || asked.index >= end.get() {
            return Ok(Reply::body(body.encode()));
        }
        let count = usize::try_from(asked.count.clamp(0, UNITS_MAX)).unwrap_or(0);
        let from = QueueOffset::new(asked.index);
        let codes = self.store.tag_codes(&topic, queue, from, count)?;
        for (offset, tags_code) in (asked.index..).zip(codes) {
            let read = self.store.read_records(&topic, queue, QueueOffset::new(offset), 1, 1)?;
            let run = read.runs.first();
            let record = run.and_then(|run| Record::decode(&run.bytes).ok());
            body.queue_data.push(ConsumeQueueUnit {
                eval: true,
                physic_offset: record.map_or(0, |r| i64::try_from(r.log_offset).unwrap_or(i64::MAX)),
                physic_size: record.map_or(0, |r| i32::try_from(r.size).unwrap_or(i32::MAX)),
                tags_code,
                ..ConsumeQueueUnit::default()
            });
        }
        Ok(Reply::body(body.encode()))
    }

    /// The clients of all producer groups: code 328.
    pub(crate) fn all_producers(&self) -> Result<Reply, Reply> {
        let now = self.store.now_ms()?;
        Ok(Reply::body(self.groups.all_producers(now).encode()))
    }

    /// How far all groups are: code 317.
    pub(crate) fn all_consume_stats(&self) -> Reply {
        let mut body = BrokerConsumeStats { broker_addr: self.settings.address(), ..Default::default() };
        for group in self.groups.names() {
            let topics =
                self.topics_of(&group).into_iter().filter_map(|topic| TopicName::stored(&topic).ok());
            let stats: Vec<ConsumeStats> = topics
                .map(|topic| self.stats_of(&group, [topic]))
                .filter(|stats| !stats.offset_table.is_empty())
                .collect();
            let offsets = stats.iter().flat_map(|stats| stats.offset_table.values());
            body.total_diff += offsets.map(|at| at.broker_offset - at.consumer_offset).sum::<i64>();
            if !stats.is_empty() {
                body.consume_stats_list.push(BTreeMap::from([(group.to_string(), stats)]));
            }
        }
        Reply::body(body.encode())
    }
}

fn check_len(len: usize) -> Result<(), Reply> {
    if len > LIST_MAX {
        let remark = format!("the list has {len} entries, the limit is {LIST_MAX}");
        return Err(Reply::refuse(ResponseCode::INVALID_PARAMETER, remark));
    }
    Ok(())
}

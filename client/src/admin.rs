//! What an operator asks of brokers and name servers: topics, groups, messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use sluice_protocol::body::{GroupList, KvTable, TopicList};
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::fields::Fields;
use sluice_protocol::heartbeat::ConsumerConnection;
use sluice_protocol::id::{QueueId, TopicName};
use sluice_protocol::json::JsonError;
use sluice_protocol::message_id::MessageId;
use sluice_protocol::queue::{ConsumeOffset, ConsumeStats, MessageQueue, ResetOffsets, TopicStats};
use sluice_protocol::request;
use sluice_protocol::route::ClusterInfo;
use sluice_protocol::topic::{TopicConfig, perm};

use crate::client::Client;
use crate::error::Error;
use crate::pull::INFLATED_BYTES_MAX;
use crate::record::{Record, inflate, records};
use crate::route::{Queue, TEMPLATE_TOPIC};

/// Asks brokers and name servers on behalf of an operator.
#[derive(Clone)]
pub struct Admin {
    client: Client,
}

/// Offsets of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueOffsets {
    /// The queue.
    pub queue: Queue,
    /// The first offset that is kept.
    pub min_offset: i64,
    /// The next offset to be written.
    pub max_offset: i64,
    /// When the last message was stored, in ms since 1970-01-01 UTC; 0 for never.
    pub last_update_ms: i64,
}

/// How far a group is in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOffset {
    /// The queue.
    pub queue: Queue,
    /// The next offset to be written.
    pub max_offset: i64,
    /// The committed offset.
    pub committed: i64,
    /// When the last consumed message was stored, in ms since 1970-01-01 UTC.
    pub last_consumed_ms: i64,
}

impl GroupOffset {
    /// Messages that are yet to be consumed.
    pub const fn lag(&self) -> i64 {
        self.max_offset.saturating_sub(self.committed)
    }
}

impl Admin {
    /// Asks with that client.
    pub fn new(client: &Client) -> Self {
        Self { client: client.clone() }
    }

    /// Makes a topic with so many queues at every master of every cluster, or changes it.
    pub async fn create_topic(&self, topic: &TopicName, queues: i32) -> Result<(), Error> {
        let config = TopicConfig {
            topic_name: topic.to_string(),
            read_queue_nums: queues,
            write_queue_nums: queues,
            perm: perm::READ | perm::WRITE,
            ..TopicConfig::default()
        };
        for address in self.masters().await? {
            self.create_topic_at(&address, &config).await?;
        }
        Ok(())
    }

    /// Makes a topic at one broker, or changes it.
    pub async fn create_topic_at(&self, address: &Arc<str>, config: &TopicConfig) -> Result<(), Error> {
        let attributes: Vec<String> =
            config.attributes.iter().map(|(name, value)| format!("+{name}={value}")).collect();
        let attributes = attributes.join(",");
        let header = request::CreateTopic {
            topic: &config.topic_name,
            default_topic: TEMPLATE_TOPIC,
            read_queue_nums: config.read_queue_nums,
            write_queue_nums: config.write_queue_nums,
            perm: config.perm,
            topic_filter_type: &config.topic_filter_type,
            topic_sys_flag: Some(config.topic_sys_flag),
            order: config.order,
            attributes: Some(&attributes).filter(|text| !text.is_empty()).map(String::as_str),
            force: None,
        };
        let code = RequestCode::UPDATE_AND_CREATE_TOPIC;
        self.client.ask(address, code, header.fields(), &[], &config.topic_name).await.map(drop)
    }

    /// Removes a topic from every master, then from the name servers.
    pub async fn delete_topic(&self, topic: &TopicName) -> Result<(), Error> {
        for address in self.masters().await? {
            let header = request::TopicOnly { topic: topic.as_str() };
            let code = RequestCode::DELETE_TOPIC_IN_BROKER;
            self.client.ask(&address, code, header.fields(), &[], topic.as_str()).await?;
        }
        let header = request::DeleteTopicInNamesrv { topic: topic.as_str(), cluster_name: None };
        let code = RequestCode::DELETE_TOPIC_IN_NAMESRV;
        self.client.ask_name_server(code, header.fields(), topic.as_str()).await.map(drop)
    }

    /// Names of all topics, also those of the system.
    pub async fn topics(&self) -> Result<Vec<String>, Error> {
        let code = RequestCode::GET_ALL_TOPIC_LIST_FROM_NAMESERVER;
        let (address, body) = self.client.ask_name_server(code, Fields::new(), "topics").await?;
        Ok(decoded(&address, code, TopicList::decode(&body))?.topic_list)
    }

    /// A topic's settings at the first broker of its route.
    pub async fn topic_config(&self, topic: &TopicName) -> Result<TopicConfig, Error> {
        let header = request::TopicOnly { topic: topic.as_str() };
        let code = RequestCode::GET_TOPIC_CONFIG;
        let mut all = self.ask_topic(topic, code, header.fields(), Some(1)).await?;
        let (_, address, body) = all.pop().ok_or_else(|| no_broker(topic))?;
        decoded(&address, code, TopicConfig::decode(&body))
    }

    /// The brokers and clusters.
    pub async fn cluster(&self) -> Result<ClusterInfo, Error> {
        let code = RequestCode::GET_BROKER_CLUSTER_INFO;
        let (address, body) = self.client.ask_name_server(code, Fields::new(), "cluster").await?;
        decoded(&address, code, ClusterInfo::decode(&body))
    }

    /// Addresses of all masters, at least one.
    pub async fn masters(&self) -> Result<Vec<Arc<str>>, Error> {
        let cluster = self.cluster().await?;
        let master = |broker: &sluice_protocol::route::BrokerData| {
            broker
                .broker_addrs
                .get(&sluice_protocol::route::MASTER)
                .map(|address| Arc::from(address.as_str()))
        };
        let masters: Vec<_> = cluster.broker_addr_table.values().filter_map(master).collect();
        if masters.is_empty() {
            return Err(Error::NoBroker { name_servers: self.client.name_servers().to_owned() });
        }
        Ok(masters)
    }

    /// What a broker tells of itself, by `RocketMQ`'s names.
    pub async fn runtime(&self, address: &Arc<str>) -> Result<BTreeMap<String, String>, Error> {
        let code = RequestCode::GET_BROKER_RUNTIME_INFO;
        let body = self.client.ask(address, code, Fields::new(), &[], address).await?.body;
        Ok(decoded(address, code, KvTable::decode(&body))?.table)
    }

    /// Offsets of a topic's queues, in order.
    pub async fn queue_offsets(&self, topic: &TopicName) -> Result<Vec<QueueOffsets>, Error> {
        let header = request::TopicOnly { topic: topic.as_str() };
        let code = RequestCode::GET_TOPIC_STATS_INFO;
        let mut found = Vec::new();
        for (_, address, body) in self.ask_topic(topic, code, header.fields(), None).await? {
            let stats = decoded(&address, code, TopicStats::decode(&body))?;
            for (queue, offsets) in stats.offset_table {
                found.push(QueueOffsets {
                    queue: queue_of(&address, code, &queue)?,
                    min_offset: offsets.min_offset.max(0),
                    max_offset: offsets.max_offset.max(0),
                    last_update_ms: offsets.last_update_timestamp,
                });
            }
        }
        found.sort_by(|one, other| one.queue.cmp(&other.queue));
        Ok(found)
    }

    /// How far a group is, in the queues of one topic or of all that it ever read; in order. A broker that does
    /// not know the group has none.
    pub async fn group_offsets(
        &self,
        group: &str,
        topic: Option<&TopicName>,
    ) -> Result<Vec<GroupOffset>, Error> {
        let topic = topic.map(TopicName::as_str);
        let header = request::GetConsumeStats { consumer_group: group, topic, topic_list: None };
        let code = RequestCode::GET_CONSUME_STATS;
        let mut found = Vec::new();
        for address in self.masters().await? {
            let response = match self.client.ask(&address, code, header.fields(), &[], group).await {
                Err(error) if error.response_code().is_some_and(is_unknown_group) => continue,
                other => other?,
            };
            let stats = decoded(&address, code, ConsumeStats::decode(&response.body))?;
            for (queue, ConsumeOffset { broker_offset, consumer_offset, last_timestamp, .. }) in
                stats.offset_table
            {
                found.push(GroupOffset {
                    queue: queue_of(&address, code, &queue)?,
                    max_offset: broker_offset,
                    committed: consumer_offset,
                    last_consumed_ms: last_timestamp,
                });
            }
        }
        found.sort_by(|one, other| one.queue.cmp(&other.queue));
        Ok(found)
    }

    /// The clients of a group and what they subscribe to, by broker address; brokers without any are left out.
    pub async fn group_members(&self, group: &str) -> Result<BTreeMap<Arc<str>, ConsumerConnection>, Error> {
        let header = request::GetConsumerConnection { consumer_group: group };
        let code = RequestCode::GET_CONSUMER_CONNECTION_LIST;
        let mut found = BTreeMap::new();
        for address in self.masters().await? {
            match self.client.ask(&address, code, header.fields(), &[], group).await {
                Err(error) if error.response_code() == Some(ResponseCode::CONSUMER_NOT_ONLINE) => {}
                response => {
                    let body = response?.body;
                    found.insert(
                        Arc::clone(&address),
                        decoded(&address, code, ConsumerConnection::decode(&body))?,
                    );
                }
            }
        }
        Ok(found)
    }

    /// The groups that read a topic, in order.
    pub async fn groups_of_topic(&self, topic: &TopicName) -> Result<Vec<String>, Error> {
        let header = request::TopicOnly { topic: topic.as_str() };
        let code = RequestCode::QUERY_TOPIC_CONSUME_BY_WHO;
        let mut groups = Vec::new();
        for (_, address, body) in self.ask_topic(topic, code, header.fields(), None).await? {
            groups.extend(decoded(&address, code, GroupList::decode(&body))?.group_list);
        }
        groups.sort_unstable();
        groups.dedup();
        Ok(groups)
    }

    /// Sets a group's offsets of a topic to a time, in ms since 1970-01-01 UTC, -1 for the newest; returns the
    /// offsets by queue.
    pub async fn reset_group(
        &self,
        group: &str,
        topic: &TopicName,
        time_ms: i64,
    ) -> Result<Vec<(Queue, i64)>, Error> {
        let header = request::ResetOffset {
            topic: topic.as_str(),
            group,
            timestamp: time_ms,
            is_force: true,
            queue_id: None,
            offset: None,
        };
        let code = RequestCode::INVOKE_BROKER_TO_RESET_OFFSET;
        let mut found = Vec::new();
        for (_, address, body) in self.ask_topic(topic, code, header.fields(), None).await? {
            for (queue, offset) in decoded(&address, code, ResetOffsets::decode(&body))?.offset_table {
                found.push((queue_of(&address, code, &queue)?, offset));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Removes a group from every master, with its offsets if wanted.
    pub async fn delete_group(&self, group: &str, with_offsets: bool) -> Result<(), Error> {
        for address in self.masters().await? {
            let header =
                request::DeleteSubscriptionGroup { group_name: group, clean_offset: Some(with_offsets) };
            let code = RequestCode::DELETE_SUBSCRIPTIONGROUP;
            self.client.ask(&address, code, header.fields(), &[], group).await?;
        }
        Ok(())
    }

    /// The message that is stored at that place.
    pub async fn message(&self, id: MessageId) -> Result<Record, Error> {
        let address: Arc<str> = id.store_host.to_string().into();
        let offset = i64::try_from(id.log_offset.get()).unwrap_or(i64::MAX);
        let header = request::ViewMessage { topic: None, offset };
        let code = RequestCode::VIEW_MESSAGE_BY_ID;
        let id = id.to_string();
        let body = self.client.ask(&address, code, header.fields(), &[], &id).await?.body;
        first(&address, code, &body, &id)
    }

    /// Messages of a topic with that key, stored in a span of time (ms since 1970-01-01 UTC, inclusive), at most
    /// `messages_max` of each broker.
    pub async fn messages_with_key(
        &self,
        topic: &TopicName,
        key: &str,
        span_ms: (i64, i64),
        messages_max: i32,
    ) -> Result<Vec<Record>, Error> {
        self.query(topic, key, span_ms, messages_max, None).await
    }

    /// Messages of a topic with that id of their producer.
    pub async fn messages_with_id(&self, topic: &TopicName, id: &str) -> Result<Vec<Record>, Error> {
        self.query(topic, id, (0, i64::MAX), 32, Some(true)).await
    }

    async fn query(
        &self,
        topic: &TopicName,
        key: &str,
        span_ms: (i64, i64),
        max_num: i32,
        unique_key: Option<bool>,
    ) -> Result<Vec<Record>, Error> {
        let header = request::QueryMessage {
            topic: topic.as_str(),
            key,
            max_num,
            begin_timestamp: span_ms.0,
            end_timestamp: span_ms.1,
            unique_key,
        };
        let code = RequestCode::QUERY_MESSAGE;
        let mut found = Vec::new();
        for address in self.topic_masters(topic).await? {
            match self.client.ask(&address.1, code, header.fields(), &[], key).await {
                Err(error) if error.response_code() == Some(ResponseCode::QUERY_NOT_FOUND) => {}
                response => found.extend(records(&address.1, code, Some(topic), &response?.body)?),
            }
        }
        // Brokers compare hashes.
        found.retain(|record| {
            record.keys().any(|other| other == key)
                || record.property(sluice_protocol::message::UNIQ_KEY) == Some(key)
        });
        inflate(&mut found, INFLATED_BYTES_MAX);
        Ok(found)
    }

    /// Asks every master of a topic, or the first `brokers_max`.
    async fn ask_topic(
        &self,
        topic: &TopicName,
        code: RequestCode,
        fields: Fields<'_>,
        brokers_max: Option<usize>,
    ) -> Result<Vec<(Arc<str>, Arc<str>, Bytes)>, Error> {
        let mut answers = Vec::new();
        for (name, address) in
            self.topic_masters(topic).await?.into_iter().take(brokers_max.unwrap_or(usize::MAX))
        {
            let body = self.client.ask(&address, code, fields.clone(), &[], topic.as_str()).await?.body;
            answers.push((name, address, body));
        }
        Ok(answers)
    }

    /// Names and addresses of a topic's masters, by name.
    async fn topic_masters(&self, topic: &TopicName) -> Result<Vec<(Arc<str>, Arc<str>)>, Error> {
        let route = self.client.fetch_route(topic).await?;
        let with_master =
            route.brokers.iter().filter_map(|(name, broker)| Some((name, broker.master.as_ref()?)));
        let mut masters: Vec<_> = with_master.map(|(n, a)| (Arc::clone(n), Arc::clone(a))).collect();
        masters.sort_unstable();
        Ok(masters)
    }
}

fn first(address: &Arc<str>, code: RequestCode, body: &Bytes, id: &str) -> Result<Record, Error> {
    let none = || Error::refused(address, code, id, ResponseCode::QUERY_NOT_FOUND, None);
    let mut found = records(address, code, None, body)?;
    found.truncate(1);
    inflate(&mut found, INFLATED_BYTES_MAX);
    found.pop().ok_or_else(none)
}

fn decoded<T>(address: &Arc<str>, code: RequestCode, body: Result<T, JsonError>) -> Result<T, Error> {
    body.map_err(|error| Error::unreadable(address, code, "body", error))
}

fn queue_of(address: &Arc<str>, code: RequestCode, queue: &MessageQueue) -> Result<Queue, Error> {
    let bad = |error| Error::unreadable(address, code, "queue", error);
    Ok(Queue {
        topic: TopicName::stored(&queue.topic).map_err(bad)?,
        broker: queue.broker_name.as_str().into(),
        id: QueueId::new(queue.queue_id).map_err(bad)?,
    })
}

/// What brokers answer for a group that they do not know.
const fn is_unknown_group(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST | ResponseCode::CONSUMER_NOT_ONLINE)
}

fn no_broker(topic: &TopicName) -> Error {
    Error::NoQueue { topic: topic.to_string(), purpose: "ask about" }
}

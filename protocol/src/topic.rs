//! Settings of topics and of consumer groups, as a broker keeps them and admin tools read them.

use std::collections::BTreeMap;

use crate::body::{DataVersion, Unread, bodies, decode, encode};

/// Begins the name of a group's retry topic.
pub const RETRY_PREFIX: &str = "%RETRY%";

/// Begins the name of a group's topic of dead letters.
pub const DLQ_PREFIX: &str = "%DLQ%";

/// Bits of a topic's permission.
pub mod perm {
    /// The topic can be a template of new ones.
    pub const INHERIT: i32 = 1;
    /// Messages may be sent.
    pub const WRITE: i32 = 2;
    /// Messages may be pulled.
    pub const READ: i32 = 4;
}

bodies! {
    /// Settings of a topic: the response to code 351.
    TopicConfig {
        /// From 5.x on.
        attributes: BTreeMap<String, String> = "attributes";
        order: bool = "order";
        /// Bits of [`perm`].
        perm: i32 = "perm" or perm::READ | perm::WRITE;
        read_queue_nums: i32 = "readQueueNums" or 16;
        /// `SINGLE_TAG` or `MULTI_TAG`.
        topic_filter_type: String = "topicFilterType" or "SINGLE_TAG";
        topic_name: String = "topicName";
        topic_sys_flag: i32 = "topicSysFlag";
        write_queue_nums: i32 = "writeQueueNums" or 16;
    }

    /// Settings of all topics of a broker: the response to code 21, and a part of its registration.
    TopicConfigTable {
        data_version: DataVersion = "dataVersion";
        /// From 5.x on, with the two below: of static topics, which we do not have.
        mapping_data_version: Option<DataVersion> = "mappingDataVersion";
        /// By topic.
        topic_config_table: BTreeMap<String, TopicConfig> = "topicConfigTable";
        topic_queue_mapping_detail_map: Option<Unread> = "topicQueueMappingDetailMap";
        topic_queue_mapping_info_map: Option<Unread> = "topicQueueMappingInfoMap";
    }

    /// Topics to create or change: the request of code 18.
    TopicConfigList {
        topic_config_list: Vec<TopicConfig> = "topicConfigList";
    }

    /// Settings of a consumer group: the request of code 200, the response to code 352.
    SubscriptionGroupConfig {
        /// From 5.x on.
        attributes: BTreeMap<String, String> = "attributes";
        broker_id: i64 = "brokerId";
        consume_broadcast_enable: bool = "consumeBroadcastEnable" or true;
        consume_enable: bool = "consumeEnable" or true;
        consume_from_min_enable: bool = "consumeFromMinEnable" or true;
        /// From 5.x on.
        consume_message_orderly: bool = "consumeMessageOrderly";
        consume_timeout_minute: i32 = "consumeTimeoutMinute" or 15;
        group_name: String = "groupName";
        /// From 5.x on.
        group_retry_policy: RetryPolicy = "groupRetryPolicy";
        group_sys_flag: i32 = "groupSysFlag";
        notify_consumer_ids_changed_enable: bool = "notifyConsumerIdsChangedEnable" or true;
        /// After so many failed consumptions a message is a dead letter.
        retry_max_times: i32 = "retryMaxTimes" or 16;
        retry_queue_nums: i32 = "retryQueueNums" or 1;
        subscription_data_set: Option<Vec<SimpleSubscription>> = "subscriptionDataSet";
        which_broker_when_consume_slowly: i64 = "whichBrokerWhenConsumeSlowly" or 1;
    }

    /// How long a message waits after a failed consumption.
    RetryPolicy {
        customized: Option<CustomizedRetry> = "customizedRetryPolicy";
        exponential: Option<ExponentialRetry> = "exponentialRetryPolicy";
        /// `CUSTOMIZED` or `EXPONENTIAL`.
        kind: String = "type" or "CUSTOMIZED";
    }

    /// Given waits.
    CustomizedRetry {
        /// In ms.
        next: Vec<i64> = "next";
    }

    /// Growing waits.
    ExponentialRetry {
        /// In ms.
        initial: i64 = "initial" or 5_000;
        /// In ms.
        max: i64 = "max" or 7_200_000;
        multiplier: i64 = "multiplier" or 2;
    }

    /// A subscription fixed in a group's settings.
    SimpleSubscription {
        expression: String = "expression";
        expression_type: String = "expressionType" or "TAG";
        topic: String = "topic";
        version: i64 = "version";
    }

    /// Settings of all groups of a broker: the response to code 201.
    SubscriptionGroupTable {
        data_version: DataVersion = "dataVersion";
        /// By group and topic.
        forbidden_table: Option<BTreeMap<String, BTreeMap<String, i32>>> = "forbiddenTable";
        /// By group.
        subscription_group_table: BTreeMap<String, SubscriptionGroupConfig> = "subscriptionGroupTable";
    }

    /// Groups to create or change: the request of code 225.
    SubscriptionGroupList {
        group_config_list: Vec<SubscriptionGroupConfig> = "groupConfigList";
    }
}

impl TopicConfig {
    /// The line of a compressed registration: name, read and write queues, permission, filter type,
    /// attributes, with one space between.
    pub fn line(&self) -> String {
        let Self { topic_name, read_queue_nums: read, write_queue_nums: write, perm, .. } = self;
        let attributes = encode(&self.attributes, false);
        let attributes = String::from_utf8_lossy(&attributes);
        format!("{topic_name} {read} {write} {perm} {} {attributes}", self.topic_filter_type)
    }

    /// Reads [`TopicConfig::line`]; 4.x brokers leave out the attributes.
    pub fn from_line(line: &str) -> Option<Self> {
        let mut parts = line.splitn(6, ' ');
        Some(Self {
            topic_name: parts.next().filter(|name| !name.is_empty())?.to_owned(),
            read_queue_nums: parts.next()?.parse().ok()?,
            write_queue_nums: parts.next()?.parse().ok()?,
            perm: parts.next()?.parse().ok()?,
            topic_filter_type: parts.next()?.to_owned(),
            attributes: parts.next().map_or(Some(BTreeMap::new()), |text| decode(text.as_bytes()).ok())?,
            ..Self::default()
        })
    }
}

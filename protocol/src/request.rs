//! The typed headers of requests, as of `RocketMQ` 5.3.3; 4.x clients leave out some optional fields.
//!
//! An `Option` may be missing, everything else must be there. Names and texts are as they came: whether a
//! topic exists, or a name is allowed, is for the broker to say. Offsets of queues count messages, those of
//! the commit log bytes, times are ms since 1970-01-01 UTC unless a field says otherwise.

use crate::fields::headers;

/// Bits of [`PullMessage::sys_flag`].
pub mod pull_flag {
    /// Commit `commit_offset` first.
    pub const COMMIT: i32 = 0x1;
    /// The broker may hold the request until there are messages.
    pub const SUSPEND: i32 = 0x2;
    /// `subscription` holds the filter; otherwise that of the heartbeat counts.
    pub const SUBSCRIPTION: i32 = 0x4;
    /// A class filters; no longer used.
    pub const CLASS_FILTER: i32 = 0x8;
    /// A lite pull consumer asks.
    pub const LITE_PULL: i32 = 0x10;
}

headers! {
    /// Send a message or a batch: codes 10, 310, 320, 324, 325; read with long names (10, 324) or letters,
    /// written with letters. The body is that of the message, or of [`crate::batch`].
    SendMessage<'a> {
        producer_group: &'a str = "a" | "producerGroup";
        topic: &'a str = "b" | "topic";
        /// The topic whose settings a new one gets.
        default_topic: &'a str = "c" | "defaultTopic";
        default_topic_queue_nums: i32 = "d" | "defaultTopicQueueNums";
        /// Negative if the broker shall choose.
        queue_id: i32 = "e" | "queueId";
        /// Bits of [`crate::message::sys_flag`].
        sys_flag: i32 = "f" | "sysFlag";
        born_timestamp: i64 = "g" | "bornTimestamp";
        /// The producer's own flag.
        flag: i32 = "h" | "flag";
        /// Encoded as in [`crate::message`].
        properties: Option<&'a str> = "i" | "properties";
        reconsume_times: Option<i32> = "j" | "reconsumeTimes";
        unit_mode: Option<bool> = "k" | "unitMode";
        max_reconsume_times: Option<i32> = "l" | "maxReconsumeTimes";
        /// Whether the body holds several messages.
        batch: Option<bool> = "m" | "batch";
        broker_name: Option<&'a str> = "n" | "bname";
    }

    /// Pull messages of one queue: codes 11, 361.
    PullMessage<'a> {
        consumer_group: &'a str = "consumerGroup";
        topic: &'a str = "topic";
        queue_id: i32 = "queueId";
        /// The first offset wanted.
        queue_offset: i64 = "queueOffset";
        /// Most messages wanted.
        max_msg_nums: i32 = "maxMsgNums";
        /// Bits of [`pull_flag`].
        sys_flag: i32 = "sysFlag";
        /// Counts with [`pull_flag::COMMIT`]; may be -1.
        commit_offset: i64 = "commitOffset";
        /// How long the request may be held, in ms.
        suspend_timeout_millis: i64 = "suspendTimeoutMillis";
        /// The filter, with [`pull_flag::SUBSCRIPTION`].
        subscription: Option<&'a str> = "subscription";
        /// Version of the heartbeat's subscription that the client has.
        sub_version: i64 = "subVersion";
        /// `TAG` or `SQL92`.
        expression_type: Option<&'a str> = "expressionType";
        /// Most bytes wanted; from 5.x on.
        max_msg_bytes: Option<i32> = "maxMsgBytes";
        broker_name: Option<&'a str> = "bname";
    }

    /// Look up messages by key: code 12. Unique keys are asked for with the field `_UNIQUE_KEY_QUERY`.
    QueryMessage<'a> {
        topic: &'a str = "topic";
        key: &'a str = "key";
        max_num: i32 = "maxNum";
        begin_timestamp: i64 = "beginTimestamp";
        end_timestamp: i64 = "endTimestamp";
        unique_key: Option<bool> = "_UNIQUE_KEY_QUERY";
    }

    /// Ask for a group's committed offset: code 14.
    QueryConsumerOffset<'a> {
        consumer_group: &'a str = "consumerGroup";
        topic: &'a str = "topic";
        queue_id: i32 = "queueId";
        /// Whether a young queue counts from 0 when nothing was committed; true when missing.
        set_zero_if_not_found: Option<bool> = "setZeroIfNotFound";
    }

    /// Commit a group's offset: code 15. One-way in Java, not in Go.
    UpdateConsumerOffset<'a> {
        consumer_group: &'a str = "consumerGroup";
        topic: &'a str = "topic";
        queue_id: i32 = "queueId";
        commit_offset: i64 = "commitOffset";
    }

    /// Create a topic or change it: code 17.
    CreateTopic<'a> {
        topic: &'a str = "topic";
        default_topic: &'a str = "defaultTopic";
        read_queue_nums: i32 = "readQueueNums";
        write_queue_nums: i32 = "writeQueueNums";
        /// Bits of [`crate::topic::perm`].
        perm: i32 = "perm";
        /// `SINGLE_TAG` or `MULTI_TAG`.
        topic_filter_type: &'a str = "topicFilterType";
        topic_sys_flag: Option<i32> = "topicSysFlag";
        order: bool = "order";
        /// Comma-separated `+key=value` and `-key`.
        attributes: Option<&'a str> = "attributes";
        force: Option<bool> = "force";
    }

    /// The offset at a time: code 29.
    SearchOffset<'a> {
        topic: &'a str = "topic";
        queue_id: i32 = "queueId";
        timestamp: i64 = "timestamp";
        /// `LOWER`, also when missing, or `UPPER`.
        boundary_type: Option<&'a str> = "boundaryType";
    }

    /// The next offset to be written: code 30.
    GetMaxOffset<'a> {
        topic: &'a str = "topic";
        queue_id: i32 = "queueId";
        /// True when missing.
        committed: Option<bool> = "committed";
    }

    /// The first offset that is kept: code 31.
    GetMinOffset<'a> {
        topic: &'a str = "topic";
        queue_id: i32 = "queueId";
    }

    /// When the first kept message was stored: code 32.
    GetEarliestMsgStoreTime<'a> {
        topic: &'a str = "topic";
        queue_id: i32 = "queueId";
    }

    /// One message by its place: code 33.
    ViewMessage<'a> {
        topic: Option<&'a str> = "topic";
        /// In the commit log, in bytes.
        offset: i64 = "offset";
    }

    /// A client is there: code 34.
    Heartbeat {
        /// How long the client may be silent before its groups are told that it is gone, in ms. Sluice's own;
        /// other brokers pass over it.
        lease_ms: Option<i64> = "sluiceLeaseMs";
    }

    /// A client leaves its groups: code 35.
    UnregisterClient<'a> {
        client_id: &'a str = "clientID";
        producer_group: Option<&'a str> = "producerGroup";
        consumer_group: Option<&'a str> = "consumerGroup";
    }

    /// A message could not be consumed and shall come again: code 36.
    ConsumerSendMsgBack<'a> {
        /// In the commit log, in bytes.
        offset: i64 = "offset";
        group: &'a str = "group";
        /// 0 if the broker shall choose, negative for the dead-letter topic.
        delay_level: i32 = "delayLevel";
        origin_msg_id: Option<&'a str> = "originMsgId";
        origin_topic: Option<&'a str> = "originTopic";
        unit_mode: Option<bool> = "unitMode";
        max_reconsume_times: Option<i32> = "maxReconsumeTimes";
    }

    /// A producer ends its transaction: code 37.
    EndTransaction<'a> {
        producer_group: &'a str = "producerGroup";
        /// Queue offset of the first half.
        tran_state_table_offset: i64 = "tranStateTableOffset";
        /// Of the first half, in bytes.
        commit_log_offset: i64 = "commitLogOffset";
        /// 0 unknown, 8 commit, 12 rollback.
        commit_or_rollback: i32 = "commitOrRollback";
        from_transaction_check: bool = "fromTransactionCheck";
        msg_id: &'a str = "msgId";
        transaction_id: Option<&'a str> = "transactionId";
        topic: Option<&'a str> = "topic";
    }

    /// The clients of a group: code 38.
    GetConsumerList<'a> {
        consumer_group: &'a str = "consumerGroup";
    }

    /// Broker to client, one-way: how did the transaction end? Code 39; the body is the message's record.
    CheckTransactionState<'a> {
        topic: Option<&'a str> = "topic";
        /// Queue offset of the first half.
        tran_state_table_offset: i64 = "tranStateTableOffset";
        /// Of the first half, in bytes.
        commit_log_offset: i64 = "commitLogOffset";
        msg_id: Option<&'a str> = "msgId";
        transaction_id: Option<&'a str> = "transactionId";
        offset_msg_id: Option<&'a str> = "offsetMsgId";
        broker_name: Option<&'a str> = "bname";
    }

    /// Broker to client, one-way: the clients of the group changed. Code 40.
    NotifyConsumerIdsChanged<'a> {
        consumer_group: &'a str = "consumerGroup";
    }

    /// A broker tells a name server what it has: code 103; the body is that of [`crate::registration`].
    RegisterBroker<'a> {
        broker_name: &'a str = "brokerName";
        broker_addr: &'a str = "brokerAddr";
        cluster_name: &'a str = "clusterName";
        ha_server_addr: &'a str = "haServerAddr";
        /// 0 for a master.
        broker_id: i64 = "brokerId";
        /// After how many ms of silence it counts as gone.
        heartbeat_timeout_millis: Option<i64> = "heartbeatTimeoutMillis";
        enable_acting_master: Option<bool> = "enableActingMaster";
        /// Whether the body is compressed; false when missing.
        compressed: Option<bool> = "compressed";
        /// CRC-32 of the body as sent with the sign bit cleared; 0 when unchecked.
        body_crc32: Option<u32> = "bodyCrc32";
    }

    /// A broker leaves: code 104.
    UnregisterBroker<'a> {
        broker_name: &'a str = "brokerName";
        broker_addr: &'a str = "brokerAddr";
        cluster_name: &'a str = "clusterName";
        broker_id: i64 = "brokerId";
    }

    /// Where a topic is: code 105.
    GetRouteInfo<'a> {
        topic: &'a str = "topic";
        /// Whether broker ids shall be quoted although the client's version is old.
        accept_standard_json_only: Option<bool> = "acceptStandardJsonOnly";
    }

    /// A broker still lives: code 904.
    BrokerHeartbeat<'a> {
        cluster_name: &'a str = "clusterName";
        broker_addr: &'a str = "brokerAddr";
        broker_name: &'a str = "brokerName";
        broker_id: Option<i64> = "brokerId";
        heartbeat_timeout_millis: Option<i64> = "heartbeatTimeoutMills";
    }

    /// Statistics of a topic (202), its settings (351), its groups (300), or its end at a broker (215).
    TopicOnly<'a> {
        topic: &'a str = "topic";
    }

    /// A topic's end at a name server: code 216.
    DeleteTopicInNamesrv<'a> {
        topic: &'a str = "topic";
        cluster_name: Option<&'a str> = "clusterName";
    }

    /// How far a group is: code 208.
    GetConsumeStats<'a> {
        consumer_group: &'a str = "consumerGroup";
        topic: Option<&'a str> = "topic";
        /// Separated by semicolons.
        topic_list: Option<&'a str> = "topicList";
    }

    /// The clients of a consumer group with addresses and subscriptions: code 203.
    GetConsumerConnection<'a> {
        consumer_group: &'a str = "consumerGroup";
    }

    /// The clients of a producer group: code 204.
    GetProducerConnection<'a> {
        producer_group: &'a str = "producerGroup";
    }

    /// A group's end at a broker: code 207.
    DeleteSubscriptionGroup<'a> {
        group_name: &'a str = "groupName";
        clean_offset: Option<bool> = "cleanOffset";
    }

    /// A group's settings: code 352.
    GetSubscriptionGroupConfig<'a> {
        group: &'a str = "group";
    }

    /// Set a group's offsets to a time: code 222.
    ResetOffset<'a> {
        topic: &'a str = "topic";
        group: &'a str = "group";
        /// -1 for the newest messages.
        timestamp: i64 = "timestamp";
        is_force: bool = "isForce";
        /// -1 for all queues.
        queue_id: Option<i32> = "queueId";
        offset: Option<i64> = "offset";
    }

    /// Read (101) or remove (102) a setting of a name server.
    KvConfig<'a> {
        namespace: &'a str = "namespace";
        key: &'a str = "key";
    }

    /// Set a setting of a name server: code 100.
    PutKvConfig<'a> {
        namespace: &'a str = "namespace";
        key: &'a str = "key";
        value: &'a str = "value";
    }

    /// All settings of a name space: code 219.
    GetKvList<'a> {
        namespace: &'a str = "namespace";
    }

    /// The topics of a cluster: code 224.
    GetTopicsByCluster<'a> {
        cluster: &'a str = "cluster";
    }

    /// Take (205) or give back (327) the write permission of a broker's topics.
    WritePermOfBroker<'a> {
        broker_name: &'a str = "brokerName";
    }

    /// Whether a broker's topics changed: code 322.
    QueryDataVersion<'a> {
        broker_name: &'a str = "brokerName";
        broker_addr: &'a str = "brokerAddr";
        cluster_name: &'a str = "clusterName";
        broker_id: i64 = "brokerId";
    }
    /// When a group's messages of a topic were stored: code 303.
    QueryConsumeTimeSpan<'a> {
        topic: &'a str = "topic";
        group: &'a str = "group";
    }

    /// What a group subscribes to: all its topics (343), or how to one of them (345).
    QuerySubscription<'a> {
        group: &'a str = "group";
        /// Only with code 345.
        topic: Option<&'a str> = "topic";
    }

    /// A part of a consume queue: code 321.
    QueryConsumeQueue<'a> {
        topic: &'a str = "topic";
        queue_id: i32 = "queueId";
        /// The first queue offset wanted.
        index: i64 = "index";
        count: i32 = "count";
        consumer_group: Option<&'a str> = "consumerGroup";
    }

    /// A statistic of a broker: code 315.
    ViewBrokerStats<'a> {
        stats_name: &'a str = "statsName";
        stats_key: &'a str = "statsKey";
    }

    /// Take a message back that waits for its time: code 370.
    RecallMessage<'a> {
        producer_group: Option<&'a str> = "producerGroup";
        topic: &'a str = "topic";
        /// From the answer to its send.
        recall_handle: &'a str = "recallHandle";
    }

    /// What a client of a consumer group does (307), or that it shall consume a message now (309); handed on to it.
    ToConsumer<'a> {
        consumer_group: &'a str = "consumerGroup";
        client_id: Option<&'a str> = "clientId";
        /// Only with code 309; see [`crate::message_id`].
        msg_id: Option<&'a str> = "msgId";
    }

    /// Broker to client: a reply for the producer that asked. Code 326; the body is the reply.
    PushReply<'a> {
        producer_group: &'a str = "producerGroup";
        topic: &'a str = "topic";
        default_topic: &'a str = "defaultTopic";
        default_topic_queue_nums: i32 = "defaultTopicQueueNums";
        queue_id: i32 = "queueId";
        /// Bits of [`crate::message::sys_flag`].
        sys_flag: i32 = "sysFlag";
        born_timestamp: i64 = "bornTimestamp";
        flag: i32 = "flag";
        properties: Option<&'a str> = "properties";
        reconsume_times: Option<i32> = "reconsumeTimes";
        unit_mode: Option<bool> = "unitMode";
        /// As `address:port`.
        born_host: &'a str = "bornHost";
        /// As `address:port`.
        store_host: &'a str = "storeHost";
        store_timestamp: i64 = "storeTimestamp";
    }

    /// Take messages of a topic, each of which comes again unless it is acknowledged in time: code 200050.
    PopMessage<'a> {
        consumer_group: &'a str = "consumerGroup";
        topic: &'a str = "topic";
        /// -1 for all of the broker's.
        queue_id: i32 = "queueId";
        /// Most messages wanted.
        max_msg_nums: i32 = "maxMsgNums";
        /// How long nobody else gets them, in ms.
        invisible_time: i64 = "invisibleTime";
        /// How long the request may be held, in ms.
        poll_time: i64 = "pollTime";
        /// When it was sent, by the client's clock.
        born_time: i64 = "bornTime";
        /// Where a group starts that was never here: 0 at the beginning, 1 at the end.
        init_mode: i32 = "initMode";
        /// `TAG` or `SQL92`.
        expression_type: Option<&'a str> = "expType";
        expression: Option<&'a str> = "exp";
        /// Whether a queue's messages are taken one answer after the other.
        order: Option<bool> = "order";
        attempt_id: Option<&'a str> = "attemptId";
    }

    /// A message that was popped is consumed: code 200051.
    AckMessage<'a> {
        consumer_group: &'a str = "consumerGroup";
        topic: &'a str = "topic";
        queue_id: i32 = "queueId";
        /// See [`crate::pop::ExtraInfo`].
        extra_info: &'a str = "extraInfo";
        offset: i64 = "offset";
    }

    /// A message that was popped shall come again after another time: code 200053.
    ChangeInvisibleTime<'a> {
        consumer_group: &'a str = "consumerGroup";
        topic: &'a str = "topic";
        queue_id: i32 = "queueId";
        /// See [`crate::pop::ExtraInfo`].
        extra_info: &'a str = "extraInfo";
        offset: i64 = "offset";
        /// From now on, in ms.
        invisible_time: i64 = "invisibleTime";
    }

    /// Show what there is to pop, and hand nothing out: code 200052.
    PeekMessage<'a> {
        topic: &'a str = "topic";
        /// -1 for all of the broker's.
        queue_id: i32 = "queueId";
        max_msg_nums: i32 = "maxMsgNums";
        consumer_group: &'a str = "consumerGroup";
    }

    /// Tell how many pops wait: code 200055.
    PollingInfo<'a> {
        consumer_group: &'a str = "consumerGroup";
        topic: &'a str = "topic";
        /// -1 for those that wait at all of the broker's.
        queue_id: i32 = "queueId";
    }

    /// Tell when there are messages to pop: code 200054.
    Notification<'a> {
        consumer_group: &'a str = "consumerGroup";
        topic: &'a str = "topic";
        /// -1 for all of the broker's.
        queue_id: i32 = "queueId";
        /// How long the request may be held, in ms.
        poll_time: i64 = "pollTime";
        born_time: i64 = "bornTime";
        order: Option<bool> = "order";
        attempt_id: Option<&'a str> = "attemptId";
    }
}

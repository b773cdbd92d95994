//! Who the clients are and what they subscribe to: bodies between clients, brokers and admin tools.

use std::collections::BTreeMap;

use crate::body::{bodies, names};

names! {
    /// Whether a consumer asks for messages itself or is handed them.
    ConsumeType {
        /// Asks: a pull consumer.
        Actively = 0 "CONSUME_ACTIVELY",
        /// Is handed: a push consumer.
        Passively = 1 "CONSUME_PASSIVELY",
        /// Pops.
        Pop = 2 "CONSUME_POP",
    }

    /// Which consumers of a group get a message.
    MessageModel {
        /// Each of them.
        Broadcasting = 0 "BROADCASTING",
        /// One of them.
        Clustering = 1 "CLUSTERING",
    }

    /// Where a group starts in a queue that it never read.
    ConsumeFromWhere {
        /// At the end.
        LastOffset = 0 "CONSUME_FROM_LAST_OFFSET",
        /// Deprecated; as the last offset.
        LastOffsetAndFromMinWhenBootFirst = 1 "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST",
        /// Deprecated; as the last offset.
        MinOffset = 2 "CONSUME_FROM_MIN_OFFSET",
        /// Deprecated; as the last offset.
        MaxOffset = 3 "CONSUME_FROM_MAX_OFFSET",
        /// At the beginning.
        FirstOffset = 4 "CONSUME_FROM_FIRST_OFFSET",
        /// At a time that the client looks up.
        Timestamp = 5 "CONSUME_FROM_TIMESTAMP",
    }
}

bodies! {
    /// What a client is part of: the request of code 34.
    Heartbeat {
        client_id: String = "clientID";
        consumer_data_set: Vec<ConsumerData> = "consumerDataSet";
        /// From 5.x on, by default 0: a hash of all the rest.
        heartbeat_fingerprint: i32 = "heartbeatFingerprint";
        producer_data_set: Vec<ProducerData> = "producerDataSet";
        /// From 5.x on: nothing changed since the fingerprint was first sent.
        without_sub: bool = "withoutSub";
    }

    /// A producer group of the client.
    ProducerData {
        group_name: String = "groupName";
    }

    /// A consumer group of the client.
    ConsumerData {
        consume_from_where: Option<ConsumeFromWhere> = "consumeFromWhere";
        consume_type: Option<ConsumeType> = "consumeType";
        group_name: String = "groupName";
        message_model: Option<MessageModel> = "messageModel";
        subscription_data_set: Vec<SubscriptionData> = "subscriptionDataSet";
        unit_mode: bool = "unitMode";
    }

    /// What a group wants of a topic.
    SubscriptionData {
        class_filter_mode: bool = "classFilterMode";
        /// Hashes of the tags; better made anew from `tags_set`, clients differ in what they send.
        code_set: Vec<i64> = "codeSet";
        /// `TAG` or `SQL92`.
        expression_type: String = "expressionType" or "TAG";
        /// `*`, tags with `||` between, or an expression.
        sub_string: String = "subString";
        /// When the client made it: of Java in ms, of Go in ns since 1970-01-01 UTC.
        sub_version: i64 = "subVersion";
        tags_set: Vec<String> = "tagsSet";
        topic: String = "topic";
    }

    /// Whether the broker can filter so: the request of code 46.
    CheckClientConfig {
        client_id: String = "clientId";
        group: String = "group";
        namespace: Option<String> = "namespace";
        subscription_data: SubscriptionData = "subscriptionData";
    }

    /// A client of a group.
    Connection {
        client_addr: String = "clientAddr";
        client_id: String = "clientId";
        /// Name of a [`crate::header::Language`].
        language: String = "language";
        version: i32 = "version";
    }

    /// The clients of a consumer group: the response to code 203.
    ConsumerConnection {
        connection_set: Vec<Connection> = "connectionSet";
        consume_from_where: Option<ConsumeFromWhere> = "consumeFromWhere";
        consume_type: Option<ConsumeType> = "consumeType";
        message_model: Option<MessageModel> = "messageModel";
        /// By topic.
        subscription_table: BTreeMap<String, SubscriptionData> = "subscriptionTable";
    }

    /// The clients of a producer group: the response to code 204.
    ProducerConnection {
        connection_set: Vec<Connection> = "connectionSet";
    }

    /// The clients of all producer groups: the response to code 328.
    AllProducers {
        /// By group.
        data: BTreeMap<String, Vec<Producer>> = "data";
    }

    /// A client of a producer group.
    Producer {
        client_id: String = "clientId";
        /// Name of a [`crate::header::Language`].
        language: String = "language";
        /// When it was heard of, in ms since 1970-01-01 UTC.
        last_update_timestamp: i64 = "lastUpdateTimestamp";
        remote_ip: String = "remoteIP";
        version: i32 = "version";
    }

    /// What a group wants of a topic: the response to code 345.
    QuerySubscription {
        group: String = "group";
        subscription_data: Option<SubscriptionData> = "subscriptionData";
        topic: String = "topic";
    }
}

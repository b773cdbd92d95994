//! Bodies about queues: locks, offsets and statistics.
//!
//! Java writes a queue that is the key of a map as an object, `{{"brokerName":"b",..}:5}`, which is no JSON; it
//! is written so, and read so or as a text that holds the object.

use std::collections::BTreeMap;

use crate::body::{DataVersion, Json, Key, Writer, bodies};
use crate::heartbeat::SubscriptionData;
use crate::json::{JsonError, Scanner};

bodies! {
    /// One queue of a topic at a broker.
    #[derive(Eq, PartialOrd, Ord, Hash)]
    MessageQueue {
        broker_name: String = "brokerName";
        queue_id: i32 = "queueId";
        topic: String = "topic";
    }

    /// Queues to lock (41) or unlock (42) for a client.
    LockBatch {
        client_id: String = "clientId";
        consumer_group: String = "consumerGroup";
        mq_set: Vec<MessageQueue> = "mqSet";
        only_this_broker: bool = "onlyThisBroker";
    }

    /// Those that the client holds now: the response to code 41.
    LockedBatch {
        lock_ok_mq_set: Vec<MessageQueue> = "lockOKMQSet";
    }

    /// Offsets of a topic's queues: the response to code 202.
    TopicStats {
        offset_table: BTreeMap<MessageQueue, TopicOffset> = "offsetTable";
        /// Messages a second.
        topic_put_tps: f64 = "topicPutTps";
    }

    /// Offsets of a queue.
    TopicOffset {
        /// In ms since 1970-01-01 UTC.
        last_update_timestamp: i64 = "lastUpdateTimestamp";
        /// The next to be written.
        max_offset: i64 = "maxOffset";
        /// The first that is kept.
        min_offset: i64 = "minOffset";
    }

    /// How far a group is in its queues: the response to code 208.
    ConsumeStats {
        /// Messages a second.
        consume_tps: f64 = "consumeTps";
        offset_table: BTreeMap<MessageQueue, ConsumeOffset> = "offsetTable";
    }

    /// How far a group is in a queue.
    ConsumeOffset {
        /// The next to be written.
        broker_offset: i64 = "brokerOffset";
        /// The committed one.
        consumer_offset: i64 = "consumerOffset";
        /// When the last consumed message was stored, in ms since 1970-01-01 UTC.
        last_timestamp: i64 = "lastTimestamp";
        /// The next to be pulled.
        pull_offset: i64 = "pullOffset";
    }

    /// Where a group shall go on: the response to code 222, the request of code 220.
    ResetOffsets {
        offset_table: BTreeMap<MessageQueue, i64> = "offsetTable";
    }

    /// The same for C++ clients: the request of code 220 to them.
    ResetOffsetList {
        offset_table: Vec<QueueOffsetItem> = "offsetTable";
    }

    /// A queue and an offset.
    QueueOffsetItem {
        broker_name: String = "brokerName";
        offset: i64 = "offset";
        queue_id: i32 = "queueId";
        topic: String = "topic";
    }

    /// Where a group's clients are: the response to codes 221 and 223.
    ConsumerStatus {
        /// By client.
        consumer_table: BTreeMap<String, BTreeMap<MessageQueue, i64>> = "consumerTable";
        message_queue_table: BTreeMap<MessageQueue, i64> = "messageQueueTable";
    }

    /// Committed offsets of all groups: the response to code 43.
    ConsumerOffsetTable {
        data_version: DataVersion = "dataVersion";
        group_topic_map: Option<BTreeMap<String, Vec<String>>> = "groupTopicMap";
        /// By `topic@group` and queue id.
        offset_table: BTreeMap<String, BTreeMap<i32, i64>> = "offsetTable";
    }

    /// Offsets by queue id: the response to code 308.
    CorrectionOffsets {
        correction_offsets: BTreeMap<i32, i64> = "correctionOffsets";
    }

    /// When the messages of a group's queues were stored: the response to code 303.
    ConsumeTimeSpans {
        consume_time_span_set: Vec<QueueTimeSpan> = "consumeTimeSpanSet";
    }

    /// When the messages of a queue were stored, times in ms since 1970-01-01 UTC.
    QueueTimeSpan {
        /// Of the last consumed message.
        consume_time_stamp: i64 = "consumeTimeStamp";
        consume_time_stamp_str: Option<String> = "consumeTimeStampStr";
        /// In ms.
        delay_time: i64 = "delayTime";
        max_time_stamp: i64 = "maxTimeStamp";
        max_time_stamp_str: Option<String> = "maxTimeStampStr";
        message_queue: MessageQueue = "messageQueue";
        min_time_stamp: i64 = "minTimeStamp";
        min_time_stamp_str: Option<String> = "minTimeStampStr";
    }

    /// How far all groups are: the response to code 317.
    BrokerConsumeStats {
        broker_addr: String = "brokerAddr";
        /// By group, one for each topic.
        consume_stats_list: Vec<BTreeMap<String, Vec<ConsumeStats>>> = "consumeStatsList";
        /// Messages that are not consumed.
        total_diff: i64 = "totalDiff";
        total_inflight_diff: i64 = "totalInflightDiff";
    }

    /// A part of a consume queue: the response to code 321.
    QueryConsumeQueue {
        filter_data: Option<String> = "filterData";
        max_queue_index: i64 = "maxQueueIndex";
        min_queue_index: i64 = "minQueueIndex";
        queue_data: Vec<ConsumeQueueUnit> = "queueData";
        subscription_data: Option<SubscriptionData> = "subscriptionData";
    }

    /// One unit of a consume queue.
    ConsumeQueueUnit {
        bit_map: Option<String> = "bitMap";
        /// Whether the filter takes it.
        eval: bool = "eval";
        extend_data_json: Option<String> = "extendDataJson";
        msg: Option<String> = "msg";
        /// In the commit log, in bytes.
        physic_offset: i64 = "physicOffset";
        /// In bytes.
        physic_size: i32 = "physicSize";
        tags_code: i64 = "tagsCode";
    }

    /// A statistic over three spans of time: the response to code 315.
    BrokerStats {
        stats_day: BrokerStatsItem = "statsDay";
        stats_hour: BrokerStatsItem = "statsHour";
        stats_minute: BrokerStatsItem = "statsMinute";
    }

    /// A statistic over one span of time.
    BrokerStatsItem {
        avgpt: f64 = "avgpt";
        sum: i64 = "sum";
        tps: f64 = "tps";
    }
}

impl Key for MessageQueue {
    fn read(scanner: &mut Scanner<'_>) -> Result<Self, JsonError> {
        if scanner.peek() != Some(b'{') {
            let text = scanner.key()?;
            let mut inner = scanner.inner(text.as_bytes());
            let queue = <Self as Json>::read(&mut inner)?.unwrap_or_default();
            inner.end()?;
            return Ok(queue);
        }
        let queue = <Self as Json>::read(scanner)?.unwrap_or_default();
        scanner.colon()?;
        Ok(queue)
    }

    fn write(&self, writer: &mut Writer) {
        Json::write(self, writer);
    }
}

//! The typed headers of successful responses, as of `RocketMQ` 5.3.3.
//!
//! A code without an entry here answers without fields. Fields are written in the order of Java's.

use crate::fields::headers;

headers! {
    /// Of a sent message or batch: codes 10, 310, 320. A Java client fails without these fields.
    SendMessage<'a> {
        queue_id: i32 = "queueId";
        /// The message's `UNIQ_KEY`.
        transaction_id: Option<&'a str> = "transactionId";
        /// Message id, of a batch all of them with commas between; see [`crate::message_id`].
        msg_id: &'a str = "msgId";
        /// Whether the client shall trace.
        trace_on: Option<bool> = "TRACE_ON";
        region: Option<&'a str> = "MSG_REGION";
        /// Of the first message.
        queue_offset: i64 = "queueOffset";
        /// From 5.x on: names a message that waits for its time, to take it back.
        recall_handle: Option<&'a str> = "recallHandle";
    }

    /// Of a message that was taken back: code 370.
    RecallMessage<'a> {
        msg_id: &'a str = "msgId";
    }

    /// Of a pull: codes 11, 361, with any response code. The body is records one after the other, the remark
    /// the status's name.
    PullMessage {
        /// 0 to go on at the master.
        suggest_which_broker_id: i64 = "suggestWhichBrokerId";
        group_sys_flag: Option<i32> = "groupSysFlag";
        /// Where the next pull starts.
        next_begin_offset: i64 = "nextBeginOffset";
        max_offset: i64 = "maxOffset";
        min_offset: i64 = "minOffset";
        topic_sys_flag: Option<i32> = "topicSysFlag";
    }

    /// An offset: codes 14, 29, 30, 31.
    Offset {
        offset: i64 = "offset";
    }

    /// A time: code 32.
    Timestamp {
        /// In ms since 1970-01-01 UTC, -1 for none.
        timestamp: i64 = "timestamp";
    }

    /// Of a lookup by key: code 12. The body is records one after the other.
    QueryMessage {
        index_last_update_timestamp: i64 = "indexLastUpdateTimestamp";
        /// In the commit log, in bytes.
        index_last_update_phyoffset: i64 = "indexLastUpdatePhyoffset";
    }

    /// Of a heartbeat: code 34.
    Heartbeat {
        is_support_heart_beat_v2: bool = "IS_SUPPORT_HEART_BEAT_V2";
        /// Whether the client shall send all of its subscriptions again.
        is_sub_change: bool = "IS_SUB_CHANGE";
    }

    /// Of a broker's registration: code 103. The body is a table of settings, or none.
    RegisterBroker<'a> {
        ha_server_addr: Option<&'a str> = "haServerAddr";
        master_addr: Option<&'a str> = "masterAddr";
    }

    /// A setting: code 101.
    GetKvConfig<'a> {
        value: &'a str = "value";
    }

    /// Whether a broker's topics changed: code 322.
    QueryDataVersion {
        changed: bool = "changed";
    }

    /// How many queue rows lost the write permission: code 205.
    WipeWritePerm {
        wipe_topic_count: i32 = "wipeTopicCount";
    }

    /// How many queue rows got it back: code 327.
    AddWritePerm {
        add_topic_count: i32 = "addTopicCount";
    }

    /// Of popped messages: code 200050. The body is records one after the other; the texts are those of
    /// [`crate::pop::Infos`].
    PopMessage<'a> {
        /// When they were popped.
        pop_time: i64 = "popTime";
        /// In ms.
        invisible_time: i64 = "invisibleTime";
        /// Comes back with each acknowledgement.
        revive_queue_id: i32 = "reviveQid";
        /// Messages that are left, about.
        rest_num: i64 = "restNum";
        start_offset_info: Option<&'a str> = "startOffsetInfo";
        msg_offset_info: Option<&'a str> = "msgOffsetInfo";
        order_count_info: Option<&'a str> = "orderCountInfo";
    }

    /// Of a changed time, which stands in place of what the message was popped with: code 200053.
    ChangeInvisibleTime {
        pop_time: i64 = "popTime";
        /// In ms.
        invisible_time: i64 = "invisibleTime";
        revive_queue_id: i32 = "reviveQid";
    }

    /// Whether there are messages to pop: code 200054.
    Notification {
        has_msg: bool = "hasMsg";
        /// Whether too many requests are held.
        polling_full: bool = "pollingFull";
    }

    /// How many pops wait: code 200055.
    PollingInfo {
        polling_num: i32 = "pollingNum";
    }
}

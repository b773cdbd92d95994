//! What every bridge makes of a record of its system, and what properties of a message can hold.

use std::borrow::Cow;

/// Names that RocketMQ's clients and brokers give a meaning (`MessageConst` of `rocketmq-common`), sorted.
const RESERVED: [&str; 53] = [
    "1ST_POP_TIME",
    "ARRIVE_TIME",
    "BUYER_ID",
    "CHECK_IMMUNITY_TIME_IN_SECONDS",
    "CLUSTER",
    "CONSUME_START_TIME",
    "CORRECTION_FLAG",
    "CORRELATION_ID",
    "DELAY",
    "DLQ_ORIGIN_MESSAGE_ID",
    "DLQ_ORIGIN_TOPIC",
    "DUP_INFO",
    "EXTEND_UNIQ_INFO",
    "INNER_BASE",
    "INNER_MULTI_DISPATCH",
    "INNER_MULTI_QUEUE_OFFSET",
    "INNER_NUM",
    "INSTANCE_ID",
    "KEYS",
    "MAX_OFFSET",
    "MAX_RECONSUME_TIMES",
    "MIN_OFFSET",
    "MQ2_FLAG",
    "MSG_REGION",
    "MSG_TYPE",
    "ORIGIN_MESSAGE_ID",
    "PGROUP",
    "POP_CK",
    "POP_CK_OFFSET",
    "PUSH_REPLY_TIME",
    "REAL_QID",
    "REAL_TOPIC",
    "RECONSUME_TIME",
    "REPLY_TO_CLIENT",
    "RETRY_TOPIC",
    "TAGS",
    "TIMER_DELAY_MS",
    "TIMER_DELAY_SEC",
    "TIMER_DELIVER_MS",
    "TIMER_DEL_UNIQKEY",
    "TIMER_OUT_MS",
    "TRACE_ON",
    "TRANSACTION_CHECK_TIMES",
    "TRANSFER_FLAG",
    "TRAN_MSG",
    "TRAN_PREPARED_QUEUE_OFFSET",
    "TTL",
    "UNIQ_KEY",
    "WAIT",
    "__SHARDINGKEY",
    "__SLUICE_BATCH",
    "__STARTDELIVERTIME",
    "__transactionId__",
];

/// Whether RocketMQ's clients and brokers give a property of this name a meaning.
pub fn is_reserved(name: &str) -> bool {
    RESERVED.binary_search(&name).is_ok()
}

/// The text of bytes that a property can have as its value.
pub(crate) fn plain(bytes: &[u8]) -> Option<&str> {
    let fits = !bytes.is_empty() && bytes.iter().all(|b| !matches!(b, 0 | 2));
    str::from_utf8(bytes).ok().filter(|_| fits)
}

/// What a record becomes beside the body and the times; texts are the record's own where they stand in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapped<'a> {
    /// The business keys.
    pub keys: Option<Cow<'a, str>>,
    /// The tag.
    pub tags: Option<Cow<'a, str>>,
    /// The unique id.
    pub message_id: Option<Cow<'a, str>>,
    /// The other properties, each name once.
    pub properties: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Mapped<'a> {
    /// The value of a property.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.iter().find(|(other, _)| other == name).map(|(_, value)| &**value)
    }

    /// Of texts that nobody else has.
    #[cfg(test)]
    pub(crate) fn of(
        [keys, tags, message_id]: [Option<String>; 3],
        properties: Vec<(String, String)>,
    ) -> Mapped<'static> {
        let [keys, tags, message_id] = [keys, tags, message_id].map(|text| text.map(Cow::Owned));
        let properties = properties.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Mapped { keys, tags, message_id, properties }
    }

    /// Names and values of the other properties.
    #[cfg(test)]
    pub(crate) fn own(&self) -> impl Iterator<Item = (&str, &str)> {
        self.properties.iter().map(|(name, value)| (&**name, &**value))
    }

    pub(crate) fn set(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) {
        self.properties.push((name.into(), value.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names_are_sorted() {
        assert!(RESERVED.is_sorted());
    }
}

//! Popped messages: the texts that tell a client which message stands where and that come back with its
//! acknowledgement, and the bodies of what is asked beside the pops. As of `RocketMQ` 5.3.3.

use std::collections::BTreeMap;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::body::{Json, Writer, bodies, names};
use crate::heartbeat::MessageModel;
use crate::id::{QueueId, QueueOffset};
use crate::json::{JsonError, Scanner, write_text};
use crate::queue::MessageQueue;
use crate::topic::RETRY_PREFIX;

/// Property: what a client knows of the popping of a message.
pub const POP_CK: &str = "POP_CK";
/// Most bytes of a [`BitSet`] that are read: acknowledgements of one answer to a pop are not further apart.
const BIT_SET_BYTES_MAX: usize = 64 * 1024;

/// What comes back of a pop with an acknowledgement, as the client put it together: start offset, time of the pop,
/// invisible time, revive queue, kind of topic, broker, queue and perhaps the offset, separated by spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtraInfo {
    /// In ms since 1970-01-01 UTC.
    pub pop_time: i64,
    /// What the answer to the pop said as `reviveQid`.
    pub revive_queue_id: i32,
}

impl ExtraInfo {
    /// Reads what matters of the text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let pop_time = parts.nth(1)?.parse().ok()?;
        Some(Self { pop_time, revive_queue_id: parts.nth(1)?.parse().ok()? })
    }
}

/// The kind of a topic as the texts name it: 0, or 1 and 2 for retry topics of two ways to name them.
pub fn topic_kind(topic: &str) -> u8 {
    match topic.strip_prefix(RETRY_PREFIX) {
        None => 0,
        Some(rest) => 1 + u8::from(rest.contains('+')),
    }
}

/// The topic that a client names by the topic it subscribes to and a [`topic_kind`].
pub fn real_topic(topic: &str, group: &str, kind: &str) -> String {
    match kind {
        "1" => format!("{RETRY_PREFIX}{group}_{topic}"),
        "2" => format!("{RETRY_PREFIX}{group}+{topic}"),
        _ => topic.to_owned(),
    }
}

/// The texts of an answer that say which messages it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Infos {
    /// By queue the first offset.
    pub start_offsets: String,
    /// By queue all offsets.
    pub offsets: String,
}

impl Infos {
    /// Adds the messages of a queue, in the order of the body.
    pub fn add(&mut self, topic: &str, queue: QueueId, offsets: impl Iterator<Item = QueueOffset>) {
        let kind = topic_kind(topic);
        let separator = if self.offsets.is_empty() { "" } else { ";" };
        for (i, offset) in offsets.enumerate() {
            // Writing to a string never fails.
            let _ = if i == 0 {
                let _ = write!(self.start_offsets, "{separator}{kind} {queue} {offset}");
                write!(self.offsets, "{separator}{kind} {queue} {offset}")
            } else {
                write!(self.offsets, ",{offset}")
            };
        }
    }
}

names! {
    /// How the consumers of a group get the messages of a topic.
    RequestMode {
        /// Each has its queues, and pulls them.
        Pull = 0 "PULL",
        /// They share the queues, and pop from them.
        Pop = 1 "POP",
    }
}

bodies! {
    /// Which queues are a client's: the request of code 400.
    QueryAssignment {
        client_id: String = "clientId";
        consumer_group: String = "consumerGroup";
        message_model: Option<MessageModel> = "messageModel";
        /// `AVG` or `AVG_BY_CIRCLE`, among others.
        strategy_name: String = "strategyName";
        topic: String = "topic";
    }

    /// Those queues: the response to code 400.
    Assignments {
        message_queue_assignments: Vec<Assignment> = "messageQueueAssignments";
    }

    /// A queue, or with queue id -1 all of a broker's, and how its messages are got.
    Assignment {
        attachments: Option<crate::body::Unread> = "attachments";
        message_queue: MessageQueue = "messageQueue";
        mode: Option<RequestMode> = "mode";
    }

    /// How a group gets a topic's messages: the request of code 401.
    SetRequestMode {
        consumer_group: String = "consumerGroup";
        mode: Option<RequestMode> = "mode";
        /// How many other members' queues each one pops from beside its own; 0 for all.
        pop_share_queue_num: i32 = "popShareQueueNum";
        topic: String = "topic";
    }

    /// How all groups get their messages: the response to code 402, and `config/messageRequestMode.json`.
    RequestModes {
        /// By topic and group.
        message_request_mode_map: BTreeMap<String, BTreeMap<String, SetRequestMode>> = "messageRequestModeMap";
    }

    /// Messages that are consumed: the request of code 200151.
    BatchAck {
        acks: Vec<AckOfPop> = "acks";
        broker_name: String = "brokerName";
    }

    /// Messages of one queue that one pop brought.
    AckOfPop {
        /// Which of the offsets from the first on.
        bits: BitSet = "b";
        consumer_group: String = "c";
        invisible_time: i64 = "it";
        pop_time: i64 = "pt";
        queue_id: i32 = "q";
        /// See [`topic_kind`].
        kind: String = "r";
        revive_queue_id: i32 = "rq";
        start_offset: i64 = "so";
        topic: String = "t";
    }
}

/// A set of small numbers: on the wire Base64 of bytes, the lowest bit of the first one is number 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BitSet(Vec<u8>);

impl BitSet {
    /// The numbers, rising.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        let bits = |(at, byte): (usize, &u8)| {
            let byte = *byte;
            (0..8).filter(move |bit| byte & (1 << bit) != 0).map(move |bit| at * 8 + bit)
        };
        self.0.iter().enumerate().flat_map(bits)
    }
}

impl FromIterator<usize> for BitSet {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> Self {
        let mut bytes = Vec::new();
        for number in numbers {
            let at = number / 8;
            if bytes.len() <= at {
                bytes.resize(at + 1, 0);
            }
            if let Some(byte) = bytes.get_mut(at) {
                *byte |= 1 << (number % 8);
            }
        }
        Self(bytes)
    }
}

impl Json for BitSet {
    fn read(scanner: &mut Scanner<'_>) -> Result<Option<Self>, JsonError> {
        let Some(text) = scanner.scalar()? else { return Ok(None) };
        if text.len() > BIT_SET_BYTES_MAX / 3 * 4 {
            return Err(scanner.expected("shorter set of bits"));
        }
        let bytes =
            STANDARD.decode(text.as_bytes()).map_err(|_| scanner.expected("set of bits in Base64"))?;
        Ok(Some(Self(bytes)))
    }

    fn write(&self, writer: &mut Writer) {
        write_text(&mut writer.out, &STANDARD.encode(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_of_a_pop_is_read() {
        let read = |text| ExtraInfo::parse(text).map(|info| (info.pop_time, info.revive_queue_id));
        assert_eq!(read("10 1700000000000 60000 3 0 broker-a 2"), Some((1_700_000_000_000, 3)));
        assert_eq!(read("10 1700000000000 60000 3 1 broker-a 0 12"), Some((1_700_000_000_000, 3)));
        for text in ["", "10", "10 x 60000 3", "10 1 60000", "10 1 60000 x"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn the_texts_of_an_answer_are_those_of_java() {
        let queue = QueueId::ZERO;
        let mut infos = Infos::default();
        infos.add("TopicTest", queue, [100, 101, 103].map(QueueOffset::new).into_iter());
        infos.add("%RETRY%CG_TopicTest", queue, [7].map(QueueOffset::new).into_iter());
        assert_eq!(infos.start_offsets, "0 0 100;1 0 7");
        assert_eq!(infos.offsets, "0 0 100,101,103;1 0 7");
        assert_eq!(topic_kind("%RETRY%CG+TopicTest"), 2);
    }

    #[test]
    fn acknowledgements_of_several_messages_are_those_of_java() {
        let text = br#"{"acks":[{"b":"CQI=","c":"CG","it":60000,"pt":1700000000000,"q":2,"r":"0","rq":3,"so":100,"t":"TopicTest"}],"brokerName":"broker-a"}"#;
        let ack = BatchAck::decode(text).unwrap();
        assert_eq!(ack.acks[0].bits.iter().collect::<Vec<_>>(), [0, 3, 9]);
        assert_eq!(ack.encode(), text);
    }

    #[test]
    fn a_set_of_bits_holds_what_was_put_in() {
        for len in 0..40 {
            let set: BitSet = (0..len).filter(|bit| bit % 3 != 1).collect();
            assert!(set.iter().eq((0..len).filter(|bit| bit % 3 != 1)));
        }
    }
}

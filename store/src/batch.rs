//! What is appended in one go: records encoded ahead of the lock, and the mark that makes them one.
//!
//! Never touches a file; the commit log gives the records their places.
//!
//! The mark is a property of the first record, [`BATCH_MARK`]. Its value is text in fields separated by one
//! space: records (10 digits), bytes (10 digits); and in the batch of a chain also start and end (20 digits
//! each), five fates (20 digits each), incarnation, chain. Only the chain may hold spaces.

use std::collections::HashMap;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use sluice_protocol::id::{LogOffset, QueueId, QueueOffset, TopicName};
use sluice_protocol::message::{self, BATCH_MARK, Message, PROPERTIES_BYTES_MAX, sys_flag};
use sluice_protocol::record::{self, Record, RecordError};

use crate::Error;
use crate::delay::code_of;

/// Longest body, in bytes: as much as clients send.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest chain name and longest incarnation, in bytes each.
pub const CHAIN_BYTES_MAX: usize = 1024;

/// Longest property that holds a mark, in bytes; an atomic batch leaves that much room in its properties.
const MARK_BYTES_MAX: usize = BATCH_MARK.len() + 2 + 2 * 11 + 7 * 21 + 2 * CHAIN_BYTES_MAX + 2;

/// Longest properties of a message of an atomic batch, in bytes.
pub const ATOMIC_PROPERTIES_BYTES_MAX: usize = PROPERTIES_BYTES_MAX - MARK_BYTES_MAX;

/// Room that a batch begins with unless told, in bytes: most need no more.
const FIRST_BYTES: usize = 48 * 1024;

/// Messages that are appended together, as one contiguous run, in the order they were pushed.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Encoded records, one after the other.
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: Vec<Placed>,
    pub(crate) queues: Vec<(TopicName, QueueId)>,
    numbers: HashMap<(TopicName, QueueId), u32>,
    pub(crate) atomic: bool,
}

/// One record of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    /// Length in bytes.
    pub(crate) size: u32,
    /// Which of the batch's queues.
    pub(crate) queue: u32,
    /// What its consume queue keeps of the tag; none of a message with a delay level.
    pub(crate) tag_hash: Option<i64>,
    /// Whether consumers see it: halves of open transactions stand in the log only.
    pub(crate) indexed: bool,
}

impl Batch {
    /// A batch of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A batch of nothing with room for so many bytes of encoded records: growing copies what is there.
    pub fn with_room(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Encodes a message at the end of the batch. A batch mark among its properties is left out: it
    /// belonged to another batch.
    ///
    /// Refused are a body over [`BODY_BYTES_MAX`], too long properties, a zero byte in the properties.
    pub fn push(&mut self, topic: &TopicName, queue: QueueId, message: &Message<'_>) -> Result<(), Error> {
        limit("body", message.body.len(), BODY_BYTES_MAX)?;
        let stripped = without_mark(message.properties);
        let message = Message { properties: stripped.as_deref().unwrap_or(message.properties), ..*message };
        let max = if self.atomic { ATOMIC_PROPERTIES_BYTES_MAX } else { PROPERTIES_BYTES_MAX };
        limit("properties", message.properties.len(), max)?;
        if memchr::memchr(0, message.properties).is_some() {
            return Err(Error::Malformed { what: "properties", reason: "a zero byte marks torn records" });
        }
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(FIRST_BYTES);
        }
        let size =
            record::encode(&mut self.bytes, topic.as_str(), queue, &message).map_err(|e| refused(&e))?;
        let tag_hash = code_of(topic.as_str(), message.properties);
        let transaction = message.sys_flag & sys_flag::TRANSACTION;
        let indexed = !matches!(transaction, sys_flag::TRANSACTION_PREPARED | sys_flag::TRANSACTION_ROLLBACK);
        let queue = self.number(topic, queue);
        // A record is smaller than 2 GiB, or it would not have been encoded.
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        self.records.push(Placed { size, queue, tag_hash, indexed });
        Ok(())
    }

    /// Makes the batch whole or absent after a crash. Marked before the first push, it keeps room for the
    /// mark in the properties.
    pub fn atomic(&mut self) {
        self.atomic = true;
    }

    /// Number of messages.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it has no message.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Encoded length in bytes, without a mark.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn number(&mut self, topic: &TopicName, queue: QueueId) -> u32 {
        if let (Some(last), Some((t, q))) = (self.records.last(), self.queues.last())
            && last.queue as usize == self.queues.len() - 1
            && *q == queue
            && t == topic
        {
            return last.queue;
        }
        let next = u32::try_from(self.queues.len()).unwrap_or(u32::MAX);
        *self.numbers.entry((topic.clone(), queue)).or_insert_with(|| {
            self.queues.push((topic.clone(), queue));
            next
        })
    }

    /// The first record with the mark in it, to be written in place of the encoded one; the rest of the
    /// batch follows as it is.
    pub(crate) fn marked(&mut self, chain: Option<&ChainMark>) -> Result<Vec<u8>, Error> {
        let Some(first) = self.records.first_mut() else { return Ok(Vec::new()) };
        let old = self.bytes.get(..first.size as usize).unwrap_or(&[]);
        let record = Record::decode(old).map_err(|e| refused(&e))?;
        let mut properties = record.properties.to_vec();
        let gap = properties.last().is_some_and(|&b| b != 2);
        // Digits have a fixed width, so a first writing tells how long the second will be.
        let added = usize::from(gap) + BATCH_MARK.len() + 2 + mark_value(0, 0, chain).len();
        limit("properties with the mark", properties.len() + added, PROPERTIES_BYTES_MAX)?;
        let value = mark_value(self.records.len(), self.bytes.len() + added, chain);
        message::push_property(&mut properties, BATCH_MARK, &value)
            .map_err(|_| Error::Malformed { what: "chain", reason: "it holds a separator or zero byte" })?;
        let message = Message { properties: &properties, ..record.message() };
        let queue = QueueId::new(record.queue_id).unwrap_or_default();
        let mut head = Vec::new();
        record::encode(&mut head, record.topic, queue, &message).map_err(|e| refused(&e))?;
        Ok(head)
    }
}

/// Where a chain stands after a batch, stored with the batch's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainMark {
    /// Name of the chain, at most [`CHAIN_BYTES_MAX`] bytes.
    pub chain: String,
    /// What tells the source's topic from another one of its name; no spaces.
    pub incarnation: String,
    /// First source offset of the batch.
    pub start: i64,
    /// First source offset after the batch.
    pub end: i64,
    /// Source offsets by fate: written, filtered, skipped, dead, absent.
    pub fates: [u64; 5],
}

impl ChainMark {
    pub(crate) fn check(&self) -> Result<(), Error> {
        check_chain(&self.chain, &self.incarnation)?;
        if self.start < 0 || self.end < self.start {
            return Err(Error::Malformed { what: "range", reason: "it ends before it starts, or below 0" });
        }
        Ok(())
    }
}

/// Names that a mark can hold.
pub(crate) fn check_chain(chain: &str, incarnation: &str) -> Result<(), Error> {
    limit("chain", chain.len(), CHAIN_BYTES_MAX)?;
    limit("incarnation", incarnation.len(), CHAIN_BYTES_MAX)?;
    if chain.is_empty() || chain.bytes().any(|b| b <= 2) {
        return Err(Error::Malformed { what: "chain", reason: "it is empty or holds a separator" });
    }
    if incarnation.bytes().any(|b| b <= 2 || b == b' ') {
        return Err(Error::Malformed { what: "incarnation", reason: "it holds a space or separator" });
    }
    Ok(())
}

/// What the mark on a stored record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchMark {
    /// Records of the batch.
    pub(crate) records: u64,
    /// Bytes of the batch.
    pub(crate) bytes: u64,
    /// The chain that the batch moved.
    pub(crate) chain: Option<ChainMark>,
}

impl BatchMark {
    /// The mark of a record that has one.
    pub(crate) fn read(properties: &[u8]) -> Option<Self> {
        let value = message::property(properties, BATCH_MARK)?;
        let mut fields = value.splitn(11, ' ');
        let records = fields.next()?.parse().ok()?;
        let bytes = fields.next()?.parse().ok()?;
        let Some(start) = fields.next() else { return Some(Self { records, bytes, chain: None }) };
        let (start, end) = (start.parse().ok()?, fields.next()?.parse().ok()?);
        let mut fates = [0; 5];
        for fate in &mut fates {
            *fate = fields.next()?.parse().ok()?;
        }
        let (incarnation, chain) = (fields.next()?.into(), fields.next()?.into());
        Some(Self { records, bytes, chain: Some(ChainMark { chain, incarnation, start, end, fates }) })
    }
}

fn mark_value(records: usize, bytes: usize, chain: Option<&ChainMark>) -> String {
    use std::fmt::Write;
    let mut value = format!("{records:010} {bytes:010}");
    if let Some(ChainMark { chain, incarnation, start, end, fates }) = chain {
        // Writing to a string never fails.
        let _ = write!(value, " {start:020} {end:020}");
        for fate in fates {
            let _ = write!(value, " {fate:020}");
        }
        let _ = write!(value, " {incarnation} {chain}");
    }
    value
}

static MARK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(BATCH_MARK));

/// The properties without a mark, if they have one.
fn without_mark(properties: &[u8]) -> Option<Vec<u8>> {
    let is_mark =
        |entry: &[u8]| entry.strip_prefix(BATCH_MARK.as_bytes()).is_some_and(|rest| rest.first() == Some(&1));
    // Hardly any message has one, so one search for its name is all that most are asked.
    if MARK.find(properties).is_none() || !message::split(properties).any(is_mark) {
        return None;
    }
    let mut kept = Vec::with_capacity(properties.len());
    for entry in message::split(properties).filter(|e| !e.is_empty() && !is_mark(e)) {
        kept.extend_from_slice(entry);
        kept.push(2);
    }
    Some(kept)
}

fn limit(what: &'static str, len: usize, max: usize) -> Result<(), Error> {
    if len > max { Err(Error::TooLarge { what, len: len as u64, max: max as u64 }) } else { Ok(()) }
}

fn refused(error: &RecordError) -> Error {
    match error {
        RecordError::TooLarge { field, len, max } => {
            Error::TooLarge { what: field, len: *len as u64, max: *max as u64 }
        }
        _ => Error::Malformed { what: "record", reason: "it can not be read back" },
    }
}

/// Where an append went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Where its run starts in the commit log.
    pub log_offset: LogOffset,
    /// Length of the run in bytes; 0 if the batch was empty.
    pub bytes: u64,
    /// When it was stored, in ms since 1970-01-01 UTC.
    pub store_timestamp_ms: i64,
    /// The queue offset of each message, in the order they were pushed.
    pub queue_offsets: Vec<QueueOffset>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> ChainMark {
        ChainMark {
            chain: "p/some dir/a file.csv/0#dead".into(),
            incarnation: String::new(),
            start: 7,
            end: i64::MAX,
            fates: [1, 2, 3, 4, u64::MAX],
        }
    }

    #[test]
    fn a_mark_says_what_was_marked() {
        let topic = TopicName::new("t").unwrap();
        for properties in [&b""[..], b"a\x011\x02", b"a\x011"] {
            let mut batch = Batch::new();
            batch.push(&topic, QueueId::ZERO, &Message { properties, ..Message::default() }).unwrap();
            batch.push(&topic, QueueId::ZERO, &Message::default()).unwrap();
            for chain in [None, Some(mark())] {
                let head = batch.marked(chain.as_ref()).unwrap();
                let read = Record::decode(&head).unwrap();
                let bytes = (head.len() + batch.records[1].size as usize) as u64;
                assert_eq!(BatchMark::read(read.properties), Some(BatchMark { records: 2, bytes, chain }));
                assert_eq!(message::property(read.properties, "a").is_some(), !properties.is_empty());
            }
        }
    }

    #[test]
    fn a_mark_of_another_batch_is_left_out() {
        let properties = b"a\x011\x02__SLUICE_BATCH\x010000000009 0000000009\x02b\x012\x02";
        let mut batch = Batch::new();
        let message = Message { properties, ..Message::default() };
        batch.push(&TopicName::new("t").unwrap(), QueueId::ZERO, &message).unwrap();
        assert_eq!(Record::decode(&batch.bytes).unwrap().properties, b"a\x011\x02b\x012\x02");
    }

    #[test]
    fn the_longest_mark_fits_into_the_room_that_an_atomic_batch_keeps() {
        let topic = TopicName::new("t").unwrap();
        let mut batch = Batch::new();
        batch.atomic();
        let mut properties = Vec::new();
        let value = "v".repeat(PROPERTIES_BYTES_MAX - MARK_BYTES_MAX - 3);
        message::push_property(&mut properties, "a", &value).unwrap();
        let message = Message { properties: &properties, ..Message::default() };
        batch.push(&topic, QueueId::ZERO, &message).unwrap();
        let long = "c".repeat(CHAIN_BYTES_MAX);
        let mark = ChainMark { chain: long.clone(), incarnation: long, ..mark() };
        mark.check().unwrap();
        assert!(batch.marked(Some(&mark)).is_ok());
    }

    #[test]
    fn what_could_not_be_read_back_is_refused() {
        let mut batch = Batch::new();
        let topic = TopicName::new("t").unwrap();
        let body = vec![0; BODY_BYTES_MAX + 1];
        assert!(batch.push(&topic, QueueId::ZERO, &Message { body: &body, ..Message::default() }).is_err());
        let properties = b"a\x01\x00\x02";
        assert!(batch.push(&topic, QueueId::ZERO, &Message { properties, ..Message::default() }).is_err());
        assert!(batch.is_empty() && batch.bytes() == 0);
        assert!(ChainMark { start: 9, end: 8, ..mark() }.check().is_err());
        assert!(ChainMark { chain: "a\u{2}".into(), ..mark() }.check().is_err());
        assert!(ChainMark { incarnation: "a b".into(), ..mark() }.check().is_err());
    }
}

//! The bytes of one stored message: the one encoder and the one decoder. Commit log and pull reply share
//! them. Knows no file and never inflates a body.
//!
//! Big-endian:
//!
//! | field                         | bytes   | meaning                                                   |
//! |-------------------------------|--------:|-----------------------------------------------------------|
//! | `size`                        |       4 | of the whole record, itself included                      |
//! | `magic`                       |       4 | [`MAGIC_V1`], or [`MAGIC_V2`] with the longer topic length |
//! | `body_crc`                    |       4 | CRC-32 of the body, top bit cleared                       |
//! | `queue_id`                    |       4 | from 0                                                    |
//! | `flag`                        |       4 | the producer's own                                        |
//! | `queue_offset`                |       8 | position in the queue, in messages                        |
//! | `log_offset`                  |       8 | position in the commit log, in bytes                      |
//! | `sys_flag`                    |       4 | bits of [`crate::message::sys_flag`]                      |
//! | `born_timestamp`              |       8 | ms since 1970-01-01 UTC                                   |
//! | `born_host`                   | 8 or 20 | address of 4 or (`sys_flag` 0x10) 16 bytes, port of 4     |
//! | `store_timestamp`             |       8 | ms since 1970-01-01 UTC                                   |
//! | `store_host`                  | 8 or 20 | address of 4 or (`sys_flag` 0x20) 16 bytes, port of 4     |
//! | `reconsume_times`             |       4 | failed consumptions                                       |
//! | `prepared_transaction_offset` |       8 | log offset of the transaction's first half                |
//! | body                          |   4 + n | length, bytes                                             |
//! | topic                         | 1 or 2 + n | length (2 bytes in V2), name                           |
//! | properties                    |   2 + n | length (at most 32,767), text                             |
//!
//! The store sets `queue_offset`, `log_offset` and `store_timestamp` when it knows them ([`patch`]). The rest
//! of a commit-log segment that no record fits into is a filler: its size (4), [`MAGIC_FILLER`] (4), padding.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::id::QueueId;
use crate::message::{Message, PROPERTIES_BYTES_MAX, sys_flag};

/// Magic of a record whose topic has a length of one byte.
pub const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Magic of a record whose topic has a length of two bytes.
pub const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Magic of the filler at the end of a segment.
pub const MAGIC_FILLER: u32 = 0xCBD4_3194;
/// Bytes of a filler's size and magic.
pub const FILLER_BYTES: usize = 8;
/// Fewest bytes of a record: two short addresses, no body, one byte of topic, no properties.
pub const RECORD_BYTES_MIN: usize = BORN_HOST_AT + 8 + 8 + 8 + 12 + 4 + 2 + 2;

/// A record's first so many bytes tell its size, see [`size`].
pub const HEAD_BYTES: usize = BORN_HOST_AT + 20 + 8 + 20 + 12 + 4;

const QUEUE_OFFSET_AT: usize = 20;
const LOG_OFFSET_AT: usize = 28;
const SYS_FLAG_AT: usize = 36;
const BORN_HOST_AT: usize = 48;
/// Longer topics are written as V2.
const TOPIC_BYTES_V1_MAX: usize = 127;

/// Bytes that are no record, or a message that can be none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields and their units")]
pub enum RecordError {
    /// The bytes end before the record does.
    #[error("record of {size} bytes is cut after {len} bytes")]
    Cut { size: usize, len: usize },
    /// Not the magic of a record.
    #[error("magic {magic:#010x} is none of a record")]
    Magic { magic: u32 },
    /// A length that contradicts the record's size, or a topic that is no text.
    #[error("record of {size} bytes has a bad {field}")]
    Field { size: usize, field: &'static str },
    /// The message does not fit into a record.
    #[error("{field} of {len} bytes exceeds the limit of {max} bytes")]
    TooLarge { field: &'static str, len: usize, max: usize },
}

/// Appends the record of a message and returns its size in bytes. The fields that the store sets are zero.
pub fn encode(
    out: &mut Vec<u8>,
    topic: &str,
    queue_id: QueueId,
    message: &Message<'_>,
) -> Result<usize, RecordError> {
    let limit =
        |field, len, max| if len > max { Err(RecordError::TooLarge { field, len, max }) } else { Ok(()) };
    limit("topic", topic.len(), usize::from(u16::MAX))?;
    limit("properties", message.properties.len(), PROPERTIES_BYTES_MAX)?;
    if topic.is_empty() {
        return Err(RecordError::Field { size: 0, field: "topic" });
    }
    let v2 = topic.len() > TOPIC_BYTES_V1_MAX;
    let hosts = [message.born_host, message.store_host].map(|h| if h.is_ipv4() { 0 } else { 12 });
    let rest =
        RECORD_BYTES_MIN - 1 + hosts[0] + hosts[1] + usize::from(v2) + topic.len() + message.properties.len();
    limit("body", message.body.len(), i32::MAX as usize - rest)?;
    let size = rest + message.body.len();

    let mut flags = message.sys_flag & !(sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6);
    flags |= if message.born_host.is_ipv6() { sys_flag::BORN_HOST_V6 } else { 0 };
    flags |= if message.store_host.is_ipv6() { sys_flag::STORE_HOST_V6 } else { 0 };

    out.reserve(size);
    let start = out.len();
    put_len(out, size);
    out.extend_from_slice(&if v2 { MAGIC_V2 } else { MAGIC_V1 }.to_be_bytes());
    out.extend_from_slice(&body_crc(message.body).to_be_bytes());
    out.extend_from_slice(&queue_id.get().to_be_bytes());
    out.extend_from_slice(&message.flag.to_be_bytes());
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&message.born_timestamp_ms.to_be_bytes());
    put_host(out, message.born_host);
    out.extend_from_slice(&[0; 8]);
    put_host(out, message.store_host);
    out.extend_from_slice(&message.reconsume_times.to_be_bytes());
    out.extend_from_slice(&message.prepared_transaction_offset.to_be_bytes());
    put_len(out, message.body.len());
    out.extend_from_slice(message.body);
    put_topic_len(out, topic.len(), v2);
    out.extend_from_slice(topic.as_bytes());
    put_len16(out, message.properties.len());
    out.extend_from_slice(message.properties);
    debug_assert_eq!(out.len() - start, size, "the size counts every field");
    Ok(size)
}

/// Sets the fields that only the store knows. `record` starts with an encoded record.
pub fn patch(record: &mut [u8], queue_offset: i64, log_offset: u64, store_timestamp_ms: i64) {
    let store_timestamp_at = store_timestamp_at(record);
    for (at, bytes) in [
        (QUEUE_OFFSET_AT, queue_offset.to_be_bytes()),
        (LOG_OFFSET_AT, log_offset.to_be_bytes()),
        (store_timestamp_at, store_timestamp_ms.to_be_bytes()),
    ] {
        if let Some(field) = record.get_mut(at..at + 8) {
            field.copy_from_slice(&bytes);
        }
    }
}

/// Sets how often a message came back after a failed consumption. `record` starts with an encoded record.
pub fn set_reconsume_times(record: &mut [u8], times: i32) {
    let flags = record.get(SYS_FLAG_AT + 3).copied().unwrap_or(0);
    let store_host = if i32::from(flags) & sys_flag::STORE_HOST_V6 == 0 { 8 } else { 20 };
    let at = store_timestamp_at(record) + 8 + store_host;
    if let Some(field) = record.get_mut(at..at + 4) {
        field.copy_from_slice(&times.to_be_bytes());
    }
}

/// CRC-32 over a whole record with the fields of [`patch`] taken as zero, so that it can be known earlier.
pub fn hash_unpatched(hasher: &mut crc32fast::Hasher, record: &[u8]) {
    let store_timestamp_at = store_timestamp_at(record);
    let part = |from: usize, to: usize| record.get(from..to.min(record.len())).unwrap_or(&[]);
    hasher.update(part(0, QUEUE_OFFSET_AT));
    hasher.update(&[0; 16]);
    hasher.update(part(SYS_FLAG_AT, store_timestamp_at));
    hasher.update(&[0; 8]);
    hasher.update(part(store_timestamp_at + 8, record.len()));
}

/// The filler of a segment's last `size` bytes; what follows its eight bytes does not count.
pub fn filler(size: u32) -> [u8; FILLER_BYTES] {
    let mut bytes = [0; FILLER_BYTES];
    bytes[..4].copy_from_slice(&size.to_be_bytes());
    bytes[4..].copy_from_slice(&MAGIC_FILLER.to_be_bytes());
    bytes
}

/// Size of the filler that stands at the start of `bytes`, if one does.
pub fn filler_size(bytes: &[u8]) -> Option<u32> {
    let (size, rest) = bytes.split_first_chunk()?;
    (rest.first_chunk() == Some(&MAGIC_FILLER.to_be_bytes())).then(|| u32::from_be_bytes(*size))
}

/// The checksum that a record keeps of its body.
pub fn body_crc(body: &[u8]) -> u32 {
    crc32fast::hash(body) & 0x7FFF_FFFF
}

/// Size in bytes of the record that starts with these bytes, as far as its lengths agree: before it is believed, or
/// so much is read.
pub fn size(head: &[u8]) -> Option<usize> {
    let number = |at: usize| head.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let (size, magic) = (number(0)? as usize, number(4)?);
    let sys_flag = i32::from_be_bytes(*head.get(SYS_FLAG_AT..)?.first_chunk()?);
    let host = |flag: i32| if sys_flag & flag == 0 { 0 } else { 12 };
    let hosts = host(sys_flag::BORN_HOST_V6) + host(sys_flag::STORE_HOST_V6);
    let body = number(BORN_HOST_AT + 8 + 8 + 8 + 12 + hosts)? as usize;
    let rest = size.checked_sub(body)?.checked_sub(RECORD_BYTES_MIN - 1 + hosts)?;
    let agrees =
        matches!(magic, MAGIC_V1 | MAGIC_V2) && rest <= 1 + usize::from(u16::MAX) + PROPERTIES_BYTES_MAX;
    agrees.then_some(size)
}

/// One stored message, borrowed from its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Length of the whole record, in bytes.
    pub size: usize,
    /// The checksum of the body, see [`Record::check_body_crc`].
    pub body_crc: u32,
    /// Number of the queue; never negative in a store of ours.
    pub queue_id: i32,
    /// The producer's own flag.
    pub flag: i32,
    /// Position in the queue, in messages.
    pub queue_offset: i64,
    /// Position in the commit log, in bytes.
    pub log_offset: u64,
    /// Bits of [`crate::message::sys_flag`].
    pub sys_flag: i32,
    /// When the producer made it, in ms since 1970-01-01 UTC.
    pub born_timestamp_ms: i64,
    /// The producer's address.
    pub born_host: SocketAddr,
    /// When the store took it, in ms since 1970-01-01 UTC.
    pub store_timestamp_ms: i64,
    /// The broker's address.
    pub store_host: SocketAddr,
    /// Failed consumptions.
    pub reconsume_times: i32,
    /// Log offset of the first half of its transaction.
    pub prepared_transaction_offset: i64,
    /// The payload as stored, perhaps compressed.
    pub body: &'a [u8],
    /// Where the body starts in the record, in bytes.
    pub body_start: usize,
    /// The topic.
    pub topic: &'a str,
    /// Encoded properties.
    pub properties: &'a [u8],
    /// Where the properties start in the record, in bytes.
    pub properties_start: usize,
}

impl<'a> Record<'a> {
    /// The record at the start of `bytes`. Checks lengths and magic, not the body's checksum.
    // Inlined, a reader that wants few fields has no others built.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let cut = |size| RecordError::Cut { size, len: bytes.len() };
        let head: &[u8; 8] = bytes.first_chunk().ok_or(cut(RECORD_BYTES_MIN))?;
        let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let magic = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        if magic != MAGIC_V1 && magic != MAGIC_V2 {
            return Err(RecordError::Magic { magic });
        }
        if !(RECORD_BYTES_MIN..=i32::MAX as usize).contains(&size) {
            return Err(RecordError::Field { size, field: "size" });
        }
        let bytes = bytes.get(..size).ok_or(cut(size))?;
        Self::fields(bytes, magic).map_err(|field| RecordError::Field { size, field })
    }

    #[inline]
    fn fields(bytes: &'a [u8], magic: u32) -> Result<Self, &'static str> {
        let size = bytes.len();
        let mut fields = Fields { rest: bytes };
        fields.array::<8>("size")?;
        let body_crc = u32::from_be_bytes(fields.array("body crc")?);
        let queue_id = i32::from_be_bytes(fields.array("queue id")?);
        let flag = i32::from_be_bytes(fields.array("flag")?);
        let queue_offset = i64::from_be_bytes(fields.array("queue offset")?);
        let log_offset = u64::from_be_bytes(fields.array("log offset")?);
        let sys_flag = i32::from_be_bytes(fields.array("sys flag")?);
        let born_timestamp_ms = i64::from_be_bytes(fields.array("born timestamp")?);
        let born_host = fields.host(sys_flag & sys_flag::BORN_HOST_V6 != 0, "born host")?;
        let store_timestamp_ms = i64::from_be_bytes(fields.array("store timestamp")?);
        let store_host = fields.host(sys_flag & sys_flag::STORE_HOST_V6 != 0, "store host")?;
        let reconsume_times = i32::from_be_bytes(fields.array("reconsume times")?);
        let prepared_transaction_offset = i64::from_be_bytes(fields.array("prepared transaction offset")?);
        let body_len = u32::from_be_bytes(fields.array("body length")?) as usize;
        let body_start = size - fields.rest.len();
        let body = fields.take(body_len, "body length")?;
        let topic_len = if magic == MAGIC_V2 {
            usize::from(u16::from_be_bytes(fields.array("topic length")?))
        } else {
            usize::from(u8::from_be_bytes(fields.array("topic length")?))
        };
        let topic = fields.take(topic_len, "topic length")?;
        let topic = str::from_utf8(topic).ok().filter(|t| !t.is_empty()).ok_or("topic")?;
        let properties_len = usize::from(u16::from_be_bytes(fields.array("properties length")?));
        let properties_start = size - fields.rest.len();
        let properties = fields.take(properties_len, "properties length")?;
        if properties_len > PROPERTIES_BYTES_MAX || !fields.rest.is_empty() {
            return Err("properties length");
        }
        Ok(Self {
            size,
            body_crc,
            queue_id,
            flag,
            queue_offset,
            log_offset,
            sys_flag,
            born_timestamp_ms,
            born_host,
            store_timestamp_ms,
            store_host,
            reconsume_times,
            prepared_transaction_offset,
            body,
            body_start,
            topic,
            properties,
            properties_start,
        })
    }

    /// The message as it was before it was stored.
    pub fn message(&self) -> Message<'a> {
        Message {
            body: self.body,
            properties: self.properties,
            flag: self.flag,
            sys_flag: self.sys_flag,
            born_timestamp_ms: self.born_timestamp_ms,
            born_host: self.born_host,
            store_host: self.store_host,
            reconsume_times: self.reconsume_times,
            prepared_transaction_offset: self.prepared_transaction_offset,
        }
    }

    /// Whether the body is the one that was stored.
    pub fn check_body_crc(&self) -> bool {
        body_crc(self.body) == self.body_crc & 0x7FFF_FFFF
    }
}

/// The records that stand one after the other in `bytes`. Ends after the first error.
#[inline]
pub fn records(bytes: &[u8]) -> impl Iterator<Item = Result<Record<'_>, RecordError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let record = Record::decode(rest);
        rest = record.as_ref().ok().and_then(|r| rest.get(r.size..)).unwrap_or(&[]);
        Some(record)
    })
}

/// Reads fields one after the other; an error is the name of the field that does not fit.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(field)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], &'static str> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(field)?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    fn host(&mut self, v6: bool, field: &'static str) -> Result<SocketAddr, &'static str> {
        let address: IpAddr = if v6 {
            Ipv6Addr::from(self.array::<16>(field)?).into()
        } else {
            Ipv4Addr::from(self.array::<4>(field)?).into()
        };
        // Java writes the port as four bytes; the upper two are zero in what it makes.
        let port: [u8; 4] = self.array(field)?;
        Ok(SocketAddr::new(address, u16::from_be_bytes([port[2], port[3]])))
    }
}

fn store_timestamp_at(record: &[u8]) -> usize {
    let flags = record.get(SYS_FLAG_AT + 3).copied().unwrap_or(0);
    BORN_HOST_AT + if i32::from(flags) & sys_flag::BORN_HOST_V6 == 0 { 8 } else { 20 }
}

fn put_host(out: &mut Vec<u8>, host: SocketAddr) {
    match host.ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&u32::from(host.port()).to_be_bytes());
}

#[expect(clippy::cast_possible_truncation, reason = "the limits of `encode` hold")]
fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&(len as u32).to_be_bytes());
}

#[expect(clippy::cast_possible_truncation, reason = "the limits of `encode` hold")]
fn put_len16(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&(len as u16).to_be_bytes());
}

#[expect(clippy::cast_possible_truncation, reason = "a V1 topic has at most 127 bytes")]
fn put_topic_len(out: &mut Vec<u8>, len: usize, v2: bool) {
    if v2 {
        put_len16(out, len);
    } else {
        out.push(len as u8);
    }
}

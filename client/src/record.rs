//! Messages as a consumer gets them: slices of what was read from the connection.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use sluice_protocol::code::RequestCode;
use sluice_protocol::id::{LogOffset, TopicName};
use sluice_protocol::message::{KEYS, TAGS, UNIQ_KEY, properties, property};
use sluice_protocol::message_id::MessageId;
use sluice_protocol::record;

use crate::error::Error;

/// Most messages of one response; a record has at least 91 bytes, a frame at most 16 MiB.
pub const RECORDS_MAX: u32 = 1 << 17;

/// One message. Keeps the response that it came with alive; copy what is kept for long.
#[derive(Clone, Debug)]
pub struct Record {
    /// The topic that it is stored in.
    pub topic: TopicName,
    /// Number of the queue.
    pub queue_id: i32,
    /// Place in the queue, in messages.
    pub queue_offset: i64,
    /// Place in the broker's commit log, in bytes.
    pub log_offset: LogOffset,
    /// The body as it is stored; see [`Record::is_compressed`].
    pub body: Bytes,
    /// Encoded properties, see [`sluice_protocol::message`].
    pub properties: Bytes,
    /// The producer's own flag.
    pub flag: i32,
    /// Bits of [`sluice_protocol::message::sys_flag`].
    pub sys_flag: i32,
    /// When the producer made it, in ms since 1970-01-01 UTC.
    pub born_timestamp_ms: i64,
    /// The producer's address.
    pub born_host: SocketAddr,
    /// When the broker stored it, in ms since 1970-01-01 UTC.
    pub store_timestamp_ms: i64,
    /// The broker's address.
    pub store_host: SocketAddr,
    /// How often it came back after a failed consumption.
    pub reconsume_times: i32,
}

impl Record {
    /// Its tag.
    pub fn tag(&self) -> Option<&str> {
        self.property(TAGS)
    }

    /// Its keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.property(KEYS).unwrap_or("").split(' ').filter(|key| !key.is_empty())
    }

    /// The value of a property.
    pub fn property(&self, name: &str) -> Option<&str> {
        property(&self.properties, name)
    }

    /// Names and values of all properties.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        properties(&self.properties)
    }

    /// Where it is stored.
    pub const fn offset_id(&self) -> MessageId {
        MessageId { store_host: self.store_host, log_offset: self.log_offset }
    }

    /// The id that its producer gave it, else the one that says where it is stored.
    pub fn message_id(&self) -> String {
        self.property(UNIQ_KEY).map_or_else(|| self.offset_id().to_string(), str::to_owned)
    }

    /// Whether the body is compressed.
    pub const fn is_compressed(&self) -> bool {
        self.sys_flag & sluice_protocol::message::sys_flag::COMPRESSED != 0
    }
}

/// Reads the records of a body, at most [`RECORDS_MAX`]. `topic` is the one that is expected, so that its name
/// is shared.
pub(crate) fn records(
    address: &Arc<str>,
    request: RequestCode,
    topic: Option<&TopicName>,
    body: &Bytes,
) -> Result<Vec<Record>, Error> {
    let mut records = Vec::with_capacity(32);
    let mut start = 0;
    for record in record::records(body) {
        let record = record.map_err(|error| Error::unreadable(address, request, "record", error))?;
        if records.len() == RECORDS_MAX as usize {
            return Err(Error::Excess {
                address: Arc::clone(address),
                request,
                count: i64::from(RECORDS_MAX) + 1,
                unit: "records",
                max: RECORDS_MAX.into(),
            });
        }
        let topic = match topic.filter(|topic| topic.as_str() == record.topic) {
            Some(topic) => topic.clone(),
            None => TopicName::stored(record.topic)
                .map_err(|error| Error::unreadable(address, request, "record", error))?,
        };
        let slice = |at: usize, len| body.slice(start + at..start + at + len);
        records.push(Record {
            topic,
            queue_id: record.queue_id,
            queue_offset: record.queue_offset,
            log_offset: LogOffset::new(record.log_offset),
            body: slice(record.body_start, record.body.len()),
            properties: slice(record.properties_start, record.properties.len()),
            flag: record.flag,
            sys_flag: record.sys_flag,
            born_timestamp_ms: record.born_timestamp_ms,
            born_host: record.born_host,
            store_timestamp_ms: record.store_timestamp_ms,
            store_host: record.store_host,
            reconsume_times: record.reconsume_times,
        });
        start += record.size;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use sluice_protocol::message::push_property;

    use super::*;

    #[test]
    fn records_share_the_bytes_of_their_response_and_rubbish_is_an_error() {
        let topic = TopicName::new("t").unwrap();
        let mut properties = Vec::new();
        push_property(&mut properties, TAGS, "a").unwrap();
        let mut bytes = Vec::new();
        for body in [&b"one"[..], b"two"] {
            let message =
                sluice_protocol::message::Message { body, properties: &properties, ..Default::default() };
            record::encode(&mut bytes, "t", sluice_protocol::id::QueueId::ZERO, &message).unwrap();
        }
        let body = Bytes::from(bytes);
        let address: Arc<str> = "b:1".into();
        let read = |body: &Bytes| records(&address, RequestCode::PULL_MESSAGE, Some(&topic), body);
        let found = read(&body).unwrap();
        assert_eq!(found.iter().map(|r| &r.body[..]).collect::<Vec<_>>(), [b"one", b"two"]);
        assert_eq!(found[1].tag(), Some("a"));
        assert!(body.as_ptr_range().contains(&found[1].body.as_ptr()));
        assert!(read(&body.slice(..body.len() - 1)).is_err());
        assert!(read(&Bytes::new()).unwrap().is_empty());
    }
}

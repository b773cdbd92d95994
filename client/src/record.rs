//! Messages as a consumer gets them: slices of what was read from the connection, and bodies that were inflated.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use sluice_protocol::code::RequestCode;
use sluice_protocol::id::{LogOffset, TopicName};
use sluice_protocol::message::sys_flag::COMPRESSED;
use sluice_protocol::message::{KEYS, TAGS, UNIQ_KEY, properties, property};
use sluice_protocol::message_id::MessageId;
use sluice_protocol::{compression, record};

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
    /// The body as its producer made it; one that can not be inflated as it is stored, see [`Record::is_compressed`].
    pub body: Bytes,
    /// Encoded properties, see [`sluice_protocol::message`].
    pub properties: Bytes,
    /// The producer's own flag.
    pub flag: i32,
    /// Bits of [`sluice_protocol::message::sys_flag`]; [`COMPRESSED`] only while the body is.
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

    /// Whether the body is compressed still: it is damaged, or inflates beyond what is taken.
    pub const fn is_compressed(&self) -> bool {
        self.sys_flag & COMPRESSED != 0
    }
}

/// Inflates the bodies that producers compressed, up to so many bytes of them and one body at least. Returns the
/// bytes and how many records were done. A body that is damaged is logged and stays as it is.
pub(crate) fn inflate(records: &mut [Record], bytes_max: usize) -> (usize, usize) {
    let mut bytes = 0;
    for (i, record) in records.iter_mut().enumerate().filter(|(_, record)| record.is_compressed()) {
        match compression::inflate(&record.body, record.sys_flag) {
            Ok(body) if bytes > 0 && bytes + body.len() > bytes_max => return (bytes, i),
            Ok(body) => {
                bytes += body.len();
                record.body = body.into();
                record.sys_flag &= !COMPRESSED;
            }
            Err(error) => {
                let (topic, queue_id) = (record.topic.as_str(), record.queue_id);
                tracing::warn!(topic, queue_id, queue_offset = record.queue_offset, %error, "handed out as it is stored");
            }
        }
    }
    (bytes, records.len())
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

    #[test]
    fn bodies_are_inflated_up_to_a_limit_and_damaged_ones_stay() {
        let text = b"region=EU;".repeat(100);
        let deflated = compression::deflate(&text).unwrap();
        let mut bytes = Vec::new();
        for (body, sys_flag) in [
            (&b"plain"[..], 0),
            (&deflated, compression::DEFLATED),
            (&deflated[..9], compression::DEFLATED),
            (&deflated, compression::DEFLATED),
            (&deflated, compression::DEFLATED),
        ] {
            let message = sluice_protocol::message::Message { body, sys_flag, ..Default::default() };
            record::encode(&mut bytes, "t", sluice_protocol::id::QueueId::ZERO, &message).unwrap();
        }
        let read = || records(&"b:1".into(), RequestCode::PULL_MESSAGE, None, &bytes.clone().into()).unwrap();
        let mut all = read();
        assert_eq!(inflate(&mut all, usize::MAX), (3 * text.len(), 5));
        let bodies: Vec<&[u8]> = all.iter().map(|r| &r.body[..]).collect();
        assert_eq!(bodies, [b"plain", &text[..], &deflated[..9], &text, &text]);
        let compressed: Vec<bool> = all.iter().map(Record::is_compressed).collect();
        assert_eq!(compressed, [false, false, true, false, false]);
        assert_eq!(inflate(&mut read(), 2 * text.len()), (2 * text.len(), 4));
        assert_eq!(inflate(&mut read(), 0), (text.len(), 3), "one body at least");
    }
}

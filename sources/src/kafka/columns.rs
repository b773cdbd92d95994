//! Records of Kafka as rows. A record's bytes are copied once: librdkafka's memory goes back with each record.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use bytes::Bytes;
use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Timestamp};
use sluice_bridges::kafka::KeyPlace;
use sluice_bridges::kafka::client::headers;
use sluice_bridges::kafka::mapping::{Place, to_message};
use sluice_bridges::message::Mapped;
use sluice_connect::task::{Needs, REJECT_BODY_BYTES_MAX, Reject};

use crate::columns::{self, Row};

/// The rows of one slice while they are gathered.
pub(super) struct Columns<'a> {
    rows: columns::Columns<'a>,
    key_place: &'a KeyPlace,
    /// The id of the cluster.
    cluster: Option<&'a str>,
    /// Where the record at hand is, with what all of them begin with.
    origin: String,
    origin_start: usize,
    /// The timestamp of the last record, in ms since 1970-01-01 UTC.
    pub(super) last_ms: Option<i64>,
}

impl<'a> Columns<'a> {
    pub(super) fn new(
        needs: &'a Needs,
        key_place: &'a KeyPlace,
        (topic, partition, cluster): (&str, i32, Option<&'a str>),
    ) -> Self {
        let origin = Place::before_offset(topic, partition);
        let origin_start = origin.len();
        Self { rows: columns::Columns::new(needs), key_place, cluster, origin, origin_start, last_ms: None }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Of keys, headers and values so far.
    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes
    }

    /// Takes a record.
    pub(super) fn push(&mut self, message: &BorrowedMessage<'_>) -> Result<(), ArrowError> {
        let body = message.payload();
        self.rows.bytes += body.map_or(0, <[u8]>::len) + message.key_len() + 16;
        let time = message.timestamp();
        let born = time.to_millis();
        self.last_ms = born;
        let mut mapped = Mapped::default();
        if self.rows.maps {
            self.origin.truncate(self.origin_start);
            Place::push_offset(&mut self.origin, message.offset(), self.cluster);
            let headers = match headers(message) {
                Ok(headers) => headers,
                Err(reason) => {
                    self.rows.rejects.push(reject(message, &self.origin, reason));
                    return Ok(());
                }
            };
            mapped = to_message(message.key(), &headers, body.is_none(), &self.origin, self.key_place);
        }
        // When the producer's time stands there nobody knows when the broker stored the record.
        let appended = matches!(time, Timestamp::LogAppendTime(_));
        let stored = born.filter(|_| appended);
        self.rows.push(Row { offset: message.offset(), stored, born, body, mapped })
    }

    pub(super) fn finish(self, topic: &str, queue: i32) -> Result<(RecordBatch, Vec<Reject>), ArrowError> {
        self.rows.finish(topic, queue)
    }
}

fn reject(message: &BorrowedMessage<'_>, origin: &str, reason: String) -> Reject {
    let body = message.payload().unwrap_or_default();
    Reject {
        offset: message.offset(),
        reason,
        body: Bytes::copy_from_slice(body.get(..REJECT_BODY_BYTES_MAX).unwrap_or(body)),
        body_bytes: body.len() as u64,
        place: format!(
            "topic {} partition {} offset {}",
            message.topic(),
            message.partition(),
            message.offset()
        ),
        properties: to_message(message.key(), &[], message.payload().is_none(), origin, &KeyPlace::Keys)
            .properties
            .into_iter()
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect(),
    }
}

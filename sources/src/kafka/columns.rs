//! Records of Kafka as rows. A record's bytes are copied once: librdkafka's memory goes back with each record.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use bytes::Bytes;
use rdkafka::message::Timestamp;
use sluice_bridges::kafka::KeyPlace;
use sluice_bridges::kafka::mapping::{ORIGIN, Place, to_message};
use sluice_bridges::kafka::records::Record;
use sluice_bridges::message::Mapped;
use sluice_connect::task::{Needs, REJECT_BODY_BYTES_MAX, Reject};

use crate::columns::{self, Row};

/// The rows of one slice while they are gathered.
pub(super) struct Columns<'a> {
    rows: columns::Columns<'a>,
    topic: &'a str,
    partition: i32,
    key_place: &'a KeyPlace,
    /// The id of the cluster.
    cluster: Option<&'a str>,
    /// Whether a row tells where its record is.
    tells_place: bool,
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
        (topic, partition, cluster): (&'a str, i32, Option<&'a str>),
    ) -> Self {
        let origin = Place::before_offset(topic, partition);
        let origin_start = origin.len();
        let tells_place = needs.places || needs.properties.iter().any(|name| name == ORIGIN);
        let rows = columns::Columns::new(needs);
        Self { rows, topic, partition, key_place, cluster, tells_place, origin, origin_start, last_ms: None }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Of keys, headers and values so far.
    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes
    }

    /// Takes a record.
    pub(super) fn push(&mut self, record: &Record<'_>) -> Result<(), ArrowError> {
        let (key, body) = (record.key(), record.payload());
        self.rows.bytes += body.map_or(0, <[u8]>::len) + key.map_or(0, <[u8]>::len) + 16;
        let time = record.timestamp();
        let born = time.to_millis();
        self.last_ms = born;
        let mut mapped = Mapped::default();
        if self.rows.maps {
            let headers = record.headers();
            if self.tells_place || headers.is_err() {
                self.origin.truncate(self.origin_start);
                Place::push_offset(&mut self.origin, record.offset(), self.cluster);
            }
            let headers = match headers {
                Ok(headers) => headers,
                Err(reason) => {
                    let rejected = self.reject(record, reason);
                    self.rows.rejects.push(rejected);
                    return Ok(());
                }
            };
            let origin = self.tells_place.then_some(&*self.origin);
            mapped = to_message(key, &headers, body.is_none(), origin, self.key_place);
        }
        // When the producer's time stands there nobody knows when the broker stored the record.
        let appended = matches!(time, Timestamp::LogAppendTime(_));
        let stored = born.filter(|_| appended);
        self.rows.push(Row { offset: record.offset(), stored, born, body, mapped })
    }

    fn reject(&self, record: &Record<'_>, reason: String) -> Reject {
        let (key, body) = (record.key(), record.payload());
        let mapped = to_message(key, &[], body.is_none(), Some(&self.origin), &KeyPlace::Keys);
        let properties = mapped.properties.into_iter();
        let body = body.unwrap_or_default();
        Reject {
            offset: record.offset(),
            reason,
            body: Bytes::copy_from_slice(body.get(..REJECT_BODY_BYTES_MAX).unwrap_or(body)),
            body_bytes: body.len() as u64,
            place: format!("topic {} partition {} offset {}", self.topic, self.partition, record.offset()),
            properties: properties.map(|(name, value)| (name.into_owned(), value.into_owned())).collect(),
        }
    }

    pub(super) fn finish(self) -> Result<(RecordBatch, Vec<Reject>), ArrowError> {
        self.rows.finish(self.topic, self.partition)
    }
}

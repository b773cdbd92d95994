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
    /// The timestamp of the last record, in ms since 1970-01-01 UTC.
    pub(super) last_ms: Option<i64>,
}

impl<'a> Columns<'a> {
    pub(super) fn new(needs: &'a Needs, key_place: &'a KeyPlace, cluster: Option<&'a str>) -> Self {
        Self { rows: columns::Columns::new(needs), key_place, cluster, last_ms: None }
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
        self.rows.bytes += message.payload_len() + message.key_len() + 16;
        self.last_ms = message.timestamp().to_millis();
        let mapped = match self.rows.maps.then(|| mapped(message, self.key_place, self.cluster)).transpose() {
            Ok(mapped) => mapped.unwrap_or_default(),
            Err(reason) => {
                self.rows.rejects.push(reject(message, self.cluster, reason));
                return Ok(());
            }
        };
        let time = message.timestamp();
        // When the producer's time stands there nobody knows when the broker stored the record.
        let appended = matches!(time, Timestamp::LogAppendTime(_));
        let born = time.to_millis();
        let stored = born.filter(|_| appended);
        self.rows.push(Row { offset: message.offset(), stored, born, body: message.payload(), mapped })
    }

    pub(super) fn finish(self, topic: &str, queue: i32) -> Result<(RecordBatch, Vec<Reject>), ArrowError> {
        self.rows.finish(topic, queue)
    }
}

fn origin(message: &BorrowedMessage<'_>, cluster: Option<&str>) -> String {
    let (topic, queue, offset) = (message.topic(), message.partition(), message.offset());
    Place { topic, queue, offset, cluster }.to_string()
}

/// What a record becomes, or why it can not.
fn mapped(
    message: &BorrowedMessage<'_>,
    key_place: &KeyPlace,
    cluster: Option<&str>,
) -> Result<Mapped, String> {
    let headers = headers(message)?;
    let is_tombstone = message.payload().is_none();
    Ok(to_message(message.key(), &headers, is_tombstone, &origin(message, cluster), key_place))
}

fn reject(message: &BorrowedMessage<'_>, cluster: Option<&str>, reason: String) -> Reject {
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
        properties: to_message(
            message.key(),
            &[],
            message.payload().is_none(),
            &origin(message, cluster),
            &KeyPlace::Keys,
        )
        .properties,
    }
}

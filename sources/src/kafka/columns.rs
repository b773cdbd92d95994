//! Records of Kafka as rows. A record's bytes are copied once: librdkafka's memory goes back with each record.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use bytes::Bytes;
use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers, Timestamp};
use sluice_bridges::kafka::KeyPlace;
use sluice_bridges::kafka::mapping::{Header, Mapped, to_message};
use sluice_connect::task::{Needs, REJECT_BODY_BYTES_MAX, Reject};

use crate::columns::{self, Row};

/// The rows of one slice while they are gathered.
pub(super) struct Columns<'a> {
    rows: columns::Columns<'a>,
    key_place: &'a KeyPlace,
}

impl<'a> Columns<'a> {
    pub(super) fn new(needs: &'a Needs, key_place: &'a KeyPlace) -> Self {
        Self { rows: columns::Columns::new(needs), key_place }
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
        let mapped = match self.rows.maps.then(|| mapped(message, self.key_place)).transpose() {
            Ok(mapped) => mapped.unwrap_or_default(),
            Err(reason) => {
                self.rows.rejects.push(reject(message, reason));
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

fn origin(message: &BorrowedMessage<'_>) -> String {
    format!("{}/{}/{}", message.topic(), message.partition(), message.offset())
}

/// What a record becomes, or why it can not.
fn mapped(message: &BorrowedMessage<'_>, key_place: &KeyPlace) -> Result<Mapped, String> {
    let headers = message.headers().map_or(Ok(Vec::new()), headers)?;
    let is_tombstone = message.payload().is_none();
    Ok(to_message(message.key(), &headers, is_tombstone, &origin(message), key_place))
}

fn headers<H: Headers>(headers: &H) -> Result<Vec<Header<'_>>, String> {
    let one = |number| headers.try_get(number).map(|header| Header { name: header.key, value: header.value });
    // The library panics over a name that is no UTF-8, and any client may have written one.
    let all = || (0..headers.count()).filter_map(one).collect();
    catch_unwind(AssertUnwindSafe(all)).map_err(|_| "the name of a header is no UTF-8".to_owned())
}

fn reject(message: &BorrowedMessage<'_>, reason: String) -> Reject {
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
            &origin(message),
            &KeyPlace::Keys,
        )
        .properties,
    }
}

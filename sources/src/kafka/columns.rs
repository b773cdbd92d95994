//! Columns of the envelope over the records of one read. A record's bytes are copied once: librdkafka's memory goes
//! back with each record.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewBuilder, Int32Array, Int64Array, MapBuilder, MapFieldNames, RecordBatch,
    RecordBatchOptions, StringArray, StringViewBuilder, TimestampMillisecondBuilder,
};
use arrow::array::{DictionaryArray, new_null_array};
use arrow::datatypes::{Int32Type, Schema};
use arrow::error::ArrowError;
use bytes::Bytes;
use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Timestamp};
use sluice_bridges::kafka::KeyPlace;
use sluice_bridges::kafka::client::headers;
use sluice_bridges::kafka::mapping::{Mapped, Place, to_message};
use sluice_connect::batch;
use sluice_connect::task::{Needs, REJECT_BODY_BYTES_MAX, Reject};

/// The rows of one slice while they are gathered.
pub(super) struct Columns<'a> {
    needs: &'a Needs,
    key_place: &'a KeyPlace,
    /// The id of the cluster.
    cluster: Option<&'a str>,
    /// Whether anything is wanted that comes of key or headers.
    maps: bool,
    offsets: Vec<i64>,
    stored: Option<TimestampMillisecondBuilder>,
    born: Option<TimestampMillisecondBuilder>,
    keys: Option<StringViewBuilder>,
    tags: Option<StringViewBuilder>,
    ids: Option<StringViewBuilder>,
    map: Option<MapBuilder<StringViewBuilder, StringViewBuilder>>,
    properties: Vec<StringViewBuilder>,
    body: Option<BinaryViewBuilder>,
    pub(super) rejects: Vec<Reject>,
    /// Of keys, headers and values so far.
    pub(super) bytes: usize,
}

impl<'a> Columns<'a> {
    pub(super) fn new(needs: &'a Needs, key_place: &'a KeyPlace, cluster: Option<&'a str>) -> Self {
        let has = |name: &str| needs.columns.contains(&name);
        let texts = |name: &str| has(name).then(StringViewBuilder::new);
        let times = |name: &str| has(name).then(TimestampMillisecondBuilder::new);
        let names = MapFieldNames { entry: "entries".into(), key: "key".into(), value: "value".into() };
        let map = || MapBuilder::new(Some(names), StringViewBuilder::new(), StringViewBuilder::new());
        let all_properties = needs.all_properties || has("properties");
        let maps = all_properties
            || !needs.properties.is_empty()
            || ["keys", "tags", "message_id"].into_iter().any(has);
        Self {
            needs,
            key_place,
            cluster,
            maps,
            offsets: Vec::new(),
            stored: times("store_timestamp"),
            born: times("born_timestamp"),
            keys: texts("keys"),
            tags: texts("tags"),
            ids: texts("message_id"),
            map: all_properties.then(map),
            properties: needs.properties.iter().map(|_| StringViewBuilder::new()).collect(),
            body: has("body").then(BinaryViewBuilder::new),
            rejects: Vec::new(),
            bytes: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.offsets.len() + self.rejects.len()
    }

    /// Takes a record.
    pub(super) fn push(&mut self, message: &BorrowedMessage<'_>) -> Result<(), ArrowError> {
        self.bytes += message.payload_len() + message.key_len() + 16;
        let mapped = match self.maps.then(|| mapped(message, self.key_place, self.cluster)).transpose() {
            Ok(mapped) => mapped.unwrap_or_default(),
            Err(reason) => {
                self.rejects.push(reject(message, self.cluster, reason));
                return Ok(());
            }
        };
        self.offsets.push(message.offset());
        let time = message.timestamp();
        if let Some(stored) = &mut self.stored {
            // When the producer's time stands there nobody knows when the broker stored the record.
            let appended = matches!(time, Timestamp::LogAppendTime(_));
            stored.append_option(time.to_millis().filter(|_| appended));
        }
        if let Some(born) = &mut self.born {
            born.append_option(time.to_millis());
        }
        if let Some(keys) = &mut self.keys {
            keys.append_option(mapped.keys.as_deref());
        }
        if let Some(tags) = &mut self.tags {
            tags.append_option(mapped.tags.as_deref());
        }
        if let Some(ids) = &mut self.ids {
            ids.append_option(mapped.message_id.as_deref());
        }
        for (name, column) in self.needs.properties.iter().zip(&mut self.properties) {
            column.append_option(mapped.property(name));
        }
        if let Some(map) = &mut self.map {
            for (name, value) in &mapped.properties {
                self.bytes += name.len() + value.len();
                map.keys().append_value(name);
                map.values().append_value(value);
            }
            map.append(true)?;
        }
        if let Some(body) = &mut self.body {
            body.append_option(message.payload());
        }
        Ok(())
    }

    pub(super) fn finish(
        mut self,
        topic: &str,
        queue: i32,
    ) -> Result<(RecordBatch, Vec<Reject>), ArrowError> {
        let rows = self.offsets.len();
        let (mut fields, mut columns): (Vec<_>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
        for name in batch::COLUMNS {
            let wanted = name == "queue_offset"
                || self.needs.columns.contains(&name)
                || name == "properties" && self.map.is_some();
            let Some(field) = batch::field(name).filter(|_| wanted) else { continue };
            let time = |times: &mut Option<TimestampMillisecondBuilder>| {
                times.as_mut().map(|times| Arc::new(times.finish().with_timezone("UTC")) as ArrayRef)
            };
            let text = |texts: &mut Option<StringViewBuilder>| {
                texts.as_mut().map(|texts| Arc::new(texts.finish()) as ArrayRef)
            };
            let column: Option<ArrayRef> = match name {
                "topic" => {
                    let keys = Int32Array::from(vec![0; rows]);
                    let topics = Arc::new(StringArray::from(vec![topic]));
                    Some(Arc::new(DictionaryArray::<Int32Type>::try_new(keys, topics)?))
                }
                "queue_id" => Some(Arc::new(Int32Array::from(vec![queue; rows]))),
                "queue_offset" => Some(Arc::new(Int64Array::from(std::mem::take(&mut self.offsets)))),
                "store_timestamp" => time(&mut self.stored),
                "born_timestamp" => time(&mut self.born),
                "keys" => text(&mut self.keys),
                "tags" => text(&mut self.tags),
                "message_id" => text(&mut self.ids),
                "properties" => self.map.as_mut().map(|map| Arc::new(map.finish()) as ArrayRef),
                _ => self.body.as_mut().map(|body| Arc::new(body.finish()) as ArrayRef),
            };
            columns.push(column.unwrap_or_else(|| new_null_array(field.data_type(), rows)));
            fields.push(field);
        }
        for (name, mut column) in self.needs.properties.iter().zip(self.properties) {
            fields.extend(batch::field(&batch::property_column(name)));
            columns.push(Arc::new(column.finish()));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = Arc::new(Schema::new(fields));
        Ok((RecordBatch::try_new_with_options(schema, columns, &options)?, self.rejects))
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

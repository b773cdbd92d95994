//! Columns of the envelope over the records of one read, of sources whose records a bridge maps. A record's bytes
//! are copied once.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewBuilder, DictionaryArray, Int32Array, Int64Array, MapBuilder, MapFieldNames,
    RecordBatch, RecordBatchOptions, StringArray, StringViewBuilder, TimestampMillisecondBuilder,
    new_null_array,
};
use arrow::datatypes::{Int32Type, Schema};
use arrow::error::ArrowError;
use sluice_bridges::message::Mapped;
use sluice_connect::batch;
use sluice_connect::task::{Needs, Reject};

/// One record.
pub(crate) struct Row<'r> {
    pub(crate) offset: i64,
    /// In ms since 1970-01-01 UTC, as the next.
    pub(crate) stored: Option<i64>,
    pub(crate) born: Option<i64>,
    pub(crate) body: Option<&'r [u8]>,
    pub(crate) mapped: Mapped<'r>,
}

/// The rows of one slice while they are gathered.
pub(crate) struct Columns<'a> {
    needs: &'a Needs,
    /// Whether anything is wanted that a bridge maps.
    #[cfg_attr(not(feature = "kafka"), expect(dead_code, reason = "asked by source `kafka`"))]
    pub(crate) maps: bool,
    offsets: Vec<i64>,
    stored: Option<TimestampMillisecondBuilder>,
    born: Option<TimestampMillisecondBuilder>,
    keys: Option<StringViewBuilder>,
    tags: Option<StringViewBuilder>,
    ids: Option<StringViewBuilder>,
    map: Option<MapBuilder<StringViewBuilder, StringViewBuilder>>,
    properties: Vec<StringViewBuilder>,
    body: Option<BinaryViewBuilder>,
    pub(crate) rejects: Vec<Reject>,
    /// Of keys, headers and values so far.
    pub(crate) bytes: usize,
}

impl<'a> Columns<'a> {
    pub(crate) fn new(needs: &'a Needs) -> Self {
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

    pub(crate) fn len(&self) -> usize {
        self.offsets.len() + self.rejects.len()
    }

    /// Takes a record.
    pub(crate) fn push(&mut self, row: Row<'_>) -> Result<(), ArrowError> {
        let Row { offset, stored, born, body, mapped } = row;
        self.offsets.push(offset);
        if let Some(times) = &mut self.stored {
            times.append_option(stored);
        }
        if let Some(times) = &mut self.born {
            times.append_option(born);
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
        if let Some(bodies) = &mut self.body {
            bodies.append_option(body);
        }
        Ok(())
    }

    pub(crate) fn finish(
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

//! Columns of the envelope over the records of a read. Decides nothing about a row.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewBuilder, DictionaryArray, Int32Array, Int64Array, MapBuilder, MapFieldNames,
    RecordBatch, RecordBatchOptions, StringArray, StringViewBuilder, TimestampMillisecondArray,
};
use arrow::buffer::Buffer;
use arrow::datatypes::{Int32Type, Schema};
use arrow::error::ArrowError;
use bytes::Bytes;
use sluice_connect::batch;
use sluice_connect::task::Needs;
use sluice_protocol::message::{self, KEYS, TAGS, UNIQ_KEY};
use sluice_protocol::record::Record;

/// The properties that a producer set: those with a column or a meaning of their own are left out.
pub(super) fn user_properties<'a>(record: &Record<'a>) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    message::properties(record.properties).filter(|(name, _)| !message::is_reserved(name))
}

/// The columns that are needed, while rows are added.
pub(super) struct Envelope<'a> {
    topics: Option<Topics<'a>>,
    queue_ids: Option<Vec<i32>>,
    queue_offsets: Vec<i64>,
    store_timestamps: Option<Vec<i64>>,
    born_timestamps: Option<Vec<i64>>,
    texts: Option<Texts<'a>>,
    bodies: Option<BinaryViewBuilder>,
}

impl<'a> Envelope<'a> {
    /// With room for so many rows.
    pub(super) fn new(needs: &'a Needs, rows: usize) -> Self {
        let wants = |name: &str| needs.columns.contains(&name);
        let numbers = |name: &str| wants(name).then(|| Vec::with_capacity(rows));
        Self {
            topics: wants("topic").then(Topics::default),
            queue_ids: wants("queue_id").then(|| Vec::with_capacity(rows)),
            queue_offsets: Vec::with_capacity(rows),
            store_timestamps: numbers("store_timestamp"),
            born_timestamps: numbers("born_timestamp"),
            texts: Texts::new(needs, rows),
            bodies: wants("body").then(|| BinaryViewBuilder::with_capacity(rows)),
        }
    }

    /// Takes bytes that bodies lie in, without a copy; the number by which rows name them.
    pub(super) fn block(&mut self, bytes: &Bytes) -> u32 {
        self.bodies.as_mut().map_or(0, |bodies| bodies.append_block(Buffer::from(bytes.clone())))
    }

    /// Adds a row, whose body is so many bytes of a block from a place on.
    pub(super) fn push(
        &mut self,
        record: &Record<'a>,
        (block, start, len): (u32, usize, usize),
    ) -> Result<(), ArrowError> {
        self.queue_offsets.push(record.queue_offset);
        if let Some(bodies) = &mut self.bodies {
            let narrow = |n: usize| u32::try_from(n).map_err(|_| ArrowError::OffsetOverflowError(n));
            bodies.try_append_view(block, narrow(start)?, narrow(len)?)?;
        }
        if let Some(topics) = &mut self.topics {
            topics.push(record.topic);
        }
        if let Some(ids) = &mut self.queue_ids {
            ids.push(record.queue_id);
        }
        if let Some(times) = &mut self.store_timestamps {
            times.push(record.store_timestamp_ms);
        }
        if let Some(times) = &mut self.born_timestamps {
            times.push(record.born_timestamp_ms);
        }
        match &mut self.texts {
            Some(texts) => texts.push(record.properties),
            None => Ok(()),
        }
    }

    /// The batch of the rows.
    pub(super) fn finish(self) -> Result<RecordBatch, ArrowError> {
        let rows = self.queue_offsets.len();
        let time = |times: Vec<i64>| -> ArrayRef {
            Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC"))
        };
        let Texts { id, keys, tags, map, named, .. } = self.texts.unwrap_or_default();
        let text = |mut builder: StringViewBuilder| -> ArrayRef { Arc::new(builder.finish()) };
        // In the order of `batch::COLUMNS`.
        let columns = [
            self.topics.map(Topics::finish).transpose()?,
            self.queue_ids.map(|ids| -> ArrayRef { Arc::new(Int32Array::from(ids)) }),
            Some(Arc::new(Int64Array::from(self.queue_offsets))),
            self.store_timestamps.map(time),
            self.born_timestamps.map(time),
            id.map(text),
            keys.map(text),
            tags.map(text),
            map.map(|mut map| -> ArrayRef { Arc::new(map.finish()) }),
            self.bodies.map(|mut bodies| -> ArrayRef { Arc::new(bodies.finish()) }),
        ];
        let columns = batch::COLUMNS.into_iter().map(str::to_owned).zip(columns);
        let named =
            named.into_iter().map(|(name, column)| (batch::property_column(name), Some(text(column))));
        let columns = columns.chain(named).filter_map(|(name, column)| Some((batch::field(&name)?, column?)));
        let (fields, columns): (Vec<_>, Vec<_>) = columns.unzip();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
    }
}

/// One topic's name for each row.
#[derive(Default)]
struct Topics<'a> {
    names: Vec<&'a str>,
    places: Vec<i32>,
}

impl<'a> Topics<'a> {
    fn push(&mut self, topic: &'a str) {
        // A read is of one topic.
        if self.names.last() != Some(&topic) {
            self.names.push(topic);
        }
        self.places.push(i32::try_from(self.names.len()).unwrap_or(i32::MAX) - 1);
    }

    fn finish(self) -> Result<ArrayRef, ArrowError> {
        let names = Arc::new(StringArray::from(self.names));
        Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(self.places.into(), names)?))
    }
}

/// The columns that come from properties: each record's are walked once.
#[derive(Default)]
struct Texts<'a> {
    id: Option<StringViewBuilder>,
    keys: Option<StringViewBuilder>,
    tags: Option<StringViewBuilder>,
    map: Option<MapBuilder<StringViewBuilder, StringViewBuilder>>,
    /// By name.
    named: Vec<(&'a str, StringViewBuilder)>,
    /// What the row that is added has of them.
    values: Vec<Option<&'a str>>,
}

impl<'a> Texts<'a> {
    /// None if no column comes from properties.
    fn new(needs: &'a Needs, rows: usize) -> Option<Self> {
        let builder = || StringViewBuilder::with_capacity(rows);
        let texts = |name: &str| needs.columns.contains(&name).then(builder);
        let names = MapFieldNames { entry: "entries".into(), key: "key".into(), value: "value".into() };
        let map = needs.all_properties || needs.columns.contains(&"properties");
        // Two of the user's own for each message, say.
        let views = || StringViewBuilder::with_capacity(2 * rows);
        let map = map.then(|| MapBuilder::with_capacity(Some(names), views(), views(), rows));
        let named: Vec<_> = needs.properties.iter().map(|name| (name.as_str(), builder())).collect();
        let (id, keys, tags) = (texts("message_id"), texts("keys"), texts("tags"));
        if id.is_none() && keys.is_none() && tags.is_none() && map.is_none() && named.is_empty() {
            return None;
        }
        let values = vec![None; named.len()];
        Some(Self { id, keys, tags, map, named, values })
    }

    fn push(&mut self, properties: &'a [u8]) -> Result<(), ArrowError> {
        let Self { id, keys, tags, map, named, values } = self;
        let mut known = [None; 3];
        values.fill(None);
        // The last entry of a name counts.
        for (name, value) in message::properties(properties) {
            if let Some((_, last)) = named.iter().zip(&mut *values).find(|((n, _), _)| *n == name) {
                *last = Some(value);
            }
            match name {
                UNIQ_KEY => known[0] = Some(value),
                KEYS => known[1] = Some(value),
                TAGS => known[2] = Some(value),
                _ => {
                    if let Some(map) = map.as_mut().filter(|_| !message::is_reserved(name)) {
                        map.keys().append_value(name);
                        map.values().append_value(value);
                    }
                }
            }
        }
        for (builder, value) in [id, keys, tags].into_iter().zip(known) {
            if let Some(builder) = builder {
                builder.append_option(value);
            }
        }
        for ((_, builder), value) in named.iter_mut().zip(&*values) {
            builder.append_option(*value);
        }
        match map {
            Some(map) => map.append(true),
            None => Ok(()),
        }
    }
}

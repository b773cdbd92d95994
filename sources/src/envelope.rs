//! Envelope batches for sources that make their own bodies: text goes into one buffer a column.
//!
//! Builds what the pipeline's [`Needs`] ask for and nothing else. Never filters.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewArray, DictionaryArray, Int32Array, Int64Array, MapArray, NullBufferBuilder,
    RecordBatch, RecordBatchOptions, StringArray, StringViewArray, StructArray, make_view, new_null_array,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use arrow::error::ArrowError;
use sluice_connect::batch::{COLUMNS, field, property_column};
use sluice_connect::task::{Class, Needs, Range, Reject, Slice, TaskError};

use crate::filtered::{batch_bytes, filtered};

/// Rows and rejects of one slice.
pub(crate) const SLICE_ROWS_MAX: usize = 16_384;

/// Bytes of one slice, before its last row; Arrow's views reach 4 GiB.
pub(crate) const SLICE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Where a row's properties, keys and tag stand among its values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mapping {
    /// Properties by name.
    pub(crate) properties: Vec<(String, usize)>,
    /// What is joined to the keys.
    pub(crate) keys: Vec<usize>,
    /// The tag.
    pub(crate) tag: Option<usize>,
}

/// The rows of one slice while they are gathered.
pub(crate) struct Rows<'a> {
    needs: &'a Needs,
    mapping: &'a Mapping,
    offsets: Vec<i64>,
    body: Option<Texts>,
    keys: Option<Texts>,
    tags: Option<Texts>,
    /// One for each of the needs' properties, with its place among the values if the source has it.
    properties: Vec<(Option<usize>, Texts)>,
    map: Option<Map>,
    rejects: Vec<Reject>,
    reject_bytes: usize,
}

impl<'a> Rows<'a> {
    /// No rows; `body_bytes` is about what they will hold.
    pub(crate) fn new(needs: &'a Needs, mapping: &'a Mapping, body_bytes: usize) -> Self {
        let texts = |name| needs.columns.contains(&name).then(Texts::default);
        let place = |name: &String| mapping.properties.iter().find(|(n, _)| n == name).map(|&(_, at)| at);
        let mut body = texts("body");
        if let Some(body) = &mut body {
            body.bytes.reserve(body_bytes);
        }
        Self {
            needs,
            mapping,
            offsets: Vec::new(),
            body,
            keys: texts("keys"),
            tags: texts("tags"),
            properties: needs.properties.iter().map(|name| (place(name), Texts::default())).collect(),
            map: (needs.all_properties || needs.columns.contains(&"properties")).then(Map::default),
            rejects: Vec::new(),
            reject_bytes: 0,
        }
    }

    /// Whether the slice should end here.
    pub(crate) fn is_full(&self, bytes_max: usize) -> bool {
        self.offsets.len() + self.rejects.len() >= SLICE_ROWS_MAX
            || self.bytes() >= bytes_max.min(SLICE_BYTES_MAX)
    }

    /// Bytes of the bodies so far.
    pub(crate) fn body_bytes(&self) -> usize {
        self.body.as_ref().map_or(0, |body| body.bytes.len())
    }

    fn bytes(&self) -> usize {
        let properties = self.properties.iter().map(|(_, texts)| texts.bytes.len()).sum::<usize>();
        let map = self.map.as_ref().map_or(0, |map| map.values.bytes.len());
        self.body_bytes() + properties + map + self.reject_bytes
    }

    /// Adds a row: `write_body` appends its body, `value` gives its values (UTF-8) or null.
    pub(crate) fn push<'v>(
        &mut self,
        offset: i64,
        write_body: impl FnOnce(&mut Vec<u8>),
        value: impl Fn(usize) -> Option<&'v [u8]>,
    ) {
        self.offsets.push(offset);
        if let Some(body) = &mut self.body {
            let start = body.bytes.len();
            write_body(&mut body.bytes);
            body.push_written(start);
        }
        for (place, texts) in &mut self.properties {
            texts.push(place.and_then(&value));
        }
        if let Some(map) = &mut self.map {
            let before = map.values.views.len();
            for (name, place) in &self.mapping.properties {
                if let Some(value) = value(*place) {
                    map.names.push(Some(name.as_bytes()));
                    map.values.push(Some(value));
                }
            }
            map.lens.push(map.values.views.len() - before);
        }
        if let Some(tags) = &mut self.tags {
            tags.push(self.mapping.tag.and_then(&value));
        }
        if let Some(keys) = &mut self.keys {
            let start = keys.bytes.len();
            for value in self.mapping.keys.iter().filter_map(|&place| value(place)) {
                if keys.bytes.len() > start {
                    keys.bytes.push(b' ');
                }
                keys.bytes.extend_from_slice(value);
            }
            if keys.bytes.len() > start { keys.push_written(start) } else { keys.push(None) }
        }
    }

    /// Adds a record that does not fit.
    pub(crate) fn reject(&mut self, reject: Reject) {
        self.reject_bytes += reject.body.len();
        self.rejects.push(reject);
    }

    /// The slice, without the rows that the needs' filter leaves out.
    pub(crate) fn finish(mut self, topic: &str, range: Range) -> Result<Slice, TaskError> {
        let (needs, reject_bytes) = (self.needs, self.reject_bytes);
        let rejects = std::mem::take(&mut self.rejects);
        let envelope = self.into_batch(topic).map_err(|e| {
            TaskError::new(Class::Fatal, format!("cannot make a batch of {topic}")).because(e)
        })?;
        let bytes = batch_bytes(&envelope) + reject_bytes;
        let slice = Slice {
            range,
            envelope,
            decoded: None,
            filtered: 0,
            absent: 0,
            deduplicated: Vec::new(),
            rejects,
            bytes,
            stored_ms: None,
        };
        match &needs.filter {
            Some(filter) => filtered(slice, filter),
            None => Ok(slice),
        }
    }

    fn into_batch(self, topic: &str) -> Result<RecordBatch, ArrowError> {
        let rows = self.offsets.len();
        let (mut fields, mut arrays): (Vec<Field>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
        let (mut body, mut keys, mut tags, mut map) = (self.body, self.keys, self.tags, self.map);
        let mut offsets = self.offsets;
        for name in COLUMNS {
            let needed = self.needs.columns.contains(&name)
                || name == "queue_offset"
                || (name == "properties" && map.is_some());
            let Some(field) = field(name).filter(|_| needed) else { continue };
            arrays.push(match name {
                "topic" => {
                    let keys = Int32Array::from(vec![0; rows]);
                    let topics = Arc::new(StringArray::from(vec![topic]));
                    Arc::new(DictionaryArray::<Int32Type>::try_new(keys, topics)?)
                }
                "queue_id" => Arc::new(Int32Array::from(vec![0; rows])),
                "queue_offset" => Arc::new(Int64Array::from(std::mem::take(&mut offsets))),
                "body" => Arc::new(body.take().unwrap_or_default().into_binary()?),
                "keys" => Arc::new(keys.take().unwrap_or_default().into_text()?),
                "tags" => Arc::new(tags.take().unwrap_or_default().into_text()?),
                "properties" => Arc::new(map.take().unwrap_or_default().into_array(&field)?),
                _ => new_null_array(field.data_type(), rows),
            });
            fields.push(field);
        }
        for (name, (_, texts)) in self.needs.properties.iter().zip(self.properties) {
            fields.push(Field::new(property_column(name), DataType::Utf8View, true));
            arrays.push(Arc::new(texts.into_text()?));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
    }
}

/// A view column with one buffer.
struct Texts {
    bytes: Vec<u8>,
    views: Vec<u128>,
    nulls: NullBufferBuilder,
}

impl Default for Texts {
    fn default() -> Self {
        Self { bytes: Vec::new(), views: Vec::new(), nulls: NullBufferBuilder::new(0) }
    }
}

impl Texts {
    fn push(&mut self, value: Option<&[u8]>) {
        if let Some(value) = value {
            let start = self.bytes.len();
            // A view of up to 12 bytes holds them itself.
            if value.len() > 12 {
                self.bytes.extend_from_slice(value);
            }
            self.push_view(value, start);
        } else {
            self.views.push(0);
            self.nulls.append_null();
        }
    }

    /// Takes what was appended to `bytes` since `start` as one value.
    fn push_written(&mut self, start: usize) {
        let view = make_view(&self.bytes[start..], 0, position(start));
        self.views.push(view);
        self.nulls.append_non_null();
    }

    fn push_view(&mut self, value: &[u8], start: usize) {
        self.views.push(make_view(value, 0, position(start)));
        self.nulls.append_non_null();
    }

    fn into_binary(mut self) -> Result<BinaryViewArray, ArrowError> {
        let buffers: [Buffer; 1] = [Buffer::from_vec(self.bytes)];
        BinaryViewArray::try_new(ScalarBuffer::from(self.views), buffers, self.nulls.finish())
    }

    fn into_text(mut self) -> Result<StringViewArray, ArrowError> {
        let buffers: [Buffer; 1] = [Buffer::from_vec(self.bytes)];
        StringViewArray::try_new(ScalarBuffer::from(self.views), buffers, self.nulls.finish())
    }
}

/// A place in a slice's buffer. [`SLICE_BYTES_MAX`] and one record's limit keep it far below 4 GiB.
fn position(start: usize) -> u32 {
    u32::try_from(start).expect("a slice's buffers stay below 4 GiB")
}

/// The column of all properties.
#[derive(Default)]
struct Map {
    names: Texts,
    values: Texts,
    lens: Vec<usize>,
}

impl Map {
    fn into_array(self, field: &Field) -> Result<MapArray, ArrowError> {
        let DataType::Map(entries, sorted) = field.data_type() else {
            return Err(ArrowError::SchemaError("properties are a map".to_owned()));
        };
        let DataType::Struct(fields) = entries.data_type() else {
            return Err(ArrowError::SchemaError("a map's entries are a struct".to_owned()));
        };
        let columns: Vec<ArrayRef> =
            vec![Arc::new(self.names.into_text()?), Arc::new(self.values.into_text()?)];
        let pairs = StructArray::try_new(fields.clone(), columns, None)?;
        MapArray::try_new(Arc::clone(entries), OffsetBuffer::from_lengths(self.lens), pairs, None, *sorted)
    }
}

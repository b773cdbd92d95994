//! The envelope: the one Arrow schema of messages in the runtime.
//!
//! Never reads a body; that is `formats`' work.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewBuilder, Int64Builder, MapBuilder, MapFieldNames, RecordBatch,
    StringViewArray, StringViewBuilder,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, TimeUnit};
use arrow::error::ArrowError;
use sluice_protocol::message::{KEYS, TAGS, UNIQ_KEY};

/// Names of the envelope's columns in their order; an expression writes them `$name`.
pub const COLUMNS: [&str; 10] = [
    "topic",
    "queue_id",
    "queue_offset",
    "store_timestamp",
    "born_timestamp",
    "message_id",
    "keys",
    "tags",
    "properties",
    "body",
];

/// Column that step `route` sets: the topic that a row goes to, or a partition value.
pub const ROUTE: &str = "route";
/// The body as the source gave it, where steps have made another.
pub const ORIGINAL_BODY: &str = "original.body";
/// The properties as the source gave them, where steps have made others.
pub const ORIGINAL_PROPERTIES: &str = "original.properties";

/// Column of one property.
pub fn property_column(name: &str) -> String {
    format!("properties.{name}")
}

/// The field of an envelope column of [`COLUMNS`], or of a column `properties.<name>`.
pub fn field(name: &str) -> Option<Field> {
    let ms = || DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    let (data_type, nullable) = match name {
        "topic" => (DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)), false),
        "queue_id" => (DataType::Int32, false),
        "queue_offset" => (DataType::Int64, false),
        "store_timestamp" | "born_timestamp" => (ms(), true),
        "message_id" | "keys" | "tags" => (DataType::Utf8View, true),
        "properties" => {
            let entries = DataType::Struct(
                vec![
                    Field::new("key", DataType::Utf8View, false),
                    Field::new("value", DataType::Utf8View, true),
                ]
                .into(),
            );
            (DataType::Map(Arc::new(Field::new("entries", entries, false)), false), false)
        }
        "body" => (DataType::BinaryView, true),
        _ if name.starts_with("properties.") => (DataType::Utf8View, true),
        _ => return None,
    };
    Some(Field::new(name, data_type, nullable))
}

/// The queue offsets of an envelope's rows; none if it has no such column.
pub fn offsets(envelope: &RecordBatch) -> &[i64] {
    let column = envelope.column_by_name("queue_offset").and_then(|c| c.as_primitive_opt::<Int64Type>());
    column.map_or(&[], |c| c.values())
}

/// How many records the rows of an envelope come from: those of one record share its offset and lie side by side.
pub fn offset_count(envelope: &RecordBatch) -> u64 {
    let offsets = offsets(envelope);
    let changes = offsets.windows(2).filter(|pair| pair[0] != pair[1]).count();
    if offsets.is_empty() { 0 } else { changes as u64 + 1 }
}

/// What the rows of a column hold, in bytes: a view counts for what it shows, not for the block behind it.
pub fn bytes(column: &ArrayRef) -> usize {
    let views = |views: &[u128]| views.iter().map(|view| 16 + (*view & 0xFFFF_FFFF) as usize).sum();
    match column.data_type() {
        DataType::Utf8View => views(column.as_string_view().views()),
        DataType::BinaryView => views(column.as_binary_view().views()),
        DataType::Map(..) => {
            let map = column.as_map();
            let (start, end) = (map.value_offsets()[0], map.value_offsets()[map.len()]);
            let (start, len) =
                (usize::try_from(start).unwrap_or(0), usize::try_from(end - start).unwrap_or(0));
            4 * map.len() + map.entries().slice(start, len).columns().iter().map(bytes).sum::<usize>()
        }
        _ => column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size()),
    }
}

/// The columns of properties that have one of their own, with their names.
pub const RESERVED: [(&str, &str); 3] = [("keys", KEYS), ("tags", TAGS), ("message_id", UNIQ_KEY)];

/// [`properties_of`] with keys, tag and id among them, as the message had them.
pub fn all_properties_of(envelope: &RecordBatch, row: usize) -> Vec<(String, String)> {
    let mut pairs = properties_of(envelope, row);
    for (column, name) in RESERVED {
        let column = envelope.column_by_name(column).and_then(|c| c.as_string_view_opt());
        if let Some(column) = column.filter(|c| row < c.len() && c.is_valid(row)) {
            pairs.push((name.to_owned(), column.value(row).to_owned()));
        }
    }
    pairs
}

/// The properties of one row, as far as the envelope holds them all.
pub fn properties_of(envelope: &RecordBatch, row: usize) -> Vec<(String, String)> {
    let map = envelope.column_by_name(ORIGINAL_PROPERTIES).or_else(|| envelope.column_by_name("properties"));
    let Some(map) = map.and_then(|c| c.as_map_opt()) else {
        return Vec::new();
    };
    if row >= map.len() || map.is_null(row) {
        return Vec::new();
    }
    let entries = map.value(row);
    let (Some(names), Some(values)) =
        (entries.column(0).as_string_view_opt(), entries.column(1).as_string_view_opt())
    else {
        return Vec::new();
    };
    names.iter().zip(values).filter_map(|(name, value)| Some((name?.to_owned(), value?.to_owned()))).collect()
}

/// A column as text; null where a value is.
pub fn texts(column: &ArrayRef) -> Result<StringViewArray, ArrowError> {
    let texts = match column.data_type() {
        DataType::Utf8View => Arc::clone(column),
        // Dictionaries and the rest come to text first; the cast to views is free from there.
        _ => cast(column, &DataType::Utf8).and_then(|text| cast(&text, &DataType::Utf8View))?,
    };
    Ok(texts.as_string_view().clone())
}

/// Messages made from scratch, as an envelope of `queue_offset`, `properties` and `body`.
pub fn messages<'a>(
    rows: impl Iterator<Item = (i64, Vec<(String, String)>, &'a [u8])>,
) -> Result<RecordBatch, ArrowError> {
    let mut offsets = Int64Builder::new();
    let names = MapFieldNames { entry: "entries".into(), key: "key".into(), value: "value".into() };
    let mut properties = MapBuilder::new(Some(names), StringViewBuilder::new(), StringViewBuilder::new());
    let mut bodies = BinaryViewBuilder::new();
    for (offset, pairs, body) in rows {
        offsets.append_value(offset);
        for (name, value) in pairs {
            properties.keys().append_value(name);
            properties.values().append_value(value);
        }
        properties.append(true)?;
        bodies.append_value(body);
    }
    RecordBatch::try_from_iter([
        ("queue_offset", Arc::new(offsets.finish()) as ArrayRef),
        ("properties", Arc::new(properties.finish())),
        ("body", Arc::new(bodies.finish())),
    ])
}

//! Columns of the envelope over the records of a read. Decides nothing about a row.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewBuilder, DictionaryArray, Int32Array, Int64Array, MapBuilder, MapFieldNames,
    RecordBatch, RecordBatchOptions, StringArray, StringViewBuilder, TimestampMillisecondArray,
    new_null_array,
};
use arrow::buffer::Buffer;
use arrow::datatypes::{Int32Type, Schema};
use arrow::error::ArrowError;
use bytes::Bytes;
use sluice_connect::batch;
use sluice_connect::task::{Class, Needs, TaskError};
use sluice_protocol::message::{self, KEYS, TAGS, UNIQ_KEY};
use sluice_protocol::record::Record;

use super::{Asked, Row};

/// The properties that a producer set: those with a column or a meaning of their own are left out.
pub(super) fn user_properties<'a>(record: &Record<'a>) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    message::properties(record.properties).filter(|(name, _)| !message::is_reserved(name))
}

/// The columns that come from properties: each record's are walked once.
struct Texts<'n> {
    id: Option<StringViewBuilder>,
    keys: Option<StringViewBuilder>,
    tags: Option<StringViewBuilder>,
    map: Option<MapBuilder<StringViewBuilder, StringViewBuilder>>,
    /// By name.
    named: Vec<(&'n str, StringViewBuilder)>,
}

impl<'n> Texts<'n> {
    fn new(needs: &'n Needs, rows: usize) -> Self {
        let texts =
            |name: &str| needs.columns.contains(&name).then(|| StringViewBuilder::with_capacity(rows));
        let names = MapFieldNames { entry: "entries".into(), key: "key".into(), value: "value".into() };
        let map = needs.all_properties || needs.columns.contains(&"properties");
        // Two of the user's own for each message, say.
        let views = || StringViewBuilder::with_capacity(2 * rows);
        let map = map.then(|| MapBuilder::with_capacity(Some(names), views(), views(), rows));
        let named =
            needs.properties.iter().map(|name| (name.as_str(), StringViewBuilder::with_capacity(rows)));
        Self {
            id: texts("message_id"),
            keys: texts("keys"),
            tags: texts("tags"),
            map,
            named: named.collect(),
        }
    }

    fn fill(&mut self, rows: &[Row<'_>]) -> Result<(), ArrowError> {
        let Self { id, keys, tags, map, named } = self;
        if id.is_none() && keys.is_none() && tags.is_none() && map.is_none() && named.is_empty() {
            return Ok(());
        }
        let mut values: Vec<Option<&str>> = vec![None; named.len()];
        for row in rows {
            let mut known = [None; 3];
            values.fill(None);
            // The last entry of a name counts.
            for (name, value) in message::properties(row.record.properties) {
                if let Some(at) = named.iter().position(|(n, _)| *n == name) {
                    values[at] = Some(value);
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
            for (builder, value) in [&mut *id, &mut *keys, &mut *tags].into_iter().zip(known) {
                if let Some(builder) = builder {
                    builder.append_option(value);
                }
            }
            for ((_, builder), value) in named.iter_mut().zip(&values) {
                builder.append_option(*value);
            }
            if let Some(map) = map {
                map.append(true)?;
            }
        }
        Ok(())
    }
}

fn finished(builder: &mut Option<StringViewBuilder>) -> ArrayRef {
    Arc::new(builder.take().unwrap_or_default().finish())
}

/// One topic's name for each row.
fn topics(rows: &[Row<'_>]) -> Result<ArrayRef, ArrowError> {
    let (mut names, mut places) = (Vec::new(), Vec::with_capacity(rows.len()));
    let mut place = -1;
    for row in rows {
        // A read is of one topic.
        if names.last() != Some(&row.record.topic) {
            names.push(row.record.topic);
            place += 1;
        }
        places.push(place);
    }
    Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(places.into(), Arc::new(StringArray::from(names)))?))
}

fn time_column(rows: &[Row<'_>], value: impl Fn(&Asked<'_>) -> i64) -> ArrayRef {
    let times = TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| value(&row.record)));
    Arc::new(times.with_timezone("UTC"))
}

pub(super) fn envelope(
    runs: &[sluice_store::Run],
    rows: &[Row<'_>],
    unpacked: &[Bytes],
    needs: &Needs,
) -> Result<RecordBatch, TaskError> {
    let wrong = |e: ArrowError| TaskError::new(Class::Fatal, "cannot build the envelope").because(e);
    let (mut fields, mut columns): (Vec<_>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    let mut texts = Texts::new(needs, rows.len());
    texts.fill(rows).map_err(wrong)?;
    for name in batch::COLUMNS {
        let wanted = name == "queue_offset"
            || needs.columns.contains(&name)
            || name == "properties" && needs.all_properties;
        let Some(field) = batch::field(name).filter(|_| wanted) else { continue };
        let column: ArrayRef = match name {
            "topic" => topics(rows).map_err(wrong)?,
            "queue_id" => Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| r.record.queue_id))),
            "queue_offset" => {
                Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.record.queue_offset)))
            }
            "store_timestamp" => time_column(rows, |r| r.store_timestamp_ms),
            "born_timestamp" => time_column(rows, |r| r.born_timestamp_ms),
            "message_id" => finished(&mut texts.id),
            "keys" => finished(&mut texts.keys),
            "tags" => finished(&mut texts.tags),
            "properties" => match texts.map.as_mut() {
                Some(map) => Arc::new(map.finish()),
                None => new_null_array(field.data_type(), rows.len()),
            },
            _ => bodies(runs, rows, unpacked).map_err(wrong)?,
        };
        fields.push(field);
        columns.push(column);
    }
    for (name, mut column) in texts.named {
        fields.extend(batch::field(&batch::property_column(name)));
        columns.push(Arc::new(column.finish()));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).map_err(wrong)
}

/// Views over the runs and over what was unpacked: no body is copied.
fn bodies(runs: &[sluice_store::Run], rows: &[Row<'_>], unpacked: &[Bytes]) -> Result<ArrayRef, ArrowError> {
    let mut builder = BinaryViewBuilder::with_capacity(rows.len());
    let blocks: Vec<u32> =
        runs.iter().map(|run| builder.append_block(Buffer::from(run.bytes.clone()))).collect();
    for row in rows {
        if let Some(body) = row.inflated.and_then(|at| unpacked.get(at)) {
            let len = u32::try_from(body.len()).map_err(|_| ArrowError::OffsetOverflowError(body.len()))?;
            let block = builder.append_block(Buffer::from(body.clone()));
            builder.try_append_view(block, 0, len)?;
            continue;
        }
        let (Some(block), Ok(start), Ok(len)) =
            (blocks.get(row.run), u32::try_from(row.body_start), u32::try_from(row.body.len()))
        else {
            builder.append_value(row.body);
            continue;
        };
        builder.try_append_view(*block, start, len)?;
    }
    Ok(Arc::new(builder.finish()))
}

//! Columns of the envelope over the records of a read. Decides nothing about a row.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewBuilder, Int32Array, Int64Builder, MapBuilder, MapFieldNames, RecordBatch,
    RecordBatchOptions, StringDictionaryBuilder, StringViewBuilder, TimestampMillisecondBuilder,
};
use arrow::buffer::Buffer;
use arrow::datatypes::{Int32Type, Schema};
use sluice_connect::batch;
use sluice_connect::task::{Class, Needs, TaskError};
use sluice_protocol::message::{self, KEYS, TAGS, UNIQ_KEY};
use sluice_protocol::record::Record;

use super::Row;

/// The properties that a producer set: those with a column or a meaning of their own are left out.
pub(super) fn user_properties<'a>(record: &Record<'a>) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    message::properties(record.properties).filter(|(name, _)| !message::is_reserved(name))
}

/// One `Utf8View` column a property; each record's properties are walked once.
fn property_columns(rows: &[Row<'_>], names: &[&str]) -> Vec<ArrayRef> {
    if names.is_empty() {
        return Vec::new();
    }
    let mut builders: Vec<StringViewBuilder> =
        names.iter().map(|_| StringViewBuilder::with_capacity(rows.len())).collect();
    let mut found: Vec<Option<&str>> = vec![None; names.len()];
    for row in rows {
        found.fill(None);
        for (name, value) in message::properties(row.record.properties) {
            if let Some(i) = names.iter().position(|n| *n == name) {
                found[i] = Some(value);
            }
        }
        for (builder, value) in builders.iter_mut().zip(&found) {
            builder.append_option(*value);
        }
    }
    builders.into_iter().map(|mut b| Arc::new(b.finish()) as ArrayRef).collect()
}

fn text_column<'a>(rows: &[Row<'a>], value: impl Fn(&Record<'a>) -> Option<&'a str>) -> ArrayRef {
    let mut builder = StringViewBuilder::with_capacity(rows.len());
    for row in rows {
        builder.append_option(value(&row.record));
    }
    Arc::new(builder.finish())
}

fn time_column(rows: &[Row<'_>], value: impl Fn(&Record<'_>) -> i64) -> ArrayRef {
    let mut builder = TimestampMillisecondBuilder::with_capacity(rows.len());
    for row in rows {
        builder.append_value(value(&row.record));
    }
    Arc::new(builder.finish().with_timezone("UTC"))
}

pub(super) fn envelope(
    runs: &[sluice_store::Run],
    rows: &[Row<'_>],
    needs: &Needs,
) -> Result<RecordBatch, TaskError> {
    let wrong =
        |e: arrow::error::ArrowError| TaskError::new(Class::Fatal, "cannot build the envelope").because(e);
    let (mut fields, mut columns): (Vec<_>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for name in batch::COLUMNS {
        let wanted = name == "queue_offset"
            || needs.columns.contains(&name)
            || name == "properties" && needs.all_properties;
        let Some(field) = batch::field(name).filter(|_| wanted) else { continue };
        let column: ArrayRef = match name {
            "topic" => {
                let mut builder = StringDictionaryBuilder::<Int32Type>::new();
                for row in rows {
                    builder.append(row.record.topic).map_err(wrong)?;
                }
                Arc::new(builder.finish())
            }
            "queue_id" => Arc::new(rows.iter().map(|r| r.record.queue_id).collect::<Int32Array>()),
            "queue_offset" => {
                let mut builder = Int64Builder::with_capacity(rows.len());
                for row in rows {
                    builder.append_value(row.record.queue_offset);
                }
                Arc::new(builder.finish())
            }
            "store_timestamp" => time_column(rows, |r| r.store_timestamp_ms),
            "born_timestamp" => time_column(rows, |r| r.born_timestamp_ms),
            "message_id" => text_column(rows, |r| message::property(r.properties, UNIQ_KEY)),
            "keys" => text_column(rows, |r| message::property(r.properties, KEYS)),
            "tags" => text_column(rows, |r| message::property(r.properties, TAGS)),
            "properties" => {
                let names =
                    MapFieldNames { entry: "entries".into(), key: "key".into(), value: "value".into() };
                let mut builder =
                    MapBuilder::new(Some(names), StringViewBuilder::new(), StringViewBuilder::new());
                for row in rows {
                    for (name, value) in user_properties(&row.record) {
                        builder.keys().append_value(name);
                        builder.values().append_value(value);
                    }
                    builder.append(true).map_err(wrong)?;
                }
                Arc::new(builder.finish())
            }
            _ => bodies(runs, rows).map_err(wrong)?,
        };
        fields.push(field);
        columns.push(column);
    }
    let names: Vec<&str> = needs.properties.iter().map(String::as_str).collect();
    for (name, column) in names.iter().zip(property_columns(rows, &names)) {
        fields.extend(batch::field(&batch::property_column(name)));
        columns.push(column);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).map_err(wrong)
}

/// Views over the runs and over what was unpacked: no body is copied.
fn bodies(runs: &[sluice_store::Run], rows: &[Row<'_>]) -> Result<ArrayRef, arrow::error::ArrowError> {
    let mut builder = BinaryViewBuilder::with_capacity(rows.len());
    let blocks: Vec<u32> =
        runs.iter().map(|run| builder.append_block(Buffer::from(run.bytes.clone()))).collect();
    for row in rows {
        if let Some(body) = &row.inflated {
            let len = u32::try_from(body.len())
                .map_err(|_| arrow::error::ArrowError::OffsetOverflowError(body.len()))?;
            let block = builder.append_block(Buffer::from(body.clone()));
            builder.try_append_view(block, 0, len)?;
            continue;
        }
        let (Some(block), Ok(start), Ok(len)) =
            (blocks.get(row.run), u32::try_from(row.body_start), u32::try_from(row.record.body.len()))
        else {
            builder.append_value(row.record.body);
            continue;
        };
        builder.try_append_view(*block, start, len)?;
    }
    Ok(Arc::new(builder.finish()))
}

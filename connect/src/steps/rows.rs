//! Rows of a slice on their way through the steps: which columns a name means, which rows go and why.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{can_cast_types, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use sluice_filters::Name;

use crate::batch::{self, ORIGINAL_BODY, ORIGINAL_PROPERTIES, ROUTE};
use crate::config::Then;
use crate::task::{Class, Needs, REJECT_BODY_BYTES_MAX, Reject, Slice, TaskError};

/// Moves the records of rows that do not fit, each with its reason, from the slice's rows to its rejects. The
/// rows come in rising order; a record goes as a whole, for its first reason.
pub(crate) fn turn_away(slice: &mut Slice, unfit: &[(usize, String)]) -> Result<(), TaskError> {
    if unfit.is_empty() {
        return Ok(());
    }
    let offsets = batch::offsets(&slice.envelope);
    let mut gone: Vec<i64> = Vec::new();
    for (row, reason) in unfit {
        let Some(offset) = offsets.get(*row) else { continue };
        if gone.last() != Some(offset) {
            gone.push(*offset);
            slice.rejects.push(reject(&slice.envelope, *row, reason));
        }
    }
    slice.rejects.sort_by_key(|r| r.offset);
    let mut left = gone.iter().peekable();
    let fits = offsets.iter().map(|offset| {
        while left.next_if(|gone| *gone < offset).is_some() {}
        left.peek() != Some(&offset)
    });
    let fits = BooleanArray::from(fits.collect::<Vec<_>>());
    retain(slice, &fits)
}

/// Leaves out the rows that the mask does not have: filtered ones.
pub(crate) fn leave_out(slice: &mut Slice, mask: &BooleanArray) -> Result<(), TaskError> {
    if mask.true_count() == slice.envelope.num_rows() {
        return Ok(());
    }
    let before = slice.envelope.clone();
    retain(slice, mask)?;
    slice.filtered += offsets_lost(&before, &slice.envelope);
    Ok(())
}

/// Leaves out the rows that the mask does not have.
pub(super) fn retain(slice: &mut Slice, mask: &BooleanArray) -> Result<(), TaskError> {
    if mask.true_count() == slice.envelope.num_rows() {
        return Ok(());
    }
    let left_out = |e| fatal("cannot leave out rows", e);
    slice.envelope = filter_record_batch(&slice.envelope, mask).map_err(left_out)?;
    if let Some(decoded) = &slice.decoded {
        slice.decoded = Some(filter_record_batch(decoded, mask).map_err(left_out)?);
    }
    Ok(())
}

/// Offsets that have a row before and none after.
pub(super) fn offsets_lost(before: &RecordBatch, after: &RecordBatch) -> u64 {
    batch::offset_count(before) - batch::offset_count(after)
}

/// The batch with a column, in the place of one of its name if there is one.
pub(super) fn with_column(
    batch: &RecordBatch,
    name: &str,
    column: ArrayRef,
) -> Result<RecordBatch, TaskError> {
    let schema = batch.schema();
    let field = Field::new(name, column.data_type().clone(), true);
    let (mut fields, mut columns) = (schema.fields().to_vec(), batch.columns().to_vec());
    match schema.index_of(name) {
        Ok(at) => {
            fields.splice(at..=at, [Arc::new(field)]);
            columns.splice(at..=at, [column]);
        }
        Err(_) => {
            fields.push(Arc::new(field));
            columns.push(column);
        }
    }
    let made = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns);
    made.map_err(|e| fatal("cannot add a column", e))
}

/// Whether values of a type convert to another, one by one.
pub(super) fn can_cast(from: &DataType, to: &DataType) -> bool {
    from == to || !from.is_nested() && !to.is_nested() && can_cast_types(from, to)
}

/// The text at a row of a column of texts.
pub(super) fn text_at(column: &ArrayRef, row: usize) -> Option<&str> {
    if row >= column.len() || column.is_null(row) {
        return None;
    }
    match column.data_type() {
        DataType::Utf8 => column.as_string_opt::<i32>().map(|texts| texts.value(row)),
        _ => column.as_string_view_opt().map(|texts| texts.value(row)),
    }
}

/// Under `then: stop` a record that does not fit ends the run.
pub(crate) fn stop_at_reject(then: Then, slice: &Slice) -> Result<(), TaskError> {
    match slice.rejects.first() {
        Some(reject) if then == Then::Stop => Err(TaskError::new(
            Class::Record,
            format!(
                "{}: {} (nothing was passed over; see `errors: {{then: skip | dead_letter}}`)",
                reject.place, reject.reason
            ),
        )),
        _ => Ok(()),
    }
}

pub(super) fn reject(envelope: &RecordBatch, row: usize, reason: &str) -> Reject {
    let offset = batch::offsets(envelope).get(row).copied().unwrap_or(-1);
    // What a step changed is not what the message was.
    let bodies = envelope.column_by_name(ORIGINAL_BODY).or_else(|| envelope.column_by_name("body"));
    let bodies = bodies.and_then(|c| c.as_binary_view_opt());
    let body = bodies.filter(|b| row < b.len() && b.is_valid(row)).map_or(&[][..], |b| b.value(row));
    let kept = body.get(..REJECT_BODY_BYTES_MAX).unwrap_or(body);
    Reject {
        offset,
        reason: reason.to_owned(),
        body: Bytes::copy_from_slice(kept),
        body_bytes: body.len() as u64,
        place: format!("queue offset {offset}"),
        properties: batch::all_properties_of(envelope, row),
    }
}

/// Leaves out the columns that only filters and dead letters need.
pub(super) fn project(envelope: &RecordBatch, wanted: &Needs) -> Result<RecordBatch, TaskError> {
    let is_wanted = |name: &str| match name.strip_prefix("properties.") {
        Some(property) => wanted.properties.iter().any(|p| p == property),
        None => {
            name == "queue_offset"
                || matches!(name, ROUTE | ORIGINAL_BODY | ORIGINAL_PROPERTIES)
                || wanted.columns.contains(&name)
                || name == "properties" && wanted.all_properties
        }
    };
    let schema = envelope.schema();
    let names = schema.fields().iter().enumerate();
    let kept: Vec<usize> = names.filter(|(_, field)| is_wanted(field.name())).map(|(at, _)| at).collect();
    envelope.project(&kept).map_err(|e| fatal("cannot leave out columns", e))
}

/// What a slice keeps from others in memory, in bytes.
pub(super) fn held_bytes(slice: &Slice) -> usize {
    let batches = std::iter::once(&slice.envelope).chain(&slice.decoded);
    let rows: usize = batches.flat_map(RecordBatch::columns).map(batch::bytes).sum();
    rows + slice.rejects.iter().map(Reject::bytes).sum::<usize>()
}

pub(super) fn fatal(what: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TaskError {
    TaskError::new(Class::Fatal, what.to_owned()).because(error)
}

/// The column that a name of an expression means.
pub(super) fn resolve(
    envelope: &RecordBatch,
    decoded: Option<&RecordBatch>,
    name: &Name,
) -> Option<ArrayRef> {
    match name {
        Name::Property(property) => envelope.column_by_name(&batch::property_column(property)).cloned(),
        Name::Envelope(column) => envelope.column_by_name(column).cloned(),
        Name::Field(path) => {
            let (first, rest) = path.split_first()?;
            let mut column = Arc::clone(decoded?.column_by_name(first)?);
            for field in rest {
                let parent = Arc::clone(&column);
                let parent = parent.as_struct_opt()?;
                column = masked(parent.column_by_name(field)?, parent)?;
            }
            Some(column)
        }
    }
}

/// A struct's field is null where the struct is.
fn masked(child: &ArrayRef, parent: &arrow::array::StructArray) -> Option<ArrayRef> {
    let Some(nulls) = parent.nulls() else { return Some(Arc::clone(child)) };
    let mask = BooleanArray::new(!nulls.inner(), None);
    arrow::compute::nullif(child, &mask).ok()
}

pub(crate) fn field_type(schema: &SchemaRef, path: &[String]) -> Option<DataType> {
    let (first, rest) = path.split_first()?;
    let mut data_type = schema.field_with_name(first).ok()?.data_type().clone();
    for name in rest {
        let DataType::Struct(fields) = data_type else { return None };
        data_type = fields.iter().find(|f| f.name() == name)?.data_type().clone();
    }
    Some(data_type)
}

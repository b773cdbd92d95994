//! Rows of a slice on their way through the steps: which columns a name means, which rows go and why.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use sluice_filters::Name;

use crate::batch;
use crate::config::Then;
use crate::task::{Class, Needs, REJECT_BODY_BYTES_MAX, Reject, Slice, TaskError};

/// Moves the rows that do not fit, each with its reason, from the slice's rows to its rejects.
pub(crate) fn turn_away(slice: &mut Slice, unfit: &[(usize, String)]) -> Result<(), TaskError> {
    if unfit.is_empty() {
        return Ok(());
    }
    let mut fits = vec![true; slice.envelope.num_rows()];
    for (row, reason) in unfit {
        if let Some(fit) = fits.get_mut(*row) {
            *fit = false;
        }
        slice.rejects.push(reject(&slice.envelope, *row, reason));
    }
    slice.rejects.sort_by_key(|r| r.offset);
    let fits = BooleanArray::from(fits);
    let left_out = |e| fatal("cannot leave out rejected rows", e);
    slice.envelope = filter_record_batch(&slice.envelope, &fits).map_err(left_out)?;
    if let Some(decoded) = &slice.decoded {
        slice.decoded = Some(filter_record_batch(decoded, &fits).map_err(left_out)?);
    }
    Ok(())
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
    let bodies = envelope.column_by_name("body").and_then(|c| c.as_binary_view_opt());
    let body = bodies.filter(|b| row < b.len() && b.is_valid(row)).map_or(&[][..], |b| b.value(row));
    let kept = body.get(..REJECT_BODY_BYTES_MAX).unwrap_or(body);
    Reject {
        offset,
        reason: reason.to_owned(),
        body: Bytes::copy_from_slice(kept),
        body_bytes: body.len() as u64,
        place: format!("queue offset {offset}"),
        properties: batch::properties_of(envelope, row),
    }
}

/// Leaves out the columns that only filters and dead letters need.
pub(super) fn project(envelope: &RecordBatch, wanted: &Needs) -> Result<RecordBatch, TaskError> {
    let is_wanted = |name: &str| match name.strip_prefix("properties.") {
        Some(property) => wanted.properties.iter().any(|p| p == property),
        None => {
            name == "queue_offset"
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

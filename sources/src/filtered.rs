//! What every source does with a finished slice: the pushed-down filter, and the count of its bytes.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::DataType;
use sluice_connect::batch::property_column;
use sluice_connect::task::{Class, Slice, TaskError};
use sluice_filters::{Filter, Name};

/// Leaves out the rows for which the filter is not TRUE and counts them as filtered. What the filter
/// names must be among the slice's envelope columns; for any source.
pub(crate) fn filtered(mut slice: Slice, filter: &Filter) -> Result<Slice, TaskError> {
    let rows = slice.envelope.num_rows();
    if rows == 0 {
        return Ok(slice);
    }
    let resolve = |name: &Name| match name {
        Name::Property(name) => slice.envelope.column_by_name(&property_column(name)).cloned(),
        Name::Envelope(name) => slice.envelope.column_by_name(name).cloned(),
        Name::Field(_) => None,
    };
    let mask = filter
        .mask(rows, &resolve)
        .map_err(|e| TaskError::new(Class::Config, "cannot filter the source's rows").because(e))?;
    let envelope = filter_record_batch(&slice.envelope, &mask)
        .map_err(|e| TaskError::new(Class::Fatal, "cannot take the filtered rows").because(e))?;
    slice.filtered += (rows - envelope.num_rows()) as u64;
    slice.bytes = batch_bytes(&envelope) + slice.rejects.iter().map(|r| r.body.len()).sum::<usize>();
    slice.envelope = envelope;
    Ok(slice)
}

/// What a batch holds, in bytes: of views what they show and not what their buffers hold.
pub(crate) fn batch_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(array_bytes).sum()
}

fn array_bytes(array: &ArrayRef) -> usize {
    let shown = |views: &[u128]| views.iter().map(|view| (view & 0xffff_ffff) as usize).sum::<usize>();
    match array.data_type() {
        DataType::Utf8View => shown(array.as_string_view().views()) + size_of::<u128>() * array.len(),
        DataType::BinaryView => shown(array.as_binary_view().views()) + size_of::<u128>() * array.len(),
        DataType::Map(..) => array.as_map().entries().columns().iter().map(array_bytes).sum(),
        _ => array.get_buffer_memory_size(),
    }
}

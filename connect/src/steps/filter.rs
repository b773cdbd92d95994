//! Step `where`: rows for which an expression is not TRUE are left out.

use arrow::compute::filter_record_batch;
use sluice_filters::Filter;

use super::rows::{fatal, resolve};
use crate::task::{Slice, TaskError};

/// Leaves out the rows for which the filter is not TRUE.
pub(super) fn keep(filter: &Filter, slice: &mut Slice) -> Result<(), TaskError> {
    let rows = slice.envelope.num_rows();
    let mask = filter
        .mask(rows, &|name| resolve(&slice.envelope, slice.decoded.as_ref(), name))
        .map_err(|e| fatal("cannot evaluate the filter", e))?;
    let passed = mask.true_count();
    if passed == rows {
        return Ok(());
    }
    let left_out = |e| fatal("cannot leave out filtered rows", e);
    slice.filtered += (rows - passed) as u64;
    slice.envelope = filter_record_batch(&slice.envelope, &mask).map_err(left_out)?;
    if let Some(decoded) = &slice.decoded {
        slice.decoded = Some(filter_record_batch(decoded, &mask).map_err(left_out)?);
    }
    Ok(())
}

//! Step `where`: rows for which an expression is not TRUE are left out.

use sluice_filters::Filter;

use super::columns::{Columns, StepProblem};
use super::rows::{fatal, leave_out, resolve};
use crate::task::{Slice, TaskError};

/// Checks the filter's names and types.
pub(super) fn check(filter: &Filter, columns: &Columns) -> Result<(), StepProblem> {
    filter.check(&|name| columns.data_type(name)).map_err(|e| columns.refused(&[], &e))
}

/// Leaves out the rows for which the filter is not TRUE.
pub(super) fn keep(filter: &Filter, slice: &mut Slice) -> Result<(), TaskError> {
    let rows = slice.envelope.num_rows();
    let mask = filter
        .mask(rows, &|name| resolve(&slice.envelope, slice.decoded.as_ref(), name))
        .map_err(|e| fatal("cannot evaluate the filter", e))?;
    leave_out(slice, &mask)
}

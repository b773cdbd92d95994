//! Step `sql`: a statement over each record batch. What runs it is handed in, as this crate knows no engine.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;

use super::rows::{fatal, offsets_lost, turn_away};
use crate::task::{Slice, TaskError};

/// Makes a statement ready for rows of a schema, or says what is wrong with it.
pub type MakeSql = Arc<dyn Fn(&str, &SchemaRef) -> Result<Sql, String> + Send + Sync>;

/// Runs a statement over one batch.
pub type RunSql = dyn FnMut(&RecordBatch) -> Result<Answer, TaskError> + Send;

/// A statement, ready to run.
pub struct Sql {
    /// The columns of its answers.
    pub output: SchemaRef,
    /// Runs it over one batch.
    pub run: Box<RunSql>,
}

/// What a statement makes of a batch.
pub struct Answer {
    /// The rows.
    pub batch: RecordBatch,
    /// The row of the batch that each comes from, rising: a row of the batch gives one row or none.
    pub rows: UInt32Array,
    /// Rows of the batch that make the statement fail, each with the reason; they are not among `rows`.
    pub unfit: Vec<(usize, String)>,
}

impl Sql {
    pub(super) fn apply(&mut self, slice: &mut Slice) -> Result<(), TaskError> {
        let Some(decoded) = &slice.decoded else { return Ok(()) };
        let mut answer = (self.run)(decoded)?;
        if !answer.unfit.is_empty() {
            // Other rows of those records go with them, so that each record keeps one fate.
            turn_away(slice, &answer.unfit)?;
            let Some(decoded) = &slice.decoded else { return Ok(()) };
            answer = (self.run)(decoded)?;
        }
        let Some(decoded) = &slice.decoded else { return Ok(()) };
        let Answer { batch, rows, .. } = answer;
        let rises = rows.values().windows(2).all(|pair| pair[0] < pair[1]);
        let is_inside = rows.values().last().is_none_or(|last| (*last as usize) < decoded.num_rows());
        if !rises || !is_inside || rows.len() != batch.num_rows() || rows.null_count() > 0 {
            return Err(fatal("cannot run a statement", "its rows are not rows of the batch in their order"));
        }
        let envelope =
            take_record_batch(&slice.envelope, &rows).map_err(|e| fatal("cannot leave out rows", e))?;
        slice.filtered += offsets_lost(&slice.envelope, &envelope);
        slice.envelope = envelope;
        slice.decoded = Some(batch);
        Ok(())
    }
}

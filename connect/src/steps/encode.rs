//! Bodies of messages made of columns that steps have changed: one JSON object each, nulls left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryViewBuilder, RecordBatch};
use arrow::error::ArrowError;
use arrow::json::LineDelimitedWriter;
use sluice_formats::times::{WITHOUT_YEAR, without_year};

use super::rows::fatal;
use crate::task::TaskError;

/// The rows that JSON can not hold, each with the reason, in rising order.
pub(super) fn unfit(rows: &RecordBatch) -> Vec<(usize, String)> {
    let mut found = BTreeMap::new();
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        for row in without_year(column) {
            let told = || format!("field `{}` holds {WITHOUT_YEAR}, which JSON can not", field.name());
            found.entry(row).or_insert_with(told);
        }
    }
    found.into_iter().collect()
}

/// A body for each row.
pub(super) fn bodies(rows: &RecordBatch) -> Result<ArrayRef, TaskError> {
    let failed = |e: ArrowError| fatal("cannot write rows as JSON", e);
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(rows).map_err(failed)?;
    writer.finish().map_err(failed)?;
    // A line end inside of a text is written as \n.
    let lines = writer.into_inner();
    let mut made = BinaryViewBuilder::with_capacity(rows.num_rows());
    for line in lines.split(|byte| *byte == b'\n').take(rows.num_rows()) {
        made.append_value(line);
    }
    let made = made.finish();
    if made.len() == rows.num_rows() {
        Ok(Arc::new(made))
    } else {
        Err(fatal("cannot write rows as JSON", "there are fewer lines than rows"))
    }
}

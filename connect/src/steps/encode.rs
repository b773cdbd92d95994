//! Bodies of messages made of columns that steps have changed: one JSON object each, nulls left out.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewBuilder, ListArray, RecordBatch, RecordBatchOptions, StructArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::json::LineDelimitedWriter;

use super::rows::{self, fatal};
use crate::task::TaskError;

/// A body for each row.
pub(super) fn bodies(rows: &RecordBatch) -> Result<ArrayRef, TaskError> {
    let failed = |e: ArrowError| fatal("cannot write rows as JSON", e);
    let columns = rows.columns().iter().map(|column| readable(column).map_err(failed));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let fields = rows.schema_ref().fields().iter().zip(&columns);
    let fields: Vec<Field> =
        fields.map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let readable = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options);
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(&readable.map_err(failed)?).map_err(failed)?;
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

/// Times in UTC by their offset at any depth, since no time zone has a name here.
fn readable(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    Ok(match column.data_type() {
        DataType::Timestamp(..) => rows::by_offset(column)?,
        DataType::Struct(fields) => {
            let parent = column.as_struct();
            let inner = parent.columns().iter().map(readable).collect::<Result<Vec<_>, _>>()?;
            let fields = fields.iter().zip(&inner);
            let fields =
                fields.map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true));
            Arc::new(StructArray::try_new(fields.collect(), inner, parent.nulls().cloned())?)
        }
        DataType::List(item) => {
            let list = column.as_list::<i32>();
            let values = readable(list.values())?;
            let item = Field::new(item.name(), values.data_type().clone(), true);
            Arc::new(ListArray::try_new(item.into(), list.offsets().clone(), values, list.nulls().cloned())?)
        }
        _ => Arc::clone(column),
    })
}

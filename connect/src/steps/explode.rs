//! Step `explode`: a row for each element of a list. The rows of one record share its queue offset and come
//! one after the other in one slice, so that the record keeps one fate.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{take, take_record_batch};
use arrow::datatypes::{DataType, Field, SchemaRef};

use super::columns::{Columns, StepProblem};
use super::rows::{fatal, field_type, offsets_lost, turn_away};
use crate::config;
use crate::task::{Slice, TaskError};

/// Rows that one record makes, at most.
const ROWS_MAX: usize = 100_000;
/// What the rows of one record may hold of its other columns, all together, in bytes.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// A list column, to be made rows of.
pub(super) struct Explode {
    /// Place of the list among the columns.
    list: usize,
    keep_empty: bool,
    schema: SchemaRef,
}

impl Explode {
    /// `None` if the columns that come in are not known.
    pub(super) fn new(explode: &config::Explode, columns: &Columns) -> Result<Option<Self>, StepProblem> {
        let field = &explode.field;
        let schema = match columns {
            Columns::Unknown => return Ok(None),
            Columns::None => {
                return Err(
                    StepProblem::new(format!("there is no {field}{}", columns.hint(""))).at(&["field"])
                );
            }
            Columns::Known(schema) => schema,
        };
        let [name] = field.0.as_slice() else {
            let message = format!("{field} lies in a struct: make a column of it by `select` before");
            return Err(StepProblem::new(message).at(&["field"]));
        };
        let item = match field_type(schema, &field.0) {
            Some(DataType::List(item)) => item,
            Some(found) => {
                let message = format!("{field} is {found}, expected a list");
                return Err(StepProblem::new(message).at(&["field"]));
            }
            None => {
                let message = format!("there is no {field}{}", columns.hint(name));
                return Err(StepProblem::new(message).at(&["field"]));
            }
        };
        let list = schema.index_of(name).map_err(|e| StepProblem::new(e.to_string()))?;
        let element = item.as_ref().clone().with_nullable(true);
        let element = element.with_name(explode.name.as_ref().unwrap_or(name));
        let fields = schema.fields().iter().enumerate();
        let fields = fields.map(|(at, f)| if at == list { element.clone() } else { Field::clone(f) });
        let made = Columns::of(fields.collect())?;
        let schema = made.known().map(Arc::clone);
        Ok(schema.map(|schema| Self { list, keep_empty: explode.keep_empty, schema }))
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(super) fn apply(&self, slice: &mut Slice) -> Result<(), TaskError> {
        turn_away(slice, &self.unfit(slice)?)?;
        let Some(decoded) = slice.decoded.take() else { return Ok(()) };
        let list = self.list(&decoded)?;
        // The row of each element, and its place among all elements.
        let (mut of, mut element) = (Vec::new(), Vec::new());
        let place = |at: i32| u32::try_from(at).unwrap_or(0);
        for (row, bounds) in (0_u32..).zip(list.value_offsets().windows(2)) {
            let elements =
                if list.is_valid(row as usize) { place(bounds[0])..place(bounds[1]) } else { 0..0 };
            if elements.is_empty() && self.keep_empty {
                of.push(row);
                element.push(None);
            }
            of.extend(std::iter::repeat_n(row, elements.len()));
            element.extend(elements.map(Some));
        }
        let of = UInt32Array::from(of);
        let failed = |e| fatal("cannot make rows of a list", e);
        let mut columns = Vec::with_capacity(decoded.num_columns());
        for (at, column) in decoded.columns().iter().enumerate() {
            columns.push(if at == self.list {
                take(list.values(), &UInt32Array::from(std::mem::take(&mut element)), None).map_err(failed)?
            } else {
                take(column, &of, None).map_err(failed)?
            });
        }
        let envelope = take_record_batch(&slice.envelope, &of).map_err(failed)?;
        slice.filtered += offsets_lost(&slice.envelope, &envelope);
        let options = RecordBatchOptions::new().with_row_count(Some(of.len()));
        let made = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options);
        slice.decoded = Some(made.map_err(failed)?);
        slice.envelope = envelope;
        Ok(())
    }

    fn list<'a>(&self, decoded: &'a RecordBatch) -> Result<&'a arrow::array::ListArray, TaskError> {
        let column: Option<&ArrayRef> = decoded.columns().get(self.list);
        column
            .and_then(|column| column.as_list_opt())
            .ok_or_else(|| fatal("cannot make rows of a list", "the column is no list"))
    }

    /// Records that would make more than there is room for.
    fn unfit(&self, slice: &Slice) -> Result<Vec<(usize, String)>, TaskError> {
        let Some(decoded) = &slice.decoded else { return Ok(Vec::new()) };
        let list = self.list(decoded)?;
        let mut unfit = Vec::new();
        for row in 0..list.len() {
            let elements = usize::try_from(list.value_length(row)).unwrap_or(0);
            // Few elements of a slice's few MiB never come to much.
            if elements <= 16 || list.is_null(row) {
                continue;
            }
            let others = decoded.columns().iter().enumerate().filter(|(at, _)| *at != self.list);
            let bytes: usize = others.map(|(_, column)| crate::batch::bytes(&column.slice(row, 1))).sum();
            let name = decoded.schema_ref().field(self.list).name();
            if elements > ROWS_MAX {
                unfit.push((
                    row,
                    format!("$.{name}: {elements} elements, at most {ROWS_MAX} rows are made of a record"),
                ));
            } else if elements.saturating_mul(bytes) > BYTES_MAX {
                unfit.push((
                    row,
                    format!("$.{name}: {elements} rows with {bytes} bytes of other columns each, at most {BYTES_MAX} bytes are made of a record"),
                ));
            }
        }
        Ok(unfit)
    }
}

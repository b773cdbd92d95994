//! Columns that grow a row at a time and can take a row back.
//!
//! Plain vectors instead of Arrow's builders, because those can't be shortened: a row that turns out not
//! to fit is cut off again, so its earlier cells need no copy of their own.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, BooleanBufferBuilder, Float64Array, Int64Array, ListArray, NullBufferBuilder,
    StringArray, StructArray, TimestampMillisecondArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};
use arrow::error::ArrowError;

use super::{ANY, DEPTH_MAX, FIELDS_MAX};
use crate::Error;

/// One column under construction.
pub(super) struct Column {
    pub(super) field: FieldRef,
    pub(super) values: Values,
    nulls: NullBufferBuilder,
    len: usize,
}

/// The cells of a column; a null has a cell too, of no meaning.
pub(super) enum Values {
    Bool(BooleanBufferBuilder),
    Int64(Vec<i64>),
    Float64(Vec<f64>),
    Timestamp(Vec<i64>),
    Text { ends: Vec<i32>, bytes: Vec<u8>, any: bool },
    List { ends: Vec<i32>, item: Box<Column> },
    Struct(Columns),
}

/// The columns of one object, found by name.
pub(super) struct Columns {
    pub(super) columns: Vec<Column>,
    index: HashMap<String, usize>,
    /// Whether fields without a column are passed over.
    pub(super) skips: bool,
}

impl Columns {
    /// Refuses what JSON is not decoded into, and schemas beyond the limits.
    pub(super) fn new(fields: &Fields) -> Result<Self, Error> {
        let (count, depth) = size(fields);
        if count > FIELDS_MAX || depth > DEPTH_MAX {
            return Err(Error::SchemaTooLarge {
                fields: count,
                depth,
                fields_max: FIELDS_MAX,
                depth_max: DEPTH_MAX,
            });
        }
        Self::checked(fields, "")
    }

    fn checked(fields: &Fields, parent: &str) -> Result<Self, Error> {
        let mut columns = Vec::with_capacity(fields.len());
        let mut index = HashMap::with_capacity(fields.len());
        for field in fields {
            let path =
                if parent.is_empty() { field.name().clone() } else { format!("{parent}.{}", field.name()) };
            if index.insert(field.name().clone(), columns.len()).is_some() {
                return Err(Error::DoubledField { field: path });
            }
            columns.push(Column::new(field, &path)?);
        }
        Ok(Self { columns, index, skips: false })
    }

    /// Where a field stands; `guess` is where it stood if the order is the schema's.
    #[inline]
    pub(super) fn find(&self, name: &str, guess: usize) -> Option<usize> {
        match self.columns.get(guess) {
            Some(column) if column.field.name() == name => Some(guess),
            _ => self.index.get(name).copied(),
        }
    }

    /// Gives a null to each column that has no cell in row `len - 1` yet.
    pub(super) fn pad(&mut self, len: usize) {
        for column in &mut self.columns {
            if column.len < len {
                column.push_null();
            }
        }
    }

    pub(super) fn truncate(&mut self, len: usize) {
        for column in &mut self.columns {
            column.truncate(len);
        }
    }

    pub(super) fn reserve(&mut self, rows: usize) {
        for column in &mut self.columns {
            column.reserve(rows);
        }
    }

    pub(super) fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.columns.iter_mut().map(Column::finish).collect()
    }
}

impl Column {
    fn new(field: &FieldRef, path: &str) -> Result<Self, Error> {
        let unsupported = || Error::UnsupportedColumn {
            column: path.to_owned(),
            data_type: field.data_type().clone(),
            nullable: field.is_nullable(),
        };
        if !field.is_nullable() {
            return Err(unsupported());
        }
        let values = match field.data_type() {
            DataType::Boolean => Values::Bool(BooleanBufferBuilder::new(0)),
            DataType::Int64 => Values::Int64(Vec::new()),
            DataType::Float64 => Values::Float64(Vec::new()),
            DataType::Timestamp(TimeUnit::Millisecond, Some(zone)) if &**zone == "UTC" => {
                Values::Timestamp(Vec::new())
            }
            DataType::Utf8 => Values::Text { ends: Vec::new(), bytes: Vec::new(), any: is_any(field) },
            DataType::List(item) => {
                let item = Box::new(Self::new(item, &format!("{path}[]"))?);
                Values::List { ends: Vec::new(), item }
            }
            DataType::Struct(fields) => Values::Struct(Columns::checked(fields, path)?),
            _ => return Err(unsupported()),
        };
        Ok(Self { field: Arc::clone(field), values, nulls: NullBufferBuilder::new(0), len: 0 })
    }

    /// Cells so far.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Counts the cell that was just pushed to `values`.
    #[inline]
    pub(super) fn pushed(&mut self) {
        self.nulls.append_non_null();
        self.len += 1;
    }

    pub(super) fn push_null(&mut self) {
        match &mut self.values {
            Values::Bool(values) => values.append(false),
            Values::Int64(values) | Values::Timestamp(values) => values.push(0),
            Values::Float64(values) => values.push(0.0),
            Values::Text { ends, bytes, .. } => ends.push(position(bytes.len())),
            Values::List { ends, item } => ends.push(position(item.len)),
            Values::Struct(columns) => columns.pad(self.len + 1),
        }
        self.nulls.append_null();
        self.len += 1;
    }

    /// Takes back all cells from `len` on, also those of a row that was left half-way.
    fn truncate(&mut self, len: usize) {
        match &mut self.values {
            Values::Bool(values) => values.truncate(len),
            Values::Int64(values) | Values::Timestamp(values) => values.truncate(len),
            Values::Float64(values) => values.truncate(len),
            Values::Text { ends, bytes, .. } => {
                ends.truncate(len);
                bytes.truncate(last(ends));
            }
            Values::List { ends, item } => {
                ends.truncate(len);
                item.truncate(last(ends));
            }
            Values::Struct(columns) => columns.truncate(len),
        }
        if self.len > len {
            self.nulls.truncate(len);
            self.len = len;
        }
    }

    fn reserve(&mut self, rows: usize) {
        match &mut self.values {
            Values::Bool(values) => values.reserve(rows),
            Values::Int64(values) | Values::Timestamp(values) => values.reserve(rows),
            Values::Float64(values) => values.reserve(rows),
            Values::Text { ends, .. } | Values::List { ends, .. } => ends.reserve(rows),
            Values::Struct(columns) => columns.reserve(rows),
        }
    }

    /// The array of all cells; the column is empty again.
    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let nulls: Option<NullBuffer> = self.nulls.finish();
        self.len = 0;
        Ok(match &mut self.values {
            Values::Bool(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Int64(values) => Arc::new(Int64Array::try_new(std::mem::take(values).into(), nulls)?),
            Values::Float64(values) => Arc::new(Float64Array::try_new(std::mem::take(values).into(), nulls)?),
            Values::Timestamp(values) => {
                let array = TimestampMillisecondArray::try_new(std::mem::take(values).into(), nulls)?;
                Arc::new(array.with_timezone("UTC"))
            }
            Values::Text { ends, bytes, .. } => {
                // The next batch will be about as large.
                let next = Vec::with_capacity(bytes.len());
                let bytes = Buffer::from_vec(std::mem::replace(bytes, next));
                Arc::new(StringArray::try_new(offsets(ends), bytes, nulls)?)
            }
            Values::List { ends, item } => {
                let values = item.finish()?;
                Arc::new(ListArray::try_new(Arc::clone(&item.field), offsets(ends), values, nulls)?)
            }
            Values::Struct(columns) => {
                let fields: Fields = columns.columns.iter().map(|c| Arc::clone(&c.field)).collect();
                let arrays = columns.finish()?;
                Arc::new(StructArray::try_new(fields, arrays, nulls)?)
            }
        })
    }
}

pub(super) fn is_any(field: &Field) -> bool {
    field.metadata().get(ANY.0).is_some_and(|v| v == ANY.1)
}

/// A position in the bytes or items of one batch. [`super::Decoder::decode`] bounds the sum of all bodies
/// by `i32::MAX`, and each byte or item of a column takes at least a byte of a body.
pub(super) fn position(len: usize) -> i32 {
    i32::try_from(len).expect("the bodies of a batch are bounded by i32::MAX bytes")
}

fn last(ends: &[i32]) -> usize {
    ends.last().map_or(0, |&end| usize::try_from(end).expect("ends are never negative"))
}

fn offsets(ends: &mut Vec<i32>) -> OffsetBuffer<i32> {
    let mut all = std::mem::take(ends);
    all.insert(0, 0);
    OffsetBuffer::new(ScalarBuffer::from(all))
}

/// Fields at all levels, and levels; stops counting depth soon after the limit.
fn size(fields: &Fields) -> (usize, usize) {
    fn of(data_type: &DataType, level: usize, fields: &mut usize, depth: &mut usize) {
        *depth = (*depth).max(level);
        if level > DEPTH_MAX {
            return;
        }
        match data_type {
            DataType::List(item) => {
                *depth = (*depth).max(level + 1);
                of(item.data_type(), level + 1, fields, depth);
            }
            DataType::Struct(children) => {
                *depth = (*depth).max(level + 1);
                for child in children {
                    *fields += 1;
                    of(child.data_type(), level + 1, fields, depth);
                }
            }
            _ => {}
        }
    }
    let (mut count, mut depth) = (fields.len(), 1);
    for field in fields {
        of(field.data_type(), 1, &mut count, &mut depth);
    }
    (count, depth)
}

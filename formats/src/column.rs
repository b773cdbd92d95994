//! Columns that grow a row at a time and can take a row back.
//!
//! Plain vectors instead of Arrow's builders, because those can't be shortened: a row that turns out not
//! to fit is cut off again, so its earlier cells need no copy of their own.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, BooleanBufferBuilder, ListArray, MapArray,
    NullBufferBuilder, PrimitiveArray, StringArray, StructArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, FieldRef, Fields, Float32Type, Float64Type, Int32Type,
    Int64Type, Time32MillisecondType, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt64Type,
};
use arrow::error::ArrowError;

use crate::json::ANY;
use crate::{DEPTH_MAX, Error, FIELDS_MAX};

/// One column under construction.
pub(crate) struct Column {
    pub(crate) field: FieldRef,
    pub(crate) values: Values,
    nulls: NullBufferBuilder,
    len: usize,
}

/// The cells of a column; a null has a cell too, of no meaning.
pub(crate) enum Values {
    Bool(BooleanBufferBuilder),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    UInt64(Vec<u64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    /// Days since 1970-01-01.
    Date(Vec<i32>),
    /// Milliseconds since midnight.
    TimeMillis(Vec<i32>),
    /// Microseconds since midnight.
    TimeMicros(Vec<i64>),
    /// Units since 1970-01-01T00:00:00, of the column's type.
    Timestamp(Vec<i64>),
    /// Units of the last digit that the column's type keeps.
    Decimal(Vec<i128>),
    Text {
        ends: Vec<i32>,
        bytes: Vec<u8>,
        any: bool,
    },
    Binary {
        ends: Vec<i32>,
        bytes: Vec<u8>,
    },
    List {
        ends: Vec<i32>,
        item: Box<Column>,
    },
    Map {
        ends: Vec<i32>,
        key: Box<Column>,
        value: Box<Column>,
    },
    Struct(Columns),
}

/// What becomes of a field that has no column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unknown {
    /// The row is a reject.
    #[default]
    Refuse,
    /// The row is a reject, unless the field shows no type: null, and lists and objects of nothing else.
    PassEmpty,
    /// The field is passed over.
    PassOver,
}

/// The columns of one object, found by name.
pub(crate) struct Columns {
    pub(crate) columns: Vec<Column>,
    index: HashMap<String, usize>,
    pub(crate) unknown: Unknown,
}

impl Columns {
    /// Refuses what bodies are not decoded into, and schemas beyond the limits.
    pub(crate) fn new(fields: &Fields) -> Result<Self, Error> {
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
        Ok(Self { columns, index, unknown: Unknown::Refuse })
    }

    /// Where a field stands; `guess` is where it stood if the order is the schema's.
    #[inline]
    pub(crate) fn find(&self, name: &str, guess: usize) -> Option<usize> {
        match self.columns.get(guess) {
            Some(column) if column.field.name() == name => Some(guess),
            _ => self.index.get(name).copied(),
        }
    }

    /// Says of the fields at all levels what becomes of those without a column.
    pub(crate) fn treat_unknown(&mut self, unknown: Unknown) {
        self.unknown = unknown;
        self.columns.iter_mut().for_each(|column| column.treat_unknown(unknown));
    }

    /// Gives a null to each column that has no cell in row `len - 1` yet.
    pub(crate) fn pad(&mut self, len: usize) {
        for column in &mut self.columns {
            if column.len < len {
                column.push_null();
            }
        }
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        for column in &mut self.columns {
            column.truncate(len);
        }
    }

    pub(crate) fn reserve(&mut self, rows: usize) {
        for column in &mut self.columns {
            column.reserve(rows);
        }
    }

    pub(crate) fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
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
            DataType::Int32 => Values::Int32(Vec::new()),
            DataType::Int64 => Values::Int64(Vec::new()),
            DataType::UInt64 => Values::UInt64(Vec::new()),
            DataType::Float32 => Values::Float32(Vec::new()),
            DataType::Float64 => Values::Float64(Vec::new()),
            DataType::Date32 => Values::Date(Vec::new()),
            DataType::Time32(TimeUnit::Millisecond) => Values::TimeMillis(Vec::new()),
            DataType::Time64(TimeUnit::Microsecond) => Values::TimeMicros(Vec::new()),
            DataType::Timestamp(_, Some(zone)) if &**zone == "UTC" => Values::Timestamp(Vec::new()),
            DataType::Timestamp(_, None) => Values::Timestamp(Vec::new()),
            DataType::Decimal128(_, scale) if *scale >= 0 => Values::Decimal(Vec::new()),
            DataType::Binary => Values::Binary { ends: Vec::new(), bytes: Vec::new() },
            DataType::Utf8 => Values::Text { ends: Vec::new(), bytes: Vec::new(), any: is_any(field) },
            DataType::List(item) => {
                let item = Box::new(Self::new(item, &format!("{path}[]"))?);
                Values::List { ends: Vec::new(), item }
            }
            DataType::Struct(fields) => Values::Struct(Columns::checked(fields, path)?),
            DataType::Map(entries, _) => {
                let DataType::Struct(pair) = entries.data_type() else { return Err(unsupported()) };
                let [key, value] = &pair[..] else { return Err(unsupported()) };
                if *key.data_type() != DataType::Utf8 {
                    return Err(unsupported());
                }
                let key = Field::new(key.name(), DataType::Utf8, true);
                let key = Box::new(Self::new(&Arc::new(key), &format!("{path}.key"))?);
                let value = Box::new(Self::new(value, &format!("{path}.value"))?);
                Values::Map { ends: Vec::new(), key, value }
            }
            _ => return Err(unsupported()),
        };
        Ok(Self { field: Arc::clone(field), values, nulls: NullBufferBuilder::new(0), len: 0 })
    }

    /// Cells so far.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Counts the cell that was just pushed to `values`.
    #[inline]
    pub(crate) fn pushed(&mut self) {
        self.nulls.append_non_null();
        self.len += 1;
    }

    fn treat_unknown(&mut self, unknown: Unknown) {
        match &mut self.values {
            Values::List { item, .. } => item.treat_unknown(unknown),
            Values::Map { value, .. } => value.treat_unknown(unknown),
            Values::Struct(columns) => columns.treat_unknown(unknown),
            _ => {}
        }
    }

    pub(crate) fn push_null(&mut self) {
        match &mut self.values {
            Values::Bool(values) => values.append(false),
            Values::Int32(values) | Values::Date(values) | Values::TimeMillis(values) => values.push(0),
            Values::Int64(values) | Values::Timestamp(values) | Values::TimeMicros(values) => values.push(0),
            Values::UInt64(values) => values.push(0),
            Values::Float32(values) => values.push(0.0),
            Values::Float64(values) => values.push(0.0),
            Values::Decimal(values) => values.push(0),
            Values::Text { ends, bytes, .. } | Values::Binary { ends, bytes } => {
                ends.push(position(bytes.len()));
            }
            Values::List { ends, item } => ends.push(position(item.len)),
            Values::Map { ends, key, .. } => ends.push(position(key.len)),
            Values::Struct(columns) => columns.pad(self.len + 1),
        }
        self.nulls.append_null();
        self.len += 1;
    }

    /// Takes back all cells from `len` on, also those of a row that was left half-way.
    fn truncate(&mut self, len: usize) {
        match &mut self.values {
            Values::Bool(values) => values.truncate(len),
            Values::Int32(values) | Values::Date(values) | Values::TimeMillis(values) => values.truncate(len),
            Values::Int64(values) | Values::Timestamp(values) | Values::TimeMicros(values) => {
                values.truncate(len);
            }
            Values::UInt64(values) => values.truncate(len),
            Values::Float32(values) => values.truncate(len),
            Values::Float64(values) => values.truncate(len),
            Values::Decimal(values) => values.truncate(len),
            Values::Text { ends, bytes, .. } | Values::Binary { ends, bytes } => {
                ends.truncate(len);
                bytes.truncate(last(ends));
            }
            Values::List { ends, item } => {
                ends.truncate(len);
                item.truncate(last(ends));
            }
            Values::Map { ends, key, value } => {
                ends.truncate(len);
                key.truncate(last(ends));
                value.truncate(last(ends));
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
            Values::Int32(values) | Values::Date(values) | Values::TimeMillis(values) => values.reserve(rows),
            Values::Int64(values) | Values::Timestamp(values) | Values::TimeMicros(values) => {
                values.reserve(rows);
            }
            Values::UInt64(values) => values.reserve(rows),
            Values::Float32(values) => values.reserve(rows),
            Values::Float64(values) => values.reserve(rows),
            Values::Decimal(values) => values.reserve(rows),
            Values::Text { ends, .. }
            | Values::Binary { ends, .. }
            | Values::List { ends, .. }
            | Values::Map { ends, .. } => ends.reserve(rows),
            Values::Struct(columns) => columns.reserve(rows),
        }
    }

    /// The array of all cells; the column is empty again.
    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let nulls: Option<NullBuffer> = self.nulls.finish();
        self.len = 0;
        Ok(match &mut self.values {
            Values::Bool(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Int32(values) => primitive::<Int32Type>(values, nulls, &self.field)?,
            Values::Int64(values) => primitive::<Int64Type>(values, nulls, &self.field)?,
            Values::UInt64(values) => primitive::<UInt64Type>(values, nulls, &self.field)?,
            Values::Float32(values) => primitive::<Float32Type>(values, nulls, &self.field)?,
            Values::Float64(values) => primitive::<Float64Type>(values, nulls, &self.field)?,
            Values::Date(values) => primitive::<Date32Type>(values, nulls, &self.field)?,
            Values::TimeMillis(values) => primitive::<Time32MillisecondType>(values, nulls, &self.field)?,
            Values::TimeMicros(values) => primitive::<Time64MicrosecondType>(values, nulls, &self.field)?,
            Values::Decimal(values) => primitive::<Decimal128Type>(values, nulls, &self.field)?,
            Values::Timestamp(values) => match self.field.data_type() {
                DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                    primitive::<TimestampNanosecondType>(values, nulls, &self.field)?
                }
                DataType::Timestamp(TimeUnit::Microsecond, _) => {
                    primitive::<TimestampMicrosecondType>(values, nulls, &self.field)?
                }
                DataType::Timestamp(TimeUnit::Second, _) => {
                    primitive::<TimestampSecondType>(values, nulls, &self.field)?
                }
                _ => primitive::<TimestampMillisecondType>(values, nulls, &self.field)?,
            },
            Values::Text { ends, bytes, .. } => {
                // The next batch will be about as large.
                let next = Vec::with_capacity(bytes.len());
                let bytes = Buffer::from_vec(std::mem::replace(bytes, next));
                Arc::new(StringArray::try_new(offsets(ends), bytes, nulls)?)
            }
            Values::Binary { ends, bytes } => {
                let bytes = Buffer::from_vec(std::mem::take(bytes));
                Arc::new(BinaryArray::try_new(offsets(ends), bytes, nulls)?)
            }
            Values::Map { ends, key, value } => {
                let DataType::Map(entries, sorted) = self.field.data_type() else {
                    return Err(ArrowError::SchemaError("a map's column is no map".to_owned()));
                };
                let DataType::Struct(pair) = entries.data_type() else {
                    return Err(ArrowError::SchemaError("a map's entries are no struct".to_owned()));
                };
                let pairs = StructArray::try_new(pair.clone(), vec![key.finish()?, value.finish()?], None)?;
                Arc::new(MapArray::try_new(Arc::clone(entries), offsets(ends), pairs, nulls, *sorted)?)
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

/// The array of plain values with the column's own type: its zone, precision and scale.
fn primitive<T: ArrowPrimitiveType>(
    values: &mut Vec<T::Native>,
    nulls: Option<NullBuffer>,
    field: &Field,
) -> Result<ArrayRef, ArrowError> {
    let array = PrimitiveArray::<T>::try_new(std::mem::take(values).into(), nulls)?;
    Ok(Arc::new(array.with_data_type(field.data_type().clone())))
}

pub(crate) fn is_any(field: &Field) -> bool {
    field.metadata().get(ANY.0).is_some_and(|v| v == ANY.1)
}

/// A position in the bytes or items of one batch. Decoders bound the sum of all bodies by [`crate::BATCH_BYTES_MAX`],
/// and each byte or item of a column takes at least a byte of a body; what a format writes shorter than it is goes
/// through [`Column::push`](crate::scalar), which looks.
pub(crate) fn position(len: usize) -> i32 {
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
            DataType::Map(entries, _) => of(entries.data_type(), level, fields, depth),
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

//! Typed values into columns: what a value of a format becomes in the column that stands for it.
//!
//! A value goes into a column of its own type or of a wider one, if that holds it exactly; nothing is cut or rounded.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};

use crate::column::{Column, Columns, Values, position};
use crate::path::{Misfit, clipped};
use crate::{BATCH_BYTES_MAX, Error, json};

/// One value without parts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scalar<'a> {
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float32(f32),
    Float64(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Days since 1970-01-01.
    Date(i32),
    TimeMillis(i32),
    TimeMicros(i64),
    /// Since 1970-01-01T00:00:00, of UTC or of a clock on a wall.
    Timestamp {
        value: i64,
        unit: TimeUnit,
        utc: bool,
    },
    /// Units of the last digit, and digits after the point.
    Decimal(i128, u32),
}

impl Scalar<'_> {
    fn shown(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::UInt(value) => value.to_string(),
            Self::Float32(value) => format!("the float {value}"),
            Self::Float64(value) => format!("the float {value}"),
            Self::Text(text) => format!("the text \"{}\"", clipped(text)),
            Self::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Self::Date(days) => format!("a date ({days} days)"),
            Self::TimeMillis(ms) => format!("a time of day ({ms} ms)"),
            Self::TimeMicros(us) => format!("a time of day ({us} us)"),
            Self::Timestamp { value, unit, utc } => {
                format!("a timestamp ({value} {unit:?}s, {})", if *utc { "UTC" } else { "local" })
            }
            Self::Decimal(value, scale) => format!("the decimal {value}e-{scale}"),
        }
    }
}

impl Column {
    /// Appends a value. What does not fit leaves the column as it was.
    pub(crate) fn push(&mut self, scalar: Scalar<'_>) -> Result<(), Misfit> {
        let fits = match (&mut self.values, scalar) {
            (Values::Bool(values), Scalar::Bool(value)) => {
                values.append(value);
                true
            }
            (Values::Int32(values), Scalar::Int(value)) => put(values, i32::try_from(value).ok()),
            (Values::Int64(values), Scalar::Int(value)) => put(values, Some(value)),
            (Values::Int64(values), Scalar::UInt(value)) => put(values, i64::try_from(value).ok()),
            (Values::UInt64(values), Scalar::UInt(value)) => put(values, Some(value)),
            (Values::UInt64(values), Scalar::Int(value)) => put(values, u64::try_from(value).ok()),
            (Values::Float32(values), Scalar::Float32(value)) => put(values, Some(value)),
            (Values::Float64(values), Scalar::Float32(value)) => put(values, Some(f64::from(value))),
            (Values::Float64(values), Scalar::Float64(value)) => put(values, Some(value)),
            (Values::Float64(values), Scalar::Int(value)) => {
                put(values, json::exact_float(i128::from(value)))
            }
            (Values::Date(values), Scalar::Date(days)) => put(values, Some(days)),
            (Values::TimeMillis(values), Scalar::TimeMillis(ms)) => put(values, Some(ms)),
            (Values::TimeMicros(values), Scalar::TimeMicros(us)) => put(values, Some(us)),
            (Values::TimeMicros(values), Scalar::TimeMillis(ms)) => put(values, Some(i64::from(ms) * 1000)),
            (Values::Timestamp(values), Scalar::Timestamp { value, unit, utc }) => {
                match self.field.data_type() {
                    DataType::Timestamp(kept, zone) if zone.is_some() == utc => {
                        put(values, in_unit(value, unit, *kept))
                    }
                    _ => false,
                }
            }
            (Values::Decimal(values), Scalar::Decimal(value, scale)) => match self.field.data_type() {
                DataType::Decimal128(precision, kept) => {
                    put(values, rescaled(value, scale, u32::from(kept.unsigned_abs()), *precision))
                }
                _ => false,
            },
            (Values::Text { ends, bytes, .. }, Scalar::Text(text)) => append(ends, bytes, text.as_bytes())?,
            (Values::Binary { ends, bytes }, Scalar::Bytes(value)) => append(ends, bytes, value)?,
            _ => false,
        };
        if !fits {
            return Err(self.mismatch(&scalar.shown()));
        }
        self.pushed();
        Ok(())
    }

    /// Appends a value by its text, as CSV has it.
    pub(crate) fn push_text(&mut self, text: &str) -> Result<(), Misfit> {
        let fits = match &mut self.values {
            Values::Text { ends, bytes, .. } => append(ends, bytes, text.as_bytes())?,
            Values::Int64(values) => put(values, text.parse().ok()),
            Values::Float64(values) => match text.parse::<i128>() {
                Ok(integer) => put(values, json::exact_float(integer)),
                Err(_) if !text.contains(['.', 'e', 'E']) => false,
                Err(_) => put(values, text.parse::<f64>().ok().filter(|v| v.is_finite())),
            },
            Values::Bool(values) => match text {
                "true" | "false" => {
                    values.append(text == "true");
                    true
                }
                _ => false,
            },
            Values::Timestamp(values) => put(values, json::parse_ms(text)),
            _ => false,
        };
        if !fits {
            // What a text means is known from all texts, and a wider type from none.
            return Err(self.mismatch(&format!("\"{}\"", clipped(text))).of_any_schema());
        }
        self.pushed();
        Ok(())
    }

    #[cold]
    pub(crate) fn mismatch(&self, got: &str) -> Misfit {
        let expected = written(self.field.data_type());
        Misfit::new(format!("expected {expected}, got {got}")).or_wider()
    }
}

/// A type as a person writes it.
pub(crate) fn written(data_type: &DataType) -> String {
    match data_type {
        DataType::Struct(_) => "a record".to_owned(),
        DataType::List(_) => "a list".to_owned(),
        DataType::Map(..) => "a map".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Timestamp(TimeUnit::Millisecond, Some(_)) => "timestamp".to_owned(),
        other => other.to_string().to_lowercase(),
    }
}

impl Columns {
    /// The rows so far as a batch; the columns are empty again.
    pub(crate) fn batch(&mut self, schema: &SchemaRef, rows: usize) -> Result<RecordBatch, Error> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        self.finish()
            .and_then(|columns| RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options))
            .map_err(|source| Error::Batch { rows, source })
    }
}

/// Appends a value, if there is one.
fn put<T>(values: &mut Vec<T>, value: Option<T>) -> bool {
    let fits = value.is_some();
    values.extend(value);
    fits
}

/// Appends bytes, if the column of one batch can hold them: a name may be longer than what stands for it in a body.
fn append(ends: &mut Vec<i32>, bytes: &mut Vec<u8>, value: &[u8]) -> Result<bool, Misfit> {
    if bytes.len().saturating_add(value.len()) > BATCH_BYTES_MAX {
        return Err(Misfit::new(format!("more than {BATCH_BYTES_MAX} bytes in one column")));
    }
    bytes.extend_from_slice(value);
    ends.push(position(bytes.len()));
    Ok(true)
}

fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// The time in another unit, if that is the same time.
fn in_unit(value: i64, unit: TimeUnit, kept: TimeUnit) -> Option<i64> {
    let (from, to) = (per_second(unit), per_second(kept));
    if to >= from {
        return value.checked_mul(to / from);
    }
    let divisor = from / to;
    (value % divisor == 0).then_some(value / divisor)
}

/// The decimal with another number of digits after the point, if that is the same number and has at most
/// `precision` digits.
fn rescaled(value: i128, scale: u32, kept: u32, precision: u8) -> Option<i128> {
    let value = if kept >= scale {
        value.checked_mul(10_i128.checked_pow(kept - scale)?)?
    } else {
        let divisor = 10_i128.checked_pow(scale - kept)?;
        (value % divisor == 0).then_some(value / divisor)?
    };
    let bound = 10_i128.checked_pow(u32::from(precision))?;
    (value.unsigned_abs() < bound.unsigned_abs()).then_some(value)
}

//! Columns of computed values: Arrow kernels where the types have one, and row by row where not.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, BooleanBuilder, Float64Array, Float64Builder, Int64Array, Int64Builder,
    StringBuilder, TimestampMillisecondBuilder, new_null_array,
};
use arrow::compute::kernels::{numeric, zip};
use arrow::compute::{cast, is_not_null, nullif};
use arrow::datatypes::{DataType, Float64Type};
use arrow::error::ArrowError;

use super::Batch;
use crate::expr::{Arithmetic, Function, Type, Value};
use crate::time;
use crate::value::Scalar;
use crate::value_expression::result_type;
use crate::values;

impl Batch<'_> {
    /// A value for each row. `types` are those of the slots, and [`result_type`] takes the value.
    pub(crate) fn compute(&self, value: &Value, types: &[DataType]) -> Result<ArrayRef, ArrowError> {
        let type_of = |value: &Value| {
            result_type(value, types).map_err(|reason| ArrowError::ComputeError(reason.to_owned()))
        };
        let target = type_of(value)?;
        match value {
            Value::Slot(slot) => {
                let array = self.column(*slot).and_then(|column| column.array.clone());
                Ok(array.unwrap_or_else(|| new_null_array(&target, self.rows)))
            }
            Value::Arithmetic(sides) if target.is_numeric() => {
                let (left, op, right) = &**sides;
                // A text is a number by rules of its own, and a length of time has no column.
                let (Ok(a), Ok(b)) = (type_of(left), type_of(right)) else {
                    return self.made_by_row(value, &target);
                };
                if !a.is_numeric() || !b.is_numeric() {
                    return self.made_by_row(value, &target);
                }
                let left = cast(&self.compute(left, types)?, &target)?;
                let right = cast(&self.compute(right, types)?, &target)?;
                if target == DataType::Int64 {
                    whole(left.as_primitive(), *op, right.as_primitive())
                } else {
                    double(left.as_primitive(), *op, right.as_primitive())
                }
            }
            Value::Cast(inner, Type::Number) if type_of(inner).is_ok_and(|t| t.is_integer()) => {
                cast(&self.compute(inner, types)?, &target)
            }
            Value::Call(Function::Coalesce, list)
                if list.iter().all(|value| type_of(value).is_ok_and(|t| t == target)) =>
            {
                let mut rest = list.iter().rev();
                let Some(last) = rest.next() else { return Ok(new_null_array(&target, self.rows)) };
                rest.try_fold(self.compute(last, types)?, |joined, value| {
                    let first = self.compute(value, types)?;
                    zip::zip(&is_not_null(&first)?, &first, &joined)
                })
            }
            _ => self.made_by_row(value, &target),
        }
    }

    fn made_by_row(&self, value: &Value, target: &DataType) -> Result<ArrayRef, ArrowError> {
        let mut slots = Vec::new();
        value.visit_slots(&mut |slot| slots.push(slot));
        slots.sort_unstable();
        slots.dedup();
        let mut scalars = vec![Scalar::Null; self.columns.len()];
        let mut made = Made::new(target, self.rows)?;
        for row in 0..self.rows {
            for slot in &slots {
                if let (Some(scalar), Some(column)) = (scalars.get_mut(*slot), self.column(*slot)) {
                    *scalar = column.scalar_at(row);
                }
            }
            match values::compute(value, &scalars) {
                Some(found) => made.push(found.scalar()),
                None => made.push(Scalar::Null),
            }
        }
        Ok(made.finish())
    }
}

/// Whole numbers; what has no result is null, and so is one beyond 64 bits.
fn whole(left: &Int64Array, op: Arithmetic, right: &Int64Array) -> Result<ArrayRef, ArrowError> {
    let kernel = match op {
        Arithmetic::Add => numeric::add(left, right),
        Arithmetic::Subtract => numeric::sub(left, right),
        Arithmetic::Multiply => numeric::mul(left, right),
        Arithmetic::Divide | Arithmetic::Remainder => numeric::rem(left, right),
    };
    if kernel.is_ok() {
        return kernel;
    }
    // The kernel stops at the first row without a result.
    let one = |a: i64, b: i64| match op {
        Arithmetic::Add => a.checked_add(b),
        Arithmetic::Subtract => a.checked_sub(b),
        Arithmetic::Multiply => a.checked_mul(b),
        Arithmetic::Divide | Arithmetic::Remainder => (b != 0).then(|| a.wrapping_rem(b)),
    };
    let rows = left.iter().zip(right).map(|(a, b)| one(a?, b?));
    Ok(Arc::new(rows.collect::<Int64Array>()))
}

/// Doubles; a division by zero and what is no number are null.
fn double(left: &Float64Array, op: Arithmetic, right: &Float64Array) -> Result<ArrayRef, ArrowError> {
    let mut found = match op {
        Arithmetic::Add => numeric::add(left, right),
        Arithmetic::Subtract => numeric::sub(left, right),
        Arithmetic::Multiply => numeric::mul(left, right),
        Arithmetic::Divide => numeric::div(left, right),
        Arithmetic::Remainder => numeric::rem(left, right),
    }?;
    if matches!(op, Arithmetic::Divide | Arithmetic::Remainder) {
        found = nullif(&found, &BooleanArray::from_unary(right, |b| b == 0.0))?;
    }
    let is_nan = BooleanArray::from_unary(found.as_primitive::<Float64Type>(), f64::is_nan);
    if is_nan.has_true() { nullif(&found, &is_nan) } else { Ok(found) }
}

/// A column in the making.
enum Made {
    Text(StringBuilder),
    Whole(Int64Builder),
    Double(Float64Builder),
    Truth(BooleanBuilder),
    Time(TimestampMillisecondBuilder),
    Null(usize),
}

impl Made {
    fn new(target: &DataType, rows: usize) -> Result<Self, ArrowError> {
        Ok(match target {
            DataType::Utf8 => Self::Text(StringBuilder::new()),
            DataType::Int64 => Self::Whole(Int64Builder::with_capacity(rows)),
            DataType::Float64 => Self::Double(Float64Builder::with_capacity(rows)),
            DataType::Boolean => Self::Truth(BooleanBuilder::with_capacity(rows)),
            DataType::Timestamp(..) => {
                Self::Time(TimestampMillisecondBuilder::with_capacity(rows).with_timezone("UTC"))
            }
            DataType::Null => Self::Null(0),
            other => return Err(ArrowError::ComputeError(format!("no value makes a column of {other}"))),
        })
    }

    /// A value that is not of the column's type is null in it.
    fn push(&mut self, value: Scalar<'_>) {
        match self {
            Self::Text(made) => match value {
                Scalar::Text(text) => made.append_value(text),
                Scalar::Truth(truth) => made.append_value(if truth { "true" } else { "false" }),
                Scalar::Int(number) => made.append_value(number.to_string()),
                Scalar::Long(number) => made.append_value(number.to_string()),
                Scalar::Double(number) => made.append_value(number.to_string()),
                _ => made.append_null(),
            },
            Self::Whole(made) => match value {
                Scalar::Int(number) => made.append_value(number.into()),
                Scalar::Long(number) => made.append_value(number),
                _ => made.append_null(),
            },
            Self::Double(made) => match value {
                Scalar::Int(number) => made.append_value(number.into()),
                #[expect(clippy::cast_precision_loss, reason = "the nearest double is meant")]
                Scalar::Long(number) => made.append_value(number as f64),
                Scalar::Double(number) => made.append_value(number),
                _ => made.append_null(),
            },
            Self::Truth(made) => match value {
                Scalar::Truth(truth) => made.append_value(truth),
                _ => made.append_null(),
            },
            Self::Time(made) => match value {
                Scalar::Time(at) => made.append_option(i64::try_from(at.div_euclid(time::MILLI)).ok()),
                _ => made.append_null(),
            },
            Self::Null(rows) => *rows += 1,
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Text(mut made) => Arc::new(made.finish()),
            Self::Whole(mut made) => Arc::new(made.finish()),
            Self::Double(mut made) => Arc::new(made.finish()),
            Self::Truth(mut made) => Arc::new(made.finish()),
            Self::Time(mut made) => Arc::new(made.finish()),
            Self::Null(rows) => new_null_array(&DataType::Null, rows),
        }
    }
}

//! Computes values that are more than a name or a literal, for one row.
//!
//! What has no result is null, and never a failure: text that is no number, a division by zero, a time out
//! of range. Whole numbers of 64 bits are exact; beyond, the nearest double stands.

use std::borrow::Cow;

use crate::engine;
use crate::expr::{Arithmetic, Function, Type, Value};
use crate::number::Number;
use crate::row::{evaluate, number, truth};
use crate::steps;
use crate::time;
use crate::value::{Scalar, Verdict};

/// A computed value.
pub(crate) enum Found<'a> {
    Scalar(Scalar<'a>),
    /// Text that a function made.
    Text(String),
}

impl Found<'_> {
    pub(crate) fn scalar(&self) -> Scalar<'_> {
        match self {
            Self::Scalar(scalar) => *scalar,
            Self::Text(text) => Scalar::Text(text),
        }
    }
}

/// Computes a value; `None` if the evaluation fails, which only RocketMQ's does.
pub(crate) fn compute<'a>(value: &'a Value, values: &[Scalar<'a>]) -> Option<Found<'a>> {
    steps::add(1);
    Some(Found::Scalar(match value {
        Value::Slot(slot) => values.get(*slot).copied().unwrap_or(Scalar::Null),
        Value::Literal(literal) => literal.scalar(),
        Value::Minus(value) => engine::minus(compute(value, values)?.scalar()),
        Value::Condition(condition) => match evaluate(condition, values) {
            Verdict::True => Scalar::Truth(true),
            Verdict::False => Scalar::Truth(false),
            Verdict::Unknown => Scalar::Null,
            Verdict::Failed => return None,
        },
        Value::Arithmetic(sides) => {
            let (left, op, right) = &**sides;
            let (left, right) = (compute(left, values)?, compute(right, values)?);
            calculate(left.scalar(), *op, right.scalar())
        }
        Value::Cast(value, target) => return Some(cast(compute(value, values)?, *target)),
        Value::Call(Function::Coalesce, list) => {
            for value in list {
                let found = compute(value, values)?;
                if found.scalar() != Scalar::Null {
                    return Some(found);
                }
            }
            Scalar::Null
        }
        Value::Call(Function::Concat, list) => {
            let mut text = String::new();
            for value in list {
                match cast(compute(value, values)?, Type::Text).scalar() {
                    Scalar::Text(part) => text.push_str(part),
                    Scalar::Unknown => return Some(Found::Scalar(Scalar::Unknown)),
                    _ => return Some(Found::Scalar(Scalar::Null)),
                }
            }
            return Some(Found::Text(text));
        }
        Value::Call(function, list) => return Some(call(*function, compute(list.first()?, values)?)),
    }))
}

/// A number as a value.
fn scalar(number: Option<Number>) -> Scalar<'static> {
    match number {
        Some(Number::Whole(value)) => Scalar::Long(value),
        Some(Number::Double(value)) => Scalar::Double(value),
        None => Scalar::Null,
    }
}

fn calculate(left: Scalar<'_>, op: Arithmetic, right: Scalar<'_>) -> Scalar<'static> {
    use Arithmetic::{Add, Divide, Multiply, Subtract};
    let time = |at: Option<i128>| at.map_or(Scalar::Null, Scalar::Time);
    let interval = |length: Option<i128>| length.map_or(Scalar::Null, Scalar::Interval);
    match (left, op, right) {
        (Scalar::Unknown, ..) | (.., Scalar::Unknown) => Scalar::Unknown,
        (Scalar::Time(at), Add, Scalar::Interval(length))
        | (Scalar::Interval(length), Add, Scalar::Time(at)) => time(at.checked_add(length)),
        (Scalar::Time(at), Subtract, Scalar::Interval(length)) => time(at.checked_sub(length)),
        (Scalar::Interval(left), Add, Scalar::Interval(right)) => interval(left.checked_add(right)),
        (Scalar::Time(left), Subtract, Scalar::Time(right))
        | (Scalar::Interval(left), Subtract, Scalar::Interval(right)) => interval(left.checked_sub(right)),
        // A minus sign is zero minus.
        (Scalar::Long(0), Subtract, Scalar::Interval(length)) => interval(length.checked_neg()),
        (Scalar::Interval(length), Multiply, factor) | (factor, Multiply, Scalar::Interval(length)) => {
            interval(number(factor).and_then(|factor| scale(length, factor)))
        }
        (Scalar::Interval(length), Divide, divisor) => {
            interval(number(divisor).and_then(|divisor| match divisor {
                Number::Whole(divisor) => length.checked_div(i128::from(divisor)),
                Number::Double(divisor) => scale(length, Number::from_f64(1.0 / divisor)?),
            }))
        }
        _ => scalar(number(left).zip(number(right)).and_then(|(left, right)| left.calculate(op, right))),
    }
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "rounded, and checked")]
fn scale(length: i128, factor: Number) -> Option<i128> {
    match factor {
        Number::Whole(factor) => length.checked_mul(i128::from(factor)),
        Number::Double(factor) => Some((length as f64 * factor).round())
            .filter(|product| product.abs() < 1e37)
            .map(|product| product as i128),
    }
}

fn cast(found: Found<'_>, target: Type) -> Found<'_> {
    let value = found.scalar();
    Found::Scalar(match (target, value) {
        (_, Scalar::Unknown) => Scalar::Unknown,
        (_, Scalar::Null) => Scalar::Null,
        (Type::Whole | Type::Number, Scalar::Truth(value)) => Scalar::Long(i64::from(value)),
        (Type::Whole, Scalar::Time(span) | Scalar::Interval(span)) => {
            i64::try_from(span.div_euclid(time::MILLI)).map_or(Scalar::Null, Scalar::Long)
        }
        #[expect(clippy::cast_precision_loss, reason = "the nearest double is meant")]
        (Type::Number, Scalar::Time(span) | Scalar::Interval(span)) => {
            Scalar::Double(span as f64 / time::MILLI as f64)
        }
        (Type::Whole, value) => scalar(number(value).and_then(Number::truncate)),
        (Type::Number, value) => scalar(number(value)),
        (Type::Truth, Scalar::Text(text)) => truth(text).map_or(Scalar::Null, Scalar::Truth),
        (Type::Truth, Scalar::Truth(value)) => Scalar::Truth(value),
        (Type::Time, Scalar::Text(text)) => time::parse(text).map_or(Scalar::Null, Scalar::Time),
        (Type::Time, Scalar::Time(at)) => Scalar::Time(at),
        (Type::Time, Scalar::Int(millis)) => Scalar::millis(i64::from(millis)),
        (Type::Time, Scalar::Long(millis)) => Scalar::millis(millis),
        (Type::Text, Scalar::Text(_)) => return found,
        (Type::Text, Scalar::Truth(value)) => Scalar::Text(if value { "true" } else { "false" }),
        (Type::Text, Scalar::Int(value)) => return Found::Text(value.to_string()),
        (Type::Text, Scalar::Long(value)) => return Found::Text(value.to_string()),
        (Type::Text, Scalar::Double(value)) => return Found::Text(value.to_string()),
        (Type::Text | Type::Truth | Type::Time, _) => Scalar::Null,
    })
}

/// A function of one text.
fn call(function: Function, found: Found<'_>) -> Found<'_> {
    let text = match &found {
        Found::Text(text) => Cow::Owned(text.clone()),
        Found::Scalar(Scalar::Text(text)) => Cow::Borrowed(*text),
        Found::Scalar(Scalar::Unknown) => return found,
        Found::Scalar(_) => return Found::Scalar(Scalar::Null),
    };
    match function {
        Function::Length => {
            Found::Scalar(Scalar::Long(i64::try_from(text.chars().count()).unwrap_or(i64::MAX)))
        }
        Function::Lower if text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) => found,
        Function::Upper if text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_lowercase()) => found,
        Function::Lower => Found::Text(text.to_lowercase()),
        Function::Upper => Found::Text(text.to_uppercase()),
        Function::Coalesce | Function::Concat => found,
    }
}

//! RocketMQ's rules for values: what compares with what, and what fails.
//!
//! A text counts as what is on the other side, by Java's own readers of numbers ([`number`]); a text that
//! they don't take fails the whole evaluation. Doubles have Java's total order: -0.0 is below 0.0, NaN
//! equals itself and is above all. Knows no expression.

use std::cmp::Ordering;

use crate::expr::Op;
use crate::value::{Scalar, Verdict};

pub(crate) mod number;

use number::{double_text, int_text, long_text};

/// Compares two values, both at hand. Two nulls are equal, a value never equals a null on its right, and
/// every other comparison with a null is unknown.
#[inline]
pub(crate) fn compare(left: Scalar<'_>, op: Op, right: Scalar<'_>) -> Verdict {
    match (left, right) {
        (Scalar::Null, Scalar::Null) if !op.is_order() => (op == Op::Eq).into(),
        (Scalar::Null, _) => Verdict::Unknown,
        (_, Scalar::Null) if !op.is_order() => (op == Op::Ne).into(),
        (_, Scalar::Null) => Verdict::Unknown,
        _ => match order(left, op, right) {
            Ok(Some(order)) => op.holds(order).into(),
            Ok(None) => (op == Op::Ne).into(),
            Err(NotConverted) => Verdict::Failed,
        },
    }
}

/// A text that the other side's type does not take.
struct NotConverted;

/// The order of two values; `None` if they are never equal.
#[inline]
fn order(left: Scalar<'_>, op: Op, right: Scalar<'_>) -> Result<Option<Ordering>, NotConverted> {
    let found = match (left, right) {
        (Scalar::Text(left), Scalar::Text(right)) if !op.is_order() => left.cmp(right),
        (Scalar::Text(left), Scalar::Text(right)) => double(left)?.total_cmp(&double(right)?),
        (Scalar::Text(left), Scalar::Int(right)) => int_text(left).ok_or(NotConverted)?.cmp(&right),
        (Scalar::Int(left), Scalar::Text(right)) => left.cmp(&int_text(right).ok_or(NotConverted)?),
        (Scalar::Text(left), Scalar::Long(right)) => long_text(left).ok_or(NotConverted)?.cmp(&right),
        (Scalar::Long(left), Scalar::Text(right)) => left.cmp(&long_text(right).ok_or(NotConverted)?),
        (Scalar::Text(left), Scalar::Double(right)) => double(left)?.total_cmp(&right),
        (Scalar::Double(left), Scalar::Text(right)) => left.total_cmp(&double(right)?),
        (Scalar::Text(left), Scalar::Truth(right)) => left.eq_ignore_ascii_case("true").cmp(&right),
        (Scalar::Truth(_), Scalar::Text(_)) => return Err(NotConverted),
        (Scalar::Truth(left), Scalar::Truth(right)) => left.cmp(&right),
        (Scalar::Double(_), _) | (_, Scalar::Double(_)) => match (wide(left), wide(right)) {
            (Some(left), Some(right)) => left.total_cmp(&right),
            _ => return Ok(None),
        },
        _ => match (whole(left), whole(right)) {
            (Some(left), Some(right)) => left.cmp(&right),
            _ => return Ok(None),
        },
    };
    Ok(Some(found))
}

fn double(text: &str) -> Result<f64, NotConverted> {
    double_text(text).ok_or(NotConverted)
}

fn whole(value: Scalar<'_>) -> Option<i64> {
    match value {
        Scalar::Int(value) => Some(i64::from(value)),
        Scalar::Long(value) => Some(value),
        _ => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "the engine rounds to the nearest double")]
fn wide(value: Scalar<'_>) -> Option<f64> {
    match value {
        Scalar::Double(value) => Some(value),
        other => whole(other).map(|value| value as f64),
    }
}

/// Unary minus: numbers wrap around, everything else is null.
pub(crate) fn minus(value: Scalar<'_>) -> Scalar<'static> {
    match value {
        Scalar::Int(value) => Scalar::Int(value.wrapping_neg()),
        Scalar::Long(value) => Scalar::Long(value.wrapping_neg()),
        Scalar::Double(value) => Scalar::Double(-value),
        _ => Scalar::Null,
    }
}

//! Which tests fit which types of values. Decides before any row is looked at; evaluates nothing.

use arrow::datatypes::{DataType, TimeUnit};

use crate::Name;
use crate::error::Problem;
use crate::expr::{Arithmetic, Function, Literal, Op, Term, Test, Type, Value};
use crate::number::Number;
use crate::time;

const NUMBERS_ONLY: &str = "compares with numbers only";
const TRUTH_ONLY: &str = "compares with TRUE and FALSE only";

/// Types as tests see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Number,
    Truth,
    Timestamp(TimeUnit),
    /// A computed time.
    Time,
    /// A length of time.
    Interval,
    /// Nothing but nulls: every test fits.
    Null,
    /// Only [`Test::IsNull`] fits.
    Other,
}

/// The kind of an Arrow type.
pub(crate) fn kind(data_type: &DataType) -> Kind {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Kind::Text,
        DataType::Dictionary(_, values) => kind(values),
        DataType::Boolean => Kind::Truth,
        DataType::Timestamp(unit, _) => Kind::Timestamp(*unit),
        DataType::Date32 | DataType::Date64 => Kind::Timestamp(TimeUnit::Millisecond),
        DataType::Null => Kind::Null,
        DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => Kind::Number,
        other if other.is_numeric() => Kind::Number,
        _ => Kind::Other,
    }
}

/// Why a test can never be TRUE or FALSE for a value of this type, if so. `other` is the second name of a
/// [`Test::Against`].
pub(crate) fn mismatch(
    name: &Name,
    data_type: &DataType,
    test: &Test,
    other: Option<(&Name, &DataType)>,
) -> Option<Problem> {
    let found = kind(data_type);
    let reason = match test {
        _ if found == Kind::Null => None,
        Test::IsNull | Test::Compare(_, Literal::Null) => None,
        _ if found == Kind::Other => Some("takes part in IS NULL only"),
        Test::Holds => (!matches!(found, Kind::Text | Kind::Truth)).then_some("is no condition"),
        Test::Like(_) | Test::Contains(_) | Test::StartsWith(_) | Test::EndsWith(_) | Test::Matches(_) => {
            (found != Kind::Text).then_some("has no characters to search")
        }
        Test::Compare(_, literal) => match (found, literal) {
            (Kind::Number, literal) => (!matches!(literal, Literal::Number(_))).then_some(NUMBERS_ONLY),
            (Kind::Truth, literal) => (!matches!(literal, Literal::Truth(_))).then_some(TRUTH_ONLY),
            (Kind::Timestamp(unit), literal) => timestamp(literal, unit)
                .is_none()
                .then_some("compares with milliseconds since 1970 or a time like '2013-01-31T12:00:00Z'"),
            (Kind::Text, Literal::Interval(_)) => Some("compares with no length of time"),
            _ => None,
        },
        Test::In(members) => match found {
            Kind::Number => members.has_texts().then_some(NUMBERS_ONLY),
            Kind::Truth => Some(TRUTH_ONLY),
            Kind::Timestamp(_) => members.times.is_none().then_some("compares with times only"),
            _ => None,
        },
        Test::Engine(_) => (found != Kind::Text).then_some("is no text, as RocketMQ's properties are"),
        Test::Against(op, _) => {
            let (other_name, other_type) = other?;
            return (!comparable(found, *op, kind(other_type))).then(|| Problem::Incomparable {
                left: name.clone(),
                left_type: data_type.to_string(),
                right: other_name.clone(),
                right_type: other_type.to_string(),
            });
        }
    };
    reason.map(|reason| Problem::Mismatch { name: name.clone(), found: data_type.to_string(), reason })
}

/// Whether two values can be compared. A text counts as what is on the other side; on the side of a
/// timestamp that is a number of milliseconds.
fn comparable(left: Kind, op: Op, right: Kind) -> bool {
    match (left, right) {
        (Kind::Null, _)
        | (_, Kind::Null)
        | (Kind::Text | Kind::Number, Kind::Text | Kind::Number)
        | (Kind::Time, Kind::Time | Kind::Timestamp(_))
        | (Kind::Timestamp(_), Kind::Time)
        | (Kind::Interval, Kind::Interval) => true,
        (Kind::Text | Kind::Truth, Kind::Text | Kind::Truth) => !op.is_order(),
        (Kind::Timestamp(left), Kind::Timestamp(right)) => left == right,
        (Kind::Time, other) | (other, Kind::Time) => matches!(other, Kind::Text | Kind::Number),
        (Kind::Timestamp(unit), other) | (other, Kind::Timestamp(unit)) => {
            unit == TimeUnit::Millisecond && matches!(other, Kind::Text | Kind::Number)
        }
        _ => false,
    }
}

/// Why a test of a computed value can never be TRUE or FALSE, if so. `kind_of` gives the kinds of slots.
pub(crate) fn mismatch_computed(term: &Term, kind_of: &dyn Fn(usize) -> Kind) -> Option<Problem> {
    let wrong = |reason| Some(Problem::Unfit { reason });
    let found = match infer(&term.value, kind_of) {
        Ok(found) => found,
        Err(reason) => return wrong(reason),
    };
    let fits = match &term.test {
        _ if found == Kind::Null => true,
        Test::IsNull | Test::Compare(_, Literal::Null) | Test::Engine(_) => true,
        Test::Holds => matches!(found, Kind::Text | Kind::Truth),
        Test::Like(_) | Test::Contains(_) | Test::StartsWith(_) | Test::EndsWith(_) | Test::Matches(_) => {
            found == Kind::Text
        }
        Test::Compare(_, Literal::Text(text)) if matches!(found, Kind::Time | Kind::Timestamp(_)) => {
            time::parse(text).is_some()
        }
        Test::Compare(_, Literal::Text(_)) => found == Kind::Text,
        Test::Compare(op, literal) => comparable(found, *op, literal_kind(literal)),
        Test::In(members) => match found {
            Kind::Text => true,
            Kind::Number => !members.has_texts(),
            Kind::Time | Kind::Timestamp(_) => members.times.is_some(),
            _ => false,
        },
        Test::Against(op, right) => match infer(right, kind_of) {
            Ok(right) => comparable(found, *op, right),
            Err(reason) => return wrong(reason),
        },
    };
    if fits { None } else { wrong("what is computed here never fits the other side") }
}

fn literal_kind(literal: &Literal) -> Kind {
    match literal {
        Literal::Null => Kind::Null,
        Literal::Truth(_) => Kind::Truth,
        Literal::Text(_) => Kind::Text,
        Literal::Time(_) => Kind::Time,
        Literal::Interval(_) => Kind::Interval,
        Literal::Number(_) | Literal::Int(_) | Literal::Long(_) | Literal::Double(_) => Kind::Number,
    }
}

/// The kind of a value, or why it is always null.
pub(crate) fn infer(value: &Value, kind_of: &dyn Fn(usize) -> Kind) -> Result<Kind, &'static str> {
    Ok(match value {
        Value::Slot(slot) => kind_of(*slot),
        Value::Literal(literal) => literal_kind(literal),
        Value::Minus(_) => Kind::Number,
        Value::Condition(_) => Kind::Truth,
        Value::Arithmetic(sides) => {
            let (left, op, right) = &**sides;
            let kinds = (infer(left, kind_of)?, *op, infer(right, kind_of)?);
            let zero = matches!(left, Value::Literal(Literal::Number(Number::Whole(0))));
            match kinds {
                (Kind::Null, ..) | (.., Kind::Null) => Kind::Null,
                (Kind::Text | Kind::Number, _, Kind::Text | Kind::Number) => Kind::Number,
                (Kind::Interval, Arithmetic::Add | Arithmetic::Subtract, Kind::Interval)
                | (Kind::Interval, Arithmetic::Multiply | Arithmetic::Divide, Kind::Text | Kind::Number)
                | (Kind::Text | Kind::Number, Arithmetic::Multiply, Kind::Interval) => Kind::Interval,
                (Kind::Number, Arithmetic::Subtract, Kind::Interval) if zero => Kind::Interval,
                (Kind::Time | Kind::Timestamp(_), Arithmetic::Add | Arithmetic::Subtract, Kind::Interval)
                | (Kind::Interval, Arithmetic::Add, Kind::Time | Kind::Timestamp(_)) => Kind::Time,
                (Kind::Time | Kind::Timestamp(_), Arithmetic::Subtract, Kind::Time | Kind::Timestamp(_)) => {
                    Kind::Interval
                }
                (Kind::Text, _, Kind::Time | Kind::Interval | Kind::Timestamp(_))
                | (Kind::Time | Kind::Interval | Kind::Timestamp(_), _, Kind::Text) => {
                    return Err("a text takes part in arithmetic with times only after CAST(… AS TIMESTAMP)");
                }
                _ => return Err("arithmetic takes numbers, or times and lengths of time"),
            }
        }
        Value::Cast(value, target) => match (infer(value, kind_of)?, target) {
            (Kind::Null, _) => Kind::Null,
            (Kind::Text | Kind::Number | Kind::Truth, Type::Whole | Type::Number) => Kind::Number,
            (Kind::Time | Kind::Timestamp(_) | Kind::Interval, Type::Whole | Type::Number) => Kind::Number,
            (Kind::Text | Kind::Number | Kind::Truth, Type::Text) => Kind::Text,
            (Kind::Text | Kind::Truth, Type::Truth) => Kind::Truth,
            (Kind::Text | Kind::Number | Kind::Time | Kind::Timestamp(_), Type::Time) => Kind::Time,
            _ => return Err("CAST has no such conversion"),
        },
        Value::Call(Function::Coalesce, values) => {
            let mut found = Kind::Null;
            for value in values {
                let kind = infer(value, kind_of)?;
                found = match (found, kind) {
                    (Kind::Null, kind) => kind,
                    (found, Kind::Null) => found,
                    (found, kind) if found == kind => found,
                    // A text counts as what it is compared with, whichever of them is taken.
                    (Kind::Text, _) | (_, Kind::Text) => Kind::Text,
                    _ => return Err("COALESCE takes values of one type"),
                };
            }
            found
        }
        Value::Call(Function::Concat, values) => {
            let mut found = Kind::Text;
            for value in values {
                match infer(value, kind_of)? {
                    Kind::Text | Kind::Number | Kind::Truth => {}
                    Kind::Null => found = Kind::Null,
                    _ => return Err("|| joins texts, numbers and truth values"),
                }
            }
            found
        }
        Value::Call(function, values) => {
            for value in values {
                if !matches!(infer(value, kind_of)?, Kind::Text | Kind::Null) {
                    return Err("this function takes text");
                }
            }
            if *function == Function::Length { Kind::Number } else { Kind::Text }
        }
    })
}

/// A literal as a timestamp of a unit: numbers are milliseconds since 1970 UTC, texts are RFC 3339 (blank
/// for `T`, a date alone and a missing zone, which is UTC, are taken). What falls between two timestamps
/// gets a fraction, so that it is above the one and below the other.
pub(crate) fn timestamp(literal: &Literal, unit: TimeUnit) -> Option<Number> {
    let unit_nanos = match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    };
    let nanos = match literal {
        Literal::Number(number) if unit == TimeUnit::Millisecond => return Some(*number),
        Literal::Number(Number::Whole(millis)) => i128::from(*millis) * 1_000_000,
        #[expect(clippy::cast_possible_truncation, reason = "the cast saturates, beyond all timestamps")]
        Literal::Number(Number::Double(millis)) => (millis * 1e6) as i128,
        Literal::Text(text) => time::parse(text)?,
        Literal::Time(at) => *at,
        _ => return None,
    };
    let whole = nanos.div_euclid(unit_nanos);
    match i64::try_from(whole) {
        Ok(whole) if nanos.rem_euclid(unit_nanos) == 0 => Some(Number::Whole(whole)),
        #[expect(
            clippy::cast_precision_loss,
            reason = "timestamps are far below 2^52 units where a half counts"
        )]
        _ => Number::from_f64(whole as f64 + 0.5),
    }
}

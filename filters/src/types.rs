//! Which tests fit which types of values. Decides before any row is looked at; evaluates nothing.

use arrow::datatypes::{DataType, TimeUnit};

use crate::Name;
use crate::error::Problem;
use crate::expr::{Literal, Op, Test};
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
        Test::Like(_) | Test::Contains(_) | Test::StartsWith(_) | Test::EndsWith(_) => {
            (found != Kind::Text).then_some("has no characters to search")
        }
        Test::Compare(_, literal) => match (found, literal) {
            (Kind::Number, literal) => (!matches!(literal, Literal::Number(_))).then_some(NUMBERS_ONLY),
            (Kind::Truth, literal) => (!matches!(literal, Literal::Truth(_))).then_some(TRUTH_ONLY),
            (Kind::Timestamp(unit), literal) => timestamp(literal, unit)
                .is_none()
                .then_some("compares with milliseconds since 1970 or a time like '2013-01-31T12:00:00Z'"),
            (Kind::Text | Kind::Null | Kind::Other, _) => None,
        },
        Test::In(members) => match found {
            Kind::Number => members.has_texts().then_some(NUMBERS_ONLY),
            Kind::Truth => Some(TRUTH_ONLY),
            Kind::Timestamp(_) => Some("takes part in no list"),
            Kind::Text | Kind::Null | Kind::Other => None,
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

/// Whether two named values can be compared. A text counts as what is on the other side; on the side of a
/// timestamp that is a number of milliseconds.
fn comparable(left: Kind, op: Op, right: Kind) -> bool {
    match (left, right) {
        (Kind::Null, _) | (_, Kind::Null) | (Kind::Text | Kind::Number, Kind::Text | Kind::Number) => true,
        (Kind::Text | Kind::Truth, Kind::Text | Kind::Truth) => !op.is_order(),
        (Kind::Timestamp(left), Kind::Timestamp(right)) => left == right,
        (Kind::Timestamp(unit), other) | (other, Kind::Timestamp(unit)) => {
            unit == TimeUnit::Millisecond && matches!(other, Kind::Text | Kind::Number)
        }
        _ => false,
    }
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

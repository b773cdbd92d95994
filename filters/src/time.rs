//! Times and lengths of time in ns, and how they compare with milliseconds and text.

use std::cmp::Ordering;

use arrow::array::timezone::Tz;
use arrow::compute::kernels::cast_utils::string_to_datetime;

use crate::number::Number;

pub(crate) const MILLI: i128 = 1_000_000;
pub(crate) const SECOND: i128 = 1_000 * MILLI;

/// A time in RFC 3339, in ns since 1970-01-01 UTC; a blank for `T`, a date alone and a missing zone, which
/// is UTC, are taken.
pub(crate) fn parse(text: &str) -> Option<i128> {
    let utc: Tz = "+00:00".parse().ok()?;
    let at = string_to_datetime(&utc, text).ok()?;
    Some(i128::from(at.timestamp()) * SECOND + i128::from(at.timestamp_subsec_nanos()))
}

/// A time against a number of milliseconds, exactly.
#[expect(clippy::cast_possible_truncation, reason = "the cast saturates, beyond all times")]
#[expect(clippy::cast_precision_loss, reason = "what is left is less than a millisecond, or far from it")]
pub(crate) fn compare_millis(at: i128, millis: Number) -> Ordering {
    match millis {
        Number::Whole(millis) => at.cmp(&(i128::from(millis) * MILLI)),
        Number::Double(millis) => {
            let whole = (millis.floor() as i128).saturating_mul(MILLI);
            (at.saturating_sub(whole) as f64).total_cmp(&(millis.fract().rem_euclid(1.0) * 1e6))
        }
    }
}

/// The length of a unit in ns; months and years have none.
pub(crate) fn unit(word: &str) -> Option<i128> {
    let word = word.to_ascii_lowercase();
    Some(match word.strip_suffix('s').unwrap_or(&word) {
        "millisecond" => MILLI,
        "second" => SECOND,
        "minute" => 60 * SECOND,
        "hour" => 3_600 * SECOND,
        "day" => 86_400 * SECOND,
        "week" => 7 * 86_400 * SECOND,
        _ => return None,
    })
}

/// A length of time such as `5 minutes` or `1 day 2.5 hours`, in ns.
pub(crate) fn parse_interval(text: &str) -> Option<i128> {
    let mut words = text.split_ascii_whitespace();
    let mut sum = None;
    while let Some(count) = words.next() {
        let unit = unit(words.next()?)?;
        let part = match Number::parse(count)? {
            Number::Whole(count) => i128::from(count).checked_mul(unit)?,
            #[expect(clippy::cast_possible_truncation, reason = "the cast saturates, and that is refused")]
            #[expect(clippy::cast_precision_loss, reason = "a unit is far below 2^53 ns")]
            Number::Double(count) => {
                Some((count * unit as f64).round() as i128).filter(|part| *part < i128::MAX)?
            }
        };
        sum = Some(sum.unwrap_or(0i128).checked_add(part)?);
    }
    sum
}

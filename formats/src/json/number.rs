//! Which numbers are the same as an int64 and as a float64: nothing is rounded.

/// Integers up to here are exact as floats, and floats up to here exact as integers.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Floats below this magnitude were never an integer that 64 bits can not hold.
pub(super) const WIDE: f64 = 9_223_372_036_854_775_808.0;

/// An integer beyond 64 bits as it is written: as a float, if that is the same number.
pub(super) fn wide_integer(text: &str) -> Option<Result<f64, ()>> {
    let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    if !is_number
        || text.contains(['.', 'e', 'E'])
        || text.parse::<i64>().is_ok()
        || text.parse::<u64>().is_ok()
    {
        return None;
    }
    let float: f64 = text.parse().ok()?;
    Some(if format!("{float:.0}") == text { Ok(float) } else { Err(()) })
}

/// The integer as a float, if that is the same number.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "the way back is checked")]
pub(crate) fn exact_float(value: i128) -> Option<f64> {
    let float = value as f64;
    (float as i128 == value).then_some(float)
}

/// The float as an integer, if that is certainly the number that was written.
#[expect(clippy::cast_possible_truncation, reason = "the value has no fraction and fits")]
pub(super) fn exact_integer(value: f64) -> Option<i64> {
    (value.fract() == 0.0 && value.abs() <= EXACT_MAX).then_some(value as i64)
}

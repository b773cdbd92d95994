//! Numbers as an expression sees them: one exact order over integers and doubles.
//!
//! A value that is whole and fits 64 bits is always [`Number::Whole`], whatever its source wrote (`5`,
//! `5.0`, `5e0`, a double 5.0), so two numbers are equal exactly if their forms are, and no 64-bit
//! integer is ever rounded. Everything else is the nearest double.

use std::cmp::Ordering;
use std::mem;

use crate::expr::Arithmetic;

/// One more than the largest `i64`, which a double holds exactly.
const WHOLE_END: f64 = 9_223_372_036_854_775_808.0;

/// A number; never NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    /// Every whole value in 64 bits.
    Whole(i64),
    /// A value with a fraction, or beyond 64 bits.
    Double(f64),
}

impl Number {
    /// Reads a decimal form: an optional sign, digits with at most one point, an optional exponent; blanks
    /// around it are ignored. Everything else, `NaN`, `Infinity` and hex included, is no number.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim_ascii();
        let (negative, digits) = match text.as_bytes().split_first()? {
            (b'-', rest) => (true, rest),
            (b'+', rest) => (false, rest),
            _ => (false, text.as_bytes()),
        };
        if (1..=18).contains(&digits.len()) {
            let mut whole = 0;
            let mut all = true;
            for byte in digits {
                let digit = byte.wrapping_sub(b'0');
                all &= digit < 10;
                whole = whole * 10 + i64::from(digit);
            }
            if all {
                return Some(Self::Whole(if negative { -whole } else { whole }));
            }
        }
        Self::parse_any(text, digits, negative)
    }

    /// Reads any decimal form: `text` with its sign, `digits` without.
    fn parse_any(text: &str, digits: &[u8], negative: bool) -> Option<Self> {
        let mut scan = Scan::default();
        let mut rest = digits.iter();
        let mut in_fraction = false;
        let mut exponent = 0;
        while let Some(byte) = rest.next() {
            match byte {
                b'0'..=b'9' => scan.digit(byte - b'0', in_fraction),
                b'.' if !in_fraction => in_fraction = true,
                b'e' | b'E' => {
                    exponent = parse_exponent(rest.as_slice())?;
                    break;
                }
                _ => return None,
            }
        }
        if !scan.any {
            return None;
        }
        match scan.whole(exponent, negative) {
            Some(whole) => Some(Self::Whole(whole)),
            None => Self::from_f64(text.parse().ok()?),
        }
    }

    /// The number of a double; `None` for NaN.
    pub(crate) fn from_f64(value: f64) -> Option<Self> {
        if value.is_nan() {
            return None;
        }
        if value.fract() == 0.0 && (-WHOLE_END..WHOLE_END).contains(&value) {
            #[expect(clippy::cast_possible_truncation, reason = "whole, and its range was checked")]
            return Some(Self::Whole(value as i64));
        }
        Some(Self::Double(value))
    }

    /// The number of an unsigned integer.
    #[expect(clippy::cast_precision_loss, reason = "beyond 64 bits the nearest double stands, as documented")]
    pub(crate) fn from_u64(value: u64) -> Self {
        i64::try_from(value).map_or(Self::Double(value as f64), Self::Whole)
    }

    /// The order of the values, exactly.
    pub(crate) fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => a.cmp(&b),
            (Self::Whole(a), Self::Double(b)) => compare_whole(a, b),
            (Self::Double(a), Self::Whole(b)) => compare_whole(b, a).reverse(),
            (Self::Double(a), Self::Double(b)) => a.total_cmp(&b),
        }
    }

    /// The result of arithmetic: exact for whole numbers as long as it fits 64 bits, else by doubles. `None`
    /// for a division by zero.
    pub(crate) fn calculate(self, op: Arithmetic, other: Self) -> Option<Self> {
        if let (Self::Whole(a), Self::Whole(b)) = (self, other) {
            let exact = match op {
                Arithmetic::Add => a.checked_add(b),
                Arithmetic::Subtract => a.checked_sub(b),
                Arithmetic::Multiply => a.checked_mul(b),
                Arithmetic::Divide | Arithmetic::Remainder if b == 0 => return None,
                Arithmetic::Divide => {
                    a.checked_rem(b).filter(|rest| *rest == 0).and_then(|_| a.checked_div(b))
                }
                Arithmetic::Remainder => Some(a.wrapping_rem(b)),
            };
            if let Some(exact) = exact {
                return Some(Self::Whole(exact));
            }
        }
        let (a, b) = (self.as_f64(), other.as_f64());
        Self::from_f64(match op {
            Arithmetic::Add => a + b,
            Arithmetic::Subtract => a - b,
            Arithmetic::Multiply => a * b,
            Arithmetic::Divide | Arithmetic::Remainder if b == 0.0 => return None,
            Arithmetic::Divide => a / b,
            Arithmetic::Remainder => a % b,
        })
    }

    /// Without its fraction; `None` beyond 64 bits.
    pub(crate) fn truncate(self) -> Option<Self> {
        match self {
            Self::Whole(_) => Some(self),
            Self::Double(value) => {
                Self::from_f64(value.trunc()).filter(|value| matches!(value, Self::Whole(_)))
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "the nearest double is meant")]
    fn as_f64(self) -> f64 {
        match self {
            Self::Whole(value) => value as f64,
            Self::Double(value) => value,
        }
    }

    /// A key that is equal exactly for equal numbers.
    pub(crate) fn key(self) -> (bool, u64) {
        match self {
            Self::Whole(value) => (true, value.cast_unsigned()),
            Self::Double(value) => (false, value.to_bits()),
        }
    }

    /// Whether the value is finite.
    pub(crate) fn is_finite(self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Double(value) => value.is_finite(),
        }
    }
}

/// Compares an integer with a double that no 64-bit integer equals. Where rounding the integer makes the
/// two equal, the double is 2^63, since smaller doubles of that size are whole.
#[expect(clippy::cast_precision_loss, reason = "the rounding never crosses a double with a fraction")]
fn compare_whole(whole: i64, double: f64) -> Ordering {
    (whole as f64).total_cmp(&double).then(Ordering::Less)
}

/// The exponent after its `e`; beyond four digits only the sign matters.
fn parse_exponent(text: &[u8]) -> Option<i32> {
    let (negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() {
        return None;
    }
    let mut exponent = 0i32;
    for byte in digits {
        if !byte.is_ascii_digit() {
            return None;
        }
        exponent = exponent.saturating_mul(10).saturating_add(i32::from(byte - b'0'));
    }
    Some(if negative { -exponent } else { exponent })
}

/// The digits of a decimal form without its trailing zeros. More than 64 bits of them are no whole number of
/// 64 bits, whatever the exponent.
#[derive(Default)]
struct Scan {
    any: bool,
    value: u64,
    /// Digits after the point.
    scale: i32,
    /// Zeros behind the value's digits.
    zeros: i32,
    overflow: bool,
}

impl Scan {
    fn digit(&mut self, digit: u8, in_fraction: bool) {
        self.any = true;
        if in_fraction {
            self.scale = self.scale.saturating_add(1);
        }
        self.zeros = self.zeros.saturating_add(1);
        if digit == 0 {
            return;
        }
        for _ in 0..mem::take(&mut self.zeros) {
            if self.value == 0 && !self.overflow {
                break;
            }
            self.push(0);
            if self.overflow {
                return;
            }
        }
        match self.value.checked_add(u64::from(digit)) {
            Some(value) => self.value = value,
            None => self.overflow = true,
        }
    }

    fn push(&mut self, digit: u8) {
        match self.value.checked_mul(10).and_then(|value| value.checked_add(u64::from(digit))) {
            Some(value) if !self.overflow => self.value = value,
            _ => self.overflow = true,
        }
    }

    /// The value as an integer, if it is one.
    fn whole(&self, exponent: i32, negative: bool) -> Option<i64> {
        if self.overflow {
            return None;
        }
        let mut value = self.value;
        let mut power = exponent.saturating_sub(self.scale).saturating_add(self.zeros);
        if value == 0 {
            return Some(0);
        }
        while power < 0 {
            if !value.is_multiple_of(10) {
                return None;
            }
            value /= 10;
            power += 1;
        }
        let factor = 10u64.checked_pow(u32::try_from(power).ok()?)?;
        let value = i128::from(value.checked_mul(factor)?);
        i64::try_from(if negative { -value } else { value }).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_decimal_form_of_a_whole_number_is_the_same_number() {
        for text in
            ["5", "+5", " 5 ", "5.", "5.0", "5.000000000000000000000000000", "0.5e1", "50e-1", "005", "5E+0"]
        {
            assert_eq!(Number::parse(text), Some(Number::Whole(5)), "{text}");
        }
        for text in ["0", "-0", "-0.0", "0e999999999999", ".0"] {
            assert_eq!(Number::parse(text), Some(Number::Whole(0)), "{text}");
        }
        assert_eq!(Number::parse("9223372036854775807"), Some(Number::Whole(i64::MAX)));
        assert_eq!(Number::parse("-9223372036854775808.0"), Some(Number::Whole(i64::MIN)));
        assert_eq!(Number::parse("9223372036854775807000000e-6"), Some(Number::Whole(i64::MAX)));
        assert_eq!(Number::parse("-500000000000000000000000000e-26"), Some(Number::Whole(-5)));
        assert_eq!(
            Number::parse("9007199254740993000000000000000.000e-15"),
            Some(Number::Whole(9_007_199_254_740_993))
        );
        assert_eq!(Number::parse("1e18"), Some(Number::Whole(1_000_000_000_000_000_000)));
        assert_eq!(Number::parse("9007199254740993.0"), Some(Number::Whole(9_007_199_254_740_993)));
    }

    #[test]
    fn what_is_no_whole_64_bit_number_is_the_nearest_double() {
        assert_eq!(Number::parse("5.5"), Some(Number::Double(5.5)));
        assert_eq!(Number::parse("1e-400"), Some(Number::Whole(0)));
        assert_eq!(Number::parse("1e400"), Some(Number::Double(f64::INFINITY)));
        assert_eq!(Number::parse("9223372036854775808"), Some(Number::Double(WHOLE_END)));
        assert_eq!(Number::parse("0.00000000000000000000000000001"), Some(Number::Double(1e-29)));
    }

    #[test]
    fn other_text_is_no_number() {
        for text in [
            "", " ", "-", "+", ".", "e5", "1e", "1e+", "1.2.3", "1_000", "0x10", "NaN", "inf", "Infinity",
            "--5", "5L", "٥", "1 2",
        ] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }

    #[test]
    fn integers_and_doubles_have_one_exact_order() {
        let ascending = [
            Number::Double(f64::NEG_INFINITY),
            Number::Double(-1e19),
            Number::Whole(i64::MIN),
            Number::Double(-0.5),
            Number::Whole(0),
            Number::Double(0.5),
            Number::Whole(9_007_199_254_740_992),
            Number::Whole(9_007_199_254_740_993),
            Number::Whole(i64::MAX),
            Number::Double(WHOLE_END),
            Number::Double(f64::INFINITY),
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(a.compare(*b), i.cmp(&j), "{a:?} {b:?}");
            }
        }
    }
}

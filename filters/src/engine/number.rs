//! Numbers in text as Java reads them: `Integer.parseInt`, `Long.parseLong`, `Double.valueOf`.

/// The zeros of the decimal digits of all scripts in Unicode's first plane, each followed by its nine.
const ZEROS: [u16; 37] = [
    0x0030, 0x0660, 0x06f0, 0x07c0, 0x0966, 0x09e6, 0x0a66, 0x0ae6, 0x0b66, 0x0be6, 0x0c66, 0x0ce6, 0x0d66,
    0x0de6, 0x0e50, 0x0ed0, 0x0f20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50,
    0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
];

/// A whole number of 32 bits: an optional sign and digits of any script, nothing else.
pub(crate) fn int_text(text: &str) -> Option<i32> {
    long_text(text).and_then(|value| i32::try_from(value).ok())
}

/// A whole number of 64 bits.
pub(crate) fn long_text(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    if digits.is_empty() {
        return None;
    }
    if digits.len() <= 18 && digits.is_ascii() {
        let mut value = 0;
        for byte in digits.bytes() {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            value = value * 10 + i64::from(digit);
        }
        return Some(if negative { -value } else { value });
    }
    // Counted downwards, where there is one value more.
    let value =
        digits.chars().try_fold(0i64, |value, c| value.checked_mul(10)?.checked_sub(i64::from(digit(c)?)))?;
    if negative { Some(value) } else { value.checked_neg() }
}

/// The value of a decimal digit.
fn digit(c: char) -> Option<u16> {
    let c = u16::try_from(u32::from(c)).ok()?;
    let zero = ZEROS.get(ZEROS.partition_point(|zero| *zero <= c).checked_sub(1)?)?;
    Some(c - zero).filter(|digit| *digit <= 9)
}

/// A double, as Java's `Double.valueOf` reads one: blanks and control characters around it, a sign, then
/// `NaN`, `Infinity`, decimal or hex digits, and one of `fFdD` after digits.
pub(crate) fn double_text(text: &str) -> Option<f64> {
    let text = text.trim_matches(|c: char| c <= ' ');
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let value = match rest {
        // NaN has no sign here: the order of doubles would see it.
        "NaN" => return Some(f64::NAN),
        "Infinity" => f64::INFINITY,
        digits => {
            let digits = digits.strip_suffix(['f', 'F', 'd', 'D']).unwrap_or(digits);
            match digits.as_bytes() {
                [b'0', b'x' | b'X', ..] => hex(rest)?,
                bytes if is_decimal(bytes) => digits.parse().ok()?,
                _ => return None,
            }
        }
    };
    Some(if negative { -value } else { value })
}

/// Digits with at most one point and an optional exponent.
pub(crate) fn is_decimal(bytes: &[u8]) -> bool {
    let skip = |bytes: &mut &[u8]| {
        let count = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
        *bytes = bytes.get(count..).unwrap_or_default();
        count
    };
    let mut rest = bytes;
    let mut digits = skip(&mut rest);
    if let [b'.', fraction @ ..] = rest {
        rest = fraction;
        digits += skip(&mut rest);
    }
    if digits == 0 {
        return false;
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        rest = exponent.strip_prefix(b"+").or(exponent.strip_prefix(b"-")).unwrap_or(exponent);
        if skip(&mut rest) == 0 {
            return false;
        }
    }
    rest.is_empty()
}

/// A hex double: `0x`, hex digits with at most one point, `p` and a decimal exponent of two. Only after
/// the exponent can one of `fFdD` be no digit.
fn hex(text: &str) -> Option<f64> {
    let body = text.get(2..)?;
    let at = body.find(['p', 'P'])?;
    let (digits, exponent) = (body.get(..at)?, body.get(at + 1..)?);
    let exponent = exponent.strip_suffix(['f', 'F', 'd', 'D']).unwrap_or(exponent);
    let exponent = exponent.as_bytes();
    let exponent_negative = exponent.first() == Some(&b'-');
    let exponent = exponent.strip_prefix(b"+").or(exponent.strip_prefix(b"-")).unwrap_or(exponent);
    if exponent.is_empty() || !exponent.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let limit = i64::from(i32::MAX);
    let scale = exponent.iter().fold(0i64, |scale, byte| (scale * 10 + i64::from(byte - b'0')).min(limit));
    let mut power = if exponent_negative { -scale } else { scale };

    let (mut mantissa, mut sticky, mut any, mut in_fraction) = (0u64, false, false, false);
    for byte in digits.bytes() {
        if byte == b'.' && !in_fraction {
            in_fraction = true;
            continue;
        }
        let digit = char::from(byte).to_digit(16)?;
        any = true;
        if mantissa >> 60 == 0 {
            mantissa = mantissa << 4 | u64::from(digit);
            power -= if in_fraction { 4 } else { 0 };
        } else {
            sticky |= digit != 0;
            power += if in_fraction { 0 } else { 4 };
        }
    }
    any.then(|| nearest(mantissa, sticky, power))
}

/// The double nearest to `mantissa` times two to the `power`, ties to even; `sticky` says that the exact
/// value is a little more.
fn nearest(mantissa: u64, sticky: bool, power: i64) -> f64 {
    if mantissa == 0 {
        return 0.0;
    }
    let shift = mantissa.leading_zeros();
    let top = 63 - i64::from(shift) + power;
    if top > 1023 {
        return f64::INFINITY;
    }
    // The weight of the last bit that a double of this size keeps.
    let last = (top - 52).max(-1074);
    let drop = last - power;
    let kept = if drop <= 0 {
        mantissa.checked_shl(u32::try_from(-drop).unwrap_or(u32::MAX)).unwrap_or_default()
    } else if drop > 64 {
        0
    } else {
        let (kept, half, below) = if drop == 64 {
            (0, mantissa >> 63 == 1, mantissa << 1 != 0)
        } else {
            let rest = mantissa & ((1 << drop) - 1);
            let half = 1 << (drop - 1);
            (mantissa >> drop, rest & half != 0, rest & (half - 1) != 0)
        };
        kept + u64::from(half && (below || sticky || kept & 1 == 1))
    };
    // `kept` has at most 54 bits and `last` is a power that a double holds, so the steps below are exact.
    #[expect(clippy::cast_precision_loss, reason = "at most 2^53, which a double holds")]
    let kept = kept as f64;
    let last = i32::try_from(last).unwrap_or_default();
    if last < -1000 { kept * 2f64.powi(-1000) * 2f64.powi(last + 1000) } else { kept * 2f64.powi(last) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_take_a_sign_and_digits_of_any_script() {
        for (text, expected) in [
            ("7", Some(7)),
            ("+7", Some(7)),
            ("-007", Some(-7)),
            ("٧", Some(7)),
            ("1٧７", Some(177)),
            ("2147483647", Some(i32::MAX)),
            ("-2147483648", Some(i32::MIN)),
            ("2147483648", None),
            ("", None),
            ("+", None),
            ("--1", None),
            (" 7", None),
            ("7.0", None),
            ("0x7", None),
            ("𝟕", None),
            ("²", None),
        ] {
            assert_eq!(int_text(text), expected, "{text:?}");
        }
        assert_eq!(long_text("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(long_text("9223372036854775807"), Some(i64::MAX));
        assert_eq!(long_text("9223372036854775808"), None);
        assert_eq!(long_text("00000000000000000000000000000009"), Some(9));
    }

    #[test]
    fn doubles_take_what_java_takes() {
        for (text, expected) in [
            ("1", 1.0),
            ("1.", 1.0),
            (".5", 0.5),
            ("\u{0} 1e3\n", 1000.0),
            ("1.5f", 1.5),
            ("1D", 1.0),
            ("-1e999", f64::NEG_INFINITY),
            ("1e-999", 0.0),
            ("Infinity", f64::INFINITY),
            ("0x1.8p3", 12.0),
            ("-0X.8P0d", -0.5),
            ("0xAp0", 10.0),
            ("0x1p-1074", 5e-324),
            ("0x1p-1075", 0.0),
            ("0x1.8p-1074", 1e-323),
            ("0x1.fffffffffffff8p1023", f64::INFINITY),
            ("0x1.fffffffffffff7p1023", f64::MAX),
            ("0x1.00000000000008p0", 1.0),
            ("0x1.000000000000080000000001p0", 1.000_000_000_000_000_2),
            ("0x10000000000000000000000000000p-112", 1.0),
            ("0x1.fffffffffffffp-1023", 2.225_073_858_507_201_4e-308),
        ] {
            assert_eq!(double_text(text), Some(expected), "{text:?}");
        }
        assert!(double_text("-NaN").is_some_and(|value| value.is_nan() && value.is_sign_positive()));
        for text in [
            "",
            " ",
            "+",
            "nan",
            "inf",
            "infinity",
            "NaNf",
            "Infinityd",
            "1e",
            "1e+",
            ".",
            "1_0",
            "1ff",
            "0x1",
            "0x1.8",
            "0xp0",
            "0x.p0",
            "0x1p",
            "1,5",
            "\u{a0}1",
            "٣",
            "--1",
            "0x1p0x",
        ] {
            assert_eq!(double_text(text), None, "{text:?}");
        }
    }
}

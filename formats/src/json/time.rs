//! RFC 3339 date and time as milliseconds since 1970-01-01 UTC; nothing more lenient, nothing rounded.

/// Reads `2013-01-01T10:00:00.123Z`, or with an offset such as `+02:00`; `None` if it is anything else,
/// a date that no calendar has, or finer than a millisecond. A leap second is not taken.
pub(crate) fn parse_ms(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let (head, rest) = bytes.split_at_checked(19)?;
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.iter().any(|&(at, byte)| head[at] != byte) || !matches!(head[10], b'T' | b't' | b' ') {
        return None;
    }
    let (year, month, day) = (number(&head[..4])?, number(&head[5..7])?, number(&head[8..10])?);
    let (hour, minute, second) = (number(&head[11..13])?, number(&head[14..16])?, number(&head[17..])?);
    if !(1..=12).contains(&month)
        || day < 1
        || day > days_in(year, month)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    let (ms, zone) = fraction(rest)?;
    let offset_minutes = match zone {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 60 + minutes;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    let minutes = (days_since_1970(year, month, day) * 24 + hour) * 60 + minute - offset_minutes;
    Some((minutes * 60 + second) * 1000 + ms)
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |sum, b| b.is_ascii_digit().then(|| sum * 10 + i64::from(b - b'0')))
}

/// The milliseconds after the second, and what follows them.
fn fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    let Some(digits) = rest.strip_prefix(b".") else { return Some((0, rest)) };
    let len = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    let (digits, zone) = digits.split_at_checked(len)?;
    let (ms, finer) = digits.split_at(len.min(3));
    if len == 0 || finer.iter().any(|&b| b != b'0') {
        return None;
    }
    let scale = [1000, 100, 10, 1][ms.len()];
    Some((number(ms)? * scale, zone))
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days of the proleptic Gregorian calendar, counted in years that begin in March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::parse_ms;

    #[test]
    fn rfc_3339_text_is_milliseconds_since_1970_and_nothing_else_is_taken() {
        let cases = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2013-01-01T10:00:00Z", Some(1_357_034_400_000)),
            ("2013-01-01t10:00:00.5z", Some(1_357_034_400_500)),
            ("2013-01-01 12:00:00.123000+02:00", Some(1_357_034_400_123)),
            ("2013-01-01T05:00:00-05:00", Some(1_357_034_400_000)),
            ("2024-02-29T23:59:59.999Z", Some(1_709_251_199_999)),
            ("1969-12-31T23:59:59.999Z", Some(-1)),
            ("0000-03-01T00:00:00Z", Some(-62_162_035_200_000)),
            ("1900-02-29T00:00:00Z", None),
            ("2013-13-01T00:00:00Z", None),
            ("2013-01-00T00:00:00Z", None),
            ("2013-01-01T24:00:00Z", None),
            ("2013-01-01T10:00:60Z", None),
            ("2013-01-01T10:00:00", None),
            ("2013-01-01", None),
            ("2013-01-01T10:00:00.Z", None),
            ("2013-01-01T10:00:00.0001Z", None),
            ("2013-01-01T10:00:00+0200", None),
            ("2013-01-01T10:00:00+24:00", None),
            ("2013-01-01T10:00:00Zx", None),
            ("２013-01-01T10:00:00Z", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_ms(text), expected, "{text}");
        }
    }
}

//! The usual body: an object whose keys stand in the schema's order, with plain values.
//!
//! Compares each key with the one that is due instead of parsing it. Takes only what it surely reads as the
//! [decoder](super::decode) does; at anything else it gives up, the row is taken back, and the decoder reads
//! it from the start: it alone says what is wrong with a body.

use super::time;
use crate::column::{Column, Columns, Values, position};

/// Digits of an integer that 64 bits hold whatever they are.
const DIGITS_MAX: usize = 18;

/// The keys of a schema as they stand in a body: `"name":`.
pub(super) struct Keys(Vec<Box<[u8]>>);

impl Keys {
    /// `None` if the schema has a column whose cells need more than a look: lists, objects, any value,
    /// and what JSON has no text of.
    pub(super) fn new(columns: &Columns) -> Option<Self> {
        let key = |column: &Column| {
            let plain = match &column.values {
                Values::Bool(_) | Values::Int64(_) | Values::Float64(_) | Values::Timestamp(_) => true,
                Values::Text { any, .. } => !any,
                _ => false,
            };
            let name = column.field.name();
            let escaped = name.bytes().any(|b| b < 0x20 || matches!(b, b'"' | b'\\'));
            (plain && !escaped).then(|| format!("\"{name}\":").into_bytes().into_boxed_slice())
        };
        columns.columns.iter().map(key).collect::<Option<_>>().map(Self)
    }

    /// Reads a body, which is UTF-8, as one row. `None` leaves cells behind that are to be taken back.
    pub(super) fn read(&self, columns: &mut Columns, body: &[u8]) -> Option<()> {
        let mut rest = body.strip_prefix(b"{")?;
        for (number, (key, column)) in self.0.iter().zip(&mut columns.columns).enumerate() {
            if number > 0 {
                rest = skip_space(rest.strip_prefix(b",")?);
            }
            rest = value(column, skip_space(rest.strip_prefix(&**key)?))?;
        }
        (rest == b"}").then_some(())
    }
}

/// Passes over the one space that some writers put after a colon and a comma.
fn skip_space(text: &[u8]) -> &[u8] {
    text.strip_prefix(b" ").unwrap_or(text)
}

/// Reads one value into its column; gives what follows it.
fn value<'a>(column: &mut Column, text: &'a [u8]) -> Option<&'a [u8]> {
    if let Some(rest) = text.strip_prefix(b"null") {
        column.push_null();
        return Some(rest);
    }
    let rest = match &mut column.values {
        Values::Int64(values) => {
            let (integer, rest) = integer(text)?;
            values.push(integer);
            rest
        }
        Values::Float64(values) => {
            let (float, rest) = float(text)?;
            values.push(float);
            rest
        }
        Values::Text { ends, bytes, any: false } => {
            let (string, rest) = string(text)?;
            bytes.extend_from_slice(string);
            ends.push(position(bytes.len()));
            rest
        }
        Values::Timestamp(values) => {
            let (string, rest) = string(text)?;
            values.push(time::parse_ms(std::str::from_utf8(string).ok()?)?);
            rest
        }
        Values::Bool(values) => match text.strip_prefix(b"true") {
            Some(rest) => {
                values.append(true);
                rest
            }
            None => {
                let rest = text.strip_prefix(b"false")?;
                values.append(false);
                rest
            }
        },
        _ => return None,
    };
    column.pushed();
    Some(rest)
}

/// A string without escapes.
fn string(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.strip_prefix(b"\"")?;
    let end = text.iter().position(|&b| b < 0x20 || matches!(b, b'"' | b'\\'))?;
    let (string, rest) = text.split_at(end);
    Some((string, rest.strip_prefix(b"\"")?))
}

/// Whole numbers that 64 bits hold; none with a fraction, and not `-0`.
fn integer(text: &[u8]) -> Option<(i64, &[u8])> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let mut sum = 0_i64;
    let mut len = 0;
    while let Some(digit) = digits.get(len).map(|b| b.wrapping_sub(b'0')).filter(|&d| d < 10) {
        if len == DIGITS_MAX {
            return None;
        }
        sum = sum * 10 + i64::from(digit);
        len += 1;
    }
    let rest = digits.get(len..)?;
    let leading_zero = digits.first() == Some(&b'0') && (len > 1 || negative);
    if len == 0 || leading_zero || matches!(rest.first(), Some(b'.' | b'e' | b'E')) {
        return None;
    }
    Some((if negative { -sum } else { sum }, rest))
}

/// Decimal numbers without an exponent, of at most 15 digits, so that a whole one is exact.
fn float(text: &[u8]) -> Option<(f64, &[u8])> {
    let number = |b: &u8| b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'e' | b'E' | b'+');
    let end = text.iter().position(|b| !number(b))?;
    let (written, rest) = text.split_at(end);
    let (whole, fraction) = match written.iter().position(|&b| b == b'.') {
        Some(dot) => (written.get(..dot)?, written.get(dot + 1..)),
        None => (written, None),
    };
    let digits = whole.strip_prefix(b"-").unwrap_or(whole);
    let all = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    let leading_zero = digits.first() == Some(&b'0') && digits.len() > 1;
    if !all(digits) || leading_zero || fraction.is_some_and(|f| !all(f)) || written.len() > 15 {
        return None;
    }
    Some((std::str::from_utf8(written).ok()?.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Decoder, schema_from_fields};
    use super::{Columns, Keys};

    /// Values that a body may hold: near to what is taken, and not.
    const VALUES: [&str; 39] = [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "-1",
        "01",
        "7",
        "-12",
        "999999999999999999",
        "-999999999999999999",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "1.0",
        "0.1",
        "-0.0",
        "1e3",
        "1.5e300",
        "1.",
        ".5",
        "-",
        "9007199254740993",
        "123456789012345.5",
        "\"\"",
        "\"a b\"",
        "\"é\"",
        "\"\\u0041\"",
        "\"a\\\"b\"",
        "\"2013-01-01T10:00:00Z\"",
        "\"2013-01-01T10:00:00.123456Z\"",
        "\"un",
        "nul",
        "nullx",
        "[]",
        "{}",
        "+1",
        "1e400",
        "\"\t\"",
    ];

    fn body() -> impl Strategy<Value = String> {
        let value = || prop::sample::select(&VALUES[..]);
        let space = || prop::sample::select(&["", "", "", " ", "  "][..]);
        let pairs = ["b", "i", "f", "s", "t"].map(|key| (Just(key), space(), value(), space()));
        let end =
            prop::sample::select(&["}", "}", "}", "", " }", ",\"b\":true}", "} ", "}x", ",\"new\":1}"][..]);
        (pairs, end, 0..8_usize).prop_map(|(pairs, end, changed)| {
            let mut pairs = pairs.map(|(k, a, v, b)| format!("{b}\"{k}\":{a}{v}")).to_vec();
            match changed {
                5 => pairs.swap(0, 3),
                6 => drop(pairs.remove(2)),
                _ => {}
            }
            format!("{{{}{end}", pairs.join(","))
        })
    }

    proptest! {
        #[test]
        fn what_is_taken_is_what_the_decoder_reads(bodies in prop::collection::vec(body(), 1..20)) {
            let fields = [("b", "bool"), ("i", "int64"), ("f", "float64"), ("s", "utf8"), ("t", "timestamp")];
            let schema = schema_from_fields(&fields.map(|(n, t)| (n.to_owned(), t.to_owned()))).unwrap();
            let mut taking = Decoder::new(schema.clone()).unwrap();
            let mut reading = Decoder::new(schema).unwrap();
            prop_assert!(taking.usual.is_some());
            reading.usual = None;
            let mut found = [&mut taking, &mut reading]
                .map(|decoder| decoder.decode(&mut bodies.iter().map(|b| Some(b.as_bytes()))).unwrap());
            let [taken, read] = &mut found;
            prop_assert_eq!(&taken.rejects, &read.rejects);
            prop_assert_eq!(&taken.batch, &read.batch);
        }
    }

    #[test]
    fn bodies_of_the_schema_are_taken() {
        let fields = [("b", "bool"), ("i", "int64"), ("f", "float64"), ("s", "utf8"), ("t", "timestamp")];
        let schema = schema_from_fields(&fields.map(|(n, t)| (n.to_owned(), t.to_owned()))).unwrap();
        let mut columns = Columns::new(schema.fields()).unwrap();
        let keys = Keys::new(&columns).unwrap();
        for body in [
            r#"{"b":true,"i":-12,"f":0.5,"s":"x y","t":"2013-01-01T10:00:00Z"}"#,
            r#"{"b": null, "i": null, "f": 3, "s": "", "t": null}"#,
        ] {
            assert!(keys.read(&mut columns, body.as_bytes()).is_some(), "{body}");
        }
    }
}

//! Which text is a number: only what would be written the same way again.

/// Whether a number's text survives reading it as int64 or float64 and writing it again: `517`, `-3`,
/// `0.5`, `2.0`; not `007`, `1.50`, `1e3`, `+1`, `-0`, or digits beyond 64 bits.
pub(super) fn is_number(text: &[u8]) -> bool {
    let digits = match text {
        [b'-', rest @ ..] => rest,
        _ => text,
    };
    let integer_len = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    let (integer, rest) = digits.split_at(integer_len);
    if !matches!(integer, [b'0'] | [b'1'..=b'9', ..]) {
        return false;
    }
    match rest {
        [] => match integer {
            [b'0'] => digits.len() == text.len(),
            _ if integer_len <= 18 => true,
            _ => parse::<i64>(text).is_some(),
        },
        // A float that is whole is written with `.0` by JSON writers.
        [b'.', fraction @ ..] if !fraction.is_empty() && fraction.iter().all(u8::is_ascii_digit) => {
            let whole = fraction == b"0";
            if !whole && fraction.last() == Some(&b'0') {
                return false;
            }
            // Fifteen decimal digits always survive a float; of more only trying tells.
            integer_len + fraction.len() <= 15 || is_shortest(text, whole)
        }
        _ => false,
    }
}

/// Longer text is never a float's shortest form, but for numbers nobody writes out.
const FLOAT_BYTES_MAX: usize = 40;

fn is_shortest(text: &[u8], whole: bool) -> bool {
    if text.len() > FLOAT_BYTES_MAX {
        return false;
    }
    let written = if whole { &text[..text.len() - 2] } else { text };
    parse::<f64>(text).is_some_and(|float| float.to_string().as_bytes() == written)
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::is_number;

    #[test]
    fn a_number_is_what_would_be_written_the_same_way_again() {
        let numbers = [
            "0",
            "7",
            "517",
            "-3",
            "0.5",
            "-0.5",
            "2.0",
            "-17.0",
            "0.1",
            "123456.789",
            "9223372036854775807",
            "-9223372036854775808",
            "0.30000000000000004",
            "1234567890123456.8",
            "0.000000000000001",
        ];
        let others = [
            "",
            "-",
            "+1",
            "007",
            "00",
            "-0",
            "-07",
            "1.50",
            "1.00",
            "1.",
            ".5",
            "-.5",
            "1e3",
            "1E3",
            "0x1F",
            "1,5",
            "1 ",
            " 1",
            "1.2.3",
            "--1",
            "1_000",
            "NA",
            "NaN",
            "inf",
            "9223372036854775808",
            "-9223372036854775809",
            "12345678901234567890",
            "0.3000000000000000444",
            "1234567890123456.78",
            "٣",
            "2013-01-01",
            "10:00",
        ];
        for text in numbers {
            assert!(is_number(text.as_bytes()), "{text}");
        }
        for text in others {
            assert!(!is_number(text.as_bytes()), "{text}");
        }
        assert!(!is_number(&[b'9'; 5000]));
        assert!(!is_number(&[b"0.".as_slice(), &[b'1'; 5000]].concat()));
    }

    proptest! {
        #[test]
        fn every_integer_is_a_number(value: i64) {
            prop_assert!(is_number(value.to_string().as_bytes()));
        }

        #[test]
        fn what_is_a_number_reads_back_as_its_text(text in "-?[0-9]{0,20}(\\.[0-9]{0,18})?") {
            if is_number(text.as_bytes()) {
                let integer = text.parse::<i64>().map(|integer| integer.to_string());
                let written = integer.unwrap_or_else(|_| {
                    let float: f64 = text.parse().unwrap();
                    if float.fract() == 0.0 { format!("{float:.1}") } else { float.to_string() }
                });
                prop_assert_eq!(written, text);
            }
        }
    }
}

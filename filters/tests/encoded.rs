//! A filter reads encoded properties as `protocol` does, whatever the bytes.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use sluice_filters::{Dialect, Filter, Name, Scalar, Verdict};
use sluice_protocol::message;

fn encode(properties: &[(&str, &str)]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for (name, value) in properties {
        message::push_property(&mut encoded, name, value).expect("no separators");
    }
    encoded
}

/// Bytes with many separators and few other kinds.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = select(&b"\x01\x01\x01\x02\x02\x02abc\x00\x03\xff\xc3\xa9"[..]);
    vec(byte, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_as_the_protocol_reads_them(encoded in bytes()) {
        for text in ["a = b", "ab IS NULL", "c = 'a' OR a < 'b'", "\"é\" = 'a'"] {
            let filter = Filter::parse(text, Dialect::Sluice).unwrap();
            let expected = filter.row(&|name| message::property(&encoded, name));
            prop_assert_eq!(filter.matches(&encoded), Verdict::from(expected), "{}", text);
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn many_names_of_any_length_find_their_values(
        names in vec("[a-c]{1,12}", 1..90),
        values in vec("[x-z]{1,20}", 90),
    ) {
        let properties: Vec<(&str, &str)> =
            names.iter().map(String::as_str).zip(values.iter().map(String::as_str)).collect();
        let encoded = encode(&properties);
        let text = names.iter().map(|name| {
            format!("{name} = '{}'", message::property(&encoded, name).unwrap())
        });
        let text = text.collect::<Vec<_>>().join(" AND ");
        for dialect in [Dialect::Sluice, Dialect::RocketMq] {
            let filter = Filter::parse(&text, dialect).unwrap();
            prop_assert_eq!(filter.matches(&encoded), Verdict::True, "{}", text);
            prop_assert_eq!(filter.matches(&encoded[..encoded.len() - 1]), Verdict::True);
        }
    }
}

#[test]
fn the_last_entry_of_a_name_counts_and_empty_ones_do_not() {
    let filter = Filter::parse("a = '2' AND b = '\u{1}x' AND c IS NULL", Dialect::Sluice).unwrap();
    assert_eq!(filter.matches(b"a\x011\x02c\x01\x02a\x012\x02\x01z\x02a\x01\x02b\x01\x01x"), Verdict::True);
}

#[test]
fn envelope_columns_and_fields_come_from_the_caller() {
    let text = "$queue_offset > 5 AND $topic = 'flights' AND $.tier = 'gold' AND a = 1
        AND $born_timestamp < '2013-01-01T00:00:00Z' AND $store_timestamp IS NULL AND $body IS NOT NULL";
    let filter = Filter::parse(text, Dialect::Sluice).unwrap();
    let encoded = encode(&[("a", "1.0")]);
    let other = |name: &Name| match name.to_string().as_str() {
        "$queue_offset" => Scalar::Long(6),
        "$topic" => Scalar::Text("flights"),
        "$.tier" => Scalar::Text("gold"),
        "$born_timestamp" => Scalar::millis(1_356_998_399_999),
        "$body" => Scalar::Other,
        _ => Scalar::Null,
    };
    assert_eq!(filter.evaluate(&encoded, &other), Verdict::True);
    assert_eq!(filter.matches(&encoded), Verdict::Unknown);
    assert_eq!(filter.evaluate(b"", &other), Verdict::Unknown);
}

//! The properties of a dead letter: those of the record, then what is wrong and where it stands.
//!
//! A dead letter always fits a message, whatever the record held: else one record would stop its pipeline
//! for good. So bytes that separate properties are written as `\u0002`, and what there is no room for is cut.

use sluice_protocol::message::PROPERTIES_BYTES_MAX;

use crate::task::{Chain, Reject};

/// All properties of a dead letter, in bytes; the rest of the limit is for what the target adds.
const BYTES_MAX: usize = PROPERTIES_BYTES_MAX - 4096;
/// One property of our own, in bytes.
const OURS_BYTES_MAX: usize = 4096;
/// The bytes after a name and after a value.
const SEPARATORS: usize = 2;

/// The record's properties as far as there is room, then ours.
pub(crate) fn properties(chain: &Chain, reject: &Reject) -> Vec<(String, String)> {
    let ours = [
        ("dead_reason", reject.reason.clone()),
        ("dead_pipeline", chain.pipeline.to_string()),
        ("dead_topic", chain.topic.to_string()),
        ("dead_queue", chain.queue.to_string()),
        ("dead_offset", reject.offset.to_string()),
        ("dead_place", reject.place.clone()),
        ("dead_body_bytes", reject.body_bytes.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), cut(plain(&value), OURS_BYTES_MAX)));
    let bytes = |name: &str, value: &str| name.len() + value.len() + SEPARATORS;
    let mut room = BYTES_MAX - ours.iter().map(|(name, value)| bytes(name, value)).sum::<usize>();
    let mut pairs = Vec::with_capacity(reject.properties.len() + ours.len());
    for (name, value) in &reject.properties {
        let name = plain(name);
        if name.is_empty() || name.len() + SEPARATORS >= room || ours.iter().any(|(n, _)| *n == name) {
            continue;
        }
        let value = cut(plain(value), room - name.len() - SEPARATORS);
        room -= bytes(&name, &value);
        pairs.push((name, value));
    }
    pairs.extend(ours);
    pairs
}

/// The text with the characters that no property can hold written as JSON writes them.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0' => plain.push_str("\\u0000"),
            '\u{1}' => plain.push_str("\\u0001"),
            '\u{2}' => plain.push_str("\\u0002"),
            _ => plain.push(c),
        }
    }
    plain
}

fn cut(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sluice_protocol::message::push_property;

    use super::*;

    fn pairs(reason: &str, original: &[(&str, &str)]) -> Vec<(String, String)> {
        let chain = Chain { pipeline: "p".into(), topic: "a/b.csv".into(), queue: 0 };
        let reject = Reject {
            offset: 7,
            reason: reason.to_owned(),
            body: Bytes::new(),
            body_bytes: 0,
            place: "a/b.csv:8".to_owned(),
            properties: original.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        };
        let pairs = properties(&chain, &reject);
        let mut encoded = Vec::new();
        for (name, value) in &pairs {
            push_property(&mut encoded, name, value).unwrap();
        }
        assert!(encoded.len() <= BYTES_MAX);
        pairs
    }

    fn value<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
        pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    #[test]
    fn bytes_that_separate_properties_are_shown() {
        let pairs = pairs("got \"\0\u{2}\"", &[("a\u{1}", "\0x"), ("", "none"), ("dead_offset", "9")]);
        assert_eq!(value(&pairs, "dead_reason"), Some("got \"\\u0000\\u0002\""));
        assert_eq!(value(&pairs, "a\\u0001"), Some("\\u0000x"));
        assert_eq!(value(&pairs, "dead_offset"), Some("7"));
        assert_eq!(value(&pairs, ""), None);
    }

    #[test]
    fn what_there_is_no_room_for_is_cut_and_ours_is_kept() {
        let long = "é".repeat(20_000);
        let many = "v".repeat(PROPERTIES_BYTES_MAX);
        let pairs = pairs(&many, &[("first", "1"), ("long", &long), (&many, "name"), ("last", "2")]);
        assert_eq!(value(&pairs, "first"), Some("1"));
        let kept = value(&pairs, "long").unwrap();
        assert!(kept.len() > 20_000 && kept.len() < long.len() && long.starts_with(kept));
        assert_eq!(value(&pairs, "dead_reason").map(str::len), Some(OURS_BYTES_MAX));
        assert_eq!(value(&pairs, "dead_place"), Some("a/b.csv:8"));
    }
}

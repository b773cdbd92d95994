//! A message and its properties, borrowed from whoever holds the bytes.
//!
//! Properties are text of the form `name 0x01 value 0x02`, repeated; the last 0x02 may be missing. An entry
//! without name or value counts as none, a value may hold 0x01, and of several entries with one name the
//! last is the one that counts. Never copies a body.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem::Finder;

/// Longest properties of one message, in bytes.
pub const PROPERTIES_BYTES_MAX: usize = 32_767;

/// Property: business keys, separated by one space.
pub const KEYS: &str = "KEYS";
/// Property: the tag.
pub const TAGS: &str = "TAGS";
/// Property: the client's unique id of the message.
pub const UNIQ_KEY: &str = "UNIQ_KEY";
/// Property: `false` if the producer does not wait for the message to be durable.
pub const WAIT: &str = "WAIT";
/// Property: delay level of a delayed message.
pub const DELAY: &str = "DELAY";
/// Property: the instance (name space) of the producer.
pub const INSTANCE_ID: &str = "INSTANCE_ID";
/// Property: what orders a message among others.
pub const SHARDING_KEY: &str = "__SHARDINGKEY";
/// Property: the topic that a retried or delayed message is for.
pub const REAL_TOPIC: &str = "REAL_TOPIC";
/// Property: the queue that a retried or delayed message is for.
pub const REAL_QUEUE_ID: &str = "REAL_QID";
/// Property: the topic that a message comes back to after a failed consumption.
pub const RETRY_TOPIC: &str = "RETRY_TOPIC";
/// Property: the id of the message that a retried one was at first.
pub const ORIGIN_MESSAGE_ID: &str = "ORIGIN_MESSAGE_ID";
/// Property on the first record of an atomic batch: how much belongs to it.
pub const BATCH_MARK: &str = "__SLUICE_BATCH";

/// Flag bits of a stored message.
pub mod sys_flag {
    /// The body is compressed.
    pub const COMPRESSED: i32 = 0x1;
    /// The message has several tags.
    pub const MULTI_TAGS: i32 = 0x2;
    /// Mask of the transaction's state.
    pub const TRANSACTION: i32 = 0xC;
    /// First half of a transaction.
    pub const TRANSACTION_PREPARED: i32 = 0x4;
    /// A committed transaction.
    pub const TRANSACTION_COMMIT: i32 = 0x8;
    /// A transaction that was taken back.
    pub const TRANSACTION_ROLLBACK: i32 = 0xC;
    /// The producer's address has 16 bytes.
    pub const BORN_HOST_V6: i32 = 0x10;
    /// The broker's address has 16 bytes.
    pub const STORE_HOST_V6: i32 = 0x20;
    /// Mask of the kind of compression.
    pub const COMPRESSION: i32 = 0x700;
}

/// What a producer hands over, and what the broker adds before it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The payload, as it is stored.
    pub body: &'a [u8],
    /// Encoded properties, see [`push_property`].
    pub properties: &'a [u8],
    /// The producer's own flag.
    pub flag: i32,
    /// Bits of [`sys_flag`]; those of the addresses are set by the encoder.
    pub sys_flag: i32,
    /// When the producer made it, in ms since 1970-01-01 UTC.
    pub born_timestamp_ms: i64,
    /// The producer's address.
    pub born_host: SocketAddr,
    /// The broker's address.
    pub store_host: SocketAddr,
    /// How often it came back after a failed consumption.
    pub reconsume_times: i32,
    /// Log offset of the first half of its transaction.
    pub prepared_transaction_offset: i64,
}

impl Default for Message<'_> {
    fn default() -> Self {
        let here = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
        Self {
            body: &[],
            properties: &[],
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 0,
            born_host: here,
            store_host: here,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
        }
    }
}

/// A property that can not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields and their units")]
pub enum PropertyError {
    /// A name of no bytes.
    #[error("a property has no name")]
    NoName,
    /// A byte that separates names and values, or zero, which marks torn records.
    #[error("property {name:?} holds a separator or zero byte in its {part}")]
    Separator { name: String, part: &'static str },
    /// The message would have too many of them.
    #[error("property {name:?} makes the properties {len} bytes long, the limit is {max}")]
    TooLong { name: String, len: usize, max: usize },
}

/// Whether a property could be read back if it was written. Does not count the bytes.
pub fn check_property(name: &str, value: &str) -> Result<(), PropertyError> {
    // No early end: so the compiler looks at many bytes at a time.
    let any = |text: &str, is: fn(u8) -> bool| text.bytes().fold(false, |found, byte| found | is(byte));
    let separator = |part| Err(PropertyError::Separator { name: shown(name), part });
    if name.is_empty() {
        return Err(PropertyError::NoName);
    }
    if any(name, |byte| byte <= 2) {
        return separator("name");
    }
    if any(value, |byte| byte == 0 || byte == 2) {
        return separator("value");
    }
    Ok(())
}

/// As much of a name as an error tells.
fn shown(name: &str) -> String {
    name.chars().take(300).collect()
}

/// Adds a property to encoded properties. An empty value is the same as none, so nothing is written for it.
pub fn push_property(properties: &mut Vec<u8>, name: &str, value: &str) -> Result<(), PropertyError> {
    check_property(name, value)?;
    if value.is_empty() {
        return Ok(());
    }
    // Text of another client may lack the separator after its last value.
    let gap = usize::from(properties.last().is_some_and(|&b| b != 2));
    let len = properties.len() + gap + name.len() + value.len() + 2;
    if len > PROPERTIES_BYTES_MAX {
        return Err(PropertyError::TooLong { name: shown(name), len, max: PROPERTIES_BYTES_MAX });
    }
    if gap == 1 {
        properties.push(2);
    }
    properties.extend_from_slice(name.as_bytes());
    properties.push(1);
    properties.extend_from_slice(value.as_bytes());
    properties.push(2);
    Ok(())
}

/// Encoded properties without the entries of some names.
pub fn without(encoded: &[u8], names: &[&str]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(encoded.len() + 1);
    for entry in split(encoded).filter(|entry| !entry.is_empty()) {
        let name = entry.split(|&b| b == 1).next().unwrap_or_default();
        if !names.iter().any(|other| other.as_bytes() == name) {
            kept.extend_from_slice(entry);
            kept.push(2);
        }
    }
    kept
}

/// Gives a property a value; what stood under its name before goes.
pub fn set_property(properties: &mut Vec<u8>, name: &str, value: &str) -> Result<(), PropertyError> {
    if property(properties, name).is_some() {
        *properties = without(properties, &[name]);
    }
    push_property(properties, name, value)
}

/// Names and values in their order; what is not UTF-8 or has no name or value is left out.
pub fn properties(encoded: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    // All at once is cheaper than piece by piece; the pieces count alone only where one of them is no text.
    let (text, pieces) = str::from_utf8(encoded).map_or(("", encoded), |text| (text, &[][..]));
    let of_text = places(text.as_bytes());
    let of_text = of_text.filter_map(|(name, value)| Some((text.get(name)?, text.get(value)?)));
    of_text.chain(
        entries(pieces)
            .filter_map(|(name, value)| Some((str::from_utf8(name).ok()?, str::from_utf8(value).ok()?))),
    )
}

/// Whether a name has a meaning or a field of its own, so that it is no property of the user's: the names
/// that clients set for keys, tags and ids, and those that a broker keeps.
pub fn is_reserved(name: &str) -> bool {
    matches!(
        name,
        KEYS | TAGS
            | UNIQ_KEY
            | WAIT
            | DELAY
            | INSTANCE_ID
            | SHARDING_KEY
            | REAL_TOPIC
            | REAL_QUEUE_ID
            | RETRY_TOPIC
            | BATCH_MARK
    )
}

/// The value of a name: that of its last entry.
pub fn property<'a>(encoded: &'a [u8], name: &str) -> Option<&'a str> {
    if name.is_empty() || name.contains('\u{1}') {
        return None;
    }
    // Brokers ask this several times a message: nothing of an entry of another name is looked at but its start.
    let value = |entry: &'a [u8]| match entry.strip_prefix(name.as_bytes())?.split_first()? {
        (1, value) if !value.is_empty() => str::from_utf8(value).ok(),
        _ => None,
    };
    split(encoded).filter_map(value).last()
}

/// Entries with a name and a value, in their bytes.
pub fn entries(encoded: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    places(encoded).filter_map(|(name, value)| Some((encoded.get(name)?, encoded.get(value)?)))
}

/// Where name and value of each entry stand that has both.
fn places(encoded: &[u8]) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = encoded.get(start..)?;
            // Names are short: looking at each byte is cheaper than a search that has to be set up.
            let name = start..start + rest.iter().position(|&b| matches!(b, 1 | 2))?;
            start = name.end + 1;
            if encoded.get(name.end) == Some(&2) {
                continue;
            }
            let after = encoded.get(start..)?;
            let value = start..start + memchr::memchr(2, after).unwrap_or(after.len());
            start = value.end + 1;
            if !name.is_empty() && !value.is_empty() {
                return Some((name, value));
            }
        }
    })
}

/// What stands between the separators, empty or not.
pub fn split(encoded: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(encoded);
    std::iter::from_fn(move || {
        let bytes = rest.take()?;
        let Some((piece, after)) = memchr::memchr(2, bytes).and_then(|at| bytes.split_at_checked(at)) else {
            return Some(bytes);
        };
        rest = after.get(1..);
        Some(piece)
    })
}

/// The number that a consume queue keeps of a tag: Java's `String.hashCode`, sign-extended; 0 for no tag.
pub fn tag_hash(tag: &str) -> i64 {
    let unit = |hash: i32, unit: u16| hash.wrapping_mul(31).wrapping_add(i32::from(unit));
    i64::from(tag.encode_utf16().fold(0, unit))
}

/// [`tag_hash`] of a message's tag.
pub fn tag_hash_of(encoded: &[u8]) -> i64 {
    static NAME: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(TAGS));
    // One search for the name is cheaper than a walk over all entries, and many messages have no tag.
    if NAME.find(encoded).is_none() {
        return 0;
    }
    property(encoded, TAGS).map_or(0, tag_hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_that_readers_could_not_split_is_refused() {
        let mut text = Vec::new();
        assert_eq!(push_property(&mut text, "", "v"), Err(PropertyError::NoName));
        for (name, value) in [("a\u{1}", "v"), ("a\u{2}", "v"), ("a\0", "v"), ("a", "v\u{2}"), ("a", "v\0")] {
            assert!(push_property(&mut text, name, value).is_err(), "{name:?} {value:?}");
        }
        assert!(text.is_empty());
        push_property(&mut text, "a", "1\u{1}x").unwrap();
        assert_eq!(properties(&text).collect::<Vec<_>>(), [("a", "1\u{1}x")]);
    }

    #[test]
    fn entries_without_a_name_or_a_value_are_left_out_and_a_value_may_hold_a_separator_of_names() {
        for (text, read) in [
            ("", &[][..]),
            ("a", &[]),
            ("\u{1}", &[]),
            ("\u{2}\u{2}", &[]),
            ("\u{1}v\u{2}a\u{1}\u{2}a\u{2}b\u{1}2", &[("b", "2")]),
            ("a\u{1}1\u{1}\u{2}a\u{1}\u{e9}\u{2}", &[("a", "1\u{1}"), ("a", "\u{e9}")]),
        ] {
            assert_eq!(properties(text.as_bytes()).collect::<Vec<_>>(), read, "{text:?}");
            let read: Vec<_> = read.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
            assert_eq!(entries(text.as_bytes()).collect::<Vec<_>>(), read, "{text:?}");
        }
        assert_eq!(properties(b"a\x01\xff\x02b\x012").collect::<Vec<_>>(), [("b", "2")]);
    }

    #[test]
    fn properties_end_at_their_limit() {
        let mut text = Vec::new();
        push_property(&mut text, "a", &"v".repeat(PROPERTIES_BYTES_MAX - 3)).unwrap();
        assert_eq!(text.len(), PROPERTIES_BYTES_MAX);
        assert!(push_property(&mut text, "b", "1").is_err());
    }

    #[test]
    fn a_property_is_set_once_and_taken_away() {
        let mut text = b"a\x011\x02b\x012\x02a\x013".to_vec();
        set_property(&mut text, "a", "4").unwrap();
        set_property(&mut text, "c", "5").unwrap();
        assert_eq!(text, b"b\x012\x02a\x014\x02c\x015\x02");
        assert_eq!(without(&text, &["a", "c", "none"]), b"b\x012\x02");
    }

    #[test]
    fn a_missing_last_separator_is_added_and_the_last_entry_of_a_name_counts() {
        let mut text = b"a\x011".to_vec();
        push_property(&mut text, "a", "2").unwrap();
        push_property(&mut text, "none", "").unwrap();
        assert_eq!(text, b"a\x011\x02a\x012\x02");
        assert_eq!(property(&text, "a"), Some("2"));
        assert_eq!(property(&text, "none"), None);
        assert_eq!(properties(b"a\x01\xff\x02b\x011").collect::<Vec<_>>(), [("b", "1")]);
    }
}

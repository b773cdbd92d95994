//! A Kafka record as a message and back, so that both round trips are exact.
//!
//! | record | message |
//! |---|---|
//! | key: UTF-8, not empty | the keys (`KEYS`), or the property that `key` names |
//! | key: empty, or other bytes | property `kafka.key`: `base64:` and the bytes in base64 |
//! | key: null | no keys |
//! | header with a plain name and UTF-8 value | property of that name |
//! | headers beyond that, or in an order that properties do not say | property `kafka.headers`, see below |
//! | header `rocketmq.TAGS`, `rocketmq.UNIQ_KEY` | the tag; the unique id |
//! | value | body |
//! | value: null (a tombstone) | null body; property `kafka.tombstone`: `true` |
//! | topic, partition, offset | property `kafka.origin`: `topic/partition/offset@cluster`, with the cluster's id ([`Place`]) |
//! | header `rocketmq.origin`: `topic/queue/offset` | the message that a record was made of |
//!
//! A record that was copied from another Kafka topic has header `kafka.origin`; one that comes from another Kafka cluster by way
//! of a topic of ours both of these headers.
//!
//! `kafka.headers` is a JSON array of all headers in their order: `"name"` is the header that the property of that
//! name stands for, `["name"]` one with a null value, `["name", "…"]` one with the value in base64. Doubled headers
//! stand there, and names and values that no property can have. A property has the last value of its header.
//!
//! A plain name is not empty, holds no byte below 3, is none of those above, and none that RocketMQ's clients and
//! brokers give a meaning ([`is_property_name`]). Properties of such names are theirs and come into no record.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sluice_protocol::message::{KEYS, TAGS, UNIQ_KEY};

use super::KeyPlace;
pub use crate::message::Mapped;
use crate::message::{is_reserved, plain};

/// Property: where a record came from, as [`Place`]. Header of a record that was copied from another one.
pub const ORIGIN: &str = "kafka.origin";
/// Property: a key that is no text.
pub const KEY: &str = "kafka.key";
/// Property: all headers, where properties do not say them.
pub const HEADERS: &str = "kafka.headers";
/// Property: the value was null.
pub const TOMBSTONE: &str = "kafka.tombstone";
/// Header: where a message came from, as `topic/queue/offset`.
pub const ROCKETMQ_ORIGIN: &str = "rocketmq.origin";
/// Header: the tag.
pub const ROCKETMQ_TAGS: &str = "rocketmq.TAGS";
/// Header: the unique id.
pub const ROCKETMQ_ID: &str = "rocketmq.UNIQ_KEY";

const BASE64: &str = "base64:";

/// Where a record or a message is: `topic/partition/offset@cluster` of Kafka's, with the id that the cluster gave
/// itself; `topic@broker/queue/offset` of `RocketMQ`'s, without `@broker` in an embedded store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The topic, with its broker.
    pub topic: &'a str,
    /// The partition or queue.
    pub queue: i32,
    /// Its offset.
    pub offset: i64,
    /// The id of the Kafka cluster.
    pub cluster: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// How the text of a place in this partition begins.
    pub fn before_offset(topic: &str, queue: i32) -> String {
        format!("{topic}/{queue}/")
    }

    /// Adds the rest of the text of a place.
    pub fn push_offset(text: &mut String, offset: i64, cluster: Option<&str>) {
        text.push_str(itoa::Buffer::new().format(offset));
        if let Some(cluster) = cluster {
            text.push('@');
            text.push_str(cluster);
        }
    }

    /// The place that a text says.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.rsplitn(3, '/');
        let (last, queue, topic) = (parts.next()?, parts.next()?, parts.next()?);
        let (offset, cluster) = match last.split_once('@') {
            Some((offset, cluster)) => (offset, Some(cluster)),
            None => (last, None),
        };
        Some(Self { topic, queue: queue.parse().ok()?, offset: offset.parse().ok()?, cluster })
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Self::before_offset(self.topic, self.queue);
        Self::push_offset(&mut text, self.offset, self.cluster);
        f.write_str(&text)
    }
}

/// Whether a message was a record of that topic before, by its properties.
pub fn has_been_in<'a>(
    properties: impl Iterator<Item = (&'a str, &'a str)>,
    topic: &str,
    cluster: &str,
) -> bool {
    let is_it = |text: &str| {
        text.starts_with(topic)
            && Place::parse(text).is_some_and(|place| place.topic == topic && place.cluster == Some(cluster))
    };
    for (name, value) in properties {
        let is_there = match name {
            ORIGIN => is_it(value),
            // Those of the records that it was copied from.
            HEADERS if value.contains(ORIGIN) => entries(value).unwrap_or_default().iter().any(|entry| {
                matches!(entry, Entry::Literal(name, Some(value)) if name == ORIGIN
                    && str::from_utf8(value).is_ok_and(is_it))
            }),
            _ => false,
        };
        if is_there {
            return true;
        }
    }
    false
}

/// A record without what bridges add, and the places that it says it came from, the last one last. Two records are the same on
/// both sides of a bridge if this is; the unique id is left out, since clients of `RocketMQ` add one.
pub fn bare<'a>(record: Record<'a>, more: Option<&str>) -> (Record<'a>, Vec<String>) {
    let mut places = Vec::new();
    let Record { key, headers, is_tombstone } = record;
    let is_own = |(name, value): &RecordHeader<'_>| {
        let is_place = matches!(&**name, ORIGIN | ROCKETMQ_ORIGIN);
        let text = value.as_deref().filter(|_| is_place).and_then(|value| str::from_utf8(value).ok());
        places.extend(text.map(str::to_owned));
        !is_place && name != ROCKETMQ_ID
    };
    let headers = headers.into_iter().filter(is_own).collect();
    places.extend(more.map(str::to_owned));
    (Record { key, headers, is_tombstone }, places)
}

/// Whether a header of this name can be a property, and a property a header.
pub fn is_property_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b > 2)
        && !is_reserved(name)
        && !is_own(name)
        && !matches!(name, ROCKETMQ_TAGS | ROCKETMQ_ID)
}

fn is_own(name: &str) -> bool {
    matches!(name, ORIGIN | KEY | HEADERS | TOMBSTONE)
}

/// A header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value; `None` is null.
    pub value: Option<&'a [u8]>,
}

/// What stands for a header in a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    Property,
    Tag,
    Id,
    /// Nothing: it stands in [`HEADERS`] alone.
    Nowhere,
}

fn stands(header: &Header<'_>, key_place: &KeyPlace) -> Stands {
    match header {
        Header { value: Some(value), .. } if plain(value).is_none() => Stands::Nowhere,
        Header { value: None, .. } => Stands::Nowhere,
        Header { name: ROCKETMQ_TAGS, .. } => Stands::Tag,
        Header { name: ROCKETMQ_ID, .. } => Stands::Id,
        Header { name, .. } if matches!(key_place, KeyPlace::Property(key) if key == name) => Stands::Nowhere,
        Header { name, .. } if is_property_name(name) => Stands::Property,
        Header { .. } => Stands::Nowhere,
    }
}

/// The message that a record becomes. `origin` is its [`Place`], if the message is to tell it.
pub fn to_message<'a>(
    key: Option<&'a [u8]>,
    headers: &[Header<'a>],
    is_tombstone: bool,
    origin: Option<&'a str>,
    key_place: &'a KeyPlace,
) -> Mapped<'a> {
    let mut mapped = Mapped::default();
    // The last header of a name that can stand for it does.
    let chosen: Vec<Stands> = headers
        .iter()
        .enumerate()
        .map(|(at, header)| {
            let stands_for = stands(header, key_place);
            let again =
                |later: &Header<'_>| later.name == header.name && stands(later, key_place) == stands_for;
            if headers[at + 1..].iter().any(again) { Stands::Nowhere } else { stands_for }
        })
        .collect();
    for (header, stands_for) in headers.iter().zip(&chosen) {
        let value = header.value.and_then(plain);
        match (stands_for, value) {
            (Stands::Property, Some(value)) => mapped.set(header.name, value),
            (Stands::Tag, value) => mapped.tags = value.map(Cow::Borrowed),
            (Stands::Id, value) => mapped.message_id = value.map(Cow::Borrowed),
            _ => {}
        }
    }
    // The order that they come back in without being told: properties, tag, id.
    let rank = |stands_for: &Stands| match stands_for {
        Stands::Property => 0,
        Stands::Tag => 1,
        Stands::Id => 2,
        Stands::Nowhere => 3,
    };
    let is_told = chosen.iter().all(|s| *s != Stands::Nowhere) && chosen.is_sorted_by_key(rank);
    if !is_told {
        let all = headers.iter().zip(&chosen).map(|(header, stands_for)| match (stands_for, header.value) {
            (Stands::Nowhere, None) => serde_json::json!([header.name]),
            (Stands::Nowhere, Some(value)) => serde_json::json!([header.name, STANDARD.encode(value)]),
            _ => serde_json::json!(header.name),
        });
        mapped.set(HEADERS, serde_json::Value::Array(all.collect()).to_string());
    }
    match (key.map(|key| (key, plain(key))), key_place) {
        (None, _) => {}
        (Some((_, Some(key))), KeyPlace::Keys) => mapped.keys = Some(key.into()),
        (Some((_, Some(key))), KeyPlace::Property(name)) => mapped.set(name, key),
        (Some((key, None)), _) => mapped.set(KEY, format!("{BASE64}{}", STANDARD.encode(key))),
    }
    if is_tombstone {
        mapped.set(TOMBSTONE, "true");
    }
    if let Some(origin) = origin {
        mapped.set(ORIGIN, origin);
    }
    mapped
}

/// A header of a [`Record`]: its name, and its value; `None` is null.
pub type RecordHeader<'a> = (Cow<'a, str>, Option<Cow<'a, [u8]>>);

/// A record beside its value and times; texts are the message's own where they stand in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    /// The key; `None` is null.
    pub key: Option<Cow<'a, [u8]>>,
    /// The headers in their order.
    pub headers: Vec<RecordHeader<'a>>,
    /// The value of a message without a body is null.
    pub is_tombstone: bool,
}

/// What of a message makes a record.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// The business keys.
    pub keys: Option<&'a str>,
    /// The tag.
    pub tags: Option<&'a str>,
    /// The unique id.
    pub message_id: Option<&'a str>,
}

/// The record that a message becomes, or why it can be none. `origin` is `topic/queue/offset` of the message.
pub fn to_record<'a>(
    given: Given<'a>,
    properties: impl Iterator<Item = (&'a str, &'a str)>,
    origin: &'a str,
    key_place: &KeyPlace,
) -> Result<Record<'a>, String> {
    let (mut record, mut named): (Record<'a>, Vec<(&'a str, Option<&'a str>)>) = Default::default();
    let (mut key, mut layout, mut has_origin) = (None, None, false);
    for (name, value) in properties {
        match name {
            ORIGIN => has_origin = true,
            KEY => record.key = Some(decoded(value.strip_prefix(BASE64), KEY)?.into()),
            HEADERS => layout = Some(value),
            TOMBSTONE => record.is_tombstone = value == "true",
            KEYS | TAGS | UNIQ_KEY => {}
            _ if matches!(key_place, KeyPlace::Property(key) if key == name) => key = Some(value),
            _ if is_reserved(name) => {}
            _ => {
                has_origin |= name == ROCKETMQ_ORIGIN;
                named.push((name, Some(value)));
            }
        }
    }
    if *key_place == KeyPlace::Keys {
        key = given.keys;
    }
    if let Some(key) = key {
        record.key = Some(key.as_bytes().into());
    }
    if !has_origin {
        named.push((ROCKETMQ_ORIGIN, Some(origin)));
    }
    named.extend(given.tags.map(|tag| (ROCKETMQ_TAGS, Some(tag))));
    named.extend(given.message_id.map(|id| (ROCKETMQ_ID, Some(id))));
    let bytes = |text: &'a str| Some(Cow::Borrowed(text.as_bytes()));
    if let Some(layout) = layout {
        for entry in entries(layout)? {
            match entry {
                Entry::Named(name) => {
                    // A step may have taken it away.
                    let place = named.iter_mut().find(|(other, value)| *other == name && value.is_some());
                    if let Some(value) = place.and_then(|(_, value)| value.take()) {
                        record.headers.push((name.into(), bytes(value)));
                    }
                }
                Entry::Literal(name, value) => record.headers.push((name.into(), value.map(Cow::Owned))),
            }
        }
    }
    let rest = named.into_iter().filter_map(|(name, value)| Some((name.into(), bytes(value?))));
    record.headers.extend(rest);
    if record.headers.iter().any(|(name, _)| name.contains('\0')) {
        return Err("a header's name holds a zero byte".to_owned());
    }
    Ok(record)
}

enum Entry {
    Named(String),
    Literal(String, Option<Vec<u8>>),
}

fn entries(layout: &str) -> Result<Vec<Entry>, String> {
    let told = || format!("property `{HEADERS}` is no list of headers");
    let values: Vec<serde_json::Value> = serde_json::from_str(layout).map_err(|_| told())?;
    let entry = |value: &serde_json::Value| match value {
        serde_json::Value::String(name) => Ok(Entry::Named(name.clone())),
        serde_json::Value::Array(parts) => match parts.as_slice() {
            [serde_json::Value::String(name)] => Ok(Entry::Literal(name.clone(), None)),
            [serde_json::Value::String(name), serde_json::Value::String(value)] => {
                Ok(Entry::Literal(name.clone(), Some(decoded(Some(value), HEADERS)?)))
            }
            _ => Err(told()),
        },
        _ => Err(told()),
    };
    values.iter().map(entry).collect()
}

fn decoded(text: Option<&str>, property: &str) -> Result<Vec<u8>, String> {
    let told = || format!("property `{property}` holds no base64");
    text.and_then(|text| STANDARD.decode(text).ok()).ok_or_else(told)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn borrowed<'a>(headers: &'a [RecordHeader<'_>]) -> Vec<Header<'a>> {
        headers.iter().map(|(name, value)| Header { name, value: value.as_deref() }).collect()
    }

    fn back<'a>(mapped: &'a Mapped<'_>, origin: &'a str, place: &KeyPlace) -> Record<'a> {
        let given = Given {
            keys: mapped.keys.as_deref(),
            tags: mapped.tags.as_deref(),
            message_id: mapped.message_id.as_deref(),
        };
        let properties = mapped.own();
        to_record(given, properties, origin, place).unwrap()
    }

    fn names() -> impl Strategy<Value = Cow<'static, str>> {
        prop_oneof![
            4 => prop::sample::select(vec!["a", "b", "trace-id", "rocketmq.origin", "rocketmq.TAGS", "rocketmq.UNIQ_KEY"]),
            2 => prop::sample::select(vec!["", "TAGS", "KEYS", "DELAY", "__SLUICE_BATCH", "kafka.key", "kafka.headers", "kafka.origin", "kafka.tombstone", "id", "x\u{1}y"]),
        ]
        .prop_map(Cow::Borrowed)
    }

    fn values() -> impl Strategy<Value = Cow<'static, [u8]>> {
        let bytes = prop_oneof![
            "[a-zä ]{0,6}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..6)
        ];
        bytes.prop_map(Cow::Owned)
    }

    fn places() -> impl Strategy<Value = KeyPlace> {
        prop_oneof![Just(KeyPlace::Keys), Just(KeyPlace::Property("id".to_owned()))]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_record_comes_back_as_it_was(
            key in prop::option::of(values()),
            headers in prop::collection::vec((names(), prop::option::of(values())), 0..7),
            is_tombstone: bool,
            place in places(),
        ) {
            let mapped = to_message(key.as_deref(), &borrowed(&headers), is_tombstone, Some("t/0/7"), &place);
            let record = back(&mapped, "unused/0/0", &place);
            prop_assert_eq!(record, Record { key: key.clone(), headers: headers.clone(), is_tombstone });
            for (at, (name, value)) in mapped.properties.iter().enumerate() {
                let mut encoded = Vec::new();
                prop_assert!(sluice_protocol::message::push_property(&mut encoded, name, value).is_ok());
                prop_assert!(!value.is_empty());
                prop_assert!(!mapped.properties[..at].iter().any(|(other, _)| other == name), "{name} twice");
            }
        }

        #[test]
        fn a_message_comes_back_as_it_was_and_says_where_it_has_been(
            keys in prop::option::of("[a-z]{1,4}( [a-z]{1,4})?"),
            tags in prop::option::of("[a-zA-Z]{1,5}"),
            message_id in prop::option::of("[0-9A-F]{32}"),
            properties in prop::collection::btree_map("[a-zA-Z._]{1,3}", "[^\u{0}\u{2}]{1,6}", 0..5),
        ) {
            let properties: Vec<_> = properties.into_iter().filter(|(n, _)| is_property_name(n)).collect();
            let message = Mapped::of([keys, tags, message_id], properties);
            let record = back(&message, "orders@b/2/5", &KeyPlace::Keys);
            let mut again = to_message(
                record.key.as_deref(), &borrowed(&record.headers), record.is_tombstone, Some("t/0/7"), &KeyPlace::Keys,
            );
            prop_assert_eq!(again.property(ROCKETMQ_ORIGIN), Some("orders@b/2/5"));
            prop_assert_eq!(again.property(ORIGIN), Some("t/0/7"));
            again.properties.retain(|(n, _)| ![ROCKETMQ_ORIGIN, ORIGIN].contains(&&**n));
            prop_assert_eq!(&again, &message);
        }
    }

    #[test]
    fn a_property_that_a_step_changed_or_took_is_so_in_the_record() {
        let headers = [("a", Some(&b"1"[..])), ("a", Some(&b"2"[..])), ("b", None), ("c", Some(&b"3"[..]))];
        let headers: Vec<Header<'_>> = headers.iter().map(|&(name, value)| Header { name, value }).collect();
        let mut mapped = to_message(None, &headers, false, Some("t/0/0"), &KeyPlace::Keys);
        assert_eq!(mapped.property("a"), Some("2"));
        assert_eq!(mapped.property(HEADERS), Some(r#"[["a","MQ=="],"a",["b"],"c"]"#));
        mapped.properties.retain(|(name, _)| name != "c");
        mapped.properties[0].1 = "new".into();
        let record = back(&mapped, "", &KeyPlace::Keys);
        let names: Vec<&str> = record.headers.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["a", "a", "b"]);
        assert_eq!(record.headers[1].1.as_deref(), Some(&b"new"[..]));
    }

    #[test]
    fn properties_that_hold_no_headers_are_told() {
        for (name, value) in [(HEADERS, "{}"), (HEADERS, r#"[["a","?"]]"#), (HEADERS, "[1]"), (KEY, "abc")] {
            let made = to_record(Given::default(), [(name, value)].into_iter(), "", &KeyPlace::Keys);
            assert!(made.unwrap_err().contains(name));
        }
    }

    #[test]
    fn a_place_is_read_as_it_is_written() {
        for text in ["orders/3/1234@MkU3-OEVB_Q", "orders@broker-a/2/5", "dir/in.csv/0/7", "orders/0/0"] {
            assert_eq!(Place::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "orders", "orders/1", "orders/x/1", "orders/1/x", "orders/1/x@c"] {
            assert_eq!(Place::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_message_says_where_it_has_been() {
        let header = Header { name: ORIGIN, value: Some(b"orders/0/3@one") };
        let mapped = to_message(None, &[header], false, Some("copy/1/9@two"), &KeyPlace::Keys);
        let properties = || mapped.own();
        assert!(has_been_in(properties(), "copy", "two") && has_been_in(properties(), "orders", "one"));
        assert!(!has_been_in(properties(), "orders", "two") && !has_been_in(properties(), "copy", "one"));
        let record = to_record(Given::default(), properties(), "", &KeyPlace::Keys).unwrap();
        let (bare, places) = bare(record, mapped.property(ORIGIN));
        assert_eq!((bare, places.join(" ")), (Record::default(), "orders/0/3@one copy/1/9@two".to_owned()));
    }
}

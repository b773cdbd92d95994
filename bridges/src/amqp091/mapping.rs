//! An AMQP 0-9-1 message as a message of ours and back, so that both round trips are exact.
//!
//! | AMQP | message |
//! |---|---|
//! | `message-id` | the unique id |
//! | `timestamp` (s) | born timestamp (ms); property `amqp.timestamp` |
//! | header with a plain name, of a type that text shows | property of that name; its type in `amqp.headers`, unless it is a string |
//! | other headers: lists, tables, bytes, no value | `amqp.headers` alone, see `bridges/src/typed.rs`; types are the letters of RabbitMQ's tables |
//! | `content-type`, `priority` and the other properties | `amqp.content_type`, `amqp.priority`, …; a text that no property can hold: `amqp.properties` as a JSON object |
//! | exchange, routing key; redelivered | `amqp.exchange`, `amqp.routing_key`; `amqp.redelivered` |
//! | queue | `amqp.origin` |
//! | headers `rocketmq.KEYS`, `rocketmq.TAGS`, `rocketmq.UNIQ_KEY` | keys, tag, unique id where there is no `message-id` |
//! | header `rocketmq.origin`: `topic/queue/offset` | the message that it was made of |
//! | header `rocketmq.born_timestamp` (ms) | born timestamp of a message with more than seconds |
//!
//! A message that comes from elsewhere is persistent (`delivery-mode` 2). `user-id` is sent only if it is the account that
//! sends: brokers refuse others.

use std::collections::BTreeMap;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, DecimalValue, FieldTable, ShortString};

use super::NAME_BYTES_MAX;
use super::guard::{REFUSED, check_value};
use crate::message::{Mapped, is_reserved, plain};
use crate::typed::{Back, Header, Layout, headers};

/// Property: the queue that a message came from.
pub const ORIGIN: &str = "amqp.origin";
/// Property: types of headers, and those that no property shows.
pub const HEADERS: &str = "amqp.headers";
/// Property: texts of properties that no property of ours can hold.
pub const PROPERTIES: &str = "amqp.properties";
/// Property: the exchange that a message was published to.
pub const EXCHANGE: &str = "amqp.exchange";
/// Property: its routing key.
pub const ROUTING_KEY: &str = "amqp.routing_key";
/// Property: it may have been delivered before.
pub const REDELIVERED: &str = "amqp.redelivered";
/// Property: seconds since 1970-01-01 UTC.
pub const TIMESTAMP: &str = "amqp.timestamp";
const DELIVERY_MODE: &str = "amqp.delivery_mode";
const PRIORITY: &str = "amqp.priority";
const MESSAGE_ID: &str = "amqp.message_id";

/// Header: the keys.
pub const ROCKETMQ_KEYS: &str = "rocketmq.KEYS";
/// Header: the tag.
pub const ROCKETMQ_TAGS: &str = "rocketmq.TAGS";
/// Header: the unique id, where it is too long for a `message-id`.
pub const ROCKETMQ_ID: &str = "rocketmq.UNIQ_KEY";
/// Header: where a message came from, as `topic/queue/offset`.
pub const ROCKETMQ_ORIGIN: &str = "rocketmq.origin";
/// Header: the born timestamp in ms.
pub const ROCKETMQ_BORN: &str = "rocketmq.born_timestamp";

/// The type of headers that a property alone stands for.
const STRING: &str = "S";
/// What the properties of a message may take, in bytes: a broker takes them in one frame of 128 KiB.
pub const HEADER_BYTES_MAX: usize = 128 * 1024 - 64;
const PERSISTENT: u8 = 2;

/// A text among the properties: its name here, how it is read, and how it is set.
type Text = (
    &'static str,
    fn(&BasicProperties) -> &Option<ShortString>,
    fn(BasicProperties, ShortString) -> BasicProperties,
);

const TEXTS: [Text; 10] = [
    ("amqp.content_type", BasicProperties::content_type, BasicProperties::with_content_type),
    ("amqp.content_encoding", BasicProperties::content_encoding, BasicProperties::with_content_encoding),
    ("amqp.correlation_id", BasicProperties::correlation_id, BasicProperties::with_correlation_id),
    ("amqp.reply_to", BasicProperties::reply_to, BasicProperties::with_reply_to),
    ("amqp.expiration", BasicProperties::expiration, BasicProperties::with_expiration),
    (MESSAGE_ID, BasicProperties::message_id, BasicProperties::with_message_id),
    ("amqp.type", BasicProperties::kind, BasicProperties::with_type),
    (USER_ID, BasicProperties::user_id, BasicProperties::with_user_id),
    ("amqp.app_id", BasicProperties::app_id, BasicProperties::with_app_id),
    ("amqp.cluster_id", BasicProperties::cluster_id, BasicProperties::with_cluster_id),
];
const USER_ID: &str = "amqp.user_id";

fn is_own(name: &str) -> bool {
    let others =
        [ORIGIN, HEADERS, PROPERTIES, EXCHANGE, ROUTING_KEY, REDELIVERED, TIMESTAMP, DELIVERY_MODE, PRIORITY];
    others.contains(&name) || TEXTS.iter().any(|(text, ..)| *text == name)
}

/// Whether a header of this name can be a property, and a property a header.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b > 2)
        && !is_reserved(name)
        && !is_own(name)
        && !matches!(name, ROCKETMQ_KEYS | ROCKETMQ_TAGS | ROCKETMQ_ID)
}

/// What a broker says of a message beside its properties.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delivered<'a> {
    /// The queue that it comes from.
    pub queue: &'a str,
    /// The exchange that it was published to.
    pub exchange: &'a str,
    /// Its routing key.
    pub routing_key: &'a str,
    /// It may have been delivered before.
    pub is_again: bool,
}

/// What a message becomes beside its body, and its born timestamp in ms.
pub fn to_message(
    delivered: Delivered<'_>,
    properties: &BasicProperties,
) -> Result<(Mapped<'static>, Option<i64>), String> {
    let mut mapped = Mapped::default();
    let empty = FieldTable::default();
    let table = properties.headers().as_ref().unwrap_or(&empty);
    if let Some(AMQPValue::LongString(reason)) = table.inner().get(REFUSED) {
        return Err(format!("the message was not taken: {reason}"));
    }
    let (mut layout, mut odd) = (Layout::default(), serde_json::Map::new());
    for (name, read, _) in TEXTS {
        match read(properties).as_ref().map(ShortString::as_str) {
            None => {}
            Some(id) if name == MESSAGE_ID && plain(id.as_bytes()).is_some() => {
                mapped.message_id = Some(id.to_owned().into());
            }
            Some(text) if name != MESSAGE_ID && plain(text.as_bytes()).is_some() => {
                mapped.set(name, text.to_owned());
            }
            Some(text) => drop(odd.insert(name.to_owned(), text.into())),
        }
    }
    let mut born = properties.timestamp().and_then(|seconds| i64::try_from(seconds).ok()?.checked_mul(1000));
    for (name, value) in table {
        let name = name.as_str();
        let place = match name {
            ROCKETMQ_KEYS => Some(&mut mapped.keys),
            ROCKETMQ_TAGS => Some(&mut mapped.tags),
            ROCKETMQ_ID if properties.message_id().is_none() => Some(&mut mapped.message_id),
            _ => None,
        };
        if let (Some(place), AMQPValue::LongString(text)) = (place, value)
            && let Some(text) = plain(text.as_bytes())
            // A shorter one would come back as a `message-id`.
            && (name != ROCKETMQ_ID || text.len() > NAME_BYTES_MAX)
        {
            *place = Some(text.to_owned().into());
            continue;
        }
        if let (ROCKETMQ_BORN, AMQPValue::LongLongInt(ms @ 0..)) = (name, value) {
            born = Some(*ms);
        }
        let (kind, text) = text_of(value);
        layout.put(&mut mapped, Header { name, kind, text }, STRING, is_name, || encoded(value));
    }
    layout.finish(&mut mapped, HEADERS, properties.headers().is_some() && table.inner().is_empty());
    if !odd.is_empty() {
        mapped.set(PROPERTIES, serde_json::Value::Object(odd).to_string());
    }
    let numbers = [
        (TIMESTAMP, *properties.timestamp()),
        (DELIVERY_MODE, properties.delivery_mode().map(u64::from)),
        (PRIORITY, properties.priority().map(u64::from)),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            mapped.set(name, value.to_string());
        }
    }
    for (name, value) in
        [(EXCHANGE, delivered.exchange), (ROUTING_KEY, delivered.routing_key), (ORIGIN, delivered.queue)]
    {
        if plain(value.as_bytes()).is_some() {
            mapped.set(name, value.to_owned());
        }
    }
    if delivered.is_again {
        mapped.set(REDELIVERED, "true");
    }
    Ok((mapped, born))
}

/// What of a message makes an AMQP message beside its properties and body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// The business keys.
    pub keys: Option<&'a str>,
    /// The tag.
    pub tags: Option<&'a str>,
    /// The unique id.
    pub message_id: Option<&'a str>,
    /// The born timestamp in ms.
    pub born: Option<i64>,
    /// Where it comes from, as `topic/queue/offset`.
    pub origin: &'a str,
    /// The account that sends.
    pub user: &'a str,
}

/// The properties that a message has on its way, and its routing key if it says one; or why it can not be sent.
pub fn to_properties<'a>(
    given: Given<'_>,
    own: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<(BasicProperties, Option<&'a str>), String> {
    let mut named: Vec<(&str, &str)> = Vec::new();
    let mut says: BTreeMap<&str, &str> = BTreeMap::new();
    let mut has_origin = false;
    for (name, value) in own {
        if is_own(name) {
            says.insert(name, value);
        } else if is_name(name) {
            has_origin |= name == ROCKETMQ_ORIGIN;
            named.push((name, value));
        }
    }
    let is_native = !says.contains_key(ORIGIN);
    let mut table = BTreeMap::new();
    for (name, back) in headers(says.get(HEADERS).copied(), HEADERS, named.into_iter())? {
        let value = match back {
            Back::Text(text, kind) => kind
                .and_then(|kind| value_of(&kind, text))
                .unwrap_or_else(|| AMQPValue::LongString(text.into())),
            Back::Encoded(bytes) => decoded(&bytes)?,
        };
        table.insert(short(&name, "the name of a header")?, value);
    }
    let mut set = |name: &str, text: &str| {
        table.insert(short(name, "the name of a header")?, AMQPValue::LongString(text.into()));
        Ok::<(), String>(())
    };
    if is_native && !has_origin {
        set(ROCKETMQ_ORIGIN, given.origin)?;
    }
    given.keys.map_or(Ok(()), |keys| set(ROCKETMQ_KEYS, keys))?;
    given.tags.map_or(Ok(()), |tags| set(ROCKETMQ_TAGS, tags))?;
    let mut properties = BasicProperties::default();
    match given.message_id {
        Some(id) if id.len() <= NAME_BYTES_MAX => {
            properties = properties.with_message_id(short(id, MESSAGE_ID)?);
        }
        Some(id) => set(ROCKETMQ_ID, id)?,
        None => {}
    }
    let odd: serde_json::Map<String, serde_json::Value> = match says.get(PROPERTIES) {
        None => serde_json::Map::new(),
        Some(text) => serde_json::from_str(text)
            .map_err(|_| format!("property `{PROPERTIES}` holds no texts of properties"))?,
    };
    for (name, _, with) in TEXTS {
        let text = says.get(name).copied().or_else(|| odd.get(name).and_then(serde_json::Value::as_str));
        let text = text.filter(|text| name != USER_ID || *text == given.user);
        let Some(text) = text.filter(|_| name != MESSAGE_ID || given.message_id.is_none()) else { continue };
        if name == "amqp.expiration" && text.parse::<u32>().is_err() {
            return Err(format!("property `{name}` is {text:?}, expected milliseconds"));
        }
        properties = with(properties, short(text, name)?);
    }
    let number = |name: &'static str| {
        let parsed = says.get(name).map(|text| text.parse::<u8>());
        parsed.transpose().map_err(|_| format!("property `{name}` is no number from 0 to 255"))
    };
    let delivery_mode = number(DELIVERY_MODE)?.or_else(|| is_native.then_some(PERSISTENT));
    properties = delivery_mode.map_or(properties.clone(), |mode| properties.with_delivery_mode(mode));
    properties = number(PRIORITY)?.map_or(properties.clone(), |number| properties.with_priority(number));
    let told = says.get(TIMESTAMP).map(|text| text.parse::<u64>());
    let told = told.transpose().map_err(|_| format!("property `{TIMESTAMP}` is no number of seconds"))?;
    let born = given.born.and_then(|ms| u64::try_from(ms).ok()).filter(|_| is_native);
    if let Some(ms) = born.filter(|ms| told.is_none() && !ms.is_multiple_of(1000)) {
        let ms = AMQPValue::LongLongInt(i64::try_from(ms).unwrap_or(i64::MAX));
        table.entry(short(ROCKETMQ_BORN, "header")?).or_insert(ms);
    }
    if let Some(seconds) = told.or(born.map(|ms| ms / 1000)) {
        properties = properties.with_timestamp(seconds);
    }
    if !table.is_empty() || says.contains_key(HEADERS) {
        properties = properties.with_headers(FieldTable::from(table));
    }
    let bytes = encoded_len(&properties);
    if bytes > HEADER_BYTES_MAX {
        return Err(format!("properties of {bytes} bytes exceed the limit of {HEADER_BYTES_MAX} bytes"));
    }
    Ok((properties, says.get(ROUTING_KEY).copied()))
}

fn short(text: &str, what: &str) -> Result<ShortString, String> {
    ShortString::try_new(text)
        .map_err(|_| format!("{what} has {} bytes, expected at most {NAME_BYTES_MAX}", text.len()))
}

/// The letter of a value's type, and its text if text shows it.
fn text_of(value: &AMQPValue) -> (&'static str, Option<String>) {
    match value {
        AMQPValue::Boolean(it) => ("t", Some(it.to_string())),
        AMQPValue::ShortShortInt(it) => ("b", Some(it.to_string())),
        AMQPValue::ShortShortUInt(it) => ("B", Some(it.to_string())),
        AMQPValue::ShortInt(it) => ("s", Some(it.to_string())),
        AMQPValue::ShortUInt(it) => ("u", Some(it.to_string())),
        AMQPValue::LongInt(it) => ("I", Some(it.to_string())),
        AMQPValue::LongUInt(it) => ("i", Some(it.to_string())),
        AMQPValue::LongLongInt(it) => ("l", Some(it.to_string())),
        // One that is no number has bits that its text does not show.
        AMQPValue::Float(it) => ("f", Some(it.to_string()).filter(|_| !it.is_nan())),
        AMQPValue::Double(it) => ("d", Some(it.to_string()).filter(|_| !it.is_nan())),
        AMQPValue::DecimalValue(it) => ("D", Some(decimal(it))),
        AMQPValue::Timestamp(it) => ("T", Some(it.to_string())),
        AMQPValue::ShortString(it) => (STRING, Some(it.as_str().to_owned())),
        AMQPValue::LongString(it) => (STRING, str::from_utf8(it.as_bytes()).ok().map(str::to_owned)),
        AMQPValue::FieldArray(_) => ("A", None),
        AMQPValue::FieldTable(_) => ("F", None),
        AMQPValue::ByteArray(_) => ("x", None),
        AMQPValue::Void => ("V", None),
    }
}

/// The value of a type's letter and a text; `None` if the text is no such value.
fn value_of(kind: &str, text: &str) -> Option<AMQPValue> {
    Some(match kind {
        "t" => AMQPValue::Boolean(text.parse().ok()?),
        "b" => AMQPValue::ShortShortInt(text.parse().ok()?),
        "B" => AMQPValue::ShortShortUInt(text.parse().ok()?),
        "s" => AMQPValue::ShortInt(text.parse().ok()?),
        "u" => AMQPValue::ShortUInt(text.parse().ok()?),
        "I" => AMQPValue::LongInt(text.parse().ok()?),
        "i" => AMQPValue::LongUInt(text.parse().ok()?),
        "l" => AMQPValue::LongLongInt(text.parse().ok()?),
        "f" => AMQPValue::Float(text.parse().ok()?),
        "d" => AMQPValue::Double(text.parse().ok()?),
        "T" => AMQPValue::Timestamp(text.parse().ok()?),
        "D" => {
            let (whole, parts) = text.split_once('.').unwrap_or((text, ""));
            let scale = u8::try_from(parts.len()).ok()?;
            AMQPValue::DecimalValue(DecimalValue { scale, value: format!("{whole}{parts}").parse().ok()? })
        }
        _ => return None,
    })
}

/// As digits with a point, as many behind it as the scale says.
fn decimal(value: &DecimalValue) -> String {
    let scale = usize::from(value.scale);
    let mut digits = format!("{:0>width$}", value.value, width = scale + 1);
    if scale > 0 {
        digits.insert(digits.len() - scale, '.');
    }
    digits
}

/// The bytes of a value with its type before it. Values of a connection are nested as deep as the guard allows.
fn encoded(value: &AMQPValue) -> Vec<u8> {
    let mut out = Vec::new();
    encode(value, &mut out);
    out
}

fn encode(value: &AMQPValue, out: &mut Vec<u8>) {
    out.extend_from_slice(text_of(value).0.as_bytes());
    let with_len = |bytes: &[u8], out: &mut Vec<u8>| {
        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    match value {
        AMQPValue::Boolean(it) => out.push(u8::from(*it)),
        AMQPValue::ShortShortInt(it) => out.extend(it.to_be_bytes()),
        AMQPValue::ShortShortUInt(it) => out.push(*it),
        AMQPValue::ShortInt(it) => out.extend(it.to_be_bytes()),
        AMQPValue::ShortUInt(it) => out.extend(it.to_be_bytes()),
        AMQPValue::LongInt(it) => out.extend(it.to_be_bytes()),
        AMQPValue::LongUInt(it) => out.extend(it.to_be_bytes()),
        AMQPValue::LongLongInt(it) => out.extend(it.to_be_bytes()),
        AMQPValue::Float(it) => out.extend(it.to_be_bytes()),
        AMQPValue::Double(it) => out.extend(it.to_be_bytes()),
        AMQPValue::DecimalValue(it) => {
            out.push(it.scale);
            out.extend(it.value.to_be_bytes());
        }
        AMQPValue::Timestamp(it) => out.extend(it.to_be_bytes()),
        AMQPValue::ShortString(it) => with_len(it.as_str().as_bytes(), out),
        AMQPValue::LongString(it) => with_len(it.as_bytes(), out),
        AMQPValue::ByteArray(it) => with_len(it.as_slice(), out),
        AMQPValue::FieldArray(it) => {
            let mut inner = Vec::new();
            it.as_slice().iter().for_each(|value| encode(value, &mut inner));
            with_len(&inner, out);
        }
        AMQPValue::FieldTable(it) => with_len(&table_bytes(it), out),
        AMQPValue::Void => {}
    }
}

/// A table without its length.
fn table_bytes(table: &FieldTable) -> Vec<u8> {
    let mut inner = Vec::new();
    for (name, value) in table {
        inner.push(u8::try_from(name.as_str().len()).unwrap_or(u8::MAX));
        inner.extend_from_slice(name.as_str().as_bytes());
        encode(value, &mut inner);
    }
    inner
}

fn decoded(bytes: &[u8]) -> Result<AMQPValue, String> {
    let told = |why: String| format!("property `{HEADERS}` holds no value of a header: {why}");
    check_value(bytes).map_err(told)?;
    match lapin::types::parsing::parse_value(bytes) {
        Ok(([], value)) => Ok(value),
        Ok(_) => Err(told("there is more than one value".to_owned())),
        Err(error) => Err(told(error.to_string())),
    }
}

/// What the properties take in a content header, in bytes, at most.
fn encoded_len(properties: &BasicProperties) -> usize {
    let texts =
        TEXTS.iter().filter_map(|(_, read, _)| read(properties).as_ref()).map(|t| 1 + t.as_str().len());
    let headers = properties.headers().as_ref().map_or(0, |table| 4 + table_bytes(table).len());
    // Class, weight, length of the body, flags, the numbers.
    2 + 2 + 8 + 2 + 1 + 1 + 8 + texts.sum::<usize>() + headers
}

#[cfg(test)]
mod tests {
    use lapin::types::FieldArray;
    use proptest::prelude::*;

    use super::*;

    const QUEUE: Delivered<'_> = Delivered { queue: "q", exchange: "e", routing_key: "r.k", is_again: false };

    fn names() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => prop::sample::select(vec!["a", "b", "x-death", "kafka.origin", "rocketmq.origin"]),
            3 => prop::sample::select(vec![
                ROCKETMQ_KEYS, ROCKETMQ_TAGS, ROCKETMQ_ID, ROCKETMQ_BORN, "", "TAGS", "KEYS", "DELAY", HEADERS, ORIGIN,
                TIMESTAMP, "x\u{1}y",
            ]),
        ]
        .prop_map(str::to_owned)
    }

    fn values() -> impl Strategy<Value = AMQPValue> {
        let leaf = prop_oneof![
            "[a-zä ]{0,6}".prop_map(|text| AMQPValue::LongString(text.into())),
            "[a-z]{250,260}".prop_map(|text| AMQPValue::LongString(text.into())),
            prop::collection::vec(any::<u8>(), 0..6).prop_map(|bytes| AMQPValue::LongString(bytes.into())),
            prop::collection::vec(any::<u8>(), 0..6).prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
            any::<bool>().prop_map(AMQPValue::Boolean),
            any::<i8>().prop_map(AMQPValue::ShortShortInt),
            any::<u8>().prop_map(AMQPValue::ShortShortUInt),
            any::<i16>().prop_map(AMQPValue::ShortInt),
            any::<u16>().prop_map(AMQPValue::ShortUInt),
            any::<i32>().prop_map(AMQPValue::LongInt),
            any::<u32>().prop_map(AMQPValue::LongUInt),
            any::<i64>().prop_map(AMQPValue::LongLongInt),
            any::<u32>().prop_map(|bits| AMQPValue::Float(f32::from_bits(bits))),
            any::<u64>().prop_map(|bits| AMQPValue::Double(f64::from_bits(bits))),
            any::<u64>().prop_map(AMQPValue::Timestamp),
            (any::<u8>(), any::<u32>())
                .prop_map(|(scale, value)| AMQPValue::DecimalValue(DecimalValue { scale, value })),
            Just(AMQPValue::Void),
        ];
        leaf.prop_recursive(4, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3)
                    .prop_map(|all| AMQPValue::FieldArray(FieldArray::from(all))),
                prop::collection::btree_map("[a-z]{0,3}", inner, 0..3).prop_map(|all| {
                    let all = all.into_iter().map(|(name, value)| (ShortString::from(name), value));
                    AMQPValue::FieldTable(FieldTable::from(all.collect::<BTreeMap<_, _>>()))
                }),
            ]
        })
    }

    fn texts() -> impl Strategy<Value = Option<String>> {
        prop::option::of(prop_oneof!["[a-zä/]{0,9}", Just("\u{0}".to_owned()), Just("\u{2}x".to_owned())])
    }

    fn properties() -> impl Strategy<Value = BasicProperties> {
        let texts = prop::collection::vec(texts(), TEXTS.len());
        let headers = prop::option::of(prop::collection::btree_map(names(), values(), 0..6));
        let numbers =
            (prop::option::of(any::<u8>()), prop::option::of(any::<u8>()), prop::option::of(any::<u64>()));
        (texts, headers, numbers, prop::option::of(any::<u32>())).prop_map(
            |(texts, headers, (mode, priority, timestamp), expiration)| {
                let mut properties = BasicProperties::default();
                for ((name, _, with), text) in TEXTS.into_iter().zip(texts) {
                    let text = match name {
                        USER_ID => text.map(|_| "me".to_owned()),
                        "amqp.expiration" => expiration.map(|ms| ms.to_string()),
                        _ => text,
                    };
                    properties =
                        text.map_or(properties.clone(), |text| with(properties, ShortString::from(text)));
                }
                if let Some(headers) = headers {
                    let headers = headers.into_iter().map(|(name, value)| (ShortString::from(name), value));
                    properties =
                        properties.with_headers(FieldTable::from(headers.collect::<BTreeMap<_, _>>()));
                }
                properties = mode.map_or(properties.clone(), |mode| properties.with_delivery_mode(mode));
                properties = priority.map_or(properties.clone(), |number| properties.with_priority(number));
                timestamp.map_or(properties.clone(), |seconds| properties.with_timestamp(seconds))
            },
        )
    }

    fn given<'a>(mapped: &'a Mapped, born: Option<i64>) -> Given<'a> {
        Given {
            keys: mapped.keys.as_deref(),
            tags: mapped.tags.as_deref(),
            message_id: mapped.message_id.as_deref(),
            born,
            origin: "t/0/7",
            user: "me",
        }
    }

    /// A value that is no number is not equal to itself.
    fn shown(properties: &BasicProperties) -> (String, Option<Vec<u8>>) {
        (format!("{properties:?}"), properties.headers().as_ref().map(table_bytes))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn an_amqp_message_comes_back_as_it_was(properties in properties()) {
            let (mapped, born) = to_message(QUEUE, &properties).unwrap();
            let (back, routing_key) = to_properties(given(&mapped, born), mapped.own()).unwrap();
            prop_assert_eq!(shown(&back), shown(&properties));
            prop_assert_eq!(routing_key, Some("r.k"));
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
            message_id in prop::option::of(prop_oneof!["[0-9A-F]{32}", "[0-9A-F]{256,300}"]),
            properties in prop::collection::btree_map("[a-zA-Z._]{1,3}", "[^\u{0}\u{2}]{1,6}", 0..5),
            born in prop::option::of(0..4_000_000_000_000_i64),
        ) {
            let properties: Vec<_> = properties.into_iter().filter(|(name, _)| is_name(name)).collect();
            let message = Mapped::of([keys, tags, message_id], properties);
            let (sent, _) = to_properties(given(&message, born), message.own()).unwrap();
            prop_assert_eq!(*sent.delivery_mode(), Some(2));
            let (mut again, born_again) = to_message(QUEUE, &sent).unwrap();
            prop_assert_eq!(born_again, born);
            prop_assert_eq!(again.property(ROCKETMQ_ORIGIN), Some("t/0/7"));
            prop_assert_eq!(again.property(ORIGIN), Some("q"));
            again.properties.retain(|(name, _)| !name.starts_with("amqp.") && !name.starts_with("rocketmq."));
            prop_assert_eq!(again, message);
        }

        #[test]
        fn a_value_of_a_header_is_read_as_it_was_written(value in values()) {
            let bytes = encoded(&value);
            prop_assert_eq!(encoded(&decoded(&bytes).unwrap()), bytes);
        }
    }

    #[test]
    fn types_are_kept_and_shown() {
        let mut table = FieldTable::default();
        table.insert("n".into(), AMQPValue::LongInt(7));
        table.insert("s".into(), AMQPValue::LongString("x".into()));
        table.insert("l".into(), AMQPValue::FieldArray(vec![AMQPValue::Boolean(true)].into()));
        table.insert("d".into(), AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 5 }));
        let properties = BasicProperties::default().with_headers(table).with_timestamp(1_700_000_000);
        let (mut mapped, born) = to_message(QUEUE, &properties).unwrap();
        assert_eq!(born, Some(1_700_000_000_000));
        assert_eq!(
            [mapped.property("n"), mapped.property("s"), mapped.property("d")],
            [Some("7"), Some("x"), Some("0.05")]
        );
        assert_eq!(mapped.property(HEADERS), Some(r#"{"d":"D","l":["QQAAAAJ0AQ=="],"n":"I"}"#));
        assert_eq!(mapped.property(EXCHANGE), Some("e"));
        // A step changes one to a text and takes another.
        for (name, value) in &mut mapped.properties {
            if name == "n" {
                *value = "many".into();
            }
        }
        mapped.properties.retain(|(name, _)| name != "d");
        let (back, _) = to_properties(given(&mapped, born), mapped.own()).unwrap();
        let headers = back.headers().as_ref().unwrap().inner();
        assert_eq!(headers.get("n"), Some(&AMQPValue::LongString("many".into())));
        assert!(headers.contains_key("l") && !headers.contains_key("d"));
    }

    #[test]
    fn what_can_not_be_sent_is_told() {
        let long = "n".repeat(256);
        let huge = "x".repeat(HEADER_BYTES_MAX);
        for (name, value, part) in [
            (HEADERS, "[]", "holds no headers"),
            (HEADERS, r#"{"a":["?"]}"#, "holds no headers"),
            (HEADERS, r#"{"a":["QQ=="]}"#, "ends early"),
            (PROPERTIES, "1", "holds no texts"),
            (PRIORITY, "256", "0 to 255"),
            (TIMESTAMP, "now", "seconds"),
            ("amqp.expiration", "soon", "milliseconds"),
            ("amqp.type", long.as_str(), "at most 255"),
            (long.as_str(), "x", "at most 255"),
            ("a", huge.as_str(), "exceed the limit"),
        ] {
            let told = to_properties(Given::default(), [(name, value)].into_iter()).unwrap_err();
            assert!(told.contains(part), "{name}: {told}");
        }
        let table =
            FieldTable::from(BTreeMap::from([(REFUSED.into(), AMQPValue::LongString("too deep".into()))]));
        let refused = to_message(QUEUE, &BasicProperties::default().with_headers(table)).unwrap_err();
        assert!(refused.contains("too deep"));
        let foreign = [(USER_ID, "other")].into_iter();
        assert_eq!(
            to_properties(Given { user: "me", ..Given::default() }, foreign).unwrap().0.user_id(),
            &None
        );
    }
}

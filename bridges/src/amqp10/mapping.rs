//! An AMQP 1.0 message as a message of ours and back, so that both round trips are exact.
//!
//! | AMQP | message |
//! |---|---|
//! | body of one data section | body |
//! | body that is a string (a text message of JMS), binary, null, or missing | body; `amqp10.body`: `string`, `binary`, `null`, `empty` |
//! | other bodies: a value, sequences, several data sections | body, encoded as AMQP; `amqp10.body`: `value`, `sequences`, `sections` |
//! | `message-id` that is a string | the unique id |
//! | `creation-time` | born timestamp; property `amqp10.creation_time` (ms) |
//! | application property with a plain name, of a type that text shows | property of that name; its type in `amqp10.types`, unless it is a string |
//! | other application properties | `amqp10.types` alone, see `bridges/src/typed.rs` |
//! | `subject`, `correlation-id` and the other properties | `amqp10.subject`, …; what is no text: `amqp10.properties`, encoded, in base64 |
//! | header: durable, priority, ttl | `amqp10.durable`, `amqp10.priority`, `amqp10.ttl`; how often it was delivered before: `amqp10.delivery_count` |
//! | message annotations | `amqp10.annotations`, encoded, in base64 |
//! | node | `amqp10.origin` |
//! | application properties `rocketmq.KEYS`, `rocketmq.TAGS` | keys, tag |
//! | application property `rocketmq.origin`: `topic/queue/offset` | the message that it was made of |
//!
//! Delivery annotations and footers are for one hop, and end here. A message that comes from elsewhere is durable.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fe2o3_amqp::types::messaging::{
    AmqpSequence, AmqpValue, Annotations, ApplicationProperties, Batch, Body, Data, Header as Transport,
    Message, MessageAnnotations, MessageId, Priority, Properties,
};
use fe2o3_amqp::types::primitives::{Binary, LazyValue, OrderedMap, SimpleValue, Symbol, Timestamp};
use serde_amqp::{from_slice, to_vec};

use super::walk::check_all;
use crate::message::{Mapped, is_reserved, plain};
use crate::typed::{Back, Header, Layout, headers};

/// Property: the node that a message came from.
pub const ORIGIN: &str = "amqp10.origin";
/// Property: types of application properties, and those that no property shows.
pub const TYPES: &str = "amqp10.types";
const PROPERTIES: &str = "amqp10.properties";
const ANNOTATIONS: &str = "amqp10.annotations";
const BODY: &str = "amqp10.body";
const DURABLE: &str = "amqp10.durable";
const PRIORITY: &str = "amqp10.priority";
const TTL: &str = "amqp10.ttl";
const DELIVERY_COUNT: &str = "amqp10.delivery_count";
const CREATION_TIME: &str = "amqp10.creation_time";
const EXPIRY_TIME: &str = "amqp10.absolute_expiry_time";
const GROUP_SEQUENCE: &str = "amqp10.group_sequence";

/// Application property: the keys.
pub const ROCKETMQ_KEYS: &str = "rocketmq.KEYS";
/// Application property: the tag.
pub const ROCKETMQ_TAGS: &str = "rocketmq.TAGS";
/// Application property: where a message came from, as `topic/queue/offset`.
pub const ROCKETMQ_ORIGIN: &str = "rocketmq.origin";

const STRING: &str = "string";

/// A text among the properties: its name here, how it is read, and how it is set.
type Text = (&'static str, fn(&Properties) -> Option<&str>, fn(&mut Properties, Option<&str>));

const TEXTS: [Text; 9] = [
    ("amqp10.to", |p| p.to.as_deref(), |p, text| p.to = text.map(str::to_owned)),
    ("amqp10.subject", |p| p.subject.as_deref(), |p, text| p.subject = text.map(str::to_owned)),
    ("amqp10.reply_to", |p| p.reply_to.as_deref(), |p, text| p.reply_to = text.map(str::to_owned)),
    (
        "amqp10.correlation_id",
        |p| string_id(&p.correlation_id),
        |p, text| p.correlation_id = text.map(|text| MessageId::String(text.to_owned())),
    ),
    (
        "amqp10.content_type",
        |p| p.content_type.as_ref().map(Symbol::as_str),
        |p, text| p.content_type = text.map(Symbol::from),
    ),
    (
        "amqp10.content_encoding",
        |p| p.content_encoding.as_ref().map(Symbol::as_str),
        |p, text| p.content_encoding = text.map(Symbol::from),
    ),
    ("amqp10.group_id", |p| p.group_id.as_deref(), |p, text| p.group_id = text.map(str::to_owned)),
    (
        "amqp10.reply_to_group_id",
        |p| p.reply_to_group_id.as_deref(),
        |p, text| p.reply_to_group_id = text.map(str::to_owned),
    ),
    (
        "amqp10.user_id",
        |p| p.user_id.as_ref().and_then(|id| str::from_utf8(id).ok()),
        |p, text| p.user_id = text.map(|text| Binary::from(text.as_bytes())),
    ),
];

fn string_id(id: &Option<MessageId>) -> Option<&str> {
    match id {
        Some(MessageId::String(text)) => Some(text),
        _ => None,
    }
}

fn is_own(name: &str) -> bool {
    let others = [
        ORIGIN,
        TYPES,
        PROPERTIES,
        ANNOTATIONS,
        BODY,
        DURABLE,
        PRIORITY,
        TTL,
        DELIVERY_COUNT,
        CREATION_TIME,
        EXPIRY_TIME,
        GROUP_SEQUENCE,
    ];
    others.contains(&name) || TEXTS.iter().any(|(text, ..)| *text == name)
}

/// Whether an application property of this name can be a property, and the other way round.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b > 2)
        && !is_reserved(name)
        && !is_own(name)
        && !matches!(name, ROCKETMQ_KEYS | ROCKETMQ_TAGS)
}

/// What a message becomes, its born timestamp in ms, and its body.
pub fn to_message(
    node: &str,
    message: Message<Body<LazyValue>>,
) -> Result<(Mapped<'static>, Option<i64>, Vec<u8>), String> {
    let mut mapped = Mapped::default();
    let mut layout = Layout::default();
    let table = message.application_properties;
    let is_empty_table = table.as_ref().is_some_and(|table| table.is_empty());
    for (name, value) in table.iter().flat_map(|table| table.iter()) {
        let place = match name.as_str() {
            ROCKETMQ_KEYS => Some(&mut mapped.keys),
            ROCKETMQ_TAGS => Some(&mut mapped.tags),
            _ => None,
        };
        if let (Some(place), SimpleValue::String(text)) = (place, value)
            && plain(text.as_bytes()).is_some()
        {
            *place = Some(text.clone().into());
            continue;
        }
        let (kind, text) = text_of(value);
        let encoded = to_vec(value).map_err(|e| format!("application property `{name}`: {e}"))?;
        layout.put(&mut mapped, Header { name, kind, text }, STRING, is_name, || encoded);
    }
    layout.finish(&mut mapped, TYPES, is_empty_table);
    let born =
        message.properties.as_ref().and_then(|p| p.creation_time.as_ref()).map(Timestamp::milliseconds);
    if let Some(mut odd) = message.properties {
        if let Some(id) = string_id(&odd.message_id).and_then(|id| plain(id.as_bytes())) {
            mapped.message_id = Some(id.to_owned().into());
            odd.message_id = None;
        }
        for (name, read, set) in TEXTS {
            if let Some(text) = read(&odd).and_then(|text| plain(text.as_bytes())).map(str::to_owned) {
                mapped.set(name, text);
                set(&mut odd, None);
            }
        }
        let times =
            [(CREATION_TIME, odd.creation_time.take()), (EXPIRY_TIME, odd.absolute_expiry_time.take())];
        for (name, time) in times {
            if let Some(time) = time {
                mapped.set(name, time.milliseconds().to_string());
            }
        }
        if let Some(number) = odd.group_sequence.take() {
            mapped.set(GROUP_SEQUENCE, number.to_string());
        }
        if odd != Properties::default() {
            let encoded = to_vec(&odd).map_err(|e| format!("the properties: {e}"))?;
            mapped.set(PROPERTIES, STANDARD.encode(encoded));
        }
    }
    if let Some(header) = message.header {
        mapped.set(DURABLE, header.durable.to_string());
        mapped.set(PRIORITY, header.priority.0.to_string());
        if let Some(ttl) = header.ttl {
            mapped.set(TTL, ttl.to_string());
        }
        if header.delivery_count > 0 {
            mapped.set(DELIVERY_COUNT, header.delivery_count.to_string());
        }
    }
    if let Some(MessageAnnotations(annotations)) = message.message_annotations {
        let encoded = to_vec(&annotations).map_err(|e| format!("the annotations: {e}"))?;
        mapped.set(ANNOTATIONS, STANDARD.encode(encoded));
    }
    let (kind, body) = body_of(message.body)?;
    if let Some(kind) = kind {
        mapped.set(BODY, kind.to_owned());
    }
    mapped.set(ORIGIN, node.to_owned());
    Ok((mapped, born, body))
}

/// What of a message makes an AMQP message beside its properties.
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
    /// The body.
    pub body: &'a [u8],
}

/// The AMQP message that a message becomes, or why it can not.
pub fn to_amqp<'a>(
    given: Given<'a>,
    own: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Message<Body<LazyValue>>, String> {
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
    let mut table = OrderedMap::new();
    for (name, back) in headers(says.get(TYPES).copied(), TYPES, named.into_iter())? {
        let value = match back {
            Back::Text(text, kind) => kind
                .and_then(|kind| value_of(&kind, text))
                .unwrap_or_else(|| SimpleValue::String(text.to_owned())),
            Back::Encoded(bytes) => read(&bytes, "property `amqp10.types`")?,
        };
        table.insert(name, value);
    }
    let natives = [
        (ROCKETMQ_ORIGIN, Some(given.origin).filter(|_| is_native && !has_origin)),
        (ROCKETMQ_KEYS, given.keys),
        (ROCKETMQ_TAGS, given.tags),
    ];
    for (name, text) in natives {
        if let Some(text) = text {
            table.insert(name.to_owned(), SimpleValue::String(text.to_owned()));
        }
    }
    let application_properties =
        (!table.is_empty() || says.contains_key(TYPES)).then_some(ApplicationProperties(table));
    let mut properties = match says.get(PROPERTIES) {
        Some(text) => encoded(text, PROPERTIES)?,
        None => Properties::default(),
    };
    if let Some(id) = given.message_id {
        properties.message_id = Some(MessageId::String(id.to_owned()));
    }
    for (name, _, set) in TEXTS {
        if let Some(text) = says.get(name) {
            set(&mut properties, Some(text));
        }
    }
    let number = |name: &'static str| {
        let parsed = says.get(name).map(|text| text.parse::<i64>());
        parsed.transpose().map_err(|_| format!("property `{name}` is no number"))
    };
    let small = |name: &'static str| {
        let parsed = number(name)?.map(u32::try_from);
        parsed.transpose().map_err(|_| format!("property `{name}` is no number from 0 to {}", u32::MAX))
    };
    let created = number(CREATION_TIME)?.or(given.born.filter(|_| is_native));
    properties.creation_time = created.map(Timestamp::from_milliseconds);
    properties.absolute_expiry_time = number(EXPIRY_TIME)?.map(Timestamp::from_milliseconds);
    properties.group_sequence = small(GROUP_SEQUENCE)?;
    let mut header = is_native.then(|| Transport { durable: true, ..Transport::default() });
    if let Some(durable) = says.get(DURABLE) {
        header.get_or_insert_default().durable = *durable == "true";
    }
    if let Some(priority) = small(PRIORITY)? {
        let priority = u8::try_from(priority).map_err(|_| format!("property `{PRIORITY}` is over 255"))?;
        header.get_or_insert_default().priority = Priority(priority);
    }
    if let Some(ttl) = small(TTL)? {
        header.get_or_insert_default().ttl = Some(ttl);
    }
    let message_annotations = match says.get(ANNOTATIONS) {
        Some(text) => Some(MessageAnnotations(encoded::<Annotations>(text, ANNOTATIONS)?)),
        None => None,
    };
    Ok(Message {
        header,
        delivery_annotations: None,
        message_annotations,
        properties: (properties != Properties::default()).then_some(properties),
        application_properties,
        body: to_body(says.get(BODY).copied(), given.body)?,
        footer: None,
    })
}

/// The value that a property holds in base64.
fn encoded<T: for<'de> serde::Deserialize<'de>>(text: &str, property: &str) -> Result<T, String> {
    let what = format!("property `{property}`");
    let bytes = STANDARD.decode(text).map_err(|_| format!("{what} holds no base64"))?;
    read(&bytes, &what)
}

/// Reads a value that a property or a body holds, which a step may have changed.
fn read<T: for<'de> serde::Deserialize<'de>>(bytes: &[u8], what: &str) -> Result<T, String> {
    let told = |why: String| format!("{what} holds no AMQP: {why}");
    check_all(bytes).map_err(told)?;
    from_slice(bytes).map_err(|error| told(error.to_string()))
}

/// How a body is called, unless it is one data section, and its bytes.
fn body_of(body: Body<LazyValue>) -> Result<(Option<&'static str>, Vec<u8>), String> {
    let told = |e: serde_amqp::Error| format!("the body: {e}");
    Ok(match body {
        Body::Empty => (Some("empty"), Vec::new()),
        Body::Data(sections) => {
            let mut sections: Vec<Binary> = sections.into_iter().map(|Data(bytes)| bytes).collect();
            match (sections.pop(), sections.is_empty()) {
                (Some(only), true) => (None, only.into_vec()),
                (last, _) => {
                    sections.extend(last);
                    (Some("sections"), to_vec(&sections).map_err(told)?)
                }
            }
        }
        Body::Value(AmqpValue(value)) => {
            let bytes = value.as_slice();
            match bytes.first() {
                Some(0x40) => (Some("null"), Vec::new()),
                Some(0xA1 | 0xB1) => {
                    (Some("string"), from_slice::<String>(bytes).map_err(told)?.into_bytes())
                }
                Some(0xA0 | 0xB0) => (Some("binary"), from_slice::<Binary>(bytes).map_err(told)?.into_vec()),
                _ => (Some("value"), bytes.to_vec()),
            }
        }
        Body::Sequence(sequences) => {
            let sequences: Vec<Vec<LazyValue>> = sequences.into_iter().map(|AmqpSequence(all)| all).collect();
            (Some("sequences"), to_vec(&sequences).map_err(told)?)
        }
    })
}

fn to_body(kind: Option<&str>, bytes: &[u8]) -> Result<Body<LazyValue>, String> {
    const WHAT: &str = "the body";
    let value = |encoded: Vec<u8>| Ok(Body::Value(AmqpValue(read::<LazyValue>(&encoded, WHAT)?)));
    let told = |e: serde_amqp::Error| format!("{WHAT}: {e}");
    match kind {
        Some("empty") if bytes.is_empty() => Ok(Body::Empty),
        Some("null") if bytes.is_empty() => value(vec![0x40]),
        Some("string") if let Ok(text) = str::from_utf8(bytes) => value(to_vec(&text).map_err(told)?),
        Some("binary") => value(to_vec(&Binary::from(bytes)).map_err(told)?),
        Some("value") => value(bytes.to_vec()),
        Some("sections") => {
            let all: Vec<Binary> = read(bytes, WHAT)?;
            Ok(Body::Data(Batch::new(all.into_iter().map(Data).collect::<Vec<_>>())))
        }
        Some("sequences") => {
            let all: Vec<Vec<LazyValue>> = read(bytes, WHAT)?;
            Ok(Body::Sequence(Batch::new(all.into_iter().map(AmqpSequence).collect::<Vec<_>>())))
        }
        // A step may have made another one.
        _ => Ok(Body::Data(Batch::new(vec![Data(Binary::from(bytes))]))),
    }
}

/// The name of a value's type, and its text if text shows it.
fn text_of(value: &SimpleValue) -> (&'static str, Option<String>) {
    match value {
        SimpleValue::Bool(it) => ("bool", Some(it.to_string())),
        SimpleValue::Ubyte(it) => ("ubyte", Some(it.to_string())),
        SimpleValue::Ushort(it) => ("ushort", Some(it.to_string())),
        SimpleValue::Uint(it) => ("uint", Some(it.to_string())),
        SimpleValue::Ulong(it) => ("ulong", Some(it.to_string())),
        SimpleValue::Byte(it) => ("byte", Some(it.to_string())),
        SimpleValue::Short(it) => ("short", Some(it.to_string())),
        SimpleValue::Int(it) => ("int", Some(it.to_string())),
        SimpleValue::Long(it) => ("long", Some(it.to_string())),
        // One that is no number has bits that its text does not show.
        SimpleValue::Float(it) => ("float", Some(it.to_string()).filter(|_| !it.is_nan())),
        SimpleValue::Double(it) => ("double", Some(it.to_string()).filter(|_| !it.is_nan())),
        SimpleValue::Char(it) => ("char", Some(it.to_string())),
        SimpleValue::Timestamp(it) => ("timestamp", Some(it.milliseconds().to_string())),
        SimpleValue::Symbol(it) => ("symbol", Some(it.as_str().to_owned())),
        SimpleValue::String(it) => (STRING, Some(it.clone())),
        _ => ("encoded", None),
    }
}

/// The value of a type's name and a text; `None` if the text is no such value.
fn value_of(kind: &str, text: &str) -> Option<SimpleValue> {
    Some(match kind {
        "bool" => SimpleValue::Bool(text.parse().ok()?),
        "ubyte" => SimpleValue::Ubyte(text.parse().ok()?),
        "ushort" => SimpleValue::Ushort(text.parse().ok()?),
        "uint" => SimpleValue::Uint(text.parse().ok()?),
        "ulong" => SimpleValue::Ulong(text.parse().ok()?),
        "byte" => SimpleValue::Byte(text.parse().ok()?),
        "short" => SimpleValue::Short(text.parse().ok()?),
        "int" => SimpleValue::Int(text.parse().ok()?),
        "long" => SimpleValue::Long(text.parse().ok()?),
        "float" => SimpleValue::Float(text.parse::<f32>().ok()?.into()),
        "double" => SimpleValue::Double(text.parse::<f64>().ok()?.into()),
        "char" => SimpleValue::Char(text.parse().ok()?),
        "timestamp" => SimpleValue::Timestamp(Timestamp::from_milliseconds(text.parse().ok()?)),
        "symbol" => SimpleValue::Symbol(Symbol::from(text)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_amqp::lazy::to_lazy_value;

    use super::*;

    fn names() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => prop::sample::select(vec!["a", "b", "kafka.origin", "amqp.origin", "rocketmq.origin"]),
            3 => prop::sample::select(vec![ROCKETMQ_KEYS, ROCKETMQ_TAGS, "", "TAGS", "DELAY", TYPES, ORIGIN, "x\u{1}y"]),
        ]
        .prop_map(str::to_owned)
    }

    fn values() -> impl Strategy<Value = SimpleValue> {
        prop_oneof![
            "[a-zä ]{0,6}".prop_map(SimpleValue::String),
            Just(SimpleValue::String("\u{2}".to_owned())),
            "[a-z]{0,4}".prop_map(|text| SimpleValue::Symbol(Symbol::from(text))),
            any::<bool>().prop_map(SimpleValue::Bool),
            any::<u8>().prop_map(SimpleValue::Ubyte),
            any::<u16>().prop_map(SimpleValue::Ushort),
            any::<u32>().prop_map(SimpleValue::Uint),
            any::<u64>().prop_map(SimpleValue::Ulong),
            any::<i8>().prop_map(SimpleValue::Byte),
            any::<i16>().prop_map(SimpleValue::Short),
            any::<i32>().prop_map(SimpleValue::Int),
            any::<i64>().prop_map(SimpleValue::Long),
            any::<u32>().prop_map(|bits| SimpleValue::Float(f32::from_bits(bits).into())),
            any::<u64>().prop_map(|bits| SimpleValue::Double(f64::from_bits(bits).into())),
            any::<char>().prop_map(SimpleValue::Char),
            any::<i64>().prop_map(|ms| SimpleValue::Timestamp(Timestamp::from_milliseconds(ms))),
            prop::collection::vec(any::<u8>(), 0..6).prop_map(|bytes| SimpleValue::Binary(bytes.into())),
            Just(SimpleValue::Null),
        ]
    }

    fn bodies() -> impl Strategy<Value = Body<LazyValue>> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..6);
        prop_oneof![
            bytes().prop_map(|bytes| Body::Data(Batch::new(vec![Data(bytes.into())]))),
            prop::collection::vec(bytes(), 2..4).prop_map(|all| {
                Body::Data(Batch::new(all.into_iter().map(|bytes| Data(bytes.into())).collect::<Vec<_>>()))
            }),
            "[a-zä]{0,5}".prop_map(|text| Body::Value(AmqpValue(to_lazy_value(&text).unwrap()))),
            bytes().prop_map(|bytes| Body::Value(AmqpValue(to_lazy_value(&Binary::from(bytes)).unwrap()))),
            any::<i32>().prop_map(|number| Body::Value(AmqpValue(to_lazy_value(&number).unwrap()))),
            Just(Body::Value(AmqpValue(to_lazy_value(&()).unwrap()))),
            prop::collection::vec(prop::collection::vec(any::<i32>(), 0..3), 1..3).prop_map(|all| {
                let lazy = |all: Vec<i32>| all.iter().map(|number| to_lazy_value(number).unwrap()).collect();
                Body::Sequence(Batch::new(all.into_iter().map(lazy).map(AmqpSequence).collect::<Vec<_>>()))
            }),
            Just(Body::Empty),
        ]
    }

    fn ids() -> impl Strategy<Value = Option<MessageId>> {
        prop::option::of(prop_oneof![
            "[a-z]{0,4}".prop_map(MessageId::String),
            any::<u64>().prop_map(MessageId::Ulong),
            prop::collection::vec(any::<u8>(), 0..4).prop_map(|bytes| MessageId::Binary(bytes.into())),
        ])
    }

    fn properties() -> impl Strategy<Value = Properties> {
        let texts = prop::collection::vec(
            prop::option::of(prop_oneof!["[a-z/]{0,5}", Just("\u{2}".to_owned())]),
            TEXTS.len(),
        );
        let numbers =
            (prop::option::of(any::<i64>()), prop::option::of(any::<i64>()), prop::option::of(any::<u32>()));
        (texts, ids(), ids(), numbers).prop_map(|(texts, id, correlation, (created, expires, sequence))| {
            let mut properties = Properties::default();
            for ((_, _, set), text) in TEXTS.into_iter().zip(&texts) {
                set(&mut properties, text.as_deref());
            }
            properties.message_id = id;
            properties.correlation_id = correlation;
            properties.creation_time = created.map(Timestamp::from_milliseconds);
            properties.absolute_expiry_time = expires.map(Timestamp::from_milliseconds);
            properties.group_sequence = sequence;
            properties
        })
    }

    fn messages() -> impl Strategy<Value = Message<Body<LazyValue>>> {
        let table = prop::option::of(prop::collection::btree_map(names(), values(), 0..5));
        let header = prop::option::of((any::<bool>(), any::<u8>(), prop::option::of(any::<u32>())));
        let annotation = prop::option::of(any::<i8>());
        (table, header, properties(), annotation, bodies()).prop_map(
            |(table, header, properties, annotation, body)| {
                let message_annotations = annotation.map(|number| {
                    let mut annotations = Annotations::new();
                    annotations.insert(
                        "x-opt-jms-msg-type".into(),
                        fe2o3_amqp::types::primitives::Value::Byte(number),
                    );
                    MessageAnnotations(annotations)
                });
                Message {
                    header: header.map(|(durable, priority, ttl)| Transport {
                        durable,
                        priority: Priority(priority),
                        ttl,
                        ..Transport::default()
                    }),
                    delivery_annotations: None,
                    message_annotations,
                    properties: (properties != Properties::default()).then_some(properties),
                    application_properties: table.map(|table| {
                        let mut map = OrderedMap::new();
                        for (name, value) in table {
                            map.insert(name, value);
                        }
                        ApplicationProperties(map)
                    }),
                    body,
                    footer: None,
                }
            },
        )
    }

    /// The order of a map means nothing to users, and a value that is no number is not equal to itself.
    fn shown(message: &Message<Body<LazyValue>>) -> (String, Option<BTreeMap<String, Vec<u8>>>) {
        let mut rest = message.clone();
        let table = rest.application_properties.take();
        let table = table.map(|table| table.iter().map(|(n, v)| (n.clone(), to_vec(v).unwrap())).collect());
        (format!("{rest:?}"), table)
    }

    fn given<'a>(mapped: &'a Mapped, born: Option<i64>, body: &'a [u8]) -> Given<'a> {
        Given {
            keys: mapped.keys.as_deref(),
            tags: mapped.tags.as_deref(),
            message_id: mapped.message_id.as_deref(),
            born,
            origin: "t/0/7",
            body,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn an_amqp_message_comes_back_as_it_was(message in messages()) {
            let (mapped, born, body) = to_message("q", message.clone()).unwrap();
            let back = to_amqp(given(&mapped, born, &body), mapped.own()).unwrap();
            prop_assert_eq!(shown(&back), shown(&message));
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
            born in prop::option::of(0..4_000_000_000_000_i64),
            body in prop::collection::vec(any::<u8>(), 0..6),
        ) {
            let properties: Vec<_> = properties.into_iter().filter(|(name, _)| is_name(name)).collect();
            let message = Mapped::of([keys, tags, message_id], properties);
            let sent = to_amqp(given(&message, born, &body), message.own()).unwrap();
            prop_assert!(sent.header.as_ref().unwrap().durable);
            let (mut again, born_again, body_again) = to_message("q", sent).unwrap();
            prop_assert_eq!((born_again, body_again), (born, body));
            prop_assert_eq!(again.property(ROCKETMQ_ORIGIN), Some("t/0/7"));
            again.properties.retain(|(name, _)| !name.starts_with("amqp10.") && !name.starts_with("rocketmq."));
            prop_assert_eq!(again, message);
        }
    }

    #[test]
    fn what_can_not_be_sent_is_told() {
        let deep = STANDARD.encode([&[0; 40][..], &[0x40; 40]].concat());
        for (name, value, part) in [
            (TYPES, "[]", "holds no headers"),
            (PROPERTIES, "?", "no base64"),
            (PROPERTIES, "AAAA", "holds no AMQP"),
            (ANNOTATIONS, deep.as_str(), "nested more than 32 deep"),
            (BODY, "value", "the body holds no AMQP"),
            (PRIORITY, "256", "over 255"),
            (CREATION_TIME, "now", "no number"),
        ] {
            let told = to_amqp(Given::default(), [(name, value)].into_iter()).unwrap_err();
            assert!(told.contains(part), "{name}: {told}");
        }
    }
}

//! Kafka: the settings of a connection, and which of librdkafka's own a pipeline may set.
//!
//! Every property of librdkafka can be given under `properties`, but those that a guarantee hangs on: they are
//! refused with the reason.

#[cfg(feature = "kafka")]
pub mod client;
#[cfg(feature = "kafka")]
pub mod commits;
#[cfg(feature = "kafka")]
pub mod flush;
pub mod mapping;
#[cfg(feature = "kafka")]
pub mod records;
#[cfg(feature = "kafka")]
pub mod topic;

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

/// What a program says that has no Kafka in it.
pub const WITHOUT: &str = "this program was built without Kafka: build it with `--features kafka`";

/// Properties of librdkafka by name; numbers and booleans may be written as such.
pub type Properties = BTreeMap<String, Property>;

/// The value of a property, as text.
#[derive(Clone, PartialEq, Eq)]
pub struct Property(pub String);

impl fmt::Debug for Property {
    /// Shows nothing: it may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl<'de> Deserialize<'de> for Property {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalar;
        impl Visitor<'_> for Scalar {
            type Value = Property;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a number, true or false")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Property, E> {
                Ok(Property(text.to_owned()))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Property, E> {
                Ok(Property(number.to_string()))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Property, E> {
                Ok(Property(number.to_string()))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Property, E> {
                Ok(Property(number.to_string()))
            }
            fn visit_bool<E: de::Error>(self, is: bool) -> Result<Property, E> {
                Ok(Property(is.to_string()))
            }
        }
        deserializer.deserialize_any(Scalar)
    }
}

/// Which half of a pipeline a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It consumes.
    Source,
    /// It produces.
    Sink,
}

/// Properties that hold a secret: the text of a pipeline's file is kept in targets, so they come from variables.
pub const SECRETS: [&str; 6] = [
    "sasl.password",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
];

/// Properties that only we set, with the reason.
const OURS: [(&str, &str); 12] = [
    ("bootstrap.servers", "write `bootstrap` beside `properties`"),
    ("metadata.broker.list", "write `bootstrap` beside `properties`"),
    ("plugin.library.paths", "it would load code into this process"),
    ("test.mock.num.brokers", "it would put a mock in the place of the brokers"),
    ("allow.auto.create.topics", "a topic with a wrong name would be made instead of told"),
    ("enable.sasl.oauthbearer.unsecure.jwt", "tokens that nobody signed prove nothing"),
    ("sasl.oauthbearer.method", "this client fetches no tokens; use SCRAM, PLAIN or TLS certificates"),
    ("opaque", "it is for programs"),
    ("log.queue", "logs go where Sluice's go: SLUICE_LOG=librdkafka=debug"),
    ("statistics.interval.ms", "nothing reads them"),
    ("background_event_cb", "it is for programs"),
    ("default_topic_conf", "it is for programs"),
];

/// The same for sources.
const OURS_SOURCE: [(&str, &str); 13] = [
    ("group.id", "write `group` beside `properties`"),
    ("group.instance.id", "partitions are assigned by Sluice"),
    ("group.protocol", "partitions are assigned by Sluice"),
    ("partition.assignment.strategy", "partitions are assigned by Sluice"),
    (
        "auto.offset.reset",
        "it would pass over rows that are gone without a word; write `start` for where to begin",
    ),
    ("topic.auto.offset.reset", "it would pass over rows that are gone without a word"),
    ("isolation.level", "rows of aborted transactions would come: sources read what is committed"),
    ("enable.auto.commit", "offsets follow what the target has, not what was read"),
    ("auto.commit.enable", "offsets follow what the target has, not what was read"),
    ("auto.commit.interval.ms", "offsets follow what the target has, not what was read"),
    ("enable.auto.offset.store", "offsets follow what the target has, not what was read"),
    ("offset.store.method", "offsets follow what the target has, not what was read"),
    ("enable.partition.eof", "the end of a partition is how a pipeline knows that it has caught up"),
];

/// The same for sinks.
const OURS_SINK: [(&str, &str); 4] = [
    (
        "transactional.id",
        "it names the pipeline, the topic and the queue, so that a worker that hangs is shut out",
    ),
    ("enable.gapless.guarantee", "one record that can not be stored would end the producer"),
    ("delivery.report.only.error", "every row is accounted for"),
    ("queuing.strategy", "rows with equal keys would lose their order"),
];

/// What is wrong with a connection's settings, as far as it shows without connecting: the key below `kafka` with
/// what is wrong.
pub fn problems(side: Side, bootstrap: &str, properties: &Properties) -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    if !cfg!(feature = "kafka") {
        return vec![(Vec::new(), WITHOUT.to_owned())];
    }
    for address in bootstrap.split(',') {
        if let Some(problem) = address_problem(address.trim()) {
            found.push((vec!["bootstrap".to_owned()], problem));
        }
    }
    let at = |key: &str| vec!["properties".to_owned(), key.to_owned()];
    for (key, Property(value)) in properties {
        let own = if side == Side::Source { &OURS_SOURCE[..] } else { &OURS_SINK };
        let reason = OURS.iter().chain(own).find(|(name, _)| name == key).map(|(_, reason)| *reason);
        if let Some(reason) = reason.or_else(|| weakened(side, key, value)) {
            found.push((at(key), format!("`{key}` can not be set: {reason}")));
        } else if let Some(reason) = missing(key, value) {
            found.push((at(key), reason));
        }
    }
    #[cfg(feature = "kafka")]
    if found.is_empty()
        && let Some((key, message)) = client::property_problem(side, properties)
    {
        let key = key.map_or_else(|| vec!["properties".to_owned()], |key| at(&key));
        found.push((key, message));
    }
    found
}

/// Why a value would give up what the sink promises.
fn weakened(side: Side, key: &str, value: &str) -> Option<&'static str> {
    if side == Side::Source {
        return None;
    }
    match key {
        "acks" | "request.required.acks" if !matches!(value, "all" | "-1") => {
            Some("a record that one broker alone has can be lost; `all` is what is used")
        }
        "enable.idempotence" if value != "true" => {
            Some("a record that is sent again after a lost answer would be stored twice")
        }
        "retries" | "message.send.max.retries" if value == "0" => {
            Some("each lost connection would end the transaction")
        }
        _ => None,
    }
}

/// What this program was built without.
fn missing(key: &str, value: &str) -> Option<String> {
    let value = value.to_ascii_lowercase();
    let told = |what: &str| {
        Some(format!("this program was built without {what} for Kafka: build it with `--features kafka-tls`"))
    };
    match key {
        "security.protocol" if value.ends_with("ssl") && !cfg!(feature = "kafka-tls") => told("TLS"),
        "sasl.mechanism" | "sasl.mechanisms" => match value.as_str() {
            _ if value.starts_with("scram") && !cfg!(feature = "kafka-tls") => told("SASL/SCRAM"),
            "gssapi" | "oauthbearer" => {
                Some(format!("this client speaks PLAIN and SCRAM, not {}", value.to_ascii_uppercase()))
            }
            _ => None,
        },
        _ => None,
    }
}

fn address_problem(address: &str) -> Option<String> {
    let told = || Some(format!("`{address}` is no address: expected HOST:PORT, and commas between several"));
    // librdkafka also takes `PROTOCOL://HOST:PORT`; the protocol has its own property.
    if address.is_empty() || address.contains("://") || address.contains(char::is_whitespace) {
        return told();
    }
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => None,
        _ => told(),
    }
}

/// Where the key of a record stands in a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(with = "String")]
#[serde(try_from = "String")]
pub enum KeyPlace {
    /// In `KEYS`, the business keys.
    #[default]
    Keys,
    /// In a property of this name.
    Property(String),
}

impl TryFrom<String> for KeyPlace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.strip_prefix('$') {
            Some("keys") => Ok(Self::Keys),
            Some(_) => Err(format!("`{text}` can hold no key: write `$keys`, or the name of a property")),
            None if mapping::is_property_name(&text) => Ok(Self::Property(text)),
            None => Err(format!("`{text}` is no name for a property: write `$keys` or another name")),
        }
    }
}

/// What is wrong with the name of a Kafka topic.
pub fn topic_problem(name: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let fits = (1..=249).contains(&name.len()) && name.chars().all(plain) && !matches!(name, "." | "..");
    (!fits).then(|| format!("`{name}` is no topic: expected 1 to 249 of letters, digits, `.`, `_` and `-`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(side: Side, key: &str, value: &str, part: &str) {
        let properties = BTreeMap::from([(key.to_owned(), Property(value.to_owned()))]);
        let found = problems(side, "a:9092, b:9092", &properties);
        match part {
            "" => assert_eq!(found, []),
            _ => {
                assert_eq!(found.len(), 1, "{key}: {found:?}");
                assert_eq!(found[0].0, ["properties", key]);
                assert!(found[0].1.contains(part), "{found:?}");
            }
        }
    }

    #[test]
    #[cfg(feature = "kafka")]
    fn what_a_guarantee_hangs_on_is_refused_with_the_reason() {
        use Side::{Sink, Source};
        check(Sink, "acks", "1", "can be lost");
        check(Sink, "acks", "all", "");
        check(Sink, "enable.idempotence", "false", "stored twice");
        check(Sink, "transactional.id", "mine", "shut out");
        check(Source, "isolation.level", "read_uncommitted", "aborted");
        check(Source, "group.id", "g", "write `group`");
        check(Source, "auto.offset.reset", "latest", "`start`");
        check(Source, "fetch.min.bytes", "100000", "");
        check(Sink, "linger.ms", "20", "");
        check(Sink, "linger.mss", "20", "did you mean `linger.ms`?");
        check(Sink, "linger.ms", "soon", "Invalid value");
        check(Sink, "sasl.mechanism", "GSSAPI", "PLAIN and SCRAM");
        if !cfg!(feature = "kafka-tls") {
            check(Sink, "security.protocol", "sasl_ssl", "kafka-tls");
        }
    }

    #[test]
    #[cfg(feature = "kafka")]
    fn a_level_of_one_codec_is_none_of_another() {
        let level = |given: &[(&str, &str)]| {
            let given = given.iter().map(|(key, value)| ((*key).to_owned(), Property((*value).to_owned())));
            client::config(Side::Sink, "b:9092", &given.collect()).get("compression.level").map(str::to_owned)
        };
        assert_eq!(level(&[]).as_deref(), Some("1"));
        assert_eq!(level(&[("compression.type", "snappy")]), None);
        assert_eq!(level(&[("compression.codec", "lz4")]), None);
        assert_eq!(level(&[("compression.level", "7"), ("compression.type", "gzip")]).as_deref(), Some("7"));
    }

    #[test]
    fn addresses_and_topics_are_checked() {
        for address in ["", "host", "host:", ":9092", "host:0", "host:99999", "SSL://h:1", "a b:1"] {
            assert!(address_problem(address).is_some(), "{address}");
        }
        for address in ["host:9092", "[::1]:9092"] {
            assert_eq!(address_problem(address), None);
        }
        assert_eq!(topic_problem("a.b_c-1"), None);
        for topic in ["", "..", "a/b", &"a".repeat(250)] {
            assert!(topic_problem(topic).is_some(), "{topic}");
        }
    }

    #[test]
    fn a_key_stands_in_keys_or_in_a_property() {
        assert_eq!(KeyPlace::try_from("$keys".to_owned()), Ok(KeyPlace::Keys));
        assert_eq!(KeyPlace::try_from("id".to_owned()), Ok(KeyPlace::Property("id".to_owned())));
        for text in ["$body", "KEYS", "", "kafka.origin"] {
            assert!(KeyPlace::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}

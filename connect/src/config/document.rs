//! The settings of a pipeline as a person writes them. Checks each value by itself; what lies between
//! them is [`super::check`]'s.

use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::de::{self, Deserializer, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use sluice_filters::{Dialect, Filter};

use super::Decode;
use super::step::Step;

/// One pipeline: a source, any steps, one sink.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document<Source, Sink> {
    /// Names the pipeline, its positions and its files.
    pub name: PipelineName,
    /// Where rows come from.
    pub source: Source,
    /// Rows for which this is not TRUE are left out.
    #[serde(default, rename = "where")]
    pub filter: Option<Expression>,
    /// How the body becomes columns.
    #[serde(default)]
    pub decode: Option<Decode>,
    /// What happens to rows after decoding, in order.
    #[serde(default)]
    #[schemars(with = "Vec<serde_json::Value>")]
    pub steps: Vec<Step>,
    /// Where rows go.
    pub sink: Sink,
    /// What the target promises.
    #[serde(default)]
    pub delivery: Delivery,
    /// What happens when something does not fit or fails.
    #[serde(default)]
    pub errors: Errors,
    /// Limits of memory.
    #[serde(default)]
    pub limits: Limits,
    /// Examples of the pipeline's own: given messages, expected rows.
    #[serde(default)]
    #[schemars(with = "Vec<serde_json::Value>")]
    pub tests: Vec<TestCase>,
}

impl<Source, Sink> Document<Source, Sink> {
    /// Whether rows have columns of their own beside the envelope: a file then holds those.
    pub fn makes_columns(&self) -> bool {
        self.decode.is_some() || self.makes_bodies()
    }

    /// Whether a step changes the columns: messages then get bodies made of them, in JSON.
    pub fn makes_bodies(&self) -> bool {
        self.steps.iter().any(Step::changes_columns)
    }

    /// Whether a step says which topic or partition each row goes to.
    pub fn routes(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Route(_)))
    }
}

/// `[a-z0-9]`, then up to 62 more of `[a-z0-9_-]`: it names folders and chains.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, JsonSchema)]
#[schemars(with = "String")]
#[serde(try_from = "String")]
pub struct PipelineName(String);

impl PipelineName {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PipelineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for PipelineName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let fits = (1..=63).contains(&name.len())
            && name.starts_with(plain)
            && name.chars().all(|c| plain(c) || c == '-' || c == '_');
        if fits {
            Ok(Self(name))
        } else {
            Err(format!(
                "{name:?} is no pipeline name: 1 to 63 of a-z, 0-9, - and _, a letter or digit first"
            ))
        }
    }
}

/// A filter expression, compiled.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(with = "String")]
#[serde(try_from = "String")]
pub struct Expression(pub Filter);

impl TryFrom<String> for Expression {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Filter::parse(&text, Dialect::Sluice)
            .map(Self)
            .map_err(|error| format!("{error}\n    {}", error.pointer().replace('\n', "\n    ")))
    }
}

/// What a target promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Each source offset ends in the target once, whatever crashes.
    #[default]
    ExactlyOnce,
    /// A crash may repeat rows.
    AtLeastOnce,
}

/// What happens to what does not fit, and how long what fails is tried again.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Errors {
    /// Where a record goes that does not fit.
    #[serde(default)]
    pub then: Then,
    /// The topic of `then: dead_letter`.
    #[serde(default)]
    pub dead_letter: Option<String>,
    /// How long a pipeline goes on trying when a disk is full or a connection lost.
    #[serde(default = "Errors::retry_default")]
    pub retry: Span,
    /// When so many rows do not fit that the pipeline ends, blocked; never if not said.
    #[serde(default)]
    pub stop_after: Option<StopAfter>,
}

impl Errors {
    fn retry_default() -> Span {
        Span(Duration::from_mins(10))
    }
}

impl Default for Errors {
    fn default() -> Self {
        Self { then: Then::default(), dead_letter: None, retry: Self::retry_default(), stop_after: None }
    }
}

/// The share of rows that may not fit.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopAfter {
    /// The most, from 0 to below 1.
    pub ratio: f64,
    /// Of how many rows in a row, at least 1; 1,000 if not said.
    #[serde(default = "StopAfter::of_default")]
    pub of: u64,
}

impl StopAfter {
    fn of_default() -> u64 {
        1000
    }
}

/// Where a record goes that does not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// The pipeline ends with an error; nothing is passed over.
    #[default]
    Stop,
    /// Left out and counted.
    Skip,
    /// Into the dead-letter topic, with the reason in its properties.
    DeadLetter,
}

/// A length of time, written with its unit: `5m`, `1h 30m`, `200ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(with = "String")]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

/// Written as [`Span::try_from`] reads it.
impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        humantime::parse_duration(&text)
            .map(Self)
            .map_err(|error| format!("{text:?} is no length of time such as 5m or 200ms: {error}"))
    }
}

/// A number of bytes, written with its unit or as a plain number.
pub fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    struct Size;
    impl Visitor<'_> for Size {
        type Value = ByteSize;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a size such as 128MiB")
        }
        fn visit_u64<E>(self, bytes: u64) -> Result<ByteSize, E> {
            Ok(ByteSize::b(bytes))
        }
        fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
            let refused = |_| E::invalid_value(Unexpected::Signed(bytes), &self);
            u64::try_from(bytes).map(ByteSize::b).map_err(refused)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
            text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
        }
    }
    deserializer.deserialize_any(Size)
}

/// Limits of memory.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Rows on their way from the source to the sink, in bytes.
    #[serde(default = "Limits::in_flight_default", deserialize_with = "size")]
    #[schemars(with = "String")]
    pub in_flight: ByteSize,
    /// The same, and what the sink holds of files that are not written out yet: over it row groups end early.
    #[serde(default = "Limits::memory_default", deserialize_with = "size")]
    #[schemars(with = "String")]
    pub memory: ByteSize,
}

impl Limits {
    fn in_flight_default() -> ByteSize {
        ByteSize::mib(16)
    }

    fn memory_default() -> ByteSize {
        ByteSize::mib(256)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { in_flight: Self::in_flight_default(), memory: Self::memory_default() }
    }
}

/// One example in a pipeline's file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestCase {
    /// What it shows, for a person.
    #[serde(default)]
    pub name: Option<String>,
    /// Messages as they stand in the source.
    pub given: Vec<GivenMessage>,
    /// Rows that come out, in order; columns that are not named are not compared, `$name` is an envelope column.
    pub expect: Vec<serde_json::Map<String, serde_json::Value>>,
    /// Records that do not fit, in order: a part of what is said of each.
    #[serde(default)]
    pub expect_rejects: Vec<String>,
}

/// A message of a [`TestCase`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenMessage {
    /// Its properties.
    #[serde(default)]
    pub properties: std::collections::BTreeMap<String, String>,
    /// Its body.
    #[serde(default)]
    pub body: Option<String>,
    /// Its keys, separated by blanks.
    #[serde(default)]
    pub keys: Option<String>,
    /// Its tag.
    #[serde(default)]
    pub tags: Option<String>,
    /// When it was stored, as in `2013-01-31T12:00:00Z`.
    #[serde(default)]
    pub store_timestamp: Option<String>,
}

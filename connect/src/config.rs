//! A pipeline file: strict YAML documents, one a pipeline, read into typed settings.
//!
//! Knows no source and no sink: [`Document`] is generic over their settings, and the caller fills both
//! in. Opens nothing.

pub mod strict;
pub mod tree;
pub mod vars;

use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use serde::de::{self, DeserializeOwned, Deserializer, MapAccess, Visitor};
use sluice_filters::{Dialect, Filter, Name};

use tree::{Node, Place};

/// One thing that is wrong in a pipeline file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// The key it is about, from the document's root: `sink.parquet.codec`.
    pub path: String,
    /// What is wrong, what was expected, and the nearest known name.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.place.line, self.place.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// The known name that a person most likely meant.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&given.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= 1 + name.chars().count().min(given.chars().count()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// One pipeline: a source, any steps, one sink.
#[derive(Clone, Debug, Deserialize)]
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
    pub tests: Vec<TestCase>,
}

/// `[a-z0-9]`, then up to 62 more of `[a-z0-9_-]`: it names folders and chains.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
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
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Expression(pub Filter);

impl TryFrom<String> for Expression {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Filter::parse(&text, Dialect::Sluice).map(Self).map_err(|error| format!("{error}\n    in: {text}"))
    }
}

/// How bodies become typed columns.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decode {
    /// How the body is written.
    pub format: Format,
    /// Which columns it has.
    #[serde(default)]
    pub schema: SchemaSettings,
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object.
    Json,
}

/// Which columns a decoded body has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchemaSettings {
    /// Where the columns come from.
    #[serde(default)]
    pub mode: SchemaMode,
    /// Under `infer`: rows to look at before the schema is fixed; 5,000 if not said.
    #[serde(default)]
    pub freeze_after_rows: Option<u64>,
    /// Under `declared`: name and type of each column, in order.
    #[serde(default)]
    pub fields: Option<Fields>,
}

/// Where a schema comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemaMode {
    /// From the first rows, fixed before the first file.
    #[default]
    Infer,
    /// From `fields`.
    Declared,
}

/// Names with types, in the order of the file.
#[derive(Clone, Debug)]
pub struct Fields(pub Vec<(String, String)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of column names to types")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, data_type)) = map.next_entry::<String, String>()? {
                    let pair = [(name, data_type)];
                    sluice_formats::json::schema_from_fields(&pair).map_err(de::Error::custom)?;
                    fields.extend(pair);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// A step after decoding.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Rows for which this is not TRUE are left out.
    Where(Expression),
}

/// What a target promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Each source offset ends in the target once, whatever crashes.
    #[default]
    ExactlyOnce,
    /// A crash may repeat rows.
    AtLeastOnce,
}

/// What happens to what does not fit, and how long what fails is tried again.
#[derive(Clone, Debug, Deserialize)]
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
}

impl Errors {
    fn retry_default() -> Span {
        Span(Duration::from_mins(10))
    }
}

impl Default for Errors {
    fn default() -> Self {
        Self { then: Then::default(), dead_letter: None, retry: Self::retry_default() }
    }
}

/// Where a record goes that does not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        humantime::parse_duration(&text)
            .map(Self)
            .map_err(|error| format!("{text:?} is no length of time such as 5m or 200ms: {error}"))
    }
}

/// Limits of memory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Rows on their way from the source to the sink, in bytes.
    #[serde(default = "Limits::in_flight_default")]
    pub in_flight: ByteSize,
}

impl Limits {
    fn in_flight_default() -> ByteSize {
        ByteSize::mib(16)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { in_flight: Self::in_flight_default() }
    }
}

/// One example in a pipeline's file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestCase {
    /// Messages as they stand in the source.
    pub given: Vec<GivenMessage>,
    /// Rows that come out; columns that are not named are not compared.
    pub expect: Vec<serde_json::Map<String, serde_json::Value>>,
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
}

/// A document read from a file, with what is needed to speak of it.
#[derive(Clone, Debug)]
pub struct Parsed<Source, Sink> {
    /// The settings.
    pub document: Document<Source, Sink>,
    /// The text as written, variables not expanded.
    pub text: String,
    /// The tree, for places.
    pub tree: Node,
}

impl<Source, Sink> Parsed<Source, Sink> {
    /// A problem at the value of a path: `["sink", "parquet", "codec"]`.
    pub fn problem(&self, path: &[&str], message: impl Into<String>) -> Problem {
        Problem { place: self.tree.locate(path), path: path.join("."), message: message.into() }
    }

    /// A hash of the text, in hex: what a plan names the config by.
    pub fn hash(&self) -> String {
        hash(self.text.as_bytes())
    }
}

/// 64 bits in hex, stable over versions and machines (FNV-1a, 64-bit parameters of its authors).
pub fn hash(bytes: &[u8]) -> String {
    let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// Reads all documents of a file; `Err` holds every problem found in any of them.
pub fn parse<Source: DeserializeOwned, Sink: DeserializeOwned>(
    file: &str,
    lookup: vars::Lookup<'_>,
) -> Result<Vec<Parsed<Source, Sink>>, Vec<Problem>> {
    let at_start =
        |message: String| vec![Problem { place: Place { line: 1, column: 1 }, path: String::new(), message }];
    if file.len() > tree::FILE_BYTES_MAX {
        return Err(at_start(format!("{} bytes exceed the limit of {}", file.len(), tree::FILE_BYTES_MAX)));
    }
    let texts = tree::documents(file);
    if texts.is_empty() {
        return Err(at_start("no pipeline in this file".to_owned()));
    }
    let (mut parsed, mut problems) = (Vec::new(), Vec::new());
    for text in texts {
        match tree::parse(&text) {
            Err(problem) => problems.push(problem),
            Ok(mut tree) => {
                vars::expand(&mut tree, lookup, &mut problems);
                match strict::read::<Document<Source, Sink>>(&tree) {
                    Err(more) => problems.extend(more),
                    Ok(document) => {
                        let one = Parsed { document, text: text.text.to_owned(), tree };
                        problems.extend(one.contradictions());
                        parsed.push(one);
                    }
                }
            }
        }
    }
    for (i, one) in parsed.iter().enumerate() {
        if parsed[..i].iter().any(|other| other.document.name == one.document.name) {
            let message = format!("pipeline `{}` stands in this file twice", one.document.name);
            problems.push(one.problem(&["name"], message));
        }
    }
    problems.sort_by_key(|p| p.place);
    if problems.is_empty() { Ok(parsed) } else { Err(problems) }
}

impl<Source, Sink> Parsed<Source, Sink> {
    /// What is well-formed and still can not be meant.
    fn contradictions(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let document = &self.document;
        let mut filters = vec![(vec!["where"], document.filter.as_ref())];
        filters.extend(document.steps.iter().map(|Step::Where(e)| (vec!["steps"], Some(e))));
        for (path, expression) in filters {
            let Some(Expression(filter)) = expression else { continue };
            for name in filter.names() {
                match name {
                    Name::Field(_) if document.decode.is_none() => problems.push(self.problem(
                        &path,
                        format!("`{name}` is a field of the decoded body: add `decode: {{format: json}}`"),
                    )),
                    Name::Envelope(column)
                        if crate::batch::field(column).is_none_or(|_| column.contains('.')) =>
                    {
                        let hint = nearest(column, crate::batch::COLUMNS).map_or_else(
                            || format!("; envelope columns: {}", crate::batch::COLUMNS.join(", ")),
                            |n| format!("; did you mean `${n}`?"),
                        );
                        problems.push(self.problem(&path, format!("no envelope column `{name}`{hint}")));
                    }
                    _ => {}
                }
            }
        }
        if let Some(decode) = &document.decode {
            let at = ["decode", "schema"];
            match (decode.schema.mode, &decode.schema.fields, decode.schema.freeze_after_rows) {
                (SchemaMode::Declared, None, _) => {
                    problems.push(self.problem(&at, "`mode: declared` needs `fields`: {name: type, …}"));
                }
                (SchemaMode::Infer, Some(_), _) => {
                    problems.push(self.problem(&at, "`fields` needs `mode: declared`"));
                }
                (SchemaMode::Declared, Some(_), Some(_)) => {
                    problems.push(self.problem(&at, "`freeze_after_rows` goes with `mode: infer`"));
                }
                _ => {}
            }
        }
        match (document.errors.then, &document.errors.dead_letter) {
            (Then::DeadLetter, None) => problems
                .push(self.problem(&["errors"], "`then: dead_letter` needs the topic: `dead_letter: NAME`")),
            (Then::Stop | Then::Skip, Some(_)) => problems.push(
                self.problem(&["errors", "dead_letter"], "a dead-letter topic needs `then: dead_letter`"),
            ),
            (Then::DeadLetter, Some(topic)) => {
                if let Err(error) = sluice_protocol::id::TopicName::new(topic) {
                    problems.push(self.problem(&["errors", "dead_letter"], error.to_string()));
                }
            }
            _ => {}
        }
        problems
    }
}

#[cfg(test)]
mod tests;

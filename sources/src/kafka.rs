//! Source `kafka`: topics of a Kafka cluster. A partition is a queue, and its offsets are the queue offsets; offsets
//! that no consumer sees (of aborted transactions, of their marks, of what compaction took) count as absent.
//!
//! How a record becomes a message: `bridges/src/kafka/mapping.rs`.

#[cfg(feature = "kafka")]
mod columns;
#[cfg(feature = "kafka")]
mod link;
#[cfg(feature = "kafka")]
mod mark;
#[cfg(feature = "kafka")]
mod task;

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_bridges::kafka::{KeyPlace, Properties, SECRETS, Side, problems, topic_problem};
use sluice_connect::task::{SourceTask, TaskError};

use crate::source::{Beside, Source};
use crate::topic::{Begin, Until};
use crate::{KeyProblem, at};

/// Settings of source `kafka`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// Brokers to begin with, `host:port` with commas between.
    pub bootstrap: String,
    /// The topic.
    #[serde(default)]
    pub topic: Option<String>,
    /// Several topics instead; `^…` is a regular expression over their names.
    #[serde(default)]
    pub topics: Vec<String>,
    /// The consumer group whose offsets show how far the pipeline is; the pipeline's name if not said.
    #[serde(default)]
    pub group: Option<String>,
    /// Where a pipeline begins that has no position yet.
    #[serde(default)]
    pub start: Begin,
    /// When the pipeline ends.
    #[serde(default)]
    pub until: Until,
    /// Where a record's key goes: `$keys`, as if not said, or the name of a property.
    #[serde(default)]
    pub key: KeyPlace,
    /// librdkafka's own properties: TLS, SASL, sizes; `debug` shows in the log at that level.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    pub properties: Properties,
    /// Whether other workers read the same topics as members of the group.
    #[serde(skip)]
    pub shared: bool,
}

impl KafkaConfig {
    /// Whether the source reads a topic of these brokers.
    pub fn reads(&self, bootstrap: &str, topic: &str) -> bool {
        let named = self.topic.iter().chain(&self.topics);
        let is_it = |name: &String| match name.strip_prefix('^') {
            Some(_) => regex::Regex::new(name).is_ok_and(|pattern| pattern.is_match(topic)),
            None => name == topic,
        };
        self.bootstrap == bootstrap && { named }.any(is_it)
    }
}

impl Source for KafkaConfig {
    fn problems(&self) -> Vec<KeyProblem> {
        let mut found = problems(Side::Source, &self.bootstrap, &self.properties);
        match &self.topic {
            Some(_) if !self.topics.is_empty() => {
                found.push((at("topics"), "beside `topic`: give one of them".to_owned()));
            }
            None if self.topics.is_empty() => {
                found.push((
                    Vec::new(),
                    "a topic is missing: `topic: NAME`, or `topics: [NAME, \"^PATTERN\"]`".to_owned(),
                ));
            }
            Some(topic) => found.extend(topic_problem(topic).map(|problem| (at("topic"), problem))),
            None => {}
        }
        for (number, topic) in self.topics.iter().enumerate() {
            let problem = match topic.strip_prefix('^') {
                Some(_) => {
                    regex::Regex::new(topic).err().map(|error| format!("no regular expression: {error}"))
                }
                None => topic_problem(topic),
            };
            let place = vec!["topics".to_owned(), format!("[{number}]")];
            found.extend(problem.map(|problem| (place, problem)));
        }
        if self.group.as_deref() == Some("") {
            found.push((at("group"), "the group has no name".to_owned()));
        }
        found
    }

    #[cfg(feature = "kafka")]
    fn open(&self, beside: Beside<'_>) -> Result<Box<dyn SourceTask>, TaskError> {
        Ok(Box::new(task::KafkaSource::new(self, beside.pipeline)?))
    }

    #[cfg(not(feature = "kafka"))]
    fn open(&self, _: Beside<'_>) -> Result<Box<dyn SourceTask>, TaskError> {
        Err(sluice_bridges::without(sluice_bridges::kafka::WITHOUT))
    }

    fn secrets(&self) -> Vec<Vec<&'static str>> {
        SECRETS.iter().map(|&key| vec!["properties", key]).collect()
    }
}

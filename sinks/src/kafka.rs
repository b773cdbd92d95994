//! Sink `kafka`: rows become records of a Kafka topic.
//!
//! Exactly once: the rows of a slice and the position after it are one Kafka transaction. Positions are records of a
//! compacted topic of ours, its key the chain. How a message becomes a record: `bridges/src/kafka/mapping.rs`.

#[cfg(feature = "kafka")]
mod deliveries;
#[cfg(feature = "kafka")]
mod positions;
#[cfg(feature = "kafka")]
mod task;
#[cfg(feature = "kafka")]
mod topics;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_bridges::kafka::{KeyPlace, Properties, Property, SECRETS, Side, problems, topic_problem};
use sluice_connect::config::Delivery;
use sluice_connect::target::Target;
use sluice_connect::task::TaskError;

use crate::KeyProblem;
use crate::sink::{Known, Sink};

/// Settings of sink `kafka`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// Brokers to begin with, `host:port` with commas between.
    pub bootstrap: String,
    /// The topic.
    pub topic: String,
    /// Partitions of a topic that is made; without it a topic must be there.
    #[serde(default)]
    pub partitions: Option<u16>,
    /// Which partition a row goes to.
    #[serde(default)]
    pub partition: PartitionBy,
    /// Where a record's key comes from: `$keys`, as if not said, or the name of a property.
    #[serde(default)]
    pub key: KeyPlace,
    /// The topic that holds positions; made if there is none.
    #[serde(default = "positions_topic")]
    pub positions: String,
    /// librdkafka's own properties: TLS, SASL, sizes; `debug` shows in the log at that level.
    #[serde(default)]
    #[schemars(with = "std::collections::BTreeMap<String, String>")]
    pub properties: Properties,
    /// Whether rows are records of Kafka's as they came: then header `kafka.origin` says which.
    #[serde(skip)]
    pub copies: bool,
}

/// Which partition a row goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartitionBy {
    /// Equal keys meet in one, by the hash that clients of Java use; rows without keys are spread.
    #[default]
    Key,
    /// That of the number of the source's queue.
    Source,
}

fn positions_topic() -> String {
    "sluice-positions".to_owned()
}

/// librdkafka's own limit of a record, in bytes.
const MESSAGE_BYTES_MAX: usize = 1_000_000;

impl KafkaConfig {
    /// The longest record that the client sends, in bytes.
    #[cfg_attr(not(feature = "kafka"), expect(dead_code, reason = "asked by the task"))]
    fn message_bytes_max(&self) -> usize {
        let said = self.properties.get("message.max.bytes");
        said.and_then(|Property(text)| text.parse().ok()).unwrap_or(MESSAGE_BYTES_MAX)
    }
}

impl Sink for KafkaConfig {
    fn problems(&self, _: Known<'_>) -> Vec<KeyProblem> {
        let mut found = problems(Side::Sink, &self.bootstrap, &self.properties);
        let at = |key: &str| vec![key.to_owned()];
        found.extend(topic_problem(&self.topic).map(|problem| (at("topic"), problem)));
        found.extend(topic_problem(&self.positions).map(|problem| (at("positions"), problem)));
        if self.positions == self.topic {
            found.push((at("positions"), "is the topic that rows go to: name another one".to_owned()));
        }
        if self.partitions == Some(0) {
            found.push((at("partitions"), "0 partitions, expected at least 1".to_owned()));
        }
        found
    }

    fn shown(&self) -> String {
        format!("topic {} of Kafka at {}", self.topic, self.bootstrap)
    }

    #[cfg(feature = "kafka")]
    fn open(&self, delivery: Delivery) -> Result<Target, TaskError> {
        Ok(Target::Transact(Box::new(task::KafkaSink::new(self, delivery)?)))
    }

    #[cfg(not(feature = "kafka"))]
    fn open(&self, _: Delivery) -> Result<Target, TaskError> {
        Err(sluice_bridges::without(sluice_bridges::kafka::WITHOUT))
    }

    #[cfg(feature = "kafka")]
    fn check(&self, delivery: Delivery) -> Result<String, TaskError> {
        topics::check(self, delivery)
    }

    fn keeps_positions(&self) -> bool {
        true
    }

    fn takes_messages(&self) -> bool {
        true
    }

    fn takes_headers(&self) -> bool {
        true
    }

    fn no_route(&self) -> Option<&'static str> {
        None
    }

    fn secrets(&self) -> Vec<Vec<&str>> {
        SECRETS.iter().map(|key| vec!["properties", *key]).collect()
    }
}

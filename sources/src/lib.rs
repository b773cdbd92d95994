//! Sources: where a pipeline's rows come from. A new one is a file here with its settings ([`source::Source`]) and its
//! task, and a line in the registry ([`SourceConfig`]).
//!
//! Decoding, steps and counting belong to the runtime.

pub mod amqp091;
pub mod amqp10;
mod arrivals;
mod cluster;
mod columns;
mod envelope;
pub mod file;
mod filtered;
pub mod generate;
pub mod http;
pub mod kafka;
pub mod postgres;
mod queue;
pub mod registry;
pub mod source;
pub mod topic;
mod unconfirmed;
pub mod zeromq;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_connect::progress::{Progress, Stop};
use sluice_connect::task::{Class, SourceTask, TaskError};
use sluice_store::Store;

use amqp10::Amqp10Config;
use amqp091::Amqp091Config;
use file::FileConfig;
use generate::GenerateConfig;
use http::HttpConfig;
use kafka::KafkaConfig;
use postgres::PostgresConfig;
use source::Beside;
use topic::TopicConfig;
use zeromq::ZeromqConfig;

/// What a source holds of its brokers once it is open.
fn opened<L>(link: Option<&Arc<L>>) -> Result<&Arc<L>, TaskError> {
    link.ok_or_else(|| TaskError::new(Class::Fatal, "the source is not open"))
}

source::registry! {
/// Settings of one source; its key names it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceConfig {
    /// CSV and NDJSON files.
    File(FileConfig) = "file",
    /// A topic of the embedded broker or of a cluster.
    Topic(TopicConfig) = "topic",
    /// Topics of a Kafka cluster.
    Kafka(KafkaConfig) = "kafka",
    /// A queue of RabbitMQ, or of another broker that speaks AMQP 0-9-1.
    Amqp091(Amqp091Config) = "amqp091",
    /// A queue of ActiveMQ, Artemis, or of another broker that speaks AMQP 1.0.
    Amqp10(Amqp10Config) = "amqp10",
    /// A PULL or SUB socket of ZeroMQ; messages may be lost.
    Zeromq(ZeromqConfig) = "zeromq",
    /// Messages that others send by HTTP.
    Http(HttpConfig) = "http",
    /// Rows of a table or a query of PostgreSQL.
    Postgres(PostgresConfig) = "postgres",
    /// Made-up rows.
    Generate(GenerateConfig) = "generate",
}
}

/// The progress of the pipelines of this run that feed a source.
pub type Feeders = Vec<Arc<Progress>>;

/// A problem of some key below `source`, by its path.
pub type KeyProblem = (Vec<String>, String);

/// The path of one key.
fn at(key: &str) -> Vec<String> {
    vec![key.to_owned()]
}

impl SourceConfig {
    /// [`source::Source::problems`], by the path below `source`.
    pub fn problems(&self) -> Vec<KeyProblem> {
        let (key, source) = self.registered();
        let below = |(path, message)| (at(key).into_iter().chain(path).collect(), message);
        source.problems().into_iter().map(below).collect()
    }

    /// [`source::Source::comes_once`].
    pub fn comes_once(&self) -> Option<String> {
        self.registered().1.comes_once()
    }

    /// [`source::Source::no_way_back`].
    pub fn no_way_back(&self) -> Option<&'static str> {
        self.registered().1.no_way_back()
    }

    /// [`source::Source::begins_at_end`].
    pub fn begins_at_end(&self) -> bool {
        self.registered().1.begins_at_end()
    }

    /// [`source::Source::has_gaps`].
    pub fn has_gaps(&self) -> bool {
        self.registered().1.has_gaps()
    }

    /// [`source::Source::topic`].
    pub fn topic(&self) -> Option<(Option<&str>, &str)> {
        self.registered().1.topic()
    }

    /// [`source::Source::properties`].
    pub fn properties(&self) -> Option<Vec<String>> {
        self.registered().1.properties()
    }

    /// [`source::Source::secrets`], by the path below `source`.
    pub fn secrets(&self) -> Vec<Vec<&'static str>> {
        let (key, source) = self.registered();
        let below = |path: Vec<&'static str>| std::iter::once(key).chain(path).collect();
        source.secrets().into_iter().map(below).collect()
    }

    /// Makes the source's task. `store` is asked for only by sources that need the embedded broker;
    /// `feeders` are the pipelines of this run that write what it reads, and `stop` ends long work early.
    pub fn open<E: From<TaskError>>(
        &self,
        pipeline: &str,
        store: impl FnOnce() -> Result<Store, E>,
        feeders: Feeders,
        stop: &Arc<Stop>,
    ) -> Result<Box<dyn SourceTask>, E> {
        let (_, source) = self.registered();
        let is_embedded = matches!(source.topic(), Some((None, _)));
        let store = is_embedded.then(store).transpose()?;
        Ok(source.open(Beside { pipeline, store, feeders, stop })?)
    }
}

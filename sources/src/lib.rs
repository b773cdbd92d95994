//! Sources: where a pipeline's rows come from. A new one is a file here, a variant of [`SourceConfig`] with
//! its arms, an example and a line in the changelog.
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
pub mod topic;
mod unconfirmed;
pub mod zeromq;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_bridges::kafka::SECRETS;
use sluice_client::ClientSettings;
use sluice_connect::progress::{Progress, Stop};
use sluice_connect::task::{Class, SourceTask, TaskError};
use sluice_protocol::id::{GroupName, TopicName};
use sluice_store::Store;

use amqp10::Amqp10Config;
use amqp091::Amqp091Config;
use cluster::ClusterSource;
use file::follow::FollowSource;
use file::{FileConfig, FileSource};
use generate::{GenerateConfig, GenerateSource};
use http::HttpConfig;
use kafka::KafkaConfig;
use postgres::PostgresConfig;
use topic::{TopicConfig, TopicSource};
use zeromq::ZeromqConfig;

/// What a source holds of its brokers once it is open.
fn opened<L>(link: Option<&Arc<L>>) -> Result<&Arc<L>, TaskError> {
    link.ok_or_else(|| TaskError::new(Class::Fatal, "the source is not open"))
}

/// Settings of one source; its key names it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceConfig {
    /// CSV and NDJSON files.
    File(FileConfig),
    /// A topic of the embedded broker or of a cluster.
    Topic(TopicConfig),
    /// Topics of a Kafka cluster.
    Kafka(KafkaConfig),
    /// A queue of RabbitMQ, or of another broker that speaks AMQP 0-9-1.
    Amqp091(Amqp091Config),
    /// A queue of ActiveMQ, Artemis, or of another broker that speaks AMQP 1.0.
    Amqp10(Amqp10Config),
    /// A PULL or SUB socket of ZeroMQ; messages may be lost.
    Zeromq(ZeromqConfig),
    /// Messages that others send by HTTP.
    Http(HttpConfig),
    /// Rows of a table or a query of PostgreSQL.
    Postgres(PostgresConfig),
    /// Made-up rows.
    Generate(GenerateConfig),
}

/// The progress of the pipelines of this run that feed a source.
pub type Feeders = Vec<Arc<Progress>>;

/// A problem of some key below `source`, by its path.
pub type KeyProblem = (Vec<String>, String);

/// Problems of keys below one of them.
fn below(key: &str, problems: Vec<KeyProblem>) -> Vec<KeyProblem> {
    let below = |(path, message)| (std::iter::once(key.to_owned()).chain(path).collect(), message);
    problems.into_iter().map(below).collect()
}

impl SourceConfig {
    /// What is wrong with the settings, as far as it shows without opening anything.
    pub fn problems(&self) -> Vec<KeyProblem> {
        let at = |path: &[&str], error: &dyn std::fmt::Display| {
            (path.iter().map(|&key| key.to_owned()).collect(), error.to_string())
        };
        match self {
            Self::File(config) => config.problem().iter().map(|(key, m)| at(&["file", key], m)).collect(),
            Self::Kafka(config) => below("kafka", config.problems()),
            Self::Amqp091(config) => below("amqp091", config.problems()),
            Self::Amqp10(config) => below("amqp10", config.problems()),
            Self::Zeromq(config) => below("zeromq", config.problems()),
            Self::Http(config) => below("http", config.problems()),
            Self::Postgres(config) => below("postgres", config.problems()),
            Self::Generate(config) => config.check().err().iter().map(|e| at(&["generate"], e)).collect(),
            Self::Topic(config) => {
                let name = TopicName::new(&config.name).err().map(|e| at(&["topic", "name"], &e));
                let group = config.group.as_deref().and_then(|g| GroupName::new(g).err());
                let cluster = config.cluster.as_deref().and_then(|c| ClientSettings::new(c).check().err());
                let cluster = cluster.map(|e| at(&["topic", "cluster"], &e));
                let group = group.map(|e| at(&["topic", "group"], &e));
                let access = config.access.problem_beside(config.cluster.as_deref());
                let access = access.map(|m| at(&["topic", "access"], &m));
                name.into_iter().chain(cluster).chain(group).chain(access).collect()
            }
        }
    }

    /// Whether what was read can be read again under the same offsets. A broker of queues hands out again what was not
    /// acknowledged, and knows no offsets; so do those who send by HTTP.
    pub fn rereads(&self) -> bool {
        !matches!(self, Self::Amqp091(_) | Self::Amqp10(_) | Self::Zeromq(_) | Self::Http(_))
    }

    /// Whether a start without a position leaves out what is there, and nothing beside the target remembers where that was.
    pub fn begins_at_end(&self) -> bool {
        match self {
            Self::Postgres(config) => config.start == topic::Begin::Latest,
            Self::File(config) => config.start == Some(file::FileStart::End),
            _ => false,
        }
    }

    /// The paths of keys, below `source`, that hold secrets: their values must not stand in the file.
    pub fn secrets(&self) -> Vec<Vec<&'static str>> {
        match self {
            Self::Kafka(_) => SECRETS.iter().map(|&key| vec!["kafka", "properties", key]).collect(),
            Self::Topic(_) => vec![vec!["topic", "access", "secret_key"]],
            Self::Amqp091(_) => vec![vec!["amqp091", "password"]],
            Self::Amqp10(_) => vec![vec!["amqp10", "password"]],
            Self::Postgres(_) => vec![vec!["postgres", "password"]],
            Self::Http(_) => vec![vec!["http", "token"]],
            Self::File(_) | Self::Zeromq(_) | Self::Generate(_) => Vec::new(),
        }
    }

    /// Whether most offsets have no row: they follow from values that rows have.
    pub fn has_gaps(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Whether rows before a position can be read again. Files that are followed may be gone by then.
    pub fn looks_back(&self) -> bool {
        self.rereads() && !matches!(self, Self::File(FileConfig { follow: true, .. }))
    }

    /// The topic that the source reads, if it reads one: its cluster, unless it is the embedded broker's, and its
    /// name.
    pub fn topic(&self) -> Option<(Option<&str>, &str)> {
        match self {
            Self::Topic(config) => Some((config.cluster.as_deref(), &config.name)),
            _ => None,
        }
    }

    /// The names of all properties that its rows have, where the settings alone say them.
    pub fn properties(&self) -> Option<Vec<String>> {
        match self {
            Self::File(config) => Some(config.properties.clone()),
            Self::Http(config) => Some(config.headers.clone()),
            Self::Postgres(config) => Some(config.properties.clone()),
            Self::Generate(_) => Some(generate::PROPERTIES.map(|(name, _)| name.to_owned()).to_vec()),
            _ => None,
        }
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
        Ok(match self {
            Self::File(config) if config.follow => {
                Box::new(FollowSource::new(config.clone(), Arc::clone(stop)))
            }
            Self::File(config) => Box::new(FileSource::new(config.clone()).with_stop(Arc::clone(stop))),
            Self::Topic(config) => match &config.cluster {
                Some(cluster) => Box::new(ClusterSource::new(config, cluster, pipeline, feeders)?),
                None => Box::new(TopicSource::new(config, pipeline, store()?, feeders)?),
            },
            #[cfg(feature = "kafka")]
            Self::Kafka(config) => Box::new(kafka::KafkaSource::new(config, pipeline)?),
            #[cfg(not(feature = "kafka"))]
            Self::Kafka(_) => {
                let message = "this program was built without Kafka: build it with `--features kafka`";
                return Err(TaskError::new(sluice_connect::task::Class::Config, message).into());
            }
            #[cfg(feature = "amqp091")]
            Self::Amqp091(config) => amqp091::open(config),
            #[cfg(not(feature = "amqp091"))]
            Self::Amqp091(_) => {
                let class = sluice_connect::task::Class::Config;
                return Err(TaskError::new(class, sluice_bridges::amqp091::WITHOUT).into());
            }
            #[cfg(feature = "amqp10")]
            Self::Amqp10(config) => amqp10::open(config),
            #[cfg(not(feature = "amqp10"))]
            Self::Amqp10(_) => {
                let class = sluice_connect::task::Class::Config;
                return Err(TaskError::new(class, sluice_bridges::amqp10::WITHOUT).into());
            }
            #[cfg(feature = "zeromq")]
            Self::Zeromq(config) => zeromq::open(config),
            #[cfg(not(feature = "zeromq"))]
            Self::Zeromq(_) => {
                let class = sluice_connect::task::Class::Config;
                return Err(TaskError::new(class, sluice_bridges::zeromq::WITHOUT).into());
            }
            Self::Http(config) => http::open(config),
            #[cfg(feature = "postgres")]
            Self::Postgres(config) => Box::new(postgres::PostgresSource::new(config, stop)),
            #[cfg(not(feature = "postgres"))]
            Self::Postgres(_) => {
                let class = sluice_connect::task::Class::Config;
                return Err(TaskError::new(class, sluice_bridges::postgres::WITHOUT).into());
            }
            Self::Generate(config) => {
                Box::new(GenerateSource::new(config.clone(), generate::Clock::system()))
            }
        })
    }
}

//! Sinks: where a pipeline's rows go. A new one is a file here with its [`sink::Sink`], a line in the registry of
//! [`SinkConfig`], an example and a line in the changelog.
//!
//! Retry, filters, the order of a plan's steps and counting belong to the runtime.

pub mod amqp091;
pub mod amqp10;
pub mod arrow_flight;
pub mod arrow_ipc;
pub mod audit;
mod chain;
pub mod cluster;
pub mod compact;
#[cfg(feature = "delta")]
pub mod delta;
pub mod discard;
mod disk;
pub mod estimate;
pub mod file;
pub mod files;
pub mod http;
pub mod iceberg;
pub mod kafka;
pub mod location;
mod name;
pub mod objects;
pub mod parquet;
pub mod partition;
pub mod place;
pub mod plain;
pub mod postgres;
pub mod published;
mod records;
mod returning;
pub mod rotate;
pub mod sink;
pub mod stdout;
mod stored;
#[cfg(feature = "tables")]
pub mod table;
mod table_log;
mod temp;
pub mod topic;
pub mod trace;
mod work;
mod writer;
pub mod zeromq;

use std::sync::Arc;

use ::arrow::datatypes::{Schema, SchemaRef};
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_client::ClientSettings;
use sluice_connect::batch::{COLUMNS, ROUTE};
use sluice_connect::config::{Delivery, Document};
use sluice_connect::target::Target;
use sluice_connect::task::{Class, Needs, TaskError};
use sluice_protocol::id::TopicName;
use sluice_store::Store;
use sluice_store::file::{Disk, RealDisk};

use amqp10::Amqp10Config;
use amqp091::Amqp091Config;
use arrow_flight::ArrowFlightConfig;
use arrow_ipc::ArrowConfig;
use bytesize::ByteSize;
use cluster::ClusterSink;
use discard::DiscardConfig;
use file::FileConfig;
use files::FileSink;
use http::HttpConfig;
use iceberg::{CatalogConfig, IcebergConfig};
use kafka::KafkaConfig;
use location::Location;
use objects::StoreConfig;
use parquet::ParquetConfig;
use partition::{Partition, PartitionColumn};
use postgres::PostgresConfig;
use rotate::Rotate;
use sink::{Known, Sink};
use stdout::StdoutConfig;
use topic::{Clock, TopicConfig, TopicSink};
use zeromq::ZeromqConfig;

sink::registry! {
/// Settings of one sink; its key names it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SinkConfig {
    /// A topic of the embedded broker or of a cluster.
    Topic(TopicConfig),
    /// Parquet files in a folder or an object store.
    Parquet(ParquetConfig),
    /// Arrow IPC files in a folder or an object store.
    Arrow(ArrowConfig),
    /// NDJSON or CSV files in a folder or an object store.
    File(FileConfig),
    /// A topic of a Kafka cluster.
    Kafka(KafkaConfig) = "kafka",
    /// An exchange or a queue of RabbitMQ, or of another broker that speaks AMQP 0-9-1.
    Amqp091(Amqp091Config) = "amqp091",
    /// A queue or topic of ActiveMQ, Artemis, or of another broker that speaks AMQP 1.0.
    Amqp10(Amqp10Config) = "amqp10",
    /// A PUSH or PUB socket of ZeroMQ; messages may be lost.
    Zeromq(ZeromqConfig) = "zeromq",
    /// A table of PostgreSQL.
    Postgres(PostgresConfig) = "postgres",
    /// An Arrow Flight server.
    ArrowFlight(ArrowFlightConfig) = "arrow_flight",
    /// A table of Delta Lake in a folder or an object store; its settings are those of Parquet files.
    Delta(ParquetConfig),
    /// A table of Apache Iceberg in a folder or an object store.
    Iceberg(IcebergConfig),
    /// Whoever takes rows by HTTP.
    Http(HttpConfig) = "http",
    /// Nowhere: rows are counted.
    Discard(DiscardConfig) = "discard",
    /// Standard output.
    Stdout(StdoutConfig) = "stdout",
}
}

/// What a build without the feature says of sink `delta`.
pub(crate) const WITHOUT_DELTA: &str =
    "this build of sluice has no Delta Lake: build it with `--features delta`";

/// A problem of some key below `sink`, by its path.
pub type KeyProblem = (Vec<String>, String);

fn at(path: &[&str]) -> Vec<String> {
    path.iter().map(|&key| key.to_owned()).collect()
}

impl SinkConfig {
    /// The topic that the sink writes, if it writes one: its cluster, unless it is the embedded broker's, and its
    /// name.
    pub fn topic(&self) -> Option<(Option<&str>, &str)> {
        match self {
            Self::Topic(config) => Some((config.cluster.as_deref(), &config.name)),
            _ => None,
        }
    }

    /// The answers of a sink that is registered with its key.
    fn own(&self) -> Result<&dyn Sink, TaskError> {
        let told = || TaskError::new(Class::Fatal, "a sink has no line in the registry");
        self.registered().map(|(_, sink)| sink).ok_or_else(told)
    }

    /// What a run finds at the target of such a sink, for a person; stores no row.
    pub fn check(&self, delivery: Delivery) -> Result<String, TaskError> {
        self.own()?.check(delivery)
    }

    /// The paths of keys, below `sink`, that hold secrets.
    pub fn secrets(&self) -> Vec<Vec<&str>> {
        if let Some((key, sink)) = self.registered() {
            return sink
                .secrets()
                .into_iter()
                .map(|path| std::iter::once(key).chain(path).collect())
                .collect();
        }
        if let Self::Topic(_) = self {
            return vec![vec!["topic", "access", "secret_key"]];
        }
        let (kind, _) = self.partition();
        let of_store = objects::SECRETS.map(|key| vec![kind, "store", key]);
        let of_catalog = iceberg::SECRETS.map(|key| vec![kind, "catalog", "rest", key]);
        of_store.into_iter().chain(of_catalog).collect()
    }

    /// The target of the sink, if it writes files.
    pub fn location(&self) -> Option<&Location> {
        match self {
            Self::Parquet(config) | Self::Delta(config) => Some(&config.path),
            Self::Iceberg(config) => Some(&config.path),
            Self::Arrow(config) => Some(&config.path),
            Self::File(config) => Some(&config.path),
            _ => None,
        }
    }

    /// The settings of the object store, if the sink writes to one that they are given for.
    pub fn store(&self) -> Option<&StoreConfig> {
        match self {
            Self::Parquet(config) | Self::Delta(config) => config.store.as_ref(),
            Self::Iceberg(config) => config.store.as_ref(),
            Self::Arrow(config) => config.store.as_ref(),
            Self::File(config) => config.store.as_ref(),
            _ => None,
        }
    }

    fn rotate(&self) -> Option<&Rotate> {
        match self {
            Self::Parquet(config) | Self::Delta(config) => Some(&config.rotate),
            Self::Iceberg(config) => Some(&config.rotate),
            Self::Arrow(config) => Some(&config.rotate),
            Self::File(config) => Some(&config.rotate),
            _ => None,
        }
    }

    /// Whether the target keeps positions, so that delivery can be exactly once.
    pub fn keeps_positions(&self) -> bool {
        match self {
            Self::Topic(config) => config.cluster.is_none(),
            other => other.registered().is_none_or(|(_, sink)| sink.keeps_positions()),
        }
    }

    /// Whether rows are only looked at.
    pub fn is_for_looking(&self) -> bool {
        matches!(self, Self::Stdout(_) | Self::Discard(_))
    }

    fn partition(&self) -> (&'static str, &[String]) {
        match self {
            Self::Parquet(config) => ("parquet", &config.partition),
            Self::Arrow(config) => ("arrow", &config.partition),
            Self::File(config) => ("file", &config.partition),
            Self::Delta(config) => ("delta", &config.partition),
            Self::Iceberg(config) => ("iceberg", &config.partition),
            _ => ("", &[]),
        }
    }

    /// What is wrong with the settings, as far as it shows without opening anything. `output` are the columns of
    /// the rows and `properties` the names of all that the source gives, where they are known.
    pub fn problems<S, K>(
        &self,
        document: &Document<S, K>,
        output: Option<&Schema>,
        properties: Option<&[String]>,
    ) -> Vec<KeyProblem> {
        if let Some((key, sink)) = self.registered() {
            let format = document.decode.as_ref().map(|decode| &decode.format);
            let known = Known { output, format: format.filter(|_| !document.makes_bodies()) };
            let below = |(path, message): KeyProblem| {
                (std::iter::once(key.to_owned()).chain(path).collect(), message)
            };
            return sink.problems(known).into_iter().map(below).collect();
        }
        if let Self::Topic(config) = self {
            let name = TopicName::new(&config.name).err().map(|e| (at(&["topic", "name"]), e.to_string()));
            let queues = !(1..=topic::QUEUES_MAX).contains(&config.queues);
            let queues = queues.then(|| {
                (
                    at(&["topic", "queues"]),
                    format!("{} queues, expected 1 to {}", config.queues, topic::QUEUES_MAX),
                )
            });
            let cluster = config.cluster.as_deref().and_then(|c| ClientSettings::new(c).check().err());
            let cluster = cluster.map(|e| (at(&["topic", "cluster"]), e.to_string()));
            let access = config.access.problem_beside(config.cluster.as_deref());
            let access = access.map(|m| (at(&["topic", "access"]), m));
            return name.into_iter().chain(cluster).chain(queues).chain(access).collect();
        }
        let (kind, entries) = self.partition();
        let at = at(&[kind, "partition"]);
        let partition = match Partition::new(entries) {
            Ok(partition) => partition,
            Err(error) => return vec![(at, error.to_string())],
        };
        let mut found = self.store_problems(kind);
        if let Self::Delta(_) = self
            && !cfg!(feature = "delta")
        {
            found.push((vec![kind.to_owned()], WITHOUT_DELTA.to_owned()));
        }
        if let Self::File(config) = self {
            let below = |(path, message): KeyProblem| {
                (std::iter::once(kind.to_owned()).chain(path).collect(), message)
            };
            found.extend(config.problems(output, document.makes_columns()).into_iter().map(below));
        }
        if let Self::Iceberg(config) = self {
            if !cfg!(feature = "iceberg") {
                found.push((vec![kind.to_owned()], iceberg::WITHOUT_ICEBERG.to_owned()));
            }
            let below = |(path, message): (Vec<&str>, String)| {
                (["iceberg", "catalog"].into_iter().chain(path).map(str::to_owned).collect(), message)
            };
            found.extend(config.catalog_problems().into_iter().map(below));
        }
        for column in partition.columns() {
            match column {
                PartitionColumn::Field(name) if !document.makes_columns() => {
                    found.push((
                        at.clone(),
                        format!("`$.{name}` is a field of the decoded body: add `decode: {{format: json}}`"),
                    ));
                }
                PartitionColumn::Envelope(name) if name == ROUTE && !document.routes() => {
                    let message = "`$route` is set by a step: add `route: …` to `steps`";
                    found.push((at.clone(), message.to_owned()));
                }
                PartitionColumn::Envelope(name) if name != ROUTE && !COLUMNS.contains(&name.as_str()) => {
                    found.push((
                        at.clone(),
                        format!("no envelope column `${name}`; there are: {}", COLUMNS.join(", ")),
                    ));
                }
                _ => {}
            }
        }
        if let Err(error) = partition.check(output, properties) {
            found.push((at, error.to_string()));
        }
        found
    }

    fn store_problems(&self, kind: &'static str) -> Vec<KeyProblem> {
        let mut found = Vec::new();
        match self.location() {
            Some(Location::Folder(_)) if self.store().is_some() => {
                let message =
                    "`store` is for an object store, and the path is a folder: write s3://bucket/prefix";
                found.push((at(&[kind, "store"]), message.to_owned()));
            }
            Some(Location::Bucket { .. }) => {
                let bytes = self.rotate().map_or(0, |rotate| rotate.bytes.as_u64());
                if bytes > objects::ROTATE_BYTES_MAX {
                    let message = format!(
                        "an object store takes a file in one put of at most 5 GiB: expected at most {}",
                        ByteSize::b(objects::ROTATE_BYTES_MAX)
                    );
                    found.push((at(&[kind, "rotate", "bytes"]), message));
                }
            }
            _ => {}
        }
        found
    }

    /// Why the `$route` of a row says nothing here; nothing if it does.
    pub fn no_route(&self) -> Option<&'static str> {
        if let Some((_, sink)) = self.registered() {
            return sink.no_route();
        }
        let partition = Partition::new(self.partition().1);
        let mut columns = partition.iter().flat_map(Partition::columns);
        let takes = matches!(self, Self::Topic(_))
            || columns.any(|c| matches!(c, PartitionColumn::Envelope(name) if name == ROUTE));
        (!takes).then_some("the sink takes no `$route`: add it to its `partition`")
    }

    /// Whether rows become messages, with bodies as they came, and not columns.
    pub fn takes_messages(&self) -> bool {
        self.registered().map_or(matches!(self, Self::Topic(_)), |(_, sink)| sink.takes_messages())
    }

    /// Whether step `headers` has something to write.
    pub fn takes_headers(&self) -> bool {
        self.registered().map_or(matches!(self, Self::Topic(_)), |(_, sink)| sink.takes_headers())
    }

    /// What a source must give. With `decoded` a file holds the decoded columns, else the envelope.
    pub fn needs(&self, decoded: bool) -> Needs {
        if self.takes_messages() {
            return TopicSink::needs();
        }
        let mut needs = Needs::default();
        if !decoded {
            needs.columns = COLUMNS.into_iter().filter(|name| *name != "properties").collect();
            needs.all_properties = true;
        }
        if let Ok(partition) = Partition::new(self.partition().1) {
            for column in partition.columns() {
                match column {
                    PartitionColumn::Property(name) => needs.properties.push(name.clone()),
                    PartitionColumn::Envelope(name) => {
                        needs.columns.extend(COLUMNS.iter().find(|c| *c == name));
                    }
                    PartitionColumn::Field(_) => {}
                }
            }
        }
        needs
    }

    /// Makes the sink's task. `store` is asked for only by sinks that need the embedded broker; `delivery` matters to
    /// those that can do either.
    pub fn open<E: From<TaskError>>(
        &self,
        store: impl FnOnce() -> Result<Store, E>,
        clock: &Clock,
        delivery: Delivery,
    ) -> Result<Target, E> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        Ok(match self {
            Self::Topic(config) if let Some(cluster) = &config.cluster => {
                Target::Transact(Box::new(ClusterSink::new(config, cluster)?))
            }
            Self::Topic(config) => {
                let sink = TopicSink::new(&config.name, config.queues, store()?, Arc::clone(clock))?;
                Target::Transact(Box::new(sink.with_queue_by(config.queue)))
            }
            Self::Parquet(config) => Target::Files(Box::new(FileSink::parquet(config, disk)?)),
            Self::Arrow(config) => Target::Files(Box::new(FileSink::arrow(config, disk)?)),
            Self::File(config) => Target::Files(Box::new(FileSink::text(config, disk)?)),
            #[cfg(feature = "delta")]
            Self::Delta(config) => Target::Files(Box::new(delta::DeltaSink::new(config, disk)?)),
            #[cfg(not(feature = "delta"))]
            Self::Delta(_) => {
                let class = sluice_connect::task::Class::Config;
                return Err(TaskError::new(class, WITHOUT_DELTA).into());
            }
            #[cfg(feature = "iceberg")]
            Self::Iceberg(config) => Target::Files(Box::new(iceberg::IcebergSink::new(config, disk)?)),
            #[cfg(not(feature = "iceberg"))]
            Self::Iceberg(_) => {
                let class = sluice_connect::task::Class::Config;
                return Err(TaskError::new(class, iceberg::WITHOUT_ICEBERG).into());
            }
            other => other.own()?.open(delivery)?,
        })
    }

    /// The columns that a file holds of rows with these: without views and dictionaries, and without the
    /// partition columns, which are in its path; a table has them. Other sinks take rows as they are.
    pub fn schema(&self, rows: &Schema) -> SchemaRef {
        if self.location().is_none() {
            return Arc::new(rows.clone());
        }
        let partition = Partition::new(self.partition().1);
        let in_path = |name: &str| {
            let columns = partition.iter().flat_map(Partition::columns);
            !matches!(self, Self::Delta(_) | Self::Iceberg(_))
                && columns.into_iter().any(|c| matches!(c, PartitionColumn::Field(field) if field == name))
        };
        let kept: Vec<_> = rows.fields().iter().filter(|f| !in_path(f.name())).cloned().collect();
        plain::schema(&Schema::new(kept))
    }

    /// One line for a person: where rows of a pipeline go, and how files are cut.
    pub fn describe(&self, pipeline: &str) -> String {
        let files = |path: &Location, partition: &[String], rotate: &Rotate| {
            let columns = partition.iter().filter_map(|entry| PartitionColumn::parse(entry).ok());
            let folders: Vec<String> = columns.map(|column| format!("/{}=…", column.name())).collect();
            format!(
                "{}{}/{pipeline}-…, a new file at {}, {} rows or {}, whichever is first",
                path,
                folders.concat(),
                rotate.bytes,
                rotate.rows,
                humantime::format_duration(rotate.age)
            )
        };
        match self {
            Self::Topic(TopicConfig { name, cluster: Some(cluster), .. }) => {
                format!("topic {name} of cluster {cluster}")
            }
            Self::Topic(config) => format!("topic {}", config.name),
            Self::Parquet(c) => format!("Parquet files in {}", files(&c.path, &c.partition, &c.rotate)),
            Self::Arrow(c) => format!("Arrow files in {}", files(&c.path, &c.partition, &c.rotate)),
            Self::File(c) => {
                let kind = c.format.name();
                format!("{kind} files in {}", files(&c.path, &c.partition, &c.rotate))
            }
            Self::Delta(c) => format!("Delta Lake table in {}", files(&c.path, &c.partition, &c.rotate)),
            Self::Iceberg(c) => {
                let files = files(&c.path, &c.partition, &c.rotate);
                match &c.catalog {
                    CatalogConfig::File => format!("Iceberg table in {files}"),
                    CatalogConfig::Rest(rest) => {
                        format!("Iceberg table {} of catalog {} in {files}", rest.table, rest.uri)
                    }
                }
            }
            other => other.registered().map(|(_, sink)| sink.shown()).unwrap_or_default(),
        }
    }
}

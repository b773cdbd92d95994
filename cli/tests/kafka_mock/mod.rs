//! Kafka for tests: librdkafka's mock cluster, which speaks the protocol over real connections and lives in this process, and
//! `sluice` run beside it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;
use tempfile::TempDir;

pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Kafka {
    pub cluster: MockCluster<'static, DefaultProducerContext>,
    pub place: TempDir,
}

/// A record as a client sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub time: i64,
}

impl Kafka {
    pub fn new(topics: &[(&str, i32)]) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        for (topic, partitions) in topics.iter().chain(&[("sluice-positions", 1)]) {
            cluster.create_topic(topic, *partitions, 1).unwrap();
        }
        Self { cluster, place: tempfile::tempdir().unwrap() }
    }

    pub fn bootstrap(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    pub fn send(&self, topic: &str, records: &[Seen]) {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", self.bootstrap()).create().unwrap();
        for seen in records {
            let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(seen.partition);
            (record.key, record.payload) = (seen.key.as_deref(), seen.value.as_deref());
            record.timestamp = Some(seen.time);
            let insert = |headers: OwnedHeaders, (name, value): &(String, Option<Vec<u8>>)| {
                headers.insert(Header { key: name, value: value.as_ref() })
            };
            record.headers = Some(seen.headers.iter().fold(OwnedHeaders::new(), insert));
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
    }

    /// All records of a topic that are committed, by partition and in their order.
    pub fn receive(&self, topic: &str, partitions: i32) -> Vec<Seen> {
        let mut all = Vec::new();
        for partition in 0..partitions {
            let consumer: BaseConsumer = ClientConfig::new()
                .set("bootstrap.servers", self.bootstrap())
                .set("group.id", "test")
                .set("enable.partition.eof", "true")
                .create()
                .unwrap();
            let mut assignment = TopicPartitionList::new();
            assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
            consumer.assign(&assignment).unwrap();
            loop {
                let message = match consumer.poll(PATIENCE).expect("an answer") {
                    Ok(message) => message,
                    Err(KafkaError::PartitionEOF(_)) => break,
                    Err(error) => panic!("{error}"),
                };
                let headers = message.headers().map_or(Vec::new(), |headers| {
                    headers.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect()
                });
                all.push(Seen {
                    partition,
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers,
                    time: message.timestamp().to_millis().unwrap(),
                });
            }
        }
        all
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    pub fn sluice(&self, arguments: &[&str]) -> Output {
        let command = env!("CARGO_BIN_EXE_sluice");
        Command::new(command).args(arguments).current_dir(self.place.path()).output().unwrap()
    }

    pub fn write(&self, config: &str) {
        fs::write(self.path("pipeline.yaml"), config.replace("BOOTSTRAP", &self.bootstrap())).unwrap();
    }

    /// Runs a config and gives the summary of each pipeline.
    pub fn run(&self, config: &str) -> Vec<Value> {
        self.write(config);
        let out = self.sluice(&["run", "pipeline.yaml", "--json"]);
        let summary: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{out:?}"));
        summary["pipelines"].as_array().unwrap_or_else(|| panic!("{out:?}")).clone()
    }

    /// What a command that fails says.
    pub fn told(&self, command: &str, config: &str) -> String {
        self.write(config);
        let out = self.sluice(&[command, "pipeline.yaml"]);
        assert!(!out.status.success(), "{out:?}");
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    }
}

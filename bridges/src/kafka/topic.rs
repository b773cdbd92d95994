//! A whole Kafka topic, record by record, and where a consumer group stands in it: for tools that compare topics.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sluice_connect::task::{Class, TaskError};

use super::client::{self, ANSWER_MAX, Context, Wait, failed, is_passing};
use super::mapping::Record;
use super::records::{Record as NativeRecord, Records};
use super::{Properties, Side};

/// How long the next record may take to come.
const RECORD_MAX: Duration = Duration::from_secs(60);
/// No consumer of this group ever commits; a client that is told its partitions needs a name all the same.
const GROUP: &str = "sluice-bridge";

/// The committed records of one topic.
pub struct KafkaTopic {
    bootstrap: String,
    name: String,
    config: ClientConfig,
    asker: BaseConsumer<Context>,
    reader: Arc<BaseConsumer<Context>>,
    partitions: i32,
    cluster: Option<String>,
}

/// A record of a topic.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, in ms since 1970-01-01 UTC.
    pub time_ms: i64,
    /// Key and headers.
    pub record: Record<'a>,
    /// Its value; `None` is null.
    pub value: Option<&'a [u8]>,
}

impl KafkaTopic {
    /// Connects, and asks for the topic.
    pub fn open(bootstrap: &str, name: &str, properties: &Properties) -> Result<Self, TaskError> {
        let config = client::config(Side::Source, bootstrap, properties);
        let asker = client::asker(&config)?;
        let known = client::topic(&asker, name)?.ok_or_else(|| {
            TaskError::new(Class::Config, format!("no such topic: {name} (asked at {bootstrap})"))
        })?;
        let (reader, cluster) = (Arc::new(client::consumer(&config, GROUP)?), client::cluster_id(&asker));
        let (bootstrap, name, partitions) = (bootstrap.to_owned(), name.to_owned(), known.partitions);
        Ok(Self { bootstrap, name, config, asker, reader, partitions, cluster })
    }

    /// How many partitions it has.
    pub fn partitions(&self) -> i32 {
        self.partitions
    }

    /// The id of the cluster.
    pub fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// The offsets of a partition: the first that is kept, and the one after the last that can be read.
    pub fn bounds(&self, partition: i32) -> Result<(i64, i64), TaskError> {
        client::bounds(&self.asker, &self.name, partition)
    }

    /// Reads a partition from `from` to `until` (exclusive).
    pub fn read<E: From<TaskError>>(
        &self,
        partition: i32,
        from: i64,
        until: i64,
        mut each: impl FnMut(Seen<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if from >= until {
            return Ok(());
        }
        let (reader, what) = (&self.reader, || format!("cannot read partition {partition}"));
        let records = Records::new(reader, &self.name, partition);
        let mut records = records.ok_or_else(|| TaskError::new(Class::Fatal, what()))?;
        let mut assignment = TopicPartitionList::new();
        let assigned = assignment
            .add_partition_offset(&self.name, partition, Offset::Offset(from))
            .and_then(|()| reader.assign(&assignment));
        assigned.map_err(|e| self.failed(&what(), e))?;
        let mut wait = Wait::begin(RECORD_MAX);
        loop {
            let error = match records.next(Duration::from_millis(100)) {
                Some(Ok(record)) => {
                    wait = Wait::begin(RECORD_MAX);
                    let offset = record.offset();
                    // One of an earlier read may still have been on its way.
                    if (from..until).contains(&offset) {
                        each(self.seen(partition, &record)?)?;
                    }
                    if offset + 1 >= until {
                        break;
                    }
                    continue;
                }
                // Also where the last offsets hold no record.
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) => Some(error),
                None => reader.poll(Duration::ZERO).and_then(Result::err),
            };
            if wait.is_over() || error.as_ref().is_some_and(|error| !is_passing(error)) {
                let none = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
                return Err(self.failed(&what(), error.unwrap_or(none)).into());
            }
        }
        // Whether it could be told or not: the next read assigns anew.
        let _ = reader.unassign();
        Ok(())
    }

    fn seen<'a>(&self, partition: i32, record: &'a NativeRecord<'_>) -> Result<Seen<'a>, TaskError> {
        let offset = record.offset();
        let headers = record.headers().map_err(|reason| {
            let message = format!("topic {} partition {partition} offset {offset}: {reason}", self.name);
            TaskError::new(Class::Config, message)
        })?;
        let value = record.payload();
        Ok(Seen {
            offset,
            time_ms: record.timestamp().to_millis().unwrap_or(-1),
            record: Record {
                key: record.key().map(Cow::Borrowed),
                headers: headers.into_iter().map(|h| (h.name.into(), h.value.map(Cow::Borrowed))).collect(),
                is_tombstone: value.is_none(),
            },
            value,
        })
    }

    /// What a group committed in each partition.
    pub fn committed(&self, group: &str) -> Result<Vec<Option<i64>>, TaskError> {
        let member = client::consumer(&self.config, group)?;
        let mut asked = TopicPartitionList::new();
        for partition in 0..self.partitions {
            asked.add_partition(&self.name, partition);
        }
        let what = format!("cannot ask for the offsets of group {group}");
        let found = member.committed_offsets(asked, ANSWER_MAX);
        let found = found.map_err(|e| self.failed(&what, e))?;
        let offset = |partition: i32| {
            let element = found.find_partition(&self.name, partition);
            match element.map(|element| element.error().map(|()| element.offset())).transpose() {
                Ok(Some(Offset::Offset(offset))) => Ok(Some(offset)),
                Ok(_) => Ok(None),
                Err(error) => Err(self.failed(&what, error)),
            }
        };
        (0..self.partitions).map(offset).collect()
    }

    /// Commits offsets of a group, each with its partition. Brokers refuse it while the group has members.
    pub fn commit(&self, group: &str, offsets: &[(i32, i64)]) -> Result<(), TaskError> {
        let member = client::consumer(&self.config, group)?;
        let what = format!("cannot commit offsets of group {group}: it must have no members meanwhile");
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            let added = list.add_partition_offset(&self.name, *partition, Offset::Offset(*offset));
            added.map_err(|e| self.failed(&what, e))?;
        }
        member.commit(&list, CommitMode::Sync).map_err(|e| self.failed(&what, e))
    }

    fn failed(&self, what: &str, error: KafkaError) -> TaskError {
        let what = format!("topic {} of Kafka at {}: {what}", self.name, self.bootstrap);
        failed(what, error, &self.reader.context().told)
    }
}

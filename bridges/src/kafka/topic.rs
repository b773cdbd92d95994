//! A whole Kafka topic, record by record, and where a consumer group stands in it: for tools that compare topics.

use std::borrow::Cow;
use std::time::Duration;

use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sluice_connect::task::{Class, TaskError};

use super::client::{self, ANSWER_MAX, Context, Wait, failed, headers, is_passing};
use super::mapping::Record;
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
    reader: BaseConsumer<Context>,
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
        let (reader, cluster) = (client::consumer(&config, GROUP)?, client::cluster_id(&asker));
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
        let mut assignment = TopicPartitionList::new();
        let assigned = assignment
            .add_partition_offset(&self.name, partition, Offset::Offset(from))
            .and_then(|()| reader.assign(&assignment));
        assigned.map_err(|e| self.failed(&what(), e))?;
        let mut wait = Wait::begin(RECORD_MAX);
        loop {
            match reader.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    wait = Wait::begin(RECORD_MAX);
                    let offset = message.offset();
                    // A message of the partition that was read before may still have been on its way.
                    if message.partition() != partition || offset < from {
                        continue;
                    }
                    if offset >= until {
                        break;
                    }
                    let named = headers(&message).map_err(|reason| {
                        TaskError::new(
                            Class::Config,
                            format!("topic {} partition {partition} offset {offset}: {reason}", self.name),
                        )
                    })?;
                    let record = Record {
                        key: message.key().map(Cow::Borrowed),
                        headers: named
                            .into_iter()
                            .map(|h| (h.name.into(), h.value.map(Cow::Borrowed)))
                            .collect(),
                        is_tombstone: message.payload().is_none(),
                    };
                    let time_ms = message.timestamp().to_millis().unwrap_or(-1);
                    each(Seen { offset, time_ms, record, value: message.payload() })?;
                    if offset + 1 == until {
                        break;
                    }
                }
                // Also where the last offsets hold no record.
                Some(Err(KafkaError::PartitionEOF(at))) if at == partition => break,
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) if is_passing(&error) && !wait.is_over() => {}
                Some(Err(error)) => return Err(self.failed(&what(), error).into()),
                None if wait.is_over() => {
                    let error = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
                    return Err(self.failed(&what(), error).into());
                }
                None => {}
            }
        }
        // Whether it could be told or not: the next read assigns anew.
        let _ = reader.unassign();
        Ok(())
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

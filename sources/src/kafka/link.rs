//! The clients of source `kafka`: what they are asked beside the records, and the group's offsets.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sluice_bridges::kafka::client::{
    ANSWER_MAX, Context, Wait, bounds, cluster_id, consumer, failed, is_passing, member,
};
use sluice_bridges::kafka::commits::Commits;
use sluice_bridges::kafka::records::Records;
use sluice_connect::task::{Class, Confirm, TaskError};

use super::KafkaConfig;
use super::mark::Mark;
use crate::opened;

/// The setting of what one partition reads ahead, in KiB.
pub(super) const AHEAD: &str = "queued.max.messages.kbytes";

/// The clients: one that reads on, and what makes one for a question.
pub(super) struct Link {
    pub(super) reader: Arc<BaseConsumer<Context>>,
    /// Asks for topics, first records and ends.
    pub(super) asker: BaseConsumer<Context>,
    /// Says which partitions are this worker's, where others share them.
    pub(super) member: Option<BaseConsumer<Context>>,
    /// Clients that nobody waits for while they end.
    ending: Mutex<Vec<JoinHandle<()>>>,
    config: ClientConfig,
    group: String,
    bootstrap: String,
    /// The id of the cluster.
    pub(super) cluster: Option<String>,
}

impl Drop for Link {
    fn drop(&mut self) {
        // Clients wait for the answer when they end.
        if let Err(error) = self.commits().commit(self.committer(), CommitMode::Async) {
            tracing::warn!(group = self.group, %error, "the group's last offsets are not committed");
        }
        for ending in self.ending.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            drop(ending.join());
        }
    }
}

impl Link {
    /// With clients of this configuration; `asker` is one of them.
    pub(super) fn new(
        settings: &KafkaConfig,
        group: &str,
        config: ClientConfig,
        asker: BaseConsumer<Context>,
    ) -> Result<Self, TaskError> {
        let reader = Arc::new(consumer(&config, group)?);
        let topics: Vec<&str> = settings.topic.iter().chain(&settings.topics).map(String::as_str).collect();
        let member = settings.shared.then(|| member(&config, group, &topics)).transpose()?;
        let (group, bootstrap) = (group.to_owned(), settings.bootstrap.clone());
        let (cluster, ending) = (cluster_id(&asker), Mutex::default());
        Ok(Self { reader, asker, member, ending, config, group, bootstrap, cluster })
    }

    /// Who commits the group's offsets.
    pub(super) fn committer(&self) -> &BaseConsumer<Context> {
        self.member.as_ref().unwrap_or(&self.reader)
    }

    pub(super) fn commits(&self) -> &Commits {
        &self.committer().context().commits
    }

    pub(super) fn committed(&self, result: KafkaResult<()>) -> Result<(), TaskError> {
        result.map_err(|e| self.failed(&format!("cannot commit the offset of group {}", self.group), e))
    }

    pub(super) fn failed(&self, what: &str, error: KafkaError) -> TaskError {
        failed(format!("Kafka at {}: {what}", self.bootstrap), error, &self.reader.context().told)
    }

    /// The first record of each partition from an offset on, by a client of its own: the others are reading.
    pub(super) fn marks(&self, of: &[(&str, i32, i64)]) -> Result<Vec<Mark>, TaskError> {
        if of.is_empty() {
            return Ok(Vec::new());
        }
        let mut config = self.config.clone();
        // One record is enough.
        config.set("fetch.message.max.bytes", "65536").set(AHEAD, "1024");
        let consumer = Arc::new(consumer(&config, &self.group)?);
        let told = &consumer.context().told;
        let what = || format!("Kafka at {}: cannot read the first records", self.bootstrap);
        let mut assignment = TopicPartitionList::new();
        for (topic, partition, offset) in of {
            let added = assignment.add_partition_offset(topic, *partition, Offset::Offset(*offset));
            added.map_err(|e| failed(what(), e, told))?;
        }
        let mut queues = Vec::new();
        for (topic, partition, _) in of {
            let records = Records::new(&consumer, topic, *partition);
            queues.push(records.ok_or_else(|| TaskError::new(Class::Fatal, what()))?);
        }
        consumer.assign(&assignment).map_err(|e| failed(what(), e, told))?;
        let wait = Wait::begin(ANSWER_MAX);
        let mut marks = Vec::with_capacity(of.len());
        for ((.., offset), records) in of.iter().zip(&mut queues) {
            marks.push(loop {
                match records.next(Duration::from_millis(20)) {
                    Some(Ok(record)) => break Mark::of(&record),
                    Some(Err(KafkaError::PartitionEOF(_))) => break Mark::empty(*offset),
                    Some(Err(error)) if !is_passing(&error) => return Err(failed(what(), error, told)),
                    _ if wait.is_over() => {
                        let error = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
                        return Err(failed(what(), error, told));
                    }
                    _ => {}
                }
                if let Some(Err(error)) = consumer.poll(Duration::ZERO)
                    && !is_passing(&error)
                {
                    return Err(failed(what(), error, told));
                }
            });
        }
        // A client takes a tenth of a second to end.
        let ending = std::thread::Builder::new().spawn(move || drop((queues, consumer)));
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).extend(ending);
        Ok(marks)
    }
}

/// Keeps the group's offsets at the brokers, for Kafka's own tools.
pub(super) struct Confirmer {
    pub(super) link: Option<Arc<Link>>,
}

impl Confirm for Confirmer {
    /// What brokers show is on all replicas that count; nothing makes it more durable.
    fn secure(&self, _topic: &str, _queue: i32, _end: i64) -> Result<(), TaskError> {
        Ok(())
    }

    fn confirm(&self, topic: &str, queue: i32, end: i64) -> Result<(), TaskError> {
        let link = opened(self.link.as_ref())?;
        // Others read on: what is stored now comes again there, and their offset is not set back.
        if link.member.as_ref().is_some_and(|member| !member.context().assigned.has(topic, queue)) {
            return Ok(());
        }
        link.committed(link.commits().add(link.committer(), (topic, queue), end))
    }

    fn same(&self, topic: &str, queue: i32, recorded: &str, current: &str) -> Result<bool, TaskError> {
        if recorded == current {
            return Ok(true);
        }
        let (Some(recorded), Some(current)) = (Mark::parse(recorded), Mark::parse(current)) else {
            return Ok(false);
        };
        match recorded.is_of(&current) {
            Some(known) => Ok(known),
            None => {
                let link = opened(self.link.as_ref())?;
                // An offset beyond the end can not be read from.
                if bounds(&link.asker, topic, queue)?.1 <= recorded.offset {
                    return Ok(false);
                }
                let found = link.marks(&[(topic, queue, recorded.offset)])?;
                Ok(found.first().is_some_and(|found| recorded.is_still(found)))
            }
        }
    }

    fn confirmed(&self, topic: &str, queue: i32) -> Result<Option<i64>, TaskError> {
        let link = opened(self.link.as_ref())?;
        if let Err(error) = link.commits().commit(link.committer(), CommitMode::Sync) {
            // At worst rows come twice.
            tracing::warn!(group = link.group, %error, "offsets are not committed yet");
        }
        let mut asked = TopicPartitionList::new();
        asked.add_partition(topic, queue);
        let committed = link.reader.committed_offsets(asked, ANSWER_MAX);
        let committed = committed
            .map_err(|e| link.failed(&format!("cannot ask for the offset of group {}", link.group), e))?;
        let found = committed.find_partition(topic, queue).map(|partition| partition.offset());
        Ok(match found {
            Some(Offset::Offset(offset)) => Some(offset),
            _ => None,
        })
    }
}

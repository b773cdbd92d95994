//! The offsets that a group is to have at the brokers: gathered, and committed together now and then, because a commit costs the
//! brokers about as much as a record.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sluice_bridges::kafka::client::{Context, Wait};

/// How long an offset waits for others.
const COMMIT_INTERVAL: Duration = Duration::from_millis(200);

/// What is to be committed.
#[derive(Default)]
pub(super) struct Commits(Mutex<Gathered>);

#[derive(Default)]
struct Gathered {
    /// The next offset of each partition.
    offsets: BTreeMap<(String, i32), i64>,
    last: Option<Wait>,
}

impl Commits {
    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an offset, and commits what is there if that is due.
    pub(super) fn add(
        &self,
        consumer: &BaseConsumer<Context>,
        (topic, partition): (&str, i32),
        next: i64,
    ) -> KafkaResult<()> {
        self.lock().offsets.insert((topic.to_owned(), partition), next);
        self.commit_if_due(consumer)
    }

    /// Commits what is there if the last time is long enough ago.
    pub(super) fn commit_if_due(&self, consumer: &BaseConsumer<Context>) -> KafkaResult<()> {
        if self.lock().last.as_ref().is_none_or(Wait::is_over) {
            return self.commit(consumer, CommitMode::Async);
        }
        Ok(())
    }

    /// Commits what is there.
    pub(super) fn commit(&self, consumer: &BaseConsumer<Context>, mode: CommitMode) -> KafkaResult<()> {
        let mut gathered = self.lock();
        if gathered.offsets.is_empty() {
            return Ok(());
        }
        let mut offsets = TopicPartitionList::new();
        for ((topic, partition), next) in &gathered.offsets {
            offsets.add_partition_offset(topic, *partition, Offset::Offset(*next))?;
        }
        gathered.last = Some(Wait::begin(COMMIT_INTERVAL));
        consumer.commit(&offsets, mode)?;
        gathered.offsets.clear();
        Ok(())
    }
}

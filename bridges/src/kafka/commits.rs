//! The offsets that a group is to have at the brokers: gathered, and committed together now and then, because a commit costs the
//! brokers about as much as a record.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::client::{Context, Wait};

/// How long an offset waits for others.
const COMMIT_INTERVAL: Duration = Duration::from_millis(200);

/// What is to be committed.
#[derive(Debug, Default)]
pub struct Commits(Mutex<Gathered>);

/// The next offset of each partition.
type Offsets = BTreeMap<(String, i32), i64>;

#[derive(Debug, Default)]
struct Gathered {
    new: Offsets,
    /// What the last commit had that was new: nobody tells how it went, so it goes along once more.
    sent: Offsets,
    last: Option<Wait>,
}

impl Commits {
    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an offset, and commits what is there if that is due. An error is that of the client, as of the others here.
    pub fn add(
        &self,
        consumer: &BaseConsumer<Context>,
        (topic, partition): (&str, i32),
        next: i64,
    ) -> KafkaResult<()> {
        self.lock().new.insert((topic.to_owned(), partition), next);
        self.commit_if_due(consumer)
    }

    /// Commits what is there if the last time is long enough ago.
    pub fn commit_if_due(&self, consumer: &BaseConsumer<Context>) -> KafkaResult<()> {
        if self.lock().last.as_ref().is_none_or(Wait::is_over) {
            return self.commit(consumer, CommitMode::Async);
        }
        Ok(())
    }

    /// Commits what is there; with `Sync` the answer is waited for.
    pub fn commit(&self, consumer: &BaseConsumer<Context>, mode: CommitMode) -> KafkaResult<()> {
        let mut gathered = self.lock();
        let Gathered { new, sent, .. } = &*gathered;
        if new.is_empty() && sent.is_empty() {
            return Ok(());
        }
        let mut offsets = TopicPartitionList::new();
        let again = sent.iter().filter(|(partition, _)| !new.contains_key(*partition));
        for ((topic, partition), next) in new.iter().chain(again) {
            offsets.add_partition_offset(topic, *partition, Offset::Offset(*next))?;
        }
        gathered.last = Some(Wait::begin(COMMIT_INTERVAL));
        consumer.commit(&offsets, mode)?;
        gathered.sent = std::mem::take(&mut gathered.new);
        Ok(())
    }

    /// Forgets what is there of a partition that others read on.
    pub fn forget(&self, partition: &(String, i32)) {
        let mut gathered = self.lock();
        gathered.new.remove(partition);
        gathered.sent.remove(partition);
    }
}

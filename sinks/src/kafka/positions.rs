//! Where chains stand in a Kafka cluster: the last record of each chain's key in a compacted topic, partition 0.
//!
//! Its value is JSON, see [`Standing`]. A reader must see all that was committed before: it asks for the end of the
//! partition as writers see it, and reads what is committed up to there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use serde::{Deserialize, Serialize};
use sluice_bridges::kafka::client::{Context, Wait, asker, bounds, consumer, read_to_end};
use sluice_connect::task::{Chain, Class, Fates, TaskError};

/// How long the transaction of another producer is waited for: brokers end it after its own time.
const OPEN_MAX: Duration = Duration::from_secs(90);
/// How long a worker that lives takes for the end of a transaction, about.
const COMMIT_MAX: Duration = Duration::from_millis(500);
/// No consumer of this group ever commits; a client that is told its partitions needs a name all the same.
const GROUP: &str = "sluice-positions";
/// The partition.
pub(super) const PARTITION: i32 = 0;

/// The value of a chain's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    /// First source offset that the target does not have.
    pub(super) end: i64,
    /// The incarnation of the source's topic.
    pub(super) incarnation: String,
    /// What became of the offsets since the record before.
    pub(super) fates: Fates,
}

/// The key of a chain's record.
pub(super) fn key(chain: &Chain) -> String {
    chain.to_string()
}

/// Reads the topic of positions, and goes on where it was.
pub(super) struct Positions {
    topic: String,
    /// Sees what is committed.
    reader: BaseConsumer<Context>,
    /// Sees where writers are.
    writers: BaseConsumer<Context>,
    /// The configuration of `writers`.
    uncommitted: ClientConfig,
    next: i64,
    standing: BTreeMap<String, Standing>,
}

impl Positions {
    /// `config` is that of the source's side for the same brokers.
    pub(super) fn new(config: &ClientConfig, topic: &str) -> Result<Self, TaskError> {
        let mut uncommitted = config.clone();
        uncommitted.set("isolation.level", "read_uncommitted");
        Ok(Self {
            topic: topic.to_owned(),
            reader: consumer(config, GROUP)?,
            writers: asker(&uncommitted)?,
            uncommitted,
            next: 0,
            standing: BTreeMap::new(),
        })
    }

    /// The keys of a pipeline's chains, but those in `ours`, whose transactions are open and hide what comes after them:
    /// those of a worker that was killed, which brokers would wait for until they time out.
    pub(super) fn hiding(&self, pipeline: &str, ours: &[String]) -> Result<Vec<String>, TaskError> {
        let Self { topic, reader, writers, uncommitted, .. } = self;
        let (_, end) = bounds(writers, topic, PARTITION)?;
        // Workers that live commit within this.
        let wait = Wait::begin(COMMIT_MAX);
        let visible = loop {
            let (_, visible) = bounds(reader, topic, PARTITION)?;
            if visible >= end || wait.is_over() {
                break visible;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut found = BTreeSet::new();
        if visible < end {
            let consumer = consumer(uncommitted, GROUP)?;
            read_to_end(&consumer, (topic, PARTITION), visible, end, OPEN_MAX, |record| {
                let key = record.key().and_then(|key| str::from_utf8(key).ok());
                let is_other = |key: &&str| {
                    let is_its = key.strip_prefix(pipeline).is_some_and(|rest| rest.starts_with('/'));
                    is_its && !ours.iter().any(|ours| ours == key)
                };
                found.extend(key.filter(is_other).map(str::to_owned));
                Ok(())
            })?;
        }
        Ok(found.into_iter().collect())
    }

    /// Reads on, so that [`Self::of`] knows what stands now for chains that nobody else can write for any more.
    pub(super) fn read(&mut self) -> Result<(), TaskError> {
        let Self { topic, reader, writers, next, standing, .. } = self;
        let (first, end) = bounds(writers, topic, PARTITION)?;
        *next = (*next).max(first);
        if *next < end {
            *next = read_to_end(reader, (topic, PARTITION), *next, end, OPEN_MAX, |record| {
                let Some(key) = record.key().and_then(|key| str::from_utf8(key).ok()) else { return Ok(()) };
                match record.payload() {
                    None => drop(standing.remove(key)),
                    Some(value) => {
                        let parsed = serde_json::from_slice(value).map_err(|e| {
                            let message = format!(
                                "topic {topic}: the position of {key} at offset {} can not be read: is it another program's topic?",
                                record.offset()
                            );
                            TaskError::new(Class::Config, message).because(e)
                        })?;
                        standing.insert(key.to_owned(), parsed);
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// What stood for a chain when it was read last.
    pub(super) fn of(&self, chain: &Chain) -> Option<Standing> {
        self.standing.get(&key(chain)).cloned()
    }
}

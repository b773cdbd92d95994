//! The topic table, the queues of each topic as readers see them, and who waits for an append.
//!
//! `config/topics.json` is `RocketMQ`'s: what it says of a topic that we do not use is kept as it is. Never
//! writes a file; the checkpoint does.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};
use sluice_protocol::id::{QueueId, TopicName};
use sluice_protocol::topic::perm;

use crate::consume_queue::Unit;
use crate::json::DataVersion;
use crate::{Access, Error, Topic};

/// Most queues of one topic; each takes some hundred bytes as soon as a file says that it is there.
pub const QUEUES_MAX: u32 = 16_384;

/// One queue. Its offsets only rise.
#[derive(Debug)]
pub(crate) struct Queue {
    /// A number of its own in this process.
    pub(crate) number: u32,
    pub(crate) topic: TopicName,
    pub(crate) id: QueueId,
    /// First offset kept.
    pub(crate) first: AtomicI64,
    /// First offset that readers do not see yet.
    pub(crate) visible: AtomicI64,
    /// First offset not written; changed under the writer's lock only.
    pub(crate) next: AtomicI64,
    /// Units that a reader beside a writer found in the log and does not trust the files for, with the
    /// offset of the first; empty in the writer.
    pub(crate) found: Mutex<(i64, VecDeque<Unit>)>,
    /// Whether its topic was deleted; changed under the writer's lock only.
    pub(crate) gone: AtomicBool,
}

impl Queue {
    pub(crate) fn new(number: u32, topic: TopicName, id: QueueId) -> Self {
        Self {
            number,
            topic,
            id,
            first: AtomicI64::new(0),
            visible: AtomicI64::new(0),
            next: AtomicI64::new(0),
            found: Mutex::new((i64::MAX, VecDeque::new())),
            gone: AtomicBool::new(false),
        }
    }

    /// Sets where the queue begins and ends, for writer and readers.
    pub(crate) fn set(&self, first: i64, next: i64) {
        self.first.store(first, Ordering::Release);
        self.next.store(next, Ordering::Release);
        self.visible.store(next, Ordering::Release);
    }

    /// First offset kept, and the one after the last that readers see.
    pub(crate) fn offsets(&self) -> (i64, i64) {
        let visible = self.visible.load(Ordering::Acquire);
        (self.first.load(Ordering::Acquire).min(visible), visible)
    }

    /// The units found in the log from an offset on, at most `max`; where the files are to be asked, the
    /// first offset that they are not trusted for.
    pub(crate) fn found(&self, from: i64, max: usize) -> Result<Vec<Unit>, i64> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if from < found.0 {
            return Err(found.0);
        }
        let skip = usize::try_from(from - found.0).unwrap_or(usize::MAX);
        Ok(found.1.iter().skip(skip).take(max).copied().collect())
    }
}

/// A topic with its queues.
#[derive(Clone, Debug)]
pub(crate) struct TopicEntry {
    pub(crate) topic: Topic,
    pub(crate) queues: Vec<Arc<Queue>>,
}

/// The topics that readers and appenders look up.
pub(crate) type Topics = HashMap<TopicName, Arc<TopicEntry>>;

/// `config/topics.json`, with the incarnations that lie in a file of ours.
#[derive(Clone, Debug, Default)]
pub(crate) struct TopicTable {
    version: DataVersion,
    configs: BTreeMap<TopicName, Value>,
    pub(crate) incarnations: BTreeMap<String, String>,
    /// Names of topics that were deleted, each with the length of the log then, in bytes: records below it are of none.
    pub(crate) deleted: BTreeMap<String, u64>,
    /// Whether the file must be written again.
    pub(crate) changed: bool,
}

impl TopicTable {
    /// A table of no topics yet.
    pub(crate) fn new(incarnations: BTreeMap<String, String>) -> Self {
        Self { incarnations, ..Self::default() }
    }

    /// The table in the text of the file. A topic whose name no folder can have is left out.
    pub(crate) fn parse(text: &str, incarnations: BTreeMap<String, String>) -> Result<Self, String> {
        let document = crate::json::lenient(text)?;
        let table = document.get("topicConfigTable").and_then(Value::as_object);
        let configs = table.into_iter().flatten().filter_map(|(name, config)| {
            let name = TopicName::stored(name).ok()?;
            config.is_object().then(|| (name, config.clone()))
        });
        let version = DataVersion::of(&document);
        Ok(Self { version, configs: configs.collect(), incarnations, ..Self::default() })
    }

    /// The text of the file.
    pub(crate) fn to_json(&self) -> String {
        let table: Map<String, Value> =
            self.configs.iter().map(|(name, config)| (name.to_string(), config.clone())).collect();
        json!({ "dataVersion": self.version, "topicConfigTable": table }).to_string()
    }

    /// Adds a topic, or nothing if there is one of that name.
    pub(crate) fn add(&mut self, name: &TopicName, queues: u32, incarnation: String, now_ms: i64) {
        if self.configs.contains_key(name) {
            self.incarnations.entry(name.to_string()).or_insert(incarnation);
            return;
        }
        let config = json!({
            "attributes": {},
            "order": false,
            "perm": 6,
            "readQueueNums": queues,
            "topicFilterType": "SINGLE_TAG",
            "topicName": name.as_str(),
            "topicSysFlag": 0,
            "writeQueueNums": queues,
        });
        self.configs.insert(name.clone(), config);
        self.incarnations.insert(name.to_string(), incarnation);
        self.version.step(now_ms);
        self.changed = true;
    }

    /// Removes a topic, with what the log holds of it up to a log offset.
    pub(crate) fn remove(&mut self, name: &str, log: u64, now_ms: i64) {
        self.configs.retain(|known, _| known.as_str() != name);
        self.incarnations.remove(name);
        self.deleted.insert(name.to_owned(), log);
        self.version.step(now_ms);
        self.changed = true;
    }

    /// Whether a record of a topic is one of a topic that was deleted.
    pub(crate) fn is_deleted(&self, topic: &str, log_offset: u64) -> bool {
        self.deleted.get(topic).is_some_and(|log| log_offset < *log)
    }

    /// Sets what clients are told of a topic that is there.
    pub(crate) fn set_access(&mut self, name: &TopicName, access: Access, now_ms: i64) {
        let Some(config) = self.configs.get_mut(name).and_then(Value::as_object_mut) else { return };
        config.insert("readQueueNums".to_owned(), access.read_queues.into());
        config.insert("writeQueueNums".to_owned(), access.write_queues.into());
        config.insert("perm".to_owned(), access.perm.into());
        self.version.step(now_ms);
        self.changed = true;
    }

    /// Rises with each change.
    pub(crate) fn version(&self) -> i64 {
        self.version.counter()
    }

    /// All topics in the order of their names. A count of queues beyond the limit counts as the limit.
    pub(crate) fn topics(&self) -> impl Iterator<Item = Topic> {
        self.configs.iter().map(|(name, config)| {
            let count = |key| {
                let count = config.get(key).and_then(Value::as_u64).unwrap_or(0);
                u32::try_from(count).unwrap_or(QUEUES_MAX).min(QUEUES_MAX)
            };
            let perm = config.get("perm").and_then(Value::as_i64).and_then(|perm| i32::try_from(perm).ok());
            let (read_queues, write_queues) = (count("readQueueNums"), count("writeQueueNums"));
            let perm = perm.unwrap_or(perm::READ | perm::WRITE);
            Topic {
                name: name.clone(),
                queues: read_queues.max(write_queues).max(1),
                incarnation: self.incarnations.get(name.as_str()).cloned().unwrap_or_default(),
                access: Access { read_queues, write_queues, perm },
            }
        })
    }
}

/// Makes the queues of a topic that have no place yet in `queues`, numbered from `number` on.
pub(crate) fn add_queues(queues: &mut Vec<Arc<Queue>>, name: &TopicName, count: u32, number: &mut u32) {
    while queues.len() < count as usize {
        let id = i32::try_from(queues.len()).ok().and_then(|id| QueueId::new(id).ok()).unwrap_or_default();
        queues.push(Arc::new(Queue::new(*number, name.clone(), id)));
        *number += 1;
    }
}

/// Looks a queue up.
pub(crate) fn find(topics: &Topics, topic: &TopicName, queue: QueueId) -> Result<Arc<Queue>, Error> {
    let entry = topics.get(topic).ok_or_else(|| Error::NoTopic { topic: topic.clone() })?;
    entry.queues.get(queue.index()).cloned().ok_or_else(|| Error::NoQueue {
        topic: topic.clone(),
        queue,
        queues: entry.topic.queues,
    })
}

/// Counts appends that readers can see, and wakes who waits for one.
#[derive(Debug, Default)]
pub(crate) struct Appends {
    count: Mutex<u64>,
    more: Condvar,
}

impl Appends {
    pub(crate) fn step(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.more.notify_all();
    }

    /// The count, as soon as it is not `seen` any more, or after `timeout`.
    pub(crate) fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.more.wait_timeout_while(count, timeout, |count| *count == seen);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

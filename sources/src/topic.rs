//! Source `topic`: messages of the embedded broker's store as envelope batches.
//!
//! The filter runs on the properties that it names before anything else is built; a body is a view over
//! the bytes that the store handed out, and is touched only for the rows that pass.

mod columns;

use std::sync::Arc;
use std::time::Duration;

use arrow::error::ArrowError;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_client::{Access, ClientSettings};
use sluice_connect::progress::Progress;
use sluice_connect::task::{
    Class, Confirm, Needs, REJECT_BODY_BYTES_MAX, Range, Read, Reject, Slice, SourceQueue, SourceTask,
    TaskError,
};
use sluice_filters::{Filter, Name, Scalar, Verdict};
use sluice_protocol::compression::inflate;
use sluice_protocol::id::{GroupName, QueueId, QueueOffset, TopicName};
use sluice_protocol::message::{self, KEYS, TAGS, UNIQ_KEY};
use sluice_protocol::record::{self, RECORD_BYTES_MIN, Record};
use sluice_store::Store;

use self::columns::{Envelope, user_properties};
use crate::cluster::ClusterSource;
use crate::source::{Beside, Source};
use crate::{KeyProblem, at};

/// Unpacked bodies of one slice, in bytes; a longer one is alone.
const UNPACKED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Settings of source `topic`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TopicConfig {
    /// The topic.
    pub name: String,
    /// Name servers of the brokers that have it, `host:port` with semicolons between; the embedded broker if not
    /// said.
    #[serde(default)]
    pub cluster: Option<String>,
    /// How the cluster lets it in; as everybody if not said.
    #[serde(default)]
    pub access: Access,
    /// The consumer group whose offsets show how far the pipeline is; the pipeline's name if not said.
    #[serde(default)]
    pub group: Option<String>,
    /// Where a pipeline begins that has no position yet.
    #[serde(default)]
    pub start: Begin,
    /// When the pipeline ends.
    #[serde(default)]
    pub until: Until,
}

impl TopicConfig {
    /// Settings of a client of these name servers.
    pub(crate) fn client(&self, cluster: &str) -> ClientSettings {
        ClientSettings { access: self.access.clone(), ..ClientSettings::new(cluster) }
    }
}

impl Source for TopicConfig {
    fn problems(&self) -> Vec<KeyProblem> {
        let cluster = self.cluster.as_deref();
        let name = TopicName::new(&self.name).err().map(|e| ("name", e.to_string()));
        let told = cluster.and_then(|cluster| ClientSettings::new(cluster).check().err());
        let told = told.map(|e| ("cluster", e.to_string()));
        let group = self.group.as_deref().and_then(|group| GroupName::new(group).err());
        let group = group.map(|e| ("group", e.to_string()));
        let access = self.access.problem_beside(cluster).map(|problem| ("access", problem));
        [name, told, group, access].into_iter().flatten().map(|(key, problem)| (at(key), problem)).collect()
    }

    fn open(&self, beside: Beside<'_>) -> Result<Box<dyn SourceTask>, TaskError> {
        let Beside { pipeline, store, feeders, .. } = beside;
        Ok(match (&self.cluster, store) {
            (Some(cluster), _) => Box::new(ClusterSource::new(self, cluster, pipeline, feeders)?),
            (None, Some(store)) => Box::new(TopicSource::new(self, pipeline, store, feeders)?),
            (None, None) => {
                return Err(TaskError::new(Class::Fatal, "a topic is read without the store that has it"));
            }
        })
    }

    fn topic(&self) -> Option<(Option<&str>, &str)> {
        Some((self.cluster.as_deref(), &self.name))
    }

    fn secrets(&self) -> Vec<Vec<&'static str>> {
        vec![vec!["access", "secret_key"]]
    }
}

/// Where a pipeline begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Begin {
    /// At the first record that is kept.
    #[default]
    Earliest,
    /// After the last record that is there now.
    Latest,
}

/// When a pipeline over a topic ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// At the end of the topic, once every pipeline of this run that feeds it has ended.
    CaughtUp,
    /// When it is stopped.
    #[default]
    Forever,
}

/// Reads one topic of a store.
pub struct TopicSource {
    store: Store,
    topic: TopicName,
    group: GroupName,
    start: Begin,
    until: Until,
    feeders: Vec<Arc<Progress>>,
    needs: Needs,
    seen: u64,
}

impl TopicSource {
    /// `feeders` are the pipelines of this run that write to the topic; `pipeline` names the group if the
    /// config does not.
    pub fn new(
        config: &TopicConfig,
        pipeline: &str,
        store: Store,
        feeders: Vec<Arc<Progress>>,
    ) -> Result<Self, TaskError> {
        let config_error = |e: sluice_protocol::id::IdError| TaskError::new(Class::Config, e.to_string());
        let topic = TopicName::new(&config.name).map_err(config_error)?;
        let group = GroupName::new(config.group.as_deref().unwrap_or(pipeline)).map_err(config_error)?;
        let needs = Needs::default();
        Ok(Self { store, topic, group, start: config.start, until: config.until, feeders, needs, seen: 0 })
    }
}

fn store_error(what: String, error: sluice_store::Error) -> TaskError {
    let class = match error.kind() {
        sluice_store::Kind::Retry => Class::Retry,
        sluice_store::Kind::Caller => Class::Config,
        sluice_store::Kind::Broken => Class::Fatal,
    };
    TaskError::new(class, what).because(error)
}

impl SourceTask for TopicSource {
    fn open(&mut self, needs: &Needs) -> Result<(), TaskError> {
        self.needs = needs.clone();
        Ok(())
    }

    fn queues(&mut self) -> Result<Vec<SourceQueue>, TaskError> {
        let Some(topic) = self.store.topic(&self.topic) else {
            return Err(TaskError::new(Class::Config, format!("no such topic: {}", self.topic)));
        };
        let mut queues = Vec::new();
        for id in QueueId::all(topic.queues) {
            let (first, end) = self.store.offsets(&self.topic, id).unwrap_or_default();
            queues.push(SourceQueue {
                topic: self.topic.as_str().into(),
                queue: id.get(),
                incarnation: topic.incarnation.clone(),
                first: first.get(),
                origin: if self.start == Begin::Latest { end.get() } else { first.get() },
            });
        }
        Ok(queues)
    }

    fn read(&mut self, _topic: &str, queue: i32, range: Range, bytes_max: usize) -> Result<Read, TaskError> {
        // The order matters: who feeds the topic may add rows until it has ended.
        let fed = self.feeders.iter().all(|f| f.has_ended());
        let id = QueueId::new(queue).map_err(|e| TaskError::new(Class::Fatal, e.to_string()))?;
        let read =
            self.store.read(&self.topic, id, QueueOffset::new(range.start), bytes_max).map_err(|e| {
                store_error(format!("cannot read topic {} queue {queue} from {}", self.topic, range.start), e)
            })?;
        if read.next.get() <= range.start {
            let ended = self.until == Until::CaughtUp && fed;
            return Ok(if ended { Read::Ended } else { Read::Idle });
        }
        let end = read.next.get().min(range.end);
        slice(&read.runs, Range { start: range.start, end }, &self.needs).map(Read::Slice)
    }

    fn wait(&mut self, timeout: Duration) {
        // Not at a read: what came for a queue that was read before in the same round would be waited for.
        self.seen = self.store.wait(self.seen, timeout);
    }

    fn end(&mut self, _topic: &str, queue: i32) -> Option<i64> {
        let (_, end) = self.store.offsets(&self.topic, QueueId::new(queue).ok()?)?;
        Some(end.get())
    }

    fn confirmer(&self) -> Arc<dyn Confirm> {
        Arc::new(Confirmer {
            store: self.store.clone(),
            topic: self.topic.clone(),
            group: self.group.clone(),
        })
    }
}

struct Confirmer {
    store: Store,
    topic: TopicName,
    group: GroupName,
}

impl Confirm for Confirmer {
    fn secure(&self, _topic: &str, _queue: i32, _end: i64) -> Result<(), TaskError> {
        self.store.flush().map_err(|e| store_error("cannot flush the store".to_owned(), e))
    }

    fn confirm(&self, _topic: &str, queue: i32, end: i64) -> Result<(), TaskError> {
        let id = QueueId::new(queue).map_err(|e| TaskError::new(Class::Fatal, e.to_string()))?;
        self.store
            .commit_offset(&self.group, &self.topic, id, QueueOffset::new(end))
            .map_err(|e| store_error(format!("cannot commit the offset of group {}", self.group), e))
    }

    fn confirmed(&self, _topic: &str, queue: i32) -> Result<Option<i64>, TaskError> {
        let id = QueueId::new(queue).map_err(|e| TaskError::new(Class::Fatal, e.to_string()))?;
        Ok(self.store.committed_offset(&self.group, &self.topic, id).map(QueueOffset::get))
    }
}

/// Builds the slice of `range` from the records of a read. It ends early where unpacked bodies become too
/// much for one.
pub fn slice(runs: &[sluice_store::Run], mut range: Range, needs: &Needs) -> Result<Slice, TaskError> {
    let wants_body = needs.columns.contains(&"body");
    // With a filter few pass.
    let offsets = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
    let records_max = runs.iter().map(|run| run.bytes.len() / RECORD_BYTES_MIN).sum();
    let rows_max = if needs.filter.is_none() { offsets.min(records_max) } else { 0 };
    let wrong = |e: ArrowError| TaskError::new(Class::Fatal, "cannot build the envelope").because(e);
    let (mut envelope, mut rejects, mut unpacked) = (Envelope::new(needs, rows_max), Vec::new(), 0_usize);
    let (mut accounted, mut filtered, mut bytes) = (0_i64, 0_u64, 0_usize);
    let mut stored_ms = None;
    'read: for run in runs {
        let (mut at, block) = (0, envelope.block(&run.bytes));
        for record in record::records(&run.bytes) {
            let record = record.map_err(|e| {
                let place = format!("record at log offset {}", run.log_offset.get() + at as u64);
                TaskError::new(Class::Config, format!("{place} is damaged")).because(e)
            })?;
            let body_start = at + record.body_start;
            at += record.size;
            if !(range.start..range.end).contains(&record.queue_offset) {
                continue;
            }
            stored_ms = Some(record.store_timestamp_ms);
            if needs.filter.as_ref().is_some_and(|filter| !passes(filter, &Asked::from(&record))) {
                filtered += 1;
                accounted += 1;
                continue;
            }
            if !record.check_body_crc() {
                rejects.push(reject(&record, "the body does not match its checksum"));
            } else if wants_body && record.sys_flag & message::sys_flag::COMPRESSED != 0 {
                match inflate(record.body, record.sys_flag) {
                    Err(error) => rejects.push(reject(&record, &error.to_string())),
                    Ok(body) if accounted > 0 && unpacked + body.len() > UNPACKED_BYTES_MAX => {
                        range.end = record.queue_offset;
                        break 'read;
                    }
                    Ok(body) => {
                        let body = Bytes::from(body);
                        unpacked += body.len();
                        bytes += record.size;
                        let own = envelope.block(&body);
                        envelope.push(&record, (own, 0, body.len())).map_err(wrong)?;
                    }
                }
            } else {
                bytes += record.size;
                envelope.push(&record, (block, body_start, record.body.len())).map_err(wrong)?;
            }
            accounted += 1;
        }
    }
    let absent = u64::try_from(range.end - range.start - accounted).unwrap_or(0);
    let rejected: usize = rejects.iter().map(|r: &Reject| r.body.len()).sum();
    let envelope = envelope.finish().map_err(wrong)?;
    let bytes = bytes + unpacked + rejected;
    let (decoded, deduplicated) = (None, Vec::new());
    Ok(Slice { range, envelope, decoded, filtered, absent, deduplicated, rejects, bytes, stored_ms })
}

/// What a filter over properties and envelope columns may ask of a message.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names of the envelope's columns; times in ms since 1970-01-01 UTC")]
pub struct Asked<'a> {
    pub topic: &'a str,
    pub queue_id: i32,
    pub queue_offset: i64,
    pub store_timestamp_ms: i64,
    pub born_timestamp_ms: i64,
    /// Encoded, see [`sluice_protocol::message`].
    pub properties: &'a [u8],
}

impl<'a> From<&Record<'a>> for Asked<'a> {
    fn from(record: &Record<'a>) -> Self {
        Self {
            topic: record.topic,
            queue_id: record.queue_id,
            queue_offset: record.queue_offset,
            store_timestamp_ms: record.store_timestamp_ms,
            born_timestamp_ms: record.born_timestamp_ms,
            properties: record.properties,
        }
    }
}

/// Whether a filter is TRUE for a message; asks its bytes, so that nothing is built of one that is left out.
pub fn passes(filter: &Filter, asked: &Asked<'_>) -> bool {
    fn text<'a>(properties: &'a [u8], name: &str) -> Scalar<'a> {
        message::property(properties, name).map_or(Scalar::Null, Scalar::Text)
    }
    let envelope = |name: &Name| {
        let Name::Envelope(column) = name else { return Scalar::Null };
        match column.as_str() {
            "topic" => Scalar::Text(asked.topic),
            "queue_id" => Scalar::Int(asked.queue_id),
            "queue_offset" => Scalar::Long(asked.queue_offset),
            "store_timestamp" => Scalar::millis(asked.store_timestamp_ms),
            "born_timestamp" => Scalar::millis(asked.born_timestamp_ms),
            "message_id" => text(asked.properties, UNIQ_KEY),
            "keys" => text(asked.properties, KEYS),
            "tags" => text(asked.properties, TAGS),
            _ => Scalar::Other,
        }
    };
    filter.evaluate(asked.properties, &envelope) == Verdict::True
}

fn reject(record: &Record<'_>, reason: &str) -> Reject {
    let kept = record.body.get(..REJECT_BODY_BYTES_MAX).unwrap_or(record.body);
    Reject {
        offset: record.queue_offset,
        reason: reason.to_owned(),
        body: Bytes::copy_from_slice(kept),
        body_bytes: record.body.len() as u64,
        place: format!("topic {} queue {} offset {}", record.topic, record.queue_id, record.queue_offset),
        properties: user_properties(record).map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
    }
}

//! The contracts of the runtime: what a source task gives, what a sink task takes, and how they fail.
//!
//! A task runs on a thread of its own and may block, so nothing here is `async`. The order in which
//! the runtime calls a task is written in [`crate::plan`]; retry, filters, decoding and counting belong
//! to the runtime, so that a task stays small.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sluice_filters::Filter;

use crate::plan::{Plan, PlanFile, schema_hash};

/// One queue of one source topic, as one pipeline reads it; written `pipeline/topic/queue`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain {
    /// The pipeline's name.
    pub pipeline: Arc<str>,
    /// The source's topic; for files the path below the pattern's fixed part.
    pub topic: Arc<str>,
    /// The queue id; 0 for sources without queues.
    pub queue: i32,
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.pipeline, self.topic, self.queue)
    }
}

/// Queue offsets, start inclusive, end exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First offset of the range.
    pub start: i64,
    /// First offset after the range.
    pub end: i64,
}

impl Range {
    /// Offsets in it.
    pub fn rows(self) -> u64 {
        u64::try_from(self.end.saturating_sub(self.start)).unwrap_or(0)
    }
}

/// How many source offsets met which fate, in rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fates {
    /// In the target.
    pub written: u64,
    /// The filter was not TRUE.
    pub filtered: u64,
    /// Step `dedupe` found their key in a row before them.
    #[serde(default, skip_serializing_if = "is_none")]
    pub deduplicated: u64,
    /// Asked for by `errors: {then: skip}`.
    pub skipped: u64,
    /// In the dead-letter topic.
    pub dead: u64,
    /// No record stands at the offset.
    pub absent: u64,
}

impl Fates {
    /// The sum over all fates: as many as the range has offsets.
    pub fn total(&self) -> u64 {
        self.written + self.filtered + self.deduplicated + self.skipped + self.dead + self.absent
    }

    /// Adds another range's counts.
    pub fn add(&mut self, other: &Self) {
        self.written += other.written;
        self.filtered += other.filtered;
        self.deduplicated += other.deduplicated;
        self.skipped += other.skipped;
        self.dead += other.dead;
        self.absent += other.absent;
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_none(count: &u64) -> bool {
    *count == 0
}

/// What a pipeline wants of its source; nothing else is materialised.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Names of envelope columns ([`crate::batch::COLUMNS`]); `queue_offset` always comes along.
    pub columns: Vec<&'static str>,
    /// Properties wanted as columns `properties.<name>`, sorted, each once.
    pub properties: Vec<String>,
    /// Whether all properties are wanted as the Map column `properties`.
    pub all_properties: bool,
    /// Whether all properties tell where a row was as well, so that a bridge knows it again. Files have columns for that.
    pub places: bool,
    /// Rows for which this is not TRUE are left out by the source and counted as filtered. It names
    /// envelope columns and properties only; what it names is among `columns` and `properties`.
    pub filter: Option<Arc<Filter>>,
}

/// One queue that a source has now.
#[derive(Clone, Debug)]
pub struct SourceQueue {
    /// The topic, see [`Chain::topic`].
    pub topic: Arc<str>,
    /// The queue id.
    pub queue: i32,
    /// Tells a topic from another one of the same name that came after it.
    pub incarnation: String,
    /// First offset that can still be read.
    pub first: i64,
    /// Where `start: earliest | latest` (or none) puts a pipeline that has no position yet.
    pub origin: i64,
}

/// Rows that one `read` gave, and the fate of the offsets that gave none.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The offsets that this slice accounts for, all of them.
    pub range: Range,
    /// The envelope of the rows that passed, in rising `queue_offset`; columns as [`Needs`] said. A step may have
    /// made several rows of a record: they share its offset, and it counts once.
    pub envelope: RecordBatch,
    /// The decoded body of the same rows, once decoded.
    pub decoded: Option<RecordBatch>,
    /// Offsets whose record the filter left out.
    pub filtered: u64,
    /// Offsets without a record.
    pub absent: u64,
    /// Offsets whose record has the key of one before it, rising.
    pub deduplicated: Vec<i64>,
    /// Records that do not fit, in rising offset; not among the rows.
    pub rejects: Vec<Reject>,
    /// What the slice holds in memory, in bytes, counted by view lengths.
    pub bytes: usize,
    /// When its last record was stored, in ms since 1970-01-01 UTC; `None` where the source does not know. For display.
    pub stored_ms: Option<i64>,
}

impl Slice {
    /// The columns that a sink writes: the decoded ones, else the envelope.
    pub fn output(&self) -> &RecordBatch {
        self.decoded.as_ref().unwrap_or(&self.envelope)
    }

    /// The slice as two, before and from an offset inside of it. `None` if it has offsets of two kinds that
    /// gave nothing, because it does not say which lie where.
    pub fn split(self, offset: i64) -> Option<(Self, Self)> {
        (self.filtered == 0 || self.absent == 0).then(|| self.split_anyhow(offset))
    }

    /// The same also then; which of the two has how many of each kind is a guess, and their sums are right.
    pub fn split_anyhow(mut self, offset: i64) -> (Self, Self) {
        let (mut filtered, mut absent) = (self.filtered, self.absent);
        let rows = crate::batch::offsets(&self.envelope).partition_point(|o| *o < offset);
        let rejects = self.rejects.split_off(self.rejects.partition_point(|r| r.offset < offset));
        let duplicates = self.deduplicated.partition_point(|o| *o < offset);
        let duplicates = self.deduplicated.split_off(duplicates);
        let mut tail = self.clone();
        (tail.rejects, tail.deduplicated) = (rejects, duplicates);
        (self.range.end, tail.range.start) = (offset, offset);
        let cut = |batch: &RecordBatch| (batch.slice(0, rows), batch.slice(rows, batch.num_rows() - rows));
        (self.envelope, tail.envelope) = cut(&self.envelope);
        if let Some(decoded) = &self.decoded {
            let (head, rest) = cut(decoded);
            (self.decoded, tail.decoded) = (Some(head), Some(rest));
        }
        for part in [&mut self, &mut tail] {
            let offsets = u64::try_from(part.range.end - part.range.start).unwrap_or(0);
            let there = crate::batch::offset_count(&part.envelope) + part.rejects.len() as u64;
            let gone = offsets.saturating_sub(there + part.deduplicated.len() as u64);
            part.filtered = gone.min(filtered);
            part.absent = (gone - part.filtered).min(absent);
            filtered -= part.filtered;
            absent -= part.absent;
        }
        (self, tail)
    }
}

/// A record that does not fit, with the reason.
#[derive(Clone, Debug)]
pub struct Reject {
    /// Its queue offset.
    pub offset: i64,
    /// What is wrong, for a person.
    pub reason: String,
    /// The body as far as it is kept (at most [`REJECT_BODY_BYTES_MAX`]).
    pub body: Bytes,
    /// The body's whole length in bytes.
    pub body_bytes: u64,
    /// Where it stands, for a person: a file and line, or a topic, queue and offset.
    pub place: String,
    /// Properties of the original record.
    pub properties: Vec<(String, String)>,
}

impl Reject {
    /// What it holds, in bytes, about: more than its dead letter has, whose properties repeat some of it.
    pub fn bytes(&self) -> usize {
        let texts = self.properties.iter().map(|(name, value)| name.len() + value.len() + 64).sum::<usize>();
        self.body.len() + self.reason.len() + self.place.len() + texts + 512
    }
}

/// A dead letter keeps this much of its body, in bytes.
pub const REJECT_BODY_BYTES_MAX: usize = 64 * 1024;

/// What a read found.
#[derive(Debug)]
pub enum Read {
    /// At least one offset was accounted for.
    Slice(Slice),
    /// Nothing there yet.
    Idle,
    /// Nothing there, and nothing more will come in this run.
    Ended,
    /// The queue is gone, and all of it was read. If the source lists it again it goes on from where the target stands.
    Gone,
    /// The source wants what was read to be published now: it gives only so much that is not confirmed.
    Held,
}

/// Brings record batches out of one system.
pub trait SourceTask: Send {
    /// Called once, before anything else.
    fn open(&mut self, needs: &Needs) -> Result<(), TaskError>;
    /// Whether what is to be read is there, for a run that opens it after that and has written nothing yet. Instead of
    /// `open`; nothing else is called then.
    fn exists(&mut self) -> Result<(), TaskError> {
        self.open(&Needs::default()).and_then(|()| self.queues()).map(drop)
    }
    /// The queues there are now.
    fn queues(&mut self) -> Result<Vec<SourceQueue>, TaskError>;
    /// Reads from `range.start`, at most to `range.end` (`i64::MAX` when unlimited) and about
    /// `bytes_max` bytes, at least one offset if one is there.
    fn read(&mut self, topic: &str, queue: i32, range: Range, bytes_max: usize) -> Result<Read, TaskError>;
    /// Nothing more is read of a queue for now; what is held of it may go.
    fn release(&mut self, _topic: &str, _queue: i32) {}
    /// Waits until there may be more to read, `timeout` at most.
    fn wait(&mut self, timeout: Duration);
    /// The last offset of the queue (exclusive), for the lag; `None` where it is not known.
    fn end(&mut self, topic: &str, queue: i32) -> Option<i64>;
    /// The half of the source that the sink's thread uses.
    fn confirmer(&self) -> Arc<dyn Confirm>;
}

/// The half of a source that the sink's side calls.
pub trait Confirm: Send + Sync {
    /// Makes the source durable up to `end`, so that those offsets can never mean other records.
    fn secure(&self, topic: &str, queue: i32, end: i64) -> Result<(), TaskError>;
    /// Tells the source that the target has everything below `end`: for display, and where a target has
    /// no position of its own.
    fn confirm(&self, topic: &str, queue: i32, end: i64) -> Result<(), TaskError>;
    /// Whether the topic that was read under the recorded incarnation is the one that is there now. An error
    /// says why it can not be read on although it is.
    fn same(&self, _topic: &str, _queue: i32, recorded: &str, current: &str) -> Result<bool, TaskError> {
        Ok(recorded == current)
    }
    /// Whether what was read can be read again under the same offsets. Without it the rows of a plan that is not
    /// finished are given back: they come again under others, because they were not confirmed.
    fn rereads(&self) -> bool {
        true
    }
    /// The incarnation to record with the rows from `start` on, where it is another one than when the queue was listed: a
    /// log goes on in another file. It says where `start` is found again; before such a change there is a
    /// [`Read::Held`].
    fn incarnation(&self, _topic: &str, _queue: i32, _start: i64) -> Option<String> {
        None
    }
    /// The last confirmed offset, if the source keeps one.
    fn confirmed(&self, topic: &str, queue: i32) -> Result<Option<i64>, TaskError>;
}

/// Where a file target says that a chain stands.
#[derive(Clone, Debug)]
pub struct Position {
    /// First offset that no plan covers.
    pub next: i64,
    /// The incarnation recorded last.
    pub incarnation: String,
    /// The last plan, if it is not done.
    pub unfinished: Option<Plan>,
}

/// How much a chain's open plan holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fill {
    /// Bytes held or written, about.
    pub bytes: u64,
    /// A limit was reached: the plan ends here.
    pub full: bool,
    /// Set if nothing was taken, because the plan must end within the slice: before this offset, which is
    /// above the slice's start.
    pub cut: Option<i64>,
}

/// Whether a plan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It was put, or the same plan stood there.
    Mine,
    /// Another worker's plan stands there.
    Theirs,
}

/// Takes record batches into files by plans: a target whose rows and position can not be one act.
pub trait SinkTask: Send {
    /// Where the chain stands, or `None` if it never began.
    fn position(&mut self, chain: &Chain) -> Result<Option<Position>, TaskError>;
    /// Fixes where a chain begins, if nothing is fixed yet.
    fn begin(&mut self, chain: &Chain, origin: i64, incarnation: &str) -> Result<(), TaskError>;
    /// The pipeline's newest schema if one is fixed. With `proposed`, puts that one first: if none is fixed, or if it is
    /// wider than the newest. What comes back may be neither, if another worker was first.
    fn schema(
        &mut self,
        pipeline: &str,
        proposed: Option<&SchemaRef>,
    ) -> Result<Option<SchemaRef>, TaskError>;
    /// The one of the pipeline's schemas that plans call by this hash.
    fn schema_by_hash(&mut self, pipeline: &str, hash: &str) -> Result<Option<SchemaRef>, TaskError> {
        Ok(self.schema(pipeline, None)?.filter(|schema| schema_hash(schema) == hash))
    }
    /// Whether files of rows with these columns can be written as asked for.
    fn accept(&self, _output: &SchemaRef) -> Result<(), TaskError> {
        Ok(())
    }
    /// Keeps the config's text under its hash, so that another worker can finish a plan made by it.
    fn keep_config(&mut self, pipeline: &str, hash: &str, text: &str) -> Result<(), TaskError>;
    /// The text kept under a hash.
    fn config(&mut self, pipeline: &str, hash: &str) -> Result<String, TaskError>;
    /// The plans of a pipeline that stand and are not done.
    fn unfinished(&mut self, pipeline: &str) -> Result<Vec<(Chain, Plan)>, TaskError>;
    /// Tries all that a run of the pipeline needs of the target, and leaves nothing behind.
    fn check(&mut self, pipeline: &str) -> Result<(), TaskError>;
    /// Rows of the slice that the target can never take, each with the reason; depends on the rows and the
    /// settings alone. They go where `errors` says and are not among the rows that come next.
    fn unfit(&self, _slice: &Slice) -> Vec<(usize, String)> {
        Vec::new()
    }
    /// Takes the rows of one slice; nothing is visible outside before `publish`. With [`Class::Record`] some row of
    /// it can never be taken, and nothing was: the runtime finds out which, and gives the others.
    fn put(&mut self, chain: &Chain, slice: &Slice) -> Result<Fill, TaskError>;
    /// What the rows of all open plans hold in memory, in bytes.
    fn memory(&self) -> usize;
    /// Writes rows out, without an end of their plans, until they hold at most `bytes_max`.
    fn shrink(&mut self, bytes_max: usize) -> Result<(), TaskError>;
    /// How long the first row of a plan may wait.
    fn age_max(&self) -> Duration;
    /// The files of the open plan that starts at `start`, in the order of their numbers.
    fn files(&mut self, chain: &Chain, start: i64) -> Result<Vec<PlanFile>, TaskError>;
    /// Puts the plan if none stands there.
    fn claim(&mut self, chain: &Chain, plan: &Plan) -> Result<Claim, TaskError>;
    /// Finishes the files under temporary names, with the plan in their footers, durably. Gives their sizes, in bytes.
    fn seal(&mut self, chain: &Chain, plan: &Plan) -> Result<Vec<u64>, TaskError>;
    /// Whether all files of the plan are there, with this plan in their footers.
    fn published(&mut self, chain: &Chain, plan: &Plan) -> Result<bool, TaskError>;
    /// Gives the files their names; one that is there with this plan in its footer is done.
    fn publish(&mut self, chain: &Chain, plan: &Plan) -> Result<(), TaskError>;
    /// Marks the plan as done.
    fn confirm(&mut self, chain: &Chain, plan: &Plan) -> Result<(), TaskError>;
    /// Marks a plan that is not done as given back: its rows come again in later plans. Whoever put it may finish it
    /// all the same; then its rows are there twice.
    fn give_back(&mut self, chain: &Chain, plan: &Plan) -> Result<(), TaskError>;
    /// Drops the rows of the open plan.
    fn discard(&mut self, chain: &Chain) -> Result<(), TaskError>;
}

/// What an act is to have that waits for a server or for the disk, in bytes.
pub const ACT_BYTES: usize = 2 * 1024 * 1024;

/// Takes record batches into a target that stores rows and position in one act.
pub trait TransactTask: Send {
    /// Told before [`Self::position`] is asked for each of these chains of one pipeline: what takes long for each can be
    /// done for all of them at once.
    fn prepare(&mut self, _chains: &[Chain]) -> Result<(), TaskError> {
        Ok(())
    }
    /// First offset of the chain that the target does not have, with the incarnation it saw; `None` if
    /// the chain never began, or the target keeps no positions.
    fn position(&mut self, _chain: &Chain) -> Result<Option<(i64, String)>, TaskError> {
        Ok(None)
    }
    /// Fixes where a chain begins, if the target keeps positions.
    fn begin(&mut self, _chain: &Chain, _origin: i64, _incarnation: &str) -> Result<(), TaskError> {
        Ok(())
    }
    /// Rows of the slice that the target can never take, each with the reason; depends on the rows and the
    /// settings alone. They go where `errors` says and are not among the rows that come next.
    fn unfit(&self, _slice: &Slice) -> Vec<(usize, String)> {
        Vec::new()
    }
    /// The rows of the slice to keep, where some of them came from the very topic that they would be written to: those
    /// are left out and count as filtered.
    fn kept(&mut self, _slice: &Slice) -> Result<Option<BooleanArray>, TaskError> {
        Ok(None)
    }
    /// Stores the slice's rows and moves the position from its start to its end, both or neither.
    /// Refused with [`Class::Fatal`] if the position is not the slice's start. With [`Class::Record`] some row can
    /// never be taken, and the position did not move: the runtime finds out which, and gives the others.
    fn commit(
        &mut self,
        chain: &Chain,
        incarnation: &str,
        slice: &Slice,
        fates: &Fates,
    ) -> Result<(), TaskError>;
    /// Makes durable what was committed.
    fn secure(&mut self) -> Result<(), TaskError>;
    /// Bytes of rows that one act is to have where they are there: more where an act costs much, however small, and 0
    /// where it costs next to nothing.
    fn bytes_wanted(&self) -> usize {
        ACT_BYTES
    }
    /// Whether the target keeps positions at all; without them delivery is at least once.
    fn keeps_positions(&self) -> bool {
        true
    }
}

/// Who must act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Time may heal it: a full disk, a lost connection. The pipeline goes on from its positions.
    Retry,
    /// Some record does not fit; `errors` in the pipeline says where it goes.
    Record,
    /// A person must change something; the pipeline blocks and nothing is dropped.
    Config,
    /// Our own invariant does not hold.
    Fatal,
}

/// A task's failure.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct TaskError {
    /// Who must act.
    pub class: Class,
    /// What was tried, with which values, and the way out.
    pub message: String,
    /// The cause.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl TaskError {
    /// An error of a class without a cause.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(cause.into());
        self
    }

    /// A failure of the file system: what is missing or forbidden is for a person, the rest may heal.
    pub fn io(message: impl Into<String>, cause: std::io::Error) -> Self {
        use std::io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory, NotFound, PermissionDenied};
        let class = match cause.kind() {
            NotFound | PermissionDenied | NotADirectory | IsADirectory | AlreadyExists => Class::Config,
            _ => Class::Retry,
        };
        Self::new(class, message).because(cause)
    }
}

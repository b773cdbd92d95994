//! One run of one pipeline: a thread reads and transforms, a thread puts and publishes, and a channel
//! bounded by bytes lies between them.
//!
//! The source's half is here; what becomes of a slice in the target is in [`crate::target`]. Retry is
//! [`crate::worker`]'s: any failure ends the run, and the next one begins at the target's positions.

mod queues;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use sluice_formats::widen::{covers, widened};

use crate::assignment::Assignment;
use crate::channel::{self, Sender};
use crate::config::{StopAfter, Then};
use crate::memory::Share;
use crate::progress::{Progress, Stop, begin};
use crate::recall::Recall;
use crate::steps::{Next, Steps};
use crate::target::{Message, Target, TargetHalf};
use crate::task::{ACT_BYTES, Chain, Class, Needs, Range, Read, Slice, SourceTask, TaskError, TransactTask};

/// What one read asks for, in bytes, if the target wants no more at once: what becomes of it stays in a core's cache.
const SLICE_BYTES: usize = 512 * 1024;
/// The same where rows go to files: longer pieces are decoded and encoded faster.
const FILES_SLICE_BYTES: usize = 1024 * 1024;
/// What is read of one chain before the next one has its turn, in bytes.
const TURN_BYTES: usize = 256 * 1024 * 1024;
/// How long an idle source waits before it looks again for queues and for a stop.
const IDLE_WAIT: Duration = Duration::from_millis(200);

/// How long a source waits before it looks again whether the process has memory.
const MEMORY_WAIT: Duration = Duration::from_millis(5);

/// Workers that may put a wider schema one after the other before ours stands.
const SETTLE_MAX: usize = 16;

/// Milliseconds since 1970-01-01 UTC.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// A pipeline, ready to run: its tasks are made, and nothing is read or written yet.
pub struct Pipeline {
    /// Its name.
    pub name: Arc<str>,
    /// The config's text as written, and its hash.
    pub config: (String, String),
    /// What happens to a slice.
    pub steps: Steps,
    /// What the source is asked for.
    pub needs: Needs,
    /// Where rows come from.
    pub source: Box<dyn SourceTask>,
    /// Where rows go.
    pub target: Target,
    /// Where rows go that do not fit.
    pub dead_letters: Option<Box<dyn TransactTask>>,
    /// What happens to rows that do not fit.
    pub then: Then,
    /// When too many rows do not fit.
    pub stop_after: Option<StopAfter>,
    /// Rows on their way, in bytes.
    pub in_flight: usize,
    /// Its part of the process's memory.
    pub memory: Share,
}

/// Which chains a run takes.
#[derive(Clone, Debug)]
pub enum Scope {
    /// All of the source.
    All,
    /// Those that are this worker's, which may change.
    Shared(Arc<Assignment>),
    /// Only these, and only up to the end of their unfinished plans.
    Unfinished(Vec<Chain>),
}

impl Scope {
    /// Whether the run is over once the plans that it found are finished.
    fn is_unfinished(&self) -> bool {
        matches!(self, Self::Unfinished(_))
    }

    /// Whether other workers run the same pipeline.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }
}

/// Runs until the source has ended or a stop is asked for.
pub fn run(
    pipeline: Pipeline,
    scope: &Scope,
    stop: &Stop,
    progress: &Progress,
    clock: &Clock,
) -> Result<(), TaskError> {
    let Pipeline {
        name,
        config,
        mut steps,
        needs,
        mut source,
        mut target,
        dead_letters,
        then,
        stop_after,
        ..
    } = pipeline;
    let memory = &pipeline.memory;
    source.open(&needs)?;
    let standing = if steps.decodes() { target.schema(&name, None)? } else { None };
    if let Some(schema) = &standing {
        adopt(&mut steps, schema, scope)?;
    }
    if !steps.decodes()
        && let Some(output) = steps.check_undecoded()?
    {
        target.accept(&output)?;
    }
    let confirmer = source.confirmer();
    let wanted = match &target {
        // Dead letters are stored, and waited for, before the rows that they were among.
        Target::Transact(task) => task.bytes_wanted().max(dead_letters.as_ref().map_or(0, |_| ACT_BYTES)),
        Target::Files(_) => FILES_SLICE_BYTES,
    };
    let slice_bytes = wanted.min(pipeline.in_flight).max(SLICE_BYTES);
    let hold_max = target.hold_max();
    let recall = Recall::default();
    let (sender, receiver) = channel::bounded(pipeline.in_flight);
    let mut half = TargetHalf::new(
        Arc::clone(&name),
        config,
        target,
        dead_letters,
        then,
        stop_after,
        confirmer,
        progress,
        memory,
        clock,
        scope.is_shared().then_some(&recall),
    );
    if let Some(schema) = &standing {
        half.decoded_by(schema);
    }
    half.finish_lost(&source.queues()?, scope)?;
    let span = tracing::Span::current();
    std::thread::scope(|scope_| {
        let reading = std::thread::Builder::new().name(format!("{name}-source")).spawn_scoped(scope_, || {
            let _entered = span.enter();
            let (feeds, known, free) = (Vec::new(), HashMap::new(), Vec::new());
            let recall = &recall;
            SourceHalf {
                name,
                steps,
                source,
                sender,
                slice_bytes,
                feeds,
                known,
                free,
                recall,
                unsettled: false,
                scope,
                stop,
                progress,
                memory,
                clock,
                hold_max,
                held_since: None,
            }
            .run()
        });
        let reading = reading.map_err(|e| TaskError::io("cannot start a thread", e))?;
        let put = catch_unwind(AssertUnwindSafe(|| half.run(&receiver)))
            .unwrap_or_else(|_| Err(TaskError::new(Class::Fatal, "the target's thread panicked")));
        // Without a receiver the source's half ends in its next round.
        drop(receiver);
        let read = reading
            .join()
            .unwrap_or_else(|_| Err(TaskError::new(Class::Fatal, "the source's thread panicked")));
        // The target's failure comes first: the source's is then only that nobody listens.
        put.and(read)
    })?;
    match recall.take().first() {
        Some(chain) if !stop.is_asked() => Err(TaskError::new(
            Class::Retry,
            format!(
                "{chain}: another worker has planned the last rows; whether it finishes them is to be seen"
            ),
        )),
        _ => Ok(()),
    }
}

/// Uses the schema that stands. One that the config declares must be the same; the plans of an earlier config
/// are finished by the one they were begun with.
fn adopt(steps: &mut Steps, schema: &SchemaRef, scope: &Scope) -> Result<(), TaskError> {
    if !scope.is_unfinished() {
        steps.check_declared(schema)?;
    }
    steps.fix(schema)
}

struct Feed {
    chain: Chain,
    next: i64,
    /// The end of an unfinished plan, that a slice may not pass.
    until: Option<i64>,
    /// That plan's rows passed before any schema was known.
    without_schema: bool,
    /// The schema that plan was begun with.
    schema: Option<SchemaRef>,
    /// Rows from this one to the first that counts are read again, for what the steps have to know of them.
    warm: Option<i64>,
    ended: bool,
    /// Another worker's now; it may come back.
    given_up: bool,
    /// Rows between the last one read and the queue's end, where it is known.
    lag: Option<i64>,
    /// When that row was stored, in ms since 1970-01-01 UTC, where it is known.
    stored_ms: Option<i64>,
}

struct SourceHalf<'a> {
    name: Arc<str>,
    steps: Steps,
    source: Box<dyn SourceTask>,
    sender: Sender<Message>,
    /// What one read asks for.
    slice_bytes: usize,
    feeds: Vec<Feed>,
    /// The chains of the feeds, with their numbers.
    known: HashMap<Chain, usize>,
    /// Numbers of feeds whose queues are gone.
    free: Vec<usize>,
    /// The chains that another worker was faster with.
    recall: &'a Recall,
    /// Tasks of this worker may wait to begin, because its share just changed.
    unsettled: bool,
    scope: &'a Scope,
    stop: &'a Stop,
    progress: &'a Progress,
    memory: &'a Share,
    clock: &'a Clock,
    hold_max: Duration,
    held_since: Option<i64>,
}

impl SourceHalf<'_> {
    fn run(mut self) -> Result<(), TaskError> {
        let result = self.read_all();
        // What was good before a bad record or a stop still gets its place.
        let rest = self.release();
        result.and(rest)
    }

    fn read_all(&mut self) -> Result<(), TaskError> {
        loop {
            if self.sender.is_closed() {
                return Err(nobody_listens());
            }
            self.find_queues()?;
            let mut progressed = false;
            for number in 0..self.feeds.len() {
                progressed |= self.turn(number)?;
            }
            // A source without queues may get one; only the plans of an earlier run are all there.
            let mut here = self.feeds.iter().filter(|f| !f.given_up).peekable();
            let all_known = !self.unsettled && here.peek().is_some() || self.scope.is_unfinished();
            if self.stop.is_asked() || all_known && here.all(|f| f.ended) && self.recall.is_empty() {
                return Ok(());
            }
            self.release_if_old()?;
            if !progressed {
                self.progress.state("waiting");
                self.source.wait(IDLE_WAIT);
            }
        }
    }

    /// Reads one chain for a while; whether anything came.
    fn turn(&mut self, number: usize) -> Result<bool, TaskError> {
        let mut progressed = false;
        for _ in 0..(TURN_BYTES / self.slice_bytes).max(1) {
            let Some(feed) = self.feeds.get(number).filter(|f| !f.ended && !f.given_up) else { break };
            if self.stop.is_asked() {
                break;
            }
            // Others may hold it: each target lets go within its next round.
            while self.memory.process().is_over() && !self.stop.is_asked() && !self.sender.is_closed() {
                self.progress.state("waiting for memory");
                self.stop.wait(MEMORY_WAIT);
            }
            let range = Range { start: feed.next, end: feed.until.unwrap_or(i64::MAX) };
            let (topic, queue) = (Arc::clone(&feed.chain.topic), feed.chain.queue);
            match self.source.read(&topic, queue, range, self.slice_bytes)? {
                Read::Idle => break,
                Read::Held => {
                    // Rows that wait for a schema would hold up those that show one.
                    self.release()?;
                    let chain = self.feeds[number].chain.clone();
                    self.sender.send(0, Message::Publish(chain)).map_err(|_| nobody_listens())?;
                }
                read @ (Read::Ended | Read::Gone) => {
                    if let Some(until) = feed.until {
                        return Err(TaskError::new(
                            Class::Config,
                            format!(
                                "{}: the source ends at {} before the end {until} of an unfinished plan; rows that the plan counted are gone",
                                feed.chain, feed.next
                            ),
                        ));
                    }
                    if matches!(read, Read::Gone) {
                        self.close(number)?;
                        break;
                    }
                    self.feeds[number].ended = true;
                    if !self.steps.holds(number) {
                        self.send_end(number)?;
                    }
                    break;
                }
                Read::Slice(slice) => {
                    if !self.warm(number)? {
                        break;
                    }
                    self.pass(number, slice)?;
                    progressed = true;
                }
            }
            let Some(end) = self.source.end(&topic, queue) else { continue };
            self.feeds[number].lag = Some(end.saturating_sub(self.feeds[number].next));
            let behind = self.feeds.iter().filter(|f| f.lag > Some(0)).filter_map(|f| f.stored_ms).min();
            let lag = self.feeds.iter().filter_map(|f| f.lag).reduce(i64::saturating_add);
            self.progress.lag(lag, behind);
        }
        Ok(progressed)
    }

    fn pass(&mut self, number: usize, slice: Slice) -> Result<(), TaskError> {
        let feed = &mut self.feeds[number];
        if slice.range.start != feed.next || slice.range.end <= slice.range.start {
            let message =
                format!("{}: asked for {}, the source gave {:?}", feed.chain, feed.next, slice.range);
            return Err(TaskError::new(Class::Fatal, message));
        }
        feed.next = slice.range.end;
        feed.stored_ms = slice.stored_ms.or(feed.stored_ms);
        let without_schema = feed.until.is_some() && feed.without_schema && self.steps.decodes();
        let schema = feed.schema.clone().filter(|_| self.steps.decodes());
        if feed.until == Some(feed.next) {
            feed.until = None;
            feed.schema = None;
            feed.ended = self.scope.is_unfinished();
        }
        self.progress.state("running");
        self.progress.read(&slice);
        if without_schema {
            let slice = self.steps.reject_all(slice)?;
            return self.send_all(vec![(number, slice)]);
        }
        if let Some(schema) = schema {
            let slices = self.steps.push_by(&schema, number, slice)?;
            return self.send_all(slices);
        }
        let began = begin();
        let next = self.steps.push(number, slice)?;
        self.progress.batch(began.elapsed());
        match next {
            Next::Pass(slices) => {
                self.send_all(slices)?;
                let since = self.held_since.unwrap_or_else(|| (self.clock)());
                self.held_since = self.steps.holds_any().then_some(since);
                Ok(())
            }
            Next::Fix(schema) => self.fix(&schema),
        }
    }

    /// Before the first row of a chain that counts: has the steps see those that they look back at. Whether that was
    /// done to the end; rows that never come are not waited for.
    fn warm(&mut self, number: usize) -> Result<bool, TaskError> {
        let Some(feed) = self.feeds.get(number) else { return Ok(true) };
        let Some(mut at) = feed.warm else { return Ok(true) };
        let (until, topic, queue) = (feed.next, Arc::clone(&feed.chain.topic), feed.chain.queue);
        self.steps.warm_until(number, until);
        while at < until {
            if self.stop.is_asked() || self.sender.is_closed() {
                return Ok(false);
            }
            match self.source.read(&topic, queue, Range { start: at, end: until }, self.slice_bytes)? {
                Read::Slice(slice) => {
                    at = slice.range.end;
                    match self.steps.push(number, slice)? {
                        Next::Pass(slices) => self.send_all(slices)?,
                        Next::Fix(schema) => self.fix(&schema)?,
                    }
                }
                // What is pulled over a network may be on its way.
                Read::Idle => self.source.wait(IDLE_WAIT),
                Read::Ended | Read::Gone | Read::Held => break,
            }
        }
        if let Some(feed) = self.feeds.get_mut(number) {
            feed.warm = None;
        }
        Ok(true)
    }

    /// Rows wait for the schema as long as rows may wait for the end of their plan.
    fn release_if_old(&mut self) -> Result<(), TaskError> {
        let hold = i64::try_from(self.hold_max.as_millis()).unwrap_or(i64::MAX);
        match self.held_since {
            Some(since) if (self.clock)().saturating_sub(since) >= hold => self.release(),
            _ => Ok(()),
        }
    }

    /// Lets go of what waits for the schema: fixed by it, or without one if it shows none.
    fn release(&mut self) -> Result<(), TaskError> {
        if let Some(schema) = self.steps.proposal() {
            return self.fix(&schema);
        }
        self.held_since = None;
        let slices = self.steps.release_without_schema()?;
        self.send_all(slices)
    }

    fn fix(&mut self, proposed: &SchemaRef) -> Result<(), TaskError> {
        self.held_since = None;
        let mut proposed = Arc::clone(proposed);
        loop {
            let schema = self.settle(&proposed)?;
            adopt(&mut self.steps, &schema, self.scope)?;
            let released = self.steps.release()?;
            self.send_all(released.slices)?;
            match released.wider {
                Some(wider) => proposed = wider,
                None => return Ok(()),
            }
        }
    }

    /// Has the target put a schema, and gives the one that stands. One that may grow is put again with what another
    /// worker put first, until it stands.
    fn settle(&mut self, proposed: &SchemaRef) -> Result<SchemaRef, TaskError> {
        let mut proposed = Arc::clone(proposed);
        for _ in 0..SETTLE_MAX {
            // Types are checked before the target keeps anything.
            let output = self.steps.check(&proposed)?;
            let standing = self.ask(|reply| Message::Schema(Arc::clone(&proposed), output, reply))?;
            if !self.steps.grows() || covers(&standing, &proposed) {
                let columns = standing.fields().len();
                tracing::info!(columns, "a schema stands from here on");
                return Ok(standing);
            }
            match widened(&standing, &proposed) {
                Ok(wider) => proposed = wider,
                // Rows that need ours do not fit the one that stands.
                Err(_) => return Ok(standing),
            }
        }
        Err(TaskError::new(
            Class::Config,
            "the target does not take a wider schema than its first one: `on_new_field: add` is not possible there",
        ))
    }

    fn send_all(&mut self, slices: Vec<(usize, Slice)>) -> Result<(), TaskError> {
        for (number, slice) in slices {
            let (chain, end) = (self.feeds[number].chain.clone(), slice.range.end);
            self.progress.passed(&slice);
            self.sender.send(slice.bytes, Message::Slice(chain, slice)).map_err(|_| nobody_listens())?;
            if self.feeds[number].ended && self.feeds[number].next == end {
                self.send_end(number)?;
            }
        }
        Ok(())
    }

    /// Nothing more comes of a chain, so the target need not keep it open.
    fn send_end(&self, number: usize) -> Result<(), TaskError> {
        let chain = self.feeds[number].chain.clone();
        self.sender.send(0, Message::End(chain)).map_err(|_| nobody_listens())
    }

    fn ask<T>(&self, message: impl FnOnce(SyncSender<T>) -> Message) -> Result<T, TaskError> {
        let (reply, answer) = sync_channel(1);
        self.sender.send(0, message(reply)).map_err(|_| nobody_listens())?;
        answer.recv().map_err(|_| nobody_listens())
    }
}

fn nobody_listens() -> TaskError {
    TaskError::new(Class::Fatal, "the target's thread has ended")
}

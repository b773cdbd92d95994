//! The target's half of a run: where a chain starts, and the steps from a slice to a published plan.
//!
//! 0. `secure`: the source is durable up to the plan's end, so those offsets can never mean other rows.
//! 1. `claim`: the plan is put if absent; a decision by the clock is recorded and never made anew.
//! 2. `seal`: the files are finished under temporary names, durably.
//! 3. `publish`: dead letters first, then each file in one act that never replaces; so files that are
//!    there prove that the dead letters are.
//! 4. `confirm`: the plan is marked as done, and the source's group moves, for display.
//!
//! A run that ends anywhere between them is finished by the next one, which reads the plan's range
//! again. A target that stores rows and position in one act needs none of this: [`Target::Transact`].

mod refused;
mod start;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use arrow::datatypes::SchemaRef;

use self::refused::{DEAD, Dead, put_dead};
use crate::breaker::Breaker;
use crate::channel::{Received, Receiver};
use crate::config::{StopAfter, Then};
use crate::memory::Share;
use crate::pipeline::Clock;
use crate::plan::{Plan, schema_hash};
use crate::progress::{Progress, begin};
use crate::recall::Recall;
use crate::steps::{Steps, leave_out, stop_at_reject, turn_away};
use crate::task::{
    Chain, Claim, Class, Confirm, Fates, Range, Reject, SinkTask, Slice, SourceQueue, TaskError, TransactTask,
};

/// What rows that do not fit may hold in memory over all chains, in bytes: at this the plan with the most
/// of them ends.
const DEAD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How often the ages of open plans are looked at, at the most.
const AGE_CHECK: Duration = Duration::from_millis(100);
/// The same while no rows are held.
const IDLE_WAIT: Duration = Duration::from_secs(5);
/// How long rows wait for the schema where no plan's age says so.
const HOLD_MAX: Duration = Duration::from_secs(5);

/// A sink task, by what its target can promise.
pub enum Target {
    /// Files: by plans.
    Files(Box<dyn SinkTask>),
    /// Rows and position in one act.
    Transact(Box<dyn TransactTask>),
}

impl Target {
    /// See [`SinkTask::schema`]; a target without files keeps none.
    pub fn schema(
        &mut self,
        pipeline: &str,
        proposed: Option<&SchemaRef>,
    ) -> Result<Option<SchemaRef>, TaskError> {
        match self {
            Self::Files(sink) => sink.schema(pipeline, proposed),
            Self::Transact(_) => Ok(proposed.cloned()),
        }
    }

    /// See [`SinkTask::accept`].
    pub fn accept(&self, output: &SchemaRef) -> Result<(), TaskError> {
        match self {
            Self::Files(sink) => sink.accept(output),
            Self::Transact(_) => Ok(()),
        }
    }

    /// See [`SinkTask::unfit`].
    fn unfit(&self, slice: &Slice) -> Vec<(usize, String)> {
        match self {
            Self::Files(sink) => sink.unfit(slice),
            Self::Transact(task) => task.unfit(slice),
        }
    }

    /// How long rows may wait for the schema.
    pub fn hold_max(&self) -> Duration {
        match self {
            Self::Files(sink) => sink.age_max(),
            Self::Transact(_) => HOLD_MAX,
        }
    }
}

/// What the source's half says.
pub(crate) enum Message {
    /// These chains are opened next.
    Prepare(Vec<Chain>),
    /// A queue was found: where does it start?
    Open(Chain, SourceQueue, SyncSender<Start>),
    /// Fix the schema of decoded rows, where the steps make rows of the second; the answer is the one that stands.
    Schema(SchemaRef, Option<SchemaRef>, SyncSender<SchemaRef>),
    /// Rows.
    Slice(Chain, Slice),
    /// What a chain holds is to be published now.
    Publish(Chain),
    /// Nothing more comes of a chain in this run.
    End(Chain),
}

/// Where a chain starts.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) next: i64,
    /// The end of an unfinished plan that begins at `next`.
    pub(crate) until: Option<i64>,
    /// That plan's rows passed before any schema was known.
    pub(crate) without_schema: bool,
    /// The schema that plan was begun with; newer ones may stand by now.
    pub(crate) schema: Option<SchemaRef>,
}

/// What a chain has put since its last plan.
struct Open {
    incarnation: String,
    range: Range,
    fates: Fates,
    rejects: Vec<Reject>,
    reject_bytes: usize,
    since_ms: i64,
    /// The unfinished plan that these rows are read for again.
    redo: Option<Plan>,
}

pub(crate) struct TargetHalf<'a> {
    name: Arc<str>,
    config: (String, String),
    config_kept: bool,
    target: Target,
    dead_letters: Option<Box<dyn TransactTask>>,
    then: Then,
    breaker: Option<Breaker>,
    confirmer: Arc<dyn Confirm>,
    progress: &'a Progress,
    memory: &'a Share,
    clock: &'a Clock,
    schema_hash: String,
    open: BTreeMap<Chain, Open>,
    /// Set where other workers run the same pipeline.
    recall: Option<&'a Recall>,
    /// Chains whose rows another worker planned first; what comes of them until they begin again is in vain.
    lost: BTreeSet<Chain>,
    /// When the ages of open plans were looked at last, in ms since 1970-01-01 UTC.
    aged_ms: i64,
}

impl<'a> TargetHalf<'a> {
    #[expect(clippy::too_many_arguments, reason = "called once; each is a part of the pipeline")]
    pub(crate) fn new(
        name: Arc<str>,
        config: (String, String),
        target: Target,
        dead_letters: Option<Box<dyn TransactTask>>,
        then: Then,
        stop_after: Option<StopAfter>,
        confirmer: Arc<dyn Confirm>,
        progress: &'a Progress,
        memory: &'a Share,
        clock: &'a Clock,
        recall: Option<&'a Recall>,
    ) -> Self {
        let open = BTreeMap::new();
        let schema_hash = String::new();
        Self {
            name,
            config,
            config_kept: false,
            target,
            dead_letters,
            then,
            breaker: stop_after.map(Breaker::new),
            confirmer,
            progress,
            memory,
            clock,
            schema_hash,
            open,
            recall,
            lost: BTreeSet::new(),
            aged_ms: 0,
        }
    }

    /// The schema that rows are decoded by until another one is asked for.
    pub(crate) fn decoded_by(&mut self, schema: &SchemaRef) {
        self.schema_hash = schema_hash(schema);
    }

    /// Runs until the source's half hangs up, then publishes what is open.
    pub(crate) fn run(mut self, receiver: &Receiver<Message>) -> Result<(), TaskError> {
        let wait = self.target.hold_max().min(AGE_CHECK);
        loop {
            let holds_rows = self.open.values().any(|open| open.range.end > open.range.start);
            match receiver.receive(if holds_rows { wait } else { IDLE_WAIT }) {
                Received::Item(Message::Prepare(chains)) => {
                    if let Target::Transact(task) = &mut self.target {
                        task.prepare(&chains)?;
                    }
                }
                Received::Item(Message::Open(chain, queue, reply)) => {
                    let start = self.start(chain, queue)?;
                    // The source's half may be gone by now; it tells its own reason.
                    let _ = reply.send(start);
                }
                Received::Item(Message::Schema(proposed, output, reply)) => {
                    self.target.accept(output.as_ref().unwrap_or(&proposed))?;
                    // What passed without a schema, or by a narrower one, ends here: a plan is finished by the schema
                    // that it names.
                    self.publish_all(|open| open.redo.is_none())?;
                    let schema = self.target.schema(&self.name, Some(&proposed))?.unwrap_or(proposed);
                    self.schema_hash = schema_hash(&schema);
                    drop(reply.send(schema));
                }
                Received::Item(Message::Slice(chain, slice)) => match self.fitting(&chain, slice) {
                    Ok(slice) => match self.take(&chain, slice) {
                        Err(error) if error.class == Class::Record => {
                            return self.publish_all(|_| true).and(Err(error));
                        }
                        taken => taken?,
                    },
                    Err(_) if self.lost.contains(&chain) => {}
                    // What was good before a bad record still gets its place.
                    Err(error) => return self.publish_all(|_| true).and(Err(error)),
                },
                Received::Item(Message::Publish(chain)) => self.publish(&chain)?,
                Received::Item(Message::End(chain)) => {
                    self.publish(&chain)?;
                    self.open.remove(&chain);
                    self.lost.remove(&chain);
                }
                Received::Timeout => {}
                Received::Closed => break,
            }
            self.publish_old()?;
            self.bound_memory(receiver.bytes())?;
        }
        self.publish_all(|_| true)
    }

    /// Has the sink write out what is over a limit. Also while nothing comes: what another pipeline is over may be
    /// held here.
    fn bound_memory(&mut self, in_flight: usize) -> Result<(), TaskError> {
        let Target::Files(sink) = &mut self.target else {
            self.memory.hold(in_flight);
            self.progress.memory(in_flight);
            return Ok(());
        };
        let held = sink.memory();
        self.progress.memory(held + in_flight);
        if self.memory.hold(held + in_flight) == 0 {
            return Ok(());
        }
        // Down to the half, so that row groups do not come out small at each slice from here on.
        sink.shrink(held / 2)?;
        self.memory.hold(sink.memory() + in_flight);
        Ok(())
    }

    /// The slice without the rows that the target can never take: they become rejects.
    fn fitting(&mut self, chain: &Chain, mut slice: Slice) -> Result<Slice, TaskError> {
        if let Target::Transact(task) = &mut self.target
            && let Some(kept) = task.kept(&slice)?
        {
            leave_out(&mut slice, &kept)?;
        }
        let unfit = self.target.unfit(&slice);
        turn_away(&mut slice, &unfit)?;
        stop_at_reject(self.then, &slice)?;
        // A plan that stands is finished whatever it holds.
        let is_new = self.open.get(chain).is_some_and(|open| open.redo.is_none());
        match &mut self.breaker {
            Some(breaker) if is_new => breaker.count(&slice)?,
            _ => {}
        }
        Ok(slice)
    }

    /// Takes a slice. One that the target refuses because of some of its rows is taken apart until they are found.
    fn take(&mut self, chain: &Chain, slice: Slice) -> Result<(), TaskError> {
        self.take_part(chain, slice, false)
    }

    /// The same; with `is_told` its rejects are in the dead letters already.
    fn take_part(&mut self, chain: &Chain, slice: Slice, is_told: bool) -> Result<(), TaskError> {
        match self.put(chain, slice.clone(), is_told)? {
            None => Ok(()),
            Some(refusal) => self.take_apart(chain, slice, refusal),
        }
    }

    /// Takes a slice, or gives the reason for which the target took nothing of it.
    fn put(&mut self, chain: &Chain, slice: Slice, is_told: bool) -> Result<Option<TaskError>, TaskError> {
        if self.lost.contains(chain) {
            return Ok(None);
        }
        let fates = Steps::fates(self.then, &slice);
        let Some(open) = self.open.get_mut(chain) else {
            return Err(TaskError::new(
                Class::Fatal,
                format!("{chain}: rows came before its position was asked for"),
            ));
        };
        if slice.range.start != open.range.end
            || fates.total() != u64::try_from(slice.range.end - slice.range.start).unwrap_or(0)
        {
            let message = format!(
                "{chain}: a slice accounts for {} rows of {:?} after {:?}: {fates:?}",
                fates.total(),
                slice.range,
                open.range
            );
            return Err(TaskError::new(Class::Fatal, message));
        }
        match &mut self.target {
            Target::Transact(_) => {
                if fates.dead > 0 && !is_told {
                    let (range, incarnation) = (slice.range, open.incarnation.clone());
                    let rows = Dead { kind: DEAD, incarnation: &incarnation, range, rejects: &slice.rejects };
                    let letters = self.dead_letters.as_deref_mut();
                    put_dead(letters, chain, &rows, self.confirmer.rereads())?;
                }
                self.commit(chain, &slice, &fates)
            }
            Target::Files(sink) => {
                if open.range.start == open.range.end {
                    open.since_ms = (self.clock)();
                }
                let fill = match sink.put(chain, &slice) {
                    Err(refusal) if refusal.class == Class::Record => return Ok(Some(refusal)),
                    other => other?,
                };
                if let Some(offset) = fill.cut.filter(|offset| *offset == slice.range.start) {
                    // The plan ends before the whole slice.
                    if open.range.start == open.range.end {
                        let message = format!(
                            "{chain}: the rows of the record at {offset} are for more files than a plan can have"
                        );
                        return Err(TaskError::new(Class::Config, message));
                    }
                    self.publish(chain)?;
                    self.take(chain, slice)?;
                    return Ok(None);
                }
                if let Some(offset) = fill.cut {
                    let message = format!("{chain}: the rows can not be cut at {offset}");
                    let (head, tail) =
                        slice.split(offset).ok_or_else(|| TaskError::new(Class::Config, message))?;
                    self.take(chain, head)?;
                    self.publish(chain)?;
                    self.take(chain, tail)?;
                    return Ok(None);
                }
                open.range.end = slice.range.end;
                open.fates.add(&fates);
                if self.then == Then::DeadLetter {
                    open.reject_bytes += slice.rejects.iter().map(Reject::bytes).sum::<usize>();
                    open.rejects.extend(slice.rejects);
                }
                let over = match &open.redo {
                    Some(plan) => open.range.end >= plan.end,
                    None => fill.full,
                };
                if over {
                    self.publish(chain)?;
                } else if fates.dead > 0 {
                    self.bound_rejects()?;
                }
                Ok(None)
            }
        }
    }

    /// Stores a slice's rows in a target that keeps its position with them, or gives the reason for which it took
    /// none.
    fn commit(
        &mut self,
        chain: &Chain,
        slice: &Slice,
        fates: &Fates,
    ) -> Result<Option<TaskError>, TaskError> {
        let (Target::Transact(task), Some(open)) = (&mut self.target, self.open.get_mut(chain)) else {
            return Ok(None);
        };
        let began = begin();
        let now = self.confirmer.incarnation(&chain.topic, chain.queue, slice.range.start);
        open.incarnation = now.unwrap_or_else(|| std::mem::take(&mut open.incarnation));
        match task.commit(chain, &open.incarnation, slice, fates) {
            Err(refusal) if refusal.class == Class::Record => return Ok(Some(refusal)),
            other => other?,
        }
        open.range = Range { start: slice.range.end, end: slice.range.end };
        self.progress.commit(began.elapsed());
        self.progress.published(fates, 0);
        self.confirmer.confirm(&chain.topic, chain.queue, slice.range.end)?;
        Ok(None)
    }

    /// Ends the plan with the most rejects while those of all chains together hold too much.
    fn bound_rejects(&mut self) -> Result<(), TaskError> {
        if self.open.values().map(|o| o.reject_bytes).sum::<usize>() < DEAD_BYTES_MAX {
            return Ok(());
        }
        let open = self.open.iter().filter(|(_, o)| o.redo.is_none() && o.reject_bytes > 0);
        match open.max_by_key(|(_, o)| o.reject_bytes).map(|(chain, _)| chain.clone()) {
            Some(chain) => self.publish(&chain),
            None => Ok(()),
        }
    }

    /// Publishes what each chain of a kind holds.
    fn publish_all(&mut self, of: impl Fn(&Open) -> bool) -> Result<(), TaskError> {
        let chains: Vec<Chain> = self.open.iter().filter(|(_, o)| of(o)).map(|(c, _)| c.clone()).collect();
        chains.iter().try_for_each(|chain| self.publish(chain))
    }

    fn publish_old(&mut self) -> Result<(), TaskError> {
        let Target::Files(sink) = &self.target else { return Ok(()) };
        let age_max = sink.age_max();
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let (age, now) = (ms(age_max), (self.clock)());
        // With many chains this must not be done for each slice. A clock may be set back.
        if (0..ms(age_max.min(AGE_CHECK))).contains(&(now - self.aged_ms)) {
            return Ok(());
        }
        self.aged_ms = now;
        let is_old = |o: &Open| {
            o.range.end > o.range.start && o.redo.is_none() && now.saturating_sub(o.since_ms) >= age
        };
        self.publish_all(is_old)
    }

    /// Steps 0 to 3 over what a chain holds; then [`Self::finish`].
    fn publish(&mut self, chain: &Chain) -> Result<(), TaskError> {
        let Target::Files(sink) = &mut self.target else { return Ok(()) };
        let Some(open) = self.open.get_mut(chain) else { return Ok(()) };
        if open.range.end == open.range.start {
            return Ok(());
        }
        let began = begin();
        let files = sink.files(chain, open.range.start)?;
        let plan = match &open.redo {
            Some(plan) if open.range.end < plan.end => {
                // Stopped in the middle of a plan that stands: the next run reads its range again.
                return sink.discard(chain);
            }
            Some(plan) => {
                if files != plan.files || open.fates != plan.fates {
                    return Err(TaskError::new(
                        Class::Fatal,
                        format!(
                            "{chain}: the rows from {} to {} are not those that the plan recorded ({:?}, now {:?}): did the source or the environment change?",
                            plan.start, plan.end, plan.fates, open.fates
                        ),
                    ));
                }
                plan.clone()
            }
            None => {
                self.confirmer.secure(&chain.topic, chain.queue, open.range.end)?;
                if !self.config_kept {
                    sink.keep_config(&chain.pipeline, &self.config.1, &self.config.0)?;
                    self.config_kept = true;
                }
                let rows = files.iter().map(|file| file.rows).sum();
                let now = self.confirmer.incarnation(&chain.topic, chain.queue, open.range.start);
                open.incarnation = now.unwrap_or_else(|| std::mem::take(&mut open.incarnation));
                Plan {
                    start: open.range.start,
                    end: open.range.end,
                    rows: (rows != open.fates.written).then_some(rows),
                    files,
                    fates: open.fates,
                    config: self.config.1.clone(),
                    schema: self.schema_hash.clone(),
                    incarnation: open.incarnation.clone(),
                    decided_ms: (self.clock)(),
                }
            }
        };
        if open.redo.is_none() && sink.claim(chain, &plan)? == Claim::Theirs {
            sink.discard(chain)?;
            self.progress.fence();
            let told = format!("{chain}: another worker has planned the rows from {}", plan.start);
            let Some(recall) = self.recall else { return Err(TaskError::new(Class::Retry, told)) };
            tracing::warn!(task = %chain, queue_offset = plan.start, "fenced: another worker has planned these rows");
            self.open.remove(chain);
            self.lost.insert(chain.clone());
            recall.add(chain);
            return Ok(());
        }
        let sizes = sink.seal(chain, &plan)?;
        if plan.fates.dead > 0 {
            let range = Range { start: plan.start, end: plan.end };
            let letters = self.dead_letters.as_deref_mut();
            let rows = Dead { kind: DEAD, incarnation: &open.incarnation, range, rejects: &open.rejects };
            put_dead(letters, chain, &rows, self.confirmer.rereads())?;
        }
        sink.publish(chain, &plan)?;
        open.range.start = open.range.end;
        open.fates = Fates::default();
        open.rejects.clear();
        open.reject_bytes = 0;
        open.redo = None;
        self.finish(chain, &plan)?;
        self.progress.commit(began.elapsed());
        self.progress.file_sizes(&sizes);
        Ok(())
    }

    /// Step 4.
    fn finish(&mut self, chain: &Chain, plan: &Plan) -> Result<(), TaskError> {
        if let Target::Files(sink) = &mut self.target {
            sink.confirm(chain, plan)?;
        }
        self.confirmer.confirm(&chain.topic, chain.queue, plan.end)?;
        self.progress.published(&plan.fates, plan.files.len() as u64);
        Ok(())
    }
}

//! The writer: appends batches to the commit log, rolls segments, makes changes durable.
//!
//! One lock, taken once a batch: checksums and encoding come before it, waiting for the disk after it. An
//! append writes the run, the units of its consume queues and its entry in the tail, in this order; if any
//! of them fails the run is zeroed again before the lock is given back, so that a failed append leaves
//! nothing that a crash could bring back. Never reads a message.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::Value;
use sluice_protocol::id::{GroupName, LogOffset, QueueId, QueueOffset, TopicName};
use sluice_protocol::record;

use crate::batch::{Appended, Batch, ChainMark, check_chain};
use crate::consume_queue::{Unit, Unsynced};
use crate::delay::due;
use crate::file::{Disk, DiskFile, Open};
use crate::group_commit::GroupCommit;
use crate::position::StoredPosition;
use crate::segment::{self, Segment};
use crate::tables::{name, replace};
use crate::tail::{Change, LoggedChange, Tail, TailRun};
use crate::topic::{QUEUES_MAX, Queue, TopicEntry, add_queues, find};
use crate::upkeep::Wishes;
use crate::view::{Tables, View};
use crate::{Access, ChainPosition, Clock, Error, Flush, LeaseChange, Retention, Topic, With};

/// The last bytes of a segment are kept for the filler.
const FILLER_BYTES: u64 = record::FILLER_BYTES as u64;
const ZEROS: &[u8] = &[0; 64 * 1024];

/// The one writer of a store.
pub(crate) struct CommitLog {
    pub(crate) view: Arc<View>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Clock,
    pub(crate) flush: Flush,
    pub(crate) retention: Retention,
    state: Mutex<State>,
    /// The next segment, made ahead.
    pub(crate) ahead: Mutex<Option<Active>>,
    group: GroupCommit,
    /// One checkpoint or retention at a time.
    pub(crate) checkpointing: Mutex<()>,
    /// Segments removed so far, and how many of those no crash can bring back.
    pub(crate) removals: AtomicU64,
    pub(crate) removals_synced: AtomicU64,
    pub(crate) wishes: Wishes,
    poison: OnceLock<(&'static str, PathBuf, String)>,
    pub(crate) closed: AtomicBool,
    /// Held as long as this process may write.
    pub(crate) lock: Mutex<Option<File>>,
}

/// What the writer's lock protects.
pub(crate) struct State {
    /// Log offset of the next record.
    pub(crate) end: u64,
    pub(crate) active: Active,
    pub(crate) tail: Tail,
    /// Counts writes, for the group commit.
    pub(crate) ticket: u64,
    /// Files with bytes that are not durable, each once.
    pub(crate) dirty: Vec<(PathBuf, Arc<dyn DiskFile>)>,
    pub(crate) log_dirty: bool,
    pub(crate) tail_dirty: bool,
    /// What readers see once it is durable.
    pub(crate) pending: Vec<(Arc<Queue>, i64)>,
    pub(crate) unsynced: Unsynced,
    /// Queues whose files may hold units of a run that was taken back.
    pub(crate) stale: Vec<Arc<Queue>>,
    pub(crate) store_timestamp_ms: i64,
    /// Log offset up to which another broker wrote.
    pub(crate) foreign_end: u64,
    /// Something happened since the last checkpoint.
    pub(crate) changed: bool,
    /// The number of the next queue.
    pub(crate) numbers: u32,
}

/// A segment that is written.
#[derive(Clone, Debug)]
pub(crate) struct Active {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) path: PathBuf,
}

impl Active {
    /// Makes the segment that starts at a log offset, with all its space; its name is durable on return.
    pub(crate) fn create(disk: &dyn Disk, view: &View, start: u64) -> Result<Self, Error> {
        let made = Self::open(disk, view, start)?;
        let dir = view.dir.join(name::COMMIT_LOG);
        disk.sync_dir(&dir).map_err(|e| Error::io("sync", &dir, e))?;
        Ok(made)
    }

    /// The same for a segment that holds something, and so has a durable name.
    pub(crate) fn open(disk: &dyn Disk, view: &View, start: u64) -> Result<Self, Error> {
        let path = segment::path(&view.dir.join(name::COMMIT_LOG), start);
        let file = disk.open(&path, Open::OrCreate).map_err(|e| Error::io("create", &path, e))?;
        file.allocate(view.segment_bytes()).map_err(|e| Error::io("allocate", &path, e))?;
        let segment = Segment::map(file.file(), start).map_err(|e| Error::io("map", &path, e))?;
        Ok(Self { segment, file, path })
    }
}

impl State {
    /// Remembers that the active segment and the tail have bytes to be synced.
    fn touched(&mut self, log: bool) {
        if log && !self.log_dirty {
            self.log_dirty = true;
            self.dirty.push((self.active.path.clone(), self.active.file.clone()));
        }
        if !self.tail_dirty {
            self.tail_dirty = true;
            self.dirty.push((self.tail.path.clone(), self.tail.file.clone()));
        }
        self.ticket += 1;
        self.changed = true;
    }
}

/// A batch on its way into the log.
struct RunBytes {
    /// The first record with its mark; empty if the batch has none.
    head: Vec<u8>,
    batch: Batch,
    queues: Vec<Arc<Queue>>,
    tail: TailRun,
    /// What is made with it.
    with: Option<Change>,
}

impl With<'_> {
    fn change(&self) -> Change {
        match *self {
            Self::Lease { group, topic, queue, change } => {
                let LeaseChange { next, begun, ended } = change.clone();
                let (group, topic, queue) = (group.to_string(), topic.to_string(), queue.get());
                Change::Lease { group, topic, queue, next, begun, ended }
            }
            Self::Delivered { level, next } => Change::Delay { level: level.get(), next: next.get() },
        }
    }

    fn apply(&self, tables: &mut Tables, now_ms: i64) {
        match *self {
            Self::Lease { group, topic, queue, change } => {
                tables.lease(group, topic, queue.get(), change, now_ms);
            }
            Self::Delivered { level, next } => tables.delays.set(level.get(), next.get(), now_ms),
        }
    }
}

impl RunBytes {
    fn parts(&self) -> [&[u8]; 2] {
        let skip =
            if self.head.is_empty() { 0 } else { self.batch.records.first().map_or(0, |r| r.size as usize) };
        [&self.head, self.batch.bytes.get(skip..).unwrap_or(&[])]
    }
}

impl CommitLog {
    /// The writer over what was found; `lock` is the store's.
    pub(crate) fn new(
        view: Arc<View>,
        disk: Arc<dyn Disk>,
        clock: Clock,
        flush: Flush,
        retention: Retention,
        state: State,
        lock: File,
    ) -> Self {
        Self {
            view,
            disk,
            clock,
            flush,
            retention,
            state: Mutex::new(state),
            ahead: Mutex::default(),
            group: GroupCommit::default(),
            checkpointing: Mutex::default(),
            removals: AtomicU64::new(0),
            removals_synced: AtomicU64::new(0),
            wishes: Wishes::default(),
            poison: OnceLock::new(),
            closed: AtomicBool::new(false),
            lock: Mutex::new(Some(lock)),
        }
    }

    /// Appends a batch; with a mark, as the part of a chain that starts where the chain stands.
    pub(crate) fn append(&self, batch: Batch, chain: Option<&ChainMark>) -> Result<Appended, Error> {
        let (appended, ticket) = self.append_ahead(batch, chain, None)?;
        if self.flush == Flush::Sync {
            self.durable(ticket)?;
        }
        Ok(appended)
    }

    /// The same without waiting; with [`Flush::Sync`] durable, and seen by readers, once its ticket is.
    pub(crate) fn append_ahead(
        &self,
        mut batch: Batch,
        chain: Option<&ChainMark>,
        with: Option<&With<'_>>,
    ) -> Result<(Appended, u64), Error> {
        if let Some(chain) = chain {
            chain.check()?;
            batch.atomic = true;
        }
        let mut run = self.prepare(batch, chain)?;
        run.with = with.map(With::change);
        let mut state = self.lock()?;
        if let Some(gone) = run.queues.iter().find(|queue| queue.gone.load(Ordering::Acquire)) {
            return Err(Error::NoTopic { topic: gone.topic.clone() });
        }
        if let Some(chain) = chain {
            self.check_position(chain)?;
        }
        let appended = if run.batch.is_empty() {
            let position = chain.map(|chain| Change::Position {
                chain: chain.chain.clone(),
                end: chain.end,
                incarnation: chain.incarnation.clone(),
            });
            let Some(change) = position.or(run.with.take()) else { return Ok((Appended::default(), 0)) };
            Self::log_change(&mut state, change)?;
            Appended { log_offset: LogOffset::new(state.end), ..Appended::default() }
        } else {
            self.append_run(&mut state, &mut run)?
        };
        if let Some(ChainMark { chain, end, incarnation, .. }) = chain {
            let position = StoredPosition { end: *end, incarnation: incarnation.clone(), log: state.end };
            self.view.tables().positions.advance(chain, position);
        }
        if let Some(with) = with {
            with.apply(&mut self.view.tables(), (self.clock)());
        }
        let (ticket, end) = (state.ticket, state.end);
        if self.flush != Flush::Sync {
            // Under the lock, so that a reader never sees a later run before an earlier one.
            self.view.show(end, state.pending.drain(..));
            drop(state);
            self.view.appends.step();
        }
        Ok((appended, ticket))
    }

    /// All that can be done before the lock: look queues up, write the mark, compute the checksum.
    fn prepare(&self, mut batch: Batch, chain: Option<&ChainMark>) -> Result<RunBytes, Error> {
        let topics = self.view.topics();
        let queues = batch
            .queues
            .iter()
            .map(|(topic, queue)| find(&topics, topic, *queue))
            .collect::<Result<_, _>>()?;
        drop(topics);
        let head = if batch.atomic { batch.marked(chain)? } else { Vec::new() };
        let mut run = RunBytes { head, batch, queues, tail: TailRun { bytes: 0, crc: 0 }, with: None };
        let parts = run.parts();
        let len = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        let max = self.view.segment_bytes() - FILLER_BYTES;
        let bytes = u32::try_from(len).ok().filter(|_| len <= max);
        let bytes = bytes.ok_or(Error::TooLarge { what: "batch", len, max })?;
        // The fields that are set under the lock are still zero, as the checksum wants them.
        let mut crc = crc32fast::Hasher::new();
        for part in parts {
            crc.update(part);
        }
        run.tail = TailRun { bytes, crc: crc.finalize() };
        Ok(run)
    }

    fn check_position(&self, chain: &ChainMark) -> Result<(), Error> {
        match self.view.tables().positions.get(&chain.chain) {
            Some(ChainPosition { end: stored, .. }) if stored != chain.start => {
                Err(Error::WrongPosition { chain: chain.chain.clone(), stored, start: chain.start })
            }
            _ => Ok(()),
        }
    }

    fn append_run(&self, state: &mut State, run: &mut RunBytes) -> Result<Appended, Error> {
        if state.end + u64::from(run.tail.bytes) + FILLER_BYTES > state.active.segment.end() {
            self.roll(state)?;
        }
        let log_offset = state.end;
        let store_timestamp_ms = (self.clock)().max(state.store_timestamp_ms);
        let mut next: Vec<i64> = run.queues.iter().map(|q| q.next.load(Ordering::Acquire)).collect();
        let first = next.clone();
        let mut units: Vec<Vec<u8>> = vec![Vec::new(); next.len()];
        let mut queue_offsets = Vec::with_capacity(run.batch.records.len());
        let mut at = log_offset;
        let head_bytes = run.head.len();
        let mut rest = run.batch.bytes.as_mut_slice();
        for (i, placed) in run.batch.records.iter().enumerate() {
            let (encoded, after) = std::mem::take(&mut rest).split_at_mut(placed.size as usize);
            rest = after;
            let (record, size) = match i {
                0 if head_bytes > 0 => {
                    (run.head.as_mut_slice(), u32::try_from(head_bytes).unwrap_or(u32::MAX))
                }
                _ => (encoded, placed.size),
            };
            let number = placed.queue as usize;
            let mut offset = 0;
            if placed.indexed
                && let (Some(next), Some(units)) = (next.get_mut(number), units.get_mut(number))
            {
                offset = *next;
                *next += 1;
                let tag_hash = placed.tag_hash.unwrap_or_else(|| {
                    let queue = run.queues.get(number).map_or(0, |queue| queue.id.get());
                    due(&self.view.levels, queue, store_timestamp_ms)
                });
                let unit = Unit { log_offset: at, size, tag_hash };
                units.extend_from_slice(&unit.encode());
            }
            record::patch(record, offset, at, store_timestamp_ms);
            queue_offsets.push(QueueOffset::new(offset));
            at += u64::from(size);
        }
        let place = state.tail.place();
        if let Some(change) = run.with.take() {
            // Before the run: it says that it was made when the log had the run, and counts only if the log has it.
            state.tail.change(&LoggedChange { log: at, change })?;
        }
        if let Err(error) = self.write_run(state, run, &first, &units) {
            state.tail.take_back(place);
            self.take_back(state, run)?;
            return Err(error);
        }
        state.end = at;
        state.store_timestamp_ms = store_timestamp_ms;
        for (queue, next) in run.queues.iter().zip(next) {
            queue.next.store(next, Ordering::Release);
            state.pending.push((queue.clone(), next));
        }
        state.touched(true);
        let bytes = u64::from(run.tail.bytes);
        Ok(Appended { log_offset: LogOffset::new(log_offset), bytes, store_timestamp_ms, queue_offsets })
    }

    fn write_run(
        &self,
        state: &mut State,
        run: &RunBytes,
        first: &[i64],
        units: &[Vec<u8>],
    ) -> Result<(), Error> {
        let place = state.end - state.active.segment.start();
        let written = state.active.file.write_at(&run.parts(), place);
        written.map_err(|e| Error::io("write", &state.active.path, e))?;
        for ((queue, &first), units) in run.queues.iter().zip(first).zip(units) {
            self.view.queues.write(&*self.disk, queue, first, units, &mut state.unsynced)?;
        }
        state.tail.run(state.end, run.tail)
    }

    /// Zeroes the run that could not be written whole, durably: the system may have written it already, and a
    /// power loss would bring back what was refused. Its queues' files are put right by the next checkpoint:
    /// until then nobody looks beyond their last offset.
    fn take_back(&self, state: &mut State, run: &RunBytes) -> Result<(), Error> {
        let place = state.end - state.active.segment.start();
        let len = u64::from(run.tail.bytes);
        let mut done = 0;
        let mut zero = || {
            while done < len {
                let zeros = &ZEROS[..usize::try_from(len - done).unwrap_or(usize::MAX).min(ZEROS.len())];
                state.active.file.write_at(&[zeros], place + done)?;
                done += zeros.len() as u64;
            }
            state.active.file.sync()
        };
        zero().map_err(|e: io::Error| self.poisoned("zero", state.active.path.clone(), e.to_string()))?;
        state.stale.extend(run.queues.iter().cloned());
        state.changed = true;
        Ok(())
    }

    /// Ends the active segment with a filler and goes on in the next one. If there is no space for one,
    /// nothing has happened.
    fn roll(&self, state: &mut State) -> Result<(), Error> {
        let end = state.active.segment.end();
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        if ahead.as_ref().is_none_or(|next| next.segment.start() != end) {
            *ahead = Some(self.create_segment(end)?);
        }
        let rest = u32::try_from(end - state.end).unwrap_or(u32::MAX);
        let place = state.end - state.active.segment.start();
        let filled = state.active.file.write_at(&[&record::filler(rest)], place);
        filled.map_err(|e| Error::io("write", &state.active.path, e))?;
        state.touched(true);
        if let Some(next) = ahead.take() {
            self.view.segments_mut().push_back(next.segment.clone());
            state.active = next;
            state.log_dirty = false;
            state.end = end;
        }
        self.wishes.rolled();
        Ok(())
    }

    /// Makes a segment, and removes what was made of it if that fails.
    pub(crate) fn create_segment(&self, start: u64) -> Result<Active, Error> {
        let path = segment::path(&self.view.dir.join(name::COMMIT_LOG), start);
        let was_there = path.exists();
        let removals = self.removals.load(Ordering::Acquire);
        let made = Active::create(&*self.disk, &self.view, start);
        if made.is_ok() {
            self.removals_synced.fetch_max(removals, Ordering::AcqRel);
        }
        made.inspect_err(|error| {
            if matches!(error, Error::Io { op: "sync", .. } | Error::NoSpace { op: "sync", .. }) {
                self.poisoned("sync", path, error.to_string());
            } else if !was_there {
                let _ = self.disk.remove(&path);
            }
        })
    }

    fn log_change(state: &mut State, change: Change) -> Result<(), Error> {
        state.tail.change(&LoggedChange { log: state.end, change })?;
        state.touched(false);
        Ok(())
    }

    pub(crate) fn create_topic(&self, name: &TopicName, queues: u32) -> Result<Topic, Error> {
        if !(1..=QUEUES_MAX).contains(&queues) {
            let expected = "1 to 16,384";
            return Err(Error::Setting { name: "queues", value: queues.into(), expected });
        }
        let mut state = self.lock()?;
        let known = self.view.topics().get(name).map(|entry| entry.topic.clone());
        if let Some(topic) = known {
            // Who made it may still wait for it to be durable.
            let ticket = state.ticket;
            drop(state);
            self.durable(ticket)?;
            return Ok(topic);
        }
        let now_ms = (self.clock)();
        let incarnation = new_incarnation(now_ms, state.end);
        let access = Access::all(queues);
        let topic = Topic { name: name.clone(), queues, incarnation: incarnation.clone(), access };
        let change = Change::Topic { name: name.to_string(), queues, incarnation: incarnation.clone() };
        Self::log_change(&mut state, change)?;
        let mut list = Vec::new();
        add_queues(&mut list, name, queues, &mut state.numbers);
        self.view.tables().topics.add(name, queues, incarnation, now_ms);
        let entry = TopicEntry { topic: topic.clone(), queues: list };
        self.view.topics_mut().insert(name.clone(), Arc::new(entry));
        let ticket = state.ticket;
        drop(state);
        self.durable(ticket)?;
        Ok(topic)
    }

    /// Sets what clients are told of a topic, and makes the queues that it has not yet; none is taken away.
    pub(crate) fn set_access(&self, name: &TopicName, access: Access) -> Result<Topic, Error> {
        let Access { read_queues, write_queues, perm } = access;
        if read_queues.max(write_queues) > QUEUES_MAX {
            let expected = "0 to 16,384";
            return Err(Error::Setting {
                name: "queues",
                value: read_queues.max(write_queues).into(),
                expected,
            });
        }
        let mut state = self.lock()?;
        let known = self.view.topics().get(name).cloned();
        let mut entry = (*known.ok_or_else(|| Error::NoTopic { topic: name.clone() })?).clone();
        let change = Change::Access { name: name.to_string(), read_queues, write_queues, perm };
        Self::log_change(&mut state, change)?;
        entry.topic.access = access;
        entry.topic.queues = entry.topic.queues.max(read_queues).max(write_queues);
        add_queues(&mut entry.queues, name, entry.topic.queues, &mut state.numbers);
        self.view.tables().topics.set_access(name, access, (self.clock)());
        let topic = entry.topic.clone();
        self.view.topics_mut().insert(name.clone(), Arc::new(entry));
        let ticket = state.ticket;
        drop(state);
        self.durable(ticket)?;
        Ok(topic)
    }

    /// Deletes a topic. What the log holds of it stays there until retention takes it, and is of no topic.
    pub(crate) fn delete_topic(&self, name: &TopicName) -> Result<(), Error> {
        // One that is under way syncs files of the topic.
        let _alone = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock()?;
        let known = self.view.topics().get(name).cloned();
        let entry = known.ok_or_else(|| Error::NoTopic { topic: name.clone() })?;
        Self::log_change(&mut state, Change::Delete { name: name.to_string() })?;
        let (now_ms, log) = ((self.clock)(), state.end);
        self.view.topics_mut().remove(name);
        let mut tables = self.view.tables();
        tables.topics.remove(name.as_str(), log, now_ms);
        tables.offsets.remove_topic(name.as_str(), now_ms);
        tables.leases.remove_topic(name.as_str());
        drop(tables);
        for queue in &entry.queues {
            queue.gone.store(true, Ordering::Release);
            let removed = self.view.queues.cut(&*self.disk, queue, 0, &mut state.unsynced);
            // A topic of that name would find units that mean others.
            removed.map_err(|error| {
                self.poisoned("remove", self.view.dir.join(name::CONSUME_QUEUES), error.to_string())
            })?;
        }
        state.stale.retain(|queue| !queue.gone.load(Ordering::Acquire));
        state.pending.retain(|(queue, _)| !queue.gone.load(Ordering::Acquire));
        let ticket = state.ticket;
        drop(state);
        self.durable(ticket)
    }

    /// Keeps the settings of a consumer group.
    pub(crate) fn set_group(&self, name: &GroupName, config: Value) -> Result<(), Error> {
        let mut state = self.lock()?;
        Self::log_change(&mut state, Change::Group { name: name.to_string(), config: config.clone() })?;
        self.view.tables().groups.set(name, config, (self.clock)());
        let ticket = state.ticket;
        drop(state);
        self.durable(ticket)
    }

    /// Forgets the settings of a consumer group, and perhaps its offsets.
    pub(crate) fn delete_group(&self, name: &GroupName, offsets: bool) -> Result<(), Error> {
        let mut state = self.lock()?;
        Self::log_change(&mut state, Change::RemoveGroup { name: name.to_string(), offsets })?;
        let now_ms = (self.clock)();
        let mut tables = self.view.tables();
        tables.groups.remove(name, now_ms);
        if offsets {
            tables.offsets.remove_group(name.as_str(), now_ms);
            tables.leases.remove_group(name.as_str());
        }
        drop(tables);
        let ticket = state.ticket;
        drop(state);
        self.durable(ticket)
    }

    pub(crate) fn begin_chain(&self, chain: &str, origin: i64, incarnation: &str) -> Result<(), Error> {
        check_chain(chain, incarnation)?;
        if origin < 0 {
            return Err(Error::Malformed { what: "origin", reason: "it is below 0" });
        }
        let mut state = self.lock()?;
        if self.view.tables().positions.get(chain).is_some() {
            return self.after_change(state);
        }
        let incarnation = incarnation.to_owned();
        let change = Change::Position { chain: chain.into(), end: origin, incarnation: incarnation.clone() };
        Self::log_change(&mut state, change)?;
        let position = StoredPosition { end: origin, incarnation, log: state.end };
        self.view.tables().positions.advance(chain, position);
        self.after_change(state)
    }

    pub(crate) fn commit_offset(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: QueueId,
        offset: QueueOffset,
    ) -> Result<(), Error> {
        find(&self.view.topics(), topic, queue)?;
        let mut state = self.lock()?;
        let (queue, next) = (queue.get(), offset.get());
        let change = Change::Offset { group: group.to_string(), topic: topic.to_string(), queue, next };
        Self::log_change(&mut state, change)?;
        let mut tables = self.view.tables();
        tables.offsets.set(group, topic, queue, next, (self.clock)());
        tables.leases.forget(group, topic, queue);
        drop(tables);
        self.after_change(state)
    }

    /// Changes the leases of a group in a queue; the change is durable once [`CommitLog::durable`] returns.
    pub(crate) fn lease(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: QueueId,
        change: &LeaseChange,
    ) -> Result<u64, Error> {
        find(&self.view.topics(), topic, queue)?;
        let mut state = self.lock()?;
        let with = With::Lease { group, topic, queue, change };
        Self::log_change(&mut state, with.change())?;
        with.apply(&mut self.view.tables(), (self.clock)());
        Ok(state.ticket)
    }

    /// Replaces the file of how groups get their messages.
    pub(crate) fn set_request_modes(&self, text: &str) -> Result<(), Error> {
        // Not beside a checkpoint, nor after the last one.
        let _alone = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.lock()?);
        replace(&*self.disk, &self.view.dir.join(name::MODES), text)?;
        let dir = self.view.dir.join(name::CONFIG);
        self.disk.sync_dir(&dir).map_err(|e| Error::io("sync", dir, e))
    }

    fn after_change(&self, state: MutexGuard<'_, State>) -> Result<(), Error> {
        let ticket = state.ticket;
        drop(state);
        if self.flush == Flush::Sync { self.durable(ticket) } else { Ok(()) }
    }

    /// Makes durable what is written now.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        let ticket = self.lock()?.ticket;
        self.durable(ticket)
    }

    /// Returns when the writes up to a ticket are durable.
    pub(crate) fn durable(&self, ticket: u64) -> Result<(), Error> {
        self.group.wait(ticket, || self.sync())
    }

    fn sync(&self) -> Result<u64, Error> {
        let (ticket, end, dirty, pending) = {
            let mut state = self.lock_open()?;
            (state.log_dirty, state.tail_dirty) = (false, false);
            (state.ticket, state.end, std::mem::take(&mut state.dirty), std::mem::take(&mut state.pending))
        };
        for (path, file) in dirty {
            // What a failed sync leaves on the disk nobody knows, and a second one would not tell.
            file.sync().map_err(|error| self.poisoned("sync", path, error.to_string()))?;
        }
        if !pending.is_empty() {
            self.view.show(end, pending);
            self.view.appends.step();
        }
        Ok(ticket)
    }

    /// The writer's lock, unless the store is closed or takes no more writes.
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, State>, Error> {
        let state = self.lock_open()?;
        // Looked at under the lock: who gets it before the closing checkpoint does is part of that.
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed { dir: self.view.dir.clone() });
        }
        Ok(state)
    }

    /// The same for the store's own closing.
    pub(crate) fn lock_open(&self) -> Result<MutexGuard<'_, State>, Error> {
        let state = self.state.lock().map_err(|_| {
            self.poisoned("append to", self.view.dir.clone(), "a thread panicked on the way".into())
        })?;
        match self.poison.get() {
            Some((op, path, reason)) => {
                Err(Error::Poisoned { op, path: path.clone(), reason: reason.clone() })
            }
            None => Ok(state),
        }
    }

    /// From now on nothing is taken any more; gives the error that says so. The next open hears of it.
    pub(crate) fn poisoned(&self, op: &'static str, path: PathBuf, reason: String) -> Error {
        tracing::error!(op, path = %path.display(), error = reason, "the store takes no more writes");
        let unsure = self.view.dir.join(name::UNSURE);
        if let Err(error) = self.disk.open(&unsure, Open::OrCreate) {
            tracing::error!(path = %unsure.display(), %error, "the next open will not know of it");
        }
        let (op, path, reason) = self.poison.get_or_init(|| (op, path, reason));
        Error::Poisoned { op, path: path.clone(), reason: reason.clone() }
    }
}

/// A name that no other topic has had, as far as time, place and chance can tell.
pub(crate) fn new_incarnation(now_ms: i64, log_end: u64) -> String {
    use std::hash::{BuildHasher, RandomState};
    let chance = RandomState::new().hash_one((now_ms, log_end));
    format!("{now_ms:x}-{log_end:x}-{chance:016x}")
}

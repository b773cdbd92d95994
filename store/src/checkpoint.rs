//! Checkpoints and retention: the work that keeps recovery short and the store small.
//!
//! A checkpoint begins a new generation of the tail, makes durable all that was written before it, consume
//! queues too, writes the tables and then `sluice/positions.json`, which says so; only then the old tail
//! goes. A crash at any point leaves the old or the new one in force. Never holds the writer's lock while it
//! waits for the disk, but where it begins and puts queues right.

use std::io;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use sluice_protocol::record::Record;

use crate::Error;
use crate::commit_log::CommitLog;
use crate::consume_queue::Unsynced;
use crate::file::{Disk, Open};
use crate::segment;
use crate::tables::{Checkpoint, Ends, name, replace};
use crate::tail::{self, Tail};
use crate::topic::Topics;
use crate::view::Tables;

/// Length of `RocketMQ`'s `checkpoint`, in bytes.
const CHECKPOINT_BYTES: usize = 4096;

/// When a checkpoint is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// Beside writers, so a new tail takes what they write meanwhile.
    Running,
    /// Nothing was written yet, so the tail stays.
    Opened,
    /// Nothing will be written any more. It names a tail that there is none of: one that is found later tells
    /// that the store was opened again, and what the last one said is not said again over what another broker
    /// did meanwhile.
    Closing,
}

/// What a checkpoint writes.
struct Snapshot {
    ticket: u64,
    checkpoint: Checkpoint,
    tables: Tables,
    unsynced: Unsynced,
}

impl CommitLog {
    /// Writes a checkpoint if anything happened since the last one. An error leaves the last one in force.
    pub(crate) fn checkpoint(&self) -> Result<(), Error> {
        let _alone = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.lock()?);
        self.checkpoint_alone(When::Running)
    }

    /// The checkpoint of a store that is just opened.
    pub(crate) fn checkpoint_opened(&self) -> Result<(), Error> {
        let _alone = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        self.checkpoint_alone(When::Opened)
    }

    fn checkpoint_alone(&self, when: When) -> Result<(), Error> {
        let dir = self.view.dir.join(name::TAIL);
        let (generation, end) = {
            let state = self.lock_open()?;
            if !state.changed {
                return Ok(());
            }
            (state.tail.generation + u64::from(when != When::Opened), state.end)
        };
        let new_tail = || Tail::create(&*self.disk, &dir, generation, end);
        let tail = (when == When::Running).then(new_tail).transpose()?;
        let mut snapshot = self.begin(tail, generation, when == When::Closing)?;
        let written = self.write(&mut snapshot);
        if let Err(error) = written {
            let mut state = self.lock_open()?;
            state.changed = true;
            state.unsynced.add(snapshot.unsynced);
            let mut tables = self.view.tables();
            tables.topics.changed |= snapshot.tables.topics.changed;
            tables.offsets.changed |= snapshot.tables.offsets.changed;
            tables.groups.changed |= snapshot.tables.groups.changed;
            tables.delays.changed |= snapshot.tables.delays.changed;
            tables.leases.changed |= snapshot.tables.leases.changed;
            return Err(error);
        }
        for old in tail::generations(&dir)?.into_iter().filter(|&g| g < generation) {
            let path = tail::path(&dir, old);
            self.disk.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        Ok(())
    }

    /// Turns to the new tail, if there is one, and takes down what holds at this moment.
    fn begin(&self, tail: Option<Tail>, generation: u64, closed: bool) -> Result<Snapshot, Error> {
        let mut state = self.lock_open()?;
        while let Some(queue) = state.stale.last().cloned() {
            let next = queue.next.load(Ordering::Acquire);
            self.view.queues.cut(&*self.disk, &queue, next, &mut state.unsynced)?;
            state.stale.pop();
        }
        if let Some(tail) = tail {
            state.tail = tail;
            state.tail_dirty = false;
        }
        state.changed = false;
        let ends = ends(&self.view.topics());
        let mut tables = self.view.tables();
        let checkpoint = Checkpoint {
            segment_bytes: self.view.segment_bytes(),
            log_offset: state.end,
            foreign_end: state.foreign_end,
            closed,
            generation,
            store_timestamp_ms: state.store_timestamp_ms,
            positions: tables.positions.clone(),
            incarnations: tables.topics.incarnations.clone(),
            deleted: tables.topics.deleted.clone(),
            ends,
            written_ns: None,
        };
        let taken = tables.clone();
        (tables.topics.changed, tables.offsets.changed, tables.groups.changed) = (false, false, false);
        (tables.delays.changed, tables.leases.changed) = (false, false);
        let unsynced = std::mem::take(&mut state.unsynced);
        Ok(Snapshot { ticket: state.ticket, checkpoint, tables: taken, unsynced })
    }

    fn write(&self, snapshot: &mut Snapshot) -> Result<(), Error> {
        self.durable(snapshot.ticket)?;
        let synced = self.view.queues.sync(&*self.disk, &snapshot.unsynced);
        synced.map_err(|e| self.poisoned("sync", self.view.dir.join(name::CONSUME_QUEUES), e.to_string()))?;
        snapshot.unsynced = Unsynced::default();
        if snapshot.checkpoint.closed {
            let end = snapshot.checkpoint.log_offset;
            let last = self.view.segments().iter().map(|s| s.start()).rfind(|&start| start < end);
            let commit_log = self.view.dir.join(name::COMMIT_LOG);
            snapshot.checkpoint.written_ns = last.and_then(|start| segment::written_ns(&commit_log, start));
        }

        let path = |name: &str| self.view.dir.join(name);
        let disk = &*self.disk;
        let Tables { topics, offsets, delays, groups, leases, .. } = &snapshot.tables;
        if topics.changed {
            replace(disk, &path(name::TOPICS), &topics.to_json())?;
        }
        if offsets.changed {
            replace(disk, &path(name::OFFSETS), &offsets.to_json())?;
        }
        if delays.changed {
            replace(disk, &path(name::DELAYS), &delays.to_json())?;
        }
        if groups.changed {
            replace(disk, &path(name::GROUPS), &groups.to_json())?;
        }
        if topics.changed || offsets.changed || delays.changed || groups.changed {
            self.sync_dir(&path(name::CONFIG))?;
        }
        if leases.changed {
            replace(disk, &path(name::LEASES), &leases.to_json())?;
            self.sync_dir(&path(name::OURS))?;
        }
        self.write_times(&path(name::CHECKPOINT), snapshot.checkpoint.store_timestamp_ms)?;
        snapshot.checkpoint.write(disk, &self.view.dir)
    }

    /// `RocketMQ`'s checkpoint: times up to which log, consume queues and key index are durable. It is only
    /// read there after a crash, and an older or torn one costs that broker nothing but time, so it is not
    /// synced. There is no key index, hence its time is 0.
    fn write_times(&self, path: &Path, store_timestamp_ms: i64) -> Result<(), Error> {
        let mut bytes = [0; CHECKPOINT_BYTES];
        bytes[..8].copy_from_slice(&store_timestamp_ms.to_be_bytes());
        bytes[8..16].copy_from_slice(&store_timestamp_ms.to_be_bytes());
        let file = self.disk.open(path, Open::OrCreate);
        file.and_then(|f| f.write_at(&[&bytes], 0)).map_err(|e| Error::io("write", path, e))
    }

    fn sync_dir(&self, path: &Path) -> Result<(), Error> {
        self.disk.sync_dir(path).map_err(|e| Error::io("sync", path, e))
    }

    /// Drops the segments that retention lets go at a time, in ms since 1970-01-01 UTC; says how many.
    pub(crate) fn retain(&self, now_ms: i64) -> Result<u64, Error> {
        let _alone = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.lock()?);
        let count = self.expired_segments(now_ms)?;
        if count == 0 {
            return Ok(0);
        }
        // Positions whose marks lie in what is dropped must stand elsewhere before it goes.
        self.lock_open()?.changed = true;
        self.checkpoint_alone(When::Running)?;
        let Some(first) = self.view.segments().get(count).map(|s| s.start()) else { return Ok(0) };
        let queues: Vec<_> = self.view.topics().values().flat_map(|t| t.queues.clone()).collect();
        for queue in &queues {
            let (from, next) = queue.offsets();
            queue.first.store(self.view.queues.first(queue, from, next, first)?, Ordering::Release);
        }
        let commit_log = self.view.dir.join(name::COMMIT_LOG);
        for _ in 0..count {
            let Some(segment) = self.view.segments_mut().pop_front() else { break };
            let removals = self.removals.load(Ordering::Acquire);
            if removals > self.removals_synced.load(Ordering::Acquire) {
                // A removal is durable before the next, so that no crash leaves a gap.
                self.sync_dir(&commit_log)?;
                self.removals_synced.fetch_max(removals, Ordering::AcqRel);
            }
            let path = segment::path(&commit_log, segment.start());
            self.disk.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
            self.removals.fetch_add(1, Ordering::AcqRel);
        }
        for queue in &queues {
            let (first, next) = queue.offsets();
            self.view.queues.drop_below(&*self.disk, queue, first, next)?;
        }
        tracing::info!(segments = count, log_offset = first, "dropped what is older than retention keeps");
        Ok(count as u64)
    }

    /// How many segments, from the first on, may go. The last one always stays.
    fn expired_segments(&self, now_ms: i64) -> Result<usize, Error> {
        let end = self.lock_open()?.end;
        let segments = self.view.segments();
        let over = |start: u64| self.retention.bytes.is_some_and(|max| end - start > max);
        let age = self.retention.age.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        let oldest = age.map(|age| now_ms.saturating_sub(age));
        let visible = self.view.visible();
        let mut count = 0;
        for (segment, next) in segments.iter().zip(segments.iter().skip(1)) {
            // All records of a segment are older than the first one of the next.
            let head = next.view(next.start(), next.end().min(visible).max(next.start()));
            let stored = head.and_then(|bytes| Record::decode(&bytes).ok().map(|r| r.store_timestamp_ms));
            let aged = oldest.is_some_and(|oldest| stored.is_some_and(|stored| stored < oldest));
            if !aged && !over(segment.start()) {
                break;
            }
            count += 1;
        }
        Ok(count)
    }

    /// Ends the store: flushed, with a checkpoint, and marked as closed. Later calls do nothing.
    pub(crate) fn close(&self) -> Result<(), Error> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let alone = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        let last = self.lock_open().map(|mut state| state.changed = true);
        let closed = last.and_then(|()| self.checkpoint_alone(When::Closing)).and_then(|()| {
            let path = self.view.dir.join(name::ABORT);
            self.disk.remove(&path).map_err(|e| Error::io("remove", &path, e))
        });
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
        drop(alone);
        closed
    }
}

/// Where the queues end; topics without a message are left out.
fn ends(topics: &Topics) -> Ends {
    let ends = topics.iter().map(|(name, topic)| {
        let mut ends: Vec<i64> = topic.queues.iter().map(|q| q.next.load(Ordering::Acquire)).collect();
        ends.truncate(ends.iter().rposition(|&end| end > 0).map_or(0, |last| last + 1));
        (name.to_string(), ends)
    });
    ends.filter(|(_, ends)| !ends.is_empty()).collect()
}

/// Makes the folders of a store. Those of a new one are durable on return, but for what is in the folder of
/// ours, which its first checkpoint makes durable.
pub(crate) fn create_folders(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    disk.create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
    for folder in [name::COMMIT_LOG, name::CONSUME_QUEUES, name::CONFIG, name::OURS, name::TAIL] {
        let path = dir.join(folder);
        match disk.create_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|e| Error::io("create", &path, e))?,
        }
    }
    if !dir.join(name::POSITIONS).exists() {
        disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))?;
    }
    Ok(())
}

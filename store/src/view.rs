//! What readers see of a store: segments, topics, queues, and how far they may look.
//!
//! Never writes a file. A writer moves the end as it commits, a follower as it finds more.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use sluice_protocol::delay::Levels;
use sluice_protocol::id::{GroupName, LogOffset, QueueId, QueueOffset, TopicName};
use sluice_protocol::record::{RECORD_BYTES_MIN, Record};

use crate::consume_queue::{ConsumeQueues, UNIT_BYTES, Unit, units};
use crate::consumer_offset::ConsumerOffsets;
use crate::delay::DelayOffsets;
use crate::group::GroupTable;
use crate::lease::LeaseTable;
use crate::position::Positions;
use crate::segment::Segment;
use crate::topic::{Appends, Queue, TopicTable, Topics, find};
use crate::{Error, LeaseChange, Read, Recovery, Run};

/// Records with a smaller gap between them share one view of the log, in bytes.
const GAP_BYTES_MAX: u64 = 64 * 1024;
/// Most consume-queue units read at once.
const UNITS_MAX: usize = 1024;

/// The tables that can not be made again from the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    pub(crate) topics: TopicTable,
    pub(crate) offsets: ConsumerOffsets,
    pub(crate) delays: DelayOffsets,
    pub(crate) groups: GroupTable,
    pub(crate) leases: LeaseTable,
    pub(crate) positions: Positions,
}

impl Tables {
    /// Changes the leases of a group in a queue, and the offset that it has committed by that.
    pub(crate) fn lease(
        &mut self,
        group: &GroupName,
        topic: &TopicName,
        queue: i32,
        change: &LeaseChange,
        now_ms: i64,
    ) {
        let committed = self.leases.change(group, topic, queue, change);
        if self.offsets.get(group, topic, queue) != Some(committed) {
            self.offsets.set(group, topic, queue, committed, now_ms);
        }
    }
}

/// The side of a store that readers use.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) dir: PathBuf,
    segment_bytes: AtomicU64,
    /// Log offset at which some segment begins: all others begin a multiple of their length away.
    base: AtomicU64,
    segments: RwLock<VecDeque<Arc<Segment>>>,
    topics: RwLock<Topics>,
    pub(crate) queues: ConsumeQueues,
    tables: Mutex<Tables>,
    /// Log offset below which readers may look.
    visible: AtomicU64,
    pub(crate) appends: Appends,
    pub(crate) recovery: Recovery,
    /// How long messages with a delay level wait.
    pub(crate) levels: Levels,
}

/// What a view is made of.
pub(crate) struct Parts {
    pub(crate) dir: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) base: u64,
    pub(crate) segments: VecDeque<Arc<Segment>>,
    pub(crate) topics: Topics,
    pub(crate) queues: ConsumeQueues,
    pub(crate) tables: Tables,
    pub(crate) visible: u64,
    pub(crate) recovery: Recovery,
    pub(crate) levels: Levels,
}

impl View {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            dir: parts.dir,
            segment_bytes: AtomicU64::new(parts.segment_bytes),
            base: AtomicU64::new(parts.base),
            segments: RwLock::new(parts.segments),
            topics: RwLock::new(parts.topics),
            queues: parts.queues,
            tables: Mutex::new(parts.tables),
            visible: AtomicU64::new(parts.visible),
            appends: Appends::default(),
            recovery: parts.recovery,
            levels: parts.levels,
        }
    }

    /// Shows something else of the same store, further on.
    pub(crate) fn replace(&self, parts: Parts) {
        self.segment_bytes.store(parts.segment_bytes, Ordering::Release);
        self.base.store(parts.base, Ordering::Release);
        self.visible.fetch_max(parts.visible, Ordering::AcqRel);
        *self.segments_mut() = parts.segments;
        *self.topics_mut() = parts.topics;
        *self.tables() = parts.tables;
    }

    // What these locks protect is changed by single assignments, so it is whole even if a thread panicked.

    pub(crate) fn topics(&self) -> RwLockReadGuard<'_, Topics> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn topics_mut(&self) -> RwLockWriteGuard<'_, Topics> {
        self.topics.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn segments(&self) -> RwLockReadGuard<'_, VecDeque<Arc<Segment>>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn segments_mut(&self) -> RwLockWriteGuard<'_, VecDeque<Arc<Segment>>> {
        self.segments.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn visible(&self) -> u64 {
        self.visible.load(Ordering::Acquire)
    }

    /// Lets readers look further; who waits is woken by [`Appends::step`].
    pub(crate) fn show(&self, log_end: u64, queues: impl IntoIterator<Item = (Arc<Queue>, i64)>) {
        self.visible.fetch_max(log_end, Ordering::AcqRel);
        for (queue, next) in queues {
            queue.visible.fetch_max(next, Ordering::AcqRel);
        }
    }

    /// Length of a segment in bytes.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment_bytes.load(Ordering::Acquire)
    }

    /// Log offset at which the segment of a log offset begins.
    pub(crate) fn segment_start(&self, log_offset: u64) -> u64 {
        let base = self.base.load(Ordering::Acquire);
        log_offset - log_offset.saturating_sub(base) % self.segment_bytes()
    }

    /// The segment that holds a log offset.
    pub(crate) fn segment(&self, log_offset: u64) -> Option<Arc<Segment>> {
        let segments = self.segments();
        let first = segments.front()?.start();
        let number = usize::try_from(log_offset.checked_sub(first)? / self.segment_bytes()).ok()?;
        segments.get(number).cloned()
    }

    /// Records of a queue from an offset on: about `bytes_max` bytes, at least one record if there is one.
    pub(crate) fn read(
        &self,
        topic: &TopicName,
        queue: QueueId,
        from: QueueOffset,
        bytes_max: usize,
        records_max: usize,
    ) -> Result<Read, Error> {
        let records_max = records_max.max(1);
        let queue = find(&self.topics(), topic, queue)?;
        let (first, end) = queue.offsets();
        if from.get() < first {
            return Err(expired(&queue, from));
        }
        if from.get() > end {
            let next = QueueOffset::new(end);
            return Err(Error::BeyondEnd { topic: topic.clone(), queue: queue.id, from, next });
        }
        let log_end = self.visible();
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        let mut read = Read { next: from, ..Read::default() };
        let mut next = from.get();
        'full: while next < end && read.bytes < bytes_max.max(1) && read.records < records_max {
            // The next ones are about as long as those before.
            let record_bytes = read.bytes.checked_div(read.records).unwrap_or(RECORD_BYTES_MIN).max(1);
            let room = (bytes_max.saturating_sub(read.bytes) / record_bytes + 1).min(UNITS_MAX);
            let room = room.min(records_max - read.records);
            let some = self.units(&queue, next, end, room)?;
            if some.is_empty() {
                return Err(self.damaged(&queue, next, "the consume queue ends before it"));
            }
            for unit in some {
                if unit.is_record() {
                    let size = unit.size as usize;
                    if read.records > 0 && read.bytes + size > bytes_max {
                        break 'full;
                    }
                    if unit.end() > log_end {
                        return Err(self.damaged(&queue, next, "its record lies beyond the log's end"));
                    }
                    self.add_piece(&mut pieces, unit);
                    read.records += 1;
                    read.bytes += size;
                } else if unit.size == 0 {
                    return Err(self.damaged(&queue, next, "its unit is empty"));
                }
                next += 1;
            }
        }
        read.next = QueueOffset::new(next);
        read.runs = self.runs(&queue, from, &pieces)?;
        Ok(read)
    }

    /// The record that begins at a log offset.
    pub(crate) fn record(&self, at: u64) -> Option<Bytes> {
        let end = self.visible();
        let segment = self.segment(at).filter(|_| at < end)?;
        let head = segment.view(at, end.min(at + RECORD_BYTES_MIN as u64))?;
        let size = u64::from(u32::from_be_bytes(*head.first_chunk()?));
        let bytes =
            segment.view(at, at.checked_add(size).filter(|&after| after <= end.min(segment.end()))?)?;
        let record = Record::decode(&bytes).ok()?;
        (record.log_offset == at).then_some(bytes)
    }

    /// The first offset of a queue whose record was stored at a time or later.
    pub(crate) fn offset_at(
        &self,
        topic: &TopicName,
        queue: QueueId,
        store_timestamp_ms: i64,
    ) -> Result<QueueOffset, Error> {
        let queue = find(&self.topics(), topic, queue)?;
        let (mut low, mut high) = queue.offsets();
        while low < high {
            let middle = low + (high - low) / 2;
            let unit = self.units(&queue, middle, high, 1)?.first().copied();
            let bytes = unit.and_then(|unit| self.record(unit.log_offset));
            // What retention drops while we look is older than what stays.
            let before = bytes.as_ref().and_then(|bytes| Record::decode(bytes).ok());
            if before.is_none_or(|record| record.store_timestamp_ms < store_timestamp_ms) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(QueueOffset::new(low))
    }

    /// What the units of a queue keep of tags, from an offset on.
    pub(crate) fn tag_codes(
        &self,
        topic: &TopicName,
        queue: QueueId,
        from: QueueOffset,
        max: usize,
    ) -> Result<Vec<i64>, Error> {
        let queue = find(&self.topics(), topic, queue)?;
        let (first, end) = queue.offsets();
        if from.get() < first {
            return Err(expired(&queue, from));
        }
        let max = max.min(UNITS_MAX).min(usize::try_from(end - from.get()).unwrap_or(0));
        let units = self.units(&queue, from.get(), end, max)?;
        Ok(units.into_iter().map(|unit| unit.tag_hash).collect())
    }

    fn units(&self, queue: &Queue, from: i64, end: i64, max: usize) -> Result<Vec<Unit>, Error> {
        let at_most = |end: i64| max.min(usize::try_from(end - from).unwrap_or(usize::MAX));
        let max = match queue.found(from, at_most(end)) {
            Ok(found) => return Ok(found),
            Err(trusted) => at_most(end.min(trusted)),
        };
        let mut bytes = vec![0; max * UNIT_BYTES];
        let len = self.queues.read(queue, from, &mut bytes)?;
        Ok(units(bytes.get(..len).unwrap_or(&[])).collect())
    }

    /// Adds a record to the last piece if it lies right behind it in the same segment.
    fn add_piece(&self, pieces: &mut Vec<(u64, u64)>, unit: Unit) {
        match pieces.last_mut() {
            Some((start, end))
                if *end == unit.log_offset
                    && self.segment_start(*start) == self.segment_start(unit.log_offset) =>
            {
                *end = unit.end();
            }
            _ => pieces.push((unit.log_offset, unit.end())),
        }
    }

    /// The pieces as bytes. Pieces that lie close share an owner.
    fn runs(&self, queue: &Queue, from: QueueOffset, pieces: &[(u64, u64)]) -> Result<Vec<Run>, Error> {
        let close = |a: &(u64, u64), b: &(u64, u64)| {
            b.0 >= a.1 && b.0 - a.1 <= GAP_BYTES_MAX && self.segment_start(a.0) == self.segment_start(b.0)
        };
        let mut runs = Vec::with_capacity(pieces.len());
        for group in pieces.chunk_by(close) {
            let (Some(&(start, _)), Some(&(_, end))) = (group.first(), group.last()) else { continue };
            // Retention may have dropped it since the offsets were looked at.
            let segment = self.segment(start).ok_or_else(|| expired(queue, from))?;
            let whole = segment.view(start, end);
            let whole = whole.ok_or_else(|| self.damaged(queue, from.get(), "its segment is too short"))?;
            let inside = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX).min(whole.len());
            runs.extend(group.iter().map(|&(from, to)| Run {
                bytes: whole.slice(inside(from)..inside(to)),
                log_offset: LogOffset::new(from),
            }));
        }
        Ok(runs)
    }

    fn damaged(&self, queue: &Queue, offset: i64, what: &str) -> Error {
        let reason =
            format!("offset {offset} of queue {} of topic {} can not be read: {what}", queue.id, queue.topic);
        Error::Damaged { path: self.dir.join("consumequeue"), reason }
    }
}

fn expired(queue: &Queue, from: QueueOffset) -> Error {
    let first = QueueOffset::new(queue.offsets().0);
    Error::Expired { topic: queue.topic.clone(), queue: queue.id, from, first }
}

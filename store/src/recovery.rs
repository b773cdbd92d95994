//! Opens a store: what is kept, what is cut, what is made again.
//!
//! The log is read again from the segment that the last checkpoint ended in; behind it, if the store was closed then
//! and nobody wrote to that segment since. What follows the last whole
//! record is cut; [`crate::repair::zero_after`] zeroes it before anything is appended, so that old bytes can not come back
//! to life in the next crash. But where everything was durable, a record that is not whole and has others
//! behind it is no torn end: nothing is cut there, and a person must look. Never appends.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use sluice_protocol::delay::Levels;
use sluice_protocol::id::LogOffset;

use crate::consume_queue::{ConsumeQueues, Unsynced, names};
use crate::file::Disk;
use crate::index::{Index, Known};
use crate::position::{Positions, StoredPosition};
use crate::scan::{Found, Scan};
use crate::segment::{self, Segment};
use crate::tables::{self, Checkpoint, Ends, name};
use crate::tail::{self, Change, Entries, LoggedChange};
use crate::view::{Parts, Tables};
use crate::{Access, Error, LeaseChange, Recovery, lock};

/// Segments of fewer bytes are refused.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 4096;
/// Segments of more bytes are refused: a filler's size must fit its field.
pub(crate) const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;
/// Segments that start further are none: log offsets are kept as Java's `long`.
pub(crate) const LOG_OFFSET_MAX: u64 = i64::MAX as u64 - SEGMENT_BYTES_MAX;

/// A store as it was found.
pub(crate) struct Opened {
    pub(crate) parts: Parts,
    /// Log offset after the last whole record.
    pub(crate) end: u64,
    /// The generation of the tail that comes next.
    pub(crate) generation: u64,
    pub(crate) store_timestamp_ms: i64,
    /// Log offset from which it is not known what is durable.
    pub(crate) durable: u64,
    /// Files of the tail of which that is not known either.
    pub(crate) tails: Vec<PathBuf>,
    /// Log offset up to which another broker wrote.
    pub(crate) foreign_end: u64,
    /// The last checkpoint, to be written again before anything else: another broker wrote after it.
    pub(crate) overtaken: Option<Checkpoint>,
    /// A sync failed, so that all that is not known to be durable must be written again.
    pub(crate) unsure: bool,
    /// The number of the next queue.
    pub(crate) numbers: u32,
    pub(crate) unsynced: Unsynced,
    /// Where a reader goes on.
    pub(crate) scan: Scan,
    /// A reader looks anew: a writer is only making the store, and has not settled how long its segments are.
    pub(crate) unmade: bool,
}

/// Reads what is there. With a disk, consume queues are repaired; without, nothing is written. Queues are
/// numbered from `numbers` on.
pub(crate) fn open(
    dir: &Path,
    disk: Option<&dyn Disk>,
    numbers: u32,
    segment_bytes: u64,
    levels: &Levels,
    new_incarnation: &dyn Fn(u64) -> String,
    now_ms: i64,
) -> Result<Opened, Error> {
    let commit_log = dir.join(name::COMMIT_LOG);
    let (mut tables, checkpoint) = tables::read(dir)?;
    let entries = tail::read(&dir.join(name::TAIL), checkpoint.as_ref().map_or(0, |c| c.generation))?;
    let files = segment_files(&commit_log)?;
    let segment_bytes = segment_length(&commit_log, checkpoint.as_ref(), &files, segment_bytes)?;
    let checked = checkpoint.as_ref().map_or(0, |c| c.log_offset);
    let first = files.first().map_or(0, |f| f.0);
    // What the log and the files say of a topic that was deleted since is of none, whether or not it was made anew.
    let mut ends = checkpoint.as_ref().map_or_else(Ends::new, |c| c.ends.clone());
    let mut made_anew = BTreeSet::new();
    for LoggedChange { log, change } in &entries.changes {
        if let Change::Delete { name } = change {
            tables.topics.remove(name, *log, now_ms);
            ends.remove(name);
            made_anew.insert(name.clone());
        }
    }
    if files.is_empty() && checked > 0 {
        let reason = format!("all segments are gone, the log reached to {checked}");
        return Err(Error::Damaged { path: commit_log, reason });
    }
    let left = checkpoint.as_ref().is_some_and(|c| c.is_left(entries.generation));
    let ours = checkpoint.as_ref().map_or(0..0, |c| c.ours(entries.generation));
    let mut recovery = Recovery::default();

    // A broker that ended well has removed this file, and everything that it wrote is durable.
    let aborted = dir.join(name::ABORT).exists();
    let settled = !aborted && (left || checkpoint.is_none());
    let start = scan_start(first, segment_bytes, checked, files.last().map_or(0, |f| f.0));
    let written_ns = checkpoint.as_ref().filter(|_| settled).and_then(|c| c.written_ns);
    let whole =
        files.contains(&(start, segment_bytes)) && start < checked && checked <= start + segment_bytes;
    let untouched = whole && written_ns.is_some() && written_ns == segment::written_ns(&commit_log, start);
    let from = if untouched { checked } else { start };
    let mut scan = Scan::new(commit_log.clone(), first, segment_bytes, from);
    scan.runs.clone_from(&entries.runs);
    scan.ours = ours.clone();
    if checkpoint.is_some() && disk.is_none() && lock::is_taken(dir)? {
        scan.vouched_from = checked;
    }
    // It gets its first record after its first checkpoint.
    let unmade = disk.is_none() && checkpoint.is_none() && files.iter().all(|(_, len)| *len == 0);
    let queues = ConsumeQueues::new(dir.join(name::CONSUME_QUEUES));
    let trusted = if settled { u64::MAX } else { from };
    let unsure = dir.join(name::UNSURE).exists();
    let known = Known {
        log_first: first,
        from,
        trusted,
        ours: ours.clone(),
        ends,
        unsure,
        made_anew,
        levels: levels.clone(),
    };
    let mut index = Index::new(&queues, disk, known, &tables.topics, numbers)?;
    let mut store_timestamp_ms = checkpoint.as_ref().map_or(0, |c| c.store_timestamp_ms);
    let scan_end = if unmade { from } else { u64::MAX };
    scan.run(scan_end, &mut |found: &Found<'_>| {
        recovery.records += 1;
        recovery.records_checked += u64::from(!found.vouched && found.record.log_offset >= checked);
        store_timestamp_ms = store_timestamp_ms.max(found.record.store_timestamp_ms);
        add_mark(&mut tables.positions, found);
        index.add(&found.record, false)
    })?;
    let end = scan.at;
    recovery.clean = left && end == checked;
    if !recovery.clean && !unmade {
        let whole_to = if settled { u64::MAX } else { checked };
        if let Some(behind) = scan.whole_behind(whole_to)? {
            return Err(damaged(&scan, behind));
        }
    }

    let voided = tables.positions.void_after(end);
    // What another broker made of the queues is not known, nor where they end in a log that was cut.
    index.settle(end, if left { end == checked } else { end >= checked })?;
    if index.reset_broken()? || voided {
        let mut whole = Scan::new(commit_log.clone(), first, segment_bytes, first);
        whole.ours = ours;
        read_again(whole, end, &mut tables.positions, &mut index)?;
    }
    if index.skipped > 0 {
        tracing::warn!(records = index.skipped, "left records out that no queue can show");
    }
    apply_changes(&mut tables, &entries, end, now_ms);
    for (topic, queues) in index.counts() {
        tables.topics.add(topic, queues, new_incarnation(end), now_ms);
    }
    // Topics that only the changes since the checkpoint name have their queues too.
    for topic in tables.topics.topics() {
        index.ensure(&topic.name, topic.queues)?;
    }
    recovery.queues_rebuilt = index.rebuilt();
    let numbers = index.next_number();
    let (topics, unsynced) = index.finish(&tables.topics)?;
    if !recovery.clean {
        let end = |topic: &str, queue: i32| {
            let queue = topics.get(topic)?.queues.get(usize::try_from(queue).ok()?)?;
            Some(queue.offsets().1)
        };
        tables.offsets.clamp(end);
        tables.leases.clamp(end);
    }
    let Tables { leases, offsets, .. } = &mut tables;
    leases.settle(|group, topic, queue| offsets.get(group, topic, queue));
    tables.topics.deleted.retain(|_, log| *log > first);
    let durable = checkpoint.as_ref().map_or(first, |c| c.log_offset.clamp(first, end));
    if !recovery.clean && checkpoint.is_some() {
        // The files may be newer than their names are durable, and what the tail adds goes into them.
        (tables.topics.changed, tables.offsets.changed, tables.groups.changed) = (true, true, true);
        (tables.delays.changed, tables.leases.changed) = (true, true);
    }
    let segments = map_segments(&commit_log, &files, end)?;
    let visible = end;
    let dir = dir.to_owned();
    let parts = Parts {
        dir,
        segment_bytes,
        base: first,
        segments,
        topics,
        queues,
        tables,
        visible,
        recovery,
        levels: levels.clone(),
    };
    let overtaken = left && end > checked;
    let foreign_end = checkpoint.as_ref().filter(|_| !overtaken).map_or(end, |c| c.foreign_end.min(end));
    let generation = entries.generation.max(checkpoint.as_ref().map_or(0, |c| c.generation)) + 1;
    let overtaken = checkpoint.filter(|_| overtaken).map(|c| Checkpoint { foreign_end, ..c });
    Ok(Opened {
        parts,
        end,
        generation,
        store_timestamp_ms,
        durable,
        tails: entries.files,
        foreign_end,
        overtaken,
        unsure,
        numbers,
        unsynced,
        scan,
        unmade,
    })
}

/// The error for a log that is broken at its scanned end, and goes on at a log offset behind that.
fn damaged(scan: &Scan, behind: u64) -> Error {
    let (end, at) = (scan.at, scan.at - scan.segment_start(scan.at));
    let reason = format!(
        "the record at log offset {end} is not whole, but the one at {behind} is, so this is no torn end; nothing was \
         changed. Put back this file from a copy; or give up all from that place on: shorten this file to {at} bytes, \
         remove those of the commit log that follow, and open the store again"
    );
    Error::Damaged { path: scan.path(), reason }
}

/// Reads the whole log up to its end for what is broken or void.
fn read_again(
    mut scan: Scan,
    end: u64,
    positions: &mut Positions,
    index: &mut Index<'_>,
) -> Result<(), Error> {
    scan.run(end, &mut |found| {
        add_mark(positions, found);
        index.add(&found.record, true)
    })?;
    if scan.at < end {
        let reason =
            "a record before the last checkpoint is not whole, and a consume queue or chain needs it";
        return Err(Error::Damaged {
            path: scan.path(),
            reason: format!("{reason}: log offset {}", scan.at),
        });
    }
    Ok(())
}

/// Segments there are: start and length of the file, rising.
pub(crate) fn segment_files(commit_log: &Path) -> Result<Vec<(u64, u64)>, Error> {
    let mut files = Vec::new();
    for name in names(commit_log)? {
        let start = name.parse().ok().filter(|&start| name.len() == 20 && start < LOG_OFFSET_MAX);
        let Some(start) = start else { continue };
        let path = commit_log.join(&name);
        match fs::metadata(&path) {
            Ok(metadata) => files.push((start, metadata.len())),
            // A writer dropped it just now.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("look at", &path, e)),
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn segment_length(
    commit_log: &Path,
    checkpoint: Option<&Checkpoint>,
    files: &[(u64, u64)],
    wanted: u64,
) -> Result<u64, Error> {
    let found = match (checkpoint, files) {
        (Some(checkpoint), _) => checkpoint.segment_bytes,
        (None, [(a, _), (b, _), ..]) => b - a,
        (None, [(_, len)]) if *len > 0 => *len,
        _ => wanted,
    };
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&found) {
        let expected = "4,096 to 2,147,483,647 bytes";
        return Err(Error::Setting { name: "segment_bytes", value: found, expected });
    }
    if let Some(pair) = files.windows(2).find(|pair| pair[1].0 - pair[0].0 != found) {
        let reason = format!("no segment of {found} bytes lies between {} and {}", pair[0].0, pair[1].0);
        return Err(Error::Damaged { path: commit_log.to_owned(), reason });
    }
    if let Some((start, len)) = files.iter().find(|(_, len)| *len > found) {
        let reason = format!("it has {len} bytes, and segments of this store have {found}");
        return Err(Error::Damaged { path: segment::path(commit_log, *start), reason });
    }
    Ok(found)
}

/// Where the log is read from: the start of the segment that the last checkpoint ended in.
fn scan_start(first: u64, segment_bytes: u64, checked: u64, last: u64) -> u64 {
    let inside = checked.saturating_sub(1).clamp(first, last.max(first));
    first + (inside - first) / segment_bytes * segment_bytes
}

/// Moves a chain to the end of a batch of it.
pub(crate) fn add_mark(positions: &mut Positions, found: &Found<'_>) {
    if let Some(mark) = &found.mark
        && let Some(chain) = &mark.chain
    {
        let log = found.record.log_offset + mark.bytes;
        let position = StoredPosition { end: chain.end, incarnation: chain.incarnation.clone(), log };
        positions.advance(&chain.chain, position);
    }
}

/// Makes the changes that the tail tells of; those after the log's end are void, but for topics, which lose
/// nothing by being there.
pub(crate) fn apply_changes(tables: &mut Tables, entries: &Entries, end: u64, now_ms: i64) {
    for LoggedChange { log, change } in &entries.changes {
        apply_change(tables, *log, change, end, now_ms);
    }
}

fn apply_change(tables: &mut Tables, log: u64, change: &Change, end: u64, now_ms: i64) {
    use sluice_protocol::id::{GroupName, TopicName};
    match change {
        Change::Topic { name, queues, incarnation } => {
            if let Ok(name) = TopicName::stored(name) {
                tables.topics.add(&name, *queues, incarnation.clone(), now_ms);
            }
        }
        Change::Delete { name } => {
            // What comes into a log that was cut stands where records of it stood.
            tables.topics.remove(name, log.min(end), now_ms);
            tables.offsets.remove_topic(name, now_ms);
            tables.leases.remove_topic(name);
        }
        Change::Access { name, read_queues, write_queues, perm } => {
            if let Ok(name) = TopicName::stored(name) {
                let access = Access { read_queues: *read_queues, write_queues: *write_queues, perm: *perm };
                tables.topics.set_access(&name, access, now_ms);
            }
        }
        Change::Group { name, config } => {
            if let Ok(name) = GroupName::new(name) {
                tables.groups.set(&name, config.clone(), now_ms);
            }
        }
        Change::RemoveGroup { name, offsets } => {
            if let Ok(name) = GroupName::new(name) {
                tables.groups.remove(&name, now_ms);
            }
            if *offsets {
                tables.offsets.remove_group(name, now_ms);
                tables.leases.remove_group(name);
            }
        }
        Change::Offset { .. } | Change::Lease { .. } | Change::Delay { .. } | Change::Position { .. }
            if log > end =>
        {
            tracing::warn!(
                log_offset = log,
                end,
                "left out a change that came after what is left of the log"
            );
        }
        Change::Offset { group, topic, queue, next } => {
            if let (Ok(group), Ok(topic)) = (GroupName::new(group), TopicName::stored(topic)) {
                tables.offsets.set(&group, &topic, *queue, *next, now_ms);
                tables.leases.forget(&group, &topic, *queue);
            }
        }
        Change::Lease { group, topic, queue, next, begun, ended } => {
            if let (Ok(group), Ok(topic)) = (GroupName::new(group), TopicName::stored(topic)) {
                let change = LeaseChange { next: *next, begun: begun.clone(), ended: ended.clone() };
                tables.lease(&group, &topic, *queue, &change, now_ms);
            }
        }
        Change::Delay { level, next } => tables.delays.set(*level, *next, now_ms),
        Change::Position { chain, end, incarnation } => {
            let position = StoredPosition { end: *end, incarnation: incarnation.clone(), log };
            tables.positions.advance(chain, position);
        }
    }
}

/// Maps the segments that hold something below `end`.
fn map_segments(
    commit_log: &Path,
    files: &[(u64, u64)],
    end: u64,
) -> Result<VecDeque<std::sync::Arc<Segment>>, Error> {
    let mut segments = VecDeque::new();
    for &(start, len) in files.iter().filter(|(start, len)| *start < end && *len > 0) {
        let path = segment::path(commit_log, start);
        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        tracing::trace!(start, len, "maps a segment");
        segments.push_back(Segment::map(&file, start).map_err(|e| Error::io("map", &path, e))?);
    }
    Ok(segments)
}

/// Says what was cut.
pub(crate) fn report(recovery: &mut Recovery, end: u64, cut_bytes: u64) {
    recovery.cut_bytes = cut_bytes;
    if cut_bytes > 0 {
        recovery.clean = false;
        recovery.cut_at = Some(LogOffset::new(end));
        tracing::warn!(log_offset = end, bytes = cut_bytes, "cut a torn tail");
    }
}

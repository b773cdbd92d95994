//! A reader beside a writer: it looks at the same files and never writes, cuts or locks.
//!
//! It positions itself as a recovery would. Beyond the writer's last checkpoint, while a writer is at work,
//! only runs in its tail count: those stand in the log whole. What the log says there is kept in memory until
//! a checkpoint says that the consume queues have it too.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sluice_protocol::delay::Levels;
use sluice_protocol::id::TopicName;
use sluice_protocol::message::sys_flag;

use crate::consume_queue::Unit;
use crate::delay::tag_code;
use crate::recovery::{self, Opened, add_mark, apply_changes, segment_files};
use crate::scan::{Found, Scan};
use crate::segment::{self, Segment};
use crate::tables::{self, name};
use crate::topic::{Queue, TopicEntry, TopicTable, add_queues};
use crate::view::{Parts, Tables, View};
use crate::{Error, lock, tail};

/// The reading end of a store that another process may write.
#[derive(Debug)]
pub(crate) struct Follower {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    scan: Scan,
    /// Marks found in the log since it was opened.
    tables: Tables,
    numbers: u32,
    /// There was nothing to go on from.
    unmade: bool,
}

impl Follower {
    /// Looks at a store's files; the view shows what is whole now.
    pub(crate) fn open(dir: &Path) -> Result<(View, Self), Error> {
        if !dir.join(name::COMMIT_LOG).is_dir() {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(Error::io("open", dir.join(name::COMMIT_LOG), source));
        }
        let (parts, state) = look(dir, 0)?;
        Ok((View::new(parts), Self { state: Mutex::new(state) }))
    }

    /// Looks for more.
    pub(crate) fn refresh(&self, view: &View) -> Result<(), Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let first = segment_files(&view.dir.join(name::COMMIT_LOG))?.first().map_or(0, |f| f.0);
        if state.unmade || first > state.scan.at {
            // The store was not made yet, or retention overtook the reader.
            let (parts, now) = look(&view.dir, state.numbers)?;
            *state = now;
            view.replace(parts);
            view.appends.step();
            return Ok(());
        }
        let State { scan, tables: marks, numbers, .. } = &mut *state;
        // In this order: what a writer drops from the tail stands in the checkpoint before.
        let taken = lock::is_taken(&view.dir)?;
        let (tables, checkpoint) = tables::read(&view.dir)?;
        let checkpoint_ = checkpoint.as_ref();
        let entries = tail::read(&view.dir.join(name::TAIL), checkpoint_.map_or(0, |c| c.generation))?;
        let checked = checkpoint_.map_or(0, |c| c.log_offset);
        scan.look_again();
        scan.runs.clone_from(&entries.runs);
        if let Some(checkpoint) = checkpoint_ {
            scan.ours = checkpoint.ours(entries.generation);
            scan.vouched_from = if taken { checked } else { u64::MAX };
        }
        let mut now = tables;
        // Topics first: a record that is found now may belong to a new one.
        apply_changes(&mut now, &entries, u64::MAX, 0);
        forget_topics(view, &marks.topics, &now);
        marks.topics.deleted.clone_from(&now.topics.deleted);
        add_topics(view, &now, numbers);
        let mut found: Vec<(Arc<Queue>, Unit)> = Vec::new();
        let mut positions = marks.positions.clone();
        let before = scan.at;
        scan.run(u64::MAX, &mut |record: &Found<'_>| {
            add_mark(&mut positions, record);
            if !now.topics.is_deleted(record.record.topic, record.record.log_offset) {
                found.extend(unit_of(view, record));
            }
            Ok(())
        })?;
        if !taken && lock::is_taken(&view.dir)? {
            // What was taken for whole may be half of what a writer that just came writes.
            scan.at = before;
            return Ok(());
        }
        marks.positions = positions;
        map_more(view, scan.at)?;
        forget_segments(view)?;
        let mut ends = Vec::new();
        for (queue, unit) in found {
            let mut units = queue.found.lock().unwrap_or_else(PoisonError::into_inner);
            let next = queue.next.load(std::sync::atomic::Ordering::Acquire);
            if units.1.is_empty() {
                units.0 = next;
            }
            units.1.push_back(unit);
            queue.next.store(next + 1, std::sync::atomic::Ordering::Release);
            ends.push((queue.clone(), next + 1));
        }
        forget_units(view, checked);
        let mut all = view.tables();
        now.positions.merge(&marks.positions);
        *all = now;
        drop(all);
        view.show(scan.at, ends);
        if scan.at > before {
            view.appends.step();
        }
        Ok(())
    }
}

/// Looks at everything anew, as a recovery would.
fn look(dir: &Path, numbers: u32) -> Result<(Parts, State), Error> {
    // A topic that has no incarnation yet gets one from its writer.
    let open = || {
        recovery::open(
            dir,
            None,
            numbers,
            recovery::SEGMENT_BYTES_MIN,
            &Levels::default(),
            &|_| String::new(),
            0,
        )
    };
    let taken = lock::is_taken(dir)?;
    let mut opened = open()?;
    if !taken && lock::is_taken(dir)? {
        // What was taken for whole may be half of what a writer that just came writes.
        opened = open()?;
    }
    let Opened { parts, scan, numbers, unmade, .. } = opened;
    let tables = parts.tables.clone();
    Ok((parts, State { scan, tables, numbers, unmade }))
}

/// The queue of a record and its unit there, if it is the queue's next one.
fn unit_of(view: &View, found: &Found<'_>) -> Option<(Arc<Queue>, Unit)> {
    let record = &found.record;
    let transaction = record.sys_flag & sys_flag::TRANSACTION;
    if matches!(transaction, sys_flag::TRANSACTION_PREPARED | sys_flag::TRANSACTION_ROLLBACK) {
        return None;
    }
    let topics = view.topics();
    let queue = topics.get(record.topic)?.queues.get(usize::try_from(record.queue_id).ok()?)?;
    let size = u32::try_from(record.size).ok()?;
    let unit = Unit { log_offset: record.log_offset, size, tag_hash: tag_code(record, &view.levels) };
    Some((queue.clone(), unit))
}

/// Forgets the topics that were deleted since, also those of which there is a new one.
fn forget_topics(view: &View, before: &TopicTable, now: &Tables) {
    view.topics_mut().retain(|name, _| {
        let deleted = now.topics.deleted.get(name.as_str());
        deleted.is_none() || deleted == before.deleted.get(name.as_str())
    });
}

fn add_topics(view: &View, tables: &Tables, numbers: &mut u32) {
    for topic in tables.topics.topics() {
        let known = view.topics().get(&topic.name).map(|entry| entry.queues.clone());
        let mut queues = known.unwrap_or_default();
        let name: TopicName = topic.name.clone();
        add_queues(&mut queues, &name, topic.queues, numbers);
        view.topics_mut().insert(name, Arc::new(TopicEntry { topic, queues }));
    }
}

/// Maps segments up to `end`, also one that was shorter when it was mapped.
fn map_more(view: &View, end: u64) -> Result<(), Error> {
    let commit_log = view.dir.join(name::COMMIT_LOG);
    for (start, len) in segment_files(&commit_log)? {
        let known = view.segment(start).filter(|s| s.start() == start);
        if start >= end || len == 0 || known.as_ref().is_some_and(|s| s.end() >= end.min(start + len)) {
            continue;
        }
        let path = segment::path(&commit_log, start);
        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        let mapped = Segment::map(&file, start).map_err(|e| Error::io("map", &path, e))?;
        let mut segments = view.segments_mut();
        match segments.back_mut() {
            Some(last) if last.start() == start => *last = mapped,
            Some(last) if last.start() > start => {}
            _ => segments.push_back(mapped),
        }
    }
    Ok(())
}

/// Lets go of the segments that the writer dropped.
fn forget_segments(view: &View) -> Result<(), Error> {
    let files = segment_files(&view.dir.join(name::COMMIT_LOG))?;
    let Some(&(first, _)) = files.first() else { return Ok(()) };
    let mut dropped = false;
    while view.segments().front().is_some_and(|s| s.start() < first) {
        view.segments_mut().pop_front();
        dropped = true;
    }
    if dropped {
        for queue in view.topics().values().flat_map(|t| &t.queues) {
            let (from, next) = queue.offsets();
            let kept = view.queues.first(queue, from, next, first)?;
            queue.first.store(kept, std::sync::atomic::Ordering::Release);
        }
    }
    Ok(())
}

/// Forgets units that the consume queues have durably: those of records below the checkpoint.
fn forget_units(view: &View, checked: u64) {
    for queue in view.topics().values().flat_map(|t| &t.queues) {
        let mut units = queue.found.lock().unwrap_or_else(PoisonError::into_inner);
        while units.1.front().is_some_and(|unit| unit.log_offset < checked) {
            units.1.pop_front();
            units.0 += 1;
        }
    }
}

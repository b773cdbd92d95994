//! Which record of which file an offset is, as the target's half asks for it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_connect::task::{Confirm, TaskError};

use super::mark::{FileKey, Mark};

/// Marks of one file lie so many bytes apart, at least: what is read again after a start is at most that much more than
/// a plan.
const MARK_BYTES: u64 = 64 * 1024;

/// What both halves know of the logs.
#[derive(Default)]
pub(super) struct Positions(Mutex<Known>);

#[derive(Default)]
struct Known {
    logs: HashMap<Arc<str>, Log>,
    /// The logs that were read from a file last.
    owners: HashMap<FileKey, Arc<str>>,
}

#[derive(Default)]
struct Log {
    /// What the target said.
    recorded: Option<Mark>,
    /// Of what was read and is not confirmed, rising, and the last one before.
    marks: VecDeque<Mark>,
    /// The end of what was read, and of what is confirmed.
    read: i64,
    confirmed: i64,
}

impl Positions {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the target says that a log stands.
    pub(super) fn recorded(&self, topic: &str) -> Option<Mark> {
        self.lock().logs.get(topic)?.recorded.clone()
    }

    /// The log that is read from a file.
    pub(super) fn owner(&self, key: FileKey) -> Option<Arc<str>> {
        self.lock().owners.get(&key).cloned()
    }

    /// A log is read from a file now.
    pub(super) fn own(&self, topic: &Arc<str>, key: FileKey) {
        self.lock().owners.insert(key, Arc::clone(topic));
    }

    /// A log is not read from a file any more.
    pub(super) fn disown(&self, topic: &Arc<str>, key: FileKey) {
        let mut known = self.lock();
        if known.owners.get(&key) == Some(topic) {
            known.owners.remove(&key);
        }
    }

    /// Forgets the logs that are not followed any more, but for those with rows on their way: it is asked still where these
    /// stand. If a log comes again the target says anew where it stands ([`Confirm::same`]).
    pub(super) fn forget(&self, is_followed: impl Fn(&str) -> bool) {
        let mut known = self.lock();
        known.logs.retain(|topic, log| is_followed(topic) || log.confirmed < log.read);
        known.owners.retain(|_, topic| is_followed(topic));
    }

    /// A slice begins at a mark, and ends before an offset.
    pub(super) fn push(&self, topic: &Arc<str>, mark: Mark, end: i64) {
        let mut known = self.lock();
        let log = known.logs.entry(Arc::clone(topic)).or_default();
        log.read = end;
        let marks = &mut log.marks;
        // After a start from an earlier place what was known of later ones is void.
        while marks.back().is_some_and(|last| last.offset > mark.offset) {
            marks.pop_back();
        }
        let is_near = marks.back().is_some_and(|last| {
            last.key == mark.key
                && last.has_head_of(&mark)
                && (last.byte..last.byte.saturating_add(MARK_BYTES)).contains(&mark.byte)
        });
        if !is_near {
            marks.push_back(mark);
        }
    }
}

impl Confirm for Positions {
    fn secure(&self, _topic: &str, _queue: i32, _end: i64) -> Result<(), TaskError> {
        Ok(())
    }

    fn confirm(&self, topic: &str, _queue: i32, end: i64) -> Result<(), TaskError> {
        if let Some(log) = self.lock().logs.get_mut(topic) {
            log.confirmed = end;
            while log.marks.get(1).is_some_and(|second| second.offset <= end) {
                log.marks.pop_front();
            }
        }
        Ok(())
    }

    /// What a target says of a log is where it is read on; whether its file is there shows then.
    fn same(&self, topic: &str, _queue: i32, recorded: &str, _current: &str) -> Result<bool, TaskError> {
        let Some(mark) = Mark::parse(recorded) else { return Ok(false) };
        let mut known = self.lock();
        let topic: Arc<str> = topic.into();
        if let Some(key) = mark.key {
            known.owners.entry(key).or_insert_with(|| Arc::clone(&topic));
        }
        known.logs.entry(topic).or_default().recorded = Some(mark);
        Ok(true)
    }

    fn incarnation(&self, topic: &str, _queue: i32, start: i64) -> Option<String> {
        let known = self.lock();
        let log = known.logs.get(topic)?;
        let mark = log.marks.iter().rev().find(|mark| mark.offset <= start);
        mark.or(log.recorded.as_ref()).map(Mark::to_string)
    }

    fn confirmed(&self, _topic: &str, _queue: i32) -> Result<Option<i64>, TaskError> {
        Ok(None)
    }
}

//! Makes consume queues agree with the log: what the files have below the place where the log is read again,
//! and from there on what the log says. Files that do not go with the log, or end before the last checkpoint
//! says, are made again from the whole log.
//!
//! With a disk it writes what is missing and cuts what points to nothing; without one (a reader beside a
//! writer) it keeps the units it found in memory. Never reads the log.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use sluice_protocol::delay::Levels;
use sluice_protocol::id::{QueueId, TopicName};
use sluice_protocol::message::sys_flag;
use sluice_protocol::record::Record;

use crate::Error;
use crate::consume_queue::{ConsumeQueues, FILE_UNITS, UNIT_BYTES, Unit, Unsynced, units};
use crate::delay::tag_code;
use crate::file::Disk;
use crate::tables::Ends;
use crate::topic::{QUEUES_MAX, Queue, TopicEntry, TopicTable, Topics, add_queues};

/// Units of a queue that are collected before they are written.
const UNITS_MAX: usize = 8192;

/// What is known before the log is read.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// Log offset of the first record kept.
    pub(crate) log_first: u64,
    /// Log offset from which on records are added.
    pub(crate) from: u64,
    /// Units that point below this log offset are trusted.
    pub(crate) trusted: u64,
    /// Log offsets where records stand that no other broker wrote.
    pub(crate) ours: Range<u64>,
    /// Where the queues ended at the last checkpoint.
    pub(crate) ends: Ends,
    /// Units from there on must be written again, whatever the files show.
    pub(crate) unsure: bool,
    /// Topics that were deleted since, so that nothing in their files counts.
    pub(crate) made_anew: BTreeSet<String>,
    /// How long messages with a delay level wait.
    pub(crate) levels: Levels,
}

/// The queues of a store while it is opened.
pub(crate) struct Index<'a> {
    queues: &'a ConsumeQueues,
    disk: Option<&'a dyn Disk>,
    known: Known,
    /// See [`TopicTable::deleted`].
    deleted: BTreeMap<String, u64>,
    topics: BTreeMap<TopicName, Vec<Arc<Queue>>>,
    states: HashMap<u32, State>,
    numbers: u32,
    pub(crate) unsynced: Unsynced,
    /// Records that no queue can show.
    pub(crate) skipped: u64,
}

#[derive(Default)]
struct State {
    /// First offset kept; only right once `begun`.
    first: i64,
    /// Offset after the last unit.
    next: i64,
    /// Log offset after the record of the last unit that the files have.
    stored: u64,
    /// Whether the queue has a unit, or is known to have had one.
    begun: bool,
    /// The last units, not written yet.
    units: Vec<Unit>,
    /// The files do not go with the log.
    broken: bool,
    /// Where the queue ended at the last checkpoint, if the files end before.
    lost: i64,
}

impl<'a> Index<'a> {
    /// Looks at the files of all topics and queues that there are. Queues are numbered from `numbers` on.
    pub(crate) fn new(
        queues: &'a ConsumeQueues,
        disk: Option<&'a dyn Disk>,
        known: Known,
        table: &TopicTable,
        numbers: u32,
    ) -> Result<Self, Error> {
        let mut index = Self {
            queues,
            disk,
            known,
            deleted: table.deleted.clone(),
            topics: BTreeMap::new(),
            states: HashMap::new(),
            numbers,
            unsynced: Unsynced::default(),
            skipped: 0,
        };
        for topic in table.topics() {
            index.ensure(&topic.name, topic.queues)?;
        }
        for (topic, id) in queues.stored()? {
            let (Ok(name), Some(count)) = (TopicName::stored(&topic), count_for(id)) else { continue };
            if index.deleted.contains_key(&topic) && !index.topics.contains_key(&name) {
                index.clear(&name, id)?;
            } else {
                index.ensure(&name, count)?;
            }
        }
        Ok(index)
    }

    /// Removes what is left of a queue whose topic was deleted.
    fn clear(&mut self, topic: &TopicName, id: i32) -> Result<(), Error> {
        let (Some(disk), Ok(id)) = (self.disk, QueueId::new(id)) else { return Ok(()) };
        let queue = Arc::new(Queue::new(self.numbers, topic.clone(), id));
        self.numbers += 1;
        self.queues.clear(disk, &queue, &mut self.unsynced)
    }

    /// Adds a record that was found in the log. With `only_broken` it counts for broken queues alone.
    pub(crate) fn add(&mut self, record: &Record<'_>, only_broken: bool) -> Result<(), Error> {
        let Some((queue, unit)) = self.unit_of(record)? else { return Ok(()) };
        let whole_log = self.known.from <= self.known.log_first;
        let Some(state) = self.states.get_mut(&queue.number) else { return Ok(()) };
        if state.broken != only_broken || unit.log_offset < state.stored {
            return Ok(());
        }
        let offset = record.queue_offset;
        if !state.begun {
            if offset != 0 && !whole_log && !only_broken {
                state.broken = true;
                return Ok(());
            }
            (state.first, state.next, state.begun) = (offset, offset, true);
        }
        if !only_broken && (offset < state.next || (offset > state.next && !whole_log)) {
            // A unit whose first bytes a torn sector kept back points to something that it does not mean.
            state.broken = true;
            return Ok(());
        }
        if offset < state.next {
            // Another record has this offset already; the first one keeps it.
            self.skipped += 1;
            return Ok(());
        }
        if offset - state.next > FILE_UNITS {
            let reason = format!(
                "queue {} of topic {} jumps from offset {} to {offset} at log offset {}",
                queue.id, queue.topic, state.next, record.log_offset
            );
            return Err(Error::Damaged { path: "commitlog".into(), reason });
        }
        while state.next < offset {
            state.units.push(Unit::BLANK);
            state.next += 1;
        }
        state.units.push(unit);
        state.next += 1;
        if state.units.len() >= UNITS_MAX { self.write(&queue) } else { Ok(()) }
    }

    /// The queue that a record belongs to, and its unit there; `None` if consumers never see it.
    fn unit_of(&mut self, record: &Record<'_>) -> Result<Option<(Arc<Queue>, Unit)>, Error> {
        if self.deleted.get(record.topic).is_some_and(|log| record.log_offset < *log) {
            return Ok(None);
        }
        let transaction = record.sys_flag & sys_flag::TRANSACTION;
        if matches!(transaction, sys_flag::TRANSACTION_PREPARED | sys_flag::TRANSACTION_ROLLBACK) {
            return Ok(None);
        }
        let known = self.topics.get(record.topic).and_then(|queues| queues.get(index_of(record.queue_id)));
        let queue = if let Some(queue) = known {
            queue.clone()
        } else {
            let (Ok(topic), Some(count)) = (TopicName::stored(record.topic), count_for(record.queue_id))
            else {
                self.skipped += 1;
                return Ok(None);
            };
            self.ensure(&topic, count)?;
            let queue = self.topics.get(&topic).and_then(|queues| queues.get(index_of(record.queue_id)));
            let Some(queue) = queue else { return Ok(None) };
            queue.clone()
        };
        let tag_hash = tag_code(record, &self.known.levels);
        let size = u32::try_from(record.size).unwrap_or(u32::MAX);
        Ok(Some((queue, Unit { log_offset: record.log_offset, size, tag_hash })))
    }

    /// Takes note that the log ends at a log offset: units that point beyond it are no more. With `complete` no
    /// queue can end before it did at the last checkpoint.
    pub(crate) fn settle(&mut self, log_end: u64, complete: bool) -> Result<(), Error> {
        for queue in self.topics.values().flatten() {
            let Some(state) = self.states.get_mut(&queue.number) else { continue };
            if state.stored > log_end {
                *state = self.known.state_of(self.queues, queue, log_end)?;
            }
            let end = self.known.end(queue);
            if complete && end > state.next {
                (state.broken, state.lost) = (true, end);
            }
        }
        Ok(())
    }

    /// Empties the queues whose files do not go with the log, and with them those that have none; says whether
    /// there are any. Their records must be added again, from the log's first one on.
    pub(crate) fn reset_broken(&mut self) -> Result<bool, Error> {
        if !self.states.values().any(|state| state.broken) {
            return Ok(false);
        }
        for queue in self.topics.values().flatten() {
            let Some(state) = self.states.get_mut(&queue.number) else { continue };
            if state.broken {
                tracing::warn!(topic = %queue.topic, queue_id = queue.id.get(), "makes a consume queue again from the log");
            } else if state.begun {
                continue;
            }
            *state = State { broken: true, lost: state.lost, ..State::default() };
            if let Some(disk) = self.disk {
                self.queues.cut(disk, queue, 0, &mut self.unsynced)?;
            }
        }
        Ok(true)
    }

    /// How many queues were made again and have something.
    pub(crate) fn rebuilt(&self) -> u64 {
        self.states.values().filter(|state| state.broken && (state.begun || state.lost > 0)).count() as u64
    }

    /// Writes what is left, cuts what points beyond, and gives the topics with their queues set.
    pub(crate) fn finish(mut self, table: &TopicTable) -> Result<(Topics, Unsynced), Error> {
        let queues: Vec<Arc<Queue>> = self.topics.values().flatten().cloned().collect();
        for queue in &queues {
            self.write(queue)?;
            let Some(state) = self.states.get_mut(&queue.number) else { continue };
            if !state.begun && state.lost > 0 {
                // All that it had has expired; what comes next has the next offset all the same.
                (state.first, state.next) = (state.lost, state.lost);
                if let Some(disk) = self.disk {
                    self.queues.write_blank(disk, queue, state.next, &mut self.unsynced)?;
                }
            }
            queue.set(state.first, state.next);
            if let Some(disk) = self.disk {
                self.queues.cut(disk, queue, state.next, &mut self.unsynced)?;
            } else {
                let units = std::mem::take(&mut state.units);
                let from = state.next - i64::try_from(units.len()).unwrap_or(0);
                let mut found = queue.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                *found = (from, units.into());
            }
        }
        let mut topics = Topics::new();
        for topic in table.topics() {
            let queues = self.topics.remove(&topic.name).unwrap_or_default();
            topics.insert(topic.name.clone(), Arc::new(TopicEntry { topic, queues }));
        }
        Ok((topics, self.unsynced))
    }

    /// Topics with the number of queues they have in the log or as folders.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&TopicName, u32)> {
        self.topics.iter().map(|(name, queues)| (name, u32::try_from(queues.len()).unwrap_or(QUEUES_MAX)))
    }

    /// A number that no queue has yet.
    pub(crate) fn next_number(&self) -> u32 {
        self.numbers
    }

    /// Makes a topic have at least so many queues.
    pub(crate) fn ensure(&mut self, topic: &TopicName, count: u32) -> Result<(), Error> {
        let queues = self.topics.entry(topic.clone()).or_default();
        let known = queues.len();
        add_queues(queues, topic, count, &mut self.numbers);
        for queue in queues.iter().skip(known) {
            let state = self.known.state_of(self.queues, queue, self.known.trusted)?;
            self.states.insert(queue.number, state);
        }
        Ok(())
    }

    /// Writes collected units where the files do not have them already.
    fn write(&mut self, queue: &Arc<Queue>) -> Result<(), Error> {
        let (Some(disk), Some(state)) = (self.disk, self.states.get_mut(&queue.number)) else {
            return Ok(());
        };
        let count = i64::try_from(state.units.len()).unwrap_or(0);
        let start = state.next - count;
        if count == 0 {
            return Ok(());
        }
        let mut stored = vec![0; state.units.len() * UNIT_BYTES];
        let mut len = 0;
        while let Some(rest) = stored.get_mut(len..).filter(|rest| !rest.is_empty()) {
            match self.queues.read(queue, start + i64::try_from(len / UNIT_BYTES).unwrap_or(0), rest)? {
                0 => break,
                more => len += more,
            }
        }
        let mut same = len == stored.len() && !self.known.unsure;
        for (unit, stored) in state.units.iter_mut().zip(units(&stored)) {
            if (unit.log_offset, unit.size) == (stored.log_offset, stored.size)
                && !self.known.ours.contains(&unit.log_offset)
            {
                // Another broker may keep more in it than the tag, a time for one.
                unit.tag_hash = stored.tag_hash;
            }
            same &= *unit == stored;
        }
        if !same {
            let before = start.rem_euclid(FILE_UNITS);
            if start == state.first && before > 0 && self.queues.unit(queue, start - before)?.is_none() {
                self.queues.write_blank(disk, queue, start, &mut self.unsynced)?;
            }
            let bytes: Vec<u8> = state.units.iter().flat_map(Unit::encode).collect();
            self.queues.write(disk, queue, start, &bytes, &mut self.unsynced)?;
        }
        // What is there was written by a process that may not have lived to make it durable.
        self.queues.distrust(queue, start, state.next, self.known.end(queue), &mut self.unsynced);
        state.units.clear();
        Ok(())
    }
}

impl Known {
    /// Where a queue ended at the last checkpoint; 0 if it had nothing.
    fn end(&self, queue: &Queue) -> i64 {
        let ends = self.ends.get(queue.topic.as_str());
        ends.and_then(|ends| ends.get(queue.id.index())).copied().unwrap_or(0)
    }

    /// What the files of a queue say of records below `trusted`.
    fn state_of(&self, queues: &ConsumeQueues, queue: &Queue, trusted: u64) -> Result<State, Error> {
        if self.made_anew.contains(queue.topic.as_str()) {
            return Ok(State::default());
        }
        let Some((first, next)) = queues.bounds(queue, self.log_first, trusted)? else {
            return Ok(State::default());
        };
        let last = if next > 0 { queues.unit(queue, next - 1)? } else { None };
        let stored = last.filter(Unit::is_record).map_or(0, |unit| unit.end());
        Ok(State { first, next, stored, begun: next > 0, ..State::default() })
    }
}

fn index_of(queue_id: i32) -> usize {
    usize::try_from(queue_id).unwrap_or(usize::MAX)
}

/// How many queues a topic has at least that has this one.
fn count_for(queue_id: i32) -> Option<u32> {
    u32::try_from(queue_id).ok().filter(|&id| id < QUEUES_MAX).map(|id| id + 1)
}

//! The store's handle: what callers see. Never touches a file itself.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use sluice_protocol::delay::{Level, Levels};
use sluice_protocol::id::{GroupName, LogOffset, QueueId, QueueOffset, TopicName};

use crate::checkpoint::create_folders;
use crate::commit_log::{Active, CommitLog, State, new_incarnation};
use crate::file::{Disk, Open};
use crate::follower::Follower;
use crate::index_file::Shape;
use crate::key_index::KeyIndex;
use crate::recovery::{self, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use crate::tables::{self, name};
use crate::tail::{self, Change, Tail};
use crate::view::View;
use crate::{
    Access, Appended, Batch, ChainMark, ChainPosition, Clock, Error, LeaseChange, Leases, Read, Recovery,
    Settings, Ticket, Topic, With, lock, repair, upkeep,
};

/// An open store; clones are handles of the same one. The last one to go closes it, as [`Store::close`]
/// does, but can not say what failed.
#[derive(Clone)]
pub struct Store {
    handle: Arc<Handle>,
}

struct Handle {
    view: Arc<View>,
    role: Role,
}

enum Role {
    Writer { log: Arc<CommitLog>, thread: Mutex<Option<JoinHandle<()>>>, keys: OnceLock<Keys> },
    Reader(Box<Follower>),
}

/// The key index, where one is kept, with its thread.
struct Keys {
    index: Arc<KeyIndex>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.handle.view.dir).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a store to write and read it, and makes it if there is none. Torn bytes at its end are cut, see
    /// [`Store::recovery`].
    ///
    /// [`Error::Locked`] if another process writes it.
    pub fn open(settings: Settings, disk: Arc<dyn Disk>, clock: Clock) -> Result<Self, Error> {
        let store = Self::open_without_upkeep(settings, disk, clock)?;
        if let Role::Writer { log, thread, .. } = &store.handle.role {
            let started = upkeep::start(log.clone());
            let started = started.map_err(|e| Error::io("start the thread of", &store.handle.view.dir, e))?;
            *thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
        }
        Ok(store)
    }

    /// Opens a store without its thread: the caller calls [`Store::flush`], [`Store::checkpoint`] and
    /// [`Store::retain`], and what happens on the disk is in the order of the calls.
    pub fn open_without_upkeep(settings: Settings, disk: Arc<dyn Disk>, clock: Clock) -> Result<Self, Error> {
        let Settings { dir, segment_bytes, flush, retention, delay_levels } = settings;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes) {
            let expected = "4,096 to 2,147,483,647 bytes";
            return Err(Error::Setting { name: "segment_bytes", value: segment_bytes, expected });
        }
        create_folders(&*disk, &dir)?;
        let lock = lock::take(&dir)?;
        let now_ms = clock();
        let incarnation = |end| new_incarnation(now_ms, end);
        let mut opened =
            recovery::open(&dir, Some(&*disk), 0, segment_bytes, &delay_levels, &incarnation, now_ms)?;
        let commit_log = dir.join(name::COMMIT_LOG);
        // We closed it, and nobody wrote since: what follows is zero, and looking would take a second a GiB.
        let untouched = opened.parts.recovery.clean && !dir.join(name::ABORT).exists();
        let cut = if untouched {
            0
        } else {
            repair::zero_after(&*disk, &commit_log, opened.parts.segment_bytes, opened.end)?
        };
        recovery::report(&mut opened.parts.recovery, opened.end, cut);
        let clean = opened.parts.recovery.clean;
        let abort = dir.join(name::ABORT);
        disk.open(&abort, Open::OrCreate).map_err(|e| Error::io("create", &abort, e))?;
        if let Some(checkpoint) = &opened.overtaken {
            // With a tail it will look as if all that follows the checkpoint were ours.
            checkpoint.write(&*disk, &dir)?;
        }
        let tail = Tail::create(&*disk, &dir.join(name::TAIL), opened.generation, opened.end)?;

        let view = View::new(opened.parts);
        let start = view.segment_start(opened.end);
        let active = if start == opened.end {
            Active::create(&*disk, &view, start)?
        } else {
            Active::open(&*disk, &view, start)?
        };
        // What a process wrote that did not close the store may not be durable, nor are the zeros behind it.
        let mut dirty = Vec::new();
        let mut at = if clean { start } else { view.segment_start(opened.durable) };
        while at < start {
            let sealed = Active::open(&*disk, &view, at)?;
            dirty.push((sealed.path, sealed.file));
            at += view.segment_bytes();
        }
        for path in opened.tails {
            // Or the tables that the first checkpoint writes could tell of a change, and not of one before it.
            let file = disk.open(&path, Open::Existing).map_err(|e| Error::io("open", &path, e))?;
            dirty.push((path, file));
        }
        // A segment that begins at the end holds nothing.
        let log_dirty = !clean && (start < opened.end || opened.unsure);
        if log_dirty {
            dirty.push((active.path.clone(), active.file.clone()));
        }
        if opened.unsure {
            for (path, file) in &dirty {
                repair::write_again(&**file).map_err(|e| Error::io("write", path, e))?;
            }
        }
        // Mapped again: it may have been shorter when it was read.
        let mut segments = view.segments_mut();
        segments.pop_back_if(|last| last.start() == active.segment.start());
        segments.push_back(active.segment.clone());
        drop(segments);
        let state = State {
            end: opened.end,
            active,
            tail,
            ticket: u64::from(!clean),
            dirty,
            log_dirty,
            tail_dirty: false,
            pending: Vec::new(),
            unsynced: opened.unsynced,
            stale: Vec::new(),
            store_timestamp_ms: opened.store_timestamp_ms,
            foreign_end: opened.foreign_end,
            changed: !clean,
            numbers: opened.numbers,
        };
        let view = Arc::new(view);
        let log = Arc::new(CommitLog::new(view.clone(), disk, clock, flush, retention, state, lock));
        // What was just found is not looked for again.
        log.checkpoint_opened()?;
        if opened.unsure {
            let path = view.dir.join(name::UNSURE);
            log.disk.remove(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        let role = Role::Writer { log, thread: Mutex::new(None), keys: OnceLock::new() };
        Ok(Self { handle: Arc::new(Handle { view, role }) })
    }

    /// Opens a store to read it, beside a process that may write it. Nothing is written and nothing is locked;
    /// [`Store::refresh`] looks for more.
    pub fn open_read_only(dir: &Path) -> Result<Self, Error> {
        let (view, follower) = Follower::open(dir)?;
        Ok(Self { handle: Arc::new(Handle { view: Arc::new(view), role: Role::Reader(Box::new(follower)) }) })
    }

    /// Whether the store in a folder has a topic, as far as its tables tell: one that was made after the last checkpoint
    /// may be missed. Reads no log, unlike [`Store::open_read_only`].
    pub fn lists_topic(dir: &Path, topic: &TopicName) -> Result<bool, Error> {
        let (tables, checkpoint) = tables::read(dir)?;
        let later = tail::read(&dir.join(name::TAIL), checkpoint.map_or(0, |c| c.generation))?.changes;
        let is_deleted = later
            .iter()
            .any(|later| matches!(&later.change, Change::Delete { name } if name == topic.as_str()));
        Ok(tables.topics.topics().any(|listed| listed.name == *topic) && !is_deleted)
    }

    /// Looks for what another process appended; nothing to do for the writer.
    pub fn refresh(&self) -> Result<(), Error> {
        match &self.handle.role {
            Role::Writer { .. } => Ok(()),
            Role::Reader(follower) => follower.refresh(&self.handle.view),
        }
    }

    /// What open found.
    pub fn recovery(&self) -> &Recovery {
        &self.handle.view.recovery
    }

    /// Makes a topic with `queues` queues (1 to [`crate::QUEUES_MAX`]), durable on return in every flush mode.
    /// One that exists is given back as it is.
    pub fn create_topic(&self, topic: &TopicName, queues: u32) -> Result<Topic, Error> {
        self.log()?.create_topic(topic, queues)
    }

    /// Sets what clients are told of a topic, durable on return in every flush mode. Queues that it has not
    /// yet are made; none is taken away.
    pub fn set_access(&self, topic: &TopicName, access: Access) -> Result<Topic, Error> {
        self.log()?.set_access(topic, access)
    }

    /// Deletes a topic with its messages and the offsets committed in it, durable on return in every flush mode. Its
    /// space is free once retention drops the segments that held it.
    pub fn delete_topic(&self, topic: &TopicName) -> Result<(), Error> {
        self.log()?.delete_topic(topic)
    }

    /// The topic of a name.
    pub fn topic(&self, topic: &TopicName) -> Option<Topic> {
        self.handle.view.topics().get(topic).map(|entry| entry.topic.clone())
    }

    /// Rises with each change of a topic.
    pub fn topics_version(&self) -> i64 {
        self.handle.view.tables().topics.version()
    }

    /// All topics in the order of their names.
    pub fn topics(&self) -> Vec<Topic> {
        let mut topics: Vec<_> =
            self.handle.view.topics().values().map(|entry| entry.topic.clone()).collect();
        topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        topics
    }

    /// Appends a batch as one contiguous run. Written on return, and with [`crate::Flush::Sync`] durable. On
    /// an error nothing was appended, but for [`Error::Poisoned`], where nobody can tell before the store is
    /// opened again.
    pub fn append(&self, batch: Batch) -> Result<Appended, Error> {
        self.log()?.append(batch, None)
    }

    /// As [`Store::append`], but never waits for the disk: with [`crate::Flush::Sync`] the batch is durable, and
    /// seen by readers, once [`Store::durable`] returns for its ticket.
    pub fn append_ahead(&self, batch: Batch) -> Result<(Appended, Ticket), Error> {
        self.log()?.append_ahead(batch, None, None).map(|(appended, ticket)| (appended, Ticket(ticket)))
    }

    /// The same with a change, of which a crash leaves both or neither; but of a batch of several messages that is not
    /// atomic it may leave some of them alone. An empty batch makes the change alone.
    pub fn append_with(&self, batch: Batch, with: &With<'_>) -> Result<(Appended, Ticket), Error> {
        let appended = self.log()?.append_ahead(batch, None, Some(with));
        appended.map(|(appended, ticket)| (appended, Ticket(ticket)))
    }

    /// Returns when everything up to a ticket is durable; one sync serves all who wait meanwhile.
    pub fn durable(&self, ticket: Ticket) -> Result<(), Error> {
        self.log()?.durable(ticket.0)
    }

    /// Appends an atomic batch and moves the chain from the mark's start to its end, both or neither. An
    /// empty batch moves the chain alone. [`Error::WrongPosition`] unless the chain stands at the start or is
    /// unknown.
    pub fn append_chain(&self, batch: Batch, mark: &ChainMark) -> Result<Appended, Error> {
        self.log()?.append(batch, Some(mark))
    }

    /// Whether an append waits for the disk, see [`crate::Flush::Sync`].
    pub fn syncs_appends(&self) -> bool {
        self.log().is_ok_and(|log| log.flush == crate::Flush::Sync)
    }

    /// Where a chain stands.
    pub fn position(&self, chain: &str) -> Option<ChainPosition> {
        self.handle.view.tables().positions.get(chain)
    }

    /// Fixes where a chain begins; one that is known stays where it is. As durable on return as an append.
    pub fn begin_chain(&self, chain: &str, origin: i64, incarnation: &str) -> Result<(), Error> {
        self.log()?.begin_chain(chain, origin, incarnation)
    }

    /// Reads records of a queue from an offset on: at most `bytes_max` bytes, but at least one record if
    /// there is one. [`Error::Expired`] below the first kept offset, [`Error::BeyondEnd`] behind the end.
    pub fn read(
        &self,
        topic: &TopicName,
        queue: QueueId,
        from: QueueOffset,
        bytes_max: usize,
    ) -> Result<Read, Error> {
        self.handle.view.read(topic, queue, from, bytes_max, usize::MAX)
    }

    /// As [`Store::read`], of at most `records_max` records, but at least one.
    pub fn read_records(
        &self,
        topic: &TopicName,
        queue: QueueId,
        from: QueueOffset,
        bytes_max: usize,
        records_max: usize,
    ) -> Result<Read, Error> {
        self.handle.view.read(topic, queue, from, bytes_max, records_max)
    }

    /// What a consume queue keeps of the tags of its messages, from an offset on: at most `max`, fewer where a file of
    /// it ends. It holds a time for messages that come later, and 0 where there is no message.
    pub fn tag_codes(
        &self,
        topic: &TopicName,
        queue: QueueId,
        from: QueueOffset,
        max: usize,
    ) -> Result<Vec<i64>, Error> {
        self.handle.view.tag_codes(topic, queue, from, max)
    }

    /// The record at a log offset, if one that readers may see begins there.
    pub fn record(&self, at: LogOffset) -> Option<Bytes> {
        self.handle.view.record(at.get())
    }

    /// Keeps an index of keys from now on, also of what was stored before, by a thread of its own. One that is
    /// missing or damaged is made again beside all else.
    pub fn start_key_index(&self) -> Result<(), Error> {
        let Role::Writer { log, keys, .. } = &self.handle.role else { return self.log().map(drop) };
        let index =
            Arc::new(KeyIndex::new(Arc::clone(&self.handle.view), Arc::clone(&log.disk), Shape::ROCKETMQ));
        let thread = Arc::clone(&index).start();
        let thread = thread.map_err(|e| Error::io("start the thread of", &self.handle.view.dir, e))?;
        if let Err(second) = keys.set(Keys { index, thread: Mutex::new(Some(thread)) }) {
            second.index.stop();
        }
        Ok(())
    }

    /// The last `max` records of a topic that have a key, among their keys or as their unique id, and were stored
    /// from a time to a time, both included, in ms since 1970-01-01 UTC; in the order they were stored. None without
    /// [`Store::start_key_index`]. While an index is made again it finds what it has so far.
    pub fn records_by_key(
        &self,
        topic: &TopicName,
        key: &str,
        max: usize,
        from_ms: i64,
        to_ms: i64,
    ) -> Result<Vec<Bytes>, Error> {
        match &self.handle.role {
            Role::Writer { keys, .. } => {
                keys.get().map_or(Ok(Vec::new()), |keys| keys.index.find(topic, key, max, from_ms, to_ms))
            }
            Role::Reader(_) => Ok(Vec::new()),
        }
    }

    /// The first offset of a queue whose message was stored at a time or later; the end if none was. Time in
    /// ms since 1970-01-01 UTC.
    pub fn offset_at(
        &self,
        topic: &TopicName,
        queue: QueueId,
        store_timestamp_ms: i64,
    ) -> Result<QueueOffset, Error> {
        self.handle.view.offset_at(topic, queue, store_timestamp_ms)
    }

    /// Log offset behind the last record that readers see.
    pub fn log_end(&self) -> LogOffset {
        LogOffset::new(self.handle.view.visible())
    }

    /// The first offset kept, and the one that comes after the last that readers see.
    pub fn offsets(&self, topic: &TopicName, queue: QueueId) -> Option<(QueueOffset, QueueOffset)> {
        let topics = self.handle.view.topics();
        let (first, next) = topics.get(topic)?.queues.get(queue.index())?.offsets();
        Some((QueueOffset::new(first), QueueOffset::new(next)))
    }

    /// Counts what readers came to see. Returns the count when it is not `seen` any more, or after `timeout`.
    pub fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        self.handle.view.appends.wait(seen, timeout)
    }

    /// Makes durable everything that was appended before the call.
    pub fn flush(&self) -> Result<(), Error> {
        self.log()?.flush()
    }

    /// Keeps the settings of a consumer group, a JSON object, durable on return in every flush mode.
    pub fn set_group(&self, group: &GroupName, settings: &str) -> Result<(), Error> {
        let config = serde_json::from_str::<serde_json::Value>(settings).ok().filter(|v| v.is_object());
        let config =
            config.ok_or(Error::Malformed { what: "group", reason: "its settings are no JSON object" })?;
        self.log()?.set_group(group, config)
    }

    /// Forgets the settings of a consumer group, and with `offsets` all that it committed; durable on return in every
    /// flush mode.
    pub fn delete_group(&self, group: &GroupName, offsets: bool) -> Result<(), Error> {
        self.log()?.delete_group(group, offsets)
    }

    /// The settings of a consumer group, a JSON object.
    pub fn group(&self, group: &GroupName) -> Option<String> {
        self.handle.view.tables().groups.get(group).map(serde_json::Value::to_string)
    }

    /// All groups that have settings, in the order of their names.
    pub fn groups(&self) -> Vec<GroupName> {
        self.handle.view.tables().groups.names().cloned().collect()
    }

    /// Keeps the offset that a group reads next, as durable as a message.
    pub fn commit_offset(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: QueueId,
        offset: QueueOffset,
    ) -> Result<(), Error> {
        self.log()?.commit_offset(group, topic, queue, offset)
    }

    /// The offset that a group reads next, if it committed one.
    pub fn committed_offset(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: QueueId,
    ) -> Option<QueueOffset> {
        self.handle.view.tables().offsets.get(group, topic, queue.get()).map(QueueOffset::new)
    }

    /// Changes what of a queue a group was handed and has not acknowledged, and with it the group's committed offset;
    /// durable once [`Store::durable`] returns for the ticket. [`Store::commit_offset`] forgets it.
    pub fn lease(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: QueueId,
        change: &LeaseChange,
    ) -> Result<Ticket, Error> {
        self.log()?.lease(group, topic, queue, change).map(Ticket)
    }

    /// What groups were handed and have not acknowledged.
    pub fn leases(&self) -> Vec<(GroupName, TopicName, QueueId, Leases)> {
        self.handle.view.tables().leases.all()
    }

    /// The text of `config/messageRequestMode.json`, if there is one.
    pub fn request_modes(&self) -> Result<Option<String>, Error> {
        let path = self.handle.view.dir.join(name::MODES);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, error)),
        }
    }

    /// Replaces `config/messageRequestMode.json`, durable on return in every flush mode.
    pub fn set_request_modes(&self, text: &str) -> Result<(), Error> {
        self.log()?.set_request_modes(text)
    }

    /// How long messages with a delay level wait.
    pub fn delay_levels(&self) -> &Levels {
        &self.handle.view.levels
    }

    /// The offset of its queue from which on a delay level is to be delivered, if it ever was.
    pub fn delay_offset(&self, level: Level) -> Option<QueueOffset> {
        self.handle.view.tables().delays.get(level.get()).map(QueueOffset::new)
    }

    /// What the store's clock says, in ms since 1970-01-01 UTC.
    pub fn now_ms(&self) -> Result<i64, Error> {
        Ok((self.log()?.clock)())
    }

    /// The groups that committed offsets in a topic, in the order of their names.
    pub fn groups_of(&self, topic: &TopicName) -> Vec<String> {
        let mut groups = self.handle.view.tables().offsets.groups_of(topic);
        groups.sort_unstable();
        groups
    }

    /// Writes a checkpoint, so that a later open has less to read. The store's thread does it now and then.
    pub fn checkpoint(&self) -> Result<(), Error> {
        self.log()?.checkpoint()
    }

    /// Drops the segments that retention lets go by the clock, and says how many. The store's thread does it now
    /// and then.
    pub fn retain(&self) -> Result<u64, Error> {
        let log = self.log()?;
        log.retain((log.clock)())
    }

    /// Flushes, writes a checkpoint, gives the lock back and stops the thread. Other handles can still read.
    pub fn close(self) -> Result<(), Error> {
        self.handle.shut()
    }

    fn log(&self) -> Result<&CommitLog, Error> {
        match &self.handle.role {
            Role::Writer { log, .. } => Ok(log),
            Role::Reader(_) => Err(Error::ReadOnly { dir: self.handle.view.dir.clone() }),
        }
    }
}

impl Handle {
    fn shut(&self) -> Result<(), Error> {
        let Role::Writer { log, thread, keys } = &self.role else { return Ok(()) };
        if let Some(Keys { index, thread }) = keys.get()
            && let Some(thread) = thread.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            index.stop();
            let _ = thread.join();
            if let Err(error) = index.close() {
                tracing::warn!(%error, "the key index is not whole, and is made again");
                index.distrust();
            }
        }
        if let Some(thread) = thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            log.wishes.stop();
            // A panic of the thread was reported where it happened; the store closes all the same.
            let _ = thread.join();
        }
        log.close()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        match self.shut() {
            Ok(()) | Err(Error::Poisoned { .. }) => {}
            Err(error) => tracing::warn!(%error, dir = %self.view.dir.display(), "could not close the store"),
        }
    }
}

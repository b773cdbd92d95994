//! The key index: which records have a key. Files as `RocketMQ` has them, in the folder `index`.
//!
//! Made from the log, behind it: a thread takes up what was appended some times a second, and a lookup first takes up
//! the rest, so an append pays nothing. What a store that was not closed left in the last file is not trusted: that
//! file is made again, as one is that is damaged. Losing it costs time and never a message.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use sluice_protocol::id::TopicName;
use sluice_protocol::message::{KEYS, UNIQ_KEY, property, sys_flag};
use sluice_protocol::record::{Record, filler_size};

use crate::Error;
use crate::consume_queue::names;
use crate::file::Disk;
use crate::index_file::{IndexFile, Key, Shape, hash_of};
use crate::tables::name;
use crate::view::View;

/// Between two looks at the log.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Keys that are added together.
const KEYS_MAX: usize = 32 * 1024;
/// A lookup waits for so many times that at most.
const CATCH_UP_MAX: usize = 16;
/// Bytes of records that a lookup gives at most; one may be longer.
const FOUND_BYTES_MAX: usize = 4 << 20;

/// The key index of a store.
#[derive(Debug)]
pub(crate) struct KeyIndex {
    view: Arc<View>,
    disk: Arc<dyn Disk>,
    shape: Shape,
    state: Mutex<State>,
    stopped: Mutex<bool>,
    stop: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// In the order of the log.
    files: Vec<IndexFile>,
    /// Log offset of the next record; `None` before the files were looked at.
    next: Option<u64>,
}

impl KeyIndex {
    pub(crate) fn new(view: Arc<View>, disk: Arc<dyn Disk>, shape: Shape) -> Self {
        Self { view, disk, shape, state: Mutex::default(), stopped: Mutex::new(false), stop: Condvar::new() }
    }

    /// Starts the thread that takes up what is appended.
    pub(crate) fn start(self: Arc<Self>) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("sluice-keys".into()).spawn(move || {
            let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
            while !*stopped {
                drop(stopped);
                let mut more = true;
                while more && !self.is_stopped() {
                    more = self.step(&mut self.lock()).unwrap_or_else(|error| {
                        tracing::warn!(%error, "the key index stays behind, trying again");
                        false
                    });
                }
                stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
                if !*stopped {
                    let waited = self.stop.wait_timeout(stopped, LOOK_EVERY);
                    stopped = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        })
    }

    /// Ends the thread after what it does now.
    pub(crate) fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.notify_all();
    }

    fn is_stopped(&self) -> bool {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up what is left and makes the last file durable: the store closes.
    pub(crate) fn close(&self) -> Result<(), Error> {
        let mut state = self.lock();
        for _ in 0..CATCH_UP_MAX {
            if !self.step(&mut state)? {
                break;
            }
        }
        state.files.last().map_or(Ok(()), IndexFile::sync)
    }

    /// Removes the last file, as nobody knows what of it is on the disk.
    pub(crate) fn distrust(&self) {
        if let Some(file) = self.lock().files.pop() {
            let _ = self.disk.remove(&file.path);
        }
    }

    /// The last `max` records of a topic with a key, by their keys or unique ids, that were stored from a time to a
    /// time, both included; in the order of the log.
    pub(crate) fn find(
        &self,
        topic: &TopicName,
        key: &str,
        max: usize,
        from_ms: i64,
        to_ms: i64,
    ) -> Result<Vec<Bytes>, Error> {
        let mut state = self.lock();
        for _ in 0..CATCH_UP_MAX {
            if !self.step(&mut state)? {
                break;
            }
        }
        let hash = hash_of(topic.as_str(), key);
        let mut found: Vec<(u64, Bytes)> = Vec::new();
        let mut bytes = 0;
        for file in state.files.iter().rev() {
            if found.len() >= max || file.header.end_ms < from_ms {
                break;
            }
            if file.header.begin_ms > to_ms {
                continue;
            }
            file.find(hash, |at, stored_ms| {
                if stored_ms + 999 < from_ms {
                    return false;
                }
                let record = if stored_ms <= to_ms { self.view.record(at) } else { None };
                if let Some(record) = record.filter(|record| has_key(record, topic, key, from_ms, to_ms))
                    && found.last().is_none_or(|(last, _)| *last != at)
                {
                    bytes += record.len();
                    found.push((at, record));
                }
                found.len() < max && bytes < FOUND_BYTES_MAX
            })?;
        }
        found.reverse();
        Ok(found.into_iter().map(|(_, record)| record).collect())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dir(&self) -> PathBuf {
        self.view.dir.join(name::KEY_INDEX)
    }

    fn sync_dir(&self) -> Result<(), Error> {
        let dir = self.dir();
        self.disk.sync_dir(&dir).map_err(|e| Error::io("sync", dir, e))
    }

    /// Takes up the keys of some records; whether there are more.
    fn step(&self, state: &mut State) -> Result<bool, Error> {
        let log_first = self.view.segments().front().map_or(0, |segment| segment.start());
        let next = match state.next {
            Some(next) => next,
            None => self.open(state, log_first)?,
        };
        let expired = state.files.iter().take_while(|file| file.header.end < log_first).count();
        for file in state.files.drain(..expired) {
            self.disk.remove(&file.path).map_err(|e| Error::io("remove", &file.path, e))?;
        }
        let mut keys = Vec::new();
        let next = self.collect(next.max(log_first), &mut keys);
        self.add(state, &keys).inspect_err(|_| {
            // Nobody knows what of it was written: that file is made again.
            if let Some(file) = state.files.pop() {
                tracing::warn!(path = %file.path.display(), "makes a file of the key index again");
                state.next = Some(file.header.begin);
                let _ = self.disk.remove(&file.path);
            }
        })?;
        state.next = Some(next);
        Ok(next < self.view.visible())
    }

    /// Looks at the files that there are; gives the log offset from which on records are missing.
    fn open(&self, state: &mut State, log_first: u64) -> Result<u64, Error> {
        let dir = self.dir();
        let mut found: Vec<String> = names(&dir)?
            .into_iter()
            .filter(|name| name.len() == 17 && name.bytes().all(|b| b.is_ascii_digit()))
            .collect();
        found.sort_unstable();
        let mut files: Vec<IndexFile> = Vec::new();
        let mut dropped: Vec<PathBuf> = Vec::new();
        for path in found.iter().map(|name| dir.join(name)) {
            // What comes after a damaged file is made again with it.
            let file = if dropped.is_empty() {
                IndexFile::open(&*self.disk, path.clone(), self.shape)?
            } else {
                None
            };
            let follows = |file: &IndexFile| {
                let IndexFile { header, .. } = file;
                files.last().is_none_or(|last| last.header.end <= header.begin)
                    && (header.end < log_first || self.view.record(header.end).is_some())
            };
            match file.filter(follows) {
                Some(file) => files.push(file),
                None => dropped.push(path),
            }
        }
        let mut next = log_first;
        if !self.view.recovery.clean
            && let Some(last) = files.pop()
        {
            next = last.header.begin;
            dropped.push(last.path);
        } else if let Some(end) = files.last().map(|last| last.header.end) {
            next = end + self.view.record(end).map_or(0, |record| record.len() as u64);
        }
        for path in &dropped {
            tracing::info!(path = %path.display(), "makes a file of the key index again");
            self.disk.remove(path).map_err(|e| Error::io("remove", path, e))?;
        }
        state.files = files;
        state.next = Some(next);
        Ok(next)
    }

    /// Collects the keys of records from a log offset on, as many as are added together; gives the offset after them.
    fn collect(&self, mut at: u64, keys: &mut Vec<Key>) -> u64 {
        let end = self.view.visible();
        while at < end && keys.len() < KEYS_MAX {
            let Some(segment) = self.view.segment(at) else { break };
            let Some(bytes) = segment.view(at, end.min(segment.end())) else { break };
            let start = at;
            while keys.len() < KEYS_MAX
                && let Some(rest) = bytes.get(usize::try_from(at - start).unwrap_or(usize::MAX)..)
                && !rest.is_empty()
            {
                if filler_size(rest).is_some() {
                    at = segment.end();
                    break;
                }
                // What is visible was whole when it was written or read.
                let Ok(record) = Record::decode(rest) else { return at };
                at += record.size as u64;
                keys.extend(keys_of(&record));
            }
        }
        at
    }

    fn add(&self, state: &mut State, mut keys: &[Key]) -> Result<(), Error> {
        while let Some(first) = keys.first() {
            let room = state.files.last().map_or(0, IndexFile::room);
            if room == 0 {
                if let Some(full) = state.files.last() {
                    full.sync()?;
                }
                let path = self.next_path(state.files.last(), first)?;
                state.files.push(IndexFile::create(&*self.disk, path, self.shape, first)?);
                self.sync_dir()?;
                continue;
            }
            let (now, later) = keys.split_at(room.min(keys.len()));
            if let Some(file) = state.files.last_mut() {
                file.add(now)?;
            }
            keys = later;
        }
        Ok(())
    }

    /// The path of a new file: after the time of its first record, and after the last file.
    fn next_path(&self, last: Option<&IndexFile>, first: &Key) -> Result<PathBuf, Error> {
        let dir = self.dir();
        match self.disk.create_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|e| Error::io("create", &dir, e))?,
        }
        let number = |path: &Path| path.file_name()?.to_str()?.parse::<u64>().ok();
        let after = last.and_then(|file| number(&file.path)).map_or(0, |number| number + 1);
        Ok(dir.join(format!("{:017}", date_number(first.store_timestamp_ms).max(after))))
    }
}

/// The keys of a record.
fn keys_of<'a>(record: &Record<'a>) -> impl Iterator<Item = Key> + use<'a> {
    let taken_back = record.sys_flag & sys_flag::TRANSACTION == sys_flag::TRANSACTION_ROLLBACK;
    let (topic, log_offset, store_timestamp_ms) =
        (record.topic, record.log_offset, record.store_timestamp_ms);
    texts(record).filter(move |_| !taken_back).map(move |key| Key {
        hash: hash_of(topic, key),
        log_offset,
        store_timestamp_ms,
    })
}

fn texts<'a>(record: &Record<'a>) -> impl Iterator<Item = &'a str> + use<'a> {
    let keys = property(record.properties, KEYS).unwrap_or_default();
    let words = keys.split(' ').filter(|word| !word.is_empty());
    property(record.properties, UNIQ_KEY).into_iter().chain(words)
}

fn has_key(bytes: &[u8], topic: &TopicName, key: &str, from_ms: i64, to_ms: i64) -> bool {
    Record::decode(bytes).is_ok_and(|record| {
        record.topic == topic.as_str()
            && (from_ms..=to_ms).contains(&record.store_timestamp_ms)
            && texts(&record).any(|text| text == key)
    })
}

/// A time in ms since 1970-01-01 UTC as the number `yyyyMMddHHmmssSSS`.
fn date_number(ms: i64) -> u64 {
    let (days, ms_of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // Days since 0000-03-01, so that leap days end a year.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year + year_of_era + era * 400;
    let (seconds, ms) = (ms_of_day / 1000, ms_of_day % 1000);
    let time = (seconds / 3600 * 100 + seconds / 60 % 60) * 100 + seconds % 60;
    let number = (((year * 100 + month) * 100 + day) * 1_000_000 + time) * 1000 + ms;
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_after_a_date() {
        for (ms, name) in [
            (0, 19_700_101_000_000_000),
            (951_782_400_123, 20_000_229_000_000_123),
            (1_709_251_199_999, 20_240_229_235_959_999),
            (1_767_225_599_000, 20_251_231_235_959_000),
        ] {
            assert_eq!(date_number(ms), name);
        }
    }
}

//! The tail: what happened since the last checkpoint, in files that only grow: `sluice/tail/<generation>`.
//!
//! For each run of the commit log a checksum over all of its bytes (a record's own covers its body only),
//! and each change of a topic, a committed offset or a chain's position. One `fdatasync` makes them as
//! durable as the messages. Each checkpoint begins a new generation and drops the old ones. Big-endian:
//!
//! | field   | bytes | meaning                                                     |
//! |---------|------:|-------------------------------------------------------------|
//! | magic   |     8 | `SLUICETL`, then the log offset (8) that the file begins at |
//! | `size`  |     4 | of the payload, in bytes; 0 after the last entry            |
//! | `crc`   |     4 | CRC-32 of the payload                                       |
//! | payload |     n | a kind (1), then a run or the JSON of a change              |
//!
//! A run (kind 1) is log offset (8), bytes (4) and CRC-32 (4) with the fields set under the lock taken as
//! zero. An entry that does not check out ends its file. Never says whether a run is whole.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::consume_queue::names;
use crate::file::{Disk, DiskFile, Open};
use crate::lease::Lease;

const MAGIC: &[u8; 8] = b"SLUICETL";
const HEADER_BYTES: usize = 16;
const KIND_RUN: u8 = 1;
const KIND_CHANGE: u8 = 2;
/// Zeros are written so many bytes ahead: a sync of bytes that have their place already is faster, about
/// twice here, as the file's own description stays as it is.
const AHEAD: &[u8] = &[0; 64 * 1024];
/// Generations from here on are none: no store lives so long.
pub(crate) const GENERATION_MAX: u64 = i64::MAX as u64;
/// Longest payload in bytes; names are at most a few KiB.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// What is known of one run of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TailRun {
    /// Length in bytes.
    pub(crate) bytes: u32,
    /// Checksum of the run, see [`sluice_protocol::record::hash_unpatched`].
    pub(crate) crc: u32,
}

/// A change that is no message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub(crate) enum Change {
    /// A topic was made.
    Topic { name: String, queues: u32, incarnation: String },
    /// A topic was deleted.
    Delete { name: String },
    /// What clients are told of a topic was set.
    Access { name: String, read_queues: u32, write_queues: u32, perm: i32 },
    /// A group's settings were set.
    Group { name: String, config: serde_json::Value },
    /// A group's settings were removed, perhaps with its offsets.
    RemoveGroup { name: String, offsets: bool },
    /// A group committed an offset.
    Offset { group: String, topic: String, queue: i32, next: i64 },
    /// A group was handed messages of a queue, or acknowledged some.
    Lease { group: String, topic: String, queue: i32, next: i64, begun: Vec<(i64, Lease)>, ended: Vec<i64> },
    /// A delay level was delivered up to an offset of its queue.
    Delay { level: i32, next: i64 },
    /// A chain moved without a row.
    Position { chain: String, end: i64, incarnation: String },
}

/// A change with the length of the log, in bytes, when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LoggedChange {
    pub(crate) log: u64,
    #[serde(flatten)]
    pub(crate) change: Change,
}

/// What the files hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entries {
    /// Runs by log offset.
    pub(crate) runs: BTreeMap<u64, TailRun>,
    /// Changes in their order.
    pub(crate) changes: Vec<LoggedChange>,
    /// The generation of the last file; 0 if there is none.
    pub(crate) generation: u64,
    /// The files that were read.
    pub(crate) files: Vec<PathBuf>,
}

/// The file that is written now.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) generation: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Where the next entry goes, in bytes.
    at: u64,
    /// Length of the file in bytes.
    len: u64,
}

/// Name of a generation's file.
pub(crate) fn path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("{generation:020}"))
}

impl Tail {
    /// Begins a generation; its name is durable on return.
    pub(crate) fn create(
        disk: &dyn Disk,
        dir: &Path,
        generation: u64,
        log_offset: u64,
    ) -> Result<Self, Error> {
        let path = path(dir, generation);
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..].copy_from_slice(&log_offset.to_be_bytes());
        let create = || {
            let file = disk.open(&path, Open::OrCreate)?;
            file.set_len(0)?;
            file.write_at(&[&header, AHEAD], 0)?;
            io::Result::Ok(file)
        };
        let file = create().map_err(|e| {
            // The next attempt makes it again, whether or not the name can be removed now.
            let _ = disk.remove(&path);
            Error::io("create", &path, e)
        })?;
        disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))?;
        let at = HEADER_BYTES as u64;
        Ok(Self { generation, path, file, at, len: at + AHEAD.len() as u64 })
    }

    /// Writes a run; not durable yet.
    pub(crate) fn run(&mut self, log_offset: u64, run: TailRun) -> Result<(), Error> {
        let mut payload = [KIND_RUN; 17];
        payload[1..9].copy_from_slice(&log_offset.to_be_bytes());
        payload[9..13].copy_from_slice(&run.bytes.to_be_bytes());
        payload[13..].copy_from_slice(&run.crc.to_be_bytes());
        self.entry(&payload)
    }

    /// Writes a change; not durable yet.
    pub(crate) fn change(&mut self, change: &LoggedChange) -> Result<(), Error> {
        let mut payload = vec![KIND_CHANGE];
        serde_json::to_writer(&mut payload, change).map_err(|e| Error::io("write", &self.path, e.into()))?;
        self.entry(&payload)
    }

    /// Where the next entry goes.
    pub(crate) fn place(&self) -> u64 {
        self.at
    }

    /// Takes the entries from a place on back: the next one is written over them.
    pub(crate) fn take_back(&mut self, place: u64) {
        self.at = place;
    }

    fn entry(&mut self, payload: &[u8]) -> Result<(), Error> {
        let len = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= PAYLOAD_BYTES_MAX);
        let Some(len) = len else {
            let (len, max) = (payload.len() as u64, PAYLOAD_BYTES_MAX as u64);
            return Err(Error::TooLarge { what: "change", len, max });
        };
        let crc = crc32fast::hash(payload);
        let entry = [&len.to_be_bytes()[..], &crc.to_be_bytes(), payload];
        let end = self.at + 8 + u64::from(len);
        let write =
            |bufs: &[&[u8]], at| self.file.write_at(bufs, at).map_err(|e| Error::io("write", &self.path, e));
        while self.len < end {
            write(&[AHEAD], self.len)?;
            self.len += AHEAD.len() as u64;
        }
        write(&entry, self.at)?;
        self.at = end;
        Ok(())
    }
}

/// Generations that have a file, rising.
pub(crate) fn generations(dir: &Path) -> Result<Vec<u64>, Error> {
    let generation = |name: &String| name.parse().ok().filter(|generation| *generation < GENERATION_MAX);
    let mut generations: Vec<u64> = names(dir)?.iter().filter_map(generation).collect();
    generations.sort_unstable();
    Ok(generations)
}

/// Reads all generations from one on.
pub(crate) fn read(dir: &Path, from: u64) -> Result<Entries, Error> {
    let mut entries = Entries::default();
    for generation in generations(dir)? {
        entries.generation = generation;
        if generation < from {
            continue;
        }
        let path = path(dir, generation);
        match fs::read(&path) {
            Ok(bytes) => {
                parse(&bytes, &mut entries);
                entries.files.push(path);
            }
            // A writer dropped it just now: its checkpoint has what it said.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("read", &path, e)),
        }
    }
    Ok(entries)
}

fn parse(bytes: &[u8], entries: &mut Entries) {
    let Some(mut rest) = bytes.strip_prefix(MAGIC).and_then(|b| b.get(HEADER_BYTES - MAGIC.len()..)) else {
        return;
    };
    while let Some((len, after)) = rest.split_first_chunk()
        && let Some((crc, after)) = after.split_first_chunk()
        && let Some((payload, after)) = after.split_at_checked(u32::from_be_bytes(*len) as usize)
        && !payload.is_empty()
        && crc32fast::hash(payload) == u32::from_be_bytes(*crc)
    {
        rest = after;
        match payload {
            [KIND_RUN, run @ ..] => entries.runs.extend(parse_run(run)),
            [KIND_CHANGE, change @ ..] => entries.changes.extend(serde_json::from_slice(change).ok()),
            _ => {}
        }
    }
}

fn parse_run(run: &[u8]) -> Option<(u64, TailRun)> {
    let (log_offset, rest) = run.split_first_chunk()?;
    let (bytes, rest) = rest.split_first_chunk()?;
    let run = TailRun { bytes: u32::from_be_bytes(*bytes), crc: u32::from_be_bytes(*rest.first_chunk()?) };
    Some((u64::from_be_bytes(*log_offset), run))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::RealDisk;

    #[test]
    fn a_tail_cut_or_changed_anywhere_gives_the_entries_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut tail = Tail::create(&RealDisk, dir.path(), 7, 100).unwrap();
        let run = TailRun { bytes: 50, crc: 0xDEAD_BEEF };
        let change = Change::Offset { group: "g".into(), topic: "t".into(), queue: 1, next: 2 };
        let change = LoggedChange { log: 150, change };
        tail.run(100, run).unwrap();
        let middle = usize::try_from(tail.at).unwrap();
        tail.change(&change).unwrap();
        let mut whole = fs::read(&tail.path).unwrap();
        assert!(whole.len() > AHEAD.len());
        whole.truncate(usize::try_from(tail.at).unwrap());
        let check = |bytes: &[u8], runs: usize, changes: usize| {
            fs::write(&tail.path, bytes).unwrap();
            let read = read(dir.path(), 0).unwrap();
            assert_eq!((read.generation, read.runs.len(), read.changes.len()), (7, runs, changes));
            assert!(read.runs.values().all(|r| *r == run) && read.changes.iter().all(|c| *c == change));
        };
        check(&whole, 1, 1);
        for at in 0..whole.len() {
            check(&whole[..at], usize::from(at >= middle), 0);
            let mut torn = whole.clone();
            torn[at] ^= 0x40;
            if !(MAGIC.len()..HEADER_BYTES).contains(&at) {
                check(&torn, usize::from(at >= middle), 0);
            }
        }
        assert!(read(dir.path(), 8).unwrap().runs.is_empty());
    }
}

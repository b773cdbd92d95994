//! The files of tables: read on open, written by checkpoints, each replaced as a whole.
//!
//! `config/topics.json` and `config/consumerOffset.json` are `RocketMQ`'s; `sluice/positions.json` is ours
//! and is written last: it says from where the log and the tail must be read to get what came after.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::consume_queue::OFFSET_MAX;
use crate::consumer_offset::ConsumerOffsets;
use crate::delay::DelayOffsets;
use crate::file::{Disk, Open};
use crate::group::GroupTable;
use crate::lease::LeaseTable;
use crate::position::Positions;
use crate::recovery::LOG_OFFSET_MAX;
use crate::tail::GENERATION_MAX;
use crate::topic::TopicTable;
use crate::view::Tables;

/// Names of the store's folders and files, relative to its own folder.
pub(crate) mod name {
    pub(crate) const COMMIT_LOG: &str = "commitlog";
    pub(crate) const CONSUME_QUEUES: &str = "consumequeue";
    pub(crate) const KEY_INDEX: &str = "index";
    pub(crate) const CONFIG: &str = "config";
    pub(crate) const OURS: &str = "sluice";
    pub(crate) const TAIL: &str = "sluice/tail";
    pub(crate) const ABORT: &str = "abort";
    /// There from a failed sync to the next open: what the system shows of files may not be on the disk, though it
    /// believes so and would not write it again by itself.
    pub(crate) const UNSURE: &str = "sluice/unsure";
    pub(crate) const CHECKPOINT: &str = "checkpoint";
    pub(crate) const TOPICS: &str = "config/topics.json";
    pub(crate) const GROUPS: &str = "config/subscriptionGroup.json";
    pub(crate) const OFFSETS: &str = "config/consumerOffset.json";
    pub(crate) const DELAYS: &str = "config/delayOffset.json";
    pub(crate) const LEASES: &str = "sluice/leases.json";
    pub(crate) const MODES: &str = "config/messageRequestMode.json";
    pub(crate) const POSITIONS: &str = "sluice/positions.json";
}

/// Where queues end: by topic, the offset after the last message of each queue; 0 where none is named.
pub(crate) type Ends = BTreeMap<String, Vec<i64>>;

/// `sluice/positions.json`: what a checkpoint found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Checkpoint {
    /// Length of a segment in bytes.
    pub(crate) segment_bytes: u64,
    /// Everything below this log offset was durable, its consume queues too.
    pub(crate) log_offset: u64,
    /// Another broker wrote the log up to here.
    pub(crate) foreign_end: u64,
    /// The store was closed: what follows is another broker's, unless there is a tail that counts.
    pub(crate) closed: bool,
    /// First generation of the tail that counts.
    pub(crate) generation: u64,
    /// Store timestamp of the last message, in ms since 1970-01-01 UTC.
    pub(crate) store_timestamp_ms: i64,
    /// Where the chains stood.
    pub(crate) positions: Positions,
    /// Incarnations of the topics.
    pub(crate) incarnations: BTreeMap<String, String>,
    /// Names of topics that were deleted, with the length of the log then, in bytes.
    #[serde(default)]
    pub(crate) deleted: BTreeMap<String, u64>,
    /// Where the queues ended, so that files that are lost are missed.
    #[serde(default)]
    pub(crate) ends: Ends,
    /// When the last segment was written to before the store was closed, as its file says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) written_ns: Option<u64>,
}

impl Checkpoint {
    /// Whether nobody but another broker wrote after it. `tail` is the last generation that there is of the
    /// tail: our own writing begins with a new one, whose name is durable first.
    pub(crate) fn is_left(&self, tail: u64) -> bool {
        self.closed && tail < self.generation
    }

    /// Log offsets where records stand that no other broker wrote, with the same `tail`.
    pub(crate) fn ours(&self, tail: u64) -> Range<u64> {
        self.foreign_end..if self.is_left(tail) { self.log_offset } else { u64::MAX }
    }

    /// The checkpoint in a text.
    fn parse(text: &str) -> Result<Self, String> {
        let read: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let fits = |end: &i64| (0..OFFSET_MAX).contains(end);
        if read.log_offset > LOG_OFFSET_MAX || read.generation > GENERATION_MAX {
            return Err(format!(
                "no store reaches log offset {} in {} lives",
                read.log_offset, read.generation
            ));
        }
        match read.ends.iter().find(|(_, ends)| !ends.iter().all(fits)) {
            Some((topic, _)) => Err(format!("no queue of topic {topic} can end where it says")),
            None => Ok(read),
        }
    }

    /// Writes it; it is in force, and durable, on return.
    pub(crate) fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
        let path = dir.join(name::POSITIONS);
        let text = serde_json::to_string(self).map_err(|e| Error::io("write", &path, e.into()))?;
        replace(disk, &path, &text)?;
        let dir = dir.join(name::OURS);
        disk.sync_dir(&dir).map_err(|e| Error::io("sync", dir, e))
    }
}

/// Reads the tables and the last checkpoint, if there was one.
pub(crate) fn read(dir: &Path) -> Result<(Tables, Option<Checkpoint>), Error> {
    let checkpoint = read_one(&dir.join(name::POSITIONS), Checkpoint::parse)?;
    let incarnations = checkpoint.as_ref().map(|c| c.incarnations.clone()).unwrap_or_default();
    let topics = read_one(&dir.join(name::TOPICS), |text| TopicTable::parse(text, incarnations.clone()))?;
    let offsets = read_one(&dir.join(name::OFFSETS), ConsumerOffsets::parse)?;
    let delays = read_one(&dir.join(name::DELAYS), DelayOffsets::parse)?;
    let groups = read_one(&dir.join(name::GROUPS), GroupTable::parse)?;
    let leases = read_one(&dir.join(name::LEASES), LeaseTable::parse)?;
    let mut topics = topics.unwrap_or_else(|| TopicTable::new(incarnations));
    topics.deleted = checkpoint.as_ref().map(|c| c.deleted.clone()).unwrap_or_default();
    let tables = Tables {
        topics,
        offsets: offsets.unwrap_or_default(),
        delays: delays.unwrap_or_default(),
        groups: groups.unwrap_or_default(),
        leases: leases.unwrap_or_default(),
        positions: checkpoint.as_ref().map(|c| c.positions.clone()).unwrap_or_default(),
    };
    Ok((tables, checkpoint))
}

/// Reads one file, or the version before it if it does not parse; `None` if there is none.
fn read_one<T>(path: &Path, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, Error> {
    let read = |path: &Path| match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(Some(Err(e.to_string()))),
        Err(e) => Err(Error::io("read", path, e)),
        Ok(text) => Ok(Some(parse(&text))),
    };
    let reason = match read(path)? {
        None => return Ok(None),
        Some(Ok(parsed)) => return Ok(Some(parsed)),
        Some(Err(reason)) => reason,
    };
    if let Some(Ok(before)) = read(&with_suffix(path, ".bak"))? {
        tracing::warn!(path = %path.display(), error = reason, "read the version before a damaged file");
        return Ok(Some(before));
    }
    Err(Error::Damaged { path: path.to_owned(), reason })
}

/// Replaces a file: after power loss the old or the new one is there, whole. Which one is certain after the
/// folder is synced.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, text: &str) -> Result<(), Error> {
    let new = with_suffix(path, ".tmp");
    let write = || {
        let file = disk.open(&new, Open::OrCreate)?;
        file.set_len(0)?;
        file.write_at(&[text.as_bytes()], 0)?;
        file.sync()?;
        disk.rename(&new, path)
    };
    write().map_err(|e| Error::io("replace", path, e))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

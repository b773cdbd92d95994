//! Messages on disk: one commit log for all topics, a consume queue for each queue, and what must never be
//! lost beside them. The on-disk formats are `RocketMQ`'s own; files of ours lie in the folder `sluice`.
//!
//! Knows no socket, no Arrow and no filter. One process writes a store, any number may read it.

mod batch;
mod checkpoint;
mod commit_log;
mod consume_queue;
mod consumer_offset;
mod delay;
mod error;
pub mod file;
mod follower;
mod group;
mod group_commit;
mod index;
mod index_file;
mod json;
mod key_index;
mod lease;
mod lock;
mod position;
mod recovery;
mod repair;
mod retention_time;
mod scan;
mod segment;
mod store;
mod tables;
mod tail;
mod topic;
mod upkeep;
mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_protocol::delay::{Level, Levels};
use sluice_protocol::id::{GroupName, LogOffset, QueueId, QueueOffset, TopicName};
use sluice_protocol::topic::perm;

pub use batch::{ATOMIC_PROPERTIES_BYTES_MAX, Appended, BODY_BYTES_MAX, Batch, CHAIN_BYTES_MAX, ChainMark};
pub use error::{Error, Kind};
pub use lease::{Lease, LeaseChange, Leases};
pub use store::Store;
pub use topic::QUEUES_MAX;

/// A change that is made with a batch, see [`Store::append_with`].
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "as in [`Store::lease`] and [`Store::delay_offset`]")]
pub enum With<'a> {
    /// A group was handed messages of a queue, or has consumed some. The queue must be there.
    Lease { group: &'a GroupName, topic: &'a TopicName, queue: QueueId, change: &'a LeaseChange },
    /// A delay level is delivered up to an offset of its queue.
    Delivered { level: Level, next: QueueOffset },
}

/// Tells the time in ms since 1970-01-01 UTC.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// When appended messages become durable against power loss; they survive the end of the process at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Every `interval`; an append returns when it is written.
    Async {
        /// Time between two flushes.
        interval: Duration,
    },
    /// Before an append returns; readers see durable messages only.
    Sync,
}

/// What is dropped, in whole segments; the last one always stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Messages older than this may go.
    pub age: Option<Duration>,
    /// The oldest go once the commit log is longer than this, in bytes.
    pub bytes: Option<u64>,
}

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The store's folder.
    pub dir: PathBuf,
    /// Length of a commit-log segment, in bytes; an existing store keeps the length it has.
    pub segment_bytes: u64,
    /// When messages become durable.
    pub flush: Flush,
    /// What is dropped.
    pub retention: Retention,
    /// How long messages with a delay level wait.
    pub delay_levels: Levels,
}

impl Settings {
    /// A store in the process that uses it: segments of 64 MiB, flushed every 500 ms, nothing is dropped.
    pub fn embedded(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: 64 << 20,
            flush: Flush::Async { interval: Duration::from_millis(500) },
            retention: Retention::default(),
            delay_levels: Levels::default(),
        }
    }
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: TopicName,
    /// How many queues it has, numbered from 0.
    pub queues: u32,
    /// Tells it from another topic of the same name that came after it.
    pub incarnation: String,
    /// What clients may do with it.
    pub access: Access,
}

/// What clients are told of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Queues that are read, numbered from 0.
    pub read_queues: u32,
    /// Queues that are written, numbered from 0.
    pub write_queues: u32,
    /// Bits of [`sluice_protocol::topic::perm`].
    pub perm: i32,
}

impl Access {
    /// Reading and writing of all of a topic's queues.
    pub fn all(queues: u32) -> Self {
        Self { read_queues: queues, write_queues: queues, perm: perm::READ | perm::WRITE }
    }
}

/// Up to where something was appended, for [`Store::durable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Where a chain stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainPosition {
    /// First source offset that is not stored.
    pub end: i64,
    /// The incarnation of the source's topic.
    pub incarnation: String,
}

/// What one read found.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// Records in queue order; those that lie side by side in the log form one run.
    pub runs: Vec<Run>,
    /// Where to read on.
    pub next: QueueOffset,
    /// Records found.
    pub records: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// Whole records that lie side by side in the log.
#[derive(Clone, Debug)]
pub struct Run {
    /// The records, over the mapped segment.
    pub bytes: Bytes,
    /// Where the first one lies.
    pub log_offset: LogOffset,
}

/// What open found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Whether the store had been closed and nothing came after.
    pub clean: bool,
    /// Records that were read again.
    pub records: u64,
    /// Those of them that no run of the tail vouched for, so that each was checked by itself.
    pub records_checked: u64,
    /// Bytes that were cut because they were torn.
    pub cut_bytes: u64,
    /// Where the log was cut, if it was.
    pub cut_at: Option<LogOffset>,
    /// Queues whose index was made again from the log.
    pub queues_rebuilt: u64,
}

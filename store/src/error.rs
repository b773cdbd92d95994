//! What the store refuses and what the system refused, by who must act.

use std::io;
use std::path::{Path, PathBuf};

use sluice_protocol::id::{QueueId, QueueOffset, TopicName};

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields and their units")]
pub enum Error {
    /// Another process writes this store.
    #[error("store {dir} is in use by process {pid}", dir = dir.display())]
    Locked { dir: PathBuf, pid: u32 },
    /// Settings that no store can have.
    #[error("setting {name} is {value}, it must be {expected}")]
    Setting { name: &'static str, value: u64, expected: &'static str },
    /// There is no such topic.
    #[error("topic {topic} does not exist")]
    NoTopic { topic: TopicName },
    /// The topic has fewer queues.
    #[error("topic {topic} has {queues} queues, so queue {queue} does not exist")]
    NoQueue { topic: TopicName, queue: QueueId, queues: u32 },
    /// The caller asked for what the store never takes; nothing was written.
    #[error("{what} of {len} bytes exceeds the limit of {max} bytes")]
    TooLarge { what: &'static str, len: u64, max: u64 },
    /// The caller handed over what could not be read back; nothing was written.
    #[error("{what} of a message or mark is not allowed: {reason}")]
    Malformed { what: &'static str, reason: &'static str },
    /// Someone else moved the chain; nothing was written.
    #[error("chain {chain} stands at {stored}, so a batch that starts at {start} is refused")]
    WrongPosition { chain: String, stored: i64, start: i64 },
    /// Retention dropped what was asked for.
    #[error("queue {queue} of topic {topic} starts at offset {first}, offset {from} has expired", first = first.get(), from = from.get())]
    Expired { topic: TopicName, queue: QueueId, from: QueueOffset, first: QueueOffset },
    /// The queue does not reach as far as was asked for.
    #[error("queue {queue} of topic {topic} ends at offset {next}, so offset {from} does not exist", next = next.get(), from = from.get())]
    BeyondEnd { topic: TopicName, queue: QueueId, from: QueueOffset, next: QueueOffset },
    /// No space is left; nothing was taken, and the same call succeeds once there is space.
    #[error("no space left to {op} {path}", path = path.display())]
    NoSpace { op: &'static str, path: PathBuf, source: io::Error },
    /// The system refused; the same call may succeed later.
    #[error("cannot {op} {path}", path = path.display())]
    Io { op: &'static str, path: PathBuf, source: io::Error },
    /// An earlier failure left it open what is on the disk: the store takes nothing more until it is
    /// opened again.
    #[error("store takes no more writes since it failed to {op} {path}: {reason}", path = path.display())]
    Poisoned { op: &'static str, path: PathBuf, reason: String },
    /// A file of the store does not hold what it must.
    #[error("{path} is damaged: {reason}", path = path.display())]
    Damaged { path: PathBuf, reason: String },
    /// The store was opened without the right to write.
    #[error("store {dir} was opened read-only", dir = dir.display())]
    ReadOnly { dir: PathBuf },
    /// The store was closed by another handle.
    #[error("store {dir} is closed", dir = dir.display())]
    Closed { dir: PathBuf },
}

/// Who must act on an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Time may heal it: the same call may succeed later.
    Retry,
    /// The caller asked for what can not be; nothing was written.
    Caller,
    /// The store's files or its promises are broken; a person must look.
    Broken,
}

impl Error {
    /// Who must act.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoSpace { .. } | Self::Io { .. } => Kind::Retry,
            Self::Poisoned { .. } | Self::Damaged { .. } | Self::WrongPosition { .. } => Kind::Broken,
            Self::Locked { .. }
            | Self::Setting { .. }
            | Self::NoTopic { .. }
            | Self::NoQueue { .. }
            | Self::TooLarge { .. }
            | Self::Malformed { .. }
            | Self::Expired { .. }
            | Self::BeyondEnd { .. }
            | Self::ReadOnly { .. }
            | Self::Closed { .. } => Kind::Caller,
        }
    }

    /// The system's refusal, told apart by whether space would heal it.
    pub(crate) fn io(op: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        let path = path.as_ref().to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { op, path, source },
            _ => Self::Io { op, path, source },
        }
    }
}

//! What the settings of a source answer for it, and the registry of all sources.

use std::sync::Arc;

use sluice_connect::progress::Stop;
use sluice_connect::task::{SourceTask, TaskError};
use sluice_store::Store;

use crate::{Feeders, KeyProblem};

/// What a source may use of the run that opens it.
pub struct Beside<'a> {
    /// The pipeline's name.
    pub pipeline: &'a str,
    /// The embedded broker's store, for a source that reads one of its topics.
    pub store: Option<Store>,
    /// The pipelines of this run that write what the source reads.
    pub feeders: Feeders,
    /// Ends long work early.
    pub stop: &'a Arc<Stop>,
}

/// The way out for those that can not be read again.
pub const BY_A_TOPIC: &str =
    "send them to a topic, and read that one with a step `dedupe: {key: $message_id}`";

/// Settings of a source. A file with this and a line in the registry are all that a source needs.
pub trait Source {
    /// What is wrong with the settings, as far as it shows without opening anything, each by its path below the source's
    /// key.
    fn problems(&self) -> Vec<KeyProblem> {
        Vec::new()
    }

    /// Makes the task; connects to nothing yet.
    fn open(&self, beside: Beside<'_>) -> Result<Box<dyn SourceTask>, TaskError>;

    /// Why what was read can not be read again under the same offsets, and with that the way out; nothing if it can. A broker
    /// of queues hands out again what was not acknowledged, and knows no offsets.
    fn comes_once(&self) -> Option<String> {
        None
    }

    /// Why rows before a position can not be read again; nothing if they can.
    fn no_way_back(&self) -> Option<&'static str> {
        self.comes_once().map(|_| "a queue has none")
    }

    /// Whether a start without a position leaves out what is there, and nothing beside the target remembers where that was.
    fn begins_at_end(&self) -> bool {
        false
    }

    /// Whether most offsets have no row: they follow from values that rows have.
    fn has_gaps(&self) -> bool {
        false
    }

    /// The topic that the source reads, if it reads one of ours: its cluster, unless it is the embedded broker's, and its
    /// name.
    fn topic(&self) -> Option<(Option<&str>, &str)> {
        None
    }

    /// The names of all properties that its rows have, where the settings alone say them.
    fn properties(&self) -> Option<Vec<String>> {
        None
    }

    /// Paths of keys, below the source's, that hold secrets: their values must not stand in the file.
    fn secrets(&self) -> Vec<Vec<&'static str>> {
        Vec::new()
    }
}

/// Makes the enum of all sources, and of each its key and its answers.
macro_rules! registry {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $($(#[$doc:meta])* $variant:ident($settings:ty) = $key:literal,)*
        }
    ) => {
        $(#[$meta])*
        pub enum $name {
            $($(#[$doc])* $variant($settings),)*
        }

        impl $name {
            /// The source's key, and what answers for it.
            fn registered(&self) -> (&'static str, &dyn $crate::source::Source) {
                match self {
                    $(Self::$variant(settings) => ($key, settings),)*
                }
            }
        }
    };
}
pub(crate) use registry;

//! What the settings of a sink answer for it, and the registry of those that answer all of it themselves.

use arrow::datatypes::Schema;
use sluice_connect::config::{Delivery, Format};
use sluice_connect::target::Target;
use sluice_connect::task::TaskError;

use crate::KeyProblem;

/// What is known of a pipeline's rows before it runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// Their columns, where they are known.
    pub output: Option<&'a Schema>,
    /// The format of their bodies, where it is known and no step makes others.
    pub format: Option<&'a Format>,
}

/// Settings of a sink that keeps its own counsel: a file with this and a line in the registry is all that a sink needs.
/// Sinks that write files are [`crate::files`] instead, and the topic sink writes into the embedded broker.
pub trait Sink {
    /// What is wrong with the settings, as far as it shows without opening anything, each by its path below the sink's
    /// key.
    fn problems(&self, _: Known<'_>) -> Vec<KeyProblem> {
        Vec::new()
    }

    /// Where rows go, on one line for a person.
    fn shown(&self) -> String;

    /// Makes the task; connects, where there is something to connect to. `delivery` matters to those that can do either.
    fn open(&self, delivery: Delivery) -> Result<Target, TaskError>;

    /// What a run finds at the target, for a person; stores no row.
    fn check(&self, delivery: Delivery) -> Result<String, TaskError> {
        let promise = if self.keeps_positions() { "exactly_once" } else { "at_least_once" };
        self.open(delivery).map(|_| format!("{}: {promise}", self.shown()))
    }

    /// Whether the target keeps positions, so that delivery can be exactly once.
    fn keeps_positions(&self) -> bool {
        false
    }

    /// Whether rows become messages, with bodies as they came, and not columns.
    fn takes_messages(&self) -> bool {
        false
    }

    /// Whether step `headers` has something to write.
    fn takes_headers(&self) -> bool {
        false
    }

    /// Why the `$route` of a row says nothing here; nothing if it does.
    fn no_route(&self) -> Option<&'static str> {
        Some("the sink has one place for rows: write a pipeline for each, with `where`")
    }

    /// Paths of keys, below the sink's, that hold secrets: their values must not stand in the file.
    fn secrets(&self) -> Vec<Vec<&str>> {
        Vec::new()
    }
}

/// Makes the enum of all sinks, and of each that has a key here its answers.
macro_rules! registry {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $($(#[$doc:meta])* $variant:ident($settings:ty) $(= $key:literal)?,)*
        }
    ) => {
        $(#[$meta])*
        pub enum $name {
            $($(#[$doc])* $variant($settings),)*
        }

        impl $name {
            /// The key and the settings of a sink that answers for itself.
            fn registered(&self) -> Option<(&'static str, &dyn $crate::sink::Sink)> {
                match self {
                    $($(Self::$variant(settings) => Some(($key, settings)),)?)*
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use registry;

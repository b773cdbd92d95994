//! What the settings of a sink answer for it, and the registry of those that answer all of it themselves.

use sluice_connect::target::Target;
use sluice_connect::task::TaskError;

use crate::KeyProblem;

/// Settings of a sink that keeps its own counsel: a file with this and a line in the registry is all that a sink needs.
pub trait Sink {
    /// What is wrong with the settings, as far as it shows without opening anything, each by its path below the sink's
    /// key.
    fn problems(&self) -> Vec<KeyProblem> {
        Vec::new()
    }

    /// Where rows go, on one line for a person.
    fn shown(&self) -> String;

    /// Makes the task; connects, where there is something to connect to.
    fn open(&self) -> Result<Target, TaskError>;

    /// What a run finds at the target, for a person; stores no row.
    fn check(&self) -> Result<String, TaskError> {
        let delivery = if self.keeps_positions() { "exactly_once" } else { "at_least_once" };
        self.open().map(|_| format!("{}: {delivery}", self.shown()))
    }

    /// Whether the target keeps positions, so that delivery can be exactly once.
    fn keeps_positions(&self) -> bool {
        false
    }

    /// Keys that hold secrets: their values must not stand in the file.
    fn secrets(&self) -> &'static [&'static str] {
        &[]
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

//! What is asked of the owner of the pipelines, and what it tells of one.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_connect::progress::Reading;
use tokio::sync::oneshot;

use crate::Fault;

/// Where the answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, Fault>>;

/// One thing that is asked. Each is answered once, in the order of the requests.
#[expect(missing_docs, reason = "the names say it")]
pub enum Command {
    /// All pipelines, by name.
    List { reply: Reply<Vec<Pipeline>> },
    /// One of them.
    Get { name: String, reply: Reply<Pipeline> },
    /// Takes a document, kept before the answer.
    Put {
        name: String,
        /// One YAML document.
        text: String,
        condition: Condition,
        /// What a new pipeline is to do; one that exists goes on as it is.
        wanted: Wanted,
        reply: Reply<Outcome>,
    },
    /// Ends it and forgets its document; what is in its target stays.
    Delete { name: String, condition: Condition, reply: Reply<()> },
    /// Sets what it is to do, kept before the answer.
    Want { name: String, wanted: Wanted, reply: Reply<()> },
    /// Ends its run and begins another; with `only_failed` only if it has failed.
    Restart { name: String, only_failed: bool, reply: Reply<Pipeline> },
    /// The documents that it had.
    Versions { name: String, reply: Reply<Vec<Version>> },
}

/// What a pipeline is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Wanted {
    /// Run.
    #[default]
    Running,
    /// Rest until it is resumed.
    Paused,
    /// Rest, without tasks.
    Stopped,
}

/// What a pipeline does, in Kafka Connect's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// It runs here.
    Running,
    /// It was paused.
    Paused,
    /// It was stopped, or its source has ended.
    Stopped,
    /// It ended with an error.
    Failed,
    /// Its run ends, and another begins.
    Restarting,
}

/// What must hold for a document to be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Always,
    /// There is none of that name.
    Absent,
    /// There is one.
    Present,
    /// The one that stands has one of these tags.
    Tags(Vec<String>),
}

/// What became of a put.
pub struct Outcome {
    /// The pipeline as it is now.
    pub pipeline: Pipeline,
    /// Whether it is new.
    pub created: bool,
}

/// Where a document stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In a file of the command line.
    File(PathBuf),
    /// In the folder of documents that came by the API, under this number.
    Kept(u64),
}

/// A kind of connector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// `true` for one that brings rows in from elsewhere.
    pub is_source: bool,
    /// Its name: the key below `source` or `sink`.
    pub class: String,
}

/// Who must act on a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// It did not heal in the time that `errors` gives it.
    Retry,
    /// Some record does not fit.
    Record,
    /// A person must change something: the pipeline is blocked.
    Config,
    /// A fault of the program.
    Fatal,
}

/// One pipeline.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Its name.
    pub name: String,
    /// The document as written, variables not expanded.
    pub text: String,
    /// Where it stands.
    pub origin: Origin,
    /// What it is called by tools of Connect.
    pub kind: Kind,
    /// What it does.
    pub state: State,
    /// Why its last run failed.
    pub error: Option<(Class, String)>,
    /// The queues that it reads here, each as `topic/queue`.
    pub tasks: Vec<String>,
    /// What it counts.
    pub reading: Reading,
    /// The topics that it reads and writes.
    pub topics: Vec<String>,
}

impl Pipeline {
    /// The entity tag of its document.
    pub fn tag(&self) -> String {
        match self.origin {
            Origin::Kept(version) => format!("\"{version}\""),
            Origin::File(_) => format!("\"{}\"", sluice_connect::config::hash(self.text.as_bytes())),
        }
    }
}

/// A document that a pipeline had.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Version {
    /// Its number, from 1.
    pub version: u64,
    /// The document; none if the pipeline was deleted then.
    pub text: Option<String>,
}

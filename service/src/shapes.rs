//! Kafka Connect's bodies, as its REST API of version 4 has them; what is ours stands in objects called `sluice`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sluice_connect::task::Fates;

use crate::command::{Class, Origin, Pipeline, State, Wanted};
use crate::fault::Fault;
use crate::flat::{self, CLASS, Flat};

/// The version of every kind of connector: that of the program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `GET /`.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ServerInfo {
    pub(crate) version: String,
    pub(crate) commit: String,
    pub(crate) kafka_cluster_id: String,
}

/// `POST /connectors`.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct CreateConnector {
    pub(crate) name: Option<String>,
    /// Dotted keys of the pipeline's document, values as text.
    pub(crate) config: Map<String, Value>,
    #[serde(default)]
    pub(crate) initial_state: Option<Wanted>,
    /// Refused: where a chain begins is `start` in the document.
    #[serde(default)]
    pub(crate) initial_offsets: Option<Value>,
}

/// A task by its number.
#[derive(Clone, Serialize, JsonSchema)]
pub(crate) struct TaskId {
    pub(crate) connector: String,
    pub(crate) task: usize,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct ConnectorInfo {
    pub(crate) name: String,
    pub(crate) config: Flat,
    pub(crate) tasks: Vec<TaskId>,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct ConnectorStateInfo {
    pub(crate) name: String,
    pub(crate) connector: ConnectorState,
    pub(crate) tasks: Vec<TaskState>,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) sluice: Told,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct ConnectorState {
    pub(crate) state: State,
    pub(crate) worker_id: String,
    pub(crate) version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trace: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct TaskState {
    pub(crate) id: usize,
    pub(crate) state: State,
    pub(crate) worker_id: String,
    pub(crate) version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trace: Option<String>,
}

/// What a pipeline tells beyond Connect's words.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Told {
    /// What it does, in our words; `blocked` if a person must change something.
    pub(crate) state: String,
    /// Who must act on its last failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) class: Option<Class>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// The queues that are read here, each as `topic/queue`; task n is the nth.
    pub(crate) queues: Vec<String>,
    /// Rows read, published or not.
    pub(crate) rows_read: u64,
    /// Rows published, by fate.
    pub(crate) fates: FateCounts,
    /// Files published.
    pub(crate) files: u64,
    /// Rows between the last one read and the ends of the queues that are read here.
    pub(crate) lag: Option<u64>,
    /// What rows on their way hold in memory, in bytes.
    pub(crate) memory_bytes: u64,
    /// Times that another worker had planned the rows first.
    pub(crate) fenced: u64,
    /// The file of the command line that the document stands in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
    /// The number of the document, if it came by this API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<u64>,
}

/// Rows by fate.
#[derive(Serialize, JsonSchema)]
pub(crate) struct FateCounts {
    written: u64,
    filtered: u64,
    deduplicated: u64,
    skipped: u64,
    dead: u64,
    absent: u64,
}

impl From<Fates> for FateCounts {
    fn from(fates: Fates) -> Self {
        let Fates { written, filtered, deduplicated, skipped, dead, absent } = fates;
        Self { written, filtered, deduplicated, skipped, dead, absent }
    }
}

/// A task with its settings: those of the connector.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TaskInfo {
    pub(crate) id: TaskId,
    pub(crate) config: Flat,
}

/// What one pipeline is to tools of Connect.
impl Pipeline {
    pub(crate) fn type_name(&self) -> &'static str {
        if self.kind.is_source { "source" } else { "sink" }
    }

    /// The document as a flat map, with Connect's own keys.
    pub(crate) fn config(&self) -> Result<Flat, Fault> {
        let mut flat = flat::flatten(&self.text).map_err(|error| {
            Fault::new(500, format!("the document of {} can not be read: {error}", self.name))
        })?;
        flat.insert(CLASS.to_owned(), self.kind.class.clone());
        Ok(flat)
    }

    /// How many tasks are shown: at least one where Connect's tools look for a state or a trace.
    fn task_count(&self) -> usize {
        if self.state == State::Stopped { 0 } else { self.tasks.len().max(1) }
    }

    pub(crate) fn task_ids(&self) -> Vec<TaskId> {
        (0..self.task_count()).map(|task| TaskId { connector: self.name.clone(), task }).collect()
    }

    pub(crate) fn info(&self) -> Result<ConnectorInfo, Fault> {
        Ok(ConnectorInfo {
            name: self.name.clone(),
            config: self.config()?,
            tasks: self.task_ids(),
            kind: self.type_name(),
        })
    }

    fn trace(&self) -> Option<String> {
        self.error.as_ref().filter(|_| self.state == State::Failed).map(|(_, message)| message.clone())
    }

    pub(crate) fn task_state(&self, id: usize, worker: &str) -> Option<TaskState> {
        (id < self.task_count()).then(|| TaskState {
            id,
            state: self.state,
            worker_id: worker.to_owned(),
            version: VERSION,
            trace: self.trace(),
        })
    }

    pub(crate) fn status(&self, worker: &str) -> ConnectorStateInfo {
        ConnectorStateInfo {
            name: self.name.clone(),
            connector: ConnectorState {
                state: self.state,
                worker_id: worker.to_owned(),
                version: VERSION,
                trace: self.trace(),
            },
            tasks: (0..self.task_count()).filter_map(|id| self.task_state(id, worker)).collect(),
            kind: self.type_name(),
            sluice: self.told(),
        }
    }

    pub(crate) fn told(&self) -> Told {
        let reading = &self.reading;
        let (file, version) = match &self.origin {
            Origin::File(path) => (Some(path.display().to_string()), None),
            Origin::Kept(version) => (None, Some(*version)),
        };
        Told {
            state: reading.state.clone(),
            class: self.error.as_ref().map(|(class, _)| *class),
            reason: self.error.as_ref().map(|(_, message)| message.clone()),
            queues: self.tasks.clone(),
            rows_read: reading.rows_in,
            fates: reading.fates.into(),
            files: reading.files,
            lag: reading.lag,
            memory_bytes: reading.memory,
            fenced: reading.fenced,
            file,
            version,
        }
    }
}

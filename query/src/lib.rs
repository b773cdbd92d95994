//! SQL over topics, over pipelines and over files, by `DataFusion`, also for clients of Arrow Flight SQL.
//!
//! A topic is a table: the fields of its JSON bodies, typed by inference, and the envelope as `_topic`,
//! `_queue_id`, `_queue_offset`, …; a field of such a name gets one `_` more. A pipeline is one, too: what it has
//! published and what its topic has beyond. Files are `'./folder/'` or `'file.parquet'`. Names stand as they are
//! written, upper and lower case. Reads only; takes no lock of the store, and runs no pipeline.

mod engine;
pub mod flight;
mod log_rows;
mod pipeline_table;
mod pushdown;
mod queue_rows;
mod statement;
pub mod step;
mod topic_table;

use datafusion::error::DataFusionError;

pub use engine::Engine;
pub use pipeline_table::{MakeSteps, Pipeline};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Why a query failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields; lengths are in bytes")]
pub enum Error {
    /// The statement is wrong, or running it failed.
    #[error("{message}")]
    Sql { message: String, source: Box<DataFusionError> },
    /// It does something else than reading.
    #[error(
        "{what} is not run here, only SELECT, VALUES, DESCRIBE and EXPLAIN: rows come by producers and pipelines"
    )]
    ReadOnly { what: String },
    #[error(
        "a statement of {bytes} bytes exceeds the limit of {max}: put what it lists into a topic, and join that"
    )]
    TooLong { bytes: usize, max: usize },
    #[error(
        "more than {max} words between two commas: write `IN (…)` for many `OR`s, or split the statement"
    )]
    TooDeep { max: usize },
    /// The statement, or others that run beside it, hold what may be held.
    #[error(
        "the statement needs more memory than the {} that all statements share: take fewer columns, rows or groups (WHERE, \
         LIMIT), or raise --memory",
        mebibytes(*bytes)
    )]
    Memory { bytes: usize, source: Box<DataFusionError> },
    /// A table that there is not.
    #[error("no table `{name}`{}{way_out}", known_tables(known))]
    NoTable { name: String, known: Vec<String>, way_out: String },
    /// A topic could not be read.
    #[error("cannot read topic {topic}")]
    Topic { topic: String, source: Failure },
    /// A pipeline could not be read.
    #[error("cannot read pipeline {pipeline}")]
    Pipeline { pipeline: String, source: Failure },
    #[error("cannot read the store")]
    Store { source: sluice_store::Error },
}

/// Names in an error, at most.
const NAMES_MAX: usize = 20;

fn known_tables(known: &[String]) -> String {
    match known {
        [] => " (there are none)".to_owned(),
        known if known.len() <= NAMES_MAX => format!(" (there are: {})", known.join(", ")),
        known => {
            let first = known.iter().take(NAMES_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
            format!(" (there are: {first} and {} more)", known.len() - NAMES_MAX)
        }
    }
}

fn mebibytes(bytes: usize) -> String {
    format!("{} MiB", bytes >> 20)
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        Self::Sql { message: error.strip_backtrace(), source: Box::new(error) }
    }
}

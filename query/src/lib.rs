//! SQL over topics and over the files they became, by `DataFusion`.
//!
//! A topic is a table: the fields of its JSON bodies, typed by inference, and the envelope as `_topic`,
//! `_queue_id`, `_queue_offset`, …; a field of such a name gets one `_` more. Files are `'./folder/'` or
//! `'file.parquet'`. Names stand as they are written, upper and lower case. Reads only; takes no lock of
//! the store.

mod pushdown;
mod queue_rows;
pub mod step;
mod topic_table;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::TableReference;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::StreamExt;
use sluice_protocol::id::TopicName;
use sluice_store::Store;

use crate::topic_table::TopicTable;

/// Why a query failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields")]
pub enum Error {
    /// The statement is wrong, or running it failed.
    #[error("{message}")]
    Sql { message: String, source: Box<DataFusionError> },
    /// A table that is neither a topic nor a path.
    #[error("no topic `{name}`{}; a folder or file is written in quotes: '{name}/'", known(topics))]
    NoTable { name: String, topics: Vec<String> },
    /// A topic could not be read.
    #[error("cannot read topic {topic}")]
    Topic { topic: String, source: Box<dyn std::error::Error + Send + Sync> },
}

fn known(topics: &[String]) -> String {
    if topics.is_empty() {
        " (there are no topics)".to_owned()
    } else {
        format!(" (there are: {})", topics.join(", "))
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        Self::Sql { message: error.strip_backtrace(), source: Box::new(error) }
    }
}

/// Runs one statement and gives each batch of its answer to `show`, in order; `show` says whether to go on.
/// The schema comes with each call, also if there are no rows (then with an empty batch).
pub fn run<E: From<Error>>(
    sql: &str,
    store: Option<&Store>,
    show: &mut dyn FnMut(&SchemaRef, RecordBatch) -> Result<bool, E>,
) -> Result<(), E> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .build()
        .map_err(|e| Error::from(DataFusionError::IoError(e)))?;
    runtime.block_on(async {
        let context = session(sql, store)?;
        let read_only =
            SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let frame = context.sql_with_options(sql, read_only).await.map_err(Error::from)?;
        let schema: SchemaRef = Arc::new(frame.schema().as_arrow().clone());
        let mut stream = frame.execute_stream().await.map_err(Error::from)?;
        let mut any = false;
        while let Some(batch) = stream.next().await {
            any = true;
            if !show(&schema, batch.map_err(Error::from)?)? {
                return Ok(());
            }
        }
        if !any {
            show(&schema, RecordBatch::new_empty(Arc::clone(&schema)))?;
        }
        Ok(())
    })
}

/// A session that knows the topics which the statement names.
fn session(sql: &str, store: Option<&Store>) -> Result<SessionContext, Error> {
    let mut config = SessionConfig::new().with_information_schema(false);
    config.options_mut().sql_parser.enable_ident_normalization = false;
    let context = SessionContext::new_with_config(config).enable_url_table();
    let state = context.state();
    let statement = state.sql_to_statement(sql, &state.config().options().sql_parser.dialect)?;
    for table in state.resolve_table_references(&statement)? {
        let TableReference::Bare { table: name } = &table else { continue };
        let topic = TopicName::new(name).ok().and_then(|n| store?.topic(&n));
        match (topic, store) {
            (Some(topic), Some(store)) => {
                let table_of = TopicTable::new(store, &topic)
                    .map_err(|source| Error::Topic { topic: name.to_string(), source })?;
                context.register_table(table.clone(), Arc::new(table_of))?;
            }
            _ if name.contains(['/', '.']) => {}
            _ => {
                let topics = store
                    .map(|s| s.topics().iter().map(|t| t.name.to_string()).collect())
                    .unwrap_or_default();
                return Err(Error::NoTable { name: name.to_string(), topics });
            }
        }
    }
    Ok(context)
}

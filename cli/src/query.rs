//! `sluice query`: SQL over topics and files.

use std::io::{BufWriter, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use arrow::array::RecordBatch;
use sluice_store::Store;

#[derive(clap::Args)]
pub(crate) struct QueryArguments {
    /// One SQL statement
    sql: String,
    #[command(flatten)]
    store: crate::StoreArguments,
    /// Print one JSON object a row instead of a table
    #[arg(long)]
    json: bool,
}

/// Rows of a table that is shown in one go; a longer answer comes as several tables, or as `--json`.
const TABLE_ROWS: usize = 10_000;

pub(crate) fn run(arguments: &QueryArguments) -> Result<ExitCode> {
    let dir = &arguments.store.data_dir;
    let store = dir.exists().then(|| Store::open_read_only(dir)).transpose();
    let store = store.with_context(|| format!("cannot open the store {}", dir.display()))?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut held: Vec<RecordBatch> = Vec::new();
    sluice_query::run(&arguments.sql, store.as_ref(), &mut |_, batch| -> Result<bool, anyhow::Error> {
        if arguments.json {
            out.write_all(&sluice_sinks::stdout::ndjson(&batch)?)?;
            return Ok(true);
        }
        held.push(batch);
        if held.iter().map(RecordBatch::num_rows).sum::<usize>() >= TABLE_ROWS {
            out.write_all(&sluice_sinks::stdout::table(&held)?)?;
            held.clear();
        }
        Ok(true)
    })?;
    if !held.is_empty() {
        out.write_all(&sluice_sinks::stdout::table(&held)?)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

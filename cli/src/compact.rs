//! `sluice compact`: merges the small files of a target.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use bytesize::ByteSize;
use sluice_sinks::compact::{Compacted, compact, compact_table, is_table};
use sluice_sinks::location::Location;
use sluice_store::file::RealDisk;

use crate::show::count;

#[derive(clap::Args)]
pub(crate) struct CompactArguments {
    /// Target of a Parquet sink or a table: a folder of this machine
    #[arg(value_name = "DIR")]
    target: String,
    /// Allow that readers miss rows for a moment: a plain folder can not exchange files for others in one act, as a
    /// table can
    #[arg(long)]
    allow_reader_gap: bool,
    /// Size that merged files come to, about; those of more than half of it are left alone
    #[arg(long, default_value = "128MiB", value_name = "SIZE")]
    file_bytes: ByteSize,
    /// Print one JSON document instead of a line
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &CompactArguments) -> Result<ExitCode> {
    let folder = match Location::try_from(arguments.target.clone()).map_err(anyhow::Error::msg)? {
        Location::Folder(folder) => folder,
        bucket @ Location::Bucket { .. } => {
            bail!("{bucket} is no folder of this machine: files of an object store are not merged yet")
        }
    };
    let is_table = is_table(&folder);
    if !arguments.allow_reader_gap && !is_table {
        bail!(
            "while files are exchanged for merged ones, whoever reads the folder misses their rows for a moment \
             (none is seen twice): say that this is fine with --allow-reader-gap"
        );
    }
    let merge = if is_table { compact_table } else { compact };
    let Compacted { from, to, rows } =
        merge(folder, Arc::new(RealDisk), arguments.file_bytes, (crate::clock())())?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::json!({"removed": from, "merged": to, "rows": rows}))?;
    } else if from == 0 && to == 0 {
        writeln!(out, "nothing to merge")?;
    } else {
        writeln!(out, "merged {} files into {}, {} rows", count(from), count(to), count(rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

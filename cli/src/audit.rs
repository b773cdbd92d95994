//! `sluice audit`: whether each source offset of a target has one fate, from its plans and footers alone.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use sluice_sinks::audit::{Audit, ChainAudit, audit};
use sluice_sinks::location::Location;
use sluice_sinks::place;
use sluice_store::file::RealDisk;

use crate::show::{count, plural};

#[derive(clap::Args)]
pub(crate) struct AuditArguments {
    /// Target of a file sink or a table: a folder, or s3://bucket/prefix
    #[arg(value_name = "DIR|URL")]
    target: String,
    /// Print one JSON document instead of lines
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &AuditArguments) -> Result<ExitCode> {
    let location = Location::try_from(arguments.target.clone()).map_err(anyhow::Error::msg)?;
    let place = place::open(&location, None, Arc::new(RealDisk))?;
    let found = audit(place.as_ref())?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", json(&found))?;
    } else {
        show(&found, &mut out)?;
    }
    Ok(if found.is_proven() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was found, as JSON.
pub(crate) fn json(found: &Audit) -> serde_json::Value {
    let Audit { chains, problems } = found;
    serde_json::json!({"proven": found.is_proven(), "chains": chains, "problems": problems})
}

fn show(found: &Audit, out: &mut impl Write) -> Result<()> {
    for chain in &found.chains {
        writeln!(out, "{}", line(chain))?;
        for problem in &chain.problems {
            writeln!(out, "  NOT PROVEN: {problem}")?;
        }
    }
    for problem in &found.problems {
        writeln!(out, "NOT PROVEN: {problem}")?;
    }
    let offsets = found.chains.iter().map(|chain| chain.fates.total()).fold(0, u64::saturating_add);
    let (chains, problems) = (
        found.chains.len(),
        found.problems.len() + found.chains.iter().map(|c| c.problems.len()).sum::<usize>(),
    );
    match problems {
        0 => writeln!(
            out,
            "proven: {}, each of {} offsets has one fate",
            plural(chains, "chain"),
            count(offsets)
        )?,
        _ => writeln!(out, "not proven: {} in {}", plural(problems, "problem"), plural(chains, "chain"))?,
    }
    Ok(())
}

fn line(chain: &ChainAudit) -> String {
    let ChainAudit {
        pipeline, topic, queue, start, end, fates, plans, given_back, files, rows, bytes, ..
    } = chain;
    let mut parts = vec![format!("{} written", count(fates.written))];
    let others = [
        (fates.filtered, "filtered"),
        (fates.deduplicated, "duplicates"),
        (fates.skipped, "skipped"),
        (fates.dead, "dead letters"),
        (fates.absent, "absent"),
    ];
    parts.extend(others.iter().filter(|(n, _)| *n > 0).map(|(n, fate)| format!("{} {fate}", count(*n))));
    let back = if *given_back > 0 { format!(" ({} given back)", count(*given_back)) } else { String::new() };
    format!(
        "{pipeline}/{topic}/{queue}: offsets {start} to {end} (exclusive) in {} plans{back}: {}; {} files with {} rows and {} bytes",
        count(*plans),
        parts.join(", "),
        count(*files),
        count(*rows),
        count(*bytes),
    )
}

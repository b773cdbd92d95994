//! `sluice preview`: the first rows of a pipeline, its rejects, schema and file layout; writes nothing.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use arrow::array::RecordBatch;
use bytesize::ByteSize;
use sluice_connect::config::Then;
use sluice_connect::memory::Memory;
use sluice_connect::steps::{Next, Steps};
use sluice_connect::task::{Range, Read, Reject, Slice, SourceTask};
use sluice_protocol::id::TopicName;
use sluice_sinks::estimate::estimate;
use sluice_sources::SourceConfig;
use sluice_store::Store;

use crate::build::{self, Embedded, Shared};
use crate::load::{self, ParsedPipeline};
use crate::show::{count, plural};

#[derive(clap::Args)]
pub(crate) struct PreviewArguments {
    /// Pipeline file (YAML)
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Rows to show of each pipeline
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rows: u32,
    /// Only this pipeline of the file
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    #[command(flatten)]
    store: crate::StoreArguments,
}

/// Rows that are looked at before a preview gives up finding one that passes.
const LOOK_AT_MAX: u64 = 200_000;

/// How long a source may take to bring rows that it says are there, and how often that is waited for.
const WAIT: Duration = Duration::from_millis(100);
const WAITS_MAX: u32 = 50;

/// Files of a full plan below this size are worth a word, in bytes.
const SMALL_FILE: f64 = 16.0 * 1024.0 * 1024.0;

pub(crate) fn preview(arguments: &PreviewArguments) -> Result<ExitCode> {
    let all = load::load(std::slice::from_ref(&arguments.file))?;
    let wanted =
        |p: &&ParsedPipeline| arguments.pipeline.as_ref().is_none_or(|n| n == p.document.name.as_str());
    let chosen: Vec<&ParsedPipeline> = all.iter().filter(wanted).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = all.iter().map(|p| p.document.name.as_str()).collect();
        bail!(
            "no pipeline `{}` in the file; it has: {}",
            arguments.pipeline.as_deref().unwrap_or(""),
            names.join(", ")
        );
    }
    let mut out = std::io::stdout().lock();
    for parsed in chosen {
        one(parsed, &all, arguments, &mut out)
            .with_context(|| format!("pipeline {}", parsed.document.name))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What was seen of a pipeline.
#[derive(Default)]
struct Seen {
    batches: Vec<RecordBatch>,
    /// Rows that pass.
    passed: usize,
    /// Records that they come from.
    records: u64,
    read: u64,
    filtered: u64,
    duplicates: u64,
    rejects: Vec<Reject>,
    /// What passed of the first queue.
    sample: Vec<Slice>,
    /// Rows of each queue, where the source knows them.
    queues: Option<Vec<u64>>,
}

fn one(
    parsed: &ParsedPipeline,
    all: &[ParsedPipeline],
    arguments: &PreviewArguments,
    out: &mut impl Write,
) -> Result<()> {
    let document = &parsed.document;
    writeln!(out, "pipeline {}", document.name)?;
    let mut source = match &document.source {
        SourceConfig::Topic(config) if config.cluster.is_none() => {
            let dir = &arguments.store.data_dir;
            let store = dir.exists().then(|| Store::open_read_only(dir)).transpose();
            let store = store.with_context(|| format!("cannot open the store {}", dir.display()))?;
            let topic = TopicName::new(&config.name)?;
            match store.filter(|s| s.topic(&topic).is_some()) {
                Some(store) => document.source.open(
                    document.name.as_str(),
                    || anyhow::Ok(store),
                    Vec::new(),
                    &Arc::default(),
                )?,
                None => {
                    let feeder = all.iter().find(|p| build::writes(p, (None, topic.as_str())));
                    let way_out = feeder.map_or_else(String::new, |feeder| {
                        format!("; `sluice run` of pipeline {} makes it", feeder.document.name)
                    });
                    writeln!(
                        out,
                        "  nothing to show: topic {topic} does not exist yet in {}{way_out}\n",
                        dir.display()
                    )?;
                    return Ok(());
                }
            }
        }
        _ => {
            let clock = crate::clock();
            let embedded = Embedded::new(PathBuf::new(), None, clock.clone());
            let shared =
                Shared { embedded, clock, stop: Arc::default(), memory: Memory::new(0), apart: None };
            build::source(parsed, &shared, Vec::new())?
        }
    };
    let (mut steps, needs) = build::steps(&without_stop(parsed))?;
    source.open(&needs)?;
    let seen = look(source.as_mut(), &mut steps, arguments.rows as usize)?;
    show(&seen, parsed, arguments.rows as usize, out)?;
    if let Some(line) = layout(&seen, parsed)? {
        writeln!(out, "  {line}")?;
    }
    writeln!(out)?;
    Ok(())
}

/// What a document that is to run apart would do with its first rows, as JSON.
pub(crate) fn preview_apart(parsed: &ParsedPipeline, rows: usize) -> Result<serde_json::Value> {
    let clock = crate::clock();
    let shared = Shared {
        embedded: Embedded::new(PathBuf::new(), None, clock.clone()),
        clock,
        stop: Arc::default(),
        memory: Memory::new(0),
        apart: Some(build::Apart { cluster: None }),
    };
    let mut source = build::source(parsed, &shared, Vec::new())?;
    let (mut steps, needs) = build::steps(&without_stop(parsed))?;
    source.open(&needs)?;
    let seen = look(source.as_mut(), &mut steps, rows)?;
    let mut shown: Vec<serde_json::Value> = Vec::new();
    for batch in &seen.batches {
        let text = sluice_sinks::stdout::ndjson(&batch.slice(0, batch.num_rows().min(rows - shown.len())))?;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        for line in lines {
            shown.push(serde_json::from_slice(line)?);
        }
    }
    let document = &parsed.document;
    let schema = seen.batches.last().map(|batch| document.sink.schema(&batch.schema()));
    let columns = schema.iter().flat_map(|schema| schema.fields()).map(|field| {
        serde_json::json!({"name": field.name(), "type": field.data_type().to_string(), "nullable": field.is_nullable()})
    });
    let rejects = seen.rejects.iter().take(rows);
    let rejects = rejects.map(|r| serde_json::json!({"place": r.place.to_string(), "reason": r.reason}));
    Ok(serde_json::json!({
        "read": seen.read, "passed": seen.records, "filtered": seen.filtered, "duplicates": seen.duplicates,
        "rejected": seen.rejects.len(), "rows": shown, "rejects": rejects.collect::<Vec<_>>(),
        "schema": columns.collect::<Vec<_>>(), "sink": document.sink.describe(document.name.as_str()),
        "files": layout(&seen, parsed)?,
    }))
}

/// How many files the rows that are there now come to, and of which size.
fn layout(seen: &Seen, parsed: &ParsedPipeline) -> Result<Option<String>> {
    let Some(estimate) = estimate(&parsed.document.sink, &seen.sample)? else { return Ok(None) };
    let size = |bytes: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate above 0")]
        ByteSize::b(bytes as u64)
    };
    let (row, partitions) = (estimate.row_bytes, estimate.partitions);
    let basis = format!("{row:.1} bytes a row, {} seen", plural(partitions as usize, "partition value"));
    let plan = estimate.plan_rows();
    let Some(queues) = &seen.queues else {
        let file = size(row * plan as f64 / partitions as f64);
        let plan = count(plan);
        return Ok(Some(format!("files: {partitions} of about {file} for each {plan} rows ({basis})")));
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of rows")]
    let passing = |rows: &u64| (*rows as f64 * seen.passed as f64 / seen.read.max(1) as f64).ceil() as u64;
    let rows: Vec<u64> = queues.iter().map(passing).collect();
    let (all, files) = (rows.iter().sum::<u64>(), rows.iter().map(|rows| estimate.files(*rows)).sum::<u64>());
    let file = row * all as f64 / files.max(1) as f64;
    let advice = if row * plan as f64 / (partitions as f64) < SMALL_FILE {
        "; also full ones are small: partition by fewer values, raise `rotate`, or run `sluice compact`"
    } else {
        ""
    };
    Ok(Some(format!(
        "files: about {} of about {} for the {} rows that are there now, more where `age` ends them earlier ({basis}){advice}",
        count(files),
        size(file),
        count(queues.iter().sum()),
    )))
}

/// A preview shows rejects and goes on, whatever `errors` says.
fn without_stop(parsed: &ParsedPipeline) -> ParsedPipeline {
    let mut parsed = parsed.clone();
    parsed.document.errors.then = Then::Skip;
    parsed
}

fn look(source: &mut dyn SourceTask, steps: &mut Steps, rows: usize) -> Result<Seen> {
    let mut seen = Seen::default();
    let queues = source.queues()?;
    let ends = queues.iter().map(|queue| {
        let end = source.end(&queue.topic, queue.queue)?;
        u64::try_from(end - queue.first).ok()
    });
    seen.queues = ends.collect();
    let mut waits = WAITS_MAX;
    for (number, queue) in queues.iter().enumerate() {
        let mut next = queue.first;
        while seen.passed < rows && seen.read < LOOK_AT_MAX {
            let range = Range { start: next, end: i64::MAX };
            let slice = match source.read(&queue.topic, queue.queue, range, 256 * 1024)? {
                Read::Slice(slice) => slice,
                // What a cluster has is on its way.
                Read::Idle
                    if waits > 0 && source.end(&queue.topic, queue.queue).is_some_and(|e| e > next) =>
                {
                    waits -= 1;
                    source.wait(WAIT);
                    continue;
                }
                Read::Idle | Read::Ended | Read::Gone | Read::Held => break,
            };
            next = slice.range.end;
            seen.read += u64::try_from(slice.range.end - slice.range.start).unwrap_or(0);
            let passed = match steps.push(number, slice)? {
                Next::Pass(slices) => slices,
                Next::Fix(schema) => build::fix(steps, schema)?,
            };
            keep(&mut seen, passed);
        }
    }
    let released = match steps.proposal() {
        Some(schema) => build::fix(steps, schema)?,
        None => steps.release_without_schema()?,
    };
    keep(&mut seen, released);
    Ok(seen)
}

fn keep(seen: &mut Seen, slices: Vec<(usize, Slice)>) {
    for (number, slice) in slices {
        seen.passed += slice.envelope.num_rows();
        seen.records += sluice_connect::batch::offset_count(&slice.envelope);
        seen.filtered += slice.filtered;
        seen.duplicates += slice.deduplicated.len() as u64;
        seen.batches.push(slice.output().clone());
        seen.rejects.extend(slice.rejects.iter().cloned());
        if number == 0 {
            seen.sample.push(slice);
        }
    }
}

fn show(seen: &Seen, parsed: &ParsedPipeline, rows: usize, out: &mut impl Write) -> Result<()> {
    let Seen { batches, passed, records, read, filtered, duplicates, rejects, .. } = seen;
    let passed = *passed as u64;
    let several = if passed == *records { String::new() } else { format!(" as {} rows", count(passed)) };
    let duplicates =
        if *duplicates > 0 { format!(", {} duplicates", count(*duplicates)) } else { String::new() };
    writeln!(
        out,
        "  looked at {} rows: {} pass{several}, {} filtered, {} rejected{duplicates}",
        count(*read),
        count(*records),
        count(*filtered),
        count(rejects.len() as u64)
    )?;
    let mut left = rows;
    let mut shown = Vec::new();
    for batch in batches {
        shown.push(batch.slice(0, left.min(batch.num_rows())));
        left -= left.min(batch.num_rows());
    }
    shown.retain(|batch| batch.num_rows() > 0);
    // The schema may have grown between them.
    for same in shown.chunk_by(|one, next| one.schema() == next.schema()) {
        out.write_all(&sluice_sinks::stdout::table(same)?)?;
    }
    for reject in rejects.iter().take(rows) {
        writeln!(out, "  reject: {}: {}", reject.place, reject.reason)?;
    }
    if let Some(batch) = batches.last() {
        writeln!(out, "  schema of the output:")?;
        for field in parsed.document.sink.schema(&batch.schema()).fields() {
            let null = if field.is_nullable() { ", nullable" } else { "" };
            writeln!(out, "    {}: {}{null}", field.name(), field.data_type())?;
        }
    }
    let document = &parsed.document;
    writeln!(out, "  sink: {}", document.sink.describe(document.name.as_str()))?;
    Ok(())
}

//! `sluice run`: checks, opens the embedded broker, runs every pipeline on threads of its own, shows how
//! far they are, and sums up.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use sluice_connect::memory::Memory;
use sluice_connect::pipeline::Scope;
use sluice_connect::progress::{Progress, Reading, Stop};
use sluice_connect::task::{Fates, SourceTask, TaskError};
use sluice_connect::worker;
use sluice_filters::Name;
use sluice_protocol::id::TopicName;
use sluice_sinks::SinkConfig;
use sluice_sinks::location::Location;
use sluice_sources::SourceConfig;
use sluice_sources::topic::TopicConfig;
use sluice_store::{Flush, Store};

use crate::build::{self, Embedded, Shared};
use crate::load::{self, ParsedPipeline};
use crate::show::count;

#[derive(clap::Args)]
pub(crate) struct RunArguments {
    /// Pipeline files (YAML)
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    store: crate::StoreArguments,
    /// When an append is acknowledged: `async` when it is written (survives a killed process), `sync` when
    /// it is on the disk (survives power loss)
    #[arg(long, value_enum, default_value = "async")]
    flush: FlushArgument,
    /// Do not start the embedded broker; pipelines that need a topic are refused
    #[arg(long)]
    no_broker: bool,
    /// What rows on their way may hold in memory, over all pipelines
    #[arg(long, default_value = "1GiB", value_name = "SIZE")]
    memory: ByteSize,
    /// Print the closing summary as one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum FlushArgument {
    Async,
    Sync,
}

/// How often progress is shown: on a terminal, and elsewhere.
const SHOW_LIVE: Duration = Duration::from_millis(200);
const SHOW_LINES: Duration = Duration::from_secs(5);

/// One pipeline of a run.
pub(crate) type One = (ParsedPipeline, Arc<Progress>);

pub(crate) fn run(arguments: &RunArguments) -> Result<ExitCode> {
    let parsed = load::load(&arguments.files)?;
    let all: Vec<One> = parsed.into_iter().map(|p| (p, Arc::new(Progress::default()))).collect();
    let flush = match arguments.flush {
        FlushArgument::Async => Flush::Async { interval: Duration::from_millis(500) },
        FlushArgument::Sync => Flush::Sync,
    };
    let clock = crate::clock();
    let flush = (!arguments.no_broker).then_some(flush);
    let embedded = Embedded::new(arguments.store.data_dir.clone(), flush, clock.clone());
    let stop = Arc::new(Stop::default());
    let memory = Memory::new(usize::try_from(arguments.memory.as_u64()).unwrap_or(usize::MAX));
    let shared = Shared { embedded, clock, stop: Arc::clone(&stop), memory, apart: None };
    let data_dir = &arguments.store.data_dir;
    let exists = |source: &mut dyn SourceTask| source.exists();
    all.iter().try_for_each(|(parsed, _)| check_source(parsed, &all, data_dir, &shared, exists))?;
    make_topics(&all, &shared)?;

    let signalled = listen(&stop)?;
    #[expect(clippy::disallowed_methods, reason = "elapsed time is shown to a person")]
    let started = Instant::now();
    let results = run_all(&all, &shared, &stop, arguments.json);
    let closed = shared.embedded.close();
    let told = sum_up(&all, &results, started.elapsed(), arguments);
    let mut failed = false;
    for ((parsed, _), result) in all.iter().zip(&results) {
        // A reader of our rows that has seen enough is no failure.
        if let Err(error) = result
            && !crate::is_closed_pipe(error)
        {
            failed = true;
            eprintln!("sluice: pipeline {}: {}", parsed.document.name, worker::chain_of_causes(error));
        }
    }
    closed?;
    if failed {
        return Ok(ExitCode::FAILURE);
    }
    told?;
    Ok(if signalled.load(Ordering::SeqCst) { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

/// What can be known of a source before anything is written; `ask` is for one that is not of the embedded broker.
pub(crate) fn check_source(
    parsed: &ParsedPipeline,
    all: &[One],
    data_dir: &Path,
    shared: &Shared,
    ask: impl Fn(&mut dyn SourceTask) -> Result<(), TaskError>,
) -> Result<()> {
    let name = &parsed.document.name;
    if !build::feeders(all, parsed).is_empty() {
        return Ok(());
    }
    let SourceConfig::Topic(config @ TopicConfig { cluster: None, .. }) = &parsed.document.source else {
        let mut source = build::source(parsed, shared, Vec::new())?;
        return ask(&mut *source).with_context(|| format!("pipeline {name}"));
    };
    let topic = TopicName::new(&config.name).with_context(|| format!("pipeline {name}"))?;
    // What it can not read is told by the opening that follows.
    if Store::lists_topic(data_dir, &topic).unwrap_or(false) {
        return Ok(());
    }
    let existing = data_dir.exists().then(|| Store::open_read_only(data_dir)).transpose();
    let existing = existing.with_context(|| format!("cannot open the store {}", data_dir.display()))?;
    if existing.as_ref().and_then(|store| store.topic(&topic)).is_some() {
        return Ok(());
    }
    let known: Vec<String> = existing.iter().flat_map(Store::topics).map(|t| t.name.to_string()).collect();
    let hint = sluice_connect::config::nearest(&config.name, known.iter().map(String::as_str));
    let hint = hint.map_or_else(String::new, |n| format!("; did you mean `{n}`?"));
    bail!(
        "pipeline {name}: no such topic: {topic} (not in {}, and no pipeline of this run writes it){hint}",
        data_dir.display()
    )
}

/// Topics that sinks write exist before any source looks for them; so do those that a step may send rows to.
fn make_topics(all: &[One], shared: &Shared) -> Result<()> {
    for (parsed, _) in all {
        let Some((None, name)) = parsed.document.source.topic() else { continue };
        let sinks = all.iter().filter(|(p, _)| p.document.routes() && build::writes(p, (None, name)));
        let queues = sinks.filter_map(|(p, _)| match &p.document.sink {
            SinkConfig::Topic(config) if config.cluster.is_none() => Some(config.queues),
            _ => None,
        });
        if let Some(queues) = queues.min() {
            let topic = TopicName::new(name).with_context(|| format!("pipeline {}", parsed.document.name))?;
            let store = shared.embedded.store()?;
            store.create_topic(&topic, queues).with_context(|| format!("cannot make topic {topic}"))?;
        }
    }
    for (parsed, _) in all {
        let document = &parsed.document;
        let sink = match &document.sink {
            SinkConfig::Topic(config) if config.cluster.is_some() => {
                let opened = document.sink.open(|| shared.embedded.store(), &shared.clock, document.delivery);
                drop(opened.with_context(|| format!("pipeline {}", document.name))?);
                None
            }
            SinkConfig::Topic(config) => Some((config.name.as_str(), config.queues)),
            _ => None,
        };
        let dead = document.errors.dead_letter.as_deref().map(|name| (name, 1));
        for (name, queues) in sink.into_iter().chain(dead) {
            let store = shared.embedded.store()?;
            let topic = TopicName::new(name).with_context(|| format!("pipeline {}", document.name))?;
            store.create_topic(&topic, queues).with_context(|| format!("cannot make topic {topic}"))?;
        }
    }
    Ok(())
}

/// The first Ctrl-C (or SIGTERM) asks for a clean stop, the second ends the process.
fn listen(stop: &Arc<Stop>) -> Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let signalled = Arc::new(AtomicBool::new(false));
    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).context("cannot listen for signals")?;
    let (stop, seen) = (Arc::clone(stop), Arc::clone(&signalled));
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            if seen.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            eprintln!("sluice: stopping; what is in hand is published first (Ctrl-C again to end at once)");
            stop.ask();
        }
    })?;
    Ok(signalled)
}

fn run_all(all: &[One], shared: &Shared, stop: &Stop, json: bool) -> Vec<Result<(), TaskError>> {
    std::thread::scope(|scope| {
        let running: Vec<_> = all
            .iter()
            .map(|(parsed, progress)| {
                scope.spawn(move || {
                    let feeders = build::feeders(all, parsed);
                    let make = |text: Option<&str>| build::pipeline(parsed, text, shared, &feeders);
                    let retry_for = parsed.document.errors.retry.0;
                    // Whoever waits for this pipeline must hear of its end, even of a panic.
                    let _end = End(progress);
                    let _span = tracing::error_span!("pipeline", name = %parsed.document.name).entered();
                    worker::run(&make, &Scope::All, stop, progress, &shared.clock, retry_for)
                })
            })
            .collect();
        show_progress(all, json);
        running
            .into_iter()
            .map(|thread| {
                let fatal =
                    || TaskError::new(sluice_connect::task::Class::Fatal, "the pipeline's thread panicked");
                thread.join().unwrap_or_else(|_| Err(fatal()))
            })
            .collect()
    })
}

struct End<'a>(&'a Progress);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A live line for each pipeline on a terminal; elsewhere a line now and then.
fn show_progress(all: &[One], json: bool) {
    let live = std::io::stderr().is_terminal() && !json;
    let bars = MultiProgress::new();
    let width = all.iter().map(|(p, _)| p.document.name.as_str().len()).max().unwrap_or(0);
    let lines: Vec<ProgressBar> = all
        .iter()
        .map(|(parsed, _)| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(format!("{:width$}", parsed.document.name.as_str()));
            if live { bars.add(bar) } else { bar }
        })
        .collect();
    let mut rates = vec![0_u64; all.len()];
    let wait = Pause::default();
    let mut rounds = 0_u32;
    while !all.iter().all(|(_, progress)| progress.has_ended()) {
        // Short at first, so that a short run does not wait for its own display.
        wait.until(|| all.iter().all(|(_, p)| p.has_ended()), SHOW_LIVE);
        rounds += 1;
        if !live && !json && !rounds.is_multiple_of(25) {
            continue;
        }
        let per = if live { SHOW_LIVE } else { SHOW_LINES };
        for (i, ((parsed, progress), line)) in all.iter().zip(&lines).enumerate() {
            let reading = progress.reading();
            let rate = (reading.rows_in.saturating_sub(rates[i]) as f64 / per.as_secs_f64()) as u64;
            rates[i] = reading.rows_in;
            if live {
                line.set_message(describe(&reading, rate));
                line.tick();
            } else if !json {
                eprintln!("{:width$}  {}", parsed.document.name.as_str(), describe(&reading, rate));
            }
        }
    }
    lines.iter().for_each(ProgressBar::finish_and_clear);
}

/// A wait that ends early; polls because the runs end on threads of their own.
#[derive(Default)]
struct Pause(Stop);

impl Pause {
    fn until(&self, ended: impl Fn() -> bool, timeout: Duration) {
        let step = Duration::from_millis(5);
        let mut waited = Duration::ZERO;
        while waited < timeout && !ended() {
            self.0.wait(step);
            waited += step;
        }
    }
}

fn describe(reading: &Reading, rate: u64) -> String {
    let Reading { rows_in, fates, files, lag, memory, state, .. } = reading;
    let lag = lag.map_or_else(|| "-".to_owned(), count);
    let skipped =
        if fates.skipped > 0 { format!(", {} skipped", count(fates.skipped)) } else { String::new() };
    format!(
        "{} in ({}/s), {} filtered, {} written, {} dead{skipped}, {} files, lag {lag}, {} held, {state}",
        count(*rows_in),
        count(rate),
        count(fates.filtered),
        count(fates.written),
        count(fates.dead),
        count(*files),
        ByteSize::b(*memory),
    )
}

/// The closing summary, and what to do next. It goes to standard error where rows go to standard output.
fn sum_up(
    all: &[One],
    results: &[Result<(), TaskError>],
    elapsed: Duration,
    arguments: &RunArguments,
) -> std::io::Result<()> {
    let has_rows = all.iter().any(|(p, _)| matches!(p.document.sink, SinkConfig::Stdout(_)));
    let mut out: Box<dyn Write> =
        if has_rows { Box::new(std::io::stderr().lock()) } else { Box::new(std::io::stdout().lock()) };
    if arguments.json {
        return writeln!(out, "{}", summary(all, results, elapsed));
    }
    for (parsed, progress) in all {
        let reading = progress.reading();
        let fates = &reading.fates;
        let name = parsed.document.name.as_str();
        if fates.total() == 0 {
            writeln!(out, "{name}: 0 new rows ({})", reading.state)?;
            continue;
        }
        let mut parts =
            vec![format!("{} written", count(fates.written)), format!("{} filtered", count(fates.filtered))];
        for (rows, fate) in [
            (fates.deduplicated, "duplicates"),
            (fates.skipped, "skipped"),
            (fates.dead, "dead letters"),
            (if parsed.document.source.has_gaps() { 0 } else { fates.absent }, "absent"),
        ] {
            if rows > 0 {
                parts.push(format!("{} {fate}", count(rows)));
            }
        }
        if reading.files > 0 {
            parts.push(format!("{} file{}", count(reading.files), if reading.files == 1 { "" } else { "s" }));
        }
        writeln!(
            out,
            "{name}: {} rows: {} ({})",
            count(rows(parsed, fates)),
            parts.join(", "),
            reading.state
        )?;
    }
    writeln!(out, "in {:.2} s", elapsed.as_secs_f64())?;
    let next = next_steps(all, arguments);
    if !next.is_empty() && results.iter().all(Result::is_ok) {
        writeln!(out, "next:\n{}", next.join("\n"))?;
    }
    Ok(())
}

/// Offsets that a run accounted for, without those of a table's values that no row has.
fn rows(parsed: &ParsedPipeline, fates: &Fates) -> u64 {
    fates.total() - if parsed.document.source.has_gaps() { fates.absent } else { 0 }
}

/// The summary as one JSON document.
fn summary(all: &[One], results: &[Result<(), TaskError>], elapsed: Duration) -> serde_json::Value {
    let one = |((parsed, progress), result): (&One, &Result<(), TaskError>)| {
        let reading = progress.reading();
        serde_json::json!({
            "name": parsed.document.name.as_str(),
            "state": reading.state,
            "rows": rows(parsed, &reading.fates),
            "fates": reading.fates,
            "files": reading.files,
            "memory_peak": reading.memory_peak,
            "error": result.as_ref().err().map(|e| worker::chain_of_causes(e)),
        })
    };
    let pipelines: Vec<_> = all.iter().zip(results).map(one).collect();
    serde_json::json!({"elapsed_ms": elapsed.as_millis() as u64, "pipelines": pipelines})
}

/// Commands of this very build that show what the run made, and the files to open.
fn next_steps(all: &[One], arguments: &RunArguments) -> Vec<String> {
    // As it was called: a program that is not on the path is called by its place.
    let sluice = quoted(&std::env::args().next().unwrap_or_else(|| "sluice".to_owned()));
    let dir = &arguments.store.data_dir;
    let dir = if dir.as_os_str() == crate::DATA_DIR {
        String::new()
    } else {
        format!(" --data-dir {}", quoted(&dir.to_string_lossy()))
    };
    let mut lines = Vec::new();
    for (parsed, progress) in all {
        if let Some(topic) = parsed.document.sink.topic() {
            let mut readers = all.iter().rev().filter(|(p, _)| p.document.source.topic() == Some(topic));
            let filter = readers.find_map(|(reader, _)| tail_filter(reader));
            let filter = filter.map_or_else(String::new, |f| format!(" --where {}", quoted(&f)));
            let (cluster, name) = topic;
            let place = cluster.map_or_else(|| dir.clone(), |c| format!(" --namesrv {}", quoted(c)));
            lines.push(format!("  {sluice} topic tail {name}{place} --limit 5{filter}"));
        }
        if let Some(path) = parsed.document.sink.location() {
            let is_parquet = matches!(parsed.document.sink, SinkConfig::Parquet(_));
            if cfg!(feature = "query") && is_parquet && matches!(path, Location::Folder(_)) {
                lines.push(format!("  {sluice} query \"select count(*) from '{path}/'\""));
            }
            if progress.reading().files > 0 {
                let what = match parsed.document.sink {
                    SinkConfig::Delta(_) | SinkConfig::Iceberg(_) => "table",
                    _ => "files in",
                };
                lines.push(format!("  open the {what} {path}"));
            }
        }
    }
    lines
}

/// The filter of a pipeline, if `topic tail` can run it: it decodes no bodies.
fn tail_filter(reader: &ParsedPipeline) -> Option<String> {
    let filter = &reader.document.filter.as_ref()?.0;
    let has_field = filter.names().iter().any(|name| matches!(name, Name::Field(_)));
    (!has_field).then(|| filter.text().to_owned())
}

/// A word of a shell's command line.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    if !word.contains(['"', '$', '`', '\\', '!']) {
        return format!("\"{word}\"");
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_word_is_quoted_so_that_a_shell_gives_it_back() {
        for (word, expected) in [
            ("flights", "flights"),
            ("origin = 'JFK'", "\"origin = 'JFK'\""),
            ("$queue_id = 0", "'$queue_id = 0'"),
            ("\"a-b\" = 'x'", r#"'"a-b" = '\''x'\'''"#),
            ("", "\"\""),
        ] {
            assert_eq!(super::quoted(word), expected);
        }
    }
}

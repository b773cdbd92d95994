//! `sluice connect`: runs pipelines apart from the broker that they read from, and shares their tasks with other
//! workers: members of each pipeline's consumer group.
//!
//! Who runs what is agreed on by nobody: each worker computes it from who is there. The chain of plans in the target
//! is the fence, so a worker that is wrong works in vain and doubles nothing.

mod counts;
mod membership;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result};
use bytesize::ByteSize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use sluice_client::{Access, Client, ClientSettings};
use sluice_connect::assignment::Assignment;
use sluice_connect::config::Span;
use sluice_connect::memory::Memory;
use sluice_connect::pipeline::Scope;
use sluice_connect::progress::{Progress, Stop};
use sluice_connect::task::{Class, TaskError};
use sluice_connect::worker;
use sluice_sources::SourceConfig;
use tokio::runtime::{Builder, Runtime};

use self::counts::Counts;
use self::membership::{Membership, Wanted};
use crate::broker::resolve;
use crate::build::{self, Apart, Embedded, Shared};
use crate::load::{self, ParsedPipeline};
use crate::metrics;
use crate::show::count;

#[derive(clap::Args)]
pub(crate) struct ConnectArguments {
    /// Pipeline files (YAML); SIGHUP reads them again
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Name servers, with semicolons between, of the source topics that name no cluster
    #[arg(long, value_name = "HOST:PORT")]
    cluster: Option<String>,
    /// How long a worker may be silent before the others take its tasks, from 1s to 120s; RocketMQ's brokers have
    /// their own limit
    #[arg(long, default_value = "6s", value_name = "TIME", value_parser = lease)]
    lease: Duration,
    /// What rows on their way may hold in memory, over all pipelines
    #[arg(long, default_value = "1GiB", value_name = "SIZE")]
    memory: ByteSize,
    /// Serve counters for Prometheus at http://HOST:PORT/metrics
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Option<String>,
    /// Print what happens as JSON, one document a line
    #[arg(long)]
    json: bool,
}

fn lease(text: &str) -> Result<Duration, String> {
    let Span(lease) = Span::try_from(text.to_owned())?;
    let allowed = Duration::from_secs(1)..=Duration::from_mins(2);
    if allowed.contains(&lease) { Ok(lease) } else { Err("expected 1s to 120s".to_owned()) }
}

/// What the worker hears of.
enum Event {
    Stop { by_hand: bool },
    Reload,
    Ended(String, Result<(), TaskError>),
}

/// What all pipelines of this worker share.
struct Worker {
    runtime: Runtime,
    shared: Arc<Shared>,
    lease: Duration,
    json: bool,
    /// One client a cluster and way into it.
    clients: Vec<(String, Access, Client)>,
    counts: Counts,
    events: Sender<Event>,
}

/// A pipeline that runs here.
struct Running {
    parsed: Arc<ParsedPipeline>,
    stop: Arc<Stop>,
    progress: Arc<Progress>,
    /// What runs in its place once it has ended.
    next: Option<ParsedPipeline>,
}

pub(crate) fn run(arguments: &ConnectArguments) -> Result<ExitCode> {
    let load = || load::load_apart(&arguments.files, arguments.cluster.as_deref());
    let parsed = load()?;
    let clock = crate::clock();
    let (events, received) = channel();
    listen(&events)?;
    let shared = Shared {
        embedded: Embedded::new(crate::DATA_DIR.into(), None, clock.clone()),
        clock,
        stop: Arc::default(),
        memory: Memory::new(usize::try_from(arguments.memory.as_u64()).unwrap_or(usize::MAX)),
        apart: Some(Apart { cluster: arguments.cluster.clone() }),
    };
    let runtime =
        Builder::new_multi_thread().worker_threads(1).thread_name("membership").enable_all().build();
    let mut worker = Worker {
        runtime: runtime.context("cannot start the runtime")?,
        shared: Arc::new(shared),
        lease: arguments.lease,
        json: arguments.json,
        clients: Vec::new(),
        counts: Counts::default(),
        events,
    };
    if let Some(addr) = &arguments.metrics {
        let counts = worker.counts.clone();
        let served = metrics::serve(resolve(addr)?, Arc::new(move || counts.render()));
        let addr = worker.runtime.block_on(served)?;
        let line = if arguments.json {
            serde_json::json!({ "metrics": addr }).to_string()
        } else {
            format!("metrics http://{addr}/metrics")
        };
        writeln!(std::io::stdout(), "{line}")?;
    }
    let mut running = BTreeMap::new();
    for one in parsed {
        worker.begin(one, &mut running)?;
    }
    worker.serve(&received, &mut running, load)
}

/// Signals as events; the second one that asks for the end ends the process.
fn listen(events: &Sender<Event>) -> Result<()> {
    let signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]);
    let mut signals = signals.context("cannot listen for signals")?;
    let events = events.clone();
    let mut asked = false;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let event = if signal == SIGHUP {
                Event::Reload
            } else if std::mem::replace(&mut asked, true) {
                std::process::exit(130);
            } else {
                eprintln!("sluice: stopping; what is in hand is published first (once more to end at once)");
                Event::Stop { by_hand: signal == SIGINT }
            };
            // Nobody listens once all has ended.
            let _ = events.send(event);
        }
    })?;
    Ok(())
}

impl Worker {
    /// Until all pipelines have ended.
    fn serve(
        &mut self,
        received: &Receiver<Event>,
        running: &mut BTreeMap<String, Running>,
        load: impl Fn() -> Result<Vec<ParsedPipeline>>,
    ) -> Result<ExitCode> {
        let (mut failed, mut stopping, mut by_hand) = (false, false, false);
        while !running.is_empty() {
            match received.recv().context("nothing is left to wait for")? {
                Event::Stop { by_hand: by } => {
                    (stopping, by_hand) = (true, by);
                    running.values().for_each(|one| one.stop.ask());
                }
                Event::Reload if stopping => {}
                Event::Reload => match load() {
                    Ok(parsed) => self.reload(parsed, running)?,
                    Err(error) => eprintln!("sluice: all goes on as it was: {}", crate::show::causes(&error)),
                },
                Event::Ended(name, result) => {
                    let Some(ended) = running.remove(&name) else { continue };
                    self.tell_end(&name, &ended.progress, &result)?;
                    match ended.next {
                        Some(next) if !stopping => self.begin(next, running)?,
                        _ => failed |= result.is_err(),
                    }
                }
            }
        }
        Ok(match (failed, by_hand) {
            (true, _) => ExitCode::FAILURE,
            (false, true) => ExitCode::from(130),
            (false, false) => ExitCode::SUCCESS,
        })
    }

    /// Begins what is new, ends what is gone, and changes what has changed; the others are left alone.
    fn reload(&mut self, parsed: Vec<ParsedPipeline>, running: &mut BTreeMap<String, Running>) -> Result<()> {
        let is_named = |name: &str| parsed.iter().any(|one| one.document.name.as_str() == name);
        for (name, one) in running.iter_mut().filter(|(name, _)| !is_named(name)) {
            self.tell(name, "ends: it stands in no file any more", &serde_json::json!({}))?;
            one.next = None;
            one.stop.ask();
        }
        for one in parsed {
            match running.get_mut(one.document.name.as_str()) {
                None => self.begin(one, running)?,
                Some(before) if before.parsed.text == one.text => before.next = None,
                Some(before) => {
                    before.next = Some(one);
                    before.stop.ask();
                }
            }
        }
        Ok(())
    }

    /// Begins a pipeline on a thread of its own, and joins its group.
    fn begin(&mut self, parsed: ParsedPipeline, running: &mut BTreeMap<String, Running>) -> Result<()> {
        let name = parsed.document.name.to_string();
        let (assignment, clock) = (Arc::new(Assignment::default()), self.shared.clock.clone());
        let (membership, line, told) = match &parsed.document.source {
            SourceConfig::Topic(config) => {
                let cluster = config.cluster.clone().unwrap_or_default();
                let group = config.group.clone().unwrap_or_else(|| name.clone());
                let client = self.client(&cluster, &config.access)?;
                let told = serde_json::json!({"cluster": cluster, "topic": config.name, "group": group, "worker": client.id()});
                let line =
                    format!("shares topic {} of {cluster} as {} of group {group}", config.name, client.id());
                let wanted = Wanted::new(client, group, config, self.lease, clock)?;
                let _entered = self.runtime.enter();
                (Some(Membership::start(wanted, Arc::clone(&assignment))), line, told)
            }
            // The source is the member, and lists what is this worker's.
            SourceConfig::Kafka(config) => {
                assignment.set(0, 1, (clock)());
                let group = config.group.as_deref().unwrap_or(&name);
                let bootstrap = &config.bootstrap;
                let topics: Vec<&String> = config.topic.iter().chain(&config.topics).collect();
                let told = serde_json::json!({"kafka": bootstrap, "topics": topics, "group": group});
                (
                    None,
                    format!("shares topics {topics:?} of Kafka at {bootstrap} as a member of group {group}"),
                    told,
                )
            }
            _ => {
                anyhow::bail!("pipeline {name} reads no topic")
            }
        };
        self.tell(&name, &line, &told)?;
        let (stop, progress, parsed) =
            (Arc::new(Stop::default()), Arc::<Progress>::default(), Arc::new(parsed));
        self.counts.add(&name, Arc::clone(&progress), Arc::clone(&assignment));
        let one = Running { parsed, stop, progress, next: None };
        let (parsed, stop, progress) =
            (Arc::clone(&one.parsed), Arc::clone(&one.stop), Arc::clone(&one.progress));
        let (shared, events, handle) =
            (Arc::clone(&self.shared), self.events.clone(), self.runtime.handle().clone());
        std::thread::Builder::new().name(name.clone()).spawn(move || {
            let make = |text: Option<&str>| build::pipeline(&parsed, text, &shared, &Vec::new());
            let (scope, retry_for) = (Scope::Shared(assignment), parsed.document.errors.retry.0);
            let work = || worker::run(&make, &scope, &stop, &progress, &shared.clock, retry_for);
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                .unwrap_or_else(|_| Err(TaskError::new(Class::Fatal, "the pipeline's thread panicked")));
            // What was in hand is published: the others may begin there.
            if let Some(membership) = membership {
                handle.block_on(membership.leave());
            }
            // Nobody listens once the worker has ended.
            let _ = events.send(Event::Ended(parsed.document.name.to_string(), result));
        })?;
        running.insert(name, one);
        Ok(())
    }

    fn client(&mut self, cluster: &str, access: &Access) -> Result<Client> {
        let known = self.clients.iter().find(|(name, way, _)| name == cluster && way == access);
        if let Some((.., client)) = known {
            return Ok(client.clone());
        }
        let _entered = self.runtime.enter();
        let settings = ClientSettings { access: access.clone(), ..ClientSettings::new(cluster) };
        let client = Client::new(settings)?;
        self.clients.push((cluster.to_owned(), access.clone(), client.clone()));
        Ok(client)
    }

    fn tell_end(&self, name: &str, progress: &Progress, result: &Result<(), TaskError>) -> Result<()> {
        let reading = progress.reading();
        let error = result.as_ref().err().map(|error| worker::chain_of_causes(error));
        let fates = &reading.fates;
        let mut line = format!(
            "{}: {} rows: {} written, {} filtered, {} dead letters, {} files, fenced {} times",
            reading.state,
            count(fates.total()),
            count(fates.written),
            count(fates.filtered),
            count(fates.dead),
            count(reading.files),
            count(reading.fenced)
        );
        if let Some(error) = &error {
            line = format!("{line}: {error}");
        }
        self.tell(name, &line, &serde_json::json!({"ended": reading, "error": error}))
    }

    /// One line of what happens to a pipeline.
    fn tell(&self, name: &str, line: &str, told: &serde_json::Value) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            let mut told = told.clone();
            told["pipeline"] = name.into();
            writeln!(out, "{told}")?;
        } else {
            writeln!(out, "{name}: {line}")?;
        }
        Ok(out.flush()?)
    }
}

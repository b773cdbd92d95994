//! `sluice connect`: runs pipelines apart from the broker that they read from, and shares their tasks with other
//! workers: members of each pipeline's consumer group.
//!
//! Who runs what is agreed on by nobody: each worker computes it from who is there. The chain of plans in the target
//! is the fence, so a worker that is wrong works in vain and doubles nothing.

mod asked;
mod counts;
mod documents;
mod membership;
mod tools;

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
use sluice_connect::task::{Class as TaskClass, TaskError};
use sluice_connect::worker;
use sluice_service::{Class, Command, Commands, Guard, Origin, Render, Token, Wanted};
use sluice_sources::SourceConfig;
use tokio::runtime::{Builder, Runtime};

use self::counts::Counts;
use self::documents::Documents;
use self::membership::Membership;
use crate::broker::resolve;
use crate::build::{self, Apart, Embedded, Shared};
use crate::load::{self, ParsedPipeline};
use crate::show::count;

#[derive(clap::Args)]
pub(crate) struct ConnectArguments {
    /// Pipeline files (YAML); SIGHUP reads them again
    #[arg(required_unless_present = "rest", value_name = "FILE")]
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
    /// Serve the management API (Kafka Connect's paths, and ours below /v1), the page /ui and /metrics; the worker then
    /// stays when its pipelines have ended
    #[arg(long, value_name = "HOST:PORT")]
    rest: Option<String>,
    /// Folder that keeps what the management API changes: pipelines, their versions, and which are paused or stopped
    #[arg(long, value_name = "DIR", requires = "rest")]
    pipelines: Option<PathBuf>,
    /// The token that requests must bear: ${VAR} or ${file:PATH}; needed where other machines reach --rest
    #[arg(long, value_name = "TOKEN", requires = "rest")]
    rest_token: Option<String>,
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
    Asked(Command),
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
    /// By name; those too that rest, have failed or ended.
    pipelines: BTreeMap<String, Pipeline>,
    /// What the management API changed.
    documents: Option<Documents>,
    cluster: Option<String>,
    files: Vec<PathBuf>,
    /// Whether it stays when all has ended.
    stays: bool,
}

/// A pipeline of this worker.
struct Pipeline {
    parsed: Arc<ParsedPipeline>,
    origin: Origin,
    /// What it is to do.
    wanted: Wanted,
    /// Asks its run to end, while there is one.
    stop: Option<Arc<Stop>>,
    progress: Arc<Progress>,
    assignment: Arc<Assignment>,
    /// Another run begins once this one has ended.
    again: bool,
    /// It is forgotten once its run has ended.
    gone: bool,
    /// Why its last run failed.
    error: Option<(Class, String)>,
}

impl Pipeline {
    fn new(parsed: Arc<ParsedPipeline>, origin: Origin, wanted: Wanted) -> Self {
        let (progress, assignment) = (Arc::default(), Arc::default());
        Self {
            parsed,
            origin,
            wanted,
            stop: None,
            progress,
            assignment,
            again: false,
            gone: false,
            error: None,
        }
    }
}

pub(crate) fn run(arguments: &ConnectArguments) -> Result<ExitCode> {
    let documents = arguments.pipelines.clone().map(Documents::open).transpose()?;
    let found = find(&arguments.files, arguments.cluster.as_deref(), documents.as_ref())?;
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
        pipelines: BTreeMap::new(),
        documents,
        cluster: arguments.cluster.clone(),
        files: arguments.files.clone(),
        stays: arguments.rest.is_some(),
    };
    worker.listen(arguments)?;
    for (origin, parsed) in found {
        let name = parsed.document.name.to_string();
        let wanted = worker.documents.as_ref().map_or(Ok(Wanted::Running), |kept| kept.wanted(&name))?;
        worker.pipelines.insert(name.clone(), Pipeline::new(Arc::new(parsed), origin, wanted));
        match wanted {
            Wanted::Running if worker.stays => worker.begin_or_tell(&name),
            Wanted::Running => worker.begin(&name)?,
            Wanted::Paused | Wanted::Stopped => {
                worker.tell(&name, "rests, as it was told to", &serde_json::json!({"rests": wanted}))?;
            }
        }
    }
    worker.serve(&received)
}

/// The pipelines of files and of the folder, each with where it stands.
fn find(
    files: &[PathBuf],
    cluster: Option<&str>,
    documents: Option<&Documents>,
) -> Result<Vec<(Origin, ParsedPipeline)>> {
    let kept = documents.map(Documents::all).transpose()?.unwrap_or_default();
    let kept: Vec<(u64, PathBuf, String)> = kept.into_values().collect();
    let texts = kept.iter().map(|(_, path, text)| (path.clone(), text.clone())).collect();
    let origin = |path: PathBuf| {
        let version = kept.iter().find(|(_, file, _)| *file == path).map(|(version, ..)| *version);
        version.map_or(Origin::File(path), Origin::Kept)
    };
    let found = load::load_apart_with(files, texts, cluster)?;
    Ok(found.into_iter().map(|(path, parsed)| (origin(path), parsed)).collect())
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
    /// Serves counters and the management API, as far as asked for.
    fn listen(&self, arguments: &ConnectArguments) -> Result<()> {
        let (counts, clock) = (self.counts.clone(), self.shared.clock.clone());
        let render: Render = Arc::new(move || counts.render((clock)()));
        if let Some(addr) = &arguments.metrics {
            let served = sluice_service::serve(
                resolve(addr)?,
                sluice_service::metrics(Arc::clone(&render)),
                Guard::none(),
            );
            let addr = self.runtime.block_on(served)?;
            self.say(&format!("metrics http://{addr}/metrics"), &serde_json::json!({ "metrics": addr }))?;
        }
        if let Some(addr) = &arguments.rest {
            let addr = resolve(addr)?;
            let token = arguments.rest_token.as_deref().map(load::expand).transpose()?;
            let token = token.as_deref().map(Token::new).transpose().context("--rest-token")?;
            let guard = Guard::new(addr, token, "--rest-token '${VAR}'")?;
            // Two threads may send.
            let events = std::sync::Mutex::new(self.events.clone());
            let commands: Commands = Arc::new(move |command| {
                events.lock().is_ok_and(|events| events.send(Event::Asked(command)).is_ok())
            });
            let about = tools::about(arguments.cluster.as_deref(), addr)?;
            let tools = tools::tools(arguments.cluster.as_deref());
            let router = sluice_service::router(commands, tools, about, render);
            let addr = self.runtime.block_on(sluice_service::serve(addr, router, guard))?;
            self.say(
                &format!("REST http://{addr}, page http://{addr}/ui"),
                &serde_json::json!({ "rest": addr }),
            )?;
        }
        Ok(())
    }

    /// Until all pipelines have ended, or it is asked to end.
    fn serve(&mut self, received: &Receiver<Event>) -> Result<ExitCode> {
        let (mut failed, mut stopping, mut by_hand) = (false, false, false);
        while self.stays && !stopping || self.pipelines.values().any(|one| one.stop.is_some()) {
            match received.recv().context("nothing is left to wait for")? {
                Event::Stop { by_hand: by } => {
                    (stopping, by_hand) = (true, by);
                    self.pipelines.values().filter_map(|one| one.stop.as_ref()).for_each(|stop| stop.ask());
                }
                // Who asked hears that the worker is ending.
                Event::Reload | Event::Asked(_) if stopping => {}
                Event::Asked(command) => self.answer(command),
                Event::Reload => match find(&self.files, self.cluster.as_deref(), self.documents.as_ref()) {
                    Ok(found) => self.reload(found)?,
                    Err(error) => eprintln!("sluice: all goes on as it was: {}", crate::show::causes(&error)),
                },
                Event::Ended(name, result) => {
                    let Some(ended) = self.pipelines.get_mut(&name) else { continue };
                    ended.stop = None;
                    ended.error = result
                        .as_ref()
                        .err()
                        .map(|error| (asked::class(error.class), worker::chain_of_causes(error)));
                    let again = std::mem::take(&mut ended.again) && !stopping;
                    let (gone, progress) = (ended.gone, Arc::clone(&ended.progress));
                    self.tell_end(&name, &progress, &result)?;
                    if gone {
                        self.forget(&name);
                    } else if again && self.stays {
                        self.begin_or_tell(&name);
                    } else if again {
                        self.begin(&name)?;
                    } else {
                        failed |= result.is_err() && !self.stays;
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
    fn reload(&mut self, found: Vec<(Origin, ParsedPipeline)>) -> Result<()> {
        let is_named = |name: &str| found.iter().any(|(_, one)| one.document.name.as_str() == name);
        let gone: Vec<String> = self.pipelines.keys().filter(|name| !is_named(name)).cloned().collect();
        for name in gone {
            self.tell(&name, "ends: it stands in no file any more", &serde_json::json!({}))?;
            self.forget(&name);
        }
        for (origin, parsed) in found {
            let name = parsed.document.name.to_string();
            let wanted = self.documents.as_ref().map(|kept| kept.wanted(&name)).transpose()?;
            match self.pipelines.get_mut(&name) {
                Some(one) if one.parsed.text == parsed.text && one.stop.is_some() && !one.gone => {
                    one.origin = origin;
                }
                _ => self.place(parsed, origin, wanted),
            }
        }
        Ok(())
    }

    /// Begins a pipeline; what is wrong is told of it and ends nothing else.
    fn begin_or_tell(&mut self, name: &str) {
        let Err(error) = self.begin(name) else { return };
        let told = crate::show::causes(&error);
        tracing::error!(pipeline = name, error = %told, "the pipeline can not begin");
        if let Some(one) = self.pipelines.get_mut(name) {
            one.progress.state("blocked");
            one.error = Some((Class::Config, told));
        }
    }

    /// Begins a pipeline on a thread of its own, and joins its group.
    fn begin(&mut self, name: &str) -> Result<()> {
        let Some(parsed) = self.pipelines.get(name).map(|one| Arc::clone(&one.parsed)) else { return Ok(()) };
        let name = name.to_owned();
        let (assignment, clock) = (Arc::new(Assignment::default()), self.shared.clock.clone());
        let (membership, line, told) = match &parsed.document.source {
            SourceConfig::Topic(config) => {
                let cluster = config.cluster.clone().unwrap_or_default();
                let group = config.group.clone().unwrap_or_else(|| name.clone());
                let client = self.client(&cluster, &config.access)?;
                let told = serde_json::json!({"cluster": cluster, "topic": config.name, "group": group, "worker": client.id()});
                let line =
                    format!("shares topic {} of {cluster} as {} of group {group}", config.name, client.id());
                let wanted = membership::Wanted::new(client, group, config, self.lease, clock)?;
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
            SourceConfig::File(config) => {
                assignment.set(0, 1, (clock)());
                let told = serde_json::json!({"files": config.path});
                (None, format!("reads the files {} of this machine alone", config.path), told)
            }
            _ => {
                anyhow::bail!("pipeline {name} reads no topic")
            }
        };
        self.tell(&name, &line, &told)?;
        let (stop, progress) = (Arc::new(Stop::default()), Arc::<Progress>::default());
        self.counts.add(&name, Arc::clone(&progress), Arc::clone(&assignment));
        let of_run = (Arc::clone(&stop), Arc::clone(&progress), Arc::clone(&assignment));
        let (shared, events, handle) =
            (Arc::clone(&self.shared), self.events.clone(), self.runtime.handle().clone());
        std::thread::Builder::new().name(name.clone()).spawn(move || {
            let span = tracing::error_span!("pipeline", name = %parsed.document.name).entered();
            let make = |text: Option<&str>| build::pipeline(&parsed, text, &shared, &Vec::new());
            let (scope, retry_for) = (Scope::Shared(assignment), parsed.document.errors.retry.0);
            let work = || worker::run(&make, &scope, &stop, &progress, &shared.clock, retry_for);
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                .unwrap_or_else(|_| Err(TaskError::new(TaskClass::Fatal, "the pipeline's thread panicked")));
            drop(span);
            // What was in hand is published: the others may begin there.
            if let Some(membership) = membership {
                handle.block_on(membership.leave());
            }
            // Nobody listens once the worker has ended.
            let _ = events.send(Event::Ended(parsed.document.name.to_string(), result));
        })?;
        if let Some(one) = self.pipelines.get_mut(&name) {
            (one.error, one.again) = (None, false);
            let (stop, progress, assignment) = of_run;
            (one.stop, one.progress, one.assignment) = (Some(stop), progress, assignment);
        }
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
        let mut told = told.clone();
        told["pipeline"] = name.into();
        self.say(&format!("{name}: {line}"), &told)
    }

    /// A line, or the same as JSON.
    fn say(&self, line: &str, told: &serde_json::Value) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{told}")?;
        } else {
            writeln!(out, "{line}")?;
        }
        Ok(out.flush()?)
    }
}

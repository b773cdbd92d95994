//! `sluice check`: lint, and then what only trying shows: connections, permissions, the schema that stands in the
//! target, and whether the target keeps what `delivery` promises. Stores no row.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Serialize;
use sluice_client::Access;
use sluice_connect::config::Format;
use sluice_connect::memory::Memory;
use sluice_connect::target::Target;
use sluice_connect::task::{Needs, SourceTask};
use sluice_sinks::SinkConfig;
use sluice_sinks::topic::TopicConfig;
use sluice_sources::SourceConfig;
use sluice_sources::registry::RegistryClient;

use crate::build::{Apart, Embedded, Shared};
use crate::load::{self, ParsedPipeline};
use crate::run::{One, check_source};
use crate::show::{causes, plural};

#[derive(clap::Args)]
pub(crate) struct CheckArguments {
    /// Pipeline files (YAML)
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    store: crate::StoreArguments,
    /// Check for `sluice connect` with these name servers
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "data_dir")]
    cluster: Option<String>,
    /// Print one JSON document instead of lines
    #[arg(long)]
    json: bool,
}

/// One thing that was tried.
#[derive(Serialize)]
struct Tried {
    pipeline: String,
    /// The part of the document: `source`, `decode`, `sink` or `dead letters`.
    part: &'static str,
    ok: bool,
    /// What holds, or what is wrong.
    message: String,
}

pub(crate) fn run(arguments: &CheckArguments) -> Result<ExitCode> {
    let (files, cluster) = (&arguments.files, arguments.cluster.as_deref());
    let parsed = if cluster.is_some() { load::load_apart(files, cluster)? } else { load::load(files)? };
    let all: Vec<One> = parsed.into_iter().map(|parsed| (parsed, Arc::default())).collect();
    let clock = crate::clock();
    let embedded = Embedded::new(arguments.store.data_dir.clone(), None, clock.clone());
    let shared = Shared {
        embedded,
        clock,
        stop: Arc::default(),
        memory: Memory::new(0),
        apart: cluster.map(|c| Apart { cluster: Some(c.to_owned()) }),
    };
    let tried = try_all(&all, &arguments.store.data_dir, &shared);
    let failed = tried.iter().filter(|one| !one.ok).count();
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::json!({"ok": failed == 0, "tried": tried}))?;
    } else {
        for Tried { pipeline, part, ok, message } in &tried {
            let verdict = if *ok { "ok" } else { "FAILED" };
            writeln!(out, "{pipeline}: {part}: {verdict}: {message}")?;
        }
        match failed {
            0 => writeln!(out, "ok: {}", plural(all.len(), "pipeline"))?,
            _ => eprintln!("{}", plural(failed, "problem")),
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `sluice check --json` of a document that is to run apart.
pub(crate) fn check_apart(parsed: ParsedPipeline) -> serde_json::Value {
    let clock = crate::clock();
    let shared = Shared {
        embedded: Embedded::new(PathBuf::new(), None, clock.clone()),
        clock,
        stop: Arc::default(),
        memory: Memory::new(0),
        apart: Some(Apart { cluster: None }),
    };
    let tried = try_all(&[(parsed, Arc::default())], Path::new(""), &shared);
    serde_json::json!({"ok": tried.iter().all(|one| one.ok), "tried": tried})
}

fn try_all(all: &[One], data_dir: &Path, shared: &Shared) -> Vec<Tried> {
    let mut tried = Vec::new();
    for (parsed, _) in all {
        let read = |source: &mut dyn SourceTask| {
            source.open(&Needs::default()).and_then(|()| source.queues()).map(drop)
        };
        let source = check_source(parsed, all, data_dir, shared, read).map(|()| {
            let fed = !crate::build::feeders(all, parsed).is_empty();
            if fed { "written by a pipeline of these files" } else { "there, and can be read" }.to_owned()
        });
        let parts = [
            ("source", Some(source)),
            ("decode", decode(parsed)),
            ("sink", Some(sink(parsed, shared))),
            ("dead letters", dead_letters(parsed, shared).transpose()),
        ];
        for (part, result) in parts.into_iter().filter_map(|(part, result)| Some((part, result?))) {
            let ok = result.is_ok();
            let message = result.unwrap_or_else(|error| causes(&error));
            tried.push(Tried { pipeline: parsed.document.name.to_string(), part, ok, message });
        }
    }
    tried
}

/// What holds of the topic of dead letters, if there is one.
fn dead_letters(parsed: &ParsedPipeline, shared: &Shared) -> Result<Option<String>> {
    let document = &parsed.document;
    let Some(name) = &document.errors.dead_letter else { return Ok(None) };
    let cluster = document.source.topic().and_then(|(cluster, _)| cluster);
    Ok(Some(match cluster.filter(|_| shared.apart.is_some()) {
        Some(cluster) => {
            let access = match &document.source {
                SourceConfig::Topic(config) => config.access.clone(),
                _ => Access::default(),
            };
            in_cluster(name, cluster, &access)?
        }
        None => format!("topic {name} of the embedded broker: each once"),
    }))
}

/// What holds of a topic of a cluster that rows go to.
fn in_cluster(name: &str, cluster: &str, access: &Access) -> Result<String> {
    Ok(match sluice_sinks::cluster::queues(name, cluster, access)? {
        Some(queues) => format!("topic {name} is there, with {queues} queues: at_least_once"),
        None => format!("topic {name} is made by the first run: at_least_once"),
    })
}

/// What holds of the schema registry, if bodies need one.
fn decode(parsed: &ParsedPipeline) -> Option<Result<String>> {
    let Format::Avro(avro) = &parsed.document.decode.as_ref()?.format else { return None };
    let registry = avro.registry.as_ref()?;
    let answers = RegistryClient::new(registry).and_then(|client| client.check());
    Some(answers.map(|()| format!("schema registry {} answers", registry.url.as_str())).map_err(Into::into))
}

/// What holds of the sink.
fn sink(parsed: &ParsedPipeline, shared: &Shared) -> Result<String> {
    let document = &parsed.document;
    Ok(match &document.sink {
        SinkConfig::Topic(TopicConfig { name, cluster: Some(cluster), access, .. }) => {
            in_cluster(name, cluster, access)?
        }
        SinkConfig::Topic(config) => {
            format!("topic {}: rows and position are one act: exactly_once", config.name)
        }
        SinkConfig::Parquet(_)
        | SinkConfig::Arrow(_)
        | SinkConfig::File(_)
        | SinkConfig::Delta(_)
        | SinkConfig::Iceberg(_) => {
            let mut target =
                document.sink.open(|| shared.embedded.store(), &shared.clock, document.delivery)?;
            let name = document.name.as_str();
            if let Target::Files(sink) = &mut target {
                sink.check(name).context("the target does not give what a run needs")?;
            }
            let (mut steps, _) = crate::build::steps(parsed)?;
            if let Some(standing) = target.schema(name, None)? {
                steps.check_declared(&standing)?;
                if let Some(output) = steps.check(&standing)? {
                    target.accept(&output)?;
                }
            } else if !steps.decodes()
                && let Some(output) = steps.check_undecoded()?
            {
                target.accept(&output)?;
            }
            let holds = "can be listed, written and read; a name that is taken is kept";
            match &document.sink {
                SinkConfig::Delta(_) | SinkConfig::Iceberg(_) => {
                    format!("{holds}; rows and position are one commit: exactly_once")
                }
                _ => format!("{holds}: exactly_once"),
            }
        }
        other => other.check(document.delivery)?,
    })
}

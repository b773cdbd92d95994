//! `sluice check`: lint, and then what only trying shows: connections, permissions, the schema that stands in the
//! target, and whether the target keeps what `delivery` promises. Stores no row.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Serialize;
use sluice_connect::config::Format;
use sluice_connect::memory::Memory;
use sluice_connect::target::Target;
use sluice_sinks::SinkConfig;
use sluice_sinks::topic::TopicConfig;
use sluice_sources::registry::RegistryClient;

use crate::build::{Embedded, Shared};
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
    /// Print one JSON document instead of lines
    #[arg(long)]
    json: bool,
}

/// One thing that was tried.
#[derive(Serialize)]
struct Tried {
    pipeline: String,
    /// The part of the document: `source`, `decode` or `sink`.
    part: &'static str,
    ok: bool,
    /// What holds, or what is wrong.
    message: String,
}

pub(crate) fn run(arguments: &CheckArguments) -> Result<ExitCode> {
    let all: Vec<One> =
        load::load(&arguments.files)?.into_iter().map(|parsed| (parsed, Arc::default())).collect();
    let clock = crate::clock();
    let embedded = Embedded::new(arguments.store.data_dir.clone(), None, clock.clone());
    let shared = Shared { embedded, clock, stop: Arc::default(), memory: Memory::new(0) };
    let mut tried = Vec::new();
    for (parsed, _) in &all {
        let source = check_source(parsed, &all, &arguments.store.data_dir, &shared).map(|()| {
            let fed = !crate::build::feeders(&all, parsed).is_empty();
            if fed { "written by a pipeline of these files" } else { "there, and can be read" }.to_owned()
        });
        let parts =
            [("source", Some(source)), ("decode", decode(parsed)), ("sink", Some(sink(parsed, &shared)))];
        for (part, result) in parts.into_iter().filter_map(|(part, result)| Some((part, result?))) {
            let ok = result.is_ok();
            let message = result.unwrap_or_else(|error| causes(&error));
            tried.push(Tried { pipeline: parsed.document.name.to_string(), part, ok, message });
        }
    }
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
        SinkConfig::Topic(TopicConfig { name, cluster: Some(cluster), .. }) => {
            match sluice_sinks::cluster::queues(name, cluster)? {
                Some(queues) => format!("topic {name} is there, with {queues} queues: at_least_once"),
                None => format!("topic {name} is made by the first run: at_least_once"),
            }
        }
        SinkConfig::Topic(config) => {
            format!("topic {}: rows and position are one act: exactly_once", config.name)
        }
        SinkConfig::Stdout(_) => "keeps no positions: at_least_once".to_owned(),
        SinkConfig::Parquet(_) | SinkConfig::Arrow(_) => {
            let mut target = document.sink.open(|| shared.embedded.store(), &shared.clock)?;
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
            "can be listed, written and read; a name that is taken is kept: exactly_once".to_owned()
        }
    })
}

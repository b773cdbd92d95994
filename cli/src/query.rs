//! `sluice query`: SQL over topics, pipelines and files; `--serve` gives the same to clients of Arrow Flight SQL.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::array::RecordBatch;
use bytesize::ByteSize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use sluice_connect::config::Then;
use sluice_query::flight::{Certificate, IsToken, Server};
use sluice_query::{Engine, Pipeline};
use sluice_service::{Token, check_open};

use crate::build;
use crate::load::{self, ParsedPipeline};
use crate::show::plural;

#[derive(clap::Args)]
pub(crate) struct QueryArguments {
    /// One SQL statement
    #[arg(required_unless_present = "serve", conflicts_with = "serve")]
    sql: Option<String>,
    #[command(flatten)]
    store: crate::StoreArguments,
    /// A file of pipelines that are tables, too: what they have published and what they have yet to; may be repeated
    #[arg(long, value_name = "FILE")]
    pipelines: Vec<PathBuf>,
    /// Serve Arrow Flight SQL here, until Ctrl-C
    #[arg(long, value_name = "HOST:PORT")]
    serve: Option<String>,
    /// The token that clients must bear: ${VAR} or ${file:PATH}; needed where other machines reach --serve
    #[arg(long, value_name = "TOKEN", requires = "serve")]
    token: Option<String>,
    /// Speak TLS, with this certificate (PEM; its chain behind it)
    #[arg(id = "tls-certificate", long, value_name = "FILE", requires_all = ["tls-key", "serve"])]
    tls_certificate: Option<PathBuf>,
    /// The private key of --tls-certificate (PEM)
    #[arg(id = "tls-key", long, value_name = "FILE", requires = "tls-certificate")]
    tls_key: Option<PathBuf>,
    /// What all statements may hold together [default: 1GiB with --serve, no limit without]
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Print one JSON object a row instead of a table
    #[arg(long)]
    json: bool,
}

/// Rows of a table that is shown in one go; a longer answer comes as several tables, or as `--json`.
const TABLE_ROWS: usize = 10_000;

/// What the statements of clients may hold together, if not said.
const MEMORY: ByteSize = ByteSize::gib(1);

pub(crate) fn run(arguments: &QueryArguments) -> Result<ExitCode> {
    let mut engine = with_pipelines(Engine::beside(arguments.store.data_dir.clone()), &arguments.pipelines)?;
    let memory = arguments.memory.or(arguments.serve.is_some().then_some(MEMORY));
    if let Some(memory) = memory {
        engine = engine.with_memory(usize::try_from(memory.as_u64()).unwrap_or(usize::MAX))?;
    }
    match (&arguments.serve, &arguments.sql) {
        (Some(addr), _) => serve(engine, addr, arguments),
        (None, sql) => print(&engine, sql.as_deref().unwrap_or_default(), arguments.json),
    }
}

fn print(engine: &Engine, sql: &str, json: bool) -> Result<ExitCode> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut held: Vec<RecordBatch> = Vec::new();
    engine.run(sql, &mut |_, batch| -> Result<bool, anyhow::Error> {
        if json {
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

fn serve(engine: Engine, addr: &str, arguments: &QueryArguments) -> Result<ExitCode> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot listen for signals")?;
    let addr = crate::broker::resolve(addr)?;
    let token = arguments.token.as_deref().map(load::expand).transpose()?;
    let token = token.as_deref().map(Token::new).transpose().context("--token")?;
    check_open(addr, token.as_ref(), "everybody could read all topics", "--token '${VAR}'")?;
    let is_token = token.map(|token| -> IsToken { Arc::new(move |shown: &str| token.is(shown)) });
    let read =
        |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let certificate = match (&arguments.tls_certificate, &arguments.tls_key) {
        (Some(chain), Some(key)) => Some(Certificate { chain: read(chain)?, key: read(key)? }),
        _ => None,
    };
    let scheme = if certificate.is_some() { "grpc+tls" } else { "grpc" };
    // Who asks from elsewhere has no business with this machine's files.
    let server = Server::start(engine.without_files(), addr, is_token, certificate)?;
    let (addr, dir) = (server.addr(), arguments.store.data_dir.display());
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(
            out,
            "{}",
            serde_json::json!({ "flight": addr, "scheme": scheme, "data_dir": dir.to_string() })
        )?;
    } else {
        writeln!(out, "Flight SQL {scheme}://{addr}, store {dir}: ready")?;
    }
    out.flush()?;
    signals.forever().next();
    drop(server);
    Ok(ExitCode::SUCCESS)
}

/// The pipelines of these files as tables; of the others it is known why they are none.
fn with_pipelines(engine: Engine, files: &[PathBuf]) -> Result<Engine> {
    if files.is_empty() {
        return Ok(engine);
    }
    let (mut tables, mut others) = (Vec::new(), Vec::new());
    for parsed in load::load(files)? {
        let name = parsed.document.name.as_str().to_owned();
        match table(parsed) {
            Ok(table) => tables.push(table),
            Err(why) => others.push((name, why)),
        }
    }
    if tables.is_empty() {
        let whys: Vec<String> = others.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        anyhow::bail!("none of {} is a table: {}", plural(others.len(), "pipeline"), whys.join("; "));
    }
    let engine = engine.with_pipelines(tables);
    Ok(others.into_iter().fold(engine, |engine, (name, why)| engine.without_pipeline(name, why)))
}

fn table(mut parsed: ParsedPipeline) -> Result<Pipeline, String> {
    let hash = parsed.hash();
    // Rows that do not fit are in no file either, wherever they go.
    parsed.document.errors.then = Then::Skip;
    let (name, source, sink) =
        (parsed.document.name.clone(), parsed.document.source.clone(), parsed.document.sink.clone());
    let steps = Arc::new(move || build::steps(&parsed).map_err(Into::into));
    Pipeline::new(name.as_str(), &source, &sink, hash, steps)
}

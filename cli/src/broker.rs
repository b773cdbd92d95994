//! `sluice broker | namesrv`: serves RocketMQ's clients on the network.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use sluice_broker::{NAME_SERVER_PORT, Server};
use sluice_store::file::RealDisk;
use sluice_store::{Flush, Retention, Store};

/// Length of a new store's segments, in bytes: RocketMQ's, so that the store can change hands.
const SEGMENT_BYTES: u64 = 1 << 30;

#[derive(Args)]
pub(crate) struct BrokerArguments {
    #[command(flatten)]
    store: crate::StoreArguments,
    /// Where the broker listens; every interface by 0.0.0.0:PORT, any free port by port 0
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:10911")]
    listen: String,
    /// Where its name server listens [default: the same host, port 9876]
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "namesrv")]
    namesrv_listen: Option<String>,
    /// Name servers elsewhere to join; then none is started here
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ';')]
    namesrv: Vec<String>,
    /// The address that clients are told, where it is not the one that the broker listens at
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// The broker's name; unique among the brokers of its name servers
    #[arg(long, default_value = "broker-a")]
    name: String,
    /// The name of its cluster
    #[arg(long, default_value = "DefaultCluster")]
    cluster: String,
    /// When messages are acknowledged: written (async), or durable against power loss (sync)
    #[arg(long, value_enum, default_value = "async")]
    flush: FlushMode,
    /// Refuse sends to topics that do not exist, instead of making them
    #[arg(long)]
    no_auto_create: bool,
    /// Drop segments whose messages are older than this many hours
    #[arg(long, value_name = "HOURS")]
    retain_hours: Option<u64>,
    /// Print what is ready as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct NameServerArguments {
    /// Where it listens
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9876")]
    listen: String,
    /// Print what is ready as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FlushMode {
    /// Acknowledged when written; a power loss can take the last half second
    Async,
    /// Acknowledged when durable
    Sync,
}

pub(crate) fn broker(arguments: &BrokerArguments) -> Result<ExitCode> {
    let signals = Signals::new([SIGINT, SIGTERM]).context("cannot listen for signals")?;
    let clock = crate::clock();
    let started = clock();
    let listen = resolve(&arguments.listen)?;
    let own_names = match &arguments.namesrv_listen {
        Some(addr) => Some(resolve(addr)?),
        None if arguments.namesrv.is_empty() => Some(SocketAddr::new(listen.ip(), NAME_SERVER_PORT)),
        None => None,
    };
    if let Some(addr) = arguments.advertise.iter().chain(&arguments.namesrv).find(|addr| !has_port(addr)) {
        bail!("`{addr}` is not HOST:PORT");
    }
    if listen.ip().is_unspecified() && arguments.advertise.is_none() {
        tracing::warn!(
            "clients are told the address by which they reached the name server; where they can not reach that one (a \
             container, NAT), give the one that they can by --advertise HOST:PORT"
        );
    }
    let dir = &arguments.store.data_dir;
    let mut settings = sluice_store::Settings::embedded(dir);
    settings.segment_bytes = SEGMENT_BYTES;
    settings.retention =
        Retention { age: arguments.retain_hours.map(|h| Duration::from_secs(h * 3600)), bytes: None };
    if arguments.flush == FlushMode::Sync {
        settings.flush = Flush::Sync;
    }
    let store = Store::open(settings, Arc::new(RealDisk), Arc::clone(&clock))
        .with_context(|| format!("cannot open the store {}", dir.display()))?;
    let recovery = store.recovery();
    if recovery.cut_bytes > 0 {
        tracing::warn!(bytes = recovery.cut_bytes, "the end of the log was torn, and is cut");
    }
    let settings = sluice_broker::Settings {
        name: arguments.name.clone(),
        cluster: arguments.cluster.clone(),
        listen,
        advertise: arguments.advertise.clone(),
        name_servers: arguments.namesrv.clone(),
        auto_create_topics: !arguments.no_auto_create,
        transaction_check: sluice_broker::TransactionCheck::default(),
    };
    let sync = arguments.flush == FlushMode::Sync;
    let runtime = runtime()?;
    let server = runtime.block_on(Server::broker(settings, store.clone(), sync, own_names, started))?;
    let took = clock() - started;
    let (flush, names) = (if sync { "sync" } else { "async" }, server.name_server_addr());
    let broker = server.broker_addr().unwrap_or(listen);
    let line = if arguments.json {
        serde_json::json!({
            "broker": broker, "name_server": names, "name_servers": arguments.namesrv, "data_dir": dir, "flush": flush,
            "ready_ms": took,
        })
        .to_string()
    } else {
        let names =
            names.map_or(format!("joins {}", arguments.namesrv.join(";")), |a| format!("name server {a}"));
        format!("broker {broker}, {names}, store {}, flush {flush}: ready in {took} ms", dir.display())
    };
    wait(&line, signals)?;
    runtime.block_on(server.stop());
    drop(runtime);
    store.close().with_context(|| format!("cannot close the store {}", dir.display()))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn name_server(arguments: &NameServerArguments) -> Result<ExitCode> {
    let signals = Signals::new([SIGINT, SIGTERM]).context("cannot listen for signals")?;
    let runtime = runtime()?;
    let server = runtime.block_on(Server::name_server(resolve(&arguments.listen)?))?;
    let addr = server.name_server_addr();
    let line = match addr {
        _ if arguments.json => serde_json::json!({ "name_server": addr }).to_string(),
        Some(addr) => format!("name server {addr}: ready"),
        None => "name server: ready".to_owned(),
    };
    wait(&line, signals)?;
    runtime.block_on(server.stop());
    Ok(ExitCode::SUCCESS)
}

/// Says that all is ready, and waits for the signal to end.
fn wait(line: &str, mut signals: Signals) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write to stdout")?;
    signals.forever().next();
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

fn has_port(addr: &str) -> bool {
    addr.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn resolve(addr: &str) -> Result<SocketAddr> {
    let found = addr.to_socket_addrs().with_context(|| format!("`{addr}` is not HOST:PORT"))?.next();
    found.with_context(|| format!("`{addr}` has no address"))
}

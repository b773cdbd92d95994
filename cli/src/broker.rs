//! `sluice broker | namesrv`: serves RocketMQ's clients on the network.

mod accounts;
mod guard;
mod settings;

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use metrics_exporter_prometheus::PrometheusBuilder;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use sluice_broker::{Credentials, NAME_SERVER_PORT, NameServerWay, Server};
use sluice_client::SecretKey;
use sluice_connect::config::Problem;
use sluice_store::file::RealDisk;
use sluice_store::{Flush, Retention, Store};

use self::accounts::AclSettings;
use self::guard::{Guard, TlsFiles};
use self::settings::{BrokerSettings, DelayLevels, FlushMode, HostPort, NameServers};
use crate::{load, metrics};

/// Length of a new store's segments, in bytes: RocketMQ's, so that the store can change hands.
const SEGMENT_BYTES: u64 = 1 << 30;
/// What ends a server, or has it read files again.
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

#[derive(Args)]
pub(crate) struct BrokerArguments {
    #[command(flatten)]
    settings: BrokerSettings,
    /// Read settings from this YAML file; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the file, and end; opens nothing
    #[arg(long, requires = "config", conflicts_with = "json")]
    check: bool,
    /// Print what is ready as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct NameServerArguments {
    /// Where it listens
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9876")]
    listen: String,
    /// Take signed requests only: of the accounts in this file, RocketMQ's plain_acl.yml; read again when it changes
    #[arg(long, value_name = "FILE")]
    acl: Option<AclSettings>,
    #[command(flatten)]
    tls: TlsFiles,
    /// Listen for other machines although everybody on them could do everything
    #[arg(long)]
    allow_anonymous: bool,
    /// Print what is ready as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn broker(arguments: BrokerArguments) -> Result<ExitCode> {
    let BrokerArguments { mut settings, config, check, json } = arguments;
    if let Some(file) = &config {
        let (of_file, tree) = BrokerSettings::read(file)?;
        settings = settings.or(of_file);
        if let Some((key, message)) = settings.exposed() {
            let problem = Problem { place: tree.locate(&[key]), path: key.to_owned(), message };
            return Err(load::not_right(&[(file.clone(), problem)]));
        }
        if check {
            Guard::new(settings.acl, settings.tls, Some(file))?;
            writeln!(std::io::stdout(), "ok: {}", file.display())?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    serve(settings, config.as_deref(), json)
}

fn serve(arguments: BrokerSettings, config: Option<&Path>, json: bool) -> Result<ExitCode> {
    let signals = Signals::new(SIGNALS).context("cannot listen for signals")?;
    sluice_broker::raise_open_files();
    let clock = crate::clock();
    let started = clock();
    let defaults = sluice_broker::Settings::local();
    let listen = match &arguments.listen {
        Some(HostPort(addr)) => resolve(addr)?,
        None => defaults.listen,
    };
    let NameServers(elsewhere) = arguments.namesrv.unwrap_or_default();
    let own_names = match &arguments.namesrv_listen {
        Some(HostPort(addr)) => Some(resolve(addr)?),
        None if elsewhere.is_empty() => Some(SocketAddr::new(listen.ip(), NAME_SERVER_PORT)),
        None => None,
    };
    let guard = Guard::new(arguments.acl, arguments.tls, config)?;
    for addr in [Some(listen), own_names].into_iter().flatten() {
        guard.check(addr, arguments.allow_anonymous.unwrap_or(false))?;
    }
    let way = arguments.namesrv_access.map_or_else(NameServerWay::default, |access| NameServerWay {
        credentials: access
            .access_key
            .zip(access.secret_key)
            .map(|(access_key, SecretKey(secret))| Credentials::new(access_key, &secret)),
        ca: access.ca,
    });
    let advertise = arguments.advertise.map(|HostPort(addr)| addr);
    if listen.ip().is_unspecified() && advertise.is_none() {
        tracing::warn!(
            "clients are told the address by which they reached the name server; where they can not reach that one (a \
             container, NAT), give the one that they can by --advertise HOST:PORT"
        );
    }
    let dir = arguments.data_dir.unwrap_or_else(|| crate::DATA_DIR.into());
    let sync = arguments.flush == Some(FlushMode::Sync);
    let mut settings = sluice_store::Settings::embedded(&dir);
    settings.segment_bytes = SEGMENT_BYTES;
    let age = arguments.retain_hours.map(|hours| Duration::from_secs(u64::from(hours) * 3600));
    settings.retention = Retention { age, bytes: None };
    if sync {
        settings.flush = Flush::Sync;
    }
    if let Some(DelayLevels(levels)) = arguments.delay_levels {
        settings.delay_levels = levels;
    }
    let store = Store::open(settings, Arc::new(RealDisk), Arc::clone(&clock))
        .with_context(|| format!("cannot open the store {}", dir.display()))?;
    let recovery = store.recovery();
    if recovery.cut_bytes > 0 {
        tracing::warn!(bytes = recovery.cut_bytes, "the end of the log was torn, and is cut");
    }
    let settings = sluice_broker::Settings {
        name: arguments.name.unwrap_or(defaults.name),
        cluster: arguments.cluster.unwrap_or(defaults.cluster),
        listen,
        advertise,
        name_servers: elsewhere.clone(),
        auto_create_topics: arguments.auto_create.unwrap_or(defaults.auto_create_topics),
        transaction_check: arguments.transaction_check.unwrap_or_default().check(),
        way,
        security: Arc::clone(&guard.security),
    };
    let runtime = runtime()?;
    let metrics = match &arguments.metrics {
        Some(HostPort(addr)) => {
            // Before anything is counted.
            let counted = PrometheusBuilder::new().install_recorder().context("cannot count")?;
            let render = Arc::new(move || counted.render());
            Some(runtime.block_on(metrics::serve(resolve(addr)?, render))?)
        }
        None => None,
    };
    let server = runtime.block_on(Server::broker(settings, store.clone(), sync, own_names, started))?;
    let took = clock() - started;
    let (flush, names) = (if sync { "sync" } else { "async" }, server.name_server_addr());
    let broker = server.broker_addr().unwrap_or(listen);
    let line = if json {
        serde_json::json!({
            "broker": broker, "name_server": names, "name_servers": elsewhere, "data_dir": dir, "flush": flush,
            "metrics": metrics, "ready_ms": took, "accounts": guard.json().0, "tls": guard.json().1,
        })
        .to_string()
    } else {
        let names = names.map_or(format!("joins {}", elsewhere.join(";")), |a| format!("name server {a}"));
        let metrics = metrics.map_or(String::new(), |addr| format!(", metrics http://{addr}/metrics"));
        format!(
            "broker {broker}, {names}, store {}, flush {flush}{}{metrics}: ready in {took} ms",
            dir.display(),
            guard.line()
        )
    };
    let watch = guard.watch()?;
    wait(&line, signals, &watch)?;
    drop(watch);
    runtime.block_on(server.stop());
    drop(runtime);
    store.close().with_context(|| format!("cannot close the store {}", dir.display()))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn name_server(arguments: NameServerArguments) -> Result<ExitCode> {
    let signals = Signals::new(SIGNALS).context("cannot listen for signals")?;
    sluice_broker::raise_open_files();
    let (listen, guard) = (resolve(&arguments.listen)?, Guard::new(arguments.acl, arguments.tls, None)?);
    guard.check(listen, arguments.allow_anonymous)?;
    let runtime = runtime()?;
    let server = runtime.block_on(Server::name_server(listen, Arc::clone(&guard.security)))?;
    let addr = server.name_server_addr();
    let line = match addr {
        _ if arguments.json => {
            let (accounts, tls) = guard.json();
            serde_json::json!({ "name_server": addr, "accounts": accounts, "tls": tls }).to_string()
        }
        Some(addr) => format!("name server {addr}{}: ready", guard.line()),
        None => "name server: ready".to_owned(),
    };
    wait(&line, signals, &guard.watch()?)?;
    runtime.block_on(server.stop());
    Ok(ExitCode::SUCCESS)
}

/// Says that all is ready, and waits for the signal to end; SIGHUP has the files of access control and TLS read again.
fn wait(line: &str, mut signals: Signals, again: &Sender<()>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write to stdout")?;
    for signal in signals.forever() {
        if signal != SIGHUP {
            break;
        }
        // The thread that reads them lives as long as this one.
        let _ = again.send(());
    }
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

pub(crate) fn resolve(addr: &str) -> Result<SocketAddr> {
    let found = addr.to_socket_addrs().with_context(|| format!("`{addr}` is not HOST:PORT"))?.next();
    found.with_context(|| format!("`{addr}` has no address"))
}

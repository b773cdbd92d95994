//! `sluice doctor`: looks at this machine, and says what to change before a broker or a worker runs here for long.
//!
//! Nothing is left behind: what is written for a test lies in a temporary file.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytesize::ByteSize;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use serde::Serialize;
use sluice_broker::NAME_SERVER_PORT;

use crate::show::plural;

/// Open files that a broker with a thousand clients and their queues wants.
const FILES_WANTED: u64 = 65_536;
/// Free space of a data folder, in bytes: a segment of the commit log and what is beside it, twice.
const FREE_WANTED: u64 = 4 << 30;
/// Memory for a worker's rows on their way (`--memory`) and the broker beside it, in bytes.
const MEMORY_WANTED: u64 = 1536 << 20;
/// An fdatasync that takes longer than this, as a median, makes `--flush sync` slow.
const SYNC_SLOW: Duration = Duration::from_millis(20);
const SYNCS: usize = 9;
/// 2026-01-01, in ms since 1970: a clock before it was never set.
const CLOCK_MIN_MS: i64 = 1_767_225_600_000;

#[derive(clap::Args)]
pub(crate) struct DoctorArguments {
    #[command(flatten)]
    store: crate::StoreArguments,
    /// Where the broker will listen
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:10911")]
    listen: String,
    /// The address that clients will be told, if it is another
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Print one JSON document instead of lines
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    /// It works, but not well.
    Warning,
    /// A broker or a worker would not run, or not for long.
    Bad,
    /// It does not show here.
    Unknown,
}

/// One thing that was looked at.
#[derive(Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to change, if it is not well.
    change: Option<String>,
}

impl Finding {
    fn ok(what: &'static str, found: String) -> Self {
        Self { what, verdict: Verdict::Ok, found, change: None }
    }

    fn not(what: &'static str, verdict: Verdict, found: String, change: impl Into<String>) -> Self {
        Self { what, verdict, found, change: Some(change.into()) }
    }
}

pub(crate) fn run(arguments: &DoctorArguments) -> Result<ExitCode> {
    let data_dir = &arguments.store.data_dir;
    let listen = resolve(&arguments.listen);
    let mut findings = vec![open_files(), memory(), clock((crate::clock())())];
    findings.extend(disk(data_dir));
    match listen {
        Ok(listen) => {
            let names = SocketAddr::new(listen.ip(), NAME_SERVER_PORT);
            findings.push(port("port of the broker", listen));
            findings.push(port("port of the name server", names));
            findings.push(address(listen, arguments.advertise.as_deref()));
        }
        Err(error) => {
            let change = "give --listen HOST:PORT with an address of this machine";
            findings.push(Finding::not("port of the broker", Verdict::Bad, format!("{error:#}"), change));
        }
    }
    let bad = findings.iter().filter(|f| f.verdict == Verdict::Bad).count();
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::json!({"ok": bad == 0, "findings": findings}))?;
    } else {
        for Finding { what, verdict, found, change } in &findings {
            let verdict = match verdict {
                Verdict::Ok => "ok",
                Verdict::Warning => "warning",
                Verdict::Bad => "BAD",
                Verdict::Unknown => "unknown",
            };
            writeln!(out, "{what}: {verdict}: {found}")?;
            if let Some(change) = change {
                writeln!(out, "    {change}")?;
            }
        }
        match bad {
            0 => writeln!(out, "ok: {} looked at", plural(findings.len(), "thing"))?,
            _ => eprintln!("{}", plural(bad, "problem")),
        }
    }
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn resolve(addr: &str) -> Result<SocketAddr> {
    let mut found = addr.to_socket_addrs().with_context(|| format!("{addr} is no address"))?;
    found.next().with_context(|| format!("{addr} is no address"))
}

fn open_files() -> Finding {
    let what = "open files";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        // The broker raises its own limit as far as it may.
        Ok((_, most)) if most >= FILES_WANTED => Finding::ok(what, format!("up to {most}")),
        Ok((_, most)) => Finding::not(
            what,
            Verdict::Warning,
            format!("up to {most}: a connection and a consume queue are one each"),
            format!("`ulimit -Hn {FILES_WANTED}`, or `LimitNOFILE={FILES_WANTED}` in the systemd unit"),
        ),
        Err(error) => Finding::not(what, Verdict::Unknown, error.to_string(), "see `ulimit -Hn`"),
    }
}

/// What this process may use: the control group's limit, or the machine's memory that is free.
fn memory() -> Finding {
    let what = "memory";
    let available = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_bytes(&text));
    let Some(available) = available else {
        let found = "/proc/meminfo tells nothing".to_owned();
        return Finding::not(
            what,
            Verdict::Unknown,
            found,
            format!("have {} free", ByteSize::b(MEMORY_WANTED)),
        );
    };
    let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    let usable = limit.unwrap_or(u64::MAX).min(available);
    let found = match limit.filter(|limit| *limit < available) {
        Some(limit) => format!("the control group allows {}", ByteSize::b(limit)),
        None => format!("{} available", ByteSize::b(available)),
    };
    if usable >= MEMORY_WANTED {
        return Finding::ok(what, found);
    }
    let change = format!(
        "`sluice run` and `sluice connect` hold 1 GiB of rows at most: give them less by `--memory`, or have {} free",
        ByteSize::b(MEMORY_WANTED)
    );
    Finding::not(what, Verdict::Warning, found, change)
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Whether the clock was set, and whether somebody keeps it right, as far as that shows.
fn clock(now_ms: i64) -> Finding {
    let what = "clock";
    let found = crate::show::time_text(now_ms);
    if now_ms < CLOCK_MIN_MS {
        let change = "set it: store times, delays and retention go by it";
        return Finding::not(what, Verdict::Bad, found, change);
    }
    if Path::new("/run/systemd/timesync/synchronized").exists() {
        return Finding::ok(what, format!("{found}, kept right by systemd-timesyncd"));
    }
    let keepers = ["/run/chrony", "/run/chronyd.pid", "/run/ntpd.pid", "/run/openntpd.pid"];
    if keepers.iter().any(|path| Path::new(path).exists()) {
        return Finding::ok(what, format!("{found}, and a service that keeps it right"));
    }
    let change = "run chrony or systemd-timesyncd, unless the host of this container does: delayed messages are late or early with \
                  the clock";
    Finding::not(what, Verdict::Unknown, format!("{found}; who keeps it right does not show"), change)
}

/// The nearest folder that is there, at or above a path.
fn nearest(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.ancestors().find(|folder| folder.is_dir()).map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

fn disk(data_dir: &Path) -> Vec<Finding> {
    let (what, folder) = ("disk", nearest(data_dir));
    let shown = data_dir.display();
    let mut findings = Vec::new();
    match statvfs(&folder) {
        Ok(told) => {
            let free = told.blocks_available().saturating_mul(told.fragment_size());
            let found = format!("{} free for {shown}", ByteSize::b(free));
            findings.push(if free >= FREE_WANTED {
                Finding::ok(what, found)
            } else {
                let change = format!(
                    "have {} free, or another folder by --data-dir: without space the broker refuses sends",
                    ByteSize::b(FREE_WANTED)
                );
                Finding::not(what, Verdict::Warning, found, change)
            });
            if told.files_available() < 10_000 && told.files() > 0 {
                let found = format!("{} names of files free for {shown}", told.files_available());
                findings.push(Finding::not(
                    what,
                    Verdict::Warning,
                    found,
                    "each queue has a file of its own: make room",
                ));
            }
        }
        Err(error) => {
            let found = format!("{}: {error}", folder.display());
            findings.push(Finding::not(what, Verdict::Unknown, found, "see `df`"));
        }
    }
    findings.push(match sync_time(&folder) {
        Ok(median) if median <= SYNC_SLOW => {
            Finding::ok("disk's sync", format!("{:.2} ms, the median of {SYNCS}", ms(median)))
        }
        Ok(median) => Finding::not(
            "disk's sync",
            Verdict::Warning,
            format!("{:.0} ms, the median of {SYNCS}", ms(median)),
            "`--flush sync` waits for it with each group of messages: use a disk of its own, or one with a cache that keeps power",
        ),
        Err(error) => Finding::not(
            "disk's sync",
            Verdict::Bad,
            format!("{}: {error:#}", folder.display()),
            "give a folder by --data-dir that this user may write",
        ),
    });
    findings
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// How long the disk takes for a page that must be safe: the median.
#[expect(clippy::disallowed_methods, reason = "a time is measured")]
fn sync_time(folder: &Path) -> Result<Duration> {
    let file = tempfile::tempfile_in(folder).context("cannot write a file")?;
    file.set_len(4096 * SYNCS as u64)?;
    file.sync_all().context("cannot sync a file")?;
    let mut times = Vec::with_capacity(SYNCS);
    for number in 0..SYNCS as u64 {
        file.write_all_at(&[1; 4096], number * 4096)?;
        let began = Instant::now();
        file.sync_data().context("cannot sync a file")?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times.get(SYNCS / 2).copied().unwrap_or_default())
}

fn port(what: &'static str, addr: SocketAddr) -> Finding {
    match TcpListener::bind(addr) {
        Ok(_) => Finding::ok(what, format!("{addr} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Finding::not(
            what,
            Verdict::Warning,
            format!("{addr} is taken"),
            "by a broker that runs already, or end what listens there, or give another port by --listen",
        ),
        Err(error) => Finding::not(
            what,
            Verdict::Bad,
            format!("cannot listen at {addr}: {error}"),
            "give an address of this machine, and a port that this user may take",
        ),
    }
}

/// Whether clients of other machines would be told an address that they can reach.
fn address(listen: SocketAddr, advertise: Option<&str>) -> Finding {
    let what = "address for clients";
    if let Some(advertise) = advertise {
        return match resolve(advertise) {
            Ok(addr) if addr.ip().is_loopback() && !listen.ip().is_loopback() => Finding::not(
                what,
                Verdict::Warning,
                format!("{advertise} is loopback: other machines reach themselves there"),
                "give one by --advertise that they can reach",
            ),
            Ok(addr) => Finding::ok(what, format!("{advertise} is {addr} from here")),
            Err(error) => Finding::not(
                what,
                Verdict::Bad,
                format!("{error:#}"),
                "give one by --advertise that has an address",
            ),
        };
    }
    if listen.ip().is_loopback() {
        return Finding::ok(what, format!("{listen}: for this machine alone"));
    }
    if !listen.ip().is_unspecified() {
        return Finding::ok(what, listen.to_string());
    }
    match way_out() {
        Some(ip) => Finding::not(
            what,
            Verdict::Warning,
            format!(
                "clients are told the one by which they reach the name server; the way out of this machine is {ip}"
            ),
            format!(
                "in a container or behind NAT, give --advertise with one that they can reach, for example {ip}:{}",
                listen.port()
            ),
        ),
        None => Finding::not(
            what,
            Verdict::Warning,
            "this machine has no way out".to_owned(),
            "give --advertise HOST:PORT with an address that clients can reach",
        ),
    }
}

/// The address of the interface that leads out; sends nothing.
fn way_out() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // An address for documentation (RFC 5737): only the route is looked up.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_available_memory_is_read_in_bytes() {
        let text = "MemTotal:       24000000 kB\nMemFree: 1 kB\nMemAvailable:   22000000 kB\n";
        assert_eq!(available_bytes(text), Some(22_000_000 * 1024));
        assert_eq!(available_bytes("MemAvailable: lots\n"), None);
    }

    #[test]
    fn a_port_that_somebody_holds_is_no_reason_to_end_and_a_foreign_address_is() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(port("port", held.local_addr().unwrap()).verdict == Verdict::Warning);
        assert!(port("port", "192.0.2.1:1".parse().unwrap()).verdict == Verdict::Bad);
    }

    #[test]
    fn an_address_that_others_can_not_reach_is_told() {
        let listen = "0.0.0.0:10911".parse().unwrap();
        assert!(address(listen, Some("127.0.0.1:10911")).verdict == Verdict::Warning);
        assert!(address(listen, Some("no such name:1")).verdict == Verdict::Bad);
        assert!(address(listen, Some("192.0.2.7:10911")).verdict == Verdict::Ok);
        assert!(address("127.0.0.1:10911".parse().unwrap(), None).verdict == Verdict::Ok);
    }

    #[test]
    fn a_clock_that_was_never_set_is_bad() {
        assert!(clock(0).verdict == Verdict::Bad);
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_tried_above() {
        let place = tempfile::tempdir().unwrap();
        let findings = disk(&place.path().join("a/b/c"));
        assert!(findings.iter().all(|f| f.verdict != Verdict::Bad));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "nothing is left behind");
    }
}

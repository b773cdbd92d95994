//! What a broker is started with: by flags, and by a file whose keys are the flags' names.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Deserialize;
use sluice_broker::TransactionCheck;
use sluice_client::SecretKey;
use sluice_connect::config::{Problem, Span, tree::Node};
use sluice_protocol::delay::Levels;

use super::accounts::AclSettings;
use super::guard::{TlsFiles, exposed};
use crate::load;

/// Each field is a flag and a key. What neither says has the default that its text names.
#[derive(Args, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BrokerSettings {
    /// Folder of the store [default: ./sluice-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Where the broker listens; every interface by 0.0.0.0:PORT, any free port by port 0 [default: 127.0.0.1:10911]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<HostPort>,
    /// Where its name server listens [default: the same host, port 9876]
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "namesrv")]
    pub(crate) namesrv_listen: Option<HostPort>,
    /// Name servers elsewhere to join, with semicolons between; then none is started here
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) namesrv: Option<NameServers>,
    /// The address that clients are told, where it is not the one that the broker listens at
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<HostPort>,
    /// The broker's name; unique among the brokers of its name servers [default: broker-a]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The name of its cluster [default: DefaultCluster]
    #[arg(long)]
    pub(crate) cluster: Option<String>,
    /// When messages are acknowledged: written (async), or durable against power loss (sync) [default: async]
    #[arg(long)]
    pub(crate) flush: Option<FlushMode>,
    /// Whether a send makes a topic that does not exist, instead of being refused [default: true]
    #[arg(long, value_name = "BOOL")]
    pub(crate) auto_create: Option<bool>,
    /// Serve what is counted for Prometheus, at http://HOST:PORT/metrics [default: nowhere]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics: Option<HostPort>,
    /// Drop segments whose messages are older than this many hours [default: keep all]
    #[arg(long, value_name = "HOURS")]
    pub(crate) retain_hours: Option<u32>,
    /// How long messages with a delay level wait, from level 1 on, such as "1s 5s 10s"; a list in the file. It holds for
    /// messages that wait already, too [default: RocketMQ's 18 levels, 1s to 2h]
    #[arg(long, value_name = "TIMES")]
    pub(crate) delay_levels: Option<DelayLevels>,
    /// When producers are asked how their transactions end.
    #[arg(skip)]
    pub(crate) transaction_check: Option<CheckSettings>,
    /// Take signed requests only: of the accounts in this file, RocketMQ's plain_acl.yml; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub(crate) acl: Option<AclSettings>,
    #[command(flatten)]
    pub(crate) tls: TlsFiles,
    /// Listen for other machines although everybody on them could do everything [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) allow_anonymous: Option<bool>,
    /// How it signs, and speaks TLS, to name servers elsewhere: a secret has no flag.
    #[arg(skip)]
    pub(crate) namesrv_access: Option<NameServerAccess>,
}

/// How the broker gets into name servers elsewhere.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NameServerAccess {
    /// An account of theirs with `admin: true`; beside its `secret_key`.
    pub(crate) access_key: Option<String>,
    pub(crate) secret_key: Option<SecretKey>,
    /// Authorities that their certificates are checked by (PEM); then it speaks TLS.
    pub(crate) ca: Option<PathBuf>,
}

/// When producers are asked how transactions end of which nobody told; what is not said is as of RocketMQ.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CheckSettings {
    /// Not before the transaction is so old; 6s.
    after: Option<Span>,
    /// How often; 30s.
    every: Option<Every>,
    /// How many times; 15. Then its message goes to TRANS_CHECK_MAX_TIME_TOPIC.
    times: Option<u32>,
}

impl CheckSettings {
    pub(crate) fn check(self) -> TransactionCheck {
        let default = TransactionCheck::default();
        TransactionCheck {
            after: self.after.map_or(default.after, |Span(after)| after),
            every: self.every.map_or(default.every, |Every(every)| every),
            times: self.times.unwrap_or(default.times),
        }
    }
}

/// A length of time between two looks.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "Span")]
struct Every(Duration);

impl TryFrom<Span> for Every {
    type Error = String;

    fn try_from(Span(every): Span) -> Result<Self, String> {
        if every >= Duration::from_millis(100) {
            return Ok(Self(every));
        }
        Err(format!("{every:?} is too often: 100ms is the least"))
    }
}

/// When messages are acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FlushMode {
    /// Acknowledged when written; a power loss can take the last half second
    Async,
    /// Acknowledged when durable
    Sync,
}

/// `host:port`; nobody was asked whether there is such a host.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct HostPort(pub(crate) String);

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_fine =
            text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if is_fine { Ok(Self(text.to_owned())) } else { Err(format!("`{text}` is not HOST:PORT")) }
    }
}

impl TryFrom<String> for HostPort {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Addresses of name servers.
#[derive(Clone, Default, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct NameServers(pub(crate) Vec<String>);

impl FromStr for NameServers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let addrs = text.split(';').map(|addr| addr.trim().parse().map(|HostPort(addr)| addr));
        addrs.collect::<Result<_, _>>().map(Self)
    }
}

impl TryFrom<String> for NameServers {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The delay levels of a broker.
#[derive(Clone, Deserialize)]
#[serde(try_from = "Vec<Span>")]
pub(crate) struct DelayLevels(pub(crate) Levels);

impl FromStr for DelayLevels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let spans = text.split_whitespace().map(|time| Span::try_from(time.to_owned()));
        spans.collect::<Result<Vec<Span>, _>>()?.try_into()
    }
}

impl TryFrom<Vec<Span>> for DelayLevels {
    type Error = String;

    fn try_from(spans: Vec<Span>) -> Result<Self, String> {
        let ms = |span: &Span| i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX);
        let levels: Vec<i64> = spans.iter().map(ms).collect();
        Levels::new(&levels).map(Self).map_err(|error| error.to_string())
    }
}

impl BrokerSettings {
    /// Reads a file, or tells all that is wrong in it; also gives where its keys stand.
    pub(crate) fn read(file: &Path) -> Result<(Self, Node)> {
        let told = |problems: Vec<Problem>| {
            let problems: Vec<_> = problems.into_iter().map(|p| (file.to_owned(), p)).collect();
            load::not_right(&problems)
        };
        let (settings, tree): (Self, _) = load::settings(file).map_err(told)?;
        let problem = |path: &str, message: &str| {
            let keys: Vec<&str> = path.split('.').collect();
            Problem { place: tree.locate(&keys), path: path.to_owned(), message: message.to_owned() }
        };
        let mut problems = Vec::new();
        if settings.namesrv.is_some() && settings.namesrv_listen.is_some() {
            let message =
                "stands beside `namesrv`: name servers elsewhere are joined, or one is started here";
            problems.push(problem("namesrv_listen", message));
        }
        problems.extend(settings.acl.iter().flat_map(|acl| acl.problems(&tree, &["acl"])));
        problems.extend(settings.tls.problem(&tree, &["tls"]));
        if let Some(access) = &settings.namesrv_access {
            if access.access_key.is_some() != access.secret_key.is_some() {
                problems.push(problem("namesrv_access", "`access_key` and `secret_key` stand together"));
            }
            if settings.namesrv.is_none() {
                problems.push(problem(
                    "namesrv_access",
                    "says how to get into the name servers of `namesrv`, which is not said",
                ));
            }
        }
        if problems.is_empty() { Ok((settings, tree)) } else { Err(told(problems)) }
    }

    /// What is wrong with where it listens, as far as addresses are written as numbers: the key, and why.
    pub(crate) fn exposed(&self) -> Option<(&'static str, String)> {
        if self.allow_anonymous == Some(true) {
            return None;
        }
        let of = |key, addr: &Option<HostPort>| {
            let HostPort(addr) = addr.as_ref()?;
            Some((key, exposed(addr.parse().ok()?, self.acl.is_some(), &self.tls)?))
        };
        of("listen", &self.listen).or_else(|| of("namesrv_listen", &self.namesrv_listen))
    }

    /// What is said here, and where nothing is said, what the file says.
    pub(crate) fn or(self, file: Self) -> Self {
        let says_names = self.namesrv.is_some() || self.namesrv_listen.is_some();
        Self {
            data_dir: self.data_dir.or(file.data_dir),
            listen: self.listen.or(file.listen),
            // The two exclude each other, so a flag of either wins over both keys.
            namesrv_listen: self.namesrv_listen.or(file.namesrv_listen.filter(|_| !says_names)),
            namesrv: self.namesrv.or(file.namesrv.filter(|_| !says_names)),
            advertise: self.advertise.or(file.advertise),
            name: self.name.or(file.name),
            cluster: self.cluster.or(file.cluster),
            flush: self.flush.or(file.flush),
            auto_create: self.auto_create.or(file.auto_create),
            metrics: self.metrics.or(file.metrics),
            retain_hours: self.retain_hours.or(file.retain_hours),
            delay_levels: self.delay_levels.or(file.delay_levels),
            transaction_check: self.transaction_check.or(file.transaction_check),
            acl: self.acl.or(file.acl),
            tls: self.tls.or(file.tls),
            allow_anonymous: self.allow_anonymous.or(file.allow_anonymous),
            namesrv_access: self.namesrv_access.or(file.namesrv_access),
        }
    }
}

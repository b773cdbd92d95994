//! Sink `arrow_flight`: rows go to an Arrow Flight server by `DoPut`, the columns that a file would have, as they are.
//!
//! Each put is a range of one queue, ended and answered before it counts as written. There is no act that stores rows and a
//! position, so delivery is at least once; every message says in its `app_metadata` which rows it has, so that a server can
//! drop what comes again:
//!
//! `{"pipeline", "topic", "queue", "incarnation", "start", "end"}` with the schema: the offsets that the put accounts for,
//! `end` exclusive. Record batches have `first` and `last` beside them, the offsets of their first and last row, and
//! `rows`. After a failure ranges may be cut in other places.

#[cfg(feature = "arrow_flight")]
mod task;

use std::time::Duration;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_bridges::address::is_loopback;
use sluice_client::{SecretKey, TlsSettings};
use sluice_connect::config::{Delivery, Span, size};
use sluice_connect::target::Target;
use sluice_connect::task::TaskError;

use crate::KeyProblem;
use crate::sink::{Known, Sink};

/// What a program says that has no Arrow Flight in it.
const WITHOUT: &str = "this program was built without Arrow Flight: build it with `--features arrow_flight`";

/// Record batches that are sent, in bytes.
const MESSAGE_BYTES: std::ops::RangeInclusive<u64> = 4096..=1 << 30;
/// How long a put may take.
const TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(1);

/// Settings of sink `arrow_flight`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArrowFlightConfig {
    /// The server: `grpc://HOST:PORT`, or `grpc+tls://HOST:PORT` for TLS.
    pub url: String,
    /// The path of the flight's descriptor, such as `[lake, flights]`; or else `command`.
    #[serde(default)]
    pub path: Vec<String>,
    /// The command of the flight's descriptor, in place of a path.
    #[serde(default)]
    pub command: Option<String>,
    /// A token that requests bear.
    #[serde(default)]
    pub token: Option<SecretKey>,
    /// The account, in place of a token: it is shown once, and requests bear the token that the server gives.
    #[serde(default)]
    pub user: Option<String>,
    /// Its password.
    #[serde(default)]
    pub password: Option<SecretKey>,
    /// How the server is trusted, for `grpc+tls://`.
    #[serde(default)]
    pub tls: Option<TlsSettings>,
    /// The longest record batch that is sent, from 4 KiB to 1 GiB: servers have a limit of their own, of 4 MiB if nothing else
    /// was said. A row above it does not fit.
    #[serde(default = "message_max_default", deserialize_with = "size")]
    #[schemars(with = "String")]
    pub message_max: ByteSize,
    /// How long a put may take until the server's answer, from `100ms` to `1h`.
    #[serde(default = "timeout_default")]
    pub timeout: Span,
}

fn message_max_default() -> ByteSize {
    ByteSize::mib(2)
}

fn timeout_default() -> Span {
    Span(Duration::from_mins(1))
}

impl ArrowFlightConfig {
    /// The server's `HOST:PORT`, and whether it is spoken to by TLS.
    fn address(&self) -> Result<(&str, bool), String> {
        let secure = self.url.strip_prefix("grpc+tls://").map(|address| (address, true));
        let found = secure.or_else(|| self.url.strip_prefix("grpc://").map(|address| (address, false)));
        let is_right = |address: &str| {
            address.rsplit_once(':').is_some_and(|(host, port)| {
                let is_host = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
                !host.is_empty()
                    && host.chars().all(is_host)
                    && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        };
        found.filter(|(address, _)| is_right(address)).ok_or_else(|| {
            format!("`{}` is no address of a server: grpc://HOST:PORT, or grpc+tls://HOST:PORT", self.url)
        })
    }
}

impl Sink for ArrowFlightConfig {
    fn problems(&self, _: Known<'_>) -> Vec<KeyProblem> {
        if !cfg!(feature = "arrow_flight") {
            return vec![(Vec::new(), WITHOUT.to_owned())];
        }
        let mut found = Vec::new();
        let mut tell = |key: &str, problem: String| {
            let path = key.split('.').filter(|key| !key.is_empty()).map(str::to_owned).collect();
            found.push((path, problem));
        };
        let is_secure = match self.address() {
            Ok((_, is_secure)) => is_secure,
            Err(problem) => {
                tell("url", problem);
                true
            }
        };
        if self.tls.is_some() && !is_secure {
            tell("tls", "is for `grpc+tls://`".to_owned());
        }
        match (&self.path[..], &self.command) {
            ([], None) => tell("", "needs a `path` (a list of names) or a `command`".to_owned()),
            ([_, ..], Some(_)) => tell("command", "is in place of `path`: write one of them".to_owned()),
            _ => {}
        }
        match (&self.token, &self.user, &self.password) {
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
                tell("token", "is in place of `user` and `password`".to_owned());
            }
            (None, Some(_), None) => tell("user", "has no `password` beside it".to_owned()),
            (None, None, Some(_)) => tell("password", "has no `user` beside it".to_owned()),
            _ => {}
        }
        let has_secret = self.token.is_some() || self.password.is_some();
        let is_local = self.address().is_ok_and(|(address, _)| {
            is_loopback(address.rsplit_once(':').map_or(address, |(host, _)| host))
        });
        if has_secret && !is_secure && !is_local {
            let told = "would send the secret in clear to another machine: write grpc+tls://";
            tell("url", told.to_owned());
        }
        if let Some(TlsSettings { certificate, key, .. }) = &self.tls
            && certificate.is_some() != key.is_some()
        {
            tell("tls", "`certificate` and `key` belong together".to_owned());
        }
        if !MESSAGE_BYTES.contains(&self.message_max.as_u64()) {
            tell("message_max", format!("{}, expected 4 KiB to 1 GiB", self.message_max));
        }
        if !TIMEOUT.contains(&self.timeout.0) {
            tell("timeout", format!("{:?}, expected 100ms to 1h", self.timeout.0));
        }
        found
    }

    fn shown(&self) -> String {
        let flight = self.command.clone().unwrap_or_else(|| self.path.join("/"));
        format!("flight {flight} of the Arrow Flight server at {}", self.url)
    }

    #[cfg(feature = "arrow_flight")]
    fn open(&self, _: Delivery) -> Result<Target, TaskError> {
        Ok(Target::Transact(Box::new(task::ArrowFlightSink::new(self)?)))
    }

    #[cfg(not(feature = "arrow_flight"))]
    fn open(&self, _: Delivery) -> Result<Target, TaskError> {
        Err(sluice_bridges::without(WITHOUT))
    }

    fn secrets(&self) -> Vec<Vec<&str>> {
        vec![vec!["token"], vec!["password"]]
    }
}

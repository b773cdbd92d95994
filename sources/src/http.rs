//! Source `http`: messages that others send by POST, as JSON or NDJSON. A request is answered once the target has its
//! messages.
//!
//! Who gets another answer, or none, sends again: at least once.

mod body;
mod server;
mod task;

use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_bridges::message::is_reserved;
use sluice_client::SecretKey;
use sluice_connect::config::{Span, size};
use sluice_connect::task::{SourceTask, TaskError};

use crate::source::{BY_A_TOPIC, Beside, Source};
use crate::{KeyProblem, at};

/// Settings of source `http`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Where it listens: `127.0.0.1:8080`. An address that other machines reach needs a `token`.
    pub listen: String,
    /// The path that takes messages. It names the chain, and with it `$topic`: `/orders` is `orders`, and `/` is `http`.
    #[serde(default = "path_default")]
    pub path: String,
    /// What clients show as `Authorization: Bearer TOKEN`, of at least 16 characters; written `${VAR}`.
    #[serde(default)]
    pub token: Option<SecretKey>,
    /// Headers of a request that become properties of its messages, under these names. At most 32, with values of at most
    /// 1 KiB.
    #[serde(default)]
    pub headers: Vec<String>,
    /// The longest body of a request; 64 MiB at most.
    #[serde(default = "body_max_default", deserialize_with = "size")]
    #[schemars(with = "u64")]
    pub body_max: ByteSize,
    /// Messages that were taken and are not in the target yet, at most, and so the most of one request; 1 to 1,000,000.
    /// What comes beyond them is answered with 503.
    #[serde(default = "unacknowledged_default")]
    pub unacknowledged: u32,
    /// Connections at a time, 1 to 10,000; others wait to be accepted.
    #[serde(default = "connections_default")]
    pub connections: u16,
    /// How long a request waits for the target, and how long its body may take to come; 100ms to 1h. Files end when a
    /// request has waited for half of it.
    #[serde(default = "timeout_default")]
    pub timeout: Span,
}

fn path_default() -> String {
    "/".to_owned()
}

/// The longest body of a message.
fn body_max_default() -> ByteSize {
    ByteSize::mib(4)
}

fn unacknowledged_default() -> u32 {
    10_000
}

fn connections_default() -> u16 {
    256
}

fn timeout_default() -> Span {
    Span(Duration::from_secs(30))
}

/// Names the chain of path `/`.
const NAME: &str = "http";
/// The fewest characters of a token.
const TOKEN_LEN_MIN: usize = 16;
/// The longest path, in bytes.
const PATH_LEN_MAX: usize = 200;
/// Headers that become properties.
const HEADERS_MAX: usize = 32;
/// Bytes of all bodies that were taken and are not in the target yet, and so of one body.
const BYTES_MAX: u64 = 64 * 1024 * 1024;
const UNACKNOWLEDGED_MAX: u32 = 1_000_000;
const CONNECTIONS_MAX: u16 = 10_000;
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
const TIMEOUT_MAX: Duration = Duration::from_hours(1);

impl HttpConfig {
    fn addr(&self) -> Result<SocketAddr, String> {
        let addr: SocketAddr = self.listen.parse().map_err(|_| {
            format!("`{}` is no address with a port, expected one such as 127.0.0.1:8080", self.listen)
        })?;
        if !addr.ip().is_loopback() && self.token.is_none() {
            return Err(format!(
                "{addr} can be reached from other machines, and everybody may send: give a `token`, or listen at 127.0.0.1"
            ));
        }
        Ok(addr)
    }

    /// What names the chain.
    fn name(&self) -> &str {
        match self.path.trim_matches('/') {
            "" => NAME,
            name => name,
        }
    }

    fn path_problem(&self) -> Option<String> {
        let path = &self.path;
        let Some(rest) = path.strip_prefix('/') else {
            return Some(format!("`{path}` is no path, expected one that begins with /"));
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~');
        let is_right = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(is_plain);
        if path.len() > PATH_LEN_MAX || !rest.is_empty() && !rest.split('/').all(is_right) {
            return Some(format!(
                "`{path}` is no path of at most {PATH_LEN_MAX} letters, digits and - _ . ~ between single /"
            ));
        }
        None
    }

    fn header_problem(&self, at: usize, name: &str) -> Option<String> {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(is_token) {
            return Some(format!("`{name}` is no name of a header"));
        }
        if is_reserved(name) {
            return Some(format!("RocketMQ gives property `{name}` a meaning: no header may set it"));
        }
        if name.eq_ignore_ascii_case("authorization") || name.eq_ignore_ascii_case("cookie") {
            return Some(format!("`{name}` holds a secret, which would be stored with each message"));
        }
        let is_again = self.headers.iter().take(at).any(|other| other.eq_ignore_ascii_case(name));
        is_again.then(|| format!("`{name}` stands here twice"))
    }
}

impl Source for HttpConfig {
    fn problems(&self) -> Vec<KeyProblem> {
        let mut found = Vec::new();
        found.extend(self.addr().err().map(|problem| (at("listen"), problem)));
        found.extend(self.path_problem().map(|problem| (at("path"), problem)));
        if let Some(SecretKey(token)) = &self.token
            && (token.len() < TOKEN_LEN_MIN || !token.chars().all(|c| c.is_ascii_graphic()))
        {
            // What is said of a secret's own place is not shown.
            let problem = format!(
                "the `token` has at least {TOKEN_LEN_MIN} characters of ASCII, none of them a blank or a line end"
            );
            found.push((Vec::new(), problem));
        }
        if self.headers.len() > HEADERS_MAX {
            let problem = format!("{} headers, expected at most {HEADERS_MAX}", self.headers.len());
            found.push((at("headers"), problem));
        }
        for (place, name) in self.headers.iter().enumerate() {
            let path = || vec!["headers".to_owned(), format!("[{place}]")];
            found.extend(self.header_problem(place, name).map(|problem| (path(), problem)));
        }
        if !(1..=BYTES_MAX).contains(&self.body_max.as_u64()) {
            let problem = format!("{}, expected 1 B to {}", self.body_max, ByteSize::b(BYTES_MAX));
            found.push((at("body_max"), problem));
        }
        if !(1..=UNACKNOWLEDGED_MAX).contains(&self.unacknowledged) {
            let problem = format!("{} messages, expected 1 to {UNACKNOWLEDGED_MAX}", self.unacknowledged);
            found.push((at("unacknowledged"), problem));
        }
        if !(1..=CONNECTIONS_MAX).contains(&self.connections) {
            let problem = format!("{} connections, expected 1 to {CONNECTIONS_MAX}", self.connections);
            found.push((at("connections"), problem));
        }
        if !(TIMEOUT_MIN..=TIMEOUT_MAX).contains(&self.timeout.0) {
            found.push((at("timeout"), format!("{:?}, expected 100ms to 1h", self.timeout.0)));
        }
        found
    }

    fn open(&self, _: Beside<'_>) -> Result<Box<dyn SourceTask>, TaskError> {
        Ok(task::open(self))
    }

    fn comes_once(&self) -> Option<String> {
        Some(format!(
            "a client sends again what it has no answer for, so rows may come twice after a failure: write \
             `delivery: at_least_once`. To have each message once, have requests named by `Idempotency-Key`, {BY_A_TOPIC}"
        ))
    }

    fn properties(&self) -> Option<Vec<String>> {
        Some(self.headers.clone())
    }

    fn secrets(&self) -> Vec<Vec<&'static str>> {
        vec![vec!["token"]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(rest: &str) -> HttpConfig {
        serde_json::from_value(
            serde_json::from_str(&format!("{{\"listen\": \"127.0.0.1:0\" {rest}}}")).unwrap(),
        )
        .unwrap()
    }

    #[test]
    fn a_path_names_the_chain() {
        for (path, name) in [("/", "http"), ("/orders", "orders"), ("/in/orders.v2", "in/orders.v2")] {
            let config = config(&format!(", \"path\": \"{path}\""));
            assert_eq!((config.name(), config.problems()), (name, Vec::new()));
        }
        for path in ["", "orders", "//", "/a/", "/a//b", "/../a", "/a b", "/%41"] {
            let config = config(&format!(", \"path\": \"{path}\""));
            assert_eq!(config.problems().len(), 1, "{path} was taken");
        }
    }

    #[test]
    fn what_no_header_may_set_is_refused() {
        for name in ["KEYS", "Authorization", "a b", ""] {
            assert_eq!(
                config(&format!(", \"headers\": [\"{name}\"]")).problems().len(),
                1,
                "{name} was taken"
            );
        }
        assert_eq!(config(", \"headers\": [\"x-a\", \"X-A\"]").problems().len(), 1);
        assert!(config(", \"headers\": [\"x-a\", \"traceparent\"]").problems().is_empty());
    }
}

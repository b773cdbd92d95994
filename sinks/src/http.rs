//! Sink `http`: rows are sent by POST, many at once, as NDJSON or as a JSON array of their bodies.
//!
//! A row counts as written once its request is answered with 2xx. What has no answer is sent again: at least once. Each
//! request names the offsets of its rows (`Idempotency-Key`), so that a receiver can leave out what it has.

mod request;
mod task;

use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_bridges::address::is_loopback;
use sluice_client::SecretKey;
use sluice_connect::config::{Delivery, Format, Span, size};
use sluice_connect::target::Target;
use sluice_connect::task::TaskError;

use crate::KeyProblem;
use crate::sink::{Known, Sink};

/// Settings of sink `http`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Where rows go: `https://HOST/PATH`, or `http://…`.
    pub url: String,
    /// What stands in `Authorization: Bearer TOKEN`; written `${VAR}`. By `http://` it goes to this machine only.
    #[serde(default)]
    pub token: Option<SecretKey>,
    /// Other headers of each request, at most 32; secrets are written `${VAR}`.
    #[serde(default)]
    pub headers: BTreeMap<String, SecretKey>,
    /// What a request's body is.
    #[serde(default)]
    pub format: BodyFormat,
    /// How much one request has.
    #[serde(default)]
    pub batch: BatchLimits,
    /// How long a request may take; 100ms to 1h.
    #[serde(default = "timeout_default")]
    pub timeout: Span,
}

/// What a request's body is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BodyFormat {
    /// One JSON object a line: `application/x-ndjson`.
    #[default]
    Ndjson,
    /// One array of JSON objects: `application/json`.
    Json,
}

/// How much one request has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BatchLimits {
    /// Rows, 1 to 100,000.
    pub rows: u32,
    /// Bytes of their bodies, 1 B to 64 MiB; a longer body goes alone.
    #[serde(deserialize_with = "size")]
    #[schemars(with = "String")]
    pub bytes: ByteSize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { rows: 1000, bytes: ByteSize::mib(1) }
    }
}

fn timeout_default() -> Span {
    Span(Duration::from_secs(30))
}

const HEADERS_MAX: usize = 32;
const ROWS_MAX: u32 = 100_000;
const BYTES_MAX: u64 = 64 * 1024 * 1024;
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
const TIMEOUT_MAX: Duration = Duration::from_hours(1);

/// Headers that requests have by themselves.
const OWN: [&str; 7] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
    "transfer-encoding",
];

impl HttpConfig {
    /// The URL, whose host is one.
    fn url(&self) -> Result<Url, String> {
        let told = "expected `https://HOST/PATH` or `http://HOST/PATH`";
        // What it holds is not shown: a secret may stand in it.
        let url = Url::parse(&self.url).map_err(|e| format!("no URL ({e}): {told}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(format!("no URL of HTTP: {told}"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "a name and password in a URL are shown in logs: write `token`, or a header".to_owned()
            );
        }
        if url.fragment().is_some() {
            return Err("what stands behind # is never sent".to_owned());
        }
        Ok(url)
    }

    fn header(name: &str, SecretKey(value): &SecretKey) -> Result<(HeaderName, HeaderValue), String> {
        let name: HeaderName = name.parse().map_err(|_| format!("`{name}` is no name of a header"))?;
        if OWN.contains(&name.as_str()) {
            let hint = if name == reqwest::header::AUTHORIZATION { ": write `token`" } else { "" };
            return Err(format!("`{name}` is a header that requests have by themselves{hint}"));
        }
        let mut value: HeaderValue =
            value.parse().map_err(|_| format!("the value of `{name}` can not stand in a header"))?;
        value.set_sensitive(true);
        Ok((name, value))
    }

    fn has_secret(&self) -> bool {
        self.token.is_some() || self.secret_headers().next().is_some()
    }

    /// The headers whose values are secrets by their names.
    fn secret_headers(&self) -> impl Iterator<Item = &str> {
        let is_secret = |name: &&str| {
            let name = name.to_ascii_lowercase();
            ["auth", "cookie", "key", "password", "secret", "token"].iter().any(|word| name.contains(word))
        };
        self.headers.keys().map(String::as_str).filter(is_secret)
    }
}

impl Sink for HttpConfig {
    fn problems(&self, known: Known<'_>) -> Vec<KeyProblem> {
        let at = |path: &[&str]| path.iter().map(|&key| key.to_owned()).collect::<Vec<_>>();
        let mut found = Vec::new();
        match self.url() {
            Err(problem) => found.push((at(&["url"]), problem)),
            Ok(url) if self.has_secret() && url.scheme() == "http" && !is_local(&url) => {
                let problem =
                    "the token, or a header that is a secret, could be read on its way: write `https://…`";
                found.push((at(&["url"]), problem.to_owned()));
            }
            Ok(_) => {}
        }
        if let Some(SecretKey(token)) = &self.token
            && (token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic()))
        {
            // What is said of a secret's own place is not shown.
            found.push((Vec::new(), "the `token` is ASCII, without blanks and line ends".to_owned()));
        }
        if self.headers.len() > HEADERS_MAX {
            let problem = format!("{} headers, expected at most {HEADERS_MAX}", self.headers.len());
            found.push((at(&["headers"]), problem));
        }
        for (name, value) in &self.headers {
            found.extend(Self::header(name, value).err().map(|problem| (at(&["headers"]), problem)));
        }
        if !(1..=ROWS_MAX).contains(&self.batch.rows) {
            let problem = format!("{} rows, expected 1 to {ROWS_MAX}", self.batch.rows);
            found.push((at(&["batch", "rows"]), problem));
        }
        if !(1..=BYTES_MAX).contains(&self.batch.bytes.as_u64()) {
            let problem = format!("{}, expected 1 B to {}", self.batch.bytes, ByteSize::b(BYTES_MAX));
            found.push((at(&["batch", "bytes"]), problem));
        }
        if !(TIMEOUT_MIN..=TIMEOUT_MAX).contains(&self.timeout.0) {
            found.push((at(&["timeout"]), format!("{:?}, expected 100ms to 1h", self.timeout.0)));
        }
        let kind = match known.format {
            None | Some(Format::Json) => None,
            Some(Format::Csv(_)) => Some("CSV"),
            Some(Format::Avro(_)) => Some("Avro"),
            Some(Format::Protobuf(_)) => Some("Protobuf"),
            Some(Format::Raw) => Some("bytes of any kind"),
        };
        if let Some(kind) = kind {
            let problem = format!(
                "bodies are sent as they are, and must be JSON, not {kind}: add a step that makes columns, as in \
                 `steps: [{{select: {{columns: [\"$.*\"]}}}}]`, by which they become JSON"
            );
            found.push((at(&["format"]), problem));
        }
        found
    }

    fn shown(&self) -> String {
        match self.url() {
            // A path may be a secret, as of hooks.
            Ok(mut url) => {
                url.set_query(None);
                url.set_path("");
                format!("requests to {url}")
            }
            Err(_) => "requests to a URL that is not right".to_owned(),
        }
    }

    fn open(&self, _: Delivery) -> Result<Target, TaskError> {
        Ok(Target::Transact(Box::new(task::HttpSink::new(self)?)))
    }

    fn check(&self, _: Delivery) -> Result<String, TaskError> {
        task::check(self)
    }

    fn takes_messages(&self) -> bool {
        true
    }

    fn no_route(&self) -> Option<&'static str> {
        Some("a sink by HTTP has one URL: write a pipeline for each, with `where`")
    }

    fn secrets(&self) -> Vec<Vec<&str>> {
        let headers = self.secret_headers().map(|name| vec!["headers", name]);
        std::iter::once(vec!["token"]).chain(headers).collect()
    }
}

/// Whether a URL's host is this machine.
fn is_local(url: &Url) -> bool {
    url.host_str().is_some_and(is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        let config: HttpConfig = serde_saphyr::from_str(text).unwrap();
        config
            .problems(Known::default())
            .into_iter()
            .map(|(path, problem)| format!("{}: {problem}", path.join(".")))
            .collect()
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(told("{url: 'http://127.0.0.1:1/in'}"), [""; 0]);
        assert_eq!(told("{url: 'https://x.example/in?a=1', token: abc, headers: {x-a: b}}"), [""; 0]);
        assert_eq!(told("{url: 'http://localhost/', token: abc}"), [""; 0]);
        for (text, key, part) in [
            ("{url: nowhere}", "url", "expected `https://HOST/PATH`"),
            ("{url: 'ftp://x.example/'}", "url", "no URL of HTTP"),
            ("{url: 'http://a:b@x.example/'}", "url", "shown in logs"),
            ("{url: 'http://x.example/', token: abc}", "url", "read on its way"),
            ("{url: 'http://[::1]/', token: 'a b'}", "", "without blanks"),
            ("{url: 'http://[::1]/', headers: {Authorization: b}}", "headers", "write `token`"),
            ("{url: 'http://[::1]/', headers: {'a b': b}}", "headers", "no name of a header"),
            ("{url: 'http://[::1]/', headers: {a: \"b\\nc\"}}", "headers", "can not stand"),
            ("{url: 'http://[::1]/', batch: {rows: 0}}", "batch.rows", "1 to 100000"),
            ("{url: 'http://[::1]/', batch: {bytes: 1GiB}}", "batch.bytes", "64.0 MiB"),
            ("{url: 'http://[::1]/', timeout: 1ms}", "timeout", "100ms to 1h"),
        ] {
            let found = told(text);
            assert!(
                found.len() == 1 && found[0].starts_with(&format!("{key}: ")) && found[0].contains(part),
                "{text}: {found:?}"
            );
        }
        let config: HttpConfig = serde_saphyr::from_str("{url: 'https://x.example/in?key=secret'}").unwrap();
        assert_eq!(config.shown(), "requests to https://x.example/");
        assert!(
            config.problems(Known { output: None, format: Some(&Format::Raw) })[0].1.contains("become JSON")
        );
    }
}

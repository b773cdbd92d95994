//! Source `amqp091`: a queue of `RabbitMQ`, or of another broker that speaks AMQP 0-9-1.
//!
//! How a message becomes one of ours: `bridges/src/amqp091/mapping.rs`.

#[cfg(feature = "amqp091")]
mod task;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_bridges::address;
use sluice_bridges::amqp091::{WITHOUT, Way, name_problem};
use sluice_client::{SecretKey, TlsSettings};
use sluice_connect::config::size;
use sluice_connect::task::{SourceTask, TaskError};

use crate::source::{Beside, Source};
use crate::topic::Until;
use crate::{KeyProblem, at, queue};

/// Settings of source `amqp091`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Amqp091Config {
    /// The broker: `amqp://HOST:PORT/VHOST`, or `amqps://…` for TLS.
    pub url: String,
    /// The account; `guest` if not said.
    #[serde(default)]
    pub user: Option<String>,
    /// Its password.
    #[serde(default)]
    pub password: Option<SecretKey>,
    /// How the broker is trusted, for `amqps://`.
    #[serde(default)]
    pub tls: Option<TlsSettings>,
    /// The queue, which must be there.
    pub queue: String,
    /// Messages that are handed out and not acknowledged yet, at most.
    #[serde(default = "prefetch_default")]
    pub prefetch: u16,
    /// A message with a longer body is a record that does not fit.
    #[serde(default = "body_max_default", deserialize_with = "size")]
    #[schemars(with = "u64")]
    pub body_max: ByteSize,
    /// When the pipeline ends.
    #[serde(default)]
    pub until: Until,
}

fn prefetch_default() -> u16 {
    10_000
}

fn body_max_default() -> ByteSize {
    ByteSize::mib(16)
}

impl Amqp091Config {
    /// The broker, and how to get in.
    pub fn way(&self) -> Result<Way, String> {
        let password = self.password.as_ref().map(|SecretKey(password)| password.as_str());
        Way::new(&self.url, self.user.as_deref(), password)
    }
}

impl Source for Amqp091Config {
    fn problems(&self) -> Vec<KeyProblem> {
        if !cfg!(feature = "amqp091") {
            return vec![(Vec::new(), WITHOUT.to_owned())];
        }
        let mut found = address::problems(self.way().map(|way| way.address), self.tls.is_some());
        found.extend(name_problem(&self.queue).map(|problem| (at("queue"), problem)));
        if self.prefetch == 0 {
            found.push((at("prefetch"), "0 messages, expected at least 1".to_owned()));
        }
        found
    }

    #[cfg(feature = "amqp091")]
    fn open(&self, _: Beside<'_>) -> Result<Box<dyn SourceTask>, TaskError> {
        Ok(task::open(self))
    }

    #[cfg(not(feature = "amqp091"))]
    fn open(&self, _: Beside<'_>) -> Result<Box<dyn SourceTask>, TaskError> {
        Err(sluice_bridges::without(WITHOUT))
    }

    fn comes_once(&self) -> Option<String> {
        Some(queue::comes_once())
    }

    fn secrets(&self) -> Vec<Vec<&'static str>> {
        vec![vec!["password"]]
    }
}

//! Sink `amqp10`: rows become messages of a queue or topic of `ActiveMQ`, Artemis, or of another broker that speaks
//! AMQP 1.0.
//!
//! A row counts as written once the broker has accepted its message. There is no act that stores messages and a
//! position, so delivery is at least once. How a message becomes one of AMQP: `bridges/src/amqp10/mapping.rs`.

#[cfg(feature = "amqp10")]
mod task;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_bridges::address;
use sluice_bridges::amqp10::{WITHOUT, Way, node_problem};
use sluice_client::{SecretKey, TlsSettings};
use sluice_connect::config::{Delivery, size};
use sluice_connect::target::Target;
use sluice_connect::task::TaskError;

use crate::KeyProblem;
use crate::sink::{Known, Sink};

/// Settings of sink `amqp10`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Amqp10Config {
    /// The broker: `amqp://HOST:PORT`, or `amqps://…` for TLS.
    pub url: String,
    /// The account; as nobody if not said.
    #[serde(default)]
    pub user: Option<String>,
    /// Its password.
    #[serde(default)]
    pub password: Option<SecretKey>,
    /// How the broker is trusted, for `amqps://`.
    #[serde(default)]
    pub tls: Option<TlsSettings>,
    /// The queue or topic, as the broker writes its address.
    pub queue: String,
    /// The longest body that is sent; brokers have a limit of their own.
    #[serde(default = "body_max_default", deserialize_with = "size")]
    #[schemars(with = "u64")]
    pub body_max: ByteSize,
}

fn body_max_default() -> ByteSize {
    ByteSize::mib(16)
}

impl Amqp10Config {
    /// The broker, and how to get in.
    fn way(&self) -> Result<Way, String> {
        let password = self.password.as_ref().map(|SecretKey(password)| password.as_str());
        Way::new(&self.url, self.user.as_deref(), password)
    }
}

impl Sink for Amqp10Config {
    fn problems(&self, _: Known<'_>) -> Vec<KeyProblem> {
        if !cfg!(feature = "amqp10") {
            return vec![(Vec::new(), WITHOUT.to_owned())];
        }
        let at = |key: &str| vec![key.to_owned()];
        let mut found = address::problems(self.way().map(|way| way.address), self.tls.is_some());
        found.extend(node_problem(&self.queue).map(|problem| (at("queue"), problem)));
        found
    }

    fn shown(&self) -> String {
        let place =
            self.way().map_or_else(|_| "a URL that is not right".to_owned(), |way| way.address.to_string());
        format!("queue {} of the AMQP broker at {place}", self.queue)
    }

    #[cfg(feature = "amqp10")]
    fn open(&self, _: Delivery) -> Result<Target, TaskError> {
        Ok(Target::Transact(Box::new(task::Amqp10Sink::new(self)?)))
    }

    #[cfg(not(feature = "amqp10"))]
    fn open(&self, _: Delivery) -> Result<Target, TaskError> {
        Err(sluice_bridges::without(WITHOUT))
    }

    #[cfg(feature = "amqp10")]
    fn check(&self, _: Delivery) -> Result<String, TaskError> {
        task::check(self)
    }

    fn takes_messages(&self) -> bool {
        true
    }

    fn takes_headers(&self) -> bool {
        true
    }

    fn no_route(&self) -> Option<&'static str> {
        Some("a sink by AMQP 1.0 has one queue: write a pipeline for each, with `where`")
    }

    fn secrets(&self) -> Vec<Vec<&str>> {
        vec![vec!["password"]]
    }
}

//! Sink `amqp091`: rows become messages of an exchange of `RabbitMQ`, or of another broker that speaks AMQP 0-9-1.
//!
//! A row counts as written once the broker has confirmed its message. There is no act that stores messages and a
//! position, so delivery is at least once. How a message becomes one of AMQP: `bridges/src/amqp091/mapping.rs`.

#[cfg(feature = "amqp091")]
mod task;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_bridges::address;
use sluice_bridges::amqp091::{NAME_BYTES_MAX, WITHOUT, Way, name_problem};
use sluice_client::{SecretKey, TlsSettings};
use sluice_connect::config::{Delivery, size};
use sluice_connect::target::Target;
use sluice_connect::task::TaskError;

use crate::KeyProblem;
use crate::sink::{Known, Sink};

/// Settings of sink `amqp091`.
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
    /// The queue, which must be there; beside it there is no exchange.
    #[serde(default)]
    pub queue: Option<String>,
    /// The exchange, which must be there.
    #[serde(default)]
    pub exchange: Option<String>,
    /// The routing key of all messages; each message's own property `amqp.routing_key` if not said. Step `route` says it
    /// for each row.
    #[serde(default)]
    pub routing_key: Option<String>,
    /// The longest body that is sent; brokers have a limit of their own.
    #[serde(default = "body_max_default", deserialize_with = "size")]
    #[schemars(with = "u64")]
    pub body_max: ByteSize,
}

fn body_max_default() -> ByteSize {
    ByteSize::mib(16)
}

impl Amqp091Config {
    /// The broker, and how to get in.
    fn way(&self) -> Result<Way, String> {
        let password = self.password.as_ref().map(|SecretKey(password)| password.as_str());
        Way::new(&self.url, self.user.as_deref(), password)
    }
}

impl Sink for Amqp091Config {
    fn problems(&self, _: Known<'_>) -> Vec<KeyProblem> {
        if !cfg!(feature = "amqp091") {
            return vec![(Vec::new(), WITHOUT.to_owned())];
        }
        let at = |key: &str| vec![key.to_owned()];
        let mut found = address::problems(self.way().map(|way| way.address), self.tls.is_some());
        match (&self.queue, &self.exchange) {
            (None, None) => found.push((
                Vec::new(),
                "where messages go is missing: `queue: NAME`, or `exchange: NAME` with a `routing_key`"
                    .to_owned(),
            )),
            (Some(_), Some(_)) => {
                found.push((at("queue"), "beside `exchange`: give one of them".to_owned()));
            }
            (Some(queue), None) => {
                found.extend(name_problem(queue).map(|problem| (at("queue"), problem)));
                if self.routing_key.is_some() {
                    found.push((at("routing_key"), "goes with `exchange`".to_owned()));
                }
            }
            (None, Some(exchange)) => {
                found.extend(name_problem(exchange).map(|problem| (at("exchange"), problem)));
            }
        }
        if self.routing_key.as_ref().is_some_and(|key| key.len() > NAME_BYTES_MAX) {
            found.push((at("routing_key"), format!("expected at most {NAME_BYTES_MAX} bytes")));
        }
        found
    }

    fn shown(&self) -> String {
        let place = self.way().map_or_else(|_| "a URL that is not right".to_owned(), |way| way.shown());
        match (&self.queue, &self.exchange) {
            (Some(queue), _) => format!("queue {queue} of RabbitMQ at {place}"),
            (None, exchange) => {
                format!("exchange {} of RabbitMQ at {place}", exchange.as_deref().unwrap_or_default())
            }
        }
    }

    #[cfg(feature = "amqp091")]
    fn open(&self, _: Delivery) -> Result<Target, TaskError> {
        Ok(Target::Transact(Box::new(task::Amqp091Sink::new(self)?)))
    }

    #[cfg(not(feature = "amqp091"))]
    fn open(&self, _: Delivery) -> Result<Target, TaskError> {
        Err(sluice_bridges::without(WITHOUT))
    }

    #[cfg(feature = "amqp091")]
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
        None
    }

    fn secrets(&self) -> Vec<Vec<&str>> {
        vec![vec!["password"]]
    }
}

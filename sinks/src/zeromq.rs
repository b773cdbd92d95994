//! Sink `zeromq`: rows become messages of PULL or SUB sockets of `ZeroMQ`, sent by PUSH or PUB.
//!
//! A row counts as written once its message is given to the network; nothing is acknowledged, so a peer that dies may not
//! have it. How a message becomes frames: `bridges/src/zeromq/mapping.rs`.

#[cfg(feature = "zeromq")]
mod task;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_bridges::zeromq::{Endpoint, HIGH_WATER_MARK, Kind, WITHOUT};
use sluice_connect::config::Delivery;
use sluice_connect::target::Target;
use sluice_connect::task::TaskError;

use crate::KeyProblem;
use crate::sink::{Known, Sink};

/// Settings of sink `zeromq`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ZeromqConfig {
    /// Where peers come to: `tcp://127.0.0.1:PORT`.
    #[serde(default)]
    pub bind: Option<String>,
    /// The peer to go to: `tcp://HOST:PORT`.
    #[serde(default)]
    pub connect: Option<String>,
    /// The kind of the socket.
    #[serde(default)]
    pub socket: Socket,
    /// Messages that wait for one peer, at most.
    #[serde(default = "high_water_mark_default")]
    pub high_water_mark: u32,
    /// Whether it may be bound beyond loopback, where everybody may read.
    #[serde(default)]
    pub allow_anonymous: bool,
}

/// The kind of a sink's socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Socket {
    /// Each message goes to one PULL socket; the pipeline waits for one.
    #[default]
    Push,
    /// Each message goes to all SUB sockets that asked for it; to nobody, if none has.
    Pub,
}

fn high_water_mark_default() -> u32 {
    HIGH_WATER_MARK
}

impl ZeromqConfig {
    /// PUSH or PUB.
    fn kind(&self) -> Kind {
        match self.socket {
            Socket::Push => Kind::Push,
            Socket::Pub => Kind::Pub,
        }
    }

    fn endpoint(&self) -> Result<Endpoint, (Option<&'static str>, String)> {
        Endpoint::new(self.bind.as_deref(), self.connect.as_deref(), self.allow_anonymous)
    }
}

impl Sink for ZeromqConfig {
    fn problems(&self, _: Known<'_>) -> Vec<KeyProblem> {
        if !cfg!(feature = "zeromq") {
            return vec![(Vec::new(), WITHOUT.to_owned())];
        }
        let at = |key: &str| vec![key.to_owned()];
        let mut found = Vec::new();
        if let Err((key, problem)) = self.endpoint() {
            found.push((key.map(at).unwrap_or_default(), problem));
        }
        if self.high_water_mark == 0 {
            found.push((at("high_water_mark"), "0 messages, expected at least 1".to_owned()));
        }
        found
    }

    fn shown(&self) -> String {
        let place = self.bind.as_deref().or(self.connect.as_deref()).unwrap_or_default();
        format!("{} socket of ZeroMQ at {place}", self.kind().name())
    }

    #[cfg(feature = "zeromq")]
    fn open(&self, _: Delivery) -> Result<Target, TaskError> {
        Ok(Target::Transact(Box::new(task::ZeromqSink::new(self)?)))
    }

    #[cfg(not(feature = "zeromq"))]
    fn open(&self, _: Delivery) -> Result<Target, TaskError> {
        Err(sluice_bridges::without(WITHOUT))
    }

    #[cfg(feature = "zeromq")]
    fn check(&self, _: Delivery) -> Result<String, TaskError> {
        task::check(self)
    }

    fn takes_messages(&self) -> bool {
        true
    }

    fn no_route(&self) -> Option<&'static str> {
        None
    }
}

//! Source `zeromq`: messages of PUSH or PUB sockets of `ZeroMQ`, taken by PULL or SUB.
//!
//! Nothing is acknowledged: what was taken and is not yet in the target is lost when the process dies. How frames become a
//! message: `bridges/src/zeromq/mapping.rs`.

#[cfg(feature = "zeromq")]
mod task;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_bridges::zeromq::{Endpoint, HIGH_WATER_MARK, Kind, WITHOUT};
use sluice_connect::config::size;
use sluice_connect::task::{SourceTask, TaskError};

use crate::source::{Beside, Source};
use crate::{KeyProblem, at};

/// Settings of source `zeromq`.
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
    /// What the first frames of messages begin with, for `sub`; all messages if not said.
    #[serde(default)]
    pub prefixes: Vec<String>,
    /// Messages that wait for the pipeline, at most; then peers wait, or drop.
    #[serde(default = "high_water_mark_default")]
    pub high_water_mark: u32,
    /// A longer message is a record that does not fit.
    #[serde(default = "body_max_default", deserialize_with = "size")]
    #[schemars(with = "u64")]
    pub body_max: ByteSize,
    /// Whether it may be bound beyond loopback, where everybody may send.
    #[serde(default)]
    pub allow_anonymous: bool,
}

/// The kind of a source's socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Socket {
    /// Messages of PUSH sockets, each of which one PULL socket gets.
    #[default]
    Pull,
    /// Messages of PUB sockets, which all SUB sockets get.
    Sub,
}

fn high_water_mark_default() -> u32 {
    HIGH_WATER_MARK
}

fn body_max_default() -> ByteSize {
    ByteSize::mib(16)
}

impl ZeromqConfig {
    /// PULL or SUB.
    pub fn kind(&self) -> Kind {
        match self.socket {
            Socket::Pull => Kind::Pull,
            Socket::Sub => Kind::Sub,
        }
    }

    fn endpoint(&self) -> Result<Endpoint, (Option<&'static str>, String)> {
        Endpoint::new(self.bind.as_deref(), self.connect.as_deref(), self.allow_anonymous)
    }
}

impl Source for ZeromqConfig {
    fn problems(&self) -> Vec<KeyProblem> {
        if !cfg!(feature = "zeromq") {
            return vec![(Vec::new(), WITHOUT.to_owned())];
        }
        let mut found = Vec::new();
        if let Err((key, problem)) = self.endpoint() {
            found.push((key.map(at).unwrap_or_default(), problem));
        }
        if self.socket == Socket::Pull && !self.prefixes.is_empty() {
            found.push((
                at("prefixes"),
                "goes with `socket: sub`: a PULL socket gets all messages".to_owned(),
            ));
        }
        if self.high_water_mark == 0 {
            found.push((at("high_water_mark"), "0 messages, expected at least 1".to_owned()));
        }
        found
    }

    #[cfg(feature = "zeromq")]
    fn open(&self, _: Beside<'_>) -> Result<Box<dyn SourceTask>, TaskError> {
        Ok(task::open(self))
    }

    #[cfg(not(feature = "zeromq"))]
    fn open(&self, _: Beside<'_>) -> Result<Box<dyn SourceTask>, TaskError> {
        Err(sluice_bridges::without(WITHOUT))
    }

    fn comes_once(&self) -> Option<String> {
        let message = "ZeroMQ keeps nothing: a message that was taken is lost when the process dies before the target has it: \
                       write `delivery: at_least_once`, by which the pipeline itself loses none";
        Some(message.to_owned())
    }
}

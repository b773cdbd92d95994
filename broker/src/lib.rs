//! The server: broker and name server in `RocketMQ`'s remoting protocol (4.x and 5.x clients), over a store.
//!
//! Knows no record batch, connector or pipeline, and no command line. Whether a client may do something is decided
//! here; how bytes mean something is decided in `sluice-protocol`, and what is kept in `sluice-store`.

mod ack;
mod assign;
mod broker;
mod connection;
mod dispatch;
mod divert;
mod flusher;
mod group;
mod inspect;
mod lease;
mod lock;
mod long_poll;
mod metrics;
mod name_server;
mod offset;
mod open_files;
mod outlet;
mod pop;
mod pull;
mod query;
mod register;
mod relay;
mod reply;
mod reset;
mod retry;
mod schedule;
mod send;
mod server;
mod subscription;
mod timer;
mod topic;
mod transaction;

use std::net::SocketAddr;

pub use open_files::raise_open_files;
pub use server::{Error, Server};
pub use transaction::TransactionCheck;

/// Port of a name server, as `RocketMQ`'s clients expect it.
pub const NAME_SERVER_PORT: u16 = 9876;
/// Port of a broker, as `RocketMQ` has it.
pub const BROKER_PORT: u16 = 10911;

/// What a broker is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name; unique among those of a name server.
    pub name: String,
    /// The name of its cluster.
    pub cluster: String,
    /// Where it listens; port 0 takes any.
    pub listen: SocketAddr,
    /// `host:port` that clients are told, if it is not where it listens.
    pub advertise: Option<String>,
    /// Name servers elsewhere that it joins, `host:port`.
    pub name_servers: Vec<String>,
    /// Whether a send to a topic that is not there makes it.
    pub auto_create_topics: bool,
    /// When producers are asked how their transactions end.
    pub transaction_check: TransactionCheck,
}

impl Settings {
    /// A broker on loopback with `RocketMQ`'s names and port.
    pub fn local() -> Self {
        Self {
            name: "broker-a".to_owned(),
            cluster: "DefaultCluster".to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], BROKER_PORT)),
            advertise: None,
            name_servers: Vec::new(),
            auto_create_topics: true,
            transaction_check: TransactionCheck::default(),
        }
    }

    /// `host:port` that clients are told.
    pub(crate) fn address(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.to_string())
    }
}

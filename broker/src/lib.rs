//! The server: broker and name server in `RocketMQ`'s remoting protocol (4.x and 5.x clients), over a store.
//!
//! Knows no record batch, connector or pipeline, and no command line. Whether a client may do something is decided
//! here; how bytes mean something is decided in `sluice-protocol`, and what is kept in `sluice-store`.

mod access;
mod ack;
mod assign;
mod audit;
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
mod peek;
mod pop;
mod pull;
mod query;
mod register;
mod relay;
mod reply;
mod reset;
mod retry;
mod schedule;
mod security;
mod send;
mod server;
mod socket;
mod subscription;
mod timer;
mod tls;
mod topic;
mod transaction;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

pub use access::{Account, Accounts, Network, Permission};
pub use open_files::raise_open_files;
pub use security::Security;
pub use server::{Error, Server};
pub use sluice_protocol::signature::{Credentials, Secret};
pub use tls::{TlsError, TlsMode, TlsSettings};
pub use transaction::TransactionCheck;

/// Port of a name server, as `RocketMQ`'s clients expect it.
pub const NAME_SERVER_PORT: u16 = 9876;
/// Port of a broker, as `RocketMQ` has it.
pub const BROKER_PORT: u16 = 10911;

/// How a broker registers at name servers elsewhere.
#[derive(Clone, Debug, Default)]
pub struct NameServerWay {
    /// By which it signs, if they have access control.
    pub credentials: Option<Credentials>,
    /// PEM file of the authorities that their certificates are checked by, if they speak TLS.
    pub ca: Option<PathBuf>,
}

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
    /// How it proves to them who it is.
    pub way: NameServerWay,
    /// Access control and TLS of its port, and of its name server's.
    pub security: Arc<Security>,
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
            way: NameServerWay::default(),
            security: Arc::default(),
            auto_create_topics: true,
            transaction_check: TransactionCheck::default(),
        }
    }

    /// `host:port` that clients are told.
    pub(crate) fn address(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.to_string())
    }
}

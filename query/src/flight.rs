//! Arrow Flight SQL: analysts' tools (ADBC, pyarrow, JDBC, DuckDB by them) ask SQL of topics and pipelines by gRPC.
//!
//! Reads only. A ticket is the command that it was made for, so one that is used late or twice is answered by what is
//! there then. Transactions, updates, Substrait and cancelling by handle are not spoken: who closes a stream cancels.

mod answer;
mod connections;
mod gate;
mod metadata;
mod prepared;
mod service;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Identity, ServerTlsConfig};

pub use self::gate::IsToken;
use self::service::Service;
use crate::Engine;

/// A message that a client sends, in bytes: a statement, or the values of a prepared one.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// A message that is sent, in bytes: about 2 MiB, but a row is never split.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Requests at a time of one connection.
const STREAMS_MAX: u32 = 64;
/// The head of a request, in bytes.
const HEAD_BYTES_MAX: u32 = 64 * 1024;
/// A connection is asked so often whether anybody is there, and closed if no answer comes.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_ANSWER_MAX: Duration = Duration::from_secs(20);
/// The stack of a thread that plans and runs: what [`crate::statement`] lets pass fits.
const STACK_BYTES: usize = 64 << 20;

/// How long a connection may take until both sides speak TLS.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// A server's certificate with those that it was signed by, and its private key, in PEM.
#[derive(Clone)]
pub struct Certificate {
    /// The certificate, and those of the authorities between.
    pub chain: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields")]
pub enum Error {
    #[error("cannot serve Flight SQL at {addr}")]
    Listen { addr: SocketAddr, source: std::io::Error },
    #[error("cannot start the threads of Flight SQL")]
    Threads { source: std::io::Error },
    #[error("cannot speak TLS by this certificate and key")]
    Tls { source: tonic::transport::Error },
}

/// A server with threads of its own; dropped, it ends at once, and with it the streams that are open.
pub struct Server {
    addr: SocketAddr,
    runtime: Option<Runtime>,
}

impl Server {
    /// Serves at this address. With `is_token` requests bear a token of which it is true; with a certificate by TLS alone.
    pub fn start(
        engine: Engine,
        listen: SocketAddr,
        is_token: Option<IsToken>,
        certificate: Option<Certificate>,
    ) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("flight")
            .thread_stack_size(STACK_BYTES)
            .build()
            .map_err(|source| Error::Threads { source })?;
        let failed = |source| Error::Listen { addr: listen, source };
        let listener = runtime.block_on(TcpListener::bind(listen)).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let service = FlightServiceServer::new(Service::new(Arc::new(engine)))
            .max_decoding_message_size(REQUEST_BYTES_MAX)
            .max_encoding_message_size(ANSWER_BYTES_MAX);
        let service = InterceptedService::new(service, gate::gate(is_token));
        let mut server = tonic::transport::Server::builder();
        if let Some(Certificate { chain, key }) = certificate {
            let tls = ServerTlsConfig::new().identity(Identity::from_pem(chain, key)).timeout(HANDSHAKE_MAX);
            server = server.tls_config(tls).map_err(|source| Error::Tls { source })?;
        }
        let server = server
            .max_concurrent_streams(STREAMS_MAX)
            .http2_max_header_list_size(HEAD_BYTES_MAX)
            .http2_keepalive_interval(Some(PING_EVERY))
            .http2_keepalive_timeout(Some(PING_ANSWER_MAX))
            .add_service(service);
        runtime.spawn(async move {
            if let Err(error) = server.serve_with_incoming(connections::accepted(listener)).await {
                tracing::error!(%error, "Flight SQL has ended");
            }
        });
        Ok(Self { addr, runtime: Some(runtime) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

//! The HTTP server: as many connections as there is room for, each closed when it is silent, and bodies of a bounded size.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::{Router, middleware};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower_service::Service as _;

use crate::fault;
use crate::guard::{self, Guard};

/// Connections at a time; others wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// One that asks nothing for so long is closed.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// The head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The body of a request, in bytes: a pipeline's document and its envelope.
pub(crate) const BODY_BYTES_MAX: usize = sluice_connect::config::tree::FILE_BYTES_MAX + 64 * 1024;
/// After the listener failed, for example because there are too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields")]
pub enum Error {
    #[error("cannot serve HTTP at {addr}")]
    Listen { addr: SocketAddr, source: std::io::Error },
    /// It would be open to everybody.
    #[error(
        "{addr} can be reached from other machines, and {what}: give a token by `{option}`, or listen at 127.0.0.1"
    )]
    Open { addr: SocketAddr, what: &'static str, option: &'static str },
    #[error("{0}")]
    Token(String),
}

/// Serves until the runtime ends; says where. Must be called within a runtime.
pub async fn serve(addr: SocketAddr, router: Router, guard: Guard) -> Result<SocketAddr, Error> {
    let failed = |source| Error::Listen { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    let router = router
        .fallback(fault::no_path)
        .method_not_allowed_fallback(fault::no_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(Arc::new(guard), guard::pass));
    tokio::spawn(accept(listener, router));
    Ok(addr)
}

async fn accept(listener: TcpListener, router: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // It is closed never.
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, router).await {
                        tracing::debug!(%peer, %error, "an HTTP client is gone");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an HTTP client can not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, router: Router) -> hyper::Result<()> {
    let respond = service_fn(move |request: Request<Incoming>| {
        let mut router = router.clone();
        async move { Ok::<_, Infallible>(router.call(request).await.unwrap_or_else(|never| match never {})) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(SILENCE_MAX).max_buf_size(HEAD_BYTES_MAX);
    http.serve_connection(TokioIo::new(stream), respond).await
}

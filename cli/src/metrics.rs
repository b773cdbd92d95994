//! Serves what a process counts, in Prometheus' text form, at `http://ADDR/metrics`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at a time; one that asks nothing for so long is closed.
const CONNECTIONS_MAX: usize = 16;
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// After the listener failed, for example because there are too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What is served: the text as it is now.
pub(crate) type Render = Arc<dyn Fn() -> String + Send + Sync>;

/// Serves a text; says where. Must be called within a runtime.
pub(crate) async fn serve(addr: SocketAddr, render: Render) -> Result<SocketAddr> {
    let listener =
        TcpListener::bind(addr).await.with_context(|| format!("cannot serve metrics at {addr}"))?;
    let addr = listener.local_addr().with_context(|| format!("cannot serve metrics at {addr}"))?;
    tokio::spawn(accept(listener, render));
    Ok(addr)
}

async fn accept(listener: TcpListener, render: Render) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // It is closed never.
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let render = Arc::clone(&render);
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &render).await {
                        tracing::debug!(%peer, %error, "a reader of metrics is gone");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a reader of metrics can not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, render: &Render) -> hyper::Result<()> {
    let respond = service_fn(async |request: Request<Incoming>| {
        let mut response = Response::new(Full::<Bytes>::default());
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => {
                let text = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4");
                response.headers_mut().insert(CONTENT_TYPE, text);
                *response.body_mut() = render().into();
            }
            _ => *response.status_mut() = StatusCode::NOT_FOUND,
        }
        Ok::<_, Infallible>(response)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(SILENCE_MAX);
    http.serve_connection(TokioIo::new(stream), respond).await
}

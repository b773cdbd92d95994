//! One connection: what one read of the socket brought is handled together and answered with one write.
//!
//! An idle connection holds no buffer. Bytes that are no frame end it, with the reason logged.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use sluice_protocol::frame::Frame;
use tokio::net::TcpStream;

use crate::dispatch::{Service, Turn};
use crate::metrics::{self, Present, Tally};
use crate::outlet::Outlet;
use crate::socket::{Reader, Socket};
use crate::tls::HANDSHAKE;

/// A client that says nothing for this long is gone: they send a heartbeat every 30 s.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// The least and the most that is asked of the socket at once, in bytes.
const READ_BYTES: std::ops::RangeInclusive<usize> = 8 * 1024..=256 * 1024;

/// Serves a connection until it ends.
pub(crate) async fn serve(service: Arc<Service>, stream: TcpStream, peer: SocketAddr, id: u64) {
    // Without it answers wait for more of them.
    let set = stream.set_nodelay(true).and_then(|()| stream.local_addr());
    let local = match set {
        Ok(local) => local,
        Err(error) => return tracing::debug!(%peer, %error, "connection ended before it began"),
    };
    let _present = Present::connection(service.broker.is_some());
    let socket = match service.security.tls() {
        None => Socket::Plain(stream),
        Some(tls) => match tls.accept(stream).await {
            Ok(socket) => socket,
            Err((why, error)) => {
                metrics::refused(why);
                return tracing::warn!(%peer, %error, "connection refused");
            }
        },
    };
    let (mut reader, writer) = socket.into_split();
    let outlet = Arc::new(Outlet::new(id, peer, local, writer));
    let ended = run(&service, &mut reader, &outlet).await;
    outlet.close();
    outlet.end().await;
    service.left(&outlet);
    match ended {
        Ok(reason) => tracing::debug!(%peer, reason, "connection ended"),
        Err(error) => tracing::warn!(%peer, %error, "connection ended"),
    }
}

async fn run(
    service: &Arc<Service>,
    reader: &mut Reader,
    outlet: &Arc<Outlet>,
) -> Result<&'static str, Box<dyn std::error::Error + Send + Sync>> {
    let mut buffer = BytesMut::new();
    let mut want = *READ_BYTES.start();
    let mut tally = Tally::default();
    let mut closed = outlet.closed();
    loop {
        let read = tokio::select! {
            _ = closed.changed() => return Ok("closed"),
            read = tokio::time::timeout(IDLE_MAX, reader.read(&mut buffer, want)) => match read {
                Ok(read) => read,
                Err(_) => return Ok("idle"),
            }
        };
        match read {
            Ok(0) if buffer.is_empty() => return Ok("the client closed it"),
            Ok(0) => return Ok("the client closed it within a frame"),
            Ok(len) if len >= want => want = (want * 2).min(*READ_BYTES.end()),
            Ok(len) if len < want / 4 => want = (want / 2).max(*READ_BYTES.start()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok("reset"),
            // Of a TLS connection that ended without a word.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok("the client is gone"),
            Err(error) => return Err(error.into()),
        }
        let mut turn = Turn::new(service, outlet, &mut tally);
        let mut at = 0;
        let mut fault = None;
        while let Some(rest) = buffer.get(at..) {
            match Frame::decode(rest) {
                Ok(Some((frame, len))) => {
                    turn.handle(&frame);
                    at += len;
                    if turn.is_full() {
                        turn.end().await?;
                        turn = Turn::new(service, outlet, &mut tally);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    fault = Some(error);
                    break;
                }
            }
        }
        buffer.advance(at);
        if buffer.is_empty() {
            buffer = BytesMut::new();
        }
        turn.end().await?;
        if let Some(error) = fault {
            if buffer.first() == Some(&HANDSHAKE) {
                return Err("the client speaks TLS, and this port has no certificate".into());
            }
            return Err(error.into());
        }
    }
}

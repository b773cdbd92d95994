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
use crate::metrics::{Present, Tally};
use crate::outlet::Outlet;

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
    let (reader, writer) = stream.into_split();
    let outlet = Arc::new(Outlet::new(id, peer, local, writer));
    let ended = run(&service, &reader, &outlet).await;
    outlet.close();
    service.left(&outlet);
    match ended {
        Ok(reason) => tracing::debug!(%peer, reason, "connection ended"),
        Err(error) => tracing::warn!(%peer, %error, "connection ended"),
    }
}

async fn run(
    service: &Arc<Service>,
    reader: &tokio::net::tcp::OwnedReadHalf,
    outlet: &Arc<Outlet>,
) -> Result<&'static str, Box<dyn std::error::Error + Send + Sync>> {
    let mut buffer = BytesMut::new();
    let mut want = *READ_BYTES.start();
    let mut tally = Tally::default();
    let mut closed = outlet.closed();
    loop {
        tokio::select! {
            _ = closed.changed() => return Ok("closed"),
            ready = tokio::time::timeout(IDLE_MAX, reader.readable()) => match ready {
                Ok(ready) => ready?,
                Err(_) => return Ok("idle"),
            }
        }
        buffer.reserve(want);
        match reader.try_read_buf(&mut buffer) {
            Ok(0) if buffer.is_empty() => return Ok("the client closed it"),
            Ok(0) => return Ok("the client closed it within a frame"),
            Ok(len) if len >= want => want = (want * 2).min(*READ_BYTES.end()),
            Ok(len) if len < want / 4 => want = (want / 2).max(*READ_BYTES.start()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if buffer.is_empty() {
                    buffer = BytesMut::new();
                }
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok("reset"),
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
            return Err(error.into());
        }
    }
}

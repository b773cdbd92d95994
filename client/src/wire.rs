//! The two tasks of a connection: one writes what waits, one reads and hands on.

use std::hash::Hasher;
use std::mem;
use std::sync::Arc;

use bytes::BytesMut;
use sluice_protocol::code::ResponseCode;
use sluice_protocol::fields::Fields;
use sluice_protocol::frame::{self, FRAME_BYTES_MAX, Frame};
use sluice_protocol::header::{Header, HeaderKind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::connection::{Answer, Response, ServerRequest, Shared};
use crate::error::Error;

/// Bytes that a read takes at least.
const READ_BYTES: usize = 64 << 10;

/// A buffer that grew beyond this is given back after its write, in bytes.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Writes all that waits in one go, until the connection ends.
pub(crate) async fn write(shared: Arc<Shared>, mut half: impl AsyncWrite + Unpin) {
    let mut sending = Vec::new();
    loop {
        shared.written.notified().await;
        loop {
            let (ended, crowded) = {
                let mut state = shared.state();
                mem::swap(&mut state.unsent, &mut sending);
                (state.ended.is_some(), mem::take(&mut state.crowded))
            };
            if crowded {
                shared.room.notify_waiters();
            }
            if ended {
                return;
            }
            if sending.is_empty() {
                break;
            }
            let written = match half.write_all(&sending).await {
                // TLS may hold the end of it back.
                Ok(()) => half.flush().await,
                failed => failed,
            };
            if let Err(error) = written {
                let source = Some(Arc::new(error));
                return shared.end(Error::Lost { address: Arc::clone(&shared.address), source });
            }
            sending.clear();
            if sending.capacity() > KEPT_BYTES_MAX {
                sending = Vec::new();
            }
        }
    }
}

/// Takes frames apart and hands them on, until the connection ends.
pub(crate) async fn read(shared: Arc<Shared>, mut half: impl AsyncRead + Unpin) {
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    let error = loop {
        let wanted = match frame::frame_len(&buffer, FRAME_BYTES_MAX) {
            Ok(len) => len.unwrap_or(0).saturating_sub(buffer.len()),
            Err(source) => break Error::Frame { address: Arc::clone(&shared.address), source },
        };
        buffer.reserve(wanted.max(READ_BYTES));
        let lost = |source| Error::Lost { address: Arc::clone(&shared.address), source };
        match half.read_buf(&mut buffer).await {
            Ok(0) => break lost(None),
            Err(error) => break lost(Some(Arc::new(error))),
            Ok(_) => {}
        }
        let split = split(&mut buffer, &mut frames);
        shared.hand_on(&mut frames);
        if let Err(source) = split {
            break Error::Frame { address: Arc::clone(&shared.address), source };
        }
    };
    shared.end(error);
}

/// Takes all whole frames off the buffer.
fn split(buffer: &mut BytesMut, frames: &mut Vec<Response>) -> Result<(), frame::FrameError> {
    while let Some((Frame { kind, header, .. }, len)) = Frame::decode(buffer)? {
        let body_start = 8 + header.len();
        let bytes = buffer.split_to(len).freeze();
        frames.push(Response { kind, header: bytes.slice(8..body_start), body: bytes.slice(body_start..) });
    }
    Ok(())
}

impl Shared {
    /// Calls whoever waits for these frames.
    fn hand_on(&self, frames: &mut Vec<Response>) {
        let headers: Vec<_> = frames.iter().map(Response::header).collect();
        let mut waiters = Vec::with_capacity(frames.len());
        let crowded = {
            let mut state = self.state();
            for header in &headers {
                let answered = header.as_ref().ok().filter(|header| header.is_response());
                // Without a waiter its time was over.
                waiters.push(answered.and_then(|header| state.pending.remove(&header.opaque)));
            }
            mem::take(&mut state.crowded)
        };
        for ((response, header), pending) in frames.iter().zip(&headers).zip(waiters) {
            match (header, pending) {
                (Ok(header), Some(pending)) => (pending.waiter)(Ok(Answer { header, response })),
                (Ok(header), None) if header.is_response() => {}
                (Ok(header), None) => self.asked(header, response),
                (Err(error), _) => {
                    tracing::warn!(peer = &*self.address, %error, "passed over a frame with a bad header");
                }
            }
        }
        if crowded {
            self.room.notify_waiters();
        }
        drop(headers);
        frames.clear();
    }

    /// Says no to a request that nobody here knows.
    fn refuse(&self, kind: HeaderKind, opaque: i32) {
        let code = ResponseCode::REQUEST_CODE_NOT_SUPPORTED;
        let header = Header::response(code, opaque, Fields::new()).with_remark("not known to this client");
        let mut state = self.state();
        if state.unsent.len() < self.limits.unsent_bytes_max
            && frame::encode(&mut state.unsent, kind, &header, &[]).is_ok()
        {
            drop(state);
            self.written.notify_one();
        }
    }

    /// The peer wants something.
    fn asked(&self, header: &Header<'_>, frame: &Response) {
        if !header.is_one_way() {
            self.refuse(frame.kind, header.opaque);
        }
        (self.on_request)(ServerRequest { address: Arc::clone(&self.address), frame: frame.clone() });
    }
}

/// Hashes our own running numbers, which need no defence.
#[derive(Default)]
pub(crate) struct NumberHash(u64);

impl Hasher for NumberHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn write_i32(&mut self, number: i32) {
        self.0 = u64::from(number.unsigned_abs()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

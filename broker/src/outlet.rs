//! The sending side of a connection: replies collected into one write, from whichever task has them, and requests to
//! the client with its answers.
//!
//! A client that does not read stops its own connection and nobody else's, and holds so much memory at most as it has
//! room: answers that are made beside its connection's task take of it first. Never reads a socket.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sluice_protocol::code::RequestCode;
use sluice_protocol::fields::Fields;
use sluice_protocol::frame::{self, Frame};
use sluice_protocol::header::{Header, HeaderKind};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::reply::Reply;
use crate::socket::Writer;

/// A client that takes no byte for this long is given up.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How long a good-bye may take.
const END_MAX: Duration = Duration::from_secs(1);
/// Bodies up to this many bytes are copied behind their headers: one more slice in a write costs as much.
const COPY_BYTES_MAX: usize = 16 * 1024;
/// Slices of one write.
const SLICES_MAX: usize = 64;
/// Bytes of answers that wait for one client, but for those of the turn that is handled.
const ROOM_BYTES: usize = 4 * 1024 * 1024;

/// A part of a client's room, given back when it is dropped.
pub(crate) type Room = OwnedSemaphorePermit;

/// Frames to be sent together.
#[derive(Default)]
pub(crate) struct Replies {
    head: Vec<u8>,
    /// Bodies that were not copied, each with the length of `head` that goes before it.
    bodies: Vec<(usize, Bytes)>,
    /// Their length, in bytes.
    bodies_bytes: usize,
}

impl Replies {
    /// Adds a frame whose body is some pieces. One that can not be written is told to the client instead.
    pub(crate) fn push(&mut self, kind: HeaderKind, header: &Header<'_>, body: &[Bytes]) {
        let len = body.iter().map(Bytes::len).sum();
        if let Err(error) = frame::encode_head(&mut self.head, kind, header, len) {
            tracing::warn!(%error, opaque = header.opaque, "a response can not be written");
            let code = sluice_protocol::code::ResponseCode::SYSTEM_ERROR;
            let told =
                Header::response(code, header.opaque, Default::default()).with_remark(error.to_string());
            // A short remark fits into any frame.
            let _ = frame::encode_head(&mut self.head, kind, &told, 0);
            return;
        }
        for piece in body {
            if piece.len() <= COPY_BYTES_MAX {
                self.head.extend_from_slice(piece);
            } else {
                self.bodies.push((self.head.len(), piece.clone()));
                self.bodies_bytes += piece.len();
            }
        }
    }

    /// The same answers as refusals; they must have no bodies.
    pub(crate) fn refused(&self, reply: &Reply) -> Self {
        let mut refused = Self::default();
        let mut rest = self.head.as_slice();
        while let Ok(Some((frame, len))) = Frame::decode(rest) {
            if let Ok(header) = frame.header() {
                refused.push(frame.kind, &reply.header(header.opaque), &reply.body);
            }
            rest = rest.get(len..).unwrap_or_default();
        }
        refused
    }

    /// Adds what another one holds.
    pub(crate) fn extend(&mut self, other: Self) {
        let before = self.head.len();
        self.head.extend_from_slice(&other.head);
        self.bodies_bytes += other.bodies_bytes;
        self.bodies.extend(other.bodies.into_iter().map(|(at, body)| (before + at, body)));
    }

    /// Whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_empty()
    }

    /// Their length in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.head.len() + self.bodies_bytes
    }

    fn slices(&self) -> Vec<&[u8]> {
        let mut slices = Vec::with_capacity(2 * self.bodies.len() + 1);
        let mut at = 0;
        for (before, body) in &self.bodies {
            slices.extend(self.head.get(at..*before));
            slices.push(body);
            at = *before;
        }
        slices.extend(self.head.get(at..));
        slices
    }
}

/// The sending side of one connection.
pub(crate) struct Outlet {
    /// A number of its own in this process.
    pub(crate) id: u64,
    /// The client's address.
    pub(crate) peer: SocketAddr,
    /// Our address, as the client reached it.
    pub(crate) local: SocketAddr,
    writer: Mutex<Writer>,
    closed: watch::Sender<bool>,
    /// A permit a byte.
    room: Arc<Semaphore>,
    /// Who waits for the client's answers to requests of ours, by their numbers.
    calls: std::sync::Mutex<HashMap<i32, oneshot::Sender<Reply>>>,
}

impl Outlet {
    pub(crate) fn new(id: u64, peer: SocketAddr, local: SocketAddr, writer: Writer) -> Self {
        let (writer, closed) = (Mutex::new(writer), watch::Sender::new(false));
        let room = Arc::new(Semaphore::new(ROOM_BYTES));
        Self { id, peer, local, writer, closed, room, calls: std::sync::Mutex::default() }
    }

    fn calls(&self) -> std::sync::MutexGuard<'_, HashMap<i32, oneshot::Sender<Reply>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the client something; `None` if it does not answer in time.
    pub(crate) async fn call(
        &self,
        code: RequestCode,
        fields: Fields<'_>,
        body: &[Bytes],
        wait: Duration,
    ) -> Option<Reply> {
        static NUMBER: AtomicI32 = AtomicI32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut request = Replies::default();
        request.push(HeaderKind::Json, &Header::request(code, number, fields), body);
        let (sender, answer) = oneshot::channel();
        self.calls().insert(number, sender);
        let answer = tokio::time::timeout(wait, async {
            self.send(request).await.ok()?;
            answer.await.ok()
        });
        let answer = answer.await.ok().flatten();
        self.calls().remove(&number);
        answer
    }

    /// The client answered a request of ours; nobody waits for an answer that comes late.
    pub(crate) fn answered(&self, header: &Header<'_>, body: &[u8]) {
        let Some(waiting) = self.calls().remove(&header.opaque) else { return };
        let remark = header.remark.as_ref().map(|remark| remark.to_string().into());
        let body = vec![Bytes::copy_from_slice(body)];
        let _ = waiting.send(Reply { code: header.response_code(), remark, body, ..Reply::ok() });
    }

    /// Changes once, when the connection is to end.
    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// Ends the connection.
    pub(crate) fn close(&self) {
        // In this order: who does not see the change finds no room.
        self.room.close();
        self.calls().clear();
        self.closed.send_replace(true);
    }

    /// Says good-bye where that is due, if nobody writes.
    pub(crate) async fn end(&self) {
        if let Ok(mut writer) = self.writer.try_lock() {
            // A client that takes nothing needs no good-bye.
            let _ = tokio::time::timeout(END_MAX, writer.end()).await;
        }
    }

    /// Waits for room for answers of so many bytes; an error if the connection ends meanwhile.
    pub(crate) async fn room(&self, bytes: usize) -> io::Result<Room> {
        let bytes = u32::try_from(bytes.min(ROOM_BYTES)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await;
        room.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Sends frames; an error ends the connection.
    pub(crate) async fn send(&self, replies: Replies) -> io::Result<()> {
        if replies.is_empty() {
            return Ok(());
        }
        let mut writer = self.writer.lock().await;
        if *self.closed.borrow() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let sent = write_all(&mut writer, &replies).await;
        if sent.is_err() {
            self.close();
        }
        sent
    }
}

async fn write_all(writer: &mut Writer, replies: &Replies) -> io::Result<()> {
    let parts = replies.slices();
    let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut rest = slices.as_mut_slice();
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let some = rest.get(..SLICES_MAX).unwrap_or(rest);
        let written = tokio::time::timeout(STALL_MAX, writer.write_vectored(some)).await;
        let written = written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut rest, written);
    }
    if writer.holds_back() {
        let flushed = tokio::time::timeout(STALL_MAX, writer.flush()).await;
        flushed.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    }
    Ok(())
}

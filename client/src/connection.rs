//! One connection to one address: pipelined requests, matched with their responses by number.
//!
//! Requests are encoded into one buffer; a writer sends all that waits there in one write. A reader takes all
//! frames of one read apart without copying and hands each to whoever waits for it. What the peer asks is handed
//! on. Never reconnects; see [`crate::client`] for that.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::fields::Fields;
use sluice_protocol::frame::{self, FRAME_BYTES_MAX, Frame};
use sluice_protocol::header::{Header, HeaderError, HeaderKind, ONE_WAY};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::error::Error;

/// Bytes that a read takes at least.
const READ_BYTES: usize = 64 << 10;

/// A buffer that grew beyond this is given back after its write, in bytes.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// What is done with the response to a request, on the reader's task; must not block.
pub(crate) type Waiter = Box<dyn FnOnce(Result<Answer<'_>, Error>) + Send>;

/// What is done with a request of the peer, on the reader's task; must not block.
pub(crate) type OnRequest = Arc<dyn Fn(ServerRequest) + Send + Sync>;

/// Bounds of one connection.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Most requests without a response at a time; further ones wait.
    pub requests_max: usize,
    /// Most bytes that wait to be written; further requests wait.
    pub unsent_bytes_max: usize,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { requests_max: 8192, unsent_bytes_max: 32 << 20, connect_timeout: Duration::from_secs(3) }
    }
}

/// A request; it gets its number when it is sent.
pub struct Request<'a> {
    header: Header<'a>,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    /// A request with the fields of a header from [`sluice_protocol::request`], and perhaps a body.
    pub fn new(code: RequestCode, fields: Fields<'a>, body: &'a [u8]) -> Self {
        Self { header: Header::request(code, 0, fields), body }
    }

    /// What is asked.
    pub const fn code(&self) -> RequestCode {
        self.header.request_code()
    }
}

/// A response on its way to its waiter.
pub(crate) struct Answer<'a> {
    /// The header, as read.
    pub(crate) header: &'a Header<'a>,
    response: &'a Response,
}

impl Answer<'_> {
    /// The response for keeps.
    fn to_response(&self) -> Response {
        self.response.clone()
    }
}

/// A response, as it came.
#[derive(Clone, Debug)]
pub struct Response {
    kind: HeaderKind,
    header: Bytes,
    /// The body; a slice of what was read from the connection.
    pub body: Bytes,
}

impl Response {
    /// Reads the header.
    pub fn header(&self) -> Result<Header<'_>, HeaderError> {
        Header::decode(self.kind, &self.header)
    }
}

/// What a broker asks of its client, such as code 40.
#[derive(Clone, Debug)]
pub struct ServerRequest {
    /// Who asks.
    pub address: Arc<str>,
    frame: Response,
}

impl ServerRequest {
    /// Reads the header.
    pub fn header(&self) -> Result<Header<'_>, HeaderError> {
        self.frame.header()
    }

    /// The body.
    pub const fn body(&self) -> &Bytes {
        &self.frame.body
    }
}

/// What became of a request that was handed over; the waiter comes back if it will not be called.
pub(crate) enum Pushed {
    /// The waiter will be called.
    Done,
    /// Too much is under way.
    Full(Waiter),
    /// It can not be sent.
    Failed(Error, Waiter),
}

/// A connection; its tasks end when this is dropped.
pub struct Connection {
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
}

struct Shared {
    address: Arc<str>,
    kind: HeaderKind,
    limits: ConnectionLimits,
    state: Mutex<State>,
    /// There is something to write, or the connection ended.
    written: Notify,
    /// There may be room for another request.
    room: Notify,
    on_request: OnRequest,
}

struct State {
    /// Encoded requests that wait for the writer.
    unsent: Vec<u8>,
    pending: HashMap<i32, Pending, BuildHasherDefault<NumberHash>>,
    opaque: i32,
    ended: Option<Error>,
    /// Somebody waits for room.
    crowded: bool,
}

struct Pending {
    deadline: Instant,
    after: Duration,
    request: RequestCode,
    waiter: Waiter,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(
        address: Arc<str>,
        kind: HeaderKind,
        limits: ConnectionLimits,
        on_request: OnRequest,
    ) -> Result<Self, Error> {
        let failed =
            |source: io::Error| Error::Connect { address: Arc::clone(&address), source: Arc::new(source) };
        let stream = tokio::time::timeout(limits.connect_timeout, TcpStream::connect(&*address))
            .await
            .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let (read_half, write_half) = stream.into_split();
        let state =
            State { unsent: Vec::new(), pending: HashMap::default(), opaque: 0, ended: None, crowded: false };
        let shared = Arc::new(Shared {
            address,
            kind,
            limits,
            state: Mutex::new(state),
            written: Notify::new(),
            room: Notify::new(),
            on_request,
        });
        tokio::spawn(write(Arc::clone(&shared), write_half));
        let reader = tokio::spawn(read(Arc::clone(&shared), read_half));
        Ok(Self { shared, reader })
    }

    /// Who is at the other end.
    pub fn address(&self) -> &Arc<str> {
        &self.shared.address
    }

    /// Whether it ended; requests fail then.
    pub fn is_closed(&self) -> bool {
        self.shared.state().ended.is_some()
    }

    /// Sends a request and waits for its response.
    pub async fn call(&self, mut request: Request<'_>, timeout: Duration) -> Result<Response, Error> {
        let (sender, receiver) = oneshot::channel();
        let waiter = Box::new(move |answer: Result<Answer<'_>, Error>| {
            // Nobody listens if the caller gave up.
            let _ = sender.send(answer.map(|answer| answer.to_response()));
        });
        self.push_with_room(&mut request, timeout, waiter).await?;
        receiver.await.unwrap_or_else(|_| Err(self.lost()))
    }

    /// Sends a request that is never answered.
    pub async fn send_one_way(&self, mut request: Request<'_>) -> Result<(), Error> {
        loop {
            let room = self.room();
            {
                let mut state = self.shared.state();
                if let Some(error) = &state.ended {
                    return Err(error.clone());
                }
                if state.unsent.len() < self.shared.limits.unsent_bytes_max {
                    let opaque = state.next_opaque();
                    self.shared.encode(&mut state.unsent, &mut request, opaque, ONE_WAY)?;
                    break;
                }
                state.crowded = true;
            }
            room.await;
        }
        self.shared.written.notify_one();
        Ok(())
    }

    /// Ends when there may be room for a request that there was none for after this was called.
    pub(crate) fn room(&self) -> Notified<'_> {
        self.shared.room.notified()
    }

    /// Hands a request over, now or when there is room.
    pub(crate) async fn push_with_room(
        &self,
        request: &mut Request<'_>,
        timeout: Duration,
        mut waiter: Waiter,
    ) -> Result<(), Error> {
        loop {
            let room = self.room();
            match self.push(request, timeout, waiter) {
                Pushed::Done => return Ok(()),
                Pushed::Failed(error, _) => return Err(error),
                Pushed::Full(back) => waiter = back,
            }
            room.await;
        }
    }

    /// Hands a request over if there is room; never waits.
    pub(crate) fn push(&self, request: &mut Request<'_>, timeout: Duration, waiter: Waiter) -> Pushed {
        let shared = &self.shared;
        let mut state = shared.state();
        if let Some(error) = &state.ended {
            return Pushed::Failed(error.clone(), waiter);
        }
        let full = state.pending.len() >= shared.limits.requests_max
            || state.unsent.len() >= shared.limits.unsent_bytes_max;
        if full {
            state.crowded = true;
            return Pushed::Full(waiter);
        }
        let opaque = state.next_opaque();
        if let Err(error) = shared.encode(&mut state.unsent, request, opaque, 0) {
            return Pushed::Failed(error, waiter);
        }
        let deadline = Instant::now() + timeout;
        state.pending.insert(opaque, Pending { deadline, after: timeout, request: request.code(), waiter });
        drop(state);
        shared.written.notify_one();
        Pushed::Done
    }

    /// Fails the requests whose time is over.
    pub(crate) fn expire(&self, now: Instant) {
        let mut state = self.shared.state();
        let over: Vec<i32> =
            state.pending.iter().filter(|(_, p)| p.deadline <= now).map(|(opaque, _)| *opaque).collect();
        let over: Vec<Pending> = over.iter().filter_map(|opaque| state.pending.remove(opaque)).collect();
        drop(state);
        for Pending { after, request, waiter, .. } in over {
            waiter(Err(Error::Timeout { address: Arc::clone(&self.shared.address), request, after }));
            self.shared.room.notify_waiters();
        }
    }

    /// Ends it; what is under way fails.
    pub(crate) fn close(&self) {
        self.shared.end(self.lost());
    }

    fn lost(&self) -> Error {
        Error::Lost { address: Arc::clone(&self.shared.address), source: None }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
        self.reader.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn encode(
        &self,
        out: &mut Vec<u8>,
        request: &mut Request<'_>,
        opaque: i32,
        flag: i32,
    ) -> Result<(), Error> {
        (request.header.opaque, request.header.flag) = (opaque, flag);
        frame::encode(out, self.kind, &request.header, request.body).map_err(|source| Error::Request {
            address: Arc::clone(&self.address),
            request: request.code(),
            source,
        })
    }

    /// The first reason counts.
    fn end(&self, error: Error) {
        let mut state = self.state();
        let error = state.ended.get_or_insert(error).clone();
        let pending = mem::take(&mut state.pending);
        drop(state);
        self.written.notify_one();
        self.room.notify_waiters();
        for pending in pending.into_values() {
            (pending.waiter)(Err(error.clone()));
        }
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
}

impl State {
    fn next_opaque(&mut self) -> i32 {
        self.opaque = self.opaque.wrapping_add(1) & i32::MAX;
        self.opaque
    }
}

async fn write(shared: Arc<Shared>, mut half: OwnedWriteHalf) {
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
            if let Err(error) = half.write_all(&sending).await {
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

async fn read(shared: Arc<Shared>, mut half: OwnedReadHalf) {
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
struct NumberHash(u64);

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

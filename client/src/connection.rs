//! One connection to one address: pipelined requests, matched with their responses by number.
//!
//! Requests are encoded into one buffer; a writer sends all that waits there in one write. A reader takes all
//! frames of one read apart without copying and hands each to whoever waits for it. What the peer asks is handed
//! on. Never reconnects; see [`crate::client`] for that.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sluice_protocol::code::RequestCode;
use sluice_protocol::fields::Fields;
use sluice_protocol::frame;
use sluice_protocol::header::{Header, HeaderError, HeaderKind, ONE_WAY};
use tokio::net::TcpStream;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::access::Way;
use crate::error::Error;
use crate::wire::{NumberHash, read, write};

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
        Self { requests_max: 32_768, unsent_bytes_max: 32 << 20, connect_timeout: Duration::from_secs(3) }
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
    pub(crate) response: &'a Response,
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
    pub(crate) kind: HeaderKind,
    pub(crate) header: Bytes,
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
    pub(crate) frame: Response,
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

/// What a connection shares with its tasks.
pub(crate) struct Shared {
    pub(crate) address: Arc<str>,
    kind: HeaderKind,
    pub(crate) limits: ConnectionLimits,
    state: Mutex<State>,
    /// There is something to write, or the connection ended.
    pub(crate) written: Notify,
    /// There may be room for another request.
    pub(crate) room: Notify,
    pub(crate) on_request: OnRequest,
    way: Arc<Way>,
}

pub(crate) struct State {
    /// Encoded requests that wait for the writer.
    pub(crate) unsent: Vec<u8>,
    pub(crate) pending: HashMap<i32, Pending, BuildHasherDefault<NumberHash>>,
    opaque: i32,
    pub(crate) ended: Option<Error>,
    /// Somebody waits for room.
    pub(crate) crowded: bool,
}

pub(crate) struct Pending {
    deadline: Instant,
    after: Duration,
    request: RequestCode,
    pub(crate) waiter: Waiter,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(
        address: Arc<str>,
        kind: HeaderKind,
        limits: ConnectionLimits,
        on_request: OnRequest,
        way: Arc<Way>,
    ) -> Result<Self, Error> {
        let failed =
            |source: io::Error| Error::Connect { address: Arc::clone(&address), source: Arc::new(source) };
        let stream = tokio::time::timeout(limits.connect_timeout, TcpStream::connect(&*address))
            .await
            .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let secured = tokio::time::timeout(limits.connect_timeout, way.secure(&address, stream))
            .await
            .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?;
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
            way,
        });
        let reader = match secured {
            Err(plain) => {
                let (read_half, write_half) = plain.into_split();
                tokio::spawn(write(Arc::clone(&shared), write_half));
                tokio::spawn(read(Arc::clone(&shared), read_half))
            }
            Ok(tls) => {
                let (read_half, write_half) = tokio::io::split(tls);
                tokio::spawn(write(Arc::clone(&shared), write_half));
                tokio::spawn(read(Arc::clone(&shared), read_half))
            }
        };
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
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
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
        let signed = self.way.credentials.as_ref().map(|by| by.sign(&request.header, request.body));
        let header = signed.as_ref().unwrap_or(&request.header);
        frame::encode(out, self.kind, header, request.body).map_err(|source| Error::Request {
            address: Arc::clone(&self.address),
            request: request.code(),
            source,
        })
    }

    /// The first reason counts.
    pub(crate) fn end(&self, error: Error) {
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
}

impl State {
    fn next_opaque(&mut self) -> i32 {
        self.opaque = self.opaque.wrapping_add(1) & i32::MAX;
        self.opaque
    }
}

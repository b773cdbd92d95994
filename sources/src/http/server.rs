//! The listener of source `http`: takes requests within bounds, hands their messages to the pipeline, and answers when the
//! target has them, or when that took too long.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Incoming};
use hyper::header::{
    ALLOW, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use sluice_client::SecretKey;
use sluice_connect::task::{Class, TaskError};
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinHandle;

use super::body::{self, Kind, Refusal};
use super::{BYTES_MAX, HttpConfig};

/// The head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// A connection that asks nothing for so long is closed.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// After the listener failed, for example because there are too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Connections that the system holds until they are accepted.
const BACKLOG: u32 = 1024;
/// How long answers may take to be written when the source ends.
const FAREWELL_MAX: Duration = Duration::from_secs(2);
/// Requests of one connection that are refused for who sends them; their answers fit into what a socket holds.
const REFUSALS_MAX: u32 = 16;
/// What a client that is refused for a while is asked to wait, in seconds.
const RETRY_SECONDS: &str = "1";
/// The longest value of a header that becomes a property, or an id, in bytes.
const HEADER_BYTES_MAX: usize = 1024;
/// Names a request, so that its messages have ids of their own.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A request whose messages are on their way. It is answered when the last of them is in the target, or dropped.
pub(super) struct Pending {
    left: AtomicUsize,
    done: Mutex<Option<oneshot::Sender<()>>>,
    _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Pending {
    /// One message more is in the target.
    pub(super) fn stored(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(done) = self.done.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            // Who waited may be gone.
            let _ = done.send(());
        }
    }
}

/// What the messages of a request share.
pub(super) struct Said {
    pub(super) properties: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    /// What the sender calls the request.
    pub(super) key: Option<String>,
    /// When it came, in ms since 1970-01-01 UTC.
    pub(super) at_ms: i64,
}

/// A message that waits for the pipeline.
pub(super) struct Waiting {
    pub(super) request: Arc<Pending>,
    pub(super) said: Arc<Said>,
    /// Its place in the request, from 0.
    pub(super) place: usize,
    pub(super) body: Bytes,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Nobody takes messages any more.
    is_closed: bool,
}

/// What connections and the pipeline share.
struct Shared {
    settings: HttpConfig,
    queue: Mutex<Queue>,
    arrived: Condvar,
    /// Room for messages, and for bytes of bodies.
    room: (Arc<Semaphore>, Arc<Semaphore>),
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener with its connections. When it is dropped all are answered and closed.
pub(super) struct Server {
    shared: Arc<Shared>,
    /// Bound, until it listens.
    socket: Mutex<Option<(TcpSocket, watch::Receiver<bool>)>>,
    accepting: Mutex<Option<JoinHandle<()>>>,
    addr: SocketAddr,
    connections: (Arc<Semaphore>, u32),
    closing: watch::Sender<bool>,
    /// Set until it is dropped.
    runtime: Option<Runtime>,
}

impl Server {
    /// Takes the address, and answers nobody yet: who only looks takes no messages.
    pub(super) fn open(settings: &HttpConfig) -> Result<Self, TaskError> {
        let addr = settings.addr().map_err(|problem| TaskError::new(Class::Config, problem))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("source-http")
            .enable_all()
            .build()
            .map_err(|e| TaskError::io("cannot start a runtime", e))?;
        let socket = bind(addr).map_err(|e| cannot_listen(addr, e))?;
        let messages = usize::try_from(settings.unacknowledged).unwrap_or(usize::MAX);
        let bytes = usize::try_from(BYTES_MAX).unwrap_or(usize::MAX);
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            queue: Mutex::default(),
            arrived: Condvar::new(),
            room: (Arc::new(Semaphore::new(messages)), Arc::new(Semaphore::new(bytes))),
        });
        let connections = Arc::new(Semaphore::new(usize::from(settings.connections)));
        let (closing, closed) = watch::channel(false);
        let (socket, accepting) = (Mutex::new(Some((socket, closed))), Mutex::default());
        let connections = (connections, u32::from(settings.connections));
        Ok(Self { shared, socket, accepting, addr, connections, closing, runtime: Some(runtime) })
    }

    /// Begins to listen, if it does not.
    pub(super) fn listen(&self) -> Result<(), TaskError> {
        let taken = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (Some((socket, closed)), Some(runtime)) = (taken, &self.runtime) else { return Ok(()) };
        let failed = |e| cannot_listen(self.addr, e);
        let _entered = runtime.enter();
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        tracing::info!(%addr, path = self.shared.settings.path, "listening for HTTP");
        let (shared, connections) = (Arc::clone(&self.shared), Arc::clone(&self.connections.0));
        let accepting = runtime.spawn(accept(listener, shared, connections, closed));
        *self.accepting.lock().unwrap_or_else(PoisonError::into_inner) = Some(accepting);
        Ok(())
    }

    /// The next message that is here.
    pub(super) fn next(&self) -> Option<Waiting> {
        self.shared.queue().waiting.pop_front()
    }

    /// Messages that are here.
    pub(super) fn ready(&self) -> usize {
        self.shared.queue().waiting.len()
    }

    /// Waits until a message is here, `timeout` at most.
    pub(super) fn wait(&self, timeout: Duration) {
        let is_empty = |queue: &mut Queue| queue.waiting.is_empty();
        drop(self.shared.arrived.wait_timeout_while(self.shared.queue(), timeout, is_empty));
    }

    /// Takes nothing more; those whose messages nobody has taken yet are told so.
    pub(super) fn close(&self) {
        if let Some(accepting) = &*self.accepting.lock().unwrap_or_else(PoisonError::into_inner) {
            accepting.abort();
        }
        let mut queue = self.shared.queue();
        queue.is_closed = true;
        let left = std::mem::take(&mut queue.waiting);
        drop(queue);
        drop(left);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
        // Each connection ends after its next answer, idle ones at once.
        let _ = self.closing.send(true);
        let Some(runtime) = self.runtime.take() else { return };
        let (connections, all) = &self.connections;
        let gone = async { tokio::time::timeout(FAREWELL_MAX, connections.acquire_many(*all)).await.is_ok() };
        if !runtime.block_on(gone) {
            tracing::warn!("HTTP clients are cut off: they did not take their answers");
        }
        runtime.shutdown_timeout(FAREWELL_MAX);
    }
}

fn bind(addr: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of a run before this one may not be forgotten yet.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

fn cannot_listen(addr: SocketAddr, error: std::io::Error) -> TaskError {
    let class = match error.kind() {
        // Whoever has it may be about to end.
        std::io::ErrorKind::AddrInUse => Class::Retry,
        _ => Class::Config,
    };
    TaskError::new(class, format!("cannot listen at {addr}")).because(error)
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    connections: Arc<Semaphore>,
    closed: watch::Receiver<bool>,
) {
    // It is closed never.
    while let Ok(permit) = Arc::clone(&connections).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (shared, closed) = (Arc::clone(&shared), closed.clone());
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, shared, closed).await {
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

async fn serve(
    stream: TcpStream,
    shared: Arc<Shared>,
    mut closed: watch::Receiver<bool>,
) -> hyper::Result<()> {
    // An answer is one small write, which must not wait for the peer's acknowledgement of another one.
    let _ = stream.set_nodelay(true);
    let refused = Arc::new(AtomicU32::new(0));
    let respond = service_fn(|request: Request<Incoming>| {
        let (shared, refused) = (Arc::clone(&shared), Arc::clone(&refused));
        async move {
            let mut response = match answer(&shared, request).await {
                Ok(stored) => told(StatusCode::OK, &serde_json::json!({ "stored": stored })),
                Err(fault) => fault.into_response(),
            };
            // One who may not send, and reads no answers, could hold the connection once they fill it.
            let is_stranger = matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            let is_tired = is_stranger && refused.fetch_add(1, Ordering::Relaxed) >= REFUSALS_MAX;
            if shared.queue().is_closed || is_tired {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(SILENCE_MAX).max_buf_size(HEAD_BYTES_MAX);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), respond));
    let mut closing = pin!(async move { drop(closed.wait_for(|closed| *closed).await) });
    let mut is_told = false;
    poll_fn(|cx| {
        if !is_told && closing.as_mut().poll(cx).is_ready() {
            is_told = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await
}

/// Why a request is refused.
struct Fault {
    status: StatusCode,
    message: String,
    header: Option<(HeaderName, &'static str)>,
}

impl Fault {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), header: None }
    }

    /// The same request may be taken later.
    fn later(message: impl Into<String>) -> Self {
        let header = Some((RETRY_AFTER, RETRY_SECONDS));
        Self { status: StatusCode::SERVICE_UNAVAILABLE, message: message.into(), header }
    }

    fn into_response(self) -> Response<String> {
        let mut response = told(self.status, &serde_json::json!({ "error": self.message }));
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

fn told(status: StatusCode, body: &serde_json::Value) -> Response<String> {
    let mut response = Response::new(format!("{body}\n"));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Takes a request; gives the number of its messages once the target has them.
async fn answer(shared: &Shared, request: Request<Incoming>) -> Result<usize, Fault> {
    let settings = &shared.settings;
    let (head, body) = request.into_parts();
    check_sender(settings.token.as_ref(), &head.headers)?;
    let path = &settings.path;
    if head.uri.path() != path {
        return Err(Fault::new(StatusCode::NOT_FOUND, format!("nothing is here: messages go to {path}")));
    }
    if head.method != Method::POST {
        let message = format!("{} is not answered here: messages come by POST", head.method);
        let header = Some((ALLOW, "POST"));
        return Err(Fault { status: StatusCode::METHOD_NOT_ALLOWED, message, header });
    }
    let kind = check_kind(&head.headers)?;
    let said = Arc::new(said(settings, &head.headers)?);
    let body_max = settings.body_max.as_u64();
    let announced = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: u64| bytes > body_max) {
        return Err(too_long(body_max));
    }
    if shared.queue().is_closed {
        return Err(ending());
    }
    let time = settings.timeout.0;
    let read = tokio::time::timeout(time, read(shared, body, announced.unwrap_or(0), body_max)).await;
    let slow = |_| Fault::new(StatusCode::REQUEST_TIMEOUT, format!("the body did not come within {time:?}"));
    let (body, bytes) = read.map_err(slow)??;

    let max = usize::try_from(settings.unacknowledged).unwrap_or(usize::MAX);
    let messages = body::messages(kind, &body, max).map_err(|refusal| match refusal {
        Refusal::Wrong(message) => Fault::new(StatusCode::BAD_REQUEST, message),
        Refusal::TooMany => {
            let message = format!("more than {max} messages: send them in several requests");
            Fault::new(StatusCode::PAYLOAD_TOO_LARGE, message)
        }
    })?;
    let count = messages.len();
    if count == 0 {
        return Ok(0);
    }
    let room = Arc::clone(&shared.room.0).try_acquire_many_owned(u32::try_from(count).unwrap_or(u32::MAX));
    let room = room.map_err(|_| full(&format!("{max} messages")))?;
    let (done, stored) = oneshot::channel();
    let (left, done) = (AtomicUsize::new(count), Mutex::new(Some(done)));
    let request = Arc::new(Pending { left, done, _room: (room, bytes) });
    {
        let mut queue = shared.queue();
        if queue.is_closed {
            return Err(ending());
        }
        queue.waiting.extend(messages.into_iter().enumerate().map(|(place, body)| Waiting {
            request: Arc::clone(&request),
            said: Arc::clone(&said),
            place,
            body,
        }));
    }
    drop(request);
    shared.arrived.notify_all();
    match tokio::time::timeout(time, stored).await {
        Ok(Ok(())) => Ok(count),
        Ok(Err(_)) => Err(Fault::later(
            "the pipeline ended or began anew before the target had the messages: send them again",
        )),
        Err(_) => Err(Fault::later(format!(
            "the target did not have the messages within {time:?}; they may be stored later all the same"
        ))),
    }
}

/// Who may send: those who bear the token; without one those on this machine, but no page that a browser shows.
fn check_sender(token: Option<&SecretKey>, headers: &HeaderMap) -> Result<(), Fault> {
    let Some(SecretKey(token)) = token else {
        return if headers.contains_key(ORIGIN) {
            Err(Fault::new(
                StatusCode::FORBIDDEN,
                "a page in a browser may send only where a token is asked for",
            ))
        } else {
            Ok(())
        };
    };
    let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|value| value.split_once(' '));
    let shown = shown.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    if shown.is_some_and(|(_, shown)| bool::from(shown.trim().as_bytes().ct_eq(token.as_bytes()))) {
        return Ok(());
    }
    let message = "expected the header `Authorization: Bearer TOKEN`".to_owned();
    Err(Fault { status: StatusCode::UNAUTHORIZED, message, header: Some((WWW_AUTHENTICATE, "Bearer")) })
}

fn check_kind(headers: &HeaderMap) -> Result<Kind, Fault> {
    let unsupported = |message: String| Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    if let Some(coding) = headers.get(CONTENT_ENCODING).filter(|coding| *coding != "identity") {
        return Err(unsupported(format!("the body is encoded as {coding:?}: send it as it is")));
    }
    // A body without a type could come of any page in a browser.
    let named = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    Kind::of(named).ok_or_else(|| {
        unsupported(format!(
            "the body is `{}`, expected `Content-Type: application/json` or `application/x-ndjson`",
            named.escape_debug()
        ))
    })
}

/// What the headers say of the messages.
fn said(settings: &HttpConfig, headers: &HeaderMap) -> Result<Said, Fault> {
    let mut properties = Vec::with_capacity(settings.headers.len());
    for name in &settings.headers {
        if let Some(value) = value(headers, name)? {
            properties.push((name.clone().into(), value.into()));
        }
    }
    let key = value(headers, IDEMPOTENCY_KEY.as_str())?;
    #[expect(clippy::disallowed_methods, reason = "when a message came; it decides about no row")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Said { properties, key, at_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX) })
}

/// A header's value, those of one that stands several times with commas between; none if it is empty.
fn value(headers: &HeaderMap, name: &str) -> Result<Option<String>, Fault> {
    let mut text = String::new();
    for value in headers.get_all(name) {
        let value = std::str::from_utf8(value.as_bytes())
            .map_err(|_| Fault::new(StatusCode::BAD_REQUEST, format!("the header {name} is no UTF-8")))?;
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(value);
    }
    if text.len() > HEADER_BYTES_MAX {
        let message = format!("the header {name} has {} bytes, over {HEADER_BYTES_MAX}", text.len());
        return Err(Fault::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, message));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// A body of at most `max` bytes, with the room that it takes; what was `announced` is taken before anything is read.
async fn read(
    shared: &Shared,
    mut body: Incoming,
    announced: u64,
    max: u64,
) -> Result<(Bytes, OwnedSemaphorePermit), Fault> {
    let all = &shared.room.1;
    let take = |bytes: usize| {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Arc::clone(all).try_acquire_many_owned(bytes).map_err(|_| full("of bodies"))
    };
    let announced = usize::try_from(announced).unwrap_or(usize::MAX);
    let mut room = take(announced)?;
    let mut read = BytesMut::with_capacity(announced);
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let gone = |e| Fault::new(StatusCode::BAD_REQUEST, format!("the body ended early: {e}"));
        let Ok(data) = frame.map_err(gone)?.into_data() else { continue };
        let len = read.len() + data.len();
        if len as u64 > max {
            return Err(too_long(max));
        }
        if len > room.num_permits() {
            room.merge(take(len - room.num_permits())?);
        }
        read.extend_from_slice(&data);
    }
    Ok((read.freeze(), room))
}

fn too_long(max: u64) -> Fault {
    Fault::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is over the limit of {max} bytes"))
}

fn full(of: &str) -> Fault {
    Fault::later(format!("as much as may wait for the target does ({of}): send this later"))
}

fn ending() -> Fault {
    Fault::later("the pipeline is ending")
}

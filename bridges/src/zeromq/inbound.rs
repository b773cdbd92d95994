//! The half that takes messages: PULL and SUB. Each connection has a task; what came waits in a channel that holds as many
//! messages as the high-water mark says, and 64 MiB. While it is full nothing is read, so that peers wait, or drop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use sluice_connect::task::{Class, TaskError};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use super::wire::{Came, answer, greet, message, receive};
use super::{Endpoint, Kind};

/// Connections at once, at most.
const CONNECTIONS_MAX: usize = 1024;
/// Bytes of messages that wait.
const BYTES_MAX: u32 = 64 * 1024 * 1024;
/// How long a connection may take to stand.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long to wait before a peer that is away is tried again: twice as long each time.
const AGAIN: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];

/// A message's frames, or why it was not taken.
pub type Received = Result<Vec<Vec<u8>>, String>;

/// What a socket takes.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// PULL or SUB.
    pub kind: Kind,
    /// What the first frames of messages begin with, for SUB.
    pub prefixes: Vec<String>,
    /// Messages that wait, at most.
    pub high_water_mark: u32,
    /// Bytes of one message.
    pub message_max: u64,
}

/// Messages of all peers.
pub struct Inbound {
    channel: mpsc::Receiver<(Received, OwnedSemaphorePermit)>,
    /// What came while it was waited for.
    waiting: Option<Received>,
    /// Where it is bound, or where it goes.
    endpoint: Endpoint,
    runtime: Runtime,
}

/// What the tasks of connections share.
struct Shared {
    wanted: Wanted,
    endpoint: Endpoint,
    messages: mpsc::Sender<(Received, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

/// A runtime for the tasks of a socket.
pub(super) fn runtime() -> Result<Runtime, TaskError> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("zeromq")
        .enable_all()
        .build()
        .map_err(|e| TaskError::io("cannot start the threads of a socket", e))
}

/// Binds; a port of 0 becomes that which was given.
pub(super) async fn listen(endpoint: &mut Endpoint) -> Result<TcpListener, TaskError> {
    let told = |error: io::Error| {
        let message = format!("cannot bind to {endpoint}");
        let class = match error.kind() {
            // The run before may not be gone yet.
            io::ErrorKind::AddrInUse => Class::Retry,
            _ => Class::Config,
        };
        TaskError::new(class, message).because(error)
    };
    let listener = TcpListener::bind(endpoint.address.socket()).await.map_err(told)?;
    let port = listener.local_addr().map_err(told)?.port();
    endpoint.address.port = port;
    Ok(listener)
}

/// Connects, and again until it stands.
async fn connected(endpoint: &Endpoint) -> TcpStream {
    let [mut wait, longest] = AGAIN;
    loop {
        match connect(endpoint).await {
            Ok(stream) => return stream,
            Err(error) => tracing::debug!(%endpoint, %error, "a peer is away"),
        }
        sleep(wait).await;
        wait = (wait * 2).min(longest);
    }
}

/// Connects once.
pub(super) async fn connect(endpoint: &Endpoint) -> io::Result<TcpStream> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection in {CONNECT_MAX:?}"));
    timeout(CONNECT_MAX, TcpStream::connect(endpoint.address.socket())).await.map_err(late)?
}

impl Inbound {
    /// Binds, or begins to connect.
    pub fn open(mut endpoint: Endpoint, wanted: Wanted) -> Result<Self, TaskError> {
        let runtime = runtime()?;
        let (messages, channel) = mpsc::channel(wanted.high_water_mark.max(1) as usize);
        let room = Arc::new(Semaphore::new(BYTES_MAX as usize));
        let listener = match endpoint.is_bound {
            true => Some(runtime.block_on(listen(&mut endpoint))?),
            false => None,
        };
        let shared = Arc::new(Shared { wanted, endpoint: endpoint.clone(), messages, room });
        runtime.spawn(serve_peers(endpoint.clone(), listener, move |stream| {
            let shared = Arc::clone(&shared);
            async move { serve(stream, &shared).await }
        }));
        Ok(Self { channel, waiting: None, endpoint, runtime })
    }

    /// Where it is bound, or where it goes.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The next message that is here.
    pub fn try_next(&mut self) -> Result<Option<Received>, TaskError> {
        if let Some(waiting) = self.waiting.take() {
            return Ok(Some(waiting));
        }
        match self.channel.try_recv() {
            Ok((received, _)) => Ok(Some(received)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => {
                Err(TaskError::new(Class::Retry, format!("{}: the socket has ended", self.endpoint)))
            }
        }
    }

    /// Waits until one is here, `longest` at most.
    pub fn wait(&mut self, longest: Duration) {
        if self.waiting.is_none() {
            let next = self.runtime.block_on(async { timeout(longest, self.channel.recv()).await });
            self.waiting = next.ok().flatten().map(|(received, _)| received);
        }
    }
}

/// Serves those that come to the listener, side by side; without one the peer that it goes to, and again when that has gone.
pub(super) async fn serve_peers<F>(
    endpoint: Endpoint,
    listener: Option<TcpListener>,
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let Some(listener) = listener else {
        loop {
            serve(connected(&endpoint).await).await;
            sleep(AGAIN[0]).await;
        }
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let served = serve(stream);
                tokio::spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            // Of the connection, or of this machine's limits.
            Err(error) => {
                tracing::warn!(%endpoint, %error, "cannot take a connection");
                sleep(AGAIN[0]).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, shared: &Shared) {
    let peer = stream.peer_addr().map_or_else(|_| "?".to_owned(), |peer| peer.to_string());
    if let Err(error) = take(stream, shared).await
        && error.kind() != io::ErrorKind::UnexpectedEof
    {
        tracing::warn!(endpoint = %shared.endpoint, peer, %error, "a connection has ended");
    }
}

/// Takes messages until the peer goes.
async fn take(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let Wanted { kind, prefixes, message_max, .. } = &shared.wanted;
    stream.set_nodelay(true)?;
    greet(&mut stream, *kind).await?;
    let (read, mut write) = stream.split();
    for prefix in prefixes {
        write.write_all(&message(&[&[&[1], prefix.as_bytes()].concat()])).await?;
    }
    let mut read = BufReader::with_capacity(64 * 1024, read);
    loop {
        let received = match receive(&mut read, *message_max).await? {
            Came::Message(frames) => Ok(frames),
            Came::Refused(reason) => Err(reason),
            Came::Command(name, bytes) => {
                if let Some(answer) = answer(&name, &bytes) {
                    write.write_all(&answer).await?;
                }
                continue;
            }
        };
        let bytes = received.iter().flatten().map(Vec::len).sum::<usize>();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, BYTES_MAX);
        let Ok(permit) = Arc::clone(&shared.room).acquire_many_owned(bytes).await else { return Ok(()) };
        // Nobody listens once the source is gone.
        if shared.messages.send((received, permit)).await.is_err() {
            return Ok(());
        }
    }
}

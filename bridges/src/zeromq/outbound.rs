//! The half that sends messages: PUSH and PUB. Each connection has a task that writes and one that reads; messages wait for
//! a peer in a channel that holds as many as the high-water mark says.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluice_connect::task::{Class, TaskError};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::inbound::{connect, listen, runtime, serve_peers};
use super::wire::{Came, answer, greet, message, receive};
use super::{Endpoint, Kind};

/// How long a PUSH waits for a peer that takes messages.
const PEER_MAX: Duration = Duration::from_secs(15);
/// How long a PUB waits for a subscriber that does not read; then what is for it is dropped until it reads again.
const SLOW_MAX: Duration = Duration::from_secs(1);
/// How long the good-bye may take.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// Longest message of a peer: a subscription.
const SUBSCRIPTION_MAX: u64 = 64 * 1024;
/// Bytes of one subscriber's subscriptions.
const SUBSCRIPTIONS_MAX: usize = 1024 * 1024;
/// Bytes that are written at once.
const WRITE_BYTES: usize = 64 * 1024;

enum Out {
    Message(Arc<Vec<u8>>),
    /// Tells when all before it is given to the network.
    Flush(oneshot::Sender<()>),
    /// The same, and no more comes.
    End(oneshot::Sender<()>),
}

/// A peer that is connected.
struct Peer {
    out: mpsc::Sender<Out>,
    /// How often it asked for messages that begin so.
    subscriptions: BTreeMap<Vec<u8>, usize>,
    is_slow: bool,
}

#[derive(Default)]
struct Peers {
    next: u64,
    connected: BTreeMap<u64, Peer>,
    /// Whom the next message goes to, for PUSH.
    turn: u64,
}

struct Shared {
    kind: Kind,
    endpoint: Endpoint,
    high_water_mark: usize,
    peers: Mutex<Peers>,
    /// Somebody has come.
    came: Notify,
}

impl Shared {
    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends messages to peers.
pub struct Outbound {
    shared: Arc<Shared>,
    /// Peers that were given something since it was last waited for.
    given: BTreeMap<u64, mpsc::Sender<Out>>,
    runtime: Runtime,
}

impl Outbound {
    /// Binds, or begins to connect.
    pub fn open(mut endpoint: Endpoint, kind: Kind, high_water_mark: u32) -> Result<Self, TaskError> {
        let runtime = runtime()?;
        let listener = match endpoint.is_bound {
            true => Some(runtime.block_on(listen(&mut endpoint))?),
            false => None,
        };
        let shared = Arc::new(Shared {
            kind,
            endpoint,
            high_water_mark: high_water_mark.max(1) as usize,
            peers: Mutex::default(),
            came: Notify::new(),
        });
        let tasks = Arc::clone(&shared);
        runtime.spawn(serve_peers(shared.endpoint.clone(), listener, move |stream| {
            let shared = Arc::clone(&tasks);
            async move { serve(stream, &shared).await }
        }));
        Ok(Self { shared, given: BTreeMap::new(), runtime })
    }

    /// Where it is bound, or where it goes.
    pub fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// Gives a message to a peer, or to all that asked for it. Waits while they have enough of them.
    pub fn send(&mut self, frames: &[&[u8]]) -> Result<(), TaskError> {
        let encoded = Arc::new(message(frames));
        match self.shared.kind {
            Kind::Pub => {
                self.publish(frames.first().copied().unwrap_or_default(), &encoded);
                Ok(())
            }
            _ => self.push(&encoded),
        }
    }

    /// To the next peer that has room.
    fn push(&mut self, message: &Arc<Vec<u8>>) -> Result<(), TaskError> {
        let Self { shared, given, runtime } = self;
        let pushed = async {
            loop {
                let came = shared.came.notified();
                let peers: Vec<(u64, mpsc::Sender<Out>)> = {
                    let peers = shared.peers();
                    let in_turn =
                        peers.connected.range(peers.turn..).chain(peers.connected.range(..peers.turn));
                    in_turn.map(|(number, peer)| (*number, peer.out.clone())).collect()
                };
                for (number, out) in &peers {
                    if out.try_send(Out::Message(Arc::clone(message))).is_ok() {
                        shared.peers().turn = number + 1;
                        given.entry(*number).or_insert_with(|| out.clone());
                        return;
                    }
                }
                match peers.first() {
                    None => came.await,
                    // All have enough: whoever has room first, or another one that comes.
                    Some((_, out)) => drop(timeout(Duration::from_millis(20), out.reserve()).await),
                }
            }
        };
        let what = || match shared.endpoint.is_bound {
            true => "nobody came to take messages",
            false => "nobody takes messages there",
        };
        let late = |_| {
            let told = format!("{}: {} in {} s", shared.endpoint, what(), PEER_MAX.as_secs());
            TaskError::new(Class::Retry, told)
        };
        runtime.block_on(async { timeout(PEER_MAX, pushed).await }).map_err(late)
    }

    /// To all whose subscriptions the first frame begins with.
    fn publish(&mut self, first: &[u8], message: &Arc<Vec<u8>>) {
        let wanted: Vec<(u64, mpsc::Sender<Out>, bool)> = {
            let peers = self.shared.peers();
            let wanting = peers
                .connected
                .iter()
                .filter(|(_, peer)| peer.subscriptions.keys().any(|prefix| first.starts_with(prefix)));
            wanting.map(|(number, peer)| (*number, peer.out.clone(), peer.is_slow)).collect()
        };
        for (number, out, was_slow) in wanted {
            let sent = match out.try_send(Out::Message(Arc::clone(message))) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(again)) if !was_slow => {
                    let sent = self.runtime.block_on(async { timeout(SLOW_MAX, out.send(again)).await });
                    matches!(sent, Ok(Ok(())))
                }
                Err(_) => false,
            };
            if sent {
                self.given.entry(number).or_insert(out);
            } else if !was_slow {
                let endpoint = &self.shared.endpoint;
                tracing::warn!(%endpoint, "a subscriber does not read: messages are dropped until it does");
            }
            if sent == was_slow
                && let Some(peer) = self.shared.peers().connected.get_mut(&number)
            {
                peer.is_slow = !sent;
            }
        }
    }

    /// Waits until all is given to the network.
    pub fn flush(&mut self) -> Result<(), TaskError> {
        let given = std::mem::take(&mut self.given);
        // A subscriber that goes takes with it what was for it.
        let is_lost = self.shared.kind == Kind::Push;
        for out in given.into_values() {
            let (told, flushed) = oneshot::channel();
            let flushed = self.runtime.block_on(async {
                timeout(PEER_MAX, async {
                    out.send(Out::Flush(told)).await.map_err(drop)?;
                    flushed.await.map_err(drop)
                })
                .await
            });
            if is_lost && !matches!(flushed, Ok(Ok(()))) {
                let told = format!("{}: a peer went before it had all messages", self.shared.endpoint);
                return Err(TaskError::new(Class::Retry, told));
            }
        }
        Ok(())
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        let ends: Vec<oneshot::Receiver<()>> = {
            let mut peers = self.shared.peers();
            let all = std::mem::take(&mut peers.connected).into_values();
            let end = |peer: Peer| {
                let (told, ended) = oneshot::channel();
                peer.out.try_send(Out::End(told)).ok().map(|()| ended)
            };
            all.filter_map(end).collect()
        };
        self.runtime.block_on(async {
            let all = async {
                for ended in ends {
                    let _ = ended.await;
                }
            };
            drop(timeout(CLOSE_MAX, all).await);
        });
    }
}

/// Whether a socket can be bound, or a peer is there that goes with it.
pub fn check(mut endpoint: Endpoint, kind: Kind) -> Result<(), TaskError> {
    let runtime = runtime()?;
    runtime.block_on(async {
        if endpoint.is_bound {
            return listen(&mut endpoint).await.map(drop);
        }
        let told =
            |error| TaskError::new(Class::Retry, format!("cannot connect to {endpoint}")).because(error);
        let mut stream = connect(&endpoint).await.map_err(told)?;
        greet(&mut stream, kind).await.map_err(told)
    })
}

/// A connection, until the peer goes.
async fn serve(mut stream: TcpStream, shared: &Arc<Shared>) {
    let peer = stream.peer_addr().map_or_else(|_| "?".to_owned(), |peer| peer.to_string());
    let served = async {
        stream.set_nodelay(true)?;
        greet(&mut stream, shared.kind).await?;
        let (read, write) = stream.into_split();
        let (out, to_send) = mpsc::channel(shared.high_water_mark);
        let number = {
            let mut peers = shared.peers();
            peers.next += 1;
            let number = peers.next;
            let peer = Peer { out: out.clone(), subscriptions: BTreeMap::new(), is_slow: false };
            peers.connected.insert(number, peer);
            number
        };
        shared.came.notify_waiters();
        let writing = tokio::spawn(write_all(write, to_send));
        let read = read_all(read, number, &out, shared).await;
        shared.peers().connected.remove(&number);
        drop(out);
        // What waits for a peer that is gone is lost.
        writing.abort();
        read
    };
    let served: io::Result<()> = served.await;
    if let Err(error) = served
        && error.kind() != io::ErrorKind::UnexpectedEof
    {
        tracing::warn!(endpoint = %shared.endpoint, peer, %error, "a connection has ended");
    }
}

async fn write_all(mut write: OwnedWriteHalf, mut to_send: mpsc::Receiver<Out>) -> io::Result<()> {
    let (mut batch, mut told, mut has_end) = (Vec::new(), Vec::new(), false);
    while let Some(first) = to_send.recv().await {
        let mut next = Some(first);
        while let Some(out) = next {
            match out {
                Out::Message(bytes) => batch.extend_from_slice(&bytes),
                Out::Flush(done) => told.push(done),
                Out::End(done) => {
                    told.push(done);
                    has_end = true;
                }
            }
            next = if batch.len() < WRITE_BYTES && !has_end { to_send.try_recv().ok() } else { None };
        }
        write.write_all(&batch).await?;
        batch.clear();
        if has_end {
            write.shutdown().await?;
        }
        for done in told.drain(..) {
            let _ = done.send(());
        }
    }
    Ok(())
}

/// Takes subscriptions and commands of a peer, until it goes.
async fn read_all(
    read: OwnedReadHalf,
    number: u64,
    out: &mpsc::Sender<Out>,
    shared: &Shared,
) -> io::Result<()> {
    let mut read = BufReader::new(read);
    loop {
        let (is_wanted, prefix) = match receive(&mut read, SUBSCRIPTION_MAX).await? {
            Came::Message(frames) => match frames.first().and_then(|frame| frame.split_first()) {
                Some((wanted @ (0 | 1), prefix)) => (*wanted == 1, prefix.to_vec()),
                // What else a subscriber says is not for us.
                _ => continue,
            },
            Came::Refused(reason) => return Err(io::Error::new(io::ErrorKind::InvalidData, reason)),
            Came::Command(name, bytes) if name == b"SUBSCRIBE" => (true, bytes),
            Came::Command(name, bytes) if name == b"CANCEL" => (false, bytes),
            Came::Command(name, bytes) => {
                if let Some(answer) = answer(&name, &bytes) {
                    // A peer with so much to read hears nothing else meanwhile.
                    drop(out.try_send(Out::Message(Arc::new(answer))));
                }
                continue;
            }
        };
        let mut peers = shared.peers();
        let Some(peer) = peers.connected.get_mut(&number) else { return Ok(()) };
        if is_wanted {
            let bytes: usize = peer.subscriptions.keys().map(|known| known.len() + 64).sum();
            if bytes + prefix.len() > SUBSCRIPTIONS_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a peer has too many subscriptions"));
            }
            *peer.subscriptions.entry(prefix).or_default() += 1;
        } else if let Some(count) = peer.subscriptions.get_mut(&prefix) {
            *count -= 1;
            if *count == 0 {
                peer.subscriptions.remove(&prefix);
            }
        }
        drop(peers);
        shared.came.notify_waiters();
    }
}

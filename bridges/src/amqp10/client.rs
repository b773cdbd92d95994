//! A connection with one session, as both halves use it: opened, asked with a time limit, closed at its end, and whose
//! its errors are.

use std::fmt::{self, Debug};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::link::delivery::DeliveryInfo;
use fe2o3_amqp::link::receiver::{CreditMode, ReceiverDisposer};
use fe2o3_amqp::link::{ReceiverAttachError, RecvError, SendError};
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::types::messaging::{Body, Message, Outcome};
use fe2o3_amqp::types::primitives::LazyValue;
use fe2o3_amqp::{Connection, Receiver, Sender, Session};
use sluice_connect::task::{Class, TaskError};
use tokio::io::{self, AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Way;
use crate::stream::{Duplex, Tls, connect};

/// How long a broker may take for one answer.
pub const ANSWER_MAX: Duration = Duration::from_secs(15);
/// How long the good-bye may take.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// Longest frame that a broker may send, in bytes.
const FRAME_MAX: u32 = 256 * 1024;
/// The silence after which either side ends a connection, in ms.
const IDLE_MS: u32 = 60_000;

/// A connection to a broker with one session; closed when it is dropped.
pub struct Link {
    connection: Mutex<ConnectionHandle<()>>,
    session: Mutex<SessionHandle<()>>,
    runtime: Runtime,
    place: String,
}

/// A message as it was received, or why it can not be read.
pub type Received = (DeliveryInfo, Result<Message<Body<LazyValue>>, String>);

impl Link {
    /// Connects.
    pub fn open(way: &Way, tls: Option<&Tls>) -> Result<Self, TaskError> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("amqp10").enable_all().build();
        let runtime = runtime.map_err(|e| TaskError::io("cannot start the threads of a client", e))?;
        let place = way.address.to_string();
        let user = way.login.as_ref().map_or("nobody", |(user, _)| user.as_str());
        let what = format!("broker at {place}: cannot connect as {user}");
        let profile = match &way.login {
            Some((username, password)) => {
                SaslProfile::Plain { username: username.clone(), password: password.0.clone() }
            }
            None => SaslProfile::Anonymous,
        };
        let opened = async {
            let stream = connect(&way.address, tls).await.map_err(|error| {
                let class = match error.kind() {
                    io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Class::Config,
                    _ => Class::Retry,
                };
                TaskError::new(class, what.clone()).because(error)
            })?;
            let opened = Connection::builder()
                .container_id(format!("sluice-{}", std::process::id()))
                .hostname(way.address.host.as_str())
                .scheme("amqp")
                .max_frame_size(FRAME_MAX)
                .idle_time_out(IDLE_MS)
                .sasl_profile(profile)
                .open_with_stream(Shown(stream))
                .await;
            let mut connection = opened.map_err(|error| failed(what.clone(), error))?;
            let session = Session::begin(&mut connection).await;
            let session = session.map_err(|error| failed(what.clone(), error))?;
            Ok((connection, session))
        };
        let opened = runtime.block_on(async { timeout(ANSWER_MAX, opened).await });
        let (connection, session) = opened.map_err(|_| late(&what))??;
        Ok(Self { connection: Mutex::new(connection), session: Mutex::new(session), runtime, place })
    }

    /// Begins to receive from a node: messages come through the channel, and are settled by the disposer. At most `credit`
    /// are on their way.
    pub fn receive(
        &self,
        node: &str,
        credit: u32,
        bytes_max: u64,
    ) -> Result<(mpsc::Receiver<Result<Received, TaskError>>, ReceiverDisposer), TaskError> {
        let what = format!("cannot receive from {node}");
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let attach = Receiver::builder()
            .name(format!("sluice-{}-{node}", std::process::id()))
            .source(node)
            .credit_mode(CreditMode::Auto(credit))
            .max_message_size(bytes_max)
            .attach(&mut session);
        let mut receiver: Receiver = self.ask::<_, ReceiverAttachError>(&what, attach)?;
        let disposer = receiver.disposer();
        let (sender, received) = mpsc::channel(64);
        let told = self.told(&what);
        self.runtime.spawn(async move {
            loop {
                let next = match receiver.recv::<Body<LazyValue>>().await {
                    Ok(delivery) => {
                        let (info, message) = delivery.into_parts();
                        Ok((info, Ok(message)))
                    }
                    Err(RecvError::MessageDecode(error)) => {
                        Ok((error.info, Err(format!("the message is no AMQP: {}", error.source))))
                    }
                    Err(error) => Err(failed(told.clone(), error)),
                };
                let is_over = next.is_err();
                // Nobody listens once the source is gone.
                if sender.send(next).await.is_err() || is_over {
                    return;
                }
            }
        });
        Ok((received, disposer))
    }

    /// Begins to send to a node.
    pub fn sender(&self, node: &str) -> Result<Sender, TaskError> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("sluice-{}-to-{node}", std::process::id());
        self.ask(&format!("cannot send to {node}"), Sender::attach(&mut session, name, node))
    }

    /// Waits for an answer; `what` says what cannot be done.
    pub fn ask<T, E: std::error::Error + Send + Sync + 'static>(
        &self,
        what: &str,
        asked: impl Future<Output = Result<T, E>>,
    ) -> Result<T, TaskError> {
        self.wait(self.answer(what, asked))
    }

    /// The same among others.
    pub async fn answer<T, E: std::error::Error + Send + Sync + 'static>(
        &self,
        what: &str,
        asked: impl Future<Output = Result<T, E>>,
    ) -> Result<T, TaskError> {
        let answer = timeout(ANSWER_MAX, asked).await;
        answer.map_err(|_| late(&self.told(what)))?.map_err(|error| failed(self.told(what), error))
    }

    /// What became of a message that was sent: one that the broker rejects is a record that does not fit.
    pub fn outcome(&self, what: &str, outcome: Outcome) -> Result<(), TaskError> {
        match outcome {
            Outcome::Accepted(_) => Ok(()),
            Outcome::Rejected(rejected) => {
                let why = rejected.error.map_or_else(|| "no reason given".to_owned(), |error| error.to_string());
                Err(TaskError::new(Class::Record, format!("{}: the broker rejected it: {why}", self.told(what))))
            }
            other => Err(TaskError::new(Class::Retry, format!("{}: {other:?}", self.told(what)))),
        }
    }

    /// Waits as long as it takes.
    pub fn wait<T>(&self, until: impl Future<Output = T>) -> T {
        self.runtime.block_on(until)
    }

    fn told(&self, what: &str) -> String {
        format!("broker at {}: {what}", self.place)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let connection = self.connection.get_mut().unwrap_or_else(PoisonError::into_inner);
        let session = self.session.get_mut().unwrap_or_else(PoisonError::into_inner);
        // What was sent before, acknowledgements too, is sent before the good-bye.
        let close = async {
            let _ = session.end().await;
            connection.close().await
        };
        if let Ok(Err(error)) = self.runtime.block_on(async { timeout(CLOSE_MAX, close).await }) {
            tracing::debug!(place = self.place, %error, "a connection was closed otherwise");
        }
    }
}

fn late(what: &str) -> TaskError {
    TaskError::new(Class::Retry, format!("{what}: no answer in {} s", ANSWER_MAX.as_secs()))
}

/// What a person must change is told, the rest is tried again. The conditions stand deep inside of the client's
/// errors, so they are looked for in what those show.
fn failed<E: std::error::Error + Send + Sync + 'static>(what: String, error: E) -> TaskError {
    const FOR_A_PERSON: [&str; 9] = [
        "NotFound",
        "UnauthorizedAccess",
        "NotAllowed",
        "NotImplemented",
        "InvalidField",
        "PreconditionFailed",
        "ResourceDeleted",
        "SaslError",
        "ProtocolHeaderMismatch",
    ];
    let shown = format!("{error:?}");
    let class = if FOR_A_PERSON.iter().any(|name| shown.contains(name)) { Class::Config } else { Class::Retry };
    TaskError::new(class, what).because(error)
}

/// A stream that can be shown, as the client wants it.
struct Shown(Box<dyn Duplex>);

impl Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a connection")
    }
}

impl AsyncRead for Shown {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Shown {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

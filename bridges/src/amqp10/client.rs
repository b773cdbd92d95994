//! A connection with one session, as both halves use it: opened, asked with a time limit, closed at its end, and whose
//! its errors are.

use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::types::definitions::SenderSettleMode;
use fe2o3_amqp::types::messaging::Outcome;
use fe2o3_amqp::{Connection, Sender, Session};
use sluice_connect::task::{Class, TaskError};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::Way;
use super::guard::{FRAME_MAX, Guard, SharedSeen};
use crate::stream::{Tls, connect};

/// How long a broker may take for one answer.
pub const ANSWER_MAX: Duration = Duration::from_secs(15);
/// How long the good-bye may take.
pub(super) const CLOSE_MAX: Duration = Duration::from_secs(5);
/// The silence after which either side ends a connection, in ms.
const IDLE_MS: u32 = 60_000;

/// A connection to a broker with one session; closed when it is dropped.
pub struct Link {
    connection: Mutex<ConnectionHandle<()>>,
    session: Mutex<SessionHandle<()>>,
    pub(super) runtime: Runtime,
    pub(super) seen: SharedSeen,
    /// The connection's name at the broker.
    name: String,
    place: String,
}

impl Link {
    /// Connects. A message that comes may have `message_max` bytes.
    pub fn open(way: &Way, tls: Option<&Tls>, message_max: u64) -> Result<Self, TaskError> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("amqp10").enable_all().build();
        let runtime = runtime.map_err(|e| TaskError::io("cannot start the threads of a client", e))?;
        let place = way.address.to_string();
        let user = way.login.as_ref().map_or("nobody", |(user, _)| user.as_str());
        let what = format!("AMQP broker at {place}: cannot connect as {user}");
        let profile = match &way.login {
            Some((username, password)) => {
                SaslProfile::Plain { username: username.clone(), password: password.0.clone() }
            }
            None => SaslProfile::Anonymous,
        };
        let seen = SharedSeen::default();
        // Some brokers let in one connection of a name.
        let name = format!("sluice-{:016x}", RandomState::new().build_hasher().finish());
        let opened = async {
            let stream = connect(&way.address, tls).await.map_err(|error| {
                let class = match error.kind() {
                    io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Class::Config,
                    _ => Class::Retry,
                };
                TaskError::new(class, what.clone()).because(error)
            })?;
            let opened = Connection::builder()
                .container_id(name.as_str())
                .hostname(way.address.host.as_str())
                .scheme("amqp")
                .max_frame_size(FRAME_MAX)
                .idle_time_out(IDLE_MS)
                .sasl_profile(profile)
                .open_with_stream(Guard::new(stream, message_max, seen.clone()))
                .await;
            let mut connection = opened.map_err(|error| failed(what.clone(), error))?;
            let session = Session::begin(&mut connection).await;
            let session = session.map_err(|error| failed(what.clone(), error))?;
            Ok((connection, session))
        };
        let opened = runtime.block_on(async { timeout(ANSWER_MAX, opened).await });
        let (connection, session) = opened.map_err(|_| late(&what))??;
        Ok(Self {
            connection: Mutex::new(connection),
            session: Mutex::new(session),
            runtime,
            seen,
            name,
            place,
        })
    }

    pub(super) fn session(&self) -> MutexGuard<'_, SessionHandle<()>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name for what is attached.
    pub(super) fn name(&self, node: &str) -> String {
        format!("{}-{node}", self.name)
    }

    /// Begins to send to a node.
    pub fn sender(&self, node: &str) -> Result<Sender, TaskError> {
        let mut session = self.session();
        let sender = Sender::builder()
            .name(self.name(node))
            .target(node)
            .sender_settle_mode(SenderSettleMode::Unsettled)
            .attach(&mut session);
        self.ask(&format!("cannot send to {node}"), sender)
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
        let (class, why) = match outcome {
            Outcome::Accepted(_) => return Ok(()),
            Outcome::Rejected(rejected) => {
                let why = rejected.error.and_then(|error| error.description);
                let why = why.map_or_else(String::new, |why| format!(": {why}"));
                (Class::Record, format!("the broker rejected it{why}"))
            }
            Outcome::Released(_) | Outcome::Modified(_) => {
                (Class::Retry, "the broker gave it back: is the queue full?".to_owned())
            }
        };
        Err(TaskError::new(class, format!("{}: {why}", self.told(what))))
    }

    /// Waits as long as it takes.
    pub fn wait<T>(&self, until: impl Future<Output = T>) -> T {
        self.runtime.block_on(until)
    }

    pub(super) fn told(&self, what: &str) -> String {
        format!("AMQP broker at {}: {what}", self.place)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let connection = self.connection.get_mut().unwrap_or_else(PoisonError::into_inner);
        let session = self.session.get_mut().unwrap_or_else(PoisonError::into_inner);
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
pub(super) fn failed<E: std::error::Error + Send + Sync + 'static>(what: String, error: E) -> TaskError {
    const FOR_A_PERSON: [&str; 10] = [
        "AmqpError(NotFound)",
        "AmqpError(UnauthorizedAccess)",
        "AmqpError(NotAllowed)",
        "AmqpError(NotImplemented)",
        "AmqpError(InvalidField)",
        "AmqpError(PreconditionFailed)",
        "AmqpError(ResourceDeleted)",
        "SaslError { code: Auth",
        "ProtocolHeaderMismatch",
        "kind: InvalidData",
    ];
    let shown = format!("{error:?}");
    let class = match FOR_A_PERSON.iter().any(|name| shown.contains(name)) {
        true => Class::Config,
        false if shown.contains("MessageSizeExceeded") => Class::Record,
        false => Class::Retry,
    };
    TaskError::new(class, what).because(error)
}

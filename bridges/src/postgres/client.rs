//! A connection as both halves use it: opened, asked with a time limit, closed at its end, and whose its errors are.

use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, SinkExt, TryStreamExt};
use sluice_connect::task::{Class, TaskError};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::SslMode as Mode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, CopyInSink, NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::ClientConfig;

use super::error::failed;
pub use super::error::{Refused, code};
use super::tls::unverified;
use super::{SslMode, Way};
use crate::stream::{Duplex, connect};

/// How long the way in may take.
const OPEN_MAX: Duration = Duration::from_secs(15);
/// How long one statement may take, at the server.
const STATEMENT_SECS: u64 = 120;
/// How long its answer is waited for: longer, so that it is the server that gives up.
const ANSWER_MAX: Duration = Duration::from_secs(STATEMENT_SECS + 15);
/// How long the good-bye may take.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// Bytes of one message of a COPY.
const COPY_BYTES: usize = 256 * 1024;

/// How a server is verified: by these settings, and by the name that its certificate must have.
pub type Verified = (ClientConfig, String);

/// A parameter of a statement, with its type.
pub type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// A connection to a server; closed when it is dropped.
pub struct Link {
    /// `None` while it is closed.
    client: Option<Client>,
    connection: JoinHandle<()>,
    runtime: Runtime,
    place: String,
}

impl Link {
    /// Connects; `verified` is for `sslmode: verify-full`. Texts are UTF-8, times are read and written in UTC, and a session
    /// that stands in the middle of a transaction for a minute is ended by the server.
    pub fn open(way: &Way, verified: Option<Verified>) -> Result<Self, TaskError> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("postgres").enable_all().build();
        let runtime = runtime.map_err(|e| TaskError::io("cannot start the threads of a client", e))?;
        let place = way.shown();
        let what = format!("PostgreSQL at {place}: cannot connect as user {}", way.user);
        let opened = runtime.block_on(async { timeout(OPEN_MAX, opened(way, verified, &what)).await });
        let late = |_| TaskError::new(Class::Retry, format!("{what}: no answer in {} s", OPEN_MAX.as_secs()));
        let (client, connection) = opened.map_err(late)??;
        let link = Self { client: Some(client), connection, runtime, place };
        link.run(
            "cannot set up the session",
            &format!(
                "SET client_encoding TO 'UTF8'; SET TimeZone TO 'UTC'; SET DateStyle TO 'ISO'; SET IntervalStyle TO 'postgres'; \
                 SET bytea_output TO 'hex'; SET standard_conforming_strings TO on; SET extra_float_digits TO 1; \
                 SET statement_timeout TO '{STATEMENT_SECS}s'; SET idle_in_transaction_session_timeout TO '60s'"
            ),
        )?;
        Ok(link)
    }

    /// Where it leads, for a person.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Runs statements.
    pub fn run(&self, what: &str, sql: &str) -> Result<(), TaskError> {
        self.ask(what, async |client| client.batch_execute(sql).await)
    }

    /// Rows of a statement.
    pub fn rows(&self, what: &str, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, TaskError> {
        self.ask(what, async |client| client.query_typed(sql, parameters).await)
    }

    /// How many rows a statement changed.
    pub fn execute(&self, what: &str, sql: &str, parameters: &[Parameter<'_>]) -> Result<u64, TaskError> {
        self.ask(what, async |client| client.execute_typed(sql, parameters).await)
    }

    /// Sends rows by `COPY … FROM STDIN`, as its text format has them.
    pub fn copy(&self, what: &str, sql: &str, mut rows: Bytes) -> Result<(), TaskError> {
        self.ask(what, async |client| {
            let sink: CopyInSink<Bytes> = client.copy_in(sql).await?;
            let mut sink = std::pin::pin!(sink);
            while !rows.is_empty() {
                // An error of the server comes with the end at the latest.
                sink.send(rows.split_to(rows.len().min(COPY_BYTES))).await?;
            }
            sink.finish().await.map(drop)
        })
    }

    /// The columns that a statement gives, with their types. It is not run.
    pub fn columns(&self, what: &str, sql: &str) -> Result<Vec<(String, Type)>, TaskError> {
        let statement = self.ask(what, async |client| client.prepare(sql).await)?;
        Ok(statement
            .columns()
            .iter()
            .map(|column| (column.name().to_owned(), column.type_().clone()))
            .collect())
    }

    /// Hands rows of a statement to `take` one by one, until it says that it has enough; whether it had all.
    pub fn stream(
        &self,
        what: &str,
        sql: &str,
        parameters: &[Parameter<'_>],
        mut take: impl FnMut(&Row) -> Result<bool, TaskError>,
    ) -> Result<bool, TaskError> {
        self.ask(what, async |client| {
            let parameters = parameters.iter().map(|(value, kind)| (*value, kind.clone()));
            let mut rows = std::pin::pin!(client.query_typed_raw(sql, parameters).await?);
            while let Some(row) = rows.try_next().await? {
                match take(&row) {
                    Ok(true) => {}
                    enough => return Ok(enough),
                }
            }
            Ok(Ok(true))
        })?
    }

    /// Waits for an answer; `what` says what cannot be done.
    fn ask<T>(
        &self,
        what: &str,
        asked: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, TaskError> {
        let told = || format!("PostgreSQL at {}: {what}", self.place);
        let Some(client) = &self.client else { return Err(TaskError::new(Class::Retry, told())) };
        let answer = self.runtime.block_on(async { timeout(ANSWER_MAX, asked(client)).await });
        let late =
            |_| TaskError::new(Class::Retry, format!("{}: no answer in {} s", told(), ANSWER_MAX.as_secs()));
        answer.map_err(late)?.map_err(|error| failed(told(), error))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // What the session holds at the server goes at once with the good-bye.
        self.client = None;
        let connection = &mut self.connection;
        drop(self.runtime.block_on(async { timeout(CLOSE_MAX, connection).await }));
    }
}

async fn opened(
    way: &Way,
    verified: Option<Verified>,
    what: &str,
) -> Result<(Client, JoinHandle<()>), TaskError> {
    let stream: Box<dyn Duplex> = match way.socket_file() {
        Some(file) => Box::new(UnixStream::connect(file).await.map_err(|e| unreachable_there(what, e))?),
        None => connect(&way.address, None).await.map_err(|e| unreachable_there(what, e))?,
    };
    let mut config = Config::new();
    config.user(&way.user).dbname(&way.database).application_name("sluice");
    if let Some(password) = &way.password {
        config.password(&password.0);
    }
    config.ssl_mode(match way.ssl_mode {
        SslMode::Disable => Mode::Disable,
        SslMode::Prefer => Mode::Prefer,
        SslMode::Require | SslMode::VerifyFull => Mode::Require,
    });
    let made = match (way.ssl_mode, verified) {
        (SslMode::Disable, _) => joined(&config, stream, NoTls).await,
        // The server is this machine.
        (SslMode::Prefer, _) if way.socket_file().is_some() => joined(&config, stream, NoTls).await,
        (SslMode::VerifyFull, Some((settings, name))) => {
            joined(&config, stream, secured(settings, &name)).await
        }
        (SslMode::VerifyFull, None) => {
            return Err(TaskError::new(Class::Fatal, format!("{what}: nothing to verify the server by")));
        }
        (SslMode::Prefer | SslMode::Require, _) => {
            let settings = unverified()
                .map_err(|e| TaskError::new(Class::Config, format!("{what}: cannot speak TLS")).because(e))?;
            let name = way.address.host.trim_matches(['[', ']']);
            joined(&config, stream, secured(settings, name)).await
        }
    };
    made.map_err(|error| failed(what, error))
}

fn unreachable_there(what: &str, error: std::io::Error) -> TaskError {
    // A server that is not there may be on its way up, its socket file, too.
    TaskError::new(Class::Retry, what).because(error)
}

type Rustls = <MakeRustlsConnect as MakeTlsConnect<Box<dyn Duplex>>>::TlsConnect;

fn secured(settings: ClientConfig, name: &str) -> Rustls {
    let made =
        MakeTlsConnect::<Box<dyn Duplex>>::make_tls_connect(&mut MakeRustlsConnect::new(settings), name);
    match made {
        Ok(made) => made,
        Err(never) => match never {},
    }
}

/// Through the handshakes; what is said on the connection from there on is a task of its own.
async fn joined<T>(
    config: &Config,
    stream: Box<dyn Duplex>,
    tls: T,
) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error>
where
    T: TlsConnect<Box<dyn Duplex>>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect_raw(stream, tls).await?;
    // Whoever waits for an answer is told that it is closed.
    let running = tokio::spawn(connection.map(|ended| {
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection to PostgreSQL has ended");
        }
    }));
    Ok((client, running))
}

//! A connection with one channel, as both halves use it: opened, asked with a time limit, closed at its end, and whose
//! its errors are.

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime as Kit, Tokio};
use futures::Stream;
use futures::io::{AsyncRead, AsyncWrite};
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{AsyncTcpStream, Channel, Connection, ConnectionProperties, ErrorKind, ExchangeKind};
use sluice_connect::task::{Class, TaskError};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::Way;
use super::guard::Guard;
use crate::stream::{Tls, connect};

/// How long a broker may take for one answer.
pub const ANSWER_MAX: Duration = Duration::from_secs(15);
/// How long the good-bye may take.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// Reply code of a good-bye without fault.
const SUCCESS: u16 = 200;

/// A connection to a broker with one channel; closed when it is dropped.
pub struct Link {
    connection: Connection,
    /// The channel.
    pub channel: Channel,
    runtime: Runtime,
    place: String,
}

impl Link {
    /// Connects. Messages whose body is longer than `body_max` bytes come without it, see [`super::mapping`].
    pub fn open(way: &Way, tls: Option<Tls>, body_max: u64) -> Result<Self, TaskError> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("amqp091").enable_all().build();
        let runtime = runtime.map_err(|e| TaskError::io("cannot start the threads of a client", e))?;
        let place = way.shown();
        let what = format!("RabbitMQ at {place}: cannot connect as user {}", way.user);
        let uri = AMQPUri {
            scheme: AMQPScheme::AMQP,
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo { username: way.user.clone(), password: way.password.0.clone() },
                host: way.address.host.clone(),
                port: way.address.port,
            },
            vhost: way.vhost.clone(),
            query: AMQPQueryString::default(),
        };
        let tokio = Tokio::default().with_handle(runtime.handle().clone());
        let kit = Kit::new(RuntimeParts::new(tokio.clone(), Streams(tokio)));
        let opened = async {
            let properties = ConnectionProperties::default().with_connection_name("sluice".into());
            // The client forgets an error of its own connecting that comes before it has queued its first frame, and
            // waits; so it gets a connection that stands. It asks once, as it is not told to try again.
            let stands = Mutex::new(Some(connect(&way.address, tls.as_ref()).await?));
            let stream = async move |_: AMQPUri, _| {
                let stream = stands.lock().unwrap_or_else(PoisonError::into_inner).take();
                let stream = stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
                Ok(AsyncTcpStream::Plain(Guard::new(stream, body_max)))
            };
            let connection = Connection::connector(uri, kit, stream, properties).await?;
            let channel = connection.create_channel().await?;
            Ok((connection, channel))
        };
        let opened = runtime.block_on(async { timeout(ANSWER_MAX, opened).await });
        let (connection, channel) =
            opened.map_err(|_| late(&what))?.map_err(|error: lapin::Error| failed(what, error))?;
        Ok(Self { connection, channel, runtime, place })
    }

    /// Waits for an answer; `what` says what cannot be done.
    pub fn ask<T>(&self, what: &str, asked: impl Future<Output = lapin::Result<T>>) -> Result<T, TaskError> {
        self.wait(self.answer(what, asked))
    }

    /// The same among others.
    pub async fn answer<T>(
        &self,
        what: &str,
        asked: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, TaskError> {
        let answer = timeout(ANSWER_MAX, asked).await;
        answer.map_err(|_| late(&self.told(what)))?.map_err(|error| self.failed(what, error))
    }

    /// Waits as long as it takes.
    pub fn wait<T>(&self, until: impl Future<Output = T>) -> T {
        self.runtime.block_on(until)
    }

    /// How many messages of a queue wait for a consumer. It must be there.
    pub fn ready(&self, queue: &str) -> Result<u32, TaskError> {
        let what = format!("cannot look at queue {queue}");
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found = self.channel.queue_declare(short(queue)?, options, FieldTable::default());
        Ok(self.ask(&what, found)?.message_count())
    }

    /// Whether an exchange is there.
    pub fn find_exchange(&self, exchange: &str) -> Result<(), TaskError> {
        let what = format!("cannot look at exchange {exchange}");
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let kind = ExchangeKind::Direct;
        self.ask(&what, self.channel.exchange_declare(short(exchange)?, kind, options, FieldTable::default()))
    }

    /// Whether the broker takes nothing because its memory or disk is short.
    pub fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// An error of this connection.
    pub fn failed(&self, what: &str, error: lapin::Error) -> TaskError {
        failed(self.told(what), error)
    }

    fn told(&self, what: &str) -> String {
        format!("RabbitMQ at {}: {what}", self.place)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // What was sent before, acknowledgements too, is sent before the good-bye.
        let close = self.connection.close(SUCCESS, ShortString::default());
        if let Ok(Err(error)) = self.runtime.block_on(async { timeout(CLOSE_MAX, close).await }) {
            tracing::debug!(place = self.place, %error, "a connection was closed otherwise");
        }
    }
}

/// A text of at most 255 bytes.
pub fn short(text: &str) -> Result<ShortString, TaskError> {
    ShortString::try_new(text)
        .map_err(|e| TaskError::new(Class::Config, format!("`{text}` is too long")).because(e))
}

fn late(what: &str) -> TaskError {
    TaskError::new(Class::Retry, format!("{what}: no answer in {} s", ANSWER_MAX.as_secs()))
}

/// What a person must change is told, the rest is tried again.
fn failed(what: String, error: lapin::Error) -> TaskError {
    let class = match error.kind() {
        ErrorKind::ProtocolError(told) => match told.get_id() {
            // Access refused, not found, precondition failed; not allowed: the virtual host, for one.
            403 | 404 | 406 | 530 => Class::Config,
            _ => Class::Retry,
        },
        ErrorKind::IOError(error)
            if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) =>
        {
            Class::Config
        }
        ErrorKind::InvalidProtocolVersion(_)
        | ErrorKind::ParsingError(_)
        | ErrorKind::SerialisationError(_)
        | ErrorKind::AuthProviderError(_) => Class::Config,
        _ => Class::Retry,
    };
    let hint = match error.kind() {
        ErrorKind::ProtocolError(told)
            if told.get_id() == 406 && told.get_message().as_str().contains("acknowledgement") =>
        {
            " (files took longer than `consumer_timeout` of the broker: lower `rotate.age`)"
        }
        _ => "",
    };
    TaskError::new(class, format!("{what}{hint}")).because(error)
}

/// Gives lapin its streams.
#[derive(Clone, Debug)]
struct Streams(Tokio);

impl Reactor for Streams {
    type TcpStream = Guard;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + Send + 'static>(
        &self,
        _socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Guard, _>(io::Error::from(io::ErrorKind::Unsupported))
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.0.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(time)
    }

    /// Streams are made by [`Link::open`] alone.
    fn tcp_connect_addr(
        &self,
        _address: SocketAddr,
    ) -> impl Future<Output = io::Result<Guard>> + Send + 'static {
        std::future::ready(Err(io::Error::from(io::ErrorKind::Unsupported)))
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use tokio::net::TcpSocket;

    use super::*;

    #[test]
    fn a_broker_that_is_away_is_told_at_once_each_time() {
        // Nobody listens at a port that is held so.
        let held = TcpSocket::new_v4().unwrap();
        held.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let url = format!("amqp://{}", held.local_addr().unwrap());
        let way = Way::new(&url, None, None).unwrap();
        for _ in 0..100 {
            let error = Link::open(&way, None, 1024).map(|_| ()).unwrap_err();
            let cause = error.source().map(ToString::to_string).unwrap_or_default();
            assert!(cause.contains("refused"), "{error}: {cause}");
        }
    }
}

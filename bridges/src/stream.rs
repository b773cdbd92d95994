//! Connections to brokers of queues, with and without TLS.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::address::Address;

/// How long a connection may take to stand.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// What bytes go through, both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// How TLS is spoken, with the name that the server's certificate must have.
pub type Tls = (TlsConnector, ServerName<'static>);

/// Connects.
pub async fn connect(address: &Address, tls: Option<&Tls>) -> io::Result<Box<dyn Duplex>> {
    let late = |what| io::Error::new(io::ErrorKind::TimedOut, format!("no {what} in {CONNECT_MAX:?}"));
    let connected = timeout(CONNECT_MAX, TcpStream::connect(address.socket())).await;
    let stream = connected.map_err(|_| late("connection"))??;
    stream.set_nodelay(true)?;
    match tls {
        None => Ok(Box::new(stream)),
        Some((connector, name)) => {
            let secured = timeout(CONNECT_MAX, connector.connect(name.clone(), stream)).await;
            Ok(Box::new(secured.map_err(|_| late("TLS"))??))
        }
    }
}

/// A connection whose bytes pass a check before the client has them.
pub(crate) struct Checked {
    pub(crate) stream: Box<dyn Duplex>,
    scratch: Box<[u8]>,
    /// What the client may see, and how much of it the client has.
    ready: Vec<u8>,
    taken: usize,
}

impl Checked {
    pub(crate) fn new(stream: Box<dyn Duplex>) -> Self {
        Self { stream, scratch: vec![0; 64 * 1024].into(), ready: Vec::new(), taken: 0 }
    }

    /// The next bytes for the client, `max` at most; none at the end. `check` puts what the client may see of bytes that
    /// came behind what is there, or says what is wrong with them.
    pub(crate) fn poll_next<E: Into<Box<dyn Error + Send + Sync>>>(
        &mut self,
        context: &mut Context<'_>,
        max: usize,
        mut check: impl FnMut(&[u8], &mut Vec<u8>) -> Result<(), E>,
    ) -> Poll<io::Result<&[u8]>> {
        while self.taken == self.ready.len() {
            (self.taken, _) = (0, self.ready.clear());
            let mut buffer = ReadBuf::new(&mut self.scratch);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Poll::Ready(Ok(&[])),
                Poll::Ready(Ok(())) => {}
            }
            let told = |message| io::Error::new(io::ErrorKind::InvalidData, message);
            check(buffer.filled(), &mut self.ready).map_err(told)?;
        }
        let rest = self.ready.get(self.taken..).unwrap_or_default();
        let here = rest.get(..max).unwrap_or(rest);
        self.taken += here.len();
        Poll::Ready(Ok(here))
    }
}

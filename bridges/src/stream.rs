//! Connections to brokers of queues, with and without TLS.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
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

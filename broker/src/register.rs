//! Tells name servers elsewhere of this broker: every 30 s, at once when topics change, and at the end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::fields::Fields;
use sluice_protocol::frame::{self, Frame};
use sluice_protocol::header::{Header, HeaderKind};
use sluice_protocol::record::body_crc;
use sluice_protocol::request;
use sluice_protocol::route::MASTER;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::broker::Broker;
use crate::{NameServerWay, tls};

/// Between two registrations; a name server gives a broker up after 120 s.
const EVERY: Duration = Duration::from_secs(30);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(3);
const ANSWER_MAX: Duration = Duration::from_secs(6);

/// A connection, plain or in TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection to a name server, with the addresses of both ends.
struct Connection {
    stream: Box<dyn Stream>,
    local: IpAddr,
    peer: IpAddr,
}

async fn connect(way: &NameServerWay, name_server: &str) -> io::Result<Connection> {
    let stream = TcpStream::connect(name_server).await?;
    let (local, peer) = (stream.local_addr()?.ip(), stream.peer_addr()?.ip());
    let Some(ca) = &way.ca else { return Ok(Connection { stream: Box::new(stream), local, peer }) };
    let host = name_server.rsplit_once(':').map_or(name_server, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let config = tls::client_config(ca).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(Connection { stream: Box::new(stream), local, peer })
}

fn owned(fields: &Fields<'_>) -> Fields<'static> {
    let mut owned = Fields::new();
    fields.iter().for_each(|(name, value)| owned.push(name.to_owned(), value.to_owned()));
    owned
}

/// Registers at one name server until `stop` is set.
pub(crate) async fn keep(broker: Arc<Broker>, name_server: String, mut stop: watch::Receiver<bool>) {
    let mut changes = broker.topics_changed.subscribe();
    let mut connection = None;
    let mut failed = false;
    while !*stop.borrow() {
        let told = tell(&broker, &name_server, &mut connection, false).await;
        match &told {
            Ok(()) if failed => tracing::info!(name_server, "registered again"),
            Err(error) if !failed => tracing::warn!(name_server, %error, "can not register; trying again"),
            _ => {}
        }
        failed = told.is_err();
        if failed {
            connection = None;
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep(if failed { AGAIN } else { EVERY }) => {}
            _ = stop.changed() => break,
        }
    }
    if let Err(error) = tell(&broker, &name_server, &mut connection, true).await {
        tracing::debug!(name_server, %error, "could not say good-bye");
    }
}

async fn tell(
    broker: &Broker,
    name_server: &str,
    connection: &mut Option<Connection>,
    leave: bool,
) -> io::Result<()> {
    let settings = &broker.settings;
    let is_new = connection.is_none();
    let Connection { stream, local, peer } = match connection {
        Some(connection) => connection,
        None => connection.insert(timeout(ANSWER_MAX, connect(&settings.way, name_server)).await??),
    };
    let address = address(&settings.address(), *local);
    if is_new && misleads(&address, *peer) {
        tracing::warn!(
            name_server,
            address,
            "clients on other machines are told an address of this machine alone: listen at 0.0.0.0:PORT, or give the \
             address that they can reach by --advertise HOST:PORT"
        );
    }
    let mut bytes = Vec::new();
    let body = if leave { Vec::new() } else { broker.registration().encode() };
    let (code, fields) = if leave {
        let fields = request::UnregisterBroker {
            broker_name: &settings.name,
            broker_addr: &address,
            cluster_name: &settings.cluster,
            broker_id: MASTER,
        };
        (RequestCode::UNREGISTER_BROKER, owned(&fields.fields()))
    } else {
        let fields = request::RegisterBroker {
            broker_name: &settings.name,
            broker_addr: &address,
            cluster_name: &settings.cluster,
            ha_server_addr: &address,
            broker_id: MASTER,
            heartbeat_timeout_millis: None,
            enable_acting_master: Some(false),
            compressed: Some(false),
            body_crc32: Some(body_crc(&body)),
        };
        (RequestCode::REGISTER_BROKER, owned(&fields.fields()))
    };
    let mut header = Header::request(code, 0, fields);
    if let Some(credentials) = &settings.way.credentials {
        header = credentials.sign(&header, &body);
    }
    frame::encode(&mut bytes, HeaderKind::Json, &header, &body).map_err(io::Error::other)?;
    timeout(ANSWER_MAX, exchange(&mut **stream, &bytes)).await?
}

/// What clients are told: where no address is named, the one by which the name server sees us is the best guess.
fn address(told: &str, here: IpAddr) -> String {
    match told.parse::<SocketAddr>() {
        Ok(addr) if addr.ip().is_unspecified() => {
            SocketAddr::new(here.to_canonical(), addr.port()).to_string()
        }
        _ => told.to_owned(),
    }
}

/// Whether a name server of another machine tells clients an address that is good on this one only.
fn misleads(address: &str, name_server: IpAddr) -> bool {
    address.parse::<SocketAddr>().is_ok_and(|addr| addr.ip().is_loopback())
        && !name_server.to_canonical().is_loopback()
}

/// Sends a request and reads its response.
async fn exchange(stream: &mut dyn Stream, request: &[u8]) -> io::Result<()> {
    stream.write_all(request).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some((frame, _)) = Frame::decode(&answer).map_err(io::Error::other)? {
            let header = frame.header().map_err(io::Error::other)?;
            if header.response_code() == ResponseCode::SUCCESS {
                return Ok(());
            }
            let remark = header.remark.unwrap_or_default();
            return Err(io::Error::other(format!("response {}: {remark}", ResponseCode(header.code))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_names_no_address_is_where_the_name_server_sees_it() {
        let check = |told: &str, here: &str, address: &str| {
            assert_eq!(super::address(told, here.parse().unwrap()), address);
        };
        check("0.0.0.0:10911", "10.0.0.7", "10.0.0.7:10911");
        check("[::]:10911", "::ffff:10.0.0.7", "10.0.0.7:10911");
        check("127.0.0.1:10911", "10.0.0.7", "127.0.0.1:10911");
        check("broker.example.org:10911", "10.0.0.7", "broker.example.org:10911");
    }

    #[test]
    fn a_loopback_address_misleads_clients_of_another_machines_name_server() {
        let check = |address: &str, name_server: &str| misleads(address, name_server.parse().unwrap());
        assert!(check("127.0.0.1:10911", "10.0.0.9"));
        assert!(!check("127.0.0.1:10911", "127.0.0.1"));
        assert!(!check("127.0.0.1:10911", "::ffff:127.0.0.1"));
        assert!(!check("10.0.0.7:10911", "10.0.0.9"));
        assert!(!check("broker.example.org:10911", "10.0.0.9"));
    }
}

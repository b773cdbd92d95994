//! Tells name servers elsewhere of this broker: every 30 s, at once when topics change, and at the end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::frame::{self, Frame};
use sluice_protocol::header::{Header, HeaderKind};
use sluice_protocol::record::body_crc;
use sluice_protocol::request;
use sluice_protocol::route::MASTER;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::broker::Broker;

/// Between two registrations; a name server gives a broker up after 120 s.
const EVERY: Duration = Duration::from_secs(30);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(3);
const ANSWER_MAX: Duration = Duration::from_secs(6);

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
    connection: &mut Option<TcpStream>,
    leave: bool,
) -> io::Result<()> {
    let stream = match connection {
        Some(stream) => stream,
        None => connection.insert(timeout(ANSWER_MAX, TcpStream::connect(name_server)).await??),
    };
    let settings = &broker.settings;
    // Where it names no address, the one by which the name server sees us is the best guess.
    let here = stream.local_addr()?.ip();
    let address = match settings.address().parse::<SocketAddr>() {
        Ok(addr) if addr.ip().is_unspecified() => SocketAddr::new(here, addr.port()).to_string(),
        _ => settings.address(),
    };
    let mut bytes = Vec::new();
    let written = if leave {
        let fields = request::UnregisterBroker {
            broker_name: &settings.name,
            broker_addr: &address,
            cluster_name: &settings.cluster,
            broker_id: MASTER,
        };
        let header = Header::request(RequestCode::UNREGISTER_BROKER, 0, fields.fields());
        frame::encode(&mut bytes, HeaderKind::Json, &header, &[])
    } else {
        let body = broker.registration().encode();
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
        let header = Header::request(RequestCode::REGISTER_BROKER, 0, fields.fields());
        frame::encode(&mut bytes, HeaderKind::Json, &header, &body)
    };
    written.map_err(io::Error::other)?;
    timeout(ANSWER_MAX, exchange(stream, &bytes)).await?
}

/// Sends a request and reads its response.
async fn exchange(stream: &mut TcpStream, request: &[u8]) -> io::Result<()> {
    stream.write_all(request).await?;
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

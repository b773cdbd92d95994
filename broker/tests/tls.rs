//! TLS on the port of the plain protocol: who is served, and that those who misbehave in a handshake harm nobody.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sluice_broker::{Security, TlsMode, TlsSettings};
use sluice_protocol::code::{RequestCode as C, ResponseCode as R};
use sluice_protocol::fields::Fields;
use sluice_protocol::frame::{self, Frame};
use sluice_protocol::header::{Header, HeaderKind};

use support::{Client, TestBroker, encoded, pull_header, send_header};

/// An authority that signs certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// Writes a certificate and its key; gives the two files.
    fn sign(&self, dir: &Path, name: &str, host: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let files = (dir.join(format!("{name}.pem")), dir.join(format!("{name}-key.pem")));
        std::fs::write(&files.0, signed.pem()).unwrap();
        std::fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }

    fn file(&self, dir: &Path) -> PathBuf {
        let file = dir.join("ca.pem");
        std::fs::write(&file, self.certificate.pem()).unwrap();
        file
    }
}

fn start(dir: &Path, tls: TlsSettings) -> (TestBroker, Arc<Security>) {
    let security = Arc::new(Security::new(None, Some(tls)).unwrap());
    let of_broker = Arc::clone(&security);
    (TestBroker::with(&dir.join("store"), false, |settings| settings.security = of_broker), security)
}

fn settings((certificate, key): (PathBuf, PathBuf), mode: TlsMode) -> TlsSettings {
    TlsSettings { certificate, key, client_ca: None, mode }
}

/// A connection in TLS.
struct TlsClient {
    stream: StreamOwned<ClientConnection, TcpStream>,
    received: Vec<u8>,
}

impl TlsClient {
    fn new(addr: SocketAddr, ca: &Authority, own: Option<&(PathBuf, PathBuf)>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(ca.certificate.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { stream: StreamOwned::new(connection, stream), received: Vec::new() }
    }

    /// The response's code and body.
    fn call(&mut self, code: C, fields: Fields<'_>, body: &[u8]) -> std::io::Result<(R, Vec<u8>)> {
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, HeaderKind::Binary, &Header::request(code, 7, fields), body).unwrap();
        self.stream.write_all(&bytes)?;
        loop {
            if let Some((frame, len)) = Frame::decode(&self.received).unwrap() {
                let answer = (frame.header().unwrap().response_code(), frame.body.to_vec());
                self.received.drain(..len);
                return Ok(answer);
            }
            let mut some = [0; 64 * 1024];
            match self.stream.read(&mut some)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                len => self.received.extend_from_slice(&some[..len]),
            }
        }
    }

    fn send(&mut self, body: &[u8]) -> std::io::Result<R> {
        let properties = encoded(&[]);
        Ok(self.call(C::SEND_MESSAGE_V2, send_header("t", 0, &properties).fields(), body)?.0)
    }

    fn pull(&mut self, from: i64) -> (R, Vec<u8>) {
        self.call(C::PULL_MESSAGE, pull_header("t", 0, from, ("TAG", "*"), 0).fields(), &[]).unwrap()
    }
}

/// Whether the other side ends the connection.
fn is_ended(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut some = [0; 1024];
    loop {
        match stream.read(&mut some) {
            // It may send an alert first.
            Ok(1..) => {}
            Ok(0) => return true,
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn messages_go_in_and_out_by_tls_beside_plain_ones_where_both_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::new();
    let own = ca.sign(dir.path(), "server", "127.0.0.1");
    let (broker, _) = start(dir.path(), settings(own, TlsMode::Permissive));
    assert_eq!(broker.client().send("t", 0, "plain", &[]).code, R::SUCCESS);
    let mut tls = TlsClient::new(broker.addr, &ca, None);
    // Longer than a TLS record, and than what is copied beside its header.
    let large: Vec<u8> = (0..1_000_000_u32).map(|i| i as u8).collect();
    assert_eq!(tls.send(&large).unwrap(), R::SUCCESS);
    for (offset, expected) in [(0, b"plain".as_slice()), (1, &large)] {
        let (code, body) = tls.pull(offset);
        assert_eq!(code, R::SUCCESS);
        let first = sluice_protocol::record::records(&body).next().unwrap().unwrap();
        assert!(
            first.queue_offset == offset && first.body == expected,
            "{offset}: {} bytes",
            first.body.len()
        );
    }
    let mut names = TlsClient::new(broker.names, &ca, None);
    let route = sluice_protocol::request::GetRouteInfo { topic: "t", accept_standard_json_only: Some(true) };
    assert_eq!(names.call(C::GET_ROUTEINFO_BY_TOPIC, route.fields(), &[]).unwrap().0, R::SUCCESS);
}

#[test]
fn a_client_without_tls_is_refused_where_all_must_speak_it() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::new();
    let own = ca.sign(dir.path(), "server", "127.0.0.1");
    let (broker, _) = start(dir.path(), settings(own, TlsMode::Enforcing));
    for addr in [broker.addr, broker.names] {
        let mut plain = Client::connect(addr);
        let (bytes, _) = plain.encode(C::GET_BROKER_CLUSTER_INFO, Fields::new(), &[]);
        plain.write(&bytes);
        assert!(plain.read().is_none());
    }
    assert_eq!(TlsClient::new(broker.addr, &ca, None).send(b"m").unwrap(), R::SUCCESS);
    // A client that trusts another authority does not go on.
    assert!(TlsClient::new(broker.addr, &Authority::new(), None).send(b"m").is_err());
}

#[test]
fn a_tls_client_of_a_broker_without_a_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    assert!(TlsClient::new(broker.addr, &Authority::new(), None).send(b"m").is_err());
    assert_eq!(broker.client().send("t", 0, "m", &[]).code, R::SUCCESS);
}

#[test]
fn who_stops_or_talks_nonsense_in_a_handshake_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::new();
    let own = ca.sign(dir.path(), "server", "127.0.0.1");
    let (broker, _) = start(dir.path(), settings(own, TlsMode::Permissive));
    let slow: Vec<TcpStream> = (0..100)
        .map(|number| {
            let mut stream = TcpStream::connect(broker.addr).unwrap();
            // Nothing at all, or a handshake that never goes on.
            stream.write_all(&[0x16, 3, 1, 2, 0, 1][..number % 7]).unwrap();
            stream
        })
        .collect();
    let mut garbage: u64 = 1;
    for len in [1, 5, 100, 20_000] {
        let mut stream = TcpStream::connect(broker.addr).unwrap();
        let noise = (0..len).map(|_| {
            garbage = garbage.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (garbage >> 56) as u8
        });
        // Records of a type and a length that there are none of.
        let bytes: Vec<u8> = [0x16, 3, 3, 0xff, 0xff].into_iter().chain(noise).collect();
        // It may be refused before all of it is written.
        let _ = stream.write_all(&bytes);
        assert!(is_ended(&mut stream), "{len}");
    }
    assert_eq!(TlsClient::new(broker.addr, &ca, None).send(b"m").unwrap(), R::SUCCESS);
    assert_eq!(broker.client().send("t", 0, "m", &[]).code, R::SUCCESS);
    // What breaks within TLS ends that connection alone.
    let mut broken = TlsClient::new(broker.addr, &ca, None);
    assert_eq!(broken.send(b"m").unwrap(), R::SUCCESS);
    broken.stream.sock.write_all(&[0x17, 3, 3, 0, 32]).unwrap();
    broken.stream.sock.write_all(&[7; 32]).unwrap();
    assert!(is_ended(&mut broken.stream.sock));
    // Frames that are none, too.
    let mut nonsense = TlsClient::new(broker.addr, &ca, None);
    nonsense.stream.write_all(&[0xff; 64]).unwrap();
    assert_eq!(nonsense.stream.read(&mut [0; 16]).unwrap_or(0), 0);
    drop(slow);
}

#[test]
fn only_clients_with_a_certificate_of_the_authority_are_served_where_one_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, other) = (Authority::new(), Authority::new());
    let own = ca.sign(dir.path(), "server", "127.0.0.1");
    let tls = TlsSettings { client_ca: Some(ca.file(dir.path())), ..settings(own, TlsMode::Enforcing) };
    let (broker, _) = start(dir.path(), tls);
    let (good, bad) = (ca.sign(dir.path(), "app", "app"), other.sign(dir.path(), "bad", "app"));
    assert_eq!(TlsClient::new(broker.addr, &ca, Some(&good)).send(b"m").unwrap(), R::SUCCESS);
    assert!(TlsClient::new(broker.addr, &ca, Some(&bad)).send(b"m").is_err());
    assert!(TlsClient::new(broker.addr, &ca, None).send(b"m").is_err());
}

#[test]
fn a_certificate_is_changed_while_the_broker_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let own = old.sign(dir.path(), "server", "127.0.0.1");
    let (broker, security) = start(dir.path(), settings(own.clone(), TlsMode::Enforcing));
    let mut open = TlsClient::new(broker.addr, &old, None);
    assert_eq!(open.send(b"m").unwrap(), R::SUCCESS);
    std::fs::write(&own.0, "half a").unwrap();
    let error = security.reload_certificate().unwrap_err().to_string();
    assert!(error.contains("server.pem"), "{error}");
    assert_eq!(TlsClient::new(broker.addr, &old, None).send(b"m").unwrap(), R::SUCCESS);
    new.sign(dir.path(), "server", "127.0.0.1");
    security.reload_certificate().unwrap();
    assert_eq!(TlsClient::new(broker.addr, &new, None).send(b"m").unwrap(), R::SUCCESS);
    assert!(TlsClient::new(broker.addr, &old, None).send(b"m").is_err());
    assert_eq!(open.send(b"as before").unwrap(), R::SUCCESS);
}

#[test]
fn files_that_can_not_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::new();
    let (one, other) = (ca.sign(dir.path(), "one", "127.0.0.1"), ca.sign(dir.path(), "other", "127.0.0.1"));
    let refused = |certificate: &PathBuf, key: &PathBuf| {
        let tls = settings((certificate.clone(), key.clone()), TlsMode::Enforcing);
        Security::new(None, Some(tls)).unwrap_err().to_string()
    };
    assert!(refused(&dir.path().join("none.pem"), &one.1).contains("none.pem"));
    assert!(refused(&one.1, &one.1).contains("holds no certificate"));
    assert!(refused(&one.0, &one.0).contains("private key"));
    assert!(refused(&one.0, &other.1).contains("cannot be used together"));
}

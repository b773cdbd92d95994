//! TLS on the port of the plain protocol: the first byte of a connection tells which it is.
//!
//! A TLS connection begins with a handshake record (0x16), a frame with the high byte of its length, which is 0 in all
//! that are taken. Nothing is asked of connections where TLS is not on.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::metrics::Refused;
use crate::socket::Socket;

/// First byte of a TLS handshake.
pub(crate) const HANDSHAKE: u8 = 0x16;
/// How long a client may take over its handshake once it has begun.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How long a client may say nothing at all: as long as later on.
const FIRST_BYTE_MAX: Duration = Duration::from_mins(2);

/// Whether connections without TLS are taken beside those with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// TLS only.
    #[default]
    Enforcing,
    /// Both, as each client wants.
    Permissive,
}

/// Files of a server's certificate; all PEM.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// Its certificate, with those between it and the authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities of which a client must have a certificate; any client is taken without.
    pub client_ca: Option<PathBuf>,
    /// Whether all clients must speak TLS.
    pub mode: TlsMode,
}

/// Files that can not be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields")]
pub enum TlsError {
    /// It is not there, or no PEM.
    #[error("cannot read {what} in {path}", path = path.display())]
    Read { what: &'static str, path: PathBuf, source: pem::Error },
    /// There is none of what was looked for.
    #[error("{path} holds no certificate", path = path.display())]
    Empty { path: PathBuf },
    /// Certificate and key do not belong together, or are of a kind that is not known.
    #[error("certificate {certificate} and key {key} cannot be used together", certificate = certificate.display(), key = key.display())]
    Pair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    /// Authorities that can not be used.
    #[error("the authorities in {path} cannot be used", path = path.display())]
    Authorities { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
}

/// The algorithms.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// All certificates of a PEM file.
fn certificates(path: &PathBuf, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Read { what, path: path.clone(), source };
    let found = CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<Vec<_>, _>>();
    let found = found.map_err(failed)?;
    if found.is_empty() { Err(TlsError::Empty { path: path.clone() }) } else { Ok(found) }
}

/// The authorities of a PEM file.
fn authorities(path: &PathBuf) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, "the authorities")? {
        roots
            .add(certificate)
            .map_err(|source| TlsError::Authorities { path: path.clone(), source: source.into() })?;
    }
    Ok(roots)
}

impl TlsSettings {
    fn load(&self) -> Result<TlsAcceptor, TlsError> {
        let chain = certificates(&self.certificate, "the certificate")?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|source| TlsError::Read {
            what: "the private key",
            path: self.key.clone(),
            source,
        })?;
        let pair =
            |source| TlsError::Pair { certificate: self.certificate.clone(), key: self.key.clone(), source };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(pair)?;
        let builder = match &self.client_ca {
            Some(path) => {
                let roots = Arc::new(authorities(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .build()
                    .map_err(|source| TlsError::Authorities { path: path.clone(), source: source.into() })?;
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        Ok(TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).map_err(pair)?)))
    }
}

/// What turns connections into TLS ones, with the certificate as it is now.
pub(crate) struct Tls {
    settings: TlsSettings,
    acceptor: RwLock<TlsAcceptor>,
    handshake_max: Duration,
}

impl Tls {
    pub(crate) fn new(settings: TlsSettings) -> Result<Self, TlsError> {
        let acceptor = RwLock::new(settings.load()?);
        Ok(Self { settings, acceptor, handshake_max: HANDSHAKE_MAX })
    }

    pub(crate) fn mode(&self) -> TlsMode {
        self.settings.mode
    }

    /// Reads the files again; connections that are open keep what they have.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let acceptor = self.settings.load()?;
        *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
        Ok(())
    }

    /// Looks how a connection begins, and goes through the handshake if it wants one. What is refused was counted by
    /// nobody yet.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Result<Socket, (Refused, io::Error)> {
        let mut first = [0];
        let seen = timeout(FIRST_BYTE_MAX, stream.peek(&mut first)).await;
        let seen = seen.map_err(|_| io::ErrorKind::TimedOut.into()).flatten();
        let handshake = |error| (Refused::Handshake, error);
        let seen = seen.map_err(handshake)?;
        // One that ends without a word is a look whether somebody listens.
        if seen == 0 || first != [HANDSHAKE] && self.mode() == TlsMode::Permissive {
            return Ok(Socket::Plain(stream));
        }
        if first != [HANDSHAKE] {
            let told = "the client speaks no TLS, and this port takes nothing else: set tls.enable=true in RocketMQ's \
                        Java client, or give --tls";
            return Err((Refused::Plaintext, io::Error::other(told)));
        }
        let acceptor = self.acceptor.read().unwrap_or_else(PoisonError::into_inner).clone();
        let shaken = timeout(self.handshake_max, acceptor.accept(stream)).await;
        let stream = shaken.map_err(|_| io::ErrorKind::TimedOut.into()).flatten().map_err(handshake)?;
        Ok(Socket::Tls(Box::new(stream)))
    }
}

/// How this broker speaks to name servers elsewhere that want TLS.
pub(crate) fn client_config(ca: &PathBuf) -> Result<ClientConfig, TlsError> {
    let unusable = |source: rustls::Error| TlsError::Authorities { path: ca.clone(), source: source.into() };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    Ok(builder.with_root_certificates(authorities(ca)?).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_handshake_that_does_not_go_on_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let settings = TlsSettings { certificate, key, client_ca: None, mode: TlsMode::Permissive };
        let tls = Tls { handshake_max: Duration::from_millis(20), ..Tls::new(settings).unwrap() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        client.write_all(&[HANDSHAKE, 3, 1]).await.unwrap();
        let (why, error) = tls.accept(stream).await.err().expect("no handshake");
        assert_eq!((why, error.kind()), (Refused::Handshake, io::ErrorKind::TimedOut));
    }
}

//! How a client proves who it is, and how it speaks TLS: as configs say it, and made ready.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_protocol::signature::Credentials;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::Error;

/// How to get into a cluster that does not let everybody in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// The account that signs requests; beside its `secret_key`.
    pub access_key: Option<String>,
    /// By which it signs.
    pub secret_key: Option<SecretKey>,
    /// Speak TLS; plain if not said.
    pub tls: Option<TlsSettings>,
}

/// A secret key; never shown.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct SecretKey(pub String);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How servers are trusted; files are PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSettings {
    /// The authorities that sign certificates of servers; those of this machine if not said.
    pub ca: Option<PathBuf>,
    /// The client's own certificate, for servers that ask for one; beside its `key`.
    pub certificate: Option<PathBuf>,
    /// The private key of the client's certificate.
    pub key: Option<PathBuf>,
    /// The name that certificates must have, where it is not the one by which servers are reached.
    pub server_name: Option<String>,
}

impl Access {
    /// What is said in one half only: the key that is missing, and why.
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        let tls = self.tls.clone().unwrap_or_default();
        match (&self.access_key, &self.secret_key, &tls.certificate, &tls.key) {
            (Some(_), None, ..) => Some(("secret_key", "is missing beside `access_key`")),
            (None, Some(_), ..) => Some(("access_key", "is missing beside `secret_key`")),
            (_, _, Some(_), None) => Some(("tls.key", "is missing beside `certificate`")),
            (_, _, None, Some(_)) => Some(("tls.certificate", "is missing beside `key`")),
            _ => None,
        }
    }

    /// What is wrong with it in a config beside the name servers of a cluster, if any are said there.
    pub fn problem_beside(&self, cluster: Option<&str>) -> Option<String> {
        if cluster.is_none() && *self != Self::default() {
            return Some("says how to get into the cluster of `cluster`, which is not said".to_owned());
        }
        self.problem().map(|(key, message)| format!("`{key}` {message}"))
    }
}

/// The same, ready to be used by connections.
#[derive(Default)]
pub(crate) struct Way {
    pub(crate) credentials: Option<Credentials>,
    tls: Option<Tls>,
}

/// TLS as settings say it, with the files read.
pub struct Tls {
    connector: TlsConnector,
    server_name: Option<ServerName<'static>>,
}

impl Way {
    /// Reads the files.
    pub(crate) fn new(access: &Access) -> Result<Self, Error> {
        if let Some((name, expected)) = access.problem() {
            return Err(Error::Setting { name, value: String::new(), expected });
        }
        let credentials = match (&access.access_key, &access.secret_key) {
            (Some(access_key), Some(SecretKey(secret))) => Some(Credentials::new(access_key, secret)),
            _ => None,
        };
        let tls = access.tls.as_ref().map(Tls::new).transpose()?;
        Ok(Self { credentials, tls })
    }

    /// Goes through the handshake; `None` if it is not to be TLS, with the connection back.
    pub(crate) async fn secure(
        &self,
        address: &str,
        stream: TcpStream,
    ) -> io::Result<Result<TlsStream<TcpStream>, TcpStream>> {
        let Some(tls) = &self.tls else { return Ok(Err(stream)) };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let (connector, name) = tls.to(host)?;
        connector.connect(name, stream).await.map(Ok)
    }
}

impl Tls {
    /// What a connection to a host needs, of settings that trust what this machine trusts where there are none.
    ///
    /// # Errors
    /// What is wrong with the files of the settings, or with the host's name.
    pub fn for_host(
        settings: Option<&TlsSettings>,
        host: &str,
    ) -> Result<(TlsConnector, ServerName<'static>), Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self::new(&settings.cloned().unwrap_or_default())?.to(host)?)
    }

    /// The same for clients that make their connector themselves.
    ///
    /// # Errors
    /// What is wrong with the files of the settings.
    pub fn config_for_host(
        settings: Option<&TlsSettings>,
        host: &str,
    ) -> Result<(ClientConfig, String), Box<dyn std::error::Error + Send + Sync>> {
        let settings = settings.cloned().unwrap_or_default();
        let config = Self::config(&settings)?;
        let name = settings.server_name.unwrap_or_else(|| host.trim_matches(['[', ']']).to_owned());
        Ok((config, name))
    }

    /// What a connection to a host needs: with the name that its certificate must have.
    pub fn to(&self, host: &str) -> io::Result<(TlsConnector, ServerName<'static>)> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => {
                ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(io::Error::other)?
            }
        };
        Ok((self.connector.clone(), name))
    }

    /// Reads the files.
    pub fn new(settings: &TlsSettings) -> Result<Self, Error> {
        let config = Self::config(settings)?;
        let server_name = match &settings.server_name {
            Some(name) => Some(ServerName::try_from(name.clone()).map_err(|_| Error::Setting {
                name: "tls.server_name",
                value: name.clone(),
                expected: "a host name or an address",
            })?),
            None => None,
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), server_name })
    }

    fn config(settings: &TlsSettings) -> Result<ClientConfig, Error> {
        let unusable =
            |source: rustls::Error| Error::Tls { what: "settings".to_owned(), source: Arc::new(source) };
        let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        match &settings.ca {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(unusable)?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
            }
        }
        if roots.is_empty() {
            let source = io::Error::from(io::ErrorKind::NotFound);
            let what = "this machine's authorities (name a file of them: `ca`)".to_owned();
            return Err(Error::Tls { what, source: Arc::new(source) });
        }
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots);
        Ok(match (&settings.certificate, &settings.key) {
            (Some(certificate), Some(key)) => {
                let key = PrivateKeyDer::from_pem_file(key).map_err(|source| unreadable(key, source))?;
                builder.with_client_auth_cert(certificates(certificate)?, key).map_err(unusable)?
            }
            _ => builder.with_no_client_auth(),
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = CertificateDer::pem_file_iter(path).map_err(|source| unreadable(path, source))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|source| unreadable(path, source))?;
    if found.is_empty() {
        return Err(unreadable(path, rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(found)
}

fn unreadable(path: &Path, source: rustls::pki_types::pem::Error) -> Error {
    Error::Tls { what: path.display().to_string(), source: Arc::new(source) }
}

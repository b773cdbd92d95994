//! Access control and TLS of a listener: as flags and files say them, what must be said before others may come, and the
//! look whether the files have changed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use sluice_broker::{Accounts, Security, TlsMode, TlsSettings};
use sluice_connect::config::{Problem, tree::Node};

use super::accounts::AclSettings;
use super::settings::BrokerSettings;
use crate::show::causes;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Files of a server's certificate.
#[derive(Args, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TlsFiles {
    /// The server's certificate, with those up to its authority (PEM); then clients can speak TLS
    #[arg(id = "tls-certificate", long, value_name = "FILE", requires = "tls-key")]
    pub(crate) certificate: Option<PathBuf>,
    /// The private key of the certificate (PEM)
    #[arg(id = "tls-key", long, value_name = "FILE", requires = "tls-certificate")]
    pub(crate) key: Option<PathBuf>,
    /// Whether all clients must speak TLS [default: enforcing]
    #[arg(id = "tls-mode", long, value_name = "MODE", requires = "tls-certificate")]
    pub(crate) mode: Option<Mode>,
    /// Take only clients with a certificate of these authorities (PEM)
    #[arg(id = "tls-client-ca", long, value_name = "FILE", requires = "tls-certificate")]
    pub(crate) client_ca: Option<PathBuf>,
}

/// Whether all clients must speak TLS.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// TLS only
    Enforcing,
    /// TLS or not, as each client wants
    Permissive,
}

impl TlsFiles {
    /// What is missing; `at` is where it stands in the tree.
    pub(crate) fn problem(&self, tree: &Node, at: &[&str]) -> Option<Problem> {
        let missing = match (&self.certificate, &self.key) {
            (Some(_), None) => "`key` is missing beside `certificate`",
            (None, _) if self.is_said() => "`certificate` is missing",
            _ => return None,
        };
        Some(Problem { place: tree.locate(at), path: at.join("."), message: missing.to_owned() })
    }

    fn is_said(&self) -> bool {
        self.certificate.is_some() || self.key.is_some() || self.mode.is_some() || self.client_ca.is_some()
    }

    /// What is said here, or in the file where nothing is said here.
    pub(crate) fn or(self, file: Self) -> Self {
        if self.is_said() { self } else { file }
    }

    fn settings(&self) -> Option<TlsSettings> {
        let (certificate, key) = self.certificate.clone().zip(self.key.clone())?;
        let mode = match self.mode {
            Some(Mode::Permissive) => TlsMode::Permissive,
            Some(Mode::Enforcing) | None => TlsMode::Enforcing,
        };
        Some(TlsSettings { certificate, key, client_ca: self.client_ca.clone(), mode })
    }
}

/// Access control and TLS as they are said, made ready.
pub(crate) struct Guard {
    acl: Option<AclSettings>,
    /// The file of the broker's settings, if the accounts stand among them.
    config: Option<PathBuf>,
    tls: TlsFiles,
    pub(crate) security: Arc<Security>,
    /// Accounts at the start.
    accounts: Option<usize>,
    acl_file: Watched,
    tls_files: Watched,
}

impl Guard {
    /// Reads the files. `config` is that of the broker's settings, if there is one.
    pub(crate) fn new(acl: Option<AclSettings>, tls: TlsFiles, config: Option<&Path>) -> Result<Self> {
        let config = config.filter(|_| acl.as_ref().is_some_and(|acl| acl.file.is_none()));
        let config = config.map(Path::to_owned);
        // Seen before they are read: a change between the two is one.
        let of_accounts = acl.iter().filter_map(|acl| acl.file.as_ref()).chain(&config);
        let acl_file = Watched::new(of_accounts.cloned());
        let of_tls = [&tls.certificate, &tls.key, &tls.client_ca];
        let tls_files = Watched::new(of_tls.into_iter().flatten().cloned());
        let accounts = acl.as_ref().map(AclSettings::load).transpose()?;
        let count = accounts.as_ref().map(sluice_broker::Accounts::len);
        let security = Security::new(accounts, tls.settings()).context("TLS")?;
        Ok(Self { acl, config, tls, security: Arc::new(security), accounts: count, acl_file, tls_files })
    }

    /// Refuses to listen for other machines where everybody on them could do everything.
    pub(crate) fn check(&self, listen: SocketAddr, allow_anonymous: bool) -> Result<()> {
        match exposed(listen, self.acl.is_some(), &self.tls) {
            Some(message) if !allow_anonymous => bail!("{message}"),
            _ => Ok(()),
        }
    }

    /// What is on, for the line that says that all is ready.
    pub(crate) fn line(&self) -> String {
        let accounts = self
            .accounts
            .map_or(String::new(), |count| format!(", {count} account{}", if count == 1 { "" } else { "s" }));
        format!("{accounts}{}", self.tls_name().map_or(String::new(), |mode| format!(", TLS {mode}")))
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> (Option<usize>, Option<&'static str>) {
        (self.accounts, self.tls_name())
    }

    fn tls_name(&self) -> Option<&'static str> {
        self.security.tls_mode().map(|mode| match mode {
            TlsMode::Enforcing => "enforcing",
            TlsMode::Permissive => "permissive",
        })
    }

    /// Looks at the files from now on, and at once when it is sent something. Ends when the sender is dropped.
    pub(crate) fn watch(mut self) -> Result<Sender<()>> {
        let (sender, asked) = channel();
        std::thread::Builder::new().name("access-files".to_owned()).spawn(move || {
            loop {
                let is_asked = match asked.recv_timeout(LOOK_EVERY) {
                    Ok(()) => true,
                    Err(RecvTimeoutError::Timeout) => false,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                if self.acl_file.has_changed() || is_asked {
                    self.reload_accounts();
                }
                if self.tls_files.has_changed() || is_asked {
                    self.reload_certificate();
                }
            }
        })?;
        Ok(sender)
    }

    fn reload_accounts(&self) {
        let loaded = match (&self.acl, &self.config) {
            (None, _) => return,
            (Some(_), Some(config)) => accounts_of(config),
            (Some(acl), None) => acl.load(),
        };
        match loaded {
            Ok(accounts) => self.security.set_accounts(accounts),
            Err(error) => {
                let problem = causes(&error);
                tracing::error!(problem, "the accounts stay as they were");
                self.security.keep_accounts(&problem);
            }
        }
    }

    fn reload_certificate(&self) {
        if let Err(error) = self.security.reload_certificate() {
            tracing::error!(problem = causes(&error.into()), "the certificate stays as it was");
        }
    }
}

/// The accounts that stand among a broker's settings.
fn accounts_of(config: &Path) -> Result<Accounts> {
    let (settings, _) = BrokerSettings::read(config)?;
    match settings.acl {
        Some(acl) if acl.file.is_none() => acl.load(),
        _ => bail!(
            "{} has no accounts of its own any more: the broker goes without them, or with those of a file, when it is \
             started anew",
            config.display()
        ),
    }
}

/// Why nobody should listen there, if so.
pub(crate) fn exposed(listen: SocketAddr, has_accounts: bool, tls: &TlsFiles) -> Option<String> {
    let is_closed = tls.certificate.is_some() && tls.mode != Some(Mode::Permissive);
    if listen.ip().to_canonical().is_loopback() || has_accounts || is_closed {
        return None;
    }
    Some(format!(
        "at {listen} every machine that reaches it could read, write and delete everything: name accounts (`acl`, --acl \
         FILE) or a certificate (`tls`, --tls-certificate FILE --tls-key FILE) that clients must use, or say that this is \
         meant (`allow_anonymous: true`, --allow-anonymous)"
    ))
}

/// Files whose contents are looked at.
struct Watched(BTreeMap<PathBuf, Option<Vec<u8>>>);

impl Watched {
    fn new(files: impl Iterator<Item = PathBuf>) -> Self {
        Self(files.map(|file| (file.clone(), std::fs::read(file).ok())).collect())
    }

    /// Whether one of them is another than before. One that is away for a moment is being written.
    fn has_changed(&mut self) -> bool {
        let mut changed = false;
        for (file, known) in &mut self.0 {
            let Ok(now) = std::fs::read(file) else { continue };
            if known.as_ref() != Some(&now) {
                *known = Some(now);
                changed = true;
            }
        }
        changed
    }
}

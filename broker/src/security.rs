//! What the listeners of a process share: accounts, certificate, and whom refusals are told. Both change while it runs.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};

use tokio::time::Instant;

use crate::access::{Accounts, Caller, Denied, needs};
use crate::audit::{Denials, Entry};
use crate::broker::Broker;
use crate::dispatch::Request;
use crate::metrics;
use crate::reply::Reply;
use crate::tls::{Tls, TlsError, TlsMode, TlsSettings};

/// Access control and TLS of a process; the default has neither.
#[derive(Default)]
pub struct Security {
    accounts: Option<RwLock<Arc<Accounts>>>,
    tls: Option<Tls>,
    /// The broker of this process, whose log changes and denials are told.
    audit: OnceLock<Weak<Broker>>,
    denials: Denials,
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accounts = self.accounts().map(|accounts| accounts.len());
        let tls = self.tls.as_ref().map(Tls::mode);
        f.debug_struct("Security").field("accounts", &accounts).field("tls", &tls).finish_non_exhaustive()
    }
}

impl Security {
    /// Access control by these accounts, if any are given, and TLS by these files.
    pub fn new(accounts: Option<Accounts>, tls: Option<TlsSettings>) -> Result<Self, TlsError> {
        let accounts = accounts.map(|accounts| RwLock::new(Arc::new(accounts)));
        Ok(Self { accounts, tls: tls.map(Tls::new).transpose()?, ..Self::default() })
    }

    /// Whether requests are signed.
    pub fn has_accounts(&self) -> bool {
        self.accounts.is_some()
    }

    /// Whether connections may or must be TLS.
    pub fn tls_mode(&self) -> Option<TlsMode> {
        self.tls.as_ref().map(Tls::mode)
    }

    /// Other accounts from now on. Access control that is off stays off: whoever is connected would be cut off.
    pub fn set_accounts(&self, accounts: Accounts) {
        let count = accounts.len();
        if let Some(known) = &self.accounts {
            *known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(accounts);
            self.audit(&Entry::of_config("RELOAD_ACCOUNTS", &format!("{count} accounts"), None));
        }
    }

    /// Accounts that were to come, and can not be read: those before stay.
    pub fn keep_accounts(&self, problem: &str) {
        self.audit(&Entry::of_config("RELOAD_ACCOUNTS", "", Some(problem)));
    }

    /// Reads the certificate again; after an error the one before stays.
    pub fn reload_certificate(&self) -> Result<(), TlsError> {
        let Some(tls) = &self.tls else { return Ok(()) };
        let read = tls.reload();
        let problem = read.as_ref().err().map(ToString::to_string);
        self.audit(&Entry::of_config("RELOAD_CERTIFICATE", "", problem.as_deref()));
        read
    }

    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    fn accounts(&self) -> Option<Arc<Accounts>> {
        let accounts = self.accounts.as_ref()?.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&accounts))
    }

    /// Entries go to this broker's log from now on.
    pub(crate) fn audit_to(&self, broker: &Arc<Broker>) {
        // A process has one broker.
        let _ = self.audit.set(Arc::downgrade(broker));
    }

    /// Keeps an entry: in the broker's log, where there is one, and in that of the process.
    pub(crate) fn audit(&self, entry: &Entry<'_>) {
        entry.trace();
        if let Some(broker) = self.audit.get().and_then(Weak::upgrade) {
            broker.audit(entry);
        }
    }

    /// Who asks, if that may be asked.
    pub(crate) fn permit(&self, request: &Request<'_>, peer: SocketAddr) -> Result<Caller, Reply> {
        let is_open = needs::is_open(request.header.request_code());
        let Some(accounts) = self.accounts().filter(|_| !is_open) else { return Ok(Caller::Trusted) };
        let caller =
            accounts.identify(request, peer).inspect_err(|denied| self.denied(denied, request, peer))?;
        match needs::check(&caller, request) {
            Ok(()) => Ok(caller),
            Err(needs::No::Denied(denied)) => {
                self.denied(&denied, request, peer);
                Err(denied.into())
            }
            Err(needs::No::Unreadable(reply)) => Err(reply),
        }
    }

    /// Counts a denial, and keeps it unless the same client has many.
    pub(crate) fn denied(&self, denied: &Denied, request: &Request<'_>, peer: SocketAddr) {
        metrics::refused(denied.why);
        if let Some(others) = self.denials.take(peer.ip(), Instant::now()) {
            self.audit(&Entry::of_denial(denied, request, peer, others));
        }
    }
}

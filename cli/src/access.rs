//! How the command line gets into a cluster that does not let everybody in: keys of an account, and TLS.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use sluice_client::{Access, ClientSettings, SecretKey, TlsSettings};

/// Where the keys come from, unless they are arguments.
const ACCESS_KEY: &str = "SLUICE_ACCESS_KEY";
const SECRET_KEY: &str = "SLUICE_SECRET_KEY";

/// The way to brokers and name servers.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Access")]
pub(crate) struct AccessArguments {
    /// The account that signs the requests [env: SLUICE_ACCESS_KEY]
    #[arg(long, value_name = "KEY")]
    access_key: Option<String>,
    /// Its secret key; rather by the variable, for others on this machine see arguments [env: SLUICE_SECRET_KEY]
    #[arg(long, value_name = "KEY")]
    secret_key: Option<String>,
    /// Speak TLS
    #[arg(long)]
    tls: bool,
    /// Trust servers whose certificates these authorities signed, not those of this machine (PEM); by TLS
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The client's own certificate, for servers that ask for one (PEM); by TLS
    #[arg(long, value_name = "FILE", requires = "key_file")]
    certificate: Option<PathBuf>,
    /// The private key of the client's certificate (PEM)
    #[arg(id = "key_file", long = "certificate-key", value_name = "FILE", requires = "certificate")]
    certificate_key: Option<PathBuf>,
    /// The name that certificates must have, where it is not the one by which servers are reached; by TLS
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
}

impl AccessArguments {
    /// Settings of a client of these name servers.
    pub(crate) fn settings(&self, namesrv: &str) -> Result<ClientSettings> {
        #[expect(clippy::disallowed_methods, reason = "cli is where the environment comes in")]
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let access_key = self.access_key.clone().or_else(|| env(ACCESS_KEY));
        let secret_key = self.secret_key.clone().or_else(|| env(SECRET_KEY)).map(SecretKey);
        let Self { ca, certificate, certificate_key: key, server_name, .. } = self.clone();
        let of_tls = TlsSettings { ca, certificate, key, server_name };
        let tls = (self.tls || of_tls != TlsSettings::default()).then_some(of_tls);
        let access = Access { access_key, secret_key, tls };
        if let (Some((missing, _)), true) = (access.problem(), access.tls.is_none()) {
            let variable = if missing == "access_key" { ACCESS_KEY } else { SECRET_KEY };
            anyhow::bail!("one of the two keys of an account is not given: set {variable}, too");
        }
        Ok(ClientSettings { access, ..ClientSettings::new(namesrv) })
    }
}

//! An object store as the place of chains and files: S3, or what speaks its protocol.
//!
//! An object is there whole or not at all, and its name is durable when the store answers, so nothing is synced
//! and folders are not made. A name is given by one conditional put (`If-None-Match: *`), because multipart
//! uploads have no such condition; so no file exceeds [`PUT_BYTES_MAX`]. A store that replaces objects in spite of
//! the condition would let two workers overwrite one another: it is found out at the first put and refused.
//!
//! A put whose answer is lost may have stored its object. It fails as any other, and whoever tries again finds
//! the object there and reads it; nothing here guesses.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path as Key;
use object_store::{
    ClientConfigKey, Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    PutPayload, RetryConfig,
};
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_connect::task::{Class, TaskError};
use tokio::runtime::Runtime;

use crate::place::{Entry, Place, TAIL_BYTES, found};

/// What S3 takes in one put, in bytes (`PutObject`; larger objects need a multipart upload).
pub(crate) const PUT_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;

/// Longest key of S3, in bytes.
const KEY_BYTES_MAX: usize = 1024;

/// A plan may rotate at so many bytes: what a slice and the footers bring over it fits one put as well.
pub(crate) const ROTATE_BYTES_MAX: u64 = PUT_BYTES_MAX - 1024 * 1024 * 1024;

/// How long an answer may take, with the client's own retries in it.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// How long the client itself tries again what the store refused for a while.
const RETRY_MAX: Duration = Duration::from_secs(20);

/// A body moves at least so fast, or the connection counts as lost, in bytes a second.
const BYTES_PER_SECOND_MIN: u64 = 256 * 1024;

/// A long list comes in many answers: it counts as so many bytes.
const LIST_BYTES: u64 = 256 * 1024 * 1024;

/// The object by which a store proves that it does not replace what is there.
const PROOF: &str = "_sluice/put-if-absent";

/// Keys of [`StoreConfig`] that hold secrets.
pub(crate) const SECRETS: [&str; 2] = ["secret_access_key", "session_token"];

/// Settings of an object store; what is not said comes from the standard variables `AWS_*` of the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Address of the store, if it is not AWS: `http://localhost:9000`.
    pub endpoint: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// Whether the connection may do without TLS.
    pub allow_http: bool,
    /// Name of the access key.
    pub access_key_id: Option<Secret>,
    /// The access key; written `${VAR}`.
    pub secret_access_key: Option<Secret>,
    /// Token of a temporary access key; written `${VAR}`.
    pub session_token: Option<Secret>,
    /// Folder of this machine where files lie until they are whole; the system's temporary one if not said.
    pub spool: Option<PathBuf>,
}

/// A value that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
pub struct Secret(String);

impl Secret {
    /// The value itself.
    pub(crate) fn open(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Connects to nothing yet: a wrong setting is told, a store that is not there is not.
pub(crate) fn client(bucket: &str, config: &StoreConfig) -> Result<Arc<dyn ObjectStore>, TaskError> {
    use AmazonS3ConfigKey::{AccessKeyId, Endpoint, Region, SecretAccessKey, Token};
    let refused = |e: Error| TaskError::new(Class::Config, format!("cannot use bucket {bucket}")).because(e);
    let retry = RetryConfig { max_retries: 5, retry_timeout: RETRY_MAX, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::from_env().with_retry(retry).with_bucket_name(bucket);
    if config.allow_http {
        builder = builder.with_allow_http(true);
    }
    // How long an answer may take depends on what is sent: `Objects::wait` sees to it.
    builder = builder.with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), "1day");
    let secret = |value: &Option<Secret>| value.as_ref().map(|secret| secret.open().to_owned());
    for (key, value) in [
        (Endpoint, config.endpoint.clone()),
        (Region, config.region.clone()),
        (AccessKeyId, secret(&config.access_key_id)),
        (SecretAccessKey, secret(&config.secret_access_key)),
        (Token, secret(&config.session_token)),
    ] {
        if let Some(value) = value {
            builder = builder.with_config(key, value);
        }
    }
    Ok(Arc::new(builder.build().map_err(refused)?))
}

/// A prefix of an object store.
#[derive(Debug)]
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    /// Drives the client's connections, also while nobody waits.
    runtime: Runtime,
    /// Address of the bucket, for people.
    bucket: String,
    prefix: String,
    spool: PathBuf,
    /// Set once the store has shown that it does not replace.
    proven: OnceLock<()>,
}

impl Objects {
    /// `bucket` is the address that people know the store by.
    pub(crate) fn new(
        store: Arc<dyn ObjectStore>,
        bucket: String,
        prefix: String,
        spool: Option<&Path>,
    ) -> Result<Self, TaskError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("objects")
            .enable_all()
            .build()
            .map_err(|e| TaskError::io("cannot start a thread", e))?;
        let spool = spool.map_or_else(std::env::temp_dir, Path::to_owned).join("sluice-spool");
        Ok(Self { store, runtime, bucket, prefix, spool, proven: OnceLock::new() })
    }

    fn key(&self, key: &str) -> io::Result<Key> {
        let joined = match (&self.prefix[..], key) {
            (prefix, "") => prefix.to_owned(),
            ("", key) => key.to_owned(),
            (prefix, key) => format!("{prefix}/{key}"),
        };
        Key::parse(joined).map_err(|e| io::Error::new(ErrorKind::InvalidFilename, e))
    }

    /// Waits for an answer; `bytes` is what moves.
    fn wait<T>(&self, bytes: u64, work: impl Future<Output = object_store::Result<T>>) -> io::Result<T> {
        let limit = ANSWER_MAX + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN);
        let answer = self.runtime.block_on(async { tokio::time::timeout(limit, work).await });
        answer.map_err(|_| io::Error::from(ErrorKind::TimedOut))?.map_err(io_error)
    }

    fn put(&self, key: &Key, body: Bytes) -> io::Result<bool> {
        let options = PutOptions::from(PutMode::Create);
        let bytes = body.len() as u64;
        match self.wait(bytes, self.store.put_opts(key, PutPayload::from_bytes(body), options)) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                // Some stores say so of a name that another one is only about to give.
                match self.head(key)? {
                    Some(_) => Ok(false),
                    None => Err(io::Error::new(ErrorKind::Interrupted, e)),
                }
            }
            Err(e) => Err(e),
        }
    }

    /// The object's length; `None` if it is not there.
    fn head(&self, key: &Key) -> io::Result<Option<u64>> {
        found(self.wait(0, self.store.head(key))).map(|meta| meta.map(|meta| meta.size))
    }

    fn prove(&self) -> io::Result<()> {
        if self.proven.get().is_some() {
            return Ok(());
        }
        let key = self.key(PROOF)?;
        let body = Bytes::from_static(b"Written twice; the store must refuse the second.\n");
        // One that is there already is a proof as well.
        if self.put(&key, body.clone())? && self.put(&key, body)? {
            let why = "the store replaces an object although it is asked not to (If-None-Match): \
                       two workers would overwrite one another, so nothing is exactly once there";
            return Err(io::Error::new(ErrorKind::Unsupported, why));
        }
        let _ = self.proven.set(());
        Ok(())
    }
}

impl Place for Objects {
    fn show(&self, key: &str) -> String {
        let parts = [&self.bucket[..], &self.prefix, key];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    }

    fn spool(&self, folder: &str) -> PathBuf {
        self.spool.join(folder)
    }

    fn key_bytes_max(&self) -> usize {
        KEY_BYTES_MAX.saturating_sub(self.prefix.len() + 1)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Entry>> {
        let prefix = self.key(folder)?;
        let list = self.wait(LIST_BYTES, self.store.list_with_delimiter(Some(&prefix)))?;
        let entry = |key: &Key, is_folder| {
            let name = key.filename().filter(|_| *key != prefix)?.to_owned();
            Some(Entry { name, is_folder })
        };
        let folders = list.common_prefixes.iter().filter_map(|key| entry(key, true));
        Ok(folders.chain(list.objects.iter().filter_map(|meta| entry(&meta.location, false))).collect())
    }

    fn has(&self, key: &str) -> io::Result<bool> {
        Ok(self.head(&self.key(key)?)?.is_some())
    }

    fn read(&self, key: &str, bytes_max: u64) -> io::Result<Option<Bytes>> {
        let key = self.key(key)?;
        let read = async {
            let mut stream = self.store.get(&key).await?.into_stream();
            let mut bytes = Vec::new();
            while (bytes.len() as u64) < bytes_max
                && let Some(part) = stream.try_next().await?
            {
                bytes.extend_from_slice(&part);
            }
            bytes.truncate(usize::try_from(bytes_max).unwrap_or(usize::MAX));
            Ok(bytes.into())
        };
        found(self.wait(bytes_max, read))
    }

    fn tail(&self, key: &str) -> io::Result<Option<(u64, Bytes)>> {
        let key = self.key(key)?;
        let options = GetOptions { range: Some(GetRange::Suffix(TAIL_BYTES)), ..GetOptions::default() };
        let read = async {
            let answer = self.store.get_opts(&key, options).await?;
            Ok((answer.meta.size, answer.bytes().await?))
        };
        match found(self.wait(TAIL_BYTES, read)) {
            // An object without bytes has no last ones.
            Err(e) => match self.head(&key)? {
                Some(0) => Ok(Some((0, Bytes::new()))),
                _ => Err(e),
            },
            answer => answer,
        }
    }

    fn read_at(&self, key: &str, start: u64, bytes: usize) -> io::Result<Bytes> {
        let key = self.key(key)?;
        let len = bytes as u64;
        let end = start.checked_add(len).ok_or(ErrorKind::UnexpectedEof)?;
        let read = self.wait(len, self.store.get_range(&key, start..end))?;
        if read.len() == bytes { Ok(read) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    fn put_file(&self, temp: &Path, key: &str) -> io::Result<bool> {
        self.prove()?;
        let file = std::fs::File::open(temp)?;
        let bytes = file.metadata()?.len();
        if bytes > PUT_BYTES_MAX {
            let why = format!(
                "the file has {bytes} bytes, and one put takes {PUT_BYTES_MAX} at most: lower `rotate.bytes`"
            );
            return Err(io::Error::new(ErrorKind::Unsupported, why));
        }
        // Mapped: a file of the size of a rotation does not come into memory for its upload.
        let body = if bytes == 0 { Bytes::new() } else { sluice_store::file::mapped(&file)? };
        self.put(&self.key(key)?, body)
    }

    fn mark(&self, key: &str) -> io::Result<()> {
        self.put(&self.key(key)?, Bytes::new()).map(drop)
    }

    fn remove(&self, key: &str) -> io::Result<()> {
        let key = self.key(key)?;
        found(self.wait(0, self.store.delete(&key))).map(drop)
    }

    fn make(&self, _folder: &str) -> io::Result<()> {
        Ok(())
    }

    fn make_one(&self, _folder: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self, _folder: &str) -> io::Result<()> {
        Ok(())
    }

    #[cfg(feature = "delta")]
    fn sync_file(&self, _key: &str) -> io::Result<()> {
        Ok(())
    }

    #[cfg(feature = "delta")]
    fn reader(&self) -> io::Result<(Arc<dyn ObjectStore>, String)> {
        let root = self.show("");
        let mut url = url::Url::parse(&root).map_err(|e| io::Error::new(ErrorKind::InvalidFilename, e))?;
        url.set_path(&format!("{}/", url.path().trim_end_matches('/')));
        Ok((self.store.clone(), url.into()))
    }

    #[cfg(feature = "iceberg")]
    fn address(&self) -> io::Result<String> {
        Ok(self.show(""))
    }

    #[cfg(feature = "iceberg")]
    fn replace(&self, temp: &Path, key: &str) -> io::Result<()> {
        let body = Bytes::from(std::fs::read(temp)?);
        let key = self.key(key)?;
        self.wait(body.len() as u64, self.store.put(&key, PutPayload::from_bytes(body)))?;
        found(std::fs::remove_file(temp)).map(drop)
    }
}

/// The store's error as the file system would say it: who must act is told by the kind.
fn io_error(error: Error) -> io::Error {
    let kind = match &error {
        Error::NotFound { .. } => ErrorKind::NotFound,
        Error::AlreadyExists { .. } | Error::Precondition { .. } => ErrorKind::AlreadyExists,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => ErrorKind::PermissionDenied,
        Error::NotSupported { .. } | Error::NotImplemented { .. } => ErrorKind::Unsupported,
        Error::InvalidPath { .. } => ErrorKind::InvalidFilename,
        _ => ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

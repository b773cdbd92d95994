//! Who says which metadata of a table is the newest.
//!
//! In the table's own folder it is the `metadata/v<n>.metadata.json` with the greatest number, as Hadoop's catalog has it;
//! a commit is a put of the next number if none stands there. `metadata/version-hint.text` tells readers the number, and
//! may lag behind. Else a REST catalog says so.
//!
//! The library's commit loads the table again and makes its commit anew where another one came first. An append of a
//! worker that another one has overtaken would land so: each load for a commit passes a check first, and what does
//! not pass it is not tried again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use iceberg::io::{FileIO, FileIOBuilder};
use iceberg::spec::{TableMetadata, TableMetadataBuilder, TableMetadataRef};
use iceberg::table::Table;
use iceberg::{
    Catalog, CatalogBuilder, Error, ErrorKind, Namespace, NamespaceIdent, Result, Runtime, TableCommit,
    TableCreation, TableIdent,
};
use iceberg_catalog_rest::{RestCatalog, RestCatalogBuilder};
use sluice_connect::task::{Class, TaskError};
use tracing::warn;

use super::storage::{Files, PlaceStorage, through};
use super::{CatalogConfig, METADATA, RestConfig, is_metadata};
use crate::disk::failed;
use crate::place::Place;

/// How long a catalog may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Says which metadata of one table is the newest.
#[derive(Debug)]
pub(super) struct TableCatalog {
    kind: Kind,
    files: Arc<Files>,
    ident: TableIdent,
    /// What a load must pass, while a commit is made.
    fence: Mutex<Option<Passing>>,
}

#[derive(Debug)]
enum Kind {
    Files(Box<FileCatalog>),
    Rest(Box<RestCatalog>),
}

/// Looks at a table before something is committed to it: whether it is there already. An error says why it must not be.
pub(super) type Check = Box<dyn Fn(&TableMetadata) -> std::result::Result<bool, TaskError> + Send>;

/// What a load is checked by, and what came of it.
struct Passing {
    check: Check,
    verdict: Option<Stopped>,
}

impl std::fmt::Debug for Passing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.verdict.fmt(f)
    }
}

/// Why a commit was not made.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The table has it already.
    Committed,
    /// It must not be made at all.
    Refused(TaskError),
}

impl TableCatalog {
    /// Connects to nothing yet.
    pub(super) fn new(
        config: &CatalogConfig,
        files: &Arc<Files>,
        storage: &PlaceStorage,
        runtime: &tokio::runtime::Runtime,
    ) -> std::result::Result<Self, TaskError> {
        let library = Runtime::new(runtime);
        let (kind, ident) = match config {
            CatalogConfig::File => {
                let ident = TableIdent::new(NamespaceIdent::new("files".to_owned()), "table".to_owned());
                let io = FileIOBuilder::new(Arc::new(storage.clone())).build();
                let (files, newest) = (files.clone(), Mutex::new(None));
                let catalog = FileCatalog { files, io, ident: ident.clone(), runtime: library, newest };
                (Kind::Files(Box::new(catalog)), ident)
            }
            CatalogConfig::Rest(rest) => {
                let refused = |e: Box<dyn std::error::Error + Send + Sync>| {
                    TaskError::new(Class::Config, format!("cannot use the catalog {}", rest.uri)).because(e)
                };
                let ident = ident(rest).map_err(|e| refused(e.into()))?;
                let client =
                    reqwest::Client::builder().connect_timeout(ANSWER_MAX).timeout(ANSWER_MAX).build();
                let builder = RestCatalogBuilder::default()
                    .with_client(client.map_err(|e| refused(e.into()))?)
                    .with_storage_factory(Arc::new(storage.clone()))
                    .with_runtime(library);
                let catalog = runtime.block_on(builder.load("rest", properties(rest)));
                (Kind::Rest(Box::new(catalog.map_err(|e| refused(e.into()))?)), ident)
            }
        };
        Ok(Self { kind, files: files.clone(), ident, fence: Mutex::new(None) })
    }

    pub(super) fn ident(&self) -> &TableIdent {
        &self.ident
    }

    /// The newest table; `None` if there is none.
    pub(super) async fn newest(&self) -> Result<Option<Table>> {
        let loaded = match &self.kind {
            Kind::Files(catalog) => catalog.load(),
            Kind::Rest(catalog) => catalog.load_table(&self.ident).await,
        };
        match loaded {
            Ok(table) => Ok(Some(table)),
            Err(e) if matches!(e.kind(), ErrorKind::TableNotFound | ErrorKind::NamespaceNotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes the table, with its namespace; `false` if another one has made it first.
    pub(super) async fn make(&self, creation: TableCreation) -> Result<bool> {
        let made = match &self.kind {
            Kind::Files(catalog) => catalog.make(creation),
            Kind::Rest(catalog) => {
                let namespace = self.ident.namespace();
                if !catalog.namespace_exists(namespace).await? {
                    match catalog.create_namespace(namespace, HashMap::new()).await {
                        Err(e) if e.kind() != ErrorKind::NamespaceAlreadyExists => return Err(e),
                        _ => {}
                    }
                }
                catalog.create_table(namespace, creation).await.map(drop)
            }
        };
        match made {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::TableAlreadyExists => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// From here on a load passes the check, or stops the commit.
    pub(super) fn guard(&self, check: Check) {
        let passing = Passing { check, verdict: None };
        *self.fence.lock().unwrap_or_else(PoisonError::into_inner) = Some(passing);
    }

    /// The end of it: why the commit was stopped, if it was.
    pub(super) fn unguard(&self) -> Option<Stopped> {
        self.fence.lock().unwrap_or_else(PoisonError::into_inner).take()?.verdict
    }

    /// Makes commits that are there durable, and readers find the newest.
    pub(super) fn settle(&self) -> std::result::Result<(), TaskError> {
        match &self.kind {
            Kind::Files(catalog) => catalog.settle(),
            Kind::Rest(_) => Ok(()),
        }
    }

    fn pass(&self, table: &Table) -> Result<()> {
        let mut passing = self.fence.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Passing { check, verdict }) = &mut *passing else { return Ok(()) };
        let stopped = match check(table.metadata()) {
            Ok(false) => return Ok(()),
            Ok(true) => Stopped::Committed,
            Err(error) => Stopped::Refused(error),
        };
        *verdict = Some(stopped);
        Err(Error::new(ErrorKind::PreconditionFailed, "the chain is further in the table, or elsewhere"))
    }
}

fn ident(rest: &RestConfig) -> Result<TableIdent> {
    let parts = rest.table_parts().map(|(namespace, name)| [namespace, vec![name]].concat());
    TableIdent::from_strs(parts.unwrap_or_default())
}

/// The catalog's settings as the library has them.
fn properties(rest: &RestConfig) -> HashMap<String, String> {
    let secret =
        |value: &Option<crate::objects::Secret>| value.as_ref().map(|secret| secret.open().to_owned());
    let all = [
        ("uri", Some(rest.uri.trim_end_matches('/').to_owned())),
        ("warehouse", rest.warehouse.clone()),
        ("token", secret(&rest.token)),
        ("credential", secret(&rest.credential)),
        ("oauth2-server-uri", rest.oauth2_server_uri.clone()),
        ("scope", rest.scope.clone()),
    ];
    all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// What the library asks of a catalog that it commits to: loads and updates of one table, and nothing else.
#[async_trait]
impl Catalog for TableCatalog {
    async fn load_table(&self, table: &TableIdent) -> Result<Table> {
        let table = match &self.kind {
            Kind::Files(catalog) => catalog.load(),
            Kind::Rest(catalog) => catalog.load_table(table).await,
        }?;
        self.pass(&table)?;
        Ok(table)
    }

    async fn update_table(&self, commit: TableCommit) -> Result<Table> {
        match &self.kind {
            Kind::Files(catalog) => catalog.update(commit),
            Kind::Rest(catalog) => {
                // What the new metadata points to.
                tokio::task::block_in_place(|| self.files.sync()).map_err(through)?;
                catalog.update_table(commit).await
            }
        }
    }

    async fn list_namespaces(&self, _parent: Option<&NamespaceIdent>) -> Result<Vec<NamespaceIdent>> {
        unsupported()
    }

    async fn create_namespace(
        &self,
        _namespace: &NamespaceIdent,
        _properties: HashMap<String, String>,
    ) -> Result<Namespace> {
        unsupported()
    }

    async fn get_namespace(&self, _namespace: &NamespaceIdent) -> Result<Namespace> {
        unsupported()
    }

    async fn namespace_exists(&self, _namespace: &NamespaceIdent) -> Result<bool> {
        unsupported()
    }

    async fn update_namespace(
        &self,
        _namespace: &NamespaceIdent,
        _properties: HashMap<String, String>,
    ) -> Result<()> {
        unsupported()
    }

    async fn drop_namespace(&self, _namespace: &NamespaceIdent) -> Result<()> {
        unsupported()
    }

    async fn list_tables(&self, _namespace: &NamespaceIdent) -> Result<Vec<TableIdent>> {
        unsupported()
    }

    async fn create_table(&self, _namespace: &NamespaceIdent, _creation: TableCreation) -> Result<Table> {
        unsupported()
    }

    async fn drop_table(&self, _table: &TableIdent) -> Result<()> {
        unsupported()
    }

    async fn purge_table(&self, _table: &TableIdent) -> Result<()> {
        unsupported()
    }

    async fn table_exists(&self, _table: &TableIdent) -> Result<bool> {
        unsupported()
    }

    async fn rename_table(&self, _src: &TableIdent, _dest: &TableIdent) -> Result<()> {
        unsupported()
    }

    async fn register_table(&self, _table: &TableIdent, _metadata_location: String) -> Result<Table> {
        unsupported()
    }
}

fn unsupported<T>() -> Result<T> {
    Err(Error::new(
        ErrorKind::FeatureUnsupported,
        "this catalog has one table, which is read and committed to",
    ))
}

/// A table that says itself which of its metadata is the newest.
#[derive(Debug)]
struct FileCatalog {
    files: Arc<Files>,
    io: FileIO,
    ident: TableIdent,
    runtime: Runtime,
    /// What was the newest at the last look.
    newest: Mutex<Option<Newest>>,
}

#[derive(Clone, Debug)]
struct Newest {
    version: u64,
    metadata: TableMetadataRef,
}

/// The file of a version, below the table.
pub(super) fn version_name(version: u64) -> String {
    format!("{METADATA}/v{version}.metadata.json")
}

/// The greatest version that a list of the folder has: `None` if it has no metadata, and no number if its metadata is
/// compressed or named by a catalog, so that no number tells the newest. The list may be very long: it is asked for only
/// once.
pub(super) fn last_listed(place: &dyn Place) -> std::result::Result<Option<Option<u64>>, TaskError> {
    let entries = place.list(METADATA).map_err(|e| failed("list", place.show(METADATA), e))?;
    let mut names =
        entries.iter().map(|entry| entry.name.as_str()).filter(|name| is_metadata(name)).peekable();
    if names.peek().is_none() {
        return Ok(None);
    }
    let mut last = None;
    for name in names {
        let Some(version) = name.strip_prefix('v').and_then(|name| name.strip_suffix(".metadata.json"))
        else {
            // Of a catalog, or of a commit of Hadoop's that was not made.
            continue;
        };
        if version.ends_with(".gz") {
            return Ok(Some(None));
        }
        last = last.max(version.parse::<u64>().ok());
    }
    Ok(Some(last))
}

/// The file that tells readers the newest version.
const HINT: &str = "metadata/version-hint.text";

impl FileCatalog {
    fn load(&self) -> Result<Table> {
        let newest = tokio::task::block_in_place(|| self.look()).map_err(through)?;
        let not_found = || Error::new(ErrorKind::TableNotFound, "there is no table");
        self.table(&newest.ok_or_else(not_found)?)
    }

    fn table(&self, newest: &Newest) -> Result<Table> {
        let address = self.files.address();
        Table::builder()
            .file_io(self.io.clone())
            .metadata_location(format!("{address}/{}", version_name(newest.version)))
            .metadata(newest.metadata.clone())
            .identifier(self.ident.clone())
            .runtime(self.runtime.clone())
            // Each commit reads one manifest list, and none is read twice.
            .disable_cache()
            .build()
    }

    /// Finds the newest version; `None` if there is no table.
    fn look(&self) -> std::result::Result<Option<Newest>, TaskError> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match newest.take() {
            // The table may have been removed.
            Some(known) if self.has(known.version)? => Some(known),
            _ => None,
        };
        let start = match &known {
            Some(known) => known.version,
            None => match last_listed(self.files.place())? {
                Some(Some(version)) => version,
                Some(None) => {
                    let message = format!(
                        "{} belongs to a catalog, or is compressed: it does not say which metadata is the newest. Name its \
                         catalog by `catalog: {{rest: …}}`",
                        self.files.place().show(METADATA)
                    );
                    return Err(TaskError::new(Class::Config, message));
                }
                None => return Ok(None),
            },
        };
        let mut version = start;
        while self.has(version + 1)? {
            version += 1;
        }
        let found = match known {
            Some(known) if known.version == version => known,
            _ => Newest { version, metadata: Arc::new(self.read(version)?) },
        };
        *newest = Some(found.clone());
        Ok(Some(found))
    }

    fn has(&self, version: u64) -> std::result::Result<bool, TaskError> {
        let (key, place) = (version_name(version), self.files.place());
        place.has(&key).map_err(|e| failed("look at", place.show(&key), e))
    }

    fn read(&self, version: u64) -> std::result::Result<TableMetadata, TaskError> {
        let key = version_name(version);
        let shown = self.files.place().show(&key);
        let gone = || TaskError::new(Class::Retry, format!("{shown} is gone"));
        let bytes = self.files.read(&key)?.ok_or_else(gone)?;
        serde_json::from_slice(&bytes).map_err(|e| {
            TaskError::new(Class::Config, format!("{shown} is no metadata of a table that is known here"))
                .because(e)
        })
    }

    fn make(&self, creation: TableCreation) -> Result<()> {
        let metadata = TableMetadataBuilder::from_table_creation(creation)?.build()?.metadata;
        self.put(1, metadata, ErrorKind::TableAlreadyExists)
    }

    fn update(&self, mut commit: TableCommit) -> Result<Table> {
        let table = self.load()?;
        for requirement in commit.take_requirements() {
            requirement.check(Some(table.metadata()))?;
        }
        let location = table.metadata_location_result()?.to_owned();
        let mut builder = table.metadata().clone().into_builder(Some(location));
        for update in commit.take_updates() {
            builder = update.apply(builder)?;
        }
        let metadata = builder.build()?.metadata;
        let known = self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let version = known.map_or(0, |known| known.version);
        self.put(version + 1, metadata, ErrorKind::CatalogCommitConflicts)?;
        self.load()
    }

    /// Puts a version, if nothing has its number; `taken` is what that is called.
    fn put(&self, version: u64, metadata: TableMetadata, taken: ErrorKind) -> Result<()> {
        let bytes = serde_json::to_vec(&metadata)?;
        let put = || {
            let key = version_name(version);
            if self.has(version)? {
                return Ok(false);
            }
            if version > 1 {
                // What it points to.
                self.files.sync()?;
            }
            let is_new = self.files.put(&key, &bytes)?;
            self.files.sync()?;
            Ok(is_new)
        };
        let is_new = tokio::task::block_in_place(put).map_err(through)?;
        if !is_new {
            return Err(Error::new(taken, format!("version {version} is there")).with_retryable(true));
        }
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Newest { version, metadata: Arc::new(metadata) });
        if let Err(error) = tokio::task::block_in_place(|| self.hint(version)) {
            // Readers see the version before, until the next one.
            warn!(version, %error, "cannot tell readers of the table's newest version");
        }
        Ok(())
    }

    /// Tells readers the newest version. Who tells looks for a newer one afterwards, so the last word is right.
    fn hint(&self, mut version: u64) -> std::result::Result<(), TaskError> {
        loop {
            self.files.replace(HINT, version.to_string().as_bytes())?;
            let told = version;
            while self.has(version + 1)? {
                version += 1;
            }
            if version == told {
                return Ok(());
            }
        }
    }

    fn settle(&self) -> std::result::Result<(), TaskError> {
        self.files.sync()?;
        let Some(Newest { version, .. }) = self.look()? else { return Ok(()) };
        let place = self.files.place();
        let told = place.read(HINT, 32).map_err(|e| failed("read", place.show(HINT), e))?;
        if told.as_deref() != Some(version.to_string().as_bytes())
            && let Err(error) = self.hint(version)
        {
            warn!(version, %error, "cannot tell readers of the table's newest version");
        }
        Ok(())
    }
}

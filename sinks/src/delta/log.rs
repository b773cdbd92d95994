//! The log of a table: what stands in its newest version, and where chains stand in it. Commits are written by
//! [`super::DeltaSink`]; what they hold is made in [`super::actions`].

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::Schema;
use delta_kernel::engine::arrow_conversion::TryIntoArrow;
use delta_kernel::scan::state::ScanFile;
use delta_kernel::{Engine, KernelError, Snapshot, SnapshotRef};
use delta_kernel_default_engine::DefaultEngineBuilder;
use delta_kernel_default_engine::executor::tokio::TokioMultiThreadExecutor;
use serde_json::{Map, Value, json};
use sluice_connect::task::{Class, TaskError};
use tokio::runtime::Runtime;
use url::Url;

use crate::disk::failed;
use crate::place::Place;

/// Where the log lies below the table.
pub(super) use crate::records::TABLE_LOG as FOLDER;

/// Commits between checkpoints where the table's `delta.checkpointInterval` does not say.
const CHECKPOINT_INTERVAL: u64 = 100;

/// Features that do not concern who adds files of plain rows. What must be asked of a feature that is among them is
/// asked in [`Table::check`].
const FEATURES: &[&str] = &[
    "appendOnly",
    "changeDataFeed",
    "checkConstraints",
    "columnMapping",
    "deletionVectors",
    "generatedColumns",
    "identityColumns",
    "inCommitTimestamp",
    "invariants",
    "timestampNtz",
    "typeWidening",
    "typeWidening-preview",
    "v2Checkpoint",
    "vacuumProtocolCheck",
];

/// Path of a commit below the table.
pub(super) fn commit_name(version: u64) -> String {
    format!("{FOLDER}/{version:020}.json")
}

/// Reads the log of one table.
pub(super) struct Log {
    place: Arc<dyn Place>,
    /// Made at the first look, with the folder's place in the file system.
    reader: Mutex<Option<Reader>>,
    /// Drives the reader's requests.
    runtime: Runtime,
}

struct Reader {
    engine: Arc<dyn Engine>,
    root: Url,
    newest: Option<SnapshotRef>,
}

/// The table in one version.
pub struct Table {
    snapshot: SnapshotRef,
    engine: Arc<dyn Engine>,
}

impl Log {
    pub(super) fn new(place: Arc<dyn Place>) -> Result<Self, TaskError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("delta")
            .enable_all()
            .build()
            .map_err(|e| TaskError::io("cannot start a thread", e))?;
        Ok(Self { place, reader: Mutex::new(None), runtime })
    }

    /// The table, for people.
    pub(super) fn shown(&self) -> impl Display {
        format!("table {}", self.place.show(""))
    }

    /// The newest version; `None` if there is no table. One that we must not add to is refused.
    pub(super) fn table(&self) -> Result<Option<Table>, TaskError> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.still_has(reader.as_ref().and_then(|reader| reader.newest.as_deref()))? {
            *reader = None;
            let shown = self.place.show(FOLDER);
            // A log may be long: all of it is listed but once.
            let entries = self.place.list(FOLDER).map_err(|e| failed("list", shown, e))?;
            if !entries.iter().any(|entry| is_commit(&entry.name)) {
                return Ok(None);
            }
        }
        let reader = match &mut *reader {
            Some(reader) => reader,
            none => none.insert(self.open()?),
        };
        let built = match reader.newest.take() {
            Some(older) => Snapshot::builder_from(older).build(reader.engine.as_ref()),
            None => Snapshot::builder_for(&reader.root).build(reader.engine.as_ref()),
        };
        let snapshot = built.map_err(|e| self.error("cannot read its log", e))?;
        reader.newest = Some(snapshot.clone());
        let table = Table { snapshot, engine: reader.engine.clone() };
        table.check().map_err(|why| {
            TaskError::new(Class::Config, format!("{} can not be written: {why}", self.shown()))
        })?;
        Ok(Some(table))
    }

    /// Whether the version that was seen last is there: the table may have been removed.
    fn still_has(&self, newest: Option<&Snapshot>) -> Result<bool, TaskError> {
        let Some(newest) = newest else { return Ok(false) };
        let name = commit_name(newest.version());
        self.place.has(&name).map_err(|e| failed("look at", self.place.show(&name), e))
    }

    fn open(&self) -> Result<Reader, TaskError> {
        let (store, root) = self.place.reader().map_err(|e| failed("open", self.shown(), e))?;
        let root = Url::parse(&root)
            .map_err(|e| TaskError::new(Class::Config, format!("{} has no URL", self.shown())).because(e))?;
        let executor = TokioMultiThreadExecutor::new(self.runtime.handle().clone());
        let engine = DefaultEngineBuilder::new(store).with_task_executor(Arc::new(executor)).build();
        Ok(Reader { engine: Arc::new(engine), root, newest: None })
    }

    /// Where an application stands.
    pub(super) fn position(&self, table: &Table, app_id: &str) -> Result<Option<i64>, TaskError> {
        table
            .snapshot
            .get_app_id_version(app_id, table.engine.as_ref())
            .map_err(|e| self.error("cannot read where a chain stands in its log", e))
    }

    /// Writes a checkpoint if it is time for one at this version.
    pub(super) fn checkpoint(&self, version: u64) -> Result<(), TaskError> {
        if version == 0 {
            return Ok(());
        }
        let Some(table) = self.table()? else { return Ok(()) };
        let interval = table.snapshot.table_properties().checkpoint_interval;
        let interval = interval.map_or(CHECKPOINT_INTERVAL, std::num::NonZero::get);
        if !version.is_multiple_of(interval) {
            return Ok(());
        }
        let written = table.snapshot.checkpoint(table.engine.as_ref(), None);
        written.map_err(|e| self.error("cannot write a checkpoint", e))?;
        // The library leaves that to the system, and a checkpoint that is torn hides the whole table.
        let name = format!("{FOLDER}/{version:020}.checkpoint.parquet");
        let synced = self.place.sync_file(&name).and_then(|()| self.place.sync(FOLDER));
        synced.map_err(|e| failed("sync", self.place.show(&name), e))
    }

    /// The table's files.
    pub(super) fn active(&self, table: &Table) -> Result<Vec<ActiveFile>, TaskError> {
        let error = |e| self.error("cannot list its files", e);
        let engine = table.engine.as_ref();
        let scan = table.snapshot.clone().scan_builder().build().map_err(error)?;
        let mut found = Vec::new();
        for part in scan.scan_metadata(engine).map_err(error)? {
            found = part.and_then(|part| part.visit_scan_files(found, keep)).map_err(error)?;
        }
        Ok(found)
    }

    fn error(&self, what: &str, error: KernelError) -> TaskError {
        let class = match error.without_backtrace() {
            KernelError::ObjectStore(
                object_store::Error::NotFound { .. } | object_store::Error::Generic { .. },
            )
            | KernelError::IOError(_)
            | KernelError::Reqwest(_)
            | KernelError::FileNotFound(_) => Class::Retry,
            _ => Class::Config,
        };
        TaskError::new(class, format!("{}: {what}", self.shown())).because(error)
    }
}

/// One file that is the table's.
#[derive(Clone, Debug)]
pub(super) struct ActiveFile {
    /// As the log has it: a URI.
    pub(super) path: String,
    /// In bytes.
    pub(super) size: u64,
    /// Partition columns whose value is not null.
    pub(super) partition: BTreeMap<String, String>,
    pub(super) has_deleted_rows: bool,
}

fn is_commit(name: &str) -> bool {
    let number = name.split('.').next().unwrap_or_default();
    number.len() == 20
        && number.bytes().all(|b| b.is_ascii_digit())
        && (name.ends_with(".json") || name.ends_with(".parquet"))
}

fn keep(found: &mut Vec<ActiveFile>, file: ScanFile) {
    found.push(ActiveFile {
        size: u64::try_from(file.size).unwrap_or(u64::MAX),
        partition: file.partition_values.into_iter().collect(),
        has_deleted_rows: file.dv_info.has_vector(),
        path: file.path,
    });
}

impl Table {
    /// A file's partition values as the log has them.
    pub(super) fn partition_values(&self, file: &ActiveFile) -> Map<String, Value> {
        let columns = self.partition_columns().iter();
        columns.map(|name| (name.clone(), json!(file.partition.get(name)))).collect()
    }

    pub(super) fn version(&self) -> u64 {
        self.snapshot.version()
    }

    /// Its columns as Arrow has them.
    pub(super) fn columns(&self) -> Result<Schema, TaskError> {
        self.snapshot.schema().as_ref().try_into_arrow().map_err(|e| {
            TaskError::new(Class::Config, "the table has a column that can not be written").because(e)
        })
    }

    /// Its `metaData` as it stands in the log.
    pub(super) fn metadata(&self) -> Value {
        let metadata = self.snapshot.table_configuration().metadata();
        let mut value = json!({
            "id": metadata.id(),
            "format": {"provider": metadata.format_provider(), "options": metadata.format_options()},
            "schemaString": metadata.schema_string(),
            "partitionColumns": metadata.partition_columns(),
            "configuration": metadata.configuration(),
        });
        let others = [
            ("name", metadata.name().map(Value::from)),
            ("description", metadata.description().map(Value::from)),
            ("createdTime", metadata.created_time().map(Value::from)),
        ];
        for (key, other) in others {
            if let Some(other) = other {
                value[key] = other;
            }
        }
        value
    }

    pub(super) fn partition_columns(&self) -> &[String] {
        self.snapshot.table_configuration().metadata().partition_columns()
    }

    pub(super) fn property(&self, name: &str) -> Option<&str> {
        self.snapshot.table_configuration().metadata().configuration().get(name).map(String::as_str)
    }

    /// Whether columns of this feature may be added.
    pub(super) fn has_feature(&self, name: &str) -> bool {
        let features = self.snapshot.table_configuration().protocol().writer_features();
        features.is_some_and(|features| features.iter().any(|feature| feature.as_ref() == name))
    }

    /// Why rows can not be added, if so.
    fn check(&self) -> Result<(), String> {
        let configuration = self.snapshot.table_configuration();
        let (protocol, metadata) = (configuration.protocol(), configuration.metadata());
        for feature in protocol.writer_features().unwrap_or_default() {
            if !FEATURES.contains(&feature.as_ref()) {
                return Err(format!("it has the feature `{}`, which is not known here", feature.as_ref()));
            }
        }
        if !(1..=7).contains(&protocol.min_writer_version()) {
            return Err(format!("it wants a writer of version {}", protocol.min_writer_version()));
        }
        for (name, value) in metadata.configuration() {
            let why = match name.as_str() {
                "delta.columnMapping.mode" if value != "none" => "its columns have other names in its files",
                "delta.enableInCommitTimestamps" if value == "true" => {
                    "its commits must carry their own times"
                }
                // Positions would be forgotten, and rows written again.
                "delta.setTransactionRetentionDuration" => "it forgets where its writers stand",
                _ if name.starts_with("delta.constraints.") => {
                    "it has constraints that rows must be checked by"
                }
                _ => continue,
            };
            return Err(format!("{why} (`{name}`)"));
        }
        for key in ["delta.generationExpression", "delta.invariants", "delta.identity.start"] {
            if metadata.schema_string().contains(&format!("\"{key}\"")) {
                return Err(format!("it has a column that is computed or checked (`{key}`)"));
            }
        }
        Ok(())
    }
}

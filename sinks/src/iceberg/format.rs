//! Tables of Iceberg: how one is made, grows and is committed to.
//!
//! Files carry the ids of the table's columns, so the table is made, and gets new columns, before the first row that has
//! them is written.

use std::collections::{BTreeSet, HashMap};
use std::error::Error as _;
use std::sync::Arc;

use ::parquet::file::metadata::ParquetMetaData;
use ::parquet::schema::types::Type as ParquetType;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use iceberg::spec::{Snapshot, TableMetadata, Transform, UnboundPartitionSpec};
use iceberg::table::Table;
use iceberg::transaction::{ApplyTransactionAction, Transaction};
use iceberg::{Error, ErrorKind, TableCreation};
use sluice_connect::plan::Plan;
use sluice_connect::task::{Chain, Class, Slice, TaskError};
use sluice_store::file::Disk;
use tokio::runtime::Runtime;

use super::catalog::{Stopped, TableCatalog};
use super::schema::{self, Missing};
use super::storage::{Files, PlaceStorage, bare};
use super::{CatalogConfig, IcebergConfig, metrics};
use crate::files::FileSink;
use crate::partition::Partition;
use crate::place::Place;
use crate::table::fit::Types;
use crate::table::{self, ATTEMPTS_MAX, Fence, MADE_BY, TableFormat, TableSink};

/// Writes one pipeline's rows into a table.
pub type IcebergSink = TableSink<Iceberg>;

/// Tables of Iceberg.
pub struct Iceberg {
    files: Arc<Files>,
    catalog: TableCatalog,
    /// The table, for people.
    shown: String,
    /// Drives the library.
    runtime: Runtime,
}

impl IcebergSink {
    /// A sink of one table; touches nothing yet.
    pub fn new(config: &IcebergConfig, disk: Arc<dyn Disk>) -> Result<Self, TaskError> {
        Self::in_place(table::open(&config.files(), &disk)?, config, disk)
    }

    /// The same in a place that is open already.
    pub fn in_place(
        place: Arc<dyn Place>,
        config: &IcebergConfig,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, TaskError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("iceberg")
            .enable_all()
            .build()
            .map_err(|e| TaskError::io("cannot start a thread", e))?;
        let shown = match &config.catalog {
            CatalogConfig::File => format!("table {}", place.show("")),
            CatalogConfig::Rest(rest) => format!("table {} of {}", rest.table, rest.uri),
        };
        let files = Arc::new(Files::new(place.clone(), disk.clone())?);
        let catalog =
            TableCatalog::new(&config.catalog, &files, &PlaceStorage::new(files.clone()), &runtime)?;
        Self::with(Iceberg { files, catalog, shown, runtime }, place, &config.files(), disk)
    }
}

/// The property, and the key of a snapshot's summary, that has a chain's position.
fn position_key(chain: &Chain) -> String {
    format!("{}{chain}", super::POSITION)
}

/// Whether a snapshot without a parent is the first one of all: some engines take the parent away when they expire it. Of a table
/// that was replaced, those from before are there yet.
pub(super) fn begins(table: &TableMetadata, snapshot: &Snapshot) -> bool {
    let first = snapshot.sequence_number();
    first <= 1 || table.snapshots().any(|other| other.sequence_number() < first)
}

/// Where a chain stands in a table. An error if its properties and the snapshots that are there do not agree.
pub(super) fn position(table: &TableMetadata, chain: &Chain, shown: &str) -> Result<Option<i64>, TaskError> {
    let key = position_key(chain);
    let refused = |why: String| TaskError::new(Class::Config, format!("{shown}: {why}"));
    let read = |text: &String| {
        let number = text.parse::<i64>();
        number.map_err(|e| refused(format!("{key} of it is {text:?}, and no offset")).because(e))
    };
    let property = table.properties().get(&key).map(read).transpose()?;
    let mut snapshot = table.current_snapshot();
    let mut is_whole = snapshot.is_none();
    let mut summary = None;
    while let Some(this) = snapshot {
        if let Some(text) = this.summary().additional_properties.get(&key) {
            summary = Some(read(text)?);
            break;
        }
        match this.parent_snapshot_id() {
            // One that is gone was expired, and those before it.
            Some(parent) => snapshot = table.snapshot_by_id(parent),
            None => {
                is_whole = begins(table, this);
                break;
            }
        }
    }
    let is_torn = match (property, summary) {
        (Some(property), Some(summary)) => property != summary,
        (Some(_), None) => is_whole,
        (None, _) => false,
    };
    if is_torn {
        let of = |at: Option<i64>| at.map_or("no rows".to_owned(), |at| format!("the rows below {at}"));
        return Err(refused(format!(
            "its properties say that it has {} of {chain}, and its snapshots have {}: it was replaced, or rolled back. To \
             write it anew, give the pipeline a new name",
            of(property),
            of(summary)
        )));
    }
    Ok(property.or(summary))
}

impl Iceberg {
    fn refused(&self, why: impl std::fmt::Display) -> TaskError {
        TaskError::new(Class::Config, format!("{}: {why}", self.shown))
    }

    /// What the library says was wrong: what failed below it keeps its class.
    fn error(&self, what: &str, error: &Error) -> TaskError {
        let mut cause = error.source();
        while let Some(inner) = cause {
            if let Some(ours) = inner.downcast_ref::<TaskError>() {
                let causes = sluice_connect::worker::chain_of_causes(ours);
                return TaskError::new(ours.class, format!("{}: {what}", self.shown)).because(causes);
            }
            cause = inner.source();
        }
        let class = match error.kind() {
            ErrorKind::Unexpected | ErrorKind::CatalogCommitConflicts => Class::Retry,
            _ => Class::Config,
        };
        TaskError::new(class, format!("{}: {what}", self.shown)).because(error.to_string())
    }

    /// Why rows can not be added to a table, if so.
    fn check(&self, table: &TableMetadata) -> Result<(), String> {
        let address = self.files.address();
        if bare(table.location()) != bare(address) {
            return Err(format!(
                "it lies at {}, and `path` says {address}: a table is written where it says that it lies",
                table.location()
            ));
        }
        for field in table.default_partition_spec().fields() {
            if field.transform != Transform::Identity {
                return Err(format!(
                    "it is partitioned by `{}`, a {} of a column, and only columns as they are can be written",
                    field.name, field.transform
                ));
            }
        }
        Ok(())
    }

    /// Looks whether rows with these columns fit a table; gives the columns that it lacks. A `pipeline` that is empty
    /// stands for the one that made it.
    fn fits(
        &self,
        table: &TableMetadata,
        pipeline: &str,
        columns: &Schema,
        partition: &Partition,
    ) -> Result<Vec<Missing>, TaskError> {
        let schema = table.current_schema();
        let spec = table.default_partition_spec().fields().iter();
        let standing: Vec<&str> = spec.filter_map(|field| schema.name_by_field_id(field.source_id)).collect();
        let asked: Vec<&str> = partition.columns().iter().map(|column| column.name()).collect();
        if standing != asked {
            return Err(self.refused(table::other_partition(&standing.join(", "), &asked.join(", "))));
        }
        let missing = schema::missing(columns, schema.as_struct()).map_err(|why| self.refused(why))?;
        if !missing.is_empty() {
            let maker = table.properties().get(MADE_BY).map(String::as_str);
            let names: Vec<String> = missing.iter().map(Missing::shown).collect();
            table::may_grow(maker, pipeline, &names).map_err(|why| self.refused(why))?;
        }
        Ok(missing)
    }

    fn make(&self, pipeline: &str, columns: &Schema, partition: &Partition) -> Result<(), TaskError> {
        let (schema, spec) = plan(columns, partition).map_err(|why| self.refused(why))?;
        let creation = TableCreation::builder()
            .name(self.catalog.ident().name().to_owned())
            .location(self.files.address().to_owned())
            .schema(schema)
            .partition_spec(spec)
            .properties([(MADE_BY.to_owned(), pipeline.to_owned())])
            .build();
        let made = self.runtime.block_on(self.catalog.make(creation));
        made.map(drop).map_err(|e| self.error("cannot make it", &e))
    }

    fn grow(&self, table: &Table, missing: Vec<Missing>) -> Result<(), TaskError> {
        let transaction = Transaction::new(table);
        let action = missing
            .into_iter()
            .fold(transaction.update_schema(), |action, column| action.add_column(column.add()));
        let grown = action
            .apply(transaction)
            .and_then(|transaction| self.runtime.block_on(transaction.commit(&self.catalog)).map(drop));
        match grown {
            // Another one was faster: what is missing then is looked at again.
            Err(e)
                if !matches!(e.kind(), ErrorKind::PreconditionFailed | ErrorKind::CatalogCommitConflicts) =>
            {
                Err(self.error("cannot add columns to it", &e))
            }
            _ => Ok(()),
        }
    }
}

/// The columns and the partition of a table that is made.
fn plan(
    columns: &Schema,
    partition: &Partition,
) -> Result<(iceberg::spec::Schema, UnboundPartitionSpec), String> {
    let schema = schema::columns(columns)?;
    // REST catalogs of Iceberg's Java library want an id, which is 0 of the first one.
    let mut spec = UnboundPartitionSpec::builder().with_spec_id(0);
    for column in partition.columns() {
        let name = column.name();
        let field = columns.field_with_name(name).map_err(|e| e.to_string())?;
        let is_plain = matches!(
            field.data_type(),
            DataType::Boolean
                | DataType::Int32
                | DataType::Int64
                | DataType::Utf8
                | DataType::Date32
                | DataType::Timestamp(..)
        );
        let id = schema.field_id_by_name(name).filter(|_| is_plain).ok_or_else(|| {
            format!("it can not be partitioned by `{name}`, a {}: cast it to text", field.data_type())
        })?;
        spec = spec.add_partition_field(id, name, Transform::Identity).map_err(|e| e.to_string())?;
    }
    Ok((schema, spec.build()))
}

impl TableFormat for Iceberg {
    type Table = Table;
    // A `.` stands between a column and what is inside of it.
    const TYPES: Types = Types { no_names: &['.'], has_small_integers: false, has_times: true };
    const IN_FILES: bool = true;

    fn shown(&self) -> String {
        self.shown.clone()
    }

    fn table(&self) -> Result<Option<Table>, TaskError> {
        let newest = self.runtime.block_on(self.catalog.newest());
        let newest = newest.map_err(|e| self.error("cannot read it", &e))?;
        if let Some(table) = &newest {
            self.check(table.metadata()).map_err(|why| self.refused(format!("can not be written: {why}")))?;
        }
        Ok(newest)
    }

    fn columns(&self, table: &Table) -> Result<Schema, TaskError> {
        Ok(schema::to_arrow(table.metadata().current_schema().as_struct()))
    }

    fn position(&self, table: &Table, chain: &Chain) -> Result<Option<i64>, TaskError> {
        position(table.metadata(), chain, &self.shown)
    }

    fn accept(
        &self,
        table: Option<&Table>,
        columns: &Schema,
        partition: &Partition,
    ) -> Result<(), TaskError> {
        match table {
            Some(table) => self.fits(table.metadata(), "", columns, partition).map(drop),
            None => plan(columns, partition).map(drop).map_err(|why| self.refused(why)),
        }
    }

    fn prepare(
        &mut self,
        chain: &Chain,
        columns: SchemaRef,
        partition: &Partition,
    ) -> Result<SchemaRef, TaskError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(table) = self.table()? else {
                self.make(&chain.pipeline, &columns, partition)?;
                continue;
            };
            let missing = self.fits(table.metadata(), &chain.pipeline, &columns, partition)?;
            if missing.is_empty() {
                let standing = table.metadata().current_schema();
                let fields = schema::with_ids(columns.fields(), standing.as_struct());
                return fields.map(|fields| Arc::new(Schema::new(fields))).map_err(|why| self.refused(why));
            }
            self.grow(&table, missing)?;
        }
        Err(TaskError::new(Class::Retry, format!("{}: others change its columns all the time", self.shown)))
    }

    fn unfit(&self, _partition: &Partition, _slice: &Slice) -> Vec<(usize, String)> {
        Vec::new()
    }

    fn commit(
        &mut self,
        _files: &mut FileSink,
        fence: &Fence,
        plan: &Plan,
        _columns: &Schema,
    ) -> Result<(), TaskError> {
        let Some(table) = self.table()? else {
            return Err(TaskError::new(Class::Retry, format!("{}: it is gone", self.shown)));
        };
        let metadata = table.metadata();
        let (mut entries, mut ids) = (Vec::new(), BTreeSet::new());
        for file in &plan.files {
            let (bytes, footer) = table::footer(self.files.place(), file)?;
            ids_of(&footer, &mut ids);
            let path = format!("{}/{}", self.files.address(), file.name);
            let entry = metrics::data_file(metadata, path, bytes, &footer, &file.partition);
            entries.push(entry.map_err(|why| self.refused(why))?);
        }
        let key = position_key(&fence.chain);
        let summary = HashMap::from([
            (key.clone(), plan.end.to_string()),
            ("engine-name".to_owned(), "sluice".to_owned()),
            ("engine-version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ]);
        let transaction = Transaction::new(&table);
        // What plans name is added once; to look for it in all manifests would take longer with each commit.
        let append = transaction.fast_append().with_check_duplicate(false);
        let append = append.set_snapshot_properties(summary).add_data_files(entries);
        let moved = transaction.update_table_properties().set(key, plan.end.to_string());
        let transaction = append.apply(transaction).and_then(|transaction| moved.apply(transaction));
        let transaction = transaction.map_err(|e| self.error("cannot commit to it", &e))?;
        let (fence, spec) = (fence.clone(), metadata.default_partition_spec_id());
        self.catalog.guard(Box::new(move |table| is_committed(table, &fence, spec, &ids)));
        let done = self.runtime.block_on(transaction.commit(&self.catalog));
        match (done, self.catalog.unguard()) {
            (Ok(_), _) => Ok(()),
            (Err(_), Some(Stopped::Committed)) => self.sync(),
            (Err(_), Some(Stopped::Refused(error))) => Err(error),
            (Err(error), None) => Err(self.error("cannot commit to it", &error)),
        }
    }

    fn sync(&self) -> Result<(), TaskError> {
        self.catalog.settle()
    }
}

/// Whether a table has a plan already. An error if its files, which have columns with these ids, must not be added.
fn is_committed(
    table: &TableMetadata,
    fence: &Fence,
    spec: i32,
    ids: &BTreeSet<i32>,
) -> Result<bool, TaskError> {
    if fence.is_committed(position(table, &fence.chain, &fence.shown)?)? {
        return Ok(true);
    }
    if table.default_partition_spec_id() != spec {
        let message = format!("{}: its partition was changed while rows were written", fence.shown);
        return Err(TaskError::new(Class::Retry, message));
    }
    if ids.iter().any(|id| table.current_schema().field_by_id(*id).is_none()) {
        let message = format!(
            "{}: a column that the files of plan {} of {} have was taken from it: remove these files, and they are written \
             anew",
            fence.shown, fence.start, fence.chain
        );
        return Err(TaskError::new(Class::Config, message));
    }
    Ok(false)
}

/// The ids of all columns of a file.
fn ids_of(footer: &ParquetMetaData, ids: &mut BTreeSet<i32>) {
    let mut open: Vec<&ParquetType> = vec![footer.file_metadata().schema_descr().root_schema()];
    while let Some(column) = open.pop() {
        let info = column.get_basic_info();
        ids.extend(info.has_id().then(|| info.id()));
        if column.is_group() {
            open.extend(column.get_fields().iter().map(AsRef::as_ref));
        }
    }
}

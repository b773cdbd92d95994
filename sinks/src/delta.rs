//! Sink `delta`: Parquet files that are committed to the log of a Delta Lake table, as [`crate::table`] says.
//!
//! A commit is for one version of the table, put if absent, and made against what stands in the version before. The
//! chain's position stands in the log as a transaction (`txn`) of the application `sluice/<pipeline>/<topic>/<queue>`.
//!
//! The format: <https://github.com/delta-io/delta/blob/master/PROTOCOL.md>. The log is read by `delta_kernel`.

mod actions;
pub(crate) mod compact;
mod log;
mod stats;

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use sluice_connect::batch::ROUTE;
use sluice_connect::plan::Plan;
use sluice_connect::task::{Chain, Class, Slice, TaskError};
use sluice_store::file::Disk;
use tracing::warn;

use self::log::{Log, Table};
use crate::disk::failed;
use crate::files::FileSink;
use crate::parquet::ParquetConfig;
use crate::partition::{Partition, PartitionColumn};
use crate::place::Place;
use crate::table::fit::Types;
use crate::table::{self, ATTEMPTS_MAX, Fence, TableFormat, TableSink};

/// The application that a chain's position in the log stands under.
pub(crate) fn app_id(chain: &Chain) -> String {
    format!("{}{chain}", crate::table_log::DELTA_PREFIX)
}

/// Writes one pipeline's rows into a table.
pub type DeltaSink = TableSink<Delta>;

/// Tables of Delta Lake.
pub struct Delta {
    log: Log,
    place: Arc<dyn Place>,
}

impl DeltaSink {
    /// A sink of one table; touches nothing yet.
    pub fn new(config: &ParquetConfig, disk: Arc<dyn Disk>) -> Result<Self, TaskError> {
        Self::in_place(table::open(config, &disk)?, config, disk)
    }

    /// The same in a place that is open already.
    pub fn in_place(
        place: Arc<dyn Place>,
        config: &ParquetConfig,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, TaskError> {
        let format = Delta { log: Log::new(place.clone())?, place: place.clone() };
        Self::with(format, place, config, disk)
    }
}

impl TableFormat for Delta {
    type Table = Table;
    const TYPES: Types = Types {
        // Parquet readers of tables do not take these.
        no_names: &[' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '='],
        has_small_integers: true,
        has_times: false,
    };
    const IN_FILES: bool = false;

    fn shown(&self) -> String {
        self.log.shown().to_string()
    }

    fn table(&self) -> Result<Option<Table>, TaskError> {
        self.log.table()
    }

    fn columns(&self, table: &Table) -> Result<Schema, TaskError> {
        table.columns()
    }

    fn position(&self, table: &Table, chain: &Chain) -> Result<Option<i64>, TaskError> {
        self.log.position(table, &app_id(chain))
    }

    fn accept(
        &self,
        table: Option<&Table>,
        columns: &Schema,
        partition: &Partition,
    ) -> Result<(), TaskError> {
        actions::metadata(&self.log, table, "", columns, &names(partition)).map(drop)
    }

    /// The commit that has the first rows of a column brings it.
    fn prepare(
        &mut self,
        _chain: &Chain,
        columns: SchemaRef,
        _partition: &Partition,
    ) -> Result<SchemaRef, TaskError> {
        Ok(columns)
    }

    fn unfit(&self, partition: &Partition, slice: &Slice) -> Vec<(usize, String)> {
        empty_partition(partition, slice)
    }

    fn commit(
        &mut self,
        files: &mut FileSink,
        fence: &Fence,
        plan: &Plan,
        columns: &Schema,
    ) -> Result<(), TaskError> {
        let chain = &fence.chain;
        let adds = plan.files.iter().map(|file| actions::file(self.place.as_ref(), file, plan.decided_ms));
        let adds = adds.collect::<Result<Vec<_>, _>>()?;
        let partition = names(files.partition());
        for _ in 0..ATTEMPTS_MAX {
            let table = self.log.table()?;
            let at = table.as_ref().map(|table| self.position(table, chain)).transpose()?.flatten();
            if fence.is_committed(at)? {
                return Ok(());
            }
            let lines = actions::commit(&self.log, table.as_ref(), chain, plan, columns, &partition, &adds)?;
            let version = table.as_ref().map_or(0, |table| table.version() + 1);
            let name = log::commit_name(version);
            let chains = files.chains_mut();
            if version == 0 {
                chains.make_folder(log::FOLDER)?;
            }
            if chains.put_durably(&chain.pipeline, &name, &lines)? {
                if let Err(error) = self.log.checkpoint(version) {
                    // Readers do without; the next one is tried later.
                    warn!(pipeline = &*chain.pipeline, version, %error, "cannot write a checkpoint of the table");
                }
                return Ok(());
            }
        }
        let message =
            format!("{}: others have committed {ATTEMPTS_MAX} times before this one", self.log.shown());
        Err(TaskError::new(Class::Retry, message))
    }

    fn sync(&self) -> Result<(), TaskError> {
        self.place.sync(log::FOLDER).map_err(|e| failed("sync", self.place.show(log::FOLDER), e))
    }
}

fn names(partition: &Partition) -> Vec<String> {
    partition.columns().iter().map(|column| column.name().to_owned()).collect()
}

/// Rows whose partition value is an empty text: the log has no way to tell it from null.
fn empty_partition(partition: &Partition, slice: &Slice) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for column in partition.columns() {
        // What else is wrong with the column is told when the slice is put.
        for row in partition.empty_rows(column, slice) {
            let name = match column {
                PartitionColumn::Envelope(name) if name == ROUTE => "$route",
                _ => column.name(),
            };
            found.push((
                row,
                format!("partition column `{name}` is an empty text, which Delta Lake takes for null"),
            ));
        }
    }
    found
}

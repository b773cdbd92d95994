//! Sink `delta`: Parquet files that are committed to the log of a Delta Lake table.
//!
//! Its files are published by plans as those of sink `parquet` are, and a commit to the table's log comes behind them:
//! it adds the files of one plan and moves the chain's position, which stands in the log as a transaction (`txn`) of
//! the application `sluice/<pipeline>/<topic>/<queue>`: the first offset that the table does not have. So
//!
//! - the plan is the fence between workers, as in a folder: of two that cut other ranges one is refused;
//! - a commit is for one version of the table, put if absent, and made against what stands in the version before. If
//!   the chain's position is not where the last plan with rows ended, somebody replaced or restored the table, and
//!   nothing is added; if it is behind the plan, another worker has committed it, and nothing is added either.
//!
//! The format: <https://github.com/delta-io/delta/blob/master/PROTOCOL.md>. The log is read by `delta_kernel`.

mod actions;
pub(crate) mod compact;
mod fit;
mod log;
mod stats;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use sluice_connect::batch::ROUTE;
use sluice_connect::plan::{Plan, PlanFile};
use sluice_connect::task::{Chain, Claim, Class, Fill, Position, SinkTask, Slice, TaskError};
use sluice_store::file::Disk;
use tracing::warn;

use self::log::{Log, Table};
use crate::disk::failed;
use crate::files::FileSink;
use crate::parquet::ParquetConfig;
use crate::partition::{Partition, PartitionColumn};
use crate::place::{self, Place};
use crate::plain;

/// Commits of others that one of ours gives way to before it tells.
const ATTEMPTS_MAX: usize = 100;

/// The application that a chain's position in the log stands under.
pub(crate) fn app_id(chain: &Chain) -> String {
    format!("sluice/{chain}")
}

/// Writes one pipeline's rows into a table.
pub struct DeltaSink {
    files: FileSink,
    log: Log,
    /// How the rows of each chain's open plan are cast.
    shapes: HashMap<Chain, Shape>,
    /// Where the table must stand before the next plan with rows.
    expected: HashMap<Chain, Option<i64>>,
}

/// Rows as they come, and as the table has them.
struct Shape {
    rows: SchemaRef,
    cast: SchemaRef,
}

impl DeltaSink {
    /// A sink of one table; touches nothing yet.
    pub fn new(config: &ParquetConfig, disk: Arc<dyn Disk>) -> Result<Self, TaskError> {
        let place = place::open(&config.path, config.store.as_ref(), disk.clone())?;
        Self::in_place(place, config, disk)
    }

    /// The same in a place that is open already.
    pub fn in_place(
        place: Arc<dyn Place>,
        config: &ParquetConfig,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, TaskError> {
        let log = Log::new(place.clone())?;
        let files = FileSink::parquet_in(place, config, disk)?;
        Ok(Self { files, log, shapes: HashMap::new(), expected: HashMap::new() })
    }

    /// The columns of the table for rows with these: the partition columns that are no fields come last.
    fn columns(&self, rows: &Schema) -> Schema {
        let mut fields: Vec<Arc<Field>> = rows.fields().iter().cloned().collect();
        for column in self.files.partition().columns() {
            if rows.field_with_name(column.name()).is_err() {
                fields.push(Arc::new(Field::new(column.name(), partition_type(column), true)));
            }
        }
        Schema::new(fields)
    }

    /// The rows with the types of the table's columns, or with those that it will be made with.
    fn shape(&mut self, chain: &Chain, rows: &SchemaRef) -> Result<SchemaRef, TaskError> {
        if let Some(shape) = self.shapes.get(chain).filter(|shape| shape.rows.fields() == rows.fields()) {
            return Ok(shape.cast.clone());
        }
        let table = self.log.table()?;
        let cast = self.fit(rows, table.as_ref())?;
        self.shapes.insert(chain.clone(), Shape { rows: rows.clone(), cast: cast.clone() });
        Ok(cast)
    }

    fn fit(&self, rows: &Schema, table: Option<&Table>) -> Result<SchemaRef, TaskError> {
        let refused = |why: String| TaskError::new(Class::Config, format!("{}: {why}", self.log.shown()));
        let standing = table.map(Table::columns).transpose()?;
        fit::columns(rows, standing.as_ref()).map(Arc::new).map_err(refused)
    }

    /// Where the table must stand for a plan that starts here: at the end of the last one that had files.
    fn expect(&mut self, chain: &Chain, start: i64) -> Result<Option<i64>, TaskError> {
        if let Some(expected) = self.expected.get(chain) {
            return Ok(*expected);
        }
        let expected = self.files.chains().end_with_files(chain, start)?;
        self.expected.insert(chain.clone(), expected);
        Ok(expected)
    }

    /// Whether the table has the plan already; an error if it has not what came before.
    fn is_committed(&mut self, chain: &Chain, plan: &Plan, table: Option<&Table>) -> Result<bool, TaskError> {
        let at = table.map(|table| self.log.position(table, &app_id(chain))).transpose()?.flatten();
        if at.is_some_and(|at| at >= plan.end) {
            return Ok(true);
        }
        let expected = self.expect(chain, plan.start)?;
        if at == expected {
            return Ok(false);
        }
        let has = |at: Option<i64>| at.map_or("no rows".to_owned(), |at| format!("the rows below {at}"));
        let message = format!(
            "{}: the table has {} of {chain}, and the plans before {} gave it {}: it was replaced, or restored. To write it \
             anew, give the pipeline a new name",
            self.log.shown(),
            has(at),
            plan.start,
            has(expected),
        );
        Err(TaskError::new(Class::Config, message))
    }

    /// Makes the names of the commits durable: who made them may have died before.
    fn sync_log(&self) -> Result<(), TaskError> {
        let place = self.files.place();
        place.sync(log::FOLDER).map_err(|e| failed("sync", place.show(log::FOLDER), e))
    }

    /// Commits the files of a plan, which have their names.
    fn commit(&mut self, chain: &Chain, plan: &Plan) -> Result<(), TaskError> {
        let place = self.files.place().clone();
        let files = plan.files.iter().map(|file| actions::file(place.as_ref(), file, plan.decided_ms));
        let adds = files.collect::<Result<Vec<_>, _>>()?;
        let rows = self.shapes.get(chain).map(|shape| shape.rows.clone()).ok_or_else(|| {
            TaskError::new(Class::Fatal, format!("{chain}: a plan is committed whose rows were not put"))
        })?;
        let cast = self.shapes.get(chain).map_or_else(|| rows.clone(), |shape| shape.cast.clone());
        let columns = self.columns(&cast);
        let partition: Vec<&str> =
            self.files.partition().columns().iter().map(PartitionColumn::name).collect();
        let partition: Vec<String> = partition.into_iter().map(str::to_owned).collect();
        for _ in 0..ATTEMPTS_MAX {
            let table = self.log.table()?;
            if self.is_committed(chain, plan, table.as_ref())? {
                return Ok(());
            }
            let lines = actions::commit(&self.log, table.as_ref(), chain, plan, &columns, &partition, &adds)?;
            let version = table.as_ref().map_or(0, |table| table.version() + 1);
            let name = log::commit_name(version);
            let chains = self.files.chains_mut();
            if version == 0 {
                chains.make_folder(log::FOLDER)?;
            }
            if chains.put_durably(&chain.pipeline, &name, &lines)? {
                self.expected.insert(chain.clone(), Some(plan.end));
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
}

/// The type of a partition column that is no field of the rows.
fn partition_type(column: &PartitionColumn) -> arrow::datatypes::DataType {
    use arrow::datatypes::{DataType, TimeUnit};
    match column {
        PartitionColumn::Envelope(name) => match name.as_str() {
            "queue_id" => DataType::Int32,
            "queue_offset" => DataType::Int64,
            "store_timestamp" | "born_timestamp" => {
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
            }
            _ => DataType::Utf8,
        },
        PartitionColumn::Property(_) | PartitionColumn::Field(_) => DataType::Utf8,
    }
}

fn cast(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, TaskError> {
    plain::batch(batch, schema)
        .map_err(|e| TaskError::new(Class::Record, "a row does not fit the table's column").because(e))
}

impl SinkTask for DeltaSink {
    fn position(&mut self, chain: &Chain) -> Result<Option<Position>, TaskError> {
        self.expected.remove(chain);
        let position = self.files.position(chain)?;
        if position.is_none()
            && let Some(table) = self.log.table()?
            && let Some(at) = self.log.position(&table, &app_id(chain))?
        {
            let message = format!(
                "{}: the table has the rows below {at} of {chain}, and its plans in `_sluice` are gone: put them back, or \
                 give the pipeline a new name",
                self.log.shown()
            );
            return Err(TaskError::new(Class::Config, message));
        }
        Ok(position)
    }

    fn begin(&mut self, chain: &Chain, origin: i64, incarnation: &str) -> Result<(), TaskError> {
        self.files.begin(chain, origin, incarnation)
    }

    fn schema(
        &mut self,
        pipeline: &str,
        proposed: Option<&SchemaRef>,
    ) -> Result<Option<SchemaRef>, TaskError> {
        self.files.schema(pipeline, proposed)
    }

    fn schema_by_hash(&mut self, pipeline: &str, hash: &str) -> Result<Option<SchemaRef>, TaskError> {
        self.files.schema_by_hash(pipeline, hash)
    }

    fn accept(&self, output: &SchemaRef) -> Result<(), TaskError> {
        self.files.accept(output)?;
        let table = self.log.table()?;
        let cast = self.fit(output, table.as_ref())?;
        let columns = self.columns(&cast);
        let partition = self.files.partition().columns().iter().map(|column| column.name().to_owned());
        actions::metadata(&self.log, table.as_ref(), "", &columns, &partition.collect::<Vec<_>>()).map(drop)
    }

    fn keep_config(&mut self, pipeline: &str, hash: &str, text: &str) -> Result<(), TaskError> {
        self.files.keep_config(pipeline, hash, text)
    }

    fn config(&mut self, pipeline: &str, hash: &str) -> Result<String, TaskError> {
        self.files.config(pipeline, hash)
    }

    fn unfinished(&mut self, pipeline: &str) -> Result<Vec<(Chain, Plan)>, TaskError> {
        self.files.unfinished(pipeline)
    }

    fn check(&mut self, pipeline: &str) -> Result<(), TaskError> {
        self.files.check(pipeline)?;
        self.log.table().map(drop)
    }

    fn unfit(&self, slice: &Slice) -> Vec<(usize, String)> {
        let mut unfit = self.files.unfit(slice);
        unfit.extend(empty_partition(self.files.partition(), slice));
        unfit.extend(fit::too_fine(slice.output()));
        unfit.sort_by_key(|(row, _)| *row);
        unfit.dedup_by_key(|(row, _)| *row);
        unfit
    }

    fn put(&mut self, chain: &Chain, slice: &Slice) -> Result<Fill, TaskError> {
        if slice.envelope.num_rows() == 0 {
            return self.files.put(chain, slice);
        }
        let schema = self.shape(chain, &slice.output().schema())?;
        let mut slice = slice.clone();
        match &mut slice.decoded {
            Some(decoded) => *decoded = cast(decoded, &schema)?,
            None => slice.envelope = cast(&slice.envelope, &schema)?,
        }
        self.files.put(chain, &slice)
    }

    fn memory(&self) -> usize {
        self.files.memory()
    }

    fn shrink(&mut self, bytes_max: usize) -> Result<(), TaskError> {
        self.files.shrink(bytes_max)
    }

    fn age_max(&self) -> Duration {
        self.files.age_max()
    }

    fn files(&mut self, chain: &Chain, start: i64) -> Result<Vec<PlanFile>, TaskError> {
        self.files.files(chain, start)
    }

    fn claim(&mut self, chain: &Chain, plan: &Plan) -> Result<Claim, TaskError> {
        self.files.claim(chain, plan)
    }

    fn seal(&mut self, chain: &Chain, plan: &Plan) -> Result<(), TaskError> {
        self.files.seal(chain, plan)
    }

    fn published(&mut self, chain: &Chain, plan: &Plan) -> Result<bool, TaskError> {
        if plan.files.is_empty() {
            return Ok(true);
        }
        let table = self.log.table()?;
        Ok(self.is_committed(chain, plan, table.as_ref())? && self.sync_log().map(|()| true)?)
    }

    fn publish(&mut self, chain: &Chain, plan: &Plan) -> Result<(), TaskError> {
        if !plan.files.is_empty() {
            let table = self.log.table()?;
            if self.is_committed(chain, plan, table.as_ref())? {
                self.sync_log()?;
                self.expected.insert(chain.clone(), Some(plan.end));
                self.shapes.remove(chain);
                return self.files.discard(chain);
            }
        }
        self.files.publish(chain, plan)?;
        if !plan.files.is_empty() {
            self.commit(chain, plan)?;
        }
        self.shapes.remove(chain);
        Ok(())
    }

    fn confirm(&mut self, chain: &Chain, plan: &Plan) -> Result<(), TaskError> {
        self.files.confirm(chain, plan)
    }

    fn give_back(&mut self, chain: &Chain, plan: &Plan) -> Result<(), TaskError> {
        self.files.give_back(chain, plan)
    }

    fn discard(&mut self, chain: &Chain) -> Result<(), TaskError> {
        self.shapes.remove(chain);
        self.expected.remove(chain);
        self.files.discard(chain)
    }
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

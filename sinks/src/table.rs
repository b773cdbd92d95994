//! The task of the table sinks: Parquet files that are committed to a table of Delta Lake or Iceberg.
//!
//! Its files are published by plans as those of sink `parquet` are, and a commit to the table comes behind them: it
//! adds the files of one plan and moves the chain's position, which stands in the table: the first offset that the
//! table does not have. So
//!
//! - the plan is the fence between workers, as in a folder: of two that cut other ranges one is refused;
//! - a commit is made against what stands in the table's newest version. If the chain's position is not where the last
//!   plan with rows ended, somebody replaced or restored the table, and nothing is added; if it is behind the plan,
//!   another worker has committed it, and nothing is added either.
//!
//! How a table is read, made and committed to is the format's ([`TableFormat`]).

pub(crate) mod fit;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::parquet::file::metadata::ParquetMetaData;
use ::parquet::file::reader::Length;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use sluice_connect::plan::{Plan, PlanFile};
use sluice_connect::task::{Chain, Claim, Class, Fill, Position, SinkTask, Slice, TaskError};
use sluice_store::file::Disk;

use self::fit::Types;
use crate::disk::failed;
use crate::files::FileSink;
use crate::parquet::{self, ParquetConfig};
use crate::partition::{Partition, PartitionColumn};
use crate::place::{self, Place, Stored};
use crate::plain;

/// Commits of others that one of ours gives way to before it tells.
pub(crate) const ATTEMPTS_MAX: usize = 100;

/// What a table format does in its own way.
pub trait TableFormat: Send {
    /// The table in one version.
    type Table;
    /// What its columns can be.
    const TYPES: Types;
    /// Whether partition columns stand in the files as well.
    const IN_FILES: bool;

    /// The table, for people.
    fn shown(&self) -> String;
    /// The newest version; `None` if there is no table. One that we must not add to is refused.
    fn table(&self) -> Result<Option<Self::Table>, TaskError>;
    /// The table's columns.
    fn columns(&self, table: &Self::Table) -> Result<Schema, TaskError>;
    /// Where a chain stands in the table.
    fn position(&self, table: &Self::Table, chain: &Chain) -> Result<Option<i64>, TaskError>;
    /// Whether rows with these columns, the partition's among them, can be added; an error says why not.
    fn accept(
        &self,
        table: Option<&Self::Table>,
        columns: &Schema,
        partition: &Partition,
    ) -> Result<(), TaskError>;
    /// Before the first row with these columns is written: gives them as files are to have them.
    fn prepare(
        &mut self,
        chain: &Chain,
        columns: SchemaRef,
        partition: &Partition,
    ) -> Result<SchemaRef, TaskError>;
    /// Rows that have no value in the format, each with the reason.
    fn unfit(&self, partition: &Partition, slice: &Slice) -> Vec<(usize, String)>;
    /// Adds the files of a plan, which have their names, and moves the position, durably; or finds that it is done.
    /// `columns` are those of the plan's rows.
    fn commit(
        &mut self,
        files: &mut FileSink,
        fence: &Fence,
        plan: &Plan,
        columns: &Schema,
    ) -> Result<(), TaskError>;
    /// Makes commits that are there durable: who made them may have died before.
    fn sync(&self) -> Result<(), TaskError>;
}

/// Where a chain must stand in the table for one of its plans to be added.
#[derive(Clone, Debug)]
pub struct Fence {
    pub(crate) chain: Chain,
    /// The plan's first offset.
    pub(crate) start: i64,
    /// First offset after the plan.
    pub(crate) end: i64,
    /// The end of the last plan before that had files.
    pub(crate) expected: Option<i64>,
    /// The table, for people.
    pub(crate) shown: String,
}

impl Fence {
    /// Whether a table that has the chain at `at` has the plan already; an error if it has not what came before.
    pub(crate) fn is_committed(&self, at: Option<i64>) -> Result<bool, TaskError> {
        if at.is_some_and(|at| at >= self.end) {
            return Ok(true);
        }
        if at == self.expected {
            return Ok(false);
        }
        let has = |at: Option<i64>| at.map_or("no rows".to_owned(), |at| format!("the rows below {at}"));
        let message = format!(
            "{}: the table has {} of {}, and the plans before {} gave it {}: it was replaced, or restored. To write it \
             anew, give the pipeline a new name",
            self.shown,
            has(at),
            self.chain,
            self.start,
            has(self.expected),
        );
        Err(TaskError::new(Class::Config, message))
    }
}

/// Writes one pipeline's rows into a table.
pub struct TableSink<F> {
    files: FileSink,
    format: F,
    /// How the rows of each chain's open plan are cast.
    shapes: HashMap<Chain, Shape>,
    /// Where the table must stand before the next plan with rows.
    expected: HashMap<Chain, Option<i64>>,
}

/// Rows as they come, and as the files have them.
struct Shape {
    rows: SchemaRef,
    cast: SchemaRef,
}

impl<F: TableFormat> TableSink<F> {
    /// A sink of one table in a place that is open; touches nothing yet.
    pub(crate) fn with(
        format: F,
        place: Arc<dyn Place>,
        config: &ParquetConfig,
        disk: Arc<dyn Disk>,
    ) -> Result<Self, TaskError> {
        let mut files = FileSink::parquet_in(place, config, disk)?;
        if F::IN_FILES {
            files = files.with_partition_in_files();
        }
        Ok(Self { files, format, shapes: HashMap::new(), expected: HashMap::new() })
    }

    /// The rows with the types of the table's columns, or with those that it will be made with.
    fn shape(&mut self, chain: &Chain, rows: &SchemaRef) -> Result<SchemaRef, TaskError> {
        if let Some(shape) = self.shapes.get(chain).filter(|shape| shape.rows.fields() == rows.fields()) {
            return Ok(shape.cast.clone());
        }
        let table = self.format.table()?;
        let cast = self.fit(rows, table.as_ref())?;
        let cast = self.format.prepare(chain, cast, self.files.partition())?;
        self.shapes.insert(chain.clone(), Shape { rows: rows.clone(), cast: cast.clone() });
        Ok(cast)
    }

    fn fit(&self, rows: &Schema, table: Option<&F::Table>) -> Result<SchemaRef, TaskError> {
        let refused = |why: String| TaskError::new(Class::Config, format!("{}: {why}", self.format.shown()));
        let standing = table.map(|table| self.format.columns(table)).transpose()?;
        fit::columns(&F::TYPES, rows, standing.as_ref()).map(Arc::new).map_err(refused)
    }

    /// Where the table must stand for a plan: at the end of the last one that had files.
    fn fence(&mut self, chain: &Chain, plan: &Plan) -> Result<Fence, TaskError> {
        let expected = match self.expected.get(chain) {
            Some(expected) => *expected,
            None => {
                let expected = self.files.chains().end_with_files(chain, plan.start)?;
                self.expected.insert(chain.clone(), expected);
                expected
            }
        };
        let (chain, shown) = (chain.clone(), self.format.shown());
        Ok(Fence { chain, start: plan.start, end: plan.end, expected, shown })
    }

    fn is_committed(&mut self, chain: &Chain, plan: &Plan) -> Result<bool, TaskError> {
        let table = self.format.table()?;
        let at = table.map(|table| self.format.position(&table, chain)).transpose()?.flatten();
        self.fence(chain, plan)?.is_committed(at)
    }

    /// Commits the files of a plan, which have their names.
    fn commit(&mut self, chain: &Chain, plan: &Plan) -> Result<(), TaskError> {
        let shape = self.shapes.get(chain).ok_or_else(|| {
            TaskError::new(Class::Fatal, format!("{chain}: a plan is committed whose rows were not put"))
        })?;
        let columns = columns(self.files.partition(), &shape.cast);
        let fence = self.fence(chain, plan)?;
        self.format.commit(&mut self.files, &fence, plan, &columns)?;
        self.expected.insert(chain.clone(), Some(plan.end));
        Ok(())
    }
}

/// The property of a table with the name of the pipeline that made it, which may add columns.
pub(crate) const MADE_BY: &str = "sluice.pipeline";

/// Whether a pipeline may add the columns that a table lacks; an empty name stands for the one that made the table.
pub(crate) fn may_grow(maker: Option<&str>, pipeline: &str, missing: &[String]) -> Result<(), String> {
    if maker.is_some_and(|maker| pipeline.is_empty() || maker == pipeline) {
        return Ok(());
    }
    Err(format!(
        "it has no column `{}`, and was not made by this pipeline: add it to the table, or leave it out by \
         `steps: [{{select: {{drop: […]}}}}]`",
        missing.join("`, `")
    ))
}

/// What is said of a table with other partition columns.
pub(crate) fn other_partition(standing: &str, asked: &str) -> String {
    format!(
        "it is partitioned by [{standing}], and the pipeline says [{asked}]: write the table's columns in `partition`"
    )
}

/// The length in bytes of a file that has its name, and its footer.
pub(crate) fn footer(place: &dyn Place, file: &PlanFile) -> Result<(u64, ParquetMetaData), TaskError> {
    let shown = place.show(&file.name);
    let gone = || TaskError::new(Class::Retry, format!("{shown} is gone, or damaged"));
    let stored = Stored::open(place, &file.name).map_err(|e| failed("read", &shown, e))?.ok_or_else(gone)?;
    let metadata = parquet::metadata(&stored).map_err(|e| failed("read", &shown, e))?.ok_or_else(gone)?;
    Ok((stored.len(), metadata))
}

/// Opens the place of a table.
pub(crate) fn open(config: &ParquetConfig, disk: &Arc<dyn Disk>) -> Result<Arc<dyn Place>, TaskError> {
    place::open(&config.path, config.store.as_ref(), disk.clone())
}

/// The columns of the table for rows with these: the partition columns that are no fields come last.
fn columns(partition: &Partition, rows: &Schema) -> Schema {
    let mut fields: Vec<Arc<Field>> = rows.fields().iter().cloned().collect();
    for column in partition.columns() {
        if rows.field_with_name(column.name()).is_err() {
            fields.push(Arc::new(Field::new(column.name(), partition_type(column), true)));
        }
    }
    Schema::new(fields)
}

/// The type of a partition column that is no field of the rows.
fn partition_type(column: &PartitionColumn) -> DataType {
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

impl<F: TableFormat> SinkTask for TableSink<F> {
    fn position(&mut self, chain: &Chain) -> Result<Option<Position>, TaskError> {
        self.expected.remove(chain);
        let position = self.files.position(chain)?;
        if position.is_none()
            && let Some(table) = self.format.table()?
            && let Some(at) = self.format.position(&table, chain)?
        {
            let message = format!(
                "{}: the table has the rows below {at} of {chain}, and its plans in `_sluice` are gone: put them back, or \
                 give the pipeline a new name",
                self.format.shown()
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
        let table = self.format.table()?;
        let cast = self.fit(output, table.as_ref())?;
        let partition = self.files.partition();
        self.format.accept(table.as_ref(), &columns(partition, &cast), partition)
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
        self.format.table().map(drop)
    }

    fn unfit(&self, slice: &Slice) -> Vec<(usize, String)> {
        let mut unfit = self.files.unfit(slice);
        unfit.extend(self.format.unfit(self.files.partition(), slice));
        unfit.extend(fit::too_fine(&F::TYPES, slice.output()));
        unfit.sort_by_key(|(row, _)| *row);
        unfit.dedup_by_key(|(row, _)| *row);
        unfit
    }

    fn put(&mut self, chain: &Chain, slice: &Slice) -> Result<Fill, TaskError> {
        if slice.envelope.num_rows() == 0 {
            return self.files.put(chain, slice);
        }
        let mut slice = slice.clone();
        if F::IN_FILES {
            let rows = self.files.partition().with_columns(&slice)?;
            let schema = self.shape(chain, &rows.schema())?;
            slice.decoded = Some(cast(&rows, &schema)?);
            return self.files.put(chain, &slice);
        }
        let schema = self.shape(chain, &slice.output().schema())?;
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

    fn seal(&mut self, chain: &Chain, plan: &Plan) -> Result<Vec<u64>, TaskError> {
        self.files.seal(chain, plan)
    }

    fn published(&mut self, chain: &Chain, plan: &Plan) -> Result<bool, TaskError> {
        if plan.files.is_empty() {
            return Ok(true);
        }
        let is_committed = self.is_committed(chain, plan)?;
        if is_committed {
            self.format.sync()?;
            self.expected.insert(chain.clone(), Some(plan.end));
        }
        Ok(is_committed)
    }

    fn publish(&mut self, chain: &Chain, plan: &Plan) -> Result<(), TaskError> {
        if !plan.files.is_empty() && self.published(chain, plan)? {
            self.shapes.remove(chain);
            return self.files.discard(chain);
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

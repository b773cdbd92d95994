//! One pipeline as a `DataFusion` table: the files that it has published, and of each queue the log from there on,
//! through the pipeline's own steps. Where the files end is taken once, from the chain of plans, when the table is made.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{ScalarValue, project_schema};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::datasource::physical_plan::{
    ArrowSource, FileGroup, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::object_store::path::Path as StorePath;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::union::UnionExec;
use sluice_connect::steps::Steps;
use sluice_connect::task::{Needs, Range, Slice, SourceQueue, SourceTask, TaskError};
use sluice_sinks::SinkConfig;
use sluice_sinks::published::{Kind, Published, PublishedFile, Target};
use sluice_sources::SourceConfig;
use sluice_sources::topic::{TopicConfig, TopicSource};
use sluice_store::Store;

use crate::Failure;
use crate::log_rows::{LogRows, fix, through};

/// Makes a pipeline's steps anew, and what they need of its source. Rows that do not fit are to be left out by them.
pub type MakeSteps = Arc<dyn Fn() -> Result<(Steps, Needs), Failure> + Send + Sync>;

/// A pipeline that can be asked for as a table.
pub struct Pipeline {
    pub(crate) name: String,
    pub(crate) topic: TopicConfig,
    pub(crate) target: Target,
    pub(crate) make_steps: MakeSteps,
    /// The hash of its config.
    config: String,
}

impl Pipeline {
    /// A pipeline of a topic of the store into a folder of files; `Err` says what it is instead. `config` is the hash
    /// of its config.
    pub fn new(
        name: &str,
        source: &SourceConfig,
        sink: &SinkConfig,
        config: String,
        make_steps: MakeSteps,
    ) -> Result<Self, String> {
        let target = Target::of(sink)?;
        let SourceConfig::Topic(topic @ TopicConfig { cluster: None, .. }) = source else {
            return Err(
                "its source is no topic of the store, so what its files do not have yet is not here".into()
            );
        };
        Ok(Self { name: name.to_owned(), topic: topic.clone(), target, make_steps, config })
    }
}

/// The pipeline as it stood when the table was made.
pub(crate) struct PipelineTable {
    pipeline: Arc<Pipeline>,
    store: Store,
    files: Vec<PartitionedFile>,
    /// The columns: those of the files, then the partition columns.
    columns: TableSchema,
    /// The queues with the offsets whose rows are in no file.
    queues: Vec<(SourceQueue, Range)>,
    /// By what bodies are decoded, if they are.
    decoded: Option<SchemaRef>,
}

impl fmt::Debug for PipelineTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pipeline={} files={} queues={}", self.pipeline.name, self.files.len(), self.queues.len())
    }
}

impl PipelineTable {
    pub(crate) fn new(pipeline: &Arc<Pipeline>, store: &Store) -> Result<Self, Failure> {
        // In this order: what the files do not have is in the log by now.
        let published = pipeline.target.published(&pipeline.name)?;
        if let Some(other) = published.iter().find(|p| *p.chain.topic != *pipeline.topic.name) {
            let (theirs, ours) = (&other.chain.topic, &pipeline.topic.name);
            let why = format!(
                "its files come of topic {theirs}, read over the network, so what they do not have is not in {ours} of this store"
            );
            return Err(why.into());
        }
        store.refresh()?;
        let (mut steps, needs) = (pipeline.make_steps)()?;
        let mut source = TopicSource::new(&pipeline.topic, &pipeline.name, store.clone(), Vec::new())?;
        source.open(&needs)?;
        let queues = source.queues()?.into_iter();
        let queues = queues
            .map(|queue| {
                let range = rest(pipeline, &published, &queue, source.end(&queue.topic, queue.queue))?;
                Ok((queue, range))
            })
            .collect::<Result<Vec<_>, Failure>>()?;
        let decoded = match steps.decodes() {
            true => Some(decoded(pipeline, &mut steps, &needs, &mut source, &queues)?),
            false => None,
        };
        let columns = columns(pipeline, decoded.as_ref())?;
        let files = published.iter().flat_map(|chain| &chain.files);
        let files = files.map(|file| found(pipeline, file, &columns)).collect::<Result<_, _>>()?;
        let (pipeline, store) = (Arc::clone(pipeline), store.clone());
        Ok(Self { pipeline, store, files, columns, queues, decoded })
    }

    fn log(&self, projected: &SchemaRef) -> Vec<Arc<dyn PartitionStream>> {
        let queues = self.queues.iter().filter(|(_, range)| range.start < range.end);
        let rows = queues.map(|(queue, range)| -> Arc<dyn PartitionStream> {
            Arc::new(LogRows {
                pipeline: Arc::clone(&self.pipeline),
                store: self.store.clone(),
                queue: queue.clone(),
                range: *range,
                decoded: self.decoded.clone(),
                schema: Arc::clone(projected),
            })
        });
        rows.collect()
    }

    /// How files are read. Conditions are pushed down into it later.
    fn source(&self) -> Arc<dyn FileSource> {
        match self.pipeline.target.kind {
            Kind::Parquet => Arc::new(ParquetSource::new(self.columns.clone())),
            Kind::Arrow => Arc::new(ArrowSource::new_file_source(self.columns.clone())),
        }
    }
}

/// The offsets of a queue whose rows are in no file; `end` is where the queue ends now.
fn rest(
    pipeline: &Pipeline,
    published: &[Published],
    queue: &SourceQueue,
    end: Option<i64>,
) -> Result<Range, Failure> {
    let chain = published.iter().find(|p| p.chain.topic == queue.topic && p.chain.queue == queue.queue);
    let Some(chain) = chain else {
        return Ok(Range { start: queue.origin, end: end.unwrap_or(queue.origin).max(queue.origin) });
    };
    let named = &chain.chain;
    if chain.incarnation != queue.incarnation {
        return Err(format!(
            "{named}: the topic was deleted and made again, and its offsets mean other rows now"
        )
        .into());
    }
    if chain.unfinished.as_ref().is_some_and(|config| *config != pipeline.config) {
        let way_out = "give the config that the pipeline runs with, or run it with this one";
        return Err(format!("{named}: its last plan was begun by another config: {way_out}").into());
    }
    let end = end.unwrap_or(chain.next).max(chain.next);
    if chain.next < end && chain.next < queue.first {
        let (next, first) = (chain.next, queue.first);
        return Err(
            format!("{named}: retention took the rows {next} to {first} before they were in a file").into()
        );
    }
    Ok(Range { start: chain.next, end })
}

/// The schema that all rows are decoded by: the one that stands, as wide as the rows that are in no file make it.
fn decoded(
    pipeline: &Pipeline,
    steps: &mut Steps,
    needs: &Needs,
    source: &mut TopicSource,
    queues: &[(SourceQueue, Range)],
) -> Result<SchemaRef, Failure> {
    let mut known = pipeline.target.schema(&pipeline.name)?;
    if let Some(standing) = &known {
        steps.check_declared(standing)?;
        steps.fix(standing)?;
    }
    // What the config declares needs no rows.
    known = through(steps, 0, empty(needs)?)?.1.or(known);
    for (number, (queue, range)) in queues.iter().enumerate() {
        let mut at = range.start;
        while at < range.end && (known.is_none() || steps.grows()) {
            let slice = crate::log_rows::read(source, queue, Range { start: at, end: range.end })?;
            at = slice.range.end;
            known = through(steps, number, slice)?.1.or(known);
        }
    }
    if let Some(schema) = steps.proposal() {
        known = Some(fix(steps, schema)?.1);
    }
    known.ok_or_else(|| "none of its rows shows a field yet, so its columns are not known".into())
}

/// A slice without rows, which has the columns all the same.
fn empty(needs: &Needs) -> Result<Slice, TaskError> {
    sluice_sources::topic::slice(&[], Range { start: 0, end: 0 }, needs)
}

/// The columns of the rows: those of the files, then the partition columns.
fn columns(pipeline: &Pipeline, decoded: Option<&SchemaRef>) -> Result<TableSchema, Failure> {
    let (mut steps, needs) = (pipeline.make_steps)()?;
    if let Some(decoded) = decoded {
        steps.fix(decoded)?;
    }
    let (slices, _) = through(&mut steps, 0, empty(&needs)?)?;
    let slice = slices.first().ok_or("its steps make no columns")?;
    let rows = pipeline.target.rows(slice)?.schema();
    let field = |field: &FieldRef| Field::new(field.name(), field.data_type().clone(), true);
    let is_partition = |name: &str| pipeline.target.partition_columns().any(|column| column == name);
    let in_files: Vec<Field> = rows.fields().iter().filter(|f| !is_partition(f.name())).map(field).collect();
    let partition = pipeline.target.partition_columns();
    let partition = partition.map(|name| Ok(Arc::new(field(&rows.fields()[rows.index_of(name)?]))));
    let partition = partition.collect::<Result<Vec<FieldRef>, arrow::error::ArrowError>>()?;
    Ok(TableSchema::builder(Arc::new(Schema::new(in_files))).with_table_partition_cols(partition).build())
}

/// A published file with the values of its partition.
fn found(
    pipeline: &Pipeline,
    file: &PublishedFile,
    columns: &TableSchema,
) -> Result<PartitionedFile, Failure> {
    let path = pipeline.target.root().join(&file.key);
    let failed = |e: &dyn fmt::Display| format!("cannot read {}: {e}", path.display());
    let path = path.canonicalize().map_err(|e| failed(&e))?;
    let bytes = path.metadata().map_err(|e| failed(&e))?.len();
    let location = StorePath::from_absolute_path(&path).map_err(|e| failed(&e))?;
    let mut found = PartitionedFile::new("", bytes);
    found.object_meta.location = location;
    for field in columns.table_partition_cols() {
        let value = file.partition.iter().find(|(name, _)| name == field.name());
        let value = value.and_then(|(_, value)| value.clone());
        found.partition_values.push(match value {
            Some(text) => ScalarValue::try_from_string(text, field.data_type())?,
            None => ScalarValue::try_from(field.data_type())?,
        });
    }
    Ok(found)
}

#[async_trait]
impl TableProvider for PipelineTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.columns.table_schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let projected = project_schema(self.columns.table_schema(), projection)?;
        let mut parts: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        let log = self.log(&projected);
        if !log.is_empty() {
            let log = StreamingTableExec::try_new(Arc::clone(&projected), log, None, [], false, limit)?;
            parts.push(Arc::new(log));
        }
        if self.files.is_empty() {
            return Ok(parts.pop().unwrap_or_else(|| Arc::new(EmptyExec::new(projected))));
        }
        let scan = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), self.source())
            .with_file_group(FileGroup::new(self.files.clone()))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        parts.insert(0, DataSourceExec::from_data_source(scan));
        UnionExec::try_new(parts)
    }
}

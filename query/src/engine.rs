//! What statements run in: the tables that there are, the memory that they share, and how one is planned.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::{MemorySchemaProvider, TableProvider};
use datafusion::common::{ParamValues, TableReference};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::StreamExt;
use sluice_protocol::id::TopicName;
use sluice_store::Store;

use crate::pipeline_table::{Pipeline, PipelineTable};
use crate::statement;
use crate::topic_table::{TopicShape, TopicTable};
use crate::{Error, Failure};

/// The catalog of all tables.
pub(crate) const CATALOG: &str = "sluice";
/// Its schema of topics, in which a bare name is looked for first.
pub(crate) const TOPICS: &str = "topics";
/// Its schema of pipelines.
pub(crate) const PIPELINES: &str = "pipelines";

/// Runs statements over one store. Each sees what was there when it was planned.
pub struct Engine {
    /// Where the store lies, to be opened when it is there.
    dir: Option<PathBuf>,
    store: Mutex<Option<Store>>,
    runtime: Arc<RuntimeEnv>,
    /// What all statements may hold together, in bytes.
    memory: Option<usize>,
    /// Whether statements may name files.
    files: bool,
    pipelines: BTreeMap<String, Arc<Pipeline>>,
    /// Why other pipelines are no tables, by their names.
    others: BTreeMap<String, String>,
    /// What was found of the bodies of each topic, to go on from there.
    shapes: Mutex<HashMap<TopicName, TopicShape>>,
}

/// A statement that is ready to run.
pub(crate) struct Planned {
    context: SessionContext,
    plan: LogicalPlan,
    /// The columns of its answer.
    pub(crate) schema: SchemaRef,
}

impl Planned {
    /// The statement's parameters, with their types as far as they show.
    pub(crate) fn parameters(&self) -> Result<Vec<(String, Option<DataType>)>, Error> {
        let fields = self.plan.get_parameter_fields()?;
        Ok(fields.into_iter().map(|(name, field)| (name, field.map(|f| f.data_type().clone()))).collect())
    }
}

impl Engine {
    /// Over a store that is open; `None` if there is none.
    pub fn new(store: Option<Store>) -> Self {
        Self {
            dir: None,
            store: Mutex::new(store),
            runtime: Arc::new(RuntimeEnv::default()),
            memory: None,
            files: true,
            pipelines: BTreeMap::new(),
            others: BTreeMap::new(),
            shapes: Mutex::default(),
        }
    }

    /// Over the store in a folder, which may come later. It is read beside the process that writes it, without a lock.
    pub fn beside(dir: PathBuf) -> Self {
        Self { dir: Some(dir), ..Self::new(None) }
    }

    /// All statements together hold so many bytes at most, and write nothing out to the disk instead.
    pub fn with_memory(mut self, bytes: usize) -> Result<Self, Error> {
        let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(bytes)))
            .with_disk_manager_builder(disk);
        self.runtime = runtime.build_arc()?;
        self.memory = Some(bytes);
        Ok(self)
    }

    /// These pipelines are tables.
    #[must_use]
    pub fn with_pipelines(mut self, pipelines: Vec<Pipeline>) -> Self {
        let named = pipelines.into_iter().map(|pipeline| (pipeline.name.clone(), Arc::new(pipeline)));
        self.pipelines.extend(named);
        self
    }

    /// Why a pipeline is no table, for who asks for it.
    #[must_use]
    pub fn without_pipeline(mut self, name: String, why: String) -> Self {
        self.others.insert(name, why);
        self
    }

    /// Statements may not name files of this machine.
    #[must_use]
    pub fn without_files(mut self) -> Self {
        self.files = false;
        self
    }

    /// Runs one statement and gives each batch of its answer to `show`, in order; `show` says whether to go on.
    /// The schema comes with each call, also if there are no rows (then with an empty batch).
    pub fn run<E: From<Error>>(
        &self,
        sql: &str,
        show: &mut dyn FnMut(&SchemaRef, RecordBatch) -> Result<bool, E>,
    ) -> Result<(), E> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .build()
            .map_err(|e| Error::from(DataFusionError::IoError(e)))?;
        runtime.block_on(async {
            let planned = self.plan(sql, None).await?;
            let mut stream = self.execute(&planned).await?;
            let mut any = false;
            while let Some(batch) = stream.next().await {
                any = true;
                if !show(&planned.schema, batch.map_err(|e| self.told(e))?)? {
                    return Ok(());
                }
            }
            if !any {
                show(&planned.schema, RecordBatch::new_empty(Arc::clone(&planned.schema)))?;
            }
            Ok(())
        })
    }

    /// Plans one statement over what is there now. May block, for the types of topics are taken from their bodies.
    pub(crate) async fn plan(&self, sql: &str, values: Option<ParamValues>) -> Result<Planned, Error> {
        statement::check(sql)?;
        let context = self.context();
        let state = context.state();
        let statement = state.sql_to_statement(sql, &state.config().options().sql_parser.dialect)?;
        statement::check_reads(&statement)?;
        let store = self.store()?;
        for table in state.resolve_table_references(&statement)? {
            self.register(&context, &table, store.as_ref())?;
        }
        let mut plan = context.state().statement_to_plan(statement).await?;
        let read_only =
            SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        read_only.verify_plan(&plan)?;
        let mut unbound = false;
        match values {
            Some(values) => plan = plan.replace_params_with_values(&values)?,
            None => unbound = !plan.get_parameter_names()?.is_empty(),
        }
        // What its answer has is settled there; without values it may not get so far.
        let schema = match context.state().optimize(&plan) {
            Ok(optimized) => optimized.schema().as_arrow().clone(),
            Err(_) if unbound => plan.schema().as_arrow().clone(),
            Err(error) => return Err(self.told(error)),
        };
        Ok(Planned { context, plan, schema: Arc::new(schema) })
    }

    /// The rows of a planned statement.
    pub(crate) async fn execute(&self, planned: &Planned) -> Result<SendableRecordBatchStream, Error> {
        let state = planned.context.state();
        let plan = state.create_physical_plan(&planned.plan).await.map_err(|e| self.told(e))?;
        execute_stream(plan, planned.context.task_ctx()).map_err(|e| self.told(e))
    }

    /// An error as a user is told it.
    pub(crate) fn told(&self, error: DataFusionError) -> Error {
        let is_exhausted = matches!(error.find_root(), DataFusionError::ResourcesExhausted(_));
        match self.memory.filter(|_| is_exhausted) {
            Some(bytes) => Error::Memory { bytes, source: Box::new(error) },
            None => error.into(),
        }
    }

    /// The names of all topics but RocketMQ's own, whose names begin with `%`.
    pub(crate) fn topics(&self) -> Result<Vec<String>, Error> {
        let topics = self.store()?.map(|store| store.topics()).unwrap_or_default();
        Ok(topics.iter().map(|topic| topic.name.to_string()).filter(|name| !name.starts_with('%')).collect())
    }

    /// The names of all pipelines.
    pub(crate) fn pipelines(&self) -> impl Iterator<Item = &str> {
        self.pipelines.keys().map(String::as_str)
    }

    /// The columns of a table; `None` if there is no such.
    pub(crate) fn columns(&self, schema: &str, name: &str) -> Result<Option<SchemaRef>, Error> {
        let store = self.store()?;
        Ok(self.find(Some(schema), name, store.as_ref())?.map(|table| table.schema()))
    }

    fn context(&self) -> SessionContext {
        let mut config = SessionConfig::new()
            .with_information_schema(false)
            .with_default_catalog_and_schema(CATALOG, TOPICS);
        config.options_mut().sql_parser.enable_ident_normalization = false;
        let context = SessionContext::new_with_config_rt(config, Arc::clone(&self.runtime));
        if let Some(catalog) = context.catalog(CATALOG) {
            // A schema that is new replaces none.
            let _ = catalog.register_schema(PIPELINES, Arc::new(MemorySchemaProvider::new()));
        }
        if self.files { context.enable_url_table() } else { context }
    }

    /// The store with all that was written by now.
    fn store(&self) -> Result<Option<Store>, Error> {
        let failed = |source| Error::Store { source };
        let mut opened = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*opened, &self.dir) {
            (Some(store), _) => store.refresh().map_err(failed)?,
            (None, Some(dir)) if dir.exists() => {
                *opened = Some(Store::open_read_only(dir).map_err(failed)?);
            }
            (None, _) => {}
        }
        Ok(opened.clone())
    }

    fn register(
        &self,
        context: &SessionContext,
        table: &TableReference,
        store: Option<&Store>,
    ) -> Result<(), Error> {
        let name = table.table();
        if table.catalog().is_none_or(|catalog| catalog == CATALOG)
            && let Some(found) = self.find(table.schema(), name, store)?
        {
            context.register_table(table.clone(), found)?;
            return Ok(());
        }
        if self.files && table.schema().is_none() && name.contains(['/', '.']) {
            return Ok(());
        }
        let way_out = if let Some(why) = self.others.get(name) {
            format!("; pipeline `{name}` is none: {why}")
        } else if self.files {
            format!("; a folder or file is written in quotes: '{name}/'")
        } else {
            "; files are no tables here".to_owned()
        };
        let mut known = self.topics()?;
        known.extend(self.pipelines().map(|name| format!("\"{name}\"")));
        Err(Error::NoTable { name: table.to_string(), known, way_out })
    }

    /// The table of a name, in a schema or in the first that has it.
    fn find(
        &self,
        schema: Option<&str>,
        name: &str,
        store: Option<&Store>,
    ) -> Result<Option<Arc<dyn TableProvider>>, Error> {
        if schema.is_none_or(|schema| schema == TOPICS)
            && let Some(store) = store
            && let Some(topic) = TopicName::new(name).ok().and_then(|name| store.topic(&name))
        {
            let failed = |source: Failure| Error::Topic { topic: name.to_owned(), source };
            let mut shapes = self.shapes.lock().unwrap_or_else(PoisonError::into_inner);
            let shape = shapes.entry(topic.name.clone()).or_default();
            return Ok(Some(Arc::new(TopicTable::new(store, &topic, shape).map_err(failed)?)));
        }
        let pipeline = self.pipelines.get(name).filter(|_| schema.is_none_or(|schema| schema == PIPELINES));
        let Some(pipeline) = pipeline else { return Ok(None) };
        let failed = |source: Failure| Error::Pipeline { pipeline: name.to_owned(), source };
        let store = store.ok_or_else(|| failed("there is no store with its topic yet".into()))?;
        Ok(Some(Arc::new(PipelineTable::new(pipeline, store).map_err(failed)?)))
    }
}

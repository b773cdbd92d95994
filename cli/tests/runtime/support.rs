//! A store, a lake and a clock, and pipelines that run between them in this process.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, Schema};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sluice_connect::config::{self, Parsed, vars};
use sluice_connect::memory::{Memory, Share};
use sluice_connect::pipeline::{Pipeline, Scope};
use sluice_connect::plan::{Plan, schema_hash};
use sluice_connect::progress::{Progress, Reading, Stop};
use sluice_connect::steps::Steps;
use sluice_connect::target::Target;
use sluice_connect::task::{Confirm, Needs, Range, Read, SourceQueue, SourceTask, TaskError, TransactTask};
use sluice_connect::worker;
use sluice_protocol::id::{QueueId, QueueOffset, TopicName};
use sluice_protocol::message::{self, Message, push_property};
use sluice_protocol::record;
use sluice_sinks::SinkConfig;
use sluice_sinks::files::FileSink;
use sluice_sinks::topic::TopicSink;
use sluice_sources::SourceConfig;
use sluice_store::file::{Disk, DiskFile, Open, RealDisk};
use sluice_store::{Batch, Flush, Retention, Settings, Store};
use sluice_testkit::{ManualClock, scratch};
use tempfile::TempDir;

/// What outlives a crash: folders, and time.
pub(crate) struct World {
    pub(crate) root: TempDir,
    pub(crate) clock: ManualClock,
    pub(crate) segment_bytes: u64,
}

/// One process: from the opening of the store to its end.
pub(crate) struct Life<'a> {
    world: &'a World,
    pub(crate) store: Store,
    lake: Arc<dyn Disk>,
    pub(crate) probe: Arc<Probe>,
}

type OnRead = Box<dyn Fn(&str) + Send + Sync>;

/// What a test changes in a source, and sees of it.
#[derive(Default)]
pub(crate) struct Probe {
    /// Bytes of a slice, at most; 0 for what the runtime asks for.
    pub(crate) slice_bytes: usize,
    /// The source says that it is durable and is not.
    pub(crate) is_insecure: bool,
    /// This queue has rows and gives none.
    pub(crate) idle_queue: Option<i32>,
    /// Called with the topic before each read.
    pub(crate) on_read: Option<OnRead>,
    /// How often the runtime waited for rows.
    pub(crate) waits: AtomicU64,
    /// What may be on its way to the sink, in bytes; 0 for what the document says.
    pub(crate) in_flight: usize,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { root: scratch().unwrap(), clock: ManualClock::new(1_700_000_000_000), segment_bytes: 2 << 20 }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// A process whose store is flushed only when it is told to.
    pub(crate) fn life(&self, store: Arc<dyn Disk>, lake: Arc<dyn Disk>, probe: Probe) -> Life<'_> {
        let settings = Settings {
            dir: self.path("store"),
            segment_bytes: self.segment_bytes,
            flush: Flush::Async { interval: Duration::from_hours(1) },
            retention: Retention::default(),
            delay_levels: Default::default(),
        };
        let store = Store::open_without_upkeep(settings, store, self.clock.clock()).unwrap();
        self.worker(store, lake, probe)
    }

    /// A worker over a store that is open.
    pub(crate) fn worker(&self, store: Store, lake: Arc<dyn Disk>, probe: Probe) -> Life<'_> {
        Life { world: self, store, lake, probe: Arc::new(probe) }
    }

    pub(crate) fn simple_life(&self) -> Life<'_> {
        self.life(Arc::new(RealDisk), Arc::new(RealDisk), Probe::default())
    }

    /// Every file below the lake whose name ends so.
    pub(crate) fn files(&self, end: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.path("lake")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.to_str().unwrap().ends_with(end) {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }

    pub(crate) fn batches(&self) -> Vec<RecordBatch> {
        let read = |path: &PathBuf| {
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
            reader.build().unwrap().map(Result::unwrap).collect::<Vec<_>>()
        };
        self.files(".parquet").iter().flat_map(read).collect()
    }

    /// Files whose columns are not those of the schema that their plan names, with both.
    pub(crate) fn files_of_other_schemas(&self) -> Vec<String> {
        let schema = |path: &PathBuf| -> Schema { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        let of_pipeline = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("schema-");
        let schemas: Vec<Schema> =
            self.files(".json").iter().filter(|p| of_pipeline(p)).map(schema).collect();
        let names = |schema: &Schema| schema.fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>();
        let mut found = Vec::new();
        for path in self.files(".parquet") {
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
            let words = reader.metadata().file_metadata().key_value_metadata().unwrap();
            let plan = words.iter().find(|word| word.key == "sluice.plan").unwrap().value.as_ref().unwrap();
            let plan: Plan = serde_json::from_str(plan).unwrap();
            let planned = schemas.iter().find(|schema| schema_hash(schema) == plan.schema).map(names);
            if planned.as_ref() != Some(&names(reader.schema())) {
                found.push(format!("{}: {planned:?}, {:?}", path.display(), names(reader.schema())));
            }
        }
        found
    }

    /// Column `id` of all rows in the lake, sorted.
    pub(crate) fn ids(&self) -> Vec<Option<i64>> {
        let ids = |batch: &RecordBatch| {
            let column = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().clone();
            column.iter().collect::<Vec<_>>()
        };
        let mut ids: Vec<_> = self.batches().iter().flat_map(ids).collect();
        ids.sort_unstable();
        ids
    }
}

/// One record of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) queue: i32,
    pub(crate) offset: i64,
    pub(crate) body: String,
    pub(crate) properties: BTreeMap<String, String>,
}

impl Life<'_> {
    pub(crate) fn create_topic(&self, name: &str, queues: u32) {
        self.store.create_topic(&topic(name), queues).unwrap();
    }

    pub(crate) fn append(&self, name: &str, queue: i32, body: &str) {
        self.append_with(name, queue, body, &[]);
    }

    pub(crate) fn append_with(&self, name: &str, queue: i32, body: &str, properties: &[(&str, &str)]) {
        self.try_append(name, queue, body, properties).unwrap();
    }

    pub(crate) fn try_append(
        &self,
        name: &str,
        queue: i32,
        body: &str,
        properties: &[(&str, &str)],
    ) -> Result<(), sluice_store::Error> {
        let mut bytes = Vec::new();
        for (name, value) in properties {
            push_property(&mut bytes, name, value).unwrap();
        }
        let message = Message { body: body.as_bytes(), properties: &bytes, ..Message::default() };
        let mut batch = Batch::new();
        batch.push(&topic(name), QueueId::new(queue).unwrap(), &message)?;
        self.store.append(batch).map(drop)
    }

    pub(crate) fn append_all(&self, name: &str, queue: i32, bodies: &[String]) {
        let mut batch = Batch::new();
        for body in bodies {
            let message = Message { body: body.as_bytes(), ..Message::default() };
            batch.push(&topic(name), QueueId::new(queue).unwrap(), &message).unwrap();
        }
        self.store.append(batch).unwrap();
    }

    /// All records of a topic that has these queues.
    pub(crate) fn records(&self, name: &str, queues: i32) -> Vec<Stored> {
        let mut all = Vec::new();
        for queue in 0..queues {
            let id = QueueId::new(queue).unwrap();
            let mut next = QueueOffset::new(0);
            loop {
                let read = self.store.read(&topic(name), id, next, 1 << 20).unwrap();
                if read.next == next {
                    break;
                }
                next = read.next;
                for record in read.runs.iter().flat_map(|run| record::records(&run.bytes)) {
                    let record = record.unwrap();
                    let pairs = message::properties(record.properties);
                    all.push(Stored {
                        queue,
                        offset: record.queue_offset,
                        body: String::from_utf8(record.body.to_vec()).unwrap(),
                        properties: pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
                    });
                }
            }
        }
        all
    }

    /// The tasks of a document, as `sluice run` makes them, but on the disk of this life.
    pub(crate) fn pipeline(&self, text: &str) -> Result<Pipeline, TaskError> {
        let lookup = vars::lookup(|_| None, |_| Err(io::ErrorKind::NotFound.into()));
        let parsed: Vec<Parsed<SourceConfig, SinkConfig>> = config::parse(text, &lookup).unwrap();
        let [parsed] = &parsed[..] else { panic!("one document: {text}") };
        let document = &parsed.document;
        let target = match &document.sink {
            SinkConfig::Parquet(config) => {
                Target::Files(Box::new(FileSink::parquet(config, self.lake.clone())?))
            }
            other => other.open(
                || Ok::<_, TaskError>(self.store.clone()),
                &self.world.clock.clock(),
                document.delivery,
            )?,
        };
        let (steps, needs) = Steps::new(document, &document.sink.needs(document.makes_columns()))?;
        let name = document.name.as_str();
        let inner = document.source.open(
            name,
            || Ok::<_, TaskError>(self.store.clone()),
            Vec::new(),
            &Arc::default(),
        )?;
        let dead_letters = document.errors.dead_letter.as_deref().map(|name| {
            let sink = TopicSink::new(name, 1, self.store.clone(), self.world.clock.clock());
            Ok::<Box<dyn TransactTask>, TaskError>(Box::new(sink?))
        });
        let said = usize::try_from(document.limits.in_flight.as_u64()).unwrap();
        Ok(Pipeline {
            name: name.into(),
            config: (parsed.text.clone(), parsed.hash()),
            steps,
            needs,
            source: Box::new(Probed { inner, probe: Arc::clone(&self.probe) }),
            target,
            dead_letters: dead_letters.transpose()?,
            then: document.errors.then,
            stop_after: document.errors.stop_after,
            in_flight: if self.probe.in_flight == 0 { said } else { self.probe.in_flight },
            memory: Share::new(Memory::new(usize::MAX), usize::MAX),
        })
    }

    fn work(
        &self,
        text: &str,
        stop: &Stop,
        progress: &Progress,
        retry_for: Duration,
    ) -> Result<(), TaskError> {
        let build = |earlier: Option<&str>| self.pipeline(earlier.unwrap_or(text));
        worker::run(&build, &Scope::All, stop, progress, &self.world.clock.clock(), retry_for)
    }

    /// Runs to the end; a failure is not tried again.
    pub(crate) fn run(&self, text: &str) -> Result<Reading, TaskError> {
        let progress = Progress::default();
        self.work(text, &Stop::default(), &progress, Duration::ZERO)?;
        Ok(progress.reading())
    }

    /// Runs on a thread while `meanwhile` goes on, then asks it to stop; what fails is tried again.
    pub(crate) fn run_beside(
        &self,
        text: &str,
        meanwhile: impl FnOnce(&Progress),
    ) -> Result<Reading, TaskError> {
        let (stop, progress) = (Stop::default(), Progress::default());
        std::thread::scope(|scope| {
            let running = scope.spawn(|| self.work(text, &stop, &progress, Duration::from_hours(1)));
            let asks = AskOnDrop(&stop);
            meanwhile(&progress);
            drop(asks);
            running.join().unwrap()
        })?;
        Ok(progress.reading())
    }
}

/// A failed test must not wait for a pipeline that runs forever.
struct AskOnDrop<'a>(&'a Stop);

impl Drop for AskOnDrop<'_> {
    fn drop(&mut self) {
        self.0.ask();
    }
}

/// Looks again and again, for 20 s at most.
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let pause = Stop::default();
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        pause.wait(Duration::from_millis(2));
    }
    panic!("never came: {what}");
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

struct Probed {
    inner: Box<dyn SourceTask>,
    probe: Arc<Probe>,
}

impl SourceTask for Probed {
    fn open(&mut self, needs: &Needs) -> Result<(), TaskError> {
        self.inner.open(needs)
    }

    fn queues(&mut self) -> Result<Vec<SourceQueue>, TaskError> {
        self.inner.queues()
    }

    fn read(&mut self, topic: &str, queue: i32, range: Range, bytes_max: usize) -> Result<Read, TaskError> {
        if let Some(on_read) = &self.probe.on_read {
            on_read(topic);
        }
        if self.probe.idle_queue == Some(queue) {
            return Ok(Read::Idle);
        }
        let bytes_max = if self.probe.slice_bytes == 0 { bytes_max } else { self.probe.slice_bytes };
        self.inner.read(topic, queue, range, bytes_max)
    }

    fn wait(&mut self, _: Duration) {
        self.probe.waits.fetch_add(1, Ordering::SeqCst);
        self.inner.wait(Duration::from_millis(1));
    }

    fn end(&mut self, topic: &str, queue: i32) -> Option<i64> {
        self.inner.end(topic, queue)
    }

    fn confirmer(&self) -> Arc<dyn Confirm> {
        let inner = self.inner.confirmer();
        if self.probe.is_insecure { Arc::new(Insecure(inner)) } else { inner }
    }
}

struct Insecure(Arc<dyn Confirm>);

impl Confirm for Insecure {
    fn secure(&self, _: &str, _: i32, _: i64) -> Result<(), TaskError> {
        Ok(())
    }

    fn confirm(&self, topic: &str, queue: i32, end: i64) -> Result<(), TaskError> {
        self.0.confirm(topic, queue, end)
    }

    fn confirmed(&self, topic: &str, queue: i32) -> Result<Option<i64>, TaskError> {
        self.0.confirmed(topic, queue)
    }
}

/// The real disk, with something that happens before a file gets its name.
pub(crate) struct LinkDisk(pub(crate) Box<dyn Fn(&Path) + Send + Sync>);

impl Debug for LinkDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkDisk")
    }
}

impl Disk for LinkDisk {
    fn open(&self, path: &Path, open: Open) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.open(path, open)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.0)(to);
        RealDisk.hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_dir(path)
    }
}

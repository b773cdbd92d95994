//! Makes the tasks of a pipeline from its document, and opens the embedded broker for those that need it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow, bail};
use arrow::datatypes::SchemaRef;
use bytesize::ByteSize;
use sluice_client::Access;
use sluice_connect::config::{Delivery, Format, Then};
use sluice_connect::decode::Outside;
use sluice_connect::memory::{Memory, Share};
use sluice_connect::pipeline::{Clock, Pipeline};
use sluice_connect::progress::{Progress, Stop};
use sluice_connect::steps::Steps;
use sluice_connect::target::Target;
use sluice_connect::task::{Class, Needs, Slice, SourceTask, TaskError, TransactTask};
use sluice_sinks::SinkConfig;
use sluice_sinks::kafka::{KafkaConfig, PartitionBy};
use sluice_sinks::topic::{QueueBy, TopicConfig, TopicSink};
use sluice_sources::registry::RegistryClient;
use sluice_sources::{Feeders, SourceConfig};
use sluice_store::file::RealDisk;
use sluice_store::{Flush, Settings, Store};

use crate::load::{self, ParsedPipeline};

/// The embedded broker: a store opened in this process when the first task asks for it.
pub(crate) struct Embedded {
    data_dir: PathBuf,
    flush: Option<Flush>,
    clock: Clock,
    opened: Mutex<Option<Store>>,
}

impl Embedded {
    /// `flush` of `None`: the pipelines may not use it.
    pub(crate) fn new(data_dir: PathBuf, flush: Option<Flush>, clock: Clock) -> Self {
        Self { data_dir, flush, clock, opened: Mutex::new(None) }
    }

    /// The store, opened at the first call.
    pub(crate) fn store(&self) -> Result<Store> {
        let mut opened = self.opened.lock().map_err(|_| anyhow!("the store's opener panicked"))?;
        if let Some(store) = &*opened {
            return Ok(store.clone());
        }
        let Some(flush) = self.flush else {
            bail!("a topic needs the embedded broker: run without --no-broker");
        };
        let settings = Settings { flush, ..Settings::embedded(self.data_dir.clone()) };
        let store = Store::open(settings, Arc::new(RealDisk), self.clock.clone())
            .with_context(|| format!("cannot open the store {}", self.data_dir.display()))?;
        *opened = Some(store.clone());
        Ok(store)
    }

    /// Ends it cleanly, if it was opened.
    pub(crate) fn close(&self) -> Result<()> {
        let store = self.opened.lock().ok().and_then(|mut opened| opened.take());
        store.map_or(Ok(()), |store| store.close().context("cannot close the store"))
    }
}

/// What a run shares between its pipelines.
pub(crate) struct Shared {
    pub(crate) embedded: Embedded,
    pub(crate) clock: Clock,
    pub(crate) stop: Arc<Stop>,
    pub(crate) memory: Arc<Memory>,
    /// Set where there is no embedded broker: the cluster of topics that say none.
    pub(crate) apart: Option<Apart>,
}

/// Pipelines that run apart from the embedded broker.
pub(crate) struct Apart {
    /// The name servers of source topics that say none, if given.
    pub(crate) cluster: Option<String>,
}

impl Apart {
    /// Gives a document's source its cluster; partitions of Kafka's are shared.
    pub(crate) fn complete(&self, parsed: &mut ParsedPipeline) {
        if let SourceConfig::Kafka(config) = &mut parsed.document.source {
            config.shared = true;
        }
        if let SourceConfig::Topic(config) = &mut parsed.document.source
            && config.cluster.is_none()
        {
            config.cluster.clone_from(&self.cluster);
        }
    }
}

/// A topic, with its cluster unless it is the embedded broker's.
pub(crate) type Address<'a> = (Option<&'a str>, &'a str);

/// Whether a pipeline writes a topic, be it as its dead letters.
pub(crate) fn writes(parsed: &ParsedPipeline, topic: Address<'_>) -> bool {
    let document = &parsed.document;
    let dead_letter = document.errors.dead_letter.as_deref().map(|name| (None, name));
    // A step may send rows to any topic beside the sink's.
    let routed = document.sink.topic().filter(|_| document.routes());
    document.sink.topic() == Some(topic)
        || dead_letter == Some(topic)
        || routed.is_some_and(|(cluster, _)| cluster == topic.0) && document.source.topic() != Some(topic)
}

/// The pipelines of a run that write what a pipeline reads, with their progress.
pub(crate) fn feeders(all: &[(ParsedPipeline, Arc<Progress>)], reader: &ParsedPipeline) -> Feeders {
    let Some(topic) = reader.document.source.topic() else { return Vec::new() };
    all.iter().filter(|(p, _)| writes(p, topic)).map(|(_, progress)| progress.clone()).collect()
}

/// Makes the source of a document.
pub(crate) fn source(
    parsed: &ParsedPipeline,
    shared: &Shared,
    feeders: Feeders,
) -> Result<Box<dyn SourceTask>> {
    let name = parsed.document.name.as_str();
    parsed.document.source.open(name, || shared.embedded.store(), feeders, &shared.stop)
}

/// Makes all tasks of a document. `text` is that of an earlier config, if not the document's own.
pub(crate) fn pipeline(
    parsed: &ParsedPipeline,
    text: Option<&str>,
    shared: &Shared,
    feeders: &Feeders,
) -> Result<Pipeline, TaskError> {
    let mut earlier;
    let parsed = match text {
        None => parsed,
        Some(text) => {
            earlier = load::parse(text).ok().and_then(|all| all.into_iter().next()).ok_or_else(|| {
                TaskError::new(
                    Class::Config,
                    "the earlier config that an unfinished plan needs can not be read any more",
                )
            })?;
            if let Some(apart) = &shared.apart {
                apart.complete(&mut earlier);
            }
            &earlier
        }
    };
    make(parsed, shared, feeders.clone()).map_err(|error| match error.downcast::<TaskError>() {
        Ok(task_error) => task_error,
        Err(other) => {
            let class = if is_retry(&other) { Class::Retry } else { Class::Config };
            TaskError::new(class, crate::show::causes(&other))
        }
    })
}

fn is_retry(error: &anyhow::Error) -> bool {
    error.downcast_ref::<sluice_store::Error>().is_some_and(|e| e.kind() == sluice_store::Kind::Retry)
}

/// Makes the steps of a document, and what they need of its source.
pub(crate) fn steps(parsed: &ParsedPipeline) -> Result<(Steps, Needs)> {
    let document = &parsed.document;
    let mut outside = Outside::default();
    match document.decode.as_ref().map(|decode| &decode.format) {
        Some(Format::Protobuf(format)) => outside.descriptors = Some(descriptors(&format.descriptors)?),
        Some(Format::Avro(format)) => {
            let client = format.registry.as_ref().map(RegistryClient::new).transpose()?;
            outside.lookup = client.map(RegistryClient::into_lookup);
        }
        _ => {}
    }
    let (steps, needs) = Steps::with(document, &document.sink.needs(document.makes_columns()), outside)?;
    Ok((steps.with_sql(crate::steps::make_sql()), needs))
}

/// Takes the schema that is asked for, and those that it grows into.
pub(crate) fn fix(steps: &mut Steps, schema: SchemaRef) -> Result<Vec<(usize, Slice)>> {
    let (mut released, mut next) = (Vec::new(), Some(schema));
    while let Some(schema) = next {
        steps.fix(&schema)?;
        let more = steps.release()?;
        released.extend(more.slices);
        next = more.wider;
    }
    Ok(released)
}

/// The content of a file with a Protobuf descriptor set.
pub(crate) fn descriptors(file: &Path) -> Result<Vec<u8>> {
    let max = sluice_formats::protobuf::DESCRIPTORS_BYTES_MAX as u64;
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(max + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read the descriptor set {}", file.display()))?;
    Ok(bytes)
}

/// Where dead letters go that no embedded broker takes: into a topic of the system that the pipeline reads.
fn dead_letters_apart(document: &load::Pipeline, name: &str) -> SinkConfig {
    if let SourceConfig::Kafka(source) = &document.source {
        return SinkConfig::Kafka(KafkaConfig {
            bootstrap: source.bootstrap.clone(),
            topic: name.to_owned(),
            partitions: Some(1),
            partition: PartitionBy::Key,
            key: source.key.clone(),
            positions: String::new(),
            properties: source.properties.clone(),
            copies: false,
        });
    }
    let (cluster, access) = match &document.source {
        SourceConfig::Topic(config) => (config.cluster.clone(), config.access.clone()),
        _ => (None, Access::default()),
    };
    SinkConfig::Topic(TopicConfig { name: name.to_owned(), cluster, access, queues: 1, queue: QueueBy::Key })
}

fn make(parsed: &ParsedPipeline, shared: &Shared, feeders: Feeders) -> Result<Pipeline> {
    let document = &parsed.document;
    let mut sink = document.sink.clone();
    if let (SourceConfig::Kafka(_), SinkConfig::Kafka(sink)) = (&document.source, &mut sink) {
        sink.copies = true;
    }
    let target = sink.open(|| shared.embedded.store(), &shared.clock, document.delivery)?;
    let (steps, needs) = steps(parsed)?;
    let source = source(parsed, shared, feeders)?;
    let dead_letters: Option<Box<dyn TransactTask>> =
        match (&document.errors.then, &document.errors.dead_letter) {
            (Then::DeadLetter, Some(name)) if shared.apart.is_some() => {
                let sink = dead_letters_apart(document, name);
                match sink.open(|| shared.embedded.store(), &shared.clock, Delivery::AtLeastOnce)? {
                    Target::Transact(task) => Some(task),
                    Target::Files(_) => None,
                }
            }
            (Then::DeadLetter, Some(name)) => {
                let store = shared.embedded.store()?;
                Some(Box::new(TopicSink::new(name, 1, store, shared.clock.clone())?))
            }
            _ => None,
        };
    let bytes = |size: ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    let in_flight = bytes(document.limits.in_flight);
    Ok(Pipeline {
        name: document.name.as_str().into(),
        config: (parsed.text.clone(), parsed.hash()),
        steps,
        needs,
        source,
        target,
        dead_letters,
        then: document.errors.then,
        stop_after: document.errors.stop_after,
        in_flight,
        memory: Share::new(Arc::clone(&shared.memory), bytes(document.limits.memory)),
    })
}

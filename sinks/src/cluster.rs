//! Sink `topic` with `cluster`: rows become messages of brokers on the network, Sluice's or `RocketMQ`'s.
//!
//! The protocol has no act that stores messages and a position together, so delivery is at least once: after a
//! failure the source goes on where its group stands.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use arrow::array::{BooleanArray, RecordBatch};
use sluice_bridges::kafka::mapping::Place;
use sluice_client::{
    Access, Admin, Client, ClientSettings, Error, Filter, Message, MessageBatch, Producer, ProducerSettings,
    Queue, QueueReader, ReaderSettings, Receipt, TopicName,
};
use sluice_connect::batch;
use sluice_connect::task::{Chain, Class, Fates, Slice, TaskError, TransactTask};
use sluice_protocol::code::ResponseCode;
use tokio::runtime::Runtime;

use crate::returning::{Returning, There};
use crate::stored::{RowId, StoredRows, row_ids};
use crate::topic::{QueueBy, Rows, TopicConfig, check_routed, loops, text};

/// How long brokers that have just started may stay unknown to the name servers.
const BROKER_WAIT: Duration = Duration::from_secs(10);
/// How long a topic that was just made may: where `RocketMQ`'s broker can not tell at once, its next registration does,
/// which is every 30 s.
const ROUTE_WAIT: Duration = Duration::from_secs(40);
const ROUTE_PAUSE: Duration = Duration::from_millis(50);
/// What is under way at once, in bytes: all answers of one act are waited for.
const SENT_BYTES: usize = 8 * 1024 * 1024;
/// The group in whose name messages are looked at: one that brokers know without settings.
const LOOK_GROUP: &str = "TOOLS_CONSUMER";

/// Rows of an act that were handed over.
#[derive(Default)]
struct Sending {
    /// Batches that take more, by topic and place of the queue.
    open: BTreeMap<(TopicName, usize), (MessageBatch, Vec<RowId>)>,
    batches: Vec<(Vec<RowId>, Receipt<()>)>,
    /// What could be in no batch.
    alone: Vec<(RowId, Receipt)>,
}

/// Writes one topic of a cluster.
pub(crate) struct ClusterSink {
    cluster: String,
    topic: TopicName,
    client: Client,
    producer: Producer,
    /// Ordered by broker and number, as equal keys need it.
    queues: Vec<Queue>,
    /// Queues of a topic that is made.
    queues_made: u32,
    queue_by: QueueBy,
    /// Topics that a step has sent rows to.
    routed: BTreeMap<String, (TopicName, Vec<Queue>)>,
    stored: StoredRows,
    returning: Returning,
    runtime: Runtime,
}

impl ClusterSink {
    /// Opens the topic, made with `queues` queues at every broker if there is none.
    pub(crate) fn new(config: &TopicConfig, cluster: &str) -> Result<Self, TaskError> {
        let (topic, runtime) = begin(&config.name)?;
        let failed = |what: &str, error| failed(cluster, &topic, what, error);
        let (client, producer, queues) = runtime.block_on(async {
            let client = Client::new(config.client(cluster)).map_err(|e| failed("cannot be used", e))?;
            let queues =
                made(&client, &topic, config.queues).await.map_err(|e| failed("cannot make the topic", e))?;
            let producer = Producer::new(&client, ProducerSettings::default());
            let producer = producer.map_err(|e| failed("cannot be used", e))?;
            Ok((client, producer, queues))
        })?;
        let (cluster, queues_made, queue_by) = (cluster.to_owned(), config.queues, config.queue);
        let (routed, stored, returning) = (BTreeMap::new(), StoredRows::default(), Returning::default());
        Ok(Self {
            cluster,
            topic,
            client,
            producer,
            queues,
            queues_made,
            queue_by,
            routed,
            stored,
            returning,
            runtime,
        })
    }

    fn queue(&self, route: Option<&str>, place: usize) -> Result<(&TopicName, &Queue), Error> {
        let (topic, queues) = self.queues(route);
        Ok((topic, queues.get(place).ok_or_else(|| no_queue(topic))?))
    }

    fn queues(&self, route: Option<&str>) -> (&TopicName, &[Queue]) {
        let routed = route.and_then(|name| self.routed.get(name));
        routed.map_or((&self.topic, &self.queues), |(topic, queues)| (topic, queues))
    }

    /// The place of each row's queue among those of its topic.
    fn places(&self, chain: &Chain, rows: &Rows<'_>, count: usize) -> Result<Vec<usize>, TaskError> {
        let place = |row: usize| {
            let (_, queues) = self.queues(text(rows.route, row));
            self.queue_by.place(chain, text(rows.keys, row), row, queues.len())
        };
        (0..count).map(place).collect()
    }

    /// Makes the topics that rows are sent to, but the sink's own.
    fn find_routed(&mut self, chain: &Chain, rows: &Rows<'_>, count: usize) -> Result<(), TaskError> {
        let names: BTreeSet<&str> = (0..count).filter_map(|row| text(rows.route, row)).collect();
        for name in names.into_iter().filter(|name| *name != self.topic.as_str()) {
            if name == &*chain.topic {
                return Err(loops(chain));
            }
            if self.routed.contains_key(name) {
                continue;
            }
            check_routed(self.routed.len())?;
            let topic = TopicName::new(name).map_err(|e| TaskError::new(Class::Config, e.to_string()))?;
            let queues = self.runtime.block_on(made(&self.client, &topic, self.queues_made));
            let queues = queues.map_err(|e| failed(&self.cluster, &topic, "cannot make the topic", e))?;
            self.routed.insert(name.to_owned(), (topic, queues));
        }
        Ok(())
    }

    /// Hands all rows over, then waits for every answer. With the error come the rows that are stored.
    async fn send(
        &self,
        chain: &Chain,
        envelope: &RecordBatch,
        queues: &[usize],
    ) -> Result<(), (Error, Vec<RowId>)> {
        let (rows, offsets) = (Rows::new(envelope), batch::offsets(envelope));
        let mut sending = Sending::default();
        let mut failure = None;
        for (row, (place, queue)) in row_ids(offsets).zip(queues).enumerate() {
            if self.stored.has(chain, place) {
                continue;
            }
            if let Err(error) = self.hand_over(&mut sending, &rows, row, place, *queue).await {
                failure = Some(error);
                break;
            }
        }
        for (batch, places) in std::mem::take(&mut sending.open).into_values() {
            match self.producer.submit_batch(batch).await {
                Ok(receipt) => sending.batches.push((places, receipt)),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let mut stored = Vec::new();
        // A row that can never be stored must not hide that the broker is away.
        let mut failed = |error: Error| {
            if failure.as_ref().is_none_or(is_refusal) {
                failure = Some(error);
            }
        };
        for (places, receipt) in sending.batches {
            match receipt.await {
                Ok(()) => stored.extend(places),
                Err(error) => failed(error),
            }
        }
        for (place, receipt) in sending.alone {
            match receipt.await {
                Ok(_) => stored.push(place),
                Err(error) => failed(error),
            }
        }
        failure.map_or(Ok(()), |error| Err((error, stored)))
    }

    /// Adds a row to the batch of its queue. What can not be in one goes alone, behind the batch.
    async fn hand_over(
        &self,
        sending: &mut Sending,
        rows: &Rows<'_>,
        row: usize,
        id: RowId,
        place: usize,
    ) -> Result<(), Error> {
        let route = text(rows.route, row);
        let (topic, queue) = self.queue(route, place)?;
        let key = (topic.clone(), place);
        for _ in 0..2 {
            let (batch, places) =
                sending.open.entry(key.clone()).or_insert_with(|| (self.producer.batch(queue), Vec::new()));
            if batch.push(rows.body(row), rows.properties(row))? {
                places.push(id);
                return Ok(());
            }
            // It was full, or the row goes alone.
            if let Some((batch, places)) = sending.open.remove(&key) {
                sending.batches.push((places, self.producer.submit_batch(batch).await?));
            }
        }
        let receipt = self.submit(rows, row, place).await?;
        sending.alone.push((id, receipt));
        Ok(())
    }

    async fn submit(&self, rows: &Rows<'_>, row: usize, place: usize) -> Result<Receipt, Error> {
        let (topic, queue) = self.queue(text(rows.route, row), place)?;
        let mut message = Message::new(topic, rows.body(row).to_vec());
        for (name, value) in rows.properties(row) {
            message = message.property(name, value)?;
        }
        self.producer.submit_to(&message, queue).await
    }
}

fn begin(topic: &str) -> Result<(TopicName, Runtime), TaskError> {
    let topic = TopicName::new(topic).map_err(|e| TaskError::new(Class::Config, e.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("cluster-sink")
        .enable_all()
        .build()
        .map_err(|e| TaskError::io("cannot start the threads of a client", e))?;
    Ok((topic, runtime))
}

/// How many queues a topic has to write to; `None` if a run would make it, because brokers are there that can.
pub fn queues(topic: &str, cluster: &str, access: &Access) -> Result<Option<usize>, TaskError> {
    let (topic, runtime) = begin(topic)?;
    let asked = runtime.block_on(async {
        let settings = ClientSettings { access: access.clone(), ..ClientSettings::new(cluster) };
        let client = Client::new(settings)?;
        match client.fetch_route(&topic).await {
            Ok(route) if route.write_queues.is_empty() => Err(no_queue(&topic)),
            Ok(route) => Ok(Some(route.write_queues.len())),
            Err(Error::NoRoute { .. }) => Admin::new(&client).masters().await.map(|_| None),
            Err(error) => Err(error),
        }
    });
    asked.map_err(|e| failed(cluster, &topic, "cannot be written", e))
}

/// The queues of a topic, made if there is none.
async fn made(client: &Client, topic: &TopicName, queues: u32) -> Result<Vec<Queue>, Error> {
    let begun = Instant::now();
    let mut asked = false;
    loop {
        match client.fetch_route(topic).await {
            Ok(route) if !route.write_queues.is_empty() => return Ok(route.write_queues.clone()),
            Ok(_) => return Err(no_queue(topic)),
            Err(Error::NoRoute { .. }) if begun.elapsed() < ROUTE_WAIT => {}
            Err(error) => return Err(error),
        }
        if !asked {
            let count = i32::try_from(queues).unwrap_or(i32::MAX);
            match Admin::new(client).create_topic(topic, count).await {
                Ok(()) => {
                    asked = true;
                    continue;
                }
                Err(Error::NoBroker { .. }) if begun.elapsed() < BROKER_WAIT => {}
                Err(error) => return Err(error),
            }
        }
        tokio::time::sleep(ROUTE_PAUSE).await;
    }
}

/// What stands at the place of a topic that a row says it was at.
async fn there(client: &Client, topic: &TopicName, place: &Place<'_>) -> Result<There, Error> {
    let route = match client.route(topic).await {
        Err(Error::NoRoute { .. }) => return Ok(There::Never),
        route => route?,
    };
    // Without a broker it was a message of an embedded store.
    let Some((_, broker)) = place.topic.rsplit_once('@') else { return Ok(There::Never) };
    let is_it = |queue: &&Queue| *queue.broker == *broker && queue.id.get() == place.queue;
    let Some(queue) = route.read_queues.iter().find(is_it) else { return Ok(There::Never) };
    let settings = ReaderSettings {
        group: LOOK_GROUP.to_owned(),
        filter: Filter::All,
        messages_max: 1,
        bytes_max: 1,
        hold: Duration::ZERO,
    };
    let fetched = QueueReader::new(client, queue, settings)?.fetch(place.offset).await?;
    Ok(match place.offset {
        offset if offset < fetched.min_offset => There::Gone,
        offset if offset >= fetched.max_offset => There::Never,
        _ => There::Records(fetched.bytes.to_vec()),
    })
}

fn no_queue(topic: &TopicName) -> Error {
    Error::NoQueue { topic: topic.to_string(), purpose: "write to" }
}

/// Whether a broker says that the message itself can not be stored.
fn is_refusal(error: &Error) -> bool {
    error.response_code() == Some(ResponseCode::MESSAGE_ILLEGAL)
}

/// What time may heal is tried again, what a message can not be is the record's; the rest is for a person.
fn failed(cluster: &str, topic: &TopicName, what: &str, error: Error) -> TaskError {
    let passes = error.is_retryable() || matches!(error, Error::NoRoute { .. } | Error::NoQueue { .. });
    let class = match is_refusal(&error) {
        true => Class::Record,
        false if passes => Class::Retry,
        false => Class::Config,
    };
    TaskError::new(class, format!("topic {topic} of cluster {cluster}: {what}")).because(error)
}

impl TransactTask for ClusterSink {
    fn unfit(&self, slice: &Slice) -> Vec<(usize, String)> {
        Rows::all_unfit(&slice.envelope)
    }

    fn kept(&mut self, slice: &Slice) -> Result<Option<BooleanArray>, TaskError> {
        let rows = Rows::new(&slice.envelope);
        let Self { client, cluster, topic: own, runtime, returning, .. } = self;
        returning.kept(&rows, slice.envelope.num_rows(), own.as_str(), |topic, place| {
            let topic = TopicName::new(topic).map_err(|e| TaskError::new(Class::Config, e.to_string()))?;
            let there = runtime.block_on(there(client, &topic, place));
            there.map_err(|e| failed(cluster, &topic, "cannot look for a message that may come from it", e))
        })
    }

    fn commit(
        &mut self,
        chain: &Chain,
        _incarnation: &str,
        slice: &Slice,
        _: &Fates,
    ) -> Result<(), TaskError> {
        let rows = Rows::new(&slice.envelope);
        self.find_routed(chain, &rows, slice.envelope.num_rows())?;
        let places = self.places(chain, &rows, slice.envelope.num_rows())?;
        match self.runtime.block_on(self.send(chain, &slice.envelope, &places)) {
            Ok(()) => {
                self.stored.forget(chain, slice.range.end);
                Ok(())
            }
            Err((error, stored)) => {
                self.stored.add(chain, stored);
                Err(failed(&self.cluster, &self.topic, "cannot send messages", error))
            }
        }
    }

    fn bytes_wanted(&self) -> usize {
        SENT_BYTES
    }

    /// What a broker answered for is as durable as it is set up to make it.
    fn secure(&mut self) -> Result<(), TaskError> {
        Ok(())
    }

    fn keeps_positions(&self) -> bool {
        false
    }
}

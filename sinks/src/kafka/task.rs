//! The task of sink `kafka`: with positions one transactional producer a chain, else one idempotent one for all.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arrow::array::BooleanArray;
use rdkafka::admin::{NewTopic, TopicReplication};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use sluice_bridges::kafka::client::{self, Context, Told, Wait, failed};
use sluice_bridges::kafka::mapping::{self, Given, Place, Record, to_record};
use sluice_bridges::kafka::{Side, topic_problem};
use sluice_connect::batch;
use sluice_connect::config::Delivery;
use sluice_connect::task::{Chain, Class, Fates, Slice, TaskError, TransactTask};

use super::deliveries::{Answers, Deliveries, producer};
use super::positions::{PARTITION, Positions, Standing, key};
use super::topics::{make, make_positions, reading};
use super::{KafkaConfig, PartitionBy};
use crate::topic::{Rows, check_routed, text};

/// How long one act of a transaction may take; longer than a transaction may.
const ACT_MAX: Duration = Duration::from_secs(40);
/// What one transaction holds, in bytes: its end takes brokers tens of milliseconds.
const TRANSACTION_BYTES: usize = 12 * 1024 * 1024;
/// Chains that begin at a time.
const BEGUN_AT_ONCE: usize = 32;
/// How often an act is asked for again whose outcome is not known.
const ACTS_MAX: usize = 3;
/// After this brokers end the transaction of a producer that is gone.
const TRANSACTION_MS: &str = "30000";
/// What a record holds beside key, value and headers, in bytes, at most.
const RECORD_OVERHEAD: usize = 512;

/// Writes topics of a Kafka cluster.
pub(super) struct KafkaSink {
    settings: KafkaConfig,
    bytes_max: usize,
    /// Of a full batch.
    batch_bytes: usize,
    producers: ClientConfig,
    asker: BaseConsumer<Context>,
    /// The id of the cluster.
    cluster: Option<String>,
    /// Partitions of each topic that rows have gone to.
    topics: BTreeMap<String, i32>,
    kind: Kind,
}

enum Kind {
    /// Rows and position in one transaction.
    Exact {
        positions: Box<Positions>,
        /// Producers of chains that are asked for next.
        ready: BTreeMap<Chain, BaseProducer<Deliveries>>,
        chains: BTreeMap<Chain, Open>,
    },
    /// Rows alone.
    AtLeastOnce(BaseProducer<Deliveries>),
}

/// A chain that is written.
struct Open {
    producer: BaseProducer<Deliveries>,
    next: i64,
}

impl KafkaSink {
    /// Connects, and makes the topics that may be made.
    pub(super) fn new(settings: &KafkaConfig, delivery: Delivery) -> Result<Self, TaskError> {
        let KafkaConfig { bootstrap, properties, .. } = settings;
        let mut producers = client::config(Side::Sink, bootstrap, properties);
        let readers = reading(&producers, bootstrap);
        let asker = client::asker(&readers)?;
        let kind = if delivery == Delivery::ExactlyOnce {
            make_positions(&asker, &producers, settings)?;
            if producers.get("transaction.timeout.ms").is_none() {
                producers.set("transaction.timeout.ms", TRANSACTION_MS);
            }
            let positions = Positions::new(&readers, &settings.positions)?;
            Kind::Exact { positions: Box::new(positions), ready: BTreeMap::new(), chains: BTreeMap::new() }
        } else {
            Kind::AtLeastOnce(producer(&producers)?)
        };
        let (settings, topics) = (settings.clone(), BTreeMap::new());
        let bytes_max = settings.message_bytes_max();
        let batch_bytes = producers.get("batch.size").and_then(|size| size.parse().ok()).unwrap_or(bytes_max);
        let mut sink =
            Self { bytes_max, batch_bytes, settings, producers, asker, cluster: None, topics, kind };
        let topic = sink.settings.topic.clone();
        sink.find(&topic)?;
        sink.cluster = client::cluster_id(&sink.asker);
        Ok(sink)
    }

    /// The partitions of a topic, made if the settings say with how many.
    fn find(&mut self, topic: &str) -> Result<i32, TaskError> {
        if let Some(known) = self.topics.get(topic) {
            return Ok(*known);
        }
        check_routed(self.topics.len().saturating_sub(1))?;
        let known = client::topic(&self.asker, topic)?;
        let partitions = match (known, self.settings.partitions) {
            (Some(known), _) => known.partitions,
            (None, Some(partitions)) => {
                let new = NewTopic::new(topic, i32::from(partitions), TopicReplication::Fixed(-1));
                make(&self.asker, &self.producers, &new)?
            }
            (None, None) => {
                let message = format!(
                    "no such topic: {topic} (asked at {}): make it, or write `partitions: N` and it is made with so many",
                    self.settings.bootstrap
                );
                return Err(TaskError::new(Class::Config, message));
            }
        };
        self.topics.insert(topic.to_owned(), partitions);
        Ok(partitions)
    }

    /// Finds the topics that rows are sent to.
    fn find_routed(&mut self, chain: &Chain, rows: &Rows<'_>, count: usize) -> Result<(), TaskError> {
        let names: BTreeSet<&str> = (0..count).filter_map(|row| text(rows.route, row)).collect();
        for name in names.into_iter().chain([self.settings.topic.clone().as_str()]) {
            let mut partitions = self.find(name)?;
            if self.settings.partition == PartitionBy::Source && chain.queue >= partitions {
                // Some may have been added since.
                self.topics.remove(name);
                partitions = self.find(name)?;
            }
            if self.settings.partition == PartitionBy::Source && chain.queue >= partitions {
                let message = format!(
                    "{chain}: topic {name} has {partitions} partitions, so none has the number of the source's queue: \
                     add partitions, or leave out `partition: source`"
                );
                return Err(TaskError::new(Class::Config, message));
            }
        }
        Ok(())
    }

    fn failed(&self, what: &str, error: KafkaError, told: &Told) -> TaskError {
        failed(format!("Kafka at {}: {what}", self.settings.bootstrap), error, told)
    }

    /// The record of a row. Its headers say where it was, unless it comes back to the cluster that it is from: then it is
    /// what it was there.
    fn record<'r>(&self, rows: &Rows<'r>, row: usize, origin: &'r str) -> Result<Record<'r>, String> {
        let given =
            Given { keys: text(rows.keys, row), tags: rows.tag(row), message_id: rows.message_id(row) };
        let mut record = to_record(given, rows.own_properties(row), origin, &self.settings.key)?;
        record.is_tombstone |= rows.has_no_body(row);
        let place = rows.own_properties(row).find(|(name, _)| *name == mapping::ORIGIN);
        let Some((_, place)) = place else { return Ok(record) };
        let comes_back = self.cluster.as_deref().is_none_or(|cluster| place.ends_with(cluster))
            && Place::parse(place).is_some_and(|place| place.cluster == self.cluster.as_deref());
        let mut add = |name: &'static str, value: &'r str| {
            record.headers.push((name.into(), Some(value.as_bytes().into())));
        };
        match (self.settings.copies, comes_back) {
            (true, _) => add(mapping::ORIGIN, place),
            (false, false) => {
                add(mapping::ORIGIN, place);
                add(mapping::ROCKETMQ_ORIGIN, origin);
            }
            (false, true) => {}
        }
        Ok(record)
    }

    /// With more of a slice's records waiting than these some partition has a full batch: each may have less than one
    /// that waits beside one that is under way.
    fn partial(&self, slice: &Slice) -> i32 {
        let partitions = match self.settings.partition {
            _ if slice.envelope.column_by_name(batch::ROUTE).is_some() => None,
            PartitionBy::Source => Some(1),
            PartitionBy::Key => {
                self.topics.get(&self.settings.topic).and_then(|known| usize::try_from(*known).ok())
            }
        };
        let Some(partitions) = partitions else { return i32::MAX };
        let record = (slice.bytes / slice.envelope.num_rows().max(1)).max(1);
        i32::try_from(2 * partitions * self.batch_bytes / record).unwrap_or(i32::MAX)
    }

    /// Hands all rows over.
    fn submit(&self, answers: &mut Answers<'_>, chain: &Chain, slice: &Slice) -> Result<(), TaskError> {
        let (rows, offsets) = (Rows::new(&slice.envelope), batch::offsets(&slice.envelope));
        let mut origin = Place::before_offset(&chain.topic, chain.queue);
        let origin_start = origin.len();
        for (row, offset) in offsets.iter().enumerate() {
            origin.truncate(origin_start);
            Place::push_offset(&mut origin, *offset, None);
            let made = self.record(&rows, row, &origin).map_err(|reason| {
                TaskError::new(
                    Class::Fatal,
                    format!("{chain}: row {offset} was taken for a record: {reason}"),
                )
            })?;
            let mut out = BaseRecord::to(text(rows.route, row).unwrap_or(&self.settings.topic));
            let body = rows.body(row);
            out.payload = (!made.is_tombstone || !body.is_empty()).then_some(body);
            out.key = made.key.as_deref();
            out.timestamp = rows.born(row);
            if self.settings.partition == PartitionBy::Source {
                out.partition = Some(chain.queue);
            }
            let headers = made
                .headers
                .iter()
                .fold(OwnedHeaders::new_with_capacity(made.headers.len()), |headers, (name, value)| {
                    headers.insert(Header { key: name, value: value.as_deref() })
                });
            out.headers = Some(headers);
            self.hand_over(answers, out)?;
        }
        Ok(())
    }

    fn hand_over(
        &self,
        answers: &mut Answers<'_>,
        mut record: BaseRecord<'_, [u8], [u8]>,
    ) -> Result<(), TaskError> {
        let (producer, mut wait) = (answers.producer, None);
        loop {
            match producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if !wait.get_or_insert_with(|| Wait::begin(ACT_MAX)).is_over() =>
                {
                    record = back;
                    answers.wait();
                }
                Err((error, _)) => {
                    return Err(self.failed("cannot send records", error, &producer.context().told));
                }
            }
        }
    }

    /// Waits until brokers answered for all records.
    fn await_all(&self, answers: Answers<'_>) -> Result<(), TaskError> {
        let producer = answers.producer;
        let Some((code, topic)) = answers.all() else { return Ok(()) };
        let error = KafkaError::MessageProduction(code);
        Err(self.failed(&not_stored(&topic), error, &producer.context().told))
    }

    /// A transaction of the rows and the position after them.
    fn transact(
        &self,
        open: &Open,
        chain: &Chain,
        slice: Option<&Slice>,
        standing: &Standing,
    ) -> Result<(), TaskError> {
        let producer = &open.producer;
        let told = &producer.context().told;
        producer.context().begin();
        producer.begin_transaction().map_err(|e| self.failed("cannot begin a transaction", e, told))?;
        let value = serde_json::to_vec(standing)
            .map_err(|e| TaskError::new(Class::Fatal, "cannot write a position").because(e))?;
        let key = key(chain);
        let mut position = BaseRecord::to(&self.settings.positions);
        (position.partition, position.key, position.payload) =
            (Some(PARTITION), Some(key.as_bytes()), Some(&value[..]));
        let mut answers = Answers::new(producer, slice.map_or(i32::MAX, |slice| self.partial(slice)));
        let sent = slice
            .map_or(Ok(()), |slice| self.submit(&mut answers, chain, slice))
            .and_then(|()| self.hand_over(&mut answers, position))
            .and_then(|()| self.await_all(answers));
        if let Err(error) = sent {
            let error = self.cause(producer, error);
            // The position did not move, whatever comes of this: an open transaction ends with the next producer.
            if let Err(other) = producer.abort_transaction(ACT_MAX) {
                tracing::warn!(task = %chain, error = %other, "a transaction could not be taken back");
                let class = if error.class == Class::Record { Class::Retry } else { error.class };
                return Err(TaskError { class, ..error });
            }
            return Err(error);
        }
        for _ in 1..ACTS_MAX {
            match producer.commit_transaction(ACT_MAX) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) if error.is_retriable() => {}
                Err(error) => return Err(self.uncommitted(chain, error, told)),
            }
        }
        producer.commit_transaction(ACT_MAX).map_err(|e| self.uncommitted(chain, e, told))
    }

    /// Why a transaction failed whose records were taken back because of it.
    fn cause(&self, producer: &BaseProducer<Deliveries>, error: TaskError) -> TaskError {
        let code = error.source.as_ref().and_then(|cause| cause.downcast_ref::<KafkaError>());
        let code = code.and_then(KafkaError::rdkafka_error_code);
        if !matches!(code, Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight)) {
            return error;
        }
        // Its state lets none begin, and is told with the reason.
        match producer.begin_transaction() {
            Err(KafkaError::Transaction(why)) if why.txn_requires_abort() => {
                let told = &producer.context().told;
                self.failed(&not_stored(&self.settings.topic), KafkaError::Transaction(why), told)
            }
            _ => error,
        }
    }

    /// Whether it was committed after all is seen by the next run.
    fn uncommitted(&self, chain: &Chain, error: KafkaError, told: &Told) -> TaskError {
        let error = self.failed(&format!("{chain}: cannot commit a transaction"), error, told);
        let class = if error.class == Class::Record { Class::Retry } else { error.class };
        TaskError { class, ..error }
    }

    /// A chain's own producer, which shuts out all before it and takes back what they have in hand.
    fn begin_chain(&self, key: &str) -> Result<BaseProducer<Deliveries>, TaskError> {
        let mut config = self.producers.clone();
        config.set("transactional.id", format!("sluice/{key}"));
        let producer = producer(&config)?;
        let told = &producer.context().told;
        let what = format!("{key}: cannot begin transactions");
        for _ in 1..ACTS_MAX {
            match producer.init_transactions(ACT_MAX) {
                Ok(()) => return Ok(producer),
                Err(KafkaError::Transaction(error)) if error.is_retriable() && told.last().is_none() => {}
                Err(error) => return Err(self.failed(&what, error, told)),
            }
        }
        producer.init_transactions(ACT_MAX).map_err(|e| self.failed(&what, e, told))?;
        Ok(producer)
    }

    /// The producers of several chains: one by one each would wait for half a second of the library's.
    fn begin_chains(&self, keys: &[String]) -> Result<Vec<BaseProducer<Deliveries>>, TaskError> {
        let mut begun = Vec::with_capacity(keys.len());
        for part in keys.chunks(BEGUN_AT_ONCE) {
            std::thread::scope(|scope| {
                let threads: Vec<_> = part.iter().map(|key| scope.spawn(|| self.begin_chain(key))).collect();
                for thread in threads {
                    let gone =
                        |_| TaskError::new(Class::Fatal, "a thread that begins transactions has panicked");
                    begun.push(thread.join().map_err(gone)??);
                }
                Ok(())
            })?;
        }
        Ok(begun)
    }
}

impl KafkaSink {
    /// Takes another producer for a chain: one whose records were refused has lost their numbers, and can send no more.
    fn renew(&mut self, chain: &Chain, next: i64) -> Result<(), TaskError> {
        // Whoever may have taken the chain over meanwhile is shut out by this, so the position says whose it is.
        match self.position(chain)? {
            Some((end, _)) if end == next => Ok(()),
            _ => {
                Err(TaskError::new(Class::Retry, format!("{chain}: another worker has moved on from {next}")))
            }
        }
    }
}

fn not_stored(topic: &str) -> String {
    format!("records for topic {topic} were not stored")
}

impl TransactTask for KafkaSink {
    fn prepare(&mut self, chains: &[Chain]) -> Result<(), TaskError> {
        let Kind::Exact { positions, chains: open, .. } = &self.kind else { return Ok(()) };
        // The order matters: what another worker has in hand is taken back before it is looked for.
        let mut keys: Vec<String> = chains.iter().map(key).collect();
        let producers = self.begin_chains(&keys)?;
        keys.extend(open.keys().map(key));
        if let Some(chain) = chains.first() {
            drop(self.begin_chains(&positions.hiding(&chain.pipeline, &keys)?)?);
        }
        let Kind::Exact { positions, ready, .. } = &mut self.kind else { return Ok(()) };
        positions.read()?;
        *ready = chains.iter().cloned().zip(producers).collect();
        Ok(())
    }

    fn position(&mut self, chain: &Chain) -> Result<Option<(i64, String)>, TaskError> {
        let Kind::Exact { ready, .. } = &self.kind else { return Ok(None) };
        if !ready.contains_key(chain) {
            self.prepare(std::slice::from_ref(chain))?;
        }
        let Kind::Exact { positions, ready, chains } = &mut self.kind else { return Ok(None) };
        let standing = positions.of(chain);
        let next = standing.as_ref().map_or(0, |standing| standing.end);
        if let Some(producer) = ready.remove(chain) {
            chains.insert(chain.clone(), Open { producer, next });
        }
        Ok(standing.map(|standing| (standing.end, standing.incarnation)))
    }

    fn begin(&mut self, chain: &Chain, origin: i64, incarnation: &str) -> Result<(), TaskError> {
        let Kind::Exact { chains, .. } = &self.kind else { return Ok(()) };
        let standing = Standing { end: origin, incarnation: incarnation.to_owned(), fates: Fates::default() };
        if let Some(open) = chains.get(chain) {
            self.transact(open, chain, None, &standing)?;
        }
        if let Kind::Exact { chains, .. } = &mut self.kind
            && let Some(open) = chains.get_mut(chain)
        {
            open.next = origin;
        }
        Ok(())
    }

    fn unfit(&self, slice: &Slice) -> Vec<(usize, String)> {
        let rows = Rows::new(&slice.envelope);
        let unfit = |row: usize| {
            if let Some(problem) = text(rows.route, row).and_then(topic_problem) {
                return Some(format!("step `route`: {problem}"));
            }
            let (mut bytes, mut is_plain) = (rows.body(row).len() + RECORD_OVERHEAD, true);
            for (name, value) in rows.own_properties(row) {
                bytes += name.len() + value.len() + 10;
                is_plain &= !matches!(name, mapping::HEADERS | mapping::KEY);
            }
            bytes += [text(rows.keys, row), rows.tag(row), rows.message_id(row)]
                .into_iter()
                .flatten()
                .map(str::len)
                .sum::<usize>();
            if !is_plain && let Err(reason) = self.record(&rows, row, "") {
                return Some(reason);
            }
            (bytes > self.bytes_max).then(|| {
                format!(
                    "a record of about {bytes} bytes exceeds the limit of {} bytes: raise `message.max.bytes` \
                     in `properties`, and in the topic",
                    self.bytes_max
                )
            })
        };
        (0..slice.envelope.num_rows()).filter_map(|row| Some((row, unfit(row)?))).collect()
    }

    /// Without the rows that have been in the topic before.
    fn kept(&mut self, slice: &Slice) -> Result<Option<BooleanArray>, TaskError> {
        let Some(cluster) = &self.cluster else { return Ok(None) };
        let rows = Rows::new(&slice.envelope);
        let is_new = |row: usize| {
            let topic = text(rows.route, row).unwrap_or(&self.settings.topic);
            !mapping::has_been_in(rows.own_properties(row), topic, cluster)
        };
        let kept: Vec<bool> = (0..slice.envelope.num_rows()).map(is_new).collect();
        Ok(kept.contains(&false).then(|| kept.into()))
    }

    fn commit(
        &mut self,
        chain: &Chain,
        incarnation: &str,
        slice: &Slice,
        fates: &Fates,
    ) -> Result<(), TaskError> {
        let rows = Rows::new(&slice.envelope);
        self.find_routed(chain, &rows, slice.envelope.num_rows())?;
        match &self.kind {
            Kind::AtLeastOnce(producer) => {
                producer.context().begin();
                // What was handed over is waited for also where the rest could not be.
                let mut answers = Answers::new(producer, self.partial(slice));
                let submitted = self.submit(&mut answers, chain, slice);
                let all = self.await_all(answers);
                return submitted.and(all);
            }
            Kind::Exact { chains, .. } => {
                let open = chains.get(chain).filter(|open| open.next == slice.range.start);
                let open = open.ok_or_else(|| {
                    let message = format!("{chain}: the position is not {}", slice.range.start);
                    TaskError::new(Class::Fatal, message)
                })?;
                let standing =
                    Standing { end: slice.range.end, incarnation: incarnation.to_owned(), fates: *fates };
                if let Err(error) = self.transact(open, chain, Some(slice), &standing) {
                    if error.class == Class::Record {
                        self.renew(chain, slice.range.start)?;
                    }
                    return Err(error);
                }
            }
        }
        if let Kind::Exact { chains, .. } = &mut self.kind
            && let Some(open) = chains.get_mut(chain)
        {
            open.next = slice.range.end;
        }
        Ok(())
    }

    fn bytes_wanted(&self) -> usize {
        TRANSACTION_BYTES
    }

    /// What brokers answered for is on all replicas that count.
    fn secure(&mut self) -> Result<(), TaskError> {
        Ok(())
    }

    fn keeps_positions(&self) -> bool {
        matches!(self.kind, Kind::Exact { .. })
    }
}

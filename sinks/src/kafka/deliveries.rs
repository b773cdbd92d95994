//! A producer, and what becomes of the records that were handed to it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use sluice_bridges::kafka::client::{self, Context, Told, failed};
use sluice_bridges::kafka::flush::flush;
use sluice_connect::task::{Class, TaskError};

/// How long brokers are given to answer before it is looked whether they have.
const ANSWER_PAUSE: Duration = Duration::from_millis(2);
/// A full batch has gone after so many of these, or there was none.
const FULL_BATCH_PAUSES: u32 = 8;
/// For how long batches that are not full are let go meanwhile.
const FLUSH: Duration = Duration::from_millis(1);

/// What becomes of the records that were handed over.
#[derive(Clone, Default)]
pub(super) struct Deliveries {
    pub(super) told: Arc<Told>,
    /// Why one was not stored, and the topic that it was for.
    failure: Arc<Mutex<Option<(RDKafkaErrorCode, String)>>>,
}

impl Deliveries {
    fn lock(&self) -> MutexGuard<'_, Option<(RDKafkaErrorCode, String)>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what became of earlier records.
    pub(super) fn begin(&self) {
        *self.lock() = None;
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        client::log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Context { told: Arc::clone(&self.told), ..Context::default() }.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let Err((error, record)) = result else { return };
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        // What was taken back because of another one's failure tells nothing; that a record can never be stored must
        // not hide that the broker is away.
        let rank = |code: RDKafkaErrorCode| match (code, client::class(code)) {
            (RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight, _) => 0,
            (_, Class::Record) => 1,
            _ => 2,
        };
        let mut failure = self.lock();
        if failure.as_ref().is_none_or(|(before, _)| rank(*before) < rank(code)) {
            *failure = Some((code, record.topic().to_owned()));
        }
    }
}

/// A producer that has nothing in hand.
pub(super) fn producer(config: &ClientConfig) -> Result<BaseProducer<Deliveries>, TaskError> {
    let context = Deliveries::default();
    let told = Arc::clone(&context.told);
    config.create_with_context(context).map_err(|e| failed("cannot make a Kafka client", e, &told))
}

/// Waits for the answers to the records of one act.
pub(super) struct Answers<'p> {
    pub(super) producer: &'p BaseProducer<Deliveries>,
    /// With more records waiting than these some partition has a full batch.
    partial: i32,
    /// Records that waited before, and how often they were as many.
    before: i32,
    still: u32,
}

impl<'p> Answers<'p> {
    pub(super) fn new(producer: &'p BaseProducer<Deliveries>, partial: i32) -> Self {
        Self { producer, partial, before: i32::MAX, still: 0 }
    }

    /// Gives brokers time to answer, and takes what the client tells, of records only that one was not stored. Whether
    /// all are answered for.
    pub(super) fn wait(&mut self) -> bool {
        let waiting = self.producer.in_flight_count();
        self.still = if waiting < self.before { 0 } else { self.still.saturating_add(1) };
        self.before = waiting;
        // What is held back can go once an answer came. Asked for without one, it would keep the client's thread spinning,
        // so this is done ever more rarely; a partition is told to a transaction without an answer to a record. Full
        // batches go by themselves.
        let often = waiting <= self.partial || self.still >= FULL_BATCH_PAUSES;
        let is_asked = often && (self.still == 0 || self.still.is_power_of_two());
        if is_asked && flush(self.producer, FLUSH) {
            return true;
        }
        loop {
            let before = self.producer.in_flight_count();
            self.producer.poll(Duration::ZERO);
            if self.producer.in_flight_count() >= before {
                break;
            }
        }
        std::thread::sleep(ANSWER_PAUSE);
        false
    }

    /// Waits until brokers answered for all records; why one was not stored, and the topic that it was for.
    pub(super) fn all(mut self) -> Option<(RDKafkaErrorCode, String)> {
        // Records have a time limit of their own, so this ends.
        while !self.wait() {}
        self.producer.context().lock().take()
    }
}

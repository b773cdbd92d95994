//! librdkafka's clients as both halves use them: their configuration, what they tell while they run, and whose its
//! errors are.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sluice_connect::task::{Class, TaskError};

use super::commits::Commits;
use super::{Properties, Property, Side};

/// How long brokers may take for one answer before they count as out of reach.
pub const ANSWER_MAX: Duration = Duration::from_secs(15);

/// How long one question waits before what the client tells is looked at.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How long brokers that can not be reached are tried.
const TOLD_AFTER: Duration = Duration::from_secs(3);
/// What is taken at once of what a client tells.
const EVENTS_MAX: usize = 32;

/// The configuration of a client: ours, then what the pipeline says.
pub fn config(side: Side, bootstrap: &str, properties: &Properties) -> ClientConfig {
    let ours: &[(&str, &str)] = match side {
        Side::Source => &[
            ("isolation.level", "read_committed"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
            ("enable.partition.eof", "true"),
            ("check.crcs", "true"),
            ("fetch.wait.max.ms", "100"),
            // Once enough is read ahead; its default, a second, is longer than what is ahead lasts, which is milliseconds.
            ("fetch.queue.backoff.ms", "2"),
            // Compressed: what an answer unpacks to is held beside what is ahead, and many times as large.
            ("fetch.message.max.bytes", "262144"),
        ],
        Side::Sink => &[
            ("acks", "all"),
            ("enable.idempotence", "true"),
            ("compression.type", "zstd"),
            ("compression.level", "1"),
            // Longer than a slice takes: the client's thread spins over records that are older. The end of a slice flushes.
            ("linger.ms", "1000"),
            ("delivery.report.only.error", "true"),
            ("batch.size", "1000000"),
            // Like the clients of Java: equal keys meet in one partition, whoever wrote them.
            ("partitioner", "murmur2_random"),
        ],
    };
    let mut config = ClientConfig::new();
    // What `debug` asks for is told at that level.
    let is_debugged = properties.contains_key("debug");
    config.set_log_level(if is_debugged { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
    config.set("client.id", "sluice");
    for (key, value) in ours {
        config.set(*key, *value);
    }
    if ["compression.type", "compression.codec"].iter().any(|key| properties.contains_key(*key)) {
        // A level of one codec is none of another.
        config.remove("compression.level");
    }
    for (key, Property(value)) in properties {
        if let Some(other) = alias(key) {
            config.remove(other);
        }
        config.set(key, value);
    }
    config.set("bootstrap.servers", bootstrap);
    config
}

/// The name that we set a property by, where it has two.
fn alias(key: &str) -> Option<&'static str> {
    match key {
        "request.required.acks" => Some("acks"),
        "compression.codec" => Some("compression.type"),
        "queue.buffering.max.ms" => Some("linger.ms"),
        "max.partition.fetch.bytes" => Some("fetch.message.max.bytes"),
        _ => None,
    }
}

/// What librdkafka does not take: the property, if it says which, and why.
pub(super) fn property_problem(side: Side, properties: &Properties) -> Option<(Option<String>, String)> {
    match config(side, "localhost:9092", properties).create_native_config() {
        Ok(_) => None,
        Err(KafkaError::ClientConfig(_, why, key, _)) => {
            let known = KNOWN.iter().copied().chain(properties.keys().map(String::as_str));
            let near = known
                .filter(|name| *name != key)
                .map(|name| (strsim::damerau_levenshtein(name, &key), name))
                .filter(|(distance, _)| *distance <= 2)
                .min();
            let hint = near.map_or_else(String::new, |(_, name)| format!("; did you mean `{name}`?"));
            Some((Some(key), format!("librdkafka refuses it: {why}{hint}")))
        }
        Err(error) => Some((None, format!("librdkafka refuses the properties: {error}"))),
    }
}

/// Properties that are set often, for hints.
const KNOWN: [&str; 24] = [
    "acks",
    "batch.num.messages",
    "batch.size",
    "client.id",
    "client.rack",
    "compression.level",
    "compression.type",
    "delivery.timeout.ms",
    "fetch.max.bytes",
    "fetch.min.bytes",
    "fetch.wait.max.ms",
    "linger.ms",
    "max.partition.fetch.bytes",
    "message.max.bytes",
    "partitioner",
    "sasl.mechanism",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "socket.timeout.ms",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "transaction.timeout.ms",
];

/// What a client told beside its answers.
#[derive(Debug, Default)]
pub struct Told {
    last: Mutex<Option<(RDKafkaErrorCode, String)>>,
}

impl Told {
    fn lock(&self) -> MutexGuard<'_, Option<(RDKafkaErrorCode, String)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, code: RDKafkaErrorCode, reason: &str) {
        let mut last = self.lock();
        // That all are down is the consequence of what was told before.
        if code != RDKafkaErrorCode::AllBrokersDown || last.is_none() {
            *last = Some((code, reason.to_owned()));
        }
    }

    /// The class of what was told last, and its text.
    pub fn last(&self) -> Option<(Class, String)> {
        self.lock().as_ref().map(|(code, reason)| (class(*code), reason.clone()))
    }

    fn forget(&self) {
        *self.lock() = None;
    }
}

/// The partitions that a member of a group has now, each by topic and number.
#[derive(Debug, Default)]
pub struct Assigned(Mutex<BTreeSet<(String, i32)>>);

impl Assigned {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<(String, i32)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a partition is among them.
    pub fn has(&self, topic: &str, partition: i32) -> bool {
        self.lock().contains(&(topic.to_owned(), partition))
    }
}

fn named(list: &TopicPartitionList) -> impl Iterator<Item = (String, i32)> {
    list.elements().into_iter().map(|element| (element.topic().to_owned(), element.partition()))
}

/// The context of our consumers.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// What the client told.
    pub told: Arc<Told>,
    /// What a member of a group has.
    pub assigned: Arc<Assigned>,
    /// What the group is to have committed.
    pub commits: Arc<Commits>,
}

/// Writes a line of the client's log: what it tries again by itself is no trouble yet, what ends something comes as an
/// error too.
pub fn log(level: RDKafkaLogLevel, facility: &str, line: &str) {
    use RDKafkaLogLevel as Level;
    match level {
        Level::Emerg | Level::Alert | Level::Critical => {
            tracing::warn!(target: "librdkafka", facility, "{line}");
        }
        Level::Error | Level::Warning | Level::Notice => {
            tracing::info!(target: "librdkafka", facility, "{line}");
        }
        Level::Info | Level::Debug => tracing::debug!(target: "librdkafka", facility, "{line}"),
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code().filter(|code| *code != RDKafkaErrorCode::PartitionEOF)
        {
            // That all are down is told again and again.
            if code == RDKafkaErrorCode::AllBrokersDown {
                tracing::debug!(%error, reason, "a Kafka client told of trouble");
            } else {
                tracing::warn!(%error, reason, "a Kafka client told of trouble");
            }
            self.told.add(code, reason);
        }
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, member: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(gone) = rebalance {
            // Whoever reads on begins there: the client does not join anew before this has its answer.
            if let Err(error) = self.commits.commit(member, CommitMode::Async) {
                tracing::warn!(%error, "a group's offsets are not committed before partitions go");
            }
            let mut assigned = self.assigned.lock();
            for partition in named(gone) {
                assigned.remove(&partition);
                self.commits.forget(&partition);
            }
        }
    }

    /// A member reads nothing by itself: who reads is told where.
    fn post_rebalance(&self, member: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(new) = rebalance {
            if let Err(error) = member.pause(new) {
                tracing::warn!(%error, "a member of the group reads in vain");
            }
            self.assigned.lock().extend(named(new));
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::warn!(%error, "the group's offsets did not move");
        }
    }
}

/// Who must act on an error of Kafka's.
pub fn class(code: RDKafkaErrorCode) -> Class {
    use RDKafkaErrorCode as Code;
    match code {
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SecurityDisabled
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::UnknownPartition
        | Code::UnknownTopicId
        | Code::InvalidTopic
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::UnsupportedCompressionType
        | Code::UnsupportedForMessageFormat
        | Code::NotImplemented
        | Code::BadCompression
        | Code::BadMessage
        | Code::InvalidMessage
        | Code::InvalidArgument
        | Code::InvalidConfig
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidTransactionTimeout
        | Code::PolicyViolation
        | Code::OffsetOutOfRange
        | Code::AutoOffsetReset
        | Code::LogTruncation => Class::Config,
        Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::InvalidTimestamp => Class::Record,
        // A worker that was shut out begins again, and sees where the other one is.
        _ => Class::Retry,
    }
}

/// An error of a task, with what the client told while the answer was waited for.
pub fn failed(what: impl Into<String>, error: KafkaError, told: &Told) -> TaskError {
    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
    let (mut class, mut what) = (class(code), what.into());
    if matches!(error, KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_)) {
        class = Class::Config;
    }
    let waited = matches!(
        code,
        RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::MessageTimedOut
    );
    if let Some((cause, reason)) = told.last().filter(|_| waited) {
        if cause == Class::Config {
            class = cause;
        }
        what = format!("{what} ({reason})");
    }
    match error {
        // Its text would show the value, which may be a secret.
        KafkaError::ClientConfig(_, why, key, _) => {
            TaskError::new(class, format!("{what}: librdkafka refuses property `{key}`: {why}"))
        }
        error => TaskError::new(class, what).because(error),
    }
}

/// A consumer that is told which partitions it reads. Its group is for offsets alone.
pub fn consumer(config: &ClientConfig, group: &str) -> Result<BaseConsumer<Context>, TaskError> {
    let mut config = config.clone();
    config.set("group.id", group);
    let context = Context::default();
    let told = Arc::clone(&context.told);
    config.create_with_context(context).map_err(|e| failed("cannot make a Kafka client", e, &told))
}

/// A consumer that reads nothing, to ask for topics and ends. Without a group it takes no time to end.
pub fn asker(config: &ClientConfig) -> Result<BaseConsumer<Context>, TaskError> {
    let context = Context::default();
    let told = Arc::clone(&context.told);
    config.create_with_context(context).map_err(|e| failed("cannot make a Kafka client", e, &told))
}

/// A member of a group that shares topics with the others, cooperatively: who joins or leaves moves partitions, and the
/// rest go on. Must be polled.
pub fn member(
    config: &ClientConfig,
    group: &str,
    topics: &[&str],
) -> Result<BaseConsumer<Context>, TaskError> {
    let mut config = config.clone();
    config.set("partition.assignment.strategy", "cooperative-sticky").set("auto.offset.reset", "latest");
    for (key, value) in [("session.timeout.ms", "10000"), ("heartbeat.interval.ms", "2000")] {
        if config.get(key).is_none() {
            config.set(key, value);
        }
    }
    let member = consumer(&config, group)?;
    let subscribed = member.subscribe(topics);
    subscribed.map_err(|e| failed(format!("cannot join group {group}"), e, &member.context().told))?;
    Ok(member)
}

/// A topic that brokers know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its partitions, from 0.
    pub partitions: i32,
}

/// Asks for one topic; `None` if there is none.
pub fn topic(asker: &BaseConsumer<Context>, name: &str) -> Result<Option<Topic>, TaskError> {
    let found = topics(asker, Some(name))?;
    Ok(found.into_iter().find(|topic| topic.name == name))
}

/// Asks for one topic or all of them. One that has no partitions yet is tried again later.
pub fn topics(asker: &BaseConsumer<Context>, name: Option<&str>) -> Result<Vec<Topic>, TaskError> {
    let (whole, told_enough) = (Wait::begin(ANSWER_MAX), Wait::begin(TOLD_AFTER));
    let metadata = loop {
        match asker.fetch_metadata(name, ASK_AGAIN) {
            Ok(metadata) => break metadata,
            Err(error) => {
                listen(asker);
                let is_told = asker.context().told.last().is_some() && told_enough.is_over();
                if is_told || whole.is_over() {
                    return Err(failed("the brokers do not answer", error, &asker.context().told));
                }
            }
        }
    };
    listen(asker);
    asker.context().told.forget();
    let mut found = Vec::new();
    for topic in metadata.topics() {
        match topic.error().map(RDKafkaErrorCode::from) {
            None | Some(RDKafkaErrorCode::NoError) => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => continue,
            Some(code) if name.is_some() => {
                let message = format!("topic {} can not be used", topic.name());
                return Err(TaskError::new(class(code), message).because(code));
            }
            // Of all topics there are some that are not ours to see.
            Some(_) => continue,
        }
        let partitions = i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
        found.push(Topic { name: topic.name().to_owned(), partitions });
    }
    Ok(found)
}

/// Takes what a client that reads nothing has to tell.
fn listen(asker: &BaseConsumer<Context>) {
    for _ in 0..EVENTS_MAX {
        // It may also have told something that is no event of ours, such as a line for the log.
        drop(asker.poll(Duration::ZERO));
    }
}

/// The offsets of a partition: the first that is kept, and the one after the last that can be read.
pub fn bounds(asker: &BaseConsumer<Context>, topic: &str, partition: i32) -> Result<(i64, i64), TaskError> {
    asker.fetch_watermarks(topic, partition, ANSWER_MAX).map_err(|error| {
        listen(asker);
        let what = format!("cannot ask for the ends of topic {topic} partition {partition}");
        failed(what, error, &asker.context().told)
    })
}

/// The id that the cluster gave itself; brokers before 0.10.1 have none.
pub fn cluster_id(asker: &BaseConsumer<Context>) -> Option<String> {
    asker.client().fetch_cluster_id(ANSWER_MAX).filter(|id| !id.is_empty())
}

/// Reads one partition from `from` to where it ends once everything below `until` can be read, calling `each` for
/// each record. Gives the offset after the last one. The consumer reads nothing else.
pub fn read_to_end<T>(
    consumer: &BaseConsumer<Context>,
    (topic, partition): (&str, i32),
    from: i64,
    until: i64,
    patience: Duration,
    mut each: impl FnMut(&BorrowedMessage<'_>) -> Result<T, TaskError>,
) -> Result<i64, TaskError> {
    let told = &consumer.context().told;
    let what = || format!("cannot read topic {topic} partition {partition}");
    let wait = Wait::begin(patience);
    // Readers see nothing beyond the first record of a transaction that is open.
    while bounds(consumer, topic, partition)?.1 < until {
        if wait.is_over() {
            let message = format!(
                "topic {topic} partition {partition}: a transaction of another producer is open, and its records hide \
                 what comes after them"
            );
            return Err(TaskError::new(Class::Retry, message));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut assignment = TopicPartitionList::new();
    let assigned = assignment
        .add_partition_offset(topic, partition, Offset::Offset(from))
        .and_then(|()| consumer.assign(&assignment));
    assigned.map_err(|e| failed(what(), e, told))?;
    let mut next = from;
    // The end that comes now was looked for after all of it could be read.
    let result = loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                next = message.offset() + 1;
                if let Err(error) = each(&message) {
                    break Err(error);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => break Ok(next),
            Some(Err(error)) if is_passing(&error) && !wait.is_over() => {}
            Some(Err(error)) => break Err(failed(what(), error, told)),
            None if wait.is_over() => {
                break Err(TaskError::new(Class::Retry, format!("{}: no answer", what())));
            }
            None => {}
        }
    };
    // Whether it could be told or not: the next read assigns anew.
    let _ = consumer.unassign();
    result
}

/// Whether a consumer goes on by itself after an error.
pub fn is_passing(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    code.is_some_and(|code| class(code) == Class::Retry && code != RDKafkaErrorCode::AllBrokersDown)
}

/// A time that runs from when it was begun.
#[derive(Debug)]
pub struct Wait {
    begun: std::time::Instant,
    patience: Duration,
}

impl Wait {
    /// Begins now.
    #[expect(clippy::disallowed_methods, reason = "how long brokers are waited for decides about no row")]
    pub fn begin(patience: Duration) -> Self {
        Self { begun: std::time::Instant::now(), patience }
    }

    /// Whether it has passed.
    pub fn is_over(&self) -> bool {
        self.begun.elapsed() >= self.patience
    }
}

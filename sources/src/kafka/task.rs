//! The task of source `kafka`: one consumer that is told its partitions, each with a queue of its own.
//!
//! The client reads ahead within a bound of bytes. It says when it has seen the end of a partition, and not which
//! offset that is, so what lies between the last record and the end (marks of transactions) is accounted for in two
//! steps: ask for the end, then read up to it once more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use regex::Regex;
use sluice_bridges::kafka::Side;
use sluice_bridges::kafka::client::{
    ANSWER_MAX, Context, Topic, Wait, asker, bounds, config, is_passing, topic, topics,
};
use sluice_bridges::kafka::records::Records;
use sluice_connect::task::{Class, Confirm, Needs, Range, Read, Slice, SourceQueue, SourceTask, TaskError};

use super::KafkaConfig;
use super::columns::Columns;
use super::link::{AHEAD, Confirmer, Link};
use super::mark::Mark;
use crate::arrivals::Arrivals;
use crate::filtered::{batch_bytes, filtered};
use crate::opened;
use crate::topic::{Begin, Until};

/// How often partitions and topics are looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// How often it is looked whether partitions that are read are still the ones that they were.
const SAME_INTERVAL: Duration = Duration::from_secs(20);
/// How often a partition's end is asked for, for the lag.
const END_INTERVAL: Duration = Duration::from_secs(2);
/// What a partition reads ahead, in KiB: where it is the only one, where there are few, and where there are many.
const AHEAD_KIB: [usize; 3] = [4 * 1024, 1536, 1024];
/// What few partitions together read ahead, in KiB.
const AHEAD_KIB_MAX: usize = 8 * 1024;
/// Rows of one slice.
const SLICE_ROWS_MAX: usize = 16_384;

/// Reads topics of a Kafka cluster.
pub(super) struct KafkaSource {
    settings: KafkaConfig,
    group: String,
    patterns: Vec<Regex>,
    needs: Needs,
    link: Option<Arc<Link>>,
    queues: BTreeMap<(Arc<str>, i32), Open>,
    listed: Vec<SourceQueue>,
    looked: Option<Wait>,
    compared: Option<Wait>,
    arrivals: Arc<Arrivals>,
    seen: u64,
}

/// One partition.
struct Open {
    /// Its records, once it is read.
    records: Option<Records>,
    /// The offset that the next record has at least, if the queue goes on there.
    next: Option<i64>,
    /// The client has seen the end since the last record.
    at_end: bool,
    /// The partition is being read up to here once more, after its end was asked for.
    probed: Option<i64>,
    /// The end as far as it is known.
    end: i64,
    asked: Option<Wait>,
    /// A record that was read last, and the one that is compared next: by then the last one may be another topic's.
    last: Option<Mark>,
    compared: Option<Mark>,
}

impl KafkaSource {
    /// `pipeline` names the group if the config does not.
    pub(super) fn new(settings: &KafkaConfig, pipeline: &str) -> Result<Self, TaskError> {
        let patterns =
            settings.topics.iter().filter(|name| name.starts_with('^')).map(|name| Regex::new(name));
        let patterns = patterns.collect::<Result<_, _>>();
        Ok(Self {
            settings: settings.clone(),
            group: settings.group.clone().unwrap_or_else(|| pipeline.to_owned()),
            patterns: patterns
                .map_err(|e| TaskError::new(Class::Config, "no regular expression").because(e))?,
            needs: Needs::default(),
            link: None,
            queues: BTreeMap::new(),
            listed: Vec::new(),
            looked: None,
            compared: None,
            arrivals: Arc::default(),
            seen: 0,
        })
    }

    fn link(&self) -> Result<Arc<Link>, TaskError> {
        opened(self.link.as_ref()).cloned()
    }

    /// The topics that the settings name and the brokers have.
    fn topics(&self, asker: &BaseConsumer<Context>) -> Result<Vec<Topic>, TaskError> {
        let mut found = Vec::new();
        for name in
            self.settings.topic.iter().chain(&self.settings.topics).filter(|name| !name.starts_with('^'))
        {
            let known = topic(asker, name)?;
            found.push(known.ok_or_else(|| {
                let message = format!("no such topic: {name} (asked at {})", self.settings.bootstrap);
                TaskError::new(Class::Config, message)
            })?);
        }
        if !self.patterns.is_empty() {
            // Those that begin so are Kafka's own and ours.
            let all = topics(asker, None)?.into_iter().filter(|topic| !topic.name.starts_with("__"));
            for topic in all.filter(|topic| self.patterns.iter().any(|p| p.is_match(&topic.name))) {
                if !found.contains(&topic) {
                    found.push(topic);
                }
            }
        }
        Ok(found)
    }

    /// Adds the partitions that are new, with where they begin.
    fn look(&mut self) -> Result<(), TaskError> {
        let link = self.link()?;
        let mut new = Vec::new();
        for topic in self.topics(&link.asker)? {
            let name: Arc<str> = topic.name.into();
            let mut is_new = true;
            for partition in 0..topic.partitions {
                if self.queues.contains_key(&(Arc::clone(&name), partition)) {
                    is_new = false;
                    continue;
                }
                if std::mem::take(&mut is_new) {
                    // A client that has its brokers already looks for a new topic once a second only.
                    let asked = link.reader.fetch_metadata(Some(&name), ANSWER_MAX);
                    asked.map_err(|e| link.failed(&format!("cannot ask for topic {name}"), e))?;
                }
                let (first, end) = bounds(&link.asker, &name, partition)?;
                new.push((Arc::clone(&name), partition, first, end));
            }
        }
        // One that comes later holds nothing that was there at the start.
        let latest = self.settings.start == Begin::Latest && self.looked.is_none();
        let marks =
            link.marks(&new.iter().map(|(name, id, first, _)| (&**name, *id, *first)).collect::<Vec<_>>())?;
        for ((name, partition, first, end), mark) in new.into_iter().zip(marks) {
            self.listed.push(SourceQueue {
                topic: Arc::clone(&name),
                queue: partition,
                incarnation: mark.to_string(),
                first,
                origin: if latest { end } else { first },
            });
            let open = Open {
                records: None,
                next: None,
                at_end: false,
                probed: None,
                end,
                asked: None,
                last: None,
                compared: None,
            };
            self.queues.insert((name, partition), open);
        }
        self.looked = Some(Wait::begin(LOOK_INTERVAL));
        if self.compared.as_ref().is_none_or(Wait::is_over) {
            self.compare(&link)?;
            self.compared = Some(Wait::begin(SAME_INTERVAL));
        }
        Ok(())
    }

    /// Reads the records again that were read last: clients go on in a topic that was deleted and made again as if
    /// nothing had happened.
    fn compare(&mut self, link: &Link) -> Result<(), TaskError> {
        let (mut places, mut marks) = (Vec::new(), Vec::new());
        for ((topic, partition), open) in &self.queues {
            let Some(mark) = open.compared.as_ref().filter(|_| open.records.is_some()) else { continue };
            let (first, end) = bounds(&link.asker, topic, *partition)?;
            if end <= mark.offset {
                return Err(made_again(topic, *partition, mark.offset));
            }
            // Retention may have taken it.
            if first <= mark.offset {
                places.push((&**topic, *partition, mark.offset));
                marks.push(mark);
            }
        }
        let found = match link.marks(&places) {
            // Or just now.
            Err(error) if is_out_of_range(&error) => return Ok(()),
            found => found?,
        };
        let mut all = marks.iter().zip(&found).zip(&places);
        if let Some((_, (topic, partition, offset))) = all.find(|((mark, found), _)| !mark.is_still(found)) {
            return Err(made_again(topic, *partition, *offset));
        }
        self.queues.values_mut().for_each(|open| open.compared = open.last);
        Ok(())
    }

    /// Takes what the clients say beside records.
    fn serve(&self) -> Result<(), TaskError> {
        let link = self.link()?;
        link.committed(link.commits().commit_if_due(link.committer()))?;
        // A member reads nothing; what it tells of brokers the reader tells as well.
        while let Some(Err(_) | Ok(_)) = link.member.as_ref().and_then(|member| member.poll(Duration::ZERO)) {
        }
        loop {
            match link.reader.poll(Duration::ZERO) {
                None => return Ok(()),
                // All records come in queues of their own.
                Some(Ok(message)) => {
                    let (topic, partition) = (message.topic(), message.partition());
                    let message =
                        format!("topic {topic} partition {partition}: a record went past its queue");
                    return Err(TaskError::new(Class::Retry, message));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) if is_passing(&error) => {}
                Some(Err(error)) => return Err(link.failed("cannot read on", error)),
            }
        }
    }
}

impl Open {
    /// Has the client read from an offset on.
    fn begin(
        &mut self,
        link: &Link,
        arrivals: &Arc<Arrivals>,
        (topic, partition): (&str, i32),
        offset: i64,
    ) -> Result<(), TaskError> {
        let what = format!("cannot read topic {topic} partition {partition} from {offset}");
        self.next = None;
        if let Some(records) = &mut self.records {
            records.clear();
            link.reader
                .seek(topic, partition, Offset::Offset(offset), ANSWER_MAX)
                .map_err(|e| link.failed(&what, e))?;
        } else {
            // The queue first: then no record can take another way.
            let records = Records::new(&link.reader, topic, partition);
            let mut records = records.ok_or_else(|| TaskError::new(Class::Fatal, what.clone()))?;
            let arrivals = Arc::clone(arrivals);
            records.on_arrival(move || arrivals.add());
            let mut assignment = TopicPartitionList::new();
            let assigned = assignment
                .add_partition_offset(topic, partition, Offset::Offset(offset))
                .and_then(|()| link.reader.incremental_assign(&assignment));
            assigned.map_err(|e| link.failed(&what, e))?;
            self.records = Some(records);
        }
        (self.next, self.at_end) = (Some(offset), false);
        Ok(())
    }
}

/// What each of so many partitions reads ahead, in KiB.
fn ahead_kib(partitions: i32) -> usize {
    let [alone, few, many] = AHEAD_KIB;
    match usize::try_from(partitions) {
        Ok(partitions @ 2..) => (AHEAD_KIB_MAX / partitions).clamp(many, few),
        _ => alone,
    }
}

impl SourceTask for KafkaSource {
    fn open(&mut self, needs: &Needs) -> Result<(), TaskError> {
        self.needs = needs.clone();
        let KafkaConfig { bootstrap, properties, .. } = &self.settings;
        let mut config = config(Side::Source, bootstrap, properties);
        let asker = asker(&config)?;
        let partitions: i32 = self.topics(&asker)?.iter().map(|topic| topic.partitions).sum();
        if !properties.contains_key(AHEAD) {
            config.set(AHEAD, ahead_kib(partitions).to_string());
        }
        self.link = Some(Arc::new(Link::new(&self.settings, &self.group, config, asker)?));
        Ok(())
    }

    /// Asks for the topics alone: a client that reads takes a tenth of a second to end.
    fn exists(&mut self) -> Result<(), TaskError> {
        let KafkaConfig { bootstrap, properties, .. } = &self.settings;
        let asker = asker(&config(Side::Source, bootstrap, properties))?;
        self.topics(&asker).map(drop)
    }

    fn queues(&mut self) -> Result<Vec<SourceQueue>, TaskError> {
        if self.looked.as_ref().is_none_or(Wait::is_over) {
            self.look()?;
        }
        self.serve()?;
        let link = self.link()?;
        let Some(member) = &link.member else { return Ok(self.listed.clone()) };
        let assigned = &member.context().assigned;
        Ok(self.listed.iter().filter(|queue| assigned.has(&queue.topic, queue.queue)).cloned().collect())
    }

    fn read(&mut self, topic: &str, queue: i32, range: Range, bytes_max: usize) -> Result<Read, TaskError> {
        self.serve()?;
        let link = self.link()?;
        let unknown = || TaskError::new(Class::Fatal, format!("no such queue: {topic} {queue}"));
        let open = self.queues.get_mut(&(Arc::from(topic), queue)).ok_or_else(unknown)?;
        if open.next != Some(range.start) {
            open.probed = None;
            open.begin(&link, &self.arrivals, (topic, queue), range.start)?;
        }
        let records = open.records.as_mut().ok_or_else(unknown)?;
        let what = format!("cannot read topic {topic} partition {queue} from {}", range.start);
        let mut columns =
            Columns::new(&self.needs, &self.settings.key, (topic, queue, link.cluster.as_deref()));
        let (mut next, mut absent, mut goes_on) = (range.start, 0_i64, true);
        while columns.len() < SLICE_ROWS_MAX && columns.bytes() < bytes_max {
            match records.next(Duration::ZERO) {
                None => break,
                Some(Ok(record)) => {
                    let offset = record.offset();
                    (open.at_end, open.probed) = (false, None);
                    if offset < next {
                        let message =
                            format!("{what}: the record at {offset} came after those before {next}");
                        return Err(TaskError::new(Class::Retry, message));
                    }
                    if columns.len() == 0 {
                        let mark = Mark::of(&record);
                        open.last = Some(mark);
                        open.compared.get_or_insert(mark);
                    }
                    absent += offset.min(range.end) - next;
                    next = offset.min(range.end);
                    if offset >= range.end {
                        // It comes again with the next range.
                        goes_on = false;
                        break;
                    }
                    columns
                        .push(&record)
                        .map_err(|e| TaskError::new(Class::Fatal, what.clone()).because(e))?;
                    next = offset + 1;
                    if next == range.end {
                        break;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => open.at_end = true,
                Some(Err(error)) if is_passing(&error) => {}
                Some(Err(error)) => {
                    open.next = None;
                    let unknown = error.rdkafka_error_code() == Some(RDKafkaErrorCode::NotImplemented);
                    let why = if unknown {
                        ": records are compressed by a codec that is not known here"
                    } else {
                        ""
                    };
                    return Err(link.failed(&format!("{what}{why}"), out_of_range(error)));
                }
            }
        }
        // The client tells of an end only once a broker has waited there for more.
        let is_known_end = self.settings.until == Until::CaughtUp && range.start >= open.end;
        if next == range.start && (open.at_end || is_known_end) {
            let is_plan = range.end != i64::MAX;
            if self.settings.until != Until::CaughtUp && !is_plan {
                return Ok(Read::Idle);
            }
            match open.probed.take() {
                // All that lay before the end was read, and nothing came.
                Some(end) => {
                    next = end.min(range.end);
                    absent = next - range.start;
                }
                None => {
                    open.end = bounds(&link.asker, topic, queue)?.1;
                    if range.start > open.end && !open.at_end {
                        // No end that was reached: the client tells that it is out of range.
                        return Ok(Read::Idle);
                    }
                    if range.start >= open.end {
                        // An answer that waits for records of this one would hold up the others of its broker.
                        self.release(topic, queue);
                        return Ok(Read::Ended);
                    }
                    if open.at_end {
                        open.probed = Some(open.end);
                        open.begin(&link, &self.arrivals, (topic, queue), range.start)?;
                    }
                    return Ok(Read::Idle);
                }
            }
        }
        if next == range.start {
            return Ok(Read::Idle);
        }
        open.next = goes_on.then_some(next);
        open.end = open.end.max(next);
        let range = Range { start: range.start, end: next };
        let stored_ms = columns.last_ms;
        let (envelope, rejects) =
            columns.finish().map_err(|e| TaskError::new(Class::Fatal, what).because(e))?;
        let bytes = batch_bytes(&envelope) + rejects.iter().map(|reject| reject.body.len()).sum::<usize>();
        let absent = u64::try_from(absent).unwrap_or(0);
        let (decoded, deduplicated) = (None, Vec::new());
        let slice =
            Slice { range, envelope, decoded, filtered: 0, absent, deduplicated, rejects, bytes, stored_ms };
        Ok(Read::Slice(match &self.needs.filter {
            Some(filter) => filtered(slice, filter)?,
            None => slice,
        }))
    }

    fn release(&mut self, topic: &str, queue: i32) {
        let (Some(link), Some(open)) = (&self.link, self.queues.get_mut(&(Arc::from(topic), queue))) else {
            return;
        };
        open.next = None;
        if open.records.take().is_none() {
            return;
        }
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition(topic, queue);
        if let Err(error) = link.reader.incremental_unassign(&assignment) {
            tracing::warn!(topic, queue, %error, "a partition is read on although nobody wants it");
        }
    }

    fn wait(&mut self, timeout: Duration) {
        self.arrivals.wait(self.seen, timeout);
        // Not at a read: what came for a queue that was read before in the same round would be waited for.
        self.seen = self.arrivals.seen();
    }

    fn end(&mut self, topic: &str, queue: i32) -> Option<i64> {
        let link = self.link.clone()?;
        let open = self.queues.get_mut(&(Arc::from(topic), queue))?;
        if open.asked.as_ref().is_none_or(Wait::is_over) {
            open.asked = Some(Wait::begin(END_INTERVAL));
            // For display: what is not known now is asked again.
            if let Ok((_, end)) = link.asker.fetch_watermarks(topic, queue, Duration::from_secs(1)) {
                open.end = open.end.max(end);
            }
        }
        Some(open.end)
    }

    fn confirmer(&self) -> Arc<dyn Confirm> {
        Arc::new(Confirmer { link: self.link.clone() })
    }
}

fn made_again(topic: &str, partition: i32, offset: i64) -> TaskError {
    let message = format!(
        "topic {topic} partition {partition}: the record at {offset} is not the one that was read before: the topic was \
         deleted and made again, and its offsets mean other rows now. To take it from its beginning, give the pipeline a \
         new name"
    );
    TaskError::new(Class::Config, message)
}

fn is_out_of_range(error: &TaskError) -> bool {
    let cause = error.source.as_ref().and_then(|cause| cause.downcast_ref::<KafkaError>());
    cause.and_then(KafkaError::rdkafka_error_code).is_some_and(|code| {
        matches!(code, RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset)
    })
}

/// A position beyond what there is: the records are gone, or the topic is another one.
fn out_of_range(error: KafkaError) -> KafkaError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AutoOffsetReset) => {
            KafkaError::OffsetFetch(RDKafkaErrorCode::OffsetOutOfRange)
        }
        _ => error,
    }
}

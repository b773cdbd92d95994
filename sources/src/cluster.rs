//! Source `topic` with `cluster`: messages of brokers on the network, Sluice's or `RocketMQ`'s.
//!
//! Each queue of each broker is a chain of its own, whose topic is `topic@broker`. A task a queue pulls ahead
//! (`prefetch.rs`); a read makes one slice of what is there.

mod mark;
mod prefetch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_client::{
    Client, ClientSettings, Error, Filter, Queue, QueueReader, ReaderSettings, Start, TopicName,
};
use sluice_connect::progress::Progress;
use sluice_connect::task::{
    ACT_BYTES, Class, Confirm, Needs, Range, Read, SourceQueue, SourceTask, TaskError,
};
use sluice_filters::{Dialect, Name};
use sluice_protocol::id::GroupName;
use tokio::runtime::Runtime;

use self::mark::Mark;
use self::prefetch::Prefetch;
use crate::arrivals::Arrivals;
use crate::opened;
use crate::topic::{Begin, TopicConfig, Until, slice};

/// RocketMQ's brokers show messages a while after they acknowledged them.
const SHOWN_AFTER: Duration = Duration::from_secs(2);
/// How often the topic's queues are looked for.
const ROUTE_INTERVAL: Duration = Duration::from_secs(10);
/// What one pull asks for; `RocketMQ` gives 32 messages or 256 KiB unless it is told otherwise.
const PULL_MESSAGES_MAX: i32 = 4096;
const PULL_BYTES_MAX: i32 = 1 << 20;
/// How long a broker may hold a pull while there is nothing.
const HOLD: Duration = Duration::from_secs(15);
/// What all queues together pull ahead, in bytes, about.
const AHEAD_BYTES_MAX: usize = 64 << 20;

/// Reads one topic of a cluster.
pub(crate) struct ClusterSource {
    cluster: String,
    settings: ClientSettings,
    topic: TopicName,
    group: GroupName,
    start: Begin,
    until: Until,
    feeders: Vec<Arc<Progress>>,
    /// When the feeders were seen to have ended.
    fed_since: Option<Instant>,
    needs: Needs,
    /// The part of the filter that brokers run, as its text.
    pushed: Option<String>,
    link: Option<Arc<Link>>,
    queues: BTreeMap<(Arc<str>, i32), Open>,
    listed: Vec<SourceQueue>,
    looked: Option<Instant>,
    arrivals: Arc<Arrivals>,
    seen: u64,
}

/// The runtime and what speaks with the cluster; tasks block on it.
struct Link {
    runtime: Runtime,
    client: Client,
    cluster: String,
    topic: TopicName,
    group: String,
}

/// One queue that is read.
struct Open {
    queue: Queue,
    prefetch: Option<Prefetch>,
    /// The queue's end as far as it is known.
    end: i64,
}

impl ClusterSource {
    /// `feeders` are the pipelines of this run that write to the topic; `pipeline` names the group if the
    /// config does not.
    pub(crate) fn new(
        config: &TopicConfig,
        cluster: &str,
        pipeline: &str,
        feeders: Vec<Arc<Progress>>,
    ) -> Result<Self, TaskError> {
        let config_error = |e: sluice_protocol::id::IdError| TaskError::new(Class::Config, e.to_string());
        let topic = TopicName::new(&config.name).map_err(config_error)?;
        let group = GroupName::new(config.group.as_deref().unwrap_or(pipeline)).map_err(config_error)?;
        Ok(Self {
            cluster: cluster.to_owned(),
            settings: config.client(cluster),
            topic,
            group,
            start: config.start,
            until: config.until,
            feeders,
            fed_since: None,
            needs: Needs::default(),
            pushed: None,
            link: None,
            queues: BTreeMap::new(),
            listed: Vec::new(),
            looked: None,
            arrivals: Arc::default(),
            seen: 0,
        })
    }

    fn link(&self) -> Result<&Arc<Link>, TaskError> {
        opened(self.link.as_ref())
    }

    /// Adds the queues that are new, with where they begin.
    fn look(&mut self) -> Result<(), TaskError> {
        let link = Arc::clone(self.link()?);
        let is_first = self.looked.is_none();
        let found = link.runtime.block_on(link.client.fetch_route(&link.topic));
        let route = found.map_err(|e| link.error("cannot find the topic's queues", e))?;
        for queue in &route.read_queues {
            let key = (chain_topic(queue), queue.id.get());
            if self.queues.contains_key(&key) {
                continue;
            }
            let reader = link.reader(queue, Filter::All, Duration::ZERO)?;
            let bounds =
                async { Ok((reader.offset(Start::First).await?, reader.offset(Start::Last).await?)) };
            let bounds = link.runtime.block_on(bounds);
            let (first, end) = bounds.map_err(|e| link.error("cannot ask for the queue's offsets", e))?;
            let mark = link.mark(&reader, first)?;
            // A queue that comes later holds nothing that was there at the start.
            let latest = self.start == Begin::Latest && is_first;
            self.listed.push(SourceQueue {
                topic: Arc::clone(&key.0),
                queue: key.1,
                incarnation: mark.to_string(),
                first,
                origin: if latest { end } else { first },
            });
            self.queues.insert(key, Open { queue: queue.clone(), prefetch: None, end });
        }
        self.looked = Some(Instant::now());
        Ok(())
    }

    /// Whether nothing more will come of a queue that was read up to there.
    fn has_ended(&mut self, topic: &str, queue: i32, next: i64, fed: bool) -> Result<bool, TaskError> {
        if self.until != Until::CaughtUp || !fed {
            return Ok(false);
        }
        let since = *self.fed_since.get_or_insert_with(Instant::now);
        if !self.feeders.is_empty() && since.elapsed() < SHOWN_AFTER {
            return Ok(false);
        }
        let link = Arc::clone(self.link()?);
        let open = open(&mut self.queues, topic, queue)?;
        let reader = link.reader(&open.queue, Filter::All, Duration::ZERO)?;
        let end = link.runtime.block_on(reader.offset(Start::Last));
        open.end = end.map_err(|e| link.error("cannot ask for the queue's end", e))?;
        Ok(next >= open.end)
    }
}

fn chain_topic(queue: &Queue) -> Arc<str> {
    format!("{}@{}", queue.topic, queue.broker).into()
}

fn open<'a>(
    queues: &'a mut BTreeMap<(Arc<str>, i32), Open>,
    topic: &str,
    queue: i32,
) -> Result<&'a mut Open, TaskError> {
    let unknown = || TaskError::new(Class::Fatal, format!("no such queue: {topic} {queue}"));
    queues.get_mut(&(Arc::from(topic), queue)).ok_or_else(unknown)
}

impl Link {
    fn new(source: &ClusterSource) -> Result<Self, TaskError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(format!("{}-pull", source.group))
            .enable_all()
            .build()
            .map_err(|e| TaskError::io("cannot start the threads of a client", e))?;
        let client = {
            let _entered = runtime.enter();
            Client::new(source.settings.clone())
        };
        let wrong = |e: Error| TaskError::new(Class::Config, "cluster can not be used").because(e);
        let client = client.map_err(wrong)?;
        let (cluster, topic) = (source.cluster.clone(), source.topic.clone());
        Ok(Self { runtime, client, cluster, topic, group: source.group.to_string() })
    }

    fn reader(&self, queue: &Queue, filter: Filter, hold: Duration) -> Result<QueueReader, TaskError> {
        let settings = ReaderSettings {
            group: self.group.clone(),
            filter,
            messages_max: PULL_MESSAGES_MAX,
            bytes_max: PULL_BYTES_MAX,
            hold,
        };
        QueueReader::new(&self.client, queue, settings).map_err(|e| self.error("cannot read a queue", e))
    }

    /// The reader for a chain, to ask of its queue what does not depend on the filter.
    fn reader_of(&self, topic: &str, queue: i32) -> Result<QueueReader, TaskError> {
        let broker = topic.rsplit_once('@').map_or("", |(_, broker)| broker);
        let id = sluice_protocol::id::QueueId::new(queue)
            .map_err(|e| TaskError::new(Class::Fatal, e.to_string()))?;
        let queue = Queue { topic: self.topic.clone(), broker: broker.into(), id };
        self.reader(&queue, Filter::All, Duration::ZERO)
    }

    /// The mark of the record at an offset, or that none is there.
    fn mark(&self, reader: &QueueReader, offset: i64) -> Result<Mark, TaskError> {
        let fetched = self.runtime.block_on(reader.fetch(offset));
        let fetched = fetched.map_err(|e| self.error("cannot read the queue", e))?;
        Ok(Mark::of(offset, &fetched.bytes))
    }

    fn error(&self, what: &str, error: Error) -> TaskError {
        task_error(&self.cluster, &self.topic, what, error)
    }
}

/// What time may heal is tried again; the rest is for a person. A name server that just started knows no topics
/// until the brokers register.
fn task_error(cluster: &str, topic: &TopicName, what: &str, error: Error) -> TaskError {
    let class = match &error {
        Error::Closed { .. } | Error::Unreadable { .. } | Error::Excess { .. } => Class::Fatal,
        Error::NoRoute { .. } | Error::NoQueue { .. } => Class::Retry,
        error if error.is_retryable() => Class::Retry,
        _ => Class::Config,
    };
    TaskError::new(class, format!("topic {topic} of cluster {cluster}: {what}")).because(error)
}

/// The filter's text if brokers understand it as we do: it names properties alone, and no part of it means
/// something else in dialect `rocketmq`.
fn pushed(needs: &Needs) -> Option<String> {
    let filter = needs.filter.as_ref()?;
    let whole = sluice_filters::Filter::parse(filter.text(), Dialect::Sluice).ok()?;
    let is_whole = whole.names() == filter.names();
    let of_properties = filter.names().iter().all(|name| matches!(name, Name::Property(_)));
    let same = sluice_filters::Filter::differences(filter.text()).is_ok_and(|notes| notes.is_empty());
    (is_whole && of_properties && same).then(|| filter.text().to_owned())
}

impl SourceTask for ClusterSource {
    fn open(&mut self, needs: &Needs) -> Result<(), TaskError> {
        self.needs = needs.clone();
        self.pushed = pushed(needs);
        self.link = Some(Arc::new(Link::new(self)?));
        Ok(())
    }

    fn queues(&mut self) -> Result<Vec<SourceQueue>, TaskError> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= ROUTE_INTERVAL) {
            self.look()?;
        }
        Ok(self.listed.clone())
    }

    fn read(&mut self, topic: &str, queue: i32, range: Range, bytes_max: usize) -> Result<Read, TaskError> {
        // The order matters: who feeds the topic may add rows until it has ended.
        let fed = self.feeders.iter().all(|f| f.has_ended());
        let link = Arc::clone(self.link()?);
        let ahead = (AHEAD_BYTES_MAX / self.queues.len().max(1)).clamp(1 << 18, 4 << 20);
        let open = open(&mut self.queues, topic, queue)?;
        let prefetch = match &mut open.prefetch {
            Some(prefetch) if prefetch.reaches(range.start) => prefetch,
            _ => {
                let filter = self.pushed.clone().map_or(Filter::All, Filter::Sql);
                let reader = link.reader(&open.queue, filter, HOLD)?;
                let started = Prefetch::start(&link.runtime, reader, range.start, ahead, &self.arrivals);
                open.prefetch.insert(started)
            }
        };
        // Each slice's offset is committed by a request.
        let pulled = match prefetch.take(range, bytes_max.max(ACT_BYTES)) {
            Ok(Some(pulled)) => pulled,
            Ok(None) => {
                let ended = self.has_ended(topic, queue, range.start, fed)?;
                return Ok(if ended { Read::Ended } else { Read::Idle });
            }
            Err(error) => {
                open.prefetch = None;
                if self.pushed.is_some() && is_filter_refused(&error) {
                    let group = &link.group;
                    tracing::warn!(%group, %error, "the brokers take no SQL92 filter: all messages are read and filtered here");
                    self.pushed = None;
                    for other in self.queues.values_mut() {
                        other.prefetch = None;
                    }
                    return Ok(Read::Idle);
                }
                return Err(
                    link.error(&format!("cannot read {topic} queue {queue} from {}", range.start), error)
                );
            }
        };
        open.end = open.end.max(pulled.max_offset);
        if let Some(gone) = pulled.moved {
            let reason = if gone > range.start {
                format!(
                    "the broker keeps messages from {gone} only: what lies between is lost to this pipeline"
                )
            } else {
                format!("the queue ends at {gone}: the topic was made again, or its broker lost messages")
            };
            let message = format!("{topic} queue {queue}: the next row is {}, and {reason}", range.start);
            return Err(TaskError::new(Class::Config, message));
        }
        let mut made = slice(&pulled.runs, Range { start: range.start, end: pulled.end }, &self.needs)?;
        if self.pushed.is_some() {
            made.filtered += std::mem::take(&mut made.absent);
        }
        prefetch.release(made.range.end);
        Ok(Read::Slice(made))
    }

    fn release(&mut self, topic: &str, queue: i32) {
        if let Some(open) = self.queues.get_mut(&(Arc::from(topic), queue)) {
            open.prefetch = None;
        }
    }

    fn wait(&mut self, timeout: Duration) {
        self.arrivals.wait(self.seen, timeout);
        // Not at a read: what came for a queue that was read before in the same round would be waited for.
        self.seen = self.arrivals.seen();
    }

    fn end(&mut self, topic: &str, queue: i32) -> Option<i64> {
        self.queues.get(&(Arc::from(topic), queue)).map(|open| open.end)
    }

    fn confirmer(&self) -> Arc<dyn Confirm> {
        Arc::new(Confirmer { link: self.link.clone() })
    }
}

/// Whether a broker says that it takes no filter of this kind (`enablePropertyFilter` of `RocketMQ`).
fn is_filter_refused(error: &Error) -> bool {
    use sluice_protocol::code::ResponseCode;
    matches!(
        error.response_code(),
        Some(ResponseCode::SYSTEM_ERROR | ResponseCode::SUBSCRIPTION_PARSE_FAILED)
    )
}

/// Keeps the group's offsets at the brokers.
struct Confirmer {
    link: Option<Arc<Link>>,
}

impl Confirm for Confirmer {
    /// A broker can not be told to flush: one that loses what it had not flushed blocks the pipeline, because the
    /// queue then ends before the pipeline's position.
    fn secure(&self, _topic: &str, _queue: i32, _end: i64) -> Result<(), TaskError> {
        Ok(())
    }

    fn confirm(&self, topic: &str, queue: i32, end: i64) -> Result<(), TaskError> {
        let link = opened(self.link.as_ref())?;
        let committed = link.runtime.block_on(link.reader_of(topic, queue)?.commit(end));
        committed.map_err(|e| link.error(&format!("cannot commit the offset of group {}", link.group), e))
    }

    fn same(&self, topic: &str, queue: i32, recorded: &str, current: &str) -> Result<bool, TaskError> {
        if recorded == current {
            return Ok(true);
        }
        let (Some(recorded), Some(current)) = (Mark::parse(recorded), Mark::parse(current)) else {
            return Ok(false);
        };
        match recorded.is_of(&current) {
            Some(known) => Ok(known),
            None => {
                let link = opened(self.link.as_ref())?;
                Ok(link.mark(&link.reader_of(topic, queue)?, recorded.offset)? == recorded)
            }
        }
    }

    fn confirmed(&self, topic: &str, queue: i32) -> Result<Option<i64>, TaskError> {
        let link = opened(self.link.as_ref())?;
        let committed = link.runtime.block_on(link.reader_of(topic, queue)?.committed());
        committed.map_err(|e| link.error(&format!("cannot ask for the offset of group {}", link.group), e))
    }
}

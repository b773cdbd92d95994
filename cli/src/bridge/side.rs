//! One side of a bridge: a topic of Kafka's, of RocketMQ's or Sluice's brokers, or of a store, read from its first message to
//! where it ended when it was opened. What bridges add is taken off, so that both sides show a message alike.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sluice_bridges::kafka::mapping::{Given, ORIGIN, Place, Record, bare, to_record};
#[cfg(feature = "kafka")]
use sluice_bridges::kafka::topic::KafkaTopic;
use sluice_bridges::kafka::{KeyPlace, Properties};
use sluice_client::{Admin, Client, Filter, Queue, QueueReader, ReaderSettings, Start, TopicName};
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::compression;
use sluice_protocol::fields::Fields;
use sluice_protocol::id::{QueueId, QueueOffset};
use sluice_protocol::message::{self, KEYS, TAGS, UNIQ_KEY, sys_flag};
use sluice_protocol::record::records;
use sluice_protocol::topic::SubscriptionGroupConfig;
use sluice_store::Store;
use tokio::runtime::Runtime;

use crate::access::AccessArguments;
use crate::network::TAIL_GROUP;

/// What one read of a store brings, in bytes.
const READ_BYTES: usize = 1 << 20;
/// What one pull asks for.
const PULL_MESSAGES_MAX: i32 = 4096;

/// What brokers say of a group that never was there.
const UNKNOWN_GROUP: ResponseCode = ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST;

/// Where a side is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    system: System,
    topic: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum System {
    /// Brokers to begin with, commas between.
    Kafka(String),
    /// Name servers, semicolons between.
    RocketMq(String),
    /// A folder.
    Store(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let told = || {
            format!(
                "`{text}` is no side of a bridge: expected kafka:HOST:PORT/TOPIC, rocketmq:HOST:PORT/TOPIC (a name \
                 server) or store:DIR/TOPIC"
            )
        };
        let (system, rest) = text.split_once(':').ok_or_else(told)?;
        let (place, topic) = rest.rsplit_once('/').ok_or_else(told)?;
        if place.is_empty() || topic.is_empty() {
            return Err(told());
        }
        let system = match system {
            "kafka" => System::Kafka(place.to_owned()),
            "rocketmq" => System::RocketMq(place.to_owned()),
            "store" => System::Store(place.into()),
            _ => return Err(told()),
        };
        Ok(Self { system, topic: topic.to_owned() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topic = &self.topic;
        match &self.system {
            System::Kafka(bootstrap) => write!(f, "kafka:{bootstrap}/{topic}"),
            System::RocketMq(namesrv) => write!(f, "rocketmq:{namesrv}/{topic}"),
            System::Store(dir) => write!(f, "store:{}/{topic}", dir.display()),
        }
    }
}

/// A queue or partition of a side.
#[derive(Clone, Debug)]
pub(crate) struct SideQueue {
    /// The topic, with its broker where there are several.
    pub(crate) topic: String,
    pub(crate) id: i32,
    /// First offset that is kept.
    pub(crate) first: i64,
    /// Where it ended when the side was opened.
    pub(crate) end: i64,
}

impl SideQueue {
    fn with_bounds(topic: &str, id: i32, (first, end): (i64, i64)) -> Self {
        Self { topic: topic.to_owned(), id, first, end: end.max(first) }
    }
}

impl fmt::Display for SideQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.id)
    }
}

/// A message of a side, without what bridges add.
pub(crate) struct Seen<'a> {
    /// Place among the side's queues.
    pub(crate) queue: usize,
    pub(crate) offset: i64,
    /// When it was made, in ms since 1970-01-01 UTC.
    pub(crate) time_ms: i64,
    pub(crate) record: Record<'a>,
    /// `None` is null.
    pub(crate) value: Option<&'a [u8]>,
    /// The places that it says it came from.
    pub(crate) places: Vec<String>,
}

/// How a side is reached and read.
pub(crate) struct SideSettings<'a> {
    pub(crate) properties: &'a Properties,
    pub(crate) access: &'a AccessArguments,
    pub(crate) key: &'a KeyPlace,
}

/// A side that is open.
pub(crate) struct Side {
    pub(crate) address: Address,
    pub(crate) queues: Vec<SideQueue>,
    key: KeyPlace,
    reached: Reached,
}

enum Reached {
    #[cfg(feature = "kafka")]
    Kafka(KafkaTopic),
    RocketMq(Brokers),
    Store(Store, TopicName),
}

struct Brokers {
    runtime: Runtime,
    client: Client,
    queues: Vec<Queue>,
}

impl Brokers {
    fn reader(&self, group: &str, queue: usize) -> Result<QueueReader> {
        let queue = self.queues.get(queue).context("no such queue")?;
        let settings = ReaderSettings {
            group: group.to_owned(),
            filter: Filter::All,
            messages_max: PULL_MESSAGES_MAX,
            bytes_max: i32::try_from(READ_BYTES)?,
            hold: Duration::ZERO,
        };
        Ok(QueueReader::new(&self.client, queue, settings)?)
    }
}

impl Side {
    /// Connects, and asks where each queue begins and ends.
    pub(crate) fn open(address: &Address, settings: &SideSettings<'_>) -> Result<Self> {
        let side = match &address.system {
            System::Kafka(bootstrap) => kafka(bootstrap, &address.topic, settings.properties),
            System::RocketMq(namesrv) => brokers(namesrv, &address.topic, settings.access),
            System::Store(dir) => store(dir, &address.topic),
        };
        let (reached, queues) = side.with_context(|| format!("cannot read {address}"))?;
        Ok(Self { address: address.clone(), queues, key: settings.key.clone(), reached })
    }

    /// How many offsets it has.
    pub(crate) fn offsets(&self) -> u64 {
        self.queues.iter().map(|queue| u64::try_from(queue.end - queue.first).unwrap_or(0)).sum()
    }

    /// The queue of this side that a place is in, if it is one.
    pub(crate) fn queue_of(&self, place: &Place<'_>) -> Option<usize> {
        #[cfg(feature = "kafka")]
        if let Reached::Kafka(topic) = &self.reached
            && topic.cluster() != place.cluster
        {
            return None;
        }
        let is_it = |queue: &SideQueue| queue.topic == place.topic && queue.id == place.queue;
        self.queues.iter().position(is_it)
    }

    /// Calls `each` for all messages, queue by queue in the order of their numbers.
    pub(crate) fn read(&self, mut each: impl FnMut(&Seen<'_>) -> Result<()>) -> Result<()> {
        let mut all = || {
            for (number, queue) in self.queues.iter().enumerate() {
                self.read_queue(number, queue, &mut each)?;
            }
            anyhow::Ok(())
        };
        all().with_context(|| format!("cannot read {}", self.address))
    }

    fn read_queue(
        &self,
        number: usize,
        queue: &SideQueue,
        each: &mut impl FnMut(&Seen<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut next = queue.first;
        match &self.reached {
            #[cfg(feature = "kafka")]
            Reached::Kafka(topic) => {
                let told = |seen: sluice_bridges::kafka::topic::Seen<'_>| {
                    let (record, places) = bare(seen.record, None);
                    let (offset, time_ms, value) = (seen.offset, seen.time_ms, seen.value);
                    each(&Seen { queue: number, offset, time_ms, record, value, places }).map_err(Failure)
                };
                topic.read(queue.id, queue.first, queue.end, told).map_err(|Failure(error)| error)?;
            }
            Reached::RocketMq(brokers) => {
                let reader = brokers.reader(TAIL_GROUP, number)?;
                while next < queue.end {
                    let fetched = brokers.runtime.block_on(reader.fetch(next))?;
                    if fetched.moved || fetched.next_offset <= next {
                        bail!("messages of {queue} from offset {next} on are gone");
                    }
                    next = fetched.next_offset;
                    self.stored(number, queue.end, &fetched.bytes, each)?;
                }
            }
            Reached::Store(store, topic) => {
                while next < queue.end {
                    let id = QueueId::new(queue.id)?;
                    let read = store.read(topic, id, QueueOffset::new(next), READ_BYTES)?;
                    if read.next.get() <= next {
                        bail!("messages of {queue} from offset {next} on are gone");
                    }
                    next = read.next.get();
                    for run in &read.runs {
                        self.stored(number, queue.end, &run.bytes, each)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives stored messages on, up to an offset.
    fn stored(
        &self,
        number: usize,
        end: i64,
        bytes: &[u8],
        each: &mut impl FnMut(&Seen<'_>) -> Result<()>,
    ) -> Result<()> {
        for stored in records(bytes) {
            let stored = stored?;
            let offset = stored.queue_offset;
            if offset >= end {
                break;
            }
            let inflated;
            let body = if stored.sys_flag & sys_flag::COMPRESSED == 0 {
                stored.body
            } else {
                inflated = compression::inflate(stored.body, stored.sys_flag)?;
                &inflated
            };
            let of = |name| message::property(stored.properties, name);
            let given = Given { keys: of(KEYS), tags: of(TAGS), message_id: of(UNIQ_KEY) };
            let record = to_record(given, message::properties(stored.properties), "", &self.key);
            let record =
                record.map_err(|reason| anyhow::anyhow!("the message at offset {offset}: {reason}"))?;
            let (record, places) = bare(record, of(ORIGIN));
            let value = (!record.is_tombstone || !body.is_empty()).then_some(body);
            let time_ms = stored.born_timestamp_ms;
            each(&Seen { queue: number, offset, time_ms, record, value, places })?;
        }
        Ok(())
    }

    /// What a group committed in each queue.
    pub(crate) fn committed(&self, group: &str) -> Result<Vec<Option<i64>>> {
        match &self.reached {
            #[cfg(feature = "kafka")]
            Reached::Kafka(topic) => Ok(topic.committed(group)?),
            Reached::RocketMq(brokers) => {
                let committed = |queue| {
                    let reader = brokers.reader(group, queue)?;
                    anyhow::Ok(brokers.runtime.block_on(reader.committed())?)
                };
                (0..self.queues.len()).map(committed).collect()
            }
            Reached::Store(..) => bail!(self.no_groups()),
        }
    }

    /// Commits offsets of a group, each with the place of its queue.
    pub(crate) fn commit(&self, group: &str, offsets: &[(usize, i64)]) -> Result<()> {
        match &self.reached {
            #[cfg(feature = "kafka")]
            Reached::Kafka(topic) => {
                let id = |queue: usize| self.queues.get(queue).map_or(0, |queue| queue.id);
                let offsets: Vec<_> = offsets.iter().map(|(queue, offset)| (id(*queue), *offset)).collect();
                Ok(topic.commit(group, &offsets)?)
            }
            Reached::RocketMq(brokers) => brokers.runtime.block_on(async {
                let admin = Admin::new(&brokers.client);
                let members = admin.group_members(group).await?;
                if let Some(member) = members.values().find_map(|members| members.connection_set.first()) {
                    bail!(
                        "group {group} has members, such as {}: end them first, they would commit theirs",
                        member.client_id
                    );
                }
                for (queue, offset) in offsets {
                    let reader = brokers.reader(group, *queue)?;
                    match reader.commit(*offset).await {
                        Err(error) if error.response_code() == Some(UNKNOWN_GROUP) => {
                            make_group(&brokers.client, group).await?;
                            reader.commit(*offset).await?;
                        }
                        committed => committed?,
                    }
                }
                Ok(())
            }),
            Reached::Store(..) => bail!(self.no_groups()),
        }
    }

    fn no_groups(&self) -> String {
        format!(
            "{}: groups are a broker's; serve the store by `sluice broker`, and write rocketmq:…",
            self.address
        )
    }
}

/// Makes a group with the settings that its first client would give it: it may never have been at these brokers.
async fn make_group(client: &Client, group: &str) -> Result<()> {
    let settings =
        SubscriptionGroupConfig { group_name: group.to_owned(), ..SubscriptionGroupConfig::default() };
    let (code, body) = (RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, settings.encode());
    for address in Admin::new(client).masters().await? {
        client.ask(&address, code, Fields::new(), &body, group).await?;
    }
    Ok(())
}

/// An error of either kind, on its way through a reader.
#[cfg(feature = "kafka")]
struct Failure(anyhow::Error);

#[cfg(feature = "kafka")]
impl From<sluice_connect::task::TaskError> for Failure {
    fn from(error: sluice_connect::task::TaskError) -> Self {
        Self(error.into())
    }
}

#[cfg(feature = "kafka")]
fn kafka(bootstrap: &str, topic: &str, properties: &Properties) -> Result<(Reached, Vec<SideQueue>)> {
    use sluice_bridges::kafka::{Side as Half, problems};
    if let Some((path, problem)) = problems(Half::Source, bootstrap, properties).into_iter().next() {
        bail!("{}: {problem}", path.join("."));
    }
    let opened = KafkaTopic::open(bootstrap, topic, properties)?;
    let queues = (0..opened.partitions())
        .map(|id| anyhow::Ok(SideQueue::with_bounds(topic, id, opened.bounds(id)?)))
        .collect::<Result<_>>()?;
    Ok((Reached::Kafka(opened), queues))
}

#[cfg(not(feature = "kafka"))]
fn kafka(_: &str, _: &str, _: &Properties) -> Result<(Reached, Vec<SideQueue>)> {
    bail!("this program was built without Kafka: build it with `--features kafka`")
}

fn brokers(namesrv: &str, topic: &str, access: &AccessArguments) -> Result<(Reached, Vec<SideQueue>)> {
    let topic = TopicName::new(topic)?;
    let settings = access.settings(namesrv)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let (client, queues) = runtime.block_on(async {
        let client = Client::new(settings)?;
        let mut queues = client.fetch_route(&topic).await?.read_queues.clone();
        queues.sort_unstable();
        anyhow::Ok((client, queues))
    })?;
    let opened = Brokers { runtime, client, queues };
    let bounds = |number: usize, queue: &Queue| {
        let reader = opened.reader(TAIL_GROUP, number)?;
        let ends =
            async { anyhow::Ok((reader.offset(Start::First).await?, reader.offset(Start::Last).await?)) };
        let name = format!("{topic}@{}", queue.broker);
        anyhow::Ok(SideQueue::with_bounds(&name, queue.id.get(), opened.runtime.block_on(ends)?))
    };
    let found = opened.queues.iter().enumerate().map(|(number, queue)| bounds(number, queue));
    let found = found.collect::<Result<_>>()?;
    Ok((Reached::RocketMq(opened), found))
}

fn store(dir: &std::path::Path, topic: &str) -> Result<(Reached, Vec<SideQueue>)> {
    if !dir.exists() {
        bail!("there is no store");
    }
    let (name, store) = (TopicName::new(topic)?, Store::open_read_only(dir)?);
    let known = store.topic(&name).with_context(|| {
        let names: Vec<String> = store.topics().iter().map(|t| t.name.to_string()).collect();
        format!("no such topic: {topic}; there are: {}", names.join(", "))
    })?;
    let queue = |id: QueueId| {
        let (first, end) = store.offsets(&name, id)?;
        Some(SideQueue::with_bounds(topic, id.get(), (first.get(), end.get())))
    };
    let queues = QueueId::all(known.queues).filter_map(queue).collect();
    Ok((Reached::Store(store, name), queues))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_written_as_it_is_read() {
        for text in [
            "kafka:h:9092/orders",
            "kafka:a:9092,b:9092/orders",
            "rocketmq:ns1:9876;ns2:9876/orders",
            "store:./sluice-data/orders",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["orders", "kafka:h:9092", "kafka:/orders", "kafka:h:9092/", "http:h/orders"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}

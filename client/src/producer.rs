//! Sends messages: picks queues, makes batches of what waits, tries again, holds back what is too much.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluice_protocol::batch::{self, BatchItem};
use sluice_protocol::code::RequestCode;
use sluice_protocol::id::{GroupName, TopicName};
use sluice_protocol::request::SendMessage;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::client::{Client, lock};
use crate::clock::now_ms;
use crate::connection::Request;
use crate::error::Error;
use crate::group::HEARTBEAT_INTERVAL;
use crate::lane::{Batch, Item, Kind, Lane, send_header};
use crate::message::Message;
use crate::presence::Presence;
use crate::route::{Queue, TopicRoute};
use crate::sent::{Receipt, SendResult};
use crate::unique::{UniqueIds, host_address};

/// After that long a topic's queues are looked at again.
const LANES_AGE_MAX: Duration = Duration::from_secs(30);

/// The same of a topic that its first message is about to make.
const TEMPLATE_AGE_MAX: Duration = Duration::from_secs(1);

/// Bytes that a message takes beside body and properties: its id, the sizes of a batch, who waits for it.
pub(crate) const MESSAGE_BYTES: usize = 128;

/// Settings of a [`Producer`].
#[derive(Clone, Debug)]
pub struct ProducerSettings {
    /// The producer group.
    pub group: String,
    /// How long one attempt may take.
    pub send_timeout: Duration,
    /// How often a failed send is tried again.
    pub retries_max: u32,
    /// Most messages of one batch; 1 for none.
    pub batch_messages_max: usize,
    /// Most bytes of one batch; brokers take 4 MiB by default.
    pub batch_bytes_max: usize,
    /// Longest body of one message, in bytes.
    pub body_bytes_max: usize,
    /// Bodies of at least so many bytes are compressed (zlib), where that makes them smaller; `None` for none.
    /// `RocketMQ`'s clients do it from 4,096 on. Those of [`Producer::send_batch`] and of a
    /// [`crate::MessageBatch`] stay as they are.
    pub compress_from_bytes: Option<usize>,
    /// Most requests to one queue at a time. With more than one, messages may overtake one another.
    pub requests_per_queue_max: usize,
    /// Most bytes of messages without an answer; further ones wait.
    pub bytes_in_flight_max: usize,
    /// How many queues a topic gets that the first message makes.
    pub new_topic_queues: i32,
}

impl Default for ProducerSettings {
    fn default() -> Self {
        Self {
            group: "sluice-client".into(),
            send_timeout: Duration::from_secs(3),
            retries_max: 5,
            batch_messages_max: 1024,
            batch_bytes_max: 1 << 20,
            body_bytes_max: 4 << 20,
            compress_from_bytes: None,
            requests_per_queue_max: 1,
            bytes_in_flight_max: 64 << 20,
            new_topic_queues: 4,
        }
    }
}

/// Sends messages. Cheap to clone; all clones share connections, order and limits.
#[derive(Clone)]
pub struct Producer {
    core: Arc<Core>,
}

/// What sends that are under way share with their producer.
pub(crate) struct Core {
    client: Client,
    settings: ProducerSettings,
    ids: UniqueIds,
    /// Room for messages without an answer, in bytes.
    room: Semaphore,
    topics: Mutex<HashMap<TopicName, Arc<Lanes>>>,
    presence: Presence,
}

/// The ways to a topic's queues.
struct Lanes {
    route: Arc<TopicRoute>,
    all: Vec<Arc<Lane>>,
    next: AtomicUsize,
    since: Instant,
}

impl Producer {
    /// A producer of that client.
    pub fn new(client: &Client, settings: ProducerSettings) -> Result<Self, Error> {
        GroupName::new(&settings.group)?;
        let first = client.settings().name_servers.split(';').next().unwrap_or("").trim().to_owned();
        let room = settings.bytes_in_flight_max.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let core = Core {
            client: client.clone(),
            ids: UniqueIds::new(host_address(&first)),
            room: Semaphore::new(room),
            topics: Mutex::default(),
            presence: Presence::new(client, &settings.group, HEARTBEAT_INTERVAL),
            settings: ProducerSettings { bytes_in_flight_max: room, ..settings },
        };
        Ok(Self { core: Arc::new(core) })
    }

    /// Sends a message and waits until it is stored. Dropping the future does not take it back.
    pub async fn send(&self, message: &Message) -> Result<SendResult, Error> {
        self.submit(message).await?.await
    }

    /// Sends a message to that queue and to no other.
    pub async fn send_to(&self, message: &Message, queue: &Queue) -> Result<SendResult, Error> {
        self.submit_to(message, queue).await?.await
    }

    /// Hands a message over, waiting only while too much is in flight. Messages go to a queue in the order in
    /// which they were handed over.
    pub async fn submit(&self, message: &Message) -> Result<Receipt, Error> {
        self.hand_over(message, None).await
    }

    /// The same, to that queue and to no other.
    pub async fn submit_to(&self, message: &Message, queue: &Queue) -> Result<Receipt, Error> {
        self.hand_over(message, Some(queue)).await
    }

    /// Sends messages of one topic as one batch to one queue: all of them are stored there in this order, or
    /// an error says that it is not known.
    pub async fn send_batch(&self, messages: &[Message]) -> Result<Vec<SendResult>, Error> {
        let Some(first) = messages.first() else { return Ok(Vec::new()) };
        if messages.iter().any(|m| m.topic() != first.topic() || m.waits() != first.waits()) {
            return Err(Error::Mixed { reason: "they have different topics or wait settings" });
        }
        if messages.len() > 1 && messages.iter().any(Message::is_alone) {
            return Err(Error::Mixed { reason: "a delayed, transactional or retried message goes alone" });
        }
        let core = &self.core;
        let kind = Kind { is_pinned: false, is_whole: true, waits: first.waits(), sys_flag: 0 };
        let mut batch = Batch::new(kind);
        let (mut receipts, mut scratch) = (Vec::with_capacity(messages.len()), Vec::new());
        for message in messages {
            let (item, receipt) = core.item(message);
            message.push(&mut batch.bytes, &item.id, &mut scratch)?;
            batch.waiting.push(item);
            receipts.push(receipt);
        }
        let (len, max) = (batch.bytes.len(), self.core.settings.body_bytes_max);
        if len > max {
            let topic = first.topic().to_string();
            return Err(Error::TooLarge { topic, what: "batch", len, unit: "bytes", max });
        }
        let lane = core.pick(first.topic()).await?;
        batch.weight = core.reserve(len).await?;
        lane.add_batch(core, batch);
        let mut results = Vec::with_capacity(receipts.len());
        for receipt in receipts {
            results.push(receipt.await?);
        }
        Ok(results)
    }

    /// Sends a message without asking whether it arrived.
    pub async fn send_one_way(&self, message: &Message) -> Result<(), Error> {
        let core = &self.core;
        core.check(message.topic(), message.body().len())?;
        let message = &*core.packed(message);
        let lane = core.pick(message.topic()).await?;
        let (mut bytes, mut scratch) = (Vec::new(), Vec::new());
        message.push(&mut bytes, &core.ids.next(now_ms()), &mut scratch)?;
        let properties =
            batch::items(&bytes).next().and_then(Result::ok).map_or(&[][..], |i: BatchItem<'_>| i.properties);
        let properties = str::from_utf8(properties).unwrap_or("");
        let (flag, sys_flag) = (message.own_flag(), message.sys_flag());
        let header = SendMessage { flag, sys_flag, ..send_header(core, &lane.queue, properties) };
        let request = Request::new(RequestCode::SEND_MESSAGE_V2, header.fields(), message.body());
        let address = core.master(&lane.queue).await?;
        core.client.connection(&address).await?.send_one_way(request).await
    }

    /// The queues of a topic that take messages now.
    pub async fn queues(&self, topic: &TopicName) -> Result<Vec<Queue>, Error> {
        Ok(self.core.lanes(topic).await?.route.write_queues.clone())
    }

    /// Waits until everything handed over so far has its answer.
    pub async fn flush(&self) -> Result<(), Error> {
        let all = u32::try_from(self.core.settings.bytes_in_flight_max).unwrap_or(u32::MAX);
        self.core.room.acquire_many(all).await.map(drop).map_err(|_| Error::Closed { what: "producer" })
    }

    /// Waits for everything handed over and takes nothing more; brokers know that the producer is gone.
    pub async fn close(&self) -> Result<(), Error> {
        self.flush().await?;
        self.core.room.close();
        self.core.presence.leave().await;
        Ok(())
    }

    pub(crate) const fn core(&self) -> &Arc<Core> {
        &self.core
    }

    async fn hand_over(&self, message: &Message, queue: Option<&Queue>) -> Result<Receipt, Error> {
        let core = &self.core;
        core.check(message.topic(), message.body().len())?;
        let message = &*core.packed(message);
        let lane = match queue {
            None => core.pick(message.topic()).await?,
            Some(queue) if queue.topic == *message.topic() => core.lane_of(queue).await?,
            Some(_) => return Err(Error::Mixed { reason: "the queue is one of another topic" }),
        };
        let (item, receipt) = core.item(message);
        let weight = core.reserve(message.body().len() + message.properties().len() + MESSAGE_BYTES).await?;
        let (is_pinned, is_whole) = (queue.is_some(), message.is_alone());
        let kind = Kind { is_pinned, is_whole, waits: message.waits(), sys_flag: message.sys_flag() };
        lane.add(core, message, item, kind, weight).inspect_err(|_| core.give_back(weight))?;
        Ok(receipt)
    }
}

impl Core {
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) const fn settings(&self) -> &ProducerSettings {
        &self.settings
    }

    /// The producer group.
    pub(crate) fn group(&self) -> &str {
        &self.settings.group
    }

    pub(crate) fn give_back(&self, weight: usize) {
        self.room.add_permits(weight);
    }

    /// The next unique id; `now_ms` is in ms since 1970-01-01 UTC.
    pub(crate) fn new_id(&self, now_ms: i64) -> String {
        self.ids.next(now_ms)
    }

    /// Waits for room and says how much was taken; what is larger than all takes all.
    pub(crate) async fn reserve(&self, bytes: usize) -> Result<usize, Error> {
        let taken = bytes.min(self.settings.bytes_in_flight_max);
        let permits = u32::try_from(taken).unwrap_or(u32::MAX);
        let permit = self.room.acquire_many(permits).await.map_err(|_| Error::Closed { what: "producer" })?;
        permit.forget();
        Ok(taken)
    }

    /// Whether a body of so many bytes may be sent.
    pub(crate) fn check(&self, topic: &TopicName, len: usize) -> Result<(), Error> {
        let max = self.settings.body_bytes_max;
        if len <= max {
            return Ok(());
        }
        Err(Error::TooLarge { topic: topic.to_string(), what: "body", len, unit: "bytes", max })
    }

    /// The message as it is sent: its body compressed if that is wanted.
    fn packed<'a>(&self, message: &'a Message) -> Cow<'a, Message> {
        let wanted = self.settings.compress_from_bytes.is_some_and(|from| message.body().len() >= from);
        let deflated = if wanted { message.deflated() } else { None };
        deflated.map_or(Cow::Borrowed(message), Cow::Owned)
    }

    fn item(&self, message: &Message) -> (Item, Receipt) {
        let id = message.own_id().map_or_else(|| self.ids.next(now_ms()), str::to_owned);
        let (done, answer) = oneshot::channel();
        (Item { id, done }, Receipt(answer))
    }

    /// Address of the broker that takes messages for a queue.
    pub(crate) async fn master(&self, queue: &Queue) -> Result<Arc<str>, Error> {
        let lanes = self.lanes(&queue.topic).await?;
        let none = || Error::NoQueue { topic: queue.topic.to_string(), purpose: "send to at that broker" };
        lanes.route.master(&queue.broker).cloned().ok_or_else(none)
    }

    /// The next queue in turn; one that failed lately only if all did.
    async fn pick(&self, topic: &TopicName) -> Result<Arc<Lane>, Error> {
        let lanes = self.lanes(topic).await?;
        let start = lanes.next.fetch_add(1, Ordering::Relaxed);
        pick(&lanes.all, start, now_ms()).cloned().ok_or_else(|| no_queue(topic))
    }

    pub(crate) async fn lane_of(&self, queue: &Queue) -> Result<Arc<Lane>, Error> {
        let lanes = self.lanes(&queue.topic).await?;
        lanes.all.iter().find(|lane| lane.queue == *queue).cloned().ok_or_else(|| no_queue(&queue.topic))
    }

    /// A queue for another attempt: at another broker, else another one of the same.
    pub(crate) async fn another_queue(&self, failed: &Queue) -> Option<Queue> {
        let lanes = self.lanes(&failed.topic).await.ok()?;
        let start = lanes.next.fetch_add(1, Ordering::Relaxed);
        another(&lanes.all, failed, start).cloned()
    }

    /// Passes a queue over until then, where there are others.
    pub(crate) fn shun(&self, queue: &Queue, until_ms: i64) {
        let lanes = lock(&self.topics).get(&queue.topic).cloned();
        let lanes = lanes.iter().flat_map(|lanes| &lanes.all);
        for lane in lanes.filter(|lane| lane.queue.broker == queue.broker) {
            lane.shun(until_ms);
        }
    }

    /// Looks at a topic's queues again; what is known stays if nobody answers.
    pub(crate) async fn refresh(&self, topic: &TopicName) {
        match self.client.write_route(topic, self.settings.new_topic_queues).await {
            Ok(route) => drop(self.keep(topic, route)),
            Err(error) => tracing::warn!(topic = topic.as_str(), %error, "could not refresh a route"),
        }
    }

    async fn lanes(&self, topic: &TopicName) -> Result<Arc<Lanes>, Error> {
        let known = lock(&self.topics).get(topic).cloned();
        if let Some(lanes) = &known {
            let age_max = if lanes.route.is_template { TEMPLATE_AGE_MAX } else { LANES_AGE_MAX };
            if lanes.since.elapsed() < age_max && !lanes.all.is_empty() {
                return Ok(Arc::clone(lanes));
            }
        }
        match (self.client.write_route(topic, self.settings.new_topic_queues).await, known) {
            (Ok(route), _) => Ok(self.keep(topic, route)),
            // Sending may still go well when no name server answers.
            (Err(error), Some(lanes)) if error.response_code().is_none() => {
                tracing::warn!(topic = topic.as_str(), %error, "could not refresh a route");
                Ok(self.keep(topic, Arc::clone(&lanes.route)))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Lanes of that route; those that were there stay, with what waits in them.
    fn keep(&self, topic: &TopicName, route: Arc<TopicRoute>) -> Arc<Lanes> {
        let mut topics = lock(&self.topics);
        let known = topics.get(topic).map_or(&[][..], |lanes| &lanes.all);
        let lane = |queue: &Queue| {
            let same = known.iter().find(|lane| lane.queue == *queue).cloned();
            same.unwrap_or_else(|| Arc::new(Lane::new(queue.clone())))
        };
        let all = route.write_queues.iter().map(lane).collect();
        let next = topics.get(topic).map_or(0, |lanes| lanes.next.load(Ordering::Relaxed));
        let lanes = Arc::new(Lanes { route, all, next: AtomicUsize::new(next), since: Instant::now() });
        topics.insert(topic.clone(), Arc::clone(&lanes));
        let masters = topics.values().flat_map(|lanes| lanes.route.masters().cloned());
        self.presence.at(masters.collect());
        lanes
    }
}

fn no_queue(topic: &TopicName) -> Error {
    Error::NoQueue { topic: topic.to_string(), purpose: "send to" }
}

fn pick(lanes: &[Arc<Lane>], start: usize, now_ms: i64) -> Option<&Arc<Lane>> {
    let at = |i: usize| lanes.get(start.wrapping_add(i) % lanes.len().max(1));
    (0..lanes.len()).filter_map(at).find(|lane| !lane.is_shunned(now_ms)).or_else(|| at(0))
}

fn another<'a>(lanes: &'a [Arc<Lane>], failed: &Queue, start: usize) -> Option<&'a Queue> {
    let at = |i: usize| lanes.get(start.wrapping_add(i) % lanes.len().max(1)).map(|lane| &lane.queue);
    let queues = || (0..lanes.len()).filter_map(at);
    queues().find(|queue| queue.broker != failed.broker).or_else(|| queues().find(|queue| *queue != failed))
}

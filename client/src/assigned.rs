//! One queue that a consumer reads: where it starts, the task that pulls it, how far it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::topic::RETRY_PREFIX;
use sluice_protocol::{request, response};
use tokio::sync::mpsc::Sender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::client::Client;
use crate::error::Error;
use crate::pull::{Pulled, Wanted, pull};
use crate::route::Queue;

/// The wait after a pull that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// The wait after a pull that found nothing at once, although the broker could have held it.
const PAUSE_EMPTY: Duration = Duration::from_millis(20);

/// How often a group's first offset of a queue is sent until the broker says that it has one.
const FIRST_COMMITS_MAX: usize = 5;

/// How often it must have said so until it is not asked any more: another client's first offset may be on its way while it is
/// asked for the first time.
const SEEN_ENOUGH: u8 = 2;

/// No offset yet.
const NONE: i64 = -1;

/// Where a consumer begins in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the first message that is kept.
    First,
    /// After the last message.
    #[default]
    Last,
    /// At the first message stored at that time or later, in ms since 1970-01-01 UTC.
    Time(i64),
    /// At that offset.
    Offset(i64),
}

/// A queue of a consumer.
#[derive(Debug)]
pub(crate) struct Assigned {
    pub(crate) queue: Queue,
    /// Where it began.
    start: i64,
    /// Where the consumer goes on: after the last batch that it took.
    taken: AtomicI64,
    /// Up to where messages are consumed; what is committed next.
    done: AtomicI64,
    committed: AtomicI64,
    /// It is somebody else's now.
    revoked: AtomicBool,
}

/// What a pull brought, on its way to the consumer.
pub(crate) struct Delivery {
    pub(crate) assigned: Arc<Assigned>,
    pub(crate) pulled: Result<Pulled, Error>,
    /// Held while the bytes wait.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

impl Assigned {
    pub(crate) const fn new(queue: Queue, start: i64) -> Self {
        Self {
            queue,
            start,
            taken: AtomicI64::new(NONE),
            done: AtomicI64::new(NONE),
            committed: AtomicI64::new(NONE),
            revoked: AtomicBool::new(false),
        }
    }

    pub(crate) fn take(&self, next_offset: i64) {
        self.taken.store(next_offset, Ordering::Relaxed);
    }

    /// Where the consumer goes on.
    pub(crate) fn position(&self) -> i64 {
        match self.taken.load(Ordering::Relaxed) {
            NONE => self.start,
            taken => taken,
        }
    }

    /// Everything taken is consumed.
    pub(crate) fn finish(&self) {
        self.done.store(self.taken.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Everything before the offset is consumed.
    pub(crate) fn finish_to(&self, offset: i64) {
        self.done.store(offset, Ordering::Relaxed);
    }

    pub(crate) fn revoke(&self) {
        self.revoked.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Relaxed)
    }

    /// Up to where messages are consumed, once some are.
    pub(crate) fn done(&self) -> Option<i64> {
        Some(self.done.load(Ordering::Relaxed)).filter(|done| *done != NONE)
    }

    /// Commits what is consumed, if it is not yet.
    pub(crate) async fn commit(&self, client: &Client, group: &str) -> Result<(), Error> {
        let committed = self.committed.load(Ordering::Relaxed);
        let Some(done) = self.done().filter(|done| *done != committed) else { return Ok(()) };
        commit(client, group, &self.queue, done).await?;
        self.committed.store(done, Ordering::Relaxed);
        Ok(())
    }
}

/// Pulls a queue until the consumer is gone.
pub(crate) struct Puller {
    pub(crate) client: Client,
    pub(crate) wanted: Wanted,
    pub(crate) assigned: Arc<Assigned>,
    pub(crate) deliveries: Sender<Delivery>,
    /// Room for messages that wait for the consumer, in bytes, of `room_max`.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) room_max: usize,
    /// Turns of pulls that find messages at once: what they bring waits outside of the room until there is some.
    pub(crate) turns: Arc<Semaphore>,
}

impl Puller {
    pub(crate) async fn run(self, mut offset: i64) {
        let mut broker_id = sluice_protocol::route::MASTER;
        let queue = &self.wanted.queue;
        let at_once = Wanted { hold: Duration::ZERO, ..self.wanted.clone() };
        // Whether there are messages; nobody knows before the first pull.
        let mut behind = true;
        loop {
            let turn = if behind { self.turns.acquire().await.ok() } else { None };
            let wanted = if behind { &at_once } else { &self.wanted };
            let begun = Instant::now();
            let pulled = match to_read(&self.client, queue, broker_id).await {
                Ok(address) => pull(&self.client, &address, wanted, offset).await,
                Err(error) => Err(error),
            };
            let was_held = !behind;
            behind = pulled.as_ref().map_or(true, |pulled| {
                pulled.next_offset < pulled.max_offset && pulled.next_offset != offset
            });
            let pause = match &pulled {
                Ok(pulled) => {
                    if pulled.moved {
                        let (asked, next) = (offset, pulled.next_offset);
                        tracing::warn!(%queue, asked, next, "offset is not in the queue; goes on at another");
                    }
                    broker_id = pulled.broker_id;
                    let stays = pulled.next_offset == offset && pulled.bytes == 0;
                    offset = pulled.next_offset;
                    (stays && was_held && begun.elapsed() < PAUSE_EMPTY).then_some(PAUSE_EMPTY)
                }
                Err(error) => {
                    tracing::warn!(%queue, queue_offset = offset, %error, "could not pull");
                    broker_id = sluice_protocol::route::MASTER;
                    Some(PAUSE)
                }
            };
            let passing = pulled.as_ref().is_err_and(is_passing);
            if !passing && !self.deliver(pulled).await {
                return;
            }
            drop(turn);
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
                if pause == PAUSE && self.client.fetch_route(&queue.topic).await.is_err() {
                    tracing::debug!(%queue, "has no route");
                }
            }
        }
    }

    /// Whether somebody still listens.
    async fn deliver(&self, pulled: Result<Pulled, Error>) -> bool {
        let bytes = pulled.as_ref().map_or(0, |pulled| pulled.bytes).min(self.room_max);
        let room = match u32::try_from(bytes) {
            Ok(bytes @ 1..) => Arc::clone(&self.room).acquire_many_owned(bytes).await.ok(),
            _ => None,
        };
        let delivery = Delivery { assigned: Arc::clone(&self.assigned), pulled, room };
        self.deliveries.send(delivery).await.is_ok()
    }
}

/// Whether the next pull may succeed without anybody doing anything: a broker that is away or busy, or that has
/// yet to learn of the group's subscription.
fn is_passing(error: &Error) -> bool {
    match error.response_code() {
        Some(code) => matches!(
            code,
            ResponseCode::SYSTEM_ERROR
                | ResponseCode::SYSTEM_BUSY
                | ResponseCode::SERVICE_NOT_AVAILABLE
                | ResponseCode::SUBSCRIPTION_NOT_EXIST
                | ResponseCode::SUBSCRIPTION_NOT_LATEST
                | ResponseCode::FILTER_DATA_NOT_EXIST
                | ResponseCode::FILTER_DATA_NOT_LATEST
                | ResponseCode::FLOW_CONTROL
                | ResponseCode::GO_AWAY
        ),
        None => error.is_retryable(),
    }
}

/// Where a group starts in a queue: where it committed, else as said.
pub(crate) async fn start_of_group(
    client: &Client,
    group: &str,
    queue: &Queue,
    start: Start,
) -> Result<i64, Error> {
    if let Some(offset) = committed(client, group, queue).await? {
        return Ok(offset);
    }
    // What comes back after a failure is never passed over.
    let start = if queue.topic.as_str().starts_with(RETRY_PREFIX) { Start::First } else { start };
    start_at(client, queue, start).await
}

/// What a group committed, if it did.
pub(crate) async fn committed(client: &Client, group: &str, queue: &Queue) -> Result<Option<i64>, Error> {
    let header = request::QueryConsumerOffset {
        consumer_group: group,
        topic: queue.topic.as_str(),
        queue_id: queue.id.get(),
        set_zero_if_not_found: Some(false),
    };
    match offset(client, queue, RequestCode::QUERY_CONSUMER_OFFSET, header.fields()).await {
        Ok(offset @ 0..) => {
            let address = to_read(client, queue, sluice_protocol::route::MASTER).await?;
            client.see_offset(&address, group, queue);
            Ok(Some(offset))
        }
        Ok(_) => Ok(None),
        Err(error) if error.response_code() == Some(ResponseCode::QUERY_NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The offset of a start.
pub(crate) async fn start_at(client: &Client, queue: &Queue, start: Start) -> Result<i64, Error> {
    let (topic, queue_id) = (queue.topic.as_str(), queue.id.get());
    match start {
        Start::Offset(offset) => Ok(offset),
        Start::First => {
            let header = request::GetMinOffset { topic, queue_id };
            offset(client, queue, RequestCode::GET_MIN_OFFSET, header.fields()).await
        }
        Start::Last => {
            let header = request::GetMaxOffset { topic, queue_id, committed: None };
            offset(client, queue, RequestCode::GET_MAX_OFFSET, header.fields()).await
        }
        Start::Time(timestamp) => {
            let header = request::SearchOffset { topic, queue_id, timestamp, boundary_type: None };
            offset(client, queue, RequestCode::SEARCH_OFFSET_BY_TIMESTAMP, header.fields()).await
        }
    }
}

/// Commits a group's offset and waits until the broker has it.
pub(crate) async fn commit(client: &Client, group: &str, queue: &Queue, offset: i64) -> Result<(), Error> {
    let header = request::UpdateConsumerOffset {
        consumer_group: group,
        topic: queue.topic.as_str(),
        queue_id: queue.id.get(),
        commit_offset: offset,
    };
    let (code, subject) = (RequestCode::UPDATE_CONSUMER_OFFSET, queue.to_string());
    for _ in 0..FIRST_COMMITS_MAX {
        let address = to_read(client, queue, sluice_protocol::route::MASTER).await?;
        let seen = client.offset_seen(&address, group, queue);
        client.ask(&address, code, header.fields(), &[], &subject).await?;
        if seen >= SEEN_ENOUGH {
            return Ok(());
        }
        // RocketMQ (5.3.3) makes a group's table of a topic at its first offset; of several that come at once it
        // may keep one alone, and says yes to all.
        match committed(client, group, queue).await {
            Ok(Some(_)) => return Ok(()),
            // Another commit of this client stands by now, and a newer one is not to be undone.
            Ok(None) if client.offset_seen(&address, group, queue) > seen => return Ok(()),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(group, %queue, %error, "could not look whether an offset stands");
                return Ok(());
            }
        }
    }
    Err(Error::NotKept { group: group.to_owned(), queue: subject })
}

async fn offset(
    client: &Client,
    queue: &Queue,
    code: RequestCode,
    fields: sluice_protocol::fields::Fields<'_>,
) -> Result<i64, Error> {
    let address = to_read(client, queue, sluice_protocol::route::MASTER).await?;
    let response = client.ask(&address, code, fields, &[], &queue.to_string()).await?;
    let header = response.header().map_err(|error| Error::unreadable(&address, code, "header", error))?;
    let offset = response::Offset::parse(&header.fields)
        .map_err(|error| Error::unreadable(&address, code, "header field", error))?;
    Ok(offset.offset)
}

/// Whom to read a queue from.
pub(crate) async fn to_read(client: &Client, queue: &Queue, broker_id: i64) -> Result<Arc<str>, Error> {
    let route = client.route(&queue.topic).await?;
    let address = route.brokers.get(&queue.broker).and_then(|broker| broker.to_read(broker_id)).cloned();
    address.ok_or_else(|| Error::NoQueue { topic: queue.topic.to_string(), purpose: "read at that broker" })
}

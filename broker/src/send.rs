//! Produce: codes 10, 310 and 320. The messages of one read of a socket are one append.

use std::fmt::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sluice_protocol::batch::{self, BatchItem};
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::delay::TIMER_TOPIC;
use sluice_protocol::header::{Header, HeaderKind};
use sluice_protocol::id::{LogOffset, QueueId, TopicName};
use sluice_protocol::message::{self, DELAY, Message, PROPERTIES_BYTES_MAX, UNIQ_KEY};
use sluice_protocol::message_id::MessageId;
use sluice_protocol::topic::perm;
use sluice_protocol::{request, response};
use sluice_store::{Access, BODY_BYTES_MAX, Batch, Ticket};

use crate::audit;
use crate::broker::Broker;
use crate::dispatch::Request;
use crate::metrics::Tally;
use crate::outlet::{Outlet, Replies};
use crate::reply::Reply;

/// Topics that the broker writes itself (`RocketMQ` 5.3.3 refuses all but the last with 16).
const CLOSED_TOPICS: [&str; 7] = [
    "SCHEDULE_TOPIC_XXXX",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    audit::TOPIC,
];

/// Properties that each message gets if it has none of that name, as `RocketMQ` 5.3.3 gives them.
const MSG_REGION: &str = "MSG_REGION";
const TRACE_ON: &str = "TRACE_ON";

/// Most messages of one client batch: as many as 4 MiB hold of empty ones, about.
const BATCH_MESSAGES_MAX: usize = 65_536;

/// Sends that wait to be appended together.
#[derive(Default)]
pub(crate) struct Sends {
    batch: Batch,
    waiting: Vec<Waiting>,
    /// Where each message starts in the batch, in bytes.
    starts: Vec<usize>,
    /// The topic of the last one: the next one's, mostly.
    topic: Option<(TopicName, Access)>,
    properties: Vec<u8>,
}

/// One queue of a topic.
pub(crate) type Place = (TopicName, QueueId);

/// A request that is answered once its messages are stored.
struct Waiting {
    code: RequestCode,
    opaque: i32,
    kind: HeaderKind,
    one_way: bool,
    /// The queue that was asked for, or picked.
    queue: QueueId,
    /// Where it is stored: another one for a message that comes later.
    place: Place,
    messages: Range<usize>,
    unique_key: String,
    /// By which a message that waits for its time can be taken back.
    recall: Option<String>,
}

impl Sends {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Encodes a request's messages into the batch. A request that is refused leaves nothing behind.
    pub(crate) fn add(
        &mut self,
        broker: &Broker,
        outlet: &Arc<Outlet>,
        request: &Request<'_>,
    ) -> Result<(), Reply> {
        let send = request::SendMessage::parse(&request.header.fields)?;
        let dead = broker.dead_letter_topic(&send)?;
        let send = match &dead {
            Some(topic) => request::SendMessage { topic: topic.as_str(), queue_id: -1, ..send },
            None => send,
        };
        let (topic, access) = self.topic(broker, &send)?;
        if request.body.is_empty() {
            return Err(illegal("the message has no body"));
        }
        if request.body.len() > BODY_BYTES_MAX {
            let len = request.body.len();
            return Err(illegal(format!(
                "the body has {len} bytes, the limit is {BODY_BYTES_MAX}; split or compress it"
            )));
        }
        let queue = pick_queue(&topic, access, send.queue_id)?;
        let properties = send.properties.unwrap_or_default();
        let is_batch = request.header.code == sluice_protocol::code::RequestCode::SEND_BATCH_MESSAGE.0
            || send.batch.unwrap_or(false);
        let first = self.starts.len();
        let mut message = Message {
            body: request.body,
            properties: &[],
            flag: send.flag,
            // Whether it is part of a transaction its properties say.
            sys_flag: send.sys_flag
                & !(message::sys_flag::BORN_HOST_V6
                    | message::sys_flag::STORE_HOST_V6
                    | message::sys_flag::TRANSACTION),
            born_timestamp_ms: send.born_timestamp,
            born_host: outlet.peer,
            store_host: broker.host,
            reconsume_times: send.reconsume_times.unwrap_or(0),
            prepared_transaction_offset: 0,
        };
        let (mut unique_key, mut recall) = (String::new(), None);
        let mut place = (topic, queue);
        if is_batch {
            let items = batch::items(request.body)
                .take(BATCH_MESSAGES_MAX + 1)
                .collect::<Result<Vec<BatchItem<'_>>, _>>()
                .map_err(|error| illegal(error.to_string()))?;
            if items.len() > BATCH_MESSAGES_MAX {
                return Err(illegal(format!("a batch holds {BATCH_MESSAGES_MAX} messages at most")));
            }
            // One after the other, with the end of each.
            let (mut encoded, mut ends) = (Vec::new(), Vec::with_capacity(items.len()));
            for item in &items {
                self.complete(broker, item.properties, properties.as_bytes())?;
                if broker.divert(&place, &mut self.properties)?.is_some() {
                    return Err(illegal("a message of a batch can not be delayed, timed or transactional"));
                }
                if !unique_key.is_empty() {
                    unique_key.push(',');
                }
                unique_key.push_str(message::property(&self.properties, UNIQ_KEY).unwrap_or_default());
                encoded.extend_from_slice(&self.properties);
                ends.push(encoded.len());
            }
            let mut start = 0;
            for (item, end) in items.iter().zip(ends) {
                let properties = encoded.get(start..end).unwrap_or_default();
                (message.body, message.flag, message.properties) = (item.body, item.flag, properties);
                self.push(&place, &message)?;
                start = end;
            }
        } else {
            self.complete(broker, properties.as_bytes(), &[])?;
            let own = message::property(&self.properties, UNIQ_KEY).unwrap_or_default();
            own.clone_into(&mut unique_key);
            if dead.is_some() {
                // It was to come back after a while; now it never does.
                message::set_property(&mut self.properties, DELAY, "0")
                    .map_err(|e| illegal(e.to_string()))?;
            }
            let mut properties = std::mem::take(&mut self.properties);
            if let Some(first) = broker.divert(&place, &mut properties)? {
                recall = broker.recall_handle(send.topic, &properties);
                place = first;
            }
            message.properties = &properties;
            self.push(&place, &message)?;
            self.properties = properties;
        }
        let (opaque, one_way) = (request.header.opaque, request.header.is_one_way());
        let messages = first..self.starts.len();
        self.waiting.push(Waiting {
            code: request.header.request_code(),
            opaque,
            kind: request.kind,
            one_way,
            queue,
            place,
            messages,
            unique_key,
            recall,
        });
        Ok(())
    }

    fn push(&mut self, (topic, queue): &Place, message: &Message<'_>) -> Result<(), Reply> {
        let start = self.batch.bytes();
        self.batch.push(topic, *queue, message)?;
        self.starts.push(start);
        Ok(())
    }

    /// The topic of a send; made if clients may make topics.
    fn topic(
        &mut self,
        broker: &Broker,
        send: &request::SendMessage<'_>,
    ) -> Result<(TopicName, Access), Reply> {
        if let Some((topic, access)) = self.topic.as_ref().filter(|(topic, _)| topic.as_str() == send.topic) {
            return Ok((topic.clone(), *access));
        }
        if CLOSED_TOPICS.contains(&send.topic) || send.topic.starts_with(TIMER_TOPIC) {
            let remark = format!("topic {} is the broker's own", send.topic);
            return Err(Reply::refuse(ResponseCode::NO_PERMISSION, remark));
        }
        let topic = TopicName::new(send.topic)?;
        let access = match broker.store.topic(&topic) {
            Some(known) => known.access,
            None => broker.topic_for_send(&topic, send.default_topic, send.default_topic_queue_nums)?,
        };
        if access.perm & perm::WRITE == 0 {
            let remark = format!(
                "topic {topic} may not be written (permission {}); set it to 6 to allow that",
                access.perm
            );
            return Err(Reply::refuse(ResponseCode::NO_PERMISSION, remark));
        }
        self.topic = Some((topic.clone(), access));
        Ok((topic, access))
    }

    /// Puts the properties of one message together: its own, those of its batch that it has not, and ours.
    fn complete(&mut self, broker: &Broker, own: &[u8], batch: &[u8]) -> Result<(), Reply> {
        let properties = &mut self.properties;
        properties.clear();
        properties.extend_from_slice(own);
        if own.contains(&0) || batch.contains(&0) {
            return Err(illegal("the properties hold a zero byte"));
        }
        let mut add = |name: &str, value: &str| {
            message::push_property(properties, name, value).map_err(|e| illegal(e.to_string()))
        };
        for (name, value) in message::properties(batch).filter(|(name, _)| *name != UNIQ_KEY) {
            if message::property(own, name).is_none() {
                add(name, value)?;
            }
        }
        let (mut key, mut region, mut trace) = (false, false, false);
        for (name, _) in message::entries(own) {
            key |= name == UNIQ_KEY.as_bytes();
            region |= name == MSG_REGION.as_bytes();
            trace |= name == TRACE_ON.as_bytes();
        }
        if !key {
            add(UNIQ_KEY, &broker.unique_keys.next())?;
        }
        if !region {
            add(MSG_REGION, "DefaultRegion")?;
        }
        if !trace {
            add(TRACE_ON, "true")?;
        }
        add("CLUSTER", &broker.settings.cluster)?;
        if properties.len() > PROPERTIES_BYTES_MAX {
            let len = properties.len();
            return Err(illegal(format!(
                "the properties have {len} bytes, the limit is {PROPERTIES_BYTES_MAX}"
            )));
        }
        Ok(())
    }

    /// Appends the batch and answers each request; gives the ticket that the answers wait for, if they do, and the
    /// queues in which messages arrive then.
    pub(crate) fn append(
        self,
        broker: &Broker,
        replies: &mut Replies,
        tally: &mut Tally,
    ) -> Option<(Ticket, Vec<Place>)> {
        let bytes = self.batch.bytes();
        let (appended, ticket) = match broker.store.append_ahead(self.batch) {
            Ok(appended) => appended,
            Err(error) => {
                tracing::warn!(%error, bytes, "sends are refused");
                let reply = Reply::from(error);
                self.waiting.iter().for_each(|waiting| tally.add(waiting.code, reply.code));
                for waiting in self.waiting.iter().filter(|w| !w.one_way) {
                    replies.push(waiting.kind, &reply.header(waiting.opaque), &[]);
                }
                return None;
            }
        };
        let id = |message: usize| {
            let start = self.starts.get(message).copied().unwrap_or(0) as u64;
            let log_offset = LogOffset::new(appended.log_offset.get() + start);
            MessageId { store_host: broker.host, log_offset }
        };
        broker.metrics.stored(self.starts.len(), bytes);
        for waiting in &self.waiting {
            tally.add(waiting.code, ResponseCode::SUCCESS);
            if !waiting.one_way {
                let mut ids = String::with_capacity(33 * waiting.messages.len());
                for id in waiting.messages.clone().map(id) {
                    // Writing to a string never fails.
                    let _ = write!(ids, "{}{id}", if ids.is_empty() { "" } else { "," });
                }
                let first = appended.queue_offsets.get(waiting.messages.start).copied().unwrap_or_default();
                let fields = response::SendMessage {
                    queue_id: waiting.queue.get(),
                    transaction_id: Some(&waiting.unique_key),
                    msg_id: &ids,
                    trace_on: Some(true),
                    region: Some("DefaultRegion"),
                    queue_offset: first.get(),
                    recall_handle: waiting.recall.as_deref(),
                };
                let header = Header::response(ResponseCode::SUCCESS, waiting.opaque, fields.fields());
                replies.push(waiting.kind, &header, &[]);
            }
        }
        let mut places: Vec<Place> = self.waiting.into_iter().map(|w| w.place).collect();
        places.dedup();
        if broker.sync {
            return Some((ticket, places));
        }
        broker.long_poll.arrived_at(&places);
        None
    }
}

pub(crate) fn illegal(remark: impl Into<std::borrow::Cow<'static, str>>) -> Reply {
    Reply::refuse(ResponseCode::MESSAGE_ILLEGAL, remark)
}

/// The queue of a send: the client's choice, or any writable one.
pub(crate) fn pick_queue(topic: &TopicName, access: Access, wanted: i32) -> Result<QueueId, Reply> {
    static TURN: AtomicU32 = AtomicU32::new(0);
    if wanted < 0 {
        let turn = TURN.fetch_add(1, Ordering::Relaxed);
        let queue = turn.checked_rem(access.write_queues).and_then(|queue| i32::try_from(queue).ok());
        return Ok(QueueId::new(queue.unwrap_or(0))?);
    }
    let queues = access.read_queues.max(access.write_queues);
    if u32::try_from(wanted).is_ok_and(|queue| queue < queues) {
        return Ok(QueueId::new(wanted)?);
    }
    let remark = format!("topic {topic} has {queues} queues, there is none with number {wanted}");
    Err(Reply::refuse(ResponseCode::INVALID_PARAMETER, remark))
}

/// Makes ids as clients do: 32 hex digits that no other message has.
pub(crate) struct UniqueKeys {
    prefix: String,
    next: AtomicU32,
}

impl UniqueKeys {
    pub(crate) fn new(host: SocketAddr, now_ms: i64) -> Self {
        let ip = match host.ip() {
            std::net::IpAddr::V4(ip) => u32::from(ip),
            std::net::IpAddr::V6(ip) => {
                u32::from_be_bytes([ip.octets()[12], ip.octets()[13], ip.octets()[14], ip.octets()[15]])
            }
        };
        Self { prefix: format!("{ip:08X}{:016X}", now_ms), next: AtomicU32::new(0) }
    }

    pub(crate) fn next(&self) -> String {
        format!("{}{:08X}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

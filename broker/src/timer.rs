//! Messages with a time of delivery: the properties `TIMER_DELAY_SEC`, `TIMER_DELAY_MS` and `TIMER_DELIVER_MS`, and
//! code 370, which takes one back.
//!
//! A message waits in a queue of [`TIMER_TOPIC`] that is chosen by how long it waits, so that all of a queue wait about
//! equally long: 1 to 2 s, 2 to 4 s, and so on. The consume queue keeps their times, and memory a sorted set of those
//! not delivered: 16 bytes a message. Each delivery is one atomic batch with a record in [`DONE`] that says what is
//! delivered now, so no crash delivers twice. After a restart the last of those records says from where the consume
//! queue is read again; as its messages wait equally long, about half of what is read still waits, however many they are.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use sluice_protocol::code::ResponseCode;
use sluice_protocol::delay::{TIMER_DUE, TIMER_RECALLED, TIMER_TOPIC, TIMERS};
use sluice_protocol::id::{QueueId, QueueOffset, TopicName};
use sluice_protocol::message::{self, Message, REAL_TOPIC, UNIQ_KEY};
use sluice_protocol::record::Record;
use sluice_protocol::{request, response};
use sluice_store::{Batch, Error as StoreError, Store};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::dispatch::{Answer, Request, Turn};
use crate::divert::Released;
use crate::outlet::Replies;
use crate::reply::Reply;
use crate::schedule::{Next, repeat};
use crate::send::illegal;
use crate::topic::own_topic;

/// The topic that says what is delivered, a queue for each of [`TIMER_TOPIC`].
pub(crate) const DONE: &str = "rmq_sys_sluice_timer_done";
/// Longest time that a message waits, in ms, as of `RocketMQ` 5.3.3: three days.
const WAIT_MAX_MS: i64 = 3 * 24 * 3600 * 1000;
/// Queues: one for each power of two of the wait in s.
pub(crate) const QUEUES: u32 = (WAIT_MAX_MS / 1000).ilog2() + 1;
/// Messages that are delivered together, and their bytes.
const RELEASED_MAX: usize = 1024;
const RELEASED_BYTES_MAX: usize = 1 << 20;
/// Units of a consume queue that are read together.
const UNITS_MAX: usize = 4096;

/// When a message is due that asks for a time, in ms since 1970-01-01 UTC; `None` if that is now.
pub(crate) fn due(properties: &[u8], now_ms: i64) -> Result<Option<i64>, Reply> {
    let Some((name, value)) =
        TIMERS.iter().find_map(|name| message::property(properties, name).map(|value| (*name, value)))
    else {
        return Ok(None);
    };
    let bad = || illegal(format!("property {name} is {value:?} and no number of 64 bits"));
    let number: i64 = value.parse().map_err(|_| bad())?;
    let due = match name {
        "TIMER_DELIVER_MS" => number,
        "TIMER_DELAY_SEC" => now_ms.saturating_add(number.saturating_mul(1000)),
        _ => now_ms.saturating_add(number),
    };
    if due > now_ms.saturating_add(WAIT_MAX_MS) {
        let hours = WAIT_MAX_MS / 3_600_000;
        return Err(illegal(format!("property {name} is {value}: a message can wait {hours} hours at most")));
    }
    Ok((due > now_ms).then_some(due))
}

/// The queue of a message that waits so long, in ms.
pub(crate) fn queue_of(wait_ms: i64) -> QueueId {
    let seconds = (wait_ms / 1000).max(1).ilog2().min(QUEUES - 1);
    i32::try_from(seconds).ok().and_then(|queue| QueueId::new(queue).ok()).unwrap_or_default()
}

/// The messages that wait, by queue.
pub(crate) struct Timers(Vec<Mutex<Waiting>>);

/// The messages of one queue.
#[derive(Default)]
struct Waiting {
    /// When they are due, and their queue offsets.
    messages: BTreeSet<(i64, i64)>,
    /// First queue offset that was not looked at.
    read_to: i64,
    /// Of the messages below `read_to`, those up to this one are delivered.
    done: (i64, i64),
    /// No message below this queue offset waits.
    floor: i64,
    /// Messages delivered since the floor was looked for.
    since_floor: usize,
}

impl Timers {
    /// What the store says of the messages that wait.
    pub(crate) fn load(store: &Store) -> Result<Self, StoreError> {
        let queues = QueueId::all(QUEUES).map(|queue| Ok(Mutex::new(Waiting::load(store, queue)?)));
        Ok(Self(queues.collect::<Result<_, StoreError>>()?))
    }

    fn lock(&self, queue: QueueId) -> Option<MutexGuard<'_, Waiting>> {
        // Each change is whole once the store has taken it.
        self.0.get(queue.index()).map(|waiting| waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Waiting {
    fn load(store: &Store, queue: QueueId) -> Result<Self, StoreError> {
        let mut this = Self::default();
        let topic = own_topic(DONE);
        if let Some((first, end)) = store.offsets(&topic, queue)
            && first < end
        {
            let last = store.read_records(&topic, queue, QueueOffset::new(end.get() - 1), 1, 1)?;
            let body = last.runs.first().and_then(|run| Record::decode(&run.bytes).ok()).map(|r| r.body);
            let body = body.map(String::from_utf8_lossy).unwrap_or_default();
            let numbers: Vec<i64> = body.split(' ').filter_map(|number| number.parse().ok()).collect();
            if let [due, offset, read_to, floor] = numbers[..] {
                (this.done, this.read_to, this.floor) = ((due, offset), read_to, floor);
            }
        }
        let read_before = std::mem::replace(&mut this.read_to, this.floor);
        this.read(store, queue, read_before)?;
        Ok(this)
    }

    /// Takes up what was stored since the last look. Below `read_before` what is done counts as delivered.
    fn read(&mut self, store: &Store, queue: QueueId, read_before: i64) -> Result<(), StoreError> {
        let topic = own_topic(TIMER_TOPIC);
        let Some((first, end)) = store.offsets(&topic, queue) else { return Ok(()) };
        self.read_to = self.read_to.max(first.get());
        while self.read_to < end.get() {
            let codes = store.tag_codes(&topic, queue, QueueOffset::new(self.read_to), UNITS_MAX)?;
            if codes.is_empty() {
                break;
            }
            for code in codes {
                let entry = (code, self.read_to);
                if code < 0 {
                    self.take_back(store, queue, self.read_to)?;
                } else if code > 0 && (self.read_to >= read_before || entry > self.done) {
                    self.messages.insert(entry);
                }
                self.read_to += 1;
            }
        }
        Ok(())
    }

    /// Forgets the message that the record at a queue offset takes back.
    fn take_back(&mut self, store: &Store, queue: QueueId, at: i64) -> Result<(), StoreError> {
        let read = store.read_records(&own_topic(TIMER_TOPIC), queue, QueueOffset::new(at), 1, 1)?;
        let record = read.runs.first().and_then(|run| Record::decode(&run.bytes).ok());
        let entry = record.and_then(|record| {
            let due = message::property(record.properties, TIMER_DUE)?.parse().ok()?;
            Some((due, str::from_utf8(record.body).ok()?.parse().ok()?))
        });
        if let Some(entry) = entry {
            self.messages.remove(&entry);
        }
        Ok(())
    }

    /// Takes note of messages that were delivered.
    fn delivered(&mut self, entries: &[(i64, i64)]) {
        for entry in entries {
            self.messages.remove(entry);
        }
    }

    /// What the record of a delivery says, see [`Waiting::load`]: of the first messages that wait.
    fn done_after(&mut self, entries: &[(i64, i64)]) -> String {
        let done = entries.last().copied().unwrap_or(self.done).max(self.done);
        self.since_floor += entries.len();
        // To look for it takes a walk over all: now and then, so that it costs each message the same.
        if self.since_floor > self.messages.len() {
            let first = self.messages.iter().skip(entries.len()).map(|(_, at)| *at).min();
            self.floor = first.unwrap_or(self.read_to);
            self.since_floor = 0;
        }
        // What came so late that it is due before what was delivered already must not count as delivered.
        let late = self.messages.range(..=done).skip(entries.len()).map(|(_, at)| *at);
        let read_to = late.min().unwrap_or(self.read_to);
        self.done = done;
        format!("{} {} {read_to} {}", done.0, done.1, self.floor.min(read_to))
    }
}

/// Starts a task for each queue.
pub(crate) fn start(broker: &Arc<Broker>, stop: &watch::Receiver<bool>, tasks: &mut JoinSet<()>) {
    for queue in QueueId::all(QUEUES) {
        let broker = Arc::clone(broker);
        let arrivals = broker.long_poll.arrivals(&own_topic(TIMER_TOPIC), queue);
        let step = move || broker.deliver_due(queue);
        tasks.spawn(repeat("timed messages", arrivals, stop.clone(), step));
    }
}

impl Broker {
    /// Delivers what of a queue is due.
    fn deliver_due(&self, queue: QueueId) -> Result<Next, StoreError> {
        let topic = own_topic(TIMER_TOPIC);
        let Some(mut waiting) = self.timers.lock(queue) else { return Ok(Next::Never) };
        waiting.read(&self.store, queue, 0)?;
        let now = self.store.now_ms()?;
        let mut entries = Vec::new();
        let (mut records, mut bytes) = (Vec::new(), 0);
        for &(due, at) in waiting.messages.iter().take(RELEASED_MAX) {
            if due > now || bytes >= RELEASED_BYTES_MAX {
                break;
            }
            entries.push((due, at));
            match self.store.read_records(&topic, queue, QueueOffset::new(at), 1, 1) {
                Ok(read) => {
                    bytes += read.bytes;
                    records.extend(read.runs.into_iter().map(|run| run.bytes));
                }
                Err(StoreError::Expired { .. }) => {
                    tracing::warn!(queue_offset = at, "retention dropped a message before its time");
                }
                Err(error) => return Err(error),
            }
        }
        if entries.is_empty() {
            let first = waiting.messages.first();
            return Ok(first.map_or(Next::Never, |(due, _)| Next::InOrSooner(due - now)));
        }
        let body = waiting.done_after(&entries);
        let mut released = Released::default();
        let (born_host, store_host) = (self.host, self.host);
        let done = Message {
            body: body.as_bytes(),
            born_timestamp_ms: now,
            born_host,
            store_host,
            ..Message::default()
        };
        released.batch.push(&own_topic(DONE), queue, &done)?;
        for record in records.iter().filter_map(|bytes| Record::decode(bytes).ok()) {
            released.add(self, &record, record.properties, |message| message);
        }
        released.batch.atomic();
        let (_, ticket) = self.store.append_ahead(released.batch)?;
        waiting.delivered(&entries);
        drop(waiting);
        if self.sync {
            self.store.durable(ticket)?;
        }
        self.long_poll.arrived_at(&released.places);
        Ok(Next::Now)
    }

    /// By what a client can take a message of a topic back, if it waits for its time.
    pub(crate) fn recall_handle(&self, topic: &str, properties: &[u8]) -> Option<String> {
        let due = message::property(properties, TIMER_DUE)?;
        let id = message::property(properties, UNIQ_KEY)?;
        Some(URL_SAFE.encode(format!("v1 {topic} {} {due} {id}", self.settings.name)))
    }

    /// Takes a message back that waits.
    pub(crate) fn recall(self: &Arc<Self>, request: &Request<'_>, turn: &Turn<'_>) -> Result<Answer, Reply> {
        let asked = request::RecallMessage::parse(&request.header.fields)?;
        let topic = TopicName::new(asked.topic)?;
        let text = URL_SAFE.decode(asked.recall_handle).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let parts: Option<Vec<&str>> = text.as_deref().map(|text| text.splitn(5, ' ').collect());
        let Some([_, named, broker, due, id]) = parts.as_deref() else {
            return Err(not_recalled("the handle is not one of a send's answer"));
        };
        let due = due.parse::<i64>().map_err(|_| not_recalled("the handle names no time"))?;
        if *named != topic.as_str() || *broker != self.settings.name {
            return Err(not_recalled(format!("the handle is of topic {named} at broker {broker}")));
        }
        let (broker, outlet, id) = (Arc::clone(self), Arc::clone(turn.outlet), (*id).to_owned());
        let (kind, opaque) = (request.kind, request.header.opaque);
        // It may wait for the disk.
        tokio::task::spawn_blocking(move || {
            let reply = broker.recall_now(&topic, due, &id).unwrap_or_else(|reply| reply);
            let mut replies = Replies::default();
            replies.push(kind, &reply.header(opaque), &reply.body);
            // A failed send has ended the connection; nobody is left to be told.
            tokio::spawn(async move { outlet.send(replies).await });
        });
        Ok(Answer::Elsewhere)
    }

    fn recall_now(&self, topic: &TopicName, due: i64, id: &str) -> Result<Reply, Reply> {
        let timers = own_topic(TIMER_TOPIC);
        let found = self.store.records_by_key(&timers, id, RELEASED_MAX, 0, i64::MAX)?;
        let records = found.iter().filter_map(|bytes| Record::decode(bytes).ok());
        let mut of_it = records.filter(|record| {
            let is = |name, value: &str| message::property(record.properties, name) == Some(value);
            is(REAL_TOPIC, topic.as_str()) && is(TIMER_DUE, &due.to_string())
        });
        let gone = || not_recalled(format!("no message {id} of topic {topic} waits until {due}"));
        let record = of_it.next().ok_or_else(gone)?;
        let queue = QueueId::new(record.queue_id)?;
        let mut waiting = self.timers.lock(queue).ok_or_else(gone)?;
        waiting.read(&self.store, queue, 0)?;
        let entry = (due, record.queue_offset);
        if !waiting.messages.contains(&entry) {
            return Err(gone());
        }
        let mut properties = Vec::new();
        for (name, value) in [(TIMER_DUE, due.to_string()), (TIMER_RECALLED, format!("{topic}+{id}"))] {
            let pushed = message::push_property(&mut properties, name, &value);
            pushed.map_err(|error| illegal(error.to_string()))?;
        }
        let body = record.queue_offset.to_string();
        let (born_host, store_host) = (self.host, self.host);
        let taken_back = Message {
            body: body.as_bytes(),
            properties: &properties,
            born_timestamp_ms: self.store.now_ms()?,
            born_host,
            store_host,
            ..Message::default()
        };
        let mut batch = Batch::new();
        batch.push(&timers, queue, &taken_back)?;
        self.store.append(batch)?;
        waiting.messages.remove(&entry);
        Ok(Reply::fields(&response::RecallMessage { msg_id: id }.fields()))
    }
}

fn not_recalled(remark: impl Into<std::borrow::Cow<'static, str>>) -> Reply {
    Reply::refuse(ResponseCode::ILLEGAL_OPERATION, remark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_queue_wait_about_equally_long() {
        for (wait, queue) in [(1, 0), (1_999, 0), (2_000, 1), (3_999, 1), (4_000, 2), (WAIT_MAX_MS, 17)] {
            assert_eq!(queue_of(wait).get(), queue, "{wait}");
        }
        assert_eq!(QUEUES, 18);
    }

    #[test]
    fn what_comes_late_is_not_taken_for_delivered() {
        let mut waiting = Waiting { read_to: 10, ..Waiting::default() };
        waiting.messages.extend([(100, 5), (110, 2), (300, 1)]);
        let first = [(100, 5), (110, 2)];
        assert_eq!(waiting.done_after(&first), "110 2 10 0");
        waiting.delivered(&first);
        waiting.messages.extend([(90, 10), (95, 11)]);
        waiting.read_to = 12;
        assert_eq!(waiting.done_after(&[(90, 10)]), "110 2 11 0");
        waiting.delivered(&[(90, 10)]);
        assert_eq!(waiting.done_after(&[(95, 11)]), "110 2 12 1");
    }
}

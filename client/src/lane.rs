//! The way of messages to one queue: what waits while a request is under way goes as one batch.
//!
//! As long as all goes well no task is needed: the response to a request sends the next one from the
//! connection's reader. Whatever else happens goes to a task, [`crate::attempt`], during which the lane waits, so
//! that order is kept as far as retries allow.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use sluice_protocol::batch::BatchItem;
use sluice_protocol::code::RequestCode;
use sluice_protocol::header::Header;
use sluice_protocol::message_id::MessageId;
use sluice_protocol::{batch, request, response};
use tokio::sync::oneshot;

use crate::attempt;
use crate::client::lock;
use crate::clock::now_ms;
use crate::connection::{Answer, Connection, Pushed, Request};
use crate::error::Error;
use crate::message::Message;
use crate::producer::Core;
use crate::route::{Queue, TEMPLATE_TOPIC};
use crate::sent::{SendResult, SendStatus};

/// Where messages for one queue wait.
pub(crate) struct Lane {
    pub(crate) queue: Queue,
    state: Mutex<State>,
    /// The broker's connection as it was last used.
    connection: Mutex<Option<Arc<Connection>>>,
    /// Until when other lanes are preferred because this one failed, in ms since 1970-01-01 UTC.
    shunned_until: AtomicI64,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Batch>,
    /// Properties while they are put together.
    scratch: Vec<u8>,
    /// Requests of this lane without a response.
    under_way: usize,
}

/// Messages of one request.
pub(crate) struct Batch {
    /// As in [`sluice_protocol::batch`].
    pub(crate) bytes: Vec<u8>,
    /// The same once it was sent, for another attempt.
    sent: Bytes,
    pub(crate) waiting: Waiting,
    pub(crate) kind: Kind,
    /// Bytes that it counts for in the producer's limit.
    pub(crate) weight: usize,
}

/// What the messages of a batch have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// They may not go to another queue.
    pub(crate) is_pinned: bool,
    /// Nothing may be added.
    pub(crate) is_whole: bool,
    /// The producer waits until they are durable.
    pub(crate) waits: bool,
    /// How their bodies are compressed: bits of [`sluice_protocol::message::sys_flag`].
    pub(crate) sys_flag: i32,
}

/// Who waits for a batch.
pub(crate) enum Waiting {
    /// Somebody for each message.
    Each(Vec<Item>),
    /// One for all messages.
    All { messages: usize, done: oneshot::Sender<Result<(), Error>> },
}

impl Waiting {
    fn messages(&self) -> usize {
        match self {
            Self::Each(items) => items.len(),
            Self::All { messages, .. } => *messages,
        }
    }

    /// One more message; of a batch of [`Waiting::All`] all are there from the start.
    pub(crate) fn push(&mut self, item: Item) {
        if let Self::Each(items) = self {
            items.push(item);
        }
    }
}

pub(crate) struct Item {
    pub(crate) id: String,
    pub(crate) done: oneshot::Sender<Result<SendResult, Error>>,
}

impl Batch {
    pub(crate) const fn new(kind: Kind) -> Self {
        Self { bytes: Vec::new(), sent: Bytes::new(), waiting: Waiting::Each(Vec::new()), kind, weight: 0 }
    }

    /// What goes into the request; the batch only grows before.
    pub(crate) fn outgoing(&mut self) -> Outgoing {
        if self.sent.is_empty() {
            self.sent = mem::take(&mut self.bytes).into();
        }
        Outgoing { bytes: self.sent.clone(), messages: self.waiting.messages(), sys_flag: self.kind.sys_flag }
    }

    /// Hands each message its result.
    pub(crate) fn finish(self, core: &Core, queue: &Queue, outcome: Result<Stored, Error>) {
        core.give_back(self.weight);
        let items = match self.waiting {
            Waiting::Each(items) => items,
            // Nobody listens if the caller gave up.
            Waiting::All { done, .. } => return drop(done.send(outcome.map(drop))),
        };
        match outcome {
            Ok(stored) => {
                let mut offset_ids = stored.offset_ids.split(',');
                for (item, i) in items.into_iter().zip(0..) {
                    // Nobody listens if the caller gave up.
                    let _ = item.done.send(Ok(SendResult {
                        message_id: item.id,
                        offset_id: offset_ids.next().and_then(|id| id.parse::<MessageId>().ok()),
                        queue: queue.clone(),
                        queue_offset: stored.queue_offset.saturating_add(i),
                        status: stored.status,
                    }));
                }
            }
            Err(error) => {
                for item in items {
                    let _ = item.done.send(Err(error.clone()));
                }
            }
        }
    }
}

/// The bytes of a request: those of a batch.
pub(crate) struct Outgoing {
    bytes: Bytes,
    messages: usize,
    sys_flag: i32,
}

/// What goes into the request: one message as itself, several as a batch.
pub(crate) struct Parts<'a> {
    single: Option<BatchItem<'a>>,
    bytes: &'a [u8],
    sys_flag: i32,
}

impl Outgoing {
    pub(crate) fn parts(&self) -> Parts<'_> {
        let single = (self.messages == 1).then(|| batch::items(&self.bytes).next()).flatten();
        Parts { single: single.and_then(Result::ok), bytes: &self.bytes, sys_flag: self.sys_flag }
    }
}

impl<'a> Parts<'a> {
    pub(crate) fn header(&self, core: &'a Core, queue: &'a Queue) -> request::SendMessage<'a> {
        let properties = self.single.map_or("", |item| str::from_utf8(item.properties).unwrap_or(""));
        request::SendMessage {
            sys_flag: self.sys_flag,
            flag: self.single.map_or(0, |item| item.flag),
            batch: self.single.is_none().then_some(true),
            ..send_header(core, queue, properties)
        }
    }

    pub(crate) fn request<'h>(&'h self, header: &'h request::SendMessage<'h>) -> Request<'h> {
        match self.single {
            Some(item) => Request::new(RequestCode::SEND_MESSAGE_V2, header.fields(), item.body),
            None => Request::new(RequestCode::SEND_BATCH_MESSAGE, header.fields(), self.bytes),
        }
    }
}

/// The header of a send of one message without flags. What a broker finds in that of a batch it appends to every
/// message, so a batch has no properties of its own.
pub(crate) fn send_header<'a>(
    core: &'a Core,
    queue: &'a Queue,
    properties: &'a str,
) -> request::SendMessage<'a> {
    request::SendMessage {
        producer_group: core.group(),
        topic: queue.topic.as_str(),
        default_topic: TEMPLATE_TOPIC,
        default_topic_queue_nums: core.settings().new_topic_queues,
        queue_id: queue.id.get(),
        sys_flag: 0,
        born_timestamp: now_ms(),
        flag: 0,
        properties: Some(properties),
        reconsume_times: Some(0),
        unit_mode: Some(false),
        max_reconsume_times: None,
        batch: None,
        broker_name: Some(&queue.broker),
    }
}

/// Reads the response to a send.
pub(crate) fn stored(header: &Header<'_>, address: &Arc<str>, queue: &Queue) -> Result<Stored, Error> {
    let code = RequestCode::SEND_MESSAGE_V2;
    let Some(status) = SendStatus::of(header.response_code()) else {
        let remark = header.remark.as_deref();
        return Err(Error::refused(address, code, queue.topic.as_str(), header.response_code(), remark));
    };
    let fields = response::SendMessage::parse(&header.fields)
        .map_err(|error| Error::unreadable(address, code, "header field", error))?;
    Ok(Stored { queue_offset: fields.queue_offset, offset_ids: fields.msg_id.to_owned(), status })
}

/// What a broker says of a stored batch.
pub(crate) struct Stored {
    queue_offset: i64,
    offset_ids: String,
    status: SendStatus,
}

impl Lane {
    pub(crate) fn new(queue: Queue) -> Self {
        Self {
            queue,
            state: Mutex::default(),
            connection: Mutex::default(),
            shunned_until: AtomicI64::new(0),
        }
    }

    /// Adds a message and sends it if nothing is under way.
    pub(crate) fn add(
        self: &Arc<Self>,
        core: &Arc<Core>,
        message: &Message,
        item: Item,
        kind: Kind,
        weight: usize,
    ) -> Result<(), Error> {
        let settings = core.settings();
        let next = {
            let mut state = lock(&self.state);
            let state = &mut *state;
            let fits = |last: &&mut Batch| {
                last.kind == kind
                    && !kind.is_whole
                    && last.waiting.messages() < settings.batch_messages_max
                    && last.bytes.len() + weight <= settings.batch_bytes_max
            };
            match state.waiting.back_mut().filter(fits) {
                Some(last) => {
                    message.push(&mut last.bytes, &item.id, &mut state.scratch)?;
                    last.waiting.push(item);
                    last.weight += weight;
                }
                None => {
                    let mut new = Batch::new(kind);
                    message.push(&mut new.bytes, &item.id, &mut state.scratch)?;
                    new.waiting.push(item);
                    new.weight = weight;
                    state.waiting.push_back(new);
                }
            }
            state.next(settings.requests_per_queue_max)
        };
        self.send_next(core, next);
        Ok(())
    }

    /// Adds a whole batch.
    pub(crate) fn add_batch(self: &Arc<Self>, core: &Arc<Core>, batch: Batch) {
        let next = {
            let mut state = lock(&self.state);
            state.waiting.push_back(batch);
            state.next(core.settings().requests_per_queue_max)
        };
        self.send_next(core, next);
    }

    /// A request of this lane ended: the next one may go.
    pub(crate) fn go_on(self: &Arc<Self>, core: &Arc<Core>) {
        let next = {
            let mut state = lock(&self.state);
            state.under_way = state.under_way.saturating_sub(1);
            state.next(core.settings().requests_per_queue_max)
        };
        self.send_next(core, next);
    }

    pub(crate) fn is_shunned(&self, now_ms: i64) -> bool {
        self.shunned_until.load(Ordering::Relaxed) > now_ms
    }

    pub(crate) fn shun(&self, until_ms: i64) {
        self.shunned_until.store(until_ms, Ordering::Relaxed);
    }

    pub(crate) fn use_connection(&self, connection: Arc<Connection>) {
        *lock(&self.connection) = Some(connection);
    }

    fn send_next(self: &Arc<Self>, core: &Arc<Core>, batch: Option<Batch>) {
        let Some(batch) = batch else { return };
        let connection = lock(&self.connection).clone();
        match connection {
            Some(connection) => self.send(core, &connection, batch),
            None => attempt::start(Arc::clone(core), Arc::clone(self), batch, None),
        }
    }

    /// Sends a batch whose response sends the next.
    fn send(self: &Arc<Self>, core: &Arc<Core>, connection: &Arc<Connection>, mut batch: Batch) {
        // The batch travels with the waiter; its bytes are shared with it.
        let outgoing = batch.outgoing();
        let waiter = {
            let (core, lane, address) =
                (Arc::clone(core), Arc::clone(self), Arc::clone(connection.address()));
            Box::new(move |answer: Result<Answer<'_>, Error>| {
                let outcome = answer.and_then(|answer| stored(answer.header, &address, &lane.queue));
                lane.finish(&core, batch, outcome);
            })
        };
        let timeout = core.settings().send_timeout;
        let parts = outgoing.parts();
        let header = parts.header(core, &self.queue);
        match connection.push(&mut parts.request(&header), timeout, waiter) {
            Pushed::Done => {}
            Pushed::Failed(error, waiter) => waiter(Err(error)),
            Pushed::Full(waiter) => {
                let (core, queue) = (Arc::clone(core), self.queue.clone());
                attempt::push_later(core, queue, Arc::clone(connection), outgoing, waiter);
            }
        }
    }

    fn finish(self: &Arc<Self>, core: &Arc<Core>, batch: Batch, outcome: Result<Stored, Error>) {
        match outcome {
            Err(error) if error.is_retryable() => {
                attempt::start(Arc::clone(core), Arc::clone(self), batch, Some(error));
            }
            outcome => {
                batch.finish(core, &self.queue, outcome);
                self.go_on(core);
            }
        }
    }
}

impl State {
    /// The batch that may go now; counts it as under way.
    fn next(&mut self, requests_max: usize) -> Option<Batch> {
        if self.under_way >= requests_max.max(1) {
            return None;
        }
        let batch = self.waiting.pop_front()?;
        self.under_way += 1;
        Some(batch)
    }
}

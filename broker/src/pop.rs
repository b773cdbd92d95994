//! Consume by popping: code 200050. What clients answer is in `ack.rs`, looks that hand nothing out in `peek.rs`.
//!
//! A pop hands messages out for a time. Acknowledged within it they are consumed; otherwise they come again, from where
//! they stand, with the number of times that they came before: there is no copy in a retry topic and no log of its own that
//! must be read to bring them back. After the last try that the group's settings allow they go to its dead letters. A
//! group's committed offset is its first message that is not consumed.
//!
//! Each pop and each acknowledgement is one entry in the store's append log before it is answered, so that a crash hands
//! out nothing again that was acknowledged, and nothing earlier than it was to come.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sluice_protocol::code::ResponseCode;
use sluice_protocol::header::{Header, HeaderKind};
use sluice_protocol::id::{GroupName, QueueId, QueueOffset, TopicName};
use sluice_protocol::pop::Infos;
use sluice_protocol::record::{self, Record};
use sluice_protocol::{request, response};
use sluice_store::{Lease, LeaseChange, With};
use tokio::time::Instant;

use crate::broker::Broker;
use crate::dispatch::{Answer, Request, Turn};
use crate::lease::{HeldQueue, lock};
use crate::outlet::{Outlet, Replies};
use crate::pull::{ANSWER_BYTES_MAX, HOLD_MAX, Pull, Wanted, read_queue, touch};
use crate::reply::{Reply, no_topic};

/// Messages of one answer, as `RocketMQ` 5.3.3 gives.
pub(crate) const MESSAGES_MAX: i32 = 32;
/// Longest time that a message is held, in ms, as of its proxy: 12 hours.
const INVISIBLE_MAX_MS: i64 = 12 * 3600 * 1000;
/// Offsets of one entry of the append log.
pub(crate) const ENDED_MAX: usize = 1000;

/// A pop with everything that its answer depends on.
#[derive(Clone)]
struct Pop {
    opaque: i32,
    kind: HeaderKind,
    group: GroupName,
    topic: TopicName,
    /// None for all queues.
    queue: Option<QueueId>,
    messages_max: usize,
    invisible_ms: i64,
    wanted: Wanted,
    /// Whether a group that was never here starts at the end.
    from_end: bool,
    order: bool,
    /// How often a message comes again before it is a dead letter.
    retries_max: i32,
}

/// What a pop takes.
pub(crate) struct Taken {
    pub(crate) now: Instant,
    pop_time: i64,
    handle: i32,
    infos: Infos,
    body: Vec<Bytes>,
    pub(crate) messages: usize,
    bytes: usize,
    /// Messages that are left.
    rest: i64,
    /// Whether the group holds so many that it gets no more.
    full: bool,
    /// Whether there is more to look at: so far nothing matched.
    again: bool,
    /// When a message that is held can be had.
    pub(crate) wake: Option<Instant>,
}

impl Broker {
    /// Answers a pop, or holds it until there is something.
    pub(crate) fn pop(self: &Arc<Self>, request: &Request<'_>, turn: &mut Turn<'_>) -> Result<Answer, Reply> {
        let asked = request::PopMessage::parse(&request.header.fields)?;
        let (group, topic) = (GroupName::new(asked.consumer_group)?, TopicName::new(asked.topic)?);
        let (settings, access) = self.readable(&group, &topic)?;
        let queue = queue_of(&topic, access.read_queues, asked.queue_id)?;
        if !(1..=MESSAGES_MAX).contains(&asked.max_msg_nums) {
            return Err(out_of_range("maxMsgNums", asked.max_msg_nums.into(), 1, MESSAGES_MAX.into()));
        }
        let invisible_ms = invisible(asked.invisible_time)?;
        let expression = asked.expression.unwrap_or("*");
        let pop = Pop {
            opaque: request.header.opaque,
            kind: request.kind,
            group,
            topic,
            queue,
            messages_max: usize::try_from(asked.max_msg_nums).unwrap_or(1),
            invisible_ms,
            wanted: self.filters.compile(asked.expression_type.unwrap_or("TAG"), expression)?,
            from_end: asked.init_mode != 0,
            order: asked.order.unwrap_or(false),
            retries_max: settings.retry_max_times,
        };
        let taken = self.take(&pop)?;
        let hold = hold_of(asked.poll_time);
        if taken.is_answer() || hold.is_zero() {
            taken.answer(&pop, &mut turn.replies);
        } else {
            self.hold_pop(pop, hold, turn)?;
        }
        Ok(Answer::Elsewhere)
    }

    /// Waits for messages on behalf of a pop.
    fn hold_pop(self: &Arc<Self>, pop: Pop, hold: Duration, turn: &mut Turn<'_>) -> Result<(), Reply> {
        let (broker, outlet) = (Arc::clone(self), Arc::clone(turn.outlet));
        let Some(held) = self.long_poll.hold(outlet.id) else {
            Taken { full: true, ..self.nothing()? }.answer(&pop, &mut turn.replies);
            return Ok(());
        };
        let counted = self.long_poll.hold_pop(&pop.group, &pop.topic, pop.queue);
        tokio::spawn(async move {
            let _held = (held, counted);
            let mut replies = Replies::default();
            let deadline = Instant::now() + hold;
            let look = || Look::of(broker.take(&pop));
            let place = (&pop.topic, pop.queue);
            let Some((found, _room)) = broker.wait(place, &outlet, deadline, look).await else { return };
            match found {
                Look::Found(taken) | Look::Nothing(taken) => taken.answer(&pop, &mut replies),
                Look::Failed(reply) => replies.push(pop.kind, &reply.header(pop.opaque), &reply.body),
            }
            // A failed send has ended the connection; nobody is left to be told.
            let _ = outlet.send(replies).await;
        });
        Ok(())
    }

    /// Looks until there is something, or the time is over; `None` if the connection ends.
    pub(crate) async fn wait(
        &self,
        (topic, queue): (&TopicName, Option<QueueId>),
        outlet: &Outlet,
        deadline: Instant,
        look: impl Fn() -> Look,
    ) -> Option<(Look, crate::outlet::Room)> {
        let arrivals = match queue {
            Some(queue) => self.long_poll.arrivals(topic, queue),
            None => self.long_poll.arrivals_of(topic),
        };
        let mut closed = outlet.closed();
        loop {
            let arrived = arrivals.notified();
            tokio::pin!(arrived);
            // Listen before looking, or what comes between is missed.
            arrived.as_mut().enable();
            let room = outlet.room(ANSWER_BYTES_MAX).await.ok()?;
            let over = Instant::now() >= deadline;
            let taken = match look() {
                Look::Nothing(taken) if !over => taken,
                found => return Some((found, room)),
            };
            drop(room);
            if taken.again {
                tokio::task::yield_now().await;
                continue;
            }
            let wake = taken.wake.map_or(deadline, |wake| wake.min(deadline));
            tokio::select! {
                () = arrived => {}
                () = tokio::time::sleep_until(wake) => {}
                _ = closed.changed() => return None,
            }
        }
    }

    pub(crate) fn nothing(&self) -> Result<Taken, Reply> {
        Ok(Taken {
            now: Instant::now(),
            pop_time: self.store.now_ms()?,
            handle: self.held.handle(),
            infos: Infos::default(),
            body: Vec::new(),
            messages: 0,
            bytes: 0,
            rest: 0,
            full: false,
            again: false,
            wake: None,
        })
    }

    /// Hands messages out: from all queues each has its turn to be the first.
    fn take(&self, pop: &Pop) -> Result<Taken, Reply> {
        static TURN: AtomicUsize = AtomicUsize::new(0);
        let known = self.store.topic(&pop.topic).ok_or_else(|| no_topic(&pop.topic))?;
        let mut taken = self.nothing()?;
        let mut queues: Vec<QueueId> = match pop.queue {
            Some(queue) => vec![queue],
            None => QueueId::all(known.access.read_queues).collect(),
        };
        let first = TURN.fetch_add(1, Ordering::Relaxed).checked_rem(queues.len()).unwrap_or(0);
        queues.rotate_left(first);
        for queue in queues {
            if taken.messages >= pop.messages_max || taken.bytes >= ANSWER_BYTES_MAX {
                break;
            }
            match self.take_of(pop, queue, &mut taken) {
                // What is taken is held already, and must go out.
                Err(reply) if taken.messages > 0 => {
                    tracing::warn!(topic = %pop.topic, %queue, remark = ?reply.remark, "nothing is popped from a queue");
                    break;
                }
                done => done?,
            }
        }
        Ok(taken)
    }

    /// Hands messages of one queue out: first those whose time is over, then new ones.
    fn take_of(&self, pop: &Pop, queue: QueueId, taken: &mut Taken) -> Result<(), Reply> {
        let Pop { group, topic, .. } = pop;
        let Some((first, end)) = self.store.offsets(topic, queue) else { return Ok(()) };
        let (first, end) = (first.get(), end.get());
        let held = self.held.queue(group, topic, queue);
        let mut held = lock(&held);
        let committed = || self.store.committed_offset(group, topic, queue).map(QueueOffset::get);
        let known = held.next.or_else(committed);
        let begin = || if pop.from_end && !self.is_young(topic, queue) { end } else { first };
        let next = known.unwrap_or_else(begin);
        // Retention may have passed it; and a log that was cut ends before it.
        let next = next.clamp(first, end);
        let mut change = LeaseChange { next, ended: held.below(first, ENDED_MAX), ..LeaseChange::default() };
        if !change.ended.is_empty() {
            let messages = change.ended.len();
            tracing::warn!(%group, %topic, %queue, messages, "retention dropped messages that were not acknowledged");
        }
        let (mut found, mut dead) = (Found::default(), Vec::new());
        let blocked = pop.order && held.last_due().is_some_and(|due| due > taken.now);
        if !blocked {
            dead = self.find_again(pop, queue, &held, &mut change, &mut found, taken)?;
            let left = pop.messages_max.saturating_sub(taken.messages + found.messages);
            let room = held.room();
            let is_free = !pop.order || held.is_empty();
            if is_free && left > 0 && change.next < end {
                match room {
                    0 => taken.full = true,
                    _ => self.find_new(pop, queue, left.min(room), &mut change, &mut found, taken)?,
                }
            }
        }
        held.awaited |= blocked || pop.order && !held.is_empty() || taken.full;
        if known != Some(change.next) || !change.begun.is_empty() || !change.ended.is_empty() {
            if dead.is_empty() {
                self.store.lease(group, topic, queue, &change)?;
            } else {
                self.bury(group, &dead, &With::Lease { group, topic, queue, change: &change })?;
            }
        }
        held.apply(&change, taken.now);
        let due = if pop.order { held.last_due() } else { held.first_due() };
        taken.wake = taken.wake.into_iter().chain(due).min();
        taken.rest += end - change.next;
        let mut offsets: Vec<i64> = change.begun.iter().map(|(offset, _)| *offset).collect();
        offsets.sort_unstable();
        taken.infos.add(topic.as_str(), queue, offsets.into_iter().map(QueueOffset::new));
        taken.messages += found.messages;
        taken.bytes += found.bytes;
        taken.body.append(&mut found.body);
        Ok(())
    }

    /// Messages that were handed out before, and whose time is over. Gives those that are dead letters now, each with
    /// the number of times that it came.
    fn find_again(
        &self,
        pop: &Pop,
        queue: QueueId,
        held: &HeldQueue,
        change: &mut LeaseChange,
        found: &mut Found,
        taken: &Taken,
    ) -> Result<Vec<(Bytes, i32)>, Reply> {
        let mut dead = Vec::new();
        for offset in held.over(taken.now, pop.messages_max - taken.messages) {
            if change.ended.contains(&offset) {
                continue;
            }
            let Some(lease) = held.lease(offset) else { continue };
            let bytes = self.one_record(&pop.topic, queue, offset)?;
            let Some((bytes, record)) =
                bytes.as_ref().and_then(|bytes| Some((bytes, Record::decode(bytes).ok()?)))
            else {
                tracing::warn!(topic = %pop.topic, %queue, offset, "a message is gone before it was consumed");
                change.ended.push(offset);
                continue;
            };
            let times = record.reconsume_times.saturating_add(lease.times);
            if lease.times > pop.retries_max {
                dead.push((bytes.clone(), times));
                change.ended.push(offset);
                continue;
            }
            if taken.messages + found.messages > 0
                && taken.bytes + found.bytes + record.size > ANSWER_BYTES_MAX
            {
                break;
            }
            let mut copy = bytes.get(..record.size).unwrap_or_default().to_vec();
            record::set_reconsume_times(&mut copy, times);
            found.push(copy.into(), 1);
            change.begun.push((offset, taken.lease(pop, lease.times + 1)));
        }
        if found.messages > 0 {
            self.metrics.pulled(found.messages, found.bytes);
        }
        Ok(dead)
    }

    /// Messages that were never handed out.
    fn find_new(
        &self,
        pop: &Pop,
        queue: QueueId,
        messages_max: usize,
        change: &mut LeaseChange,
        found: &mut Found,
        taken: &mut Taken,
    ) -> Result<(), Reply> {
        let bytes_max = ANSWER_BYTES_MAX.saturating_sub(taken.bytes + found.bytes);
        if bytes_max == 0 {
            return Ok(());
        }
        let pull = Pull::of(&pop.topic, queue, change.next, messages_max, bytes_max, pop.wanted.clone());
        let read = if self.first_at(&pull).is_some_and(|at| self.is_cold(at)) {
            tokio::task::block_in_place(|| {
                let read = self.find(&pull)?;
                read.body.iter().for_each(touch);
                Ok::<_, Reply>(read)
            })?
        } else {
            self.find(&pull)?
        };
        change.next = read.next;
        taken.again |= read.code == ResponseCode::PULL_RETRY_IMMEDIATELY;
        for piece in read.body {
            let before = change.begun.len();
            for record in record::records(&piece) {
                let record = record.map_err(|error| {
                    let remark = format!("a record of queue {queue} of topic {}: {error}", pop.topic);
                    Reply::refuse(ResponseCode::SYSTEM_ERROR, remark)
                })?;
                change.begun.push((record.queue_offset, taken.lease(pop, 1)));
            }
            let count = change.begun.len() - before;
            found.push(piece, count);
        }
        Ok(())
    }
}

/// What a look for messages came to.
pub(crate) enum Look {
    /// There are some.
    Found(Taken),
    /// There are none yet.
    Nothing(Taken),
    Failed(Reply),
}

impl Look {
    pub(crate) fn of(looked: Result<Taken, Reply>) -> Self {
        match looked {
            Ok(taken) if taken.is_answer() => Self::Found(taken),
            Ok(taken) => Self::Nothing(taken),
            Err(reply) => Self::Failed(reply),
        }
    }
}

/// Messages of one queue.
#[derive(Default)]
struct Found {
    body: Vec<Bytes>,
    messages: usize,
    bytes: usize,
}

impl Found {
    fn push(&mut self, piece: Bytes, messages: usize) {
        self.bytes += piece.len();
        self.messages += messages;
        self.body.push(piece);
    }
}

impl Taken {
    /// Whether there is something to answer before the time is over.
    pub(crate) fn is_answer(&self) -> bool {
        self.messages > 0 || self.full
    }

    fn lease(&self, pop: &Pop, times: i32) -> Lease {
        let until_ms = self.pop_time.saturating_add(pop.invisible_ms);
        Lease { popped_ms: self.pop_time, handle: self.handle, until_ms, times }
    }

    fn answer<'a>(&'a self, pop: &Pop, replies: &mut Replies) {
        let (code, remark) = match (self.messages, self.full) {
            (1.., _) => (ResponseCode::SUCCESS, "FOUND"),
            (0, true) => (ResponseCode::POLLING_FULL, "POLLING_FULL"),
            (0, false) => (ResponseCode::POLLING_TIMEOUT, "NO_MESSAGE_IN_QUEUE"),
        };
        let some = |text: &'a str| Some(text).filter(|text| !text.is_empty());
        let fields = response::PopMessage {
            pop_time: self.pop_time,
            invisible_time: pop.invisible_ms,
            revive_queue_id: self.handle,
            rest_num: self.rest,
            start_offset_info: some(&self.infos.start_offsets),
            msg_offset_info: some(&self.infos.offsets),
            order_count_info: None,
        };
        let header = Header::response(code, pop.opaque, fields.fields()).with_remark(remark);
        replies.push(pop.kind, &header, &self.body);
    }
}

/// The queue that is asked for; -1 is all of them.
pub(crate) fn queue_of(topic: &TopicName, queues: u32, asked: i32) -> Result<Option<QueueId>, Reply> {
    match asked {
        -1 => Ok(None),
        queue => read_queue(topic, queues, queue).map(Some),
    }
}

/// How long a pop may be held that asks for so many ms.
pub(crate) fn hold_of(poll_ms: i64) -> Duration {
    Duration::from_millis(poll_ms.try_into().unwrap_or(0)).min(HOLD_MAX)
}

/// A time that a message can be held, in ms.
pub(crate) fn invisible(ms: i64) -> Result<i64, Reply> {
    if (0..=INVISIBLE_MAX_MS).contains(&ms) {
        return Ok(ms);
    }
    Err(out_of_range("invisibleTime", ms, 0, INVISIBLE_MAX_MS))
}

pub(crate) fn out_of_range(name: &str, value: i64, min: i64, max: i64) -> Reply {
    Reply::refuse(ResponseCode::INVALID_PARAMETER, format!("{name} is {value}, it can be {min} to {max}"))
}

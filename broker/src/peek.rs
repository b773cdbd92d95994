//! Looks at what there is to pop, by which nobody is handed anything: codes 200052 (the messages), 200054 (tell when there
//! are some) and 200055 (how many pops wait).

use std::sync::Arc;

use bytes::Bytes;
use sluice_protocol::code::ResponseCode;
use sluice_protocol::id::{GroupName, QueueId, QueueOffset, TopicName};
use sluice_protocol::record::{self, Record};
use sluice_protocol::{request, response};
use sluice_store::Error as StoreError;
use tokio::time::Instant;

use crate::broker::Broker;
use crate::dispatch::{Answer, Request, Turn};
use crate::lease::lock;
use crate::outlet::Replies;
use crate::pop::{Look, MESSAGES_MAX, Taken, hold_of, queue_of};
use crate::pull::ANSWER_BYTES_MAX;
use crate::reply::{Reply, no_topic};

/// Who wants to be told when there is something to pop.
struct Asks {
    group: GroupName,
    topic: TopicName,
    /// None for all queues.
    queue: Option<QueueId>,
    order: bool,
}

/// What a peek shows.
#[derive(Default)]
struct Shown {
    body: Vec<Bytes>,
    bytes: usize,
    /// Messages that could be popped, with those that are shown.
    waiting: i64,
}

impl Shown {
    /// Whether one of so many bytes has its place; the first one always has.
    fn has_room(&self, messages_max: usize, bytes: usize) -> bool {
        self.body.len() < messages_max && (self.body.is_empty() || self.bytes + bytes <= ANSWER_BYTES_MAX)
    }

    fn push(&mut self, message: Bytes) {
        self.bytes += message.len();
        self.body.push(message);
    }
}

impl Broker {
    /// Shows what a pop would bring, of every tag; those first whose time is over.
    pub(crate) fn peek(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::PeekMessage::parse(&request.header.fields)?;
        let (group, topic) = (GroupName::new(asked.consumer_group)?, TopicName::new(asked.topic)?);
        let (_, access) = self.readable(&group, &topic)?;
        let queue = queue_of(&topic, access.read_queues, asked.queue_id)?;
        let messages_max = usize::try_from(asked.max_msg_nums.clamp(0, MESSAGES_MAX)).unwrap_or(0);
        let all = QueueId::all(access.read_queues).filter(|id| queue.is_none_or(|only| only == *id));
        let mut shown = Shown::default();
        for queue in all {
            self.peek_at(&group, &topic, queue, messages_max, &mut shown)?;
        }
        let (code, remark) = if shown.body.is_empty() {
            (ResponseCode::PULL_NOT_FOUND, "NO_MESSAGE_IN_QUEUE")
        } else {
            (ResponseCode::SUCCESS, "FOUND")
        };
        let fields = response::PopMessage {
            pop_time: 0,
            invisible_time: 0,
            revive_queue_id: 0,
            rest_num: shown.waiting,
            start_offset_info: None,
            msg_offset_info: None,
            order_count_info: None,
        };
        Ok(Reply { code, remark: Some(remark.into()), body: shown.body, ..Reply::fields(&fields.fields()) })
    }

    fn peek_at(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: QueueId,
        messages_max: usize,
        shown: &mut Shown,
    ) -> Result<(), Reply> {
        let Some((first, end)) = self.store.offsets(topic, queue) else { return Ok(()) };
        let held = self.held.known(group, topic, queue);
        let held = held.as_deref().map(lock);
        let over = held.as_ref().map_or_else(Vec::new, |held| held.over(Instant::now(), usize::MAX));
        let next = held.as_ref().and_then(|held| held.next).map(QueueOffset::new);
        let next = next.or_else(|| self.store.committed_offset(group, topic, queue)).unwrap_or(first);
        let next = next.clamp(first, end);
        shown.waiting += i64::try_from(over.len()).unwrap_or(i64::MAX) + (end.get() - next.get());
        let times = |offset| held.as_ref().and_then(|held| held.lease(offset)).map_or(0, |lease| lease.times);
        for (offset, times) in over.into_iter().map(|offset| (offset, times(offset))) {
            if !shown.has_room(messages_max, 0) {
                return Ok(());
            }
            let Some(bytes) = self.one_record(topic, queue, offset)? else { continue };
            let Ok(record) = Record::decode(&bytes) else { continue };
            if !shown.has_room(messages_max, record.size) {
                return Ok(());
            }
            let mut copy = bytes.get(..record.size).unwrap_or_default().to_vec();
            record::set_reconsume_times(&mut copy, record.reconsume_times.saturating_add(times));
            shown.push(copy.into());
        }
        let left = messages_max.saturating_sub(shown.body.len());
        if left == 0 || next == end {
            return Ok(());
        }
        let read = match self.store.read_records(topic, queue, next, ANSWER_BYTES_MAX, left) {
            // Retention passed it meanwhile.
            Err(StoreError::Expired { .. }) => return Ok(()),
            read => read?,
        };
        for run in read.runs {
            let mut at = 0;
            for record in record::records(&run.bytes).map_while(Result::ok) {
                if !shown.has_room(messages_max, record.size) {
                    return Ok(());
                }
                shown.push(run.bytes.slice(at..at + record.size));
                at += record.size;
            }
        }
        Ok(())
    }

    /// The record at a queue offset, if retention left it.
    pub(crate) fn one_record(
        &self,
        topic: &TopicName,
        queue: QueueId,
        offset: i64,
    ) -> Result<Option<Bytes>, Reply> {
        match self.store.read_records(topic, queue, QueueOffset::new(offset), 1, 1) {
            Ok(read) => Ok(read.runs.into_iter().next().map(|run| run.bytes)),
            Err(StoreError::Expired { .. } | StoreError::BeyondEnd { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells how many pops of a group wait at a queue, or with -1 how many wait at all of them at once.
    pub(crate) fn polling_info(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::PollingInfo::parse(&request.header.fields)?;
        let (group, topic) = (GroupName::new(asked.consumer_group)?, TopicName::new(asked.topic)?);
        let (_, access) = self.readable(&group, &topic)?;
        let queue = queue_of(&topic, access.read_queues, asked.queue_id)?;
        let count = self.long_poll.held_pops(&group, &topic, queue);
        let polling_num = i32::try_from(count).unwrap_or(i32::MAX);
        Ok(Reply::fields(&response::PollingInfo { polling_num }.fields()))
    }

    /// Tells when there is something to pop, whatever filter it is popped with.
    pub(crate) fn notification(
        self: &Arc<Self>,
        request: &Request<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Reply> {
        let asked = request::Notification::parse(&request.header.fields)?;
        let (group, topic) = (GroupName::new(asked.consumer_group)?, TopicName::new(asked.topic)?);
        let (_, access) = self.readable(&group, &topic)?;
        let queue = queue_of(&topic, access.read_queues, asked.queue_id)?;
        let (kind, opaque) = (request.kind, request.header.opaque);
        let asks = Asks { group, topic, queue, order: asked.order.unwrap_or(false) };
        let answer = |has_msg, polling_full| {
            let fields = response::Notification { has_msg, polling_full };
            Reply::fields(&fields.fields())
        };
        let hold = hold_of(asked.poll_time);
        let seen = self.look(&asks)?;
        if seen.is_answer() || hold.is_zero() {
            return Ok(answer(seen.is_answer(), false).into());
        }
        let Some(held) = self.long_poll.hold(turn.outlet.id) else { return Ok(answer(false, true).into()) };
        let (broker, outlet) = (Arc::clone(self), Arc::clone(turn.outlet));
        tokio::spawn(async move {
            let _held = held;
            let deadline = Instant::now() + hold;
            let look = || Look::of(broker.look(&asks));
            let place = (&asks.topic, asks.queue);
            let Some((found, _room)) = broker.wait(place, &outlet, deadline, look).await else { return };
            let reply = match found {
                Look::Found(_) => answer(true, false),
                Look::Nothing(_) => answer(false, false),
                Look::Failed(reply) => reply,
            };
            let mut replies = Replies::default();
            replies.push(kind, &reply.header(opaque), &reply.body);
            // A failed send has ended the connection; nobody is left to be told.
            let _ = outlet.send(replies).await;
        });
        Ok(Answer::Elsewhere)
    }

    /// Whether there is something to pop: counted, and nothing handed out.
    fn look(&self, asks: &Asks) -> Result<Taken, Reply> {
        let known = self.store.topic(&asks.topic).ok_or_else(|| no_topic(&asks.topic))?;
        let mut seen = self.nothing()?;
        let all = QueueId::all(known.access.read_queues);
        for queue in all.filter(|queue| asks.queue.is_none_or(|only| only == *queue)) {
            let Some((first, end)) = self.store.offsets(&asks.topic, queue) else { continue };
            let held = self.held.known(&asks.group, &asks.topic, queue);
            let held = held.as_deref().map(lock);
            let next = held.as_ref().and_then(|held| held.next).map(QueueOffset::new);
            let next = next
                .or_else(|| self.store.committed_offset(&asks.group, &asks.topic, queue))
                .unwrap_or(first);
            let due =
                held.as_ref().and_then(|held| if asks.order { held.last_due() } else { held.first_due() });
            let over = due.is_some_and(|due| due <= seen.now);
            let blocked = asks.order && due.is_some() && !over;
            seen.messages += usize::from(over || next < end && !blocked);
            seen.wake = seen.wake.into_iter().chain(due).min();
        }
        Ok(seen)
    }
}

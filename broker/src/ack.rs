//! What becomes of popped messages: acknowledged one by one or together, or to come sooner or later than was said;
//! codes 200051, 200053 and 200151.

use sluice_protocol::code::ResponseCode;
use sluice_protocol::id::{GroupName, QueueId, TopicName};
use sluice_protocol::pop::{BatchAck, ExtraInfo, real_topic};
use sluice_protocol::{request, response};
use sluice_store::{Lease, LeaseChange, Ticket};
use tokio::time::Instant;

use crate::broker::Broker;
use crate::dispatch::{Answer, Request, Turn};
use crate::lease::{HeldQueue, lock};
use crate::pop::{ENDED_MAX, invisible, out_of_range};
use crate::reply::{Reply, no_topic};
use crate::send::illegal;

/// Offsets of one request that acknowledges several.
const ACKS_MAX: usize = 100_000;

impl Broker {
    /// A message is consumed.
    pub(crate) fn ack(&self, request: &Request<'_>, turn: &mut Turn<'_>) -> Result<Answer, Reply> {
        let asked = request::AckMessage::parse(&request.header.fields)?;
        let (group, topic) = (GroupName::new(asked.consumer_group)?, TopicName::new(asked.topic)?);
        let info = extra_info(asked.extra_info)?;
        let queue = self.queue_of_ack(&topic, asked.queue_id, asked.offset)?;
        let ticket = self.end_leases(&group, &topic, queue, info, [asked.offset].into_iter())?;
        Ok(turn.when_durable(self, request, ticket))
    }

    /// Messages are consumed. What of them can not be, its client hears nothing of, as from `RocketMQ`'s broker: it comes
    /// again.
    pub(crate) fn batch_ack(&self, request: &Request<'_>, turn: &mut Turn<'_>) -> Result<Answer, Reply> {
        let asked = BatchAck::decode(request.body)?;
        let count: usize = asked.acks.iter().map(|ack| ack.bits.iter().count()).sum();
        if count > ACKS_MAX {
            return Err(out_of_range(
                "acknowledgements",
                i64::try_from(count).unwrap_or(i64::MAX),
                0,
                100_000,
            ));
        }
        let mut last = None;
        for ack in &asked.acks {
            let (group, topic) = (
                GroupName::new(&ack.consumer_group)?,
                real_topic(&ack.topic, &ack.consumer_group, &ack.kind),
            );
            let topic = TopicName::stored(&topic)?;
            let info = ExtraInfo { pop_time: ack.pop_time, revive_queue_id: ack.revive_queue_id };
            let Ok(queue) = self.queue_of_ack(&topic, ack.queue_id, ack.start_offset) else { continue };
            let bits = ack.bits.iter().filter_map(|bit| i64::try_from(bit).ok());
            let offsets = bits.map(|bit| ack.start_offset.saturating_add(bit));
            last = last.max(self.end_leases(&group, &topic, queue, info, offsets)?);
        }
        Ok(turn.when_durable(self, request, last))
    }

    /// Ends the leases of some offsets that one answer gave; those that were handed out again since are passed over.
    fn end_leases(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: QueueId,
        info: ExtraInfo,
        offsets: impl Iterator<Item = i64>,
    ) -> Result<Option<Ticket>, Reply> {
        let Some(held) = self.held.known(group, topic, queue) else { return Ok(None) };
        let mut held = lock(&held);
        let mine: Vec<i64> =
            offsets.filter(|offset| held.lease(*offset).is_some_and(|lease| is_of(&lease, info))).collect();
        let mut last = None;
        for ended in mine.chunks(ENDED_MAX) {
            let next = held.next.unwrap_or_default();
            let change = LeaseChange { next, ended: ended.to_vec(), ..LeaseChange::default() };
            last = Some(self.store.lease(group, topic, queue, &change)?);
            held.apply(&change, Instant::now());
        }
        self.tell_waiting(&mut held, topic, queue);
        Ok(last)
    }

    /// Who got nothing because others held it looks again.
    fn tell_waiting(&self, held: &mut HeldQueue, topic: &TopicName, queue: QueueId) {
        if std::mem::take(&mut held.awaited) {
            self.long_poll.arrived(topic, queue);
        }
    }

    /// A message shall come again after another time: sooner or later than was said.
    pub(crate) fn change_invisible_time(
        &self,
        request: &Request<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Reply> {
        let asked = request::ChangeInvisibleTime::parse(&request.header.fields)?;
        let (group, topic) = (GroupName::new(asked.consumer_group)?, TopicName::new(asked.topic)?);
        let info = extra_info(asked.extra_info)?;
        let invisible_time = invisible(asked.invisible_time)?;
        let queue = self.queue_of_ack(&topic, asked.queue_id, asked.offset)?;
        let held = self.held.known(&group, &topic, queue);
        let mut held = held.as_deref().map(lock);
        let lease =
            held.as_ref().and_then(|held| held.lease(asked.offset)).filter(|lease| is_of(lease, info));
        let (Some(held), Some(lease)) = (&mut held, lease) else {
            let remark = format!(
                "the message at offset {} was acknowledged, or another one got it since its time was over",
                asked.offset
            );
            return Err(Reply::refuse(ResponseCode::NO_MESSAGE, remark));
        };
        let popped_ms = self.store.now_ms()?;
        let (handle, until_ms) = (self.held.handle(), popped_ms.saturating_add(invisible_time));
        let change = LeaseChange {
            next: held.next.unwrap_or_default(),
            begun: vec![(asked.offset, Lease { popped_ms, handle, until_ms, ..lease })],
            ended: Vec::new(),
        };
        let ticket = self.store.lease(&group, &topic, queue, &change)?;
        held.apply(&change, Instant::now());
        held.awaited = false;
        // It may come sooner than those who wait expect.
        self.long_poll.arrived(&topic, queue);
        let fields =
            response::ChangeInvisibleTime { pop_time: popped_ms, invisible_time, revive_queue_id: handle };
        Ok(turn.reply_when_durable(self, request, Some(ticket), Reply::fields(&fields.fields())))
    }

    /// The queue of an acknowledgement; refuses one for no message.
    fn queue_of_ack(&self, topic: &TopicName, queue: i32, offset: i64) -> Result<QueueId, Reply> {
        let known = self.store.topic(topic).ok_or_else(|| no_topic(topic))?;
        let id = QueueId::new(queue).ok();
        let Some((id, (first, end))) = id.and_then(|id| Some((id, self.store.offsets(topic, id)?))) else {
            let queues = known.queues;
            return Err(illegal(format!(
                "topic {topic} has {queues} queues, there is none with number {queue}"
            )));
        };
        if offset < first.get() || offset >= end.get() {
            let remark =
                format!("queue {queue} of topic {topic} holds offsets {first} to {end}, and not {offset}");
            return Err(Reply::refuse(ResponseCode::NO_MESSAGE, remark));
        }
        Ok(id)
    }
}

/// Whether an acknowledgement is of this lease, and not of one before.
fn is_of(lease: &Lease, info: ExtraInfo) -> bool {
    (lease.popped_ms, lease.handle) == (info.pop_time, info.revive_queue_id)
}

fn extra_info(text: &str) -> Result<ExtraInfo, Reply> {
    ExtraInfo::parse(text).ok_or_else(|| {
        let text: String = text.chars().take(100).collect();
        illegal(format!("extraInfo {text:?} is not what a pop gave"))
    })
}

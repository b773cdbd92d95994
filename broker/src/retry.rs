//! Messages that could not be consumed: code 36, the retry topic of a group with its rising delays, and its dead
//! letters.

use bytes::Bytes;
use sluice_protocol::code::ResponseCode;
use sluice_protocol::id::{GroupName, LogOffset, TopicName};
use sluice_protocol::message::{self, DELAY, Message, ORIGIN_MESSAGE_ID, RETRY_TOPIC, WAIT};
use sluice_protocol::message_id::MessageId;
use sluice_protocol::record::Record;
use sluice_protocol::request;
use sluice_protocol::topic::{DLQ_PREFIX, RETRY_PREFIX};
use sluice_store::{Access, Batch, QUEUES_MAX, With};
use tokio::time::Instant;

use crate::access::Act;
use crate::broker::Broker;
use crate::dispatch::{Answer, Request, Turn};
use crate::reply::{Reply, no_group};
use crate::send::{illegal, pick_queue};

/// Where no level is asked for, the first retry has this one and each further one the next.
const FIRST_LEVEL: i32 = 3;

impl Broker {
    /// Takes a message back that a group could not consume.
    pub(crate) fn send_back(&self, request: &Request<'_>, turn: &mut Turn<'_>) -> Result<Answer, Reply> {
        let back = request::ConsumerSendMsgBack::parse(&request.header.fields)?;
        let group = GroupName::new(back.group)?;
        let settings = self.groups.settings(&group).ok_or_else(|| no_group(&group))?;
        let Ok(queues @ 1..) = u32::try_from(settings.retry_queue_nums) else {
            return Ok(Reply::ok().into());
        };
        let at = u64::try_from(back.offset).ok().map(LogOffset::new);
        let Some(bytes) = at.and_then(|at| self.store.record(at)) else {
            let remark = format!("no message stands at log offset {}", back.offset);
            return Err(Reply::refuse(ResponseCode::SYSTEM_ERROR, remark));
        };
        let record = Record::decode(&bytes).map_err(|error| {
            let remark = format!("the record at log offset {}: {error}", back.offset);
            Reply::refuse(ResponseCode::SYSTEM_ERROR, remark)
        })?;
        self.permit_record(request, turn.outlet.peer, Act::Subscribe, &record)?;
        let max = back.max_reconsume_times.unwrap_or(settings.retry_max_times);
        let dead = record.reconsume_times >= max || back.delay_level < 0;
        let level = match back.delay_level {
            _ if dead => 0,
            0 => FIRST_LEVEL.saturating_add(record.reconsume_times),
            level => level,
        };
        let (topic, queues) = if dead { (DLQ_PREFIX, 1) } else { (RETRY_PREFIX, queues.min(QUEUES_MAX)) };
        let topic = TopicName::stored(&format!("{topic}{group}"))?;
        let access = self.topic_or_make(&topic, Access::all(queues))?;
        let mut properties = sent_back(&record, level).map_err(|error| illegal(error.to_string()))?;
        let place = (topic.clone(), pick_queue(&topic, access, -1)?);
        let place = self.divert(&place, &mut properties)?.unwrap_or(place);
        let message = Message {
            properties: &properties,
            store_host: self.host,
            reconsume_times: record.reconsume_times.saturating_add(1),
            ..record.message()
        };
        let mut batch = Batch::new();
        batch.push(&place.0, place.1, &message)?;
        turn.store(self, request, batch, vec![place]).map(|(answer, _)| answer)
    }

    /// Puts messages to a group's dead letters that came too often, each with the number of times, and ends with it that
    /// the group holds them.
    pub(crate) fn bury(
        &self,
        group: &GroupName,
        messages: &[(Bytes, i32)],
        end: &With<'_>,
    ) -> Result<(), Reply> {
        let topic = TopicName::stored(&format!("{DLQ_PREFIX}{group}"))?;
        let access = self.topic_or_make(&topic, Access::all(1))?;
        let queue = pick_queue(&topic, access, -1)?;
        let mut batch = Batch::new();
        for (bytes, times) in messages {
            let record = Record::decode(bytes).map_err(|error| illegal(error.to_string()))?;
            let properties = sent_back(&record, 0).map_err(|error| illegal(error.to_string()))?;
            let message = Message {
                properties: &properties,
                store_host: self.host,
                reconsume_times: *times,
                ..record.message()
            };
            batch.push(&topic, queue, &message)?;
        }
        let (_, ticket) = self.store.append_with(batch, end)?;
        if self.sync {
            tokio::task::block_in_place(|| self.store.durable(ticket))?;
        }
        self.long_poll.arrived(&topic, queue);
        tracing::info!(%group, messages = messages.len(), "messages came too often and are dead letters");
        Ok(())
    }

    /// The topic of dead letters, if a message that a client itself sends to a retry topic belongs there.
    pub(crate) fn dead_letter_topic(
        &self,
        send: &request::SendMessage<'_>,
    ) -> Result<Option<TopicName>, Reply> {
        let Some(group) = send.topic.strip_prefix(RETRY_PREFIX) else { return Ok(None) };
        let group = GroupName::new(group)?;
        let settings = self.groups.settings(&group).ok_or_else(|| no_group(&group))?;
        let max = send.max_reconsume_times.unwrap_or(settings.retry_max_times);
        // A group that consumes in order sends only what it gave up, and nothing must come back out of order.
        if send.reconsume_times.unwrap_or(0) <= max && !self.groups.locks.are_held(&group, Instant::now()) {
            return Ok(None);
        }
        Ok(Some(TopicName::stored(&format!("{DLQ_PREFIX}{group}"))?))
    }
}

/// The properties of a message that comes back, with the delay level that it gets.
fn sent_back(record: &Record<'_>, level: i32) -> Result<Vec<u8>, message::PropertyError> {
    let mut properties = record.properties.to_vec();
    if message::property(&properties, RETRY_TOPIC).is_none() {
        message::push_property(&mut properties, RETRY_TOPIC, record.topic)?;
    }
    if message::property(&properties, ORIGIN_MESSAGE_ID).is_none() {
        let log_offset = LogOffset::new(record.log_offset);
        let id = MessageId { store_host: record.store_host, log_offset };
        message::push_property(&mut properties, ORIGIN_MESSAGE_ID, &id.to_string())?;
    }
    message::set_property(&mut properties, WAIT, "false")?;
    message::set_property(&mut properties, DELAY, &level.to_string())?;
    Ok(properties)
}

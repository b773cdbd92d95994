//! Messages by key or unique id: code 12.

use sluice_protocol::code::ResponseCode;
use sluice_protocol::id::TopicName;
use sluice_protocol::record::Record;
use sluice_protocol::{request, response};

use crate::broker::Broker;
use crate::dispatch::{Answer, Request, Turn};
use crate::outlet::Replies;
use crate::reply::Reply;

/// Messages of one answer, as `RocketMQ` 5.3.3 gives.
const FOUND_MAX: i32 = 64;
/// The same for a unique id, whatever was asked for.
const UNIQUE_MAX: i32 = 32;
/// A time so far in the past or future is no limit, in ms since 1970-01-01 UTC: the index counts seconds of 31 bits.
const TIMES: std::ops::RangeInclusive<i64> = 0..=i64::MAX / 2;

impl Broker {
    /// Looks messages up, which may wait for the disk, so another thread answers.
    pub(crate) fn query_message(
        self: &std::sync::Arc<Self>,
        request: &Request<'_>,
        turn: &Turn<'_>,
    ) -> Result<Answer, Reply> {
        let asked = request::QueryMessage::parse(&request.header.fields)?;
        let topic = TopicName::new(asked.topic)?;
        let max = if asked.unique_key.unwrap_or(false) { UNIQUE_MAX } else { asked.max_num };
        let max = usize::try_from(max.clamp(0, FOUND_MAX)).unwrap_or(0);
        let time = |ms: i64| ms.clamp(*TIMES.start(), *TIMES.end());
        let (from, to) = (time(asked.begin_timestamp), time(asked.end_timestamp));
        let (broker, outlet) = (std::sync::Arc::clone(self), std::sync::Arc::clone(turn.outlet));
        let (key, kind, opaque) = (asked.key.to_owned(), request.kind, request.header.opaque);
        tokio::task::spawn_blocking(move || {
            let reply = broker.by_key(&topic, &key, max, from, to).unwrap_or_else(|reply| reply);
            let mut replies = Replies::default();
            replies.push(kind, &reply.header(opaque), &reply.body);
            // A failed send has ended the connection; nobody is left to be told.
            tokio::spawn(async move { outlet.send(replies).await });
        });
        Ok(Answer::Elsewhere)
    }

    fn by_key(&self, topic: &TopicName, key: &str, max: usize, from: i64, to: i64) -> Result<Reply, Reply> {
        let found = self.store.records_by_key(topic, key, max, from, to)?;
        let Some(last) = found.last().and_then(|bytes| Record::decode(bytes).ok()) else {
            let remark = format!("topic {topic} has no message with key {key:?} of that time");
            return Err(Reply::refuse(ResponseCode::QUERY_NOT_FOUND, remark));
        };
        let fields = response::QueryMessage {
            index_last_update_timestamp: last.store_timestamp_ms,
            index_last_update_phyoffset: i64::try_from(last.log_offset).unwrap_or(i64::MAX),
        };
        let fields = Reply::fields(&fields.fields());
        Ok(Reply { body: found, ..fields })
    }
}

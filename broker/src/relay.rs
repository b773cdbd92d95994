//! Requests that the broker hands on to a client, whose answer it hands back: codes 307 and 309; and replies to
//! requests among producers and consumers: codes 324 to 326.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::fields::Fields;
use sluice_protocol::id::GroupName;
use sluice_protocol::message::{property, push_property};
use sluice_protocol::message_id::MessageId;
use sluice_protocol::request;

use crate::broker::Broker;
use crate::dispatch::{Answer, Request, Turn};
use crate::outlet::Replies;
use crate::reply::Reply;
use crate::send::illegal;

/// A client that has not answered after so long is not waited for.
const ANSWER_MAX: Duration = Duration::from_secs(10);

impl Broker {
    /// Hands an administrator's request on to a client of a consumer group.
    pub(crate) fn relay(&self, request: &Request<'_>, turn: &Turn<'_>) -> Result<Answer, Reply> {
        let asked = request::ToConsumer::parse(&request.header.fields)?;
        let group = GroupName::new(asked.consumer_group)?;
        let client = asked.client_id.and_then(|id| self.groups.consumer(&group, id));
        let Some(client) = client else {
            let id = asked.client_id.unwrap_or_default();
            let remark = format!("no client {id:?} of group {group} is there");
            return Err(Reply::refuse(ResponseCode::SYSTEM_ERROR, remark));
        };
        let body = asked.msg_id.map(|id| self.by_message_id(id)).transpose()?;
        let mut fields = Fields::new();
        for (name, value) in request.header.fields.iter() {
            fields.push(name.to_owned(), value.to_owned());
        }
        let (code, kind, opaque) = (request.header.request_code(), request.kind, request.header.opaque);
        let outlet = Arc::clone(turn.outlet);
        tokio::spawn(async move {
            let asking = client.call(code, fields, body.as_slice(), ANSWER_MAX).await;
            let reply = asking.unwrap_or_else(|| {
                let remark = format!("the client did not answer within {} s", ANSWER_MAX.as_secs());
                Reply::refuse(ResponseCode::CONSUME_MSG_TIMEOUT, remark)
            });
            let mut replies = Replies::default();
            replies.push(kind, &reply.header(opaque), &reply.body);
            // A failed send has ended the connection; nobody is left to be told.
            let _ = outlet.send(replies).await;
        });
        Ok(Answer::Elsewhere)
    }

    /// The record that a message id names.
    fn by_message_id(&self, id: &str) -> Result<Bytes, Reply> {
        let id: MessageId = id.parse().map_err(|error: sluice_protocol::message_id::MessageIdError| {
            Reply::refuse(ResponseCode::INVALID_PARAMETER, error.to_string())
        })?;
        self.store.record(id.log_offset).ok_or_else(|| {
            let remark = format!("no message stands at log offset {}", id.log_offset);
            Reply::refuse(ResponseCode::SYSTEM_ERROR, remark)
        })
    }

    /// Hands a reply to the producer that waits for it. What it sends is stored after that as any message.
    pub(crate) fn push_reply(&self, request: &Request<'_>, turn: &Turn<'_>) -> Result<(), Reply> {
        let send = request::SendMessage::parse(&request.header.fields)?;
        let mut properties = send.properties.unwrap_or_default().as_bytes().to_vec();
        let refuse = |remark: String| Reply::refuse(ResponseCode::SYSTEM_ERROR, remark);
        let client_id = property(&properties, "REPLY_TO_CLIENT")
            .ok_or_else(|| refuse("a reply needs the property REPLY_TO_CLIENT".to_owned()))?;
        let client = self.groups.producer_client(client_id);
        let client = client.ok_or_else(|| refuse(format!("client {client_id:?} waits for no reply here")))?;
        let now = self.store.now_ms()?;
        push_property(&mut properties, "PUSH_REPLY_TIME", &now.to_string())
            .map_err(|error| illegal(error.to_string()))?;
        let properties = String::from_utf8_lossy(&properties);
        let (born_host, store_host) = (turn.outlet.peer.to_string(), self.host.to_string());
        let push = request::PushReply {
            producer_group: send.producer_group,
            topic: send.topic,
            default_topic: send.default_topic,
            default_topic_queue_nums: send.default_topic_queue_nums,
            queue_id: send.queue_id,
            sys_flag: send.sys_flag,
            born_timestamp: send.born_timestamp,
            flag: send.flag,
            properties: Some(&properties),
            reconsume_times: send.reconsume_times,
            unit_mode: send.unit_mode,
            born_host: &born_host,
            store_host: &store_host,
            store_timestamp: now,
        };
        let mut fields = Fields::new();
        for (name, value) in push.fields().iter() {
            fields.push(name.to_owned(), value.to_owned());
        }
        let body = [Bytes::copy_from_slice(request.body)];
        tokio::spawn(async move {
            let code = RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT;
            if client.call(code, fields, &body, ANSWER_MAX).await.is_none() {
                tracing::debug!(peer = %client.peer, "a reply was not taken");
            }
        });
        Ok(())
    }
}

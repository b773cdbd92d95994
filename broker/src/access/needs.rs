//! What each request needs to be permitted: the one table.
//!
//! A code that does not stand here is for administrators, so that a new one is closed until it is thought of. Where a
//! request names a message by its place in the log alone, the handler asks again for the topic that it finds there.

use sluice_protocol::code::RequestCode as C;
use sluice_protocol::fields::FieldError;
use sluice_protocol::heartbeat::{CheckClientConfig, Heartbeat};
use sluice_protocol::json::JsonError;
use sluice_protocol::pop::{BatchAck, QueryAssignment};
use sluice_protocol::queue::LockBatch;
use sluice_protocol::request;

use super::{Act, Caller, Denied};
use crate::dispatch::{Request, is_reply};
use crate::reply::Reply;

/// Why a request is not done.
pub(crate) enum No {
    /// It is not permitted.
    Denied(Denied),
    /// What it needs can not be told.
    Unreadable(Reply),
}

impl From<Denied> for No {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl From<FieldError> for No {
    fn from(error: FieldError) -> Self {
        Self::Unreadable(error.into())
    }
}

impl From<JsonError> for No {
    fn from(error: JsonError) -> Self {
        Self::Unreadable(error.into())
    }
}

/// Whether everybody may ask that, signed or not: where a topic is. As from `RocketMQ`'s name servers, so that a client
/// without the right keys hears why from the broker, and not that there is no such topic.
pub(crate) fn is_open(code: C) -> bool {
    code == C::GET_ROUTEINFO_BY_TOPIC
}

/// Whether a caller may ask that. An account that may not is told what is missing.
#[expect(clippy::too_many_lines, clippy::match_same_arms, reason = "it is a table, in groups")]
pub(crate) fn check(caller: &Caller, request: &Request<'_>) -> Result<(), No> {
    if caller.limited().is_none() {
        return Ok(());
    }
    let fields = &request.header.fields;
    let code = request.header.request_code();
    match code {
        // Sends: PUB of the topic; SUB of the group where a consumer itself gives a message back.
        C::SEND_MESSAGE | C::SEND_MESSAGE_V2 | C::SEND_BATCH_MESSAGE => {
            caller.may(Act::Publish, request::SendMessage::parse(fields)?.topic)?;
        }
        // Replies go to who asked, by a topic that all consumers write.
        code if is_reply(code) => {
            let topic = request::SendMessage::parse(fields)?.topic;
            if !topic.ends_with("_REPLY_TOPIC") {
                caller.may(Act::Publish, topic)?;
            }
        }
        C::RECALL_MESSAGE => caller.may(Act::Publish, request::RecallMessage::parse(fields)?.topic)?,
        // The topic is that of the half, which the handler looks at.
        C::END_TRANSACTION => {}

        // Reading: SUB of the topic and of the group.
        C::PULL_MESSAGE | C::LITE_PULL_MESSAGE => {
            let pull = request::PullMessage::parse(fields)?;
            caller.may_consume(pull.topic, pull.consumer_group)?;
        }
        C::POP_MESSAGE => {
            let pop = request::PopMessage::parse(fields)?;
            caller.may_consume(pop.topic, pop.consumer_group)?;
        }
        C::ACK_MESSAGE => {
            let ack = request::AckMessage::parse(fields)?;
            caller.may_consume(ack.topic, ack.consumer_group)?;
        }
        C::BATCH_ACK_MESSAGE => {
            for ack in &BatchAck::decode(request.body)?.acks {
                caller.may_consume(&ack.topic, &ack.consumer_group)?;
            }
        }
        C::CHANGE_MESSAGE_INVISIBLETIME => {
            let change = request::ChangeInvisibleTime::parse(fields)?;
            caller.may_consume(change.topic, change.consumer_group)?;
        }
        C::PEEK_MESSAGE => {
            let asked = request::PeekMessage::parse(fields)?;
            caller.may_consume(asked.topic, asked.consumer_group)?;
        }
        C::POLLING_INFO => {
            let asked = request::PollingInfo::parse(fields)?;
            caller.may_consume(asked.topic, asked.consumer_group)?;
        }
        C::NOTIFICATION => {
            let asked = request::Notification::parse(fields)?;
            caller.may_consume(asked.topic, asked.consumer_group)?;
        }
        C::QUERY_ASSIGNMENT => {
            let asked = QueryAssignment::decode(request.body)?;
            caller.may_consume(&asked.topic, &asked.consumer_group)?;
        }
        C::QUERY_CONSUMER_OFFSET => {
            let asked = request::QueryConsumerOffset::parse(fields)?;
            caller.may_consume(asked.topic, asked.consumer_group)?;
        }
        C::UPDATE_CONSUMER_OFFSET => {
            let asked = request::UpdateConsumerOffset::parse(fields)?;
            caller.may_consume(asked.topic, asked.consumer_group)?;
        }
        C::QUERY_MESSAGE => caller.may(Act::Subscribe, request::QueryMessage::parse(fields)?.topic)?,
        C::QUERY_CONSUME_QUEUE => {
            caller.may(Act::Subscribe, request::QueryConsumeQueue::parse(fields)?.topic)?;
        }
        // The handler looks at the message's topic.
        C::VIEW_MESSAGE_BY_ID => {}
        C::CONSUMER_SEND_MSG_BACK => caller.may_join(request::ConsumerSendMsgBack::parse(fields)?.group)?,

        // Members of a group: SUB of it, and of what they subscribe to.
        C::HEART_BEAT => {
            let heartbeat = Heartbeat::decode(request.body)?;
            for consumer in &heartbeat.consumer_data_set {
                caller.may_join(&consumer.group_name)?;
                for subscription in &consumer.subscription_data_set {
                    caller.may_consume(&subscription.topic, &consumer.group_name)?;
                }
            }
        }
        C::UNREGISTER_CLIENT => {
            if let Some(group) = request::UnregisterClient::parse(fields)?.consumer_group {
                caller.may_join(group)?;
            }
        }
        C::CHECK_CLIENT_CONFIG => {
            let asked = CheckClientConfig::decode(request.body)?;
            caller.may_consume(&asked.subscription_data.topic, &asked.group)?;
        }
        C::LOCK_BATCH_MQ | C::UNLOCK_BATCH_MQ => {
            let asked = LockBatch::decode(request.body)?;
            caller.may_join(&asked.consumer_group)?;
            for queue in &asked.mq_set {
                caller.may_consume(&queue.topic, &asked.consumer_group)?;
            }
        }
        C::GET_CONSUMER_LIST_BY_GROUP => {
            caller.may_join(request::GetConsumerList::parse(fields)?.consumer_group)?;
        }
        C::GET_CONSUMER_CONNECTION_LIST => {
            caller.may_join(request::GetConsumerConnection::parse(fields)?.consumer_group)?;
        }
        C::GET_CONSUMER_RUNNING_INFO => {
            caller.may_join(request::ToConsumer::parse(fields)?.consumer_group)?;
        }
        C::GET_CONSUME_STATS => caller.may_join(request::GetConsumeStats::parse(fields)?.consumer_group)?,
        C::GET_SUBSCRIPTIONGROUP_CONFIG => {
            caller.may_join(request::GetSubscriptionGroupConfig::parse(fields)?.group)?;
        }
        C::QUERY_TOPICS_BY_CONSUMER | C::QUERY_SUBSCRIPTION_BY_CONSUMER => {
            caller.may_join(request::QuerySubscription::parse(fields)?.group)?;
        }
        C::QUERY_CONSUME_TIME_SPAN => {
            let asked = request::QueryConsumeTimeSpan::parse(fields)?;
            caller.may_consume(asked.topic, asked.group)?;
        }

        // About a topic: PUB or SUB of it.
        C::GET_MAX_OFFSET => caller.may(Act::Inspect, request::GetMaxOffset::parse(fields)?.topic)?,
        C::GET_MIN_OFFSET => caller.may(Act::Inspect, request::GetMinOffset::parse(fields)?.topic)?,
        C::SEARCH_OFFSET_BY_TIMESTAMP => {
            caller.may(Act::Inspect, request::SearchOffset::parse(fields)?.topic)?;
        }
        C::GET_EARLIEST_MSG_STORETIME => {
            caller.may(Act::Inspect, request::GetEarliestMsgStoreTime::parse(fields)?.topic)?;
        }
        C::GET_TOPIC_CONFIG | C::GET_TOPIC_STATS_INFO | C::QUERY_TOPIC_CONSUME_BY_WHO => {
            caller.may(Act::Inspect, request::TopicOnly::parse(fields)?.topic)?;
        }

        // What every client needs to find its way: a signature alone.
        C::GET_ROUTEINFO_BY_TOPIC
        | C::GET_BROKER_CLUSTER_INFO
        | C::GET_ALL_TOPIC_LIST_FROM_NAMESERVER
        | C::GET_TOPICS_BY_CLUSTER
        | C::GET_KV_CONFIG
        | C::GET_KVLIST_BY_NAMESPACE
        | C::GET_SYSTEM_TOPIC_LIST_FROM_BROKER => {}

        // Nobody takes it; tools try such codes, and go on when they hear so.
        code if code.name().is_none() => {}
        code => caller.may_administrate(code.name().unwrap_or("this"))?,
    }
    Ok(())
}

//! The audit log: what administrators changed and who was denied, each a message in a topic of the broker's own.
//!
//! Nobody can send to that topic; it is read as any other. A message's body is a JSON object:
//!
//! | member      | meaning                                                                        |
//! |-------------|--------------------------------------------------------------------------------|
//! | `time_ms`   | when, in ms since 1970-01-01 UTC                                               |
//! | `action`    | `RocketMQ`'s name of the request code, `RELOAD_ACCOUNTS` or `RELOAD_CERTIFICATE` |
//! | `user`      | the access key; of a denied request the one that it claims; else null          |
//! | `client`    | the client's address and port; null if it was this process                     |
//! | `arguments` | header fields and body of the request, without signatures and values of settings |
//! | `outcome`   | `RocketMQ`'s name of the response code                                         |
//! | `remark`    | why it was refused, or null                                                    |
//! | `others`    | denials of the same client before it that were left out                        |
//!
//! The action is the message's tag, and action, user and outcome are properties, so that filters find them; topic or
//! group is its key.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::id::QueueId;
use sluice_protocol::message::{self, KEYS, Message, TAGS, UNIQ_KEY};
use sluice_protocol::signature::{ACCESS_KEY, SECURITY_TOKEN, SIGNATURE};
use sluice_store::Batch;
use tokio::time::Instant;

use crate::access::{Caller, Denied};
use crate::broker::Broker;
use crate::dispatch::Request;
use crate::reply::Reply;
use crate::topic::own_topic;

/// Where entries are kept.
pub(crate) const TOPIC: &str = "SLUICE_AUDIT";
/// Longest argument that is kept, in bytes, and most of them.
const ARGUMENT_BYTES_MAX: usize = 2048;
const ARGUMENTS_MAX: usize = 32;
/// Denials of one address are kept so far apart.
const DENIAL_EVERY: Duration = Duration::from_mins(1);
/// Addresses whose denials are counted apart; of more, the eldest are forgotten.
const ADDRESSES_MAX: usize = 1024;

/// Whether a request changes what administrators set.
pub(crate) fn is_change(code: RequestCode) -> bool {
    use RequestCode as C;
    matches!(
        code,
        C::UPDATE_AND_CREATE_TOPIC
            | C::UPDATE_AND_CREATE_TOPIC_LIST
            | C::DELETE_TOPIC_IN_BROKER
            | C::DELETE_TOPIC_IN_NAMESRV
            | C::REGISTER_TOPIC_IN_NAMESRV
            | C::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP
            | C::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST
            | C::DELETE_SUBSCRIPTIONGROUP
            | C::INVOKE_BROKER_TO_RESET_OFFSET
            | C::CLONE_GROUP_OFFSET
            | C::CLEAN_EXPIRED_CONSUMEQUEUE
            | C::CLEAN_UNUSED_TOPIC
            | C::DELETE_EXPIRED_COMMITLOG
            | C::UPDATE_BROKER_CONFIG
            | C::UPDATE_NAMESRV_CONFIG
            | C::PUT_KV_CONFIG
            | C::DELETE_KV_CONFIG
            | C::WIPE_WRITE_PERM_OF_BROKER
            | C::ADD_WRITE_PERM_OF_BROKER
            | C::UPDATE_AND_GET_GROUP_FORBIDDEN
            | C::SET_MESSAGE_REQUEST_MODE
            | C::RESUME_CHECK_HALF_MESSAGE
            | C::CONSUME_MESSAGE_DIRECTLY
    )
}

/// One entry.
pub(crate) struct Entry<'a> {
    action: &'a str,
    user: Option<&'a str>,
    client: Option<SocketAddr>,
    arguments: Value,
    /// Topic or group.
    subject: Option<&'a str>,
    outcome: &'static str,
    remark: Option<&'a str>,
    others: u64,
}

impl<'a> Entry<'a> {
    /// A change that was asked for, and what came of it.
    pub(crate) fn of_change(
        request: &'a Request<'_>,
        caller: &'a Caller,
        client: SocketAddr,
        refused: Option<&'a Reply>,
    ) -> Self {
        Self {
            action: request.header.request_code().name().unwrap_or("OTHER"),
            user: caller.access_key(),
            client: Some(client),
            arguments: arguments(request, true),
            subject: subject(request),
            outcome: refused.map_or(ResponseCode::SUCCESS, |reply| reply.code).name().unwrap_or("OTHER"),
            remark: refused.and_then(|reply| reply.remark.as_deref()),
            others: 0,
        }
    }

    /// A request that was denied.
    pub(crate) fn of_denial(
        denied: &'a Denied,
        request: &'a Request<'_>,
        client: SocketAddr,
        others: u64,
    ) -> Self {
        Self {
            action: request.header.request_code().name().unwrap_or("OTHER"),
            user: request.header.fields.get(ACCESS_KEY).map(|key| cut(key, 256)),
            client: Some(client),
            // Who may not do it says nothing here that is long.
            arguments: arguments(request, false),
            subject: subject(request),
            outcome: "NO_PERMISSION",
            remark: Some(&denied.remark),
            others,
        }
    }

    /// A change of the process's own settings.
    pub(crate) fn of_config(action: &'a str, what: &str, problem: Option<&'a str>) -> Self {
        let outcome = if problem.is_some() { ResponseCode::SYSTEM_ERROR } else { ResponseCode::SUCCESS };
        Self {
            action,
            user: None,
            client: None,
            arguments: if what.is_empty() { json!({}) } else { json!({ "new": what }) },
            subject: None,
            outcome: outcome.name().unwrap_or("OTHER"),
            remark: problem,
            others: 0,
        }
    }

    /// Tells the log of the process.
    pub(crate) fn trace(&self) {
        let Self { action, user, client, outcome, remark, subject, others, .. } = self;
        let client = client.map(|client| client.to_string());
        match self.outcome {
            "NO_PERMISSION" => {
                tracing::warn!(action, user, client, subject, outcome, remark, others, "audit");
            }
            _ => tracing::info!(action, user, client, subject, outcome, remark, others, "audit"),
        }
    }

    fn body(&self, time_ms: i64) -> Vec<u8> {
        let Self { action, user, client, arguments, outcome, remark, others, .. } = self;
        let client = client.map(|client| client.to_string());
        let entry = json!({
            "time_ms": time_ms, "action": action, "user": user, "client": client, "arguments": arguments,
            "outcome": outcome, "remark": remark.map(|remark| cut(remark, ARGUMENT_BYTES_MAX)), "others": others,
        });
        entry.to_string().into_bytes()
    }

    fn properties(&self, unique_key: &str) -> Result<Vec<u8>, message::PropertyError> {
        let mut properties = Vec::new();
        let mut add = |name, value| message::push_property(&mut properties, name, value);
        add(UNIQ_KEY, unique_key)?;
        add(TAGS, self.action)?;
        add("action", self.action)?;
        add("outcome", self.outcome)?;
        // A name from outside may hold anything; the body has it in any case.
        let is_plain = |text: &&str| {
            !text.is_empty() && text.len() <= 256 && !text.contains(|c: char| c.is_control() || c == ' ')
        };
        if let Some(user) = self.user.filter(is_plain) {
            add("user", user)?;
        }
        if let Some(subject) = self.subject.filter(is_plain) {
            add(KEYS, subject)?;
        }
        Ok(properties)
    }
}

/// What a request is about.
fn subject<'a>(request: &'a Request<'_>) -> Option<&'a str> {
    let fields = &request.header.fields;
    ["topic", "b", "group", "groupName", "consumerGroup"].iter().find_map(|name| fields.get(name))
}

/// The fields and the body of a request, without what is secret.
fn arguments(request: &Request<'_>, with_body: bool) -> Value {
    let is_setting = matches!(
        request.header.request_code(),
        RequestCode::PUT_KV_CONFIG | RequestCode::UPDATE_BROKER_CONFIG | RequestCode::UPDATE_NAMESRV_CONFIG
    );
    let mut arguments = serde_json::Map::new();
    let shown = |name: &&str| ![ACCESS_KEY, SIGNATURE, SECURITY_TOKEN].contains(name);
    for (name, value) in request.header.fields.iter().filter(|(name, _)| shown(name)).take(ARGUMENTS_MAX) {
        let text = match name {
            "value" if is_setting => format!("({} bytes)", value.len()),
            _ => cut(value, ARGUMENT_BYTES_MAX).to_owned(),
        };
        arguments.insert(cut(name, 64).to_owned(), text.into());
    }
    if with_body && !request.body.is_empty() {
        let text = match str::from_utf8(request.body) {
            Ok(text) if !is_setting => cut(text, ARGUMENT_BYTES_MAX).to_owned(),
            _ => format!("({} bytes)", request.body.len()),
        };
        arguments.insert("body".to_owned(), text.into());
    }
    Value::Object(arguments)
}

/// At most so many bytes of a text.
fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or(text)
}

/// Denials by address, so that one who tries for ever does not fill the log.
#[derive(Default)]
pub(crate) struct Denials(Mutex<HashMap<IpAddr, Last>>);

struct Last {
    kept: Instant,
    left_out: u64,
}

impl Denials {
    /// Whether one of that address is kept now, and how many were left out before it.
    pub(crate) fn take(&self, addr: IpAddr, now: Instant) -> Option<u64> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = table.get_mut(&addr) {
            if now.duration_since(last.kept) < DENIAL_EVERY {
                last.left_out += 1;
                return None;
            }
            last.kept = now;
            return Some(std::mem::take(&mut last.left_out));
        }
        if table.len() >= ADDRESSES_MAX
            && let Some(eldest) = table.iter().min_by_key(|(_, last)| last.kept).map(|(addr, _)| *addr)
        {
            table.remove(&eldest);
        }
        table.insert(addr, Last { kept: now, left_out: 0 });
        Some(0)
    }
}

impl Broker {
    /// Keeps an entry. What was done is done, so a log that can not be written is told and stops nothing.
    pub(crate) fn audit(&self, entry: &Entry<'_>) {
        if let Err(error) = self.try_audit(entry) {
            tracing::error!(%error, action = entry.action, user = entry.user, "an entry of the audit log is lost");
        }
    }

    fn try_audit(&self, entry: &Entry<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let now = self.store.now_ms()?;
        let (body, properties) = (entry.body(now), entry.properties(&self.unique_keys.next())?);
        let message = Message {
            body: &body,
            properties: &properties,
            born_timestamp_ms: now,
            born_host: self.host,
            store_host: self.host,
            ..Message::default()
        };
        let place = (own_topic(TOPIC), QueueId::ZERO);
        let mut batch = Batch::new();
        batch.push(&place.0, place.1, &message)?;
        let (_, ticket) = self.store.append_ahead(batch)?;
        if !self.sync {
            self.long_poll.arrived_at(&[place]);
            return Ok(());
        }
        let (store, long_poll) = (self.store.clone(), std::sync::Arc::clone(&self.long_poll));
        // It waits for the disk with the others, and readers hear of it when it is there.
        let wait = move || match store.durable(ticket) {
            Ok(()) => long_poll.arrived_at(&[place]),
            Err(error) => tracing::error!(%error, "an entry of the audit log may be lost"),
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(wait)),
            Err(_) => wait(),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denials_of_one_address_are_kept_once_a_minute_with_their_number() {
        let denials = Denials::default();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let start = Instant::now();
        let take = |addr, seconds| denials.take(addr, start + Duration::from_secs(seconds));
        assert_eq!(take(one, 0), Some(0));
        assert_eq!(take(one, 1), None);
        assert_eq!(take(other, 1), Some(0));
        assert_eq!(take(one, 59), None);
        assert_eq!(take(one, 60), Some(2));
        for number in 0..2 * ADDRESSES_MAX as u32 {
            take(IpAddr::from(number.to_be_bytes()), 61);
        }
        assert!(denials.0.lock().unwrap().len() <= ADDRESSES_MAX);
    }

    #[test]
    fn a_text_is_cut_between_its_letters() {
        assert_eq!((cut("aä", 2), cut("aä", 3), cut("", 1)), ("a", "aä", ""));
    }
}

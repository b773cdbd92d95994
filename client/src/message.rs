//! A message as its producer makes it.

use bytes::Bytes;
use sluice_protocol::batch::{self, BatchItem};
use sluice_protocol::compression;
use sluice_protocol::id::TopicName;
use sluice_protocol::message::{DELAY, KEYS, TAGS, UNIQ_KEY, WAIT, property, push_property};
use sluice_protocol::topic::RETRY_PREFIX;

use crate::error::Error;

/// What is sent: topic, body, properties.
///
/// ```
/// # fn main() -> Result<(), sluice_client::Error> {
/// use sluice_client::{Message, TopicName};
///
/// let topic = TopicName::new("orders")?;
/// let message = Message::new(&topic, "{}").tag("paid")?.key("o-17")?.property("country", "FR")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Message {
    topic: TopicName,
    body: Bytes,
    properties: Vec<u8>,
    flag: i32,
    /// How the body is compressed: bits of [`sluice_protocol::message::sys_flag`].
    sys_flag: i32,
    /// Keys so far, as they are written at the end.
    keys: String,
    alone: bool,
}

impl Message {
    /// A message without properties.
    pub fn new(topic: &TopicName, body: impl Into<Bytes>) -> Self {
        let alone = topic.as_str().starts_with(RETRY_PREFIX);
        Self {
            topic: topic.clone(),
            body: body.into(),
            properties: Vec::new(),
            flag: 0,
            sys_flag: 0,
            keys: String::new(),
            alone,
        }
    }

    /// With that tag, by which consumers filter.
    pub fn tag(self, tag: &str) -> Result<Self, Error> {
        self.property(TAGS, tag)
    }

    /// With one more key, by which it can be found.
    pub fn key(mut self, key: &str) -> Result<Self, Error> {
        let separator = if self.keys.is_empty() { "" } else { " " };
        self.keys = format!("{}{separator}{key}", self.keys);
        let keys = self.keys.clone();
        // Of several entries the last counts.
        self.property(KEYS, &keys)
    }

    /// With that property; of several of one name the last counts.
    pub fn property(mut self, name: &str, value: &str) -> Result<Self, Error> {
        push_property(&mut self.properties, name, value)?;
        self.alone |= is_alone(name);
        Ok(self)
    }

    /// With the producer's own flag, which is kept as it is.
    #[must_use]
    pub const fn flag(mut self, flag: i32) -> Self {
        self.flag = flag;
        self
    }

    /// The topic.
    pub const fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The body.
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// Encoded properties, see [`sluice_protocol::message`].
    pub fn properties(&self) -> &[u8] {
        &self.properties
    }

    /// Whether it can not be in a batch: it is delayed, a transaction's, or comes again.
    pub const fn is_alone(&self) -> bool {
        self.alone
    }

    /// The producer's own flag.
    pub const fn own_flag(&self) -> i32 {
        self.flag
    }

    /// How its body is compressed: bits of [`sluice_protocol::message::sys_flag`].
    pub(crate) const fn sys_flag(&self) -> i32 {
        self.sys_flag
    }

    /// The same with its body compressed, if that makes it smaller.
    pub(crate) fn deflated(&self) -> Option<Self> {
        let body = compression::deflate(&self.body)?;
        Some(Self { body: body.into(), sys_flag: compression::DEFLATED, ..self.clone() })
    }

    /// Whether the producer waits until it is durable.
    pub(crate) fn waits(&self) -> bool {
        self.properties.is_empty() || property(&self.properties, WAIT) != Some("false")
    }

    /// The id that it has already.
    pub(crate) fn own_id(&self) -> Option<&str> {
        if self.properties.is_empty() { None } else { property(&self.properties, UNIQ_KEY) }
    }

    /// Appends it to a batch with its id.
    pub(crate) fn push(&self, out: &mut Vec<u8>, id: &str, scratch: &mut Vec<u8>) -> Result<(), Error> {
        scratch.clear();
        scratch.extend_from_slice(&self.properties);
        if self.own_id().is_none() {
            push_property(scratch, UNIQ_KEY, id)?;
        }
        out.reserve(scratch.len() + self.body.len() + 32);
        batch::push(out, &BatchItem { flag: self.flag, body: &self.body, properties: scratch })?;
        Ok(())
    }
}

/// Whether a message that has this property can not be in a batch: it is delayed, or a transaction's.
pub(crate) fn is_alone(property: &str) -> bool {
    matches!(property, DELAY | "TRAN_MSG") || property.starts_with("TIMER_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_in_one_property_and_delayed_messages_alone() {
        let topic = TopicName::new("t").unwrap();
        let message = Message::new(&topic, "b").key("k1").unwrap().key("k2").unwrap().tag("a").unwrap();
        assert_eq!(property(message.properties(), KEYS), Some("k1 k2"));
        assert!(!message.is_alone() && message.waits());
        assert!(message.property(DELAY, "3").unwrap().is_alone());
        assert!(Message::new(&TopicName::new("%RETRY%g").unwrap(), "b").is_alone());
        assert!(!Message::new(&topic, "b").property(WAIT, "false").unwrap().waits());
        assert!(Message::new(&topic, "b").property("a", "\u{2}").is_err());
    }
}

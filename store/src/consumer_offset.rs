//! The committed offset of each group and queue.
//!
//! `config/consumerOffset.json` is `RocketMQ`'s: `{"dataVersion":…,"groupTopicMap":{"g":["t"]},
//! "offsetTable":{"t@g":{0:5}}}`, where queue ids are bare integers and the value is the next offset.
//! Never writes a file; the checkpoint does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

use serde_json::Value;
use sluice_protocol::id::{GroupName, TopicName};

use crate::json::DataVersion;

/// Offsets by topic and group, then by queue id.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConsumerOffsets {
    version: DataVersion,
    /// Keyed by `topic@group`.
    table: HashMap<String, BTreeMap<i32, i64>>,
    /// Whether the file must be written again.
    pub(crate) changed: bool,
}

impl ConsumerOffsets {
    /// The offsets in the text of the file.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let document = crate::json::lenient(text)?;
        let mut offsets = Self { version: DataVersion::of(&document), ..Self::default() };
        for (key, queues) in document.get("offsetTable").and_then(Value::as_object).into_iter().flatten() {
            let queues = queues.as_object().into_iter().flatten();
            let queues = queues.filter_map(|(id, next)| Some((id.parse().ok()?, next.as_i64()?))).collect();
            offsets.table.insert(key.clone(), queues);
        }
        Ok(offsets)
    }

    /// The text of the file.
    pub(crate) fn to_json(&self) -> String {
        let mut groups: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let mut table: Vec<_> = self.table.iter().collect();
        table.sort_unstable_by_key(|(key, _)| *key);
        let mut text = String::from("{\"dataVersion\":");
        text.push_str(&text_of(&self.version));
        text.push_str(",\"offsetTable\":{");
        for (i, (key, queues)) in table.into_iter().enumerate() {
            if let Some((topic, group)) = key.split_once('@') {
                groups.entry(group).or_default().insert(topic);
            }
            text.push_str(if i == 0 { "" } else { "," });
            text.push_str(&text_of(key));
            for (j, (queue, next)) in queues.iter().enumerate() {
                // Writing to a string never fails.
                let _ = write!(text, "{}{queue}:{next}", if j == 0 { ":{" } else { "," });
            }
            text.push_str(if queues.is_empty() { ":{}" } else { "}" });
        }
        let _ = write!(text, "}},\"groupTopicMap\":{}}}", text_of(&groups));
        text
    }

    /// The groups that have an offset in a topic, in no order.
    pub(crate) fn groups_of(&self, topic: &TopicName) -> Vec<String> {
        let of_topic = |key: &String| {
            key.split_once('@').filter(|(t, _)| *t == topic.as_str()).map(|(_, g)| g.to_owned())
        };
        self.table.keys().filter_map(of_topic).collect()
    }

    pub(crate) fn get(&self, group: &GroupName, topic: &TopicName, queue: i32) -> Option<i64> {
        self.table.get(&key(group, topic))?.get(&queue).copied()
    }

    pub(crate) fn set(&mut self, group: &GroupName, topic: &TopicName, queue: i32, next: i64, now_ms: i64) {
        self.table.entry(key(group, topic)).or_default().insert(queue, next);
        self.version.step(now_ms);
        self.changed = true;
    }

    /// Forgets the offsets of a topic.
    pub(crate) fn remove_topic(&mut self, topic: &str, now_ms: i64) {
        self.table.retain(|key, _| key.split_once('@').is_none_or(|(name, _)| name != topic));
        self.version.step(now_ms);
        self.changed = true;
    }

    /// Forgets the offsets of a group.
    pub(crate) fn remove_group(&mut self, group: &str, now_ms: i64) {
        self.table.retain(|key, _| key.split_once('@').is_none_or(|(_, name)| name != group));
        self.version.step(now_ms);
        self.changed = true;
    }

    /// Takes back offsets beyond the end of their queue, as `end` tells it for a topic and queue id.
    pub(crate) fn clamp(&mut self, end: impl Fn(&str, i32) -> Option<i64>) {
        for (key, queues) in &mut self.table {
            let topic = key.split_once('@').map_or(key.as_str(), |(topic, _)| topic);
            for (&queue, next) in queues {
                if let Some(end) = end(topic, queue)
                    && *next > end
                {
                    tracing::warn!(
                        topic,
                        queue_id = queue,
                        queue_offset = *next,
                        end,
                        "took a committed offset back"
                    );
                    *next = end;
                    self.changed = true;
                }
            }
        }
    }
}

fn key(group: &GroupName, topic: &TopicName) -> String {
    format!("{topic}@{group}")
}

fn text_of(value: &impl serde::Serialize) -> String {
    // These are maps, strings and numbers, which always have a text.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_another_broker_is_read_and_written_again_in_its_shape() {
        let text = r#"{"dataVersion":{"counter":3,"stateVersion":0,"timestamp":1700000000000},"groupTopicMap":{"CG":["TopicTest"]},"offsetTable":{"TopicTest@CG":{0:5,1:6}}}"#;
        let offsets = ConsumerOffsets::parse(text).unwrap();
        let (group, topic) = (GroupName::new("CG").unwrap(), TopicName::new("TopicTest").unwrap());
        assert_eq!(offsets.get(&group, &topic, 1), Some(6));
        let written = r#"{"dataVersion":{"counter":3,"stateVersion":0,"timestamp":1700000000000},"offsetTable":{"TopicTest@CG":{0:5,1:6}},"groupTopicMap":{"CG":["TopicTest"]}}"#;
        assert_eq!(offsets.to_json(), written);
        assert_eq!(ConsumerOffsets::parse(&offsets.to_json()).unwrap().get(&group, &topic, 0), Some(5));
    }

    #[test]
    fn an_offset_beyond_its_queue_is_taken_back() {
        let (group, topic) = (GroupName::new("g").unwrap(), TopicName::new("t").unwrap());
        let mut offsets = ConsumerOffsets::default();
        offsets.set(&group, &topic, 0, 9, 1);
        offsets.set(&group, &topic, 1, 9, 2);
        offsets.clamp(|_, queue| (queue == 0).then_some(4));
        assert_eq!([0, 1].map(|q| offsets.get(&group, &topic, q)), [Some(4), Some(9)]);
    }
}

//! Delayed messages: what their consume queues keep, and how far each level has been delivered.
//!
//! A unit of `SCHEDULE_TOPIC_XXXX` or of the timers' topic holds the time of delivery in place of the tag's hash, in ms
//! since 1970-01-01 UTC; below 0 where it takes a message of that time back.
//! `config/delayOffset.json` is `RocketMQ`'s: `{"dataVersion":…,"offsetTable":{1:5}}`, where levels are bare integers
//! and the value is the next offset of the level's queue. Never writes a file; the checkpoint does.

use std::collections::BTreeMap;

use serde_json::Value;
use sluice_protocol::delay::{Levels, TIMER_DUE, TIMER_RECALLED, TIMER_TOPIC, TOPIC};
use sluice_protocol::id::QueueId;
use sluice_protocol::message::{property, tag_hash_of};
use sluice_protocol::record::Record;

use crate::json::DataVersion;

/// What the consume queue keeps of a message's tag; none where it keeps the time of delivery, which follows from the
/// time of storing.
pub(crate) fn code_of(topic: &str, properties: &[u8]) -> Option<i64> {
    match topic {
        TOPIC => return None,
        TIMER_TOPIC => property(properties, TIMER_DUE).and_then(|due| due.parse::<i64>().ok()).map(|due| {
            if property(properties, TIMER_RECALLED).is_some() { due.saturating_neg() } else { due }
        }),
        _ => None,
    }
    .or_else(|| Some(tag_hash_of(properties)))
}

/// The same of a stored record.
pub(crate) fn tag_code(record: &Record<'_>, levels: &Levels) -> i64 {
    let code = code_of(record.topic, record.properties);
    code.unwrap_or_else(|| due(levels, record.queue_id, record.store_timestamp_ms))
}

/// When a message of a delay level's queue is delivered, in ms since 1970-01-01 UTC.
pub(crate) fn due(levels: &Levels, queue: i32, store_timestamp_ms: i64) -> i64 {
    let level = levels.of_queue(QueueId::new(queue).unwrap_or_default());
    level.ms().saturating_add(store_timestamp_ms)
}

/// Next offsets by level.
#[derive(Clone, Debug, Default)]
pub(crate) struct DelayOffsets {
    version: DataVersion,
    table: BTreeMap<i32, i64>,
    /// Whether the file must be written again.
    pub(crate) changed: bool,
}

impl DelayOffsets {
    /// The offsets in the text of the file.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let document = crate::json::lenient(text)?;
        let table = document.get("offsetTable").and_then(Value::as_object).into_iter().flatten();
        let table = table.filter_map(|(level, next)| Some((level.parse().ok()?, next.as_i64()?))).collect();
        Ok(Self { version: DataVersion::of(&document), table, changed: false })
    }

    /// The text of the file.
    pub(crate) fn to_json(&self) -> String {
        // Numbers always have a text.
        let version = serde_json::to_string(&self.version).unwrap_or_default();
        let table: Vec<String> = self.table.iter().map(|(level, next)| format!("{level}:{next}")).collect();
        format!("{{\"dataVersion\":{version},\"offsetTable\":{{{}}}}}", table.join(","))
    }

    pub(crate) fn get(&self, level: i32) -> Option<i64> {
        self.table.get(&level).copied()
    }

    pub(crate) fn set(&mut self, level: i32, next: i64, now_ms: i64) {
        self.table.insert(level, next);
        self.version.step(now_ms);
        self.changed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_another_broker_is_read_and_written_again_in_its_shape() {
        let text = r#"{"dataVersion":{"counter":3,"stateVersion":0,"timestamp":1700000000000},"offsetTable":{1:5,18:6}}"#;
        let mut offsets = DelayOffsets::parse(text).unwrap();
        assert_eq!((offsets.get(1), offsets.get(2), offsets.get(18)), (Some(5), None, Some(6)));
        assert_eq!(offsets.to_json(), text);
        offsets.set(2, 1, 1_700_000_000_001);
        assert!(offsets.changed && offsets.to_json().ends_with("{1:5,2:1,18:6}}"));
    }
}

//! Dead letters as they are stored: of pipelines, with their cause in properties `dead_…`, and of consumer groups, in
//! `%DLQ%GROUP`. Reads them from a store without its lock, or from brokers on the network.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde_json::{Value, json};
use sluice_client::{Admin, Client, Consumer, ConsumerSettings, Filter as Wanted, Start, TopicName};
use sluice_filters::{Dialect, Filter, Name};
use sluice_protocol::compression;
use sluice_protocol::id::{QueueId, QueueOffset};
use sluice_protocol::message::{self, BATCH_MARK, ORIGIN_MESSAGE_ID, RETRY_TOPIC, sys_flag};
use sluice_protocol::record::records;
use sluice_sources::topic::{Asked, passes};
use sluice_store::Store;

use crate::network::{TAIL_GROUP, TAIL_WAIT};
use crate::show::time_text;

/// Begins the name of a group's topic of dead letters.
const GROUP_TOPIC: &str = "%DLQ%";
/// What one read of a store brings, in bytes.
const READ_BYTES: usize = 256 * 1024;

/// What the runtime adds to a dead letter.
const OF_PIPELINES: [&str; 7] = [
    "dead_reason",
    "dead_pipeline",
    "dead_topic",
    "dead_queue",
    "dead_offset",
    "dead_place",
    "dead_body_bytes",
];
/// What brokers and clients add to a message, each time or on its way through retries, in the words of `RocketMQ` 5.3.3.
const OF_BROKERS: [&str; 17] = [
    "CLUSTER",
    "MSG_REGION",
    "TRACE_ON",
    RETRY_TOPIC,
    ORIGIN_MESSAGE_ID,
    "DLQ_ORIGIN_TOPIC",
    "DLQ_ORIGIN_MESSAGE_ID",
    "RECONSUME_TIME",
    "MAX_RECONSUME_TIMES",
    "CONSUME_START_TIME",
    message::DELAY,
    message::REAL_TOPIC,
    message::REAL_QUEUE_ID,
    message::WAIT,
    "MIN_OFFSET",
    "MAX_OFFSET",
    BATCH_MARK,
];

/// One dead letter.
pub(super) struct Letter {
    pub(super) queue_id: i32,
    pub(super) queue_offset: i64,
    store_timestamp_ms: i64,
    reconsume_times: i32,
    pub(super) flag: i32,
    /// As its producer made it, unless the letter was cut.
    pub(super) body: Bytes,
    /// Encoded, with what was added.
    properties: Bytes,
}

impl Letter {
    fn property(&self, name: &str) -> Option<&str> {
        message::property(&self.properties, name)
    }

    /// The topic that it comes from, without the broker, and whether it is a cluster's.
    pub(super) fn origin(&self) -> Option<(&str, bool)> {
        let names = ["dead_topic", RETRY_TOPIC, "DLQ_ORIGIN_TOPIC"];
        let topic = names.into_iter().find_map(|name| self.property(name))?;
        Some(match topic.rsplit_once('@') {
            Some((topic, _broker)) => (topic, true),
            None => (topic, false),
        })
    }

    /// Where it comes from, for a person.
    fn place(&self) -> String {
        match (self.property("dead_topic"), self.property("dead_queue"), self.property("dead_offset")) {
            (Some(topic), Some(queue), Some(offset)) => format!("{topic}/{queue}:{offset}"),
            _ => self.origin().map_or_else(|| "-".to_owned(), |(topic, _)| topic.to_owned()),
        }
    }

    /// Why it is one.
    fn reason(&self) -> String {
        match self.property("dead_reason") {
            Some(reason) => reason.to_owned(),
            None => format!("consumption failed {} times", self.reconsume_times.max(1)),
        }
    }

    /// Whether the body is all of the original's.
    pub(super) fn is_whole(&self) -> bool {
        let bytes = self.property("dead_body_bytes").and_then(|bytes| bytes.parse().ok());
        bytes.is_none_or(|bytes: usize| bytes == self.body.len())
    }

    /// The properties of the message that it was.
    pub(super) fn original(&self) -> Vec<u8> {
        let added = if self.property("dead_reason").is_some() { &OF_PIPELINES[..] } else { &[] };
        message::without(&self.properties, &[added, &OF_BROKERS].concat())
    }

    pub(super) fn line(&self) -> String {
        let (queue, offset) = (self.queue_id, self.queue_offset);
        let cut = if self.is_whole() { "" } else { " (cut)" };
        let (place, stored, reason) = (self.place(), time_text(self.store_timestamp_ms), self.reason());
        format!("{queue:>5}  {offset:>10}  {stored:24}  {place:32}  {reason}{cut}")
    }

    pub(super) fn json(&self) -> Value {
        let original = self.original();
        let properties: serde_json::Map<String, Value> = message::properties(&original)
            .map(|(n, v)| (n.to_owned(), Value::String(v.to_owned())))
            .collect();
        let body: Value = serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&self.body).into_owned()));
        json!({
            "queue_id": self.queue_id,
            "queue_offset": self.queue_offset,
            "store_timestamp": time_text(self.store_timestamp_ms),
            "reason": self.reason(),
            "pipeline": self.property("dead_pipeline"),
            "topic": self.origin().map(|(topic, _)| topic),
            "place": self.place(),
            "whole": self.is_whole(),
            "properties": properties,
            "body": body,
        })
    }
}

/// Which dead letters are meant.
pub(super) struct Selection {
    pub(super) topic: TopicName,
    filter: Option<Filter>,
    from: i64,
    left: u64,
}

impl Selection {
    pub(super) fn new(
        topic: Option<&str>,
        group: Option<&str>,
        filter: Option<&str>,
        from: Option<i64>,
        limit: Option<u64>,
    ) -> Result<Self> {
        let name = match (topic, group) {
            (Some(topic), _) => topic.to_owned(),
            (None, Some(group)) => format!("{GROUP_TOPIC}{group}"),
            (None, None) => bail!("name a topic, or a group by --group"),
        };
        let parse =
            |text| Filter::parse(text, Dialect::Sluice).with_context(|| format!("--where \"{text}\""));
        let filter = filter.map(parse).transpose()?;
        if let Some(name) = filter.iter().flat_map(Filter::names).find(|n| matches!(n, Name::Field(_))) {
            bail!("--where: `{name}` is a field of the body: ask `sluice query` for it");
        }
        let (from, left) = (from.unwrap_or(0), limit.unwrap_or(u64::MAX));
        Ok(Self { topic: TopicName::stored(&name)?, filter, from, left })
    }

    /// Whether the letter is one of them and not over the limit.
    fn takes(&mut self, letter: &Letter, born_timestamp_ms: i64) -> bool {
        let asked = Asked {
            topic: self.topic.as_str(),
            queue_id: letter.queue_id,
            queue_offset: letter.queue_offset,
            store_timestamp_ms: letter.store_timestamp_ms,
            born_timestamp_ms,
            properties: &letter.properties,
        };
        let takes = self.left > 0
            && letter.queue_offset >= self.from
            && self.filter.as_ref().is_none_or(|filter| passes(filter, &asked));
        self.left -= u64::from(takes);
        takes
    }
}

/// All of a store, up to where it ends now.
pub(super) fn of_store(
    store: &Store,
    mut selection: Selection,
    mut each: impl FnMut(&Letter) -> Result<()>,
) -> Result<()> {
    let topic = store.topic(&selection.topic).with_context(|| {
        let names: Vec<String> = store.topics().iter().map(|t| t.name.to_string()).collect();
        format!("no such topic: {}; there are: {}", selection.topic, names.join(", "))
    })?;
    for id in QueueId::all(topic.queues) {
        let Some((first, end)) = store.offsets(&topic.name, id) else { continue };
        let mut next = first.get().max(selection.from);
        while next < end.get() && selection.left > 0 {
            let read = store.read(&topic.name, id, QueueOffset::new(next), READ_BYTES)?;
            if read.next.get() <= next {
                break;
            }
            next = read.next.get();
            for run in &read.runs {
                for record in records(&run.bytes) {
                    let record = record?;
                    let body = if record.sys_flag & sys_flag::COMPRESSED == 0 {
                        Bytes::copy_from_slice(record.body)
                    } else {
                        compression::inflate(record.body, record.sys_flag)?.into()
                    };
                    let letter = Letter {
                        queue_id: record.queue_id,
                        queue_offset: record.queue_offset,
                        store_timestamp_ms: record.store_timestamp_ms,
                        reconsume_times: record.reconsume_times,
                        flag: record.flag,
                        body,
                        properties: Bytes::copy_from_slice(record.properties),
                    };
                    if letter.queue_offset < end.get() && selection.takes(&letter, record.born_timestamp_ms) {
                        each(&letter)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// All of a topic of brokers, up to where its queues end now.
pub(super) async fn of_brokers(
    client: &Client,
    mut selection: Selection,
    mut each: impl AsyncFnMut(&Letter) -> Result<()>,
) -> Result<()> {
    let offsets = Admin::new(client).queue_offsets(&selection.topic).await?;
    let start = |min: i64| selection.from.max(min);
    let some = offsets.iter().filter(|o| start(o.min_offset) < o.max_offset);
    let mut ends: BTreeMap<_, _> = some.map(|o| (o.queue.clone(), o.max_offset)).collect();
    let queues: Vec<_> = offsets
        .iter()
        .filter(|o| ends.contains_key(&o.queue))
        .map(|o| (o.queue.clone(), Start::Offset(start(o.min_offset))))
        .collect();
    if queues.is_empty() {
        return Ok(());
    }
    let settings = ConsumerSettings { commit_interval: None, ..ConsumerSettings::new(TAIL_GROUP) };
    let mut consumer = Consumer::assign(client, settings, queues, Wanted::All).await?;
    while selection.left > 0 && !ends.is_empty() {
        let waited = tokio::time::timeout(TAIL_WAIT, consumer.next_batch()).await;
        let batch = waited.context("messages that are there did not come")??;
        let Some(&end) = ends.get(&batch.queue) else { continue };
        for record in batch.records.iter().filter(|record| record.queue_offset < end) {
            if record.is_compressed() {
                bail!(
                    "the body of the dead letter at {} offset {} is damaged",
                    batch.queue,
                    record.queue_offset
                );
            }
            let letter = Letter {
                queue_id: record.queue_id,
                queue_offset: record.queue_offset,
                store_timestamp_ms: record.store_timestamp_ms,
                reconsume_times: record.reconsume_times,
                flag: record.flag,
                body: record.body.clone(),
                properties: record.properties.clone(),
            };
            if selection.takes(&letter, record.born_timestamp_ms) {
                each(&letter).await?;
            }
        }
        if batch.next_offset >= end {
            ends.remove(&batch.queue);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sluice_protocol::message::push_property;

    use super::*;

    fn letter(properties: &[(&str, &str)], body: &str) -> Letter {
        let mut encoded = Vec::new();
        for (name, value) in properties {
            push_property(&mut encoded, name, value).unwrap();
        }
        Letter {
            queue_id: 0,
            queue_offset: 7,
            store_timestamp_ms: 0,
            reconsume_times: 16,
            flag: 0,
            body: Bytes::copy_from_slice(body.as_bytes()),
            properties: encoded.into(),
        }
    }

    #[test]
    fn a_pipelines_letter_tells_its_cause_and_becomes_what_it_was() {
        let dead = letter(
            &[
                ("origin", "EWR"),
                ("KEYS", "k"),
                ("dead_reason", "no JSON"),
                ("dead_topic", "orders@b"),
                ("dead_queue", "3"),
                ("dead_offset", "9"),
                ("dead_body_bytes", "2"),
            ],
            "{}",
        );
        assert_eq!(dead.origin(), Some(("orders", true)));
        assert!(dead.is_whole() && dead.line().ends_with("no JSON") && dead.line().contains("orders@b/3:9"));
        assert_eq!(
            message::properties(&dead.original()).collect::<Vec<_>>(),
            [("origin", "EWR"), ("KEYS", "k")]
        );
        assert!(!letter(&[("dead_reason", "r"), ("dead_body_bytes", "3")], "{}").is_whole());
    }

    #[test]
    fn a_groups_letter_goes_back_to_the_topic_that_it_was_for() {
        let added =
            [("RETRY_TOPIC", "orders"), ("ORIGIN_MESSAGE_ID", "7F"), ("DELAY", "0"), ("WAIT", "false")];
        let dead = letter(&[&[("dead_topic_of_ours", "x")][..], &added].concat(), "{}");
        assert_eq!(dead.origin(), Some(("orders", false)));
        assert!(dead.line().contains("consumption failed 16 times"));
        assert_eq!(message::properties(&dead.original()).collect::<Vec<_>>(), [("dead_topic_of_ours", "x")]);
    }
}

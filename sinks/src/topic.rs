//! Sink `topic`: rows become messages of the embedded broker's store, and the source's position moves in
//! the same atomic batch.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringViewArray};
use arrow::datatypes::TimestampMillisecondType;
use serde::Deserialize;
use sluice_connect::task::{Chain, Class, Fates, Needs, Slice, TaskError, TransactTask};
use sluice_protocol::id::{QueueId, TopicName};
use sluice_protocol::message::{self, KEYS, Message, TAGS, UNIQ_KEY};
use sluice_store::{Batch, ChainMark, Store};

/// Settings of sink `topic`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicConfig {
    /// The topic; made if it does not exist.
    pub name: String,
    /// Queues of a topic that is made; rows with equal keys go to one queue.
    #[serde(default = "one")]
    pub queues: u32,
}

/// Queues of a topic that a sink may make, at most.
pub const QUEUES_MAX: u32 = 1024;

fn one() -> u32 {
    1
}

/// Milliseconds since 1970-01-01 UTC.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Writes one topic of a store.
pub struct TopicSink {
    store: Store,
    topic: TopicName,
    queues: Vec<QueueId>,
    clock: Clock,
    properties: Vec<u8>,
}

impl TopicSink {
    /// Opens the topic, made with `queues` queues if there is none.
    pub fn new(name: &str, queues: u32, store: Store, clock: Clock) -> Result<Self, TaskError> {
        let topic = TopicName::new(name).map_err(|e| TaskError::new(Class::Config, e.to_string()))?;
        let made = store
            .create_topic(&topic, queues)
            .map_err(|e| failed(format!("cannot make topic {topic}"), e))?;
        let queues = (0..made.queues).filter_map(|n| QueueId::new(i32::try_from(n).ok()?).ok()).collect();
        Ok(Self { store, topic, queues, clock, properties: Vec::new() })
    }

    /// What a source must give.
    pub fn needs() -> Needs {
        let columns = vec!["body", "born_timestamp", "keys", "message_id", "tags"];
        Needs { columns, all_properties: true, ..Needs::default() }
    }

    fn batch(&mut self, rows: &RecordBatch) -> Result<Batch, TaskError> {
        let text = |name: &str| rows.column_by_name(name).and_then(|c| c.as_string_view_opt());
        let (keys, tags, ids) = (text("keys"), text("tags"), text("message_id"));
        let bodies = rows.column_by_name("body").and_then(|c| c.as_binary_view_opt());
        let born = rows
            .column_by_name("born_timestamp")
            .and_then(|c| c.as_primitive_opt::<TimestampMillisecondType>());
        let map = rows.column_by_name("properties").and_then(|c| c.as_map_opt());
        let entries = map.and_then(|m| {
            let columns = m.entries().columns();
            Some((m, columns.first()?.as_string_view_opt()?, columns.get(1)?.as_string_view_opt()?))
        });
        let now = (self.clock)();
        let value = |column: Option<&'_ StringViewArray>, row: usize| {
            column.filter(|c| c.is_valid(row)).map(|c| c.value(row).to_owned())
        };
        let mut batch = Batch::new();
        for row in 0..rows.num_rows() {
            self.properties.clear();
            let key = value(keys, row);
            let mut push = |name: &str, text: &str| {
                if text.is_empty() {
                    return Ok(());
                }
                message::push_property(&mut self.properties, name, text).map_err(|e| {
                    TaskError::new(
                        Class::Record,
                        format!("row {row}: property {name} does not fit a message"),
                    )
                    .because(e)
                })
            };
            if let Some((map, names, values)) = &entries
                && map.is_valid(row)
            {
                let offsets = map.value_offsets();
                let (start, end) = (offsets[row], offsets[row + 1]);
                for i in usize::try_from(start).unwrap_or(0)..usize::try_from(end).unwrap_or(0) {
                    push(names.value(i), values.value(i))?;
                }
            }
            for (name, column) in [(TAGS, tags), (UNIQ_KEY, ids)] {
                if let Some(text) = value(column, row) {
                    push(name, &text)?;
                }
            }
            if let Some(key) = &key {
                push(KEYS, key)?;
            }
            let message = Message {
                body: bodies.filter(|b| b.is_valid(row)).map_or(&[], |b| b.value(row)),
                properties: &self.properties,
                born_timestamp_ms: born.filter(|b| b.is_valid(row)).map_or(now, |b| b.value(row)),
                ..Message::default()
            };
            let queue = self.queue(key.as_deref(), row);
            batch
                .push(&self.topic, queue, &message)
                .map_err(|e| failed(format!("row {row} does not fit a message"), e))?;
        }
        Ok(batch)
    }

    /// Equal keys meet in one queue; rows without keys are spread.
    fn queue(&self, key: Option<&str>, row: usize) -> QueueId {
        let number = key.map_or(row, |k| crc32fast::hash(k.as_bytes()) as usize);
        self.queues.get(number % self.queues.len().max(1)).copied().unwrap_or_default()
    }
}

fn failed(what: String, error: sluice_store::Error) -> TaskError {
    let class = match error.kind() {
        sluice_store::Kind::Retry => Class::Retry,
        sluice_store::Kind::Caller => Class::Config,
        sluice_store::Kind::Broken => Class::Fatal,
    };
    TaskError::new(class, what).because(error)
}

impl TransactTask for TopicSink {
    fn position(&mut self, chain: &Chain) -> Result<Option<(i64, String)>, TaskError> {
        Ok(self.store.position(&chain.to_string()).map(|p| (p.end, p.incarnation)))
    }

    fn begin(&mut self, chain: &Chain, origin: i64, incarnation: &str) -> Result<(), TaskError> {
        self.store
            .begin_chain(&chain.to_string(), origin, incarnation)
            .map_err(|e| failed(format!("cannot keep the position of {chain}"), e))
    }

    fn commit(
        &mut self,
        chain: &Chain,
        incarnation: &str,
        slice: &Slice,
        fates: &Fates,
    ) -> Result<(), TaskError> {
        let batch = self.batch(&slice.envelope)?;
        let mark = ChainMark {
            chain: chain.to_string(),
            incarnation: incarnation.to_owned(),
            start: slice.range.start,
            end: slice.range.end,
            fates: [fates.written, fates.filtered, fates.skipped, fates.dead, fates.absent],
        };
        let appended = self.store.append_chain(batch, &mark);
        appended.map(drop).map_err(|e| failed(format!("cannot append to topic {}", self.topic), e))
    }

    fn secure(&mut self) -> Result<(), TaskError> {
        self.store.flush().map_err(|e| failed("cannot flush the store".to_owned(), e))
    }
}

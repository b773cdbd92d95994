//! Sink `topic`: rows become messages of the embedded broker's store, and the source's position moves in
//! the same atomic batch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, AsArray, BinaryViewArray, BooleanArray, MapArray, RecordBatch, StringViewArray,
    TimestampMillisecondArray,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_client::{Access, ClientSettings};
use sluice_connect::batch::ROUTE;
use sluice_connect::task::{ACT_BYTES, Chain, Class, Fates, Needs, Slice, TaskError, TransactTask};
use sluice_protocol::id::{QueueId, QueueOffset, TopicName};
use sluice_protocol::message::{self, KEYS, Message, TAGS, UNIQ_KEY};
use sluice_store::{ATOMIC_PROPERTIES_BYTES_MAX, BODY_BYTES_MAX, Batch, ChainMark, Store};

use crate::returning::{Returning, There};

/// Settings of sink `topic`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TopicConfig {
    /// The topic; made if it does not exist.
    pub name: String,
    /// Name servers of the brokers that have it, `host:port` with semicolons between; the embedded broker if not
    /// said.
    #[serde(default)]
    pub cluster: Option<String>,
    /// How the cluster lets it in; as everybody if not said.
    #[serde(default)]
    pub access: Access,
    /// Queues of a topic that is made; rows with equal keys go to one queue.
    #[serde(default = "one")]
    pub queues: u32,
    /// Which queue a row goes to.
    #[serde(default)]
    pub queue: QueueBy,
}

/// Which queue of a topic a row goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueueBy {
    /// Equal keys meet in one; rows without keys are spread.
    #[default]
    Key,
    /// That of the number of the source's queue.
    Source,
}

impl QueueBy {
    /// The place of a row's queue among `count` of them.
    pub(crate) fn place(
        self,
        chain: &Chain,
        key: Option<&str>,
        row: usize,
        count: usize,
    ) -> Result<usize, TaskError> {
        match (self, key) {
            (Self::Key, Some(key)) => Ok(crc32fast::hash(key.as_bytes()) as usize % count.max(1)),
            (Self::Key, None) => Ok(row % count.max(1)),
            (Self::Source, _) => {
                let place = usize::try_from(chain.queue).ok().filter(|place| *place < count);
                place.ok_or_else(|| {
                    let message = format!(
                        "{chain}: the topic has {count} queues, so none has the number of the source's queue: give it \
                         more, or leave out `queue: source`"
                    );
                    TaskError::new(Class::Config, message)
                })
            }
        }
    }
}

impl TopicConfig {
    /// Settings of a client of these name servers.
    pub(crate) fn client(&self, cluster: &str) -> ClientSettings {
        ClientSettings { access: self.access.clone(), ..ClientSettings::new(cluster) }
    }
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
    /// Queues of a topic that is made.
    queues_made: u32,
    queue_by: QueueBy,
    /// Topics that a step has sent rows to.
    routed: BTreeMap<String, (TopicName, Vec<QueueId>)>,
    returning: Returning,
    clock: Clock,
    properties: Vec<u8>,
    /// What the next batch is to begin with, in bytes: a little more than the last one took.
    room: usize,
}

impl TopicSink {
    /// Opens the topic, made with `queues` queues if there is none.
    pub fn new(name: &str, queues: u32, store: Store, clock: Clock) -> Result<Self, TaskError> {
        let (topic, all) = made(&store, name, queues)?;
        let (routed, queue_by) = (BTreeMap::new(), QueueBy::Key);
        Ok(Self {
            store,
            topic,
            queues: all,
            queues_made: queues,
            queue_by,
            routed,
            returning: Returning::default(),
            clock,
            properties: Vec::new(),
            room: 0,
        })
    }

    /// Rows go to queues by this.
    #[must_use]
    pub fn with_queue_by(self, queue_by: QueueBy) -> Self {
        Self { queue_by, ..self }
    }

    /// Makes the topics that rows are sent to, but the sink's own.
    fn find_routed(&mut self, chain: &Chain, rows: &Rows<'_>, count: usize) -> Result<(), TaskError> {
        let names: BTreeSet<&str> = (0..count).filter_map(|row| text(rows.route, row)).collect();
        for name in names.into_iter().filter(|name| *name != self.topic.as_str()) {
            if name == &*chain.topic {
                return Err(loops(chain));
            }
            if !self.routed.contains_key(name) {
                check_routed(self.routed.len())?;
                self.routed.insert(name.to_owned(), made(&self.store, name, self.queues_made)?);
            }
        }
        Ok(())
    }

    /// What a source must give.
    pub fn needs() -> Needs {
        let columns = vec!["body", "born_timestamp", "keys", "message_id", "tags"];
        Needs { columns, all_properties: true, places: true, ..Needs::default() }
    }

    fn batch(&mut self, chain: &Chain, envelope: &RecordBatch) -> Result<Batch, TaskError> {
        let rows = Rows::new(envelope);
        self.find_routed(chain, &rows, envelope.num_rows())?;
        let now = (self.clock)();
        let mut batch = Batch::with_room(self.room);
        batch.atomic();
        for row in 0..envelope.num_rows() {
            self.properties.clear();
            let properties = &mut self.properties;
            rows.properties(row)
                .try_for_each(|(name, value)| message::push_property(properties, name, value))
                .map_err(|e| {
                    TaskError::new(Class::Fatal, format!("row {row} was taken for a message")).because(e)
                })?;
            let message = Message {
                body: rows.body(row),
                properties: &self.properties,
                born_timestamp_ms: rows.born(row).unwrap_or(now),
                ..Message::default()
            };
            let routed = text(rows.route, row).and_then(|name| self.routed.get(name));
            let (topic, queues) =
                routed.map_or((&self.topic, &self.queues), |(topic, queues)| (topic, queues));
            let place = self.queue_by.place(chain, text(rows.keys, row), row, queues.len())?;
            let queue = queues.get(place).copied().unwrap_or_default();
            batch
                .push(topic, queue, &message)
                .map_err(|e| failed(format!("row {row} does not fit a message"), e))?;
        }
        self.room = batch.bytes() + batch.bytes() / 8;
        Ok(batch)
    }
}

/// A topic with its queues, made if it does not exist.
fn made(store: &Store, name: &str, queues: u32) -> Result<(TopicName, Vec<QueueId>), TaskError> {
    let topic = TopicName::new(name).map_err(|e| TaskError::new(Class::Config, e.to_string()))?;
    let made =
        store.create_topic(&topic, queues).map_err(|e| failed(format!("cannot make topic {topic}"), e))?;
    Ok((topic, QueueId::all(made.queues).collect()))
}

/// Topics that a step may send rows to in one run, at most: a value that is new in each row would make as many.
const ROUTED_MAX: usize = 1000;

pub(crate) fn check_routed(known: usize) -> Result<(), TaskError> {
    if known < ROUTED_MAX {
        return Ok(());
    }
    let message =
        format!("step `route` names more than {ROUTED_MAX} topics: route by a value with fewer of them");
    Err(TaskError::new(Class::Config, message))
}

pub(crate) fn loops(chain: &Chain) -> TaskError {
    let message = format!(
        "step `route` sends rows to {}, which they came from: they would come again for ever",
        chain.topic
    );
    TaskError::new(Class::Config, message)
}

/// The columns of an envelope that become a message.
pub(crate) struct Rows<'a> {
    bodies: Option<&'a BinaryViewArray>,
    born: Option<&'a TimestampMillisecondArray>,
    pub(crate) keys: Option<&'a StringViewArray>,
    tags: Option<&'a StringViewArray>,
    ids: Option<&'a StringViewArray>,
    /// Topics, where a step has said them.
    pub(crate) route: Option<&'a StringViewArray>,
    properties: Option<(&'a MapArray, &'a StringViewArray, &'a StringViewArray)>,
    /// The columns that become properties of these names, as far as there are any.
    named: Vec<(&'static str, &'a StringViewArray)>,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(envelope: &'a RecordBatch) -> Self {
        // One of nulls is as good as none.
        let text = |name: &str| {
            let column = envelope.column_by_name(name)?.as_string_view_opt()?;
            (column.null_count() < column.len()).then_some(column)
        };
        let map = envelope.column_by_name("properties").and_then(|c| c.as_map_opt());
        let (keys, tags, ids) = (text("keys"), text("tags"), text("message_id"));
        let named = [(TAGS, tags), (UNIQ_KEY, ids), (KEYS, keys)];
        Self {
            bodies: envelope.column_by_name("body").and_then(|c| c.as_binary_view_opt()),
            born: envelope.column_by_name("born_timestamp").and_then(|c| c.as_primitive_opt()),
            keys,
            tags,
            ids,
            named: named.into_iter().filter_map(|(name, column)| Some((name, column?))).collect(),
            route: text(ROUTE),
            properties: map.and_then(|map| {
                let columns = map.entries().columns();
                Some((map, columns.first()?.as_string_view_opt()?, columns.get(1)?.as_string_view_opt()?))
            }),
        }
    }

    pub(crate) fn body(&self, row: usize) -> &'a [u8] {
        self.bodies.filter(|b| b.is_valid(row)).map_or(&[], |b| b.value(row))
    }

    #[cfg(feature = "kafka")]
    pub(crate) fn has_no_body(&self, row: usize) -> bool {
        self.bodies.is_some_and(|bodies| bodies.is_null(row))
    }

    #[cfg(any(feature = "amqp091", feature = "amqp10", feature = "kafka"))]
    pub(crate) fn tag(&self, row: usize) -> Option<&'a str> {
        text(self.tags, row)
    }

    pub(crate) fn message_id(&self, row: usize) -> Option<&'a str> {
        text(self.ids, row)
    }

    /// When the message was made, in ms since 1970-01-01 UTC, if that is known.
    pub(crate) fn born(&self, row: usize) -> Option<i64> {
        self.born.filter(|born| born.is_valid(row)).map(|born| born.value(row))
    }

    /// The properties that have no column of their own.
    pub(crate) fn own_properties(&self, row: usize) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let properties = self.properties.filter(|(map, ..)| map.is_valid(row));
        let entries = properties.map_or(0..0, |(map, ..)| {
            let offsets = map.value_offsets();
            let place = |offset: i32| usize::try_from(offset).unwrap_or(0);
            place(offsets[row])..place(offsets[row + 1])
        });
        entries.filter_map(move |at| properties.map(|(_, names, values)| (names.value(at), values.value(at))))
    }

    /// Whether any row has a property of this name.
    pub(crate) fn have_property(&self, name: &str) -> bool {
        self.properties.is_some_and(|(_, names, _)| names.iter().any(|other| other == Some(name)))
    }

    /// The message's properties, without those that are empty, which are the same as none.
    pub(crate) fn properties(&self, row: usize) -> impl Iterator<Item = (&'a str, &'a str)> {
        let named =
            self.named.iter().filter_map(move |&(name, column)| Some((name, text(Some(column), row)?)));
        self.own_properties(row).chain(named).filter(|(_, value)| !value.is_empty())
    }

    /// The rows that can be no message, each with the reason.
    pub(crate) fn all_unfit(envelope: &'a RecordBatch) -> Vec<(usize, String)> {
        let rows = Self::new(envelope);
        if rows.surely_fit() {
            return Vec::new();
        }
        (0..envelope.num_rows()).filter_map(|row| Some((row, rows.unfit(row)?))).collect()
    }

    /// Whether no row can be unfit, by a look at whole columns: of nearly all batches that is all that is to be asked.
    fn surely_fit(&self) -> bool {
        let longest = |column: &StringViewArray| column.lengths().max().unwrap_or(0) as usize;
        let (mut entries, mut values, mut without) = (self.named.len(), 0, true);
        if let Some((map, names, of_names)) = self.properties {
            let counts = map.value_offsets().windows(2).map(|ends| ends[1].saturating_sub(ends[0]));
            entries += usize::try_from(counts.max().unwrap_or(0)).unwrap_or(usize::MAX);
            values = longest(names) + longest(of_names);
            without = names.lengths().all(|len| len > 0)
                && surely_without_separators(names)
                && surely_without_separators(of_names);
        }
        for (name, column) in &self.named {
            values = values.max(name.len() + longest(column));
            without &= surely_without_separators(column);
        }
        let body = self.bodies.map_or(0, |bodies| bodies.lengths().max().unwrap_or(0) as usize);
        without
            && self.route.is_none()
            && body <= BODY_BYTES_MAX
            && entries.saturating_mul(values + 2) <= ATOMIC_PROPERTIES_BYTES_MAX
    }

    /// Why a row can be no message of an atomic batch, if so.
    fn unfit(&self, row: usize) -> Option<String> {
        let body = self.body(row).len();
        if body > BODY_BYTES_MAX {
            return Some(format!("body of {body} bytes exceeds the limit of {BODY_BYTES_MAX} bytes"));
        }
        if let Some(name) = text(self.route, row)
            && let Err(error) = TopicName::new(name)
        {
            return Some(format!("step `route`: {error}"));
        }
        let mut bytes = 0;
        let checked = self.properties(row).try_for_each(|(name, value)| {
            bytes += name.len() + value.len() + 2;
            message::check_property(name, value)
        });
        if let Err(error) = checked {
            return Some(error.to_string());
        }
        (bytes > ATOMIC_PROPERTIES_BYTES_MAX).then(|| {
            format!("properties of {bytes} bytes exceed the limit of {ATOMIC_PROPERTIES_BYTES_MAX} bytes")
        })
    }
}

/// Whether no text of a column has a byte of those that separate properties, or a zero. A column that shows a part of its
/// blocks only may be doubted without reason.
fn surely_without_separators(column: &StringViewArray) -> bool {
    const ONES: u128 = u128::MAX / 255;
    // Its lowest top bit that is set marks the first byte below 3.
    let below = |text: u128| text.wrapping_sub(3 * ONES) & !text & (128 * ONES);
    // Four bytes of a view are the length, the others the text if it is that short.
    let short = |view: &u128| match *view & 0xFFFF_FFFF {
        len @ ..=12 => below(view >> 32) & ((1 << (8 * len)) - 1),
        _ => 0,
    };
    let blocks = column.data_buffers().iter().flat_map(|block| block.iter());
    // No early end: so the compiler looks at many bytes at a time.
    column.views().iter().fold(0, |found, view| found | short(view)) == 0
        && !blocks.fold(false, |found, &byte| found | (byte <= 2))
}

pub(crate) fn text(column: Option<&StringViewArray>, row: usize) -> Option<&str> {
    column.filter(|c| c.is_valid(row)).map(|c| c.value(row))
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

    fn unfit(&self, slice: &Slice) -> Vec<(usize, String)> {
        Rows::all_unfit(&slice.envelope)
    }

    fn kept(&mut self, slice: &Slice) -> Result<Option<BooleanArray>, TaskError> {
        let rows = Rows::new(&slice.envelope);
        let Self { store, topic, returning, .. } = self;
        returning.kept(&rows, slice.envelope.num_rows(), topic.as_str(), |topic, place| {
            let queue = TopicName::new(topic).ok().zip(QueueId::new(place.queue).ok());
            let Some(((topic, queue), (first, end))) = queue
                .and_then(|(topic, queue)| Some(((topic.clone(), queue), store.offsets(&topic, queue)?)))
            else {
                return Ok(There::Never);
            };
            if place.offset < first.get() {
                return Ok(There::Gone);
            }
            if place.offset >= end.get() {
                return Ok(There::Never);
            }
            let read = store.read(&topic, queue, QueueOffset::new(place.offset), 1);
            let read = read.map_err(|e| failed(format!("cannot read topic {topic}"), e))?;
            Ok(There::Records(read.runs.first().map_or_else(Vec::new, |run| run.bytes.to_vec())))
        })
    }

    fn commit(
        &mut self,
        chain: &Chain,
        incarnation: &str,
        slice: &Slice,
        fates: &Fates,
    ) -> Result<(), TaskError> {
        let batch = self.batch(chain, &slice.envelope)?;
        let mark = ChainMark {
            chain: chain.to_string(),
            incarnation: incarnation.to_owned(),
            start: slice.range.start,
            end: slice.range.end,
            // The mark has no place of its own for rows that another one made needless.
            fates: [
                fates.written,
                fates.filtered + fates.deduplicated,
                fates.skipped,
                fates.dead,
                fates.absent,
            ],
        };
        let appended = self.store.append_chain(batch, &mark);
        appended.map(drop).map_err(|e| failed(format!("cannot append to topic {}", self.topic), e))
    }

    fn bytes_wanted(&self) -> usize {
        if self.store.syncs_appends() { ACT_BYTES } else { 0 }
    }

    fn secure(&mut self) -> Result<(), TaskError> {
        self.store.flush().map_err(|e| failed("cannot flush the store".to_owned(), e))
    }
}

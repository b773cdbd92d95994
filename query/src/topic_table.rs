//! One topic as a `DataFusion` table: a partition a queue, up to where it ended when the query began.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::project_schema;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use sluice_connect::batch;
use sluice_connect::task::{Needs, Range};
use sluice_formats::json::Inferer;
use sluice_protocol::id::{QueueId, QueueOffset};
use sluice_store::{Store, Topic};

use crate::Failure;
use crate::pushdown::Pushdown;
use crate::queue_rows::{Column, QueueRows, READ_BYTES};

/// Bodies of each queue, in bytes, that the types of a topic's fields are taken from. What comes after them
/// and does not fit is null, and told.
const INFER_BYTES: usize = 256 << 20;

/// The table: the fields of the bodies, then the envelope's columns with `_` before their names.
#[derive(Debug)]
pub(crate) struct TopicTable {
    store: Store,
    topic: Topic,
    queues: Vec<(QueueId, Range)>,
    columns: Vec<Column>,
    schema: SchemaRef,
}

/// What was found of the bodies of a topic: each message is looked at once.
#[derive(Default)]
pub(crate) struct TopicShape {
    incarnation: String,
    inferer: Inferer,
    /// The next offset and the bytes so far, by queue.
    seen: Vec<(i64, usize)>,
}

impl TopicTable {
    /// Over what the topic has now; the types of its fields are those of all bodies, of which `shape` knows some.
    pub(crate) fn new(store: &Store, topic: &Topic, shape: &mut TopicShape) -> Result<Self, Failure> {
        let mut queues = Vec::new();
        for queue in QueueId::all(topic.queues) {
            let (first, end) = store.offsets(&topic.name, queue).unwrap_or_default();
            queues.push((queue, Range { start: first.get(), end: end.get() }));
        }
        if shape.incarnation != topic.incarnation {
            *shape = TopicShape { incarnation: topic.incarnation.clone(), ..TopicShape::default() };
        }
        shape.look(store, topic, &queues)?;
        let decoded = shape.inferer.schema();
        let (mut columns, mut fields) = (Vec::new(), Vec::new());
        let envelope: Vec<(&str, Field)> = envelope_fields().collect();
        let mut taken: Vec<String> = envelope.iter().map(|(_, f)| f.name().clone()).collect();
        for field in decoded.fields() {
            let mut name = field.name().clone();
            while taken.contains(&name) {
                name.insert(0, '_');
            }
            fields.push(field.as_ref().clone().with_name(name.clone()).with_nullable(true));
            columns.push(Column::Body(Arc::clone(field)));
            taken.push(name);
        }
        for (name, field) in envelope {
            fields.push(field);
            columns.push(Column::Envelope(name));
        }
        let schema = Arc::new(Schema::new(fields));
        Ok(Self { store: store.clone(), topic: topic.clone(), queues, columns, schema })
    }
}

#[async_trait]
impl TableProvider for TopicTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        let support = |filter: &&Expr| {
            if Pushdown::default().add(filter) {
                TableProviderFilterPushDown::Inexact
            } else {
                TableProviderFilterPushDown::Unsupported
            }
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let schema = project_schema(&self.schema, projection)?;
        let columns: Vec<Column> = match projection {
            Some(indices) => indices.iter().filter_map(|i| self.columns.get(*i).cloned()).collect(),
            None => self.columns.clone(),
        };
        let mut pushdown = Pushdown::default();
        for filter in filters {
            pushdown.add(filter);
        }
        let filter = pushdown.filter().map(Arc::new);
        let mut partitions: Vec<Arc<dyn PartitionStream>> = Vec::new();
        for (queue, range) in &self.queues {
            let range = pushdown.range(&self.store, &self.topic.name, *queue, *range);
            let range = range.map_err(DataFusionError::External)?;
            partitions.push(Arc::new(QueueRows {
                store: self.store.clone(),
                topic: self.topic.clone(),
                queue: *queue,
                range,
                columns: columns.clone(),
                filter: filter.clone(),
                schema: Arc::clone(&schema),
            }));
        }
        Ok(Arc::new(StreamingTableExec::try_new(schema, partitions, None, [], false, limit)?))
    }
}

/// The envelope's columns but the body: their names, and their fields in a table.
pub(crate) fn envelope_fields() -> impl Iterator<Item = (&'static str, Field)> {
    batch::COLUMNS.into_iter().filter(|name| *name != "body").filter_map(|name| {
        let field = batch::field(name)?.with_name(format!("_{name}"));
        // `DataFusion` 55 finds no key of a map whose keys are views.
        let is_map = name == "properties";
        Some((name, if is_map { field.with_data_type(plain_map()) } else { field }))
    })
}

/// The type of a map from text to text.
fn plain_map() -> DataType {
    let entries = vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)];
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries.into()), false)), false)
}

impl TopicShape {
    /// Looks at the bodies that it has not seen.
    fn look(&mut self, store: &Store, topic: &Topic, queues: &[(QueueId, Range)]) -> Result<(), Failure> {
        self.seen.resize(self.seen.len().max(queues.len()), (0, 0));
        let needs = Needs { columns: vec!["body"], ..Needs::default() };
        for ((queue, range), (next, bytes)) in queues.iter().zip(&mut self.seen) {
            *next = (*next).max(range.start);
            while *next < range.end && *bytes < INFER_BYTES {
                let read = store.read(&topic.name, *queue, QueueOffset::new(*next), READ_BYTES)?;
                let end = read.next.get().min(range.end);
                if end <= *next {
                    break;
                }
                let slice = sluice_sources::topic::slice(&read.runs, Range { start: *next, end }, &needs)?;
                let bodies = slice.envelope.column_by_name("body").and_then(|c| c.as_binary_view_opt());
                for body in bodies.into_iter().flatten().flatten() {
                    // A body that is no JSON object has no columns; its envelope is shown all the same.
                    let _ = self.inferer.add(body);
                }
                *bytes += read.bytes;
                // It may end before its range.
                *next = slice.range.end;
            }
        }
        Ok(())
    }
}

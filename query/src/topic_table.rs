//! One topic as a `DataFusion` table: a partition a queue, read as it streams.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use sluice_connect::batch;
use sluice_connect::task::{Needs, Range, Slice};
use sluice_formats::json::{Decoder, Inferer};
use sluice_protocol::id::{QueueId, QueueOffset};
use sluice_store::{Store, Topic};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Rows of each queue that the types of a topic's fields are taken from.
const SAMPLE_ROWS: usize = 20_000;
const READ_BYTES: usize = 2 * 1024 * 1024;

/// The table of a topic: its decoded fields, then the envelope's columns with `_` before their names.
pub(crate) fn provider(store: &Store, topic: &Topic) -> Result<Arc<dyn TableProvider>, Failure> {
    let mut queues = Vec::new();
    for number in 0..topic.queues {
        let queue = QueueId::new(i32::try_from(number)?)?;
        let (first, end) = store.offsets(&topic.name, queue).unwrap_or_default();
        queues.push((queue, first.get(), end.get()));
    }
    let decoded = sample(store, topic, &queues)?;
    let mut fields: Vec<Field> =
        decoded.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    let envelope =
        batch::COLUMNS.iter().filter(|name| **name != "body").filter_map(|name| batch::field(name));
    fields.extend(envelope.map(|f| {
        let name = format!("_{}", f.name());
        f.with_name(name)
    }));
    let schema = Arc::new(Schema::new(fields));
    let partitions = queues
        .into_iter()
        .map(|(queue, first, end)| {
            Arc::new(QueueRows {
                store: store.clone(),
                topic: topic.clone(),
                queue,
                range: Range { start: first, end },
                decoded: Arc::clone(&decoded),
                schema: Arc::clone(&schema),
            }) as Arc<dyn PartitionStream>
        })
        .collect();
    Ok(Arc::new(StreamingTable::try_new(schema, partitions)?))
}

fn needs() -> Needs {
    Needs { columns: batch::COLUMNS.to_vec(), all_properties: true, ..Needs::default() }
}

fn sample(store: &Store, topic: &Topic, queues: &[(QueueId, i64, i64)]) -> Result<SchemaRef, Failure> {
    let mut inferer = Inferer::new();
    let needs = Needs { columns: vec!["body"], ..Needs::default() };
    for (queue, first, end) in queues {
        let (mut next, mut rows) = (*first, 0);
        while next < *end && rows < SAMPLE_ROWS {
            let read = store.read(&topic.name, *queue, QueueOffset::new(next), READ_BYTES)?;
            if read.next.get() <= next {
                break;
            }
            let slice = sluice_sources::topic::slice(
                &read.runs,
                Range { start: next, end: read.next.get() },
                &needs,
            )?;
            let bodies = slice.envelope.column_by_name("body").and_then(|c| c.as_binary_view_opt());
            for body in bodies.into_iter().flatten().flatten() {
                // A body that is no JSON object has no columns; its envelope is shown all the same.
                let _ = inferer.add(body);
            }
            rows += slice.envelope.num_rows();
            next = slice.range.end;
        }
    }
    Ok(inferer.schema())
}

/// One queue, up to where it ended when the query began.
struct QueueRows {
    store: Store,
    topic: Topic,
    queue: QueueId,
    range: Range,
    decoded: SchemaRef,
    schema: SchemaRef,
}

impl std::fmt::Debug for QueueRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "topic {} queue {} {:?}", self.topic.name, self.queue, self.range)
    }
}

impl PartitionStream for QueueRows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let reader = Decoder::new(Arc::clone(&self.decoded)).map(|decoder| Reader {
            store: self.store.clone(),
            topic: self.topic.clone(),
            queue: self.queue,
            next: self.range.start,
            end: self.range.end,
            decoder,
            schema: Arc::clone(&self.schema),
        });
        let batches: Box<dyn Iterator<Item = Result<RecordBatch, DataFusionError>> + Send> = match reader {
            Ok(reader) => Box::new(reader.map(|batch| batch.map_err(DataFusionError::External))),
            Err(error) => Box::new(std::iter::once(Err(DataFusionError::External(Box::new(error))))),
        };
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), futures::stream::iter(batches)))
    }
}

struct Reader {
    store: Store,
    topic: Topic,
    queue: QueueId,
    next: i64,
    end: i64,
    decoder: Decoder,
    schema: SchemaRef,
}

impl Iterator for Reader {
    type Item = Result<RecordBatch, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.next < self.end).then(|| self.read())
    }
}

impl Reader {
    fn read(&mut self) -> Result<RecordBatch, Failure> {
        let read = self.store.read(&self.topic.name, self.queue, QueueOffset::new(self.next), READ_BYTES)?;
        let end = read.next.get().min(self.end);
        if end <= self.next {
            let message = format!("queue {} gives nothing at {}", self.queue, self.next);
            self.next = self.end;
            return Err(message.into());
        }
        let slice = sluice_sources::topic::slice(&read.runs, Range { start: self.next, end }, &needs())?;
        self.next = slice.range.end;
        self.rows(&slice)
    }

    /// Decoded columns beside the envelope; a body that does not fit has nulls, and its envelope.
    fn rows(&mut self, slice: &Slice) -> Result<RecordBatch, Failure> {
        let envelope = &slice.envelope;
        let bodies =
            envelope.column_by_name("body").and_then(|c| c.as_binary_view_opt()).ok_or("no bodies")?;
        let decoded = self.decoder.decode(&mut bodies.iter())?;
        let mut numbers: Vec<Option<u32>> = Vec::with_capacity(envelope.num_rows());
        let mut rejects = decoded.rejects.iter().map(|(row, _)| *row).peekable();
        let mut fitting = 0;
        for row in 0..envelope.num_rows() {
            if rejects.next_if_eq(&row).is_some() {
                numbers.push(None);
            } else {
                numbers.push(Some(fitting));
                fitting += 1;
            }
        }
        let all_fit = decoded.rejects.is_empty();
        let numbers = UInt32Array::from(numbers);
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for column in decoded.batch.columns() {
            columns.push(if all_fit { Arc::clone(column) } else { take(column, &numbers, None)? });
        }
        for field in self.schema.fields().iter().skip(decoded.batch.num_columns()) {
            let name = field.name().trim_start_matches('_');
            let column = envelope.column_by_name(name).ok_or_else(|| format!("no column {name}"))?;
            // A body's views are left behind here, so nothing keeps the log's bytes longer than a batch.
            debug_assert!(
                !matches!(column.data_type(), DataType::BinaryView) && column.len() == envelope.num_rows()
            );
            columns.push(Arc::clone(column));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(envelope.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

//! The rows of one queue through a pipeline's steps, as a stream of record batches with the columns of its table.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use sluice_connect::steps::{Next, Steps};
use sluice_connect::task::{Range, Read, Slice, SourceQueue, SourceTask, TaskError};
use sluice_sinks::published::Target;
use sluice_sources::topic::TopicSource;
use sluice_store::Store;

use crate::Failure;
use crate::pipeline_table::Pipeline;
use crate::queue_rows::READ_BYTES;

/// What one queue has that is in no file.
pub(crate) struct LogRows {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) store: Store,
    pub(crate) queue: SourceQueue,
    pub(crate) range: Range,
    pub(crate) decoded: Option<SchemaRef>,
    /// The columns that are asked for.
    pub(crate) schema: SchemaRef,
}

impl fmt::Debug for LogRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Range { start, end }, SourceQueue { topic, queue, .. }) = (self.range, &self.queue);
        write!(f, "pipeline={} topic={topic} queue={queue} offsets={start}..{end}", self.pipeline.name)
    }
}

impl PartitionStream for LogRows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches: Box<dyn Iterator<Item = Result<RecordBatch, DataFusionError>> + Send> =
            match Reader::new(self) {
                Ok(reader) => Box::new(reader.map(|batch| batch.map_err(DataFusionError::External))),
                Err(error) => Box::new(std::iter::once(Err(DataFusionError::External(error)))),
            };
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), futures::stream::iter(batches)))
    }
}

struct Reader {
    source: TopicSource,
    steps: Steps,
    target: Target,
    queue: SourceQueue,
    next: i64,
    /// Rows before it are only looked at.
    start: i64,
    end: i64,
    schema: SchemaRef,
    ready: VecDeque<RecordBatch>,
}

impl Reader {
    fn new(rows: &LogRows) -> Result<Self, Failure> {
        let LogRows { pipeline, store, queue, range, decoded, schema } = rows;
        let (mut steps, needs) = (pipeline.make_steps)()?;
        let mut source = TopicSource::new(&pipeline.topic, &pipeline.name, store.clone(), Vec::new())?;
        source.open(&needs)?;
        if let Some(decoded) = decoded {
            steps.fix(decoded)?;
        }
        // What steps look back at is read again, and gives no row.
        let back = steps.looks_back();
        steps.warm_until(0, range.start);
        Ok(Self {
            source,
            steps,
            target: pipeline.target.clone(),
            queue: queue.clone(),
            next: range.start.saturating_sub(back).max(queue.first.min(range.start)),
            start: range.start,
            end: range.end,
            schema: Arc::clone(schema),
            ready: VecDeque::new(),
        })
    }

    fn read(&mut self) -> Result<(), Failure> {
        let end = if self.next < self.start { self.start } else { self.end };
        let slice = read(&mut self.source, &self.queue, Range { start: self.next, end })?;
        self.next = slice.range.end;
        for slice in through(&mut self.steps, 0, slice)?.0 {
            if slice.envelope.num_rows() > 0 {
                self.ready.push_back(as_asked(&self.target.rows(&slice)?, &self.schema)?);
            }
        }
        Ok(())
    }
}

impl Iterator for Reader {
    type Item = Result<RecordBatch, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && self.next < self.end {
            if let Err(error) = self.read() {
                self.next = self.end;
                return Some(Err(error));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

/// Reads a slice at the start of a range that is there.
pub(crate) fn read(source: &mut TopicSource, queue: &SourceQueue, range: Range) -> Result<Slice, Failure> {
    match source.read(&queue.topic, queue.queue, range, READ_BYTES)? {
        Read::Slice(slice) => Ok(slice),
        _ => {
            Err(format!("topic {} queue {} gives nothing at {}", queue.topic, queue.queue, range.start)
                .into())
        }
    }
}

/// What becomes of a slice, and the schema if it grew.
pub(crate) fn through(
    steps: &mut Steps,
    number: usize,
    slice: Slice,
) -> Result<(Vec<Slice>, Option<SchemaRef>), TaskError> {
    match steps.push(number, slice)? {
        Next::Pass(slices) => Ok((slices.into_iter().map(|(_, slice)| slice).collect(), None)),
        Next::Fix(schema) => fix(steps, schema).map(|(slices, schema)| (slices, Some(schema))),
    }
}

/// Takes the schema that is asked for and those that it grows into: what waited for them, and the last.
pub(crate) fn fix(steps: &mut Steps, mut schema: SchemaRef) -> Result<(Vec<Slice>, SchemaRef), TaskError> {
    let mut slices = Vec::new();
    loop {
        steps.fix(&schema)?;
        let released = steps.release()?;
        slices.extend(released.slices.into_iter().map(|(_, slice)| slice));
        match released.wider {
            Some(wider) => schema = wider,
            None => return Ok((slices, schema)),
        }
    }
}

/// The columns that are asked for, of their types; null where the rows have none.
fn as_asked(rows: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, arrow::error::ArrowError> {
    let columns = schema.fields().iter().map(|field| match rows.column_by_name(field.name()) {
        Some(column) => cast(column, field.data_type()),
        None => Ok(new_null_array(field.data_type(), rows.num_rows())),
    });
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns.collect::<Result<_, _>>()?, &options)
}

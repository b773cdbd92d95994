//! The rows of one queue as a stream of record batches: only the columns that are asked for are made.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use sluice_connect::task::{Needs, Range, Slice};
use sluice_filters::Filter;
use sluice_formats::json::Decoder;
use sluice_protocol::id::{QueueId, QueueOffset};
use sluice_store::{Store, Topic};

use crate::Failure;

/// Bytes of the log that are read at once.
pub(crate) const READ_BYTES: usize = 2 * 1024 * 1024;

/// Where a column of the table comes from.
#[derive(Clone, Debug)]
pub(crate) enum Column {
    /// A field of the decoded body.
    Body(FieldRef),
    /// An envelope column, without the `_` that the table puts before its name.
    Envelope(&'static str),
}

/// One queue of a topic.
pub(crate) struct QueueRows {
    pub(crate) store: Store,
    pub(crate) topic: Topic,
    pub(crate) queue: QueueId,
    pub(crate) range: Range,
    /// The columns of `schema`, in its order.
    pub(crate) columns: Vec<Column>,
    /// Rows that can not pass the query are left out.
    pub(crate) filter: Option<Arc<Filter>>,
    pub(crate) schema: SchemaRef,
}

impl std::fmt::Debug for QueueRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Range { start, end } = self.range;
        write!(f, "topic={} queue={} offsets={start}..{end}", self.topic.name, self.queue)?;
        self.filter.as_ref().map_or(Ok(()), |filter| write!(f, " where={}", filter.text()))
    }
}

impl PartitionStream for QueueRows {
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
    store: Store,
    topic: Topic,
    queue: QueueId,
    next: i64,
    end: i64,
    needs: Needs,
    columns: Vec<Column>,
    /// `None` if no field of the body is asked for.
    decoder: Option<Decoder>,
    schema: SchemaRef,
    misfits: Misfits,
}

/// Rows that do not fit the inferred columns, and why the first of them does not.
#[derive(Default)]
struct Misfits {
    rows: usize,
    first: String,
}

impl Misfits {
    fn add(&mut self, rows: usize, offset: i64, reason: &str) {
        if self.rows == 0 {
            self.first = format!("offset {offset}: {reason}");
        }
        self.rows += rows;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.misfits.rows > 0 {
            let Misfits { rows, first } = &self.misfits;
            let (topic, queue_id) = (&self.topic.name, self.queue.get());
            tracing::warn!(%topic, queue_id, rows, first, "bodies that do not fit show null in their columns");
        }
    }
}

impl Iterator for Reader {
    type Item = Result<RecordBatch, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.next < self.end).then(|| {
            let read = self.read();
            if read.is_err() {
                self.next = self.end;
            }
            read
        })
    }
}

impl Reader {
    fn new(rows: &QueueRows) -> Result<Self, Failure> {
        let mut needs = Needs { columns: vec!["queue_offset"], ..Needs::default() };
        let mut fields = Vec::new();
        for column in &rows.columns {
            match column {
                Column::Body(field) => fields.push(Arc::clone(field)),
                Column::Envelope("properties") => needs.all_properties = true,
                Column::Envelope(name) => needs.columns.push(name),
            }
        }
        let decoder = if fields.is_empty() {
            None
        } else {
            needs.columns.push("body");
            Some(Decoder::projecting(Arc::new(Schema::new(fields)))?)
        };
        needs.columns.sort_unstable();
        needs.columns.dedup();
        needs.filter.clone_from(&rows.filter);
        Ok(Self {
            store: rows.store.clone(),
            topic: rows.topic.clone(),
            queue: rows.queue,
            next: rows.range.start,
            end: rows.range.end,
            needs,
            columns: rows.columns.clone(),
            decoder,
            schema: Arc::clone(&rows.schema),
            misfits: Misfits::default(),
        })
    }

    fn read(&mut self) -> Result<RecordBatch, Failure> {
        let read = self.store.read(&self.topic.name, self.queue, QueueOffset::new(self.next), READ_BYTES)?;
        let end = read.next.get().min(self.end);
        if end <= self.next {
            return Err(format!("queue {} gives nothing at {}", self.queue, self.next).into());
        }
        let slice = sluice_sources::topic::slice(&read.runs, Range { start: self.next, end }, &self.needs)?;
        // It may end before its range.
        self.next = slice.range.end;
        if let Some(reject) = slice.rejects.first() {
            self.misfits.add(slice.rejects.len(), reject.offset, &reject.reason);
        }
        self.rows(&slice)
    }

    /// The columns of the query; a body that does not fit has nulls, and its envelope.
    fn rows(&mut self, slice: &Slice) -> Result<RecordBatch, Failure> {
        let rows = slice.envelope.num_rows();
        let mut decoded = self.decode(slice)?.into_iter();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for (column, field) in self.columns.iter().zip(self.schema.fields()) {
            columns.push(match column {
                Column::Body(_) => decoded.next().ok_or("a decoded column is missing")?,
                Column::Envelope(name) => {
                    let column = slice.envelope.column_by_name(name);
                    cast(column.ok_or_else(|| format!("no column {name}"))?, field.data_type())?
                }
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    fn decode(&mut self, slice: &Slice) -> Result<Vec<ArrayRef>, Failure> {
        let Some(decoder) = &mut self.decoder else { return Ok(Vec::new()) };
        let envelope = &slice.envelope;
        let bodies =
            envelope.column_by_name("body").and_then(|c| c.as_binary_view_opt()).ok_or("no bodies")?;
        let decoded = decoder.decode(&mut bodies.iter())?;
        let Some((first, reason)) = decoded.rejects.first() else {
            return Ok(decoded.batch.columns().to_vec());
        };
        let offset = sluice_connect::batch::offsets(envelope).get(*first).copied().unwrap_or(self.next);
        self.misfits.add(decoded.rejects.len(), offset, reason);
        let mut rejects = decoded.rejects.iter().map(|(row, _)| *row).peekable();
        let mut fitting = 0..;
        let numbers: UInt32Array = (0..envelope.num_rows())
            .map(|row| if rejects.next_if_eq(&row).is_some() { None } else { fitting.next() })
            .collect();
        let spread = |column: &ArrayRef| take(column, &numbers, None);
        Ok(decoded.batch.columns().iter().map(spread).collect::<Result<_, _>>()?)
    }
}

//! What happens to a slice between source and sink: decode, the part of `where` that reads the body,
//! the steps, and the fate of what does not fit.
//!
//! Under `infer` slices are held until the schema is fixed. Reads no source and writes no target.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use sluice_filters::{Filter, Name};
use sluice_formats::Decoded;

use crate::batch;
use crate::config::{Document, Expression, Step, Then};
use crate::decode::{Bodies, Outside, Wait};
use crate::task::{Class, Fates, Needs, REJECT_BODY_BYTES_MAX, Reject, Slice, TaskError};

/// Bytes that are held for `infer` at most.
const HELD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Slices that are held for `infer` at most: where a filter leaves few rows, most of them are empty.
const HELD_SLICES_MAX: usize = 10_000;

/// Compiled steps of one pipeline.
pub struct Steps {
    bodies: Option<Bodies>,
    /// Filters that run here, after decoding, in order.
    filters: Vec<Filter>,
    then: Then,
    /// What the sink wants; the filters may need more of the envelope.
    wanted: Needs,
    held: Vec<(usize, Slice)>,
    held_rows: u64,
    held_bytes: usize,
}

enum Applied {
    Slice(Slice),
    /// The slice as it came, and the schema that is to stand first.
    Grow(SchemaRef, Box<Slice>),
}

/// Slices that waited for a schema.
pub struct Released {
    /// Those that it was for, each with the number of its chain.
    pub slices: Vec<(usize, Slice)>,
    /// What is to stand before the others pass: call [`Steps::fix`] with what stands then.
    pub wider: Option<SchemaRef>,
}

/// What the steps want next.
pub enum Next {
    /// Slices to pass on, each with the number of its chain.
    Pass(Vec<(usize, Slice)>),
    /// The schema is to be fixed before anything passes: call [`Steps::fix`] with what stands then.
    Fix(SchemaRef),
}

impl Steps {
    /// Compiles a document's steps, and what it needs of its source: `columns` for the sink.
    pub fn new<S, K>(document: &Document<S, K>, sink: &Needs) -> Result<(Self, Needs), TaskError> {
        Self::with(document, sink, Outside::default())
    }

    /// The same with what `decode` names outside of the document.
    pub fn with<S, K>(
        document: &Document<S, K>,
        sink: &Needs,
        outside: Outside,
    ) -> Result<(Self, Needs), TaskError> {
        let mut needs = sink.clone();
        let (mut pushed, mut filters) = (None, Vec::new());
        if let Some(Expression(filter)) = &document.filter {
            let (front, rest) = filter.split();
            pushed = front;
            filters.extend(rest);
        }
        filters.extend(document.steps.iter().map(|Step::Where(Expression(f))| f.clone()));
        for name in pushed.iter().chain(&filters).flat_map(Filter::names) {
            match name {
                Name::Property(property) => needs.properties.push(property.clone()),
                Name::Envelope(column) => needs.columns.extend(batch::COLUMNS.iter().find(|c| *c == column)),
                Name::Field(_) => {}
            }
        }
        let bodies = match &document.decode {
            None => None,
            Some(decode) => {
                needs.columns.push("body");
                needs.all_properties |= document.errors.then == Then::DeadLetter;
                Some(Bodies::new(decode, outside)?)
            }
        };
        needs.columns.sort_unstable();
        needs.columns.dedup();
        needs.properties.sort_unstable();
        needs.properties.dedup();
        needs.filter = pushed.map(Arc::new);
        let then = document.errors.then;
        let (mut wanted, held) = (sink.clone(), Vec::new());
        if bodies.is_some() && then == Then::DeadLetter {
            // A row that the sink turns away keeps its body; a file holds the decoded columns alone.
            wanted.columns.push("body");
            wanted.all_properties = true;
        }
        let steps = Self { bodies, filters, then, wanted, held, held_rows: 0, held_bytes: 0 };
        Ok((steps, needs))
    }

    /// Whether bodies are decoded.
    pub fn decodes(&self) -> bool {
        self.bodies.is_some()
    }

    /// Whether the schema grows by what is new.
    pub fn grows(&self) -> bool {
        self.bodies.as_ref().is_some_and(Bodies::grows)
    }

    /// Whether slices wait for the schema.
    pub fn holds_any(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether slices of chain number `chain` wait for the schema.
    pub fn holds(&self, chain: usize) -> bool {
        self.held.iter().any(|(number, _)| *number == chain)
    }

    /// Whether the schema that stands is the one that the config declares, if it declares one.
    pub fn check_declared(&self, standing: &SchemaRef) -> Result<(), TaskError> {
        self.bodies.as_ref().map_or(Ok(()), |bodies| bodies.check_known(standing))
    }

    /// Uses a schema that stands: nothing is inferred any more.
    pub fn fix(&mut self, schema: &SchemaRef) -> Result<(), TaskError> {
        let Some(bodies) = &mut self.bodies else { return Ok(()) };
        bodies.fix(schema)?;
        match bodies.wait() {
            Wait::Schema(wider) => self.check(Some(&wider)),
            _ => self.check(Some(schema)),
        }
    }

    /// Checks the filters' names and types, against the decoded columns where they are known.
    pub fn check(&self, decoded: Option<&SchemaRef>) -> Result<(), TaskError> {
        for filter in &self.filters {
            filter
                .check(&|name| match name {
                    Name::Property(_) => Some(DataType::Utf8View),
                    Name::Envelope(column) => batch::field(column).map(|f| f.data_type().clone()),
                    Name::Field(path) => field_type(decoded?, path),
                })
                .map_err(|e| {
                    let known = decoded.map_or_else(String::new, |schema| {
                        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                        format!("; the body's fields: {}", names.join(", "))
                    });
                    TaskError::new(Class::Config, format!("where `{}`: {e}{known}", filter.text()))
                })?;
        }
        Ok(())
    }

    /// Takes one slice of chain number `chain`.
    pub fn push(&mut self, chain: usize, slice: Slice) -> Result<Next, TaskError> {
        // Without rows there is nothing to decode, and the chain may go on.
        let is_free = slice.envelope.num_rows() == 0 && !self.holds(chain);
        let Some(bodies) = &mut self.bodies else {
            return Ok(Next::Pass(vec![(chain, self.finish(slice, None)?)]));
        };
        match bodies.wait() {
            Wait::Nothing => Ok(match self.apply_or_grow(slice)? {
                Applied::Slice(slice) => Next::Pass(vec![(chain, slice)]),
                Applied::Grow(wider, slice) => {
                    self.held.push((chain, *slice));
                    Next::Fix(wider)
                }
            }),
            Wait::Schema(schema) => {
                self.held.push((chain, slice));
                Ok(Next::Fix(schema))
            }
            Wait::Rows(_) if is_free => Ok(Next::Pass(vec![(chain, self.pass(slice)?)])),
            Wait::Rows(freeze_after_rows) => {
                bodies.look_at(body_column(&slice.envelope)?.as_binary_view())?;
                self.held_rows += slice.envelope.num_rows() as u64;
                self.held_bytes += slice.bytes;
                self.held.push((chain, slice));
                let full = self.held_rows >= freeze_after_rows
                    || self.held_bytes >= HELD_BYTES_MAX
                    || self.held.len() >= HELD_SLICES_MAX;
                if !full {
                    return Ok(Next::Pass(Vec::new()));
                }
                match self.proposal() {
                    Some(schema) => Ok(Next::Fix(schema)),
                    None => self.release_without_schema().map(Next::Pass),
                }
            }
        }
    }

    /// A slice of a plan that was begun with this schema; it grows by nothing.
    pub fn push_by(&mut self, schema: &SchemaRef, slice: Slice) -> Result<Slice, TaskError> {
        let Some(bodies) = &mut self.bodies else { return self.finish(slice, None) };
        let column = Arc::clone(body_column(&slice.envelope)?);
        let decoded = bodies.decode_by(schema, column.as_binary_view(), batch::offsets(&slice.envelope))?;
        self.finish(slice, Some(decoded))
    }

    /// The schema that the held rows ask for, if any of them has a field: a schema without fields would stand
    /// for good, and no later row would fit it.
    pub fn proposal(&self) -> Option<SchemaRef> {
        self.bodies.as_ref().filter(|_| self.holds_any())?.proposal()
    }

    /// After [`Steps::fix`]: the slices that waited; the last ones wait on if the schema is to grow for them.
    pub fn release(&mut self) -> Result<Released, TaskError> {
        let mut held = std::mem::take(&mut self.held).into_iter();
        let mut slices = Vec::new();
        while let Some((chain, slice)) = held.next() {
            match self.apply_or_grow(slice)? {
                Applied::Slice(slice) => slices.push((chain, slice)),
                Applied::Grow(wider, slice) => {
                    self.held.push((chain, *slice));
                    self.held.extend(held);
                    return Ok(Released { slices, wider: Some(wider) });
                }
            }
        }
        Ok(Released { slices, wider: None })
    }

    /// The slices that waited, if they show no field and so no schema: none of their rows has a column. What waits
    /// for a schema to grow is dropped instead: the next run reads it again.
    pub fn release_without_schema(&mut self) -> Result<Vec<(usize, Slice)>, TaskError> {
        let held = std::mem::take(&mut self.held);
        (self.held_rows, self.held_bytes) = (0, 0);
        if self.bodies.as_ref().is_some_and(|bodies| matches!(bodies.wait(), Wait::Nothing)) {
            return Ok(Vec::new());
        }
        held.into_iter().map(|(chain, slice)| Ok((chain, self.reject_all(slice)?))).collect()
    }

    /// What becomes of rows while no schema is known: each is a reject.
    pub fn reject_all(&self, mut slice: Slice) -> Result<Slice, TaskError> {
        let column = Arc::clone(body_column(&slice.envelope)?);
        for (row, body) in column.as_binary_view().iter().enumerate() {
            let reason = match (body, &self.bodies) {
                (Some(body), Some(bodies)) => bodies.reason_without_schema(body),
                _ => "no body".to_owned(),
            };
            slice.rejects.push(reject(&slice.envelope, row, &reason));
        }
        slice.rejects.sort_by_key(|r| r.offset);
        slice.envelope = slice.envelope.slice(0, 0);
        self.pass(slice)
    }

    /// Decodes by the schema that stands and goes on, unless a wider one would take more of the rows.
    fn apply_or_grow(&mut self, slice: Slice) -> Result<Applied, TaskError> {
        let Some(bodies) = &mut self.bodies else { return Ok(Applied::Slice(self.finish(slice, None)?)) };
        let column = Arc::clone(body_column(&slice.envelope)?);
        let decoded = bodies.decode(column.as_binary_view(), batch::offsets(&slice.envelope))?;
        match bodies.grown(&decoded, column.as_binary_view())? {
            Some(wider) => Ok(Applied::Grow(wider, Box::new(slice))),
            None => self.finish(slice, Some(decoded)).map(Applied::Slice),
        }
    }

    /// All that comes after decoding.
    fn finish(&mut self, mut slice: Slice, decoded: Option<Decoded>) -> Result<Slice, TaskError> {
        if let Some(decoded) = decoded {
            turn_away(&mut slice, &decoded.rejects)?;
            slice.decoded = Some(decoded.batch);
        }
        for filter in &self.filters {
            keep(filter, &mut slice)?;
        }
        self.pass(slice)
    }

    /// A slice as the target gets it.
    fn pass(&self, mut slice: Slice) -> Result<Slice, TaskError> {
        slice.envelope = project(&slice.envelope, &self.wanted)?;
        slice.bytes = held_bytes(&slice);
        stop_at_reject(self.then, &slice)?;
        Ok(slice)
    }

    /// How many offsets of a slice that passed the steps met which fate.
    pub fn fates(then: Then, slice: &Slice) -> Fates {
        let rejects = slice.rejects.len() as u64;
        let dead = if then == Then::DeadLetter { rejects } else { 0 };
        Fates {
            written: slice.envelope.num_rows() as u64,
            filtered: slice.filtered,
            skipped: rejects - dead,
            dead,
            absent: slice.absent,
        }
    }
}

/// Leaves out the columns that only filters and dead letters need.
fn project(envelope: &RecordBatch, wanted: &Needs) -> Result<RecordBatch, TaskError> {
    let is_wanted = |name: &str| match name.strip_prefix("properties.") {
        Some(property) => wanted.properties.iter().any(|p| p == property),
        None => {
            name == "queue_offset"
                || wanted.columns.contains(&name)
                || name == "properties" && wanted.all_properties
        }
    };
    let schema = envelope.schema();
    let names = schema.fields().iter().enumerate();
    let kept: Vec<usize> = names.filter(|(_, field)| is_wanted(field.name())).map(|(at, _)| at).collect();
    envelope.project(&kept).map_err(|e| fatal("cannot leave out columns", e))
}

/// What a slice keeps from others in memory, in bytes.
fn held_bytes(slice: &Slice) -> usize {
    let batches = std::iter::once(&slice.envelope).chain(&slice.decoded);
    let rows: usize = batches.flat_map(RecordBatch::columns).map(batch::bytes).sum();
    rows + slice.rejects.iter().map(Reject::bytes).sum::<usize>()
}

fn fatal(what: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TaskError {
    TaskError::new(Class::Fatal, what.to_owned()).because(error)
}

fn body_column(envelope: &RecordBatch) -> Result<&ArrayRef, TaskError> {
    envelope
        .column_by_name("body")
        .ok_or_else(|| TaskError::new(Class::Fatal, "the source gave no column `body`"))
}

/// Moves the rows that do not fit, each with its reason, from the slice's rows to its rejects.
pub(crate) fn turn_away(slice: &mut Slice, unfit: &[(usize, String)]) -> Result<(), TaskError> {
    if unfit.is_empty() {
        return Ok(());
    }
    let mut fits = vec![true; slice.envelope.num_rows()];
    for (row, reason) in unfit {
        if let Some(fit) = fits.get_mut(*row) {
            *fit = false;
        }
        slice.rejects.push(reject(&slice.envelope, *row, reason));
    }
    slice.rejects.sort_by_key(|r| r.offset);
    let fits = BooleanArray::from(fits);
    let left_out = |e| fatal("cannot leave out rejected rows", e);
    slice.envelope = filter_record_batch(&slice.envelope, &fits).map_err(left_out)?;
    if let Some(decoded) = &slice.decoded {
        slice.decoded = Some(filter_record_batch(decoded, &fits).map_err(left_out)?);
    }
    Ok(())
}

/// Under `then: stop` a record that does not fit ends the run.
pub(crate) fn stop_at_reject(then: Then, slice: &Slice) -> Result<(), TaskError> {
    match slice.rejects.first() {
        Some(reject) if then == Then::Stop => Err(TaskError::new(
            Class::Record,
            format!(
                "{}: {} (nothing was passed over; see `errors: {{then: skip | dead_letter}}`)",
                reject.place, reject.reason
            ),
        )),
        _ => Ok(()),
    }
}

fn reject(envelope: &RecordBatch, row: usize, reason: &str) -> Reject {
    let offset = batch::offsets(envelope).get(row).copied().unwrap_or(-1);
    let bodies = envelope.column_by_name("body").and_then(|c| c.as_binary_view_opt());
    let body = bodies.filter(|b| row < b.len() && b.is_valid(row)).map_or(&[][..], |b| b.value(row));
    let kept = body.get(..REJECT_BODY_BYTES_MAX).unwrap_or(body);
    Reject {
        offset,
        reason: reason.to_owned(),
        body: Bytes::copy_from_slice(kept),
        body_bytes: body.len() as u64,
        place: format!("queue offset {offset}"),
        properties: batch::properties_of(envelope, row),
    }
}

/// Leaves out the rows for which the filter is not TRUE.
pub fn keep(filter: &Filter, slice: &mut Slice) -> Result<(), TaskError> {
    let rows = slice.envelope.num_rows();
    let mask = filter
        .mask(rows, &|name| resolve(&slice.envelope, slice.decoded.as_ref(), name))
        .map_err(|e| fatal("cannot evaluate the filter", e))?;
    let passed = mask.true_count();
    if passed == rows {
        return Ok(());
    }
    let left_out = |e| fatal("cannot leave out filtered rows", e);
    slice.filtered += (rows - passed) as u64;
    slice.envelope = filter_record_batch(&slice.envelope, &mask).map_err(left_out)?;
    if let Some(decoded) = &slice.decoded {
        slice.decoded = Some(filter_record_batch(decoded, &mask).map_err(left_out)?);
    }
    Ok(())
}

/// The column that a name of an expression means.
pub fn resolve(envelope: &RecordBatch, decoded: Option<&RecordBatch>, name: &Name) -> Option<ArrayRef> {
    match name {
        Name::Property(property) => envelope.column_by_name(&batch::property_column(property)).cloned(),
        Name::Envelope(column) => envelope.column_by_name(column).cloned(),
        Name::Field(path) => {
            let (first, rest) = path.split_first()?;
            let mut column = Arc::clone(decoded?.column_by_name(first)?);
            for field in rest {
                let parent = Arc::clone(&column);
                let parent = parent.as_struct_opt()?;
                column = masked(parent.column_by_name(field)?, parent)?;
            }
            Some(column)
        }
    }
}

/// A struct's field is null where the struct is.
fn masked(child: &ArrayRef, parent: &arrow::array::StructArray) -> Option<ArrayRef> {
    let Some(nulls) = parent.nulls() else { return Some(Arc::clone(child)) };
    let mask = BooleanArray::new(!nulls.inner(), None);
    arrow::compute::nullif(child, &mask).ok()
}

pub(crate) fn field_type(schema: &SchemaRef, path: &[String]) -> Option<DataType> {
    let (first, rest) = path.split_first()?;
    let mut data_type = schema.field_with_name(first).ok()?.data_type().clone();
    for name in rest {
        let DataType::Struct(fields) = data_type else { return None };
        data_type = fields.iter().find(|f| f.name() == name)?.data_type().clone();
    }
    Some(data_type)
}

//! What happens to a slice between source and sink: decode, the part of `where` that reads the body,
//! the steps, and the fate of what does not fit.
//!
//! Under `infer` slices are held until the schema is fixed. Reads no source and writes no target.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, SchemaRef};
use bytes::Bytes;
use sluice_filters::{Filter, Name};
use sluice_formats::json::{Decoder, Inferer};

use crate::batch;
use crate::config::{Document, Expression, SchemaMode, Step, Then};
use crate::task::{Class, Fates, Needs, REJECT_BODY_BYTES_MAX, Reject, Slice, TaskError};

/// Rows that `infer` looks at if the config does not say.
pub const FREEZE_AFTER_ROWS: u64 = 5000;
/// Bytes that are held for `infer` at most.
const HELD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Slices that are held for `infer` at most: where a filter leaves few rows, most of them are empty.
const HELD_SLICES_MAX: usize = 10_000;

/// Compiled steps of one pipeline.
pub struct Steps {
    decode: Option<Decode>,
    /// Filters that run here, after decoding, in order.
    filters: Vec<Filter>,
    then: Then,
    /// What the sink wants; the filters may need more of the envelope.
    wanted: Needs,
    held: Vec<(usize, Slice)>,
    held_rows: u64,
    held_bytes: usize,
}

enum Decode {
    /// The schema is not fixed; rows are looked at and held.
    Infer {
        inferer: Box<Inferer>,
        freeze_after_rows: u64,
    },
    /// A schema is proposed, and not fixed yet.
    Declared(SchemaRef),
    Fixed(Box<Decoder>),
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
        let decode = match &document.decode {
            None => None,
            Some(decode) => {
                needs.columns.push("body");
                if document.errors.then == Then::DeadLetter {
                    needs.all_properties = true;
                    needs.columns.extend(batch::RESERVED.map(|(column, _)| column));
                }
                Some(match (decode.schema.mode, &decode.schema.fields) {
                    (SchemaMode::Declared, Some(fields)) if fields.0.is_empty() => {
                        return Err(TaskError::new(Class::Config, "`decode.schema.fields` names no field"));
                    }
                    (SchemaMode::Declared, Some(fields)) => Decode::Declared(
                        sluice_formats::json::schema_from_fields(&fields.0)
                            .map_err(|e| TaskError::new(Class::Config, e.to_string()))?,
                    ),
                    _ => Decode::Infer {
                        inferer: Box::new(Inferer::new()),
                        freeze_after_rows: decode.schema.freeze_after_rows.unwrap_or(FREEZE_AFTER_ROWS),
                    },
                })
            }
        };
        needs.columns.sort_unstable();
        needs.columns.dedup();
        needs.properties.sort_unstable();
        needs.properties.dedup();
        needs.filter = pushed.map(Arc::new);
        let then = document.errors.then;
        let (mut wanted, held) = (sink.clone(), Vec::new());
        if decode.is_some() && then == Then::DeadLetter {
            // A row that the sink turns away keeps its body; a file holds the decoded columns alone.
            wanted.columns.push("body");
            wanted.columns.extend(batch::RESERVED.map(|(column, _)| column));
            wanted.all_properties = true;
        }
        let steps = Self { decode, filters, then, wanted, held, held_rows: 0, held_bytes: 0 };
        Ok((steps, needs))
    }

    /// Whether bodies are decoded.
    pub fn decodes(&self) -> bool {
        self.decode.is_some()
    }

    /// Whether slices wait for the schema.
    pub fn holds_any(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether slices of chain number `chain` wait for the schema.
    pub fn holds(&self, chain: usize) -> bool {
        self.held.iter().any(|(number, _)| *number == chain)
    }

    /// Drops what waits of chain number `chain`: it is read again, here or elsewhere.
    pub fn forget(&mut self, chain: usize) {
        self.held.retain(|(number, _)| *number != chain);
    }

    /// Whether the schema that stands is the one that the config declares, if it declares one.
    pub fn check_declared(&self, standing: &SchemaRef) -> Result<(), TaskError> {
        match &self.decode {
            Some(Decode::Declared(declared)) if declared.fields() != standing.fields() => {
                Err(TaskError::new(
                    Class::Config,
                    format!(
                        "`decode.schema.fields` is not the schema that this pipeline's files have: {}. A pipeline keeps \
                         its first schema: put the fields back as they were, or give the pipeline a new name, under \
                         which it begins anew",
                        difference(declared, standing)
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Uses a schema that stands: nothing is inferred any more.
    pub fn fix(&mut self, schema: &SchemaRef) -> Result<(), TaskError> {
        let decoder = Decoder::new(Arc::clone(schema)).map_err(|e| {
            TaskError::new(Class::Config, "cannot decode by the pipeline's schema").because(e)
        })?;
        self.check(Some(schema))?;
        self.decode = Some(Decode::Fixed(Box::new(decoder)));
        Ok(())
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
        match &mut self.decode {
            Some(Decode::Declared(schema)) => {
                let schema = Arc::clone(schema);
                self.held.push((chain, slice));
                Ok(Next::Fix(schema))
            }
            Some(Decode::Infer { .. }) if is_free => Ok(Next::Pass(vec![(chain, self.apply(slice)?)])),
            Some(Decode::Infer { inferer, freeze_after_rows }) => {
                let bodies = body_column(&slice.envelope)?.as_binary_view();
                for body in bodies.iter().flatten() {
                    // A body that can not be read is no sample; decoding gives it its fate.
                    let _ = inferer.add(body);
                }
                self.held_rows += slice.envelope.num_rows() as u64;
                self.held_bytes += slice.bytes;
                self.held.push((chain, slice));
                let full = self.held_rows >= *freeze_after_rows
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
            _ => Ok(Next::Pass(vec![(chain, self.apply(slice)?)])),
        }
    }

    /// The schema that the held rows ask for, if any of them has a field: a schema without fields would stand
    /// for good, and no later row would fit it.
    pub fn proposal(&self) -> Option<SchemaRef> {
        let schema = match &self.decode {
            Some(Decode::Infer { inferer, .. }) => inferer.schema(),
            Some(Decode::Declared(schema)) => Arc::clone(schema),
            _ => return None,
        };
        (self.holds_any() && !schema.fields().is_empty()).then_some(schema)
    }

    /// After [`Steps::fix`]: the slices that waited.
    pub fn release(&mut self) -> Result<Vec<(usize, Slice)>, TaskError> {
        let held = std::mem::take(&mut self.held);
        held.into_iter().map(|(chain, slice)| Ok((chain, self.apply(slice)?))).collect()
    }

    /// The slices that waited, if they show no field and so no schema: none of their rows has a column.
    pub fn release_without_schema(&mut self) -> Result<Vec<(usize, Slice)>, TaskError> {
        let held = std::mem::take(&mut self.held);
        (self.held_rows, self.held_bytes) = (0, 0);
        held.into_iter().map(|(chain, slice)| Ok((chain, self.reject_all(slice)?))).collect()
    }

    /// What becomes of rows while no schema is known: each is a reject.
    pub fn reject_all(&self, mut slice: Slice) -> Result<Slice, TaskError> {
        let column = Arc::clone(body_column(&slice.envelope)?);
        for (row, body) in column.as_binary_view().iter().enumerate() {
            let reason = match body.map(|body| Inferer::new().add(body)) {
                None => "no body".to_owned(),
                Some(Err(reason)) => reason,
                Some(Ok(())) => "$: an object without fields, and no row before it has any".to_owned(),
            };
            slice.rejects.push(reject(&slice.envelope, row, &reason));
        }
        slice.rejects.sort_by_key(|r| r.offset);
        slice.envelope = slice.envelope.slice(0, 0);
        self.pass(slice)
    }

    fn apply(&mut self, mut slice: Slice) -> Result<Slice, TaskError> {
        if let Some(Decode::Fixed(decoder)) = &mut self.decode {
            decode(decoder, &mut slice)?;
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

/// How two schemas differ, for a person.
fn difference(declared: &SchemaRef, standing: &SchemaRef) -> String {
    let show = |f: &Field| format!("`{}: {}`", f.name(), f.data_type());
    let mut parts = Vec::new();
    for field in declared.fields() {
        match standing.field_with_name(field.name()) {
            Err(_) => parts.push(format!("{} is not in it", show(field))),
            Ok(there) if there != field.as_ref() => {
                parts.push(format!("{} is {} there", show(field), there.data_type()));
            }
            Ok(_) => {}
        }
    }
    let left_out = standing.fields().iter().filter(|f| declared.field_with_name(f.name()).is_err());
    parts.extend(left_out.map(|f| format!("{} is missing", show(f))));
    if parts.is_empty() { "the fields stand in another order".to_owned() } else { parts.join(", ") }
}

fn fatal(what: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TaskError {
    TaskError::new(Class::Fatal, what.to_owned()).because(error)
}

fn body_column(envelope: &RecordBatch) -> Result<&ArrayRef, TaskError> {
    envelope
        .column_by_name("body")
        .ok_or_else(|| TaskError::new(Class::Fatal, "the source gave no column `body`"))
}

/// Decodes the bodies of a slice; rows that do not fit become rejects.
fn decode(decoder: &mut Decoder, slice: &mut Slice) -> Result<(), TaskError> {
    let column = Arc::clone(body_column(&slice.envelope)?);
    let bodies = column.as_binary_view();
    let decoded =
        decoder.decode(&mut bodies.iter()).map_err(|e| fatal("cannot build the decoded columns", e))?;
    turn_away(slice, &decoded.rejects)?;
    slice.decoded = Some(decoded.batch);
    Ok(())
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
        properties: batch::all_properties_of(envelope, row),
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

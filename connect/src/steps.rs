//! What happens to a slice between source and sink: decode, the part of `where` that reads the body,
//! the steps, and the fate of what does not fit.
//!
//! Under `infer` slices are held until the schema is fixed. Reads no source and writes no target.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use sluice_filters::{Filter, Name};
use sluice_formats::Decoded;

use crate::batch;
use crate::config::{Document, Expression, Step, Then};
use crate::decode::{Bodies, Outside, Wait};
use crate::task::{Class, Fates, Needs, Slice, TaskError};
pub(crate) use columns::{Columns, StepProblem};
use dedupe::Window;
use rows::{held_bytes, project, reject, with_column};
pub(crate) use rows::{leave_out, stop_at_reject, turn_away};
pub use sql::{Answer, MakeSql, RunSql, Sql};
pub(crate) use stage::Planner;
use stage::Stage;

mod columns;
mod dedupe;
mod encode;
mod explode;
mod filter;
mod headers;
mod mask;
mod rows;
mod select;
mod sql;
mod stage;

/// Bytes that are held for `infer` at most.
const HELD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Schemas whose steps are kept for unfinished plans.
const EARLIER_MAX: usize = 16;
/// Slices that are held for `infer` at most: where a filter leaves few rows, most of them are empty.
const HELD_SLICES_MAX: usize = 40_000;

/// Compiled steps of one pipeline.
pub struct Steps {
    bodies: Option<Bodies>,
    /// What happens to rows after decoding, in order, with where each stands in the document.
    steps: Vec<(String, Step)>,
    /// The steps compiled, once the columns that come to them are known.
    stages: Option<Vec<Stage>>,
    /// The same over the columns of schemas that stood before, for plans that were begun with them.
    earlier: Vec<(SchemaRef, Vec<Stage>)>,
    /// What the steps of each chain saw, by step and chain.
    windows: HashMap<(usize, usize), Window>,
    /// Rows of a chain before this offset only fill its windows.
    warm_until: HashMap<usize, i64>,
    make_sql: Option<MakeSql>,
    /// The target takes bodies, and steps change what they were made of.
    encodes: bool,
    then: Then,
    /// What the sink wants; the stages may need more of the envelope.
    wanted: Needs,
    held: Vec<(usize, Slice)>,
    held_rows: u64,
    held_bytes: usize,
}

enum Applied {
    Slices(Vec<(usize, Slice)>),
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
        let (mut pushed, mut steps) = (None, Vec::new());
        if let Some(Expression(filter)) = &document.filter {
            let (front, rest) = filter.split();
            pushed = front;
            steps.extend(rest.map(|rest| ("where".to_owned(), Step::Where(Expression(rest)))));
        }
        let written = document.steps.iter().enumerate();
        steps.extend(written.map(|(at, step)| (format!("steps.[{at}].{}", step.key()), step.clone())));
        let mut names: Vec<Name> = pushed.iter().flat_map(Filter::names).cloned().collect();
        for (_, step) in &steps {
            for (_, part) in step.expressions() {
                names.extend(part.names().iter().cloned());
            }
            match step {
                Step::Dedupe(dedupe) if dedupe.age.is_some() => needs.columns.push("store_timestamp"),
                Step::Headers(_) => needs.all_properties = true,
                _ => {}
            }
        }
        for name in &names {
            match name {
                Name::Property(property) => needs.properties.push(property.clone()),
                Name::Envelope(column) if column == "properties" => needs.all_properties = true,
                Name::Envelope(column) => needs.columns.extend(batch::COLUMNS.iter().find(|c| *c == column)),
                Name::Field(_) => {}
            }
        }
        let bodies = match &document.decode {
            None => None,
            Some(decode) => {
                needs.columns.push("body");
                Some(Bodies::new(decode, outside)?)
            }
        };
        needs.properties.sort_unstable();
        needs.properties.dedup();
        needs.filter = pushed.map(Arc::new);
        let then = document.errors.then;
        let (mut wanted, held) = (sink.clone(), Vec::new());
        let encodes = sink.columns.contains(&"body") && steps.iter().any(|(_, step)| step.changes_columns());
        if document.makes_columns() && then == Then::DeadLetter {
            needs.columns.push("body");
            (needs.all_properties, needs.places) = (true, true);
            needs.columns.extend(batch::RESERVED.map(|(column, _)| column));
            // A row that the sink turns away keeps its body; a file holds the decoded columns alone.
            wanted.columns.push("body");
            wanted.columns.extend(batch::RESERVED.map(|(column, _)| column));
            wanted.all_properties = true;
        }
        needs.columns.sort_unstable();
        needs.columns.dedup();
        let steps = Self {
            bodies,
            steps,
            stages: None,
            earlier: Vec::new(),
            windows: HashMap::new(),
            warm_until: HashMap::new(),
            make_sql: None,
            encodes,
            then,
            wanted,
            held,
            held_rows: 0,
            held_bytes: 0,
        };
        Ok((steps, needs))
    }

    /// Runs the statements of `sql` steps by this.
    #[must_use]
    pub fn with_sql(mut self, make_sql: Option<MakeSql>) -> Self {
        self.make_sql = make_sql;
        self
    }

    /// How many offsets before a chain's position the steps must see to decide as if they had always run.
    pub fn looks_back(&self) -> i64 {
        let rows = self.steps.iter().map(|(_, step)| match step {
            Step::Dedupe(dedupe) => i64::try_from(dedupe.rows).unwrap_or(i64::MAX),
            _ => 0,
        });
        // A row that a step sees late may depend on what an earlier one saw before it.
        rows.fold(0, i64::saturating_add)
    }

    /// Rows of chain number `chain` before `until` are only looked at, for what comes after them.
    pub fn warm_until(&mut self, chain: usize, until: i64) {
        self.warm_until.insert(chain, until);
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

    /// Drops what waits of chain number `chain`: it is read again, here or elsewhere.
    pub fn forget(&mut self, chain: usize) {
        self.held.retain(|(number, _)| *number != chain);
        self.windows.retain(|(_, number), _| *number != chain);
        self.warm_until.remove(&chain);
    }

    /// Whether the schema that stands is the one that the config declares, if it declares one.
    pub fn check_declared(&self, standing: &SchemaRef) -> Result<(), TaskError> {
        self.bodies.as_ref().map_or(Ok(()), |bodies| bodies.check_known(standing))
    }

    /// Uses a schema that stands: nothing is inferred any more.
    pub fn fix(&mut self, schema: &SchemaRef) -> Result<(), TaskError> {
        let Some(bodies) = &mut self.bodies else { return Ok(()) };
        bodies.fix(schema)?;
        if let Wait::Schema(wider) = bodies.wait() {
            // It is to grow first.
            return self.check(&wider).map(drop);
        }
        let (stages, _) = self.compiled(Columns::Known(Arc::clone(schema)))?;
        self.stages = Some(stages);
        Ok(())
    }

    /// Checks the steps over the decoded columns, and gives the columns after them, if there are any.
    pub fn check(&self, decoded: &SchemaRef) -> Result<Option<SchemaRef>, TaskError> {
        let (_, columns) = self.compiled(Columns::Known(Arc::clone(decoded)))?;
        Ok(columns.known().cloned())
    }

    /// Compiles the steps of a pipeline that decodes nothing, if that is not done, and gives the columns after them.
    pub fn check_undecoded(&mut self) -> Result<Option<SchemaRef>, TaskError> {
        let (stages, columns) = self.compiled(Columns::None)?;
        self.stages = Some(stages);
        Ok(columns.known().cloned())
    }

    fn compiled(&self, columns: Columns) -> Result<(Vec<Stage>, Columns), TaskError> {
        let keeps_original = self.then == Then::DeadLetter;
        let mut planner = Planner::new(columns, self.make_sql.as_ref(), keeps_original);
        let mut stages = Vec::with_capacity(self.steps.len());
        for (place, step) in &self.steps {
            let refused = |problem: StepProblem| {
                let path = std::iter::once(place.as_str()).chain(problem.path.iter().map(String::as_str));
                let path = path.collect::<Vec<_>>().join(".");
                TaskError::new(Class::Config, format!("{path}: {}", problem.message))
            };
            let none = || StepProblem::new("this program was built without `sql`");
            stages.push(planner.next(step).and_then(|stage| stage.ok_or_else(none)).map_err(refused)?);
        }
        Ok((stages, planner.columns))
    }

    /// Takes one slice of chain number `chain`.
    pub fn push(&mut self, chain: usize, slice: Slice) -> Result<Next, TaskError> {
        // Without rows there is nothing to decode, and the chain may go on.
        let is_free = slice.envelope.num_rows() == 0 && !self.holds(chain);
        match self.bodies.as_ref().map_or(Wait::Nothing, Bodies::wait) {
            Wait::Nothing => Ok(match self.apply_or_grow(chain, slice)? {
                Applied::Slices(slices) => Next::Pass(slices),
                Applied::Grow(wider, slice) => {
                    self.held.push((chain, *slice));
                    Next::Fix(wider)
                }
            }),
            Wait::Schema(schema) => {
                self.held.push((chain, slice));
                Ok(Next::Fix(schema))
            }
            Wait::Rows(_) if is_free => self.finish(chain, slice, None).map(Next::Pass),
            Wait::Rows(freeze_after_rows) => {
                if let Some(bodies) = &mut self.bodies {
                    bodies.look_at(body_column(&slice.envelope)?.as_binary_view())?;
                }
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
    pub fn push_by(
        &mut self,
        schema: &SchemaRef,
        chain: usize,
        slice: Slice,
    ) -> Result<Vec<(usize, Slice)>, TaskError> {
        let Some(bodies) = &mut self.bodies else { return self.finish(chain, slice, None) };
        let column = Arc::clone(body_column(&slice.envelope)?);
        let decoded = bodies.decode_by(schema, column.as_binary_view(), batch::offsets(&slice.envelope))?;
        let mut stages = match self.earlier.iter().position(|(known, _)| known == schema) {
            Some(at) => self.earlier.swap_remove(at).1,
            None => self.compiled(Columns::Known(Arc::clone(schema)))?.0,
        };
        std::mem::swap(self.stages.get_or_insert_default(), &mut stages);
        let finished = self.finish(chain, slice, Some(decoded));
        std::mem::swap(self.stages.get_or_insert_default(), &mut stages);
        self.earlier.truncate(EARLIER_MAX - 1);
        self.earlier.push((Arc::clone(schema), stages));
        finished
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
            match self.apply_or_grow(chain, slice)? {
                Applied::Slices(passed) => slices.extend(passed),
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
        let held = held.into_iter().filter(|(chain, slice)| !self.is_warm(*chain, slice));
        held.map(|(chain, slice)| Ok((chain, self.reject_all(slice)?))).collect()
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
    fn apply_or_grow(&mut self, chain: usize, slice: Slice) -> Result<Applied, TaskError> {
        let Some(bodies) = &mut self.bodies else {
            return self.finish(chain, slice, None).map(Applied::Slices);
        };
        let column = Arc::clone(body_column(&slice.envelope)?);
        let decoded = bodies.decode(column.as_binary_view(), batch::offsets(&slice.envelope))?;
        match bodies.grown(&decoded, column.as_binary_view())? {
            Some(wider) => Ok(Applied::Grow(wider, Box::new(slice))),
            None => self.finish(chain, slice, Some(decoded)).map(Applied::Slices),
        }
    }

    /// A slice after the steps: none if it only fills windows, several if rows became many.
    fn finish(
        &mut self,
        chain: usize,
        mut slice: Slice,
        decoded: Option<Decoded>,
    ) -> Result<Vec<(usize, Slice)>, TaskError> {
        if let Some(decoded) = decoded {
            turn_away(&mut slice, &decoded.rejects)?;
            slice.decoded = Some(decoded.batch);
        }
        if self.stages.is_none() && self.bodies.is_none() {
            self.check_undecoded()?;
        }
        // Before a schema is known slices come here only without rows.
        for (number, stage) in self.stages.iter_mut().flatten().enumerate() {
            let window = self.windows.entry((number, chain)).or_default();
            stage.apply(&mut slice, window)?;
        }
        if self.is_warm(chain, &slice) {
            return Ok(Vec::new());
        }
        let unfit = slice.decoded.as_ref().filter(|_| self.encodes).map_or_else(Vec::new, encode::unfit);
        turn_away(&mut slice, &unfit)?;
        if self.encodes
            && let Some(decoded) = &slice.decoded
        {
            let bodies = encode::bodies(decoded)?;
            if self.then == Then::DeadLetter
                && let Some(body) = slice.envelope.column_by_name("body").cloned()
            {
                slice.envelope = with_column(&slice.envelope, batch::ORIGINAL_BODY, body)?;
            }
            slice.envelope = with_column(&slice.envelope, "body", bodies)?;
        }
        let slice = self.pass(slice)?;
        let mut parts = Vec::new();
        in_parts(slice, &mut parts);
        Ok(parts.into_iter().map(|part| (chain, part)).collect())
    }

    /// Whether a slice lies before the chain's position.
    fn is_warm(&self, chain: usize, slice: &Slice) -> bool {
        self.warm_until.get(&chain).is_some_and(|until| slice.range.end <= *until)
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
            written: batch::offset_count(&slice.envelope),
            filtered: slice.filtered,
            deduplicated: slice.deduplicated.len() as u64,
            skipped: rejects - dead,
            dead,
            absent: slice.absent,
        }
    }
}

/// What a slice holds after the steps, in bytes, about: a larger one is cut between records.
const SLICE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A slice in parts of a size that the target can take as one.
fn in_parts(slice: Slice, parts: &mut Vec<Slice>) {
    let offsets = batch::offsets(&slice.envelope);
    let middle = offsets.get(offsets.len() / 2).copied().filter(|middle| offsets.first() < Some(middle));
    let Some(middle) = middle.filter(|_| slice.bytes > SLICE_BYTES_MAX) else { return parts.push(slice) };
    match slice.clone().split(middle) {
        Some((mut head, mut tail)) => {
            (head.bytes, tail.bytes) = (held_bytes(&head), held_bytes(&tail));
            in_parts(head, parts);
            in_parts(tail, parts);
        }
        None => parts.push(slice),
    }
}

fn body_column(envelope: &RecordBatch) -> Result<&ArrayRef, TaskError> {
    envelope
        .column_by_name("body")
        .ok_or_else(|| TaskError::new(Class::Fatal, "the source gave no column `body`"))
}

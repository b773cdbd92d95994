//! Targets that refuse a whole slice because of some of its rows: those rows are found, and every other one arrives once.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use sluice_connect::batch;
use sluice_connect::config::{self, Then};
use sluice_connect::memory::{Memory, Share};
use sluice_connect::pipeline::{self, Pipeline, Scope};
use sluice_connect::plan::{Plan, PlanFile};
use sluice_connect::progress::{Progress, Stop};
use sluice_connect::steps::Steps;
use sluice_connect::target::Target;
use sluice_connect::task::{
    Chain, Claim, Class, Confirm, Fates, Fill, Needs, Position, Range, Read, Reject, SinkTask, Slice,
    SourceQueue, SourceTask, TaskError, TransactTask,
};

/// One queue whose slices are given, and whether they come again under the same offsets.
struct Slices(Vec<Slice>, bool);

impl SourceTask for Slices {
    fn open(&mut self, _: &Needs) -> Result<(), TaskError> {
        Ok(())
    }

    fn queues(&mut self) -> Result<Vec<SourceQueue>, TaskError> {
        let incarnation = "one".to_owned();
        Ok(vec![SourceQueue { topic: "t".into(), queue: 0, incarnation, first: 0, origin: 0 }])
    }

    fn read(&mut self, _: &str, _: i32, range: Range, _: usize) -> Result<Read, TaskError> {
        let slice = self.0.iter().find(|slice| slice.range.start == range.start);
        Ok(slice.map_or(Read::Ended, |slice| Read::Slice(slice.clone())))
    }

    fn wait(&mut self, _: Duration) {}

    fn end(&mut self, _: &str, _: i32) -> Option<i64> {
        None
    }

    fn confirmer(&self) -> Arc<dyn Confirm> {
        Arc::new(Anything(self.1))
    }
}

struct Anything(bool);

impl Confirm for Anything {
    fn secure(&self, _: &str, _: i32, _: i64) -> Result<(), TaskError> {
        Ok(())
    }

    fn confirm(&self, _: &str, _: i32, _: i64) -> Result<(), TaskError> {
        Ok(())
    }

    fn rereads(&self) -> bool {
        self.0
    }

    fn confirmed(&self, _: &str, _: i32) -> Result<Option<i64>, TaskError> {
        Ok(None)
    }
}

/// What the targets of a test hold.
#[derive(Clone, Debug, Default)]
struct Held {
    /// Offsets of rows, in the order in which they came.
    rows: Vec<i64>,
    dead: Vec<i64>,
    plans: Vec<Plan>,
    fates: Fates,
}

type Shared = Arc<Mutex<Held>>;

/// Refuses slices with one of these offsets.
struct Picky {
    held: Shared,
    refused: BTreeSet<i64>,
    position: Option<i64>,
    /// Rows of the plan that is open.
    open: Vec<i64>,
}

impl Picky {
    fn look(&self, slice: &Slice) -> Result<(), TaskError> {
        let offsets = batch::offsets(&slice.envelope);
        match offsets.iter().find(|offset| self.refused.contains(offset)) {
            Some(offset) => Err(TaskError::new(Class::Record, format!("row {offset} is poison"))),
            None => Ok(()),
        }
    }
}

impl TransactTask for Picky {
    fn position(&mut self, _: &Chain) -> Result<Option<(i64, String)>, TaskError> {
        Ok(self.position.map(|position| (position, "one".to_owned())))
    }

    fn begin(&mut self, _: &Chain, origin: i64, _: &str) -> Result<(), TaskError> {
        self.position = Some(origin);
        Ok(())
    }

    fn commit(&mut self, _: &Chain, _: &str, slice: &Slice, fates: &Fates) -> Result<(), TaskError> {
        self.look(slice)?;
        assert_eq!(self.position, Some(slice.range.start));
        self.position = Some(slice.range.end);
        let mut held = self.held.lock().unwrap();
        held.rows.extend(batch::offsets(&slice.envelope));
        held.fates.add(fates);
        Ok(())
    }

    fn secure(&mut self) -> Result<(), TaskError> {
        Ok(())
    }
}

impl SinkTask for Picky {
    fn position(&mut self, _: &Chain) -> Result<Option<Position>, TaskError> {
        Ok(self.position.map(|next| Position { next, incarnation: "one".to_owned(), unfinished: None }))
    }

    fn begin(&mut self, _: &Chain, origin: i64, _: &str) -> Result<(), TaskError> {
        self.position = Some(origin);
        Ok(())
    }

    fn schema(
        &mut self,
        _: &str,
        _: Option<&arrow::datatypes::SchemaRef>,
    ) -> Result<Option<arrow::datatypes::SchemaRef>, TaskError> {
        Ok(None)
    }

    fn keep_config(&mut self, _: &str, _: &str, _: &str) -> Result<(), TaskError> {
        Ok(())
    }

    fn config(&mut self, _: &str, _: &str) -> Result<String, TaskError> {
        Ok(String::new())
    }

    fn unfinished(&mut self, _: &str) -> Result<Vec<(Chain, Plan)>, TaskError> {
        Ok(Vec::new())
    }

    fn check(&mut self, _: &str) -> Result<(), TaskError> {
        Ok(())
    }

    fn put(&mut self, _: &Chain, slice: &Slice) -> Result<Fill, TaskError> {
        self.look(slice)?;
        self.open.extend(batch::offsets(&slice.envelope));
        Ok(Fill { full: self.open.len() >= 7, ..Fill::default() })
    }

    fn memory(&self) -> usize {
        0
    }

    fn shrink(&mut self, _: usize) -> Result<(), TaskError> {
        Ok(())
    }

    fn age_max(&self) -> Duration {
        Duration::from_hours(1)
    }

    fn files(&mut self, _: &Chain, _: i64) -> Result<Vec<PlanFile>, TaskError> {
        Ok(Vec::new())
    }

    fn claim(&mut self, _: &Chain, plan: &Plan) -> Result<Claim, TaskError> {
        self.held.lock().unwrap().plans.push(plan.clone());
        Ok(Claim::Mine)
    }

    fn seal(&mut self, _: &Chain, _: &Plan) -> Result<Vec<u64>, TaskError> {
        Ok(Vec::new())
    }

    fn published(&mut self, _: &Chain, _: &Plan) -> Result<bool, TaskError> {
        Ok(false)
    }

    fn publish(&mut self, _: &Chain, plan: &Plan) -> Result<(), TaskError> {
        let mut held = self.held.lock().unwrap();
        held.rows.append(&mut self.open);
        held.fates.add(&plan.fates);
        Ok(())
    }

    fn confirm(&mut self, _: &Chain, _: &Plan) -> Result<(), TaskError> {
        Ok(())
    }

    fn give_back(&mut self, _: &Chain, _: &Plan) -> Result<(), TaskError> {
        Ok(())
    }

    fn discard(&mut self, _: &Chain) -> Result<(), TaskError> {
        self.open.clear();
        Ok(())
    }
}

/// A dead-letter topic that keeps the position of each chain.
struct Letters {
    held: Shared,
    positions: Positions,
}

type Positions = Arc<Mutex<BTreeMap<Chain, i64>>>;

impl TransactTask for Letters {
    fn position(&mut self, chain: &Chain) -> Result<Option<(i64, String)>, TaskError> {
        Ok(self.positions.lock().unwrap().get(chain).map(|position| (*position, "one".to_owned())))
    }

    fn begin(&mut self, chain: &Chain, origin: i64, _: &str) -> Result<(), TaskError> {
        self.positions.lock().unwrap().insert(chain.clone(), origin);
        Ok(())
    }

    fn commit(&mut self, chain: &Chain, _: &str, slice: &Slice, _: &Fates) -> Result<(), TaskError> {
        let stood = self.positions.lock().unwrap().insert(chain.clone(), slice.range.end);
        assert_eq!(stood, Some(slice.range.start));
        self.held.lock().unwrap().dead.extend(batch::offsets(&slice.envelope));
        Ok(())
    }

    fn secure(&mut self) -> Result<(), TaskError> {
        Ok(())
    }
}

/// Slices of a few offsets each: rows, rejects, and offsets that were filtered.
fn slices(kinds: &[u8], per_slice: usize) -> Vec<Slice> {
    let mut start = 0;
    let mut slices = Vec::new();
    for kinds in kinds.chunks(per_slice) {
        let end = start + i64::try_from(kinds.len()).unwrap();
        let at = |kind: u8| (start..).zip(kinds).filter(move |(_, k)| **k == kind).map(|(offset, _)| offset);
        let rows = at(0).map(|offset| (offset, Vec::new(), &b"body"[..]));
        let reject = |offset| Reject {
            offset,
            reason: "no row".to_owned(),
            body: Bytes::new(),
            body_bytes: 0,
            place: format!("offset {offset}"),
            properties: Vec::new(),
        };
        slices.push(Slice {
            range: Range { start, end },
            envelope: batch::messages(rows).unwrap(),
            decoded: None,
            filtered: at(2).count() as u64,
            absent: 0,
            deduplicated: Vec::new(),
            rejects: at(1).map(reject).collect(),
            bytes: 0,
            stored_ms: None,
        });
        start = end;
    }
    slices
}

/// Runs the slices through the runtime into a target that refuses these offsets.
fn run(
    slices: Vec<Slice>,
    refused: &BTreeSet<i64>,
    is_files: bool,
    then: Then,
) -> (Held, Result<(), TaskError>) {
    run_beside(Slices(slices, true), refused, is_files, then, Positions::default())
}

/// The same into a dead-letter topic that stands there.
fn run_beside(
    slices: Slices,
    refused: &BTreeSet<i64>,
    is_files: bool,
    then: Then,
    positions: Positions,
) -> (Held, Result<(), TaskError>) {
    let errors = match then {
        Then::Stop => "then: stop",
        Then::Skip => "then: skip",
        Then::DeadLetter => "then: dead_letter, dead_letter: dlq",
    };
    let text = format!("{{name: p, source: {{}}, sink: {{}}, errors: {{{errors}}}}}");
    let parsed = config::parse::<serde_json::Value, serde_json::Value>(&text, &|_| Err(String::new()));
    let document = parsed.unwrap().remove(0).document;
    let held = Shared::default();
    let picky = Picky { held: held.clone(), refused: refused.clone(), position: None, open: Vec::new() };
    let sink_needs = Needs { columns: vec!["body"], all_properties: true, ..Needs::default() };
    let (steps, needs) = Steps::new(&document, &sink_needs).unwrap();
    let pipeline = Pipeline {
        name: "p".into(),
        config: (text, "hash".to_owned()),
        steps,
        needs,
        source: Box::new(slices),
        target: if is_files { Target::Files(Box::new(picky)) } else { Target::Transact(Box::new(picky)) },
        dead_letters: Some(Box::new(Letters { held: held.clone(), positions })),
        then,
        stop_after: None,
        in_flight: 1 << 20,
        memory: Share::new(Memory::new(usize::MAX), usize::MAX),
    };
    let clock: pipeline::Clock = Arc::new(|| 0);
    let result = pipeline::run(pipeline, &Scope::All, &Stop::default(), &Progress::default(), &clock);
    let held = held.lock().unwrap().clone();
    (held, result)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn each_offset_ends_in_one_place(
        kinds in prop::collection::vec(prop::sample::select(vec![0_u8, 0, 0, 1, 2]), 1..60),
        per_slice in 1_usize..20,
        refused in prop::collection::btree_set(0_i64..60, 0..12),
        is_files: bool,
    ) {
        let (held, result) = run(slices(&kinds, per_slice), &refused, is_files, Then::DeadLetter);
        result.unwrap();
        let of = |wanted: &dyn Fn(i64, u8) -> bool| -> Vec<i64> {
            (0..).zip(&kinds).filter(|(offset, kind)| wanted(*offset, **kind)).map(|(offset, _)| offset).collect()
        };
        prop_assert_eq!(&held.rows, &of(&|offset, kind| kind == 0 && !refused.contains(&offset)));
        let mut dead = held.dead.clone();
        dead.sort_unstable();
        prop_assert_eq!(&dead, &of(&|offset, kind| kind == 1 || kind == 0 && refused.contains(&offset)));
        prop_assert_eq!(held.fates.total(), kinds.len() as u64);
        prop_assert_eq!(held.fates.dead, dead.len() as u64);
        prop_assert_eq!(held.fates.filtered, of(&|_, kind| kind == 2).len() as u64);
        for plan in &held.plans {
            prop_assert_eq!(plan.fates.total(), u64::try_from(plan.end - plan.start).unwrap());
        }
    }
}

#[test]
fn without_a_place_for_it_the_row_ends_the_run_and_what_was_before_it_stays() {
    for is_files in [false, true] {
        let (held, result) = run(slices(&[0; 20], 20), &[13].into(), is_files, Then::Stop);
        let error = result.unwrap_err();
        assert_eq!(error.class, Class::Record);
        assert!(
            error.message.contains("queue offset 13") && error.message.contains("row 13 is poison"),
            "{error}"
        );
        assert_eq!(held.rows, (0..13).collect::<Vec<_>>());
        let (held, result) = run(slices(&[0; 20], 20), &[13].into(), is_files, Then::Skip);
        result.unwrap();
        assert_eq!((held.rows.len(), held.dead.len(), held.fates.skipped), (19, 0, 1));
    }
}

#[test]
fn dead_letters_of_messages_that_are_numbered_anew_are_kept_as_well() {
    let kinds = [0, 1, 0, 0, 1, 0];
    for (rereads, again) in [(true, vec![]), (false, vec![1, 3, 4])] {
        let positions = Positions::default();
        let refused = BTreeSet::from([3]);
        let mut dead = Vec::new();
        for _ in 0..2 {
            let slices = Slices(slices(&kinds, 4), rereads);
            let (held, result) = run_beside(slices, &refused, false, Then::DeadLetter, positions.clone());
            result.unwrap();
            dead.push(held.dead.len());
            if dead.len() == 2 {
                assert_eq!(held.dead.len(), again.len(), "{:?}", held.dead);
            }
        }
        assert_eq!(dead[0], 3);
    }
}

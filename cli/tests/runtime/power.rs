//! The process dies or loses power at any call of the disk, under store and lake alike: after one more run
//! lake, dead letters and log agree.

use std::sync::Arc;

use arrow::array::Array;
use sluice_testkit::{FaultyDisk, PowerLoss};

use crate::support::{Life, Probe, Stored, World};

/// Lake and log lie on one disk. What `{schema}` stands for makes the difference between runs.
const CONFIG: &str = "
name: lake
source:
  topic: {name: t, start: {start}, until: caught_up}
where: \"keep = 'yes'\"
decode: {format: json, schema: {schema}}
sink:
  parquet: {path: {path}, rotate: {rows: 2}}
";
const DEAD_LETTERS: &str = "errors: {then: dead_letter, dead_letter: dlq}\n";

const DECLARED: &str = "{mode: declared, fields: {id: int64}}";
const INFER: &str = "{mode: infer, freeze_after_rows: 3}";
const GROWING: &str = "{mode: infer, freeze_after_rows: 1}, on_new_field: add";

fn config(world: &World, schema: &str, start: &str) -> String {
    let path = world.path("lake");
    CONFIG.replace("{schema}", schema).replace("{start}", start).replace("{path}", path.to_str().unwrap())
}

/// The rows of one life: `first` numbers them, so that no life has a row of another one.
fn bodies(first: i64, pattern: &str) -> Vec<(String, &'static str)> {
    let body = |(number, kind): (i64, char)| match kind {
        'r' => (format!("{{\"id\": {number}}}"), "yes"),
        'b' => (format!("bad {number}"), "yes"),
        'e' => ("{}".to_owned(), "yes"),
        'n' => (format!("{{\"id\": {number}, \"n{number}\": {number}}}"), "yes"),
        _ => (format!("{{\"id\": {number}}}"), "no"),
    };
    (first..).zip(pattern.chars()).map(body).collect()
}

/// A life, the power loss in it, and what comes after.
struct Story {
    world: World,
    config: String,
    slice_bytes: usize,
    is_insecure: bool,
    /// The rows of the first life's two runs.
    first: [&'static str; 2],
    /// All rows are there before the first run.
    at_once: bool,
}

impl Story {
    fn new(schema: &str, start: &str) -> Self {
        let world = World { segment_bytes: 64 << 10, ..World::new() };
        let config = config(&world, schema, start) + DEAD_LETTERS;
        Self { world, config, slice_bytes: 300, is_insecure: false, first: ["rf", "brr"], at_once: false }
    }

    /// A source whose log nobody makes durable. There are no dead letters, since opening their topic does it too.
    fn insecure(self) -> Self {
        Self { is_insecure: true, config: self.config.replace(DEAD_LETTERS, ""), ..self }
    }

    fn probe(&self) -> Probe {
        Probe { slice_bytes: self.slice_bytes, is_insecure: self.is_insecure, ..Probe::default() }
    }

    /// Two runs, one after the other, until the power goes after so many calls; whether they had ended before.
    fn lose(&self, calls: u64, mode: PowerLoss) -> bool {
        let disk = FaultyDisk::new();
        let life = self.world.life(Arc::new(disk.clone()), Arc::new(disk.clone()), self.probe());
        life.create_topic("t", 2);
        life.create_topic("dlq", 1);
        // What the first run finds is durable, and what the second one finds is not.
        self.append(&life, 0, self.first[0]).unwrap();
        life.store.flush().unwrap();
        if self.at_once {
            self.append(&life, 10, self.first[1]).unwrap();
        }
        disk.power_off_after(calls);
        let mut has_ended = life.run(&self.config).is_ok();
        if !self.at_once {
            has_ended &= self.append(&life, 10, self.first[1]).is_ok();
            has_ended &= has_ended && life.run(&self.config).is_ok();
        }
        // The end of the process must not make anything durable.
        disk.power_off_after(0);
        drop(life);
        disk.crash(calls, mode);
        has_ended
    }

    fn append(&self, life: &Life<'_>, first: i64, pattern: &str) -> Result<(), sluice_store::Error> {
        // The second queue has the first of these rows only.
        for (queue, pattern) in [(0, pattern), (1, &pattern[..1])] {
            for (body, keep) in bodies(first + 100 * i64::from(queue), pattern) {
                life.try_append("t", queue, &body, &[("keep", keep)])?;
            }
        }
        Ok(())
    }

    /// A life without faults, to the end; what is wrong then.
    fn end(&self, pattern: &str) -> Result<(), String> {
        let disk = Arc::new(FaultyDisk::new());
        let life = self.world.life(disk.clone(), disk, Probe { slice_bytes: 200, ..Probe::default() });
        life.create_topic("t", 2);
        self.append(&life, 1000, pattern).unwrap();
        life.run(&self.config).map_err(|e| sluice_connect::worker::chain_of_causes(&e))?;
        self.compare(&life.records("t", 2), &life.records("dlq", 1))
    }

    /// Each row that is in the log and passes is in the files once, or a dead letter once, and there are no others.
    fn compare(&self, log: &[Stored], dead: &[Stored]) -> Result<(), String> {
        let id = |body: &str| {
            Some(body.strip_prefix("{\"id\": ")?.split([',', '}']).next()?.parse::<i64>().unwrap())
        };
        let passed = || log.iter().filter(|r| r.properties["keep"] == "yes");
        let mut ids: Vec<i64> = passed().filter_map(|r| id(&r.body)).collect();
        ids.sort_unstable();
        let lake = self.world.ids();
        let in_lake: Vec<i64> = lake.iter().copied().flatten().collect();
        if in_lake != ids {
            return Err(format!("the lake has {in_lake:?}, the log {ids:?}"));
        }
        let new: usize = passed().filter(|r| r.body.contains("\"n")).count();
        let is_new = |name: &str| name.starts_with('n');
        let in_columns: usize = self
            .world
            .batches()
            .iter()
            .map(|batch| {
                let columns = batch.schema_ref().fields().iter().zip(batch.columns());
                columns
                    .filter(|(f, _)| is_new(f.name()))
                    .map(|(_, c)| c.len() - c.null_count())
                    .sum::<usize>()
            })
            .sum();
        if in_columns != new {
            return Err(format!("{new} rows have a new field, and the lake {in_columns} values of such"));
        }
        let strange = self.world.files_of_other_schemas();
        if !strange.is_empty() {
            return Err(format!("files have other columns than their plans' schemas: {strange:?}"));
        }
        let place = |r: &Stored| (r.queue, r.offset, r.body.clone());
        let mut bad: Vec<_> = passed().filter(|r| r.body.starts_with("bad")).map(place).collect();
        let letter = |r: &Stored| {
            let number = |name: &str| r.properties[name].parse::<i64>().unwrap();
            (i32::try_from(number("dead_queue")).unwrap(), number("dead_offset"), r.body.clone())
        };
        let (mut empty, mut letters): (Vec<_>, Vec<_>) = dead.iter().map(letter).partition(|l| l.2 == "{}");
        letters.sort();
        bad.sort();
        if letters != bad {
            return Err(format!("the dead letters are {letters:?}, the bad records {bad:?}"));
        }
        // An object without fields is a row once there is a schema, and a dead letter as long as there is none.
        let all_empty = passed().filter(|r| r.body == "{}").count();
        let rows = lake.len() - in_lake.len();
        empty.sort();
        empty.dedup();
        let once = empty.len() + rows;
        if once == all_empty && empty.len() == dead.len() - letters.len() {
            Ok(())
        } else {
            Err(format!("of {all_empty} objects without fields {rows} are in the lake, dead are {empty:?}"))
        }
    }
}

/// Every moment, or every `step`th, until a life has ended before it; how many calls that life has made. The
/// number of calls is the seed of what the power loss leaves.
fn at_calls(mode: PowerLoss, step: usize, new: impl Fn() -> Story, pattern: &str) -> Result<u64, String> {
    for calls in (0..).step_by(step) {
        let story = new();
        let has_ended = story.lose(calls, mode);
        story.end(pattern).map_err(|e| format!("{mode:?}, the power went after {calls} calls: {e}"))?;
        if has_ended {
            return Ok(calls);
        }
    }
    unreachable!("a life ends")
}

fn rows_and_bad_records() -> Story {
    Story::new(DECLARED, "earliest")
}

/// The first rows that come show no field.
fn no_schema_at_first() -> Story {
    Story { first: ["bf", "eb"], ..Story::new(INFER, "earliest") }
}

/// Each new field makes the schema grow between plans.
fn a_growing_schema() -> Story {
    Story { first: ["rn", "bnrn"], slice_bytes: 1, ..Story::new(GROWING, "earliest") }
}

#[test]
fn plans_are_finished_by_the_schema_that_they_were_begun_with_while_it_grows() {
    let calls = at_calls(PowerLoss::Keep, 1, a_growing_schema, "nrbn").unwrap();
    assert!(calls > 100, "a life is about {calls} calls");
    at_calls(PowerLoss::Forget, 3, a_growing_schema, "nrbn").unwrap();
}

#[test]
fn after_a_kill_at_any_call_lake_log_and_dead_letters_agree() {
    let calls = at_calls(PowerLoss::Keep, 1, rows_and_bad_records, "frbr").unwrap();
    assert!(calls > 100, "a life is about {calls} calls");
}

#[test]
fn after_power_loss_lake_log_and_dead_letters_agree() {
    at_calls(PowerLoss::Forget, 2, rows_and_bad_records, "frbr").unwrap();
    at_calls(PowerLoss::Tear, 3, rows_and_bad_records, "frbr").unwrap();
}

#[test]
fn plans_made_before_any_schema_was_known_are_finished_without_one() {
    let calls = at_calls(PowerLoss::Keep, 1, no_schema_at_first, "rere").unwrap();
    assert!(calls > 30, "a life is about {calls} calls");
    at_calls(PowerLoss::Forget, 3, no_schema_at_first, "rere").unwrap();
}

#[test]
#[ignore = "takes a minute; `cargo test -p sluice-cli --test runtime -- --ignored`"]
fn after_power_loss_at_any_call_lake_log_and_dead_letters_agree() {
    for mode in [PowerLoss::Forget, PowerLoss::Tear] {
        at_calls(mode, 1, rows_and_bad_records, "frbr").unwrap();
        at_calls(mode, 1, no_schema_at_first, "rere").unwrap();
        at_calls(mode, 1, a_growing_schema, "nrbn").unwrap();
    }
}

#[test]
fn rows_are_made_durable_before_a_plan_names_them() {
    let story = || Story { first: ["rr", "rr"], ..Story::new(DECLARED, "earliest") }.insecure();
    let said = at_calls(PowerLoss::Forget, 1, story, "rrrr").unwrap_err();
    assert!(said.contains("the lake has"), "{said}");
}

#[test]
fn an_origin_is_made_durable_before_it_stands() {
    // In the first life there is nothing after the origin; all rows of the second one come after it.
    let story = || Story { first: ["r", "rr"], at_once: true, ..Story::new(DECLARED, "latest") };
    let lost = |story: &Story| {
        story.lose(1_000, PowerLoss::Forget);
        let _ = story.end("rrr");
        story.world.ids() != [1000, 1001, 1002, 1100].map(Some)
    };
    assert!(!lost(&story()));
    assert!(lost(&story().insecure()), "nobody needs the source to be durable");
}

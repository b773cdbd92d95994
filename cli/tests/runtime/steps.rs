//! Steps that look beyond a row, `dedupe` and `explode`: whatever ends a run at any moment, the rows that come out
//! are those that the topic says.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use sluice_connect::task::Class;
use sluice_store::file::RealDisk;

use crate::support::{LinkDisk, Probe, World};

/// Offsets that the window reaches back.
const WINDOW: usize = 6;

const CONFIG: &str = "
name: lake
source:
  topic: {name: t, start: START, until: caught_up}
where: \"keep = 'yes'\"
decode: {format: json, schema: SCHEMA}
steps:
  - dedupe: {key: $.key, rows: 6}
  - explode: {field: $.legs, as: leg}
  - where: '$.leg <> 9'
sink:
  parquet: {path: LAKE, partition: [$.leg], rotate: {rows: 4}}
errors: {then: dead_letter, dead_letter: dlq}
";

/// A record by its number: its key, its legs, whether it passes `where`, and whether it can be read.
struct Record {
    key: i64,
    legs: Vec<i64>,
    keep: bool,
    reads: bool,
}

fn record(number: usize) -> Record {
    let n = i64::try_from(number).unwrap();
    let legs = match n % 5 {
        0 => vec![],
        1 => vec![9],
        2 => vec![9, 0, 0, 1],
        _ => vec![n % 3, 2],
    };
    Record { key: (n * 7 + n / 3) % 5, legs, keep: n % 6 != 4, reads: n % 11 != 7 }
}

/// The rows of the lake, by record: which legs.
fn expected(records: usize, first: usize) -> BTreeMap<i64, Vec<i64>> {
    let mut rows = BTreeMap::new();
    let mut last: HashMap<i64, usize> = HashMap::new();
    for number in 0..records {
        let Record { key, legs, keep, reads } = record(number);
        if !keep || !reads {
            continue;
        }
        let is_new = last.insert(key, number).is_none_or(|before| number - before > WINDOW);
        let mut legs: Vec<i64> = legs.into_iter().filter(|leg| *leg != 9).collect();
        legs.sort_unstable();
        if is_new && number >= first && !legs.is_empty() {
            rows.insert(i64::try_from(number).unwrap(), legs);
        }
    }
    rows
}

/// What stands in the lake: the leg is in the path.
fn found(world: &World) -> BTreeMap<i64, Vec<i64>> {
    let mut rows: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for path in world.files(".parquet") {
        let leg =
            path.to_str().unwrap().split("leg=").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        for batch in reader.build().unwrap() {
            let batch = batch.unwrap();
            let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>();
            ids.iter().flatten().for_each(|id| rows.entry(id).or_default().push(leg));
        }
    }
    rows.values_mut().for_each(|legs| legs.sort_unstable());
    rows
}

fn config(world: &World, schema: &str, start: &str) -> String {
    let path = world.path("lake");
    let text = CONFIG.replace("SCHEMA", schema).replace("START", start);
    text.replace("LAKE", path.to_str().unwrap())
}

fn append(life: &crate::support::Life<'_>, records: std::ops::Range<usize>) {
    for number in records {
        let Record { key, legs, keep, reads } = record(number);
        let body = serde_json::json!({"id": number, "key": key, "legs": legs}).to_string();
        let body = if reads { body } else { "{".to_owned() };
        life.append_with("t", 0, &body, &[("keep", if keep { "yes" } else { "no" })]);
    }
}

const DECLARED: &str = "{mode: declared, fields: {id: int64, key: int64, legs: list<int64>}}";
const INFER: &str = "{mode: infer, freeze_after_rows: 4}";

/// Runs that end at each moment when something gets its name, with slices of another size in each.
fn killed_anywhere(schema: &str) {
    let records = 60;
    for dies_at in 0.. {
        let world = World::new();
        let text = config(&world, schema, "earliest");
        let probe = |slice_bytes| Probe { slice_bytes, ..Probe::default() };
        let links = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&links);
        let dies = LinkDisk(Box::new(move |_| {
            assert!(seen.fetch_add(1, Ordering::SeqCst) != dies_at, "this panic is part of a test");
        }));
        {
            let life = world.life(Arc::new(RealDisk), Arc::new(dies), probe(150));
            life.create_topic("t", 1);
            life.create_topic("dlq", 1);
            append(&life, 0..records);
            let ended = catch_unwind(AssertUnwindSafe(|| life.run(&text)));
            if let Ok(Err(error)) = ended {
                assert!(error.class == Class::Fatal && error.message.contains("panicked"), "{error}");
            }
            life.store.flush().unwrap();
        }
        let life = world.life(Arc::new(RealDisk), Arc::new(RealDisk), probe(700));
        life.run(&text).unwrap();
        append(&life, records..records + 5);
        life.run(&text).unwrap();
        assert_eq!(found(&world), expected(records + 5, 0), "killed at {dies_at}");
        let dead = life.records("dlq", 1).len();
        let unreadable = (0..records + 5).map(record).filter(|r| r.keep && !r.reads).count();
        assert_eq!(dead, unreadable, "killed at {dies_at}");
        if links.load(Ordering::SeqCst) <= dies_at {
            assert!(dies_at > 20, "a run gives only {dies_at} names");
            return;
        }
    }
}

#[test]
fn a_kill_whenever_something_gets_its_name_changes_no_row() {
    killed_anywhere(DECLARED);
}

#[test]
fn a_kill_changes_no_row_while_the_schema_is_inferred() {
    killed_anywhere(INFER);
}

#[test]
fn each_start_reads_its_window_again_and_no_row_counts_twice() {
    let world = World::new();
    let text = config(&world, DECLARED, "earliest");
    let life = world.simple_life();
    life.create_topic("t", 1);
    life.create_topic("dlq", 1);
    let mut total = 0;
    for number in 0..30 {
        append(&life, number..number + 1);
        let fates = life.run(&text).unwrap();
        assert_eq!(fates.rows_in, 1, "rows before the position are not counted");
        total += fates.fates.total();
    }
    assert_eq!(total, 30);
    assert_eq!(found(&world), expected(30, 0));
}

#[test]
fn a_pipeline_that_starts_at_the_end_knows_the_keys_before_it() {
    let world = World::new();
    let text = config(&world, DECLARED, "latest");
    let life = world.simple_life();
    life.create_topic("t", 1);
    life.create_topic("dlq", 1);
    append(&life, 0..13);
    assert_eq!(life.run(&text).unwrap().fates.total(), 0);
    append(&life, 13..30);
    assert_eq!(life.run(&text).unwrap().fates.total(), 17);
    assert_eq!(found(&world), expected(30, 13));
}

#[test]
fn a_start_with_nothing_to_do_reads_no_window() {
    let world = World::new();
    let text = config(&world, DECLARED, "earliest");
    let reads = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&reads);
    let on_read: Box<dyn Fn(&str) + Send + Sync> = Box::new(move |_| {
        seen.fetch_add(1, Ordering::SeqCst);
    });
    let probe = Probe { on_read: Some(on_read), ..Probe::default() };
    let life = world.life(Arc::new(RealDisk), Arc::new(RealDisk), probe);
    life.create_topic("t", 1);
    life.create_topic("dlq", 1);
    append(&life, 0..20);
    life.run(&text).unwrap();
    let before = reads.swap(0, Ordering::SeqCst);
    life.run(&text).unwrap();
    assert!(before > 1 && reads.load(Ordering::SeqCst) == 1, "one look for new rows");
}

#[test]
fn a_plan_ends_before_a_record_whose_rows_need_files_of_their_own() {
    let world = World::new();
    let text = config(&world, DECLARED, "earliest").replace("rows: 4}", "rows: 100000}");
    let probe = Probe { slice_bytes: 1, ..Probe::default() };
    let life = world.life(Arc::new(RealDisk), Arc::new(RealDisk), probe);
    life.create_topic("t", 1);
    life.create_topic("dlq", 1);
    let record = |id: i64, legs: std::ops::Range<i64>| {
        let legs: Vec<i64> = legs.collect();
        let body = serde_json::json!({"id": id, "key": id, "legs": legs}).to_string();
        life.append_with("t", 0, &body, &[("keep", "yes")]);
    };
    record(0, 100..800);
    record(1, 1000..1700);
    let reading = life.run(&text).unwrap();
    assert_eq!((reading.fates.written, reading.files), (2, 1400));
    assert_eq!(world.files(".plan").len(), 2);
    // More than one plan can have: told, and nothing else is written.
    record(2, 0..1100);
    let error = life.run(&text).unwrap_err();
    assert!(
        error.class == Class::Config && error.message.contains("for more files than a plan can have"),
        "{error}"
    );
}

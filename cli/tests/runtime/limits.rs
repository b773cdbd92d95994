//! What is bounded, counted and left out on the way.

use std::sync::Arc;

use sluice_connect::steps::Next;
use sluice_connect::task::{Range, Read};
use sluice_store::file::RealDisk;

use crate::support::{Probe, World, until};

fn config(world: &World, text: &str) -> String {
    text.replace("LAKE", world.path("lake").to_str().unwrap())
}

const DEAD: &str = "
name: lake
source:
  topic: {name: t, until: UNTIL}
decode: {format: json, schema: {mode: declared, fields: {id: int64}}}
sink:
  parquet: {path: LAKE}
errors: {then: dead_letter, dead_letter: dlq}
";

#[test]
fn a_column_that_only_the_filter_needs_stays_out_of_the_files() {
    let text = "
name: lake
source:
  topic: {name: t, until: caught_up}
where: \"delay > 15\"
sink:
  parquet: {path: LAKE, partition: [origin]}
";
    let world = World::new();
    let life = world.simple_life();
    life.create_topic("t", 1);
    life.append_with("t", 0, "body", &[("delay", "20"), ("origin", "EWR")]);
    assert_eq!(life.run(&config(&world, text)).unwrap().fates.written, 1);
    let schema = world.batches()[0].schema();
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(
        names,
        [
            "topic",
            "queue_id",
            "queue_offset",
            "store_timestamp",
            "born_timestamp",
            "message_id",
            "keys",
            "tags",
            "properties",
            "body"
        ]
    );
}

#[test]
fn a_slice_counts_what_it_holds_after_decoding() {
    let fields: Vec<String> = (0..50).map(|n| format!("f{n}: int64")).collect();
    let text = format!(
        "name: lake\nsource:\n  topic: {{name: t, until: caught_up}}\ndecode: {{format: json, schema: {{mode: declared, fields: {{{}}}}}}}\nsink:\n  parquet: {{path: LAKE}}\n",
        fields.join(", ")
    );
    let world = World::new();
    let life = world.simple_life();
    life.create_topic("t", 1);
    life.append_all("t", 0, &vec!["{\"f0\": 1}".to_owned(); 1000]);
    let mut pipeline = life.pipeline(&config(&world, &text)).unwrap();
    pipeline.source.open(&pipeline.needs).unwrap();
    let range = Range { start: 0, end: i64::MAX };
    let Read::Slice(slice) = pipeline.source.read("t", 0, range, 1 << 20).unwrap() else { panic!("no rows") };
    let read = slice.bytes;
    let Next::Fix(schema) = pipeline.steps.push(0, slice).unwrap() else { panic!("no schema") };
    pipeline.steps.fix(&schema).unwrap();
    let passed = pipeline.steps.release().unwrap().slices;
    let bytes = passed[0].1.bytes;
    assert!(read < 200_000 && (400_000..900_000).contains(&bytes), "{read} bytes became {bytes}");
}

#[test]
fn more_dead_letters_than_a_segment_holds_are_stored_in_several_batches() {
    let world = World::new();
    let life = world.simple_life();
    life.create_topic("t", 1);
    // One slice of the source; the dead letters are many times its size, and a segment has 2 MiB.
    (0..10).for_each(|_| life.append_all("t", 0, &vec!["bad".to_owned(); 1000]));
    let reading = life.run(&config(&world, DEAD).replace("UNTIL", "caught_up")).unwrap();
    assert_eq!(reading.fates.dead, 10_000);
    let offsets: Vec<i64> =
        life.records("dlq", 1).iter().map(|r| r.properties["dead_offset"].parse().unwrap()).collect();
    assert_eq!(offsets, (0..10_000).collect::<Vec<i64>>());
}

#[test]
fn rejects_of_all_chains_together_end_a_plan() {
    let world = World::new();
    let life = world.simple_life();
    life.create_topic("t", 4);
    // No chain alone holds 8 MiB: a body is small, the properties are not.
    for queue in 0..4 {
        for _ in 0..100 {
            life.append_with("t", queue, "bad", &[("wide", &"x".repeat(30_000))]);
        }
    }
    let reading = life.run_beside(&config(&world, DEAD).replace("UNTIL", "forever"), |progress| {
        until("a plan", || progress.reading().fates.dead > 0);
    });
    assert_eq!(reading.unwrap().fates.dead, 400);
}

#[test]
fn the_lag_is_that_of_all_queues() {
    let world = World::new();
    let probe = Probe { idle_queue: Some(0), ..Probe::default() };
    let life = world.life(Arc::new(RealDisk), Arc::new(RealDisk), probe);
    life.create_topic("t", 2);
    for queue in 0..2 {
        (0..5).for_each(|id| life.append("t", queue, &format!("{{\"id\": {id}}}")));
    }
    let reading = life.run_beside(&config(&world, DEAD).replace("UNTIL", "forever"), |progress| {
        until("the rows of one queue", || progress.reading().rows_in == 5);
        until("the lag of the other", || progress.reading().lag == Some(5));
    });
    assert_eq!(reading.unwrap().lag, Some(5));
}

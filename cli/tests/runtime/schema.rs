//! Schemas: when one is fixed, what becomes of rows before and after, and of a config that declares another one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sluice_connect::task::Class;
use sluice_store::file::RealDisk;

use crate::support::{Probe, World, until};

fn config(world: &World, text: &str) -> String {
    text.replace("LAKE", world.path("lake").to_str().unwrap())
}

const INFER: &str = "
name: lake
source:
  topic: {name: t, until: caught_up}
where: \"keep = 'yes'\"
decode: {format: json}
sink:
  parquet: {path: LAKE, partition: [$.origin]}
errors: {then: skip}
";

#[test]
fn a_run_without_a_row_that_passes_fixes_no_schema_for_the_next_one() {
    let world = World::new();
    let config = config(&world, INFER);
    let life = world.simple_life();
    life.create_topic("t", 2);
    life.append_with("t", 0, "{\"id\": 1, \"origin\": \"EWR\"}", &[("keep", "no")]);
    life.append_with("t", 1, "no JSON", &[("keep", "yes")]);
    life.append_with("t", 1, "{}", &[("keep", "yes")]);
    let first = life.run(&config).unwrap();
    assert_eq!((first.fates.filtered, first.fates.skipped, first.fates.written), (1, 2, 0));
    assert!(world.files("schema-0.json").is_empty());

    life.append_with("t", 0, "{\"id\": 2, \"origin\": \"EWR\"}", &[("keep", "yes")]);
    let second = life.run(&config).unwrap();
    assert_eq!((second.fates.written, second.fates.total()), (1, 1), "{second:?}");
    assert_eq!(world.ids(), [Some(2)]);
}

#[test]
fn rows_that_show_no_field_wait_for_the_age_of_a_plan_and_no_longer() {
    let world = World::new();
    let config = config(&world, INFER).replace("caught_up", "forever");
    let life = world.simple_life();
    life.create_topic("t", 1);
    life.append_with("t", 0, "{}", &[("keep", "yes")]);
    let reading = life.run_beside(&config, |progress| {
        until("the row is held", || progress.reading().rows_in == 1);
        until("the plan", || {
            world.clock.advance_ms(301_000);
            progress.reading().fates.skipped == 1
        });
        life.append_with("t", 0, "{\"id\": 5, \"origin\": \"EWR\"}", &[("keep", "yes")]);
        until("the row", || {
            world.clock.advance_ms(301_000);
            progress.reading().fates.written == 1
        });
    });
    assert_eq!(reading.unwrap().fates.total(), 2);
}

#[test]
fn a_field_that_is_new_after_the_freeze_goes_where_errors_says() {
    let text = "
name: lake
source:
  topic: {name: t, until: caught_up}
decode: {format: json, schema: {freeze_after_rows: 2}}
sink:
  parquet: {path: LAKE}
errors: ERRORS
";
    for (errors, skipped, dead) in
        [("{then: stop}", 0, 0), ("{then: skip}", 1, 0), ("{then: dead_letter, dead_letter: dlq}", 0, 1)]
    {
        let world = World::new();
        let config = config(&world, text).replace("ERRORS", errors);
        // Each row is a slice.
        let probe = Probe { slice_bytes: 1, ..Probe::default() };
        let life = world.life(Arc::new(RealDisk), Arc::new(RealDisk), probe);
        life.create_topic("t", 1);
        for body in ["{\"id\": 1}", "{\"id\": 2, \"a\": 7}", "{\"id\": 3, \"b\": 8}", "{\"id\": 4}"] {
            life.append("t", 0, body);
        }
        let ran = life.run(&config);
        if errors == "{then: stop}" {
            let error = ran.unwrap_err();
            assert_eq!(error.class, Class::Record);
            assert!(error.message.contains("offset 2") && error.message.contains("$.b"), "{error}");
            assert_eq!(world.ids(), [Some(1), Some(2)], "what was good before still gets its place");
            continue;
        }
        let fates = ran.unwrap().fates;
        assert_eq!((fates.written, fates.skipped, fates.dead), (3, skipped, dead), "{errors}");
        assert_eq!(world.ids(), [Some(1), Some(2), Some(4)]);
    }
}

#[test]
fn a_topic_as_target_waits_longer_than_a_moment_for_the_schema() {
    let text = "
name: copy
source:
  topic: {name: t, until: forever}
where: \"$.id > 0\"
decode: {format: json}
sink:
  topic: {name: out}
errors: {then: skip}
";
    let world = World::new();
    let life = world.simple_life();
    life.create_topic("t", 1);
    life.append("t", 0, "{\"id\": 1}");
    let waits = || life.probe.waits.load(Ordering::SeqCst);
    let reading = life.run_beside(text, |progress| {
        until("the row is held", || progress.reading().rows_in == 1);
        world.clock.advance_ms(1_000);
        let before = waits();
        until("an idle moment", || waits() > before + 2);
        assert_eq!(progress.reading().fates.total(), 0, "one second is not long");
        life.append("t", 0, "{\"id\": 2, \"late\": true}");
        until("the second row is held", || progress.reading().rows_in == 2);
        world.clock.advance_ms(10_000);
        until("both rows", || progress.reading().fates.written == 2);
    });
    assert_eq!(reading.unwrap().fates.skipped, 0);
}

#[test]
fn a_declared_schema_that_is_not_the_standing_one_is_refused_with_the_difference() {
    let text = "
name: lake
source:
  topic: {name: t, until: caught_up}
decode: {format: json, schema: {mode: declared, fields: FIELDS}}
sink:
  parquet: {path: LAKE}
errors: {then: skip}
";
    let world = World::new();
    let with = |fields: &str| config(&world, text).replace("FIELDS", fields);
    let life = world.simple_life();
    life.create_topic("t", 1);
    life.append("t", 0, "{\"id\": 1, \"a\": 2}");
    life.run(&with("{id: int64, a: int64}")).unwrap();
    life.append("t", 0, "{\"id\": 2, \"a\": 3}");
    for (fields, expected) in [
        ("{id: int64, a: int64, b: utf8}", "`b: Utf8` is not in it"),
        ("{id: int64, a: float64}", "`a: Float64` is Int64 there"),
        ("{id: int64}", "`a: Int64` is missing"),
        ("{a: int64, id: int64}", "in another order"),
    ] {
        let error = life.run(&with(fields)).unwrap_err();
        assert_eq!(error.class, Class::Config);
        assert!(error.message.contains(expected) && error.message.contains("a new name"), "{error}");
    }
    assert_eq!(life.run(&with("{id: int64, a: int64}")).unwrap().fates.written, 1);
    assert_eq!(world.ids(), [Some(1), Some(2)]);
}

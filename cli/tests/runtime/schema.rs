//! Schemas: when one is fixed, what becomes of rows before and after, and of a config that declares another one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use sluice_connect::task::Class;
use sluice_store::file::RealDisk;

use crate::support::{LinkDisk, Probe, World, until};

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

const NEW_FIELD: &str = "
name: lake
source:
  topic: {name: t, until: caught_up}
decode: {format: json, schema: {freeze_after_rows: 1}, on_new_field: WHAT}
sink:
  parquet: {path: LAKE, rotate: {rows: 100}}
errors: {then: dead_letter, dead_letter: dlq}
";

/// Rows before the schema is fixed, and after: with a new field, one that conflicts, and one with both.
const BODIES: [&str; 6] = [
    "{\"id\": 1, \"empty\": null}",
    "{\"id\": 2, \"empty\": 7}",
    "{\"id\": \"three\"}",
    "{\"id\": \"four\", \"b\": 8}",
    "{\"id\": 5, \"b\": {\"c\": [1.5]}}",
    "{\"id\": 6}",
];

#[test]
fn on_new_field_says_what_becomes_of_rows_with_one() {
    // The columns of the files in order, what is written, and what is dead.
    for (what, columns, ids, dead) in [
        ("add", "id | id,empty,b", "1 2 5 6", 2),
        ("ignore", "id,empty", "1 5 6", 3),
        ("dead_letter", "id,empty", "1 6", 4),
    ] {
        let world = World::new();
        // Each row is a slice.
        let life =
            world.life(Arc::new(RealDisk), Arc::new(RealDisk), Probe { slice_bytes: 1, ..Probe::default() });
        life.create_topic("t", 1);
        life.create_topic("dlq", 1);
        BODIES.iter().for_each(|body| life.append("t", 0, body));
        let text = config(&world, NEW_FIELD).replace("WHAT", what);
        let fates = life.run(&text).unwrap().fates;
        let found: Vec<String> = world.ids().iter().map(|id| id.unwrap().to_string()).collect();
        assert_eq!((found.join(" ").as_str(), fates.dead), (ids, dead), "{what}");
        let names = |batch: &RecordBatch| {
            batch.schema().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>().join(",")
        };
        let mut files: Vec<String> = world.batches().iter().map(names).collect();
        files.dedup();
        let all = columns.split(" | ").collect::<Vec<_>>();
        assert!(all.iter().all(|c| files.iter().any(|f| f == c)), "{what}: {files:?}");
        // Nothing more to do, by the schema that stands.
        assert_eq!(life.run(&text).unwrap().fates.total(), 0, "{what}");
    }
}

#[test]
fn a_pipeline_that_shall_fail_at_a_new_field_blocks_with_all_that_a_person_needs() {
    let world = World::new();
    let life =
        world.life(Arc::new(RealDisk), Arc::new(RealDisk), Probe { slice_bytes: 1, ..Probe::default() });
    life.create_topic("t", 1);
    life.create_topic("dlq", 1);
    for body in ["{\"id\": 1}", "no JSON", "{\"id\": 2, \"b\": 8}", "{\"id\": 3}"] {
        life.append("t", 0, body);
    }
    let text = config(&world, NEW_FIELD).replace("WHAT", "fail");
    for _ in 0..2 {
        let error = life.run(&text).unwrap_err();
        assert_eq!(error.class, Class::Config);
        for part in
            ["on_new_field: fail", "queue offset 2", "$.b", "`b: Int64` is not in it", "`on_new_field: add`"]
        {
            assert!(error.message.contains(part), "{part}: {error}");
        }
        assert_eq!(world.ids(), [Some(1)], "what was good before still gets its place");
    }
    // What a person does then.
    assert_eq!(life.run(&text.replace("fail", "add")).unwrap().fates.written, 2);
    assert_eq!(world.ids(), [1, 2, 3].map(Some));
}

#[test]
fn a_declared_schema_grows_by_what_the_config_declares_later_and_by_what_comes() {
    let text = "
name: lake
source:
  topic: {name: t, until: caught_up}
decode: {format: json, schema: {mode: relaxed, fields: FIELDS}, on_new_field: add}
sink:
  parquet: {path: LAKE}
errors: {then: skip}
";
    let world = World::new();
    let with = |fields: &str| config(&world, text).replace("FIELDS", fields);
    let life = world.simple_life();
    life.create_topic("t", 1);
    life.append("t", 0, "{\"id\": 1}");
    life.run(&with("{id: int64}")).unwrap();
    life.append("t", 0, "{\"id\": 2, \"late\": \"2013-01-01T10:00:00Z\", \"x\": true}");
    life.run(&with("{id: int64, late: timestamp}")).unwrap();
    // The standing schema has more than is declared, and keeps it.
    life.append("t", 0, "{\"id\": 3, \"x\": false}");
    assert_eq!(life.run(&with("{id: int64}")).unwrap().fates.written, 1);
    let last = world.batches().pop().unwrap();
    let columns: Vec<_> =
        last.schema().fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
    assert_eq!(columns, ["id Int64", "late Timestamp(ms, \"UTC\")", "x Boolean"]);
    let error = life.run(&with("{id: utf8}")).unwrap_err();
    assert!(error.class == Class::Config && error.message.contains("$.id: int64 stands"), "{error}");
    assert_eq!(world.ids(), [1, 2, 3].map(Some));
}

#[test]
fn a_plan_without_its_files_is_made_again_by_the_schema_that_stood_then() {
    made_again("", 0);
    made_again("steps: [{select: {set: {twice: \"$.id * 2\"}}}]\n", 1);
}

/// `more` columns come of the steps.
fn made_again(steps: &str, more: usize) {
    let world = World::new();
    let text = config(&world, NEW_FIELD).replace("WHAT", "add") + steps;
    let life = world.simple_life();
    life.create_topic("t", 1);
    life.create_topic("dlq", 1);
    life.append("t", 0, "{\"id\": 1}");
    life.run(&text).unwrap();
    let (first, done) = (world.files(".parquet"), world.files(".done"));
    life.append("t", 0, "{\"id\": 2, \"b\": 8}");
    life.run(&text).unwrap();
    assert_eq!(world.files("schema-1.json").len(), 1);
    // As if the second plan were another worker's, and the first one died before its files were there.
    let second = world.files(".plan").pop().unwrap();
    for file in first
        .iter()
        .chain(&done)
        .chain([&second])
        .chain(&world.files(".done"))
        .chain(&world.files(".parquet"))
    {
        let _ = std::fs::remove_file(file);
    }
    life.run(&text).unwrap();
    assert_eq!(world.ids(), [1, 2].map(Some));
    let columns: Vec<usize> = world.batches().iter().map(RecordBatch::num_columns).collect();
    assert_eq!(columns, [1 + more, 2 + more]);
    // Without its schema it can not be finished, and says so.
    let done = world.files(".done");
    for file in done.iter().chain(&world.files(".parquet")).chain(&world.files("schema-1.json")) {
        std::fs::remove_file(file).unwrap();
    }
    let error = life.run(&text).unwrap_err();
    assert!(error.class == Class::Config && error.message.contains("schema-"), "{error}");
}

#[test]
fn a_schema_of_avro_and_a_header_of_csv_grow_with_the_config() {
    let text = "
name: lake
source:
  topic: {name: t, until: caught_up}
decode: {format: FORMAT, on_new_field: add}
sink:
  parquet: {path: LAKE}
";
    let avro = |fields: &str| {
        format!("{{avro: {{schema: '{{\"type\": \"record\", \"name\": \"R\", \"fields\": [{fields}]}}'}}}}")
    };
    let id = |of: &str| format!("{{\"name\": \"id\", \"type\": \"{of}\"}}");
    let more = "{\"name\": \"x\", \"type\": \"boolean\"}";
    // Each with two bodies: of Avro an integer n is the byte 2n.
    for (first, second) in [
        (
            (avro(&id("long")), ["\u{2}", "\u{4}"]),
            (avro(&format!("{}, {more}", id("long"))), ["\u{6}\u{1}", "\u{8}\0"]),
        ),
        (
            ("{csv: {header: [id]}}".to_owned(), ["1", "2"]),
            ("{csv: {header: [id, x]}}".to_owned(), ["3,true", "4,"]),
        ),
    ] {
        let world = World::new();
        let life = world.simple_life();
        life.create_topic("t", 1);
        for (format, bodies) in [&first, &second] {
            bodies.iter().for_each(|body| life.append("t", 0, body));
            assert_eq!(life.run(&config(&world, text).replace("FORMAT", format)).unwrap().fates.written, 2);
        }
        assert_eq!(world.ids(), [1, 2, 3, 4].map(Some));
        let names: Vec<String> =
            world.batches()[1].schema().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["id", "x"]);
    }
}

#[test]
fn a_schema_that_another_worker_put_first_is_grown_on() {
    let world = World::new();
    let text = config(&world, NEW_FIELD).replace("WHAT", "add");
    // The other worker's rows brought the column `b`, at the moment in which ours bring `a`.
    let intrudes = LinkDisk(Box::new(|to| {
        if to.ends_with("schema-1.json") && !to.exists() {
            let fields = ["id", "b"].map(|name| Field::new(name, DataType::Int64, true));
            std::fs::write(to, serde_json::to_vec(&Schema::new(fields.to_vec())).unwrap()).unwrap();
        }
    }));
    let life =
        world.life(Arc::new(RealDisk), Arc::new(intrudes), Probe { slice_bytes: 1, ..Probe::default() });
    life.create_topic("t", 1);
    life.create_topic("dlq", 1);
    for body in ["{\"id\": 1}", "{\"id\": 2, \"a\": true}", "{\"id\": 3, \"b\": 7}"] {
        life.append("t", 0, body);
    }
    assert_eq!(life.run(&text).unwrap().fates.written, 3);
    assert_eq!(world.files("schema-2.json").len(), 1);
    assert_eq!(world.files_of_other_schemas(), Vec::<String>::new());
    let last = world.batches().pop().unwrap();
    let names: Vec<_> = last.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!((names.join(","), last.num_rows()), ("id,b,a".to_owned(), 2));
}

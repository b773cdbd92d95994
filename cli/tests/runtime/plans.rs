//! Plans: when one ends, who finishes it, and what becomes of it when something is full, gone or not ours.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sluice_connect::pipeline::{self, Scope};
use sluice_connect::progress::{Progress, Stop};
use sluice_connect::task::Class;
use sluice_store::file::RealDisk;
use sluice_testkit::FaultyDisk;

use crate::support::{LinkDisk, Probe, World, until};

const TOPIC: &str = "
name: lake
source:
  topic: {name: t, until: forever}
decode: {format: json}
sink:
  parquet: {path: LAKE, rotate: {age: 1m}}
";

const FILES: &str = "
name: lake
source:
  file: {path: 'ROOT/in/*.csv', format: csv}
decode: {format: json}
sink:
  parquet: {path: LAKE}
";

fn config(world: &World, text: &str) -> String {
    let root = world.root.path().to_str().unwrap();
    text.replace("LAKE", &format!("{root}/lake")).replace("ROOT", root)
}

fn is_plan(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "plan")
}

#[test]
fn a_plan_ends_by_age_and_not_before() {
    let world = World::new();
    let life = world.simple_life();
    life.create_topic("t", 1);
    life.append("t", 0, "{\"id\": 1}");
    let waits = || life.probe.waits.load(Ordering::SeqCst);
    let reading = life.run_beside(&config(&world, TOPIC), |progress| {
        until("the row is read", || progress.reading().rows_in == 1);
        world.clock.advance_ms(59_000);
        let before = waits();
        until("an idle moment", || waits() > before + 5);
        assert_eq!(progress.reading().fates.total(), 0);
        until("the plan", || {
            world.clock.advance_ms(1_000);
            progress.reading().fates.written == 1
        });
        life.append("t", 0, "{\"id\": 2}");
        until("the second row is read", || progress.reading().rows_in == 2);
    });
    // The stop publishes what is in hand.
    assert_eq!((reading.as_ref().unwrap().fates.written, reading.unwrap().files), (2, 2));
    assert_eq!(world.ids(), [Some(1), Some(2)]);
}

#[test]
fn an_idle_hour_leaves_no_files_and_is_waited_through() {
    let world = World::new();
    let reads = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&reads);
    let on_read = move |_: &str| {
        counted.fetch_add(1, Ordering::SeqCst);
    };
    let probe = Probe { on_read: Some(Box::new(on_read)), ..Probe::default() };
    let life = world.life(Arc::new(RealDisk), Arc::new(RealDisk), probe);
    life.create_topic("t", 2);
    life.append_with("t", 0, "{\"id\": 1}", &[("wanted", "yes")]);
    let text = config(&world, TOPIC).replace("decode:", "where: \"wanted = 'yes'\"\ndecode:");
    let waits = || life.probe.waits.load(Ordering::SeqCst);
    let looked = || reads.load(Ordering::SeqCst);
    let reading = life.run_beside(&text, |progress| {
        until("the first plan", || {
            world.clock.advance_ms(1_000);
            progress.reading().fates.written == 1
        });
        let (before, looked_before, files) = (waits(), looked(), world.files(""));
        for minute in 1..=60 {
            world.clock.advance_ms(60_000);
            until("an idle moment", || waits() > before + 2 * minute);
        }
        assert_eq!(world.files(""), files, "nothing came, nothing is written");
        // One look at each of the two queues, then a wait.
        let (waited, looked) = (waits() - before, looked() - looked_before);
        assert!(looked <= 2 * (waited + 1), "{looked} looks, {waited} waits");
        // An hour in which nothing of what came is wanted.
        for message in 1..=10 {
            life.append_with("t", 0, "{\"id\": 2}", &[("wanted", "no")]);
            until("the message is passed over", || {
                world.clock.advance_ms(360_000);
                progress.reading().fates.filtered == message
            });
        }
    });
    assert_eq!((reading.as_ref().unwrap().files, reading.unwrap().fates.total()), (1, 11));
    assert_eq!(world.files(".parquet").len(), 1);
}

#[test]
fn a_full_disk_under_an_idle_topic_is_tried_again_until_there_is_space() {
    let world = World::new();
    let lake = FaultyDisk::new();
    let life = world.life(Arc::new(RealDisk), Arc::new(lake.clone()), Probe::default());
    life.create_topic("t", 1);
    life.append("t", 0, "{\"id\": 1}");
    let plan = |progress: &Progress, written| {
        until("the plan", || {
            world.clock.advance_ms(61_000);
            progress.reading().fates.written == written
        });
    };
    let reading = life.run_beside(&config(&world, TOPIC), |progress| {
        // Once the schema stands the source has nothing to ask the target for.
        plan(progress, 1);
        life.append("t", 0, "{\"id\": 2}");
        until("the row is read", || progress.reading().rows_in == 2);
        lake.set_full(true);
        until("the failure", || {
            world.clock.advance_ms(61_000);
            progress.reading().state.starts_with("retrying")
        });
        assert_eq!(progress.reading().fates.total(), 1);
        lake.set_full(false);
        plan(progress, 2);
    });
    assert_eq!(reading.unwrap().state, "stopped");
    assert_eq!(world.ids(), [Some(1), Some(2)]);
}

#[test]
fn a_panic_in_the_target_ends_an_idle_pipeline() {
    let world = World::new();
    let panics = LinkDisk(Box::new(|path| assert!(!is_plan(path), "this panic is part of a test")));
    let life = world.life(Arc::new(RealDisk), Arc::new(panics), Probe::default());
    life.create_topic("t", 1);
    life.append("t", 0, "{\"id\": 1}");
    let error = life.run_beside(&config(&world, TOPIC), |progress| {
        until("the row is read", || progress.reading().rows_in == 1);
        until("the failure", || {
            world.clock.advance_ms(61_000);
            progress.reading().state == "failed"
        });
    });
    let error = error.unwrap_err();
    assert!(error.class == Class::Fatal && error.message.contains("panicked"), "{error}");
}

#[test]
fn where_another_workers_plan_stands_the_rows_are_its_own() {
    let world = Arc::new(World::new());
    let text = config(&world, TOPIC).replace("forever", "caught_up").replace("age: 1m", "rows: 1");
    let first = world.simple_life();
    first.create_topic("t", 1);
    (1..=4).for_each(|id| first.append("t", 0, &format!("{{\"id\": {id}}}")));
    // The other worker comes in between this one's rows and its plan, and runs to the end.
    let (other, store, other_text) = (Arc::clone(&world), first.store.clone(), text.clone());
    let is_first = AtomicBool::new(true);
    let intrudes = LinkDisk(Box::new(move |to| {
        if is_plan(to) && is_first.swap(false, Ordering::SeqCst) {
            // Each row is a slice, and a plan.
            let probe = Probe { slice_bytes: 1, ..Probe::default() };
            let other = other.worker(store.clone(), Arc::new(RealDisk), probe);
            assert_eq!(other.run(&other_text).unwrap().files, 4);
        }
    }));
    let late = world.worker(first.store.clone(), Arc::new(intrudes), Probe::default());
    let error = late.run(&text).unwrap_err();
    assert!(error.class == Class::Retry && error.message.contains("another worker"), "{error}");
    assert_eq!(late.run(&text).unwrap().fates.total(), 0);
    assert_eq!(world.ids(), [1, 2, 3, 4].map(Some));
    assert!(world.files(".tmp").is_empty());
}

#[test]
fn an_unfinished_plan_whose_file_is_gone_is_named_and_one_that_was_published_is_finished() {
    let world = World::new();
    let text = config(&world, FILES);
    world.write("in/a.csv", "id\n1\n");
    world.write("in/b.csv", "id\n2\n");
    let life = world.simple_life();
    assert_eq!(life.run(&text).unwrap().fates.written, 2);
    let of_b =
        |end: &str| world.files(end).into_iter().find(|p| p.to_str().unwrap().contains("b.csv")).unwrap();
    fs::remove_file(world.path("in/b.csv")).unwrap();
    let done = of_b(".done");
    fs::remove_file(&done).unwrap();
    life.run(&text).unwrap();
    assert!(done.exists(), "its files were there");

    fs::remove_file(&done).unwrap();
    fs::remove_file(of_b(".parquet")).unwrap();
    // The same, whether the plan is this config's or an earlier one's.
    for text in [text.clone(), format!("{text}limits: {{in_flight: 1MiB}}\n")] {
        let error = life.run(&text).unwrap_err();
        assert_eq!(error.class, Class::Config);
        assert!(error.message.contains("lake/b.csv/0") && error.message.contains("bring it back"), "{error}");
    }
    world.write("in/b.csv", "id\n2\n");
    assert_eq!(life.run(&text).unwrap().fates.written, 1);
    assert_eq!(world.ids(), [Some(1), Some(2)]);
}

#[test]
fn a_plan_is_not_done_over_by_another_config() {
    let world = World::new();
    let text = config(&world, TOPIC).replace("forever", "caught_up");
    let life = world.simple_life();
    life.create_topic("t", 1);
    life.append("t", 0, "{\"id\": 1}");
    life.run(&text).unwrap();
    for file in world.files(".parquet").into_iter().chain(world.files(".done")) {
        fs::remove_file(file).unwrap();
    }
    // As when the other worker's plan came between the look for unfinished plans and the start.
    let other = life.pipeline(&text.replace("age: 1m", "age: 2m")).unwrap();
    let (stop, progress) = (Stop::default(), Progress::default());
    let error = pipeline::run(other, &Scope::All, &stop, &progress, &world.clock.clock()).unwrap_err();
    assert!(error.class == Class::Config && error.message.contains("another config"), "{error}");
    life.run(&text).unwrap();
    assert_eq!(world.ids(), [Some(1)]);
}

#[test]
fn a_chain_that_has_ended_is_published_before_many_others_are_open() {
    let world = World::new();
    for file in 0..40 {
        world.write(&format!("in/{file:02}.csv"), &format!("id\n{file}\n"));
    }
    let seen: Arc<std::sync::Mutex<(Vec<String>, usize, usize)>> = Arc::default();
    let (read, published) = (Arc::clone(&seen), Arc::clone(&seen));
    let on_read = move |topic: &str| {
        let mut seen = read.lock().unwrap();
        if !seen.0.iter().any(|t| t == topic) {
            seen.0.push(topic.to_owned());
        }
        seen.2 = seen.2.max(seen.0.len() - seen.1);
    };
    let lake = LinkDisk(Box::new(move |to| published.lock().unwrap().1 += usize::from(is_plan(to))));
    let probe = Probe { in_flight: 1, on_read: Some(Box::new(on_read)), ..Probe::default() };
    let life = world.life(Arc::new(RealDisk), Arc::new(lake), probe);
    // The first rows wait for the schema together, and no others.
    let text =
        config(&world, FILES).replace("{format: json}", "{format: json, schema: {freeze_after_rows: 5}}");
    assert_eq!(life.run(&text).unwrap().files, 40);
    let open = seen.lock().unwrap().2;
    assert!(open <= 12, "{open} chains were open at once");
}

#[test]
fn a_target_that_fails_while_the_source_waits_for_room_loses_no_row() {
    let world = World::new();
    let lake = FaultyDisk::new();
    let probe = Probe { in_flight: 1, slice_bytes: 1, ..Probe::default() };
    let life = world.life(Arc::new(RealDisk), Arc::new(lake.clone()), probe);
    life.create_topic("t", 1);
    (0..20).for_each(|id| life.append("t", 0, &format!("{{\"id\": {id}}}")));
    lake.set_full(true);
    let text = config(&world, TOPIC).replace("forever", "caught_up");
    assert_eq!(life.run(&text).unwrap_err().class, Class::Retry);
    lake.set_full(false);
    assert_eq!(life.run(&text).unwrap().fates.written, 20);
    assert_eq!(world.ids(), (0..20).map(Some).collect::<Vec<_>>());
}

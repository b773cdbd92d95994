//! Chains in an object store whose answers get lost: every row comes out once, whatever the store does, and
//! however many workers are at it.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod support;

use std::path::Path;
use std::sync::Arc;

use sluice_connect::task::{Class, SinkTask};
use sluice_sinks::files::FileSink;
use sluice_sinks::place;
use sluice_store::file::RealDisk;
use sluice_testkit::scratch;
use support::store::{Faults, FaultyStore};
use support::{BY_ORIGIN, Cut, KINDS, Kind, Source, chain, check_rows, plan, put, run, sink_in};

const END: i64 = 20;

/// One of so many operations goes wrong in each way: a run has about 60.
const FAULTS: Faults = Faults { refuse: 40, lose: 15, late: 20, conflict: 40, replaces: false };

fn open(store: &FaultyStore, spool: &Path, kind: Kind, partition: &[&str]) -> FileSink {
    let place = place::on_store(Arc::new(store.clone()), "lake", "flights", Some(spool)).unwrap();
    sink_in(place, kind, partition, Arc::new(RealDisk))
}

fn cut(life: i64) -> Cut {
    Cut { slice_rows: 1 + life % 4, plan_rows: 3 + life % 7 }
}

/// Checks that the store holds each row once, and that nothing of a worker stays on this machine.
fn check(store: &FaultyStore, spool: &Path, kind: Kind, partition: &[&str]) -> Result<(), String> {
    store.heal();
    let copy = scratch().unwrap();
    // What is still late comes now, or never.
    run(&mut open(store, spool, kind, partition), &mut Source::default(), END, cut(1), 0)
        .map_err(|e| e.to_string())?;
    store.copy_to(copy.path());
    check_rows(kind, &copy.path().join("flights"), 0, END, partition)?;
    let left = support::walk(spool);
    if left.is_empty() { Ok(()) } else { Err(format!("{left:?} stay")) }
}

#[test]
fn whatever_answer_is_lost_every_row_comes_out_once() {
    lose_answers(0..150);
}

#[test]
#[ignore = "takes minutes; `cargo test --release -p sluice-sinks --test objects -- --ignored`"]
fn whatever_answer_is_lost_every_row_comes_out_once_by_2000_seeds() {
    lose_answers(150..2150);
}

fn lose_answers(seeds: std::ops::Range<u64>) {
    let mut failed = 0;
    for seed in seeds {
        let (kind, partition) =
            (KINDS[seed as usize % KINDS.len()], [&[][..], BY_ORIGIN][seed as usize / KINDS.len() % 2]);
        let spool = scratch().unwrap();
        let store = FaultyStore::new(seed, FAULTS);
        let mut source = Source::default();
        // A worker that failed is not gone at once: it holds what it had until all is over.
        let mut zombies = Vec::new();
        for life in 0.. {
            assert!(life < 200, "seed {seed}: no life comes to the end");
            let mut sink = open(&store, spool.path(), kind, partition);
            // Where the answer to `begin` was lost the chain may have begun.
            source.origin = None;
            match run(&mut sink, &mut source, END, cut(life), 0) {
                Ok(()) => break,
                Err(error) => {
                    assert_eq!(error.class, Class::Retry, "seed {seed}: {error}: {:?}", error.source);
                    zombies.push(sink);
                }
            }
        }
        failed += store.failed();
        store.heal();
        for mut zombie in zombies {
            for (chain, plan) in zombie.unfinished("late").unwrap() {
                let _ = zombie.publish(&chain, &plan);
            }
        }
        check(&store, spool.path(), kind, partition)
            .unwrap_or_else(|e| panic!("seed {seed} {kind:?} {partition:?}: {e}"));
    }
    assert!(failed > 500, "only {failed} operations failed");
}

#[test]
fn two_workers_that_race_on_a_failing_store_leave_every_row_once() {
    for seed in 0..20 {
        let kind = KINDS[seed as usize % KINDS.len()];
        let spool = scratch().unwrap();
        let store = FaultyStore::new(seed, FAULTS);
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let (store, spool) = (&store, spool.path());
                scope.spawn(move || {
                    for life in 0.. {
                        assert!(life < 500, "seed {seed}: worker {worker} never comes to the end");
                        let mut sink = open(store, spool, kind, BY_ORIGIN);
                        let cut = cut(life * 2 + worker);
                        match run(&mut sink, &mut Source::default(), END, cut, 0) {
                            Ok(()) => break,
                            Err(e) => assert_eq!(e.class, Class::Retry, "seed {seed}: {e}: {:?}", e.source),
                        }
                    }
                });
            }
        });
        check(&store, spool.path(), kind, BY_ORIGIN).unwrap_or_else(|e| panic!("seed {seed} {kind:?}: {e}"));
    }
}

#[test]
fn a_worker_that_wakes_up_after_another_finished_its_plan_doubles_nothing() {
    for kind in KINDS {
        let spool = scratch().unwrap();
        let store = FaultyStore::new(0, Faults::default());
        let mut slow = open(&store, spool.path(), kind, BY_ORIGIN);
        slow.begin(&chain(), 0, "first").unwrap();
        slow.keep_config("late", "c0ffee", "name: late\n").unwrap();
        slow.schema("late", Some(&support::schema())).unwrap();
        put(&mut slow, 0, 5, cut(0)).unwrap();
        let plan = plan(&mut slow, 0, 5).unwrap();
        slow.claim(&chain(), &plan).unwrap();
        slow.seal(&chain(), &plan).unwrap();
        run(&mut open(&store, spool.path(), kind, BY_ORIGIN), &mut Source::default(), END, cut(3), 0)
            .unwrap();
        slow.publish(&chain(), &plan).unwrap();
        slow.confirm(&chain(), &plan).unwrap();
        drop(slow);
        check(&store, spool.path(), kind, BY_ORIGIN).unwrap();
    }
}

#[test]
fn a_row_whose_key_no_store_takes_is_turned_away() {
    let spool = scratch().unwrap();
    let store = FaultyStore::new(0, Faults::default());
    let prefix = "p".repeat(900);
    let place = place::on_store(Arc::new(store.clone()), "lake", &prefix, Some(spool.path())).unwrap();
    let sink = sink_in(place, Kind::Parquet, BY_ORIGIN, Arc::new(RealDisk));
    let unfit = sink.unfit(&support::slice(0, 6));
    assert_eq!(unfit.len(), 6, "no folder fits: {unfit:?}");
    assert!(unfit[0].1.contains("at most 0 fit"), "{unfit:?}");
    assert!(open(&store, spool.path(), Kind::Parquet, BY_ORIGIN).unfit(&support::slice(0, 6)).is_empty());
}

#[test]
fn a_store_that_replaces_what_is_there_is_refused_before_anything_is_put() {
    let spool = scratch().unwrap();
    let store = FaultyStore::new(0, Faults { replaces: true, ..Faults::default() });
    let mut sink = open(&store, spool.path(), Kind::Parquet, &[]);
    let error = sink.begin(&chain(), 0, "first").unwrap_err();
    assert_eq!(error.class, Class::Config);
    let cause = error.source.unwrap().to_string();
    assert!(cause.contains("replaces an object although it is asked not to"), "{cause}");
    let copy = scratch().unwrap();
    store.copy_to(copy.path());
    assert_eq!(support::walk(copy.path()).len(), 1, "the proof alone");
}

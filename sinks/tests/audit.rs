//! What the audit proves, and what it names when something is wrong; and merges of small files.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytesize::ByteSize;
use sluice_connect::task::{Class, SinkTask};
use sluice_sinks::audit::{Audit, audit};
use sluice_sinks::compact::{Compacted, compact};
use sluice_sinks::location::Location;
use sluice_sinks::place;
use sluice_store::file::{Disk, RealDisk};
use sluice_testkit::{FaultyDisk, PowerLoss, scratch};
use support::disk::MortalDisk;
use support::{
    BY_ORIGIN, Cut, FOOTED, KINDS, Kind, Source, chain, check_rows, expect_rows, published_names, put, run,
    sink,
};
use tempfile::TempDir;

const CUT: Cut = Cut { slice_rows: 3, plan_rows: 4 };
const CHAIN: &str = "_sluice/late/in/flights/2";

fn audit_of(target: &Path) -> Audit {
    let location = Location::Folder(target.to_owned());
    audit(place::open(&location, None, Arc::new(RealDisk)).unwrap().as_ref()).unwrap()
}

/// A target with the rows 3 to 23 in plans of four.
fn target(kind: Kind, partition: &[&str]) -> TempDir {
    let target = scratch().unwrap();
    run(&mut sink(kind, target.path(), partition, Arc::new(RealDisk)), &mut Source::default(), 23, CUT, 3)
        .unwrap();
    target
}

fn problems(target: &Path) -> Vec<String> {
    let found = audit_of(target);
    assert!(!found.is_proven());
    found.problems.into_iter().chain(found.chains.into_iter().flat_map(|chain| chain.problems)).collect()
}

fn compact_all(target: &Path, disk: Arc<dyn Disk>) -> Result<Compacted, String> {
    compact(target.to_owned(), disk, ByteSize::mib(1), 17).map_err(|e| format!("{e}: {:?}", e.source))
}

#[test]
fn a_whole_target_is_proven_with_its_numbers() {
    for kind in KINDS {
        let target = target(kind, BY_ORIGIN);
        let found = audit_of(target.path());
        assert!(found.is_proven(), "{found:?}");
        let [chain] = &found.chains[..] else { panic!("{found:?}") };
        assert_eq!((chain.pipeline.as_str(), chain.topic.as_str(), chain.queue), ("late", "in/flights", 2));
        assert_eq!(
            (chain.start, chain.end, chain.plans, chain.rows, chain.fates.written),
            (3, 23, 5, 20, 20)
        );
        let names = published_names(target.path());
        let bytes: u64 = names.iter().map(|name| fs::metadata(target.path().join(name)).unwrap().len()).sum();
        assert_eq!((chain.files, chain.bytes), (names.len() as u64, bytes));
    }
}

#[test]
fn what_is_missing_doubled_or_other_is_named() {
    for kind in KINDS {
        let check = |damage: &dyn Fn(&Path, &[String]), expected: &[&str]| {
            let target = target(kind, &[]);
            damage(target.path(), &published_names(target.path()));
            let problems = problems(target.path());
            assert_eq!(problems.len(), expected.len(), "{problems:?}");
            for expected in expected {
                assert!(problems.iter().any(|p| p.contains(expected)), "{expected}: {problems:?}");
            }
        };
        check(
            &|at, names| fs::remove_file(at.join(&names[1])).unwrap(),
            &["of plan 7 is missing with its 4 rows"],
        );
        let is_text = !FOOTED.contains(&kind);
        let other = match is_text {
            false => "is no file of plan 11: its footer does not hold that plan",
            true => "is no file of plan 11: it does not hold the text that the plan says",
        };
        check(&|at, names| assert!(fs::copy(at.join(&names[1]), at.join(&names[2])).is_ok()), &[other]);
        check(&|at, names| fs::write(at.join(&names[2]), "ARROW1 or not").unwrap(), &[other]);
        check(
            &|at, names| {
                let mut bytes = fs::read(at.join(&names[2])).unwrap();
                bytes.truncate(bytes.len() - 1);
                fs::write(at.join(&names[2]), bytes).unwrap();
            },
            &[other],
        );
        check(
            &|at, _| fs::remove_file(at.join(CHAIN).join("00000000000000000011.plan")).unwrap(),
            &["a gap: no plan has the offsets 11 to 15", "and no plan here names it"],
        );
        check(
            &|at, _| fs::remove_file(at.join(CHAIN).join("origin.json")).unwrap(),
            &["where the chain begins"],
        );
        check(
            &|at, _| fs::write(at.join(CHAIN).join("00000000000000000007.plan"), "{").unwrap(),
            &[
                "00000000000000000007.plan is damaged",
                "a gap: no plan has the offsets 7 to 11",
                "and no plan here names it",
            ],
        );
        check(
            &|at, names| {
                let copy = format!("copy-of-{}", names[1]);
                fs::copy(at.join(&names[1]), at.join(copy)).unwrap();
            },
            &["and no plan here names it: move it away"],
        );
        // Another plan over offsets that have one: its files are those of the first.
        check(
            &|at, _| {
                let chain = at.join(CHAIN);
                let plan = fs::read_to_string(chain.join("00000000000000000007.plan")).unwrap();
                let other = plan.replace("\"start\":7,\"end\":11", "\"start\":8,\"end\":12");
                assert_ne!(plan, other);
                fs::write(chain.join("00000000000000000008.plan"), other).unwrap();
            },
            &[
                "an overlap: plan 8 has the offsets 8 to 11",
                "an overlap: plan 11 has the offsets 11 to 12",
                "is no file of plan 8",
            ],
        );
    }
}

#[test]
fn a_plan_that_is_not_finished_is_no_proof_and_a_foreign_file_is_no_fault() {
    let target = target(Kind::Parquet, &[]);
    fs::write(target.path().join("notes.parquet"), "not ours").unwrap();
    let mut sink = sink(Kind::Parquet, target.path(), &[], Arc::new(RealDisk));
    assert!(audit_of(target.path()).is_proven());
    put(&mut sink, 23, 26, CUT).unwrap();
    let plan = support::plan(&mut sink, 23, 26).unwrap();
    sink.claim(&chain(), &plan).unwrap();
    sink.seal(&chain(), &plan).unwrap();
    let problems = problems(target.path());
    assert!(problems[0].contains("the plan is not finished: run the pipeline"), "{problems:?}");
    sink.publish(&chain(), &plan).unwrap();
    assert!(audit_of(target.path()).is_proven(), "the files are there, and `.done` may be lost in a crash");
}

#[test]
fn nothing_is_proven_of_a_folder_without_chains() {
    let target = TempDir::new().unwrap();
    assert!(problems(target.path())[0].contains("holds no chain of plans"));
}

#[test]
fn small_files_are_merged_and_the_audit_still_proves_every_offset() {
    for partition in [&[][..], BY_ORIGIN] {
        let target = target(Kind::Parquet, partition);
        let before = published_names(target.path()).len();
        let done = compact_all(target.path(), Arc::new(RealDisk)).unwrap();
        let names = published_names(target.path());
        assert_eq!(done.rows, if partition.is_empty() { 16 } else { done.rows }, "all but the last plan");
        assert_eq!(names.len() as u64, before as u64 - done.from + done.to);
        assert!(names.len() < before, "{names:?}");
        expect_rows(Kind::Parquet, target.path(), 3, 23, partition);
        let found = audit_of(target.path());
        assert!(found.is_proven(), "{found:?}");
        assert_eq!((found.chains[0].rows, found.chains[0].files), (20, names.len() as u64));
        assert_eq!(compact_all(target.path(), Arc::new(RealDisk)).unwrap(), Compacted::default());
        // The pipeline goes on, and what it makes is merged later.
        let mut sink = sink(Kind::Parquet, target.path(), partition, Arc::new(RealDisk));
        run(&mut sink, &mut Source { origin: Some(3), confirmed: 0 }, 40, CUT, 3).unwrap();
        compact_all(target.path(), Arc::new(RealDisk)).unwrap();
        expect_rows(Kind::Parquet, target.path(), 3, 40, partition);
        assert!(audit_of(target.path()).is_proven());
    }
}

#[test]
fn a_merge_that_is_killed_or_loses_power_anywhere_goes_on_at_the_next_run() {
    for partition in [&[][..], BY_ORIGIN] {
        let mut gaps = 0;
        for power_loss in [None, Some(PowerLoss::Forget), Some(PowerLoss::Tear)] {
            for dies_at in 1.. {
                let target = target(Kind::Parquet, partition);
                let disk = FaultyDisk::new();
                let mortal = MortalDisk::new(Arc::new(disk.clone()), dies_at);
                let result = compact_all(target.path(), Arc::new(mortal.clone()));
                let is_whole = !mortal.is_dead();
                assert!(!is_whole || result.is_ok(), "{result:?}");
                drop(mortal);
                if let Some(mode) = power_loss {
                    disk.crash(dies_at, mode);
                }
                let context = || format!("{partition:?} {power_loss:?} at operation {dies_at}");
                // What is hidden meanwhile is named, with the way out.
                let found = audit_of(target.path());
                if power_loss.is_none() {
                    let told = found.chains.iter().flat_map(|chain| &chain.problems);
                    assert!(told.clone().all(|p| p.contains("run `sluice compact` again")), "{found:?}");
                    gaps += told.count();
                }
                // Readers may see a gap meanwhile, and no row twice unless power was lost.
                if power_loss.is_none() {
                    let seen = support::published(Kind::Parquet, target.path());
                    let mut ids: Vec<i64> = seen.values().flatten().map(|(id, _)| *id).collect();
                    let rows = ids.len();
                    ids.sort_unstable();
                    ids.dedup();
                    assert_eq!(ids.len(), rows, "{}", context());
                }
                compact_all(target.path(), Arc::new(RealDisk))
                    .unwrap_or_else(|e| panic!("{}: {e}", context()));
                check_rows(Kind::Parquet, target.path(), 3, 23, partition)
                    .unwrap_or_else(|e| panic!("{}: {e}", context()));
                let found = audit_of(target.path());
                assert!(found.is_proven(), "{}: {found:?}", context());
                let left = support::walk(target.path()).into_iter().find(|path| {
                    let path = path.to_str().unwrap();
                    path.contains("/tmp-") || path.contains(".merged-")
                });
                assert_eq!(left, None, "{}", context());
                if is_whole {
                    assert!(dies_at > 20, "a merge is about {dies_at} operations");
                    break;
                }
            }
        }
        assert!(gaps > 0, "no kill fell between the removal and the new name");
    }
}

#[test]
fn a_merge_that_stands_half_done_is_named_and_a_worker_that_wakes_up_late_doubles_nothing() {
    let target = target(Kind::Parquet, &[]);
    let mut late = sink(Kind::Parquet, target.path(), &[], Arc::new(RealDisk));
    put(&mut late, 23, 26, CUT).unwrap();
    let plan = support::plan(&mut late, 23, 26).unwrap();
    late.claim(&chain(), &plan).unwrap();
    late.seal(&chain(), &plan).unwrap();
    let mut other = sink(Kind::Parquet, target.path(), &[], Arc::new(RealDisk));
    other.keep_config("late", "c0ffee", "name: late\n").unwrap();
    run(&mut other, &mut Source { origin: Some(3), confirmed: 0 }, 40, CUT, 3).unwrap();
    let names = published_names(target.path());
    let kept = fs::read(target.path().join(&names[0])).unwrap();
    compact_all(target.path(), Arc::new(RealDisk)).unwrap();
    late.publish(&chain(), &plan).unwrap();
    expect_rows(Kind::Parquet, target.path(), 3, 40, &[]);
    assert!(audit_of(target.path()).is_proven());
    fs::write(target.path().join(&names[0]), kept).unwrap();
    assert!(problems(target.path())[0].contains("run `sluice compact` again"));
    compact_all(target.path(), Arc::new(RealDisk)).unwrap();
    assert!(audit_of(target.path()).is_proven());
}

#[test]
fn what_can_not_be_merged_is_left_and_told() {
    let empty = TempDir::new().unwrap();
    let error = compact(empty.path().to_owned(), Arc::new(RealDisk), ByteSize::mib(1), 0).unwrap_err();
    assert!(error.class == Class::Config && error.message.contains("nothing to compact"), "{error}");
    let target = target(Kind::Parquet, &[]);
    let names = published_names(target.path());
    fs::remove_file(target.path().join(&names[1])).unwrap();
    let error = compact_all(target.path(), Arc::new(RealDisk)).unwrap_err();
    assert!(error.contains("see `sluice audit`"), "{error}");
    assert_eq!(published_names(target.path()).len(), names.len() - 1);
}

//! Tables of Delta Lake: each row once, whatever ends a run, and whoever else writes the table. Read back by
//! `delta_kernel`, as by other engines in `interop/tables.py`.
#![cfg(feature = "delta")]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use bytesize::ByteSize;
use serde_json::Value;
use sluice_connect::plan::Plan;
use sluice_connect::task::{Claim, Class, SinkTask, Slice, TaskError};
use sluice_sinks::audit::audit;
use sluice_sinks::compact::compact_table;
use sluice_sinks::delta::DeltaSink;
use sluice_sinks::location::Location;
use sluice_sinks::parquet::ParquetConfig;
use sluice_sinks::place;
use sluice_store::file::{Disk, RealDisk};
use sluice_testkit::{FaultyDisk, PowerLoss, scratch};
use support::disk::MortalDisk;
use support::store::{Faults, FaultyStore};
use support::{Cut, Source, chain, run, slice};

const END: i64 = 9;

fn config(target: &Path, partition: &[&str]) -> ParquetConfig {
    serde_json::from_value(serde_json::json!({
        "path": target,
        "partition": partition,
        "rotate": {"rows": 10},
    }))
    .unwrap()
}

fn sink_on(target: &Path, partition: &[&str], disk: Arc<dyn Disk>) -> DeltaSink {
    DeltaSink::new(&config(target, partition), disk).unwrap()
}

fn sink(target: &Path) -> DeltaSink {
    sink_on(target, &[], Arc::new(RealDisk))
}

/// The commits of a table, each a list of actions.
fn commits(target: &Path) -> Vec<Vec<Value>> {
    let mut names: Vec<_> =
        fs::read_dir(target.join("_delta_log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|e| e == "json"));
    names.sort();
    let lines = |path| -> Vec<Value> {
        fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    names.into_iter().map(lines).collect()
}

/// The ids in the files that the table has, sorted, with the partition value of each.
fn ids(target: &Path) -> Vec<(i64, Option<String>)> {
    let mut files: BTreeMap<String, Option<String>> = BTreeMap::new();
    for action in commits(target).iter().flatten() {
        if let Some(add) = action.get("add") {
            let origin = add["partitionValues"].get("origin").and_then(|v| v.as_str().map(str::to_owned));
            let is_new = files.insert(add["path"].as_str().unwrap().replace("%25", "%"), origin).is_none();
            assert!(is_new, "a file was added twice: {add}");
            let stats: Value = serde_json::from_str(add["stats"].as_str().unwrap()).unwrap();
            assert!(stats["numRecords"].as_i64().unwrap() > 0);
        }
    }
    let mut found = Vec::new();
    for (path, origin) in files {
        for batch in support::read(support::Kind::Parquet, &target.join(path)) {
            let ids = batch.column_by_name("id").unwrap().as_primitive::<arrow::datatypes::Int64Type>();
            found.extend(ids.values().iter().map(|id| (*id, origin.clone())));
        }
    }
    found.sort();
    found
}

fn check(target: &Path, start: i64, end: i64) -> Result<(), String> {
    let found: Vec<i64> = ids(target).into_iter().map(|(id, _)| id).collect();
    if found != (start..end).collect::<Vec<_>>() {
        return Err(format!("the table has {found:?}"));
    }
    let txns: Vec<i64> = commits(target)
        .iter()
        .flatten()
        .filter_map(|action| action.get("txn"))
        .map(|txn| {
            assert_eq!(txn["appId"], "sluice/late/in/flights/2");
            txn["version"].as_i64().unwrap()
        })
        .collect();
    if txns.is_sorted_by(|a, b| a < b) && txns.last() == Some(&end) {
        Ok(())
    } else {
        Err(format!("the positions are {txns:?}"))
    }
}

fn class<T>(result: Result<T, TaskError>) -> (Class, String) {
    let error = result.err().expect("an error");
    (error.class, sluice_connect::worker::chain_of_causes(&error))
}

fn planned(sink: &mut DeltaSink, start: i64, end: i64, slices: &[Slice]) -> Result<Plan, TaskError> {
    for slice in slices {
        sink.put(&chain(), slice)?;
    }
    support::plan(sink, start, end)
}

fn publish(sink: &mut DeltaSink, plan: &Plan) -> Result<(), TaskError> {
    assert_eq!(sink.claim(&chain(), plan)?, Claim::Mine);
    sink.seal(&chain(), plan)?;
    sink.publish(&chain(), plan)?;
    sink.confirm(&chain(), plan)
}

#[test]
fn rows_and_position_are_one_commit_and_a_second_run_finds_nothing_to_do() {
    let target = scratch().unwrap();
    let cut = Cut { slice_rows: 3, plan_rows: 4 };
    run(&mut sink(target.path()), &mut Source::default(), END, cut, 0).unwrap();
    check(target.path(), 0, END).unwrap();
    let all = commits(target.path());
    assert_eq!(all.len(), 3);
    let kinds = |commit: &[Value]| -> Vec<String> {
        commit.iter().flat_map(|action| action.as_object().unwrap().keys().cloned()).collect()
    };
    assert_eq!(kinds(&all[0]), ["commitInfo", "protocol", "metaData", "txn", "add"]);
    assert_eq!(kinds(&all[1]), ["commitInfo", "txn", "add"]);
    run(&mut sink(target.path()), &mut Source::default(), END, cut, 0).unwrap();
    assert_eq!(commits(target.path()).len(), 3);
    let place = place::open(&Location::Folder(target.path().to_owned()), None, Arc::new(RealDisk)).unwrap();
    let audit = audit(place.as_ref()).unwrap();
    assert!(audit.is_proven(), "{audit:?}");
}

#[test]
fn partition_values_stand_in_the_log_and_an_empty_text_is_a_reject() {
    let target = scratch().unwrap();
    let mut sink = sink_on(target.path(), &["$.origin"], Arc::new(RealDisk));
    let unfit = sink.unfit(&slice(0, 6));
    assert!(unfit.len() == 1 && unfit[0].0 == 4 && unfit[0].1.contains("empty text"), "{unfit:?}");
    sink.begin(&chain(), 0, "first").unwrap();
    let plan = planned(&mut sink, 0, 4, &[slice(0, 4)]).unwrap();
    publish(&mut sink, &plan).unwrap();
    let of = |text: &str| Some(text.to_owned());
    assert_eq!(ids(target.path()), [(0, of("EWR")), (1, of("JFK")), (2, None), (3, of("EWR"))]);
    let all = commits(target.path());
    let metadata = all[0].iter().find_map(|action| action.get("metaData")).unwrap();
    assert_eq!(metadata["partitionColumns"], serde_json::json!(["origin"]));
    assert!(metadata["schemaString"].as_str().unwrap().contains("\"origin\""));
}

#[test]
fn a_stale_worker_adds_nothing() {
    let target = scratch().unwrap();
    let (mut slow, mut fast) = (sink(target.path()), sink(target.path()));
    slow.begin(&chain(), 0, "first").unwrap();
    fast.keep_config("late", "c0ffee", "name: late\n").unwrap();
    fast.schema("late", Some(&support::schema())).unwrap();
    // It planned and sealed, and then hung while another one went on.
    let mine = planned(&mut slow, 0, 3, &[slice(0, 3)]).unwrap();
    assert_eq!(slow.claim(&chain(), &mine).unwrap(), Claim::Mine);
    slow.seal(&chain(), &mine).unwrap();
    run(&mut fast, &mut Source::default(), END, Cut { slice_rows: 2, plan_rows: 5 }, 0).unwrap();
    let before = commits(target.path());
    slow.publish(&chain(), &mine).unwrap();
    slow.confirm(&chain(), &mine).unwrap();
    assert_eq!(commits(target.path()), before);
    // Of a range that another one has planned it gets nothing at all.
    let late = planned(&mut slow, 3, 6, &[slice(3, 6)]).unwrap();
    assert_eq!(slow.claim(&chain(), &late).unwrap(), Claim::Theirs);
    slow.discard(&chain()).unwrap();
    check(target.path(), 0, END).unwrap();
}

#[test]
fn two_pipelines_and_others_write_one_table() {
    let target = scratch().unwrap();
    let cut = Cut { slice_rows: 2, plan_rows: 3 };
    run(&mut sink(target.path()), &mut Source::default(), 6, cut, 0).unwrap();
    // Somebody else commits.
    let theirs = r#"{"commitInfo":{"operation":"WRITE"}}
{"txn":{"appId":"another","version":7}}
"#;
    fs::write(target.path().join("_delta_log/00000000000000000002.json"), theirs).unwrap();
    let mut other = sink(target.path());
    let chain = sluice_connect::task::Chain { pipeline: "other".into(), ..chain() };
    other.begin(&chain, 0, "first").unwrap();
    other.put(&chain, &slice(0, 2)).unwrap();
    let mut plan = Plan {
        files: other.files(&chain, 0).unwrap(),
        ..support::plan(&mut sink(target.path()), 0, 2).unwrap()
    };
    plan.fates.written = 2;
    assert_eq!(other.claim(&chain, &plan).unwrap(), Claim::Mine);
    other.seal(&chain, &plan).unwrap();
    other.publish(&chain, &plan).unwrap();
    run(&mut sink(target.path()), &mut Source::default(), END, cut, 0).unwrap();
    assert_eq!(commits(target.path()).len(), 5);
    let found: Vec<i64> = ids(target.path()).into_iter().map(|(id, _)| id).collect();
    assert_eq!(found, [0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_table_that_was_replaced_or_lost_its_plans_is_refused() {
    let target = scratch().unwrap();
    let cut = Cut { slice_rows: 2, plan_rows: 3 };
    run(&mut sink(target.path()), &mut Source::default(), 6, cut, 0).unwrap();
    let (log, aside) = (target.path().join("_delta_log"), target.path().join("aside"));
    fs::rename(&log, &aside).unwrap();
    let (of, why) = class(run(&mut sink(target.path()), &mut Source::default(), END, cut, 0));
    assert!(of == Class::Config && why.contains("replaced, or restored"), "{why}");
    fs::remove_dir_all(target.path().join("_sluice")).unwrap();
    fs::rename(&aside, &log).unwrap();
    let (of, why) = class(sink(target.path()).position(&chain()));
    assert!(of == Class::Config && why.contains("put them back"), "{why}");
}

fn wider(offsets: std::ops::Range<i64>) -> Slice {
    let mut slice = slice(offsets.start, offsets.end);
    let decoded = slice.decoded.take().unwrap();
    let mut fields: Vec<_> = decoded.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("more", DataType::Int64, true)));
    let mut columns: Vec<ArrayRef> = decoded.columns().to_vec();
    columns.push(Arc::new(Int64Array::from_iter_values(offsets)));
    slice.decoded = Some(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap());
    slice
}

#[test]
fn a_new_column_comes_with_the_commit_that_has_it() {
    let target = scratch().unwrap();
    let mut sink = sink(target.path());
    sink.begin(&chain(), 0, "first").unwrap();
    let plan = planned(&mut sink, 0, 2, &[slice(0, 2)]).unwrap();
    publish(&mut sink, &plan).unwrap();
    let plan = planned(&mut sink, 2, 4, &[wider(2..4)]).unwrap();
    publish(&mut sink, &plan).unwrap();
    let all = commits(target.path());
    let metadata = |commit: &[Value]| commit.iter().find_map(|a| a.get("metaData").cloned());
    let (old, new) = (metadata(&all[0]).unwrap(), metadata(&all[1]).unwrap());
    assert_eq!(old["id"], new["id"]);
    assert!(new["schemaString"].as_str().unwrap().contains("\"more\""));
    // One that comes back without it is fine.
    let plan = planned(&mut sink, 4, 6, &[slice(4, 6)]).unwrap();
    publish(&mut sink, &plan).unwrap();
    assert!(metadata(&commits(target.path())[2]).is_none());
    check(target.path(), 0, 6).unwrap();
}

/// A table that somebody else made.
fn foreign(target: &Path, schema: &str, configuration: &str) {
    fs::create_dir_all(target.join("_delta_log")).unwrap();
    let lines = format!(
        r#"{{"protocol":{{"minReaderVersion":1,"minWriterVersion":2}}}}
{{"metaData":{{"id":"1f2b","format":{{"provider":"parquet","options":{{}}}},"schemaString":{},"partitionColumns":[],"configuration":{configuration},"createdTime":1}}}}
"#,
        serde_json::json!(schema)
    );
    fs::write(target.join("_delta_log/00000000000000000000.json"), lines).unwrap();
}

fn columns(columns: &[(&str, &str, bool)]) -> String {
    let fields: Vec<Value> = columns
        .iter()
        .map(|(name, kind, nullable)| {
            serde_json::json!({"name": name, "type": kind, "nullable": nullable, "metadata": {}})
        })
        .collect();
    serde_json::json!({"type": "struct", "fields": fields}).to_string()
}

#[test]
fn a_foreign_table_takes_rows_that_fit_and_refuses_others_before_any_is_written() {
    let all = [("id", "long", true), ("origin", "string", true), ("note", "string", true)];
    let fits = [&all[..], &[("theirs", "date", true)]].concat();
    for (schema, configuration, expected) in [
        (columns(&fits), "{}", None),
        (columns(&all[..2]), "{}", Some("no column `note`")),
        (columns(&[&[("id", "integer", true)], &all[1..]].concat()), "{}", Some("can not hold it")),
        (columns(&[&[("ID", "long", true)], &all[1..]].concat()), "{}", Some("differ by case")),
        (columns(&[&all[..], &[("must", "long", false)]].concat()), "{}", Some("must not be null")),
        (columns(&all), r#"{"delta.constraints.a":"id > 0"}"#, Some("constraints")),
        (columns(&all), r#"{"delta.setTransactionRetentionDuration":"interval 1 day"}"#, Some("forgets")),
    ] {
        let target = scratch().unwrap();
        foreign(target.path(), &schema, configuration);
        let mut sink = sink(target.path());
        let accepted = sink.accept(&support::schema());
        let cut = Cut { slice_rows: 2, plan_rows: 3 };
        match expected {
            None => {
                accepted.unwrap();
                run(&mut sink, &mut Source::default(), 6, cut, 0).unwrap();
                check(target.path(), 0, 6).unwrap();
            }
            Some(expected) => {
                let (of, why) = class(accepted);
                assert!(of == Class::Config && why.contains(expected), "{why}");
                let (of, why) = class(run(&mut sink, &mut Source::default(), 6, cut, 0));
                assert!(of == Class::Config && why.contains(expected), "{why}");
                assert_eq!(commits(target.path()).len(), 1);
            }
        }
    }
}

#[test]
fn narrow_rows_are_written_as_wide_as_the_tables_column() {
    let target = scratch().unwrap();
    foreign(target.path(), &columns(&[("id", "long", true)]), "{}");
    let mut sink = sink(target.path());
    sink.begin(&chain(), 0, "first").unwrap();
    let mut narrow = slice(0, 2);
    let field = Field::new("id", DataType::Int32, true);
    let column: ArrayRef = Arc::new(Int32Array::from(vec![0, 1]));
    narrow.decoded = Some(RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column]).unwrap());
    let plan = planned(&mut sink, 0, 2, &[narrow]).unwrap();
    publish(&mut sink, &plan).unwrap();
    assert_eq!(ids(target.path()), [(0, None), (1, None)], "as 64 bits");
}

/// Lives that are killed, or lose power, at each operation; the last one must leave each row once.
fn dies(power: Option<PowerLoss>, partition: &[&str]) {
    const CUTS: [Cut; 2] = [Cut { slice_rows: 2, plan_rows: 5 }, Cut { slice_rows: 3, plan_rows: 4 }];
    for dies_at in 1.. {
        let target = scratch().unwrap();
        let faulty = FaultyDisk::new();
        let disk = MortalDisk::new(Arc::new(faulty.clone()), dies_at);
        let mut source = Source::default();
        let killed =
            run(&mut sink_on(target.path(), partition, Arc::new(disk.clone())), &mut source, 4, CUTS[0], 0);
        if let Some(power) = power {
            faulty.crash(dies_at, power);
        }
        // Where the answer to `begin` was lost the chain may have begun.
        source.origin = source.origin.filter(|_| !disk.is_dead());
        let again = &mut sink_on(target.path(), partition, Arc::new(FaultyDisk::new()));
        run(again, &mut source, 4, CUTS[1], 0)
            .map_err(|e| sluice_connect::worker::chain_of_causes(&e))
            .and_then(|()| check(target.path(), 0, 4))
            .unwrap_or_else(|e| panic!("{power:?} at operation {dies_at}: {e}"));
        if !disk.is_dead() {
            killed.unwrap();
            assert!(dies_at > 30, "the run is {dies_at} operations");
            break;
        }
    }
}

#[test]
fn a_kill_at_any_operation_loses_and_doubles_nothing() {
    dies(None, &[]);
    dies(None, &["$.origin"]);
}

#[test]
fn power_loss_at_any_operation_loses_and_doubles_nothing() {
    dies(Some(PowerLoss::Forget), &[]);
    dies(Some(PowerLoss::Tear), &[]);
}

#[test]
fn power_loss_in_the_run_after_a_kill_loses_and_doubles_nothing() {
    const CUT: Cut = Cut { slice_rows: 2, plan_rows: 5 };
    for killed_at in 1.. {
        let mut was_killed = true;
        for lost_at in (1 + killed_at % 7..).step_by(7) {
            let (target, faulty) = (scratch().unwrap(), FaultyDisk::new());
            let mut source = Source::default();
            let mut live = |dies_at| {
                let disk = MortalDisk::new(Arc::new(faulty.clone()), dies_at);
                // Where a life ended in `begin` the chain may have begun.
                source.origin = None;
                let _ = run(&mut sink_on(target.path(), &[], Arc::new(disk.clone())), &mut source, 4, CUT, 0);
                disk.is_dead()
            };
            was_killed = live(killed_at);
            let was_lost = live(lost_at);
            faulty.crash(lost_at, PowerLoss::Forget);
            source.origin = None;
            run(&mut sink(target.path()), &mut source, 4, CUT, 0)
                .map_err(|e| sluice_connect::worker::chain_of_causes(&e))
                .and_then(|()| check(target.path(), 0, 4))
                .unwrap_or_else(|e| panic!("killed at {killed_at}, then lost at {lost_at}: {e}"));
            if !was_lost {
                break;
            }
        }
        if !was_killed {
            break;
        }
    }
}

#[test]
fn two_workers_race_for_a_table_in_an_object_store_whose_answers_get_lost() {
    const FAULTS: Faults = Faults { refuse: 60, lose: 15, late: 0, conflict: 40, replaces: false };
    for seed in 0..8 {
        let spool = scratch().unwrap();
        let store = FaultyStore::new(seed, FAULTS);
        let open = |spool: &Path| {
            let place = place::on_store(Arc::new(store.clone()), "lake", "flights", Some(spool)).unwrap();
            DeltaSink::in_place(place, &config(Path::new("not used"), &[]), Arc::new(RealDisk)).unwrap()
        };
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let (open, spool) = (&open, spool.path());
                scope.spawn(move || {
                    let mut source = Source::default();
                    for life in 0.. {
                        assert!(life < 300, "seed {seed}: no life comes to the end");
                        source.origin = None;
                        source.confirmed = 0;
                        let cut = Cut { slice_rows: 1 + life % 3, plan_rows: 2 + (life + worker) % 5 };
                        match run(&mut open(spool), &mut source, 20, cut, 0) {
                            Ok(()) => break,
                            Err(e) => assert_eq!(e.class, Class::Retry, "seed {seed}: {e}: {:?}", e.source),
                        }
                    }
                });
            }
        });
        store.heal();
        run(&mut open(spool.path()), &mut Source::default(), 20, Cut { slice_rows: 5, plan_rows: 5 }, 0)
            .unwrap();
        let copy = scratch().unwrap();
        store.copy_to(copy.path());
        check(&copy.path().join("flights"), 0, 20).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn small_files_are_merged_in_one_commit_while_pipelines_go_on() {
    let target = scratch().unwrap();
    let cut = Cut { slice_rows: 1, plan_rows: 2 };
    run(&mut sink(target.path()), &mut Source::default(), 8, cut, 0).unwrap();
    let merge = || compact_table(target.path().to_owned(), Arc::new(RealDisk), ByteSize::mib(128), 17);
    let merged = merge().unwrap();
    assert_eq!((merged.from, merged.to, merged.rows), (4, 1, 8));
    let all = commits(target.path());
    let last = all.last().unwrap();
    let of = |kind: &str| last.iter().filter(|action| action.get(kind).is_some()).count();
    assert_eq!((of("remove"), of("add"), of("txn"), all.len()), (4, 1, 0, 5));
    assert!(last.iter().filter_map(|a| a.get("add").or(a.get("remove"))).all(|a| a["dataChange"] == false));
    assert_eq!(merge().unwrap().from, 0, "one file is merged with nothing");
    run(&mut sink(target.path()), &mut Source::default(), 10, cut, 0).unwrap();
    let place = place::open(&Location::Folder(target.path().to_owned()), None, Arc::new(RealDisk)).unwrap();
    let audit = audit(place.as_ref()).unwrap();
    assert!(audit.is_proven(), "{audit:?}");
    assert_eq!(audit.chains[0].rows, 10);
    let error =
        sluice_sinks::compact::compact(target.path().to_owned(), Arc::new(RealDisk), ByteSize::mib(1), 17);
    assert!(class(error).1.contains("is a table"));
}

#[test]
fn a_checkpoint_is_written_and_read() {
    let target = scratch().unwrap();
    foreign(
        target.path(),
        &columns(&[("id", "long", true), ("origin", "string", true), ("note", "string", true)]),
        r#"{"delta.checkpointInterval":"3"}"#,
    );
    let cut = Cut { slice_rows: 1, plan_rows: 1 };
    run(&mut sink(target.path()), &mut Source::default(), 5, cut, 0).unwrap();
    let log = target.path().join("_delta_log");
    assert!(log.join("00000000000000000003.checkpoint.parquet").exists());
    // Older commits may be cleaned away then.
    for version in 0..3 {
        fs::remove_file(log.join(format!("{version:020}.json"))).unwrap();
    }
    run(&mut sink(target.path()), &mut Source::default(), 7, cut, 0).unwrap();
    assert!(log.join("00000000000000000006.checkpoint.parquet").exists());
    let txn = commits(target.path()).last().unwrap().iter().find_map(|a| a.get("txn").cloned()).unwrap();
    assert_eq!(txn["version"], 7);
}

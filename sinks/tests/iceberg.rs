//! Tables of Iceberg: each row once, whatever ends a run, and whoever else writes the table. What the table holds is read
//! from its metadata and manifests, as other engines do in `interop/tables.py`.
#![cfg(feature = "iceberg")]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use iceberg::TableCreation;
use iceberg::spec::{
    DataFile, Literal, Manifest, ManifestList, NestedField, PrimitiveType, Schema as Columns, TableMetadata,
    TableMetadataBuilder, Transform, Type, UnboundPartitionSpec,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use sluice_connect::plan::Plan;
use sluice_connect::task::{Chain, Claim, Class, SinkTask, Slice, TaskError};
use sluice_sinks::audit::audit;
use sluice_sinks::iceberg::{IcebergConfig, IcebergSink};
use sluice_sinks::location::Location;
use sluice_sinks::place;
use sluice_store::file::{Disk, DiskFile, Open, RealDisk};
use sluice_testkit::{FaultyDisk, PowerLoss, scratch};
use support::disk::MortalDisk;
use support::store::{Faults, FaultyStore};
use support::{Cut, Source, chain, run, slice};

const END: i64 = 9;
const CUT: Cut = Cut { slice_rows: 2, plan_rows: 3 };
const POSITION: &str = "sluice.late/in/flights/2";

fn config(target: &Path, partition: &[&str]) -> IcebergConfig {
    serde_json::from_value(json!({"path": target, "partition": partition, "rotate": {"rows": 10}})).unwrap()
}

fn sink_on(target: &Path, partition: &[&str], disk: Arc<dyn Disk>) -> IcebergSink {
    IcebergSink::new(&config(target, partition), disk).unwrap()
}

fn sink(target: &Path) -> IcebergSink {
    sink_on(target, &[], Arc::new(RealDisk))
}

/// The number of the newest metadata.
fn version(target: &Path) -> u64 {
    let names = fs::read_dir(target.join("metadata")).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    let version = |name: String| name.strip_prefix('v')?.strip_suffix(".metadata.json")?.parse().ok();
    names.filter_map(version).max().unwrap_or(0)
}

fn metadata_path(target: &Path, version: u64) -> std::path::PathBuf {
    target.join(format!("metadata/v{version}.metadata.json"))
}

fn table(target: &Path) -> TableMetadata {
    serde_json::from_slice(&fs::read(metadata_path(target, version(target))).unwrap()).unwrap()
}

/// Another engine changes the table's metadata.
fn change(target: &Path, how: impl FnOnce(&mut Value)) {
    let version = version(target);
    let mut json: Value = serde_json::from_slice(&fs::read(metadata_path(target, version)).unwrap()).unwrap();
    how(&mut json);
    fs::write(metadata_path(target, version + 1), json.to_string()).unwrap();
}

fn local(address: &str) -> &Path {
    Path::new(address.strip_prefix("file://").unwrap_or(address))
}

/// The files that the table has.
fn files(target: &Path) -> Vec<DataFile> {
    let table = table(target);
    let Some(snapshot) = table.current_snapshot() else { return Vec::new() };
    let list = fs::read(below(target, &table, snapshot.manifest_list())).unwrap();
    let list = ManifestList::parse_with_version(&list, table.format_version()).unwrap();
    let mut found = Vec::new();
    for manifest in list.entries() {
        let bytes = fs::read(below(target, &table, &manifest.manifest_path)).unwrap();
        let manifest = Manifest::parse_avro(&bytes).unwrap();
        found.extend(
            manifest.entries().iter().filter(|e| e.is_alive()).map(|entry| entry.data_file().clone()),
        );
    }
    found
}

/// Where a file lies: a copy of an object store has it elsewhere than its address says.
fn below(target: &Path, table: &TableMetadata, address: &str) -> std::path::PathBuf {
    match address.strip_prefix(table.location()) {
        Some(rest) => target.join(rest.trim_start_matches('/')),
        None => local(address).to_owned(),
    }
}

/// The ids in the files that the table has, sorted.
fn ids(target: &Path) -> Vec<i64> {
    let (table, mut found) = (table(target), Vec::new());
    for file in files(target) {
        let mut rows = 0;
        for batch in support::read(support::Kind::Parquet, &below(target, &table, file.file_path())) {
            let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>();
            found.extend(ids.values().iter().copied());
            rows += batch.num_rows() as u64;
        }
        assert_eq!(file.record_count(), rows);
    }
    found.sort_unstable();
    found
}

fn check(target: &Path, start: i64, end: i64) -> Result<(), String> {
    let found = ids(target);
    if found != (start..end).collect::<Vec<_>>() {
        return Err(format!("the table has {found:?}"));
    }
    let table = table(target);
    let at = table.properties().get(POSITION).cloned();
    let summary = table.current_snapshot().unwrap().summary().additional_properties.get(POSITION).cloned();
    if at == Some(end.to_string()) && at == summary {
        Ok(())
    } else {
        Err(format!("the position is {at:?}, and {summary:?} in the summary"))
    }
}

fn proven(target: &Path) {
    let place = place::open(&Location::Folder(target.to_owned()), None, Arc::new(RealDisk)).unwrap();
    let audit = audit(place.as_ref()).unwrap();
    assert!(audit.is_proven(), "{audit:?}");
}

fn class<T>(result: Result<T, TaskError>) -> (Class, String) {
    let error = result.err().expect("an error");
    (error.class, sluice_connect::worker::chain_of_causes(&error))
}

fn planned(sink: &mut IcebergSink, start: i64, end: i64, slices: &[Slice]) -> Result<Plan, TaskError> {
    for slice in slices {
        sink.put(&chain(), slice)?;
    }
    support::plan(sink, start, end)
}

fn publish(sink: &mut IcebergSink, plan: &Plan) -> Result<(), TaskError> {
    assert_eq!(sink.claim(&chain(), plan)?, Claim::Mine);
    sink.seal(&chain(), plan)?;
    sink.publish(&chain(), plan)?;
    sink.confirm(&chain(), plan)
}

#[test]
fn rows_and_position_are_one_snapshot_and_a_second_run_finds_nothing_to_do() {
    let target = scratch().unwrap();
    let cut = Cut { slice_rows: 3, plan_rows: 4 };
    run(&mut sink(target.path()), &mut Source::default(), END, cut, 0).unwrap();
    check(target.path(), 0, END).unwrap();
    assert_eq!((version(target.path()), table(target.path()).snapshots().len()), (4, 3));
    let hint = fs::read_to_string(target.path().join("metadata/version-hint.text")).unwrap();
    assert_eq!(hint, "4");
    run(&mut sink(target.path()), &mut Source::default(), END, cut, 0).unwrap();
    assert_eq!(version(target.path()), 4);
    proven(target.path());
}

#[test]
fn files_carry_the_columns_ids_and_manifests_what_footers_say_of_them() {
    let target = scratch().unwrap();
    run(&mut sink(target.path()), &mut Source::default(), 6, Cut { slice_rows: 6, plan_rows: 6 }, 0).unwrap();
    let [file] = &files(target.path())[..] else { panic!("one file") };
    let read = fs::File::open(local(file.file_path())).unwrap();
    let footer = ParquetRecordBatchReaderBuilder::try_new(read).unwrap().metadata().clone();
    let columns = footer.file_metadata().schema_descr().root_schema().get_fields().to_vec();
    let columns: Vec<_> = columns.iter().map(|c| (c.name().to_owned(), c.get_basic_info().id())).collect();
    assert_eq!(columns, [("id".to_owned(), 1), ("origin".to_owned(), 2), ("note".to_owned(), 3)]);
    let (low, high) = (&file.lower_bounds()[&1], &file.upper_bounds()[&1]);
    assert_eq!((low.to_string(), high.to_string()), ("0".to_owned(), "5".to_owned()));
    assert_eq!(
        (file.lower_bounds()[&2].to_string(), file.upper_bounds()[&2].to_string()),
        ("\"\"".to_owned(), "\"a/b\"".to_owned())
    );
    assert_eq!((file.null_value_counts()[&1], file.null_value_counts()[&3]), (0, 2));
    assert_eq!(file.value_counts()[&3], 6);
    assert_eq!(file.file_size_in_bytes(), fs::metadata(local(file.file_path())).unwrap().len());
    assert_eq!(file.split_offsets().unwrap(), [4]);
}

#[test]
fn partition_values_stand_in_manifests_and_in_the_files() {
    let target = scratch().unwrap();
    let mut sink = sink_on(target.path(), &["$.origin"], Arc::new(RealDisk));
    assert!(sink.unfit(&slice(0, 6)).is_empty(), "an empty text is no null");
    run(&mut sink, &mut Source::default(), 6, Cut { slice_rows: 6, plan_rows: 6 }, 0).unwrap();
    check(target.path(), 0, 6).unwrap();
    let spec = table(target.path()).default_partition_spec().clone();
    assert_eq!((spec.fields()[0].name.as_str(), spec.fields()[0].transform), ("origin", Transform::Identity));
    let mut found = BTreeMap::new();
    for file in files(target.path()) {
        let value = file.partition().fields()[0].clone();
        let value = value.map(|value| match value {
            Literal::Primitive(text) => format!("{text:?}"),
            other => panic!("{other:?}"),
        });
        let batch = support::read(support::Kind::Parquet, local(file.file_path())).remove(0);
        assert!(batch.column_by_name("origin").is_some());
        found.insert(value, file.record_count());
    }
    let of = |text: &str| Some(format!("String({text:?})"));
    let expected = [(None, 1), (of(""), 1), (of("EWR"), 2), (of("JFK"), 1), (of("a/b"), 1)];
    assert_eq!(found, BTreeMap::from(expected));
    // Other partitions than the table's are refused before a row is written.
    let (of, why) = class(sink_on(target.path(), &[], Arc::new(RealDisk)).accept(&support::schema()));
    assert!(of == Class::Config && why.contains("partitioned by [origin]"), "{why}");
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
    let before = version(target.path());
    slow.publish(&chain(), &mine).unwrap();
    slow.confirm(&chain(), &mine).unwrap();
    assert_eq!(version(target.path()), before);
    // Of a range that another one has planned it gets nothing at all.
    let late = planned(&mut slow, 3, 6, &[slice(3, 6)]).unwrap();
    assert_eq!(slow.claim(&chain(), &late).unwrap(), Claim::Theirs);
    slow.discard(&chain()).unwrap();
    check(target.path(), 0, END).unwrap();
}

/// What is done in the middle of a commit.
type Meanwhile = Box<dyn FnOnce() + Send>;

/// A disk that lets others do something right before a file gets its name.
struct MeddledDisk {
    at: &'static str,
    meanwhile: Mutex<Option<Meanwhile>>,
}

impl std::fmt::Debug for MeddledDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.at.fmt(f)
    }
}

impl Disk for MeddledDisk {
    fn open(&self, path: &Path, open: Open) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.open(path, open)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        if to.ends_with(self.at)
            && let Some(meanwhile) = self.meanwhile.lock().unwrap().take()
        {
            // The library's runtime is under way on this thread.
            std::thread::spawn(meanwhile).join().unwrap();
        }
        RealDisk.hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_dir(path)
    }
}

/// A plan of three rows whose first try to commit is as version 3, while others do something; gives what came of it.
fn meddled(target: &Path, meanwhile: Meanwhile) -> Result<(), TaskError> {
    run(&mut sink(target), &mut Source::default(), 3, CUT, 0).unwrap();
    assert_eq!(version(target), 2);
    let disk = MeddledDisk { at: "v3.metadata.json", meanwhile: Mutex::new(Some(meanwhile)) };
    let disk = Arc::new(disk);
    let mut slow = sink_on(target, &[], disk.clone());
    slow.position(&chain()).unwrap();
    let plan = planned(&mut slow, 3, 6, &[slice(3, 6)]).unwrap();
    assert_eq!(slow.claim(&chain(), &plan).unwrap(), Claim::Mine);
    slow.seal(&chain(), &plan).unwrap();
    let done = slow.publish(&chain(), &plan);
    assert!(disk.meanwhile.lock().unwrap().is_none(), "the commit came to version 3");
    done
}

#[test]
fn an_append_gives_way_to_a_commit_of_others_and_lands() {
    let target = scratch().unwrap();
    let path = target.path().to_owned();
    meddled(
        target.path(),
        Box::new(move || {
            let chain = Chain { pipeline: "other".into(), ..chain() };
            let mut other = sink(&path);
            other.begin(&chain, 0, "first").unwrap();
            other.put(&chain, &slice(70, 72)).unwrap();
            let files = other.files(&chain, 70).unwrap();
            let mut plan = Plan { files, ..support::plan(&mut sink(&path), 70, 72).unwrap() };
            plan.fates.written = 2;
            assert_eq!(other.claim(&chain, &plan).unwrap(), Claim::Mine);
            other.seal(&chain, &plan).unwrap();
            other.publish(&chain, &plan).unwrap();
        }),
    )
    .unwrap();
    assert_eq!(ids(target.path()), [0, 1, 2, 3, 4, 5, 70, 71]);
    assert_eq!(version(target.path()), 4);
    let at = |key: &str| table(target.path()).properties().get(key).cloned();
    assert_eq!(
        (at(POSITION), at("sluice.other/in/flights/2")),
        (Some("6".to_owned()), Some("72".to_owned()))
    );
}

#[test]
fn a_stale_append_that_meets_a_conflict_is_not_made_anew() {
    let target = scratch().unwrap();
    let path = target.path().to_owned();
    // Another worker takes the plan over, and goes on behind it.
    meddled(
        target.path(),
        Box::new(move || run(&mut sink(&path), &mut Source::default(), END, CUT, 0).unwrap()),
    )
    .unwrap();
    check(target.path(), 0, END).unwrap();
    assert_eq!((version(target.path()), table(target.path()).snapshots().len()), (4, 3));
    proven(target.path());
}

#[test]
fn an_append_to_a_table_that_was_rolled_back_meanwhile_fails_for_good() {
    let target = scratch().unwrap();
    let path = target.path().to_owned();
    let (of, why) = class(meddled(
        target.path(),
        Box::new(move || {
            change(&path, |json| {
                json["current-snapshot-id"] = json!(-1);
                json["refs"] = json!({});
                json["snapshot-log"] = json!([]);
            });
        }),
    ));
    assert!(of == Class::Config && why.contains("rolled back"), "{why}");
    assert_eq!(version(target.path()), 3);
}

#[test]
fn two_pipelines_write_one_table_and_one_alone_may_add_columns() {
    let target = scratch().unwrap();
    run(&mut sink(target.path()), &mut Source::default(), 3, CUT, 0).unwrap();
    let mut other = sink(target.path());
    let chain = Chain { pipeline: "other".into(), ..chain() };
    other.begin(&chain, 0, "first").unwrap();
    let (of, why) = class(other.put(&chain, &wider(0..2)));
    assert!(of == Class::Config && why.contains("no column `more`, and was not made by"), "{why}");
    assert_eq!(version(target.path()), 2);
}

/// The snapshots from the first to the newest: a metadata file has them in no order.
fn snapshots(json: &Value) -> Vec<Value> {
    let mut all = json["snapshots"].as_array().unwrap().clone();
    all.sort_by_key(|snapshot| snapshot["sequence-number"].as_i64());
    all
}

#[test]
fn the_position_outlives_the_snapshots_that_engines_expire() {
    // Some leave the name of the snapshot before, some take it away.
    for keeps_parent in [true, false] {
        let target = scratch().unwrap();
        run(&mut sink(target.path()), &mut Source::default(), 6, CUT, 0).unwrap();
        // An engine merges the files, and leaves nothing but its own snapshot.
        change(target.path(), |json| {
            let mut last = snapshots(json).pop().unwrap();
            let before = last["snapshot-id"].take();
            let last_fields = last.as_object_mut().unwrap();
            last_fields.remove("parent-snapshot-id");
            if keeps_parent {
                last_fields.insert("parent-snapshot-id".to_owned(), before);
            }
            last["snapshot-id"] = json!(77);
            last["sequence-number"] = json!(3);
            last["summary"] = json!({"operation": "replace"});
            json["last-sequence-number"] = json!(3);
            json["snapshots"] = json!([last]);
            json["current-snapshot-id"] = json!(77);
            json["refs"]["main"]["snapshot-id"] = json!(77);
            json["snapshot-log"] = json!([{"snapshot-id": 77, "timestamp-ms": json["last-updated-ms"]}]);
        });
        run(&mut sink(target.path()), &mut Source::default(), END, CUT, 0).unwrap();
        check(target.path(), 0, END).unwrap();
        proven(target.path());
    }
}

#[test]
fn a_table_that_was_replaced_or_lost_its_plans_is_refused() {
    let target = scratch().unwrap();
    run(&mut sink(target.path()), &mut Source::default(), 6, CUT, 0).unwrap();
    let (metadata, aside) = (target.path().join("metadata"), target.path().join("aside"));
    fs::rename(&metadata, &aside).unwrap();
    let (of, why) = class(run(&mut sink(target.path()), &mut Source::default(), END, CUT, 0));
    assert!(of == Class::Config && why.contains("replaced, or restored"), "{why}");
    fs::remove_dir_all(&metadata).unwrap();
    fs::remove_dir_all(target.path().join("_sluice")).unwrap();
    fs::rename(&aside, &metadata).unwrap();
    let (of, why) = class(sink(target.path()).position(&chain()));
    assert!(of == Class::Config && why.contains("put them back"), "{why}");
}

#[test]
fn a_table_that_was_rolled_back_is_refused() {
    let target = scratch().unwrap();
    run(&mut sink(target.path()), &mut Source::default(), 6, CUT, 0).unwrap();
    change(target.path(), |json| {
        let first = snapshots(json).remove(0);
        json["current-snapshot-id"] = first["snapshot-id"].clone();
        json["refs"]["main"]["snapshot-id"] = first["snapshot-id"].clone();
    });
    let (of, why) = class(run(&mut sink(target.path()), &mut Source::default(), END, CUT, 0));
    assert!(
        of == Class::Config && why.contains("the rows below 6") && why.contains("the rows below 3"),
        "{why}"
    );
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
fn a_new_column_comes_before_the_rows_that_have_it() {
    let target = scratch().unwrap();
    let mut sink = sink(target.path());
    sink.begin(&chain(), 0, "first").unwrap();
    let plan = planned(&mut sink, 0, 2, &[slice(0, 2)]).unwrap();
    publish(&mut sink, &plan).unwrap();
    let plan = planned(&mut sink, 2, 4, &[wider(2..4)]).unwrap();
    publish(&mut sink, &plan).unwrap();
    let schema = table(target.path()).current_schema().clone();
    assert_eq!((schema.field_id_by_name("more"), schema.schema_id()), (Some(4), 1));
    // One that comes back without it is fine.
    let plan = planned(&mut sink, 4, 6, &[slice(4, 6)]).unwrap();
    publish(&mut sink, &plan).unwrap();
    assert_eq!(table(target.path()).current_schema().schema_id(), 1);
    check(target.path(), 0, 6).unwrap();
}

/// A table that somebody else made.
fn foreign(target: &Path, columns: &[(&str, PrimitiveType, bool)], by: Option<(&str, Transform)>) {
    let fields = columns.iter().zip(1..).map(|((name, kind, required), id)| {
        Arc::new(NestedField::new(id, name, Type::Primitive(kind.clone()), *required))
    });
    let schema = Columns::builder().with_fields(fields).build().unwrap();
    let mut spec = UnboundPartitionSpec::builder();
    if let Some((name, transform)) = by {
        spec = spec.add_partition_field(schema.field_id_by_name(name).unwrap(), "p", transform).unwrap();
    }
    let creation = TableCreation::builder()
        .name("theirs".to_owned())
        // As Hadoop writes it.
        .location(format!("file:{}", target.canonicalize().unwrap().display()))
        .schema(schema)
        .partition_spec(spec.build())
        .build();
    let metadata = TableMetadataBuilder::from_table_creation(creation).unwrap().build().unwrap().metadata;
    fs::create_dir_all(target.join("metadata")).unwrap();
    fs::write(metadata_path(target, 1), serde_json::to_vec(&metadata).unwrap()).unwrap();
}

#[test]
fn a_foreign_table_takes_rows_that_fit_and_refuses_others_before_any_is_written() {
    use PrimitiveType::{Date, Int, Long, String};
    let all = [("id", Long, false), ("origin", String, false), ("note", String, false)];
    let with = |more: (&'static str, PrimitiveType, bool)| [&all[..], &[more]].concat();
    let first = |column: (&'static str, PrimitiveType, bool)| [&[column], &all[1..]].concat();
    let bucket = Some(("id", Transform::Bucket(4)));
    for (columns, by, expected) in [
        (with(("theirs", Date, false)), None, None),
        (all[..2].to_vec(), None, Some("no column `note`")),
        (first(("id", Int, false)), None, Some("can not hold it")),
        (first(("ID", Long, false)), None, Some("differ by case")),
        (with(("must", Long, true)), None, Some("must not be null")),
        (first(("id", Long, true)), None, Some("must not be null")),
        (all.to_vec(), bucket, Some("bucket[4] of a column")),
        (all.to_vec(), Some(("origin", Transform::Identity)), Some("partitioned by [origin]")),
    ] {
        let target = scratch().unwrap();
        foreign(target.path(), &columns, by);
        let mut sink = sink(target.path());
        let accepted = sink.accept(&support::schema());
        match expected {
            None => {
                accepted.unwrap();
                run(&mut sink, &mut Source::default(), 6, CUT, 0).unwrap();
                check(target.path(), 0, 6).unwrap();
            }
            Some(expected) => {
                let (of, why) = class(accepted);
                assert!(of == Class::Config && why.contains(expected), "{why}");
                let (of, why) = class(run(&mut sink, &mut Source::default(), 6, CUT, 0));
                assert!(of == Class::Config && why.contains(expected), "{why}");
                assert_eq!(version(target.path()), 1);
            }
        }
    }
}

#[test]
fn a_table_of_a_catalog_or_of_another_place_is_not_taken_for_ones_own() {
    let target = scratch().unwrap();
    foreign(target.path(), &[("id", PrimitiveType::Long, false)], None);
    let moved = scratch().unwrap();
    fs::create_dir(moved.path().join("metadata")).unwrap();
    fs::copy(metadata_path(target.path(), 1), metadata_path(moved.path(), 1)).unwrap();
    let (of, why) = class(sink(moved.path()).position(&chain()));
    assert!(of == Class::Config && why.contains("it lies at file:"), "{why}");
    let named = "00000-2cd22b57-5127-4198-92ba-e4e67c79821b.metadata.json";
    for name in [named, "v1.gz.metadata.json"] {
        let target = scratch().unwrap();
        fs::create_dir(target.path().join("metadata")).unwrap();
        fs::write(target.path().join("metadata").join(name), "{}").unwrap();
        let (of, why) = class(sink(target.path()).position(&chain()));
        assert!(of == Class::Config && why.contains("catalog: {rest: …}"), "{why}");
    }
}

#[test]
fn narrow_rows_are_written_as_wide_as_the_tables_column() {
    let target = scratch().unwrap();
    foreign(target.path(), &[("id", PrimitiveType::Long, false)], None);
    let mut sink = sink(target.path());
    sink.begin(&chain(), 0, "first").unwrap();
    let mut narrow = slice(0, 2);
    let field = Field::new("id", DataType::Int32, true);
    let column: ArrayRef = Arc::new(Int32Array::from(vec![0, 1]));
    narrow.decoded = Some(RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column]).unwrap());
    let plan = planned(&mut sink, 0, 2, &[narrow]).unwrap();
    publish(&mut sink, &plan).unwrap();
    assert_eq!(ids(target.path()), [0, 1], "as 64 bits");
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
            assert!(dies_at > 40, "the run is {dies_at} operations");
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
fn two_workers_race_for_a_table_in_an_object_store_whose_answers_get_lost() {
    const FAULTS: Faults = Faults { refuse: 60, lose: 15, late: 0, conflict: 40, replaces: false };
    for seed in 0..8 {
        let spool = scratch().unwrap();
        let store = FaultyStore::new(seed, FAULTS);
        let open = |spool: &Path| {
            let place = place::on_store(Arc::new(store.clone()), "lake", "flights", Some(spool)).unwrap();
            IcebergSink::in_place(place, &config(Path::new("not used"), &[]), Arc::new(RealDisk))
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
                        match open(spool).and_then(|mut sink| run(&mut sink, &mut source, 20, cut, 0)) {
                            Ok(()) => break,
                            Err(e) => assert_eq!(e.class, Class::Retry, "seed {seed}: {e}: {:?}", e.source),
                        }
                    }
                });
            }
        });
        store.heal();
        let cut = Cut { slice_rows: 5, plan_rows: 5 };
        run(&mut open(spool.path()).unwrap(), &mut Source::default(), 20, cut, 0).unwrap();
        let copy = scratch().unwrap();
        store.copy_to(copy.path());
        check(&copy.path().join("flights"), 0, 20).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

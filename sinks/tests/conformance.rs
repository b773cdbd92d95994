//! What every file sink must do, over each format.

mod support;

use std::fs;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use sluice_connect::task::{Chain, Claim, Class, SinkTask, TaskError};
use sluice_sinks::files::FileSink;
use sluice_store::file::RealDisk;
use support::{
    BY_ORIGIN, Cut, KINDS, Kind, Source, chain, expect_rows, plan, published, put, rows, run, schema, slice,
    walk,
};
use tempfile::TempDir;

const CUT: Cut = Cut { slice_rows: 3, plan_rows: 8 };

fn open(kind: Kind, target: &TempDir, partition: &[&str]) -> FileSink {
    support::sink(kind, target.path(), partition, Arc::new(RealDisk))
}

fn begun(kind: Kind, target: &TempDir, partition: &[&str]) -> FileSink {
    let mut sink = open(kind, target, partition);
    sink.begin(&chain(), 0, "first").unwrap();
    sink
}

fn class<T>(result: Result<T, TaskError>) -> (Class, String) {
    let error = result.err().expect("an error");
    (error.class, error.message)
}

#[test]
fn rows_come_out_once_in_order_and_in_their_folders() {
    for kind in KINDS {
        for partition in [&[][..], BY_ORIGIN] {
            let target = TempDir::new().unwrap();
            let mut sink = open(kind, &target, partition);
            run(&mut sink, &mut Source::default(), 30, CUT, 0).unwrap();
            expect_rows(kind, target.path(), 0, 30, partition);
            drop(sink);
            let temps =
                walk(target.path()).iter().filter(|path| path.to_str().unwrap().contains("/tmp-")).count();
            assert_eq!(temps, 0, "temporary files stay");
        }
    }
}

#[test]
fn files_are_named_and_numbered_by_first_rows_however_slices_are_cut() {
    for kind in KINDS {
        let names = [1, 2, 5, 8].map(|slice_rows| {
            let target = TempDir::new().unwrap();
            let mut sink = begun(kind, &target, BY_ORIGIN);
            put(&mut sink, 0, 8, Cut { slice_rows, plan_rows: 8 }).unwrap();
            sink.files(&chain(), 0).unwrap()
        });
        assert!(names.iter().all(|files| *files == names[0]));
        let (stem, extension) = (kind.stem(), kind.extension());
        let file = &names[0][2];
        assert_eq!(
            file.name,
            format!("origin=__HIVE_DEFAULT_PARTITION__/{stem}-00000000000000000000-0002.{extension}")
        );
        assert_eq!(file.partition, [("origin".to_owned(), None)]);
        let ewr = &names[0][0];
        assert_eq!((ewr.first, ewr.last, ewr.rows), (0, 6, 3));
    }
}

#[test]
fn an_empty_slice_moves_the_range_and_makes_no_file() {
    for kind in KINDS {
        let target = TempDir::new().unwrap();
        let mut sink = begun(kind, &target, BY_ORIGIN);
        assert!(!sink.put(&chain(), &rows(0, 5, &[])).unwrap().full);
        let mut plan = plan(&mut sink, 0, 5).unwrap();
        assert!(plan.files.is_empty());
        plan.fates.filtered = std::mem::take(&mut plan.fates.written);
        assert_eq!(sink.claim(&chain(), &plan).unwrap(), Claim::Mine);
        sink.seal(&chain(), &plan).unwrap();
        assert!(sink.published(&chain(), &plan).unwrap());
        sink.publish(&chain(), &plan).unwrap();
        sink.confirm(&chain(), &plan).unwrap();
        assert_eq!(sink.position(&chain()).unwrap().unwrap().next, 5);
        assert!(published(kind, target.path()).is_empty());
    }
}

#[test]
fn the_partition_column_is_in_the_path_only() {
    for kind in KINDS {
        let target = TempDir::new().unwrap();
        let mut sink = open(kind, &target, BY_ORIGIN);
        run(&mut sink, &mut Source::default(), 6, CUT, 0).unwrap();
        for name in published(kind, target.path()).keys() {
            let batch: RecordBatch = support::read(kind, &target.path().join(name)).remove(0);
            let names: Vec<_> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
            assert_eq!(names, ["id", "note"]);
        }
    }
}

#[test]
fn nulls_stay_nulls() {
    for kind in KINDS {
        let target = TempDir::new().unwrap();
        run(&mut open(kind, &target, &[]), &mut Source::default(), 6, CUT, 0).unwrap();
        let name = published(kind, target.path()).into_keys().next().unwrap();
        let read = support::read(kind, &target.path().join(name));
        let nulls: usize = read.iter().map(|batch| batch.column_by_name("note").unwrap().null_count()).sum();
        assert_eq!(nulls, 2);
    }
}

#[test]
fn a_chain_that_never_began_has_no_position_and_looking_makes_nothing() {
    for kind in KINDS {
        let target = TempDir::new().unwrap();
        let mut sink = open(kind, &target, &[]);
        assert!(sink.position(&chain()).unwrap().is_none());
        assert!(sink.schema("late", None).unwrap().is_none());
        assert!(sink.unfinished("late").unwrap().is_empty());
        assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
    }
}

#[test]
fn the_first_origin_and_the_first_schema_stand() {
    let target = TempDir::new().unwrap();
    let mut sink = open(Kind::Parquet, &target, &[]);
    sink.begin(&chain(), 7, "first").unwrap();
    sink.begin(&chain(), 9, "second").unwrap();
    let position = sink.position(&chain()).unwrap().unwrap();
    assert_eq!((position.next, position.incarnation.as_str()), (7, "first"));
    assert_eq!(sink.schema("late", Some(&schema())).unwrap(), Some(schema()));
    let other = rows(0, 1, &[0]).envelope.schema();
    assert_eq!(sink.schema("late", Some(&other)).unwrap(), Some(schema()));
}

#[test]
fn a_plan_is_full_at_its_rows_and_at_its_files() {
    let target = TempDir::new().unwrap();
    let mut sink = begun(Kind::Parquet, &target, &[]);
    assert!(!sink.put(&chain(), &slice(0, 9)).unwrap().full);
    let fill = sink.put(&chain(), &slice(9, 10)).unwrap();
    assert!(fill.full && fill.bytes > 0, "{fill:?}");

    let mut sink = begun(Kind::Parquet, &target, &["$.id"]);
    let many = slice(0, 1024);
    assert!(sink.put(&chain(), &many).unwrap().full);
    assert_eq!(sink.files(&chain(), 0).unwrap().len(), 1024);
}

#[test]
fn a_slice_with_too_many_partition_values_is_not_taken_and_says_where_the_plan_must_end() {
    for kind in KINDS {
        let target = TempDir::new().unwrap();
        let mut sink = begun(kind, &target, &["$.id"]);
        assert_eq!(sink.put(&chain(), &slice(0, 1)).unwrap().cut, None);
        assert_eq!(sink.put(&chain(), &slice(1, 1100)).unwrap().cut, Some(1024));
        let (head, tail) = slice(1, 1100).split(1024).unwrap();
        let fill = sink.put(&chain(), &head).unwrap();
        assert_eq!((fill.cut, fill.full), (None, true));
        assert_eq!(tail.range.start, 1024);
        assert_eq!(sink.files(&chain(), 0).unwrap().len(), 1024);
    }
}

#[test]
fn publishing_twice_is_as_good_as_once() {
    for kind in KINDS {
        let target = TempDir::new().unwrap();
        let mut sink = begun(kind, &target, BY_ORIGIN);
        put(&mut sink, 0, 7, CUT).unwrap();
        let plan = plan(&mut sink, 0, 7).unwrap();
        assert_eq!(sink.claim(&chain(), &plan).unwrap(), Claim::Mine);
        sink.seal(&chain(), &plan).unwrap();
        assert!(!sink.published(&chain(), &plan).unwrap());
        sink.publish(&chain(), &plan).unwrap();
        sink.publish(&chain(), &plan).unwrap();
        put(&mut sink, 0, 7, Cut { slice_rows: 1, ..CUT }).unwrap();
        sink.seal(&chain(), &plan).unwrap();
        sink.publish(&chain(), &plan).unwrap();
        assert!(sink.published(&chain(), &plan).unwrap());
        expect_rows(kind, target.path(), 0, 7, BY_ORIGIN);
    }
}

#[test]
fn a_plan_that_another_worker_put_first_is_theirs_and_any_worker_finishes_it() {
    for kind in KINDS {
        let target = TempDir::new().unwrap();
        let (mut slow, mut fast) = (begun(kind, &target, BY_ORIGIN), open(kind, &target, BY_ORIGIN));
        fast.keep_config("late", "c0ffee", "name: late\n").unwrap();
        fast.schema("late", Some(&schema())).unwrap();
        put(&mut slow, 0, 5, CUT).unwrap();
        put(&mut fast, 0, 7, CUT).unwrap();
        let (mine, theirs) = (plan(&mut slow, 0, 5).unwrap(), plan(&mut fast, 0, 7).unwrap());
        assert_eq!(fast.claim(&chain(), &theirs).unwrap(), Claim::Mine);
        assert_eq!(slow.claim(&chain(), &mine).unwrap(), Claim::Theirs);
        assert_eq!(slow.claim(&chain(), &theirs).unwrap(), Claim::Mine, "the same plan");
        slow.discard(&chain()).unwrap();
        assert_eq!(slow.unfinished("late").unwrap(), [(chain(), theirs.clone())]);
        // Both finish it, one after the other, neither knowing of the other.
        fast.seal(&chain(), &theirs).unwrap();
        run(&mut slow, &mut Source::default(), 12, CUT, 0).unwrap();
        fast.publish(&chain(), &theirs).unwrap();
        fast.confirm(&chain(), &theirs).unwrap();
        assert!(slow.unfinished("late").unwrap().is_empty());
        expect_rows(kind, target.path(), 0, 12, BY_ORIGIN);
    }
}

#[test]
fn a_plan_that_is_published_in_part_is_completed() {
    for kind in KINDS {
        let target = TempDir::new().unwrap();
        let mut sink = begun(kind, &target, BY_ORIGIN);
        put(&mut sink, 0, 8, CUT).unwrap();
        let plan = plan(&mut sink, 0, 8).unwrap();
        sink.keep_config("late", "c0ffee", "name: late\n").unwrap();
        sink.schema("late", Some(&schema())).unwrap();
        sink.claim(&chain(), &plan).unwrap();
        sink.seal(&chain(), &plan).unwrap();
        sink.publish(&chain(), &plan).unwrap();
        for file in plan.files.iter().skip(2) {
            fs::remove_file(target.path().join(&file.name)).unwrap();
        }
        assert!(!sink.published(&chain(), &plan).unwrap());
        let (class, message) = class(sink.publish(&chain(), &plan));
        assert_eq!(class, Class::Fatal);
        assert!(message.contains("neither published nor written"), "{message}");
        run(&mut open(kind, &target, BY_ORIGIN), &mut Source::default(), 8, CUT, 0).unwrap();
        expect_rows(kind, target.path(), 0, 8, BY_ORIGIN);
    }
}

#[test]
fn a_foreign_file_under_a_plans_name_is_never_replaced() {
    for kind in KINDS {
        let target = TempDir::new().unwrap();
        let mut sink = begun(kind, &target, &[]);
        put(&mut sink, 0, 5, CUT).unwrap();
        let plan = plan(&mut sink, 0, 5).unwrap();
        let path = target.path().join(&plan.files[0].name);
        let other = TempDir::new().unwrap();
        run(&mut open(kind, &other, &[]), &mut Source::default(), 6, CUT, 0).unwrap();
        let of_another_plan = fs::read(other.path().join(&plan.files[0].name)).unwrap();
        let cut = of_another_plan.len() / 2;
        sink.claim(&chain(), &plan).unwrap();
        sink.seal(&chain(), &plan).unwrap();
        for foreign in [&b""[..], b"a letter", b"ARROW1\0\0ARROW1", &of_another_plan[..cut], &of_another_plan]
        {
            fs::write(&path, foreign).unwrap();
            assert!(!sink.published(&chain(), &plan).unwrap());
            let (class, message) = class(sink.publish(&chain(), &plan));
            assert_eq!(class, Class::Fatal);
            assert!(message.contains(path.to_str().unwrap()), "{message}");
            assert_eq!(fs::read(&path).unwrap(), foreign);
        }
        fs::remove_file(&path).unwrap();
        sink.publish(&chain(), &plan).unwrap();
        expect_rows(kind, target.path(), 0, 5, &[]);
    }
}

#[test]
fn a_damaged_file_of_the_chain_is_named_and_never_skipped() {
    let target = TempDir::new().unwrap();
    run(&mut open(Kind::Parquet, &target, &[]), &mut Source::default(), 16, CUT, 0).unwrap();
    let folder = target.path().join("_sluice/late/in/flights/2");
    for name in ["00000000000000000008.plan", "origin.json"] {
        let path = folder.join(name);
        let whole = fs::read_to_string(&path).unwrap();
        let outside = whole.replace("\"late-in", "\"../late-in");
        for damaged in [&whole[..whole.len() / 2], "", "{}", "[1]", &outside] {
            if damaged == whole {
                continue;
            }
            fs::write(&path, damaged).unwrap();
            let (class, message) = class(open(Kind::Parquet, &target, &[]).position(&chain()));
            assert_eq!(class, Class::Config, "{damaged}");
            assert!(message.contains(name), "{message}");
        }
        fs::write(&path, whole).unwrap();
    }
    fs::remove_file(folder.join("origin.json")).unwrap();
    let (_, message) = class(open(Kind::Parquet, &target, &[]).position(&chain()));
    assert!(message.contains("origin.json is missing"), "{message}");
}

#[test]
fn chains_whose_names_lie_in_one_another_are_kept_apart() {
    let target = TempDir::new().unwrap();
    let mut sink = open(Kind::Parquet, &target, &[]);
    let chains: Vec<Chain> = ["a", "a/0", "a/0/origin.json", "../a", "", "schema-0.json", "tmp-1-1", "a/0/0"]
        .iter()
        .flat_map(|topic| {
            [0, 1].map(|queue| Chain { pipeline: "late".into(), topic: (*topic).into(), queue })
        })
        .collect();
    for (origin, chain) in (0..).zip(&chains) {
        sink.begin(chain, origin, "first").unwrap();
        sink.put(chain, &slice(origin, origin + 3)).unwrap();
    }
    sink.schema("late", Some(&schema())).unwrap();
    for (origin, chain) in (0..).zip(&chains) {
        let mut plan = support::plan(&mut sink, origin, origin + 3).unwrap();
        plan.files = sink.files(chain, origin).unwrap();
        assert_eq!(sink.claim(chain, &plan).unwrap(), Claim::Mine);
        assert_eq!(sink.position(chain).unwrap().unwrap().unfinished, Some(plan));
    }
    let mut sorted = chains.clone();
    sorted.sort();
    let found: Vec<Chain> = sink.unfinished("late").unwrap().into_iter().map(|(chain, _)| chain).collect();
    assert_eq!(found, sorted);
    assert!(walk(target.path()).iter().all(|path| path.starts_with(target.path().join("_sluice/late"))));
}

#[test]
fn what_no_runtime_of_ours_does_is_refused() {
    let target = TempDir::new().unwrap();
    let mut sink = begun(Kind::Parquet, &target, &[]);
    sink.put(&chain(), &slice(0, 3)).unwrap();
    let (gap, message) = class(sink.put(&chain(), &slice(4, 5)));
    assert_eq!(gap, Class::Fatal, "{message}");
    let (again, _) = class(sink.put(&chain(), &slice(3, 5)));
    assert_eq!(again, Class::Retry, "a failed plan is discarded first");
    sink.discard(&chain()).unwrap();

    let mut other = slice(3, 4);
    other.decoded = None;
    sink.put(&chain(), &slice(0, 3)).unwrap();
    let (class_of, message) = class(sink.put(&chain(), &other));
    assert!(class_of == Class::Fatal && message.contains("other columns"), "{message}");
    sink.discard(&chain()).unwrap();

    sink.put(&chain(), &slice(0, 3)).unwrap();
    let planned = plan(&mut sink, 0, 3).unwrap();
    sink.discard(&chain()).unwrap();
    sink.put(&chain(), &rows(0, 3, &[0, 2])).unwrap();
    let (class_of, message) = class(sink.seal(&chain(), &planned));
    assert!(class_of == Class::Fatal && message.contains("read again"), "{message}");

    let mut wrong = planned.clone();
    wrong.fates.filtered = 1;
    assert_eq!(class(sink.claim(&chain(), &wrong)).0, Class::Fatal);
    wrong.fates.filtered = 0;
    wrong.end = wrong.start;
    assert_eq!(class(sink.claim(&chain(), &wrong)).0, Class::Fatal);
}

#[test]
fn a_partition_column_that_does_not_exist_is_found_before_anything_is_written() {
    for kind in KINDS {
        let target = TempDir::new().unwrap();
        let mut sink = open(kind, &target, &["$.orgin"]);
        let (class, message) = class(sink.put(&chain(), &slice(0, 3)));
        assert_eq!(class, Class::Config);
        assert!(message.contains("did you mean \"$.origin\"?"), "{message}");
        assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_file_where_a_folder_should_be_is_for_a_person() {
    for kind in KINDS {
        let target = TempDir::new().unwrap();
        fs::write(target.path().join("_sluice"), "").unwrap();
        let (class, message) = class(open(kind, &target, &[]).begin(&chain(), 0, "first"));
        assert_eq!(class, Class::Config);
        assert!(message.contains("_sluice"), "{message}");
    }
}

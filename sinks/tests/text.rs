//! What is different of files without a footer: NDJSON and CSV.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod support;

use std::fs;
use std::sync::Arc;

use arrow::array::{BinaryViewArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use sluice_connect::task::{Chain, Class, Range, SinkTask, Slice};
use sluice_sinks::SinkConfig;
use sluice_sinks::file::FileConfig;
use sluice_sinks::files::FileSink;
use sluice_store::file::RealDisk;
use support::{BY_ORIGIN, Cut, Kind, Source, chain, plan, put, rows, run, sink};
use tempfile::TempDir;

const CUT: Cut = Cut { slice_rows: 3, plan_rows: 8 };

/// Messages that were not decoded, with these bodies.
fn envelope(bodies: &[&[u8]]) -> Slice {
    let end = i64::try_from(bodies.len()).unwrap();
    let fields = vec![
        Field::new("queue_offset", DataType::Int64, false),
        Field::new("body", DataType::BinaryView, true),
    ];
    let offsets = Arc::new(Int64Array::from_iter_values(0..end));
    let bodies: BinaryViewArray = bodies.iter().map(|body| Some(*body)).collect();
    let envelope =
        RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![offsets, Arc::new(bodies)]).unwrap();
    Slice { range: Range { start: 0, end }, envelope, decoded: None, ..rows(0, end, &[]) }
}

#[test]
fn a_plan_whose_rows_come_out_otherwise_is_never_finished() {
    for kind in [Kind::Ndjson, Kind::Csv] {
        let target = TempDir::new().unwrap();
        let mut writer = sink(kind, target.path(), BY_ORIGIN, Arc::new(RealDisk));
        writer.begin(&chain(), 0, "first").unwrap();
        put(&mut writer, 0, 5, CUT).unwrap();
        let mut planned = plan(&mut writer, 0, 5).unwrap();
        assert!(planned.files.iter().all(|file| file.text.is_some_and(|text| text.bytes > 0)));
        // The same rows and files, one value of which is another one.
        planned.files[1].text.as_mut().unwrap().crc32 ^= 1;
        let error = writer.seal(&chain(), &planned).unwrap_err();
        assert!(error.class == Class::Fatal && error.message.contains("read again"), "{error}");
    }
}

#[test]
fn pipelines_whose_names_run_into_those_of_topics_have_files_of_their_own() {
    let target = TempDir::new().unwrap();
    let mut names = Vec::new();
    for (pipeline, topic) in [("a", "b-c"), ("a-b", "c")] {
        let chain = Chain { pipeline: pipeline.into(), topic: topic.into(), queue: 0 };
        let mut writer = sink(Kind::Csv, target.path(), &[], Arc::new(RealDisk));
        writer.put(&chain, &support::slice(0, 3)).unwrap();
        names.push(writer.files(&chain, 0).unwrap().remove(0).name);
    }
    assert_eq!(names, ["a.b-c-0-00000000000000000000-0000.csv", "a-b.c-0-00000000000000000000-0000.csv"]);
}

#[test]
fn bodies_are_text_and_those_that_are_none_fit_nowhere() {
    let target = TempDir::new().unwrap();
    let mut writer = sink(Kind::Ndjson, target.path(), &[], Arc::new(RealDisk));
    let all = envelope(&[b"{\"a\": 1}", b"\xff", b"", b"a\xc3"]);
    let unfit = writer.unfit(&all);
    assert_eq!(unfit.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 3]);
    assert!(unfit[0].1.contains("`body`") && unfit[0].1.contains("no UTF-8"), "{unfit:?}");
    writer.put(&chain(), &envelope(&[b"{\"a\": 1}", b""])).unwrap();
    let planned = plan(&mut writer, 0, 2).unwrap();
    writer.seal(&chain(), &planned).unwrap();
    writer.publish(&chain(), &planned).unwrap();
    let mut text = String::new();
    let file = fs::File::open(target.path().join(&planned.files[0].name)).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
    assert_eq!(
        text,
        "{\"queue_offset\":0,\"body\":\"{\\\"a\\\": 1}\"}\n{\"queue_offset\":1,\"body\":\"\"}\n"
    );
}

#[test]
fn what_csv_can_not_hold_is_refused_before_anything_is_written() {
    let target = TempDir::new().unwrap();
    let writer = sink(Kind::Csv, target.path(), &[], Arc::new(RealDisk));
    let list = Field::new_list("parts", Field::new_list_field(DataType::Int64, true), true);
    let error = writer.accept(&Arc::new(Schema::new(vec![list]))).unwrap_err();
    assert!(error.class == Class::Config && error.message.contains("`parts`"), "{error}");
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
}

#[test]
fn files_that_are_open_and_forgotten_go_on_where_they_were() {
    let target = TempDir::new().unwrap();
    let path = target.path().to_str().unwrap();
    let config: FileConfig = serde_saphyr::from_str(&format!(
        "{{path: '{path}', format: ndjson, compression: gzip, open_partitions: 1, partition: [$.origin]}}"
    ))
    .unwrap();
    assert!(SinkConfig::File(config.clone()).keeps_positions());
    let mut writer = FileSink::text(&config, Arc::new(RealDisk)).unwrap();
    run(&mut writer, &mut Source::default(), 60, Cut { slice_rows: 1, plan_rows: 60 }, 0).unwrap();
    support::expect_rows(Kind::Ndjson, target.path(), 0, 60, BY_ORIGIN);
}

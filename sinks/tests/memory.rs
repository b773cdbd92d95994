//! What a sink of wide rows in many open files holds. One test, in a process of its own: it measures the process.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod support;

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use sluice_connect::memory::{Memory, Share};
use sluice_connect::task::{SinkTask, Slice};
use sluice_sinks::files::FileSink;
use sluice_sinks::location::Location;
use sluice_sinks::parquet::{ParquetConfig, RowGroup};
use sluice_sinks::rotate::Rotate;
use sluice_store::file::RealDisk;
use sluice_testkit::scratch;
use support::{chain, slice};

const COLUMNS: i64 = 400;
const PARTITIONS: i64 = 32;
const MIB: usize = 1024 * 1024;

const SLICE_ROWS: i64 = 1600;
const ROWS: i64 = 40 * SLICE_ROWS;

/// The limit of a pipeline if it says none, in bytes. Encoders for all open files at once would alone hold 900 MiB.
const LIMIT: usize = 256 * MIB;

/// Rows of 400 columns, every other one of text, whose partition alternates from row to row.
fn wide(rows: i64) -> RecordBatch {
    let partitions = Int64Array::from_iter_values((0..rows).map(|id| id % PARTITIONS));
    let mut columns: Vec<(String, ArrayRef)> = vec![("part".into(), Arc::new(partitions))];
    for column in 0..COLUMNS {
        let numbers = (0..rows).map(|id| id.wrapping_mul(0x1E37_79B9_7F4A_7C15) >> (column % 32));
        let values: ArrayRef = if column % 2 == 0 {
            Arc::new(Int64Array::from_iter_values(numbers))
        } else {
            Arc::new(StringArray::from_iter_values(numbers.map(|number| format!("{number:x}"))))
        };
        columns.push((format!("c{column}"), values));
    }
    RecordBatch::try_from_iter(columns).unwrap()
}

/// The most that the process ever had in memory, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn four_hundred_columns_in_32_open_partitions_stay_within_the_limit() {
    let target = scratch().unwrap();
    let config = ParquetConfig {
        path: Location::Folder(target.path().to_owned()),
        store: None,
        codec: "zstd".parse().unwrap(),
        partition: vec!["$.part".to_owned()],
        open_partitions: 64,
        // Not the sink's own bound of four row groups is tried here.
        row_group: RowGroup { bytes: bytesize::ByteSize::gib(1), ..RowGroup::default() },
        rotate: Rotate { rows: u64::MAX, ..Rotate::default() },
    };
    let mut sink = FileSink::parquet(&config, Arc::new(RealDisk)).unwrap();
    sink.begin(&chain(), 0, "first").unwrap();
    let share = Share::new(Memory::new(LIMIT), LIMIT);
    let decoded = wide(SLICE_ROWS);
    let before = peak();
    let mut shrunk = 0;
    for start in (0..ROWS).step_by(usize::try_from(SLICE_ROWS).unwrap()) {
        let decoded = Some(decoded.clone());
        sink.put(&chain(), &Slice { decoded, ..slice(start, start + SLICE_ROWS) }).unwrap();
        // As the runtime does it.
        if share.hold(sink.memory()) > 0 {
            sink.shrink(sink.memory() / 2).unwrap();
            shrunk += 1;
        }
    }
    let plan = support::plan(&mut sink, 0, ROWS).unwrap();
    sink.seal(&chain(), &plan).unwrap();
    sink.publish(&chain(), &plan).unwrap();
    assert_eq!(plan.files.len(), 32, "no file more because the partition alternates");
    let grown = peak() - before;
    println!("held {} MiB at most, written out early {shrunk} times", grown / MIB);
    assert!(shrunk > 0, "the limit was never met");
    assert!(grown < LIMIT, "{} MiB, over the limit of {} MiB", grown / MIB, LIMIT / MIB);
}

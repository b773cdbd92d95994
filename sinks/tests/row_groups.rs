//! Where row groups end: what is held in memory stays bounded, whatever the rows are.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod support;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use bytesize::ByteSize;
use parquet::file::reader::{FileReader, SerializedFileReader};
use sluice_connect::task::{SinkTask, Slice};
use sluice_sinks::files::FileSink;
use sluice_sinks::location::Location;
use sluice_sinks::parquet::{ParquetConfig, RowGroup};
use sluice_sinks::rotate::Rotate;
use sluice_store::file::RealDisk;
use support::{chain, slice};
use tempfile::TempDir;

/// Rows that do not repeat, of about 220 bytes each, in `partitions` partitions.
fn wide(start: i64, end: i64, partitions: i64) -> Slice {
    let texts = (start..end).map(|id| {
        let parts =
            (0..10).map(|part| format!("{:022x}", (id * 10 + part).wrapping_mul(0x1E37_79B9_7F4A_7C15)));
        parts.collect::<Vec<_>>().concat()
    });
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("text", Arc::new(StringArray::from_iter_values(texts))),
        ("part", Arc::new(Int64Array::from_iter_values((start..end).map(|id| id % partitions)))),
    ];
    Slice { decoded: Some(RecordBatch::try_from_iter(columns).unwrap()), ..slice(start, end) }
}

/// Writes one plan of 8,000 rows (1.7 MB) and gives the rows of each row group of each file.
fn row_groups(target: &Path, row_group: RowGroup, partitions: i64) -> Vec<Vec<i64>> {
    let config = ParquetConfig {
        path: Location::Folder(target.to_owned()),
        store: None,
        codec: "none".parse().unwrap(),
        partition: vec!["$.part".to_owned()],
        open_partitions: 64,
        row_group,
        rotate: Rotate::default(),
    };
    let mut sink = FileSink::parquet(&config, Arc::new(RealDisk)).unwrap();
    sink.begin(&chain(), 0, "first").unwrap();
    for start in (0..8000).step_by(500) {
        sink.put(&chain(), &wide(start, start + 500, partitions)).unwrap();
    }
    let plan = support::plan(&mut sink, 0, 8000).unwrap();
    sink.seal(&chain(), &plan).unwrap();
    sink.publish(&chain(), &plan).unwrap();
    let files = plan.files.iter().map(|file| {
        let reader = SerializedFileReader::new(File::open(target.join(&file.name)).unwrap()).unwrap();
        reader
            .metadata()
            .row_groups()
            .iter()
            .map(parquet::file::metadata::RowGroupMetaData::num_rows)
            .collect()
    });
    files.collect()
}

#[test]
fn a_row_group_ends_at_its_rows() {
    let target = TempDir::new().unwrap();
    let groups = row_groups(target.path(), RowGroup { rows: 3000, bytes: ByteSize::gib(1) }, 1);
    assert_eq!(groups, [[3000, 3000, 2000]]);
}

#[test]
fn a_row_group_ends_at_what_it_holds_in_memory() {
    let target = TempDir::new().unwrap();
    let groups = row_groups(target.path(), RowGroup { rows: 1_000_000, bytes: ByteSize::kib(512) }, 1);
    assert!(groups[0].len() >= 3, "{groups:?}");
    assert_eq!(groups[0].iter().sum::<i64>(), 8000);
}

#[test]
fn all_open_files_together_hold_at_most_four_row_groups() {
    let target = TempDir::new().unwrap();
    // No file comes to 256 KiB alone: 16 files hold over 1.7 MB together.
    let groups = row_groups(target.path(), RowGroup { rows: 1_000_000, bytes: ByteSize::kib(256) }, 16);
    assert_eq!(groups.len(), 16);
    assert!(groups.iter().filter(|groups| groups.len() > 1).count() >= 4, "{groups:?}");
    assert!(groups.iter().all(|groups| groups.iter().sum::<i64>() == 500));
}

#[test]
fn many_small_files_do_not_hold_their_rows_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let config = ParquetConfig {
        path: Location::Folder(folder.path().to_owned()),
        store: None,
        codec: "none".parse().unwrap(),
        partition: vec!["$.part".to_owned()],
        open_partitions: 64,
        // What leaves a row group waits before the disk.
        row_group: RowGroup { rows: 5, bytes: ByteSize::kib(64) },
        rotate: Rotate::default(),
    };
    let mut sink = FileSink::parquet(&config, Arc::new(RealDisk)).unwrap();
    sink.begin(&chain(), 0, "first").unwrap();
    for start in (0..8000).step_by(100) {
        sink.put(&chain(), &wide(start, start + 100, 20)).unwrap();
    }
    let temps =
        support::walk(folder.path()).into_iter().filter(|p| p.extension().is_some_and(|e| e == "tmp"));
    let on_disk: u64 = temps.map(|path| path.metadata().unwrap().len()).sum();
    assert!(on_disk > 1_500_000, "of 1.7 MB only {on_disk} bytes are on the disk");
}

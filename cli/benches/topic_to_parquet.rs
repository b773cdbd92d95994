//! Topic -> Parquet by a pipeline, against parquet's `ArrowWriter` writing the same batches from memory.
//!
//! Reads the CSV that `FLIGHTS` names, or January 2013 of the examples. Rounds take turns; medians.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark measures and prints"
)]

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

const LOAD: &str = "
name: load
source:
  file: {path: 'INPUT', format: csv, nulls: ['', NA], properties: [origin, dep_delay], keys: [tailnum], tag: carrier}
sink:
  topic: {name: flights}
";
const LAKE: &str = "
name: NAME
source:
  topic: {name: flights, until: caught_up}
decode: {format: json}
sink:
  parquet: {path: NAME, codec: zstd(3)}
";

fn sluice(folder: &Path, config: &str) -> Duration {
    std::fs::write(folder.join("pipeline.yaml"), config).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["run", "pipeline.yaml", "--json"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    Duration::from_millis(summary["elapsed_ms"].as_u64().unwrap())
}

fn batches(folder: &Path) -> Vec<RecordBatch> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "parquet"))
        .collect();
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
        reader.with_batch_size(8192).build().unwrap().map(Result::unwrap).collect::<Vec<_>>()
    };
    files.iter().flat_map(read).collect()
}

fn from_memory(batches: &[RecordBatch], path: &Path) -> Duration {
    let began = Instant::now();
    let level = ZstdLevel::try_new(3).unwrap();
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), batches[0].schema(), Some(properties)).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.close().unwrap();
    File::open(path).unwrap().sync_all().unwrap();
    began.elapsed()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

fn main() {
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(5);
    let january = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/data/flights-2013-01.csv.gz");
    let input = std::env::var("FLIGHTS").unwrap_or_else(|_| january.to_owned());
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    sluice(folder, &LOAD.replace("INPUT", &input));
    let (mut ours, mut memory) = (Vec::new(), Vec::new());
    let mut rows = 0;
    for round in 0..rounds {
        let name = format!("lake{round}");
        ours.push(sluice(folder, &LAKE.replace("NAME", &name)));
        let batches = batches(&folder.join(&name));
        rows = batches.iter().map(RecordBatch::num_rows).sum();
        memory.push(from_memory(&batches, &folder.join("memory.parquet")));
    }
    let (ours, memory) = (median(ours), median(memory));
    println!("{rounds} rounds in turns, medians; {rows} rows of 19 columns, zstd(3)");
    println!("topic -> Parquet by a pipeline   {ours:>8.3} s");
    println!("ArrowWriter, batches in memory   {memory:>8.3} s");
    println!("ratio (aim: at least 0.5)        {:>8.2}", memory / ours);
}

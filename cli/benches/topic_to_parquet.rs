//! Topic -> Parquet by a pipeline, against parquet's `ArrowWriter` writing the same batches from memory: messages as
//! they are, and decoded from JSON into 19 columns, with what `arrow-json` alone takes for the decoding beside it.
//!
//! Reads the CSV that `FLIGHTS` names, or January 2013 of the examples. Rounds take turns; medians, of the ratios within a
//! round as well. The pipeline is held on one core (`taskset`), as all others are single threads; what it takes with all
//! cores is shown, too.

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

use arrow::array::{Array, BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use sluice_connect::batch::messages;
use sluice_connect::config::{self, Parsed, vars};
use sluice_connect::steps::{Next, Steps};
use sluice_connect::task::{Needs, Range, Slice};

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
DECODE
sink:
  parquet: {path: NAME, codec: zstd(3)}
";

const DECODE: &str = "decode: {format: json}";

/// Runs a pipeline, on one core or on all.
fn sluice(folder: &Path, config: &str, cores: &[&str]) -> Duration {
    std::fs::write(folder.join("pipeline.yaml"), config).unwrap();
    let words = [cores, &[env!("CARGO_BIN_EXE_sluice"), "run", "pipeline.yaml", "--json"]].concat();
    let out = Command::new(words[0]).args(&words[1..]).current_dir(folder).output().unwrap();
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

/// The bodies of messages, as the pipeline wrote them.
fn bodies(batches: &[RecordBatch]) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    for batch in batches {
        let column = batch.column_by_name("body").unwrap().as_any();
        if let Some(column) = column.downcast_ref::<BinaryArray>() {
            bodies.extend(column.iter().map(|body| body.unwrap().to_vec()));
        } else {
            let column = column.downcast_ref::<StringArray>().unwrap();
            bodies.extend(column.iter().map(|body| body.unwrap().as_bytes().to_vec()));
        }
    }
    bodies
}

/// `arrow-json` on the same bodies, with the schema given.
fn by_arrow_json(bodies: &[Vec<u8>], schema: &SchemaRef) -> Duration {
    let began = Instant::now();
    let mut decoder =
        arrow::json::ReaderBuilder::new(schema.clone()).with_batch_size(8192).build_decoder().unwrap();
    for slice in bodies.chunks(8192) {
        for body in slice {
            assert_eq!(decoder.decode(body).unwrap(), body.len());
        }
        assert_eq!(decoder.flush().unwrap().unwrap().num_rows(), slice.len());
    }
    began.elapsed()
}

/// Settings of no source and no sink.
#[derive(Clone, Debug, serde::Deserialize)]
struct Nothing {}

/// The pipeline's decoding alone on the same bodies, from the inferring of the schema on.
fn by_steps(bodies: &[Vec<u8>]) -> Duration {
    let text = format!("name: decode\nsource: {{}}\nsink: {{}}\n{DECODE}\n");
    let lookup = vars::lookup(|_| None, |_| Err(std::io::ErrorKind::NotFound.into()));
    let parsed: Vec<Parsed<Nothing, Nothing>> = config::parse(&text, &lookup).unwrap();
    let needs = Needs { columns: vec!["body"], ..Needs::default() };
    let (mut steps, _) = Steps::new(&parsed[0].document, &needs).unwrap();
    let mut slices = Vec::new();
    for (number, part) in bodies.chunks(8192).enumerate() {
        let start = i64::try_from(number * 8192).unwrap();
        let rows = (start..).zip(part).map(|(offset, body)| (offset, Vec::new(), body.as_slice()));
        let envelope = messages(rows).unwrap();
        let range = Range { start, end: start + i64::try_from(part.len()).unwrap() };
        let bytes = part.iter().map(Vec::len).sum();
        let (decoded, rejects, deduplicated, stored_ms) = (None, Vec::new(), Vec::new(), None);
        let (filtered, absent) = (0, 0);
        slices.push(Slice {
            range,
            envelope,
            decoded,
            filtered,
            absent,
            deduplicated,
            rejects,
            bytes,
            stored_ms,
        });
    }
    let (began, mut rows) = (Instant::now(), 0);
    let mut count = |slices: Vec<(usize, Slice)>| {
        rows += slices.iter().map(|(_, slice)| slice.decoded.as_ref().unwrap().num_rows()).sum::<usize>();
    };
    for slice in slices {
        match steps.push(0, slice).unwrap() {
            Next::Pass(slices) => count(slices),
            Next::Fix(schema) => {
                steps.fix(&schema).unwrap();
                count(steps.release().unwrap().slices);
            }
        }
    }
    if let Some(schema) = steps.proposal() {
        steps.fix(&schema).unwrap();
        count(steps.release().unwrap().slices);
    }
    assert_eq!(rows, bodies.len());
    began.elapsed()
}

/// The median over the rounds of something that the times of one tell.
fn median(rounds: &[[f64; 8]], of: impl Fn(&[f64; 8]) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let rounds: usize = std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(5);
    let january = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/data/flights-2013-01.csv.gz");
    let input = std::env::var("FLIGHTS").unwrap_or_else(|_| january.to_owned());
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    sluice(folder, &LOAD.replace("INPUT", &input), &[]);
    let (mut times, mut rows) = (Vec::new(), 0);
    for round in 0..rounds {
        let run = |kind: &str, decode: &str, cores: &[&str]| {
            let name = format!("{kind}{round}");
            let took = sluice(folder, &LAKE.replace("NAME", &name).replace("DECODE", decode), cores);
            (took, batches(&folder.join(&name)))
        };
        let one = ["taskset", "-c", "0"];
        let (raw_one, raw) = run("raw", "", &one);
        let raw_memory = from_memory(&raw, &folder.join("memory.parquet"));
        let raw_all = run("raw-all", "", &[]).0;
        let (decoded_one, decoded) = run("decoded", DECODE, &one);
        let decoded_memory = from_memory(&decoded, &folder.join("memory.parquet"));
        let decoded_all = run("decoded-all", DECODE, &[]).0;
        let bodies = bodies(&raw);
        let arrow_json = by_arrow_json(&bodies, &decoded[0].schema());
        let steps = by_steps(&bodies);
        rows = decoded.iter().map(RecordBatch::num_rows).sum();
        let took =
            [raw_one, raw_memory, raw_all, decoded_one, decoded_memory, decoded_all, arrow_json, steps];
        times.push(took.map(|time| time.as_secs_f64()));
    }
    let [raw, raw_memory, raw_all, decoded, decoded_memory, decoded_all, arrow_json, steps] =
        std::array::from_fn(|at| median(&times, |took| took[at]));
    println!(
        "{rounds} rounds in turns, medians; {rows} messages, zstd(3), one core where not said otherwise"
    );
    println!(
        "messages as they are: topic -> Parquet by a pipeline   {raw:>8.3} s   all cores {raw_all:>8.3} s"
    );
    println!("  ArrowWriter, batches in memory                       {raw_memory:>8.3} s");
    println!(
        "  ratio (aim: at least 0.8)                            {:>8.2}",
        median(&times, |t| t[1] / t[0])
    );
    println!(
        "19 columns from JSON: topic -> Parquet by a pipeline   {decoded:>8.3} s   all cores {decoded_all:>8.3} s"
    );
    println!("  ArrowWriter, batches in memory                       {decoded_memory:>8.3} s");
    println!(
        "  ratio with the decoding, all cores (aim: at least 0.5) {:>6.2}",
        median(&times, |t| t[4] / t[5])
    );
    println!("  the decoding alone, bodies in memory                 {steps:>8.3} s");
    println!("  arrow-json alone, bodies in memory                   {arrow_json:>8.3} s");
    println!(
        "  ratio without the decoding (aim: at least 0.8)       {:>8.2}",
        median(&times, |t| t[4] / (t[3] - t[7]))
    );
}

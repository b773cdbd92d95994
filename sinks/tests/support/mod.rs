//! A small runtime for the file sinks: it drives a sink through plans as the real one does, over a source of
//! numbered rows, and reads back what the target holds.

#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod disk;
pub(crate) mod store;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::ipc::reader::FileReader;
use bytesize::ByteSize;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sluice_connect::plan::Plan;
use sluice_connect::task::{Chain, Claim, Class, Fates, Range, SinkTask, Slice, TaskError};
use sluice_sinks::arrow_ipc::{ArrowConfig, Codec};
use sluice_sinks::file::{Compression, FileConfig, TextKind};
use sluice_sinks::files::FileSink;
use sluice_sinks::location::Location;
use sluice_sinks::parquet::{ParquetConfig, RowGroup};
use sluice_sinks::place::{self, Place};
use sluice_sinks::rotate::Rotate;
use sluice_store::file::Disk;

/// The formats that every case runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Parquet,
    Arrow,
    Ndjson,
    Csv,
}

pub(crate) const KINDS: [Kind; 4] = [Kind::Parquet, Kind::Arrow, Kind::Ndjson, Kind::Csv];

/// Those of them that hold any bytes, and say in a footer to which plan they belong.
pub(crate) const FOOTED: [Kind; 2] = [Kind::Parquet, Kind::Arrow];

impl Kind {
    /// The end of a file's name.
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Arrow => "arrow",
            Self::Ndjson => "ndjson.gz",
            Self::Csv => "csv",
        }
    }

    /// The begin of the name of each file of the chain.
    pub(crate) fn stem(self) -> &'static str {
        if FOOTED.contains(&self) { "late-in%2Fflights-2" } else { "late.in%2Fflights-2" }
    }
}

/// Where the partition column of the rows lies.
pub(crate) const BY_ORIGIN: &[&str] = &["$.origin"];

pub(crate) fn chain() -> Chain {
    Chain { pipeline: "late".into(), topic: "in/flights".into(), queue: 2 }
}

pub(crate) fn sink(kind: Kind, target: &Path, partition: &[&str], disk: Arc<dyn Disk>) -> FileSink {
    let place = place::open(&Location::Folder(target.to_owned()), None, disk.clone()).unwrap();
    sink_in(place, kind, partition, disk)
}

pub(crate) fn sink_in(
    place: Arc<dyn Place>,
    kind: Kind,
    partition: &[&str],
    disk: Arc<dyn Disk>,
) -> FileSink {
    let path = Location::Folder("not used: the place is open".into());
    let partition = partition.iter().map(|column| (*column).to_owned()).collect();
    let rotate = Rotate { rows: 10, ..Rotate::default() };
    match kind {
        Kind::Parquet => {
            let row_group = RowGroup { rows: 4, bytes: ByteSize::mib(1) };
            let codec = "snappy".parse().unwrap();
            let config =
                ParquetConfig { path, store: None, codec, partition, open_partitions: 64, row_group, rotate };
            FileSink::parquet_in(place, &config, disk).unwrap()
        }
        Kind::Arrow => {
            let config =
                ArrowConfig { path, store: None, codec: Codec::None, partition, open_partitions: 64, rotate };
            FileSink::arrow_in(place, &config, disk).unwrap()
        }
        Kind::Ndjson | Kind::Csv => {
            let (format, compression) = match kind {
                Kind::Csv => (TextKind::Csv, Compression::None),
                _ => (TextKind::Ndjson, Compression::Gzip),
            };
            let (store, delimiter, nulls, open_partitions) = (None, None, None, 64);
            let config = FileConfig {
                path,
                store,
                format,
                compression,
                delimiter,
                nulls,
                partition,
                open_partitions,
                rotate,
            };
            FileSink::text_in(place, &config, disk).unwrap()
        }
    }
}

/// The partition value of the row at an offset: in turns, with nulls and an empty text among them.
pub(crate) fn origin(offset: i64) -> Option<&'static str> {
    [Some("EWR"), Some("JFK"), None, Some("EWR"), Some(""), Some("a/b")][usize::try_from(offset % 6).unwrap()]
}

pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("origin", DataType::Utf8View, true),
        Field::new("note", DataType::Utf8View, true),
    ]))
}

/// A slice whose rows are at all offsets of the range.
pub(crate) fn slice(start: i64, end: i64) -> Slice {
    rows(start, end, &(start..end).collect::<Vec<_>>())
}

/// A slice with rows at some offsets of its range.
pub(crate) fn rows(start: i64, end: i64, offsets: &[i64]) -> Slice {
    let ids = Int64Array::from(offsets.to_vec());
    let field = Field::new("queue_offset", DataType::Int64, false);
    let envelope = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![Arc::new(ids.clone())]);
    let origins: StringViewArray = offsets.iter().map(|offset| origin(*offset)).collect();
    let notes: StringViewArray =
        offsets.iter().map(|offset| (offset % 3 != 0).then(|| format!("the note of row {offset}"))).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(origins), Arc::new(notes)];
    Slice {
        range: Range { start, end },
        envelope: envelope.unwrap(),
        decoded: Some(RecordBatch::try_new(schema(), columns).unwrap()),
        filtered: u64::try_from(end - start).unwrap() - offsets.len() as u64,
        absent: 0,
        deduplicated: Vec::new(),
        rejects: Vec::new(),
        bytes: 0,
        stored_ms: None,
    }
}

/// How a run cuts its rows; a rerun may cut them in another way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) slice_rows: i64,
    pub(crate) plan_rows: i64,
}

/// Puts the rows of a range in slices.
pub(crate) fn put(sink: &mut dyn SinkTask, start: i64, end: i64, cut: Cut) -> Result<(), TaskError> {
    let mut next = start;
    while next < end {
        let stop = (next + cut.slice_rows).min(end);
        sink.put(&chain(), &slice(next, stop))?;
        next = stop;
    }
    Ok(())
}

/// The plan of the rows that were put.
pub(crate) fn plan(sink: &mut dyn SinkTask, start: i64, end: i64) -> Result<Plan, TaskError> {
    let files = sink.files(&chain(), start)?;
    Ok(Plan {
        rows: None,
        start,
        end,
        files,
        fates: Fates { written: u64::try_from(end - start).unwrap(), ..Fates::default() },
        config: "c0ffee".into(),
        schema: "5c4e3a".into(),
        incarnation: "first".into(),
        decided_ms: 17,
    })
}

/// What a source does: it gives rows, and may drop what was confirmed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    /// Where `begin` was told that the chain begins.
    pub(crate) origin: Option<i64>,
    /// Rows below are gone.
    pub(crate) confirmed: i64,
}

/// Runs to `end` as the runtime does, from wherever the target stands; a chain that never began begins at
/// `latest`.
pub(crate) fn run(
    sink: &mut dyn SinkTask,
    source: &mut Source,
    end: i64,
    cut: Cut,
    latest: i64,
) -> Result<(), TaskError> {
    loop {
        let Some(position) = sink.position(&chain())? else {
            ensure(source.origin.is_none(), "the target forgot where the chain begins")?;
            sink.begin(&chain(), latest, "first")?;
            source.origin = Some(latest);
            continue;
        };
        source.origin.get_or_insert(position.next);
        ensure(position.incarnation == "first", "the target forgot the incarnation")?;
        if let Some(plan) = position.unfinished {
            ensure(sink.config("late", "c0ffee")? == "name: late\n", "the target has another config")?;
            ensure(sink.schema("late", None)? == Some(schema()), "the target forgot the schema")?;
            if !sink.published(&chain(), &plan)? {
                ensure(source.confirmed <= plan.start, "rows are asked for that were confirmed")?;
                put(sink, plan.start, plan.end, cut)?;
                sink.seal(&chain(), &plan)?;
                sink.publish(&chain(), &plan)?;
            }
            sink.confirm(&chain(), &plan)?;
            source.confirmed = plan.end;
        }
        // The runtime goes on from here without asking where it stands.
        ensure(source.confirmed <= position.next, "rows are asked for that were confirmed")?;
        if position.next == end {
            return Ok(());
        }
        sink.keep_config("late", "c0ffee", "name: late\n")?;
        sink.schema("late", Some(&schema()))?;
        let stop = (position.next + cut.plan_rows).min(end);
        put(sink, position.next, stop, cut)?;
        let plan = plan(sink, position.next, stop)?;
        if sink.claim(&chain(), &plan)? == Claim::Theirs {
            sink.discard(&chain())?;
            continue;
        }
        sink.seal(&chain(), &plan)?;
        sink.publish(&chain(), &plan)?;
        sink.confirm(&chain(), &plan)?;
        source.confirmed = plan.end;
    }
}

fn ensure(holds: bool, what: &str) -> Result<(), TaskError> {
    if holds { Ok(()) } else { Err(TaskError::new(Class::Fatal, what)) }
}

/// The ids and notes of a file's rows.
pub(crate) type Rows = Vec<(i64, Option<String>)>;

/// Each published file below the target with its rows.
pub(crate) fn published(kind: Kind, target: &Path) -> BTreeMap<String, Rows> {
    try_published(kind, target).unwrap()
}

/// The name of each published file below the target.
pub(crate) fn published_names(target: &Path) -> Vec<String> {
    let names =
        walk(target).into_iter().map(|path| path.strip_prefix(target).unwrap().to_str().unwrap().to_owned());
    // A table's log is read by those who test it.
    let names = names.filter(|name| !name.starts_with("_delta_log/") && !name.starts_with("metadata/"));
    let (ours, data): (Vec<_>, Vec<_>) = names.partition(|name| name.starts_with("_sluice/"));
    let looks_like_data = |name: &String| KINDS.iter().any(|kind| name.ends_with(kind.extension()));
    assert!(!ours.iter().any(looks_like_data), "{ours:?}");
    data
}

fn try_published(kind: Kind, target: &Path) -> Result<BTreeMap<String, Rows>, String> {
    let mut found = BTreeMap::new();
    for name in published_names(target) {
        let batches = try_read(kind, &target.join(&name)).map_err(|e| format!("{name}: {e}"))?;
        found.insert(name, batches.iter().flat_map(ids_and_notes).collect());
    }
    Ok(found)
}

/// Every file below a folder.
pub(crate) fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

pub(crate) fn read(kind: Kind, path: &Path) -> Vec<RecordBatch> {
    try_read(kind, path).unwrap()
}

fn try_read(kind: Kind, path: &Path) -> Result<Vec<RecordBatch>, Box<dyn Error>> {
    let file = File::open(path)?;
    Ok(match kind {
        Kind::Parquet => {
            ParquetRecordBatchReaderBuilder::try_new(file)?.build()?.collect::<Result<Vec<_>, _>>()?
        }
        Kind::Arrow => FileReader::try_new(file, None)?.collect::<Result<Vec<_>, _>>()?,
        Kind::Ndjson => {
            let mut text = String::new();
            flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text)?;
            let first: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(text.lines().next().ok_or("no line")?)?;
            let reader = arrow::json::ReaderBuilder::new(columns(first.keys().map(String::as_str)));
            reader.build(text.as_bytes())?.collect::<Result<Vec<_>, _>>()?
        }
        Kind::Csv => {
            let text = fs::read_to_string(path)?;
            let header = columns(text.lines().next().ok_or("no line")?.split(','));
            let reader = arrow_csv::ReaderBuilder::new(header).with_header(true);
            reader.build_buffered(text.as_bytes())?.collect::<Result<Vec<_>, _>>()?
        }
    })
}

/// The columns of a file of text.
fn columns<'a>(names: impl Iterator<Item = &'a str>) -> SchemaRef {
    let data_type = |name: &str| if name == "id" { DataType::Int64 } else { DataType::Utf8 };
    Arc::new(Schema::new(names.map(|name| Field::new(name, data_type(name), true)).collect::<Vec<_>>()))
}

fn ids_and_notes(batch: &RecordBatch) -> Vec<(i64, Option<String>)> {
    let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>();
    let notes = arrow::compute::cast(batch.column_by_name("note").unwrap(), &DataType::Utf8).unwrap();
    let notes = notes.as_string::<i32>().iter().map(|note| note.map(str::to_owned));
    ids.values().iter().copied().zip(notes).collect()
}

/// Checks that the target holds each row of the range once, in order within each file, with its values, in
/// the folder of its partition.
pub(crate) fn check_rows(
    kind: Kind,
    target: &Path,
    start: i64,
    end: i64,
    partition: &[&str],
) -> Result<(), String> {
    let mut seen = Vec::new();
    for (name, rows) in try_published(kind, target)? {
        if !rows.is_sorted() {
            return Err(format!("{name} is out of order: {rows:?}"));
        }
        for (id, note) in rows {
            let folder = match origin(id) {
                _ if partition.is_empty() => "late",
                None => "origin=__HIVE_DEFAULT_PARTITION__/late",
                Some("a/b") => "origin=a%2Fb/late",
                Some("") => "origin=/late",
                Some("EWR") => "origin=EWR/late",
                Some(_) => "origin=JFK/late",
            };
            if !name.starts_with(folder) || note != (id % 3 != 0).then(|| format!("the note of row {id}")) {
                return Err(format!("row {id} with note {note:?} is in {name}"));
            }
            seen.push(id);
        }
    }
    seen.sort_unstable();
    if seen == (start..end).collect::<Vec<_>>() { Ok(()) } else { Err(format!("the rows are {seen:?}")) }
}

pub(crate) fn expect_rows(kind: Kind, target: &Path, start: i64, end: i64, partition: &[&str]) {
    check_rows(kind, target, start, end, partition).unwrap();
}

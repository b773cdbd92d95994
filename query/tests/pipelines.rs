//! What SQL sees of pipelines: each row once, whatever the pipeline is doing.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::util::display::array_value_to_string;
use sluice_connect::config::{self, Parsed, Then, vars};
use sluice_connect::memory::{Memory, Share};
use sluice_connect::pipeline::{self, Scope};
use sluice_connect::progress::{Progress, Stop};
use sluice_connect::steps::Steps;
use sluice_connect::task::TaskError;
use sluice_connect::worker;
use sluice_protocol::id::{QueueId, TopicName};
use sluice_protocol::message::{Message, push_property};
use sluice_query::{Engine, Error, Pipeline};
use sluice_sinks::SinkConfig;
use sluice_sources::SourceConfig;
use sluice_store::file::RealDisk;
use sluice_store::{Batch, Settings, Store};
use sluice_testkit::{ManualClock, scratch};
use tempfile::TempDir;

struct Place {
    folder: TempDir,
    clock: ManualClock,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let folder = scratch().unwrap();
        let clock = ManualClock::new(1_700_000_000_000);
        let settings = Settings::embedded(folder.path().join("store"));
        let store = Store::open_without_upkeep(settings, Arc::new(RealDisk), clock.clock()).unwrap();
        Self { folder, clock, store }
    }

    fn lake(&self) -> PathBuf {
        self.folder.path().join("lake")
    }

    /// Messages of these ids, over two queues in turns.
    fn append(&self, ids: std::ops::Range<usize>) {
        let topic = TopicName::new("orders").unwrap();
        self.store.create_topic(&topic, 2).unwrap();
        let mut batch = Batch::new();
        for id in ids {
            let body = format!(r#"{{"id":{id},"origin":"{}"}}"#, ["EWR", "JFK", "LGA"][id % 3]);
            let mut properties = Vec::new();
            push_property(&mut properties, "odd", if id % 2 == 1 { "yes" } else { "no" }).unwrap();
            let message = Message { body: body.as_bytes(), properties: &properties, ..Message::default() };
            batch.push(&topic, QueueId::new(i32::try_from(id / 2 % 2).unwrap()).unwrap(), &message).unwrap();
        }
        self.store.append(batch).unwrap();
    }

    fn parsed(&self, text: &str) -> Parsed<SourceConfig, SinkConfig> {
        let lookup = vars::lookup(|_| None, |_| Err(std::io::ErrorKind::NotFound.into()));
        let text = text.replace("LAKE", self.lake().to_str().unwrap());
        let mut all = config::parse(&text, &lookup).unwrap();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    fn tasks(&self, text: &str) -> Result<pipeline::Pipeline, TaskError> {
        let parsed = self.parsed(text);
        let document = &parsed.document;
        let (steps, needs) = Steps::new(document, &document.sink.needs(document.makes_columns()))?;
        let name = document.name.as_str();
        let store = || Ok::<_, TaskError>(self.store.clone());
        Ok(pipeline::Pipeline {
            name: name.into(),
            config: (parsed.text.clone(), parsed.hash()),
            steps,
            needs,
            source: document.source.open(name, store, Vec::new(), &Arc::default())?,
            target: document.sink.open(store, &self.clock.clock(), document.delivery)?,
            dead_letters: None,
            then: document.errors.then,
            stop_after: None,
            in_flight: 1 << 20,
            memory: Share::new(Memory::new(usize::MAX), usize::MAX),
        })
    }

    fn run(&self, text: &str, stop: &Stop) {
        let make = |_: Option<&str>| self.tasks(text);
        let clock = self.clock.clock();
        worker::run(&make, &Scope::All, stop, &Progress::default(), &clock, Duration::ZERO).unwrap();
    }

    fn engine(&self, text: &str) -> Engine {
        let parsed = self.parsed(text);
        let (source, sink) = (parsed.document.source.clone(), parsed.document.sink.clone());
        let (name, hash) = (parsed.document.name.as_str().to_owned(), parsed.hash());
        let text = text.to_owned();
        let lake = self.lake();
        let steps = Arc::new(move || {
            let lookup = vars::lookup(|_| None, |_| Err(std::io::ErrorKind::NotFound.into()));
            let text = text.replace("LAKE", lake.to_str().unwrap());
            let mut parsed: Vec<Parsed<SourceConfig, SinkConfig>> = config::parse(&text, &lookup).unwrap();
            let mut document = parsed.remove(0).document;
            document.errors.then = Then::Skip;
            Ok(Steps::new(&document, &document.sink.needs(document.makes_columns()))?)
        });
        let table = Pipeline::new(&name, &source, &sink, hash, steps).unwrap();
        Engine::new(Some(self.store.clone())).with_pipelines(vec![table])
    }
}

fn rows(engine: &Engine, sql: &str) -> Result<Vec<String>, Error> {
    let mut rows = Vec::new();
    engine.run(sql, &mut |_, batch| -> Result<bool, Error> {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
            rows.push(cells.collect::<Vec<_>>().join(" "));
        }
        Ok(true)
    })?;
    Ok(rows)
}

const PIPELINE: &str = "
name: lake
source: {topic: {name: orders, until: caught_up}}
where: \"$.id % 5 <> 0\"
decode: {format: json}
steps:
  - select: {set: {twice: \"$.id * 2\"}}
sink: {parquet: {path: LAKE, partition: [$.origin, odd], rotate: {rows: 20}}}
";

const WHOLE: &str = "select count(*), count(distinct id), sum(twice) from lake";

/// What [`WHOLE`] says of the first `n` messages.
fn whole(n: usize) -> String {
    let ids: Vec<usize> = (0..n).filter(|id| id % 5 != 0).collect();
    format!("{0} {0} {1}", ids.len(), ids.iter().sum::<usize>() * 2)
}

#[test]
fn a_table_has_each_row_once_before_and_after_files_and_with_both() {
    for kind in ["parquet", "arrow"] {
        let place = Place::new();
        let text = PIPELINE.replace("parquet:", &format!("{kind}:"));
        let engine = place.engine(&text);
        place.append(0..100);
        assert_eq!(rows(&engine, WHOLE).unwrap(), [whole(100)], "{kind}: nothing has run yet");
        place.run(&text, &Stop::default());
        assert_eq!(rows(&engine, WHOLE).unwrap(), [whole(100)], "{kind}: all is in files");
        assert_eq!(rows(&engine, "select id from lake order by id limit 1").unwrap(), ["1"]);
        place.append(100..130);
        assert_eq!(rows(&engine, WHOLE).unwrap(), [whole(130)], "{kind}: files and log");
        for (sql, expected) in [
            ("select id, twice, origin, odd from lake where id = 101", "101 202 LGA yes"),
            ("select id, twice, origin, odd from lake where id = 1", "1 2 JFK yes"),
            ("select odd from pipelines.lake where id = 2", "no"),
            ("select count(*) from lake where origin = 'JFK' and odd = 'no' and id < 10", "1"),
        ] {
            assert_eq!(rows(&engine, sql).unwrap(), [expected], "{kind}: {sql}");
        }
        let plan = rows(&engine, "explain select id from lake where id > 5").unwrap().join("\n");
        assert!(plan.contains("file_groups") && plan.contains("StreamingTableExec"), "{plan}");
        assert!(kind != "parquet" || plan.contains("pruning_predicate=id"), "{plan}");
    }
}

#[test]
fn a_plan_that_is_not_finished_counts_as_the_log() {
    let place = Place::new();
    let engine = place.engine(PIPELINE);
    place.append(0..100);
    place.run(PIPELINE, &Stop::default());
    let chain = place.lake().join("_sluice/lake/orders/0");
    let last = |end: &str| {
        let names = fs::read_dir(&chain).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.extension().is_some_and(|e| e == end)).max().unwrap()
    };
    // Its files are there, and only the mark is not.
    fs::remove_file(last("done")).unwrap();
    assert_eq!(rows(&engine, WHOLE).unwrap(), [whole(100)]);
    // One of its files is not there yet.
    let plan = fs::read_to_string(last("plan")).unwrap();
    let name = plan.split("\"name\":\"").nth(1).unwrap().split('"').next().unwrap();
    fs::remove_file(place.lake().join(name)).unwrap();
    assert_eq!(rows(&engine, WHOLE).unwrap(), [whole(100)]);
    // By another config the same rows may mean others.
    let error = rows(&place.engine(&PIPELINE.replace("% 5", "% 7")), WHOLE).unwrap_err();
    let said = format!("{:?}", error);
    assert!(said.contains("begun by another config"), "{said}");
}

#[test]
fn files_that_are_merged_are_read_in_the_place_of_their_parts() {
    let place = Place::new();
    let engine = place.engine(PIPELINE);
    for part in 0..5 {
        place.append(part * 60..(part + 1) * 60);
        place.run(PIPELINE, &Stop::default());
    }
    let disk = Arc::new(RealDisk);
    let done = sluice_sinks::compact::compact(place.lake(), disk, "1MiB".parse().unwrap(), 0).unwrap();
    assert!(done.from > done.to && done.to > 0, "{done:?}");
    place.append(300..310);
    assert_eq!(rows(&engine, WHOLE).unwrap(), [whole(310)]);
    // A merge that was ended while it gave its file the name: that waits beside the plans.
    let chain = place.lake().join("_sluice/lake/orders/0");
    let merge =
        files(&chain).into_iter().find(|path| path.extension().is_some_and(|e| e == "compact")).unwrap();
    let text = fs::read_to_string(&merge).unwrap();
    let name = text.split("\"name\":\"").nth(1).unwrap().split('"').next().unwrap();
    fs::rename(place.lake().join(name), chain.join("00000000000000000000.merged-0000")).unwrap();
    assert_eq!(rows(&engine, WHOLE).unwrap(), [whole(310)]);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn while_the_pipeline_runs_each_look_has_each_row_once() {
    let place = Place::new();
    let text = PIPELINE.replace("until: caught_up", "until: forever");
    let engine = place.engine(&text);
    place.append(0..10);
    let stop = Stop::default();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| place.run(&text, &stop));
        for look in 1..=40 {
            let n = 10 + look * 25;
            place.append(n - 25..n);
            assert_eq!(rows(&engine, WHOLE).unwrap(), [whole(n)], "look {look}");
        }
        stop.ask();
        running.join().unwrap();
    });
    assert!(!files(&place.lake()).is_empty());
    assert_eq!(rows(&engine, WHOLE).unwrap(), [whole(1010)]);
}

#[test]
fn a_schema_that_grows_is_that_of_the_files_and_of_what_comes() {
    let place = Place::new();
    let text = "
name: lake
source: {topic: {name: orders, until: caught_up}}
decode: {format: json, on_new_field: add}
sink: {parquet: {path: LAKE}}
";
    let engine = place.engine(text);
    place.append(0..10);
    place.run(text, &Stop::default());
    let topic = TopicName::new("orders").unwrap();
    let mut batch = Batch::new();
    let message = Message { body: br#"{"id":10,"late":true}"#, ..Message::default() };
    batch.push(&topic, QueueId::new(0).unwrap(), &message).unwrap();
    place.store.append(batch).unwrap();
    let sql = "select count(*), count(origin), max(id), count(late) from lake";
    assert_eq!(rows(&engine, sql).unwrap(), ["11 10 10 1"]);
    place.run(text, &Stop::default());
    assert_eq!(rows(&engine, sql).unwrap(), ["11 10 10 1"]);
}

#[test]
fn rows_that_dedupe_leaves_out_stay_out_across_the_end_of_the_files() {
    let place = Place::new();
    let text = "
name: lake
source: {topic: {name: orders, until: caught_up}}
decode: {format: json}
steps:
  - dedupe: {key: $.id, rows: 1000}
sink: {parquet: {path: LAKE}}
";
    let engine = place.engine(text);
    place.append(0..40);
    place.append(20..40);
    place.run(text, &Stop::default());
    place.append(10..60);
    let sql = "select count(*), count(distinct id) from lake";
    assert_eq!(rows(&engine, sql).unwrap(), ["60 60"]);
}

#[test]
fn what_is_no_table_is_told_with_the_reason() {
    let place = Place::new();
    place.append(0..1);
    for (sink, why) in [
        ("{topic: {name: other}}", "writes topic other, which is a table"),
        ("{parquet: {path: \"s3://bucket/lake\"}}", "in an object store"),
        ("{delta: {path: LAKE}}", "engines read by its own log"),
    ] {
        let parsed = place.parsed(&format!("name: x\nsource: {{topic: {{name: orders}}}}\nsink: {sink}\n"));
        let (source, sink) = (&parsed.document.source, &parsed.document.sink);
        let steps = Arc::new(|| Err("not asked for".into()));
        let error = Pipeline::new("x", source, sink, parsed.hash(), steps).err().unwrap();
        assert!(error.contains(why), "{error}");
    }
    let engine = place.engine(PIPELINE).without_pipeline("loads".into(), "it writes topic orders".into());
    let error = rows(&engine, "select * from loads").unwrap_err().to_string();
    assert!(error.contains("pipeline `loads` is none: it writes topic orders"), "{error}");
    let error = rows(&engine, "select * from nope").unwrap_err().to_string();
    assert!(error.contains("there are: orders, \"lake\""), "{error}");
}

//! The command line as a user meets it: runs, reruns, bad configs, bad data, signals.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.args(arguments).current_dir(self.folder.path());
        command
    }

    fn sluice(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs and gives the summary of each pipeline by name.
    fn run(&self, config: &str) -> Value {
        self.write("pipeline.yaml", config);
        let out = self.sluice(&["run", "pipeline.yaml", "--json"]);
        let summary: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{out:?}"));
        let pipelines = summary["pipelines"].as_array().unwrap();
        pipelines
            .iter()
            .map(|p| (p["name"].as_str().unwrap().to_owned(), p.clone()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    /// Runs what must fail before anything is written, and gives what it said.
    fn refused(&self, config: &str) -> String {
        self.write("pipeline.yaml", config);
        let out = self.sluice(&["run", "pipeline.yaml"]);
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        for made in ["sluice-data", "lake"] {
            assert!(!self.path(made).exists(), "{made} was made");
        }
        String::from_utf8(out.stderr).unwrap()
    }

    fn tail(&self, topic: &str) -> Vec<Value> {
        let out = self.sluice(&["topic", "tail", topic]);
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found
}

const CSV: &str = "id,origin,delay\n1,EWR,20\n2,LGA,30\n3,EWR,5\n4,JFK,NA\n5,JFK,99\n";

const TWO: &str = "
name: load
source:
  file: {path: in.csv, format: csv, nulls: ['', NA], properties: [origin, delay]}
sink:
  topic: {name: t}
---
name: lake
source:
  topic: {name: t, until: caught_up}
where: \"origin IN ('EWR', 'JFK') AND delay > 15\"
decode: {format: json}
sink:
  parquet: {path: lake, partition: [$.origin]}
";

#[test]
fn rows_go_through_a_topic_and_a_filter_into_files_and_a_rerun_has_nothing_to_do() {
    let place = Place::new();
    place.write("in.csv", CSV);
    let summary = place.run(TWO);
    assert_eq!(summary["load"]["fates"]["written"], 5);
    assert_eq!(summary["lake"]["fates"]["written"], 2);
    assert_eq!(summary["lake"]["fates"]["filtered"], 3);
    let made = files(&place.path("lake"), "parquet");
    assert_eq!(made.len(), 2);
    assert!(made.iter().all(|p| p.to_string_lossy().contains("lake/origin=")), "{made:?}");
    let bodies: Vec<Value> = place.tail("t").iter().map(|m| m["body"].clone()).collect();
    assert_eq!(bodies[0], serde_json::json!({"id": 1, "origin": "EWR", "delay": 20}));
    assert_eq!(bodies[3], serde_json::json!({"id": 4, "origin": "JFK", "delay": null}));

    let again = place.run(TWO);
    assert_eq!((again["load"]["rows"].as_u64(), again["lake"]["rows"].as_u64()), (Some(0), Some(0)));
    assert_eq!(files(&place.path("lake"), "parquet").len(), 2);
    let said = String::from_utf8(place.sluice(&["run", "pipeline.yaml"]).stdout).unwrap();
    assert_eq!(said.matches("0 new rows").count(), 2, "{said}");
}

#[test]
fn a_bad_config_is_refused_before_anything_is_written() {
    let place = Place::new();
    place.write("in.csv", CSV);
    let check = |from: &str, to: &str, expected: &[&str]| {
        assert!(TWO.contains(from), "{from}");
        let said = place.refused(&TWO.replacen(from, to, 1));
        for text in expected {
            assert!(said.contains(text), "{said} lacks {text}");
        }
    };
    check(
        "format: csv",
        "fromat: csv",
        &["pipeline.yaml:4:24", "unknown key `fromat`; did you mean `format`?"],
    );
    check("until: caught_up", "until: 5", &["pipeline.yaml:10:27"]);
    check(
        "{name: t}",
        "{name: \"${NO_SUCH_VARIABLE}\"}",
        &["pipeline.yaml:6", "variable `NO_SUCH_VARIABLE` is not set"],
    );
    check("delay > 15", "delay >> 15", &["pipeline.yaml:11:8: where: column"]);
    check("path: in.csv", "path: nowhere/in.csv", &["load", "nowhere/in.csv"]);
    check("topic: {name: t, until", "topic: {name: tt, until", &["lake", "no such topic: tt"]);
    check("[$.origin]", "[$origin]", &["pipeline.yaml:14", "\"$origin\" is no envelope column"]);
    check("properties: [origin, delay]", "properties: [orign]", &["load", "orign"]);
    check("decode: {format: json}", "errors: {then: skip}", &["pipeline.yaml", "$.origin"]);
    check(
        "origin IN ('EWR', 'JFK')",
        "$queue_offset = 'abc'",
        &["pipeline.yaml:11:9: where: $queue_offset is Int64, which compares with numbers only"],
    );
    check(
        "sink:",
        "where: orgin = 'EWR'\nsink:",
        &["pipeline.yaml:5:8: where: the source gives no property `orgin`; did you mean `origin`?"],
    );

    let from_file = "name: a\nsource:\n  file: {path: in.csv, format: csv, properties: [origin]}\nsink:\n  parquet: {path: lake, partition: [orgin]}\n";
    let said = place.refused(from_file);
    assert!(said.contains("\"orgin\" is no property of the source; did you mean \"origin\"?"), "{said}");
    let looping = |dead: &str, sink: &str| {
        place.refused(&format!(
            "name: a\nsource:\n  topic: {{name: t}}\nsink:\n  topic: {{name: {sink}}}\nerrors: {{then: dead_letter, dead_letter: {dead}}}\n"
        ))
    };
    assert!(looping("d", "t").contains("5:17: sink.topic.name: the pipeline would read what it writes"));
    assert!(looping("t", "s").contains("6:42: errors.dead_letter: the pipeline would read what it writes"));
    check(
        "decode: {format: json}",
        "decode: {format: json, schema: {mode: declared, fields: {id: int64}}}",
        &["pipeline.yaml:14", "$.origin"],
    );
}

#[test]
fn a_partition_column_that_no_row_has_is_told_before_the_first_plan() {
    let place = Place::new();
    place.write("in.csv", CSV);
    let summary = place.run(&TWO.replace("$.origin", "$.orign"));
    let said = summary["lake"]["error"].as_str().unwrap();
    assert!(said.contains("$.orign") && said.contains("origin"), "{said}");
    assert_eq!(files(&place.path("lake"), "plan"), Vec::<PathBuf>::new());
    assert_eq!(files(&place.path("lake"), "parquet"), Vec::<PathBuf>::new());
}

#[test]
fn what_does_not_fit_goes_where_errors_says() {
    let place = Place::new();
    let mut csv = b"id,text\n1,a\n2\n3,".to_vec();
    csv.extend(b"\xff\xfe\n4,");
    csv.extend(std::iter::repeat_n(b'x', 20 << 20));
    csv.extend(b"\n5,e\n");
    place.write("in.csv", csv);
    let config = |errors: &str| {
        format!(
            "name: load\nsource:\n  file: {{path: in.csv, format: csv}}\nsink:\n  topic: {{name: t}}\nerrors: {errors}\n"
        )
    };
    let stopped = place.run(&config("{then: stop}"));
    let said = stopped["load"]["error"].as_str().unwrap();
    assert!(said.contains("in.csv:3"), "{said}");
    assert_eq!(stopped["load"]["fates"]["skipped"], 0);

    let summary = place.run(&config("{then: dead_letter, dead_letter: dlq}"));
    assert_eq!(summary["load"]["fates"]["dead"], 3, "{summary}");
    assert_eq!(place.tail("t").len(), 2);
    let letters = place.tail("dlq");
    let property = |i: usize, name: &str| letters[i]["properties"][name].as_str().unwrap().to_owned();
    assert_eq!(property(0, "dead_offset"), "1");
    assert!(property(1, "dead_reason").contains("UTF-8"), "{letters:?}");
    assert!(property(2, "dead_body_bytes").parse::<u64>().unwrap() >= 20 << 20);
    assert_eq!(letters[2]["body"].as_str().unwrap().len(), 64 * 1024);

    let other = Place::new();
    other.write("in.csv", fs::read(place.path("in.csv")).unwrap());
    let summary = other.run(&config("{then: skip}"));
    assert_eq!(
        (&summary["load"]["fates"]["skipped"], &summary["load"]["fates"]["written"]),
        (&3.into(), &2.into())
    );
}

#[test]
fn empty_files_and_truncated_gzip_are_counted() {
    let place = Place::new();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let mut csv = String::from("id,noise\n");
    for id in 0..20_000_u64 {
        csv.push_str(&format!("{id},{:x}\n", id.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    }
    packed.write_all(csv.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    place
        .write("data/a.csv", "")
        .write("data/b.csv.gz", &packed[..packed.len() / 2])
        .write("data/c.csv", "id,noise\n7,x\n");
    let config = "name: load\nsource:\n  file: {path: 'data/*', format: csv}\nsink:\n  topic: {name: t}\nerrors: {then: skip}\n";
    let summary = place.run(config);
    assert_eq!(summary["load"]["error"], Value::Null, "{summary}");
    assert_eq!(summary["load"]["fates"]["skipped"], 1, "{summary}");
    let written = summary["load"]["fates"]["written"].as_u64().unwrap();
    assert!(written > 1000 && written < 20_001, "{written}");
}

#[test]
fn rows_that_do_not_decode_become_dead_letters_once() {
    let place = Place::new();
    place.write("in.csv", "id,origin,delay\n1,EWR,20\n2,EWR,20.5\n3,JFK,30\n");
    let decode = "decode: {format: json, schema: {mode: declared, fields: {id: int64, origin: utf8, delay: int64}}}\nerrors: {then: dead_letter, dead_letter: dlq}";
    let config = TWO.replace("decode: {format: json}", decode);
    for round in 0..2 {
        let summary = place.run(&config);
        assert_eq!(summary["lake"]["fates"]["dead"], if round == 0 { 1 } else { 0 }, "{summary}");
        let letters = place.tail("dlq");
        assert_eq!(letters.len(), 1);
        assert!(letters[0]["properties"]["dead_reason"].as_str().unwrap().contains("$.delay"), "{letters:?}");
        assert_eq!(letters[0]["properties"]["origin"], "EWR");
        assert_eq!(letters[0]["body"]["id"], 2);
    }
}

#[test]
fn a_record_that_its_own_reason_shows_is_a_dead_letter_and_the_rest_goes_on() {
    let place = Place::new();
    let long = "v".repeat(32_000);
    place.write(
        "in.ndjson",
        format!("{{\"delay\":\"\\u0000\"}}\n{{\"delay\":\"x\",\"long\":\"{long}\"}}\n{{\"delay\":3}}\n"),
    );
    let config = "
name: load
source:
  file: {path: in.ndjson, format: ndjson, properties: [long]}
decode: {format: json, schema: {mode: declared, fields: {delay: int64, long: utf8}}}
sink:
  arrow: {path: lake}
errors: {then: dead_letter, dead_letter: dlq}
";
    let summary = place.run(config);
    assert_eq!(summary["load"]["error"], Value::Null, "{summary}");
    assert_eq!(
        (&summary["load"]["fates"]["dead"], &summary["load"]["fates"]["written"]),
        (&2.into(), &1.into())
    );
    let letters = place.tail("dlq");
    assert!(letters[0]["properties"]["dead_reason"].as_str().unwrap().contains("\\u0000"), "{letters:?}");
    let kept = letters[1]["properties"]["long"].as_str().unwrap();
    assert!(kept.len() > 20_000 && long.starts_with(kept));
}

/// Rows that no message can be: a body over the limit, a separator in a property, too long properties.
const UNFIT: &str = "
name: load
source:
  file: {path: in.csv, format: csv, properties: [p], keys: [k], tag: t}
sink:
  topic: {name: t}
";

fn unfit_rows() -> Vec<u8> {
    let mut csv = b"id,p,k,t,x\n0,a,a,a,a\n1,\0,a,a,a\n2,a,\x02,a,a\n3,a,a,\0,a\n4,".to_vec();
    csv.extend([b'v'; 31_000]);
    csv.extend(b",a,a,a\n5,a,");
    csv.extend([b'k'; 33_000]);
    csv.extend(b",a,a\n6,a,a,a,");
    // Each becomes six bytes of JSON.
    csv.extend(std::iter::repeat_n(1, 1 << 20));
    csv.extend(b"\n7,b,b,b,b\n");
    csv
}

#[test]
fn rows_that_can_be_no_message_go_where_errors_says() {
    let place = Place::new();
    place.write("in.csv", unfit_rows());
    let stopped = place.run(UNFIT);
    let said = stopped["load"]["error"].as_str().unwrap();
    assert!(said.contains("queue offset 1: property \"p\" holds a separator or zero byte"), "{said}");
    let config = format!("{UNFIT}errors: {{then: dead_letter, dead_letter: dlq}}\n");
    for round in 0..2 {
        let summary = place.run(&config);
        assert_eq!(summary["load"]["error"], Value::Null, "{summary}");
        let fates = &summary["load"]["fates"];
        let expected = if round == 0 { (6, 2) } else { (0, 0) };
        assert_eq!((fates["dead"].as_u64(), fates["written"].as_u64()), (Some(expected.0), Some(expected.1)));
        assert_eq!(place.tail("t").len(), 2);
        let letters = place.tail("dlq");
        let offsets: Vec<_> = letters.iter().map(|l| l["properties"]["dead_offset"].clone()).collect();
        assert_eq!(offsets, ["1", "2", "3", "4", "5", "6"]);
        assert!(letters[5]["properties"]["dead_reason"].as_str().unwrap().contains("exceeds the limit"));
    }
}

/// Messages of other clients may have longer properties than a batch with a position leaves room for.
#[test]
fn a_message_that_can_not_be_copied_goes_where_errors_says() {
    use sluice_protocol::{id, message};
    let place = Place::new();
    let settings = sluice_store::Settings::embedded(place.path("sluice-data"));
    let store =
        sluice_store::Store::open(settings, Arc::new(sluice_store::file::RealDisk), Arc::new(|| 0)).unwrap();
    let topic = id::TopicName::new("t").unwrap();
    store.create_topic(&topic, 1).unwrap();
    let mut batch = sluice_store::Batch::new();
    for value in ["v".repeat(32_000), "short".to_owned()] {
        let mut properties = Vec::new();
        message::push_property(&mut properties, "p", &value).unwrap();
        let message = message::Message { body: b"x", properties: &properties, ..Default::default() };
        batch.push(&topic, id::QueueId::ZERO, &message).unwrap();
    }
    store.append(batch).unwrap();
    store.close().unwrap();
    let config = "
name: copy
source:
  topic: {name: t, until: caught_up}
sink:
  topic: {name: u}
errors: {then: dead_letter, dead_letter: dlq}
";
    let summary = place.run(config);
    let fates = &summary["copy"]["fates"];
    assert_eq!((&fates["dead"], &fates["written"]), (&1.into(), &1.into()), "{summary}");
    assert_eq!(place.tail("u")[0]["properties"]["p"], "short");
    let letters = place.tail("dlq");
    assert!(
        letters[0]["properties"]["dead_reason"].as_str().unwrap().starts_with("properties of 32003 bytes")
    );
    assert!(letters[0]["properties"]["p"].as_str().unwrap().len() > 20_000);
}

#[test]
fn rows_that_no_folder_can_be_named_by_go_where_errors_says() {
    let place = Place::new();
    place.write("in.csv", format!("id,origin\n0,EWR\n1,{}\n2,JFK\n", "é".repeat(130)));
    let config = "
name: load
source:
  file: {path: in.csv, format: csv, properties: [origin]}
sink:
  topic: {name: t}
---
name: lake
source:
  topic: {name: t, until: caught_up}
decode: {format: json}
sink:
  parquet: {path: lake, partition: [$.origin]}
";
    let stopped = place.run(config);
    let said = stopped["lake"]["error"].as_str().unwrap();
    assert!(
        said.contains("queue offset 1: partition column") && said.contains("folder name of 267 bytes"),
        "{said}"
    );
    let summary = place.run(&format!("{config}errors: {{then: dead_letter, dead_letter: dlq}}\n"));
    assert_eq!(summary["lake"]["fates"]["dead"], 1, "{summary}");
    assert_eq!(files(&place.path("lake"), "parquet").len(), 2);
    assert_eq!(place.tail("dlq")[0]["body"]["id"], 1);
}

#[test]
fn a_changed_file_under_an_old_name_blocks() {
    let place = Place::new();
    place.write("in.csv", CSV);
    place.run(TWO);
    place.write("in.csv", CSV.replace("EWR", "BOS"));
    let summary = place.run(TWO);
    assert_eq!(summary["load"]["state"], "blocked");
    assert!(summary["load"]["error"].as_str().unwrap().contains("in.csv"), "{summary}");
    assert_eq!(place.tail("t").len(), 5);
}

#[test]
fn a_small_file_that_grows_goes_on_where_it_was_read_to() {
    let place = Place::new();
    let both = format!(
        "{TWO}---
name: direct
source:
  file: {{path: in.csv, format: csv}}
sink:
  arrow: {{path: direct}}
"
    );
    place.write("in.csv", CSV);
    place.run(&both);
    for round in 1..3 {
        place.write("in.csv", format!("{CSV}{}", "9,EWR,50\n".repeat(round)));
        let summary = place.run(&both);
        for (name, rows) in [("load", 1), ("lake", 1), ("direct", 1)] {
            assert_eq!(summary[name]["fates"]["written"], rows, "{summary}");
        }
    }
    place.write("in.csv", CSV.trim_end());
    assert_eq!(place.run(&both)["load"]["state"], "blocked", "a shorter file is another one");
}

#[test]
fn a_topic_of_dead_letters_is_fed_by_their_pipeline() {
    let place = Place::new();
    place.write("in.csv", "id,n\n1,1\n2\n3,3\n");
    let summary = place.run(
        "
name: letters
source:
  topic: {name: dlq, until: caught_up}
sink:
  topic: {name: seen}
---
name: load
source:
  file: {path: in.csv, format: csv}
sink:
  topic: {name: t}
errors: {then: dead_letter, dead_letter: dlq}
",
    );
    assert_eq!(summary["load"]["fates"]["dead"], 1, "{summary}");
    assert_eq!(summary["letters"]["fates"]["written"], 1, "{summary}");
}

#[test]
fn a_slice_with_thousands_of_partition_values_goes_into_several_plans() {
    let place = Place::new();
    let rows: String = (0..2500).map(|id| format!("{id},{}\n", id % 1250)).collect();
    place.write("in.csv", format!("id,tail\n{rows}"));
    let config = "
name: lake
source:
  file: {path: in.csv, format: csv, properties: [tail]}
where: tail <> '7'
sink:
  arrow: {path: lake, partition: [tail]}
";
    let summary = place.run(config);
    assert_eq!(summary["lake"]["error"], Value::Null, "{summary}");
    assert_eq!(
        (&summary["lake"]["fates"]["written"], &summary["lake"]["fates"]["filtered"]),
        (&2498.into(), &2.into())
    );
    // A plan that stands and has no files is made again from the same rows.
    for file in files(&place.path("lake"), "arrow").into_iter().chain(files(&place.path("lake"), "done")) {
        fs::remove_file(file).unwrap();
    }
    let again = place.run(config);
    assert_eq!(again["lake"]["error"], Value::Null, "{again}");
    assert!(!files(&place.path("lake"), "arrow").is_empty());
}

/// A run that goes on until it is stopped.
struct Running(Child);

impl Running {
    fn start(place: &Place, config: &str) -> Self {
        place.write("forever.yaml", config);
        let child = place
            .command(&["run", "forever.yaml"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, signal: &str) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

const FOREVER: &str = "
name: make
source:
  generate: {rows: 100000000, rate: 2000}
sink:
  topic: {name: made}
---
name: lake
source:
  topic: {name: made, until: forever}
sink:
  arrow: {path: lake}
";

#[test]
fn beside_a_run_topics_can_be_read_a_second_writer_is_refused_and_one_ctrl_c_ends_it_cleanly() {
    let place = Place::new();
    let mut running = Running::start(&place, FOREVER);
    // Following the topic waits for the rows themselves.
    let mut first;
    loop {
        first = place.sluice(&["topic", "tail", "made", "--limit", "3"]);
        if first.status.success() && first.stdout.iter().filter(|b| **b == b'\n').count() == 3 {
            break;
        }
        assert!(running.0.try_wait().unwrap().is_none(), "the run ended");
        std::thread::yield_now();
    }
    let mut tail = place
        .command(&["topic", "tail", "made", "--follow", "--limit", "500"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(tail.stdout.take().unwrap()).lines().map(Result::unwrap);
    let offsets: Vec<u64> =
        lines.map(|l| serde_json::from_str::<Value>(&l).unwrap()["queue_offset"].as_u64().unwrap()).collect();
    assert!(tail.wait().unwrap().success());
    assert_eq!(offsets, (0..500).collect::<Vec<u64>>());

    place.write("second.yaml", FOREVER.replace("name: make", "name: other"));
    let second = place.sluice(&["run", "second.yaml"]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains(&running.0.id().to_string()), "{said} does not name the holder");

    running.signal("-INT");
    let status = running.0.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    // What was stored is published: the files hold every row of the topic that the plan reached.
    let plans = files(&place.path("lake"), "plan");
    assert!(!plans.is_empty());
    for plan in &plans {
        assert!(plan.with_extension("done").exists(), "{}", plan.display());
    }
    assert!(!files(&place.path("lake"), "arrow").is_empty());
}

#[test]
fn lint_tells_every_problem_of_every_file_and_writes_nothing() {
    let place = Place::new();
    place.write("good.yaml", TWO).write("bad.yaml", TWO.replace("sink:", "sinc:"));
    let good = place.sluice(&["lint", "good.yaml"]);
    assert!(good.status.success(), "{good:?}");
    let bad = place.sluice(&["lint", "good.yaml", "bad.yaml", "--json"]);
    assert_eq!(bad.status.code(), Some(1));
    let said: Value = serde_json::from_slice(&bad.stdout).unwrap();
    let problems = said["problems"].as_array().unwrap();
    assert_eq!(
        problems.iter().filter(|p| p["message"].as_str().unwrap().contains("unknown key `sinc`")).count(),
        2,
        "{said}"
    );
    assert!(problems.iter().all(|p| p["file"] == "bad.yaml" && p["line"].as_u64() > Some(0)), "{said}");
    assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 2);
}

#[test]
fn lint_notes_what_rocketmq_reads_otherwise_and_points_into_expressions() {
    let place = Place::new();
    let with = |expression: &str| {
        format!(
            "name: p\nsource:\n  topic: {{name: t}}\nwhere: \"{expression}\"\nsink:\n  topic: {{name: u}}\n"
        )
    };
    place
        .write("same.yaml", with("origin = 'JFK' AND delay > 3"))
        .write("other.yaml", with("NOT origin = 'JFK'"))
        .write("bad.yaml", with("origin = 'JFK' AN delay > 3"));
    let same = place.sluice(&["lint", "same.yaml", "--json"]);
    let other = place.sluice(&["lint", "other.yaml"]);
    let bad = place.sluice(&["lint", "bad.yaml"]);
    assert!(same.status.success() && other.status.success());
    let text = |out: &std::process::Output| String::from_utf8(out.stdout.clone()).unwrap();
    assert!(
        text(&other).contains("note: other.yaml:4:8: where: ")
            && text(&other).contains("NOT belongs to `origin`")
    );
    assert_eq!(bad.status.code(), Some(1));
    let said = text(&bad);
    assert!(said.contains("\n    origin = 'JFK' AN delay > 3\n                   ^^"), "{said}");
}

#[test]
fn preview_shows_rows_schema_and_files_and_writes_nothing() {
    let place = Place::new();
    place.write("in.csv", CSV).write("one.yaml", TWO.split("---").next().unwrap());
    let out = place.sluice(&["preview", "one.yaml", "--rows", "2"]);
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success() && said.contains("5 pass") && said.contains("body: BinaryView"), "{said}");
    assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 2);
}

#[test]
fn an_earlier_configs_unfinished_plan_is_finished_by_that_config() {
    let place = Place::new();
    place.write("in.csv", CSV);
    place.run(TWO);
    // As after a kill between plan and publish: the plan stands, its files and its mark do not.
    for file in files(&place.path("lake"), "parquet").into_iter().chain(files(&place.path("lake"), "done")) {
        fs::remove_file(file).unwrap();
    }
    let summary = place.run(&TWO.replace("delay > 15", "delay > 50"));
    assert_eq!(summary["lake"]["error"], Value::Null, "{summary}");
    assert_eq!(summary["lake"]["fates"]["written"], 2);
    assert_eq!(files(&place.path("lake"), "parquet").len(), 2);
}

#[cfg(feature = "query")]
#[test]
fn query_reads_topics_and_the_files_they_became() {
    let place = Place::new();
    place.write("in.csv", CSV);
    place.run(TWO);
    let ask = |sql: &str| {
        let out = place.sluice(&["query", sql, "--json"]);
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout)
            .unwrap()
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect::<Vec<Value>>()
    };
    let rows = ask(
        "select origin, count(*) as n, max(_queue_offset) as last from t group by origin order by origin",
    );
    assert_eq!(rows[0], serde_json::json!({"origin": "EWR", "n": 2, "last": 2}));
    assert_eq!(rows.len(), 3);
    let rows = ask("select origin, sum(delay) as d from './lake/' group by origin order by origin");
    assert_eq!(
        rows,
        [serde_json::json!({"origin": "EWR", "d": 20}), serde_json::json!({"origin": "JFK", "d": 99})]
    );
    let wrong = place.sluice(&["query", "select * from nowhere"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("no table `nowhere` (there are: t)"));
}

#[test]
fn rows_on_standard_output_stand_alone_and_the_summary_goes_beside_them() {
    let place = Place::new();
    place.write("in.csv", CSV).write(
        "p.yaml",
        "name: show\nsource:\n  file: {path: in.csv, format: csv}\nsink:\n  stdout: {format: ndjson}\ndelivery: at_least_once\n",
    );
    let out = place.sluice(&["run", "p.yaml"]);
    assert!(out.status.success(), "{out:?}");
    let rows = String::from_utf8(out.stdout).unwrap();
    assert_eq!(rows.lines().filter(|l| serde_json::from_str::<Value>(l).is_ok()).count(), 5);
    assert_eq!(rows.lines().count(), 5);
    assert!(String::from_utf8(out.stderr).unwrap().contains("show: 5 rows: 5 written"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let place = Place::new();
    let generate = "name: gen\nsource:\n  generate: {rows: 200000}\n";
    place.write(
        "show.yaml",
        format!("{generate}sink:\n  stdout: {{format: ndjson}}\ndelivery: at_least_once\n"),
    );
    place.write("load.yaml", format!("{generate}sink:\n  topic: {{name: t, queues: 1}}\n"));
    assert!(place.sluice(&["run", "load.yaml"]).status.success());
    for arguments in [&["run", "show.yaml"][..], &["topic", "tail", "t"]] {
        let mut child =
            place.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with('{'), "{line}");
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(!String::from_utf8_lossy(&out.stderr).contains("panicked"));
    }
}

#[test]
fn a_tail_begins_at_an_offset_that_some_queues_do_not_have_yet() {
    let place = Place::new();
    place.write("in.csv", CSV);
    place.run(
        "name: load\nsource:\n  file: {path: in.csv, format: csv}\nsink:\n  topic: {name: t, queues: 4}\n",
    );
    let out = place.sluice(&["topic", "tail", "t", "--from", "1"]);
    assert!(out.status.success(), "{out:?}");
    let offsets: Vec<i64> = String::from_utf8(out.stdout)
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap()["queue_offset"].as_i64().unwrap())
        .collect();
    assert_eq!(offsets, [1], "5 rows over 4 queues");
}

#[test]
fn a_preview_shows_the_columns_and_folders_that_files_will_have() {
    let place = Place::new();
    place.write("in.csv", CSV).write("pipeline.yaml", TWO);
    let text = |arguments: &[&str]| {
        let out = place.sluice(arguments);
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let before = text(&["preview", "pipeline.yaml"]);
    assert!(
        before.contains("topic t does not exist yet") && before.contains("pipeline load makes it"),
        "{before}"
    );
    place.run(TWO);
    let after = text(&["preview", "pipeline.yaml", "--pipeline", "lake"]);
    assert!(after.contains("id: Int64, nullable") && !after.contains("origin: Utf8"), "{after}");
    assert!(after.contains("lake/origin=…/lake-"), "{after}");
}

#[test]
fn a_filter_is_explained_and_tried_on_properties_and_on_files_of_cases() {
    let place = Place::new();
    let said = |arguments: &[&str], code: i32| {
        let out = place.sluice(arguments);
        assert_eq!(out.status.code(), Some(code), "{out:?}");
        String::from_utf8([out.stdout, out.stderr].concat()).unwrap()
    };
    let text = said(&["filter", "explain", "$.x = 1 AND origin = 'EWR'"], 0);
    assert!(text.contains("AND\n") && text.contains("the part without fields of the body"), "{text}");
    let text = said(&["filter", "explain", "a = 1 AND a = 2"], 0);
    assert!(text.contains("no message ever matches"), "{text}");
    let text = said(&["filter", "explain", "NOT a = 1", "--dialect", "rocketmq"], 0);
    assert!(text.contains("notices:\n"), "{text}");
    assert_eq!(said(&["filter", "explain", "a = "], 1).lines().filter(|l| l.contains('^')).count(), 1);

    let expression = "delay > 15 OR origin = 'JFK'";
    let text = said(&["filter", "test", expression, "--props", "delay=20", "origin=EWR"], 0);
    assert!(text.starts_with("true\n") && text.contains("false"), "{text}");
    assert!(said(&["filter", "test", expression, "--props", "delay=x"], 0).starts_with("unknown\n"));
    said(&["filter", "test"], 2);

    let good = r#"{"dialect":"rocketmq","expr":"NOT a = 1","props":{"a":"2"},"expect":"false"}
{"dialect":"sluice","expr":"NOT a = 1","props":{"a":"2"},"expect":"true"}
{"dialect":"jms","expr":"a","props":{},"expect":"null"}
"#;
    place.write("good.jsonl", good).write("bad.jsonl", good.replace("\"false\"", "\"parse_error\""));
    assert_eq!(
        said(&["filter", "test", "--cases", "good.jsonl"], 0),
        "2 right, 0 wrong, 1 of other dialects left out\n"
    );
    let text = said(&["filter", "test", "--cases", "bad.jsonl"], 1);
    assert!(
        text.starts_with("bad.jsonl:1: NOT a = 1: expected parse_error, got false\n1 right, 1 wrong"),
        "{text}"
    );
}

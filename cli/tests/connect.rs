//! `sluice connect`: workers as processes beside `sluice broker`, killed, stopped and changed while they share tasks.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test over processes takes the machine's environment and clock"
)]

mod served;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use served::{Served, refused, sluice, sluice_with, until};

const ROWS: u64 = 1000;
/// A dead worker's tasks must run elsewhere within this time.
const TAKE_OVER_MAX: Duration = Duration::from_secs(10);

/// A broker with a topic, and a folder for all else.
struct Place {
    dir: TempDir,
    broker: Served,
    names: String,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = Served::broker(&dir.path().join("data"), &[]);
        let names = broker.names();
        sluice(&["topic", "create", "t", "--queues", "6", "--namesrv", &names]);
        let rows: String = (0..ROWS).map(|i| format!("{i}\n")).collect();
        fs::write(dir.path().join("rows.csv"), format!("id\n{rows}")).unwrap();
        let load = format!(
            "
name: load
delivery: at_least_once
source: {{file: {{path: {}, format: csv, keys: [id]}}}}
sink: {{topic: {{name: t, cluster: '{names}'}}}}
",
            dir.path().join("rows.csv").display()
        );
        fs::write(dir.path().join("load.yaml"), load).unwrap();
        Self { dir, broker, names }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Sends rows to the topic, spread over its queues.
    fn load(&self) {
        sluice(&["run", &self.text("load.yaml"), "--no-broker"]);
    }

    /// A pipeline from the topic into a folder of its name.
    fn pipeline(&self, name: &str, age: &str) -> String {
        let lake = self.text(name);
        format!(
            "
name: {name}
source: {{topic: {{name: t}}}}
decode: {{format: json, schema: {{mode: declared, fields: {{id: int64}}}}}}
sink: {{parquet: {{path: {lake}, rotate: {{age: {age}}}}}}}
"
        )
    }

    fn worker(&self, number: u32, files: &[&str], more: &[&str]) -> Worker {
        let log = self.path(&format!("worker-{number}.log"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
            .arg("connect")
            .args(files.iter().map(|name| self.path(name)))
            .args(["--json", "--cluster", &self.names, "--metrics", "127.0.0.1:0"])
            .args(more)
            .env("SLUICE_LOG", "info")
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let first: Value = serde_json::from_str(&said.next().unwrap().unwrap()).unwrap();
        let metrics = first["metrics"].as_str().unwrap().to_owned();
        Worker { child, said, log, metrics }
    }

    fn members(&self, group: &str) -> usize {
        let arguments = ["group", "members", group, "--namesrv", &self.names, "--json"];
        let out = sluice_with("", &arguments);
        let found: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        found["members"].as_object().map_or(0, serde_json::Map::len)
    }

    /// Messages that a pipeline has published, by its group's offsets.
    fn published(&self, group: &str) -> i64 {
        let lag = sluice(&["group", "lag", group, "--namesrv", &self.names, "--json"]);
        let lag: Value = serde_json::from_str(&lag).unwrap();
        lag["queues"]
            .as_array()
            .unwrap()
            .iter()
            .map(|queue| queue["committed"].as_i64().unwrap().max(0))
            .sum()
    }

    /// The rows that the audit proves to be in a pipeline's folder.
    fn audited(&self, name: &str) -> u64 {
        let found: Value = serde_json::from_str(&sluice(&["audit", &self.text(name), "--json"])).unwrap();
        found["chains"]
            .as_array()
            .unwrap()
            .iter()
            .map(|chain| chain["fates"]["written"].as_u64().unwrap())
            .sum()
    }
}

struct Worker {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
    metrics: String,
}

impl Worker {
    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The value of one of its counters, of one pipeline, with more labels of the series.
    fn count(&self, series: &str, pipeline: &str, more: &str) -> u64 {
        let (head, body) = served::get(&self.metrics, "/metrics");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let line = format!("sluice_pipeline_{series}{{pipeline=\"{pipeline}\"{more}}} ");
        body.lines().find_map(|text| text.strip_prefix(&line)?.parse().ok()).unwrap()
    }

    /// Whether it holds rows that are not published.
    fn holds_rows(&self, pipeline: &str) -> bool {
        let rows = |outcome| self.count("records_total", pipeline, &format!(",outcome=\"{outcome}\""));
        rows("read") > rows("written")
    }

    /// The next thing that it says of a pipeline.
    fn says(&mut self, pipeline: &str) -> Value {
        loop {
            let line = self.said.next().unwrap_or_else(|| panic!("it ended")).unwrap();
            let said: Value = serde_json::from_str(&line).unwrap();
            if said["pipeline"] == pipeline {
                return said;
            }
        }
    }

    /// Asks it to end cleanly; what it said of the pipeline's end.
    fn end(mut self, pipeline: &str) -> Value {
        self.signal("-TERM");
        let mut said = self.says(pipeline);
        while said["ended"].is_null() {
            said = self.says(pipeline);
        }
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {said} {}", self.log());
        said
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}:\n{}", self.log.display(), self.log());
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn tasks_of_a_dead_worker_run_elsewhere_and_a_stale_one_is_fenced() {
    let place = Place::new();
    fs::write(place.path("lake.yaml"), place.pipeline("lake", "1s")).unwrap();
    let start = |number| place.worker(number, &["lake.yaml"], &["--lease", "1s"]);
    let (first, second, third) = (start(1), start(2), start(3));
    until("three members", || place.members("lake") == 3);
    place.load();
    let all = |times: u64| place.published("lake") == i64::try_from(times * ROWS).unwrap();
    until("the first rows are published", || all(1));

    // Killed while it holds rows: what it had not published is read again elsewhere.
    place.load();
    until("the first worker holds rows", || first.holds_rows("lake"));
    first.signal("-KILL");
    let killed = Instant::now();
    until("the others publish its rows", || all(2));
    assert!(killed.elapsed() < TAKE_OVER_MAX, "{:?}", killed.elapsed());

    // It hangs while it holds rows, and its lease ends.
    until("two members", || place.members("lake") == 2);
    place.load();
    until("the second worker holds rows", || second.holds_rows("lake"));
    second.signal("-STOP");
    let stopped = Instant::now();
    until("one member", || place.members("lake") == 1);
    until("the other one publishes its rows", || all(3));
    assert!(stopped.elapsed() < TAKE_OVER_MAX, "{:?}", stopped.elapsed());
    second.signal("-CONT");
    until("the stale worker is fenced", || second.count("fenced_total", "lake", "") > 0);
    assert!(second.log().contains("fenced: another worker has planned these rows"));
    until("two members again", || place.members("lake") == 2);
    place.load();
    until("all is published", || all(4));

    // Who ends cleanly leaves at once.
    let ended = second.end("lake");
    assert!(ended["ended"]["fenced"].as_u64().unwrap() >= 1, "{ended}");
    assert_eq!(place.members("lake"), 1);
    place.load();
    until("the last worker has it all", || all(5));
    third.end("lake");
    assert_eq!(place.audited("lake"), 5 * ROWS);
}

#[test]
fn dead_letters_of_a_worker_lie_at_the_brokers_and_go_back() {
    let place = Place::new();
    sluice_with(
        "{\"id\": 1}\n{\"id\": \"x\"}\n",
        &["topic", "send", "t", "--prop", "region=EU", "--key", "k", "--namesrv", &place.names],
    );
    let lake = place.pipeline("lake", "200ms");
    fs::write(place.path("lake.yaml"), format!("{lake}errors: {{then: dead_letter, dead_letter: bad}}\n"))
        .unwrap();
    let worker = place.worker(1, &["lake.yaml"], &[]);
    let letters = || -> Vec<Value> {
        let out = sluice_with("", &["dlq", "list", "bad", "--namesrv", &place.names, "--json"]);
        let lines = String::from_utf8(out.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    until("the row that does not fit is a dead letter", || letters().len() == 1);
    let letter = letters().remove(0);
    assert_eq!(
        (&letter["topic"], &letter["pipeline"], &letter["body"]["id"]),
        (&"t".into(), &"lake".into(), &"x".into())
    );
    assert_eq!((&letter["properties"]["KEYS"], &letter["properties"]["region"]), (&"k".into(), &"EU".into()));
    let replay =
        |filter: &str| sluice(&["dlq", "replay", "bad", "--namesrv", &place.names, "--where", filter]);
    assert_eq!(replay("dead_pipeline = 'other'"), "0 dead letters sent\n");
    assert_eq!(replay("dead_pipeline = 'lake' AND region = 'EU'"), "1 dead letter sent to t\n");
    until("it does not fit this time either", || letters().len() == 2);
    until("both have their fate", || place.published("lake") == 3);
    let ended = worker.end("lake");
    assert_eq!(ended["ended"]["fates"]["dead"], 2, "{ended}");
    assert_eq!(place.audited("lake"), 1);
}

#[test]
fn workers_that_have_caught_up_end_and_leave_nothing_behind() {
    let place = Place::new();
    for _ in 0..3 {
        place.load();
    }
    let lake = place.pipeline("lake", "5m").replace("name: t}", "name: t, until: caught_up}");
    fs::write(place.path("lake.yaml"), lake).unwrap();
    let mut workers: Vec<Worker> = (0..3).map(|number| place.worker(number, &["lake.yaml"], &[])).collect();
    for worker in &mut workers {
        let mut said = worker.says("lake");
        while said["ended"].is_null() {
            said = worker.says("lake");
        }
        assert_eq!(said["ended"]["state"], "done", "{said}");
        assert!(worker.child.wait().unwrap().success());
    }
    assert_eq!(place.audited("lake"), 3 * ROWS);
}

#[test]
fn a_change_touches_one_pipeline_and_one_that_is_not_right_none() {
    let place = Place::new();
    place.load();
    fs::write(place.path("a.yaml"), place.pipeline("a", "1s")).unwrap();
    fs::write(place.path("b.yaml"), place.pipeline("b", "1s")).unwrap();
    let mut worker = place.worker(1, &["a.yaml", "b.yaml"], &[]);
    for name in ["a", "b"] {
        until("the first rows are published", || place.members(name) == 1 && place.published(name) == 1000);
    }
    let changed = place.pipeline("b", "1s").replace("sink:", "where: \"kind IS NULL\"\nsink:");
    fs::write(place.path("b.yaml"), format!("{changed}oops: 1\n")).unwrap();
    worker.signal("-HUP");
    until("the mistake is told", || worker.log().contains("b.yaml:7:1: unknown key `oops`"));
    fs::write(place.path("b.yaml"), changed).unwrap();
    worker.signal("-HUP");
    let began = worker.says("b");
    assert_eq!(began["topic"], "t", "{began}");
    let ended = worker.says("b");
    assert_eq!(ended["ended"]["state"], "stopped", "{ended}");
    assert_eq!(worker.says("b")["topic"], "t", "it begins anew");
    place.load();
    for name in ["a", "b"] {
        until("the new rows are published", || place.published(name) == 2000);
    }
    let ended = worker.end("a");
    assert_eq!(ended["ended"]["fates"]["written"], 2000, "a went on all the while: {ended}");
    assert_eq!([place.audited("a"), place.audited("b")], [2000, 2000]);
}

#[test]
fn what_can_not_be_shared_is_said_with_its_place() {
    let place = Place::new();
    let names = place.names.clone();
    let check = |name: &str, text: &str, more: &[&str], expected: &[&str]| {
        fs::write(place.path(name), text).unwrap();
        let said = refused(&[&["connect", &place.text(name)], more].concat());
        for text in expected {
            assert!(said.contains(text), "{said} lacks {text}");
        }
    };
    let lake = place.pipeline("lake", "1s");
    check("no-cluster.yaml", &lake, &[], &["no-cluster.yaml:3:", "give --cluster HOST:PORT"]);
    check("bad-cluster.yaml", &lake, &["--cluster", "nowhere"], &["source.topic", "host:port"]);
    let twice =
        format!("{lake}---{}", lake.replace("lake", "pond").replace("name: t}", "name: t, group: lake}"));
    check("twice.yaml", &twice, &["--cluster", &names], &["group `lake` is another pipeline's"]);
    let made = "name: made\nsource: {generate: {rows: 1}}\nsink: {stdout: {format: ndjson}}\ndelivery: at_least_once\n";
    check("made.yaml", made, &["--cluster", &names], &["made.yaml:2:", "`sluice run` runs it"]);
    let embedded = format!("{}sink: {{topic: {{name: out}}}}\n", lake.split("sink:").next().unwrap());
    check(
        "embedded.yaml",
        &embedded,
        &["--cluster", &names],
        &["sink.topic", "apart from the embedded broker"],
    );
    let with_dead_letters = format!("{lake}errors: {{then: dead_letter, dead_letter: lake-dlq}}\n");
    fs::write(place.path("fine.yaml"), with_dead_letters).unwrap();
    let told = sluice(&["check", &place.text("fine.yaml"), "--cluster", &names]);
    assert!(told.contains("lake: source: ok: there, and can be read"), "{told}");
    assert!(
        told.contains("lake: dead letters: ok: topic lake-dlq is made by the first run: at_least_once"),
        "{told}"
    );
    let foreign = embedded.replace("name: out", &format!("name: out, cluster: '{names}'"));
    check("foreign.yaml", &foreign, &["--cluster", &names], &["write `delivery: at_least_once`"]);
    drop(place.broker);
}

#[test]
fn every_series_of_the_dashboard_is_served() {
    let dashboard = fs::read_to_string("../examples/deploy/grafana.json").unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let place = Place::new();
    let broker = Served::broker(&place.path("other"), &["--metrics", "127.0.0.1:0"]);
    // A request that is counted.
    sluice(&["topic", "list", "--namesrv", &broker.names()]);
    fs::write(place.path("lake.yaml"), place.pipeline("lake", "1s")).unwrap();
    let worker = place.worker(1, &["lake.yaml"], &[]);
    let text =
        [&worker.metrics, &broker.text("metrics")].map(|addr| served::get(addr, "/metrics").1).concat();
    let is_served = |name: &str| text.lines().any(|line| line.starts_with(&format!("# TYPE {name} ")));
    let panels = dashboard["panels"].as_array().unwrap();
    let mut found = 0;
    for expr in panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()).map(|t| &t["expr"]) {
        let expr = expr.as_str().unwrap();
        let names =
            expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| w.starts_with("sluice_"));
        for name in names {
            assert!(is_served(name.trim_end_matches("_bucket")), "{name} of {expr} is not in\n{text}");
            found += 1;
        }
    }
    assert!(found >= panels.len());
    worker.end("lake");
}

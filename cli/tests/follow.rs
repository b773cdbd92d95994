//! `sluice run` and `sluice connect` over logs that are written, rotated and cut meanwhile, and killed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tempfile::TempDir;

/// How long something that must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of a file before it is rotated.
const LINES: u64 = 300;
/// Rounds that end by `kill -9`.
const ROUNDS: usize = 5;

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Place {
    folder: TempDir,
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, arguments: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.args(arguments).current_dir(self.folder.path());
        let log = OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        Running(command.stdout(Stdio::null()).stderr(log).spawn().unwrap(), self.path("log"))
    }

    fn lint(&self) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        let out = command.args(["lint", "pipeline.yaml"]).current_dir(self.folder.path()).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    }

    /// How often each line is in the lake, by log and number.
    fn lake(&self) -> BTreeMap<(String, i64), usize> {
        let mut found = BTreeMap::new();
        for path in parquet_files(&self.path("lake")) {
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
            for batch in reader.build().unwrap() {
                let batch = batch.unwrap();
                let logs = batch.column_by_name("log").unwrap().as_string::<i32>();
                let numbers = batch.column_by_name("n").unwrap().as_primitive::<Int64Type>();
                for (log, n) in logs.iter().zip(numbers.values()) {
                    *found.entry((log.unwrap().to_owned(), *n)).or_default() += 1;
                }
            }
        }
        found
    }

    /// The same of the topic.
    fn topic(&self) -> BTreeMap<(String, i64), usize> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        let out = command.args(["topic", "tail", "t"]).current_dir(self.folder.path()).output().unwrap();
        let mut found = BTreeMap::new();
        for line in String::from_utf8(out.stdout).unwrap().lines() {
            let body = &serde_json::from_str::<Value>(line).unwrap()["body"];
            let log = body["log"].as_str().unwrap().to_owned();
            *found.entry((log, body["n"].as_i64().unwrap())).or_default() += 1;
        }
        found
    }
}

fn parquet_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(parquet_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            found.push(path);
        }
    }
    found
}

/// A process with its log.
struct Running(Child, PathBuf);

impl Running {
    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(&self.1).unwrap());
        }
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes lines into two logs until it is told to stop: `moved.log` is rotated by renaming, `cut.log` by copying. Gives the
/// number of lines of each.
fn write_logs(folder: PathBuf, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let path = |name: &str| folder.join(name);
        let open = |name: &str| OpenOptions::new().create(true).append(true).open(path(name)).unwrap();
        let (mut moved, mut cut) = (open("moved.log"), open("cut.log"));
        let mut n = 0;
        while !stop.load(Ordering::SeqCst) {
            for (file, log) in [(&mut moved, "moved"), (&mut cut, "cut")] {
                // A line is not written at once.
                let line = format!("{{\"log\":\"{log}\",\"n\":{n}}}\n");
                let (head, tail) = line.split_at(n as usize % line.len());
                file.write_all(head.as_bytes()).unwrap();
                file.write_all(tail.as_bytes()).unwrap();
            }
            n += 1;
            if n % LINES == 0 {
                for log in ["moved.log", "cut.log"] {
                    let mut number = 1;
                    while path(&format!("{log}.{number}")).exists() {
                        number += 1;
                    }
                    for number in (1..number).rev() {
                        let to = path(&format!("{log}.{}", number + 1));
                        fs::rename(path(&format!("{log}.{number}")), to).unwrap();
                    }
                }
                fs::rename(path("moved.log"), path("moved.log.1")).unwrap();
                moved = open("moved.log");
                fs::copy(path("cut.log"), path("cut.log.1")).unwrap();
                cut.set_len(0).unwrap();
            }
            if n % 8 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        n
    })
}

const PIPELINES: &str = "
name: to-topic
source:
  file: {path: 'logs/*.log', format: ndjson, follow: true, poll: 20ms, rotate_wait: 50ms}
sink:
  topic: {name: t}
---
name: to-lake
source:
  file: {path: 'logs/*.log', format: ndjson, follow: true, poll: 20ms, rotate_wait: 50ms}
decode: {format: json, schema: {mode: strict, fields: {log: utf8, n: int64}}}
sink:
  parquet: {path: lake, rotate: {rows: 10000, age: 300ms}}
";

#[test]
fn each_line_of_rotated_logs_comes_once_however_often_it_is_killed() {
    let place = Place { folder: tempfile::tempdir().unwrap() };
    fs::create_dir(place.path("logs")).unwrap();
    fs::write(place.path("pipeline.yaml"), PIPELINES).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = write_logs(place.path("logs"), Arc::clone(&stop));
    for round in 0..ROUNDS {
        let before = parquet_files(&place.path("lake")).len();
        let running = place.start(&["run", "pipeline.yaml"]);
        until("a file", || parquet_files(&place.path("lake")).len() > before + round % 3);
        running.signal("-KILL");
    }
    stop.store(true, Ordering::SeqCst);
    let lines = writer.join().unwrap();
    let mut running = place.start(&["run", "pipeline.yaml"]);
    until("the last line", || {
        place.lake().len() as u64 >= 2 * lines && place.topic().len() as u64 >= 2 * lines
    });
    running.signal("-INT");
    assert_eq!(
        running.0.wait().unwrap().code(),
        Some(130),
        "{}",
        fs::read_to_string(place.path("log")).unwrap()
    );
    let numbers = (0..i64::try_from(lines).unwrap()).map(|n| (n, 1));
    let expected =
        |log: &str| numbers.clone().map(|(n, times)| ((log.to_owned(), n), times)).collect::<Vec<_>>();
    let expected: BTreeMap<_, _> = [expected("moved"), expected("cut")].concat().into_iter().collect();
    let differs = |found: &BTreeMap<(String, i64), usize>| {
        let all = expected.keys().chain(found.keys());
        all.filter(|key| expected.get(key) != found.get(key)).take(5).cloned().collect::<Vec<_>>()
    };
    assert_eq!(differs(&place.lake()), [], "in the lake, of {lines} lines");
    assert_eq!(differs(&place.topic()), [], "in the topic, of {lines} lines");
    assert!(lines > 2 * LINES, "the logs were rotated: {lines}");
}

#[test]
fn a_worker_follows_files_of_its_machine() {
    let place = Place { folder: tempfile::tempdir().unwrap() };
    fs::create_dir(place.path("logs")).unwrap();
    let lake = PIPELINES.split("---").nth(1).unwrap();
    fs::write(place.path("pipeline.yaml"), lake).unwrap();
    let mut running = place.start(&["connect", "pipeline.yaml"]);
    fs::write(place.path("logs/a.log"), "{\"log\":\"a\",\"n\":1}\n").unwrap();
    until("a file", || place.lake().len() == 1);
    running.signal("-TERM");
    assert!(running.0.wait().unwrap().success());
}

#[test]
fn what_can_not_be_followed_is_told_by_lint() {
    let place = Place { folder: tempfile::tempdir().unwrap() };
    let check = |text: &str, expected: &str| {
        fs::write(place.path("pipeline.yaml"), text).unwrap();
        let said = place.lint();
        assert!(said.contains(expected), "{said}");
    };
    let first = PIPELINES.split("---").next().unwrap();
    check(&first.replace("follow: true, ", ""), "`poll` is for files that are followed: add `follow: true`");
    check(&first.replace("poll: 20ms", "poll: 1ms"), "1ms, expected 10ms to 1h");
    check(&first.replace("rotate_wait: 50ms", "rotate_wait: 2h"), "7200s, expected at most 1h");
    check(&first.replace("rotate_wait: 50ms", "start: middle"), "middle");
    let with_dedupe = first.replace("sink:", "steps: [dedupe: {key: n, rows: 100}]\nsink:");
    check(&with_dedupe, "files that are followed may be gone by then");
}

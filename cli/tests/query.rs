//! `sluice query` as a user meets it: pipelines as tables on the command line, and a server of Flight SQL. What clients of
//! that see is in `query/tests/flight.rs`.
#![cfg(feature = "query")]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const PIPELINES: &str = "
name: load
source: {file: {path: in.ndjson, format: ndjson}}
sink: {topic: {name: t}}
---
name: late-rows
source: {topic: {name: t, until: caught_up}}
decode: {format: json}
where: \"$.delay > 15\"
sink: {parquet: {path: lake}}
";

fn sluice(place: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice")).args(arguments).current_dir(place).output().unwrap()
}

#[track_caller]
fn says(place: &Path, arguments: &[&str], code: i32, expected: &str) {
    let out = sluice(place, arguments);
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{said}");
    assert!(said.contains(expected), "{said}");
}

fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("p.yaml"), PIPELINES).unwrap();
    let rows: String = (0..40).map(|delay| format!("{{\"delay\": {delay}}}\n")).collect();
    fs::write(place.path().join("in.ndjson"), rows).unwrap();
    place
}

#[test]
fn a_pipeline_is_a_table_by_its_file() {
    let place = place();
    let place = place.path();
    says(place, &["run", "p.yaml"], 0, "40 rows: 24 written");
    let count = "select count(*) as n, min(delay) as least from \"late-rows\"";
    says(place, &["query", "--pipelines", "p.yaml", count, "--json"], 0, "{\"n\":24,\"least\":16}");
    let joined = "select count(*) as n from t join pipelines.\"late-rows\" l on t.delay = l.delay";
    says(place, &["query", "--pipelines", "p.yaml", joined, "--json"], 0, "{\"n\":24}");
    says(place, &["query", count], 1, "no table `late-rows` (there are: t)");
    says(
        place,
        &["query", "--pipelines", "p.yaml", "select * from load"],
        1,
        "pipeline `load` is none: it writes topic t",
    );
    let loads = PIPELINES.split("---").next().unwrap();
    fs::write(place.join("load.yaml"), loads).unwrap();
    says(
        place,
        &["query", "--pipelines", "load.yaml", "select 1"],
        1,
        "none of 1 pipeline is a table: load: ",
    );
    says(
        place,
        &["query", "--memory", "1KiB", "select delay, count(*) from t group by delay"],
        1,
        "raise --memory",
    );
}

#[test]
fn it_serves_until_it_is_told_to_end_and_never_openly_without_a_token() {
    let place = place();
    let place = place.path();
    says(place, &["query", "--serve", "0.0.0.0:0"], 1, "give a token by `--token '${VAR}'`");
    says(place, &["query", "--serve", "0.0.0.0:0", "--token", "short"], 1, "at least 16 characters");
    says(place, &["query", "--serve", "127.0.0.1:0", "select 1"], 2, "cannot be used with");
    says(place, &["query"], 2, "required");
    let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["query", "--serve", "127.0.0.1:0", "--pipelines", "p.yaml", "--json"])
        .current_dir(place)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    TcpStream::connect(ready["flight"].as_str().unwrap()).unwrap();
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

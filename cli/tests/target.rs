//! Targets of files as a user meets them: `check`, `audit` and `compact`, and settings of object stores.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

const CSV: &str = "id,origin\n1,EWR\n2,LGA\n3,EWR\n4,JFK\n5,JFK\n6,LGA\n";

const FILES: &str = "
name: lake
source:
  file: {path: in.csv, format: csv, properties: [origin]}
decode: {format: json}
sink:
  parquet: {path: lake, rotate: {rows: 2}}
";

fn place(config: &str) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("in.csv"), CSV).unwrap();
    fs::write(place.path().join("pipeline.yaml"), config).unwrap();
    place
}

fn sluice(place: &TempDir, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    // What the machine's own AWS settings say must not matter.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.args(arguments).current_dir(place.path()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn parquet_files(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".parquet")).collect();
    names.sort();
    names
}

#[test]
fn a_run_is_checked_before_and_proven_after_and_small_files_are_merged() {
    let place = place(FILES);
    // Several reads of the source, so several plans.
    let rows: String = (0..60_000).map(|id| format!("{id},{id:0100}\n")).collect();
    fs::write(place.path().join("in.csv"), format!("id,origin\n{rows}")).unwrap();
    let out = sluice(&place, &["check", "pipeline.yaml"]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert!(said(&out).contains("lake: sink: ok: can be listed, written and read"), "{out:?}");
    assert!(parquet_files(&place.path().join("lake")).is_empty());

    // Nothing was run yet, so nothing is proven.
    assert_eq!(sluice(&place, &["audit", "lake"]).status.code(), Some(1));
    assert_eq!(sluice(&place, &["run", "pipeline.yaml"]).status.code(), Some(0));
    let out = sluice(&place, &["audit", "lake"]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert!(said(&out).contains("proven: 1 chain, each of 60,000 offsets has one fate"), "{out:?}");

    let out = sluice(&place, &["compact", "lake"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(said(&out).contains("--allow-reader-gap"), "{out:?}");
    let before = parquet_files(&place.path().join("lake"));
    let out = sluice(&place, &["compact", "lake", "--allow-reader-gap", "--json"]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let merged: Value = serde_json::from_slice(&out.stdout).unwrap();
    let after = parquet_files(&place.path().join("lake"));
    assert!(after.len() < before.len(), "{after:?}");
    assert_eq!(after.len() as u64 + merged["removed"].as_u64().unwrap(), before.len() as u64 + 1);

    let out = sluice(&place, &["audit", "lake", "--json"]);
    let audit: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&audit["proven"], &audit["chains"][0]["rows"]), (&true.into(), &60_000.into()), "{audit}");

    fs::remove_file(place.path().join("lake").join(&after[0])).unwrap();
    let out = sluice(&place, &["audit", "lake"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(said(&out).contains("NOT PROVEN: lake/lake-in.csv-0-"), "{out:?}");
}

#[test]
fn a_limit_of_memory_is_reported_and_two_pipelines_under_one_small_limit_come_to_the_end() {
    let place = place(FILES);
    let rows: String = (0..60_000).map(|id| format!("{id},{id:0100}\n")).collect();
    fs::write(place.path().join("in.csv"), format!("id,origin\n{rows}")).unwrap();
    let two = format!(
        "{FILES}---{}",
        FILES.replace("name: lake", "name: pond").replace("path: lake", "path: pond")
    );
    fs::write(place.path().join("pipeline.yaml"), two.replace("rows: 2}", "rows: 1000000}")).unwrap();
    let out = sluice(&place, &["run", "pipeline.yaml", "--json", "--memory", "1MiB"]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let summary: Value = serde_json::from_slice(&out.stdout).unwrap();
    for (number, target) in ["lake", "pond"].into_iter().enumerate() {
        assert!(summary["pipelines"][number]["memory_peak"].as_u64().unwrap() > 0, "{summary}");
        let audit = sluice(&place, &["audit", target]);
        assert!(said(&audit).contains("each of 60,000 offsets has one fate"), "{audit:?}");
    }
}

#[test]
fn a_preview_says_how_many_files_there_will_be_and_of_which_size() {
    let place = place(&FILES.replace("rotate: {rows: 2}", "partition: [$.origin], rotate: {rows: 2}"));
    let out = sluice(&place, &["preview", "pipeline.yaml"]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert!(said(&out).contains("3 partition values seen"), "{out:?}");
    assert!(!place.path().join("lake").exists(), "a preview writes nothing");
}

#[test]
fn a_check_names_each_part_that_fails() {
    let place = place(FILES);
    fs::write(place.path().join("lake"), "no folder").unwrap();
    fs::remove_file(place.path().join("in.csv")).unwrap();
    let out = sluice(&place, &["check", "pipeline.yaml", "--json"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let told: Value = serde_json::from_slice(&out.stdout).unwrap();
    let failed: Vec<&str> =
        told["tried"].as_array().unwrap().iter().map(|t| t["part"].as_str().unwrap()).collect();
    assert_eq!((told["ok"].as_bool(), failed), (Some(false), vec!["source", "sink"]), "{told}");
    assert!(told["tried"][1]["message"].as_str().unwrap().contains("_sluice"), "{told}");
}

#[test]
fn a_schema_that_stands_in_the_target_is_compared() {
    let place = place(FILES);
    assert_eq!(sluice(&place, &["run", "pipeline.yaml"]).status.code(), Some(0));
    let declared = "decode: {format: json, schema: {mode: declared, fields: {id: utf8, origin: utf8}}}";
    fs::write(place.path().join("pipeline.yaml"), FILES.replace("decode: {format: json}", declared)).unwrap();
    let out = sluice(&place, &["check", "pipeline.yaml"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(said(&out).contains("sink: FAILED") && said(&out).contains("id"), "{out:?}");
}

#[test]
fn settings_of_an_object_store_are_checked_offline() {
    for (sink, expected) in [
        ("{path: 'gs://lake/x'}", "expected a folder or s3://bucket/prefix"),
        ("{path: 's3://'}", "names no bucket"),
        ("{path: lake, store: {region: eu}}", "the path is a folder"),
        ("{path: 's3://lake/x', store: {regoin: eu}}", "region"),
        ("{path: 's3://lake/x', rotate: {bytes: 5GiB}}", "expected at most 4.0 GiB"),
        ("{path: 's3://lake/x', store: {secret_access_key: hunter2}}", "write it as ${VAR}"),
        ("{path: lake, open_partitions: 0}", "expected at least 1"),
    ] {
        let place = place(&FILES.replace("{path: lake, rotate: {rows: 2}}", sink));
        let out = sluice(&place, &["lint", "pipeline.yaml"]);
        assert_eq!(out.status.code(), Some(1), "{sink}: {out:?}");
        assert!(said(&out).contains(expected), "{sink}: {out:?}");
        assert!(!said(&out).contains("hunter2"), "{out:?}");
    }
}

#[test]
fn a_store_that_does_not_answer_is_told_by_check() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sink = format!(
        "{{path: 's3://lake/x', store: {{endpoint: 'http://{free}', region: eu, allow_http: true, \
         access_key_id: a, secret_access_key: '${{NO_SUCH_KEY:b}}'}}}}"
    );
    let place = place(&FILES.replace("{path: lake, rotate: {rows: 2}}", &sink));
    let out = sluice(&place, &["check", "pipeline.yaml"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(said(&out).contains("sink: FAILED") && said(&out).contains("s3://lake/x"), "{out:?}");
}

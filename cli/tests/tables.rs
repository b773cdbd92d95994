//! The sinks of tables as a user meets them: what a build without one says, a run and a second one, and a table that does
//! not fit.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const PIPELINE: &str = "
name: lake
source:
  file: {path: in.ndjson, format: ndjson}
decode: {format: json}
sink:
  delta: {path: table}
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

fn place(sink: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("pipeline.yaml"), PIPELINE.replace("delta:", &format!("{sink}:"))).unwrap();
    fs::write(place.path().join("in.ndjson"), "{\"id\": 1}\n{\"id\": 2}\n").unwrap();
    place
}

#[test]
fn a_build_without_tables_says_so_at_the_sink() {
    for (sink, is_there) in [("delta", cfg!(feature = "delta")), ("iceberg", cfg!(feature = "iceberg"))] {
        let place = place(sink);
        for command in ["lint", "check", "run"] {
            if !is_there {
                says(place.path(), &[command, "pipeline.yaml"], 1, "pipeline.yaml:7:");
                says(place.path(), &[command, "pipeline.yaml"], 1, &format!("--features {sink}"));
            }
        }
        assert!(!place.path().join("table").exists());
    }
}

#[cfg(feature = "iceberg")]
#[test]
fn an_iceberg_table_is_made_once_and_proven_and_a_second_run_finds_nothing() {
    let place = place("iceberg");
    says(place.path(), &["lint", "pipeline.yaml"], 0, "ok: 1 pipeline");
    says(place.path(), &["preview", "pipeline.yaml"], 0, "Iceberg table in table");
    says(place.path(), &["check", "pipeline.yaml"], 0, "one commit: exactly_once");
    assert!(!place.path().join("table/metadata").exists(), "a check writes no table");
    says(place.path(), &["run", "pipeline.yaml"], 0, "2 rows: 2 written");
    says(place.path(), &["run", "pipeline.yaml"], 0, "0 new rows");
    says(place.path(), &["audit", "table"], 0, "proven: 1 chain, each of 2 offsets has one fate");
    says(place.path(), &["compact", "table"], 1, "which an engine compacts");
    let hint = place.path().join("table/metadata/version-hint.text");
    assert_eq!(fs::read_to_string(&hint).unwrap(), "2");
    // Somebody takes the table back to before its rows.
    fs::remove_file(place.path().join("table/metadata/v2.metadata.json")).unwrap();
    says(place.path(), &["audit", "table"], 1, "no commit of the table adds");
}

#[test]
fn what_is_wrong_with_a_catalog_is_told_at_its_key() {
    let place = place("iceberg");
    let catalog = "catalog: {rest: {uri: 'localhost:8181', table: flights, token: abc}}";
    let pipeline = PIPELINE.replace("delta: {path: table}", &format!("iceberg: {{path: table, {catalog}}}"));
    fs::write(place.path().join("pipeline.yaml"), pipeline).unwrap();
    for expected in ["expected an address: http://", "expected a namespace and a name", "write it as ${VAR}"]
    {
        says(place.path(), &["lint", "pipeline.yaml"], 1, expected);
    }
}

#[cfg(feature = "delta")]
#[test]
fn a_table_is_made_once_and_proven_and_a_second_run_finds_nothing() {
    let place = place("delta");
    says(place.path(), &["lint", "pipeline.yaml"], 0, "ok: 1 pipeline");
    says(place.path(), &["preview", "pipeline.yaml"], 0, "Delta Lake table in table");
    says(place.path(), &["check", "pipeline.yaml"], 0, "one commit: exactly_once");
    assert!(!place.path().join("table/_delta_log").exists(), "a check writes no table");
    says(place.path(), &["run", "pipeline.yaml"], 0, "2 rows: 2 written");
    says(place.path(), &["run", "pipeline.yaml"], 0, "0 new rows");
    says(place.path(), &["audit", "table"], 0, "proven: 1 chain, each of 2 offsets has one fate");
    says(place.path(), &["compact", "table"], 0, "nothing to merge");
    assert_eq!(fs::read_dir(place.path().join("table/_delta_log")).unwrap().count(), 1);
    // Somebody takes the table back to before its rows.
    fs::remove_file(place.path().join("table/_delta_log/00000000000000000000.json")).unwrap();
    fs::write(place.path().join("table/_delta_log/00000000000000000000.json"), "{}\n").unwrap();
    says(place.path(), &["audit", "table"], 1, "no commit of the table adds");
}

#[cfg(feature = "delta")]
#[test]
fn a_table_that_does_not_fit_blocks_the_pipeline_with_the_column() {
    let place = place("delta");
    let log = place.path().join("table/_delta_log");
    fs::create_dir_all(&log).unwrap();
    let schema = r#"{\"type\":\"struct\",\"fields\":[{\"name\":\"id\",\"type\":\"integer\",\"nullable\":true,\"metadata\":{}}]}"#;
    let lines = format!(
        r#"{{"protocol":{{"minReaderVersion":1,"minWriterVersion":2}}}}
{{"metaData":{{"id":"1f2b","format":{{"provider":"parquet","options":{{}}}},"schemaString":"{schema}","partitionColumns":[],"configuration":{{}},"createdTime":1}}}}
"#
    );
    fs::write(log.join("00000000000000000000.json"), lines).unwrap();
    says(place.path(), &["run", "pipeline.yaml"], 1, "column `id` is int64 here and int32 in the table");
    assert_eq!(fs::read_dir(&log).unwrap().count(), 1);
}

const POSTGRES: &str = "name: rows
source:
  postgres: {url: 'postgres://h/db', table: read, column: id}
decode: {format: json, schema: {mode: strict, fields: {id: int64}}}
sink:
  postgres:
    url: 'postgres://h/db'
    password: \"${PG_TEST:x}\"
    table: written
    key: [id]
";

#[cfg(feature = "postgres")]
#[test]
fn settings_of_postgresql_are_told_with_line_and_column() {
    let place = tempfile::tempdir().unwrap();
    let told = |text: &str, code: i32, expected: &str| {
        fs::write(place.path().join("pipeline.yaml"), text).unwrap();
        says(place.path(), &["lint", "pipeline.yaml"], code, expected);
    };
    told(POSTGRES, 0, "ok: 1 pipeline");
    for (from, to, line, part) in [
        ("table: written", "table: read", 9, "what it writes, for ever"),
        ("key: [id]", "key: [nr]", 10, "rows have no column `nr`; they have id"),
        ("key: [id]", "keys: [id]", 10, "`key`"),
        ("table: written", "table: a.b.c", 9, "a schema and a table"),
        ("column: id", "column: id, batch: 0", 3, "expected 1 to 100000"),
        ("\"${PG_TEST:x}\"", "open", 8, "write it as ${VAR}"),
        ("password", "sslmode: full\n    password", 8, "verify-full"),
        ("sink:", "steps: [{route: \"'x'\"}]\nsink:", 5, "one table"),
    ] {
        assert!(POSTGRES.contains(from), "{from}");
        let text = POSTGRES.replacen(from, to, 1);
        told(&text, 1, part);
        told(&text, 1, &format!("pipeline.yaml:{line}:"));
    }
}

#[cfg(feature = "postgres")]
#[test]
fn a_server_that_is_not_there_is_told_with_its_place() {
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().to_str().unwrap().replace('/', "%2F");
    let text = POSTGRES.replace("//h/db", &format!("//{socket}:7/db"));
    fs::write(place.path().join("pipeline.yaml"), text).unwrap();
    let told = format!("{}/.s.PGSQL.7, database db: cannot connect as user postgres", place.path().display());
    says(place.path(), &["check", "pipeline.yaml"], 1, &told);
}

#[cfg(not(feature = "postgres"))]
#[test]
fn a_build_without_postgresql_says_so() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("pipeline.yaml"), POSTGRES).unwrap();
    says(place.path(), &["lint", "pipeline.yaml"], 1, "--features postgres");
}

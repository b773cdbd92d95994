//! Steps as a user meets them: each through `sluice run`, what lint says of them, and the tests of a file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: &str) -> &Self {
        fs::write(self.0.path().join(name), content).unwrap();
        self
    }

    fn sluice(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.args(arguments).current_dir(self.0.path()).env("KEY", "a secret");
        command.output().unwrap()
    }

    fn said(&self, arguments: &[&str], code: i32) -> String {
        let out = self.sluice(arguments);
        let said =
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert_eq!(out.status.code(), Some(code), "{said}");
        said
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let out = self.sluice(arguments);
        serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{out:?}"))
    }

    fn tail(&self, topic: &str) -> Vec<Value> {
        let said = self.said(&["topic", "tail", topic], 0);
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

const ROWS: &str = r#"{"id": 1, "origin": "EWR", "delay": 20, "legs": [{"to": "IAH"}, {"to": "MIA"}], "plane": {"tail": "N1", "seats": 100}}
{"id": 2, "origin": "JFK", "delay": -3, "legs": [], "plane": {"tail": "N2", "seats": null}}
{"id": 1, "origin": "EWR", "delay": 90, "legs": null, "plane": null}
{"id": 3, "origin": "LGA", "delay": null, "legs": [{"to": "BOS"}], "plane": {"tail": "N1", "seats": 50}}
"#;

const HEAD: &str = "
name: p
source: {file: {path: in.ndjson, format: ndjson, properties: [origin]}}
decode: {format: json}
delivery: at_least_once
sink: {stdout: {format: ndjson}}
";

/// The rows that steps make of [`ROWS`].
fn made(steps: &str) -> Vec<Value> {
    let place = Place::new();
    place.write("in.ndjson", ROWS).write("p.yaml", &format!("{HEAD}steps:\n{steps}"));
    let out = place.sluice(&["run", "p.yaml"]);
    assert!(out.status.success(), "{steps}: {out:?}");
    String::from_utf8(out.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_step_makes_of_rows_what_its_settings_say() {
    for (steps, expected) in [
        (
            "- where: \"$.delay > 15 AND origin = 'EWR'\"\n- select: {columns: [$.id, $.delay]}",
            vec![json!({"id": 1, "delay": 20}), json!({"id": 1, "delay": 90})],
        ),
        (
            "- where: \"$.id <> 1\"\n- select: {columns: [$.plane.*, origin, {late: '$.delay > 15'}]}",
            vec![
                json!({"tail": "N2", "seats": null, "origin": "JFK", "late": false}),
                json!({"tail": "N1", "seats": 50, "origin": "LGA", "late": null}),
            ],
        ),
        (
            "- select: {flatten: [plane], cast: {id: utf8}, set: {hours: '$.delay / 60', twice: 'CAST($.delay * 2 AS BIGINT)'}, drop: [legs, delay], rename: {plane_tail: tail, origin: from}}\n- where: \"$.id = '3' OR $.tail IS NULL\"",
            vec![
                json!({"id": "1", "from": "EWR", "tail": null, "plane_seats": null, "hours": 1.5, "twice": 180}),
                json!({"id": "3", "from": "LGA", "tail": "N1", "plane_seats": 50, "hours": null, "twice": null}),
            ],
        ),
        (
            "- mask: {redact: [$.plane.tail, $.delay]}\n- select: {drop: [legs]}\n- where: '$.id <= 2'",
            vec![
                json!({"id": 1, "origin": "EWR", "delay": null, "plane": {"tail": "***", "seats": 100}}),
                json!({"id": 2, "origin": "JFK", "delay": null, "plane": {"tail": "***", "seats": null}}),
                json!({"id": 1, "origin": "EWR", "delay": null, "plane": null}),
            ],
        ),
        (
            "- explode: {field: $.legs, as: leg}\n- select: {columns: [$.id, $.leg.to]}",
            vec![json!({"id": 1, "to": "IAH"}), json!({"id": 1, "to": "MIA"}), json!({"id": 3, "to": "BOS"})],
        ),
        (
            "- explode: {field: $.legs, keep_empty: true}\n- select: {flatten: [legs], drop: [plane, delay, origin]}",
            vec![
                json!({"id": 1, "legs_to": "IAH"}),
                json!({"id": 1, "legs_to": "MIA"}),
                json!({"id": 2, "legs_to": null}),
                json!({"id": 1, "legs_to": null}),
                json!({"id": 3, "legs_to": "BOS"}),
            ],
        ),
        (
            "- dedupe: {key: $.id}\n- select: {columns: [$.id, $.delay]}",
            vec![
                json!({"id": 1, "delay": 20}),
                json!({"id": 2, "delay": -3}),
                json!({"id": 3, "delay": null}),
            ],
        ),
        (
            "- dedupe: {key: [$.id, origin], rows: 1}\n- select: {columns: [$.id]}",
            vec![json!({"id": 1}), json!({"id": 2}), json!({"id": 1}), json!({"id": 3})],
        ),
        #[cfg(feature = "query")]
        (
            "- sql: |\n    SELECT id, upper(plane['tail']) AS tail, CASE WHEN delay > 15 THEN 'late' ELSE 'fine' END AS how\n    FROM batch WHERE id <> 2",
            vec![
                json!({"id": 1, "tail": "N1", "how": "late"}),
                json!({"id": 1, "tail": null, "how": "late"}),
                json!({"id": 3, "tail": "N1", "how": "fine"}),
            ],
        ),
    ] {
        assert_eq!(made(steps), expected, "{steps}");
    }
}

#[test]
fn hashes_are_keyed_and_equal_for_equal_values() {
    let rows = made(
        "- mask: {hash: [$.plane.tail, $.id], secret: '${KEY}'}\n- select: {columns: [$.id, $.plane.tail]}",
    );
    // printf N1 | openssl dgst -sha256 -hmac 'a secret'
    let tail = rows[0]["tail"].as_str().unwrap();
    assert_eq!(tail, "e368a88955d84dc3ea0c038d21c8023725d96eb954ccb55f36561744b7e081f5");
    assert_eq!(rows[0]["tail"], rows[3]["tail"]);
    assert_eq!(rows[0]["id"], rows[2]["id"]);
    assert_ne!(rows[0]["id"], rows[1]["id"]);
    assert_eq!(rows[2]["tail"], Value::Null);
}

#[test]
fn a_value_that_does_not_convert_is_a_record_error_and_its_dead_letter_holds_what_came() {
    let place = Place::new();
    place.write("in.ndjson", "{\"id\": \"1\", \"name\": \"Ann\"}\n{\"id\": \"x\", \"name\": \"Bob\"}\n");
    let config = "
name: p
source: {file: {path: in.ndjson, format: ndjson, properties: [name]}}
decode: {format: json}
steps:
  - mask: {redact: [$.name]}
  - headers: {set: {name: $.name}}
  - select: {cast: {id: int64}}
sink: {topic: {name: t}}
errors: {then: dead_letter, dead_letter: dlq}
";
    place.write("p.yaml", config);
    let summary = place.json(&["run", "p.yaml", "--json"]);
    assert_eq!(
        summary["pipelines"][0]["fates"],
        json!({"written": 1, "filtered": 0, "skipped": 0, "dead": 1, "absent": 0})
    );
    let [message] = &place.tail("t")[..] else { panic!("one message") };
    assert_eq!(message["body"], json!({"id": 1, "name": "***"}), "the body is made of the columns");
    assert_eq!(message["properties"], json!({"name": "***"}));
    let [dead] = &place.tail("dlq")[..] else { panic!("one dead letter") };
    assert_eq!(dead["body"], json!({"id": "x", "name": "Bob"}), "as it came");
    assert_eq!(dead["properties"]["name"], "Bob");
    assert_eq!(dead["properties"]["dead_reason"], "$.id: \"x\" is no Int64");
}

#[test]
fn a_topic_sink_gets_bodies_of_the_columns_properties_and_a_topic_for_each_row() {
    let place = Place::new();
    let config = "
name: p
source: {file: {path: in.ndjson, format: ndjson, properties: [origin, delay]}}
decode: {format: json}
steps:
  - explode: {field: $.legs, as: leg}
  - headers: {set: {to: $.leg.to, $tags: origin, $keys: '$.id'}, remove: [delay]}
  - select: {columns: [$.id, $.leg.*]}
  - route: \"'to-' || $.to\"
sink: {topic: {name: rest}}
errors: {then: skip}
---
name: reader
source: {topic: {name: to-IAH, until: caught_up}}
decode: {format: json}
delivery: at_least_once
sink: {stdout: {format: ndjson}}
";
    place.write("in.ndjson", &ROWS.replace("BOS", "no topic / name")).write("p.yaml", config);
    let out = place.sluice(&["run", "p.yaml"]);
    assert_eq!(String::from_utf8_lossy(&out.stdout), "{\"id\":1,\"to\":\"IAH\"}\n", "{out:?}");
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(said.contains("p: 4 rows: 1 written, 2 filtered, 1 skipped"), "{said}");
    let [message] = &place.tail("to-MIA")[..] else { panic!("one message") };
    assert_eq!(message["properties"], json!({"origin": "EWR", "to": "MIA"}));
    assert_eq!((&message["tags"], &message["keys"]), (&json!("EWR"), &json!("1")));
    assert!(place.tail("rest").is_empty());
}

/// Files below a folder whose name ends so, by path.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn rows_of_one_record_go_to_several_files_and_the_audit_counts_the_record_once() {
    let place = Place::new();
    let config = "
name: p
source: {file: {path: in.ndjson, format: ndjson}}
decode: {format: json}
steps:
  - dedupe: {key: $.id}
  - explode: {field: $.legs, as: leg}
  - select: {set: {to: $.leg.to}, drop: [leg, plane]}
  - route: lower($.to)
sink: {parquet: {path: lake, partition: [$route, $.to]}}
";
    place.write("in.ndjson", ROWS).write("p.yaml", config);
    let said = place.said(&["run", "p.yaml"], 0);
    assert!(said.contains("p: 4 rows: 2 written, 1 filtered, 1 duplicates, 3 files (done)"), "{said}");
    let lake = place.0.path().join("lake");
    let folders: Vec<String> = files(&lake, ".parquet")
        .iter()
        .map(|path| path.parent().unwrap().strip_prefix(&lake).unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(folders, ["route=bos/to=BOS", "route=iah/to=IAH", "route=mia/to=MIA"]);
    let said = place.said(&["preview", "p.yaml"], 0);
    assert!(
        said.contains("looked at 4 rows: 2 pass as 3 rows, 1 filtered, 0 rejected, 1 duplicates"),
        "{said}"
    );
    let said = place.said(&["audit", "lake"], 0);
    assert!(said.contains("2 written, 1 filtered, 1 duplicates; 3 files with 3 rows"), "{said}");
    assert!(said.contains("each of 4 offsets has one fate"), "{said}");
    // A row that is gone is found, though its record has another.
    fs::remove_file(&files(&lake, ".parquet")[1]).unwrap();
    assert!(place.said(&["audit", "lake"], 1).contains("is missing with its 1 rows"));
    // A rerun has nothing to do, and reads its window again.
    assert!(place.said(&["run", "p.yaml"], 0).contains("0 new rows"));
}

#[test]
fn rows_of_properties_need_no_decoding() {
    let place = Place::new();
    let config = "
name: p
source: {file: {path: in.ndjson, format: ndjson, properties: [origin, delay]}}
steps:
  - select: {columns: [origin, {minutes: 'CAST(delay AS BIGINT)'}, $queue_offset]}
delivery: at_least_once
sink: {stdout: {format: ndjson}}
";
    place.write("in.ndjson", ROWS).write("p.yaml", config);
    let out = place.sluice(&["run", "p.yaml"]);
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(said.starts_with("{\"origin\":\"EWR\",\"minutes\":20,\"queue_offset\":0}\n"), "{said}");
    assert_eq!(said.lines().count(), 4);
}

/// A file with steps over known columns, a topic sink if `{topic}` is asked for.
fn lint(steps: &str) -> String {
    let place = Place::new();
    let (sink, steps) = match steps.strip_prefix("topic:") {
        Some(steps) => ("sink: {topic: {name: t}}", steps),
        None => ("sink: {parquet: {path: lake}}", steps),
    };
    let config = format!(
        "name: p\nsource: {{file: {{path: in.ndjson, format: ndjson}}}}\ndecode: {{format: json, schema: {{mode: declared, fields: {{id: int64, name: utf8, legs: list<utf8>, s: 'struct<a: int64>'}}}}}}\n{sink}\nsteps:\n{steps}\n"
    );
    place.write("p.yaml", &config);
    let out = place.sluice(&["lint", "p.yaml"]);
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn lint_names_the_place_and_the_way_out_of_each_mistake_in_a_step() {
    let mut missed = Vec::new();
    for (steps, expected) in [
        (
            "  - where: \"$.id > 'x'\"",
            "p.yaml:6:13: steps.[0].where: $.id is Int64, which compares with numbers only",
        ),
        (
            "  - select: {set: {x: \"1 + $.nmae\"}}",
            "p.yaml:6:28: steps.[0].select.set.x: there is no $.nmae; did you mean `$.name`?",
        ),
        (
            "  - select: {set: {x: \"1 + \"}}",
            "steps.[0].select.set.x: column 5: expected a name, a number or text, found the end",
        ),
        ("  - select: {columns: [$.id, \"$.id + 1\"]}", "what is computed needs a name"),
        ("  - select: {columns: [$.id, {x: $.id, y: $.id}]}", "expected one name with its expression"),
        (
            "  - select: {drop: [nmae]}",
            "steps.[0].select.drop: there is no column `nmae`; did you mean `name`?",
        ),
        (
            "  - select: {drop: [name]}\n  - where: $.name = 'x'",
            "steps.[1].where: there is no $.name; the columns here: id, legs, s",
        ),
        ("  - select: {cast: {id: int}}", "steps.[0].select.cast.id"),
        ("  - select: {cast: {legs: int64}}", "`legs` is List"),
        ("  - select: {flatten: [id]}", "`id` is Int64, expected a struct"),
        ("  - select: {rename: {id: name}}", "two columns are named `name`"),
        ("  - select: {drop: [id, name, legs, s]}", "it leaves no column"),
        ("  - select: {colums: []}", "unknown key `colums`; did you mean `columns`?"),
        ("  - mask: {hash: [$.name]}", "hashes need a key"),
        (
            "  - mask: {hash: [$.name], secret: open}",
            "p.yaml:6:36: steps.[0].mask.secret: the text of this file is kept in the target: write it as ${VAR}",
        ),
        (
            "  - mask: {redact: [name]}",
            "\"name\" is no field of the decoded body, which is written `$.field`",
        ),
        ("  - mask: {redact: [$.nmae]}", "there is no $.nmae; did you mean `$.name`?"),
        ("  - explode: {field: $.id}", "$.id is Int64, expected a list"),
        (
            "  - explode: {field: $.legs}\n  - dedupe: {key: $.id}",
            "steps.[1].dedupe: one record has many rows here",
        ),
        ("  - dedupe: {key: $.id, rows: 0}", "steps.[0].dedupe.rows: 0 rows, expected 1 to"),
        ("  - dedupe: {key: [$.id, $.nope]}", "p.yaml:6:26: steps.[0].dedupe.key.[1]: there is no $.nope"),
        ("  - dedupe: {key: $.id, age: 5m}", "`age` goes by the time when a broker stored a row"),
        ("  - headers: {set: {x: $.id}}", "sinks `topic`, `kafka`, `amqp091` and `amqp10` write them"),
        ("topic:  - headers: {set: {x: $.legs}}", "`$.legs` is List"),
        ("topic:  - headers: {set: {$topic: $.name}}", "only $tags and $keys are set"),
        ("topic:  - headers: {set: {x: \"'a'\"}, remove: [x]}", "`x` is set, too"),
        ("  - route: $.name", "add it to its `partition`"),
        ("topic:  - route: $.nmae", "did you mean `$.name`?"),
        ("  - wher: x", "unknown name `wher`"),
        #[cfg(feature = "query")]
        ("  - sql: SELECT count(*) FROM", "steps.[0].sql"),
    ] {
        let said = lint(steps);
        if !said.contains(expected) {
            missed.push(format!("{steps}\n{expected}\n{said}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    assert!(
        lint("  - select: {columns: ['$.*', {n: 'upper($.name)'}]}\n  - where: \"$.n LIKE 'A%'\"")
            .starts_with("ok")
    );
}

#[cfg(feature = "query")]
#[test]
fn a_statement_that_does_not_fit_the_columns_is_told_before_anything_is_written() {
    for (sql, expected) in [
        ("SELECT count(*) AS c FROM batch", "steps.[0].sql: an aggregate or a GROUP BY is no part of a step"),
        ("SELECT nope FROM batch", "nope"),
        ("SELECT random() AS r FROM batch", "`random` has another value at another time"),
    ] {
        let place = Place::new();
        place.write("in.ndjson", ROWS).write("p.yaml", &format!("{HEAD}steps:\n- sql: {sql}\n"));
        let said = place.said(&["run", "p.yaml"], 1);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn the_tests_of_a_file_are_run_and_a_difference_is_shown() {
    let place = Place::new();
    let config = "
name: p
source: {topic: {name: t}}
where: \"origin = 'EWR'\"
decode: {format: json, schema: {mode: declared, fields: {id: int64}}}
steps: [{select: {set: {twice: $.id * 2}}}]
sink: {parquet: {path: lake}}
tests:
  - given:
      - {properties: {origin: EWR}, body: '{\"id\": 1}'}
      - {properties: {origin: JFK}, body: '{\"id\": 2}'}
      - {properties: {origin: EWR}, body: '{\"id\": \"x\"}'}
    expect: [{id: 1, twice: 2.0}]
    expect_rejects: [\"$.id\"]
";
    place.write("p.yaml", config);
    assert_eq!(place.said(&["test", "p.yaml"], 0), "p: test 1: ok\nok: 1 test\n");
    let wrong = config
        .replace("[{id: 1, twice: 2.0}]", "[{id: 1, twice: 3, nope: 1}, {id: 5}]")
        .replace("[\"$.id\"]", "[]");
    place.write("p.yaml", &wrong);
    let said = place.said(&["test", "p.yaml"], 1);
    for line in [
        "p: test 1: FAILED",
        "  row 0: twice: expected 3, got 2",
        "  row 0: nope: expected 1, and there is no such column (there are: ",
        "  row 1: expected {\"id\":5}, and there is no such row",
        "  reject 0: not expected: queue offset 2: $.id: ",
        "1 of 1 test failed",
    ] {
        assert!(said.contains(line), "{said} lacks {line}");
    }
    let document = place.json(&["test", "p.yaml", "--json"]);
    assert_eq!((&document["ok"], &document["tests"][0]["test"]), (&json!(false), &json!(1)));
    assert_eq!(document["tests"][0]["differences"].as_array().unwrap().len(), 4);
    place.write("p.yaml", config.split("tests:").next().unwrap());
    assert!(place.said(&["test", "p.yaml"], 1).contains("nothing to test"));
}

#[cfg(not(feature = "query"))]
#[test]
fn a_program_without_sql_says_so() {
    let said = lint("  - sql: SELECT id FROM batch");
    assert!(said.contains("steps.[0].sql: this program was built without DataFusion"), "{said}");
}

#[cfg(feature = "query")]
#[test]
fn the_examples_pass_lint_and_their_own_tests_and_the_one_of_every_step_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let place = Place::new();
    let examples: Vec<PathBuf> = files(&root.join("examples"), ".yaml")
        .into_iter()
        .filter(|path| !path.ends_with("broker.yaml") && !path.ends_with("compose.yaml"))
        .filter(|path| cfg!(feature = "iceberg") || !path.ends_with("flights-to-iceberg.yaml"))
        .collect();
    let names: Vec<&str> = examples.iter().map(|path| path.to_str().unwrap()).collect();
    place.said(&[&["lint"], &names[..]].concat(), 0);
    let tested = place.json(&[&["test", "--json"], &names[..]].concat());
    assert_eq!(tested["ok"], true, "{tested}");

    let text = fs::read_to_string(root.join("examples/steps.yaml")).unwrap();
    let text = text.replace("path: examples/", &format!("path: {}/examples/", root.display()));
    place.write("steps.yaml", &text);
    let summary = place.json(&["run", "steps.yaml", "--json"]);
    let fates: BTreeMap<&str, &Value> = summary["pipelines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), &one["fates"]))
        .collect();
    assert_eq!(
        fates["by-airport"],
        &json!({"written": 26483, "filtered": 521, "skipped": 0, "dead": 0, "absent": 0})
    );
    assert_eq!(fates["delays"]["dead"], 0);
    let audit = place.json(&["audit", "lake/delays", "--json"]);
    assert_eq!(audit["proven"], true, "{audit}");
    assert!(audit["chains"][0]["rows"].as_u64() > fates["delays"]["written"].as_u64());
}

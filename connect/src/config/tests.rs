use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use super::*;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Source {
    File(FileSettings),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSettings {
    path: String,
    #[serde(default)]
    rows: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Sink {
    Parquet(ParquetSettings),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ParquetSettings {
    path: String,
    #[serde(default)]
    rotate: Rotate,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    #[serde(default)]
    age: Option<Span>,
    #[serde(default)]
    #[expect(dead_code, reason = "only its key matters here")]
    rows: Option<u64>,
    #[serde(default, deserialize_with = "size")]
    #[expect(dead_code, reason = "only its key matters here")]
    bytes: ByteSize,
}

fn parsed(file: &str) -> Result<Vec<Parsed<Source, Sink>>, Vec<String>> {
    let env = |name: &str| match name {
        "ROWS" => Some("7".to_owned()),
        "SECRET" => Some("hunter2 (".to_owned()),
        _ => None,
    };
    let lookup = vars::lookup(env, |_| Err(std::io::ErrorKind::NotFound.into()));
    parse(file, &lookup).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn check(file: &str, expected: &[&str]) {
    let problems = parsed(file).expect_err("problems");
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.contains(expected), "{problem:?} lacks {expected:?}");
    }
}

const GOOD: &str =
    "name: a\nsource:\n  file: {path: x, rows: 3}\nsink:\n  parquet: {path: y, rotate: {age: 5m}}\n";

#[test]
fn a_good_document_is_read_with_its_defaults() {
    let all = parsed(&format!("{GOOD}---\n{}", GOOD.replace("name: a", "name: b"))).unwrap();
    assert_eq!(all.len(), 2);
    let document = &all[1].document;
    assert_eq!(document.name.as_str(), "b");
    assert_eq!(document.delivery, Delivery::ExactlyOnce);
    assert_eq!(document.errors.then, Then::Stop);
    let Sink::Parquet(parquet) = &document.sink;
    assert_eq!(parquet.rotate.age, Some(Span(Duration::from_mins(5))));
    assert_eq!(parquet.path, "y");
    let Source::File(file) = &document.source;
    assert_eq!((file.path.as_str(), file.rows), ("x", Some(3)));
}

#[test]
fn every_unknown_and_doubled_key_is_told_with_its_place_and_the_nearest_known_one() {
    check(
        "name: a\nsorce: 1\nsource:\n  file: {path: x, pth: y, path: z}\nsink:\n  parquet:\n    path: y\n    rotate: {ages: 5m}\n",
        &[
            "2:1: unknown key `sorce`; did you mean `source`?",
            "4:19: source.file: unknown key `pth`; did you mean `path`?",
            "4:27: source.file: key `path` stands here a second time",
            "8:14: sink.parquet.rotate: unknown key `ages`; did you mean `age`?",
        ],
    );
}

#[test]
fn the_first_type_error_of_each_mapping_is_told() {
    check(
        "name: a\nsource:\n  file: {path: 5, rows: many}\nsink:\n  parquet:\n    path: y\n    rotate: {age: soon}\nerrors: {then: ignore}\n",
        &[
            "3:16: source.file.path: expected text, got the number 5",
            "3:25: source.file.rows: expected a whole number from 0, got the text \"many\"",
            "7:19: sink.parquet.rotate.age: \"soon\" is no length of time",
            "8:16: errors.then: unknown name `ignore`",
        ],
    );
}

#[test]
fn missing_keys_and_unknown_kinds_are_told() {
    check(
        "name: a\nsource:\n  fil: {path: x}\nsink:\n  parquet: {}\n",
        &[
            "3:3: source: unknown name `fil`, expected one of: file; did you mean `file`?",
            "5:12: sink.parquet: key `path` is missing",
        ],
    );
    check("name: a\n", &["1:1: key `source` is missing"]);
    check("- a\n", &["1:1: expected a mapping, got a list"]);
    check("# nothing\n", &["no pipeline"]);
}

#[test]
fn a_bad_expression_is_told_with_its_column() {
    check(&GOOD.replace("sink:", "where: \"a IN (\"\nsink:"), &["4:8: where: column"]);
    check(
        &GOOD.replace("sink:", "where: \"$.a = 1 AND $topik = 'x'\"\nsink:"),
        &["no envelope column `$topik`; did you mean `$topic`?", "`$.a` is a field of the decoded body"],
    );
}

#[test]
fn contradictions_are_told() {
    check(&format!("{GOOD}errors: {{then: dead_letter}}\n"), &["needs the topic"]);
    check(&format!("{GOOD}errors: {{dead_letter: dlq}}\n"), &["needs `then: dead_letter`"]);
    check(&format!("{GOOD}decode: {{format: json, schema: {{mode: declared}}}}\n"), &["needs `fields`"]);
    check(&format!("{GOOD}---\n{GOOD}"), &["7:7: name: pipeline `a` stands in this file twice"]);
}

#[test]
fn variables_are_typed_after_expansion_and_never_shown() {
    let all = parsed(&GOOD.replace("rows: 3", "rows: \"${ROWS}\"")).unwrap();
    let Source::File(file) = &all[0].document.source;
    assert_eq!(file.rows, Some(7));
    check(&GOOD.replace("rows: 3", "rows: \"${NOWHERE:hidden}\""), &["got the value of a variable"]);
    check(&GOOD.replace("path: x", "path: \"${NOWHERE}\""), &["variable `NOWHERE` is not set"]);
}

#[test]
fn every_key_that_chooses_no_variant_is_told_and_the_first_known_one_is_read() {
    check(
        "name: a\nsource:\n  fil: {}\n  file: {pth: x, path: x}\n  file: {path: y}\nsink:\n  parquet: {path: y, rows: 1}\n",
        &[
            "3:3: source: unknown name `fil`, expected one of: file; did you mean `file`?",
            "4:10: source.file: unknown key `pth`; did you mean `path`?",
            "5:3: source: key `file` stands here a second time",
            "7:22: sink.parquet: unknown key `rows`",
        ],
    );
    check(&format!("{GOOD}steps: [{{where: a = 1, were: b}}]\n"), &["6:24: steps.[0]: unknown name `were`"]);
    check(
        "name: a\nsource: {}\nsink: 5\n",
        &["2:9: source: expected one key", "3:7: sink: expected one key"],
    );
}

#[test]
fn types_of_expressions_are_checked_at_their_place_in_the_value() {
    let with = |text: &str| GOOD.replace("sink:", &format!("{text}\nsink:"));
    check(&with("where: \"a = 1 AND $queue_offset = 'abc'\""), &["4:19: where: $queue_offset is Int64"]);
    check(&with("where: $body = 'x'"), &["4:8: where: $body is BinaryView"]);
    check(&with("where: >-\n  a = 1 AND\n  $body = 'x'"), &["where: column 11: $body is BinaryView"]);
    let declared =
        "decode: {format: json, schema: {mode: declared, fields: {id: int64, name: utf8}}}\nwhere: a = 1";
    check(
        &with(&format!("{declared}\nsteps: [{{where: $.id = 1}}, {{where: $.nam = 'x'}}]")),
        &["6:36: steps.[1].where: there is no $.nam; did you mean `$.name`?"],
    );
    check(&with(&format!("{declared} OR $.id = 'x'")), &["5:17: where: $.id is Int64, which compares"]);
    parsed(&with(&format!("{declared} OR $.id = 5"))).unwrap();
    parsed(&with("decode: {format: json}\nwhere: $.nope = 1")).unwrap();
}

#[test]
fn properties_that_a_source_never_gives_are_told_with_what_was_meant() {
    let with = |text: &str| GOOD.replace("sink:", &format!("{text}\nsink:"));
    let told = |text: &str| {
        let known = ["origin".to_owned(), "dest".to_owned()];
        let all = parsed(&with(text)).unwrap();
        let problems = all[0].unknown_properties(&known);
        problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(told("where: origin = 'EWR'"), [] as [&str; 0]);
    let expected = "4:8: where: the source gives no property `orgin`; did you mean `origin`?";
    assert_eq!(told("where: orgin = 'EWR'"), [expected]);
    let declared = "decode: {format: json, schema: {mode: declared, fields: {id: int64}}}";
    let expected = "5:17: steps.[0].where: the source gives no property `id`; write `$.id` for the field of the decoded body";
    assert_eq!(told(&format!("{declared}\nsteps: [{{where: id = 1}}]")), [expected]);
    assert!(told("where: topic = 'x'")[0].ends_with("write `$topic` for the envelope column"));
    assert!(told("where: carrier = 'x'")[0].ends_with("it gives: origin, dest"));
}

#[test]
fn what_came_from_a_variable_is_never_shown() {
    for file in [
        GOOD.replace("name: a", "name: \"${SECRET}\""),
        GOOD.replace("5m", "\"${SECRET}\""),
        GOOD.replace("age: 5m", "bytes: \"${SECRET}\""),
        GOOD.replace("rows: 3", "rows: \"${SECRET}\""),
        format!("{GOOD}where: \"${{SECRET}}\"\n"),
        format!("{GOOD}where: \"$nope = '${{SECRET}}'\"\n"),
        format!("{GOOD}where: \"$body = '${{SECRET}}'\"\n"),
        format!("{GOOD}errors: {{then: \"${{SECRET}}\"}}\n"),
        format!("{GOOD}errors: {{then: dead_letter, dead_letter: \"${{SECRET}}\"}}\n"),
        format!(
            "{GOOD}decode: {{format: json, schema: {{mode: declared, fields: {{a: \"${{SECRET}}\"}}}}}}\n"
        ),
    ] {
        let told = parsed(&file).expect_err(&file);
        assert!(told.iter().all(|t| t.contains("got the value of a variable")), "{told:?}");
        assert!(!told.concat().contains("hunter2"), "{told:?}");
    }
}

#[test]
fn wrong_values_are_told_at_their_key_with_what_was_expected() {
    check(
        &GOOD.replace("age: 5m", "bytes: 12XB"),
        &["expected a size such as 128MiB, got the text \"12XB\""],
    );
    check(
        &format!("{GOOD}limits: {{in_flight: -1}}\n"),
        &["6:21: limits.in_flight: expected a size such as 128MiB, got the number -1"],
    );
    check(
        &format!(
            "{GOOD}decode: {{format: json, schema: {{mode: declared, fields: {{a: int64, b: in64}}}}}}\n"
        ),
        &["6:71: decode.schema.fields.b: field `b`: type `in64` is not known; did you mean `int64`?"],
    );
    check(&GOOD.replace("rows: 3", "rows: \"${NOWHERE}\""), &["3:25: variable `NOWHERE` is not set"]);
    check(
        &format!("{GOOD}errors: {{then: dead_letter, dead_letter: \"${{NOWHERE}}\"}}\n"),
        &["variable `NOWHERE` is not set"],
    );
    check(
        &format!("{GOOD}--- {{name: b, sourc: 1}}\n"),
        &["6:5: key `source` is missing", "6:15: unknown key `sourc`"],
    );
}

#[test]
fn each_body_format_is_read_with_what_it_needs() {
    const SCHEMA: &str = r#"'{"type": "record", "name": "R", "fields": [{"name": "id", "type": "long"}]}'"#;
    let with = |decode: &str| format!("{GOOD}decode: {}\n", decode.replace("SCHEMA", SCHEMA));
    for good in [
        "{format: raw}",
        "{format: json, schema: {mode: strict, fields: {id: int64}}, on_new_field: fail}",
        "{format: json, schema: {mode: relaxed, fields: {id: int64}}, on_new_field: add}",
        "{format: {csv: {header: [id, text], delimiter: \";\", nulls: [NA]}}}",
        "{format: {csv: {header: [id, text]}}, schema: {mode: relaxed, fields: {id: int64}}}",
        "{format: {avro: {schema: SCHEMA}}}",
        "{format: {avro: {schema: SCHEMA, prefix: confluent}}, schema: {mode: relaxed}}",
        "{format: {avro: {registry: {url: https://registry.example/api, user: me, password: \"${SECRET}\"}}}, on_new_field: add}",
        "{format: {avro: {schema: SCHEMA, registry: {url: \"http://localhost:8081\"}}}}",
        "{format: {protobuf: {descriptors: a.desc, message: shop.Order, prefix: confluent}}}",
    ] {
        parsed(&with(good)).unwrap_or_else(|problems| panic!("{good}: {problems:?}"));
    }
    for (bad, expected) in [
        ("{format: avro}", "decode.format"),
        ("{format: {avro: {}}}", "decode.format.avro: Avro needs a schema"),
        ("{format: {avro: {schema: '{}'}}}", "decode.format.avro.schema: no Avro schema"),
        (
            "{format: {avro: {registry: {url: ftp://x}}}}",
            "decode.format.avro.registry.url: no URL of a schema registry",
        ),
        ("{format: {avro: {registry: {url: \"http://10.0.0.1:8081\"}}}}", "sent in the clear"),
        ("{format: {avro: {registry: {url: \"http://127.0.0.1.evil.example\"}}}}", "sent in the clear"),
        ("{format: {avro: {registry: {url: https://me:secret@x}}}}", "`user` and `password`"),
        ("{format: {avro: {registry: {url: https://x}, prefix: confluent}}}", "leave it out"),
        (
            "{format: {avro: {registry: {url: https://x}}}, schema: {mode: strict}}",
            "decode.schema.mode: the columns must be known",
        ),
        ("{format: {avro: {schema: SCHEMA}}, schema: {fields: {id: int64}}}", "`fields` is for JSON and CSV"),
        ("{format: raw, schema: {freeze_after_rows: 5}}", "nothing is inferred"),
        ("{format: raw, on_new_field: ignore}", "raw bodies have one column"),
        ("{format: json, schema: {mode: relaxed}}", "`mode: relaxed` needs `fields`"),
        (
            "{format: json, schema: {mode: strict, fields: {id: int64}}, on_new_field: add}",
            "write `mode: relaxed`",
        ),
        ("{format: json, on_new_field: dead_letter}", "decode.on_new_field: needs a dead-letter topic"),
        ("{format: json, on_new_field: ad}", "decode.on_new_field"),
        ("{format: {csv: {header: [a, a]}}}", "`a` stands twice"),
        ("{format: {csv: {header: [a], delimiter: \"::\"}}}", "decode.format.csv.delimiter"),
        (
            "{format: {csv: {header: [a, b]}}, schema: {mode: strict, fields: {a: int64}}}",
            "the header names `b`",
        ),
        (
            "{format: {csv: {header: [a]}}, schema: {mode: relaxed, fields: {x: int64}}}",
            "the header does not name `x`",
        ),
    ] {
        check(&with(bad), &[expected]);
    }
}

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
}

fn parsed(file: &str) -> Result<Vec<Parsed<Source, Sink>>, Vec<String>> {
    let env = |name: &str| (name == "ROWS").then(|| "7".to_owned());
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

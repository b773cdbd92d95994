//! What a person is told of a filter.

use arrow::datatypes::DataType;
use sluice_filters::{Dialect, Filter, Name, Scalar};

fn tree(text: &str, dialect: Dialect) -> Vec<String> {
    let explain = Filter::parse(text, dialect).expect(text).explain(&|_| None);
    explain.tree.iter().map(|line| format!("{}{}", "  ".repeat(line.depth), line.text)).collect()
}

/// The places of warnings.
fn warnings(text: &str, dialect: Dialect) -> Vec<String> {
    let explain = Filter::parse(text, dialect).expect(text).explain(&|_| None);
    explain.warnings.iter().map(|warning| text[warning.span.clone()].to_owned()).collect()
}

#[test]
fn the_tree_is_told_from_the_outside_in() {
    let expected = ["AND", "  a = 1", "  NOT", "    OR", "      b IN ('x')", "      $topic = 't'"];
    assert_eq!(tree("a = 1 AND NOT (b IN ('x') OR $topic = 't')", Dialect::Sluice), expected);
    assert_eq!(tree("NOT a = 'x'", Dialect::RocketMq), ["NOT a = 'x'"]);
}

#[test]
fn types_say_what_a_text_counts_as() {
    let filter = Filter::parse("a > 1 AND a = 'x' AND b AND $queue_offset > 5", Dialect::Sluice).unwrap();
    let explain = filter.explain(&|name| matches!(name, Name::Envelope(_)).then_some(DataType::Int64));
    let types: Vec<String> = explain.types.iter().map(|(name, found)| format!("{name}: {found}")).collect();
    let expected = [
        "a: text, which counts as a number",
        "b: text, which counts as TRUE or FALSE",
        "$queue_offset: Int64",
    ];
    assert_eq!(types, expected);
    let filter = Filter::parse("a > 1 AND b > 5000000000", Dialect::RocketMq).unwrap();
    let types: Vec<String> = filter.explain(&|_| None).types.into_iter().map(|(_, found)| found).collect();
    assert_eq!(types[0], "text, which counts as a whole number of 32 bits");
    assert_eq!(types[1], "text, which counts as a whole number of 64 bits");
}

#[test]
fn what_can_never_match_is_a_warning() {
    for (text, places) in [
        ("a = 1 AND a = 2", &["a = 2", "a = 1 AND a = 2"][..]),
        ("a > 5 AND a < 3", &["a < 3", "a > 5 AND a < 3"]),
        ("a > 5 AND a <= 5", &["a <= 5", "a > 5 AND a <= 5"]),
        (
            "a = 'x' AND b = 1 AND a IN ('y', 'z')",
            &["a IN ('y', 'z')", "a = 'x' AND b = 1 AND a IN ('y', 'z')"],
        ),
        ("a IS NULL AND a = 1", &["a = 1", "a IS NULL AND a = 1"]),
        ("c = 1 OR a = 1 AND a = 2", &["a = 2"]),
        ("a = NULL", &["a = NULL"]),
        ("1 = 2", &["1 = 2"]),
        ("a > 5 AND a < 6 AND a <> 5.5", &[]),
        ("a >= 5 AND a <= 5 AND b = 'x' AND c = 'y'", &[]),
        ("a < '10'", &["a < '10'"]),
        ("a < 'b'", &[]),
    ] {
        let found = warnings(text, Dialect::Sluice);
        if text == "a = NULL" {
            assert_eq!(found.first().map(String::as_str), Some("a = NULL"));
        } else {
            assert_eq!(found, places, "{text}");
        }
    }
    assert_eq!(warnings("a LIKE 'x%'", Dialect::RocketMq), ["a", "a LIKE 'x%'"]);
    assert_eq!(warnings("a = 1 AND 2 = a", Dialect::RocketMq), ["2 = a", "a = 1 AND 2 = a"]);
}

#[test]
fn a_trace_tells_the_value_of_each_part() {
    let filter =
        Filter::parse("amount > 500 AND (region = 'EU' OR $topic = 't') AND c IS NULL", Dialect::Sluice)
            .unwrap();
    let lines = filter.trace(b"amount\x01700\x02region\x01US\x02", &|_| Scalar::Text("t"));
    let lines: Vec<String> = lines
        .iter()
        .map(|line| {
            let (verdict, seen) = line.answer.as_ref().unwrap();
            format!("{verdict:?} {} | {seen}", line.text)
        })
        .collect();
    let expected = [
        "True AND | ",
        "True amount > 500 | amount = `700`",
        "True OR | ",
        "False region = 'EU' | region = `US`",
        "True $topic = 't' | $topic = `t`",
        "True c IS NULL | c is missing",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn an_error_is_shown_with_a_caret_under_its_place() {
    let render = |text: &str| Filter::parse(text, Dialect::Sluice).unwrap_err().render();
    assert_eq!(
        render("a = 1 AND\n\tgröße == 'x'"),
        " größe == 'x'\n       ^^\noperator `==` is not part of this dialect; equality is written ="
    );
    assert_eq!(render("a ="), "a =\n   ^\nexpected a name, a number or text, found the end");
    assert_eq!(render(""), "\n^\nexpected a name, a number or text, found the end");
    let long = render(&format!("a = '{}' foo", "x".repeat(500)));
    assert!(long.lines().all(|line| line.chars().count() <= 100), "{long}");
}

#[test]
fn a_part_of_or_that_never_matches_leaves_the_others() {
    let filter = Filter::parse("(a = 'x' OR c) AND b = 'y'", Dialect::RocketMq).unwrap();
    let warnings: Vec<_> =
        filter.explain(&|_| None).warnings.into_iter().map(|warning| warning.text).collect();
    assert_eq!(warnings, ["never TRUE: a property alone"]);
}

//! Dialect `rocketmq` against answers of its own engine (5.3.3), a case a line, by row and by column.
//!
//! `data/rocketmq-cases.jsonl.gz` holds `expr`, `props`, `expect` (`true`, `false`, `null`, `parse_error`),
//! `group`, and `raises` where the engine's evaluation failed.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringViewArray};
use flate2::read::GzDecoder;
use serde_json::Value;
use sluice_filters::{Dialect, Filter, Name, Quirk, Verdict};

struct Case {
    expression: String,
    properties: BTreeMap<String, String>,
    /// `None` if the engine refuses the expression.
    expected: Option<Verdict>,
    group: String,
}

fn cases() -> Vec<Case> {
    let mut text = String::new();
    let packed = &include_bytes!("data/rocketmq-cases.jsonl.gz")[..];
    GzDecoder::new(packed).read_to_string(&mut text).expect("the data holds");
    text.lines()
        .map(|line| {
            let case: Value = serde_json::from_str(line).expect("the data holds");
            let string = |key: &str| case[key].as_str().expect("the data holds").to_owned();
            let properties = case["props"].as_object().expect("the data holds");
            Case {
                expression: string("expr"),
                properties: properties
                    .iter()
                    .map(|(name, value)| (name.clone(), value.as_str().expect("the data holds").to_owned()))
                    .collect(),
                expected: match (string("expect").as_str(), case["raises"].as_bool()) {
                    ("true", None) => Some(Verdict::True),
                    ("false", None) => Some(Verdict::False),
                    ("null", None) => Some(Verdict::Unknown),
                    ("null", Some(true)) => Some(Verdict::Failed),
                    ("parse_error", None) => None,
                    other => panic!("{other:?}"),
                },
                group: string("group"),
            }
        })
        .collect()
}

/// The verdict by column, for the second of three rows; the others have no properties.
fn by_column(filter: &Filter, properties: &BTreeMap<String, String>) -> Verdict {
    let resolve = |name: &Name| {
        let Name::Property(name) = name else { panic!("{name} is no property") };
        let value = properties.get(name)?;
        Some(Arc::new(StringViewArray::from(vec![None, Some(value.as_str()), None])) as ArrayRef)
    };
    let verdicts = filter.verdicts(3, &resolve).expect("the data holds");
    let empty = filter.matches(b"");
    assert_eq!((verdicts[0], verdicts[2]), (empty, empty), "{}", filter.text());
    let known = filter.columns(3, &resolve).expect("the data holds");
    let mask = filter.mask(3, &resolve).expect("the data holds");
    for (row, verdict) in verdicts.iter().enumerate() {
        assert_eq!(known.iter().nth(row).expect("the data holds"), verdict.known());
        assert_eq!(mask.value(row), verdict.passes());
    }
    verdicts[1]
}

/// The verdict over encoded properties, if they can be encoded as they are.
fn by_encoded(filter: &Filter, properties: &BTreeMap<String, String>) -> Option<Verdict> {
    let mut encoded = Vec::new();
    for (name, value) in properties {
        if value.is_empty() || value.bytes().any(|byte| byte == 2) {
            return None;
        }
        encoded.extend_from_slice(name.as_bytes());
        encoded.push(1);
        encoded.extend_from_slice(value.as_bytes());
        encoded.push(2);
    }
    let whole = filter.matches(&encoded);
    encoded.pop();
    assert_eq!(filter.matches(&encoded), whole, "the last separator may be missing");
    Some(whole)
}

#[test]
fn every_case_has_the_engines_answer() {
    let cases = cases();
    let mut wrong: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let (mut refused, mut encoded) = (0, 0);
    for case in &cases {
        let parsed = Filter::parse(&case.expression, Dialect::RocketMq);
        let found = match &parsed {
            Ok(filter) => {
                let row = filter.row(&|name| case.properties.get(name).map(String::as_str));
                assert_eq!(row, case.expected.and_then(Verdict::known), "{}", case.expression);
                if let Some(verdict) = by_encoded(filter, &case.properties) {
                    encoded += 1;
                    assert_eq!(Some(verdict), case.expected, "{} encoded", case.expression);
                }
                Some(by_column(filter, &case.properties))
            }
            Err(error) => {
                assert!(case.expression.get(error.span.clone()).is_some(), "{}", case.expression);
                refused += 1;
                None
            }
        };
        if found != case.expected {
            let shown = format!(
                "{:?} with {:?}: {found:?} instead of {:?} {}",
                case.expression,
                case.properties,
                case.expected,
                parsed.err().map(|error| error.to_string()).unwrap_or_default()
            );
            wrong.entry(&case.group).or_default().push(shown);
        }
    }
    let count: usize = wrong.values().map(Vec::len).sum();
    println!("{} cases, {refused} refused, {encoded} encoded too, {count} wrong", cases.len());
    for (group, wrong) in &wrong {
        println!("{group}: {}\n  {}", wrong.len(), wrong[..wrong.len().min(5)].join("\n  "));
    }
    assert_eq!(count, 0);
}

/// Expression, and where it is read otherwise than SQL reads it.
#[rustfmt::skip]
const NOTICES: &[(&str, &[(Quirk, &str)])] = &[
    ("a = 'x'", &[]),
    ("a <> 'x' AND b IN ('y', 'z') OR c IS NULL", &[]),
    ("a = 1 foo bar #", &[(Quirk::WholeNumber, "a = 1"), (Quirk::Ignored, "foo bar #")]),
    ("a LIKE 'x%'", &[(Quirk::BareProperty, "a"), (Quirk::Ignored, "LIKE 'x%'")]),
    ("order-id > 5", &[(Quirk::BareProperty, "order"), (Quirk::Ignored, "-id > 5")]),
    ("NOT a = 'x'", &[(Quirk::TightNot, "NOT"), (Quirk::TruthNumber, "NOT a = 'x'"), (Quirk::Chain, "NOT a = 'x'"), (Quirk::BareProperty, "a")]),
    ("NOT a IS NULL", &[(Quirk::TightNot, "NOT"), (Quirk::BareProperty, "a")]),
    ("NOT (a IN ('x'))", &[]),
    ("a = b", &[(Quirk::MissingEqual, "a = b")]),
    ("1 <> a", &[(Quirk::MissingEqual, "1 <> a"), (Quirk::WholeNumber, "1 <> a")]),
    ("'x' = a", &[]),
    ("NOT ('x' = a)", &[(Quirk::MissingEqual, "'x' = a")]),
    ("a > 5.5", &[(Quirk::Double, "a > 5.5")]),
    ("a BETWEEN -1 AND 5", &[(Quirk::WholeNumber, "a BETWEEN -1"), (Quirk::WholeNumber, "a BETWEEN -1 AND 5")]),
    ("a = 007", &[(Quirk::WholeNumber, "a = 0"), (Quirk::Ignored, "07")]),
    ("a = '1' -- note", &[(Quirk::Ignored, "-- note")]),
    ("a = --1", &[(Quirk::WholeNumber, "a = --1"), (Quirk::MinusMinus, "--1")]),
    ("a = FALSE", &[(Quirk::TruthText, "a = FALSE")]),
    ("TRUE = a", &[(Quirk::TruthText, "TRUE = a")]),
    ("a", &[(Quirk::BareProperty, "a")]),
    ("a CONTAINS 'x'", &[]),
    ("NOT (a CONTAINS 'x')", &[(Quirk::SearchMissing, "a CONTAINS 'x'")]),
    ("(a CONTAINS 'x') IS NULL", &[(Quirk::SearchMissing, "a CONTAINS 'x'")]),
    ("a STARTSWITH ''", &[(Quirk::EmptyPart, "a STARTSWITH ''")]),
    ("a > b", &[(Quirk::PropertyOrder, "a > b")]),
    ("-a < 0", &[(Quirk::Minus, "-a")]),
    ("a = 'x' = TRUE", &[(Quirk::Chain, "a = 'x' = TRUE")]),
    ("a IS NULL > 1", &[(Quirk::Ignored, "> 1")]),
    ("1 = TRUE", &[(Quirk::TruthNumber, "1 = TRUE")]),
    ("a = 'x' 'y'", &[(Quirk::Ignored, "'y'")]),
    ("9007199254740993 = 9007199254740992.0", &[(Quirk::Rounded, "9007199254740993 = 9007199254740992.0")]),
];

#[test]
fn each_quirk_has_a_notice_at_its_place() {
    let mut wrong = Vec::new();
    for (text, expected) in NOTICES {
        let filter = Filter::parse(text, Dialect::RocketMq).unwrap();
        let found: Vec<_> =
            filter.notices().iter().map(|notice| (notice.quirk, &text[notice.span.clone()])).collect();
        if found != *expected {
            wrong.push(format!("{text}\n  {found:?}\n  {expected:?}"));
        }
        assert!(filter.notices().iter().all(|notice| !notice.text.is_empty()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[rustfmt::skip]
const ERRORS: &[(&str, &str)] = &[
    ("a > '5'", "column 5: an order of text is not part of this dialect; only numbers have an order"),
    ("NOT a > 1", "column 1: an order of a condition is not part of this dialect; NOT binds tighter than a comparison: write NOT (…)"),
    ("a IN (1, 2)", "column 7: expected text in single quotes (a list of RocketMQ holds no numbers), found `1`"),
    ("a = NULL", "column 5: a comparison with NULL is not part of this dialect; write IS NULL or IS NOT NULL"),
    ("a.b = 1", "column 2: `.` is not part of this dialect; names are ASCII letters, digits, _ and $"),
    ("a != 1", "column 3: `!` is not part of this dialect; write <>"),
    ("a > 0.0", "column 5: a zero with a point or exponent, `0.0`, is not part of this dialect; write 0"),
    ("a = 9223372036854775808", "column 5: number 9223372036854775808 is out of range"),
    ("a BETWEEN 5 AND 1", "column 11: BETWEEN with its bounds so is not part of this dialect; the lower bound comes first"),
    ("1", "column 1: `1` as a condition is not part of this dialect"),
    ("a = 1 NOT b", "column 11: expected CONTAINS, STARTSWITH, ENDSWITH, BETWEEN or IN after NOT, found `b`"),
    ("a = 1;", "column 6: `;` is not part of this dialect"),
    ("a = 'x", "column 5: a text that starts here has no end"),
    ("*", "column 1: `*` is not part of this dialect"),
    ("", "column 1: expected a name, a number or text, found the end"),
    ("(a = 1", "column 7: expected an operator, AND, OR or `)`, found the end"),
];

#[test]
fn each_refusal_says_why_and_where() {
    let mut wrong = Vec::new();
    for (text, expected) in ERRORS {
        let found = Filter::parse(text, Dialect::RocketMq).expect_err(text).to_string();
        if found != *expected {
            wrong.push(format!("{text}\n  {found}\n  {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn bytes_that_are_no_utf_8_count_as_the_replacement_character() {
    let verdict = |text: &str| {
        Filter::parse(text, Dialect::RocketMq).unwrap().matches(b"a\x01x\xffy\x02\xfe\x01z\x02b\x011")
    };
    assert_eq!(verdict("a = 'x\u{fffd}y' AND b = 1"), Verdict::True);
    assert_eq!(verdict("a IS NULL"), Verdict::False);
    assert_eq!(verdict("a = 1"), Verdict::Failed);
    let sluice = Filter::parse("a IS NULL AND b = 1", Dialect::Sluice).unwrap();
    assert_eq!(sluice.matches(b"a\x01x\xffy\x02b\x011"), Verdict::True);
}

#[test]
fn a_search_for_nothing_does_not_look_at_its_operand() {
    for text in ["(a < 5) CONTAINS ''", "(a < 5) NOT STARTSWITH ''", "(a < 5) = (a < 5) ENDSWITH ''"] {
        let filter = Filter::parse(text, Dialect::RocketMq).unwrap();
        let expected = if text.contains(" = ") { Verdict::Failed } else { Verdict::False };
        assert_eq!(filter.matches(b"a\x01x"), expected, "{text}");
        assert_eq!(
            by_column(&filter, &BTreeMap::from([("a".to_owned(), "x".to_owned())])),
            expected,
            "{text}"
        );
    }
}

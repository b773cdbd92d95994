//! What holds for every expression: row and column agree, a split is sound, and no text panics.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, StringViewArray};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use sluice_filters::{Dialect, Filter, Name};

/// Values that meet the edges of each comparison.
const VALUES: [&str; 18] = [
    "",
    "0",
    "-0",
    "1",
    "1.0",
    "2",
    "2.5",
    "10",
    "1e1",
    " 1 ",
    "true",
    "FALSE",
    "x",
    "xy",
    "yx",
    "é",
    "a text longer than a view",
    "9223372036854775808",
];

fn literal() -> impl Strategy<Value = String> {
    prop_oneof![
        select(&VALUES[..]).prop_map(|value| format!("'{value}'")),
        select(&["0", "1", "-1", "2.5", "10", "1e1", "9223372036854775807"][..]).prop_map(str::to_owned),
        Just("NULL".to_owned()),
    ]
}

fn property() -> BoxedStrategy<String> {
    select(&["a", "b", "c", "\"a b\""][..]).prop_map(str::to_owned).boxed()
}

/// One test of a name of `names`.
fn term(name: BoxedStrategy<String>) -> impl Strategy<Value = String> {
    let compare = select(&["=", "<>", "<", "<=", ">", ">="][..]);
    let pattern = select(&["x%", "%x", "_", "%", "%y_", "", "a%view", "_x%"][..]);
    let not = select(&["", "NOT "][..]);
    let search = select(&["LIKE", "ILIKE", "CONTAINS", "STARTSWITH", "ENDSWITH"][..]);
    let is = select(&["NULL", "TRUE", "FALSE", "UNKNOWN"][..]);
    prop_oneof![
        4 => (name.clone(), compare.clone(), literal()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        1 => (literal(), compare.clone(), name.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        1 => (literal(), compare.clone(), literal()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        1 => (name.clone(), compare, property()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        1 => (name.clone(), select(&["=", "<>"][..]), select(&["TRUE", "FALSE"][..]))
            .prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        1 => (name.clone(), not.clone(), literal(), literal())
            .prop_map(|(a, not, low, high)| format!("{a} {not}BETWEEN {low} AND {high}")),
        2 => (name.clone(), not.clone(), vec(literal(), 1..12))
            .prop_map(|(a, not, list)| format!("{a} {not}IN ({})", list.join(", "))),
        2 => (name.clone(), not.clone(), search, pattern)
            .prop_map(|(a, not, op, pattern)| format!("{a} {not}{op} '{pattern}'")),
        1 => (name.clone(), not, is).prop_map(|(a, not, what)| format!("{a} IS {not}{what}")),
        1 => name,
        1 => select(&["TRUE", "FALSE", "NULL"][..]).prop_map(str::to_owned),
    ]
}

fn expression(name: BoxedStrategy<String>) -> impl Strategy<Value = String> {
    term(name).prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 2..5).prop_map(|terms| format!("({})", terms.join(" AND "))),
            vec(inner.clone(), 2..5).prop_map(|terms| format!("({})", terms.join(" OR "))),
            vec(inner.clone(), 2..4).prop_map(|terms| terms.join(" AND ")),
            inner.clone().prop_map(|term| format!("NOT ({term})")),
            (inner, select(&["NULL", "NOT TRUE", "FALSE"][..]))
                .prop_map(|(term, what)| format!("({term}) IS {what}")),
        ]
    })
}

/// The values of `a`, `b` and `"a b"` in some messages; `c` is in none.
fn messages() -> impl Strategy<Value = Vec<[Option<&'static str>; 3]>> {
    let value = || proptest::option::weighted(0.8, select(&VALUES[..]));
    vec([value(), value(), value()], 1..70)
}

fn column(messages: &[[Option<&str>; 3]], at: usize) -> ArrayRef {
    Arc::new(messages.iter().map(|message| message[at]).collect::<StringViewArray>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn row_and_column_agree(text in expression(property()), messages in messages()) {
        let filter = Filter::parse(&text, Dialect::Sluice).unwrap();
        let resolve = |name: &Name| {
            let at = ["a", "b", "\"a b\""].iter().position(|known| name.to_string() == *known)?;
            Some(column(&messages, at))
        };
        let answers = filter.columns(messages.len(), &resolve).unwrap();
        for (row, message) in messages.iter().enumerate() {
            let properties: Vec<_> =
                ["a", "b", "a b"].into_iter().zip(message).filter_map(|(k, v)| Some((k, (*v)?))).collect();
            let by_column = answers.is_valid(row).then(|| answers.value(row));
            prop_assert_eq!(by_row(&filter, &properties), by_column, "{} with {:?}", text, properties);
        }
    }

    #[test]
    fn a_row_passes_exactly_if_it_passes_both_halves(
        text in expression(prop_oneof![property(), select(&["$.text", "$keys"][..]).prop_map(str::to_owned)].boxed()),
        messages in messages(),
    ) {
        let filter = Filter::parse(&text, Dialect::Sluice).unwrap();
        let resolve = |name: &Name| {
            let known = ["a", "$.text", "$keys"];
            Some(column(&messages, known.iter().position(|known| name.to_string() == *known)?))
        };
        let mask = |half: Option<&Filter>| match half {
            Some(half) => half.mask(messages.len(), &resolve).unwrap(),
            None => BooleanArray::from(vec![true; messages.len()]),
        };
        let (pushed, rest) = filter.split();
        let both = arrow::compute::and(&mask(pushed.as_ref()), &mask(rest.as_ref())).unwrap();
        prop_assert_eq!(mask(Some(&filter)), both, "{}", text);
        let names = pushed.iter().flat_map(Filter::names);
        prop_assert!(!names.clone().any(|name| matches!(name, Name::Field(_))));
        let all: std::collections::BTreeSet<_> =
            names.chain(rest.iter().flat_map(Filter::names)).cloned().collect();
        prop_assert_eq!(&all, filter.names());
    }

    #[test]
    fn every_comparison_of_numbers_is_that_of_the_values(
        values in vec(proptest::option::of(prop_oneof![
            -5..5i64, any::<i64>(), Just(i64::MIN), Just(i64::MAX), Just((1 << 53) + 1),
        ]), 1..20),
        literal in prop_oneof![
            (-5..5i64).prop_map(i128::from),
            any::<i64>().prop_map(i128::from),
            Just(1i128 << 63), Just(1i128 << 53), Just((1i128 << 53) + 1),
        ],
    ) {
        let rows = values.len();
        let whole: ArrayRef = Arc::new(Int64Array::from(values.clone()));
        let texts: ArrayRef =
            Arc::new(values.iter().map(|v| v.map(|v| format!("{v}.0"))).collect::<StringViewArray>());
        for (op, holds) in [
            ("=", (|a, b| a == b) as fn(i128, i128) -> bool),
            ("<>", |a, b| a != b), ("<", |a, b| a < b), ("<=", |a, b| a <= b),
            (">", |a, b| a > b), (">=", |a, b| a >= b),
        ] {
            let expected: Vec<_> = values.iter().map(|v| v.map(|v| holds(i128::from(v), literal))).collect();
            for text in [format!("a {op} {literal}"), format!("a {op} {literal}.0")] {
                let filter = Filter::parse(&text, Dialect::Sluice).unwrap();
                for column in [&whole, &texts] {
                    let found = filter.columns(rows, &|_| Some(column.clone())).unwrap();
                    prop_assert_eq!(found.iter().collect::<Vec<_>>(), expected.clone(), "{}", text);
                }
            }
        }
    }

    #[test]
    fn a_double_compares_by_its_exact_value(
        values in vec(prop_oneof![any::<f64>(), (-5..5i32).prop_map(f64::from), Just(f64::NAN)], 1..20),
        literal in -1000..1000i32,
    ) {
        let literal = f64::from(literal) / 8.0;
        let column: ArrayRef = Arc::new(Float64Array::from(values.clone()));
        let filter = Filter::parse(&format!("$.x < {literal}"), Dialect::Sluice).unwrap();
        let found = filter.columns(values.len(), &|_| Some(column.clone())).unwrap();
        let expected = values.iter().map(|value| value.partial_cmp(&literal).map(std::cmp::Ordering::is_lt));
        prop_assert_eq!(found.iter().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_pattern_matches_as_the_plain_definition_says(text in "[abé]{0,9}", pattern in "[abé%_]{0,7}") {
        let filter = Filter::parse(&format!("a LIKE '{pattern}'"), Dialect::Sluice).unwrap();
        prop_assert_eq!(by_row(&filter, &[("a", &text)]), Some(like(&text, &pattern)));
        let folded = Filter::parse(&format!("a ILIKE '{}'", pattern.to_uppercase()), Dialect::Sluice).unwrap();
        prop_assert_eq!(by_row(&folded, &[("a", &text)]), Some(like(&text, &pattern)));
    }

    #[test]
    fn a_name_reads_back_as_it_is_written(name in "\\PC{1,12}", field in "\\PC{1,12}") {
        for name in [Name::Property(name.clone()), Name::Field(vec![name, field])] {
            let filter = Filter::parse(&format!("{name} IS NULL"), Dialect::Sluice).unwrap();
            prop_assert!(filter.names().iter().eq([&name]), "{}", name);
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,60}") {
        let _ = Filter::parse(&text, Dialect::Sluice);
    }

    #[test]
    fn no_heap_of_tokens_panics_and_errors_have_a_place(
        tokens in vec(select(&[
            "a", "$", "$topic", ".", "\"q\"", "'t'", "5", "1.5", "(", ")", ",", "AND", "OR", "NOT", "IN", "IS",
            "NULL", "TRUE", "LIKE", "ESCAPE", "BETWEEN", "CONTAINS", "=", "<>", "<", "-", "+", "*", "/*", "*/",
            "--", "\n", "'", "\"", "é", "[", "::", "CASE", "DATE", "COLLATE", "0x1", "N'x'", "$$", "?", ";", "\u{0}",
        ][..]), 0..16),
        joint in select(&["", " "][..]),
    ) {
        let text = tokens.join(joint);
        match Filter::parse(&text, Dialect::Sluice) {
            Ok(filter) => {
                filter.row(&|_| Some("1"));
            }
            Err(error) => {
                prop_assert!(text.get(error.span.clone()).is_some(), "{:?} in {:?}", error, text);
                prop_assert!(error.line >= 1 && error.column >= 1);
            }
        }
    }
}

fn by_row(filter: &Filter, properties: &[(&str, &str)]) -> Option<bool> {
    filter.row(&|name| properties.iter().find(|(key, _)| *key == name).map(|(_, value)| *value))
}

/// The definition of `LIKE`, tried in every way.
fn like(text: &str, pattern: &str) -> bool {
    let mut chars = pattern.chars();
    let rest = match chars.next() {
        None => return text.is_empty(),
        Some('%') => {
            let starts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            return starts.into_iter().any(|at| like(&text[at..], chars.as_str()));
        }
        Some(point) => text.chars().next().filter(|c| point == '_' || point == *c).map(char::len_utf8),
    };
    rest.is_some_and(|len| like(&text[len..], chars.as_str()))
}

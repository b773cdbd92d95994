//! Value expressions: what they compute, of which type, and that columns and rows agree.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, StringViewArray, StructArray,
};
use arrow::datatypes::{DataType, Field, TimeUnit};
use arrow::util::display::array_value_to_string;
use proptest::prelude::*;
use sluice_filters::{Name, ValueExpression};

fn columns(name: &Name) -> Option<ArrayRef> {
    Some(match name {
        Name::Property(name) if name == "p" => {
            Arc::new(StringViewArray::from(vec![Some("5"), Some("x"), None, Some(" 7.5 ")]))
        }
        Name::Property(_) => return None,
        Name::Envelope(_) => Arc::new(Int64Array::from(vec![100, 101, 102, 103])),
        Name::Field(path) => match path.join(".").as_str() {
            "i" => Arc::new(Int64Array::from(vec![Some(6), Some(0), None, Some(i64::MAX)])),
            "j" => Arc::new(Int64Array::from(vec![4, 0, 3, 2])),
            "f" => Arc::new(Float64Array::from(vec![Some(1.5), Some(f64::NAN), None, Some(-2.0)])),
            "t" => Arc::new(StringArray::from(vec![Some("Ab"), Some(""), None, Some("true")])),
            "b" => Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, Some(true)])),
            "ts" => Arc::new(
                arrow::array::TimestampMillisecondArray::from(vec![Some(1000), Some(2000), None, Some(3000)])
                    .with_timezone("UTC"),
            ),
            "s" => {
                let x: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
                Arc::new(StructArray::from(vec![(Arc::new(Field::new("x", DataType::Int64, true)), x)]))
            }
            _ => return None,
        },
    })
}

/// The type, and the values as text.
fn of(text: &str) -> (DataType, Vec<String>) {
    let expression = ValueExpression::parse(text).unwrap_or_else(|e| panic!("{}", e.render()));
    let told = expression.data_type(&|name| Some(columns(name)?.data_type().clone())).unwrap();
    let column = expression.column(4, &columns).unwrap();
    assert_eq!(*column.data_type(), told, "{text}");
    let shown = (0..4).map(|row| {
        if column.is_null(row) { "-".to_owned() } else { array_value_to_string(&column, row).unwrap() }
    });
    (told, shown.collect())
}

#[test]
fn a_value_has_a_type_that_follows_from_its_names_and_nothing_else() {
    use DataType::{Boolean, Float64, Int64, Utf8, Utf8View};
    let ms = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    for (text, data_type, values) in [
        ("$.i", Int64, ["6", "0", "-", "9223372036854775807"]),
        ("$.i + $.j", Int64, ["10", "0", "-", "-"]),
        ("$.i * 2", Int64, ["12", "0", "-", "-"]),
        ("$.i % $.j", Int64, ["2", "-", "-", "1"]),
        ("$.j / 2", Float64, ["2.0", "0.0", "1.5", "1.0"]),
        ("$.i / $.j", Float64, ["1.5", "-", "-", "4.611686018427388e18"]),
        ("$.f + 1", Float64, ["2.5", "-", "-", "-1.0"]),
        ("-$.j", Int64, ["-4", "0", "-3", "-2"]),
        ("p", Utf8View, ["5", "x", "-", " 7.5 "]),
        ("p + 1", Float64, ["6.0", "-", "-", "8.5"]),
        ("CAST(p AS BIGINT)", Int64, ["5", "-", "-", "7"]),
        ("CAST($.i AS TEXT)", Utf8, ["6", "0", "-", "9223372036854775807"]),
        ("CAST($.j AS DOUBLE)", Float64, ["4.0", "0.0", "3.0", "2.0"]),
        ("CAST($.t AS BOOLEAN)", Boolean, ["-", "-", "-", "true"]),
        (
            "CAST(CAST($.ts AS BIGINT) AS TIMESTAMP)",
            ms.clone(),
            ["1970-01-01T00:00:01Z", "1970-01-01T00:00:02Z", "-", "1970-01-01T00:00:03Z"],
        ),
        ("CAST($.ts - TIMESTAMP '1970-01-01' AS BIGINT)", Int64, ["1000", "2000", "-", "3000"]),
        (
            "$.ts + INTERVAL '1' SECOND",
            ms,
            ["1970-01-01T00:00:02Z", "1970-01-01T00:00:03Z", "-", "1970-01-01T00:00:04Z"],
        ),
        ("upper($.t)", Utf8, ["AB", "", "-", "TRUE"]),
        ("length($.t)", Int64, ["2", "0", "-", "4"]),
        ("coalesce($.i, $.j)", Int64, ["6", "0", "3", "9223372036854775807"]),
        ("coalesce(p, $.t, 'none')", Utf8, ["5", "x", "none", " 7.5 "]),
        ("'a-' || $.j || '-' || $.b", Utf8, ["a-4-true", "a-0-false", "-", "a-2-true"]),
        ("$.i > 5", Boolean, ["true", "false", "-", "true"]),
        ("$.i > 5 AND p IS NOT NULL", Boolean, ["true", "false", "false", "true"]),
        ("$queue_offset - 100", Int64, ["0", "1", "2", "3"]),
        ("1 + 1", Int64, ["2", "2", "2", "2"]),
        ("'x'", Utf8, ["x", "x", "x", "x"]),
    ] {
        assert_eq!(of(text), (data_type, values.map(str::to_owned).to_vec()), "{text}");
    }
}

#[test]
fn what_can_make_no_column_is_told_with_its_place() {
    let told = |text: &str| {
        let of = |name: &Name| Some(columns(name)?.data_type().clone());
        match ValueExpression::parse(text) {
            Ok(expression) => match expression.data_type(&of) {
                Ok(found) => panic!("{text} is {found}"),
                Err(error) => error.render(),
            },
            Err(error) => error.render(),
        }
    };
    for (text, expected) in [
        ("1 + $.nope", "1 + $.nope\n    ^^^^^^\nthere is no $.nope"),
        ("$.ts - $.ts", "CAST(… AS BIGINT) makes milliseconds"),
        ("$.s + 1", "arithmetic takes numbers"),
        ("$.b || $.ts", "|| joins texts, numbers and truth values"),
        ("$.i > 'x'", "compares with numbers only"),
        ("upper($.i)", "takes text"),
        ("p ||", "expected a name, a number or text, found the end"),
    ] {
        let found = told(text);
        assert!(found.contains(expected), "{text}: {found}");
    }
}

#[test]
fn a_name_alone_is_told_from_what_is_computed() {
    let name = |text: &str| ValueExpression::parse(text).unwrap().name().map(ToString::to_string);
    assert_eq!(name("$.a.b"), Some("$.a.b".to_owned()));
    assert_eq!(name("(origin)"), Some("origin".to_owned()));
    assert_eq!(name("-origin"), None);
    assert_eq!(name("$.a = 1"), None);
}

proptest! {
    /// The rows of one batch and of two, cut anywhere, have the same values.
    #[test]
    fn a_batch_in_two_parts_computes_the_same(
        rows in proptest::collection::vec((proptest::option::of(any::<i64>()), proptest::option::of(any::<f64>()), proptest::option::of("[0-9a-z.-]{0,4}")), 1..40),
        at in any::<proptest::sample::Index>(),
        expression in proptest::sample::select(vec![
            "$.i + $.i", "$.i * 3 - $.f", "$.i % 7", "$.f / $.i", "p + 1", "coalesce($.i, 5)", "coalesce(p, 'x') || $.i",
            "CAST(p AS BIGINT)", "CAST($.f AS BIGINT)", "CAST($.i AS DOUBLE)", "$.i > $.f", "length(p)", "upper(p)",
        ]),
    ) {
        let i: ArrayRef = Arc::new(rows.iter().map(|r| r.0).collect::<Int64Array>());
        let f: ArrayRef = Arc::new(rows.iter().map(|r| r.1).collect::<Float64Array>());
        let p: ArrayRef = Arc::new(rows.iter().map(|r| r.2.as_deref()).collect::<StringViewArray>());
        let expression = ValueExpression::parse(expression).unwrap();
        let over = |from: usize, len: usize| {
            let resolve = |name: &Name| match name {
                Name::Property(_) => Some(p.slice(from, len)),
                Name::Field(path) if path[0] == "i" => Some(i.slice(from, len)),
                _ => Some(f.slice(from, len)),
            };
            expression.column(len, &resolve).unwrap()
        };
        let (all, at) = (over(0, rows.len()), at.index(rows.len()));
        let (head, tail) = (over(0, at), over(at, rows.len() - at));
        prop_assert_eq!(head.to_data(), all.slice(0, at).to_data());
        prop_assert_eq!(tail.to_data(), all.slice(at, rows.len() - at).to_data());
    }
}

//! Typed columns: what compares with what, at the edges of the types.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray,
    Float64Array, Int32Array, Int64Array, LargeStringArray, NullArray, StringArray, StringViewArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampSecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Int32Type, TimeUnit};
use sluice_filters::{Dialect, Filter, Name, Problem};

const ROWS: usize = 4;

/// The column of a name; each has its null in the last row.
fn column(name: &str) -> Option<ArrayRef> {
    let at = [Some(1_357_034_400_000), Some(1_357_034_400_500), Some(0), None];
    Some(match name {
        "$.whole" => Arc::new(Int64Array::from(vec![
            Some(9_007_199_254_740_993),
            Some(i64::MIN),
            Some(i64::MAX),
            None,
        ])),
        "$.other" => Arc::new(Int64Array::from(vec![Some(5), Some(i64::MIN), None, None])),
        "$.small" | "$queue_id" => Arc::new(Int32Array::from(vec![Some(-1), Some(0), Some(1), None])),
        "$.unsigned" => Arc::new(UInt64Array::from(vec![Some(u64::MAX), Some(5), Some(0), None])),
        "$.double" => Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(-0.0), Some(2.5), None])),
        "$.decimal" => Arc::new(
            Decimal128Array::from(vec![Some(250), Some(-1), Some(0), None])
                .with_precision_and_scale(10, 2)
                .expect("ten digits hold them"),
        ),
        "$.truth" => Arc::new(BooleanArray::from(vec![Some(true), Some(false), Some(true), None])),
        "$.text" => Arc::new(StringArray::from(vec![Some("5"), Some("true"), Some("a longer text"), None])),
        "$.large" => Arc::new(LargeStringArray::from(vec![Some("5"), Some("é"), Some(""), None])),
        "$topic" => Arc::new(
            [Some("flights"), Some("orders"), Some("flights"), None]
                .into_iter()
                .collect::<DictionaryArray<Int32Type>>(),
        ),
        "$born_timestamp" => Arc::new(TimestampMillisecondArray::from(at.to_vec()).with_timezone("UTC")),
        "$.second" => {
            Arc::new(TimestampSecondArray::from(vec![Some(1_357_034_400), Some(0), Some(-1), None]))
        }
        "$.micro" => Arc::new(TimestampMicrosecondArray::from(at.map(|at| Some(at? * 1_000)).to_vec())),
        "$.day" => Arc::new(Date32Array::from(vec![Some(15_706), Some(0), Some(15_707), None])),
        "$.nothing" => Arc::new(NullArray::new(ROWS)),
        "$body" => Arc::new(BinaryViewArray::from(vec![Some(&b"x"[..]), Some(b""), Some(b"y"), None])),
        "delay" => {
            Arc::new(StringViewArray::from(vec![Some("9007199254740993"), Some("x"), Some("-0"), None]))
        }
        _ => return None,
    })
}

fn resolve(name: &Name) -> Option<ArrayRef> {
    column(&name.to_string())
}

/// One letter a row: T, F or U.
fn answers(text: &str) -> String {
    let filter = Filter::parse(text, Dialect::Sluice).unwrap_or_else(|error| panic!("{text}: {error}"));
    let answers = filter.columns(ROWS, &resolve).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(answers.len(), ROWS);
    let checked = filter.check(&|name| Some(resolve(name)?.data_type().clone()));
    assert!(checked.is_ok(), "{text}: {checked:?}");
    answers.iter().map(|answer| answer.map_or('U', |answer| if answer { 'T' } else { 'F' })).collect()
}

fn refusal(text: &str) -> String {
    let filter = Filter::parse(text, Dialect::Sluice).unwrap_or_else(|error| panic!("{text}: {error}"));
    let checked = filter.check(&|name| Some(resolve(name)?.data_type().clone())).expect_err(text).to_string();
    let evaluated = filter.columns(ROWS, &resolve).expect_err(text).to_string();
    assert_eq!(checked, evaluated);
    checked
}

#[rustfmt::skip]
const ANSWERS: &[(&str, &str)] = &[
    // Integers are exact against decimals and doubles.
    ("$.whole = 9007199254740992.0", "FFFU"),
    ("$.whole = 9007199254740993.0", "TFFU"),
    ("$.whole <> 9007199254740992.0", "TTTU"),
    ("$.whole < 9223372036854775808", "TTTU"),
    ("$.whole <= -9223372036854775808", "FTFU"),
    ("$.whole > 9007199254740992.5", "TFTU"),
    ("$.whole IN (1, 9223372036854775807)", "FFTU"),
    ("$.whole IN (1, NULL)", "UUUU"),
    ("$.whole NOT IN (1, 2)", "TTTU"),
    ("$.whole = $.other", "FTUU"),
    ("$.whole > $.double", "UFTU"),
    ("$.whole = delay", "TUFU"),
    ("$.whole BETWEEN 0 AND 1e16", "TFFU"),
    ("$.small < 0.5", "TTFU"),
    ("$.small >= -1", "TTTU"),
    ("$queue_id = 1", "FFTU"),
    ("$.unsigned > 9223372036854775807", "TFFU"),
    ("$.unsigned = 5", "FTFU"),
    ("$.unsigned IN (5, 6)", "FTFU"),
    // NaN is no number; minus zero is zero.
    ("$.double = 0", "UTFU"),
    ("$.double < 3", "UTTU"),
    ("$.double <> 2.5", "UTFU"),
    ("$.double = $.double", "UTTU"),
    ("$.double IN (0, 2.5)", "UTTU"),
    ("$.double IS NULL", "FFFT"),
    ("$.decimal = 2.5", "TFFU"),
    ("$.decimal < 0", "FTFU"),
    // Truth values.
    ("$.truth", "TFTU"),
    ("NOT $.truth", "FTFU"),
    ("$.truth = TRUE", "TFTU"),
    ("$.truth <> TRUE", "FTFU"),
    ("$.truth = FALSE", "FTFU"),
    ("$.truth IS NOT TRUE", "FTFT"),
    ("$.truth = $.text", "UFUU"),
    // Text of every encoding.
    ("$.text = 5", "TUUU"),
    ("$.text = 'a longer text'", "FFTU"),
    ("$.text", "UTUU"),
    ("$.text IN ('a longer text', '5')", "TFTU"),
    ("$.text LIKE '%e%'", "FTTU"),
    ("$.large LIKE '_'", "TTFU"),
    ("$.large = ''", "FFTU"),
    ("$.text = $.large", "TFFU"),
    ("$topic = 'flights'", "TFTU"),
    ("$topic IN ('orders')", "FTFU"),
    ("$topic > 'm'", "FTFU"),
    ("$topic STARTSWITH 'fl'", "TFTU"),
    ("$topic IS NULL", "FFFT"),
    ("$topic = $.text", "FFFU"),
    // Timestamps: milliseconds, or RFC 3339.
    ("$born_timestamp = 1357034400000", "TFFU"),
    ("$born_timestamp >= '2013-01-01T10:00:00Z'", "TTFU"),
    ("$born_timestamp = '2013-01-01T11:00:00.5+01:00'", "FTFU"),
    ("$born_timestamp < '2013-01-01'", "FFTU"),
    ("$born_timestamp = 1357034400000.5", "FFFU"),
    ("$born_timestamp > 1357034400000.5", "FTFU"),
    ("$born_timestamp BETWEEN '2013-01-01 10:00:00' AND '2013-01-01 10:00:00.499999'", "TFFU"),
    ("$born_timestamp = delay", "FUTU"),
    ("$.second >= 1357034399999", "TFFU"),
    ("$.second = 1357034400001", "FFFU"),
    ("$.second < 1", "FTTU"),
    ("$.second > -1000.5", "TTTU"),
    ("$.micro = '2013-01-01T10:00:00.500Z'", "FTFU"),
    ("$.micro > 1357034400000.4", "FTFU"),
    ("$.day = '2013-01-01'", "TFFU"),
    ("$born_timestamp < '9999-12-31T00:00:00Z'", "TTTU"),
    ("$born_timestamp > TIMESTAMP '0001-01-01'", "TTTU"),
    ("$born_timestamp IN ('2013-01-01T10:00:00Z', '1970-01-01')", "TFTU"),
    ("$born_timestamp IN (0, TIMESTAMP '2013-01-01T10:00:00.5Z')", "FTTU"),
    ("$.day IN ('2013-01-01')", "TFFU"),
    ("$.second NOT IN (1)", "TTTU"),
    ("$born_timestamp + INTERVAL '500' MILLISECONDS = '2013-01-01T10:00:00.5Z'", "TFFU"),
    ("$born_timestamp - $.micro < INTERVAL '1' SECOND", "TTTU"),
    ("$born_timestamp - $.micro = INTERVAL '0 seconds'", "TTTU"),
    ("CAST($.whole AS TEXT) LIKE '9%'", "TFTU"),
    ("$.small * 2 + 1 IN (1, 3)", "FTTU"),
    ("$.double / 2 = 1.25", "UFTU"),
    ("length($topic) = 6", "FTFU"),
    ("coalesce($.text, $topic) CONTAINS 'r'", "FTTU"),
    // Nothing but nulls fits everything.
    ("$.nothing = 1", "UUUU"),
    ("$.nothing = 'x' OR $.nothing IS NULL", "TTTT"),
    ("$.nothing = $.whole", "UUUU"),
    ("$body IS NOT NULL", "TTTF"),
    // A property without a column is null.
    ("missing = 1", "UUUU"),
    ("missing IS NULL", "TTTT"),
    ("missing = delay", "UUUU"),
    ("delay = 0", "FUTU"),
    ("delay = 0 OR delay > 1", "TUTU"),
];

#[rustfmt::skip]
const REFUSALS: &[(&str, &str)] = &[
    ("a = 1 AND $.text > 1 AND $.whole = '5'", "column 26: $.whole is Int64, which compares with numbers only"),
    ("$.whole IN ('5')", "column 1: $.whole is Int64, which compares with numbers only"),
    ("$.whole LIKE '5'", "column 1: $.whole is Int64, which has no characters to search"),
    ("$.whole", "column 1: $.whole is Int64, which is no condition"),
    ("$.double = TRUE", "column 1: $.double is Float64, which compares with numbers only"),
    ("$.truth = 1", "column 1: $.truth is Boolean, which compares with TRUE and FALSE only"),
    ("$.truth < $.text", "column 1: $.truth is Boolean and $.text is Utf8, which never compare"),
    ("$.truth = $.whole", "column 1: $.truth is Boolean and $.whole is Int64, which never compare"),
    ("$.second = $.micro", "column 1: $.second is Timestamp(s) and $.micro is Timestamp(µs), which never compare"),
    ("$born_timestamp > 'noon'", "column 1: $born_timestamp is Timestamp(ms, \"UTC\"), which compares with milliseconds since 1970 or a time like '2013-01-31T12:00:00Z'"),
    ("$born_timestamp + 5 = 1", "column 1: arithmetic takes numbers, or times and lengths of time"),
    ("delay + INTERVAL '1' DAY IS NULL", "column 1: a text takes part in arithmetic with times only after CAST(… AS TIMESTAMP)"),
    ("lower($.whole) = 'x'", "column 1: this function takes text"),
    ("$.whole + 1 = 'x'", "column 1: what is computed here never fits the other side"),
    ("$born_timestamp IN ('x')", "column 1: $born_timestamp is Timestamp(ms, \"UTC\"), which compares with times only"),
    ("$body = 'x'", "column 1: $body is BinaryView, which takes part in IS NULL only"),
    ("$body CONTAINS 'x'", "column 1: $body is BinaryView, which takes part in IS NULL only"),
    ("a = 1 AND\n  $nope = 1", "line 2, column 3: there is no $nope"),
    ("$.\"no such\".field IS NULL", "column 1: there is no $.\"no such\".field"),
];

#[test]
fn each_type_answers_as_documented() {
    let mut wrong = Vec::new();
    for (text, expected) in ANSWERS {
        let found = answers(text);
        if found != *expected {
            wrong.push(format!("{text}: {found} instead of {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_can_never_compare_is_refused_by_check_and_by_evaluation() {
    let mut wrong = Vec::new();
    for (text, expected) in REFUSALS {
        let found = refusal(text);
        if found != *expected {
            wrong.push(format!("{found}\n  {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn columns_with_an_offset_answer_for_their_own_rows() {
    for (text, expected) in ANSWERS {
        let filter = Filter::parse(text, Dialect::Sluice).unwrap();
        let cut = |name: &Name| resolve(name).map(|array| array.slice(1, ROWS - 1));
        let found = filter.columns(ROWS - 1, &cut).unwrap();
        let found: String =
            found.iter().map(|answer| answer.map_or('U', |answer| if answer { 'T' } else { 'F' })).collect();
        assert_eq!(found, expected[1..], "{text}");
    }
}

#[test]
fn no_rows_give_no_answers() {
    for (text, _) in ANSWERS {
        let filter = Filter::parse(text, Dialect::Sluice).unwrap();
        let empty = |name: &Name| resolve(name).map(|array| array.slice(0, 0));
        assert_eq!(filter.mask(0, &empty).unwrap().len(), 0, "{text}");
    }
}

#[test]
fn a_column_of_another_length_is_an_error() {
    let filter = Filter::parse("delay > 1", Dialect::Sluice).unwrap();
    let error = filter.columns(ROWS + 1, &resolve).unwrap_err();
    assert!(matches!(*error.problem, Problem::Rows { found: ROWS, expected: 5, .. }), "{error}");
}

#[test]
fn a_property_is_text_unless_the_caller_knows_more() {
    let filter = Filter::parse("a > 5 AND a LIKE 'x'", Dialect::Sluice).unwrap();
    assert!(filter.check(&|_| None).is_ok());
    assert!(filter.check(&|_| Some(DataType::Int64)).is_err());
    let filter = Filter::parse("a = 'x'", Dialect::Sluice).unwrap();
    assert!(filter.check(&|_| Some(DataType::Timestamp(TimeUnit::Second, None))).is_err());
}

#[test]
fn an_unknown_name_is_told_by_its_kind() {
    let filter = Filter::parse("$._id = 1", Dialect::Sluice).unwrap();
    let error = filter.check(&|_| None).unwrap_err();
    let field = Name::Field(vec!["_id".to_owned()]);
    assert!(matches!(&*error.problem, Problem::UnknownName { name } if *name == field), "{error}");
}

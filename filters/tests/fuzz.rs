//! Any text and any properties: no panic, and row, encoded properties and columns agree. And where no quirk
//! is told, both dialects agree.
//!
//! A few thousand inputs here; a million with
//! `SLUICE_FUZZ_INPUTS=1000000 cargo test --release -p sluice-filters --test fuzz`. A failure prints its seed's
//! text and properties.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringViewArray};
use sluice_filters::{Dialect, Filter, Name, Quirk, ValueExpression};
use sluice_protocol::message;

mod agree;

#[expect(clippy::disallowed_methods, reason = "the number of inputs comes from who runs the test")]
fn inputs() -> u64 {
    std::env::var("SLUICE_FUZZ_INPUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(3_000)
}

/// Random numbers from a seed (splitmix).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below end")
    }

    fn of<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
}

const NAMES: [&str; 5] = ["a", "b", "c", "$q", "name_of_more_than_eight"];

const TOKENS: [&str; 86] = [
    "a",
    "b",
    "c",
    "$q",
    "$topic",
    "$.x",
    "\"q\"",
    "'x'",
    "'1'",
    "''",
    "'it''s'",
    "'",
    "\"",
    "0",
    "1",
    "5",
    "1.5",
    ".5",
    "5.",
    "1e3",
    "0.0",
    "007",
    "0x10",
    "5L",
    "2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "1e999",
    "NaN",
    "TRUE",
    "false",
    "NULL",
    "AND",
    "OR",
    "NOT",
    "IS",
    "IN",
    "BETWEEN",
    "CONTAINS",
    "STARTSWITH",
    "ENDSWITH",
    "LIKE",
    "ILIKE",
    "ESCAPE",
    "=",
    "<>",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "==",
    "(",
    ")",
    "((",
    "))",
    ",",
    "+",
    "-",
    "*",
    "/",
    "%",
    "--",
    "/*",
    "*/",
    "#",
    ";",
    ".",
    "\n",
    "\u{0}",
    "é",
    "٣",
    "\u{a0}",
    "lower(",
    "length(",
    "coalesce(",
    "CAST(",
    "AS",
    "BIGINT",
    "TIMESTAMP",
    "INTERVAL",
    "'2013-01-01'",
    "SECOND",
    "regexp_like(",
    "'^a+$'",
    "upper(",
];

const LITERALS: [&str; 20] = [
    "0",
    "1",
    "-1",
    "5",
    "1.5",
    "-2.5",
    "1e3",
    "2147483647",
    "2147483648",
    "9223372036854775807",
    "'x'",
    "'1'",
    "''",
    "'true'",
    "'é'",
    "'a longer text than a view'",
    "TRUE",
    "FALSE",
    "NULL",
    "+5",
];

const VALUES: [&[u8]; 36] = [
    b"0",
    b"1",
    b"-1",
    b"5",
    b"5.0",
    b"1.5",
    b" 5 ",
    b"+5",
    b"005",
    b"1e3",
    b"x",
    b"xyz",
    b"true",
    b"FALSE",
    b"NaN",
    b"-NaN",
    b"Infinity",
    b"-Infinity",
    b"2147483647",
    b"2147483648",
    b"-2147483648",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b"1e999",
    b"-0.0",
    b"0.0",
    b"0x1p3",
    b"1.5f",
    b"a longer text than a view",
    b"\x00",
    b"\xff",
    b"x\xc3",
    "é".as_bytes(),
    "٥".as_bytes(),
    b"\x01",
];

/// A text of the grammar, with what only some dialect takes.
fn expression(random: &mut Random, depth: usize) -> String {
    let value = |random: &mut Random| match random.below(12) {
        0..6 => random.of(&NAMES[..]).to_owned(),
        6..10 => random.of(&LITERALS[..]).to_owned(),
        10 => format!("-{}", random.of(&NAMES[..])),
        _ => format!("{} + {}", random.of(&NAMES[..]), random.of(&LITERALS[..])),
    };
    if depth == 0 || random.below(3) == 0 {
        let not = random.of(&["", "", "NOT "]);
        return match random.below(9) {
            0..4 => {
                format!(
                    "{} {} {}",
                    value(random),
                    random.of(&["=", "<>", "<", "<=", ">", ">="]),
                    value(random)
                )
            }
            4 => format!("{} {not}BETWEEN {} AND {}", value(random), value(random), value(random)),
            5 => format!("{} {not}IN ('x', '{}', '5')", random.of(&NAMES[..]), random.of(&["1", "é"])),
            6 => format!(
                "{} {not}{} 'x'",
                value(random),
                random.of(&["CONTAINS", "STARTSWITH", "ENDSWITH", "LIKE"])
            ),
            7 => format!("{} IS {not}NULL", value(random)),
            _ => value(random),
        };
    }
    let inner = expression(random, depth - 1);
    match random.below(7) {
        0 => format!("({inner})"),
        1 => format!("NOT {inner}"),
        2 => {
            format!("({inner}) {} {}", random.of(&["=", "<>", "IS NULL AND"]), expression(random, depth - 1))
        }
        3 | 4 => format!("{inner} AND {}", expression(random, depth - 1)),
        5 => format!("({inner}) IS NOT NULL OR {}", expression(random, depth - 1)),
        _ => format!("{inner} OR {}", expression(random, depth - 1)),
    }
}

fn text(random: &mut Random) -> String {
    match random.below(4) {
        0 => {
            let joint = random.of(&[" ", ""]);
            (0..random.below(14)).map(|_| random.of(&TOKENS[..])).collect::<Vec<_>>().join(joint)
        }
        1 => {
            let mut chars: Vec<char> = expression(random, 3).chars().collect();
            for _ in 0..=random.below(3) {
                let at = random.below(chars.len() + 1).min(chars.len().saturating_sub(1));
                if random.below(2) == 0 && at < chars.len() {
                    chars.remove(at);
                } else {
                    chars.splice(at..at, random.of(&TOKENS[..]).chars());
                }
            }
            chars.into_iter().collect()
        }
        _ => expression(random, 3),
    }
}

/// Encoded properties of one message.
fn encoded(random: &mut Random) -> Vec<u8> {
    let mut encoded = Vec::new();
    for _ in 0..random.below(6) {
        encoded.extend_from_slice(random.of(&NAMES[..]).as_bytes());
        encoded.push(1);
        encoded.extend_from_slice(random.of(&VALUES[..]));
        if random.below(20) > 0 {
            encoded.push(2);
        }
    }
    encoded
}

#[test]
fn any_text_over_any_properties_has_one_answer() {
    let mut parsed = [0u64; 2];
    for seed in 0..inputs() {
        let mut random = Random(seed);
        let text = text(&mut random);
        let messages: Vec<Vec<u8>> = (0..4).map(|_| encoded(&mut random)).collect();
        for (count, is_parsed) in parsed.iter_mut().zip(agree::check(&text, &messages)) {
            *count += u64::from(is_parsed);
        }
    }
    println!("{} texts, {parsed:?} of them expressions of sluice and of rocketmq", inputs());
    assert!(parsed.iter().all(|count| *count > inputs() / 10));
}

/// A value of any kind, of values of any kind.
fn value(random: &mut Random, depth: usize) -> String {
    if depth == 0 {
        return match random.below(3) {
            0 => random.of(&LITERALS[..]).to_owned(),
            _ => random.of(&["a", "b", "c", "d", "e", "f"]).to_owned(),
        };
    }
    let (left, right) = (value(random, depth - 1), value(random, depth - 1));
    match random.below(9) {
        0..4 => format!("({left}) {} {right}", random.of(&["+", "-", "*", "/", "%", "||"])),
        4 => {
            let to = random.of(&["BIGINT", "DOUBLE", "TEXT", "BOOLEAN", "TIMESTAMP"]);
            format!("CAST({left} AS {to})")
        }
        5 => format!("coalesce({left}, {right})"),
        6 => format!("{}({left})", random.of(&["upper", "lower", "length"])),
        7 => format!("{left} > {right}"),
        _ => left,
    }
}

#[test]
fn a_value_of_any_text_has_the_type_that_was_told_and_the_same_rows_in_parts() {
    use arrow::array::{Array, BooleanArray, Float64Array, Int64Array, TimestampMillisecondArray};
    let whole = [i64::MIN, i64::MAX, 0, -1, 3, 1 << 53];
    let times: TimestampMillisecondArray = whole.iter().map(|value| Some(*value)).collect();
    let column = |name: &str| -> ArrayRef {
        match name {
            "a" => Arc::new(whole.iter().map(|value| Some(*value)).collect::<Int64Array>()),
            "b" => Arc::new(Float64Array::from(vec![
                f64::NAN,
                f64::INFINITY,
                -0.0,
                1e300,
                1.5,
                f64::MIN_POSITIVE,
            ])),
            "c" => Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), None, None, Some(true)])),
            "d" => Arc::new(times.clone().with_timezone("UTC")),
            _ => Arc::new(StringViewArray::from(vec![
                Some("5"),
                Some("x"),
                None,
                Some(""),
                Some("1e999"),
                Some("é"),
            ])),
        }
    };
    let resolve = |name: &Name| match name {
        Name::Property(name) => Some(column(name)),
        _ => None,
    };
    let mut computed = 0;
    for seed in 0..inputs() {
        let mut random = Random(seed);
        let text = if random.below(4) == 0 { text(&mut random) } else { value(&mut random, 3) };
        let Ok(expression) = ValueExpression::parse(&text) else { continue };
        let Ok(told) = expression.data_type(&|name| Some(resolve(name)?.data_type().clone())) else {
            continue;
        };
        let all = expression.column(6, &resolve).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(*all.data_type(), told, "{text}");
        for at in [1, 4] {
            let part = |from: usize, len: usize| {
                let sliced = |name: &Name| Some(resolve(name)?.slice(from, len));
                expression.column(len, &sliced).unwrap()
            };
            assert_eq!(part(0, at).to_data(), all.slice(0, at).to_data(), "{text}");
            assert_eq!(part(at, 6 - at).to_data(), all.slice(at, 6 - at).to_data(), "{text}");
        }
        computed += 1;
    }
    assert!(computed > inputs() / 10, "only {computed} texts made a column");
}

/// An expression whose tests fit the values of their names: `a` and `b` are whole numbers, `c` and `d` words,
/// `e` is true or false.
fn core(random: &mut Random, depth: usize) -> String {
    if depth == 0 || random.below(4) == 0 {
        let not = random.of(&["", "NOT "]);
        let (number, word) = (random.of(&["a", "b"]), random.of(&["c", "d"]));
        let op = random.of(&["=", "<>", "<", "<=", ">", ">="]);
        return match random.below(8) {
            0 | 1 => format!(
                "{number} {op} {}",
                random.of(&["0", "7", "-3", "42", "6.5", "-0.5", "1e1", "3000000000"])
            ),
            2 => format!(
                "{number} {not}BETWEEN {} AND {}",
                random.of(&["-5", "0", "3"]),
                random.of(&["7", "42", "6.5"])
            ),
            3 => format!("{word} {} '{}'", random.of(&["=", "<>"]), random.of(&["red", "blue", "it''s"])),
            4 => format!("{word} {not}IN ('red', 'green')"),
            5 => format!("{word} {not}{} 'e'", random.of(&["CONTAINS", "STARTSWITH", "ENDSWITH"])),
            6 => format!("e {} {}", random.of(&["=", "<>"]), random.of(&["TRUE", "FALSE"])),
            _ => format!("{} IS {not}NULL", random.of(&["a", "c", "e"])),
        };
    }
    let (left, right) = (core(random, depth - 1), core(random, depth - 1));
    match random.below(4) {
        0 => format!("NOT ({left})"),
        1 => format!("({left}) OR ({right})"),
        2 => format!("{left} AND {right}"),
        _ => format!("({left} OR {right}) AND {}", core(random, depth - 1)),
    }
}

#[test]
fn on_the_common_core_both_dialects_agree() {
    let mut told = 0;
    for seed in 0..inputs() {
        let mut random = Random(seed);
        let text = core(&mut random, 3);
        let notices = Filter::differences(&text).unwrap();
        // Where FALSE and UNKNOWN are told apart, that is what the notice says.
        if notices.iter().any(|notice| notice.quirk == Quirk::SearchMissing) {
            told += 1;
            continue;
        }
        assert!(notices.iter().all(|notice| notice.quirk.is_about_values()), "{text}: {notices:?}");
        let [sluice, rocketmq] =
            [Dialect::Sluice, Dialect::RocketMq].map(|dialect| Filter::parse(&text, dialect).unwrap());
        for _ in 0..4 {
            let mut message = Vec::new();
            for (name, values) in [
                ("a", &["0", "7", "-3", "42", "007", "+7"][..]),
                ("b", &["6", "10", "-1", "2147483647"]),
                ("c", &["red", "blue", "green"]),
                ("d", &["red", "it's", "é"]),
                ("e", &["true", "False", "TRUE"]),
            ] {
                if random.below(4) > 0 {
                    message::push_property(&mut message, name, random.of(values)).unwrap();
                }
            }
            let verdicts = [sluice.matches(&message), rocketmq.matches(&message)];
            assert_eq!(verdicts[0].passes(), verdicts[1].passes(), "{text} with {message:?}: {verdicts:?}");
        }
    }
    assert!(told < inputs() / 2);
}

#[test]
fn values_of_a_megabyte_are_only_values() {
    let values = [
        "9".repeat(1 << 20),
        format!("0.{}1", "0".repeat(1 << 20)),
        "ab".repeat(1 << 19),
        "٣".repeat(1 << 19),
    ];
    for text in [
        "a > 1",
        "a > 1.5",
        "a = 5000000000",
        "a CONTAINS 'ba' AND a ENDSWITH 'c'",
        "a > b",
        "a = b",
        "a = TRUE",
        "a IN ('x')",
        "a LIKE '%b_b%c'",
        "a ILIKE '%ABABABAC%'",
        "regexp_like(a, '(a|b)*c')",
        "lower(a) = upper(a)",
        "length(a) + a * 2 > 1",
        "CAST(a AS TIMESTAMP) IS NULL",
    ] {
        for dialect in [Dialect::Sluice, Dialect::RocketMq] {
            let Ok(filter) = Filter::parse(text, dialect) else { continue };
            for value in &values {
                let message = format!("a\u{1}{value}\u{2}b\u{1}{value}");
                let verdict = filter.matches(message.as_bytes());
                let column: ArrayRef = Arc::new(StringViewArray::from(vec![value.as_str()]));
                let resolve =
                    |name: &Name| ["a", "b"].contains(&name.to_string().as_str()).then(|| column.clone());
                assert_eq!(filter.verdicts(1, &resolve).unwrap(), [verdict], "{text}");
            }
        }
    }
}

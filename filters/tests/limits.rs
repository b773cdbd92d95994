//! Bounds: what exceeds them is an error with a place, whatever the stack.

use sluice_filters::{Dialect, Error, Filter, Problem};

fn parse(text: &str) -> Result<Filter, Error> {
    Filter::parse(text, Dialect::Sluice)
}

/// The limit that a text exceeds.
fn limit(text: &str) -> usize {
    match *parse(text).expect_err("the text exceeds a limit").problem {
        Problem::Limit { max, .. } => max,
        problem => panic!("{problem}"),
    }
}

#[test]
fn a_text_of_64_kib_is_taken_and_one_more_byte_is_not() {
    let text = |len: usize| format!("a = '{}'", "x".repeat(len - 6));
    assert!(parse(&text(65_536)).is_ok());
    assert_eq!(limit(&text(65_537)), 65_536);
}

#[test]
fn nesting_stops_at_128_levels_of_any_kind() {
    let nested =
        |open: &str, close: &str, depth: usize| format!("{}a = 1{}", open.repeat(depth), close.repeat(depth));
    for (open, close) in [("(", ")"), ("NOT ", ""), ("NOT (", ")"), ("(NOT ", ")"), ("b = 1 OR (", ")")] {
        let levels = open.matches("NOT").count() + open.matches('(').count();
        assert!(parse(&nested(open, close, 120 / levels)).is_ok(), "{open}");
        assert_eq!(limit(&nested(open, close, 128)), 128, "{open}");
        assert_eq!(limit(&nested(open, close, 4_000)), 128, "{open}");
    }
    assert_eq!(limit(&"(".repeat(60_000)), 128);
    assert_eq!(limit(&format!("a IN {}", "(".repeat(60_000))), 128);
}

#[test]
fn long_chains_and_deep_nesting_fit_a_small_stack() {
    let chain = |term: &str, joint: &str| vec![term; 6_000].join(joint);
    let nested = format!("{}a=1{}", "NOT (".repeat(60), ")".repeat(60));
    for text in [chain("a=1", " OR "), chain("a=1", " AND "), chain("a", " OR "), nested] {
        let thread = std::thread::Builder::new().stack_size(512 * 1024);
        let parsed = thread.spawn(move || {
            let filter = parse(&text).unwrap();
            filter.row(&|_| Some("1"));
            filter.split();
            let cut = &text[..text.len() - 1];
            let _ = parse(&format!("{cut} ?"));
        });
        parsed.unwrap().join().unwrap();
    }
}

/// Texts of dialect `rocketmq` whose nesting has `depth` levels.
fn rocketmq_nests(depth: usize) -> Vec<String> {
    let nested = |open: &str, inner: &str, close: &str| {
        format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
    };
    vec![
        nested("(", "a = 1", ")"),
        nested("NOT ", "a", ""),
        nested("- + ", "a", "") + " = 1",
        nested("b = (", "a = 1", ")"),
        nested("NOT (c = 1 OR ", "a = 1", ")"),
        nested("(", "a = 1", " AND b = 1) IS NULL"),
        format!("a = 1{}", " = b".repeat(depth)),
        format!("a{}", " IS NULL".repeat(depth)),
        nested("-(", "a = 1", ") BETWEEN 1 AND 2"),
        nested("b BETWEEN -(", "a = 1", ") AND 2"),
    ]
}

#[test]
fn rocketmq_nesting_ends_before_a_small_stack_does() {
    let run = || {
        for nests in [99, 149, 297, 298, 32_000].map(rocketmq_nests) {
            for text in nests {
                let text = text.get(..60_000).unwrap_or(&text);
                if let Ok(filter) = Filter::parse(text, Dialect::RocketMq) {
                    filter.matches(b"a\x011\x02b\x01x");
                    filter.columns(3, &|_| None).unwrap();
                }
            }
        }
        for text in rocketmq_nests(99) {
            assert!(Filter::parse(&text, Dialect::RocketMq).is_ok(), "{text}");
        }
        let max = |text: &str| match *Filter::parse(text, Dialect::RocketMq).unwrap_err().problem {
            Problem::Limit { max, .. } => max,
            problem => panic!("{problem}"),
        };
        let parens = |depth: usize| format!("{}a = 1{}", "(".repeat(depth), ")".repeat(depth));
        assert!(Filter::parse(&parens(1_000), Dialect::RocketMq).is_ok());
        assert_eq!(max(&parens(1_001)), 1_000);
        assert_eq!(max(&format!("a = 1{}", " = b".repeat(300))), 300);
    };
    let thread = std::thread::Builder::new().stack_size(1 << 20);
    thread.spawn(run).unwrap().join().unwrap();
}

#[test]
fn long_chains_of_what_does_not_chain_end_at_the_second() {
    for text in ["a=a".to_owned() + &"=a".repeat(20_000), "a".to_owned() + &" IS NULL".repeat(8_000)] {
        assert!(parse(&text).expect_err("no chain").column < 20);
    }
}

#[test]
fn more_than_10_000_terms_are_refused() {
    assert!(parse(&vec!["a"; 10_000].join(" OR ")).is_ok());
    assert_eq!(limit(&vec!["a"; 10_001].join(" OR ")), 10_000);
}

#[test]
fn a_list_takes_10_000_members() {
    let list = |members: usize| format!("a IN ({})", vec!["1"; members].join(","));
    assert!(parse(&list(10_000)).is_ok());
    assert_eq!(limit(&list(10_001)), 10_000);
}

#[test]
fn a_pattern_takes_4_kib() {
    let like = |len: usize| format!("a LIKE '{}'", "x".repeat(len));
    assert!(parse(&like(4_096)).is_ok());
    assert_eq!(limit(&like(4_097)), 4_096);
}

#[test]
fn odd_values_of_a_megabyte_are_only_values() {
    let digits = "9".repeat(1 << 20);
    let zeros = format!("0.{}1", "0".repeat(1 << 20));
    let letters = "a".repeat(1 << 20);
    let filter = parse("a > 1 OR a LIKE '%a_a%b' OR a ILIKE '%A%b' OR a CONTAINS 'b' OR a = a").unwrap();
    for value in [&digits, &zeros, &letters, "\0", "", "\u{feff}1"] {
        assert_eq!(filter.row(&|_| Some(value)), Some(true));
    }
    assert_eq!(parse("a > 1").unwrap().row(&|_| Some(digits.as_str())), Some(true));
    assert_eq!(parse("a > 0").unwrap().row(&|_| Some(zeros.as_str())), Some(false));
}

#[test]
fn a_filter_goes_between_threads() {
    fn shared<T: Send + Sync + Clone>(_: &T) {}
    shared(&parse("a = 1").unwrap());
}

//! Counts work, in tests alone: looks at a byte or a token, moves of a condition, tests of a value.
//!
//! So that a test can tell what grows with the input from what grows faster, without a clock.

#[cfg(test)]
thread_local! {
    static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Counts steps; nothing outside of tests.
#[inline]
pub(crate) fn add(count: usize) {
    #[cfg(test)]
    STEPS.with(|steps| steps.set(steps.get() + count));
    #[cfg(not(test))]
    let _ = count;
}

/// The steps that something takes.
#[cfg(test)]
pub(crate) fn of(run: impl FnOnce()) -> usize {
    let before = STEPS.with(std::cell::Cell::get);
    run();
    STEPS.with(std::cell::Cell::get) - before
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::{Dialect, Filter, Verdict};

    /// Twice the input may take twice the steps, a little more for what is sorted.
    fn check_doubles(what: &str, size: usize, run: impl Fn(usize)) {
        let (one, two) = (of(|| run(size)), of(|| run(size * 2)));
        assert!(one >= size / 8, "{what}: only {one} steps are counted for {size}");
        assert!(two <= one * 2 + one / 4, "{what}: {one} steps for {size}, {two} for twice as much");
    }

    /// What is written, how large the smaller text is, the dialects, and the text.
    type Text = (&'static str, usize, &'static [Dialect], fn(usize) -> String);

    /// What is written `size` times or levels deep, by dialects that take it.
    #[rustfmt::skip]
    const TEXTS: &[Text] = &[
        ("AND", 2_000, BOTH, |size| chain("a = 'x'", " AND ", size)),
        ("OR", 2_000, BOTH, |size| chain("a > 5", " OR ", size)),
        ("names", 1_000, BOTH, |size| {
            (0..size).map(|at| format!("name_{at} = 'x'")).collect::<Vec<_>>().join(" OR ")
        }),
        ("AND in OR", 1_000, BOTH, |size| chain("a = 'x' AND b <> 'y'", " OR ", size)),
        ("IN", 4_000, BOTH, |size| format!("a IN ({})", chain("'xyz'", ", ", size))),
        ("IN with others", 2_000, BOTH, |size| {
            format!("a IN ({})", (0..size).map(|at| format!("'{at}'")).collect::<Vec<_>>().join(","))
        }),
        ("IN with numbers", 2_000, SLUICE, |size| {
            format!("a IN ({})", (0..size).map(|at| at.to_string()).collect::<Vec<_>>().join(","))
        }),
        ("parentheses", 50, SLUICE, |size| nested("(", "a = 'x'", ")", size)),
        ("parentheses", 400, ROCKETMQ, |size| nested("(", "a = 'x'", ")", size)),
        ("NOT", 30, SLUICE, |size| nested("NOT (", "a = 'x'", ")", size)),
        ("NOT", 140, ROCKETMQ, |size| nested("NOT (", "a CONTAINS 'x'", ")", size)),
        ("nested AND", 60, SLUICE, |size| nested("(", "a = 'x'", " AND b = 'y')", size)),
        ("nested AND", 280, ROCKETMQ, |size| nested("(", "a = 'x'", " AND b = 'y')", size / 2)),
        ("AND on the right", 60, SLUICE, |size| nested("(b = 'y' AND ", "a = 'x'", ")", size)),
        ("AND on the right", 280, ROCKETMQ, |size| nested("(b = 'y' AND ", "a = 'x'", ")", size / 2)),
        ("nested searches", 280, ROCKETMQ, |size| nested("NOT (", "a CONTAINS 'x'", " OR b CONTAINS 'y')", size / 4)),
        ("signs", 400, ROCKETMQ, |size| nested("+", "a", " = 1", size).replacen(" = 1", "", size - 1)),
        ("chains", 140, ROCKETMQ, |size| format!("a = 'x'{}", " = TRUE".repeat(size))),
        ("a long text", 20_000, BOTH, |size| format!("a = '{}'", "x".repeat(size))),
        ("quotes", 10_000, BOTH, |size| format!("a = '{}'", "''".repeat(size))),
        ("a long name", 20_000, BOTH, |size| format!("{} = 1", "x".repeat(size))),
        ("blanks", 20_000, BOTH, |size| format!("a ={}1", " ".repeat(size))),
        ("comments", 2_000, BOTH, |size| format!("a ={}1", "/* x */ ".repeat(size))),
        ("lines", 2_000, BOTH, |size| format!("a ={}1", "-- x\n".repeat(size))),
        ("two minus signs", 70, ROCKETMQ, |size| format!("a = {}1", "--".repeat(size))),
        ("LIKE", 1_000, SLUICE, |size| format!("a LIKE '%{}'", "x%".repeat(size))),
        ("quotes without end", 10_000, ROCKETMQ, |size| format!("a = '{}", "''".repeat(size))),
        ("comments without end", 10_000, BOTH, |size| format!("a = 1 {}", "/* ".repeat(size))),
    ];
    const BOTH: &[Dialect] = &[Dialect::Sluice, Dialect::RocketMq];
    const SLUICE: &[Dialect] = &[Dialect::Sluice];
    const ROCKETMQ: &[Dialect] = &[Dialect::RocketMq];

    fn chain(term: &str, joint: &str, size: usize) -> String {
        vec![term; size].join(joint)
    }

    fn nested(open: &str, inner: &str, close: &str, size: usize) -> String {
        format!("{}{inner}{}", open.repeat(size), close.repeat(size))
    }

    #[test]
    fn a_text_of_twice_the_length_takes_twice_the_steps() {
        for (what, size, dialects, text) in TEXTS {
            for dialect in *dialects {
                check_doubles(&format!("{what}, {dialect:?}"), *size, |size| {
                    let parsed = Filter::parse(&text(size), *dialect);
                    let problem = parsed.err().map(|error| error.to_string()).unwrap_or_default();
                    assert!(
                        problem.is_empty() || what.contains("without end"),
                        "{what}, {dialect:?}: {problem}"
                    );
                });
            }
        }
    }

    #[test]
    fn an_expression_of_twice_the_length_is_evaluated_in_twice_the_steps() {
        for (what, size, dialects, text) in TEXTS {
            for dialect in *dialects {
                let filters = [*size, size * 2].map(|size| Filter::parse(&text(size), *dialect));
                let [Ok(one), Ok(two)] = &filters else { continue };
                for properties in [&b"a\x01x\x02b\x01y"[..], b"a\x01no\x02", "a\u{1}é\u{2}".as_bytes(), b""]
                {
                    let [one, two] = [one, two].map(|filter| of(|| _ = filter.matches(properties)));
                    assert!(two <= one * 2 + one / 4 + 8, "{what}, {dialect:?}: {one} and {two} steps");
                }
            }
        }
    }

    #[test]
    fn a_message_of_twice_the_length_takes_twice_the_steps() {
        let names = (0..60).map(|at| format!("property_{at} = 'x'")).collect::<Vec<_>>().join(" OR ");
        for dialect in BOTH {
            for text in ["a = 'x'", "a = 'x' OR long_name > 5 OR long_more IS NULL", names.as_str()] {
                let filter = Filter::parse(text, *dialect).unwrap();
                for value in ["x", "é"] {
                    check_doubles(&format!("{text} over {value}, {dialect:?}"), 4_000, |size| {
                        let encoded = (0..size).fold(String::new(), |mut encoded, at| {
                            let name = ["a", "long_name", "property_1", "other"][at % 4];
                            let _ = write!(encoded, "{name}\u{1}{value}\u{2}");
                            encoded
                        });
                        filter.matches(encoded.as_bytes());
                    });
                }
            }
        }
    }

    #[test]
    fn a_long_value_takes_steps_as_it_is_long() {
        for text in ["a LIKE '%xy%xy%z%'", "a ILIKE '%x_y%'", "a LIKE '%x_x_y%'", "a ILIKE '%xxxxxxxxy%'"] {
            let filter = Filter::parse(text, Dialect::Sluice).unwrap();
            check_doubles(text, 10_000, |size| {
                assert_eq!(filter.matches(format!("a\u{1}{}", "x".repeat(size)).as_bytes()), Verdict::False);
            });
        }
    }

    #[test]
    #[should_panic(expected = "for twice as much")]
    fn what_grows_faster_is_told() {
        check_doubles("squares", 100, |size| add(size * size));
    }

    #[test]
    #[should_panic(expected = "are counted")]
    fn what_is_not_counted_is_told() {
        check_doubles("nothing", 100, |_| {});
    }
}

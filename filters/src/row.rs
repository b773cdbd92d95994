//! Evaluation over the values of one row, which lie by slot. Nothing is allocated, but by functions that
//! make new text.
//!
//! The rules of dialect `sluice` for one value are here too, so that [`crate::column`] and the folding of
//! constants share them; those of dialect `rocketmq` are in [`crate::engine`].

use crate::engine;
use crate::expr::{Condition, EngineTest, Literal, Members, Op, Term, Test, Value};
use crate::number::Number;
use crate::steps;
use crate::time;
use crate::value::{Scalar, Verdict};
use crate::values::compute;

/// Evaluates with three-valued logic, from left to right; a failure ends it.
pub(crate) fn evaluate(condition: &Condition, values: &[Scalar<'_>]) -> Verdict {
    steps::add(1);
    match condition {
        Condition::Term(term) => match (&term.value, &term.test) {
            (_, Test::Engine(test)) => engine_term(&term.value, test, values),
            (Value::Slot(slot), test) => answer(at(values, *slot), test, values),
            _ => nested(term, values),
        },
        Condition::And(conditions) => {
            let mut all = Verdict::True;
            for condition in conditions {
                match evaluate(condition, values) {
                    Verdict::True => {}
                    Verdict::Unknown => all = Verdict::Unknown,
                    ended => return ended,
                }
            }
            all
        }
        Condition::Or(conditions) => {
            let mut any = Verdict::False;
            for condition in conditions {
                match evaluate(condition, values) {
                    Verdict::False => {}
                    Verdict::Unknown => any = Verdict::Unknown,
                    ended => return ended,
                }
            }
            any
        }
        Condition::Not(condition) => !evaluate(condition, values),
        Condition::Is(condition, value) => match evaluate(condition, values) {
            Verdict::Failed => Verdict::Failed,
            found => (found.known() == *value).into(),
        },
        Condition::Constant(value) => (*value).into(),
    }
}

#[inline]
fn at<'a>(values: &[Scalar<'a>], slot: usize) -> Scalar<'a> {
    values.get(slot).copied().unwrap_or(Scalar::Null)
}

/// A test of a value that is more than a name.
fn nested(term: &Term, values: &[Scalar<'_>]) -> Verdict {
    match compute(&term.value, values) {
        Some(found) => answer(found.scalar(), &term.test, values),
        None => Verdict::Failed,
    }
}

/// A test of RocketMQ's.
#[inline]
fn engine_term(value: &Value, test: &EngineTest, values: &[Scalar<'_>]) -> Verdict {
    match value {
        // The engine does not look at the value then, which could fail.
        _ if matches!(test, EngineTest::Search { part, .. } if part.text().is_empty()) => Verdict::False,
        Value::Slot(slot) => engine_scalar(at(values, *slot), test, values),
        nested => match compute(nested, values) {
            Some(found) => engine_scalar(found.scalar(), test, values),
            None => Verdict::Failed,
        },
    }
}

#[inline]
fn engine_scalar(left: Scalar<'_>, test: &EngineTest, values: &[Scalar<'_>]) -> Verdict {
    match test {
        EngineTest::Against(op, right) => engine_compare(left, *op, right, values),
        EngineTest::Between { low, high, negated } => {
            let (from, to) = if *negated { (Op::Lt, Op::Gt) } else { (Op::Ge, Op::Le) };
            match (engine_compare(left, from, low, values), negated) {
                (Verdict::Failed, _) => Verdict::Failed,
                (Verdict::False, false) => Verdict::False,
                (Verdict::True, true) => Verdict::True,
                (first, _) => match (engine_compare(left, to, high, values), negated) {
                    (Verdict::True, false) | (Verdict::False, true) => first,
                    (second, _) => second,
                },
            }
        }
        test => engine_answer(left, test),
    }
}

/// A comparison whose right side is looked at where the engine does that.
fn engine_compare(left: Scalar<'_>, op: Op, right: &Value, values: &[Scalar<'_>]) -> Verdict {
    if left == Scalar::Null && op.is_order() {
        return Verdict::Unknown;
    }
    match compute(right, values) {
        Some(right) => engine::compare(left, op, right.scalar()),
        None => Verdict::Failed,
    }
}

/// The engine's answer for one value; tests of several values are unknown here.
#[inline]
pub(crate) fn engine_answer(value: Scalar<'_>, test: &EngineTest) -> Verdict {
    match (test, value) {
        (EngineTest::Compare(op, literal), value) => engine::compare(value, *op, literal.scalar()),
        (EngineTest::CompareLeft(literal, op), value) => engine::compare(literal.scalar(), *op, value),
        (EngineTest::Search { part, negated }, Scalar::Text(text)) => {
            (!part.text().is_empty() && part.is_in(text.as_bytes()) != *negated).into()
        }
        (EngineTest::Holds, Scalar::Null) | (EngineTest::Against(..) | EngineTest::Between { .. }, _) => {
            Verdict::Unknown
        }
        (EngineTest::Search { .. } | EngineTest::Holds, _) => Verdict::False,
    }
}

/// SQL's AND.
pub(crate) fn and(left: Option<bool>, right: Option<bool>) -> Option<bool> {
    match (left, right) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

/// SQL's OR.
pub(crate) fn or(left: Option<bool>, right: Option<bool>) -> Option<bool> {
    match (left, right) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}

/// The answer of a test of dialect `sluice`.
#[inline]
fn answer(value: Scalar<'_>, test: &Test, values: &[Scalar<'_>]) -> Verdict {
    match test {
        Test::Against(op, right) => match compute(right, values) {
            Some(right) => compare(value, *op, right.scalar()).into(),
            None => Verdict::Failed,
        },
        test => answer_one(value, test).into(),
    }
}

/// The answer of a test that needs no other value.
#[inline]
pub(crate) fn answer_one(value: Scalar<'_>, test: &Test) -> Option<bool> {
    match (test, value) {
        (_, Scalar::Unknown) => None,
        (Test::IsNull, value) => Some(value == Scalar::Null),
        (_, Scalar::Null) => None,
        (test, Scalar::Text(text)) => answer_text(text, test),
        (Test::Holds, Scalar::Truth(value)) => Some(value),
        (Test::Compare(op, literal), value) => compare_literal(value, *op, literal),
        (Test::In(members), Scalar::Time(at)) => members.has_time(at),
        (Test::In(members), value) => {
            let found = members.has_number(number(value)?);
            (found || !members.null).then_some(found)
        }
        _ => None,
    }
}

/// The answer of a test for a text.
#[inline]
pub(crate) fn answer_text(value: &str, test: &Test) -> Option<bool> {
    match test {
        Test::IsNull => Some(false),
        Test::Holds => truth(value),
        Test::Compare(op, literal) => compare_text(value, *op, literal),
        Test::In(members) => member(value, members, || Number::parse(value)),
        Test::Like(pattern) => Some(pattern.matches(value)),
        Test::Contains(part) => Some(part.find(value.as_bytes()).is_some()),
        Test::StartsWith(part) => Some(value.starts_with(part.as_str())),
        Test::EndsWith(part) => Some(value.ends_with(part.as_str())),
        Test::Matches(pattern) => Some(pattern.is_match(value)),
        Test::Against(..) | Test::Engine(_) => None,
    }
}

/// A text against a literal: the literal says as what the text counts.
#[inline]
pub(crate) fn compare_text(text: &str, op: Op, literal: &Literal) -> Option<bool> {
    match literal {
        Literal::Text(other) => Some(match op {
            Op::Eq => text == other,
            Op::Ne => text != other,
            op => op.holds(text.cmp(other)),
        }),
        Literal::Number(other) => Some(op.holds(Number::parse(text)?.compare(*other))),
        Literal::Truth(other) => Some(op.holds(truth(text)?.cmp(other))),
        Literal::Time(other) => Some(op.holds(time::parse(text)?.cmp(other))),
        Literal::Null | Literal::Interval(_) | Literal::Int(_) | Literal::Long(_) | Literal::Double(_) => {
            None
        }
    }
}

/// A value that is no text against a literal.
fn compare_literal(value: Scalar<'_>, op: Op, literal: &Literal) -> Option<bool> {
    let order = match (value, literal) {
        (Scalar::Truth(value), Literal::Truth(literal)) => value.cmp(literal),
        (Scalar::Time(at), Literal::Number(number)) => time::compare_millis(at, *number),
        (Scalar::Time(at), Literal::Text(text)) => at.cmp(&time::parse(text)?),
        (Scalar::Time(at), Literal::Time(literal)) => at.cmp(literal),
        (Scalar::Interval(length), Literal::Interval(literal)) => length.cmp(literal),
        (value, Literal::Number(literal)) => number(value)?.compare(*literal),
        _ => return None,
    };
    Some(op.holds(order))
}

/// Two values: a text counts as what is on the other side, and as milliseconds against a time.
pub(crate) fn compare(left: Scalar<'_>, op: Op, right: Scalar<'_>) -> Option<bool> {
    let order = match (left, right) {
        (Scalar::Text(left), Scalar::Text(right)) => left.cmp(right),
        (Scalar::Time(left), Scalar::Time(right)) | (Scalar::Interval(left), Scalar::Interval(right)) => {
            left.cmp(&right)
        }
        (Scalar::Time(left), right) => time::compare_millis(left, number(right)?),
        (left, Scalar::Time(right)) => time::compare_millis(right, number(left)?).reverse(),
        (Scalar::Truth(_), _) | (_, Scalar::Truth(_)) => truth_of(left)?.cmp(&truth_of(right)?),
        _ => number(left)?.compare(number(right)?),
    };
    Some(op.holds(order))
}

/// The number of a value: a text counts as one if it is one.
pub(crate) fn number(value: Scalar<'_>) -> Option<Number> {
    match value {
        Scalar::Text(text) => Number::parse(text),
        Scalar::Int(value) => Some(Number::Whole(i64::from(value))),
        Scalar::Long(value) => Some(Number::Whole(value)),
        Scalar::Double(value) => Number::from_f64(value),
        _ => None,
    }
}

fn truth_of(value: Scalar<'_>) -> Option<bool> {
    match value {
        Scalar::Truth(value) => Some(value),
        Scalar::Text(text) => truth(text),
        _ => None,
    }
}

/// The truth value that a text stands for.
pub(crate) fn truth(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// Whether a text is in a list: the same as comparing it with each member and joining by OR.
pub(crate) fn member(text: &str, members: &Members, number: impl FnOnce() -> Option<Number>) -> Option<bool> {
    if members.has_text(text) {
        return Some(true);
    }
    let mut absent = if members.null { None } else { Some(false) };
    if !members.numbers.is_empty() {
        match number() {
            Some(number) if members.has_number(number) => return Some(true),
            Some(_) => {}
            None => absent = None,
        }
    }
    absent
}

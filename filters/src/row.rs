//! Evaluation over one message: properties are text, looked up by name. Nothing is allocated.
//!
//! The rules for one text are here too, so that [`crate::column`] and the folding of constants share them.

use crate::Name;
use crate::expr::{Condition, Literal, Members, Op, Test};
use crate::number::Number;

/// Evaluates with three-valued logic. An envelope column or a field of the body makes its term UNKNOWN,
/// whatever is asked of it.
pub(crate) fn evaluate<'a>(
    condition: &Condition,
    names: &[Name],
    property: &dyn Fn(&str) -> Option<&'a str>,
) -> Option<bool> {
    match condition {
        Condition::Constant(value) => *value,
        Condition::And(conditions) => {
            let mut all = Some(true);
            for condition in conditions {
                all = and(all, evaluate(condition, names, property));
                if all == Some(false) {
                    break;
                }
            }
            all
        }
        Condition::Or(conditions) => {
            let mut any = Some(false);
            for condition in conditions {
                any = or(any, evaluate(condition, names, property));
                if any == Some(true) {
                    break;
                }
            }
            any
        }
        Condition::Not(condition) => evaluate(condition, names, property).map(|value| !value),
        Condition::Is(condition, value) => Some(evaluate(condition, names, property) == *value),
        Condition::Term(term) => {
            let value = |slot: usize| match names.get(slot) {
                Some(Name::Property(name)) => Some(property(name)),
                _ => None,
            };
            let left = value(term.slot)?;
            match &term.test {
                Test::IsNull => Some(left.is_none()),
                Test::Pair(op, right) => Some(op.holds(left?.cmp(value(*right)??))),
                test => answer(left?, test),
            }
        }
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

/// The answer of a test for a text. [`Test::Pair`] needs a second value and is UNKNOWN here.
pub(crate) fn answer(value: &str, test: &Test) -> Option<bool> {
    match test {
        Test::IsNull => Some(false),
        Test::Holds => truth(value),
        Test::Compare(op, literal) => compare_text(value, *op, literal),
        Test::In(members) => member(value, members, || Number::parse(value)),
        Test::Like(pattern) => Some(pattern.matches(value)),
        Test::Contains(part) => Some(value.contains(part.as_str())),
        Test::StartsWith(part) => Some(value.starts_with(part.as_str())),
        Test::EndsWith(part) => Some(value.ends_with(part.as_str())),
        Test::Pair(..) => None,
    }
}

/// A text against a literal: the literal says as what the text counts.
pub(crate) fn compare_text(text: &str, op: Op, literal: &Literal) -> Option<bool> {
    match literal {
        Literal::Null => None,
        Literal::Text(other) => Some(op.holds(text.cmp(other))),
        Literal::Number(other) => Some(op.holds(Number::parse(text)?.compare(*other))),
        Literal::Truth(other) => Some(op.holds(truth(text)?.cmp(other))),
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

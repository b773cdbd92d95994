//! A condition made for encoded properties of ASCII, as nearly all are: its tests work on the bytes.
//!
//! Short texts are one word each and compared as such, and so are texts of up to eight digits read. All else
//! is left to [`crate::row`], whose answers these are. Conditions with values that are more than a property
//! have no plan.

use crate::expr::{Condition, EngineTest, Term, Test, Value};
use crate::steps;
use crate::value::Verdict;
pub(crate) use quick::{INLINE_BYTES_MAX, Message, Quick, Span, WORDS_MAX};

mod quick;

/// A condition over properties.
#[derive(Debug)]
pub(crate) enum Plan {
    Constant(Verdict),
    And(Box<[Plan]>),
    Or(Box<[Plan]>),
    Not(Box<Plan>),
    Is(Box<Plan>, Option<bool>),
    /// Of the property in a slot.
    Quick(usize, Quick),
    /// A test of the property in a slot, as a condition.
    Other(usize, Condition),
}

impl Plan {
    /// The plan of a condition, if it can have one.
    pub(crate) fn new(condition: &Condition) -> Option<Self> {
        let all = |conditions: &[Condition]| conditions.iter().map(Self::new).collect::<Option<Vec<_>>>();
        Some(match condition {
            Condition::Constant(value) => Self::Constant((*value).into()),
            Condition::And(conditions) => Self::And(narrowed(all(conditions)?).into()),
            Condition::Or(conditions) => Self::Or(merged(all(conditions)?).into()),
            Condition::Not(inner) => match Self::new(inner)? {
                Self::Quick(slot, Quick::IsNull { is }) => Self::Quick(slot, Quick::IsNull { is: !is }),
                Self::Quick(slot, Quick::Words { words, is_in }) => {
                    Self::Quick(slot, Quick::Words { words, is_in: !is_in })
                }
                inner => Self::Not(Box::new(inner)),
            },
            Condition::Is(inner, value) => Self::Is(Box::new(Self::new(inner)?), *value),
            Condition::Term(term) => Self::term(term)?,
        })
    }

    fn term(term: &Term) -> Option<Self> {
        let Value::Slot(slot) = term.value else { return None };
        if let Test::Against(..) | Test::Engine(EngineTest::Against(..) | EngineTest::Between { .. }) =
            &term.test
        {
            return None;
        }
        Some(match Quick::new(&term.test) {
            Some(quick) => Self::Quick(slot, quick),
            None => Self::Other(slot, Condition::Term(Box::new(term.clone()))),
        })
    }

    /// The answer for a message, as [`row::evaluate`] has it.
    #[inline]
    pub(crate) fn evaluate(&self, message: &Message<'_>) -> Verdict {
        match self {
            Self::Quick(slot, quick) => quick.answer(message, *slot),
            joined => joined.joined(message),
        }
    }

    fn joined(&self, message: &Message<'_>) -> Verdict {
        steps::add(1);
        match self {
            Self::And(plans) => {
                let mut all = Verdict::True;
                for plan in plans {
                    match plan.evaluate(message) {
                        Verdict::True => {}
                        Verdict::Unknown => all = Verdict::Unknown,
                        ended => return ended,
                    }
                }
                all
            }
            Self::Or(plans) => {
                let mut any = Verdict::False;
                for plan in plans {
                    match plan.evaluate(message) {
                        Verdict::False => {}
                        Verdict::Unknown => any = Verdict::Unknown,
                        ended => return ended,
                    }
                }
                any
            }
            Self::Not(plan) => !plan.evaluate(message),
            Self::Is(plan, value) => match plan.evaluate(message) {
                Verdict::Failed => Verdict::Failed,
                found => (found.known() == *value).into(),
            },
            Self::Quick(slot, quick) => quick.answer(message, *slot),
            Self::Other(slot, Condition::Term(term)) => message.other(*slot, &term.test),
            // Nothing else is one.
            Self::Other(..) => Verdict::Unknown,
            Self::Constant(value) => *value,
        }
    }
}

/// Texts of one slot that are compared one after another are looked for together. What joins them is OR: the
/// order of two that never fail does not matter.
fn merged(plans: Vec<Plan>) -> Vec<Plan> {
    let mut merged: Vec<Plan> = Vec::with_capacity(plans.len());
    for plan in plans {
        if let (
            Some(Plan::Quick(before, Quick::Words { words: known, is_in: true })),
            Plan::Quick(slot, Quick::Words { words, is_in: true }),
        ) = (merged.last_mut(), &plan)
            && before == slot
            && known.len() + words.len() <= WORDS_MAX
        {
            *known = known.iter().chain(words).copied().collect();
        } else {
            merged.push(plan);
        }
    }
    merged
}

/// Comparisons of one slot with numbers, one after another, are one range.
fn narrowed(plans: Vec<Plan>) -> Vec<Plan> {
    let mut narrowed: Vec<Plan> = Vec::with_capacity(plans.len());
    for plan in plans {
        if let (
            Some(Plan::Quick(before, Quick::Range { from, to, is_in: true, tests })),
            Plan::Quick(slot, Quick::Range { from: low, to: high, is_in: true, tests: more }),
        ) = (narrowed.last_mut(), &plan)
            && before == slot
        {
            *from = (*from).max(*low);
            *to = (*to).min(*high);
            *tests = tests.iter().chain(more).cloned().collect();
        } else {
            narrowed.push(plan);
        }
    }
    narrowed
}

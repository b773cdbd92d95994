//! Typed expressions: conditions over named values, and how they are joined.
//!
//! Knows no dialect and evaluates nothing over rows.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::Range;

use crate::like::Pattern;
use crate::number::Number;
use crate::row;

mod compile;

pub(crate) use compile::compile;

/// A three-valued condition. `None` stands for UNKNOWN.
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    Constant(Option<bool>),
    /// At least two.
    And(Vec<Condition>),
    /// At least two.
    Or(Vec<Condition>),
    Not(Box<Condition>),
    /// TRUE if the condition has the value, else FALSE.
    Is(Box<Condition>, Option<bool>),
    Term(Box<Term>),
}

/// A test of one named value.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    /// The value's place among the names.
    pub(crate) slot: usize,
    pub(crate) test: Test,
    /// Where it stands, in bytes of the text.
    pub(crate) span: Range<usize>,
}

/// What is asked of a value. All but [`Test::IsNull`] are UNKNOWN for null.
#[derive(Clone, Debug)]
pub(crate) enum Test {
    IsNull,
    /// The value is a truth value, and this is it.
    Holds,
    Compare(Op, Literal),
    /// Against another named value.
    Pair(Op, usize),
    In(Members),
    Like(Pattern),
    Contains(String),
    StartsWith(String),
    EndsWith(String),
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// A constant.
#[derive(Clone, Debug)]
pub(crate) enum Literal {
    Null,
    Truth(bool),
    Number(Number),
    Text(String),
}

/// The members of an `IN` list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members {
    /// Few texts, looked through one by one.
    pub(crate) few: Vec<String>,
    /// Many texts, hashed.
    pub(crate) many: HashSet<String>,
    /// Numbers by [`Number::key`].
    pub(crate) numbers: HashSet<(bool, u64)>,
    /// NULL is a member, so what is no other member is UNKNOWN.
    pub(crate) null: bool,
}

impl Op {
    pub(crate) fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Eq => order.is_eq(),
            Self::Ne => order.is_ne(),
            Self::Lt => order.is_lt(),
            Self::Le => order.is_le(),
            Self::Gt => order.is_gt(),
            Self::Ge => order.is_ge(),
        }
    }

    /// The comparison with its sides exchanged.
    pub(crate) fn flipped(self) -> Self {
        match self {
            Self::Lt => Self::Gt,
            Self::Le => Self::Ge,
            Self::Gt => Self::Lt,
            Self::Ge => Self::Le,
            same => same,
        }
    }

    /// Whether it asks for an order, and not only for equality.
    pub(crate) fn is_order(self) -> bool {
        !matches!(self, Self::Eq | Self::Ne)
    }
}

impl Members {
    pub(crate) fn has_text(&self, text: &str) -> bool {
        self.few.iter().any(|member| member == text) || self.many.contains(text)
    }

    pub(crate) fn has_number(&self, number: Number) -> bool {
        self.numbers.contains(&number.key())
    }

    pub(crate) fn has_texts(&self) -> bool {
        !self.few.is_empty() || !self.many.is_empty()
    }
}

impl Condition {
    /// Calls `visit` for each term.
    pub(crate) fn visit<'a>(&'a self, visit: &mut dyn FnMut(&'a Term)) {
        match self {
            Self::Constant(_) => {}
            Self::And(conditions) | Self::Or(conditions) => {
                for condition in conditions {
                    condition.visit(visit);
                }
            }
            Self::Not(condition) | Self::Is(condition, _) => condition.visit(visit),
            Self::Term(term) => visit(term),
        }
    }

    pub(crate) fn not(self) -> Self {
        match self {
            Self::Constant(value) => Self::Constant(value.map(|value| !value)),
            condition => Self::Not(Box::new(condition)),
        }
    }

    pub(crate) fn is(self, value: Option<bool>) -> Self {
        match self {
            Self::Constant(constant) => Self::Constant(Some(constant == value)),
            condition => Self::Is(Box::new(condition), value),
        }
    }

    /// `self` or its negation.
    pub(crate) fn negated_if(self, negated: bool) -> Self {
        if negated { self.not() } else { self }
    }

    /// Conditions joined by AND, or by OR if not `all`. Constants become one, and none is kept that can't
    /// change the result; terms are kept all, so that each name stays known.
    pub(crate) fn join(conditions: Vec<Self>, all: bool) -> Self {
        let neutral = Some(all);
        let mut constant = neutral;
        let mut kept = Vec::with_capacity(conditions.len());
        for condition in conditions {
            match condition {
                Self::Constant(value) if all => constant = row::and(constant, value),
                Self::Constant(value) => constant = row::or(constant, value),
                Self::And(inner) if all => kept.extend(inner),
                Self::Or(inner) if !all => kept.extend(inner),
                other => kept.push(other),
            }
        }
        if constant != neutral || kept.is_empty() {
            kept.insert(0, Self::Constant(constant));
        }
        match kept.len() {
            1 => kept.remove(0),
            _ if all => Self::And(kept),
            _ => Self::Or(kept),
        }
    }
}

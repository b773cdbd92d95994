//! Typed expressions: conditions over named values, and how they are joined.
//!
//! Knows no dialect and evaluates nothing over rows.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::Range;

use memchr::memmem::Finder;
use regex::Regex;

use crate::like::Pattern;
use crate::number::Number;
use crate::row;
use crate::steps;
use crate::time;
use crate::value::Scalar;

mod compile;

pub(crate) use compile::{compile, compile_value};

/// Most terms (comparisons and other tests) of an expression.
pub(crate) const TERMS_MAX: usize = 10_000;
/// Most members of one `IN` list.
pub(crate) const MEMBERS_MAX: usize = 10_000;
/// Up to this many texts of a list are looked through one by one.
const FEW_MAX: usize = 8;

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

/// A value that a test is about.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// A named value, by its place among the names: what most tests are about.
    Slot(usize),
    Literal(Literal),
    /// RocketMQ's minus: null for all but numbers.
    Minus(Box<Value>),
    /// A truth value, or null.
    Condition(Box<Condition>),
    Arithmetic(Box<(Value, Arithmetic, Value)>),
    Cast(Box<Value>, Type),
    Call(Function, Vec<Value>),
}

/// What dialect `sluice` computes of two numbers, or of times and lengths of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// What a `CAST` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Whole,
    Number,
    Text,
    Truth,
    Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Lower,
    Upper,
    Length,
    Coalesce,
    /// `||`: null if any is.
    Concat,
}

/// A test of one value.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    pub(crate) value: Value,
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
    /// Against another value.
    Against(Op, Value),
    In(Members),
    Like(Pattern),
    Contains(Box<Finder<'static>>),
    StartsWith(String),
    EndsWith(String),
    /// Some part of the text matches.
    Matches(Regex),
    /// As RocketMQ's engine does it.
    Engine(EngineTest),
}

/// What RocketMQ's engine asks of a value, see [`crate::engine`]. Its `IS NULL` and `IN` are those of [`Test`].
#[derive(Clone, Debug)]
pub(crate) enum EngineTest {
    /// A condition by itself: never TRUE.
    Holds,
    Compare(Op, Literal),
    /// With the literal on the left.
    CompareLeft(Literal, Op),
    Against(Op, Value),
    /// Two comparisons of a value that is more than a name, joined by AND, or by OR if negated.
    Between {
        low: Value,
        high: Value,
        negated: bool,
    },
    /// FALSE for what is no text, and for an empty part.
    Search {
        part: Part,
        negated: bool,
    },
}

/// A part of a text, and where it is looked for.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    Contains(Box<Finder<'static>>),
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
    /// In ns since 1970-01-01 UTC.
    Time(i128),
    /// A length of time in ns.
    Interval(i128),
    /// A number of RocketMQ's, whose type counts.
    Int(i32),
    Long(i64),
    Double(f64),
}

impl Literal {
    /// The literal as a value.
    pub(crate) fn scalar(&self) -> Scalar<'_> {
        match self {
            Self::Null => Scalar::Null,
            Self::Truth(value) => Scalar::Truth(*value),
            Self::Number(Number::Whole(value)) | Self::Long(value) => Scalar::Long(*value),
            Self::Number(Number::Double(value)) | Self::Double(value) => Scalar::Double(*value),
            Self::Text(text) => Scalar::Text(text),
            Self::Int(value) => Scalar::Int(*value),
            Self::Time(at) => Scalar::Time(*at),
            Self::Interval(length) => Scalar::Interval(*length),
        }
    }
}

impl Part {
    /// What is looked for.
    pub(crate) fn text(&self) -> &[u8] {
        match self {
            Self::Contains(part) => part.needle(),
            Self::StartsWith(part) | Self::EndsWith(part) => part.as_bytes(),
        }
    }

    pub(crate) fn is_in(&self, text: &[u8]) -> bool {
        match self {
            Self::Contains(part) => part.find(text).is_some(),
            Self::StartsWith(part) => text.starts_with(part.as_bytes()),
            Self::EndsWith(part) => text.ends_with(part.as_bytes()),
        }
    }
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
    /// The members as times, in ns; `None` if one is none.
    pub(crate) times: Option<Vec<i128>>,
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
    /// A list of texts.
    pub(crate) fn of_texts(texts: HashSet<String>) -> Self {
        let mut members = Self { many: texts, ..Self::default() };
        members.settle();
        members
    }

    /// Sees what the members are as times, and lays few texts in a row.
    pub(crate) fn settle(&mut self) {
        let numbers = self.numbers.iter().map(|(is_whole, bits)| {
            let millis = i128::from(bits.cast_signed());
            is_whole.then_some(millis * time::MILLI)
        });
        self.times = self.many.iter().map(|text| time::parse(text)).chain(numbers).collect();
        if self.many.len() <= FEW_MAX {
            self.few = self.many.drain().collect();
            self.few.sort_unstable();
        }
    }

    pub(crate) fn has_text(&self, text: &str) -> bool {
        steps::add(1 + self.few.len());
        self.few.iter().any(|member| member == text) || self.many.contains(text)
    }

    pub(crate) fn has_number(&self, number: Number) -> bool {
        self.numbers.contains(&number.key())
    }

    pub(crate) fn has_time(&self, at: i128) -> Option<bool> {
        let found = self.times.as_ref()?.contains(&at);
        (found || !self.null).then_some(found)
    }

    pub(crate) fn has_texts(&self) -> bool {
        !self.few.is_empty() || !self.many.is_empty()
    }
}

impl Term {
    /// The values that it reads.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Value> {
        let [second, third] = match &self.test {
            Test::Against(_, value) | Test::Engine(EngineTest::Against(_, value)) => [Some(value), None],
            Test::Engine(EngineTest::Between { low, high, .. }) => [Some(low), Some(high)],
            _ => [None, None],
        };
        std::iter::once(&self.value).chain(second).chain(third)
    }

    /// The slots that it reads, but not those of conditions inside.
    pub(crate) fn slots(&self) -> impl Iterator<Item = usize> {
        let mut slots = Vec::new();
        for value in self.values() {
            value.visit_slots(&mut |slot| slots.push(slot));
        }
        slots.into_iter()
    }
}

impl Value {
    fn visit_terms<'a>(&'a self, visit: &mut dyn FnMut(&'a Term)) {
        match self {
            Self::Condition(condition) => condition.visit(visit),
            other => other.inner().for_each(|value| value.visit_terms(visit)),
        }
    }

    pub(crate) fn visit_slots(&self, visit: &mut dyn FnMut(usize)) {
        match self {
            Self::Slot(slot) => visit(*slot),
            other => other.inner().for_each(|value| value.visit_slots(visit)),
        }
    }

    /// The values that it is made of.
    pub(crate) fn inner(&self) -> impl Iterator<Item = &Value> {
        let (first, second, list): (_, _, &[Value]) = match self {
            Self::Slot(_) | Self::Literal(_) | Self::Condition(_) => (None, None, &[]),
            Self::Minus(value) | Self::Cast(value, _) => (Some(&**value), None, &[]),
            Self::Arithmetic(sides) => (Some(&sides.0), Some(&sides.2), &[]),
            Self::Call(_, values) => (None, None, values),
        };
        first.into_iter().chain(second).chain(list)
    }
}

impl Condition {
    /// Calls `visit` for each term, those inside of values too.
    pub(crate) fn visit<'a>(&'a self, visit: &mut dyn FnMut(&'a Term)) {
        steps::add(1);
        match self {
            Self::Constant(_) => {}
            Self::And(conditions) | Self::Or(conditions) => {
                for condition in conditions {
                    condition.visit(visit);
                }
            }
            Self::Not(condition) | Self::Is(condition, _) => condition.visit(visit),
            Self::Term(term) => {
                visit(term);
                for value in term.values() {
                    value.visit_terms(visit);
                }
            }
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

    /// The condition with all that one operator joins, in parentheses or not, side by side. Done once for the
    /// whole: at each joint, deep nesting would move its innermost conditions again and again.
    pub(crate) fn flat(self) -> Self {
        let side_by_side = |conditions: Vec<Self>, all: bool| {
            let mut flat = Vec::with_capacity(conditions.len());
            for condition in conditions {
                condition.flat_into(all, &mut flat);
            }
            flat
        };
        match self {
            Self::And(conditions) => Self::And(side_by_side(conditions, true)),
            Self::Or(conditions) => Self::Or(side_by_side(conditions, false)),
            Self::Not(inner) => Self::Not(Box::new(inner.flat())),
            Self::Is(inner, value) => Self::Is(Box::new(inner.flat()), value),
            leaf @ (Self::Term(_) | Self::Constant(_)) => leaf,
        }
    }

    fn flat_into(self, all: bool, flat: &mut Vec<Self>) {
        steps::add(1);
        match self {
            Self::And(inner) if all => inner.into_iter().for_each(|inner| inner.flat_into(all, flat)),
            Self::Or(inner) if !all => inner.into_iter().for_each(|inner| inner.flat_into(all, flat)),
            other => flat.push(other.flat()),
        }
    }

    /// Conditions joined by AND, or by OR if not `all`. Constants become one, and none is kept that can't
    /// change the result; terms are kept all, so that each name stays known.
    pub(crate) fn join(conditions: Vec<Self>, all: bool) -> Self {
        let neutral = Some(all);
        let mut constant = neutral;
        let mut kept = Vec::with_capacity(conditions.len());
        for condition in conditions {
            steps::add(1);
            match condition {
                Self::Constant(value) if all => constant = row::and(constant, value),
                Self::Constant(value) => constant = row::or(constant, value),
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

    /// As [`Condition::join`], but for conditions that may fail: none is moved, and one is left out only
    /// where it can't be reached or can't matter.
    pub(crate) fn join_in_order(conditions: Vec<Self>, all: bool) -> Self {
        let mut kept = Vec::with_capacity(conditions.len());
        for condition in conditions {
            steps::add(1);
            match condition {
                Self::Constant(Some(value)) if value == all => {}
                Self::Constant(Some(value)) => {
                    kept.push(Self::Constant(Some(value)));
                    break;
                }
                other => kept.push(other),
            }
        }
        match kept.len() {
            0 => Self::Constant(Some(all)),
            1 => kept.remove(0),
            _ if all => Self::And(kept),
            _ => Self::Or(kept),
        }
    }
}

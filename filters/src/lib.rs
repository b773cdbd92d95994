//! Which rows a consumer or a pipeline wants: expressions, compiled once, evaluated by row or by column.
//!
//! Never reads a message or a batch by itself: callers say what a name stands for. A bare name is a
//! property, `$name` an envelope column, `$.a.b` a field of the decoded body, with no falling through from
//! one to the other; `"any name"` in double quotes is a property, and `$."any name"` a field.
//!
//! # What an expression of dialect `sluice` means
//!
//! Standard SQL with three-valued logic; a row passes exactly if the whole is TRUE. A missing property and
//! a null are the same, and every test of them but `IS NULL` is UNKNOWN.
//!
//! | expression | meaning |
//! |---|---|
//! | `= <> != < <= > >=`, `[NOT] BETWEEN`, `[NOT] IN` | comparisons, see below; bounds in the wrong order hold nothing |
//! | `[NOT] LIKE`, `[NOT] ILIKE`, `ESCAPE` | `%` any run, `_` one code point; without `ESCAPE` all else is itself |
//! | `[NOT] CONTAINS`, `STARTSWITH`, `ENDSWITH` | part of the text, case-sensitive; each text has the empty one |
//! | `IS [NOT] NULL`, `TRUE`, `FALSE`, `UNKNOWN` | never UNKNOWN itself |
//! | `NOT`, `AND`, `OR`, parentheses | loosest last; a name alone is a condition, see truth values |
//!
//! Properties are text, and what they are compared with says what they count as:
//!
//! - **A number**: any decimal form (`5`, `5.0`, `+5`, ` 5 `, `5e0`). A text that is none is UNKNOWN, and so
//!   is NaN, which is a double but no number. Whole values of 64 bits compare exactly, also with decimals
//!   and doubles; all else compares as the nearest double. `-0.0` is 0.
//! - **Text**, or another property: by code point.
//! - **TRUE or FALSE**: `true` and `false` in any case; other text is UNKNOWN. So is a name alone.
//!
//! Envelope columns and fields have their Arrow type. A timestamp compares with milliseconds since 1970 and
//! with text in RFC 3339. A comparison that can never work for a column's type is an error of
//! [`Filter::check`].

#![expect(clippy::doc_markdown, reason = "RocketMQ is a name, not code")]

mod column;
mod dialect;
mod engine;
mod error;
mod expr;
mod like;
mod notice;
mod number;
mod properties;
mod row;
mod time;
mod types;
mod value;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::datatypes::DataType;

pub use crate::error::{Error, Problem};
use crate::expr::{Condition, Literal, Term, Test, Value};
pub use crate::notice::{Notice, Quirk};
use crate::properties::{Layout, NotUtf8};
pub use crate::value::{Scalar, Verdict};

/// The language that an expression is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// Standard SQL over properties, envelope columns and fields.
    Sluice,
    /// The language of RocketMQ's own filter, exactly as its engine reads it, for subscriptions of its
    /// clients; see [`Filter::notices`]. All names are properties.
    RocketMq,
}

/// What an expression names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// A property.
    Property(String),
    /// An envelope column, without its `$`.
    Envelope(String),
    /// A field of the decoded body, from the outside in.
    Field(Vec<String>),
}

/// Writes the name as an expression does.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let write = |f: &mut fmt::Formatter<'_>, name: &str| {
            if dialect::is_plain_name(name) {
                f.write_str(name)
            } else {
                write!(f, "\"{}\"", name.replace('"', "\"\""))
            }
        };
        match self {
            Self::Property(name) => write(f, name),
            Self::Envelope(name) => write!(f, "${name}"),
            Self::Field(path) => {
                f.write_str("$")?;
                path.iter().try_for_each(|field| {
                    f.write_str(".")?;
                    write(f, field)
                })
            }
        }
    }
}

/// A compiled expression; a clone shares it.
#[derive(Clone, Debug)]
pub struct Filter {
    compiled: Arc<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    text: Arc<str>,
    /// By slot. Halves of a split share the slots and leave some unused.
    slots: Arc<[Name]>,
    names: BTreeSet<Name>,
    condition: Condition,
    /// By slot: whether its texts are compared with numbers more than once.
    reused: Vec<bool>,
    /// Where the slots' values lie in encoded properties.
    layout: Layout,
    /// Whether no slot needs anything else.
    only_properties: bool,
    dialect: Dialect,
    notices: Vec<Notice>,
}

/// Up to this many names their values lie on the stack.
const FEW_NAMES: usize = 8;
/// As [`FEW_NAMES`], in a bigger place; beyond they are allocated.
const MANY_NAMES: usize = 64;

impl Filter {
    /// Compiles a text. Bounded: 64 KiB of text, 128 levels of nesting (1,000 in dialect `rocketmq`), 10,000
    /// terms, 10,000 members in a list, 4 KiB in a pattern. All of the text must be the expression, but in
    /// dialect `rocketmq`.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Self, Error> {
        let (condition, slots, notices) = match dialect {
            Dialect::Sluice => {
                let tree = dialect::sluice::parse(text)?;
                let (condition, slots) = expr::compile(text, &tree)?;
                (condition, slots, Vec::new())
            }
            Dialect::RocketMq => {
                let parsed = dialect::rocketmq::parse(text)?;
                (parsed.condition, parsed.names, parsed.notices)
            }
        };
        Ok(Self::new(text.into(), slots.into(), condition, dialect, notices))
    }

    fn new(
        text: Arc<str>,
        slots: Arc<[Name]>,
        condition: Condition,
        dialect: Dialect,
        notices: Vec<Notice>,
    ) -> Self {
        let mut names = BTreeSet::new();
        let mut numeric = vec![0u32; slots.len()];
        let mut count = |value: &Value| {
            if let Value::Slot(slot) = value
                && let Some(uses) = numeric.get_mut(*slot)
            {
                *uses += 1;
            }
        };
        condition.visit(&mut |term| {
            names.extend(term.slots().filter_map(|slot| slots.get(slot).cloned()));
            match &term.test {
                Test::Compare(_, Literal::Number(_)) => count(&term.value),
                Test::In(members) if !members.numbers.is_empty() => count(&term.value),
                _ => {}
            }
        });
        let reused = numeric.into_iter().map(|uses| uses > 1).collect();
        let layout = Layout::new(&slots);
        let only_properties = slots.iter().all(|name| matches!(name, Name::Property(_)));
        Self {
            compiled: Arc::new(Compiled {
                text,
                slots,
                names,
                condition,
                reused,
                layout,
                only_properties,
                dialect,
                notices,
            }),
        }
    }

    /// The language that it was written in.
    pub fn dialect(&self) -> Dialect {
        self.compiled.dialect
    }

    /// Where the expression is read otherwise than SQL reads it; only dialect `rocketmq` has any.
    pub fn notices(&self) -> &[Notice] {
        &self.compiled.notices
    }

    /// The text that it was compiled from. The halves of [`Filter::split`] keep the whole text, to which
    /// the places in their errors refer.
    pub fn text(&self) -> &str {
        &self.compiled.text
    }

    /// Every name that is needed for an answer.
    pub fn names(&self) -> &BTreeSet<Name> {
        &self.compiled.names
    }

    /// The part that needs no field of the body, and the rest: a row passes exactly if it passes both.
    /// `None` for a part that nothing is left for.
    pub fn split(&self) -> (Option<Self>, Option<Self>) {
        let has_field = |condition: &Condition| {
            let mut found = false;
            condition.visit(&mut |term| {
                found |=
                    term.slots().any(|slot| matches!(self.compiled.slots.get(slot), Some(Name::Field(_))));
            });
            found
        };
        if !has_field(&self.compiled.condition) {
            return (Some(self.clone()), None);
        }
        let (fields, plain): (Vec<_>, Vec<_>) = match &self.compiled.condition {
            Condition::And(terms) => terms.iter().cloned().partition(has_field),
            whole => (vec![whole.clone()], Vec::new()),
        };
        let half = |terms: Vec<Condition>| {
            let Compiled { text, slots, dialect, .. } = &*self.compiled;
            if terms.is_empty() {
                return None;
            }
            let condition = Condition::join(terms, true);
            Some(Self::new(text.clone(), slots.clone(), condition, *dialect, Vec::new()))
        };
        (half(plain), half(fields))
    }

    /// Checks names and types before there are rows. `data_type` says what a name is; a property that it
    /// doesn't know is text, any other name that it doesn't know is an error.
    pub fn check(&self, data_type: &dyn Fn(&Name) -> Option<DataType>) -> Result<(), Error> {
        self.check_terms(&|_, name| match (data_type(name), name) {
            (None, Name::Property(_)) => Some(DataType::Utf8View),
            (found, _) => found,
        })
    }

    /// Evaluates over columns of `rows` rows: null is UNKNOWN, or failed. `resolve` gives the column of a
    /// name; a property without one is null in every row, any other name without one is an error, as is a
    /// type that doesn't fit.
    pub fn columns(
        &self,
        rows: usize,
        resolve: &dyn Fn(&Name) -> Option<ArrayRef>,
    ) -> Result<BooleanArray, Error> {
        Ok(self.answers(rows, resolve)?.known())
    }

    /// As [`Filter::columns`], but a selection: TRUE where a row passes, never null.
    pub fn mask(
        &self,
        rows: usize,
        resolve: &dyn Fn(&Name) -> Option<ArrayRef>,
    ) -> Result<BooleanArray, Error> {
        Ok(column::passing(&self.columns(rows, resolve)?))
    }

    /// As [`Filter::columns`], with failures told from UNKNOWN.
    pub fn verdicts(
        &self,
        rows: usize,
        resolve: &dyn Fn(&Name) -> Option<ArrayRef>,
    ) -> Result<Vec<Verdict>, Error> {
        let answers = self.answers(rows, resolve)?;
        Ok((0..rows).map(|row| answers.verdict(row)).collect())
    }

    fn answers(
        &self,
        rows: usize,
        resolve: &dyn Fn(&Name) -> Option<ArrayRef>,
    ) -> Result<column::Answers, Error> {
        let Compiled { slots, names, condition, reused, .. } = &*self.compiled;
        let mut columns = Vec::with_capacity(slots.len());
        for name in slots.iter() {
            columns.push(if names.contains(name) { self.resolve(name, rows, resolve)? } else { None });
        }
        self.check_terms(&|slot, _| Some(columns.get(slot)?.as_ref()?.data_type().clone()))?;
        let batch = column::Batch { rows, columns, reused };
        batch.evaluate(condition).map_err(|error| self.fail_all(error.into()))
    }

    /// Evaluates over one message; `None` is UNKNOWN, or failed. `property` gives a property's value. Terms
    /// over envelope columns and fields are UNKNOWN.
    pub fn row<'a>(&self, property: &dyn Fn(&str) -> Option<&'a str>) -> Option<bool> {
        self.over(|values| {
            self.others(values, &|_| Scalar::Unknown);
            for (name, value) in self.compiled.slots.iter().zip(values) {
                if let Name::Property(name) = name {
                    *value = property(name).map_or(Scalar::Null, Scalar::Text);
                }
            }
            Ok(())
        })
        .map_or(None, Verdict::known)
    }

    /// Evaluates over one message's encoded properties (`name 0x01 value 0x02`, repeated) in one pass, with
    /// nothing allocated as long as the expression has at most 64 names and makes no text. Terms over
    /// envelope columns and fields are UNKNOWN.
    ///
    /// A value that is not UTF-8 counts as none; in dialect `rocketmq` its bad bytes count as U+FFFD, as
    /// they do to the engine.
    pub fn matches(&self, properties: &[u8]) -> Verdict {
        self.evaluate(properties, &|_| Scalar::Unknown)
    }

    /// As [`Filter::matches`], with the values of envelope columns and fields, which `other` gives: null for
    /// one that is missing.
    pub fn evaluate<'a>(&self, properties: &'a [u8], other: &dyn Fn(&Name) -> Scalar<'a>) -> Verdict {
        let not_utf8_counts = self.compiled.dialect == Dialect::RocketMq;
        let found = self.over(|values| {
            self.others(values, other);
            self.compiled.layout.fill(properties, not_utf8_counts, values)
        });
        found.unwrap_or_else(|NotUtf8| {
            let text = String::from_utf8_lossy(properties);
            let found =
                self.over(|values| self.compiled.layout.fill(text.as_bytes(), not_utf8_counts, values));
            found.unwrap_or(Verdict::Failed)
        })
    }

    /// Evaluates over values that `fill` puts into their slots, which are null before.
    fn over<'a>(
        &self,
        fill: impl FnOnce(&mut [Scalar<'a>]) -> Result<(), NotUtf8>,
    ) -> Result<Verdict, NotUtf8> {
        let run = |values: &mut [Scalar<'a>]| -> Result<Verdict, NotUtf8> {
            fill(values)?;
            Ok(row::evaluate(&self.compiled.condition, values))
        };
        match self.compiled.slots.len() {
            len @ ..=FEW_NAMES => run(&mut [Scalar::Null; FEW_NAMES][..len]),
            len @ ..=MANY_NAMES => run(&mut [Scalar::Null; MANY_NAMES][..len]),
            len => run(&mut vec![Scalar::Null; len]),
        }
    }

    /// Fills the slots of all names but properties.
    fn others<'a>(&self, values: &mut [Scalar<'a>], other: &dyn Fn(&Name) -> Scalar<'a>) {
        if self.compiled.only_properties {
            return;
        }
        for (name, value) in self.compiled.slots.iter().zip(values) {
            if !matches!(name, Name::Property(_)) {
                *value = other(name);
            }
        }
    }

    /// The column of a name; `None` if a name has none that needs one.
    fn resolve(
        &self,
        name: &Name,
        rows: usize,
        resolve: &dyn Fn(&Name) -> Option<ArrayRef>,
    ) -> Result<Option<column::Column>, Error> {
        let array = resolve(name);
        match (&array, name) {
            (None, Name::Envelope(_) | Name::Field(_)) => return Ok(None),
            (Some(array), _) if array.len() != rows => {
                let problem = Problem::Rows { name: name.clone(), found: array.len(), expected: rows };
                return Err(self.fail_all(problem));
            }
            _ => {}
        }
        column::Column::new(array).map(Some).map_err(|error| self.fail_all(error.into()))
    }

    /// Checks each term by the types of slots and their names.
    fn check_terms(&self, data_type: &dyn Fn(usize, &Name) -> Option<DataType>) -> Result<(), Error> {
        let Compiled { text, slots, condition, .. } = &*self.compiled;
        let typed = |slot: usize, term: &Term| {
            let Some(name) = slots.get(slot) else { return Ok(None) };
            data_type(slot, name).map(|found| Some((name, found))).ok_or_else(|| {
                Error::new(text, term.span.clone(), Problem::UnknownName { name: name.clone() })
            })
        };
        let check = |term: &Term| {
            let Value::Slot(slot) = term.value else { return Ok(()) };
            let Some((name, found)) = typed(slot, term)? else { return Ok(()) };
            let other = match term.test {
                Test::Against(_, Value::Slot(right)) => typed(right, term)?,
                _ => None,
            };
            let other = other.as_ref().map(|(name, found)| (*name, found));
            match types::mismatch(name, &found, &term.test, other) {
                Some(problem) => Err(Error::new(text, term.span.clone(), problem)),
                None => Ok(()),
            }
        };
        let mut result = Ok(());
        condition.visit(&mut |term| {
            if result.is_ok() {
                result = check(term);
            }
        });
        result
    }

    /// An error that no single place has.
    fn fail_all(&self, problem: Problem) -> Error {
        Error::new(&self.compiled.text, 0..self.compiled.text.len(), problem)
    }
}

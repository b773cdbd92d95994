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

mod column;
mod dialect;
mod error;
mod expr;
mod like;
mod number;
mod row;
mod types;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::datatypes::DataType;

pub use crate::error::{Error, Problem};
use crate::expr::{Condition, Literal, Term, Test};

/// The language that an expression is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// Standard SQL over properties, envelope columns and fields.
    Sluice,
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
}

impl Filter {
    /// Compiles a text; all of it must be the expression. Bounded: 64 KiB of text, 128 levels of nesting,
    /// 10,000 terms, 10,000 members in a list, 4 KiB in a pattern.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Self, Error> {
        let tree = match dialect {
            Dialect::Sluice => dialect::sluice::parse(text)?,
        };
        let (condition, slots) = expr::compile(text, &tree)?;
        Ok(Self::new(text.into(), slots.into(), condition))
    }

    fn new(text: Arc<str>, slots: Arc<[Name]>, condition: Condition) -> Self {
        let mut names = BTreeSet::new();
        let mut numeric = vec![0u32; slots.len()];
        let mut count = |slot: usize| {
            if let Some(uses) = numeric.get_mut(slot) {
                *uses += 1;
            }
        };
        condition.visit(&mut |term| {
            names.extend(term_slots(term).filter_map(|slot| slots.get(slot).cloned()));
            match &term.test {
                Test::Compare(_, Literal::Number(_)) => count(term.slot),
                Test::In(members) if !members.numbers.is_empty() => count(term.slot),
                _ => {}
            }
        });
        let reused = numeric.into_iter().map(|uses| uses > 1).collect();
        Self { compiled: Arc::new(Compiled { text, slots, names, condition, reused }) }
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
                found |= term_slots(term)
                    .any(|slot| matches!(self.compiled.slots.get(slot), Some(Name::Field(_))));
            });
            found
        };
        let (fields, plain): (Vec<_>, Vec<_>) = match &self.compiled.condition {
            Condition::And(terms) => terms.iter().cloned().partition(has_field),
            whole => [whole.clone()].into_iter().partition(has_field),
        };
        let half = |terms: Vec<Condition>| {
            let Compiled { text, slots, .. } = &*self.compiled;
            (!terms.is_empty()).then(|| Self::new(text.clone(), slots.clone(), Condition::join(terms, true)))
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

    /// Evaluates over columns of `rows` rows: null is UNKNOWN. `resolve` gives the column of a name; a
    /// property without one is null in every row, any other name without one is an error, as is a type
    /// that doesn't fit.
    pub fn columns(
        &self,
        rows: usize,
        resolve: &dyn Fn(&Name) -> Option<ArrayRef>,
    ) -> Result<BooleanArray, Error> {
        let Compiled { slots, names, condition, reused, .. } = &*self.compiled;
        let mut columns = Vec::with_capacity(slots.len());
        for name in slots.iter() {
            columns.push(if names.contains(name) { self.resolve(name, rows, resolve)? } else { None });
        }
        self.check_terms(&|slot, _| Some(columns.get(slot)?.as_ref()?.data_type().clone()))?;
        let batch = column::Batch { rows, columns, reused };
        batch.evaluate(condition).map_err(|error| self.fail_all(error.into()))
    }

    /// As [`Filter::columns`], but a selection: TRUE where a row passes, never null.
    pub fn mask(
        &self,
        rows: usize,
        resolve: &dyn Fn(&Name) -> Option<ArrayRef>,
    ) -> Result<BooleanArray, Error> {
        Ok(column::passing(&self.columns(rows, resolve)?))
    }

    /// Evaluates over one message; `None` is UNKNOWN. `property` gives a property's value. Terms over
    /// envelope columns and fields are UNKNOWN.
    pub fn row<'a>(&self, property: &dyn Fn(&str) -> Option<&'a str>) -> Option<bool> {
        row::evaluate(&self.compiled.condition, &self.compiled.slots, property)
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
            let Some((name, found)) = typed(term.slot, term)? else { return Ok(()) };
            let other = match term.test {
                Test::Pair(_, right) => typed(right, term)?,
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

/// The slots that a term reads.
fn term_slots(term: &Term) -> impl Iterator<Item = usize> + use<> {
    let right = match term.test {
        Test::Pair(_, right) => Some(right),
        _ => None,
    };
    std::iter::once(term.slot).chain(right)
}

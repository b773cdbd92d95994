//! A filter over the values that a caller has: columns of a batch, or one message's properties.

use arrow::array::{ArrayRef, BooleanArray};
use arrow::datatypes::DataType;

use crate::error::{Error, Problem};
use crate::expr::{Term, Test, Value};
use crate::plan::{Message, Span};
use crate::properties::NotUtf8;
use crate::types::Kind;
use crate::value::{Scalar, Verdict};
use crate::{Compiled, Dialect, Filter, Name, column, row, types};

/// Up to so many names, their values lie on the stack, in the smallest of these places that holds them.
const FEW_NAMES: usize = 4;
const SOME_NAMES: usize = 16;
const MANY_NAMES: usize = 64;

impl Filter {
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
        let Compiled { slots, names, condition, plan, reused, .. } = &*self.compiled;
        let mut columns = Vec::with_capacity(slots.len());
        for name in slots.iter() {
            columns.push(if names.contains(name) { self.resolve(name, rows, resolve)? } else { None });
        }
        self.check_terms(&|slot, _| Some(columns.get(slot)?.as_ref()?.data_type().clone()))?;
        let batch = column::Batch { rows, columns, reused };
        let answers = match plan {
            Some(plan) if batch.is_text() => batch.planned(plan),
            _ => batch.evaluate(condition),
        };
        answers.map_err(|error| self.fail_all(error.into()))
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
        if let Some(verdict) = self.planned(properties) {
            return verdict;
        }
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

    /// The answer of the plan, if there is one and the properties are ASCII.
    fn planned(&self, properties: &[u8]) -> Option<Verdict> {
        let plan = self.compiled.plan.as_ref()?;
        if u32::try_from(properties.len()).is_err() {
            return None;
        }
        let run = |spans: &mut [Span]| {
            let is_ascii = self.compiled.layout.scan(properties, |slot, start, end| {
                if let Some(span) = spans.get_mut(slot) {
                    *span = Span::new(start, end);
                }
            });
            is_ascii.then(|| plan.evaluate(&Message { encoded: properties, spans }))
        };
        // One place more, for all that is not wanted.
        match self.compiled.slots.len() {
            len if len < FEW_NAMES => run(&mut [Span::default(); FEW_NAMES]),
            len if len < SOME_NAMES => run(&mut [Span::default(); SOME_NAMES]),
            len if len < MANY_NAMES => run(&mut [Span::default(); MANY_NAMES]),
            len => run(&mut vec![Span::default(); len + 1]),
        }
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
            len @ ..=SOME_NAMES => run(&mut [Scalar::Null; SOME_NAMES][..len]),
            len @ ..=MANY_NAMES => run(&mut [Scalar::Null; MANY_NAMES][..len]),
            len => run(&mut vec![Scalar::Null; len]),
        }
    }

    /// Fills the slots of all names but properties.
    pub(crate) fn others<'a>(&self, values: &mut [Scalar<'a>], other: &dyn Fn(&Name) -> Scalar<'a>) {
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
        let computed = |term: &Term| {
            let mut kinds = vec![Kind::Null; slots.len()];
            for slot in term.slots() {
                if let (Some((_, found)), Some(kind)) = (typed(slot, term)?, kinds.get_mut(slot)) {
                    *kind = types::kind(&found);
                }
            }
            let kind_of = |slot: usize| kinds.get(slot).copied().unwrap_or(Kind::Null);
            match types::mismatch_computed(term, &kind_of) {
                Some(problem) => Err(Error::new(text, term.span.clone(), problem)),
                None => Ok(()),
            }
        };
        let check = |term: &Term| {
            let Value::Slot(slot) = term.value else { return computed(term) };
            if let Test::Against(_, right) = &term.test
                && !matches!(right, Value::Slot(_))
            {
                return computed(term);
            }
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

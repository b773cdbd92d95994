//! What a filter is and what it said, in lines for a person.

use std::collections::HashMap;
use std::ops::Range;

use arrow::datatypes::DataType;

use crate::dialect::shown;
use crate::expr::{Condition, EngineTest, Literal, Op, Term, Test, Value};
use crate::notice::Notice;
use crate::number::Number;
use crate::row;
use crate::types::{Kind, kind};
use crate::value::{Scalar, Verdict};
use crate::{Filter, Name};

/// A filter in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explain {
    /// The tree as it is evaluated, from the outside in.
    pub tree: Vec<Line>,
    /// Each name with what its values count as.
    pub types: Vec<(Name, String)>,
    /// Where the expression is read otherwise than SQL reads it.
    pub notices: Vec<Notice>,
    /// What can never match, or hardly means what it says.
    pub warnings: Vec<Warning>,
}

/// One node of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Levels from the outside.
    pub depth: usize,
    /// The node: `AND`, or a test as it was written.
    pub text: String,
    /// What it said, and what the values of its names were; only in a trace.
    pub answer: Option<(Verdict, String)>,
}

/// A place that can hardly be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The place, in bytes of the text.
    pub span: Range<usize>,
    /// What is wrong: lower case, no full stop.
    pub text: String,
}

impl Filter {
    /// The filter in words. `data_type` says what a name is, as for [`Filter::check`].
    pub fn explain(&self, data_type: &dyn Fn(&Name) -> Option<DataType>) -> Explain {
        let condition = &self.compiled.condition;
        let mut tree = Vec::new();
        self.lines(condition, 0, None, &mut tree);
        let mut warnings = Vec::new();
        if !can_match(condition, &mut warnings) {
            let span = 0..self.text().len();
            warnings.push(Warning { span, text: "no message ever matches".to_owned() });
        }
        let types = self.names().iter().map(|name| (name.clone(), self.counts_as(name, data_type(name))));
        Explain { tree, types: types.collect(), notices: self.notices().to_vec(), warnings }
    }

    /// What each part says of one message, as [`Filter::evaluate`] would: the whole first. Parts that the
    /// evaluation would not reach are told too.
    pub fn trace<'a>(&self, properties: &'a [u8], other: &dyn Fn(&Name) -> Scalar<'a>) -> Vec<Line> {
        let mut values = vec![Scalar::Null; self.compiled.slots.len()];
        self.others(&mut values, other);
        // A trace shows what there is; a value that is no text is none here.
        let _ = self.compiled.layout.fill(properties, false, &mut values);
        let mut lines = Vec::new();
        self.lines(&self.compiled.condition, 0, Some(&values), &mut lines);
        lines
    }

    fn lines(
        &self,
        condition: &Condition,
        depth: usize,
        values: Option<&[Scalar<'_>]>,
        lines: &mut Vec<Line>,
    ) {
        let answer = |seen: String| values.map(|values| (row::evaluate(condition, values), seen));
        let (text, seen, inner): (String, String, &[Condition]) = match condition {
            Condition::Constant(value) => (name_of(*value).to_owned(), String::new(), &[]),
            Condition::And(conditions) => ("AND".to_owned(), String::new(), conditions),
            Condition::Or(conditions) => ("OR".to_owned(), String::new(), conditions),
            Condition::Not(inner) => ("NOT".to_owned(), String::new(), std::slice::from_ref(&**inner)),
            Condition::Is(inner, value) => {
                (format!("IS {}", name_of(*value)), String::new(), std::slice::from_ref(&**inner))
            }
            Condition::Term(term) => {
                (self.written(term), values.map(|values| self.seen(term, values)).unwrap_or_default(), &[])
            }
        };
        lines.push(Line { depth, text, answer: answer(seen) });
        for condition in inner {
            self.lines(condition, depth + 1, values, lines);
        }
    }

    /// A term as it was written.
    fn written(&self, term: &Term) -> String {
        if let (Value::Slot(slot), Test::IsNull) = (&term.value, &term.test)
            && let Some(name) = self.compiled.slots.get(*slot)
        {
            return format!("{name} IS NULL");
        }
        self.text().get(term.span.clone()).unwrap_or_default().to_owned()
    }

    /// The values that a term read.
    fn seen(&self, term: &Term, values: &[Scalar<'_>]) -> String {
        let mut slots: Vec<usize> = term.slots().collect();
        slots.dedup();
        let seen = slots.into_iter().filter_map(|slot| {
            let value = match values.get(slot)? {
                Scalar::Null => "is missing".to_owned(),
                Scalar::Unknown => "is not known here".to_owned(),
                Scalar::Text(text) => format!("= {}", shown(text)),
                Scalar::Truth(value) => format!("= {}", name_of(Some(*value))),
                Scalar::Int(value) => format!("= {value}"),
                Scalar::Long(value) => format!("= {value}"),
                Scalar::Double(value) => format!("= {value}"),
                Scalar::Time(at) => format!("= {} ms since 1970", at / crate::time::MILLI),
                Scalar::Interval(length) => format!("= {} ms", length / crate::time::MILLI),
                Scalar::Other => "is there".to_owned(),
            };
            Some(format!("{} {value}", self.compiled.slots.get(slot)?))
        });
        seen.collect::<Vec<_>>().join(", ")
    }

    /// What a name's values are, and what they count as in this expression.
    fn counts_as(&self, name: &Name, data_type: Option<DataType>) -> String {
        let found = match (&data_type, name) {
            (Some(data_type), _) => kind(data_type),
            (None, Name::Property(_)) => Kind::Text,
            (None, Name::Envelope(_) | Name::Field(_)) => return "of an unknown type".to_owned(),
        };
        let written = match data_type.filter(|_| found != Kind::Text) {
            Some(data_type) => data_type.to_string(),
            None => "text".to_owned(),
        };
        let mut uses: Vec<&str> = Vec::new();
        self.compiled.condition.visit(&mut |term| {
            if matches!(&term.value, Value::Slot(slot) if self.compiled.slots.get(*slot) == Some(name)) {
                uses.extend(counted(&term.test));
            }
        });
        uses.sort_unstable();
        uses.dedup();
        if found == Kind::Text && !uses.is_empty() {
            format!("{written}, which counts as {}", uses.join(" and as "))
        } else {
            written
        }
    }
}

/// What a test takes a text for.
fn counted(test: &Test) -> Option<&'static str> {
    let literal = match test {
        Test::Compare(_, literal)
        | Test::Engine(EngineTest::Compare(_, literal) | EngineTest::CompareLeft(literal, _)) => literal,
        Test::In(members) if !members.numbers.is_empty() => return Some("a number"),
        Test::Holds => return Some("TRUE or FALSE"),
        Test::Engine(EngineTest::Against(op, _)) if op.is_order() => return Some("a number"),
        _ => return None,
    };
    match literal {
        Literal::Number(_) | Literal::Double(_) => Some("a number"),
        Literal::Int(_) => Some("a whole number of 32 bits"),
        Literal::Long(_) => Some("a whole number of 64 bits"),
        Literal::Truth(_) => Some("TRUE or FALSE"),
        Literal::Time(_) => Some("a time"),
        Literal::Null | Literal::Text(_) | Literal::Interval(_) => None,
    }
}

fn name_of(value: Option<bool>) -> &'static str {
    match value {
        Some(true) => "TRUE",
        Some(false) => "FALSE",
        None => "UNKNOWN",
    }
}

/// Whether a condition can be TRUE, as far as one can see. What can't is told.
fn can_match(condition: &Condition, warnings: &mut Vec<Warning>) -> bool {
    match condition {
        Condition::Constant(value) => *value == Some(true),
        Condition::And(conditions) => {
            let mut each = true;
            for condition in conditions {
                each &= can_match(condition, warnings);
            }
            // What was told inside of an OR may leave another part of it.
            let before = warnings.len();
            contradictions(conditions, warnings);
            each && warnings.len() == before
        }
        Condition::Or(conditions) => {
            let mut any = false;
            for condition in conditions {
                any |= can_match(condition, warnings);
            }
            any
        }
        Condition::Not(_) | Condition::Is(..) => true,
        Condition::Term(term) => {
            let (matches, text) = match &term.test {
                Test::Compare(op, Literal::Text(text)) if op.is_order() && Number::parse(text).is_some() => (
                    true,
                    "a text in quotes is compared as text, so that '10' is below '9'; write the number without",
                ),
                Test::Compare(_, Literal::Null) => {
                    (false, "never TRUE: a comparison with NULL; write IS NULL")
                }
                Test::Engine(EngineTest::Holds) => (false, "never TRUE: a property alone"),
                Test::Engine(EngineTest::Search { part, .. }) if part.text().is_empty() => {
                    (false, "never TRUE: an empty text is part of nothing here")
                }
                Test::Engine(EngineTest::Compare(op, Literal::Null)) if op.is_order() => {
                    (false, "never TRUE: the right side is always null")
                }
                _ => return true,
            };
            warnings.push(Warning { span: term.span.clone(), text: text.to_owned() });
            matches
        }
    }
}

/// What AND has learned of one value.
#[derive(Default)]
struct Known<'a> {
    low: Option<(Number, bool)>,
    high: Option<(Number, bool)>,
    texts: Option<Vec<&'a str>>,
    is_null: bool,
    is_there: bool,
}

/// Tests of one value that are never TRUE together.
fn contradictions(conditions: &[Condition], warnings: &mut Vec<Warning>) {
    let mut values: HashMap<usize, Known<'_>> = HashMap::new();
    for condition in conditions {
        let Condition::Term(term) = condition else { continue };
        let Value::Slot(slot) = term.value else { continue };
        let known = values.entry(slot).or_default();
        known.learn(&term.test);
        if known.is_impossible() {
            let text = "never TRUE together with what stands before it".to_owned();
            warnings.push(Warning { span: term.span.clone(), text });
            *known = Known::default();
        }
    }
}

impl<'a> Known<'a> {
    fn learn(&mut self, test: &'a Test) {
        if matches!(test, Test::IsNull) {
            self.is_null = true;
            return;
        }
        self.is_there |= !matches!(test, Test::Engine(_));
        match test {
            Test::Compare(Op::Eq, Literal::Text(text)) => self.keep(|known| known == text, || vec![text]),
            Test::In(members) if members.numbers.is_empty() => {
                self.keep(
                    |known| members.has_text(known),
                    || members.few.iter().chain(&members.many).map(String::as_str).collect(),
                );
            }
            Test::Compare(op, Literal::Number(number)) => self.bound(*op, *number),
            Test::Engine(EngineTest::Compare(op, literal)) => {
                if let Some(number) = row::number(literal.scalar()) {
                    self.bound(*op, number);
                }
            }
            Test::Engine(EngineTest::CompareLeft(literal, op)) => {
                if let Some(number) = row::number(literal.scalar()) {
                    self.bound(op.flipped(), number);
                }
            }
            _ => {}
        }
    }

    fn keep(&mut self, fits: impl Fn(&str) -> bool, all: impl FnOnce() -> Vec<&'a str>) {
        self.texts = Some(match self.texts.take() {
            Some(known) => known.into_iter().filter(|text| fits(text)).collect(),
            None => all(),
        });
    }

    /// Narrows the range; whether a bound itself belongs to it is kept beside it.
    fn bound(&mut self, op: Op, number: Number) {
        let (low, high) = match op {
            Op::Eq => (Some(true), Some(true)),
            Op::Gt => (Some(false), None),
            Op::Ge => (Some(true), None),
            Op::Lt => (None, Some(false)),
            Op::Le => (None, Some(true)),
            Op::Ne => (None, None),
        };
        if let Some(closed) = low {
            let narrower = self.low.is_none_or(|(known, known_closed)| {
                let order = number.compare(known);
                order.is_gt() || (order.is_eq() && known_closed && !closed)
            });
            if narrower {
                self.low = Some((number, closed));
            }
        }
        if let Some(closed) = high {
            let narrower = self.high.is_none_or(|(known, known_closed)| {
                let order = number.compare(known);
                order.is_lt() || (order.is_eq() && known_closed && !closed)
            });
            if narrower {
                self.high = Some((number, closed));
            }
        }
    }

    fn is_impossible(&self) -> bool {
        let empty = match (self.low, self.high) {
            (Some((low, low_closed)), Some((high, high_closed))) => {
                let order = low.compare(high);
                order.is_gt() || (order.is_eq() && !(low_closed && high_closed))
            }
            _ => false,
        };
        empty || self.texts.as_ref().is_some_and(Vec::is_empty) || (self.is_null && self.is_there)
    }
}

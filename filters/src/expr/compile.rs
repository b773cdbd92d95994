//! From a syntax tree to a typed expression: checked, folded and bounded.
//!
//! Constants are folded by the same rules as [`crate::row`] applies.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use memchr::memmem::Finder;
use regex::{Regex, RegexBuilder};
use sqlparser::ast::{self, BinaryOperator, Expr, Ident, Spanned, UnaryOperator, ValueWithSpan};
use sqlparser::tokenizer::Span;

use super::{Condition, Function, Literal, MEMBERS_MAX, Members, Op, TERMS_MAX, Term, Test, Type, Value};
use crate::dialect::sluice::values::{REGEXP_LIKE, is_value};
use crate::dialect::{TEXT_OPERATORS, bytes, shown};
use crate::error::{Error, Problem};
use crate::like::Pattern;
use crate::{Name, row, steps, time};

mod values;

/// Longest pattern of a `LIKE`, in bytes.
const PATTERN_BYTES_MAX: usize = 4 * 1024;
/// Most memory of a compiled regular expression, in bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// Compiles a syntax tree; the names are in the order of their first occurrence.
pub(crate) fn compile(text: &str, expr: &Expr) -> Result<(Condition, Vec<Name>), Error> {
    let mut compiler = Compiler { text, slots: HashMap::new(), times: HashSet::new(), terms: 0 };
    let condition = compiler.condition(expr)?;
    Ok((condition, compiler.names()))
}

/// Compiles a tree that is a value; the names are in the order of their first occurrence.
pub(crate) fn compile_value(text: &str, expr: &Expr) -> Result<(Value, Vec<Name>), Error> {
    let mut compiler = Compiler { text, slots: HashMap::new(), times: HashSet::new(), terms: 0 };
    let value = compiler.operand(expr)?.value;
    Ok((value, compiler.names()))
}

struct Compiler<'a> {
    text: &'a str,
    slots: HashMap<Name, usize>,
    /// Slots of the envelope's times.
    times: HashSet<usize>,
    terms: usize,
}

/// One side of a comparison, with its place.
struct Operand {
    value: Value,
    span: Range<usize>,
}

impl Compiler<'_> {
    /// The names by slot.
    fn names(self) -> Vec<Name> {
        let mut names: Vec<(Name, usize)> = self.slots.into_iter().collect();
        names.sort_by_key(|(_, slot)| *slot);
        names.into_iter().map(|(name, _)| name).collect()
    }

    /// Recurses through what nests; small, since each level of nesting takes one or two frames of it.
    fn condition(&mut self, expr: &Expr) -> Result<Condition, Error> {
        let is = |condition: Result<Condition, Error>, value| condition.map(|condition| condition.is(value));
        steps::add(1);
        match expr {
            Expr::Nested(inner) => self.condition(inner),
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => self.condition(expr).map(Condition::not),
            Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } => {
                let mut conditions = Vec::new();
                self.chain(expr, op, &mut conditions)?;
                Ok(Condition::join(conditions, *op == BinaryOperator::And))
            }
            Expr::IsNull(expr) => self.is_null(expr),
            Expr::IsNotNull(expr) => self.is_null(expr).map(Condition::not),
            Expr::IsTrue(expr) => is(self.condition(expr), Some(true)),
            Expr::IsNotTrue(expr) => is(self.condition(expr), Some(true)).map(Condition::not),
            Expr::IsFalse(expr) => is(self.condition(expr), Some(false)),
            Expr::IsNotFalse(expr) => is(self.condition(expr), Some(false)).map(Condition::not),
            Expr::IsUnknown(expr) => is(self.condition(expr), None),
            Expr::IsNotUnknown(expr) => is(self.condition(expr), None).map(Condition::not),
            leaf => self.leaf(leaf),
        }
    }

    /// A condition without conditions inside.
    fn leaf(&mut self, expr: &Expr) -> Result<Condition, Error> {
        match expr {
            Expr::BinaryOp { left, op: BinaryOperator::Custom(name), right } => {
                self.search(left, name, right)
            }
            Expr::BinaryOp { left, op, right } if comparison(op).is_some() => {
                let left = self.operand(left)?;
                let right = self.operand(right)?;
                self.compare(&left, comparison(op), &right)
            }
            Expr::Between { expr, negated, low, high } => {
                let value = self.operand(expr)?;
                let low = self.operand(low)?;
                let high = self.operand(high)?;
                let low = self.compare(&value, Some(Op::Ge), &low)?;
                let high = self.compare(&value, Some(Op::Le), &high)?;
                Ok(Condition::join(vec![low, high], true).negated_if(*negated))
            }
            Expr::InList { expr, list, negated } => {
                self.list(expr, list).map(|found| found.negated_if(*negated))
            }
            Expr::Like { negated, expr, pattern, escape_char, .. } => {
                self.like(expr, pattern, escape_char.as_ref(), false).map(|found| found.negated_if(*negated))
            }
            Expr::ILike { negated, expr, pattern, escape_char, .. } => {
                self.like(expr, pattern, escape_char.as_ref(), true).map(|found| found.negated_if(*negated))
            }
            operand => self.truth(operand),
        }
    }

    /// The conditions that a tree of one operator joins.
    fn chain(&mut self, expr: &Expr, chain: &BinaryOperator, out: &mut Vec<Condition>) -> Result<(), Error> {
        steps::add(1);
        match expr {
            Expr::BinaryOp { left, op, right } if op == chain => {
                self.chain(left, chain, out)?;
                self.chain(right, chain, out)
            }
            other => {
                out.push(self.condition(other)?);
                Ok(())
            }
        }
    }

    /// A name or literal that stands where a condition is wanted.
    fn truth(&mut self, expr: &Expr) -> Result<Condition, Error> {
        let operand = self.operand(expr)?;
        match operand.value {
            Value::Literal(Literal::Truth(value)) => Ok(Condition::Constant(Some(value))),
            Value::Literal(Literal::Null) => Ok(Condition::Constant(None)),
            Value::Slot(_) | Value::Cast(_, Type::Truth) | Value::Call(Function::Coalesce, _) => {
                self.term(operand.value, Test::Holds, operand.span)
            }
            _ => Err(self.found(operand.span, "a condition")),
        }
    }

    /// `IS NULL`: of a value whether it is there, of a condition whether it is UNKNOWN.
    fn is_null(&mut self, expr: &Expr) -> Result<Condition, Error> {
        if is_value(expr) {
            self.is_null_operand(expr)
        } else {
            self.condition(expr).map(|condition| condition.is(None))
        }
    }

    fn is_null_operand(&mut self, expr: &Expr) -> Result<Condition, Error> {
        let operand = self.operand(expr)?;
        match operand.value {
            Value::Literal(literal) => Ok(Condition::Constant(Some(matches!(literal, Literal::Null)))),
            value => self.term(value, Test::IsNull, operand.span),
        }
    }

    fn compare(&mut self, left: &Operand, op: Option<Op>, right: &Operand) -> Result<Condition, Error> {
        let span = left.span.start.min(right.span.start)..left.span.end.max(right.span.end);
        let Some(op) = op else {
            let problem = Problem::Unsupported { what: "this operator".to_owned(), hint: "" };
            return Err(self.fail(span, problem));
        };
        for side in [left, right] {
            if let Value::Literal(Literal::Truth(_)) = side.value
                && op.is_order()
            {
                let problem =
                    Problem::Unsupported { what: "an order of TRUE and FALSE".to_owned(), hint: "" };
                return Err(self.fail(side.span.clone(), problem));
            }
        }
        match (&left.value, &right.value) {
            (Value::Literal(left), Value::Literal(right)) => {
                fold(left, op, right).map(Condition::Constant).ok_or_else(|| {
                    let has_truth = [left, right].iter().any(|literal| matches!(literal, Literal::Truth(_)));
                    let what = if has_truth {
                        "a number against TRUE or FALSE"
                    } else {
                        "a comparison of these literals"
                    };
                    let what = what.to_owned();
                    self.fail(span, Problem::Unsupported { what, hint: "" })
                })
            }
            (value, Value::Literal(literal)) => {
                let literal = self.as_time(value, literal);
                self.term(value.clone(), Test::Compare(op, literal), span)
            }
            (Value::Literal(literal), value) => {
                let literal = self.as_time(value, literal);
                self.term(value.clone(), Test::Compare(op.flipped(), literal), span)
            }
            (left, right) => self.term(left.clone(), Test::Against(op, right.clone()), span),
        }
    }

    /// The literal against a value; a text against an envelope's time is read as a time once.
    fn as_time(&self, value: &Value, literal: &Literal) -> Literal {
        if let (Value::Slot(slot), Literal::Text(text)) = (value, literal)
            && self.times.contains(slot)
            && let Some(at) = time::parse(text)
        {
            return Literal::Time(at);
        }
        literal.clone()
    }

    /// `IN`: numbers and texts are looked up, all else is compared.
    fn list(&mut self, expr: &Expr, list: &[Expr]) -> Result<Condition, Error> {
        let mut left = self.operand(expr)?;
        if list.len() > MEMBERS_MAX {
            return Err(self.fail(left.span, Problem::Limit { what: "a list's length", max: MEMBERS_MAX }));
        }
        let is_constant = matches!(left.value, Value::Literal(_));
        let mut members = Members::default();
        let mut found = Vec::new();
        for member in list {
            let member = self.operand(member)?;
            left.span.end = left.span.end.max(member.span.end);
            match member.value {
                Value::Literal(Literal::Truth(_)) => {
                    return Err(self.found(member.span, "a name, text or a number"));
                }
                Value::Literal(Literal::Null) if !is_constant => members.null = true,
                Value::Literal(Literal::Number(number)) if !is_constant => {
                    members.numbers.insert(number.key());
                }
                Value::Literal(Literal::Text(text)) if !is_constant => {
                    members.many.insert(text);
                }
                _ => found.push(self.compare(&left, Some(Op::Eq), &member)?),
            }
        }
        // The closing parenthesis has no place in the tree.
        let rest = self.text.get(left.span.end..).unwrap_or_default();
        if rest.trim_start().starts_with(')') {
            left.span.end += rest.len() - rest.trim_start().len() + 1;
        }
        if members.null || !members.numbers.is_empty() || !members.many.is_empty() {
            members.settle();
            found.push(self.term(left.value, Test::In(members), left.span)?);
        }
        Ok(Condition::join(found, false))
    }

    fn like(
        &mut self,
        expr: &Expr,
        pattern: &Expr,
        escape: Option<&ValueWithSpan>,
        fold: bool,
    ) -> Result<Condition, Error> {
        let (value, mut span) = self.tested(expr, "a name before LIKE")?;
        let (pattern, place) = self.literal_text(pattern)?;
        span.end = place.end;
        if pattern.len() > PATTERN_BYTES_MAX {
            let problem = Problem::Limit { what: "a pattern's length in bytes", max: PATTERN_BYTES_MAX };
            return Err(self.fail(place, problem));
        }
        let escape = match escape {
            None => None,
            Some(ValueWithSpan { value: ast::Value::SingleQuotedString(text), span }) => {
                let mut chars = text.chars();
                let (Some(c), None) = (chars.next(), chars.next()) else {
                    let problem = Problem::Pattern { reason: "ESCAPE takes exactly one character" };
                    return Err(self.fail(bytes(*span), problem));
                };
                Some(c)
            }
            Some(other) => return Err(self.not_text(other.span)),
        };
        match Pattern::new(pattern, escape, fold) {
            Ok(pattern) => self.term(value, Test::Like(pattern), span),
            Err(reason) => Err(self.fail(place, Problem::Pattern { reason })),
        }
    }

    /// `CONTAINS`, `STARTSWITH` or `ENDSWITH`.
    fn search(&mut self, left: &Expr, operator: &str, right: &Expr) -> Result<Condition, Error> {
        let [contains, starts_with, _] = TEXT_OPERATORS;
        let (value, mut span) = self.tested(left, "a name before this operator")?;
        let (part, place) = self.literal_text(right)?;
        span.end = place.end;
        let part = part.to_owned();
        let test = if operator == REGEXP_LIKE {
            Test::Matches(self.regex(&part, place)?)
        } else if operator == contains {
            Test::Contains(Box::new(Finder::new(&part).into_owned()))
        } else if operator == starts_with {
            Test::StartsWith(part)
        } else {
            Test::EndsWith(part)
        };
        self.term(value, test, span)
    }

    fn literal_text<'a>(&self, expr: &'a Expr) -> Result<(&'a str, Range<usize>), Error> {
        match expr {
            Expr::Value(ValueWithSpan { value: ast::Value::SingleQuotedString(text), span }) => {
                Ok((text, bytes(*span)))
            }
            Expr::Value(other) => Err(self.not_text(other.span)),
            other => Err(self.not_text(other.span())),
        }
    }

    fn not_text(&self, span: Span) -> Error {
        let found = format!("`{}`", self.text.get(bytes(span)).unwrap_or_default());
        self.fail(bytes(span), Problem::Syntax { expected: "text in single quotes", found })
    }

    /// A pattern of `regexp_like`, in time linear in the text; bounded in size and nesting.
    fn regex(&self, pattern: &str, place: Range<usize>) -> Result<Regex, Error> {
        if pattern.len() > PATTERN_BYTES_MAX {
            let problem = Problem::Limit { what: "a pattern's length in bytes", max: PATTERN_BYTES_MAX };
            return Err(self.fail(place, problem));
        }
        let built = RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).nest_limit(50).build();
        built.map_err(|error| {
            let reason = match error {
                regex::Error::CompiledTooBig(_) => "it needs too much memory",
                _ => "it is no regular expression (look-around and back references are none here)",
            };
            self.fail(place, Problem::Pattern { reason })
        })
    }

    /// A value that a test is about, and which is no literal.
    fn tested(&mut self, expr: &Expr, expected: &'static str) -> Result<(Value, Range<usize>), Error> {
        let operand = self.operand(expr)?;
        match operand.value {
            Value::Literal(_) => Err(self.found(operand.span, expected)),
            value => Ok((value, operand.span)),
        }
    }

    fn found(&self, span: Range<usize>, expected: &'static str) -> Error {
        let found = shown(self.text.get(span.clone()).unwrap_or_default());
        self.fail(span, Problem::Syntax { expected, found })
    }

    fn slot(&mut self, name: Name) -> usize {
        let next = self.slots.len();
        if matches!(&name, Name::Envelope(column) if column.ends_with("_timestamp")) {
            self.times.insert(next);
        }
        *self.slots.entry(name).or_insert(next)
    }

    fn term(&mut self, value: Value, test: Test, span: Range<usize>) -> Result<Condition, Error> {
        self.terms += 1;
        if self.terms > TERMS_MAX {
            return Err(self.fail(span, Problem::Limit { what: "the number of terms", max: TERMS_MAX }));
        }
        Ok(Condition::Term(Box::new(Term { value, test, span })))
    }

    fn fail(&self, span: Range<usize>, problem: Problem) -> Error {
        Error::new(self.text, span, problem)
    }
}

/// A word's name: quoted always a property, else by its `$`.
fn name(ident: &Ident) -> Name {
    match (ident.quote_style, ident.value.strip_prefix('$')) {
        (None, Some(column)) => Name::Envelope(column.to_owned()),
        _ => Name::Property(ident.value.clone()),
    }
}

fn comparison(op: &BinaryOperator) -> Option<Op> {
    Some(match op {
        BinaryOperator::Eq => Op::Eq,
        BinaryOperator::NotEq => Op::Ne,
        BinaryOperator::Lt => Op::Lt,
        BinaryOperator::LtEq => Op::Le,
        BinaryOperator::Gt => Op::Gt,
        BinaryOperator::GtEq => Op::Ge,
        _ => return None,
    })
}

/// Compares two constants; `None` if their types never compare.
#[expect(clippy::option_option, reason = "outside: whether they compare, inside: a truth value")]
fn fold(left: &Literal, op: Op, right: &Literal) -> Option<Option<bool>> {
    match (left, right) {
        (Literal::Null, _) | (_, Literal::Null) => Some(None),
        (Literal::Text(text), literal) => Some(row::compare_text(text, op, literal)),
        (literal, Literal::Text(text)) => Some(row::compare_text(text, op.flipped(), literal)),
        (left, right) => row::compare(left.scalar(), op, right.scalar()).map(Some),
    }
}

//! From a syntax tree to a typed expression: checked, folded and bounded.
//!
//! Constants are folded by the same rules as [`crate::row`] applies.

use std::collections::HashMap;
use std::ops::Range;

use sqlparser::ast::{self, BinaryOperator, Expr, Ident, UnaryOperator, ValueWithSpan};
use sqlparser::tokenizer::Span;

use super::{Condition, Literal, MEMBERS_MAX, Members, Op, TERMS_MAX, Term, Test, Value};
use crate::dialect::{TEXT_OPERATORS, bytes};
use crate::error::{Error, Problem};
use crate::like::Pattern;
use crate::number::Number;
use crate::{Name, row};

/// Longest pattern of a `LIKE`, in bytes.
const PATTERN_BYTES_MAX: usize = 4 * 1024;

/// Compiles a syntax tree; the names are in the order of their first occurrence.
pub(crate) fn compile(text: &str, expr: &Expr) -> Result<(Condition, Vec<Name>), Error> {
    let mut compiler = Compiler { text, slots: HashMap::new(), terms: 0 };
    let condition = compiler.condition(expr)?;
    let mut names: Vec<(Name, usize)> = compiler.slots.into_iter().collect();
    names.sort_by_key(|(_, slot)| *slot);
    Ok((condition, names.into_iter().map(|(name, _)| name).collect()))
}

struct Compiler<'a> {
    text: &'a str,
    slots: HashMap<Name, usize>,
    terms: usize,
}

/// One side of a comparison, with its place.
struct Operand {
    kind: OperandKind,
    span: Range<usize>,
}

enum OperandKind {
    Slot(usize),
    Literal(Literal),
}

impl Compiler<'_> {
    /// Recurses through what nests; small, since each level of nesting takes one or two frames of it.
    fn condition(&mut self, expr: &Expr) -> Result<Condition, Error> {
        let is = |condition: Result<Condition, Error>, value| condition.map(|condition| condition.is(value));
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
            Expr::BinaryOp { left, op, right } => {
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
        match operand.kind {
            OperandKind::Slot(slot) => self.term(slot, Test::Holds, operand.span),
            OperandKind::Literal(Literal::Truth(value)) => Ok(Condition::Constant(Some(value))),
            OperandKind::Literal(Literal::Null) => Ok(Condition::Constant(None)),
            OperandKind::Literal(_) => {
                let found = format!("`{}`", self.text.get(operand.span.clone()).unwrap_or_default());
                Err(self.fail(operand.span, Problem::Syntax { expected: "a condition", found }))
            }
        }
    }

    /// `IS NULL`: of a value whether it is there, of a condition whether it is UNKNOWN.
    fn is_null(&mut self, expr: &Expr) -> Result<Condition, Error> {
        if matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Value(_)) {
            self.is_null_operand(expr)
        } else {
            self.condition(expr).map(|condition| condition.is(None))
        }
    }

    fn is_null_operand(&mut self, expr: &Expr) -> Result<Condition, Error> {
        let operand = self.operand(expr)?;
        match operand.kind {
            OperandKind::Slot(slot) => self.term(slot, Test::IsNull, operand.span),
            OperandKind::Literal(literal) => Ok(Condition::Constant(Some(matches!(literal, Literal::Null)))),
        }
    }

    fn compare(&mut self, left: &Operand, op: Option<Op>, right: &Operand) -> Result<Condition, Error> {
        let span = left.span.start.min(right.span.start)..left.span.end.max(right.span.end);
        let Some(op) = op else {
            let problem = Problem::Unsupported { what: "this operator".to_owned(), hint: "" };
            return Err(self.fail(span, problem));
        };
        for side in [left, right] {
            if let OperandKind::Literal(Literal::Truth(_)) = side.kind
                && op.is_order()
            {
                let problem =
                    Problem::Unsupported { what: "an order of TRUE and FALSE".to_owned(), hint: "" };
                return Err(self.fail(side.span.clone(), problem));
            }
        }
        match (&left.kind, &right.kind) {
            (OperandKind::Slot(left), OperandKind::Slot(right)) => {
                self.term(*left, Test::Against(op, Value::Slot(*right)), span)
            }
            (OperandKind::Slot(slot), OperandKind::Literal(literal)) => {
                self.term(*slot, Test::Compare(op, literal.clone()), span)
            }
            (OperandKind::Literal(literal), OperandKind::Slot(slot)) => {
                self.term(*slot, Test::Compare(op.flipped(), literal.clone()), span)
            }
            (OperandKind::Literal(left), OperandKind::Literal(right)) => {
                fold(left, op, right).map(Condition::Constant).ok_or_else(|| {
                    let what = "a number against TRUE or FALSE".to_owned();
                    self.fail(span, Problem::Unsupported { what, hint: "" })
                })
            }
        }
    }

    fn list(&mut self, expr: &Expr, list: &[Expr]) -> Result<Condition, Error> {
        let (slot, mut span) = self.named(expr, "a name before IN")?;
        if list.len() > MEMBERS_MAX {
            return Err(self.fail(span, Problem::Limit { what: "a list's length", max: MEMBERS_MAX }));
        }
        let mut members = Members::default();
        for member in list {
            let member = self.operand(member)?;
            span.end = span.end.max(member.span.end);
            match member.kind {
                OperandKind::Literal(Literal::Null) => members.null = true,
                OperandKind::Literal(Literal::Number(number)) => {
                    members.numbers.insert(number.key());
                }
                OperandKind::Literal(Literal::Text(text)) => {
                    members.many.insert(text);
                }
                OperandKind::Literal(_) | OperandKind::Slot(_) => {
                    let found = format!("`{}`", self.text.get(member.span.clone()).unwrap_or_default());
                    let problem = Problem::Syntax { expected: "text or a number", found };
                    return Err(self.fail(member.span, problem));
                }
            }
        }
        members.settle();
        self.term(slot, Test::In(members), span)
    }

    fn like(
        &mut self,
        expr: &Expr,
        pattern: &Expr,
        escape: Option<&ValueWithSpan>,
        fold: bool,
    ) -> Result<Condition, Error> {
        let (slot, mut span) = self.named(expr, "a name before LIKE")?;
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
            Ok(pattern) => self.term(slot, Test::Like(pattern), span),
            Err(reason) => Err(self.fail(place, Problem::Pattern { reason })),
        }
    }

    /// `CONTAINS`, `STARTSWITH` or `ENDSWITH`.
    fn search(&mut self, left: &Expr, operator: &str, right: &Expr) -> Result<Condition, Error> {
        let [contains, starts_with, _] = TEXT_OPERATORS;
        let (slot, mut span) = self.named(left, "a name before this operator")?;
        let (part, place) = self.literal_text(right)?;
        span.end = place.end;
        let part = part.to_owned();
        let test = if operator == contains {
            Test::Contains(part)
        } else if operator == starts_with {
            Test::StartsWith(part)
        } else {
            Test::EndsWith(part)
        };
        self.term(slot, test, span)
    }

    fn literal_text<'a>(&self, expr: &'a Expr) -> Result<(&'a str, Range<usize>), Error> {
        match expr {
            Expr::Value(ValueWithSpan { value: ast::Value::SingleQuotedString(text), span }) => {
                Ok((text, bytes(*span)))
            }
            Expr::Value(other) => Err(self.not_text(other.span)),
            _ => Err(self.not_text(Span::empty())),
        }
    }

    fn not_text(&self, span: Span) -> Error {
        let found = format!("`{}`", self.text.get(bytes(span)).unwrap_or_default());
        self.fail(bytes(span), Problem::Syntax { expected: "text in single quotes", found })
    }

    fn named(&mut self, expr: &Expr, expected: &'static str) -> Result<(usize, Range<usize>), Error> {
        let operand = self.operand(expr)?;
        match operand.kind {
            OperandKind::Slot(slot) => Ok((slot, operand.span)),
            OperandKind::Literal(_) => {
                let found = format!("`{}`", self.text.get(operand.span.clone()).unwrap_or_default());
                Err(self.fail(operand.span, Problem::Syntax { expected, found }))
            }
        }
    }

    fn operand(&mut self, expr: &Expr) -> Result<Operand, Error> {
        let (kind, span) = match expr {
            Expr::Identifier(ident) => (OperandKind::Slot(self.slot(name(ident))), bytes(ident.span)),
            Expr::CompoundIdentifier(path) => {
                let span = Span::union_iter(path.iter().map(|ident| ident.span));
                let fields = path.iter().skip(1).map(|ident| ident.value.clone()).collect();
                (OperandKind::Slot(self.slot(Name::Field(fields))), bytes(span))
            }
            Expr::Value(ValueWithSpan { value, span }) => {
                let span = bytes(*span);
                let literal = match value {
                    ast::Value::Null => Literal::Null,
                    ast::Value::Boolean(value) => Literal::Truth(*value),
                    ast::Value::SingleQuotedString(text) => Literal::Text(text.clone()),
                    ast::Value::Number(text, _) => match Number::parse(text) {
                        Some(number) if number.is_finite() => Literal::Number(number),
                        _ => return Err(self.fail(span, Problem::OutOfRange { text: text.clone() })),
                    },
                    other => {
                        let problem = Problem::Unsupported { what: other.to_string(), hint: "" };
                        return Err(self.fail(span, problem));
                    }
                };
                (OperandKind::Literal(literal), span)
            }
            other => {
                let problem = Problem::Unsupported { what: other.to_string(), hint: "" };
                return Err(self.fail(0..self.text.len(), problem));
            }
        };
        Ok(Operand { kind, span })
    }

    fn slot(&mut self, name: Name) -> usize {
        let next = self.slots.len();
        *self.slots.entry(name).or_insert(next)
    }

    fn term(&mut self, slot: usize, test: Test, span: Range<usize>) -> Result<Condition, Error> {
        self.terms += 1;
        if self.terms > TERMS_MAX {
            return Err(self.fail(span, Problem::Limit { what: "the number of terms", max: TERMS_MAX }));
        }
        Ok(Condition::Term(Box::new(Term { value: Value::Slot(slot), test, span })))
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
        (Literal::Number(left), Literal::Number(right)) => Some(Some(op.holds(left.compare(*right)))),
        (Literal::Truth(left), Literal::Truth(right)) => Some(Some(op.holds(left.cmp(right)))),
        _ => None,
    }
}

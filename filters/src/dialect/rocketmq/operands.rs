//! Operands of dialect `rocketmq`: which are refused where, and what comparisons of them become.

use std::ops::Range;

use super::Parser;
use crate::engine;
use crate::error::Error;
use crate::expr::{Condition, EngineTest, Literal, Op, Test, Value};
use crate::value::Verdict;

/// An operand with its place.
pub(super) struct Node {
    pub(super) tree: Tree,
    pub(super) span: Range<usize>,
    /// Levels of evaluation below it.
    pub(super) depth: usize,
    /// The place of a `NOT` right before it, outside of all parentheses.
    pub(super) not: Option<Range<usize>>,
}

/// The kinds of operands; parentheses and plus signs keep them.
pub(super) enum Tree {
    Literal(Literal),
    /// A property, by its slot.
    Property(usize),
    Condition(Condition),
    /// What a minus sign made.
    Value(Value),
}

impl Node {
    pub(super) fn new(tree: Tree, span: Range<usize>, depth: usize) -> Self {
        Self { tree, span, depth, not: None }
    }

    pub(super) fn in_parentheses(self, span: Range<usize>) -> Self {
        Self { span, not: None, ..self }
    }

    /// The operand with what stands before it.
    pub(super) fn from(self, start: usize) -> Self {
        Self { span: start..self.span.end, ..self }
    }

    pub(super) fn value(self) -> Value {
        match self.tree {
            Tree::Literal(literal) => Value::Literal(literal),
            Tree::Property(slot) => Value::Slot(slot),
            Tree::Condition(Condition::Constant(constant)) => {
                Value::Literal(constant.map_or(Literal::Null, Literal::Truth))
            }
            Tree::Condition(condition) => Value::Condition(Box::new(condition)),
            Tree::Value(value) => value,
        }
    }

    fn is_null(&self) -> bool {
        matches!(self.tree, Tree::Literal(Literal::Null))
    }
}

impl Parser<'_> {
    /// The operand where a condition is wanted.
    pub(super) fn condition(&mut self, node: Node) -> Result<Condition, Error> {
        match node.tree {
            Tree::Condition(condition) => Ok(condition),
            Tree::Literal(Literal::Truth(value)) => Ok(Condition::Constant(Some(value))),
            Tree::Literal(Literal::Null) => Ok(Condition::Constant(None)),
            Tree::Property(slot) => {
                self.notice_bare(&node.span);
                self.term(Value::Slot(slot), Test::Engine(EngineTest::Holds), &node.span)
            }
            Tree::Literal(_) | Tree::Value(_) => {
                let what = format!("{} as a condition", self.shown(&node.span));
                Err(self.refuse(node.span, what, ""))
            }
        }
    }

    pub(super) fn not(&mut self, node: Node, not: Range<usize>) -> Result<Node, Error> {
        let span = not.start..node.span.end;
        let depth = self.depth(node.depth + 1, span.clone())?;
        self.notice_inside(&node.span);
        let condition = self.condition(node)?.not();
        Ok(Node { not: Some(not), ..Node::new(Tree::Condition(condition), span, depth) })
    }

    pub(super) fn minus(&mut self, node: Node, start: usize) -> Result<Node, Error> {
        let span = start..node.span.end;
        let depth = self.depth(node.depth + 1, span.clone())?;
        self.notice_minus(&node, start);
        let value = match node.value() {
            Value::Literal(Literal::Int(value)) => Value::Literal(Literal::Int(value.wrapping_neg())),
            Value::Literal(Literal::Long(value)) => Value::Literal(Literal::Long(value.wrapping_neg())),
            Value::Literal(Literal::Double(value)) => Value::Literal(Literal::Double(-value)),
            Value::Literal(_) => Value::Literal(Literal::Null),
            // Negated again, a number is itself and all else is null.
            Value::Minus(inner) => match *inner {
                Value::Minus(twice) => Value::Minus(twice),
                value => Value::Minus(Box::new(Value::Minus(Box::new(value)))),
            },
            value => Value::Minus(Box::new(value)),
        };
        Ok(Node::new(Tree::Value(value), span, depth))
    }

    /// `IS [NOT] NULL`: of a condition too, and of a literal.
    pub(super) fn is_null(&mut self, node: Node, negated: bool) -> Result<Node, Error> {
        let span = node.span.start..self.last;
        let depth = self.depth(node.depth + 1, span.clone())?;
        self.notice_not(&node);
        self.notice_inside(&node.span);
        let condition = match node.value() {
            Value::Literal(literal) => Condition::Constant(Some(matches!(literal, Literal::Null))),
            Value::Condition(condition) => condition.is(None),
            value => self.term(value, Test::IsNull, &span)?,
        };
        Ok(Node::new(Tree::Condition(condition.negated_if(negated)), span, depth))
    }

    /// `=` and `<>`.
    pub(super) fn equality(&mut self, left: Node, op: Op, right: Node) -> Result<Node, Error> {
        for node in [&left, &right] {
            if node.is_null() {
                let hint = "; write IS NULL or IS NOT NULL";
                return Err(self.refuse(node.span.clone(), "a comparison with NULL".to_owned(), hint));
            }
        }
        if let (Tree::Literal(Literal::Truth(_)), Tree::Literal(other)) = (&left.tree, &right.tree)
            && !matches!(other, Literal::Truth(_))
        {
            let what = "TRUE or FALSE against a literal".to_owned();
            return Err(self.refuse(left.span.start..right.span.end, what, ""));
        }
        self.compare(left, op, right)
    }

    /// `<` and its like.
    pub(super) fn order(&mut self, left: Node, op: Op, right: Node) -> Result<Node, Error> {
        for node in [&left, &right] {
            self.check_ordered(node)?;
        }
        self.compare(left, op, right)
    }

    fn check_ordered(&self, node: &Node) -> Result<(), Error> {
        let (what, hint) = match &node.tree {
            Tree::Condition(_) if node.not.is_some() => {
                ("an order of a condition", "; NOT binds tighter than a comparison: write NOT (…)")
            }
            Tree::Condition(_) => ("an order of a condition", ""),
            Tree::Literal(Literal::Text(_)) => ("an order of text", "; only numbers have an order"),
            Tree::Literal(Literal::Truth(_) | Literal::Null) => ("an order of TRUE, FALSE or NULL", ""),
            _ => return Ok(()),
        };
        Err(self.refuse(node.span.clone(), what.to_owned(), hint))
    }

    /// `BETWEEN`: exactly its two comparisons.
    pub(super) fn between(
        &mut self,
        value: Node,
        low: Node,
        high: Node,
        negated: bool,
    ) -> Result<Node, Error> {
        for node in [&value, &low, &high] {
            self.check_ordered(node)?;
        }
        if let (Tree::Literal(from), Tree::Literal(to), false) = (&low.tree, &high.tree, negated)
            && engine::compare(from.scalar(), Op::Le, to.scalar()) != Verdict::True
        {
            let hint = "; the lower bound comes first";
            return Err(self.refuse(
                low.span.start..high.span.end,
                "BETWEEN with its bounds so".to_owned(),
                hint,
            ));
        }
        let span = value.span.start..high.span.end;
        let depth = value.depth.max(low.depth).max(high.depth) + 2;
        let depth = self.depth(depth, span.clone())?;
        let (from, to) = if negated { (Op::Lt, Op::Gt) } else { (Op::Ge, Op::Le) };
        self.notice_compare(&value, from, &low);
        self.notice_compare(&value, to, &high);
        let (low, high) = (low.value(), high.value());
        let condition = match value.value() {
            // Twice the value is twice a look at it.
            Value::Slot(slot) => {
                let low = self.pair(Value::Slot(slot), from, low, &span)?;
                let high = self.pair(Value::Slot(slot), to, high, &span)?;
                Condition::join_in_order(vec![low, high], !negated)
            }
            Value::Literal(literal) => {
                let low = self.pair(Value::Literal(literal.clone()), from, low, &span)?;
                let high = self.pair(Value::Literal(literal), to, high, &span)?;
                Condition::join_in_order(vec![low, high], !negated)
            }
            value => self.term(value, Test::Engine(EngineTest::Between { low, high, negated }), &span)?,
        };
        Ok(Node::new(Tree::Condition(condition), span, depth))
    }

    /// A comparison whose operands are taken.
    fn compare(&mut self, left: Node, op: Op, right: Node) -> Result<Node, Error> {
        let span = left.span.start..right.span.end;
        let depth = self.depth(left.depth.max(right.depth) + 1, span.clone())?;
        self.notice_compare(&left, op, &right);
        let condition = self.pair(left.value(), op, right.value(), &span)?;
        Ok(Node::new(Tree::Condition(condition), span, depth))
    }

    fn pair(&mut self, left: Value, op: Op, right: Value, span: &Range<usize>) -> Result<Condition, Error> {
        let (value, test) = match (left, right) {
            (Value::Literal(left), Value::Literal(right)) => {
                let verdict = engine::compare(left.scalar(), op, right.scalar());
                if verdict != Verdict::Failed {
                    return Ok(Condition::Constant(verdict.known()));
                }
                (Value::Literal(left), EngineTest::Compare(op, right))
            }
            // Here both dialects are one.
            (Value::Slot(slot), Value::Literal(right @ Literal::Text(_))) if !op.is_order() => {
                return self.term(Value::Slot(slot), Test::Compare(op, right), span);
            }
            (left, Value::Literal(right)) => (left, EngineTest::Compare(op, right)),
            (Value::Literal(left), right) => (right, EngineTest::CompareLeft(left, op)),
            (left, right) => (left, EngineTest::Against(op, right)),
        };
        self.term(value, Test::Engine(test), span)
    }

    /// Whether the expression so far ends in the word NULL, as that of `IS NULL` does.
    pub(super) fn ends_in_null(&self) -> bool {
        let before = self.text.get(..self.last).unwrap_or_default();
        before.len() >= 4
            && before.get(before.len() - 4..).is_some_and(|word| word.eq_ignore_ascii_case("null"))
    }
}

//! The dialect `rocketmq`: the language of RocketMQ's own SQL92 filter, as its engine reads it.
//!
//! Not built on `sqlparser`'s parser, unlike the other dialect: that one takes all tokens of a text at
//! once and looks further ahead, while here a text may end in anything (even in what is no token) once the
//! expression is complete, exactly one token behind it is looked at, and whether an operand is refused
//! depends on whether it was a literal, a property or a condition before parentheses and signs.
//!
//! ```text
//! or       = and { OR and }
//! and      = equality { AND equality }
//! equality = compare { ("=" | "<>") compare | IS [NOT] NULL }
//! compare  = unary { (">" | ">=" | "<" | "<=") unary | [NOT] (CONTAINS | STARTSWITH | ENDSWITH) text
//!                  | [NOT] BETWEEN unary AND unary | [NOT] IN "(" text { "," text } ")" }
//! unary    = { "+" | "-" | NOT } ( literal | name | "(" or ")" )
//! ```
//!
//! The parser keeps what is open in a list of its own, so no text can exhaust the stack: parentheses, signs
//! and `NOT` nest [`NESTING_MAX`] levels deep, as in the engine. Evaluation recurses through tests inside of
//! tests, which ends at [`DEPTH_MAX`] levels.

use std::collections::HashMap;
use std::ops::Range;

use memchr::memmem::Finder;

use super::TEXT_BYTES_MAX;
use crate::Name;
use crate::error::{Error, Problem};
use crate::expr::{
    Condition, EngineTest, Literal, MEMBERS_MAX, Members, Op, Part, TERMS_MAX, Term, Test, Value,
};
use crate::notice::Notice;
use crate::steps;
use lexer::{Kind, Lexer, Token, Word};

mod lexer;
mod notices;
mod operands;

use operands::{Node, Tree};

/// Deepest nesting of parentheses, signs and `NOT`.
const NESTING_MAX: usize = 1_000;
/// Most levels of an evaluation: AND, OR, NOT, and tests of conditions.
const DEPTH_MAX: usize = 300;

/// A parsed text.
pub(crate) struct Parsed {
    pub(crate) condition: Condition,
    /// By slot.
    pub(crate) names: Vec<Name>,
    pub(crate) notices: Vec<Notice>,
}

/// Parses a text of the dialect.
pub(crate) fn parse(text: &str) -> Result<Parsed, Error> {
    if text.len() > TEXT_BYTES_MAX {
        let problem = Problem::Limit { what: "an expression's length in bytes", max: TEXT_BYTES_MAX };
        return Err(Error::new(text, 0..0, problem));
    }
    let mut parser = Parser {
        text,
        lexer: Lexer::new(text),
        peeked: None,
        last: 0,
        nesting: 0,
        slots: HashMap::new(),
        terms: 0,
        notices: Vec::new(),
        only_inside: Vec::new(),
    };
    let root = parser.expression()?;
    let was_null_test = parser.ends_in_null();
    let bare = matches!(root.tree, Tree::Property(_));
    let condition = parser.condition(root)?;
    parser.notice_ignored(bare, was_null_test)?;
    let mut names: Vec<(Name, usize)> = parser.slots.into_iter().collect();
    names.sort_by_key(|(_, slot)| *slot);
    Ok(Parsed {
        condition,
        names: names.into_iter().map(|(name, _)| name).collect(),
        notices: notices::settle(parser.notices),
    })
}

struct Parser<'a> {
    text: &'a str,
    lexer: Lexer<'a>,
    peeked: Option<Token<'a>>,
    /// Where the last taken token ends.
    last: usize,
    /// Parentheses, signs and `NOT` that are open.
    nesting: usize,
    slots: HashMap<Name, usize>,
    terms: usize,
    notices: Vec<notices::Draft>,
    /// The places of the drafts that count inside of a test alone, in their order.
    only_inside: Vec<usize>,
}

/// What is open, from the outside in: each waits for the operand on its right.
enum Open {
    Parenthesis(usize),
    Plus(usize),
    Minus(usize),
    Not(Range<usize>),
    Compare(Node, Op),
    Low { value: Node, negated: bool },
    High { value: Node, low: Node, negated: bool },
    And { conditions: Vec<Condition>, start: usize, depth: usize },
    Or { conditions: Vec<Condition>, start: usize, depth: usize },
}

/// What an operand is followed by.
enum Next {
    /// Another operand.
    Operand,
    /// Nothing of its level.
    Done(Node),
}

impl<'a> Parser<'a> {
    fn expression(&mut self) -> Result<Node, Error> {
        let mut open = Vec::new();
        loop {
            let mut node = self.primary(&mut open)?;
            loop {
                node = self.signs(node, &mut open)?;
                node = match self.operators(node, &mut open)? {
                    Next::Operand => break,
                    Next::Done(node) => node,
                };
                node = match self.joints(node, &mut open)? {
                    Next::Operand => break,
                    Next::Done(node) => node,
                };
                let Some(Open::Parenthesis(start)) = open.pop() else { return Ok(node) };
                let close = self.take()?;
                if close.kind != Kind::Close {
                    return Err(self.expected("an operator, AND, OR or `)`", &close));
                }
                self.nesting -= 1;
                node = node.in_parentheses(start..close.span.end);
            }
        }
    }

    /// Signs, parentheses and `NOT` that open, and the operand behind them.
    fn primary(&mut self, open: &mut Vec<Open>) -> Result<Node, Error> {
        loop {
            let token = self.take()?;
            let start = token.span.start;
            let waits = match token.kind {
                Kind::Plus => Open::Plus(start),
                Kind::Minus => Open::Minus(start),
                Kind::Word(Word::Not) => Open::Not(token.span.clone()),
                Kind::Open => Open::Parenthesis(start),
                _ => {
                    let tree = self.operand(&token)?;
                    return Ok(Node::new(tree, token.span, 0));
                }
            };
            self.nesting += 1;
            if self.nesting > NESTING_MAX {
                return Err(self.fail(token.span, Problem::Limit { what: "nesting", max: NESTING_MAX }));
            }
            open.push(waits);
        }
    }

    fn operand(&mut self, token: &Token<'a>) -> Result<Tree, Error> {
        let literal = match token.kind {
            Kind::Name(name) => {
                let next = self.slots.len();
                let slot = *self.slots.entry(Name::Property(name.to_owned())).or_insert(next);
                return Ok(Tree::Property(slot));
            }
            Kind::Text(raw) => Literal::Text(raw.replace("''", "'")),
            Kind::Word(Word::True) => Literal::Truth(true),
            Kind::Word(Word::False) => Literal::Truth(false),
            Kind::Word(Word::Null) => Literal::Null,
            Kind::Integer(digits) => match digits.parse::<i64>() {
                Ok(value) => i32::try_from(value).map_or(Literal::Long(value), Literal::Int),
                Err(_) => return Err(self.out_of_range(token)),
            },
            Kind::Float(digits) => match digits.parse::<f64>() {
                Ok(value) if value.is_finite() && value != 0.0 => Literal::Double(value),
                Ok(0.0) => {
                    let what = format!("a zero with a point or exponent, `{digits}`,");
                    return Err(self.refuse(token.span.clone(), what, "; write 0"));
                }
                _ => return Err(self.out_of_range(token)),
            },
            _ => return Err(self.expected("a name, a number or text", token)),
        };
        Ok(Tree::Literal(literal))
    }

    /// Signs and `NOT` before an operand that is complete.
    fn signs(&mut self, mut node: Node, open: &mut Vec<Open>) -> Result<Node, Error> {
        loop {
            node = match open.pop() {
                Some(Open::Plus(start)) => node.from(start),
                Some(Open::Minus(start)) => self.minus(node, start)?,
                Some(Open::Not(not)) => self.not(node, not)?,
                Some(other) => {
                    open.push(other);
                    return Ok(node);
                }
                None => return Ok(node),
            };
            self.nesting -= 1;
        }
    }

    /// Comparisons and tests, those of `=` and `IS` last.
    fn operators(&mut self, mut node: Node, open: &mut Vec<Open>) -> Result<Next, Error> {
        match open.pop() {
            Some(Open::Compare(left, op)) if op.is_order() => node = self.order(left, op, node)?,
            Some(Open::Low { value, negated }) => {
                let and = self.take()?;
                if and.kind != Kind::Word(Word::And) {
                    return Err(self.expected("AND and the upper bound", &and));
                }
                open.push(Open::High { value, low: node, negated });
                return Ok(Next::Operand);
            }
            Some(Open::High { value, low, negated }) => node = self.between(value, low, node, negated)?,
            Some(other) => open.push(other),
            None => {}
        }
        loop {
            match self.peek()? {
                Kind::Compare(op) if op.is_order() => {
                    self.take()?;
                    open.push(Open::Compare(node, op));
                    return Ok(Next::Operand);
                }
                Kind::Word(
                    Word::Not | Word::Between | Word::In | Word::Contains | Word::StartsWith | Word::EndsWith,
                ) => {
                    let mut token = self.take()?;
                    let negated = token.kind == Kind::Word(Word::Not);
                    if negated {
                        token = self.take()?;
                    }
                    node = match token.kind {
                        Kind::Word(Word::Between) => {
                            open.push(Open::Low { value: node, negated });
                            return Ok(Next::Operand);
                        }
                        Kind::Word(Word::In) => self.list(node, negated)?,
                        Kind::Word(word @ (Word::Contains | Word::StartsWith | Word::EndsWith)) => {
                            self.search(node, word, negated)?
                        }
                        _ => {
                            let expected = "CONTAINS, STARTSWITH, ENDSWITH, BETWEEN or IN after NOT";
                            return Err(self.expected(expected, &token));
                        }
                    };
                }
                _ => break,
            }
        }
        match open.pop() {
            Some(Open::Compare(left, op)) => node = self.equality(left, op, node)?,
            Some(other) => open.push(other),
            None => {}
        }
        loop {
            match self.peek()? {
                Kind::Compare(op) if !op.is_order() => {
                    self.take()?;
                    open.push(Open::Compare(node, op));
                    return Ok(Next::Operand);
                }
                Kind::Word(Word::Is) => {
                    self.take()?;
                    let mut token = self.take()?;
                    let negated = token.kind == Kind::Word(Word::Not);
                    if negated {
                        token = self.take()?;
                    }
                    if token.kind != Kind::Word(Word::Null) {
                        return Err(self.expected("NULL", &token));
                    }
                    node = self.is_null(node, negated)?;
                }
                _ => return Ok(Next::Done(node)),
            }
        }
    }

    /// `AND` and `OR` after a complete test.
    fn joints(&mut self, mut node: Node, open: &mut Vec<Open>) -> Result<Next, Error> {
        for all in [true, false] {
            let word = if all { Word::And } else { Word::Or };
            let more = self.peek()? == Kind::Word(word);
            let waiting = match open.pop() {
                Some(Open::And { conditions, start, depth }) if all => Some((conditions, start, depth)),
                Some(Open::Or { conditions, start, depth }) if !all => Some((conditions, start, depth)),
                Some(other) => {
                    open.push(other);
                    None
                }
                None => None,
            };
            if waiting.is_none() && !more {
                continue;
            }
            let (mut conditions, start, mut depth) = waiting.unwrap_or((Vec::new(), node.span.start, 0));
            depth = depth.max(node.depth + 1);
            let end = node.span.end;
            conditions.push(self.condition(node)?);
            if more {
                self.take()?;
                open.push(if all {
                    Open::And { conditions, start, depth }
                } else {
                    Open::Or { conditions, start, depth }
                });
                return Ok(Next::Operand);
            }
            let joined = Condition::join_in_order(conditions, all);
            node = Node::new(Tree::Condition(joined), start..end, self.depth(depth, start..end)?);
        }
        Ok(Next::Done(node))
    }

    fn list(&mut self, node: Node, negated: bool) -> Result<Node, Error> {
        let Tree::Property(slot) = node.tree else {
            let problem = Problem::Syntax { expected: "a property before IN", found: self.shown(&node.span) };
            return Err(self.fail(node.span, problem));
        };
        let token = self.take()?;
        if token.kind != Kind::Open {
            return Err(self.expected("`(` and a list", &token));
        }
        let mut members = std::collections::HashSet::new();
        for count in 1.. {
            let token = self.take()?;
            let Kind::Text(raw) = token.kind else {
                let expected = "text in single quotes (a list of RocketMQ holds no numbers)";
                return Err(self.expected(expected, &token));
            };
            if count > MEMBERS_MAX {
                let problem = Problem::Limit { what: "a list's length", max: MEMBERS_MAX };
                return Err(self.fail(token.span, problem));
            }
            members.insert(raw.replace("''", "'"));
            let token = self.take()?;
            match token.kind {
                Kind::Comma => {}
                Kind::Close => break,
                _ => return Err(self.expected("`,` or `)`", &token)),
            }
        }
        let span = node.span.start..self.last;
        let found = self.term(Value::Slot(slot), Test::In(Members::of_texts(members)), &span)?;
        Ok(Node::new(Tree::Condition(found.negated_if(negated)), span, 1))
    }

    fn search(&mut self, node: Node, word: Word, negated: bool) -> Result<Node, Error> {
        let token = self.take()?;
        let Kind::Text(raw) = token.kind else {
            return Err(self.expected("text in single quotes", &token));
        };
        let text = raw.replace("''", "'");
        let span = node.span.start..token.span.end;
        self.notice_not(&node);
        self.notice_search(&span, text.is_empty());
        let part = match word {
            Word::Contains => Part::Contains(Box::new(Finder::new(&text).into_owned())),
            Word::StartsWith => Part::StartsWith(text),
            _ => Part::EndsWith(text),
        };
        let depth = self.depth(node.depth + 1, span.clone())?;
        let test = Test::Engine(EngineTest::Search { part, negated });
        let condition = self.term(node.value(), test, &span)?;
        Ok(Node::new(Tree::Condition(condition), span, depth))
    }

    fn term(&mut self, value: Value, test: Test, span: &Range<usize>) -> Result<Condition, Error> {
        self.terms += 1;
        if self.terms > TERMS_MAX {
            let problem = Problem::Limit { what: "the number of terms", max: TERMS_MAX };
            return Err(self.fail(span.clone(), problem));
        }
        Ok(Condition::Term(Box::new(Term { value, test, span: span.clone() })))
    }

    fn depth(&self, depth: usize, span: Range<usize>) -> Result<usize, Error> {
        if depth > DEPTH_MAX {
            let what = "the nesting of tests in tests";
            return Err(self.fail(span, Problem::Limit { what, max: DEPTH_MAX }));
        }
        Ok(depth)
    }

    fn peek(&mut self) -> Result<Kind<'a>, Error> {
        steps::add(1);
        let token = match self.peeked.take() {
            Some(token) => token,
            None => self.lexer.next()?,
        };
        Ok(self.peeked.insert(token).kind)
    }

    fn take(&mut self) -> Result<Token<'a>, Error> {
        steps::add(1);
        let token = match self.peeked.take() {
            Some(token) => token,
            None => self.lexer.next()?,
        };
        self.last = token.span.end;
        Ok(token)
    }

    fn shown(&self, span: &Range<usize>) -> String {
        super::shown(self.text.get(span.clone()).unwrap_or_default())
    }

    fn expected(&self, expected: &'static str, found: &Token<'_>) -> Error {
        let shown = if found.kind == Kind::End { "the end".to_owned() } else { self.shown(&found.span) };
        self.fail(found.span.clone(), Problem::Syntax { expected, found: shown })
    }

    fn out_of_range(&self, token: &Token<'_>) -> Error {
        let text = self.text.get(token.span.clone()).unwrap_or_default().to_owned();
        self.fail(token.span.clone(), Problem::OutOfRange { text })
    }

    fn refuse(&self, span: Range<usize>, what: String, hint: &'static str) -> Error {
        self.fail(span, Problem::Unsupported { what, hint })
    }

    fn fail(&self, span: Range<usize>, problem: Problem) -> Error {
        Error::new(self.text, span, problem)
    }
}

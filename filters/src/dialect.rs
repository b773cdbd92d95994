//! Texts to syntax trees: what the dialects share. One file of the folder for each dialect's grammar.
//!
//! A dialect turns a text into a `sqlparser` syntax tree, or says what is wrong and where. What a name
//! means, which types fit and what is constant is [`crate::expr`]'s work. In these trees the column of a
//! `sqlparser` location is a byte offset plus 1.

use std::ops::Range;

use sqlparser::ast::{BinaryOperator, Expr, Value};
use sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};

use crate::error::{Error, Problem};
use crate::steps;

pub(crate) mod rocketmq;
pub(crate) mod sluice;

/// Longest text of an expression, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 64 * 1024;
/// Deepest nesting of parentheses and `NOT`.
pub(crate) const DEPTH_MAX: usize = 128;

/// Words that are no names unless quoted.
const RESERVED: [&str; 15] = [
    "AND",
    "BETWEEN",
    "CONTAINS",
    "ENDSWITH",
    "ESCAPE",
    "FALSE",
    "ILIKE",
    "IN",
    "IS",
    "LIKE",
    "NOT",
    "NULL",
    "OR",
    "STARTSWITH",
    "TRUE",
];

/// Operators on text that are words of their own, with their names in the syntax tree.
pub(crate) const TEXT_OPERATORS: [&str; 3] = ["CONTAINS", "STARTSWITH", "ENDSWITH"];

/// Whether a word is a name when it stands without quotes.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c != '$' && is_name_start(c))
        && chars.all(is_name_part)
        && !is_reserved(name)
}

/// The bytes that a span of the syntax tree covers.
pub(crate) fn bytes(span: Span) -> Range<usize> {
    let offset =
        |location: Location| usize::try_from(location.column).unwrap_or(usize::MAX).saturating_sub(1);
    offset(span.start)..offset(span.end)
}

fn is_reserved(word: &str) -> bool {
    RESERVED.iter().any(|reserved| word.eq_ignore_ascii_case(reserved))
}

fn is_name_start(c: char) -> bool {
    c.is_alphabetic() || c == '_' || c == '$'
}

fn is_name_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Tokens whose locations are byte offsets.
fn tokenize(text: &str, dialect: &dyn sqlparser::dialect::Dialect) -> Result<Vec<TokenWithSpan>, Error> {
    let mut tokens = Vec::new();
    let mut places = Places { text, line: 1, column: 1, offset: 0 };
    Tokenizer::new(dialect, text).tokenize_with_location_into_buf(&mut tokens).map_err(|error| {
        let start = Places { ..places }.advance(error.location);
        let (what, found) = match text.get(start..).and_then(|rest| rest.chars().next()) {
            Some('\'') => ("a text", None),
            Some('"') => ("a quoted name", None),
            None => ("a comment", None),
            found => ("", found),
        };
        match found {
            None if what == "a comment" => {
                let start = text.rfind("/*").unwrap_or(start);
                Error::new(text, start..text.len(), Problem::Unclosed { what })
            }
            None => Error::new(text, start..text.len(), Problem::Unclosed { what }),
            Some(c) => {
                let found = format!("`{c}`");
                let problem = Problem::Syntax { expected: "a name, a number or text", found };
                Error::new(text, start..start + c.len_utf8(), problem)
            }
        }
    })?;
    for token in &mut tokens {
        let start = places.advance(token.span.start);
        let end = places.advance(token.span.end);
        token.span = Span::new(location(start), location(end));
    }
    Ok(tokens)
}

fn location(offset: usize) -> Location {
    Location::new(1, offset as u64 + 1)
}

/// Turns the tokenizer's lines and columns, which rise, into byte offsets.
#[derive(Clone, Copy)]
struct Places<'a> {
    text: &'a str,
    line: u64,
    column: u64,
    offset: usize,
}

impl Places<'_> {
    fn advance(&mut self, to: Location) -> usize {
        let rest = self.text.get(self.offset..).unwrap_or_default();
        for c in rest.chars() {
            steps::add(1);
            if (self.line, self.column) >= (to.line, to.column) {
                break;
            }
            if c == '\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
            self.offset += c.len_utf8();
        }
        self.offset
    }
}

/// One tree of logarithmic depth for a chain of at least one.
fn balance(mut terms: Vec<Expr>, op: &BinaryOperator) -> Expr {
    while terms.len() > 1 {
        steps::add(terms.len());
        let mut pairs = Vec::with_capacity(terms.len().div_ceil(2));
        let mut rest = terms.into_iter();
        while let Some(left) = rest.next() {
            pairs.push(match rest.next() {
                Some(right) => {
                    Expr::BinaryOp { left: Box::new(left), op: op.clone(), right: Box::new(right) }
                }
                None => left,
            });
        }
        terms = pairs;
    }
    terms.pop().unwrap_or(Expr::Value(Value::Null.with_empty_span()))
}

/// A token as an error shows it.
fn quote(token: &Token) -> String {
    if *token == Token::EOF { "the end".to_owned() } else { shown(&token.to_string()) }
}

/// A piece of text as an error shows it.
pub(crate) fn shown(text: &str) -> String {
    const SHOWN_MAX: usize = 40;
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("`{}…`", text.get(..end).unwrap_or_default()),
        None => format!("`{text}`"),
    }
}

//! The dialect `sluice`: standard SQL, parsed by `sqlparser`'s tokenizer and precedence parser.
//!
//! Every prefix and every operator goes through the hooks below, so that the language is exactly what is
//! written here, each error knows its place, and no construct of the big SQL grammar (some of which are
//! tried several ways, in exponential time when nested) can be reached.
//!
//! From tightest to loosest: signs; `*`, `/`, `%`; `+`, `-`, `||`; comparisons, `BETWEEN`, `IN`, `LIKE`, `CONTAINS` and the like (none of which
//! chains); `IS`; `NOT`; `AND`; `OR`. Chains of `AND` and of `OR` become balanced trees, so that nothing
//! recurses deeper than [`DEPTH_MAX`] and a logarithm.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use sqlparser::ast::{BinaryOperator, Expr, Ident, UnaryOperator, Value, ValueWithSpan};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::{
    DEPTH_MAX, TEXT_BYTES_MAX, TEXT_OPERATORS, balance, bytes, is_name_part, is_name_start, is_reserved,
    quote, tokenize,
};
use crate::error::{Error, Problem};
use crate::steps;
use values::{arithmetic_precedence, is_value};

pub(crate) mod values;

/// What a name of other characters than an identifier's needs.
const QUOTE_HINT: &str = "; a name with such a character is written in double quotes: \"a-b\"";
const DOT_HINT: &str = "; a field of the body is written $.a.b, a name with a dot in double quotes: \"a.b\"";
const IS_HINT: &str = "; write IS TRUE, IS FALSE or IS UNKNOWN";

const PRECEDENCE_COMPARE: u8 = 20;
const PRECEDENCE_IS: u8 = 17;
const PRECEDENCE_NOT: u8 = 15;

/// Parses a text of the dialect.
pub(crate) fn parse(text: &str) -> Result<Expr, Error> {
    if text.len() > TEXT_BYTES_MAX {
        let problem = Problem::Limit { what: "an expression's length in bytes", max: TEXT_BYTES_MAX };
        return Err(Error::new(text, 0..0, problem));
    }
    let grammar = Grammar { text_len: text.len(), problem: RefCell::default(), operations: Cell::new(0) };
    let tokens = tokenize(text, &grammar)?;
    let mut parser = Parser::new(&grammar).with_recursion_limit(DEPTH_MAX).with_tokens_with_locations(tokens);
    let parsed = grammar.condition(&mut parser).and_then(|expr| match &parser.peek_token_ref().token {
        Token::EOF => Ok(expr),
        _ => Err(grammar.expected("an operator, AND, OR or the end", parser.peek_token_ref())),
    });
    parsed.map_err(|error| {
        let (span, problem) = grammar.problem.take().unwrap_or_else(|| {
            let problem = match error {
                ParserError::RecursionLimitExceeded => Problem::Limit { what: "nesting", max: DEPTH_MAX },
                ParserError::TokenizerError(what) | ParserError::ParserError(what) => {
                    Problem::Unsupported { what, hint: "" }
                }
            };
            (grammar.place(parser.peek_token_ref()), problem)
        });
        Error::new(text, span, problem)
    })
}

/// What an operator does, as far as the parser cares.
enum Operator {
    Compare(BinaryOperator),
    Arithmetic(BinaryOperator),
    Is,
    In,
    Between,
    Like {
        fold: bool,
    },
    Text(&'static str),
    /// Not of this dialect.
    Foreign,
}

/// The dialect that `sqlparser` is given.
#[derive(Debug)]
struct Grammar {
    text_len: usize,
    /// The error that a hook met; `sqlparser`'s own carry no place.
    problem: RefCell<Option<(Range<usize>, Problem)>>,
    /// Operators and functions of the value or comparison that is being read.
    operations: Cell<usize>,
}

impl sqlparser::dialect::Dialect for Grammar {
    fn is_delimited_identifier_start(&self, c: char) -> bool {
        c == '"'
    }

    fn is_identifier_start(&self, c: char) -> bool {
        is_name_start(c)
    }

    fn is_identifier_part(&self, c: char) -> bool {
        is_name_part(c)
    }

    fn supports_nested_comments(&self) -> bool {
        true
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        Some(self.prefix(parser).and_then(|expr| {
            // The parser would go on by itself after these.
            let next = parser.peek_token_ref();
            match &next.token {
                Token::Period => Err(self.unsupported(next, "", DOT_HINT)),
                Token::LBracket => Err(self.unsupported(next, "", QUOTE_HINT)),
                Token::Word(word) if word.keyword == Keyword::COLLATE => Err(self.unsupported(next, "", "")),
                _ => Ok(expr),
            }
        }))
    }

    fn parse_infix(
        &self,
        parser: &mut Parser,
        left: &Expr,
        _precedence: u8,
    ) -> Option<Result<Expr, ParserError>> {
        self.infix(parser, left).transpose()
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        Some(Ok(match operator(parser) {
            Some((_, Operator::Is)) => PRECEDENCE_IS,
            Some((_, Operator::Arithmetic(op))) => arithmetic_precedence(&op).unwrap_or(PRECEDENCE_COMPARE),
            Some(_) => PRECEDENCE_COMPARE,
            None => 0,
        }))
    }
}

impl Grammar {
    /// `condition := all { OR all }`, `all := term { AND term }`
    fn condition(&self, parser: &mut Parser) -> Result<Expr, ParserError> {
        let mut any = Vec::new();
        loop {
            let mut all = vec![self.term(parser)?];
            while parser.parse_keyword(Keyword::AND) {
                all.push(self.term(parser)?);
            }
            any.push(balance(all, &BinaryOperator::And));
            if !parser.parse_keyword(Keyword::OR) {
                return Ok(balance(any, &BinaryOperator::Or));
            }
        }
    }

    fn term(&self, parser: &mut Parser) -> Result<Expr, ParserError> {
        let expr = parser.parse_subexpr(0)?;
        // A value in parentheses may be part of a bigger one.
        if !is_value(&expr) {
            self.operations.set(0);
        }
        Ok(expr)
    }

    fn prefix(&self, parser: &mut Parser) -> Result<Expr, ParserError> {
        let token = parser.next_token();
        match token.token {
            Token::LParen => {
                let inner = self.condition(parser)?;
                let close = parser.next_token();
                match close.token {
                    Token::RParen if is_value(&inner) => Ok(inner),
                    Token::RParen => Ok(Expr::Nested(Box::new(inner))),
                    _ => Err(self.expected("an operator, AND, OR or `)`", &close)),
                }
            }
            Token::Plus | Token::Minus => self.signed(parser, &token),
            Token::Number(ref text, false) => {
                Ok(Expr::Value(Value::Number(text.clone(), false).with_span(token.span)))
            }
            Token::SingleQuotedString(text) => {
                Ok(Expr::Value(Value::SingleQuotedString(text).with_span(token.span)))
            }
            Token::Word(ref word) if word.quote_style.is_none() => match word.keyword {
                Keyword::NOT => {
                    let expr = Box::new(parser.parse_subexpr(PRECEDENCE_NOT)?);
                    Ok(Expr::UnaryOp { op: UnaryOperator::Not, expr })
                }
                Keyword::TRUE => Ok(Expr::Value(Value::Boolean(true).with_span(token.span))),
                Keyword::FALSE => Ok(Expr::Value(Value::Boolean(false).with_span(token.span))),
                Keyword::NULL => Ok(Expr::Value(Value::Null.with_span(token.span))),
                _ => self.name(parser, word, &token),
            },
            Token::Word(ref word) => self.name(parser, word, &token),
            Token::Number(..)
            | Token::HexStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::Placeholder(_) => Err(self.unsupported(&token, "a literal like", "")),
            _ => Err(self.expected("a name, a number or text", &token)),
        }
    }

    /// `name`, `"any name"`, `$name` or `$.a.b`, whose first word was taken.
    fn name(&self, parser: &mut Parser, word: &Word, token: &TokenWithSpan) -> Result<Expr, ParserError> {
        let ident = Ident { value: word.value.clone(), quote_style: word.quote_style, span: token.span };
        let next = parser.peek_token_ref();
        if word.quote_style.is_some() {
            return if word.value.is_empty() {
                Err(self.expected("a name between the quotes", token))
            } else {
                Ok(Expr::Identifier(ident))
            };
        }
        if word.value == "$" {
            return self.path(parser, ident);
        }
        if is_reserved(&word.value) {
            return Err(self.expected("a name, a number or text", token));
        }
        match &next.token {
            Token::LParen => self.call(parser, word, token),
            Token::SingleQuotedString(_)
                if matches!(word.keyword, Keyword::DATE | Keyword::TIMESTAMP | Keyword::INTERVAL) =>
            {
                self.typed_text(parser, word.keyword)
            }
            // `CASE WHEN`, `SELECT x`: words of a bigger language.
            Token::SingleQuotedString(_) | Token::Number(..) | Token::Word(_)
                if is_foreign(word.keyword) && operator(parser).is_none() && !is_joint(next) =>
            {
                Err(self.unsupported(token, "", ""))
            }
            _ => Ok(Expr::Identifier(ident)),
        }
    }

    fn path(&self, parser: &mut Parser, root: Ident) -> Result<Expr, ParserError> {
        let mut path = vec![root];
        while parser.consume_token(&Token::Period) {
            let token = parser.next_token();
            match token.token {
                Token::Word(Word { ref value, quote_style, .. }) if !value.is_empty() => {
                    path.push(Ident { value: value.clone(), quote_style, span: token.span });
                }
                _ => return Err(self.expected("a field's name", &token)),
            }
        }
        if path.len() == 1 {
            return Err(self.expected("`.` and a field, or a column, after `$`", parser.peek_token_ref()));
        }
        Ok(Expr::CompoundIdentifier(path))
    }

    /// An operator after `left`; `None` leaves the rest of a checked `IS` to the parser.
    fn infix(&self, parser: &mut Parser, left: &Expr) -> Result<Option<Expr>, ParserError> {
        let Some((negated, operator)) = operator(parser) else {
            return Err(self.expected("an operator", parser.peek_token_ref()));
        };
        if let Operator::Is = operator {
            return self.is(parser, left).map(|()| None);
        }
        let mut token = parser.next_token();
        if let Operator::Foreign = operator {
            let hint = match token.token {
                Token::Colon => QUOTE_HINT,
                Token::DoubleEq => "; equality is written =",
                _ => "",
            };
            return Err(self.unsupported(&token, "operator", hint));
        }
        if negated {
            token = parser.next_token();
        }
        if !is_value(left) {
            return Err(self.unsupported(&token, "a condition on the left of", IS_HINT));
        }
        let expr = Box::new(left.clone());
        Ok(Some(match operator {
            Operator::Arithmetic(op) => self.arithmetic(parser, expr, &token, op)?,
            Operator::Compare(op) => {
                Expr::BinaryOp { left: expr, op, right: Box::new(self.operand(parser)?) }
            }
            Operator::Between => {
                let low = Box::new(self.operand(parser)?);
                if !parser.parse_keyword(Keyword::AND) {
                    return Err(self.expected("AND and the upper bound", parser.peek_token_ref()));
                }
                Expr::Between { expr, negated, low, high: Box::new(self.operand(parser)?) }
            }
            Operator::In => Expr::InList { expr, list: self.list(parser)?, negated },
            Operator::Like { fold } => {
                let pattern = Box::new(Expr::Value(self.text(parser)?));
                let escape_char =
                    if parser.parse_keyword(Keyword::ESCAPE) { Some(self.text(parser)?) } else { None };
                if fold {
                    Expr::ILike { negated, any: false, expr, pattern, escape_char }
                } else {
                    Expr::Like { negated, any: false, expr, pattern, escape_char }
                }
            }
            Operator::Text(name) => {
                let right = Box::new(Expr::Value(self.text(parser)?));
                let test = Expr::BinaryOp { left: expr, op: BinaryOperator::Custom(name.to_owned()), right };
                if negated { Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(test) } } else { test }
            }
            Operator::Is | Operator::Foreign => {
                return Err(self.expected("an operator", &token));
            }
        }))
    }

    /// Checks what stands around `IS`.
    fn is(&self, parser: &mut Parser, left: &Expr) -> Result<(), ParserError> {
        if matches!(
            left,
            Expr::IsNull(_)
                | Expr::IsNotNull(_)
                | Expr::IsTrue(_)
                | Expr::IsNotTrue(_)
                | Expr::IsFalse(_)
                | Expr::IsNotFalse(_)
                | Expr::IsUnknown(_)
                | Expr::IsNotUnknown(_)
        ) {
            return Err(self.expected("AND, OR or the end", parser.peek_token_ref()));
        }
        let mut nth = 1;
        if is_keyword(parser.peek_nth_token_ref(nth), Keyword::NOT) {
            nth += 1;
        }
        let last = parser.peek_nth_token_ref(nth);
        let known = [Keyword::NULL, Keyword::TRUE, Keyword::FALSE, Keyword::UNKNOWN];
        if known.iter().any(|keyword| is_keyword(last, *keyword)) {
            Ok(())
        } else {
            Err(self.expected("NULL, TRUE, FALSE or UNKNOWN", last))
        }
    }

    fn operand(&self, parser: &mut Parser) -> Result<Expr, ParserError> {
        let first = parser.peek_token_ref().clone();
        let expr = parser.parse_subexpr(PRECEDENCE_COMPARE)?;
        if is_value(&expr) { Ok(expr) } else { Err(self.expected("a name, a number or text", &first)) }
    }

    fn list(&self, parser: &mut Parser) -> Result<Vec<Expr>, ParserError> {
        let open = parser.next_token();
        if open.token != Token::LParen {
            return Err(self.expected("`(` and a list", &open));
        }
        let mut list = Vec::new();
        loop {
            let first = parser.peek_token_ref().clone();
            let member = parser.parse_subexpr(PRECEDENCE_COMPARE)?;
            if !is_value(&member) {
                return Err(self.expected("a name, text or a number", &first));
            }
            list.push(member);
            let next = parser.next_token();
            match next.token {
                Token::Comma => {}
                Token::RParen => return Ok(list),
                _ => return Err(self.expected("`,` or `)`", &next)),
            }
        }
    }

    fn text(&self, parser: &mut Parser) -> Result<ValueWithSpan, ParserError> {
        let token = parser.next_token();
        match token.token {
            Token::SingleQuotedString(text) => Ok(Value::SingleQuotedString(text).with_span(token.span)),
            _ => Err(self.expected("text in single quotes", &token)),
        }
    }

    fn place(&self, token: &TokenWithSpan) -> Range<usize> {
        match token.token {
            Token::EOF => self.text_len..self.text_len,
            _ => bytes(token.span),
        }
    }

    fn expected(&self, expected: &'static str, found: &TokenWithSpan) -> ParserError {
        self.fail(found, Problem::Syntax { expected, found: quote(&found.token) })
    }

    fn unsupported(&self, token: &TokenWithSpan, what: &str, hint: &'static str) -> ParserError {
        let what = format!("{what} {}", quote(&token.token)).trim_start().to_owned();
        self.fail(token, Problem::Unsupported { what, hint })
    }

    /// Keeps the problem with its place; the returned error only ends the parsing.
    fn fail(&self, token: &TokenWithSpan, problem: Problem) -> ParserError {
        self.problem.replace(Some((self.place(token), problem)));
        ParserError::ParserError(String::new())
    }
}

/// The operator that comes next, and whether `NOT` stands before it.
fn operator(parser: &Parser) -> Option<(bool, Operator)> {
    steps::add(1);
    let mut token = parser.peek_token_ref();
    let negated = is_keyword(token, Keyword::NOT);
    if negated {
        token = parser.peek_nth_token_ref(1);
    }
    let operator = match &token.token {
        Token::Word(word) if word.quote_style.is_none() => match word.keyword {
            Keyword::IS if !negated => Operator::Is,
            Keyword::IN => Operator::In,
            Keyword::BETWEEN => Operator::Between,
            Keyword::LIKE => Operator::Like { fold: false },
            Keyword::ILIKE => Operator::Like { fold: true },
            _ => Operator::Text(TEXT_OPERATORS.iter().find(|name| word.value.eq_ignore_ascii_case(name))?),
        },
        _ if negated => return None,
        Token::Plus => Operator::Arithmetic(BinaryOperator::Plus),
        Token::Minus => Operator::Arithmetic(BinaryOperator::Minus),
        Token::StringConcat => Operator::Arithmetic(BinaryOperator::StringConcat),
        Token::Mul => Operator::Arithmetic(BinaryOperator::Multiply),
        Token::Div => Operator::Arithmetic(BinaryOperator::Divide),
        Token::Mod => Operator::Arithmetic(BinaryOperator::Modulo),
        Token::Eq => Operator::Compare(BinaryOperator::Eq),
        Token::Neq => Operator::Compare(BinaryOperator::NotEq),
        Token::Lt => Operator::Compare(BinaryOperator::Lt),
        Token::LtEq => Operator::Compare(BinaryOperator::LtEq),
        Token::Gt => Operator::Compare(BinaryOperator::Gt),
        Token::GtEq => Operator::Compare(BinaryOperator::GtEq),
        Token::EOF
        | Token::Comma
        | Token::LParen
        | Token::RParen
        | Token::SemiColon
        | Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::Word(_) => return None,
        _ => Operator::Foreign,
    };
    Some((negated, operator))
}

/// Words that open a construct of a bigger language, where something follows them that no name has.
fn is_foreign(keyword: Keyword) -> bool {
    matches!(
        keyword,
        Keyword::CASE
            | Keyword::DATE
            | Keyword::INTERVAL
            | Keyword::SELECT
            | Keyword::TIME
            | Keyword::TIMESTAMP
    )
}

/// Whether a condition may end before this token.
fn is_joint(token: &TokenWithSpan) -> bool {
    [Keyword::AND, Keyword::OR, Keyword::NOT].iter().any(|keyword| is_keyword(token, *keyword))
}

fn is_keyword(token: &TokenWithSpan, keyword: Keyword) -> bool {
    matches!(&token.token, Token::Word(word) if word.keyword == keyword)
}

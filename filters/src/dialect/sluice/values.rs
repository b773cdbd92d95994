//! Values that are more than a name or a literal: arithmetic, functions, `CAST`, times and lengths of time.

use sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, Interval, ObjectName, TimezoneInfo, TypedString, UnaryOperator, Value,
};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::{Grammar, PRECEDENCE_COMPARE, QUOTE_HINT, is_keyword};
use crate::dialect::{DEPTH_MAX, bytes};
use crate::error::Problem;

pub(super) const PRECEDENCE_SUM: u8 = 30;
pub(super) const PRECEDENCE_PRODUCT: u8 = 40;
const PRECEDENCE_SIGN: u8 = 50;

/// Functions that make a value. [`REGEXP_LIKE`] is a condition.
const FUNCTIONS: [&str; 4] = ["lower", "upper", "length", "coalesce"];
pub(crate) const REGEXP_LIKE: &str = "REGEXP_LIKE";

/// Whether an expression is a value, as far as one can see: a name may still be a condition.
pub(crate) fn is_value(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(_)
        | Expr::CompoundIdentifier(_)
        | Expr::Value(_)
        | Expr::Function(_)
        | Expr::Cast { .. }
        | Expr::TypedString(_)
        | Expr::Interval(_)
        | Expr::UnaryOp { op: UnaryOperator::Minus, .. } => true,
        Expr::BinaryOp { op, .. } => arithmetic_precedence(op).is_some(),
        _ => false,
    }
}

pub(super) fn arithmetic_precedence(op: &BinaryOperator) -> Option<u8> {
    match op {
        BinaryOperator::Plus | BinaryOperator::Minus | BinaryOperator::StringConcat => Some(PRECEDENCE_SUM),
        BinaryOperator::Multiply | BinaryOperator::Divide | BinaryOperator::Modulo => {
            Some(PRECEDENCE_PRODUCT)
        }
        _ => None,
    }
}

impl Grammar {
    /// A value after its signs: those of a number belong to it.
    pub(super) fn signed(&self, parser: &mut Parser, first: &TokenWithSpan) -> Result<Expr, ParserError> {
        let mut negative = first.token == Token::Minus;
        loop {
            let next = parser.peek_token_ref();
            match &next.token {
                Token::Plus => {}
                Token::Minus => negative = !negative,
                Token::Number(text, false) => {
                    let text = if negative { format!("-{text}") } else { text.clone() };
                    let span = first.span.union(&next.span);
                    parser.next_token();
                    return Ok(Expr::Value(Value::Number(text, false).with_span(span)));
                }
                Token::Word(_) | Token::LParen => break,
                _ => return Err(self.expected("a number", next)),
            }
            parser.next_token();
        }
        let value = self.operand_above(parser, PRECEDENCE_SIGN)?;
        self.count(first)?;
        Ok(if negative { Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(value) } } else { value })
    }

    /// `left + right` and its like, whose operator was taken.
    pub(super) fn arithmetic(
        &self,
        parser: &mut Parser,
        left: Box<Expr>,
        token: &TokenWithSpan,
        op: BinaryOperator,
    ) -> Result<Expr, ParserError> {
        let precedence = arithmetic_precedence(&op).unwrap_or(PRECEDENCE_SUM);
        self.check_blanks(parser, &left, token)?;
        let right = Box::new(self.operand_above(parser, precedence)?);
        self.count(token)?;
        Ok(Expr::BinaryOp { left, op, right })
    }

    /// A sign between two names that touches both is more likely part of a name.
    fn check_blanks(&self, parser: &Parser, left: &Expr, sign: &TokenWithSpan) -> Result<(), ParserError> {
        let Expr::Identifier(left) = left else { return Ok(()) };
        let right = parser.peek_token_ref();
        let is_name = matches!(&right.token, Token::Word(word) if word.quote_style.is_none());
        let sign_place = bytes(sign.span);
        if left.quote_style.is_none()
            && is_name
            && bytes(left.span).end == sign_place.start
            && sign_place.end == bytes(right.span).start
        {
            return Err(self.unsupported(sign, "without blanks around it, operator", QUOTE_HINT));
        }
        Ok(())
    }

    fn operand_above(&self, parser: &mut Parser, precedence: u8) -> Result<Expr, ParserError> {
        let first = parser.peek_token_ref().clone();
        let expr = parser.parse_subexpr(precedence)?;
        if is_value(&expr) { Ok(expr) } else { Err(self.expected("a name, a number or text", &first)) }
    }

    /// Counts what nests in one value or comparison, so that no tree is deep.
    pub(super) fn count(&self, token: &TokenWithSpan) -> Result<(), ParserError> {
        let count = self.operations.get() + 1;
        self.operations.set(count);
        if count > DEPTH_MAX {
            let what = "the number of operations in one comparison";
            return Err(self.fail(token, Problem::Limit { what, max: DEPTH_MAX }));
        }
        Ok(())
    }

    /// A function or `CAST`, whose name was taken and whose `(` comes next.
    pub(super) fn call(
        &self,
        parser: &mut Parser,
        word: &Word,
        token: &TokenWithSpan,
    ) -> Result<Expr, ParserError> {
        self.count(token)?;
        if word.keyword == Keyword::CAST {
            return self.cast(parser);
        }
        let is_regexp = word.value.eq_ignore_ascii_case(REGEXP_LIKE);
        let name = FUNCTIONS.iter().find(|name| word.value.eq_ignore_ascii_case(name));
        if name.is_none() && !is_regexp {
            let hint = "; there are lower, upper, length, coalesce, regexp_like and CAST";
            return Err(self.unsupported(token, "a function like", hint));
        }
        parser.next_token();
        let mut args = Vec::new();
        let close = loop {
            args.push(self.operand_above(parser, PRECEDENCE_COMPARE)?);
            let next = parser.next_token();
            match next.token {
                Token::Comma => {}
                Token::RParen => break next,
                _ => return Err(self.expected("`,` or `)`", &next)),
            }
        };
        let counts = match name {
            Some(&"coalesce") => args.len() >= 2,
            Some(_) => args.len() == 1,
            None => args.len() == 2,
        };
        if !counts {
            let what = format!("`{}` with so many arguments", word.value);
            return Err(self.fail(token, Problem::Unsupported { what, hint: "" }));
        }
        let Some(name) = name else {
            let right = args.pop().map_or(Expr::Value(Value::Null.with_empty_span()), |arg| arg);
            let left = args.pop().map_or(Expr::Value(Value::Null.with_empty_span()), |arg| arg);
            let op = BinaryOperator::Custom(REGEXP_LIKE.to_owned());
            return Ok(Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) });
        };
        let ident =
            Ident { value: (*name).to_owned(), quote_style: None, span: token.span.union(&close.span) };
        let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
        Ok(Expr::Function(Function {
            name: ObjectName::from(ident),
            uses_odbc_syntax: false,
            parameters: FunctionArguments::None,
            args: FunctionArguments::List(FunctionArgumentList {
                duplicate_treatment: None,
                args,
                clauses: Vec::new(),
            }),
            filter: None,
            null_treatment: None,
            over: None,
            within_group: Vec::new(),
        }))
    }

    fn cast(&self, parser: &mut Parser) -> Result<Expr, ParserError> {
        parser.next_token();
        let expr = Box::new(self.operand_above(parser, PRECEDENCE_COMPARE)?);
        let token = parser.next_token();
        if !is_keyword(&token, Keyword::AS) {
            return Err(self.expected("AS and a type", &token));
        }
        let token = parser.next_token();
        let word = match &token.token {
            Token::Word(word) if word.quote_style.is_none() => word.value.to_ascii_uppercase(),
            _ => return Err(self.expected("a type", &token)),
        };
        let data_type = match word.as_str() {
            "INT" | "INTEGER" | "BIGINT" | "SMALLINT" => DataType::BigInt(None),
            "DOUBLE" | "FLOAT" | "REAL" | "DECIMAL" | "NUMERIC" => DataType::Real,
            "TEXT" | "VARCHAR" | "CHAR" | "STRING" => DataType::Text,
            "BOOLEAN" | "BOOL" => DataType::Boolean,
            "TIMESTAMP" => DataType::Timestamp(None, TimezoneInfo::None),
            _ => {
                let hint = "; there are BIGINT, DOUBLE, TEXT, BOOLEAN and TIMESTAMP";
                return Err(self.unsupported(&token, "type", hint));
            }
        };
        let close = parser.next_token();
        if close.token != Token::RParen {
            return Err(self.expected("`)`", &close));
        }
        Ok(Expr::Cast { kind: CastKind::Cast, expr, data_type, array: false, format: None })
    }

    /// `TIMESTAMP '…'`, `DATE '…'` or `INTERVAL '…' [unit]`, whose first word was taken.
    pub(super) fn typed_text(&self, parser: &mut Parser, keyword: Keyword) -> Result<Expr, ParserError> {
        let mut value = self.text(parser)?;
        if keyword != Keyword::INTERVAL {
            let data_type = DataType::Timestamp(None, TimezoneInfo::None);
            return Ok(Expr::TypedString(TypedString { data_type, value, uses_odbc_syntax: false }));
        }
        let next = parser.peek_token_ref();
        if let (Token::Word(unit), Value::SingleQuotedString(text)) = (&next.token, &mut value.value)
            && unit.quote_style.is_none()
            && crate::time::unit(&unit.value).is_some()
        {
            text.push(' ');
            text.push_str(&unit.value);
            value.span = value.span.union(&next.span);
            parser.next_token();
        }
        Ok(Expr::Interval(Interval {
            value: Box::new(Expr::Value(value)),
            leading_field: None,
            leading_precision: None,
            last_field: None,
            fractional_seconds_precision: None,
        }))
    }
}

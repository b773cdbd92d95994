//! Values of dialect `sluice`: names, literals, and what is computed of them. What is constant is computed here.

use std::ops::Range;

use sqlparser::ast::{
    self, BinaryOperator, DataType, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Spanned,
    TypedString, UnaryOperator, ValueWithSpan,
};

use super::{Compiler, Operand, name};
use crate::Name;
use crate::dialect::bytes;
use crate::error::{Error, Problem};
use crate::expr::{Arithmetic, Function, Literal, Type, Value};
use crate::number::Number;
use crate::time;
use crate::value::Scalar;
use crate::values::{self, Found};

impl Compiler<'_> {
    pub(super) fn operand(&mut self, expr: &Expr) -> Result<Operand, Error> {
        let span = bytes(expr.span());
        Ok(Operand { value: self.value(expr, &span)?, span })
    }

    fn value(&mut self, expr: &Expr, span: &Range<usize>) -> Result<Value, Error> {
        let value = match expr {
            Expr::Identifier(ident) => return Ok(Value::Slot(self.slot(name(ident)))),
            Expr::CompoundIdentifier(path) => {
                let fields = path.iter().skip(1).map(|ident| ident.value.clone()).collect();
                return Ok(Value::Slot(self.slot(Name::Field(fields))));
            }
            Expr::Value(ValueWithSpan { value, .. }) => return self.literal(value, span).map(Value::Literal),
            Expr::TypedString(TypedString { value, .. }) => {
                return self.typed(value, "a time like '2013-01-31T12:00:00Z'", |text| {
                    time::parse(text).map(Literal::Time)
                });
            }
            Expr::Interval(interval) => {
                let Expr::Value(value) = &*interval.value else { return Err(self.unsupported(span)) };
                return self.typed(value, "a length of time like '5 minutes'", |text| {
                    time::parse_interval(text).map(Literal::Interval)
                });
            }
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => {
                let zero = Value::Literal(Literal::Number(Number::Whole(0)));
                let sides = (zero, Arithmetic::Subtract, self.operand(expr)?.value);
                Value::Arithmetic(Box::new(sides))
            }
            Expr::BinaryOp { left, op: BinaryOperator::StringConcat, right } => {
                let left = self.operand(left)?.value;
                Value::Call(Function::Concat, vec![left, self.operand(right)?.value])
            }
            Expr::BinaryOp { left, op, right } => {
                let Some(op) = arithmetic(op) else { return Err(self.unsupported(span)) };
                let left = self.operand(left)?.value;
                Value::Arithmetic(Box::new((left, op, self.operand(right)?.value)))
            }
            Expr::Cast { expr, data_type, .. } => {
                let target = match data_type {
                    DataType::BigInt(_) => Type::Whole,
                    DataType::Real => Type::Number,
                    DataType::Boolean => Type::Truth,
                    DataType::Timestamp(..) => Type::Time,
                    _ => Type::Text,
                };
                Value::Cast(Box::new(self.operand(expr)?.value), target)
            }
            Expr::Function(function) => {
                let FunctionArguments::List(list) = &function.args else {
                    return Err(self.unsupported(span));
                };
                let mut values = Vec::with_capacity(list.args.len());
                for arg in &list.args {
                    let FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)) = arg else {
                        return Err(self.unsupported(span));
                    };
                    values.push(self.operand(arg)?.value);
                }
                let called = match function.name.to_string().as_str() {
                    "lower" => Function::Lower,
                    "upper" => Function::Upper,
                    "length" => Function::Length,
                    _ => Function::Coalesce,
                };
                Value::Call(called, values)
            }
            _ => return Err(self.unsupported(span)),
        };
        Ok(constant(&value).map_or(value, Value::Literal))
    }

    fn literal(&self, value: &ast::Value, span: &Range<usize>) -> Result<Literal, Error> {
        Ok(match value {
            ast::Value::Null => Literal::Null,
            ast::Value::Boolean(value) => Literal::Truth(*value),
            ast::Value::SingleQuotedString(text) => Literal::Text(text.clone()),
            ast::Value::Number(text, _) => match Number::parse(text) {
                Some(number) if number.is_finite() => Literal::Number(number),
                _ => return Err(self.fail(span.clone(), Problem::OutOfRange { text: text.clone() })),
            },
            _ => return Err(self.unsupported(span)),
        })
    }

    /// A text that a word before it gives a type.
    fn typed(
        &self,
        value: &ValueWithSpan,
        expected: &'static str,
        read: impl FnOnce(&str) -> Option<Literal>,
    ) -> Result<Value, Error> {
        let ast::Value::SingleQuotedString(text) = &value.value else {
            return Err(self.not_text(value.span));
        };
        match read(text) {
            Some(literal) => Ok(Value::Literal(literal)),
            None => Err(self.found(bytes(value.span), expected)),
        }
    }

    fn unsupported(&self, span: &Range<usize>) -> Error {
        let what = crate::dialect::shown(self.text.get(span.clone()).unwrap_or_default());
        self.fail(span.clone(), Problem::Unsupported { what, hint: "" })
    }
}

fn arithmetic(op: &BinaryOperator) -> Option<Arithmetic> {
    Some(match op {
        BinaryOperator::Plus => Arithmetic::Add,
        BinaryOperator::Minus => Arithmetic::Subtract,
        BinaryOperator::Multiply => Arithmetic::Multiply,
        BinaryOperator::Divide => Arithmetic::Divide,
        BinaryOperator::Modulo => Arithmetic::Remainder,
        _ => return None,
    })
}

/// What a value of literals alone is.
fn constant(value: &Value) -> Option<Literal> {
    if !value.inner().all(|inner| matches!(inner, Value::Literal(_))) {
        return None;
    }
    Some(match values::compute(value, &[])? {
        Found::Text(text) => Literal::Text(text),
        Found::Scalar(scalar) => match scalar {
            Scalar::Text(text) => Literal::Text(text.to_owned()),
            Scalar::Truth(value) => Literal::Truth(value),
            Scalar::Int(value) => Literal::Number(Number::Whole(i64::from(value))),
            Scalar::Long(value) => Literal::Number(Number::Whole(value)),
            Scalar::Double(value) => Number::from_f64(value).map_or(Literal::Null, Literal::Number),
            Scalar::Time(at) => Literal::Time(at),
            Scalar::Interval(length) => Literal::Interval(length),
            Scalar::Null | Scalar::Unknown | Scalar::Other => Literal::Null,
        },
    })
}

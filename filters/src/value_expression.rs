//! Value expressions of dialect `sluice`: what a column is computed by. Typed before there are rows.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::datatypes::{DataType, TimeUnit};

use crate::column::{Batch, Column};
use crate::dialect;
use crate::dialect::sluice::values::is_value;
use crate::error::{Error, Problem};
use crate::expr::{self, Function, Literal, Type, Value};
use crate::number::Number;
use crate::types::{self, Kind};
use crate::{Dialect, Filter, Name};

/// A compiled value expression, or a condition whose answer is a column of truth values; a clone shares it.
///
/// Its type follows from those of its names: a name has its own type, arithmetic of whole numbers but `/` is
/// whole (null beyond 64 bits), all other arithmetic is in doubles, text that functions make is `Utf8`, and
/// times are milliseconds in UTC.
#[derive(Clone, Debug)]
pub struct ValueExpression {
    text: Arc<str>,
    slots: Arc<[Name]>,
    names: Arc<BTreeSet<Name>>,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    Value(Arc<Value>),
    Condition(Filter),
}

/// The type of computed times.
pub(crate) fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

impl ValueExpression {
    /// Compiles a text of dialect `sluice`; bounded as in [`Filter::parse`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let tree = dialect::sluice::parse(text)?;
        if !is_value(&tree) {
            let filter = Filter::parse(text, Dialect::Sluice)?;
            let (slots, names) = (Arc::clone(&filter.compiled.slots), filter.names().clone());
            return Ok(Self { text: text.into(), slots, names: names.into(), body: Body::Condition(filter) });
        }
        let (value, slots) = expr::compile_value(text, &tree)?;
        let names: BTreeSet<Name> = slots.iter().cloned().collect();
        let body = Body::Value(value.into());
        Ok(Self { text: text.into(), slots: slots.into(), names: names.into(), body })
    }

    /// The text that it was compiled from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Every name that is needed for its value.
    pub fn names(&self) -> &BTreeSet<Name> {
        &self.names
    }

    /// The name that it is, if it is nothing else.
    pub fn name(&self) -> Option<&Name> {
        match &self.body {
            Body::Value(value) => match **value {
                Value::Slot(slot) => self.slots.get(slot),
                _ => None,
            },
            Body::Condition(_) => None,
        }
    }

    /// Its type, [`DataType::Null`] if it is always null. `data_type` says what a name is; a property that it
    /// does not know is text, any other name that it does not know is an error.
    pub fn data_type(&self, data_type: &dyn Fn(&Name) -> Option<DataType>) -> Result<DataType, Error> {
        match &self.body {
            Body::Condition(filter) => filter.check(data_type).map(|()| DataType::Boolean),
            Body::Value(value) => {
                let types = self.slots.iter().map(|name| match (data_type(name), name) {
                    (None, Name::Property(_)) => Ok(DataType::Utf8View),
                    (None, name) => {
                        Err(self.fail(self.place(name), Problem::UnknownName { name: name.clone() }))
                    }
                    (Some(found), _) => Ok(found),
                });
                self.value_type(value, &types.collect::<Result<Vec<_>, _>>()?)
            }
        }
    }

    /// Evaluates over columns of `rows` rows into one of the type of [`ValueExpression::data_type`]. `resolve`
    /// gives the column of a name; a property without one is null in every row, any other name without one is
    /// an error, as is a type that does not fit.
    pub fn column(
        &self,
        rows: usize,
        resolve: &dyn Fn(&Name) -> Option<ArrayRef>,
    ) -> Result<ArrayRef, Error> {
        let value = match &self.body {
            Body::Condition(filter) => return Ok(Arc::new(filter.columns(rows, resolve)?)),
            Body::Value(value) => value,
        };
        let (mut columns, mut types) = (Vec::new(), Vec::new());
        for name in self.slots.iter() {
            let array = match (resolve(name), name) {
                (Some(array), _) if array.len() != rows => {
                    let problem = Problem::Rows { name: name.clone(), found: array.len(), expected: rows };
                    return Err(self.fail(self.place(name), problem));
                }
                (Some(array), _) => array,
                (None, Name::Property(_)) => new_null_array(&DataType::Utf8View, rows),
                (None, name) => {
                    return Err(self.fail(self.place(name), Problem::UnknownName { name: name.clone() }));
                }
            };
            types.push(array.data_type().clone());
            columns.push(Some(Column::new(Some(array)).map_err(|e| self.fail_all(e.into()))?));
        }
        self.value_type(value, &types)?;
        let batch = Batch { rows, columns, reused: &[] };
        batch.compute(value, &types).map_err(|e| self.fail_all(e.into()))
    }

    fn value_type(&self, value: &Value, slots: &[DataType]) -> Result<DataType, Error> {
        let kind_of = |slot: usize| slots.get(slot).map_or(Kind::Null, types::kind);
        types::infer(value, &kind_of)
            .and_then(|_| result_type(value, slots))
            .map_err(|reason| self.fail_all(Problem::Unfit { reason }))
    }

    /// Where a name stands in the text; the whole of it if it is written otherwise.
    fn place(&self, name: &Name) -> Range<usize> {
        let written = name.to_string();
        self.text.find(&written).map_or(0..self.text.len(), |at| at..at + written.len())
    }

    fn fail(&self, place: Range<usize>, problem: Problem) -> Error {
        Error::new(&self.text, place, problem)
    }

    fn fail_all(&self, problem: Problem) -> Error {
        self.fail(0..self.text.len(), problem)
    }
}

/// The type of a value whose kind was inferred without an error, or why it makes no column.
pub(crate) fn result_type(value: &Value, slots: &[DataType]) -> Result<DataType, &'static str> {
    let number = |is_whole| if is_whole { DataType::Int64 } else { DataType::Float64 };
    let kind_of = |slot: usize| slots.get(slot).map_or(Kind::Null, types::kind);
    if let Value::Slot(slot) = value {
        return Ok(slots.get(*slot).cloned().unwrap_or(DataType::Null));
    }
    Ok(match types::infer(value, &kind_of)? {
        Kind::Text => {
            if let Value::Call(Function::Coalesce, list) = value {
                for value in list {
                    if matches!(
                        types::infer(value, &kind_of)?,
                        Kind::Time | Kind::Timestamp(_) | Kind::Interval
                    ) {
                        return Err("COALESCE takes values of one type");
                    }
                }
            }
            DataType::Utf8
        }
        Kind::Number => number(is_whole(value, slots)),
        Kind::Truth => DataType::Boolean,
        Kind::Timestamp(_) | Kind::Time => time_type(),
        Kind::Interval => {
            return Err("a length of time is no column: CAST(… AS BIGINT) makes milliseconds of it");
        }
        Kind::Null => DataType::Null,
        Kind::Other => return Err("nothing can be computed of such a value"),
    })
}

/// Whether a number is whole whatever the rows hold.
fn is_whole(value: &Value, slots: &[DataType]) -> bool {
    match value {
        Value::Slot(slot) => {
            slots.get(*slot).is_some_and(|found| found.is_integer() && *found != DataType::UInt64)
        }
        Value::Literal(literal) => {
            matches!(literal, Literal::Number(Number::Whole(_)) | Literal::Int(_) | Literal::Long(_))
        }
        Value::Arithmetic(sides) => {
            sides.1 != expr::Arithmetic::Divide && is_whole(&sides.0, slots) && is_whole(&sides.2, slots)
        }
        Value::Cast(_, target) => *target == Type::Whole,
        Value::Call(Function::Length, _) => true,
        Value::Call(Function::Coalesce, list) => {
            list.iter().all(|value| is_whole(value, slots) || matches!(value, Value::Literal(Literal::Null)))
        }
        _ => false,
    }
}

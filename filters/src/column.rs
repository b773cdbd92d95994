//! Evaluation over columns: whole terms on Arrow kernels, joined with three-valued logic.
//!
//! Texts follow the rules in [`crate::row`]. Doubles that are NaN are no numbers: every comparison with
//! them is UNKNOWN, as with a text that is no number. Never fails on a value: types are checked before.

use std::cell::OnceCell;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Datum, Float64Array, Int64Array, StringViewArray, make_view,
};
use arrow::buffer::{BooleanBuffer, Buffer};
use arrow::compute::cast;
use arrow::compute::kernels::{boolean, cmp};
use arrow::datatypes::{DataType, TimeUnit, UInt64Type};
use arrow::error::ArrowError;

use crate::expr::{Condition, EngineTest, Literal, Op, Term, Test, Value};
use crate::number::Number;
use crate::plan::{INLINE_BYTES_MAX, Quick};
use crate::row;
use crate::types::{Kind, kind, timestamp};
use crate::value::Scalar;
pub(crate) use answers::Answers;
use answers::{collect, collect_verdicts};

mod answers;
mod compute;
mod planned;

/// A column in the form that the tests work on.
enum Values {
    Text(StringViewArray),
    Whole(Int64Array),
    Double(Float64Array),
    Numbers(Vec<Option<Number>>),
    Truth(BooleanArray),
    Timestamp(Int64Array, TimeUnit),
    /// Nothing but nulls.
    Null,
    /// Only nulls can be asked for.
    Other,
}

/// A resolved column.
pub(crate) struct Column {
    array: Option<ArrayRef>,
    values: Values,
    /// The numbers of texts, once they were asked for.
    numbers: OnceCell<Vec<Option<Number>>>,
}

impl Column {
    /// A column in its working form; `None` is all null.
    pub(crate) fn new(array: Option<ArrayRef>) -> Result<Self, ArrowError> {
        let values = array.as_ref().map_or(Ok(Values::Null), values)?;
        Ok(Self { array, values, numbers: OnceCell::new() })
    }

    /// The type, or [`DataType::Null`].
    pub(crate) fn data_type(&self) -> &DataType {
        self.array.as_ref().map_or(&DataType::Null, |array| array.data_type())
    }

    /// The numbers of a text column, kept for later tests.
    fn kept_numbers(&self, texts: &StringViewArray) -> &[Option<Number>] {
        self.numbers
            .get_or_init(|| (0..texts.len()).map(|row| text_at(texts, row).and_then(Number::parse)).collect())
    }

    fn number_at(&self, row: usize) -> Option<Number> {
        match &self.values {
            Values::Text(texts) => text_at(texts, row).and_then(Number::parse),
            Values::Whole(values) | Values::Timestamp(values, _) => {
                values.is_valid(row).then(|| Number::Whole(values.value(row)))
            }
            Values::Double(values) => {
                values.is_valid(row).then(|| values.value(row)).and_then(Number::from_f64)
            }
            Values::Numbers(values) => values.get(row).copied().flatten(),
            Values::Truth(_) | Values::Null | Values::Other => None,
        }
    }

    fn truth_at(&self, row: usize) -> Option<bool> {
        match &self.values {
            Values::Text(texts) => text_at(texts, row).and_then(row::truth),
            Values::Truth(values) => values.is_valid(row).then(|| values.value(row)),
            _ => None,
        }
    }
}

impl Column {
    /// One row's value.
    fn scalar_at(&self, row: usize) -> Scalar<'_> {
        let found = match &self.values {
            Values::Text(texts) => text_at(texts, row).map(Scalar::Text),
            Values::Truth(values) => values.is_valid(row).then(|| Scalar::Truth(values.value(row))),
            Values::Timestamp(values, unit) => {
                values.is_valid(row).then(|| Scalar::Time(i128::from(values.value(row)) * nanos(*unit)))
            }
            Values::Whole(_) | Values::Double(_) | Values::Numbers(_) => {
                self.number_at(row).map(|number| match number {
                    Number::Whole(value) => Scalar::Long(value),
                    Number::Double(value) => Scalar::Double(value),
                })
            }
            Values::Null => None,
            Values::Other => self.array.as_ref().filter(|array| array.is_valid(row)).map(|_| Scalar::Other),
        };
        found.unwrap_or(Scalar::Null)
    }
}

/// Evaluates over columns of the same number of rows, whose types fit the terms.
pub(crate) struct Batch<'a> {
    pub(crate) rows: usize,
    /// By slot; `None` for names that the condition doesn't have.
    pub(crate) columns: Vec<Option<Column>>,
    /// Slots whose texts are compared with numbers more than once.
    pub(crate) reused: &'a [bool],
}

impl Batch<'_> {
    /// The condition for each row; null is UNKNOWN. What recurses is small, for the sake of the stack.
    pub(crate) fn evaluate(&self, condition: &Condition) -> Result<Answers, ArrowError> {
        match condition {
            Condition::And(conditions) => self.join(conditions, true, Self::evaluate),
            Condition::Or(conditions) => self.join(conditions, false, Self::evaluate),
            Condition::Not(inner) => self.evaluate(inner)?.map(boolean::not),
            Condition::Is(inner, value) => self.evaluate(inner)?.map(|answers| is(answers, *value)),
            leaf => self.leaf(leaf),
        }
    }

    /// A condition without conditions inside, or with such as are evaluated by row.
    fn leaf(&self, condition: &Condition) -> Result<Answers, ArrowError> {
        let term = match condition {
            Condition::Term(term) => term,
            Condition::Constant(Some(true)) => {
                return Ok(BooleanArray::from(BooleanBuffer::new_set(self.rows)).into());
            }
            Condition::Constant(Some(false)) => {
                return Ok(BooleanArray::from(BooleanBuffer::new_unset(self.rows)).into());
            }
            _ => return Ok(BooleanArray::new_null(self.rows).into()),
        };
        if let Value::Slot(slot) = term.value
            && let Some(found) = Quick::new(&term.test).and_then(|quick| self.quick(slot, &quick))
        {
            return Ok(found);
        }
        Ok(match (&term.value, &term.test) {
            (Value::Slot(slot), Test::Engine(test)) => self.engine(condition, *slot, test),
            (Value::Slot(slot), Test::Against(op, Value::Slot(right))) => {
                self.pair(*slot, *op, *right)?.into()
            }
            (Value::Slot(_), Test::Against(..)) => self.by_row(condition),
            (Value::Slot(slot), _) => self.term(term, *slot)?.into(),
            _ => self.by_row(condition),
        })
    }

    /// Joins conditions until none can change a row any more.
    fn join<T>(
        &self,
        conditions: &[T],
        all: bool,
        evaluate: fn(&Self, &T) -> Result<Answers, ArrowError>,
    ) -> Result<Answers, ArrowError> {
        let mut rest = conditions.iter();
        let Some(first) = rest.next() else { return Ok(BooleanArray::new_null(self.rows).into()) };
        let mut joined = evaluate(self, first)?;
        for condition in rest {
            if joined.are_settled(all) {
                break;
            }
            joined = joined.join(evaluate(self, condition)?, all)?;
        }
        Ok(joined)
    }

    /// A condition whose values nest: row by row.
    fn by_row(&self, condition: &Condition) -> Answers {
        let mut slots = Vec::new();
        condition.visit(&mut |term| slots.extend(term.slots()));
        slots.sort_unstable();
        slots.dedup();
        let mut values = vec![Scalar::Null; self.columns.len()];
        collect_verdicts(self.rows, |row| {
            for slot in &slots {
                if let (Some(value), Some(column)) = (values.get_mut(*slot), self.column(*slot)) {
                    *value = column.scalar_at(row);
                }
            }
            row::evaluate(condition, &values)
        })
    }

    /// A test of RocketMQ's.
    fn engine(&self, condition: &Condition, slot: usize, test: &EngineTest) -> Answers {
        let Some(column) = self.column(slot) else { return BooleanArray::new_null(self.rows).into() };
        match (test, &column.values) {
            (EngineTest::Against(..) | EngineTest::Between { .. }, _) => self.by_row(condition),
            (test, Values::Text(texts)) => collect_verdicts(self.rows, |row| {
                row::engine_answer(text_at(texts, row).map_or(Scalar::Null, Scalar::Text), test)
            }),
            (test, _) => {
                let answer = row::engine_answer(Scalar::Null, test);
                collect_verdicts(self.rows, |_| answer)
            }
        }
    }

    fn term(&self, term: &Term, slot: usize) -> Result<BooleanArray, ArrowError> {
        let column = self.column(slot);
        let unknown = || Ok(BooleanArray::new_null(self.rows));
        let Some(column) = column else { return unknown() };
        match (&term.test, &column.values) {
            (Test::IsNull, _) => match &column.array {
                Some(array) => boolean::is_null(array),
                None => Ok(BooleanBuffer::new_set(self.rows).into()),
            },
            (Test::Compare(op, literal), values) => self.compare(slot, column, values, *op, literal),
            (Test::Holds, Values::Truth(values)) => Ok(values.clone()),
            (Test::In(members), Values::Text(texts)) => {
                if members.numbers.is_empty()
                    && !members.null
                    && members.many.is_empty()
                    && let Some(views) = inline_views(members.few.iter().map(String::as_str))
                {
                    return Ok(any_view(texts, &views));
                }
                Ok(match self.numbers(slot, column, texts) {
                    Some(numbers) => collect(self.rows, |row| {
                        let number = || numbers.get(row).copied().flatten();
                        row::member(text_at(texts, row)?, members, number)
                    }),
                    None => collect(self.rows, |row| row::answer_text(text_at(texts, row)?, &term.test)),
                })
            }
            (Test::In(members), Values::Timestamp(values, unit)) => Ok(collect(self.rows, |row| {
                let at = values.is_valid(row).then(|| i128::from(values.value(row)) * nanos(*unit))?;
                members.has_time(at)
            })),
            (Test::In(members), _) => Ok(collect(self.rows, |row| {
                let found = members.has_number(column.number_at(row)?);
                (found || !members.null).then_some(found)
            })),
            (_, Values::Text(texts)) => {
                Ok(collect(self.rows, |row| row::answer_text(text_at(texts, row)?, &term.test)))
            }
            _ => unknown(),
        }
    }

    fn compare(
        &self,
        slot: usize,
        column: &Column,
        values: &Values,
        op: Op,
        literal: &Literal,
    ) -> Result<BooleanArray, ArrowError> {
        match (values, literal) {
            (Values::Text(texts), Literal::Text(text)) => {
                if let (Op::Eq, Some(views)) = (op, inline_views([text.as_str()])) {
                    return Ok(any_view(texts, &views));
                }
                kernel(op, texts, &StringViewArray::new_scalar(text))
            }
            (Values::Text(texts), Literal::Number(number)) => {
                let test = |found: Option<Number>| Some(op.holds(found?.compare(*number)));
                Ok(match self.numbers(slot, column, texts) {
                    Some(numbers) => collect(self.rows, |row| test(numbers.get(row).copied().flatten())),
                    None => collect(self.rows, |row| test(Number::parse(text_at(texts, row)?))),
                })
            }
            (Values::Text(texts), Literal::Truth(truth)) => {
                Ok(collect(self.rows, |row| Some(op.holds(row::truth(text_at(texts, row)?)?.cmp(truth)))))
            }
            (Values::Text(texts), literal) => {
                Ok(collect(self.rows, |row| row::compare_text(text_at(texts, row)?, op, literal)))
            }
            (Values::Whole(values), Literal::Number(number)) => self.compare_whole(values, op, *number),
            (Values::Timestamp(values, unit), literal) => match timestamp(literal, *unit) {
                Some(number) => self.compare_whole(values, op, number),
                None => Ok(BooleanArray::new_null(self.rows)),
            },
            (Values::Double(_) | Values::Numbers(_), Literal::Number(number)) => {
                Ok(collect(self.rows, |row| Some(op.holds(column.number_at(row)?.compare(*number)))))
            }
            (Values::Truth(values), Literal::Truth(truth)) => {
                if (op == Op::Eq) == *truth {
                    Ok(values.clone())
                } else {
                    boolean::not(values)
                }
            }
            _ => Ok(BooleanArray::new_null(self.rows)),
        }
    }

    fn compare_whole(&self, values: &Int64Array, op: Op, number: Number) -> Result<BooleanArray, ArrowError> {
        match number {
            Number::Whole(number) => kernel(op, values, &Int64Array::new_scalar(number)),
            Number::Double(_) => Ok(collect(self.rows, |row| {
                values.is_valid(row).then(|| op.holds(Number::Whole(values.value(row)).compare(number)))
            })),
        }
    }

    fn pair(&self, left: usize, op: Op, right: usize) -> Result<BooleanArray, ArrowError> {
        let (Some(left), Some(right)) = (self.column(left), self.column(right)) else {
            return Ok(BooleanArray::new_null(self.rows));
        };
        match (&left.values, &right.values) {
            (Values::Text(left), Values::Text(right)) => kernel(op, left, right),
            (Values::Whole(left), Values::Whole(right))
            | (Values::Timestamp(left, _), Values::Timestamp(right, _)) => kernel(op, left, right),
            (Values::Truth(_), _) | (_, Values::Truth(_)) => {
                Ok(collect(self.rows, |row| Some(op.holds(left.truth_at(row)?.cmp(&right.truth_at(row)?)))))
            }
            _ => Ok(collect(self.rows, |row| {
                Some(op.holds(left.number_at(row)?.compare(right.number_at(row)?)))
            })),
        }
    }

    /// The numbers of a text column, if it pays to keep them.
    fn numbers<'b>(
        &self,
        slot: usize,
        column: &'b Column,
        texts: &StringViewArray,
    ) -> Option<&'b [Option<Number>]> {
        let reused = self.reused.get(slot).copied().unwrap_or_default();
        reused.then(|| column.kept_numbers(texts))
    }

    fn column(&self, slot: usize) -> Option<&Column> {
        self.columns.get(slot).and_then(Option::as_ref)
    }
}

/// What `IS` makes of the answers of what is inside.
fn is(inner: &BooleanArray, value: Option<bool>) -> Result<BooleanArray, ArrowError> {
    match value {
        Some(true) => Ok(passing(inner)),
        Some(false) => Ok(passing(&boolean::not(inner)?)),
        None => boolean::is_null(inner),
    }
}

/// The rows that pass: TRUE, with UNKNOWN as FALSE.
pub(crate) fn passing(condition: &BooleanArray) -> BooleanArray {
    match condition.nulls() {
        Some(nulls) => BooleanArray::from(condition.values() & nulls.inner()),
        None => condition.clone(),
    }
}

/// The working form of a column.
fn values(array: &ArrayRef) -> Result<Values, ArrowError> {
    Ok(match (kind(array.data_type()), array.data_type()) {
        (Kind::Text, _) => Values::Text(cast(array, &DataType::Utf8View)?.as_string_view().clone()),
        (Kind::Null, _) => Values::Null,
        (Kind::Other | Kind::Time | Kind::Interval, _) => Values::Other,
        (_, DataType::Dictionary(_, inner)) => values(&cast(array, inner)?)?,
        (Kind::Truth, _) => Values::Truth(array.as_boolean().clone()),
        (Kind::Timestamp(unit), _) => {
            let array = match array.data_type() {
                DataType::Timestamp(..) => array.clone(),
                _ => cast(array, &DataType::Timestamp(unit, None))?,
            };
            Values::Timestamp(cast(&array, &DataType::Int64)?.as_primitive().clone(), unit)
        }
        (Kind::Number, DataType::UInt64) => {
            let array = array.as_primitive::<UInt64Type>();
            Values::Numbers(array.iter().map(|value| value.map(Number::from_u64)).collect())
        }
        (Kind::Number, data_type) if data_type.is_integer() => {
            Values::Whole(cast(array, &DataType::Int64)?.as_primitive().clone())
        }
        (Kind::Number, _) => Values::Double(cast(array, &DataType::Float64)?.as_primitive().clone()),
    })
}

fn nanos(unit: TimeUnit) -> i128 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

fn kernel(op: Op, left: &dyn Datum, right: &dyn Datum) -> Result<BooleanArray, ArrowError> {
    match op {
        Op::Eq => cmp::eq(left, right),
        Op::Ne => cmp::neq(left, right),
        Op::Lt => cmp::lt(left, right),
        Op::Le => cmp::lt_eq(left, right),
        Op::Gt => cmp::gt(left, right),
        Op::Ge => cmp::gt_eq(left, right),
    }
}

fn text_at(texts: &StringViewArray, row: usize) -> Option<&str> {
    texts.is_valid(row).then(|| texts.value(row))
}

/// Views of texts that lie wholly in them; `None` if one doesn't.
fn inline_views<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<Vec<u128>> {
    texts
        .into_iter()
        .map(|text| (text.len() <= INLINE_BYTES_MAX).then(|| make_view(text.as_bytes(), 0, 0)))
        .collect()
}

/// Whether a text is one of those in `views`: views are equal exactly if such texts are.
fn any_view(texts: &StringViewArray, views: &[u128]) -> BooleanArray {
    let words = texts.views().chunks(64).map(|chunk| {
        let bits = chunk.iter().enumerate().map(|(bit, view)| u64::from(views.contains(view)) << bit);
        bits.fold(0, |word, bit| word | bit).to_le()
    });
    let values = BooleanBuffer::new(Buffer::from_vec::<u64>(words.collect()), 0, texts.len());
    BooleanArray::new(values, texts.nulls().cloned())
}

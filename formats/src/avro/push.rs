//! Avro values into columns.

use apache_avro::types::Value;
use arrow::datatypes::TimeUnit;

use super::shape::Node;
use crate::column::{Column, Columns, Unknown, Values};
use crate::path::{Misfit, Step};
use crate::scalar::Scalar;

/// A record's fields as row `row` of `columns`, with null for those that it does not have.
pub(super) fn record(
    columns: &mut Columns,
    fields: &[(String, Node)],
    values: &[(String, Value)],
    row: usize,
) -> Result<(), Misfit> {
    let mut guess = 0;
    for ((name, node), (_, value)) in fields.iter().zip(values) {
        let Some(at) = columns.find(name, guess) else {
            match columns.unknown {
                _ if matches!(node, Node::Null) => continue,
                Unknown::PassOver => continue,
                Unknown::PassEmpty if is_empty(value) => continue,
                Unknown::Refuse | Unknown::PassEmpty => return Err(Misfit::no_column(name)),
            }
        };
        guess = at + 1;
        let Some(column) = columns.columns.get_mut(at) else { continue };
        push(column, node, value).map_err(|misfit| misfit.at(Step::Field(name.clone())))?;
    }
    columns.pad(row + 1);
    Ok(())
}

/// Whether a value shows no type.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Union(_, inner) => is_empty(inner),
        Value::Array(items) => items.is_empty(),
        Value::Map(pairs) => pairs.is_empty(),
        _ => false,
    }
}

fn push(column: &mut Column, node: &Node, value: &Value) -> Result<(), Misfit> {
    let scalar = match (node, value) {
        (_, Value::Null) => {
            column.push_null();
            return Ok(());
        }
        (Node::Union(types), Value::Union(at, inner)) => return union(column, node, types, *at, inner),
        // A value that was resolved by a union of the reader alone.
        (Node::Union(_), other) if node.only().is_some() => {
            return node.only().map_or(Ok(()), |node| push(column, node, other));
        }
        (Node::List(item), Value::Array(items)) => {
            return column.push_list(items, |inner, value| push(inner, item, value));
        }
        (Node::Map(node), Value::Map(pairs)) => {
            // The crate gives them in no order, and a row that is read again must be the same.
            let mut pairs: Vec<_> = pairs.iter().collect();
            pairs.sort_unstable_by_key(|(name, _)| *name);
            let pairs = pairs.into_iter().map(|(name, one)| (name.clone(), one));
            return column.push_map(pairs, |value, one| push(value, node, one));
        }
        (Node::Record(fields), Value::Record(values)) => {
            let row = column.len();
            let Values::Struct(columns) = &mut column.values else {
                return Err(column.mismatch("a record"));
            };
            record(columns, fields, values, row)?;
            column.pushed();
            return Ok(());
        }
        (Node::Decimal { scale, .. }, Value::Decimal(decimal)) => {
            let bytes = Vec::<u8>::try_from(decimal).map_err(|e| Misfit::new(e.to_string()))?;
            let Some(digits) = big_endian(&bytes) else {
                return Err(column.mismatch(&format!("a decimal of {} bytes", bytes.len())));
            };
            Scalar::Decimal(digits, u32::from(*scale))
        }
        (Node::BigDecimal, Value::BigDecimal(decimal)) => {
            return column.push(Scalar::Text(&decimal.to_plain_string()));
        }
        (Node::Duration, Value::Duration(duration)) => {
            let (months, days, ms) =
                (u32::from(duration.months()), u32::from(duration.days()), u32::from(duration.millis()));
            return column.push(Scalar::Text(&format!("P{months}M{days}DT{}.{:03}S", ms / 1000, ms % 1000)));
        }
        (Node::Uuid, Value::Uuid(uuid)) => return column.push(Scalar::Text(&uuid.to_string())),
        (Node::Bool, Value::Boolean(value)) => Scalar::Bool(*value),
        (Node::Int, Value::Int(value)) => Scalar::Int(i64::from(*value)),
        (Node::Long, Value::Long(value)) => Scalar::Int(*value),
        (Node::Long, Value::Int(value)) => Scalar::Int(i64::from(*value)),
        (Node::Float, Value::Float(value)) => Scalar::Float32(*value),
        (Node::Double, Value::Double(value)) => Scalar::Float64(*value),
        (Node::Bytes, Value::Bytes(bytes) | Value::Fixed(_, bytes)) => Scalar::Bytes(bytes),
        (Node::Text, Value::String(text)) | (Node::Enum, Value::Enum(_, text)) => Scalar::Text(text),
        (Node::Date, Value::Date(days)) => Scalar::Date(*days),
        (Node::TimeMillis, Value::TimeMillis(ms)) => Scalar::TimeMillis(*ms),
        (Node::TimeMicros, Value::TimeMicros(us)) => Scalar::TimeMicros(*us),
        (Node::Timestamp { unit, utc }, _) => match (unit, value) {
            (TimeUnit::Millisecond, Value::TimestampMillis(at) | Value::LocalTimestampMillis(at))
            | (TimeUnit::Microsecond, Value::TimestampMicros(at) | Value::LocalTimestampMicros(at))
            | (TimeUnit::Nanosecond, Value::TimestampNanos(at) | Value::LocalTimestampNanos(at)) => {
                Scalar::Timestamp { value: *at, unit: *unit, utc: *utc }
            }
            _ => return Err(column.mismatch("a value of another type than its schema's")),
        },
        _ => return Err(column.mismatch("a value of another type than its schema's")),
    };
    column.push(scalar)
}

/// A union's value: into the column itself if there is one type beside null, else into the column of its type.
fn union(
    column: &mut Column,
    node: &Node,
    types: &[(String, Node)],
    at: u32,
    value: &Value,
) -> Result<(), Misfit> {
    let Some((name, chosen)) = types.get(at as usize) else {
        return Err(column.mismatch(&format!("type {at} of a union of {}", types.len())));
    };
    if node.only().is_some() || matches!(chosen, Node::Null) {
        return push(column, chosen, value);
    }
    let row = column.len();
    let Values::Struct(columns) = &mut column.values else {
        return Err(column.mismatch("a union of several types"));
    };
    match columns.find(name, 0).and_then(|found| columns.columns.get_mut(found)) {
        Some(inner) => push(inner, chosen, value).map_err(|misfit| misfit.at(Step::Field(name.clone())))?,
        None if columns.unknown == Unknown::PassOver => {}
        None => return Err(Misfit::no_column(name)),
    }
    columns.pad(row + 1);
    column.pushed();
    Ok(())
}

/// A number of any length as 128 bits, if they hold it.
fn big_endian(bytes: &[u8]) -> Option<i128> {
    let negative = bytes.first().is_some_and(|b| b & 0x80 != 0);
    let fill = if negative { 0xff } else { 0 };
    let (head, tail) = bytes.split_at(bytes.len().saturating_sub(16));
    if head.iter().any(|&b| b != fill) || tail.first().is_some_and(|b| (b & 0x80 != 0) != negative) {
        return None;
    }
    let mut all = [fill; 16];
    all.get_mut(16 - tail.len()..)?.copy_from_slice(tail);
    Some(i128::from_be_bytes(all))
}

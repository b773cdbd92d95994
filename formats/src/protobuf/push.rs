//! Protobuf values into columns.

use arrow::datatypes::TimeUnit;
use prost_reflect::prost::Message;
use prost_reflect::{DynamicMessage, MapKey, Value};

use super::shape::{Node, Part};
use crate::column::{Column, Columns, Unknown, Values};
use crate::path::{Misfit, Step};
use crate::scalar::Scalar;

/// A message's fields as row `row` of `columns`, with null for those that it does not have.
pub(super) fn record(
    columns: &mut Columns,
    parts: &[Part],
    message: &DynamicMessage,
    row: usize,
) -> Result<(), Misfit> {
    if columns.unknown != Unknown::PassOver
        && let Some(unknown) = message.unknown_fields().next()
    {
        let number = unknown.number();
        return Err(Misfit::new(format!(
            "field {number} is not in the descriptor set: compile it anew, or say `on_new_field: ignore`"
        ))
        .or_wider());
    }
    let mut guess = 0;
    for Part { name, field, node } in parts {
        let is_set = !field.supports_presence() || message.has_field(field);
        let Some(at) = columns.find(name, guess) else {
            if columns.unknown == Unknown::PassOver || !message.has_field(field) {
                continue;
            }
            return Err(Misfit::no_column(name));
        };
        guess = at + 1;
        let Some(column) = columns.columns.get_mut(at) else { continue };
        if is_set {
            push(column, node, &message.get_field(field))
                .map_err(|misfit| misfit.at(Step::Field(name.clone())))?;
        } else {
            column.push_null();
        }
    }
    columns.pad(row + 1);
    Ok(())
}

fn push(column: &mut Column, node: &Node, value: &Value) -> Result<(), Misfit> {
    let scalar = match (node, value) {
        (Node::List(item), Value::List(items)) => {
            return column.push_list(items, |inner, value| push(inner, item, value));
        }
        (Node::Map(node), Value::Map(pairs)) => {
            // They come in no order, and a row that is read again must be the same.
            let mut pairs: Vec<_> = pairs.iter().collect();
            pairs.sort_unstable_by_key(|(name, _)| *name);
            let pairs = pairs.into_iter().map(|(name, one)| (key_text(name), one));
            return column.push_map(pairs, |value, one| push(value, node, one));
        }
        (Node::Record(parts), Value::Message(message)) => {
            let row = column.len();
            let Values::Struct(columns) = &mut column.values else {
                return Err(column.mismatch("a message"));
            };
            record(columns, parts, message, row)?;
            column.pushed();
            return Ok(());
        }
        (Node::Encoded, Value::Message(message)) => {
            return column.push(Scalar::Bytes(&message.encode_to_vec()));
        }
        (Node::Wrapper(inner), Value::Message(message)) => {
            let Some(value) = message.get_field_by_number(1) else {
                return Err(Misfit::new("a wrapper without a value"));
            };
            return push(column, inner, &value);
        }
        (Node::Timestamp, Value::Message(message)) => {
            let (seconds, nanos) = seconds(message);
            let Some(value) = seconds.checked_mul(1_000_000_000).and_then(|s| s.checked_add(nanos)) else {
                return Err(column.mismatch(&format!("a time beyond the years 1677 to 2262 ({seconds} s)")));
            };
            Scalar::Timestamp { value, unit: TimeUnit::Nanosecond, utc: true }
        }
        (Node::Duration, Value::Message(message)) => {
            let (seconds, nanos) = seconds(message);
            let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
            let text = format!("{sign}{}.{:09}s", seconds.unsigned_abs(), nanos.unsigned_abs());
            return column.push(Scalar::Text(&text));
        }
        (Node::Enum(of), Value::EnumNumber(number)) => {
            return match of.get_value(*number) {
                Some(value) => column.push(Scalar::Text(value.name())),
                None => column.push(Scalar::Text(&number.to_string())),
            };
        }
        (_, Value::Bool(value)) => Scalar::Bool(*value),
        (_, Value::I32(value)) => Scalar::Int(i64::from(*value)),
        (_, Value::I64(value)) => Scalar::Int(*value),
        (_, Value::U32(value)) => Scalar::Int(i64::from(*value)),
        (_, Value::U64(value)) => Scalar::UInt(*value),
        (_, Value::F32(value)) => Scalar::Float32(*value),
        (_, Value::F64(value)) => Scalar::Float64(*value),
        (_, Value::String(text)) => Scalar::Text(text),
        (_, Value::Bytes(bytes)) => Scalar::Bytes(bytes),
        _ => return Err(column.mismatch("a value of another type than its descriptor's")),
    };
    column.push(scalar)
}

/// The parts of a `Timestamp` or a `Duration`.
fn seconds(message: &DynamicMessage) -> (i64, i64) {
    let seconds = message.get_field_by_number(1).and_then(|v| v.as_i64()).unwrap_or(0);
    let nanos = message.get_field_by_number(2).and_then(|v| v.as_i32()).unwrap_or(0);
    (seconds, i64::from(nanos))
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(value) => value.to_string(),
        MapKey::I32(value) => value.to_string(),
        MapKey::I64(value) => value.to_string(),
        MapKey::U32(value) => value.to_string(),
        MapKey::U64(value) => value.to_string(),
        MapKey::String(text) => text.clone(),
    }
}

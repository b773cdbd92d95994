//! What values of a Protobuf message look like, and the columns they have; the table is in [`super`].

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::{DEPTH_MAX, FIELDS_MAX, avro};

/// What a value looks like.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// A number, bool, text or bytes of this type.
    Plain(DataType),
    Enum(prost_reflect::EnumDescriptor),
    Timestamp,
    Duration,
    /// A message around one value, for null.
    Wrapper(Arc<Node>),
    Record(Arc<[Part]>),
    /// A message that has no columns of a fixed depth: its encoding.
    Encoded,
    List(Arc<Node>),
    Map(Arc<Node>),
}

/// A field of a message.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) field: FieldDescriptor,
    pub(super) node: Node,
}

impl Node {
    pub(super) fn data_type(&self) -> DataType {
        match self {
            Self::Plain(data_type) => data_type.clone(),
            Self::Enum(_) | Self::Duration => DataType::Utf8,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
            Self::Wrapper(inner) => inner.data_type(),
            Self::Record(parts) => DataType::Struct(columns(parts)),
            Self::Encoded => DataType::Binary,
            Self::List(item) => DataType::List(Arc::new(Field::new("item", item.data_type(), true))),
            Self::Map(value) => avro::map(value.data_type()),
        }
    }
}

pub(super) fn columns(parts: &[Part]) -> Fields {
    parts.iter().map(|part| Field::new(&part.name, part.node.data_type(), true)).collect()
}

/// The parts of a message, or why it can't be columns.
pub(super) fn parts(message: &MessageDescriptor) -> Result<Arc<[Part]>, String> {
    let mut open = vec![message.full_name().to_owned()];
    fields(message, &mut open, &mut 0)
}

fn fields(
    message: &MessageDescriptor,
    open: &mut Vec<String>,
    count: &mut usize,
) -> Result<Arc<[Part]>, String> {
    if open.len() > DEPTH_MAX {
        return Err(format!("`{}` nests more than {DEPTH_MAX} levels deep", message.full_name()));
    }
    let mut parts = Vec::with_capacity(message.fields().len());
    for field in message.fields() {
        *count += 1;
        if *count > FIELDS_MAX {
            return Err(format!("more than {FIELDS_MAX} fields"));
        }
        let node = if field.is_map() {
            let Kind::Message(entry) = field.kind() else { return Err("a map without entries".to_owned()) };
            Node::Map(Arc::new(one(&entry.map_entry_value_field().kind(), open, count)?))
        } else {
            let node = one(&field.kind(), open, count)?;
            if field.is_list() { Node::List(Arc::new(node)) } else { node }
        };
        parts.push(Part { name: field.name().to_owned(), field, node });
    }
    Ok(parts.into())
}

fn one(kind: &Kind, open: &mut Vec<String>, count: &mut usize) -> Result<Node, String> {
    Ok(match kind {
        Kind::Double => Node::Plain(DataType::Float64),
        Kind::Float => Node::Plain(DataType::Float32),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Node::Plain(DataType::Int32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint32 | Kind::Fixed32 => {
            Node::Plain(DataType::Int64)
        }
        Kind::Uint64 | Kind::Fixed64 => Node::Plain(DataType::UInt64),
        Kind::Bool => Node::Plain(DataType::Boolean),
        Kind::String => Node::Plain(DataType::Utf8),
        Kind::Bytes => Node::Plain(DataType::Binary),
        Kind::Enum(of) => Node::Enum(of.clone()),
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Timestamp" => Node::Timestamp,
            "google.protobuf.Duration" => Node::Duration,
            "google.protobuf.DoubleValue"
            | "google.protobuf.FloatValue"
            | "google.protobuf.Int64Value"
            | "google.protobuf.UInt64Value"
            | "google.protobuf.Int32Value"
            | "google.protobuf.UInt32Value"
            | "google.protobuf.BoolValue"
            | "google.protobuf.StringValue"
            | "google.protobuf.BytesValue" => {
                let value = message.fields().next().ok_or("a wrapper without a value")?;
                Node::Wrapper(Arc::new(one(&value.kind(), open, count)?))
            }
            name if message.fields().len() == 0
                || open.iter().any(|o| o == name)
                || stands_in_itself(message) =>
            {
                Node::Encoded
            }
            name => {
                open.push(name.to_owned());
                let parts = fields(message, open, count)?;
                open.pop();
                Node::Record(parts)
            }
        },
    })
}

/// Whether a message holds one of its own kind, at any depth.
fn stands_in_itself(message: &MessageDescriptor) -> bool {
    let (mut seen, mut left) = (Vec::new(), vec![message.clone()]);
    while let Some(next) = left.pop() {
        for field in next.fields() {
            let Kind::Message(inner) = field.kind() else { continue };
            if inner == *message {
                return true;
            }
            if !seen.contains(&inner) && seen.len() < FIELDS_MAX {
                seen.push(inner.clone());
                left.push(inner);
            }
        }
    }
    false
}

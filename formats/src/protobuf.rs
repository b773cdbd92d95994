//! Protobuf messages, one a body, as typed columns, by a compiled descriptor set and the message's name.
//!
//! | Protobuf | column |
//! |---|---|
//! | `bool`, `float`, `double`, `string`, `bytes` | Boolean, Float32, Float64, Utf8, Binary |
//! | `int32`, `sint32`, `sfixed32` | Int32 |
//! | `int64`, `sint64`, `sfixed64`, `uint32`, `fixed32` | Int64 |
//! | `uint64`, `fixed64` | UInt64 |
//! | an enum | Utf8: the name, or the number of one without |
//! | a message, `repeated`, `map` | Struct, List, Map with keys as text |
//! | `google.protobuf.Timestamp`, `Duration` | Timestamp(ns, UTC), Utf8 such as `1.500000000s` |
//! | the wrappers (`google.protobuf.StringValue`, …) | the column of what they wrap |
//! | a message that stands in itself (`google.protobuf.Struct`), or has no field | Binary: its encoding |
//!
//! Null is what has presence and is not set: members of a `oneof`, messages, `optional` fields.

mod push;
mod shape;

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

use self::shape::Part;
use crate::column::{Columns, Unknown};
use crate::path::Misfit;
use crate::{Decoded, Error, confluent, rows};

/// A descriptor set, in bytes.
pub const DESCRIPTORS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One kind of message that bodies hold.
#[derive(Clone, Debug)]
pub struct Protobuf {
    message: MessageDescriptor,
    parts: Arc<[Part]>,
    columns: SchemaRef,
    is_prefixed: bool,
}

impl Protobuf {
    /// The message of a name in a descriptor set, as `protoc --include_imports -o FILE` writes it; `is_prefixed`: a
    /// [Confluent prefix](crate::confluent) stands before each body.
    pub fn new(descriptors: &[u8], message: &str, is_prefixed: bool) -> Result<Self, Error> {
        if descriptors.len() > DESCRIPTORS_BYTES_MAX {
            return Err(Error::schema(format!(
                "a descriptor set of {} bytes, at most {DESCRIPTORS_BYTES_MAX} are read",
                descriptors.len()
            )));
        }
        let pool = DescriptorPool::decode(descriptors).map_err(|e| {
            Error::schema(format!("no descriptor set, as `protoc --include_imports -o FILE` writes it: {e}"))
        })?;
        let Some(found) = pool.get_message_by_name(message) else {
            let near = pool
                .all_messages()
                .map(|m| (strsim::damerau_levenshtein(message, m.full_name()), m.full_name().to_owned()))
                .min()
                .map_or_else(String::new, |(_, name)| format!("; did you mean `{name}`?"));
            return Err(Error::schema(format!("the descriptor set has no message `{message}`{near}")));
        };
        let refused = |why: String| Error::schema(format!("message `{message}` can not be columns: {why}"));
        let parts = shape::parts(&found).map_err(refused)?;
        if parts.is_empty() {
            return Err(refused("it has no field".to_owned()));
        }
        let fields = shape::columns(&parts);
        // The limits of columns.
        Columns::new(&fields)?;
        Ok(Self { message: found, parts, columns: Arc::new(Schema::new(fields)), is_prefixed })
    }

    /// The columns of its fields.
    pub fn columns(&self) -> SchemaRef {
        Arc::clone(&self.columns)
    }

    /// The message's own bytes.
    fn inside<'a>(&self, body: &'a [u8]) -> Result<&'a [u8], Misfit> {
        if !self.is_prefixed {
            return Ok(body);
        }
        let (_, rest) = confluent::schema_id(body)
            .map_err(|reason| Misfit::new(reason.trim_start_matches("$: ").to_owned()))?;
        let (indexes, rest) = confluent::message_indexes(rest)?;
        let mut at = indexes.iter();
        let file = self.message.parent_file();
        let mut found = at.next().and_then(|index| file.messages().nth(*index));
        for index in at {
            found = found.and_then(|message| message.child_messages().nth(*index));
        }
        match found {
            Some(message) if message == self.message => Ok(rest),
            Some(other) => Err(Misfit::new(format!(
                "holds a message `{}`, expected `{}`",
                other.full_name(),
                self.message.full_name()
            ))),
            None => Err(Misfit::new(format!(
                "holds message {indexes:?} of its file, and `{}` has no such message",
                file.name()
            ))),
        }
    }
}

/// Reads messages into the columns of one schema.
pub struct Decoder {
    protobuf: Protobuf,
    schema: SchemaRef,
    columns: Columns,
}

impl Decoder {
    /// Columns of a schema; fields without one, and without a descriptor, as `unknown` says.
    pub fn new(protobuf: Protobuf, schema: SchemaRef, unknown: Unknown) -> Result<Self, Error> {
        let mut columns = Columns::new(schema.fields())?;
        columns.treat_unknown(unknown);
        Ok(Self { protobuf, schema, columns })
    }

    /// Decodes each body as one row. A body that is missing or does not fit is a reject.
    pub fn decode(&mut self, bodies: &mut dyn Iterator<Item = Option<&[u8]>>) -> Result<Decoded, Error> {
        let Self { protobuf, schema, columns } = self;
        rows::decode(columns, schema, bodies, |columns, body, rows| {
            let inside = protobuf.inside(body)?;
            let message = DynamicMessage::decode(protobuf.message.clone(), inside)
                .map_err(|e| Misfit::new(format!("no `{}`: {e}", protobuf.message.full_name())))?;
            Ok(push::record(columns, &protobuf.parts, &message, rows)?)
        })
    }
}

//! Message bodies as typed Arrow columns.
//!
//! Knows no file, no socket, no topic and no pipeline: bytes come in, columns and reasons go out. [`json`],
//! [`csv`], [`avro`], [`protobuf`] and [`raw`] each propose a schema, and read bodies into one that stands;
//! [`widen`] says how one schema grows into another.

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

pub mod avro;
mod column;
pub mod confluent;
pub mod csv;
pub mod json;
mod nested;
mod path;
pub mod protobuf;
pub mod raw;
mod rows;
mod scalar;
pub mod times;
pub mod widen;

pub use column::Unknown;

/// Objects and arrays nest this deep at most; the body itself is level 1.
pub const DEPTH_MAX: usize = 64;

/// A schema has this many fields at most, and so has one object.
pub const FIELDS_MAX: usize = 4_096;

/// Bodies of one call, in bytes; Arrow's offsets have 31 bits.
const BATCH_BYTES_MAX: usize = i32::MAX as usize;

/// What became of the bodies of one call.
#[derive(Debug)]
pub struct Decoded {
    /// The rows that fit, in order, with the decoder's schema.
    pub batch: RecordBatch,
    /// The rows that don't: their number among the bodies (from 0, rising), and path and reason.
    pub rejects: Vec<(usize, String)>,
    /// Those of them that a wider schema may take: their numbers, rising.
    pub wider: Vec<usize>,
}

/// Why a schema can't be decoded into, or a batch can't be made. What is wrong with a single row is a
/// reason in [`Decoded::rejects`] and never an error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A declared type that is none of ours.
    #[error("field `{field}`: type `{written}` is not known; {hint}")]
    #[expect(missing_docs, reason = "the message names its fields")]
    UnknownType { field: String, written: String, hint: String },
    /// A name stands twice in one schema or struct.
    #[error("field `{field}` stands twice")]
    #[expect(missing_docs, reason = "the message names its fields")]
    DoubledField { field: String },
    /// A column of a type that the format is not decoded into, or that may not be null.
    #[error("column `{column}`: bodies are not decoded into {data_type}{}", if *.nullable { "" } else { " that may not be null" })]
    #[expect(missing_docs, reason = "the message names its fields")]
    UnsupportedColumn { column: String, data_type: DataType, nullable: bool },
    /// A schema beyond our limits.
    #[error(
        "a schema of {fields} fields, {depth} levels deep, exceeds the limit of {fields_max} fields or {depth_max} levels"
    )]
    #[expect(missing_docs, reason = "the message names its fields")]
    SchemaTooLarge { fields: usize, depth: usize, fields_max: usize, depth_max: usize },
    /// A schema of Avro, Protobuf or CSV that can't be columns.
    #[error("{what}")]
    #[expect(missing_docs, reason = "the message names its fields")]
    Schema { what: String },
    /// The schema registry does not answer, or refuses.
    #[error(transparent)]
    Lookup(#[from] avro::LookupError),
    /// More bodies than one batch can hold.
    #[error("bodies of more than {max} bytes in one batch")]
    #[expect(missing_docs, reason = "the message names its fields")]
    BatchTooLarge { max: usize },
    /// Arrow refused columns of ours.
    #[error("cannot make a record batch of {rows} rows")]
    #[expect(missing_docs, reason = "the message names its fields")]
    Batch { rows: usize, source: ArrowError },
}

impl Error {
    fn schema(what: impl Into<String>) -> Self {
        Self::Schema { what: what.into() }
    }
}

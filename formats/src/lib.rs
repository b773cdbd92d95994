//! Message bodies as typed Arrow columns.
//!
//! Knows no file, no socket, no topic and no pipeline: bytes come in, columns and reasons go out.

use arrow::datatypes::DataType;
use arrow::error::ArrowError;

pub mod json;

/// Why a schema can't be decoded into, or a batch can't be made. What is wrong with a single row is a
/// reason in [`json::Decoded::rejects`] and never an error.
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
    /// A column of a type that JSON is not decoded into, or that may not be null.
    #[error("column `{column}`: JSON is not decoded into {data_type}{}", if *.nullable { "" } else { " that may not be null" })]
    #[expect(missing_docs, reason = "the message names its fields")]
    UnsupportedColumn { column: String, data_type: DataType, nullable: bool },
    /// A schema beyond our limits.
    #[error(
        "a schema of {fields} fields, {depth} levels deep, exceeds the limit of {fields_max} fields or {depth_max} levels"
    )]
    #[expect(missing_docs, reason = "the message names its fields")]
    SchemaTooLarge { fields: usize, depth: usize, fields_max: usize, depth_max: usize },
    /// More bodies than one batch can hold.
    #[error("bodies of more than {max} bytes in one batch")]
    #[expect(missing_docs, reason = "the message names its fields")]
    BatchTooLarge { max: usize },
    /// Arrow refused columns of ours.
    #[error("cannot make a record batch of {rows} rows")]
    #[expect(missing_docs, reason = "the message names its fields")]
    Batch { rows: usize, source: ArrowError },
}

//! Raw: the body as it is, in one column `body` of bytes.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::column::Columns;
use crate::path::Misfit;
use crate::scalar::Scalar;
use crate::{Decoded, Error, rows};

static SCHEMA: LazyLock<SchemaRef> =
    LazyLock::new(|| Arc::new(Schema::new(vec![Field::new("body", DataType::Binary, true)])));

/// The one schema of raw bodies.
pub fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// Takes bodies as they are.
pub struct Decoder {
    schema: SchemaRef,
    columns: Columns,
}

impl Decoder {
    /// A decoder for a schema that begins with the column `body` and may have others, which stay null.
    pub fn new(schema: SchemaRef) -> Result<Self, Error> {
        if schema.fields().first().is_none_or(|f| f.name() != "body" || *f.data_type() != DataType::Binary) {
            return Err(Error::schema(
                "`format: raw` gives one column `body` of bytes, and the schema has another first",
            ));
        }
        let columns = Columns::new(schema.fields())?;
        Ok(Self { schema, columns })
    }

    /// Each body as one row; one that is missing is a reject.
    pub fn decode(&mut self, bodies: &mut dyn Iterator<Item = Option<&[u8]>>) -> Result<Decoded, Error> {
        rows::decode(&mut self.columns, &self.schema, bodies, |columns, body, rows| {
            if let Some(column) = columns.columns.first_mut() {
                column.push(Scalar::Bytes(body)).map_err(Misfit::of_any_schema)?;
            }
            columns.pad(rows + 1);
            Ok(())
        })
    }
}

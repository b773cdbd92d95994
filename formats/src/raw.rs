//! Raw: the body as it is, in one column `body` of bytes.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::column::Columns;
use crate::scalar::Scalar;
use crate::{BATCH_BYTES_MAX, Decoded, Error};

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
        self.columns.truncate(0);
        let (mut rows, mut bytes, mut rejects) = (0, 0_usize, Vec::new());
        for (number, body) in bodies.enumerate() {
            let Some(body) = body else {
                rejects.push((number, "no body".to_owned()));
                continue;
            };
            bytes = bytes.saturating_add(body.len());
            if bytes > BATCH_BYTES_MAX {
                return Err(Error::BatchTooLarge { max: BATCH_BYTES_MAX });
            }
            if let Some(column) = self.columns.columns.first_mut()
                && let Err(misfit) = column.push(Scalar::Bytes(body))
            {
                rejects.push((number, misfit.into_text()));
                continue;
            }
            rows += 1;
            self.columns.pad(rows);
        }
        let batch = self.columns.batch(&self.schema, rows)?;
        Ok(Decoded { batch, rejects, wider: Vec::new() })
    }
}

//! Step `mask`: values that nobody shall read in the target, hashed under a key or redacted.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringBuilder, StructArray, new_null_array};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use ring::hmac;

use super::columns::{Columns, StepProblem};
use super::rows::{self, fatal, field_type};
use crate::config::{self, FieldPath};
use crate::task::{Slice, TaskError};

/// What is read in place of a redacted text.
const REDACTED: &str = "***";

/// Fields to mask, with the schema after that.
pub(super) struct Mask {
    fields: Vec<(FieldPath, How)>,
    schema: SchemaRef,
}

#[derive(Clone)]
enum How {
    Hash(hmac::Key),
    Redact,
}

impl Mask {
    /// `None` if the columns that come in are not known.
    pub(super) fn new(mask: &config::Mask, columns: &Columns) -> Result<Option<Self>, StepProblem> {
        let key = match (&mask.secret, mask.hash.is_empty()) {
            (Some(secret), false) if secret.0.is_empty() => {
                return Err(StepProblem::new("the key of the hashes is empty").at(&["secret"]));
            }
            (Some(secret), false) => Some(hmac::Key::new(hmac::HMAC_SHA256, secret.0.as_bytes())),
            (None, false) => {
                let message = "hashes need a key, or who knows the values knows the hashes: `secret: ${VAR}`";
                return Err(StepProblem::new(message).at(&["hash"]));
            }
            (Some(_), true) => return Err(StepProblem::new("only `hash` needs a key").at(&["secret"])),
            (None, true) if mask.redact.is_empty() => {
                return Err(StepProblem::new("it masks nothing: give `hash` or `redact` a list of fields"));
            }
            (None, true) => None,
        };
        let hashed = mask.hash.iter().filter_map(|f| Some(("hash", f, How::Hash(key.clone()?))));
        let redacted = mask.redact.iter().map(|f| ("redact", f, How::Redact));
        let (mut fields, mut is_known) = (Vec::new(), true);
        for (kind, field, how) in hashed.chain(redacted) {
            if fields.iter().any(|(other, _)| other == field) {
                return Err(StepProblem::new(format!("{field} is masked twice")).at(&[kind]));
            }
            match columns {
                Columns::Unknown => is_known = false,
                Columns::None => {
                    return Err(
                        StepProblem::new(format!("there is no {field}{}", columns.hint(""))).at(&[kind])
                    );
                }
                Columns::Known(schema) => match field_type(schema, &field.0) {
                    None => {
                        let hint = columns.hint(field.0.first().map_or("", String::as_str));
                        return Err(StepProblem::new(format!("there is no {field}{hint}")).at(&[kind]));
                    }
                    Some(found)
                        if matches!(how, How::Hash(_)) && !rows::can_cast(&found, &DataType::Utf8) =>
                    {
                        let message = format!("{field} is {found}, expected one plain value");
                        return Err(StepProblem::new(message).at(&[kind]));
                    }
                    Some(_) => {}
                },
            }
            fields.push((field.clone(), how));
        }
        let Some(schema) = columns.known().filter(|_| is_known) else { return Ok(None) };
        let all: Vec<FieldRef> = fields.iter().fold(schema.fields().to_vec(), |all, (path, how)| {
            masked_fields(&all.into(), &path.0, how).to_vec()
        });
        Ok(Some(Self { fields, schema: Arc::new(Schema::new(all)) }))
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(super) fn apply(&self, slice: &mut Slice) -> Result<(), TaskError> {
        let Some(decoded) = &slice.decoded else { return Ok(()) };
        let (mut fields, mut arrays) = (decoded.schema().fields().clone(), decoded.columns().to_vec());
        for (path, how) in &self.fields {
            arrays = masked_columns(&fields, &arrays, &path.0, how)?;
            fields = masked_fields(&fields, &path.0, how);
        }
        let masked = RecordBatch::try_new(Arc::clone(&self.schema), arrays);
        slice.decoded = Some(masked.map_err(|e| fatal("cannot build the masked columns", e))?);
        Ok(())
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn masked_fields(fields: &Fields, path: &[String], how: &How) -> Fields {
    let Some((first, rest)) = path.split_first() else { return fields.clone() };
    let one = |field: &FieldRef| -> FieldRef {
        if field.name() != first {
            return Arc::clone(field);
        }
        let data_type = match (field.data_type(), rest) {
            (DataType::Struct(inner), [_, ..]) => DataType::Struct(masked_fields(inner, rest, how)),
            (_, []) if matches!(how, How::Hash(_)) => DataType::Utf8,
            (found, []) if is_text(found) => DataType::Utf8,
            (found, _) => found.clone(),
        };
        Arc::new(Field::new(field.name(), data_type, true))
    };
    fields.iter().map(one).collect()
}

fn masked_columns(
    fields: &Fields,
    arrays: &[ArrayRef],
    path: &[String],
    how: &How,
) -> Result<Vec<ArrayRef>, TaskError> {
    let Some((first, rest)) = path.split_first() else { return Ok(arrays.to_vec()) };
    let one = |(field, array): (&FieldRef, &ArrayRef)| match (array.as_struct_opt(), rest) {
        _ if field.name() != first => Ok(Arc::clone(array)),
        (Some(parent), [_, ..]) => {
            let columns = masked_columns(parent.fields(), parent.columns(), rest, how)?;
            let inner = masked_fields(parent.fields(), rest, how);
            let made = StructArray::try_new(inner, columns, parent.nulls().cloned());
            made.map(|made| Arc::new(made) as ArrayRef).map_err(|e| fatal("cannot mask a field", e))
        }
        _ => masked(array, how),
    };
    fields.iter().zip(arrays).map(one).collect()
}

fn masked(array: &ArrayRef, how: &How) -> Result<ArrayRef, TaskError> {
    if matches!(how, How::Redact) && !is_text(array.data_type()) {
        return Ok(new_null_array(array.data_type(), array.len()));
    }
    let texts = crate::batch::texts(array).map_err(|e| fatal("cannot mask a column", e))?;
    let mut made = StringBuilder::new();
    let mut hex = String::with_capacity(64);
    for text in &texts {
        match (text, how) {
            (None, _) => made.append_null(),
            (Some(_), How::Redact) => made.append_value(REDACTED),
            (Some(text), How::Hash(key)) => {
                hex.clear();
                for byte in hmac::sign(key, text.as_bytes()).as_ref() {
                    write!(hex, "{byte:02x}").map_err(|e| fatal("cannot write a hash", e))?;
                }
                made.append_value(&hex);
            }
        }
    }
    Ok(Arc::new(made.finish()))
}

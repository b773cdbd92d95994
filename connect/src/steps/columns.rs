//! Which columns the rows have at some point of the steps, as far as it is known, and what is wrong with a
//! step over them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use sluice_filters::{Error, Name};

use super::rows::field_type;
use crate::batch;

/// The columns of rows, beside their envelope.
#[derive(Clone, Debug)]
pub(crate) enum Columns {
    /// Nothing was decoded, and no step made columns.
    None,
    /// There are some, and which is not known before rows are seen.
    Unknown,
    /// These.
    Known(SchemaRef),
}

impl Columns {
    /// The type of what a name means; [`DataType::Null`] if there may be one.
    pub(crate) fn data_type(&self, name: &Name) -> Option<DataType> {
        match (name, self) {
            (Name::Property(_), _) => Some(DataType::Utf8View),
            (Name::Envelope(column), _) => {
                let field = batch::field(column).filter(|_| !column.contains('.'))?;
                Some(field.data_type().clone())
            }
            (Name::Field(_), Self::None) => None,
            (Name::Field(_), Self::Unknown) => Some(DataType::Null),
            (Name::Field(path), Self::Known(schema)) => field_type(schema, path),
        }
    }

    /// The schema, if it is known.
    pub(crate) fn known(&self) -> Option<&SchemaRef> {
        match self {
            Self::Known(schema) => Some(schema),
            Self::None | Self::Unknown => None,
        }
    }

    /// Known columns of these fields; two of one name are an error.
    pub(crate) fn of(fields: Vec<Field>) -> Result<Self, StepProblem> {
        for (at, field) in fields.iter().enumerate() {
            if fields.iter().take(at).any(|other| other.name() == field.name()) {
                return Err(StepProblem::new(format!("two columns are named `{}`", field.name())));
            }
        }
        if fields.is_empty() {
            return Err(StepProblem::new("it leaves no column"));
        }
        Ok(Self::Known(Arc::new(Schema::new(fields))))
    }

    /// A problem with a name among these columns: what there is.
    pub(crate) fn hint(&self, wanted: &str) -> String {
        match self {
            Self::None => "; there is no decoded body: add `decode: {format: json}`".to_owned(),
            Self::Unknown => String::new(),
            Self::Known(schema) => {
                let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                match crate::config::nearest(wanted, names.iter().copied()) {
                    Some(near) if near != wanted => format!("; did you mean `$.{near}`?"),
                    _ => format!("; the columns here: {}", names.join(", ")),
                }
            }
        }
    }

    /// What is wrong with an expression, below its key.
    pub(crate) fn refused(&self, path: &[&str], error: &Error) -> StepProblem {
        let hint = match &*error.problem {
            sluice_filters::Problem::UnknownName { name: Name::Field(field) } => {
                self.hint(field.first().map_or("", String::as_str))
            }
            sluice_filters::Problem::UnknownName { name: Name::Envelope(column) } => {
                crate::config::nearest(column, batch::COLUMNS)
                    .map_or_else(String::new, |near| format!("; did you mean `${near}`?"))
            }
            _ => String::new(),
        };
        StepProblem {
            path: path.iter().map(|key| (*key).to_owned()).collect(),
            message: format!("{}{hint}", error.message()),
            column: Some(error.column),
        }
    }
}

/// What is wrong with a step.
#[derive(Debug)]
pub(crate) struct StepProblem {
    /// The key below the step's own.
    pub(crate) path: Vec<String>,
    /// What is wrong.
    pub(crate) message: String,
    /// The column in the text of the expression there, from 1.
    pub(crate) column: Option<usize>,
}

impl StepProblem {
    /// A problem of the step as a whole.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { path: Vec::new(), message: message.into(), column: None }
    }

    /// The same at a key below the step's.
    pub(crate) fn at(mut self, path: &[&str]) -> Self {
        self.path = path.iter().map(|key| (*key).to_owned()).collect();
        self
    }
}

//! Steps `headers` and `route`: what a message carries beside its body, and which topic or partition it goes to.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, MapBuilder, MapFieldNames, StringViewArray, StringViewBuilder, new_null_array,
};
use arrow::datatypes::DataType;
use sluice_filters::{Name, ValueExpression};

use super::columns::{Columns, StepProblem};
use super::rows::{self, fatal, resolve, text_at, with_column};
use crate::batch::{self, ORIGINAL_PROPERTIES, ROUTE};
use crate::config::{self, Computed};
use crate::task::{Class, Slice, TaskError};

/// Properties that are set and left out.
pub(super) struct Headers {
    set: Vec<(String, ValueExpression)>,
    remove: Vec<String>,
    /// Whether dead letters need the properties as they were.
    keeps_original: bool,
}

impl Headers {
    pub(super) fn new(
        headers: &config::Headers,
        columns: &Columns,
        keeps_original: bool,
    ) -> Result<Self, StepProblem> {
        if headers.set.0.is_empty() && headers.remove.is_empty() {
            return Err(StepProblem::new("it changes nothing: give `set` or `remove`"));
        }
        for (name, Computed(value)) in &headers.set.0 {
            check_name(name).map_err(|problem| problem.at(&["set"]))?;
            check_text(value, columns, &["set", name])?;
        }
        for name in &headers.remove {
            check_name(name).map_err(|problem| problem.at(&["remove"]))?;
            if headers.set.0.iter().any(|(other, _)| other == name) {
                return Err(StepProblem::new(format!("`{name}` is set, too")).at(&["remove"]));
            }
        }
        let set = headers.set.0.iter().map(|(name, Computed(value))| (name.clone(), value.clone())).collect();
        Ok(Self { set, remove: headers.remove.clone(), keeps_original })
    }

    pub(super) fn apply(&self, slice: &mut Slice) -> Result<(), TaskError> {
        let mut changed: Vec<(&str, StringViewArray)> = Vec::new();
        for (name, value) in &self.set {
            changed.push((name, texts(value, slice)?));
        }
        let none = new_null_array(&DataType::Utf8View, slice.envelope.num_rows());
        changed.extend(self.remove.iter().map(|name| (name.as_str(), none.as_string_view().clone())));
        self.write(slice, &changed)?;
        for (name, values) in changed {
            let column = match name.strip_prefix('$') {
                Some(column) => column.to_owned(),
                None => batch::property_column(name),
            };
            slice.envelope = with_column(&slice.envelope, &column, Arc::new(values))?;
        }
        Ok(())
    }

    /// The map of all properties, with these as they are now.
    fn write(&self, slice: &mut Slice, changed: &[(&str, StringViewArray)]) -> Result<(), TaskError> {
        let failed = || TaskError::new(Class::Fatal, "the source gave no properties");
        let old = Arc::clone(slice.envelope.column_by_name("properties").ok_or_else(failed)?);
        let map = old.as_map_opt().ok_or_else(failed)?;
        let names = map.keys().as_string_view_opt().ok_or_else(failed)?;
        let changed: Vec<_> = changed.iter().filter(|(name, _)| !name.starts_with('$')).collect();
        let fields = MapFieldNames { entry: "entries".into(), key: "key".into(), value: "value".into() };
        let mut made = MapBuilder::new(Some(fields), StringViewBuilder::new(), StringViewBuilder::new());
        for (row, bounds) in map.value_offsets().windows(2).enumerate() {
            let place = |at: i32| usize::try_from(at).unwrap_or(0);
            for at in place(bounds[0])..place(bounds[1]) {
                let name = names.value(at);
                if !changed.iter().any(|(other, _)| *other == name) {
                    made.keys().append_value(name);
                    made.values().append_option(text_at(map.values(), at));
                }
            }
            for (name, values) in &changed {
                if let Some(value) = text_of(values, row).filter(|value| !value.is_empty()) {
                    made.keys().append_value(name);
                    made.values().append_value(value);
                }
            }
            made.append(true).map_err(|e| fatal("cannot build properties", e))?;
        }
        if self.keeps_original && slice.envelope.column_by_name(ORIGINAL_PROPERTIES).is_none() {
            slice.envelope = with_column(&slice.envelope, ORIGINAL_PROPERTIES, Arc::clone(&old))?;
        }
        slice.envelope = with_column(&slice.envelope, "properties", Arc::new(made.finish()))?;
        Ok(())
    }
}

fn text_of(texts: &StringViewArray, row: usize) -> Option<&str> {
    texts.is_valid(row).then(|| texts.value(row))
}

/// Checks that `$route` is a text.
pub(super) fn check_route(value: &ValueExpression, columns: &Columns) -> Result<(), StepProblem> {
    check_text(value, columns, &[])
}

/// Sets `$route`.
pub(super) fn route(value: &ValueExpression, slice: &mut Slice) -> Result<(), TaskError> {
    let texts = texts(value, slice)?;
    slice.envelope = with_column(&slice.envelope, ROUTE, Arc::new(texts))?;
    Ok(())
}

fn check_name(name: &str) -> Result<(), StepProblem> {
    match name.strip_prefix('$') {
        Some("tags" | "keys") => Ok(()),
        Some(_) => Err(StepProblem::new(format!("`{name}`: only $tags and $keys are set beside properties"))),
        None if name.is_empty() => Err(StepProblem::new("a property has a name")),
        None if name.bytes().any(|byte| byte <= 2) => {
            Err(StepProblem::new(format!("`{}` holds a byte that separates properties", name.escape_debug())))
        }
        None => Ok(()),
    }
}

fn check_text(value: &ValueExpression, columns: &Columns, path: &[&str]) -> Result<(), StepProblem> {
    let found = value.data_type(&|name| columns.data_type(name)).map_err(|e| columns.refused(path, &e))?;
    if found != DataType::Null && !rows::can_cast(&found, &DataType::Utf8) {
        let message = format!("`{}` is {found}, expected one plain value", value.text());
        return Err(StepProblem::new(message).at(path));
    }
    Ok(())
}

fn texts(value: &ValueExpression, slice: &Slice) -> Result<StringViewArray, TaskError> {
    let name = |name: &Name| resolve(&slice.envelope, slice.decoded.as_ref(), name);
    let column: ArrayRef =
        value.column(slice.envelope.num_rows(), &name).map_err(|e| fatal("cannot compute a property", e))?;
    batch::texts(&column).map_err(|e| fatal("cannot write a value as text", e))
}

//! Step `select`: which columns there are, computed, cast, flattened, left out and renamed.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, SchemaRef};
use sluice_filters::{Name, ValueExpression};

use super::columns::{Columns, StepProblem};
use super::rows::{self, fatal, field_type, resolve, turn_away};
use crate::config::{self, Column, Computed};
use crate::task::{Slice, TaskError};

/// Columns, ready to be made.
pub(super) struct Select {
    columns: Vec<Made>,
    schema: SchemaRef,
}

/// One column in the making.
struct Made {
    field: Field,
    data: Data,
    /// The type that its values must convert to.
    cast: Option<DataType>,
}

enum Data {
    Field(Vec<String>),
    Computed(ValueExpression),
}

impl Select {
    /// `None` if the columns that come in are not known.
    pub(super) fn new(select: &config::Select, columns: &Columns) -> Result<Option<Self>, StepProblem> {
        let mut made = Vec::new();
        match (&select.columns, columns) {
            (Some(list), _) => {
                for (at, column) in list.iter().enumerate() {
                    let place = format!("[{at}]");
                    all(column, columns, &mut made).map_err(|problem| match problem.column {
                        Some(_) => problem,
                        None => problem.at(&["columns", &place]),
                    })?;
                }
            }
            (None, Columns::Known(schema)) => made.extend(schema.fields().iter().map(|f| of_field(f, &[]))),
            (None, Columns::Unknown) => {}
            (None, Columns::None) => {
                let way_out = "there is no decoded body: add `decode: {format: json}`, or give `columns`";
                return Err(StepProblem::new(way_out));
            }
        }
        for (name, Computed(value)) in &select.set.0 {
            let column = computed(name, value, columns, &["set", name])?;
            match made.iter_mut().find(|other| other.field.name() == name) {
                Some(other) => *other = column,
                None => made.push(column),
            }
        }
        if matches!(columns, Columns::Unknown) {
            return Ok(None);
        }
        for name in &select.flatten {
            let at = find(&made, name, "flatten")?;
            let column = made.remove(at);
            let parts = flat(&column, name).ok_or_else(|| {
                let found = column.field.data_type();
                StepProblem::new(format!("`{name}` is {found}, expected a struct")).at(&["flatten"])
            })?;
            made.splice(at..at, parts);
        }
        for (name, config::TypeName(target)) in &select.cast.0 {
            let at = find(&made, name, "cast")?;
            let Some(column) = made.get_mut(at) else { continue };
            if !rows::can_cast(column.field.data_type(), target) {
                let message =
                    format!("`{name}` is {}, which never becomes {target}", column.field.data_type());
                return Err(StepProblem::new(message).at(&["cast", name]));
            }
            column.field = Field::new(name, target.clone(), true);
            column.cast = Some(target.clone());
        }
        for name in &select.drop {
            let at = find(&made, name, "drop")?;
            made.remove(at);
        }
        // All at once, so that two names can be exchanged.
        let places = select.rename.0.iter().map(|(old, new)| Ok((find(&made, old, "rename")?, new)));
        for (at, new) in places.collect::<Result<Vec<_>, _>>()? {
            if let Some(column) = made.get_mut(at) {
                column.field = column.field.clone().with_name(new);
            }
        }
        let known = Columns::of(made.iter().map(|column| column.field.clone()).collect())?;
        let schema = known.known().map(Arc::clone);
        Ok(schema.map(|schema| Self { columns: made, schema }))
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(super) fn apply(&self, slice: &mut Slice) -> Result<(), TaskError> {
        let count = slice.envelope.num_rows();
        let (mut arrays, mut unfit) = (Vec::with_capacity(self.columns.len()), Vec::new());
        for column in &self.columns {
            let name = |name: &Name| resolve(&slice.envelope, slice.decoded.as_ref(), name);
            let array = match &column.data {
                Data::Field(path) => name(&Name::Field(path.clone())).ok_or_else(|| {
                    fatal("cannot select a column", format!("there is no {}", Name::Field(path.clone())))
                })?,
                Data::Computed(value) => {
                    value.column(count, &name).map_err(|e| fatal("cannot compute a column", e))?
                }
            };
            arrays.push(match &column.cast {
                Some(target) => converted(&array, target, column.field.name(), &mut unfit)?,
                None => array,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let made = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options);
        slice.decoded = Some(made.map_err(|e| fatal("cannot build the selected columns", e))?);
        turn_away(slice, &unfit)
    }
}

/// The columns that one entry of `columns` means.
fn all(column: &Column, columns: &Columns, made: &mut Vec<Made>) -> Result<(), StepProblem> {
    match column {
        Column::All(path) => {
            let fields = match (columns, path.as_slice()) {
                (Columns::Unknown, _) => return Ok(()),
                (Columns::None, _) => {
                    return Err(StepProblem::new(format!("no columns{}", columns.hint(""))));
                }
                (Columns::Known(schema), []) => schema.fields().clone(),
                (Columns::Known(schema), [first, ..]) => match field_type(schema, path) {
                    Some(DataType::Struct(fields)) => fields,
                    Some(found) => {
                        let name = Name::Field(path.clone());
                        return Err(StepProblem::new(format!("{name} is {found}, expected a struct")));
                    }
                    None => {
                        let name = Name::Field(path.clone());
                        return Err(StepProblem::new(format!("there is no {name}{}", columns.hint(first))));
                    }
                },
            };
            made.extend(fields.iter().map(|field| of_field(field, path)));
        }
        Column::One(name, Computed(value)) => {
            let named = match value.name() {
                Some(Name::Field(path)) => path.last(),
                Some(Name::Property(name) | Name::Envelope(name)) => Some(name),
                None => None,
            };
            let name = name.as_ref().or(named).map_or("", String::as_str);
            made.push(computed(name, value, columns, &[])?);
        }
    }
    Ok(())
}

fn computed(
    name: &str,
    value: &ValueExpression,
    columns: &Columns,
    path: &[&str],
) -> Result<Made, StepProblem> {
    let data_type = value.data_type(&|n| columns.data_type(n)).map_err(|e| columns.refused(path, &e))?;
    let is_unknown = matches!(columns, Columns::Unknown);
    if data_type == DataType::Null && !is_unknown {
        let message = format!("`{}` is null in every row, so it has no type", value.text());
        return Err(StepProblem::new(message).at(path));
    }
    let mut field = Field::new(name, data_type, true);
    let data = match value.name() {
        Some(Name::Field(path)) => {
            if let (Columns::Known(schema), [one]) = (columns, path.as_slice())
                && let Ok(same) = schema.field_with_name(one)
            {
                field = same.clone().with_name(name);
            }
            Data::Field(path.clone())
        }
        _ => Data::Computed(value.clone()),
    };
    Ok(Made { field, data, cast: None })
}

fn of_field(field: &Field, parent: &[String]) -> Made {
    let path = parent.iter().chain([field.name()]).cloned().collect();
    Made { field: field.clone().with_nullable(true), data: Data::Field(path), cast: None }
}

/// The leaves of a struct as columns; `None` if it is none.
fn flat(column: &Made, name: &str) -> Option<Vec<Made>> {
    let (DataType::Struct(fields), Data::Field(path)) = (column.field.data_type(), &column.data) else {
        return None;
    };
    let mut parts = Vec::new();
    for field in fields {
        let mut part = of_field(field, path);
        let name = format!("{name}_{}", field.name());
        part.field = part.field.with_name(&name);
        match flat(&part, &name) {
            Some(inner) => parts.extend(inner),
            None => parts.push(part),
        }
    }
    Some(parts)
}

fn find(made: &[Made], name: &str, key: &str) -> Result<usize, StepProblem> {
    made.iter().position(|column| column.field.name() == name).ok_or_else(|| {
        let names: Vec<&str> = made.iter().map(|column| column.field.name().as_str()).collect();
        let hint = match config::nearest(name, names.iter().copied()) {
            Some(near) => format!("; did you mean `{near}`?"),
            None => format!("; the columns here: {}", names.join(", ")),
        };
        StepProblem::new(format!("there is no column `{name}`{hint}")).at(&[key])
    })
}

/// The column in another type; rows whose value does not convert are unfit.
fn converted(
    array: &ArrayRef,
    target: &DataType,
    name: &str,
    unfit: &mut Vec<(usize, String)>,
) -> Result<ArrayRef, TaskError> {
    let made = arrow::compute::cast(array, target).map_err(|e| fatal("cannot cast a column", e))?;
    if made.null_count() > array.logical_null_count() {
        let shown = arrow::compute::cast(array, &DataType::Utf8).ok();
        for row in (0..array.len()).filter(|row| array.is_valid(*row) && made.is_null(*row)) {
            let value = shown.as_ref().and_then(|s| rows::text_at(s, row)).unwrap_or_default();
            let value: String = value.chars().take(100).collect();
            unfit.push((row, format!("$.{name}: {value:?} is no {target}")));
        }
        unfit.sort_by_key(|(row, _)| *row);
    }
    Ok(made)
}

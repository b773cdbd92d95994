//! Partition columns: which rows of a slice go to which folder.
//!
//! The values stand in the folders' names only, so the columns are left out of the files, if these do not belong to
//! a table that wants them there. It names no folder itself.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use sluice_connect::batch;
use sluice_connect::task::{Class, Slice, TaskError};

use crate::name::{self, NAME_BYTES_MAX};

/// Folders below one another; more would only make paths that no system takes.
const COLUMNS_MAX: usize = 8;

/// One entry of `partition: [...]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionColumn {
    /// A field of the decoded body, written `$.field`.
    Field(String),
    /// An envelope column, written `$topic`.
    Envelope(String),
    /// A property, written by its bare name.
    Property(String),
}

impl PartitionColumn {
    /// Reads one entry; an unknown envelope column is an error that names the nearest one.
    pub fn parse(entry: &str) -> Result<Self, TaskError> {
        let refused =
            |why: String| TaskError::new(Class::Config, format!("partition column {entry:?} {why}"));
        if let Some(field) = entry.strip_prefix("$.") {
            if field.is_empty() {
                return Err(refused("names no field".to_owned()));
            }
            return Ok(Self::Field(field.to_owned()));
        }
        let Some(column) = entry.strip_prefix('$') else {
            if entry.is_empty() {
                return Err(refused("names no property".to_owned()));
            }
            return Ok(Self::Property(entry.to_owned()));
        };
        let scalar = || {
            let columns = batch::COLUMNS.into_iter().filter(|name| !matches!(*name, "properties" | "body"));
            columns.chain([batch::ROUTE])
        };
        scalar().find(|name| *name == column).map(|name| Self::Envelope(name.to_owned())).ok_or_else(|| {
            refused(format!("is no envelope column with one plain value{}", nearest(column, scalar(), "$")))
        })
    }

    /// The name before `=` in the folder.
    pub fn name(&self) -> &str {
        match self {
            Self::Field(name) | Self::Envelope(name) | Self::Property(name) => name,
        }
    }

    fn written(&self) -> String {
        match self {
            Self::Field(name) => format!("$.{name}"),
            Self::Envelope(name) => format!("${name}"),
            Self::Property(name) => name.clone(),
        }
    }
}

/// The partition columns of one sink.
#[derive(Clone, Debug)]
pub struct Partition {
    columns: Vec<PartitionColumn>,
    /// Whether the columns stand in the files as well.
    in_files: bool,
}

/// The rows of one slice that share their partition values.
#[derive(Debug)]
pub(crate) struct Part {
    /// One value for each column; `None` is null.
    pub(crate) values: Vec<Option<String>>,
    /// The rows in their order, without the partition columns.
    pub(crate) rows: RecordBatch,
    /// Queue offset of the first row.
    pub(crate) first: i64,
    /// Queue offset of the last row.
    pub(crate) last: i64,
}

impl Partition {
    /// Reads the entries of `partition: [...]`; two of one name are an error.
    pub fn new(entries: &[String]) -> Result<Self, TaskError> {
        if entries.len() > COLUMNS_MAX {
            let message = format!("{} partition columns, at most {COLUMNS_MAX} are taken", entries.len());
            return Err(TaskError::new(Class::Config, message));
        }
        let mut columns: Vec<PartitionColumn> = Vec::with_capacity(entries.len());
        for entry in entries {
            let column = PartitionColumn::parse(entry)?;
            if let Some(other) = columns.iter().find(|other| other.name() == column.name()) {
                let message = format!(
                    "partition columns {:?} and {entry:?} would share a folder's name",
                    other.written()
                );
                return Err(TaskError::new(Class::Config, message));
            }
            columns.push(column);
        }
        Ok(Self { columns, in_files: false })
    }

    /// The same with the columns in the files as well.
    #[cfg(feature = "tables")]
    pub(crate) fn in_files(self) -> Self {
        Self { in_files: true, ..self }
    }

    pub(crate) fn is_in_files(&self) -> bool {
        self.in_files
    }

    /// The columns, in the order of the folders.
    pub fn columns(&self) -> &[PartitionColumn] {
        &self.columns
    }

    /// Finds columns that don't exist, as far as names are known yet: `decoded` is the decoded schema
    /// (empty without `decode`), `properties` the names of all properties that the source gives.
    pub fn check(&self, decoded: Option<&Schema>, properties: Option<&[String]>) -> Result<(), TaskError> {
        for column in &self.columns {
            let refused = |why: String| {
                TaskError::new(Class::Config, format!("partition column {:?} {why}", column.written()))
            };
            match (column, decoded) {
                (PartitionColumn::Field(name), Some(schema)) => {
                    let names = || schema.fields().iter().map(|field| field.name().as_str());
                    let Ok(field) = schema.field_with_name(name) else {
                        let mut why =
                            format!("is no field of the decoded body{}", nearest(name, names(), "$."));
                        if schema.fields().is_empty() {
                            why.push_str("; without decode there are none");
                        }
                        return Err(refused(why));
                    };
                    if !is_plain_value(field.data_type()) {
                        return Err(refused(format!("is a {}, expected one plain value", field.data_type())));
                    }
                    if schema.fields().len() == self.fields().count() {
                        return Err(refused("would leave no column for the file".to_owned()));
                    }
                }
                // A reader would meet the same name in the path and in the file.
                (_, Some(schema)) if schema.field_with_name(column.name()).is_ok() => {
                    return Err(refused(format!(
                        "has the name of a decoded field; did you mean \"$.{}\"?",
                        column.name()
                    )));
                }
                _ => {}
            }
            if let (PartitionColumn::Property(name), Some(properties)) = (column, properties)
                && !properties.contains(name)
            {
                let mut hint = nearest(name, properties.iter().map(String::as_str), "");
                if hint.is_empty() {
                    hint = format!("; write \"$.{name}\" for a field of the decoded body");
                }
                return Err(refused(format!("is no property of the source{hint}")));
            }
        }
        Ok(())
    }

    fn fields(&self) -> impl Iterator<Item = &PartitionColumn> {
        self.columns.iter().filter(|column| matches!(column, PartitionColumn::Field(_)))
    }

    /// The slice's rows by partition, in the order of each one's first row; none for a slice without rows.
    pub(crate) fn split(&self, slice: &Slice) -> Result<Vec<Part>, TaskError> {
        let rows = slice.envelope.num_rows();
        if rows == 0 {
            return Ok(Vec::new());
        }
        let offsets = offsets(slice)?;
        let output = self.output(slice)?;
        if self.columns.is_empty() {
            let (first, last) = (offsets.value(0), offsets.value(rows - 1));
            return Ok(vec![Part { values: Vec::new(), rows: output, first, last }]);
        }
        let values =
            self.columns.iter().map(|column| values(column, slice)).collect::<Result<Vec<_>, _>>()?;
        let groups = group(&values, rows);
        let is_one = groups.len() == 1;
        groups
            .into_iter()
            .map(|indices| {
                let (Some(&head), Some(&tail)) = (indices.first(), indices.last()) else {
                    unreachable!("a group begins with a row");
                };
                let key: Vec<_> =
                    values.iter().map(|column| value(column, head as usize).map(str::to_owned)).collect();
                let (first, last) = (offsets.value(head as usize), offsets.value(tail as usize));
                let rows = if is_one {
                    Ok(output.clone())
                } else {
                    take_record_batch(&output, &UInt32Array::from(indices))
                };
                let rows =
                    rows.map_err(|e| broken("cannot split a slice by its partition columns").because(e))?;
                Ok(Part { values: key, rows, first, last })
            })
            .collect()
    }

    /// Rows of the slice whose value of a column is an empty text.
    #[cfg(feature = "delta")]
    pub(crate) fn empty_rows(&self, column: &PartitionColumn, slice: &Slice) -> Vec<usize> {
        let Ok(values) = values(column, slice) else { return Vec::new() };
        (0..slice.envelope.num_rows()).filter(|row| value(&values, *row) == Some("")).collect()
    }

    /// The slice's output with all partition columns, by their names: those that it lacks come last.
    pub(crate) fn with_columns(&self, slice: &Slice) -> Result<RecordBatch, TaskError> {
        let output = slice.output();
        let schema = output.schema_ref();
        let is_property = |name: &str| {
            self.columns.iter().any(|column| match column {
                PartitionColumn::Property(property) => {
                    slice.decoded.is_none() && name == batch::property_column(property)
                }
                PartitionColumn::Field(_) | PartitionColumn::Envelope(_) => false,
            })
        };
        let kept =
            schema.fields().iter().zip(output.columns()).filter(|(field, _)| !is_property(field.name()));
        let (mut fields, mut columns): (Vec<_>, Vec<_>) =
            kept.map(|(field, column)| (field.clone(), column.clone())).unzip();
        for column in &self.columns {
            if !fields.iter().any(|field| field.name() == column.name()) {
                let found = found(column, slice)?;
                fields.push(Arc::new(Field::new(column.name(), found.data_type().clone(), true)));
                columns.push(found.clone());
            }
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
            .map_err(|e| broken("cannot add the partition columns to the rows").because(e))
    }

    /// What the file holds of the slice's output.
    fn output(&self, slice: &Slice) -> Result<RecordBatch, TaskError> {
        let output = slice.output();
        if output.num_rows() != slice.envelope.num_rows() {
            return Err(broken("a slice has other rows in its envelope than decoded"));
        }
        if self.in_files {
            return Ok(output.clone());
        }
        let schema = output.schema_ref();
        let is_partition = |name: &str| {
            self.columns.iter().any(|column| match column {
                PartitionColumn::Field(field) => slice.decoded.is_some() && field == name,
                PartitionColumn::Envelope(column) => slice.decoded.is_none() && column == name,
                PartitionColumn::Property(property) => {
                    slice.decoded.is_none() && name.strip_prefix("properties.") == Some(property)
                }
            })
        };
        let kept: Vec<usize> =
            (0..schema.fields().len()).filter(|i| !is_partition(schema.field(*i).name())).collect();
        if kept.is_empty() {
            return Err(TaskError::new(Class::Config, "the partition columns leave no column for the file"));
        }
        if kept.len() == schema.fields().len() {
            return Ok(output.clone());
        }
        output.project(&kept).map_err(|e| broken("cannot leave out the partition columns").because(e))
    }

    /// Rows with values that no folder can be named by, each with the reason: one folder's name is too long, or all
    /// of them together exceed `path_bytes_max`. What else is wrong with the columns is [`Partition::split`]'s to say.
    pub(crate) fn unfit(&self, slice: &Slice, path_bytes_max: usize) -> Vec<(usize, String)> {
        let columns: Vec<_> =
            self.columns.iter().filter_map(|column| Some((column, values(column, slice).ok()?))).collect();
        let mut found = Vec::new();
        let rows = if columns.is_empty() { 0 } else { slice.envelope.num_rows() };
        for row in 0..rows {
            let folders = columns.iter().map(|(column, values)| (*column, value(values, row)));
            // Encoding makes at most three bytes of one; nearly all rows need no exact look.
            let most = |(column, value): (&PartitionColumn, Option<&str>)| {
                3 * (column.name().len() + value.map_or(NULL_BYTES, str::len)) + 2
            };
            let (longest, path) = folders.clone().map(most).fold((0, 0), |(a, b), n| (n.max(a), n + b));
            if longest <= NAME_BYTES_MAX && path <= path_bytes_max {
                continue;
            }
            let lens =
                folders.map(|(column, value)| (name::partition_folder(column.name(), value).len(), column));
            let path: usize = lens.clone().map(|(len, _)| len + 1).sum();
            let longest = lens.clone().find(|(len, _)| *len > NAME_BYTES_MAX);
            if let Some((len, column)) = longest {
                let column = column.written();
                found.push((
                    row,
                    format!(
                        "partition column {column:?} would need a folder name of {len} bytes, \
                         at most {NAME_BYTES_MAX} fit"
                    ),
                ));
            } else if path > path_bytes_max {
                found.push((
                    row,
                    format!("its partition folders would need {path} bytes, at most {path_bytes_max} fit"),
                ));
            }
        }
        found
    }
}

/// Text of a folder whose value is null, about, in bytes.
const NULL_BYTES: usize = 32;

fn broken(what: &str) -> TaskError {
    TaskError::new(Class::Fatal, what)
}

fn offsets(slice: &Slice) -> Result<&Int64Array, TaskError> {
    let column = slice.envelope.column_by_name("queue_offset");
    let offsets = column.and_then(|column| column.as_primitive_opt::<Int64Type>());
    let offsets = offsets.ok_or_else(|| broken("a slice's envelope has no queue_offset of 64 bits"))?;
    let (first, last) = (offsets.value(0), offsets.value(offsets.len() - 1));
    if offsets.null_count() > 0 || first < slice.range.start || last >= slice.range.end {
        return Err(broken("a slice has rows outside its range"));
    }
    Ok(offsets)
}

/// The column as it stands in the slice.
fn found<'a>(column: &PartitionColumn, slice: &'a Slice) -> Result<&'a ArrayRef, TaskError> {
    let found: Option<&ArrayRef> = match column {
        PartitionColumn::Field(name) => {
            slice.decoded.as_ref().and_then(|decoded| decoded.column_by_name(name))
        }
        PartitionColumn::Envelope(name) => slice.envelope.column_by_name(name),
        PartitionColumn::Property(name) => slice.envelope.column_by_name(&batch::property_column(name)),
    };
    found.ok_or_else(|| {
        let message = format!("partition column {:?} is not among the columns of the rows", column.written());
        TaskError::new(Class::Config, message)
    })
}

/// The column's values as text.
fn values(column: &PartitionColumn, slice: &Slice) -> Result<StringViewArray, TaskError> {
    let found = found(column, slice)?;
    batch::texts(found).map_err(|e| {
        let message = format!("partition column {:?} is a {}", column.written(), found.data_type());
        TaskError::new(Class::Config, message).because(e)
    })
}

fn value(column: &StringViewArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

/// Row numbers by equal values of all columns, in the order of each group's first row.
fn group(columns: &[StringViewArray], rows: usize) -> Vec<Vec<u32>> {
    let mut groups = vec![0u32; rows];
    let mut count = 1;
    for column in columns {
        let mut known: HashMap<(u32, Option<&str>), u32> = HashMap::new();
        let mut last: Option<((u32, Option<&str>), u32)> = None;
        for (row, group) in groups.iter_mut().enumerate() {
            let key = (*group, value(column, row));
            *group = match last {
                // Runs of one value are common, and cost no hash.
                Some((same, number)) if same == key => number,
                _ => {
                    let next = u32::try_from(known.len()).unwrap_or(u32::MAX);
                    *known.entry(key).or_insert(next)
                }
            };
            last = Some((key, *group));
        }
        count = known.len();
    }
    let mut indices = vec![Vec::new(); count];
    for (row, group) in (0u32..).zip(groups) {
        if let Some(rows) = indices.get_mut(group as usize) {
            rows.push(row);
        }
    }
    indices
}

fn is_plain_value(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Boolean => true,
        DataType::Dictionary(_, values) => is_plain_value(values),
        other => other.is_primitive(),
    }
}

/// `; did you mean "…"?` with the name that is most like `name`, empty if none is.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>, sigil: &str) -> String {
    known
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(name.chars().count()) / 2)
        .min()
        .map(|(_, candidate)| format!("; did you mean \"{sigil}{candidate}\"?"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

    use super::*;

    fn partition(entries: &[&str]) -> Result<Partition, String> {
        let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        Partition::new(&entries).map_err(|e| e.to_string())
    }

    #[test]
    fn an_entry_says_where_its_column_lies() {
        let columns = partition(&["$.a.b", "$topic", "origin"]).unwrap().columns;
        assert_eq!(
            columns,
            [
                PartitionColumn::Field("a.b".into()),
                PartitionColumn::Envelope("topic".into()),
                PartitionColumn::Property("origin".into())
            ]
        );
        for (bad, expected) in [
            (&["$topics"][..], "did you mean \"$topic\"?"),
            (&["$body"], "no envelope column with one plain value"),
            (&["$."], "names no field"),
            (&[""], "names no property"),
            (&["$.a", "a"], "would share a folder's name"),
            (&["a", "b", "c", "d", "e", "f", "g", "h", "i"], "at most 8"),
        ] {
            let error = partition(bad).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_column_that_does_not_exist_is_named_with_the_nearest() {
        let item = Field::new_list_field(DataType::Int64, true);
        let schema = Schema::new(vec![
            Field::new("origin", DataType::Utf8, true),
            Field::new("flight", DataType::Int64, true),
            Field::new("legs", DataType::List(item.into()), true),
        ]);
        let check = |entry: &str, decoded: Option<&Schema>, properties: Option<&[String]>| {
            partition(&[entry]).unwrap().check(decoded, properties).map_err(|e| e.to_string())
        };
        let names = ["origin".to_owned(), "carrier".to_owned()];
        assert_eq!(check("$.origin", Some(&schema), Some(&names)), Ok(()));
        assert_eq!(check("carrier", Some(&schema), Some(&names)), Ok(()));
        assert_eq!(check("$.orign", None, None), Ok(()), "not known yet");
        for (entry, expected) in [
            ("$.orign", "did you mean \"$.origin\"?"),
            ("$.xxxxxxxxx", "is no field of the decoded body"),
            ("$.legs", "expected one plain value"),
            ("carier", "did you mean \"carrier\"?"),
            ("origin", "did you mean \"$.origin\"?"),
        ] {
            let error = check(entry, Some(&schema), Some(&names)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let error = check("$.origin", Some(&Schema::empty()), None).unwrap_err();
        assert!(error.contains("without decode there are none"), "{error}");
    }

    #[test]
    fn rows_are_grouped_in_the_order_of_first_rows() {
        let a = StringViewArray::from(vec![Some("x"), None, Some("x"), Some(""), None, Some("x")]);
        let b = StringViewArray::from(vec![Some("1"), Some("1"), Some("2"), None, Some("1"), Some("1")]);
        assert_eq!(group(&[a, b], 6), [vec![0, 5], vec![1, 4], vec![2], vec![3]]);
    }
}

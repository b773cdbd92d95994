//! CSV records, one a body, as typed columns; the columns' names are told, not read.
//!
//! Fields are split by one byte, quotes as in RFC 4180. Inference knows whole numbers, numbers and text; a declared
//! column takes its text: `true` and `false`, numbers, RFC 3339 times.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use crate::column::{Columns, Unknown};
use crate::path::{Misfit, Step};
use crate::{Decoded, Error, FIELDS_MAX, json, rows};

/// How records are written.
#[derive(Clone, Debug)]
pub struct Layout {
    names: Vec<String>,
    delimiter: u8,
    nulls: Vec<String>,
}

impl Layout {
    /// Names of the columns in order, the byte between fields, and the texts that are null.
    pub fn new(names: Vec<String>, delimiter: char, nulls: Vec<String>) -> Result<Self, Error> {
        if names.is_empty() || names.len() > FIELDS_MAX {
            return Err(Error::schema(format!(
                "a CSV header of {} columns, expected 1 to {FIELDS_MAX}",
                names.len()
            )));
        }
        let mut seen = HashSet::new();
        if let Some(doubled) = names.iter().find(|name| !seen.insert(name.as_str())) {
            return Err(Error::DoubledField { field: doubled.clone() });
        }
        let delimiter =
            u8::try_from(delimiter).ok().filter(|d| d.is_ascii() && !matches!(d, b'"' | b'\r' | b'\n'));
        let delimiter = delimiter.ok_or_else(|| {
            Error::schema("the delimiter must be one ASCII character, no quote and no line end")
        })?;
        Ok(Self { names, delimiter, nulls })
    }

    /// The names of its columns.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    fn is_null(&self, field: &str) -> bool {
        self.nulls.iter().any(|null| null == field)
    }
}

/// Splits bodies into fields.
struct Splitter {
    parser: Reader,
    delimiter: u8,
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Splitter {
    fn new(layout: &Layout) -> Self {
        let parser = ReaderBuilder::new().delimiter(layout.delimiter).build();
        // One more, to see a field too many.
        let ends = vec![0; layout.names.len() + 1];
        Self { parser, delimiter: layout.delimiter, text: Vec::new(), ends }
    }

    /// The fields of a body that is one record.
    fn split(&mut self, body: &[u8]) -> Result<Vec<&str>, Misfit> {
        let wanted = self.ends.len() - 1;
        let trimmed = body.strip_suffix(b"\n").unwrap_or(body);
        let trimmed = trimmed.strip_suffix(b"\r").unwrap_or(trimmed);
        if is_open(trimmed, self.delimiter) {
            return Err(Misfit::new("a quote is never closed"));
        }
        self.parser.reset();
        // Unquoted, a record is never longer than it was.
        self.text.resize(trimmed.len() + 1, 0);
        let (mut at, mut text_len, mut count) = (0, 0, 0);
        loop {
            let (result, read, written, ended) = self.parser.read_record(
                trimmed.get(at..).unwrap_or(&[]),
                self.text.get_mut(text_len..).unwrap_or(&mut []),
                self.ends.get_mut(count..).unwrap_or(&mut []),
            );
            at += read;
            text_len += written;
            count += ended;
            match result {
                ReadRecordResult::InputEmpty if at >= trimmed.len() => {}
                ReadRecordResult::Record | ReadRecordResult::End => break,
                ReadRecordResult::OutputEndsFull => {
                    return Err(Misfit::new(format!("more than {wanted} fields, as the header has")));
                }
                ReadRecordResult::OutputFull | ReadRecordResult::InputEmpty => {
                    return Err(Misfit::new("no CSV record"));
                }
            }
        }
        if at < trimmed.len() {
            return Err(Misfit::new("a second record, expected one a body"));
        }
        if count != wanted {
            return Err(Misfit::new(format!("{count} fields, but the header has {wanted}")));
        }
        let mut start = 0;
        let fields = self.ends.iter().take(count).enumerate().map(|(number, &end)| {
            let field = self.text.get(start..end).unwrap_or(&[]);
            start = end;
            std::str::from_utf8(field).map_err(|_| Misfit::new(format!("field {} is not UTF-8", number + 1)))
        });
        fields.collect()
    }
}

/// Whether a quoted field of a CSV record has no end. A quote opens one at the begin of a field only, and elsewhere
/// stands for itself.
pub fn is_open(record: &[u8], delimiter: u8) -> bool {
    let (mut quoted, mut at_start, mut closed) = (false, true, false);
    for &byte in record {
        let is_quote = byte == b'"';
        (quoted, closed) = match (quoted, is_quote) {
            (true, true) => (false, true),
            (true, false) => (true, false),
            (false, true) => (at_start || closed, false),
            (false, false) => (false, false),
        };
        at_start = !quoted && (byte == delimiter || byte == b'\n' || byte == b'\r');
    }
    quoted
}

/// What the values of a column have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Null,
    Int { exact: bool },
    Float,
    Text,
}

impl Shape {
    fn of(text: &str) -> Self {
        // JSON's numbers: a leading zero or a plus is text.
        let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
            && text.ends_with(|c: char| c.is_ascii_digit())
            && serde_json::from_str::<f64>(text).is_ok_and(f64::is_finite);
        match text.parse::<i64>() {
            _ if !is_number => Self::Text,
            Ok(integer) => Self::Int { exact: json::exact_float(i128::from(integer)).is_some() },
            // An integer that 64 bits do not hold would lose digits as a float.
            Err(_) if text.contains(['.', 'e', 'E']) => Self::Float,
            Err(_) => Self::Text,
        }
    }

    fn merge(self, other: Self) -> Self {
        match (self, other) {
            (Self::Null, shape) | (shape, Self::Null) => shape,
            (Self::Int { exact: a }, Self::Int { exact: b }) => Self::Int { exact: a && b },
            (Self::Float, Self::Float | Self::Int { exact: true })
            | (Self::Int { exact: true }, Self::Float) => Self::Float,
            _ => Self::Text,
        }
    }
}

/// Gathers what records have in common.
pub struct Inferer {
    layout: Layout,
    splitter: Splitter,
    shapes: Vec<Shape>,
    rows: usize,
}

impl Inferer {
    /// Nothing seen yet.
    pub fn new(layout: Layout) -> Self {
        let (splitter, shapes) = (Splitter::new(&layout), vec![Shape::Null; layout.names.len()]);
        Self { layout, splitter, shapes, rows: 0 }
    }

    /// Takes a record into account, or says why it can't be a row.
    pub fn add(&mut self, body: &[u8]) -> Result<(), String> {
        let fields = self.splitter.split(body).map_err(Misfit::into_text)?;
        for (shape, field) in self.shapes.iter_mut().zip(fields) {
            if !self.layout.is_null(field) {
                *shape = shape.merge(Shape::of(field));
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// The schema that takes all of them, with the columns of the header; `None` if no record was seen.
    pub fn schema(&self) -> Option<SchemaRef> {
        if self.rows == 0 {
            return None;
        }
        Some(Arc::new(Schema::new(self.fields().map(|(field, _)| field).collect::<Vec<_>>())))
    }

    /// The same without the columns that were only null.
    pub fn shown(&self) -> SchemaRef {
        let shown = self.fields().filter(|(_, shape)| *shape != Shape::Null).map(|(field, _)| field);
        Arc::new(Schema::new(shown.collect::<Vec<_>>()))
    }

    fn fields(&self) -> impl Iterator<Item = (Field, Shape)> {
        self.layout.names.iter().zip(&self.shapes).map(|(name, shape)| {
            let data_type = match shape {
                Shape::Int { .. } => DataType::Int64,
                Shape::Float => DataType::Float64,
                Shape::Null | Shape::Text => DataType::Utf8,
            };
            (Field::new(name, data_type, true), *shape)
        })
    }
}

/// Reads records into the columns of one schema.
pub struct Decoder {
    layout: Layout,
    splitter: Splitter,
    schema: SchemaRef,
    columns: Columns,
    /// The column of each field.
    places: Vec<Option<usize>>,
    unknown: Unknown,
}

impl Decoder {
    /// Columns of a schema of plain types; fields without one as `unknown` says.
    pub fn new(layout: Layout, schema: SchemaRef, unknown: Unknown) -> Result<Self, Error> {
        json::check_types(schema.fields())?;
        if let Some(nested) = schema.fields().iter().find(|f| f.data_type().is_nested()) {
            return Err(Error::UnsupportedColumn {
                column: nested.name().clone(),
                data_type: nested.data_type().clone(),
                nullable: nested.is_nullable(),
            });
        }
        let columns = Columns::new(schema.fields())?;
        let places = layout.names.iter().map(|name| columns.find(name, 0)).collect();
        let splitter = Splitter::new(&layout);
        Ok(Self { layout, splitter, schema, columns, places, unknown })
    }

    /// Decodes each body as one row. A body that is missing or does not fit is a reject.
    pub fn decode(&mut self, bodies: &mut dyn Iterator<Item = Option<&[u8]>>) -> Result<Decoded, Error> {
        let Self { layout, splitter, schema, columns, places, unknown } = self;
        rows::decode(columns, schema, bodies, |columns, body, rows| {
            let fields = splitter.split(body)?;
            Ok(push(columns, layout, places, *unknown, fields, rows)?)
        })
    }
}

/// Adds a row; `places` are the columns of the fields.
fn push(
    columns: &mut Columns,
    layout: &Layout,
    places: &[Option<usize>],
    unknown: Unknown,
    fields: Vec<&str>,
    rows: usize,
) -> Result<(), Misfit> {
    for ((field, place), name) in fields.into_iter().zip(places).zip(&layout.names) {
        let is_null = layout.is_null(field);
        let Some(column) = place.and_then(|at| columns.columns.get_mut(at)) else {
            match unknown {
                Unknown::PassOver => continue,
                Unknown::PassEmpty if is_null => continue,
                Unknown::Refuse | Unknown::PassEmpty => return Err(Misfit::no_column(name)),
            }
        };
        if is_null {
            column.push_null();
        } else {
            column.push_text(field).map_err(|misfit| misfit.at(Step::Field(name.clone())))?;
        }
    }
    columns.pad(rows + 1);
    Ok(())
}

//! Rows for a person or a pipe: a table for each slice, or one JSON object a line.
//!
//! It keeps no position, so it gives each row at least once. The stream comes in from the edge.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::json::writer::{LineDelimited, WriterBuilder};
use arrow::util::pretty::pretty_format_batches;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_connect::config::Delivery;
use sluice_connect::target::Target;
use sluice_connect::task::{Chain, Class, Fates, Slice, TaskError, TransactTask};

use crate::sink::Sink;

/// Settings of `sink: {stdout: …}`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StdoutConfig {
    /// How rows look.
    pub format: RowFormat,
}

impl Sink for StdoutConfig {
    fn shown(&self) -> String {
        "standard output".to_owned()
    }

    fn open(&self, _: Delivery) -> Result<Target, TaskError> {
        Ok(Target::Transact(Box::new(Stdout::new(self, Box::new(io::stdout())))))
    }

    fn check(&self, _: Delivery) -> Result<String, TaskError> {
        Ok("keeps no positions: at_least_once".to_owned())
    }

    fn no_route(&self) -> Option<&'static str> {
        Some("standard output takes no route: write a topic or files")
    }
}

/// How rows look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowFormat {
    /// A table for each slice.
    #[default]
    Table,
    /// One JSON object a line, nulls written.
    Ndjson,
}

/// Writes rows to a stream, flushed after each slice.
pub struct Stdout {
    format: RowFormat,
    out: Box<dyn Write + Send>,
}

impl Stdout {
    /// Rows go to `out`.
    pub fn new(config: &StdoutConfig, out: Box<dyn Write + Send>) -> Self {
        Self { format: config.format, out }
    }

    fn write(&mut self, rows: &RecordBatch) -> io::Result<()> {
        let text = match self.format {
            RowFormat::Table => table(std::slice::from_ref(rows)),
            RowFormat::Ndjson => ndjson(rows),
        };
        self.out.write_all(&text.map_err(io::Error::other)?)?;
        self.out.flush()
    }
}

impl TransactTask for Stdout {
    fn commit(&mut self, _: &Chain, _incarnation: &str, slice: &Slice, _: &Fates) -> Result<(), TaskError> {
        if slice.output().num_rows() == 0 {
            return Ok(());
        }
        self.write(slice.output()).map_err(|e| match e.kind() {
            ErrorKind::BrokenPipe => TaskError::new(Class::Config, "standard output was closed").because(e),
            _ => TaskError::io("cannot write to standard output", e),
        })
    }

    fn secure(&mut self) -> Result<(), TaskError> {
        Ok(())
    }

    fn keeps_positions(&self) -> bool {
        false
    }
}

/// Rows as one table for a terminal, with a line end; the batches share their columns.
pub fn table(batches: &[RecordBatch]) -> Result<Vec<u8>, ArrowError> {
    let batches: Vec<RecordBatch> = batches.iter().map(readable).collect::<Result<_, _>>()?;
    let text = pretty_format_batches(&batches)?.to_string();
    let mut safe = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        // What a message holds must not steer the terminal.
        if c.is_control() && c != '\n' {
            write!(safe, "{}", c.escape_default()).expect("a string takes all");
        } else {
            safe.push(c);
        }
    }
    safe.push('\n');
    Ok(safe.into_bytes())
}

/// Rows as one JSON object a line, nulls written.
pub fn ndjson(rows: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(&readable(rows)?)?;
    writer.finish()?;
    Ok(writer.into_inner())
}

/// Bytes that are UTF-8 as text, others as hexadecimal digits after `0x`.
fn readable(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let mut fields = Vec::with_capacity(rows.num_columns());
    let mut columns = Vec::with_capacity(rows.num_columns());
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        let column = match column.data_type() {
            DataType::Binary => text(column.as_binary::<i32>().iter()),
            DataType::BinaryView => text(column.as_binary_view().iter()),
            _ => column.clone(),
        };
        fields.push(Field::new(field.name(), column.data_type().clone(), field.is_nullable()));
        columns.push(column);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

fn text<'a>(values: impl Iterator<Item = Option<&'a [u8]>>) -> ArrayRef {
    let mut builder = StringBuilder::new();
    for value in values {
        builder.append_option(value.map(|bytes| match str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => Cow::Owned(bytes.iter().fold("0x".to_owned(), |mut hex, byte| {
                write!(hex, "{byte:02x}").expect("a string takes all");
                hex
            })),
        }));
    }
    Arc::new(builder.finish())
}

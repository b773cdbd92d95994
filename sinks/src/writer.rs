//! The file formats of the file sinks, each behind the same few calls.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use ::parquet::file::reader::Length;
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use serde::de::DeserializeOwned;
use sluice_connect::plan::{Plan, PlanFile, TextSum};
use sluice_connect::task::{Class, Slice, TaskError};
use sluice_store::file::Disk;

use crate::arrow_ipc::{self, ArrowFile, ArrowFormat};
use crate::disk::{FileOut, failed};
use crate::file::{self, TextFile, TextFormat};
use crate::parquet::{self, ParquetFile, ParquetFormat};
use crate::place::{Place, Stored};
use crate::records::Merged;

/// The footer's key under which the plan stands as JSON.
pub(crate) const PLAN_KEY: &str = "sluice.plan";

/// The footer's key of a file that others were merged into, as JSON.
pub(crate) const MERGED_KEY: &str = "sluice.merged";

/// A closed set: a new format is a variant here and a file.
#[derive(Clone, Debug)]
pub(crate) enum Format {
    Parquet(Box<ParquetFormat>),
    Arrow(ArrowFormat),
    Text(TextFormat),
}

/// What stands under a file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// A file of this plan.
    Same,
    /// A file of another plan, or of nobody we know.
    Other,
}

impl Format {
    pub(crate) fn extension(&self) -> &'static str {
        match self {
            Self::Parquet(_) => parquet::EXTENSION,
            Self::Arrow(_) => arrow_ipc::EXTENSION,
            Self::Text(format) => format.extension(),
        }
    }

    /// What stands between the pipeline and the topic in a file's name: a name without a footer behind it must be the
    /// chain's own.
    pub(crate) fn separator(&self) -> char {
        if matches!(self, Self::Text(_)) { '.' } else { '-' }
    }

    /// Whether columns can be written.
    pub(crate) fn accept(&self, columns: &Schema) -> Result<(), TaskError> {
        match self {
            Self::Text(format) => {
                format.check(columns).map_err(|problem| TaskError::new(Class::Config, problem))
            }
            Self::Parquet(_) | Self::Arrow(_) => Ok(()),
        }
    }

    /// Rows that can never be written, each with the reason.
    pub(crate) fn unfit(&self, slice: &Slice) -> Vec<(usize, String)> {
        if matches!(self, Self::Text(_)) { crate::file::unfit(slice) } else { Vec::new() }
    }

    /// What all writers of a sink may hold together, in bytes.
    pub(crate) fn memory_max(&self) -> usize {
        match self {
            Self::Parquet(format) => format.memory_max(),
            Self::Arrow(_) => ArrowFormat::MEMORY_MAX,
            Self::Text(_) => TextFormat::MEMORY_MAX,
        }
    }

    pub(crate) fn writer(
        &self,
        disk: Arc<dyn Disk>,
        path: &Path,
        schema: SchemaRef,
    ) -> Result<Writer, TaskError> {
        let out = FileOut::new(disk, path.to_owned());
        Ok(match self {
            Self::Parquet(format) => {
                Writer::Parquet(Box::new(format.writer(schema, out).map_err(|e| parquet::error(path, e))?))
            }
            Self::Arrow(format) => {
                Writer::Arrow(Box::new(format.writer(&schema, out).map_err(|e| arrow_ipc::error(path, e))?))
            }
            Self::Text(format) => Writer::Text(Box::new(format.writer(&schema, out))),
        })
    }
}

/// The words in a footer by their keys, and the rows of the file.
pub(crate) type Words = (HashMap<String, String>, u64);

/// What a data file says of itself; nothing if it is damaged, or no file of these formats.
pub(crate) struct Footer {
    /// The plan that it belongs to.
    pub(crate) plan: Option<Plan>,
    /// What was merged into it.
    pub(crate) merged: Option<Merged>,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// Reads a file's footer, in the format of its name; `None` if the file is not there.
pub(crate) fn footer(place: &dyn Place, key: &str) -> Result<Option<Footer>, TaskError> {
    let unread = |e| failed("read", place.show(key), e);
    let Some(file) = Stored::open(place, key).map_err(unread)? else { return Ok(None) };
    let bytes = file.len();
    let found = match key.rsplit_once('.') {
        Some((_, parquet::EXTENSION)) => parquet::footer(&file),
        Some((_, arrow_ipc::EXTENSION)) => arrow_ipc::footer(file),
        _ => Ok(None),
    };
    let (words, rows) = found.map_err(unread)?.unwrap_or_default();
    Ok(Some(Footer { plan: word(&words, PLAN_KEY), merged: word(&words, MERGED_KEY), rows, bytes }))
}

fn word<T: DeserializeOwned>(words: &HashMap<String, String>, key: &str) -> Option<T> {
    words.get(key).and_then(|json| serde_json::from_str(json).ok())
}

/// Whether a file of a plan is there: by the plan in its footer, or by its text.
pub(crate) fn find(place: &dyn Place, file: &PlanFile, plan: &Plan) -> Result<Found, TaskError> {
    if let Some(text) = file.text {
        let found = file::holds(place, &file.name, text);
        return Ok(match found.map_err(|e| failed("read", place.show(&file.name), e))? {
            None => Found::Nothing,
            Some(true) => Found::Same,
            Some(false) => Found::Other,
        });
    }
    Ok(match footer(place, &file.name)? {
        None => Found::Nothing,
        Some(footer) if footer.plan.as_ref() == Some(plan) => Found::Same,
        Some(_) => Found::Other,
    })
}

/// One file being written.
pub(crate) enum Writer {
    Parquet(Box<ParquetFile>),
    Arrow(Box<ArrowFile>),
    Text(Box<TextFile>),
}

impl Writer {
    pub(crate) fn write(&mut self, path: &Path, batch: &RecordBatch) -> Result<(), TaskError> {
        match self {
            Self::Parquet(file) => file.write(batch).map_err(|e| parquet::error(path, e)),
            Self::Arrow(file) => file.write(batch).map_err(|e| arrow_ipc::error(path, e)),
            Self::Text(file) => file.write(batch).map_err(|e| arrow_ipc::error(path, e)),
        }
    }

    /// What it holds in memory, in bytes.
    pub(crate) fn memory(&self) -> usize {
        match self {
            Self::Parquet(file) => file.memory(),
            Self::Arrow(file) => file.memory(),
            Self::Text(file) => file.memory(),
        }
    }

    /// The file's length if it ended here, about.
    pub(crate) fn encoded(&self) -> u64 {
        match self {
            Self::Parquet(file) => file.encoded(),
            Self::Arrow(file) => file.encoded(),
            Self::Text(file) => file.encoded(),
        }
    }

    /// What proves the file, if it gets no footer.
    pub(crate) fn text(&self) -> Option<TextSum> {
        match self {
            Self::Parquet(_) | Self::Arrow(_) => None,
            Self::Text(file) => Some(file.text()),
        }
    }

    /// Writes out what is held.
    pub(crate) fn flush(&mut self, path: &Path) -> Result<(), TaskError> {
        match self {
            Self::Parquet(file) => file.flush().map_err(|e| parquet::error(path, e)),
            Self::Arrow(file) => file.flush().map_err(|e| arrow_ipc::error(path, e)),
            Self::Text(file) => file.flush().map_err(|e| arrow_ipc::error(path, e)),
        }
    }

    /// Ends the file with this in its footer, if it has one, durably.
    pub(crate) fn finish(self, path: &Path, metadata: &[(&str, String)]) -> Result<(), TaskError> {
        match self {
            Self::Parquet(file) => file.finish(metadata).map_err(|e| parquet::error(path, e)),
            Self::Arrow(file) => file.finish(metadata).map_err(|e| arrow_ipc::error(path, e)),
            Self::Text(file) => file.finish().map_err(|e| arrow_ipc::error(path, e)),
        }
    }
}

//! The file formats of the file sinks, each behind the same few calls.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use ::parquet::file::reader::Length;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde::de::DeserializeOwned;
use sluice_connect::plan::Plan;
use sluice_connect::task::TaskError;
use sluice_store::file::Disk;

use crate::arrow_ipc::{self, ArrowFile, ArrowFormat};
use crate::disk::{FileOut, failed};
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
        }
    }

    /// What all writers of a sink may hold together, in bytes.
    pub(crate) fn memory_max(&self) -> usize {
        match self {
            Self::Parquet(format) => format.memory_max(),
            Self::Arrow(_) => ArrowFormat::MEMORY_MAX,
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

/// Compares the plan in a file's footer with `plan`.
pub(crate) fn find(place: &dyn Place, key: &str, plan: &Plan) -> Result<Found, TaskError> {
    Ok(match footer(place, key)? {
        None => Found::Nothing,
        Some(footer) if footer.plan.as_ref() == Some(plan) => Found::Same,
        Some(_) => Found::Other,
    })
}

/// One file being written.
pub(crate) enum Writer {
    Parquet(Box<ParquetFile>),
    Arrow(Box<ArrowFile>),
}

impl Writer {
    pub(crate) fn write(&mut self, path: &Path, batch: &RecordBatch) -> Result<(), TaskError> {
        match self {
            Self::Parquet(file) => file.write(batch).map_err(|e| parquet::error(path, e)),
            Self::Arrow(file) => file.write(batch).map_err(|e| arrow_ipc::error(path, e)),
        }
    }

    /// What it holds in memory, in bytes.
    pub(crate) fn memory(&self) -> usize {
        match self {
            Self::Parquet(file) => file.memory(),
            Self::Arrow(file) => file.memory(),
        }
    }

    /// The file's length if it ended here, about.
    pub(crate) fn encoded(&self) -> u64 {
        match self {
            Self::Parquet(file) => file.encoded(),
            Self::Arrow(file) => file.encoded(),
        }
    }

    /// Writes out what is held.
    pub(crate) fn flush(&mut self, path: &Path) -> Result<(), TaskError> {
        match self {
            Self::Parquet(file) => file.flush().map_err(|e| parquet::error(path, e)),
            Self::Arrow(file) => file.flush().map_err(|e| arrow_ipc::error(path, e)),
        }
    }

    /// Ends the file with this in its footer, durably.
    pub(crate) fn finish(self, path: &Path, metadata: &[(&str, String)]) -> Result<(), TaskError> {
        let out = match self {
            Self::Parquet(file) => file.finish(metadata).map_err(|e| parquet::error(path, e))?,
            Self::Arrow(file) => file.finish(metadata).map_err(|e| arrow_ipc::error(path, e))?,
        };
        out.finish().map_err(|e| failed("write", path.display(), e))
    }
}

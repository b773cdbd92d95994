//! The file formats of the file sinks, each behind the same few calls.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use sluice_connect::plan::Plan;
use sluice_connect::task::TaskError;
use sluice_store::file::Disk;

use crate::arrow_ipc::{self, ArrowFile, ArrowFormat};
use crate::disk::{FileOut, failed};
use crate::parquet::{self, ParquetFile, ParquetFormat};

/// The footer's key under which the plan stands as JSON.
pub(crate) const PLAN_KEY: &str = "sluice.plan";

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
            Self::Parquet(_) => "parquet",
            Self::Arrow(_) => "arrow",
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

    /// Compares the plan in the footer of the file at `path` with `plan`.
    pub(crate) fn find(&self, path: &Path, plan: &Plan) -> Result<Found, TaskError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(e) => return Err(failed("open", path, e)),
        };
        let found = match self {
            Self::Parquet(_) => parquet::plan_of(&file),
            Self::Arrow(_) => arrow_ipc::plan_of(&file),
        };
        let found = found.map_err(|e| failed("read", path, e))?;
        let is_same =
            found.is_some_and(|json| serde_json::from_str(&json).is_ok_and(|found: Plan| found == *plan));
        Ok(if is_same { Found::Same } else { Found::Other })
    }
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
        out.finish().map_err(|e| failed("write", path, e))
    }
}

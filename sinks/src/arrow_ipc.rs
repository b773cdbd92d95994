//! Arrow IPC files: settings, and how their rows and footers are written and read.
//!
//! Rows of many slices are gathered into one record batch of the file, without views and dictionaries: a
//! view array would bring all bytes that it points into, and this format holds one dictionary a column.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use arrow::array::{Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, read_footer_length};
use arrow::ipc::writer::{FileWriter, IpcWriteOptions};
use arrow::ipc::{CompressionType, root_as_footer, root_as_message};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_connect::task::{Class, TaskError};

use crate::disk::{FileOut, failed};
use crate::location::Location;
use crate::objects::StoreConfig;
use crate::place::Stored;
use crate::plain;
use crate::rotate::{Rotate, open_partitions_default, positive_count};
use crate::writer::Words;

/// A record batch of a file ends at this many rows.
const BATCH_ROWS: usize = 65_536;

/// A record batch of a file ends at this many bytes.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// The end of a file's name.
pub(crate) const EXTENSION: &str = "arrow";

/// Settings of `sink: {arrow: …}`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArrowConfig {
    /// The target: a folder, or `s3://bucket/prefix`.
    pub path: Location,
    /// The object store, for a target that is none of this machine's folders.
    #[serde(default)]
    pub store: Option<StoreConfig>,
    /// How buffers are compressed.
    #[serde(default)]
    pub codec: Codec,
    /// Columns that name folders: `$.field`, `$envelope_column` or a property.
    #[serde(default)]
    pub partition: Vec<String>,
    /// Files that are open at a time: the one that was written to longest ago is written out first, and goes on
    /// with a new record batch at its next row.
    #[serde(default = "open_partitions_default", deserialize_with = "positive_count")]
    #[schemars(with = "u64")]
    pub open_partitions: usize,
    /// When a plan ends.
    #[serde(default)]
    pub rotate: Rotate,
}

/// How buffers are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    /// Zstandard.
    #[default]
    Zstd,
    /// LZ4 frames.
    Lz4,
    /// Not compressed, so that the file can be mapped.
    None,
}

/// What the writers of one sink share.
#[derive(Clone, Debug)]
pub(crate) struct ArrowFormat {
    options: IpcWriteOptions,
}

impl ArrowFormat {
    /// What all writers of a sink may hold together, in bytes.
    pub(crate) const MEMORY_MAX: usize = 64 * 1024 * 1024;

    pub(crate) fn new(config: &ArrowConfig) -> Result<Self, ArrowError> {
        let compression = match config.codec {
            Codec::Zstd => Some(CompressionType::ZSTD),
            Codec::Lz4 => Some(CompressionType::LZ4_FRAME),
            Codec::None => None,
        };
        Ok(Self { options: IpcWriteOptions::default().try_with_compression(compression)? })
    }

    pub(crate) fn writer(&self, schema: &Schema, out: FileOut) -> Result<ArrowFile, ArrowError> {
        let schema = plain::schema(schema);
        let writer = FileWriter::try_new_with_options(out, &schema, self.options.clone())?;
        Ok(ArrowFile { writer, schema, pending: Vec::new(), pending_rows: 0, pending_bytes: 0 })
    }
}

/// One file being written.
pub(crate) struct ArrowFile {
    writer: FileWriter<FileOut>,
    schema: SchemaRef,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    pending_bytes: usize,
}

impl ArrowFile {
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let batch = plain::batch(batch, &self.schema)?;
        for column in batch.columns() {
            self.pending_bytes += column.to_data().get_slice_memory_size()?;
        }
        self.pending_rows += batch.num_rows();
        self.pending.push(batch);
        if self.pending_rows >= BATCH_ROWS || self.pending_bytes >= BATCH_BYTES {
            self.end_batch()?;
        }
        Ok(())
    }

    /// What is held for the next record batch and before the disk, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.pending_bytes + self.writer.get_ref().memory()
    }

    /// The file's length if it ended here, about; what is held counts before it is compressed.
    pub(crate) fn encoded(&self) -> u64 {
        self.writer.get_ref().len() + self.pending_bytes as u64
    }

    /// Ends the record batch, and leaves nothing of it in memory.
    pub(crate) fn flush(&mut self) -> Result<(), ArrowError> {
        self.end_batch()?;
        Ok(self.writer.get_mut().drain()?)
    }

    fn end_batch(&mut self) -> Result<(), ArrowError> {
        if !self.pending.is_empty() {
            self.writer.write(&concat_batches(&self.schema, &self.pending)?)?;
            self.pending.clear();
            self.pending_rows = 0;
            self.pending_bytes = 0;
        }
        Ok(())
    }

    /// Writes the footer, and makes the file durable.
    pub(crate) fn finish(mut self, metadata: &[(&str, String)]) -> Result<(), ArrowError> {
        self.end_batch()?;
        for (key, value) in metadata {
            self.writer.write_metadata(*key, value);
        }
        self.writer.finish()?;
        Ok(self.writer.get_mut().finish()?)
    }
}

/// The words in a file's footer by their keys, and the file's rows; `None` if the file is damaged.
pub(crate) fn footer(file: Stored<'_>) -> io::Result<Option<Words>> {
    let mut reader = match FileReader::try_new(file, None) {
        Ok(reader) => reader,
        Err(ArrowError::IoError(_, e)) if !is_damage(&e) => return Err(e),
        Err(_) => return Ok(None),
    };
    let words = reader.custom_metadata().clone();
    let rows = rows(reader.get_mut())?;
    Ok(rows.map(|rows| (words, rows)))
}

/// The sum of what the record batches say of themselves; `None` if one is damaged.
fn rows(file: &mut (impl Read + Seek)) -> io::Result<Option<u64>> {
    let mut end = [0; 10];
    file.seek(SeekFrom::End(-10))?;
    file.read_exact(&mut end)?;
    let Ok(len) = read_footer_length(end) else { return Ok(None) };
    let mut footer = vec![0; len];
    file.seek(SeekFrom::End(-10 - i64::try_from(len).unwrap_or(i64::MAX - 10)))?;
    file.read_exact(&mut footer)?;
    let Ok(footer) = root_as_footer(&footer) else { return Ok(None) };
    let mut rows = 0;
    for block in footer.recordBatches().into_iter().flatten() {
        let (Ok(start), Ok(len)) = (u64::try_from(block.offset()), usize::try_from(block.metaDataLength()))
        else {
            return Ok(None);
        };
        // Four bytes say that a message follows, four its length.
        let mut message = vec![0; len];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut message)?;
        let batch = message.get(8..).and_then(|message| root_as_message(message).ok());
        let length = batch.and_then(|message| message.header_as_record_batch()).map(|batch| batch.length());
        let Some(length) = length.and_then(|length| u64::try_from(length).ok()) else { return Ok(None) };
        rows += length;
    }
    Ok(Some(rows))
}

/// Whether reading failed for what the file holds: it is too short for what it says.
fn is_damage(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput)
}

/// What failed while a file was written.
pub(crate) fn error(path: &Path, cause: ArrowError) -> TaskError {
    match cause {
        ArrowError::IoError(_, e) => failed("write", path.display(), e),
        cause => {
            TaskError::new(Class::Fatal, format!("cannot encode rows for {}", path.display())).because(cause)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_strict_and_have_defaults() {
        let config: ArrowConfig = serde_saphyr::from_str("{path: ./lake, codec: none}").unwrap();
        assert_eq!((config.codec, config.rotate), (Codec::None, Rotate::default()));
        for bad in ["{}", "{path: a, codec: snappy}", "{path: a, row_group: {rows: 1}}"] {
            assert!(serde_saphyr::from_str::<ArrowConfig>(bad).is_err(), "{bad} was taken");
        }
    }
}

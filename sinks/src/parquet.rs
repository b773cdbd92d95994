//! Parquet files: settings, and how their rows and footers are written and read.
//!
//! It never names a file and never decides when one ends.

use std::io;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, SchemaRef};
use bytesize::ByteSize;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ARROW_SCHEMA_META_KEY, ArrowWriter, encode_arrow_schema};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_connect::task::{Class, TaskError};

use crate::disk::{FileOut, failed};
use crate::location::Location;
use crate::objects::StoreConfig;
use crate::place::Stored;
use crate::plain;
use crate::rotate::{Rotate, open_partitions_default, positive_bytes, positive_count, positive_rows};
use crate::writer::Words;

/// The end of a file's name.
pub(crate) const EXTENSION: &str = "parquet";

/// What the encoders of one column hold before its first row, in bytes: mostly the table of its dictionary.
const COLUMN_ENCODER_BYTES: usize = 80 * 1024;

/// What the open files of a sink together gather of rows before they encode them, in bytes: a column's dictionary stays in the
/// processor's cache for so many rows, and not only for those of one slice.
const GATHER_BYTES: usize = 4 * 1024 * 1024;

/// Batches are joined as they come up to this size, in bytes: many small ones would hold more than their rows do.
const JOINED_BYTES: usize = 256 * 1024;

/// Rows in a page. For each column there is a page of rows that are not encoded yet and a context of zstd in proportion: with
/// half of what is usual 19 columns in two files take 10 MiB less, in files 0.4 % larger.
const PAGE_ROWS: usize = 10_000;

/// Columns of the envelope whose values rise from row to row or stay: what they differ by is a fraction of a
/// dictionary, and takes no table of what was seen.
const RISING: [&str; 3] = ["queue_offset", "store_timestamp", "born_timestamp"];

/// Rows that wait come to about this part of their size once they are encoded.
const ENCODED_OF_WAITING: usize = 4;

/// Settings of `sink: {parquet: …}`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParquetConfig {
    /// The target: a folder, or `s3://bucket/prefix`.
    pub path: Location,
    /// The object store, for a target that is none of this machine's folders.
    #[serde(default)]
    pub store: Option<StoreConfig>,
    /// How column chunks are compressed: `zstd(1)` to `zstd(22)`, `snappy`, `lz4`, `none`; `zstd(1)` if not said.
    #[serde(default)]
    pub codec: Codec,
    /// Columns that name folders: `$.field`, `$envelope_column` or a property.
    #[serde(default)]
    pub partition: Vec<String>,
    /// Files that are open at a time: the one that was written to longest ago is written out first, and goes on
    /// with a new row group at its next row.
    #[serde(default = "open_partitions_default", deserialize_with = "positive_count")]
    #[schemars(with = "u64")]
    pub open_partitions: usize,
    /// When a row group ends.
    #[serde(default)]
    pub row_group: RowGroup,
    /// When a plan ends.
    #[serde(default)]
    pub rotate: Rotate,
}

/// When a row group ends: at the first of these limits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RowGroup {
    /// Rows in it.
    #[serde(deserialize_with = "positive_rows")]
    #[schemars(with = "u64")]
    pub rows: u64,
    /// What it holds in memory; all open files together hold at most four times this.
    #[serde(deserialize_with = "positive_bytes")]
    #[schemars(with = "String")]
    pub bytes: ByteSize,
}

impl Default for RowGroup {
    fn default() -> Self {
        Self { rows: 250_000, bytes: ByteSize::mib(32) }
    }
}

/// How column chunks are compressed, written `zstd(3)`, `zstd`, `snappy`, `lz4` or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(with = "String")]
#[serde(try_from = "String")]
pub enum Codec {
    /// Zstandard with its level, 1 to 22.
    Zstd(ZstdLevel),
    /// Snappy.
    Snappy,
    /// LZ4 blocks without a frame (`LZ4_RAW`).
    Lz4,
    /// Not compressed.
    None,
}

impl Default for Codec {
    fn default() -> Self {
        // Level 3 writes records of Kafka two fifths slower, and makes files from 1 % smaller to 9 % larger (benches/README.md).
        Self::Zstd(ZstdLevel::default())
    }
}

impl FromStr for Codec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "zstd" => return Ok(Self::default()),
            "snappy" => return Ok(Self::Snappy),
            "lz4" => return Ok(Self::Lz4),
            "none" => return Ok(Self::None),
            _ => {}
        }
        let level = text.strip_prefix("zstd(").and_then(|rest| rest.strip_suffix(')'));
        level
            .and_then(|level| level.trim().parse().ok())
            .and_then(|level| ZstdLevel::try_new(level).ok())
            .map(Self::Zstd)
            .ok_or_else(|| {
                format!("unknown codec {text:?}, expected zstd(1) to zstd(22), zstd, snappy, lz4 or none")
            })
    }
}

impl TryFrom<String> for Codec {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::Zstd(level) => Self::ZSTD(level),
            Codec::Snappy => Self::SNAPPY,
            Codec::Lz4 => Self::LZ4_RAW,
            Codec::None => Self::UNCOMPRESSED,
        }
    }
}

/// What the writers of one sink share.
#[derive(Clone, Debug)]
pub(crate) struct ParquetFormat {
    properties: WriterProperties,
    row_group_bytes: usize,
    /// Held by each open file as well.
    open: Arc<()>,
}

impl ParquetFormat {
    pub(crate) fn new(config: &ParquetConfig) -> Self {
        let rows = usize::try_from(config.row_group.rows).unwrap_or(usize::MAX);
        let properties = WriterProperties::builder()
            .set_compression(config.codec.into())
            .set_dictionary_enabled(true)
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_max_row_group_row_count(Some(rows))
            // Rows are counted by the writer, bytes by us: its own estimate leaves out what the open
            // dictionaries hold.
            .set_max_row_group_bytes(None)
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_created_by(format!("sluice {}", env!("CARGO_PKG_VERSION")))
            .build();
        let row_group_bytes = usize::try_from(config.row_group.bytes.as_u64()).unwrap_or(usize::MAX);
        Self { properties, row_group_bytes, open: Arc::default() }
    }

    /// What all writers of a sink may hold together, in bytes.
    pub(crate) fn memory_max(&self) -> usize {
        self.row_group_bytes.saturating_mul(4)
    }

    pub(crate) fn writer(&self, schema: SchemaRef, out: FileOut) -> Result<ParquetFile, ParquetError> {
        // Views are written as they are, without a copy; what the footer tells readers are plain types, as
        // many can't compare views yet.
        let plain = encode_arrow_schema(&plain::schema(&schema));
        let mut properties = self.properties.clone().into_builder();
        for name in RISING {
            let rises =
                |field: &Field| matches!(field.data_type(), DataType::Int64 | DataType::Timestamp(..));
            if schema.field_with_name(name).is_ok_and(rises) {
                let column = ColumnPath::from(name);
                properties = properties
                    .set_column_dictionary_enabled(column.clone(), false)
                    .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
            }
        }
        let options =
            ArrowWriterOptions::new().with_properties(properties.build()).with_skip_arrow_metadata(true);
        let encoders = schema.flattened_fields().len() * COLUMN_ENCODER_BYTES;
        let mut writer = ArrowWriter::try_new_with_options(out, schema, options)?;
        writer.append_key_value_metadata(KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), plain));
        let (waiting, waiting_bytes) = (Vec::new(), 0);
        let (row_group_bytes, open) = (self.row_group_bytes, Arc::clone(&self.open));
        Ok(ParquetFile { writer, row_group_bytes, encoders, waiting, waiting_bytes, open })
    }
}

/// One file being written.
pub(crate) struct ParquetFile {
    writer: ArrowWriter<FileOut>,
    row_group_bytes: usize,
    /// What the encoders of a row group hold at least, in bytes.
    encoders: usize,
    /// Rows that are not encoded yet.
    waiting: Vec<RecordBatch>,
    waiting_bytes: usize,
    open: Arc<()>,
}

impl ParquetFile {
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        self.wait(plain::compact(batch)?)?;
        if self.waiting_bytes >= self.waiting_max() {
            self.encode()?;
            if self.writer.memory_size() >= self.row_group_bytes {
                self.writer.flush()?;
            }
        }
        Ok(())
    }

    /// How much waits before it is encoded, in bytes. The first rows of a row group wait until they weigh what its encoders
    /// do: with many columns and many open files these would be most of the memory.
    fn waiting_max(&self) -> usize {
        let files = Arc::strong_count(&self.open).saturating_sub(1).max(1);
        let first = if self.writer.in_progress_rows() == 0 { self.encoders } else { 0 };
        (GATHER_BYTES / files).max(first).min(self.row_group_bytes)
    }

    fn wait(&mut self, mut batch: RecordBatch) -> Result<(), ParquetError> {
        let mut bytes = batch.get_array_memory_size();
        while let Some(last) = self.waiting.pop_if(|last| {
            last.num_rows() <= 2 * batch.num_rows() && last.get_array_memory_size() + bytes <= JOINED_BYTES
        }) {
            self.waiting_bytes -= last.get_array_memory_size();
            batch = concat_batches(last.schema_ref(), [&last, &batch])?;
            bytes = batch.get_array_memory_size();
        }
        self.waiting_bytes += bytes;
        self.waiting.push(batch);
        Ok(())
    }

    fn encode(&mut self) -> Result<(), ParquetError> {
        let Some(first) = self.waiting.first() else { return Ok(()) };
        let rows = concat_batches(first.schema_ref(), &self.waiting)?;
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.writer.write(&rows)
    }

    /// What is held for the open row group and before the disk, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.waiting_bytes + self.writer.memory_size() + self.writer.inner().memory()
    }

    /// The file's length if it ended here, about.
    pub(crate) fn encoded(&self) -> u64 {
        let waiting = self.waiting_bytes / ENCODED_OF_WAITING;
        (self.writer.bytes_written() + self.writer.in_progress_size() + waiting) as u64
    }

    /// Ends the row group, and leaves nothing of it in memory.
    pub(crate) fn flush(&mut self) -> Result<(), ParquetError> {
        self.encode()?;
        self.writer.flush()?;
        Ok(self.writer.inner_mut().drain()?)
    }

    /// Writes the footer, and makes the file durable.
    pub(crate) fn finish(mut self, metadata: &[(&str, String)]) -> Result<(), ParquetError> {
        self.encode()?;
        for (key, value) in metadata {
            self.writer.append_key_value_metadata(KeyValue::new((*key).to_owned(), value.clone()));
        }
        // Not `into_inner`: it makes a text of a write that fails, and a full disk could not be told from bad rows.
        self.writer.finish()?;
        Ok(self.writer.inner_mut().finish()?)
    }
}

/// The words in a file's footer by their keys, and the file's rows; `None` if the file is damaged.
pub(crate) fn footer(file: &Stored<'_>) -> io::Result<Option<Words>> {
    Ok(metadata(file)?.map(|metadata| {
        let metadata = metadata.file_metadata();
        let words = metadata.key_value_metadata().into_iter().flatten();
        let words = words.filter_map(|kv| Some((kv.key.clone(), kv.value.clone()?))).collect();
        (words, u64::try_from(metadata.num_rows()).unwrap_or(0))
    }))
}

/// All that a file's footer says; `None` if the file is damaged.
pub(crate) fn metadata(file: &Stored<'_>) -> io::Result<Option<ParquetMetaData>> {
    match ParquetMetaDataReader::new().parse_and_finish(file) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(ParquetError::External(cause)) => match cause.downcast::<io::Error>() {
            Ok(e) if e.kind() != io::ErrorKind::UnexpectedEof => Err(*e),
            _ => Ok(None),
        },
        Err(_) => Ok(None),
    }
}

/// What failed while a file was written.
pub(crate) fn error(path: &Path, cause: ParquetError) -> TaskError {
    let encode = || TaskError::new(Class::Fatal, format!("cannot encode rows for {}", path.display()));
    match cause {
        ParquetError::External(cause) => match cause.downcast::<io::Error>() {
            Ok(e) => failed("write", path.display(), *e),
            Err(cause) => encode().because(cause),
        },
        cause => encode().because(cause),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryViewArray, Int64Array, StringArray};
    use nix::errno::Errno;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use sluice_store::file::RealDisk;
    use sluice_testkit::{Call, FaultyDisk};

    use super::*;

    #[test]
    fn a_write_that_fails_is_told_as_such_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let format = ParquetFormat::new(&serde_saphyr::from_str("{path: ./lake, codec: none}").unwrap());
        // The buffer goes to the disk with another part of the row group or the footer each time.
        for (nth, len) in (240 * 1024..257 * 1024).step_by(512).enumerate() {
            let row: ArrayRef = Arc::new(BinaryViewArray::from_iter_values([vec![7; len]]));
            let batch = RecordBatch::try_from_iter([("row", row)]).unwrap();
            let disk = FaultyDisk::new();
            disk.fail(Call::Write, 1, Errno::ENOSPC);
            let path = folder.path().join(nth.to_string());
            let out = FileOut::new(Arc::new(disk), path.clone());
            let mut file = format.writer(batch.schema(), out).unwrap();
            let written = file.write(&batch).and_then(|()| file.finish(&[]));
            let error = error(&path, written.unwrap_err());
            assert_eq!(error.class, Class::Retry, "{len} bytes: {error}");
        }
    }

    #[test]
    fn rows_wait_together_and_keep_no_more_than_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let format = ParquetFormat::new(&serde_saphyr::from_str("{path: ./lake, codec: none}").unwrap());
        let bodies =
            BinaryViewArray::from_iter_values((0_u32..20_000).map(|n| [&n.to_be_bytes()[..]; 25].concat()));
        let all = RecordBatch::try_from_iter([("body", Arc::new(bodies) as ArrayRef)]).unwrap();
        let paths = ["one", "two"].map(|name| folder.path().join(name));
        let open = |path: &std::path::PathBuf| {
            format.writer(all.schema(), FileOut::new(Arc::new(RealDisk), path.clone())).unwrap()
        };
        let (mut one, two) = (open(&paths[0]), open(&paths[1]));
        for start in (0..2_000).step_by(20) {
            one.write(&all.slice(start, 20)).unwrap();
        }
        // Of 2 MB in the slices' buffer 2,000 rows of 100 bytes and their views are kept, in few batches.
        assert!((200_000..600_000).contains(&one.waiting_bytes), "{} bytes wait", one.waiting_bytes);
        assert!(one.memory() >= one.waiting_bytes && one.waiting.len() < 20, "{} batches", one.waiting.len());
        // What waits is shared by the open files, so that with one of them closed twice as much may.
        let shared = one.waiting_max();
        two.finish(&[]).unwrap();
        assert_eq!((shared, one.waiting_max()), (GATHER_BYTES / 2, GATHER_BYTES));
        one.write(&all.slice(2_000, 18_000)).unwrap();
        one.finish(&[]).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&paths[0]).unwrap()).unwrap();
        let read: Vec<_> = reader.with_batch_size(20_000).build().unwrap().map(Result::unwrap).collect();
        let cast = arrow::compute::cast(all.column(0), read[0].column(0).data_type()).unwrap();
        assert_eq!((read[0].num_rows(), read[0].column(0)), (20_000, &cast));
    }

    #[test]
    fn columns_that_rise_need_no_dictionary_and_a_text_of_their_name_is_a_text() {
        let numbers = Int64Array::from_iter_values(0..10_000);
        let texts = StringArray::from_iter_values((0..10_000).map(|n| n.to_string()));
        let format = ParquetFormat::new(&serde_saphyr::from_str("{path: ./lake, codec: none}").unwrap());
        let mut sizes = Vec::new();
        for column in [Arc::new(numbers) as ArrayRef, Arc::new(texts)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("one.parquet");
            let batch = RecordBatch::try_from_iter([("queue_offset", column)]).unwrap();
            let out = FileOut::new(Arc::new(RealDisk), path.clone());
            let mut file = format.writer(batch.schema(), out).unwrap();
            file.write(&batch).unwrap();
            file.finish(&[]).unwrap();
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
            sizes.push(reader.metadata().row_group(0).column(0).compressed_size());
            let read: Vec<_> = reader.with_batch_size(10_000).build().unwrap().map(Result::unwrap).collect();
            assert_eq!(read[0].column(0), batch.column(0));
        }
        assert!(sizes[0] < 2_000 && sizes[1] > 40_000, "{sizes:?}");
    }

    #[test]
    fn codecs_are_read_with_their_level() {
        let zstd = |level| Codec::Zstd(ZstdLevel::try_new(level).unwrap());
        for (text, codec) in [
            ("zstd", zstd(1)),
            ("zstd(3)", zstd(3)),
            ("zstd(22)", zstd(22)),
            ("snappy", Codec::Snappy),
            ("lz4", Codec::Lz4),
            ("none", Codec::None),
        ] {
            assert_eq!(text.parse(), Ok(codec));
        }
        for bad in ["", "zstd(0)", "zstd(23)", "zstd(", "zstd3", "gzip", "ZSTD"] {
            assert!(bad.parse::<Codec>().unwrap_err().contains("expected zstd(1)"), "{bad} was taken");
        }
    }

    #[test]
    fn settings_are_strict_and_have_defaults() {
        let config: ParquetConfig = serde_saphyr::from_str("{path: ./lake}").unwrap();
        assert_eq!((config.codec, config.row_group, config.rotate), Default::default());
        for bad in
            ["{}", "{path: a, codecs: zstd}", "{path: a, row_group: {rows: 0}}", "{path: a, codec: bz2}"]
        {
            assert!(serde_saphyr::from_str::<ParquetConfig>(bad).is_err(), "{bad} was taken");
        }
    }
}

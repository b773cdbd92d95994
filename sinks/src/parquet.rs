//! Parquet files: settings, how a writer is made of them, and how footers are read. It never names a file.

mod encoding;
mod file;

use std::io;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytesize::ByteSize;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ARROW_SCHEMA_META_KEY, ArrowWriter, encode_arrow_schema};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_connect::task::{Class, TaskError};

pub(crate) use self::file::ParquetFile;
use crate::disk::{FileOut, failed};
use crate::location::Location;
use crate::objects::StoreConfig;
use crate::place::Stored;
use crate::plain;
use crate::rotate::{Rotate, open_partitions_default, positive_bytes, positive_count, positive_rows};
use crate::writer::Words;

/// The end of a file's name.
pub(crate) const EXTENSION: &str = "parquet";

/// Rows in a page. For each column there is a page of rows that are not encoded yet and a context of zstd in proportion: with
/// half of what is usual 19 columns in two files take 10 MiB less, in files 0.4 % larger.
const PAGE_ROWS: usize = 10_000;

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
    row_group_rows: usize,
    row_group_bytes: usize,
    /// Held by each open file as well.
    open: Arc<()>,
}

impl ParquetFormat {
    pub(crate) fn new(config: &ParquetConfig) -> Self {
        let properties = WriterProperties::builder()
            .set_compression(config.codec.into())
            .set_dictionary_enabled(true)
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_created_by(format!("sluice {}", env!("CARGO_PKG_VERSION")))
            .build();
        let row_group_rows = usize::try_from(config.row_group.rows).unwrap_or(usize::MAX);
        let row_group_bytes = usize::try_from(config.row_group.bytes.as_u64()).unwrap_or(usize::MAX);
        Self { properties, row_group_rows, row_group_bytes, open: Arc::default() }
    }

    /// What all writers of a sink may hold together, in bytes.
    pub(crate) fn memory_max(&self) -> usize {
        self.row_group_bytes.saturating_mul(4)
    }

    pub(crate) fn writer(&self, schema: SchemaRef, out: FileOut) -> Result<ParquetFile, ParquetError> {
        // Views are written as they are, without a copy; what the footer tells readers are plain types, as
        // many can't compare views yet.
        let plain = encode_arrow_schema(&plain::schema(&schema));
        let options =
            ArrowWriterOptions::new().with_properties(self.properties.clone()).with_skip_arrow_metadata(true);
        let mut writer = ArrowWriter::try_new_with_options(out, schema.clone(), options)?;
        writer.append_key_value_metadata(KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), plain));
        ParquetFile::new(writer, schema, (self.row_group_rows, self.row_group_bytes), Arc::clone(&self.open))
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
    use super::*;

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

//! NDJSON and CSV files: settings, and how their rows are written and proved.
//!
//! Such a file has no footer that could say to which plan it belongs. Its plan says instead what it holds: the length and
//! the CRC-32 of its text before compression, which are known when the plan is made. So a plan whose rows are read again
//! must come out the same to the byte, and `sluice audit` reads files whole.

mod fit;

use std::io::{self, BufReader, Read, Write};

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::writer::{LineDelimited, WriterBuilder as JsonWriterBuilder};
use arrow_csv::WriterBuilder as CsvWriterBuilder;
use flate2::Compression as GzipLevel;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_connect::plan::TextSum;
use zstd::stream::read::Decoder as ZstdDecoder;
use zstd::stream::write::Encoder as ZstdEncoder;

use crate::disk::FileOut;
use crate::location::Location;
use crate::objects::StoreConfig;
use crate::place::{Place, Stored};
use crate::plain;
use crate::rotate::{Rotate, open_partitions_default, positive_count};

pub(crate) use fit::unfit;

/// Settings of `sink: {file: …}`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// The target: a folder, or `s3://bucket/prefix`.
    pub path: Location,
    /// The object store, for a target that is none of this machine's folders.
    #[serde(default)]
    pub store: Option<StoreConfig>,
    /// How rows are written.
    pub format: TextKind,
    /// How files are compressed.
    #[serde(default)]
    pub compression: Compression,
    /// What stands between the values of CSV: one character of ASCII; a comma if not said.
    #[serde(default)]
    pub delimiter: Option<char>,
    /// What stands for null in CSV: nothing if not said, and then an empty text looks like null.
    #[serde(default)]
    pub nulls: Option<String>,
    /// Columns that name folders: `$.field`, `$envelope_column` or a property.
    #[serde(default)]
    pub partition: Vec<String>,
    /// Files that are open at a time: what is held of the one that was written to longest ago is written out first.
    #[serde(default = "open_partitions_default", deserialize_with = "positive_count")]
    #[schemars(with = "u64")]
    pub open_partitions: usize,
    /// When a plan ends.
    #[serde(default)]
    pub rotate: Rotate,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextKind {
    /// One JSON object a line, nulls written.
    Ndjson,
    /// One record a line below a line with the names, quoted where needed.
    Csv,
}

impl TextKind {
    /// For a person.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ndjson => "NDJSON",
            Self::Csv => "CSV",
        }
    }
}

/// How files are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip; the name ends in `.gz`.
    Gzip,
    /// Zstandard; the name ends in `.zst`.
    Zstd,
}

/// Of Zstandard, as of Parquet files.
const ZSTD_LEVEL: i32 = 3;
/// What an encoder holds, in bytes, about: windows, tables and what is not written yet.
const GZIP_MEMORY: usize = 300 * 1024;
const ZSTD_MEMORY: usize = 4 * 1024 * 1024;
/// A file that is proved is read in pieces of so many bytes: a request each, of an object store.
const READ_BYTES: usize = 4 * 1024 * 1024;
/// Longest text for null, in bytes.
const NULL_LEN_MAX: usize = 64;

impl FileConfig {
    /// What is wrong with the settings, each by its path below `file`. `output` are the columns, where they are known;
    /// `makes_columns` says whether rows have others than the envelope's.
    pub(crate) fn problems(
        &self,
        output: Option<&Schema>,
        makes_columns: bool,
    ) -> Vec<(Vec<String>, String)> {
        let at = |key: &str| vec![key.to_owned()];
        let mut found = Vec::new();
        if self.format == TextKind::Ndjson {
            let of_csv = [("delimiter", self.delimiter.is_some()), ("nulls", self.nulls.is_some())];
            for (key, _) in of_csv.into_iter().filter(|(_, is_said)| *is_said) {
                found.push((at(key), "goes with `format: csv`".to_owned()));
            }
        }
        if let Some(delimiter) = self.delimiter
            && (!delimiter.is_ascii()
                || delimiter.is_ascii_control() && delimiter != '\t'
                || delimiter == '"')
        {
            let problem =
                format!("{delimiter:?} is no delimiter: expected one character of ASCII, as in \";\"");
            found.push((at("delimiter"), problem));
        }
        if let Some(null) = &self.nulls
            && (null.len() > NULL_LEN_MAX || null.chars().any(|c| c.is_control() || c == '"'))
        {
            let problem = format!("expected at most {NULL_LEN_MAX} bytes on one line, without quotes");
            found.push((at("nulls"), problem));
        }
        let format = TextFormat::new(self);
        if let Some(output) = output
            && let Err(problem) = format.check(output)
        {
            found.push((at("format"), problem));
        } else if self.format == TextKind::Csv && !makes_columns {
            let problem = "the envelope of messages has `properties`, a map, which CSV can not hold: add `decode`, \
                           or write NDJSON";
            found.push((at("format"), problem.to_owned()));
        }
        found
    }
}

/// What the writers of one sink share.
#[derive(Clone, Debug)]
pub(crate) struct TextFormat {
    kind: TextKind,
    compression: Compression,
    delimiter: u8,
    null: String,
}

/// The ends of files' names.
pub(crate) const EXTENSIONS: [&str; 6] = ["ndjson", "ndjson.gz", "ndjson.zst", "csv", "csv.gz", "csv.zst"];

/// Whether a file of this name is one of text.
pub(crate) fn is_text(key: &str) -> bool {
    EXTENSIONS.iter().any(|end| key.strip_suffix(end).is_some_and(|rest| rest.ends_with('.')))
}

impl TextFormat {
    /// What all writers of a sink may hold together, in bytes.
    pub(crate) const MEMORY_MAX: usize = 64 * 1024 * 1024;

    pub(crate) fn new(config: &FileConfig) -> Self {
        Self {
            kind: config.format,
            compression: config.compression,
            delimiter: config.delimiter.and_then(|c| u8::try_from(c).ok()).unwrap_or(b','),
            null: config.nulls.clone().unwrap_or_default(),
        }
    }

    pub(crate) fn extension(&self) -> &'static str {
        match (self.kind, self.compression) {
            (TextKind::Ndjson, Compression::None) => "ndjson",
            (TextKind::Ndjson, Compression::Gzip) => "ndjson.gz",
            (TextKind::Ndjson, Compression::Zstd) => "ndjson.zst",
            (TextKind::Csv, Compression::None) => "csv",
            (TextKind::Csv, Compression::Gzip) => "csv.gz",
            (TextKind::Csv, Compression::Zstd) => "csv.zst",
        }
    }

    /// Why columns can not be written, if so.
    pub(crate) fn check(&self, columns: &Schema) -> Result<(), String> {
        for field in columns.fields() {
            if self.kind == TextKind::Csv && field.data_type().is_nested() {
                return Err(format!(
                    "CSV can not hold column `{}`, which is a {}: take it apart or leave it out with a step \
                     `select: {{flatten: […], drop: […]}}`, or write NDJSON",
                    field.name(),
                    field.data_type()
                ));
            }
            if let Some(bytes) = bytes_inside(field.data_type(), true) {
                return Err(format!(
                    "column `{}` holds bytes ({bytes}), which are no text: leave it out with a step \
                     `select: {{drop: […]}}`, or write Parquet",
                    field.name()
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn writer(&self, schema: &Schema, out: FileOut) -> TextFile {
        let format = self.clone();
        TextFile {
            format,
            schema: plain::schema(schema),
            coder: Coder::Idle(out),
            sum: crc32fast::Hasher::new(),
            bytes: 0,
        }
    }
}

/// The type of bytes inside of a column that can not be looked at as text.
fn bytes_inside(data_type: &DataType, is_outside: bool) -> Option<&DataType> {
    let inside = |field: &'_ FieldRef| -> bool { bytes_inside(field.data_type(), false).is_some() };
    match data_type {
        DataType::Binary | DataType::BinaryView if is_outside => None,
        DataType::Binary | DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => {
            Some(data_type)
        }
        DataType::Dictionary(_, values) => bytes_inside(values, false),
        DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => {
            inside(item).then_some(data_type)
        }
        DataType::Struct(fields) => fields.iter().any(inside).then_some(data_type),
        _ => None,
    }
}

/// The columns with text for bytes.
fn as_text(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let (mut fields, mut columns): (Vec<FieldRef>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        if *field.data_type() != DataType::Binary {
            fields.push(field.clone());
            columns.push(column.clone());
            continue;
        }
        let text = cast(column, &DataType::Utf8)?;
        if text.null_count() != column.null_count() {
            let message = format!("column {} holds bytes that are no UTF-8", field.name());
            return Err(ArrowError::CastError(message));
        }
        fields.push(Field::new(field.name(), DataType::Utf8, field.is_nullable()).into());
        columns.push(text);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Schema::new(fields).into(), columns, &options)
}

/// One file being written.
pub(crate) struct TextFile {
    format: TextFormat,
    schema: SchemaRef,
    coder: Coder,
    sum: crc32fast::Hasher,
    /// Of text.
    bytes: u64,
}

impl TextFile {
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let rows = as_text(&plain::batch(batch, &self.schema)?)?;
        let mut text = Vec::new();
        match self.format.kind {
            TextKind::Ndjson => {
                let builder = JsonWriterBuilder::new().with_explicit_nulls(true);
                let mut writer = builder.build::<_, LineDelimited>(&mut text);
                writer.write(&rows)?;
                writer.finish()?;
            }
            TextKind::Csv => {
                let builder = CsvWriterBuilder::new().with_header(self.bytes == 0);
                let builder =
                    builder.with_delimiter(self.format.delimiter).with_null(self.format.null.clone());
                builder.build(&mut text).write(&rows)?;
            }
        }
        self.sum.update(&text);
        self.bytes += text.len() as u64;
        Ok(self.coder.write(self.format.compression, &text)?)
    }

    /// What it holds so far.
    pub(crate) fn text(&self) -> TextSum {
        TextSum { bytes: self.bytes, crc32: self.sum.clone().finalize() }
    }

    /// What is held before the disk, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.coder.memory()
    }

    /// The file's length if it ended here, about.
    pub(crate) fn encoded(&self) -> u64 {
        self.coder.encoded()
    }

    /// Leaves nothing of it in memory: what is compressed goes on with a new frame.
    pub(crate) fn flush(&mut self) -> Result<(), ArrowError> {
        Ok(self.coder.end()?.drain()?)
    }

    /// Makes the file durable.
    pub(crate) fn finish(mut self) -> Result<(), ArrowError> {
        Ok(self.coder.end()?.finish()?)
    }
}

/// Where text goes.
enum Coder {
    /// Between two frames, or not compressed.
    Idle(FileOut),
    Gzip(GzEncoder<FileOut>),
    Zstd(ZstdEncoder<'static, FileOut>),
    /// A frame could not be begun or ended.
    Broken,
}

fn broken() -> io::Error {
    io::Error::other("the file could not be written before")
}

impl Coder {
    fn write(&mut self, compression: Compression, text: &[u8]) -> io::Result<()> {
        if matches!(self, Self::Idle(_)) && compression != Compression::None {
            let Self::Idle(out) = std::mem::replace(self, Self::Broken) else { return Err(broken()) };
            *self = match compression {
                Compression::Gzip => Self::Gzip(GzEncoder::new(out, GzipLevel::default())),
                _ => Self::Zstd(ZstdEncoder::new(out, ZSTD_LEVEL)?),
            };
        }
        match self {
            Self::Idle(out) => out.write_all(text),
            Self::Gzip(encoder) => encoder.write_all(text),
            Self::Zstd(encoder) => encoder.write_all(text),
            Self::Broken => Err(broken()),
        }
    }

    /// Ends the frame, if one has begun.
    fn end(&mut self) -> io::Result<&mut FileOut> {
        let out = match std::mem::replace(self, Self::Broken) {
            Self::Idle(out) => out,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
            Self::Broken => return Err(broken()),
        };
        *self = Self::Idle(out);
        match self {
            Self::Idle(out) => Ok(out),
            _ => Err(broken()),
        }
    }

    fn memory(&self) -> usize {
        match self {
            Self::Idle(out) => out.memory(),
            Self::Gzip(encoder) => GZIP_MEMORY + encoder.get_ref().memory(),
            Self::Zstd(encoder) => ZSTD_MEMORY + encoder.get_ref().memory(),
            Self::Broken => 0,
        }
    }

    fn encoded(&self) -> u64 {
        match self {
            Self::Idle(out) => out.len(),
            Self::Gzip(encoder) => encoder.get_ref().len(),
            Self::Zstd(encoder) => encoder.get_ref().len(),
            Self::Broken => 0,
        }
    }
}

/// Whether a file holds this text; `None` if it is not there. Reads it whole, unless it is found to be another one.
pub(crate) fn holds(place: &dyn Place, key: &str, expected: TextSum) -> io::Result<Option<bool>> {
    let Some(stored) = Stored::open(place, key)? else { return Ok(None) };
    let mut source = Watched { stored, failed: false };
    let found = match key.rsplit_once('.').map(|(_, end)| end) {
        Some("gz") => sum(MultiGzDecoder::new(BufReader::with_capacity(READ_BYTES, &mut source)), expected),
        Some("zst") => {
            let reader = BufReader::with_capacity(READ_BYTES, &mut source);
            ZstdDecoder::with_buffer(reader).and_then(|decoder| sum(decoder, expected))
        }
        _ => sum(BufReader::with_capacity(READ_BYTES, &mut source), expected),
    };
    match found {
        Ok(found) => Ok(Some(found == Some(expected))),
        Err(e) if source.failed => Err(e),
        // It can not be decompressed.
        Err(_) => Ok(Some(false)),
    }
}

/// What a reader gives, `None` as soon as it is more than expected.
fn sum(mut reader: impl Read, expected: TextSum) -> io::Result<Option<TextSum>> {
    let (mut buffer, mut bytes, mut sum) = (vec![0; 64 * 1024], 0, crc32fast::Hasher::new());
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(Some(TextSum { bytes, crc32: sum.finalize() })),
            Ok(len) => {
                bytes += len as u64;
                if bytes > expected.bytes {
                    return Ok(None);
                }
                sum.update(buffer.get(..len).unwrap_or_default());
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Tells failures of the place from damage of the file.
struct Watched<'a> {
    stored: Stored<'a>,
    failed: bool,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stored.read(buffer);
        self.failed |= read.is_err();
        read
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, BinaryViewArray, Int64Array, StringViewArray};
    use proptest::prelude::*;
    use sluice_store::file::RealDisk;

    use super::*;
    use crate::place::Folder;

    fn config(text: &str) -> FileConfig {
        serde_saphyr::from_str(&format!("{{path: ./lake, {text}}}")).unwrap()
    }

    fn rows(values: &[Option<&str>]) -> RecordBatch {
        let texts: StringViewArray = values.iter().copied().collect();
        let bytes: BinaryViewArray = values.iter().map(|text| text.map(str::as_bytes)).collect();
        let ids = Int64Array::from_iter_values(0..values.len() as i64);
        let columns: Vec<(&str, ArrayRef)> =
            vec![("id", Arc::new(ids)), ("text", Arc::new(texts)), ("bytes", Arc::new(bytes))];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
    }

    /// The text of a file of these batches, in which each is a frame of its own, and what proves it.
    fn written(config: &FileConfig, batches: &[RecordBatch]) -> (Vec<u8>, TextSum) {
        let folder = tempfile::tempdir().unwrap();
        let format = TextFormat::new(config);
        let name = format!("late.a-0-00000000000000000000-0000.{}", format.extension());
        let path = folder.path().join(&name);
        let mut file = format.writer(&batches[0].schema(), FileOut::new(Arc::new(RealDisk), path.clone()));
        for batch in batches {
            file.write(batch).unwrap();
            file.flush().unwrap();
        }
        let sum = file.text();
        file.finish().unwrap();
        let place = Folder::new(Arc::new(RealDisk), folder.path().to_owned());
        assert_eq!(holds(&place, &name, sum).unwrap(), Some(true));
        assert_eq!(holds(&place, &name, TextSum { bytes: sum.bytes + 1, ..sum }).unwrap(), Some(false));
        assert_eq!(holds(&place, &name, TextSum { crc32: !sum.crc32, ..sum }).unwrap(), Some(false));
        assert_eq!(holds(&place, "other.csv", sum).unwrap(), None);
        let stored = std::fs::read(&path).unwrap();
        std::fs::write(&path, &stored[..stored.len() - 3]).unwrap();
        assert_eq!(holds(&place, &name, sum).unwrap(), Some(false));
        let mut text = Vec::new();
        match config.compression {
            Compression::None => text.clone_from(&stored),
            Compression::Gzip => drop(MultiGzDecoder::new(&stored[..]).read_to_end(&mut text).unwrap()),
            Compression::Zstd => drop(ZstdDecoder::new(&stored[..]).unwrap().read_to_end(&mut text).unwrap()),
        }
        (text, sum)
    }

    #[test]
    fn rows_are_lines() {
        let batches = [rows(&[Some("a,b"), None]), rows(&[Some("say \"é\"\n")])];
        let ndjson = "{\"id\":0,\"text\":\"a,b\",\"bytes\":\"a,b\"}\n{\"id\":1,\"text\":null,\"bytes\":null}\n\
                      {\"id\":0,\"text\":\"say \\\"é\\\"\\n\",\"bytes\":\"say \\\"é\\\"\\n\"}\n";
        for compression in ["none", "gzip", "zstd"] {
            let config = config(&format!("format: ndjson, compression: {compression}"));
            assert_eq!(str::from_utf8(&written(&config, &batches).0).unwrap(), ndjson);
        }
        let csv = "id;text;bytes\n0;a,b;a,b\n1;NULL;NULL\n0;\"say \"\"é\"\"\n\";\"say \"\"é\"\"\n\"\n";
        let config = config("format: csv, delimiter: ';', nulls: 'NULL'");
        assert_eq!(str::from_utf8(&written(&config, &batches).0).unwrap(), csv);
    }

    #[test]
    fn the_sum_is_that_of_the_text_however_it_is_cut_and_compressed() {
        let all = ["a", "", "\u{1f600}", "x\ty"].map(Some);
        let whole = written(&config("format: ndjson"), &[rows(&all)]).1;
        for compression in ["none", "gzip", "zstd"] {
            let batch = rows(&all);
            let parts: Vec<RecordBatch> = (0..4).map(|row| batch.slice(row, 1)).collect();
            let config = config(&format!("format: ndjson, compression: {compression}"));
            assert_eq!(written(&config, &parts).1, whole);
        }
    }

    #[test]
    fn settings_are_strict() {
        let told = |text: &str| config(text).problems(None, true).into_iter().map(|(path, _)| path.concat());
        assert_eq!(told("format: ndjson").collect::<Vec<_>>(), [""; 0]);
        assert_eq!(
            told("format: ndjson, nulls: x, delimiter: ;").collect::<Vec<_>>(),
            ["delimiter", "nulls"]
        );
        assert_eq!(
            told("format: csv, nulls: '\"', delimiter: é").collect::<Vec<_>>(),
            ["delimiter", "nulls"]
        );
        assert_eq!(told("format: csv, delimiter: \"\\t\"").collect::<Vec<_>>(), [""; 0]);
        let nested = Field::new_list("list", Field::new_list_field(DataType::Binary, true), true);
        let nested = Schema::new(vec![nested]);
        assert!(config("format: csv").problems(Some(&nested), true)[0].1.contains("flatten"));
        assert!(config("format: ndjson").problems(Some(&nested), true)[0].1.contains("no text"));
        assert!(config("format: csv").problems(None, false)[0].1.contains("decode"));
        for bad in ["{path: a}", "{path: a, format: xml}", "{path: a, format: csv, codec: zstd}"] {
            assert!(serde_saphyr::from_str::<FileConfig>(bad).is_err(), "{bad} was taken");
        }
    }

    proptest! {
        #[test]
        fn csv_comes_back(values in proptest::collection::vec("[a,\"\r\n\u{e9} ]{1,6}", 1..6)) {
            let values: Vec<Option<&str>> = values.iter().map(|text| Some(text.as_str())).collect();
            let (text, _) = written(&config("format: csv, compression: zstd"), &[rows(&values)]);
            let schema = Schema::new(vec![
                Field::new("id", DataType::Int64, true),
                Field::new("text", DataType::Utf8, true),
                Field::new("bytes", DataType::Utf8, true),
            ]);
            let reader = arrow_csv::ReaderBuilder::new(schema.into()).with_header(true);
            let read = reader.build_buffered(&text[..]).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
            let read: Vec<Option<&str>> = read.iter().flat_map(|rows| rows.column(1).as_string::<i32>()).collect();
            prop_assert_eq!(read, values);
        }
    }
}

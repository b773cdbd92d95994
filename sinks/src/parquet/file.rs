//! One file being written: rows wait, are encoded column by column, and end in row groups.
//!
//! It never decides when the file ends.

use std::io;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::writer::SerializedFileWriter;

use super::encoding;
use crate::disk::FileOut;
use crate::plain;

/// What the encoders of one column hold before its first row, in bytes: mostly the table of its dictionary.
const COLUMN_ENCODER_BYTES: usize = 80 * 1024;

/// What the open files of a sink together gather of rows before they encode them, in bytes: a column's dictionary stays in the
/// processor's cache for so many rows, and not only for those of one slice.
const GATHER_BYTES: usize = 8 * 1024 * 1024;

/// Batches are joined up to so many bytes a column, as they come: many small ones would hold more than their rows do.
const COLUMN_JOINED_BYTES: usize = 16 * 1024;

/// Rows that wait come to about this part of their size once they are encoded.
const ENCODED_OF_WAITING: usize = 4;

/// One file being written.
pub(crate) struct ParquetFile {
    writer: SerializedFileWriter<FileOut>,
    schema: SchemaRef,
    row_group_rows: usize,
    row_group_bytes: usize,
    /// What the encoders of a row group hold at least, in bytes.
    encoders: usize,
    /// Batches that wait are joined up to this size, in bytes.
    joined: usize,
    /// The encoders of the row group, one for each leaf column; none before its first rows.
    columns: Vec<ArrowColumnWriter>,
    /// Rows in them.
    rows: usize,
    /// Rows that are not encoded yet.
    waiting: Vec<RecordBatch>,
    waiting_bytes: usize,
    /// Held by each open file of the sink, and by the sink.
    open: Arc<()>,
}

impl ParquetFile {
    /// A file whose row groups end at so many rows or bytes.
    pub(super) fn new(
        writer: ArrowWriter<FileOut>,
        schema: SchemaRef,
        (row_group_rows, row_group_bytes): (usize, usize),
        open: Arc<()>,
    ) -> Result<Self, ParquetError> {
        let (writer, _) = writer.into_serialized_writer()?;
        let columns = schema.flattened_fields().len();
        Ok(Self {
            writer,
            schema,
            row_group_rows,
            row_group_bytes,
            encoders: columns * COLUMN_ENCODER_BYTES,
            joined: columns * COLUMN_JOINED_BYTES,
            columns: Vec::new(),
            rows: 0,
            waiting: Vec::new(),
            waiting_bytes: 0,
            open,
        })
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.wait(plain::compact(batch)?)?;
        if self.waiting_bytes >= self.waiting_max() {
            self.encode()?;
            // The crate's own estimate for its limit leaves out what the open dictionaries hold.
            if self.encoding() >= self.row_group_bytes {
                self.end_row_group()?;
            }
        }
        Ok(())
    }

    /// How much waits before it is encoded, in bytes. The first rows of a row group wait until they weigh what its encoders
    /// do: with many columns and many open files these would be most of the memory.
    fn waiting_max(&self) -> usize {
        let files = Arc::strong_count(&self.open).saturating_sub(1).max(1);
        let first = if self.rows == 0 { self.encoders } else { 0 };
        (GATHER_BYTES / files).max(first).min(self.row_group_bytes)
    }

    fn wait(&mut self, mut batch: RecordBatch) -> Result<(), ParquetError> {
        let mut bytes = batch.get_array_memory_size();
        while let Some(last) = self.waiting.pop_if(|last| {
            last.num_rows() <= 2 * batch.num_rows() && last.get_array_memory_size() + bytes <= self.joined
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
        self.waiting_bytes = 0;
        let mut batches = std::mem::take(&mut self.waiting);
        while !batches.is_empty() {
            let later = split_off(&mut batches, self.row_group_rows.saturating_sub(self.rows));
            self.encode_columns(&batches)?;
            if self.rows >= self.row_group_rows {
                self.end_row_group()?;
            }
            batches = later;
        }
        Ok(())
    }

    /// The encoders of a row group that begins with these rows.
    fn encoders(&self, batches: &[RecordBatch]) -> Result<Vec<ArrowColumnWriter>, ParquetError> {
        let properties = Arc::new(encoding::suited(self.writer.properties(), batches)?);
        // Encoders have the properties of a file's writer, and those of this file are settled: another stands in.
        let schema = self.writer.schema_descr().root_schema_ptr();
        let stand_in = SerializedFileWriter::new(io::sink(), schema, properties)?;
        let factory = ArrowRowGroupWriterFactory::new(&stand_in, self.schema.clone());
        factory.create_column_writers(self.writer.flushed_row_groups().len())
    }

    /// All rows of one column before those of the next.
    fn encode_columns(&mut self, batches: &[RecordBatch]) -> Result<(), ParquetError> {
        if self.columns.is_empty() {
            self.columns = self.encoders(batches)?;
        }
        let mut columns = self.columns.iter_mut();
        for (at, field) in self.schema.fields().iter().enumerate() {
            let parts = batches.iter().map(|batch| compute_leaves(field, batch.column(at)));
            let mut parts = parts.map(|leaves| leaves.map(Vec::into_iter)).collect::<Result<Vec<_>, _>>()?;
            // A nested column has several leaves, in each batch as many.
            while parts.iter().any(|leaves| leaves.len() > 0) {
                let column = columns.next();
                let column =
                    column.ok_or_else(|| ParquetError::General(format!("{field} has leaves too many")))?;
                for leaf in parts.iter_mut().filter_map(Iterator::next) {
                    column.write(&leaf)?;
                }
            }
        }
        self.rows += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        Ok(())
    }

    fn end_row_group(&mut self) -> Result<(), ParquetError> {
        if self.rows == 0 {
            return Ok(());
        }
        self.rows = 0;
        let mut row_group = self.writer.next_row_group()?;
        for column in self.columns.drain(..) {
            column.close()?.append_to_row_group(&mut row_group)?;
        }
        row_group.close()?;
        Ok(())
    }

    /// What the encoders hold, in bytes.
    fn encoding(&self) -> usize {
        self.columns.iter().map(ArrowColumnWriter::memory_size).sum()
    }

    /// What is held for the open row group and before the disk, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.waiting_bytes + self.encoding() + self.writer.inner().memory()
    }

    /// The file's length if it ended here, about.
    pub(crate) fn encoded(&self) -> u64 {
        let encoded: usize = self.columns.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum();
        (self.writer.bytes_written() + encoded + self.waiting_bytes / ENCODED_OF_WAITING) as u64
    }

    /// Ends the row group, and leaves nothing of it in memory.
    pub(crate) fn flush(&mut self) -> Result<(), ParquetError> {
        self.encode()?;
        self.end_row_group()?;
        Ok(self.writer.inner_mut().drain()?)
    }

    /// Writes the footer, and makes the file durable.
    pub(crate) fn finish(mut self, metadata: &[(&str, String)]) -> Result<(), ParquetError> {
        self.encode()?;
        self.end_row_group()?;
        for (key, value) in metadata {
            self.writer.append_key_value_metadata(KeyValue::new((*key).to_owned(), value.clone()));
        }
        // Not `into_inner`: it makes a text of a write that fails, and a full disk could not be told from bad rows.
        self.writer.finish()?;
        Ok(self.writer.inner_mut().finish()?)
    }
}

/// Leaves the first rows, so many at most, and gives those behind them.
fn split_off(batches: &mut Vec<RecordBatch>, rows_max: usize) -> Vec<RecordBatch> {
    let mut room = rows_max;
    let Some(at) = batches.iter().position(|batch| match room.checked_sub(batch.num_rows()) {
        Some(left) => {
            room = left;
            false
        }
        None => true,
    }) else {
        return Vec::new();
    };
    let mut later = batches.split_off(at);
    if let Some(cut) = later.first_mut().filter(|_| room > 0) {
        batches.push(cut.slice(0, room));
        *cut = cut.slice(room, cut.num_rows() - room);
    }
    later
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use arrow::array::{ArrayRef, BinaryViewArray, Int32Array, Int64Array, StringArray};
    use nix::errno::Errno;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::basic::Encoding;
    use sluice_connect::task::Class;
    use sluice_store::file::RealDisk;
    use sluice_testkit::{Call, FaultyDisk};

    use super::*;
    use crate::parquet::{ParquetFormat, error};

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
        assert!(one.memory() >= one.waiting_bytes && one.waiting.len() < 40, "{} batches", one.waiting.len());
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
    fn numbers_that_rose_at_first_may_be_any_later() {
        let folder = tempfile::tempdir().unwrap();
        let format = ParquetFormat::new(&serde_saphyr::from_str("{path: ./lake, codec: none}").unwrap());
        let later = [i64::MIN, i64::MAX, 0, -1, i64::MAX, i64::MIN].into_iter().cycle().take(1_000);
        let long: Int64Array = (0..300_000).chain(later).map(Some).collect();
        let narrow = |n: i64| i32::try_from(n).unwrap_or(if n < 0 { i32::MIN } else { i32::MAX });
        let short: Int32Array = long.iter().map(|n| n.map(narrow)).collect();
        let columns = [("long", Arc::new(long) as ArrayRef), ("short", Arc::new(short) as ArrayRef)];
        let all = RecordBatch::try_from_iter(columns).unwrap();
        let path = folder.path().join("one.parquet");
        let mut file = format.writer(all.schema(), FileOut::new(Arc::new(RealDisk), path.clone())).unwrap();
        file.write(&all).unwrap();
        file.finish(&[]).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
        let encodings: Vec<_> = reader
            .metadata()
            .row_groups()
            .iter()
            .flat_map(|group| {
                group
                    .columns()
                    .iter()
                    .map(|column| column.encodings_mask().is_set(Encoding::DELTA_BINARY_PACKED))
            })
            .collect();
        assert_eq!(encodings, [true; 4]);
        let read: Vec<_> = reader.with_batch_size(301_000).build().unwrap().map(Result::unwrap).collect();
        let read = concat_batches(read[0].schema_ref(), &read).unwrap();
        assert_eq!(read.columns(), all.columns());
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
}

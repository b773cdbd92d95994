//! How the values of a row group's columns are encoded, as rows spread over the first that wait for it show.
//!
//! Whole numbers whose values rise or stay differ by a fraction of what they are: their differences
//! (`DELTA_BINARY_PACKED` of Parquet's Encodings.md) take less room than places in a dictionary, and no table of what was seen.

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use parquet::basic::Encoding;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

/// Parts of the rows that are looked at, and rows in each: as many as a block of differences of 64 bits has in parquet 59.
const PARTS: usize = 8;
const PART_ROWS: usize = 256;
/// Differences that are packed with the same width.
const MINI_BLOCK: usize = 64;
/// What a block has before its differences, in bits: the smallest of them, about 2 bytes, and 4 widths.
const BLOCK_BITS: usize = 48;
/// A value that comes so many times in a row is written once by a dictionary's encoding.
const RUN: usize = 8;

/// The properties with the encodings that suit these rows.
pub(super) fn suited(
    properties: &WriterProperties,
    batches: &[RecordBatch],
) -> Result<WriterProperties, ParquetError> {
    let mut suited = properties.clone().into_builder();
    let Some(first) = batches.first() else { return Ok(suited.build()) };
    for (at, field) in first.schema_ref().fields().iter().enumerate() {
        if is_whole(field.data_type()) && are_differences_shorter(&parts(batches, at)?) {
            let column = ColumnPath::new(vec![field.name().clone()]);
            suited = suited
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
        }
    }
    Ok(suited.build())
}

/// Whether a column's values are whole numbers in a file, and fit `i64`.
fn is_whole(data_type: &DataType) -> bool {
    use DataType::{Date32, Int8, Int16, Int32, Int64, Timestamp, UInt8, UInt16, UInt32};
    matches!(data_type, Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | Date32 | Timestamp(..))
}

/// The values of a column without nulls, in parts that are spread over the rows.
fn parts(batches: &[RecordBatch], column: usize) -> Result<Vec<Vec<i64>>, ParquetError> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let step = (rows / PARTS).max(PART_ROWS);
    let (mut parts, mut before, mut next) = (Vec::with_capacity(PARTS), 0, 0);
    for batch in batches {
        let end = before + batch.num_rows();
        while next < end {
            let len = PART_ROWS.min(end - next);
            let values = cast(&batch.column(column).slice(next - before, len), &DataType::Int64)?;
            let values = values.as_primitive_opt::<Int64Type>();
            parts.push(values.into_iter().flatten().flatten().collect());
            next += step;
        }
        before = end;
    }
    Ok(parts)
}

/// Whether differences take less room than places in a dictionary, or next to none.
fn are_differences_shorter(parts: &[Vec<i64>]) -> bool {
    let values: usize = parts.iter().map(Vec::len).sum();
    let differences = parts.iter().map(|part| difference_bits(part)).sum::<usize>();
    values > 0 && (2 * differences <= values || differences <= dictionary_bits(parts))
}

/// What one block takes.
fn difference_bits(values: &[i64]) -> usize {
    let next = values.iter().skip(1);
    let differences: Vec<i64> =
        values.iter().zip(next).map(|(value, next)| next.wrapping_sub(*value)).collect();
    let least = differences.iter().copied().min().unwrap_or_default();
    let width =
        |part: &[i64]| bits(part.iter().copied().max().unwrap_or(least).wrapping_sub(least).cast_unsigned());
    BLOCK_BITS + differences.chunks(MINI_BLOCK).map(|part| MINI_BLOCK * width(part)).sum::<usize>()
}

/// What places in a dictionary take; its values, once in a row group, are left out.
fn dictionary_bits(parts: &[Vec<i64>]) -> usize {
    let mut seen = parts.concat();
    seen.sort_unstable();
    seen.dedup();
    let runs = parts.iter().flat_map(|part| part.chunk_by(i64::eq));
    let packed: usize = runs.map(<[i64]>::len).filter(|len| *len < RUN).sum();
    packed * bits(seen.len().saturating_sub(1) as u64)
}

/// The bits of a number without its leading zeros.
fn bits(number: u64) -> usize {
    (u64::BITS - number.leading_zeros()) as usize
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    /// The value of a row.
    type Value<'a> = &'a dyn Fn(i64) -> Option<i64>;

    /// Whether a column is written as differences, if its rows come in batches of so many.
    fn differences(values: Vec<Option<i64>>, batch_rows: usize) -> bool {
        let column: ArrayRef = Arc::new(Int64Array::from(values));
        let rows = RecordBatch::try_from_iter([("a.b", column)]).unwrap();
        let starts = (0..rows.num_rows()).step_by(batch_rows);
        let batches: Vec<_> =
            starts.map(|start| rows.slice(start, batch_rows.min(rows.num_rows() - start))).collect();
        let properties = suited(&WriterProperties::default(), &batches).unwrap();
        let column = ColumnPath::new(vec!["a.b".to_owned()]);
        let chosen = properties.encoding(&column) == Some(Encoding::DELTA_BINARY_PACKED);
        assert_eq!(properties.dictionary_enabled(&column), !chosen);
        chosen
    }

    #[test]
    fn columns_are_written_as_differences_where_these_are_shorter() {
        // Any of so many, the same in each run.
        let odd = |n: i64, of: u64| {
            let spread = n.cast_unsigned().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
            (spread % of).cast_signed()
        };
        let cases: [(&str, Value<'_>, bool); 9] = [
            ("rises by one", &Some, true),
            ("falls from far up", &|n| Some(i64::MAX - 1_000 * n), true),
            ("rises by what differs", &|n| Some(1_700_000_000_000 + 40 * n + odd(n, 40)), true),
            ("stays", &|_| Some(2013), true),
            ("stays long, then is another", &|n| Some(n / 900 % 12), true),
            ("rises, with nulls", &|n| (n % 3 > 0).then_some(n), true),
            ("one of a few that are far apart", &|n| Some(odd(n, 7) * 1_000_000_007), false),
            ("one of two", &|n| Some(odd(n, 2)), false),
            ("null", &|_| None, false),
        ];
        for (name, value, expected) in cases {
            for batch_rows in [100, 8192, 40_000] {
                let values = (0..40_000).map(value).collect();
                assert_eq!(differences(values, batch_rows), expected, "{name}, in batches of {batch_rows}");
            }
        }
        // Not by its first rows alone.
        let later = |n: i64| Some(if n < 10_000 { 0 } else { odd(n, 7) * 1_000_000_007 });
        assert!(!differences((0..40_000).map(later).collect(), 8192));
        assert!(!differences(Vec::new(), 1));
    }
}

//! Rows that text can not hold: bytes that are no UTF-8, and times that no year can be written for.

use arrow::array::AsArray;
use arrow::datatypes::DataType;
use sluice_connect::task::Slice;
use sluice_formats::times::{WITHOUT_YEAR, without_year};

/// The rows that text can not hold, each with the reason.
pub(crate) fn unfit(slice: &Slice) -> Vec<(usize, String)> {
    let output = slice.output();
    let mut found = Vec::new();
    for (field, column) in output.schema_ref().fields().iter().zip(output.columns()) {
        let (rows, what) = match column.data_type() {
            DataType::Binary => (not_text(column.as_binary::<i32>().iter()), "bytes that are no UTF-8"),
            DataType::BinaryView => (not_text(column.as_binary_view().iter()), "bytes that are no UTF-8"),
            _ => (without_year(column), WITHOUT_YEAR),
        };
        let told = format!("column `{}` holds {what}, which text can not", field.name());
        found.extend(rows.into_iter().map(|row| (row, told.clone())));
    }
    found.sort_by_key(|(row, _)| *row);
    found.dedup_by_key(|(row, _)| *row);
    found
}

/// The places of bytes that are no text.
fn not_text<'a>(values: impl Iterator<Item = Option<&'a [u8]>>) -> Vec<usize> {
    let is_wrong = |bytes: Option<&[u8]>| bytes.is_some_and(|bytes| str::from_utf8(bytes).is_err());
    values.enumerate().filter(|(_, bytes)| is_wrong(*bytes)).map(|(row, _)| row).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::BinaryViewArray;

    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_found_before() {
        let bytes: BinaryViewArray =
            [Some(&b"\xff"[..]), None, Some(b"ok"), Some(b"a\xc3")].into_iter().collect();
        assert_eq!(not_text(bytes.iter()), [0, 3]);
    }
}

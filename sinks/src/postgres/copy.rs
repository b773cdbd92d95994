//! Rows as the text format of `COPY … FROM STDIN` has them: a line each, values between tabs, `\N` for null, and a
//! backslash before what has a meaning (PostgreSQL's documentation, COPY, "Text Format").
//!
//! Values are texts that the server reads as the column's type, so a column may be of any type that reads them.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, Float32Array, Float64Array, RecordBatch, StringViewArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, NullableEncoder, make_encoder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use sluice_connect::task::{Class, TaskError};
use sluice_formats::times::{WITHOUT_YEAR, without_year};

use super::types::Kind;

/// How values other than text are shown: times as RFC 3339 has them.
const FORMAT: FormatOptions<'static> = FormatOptions::new().with_display_error(false);

/// The rows, each ended by a line feed; with `numbered` the last value of each is its number, from 0. An error of
/// [`Class::Record`] says that a value can not be written.
pub(super) fn encode(rows: &RecordBatch, numbered: bool) -> Result<Vec<u8>, TaskError> {
    let schema = rows.schema();
    let plain = plain(rows).map_err(|e| unwritten(schema.as_ref(), None, e))?;
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let mut columns = Vec::with_capacity(plain.len());
    for (array, field) in &plain {
        columns.push(Column::new(array, field, &options).map_err(|e| unwritten(&schema, Some(field), e))?);
    }
    let (mut out, mut scratch) = (Vec::new(), Vec::new());
    for row in 0..rows.num_rows() {
        for (number, column) in columns.iter_mut().enumerate() {
            if number > 0 {
                out.push(b'\t');
            }
            if column.array.is_null(row) {
                out.extend_from_slice(b"\\N");
            } else if column.values.write(row, &mut out, &mut scratch).is_err() {
                let name = schema.field(number).name();
                let message = format!("column `{name}`: the value has no text form that a table could take");
                return Err(TaskError::new(Class::Record, message));
            }
        }
        if numbered {
            write!(Text(&mut out), "\t{row}").expect("a buffer takes all");
        }
        out.push(b'\n');
    }
    Ok(out)
}

/// Rows that no table can take: texts with a byte 0, and keys that are null. In rising order, each once.
pub(super) fn unfit(rows: &RecordBatch, key: &[String]) -> Vec<(usize, String)> {
    let mut found = BTreeMap::new();
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        let mut tell = |row: usize, what: &str| {
            found.entry(row).or_insert_with(|| format!("column `{}`: {what}", field.name()));
        };
        if key.contains(field.name()) {
            let nulls = column.logical_nulls();
            let nulls = nulls.iter().flat_map(|nulls| (0..nulls.len()).filter(|&row| nulls.is_null(row)));
            nulls.for_each(|row| tell(row, "it is part of the key, and null"));
        }
        if Kind::of(column.data_type()) == Some(Kind::Json) {
            without_year(column).into_iter().for_each(|row| tell(row, WITHOUT_YEAR));
        }
        if Kind::of(column.data_type()) == Some(Kind::Text)
            && let Ok(texts) = cast(column, &DataType::Utf8View)
        {
            let texts = texts.as_string_view();
            for (row, text) in texts.iter().enumerate() {
                if text.is_some_and(|text| text.as_bytes().contains(&0)) {
                    tell(row, "the text holds a byte 0, which PostgreSQL's texts can not");
                }
            }
        }
    }
    found.into_iter().collect()
}

fn unwritten(schema: &Schema, field: Option<&Field>, error: ArrowError) -> TaskError {
    let what = match field {
        Some(field) => format!("column `{}` of {}", field.name(), field.data_type()),
        None => format!("rows with {} columns", schema.fields().len()),
    };
    TaskError::new(Class::Config, format!("cannot write {what}")).because(error)
}

/// The columns without dictionaries, texts and bytes as views.
fn plain(rows: &RecordBatch) -> Result<Vec<(ArrayRef, Arc<Field>)>, ArrowError> {
    let columns = rows.schema_ref().fields().iter().zip(rows.columns());
    columns
        .map(|(field, column)| {
            let mut column = Arc::clone(column);
            if let DataType::Dictionary(_, values) = column.data_type() {
                column = cast(&column, &values.clone())?;
            }
            column = match Kind::of(column.data_type()) {
                Some(Kind::Text) if column.data_type() != &DataType::Null => {
                    cast(&column, &DataType::Utf8View)?
                }
                Some(Kind::Bytes) => {
                    // There is no cast from a fixed size to views.
                    let bytes = cast(&column, &DataType::Binary).or_else(|_| Ok::<_, ArrowError>(column))?;
                    cast(&bytes, &DataType::BinaryView)?
                }
                _ => column,
            };
            let field = Field::new(field.name(), column.data_type().clone(), true);
            Ok((column, Arc::new(field)))
        })
        .collect()
}

struct Column<'a> {
    array: &'a ArrayRef,
    values: Values<'a>,
}

/// Values that are not null.
enum Values<'a> {
    /// All are null.
    None,
    Text(&'a StringViewArray),
    Bytes(&'a BinaryViewArray),
    Float(&'a Float64Array),
    Single(&'a Float32Array),
    Json(NullableEncoder<'a>),
    Shown(ArrayFormatter<'a>),
}

impl<'a> Column<'a> {
    fn new(
        array: &'a ArrayRef,
        field: &'a Arc<Field>,
        options: &'a EncoderOptions,
    ) -> Result<Self, ArrowError> {
        let values = match (Kind::of(array.data_type()), array.data_type()) {
            (_, DataType::Null) => Values::None,
            (Some(Kind::Text), _) => Values::Text(array.as_string_view()),
            (Some(Kind::Bytes), _) => Values::Bytes(array.as_binary_view()),
            (_, DataType::Float64) => Values::Float(array.as_primitive()),
            (_, DataType::Float32) => Values::Single(array.as_primitive()),
            (Some(Kind::Json), _) => Values::Json(make_encoder(field, array, options)?),
            (Some(_), _) => Values::Shown(ArrayFormatter::try_new(array, &FORMAT)?),
            (None, other) => {
                let message =
                    format!("PostgreSQL has no type for {other}: `select: {{cast: …}}` makes another");
                return Err(ArrowError::NotYetImplemented(message));
            }
        };
        Ok(Self { array, values })
    }
}

impl Values<'_> {
    fn write(&mut self, row: usize, out: &mut Vec<u8>, scratch: &mut Vec<u8>) -> Result<(), ArrowError> {
        match self {
            Self::None => out.extend_from_slice(b"\\N"),
            Self::Text(texts) => push_escaped(texts.value(row).as_bytes(), out),
            Self::Bytes(bytes) => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\\\x");
                for byte in bytes.value(row) {
                    out.push(HEX[usize::from(byte >> 4)]);
                    out.push(HEX[usize::from(byte & 15)]);
                }
            }
            Self::Float(floats) => push_float(floats.value(row), floats.value(row).abs(), out),
            Self::Single(floats) => {
                push_float(floats.value(row), f64::from(floats.value(row)).abs(), out);
            }
            Self::Json(encoder) => {
                scratch.clear();
                encoder.encode(row, scratch);
                push_escaped(scratch, out);
            }
            Self::Shown(formatter) => {
                // Numbers and times hold nothing that has a meaning.
                let start = out.len();
                formatter.value(row).write(&mut Text(out))?;
                // A duration's sign, which PostgreSQL reads before the number alone.
                if let Some(sign) = out.get_mut(start..start + 3).filter(|sign| sign.starts_with(b"-PT")) {
                    sign.copy_from_slice(b"PT-");
                }
            }
        }
        Ok(())
    }
}

/// A float with as many digits as it takes to be read back, `size` being its absolute value.
fn push_float<T: fmt::Display + fmt::LowerExp>(value: T, size: f64, out: &mut Vec<u8>) {
    let mut text = Text(out);
    let written = match size {
        size if size.is_nan() => text.write_str("NaN"),
        size if size.is_infinite() => {
            let start = text.0.len();
            write!(text, "{value}").map(|()| {
                let is_negative = text.0.get(start) == Some(&b'-');
                text.0.truncate(start);
                text.0.extend_from_slice(if is_negative { b"-Infinity" } else { b"Infinity" });
            })
        }
        size if size != 0.0 && !(1e-5..1e17).contains(&size) => write!(text, "{value:e}"),
        _ => write!(text, "{value}"),
    };
    written.expect("a buffer takes all");
}

/// Bytes of a value, with a backslash before those that have a meaning.
fn push_escaped(value: &[u8], out: &mut Vec<u8>) {
    let mut rest = value;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | 8..=13)) {
        out.extend_from_slice(&rest[..at]);
        out.push(b'\\');
        out.push(match rest[at] {
            8 => b'b',
            b'\t' => b't',
            b'\n' => b'n',
            11 => b'v',
            12 => b'f',
            b'\r' => b'r',
            other => other,
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// A buffer of bytes that takes text.
struct Text<'a>(&'a mut Vec<u8>);

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, DurationMillisecondArray,
        DurationSecondArray, FixedSizeBinaryArray, Int64Array, IntervalDayTimeArray, ListArray, NullArray,
        StringArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::{Int32Type, Int64Type};
    use proptest::prelude::*;

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, column)| (name, column, true)),
        )
        .unwrap()
    }

    fn line(column: impl Array + 'static) -> String {
        let encoded = encode(&batch(vec![("x", Arc::new(column))]), false).unwrap();
        String::from_utf8(encoded).unwrap()
    }

    #[test]
    fn each_type_has_its_text() {
        assert_eq!(line(Int64Array::from(vec![Some(-5), None])), "-5\n\\N\n");
        assert_eq!(line(BooleanArray::from(vec![true, false])), "true\nfalse\n");
        assert_eq!(line(StringArray::from(vec!["a\tb\\c\n", "", "\\N"])), "a\\tb\\\\c\\n\n\n\\\\N\n");
        let dictionary: DictionaryArray<Int32Type> = vec![Some("x"), None, Some("x")].into_iter().collect();
        assert_eq!(line(dictionary), "x\n\\N\nx\n");
        assert_eq!(line(BinaryArray::from(vec![&b"\x00\xffa"[..]])), "\\\\x00ff61\n");
        let fixed = FixedSizeBinaryArray::try_from_iter([[1_u8, 2]].into_iter()).unwrap();
        assert_eq!(line(fixed), "\\\\x0102\n");
        let decimals = Decimal128Array::from(vec![12345, -5]).with_precision_and_scale(10, 2).unwrap();
        assert_eq!(line(decimals), "123.45\n-0.05\n");
        assert_eq!(line(Date32Array::from(vec![19_000])), "2022-01-08\n");
        let zoned = TimestampMicrosecondArray::from(vec![1_700_000_000_123_456]);
        assert_eq!(line(zoned.clone()), "2023-11-14T22:13:20.123456\n");
        assert_eq!(line(zoned.with_timezone("UTC")), "2023-11-14T22:13:20.123456Z\n");
        assert_eq!(line(Time64MicrosecondArray::from(vec![3_600_000_001])), "01:00:00.000001\n");
        assert_eq!(line(DurationSecondArray::from(vec![90, -90, 0])), "PT90S\nPT-90S\nP0D\n");
        assert_eq!(line(DurationMillisecondArray::from(vec![-500, -1500])), "PT-0.5S\nPT-1.5S\n");
        assert_eq!(line(NullArray::new(1)), "\\N\n");
        assert!(encode(&batch(vec![("x", Arc::new(IntervalDayTimeArray::new_null(1)))]), false).is_err());
    }

    #[test]
    fn floats_are_read_back_as_they_were() {
        let floats =
            [0.0, -0.0, 0.1, 1e300, -5e-324, 123_456_789.25, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        let lines = line(Float64Array::from(floats.to_vec()));
        assert_eq!(lines, "0\n-0\n0.1\n1e300\n-5e-324\n123456789.25\nNaN\nInfinity\n-Infinity\n");
        assert_eq!(line(Float32Array::from(vec![0.1, 1e30])), "0.1\n1e30\n");
    }

    #[test]
    fn lists_and_structs_are_json() {
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None]);
        assert_eq!(line(list), "[1,null]\n\\N\n");
        let text = Arc::new(StringArray::from(vec![Some("a\"\n"), None])) as ArrayRef;
        let field = Arc::new(Field::new("t", DataType::Utf8, true));
        assert_eq!(line(StructArray::from(vec![(field, text)])), "{\"t\":\"a\\\\\"\\\\n\"}\n{\"t\":null}\n");
    }

    #[test]
    fn rows_are_numbered_behind_their_values() {
        let rows = batch(vec![
            ("a", Arc::new(Int64Array::from(vec![7, 8]))),
            ("b", Arc::new(StringArray::from(vec![None, Some("x")]))),
        ]);
        assert_eq!(encode(&rows, true).unwrap(), b"7\t\\N\t0\n8\tx\t1\n");
    }

    #[test]
    fn texts_with_a_byte_0_and_keys_that_are_null_are_for_no_table() {
        let rows = batch(vec![
            ("id", Arc::new(Int64Array::from(vec![Some(1), None, None, Some(4)]))),
            ("text", Arc::new(StringArray::from(vec!["a", "b", "c\0", "\0"]))),
        ]);
        let found = unfit(&rows, &["id".to_owned()]);
        let told: Vec<_> = found.iter().map(|(row, reason)| (*row, reason.as_str())).collect();
        assert_eq!(told.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(told[0].1.contains("`id`") && told[1].1.contains("`id`") && told[2].1.contains("`text`"));
        assert_eq!(unfit(&rows, &[]).len(), 2);
    }

    /// Reads a line as the server does.
    fn read(line: &str) -> Vec<Option<String>> {
        line.split('\t')
            .map(|value| {
                if value == "\\N" {
                    return None;
                }
                let (mut text, mut chars) = (String::new(), value.chars());
                while let Some(c) = chars.next() {
                    text.push(match c {
                        '\\' => match chars.next().unwrap() {
                            'b' => '\u{8}',
                            'f' => '\u{c}',
                            'n' => '\n',
                            'r' => '\r',
                            't' => '\t',
                            'v' => '\u{b}',
                            other => other,
                        },
                        c => c,
                    });
                }
                Some(text)
            })
            .collect()
    }

    proptest! {
        #[test]
        fn whatever_texts_hold_the_server_reads_them_back(
            texts in prop::collection::vec(prop::option::of("[^\0]{0,12}|[\\\\\t\n\rN.\u{8}\u{b}\u{c}]{0,6}"), 1..20),
        ) {
            let pairs = batch(vec![
                ("a", Arc::new(StringArray::from(texts.clone()))),
                ("b", Arc::new(StringArray::from(texts.clone()))),
            ]);
            let encoded = String::from_utf8(encode(&pairs, false).unwrap()).unwrap();
            let lines: Vec<_> = encoded.strip_suffix('\n').unwrap().split('\n').map(read).collect();
            prop_assert_eq!(lines, texts.into_iter().map(|t| vec![t.clone(), t]).collect::<Vec<_>>());
            // The end of the old protocol's data must not be among them.
            prop_assert!(!encoded.split('\n').any(|line| line == "\\."));
        }

        #[test]
        fn whatever_a_float_is_its_text_is_read_back(bits in any::<u64>()) {
            let float = f64::from_bits(bits);
            prop_assume!(float.is_finite());
            let text = line(Float64Array::from(vec![float]));
            prop_assert_eq!(text.trim_end().parse::<f64>().unwrap().to_bits(), bits);
            prop_assert!(text.len() < 30, "{}", text);
        }
    }
}

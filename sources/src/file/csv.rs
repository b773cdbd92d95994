//! CSV records with a header, each as one JSON object.
//!
//! Fields are split by commas; quotes as in RFC 4180; lines end with LF, CR LF or CR; blank lines are no
//! records. Memory stays bounded by the limits of one record, whatever a quote swallows. Never guesses
//! a type but number: no bool, no date.

use csv_core::{ReadRecordResult, Reader};
use memchr::memchr_iter;
use sluice_connect::task::{Class, TaskError};
use sluice_formats::csv::is_open;

use super::input::{Filled, Input};
use super::number::is_number;
use super::{HEAD_BYTES_MAX, Next, RECORD_BYTES_MAX, json_string};

/// Columns of one file.
const COLUMNS_MAX: usize = 4_096;

/// The records of one CSV file.
pub(super) struct CsvRecords {
    input: Input,
    parser: Reader,
    /// The header's names, and each as it begins a field in JSON: `{"year":`, `,"month":`.
    names: Vec<String>,
    keys: Vec<Vec<u8>>,
    nulls: Vec<Vec<u8>>,
    null_bytes_max: usize,
    /// The fields of this record, unquoted, one after the other, with the end of each.
    text: Vec<u8>,
    ends: Vec<usize>,
    /// Bytes of this record in the input's window.
    raw: usize,
    /// The beginning of a record that is too long, and the bytes of it that are gone from the window.
    head: Vec<u8>,
    gone: u64,
    /// Line on which this record begins, and on which the next one may.
    line: u64,
    next_line: u64,
    is_over: bool,
    /// The file has the beginning of this record only, so far.
    is_partial: bool,
}

impl CsvRecords {
    /// Reads the header; `place` is the file's name for errors. A file without one has no records. `None` if the header is
    /// not whole yet.
    pub(super) fn new(input: Input, nulls: &[String], place: &str) -> Result<Option<Self>, TaskError> {
        let mut records = Self {
            input,
            parser: Reader::new(),
            names: Vec::new(),
            keys: Vec::new(),
            nulls: nulls.iter().map(|n| n.clone().into_bytes()).collect(),
            null_bytes_max: nulls.iter().map(String::len).max().unwrap_or(0),
            text: vec![0; 4096],
            ends: vec![0; COLUMNS_MAX + 1],
            raw: 0,
            head: Vec::new(),
            gone: 0,
            line: 1,
            next_line: 1,
            is_over: false,
            is_partial: false,
        };
        let wrong = |what: String| TaskError::new(Class::Config, format!("header of {place} {what}"));
        match records.split()? {
            Split::Fields(count) if count > COLUMNS_MAX => {
                return Err(wrong(format!("has {count} columns, more than {COLUMNS_MAX}")));
            }
            Split::Fields(count) => {
                if let Some(reason) = records.not_text(count) {
                    return Err(wrong(format!("is not text: {reason}")));
                }
                let name = |at| String::from_utf8_lossy(records.field(at)).into_owned();
                records.names = (0..count).map(name).collect();
            }
            Split::TooLong(bytes) => {
                return Err(wrong(format!("has {bytes} bytes, more than {RECORD_BYTES_MAX}")));
            }
            Split::Unclosed => return Err(wrong("has a quote that is never closed".to_owned())),
            // The first record says so, again.
            Split::Broken(_) => records.is_over = false,
            Split::Partial => return Ok(None),
            Split::End => {}
        }
        for (at, name) in records.names.iter().enumerate() {
            if name.is_empty() {
                return Err(wrong(format!("has no name for column {}", at + 1)));
            }
            if records.names[..at].contains(name) {
                return Err(wrong(format!("has two columns `{name}`")));
            }
            let mut key = vec![if at == 0 { b'{' } else { b',' }];
            json_string(name.as_bytes(), &mut key);
            key.push(b':');
            records.keys.push(key);
        }
        records.ends.truncate(records.names.len() + 1);
        Ok(Some(records))
    }

    /// The header's names.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Goes to the next record.
    pub(super) fn next(&mut self) -> Result<Next, TaskError> {
        let columns = self.names.len();
        Ok(match self.split()? {
            Split::Fields(count) if count != columns => {
                Next::Bad(format!("{count} fields, but the header has {columns}"))
            }
            Split::Fields(count) => match self.not_text(count) {
                Some(reason) => Next::Bad(reason),
                None => Next::Record,
            },
            Split::TooLong(bytes) => {
                Next::Bad(format!("record of {bytes} bytes exceeds the limit of {RECORD_BYTES_MAX} bytes"))
            }
            Split::Unclosed => Next::Bad("a quote is open at the end of the file".to_owned()),
            Split::Broken(reason) => Next::Bad(reason),
            Split::Partial => Next::Pending,
            Split::End => Next::End,
        })
    }

    /// The text of this record as it stands in the file, its first bytes if it is long, and its length.
    pub(super) fn raw(&self) -> (&[u8], u64) {
        let window = &self.input.window()[..self.raw];
        let shown = if self.gone > 0 { &self.head } else { window };
        (&shown[..shown.len().min(HEAD_BYTES_MAX)], self.gone + window.len() as u64)
    }

    /// The line on which this record begins, from 1.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// The byte behind this record, or at which one begins that is not whole yet.
    pub(super) fn position(&self) -> u64 {
        let consumed = self.input.consumed();
        if self.is_partial { consumed - self.gone } else { consumed + self.raw as u64 }
    }

    /// Goes on to a byte at which a record begins; whether the file has that many.
    pub(super) fn skip_to(&mut self, byte: u64) -> Result<bool, TaskError> {
        self.raw = 0;
        self.input.skip_to(byte)
    }

    /// The bytes that records are read from.
    pub(super) fn input(&mut self) -> &mut Input {
        &mut self.input
    }

    /// A field of this record, in UTF-8; `None` is null.
    pub(super) fn value(&self, column: usize) -> Option<&[u8]> {
        Some(self.field(column)).filter(|field| !self.is_null(field))
    }

    /// Appends this record as a JSON object.
    pub(super) fn write_body(&self, out: &mut Vec<u8>) {
        let mut start = 0;
        for (key, &end) in self.keys.iter().zip(&self.ends) {
            let field = &self.text[start..end];
            start = end;
            out.extend_from_slice(key);
            if self.is_null(field) {
                out.extend_from_slice(b"null");
            } else if is_number(field) {
                out.extend_from_slice(field);
            } else {
                json_string(field, out);
            }
        }
        out.push(b'}');
    }

    #[inline]
    fn is_null(&self, field: &[u8]) -> bool {
        field.len() <= self.null_bytes_max && self.nulls.iter().any(|null| null == field)
    }

    fn field(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.text[start..self.ends[at]]
    }

    /// Why the first `count` fields are not all UTF-8.
    fn not_text(&self, count: usize) -> Option<String> {
        let len = count.checked_sub(1).map_or(0, |last| self.ends[last]);
        if self.text[..len].is_ascii() {
            return None;
        }
        let bad = (0..count).find(|&at| std::str::from_utf8(self.field(at)).is_err())?;
        Some(match self.names.get(bad) {
            Some(name) => format!("field `{name}` is not UTF-8"),
            None => format!("field {} is not UTF-8", bad + 1),
        })
    }

    /// Splits off the next record.
    fn split(&mut self) -> Result<Split, TaskError> {
        let was_partial = std::mem::take(&mut self.is_partial);
        // Of a record that is too long already only the end is looked for.
        if !(was_partial && self.gone > 0) {
            if was_partial {
                self.raw = 0;
                self.parser.reset();
            }
            self.input.consume(std::mem::take(&mut self.raw));
            self.head.clear();
            self.gone = 0;
            if self.is_over {
                return Ok(Split::End);
            }
            if let Some(end) = self.skip_blank_lines()? {
                self.is_over = !matches!(end, Split::Partial);
                return Ok(end);
            }
            self.parser.set_line(self.line);
        }
        let split = self.split_fields()?;
        self.is_partial = matches!(split, Split::Partial);
        if !self.is_partial {
            self.next_line = self.parser.line();
        }
        Ok(split)
    }

    /// Puts the window at the first byte of a record; the end or the break that comes before one.
    fn skip_blank_lines(&mut self) -> Result<Option<Split>, TaskError> {
        self.line = self.next_line;
        loop {
            let window = self.input.window();
            let blank = window.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            self.line += memchr_iter(b'\n', &window[..blank]).count() as u64;
            let found = blank < window.len();
            self.input.consume(blank);
            if found {
                return Ok(None);
            }
            match self.input.fill()? {
                Filled::More => {}
                Filled::End => return Ok(Some(Split::End)),
                Filled::Pending => {
                    self.next_line = self.line;
                    return Ok(Some(Split::Partial));
                }
                Filled::Broken(reason) => return Ok(Some(Split::Broken(reason))),
            }
        }
    }

    fn split_fields(&mut self) -> Result<Split, TaskError> {
        // Fields beyond the header's only count: all of their ends are put into the last place.
        let (mut text_len, mut count, mut at_end) = (0, 0, false);
        loop {
            let (window, place) = (&self.input.window()[self.raw..], count.min(self.ends.len() - 1));
            if window.is_empty() && !at_end {
                match self.input.fill()? {
                    Filled::More => continue,
                    Filled::End => at_end = true,
                    Filled::Pending => return Ok(Split::Partial),
                    Filled::Broken(reason) => {
                        self.is_over = true;
                        return Ok(Split::Broken(reason));
                    }
                }
                continue;
            }
            let (result, read, written, ended) =
                self.parser.read_record(window, &mut self.text[text_len..], &mut self.ends[place..]);
            self.raw += read;
            text_len += written;
            count += ended;
            if self.raw > RECORD_BYTES_MAX || self.gone > 0 {
                if self.gone == 0 {
                    let window = self.input.window();
                    self.head.extend_from_slice(&window[..HEAD_BYTES_MAX.min(window.len())]);
                }
                self.gone += self.raw as u64;
                self.input.consume(std::mem::take(&mut self.raw));
                text_len = 0;
            }
            match result {
                ReadRecordResult::InputEmpty | ReadRecordResult::OutputEndsFull => {}
                ReadRecordResult::OutputFull => self.text.resize(self.text.len() * 2, 0),
                ReadRecordResult::Record | ReadRecordResult::End => break,
            }
        }
        if self.gone > 0 {
            return Ok(Split::TooLong(self.gone));
        }
        // The parser closes an open quote at the end of the file, and would hide the rows in it.
        if at_end && is_open(&self.input.window()[..self.raw], b',') {
            return Ok(Split::Unclosed);
        }
        Ok(Split::Fields(count))
    }
}

enum Split {
    Fields(usize),
    TooLong(u64),
    Unclosed,
    Broken(String),
    Partial,
    End,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_stays_bounded_by_one_record_whatever_a_quote_swallows() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [b"a,b\n1,\"".as_slice(), &b"2,3\n".repeat(10_000_000)].concat())
            .unwrap();
        let mut records = CsvRecords::new(Input::open(file.path()).unwrap(), &[], "a file").unwrap().unwrap();
        let Next::Bad(reason) = records.next().unwrap() else { panic!("the quote is never closed") };
        assert_eq!(reason, "record of 40000003 bytes exceeds the limit of 4194304 bytes");
        assert!(matches!(records.next().unwrap(), Next::End));
        let held = records.text.len() + records.input.held_bytes() + records.head.capacity();
        assert!(held < 4 * RECORD_BYTES_MAX + HEAD_BYTES_MAX + 1, "{held} bytes are held");
    }
}

//! NDJSON: one JSON object a line.
//!
//! A line is its message's body as it stands. Only its form is checked here, and the fields that become
//! properties, keys or tag are taken; types are `formats`' work.

use std::fmt;
use std::ops::Range;

use memchr::memchr;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use sluice_connect::task::TaskError;

use super::input::{Filled, Input};
use super::{HEAD_BYTES_MAX, Next, RECORD_BYTES_MAX};

/// The lines of one file.
pub(super) struct LineRecords {
    input: Input,
    /// Fields wanted beside the body.
    names: Vec<String>,
    values: Values,
    /// This line in the input's window, with its end.
    raw: usize,
    /// The body in the window.
    body: Range<usize>,
    /// The beginning of a line that is too long, and the bytes of it that are gone from the window.
    head: Vec<u8>,
    gone: u64,
    line: u64,
    is_over: bool,
    /// The file has the beginning of this line only, so far.
    is_partial: bool,
}

impl LineRecords {
    /// Lines of which the fields `names` are wanted.
    pub(super) fn new(input: Input, names: Vec<String>) -> Self {
        Self {
            input,
            names,
            values: Values::default(),
            raw: 0,
            body: 0..0,
            head: Vec::new(),
            gone: 0,
            line: 0,
            is_over: false,
            is_partial: false,
        }
    }

    /// The wanted fields.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Goes to the next line that is not blank.
    pub(super) fn next(&mut self) -> Result<Next, TaskError> {
        loop {
            if !std::mem::take(&mut self.is_partial) {
                self.input.consume(std::mem::take(&mut self.raw));
                self.head.clear();
                self.gone = 0;
                if self.is_over {
                    return Ok(Next::End);
                }
                self.line += 1;
            }
            let broken = match self.split()? {
                Split::Whole => None,
                Split::Broken(reason) => Some(reason),
                Split::Partial => {
                    self.is_partial = true;
                    return Ok(Next::Pending);
                }
            };
            if self.gone > 0 {
                let bytes = self.gone;
                return Ok(Next::Bad(format!(
                    "line of {bytes} bytes exceeds the limit of {RECORD_BYTES_MAX} bytes"
                )));
            }
            if let Some(reason) = broken {
                return Ok(Next::Bad(reason));
            }
            let line = &self.input.window()[..self.raw];
            let start = line.len() - line.trim_ascii_start().len();
            self.body = start..start + line.trim_ascii().len();
            if !self.body.is_empty() {
                break;
            }
        }
        let body = &self.input.window()[self.body.clone()];
        self.values.clear(self.names.len());
        let checked = match std::str::from_utf8(body) {
            Err(e) => Err(format!("not UTF-8 at byte {} of the line", self.body.start + e.valid_up_to())),
            Ok(text) if !text.starts_with('{') => Err("not a JSON object".to_owned()),
            Ok(text) => {
                let mut deserializer = serde_json::Deserializer::from_str(text);
                let line = Line { names: &self.names, values: &mut self.values };
                deserializer
                    .deserialize_map(line)
                    .and_then(|()| deserializer.end())
                    .map_err(|e| format!("not a JSON object: {e}"))
            }
        };
        Ok(checked.map_or_else(Next::Bad, |()| Next::Record))
    }

    /// This line as it stands in the file, its first bytes if it is long, and its length.
    pub(super) fn raw(&self) -> (&[u8], u64) {
        let window = &self.input.window()[..self.raw];
        let shown = if self.gone > 0 { &self.head } else { window };
        (&shown[..shown.len().min(HEAD_BYTES_MAX)], self.gone + window.len() as u64)
    }

    /// The number of this line, from 1.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// The byte behind this line, or at which a line begins that is not whole yet.
    pub(super) fn position(&self) -> u64 {
        let consumed = self.input.consumed();
        if self.is_partial { consumed - self.gone } else { consumed + self.raw as u64 }
    }

    /// The bytes that lines are read from.
    pub(super) fn input(&mut self) -> &mut Input {
        &mut self.input
    }

    /// A wanted field of this line, text as it is and everything else as its JSON; `None` is null.
    pub(super) fn value(&self, at: usize) -> Option<&[u8]> {
        let range = self.values.found.get(at)?.clone()?;
        Some(&self.values.text[range])
    }

    /// Appends this line.
    pub(super) fn write_body(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.input.window()[self.body.clone()]);
    }

    /// Finds the end of the line; says where the file is broken before it.
    fn split(&mut self) -> Result<Split, TaskError> {
        loop {
            let window = self.input.window();
            let found = memchr(b'\n', &window[self.raw..]);
            self.raw = found.map_or(window.len(), |at| self.raw + at + 1);
            if self.raw > RECORD_BYTES_MAX || self.gone > 0 {
                if self.gone == 0 {
                    self.head.extend_from_slice(&window[..HEAD_BYTES_MAX.min(window.len())]);
                }
                self.gone += self.raw as u64;
                self.input.consume(std::mem::take(&mut self.raw));
            }
            if found.is_some() {
                return Ok(Split::Whole);
            }
            match self.input.fill()? {
                Filled::More => {}
                Filled::Pending => return Ok(Split::Partial),
                Filled::End => {
                    self.is_over = true;
                    return Ok(Split::Whole);
                }
                Filled::Broken(reason) => {
                    self.is_over = true;
                    return Ok(Split::Broken(reason));
                }
            }
        }
    }
}

enum Split {
    Whole,
    Partial,
    Broken(String),
}

/// The wanted fields of one line.
#[derive(Default)]
struct Values {
    text: Vec<u8>,
    found: Vec<Option<Range<usize>>>,
}

impl Values {
    fn clear(&mut self, names: usize) {
        self.text.clear();
        self.found.clear();
        self.found.resize(names, None);
    }
}

struct Line<'a> {
    names: &'a [String],
    values: &'a mut Values,
}

impl<'de> Visitor<'de> for Line<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(wanted) = map.next_key_seed(Key(self.names))? {
            let Some(at) = wanted else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if self.values.found[at].is_some() {
                return Err(A::Error::custom(format_args!("the key `{}` stands twice", self.names[at])));
            }
            let raw = map.next_value::<&RawValue>()?.get();
            let start = self.values.text.len();
            match raw.as_bytes().first() {
                Some(b'n') => continue,
                Some(b'"') => serde_json::Deserializer::from_str(raw)
                    .deserialize_str(Append(&mut self.values.text))
                    .map_err(A::Error::custom)?,
                _ => self.values.text.extend_from_slice(raw.as_bytes()),
            }
            self.values.found[at] = Some(start..self.values.text.len());
        }
        Ok(())
    }
}

/// A key, as its place among the wanted names.
struct Key<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| name == key))
    }
}

/// Appends a string's text without its quotes and escapes.
struct Append<'a>(&'a mut Vec<u8>);

impl Visitor<'_> for Append<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

//! Bodies into columns, guided by the schema: no tree of values is built, and strings are borrowed.

use std::fmt;

use arrow::datatypes::SchemaRef;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::number::{WIDE, exact_float, exact_integer, wide_integer};
use super::object::{Row, read_object};
use super::usual::Keys;
use super::{Trouble, time};
use crate::column::{Column, Columns, Unknown, Values, position};
use crate::path::{Step, clipped};
use crate::rows::{self, Unfit};
use crate::{DEPTH_MAX, Decoded, Error};

/// Reads bodies into the columns of one schema.
pub struct Decoder {
    schema: SchemaRef,
    columns: Columns,
    pub(super) usual: Option<Keys>,
    trouble: Trouble,
}

impl Decoder {
    /// A decoder for a schema of types that the [module](super) names; columns must be nullable.
    pub fn new(schema: SchemaRef) -> Result<Self, Error> {
        let columns = Columns::new(schema.fields())?;
        super::declare::check_types(schema.fields())?;
        let usual = Keys::new(&columns);
        Ok(Self { schema, columns, usual, trouble: Trouble::default() })
    }

    /// A decoder that passes over fields of the body itself which the schema does not have.
    pub fn projecting(schema: SchemaRef) -> Result<Self, Error> {
        let mut decoder = Self::new(schema)?;
        decoder.columns.unknown = Unknown::PassOver;
        Ok(decoder)
    }

    /// Says of fields at all levels what becomes of those without a column; rows with one are rejects if not said.
    #[must_use]
    pub fn with_unknown(mut self, unknown: Unknown) -> Self {
        self.columns.treat_unknown(unknown);
        self
    }

    /// Decodes each body as one row. A body that is missing or does not fit is a reject.
    ///
    /// Fails only if the bodies are too many for one batch; what was read of it is dropped.
    pub fn decode(&mut self, bodies: &mut dyn Iterator<Item = Option<&[u8]>>) -> Result<Decoded, Error> {
        let Self { schema, columns, usual, trouble } = self;
        rows::decode(columns, schema, bodies, |columns, body, rows| {
            decode_row(columns, usual.as_ref(), trouble, body, rows)
        })
    }
}

fn decode_row(
    columns: &mut Columns,
    usual: Option<&Keys>,
    trouble: &mut Trouble,
    body: &[u8],
    rows: usize,
) -> Result<(), Unfit> {
    let text = std::str::from_utf8(body).map_err(|e| format!("$: not UTF-8 at byte {}", e.valid_up_to()))?;
    if let Some(usual) = usual {
        if usual.read(columns, body).is_some() {
            return Ok(());
        }
        columns.truncate(rows);
    }
    trouble.begin();
    read_row(columns, trouble, text, rows)?;
    if trouble.wide {
        columns.truncate(rows);
        trouble.by_text = true;
        read_row(columns, trouble, text, rows)?;
    }
    Ok(())
}

fn read_row(columns: &mut Columns, trouble: &mut Trouble, text: &str, number: usize) -> Result<(), Unfit> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let row = Row { columns, number, trouble: &mut *trouble };
    let read = deserializer.deserialize_any(row).and_then(|()| deserializer.end());
    read.map_err(|e| Unfit { reason: trouble.take(&e), wider: trouble.wider })
}

/// One value, pushed to its column.
pub(super) struct Cell<'a> {
    pub(super) column: &'a mut Column,
    /// Level of the object or array around the value.
    pub(super) level: usize,
    pub(super) trouble: &'a mut Trouble,
}

impl Cell<'_> {
    #[cold]
    fn mismatch<E: serde::de::Error>(self, got: &str) -> E {
        let expected = match &self.column.values {
            Values::Bool(_) => "bool",
            Values::Int64(_) => "int64",
            Values::Float64(_) => "float64",
            Values::Timestamp(_) => "timestamp",
            Values::Text { .. } => "utf8",
            Values::List { .. } => "a list",
            Values::Struct(_) => "an object",
            _ => "what JSON has no text of",
        };
        self.trouble.stop(format!("expected {expected}, got {got}"))
    }

    #[cold]
    fn inexact<E: serde::de::Error>(self, got: &str) -> E {
        let kept = if matches!(self.column.values, Values::Int64(_)) { "int64" } else { "float64" };
        self.trouble.stop(format!("expected {kept}, which can't hold {got} exactly"))
    }

    /// A value of a column of floats, by its text.
    fn read_float<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        match wide_integer(text) {
            Some(Ok(float)) => self.visit_f64(float),
            Some(Err(())) => Err(self.inexact(&clipped(text))),
            // What is wrong with it was found when the row was read first.
            None => serde_json::Deserializer::from_str(text).deserialize_any(self).map_err(E::custom),
        }
    }

    /// A value of a column that takes them all: a string as it is, the rest as it is written.
    fn read_any<E: serde::de::Error>(self, raw: &RawValue) -> Result<(), E> {
        let text = raw.get();
        let Values::Text { ends, bytes, .. } = &mut self.column.values else {
            return Err(E::custom("only text columns take any value"));
        };
        match text.as_bytes().first() {
            Some(b'n') => {
                self.column.push_null();
                return Ok(());
            }
            Some(b'"') => match serde_json::Deserializer::from_str(text).deserialize_str(Append(bytes)) {
                Ok(()) => {}
                Err(error) => return Err(self.trouble.stop(error.to_string())),
            },
            Some(b'{' | b'[') if self.level + levels(text) > DEPTH_MAX => {
                return Err(self.trouble.stop(format!("nested more than {DEPTH_MAX} levels deep")));
            }
            _ => bytes.extend_from_slice(text.as_bytes()),
        }
        ends.push(position(bytes.len()));
        self.column.pushed();
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Cell<'_> {
    type Value = ();

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if let Values::Text { any: true, .. } = self.column.values {
            let raw = <&RawValue as serde::Deserialize>::deserialize(deserializer)?;
            return self.read_any(raw);
        }
        if self.trouble.by_text && matches!(self.column.values, Values::Float64(_)) {
            let raw = <&RawValue as serde::Deserialize>::deserialize(deserializer)?;
            return self.read_float(raw.get());
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Cell<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    #[inline]
    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.column.push_null();
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        let Values::Bool(values) = &mut self.column.values else {
            return Err(self.mismatch(&value.to_string()));
        };
        values.append(value);
        self.column.pushed();
        Ok(())
    }

    #[inline]
    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        match &mut self.column.values {
            Values::Int64(values) => values.push(value),
            Values::Float64(values) => match exact_float(i128::from(value)) {
                Some(float) => values.push(float),
                None => return Err(self.inexact(&value.to_string())),
            },
            _ => return Err(self.mismatch(&value.to_string())),
        }
        self.column.pushed();
        Ok(())
    }

    #[inline]
    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        if let Ok(value) = i64::try_from(value) {
            return self.visit_i64(value);
        }
        match &mut self.column.values {
            Values::Float64(values) => match exact_float(i128::from(value)) {
                Some(float) => values.push(float),
                None => return Err(self.inexact(&value.to_string())),
            },
            Values::Int64(_) => return Err(self.inexact(&value.to_string())),
            _ => return Err(self.mismatch(&value.to_string())),
        }
        self.column.pushed();
        Ok(())
    }

    #[inline]
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        match &mut self.column.values {
            Values::Float64(values) => {
                self.trouble.wide |= value.abs() >= WIDE;
                values.push(value);
            }
            Values::Int64(values) => match exact_integer(value) {
                Some(integer) => values.push(integer),
                None => return Err(self.inexact(&value.to_string())),
            },
            _ => return Err(self.mismatch(&value.to_string())),
        }
        self.column.pushed();
        Ok(())
    }

    #[inline]
    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        match &mut self.column.values {
            Values::Text { ends, bytes, .. } => {
                bytes.extend_from_slice(value.as_bytes());
                ends.push(position(bytes.len()));
            }
            Values::Timestamp(values) => {
                let Some(ms) = time::parse_ms(value) else {
                    let got = quoted(value);
                    return Err(self.trouble.stop(format!(
                        "expected timestamp (RFC 3339, no finer than a millisecond), got {got}"
                    )));
                };
                values.push(ms);
            }
            _ => return Err(self.mismatch(&quoted(value))),
        }
        self.column.pushed();
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Values::List { ends, item } = &mut self.column.values else {
            return Err(self.mismatch("a list"));
        };
        let first = item.len();
        loop {
            let cell = Cell { column: &mut *item, level: self.level + 1, trouble: &mut *self.trouble };
            match seq.next_element_seed(cell) {
                Ok(Some(())) => {}
                Ok(None) => break,
                Err(error) => {
                    self.trouble.path.push(Step::Item(item.len() - first));
                    return Err(error);
                }
            }
        }
        ends.push(position(item.len()));
        self.column.pushed();
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let row = self.column.len();
        let Values::Struct(columns) = &mut self.column.values else {
            return Err(self.mismatch("an object"));
        };
        read_object(columns, map, row, self.level + 1, self.trouble)?;
        self.column.pushed();
        Ok(())
    }
}

/// Appends a string's text without its quotes and escapes.
struct Append<'a>(&'a mut Vec<u8>);

impl Visitor<'_> for Append<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.0.extend_from_slice(value.as_bytes());
        Ok(())
    }
}

pub(super) fn quoted(value: &str) -> String {
    format!("\"{}\"", clipped(value))
}

/// How deep the objects and arrays of a JSON text nest, which is well-formed.
pub fn levels(json: &str) -> usize {
    let (mut level, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                level += 1;
                deepest = deepest.max(level);
            }
            b'}' | b']' if !quoted => level = level.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

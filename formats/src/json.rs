//! JSON objects, one a body, as typed columns.
//!
//! [`Inferer`] proposes a schema from the first bodies; [`Decoder`] reads bodies into a schema that stands.
//! A row fits with all its cells or is a reject with all its cells; nothing is cut, rounded or guessed to
//! make it fit. Never reads a file and never decides what becomes of a reject.
//!
//! | column | takes |
//! |---|---|
//! | Boolean | `true`, `false` |
//! | Int64 | numbers without a fraction, up to 64 bits; `1.0` and `1e3` as far as a float is exact (2^53) |
//! | Float64 | numbers; one written as an integer, of any length, only if the float holds it exactly |
//! | Utf8 | strings; with [`ANY`] in its metadata also every other value, as its JSON text |
//! | Timestamp(ms, UTC) | RFC 3339 text, no finer than a millisecond |
//! | List, Struct | arrays and objects of the above |
//!
//! Every column takes null, and a missing field is null.

mod declare;
mod decode;
mod infer;
mod number;
mod object;
mod time;
mod usual;

pub use declare::schema_from_fields;
pub use decode::{Decoder, levels};
pub use infer::Inferer;

pub(crate) use declare::check_types;
pub(crate) use number::exact_float;
pub(crate) use time::parse_ms;

use crate::path::{Step, written};
pub use crate::{DEPTH_MAX, Decoded, FIELDS_MAX};

/// Metadata of a Utf8 field whose values did not agree on one type: `sluice.json = any`. Such a column
/// keeps a string as it is and every other value but null as its JSON text.
pub const ANY: (&str, &str) = ("sluice.json", "any");

/// Why the row that is being read does not fit; empty while it does.
///
/// The path is gathered from the inside out, while the error passes upwards, so that rows that fit do
/// not pay for it.
#[derive(Default)]
struct Trouble {
    reason: Option<String>,
    path: Vec<Step>,
    /// A number beyond 64 bits came as a float: it may be an integer that was rounded, and only its text
    /// can tell.
    wide: bool,
    /// The row is read again by the texts of its numbers.
    by_text: bool,
    /// A field without a column: a wider schema may take the row.
    wider: bool,
}

impl Trouble {
    /// Before a row.
    fn begin(&mut self) {
        (self.wide, self.by_text, self.wider) = (false, false, false);
    }

    /// Keeps the reason and gives the error that ends the parse.
    fn stop<E: serde::de::Error>(&mut self, reason: String) -> E {
        self.reason = Some(reason);
        E::custom("")
    }

    /// The whole reason with its path; leaves nothing behind.
    fn take(&mut self, error: &serde_json::Error) -> String {
        let path = written(self.path.drain(..));
        match self.reason.take() {
            Some(reason) => format!("{path}: {reason}"),
            None => format!("{path}: {error}"),
        }
    }
}

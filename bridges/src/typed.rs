//! Headers with types as properties of a message, which are text.
//!
//! A header with a plain name and a value that text shows becomes the property of its name. What that does not say
//! stands in a property of the bridge's as a JSON object: `"name": "type"` for a property that is no string, and
//! `"name": ["base64"]` for a header that has no property, encoded as the system encodes it.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::message::{Mapped, plain};

/// A header: its type, and its value as text where text shows it.
pub(crate) struct Header<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) text: Option<String>,
}

/// The headers that properties do not show whole.
#[derive(Default)]
pub(crate) struct Layout(Map<String, Value>);

impl Layout {
    /// Gives a header its property if it can have one; `encoded` is asked for if not. Strings are of type `string`.
    pub(crate) fn put(
        &mut self,
        mapped: &mut Mapped<'_>,
        header: Header<'_>,
        string: &str,
        is_name: impl Fn(&str) -> bool,
        encoded: impl FnOnce() -> Vec<u8>,
    ) {
        let name = header.name.to_owned();
        match header.text.filter(|text| is_name(header.name) && plain(text.as_bytes()).is_some()) {
            Some(text) => {
                if header.kind != string {
                    self.0.insert(name, Value::from(header.kind));
                }
                mapped.set(header.name.to_owned(), text);
            }
            None => drop(self.0.insert(name, Value::from(vec![STANDARD.encode(encoded())]))),
        }
    }

    /// Sets the property that holds it, if it holds anything or there is a table without headers.
    pub(crate) fn finish(self, mapped: &mut Mapped<'_>, property: &'static str, is_empty_table: bool) {
        if !self.0.is_empty() || is_empty_table {
            mapped.set(property, Value::Object(self.0).to_string());
        }
    }
}

/// A header on its way back.
pub(crate) enum Back<'a> {
    /// Text, and the type that it had.
    Text(&'a str, Option<String>),
    /// As the system encodes it.
    Encoded(Vec<u8>),
}

/// The headers that the properties and a layout come from; a property that came or changed since counts as it is.
pub(crate) fn headers<'a>(
    layout: Option<&str>,
    property: &str,
    named: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<BTreeMap<String, Back<'a>>, String> {
    let told = || format!("property `{property}` holds no headers with their types");
    let mut layout = match layout {
        None => Map::new(),
        Some(text) => serde_json::from_str(text).map_err(|_| told())?,
    };
    let mut found = BTreeMap::new();
    for (name, value) in named {
        let kind = match layout.remove(name) {
            Some(Value::String(kind)) => Some(kind),
            _ => None,
        };
        found.insert(name.to_owned(), Back::Text(value, kind));
    }
    for (name, value) in layout {
        match value {
            // A step took its property away.
            Value::String(_) => {}
            Value::Array(parts) => {
                let [Value::String(text)] = parts.as_slice() else { return Err(told()) };
                found.insert(name, Back::Encoded(STANDARD.decode(text).map_err(|_| told())?));
            }
            _ => return Err(told()),
        }
    }
    Ok(found)
}

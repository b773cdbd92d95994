//! JSON as `RocketMQ`'s files have it: object keys may be bare integers.
//!
//! Knows the shape that all of those files share, and no file.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How often a table changed; clients and slaves compare it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DataVersion {
    counter: i64,
    state_version: i64,
    timestamp: i64,
}

impl DataVersion {
    /// The version that a document names; a new one if it names none.
    pub(crate) fn of(document: &Value) -> Self {
        document.get("dataVersion").and_then(|v| Self::deserialize(v).ok()).unwrap_or_default()
    }

    /// How often the table changed.
    pub(crate) fn counter(&self) -> i64 {
        self.counter
    }

    /// Counts a change made at a time, in ms since 1970-01-01 UTC.
    pub(crate) fn step(&mut self, now_ms: i64) {
        self.counter = self.counter.wrapping_add(1);
        self.timestamp = now_ms;
    }
}

/// Parses a document whose object keys may be bare integers.
pub(crate) fn lenient(text: &str) -> Result<Value, String> {
    let mut strict = String::with_capacity(text.len() + text.len() / 8);
    let mut rest = text;
    let mut in_string = false;
    while let Some(c) = rest.chars().next() {
        let mut len = c.len_utf8();
        match c {
            '\\' if in_string => len += rest.chars().nth(1).map_or(0, char::len_utf8),
            '"' => in_string = !in_string,
            '-' | '0'..='9' if !in_string => {
                let end = |c: char| !matches!(c, '-' | '+' | '.' | '0'..='9' | 'a'..='z' | 'A'..='Z');
                let (number, after) = rest.split_at(rest.find(end).unwrap_or(rest.len()));
                if after.trim_start().starts_with(':') {
                    strict.extend(["\"", number, "\""]);
                } else {
                    strict.push_str(number);
                }
                rest = after;
                continue;
            }
            _ => {}
        }
        let (kept, after) = rest.split_at(len);
        strict.push_str(kept);
        rest = after;
    }
    serde_json::from_str(&strict).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bare_integer_keys_are_read_and_strings_are_left_alone() {
        let text = r#"{"a":{0:5, 12 :6,-1:7},"b":"{0:\"1:\\","c":[1,2.5e3],"d":{"3":1}}"#;
        let expected = json!({
            "a": {"0": 5, "12": 6, "-1": 7}, "b": "{0:\"1:\\", "c": [1, 2.5e3], "d": {"3": 1}
        });
        assert_eq!(lenient(text), Ok(expected));
    }

    #[test]
    fn text_that_is_no_json_is_an_error() {
        for text in ["", "{", "{0:", "\"\\", "{\"a\":01}", "{0x:}"] {
            assert!(lenient(text).is_err(), "{text}");
        }
    }
}

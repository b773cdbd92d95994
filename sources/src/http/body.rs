//! The messages in a body: one JSON object, an array of them, or one a line. Each is kept as it was written.

use std::fmt;

use bytes::Bytes;
use memchr::memchr;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;
use sluice_formats::json::levels;

/// How deep a message may nest: as deep as the decoders of bodies go.
const DEPTH_MAX: usize = sluice_formats::DEPTH_MAX;

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Json,
    Ndjson,
}

impl Kind {
    /// By the header `Content-Type`; its parameters do not matter.
    pub(super) fn of(content_type: &str) -> Option<Self> {
        let kind = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        match kind.as_str() {
            "application/json" => Some(Self::Json),
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines" => Some(Self::Ndjson),
            _ => None,
        }
    }
}

/// Why a body is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not what it says to be: where, and what was found there.
    Wrong(String),
    /// It has more messages than are taken at once.
    TooMany,
}

/// The messages of a body, `max` at most, in their order.
pub(super) fn messages(kind: Kind, body: &Bytes, max: usize) -> Result<Vec<Bytes>, Refusal> {
    let text = std::str::from_utf8(body).map_err(|e| {
        let before = body.get(..e.valid_up_to()).unwrap_or_default();
        Refusal::Wrong(format!("line {}: the bytes are no UTF-8", lines(before) + 1))
    })?;
    match kind {
        Kind::Json => json(text, body, max),
        Kind::Ndjson => ndjson(text, body, max),
    }
}

fn json(text: &str, body: &Bytes, max: usize) -> Result<Vec<Bytes>, Refusal> {
    let trimmed = text.trim_ascii();
    if !trimmed.starts_with('[') {
        let raw = object(text, 0)?;
        return if max == 0 { Err(Refusal::TooMany) } else { Ok(vec![body.slice_ref(raw.as_bytes())]) };
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut all = Elements { max, found: Vec::new(), is_over: false };
    let read = deserializer.deserialize_seq(&mut all).and_then(|()| deserializer.end());
    if all.is_over {
        return Err(Refusal::TooMany);
    }
    read.map_err(|e| wrong(&e, 0))?;
    for (place, raw) in all.found.iter().enumerate() {
        let told = format!("message {}: ", place + 1);
        check(raw).map_err(|what| Refusal::Wrong(told + &what))?;
    }
    Ok(all.found.into_iter().map(|raw| body.slice_ref(raw.as_bytes())).collect())
}

fn ndjson(text: &str, body: &Bytes, max: usize) -> Result<Vec<Bytes>, Refusal> {
    let (mut found, mut rest, mut line) = (Vec::new(), text, 0);
    while !rest.is_empty() {
        let (this, tail) = match memchr(b'\n', rest.as_bytes()) {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, ""),
        };
        rest = tail;
        if !this.trim_ascii().is_empty() {
            if found.len() == max {
                return Err(Refusal::TooMany);
            }
            found.push(body.slice_ref(object(this, line)?.as_bytes()));
        }
        line += 1;
    }
    Ok(found)
}

/// The object that is all of a text, which begins `before` lines behind the body's first one.
fn object(text: &str, before: usize) -> Result<&str, Refusal> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|e| wrong(&e, before))?;
    let raw = raw.get();
    check(raw).map_err(|what| Refusal::Wrong(format!("line {}: {what}", before + 1)))?;
    Ok(raw)
}

/// What is well-formed and still no message.
fn check(raw: &str) -> Result<(), String> {
    if !raw.starts_with('{') {
        return Err("expected a JSON object".to_owned());
    }
    let deep = levels(raw);
    if deep > DEPTH_MAX {
        return Err(format!("the object nests {deep} deep, expected at most {DEPTH_MAX}"));
    }
    Ok(())
}

fn wrong(error: &serde_json::Error, before: usize) -> Refusal {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let what = text.strip_suffix(&place).unwrap_or(&text);
    Refusal::Wrong(format!("line {}, column {}: {what}", before + error.line(), error.column()))
}

fn lines(bytes: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', bytes).count()
}

/// The elements of an array as they are written.
struct Elements<'a> {
    max: usize,
    found: Vec<&'a str>,
    is_over: bool,
}

impl<'de> Visitor<'de> for &mut Elements<'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of JSON objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(raw) = elements.next_element::<&RawValue>()? {
            if self.found.len() == self.max {
                self.is_over = true;
                return Err(A::Error::custom("too many"));
            }
            self.found.push(raw.get());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(kind: Kind, body: &[u8]) -> Result<Vec<String>, Refusal> {
        let found = messages(kind, &Bytes::copy_from_slice(body), 3)?;
        Ok(found.into_iter().map(|message| String::from_utf8(message.to_vec()).unwrap()).collect())
    }

    fn told(kind: Kind, body: &[u8]) -> String {
        match read(kind, body) {
            Err(Refusal::Wrong(told)) => told,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_are_as_they_were_written() {
        let json = |body: &str| read(Kind::Json, body.as_bytes()).unwrap();
        assert_eq!(json(" {\"a\": 1.00} \n"), ["{\"a\": 1.00}"]);
        assert_eq!(json("[]"), [""; 0]);
        assert_eq!(json(" [ {\"a\" : [1]} ,\n{} ]"), ["{\"a\" : [1]}", "{}"]);
        let ndjson = |body: &str| read(Kind::Ndjson, body.as_bytes()).unwrap();
        assert_eq!(ndjson(""), [""; 0]);
        assert_eq!(
            ndjson("{\"a\":\"\\n\"}\r\n\n  \n {\"b\":2} \n{}"),
            ["{\"a\":\"\\n\"}", "{\"b\":2}", "{}"]
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        assert!(told(Kind::Ndjson, b"{}\n\n{\"a\":1,}\n").starts_with("line 3, column 8: "));
        assert_eq!(told(Kind::Ndjson, b"{}\n[1]\n"), "line 2: expected a JSON object");
        assert_eq!(told(Kind::Ndjson, b"{} {}"), "line 1, column 4: trailing characters");
        assert_eq!(told(Kind::Ndjson, b"{}\n\xff{}"), "line 2: the bytes are no UTF-8");
        // Which line a parser names of an end of a line is its own affair.
        assert!(told(Kind::Json, b"{\n\"a\": tru, \"b\": 1}").ends_with(": expected ident"));
        assert_eq!(told(Kind::Json, b"[{}, {}\n, 3]"), "message 3: expected a JSON object");
        assert_eq!(told(Kind::Json, b"[{}, {}"), "line 1, column 7: EOF while parsing a list");
        assert_eq!(told(Kind::Json, b"[{}] 1"), "line 1, column 6: trailing characters");
        assert_eq!(told(Kind::Json, b""), "line 1, column 0: EOF while parsing a value");
        assert_eq!(told(Kind::Json, b"\"a\""), "line 1: expected a JSON object");
        let deep = "{\"a\":".repeat(DEPTH_MAX) + "[" + "]" + &"}".repeat(DEPTH_MAX);
        assert!(told(Kind::Json, deep.as_bytes()).contains("deep"), "{deep}");
        // It must not recurse.
        let deeper = "[".repeat(1_000_000);
        assert!(told(Kind::Ndjson, deeper.as_bytes()).starts_with("line 1"));
        assert_eq!(levels("{\"a[{\\\"[\": {\"b\": [1, 2]}, \"c\": {}}"), 3);
    }

    #[test]
    fn one_that_is_too_many_is_told() {
        assert_eq!(read(Kind::Ndjson, b"{}\n{}\n{}\n").unwrap().len(), 3);
        assert_eq!(read(Kind::Ndjson, b"{}\n{}\n{}\n{}"), Err(Refusal::TooMany));
        assert_eq!(read(Kind::Json, b"[{},{},{},{}]"), Err(Refusal::TooMany));
    }

    #[test]
    fn kinds_are_known_by_their_names() {
        assert_eq!(Kind::of("Application/JSON; charset=utf-8"), Some(Kind::Json));
        assert_eq!(Kind::of("application/x-ndjson"), Some(Kind::Ndjson));
        for other in ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"] {
            assert_eq!(Kind::of(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_whole_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(Kind::Json, &body);
            let _ = read(Kind::Ndjson, &body);
        }

        #[test]
        fn lines_come_back(values in proptest::collection::vec("[a-z\"\\\\\n\u{e9}]{0,8}", 0..3)) {
            let all: Vec<String> = values.iter().map(|v| serde_json::json!({"v": v}).to_string()).collect();
            prop_assert_eq!(&read(Kind::Ndjson, all.join("\n").as_bytes()).unwrap(), &all);
            prop_assert_eq!(&read(Kind::Json, format!("[{}]", all.join(", ")).as_bytes()).unwrap(), &all);
        }
    }
}

//! Requests of sink `http`: which rows go together, what a body is, and what names it.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::de::IgnoredAny;
use sluice_connect::task::Chain;

use super::{BatchLimits, BodyFormat};
use crate::stored::RowId;

/// Rows of one request, by their places in a slice, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) rows: Vec<(usize, RowId)>,
    bytes: usize,
}

/// Gathers rows to requests: `len` is of a row's body, in bytes.
pub(super) fn batches(
    limits: &BatchLimits,
    rows: impl Iterator<Item = (usize, RowId)>,
    len: impl Fn(usize) -> usize,
) -> Vec<Batch> {
    let rows_max = usize::try_from(limits.rows).unwrap_or(usize::MAX);
    let bytes_max = usize::try_from(limits.bytes.as_u64()).unwrap_or(usize::MAX);
    let mut all: Vec<Batch> = Vec::new();
    for row in rows {
        let bytes = len(row.0);
        match all.last_mut().filter(|last| last.rows.len() < rows_max && last.bytes + bytes <= bytes_max) {
            Some(last) => {
                last.rows.push(row);
                last.bytes += bytes;
            }
            None => all.push(Batch { rows: vec![row], bytes }),
        }
    }
    all
}

impl BodyFormat {
    /// The header `Content-Type`.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Json => "application/json",
        }
    }

    /// The body of a request with these messages.
    pub(super) fn body<'a>(self, messages: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut body = Vec::new();
        if self == Self::Json {
            body.push(b'[');
        }
        for (number, message) in messages.enumerate() {
            match self {
                Self::Ndjson => {
                    // Line ends within JSON stand between its tokens alone.
                    let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
                    body.extend(message.iter().map(|byte| if is_end(byte) { b' ' } else { *byte }));
                    body.push(b'\n');
                }
                Self::Json => {
                    if number > 0 {
                        body.push(b',');
                    }
                    body.extend_from_slice(message);
                }
            }
        }
        if self == Self::Json {
            body.push(b']');
        }
        body
    }
}

/// Why a message's body is no JSON object, if so.
pub(super) fn unfit(body: &[u8]) -> Option<String> {
    let text = match str::from_utf8(body) {
        Ok(text) => text,
        Err(e) => return Some(format!("the body is no UTF-8 from byte {} on", e.valid_up_to())),
    };
    match serde_json::from_str::<IgnoredAny>(text) {
        Err(e) => Some(format!("the body is no JSON: {e}")),
        Ok(_) if !text.trim_ascii_start().starts_with('{') => Some("the body is no JSON object".to_owned()),
        Ok(_) => None,
    }
}

/// What may stand in a key as it is: the parts of a chain are kept apart by `/`.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%').add(b'\\');

/// `<pipeline>/<topic>/<queue>/<first>-<last>`: the same rows, when they are sent again, have the same one. Where a record
/// became several rows, `.<n>` says which.
pub(super) fn key(chain: &Chain, batch: &Batch) -> String {
    let (first, last) = (batch.rows.first(), batch.rows.last());
    let place = |row: Option<&(usize, RowId)>| match row {
        None => String::new(),
        Some((_, (offset, 0))) => offset.to_string(),
        Some((_, (offset, n))) => format!("{offset}.{n}"),
    };
    let chain = chain.to_string();
    format!("{}/{}-{}", utf8_percent_encode(&chain, ENCODED), place(first), place(last))
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;
    use proptest::prelude::*;

    use super::*;
    use crate::stored::row_ids;

    #[test]
    fn rows_go_together_up_to_the_limits() {
        let limits = BatchLimits { rows: 3, bytes: ByteSize::b(10) };
        let lens = [4, 4, 4, 1, 1, 1, 20, 1];
        let places = row_ids(&[7, 8, 8, 9, 10, 11, 11, 11]).collect::<Vec<_>>();
        let all = batches(&limits, places.into_iter().enumerate(), |row| lens[row]);
        let chain = Chain { pipeline: "p".into(), topic: "in/a b\u{e9}".into(), queue: 2 };
        let keys: Vec<String> = all.iter().map(|batch| key(&chain, batch)).collect();
        let before = "p/in/a%20b%C3%A9/2/";
        assert_eq!(
            keys,
            ["7-8", "8.1-10", "11-11", "11.1-11.1", "11.2-11.2"].map(|key| format!("{before}{key}"))
        );
    }

    #[test]
    fn bodies_are_lines_or_an_array() {
        let messages = [&b"{\"a\":\r\n1}"[..], b"{}"];
        assert_eq!(BodyFormat::Ndjson.body(messages.into_iter()), b"{\"a\":  1}\n{}\n");
        assert_eq!(BodyFormat::Json.body(messages.into_iter()), b"[{\"a\":\r\n1},{}]");
    }

    #[test]
    fn what_is_no_json_object_is_told() {
        assert_eq!(unfit(b" {\"a\": [1]} "), None);
        for (body, part) in [
            (&b""[..], "no JSON: EOF"),
            (b"{", "no JSON"),
            (b"{} {}", "trailing"),
            (b"[1]", "no JSON object"),
            (b"\xff", "no UTF-8 from byte 0"),
        ] {
            assert!(unfit(body).unwrap().contains(part), "{body:?}");
        }
        assert!(unfit("[".repeat(1_000_000).as_bytes()).is_some());
    }

    proptest! {
        #[test]
        fn each_row_goes_once_and_in_order(
            lens in proptest::collection::vec(0usize..30, 0..50), rows in 1u32..5, bytes in 1u64..40
        ) {
            let limits = BatchLimits { rows, bytes: ByteSize::b(bytes) };
            let all = batches(&limits, (0..lens.len()).map(|row| (row, (row as i64, 0))), |row| lens[row]);
            let mut next = 0;
            for batch in &all {
                let sum: usize = batch.rows.iter().map(|(row, _)| lens[*row]).sum();
                prop_assert!(batch.rows.len() <= rows as usize);
                prop_assert!(batch.rows.len() == 1 || sum as u64 <= bytes);
                for (row, _) in &batch.rows {
                    prop_assert_eq!(*row, next);
                    next += 1;
                }
            }
            prop_assert_eq!(next, lens.len());
        }
    }
}

//! Looks at what a broker sends before the client does, which parses headers by recursion and holds a message whole:
//! one whose headers are nested too deep or can not be read, or whose body is too long, comes without them, and
//! with header [`REFUSED`], which says why.
//!
//! A frame is type (1 byte), channel (2), length of the payload (4, big-endian), payload, and the byte 0xCE. The payload
//! of a content header is class (2), weight (2), length of the body (8), flags (2), then the properties that flags
//! name, from the highest bit on.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::io::{AsyncRead, AsyncWrite};
use tokio::io::AsyncWrite as _;

use crate::stream::{Checked, Duplex};

/// Header: why a message came without the others.
pub(super) const REFUSED: &str = "sluice.refused";
/// Tables and lists in one another, at most.
pub(super) const DEPTH_MAX: usize = 32;
/// Longest frame, in bytes; clients and brokers agree on 128 KiB.
const FRAME_MAX: usize = 1024 * 1024;

const METHOD: u8 = 1;
const CONTENT_HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xCE;
/// Class and method of the first frame of a broker, which has a table behind the two bytes of its version.
const CONNECTION_START: [u8; 4] = [0, 10, 0, 10];
const HEADERS_FLAG: u16 = 1 << 13;
/// The properties in their order: text (s), table (F), octet (o) or timestamp (T).
const PROPERTIES: &str = "ssFoossssTssss";

/// A connection behind the guard.
pub(super) struct Guard {
    stream: Checked,
    frames: Frames,
}

impl Guard {
    pub(super) fn new(stream: Box<dyn Duplex>, body_max: u64) -> Self {
        let frames = Frames { body_max, ..Frames::default() };
        Self { stream: Checked::new(stream), frames }
    }
}

impl AsyncRead for Guard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, frames } = &mut *self;
        let next = stream.poll_next(context, out.len(), |bytes, ready| frames.feed(bytes, ready));
        next.map_ok(|bytes| {
            if let Some(to) = out.get_mut(..bytes.len()) {
                to.copy_from_slice(bytes);
            }
            bytes.len()
        })
    }
}

impl AsyncWrite for Guard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream.stream).poll_shutdown(context)
    }
}

/// The frames of one connection, as far as they were seen.
#[derive(Default)]
struct Frames {
    body_max: u64,
    /// The bytes of the frame that is gathered; of a body's the first 7.
    frame: Vec<u8>,
    /// Bytes of a body's frame that are still to come, and whether the client gets them.
    passing: (usize, bool),
    /// Bytes of bodies that the client does not get, by channel.
    dropped: BTreeMap<u16, u64>,
    /// The broker speaks something else and says what: the client tells.
    is_foreign: bool,
}

impl Frames {
    fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        while !bytes.is_empty() {
            if self.is_foreign {
                out.extend_from_slice(bytes);
                return Ok(());
            }
            let (left, is_wanted) = self.passing;
            if left > 0 {
                let (here, rest) = bytes.split_at(left.min(bytes.len()));
                self.passing.0 -= here.len();
                if is_wanted {
                    out.extend_from_slice(here);
                }
                bytes = rest;
                continue;
            }
            let wanted = match self.header()? {
                None => 7 - self.frame.len(),
                Some((_, _, len)) => 7 + len + 1 - self.frame.len(),
            };
            let (here, rest) = bytes.split_at(wanted.min(bytes.len()));
            self.frame.extend_from_slice(here);
            bytes = rest;
            if self.frame.first() == Some(&b'A') {
                self.is_foreign = true;
                out.append(&mut self.frame);
                continue;
            }
            let Some((kind, channel, len)) = self.header()? else { continue };
            if kind == BODY && self.frame.len() == 7 {
                let dropped = self.dropped.get_mut(&channel);
                let is_wanted = dropped.is_none();
                if let Some(dropped) = dropped {
                    *dropped = dropped.saturating_sub(len as u64);
                    if *dropped == 0 {
                        self.dropped.remove(&channel);
                    }
                } else {
                    out.extend_from_slice(&self.frame);
                }
                self.frame.clear();
                self.passing = (len + 1, is_wanted);
            } else if self.frame.len() == 7 + len + 1 {
                self.take(kind, channel, out)?;
                self.frame.clear();
            }
        }
        Ok(())
    }

    /// Type, channel and length of the frame that is gathered, once they are there.
    fn header(&self) -> Result<Option<(u8, u16, usize)>, String> {
        let Some(&[kind, c0, c1, l0, l1, l2, l3]) = self.frame.get(..7) else { return Ok(None) };
        let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if len > FRAME_MAX {
            return Err(format!("the broker sent a frame of {len} bytes, expected at most {FRAME_MAX}"));
        }
        Ok(Some((kind, u16::from_be_bytes([c0, c1]), len)))
    }

    /// Takes a whole frame that is no body's.
    fn take(&mut self, kind: u8, channel: u16, out: &mut Vec<u8>) -> Result<(), String> {
        let payload = self.frame.get(7..self.frame.len() - 1).unwrap_or_default();
        if kind == METHOD && payload.starts_with(&CONNECTION_START) {
            let table = payload.get(6..).unwrap_or_default();
            check_table(table)
                .map_err(|why| format!("the broker's own properties can not be read: {why}"))?;
        }
        if kind != CONTENT_HEADER {
            out.extend_from_slice(&self.frame);
            return Ok(());
        }
        let body = payload.get(4..12).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes);
        let reason = match check_properties(payload) {
            Err(why) => format!("the properties can not be read: {why}"),
            Ok(()) if body > self.body_max => {
                format!("a body of {body} bytes exceeds the limit of {} bytes", self.body_max)
            }
            Ok(()) => {
                out.extend_from_slice(&self.frame);
                return Ok(());
            }
        };
        let kept = if body > self.body_max { 0 } else { body };
        if kept < body {
            self.dropped.insert(channel, body);
        }
        let mut told = payload.get(..4).unwrap_or_default().to_vec();
        told.extend_from_slice(&kept.to_be_bytes());
        told.extend_from_slice(&HEADERS_FLAG.to_be_bytes());
        let table_len = 1 + REFUSED.len() + 1 + 4 + reason.len();
        told.extend_from_slice(&u32::try_from(table_len).unwrap_or(0).to_be_bytes());
        told.push(u8::try_from(REFUSED.len()).unwrap_or(0));
        told.extend_from_slice(REFUSED.as_bytes());
        told.push(b'S');
        told.extend_from_slice(&u32::try_from(reason.len()).unwrap_or(0).to_be_bytes());
        told.extend_from_slice(reason.as_bytes());
        out.push(CONTENT_HEADER);
        out.extend_from_slice(&channel.to_be_bytes());
        out.extend_from_slice(&u32::try_from(told.len()).unwrap_or(0).to_be_bytes());
        out.append(&mut told);
        out.push(FRAME_END);
        Ok(())
    }
}

/// Whether the client can read the properties of a content header.
fn check_properties(payload: &[u8]) -> Result<(), String> {
    let cut = || "they end early".to_owned();
    let flags =
        payload.get(12..14).and_then(|b| b.try_into().ok()).map(u16::from_be_bytes).ok_or_else(cut)?;
    let mut rest = payload.get(14..).ok_or_else(cut)?;
    for (place, kind) in PROPERTIES.chars().enumerate() {
        if flags & (1 << (15 - place)) == 0 {
            continue;
        }
        let len = match kind {
            'F' => 4 + len32(rest).ok_or_else(cut)?,
            's' => 1 + usize::from(*rest.first().ok_or_else(cut)?),
            'o' => 1,
            _ => 8,
        };
        let here = rest.get(..len).ok_or_else(cut)?;
        match kind {
            'F' => check_table(here)?,
            's' if str::from_utf8(&here[1..]).is_err() => return Err("a text is no UTF-8".to_owned()),
            _ => {}
        }
        rest = rest.get(len..).ok_or_else(cut)?;
    }
    if flags & 1 != 0 || !rest.is_empty() {
        Err("there is more than the protocol knows".to_owned())
    } else {
        Ok(())
    }
}

fn len32(bytes: &[u8]) -> Option<usize> {
    let len = bytes.get(..4)?.try_into().ok().map(u32::from_be_bytes)?;
    usize::try_from(len).ok()
}

/// Whether a table, with its length before it, is well-formed and not nested too deep. Walks without recursion.
fn check_table(bytes: &[u8]) -> Result<(), String> {
    let len = len32(bytes).filter(|len| bytes.len() >= 4 + len).ok_or("a table ends early")?;
    walk(bytes, 4, vec![(4 + len, true)])
}

/// The same for one value with its type before it, and nothing behind it.
pub(super) fn check_value(bytes: &[u8]) -> Result<(), String> {
    walk(bytes, 0, vec![(bytes.len(), false)])
}

/// Walks what lies between `at` and the ends of tables (true) and lists that are open.
fn walk(bytes: &[u8], mut at: usize, mut open: Vec<(usize, bool)>) -> Result<(), String> {
    let cut = || "a value ends early".to_owned();
    while let Some(&(end, is_table)) = open.last() {
        if at == end {
            open.pop();
            continue;
        }
        let rest = bytes.get(at..end).ok_or_else(cut)?;
        let mut used = 0;
        if is_table {
            let len = usize::from(*rest.first().ok_or_else(cut)?);
            let name = rest.get(1..=len).ok_or_else(cut)?;
            str::from_utf8(name).map_err(|_| "the name of a header is no UTF-8".to_owned())?;
            used = 1 + len;
        }
        let kind = *rest.get(used).ok_or_else(cut)?;
        used += 1;
        let value = rest.get(used..).ok_or_else(cut)?;
        used += match kind {
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'U' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'l' | b'L' | b'd' | b'T' => 8,
            b'S' | b'x' => 4 + len32(value).ok_or_else(cut)?,
            b'A' | b'F' => {
                let len = len32(value).filter(|len| 4 + len <= value.len()).ok_or_else(cut)?;
                if open.len() >= DEPTH_MAX {
                    return Err(format!("they are nested more than {DEPTH_MAX} deep"));
                }
                at += used + 4;
                open.push((at + len, kind == b'F'));
                continue;
            }
            other => return Err(format!("a value has the unknown type {:?}", char::from(other))),
        };
        at += used;
        if at > end {
            return Err(cut());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 1];
        bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend(payload);
        bytes.push(FRAME_END);
        bytes
    }

    fn content_header(body: u64, table: &[u8]) -> Vec<u8> {
        let mut payload = vec![0, 60, 0, 0];
        payload.extend(body.to_be_bytes());
        payload.extend(HEADERS_FLAG.to_be_bytes());
        payload.extend(u32::try_from(table.len()).unwrap().to_be_bytes());
        payload.extend(table);
        frame(CONTENT_HEADER, &payload)
    }

    /// Table `a` that holds lists in one another.
    fn nested(depth: usize) -> Vec<u8> {
        let value = (0..depth).fold(vec![b't', 1], |inner, _| {
            let mut outer = vec![b'A'];
            outer.extend(u32::try_from(inner.len()).unwrap().to_be_bytes());
            outer.extend(inner);
            outer
        });
        [vec![1, b'a'], value].concat()
    }

    fn through(bytes: &[u8], chunk: usize, body_max: u64) -> Result<Vec<u8>, String> {
        let (mut frames, mut out) = (Frames { body_max, ..Frames::default() }, Vec::new());
        for part in bytes.chunks(chunk) {
            frames.feed(part, &mut out)?;
        }
        Ok(out)
    }

    fn says(out: &[u8], what: &str) -> bool {
        out.windows(what.len()).any(|window| window == what.as_bytes())
    }

    #[test]
    fn what_is_right_goes_through_as_it_is() {
        let all = [
            frame(METHOD, &[0, 60, 0, 60]),
            content_header(3, &nested(DEPTH_MAX - 1)),
            frame(BODY, b"abc"),
            frame(8, &[]),
        ]
        .concat();
        for chunk in 1..all.len() {
            assert_eq!(through(&all, chunk, 3).unwrap(), all, "in parts of {chunk} bytes");
        }
    }

    #[test]
    fn a_message_that_the_client_can_not_read_comes_without_its_headers() {
        let deep = [content_header(3, &nested(20_000)), frame(BODY, b"abc")].concat();
        let out = through(&deep, 1000, 3).unwrap();
        assert!(out.len() < 300 && out.ends_with(&frame(BODY, b"abc")) && says(&out, "nested more than 32"));
        check_properties(&out[7..out.len() - 12]).unwrap();
        let bad: [(&[u8], &str); 3] = [
            (&[1, 0xFF, b't', 1], "no UTF-8"),
            (&[1, b'a', b'?'], "unknown type"),
            (&[9, b'a'], "ends early"),
        ];
        for (table, why) in bad {
            assert!(says(&through(&content_header(0, table), 7, 3).unwrap(), why), "{why}");
        }
    }

    #[test]
    fn a_body_that_is_too_long_is_dropped_and_the_next_one_is_not() {
        let bodies = [frame(BODY, b"too "), frame(BODY, b"long"), content_header(2, &[]), frame(BODY, b"ok")];
        let out = through(&[content_header(8, &[]), bodies.concat()].concat(), 5, 7).unwrap();
        assert!(says(&out, "a body of 8 bytes exceeds the limit of 7 bytes") && says(&out, "ok"));
        assert!(!says(&out, "too ") && !says(&out, "long"));
    }

    #[test]
    fn frames_without_end_are_refused() {
        assert!(through(&[3, 0, 1, 0xFF, 0, 0, 0], 7, 3).unwrap_err().contains("expected at most"));
        assert_eq!(through(b"AMQP\0\0\x09\x01", 3, 3).unwrap(), b"AMQP\0\0\x09\x01", "another version");
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), chunk in 1_usize..20) {
            drop(through(&bytes, chunk, 5));
            drop(check_value(&bytes));
            drop(through(&frame(CONTENT_HEADER, &bytes), chunk, 5));
        }
    }
}

//! Looks at what a broker sends before the client does, which reads values by recursion and holds a message whole: of one
//! whose values are nested too deep or can not be read, or that is too long, the client sees an empty rest, and why
//! stands in [`Seen`].
//!
//! A frame is its length (4 bytes, big-endian), where its body begins in words (1), type (1), channel (2), and the body: one
//! described value, and behind a transfer a part of a message (AMQP 1.0 part 2, section 2.3). A message is a row of
//! described values (part 3, section 3.2).

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::walk::{Walk, check_one, fields};
use crate::stream::{Checked, Duplex};

/// Longest frame that a broker may send, in bytes.
pub(super) const FRAME_MAX: u32 = 256 * 1024;
/// Messages that were not taken and that nobody has asked for yet, at most.
const REFUSED_MAX: usize = 100_000;
/// Descriptors of the performatives that are looked at.
const FLOW: u64 = 0x13;
const TRANSFER: u64 = 0x14;

/// What passed on a connection.
#[derive(Default)]
pub(super) struct Seen {
    /// Messages that are complete.
    pub(super) messages: u64,
    /// The broker has said that it has no more for the credit that it had.
    pub(super) is_drained: bool,
    /// Why messages were not taken, by delivery id.
    pub(super) refused: BTreeMap<u32, String>,
}

/// What passed, as the guard and the client share it.
#[derive(Clone, Default)]
pub(super) struct SharedSeen(Arc<Mutex<Seen>>);

impl SharedSeen {
    pub(super) fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection behind the guard.
pub(super) struct Guard {
    stream: Checked,
    frames: Frames,
}

impl Guard {
    /// Messages may have `message_max` bytes.
    pub(super) fn new(stream: Box<dyn Duplex>, message_max: u64, seen: SharedSeen) -> Self {
        let frames = Frames::new(message_max, seen);
        Self { stream: Checked::new(stream), frames }
    }
}

impl Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a connection")
    }
}

impl AsyncRead for Guard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, frames } = &mut *self;
        let next = stream.poll_next(context, out.remaining(), |bytes, ready| frames.feed(bytes, ready));
        next.map_ok(|bytes| out.put_slice(bytes))
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

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream.stream).poll_shutdown(context)
    }
}

/// The frames of one connection, as far as they were seen.
struct Frames {
    message_max: u64,
    seen: SharedSeen,
    /// The bytes of the frame that is gathered.
    frame: Vec<u8>,
    /// The message whose parts are coming, if any.
    message: Option<Parts>,
}

/// A message, as far as it came.
struct Parts {
    delivery: u32,
    walk: Walk,
    is_refused: bool,
}

/// What a transfer says.
struct Transfer {
    delivery: Option<u32>,
    has_more: bool,
    is_aborted: bool,
}

impl Frames {
    fn new(message_max: u64, seen: SharedSeen) -> Self {
        Self { message_max, seen, frame: Vec::new(), message: None }
    }

    fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        while !bytes.is_empty() {
            let wanted = self.wanted()?.saturating_sub(self.frame.len());
            let (here, rest) = bytes.split_at(wanted.min(bytes.len()));
            self.frame.extend_from_slice(here);
            bytes = rest;
            if self.frame.len() >= 8 && self.frame.len() == self.wanted()? {
                let mut frame = std::mem::take(&mut self.frame);
                if !frame.starts_with(b"AMQP") {
                    self.take(&mut frame)?;
                }
                out.append(&mut frame);
                self.frame = frame;
            }
        }
        Ok(())
    }

    /// Bytes of the frame that is gathered. What both begin with, `AMQP` and the version, has 8.
    fn wanted(&self) -> Result<usize, String> {
        let Some(&[a, b, c, d]) = self.frame.get(..4) else { return Ok(8) };
        let len = u32::from_be_bytes([a, b, c, d]);
        match len {
            _ if [a, b, c, d] == *b"AMQP" => Ok(8),
            0..=7 => Err(format!("the broker sent a frame of {len} bytes, expected at least 8")),
            _ if len > FRAME_MAX => {
                Err(format!("the broker sent a frame of {len} bytes, expected at most {FRAME_MAX}"))
            }
            _ => Ok(len as usize),
        }
    }

    /// Takes a whole frame.
    fn take(&mut self, frame: &mut Vec<u8>) -> Result<(), String> {
        if frame.get(4) != Some(&2) {
            return Err("the broker sent a frame with an extended header".to_owned());
        }
        let body = frame.get(8..).unwrap_or_default();
        // An empty frame says that the broker is there.
        if body.is_empty() {
            return Ok(());
        }
        let told = |why| format!("the broker sent a frame that can not be read: {why}");
        let len = check_one(body).map_err(told)?;
        let (code, fields) = fields(body.get(..len).unwrap_or_default());
        match code {
            Some(FLOW) => {
                let is_set = |place: usize| fields.get(place).is_some_and(|field| bool_of(field));
                let credit = fields.get(6).and_then(|field| u32_of(field));
                if is_set(8) && credit == Some(0) {
                    self.seen.lock().is_drained = true;
                }
                Ok(())
            }
            Some(TRANSFER) => {
                let transfer = Transfer {
                    delivery: fields.get(1).and_then(|field| u32_of(field)),
                    has_more: fields.get(5).is_some_and(|field| bool_of(field)),
                    is_aborted: fields.get(9).is_some_and(|field| bool_of(field)),
                };
                let begin = 8 + len;
                if self.part(&transfer, frame.get(begin..).unwrap_or_default())? {
                    return Ok(());
                }
                frame.truncate(begin);
                let len = u32::try_from(frame.len()).unwrap_or(u32::MAX).to_be_bytes();
                if let Some(head) = frame.get_mut(..4) {
                    head.copy_from_slice(&len);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Looks at a part of a message: whether the client may see it.
    fn part(&mut self, transfer: &Transfer, bytes: &[u8]) -> Result<bool, String> {
        if transfer.is_aborted {
            self.message = None;
            return Ok(true);
        }
        let mut message = self.message.take().unwrap_or_else(|| Parts {
            delivery: transfer.delivery.unwrap_or_default(),
            walk: Walk::new(self.message_max),
            is_refused: false,
        });
        if !message.is_refused {
            let walked = message.walk.feed(bytes).and_then(|()| match transfer.has_more {
                true => Ok(()),
                false => message.walk.finish(),
            });
            if let Err(why) = walked {
                message.is_refused = true;
                let mut seen = self.seen.lock();
                if seen.refused.len() >= REFUSED_MAX {
                    return Err(format!(
                        "the broker sent more than {REFUSED_MAX} messages that can not be read"
                    ));
                }
                seen.refused.insert(message.delivery, format!("the message can not be read: {why}"));
            }
        }
        let is_whole = !message.is_refused;
        if transfer.has_more {
            self.message = Some(message);
        } else {
            self.seen.lock().messages += 1;
        }
        Ok(is_whole)
    }
}

fn bool_of(field: &[u8]) -> bool {
    matches!(field, [0x41] | [0x56, 1])
}

fn u32_of(field: &[u8]) -> Option<u32> {
    match *field {
        [0x43] => Some(0),
        [0x52, byte] => Some(u32::from(byte)),
        [0x70, a, b, c, d] => Some(u32::from_be_bytes([a, b, c, d])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame of type AMQP.
    fn frame(body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(8 + body.len()).unwrap();
        [&len.to_be_bytes()[..], &[2, 0, 0, 0], body].concat()
    }

    /// A transfer of delivery `id`, with a part of a message.
    fn transfer(id: u8, has_more: bool, part: &[u8]) -> Vec<u8> {
        let more = if has_more { 0x41 } else { 0x42 };
        // Handle, delivery id, tag, format, settled, more.
        let fields = [0x43, 0x52, id, 0xA0, 1, id, 0x43, 0x42, more];
        let list = [&[0xC0, u8::try_from(fields.len() + 1).unwrap(), 6][..], &fields].concat();
        frame(&[&[0, 0x53, 0x14][..], &list, part].concat())
    }

    /// A message whose application property is lists in one another.
    fn nested(depth: usize) -> Vec<u8> {
        let value = (0..depth).fold(vec![0x41], |inner, _| {
            let len = u32::try_from(inner.len() + 4).unwrap();
            [&[0xD0][..], &len.to_be_bytes(), &1_u32.to_be_bytes(), &inner].concat()
        });
        let len = u32::try_from(4 + 3 + value.len()).unwrap();
        [&[0, 0x53, 0x74, 0xD1][..], &len.to_be_bytes(), &2_u32.to_be_bytes(), &[0xA1, 1, b'a'], &value]
            .concat()
    }

    /// A message that is a data section.
    fn data(bytes: &[u8]) -> Vec<u8> {
        let len = u32::try_from(bytes.len()).unwrap();
        [&[0, 0x53, 0x75, 0xB0][..], &len.to_be_bytes(), bytes].concat()
    }

    fn through(bytes: &[u8], chunk: usize, message_max: u64) -> Result<(Vec<u8>, SharedSeen), String> {
        let seen = SharedSeen::default();
        let (mut frames, mut out) = (Frames::new(message_max, seen.clone()), Vec::new());
        for part in bytes.chunks(chunk) {
            frames.feed(part, &mut out)?;
        }
        Ok((out, seen))
    }

    #[test]
    fn what_is_right_goes_through_as_it_is() {
        let message = data(b"a body in parts");
        let drained = [0, 0x53, 0x13, 0xC0, 10, 9, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x43, 0x40, 0x41];
        let all = [
            b"AMQP\x03\x01\0\0AMQP\0\x01\0\0".to_vec(),
            frame(&[]),
            transfer(1, false, &nested(26)),
            transfer(2, true, &message[..5]),
            transfer(2, true, &message[5..6]),
            transfer(2, false, &message[6..]),
            frame(&drained),
        ]
        .concat();
        for chunk in 1..all.len() {
            let (out, seen) = through(&all, chunk, 500).unwrap();
            assert_eq!(out, all, "in parts of {chunk} bytes");
            let seen = seen.lock();
            assert!(seen.messages == 2 && seen.is_drained && seen.refused.is_empty());
        }
    }

    #[test]
    fn of_what_the_client_can_not_read_it_sees_nothing_and_the_next_is_whole() {
        let long = data(&[7; 600]);
        let all = [
            transfer(1, false, &nested(20_000)),
            transfer(2, true, &long[..400]),
            transfer(2, false, &long[400..]),
            transfer(3, false, &data(b"cut")[..9]),
            transfer(4, false, &data(b"whole")),
        ]
        .concat();
        let (out, seen) = through(&all, 1000, 500_000).unwrap();
        assert!(seen.lock().refused[&1].contains("nested more than 32 deep"));
        assert!(out.starts_with(&transfer(1, false, b"")));
        let (out, seen) = through(&all[transfer(1, false, &nested(20_000)).len()..], 7, 500).unwrap();
        let expected = [
            transfer(2, true, b""),
            transfer(2, false, b""),
            transfer(3, false, b""),
            transfer(4, false, &data(b"whole")),
        ];
        assert_eq!(out, expected.concat());
        let seen = seen.lock();
        assert!(seen.refused[&2].contains("it has more than 500 bytes: raise `body_max`"));
        assert!(seen.refused[&3].contains("end early"));
        assert_eq!((seen.refused.len(), seen.messages), (2, 3));
    }

    #[test]
    fn frames_that_the_protocol_does_not_know_are_refused() {
        for (bytes, part) in [
            (&[0, 0, 0, 7][..], "at least 8"),
            (&[0xFF, 0, 0, 0], "at most"),
            (&[0, 0, 0, 9, 3, 0, 0, 0, 0x40], "extended header"),
            (&[0, 0, 0, 9, 2, 0, 0, 0, 0xFF], "can not be read"),
        ] {
            // The next byte tells of a length that is wrong.
            let told = through(&[bytes, &[0]].concat(), 1, 3).err().unwrap();
            assert!(told.contains(part), "{told}");
        }
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), chunk in 1_usize..20) {
            drop(through(&bytes, chunk, 50));
            drop(through(&frame(&bytes), chunk, 50));
            drop(through(&transfer(1, false, &bytes), chunk, 50));
        }
    }
}

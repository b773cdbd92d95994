//! A remoting frame of `RocketMQ` 4.x and 5.x: lengths, header, body. Big-endian:
//!
//! | field         | bytes | meaning                                            |
//! |---------------|------:|----------------------------------------------------|
//! | length        |     4 | bytes that follow                                  |
//! | header kind   |     1 | 0 JSON, 1 binary, see [`HeaderKind`]               |
//! | header length |     3 | in bytes                                           |
//! | header        |     n | see [`Header`]                                     |
//! | body          |  rest | often none                                         |
//!
//! An unfinished frame is not an error. Never copies a body, never reads or writes a socket.

use crate::header::{Header, HeaderError, HeaderKind};

/// Longest frame, its length word included, in bytes; Java peers close the connection on a longer one.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// Longest header, in bytes.
const HEADER_BYTES_MAX: usize = (1 << 24) - 1;

/// Bytes that start no frame, or a frame that can not be written. Nothing after it can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields and their units")]
pub enum FrameError {
    /// Longer than the receiver takes.
    #[error("frame of {len} bytes exceeds the limit of {max} bytes")]
    TooLong { len: usize, max: usize },
    /// The header would not fit into the frame.
    #[error("frame of {len} bytes has no room for a header of {header_len} bytes")]
    HeaderLength { len: usize, header_len: usize },
    /// Neither JSON nor binary.
    #[error("header kind {kind} is neither 0 (json) nor 1 (binary)")]
    HeaderKind { kind: u8 },
    /// The header can not be written.
    #[error("header can not be written")]
    Header(#[from] HeaderError),
}

/// One frame, borrowed from the bytes received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// How the header is encoded; answer in the same kind.
    pub kind: HeaderKind,
    /// The encoded header, see [`Frame::header`].
    pub header: &'a [u8],
    /// The body; none and empty are the same.
    pub body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the start of `bytes` and its length in bytes, or nothing while it is unfinished.
    pub fn decode(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, FrameError> {
        Self::decode_within(bytes, FRAME_BYTES_MAX)
    }

    /// As [`Frame::decode`], of frames of at most `bytes_max` bytes.
    pub fn decode_within(bytes: &'a [u8], bytes_max: usize) -> Result<Option<(Self, usize)>, FrameError> {
        let Some(len) = frame_len(bytes, bytes_max)? else { return Ok(None) };
        let Some(&[_, _, _, _, kind, high, middle, low]) = bytes.first_chunk() else { return Ok(None) };
        let kind = match kind {
            0 => HeaderKind::Json,
            1 => HeaderKind::Binary,
            _ => return Err(FrameError::HeaderKind { kind }),
        };
        let header_len = u32::from_be_bytes([0, high, middle, low]) as usize;
        if header_len > len - 8 {
            return Err(FrameError::HeaderLength { len, header_len });
        }
        let Some((header, body)) = bytes.get(8..len).and_then(|rest| rest.split_at_checked(header_len))
        else {
            return Ok(None);
        };
        Ok(Some((Self { kind, header, body }, len)))
    }

    /// Reads the header. An error concerns this frame alone; the next one can be read.
    pub fn header(&self) -> Result<Header<'a>, HeaderError> {
        Header::decode(self.kind, self.header)
    }
}

/// Length of the whole frame that `bytes` start, in bytes, as soon as they tell it: how much to read.
pub fn frame_len(bytes: &[u8], bytes_max: usize) -> Result<Option<usize>, FrameError> {
    let Some(word) = bytes.first_chunk() else { return Ok(None) };
    let len = (u32::from_be_bytes(*word) as usize).saturating_add(4);
    if len > bytes_max {
        return Err(FrameError::TooLong { len, max: bytes_max });
    }
    if len < 8 {
        return Err(FrameError::HeaderLength { len, header_len: 0 });
    }
    Ok(Some(len))
}

/// Appends all of a frame but its body of `body_len` bytes, which the caller sends after it. On an error
/// `out` is as it was.
pub fn encode_head(
    out: &mut Vec<u8>,
    kind: HeaderKind,
    header: &Header<'_>,
    body_len: usize,
) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    let ended = header.encode(kind, out).map_err(FrameError::from).and_then(|()| {
        let header_len = out.len() - start - 8;
        let len = (8 + header_len).saturating_add(body_len);
        if len > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong { len, max: FRAME_BYTES_MAX });
        }
        if header_len > HEADER_BYTES_MAX {
            return Err(FrameError::HeaderLength { len, header_len });
        }
        if let Some(head) = out.get_mut(start..start + 8) {
            #[expect(clippy::cast_possible_truncation, reason = "both are below 16 MiB")]
            let (len, header_len) = ((len - 4) as u32, header_len as u32);
            let kind = if kind == HeaderKind::Binary { 1 << 24 } else { 0 };
            let (first, second) = head.split_at_mut(4);
            first.copy_from_slice(&len.to_be_bytes());
            second.copy_from_slice(&(header_len | kind).to_be_bytes());
        }
        Ok(())
    });
    ended.inspect_err(|_| out.truncate(start))
}

/// Appends a whole frame.
pub fn encode(
    out: &mut Vec<u8>,
    kind: HeaderKind,
    header: &Header<'_>,
    body: &[u8],
) -> Result<(), FrameError> {
    encode_head(out, kind, header, body.len())?;
    out.extend_from_slice(body);
    Ok(())
}

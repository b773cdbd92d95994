//! Bodies that clients compress: RFC 1950 zlib, an LZ4 frame or a Zstandard frame, as the flags of the message say.
//!
//! The flags say [`sys_flag::COMPRESSED`] and the kind. A broker keeps the body as it was sent.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use crate::message::sys_flag;

/// Longest body once it is inflated, in bytes: what clients compress is at most as long.
pub const INFLATED_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Flags of a body that [`deflate`] made, as Java's clients of 4.9 and 5.x set them.
pub const DEFLATED: i32 = sys_flag::COMPRESSED | ZLIB;

/// Kinds, by [`sys_flag::COMPRESSION`]; none is zlib too, from clients that do not name the kind.
const LZ4: i32 = 0x100;
const ZSTD: i32 = 0x200;
const ZLIB: i32 = 0x300;

/// Level of `RocketMQ`'s clients.
const ZLIB_LEVEL: u32 = 5;

/// A body that can not be inflated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields and their units")]
pub enum InflateError {
    /// Not a stream of its kind, or cut.
    #[error("the compressed body is damaged: {reason}")]
    Damaged { reason: String },
    /// Larger than any client sends.
    #[error("the unpacked body exceeds the limit of {max} bytes")]
    TooLarge { max: usize },
}

/// The body of a message with these flags as its producer made it.
pub fn inflate(body: &[u8], flags: i32) -> Result<Vec<u8>, InflateError> {
    match flags & sys_flag::COMPRESSION {
        LZ4 => read(lz4_flex::frame::FrameDecoder::new(body)),
        ZSTD => read(zstd::Decoder::with_buffer(body).map_err(damaged)?),
        _ => read(ZlibDecoder::new(body)),
    }
}

/// The body compressed, with [`DEFLATED`] for its flags; `None` if that would not make it smaller.
pub fn deflate(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(ZLIB_LEVEL));
    // Writing into memory does not fail; if it ever did, the body is sent as it is.
    encoder.write_all(body).ok()?;
    encoder.finish().ok().filter(|deflated| deflated.len() < body.len())
}

fn read(decoder: impl Read) -> Result<Vec<u8>, InflateError> {
    let mut body = Vec::new();
    decoder.take(INFLATED_BODY_BYTES_MAX as u64 + 1).read_to_end(&mut body).map_err(damaged)?;
    if body.len() > INFLATED_BODY_BYTES_MAX {
        return Err(InflateError::TooLarge { max: INFLATED_BODY_BYTES_MAX });
    }
    Ok(body)
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn damaged(error: std::io::Error) -> InflateError {
    InflateError::Damaged { reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deflated_inflates_and_what_would_not_shrink_stays() {
        let body = b"region=EU;".repeat(1000);
        let deflated = deflate(&body).unwrap();
        assert!(deflated.len() < body.len() / 10);
        // Clients that do not name the kind mean zlib as well.
        for flags in [DEFLATED, sys_flag::COMPRESSED] {
            assert_eq!(inflate(&deflated, flags), Ok(body.clone()));
        }
        assert_eq!(deflate(b"short"), None);
        let cut = inflate(&deflated[..deflated.len() / 2], DEFLATED);
        assert!(matches!(cut, Err(InflateError::Damaged { .. })), "{cut:?}");
    }

    #[test]
    fn a_body_that_inflates_beyond_the_limit_is_refused() {
        let bomb = deflate(&vec![0; INFLATED_BODY_BYTES_MAX + 1]).unwrap();
        assert_eq!(inflate(&bomb, DEFLATED), Err(InflateError::TooLarge { max: INFLATED_BODY_BYTES_MAX }));
    }
}

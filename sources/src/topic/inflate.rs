//! Unpacks the bodies that clients compress.

use std::io::Read;

use flate2::read::ZlibDecoder;
use sluice_protocol::message::sys_flag;

/// Longest body once it is unpacked, in bytes: what clients compress is at most as long.
pub(super) const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

const LZ4: i32 = 0x100;
const ZSTD: i32 = 0x200;

/// The body, or why it can not be unpacked. Clients that do not name the kind use zlib.
pub fn inflate(body: &[u8], flags: i32) -> Result<Vec<u8>, String> {
    match flags & sys_flag::COMPRESSION {
        LZ4 => read(lz4_flex::frame::FrameDecoder::new(body)),
        ZSTD => read(zstd::Decoder::with_buffer(body).map_err(|e| damaged(&e))?),
        _ => read(ZlibDecoder::new(body)),
    }
}

fn read(decoder: impl Read) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    decoder.take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut body).map_err(|e| damaged(&e))?;
    if body.len() > BODY_BYTES_MAX {
        return Err(format!("the unpacked body exceeds the limit of {BODY_BYTES_MAX} bytes"));
    }
    Ok(body)
}

fn damaged(error: &std::io::Error) -> String {
    format!("the compressed body is damaged: {error}")
}

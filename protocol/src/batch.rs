//! The body of a sent batch: messages one after the other, as a client writes them (code 320, or 310 with
//! `m`). Big-endian:
//!
//! | field      | bytes | meaning                                              |
//! |------------|------:|------------------------------------------------------|
//! | size       |     4 | length of the whole item, in bytes                   |
//! | magic      |     4 | 0                                                    |
//! | body crc   |     4 | 0                                                    |
//! | flag       |     4 | the producer's own flag                              |
//! | body       | 4 + n | length, bytes; never compressed                      |
//! | properties | 2 + n | length (at most 32,767), text, perhaps without its last separator |
//!
//! Topic, queue and times stand in the request's header and hold for all of them.

use crate::message::PROPERTIES_BYTES_MAX;

/// Bytes of an item without body and properties.
const ITEM_BYTES_MIN: usize = 4 + 4 + 4 + 4 + 4 + 2;

/// Bytes that are no batch, or a message that can not be in one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields and their units")]
pub enum BatchError {
    /// A length that contradicts the rest.
    #[error("item at byte {at} of a batch of {len} bytes has a bad {field}")]
    Field { field: &'static str, at: usize, len: usize },
    /// The message does not fit.
    #[error("{field} of {len} bytes exceeds the limit of {max} bytes")]
    TooLarge { field: &'static str, len: usize, max: usize },
}

/// One message of a batch, borrowed from its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchItem<'a> {
    /// The producer's own flag.
    pub flag: i32,
    /// The payload.
    pub body: &'a [u8],
    /// Encoded properties, see [`crate::message`].
    pub properties: &'a [u8],
}

/// The messages of a batch. Ends after the first error. Nothing is copied, so their number needs no limit.
pub fn items(body: &[u8]) -> impl Iterator<Item = Result<BatchItem<'_>, BatchError>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = body.get(at..).filter(|rest| !rest.is_empty())?;
        Some(match item(rest) {
            Ok((item, size)) => {
                at += size;
                Ok(item)
            }
            Err(field) => {
                let error = BatchError::Field { field, at, len: body.len() };
                at = body.len();
                Err(error)
            }
        })
    })
}

/// The item at the start of `rest` and its size; an error names the field that does not fit.
fn item(rest: &[u8]) -> Result<(BatchItem<'_>, usize), &'static str> {
    let (size, _) = rest.split_first_chunk().ok_or("size")?;
    let size = u32::from_be_bytes(*size) as usize;
    let fields = rest.get(..size).and_then(|item| item.get(12..)).ok_or("size")?;
    let (flag, fields) = fields.split_first_chunk().ok_or("size")?;
    let (body_len, fields) = fields.split_first_chunk().ok_or("size")?;
    let (body, fields) =
        fields.split_at_checked(u32::from_be_bytes(*body_len) as usize).ok_or("body length")?;
    let (properties_len, properties) = fields.split_first_chunk().ok_or("body length")?;
    let properties_len = usize::from(u16::from_be_bytes(*properties_len));
    if properties_len != properties.len() || properties_len > PROPERTIES_BYTES_MAX {
        return Err("properties length");
    }
    Ok((BatchItem { flag: i32::from_be_bytes(*flag), body, properties }, size))
}

/// Appends a message to a batch.
pub fn push(out: &mut Vec<u8>, item: &BatchItem<'_>) -> Result<(), BatchError> {
    let limit =
        |field, len, max| if len > max { Err(BatchError::TooLarge { field, len, max }) } else { Ok(()) };
    limit("properties", item.properties.len(), PROPERTIES_BYTES_MAX)?;
    limit("body", item.body.len(), i32::MAX as usize - ITEM_BYTES_MIN - PROPERTIES_BYTES_MAX)?;
    #[expect(clippy::cast_possible_truncation, reason = "the limits hold")]
    let [size, body_len, properties_len] = [
        (ITEM_BYTES_MIN + item.body.len() + item.properties.len()) as u32,
        item.body.len() as u32,
        item.properties.len() as u32,
    ];
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&item.flag.to_be_bytes());
    out.extend_from_slice(&body_len.to_be_bytes());
    out.extend_from_slice(item.body);
    let [_, _, high, low] = properties_len.to_be_bytes();
    out.extend_from_slice(&[high, low]);
    out.extend_from_slice(item.properties);
    Ok(())
}

//! The prefix that Confluent's serializers put before a body: byte 0, then the schema's id as 4 bytes, big-endian;
//! Protobuf has the message's indexes after it.
//!
//! Source: Confluent, "Formats, Serializers, and Deserializers", wire format.

use crate::path::Misfit;

/// Message indexes of one prefix.
const INDEXES_MAX: usize = 64;

/// The schema's id, and what follows it.
pub fn schema_id(body: &[u8]) -> Result<(u32, &[u8]), String> {
    match body {
        [0, a, b, c, d, rest @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), rest)),
        [0, ..] => Err(format!("$: {} bytes are too few for a schema id", body.len())),
        [first, ..] => Err(format!("$: begins with byte {first} and not with 0, as a schema id does")),
        [] => Err("$: no bytes, expected a schema id".to_owned()),
    }
}

/// The indexes that lead to a message: of a file's messages, then of those nested in each; and what follows them.
pub(crate) fn message_indexes(mut body: &[u8]) -> Result<(Vec<usize>, &[u8]), Misfit> {
    let count = zigzag(&mut body)?;
    // The first message alone is written as a count of none.
    if count == 0 {
        return Ok((vec![0], body));
    }
    if count > INDEXES_MAX {
        return Err(Misfit::new(format!("{count} message indexes, at most {INDEXES_MAX} are read")));
    }
    let indexes = (0..count).map(|_| zigzag(&mut body)).collect::<Result<_, _>>()?;
    Ok((indexes, body))
}

fn zigzag(body: &mut &[u8]) -> Result<usize, Misfit> {
    let wrong = || Misfit::new("the message indexes are no numbers");
    let mut value = 0_u64;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = body.split_first().ok_or_else(wrong)?;
        *body = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            // Zigzag: even numbers are the positive ones.
            return if value.is_multiple_of(2) {
                usize::try_from(value / 2).map_err(|_| wrong())
            } else {
                Err(wrong())
            };
        }
    }
    Err(wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_gives_its_id_and_its_indexes() {
        assert_eq!(schema_id(&[0, 0, 0, 1, 2, 9]), Ok((258, &[9][..])));
        for (body, reason) in
            [(&[][..], "no bytes"), (&[0, 1, 2], "too few"), (&[1, 0, 0, 0, 1], "begins with byte 1")]
        {
            assert!(schema_id(body).unwrap_err().contains(reason));
        }
        let read = |body: &[u8]| {
            message_indexes(body).map(|(i, rest)| (i, rest.to_vec())).map_err(Misfit::into_text)
        };
        assert_eq!(read(&[0, 7]), Ok((vec![0], vec![7])));
        assert_eq!(read(&[4, 2, 6, 7]), Ok((vec![1, 3], vec![7])));
        for bad in [&[][..], &[4, 2], &[3], &[255, 255, 255, 255, 255, 1], &[200, 1]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}

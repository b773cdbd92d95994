//! What a broker tells a name server about its topics: the body of code 103.
//!
//! Plain, it is JSON. Compressed, one zlib stream; numbers big-endian, of 4 bytes:
//!
//! | field            | meaning                                                               |
//! |------------------|-----------------------------------------------------------------------|
//! | data version     | length in bytes, JSON                                                 |
//! | topics           | count; of each length in bytes, [`TopicConfig::line`]                 |
//! | filter servers   | length in bytes, JSON list                                            |
//! | mappings         | from 5.x on: count; of each length in bytes, JSON, which is left      |
//!
//! A checksum of the body as sent stands in the header, see [`body_crc32`](crate::record::body_crc).

use std::io::{Read, Write};

use crate::body::{bodies, decode, encode};
use crate::json::{ITEMS_MAX, JsonError};
use crate::topic::{TopicConfig, TopicConfigTable};

/// Longest registration once it is inflated, in bytes.
pub const INFLATED_BYTES_MAX: usize = 64 << 20;

/// A registration that can not be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields and their units")]
pub enum RegistrationError {
    /// Not the JSON of a registration.
    #[error("registration is not readable")]
    Json(#[from] JsonError),
    /// Not a zlib stream.
    #[error("registration can not be inflated")]
    Inflate(#[source] std::io::Error),
    /// Larger than we take.
    #[error("registration has more than {max} {unit}")]
    TooLarge { max: usize, unit: &'static str },
    /// A length that contradicts the rest.
    #[error("registration is cut in its {field}")]
    Cut { field: &'static str },
    /// Not a topic's line.
    #[error("registration has topic {line:?}")]
    Topic { line: String },
}

bodies! {
    /// A broker's topics.
    Registration {
        /// Normally empty.
        filter_server_list: Vec<String> = "filterServerList";
        topics: TopicConfigTable = "topicConfigSerializeWrapper";
    }
}

impl Registration {
    /// Reads a body, compressed or not, as the request's header says.
    pub fn decode_as(body: &[u8], compressed: bool) -> Result<Self, RegistrationError> {
        if !compressed {
            return Ok(Self::decode(body)?);
        }
        let mut inflated = Vec::new();
        flate2::read::ZlibDecoder::new(body)
            .take(INFLATED_BYTES_MAX as u64 + 1)
            .read_to_end(&mut inflated)
            .map_err(RegistrationError::Inflate)?;
        if inflated.len() > INFLATED_BYTES_MAX {
            return Err(RegistrationError::TooLarge { max: INFLATED_BYTES_MAX, unit: "bytes" });
        }
        Self::decode_inflated(&inflated)
    }

    fn decode_inflated(mut rest: &[u8]) -> Result<Self, RegistrationError> {
        let mut read = Self::default();
        read.topics.data_version = decode(block(&mut rest, "data version")?)?;
        let count = number(&mut rest, "topic count")?;
        if count > ITEMS_MAX {
            return Err(RegistrationError::TooLarge { max: ITEMS_MAX as usize, unit: "topics" });
        }
        for _ in 0..count {
            let line = String::from_utf8_lossy(block(&mut rest, "topic")?);
            let topic = TopicConfig::from_line(&line)
                .ok_or_else(|| RegistrationError::Topic { line: line.chars().take(300).collect() })?;
            read.topics.topic_config_table.insert(topic.topic_name.clone(), topic);
        }
        read.filter_server_list = decode(block(&mut rest, "filter servers")?)?;
        Ok(read)
    }

    /// The compressed body.
    pub fn encode_compressed(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        put(&mut plain, &self.topics.data_version.encode());
        put_number(&mut plain, self.topics.topic_config_table.len());
        for topic in self.topics.topic_config_table.values() {
            put(&mut plain, topic.line().as_bytes());
        }
        put(&mut plain, &encode(&self.filter_server_list, false));
        put_number(&mut plain, 0);
        let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        // Writing into memory does not fail; if it ever did, the receiver would see a cut stream.
        let _ = out.write_all(&plain);
        out.finish().unwrap_or_default()
    }
}

fn number(rest: &mut &[u8], field: &'static str) -> Result<u32, RegistrationError> {
    let (number, after) = rest.split_first_chunk().ok_or(RegistrationError::Cut { field })?;
    *rest = after;
    Ok(u32::from_be_bytes(*number))
}

fn block<'a>(rest: &mut &'a [u8], field: &'static str) -> Result<&'a [u8], RegistrationError> {
    let len = number(rest, field)? as usize;
    let (block, after) = rest.split_at_checked(len).ok_or(RegistrationError::Cut { field })?;
    *rest = after;
    Ok(block)
}

fn put(out: &mut Vec<u8>, block: &[u8]) {
    put_number(out, block.len());
    out.extend_from_slice(block);
}

fn put_number(out: &mut Vec<u8>, number: usize) {
    out.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes());
}

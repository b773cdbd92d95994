//! The id that a broker gives a message: where its record stands.
//!
//! Upper-case hex of the broker's address (4 or 16 bytes), its port (4) and the record's log offset (8): 32 or
//! 56 letters. The client's own id, property `UNIQ_KEY`, is another one, which nobody reads.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::id::LogOffset;

/// Text that is no message id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message id {id:?} is not 32 or 56 hex digits of address, port and offset")]
pub struct MessageIdError {
    /// The text, or its start.
    pub id: String,
}

/// Where a message's record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId {
    /// The broker's address.
    pub store_host: SocketAddr,
    /// Start of the record in the broker's commit log.
    pub log_offset: LogOffset,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By hand, as a broker writes one for each message that it stores.
        let mut digits = Digits { text: [0; 56], len: 0 };
        match self.store_host.ip() {
            IpAddr::V4(ip) => digits.push(&ip.octets()),
            IpAddr::V6(ip) => digits.push(&ip.octets()),
        }
        digits.push(&u32::from(self.store_host.port()).to_be_bytes());
        digits.push(&self.log_offset.get().to_be_bytes());
        let text = digits.text.get(..digits.len).unwrap_or_default();
        f.write_str(str::from_utf8(text).map_err(|_| fmt::Error)?)
    }
}

/// Bytes as hexadecimal digits.
struct Digits {
    text: [u8; 56],
    len: usize,
}

impl Digits {
    fn push(&mut self, bytes: &[u8]) {
        let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 };
        let room = self.text.iter_mut().skip(self.len);
        let digits = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
        room.zip(digits).for_each(|(place, digit)| *place = digit);
        self.len += 2 * bytes.len();
    }
}

impl FromStr for MessageId {
    type Err = MessageIdError;

    fn from_str(id: &str) -> Result<Self, MessageIdError> {
        parse(id).ok_or_else(|| MessageIdError { id: id.chars().take(100).collect() })
    }
}

fn parse(id: &str) -> Option<MessageId> {
    if !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let (address, rest) = id.split_at_checked(id.len().checked_sub(24)?)?;
    let (port, offset) = rest.split_at_checked(8)?;
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?).into(),
        32 => Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?).into(),
        _ => return None,
    };
    let port = u32::from_str_radix(port, 16).ok()?.try_into().ok()?;
    let log_offset = LogOffset::new(u64::from_str_radix(offset, 16).ok()?);
    Some(MessageId { store_host: SocketAddr::new(ip, port), log_offset })
}

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
        match self.store_host.ip() {
            IpAddr::V4(ip) => write!(f, "{:08X}", u32::from(ip))?,
            IpAddr::V6(ip) => write!(f, "{:032X}", u128::from(ip))?,
        }
        write!(f, "{:08X}{:016X}", self.store_host.port(), self.log_offset.get())
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

//! Messages as `RocketMQ` writes them: bytes in, bytes out.
//!
//! Knows no file, socket, clock or thread, so that the store, the filters and the wire share one
//! encoder and one decoder of each format.

pub mod id;
pub mod message;
pub mod record;

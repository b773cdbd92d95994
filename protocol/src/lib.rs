//! Messages and remoting as `RocketMQ` writes them: bytes in, bytes out.
//!
//! Knows no file, socket, clock or thread, so that the store, the filters and the wire share one
//! encoder and one decoder of each format.

pub mod batch;
pub mod body;
pub mod code;
pub mod compression;
pub mod delay;
pub mod fields;
pub mod frame;
pub mod header;
pub mod heartbeat;
pub mod id;
pub mod json;
pub mod message;
pub mod message_id;
pub mod queue;
pub mod record;
pub mod registration;
pub mod request;
pub mod response;
pub mod route;
pub mod signature;
pub mod topic;
pub mod version;

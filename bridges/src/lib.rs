//! What a source and a sink of one outside system share: the settings of its connection, and the mapping of its
//! records to messages. Knows no task: those are in `sources` and `sinks`.

pub mod address;
pub mod amqp091;
pub mod amqp10;
pub mod kafka;
pub mod message;
pub mod postgres;
#[cfg(feature = "stream")]
pub mod stream;
#[cfg(any(feature = "amqp091", feature = "amqp10"))]
mod typed;
pub mod zeromq;

use sluice_connect::task::{Class, TaskError};

/// What a program answers that was built without one of these systems; `message` is its `WITHOUT`.
pub fn without(message: &str) -> TaskError {
    TaskError::new(Class::Config, message)
}

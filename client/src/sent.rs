//! What a producer says of its messages.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use sluice_protocol::code::ResponseCode;
use sluice_protocol::message_id::MessageId;
use tokio::sync::oneshot;

use crate::error::Error;
use crate::route::Queue;

/// How far a message got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendStatus {
    /// It is stored as the broker is set up to.
    Stored,
    /// It is stored, but not yet known to be on disk.
    FlushDiskTimeout,
    /// It is stored, but not yet known to be at a slave.
    FlushSlaveTimeout,
    /// It is stored, but there is no slave.
    SlaveNotAvailable,
}

impl SendStatus {
    /// The status that a response code says, if it says that the message is stored.
    pub(crate) const fn of(code: ResponseCode) -> Option<Self> {
        match code {
            ResponseCode::SUCCESS => Some(Self::Stored),
            ResponseCode::FLUSH_DISK_TIMEOUT => Some(Self::FlushDiskTimeout),
            ResponseCode::FLUSH_SLAVE_TIMEOUT => Some(Self::FlushSlaveTimeout),
            ResponseCode::SLAVE_NOT_AVAILABLE => Some(Self::SlaveNotAvailable),
            _ => None,
        }
    }
}

/// Where a message is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendResult {
    /// The id that the client gave it.
    pub message_id: String,
    /// The id that the broker gave it, which says where it is stored.
    pub offset_id: Option<MessageId>,
    /// The queue.
    pub queue: Queue,
    /// Its place in the queue.
    pub queue_offset: i64,
    /// How far it got.
    pub status: SendStatus,
}

/// The answer to what was handed over: a message, or a [`crate::MessageBatch`], of which it only says that all are
/// stored. Dropping it does not take anything back.
#[derive(Debug)]
pub struct Receipt<T = SendResult>(pub(crate) oneshot::Receiver<Result<T, Error>>);

impl<T> Future for Receipt<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(answer.unwrap_or(Err(Error::Closed { what: "producer" })))
    }
}

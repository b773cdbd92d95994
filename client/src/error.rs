//! Errors of the client: each names the broker it concerns and what was asked of it.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sluice_protocol::batch::BatchError;
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::frame::FrameError;
use sluice_protocol::id::IdError;
use sluice_protocol::message::PropertyError;

/// Longest remark that an error keeps, in characters.
const REMARK_CHARS_MAX: usize = 1000;

/// Why a call failed. Cheap to clone: the messages of one batch share theirs.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields and their units")]
pub enum Error {
    /// Nobody answers at that address.
    #[error("cannot connect to {address}")]
    Connect { address: Arc<str>, source: Arc<io::Error> },
    /// The connection ended while a request was under way; whether the broker did it is unknown.
    #[error("connection to {address} was lost")]
    Lost { address: Arc<str>, source: Option<Arc<io::Error>> },
    /// The peer sent bytes that are no frame; the connection was given up.
    #[error("{address} sent what is no frame")]
    Frame { address: Arc<str>, source: FrameError },
    /// No response within the time given; whether the broker did it is unknown.
    #[error("no response from {address} to {request} within {after:?}")]
    Timeout { address: Arc<str>, request: RequestCode, after: Duration },
    /// The broker said no.
    #[error("{address} answered {request} for {subject:?} with {code}: {remark}")]
    Refused { address: Arc<str>, request: RequestCode, subject: String, code: ResponseCode, remark: String },
    /// A response that can not be read.
    #[error("response of {address} to {request} has an unreadable {part}")]
    Unreadable {
        address: Arc<str>,
        request: RequestCode,
        part: &'static str,
        source: Arc<dyn StdError + Send + Sync>,
    },
    /// A response that says more than we take.
    #[error("response of {address} to {request} has {count} {unit}, the limit is {max}")]
    Excess { address: Arc<str>, request: RequestCode, count: i64, unit: &'static str, max: i64 },
    /// The broker said yes to a group's first offset of a queue, again and again, and has none.
    #[error("the broker of {queue} does not keep the offset of group {group}, although it says so")]
    NotKept { group: String, queue: String },
    /// The request can not be written.
    #[error("{request} for {address} can not be written")]
    Request { address: Arc<str>, request: RequestCode, source: FrameError },
    /// No name server knows the topic.
    #[error("name servers {name_servers} know no route of topic {topic}")]
    NoRoute { topic: String, name_servers: String },
    /// No broker that is a master has told the name servers of itself: none runs, or they have only just started.
    #[error("name servers {name_servers} know no broker that is a master: is one running, and told of them?")]
    NoBroker { name_servers: String },
    /// The topic's route has no queue for it.
    #[error("topic {topic} has no queue to {purpose}")]
    NoQueue { topic: String, purpose: &'static str },
    /// A message or batch is larger than is sent.
    #[error("{what} of {len} {unit} for topic {topic} exceeds the limit of {max}")]
    TooLarge { topic: String, what: &'static str, len: usize, unit: &'static str, max: usize },
    /// Messages that can not be in one batch.
    #[error("messages can not be one batch: {reason}")]
    Mixed { reason: &'static str },
    /// A property that can not be written.
    #[error("message has a bad property")]
    Property(#[from] PropertyError),
    /// A message that can not be in a batch.
    #[error("message does not fit into a batch")]
    Batch(#[from] BatchError),
    /// A name that is not allowed.
    #[error("name is not allowed")]
    Name(#[from] IdError),
    /// A setting that can not be used.
    #[error("setting {name} is {value:?} and not {expected}")]
    Setting { name: &'static str, value: String, expected: &'static str },
    /// Files or settings of TLS that can not be used.
    #[error("cannot use {what} for TLS")]
    Tls { what: String, source: Arc<dyn StdError + Send + Sync> },
    /// A broadcasting consumer's own offsets; without the file it begins where its settings say.
    #[error("cannot {op} the offsets in {path}", path = path.display())]
    OffsetFile { op: &'static str, path: PathBuf, source: Arc<dyn StdError + Send + Sync> },
    /// The client, producer or consumer was closed before.
    #[error("{what} is closed")]
    Closed { what: &'static str },
}

impl Error {
    /// The response code, if the broker answered with one.
    pub const fn response_code(&self) -> Option<ResponseCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the same send may succeed at another broker or a moment later: the codes after which the Java
    /// producer tries again, and whatever happens to a connection.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Lost { .. }
            | Self::Frame { .. }
            | Self::Timeout { .. }
            | Self::NotKept { .. }
            | Self::NoBroker { .. } => true,
            Self::Refused { code, .. } => is_retryable(*code),
            _ => false,
        }
    }

    pub(crate) fn refused(
        address: &Arc<str>,
        request: RequestCode,
        subject: &str,
        code: ResponseCode,
        remark: Option<&str>,
    ) -> Self {
        let remark = remark.unwrap_or("no remark").chars().take(REMARK_CHARS_MAX).collect();
        Self::Refused { address: Arc::clone(address), request, subject: subject.to_owned(), code, remark }
    }

    pub(crate) fn unreadable(
        address: &Arc<str>,
        request: RequestCode,
        part: &'static str,
        source: impl StdError + Send + Sync + 'static,
    ) -> Self {
        Self::Unreadable { address: Arc::clone(address), request, part, source: Arc::new(source) }
    }
}

/// Whether a send is tried again after that code.
pub const fn is_retryable(code: ResponseCode) -> bool {
    matches!(
        code,
        ResponseCode::SYSTEM_ERROR
            | ResponseCode::SYSTEM_BUSY
            | ResponseCode::SERVICE_NOT_AVAILABLE
            | ResponseCode::NO_PERMISSION
            | ResponseCode::TOPIC_NOT_EXIST
            | ResponseCode::NO_BUYER_ID
            | ResponseCode::NOT_IN_CURRENT_UNIT
            | ResponseCode::GO_AWAY
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_is_tried_again_after_the_codes_of_the_java_producer() {
        let retried: Vec<i32> =
            ResponseCode::ALL.iter().filter(|code| is_retryable(**code)).map(|code| code.0).collect();
        assert_eq!(retried, [1, 2, 14, 16, 17, 204, 205, 1500]);
    }
}

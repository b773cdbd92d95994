//! A client of Sluice and `RocketMQ`: producer, consumer, administration.
//!
//! Speaks remoting over TCP with name servers and brokers. Knows nothing of stores, filters or pipelines. All of
//! it is asynchronous and needs a tokio runtime with time and I/O.

mod access;
mod admin;
mod assigned;
mod attempt;
mod client;
mod clock;
mod connection;
mod consumer;
mod error;
mod group;
mod lane;
mod member;
mod message;
mod message_batch;
mod offsets;
mod presence;
mod producer;
mod pull;
mod push;
mod reader;
mod rebalance;
mod record;
mod route;
mod sent;
#[cfg(feature = "tracing")]
mod tracing_layer;
mod unique;
mod wire;

pub use access::{Access, SecretKey, Tls, TlsSettings};
pub use admin::{Admin, GroupOffset, QueueOffsets};
pub use assigned::Start;
pub use client::{Client, ClientSettings};
pub use connection::{Connection, ConnectionLimits, Request, Response, ServerRequest};
pub use consumer::{Batch, Consumer, ConsumerSettings, Subscription};
pub use error::{Error, is_retryable};
pub use member::{Member, MemberSettings};
pub use message::Message;
pub use message_batch::MessageBatch;
pub use producer::{Producer, ProducerSettings};
pub use pull::{Fetched, Filter};
pub use push::{HandlerError, PushConsumer};
pub use reader::{QueueReader, ReaderSettings};
pub use rebalance::average;
pub use record::{RECORDS_MAX, Record};
pub use route::{BrokerAddresses, QUEUES_MAX, Queue, TEMPLATE_TOPIC, TopicRoute};
pub use sent::{Receipt, SendResult, SendStatus};
pub use sluice_protocol::header::HeaderKind;
pub use sluice_protocol::id::{GroupName, QueueId, TopicName};
pub use sluice_protocol::message_id::MessageId;
#[cfg(feature = "tracing")]
pub use tracing_layer::{Logged, TopicLayer, TopicLog};

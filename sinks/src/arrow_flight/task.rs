//! The task of sink `arrow_flight`: a put a slice, on a runtime inside the task.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::{Array, RecordBatch};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, FlightDescriptor, HandshakeRequest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use sluice_client::{SecretKey, TlsSettings};
use sluice_connect::batch::offsets;
use sluice_connect::task::{Chain, Class, Fates, Slice, TaskError, TransactTask};
use tokio::runtime::{Builder, Runtime};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use super::ArrowFlightConfig;
use crate::plain;
use crate::sink::Sink as _;

/// What a message needs beside its rows, in bytes, about.
const MESSAGE_HEAD_BYTES: u64 = 1024;
/// A connection is asked so often whether the server is there.
const PING_EVERY: Duration = Duration::from_secs(20);

/// Writes to a server.
pub(super) struct ArrowFlightSink {
    settings: ArrowFlightConfig,
    client: FlightServiceClient<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
    /// Serves the connection between puts as well.
    runtime: Runtime,
}

/// The rows that a message has.
#[derive(Serialize)]
struct Told<'a> {
    pipeline: &'a str,
    topic: &'a str,
    queue: i32,
    incarnation: &'a str,
    start: i64,
    end: i64,
    #[serde(flatten)]
    rows: Option<Rows>,
}

#[derive(Clone, Copy, Serialize)]
struct Rows {
    first: i64,
    last: i64,
    rows: usize,
}

impl ArrowFlightSink {
    /// Connects, and shows the account if there is one.
    pub(super) fn new(settings: &ArrowFlightConfig) -> Result<Self, TaskError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .thread_name("flight-sink")
            .build()
            .map_err(|e| TaskError::io("cannot start a thread", e))?;
        let endpoint = endpoint(settings)?;
        let failed = |e| {
            let message = format!("cannot connect to the Arrow Flight server at {}", settings.url);
            TaskError::new(Class::Retry, message).because(e)
        };
        let channel = runtime.block_on(endpoint.connect()).map_err(failed)?;
        let client = FlightServiceClient::new(channel);
        let mut sink = Self { settings: settings.clone(), client, authorization: None, runtime };
        sink.authorize()?;
        Ok(sink)
    }

    /// Sets what requests bear.
    fn authorize(&mut self) -> Result<(), TaskError> {
        let settings = &self.settings;
        self.authorization = match (&settings.token, &settings.user, &settings.password) {
            (Some(SecretKey(token)), ..) => Some(header(&format!("Bearer {token}"))?),
            (None, Some(user), Some(SecretKey(password))) => {
                let basic =
                    header(&format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))?;
                Some(self.show(basic)?)
            }
            _ => None,
        };
        Ok(())
    }

    /// Shows an account; what requests bear from then on: the token that the server gives, or the account each time.
    fn show(&mut self, basic: MetadataValue<Ascii>) -> Result<MetadataValue<Ascii>, TaskError> {
        let mut request = Request::new(stream::iter([HandshakeRequest::default()]));
        request.metadata_mut().insert("authorization", basic.clone());
        let timeout = self.settings.timeout.0;
        let client = &mut self.client;
        let answer = self.runtime.block_on(async {
            let answered = tokio::time::timeout(timeout, async {
                let answer = client.handshake(request).await?;
                let token = answer.metadata().get("authorization").cloned();
                // Some servers say no only in the end.
                answer.into_inner().try_for_each(|_| futures::future::ready(Ok(()))).await.map(|()| token)
            });
            answered.await.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
        });
        match answer {
            Ok(token) => Ok(token.unwrap_or(basic)),
            // It takes accounts with each request, or none at all.
            Err(status) if status.code() == Code::Unimplemented => Ok(basic),
            Err(status) => Err(self.failed("does not let this account in", status)),
        }
    }

    /// What the server refused, by who must act.
    fn failed(&self, what: &str, status: Status) -> TaskError {
        let class = match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Class::Record,
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::NotFound
            | Code::AlreadyExists
            | Code::Unimplemented
            | Code::FailedPrecondition
            | Code::DataLoss => Class::Config,
            _ => Class::Retry,
        };
        let told: String = status.message().chars().take(500).collect();
        TaskError::new(class, format!("{} {what}: {:?}: {told}", self.settings.shown(), status.code()))
    }

    /// One put of the rows of a slice.
    fn put(&mut self, told: &Told<'_>, messages: Vec<RecordBatch>, rows: &[Rows]) -> Result<(), Status> {
        let settings = &self.settings;
        let descriptor = match &settings.command {
            Some(command) => FlightDescriptor::new_cmd(command.clone()),
            None => FlightDescriptor::new_path(settings.path.clone()),
        };
        let internal = |e: serde_json::Error| Status::internal(e.to_string());
        let mut heads = vec![Bytes::from(serde_json::to_vec(told).map_err(internal)?)];
        for rows in rows {
            let told = Told { rows: Some(*rows), ..*told };
            heads.push(serde_json::to_vec(&told).map_err(internal)?.into());
        }
        let encoded = FlightDataEncoderBuilder::new()
            .with_flight_descriptor(Some(descriptor))
            // Messages are cut already.
            .with_max_flight_data_size(usize::MAX)
            .build(stream::iter(messages.into_iter().map(Ok)));
        let is_sent = Arc::new(AtomicBool::new(false));
        let sent = Arc::clone(&is_sent);
        let authorization = self.authorization.clone();
        let (client, timeout) = (&mut self.client, settings.timeout.0);
        self.runtime.block_on(async move {
            let encoded: Vec<FlightData> = encoded
                .try_collect()
                .await
                .map_err(|e: FlightError| Status::internal(format!("cannot encode the rows: {e}")))?;
            let messages =
                encoded.into_iter().zip(heads).map(|(message, head)| message.with_app_metadata(head));
            let messages = stream::iter(messages.collect::<Vec<_>>());
            let mut request = Request::new(messages.chain(stream::poll_fn(move |_| {
                sent.store(true, Ordering::SeqCst);
                std::task::Poll::Ready(None)
            })));
            if let Some(authorization) = authorization {
                request.metadata_mut().insert("authorization", authorization);
            }
            let put = async {
                let results = client.do_put(request).await?.into_inner();
                results.try_for_each(|_| futures::future::ready(Ok(()))).await
            };
            tokio::time::timeout(timeout, put)
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))?;
            if is_sent.load(Ordering::SeqCst) {
                Ok(())
            } else {
                Err(Status::aborted("the server ended the put before it had all rows"))
            }
        })
    }
}

fn header(text: &str) -> Result<MetadataValue<Ascii>, TaskError> {
    let mut value = MetadataValue::try_from(text).map_err(|_| {
        TaskError::new(Class::Config, "the token, user or password has characters that no header may have")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn endpoint(settings: &ArrowFlightConfig) -> Result<Endpoint, TaskError> {
    let wrong = |problem: String| TaskError::new(Class::Config, problem);
    let (address, is_secure) = settings.address().map_err(wrong)?;
    let scheme = if is_secure { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
        .map_err(|e| wrong(format!("`{}` is no address", settings.url)).because(e))?
        .connect_timeout(settings.timeout.0)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_while_idle(false)
        .tcp_nodelay(true);
    if !is_secure {
        return Ok(endpoint);
    }
    let TlsSettings { ca, certificate, key, server_name } = settings.tls.clone().unwrap_or_default();
    let read =
        |path: &Path| fs::read(path).map_err(|e| TaskError::io(format!("cannot read {}", path.display()), e));
    let mut tls = match ca {
        Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&ca)?)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    if let (Some(certificate), Some(key)) = (certificate, key) {
        tls = tls.identity(Identity::from_pem(read(&certificate)?, read(&key)?));
    }
    if let Some(name) = server_name {
        tls = tls.domain_name(name);
    }
    endpoint.tls_config(tls).map_err(|e| wrong("cannot speak TLS as asked for".to_owned()).because(e))
}

/// What rows hold, in bytes.
fn bytes(rows: &RecordBatch) -> u64 {
    let columns = rows.columns().iter().map(|column| {
        let data = column.to_data();
        // What can not be counted by its rows counts whole.
        data.get_slice_memory_size().unwrap_or_else(|_| data.get_array_memory_size()) as u64
    });
    columns.sum()
}

/// Rows as batches of at most so many bytes, unless one row has more.
fn cut(rows: RecordBatch, bytes_max: u64, cuts: &mut Vec<RecordBatch>) {
    let count = rows.num_rows();
    if count > 1 && bytes(&rows) > bytes_max {
        cut(rows.slice(0, count / 2), bytes_max, cuts);
        cut(rows.slice(count / 2, count - count / 2), bytes_max, cuts);
    } else {
        cuts.push(rows);
    }
}

fn plain_rows(slice: &Slice) -> Result<RecordBatch, TaskError> {
    let rows = slice.output();
    plain::batch(rows, &plain::schema(rows.schema_ref()))
        .map_err(|e| TaskError::new(Class::Fatal, "cannot make the columns of these rows").because(e))
}

impl TransactTask for ArrowFlightSink {
    fn unfit(&self, slice: &Slice) -> Vec<(usize, String)> {
        let max = self.settings.message_max.as_u64() - MESSAGE_HEAD_BYTES;
        // Slices are small against what servers take.
        let Some(rows) = (slice.bytes as u64 > max).then(|| plain_rows(slice).ok()).flatten() else {
            return Vec::new();
        };
        let told = |row| {
            let bytes = bytes(&rows.slice(row, 1));
            let told =
                format!("a row of {bytes} bytes exceeds the limit of {max} bytes: raise `message_max`");
            (bytes > max).then_some((row, told))
        };
        (0..rows.num_rows()).filter_map(told).collect()
    }

    fn commit(
        &mut self,
        chain: &Chain,
        incarnation: &str,
        slice: &Slice,
        _: &Fates,
    ) -> Result<(), TaskError> {
        let rows = plain_rows(slice)?;
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let mut messages = Vec::new();
        cut(rows, self.settings.message_max.as_u64() - MESSAGE_HEAD_BYTES, &mut messages);
        let mut left = offsets(&slice.envelope);
        let mut ranges = Vec::with_capacity(messages.len());
        for message in &messages {
            let (here, rest) = left.split_at_checked(message.num_rows()).unwrap_or((left, &[]));
            left = rest;
            if let (Some(first), Some(last)) = (here.first(), here.last()) {
                ranges.push(Rows { first: *first, last: *last, rows: here.len() });
            }
        }
        let Chain { pipeline, topic, queue } = chain;
        let told = Told {
            pipeline,
            topic,
            queue: *queue,
            incarnation,
            start: slice.range.start,
            end: slice.range.end,
            rows: None,
        };
        let what = format!("does not take the rows from {} of {topic}/{queue}", told.start);
        match self.put(&told, messages.clone(), &ranges) {
            // A token that the server gave may have ended.
            Err(status) if status.code() == Code::Unauthenticated && self.settings.user.is_some() => {
                self.authorize()?;
                self.put(&told, messages, &ranges)
            }
            other => other,
        }
        .map_err(|status| self.failed(&what, status))
    }

    /// What a server answered is as durable as it makes it.
    fn secure(&mut self) -> Result<(), TaskError> {
        Ok(())
    }

    fn keeps_positions(&self) -> bool {
        false
    }
}

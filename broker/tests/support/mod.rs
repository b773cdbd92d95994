//! A broker on free ports, and a client that sends frames and reads frames.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a failure is a failed test")]
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod place;
pub mod pop;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sluice_broker::{Server, Settings};
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::fields::Fields;
use sluice_protocol::frame::{self, Frame};
use sluice_protocol::header::{Header, HeaderKind};
use sluice_protocol::heartbeat::{ConsumerData, Heartbeat, SubscriptionData};
use sluice_protocol::message::push_property;
use sluice_protocol::record::{self, Record};
use sluice_protocol::request::{self, pull_flag};
use sluice_store::file::RealDisk;
use sluice_store::{Flush, Store};
use tokio::runtime::Runtime;

/// A running broker with its name server; stopped and closed when dropped.
pub struct TestBroker {
    runtime: Runtime,
    server: Option<Server>,
    pub store: Store,
    pub addr: SocketAddr,
    pub names: SocketAddr,
}

impl TestBroker {
    pub fn start(dir: &Path, sync: bool) -> Self {
        Self::with(dir, sync, |_| {})
    }

    pub fn with(dir: &Path, sync: bool, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = sluice_store::Settings::embedded(dir);
        if sync {
            settings.flush = Flush::Sync;
        }
        let clock: sluice_store::Clock = Arc::new(|| {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            i64::try_from(since.as_millis()).unwrap()
        });
        let store = Store::open(settings, Arc::new(RealDisk), clock).unwrap();
        Self::over(store, sync, change)
    }

    /// A broker over a store that is open already.
    pub fn over(store: Store, sync: bool, change: impl FnOnce(&mut Settings)) -> Self {
        Self::try_over(store, sync, change).unwrap()
    }

    pub fn try_over(
        store: Store,
        sync: bool,
        change: impl FnOnce(&mut Settings),
    ) -> Result<Self, sluice_broker::Error> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut broker = Settings { listen: any, ..Settings::local() };
        change(&mut broker);
        let started_ms = 1_700_000_000_000;
        let server = runtime.block_on(Server::broker(broker, store.clone(), sync, Some(any), started_ms))?;
        let (addr, names) = (server.broker_addr().unwrap(), server.name_server_addr().unwrap());
        Ok(Self { runtime, server: Some(server), store, addr, names })
    }

    /// Ends the broker; its store can not be closed any more.
    pub fn end(mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stop());
        }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.addr)
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stop());
            let closed = self.store.clone().close();
            // One failure is enough to be told of.
            assert!(closed.is_ok() || std::thread::panicking(), "{closed:?}");
        }
    }
}

/// What came back.
#[derive(Debug)]
pub struct Response {
    pub code: ResponseCode,
    pub opaque: i32,
    pub remark: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub is_request: bool,
}

impl Response {
    pub fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).unwrap_or_default()
    }

    /// Bodies and queue offsets of the messages that a pull brought.
    pub fn messages(&self) -> Vec<(i64, String)> {
        let records: Vec<Record<'_>> = record::records(&self.body).map(Result::unwrap).collect();
        records.iter().map(|r| (r.queue_offset, String::from_utf8_lossy(r.body).into_owned())).collect()
    }
}

/// One connection.
pub struct Client {
    pub stream: TcpStream,
    received: Vec<u8>,
    opaque: i32,
    pub kind: HeaderKind,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { stream, received: Vec::new(), opaque: 0, kind: HeaderKind::Json }
    }

    /// The bytes of a request, with the number that its response has.
    pub fn encode(&mut self, code: RequestCode, fields: Fields<'_>, body: &[u8]) -> (Vec<u8>, i32) {
        self.opaque += 1;
        let mut bytes = Vec::new();
        frame::encode(&mut bytes, self.kind, &Header::request(code, self.opaque, fields), body).unwrap();
        (bytes, self.opaque)
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next frame; `None` when the connection has ended.
    pub fn read(&mut self) -> Option<Response> {
        loop {
            if let Some((frame, len)) = Frame::decode(&self.received).unwrap() {
                let header = frame.header().unwrap();
                let response = Response {
                    code: header.response_code(),
                    opaque: header.opaque,
                    remark: header.remark.as_deref().unwrap_or_default().to_owned(),
                    fields: header.fields.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
                    body: frame.body.to_vec(),
                    is_request: !header.is_response(),
                };
                self.received.drain(..len);
                return Some(response);
            }
            let mut some = [0; 64 * 1024];
            match self.stream.read(&mut some) {
                Ok(0) => return None,
                Ok(len) => self.received.extend_from_slice(&some[..len]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Sends a request and reads its response; requests of the broker that come before it are passed over.
    pub fn call(&mut self, code: RequestCode, fields: Fields<'_>, body: &[u8]) -> Response {
        let (bytes, opaque) = self.encode(code, fields, body);
        self.write(&bytes);
        loop {
            let response = self.read().expect("a response");
            if !response.is_request {
                assert_eq!(response.opaque, opaque);
                return response;
            }
        }
    }

    pub fn send(&mut self, topic: &str, queue: i32, body: &str, properties: &[(&str, &str)]) -> Response {
        let properties = encoded(properties);
        let header = send_header(topic, queue, &properties);
        self.call(RequestCode::SEND_MESSAGE_V2, header.fields(), body.as_bytes())
    }

    /// Pulls with the expression in the request; held for `suspend_ms` if that is not 0.
    pub fn pull(
        &mut self,
        topic: &str,
        queue: i32,
        from: i64,
        filter: (&str, &str),
        suspend_ms: i64,
    ) -> Response {
        let header = pull_header(topic, queue, from, filter, suspend_ms);
        self.call(RequestCode::PULL_MESSAGE, header.fields(), &[])
    }

    pub fn heartbeat(
        &mut self,
        id: &str,
        group: &str,
        topic: &str,
        kind: &str,
        expression: &str,
    ) -> Response {
        let subscription = SubscriptionData {
            topic: topic.to_owned(),
            expression_type: kind.to_owned(),
            sub_string: expression.to_owned(),
            sub_version: 1,
            ..SubscriptionData::default()
        };
        let consumer = ConsumerData {
            group_name: group.to_owned(),
            subscription_data_set: vec![subscription],
            ..ConsumerData::default()
        };
        let heartbeat =
            Heartbeat { client_id: id.to_owned(), consumer_data_set: vec![consumer], ..Heartbeat::default() };
        self.call(RequestCode::HEART_BEAT, Fields::new(), &heartbeat.encode())
    }
}

pub fn encoded(properties: &[(&str, &str)]) -> String {
    let mut bytes = Vec::new();
    for (name, value) in properties {
        push_property(&mut bytes, name, value).unwrap();
    }
    String::from_utf8(bytes).unwrap()
}

pub fn send_header<'a>(topic: &'a str, queue: i32, properties: &'a str) -> request::SendMessage<'a> {
    request::SendMessage {
        producer_group: "producers",
        topic,
        default_topic: "TBW102",
        default_topic_queue_nums: 4,
        queue_id: queue,
        sys_flag: 0,
        born_timestamp: 1_700_000_000_000,
        flag: 0,
        properties: Some(properties),
        reconsume_times: None,
        unit_mode: None,
        max_reconsume_times: None,
        batch: None,
        broker_name: None,
    }
}

pub fn pull_header<'a>(
    topic: &'a str,
    queue: i32,
    from: i64,
    (kind, expression): (&'a str, &'a str),
    suspend_ms: i64,
) -> request::PullMessage<'a> {
    let inline = if kind.is_empty() { 0 } else { pull_flag::SUBSCRIPTION };
    request::PullMessage {
        consumer_group: "readers",
        topic,
        queue_id: queue,
        queue_offset: from,
        max_msg_nums: 32,
        sys_flag: inline | if suspend_ms > 0 { pull_flag::SUSPEND } else { 0 },
        commit_offset: 0,
        suspend_timeout_millis: suspend_ms,
        subscription: Some(expression),
        sub_version: 1,
        expression_type: Some(kind).filter(|kind| !kind.is_empty()),
        max_msg_bytes: None,
        broker_name: None,
    }
}

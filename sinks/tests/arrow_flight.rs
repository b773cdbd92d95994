//! Sink `arrow_flight` against a server of arrow-flight's own that keeps what it is given, refuses, and dies.
#![cfg(feature = "arrow_flight")]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray, StringViewArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use bytesize::ByteSize;
use futures::{Stream, TryStreamExt, stream};
use serde_json::Value;
use sluice_client::SecretKey;
use sluice_connect::config::{Delivery, Span};
use sluice_connect::target::Target;
use sluice_connect::task::{Chain, Class, Fates, Range, Slice, TaskError, TransactTask};
use sluice_sinks::SinkConfig;
use sluice_sinks::arrow_flight::ArrowFlightConfig;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::{Code, Request, Response, Status, Streaming};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What was put.
#[derive(Default)]
struct Kept {
    descriptors: Vec<FlightDescriptor>,
    told: Vec<Value>,
    rows: Vec<i64>,
    batches: Vec<RecordBatch>,
    /// The headers of requests.
    shown: Vec<String>,
    handshakes: usize,
}

/// What the server does with puts, the last one first.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Refuse(Code),
    /// Takes one batch, and is gone.
    Die,
    /// Answers well before it has read anything.
    Hurry,
    /// Never answers.
    Sleep,
    Handshakes,
}

#[derive(Clone, Default)]
struct Server {
    kept: Arc<Mutex<Kept>>,
    moods: Arc<Mutex<Vec<Mood>>>,
}

#[tonic::async_trait]
impl FlightService for Server {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoExchangeStream = Answers<FlightData>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        if !self.moods.lock().unwrap().contains(&Mood::Handshakes) {
            return Err(Status::unimplemented("no accounts"));
        }
        let shown = request.metadata().get("authorization").unwrap().to_str().unwrap().to_owned();
        if shown != "Basic dXNlcjpvcGVu" {
            return Err(Status::unauthenticated("who is that?"));
        }
        let mut kept = self.kept.lock().unwrap();
        kept.handshakes += 1;
        let mut response =
            Response::new(Box::pin(stream::iter([Ok(HandshakeResponse::default())])) as Answers<_>);
        let token = format!("Bearer token-{}", kept.handshakes);
        response.metadata_mut().insert("authorization", token.parse().unwrap());
        Ok(response)
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        let shown = request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        self.kept.lock().unwrap().shown.extend(shown);
        let mood = {
            let mut moods = self.moods.lock().unwrap();
            let at = moods.iter().rposition(|mood| *mood != Mood::Handshakes);
            at.map(|at| moods.remove(at))
        };
        let done = || Ok(Response::new(Box::pin(stream::empty()) as Answers<_>));
        let mut messages = request.into_inner();
        match mood {
            Some(Mood::Refuse(code)) => return Err(Status::new(code, "not today")),
            Some(Mood::Hurry) => return done(),
            Some(Mood::Sleep) => futures::future::pending::<()>().await,
            Some(Mood::Die) => {
                messages.message().await?.unwrap();
                messages.message().await?.unwrap();
                return Err(Status::unavailable("going down"));
            }
            _ => {}
        }
        let mut seen = Vec::new();
        let mut told = Vec::new();
        while let Some(message) = messages.message().await? {
            told.push(serde_json::from_slice(&message.app_metadata).unwrap());
            seen.push(message);
        }
        let descriptor = seen[0].flight_descriptor.clone().unwrap();
        let decoded = FlightRecordBatchStream::new_from_flight_data(stream::iter(
            seen.into_iter().map(Ok::<_, FlightError>),
        ));
        let batches: Vec<RecordBatch> = decoded.try_collect().await.unwrap();
        let mut kept = self.kept.lock().unwrap();
        kept.descriptors.push(descriptor);
        kept.told.extend(told);
        for batch in batches {
            kept.rows.extend(batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().values());
            kept.batches.push(batch);
        }
        done()
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn do_get(&self, _: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn do_exchange(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn do_action(&self, _: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A server that runs until it is dropped.
struct Place {
    server: Server,
    addr: SocketAddr,
    runtime: Option<Runtime>,
}

impl Place {
    fn new() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), Server::default())
    }

    fn at(addr: SocketAddr, server: Server) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind(addr)).unwrap();
        let addr = listener.local_addr().unwrap();
        let service = FlightServiceServer::new(server.clone());
        let incoming = stream::unfold(listener, |listener| async {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        runtime.spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        Self { server, addr, runtime: Some(runtime) }
    }

    fn config(&self) -> ArrowFlightConfig {
        ArrowFlightConfig {
            url: format!("grpc://{}", self.addr),
            path: vec!["lake".to_owned(), "t".to_owned()],
            command: None,
            token: None,
            user: None,
            password: None,
            tls: None,
            message_max: ByteSize::mib(2),
            timeout: Span(Duration::from_secs(20)),
        }
    }

    fn mood(&self, mood: Mood) {
        self.server.moods.lock().unwrap().push(mood);
    }

    fn rows(&self) -> Vec<i64> {
        self.server.kept.lock().unwrap().rows.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

fn open(config: ArrowFlightConfig) -> Result<Box<dyn TransactTask>, TaskError> {
    let clock: sluice_sinks::topic::Clock = Arc::new(|| 0);
    let config = SinkConfig::ArrowFlight(config);
    match config.open(|| Err(TaskError::new(Class::Fatal, "no store")), &clock, Delivery::AtLeastOnce)? {
        Target::Transact(task) => Ok(task),
        Target::Files(_) => panic!("it writes no files"),
    }
}

fn chain() -> Chain {
    Chain { pipeline: "p".into(), topic: "t".into(), queue: 3 }
}

/// Rows `id` of these offsets, with a text of so many bytes.
fn slice(range: std::ops::Range<i64>, offsets: &[i64], text_bytes: usize) -> Slice {
    let of = |name: &str, data_type| Field::new(name, data_type, false);
    let envelope = RecordBatch::try_new(
        Arc::new(Schema::new(vec![of("queue_offset", DataType::Int64)])),
        vec![Arc::new(Int64Array::from(offsets.to_vec()))],
    );
    let texts = StringViewArray::from_iter_values(offsets.iter().map(|_| "x".repeat(text_bytes)));
    let decoded = RecordBatch::try_new(
        Arc::new(Schema::new(vec![of("id", DataType::Int64), of("text", DataType::Utf8View)])),
        vec![Arc::new(Int64Array::from(offsets.to_vec())), Arc::new(texts)],
    );
    Slice {
        range: Range { start: range.start, end: range.end },
        envelope: envelope.unwrap(),
        decoded: Some(decoded.unwrap()),
        filtered: 0,
        absent: 0,
        deduplicated: Vec::new(),
        rejects: Vec::new(),
        bytes: offsets.len() * (16 + text_bytes),
        stored_ms: None,
    }
}

fn commit(task: &mut Box<dyn TransactTask>, slice: &Slice) -> Result<(), TaskError> {
    task.commit(&chain(), "first", slice, &Fates::default())
}

fn refused(result: Result<(), TaskError>) -> (Class, String) {
    let error = result.expect_err("an error");
    (error.class, error.to_string())
}

#[test]
fn rows_are_put_under_the_descriptor_and_each_message_says_which_they_are() {
    let place = Place::new();
    let mut task = open(place.config()).unwrap();
    assert!(!task.keeps_positions());
    commit(&mut task, &slice(10..20, &[10, 11, 15, 19], 5)).unwrap();
    commit(&mut task, &slice(20..25, &[], 5)).unwrap();
    let kept = place.server.kept.lock().unwrap();
    assert_eq!(kept.rows, [10, 11, 15, 19]);
    let descriptor = &kept.descriptors[0];
    assert_eq!(
        (descriptor.r#type(), &descriptor.path[..]),
        (DescriptorType::Path, &["lake".to_owned(), "t".to_owned()][..])
    );
    let range = serde_json::json!({"pipeline": "p", "topic": "t", "queue": 3, "incarnation": "first", "start": 10, "end": 20});
    let mut rows = range.clone();
    for (key, value) in [("first", 10), ("last", 19), ("rows", 4)] {
        rows[key] = value.into();
    }
    assert_eq!(kept.told, [range, rows]);
    let texts = kept.batches[0].column_by_name("text").unwrap();
    let texts: &StringArray = texts.as_string();
    assert_eq!(texts.value(0), "xxxxx", "no view goes to others");
}

#[test]
fn a_command_stands_in_place_of_a_path() {
    let place = Place::new();
    let config = ArrowFlightConfig { path: Vec::new(), command: Some("into t".to_owned()), ..place.config() };
    commit(&mut open(config).unwrap(), &slice(0..1, &[0], 1)).unwrap();
    let kept = place.server.kept.lock().unwrap();
    assert_eq!(
        (kept.descriptors[0].r#type(), &kept.descriptors[0].cmd[..]),
        (DescriptorType::Cmd, &b"into t"[..])
    );
}

#[test]
fn messages_stay_below_the_limit_and_a_row_above_it_does_not_fit() {
    let place = Place::new();
    let config = ArrowFlightConfig { message_max: ByteSize::kib(64), ..place.config() };
    let mut task = open(config).unwrap();
    let offsets: Vec<i64> = (0..200).collect();
    let rows = slice(0..200, &offsets, 2000);
    assert!(task.unfit(&rows).is_empty());
    commit(&mut task, &rows).unwrap();
    let kept = place.server.kept.lock().unwrap();
    assert_eq!(kept.rows, offsets);
    assert!(kept.batches.len() > 6, "{}", kept.batches.len());
    let mut next = 0;
    for told in kept.told.iter().filter(|told| told.get("rows").is_some()) {
        assert_eq!(told["first"].as_i64().unwrap(), next);
        next += told["rows"].as_i64().unwrap();
        assert_eq!(told["last"].as_i64().unwrap(), next - 1);
    }
    assert_eq!(next, 200);
    let unfit = task.unfit(&slice(0..2, &[0, 1], 70_000));
    assert_eq!(unfit.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [0, 1]);
    assert!(unfit[0].1.contains("raise `message_max`"), "{}", unfit[0].1);
}

#[test]
fn what_the_server_says_is_told_by_who_must_act() {
    let place = Place::new();
    let mut task = open(place.config()).unwrap();
    for (code, class) in [
        (Code::InvalidArgument, Class::Record),
        (Code::Unauthenticated, Class::Config),
        (Code::PermissionDenied, Class::Config),
        (Code::NotFound, Class::Config),
        (Code::Unimplemented, Class::Config),
        (Code::Unavailable, Class::Retry),
        (Code::ResourceExhausted, Class::Retry),
        (Code::Internal, Class::Retry),
    ] {
        place.mood(Mood::Refuse(code));
        let (found, told) = refused(commit(&mut task, &slice(0..1, &[0], 1)));
        assert_eq!(found, class, "{told}");
        assert!(
            told.contains("flight lake/t of the Arrow Flight server") && told.contains("not today"),
            "{told}"
        );
    }
    commit(&mut task, &slice(0..1, &[0], 1)).unwrap();
    assert_eq!(place.rows(), [0]);
}

#[test]
fn a_put_counts_when_the_server_has_read_and_answered_it() {
    let place = Place::new();
    let config = ArrowFlightConfig { timeout: Span(Duration::from_millis(500)), ..place.config() };
    let mut task = open(config).unwrap();
    place.mood(Mood::Die);
    assert_eq!(refused(commit(&mut task, &slice(0..2, &[0, 1], 1))).0, Class::Retry);
    place.mood(Mood::Sleep);
    let (class, told) = refused(commit(&mut task, &slice(0..2, &[0, 1], 1)));
    assert!(class == Class::Retry && told.contains("no answer in time"), "{told}");
    // More than fits between the two.
    place.mood(Mood::Hurry);
    let long: Vec<i64> = (0..30).collect();
    let (class, told) = refused(commit(&mut task, &slice(0..30, &long, 1 << 20)));
    assert_eq!(class, Class::Retry, "{told}");
    assert!(place.rows().is_empty());
}

#[test]
fn a_server_that_was_away_is_found_again() {
    let place = Place::new();
    let mut task = open(place.config()).unwrap();
    commit(&mut task, &slice(0..1, &[0], 1)).unwrap();
    let (addr, server) = (place.addr, place.server.clone());
    drop(place);
    assert_eq!(refused(commit(&mut task, &slice(1..2, &[1], 1))).0, Class::Retry);
    let config = Place::at(addr, server).config();
    assert!(
        open(ArrowFlightConfig { timeout: Span(Duration::from_millis(300)), ..config })
            .is_err_and(|e| e.class == Class::Retry)
    );
}

#[test]
fn tokens_and_accounts_are_shown() {
    let place = Place::new();
    let secret = |text: &str| Some(SecretKey(text.to_owned()));
    commit(
        &mut open(ArrowFlightConfig { token: secret("t0"), ..place.config() }).unwrap(),
        &slice(0..1, &[0], 1),
    )
    .unwrap();
    let with = |password| ArrowFlightConfig {
        user: Some("user".to_owned()),
        password: secret(password),
        ..place.config()
    };
    // A server without handshakes has the account with each request.
    commit(&mut open(with("open")).unwrap(), &slice(1..2, &[1], 1)).unwrap();
    place.mood(Mood::Handshakes);
    let wrong = open(with("shut")).err().unwrap();
    assert!(
        wrong.class == Class::Config && wrong.to_string().contains("does not let this account in"),
        "{wrong}"
    );
    let mut task = open(with("open")).unwrap();
    commit(&mut task, &slice(2..3, &[2], 1)).unwrap();
    // The token has ended.
    place.mood(Mood::Refuse(Code::Unauthenticated));
    commit(&mut task, &slice(3..4, &[3], 1)).unwrap();
    let kept = place.server.kept.lock().unwrap();
    assert_eq!(kept.rows, [0, 1, 2, 3]);
    assert_eq!(
        kept.shown,
        ["Bearer t0", "Basic dXNlcjpvcGVu", "Bearer token-1", "Bearer token-1", "Bearer token-2"]
    );
}

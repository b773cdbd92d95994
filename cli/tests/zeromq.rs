//! Pipelines from and to sockets of ZeroMQ, as a user runs them, with the sockets of a library on the other side.
#![cfg(feature = "zeromq")]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test over processes takes the machine's environment")]

#[allow(dead_code, reason = "each test file uses its part")]
#[path = "queues/place.rs"]
mod place;

use std::cell::Cell;
use std::net::TcpListener;
use std::time::Duration;

use bytes::Bytes;
use place::{terminate, until};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use zeromq::{PubSocket, PullSocket, PushSocket, Socket, SocketRecv, SocketSend, SubSocket, ZmqMessage};

type Place = place::Place<Runtime>;

/// `URL` is a port that was free a moment ago.
fn new() -> (Place, String) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("tcp://127.0.0.1:{port}");
    (Place::of(runtime, url.clone()), url)
}

fn frames(all: &[&[u8]]) -> ZmqMessage {
    ZmqMessage::try_from(all.iter().map(|frame| Bytes::copy_from_slice(frame)).collect::<Vec<_>>()).unwrap()
}

/// What comes, as long as it takes.
async fn next(socket: &mut impl SocketRecv) -> Vec<Vec<u8>> {
    let message = timeout(Duration::from_secs(60), socket.recv()).await.unwrap().unwrap();
    message.into_vec().iter().map(|frame| frame.to_vec()).collect()
}

const LAKE: &str = "
name: lake
source:
  zeromq: {SOCKET}
decode: {format: json, schema: {mode: declared, fields: {id: int64}}}
sink:
  parquet: {path: lake, rotate: {age: 20ms}}
delivery: at_least_once
errors: {then: dead_letter, dead_letter: dead}
";

#[test]
fn what_is_pushed_goes_into_files_and_what_is_too_long_where_errors_says() {
    let (place, url) = new();
    let mut run = place.begin(&LAKE.replace("SOCKET", "bind: 'URL', body_max: 1KiB, high_water_mark: 10"));
    let sends = &place.broker;
    let mut push = PushSocket::new();
    until("the source is bound", || sends.block_on(push.connect(&url)).is_ok());
    for id in 0..500 {
        sends.block_on(push.send(format!("{{\"id\": {id}}}").into())).unwrap();
    }
    sends.block_on(push.send(Bytes::from(vec![b' '; 2000]).into())).unwrap();
    sends.block_on(push.send(frames(&[b"key", b"{\"id\": 500}"]))).unwrap();
    until("all in the files", || place.ids().len() == 501);
    terminate(&run);
    assert!(run.wait().is_ok());
    assert_eq!(place.ids(), (0..=500).collect::<Vec<_>>());
    place.audited();
    let dead = place.sluice(&["dlq", "list", "dead"]);
    let told = String::from_utf8_lossy(&dead.stdout).into_owned();
    assert!(told.contains("a message of more than 1024 bytes: raise `body_max`"), "{told}");
}

#[test]
fn a_subscriber_takes_what_it_asked_for() {
    let (place, _) = new();
    // It begins a task when it is made.
    let mut publisher = place.broker.block_on(async { PubSocket::new() });
    let there = place.broker.block_on(publisher.bind("tcp://127.0.0.1:0")).unwrap();
    let socket = format!("connect: '{there}', socket: sub, prefixes: [a, b.]");
    let mut run = place.begin(&LAKE.replace("SOCKET", &socket));
    let publishes = &place.broker;
    let mut publish = |first: &str, id: i64| {
        let body = format!("{{\"id\": {id}}}");
        publishes.block_on(publisher.send(frames(&[first.as_bytes(), body.as_bytes()]))).unwrap();
    };
    // Nothing comes to a subscriber before its subscription does.
    let before = Cell::new(0);
    let mut first = || {
        before.set(before.get() - 1);
        publish("abc", before.get());
        !place.ids().is_empty()
    };
    while !first() {}
    for id in 0..100 {
        for first in ["other", "a", "b.c", "b"] {
            publish(first, if first == "a" { id } else { id + 1000 });
        }
    }
    until("all in the files", || place.ids().contains(&1099));
    terminate(&run);
    assert!(run.wait().is_ok());
    let ids: Vec<i64> = place.ids().into_iter().filter(|id| *id >= 0).collect();
    assert_eq!(ids, (0..100).flat_map(|id| [id, id + 1000]).collect::<Vec<_>>());
}

const THROUGH: &str = "
name: in
source:
  zeromq: {bind: 'URL'}
sink:
  topic: {name: between}
delivery: at_least_once
---
name: out
source:
  topic: {name: between}
sink:
  zeromq: {SINK}
delivery: at_least_once
";

const ODD: [&[&[u8]]; 6] = [
    &[b"body alone"],
    &[b"key", b"{}"],
    &[b""],
    &[b"k", b"between", b"\0\xff", b"body"],
    &[b"\0odd first", b"body"],
    &[b"", b"body"],
];

#[test]
fn frames_come_back_as_they_were() {
    let (place, url) = new();
    let mut pull = PullSocket::new();
    let there = place.broker.block_on(pull.bind("tcp://127.0.0.1:0")).unwrap();
    let mut run = place.begin(&THROUGH.replace("SINK", &format!("connect: '{there}'")));
    let mut push = PushSocket::new();
    until("the source is bound", || place.broker.block_on(push.connect(&url)).is_ok());
    for _ in 0..20 {
        for message in ODD {
            place.broker.block_on(push.send(frames(message))).unwrap();
        }
        for message in ODD {
            assert_eq!(place.broker.block_on(next(&mut pull)), message);
        }
    }
    terminate(&run);
    assert!(run.wait().is_ok());
}

#[test]
fn subscribers_get_what_they_asked_for() {
    let (place, url) = new();
    let (_, published) = new();
    let socket = format!("bind: '{published}', socket: pub");
    let mut run = place.begin(&THROUGH.replace("SINK", &socket));
    let (mut push, mut sub) = (PushSocket::new(), SubSocket::new());
    until("the source is bound", || place.broker.block_on(push.connect(&url)).is_ok());
    until("the sink is bound", || place.broker.block_on(sub.connect(&published)).is_ok());
    place.broker.block_on(async {
        sub.subscribe("even").await.unwrap();
        // It gets what is sent once it is known there.
        loop {
            push.send(frames(&[b"even", b"first"])).await.unwrap();
            if timeout(Duration::from_millis(50), sub.recv()).await.is_ok() {
                break;
            }
        }
        for number in 0..2000_u32 {
            let first: &[u8] = if number % 2 == 0 { b"even" } else { b"odd" };
            push.send(frames(&[first, number.to_string().as_bytes()])).await.unwrap();
        }
        let mut seen = Vec::new();
        while seen.len() < 1000 {
            let message = next(&mut sub).await;
            assert_eq!(message[0], b"even");
            if message[1] != b"first" {
                seen.push(String::from_utf8(message[1].clone()).unwrap().parse::<u32>().unwrap());
            }
        }
        assert_eq!(seen, (0..2000).step_by(2).collect::<Vec<_>>());
    });
    terminate(&run);
    assert!(run.wait().is_ok());
}

#[test]
fn lint_and_check_say_what_a_socket_can_not_give() {
    let (place, _) = new();
    let config = LAKE.replace("SOCKET", "bind: 'URL'");
    for (from, to, part) in [
        ("delivery: at_least_once", "", "ZeroMQ keeps nothing"),
        ("at_least_once", "exactly_once", "ZeroMQ keeps nothing"),
        ("bind: 'URL'", "", "where peers are is missing"),
        ("bind: 'URL'", "bind: 'tcp://0.0.0.0:1'", "allow_anonymous: true"),
        ("bind: 'URL'", "bind: 'URL', connect: 'URL'", "give one of them"),
        ("bind: 'URL'", "bind: 'ipc:///tmp/x'", "tcp://HOST:PORT"),
        ("bind: 'URL'", "bind: 'URL', prefixes: [a]", "goes with `socket: sub`"),
        ("bind: 'URL'", "bind: 'URL', high_water_mark: 0", "at least 1"),
        ("bind: 'URL'", "bind: 'URL', socket: push", "pull"),
    ] {
        let told = place.told("lint", &config.replace(from, to));
        assert!(told.contains(part), "{to}: {told}");
    }
    let out = "name: out\nsource: {generate: {rows: 3}}\nsink: {zeromq: {connect: 'URL'}}\n";
    let told = place.told("lint", out);
    assert!(told.contains("ZeroMQ acknowledges nothing"), "{told}");
    let out = format!("{out}delivery: at_least_once\n");
    let told = place.told("check", &out);
    assert!(told.contains("cannot connect to tcp://127.0.0.1"), "{told}");
    let mut push = PushSocket::new();
    let there = place.broker.block_on(push.bind("tcp://127.0.0.1:0")).unwrap().to_string();
    let told = place.told("check", &out.replace("URL", &there));
    assert!(told.contains("the peer is a PUSH socket, expected PULL"), "{told}");
    place.write(&out.replace("connect", "bind"));
    let check = place.sluice(&["check", "pipeline.yaml"]);
    assert!(String::from_utf8_lossy(&check.stdout).contains("messages may be lost"), "{check:?}");
}

//! Clients that mean no good, or are broken: others do not notice, and the broker outlives them.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod support;

use std::io::Write;
use std::net::TcpStream;

use proptest::prelude::*;
use sluice_protocol::code::{RequestCode as C, ResponseCode as R};

use support::{TestBroker, encoded, send_header};

#[test]
fn bytes_that_are_no_frame_end_their_connection_only() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut other = broker.client();
    other.send("t", 0, "m", &[]);
    let ends: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
        // 2 GiB are announced.
        b"\x7f\xff\xff\xff\0\0\0\0",
        b"\0\0\0\x02\0\0",
        b"\0\0\0\x10\0\xff\xff\xff",
    ];
    for bytes in ends {
        let mut client = broker.client();
        client.write(bytes);
        assert!(client.read().is_none(), "{bytes:?}");
        assert_eq!(other.send("t", 0, "m", &[]).code, R::SUCCESS);
    }
}

#[test]
fn a_header_that_can_not_be_read_leaves_the_connection_usable() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    client.write(b"\0\0\0\x08\0\0\0\x04junk");
    assert_eq!(client.send("t", 0, "m", &[]).code, R::SUCCESS);
}

#[test]
fn clients_that_stop_within_a_frame_or_never_read_hold_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut other = broker.client();
    for _ in 0..20 {
        other.send("t", 0, &"m".repeat(200_000), &[]);
    }
    let mut half = broker.client();
    let properties = encoded(&[]);
    let (bytes, _) = half.encode(C::SEND_MESSAGE_V2, send_header("t", 0, &properties).fields(), &[7; 1000]);
    half.write(&bytes[..bytes.len() / 2]);
    // Answers of 256 KiB each that nobody takes.
    let mut deaf = broker.client();
    let pull = support::pull_header("t", 0, 0, ("TAG", "*"), 0);
    let (bytes, _) = deaf.encode(C::PULL_MESSAGE, pull.fields(), &[]);
    deaf.stream.set_nonblocking(true).unwrap();
    for _ in 0..2000 {
        if deaf.stream.write(&bytes).is_err() {
            break;
        }
    }
    let idle: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(broker.addr).unwrap()).collect();
    for _ in 0..50 {
        assert_eq!(other.send("t", 0, "m", &[]).code, R::SUCCESS);
    }
    drop(half);
    drop(idle);
    assert_eq!(other.send("t", 0, "m", &[]).code, R::SUCCESS);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn the_broker_outlives_any_bytes(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8)) {
        use std::sync::OnceLock;
        static BROKER: OnceLock<(tempfile::TempDir, TestBroker)> = OnceLock::new();
        let (_, broker) = BROKER.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let broker = TestBroker::start(dir.path(), false);
            (dir, broker)
        });
        let mut client = broker.client();
        let properties = encoded(&[]);
        let (good, _) = client.encode(C::SEND_MESSAGE_V2, send_header("t", 0, &properties).fields(), b"m");
        for (number, part) in parts.iter().enumerate() {
            // A good frame with some bytes changed, and bytes of any kind.
            let mut frame = good.clone();
            for (i, byte) in part.iter().enumerate() {
                let at = (i * 131 + usize::from(*byte)) % frame.len();
                frame[at] ^= byte;
            }
            if client.stream.write_all(if number % 2 == 0 { &frame } else { part }).is_err() {
                break;
            }
        }
        drop(client);
        prop_assert_eq!(broker.client().send("t", 0, "m", &[]).code, R::SUCCESS);
    }
}

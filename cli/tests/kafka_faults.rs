//! What Kafka does to pipelines that is none of their doing: each is a state with the reason. Kafka is librdkafka's mock; the real
//! one is in `interop/kafka/faults`.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test over processes takes the machine's environment")]

mod kafka_mock;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use kafka_mock::{Kafka, Seen};
use rdkafka::types::RDKafkaRespErr;
use serde_json::Value;

const LAKE: &str = "
name: lake
source:
  kafka: {bootstrap: 'BOOTSTRAP', topic: orders, until: caught_up}
sink:
  parquet: {path: lake}
errors: {retry: 1s}
";

const OUT: &str = "
name: out
source:
  file: {path: in.csv, format: csv, keys: [id]}
sink:
  kafka: {bootstrap: 'BOOTSTRAP', topic: orders}
errors: {retry: 1s}
";

fn some(count: i64) -> Vec<Seen> {
    let one = |time: i64| Seen { value: Some(b"{}".to_vec()), time, ..Seen::default() };
    (1..=count).map(one).collect()
}

fn is_told(pipeline: &Value, state: &str, parts: &[&str]) {
    let error = pipeline["error"].as_str().unwrap_or_else(|| panic!("{pipeline}"));
    assert_eq!(pipeline["state"], state, "{pipeline}");
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

#[test]
fn brokers_that_are_away_are_tried_then_told_and_nothing_is_passed_over() {
    let kafka = Kafka::new(&[("orders", 1)]);
    kafka.send("orders", &some(10));
    fs::write(kafka.path("in.csv"), "id\n1\n2\n").unwrap();
    kafka.cluster.broker_down(1).unwrap();
    let told = kafka.told("run", LAKE);
    assert!(told.contains("pipeline lake: the brokers do not answer") && told.contains("refused"), "{told}");
    is_told(&kafka.run(OUT)[0], "failed", &["do not answer", "refused"]);
    kafka.cluster.broker_up(1).unwrap();
    assert_eq!(kafka.run(LAKE)[0]["fates"]["written"], 10);
    assert_eq!(kafka.run(OUT)[0]["fates"]["written"], 2);
}

#[test]
fn a_topic_that_may_not_be_used_blocks() {
    let kafka = Kafka::new(&[("orders", 1)]);
    fs::write(kafka.path("in.csv"), "id\n1\n2\n").unwrap();
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    kafka.cluster.topic_error("orders", refused).unwrap();
    let told = kafka.told("run", LAKE);
    assert!(told.contains("topic orders can not be used") && told.contains("uthoriz"), "{told}");
    is_told(&kafka.run(OUT)[0], "blocked", &["topic orders can not be used", "uthoriz"]);
}

#[test]
fn records_of_an_unknown_compression_block() {
    let kafka = Kafka::new(&[("orders", 1)]);
    kafka.send("orders", &some(3));
    produce(&kafka.bootstrap(), "orders", &batch(5));
    for _ in 0..2 {
        is_told(&kafka.run(LAKE)[0], "blocked", &["topic orders partition 0", "compress"]);
    }
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(!0, step)
}

/// A record batch (magic 2 of Kafka's protocol) of one record that claims to be compressed by codec number `codec`.
fn batch(codec: i16) -> Vec<u8> {
    let mut rest = Vec::new();
    rest.extend(codec.to_be_bytes());
    rest.extend(0_i32.to_be_bytes()); // the last offset, from the first
    rest.extend([1_700_000_000_000_i64; 2].map(i64::to_be_bytes).concat()); // times
    rest.extend((-1_i64).to_be_bytes()); // producer
    rest.extend((-1_i16).to_be_bytes()); // its epoch
    rest.extend((-1_i32).to_be_bytes()); // sequence
    rest.extend(1_i32.to_be_bytes()); // records
    rest.extend(b"compressed by something else");
    let mut made = Vec::new();
    made.extend(0_i64.to_be_bytes()); // first offset
    made.extend(i32::try_from(rest.len() + 9).unwrap().to_be_bytes());
    made.extend(0_i32.to_be_bytes()); // epoch of the leader
    made.push(2);
    made.extend(crc32c(&rest).to_be_bytes());
    made.extend(rest);
    made
}

/// Sends a batch as no client would: a produce request of version 3.
fn produce(bootstrap: &str, topic: &str, batch: &[u8]) {
    let mut request = Vec::new();
    for short in [0_i16, 3] {
        request.extend(short.to_be_bytes()); // key, version
    }
    request.extend(7_i32.to_be_bytes()); // correlation
    request.extend((-1_i16).to_be_bytes()); // client id
    request.extend((-1_i16).to_be_bytes()); // transactional id
    request.extend((-1_i16).to_be_bytes()); // acks: all
    request.extend(5000_i32.to_be_bytes());
    request.extend(1_i32.to_be_bytes()); // topics
    request.extend(i16::try_from(topic.len()).unwrap().to_be_bytes());
    request.extend(topic.as_bytes());
    request.extend(1_i32.to_be_bytes()); // partitions
    request.extend(0_i32.to_be_bytes());
    request.extend(i32::try_from(batch.len()).unwrap().to_be_bytes());
    request.extend(batch);
    let mut stream = TcpStream::connect(bootstrap.split(',').next().unwrap()).unwrap();
    stream.write_all(&i32::try_from(request.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&request).unwrap();
    let mut size = [0; 4];
    stream.read_exact(&mut size).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(size) as usize];
    stream.read_exact(&mut answer).unwrap();
    // Correlation, topics, name, partitions, partition, then the error.
    let at = 4 + 4 + 2 + topic.len() + 4 + 4;
    assert_eq!(answer[at..at + 2], [0, 0], "{answer:?}");
}

//! Records of a partition, taken many at a time from librdkafka's mock cluster.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![expect(unsafe_code, reason = "the client's wrapper sends no header whose name is not UTF-8")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::bindings::{
    rd_kafka_header_add, rd_kafka_headers_new, rd_kafka_producev, rd_kafka_vtype_t as Vtype,
};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header as Sent, OwnedHeaders, Timestamp};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sluice_bridges::kafka::client::{self, Context};
use sluice_bridges::kafka::mapping::Header;
use sluice_bridges::kafka::records::Records;
use sluice_bridges::kafka::topic::KafkaTopic;
use sluice_bridges::kafka::{Properties, Side};
use sluice_connect::task::TaskError;

const PATIENCE: Duration = Duration::from_secs(30);
const TOPIC: &str = "orders";
const COUNT: i64 = 300;

struct Kafka {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
}

impl Kafka {
    fn new() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 1, 1).unwrap();
        let producer =
            ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
        Self { cluster, producer }
    }

    fn send(&self, record: BaseRecord<'_, str, str>) {
        self.producer.send(record.partition(0)).map_err(|(error, _)| error).unwrap();
    }

    /// Records with their offset as the value.
    fn send_numbers(&self) {
        for number in 0..COUNT {
            self.send(BaseRecord::to(TOPIC).payload(&number.to_string()));
        }
        self.producer.flush(PATIENCE).unwrap();
    }

    /// A record with a header whose name is no UTF-8.
    fn send_unnameable_header(&self) {
        // SAFETY: all texts outlive the call, which takes the headers over if it succeeds; the arguments end with `END`.
        let code = unsafe {
            let headers = rd_kafka_headers_new(1);
            rd_kafka_header_add(headers, c"\xff".as_ptr(), 1, c"v".as_ptr().cast(), 1);
            rd_kafka_producev(
                self.producer.client().native_ptr(),
                Vtype::RD_KAFKA_VTYPE_TOPIC,
                c"orders".as_ptr(),
                Vtype::RD_KAFKA_VTYPE_PARTITION,
                0,
                Vtype::RD_KAFKA_VTYPE_HEADERS,
                headers,
                Vtype::RD_KAFKA_VTYPE_END,
            )
        };
        assert_eq!(RDKafkaErrorCode::from(code), RDKafkaErrorCode::NoError);
        self.producer.flush(PATIENCE).unwrap();
    }

    fn records(&self) -> (Arc<BaseConsumer<Context>>, Records) {
        let config = client::config(Side::Source, &self.cluster.bootstrap_servers(), &Properties::new());
        let consumer = Arc::new(client::consumer(&config, "test").unwrap());
        let records = Records::new(&consumer, TOPIC, 0).unwrap();
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(TOPIC, 0, Offset::Offset(0)).unwrap();
        consumer.assign(&assignment).unwrap();
        (consumer, records)
    }
}

/// The offset of the next record, which is its value, too; `None` at the end. Records are taken many at a time where
/// nothing waits for them.
fn next(records: &mut Records) -> Option<i64> {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "no record came");
        match records.next(Duration::ZERO) {
            Some(Ok(record)) => {
                let value = std::str::from_utf8(record.payload().unwrap()).unwrap();
                assert_eq!(value.parse(), Ok(record.offset()));
                return Some(record.offset());
            }
            Some(Err(KafkaError::PartitionEOF(0))) => return None,
            Some(Err(error)) => panic!("{error}"),
            None => std::thread::yield_now(),
        }
    }
}

#[test]
fn all_records_come_in_order_and_the_end_after_them() {
    let kafka = Kafka::new();
    kafka.send_numbers();
    let (_consumer, mut records) = kafka.records();
    for offset in 0..COUNT {
        assert_eq!(next(&mut records), Some(offset));
    }
    assert_eq!(next(&mut records), None);
}

#[test]
fn what_was_taken_before_a_seek_does_not_come_after_it() {
    let kafka = Kafka::new();
    kafka.send_numbers();
    let (consumer, mut records) = kafka.records();
    for offset in 0..10 {
        assert_eq!(next(&mut records), Some(offset));
    }
    for from in [5, 200, 100] {
        records.clear();
        consumer.seek(TOPIC, 0, Offset::Offset(from), PATIENCE).unwrap();
        assert_eq!(next(&mut records), Some(from));
        assert_eq!(next(&mut records), Some(from + 1));
    }
}

#[test]
fn a_record_is_what_was_sent() {
    let kafka = Kafka::new();
    let headers = OwnedHeaders::new()
        .insert(Sent { key: "a", value: Some("1") })
        .insert(Sent { key: "a", value: Some("") })
        .insert(Sent { key: "", value: None::<&str> });
    kafka.send(BaseRecord::to(TOPIC).key("").payload("v").timestamp(1_700_000_000_123).headers(headers));
    kafka.send(BaseRecord::to(TOPIC).key("k"));
    kafka.producer.flush(PATIENCE).unwrap();
    let (_consumer, mut records) = kafka.records();
    {
        let first = records.next(PATIENCE).unwrap().unwrap();
        assert_eq!((first.offset(), first.key(), first.payload()), (0, Some(&b""[..]), Some(&b"v"[..])));
        assert_eq!(first.timestamp(), Timestamp::CreateTime(1_700_000_000_123));
        let header = |name, value| Header { name, value };
        let all = [header("a", Some(&b"1"[..])), header("a", Some(b"")), header("", None)];
        assert_eq!(first.headers().unwrap(), all);
    }
    let second = records.next(PATIENCE).unwrap().unwrap();
    assert_eq!((second.offset(), second.key(), second.payload()), (1, Some(&b"k"[..]), None));
    assert_eq!(second.headers(), Ok(Vec::new()));
}

#[test]
fn a_wait_ends_with_the_first_record() {
    let kafka = Kafka::new();
    kafka.send(BaseRecord::to(TOPIC).key("k"));
    kafka.producer.flush(PATIENCE).unwrap();
    let (_consumer, mut records) = kafka.records();
    let begun = Instant::now();
    assert_eq!(records.next(4 * PATIENCE).unwrap().unwrap().offset(), 0);
    assert!(begun.elapsed() < 3 * PATIENCE, "it waited for more records");
}

#[test]
fn what_is_wrong_with_a_partition_is_told_with_the_reason() {
    let kafka = Kafka::new();
    let (consumer, mut records) = kafka.records();
    assert_eq!(next(&mut records), None);
    consumer.seek(TOPIC, 0, Offset::Offset(7), PATIENCE).unwrap();
    let error = records.next(PATIENCE).unwrap().err();
    assert_eq!(error, Some(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset)));
    let (_, reason) = consumer.context().told.last().unwrap();
    assert!(reason.contains("out of range"), "{reason}");
}

#[test]
fn a_name_that_is_no_utf8_is_told() {
    let kafka = Kafka::new();
    kafka.send_unnameable_header();
    let (_consumer, mut records) = kafka.records();
    let record = records.next(PATIENCE).unwrap().unwrap();
    assert_eq!(record.headers(), Err("the name of a header is no UTF-8".to_owned()));
}

#[test]
fn a_topic_is_read_in_parts_and_again() {
    let kafka = Kafka::new();
    kafka.send_numbers();
    let topic = KafkaTopic::open(&kafka.cluster.bootstrap_servers(), TOPIC, &Properties::new()).unwrap();
    assert_eq!((topic.partitions(), topic.bounds(0).unwrap()), (1, (0, COUNT)));
    for (from, until) in [(0, COUNT), (0, 10), (5, 205), (205, COUNT), (7, 7)] {
        let mut offsets = Vec::new();
        topic
            .read(0, from, until, |seen| {
                let value = std::str::from_utf8(seen.value.unwrap()).unwrap();
                assert_eq!(value.parse(), Ok(seen.offset));
                offsets.push(seen.offset);
                Ok::<(), TaskError>(())
            })
            .unwrap();
        assert!(offsets.into_iter().eq(from..until), "from {from} to {until}");
    }
}

#[test]
fn a_topic_tells_which_record_can_not_be_read() {
    let kafka = Kafka::new();
    kafka.send(BaseRecord::to(TOPIC).key("k"));
    kafka.send_unnameable_header();
    let topic = KafkaTopic::open(&kafka.cluster.bootstrap_servers(), TOPIC, &Properties::new()).unwrap();
    let error = topic.read(0, 0, 2, |_| Ok::<(), TaskError>(())).unwrap_err().to_string();
    assert!(error.contains("partition 0 offset 1: the name of a header is no UTF-8"), "{error}");
}

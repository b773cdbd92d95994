//! librdkafka alone, to measure a bridge against: a consumer that throws records away, and a producer of made-up ones, with the
//! settings that the source and the sink have.
//!
//! ```console
//! $ cargo run --release -p sluice-bridges --features kafka --example librdkafka -- consume 127.0.0.1:9092 orders 1000000
//! $ cargo run --release -p sluice-bridges --features kafka --example librdkafka -- produce 127.0.0.1:9092 orders 1000000 200
//! ```
#![allow(clippy::disallowed_methods, reason = "arguments and time come in here")]
#![allow(clippy::print_stdout, reason = "a figure is shown")]

use std::error::Error;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sluice_bridges::kafka::flush::flush;
use sluice_bridges::kafka::{Properties, Side, client};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let begun = Instant::now();
    let records = match arguments.as_slice() {
        ["consume", bootstrap, topic, records] => consume(bootstrap, topic, records.parse()?)?,
        ["produce", bootstrap, topic, records, bytes] => {
            produce(bootstrap, topic, records.parse()?, bytes.parse()?)?
        }
        _ => return Err("consume BOOTSTRAP TOPIC RECORDS, or produce BOOTSTRAP TOPIC RECORDS BYTES".into()),
    };
    let seconds = begun.elapsed().as_secs_f64();
    println!("{records} records in {seconds:.3} s");
    Ok(())
}

/// Reads all partitions from their beginning until so many records have come.
fn consume(bootstrap: &str, topic: &str, records: u64) -> Result<u64, Box<dyn Error>> {
    let mut config = client::config(Side::Source, bootstrap, &Properties::new());
    config.set("group.id", "librdkafka").set("queued.max.messages.kbytes", "65536");
    let consumer: BaseConsumer = config.create()?;
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(15))?;
    let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    let mut assignment = TopicPartitionList::new();
    for partition in 0..i32::try_from(partitions)? {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut seen = 0;
    while seen < records {
        match consumer.poll(Duration::from_secs(30)) {
            Some(Ok(_)) => seen += 1,
            Some(Err(KafkaError::PartitionEOF(_))) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Err(format!("{seen} of {records} records came").into()),
        }
    }
    Ok(seen)
}

/// Sends records of JSON of that many bytes, half of each text that no codec makes smaller.
fn produce(bootstrap: &str, topic: &str, records: u64, bytes: usize) -> Result<u64, Box<dyn Error>> {
    let mut config: ClientConfig = client::config(Side::Sink, bootstrap, &Properties::new());
    config.set("queue.buffering.max.messages", "1000000");
    let producer: BaseProducer = config.create()?;
    let mut body = Vec::with_capacity(bytes + 64);
    let mut chance = 0x9E37_79B9_7F4A_7C15_u64;
    for number in 0..records {
        body.clear();
        body.extend_from_slice(format!("{{\"id\":{number},\"text\":\"").as_bytes());
        while body.len() + 2 < bytes {
            // xorshift64
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            body.extend_from_slice(
                &format!("{:08x}--------", chance >> 32).as_bytes()[..16.min(bytes - 2 - body.len())],
            );
        }
        body.extend_from_slice(b"\"}");
        let key = format!("k{}", number % 9973);
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).key(key.as_bytes()).payload(&body);
        while let Err((error, back)) = producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            record = back;
            // A poll with a time spins through its last millisecond.
            producer.poll(Duration::ZERO);
            std::thread::sleep(Duration::from_micros(500));
        }
        if number % 1024 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    if !flush(&producer, Duration::from_secs(120)) {
        return Err("not all records were stored".into());
    }
    Ok(records)
}

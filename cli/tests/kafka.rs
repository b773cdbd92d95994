//! Pipelines from and to Kafka, as a user runs them. The brokers are librdkafka's mock: they speak the protocol over
//! real connections, and live in this process.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test over processes takes the machine's environment")]

mod kafka_mock;

use std::fs;
use std::path::PathBuf;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use kafka_mock::{Kafka, Seen};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

/// All rows of the Parquet files, in the order of their names.
fn rows(kafka: &Kafka) -> Vec<RecordBatch> {
    let mut files: Vec<PathBuf> = fs::read_dir(kafka.path("lake"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "parquet"))
        .collect();
    files.sort();
    let read = |path: &PathBuf| {
        let file = fs::File::open(path).unwrap();
        ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().map(Result::unwrap)
    };
    files.iter().flat_map(read).collect()
}

fn fate(pipeline: &Value, name: &str) -> u64 {
    pipeline["fates"][name].as_u64().unwrap_or_else(|| panic!("{pipeline}"))
}

fn plain(count: i64) -> Vec<Seen> {
    let one = |i: i64| Seen {
        partition: i32::try_from(i % 3).unwrap(),
        key: Some(format!("k{}", i % 3).into_bytes()),
        value: Some(format!("{{\"id\": {i}}}").into_bytes()),
        headers: vec![("origin".to_owned(), Some(["EWR", "JFK"][usize::try_from(i % 2).unwrap()].into()))],
        time: 1_700_000_000_000 + i,
    };
    (0..count).map(one).collect()
}

const LAKE: &str = "
name: lake
source:
  kafka: {bootstrap: 'BOOTSTRAP', topic: orders, until: caught_up}
where: \"origin = 'JFK'\"
decode: {format: json}
sink:
  parquet: {path: lake}
";

#[test]
fn a_topic_goes_into_files_once_and_goes_on_where_it_was() {
    let kafka = Kafka::new(&[("orders", 3)]);
    kafka.send("orders", &plain(300));
    let pipelines = kafka.run(LAKE);
    assert_eq!((fate(&pipelines[0], "written"), fate(&pipelines[0], "filtered")), (150, 150));
    let pipelines = kafka.run(LAKE);
    assert_eq!(pipelines[0]["rows"], 0);
    kafka.send("orders", &plain(30));
    let pipelines = kafka.run(LAKE);
    assert_eq!(fate(&pipelines[0], "written"), 15);
    let mut ids: Vec<i64> = rows(&kafka)
        .iter()
        .flat_map(|batch| batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec())
        .collect();
    ids.sort_unstable();
    let mut expected: Vec<i64> = (0..300).chain(0..30).filter(|i| i % 2 == 1).collect();
    expected.sort_unstable();
    assert_eq!(ids, expected);
    let audit = kafka.sluice(&["audit", "lake"]);
    assert!(audit.status.success(), "{audit:?}");
}

#[test]
fn files_hold_a_records_headers_as_they_came_and_its_place_in_columns() {
    let kafka = Kafka::new(&[("orders", 3)]);
    kafka.send("orders", &plain(6));
    let pipelines = kafka.run(
        "
name: lake
source:
  kafka: {bootstrap: 'BOOTSTRAP', topic: orders, until: caught_up}
sink:
  parquet: {path: lake}
",
    );
    assert_eq!(fate(&pipelines[0], "written"), 6);
    let mut places = Vec::new();
    for batch in rows(&kafka) {
        let properties = batch.column_by_name("properties").unwrap().as_map();
        assert!(properties.keys().as_string::<i32>().iter().all(|name| name == Some("origin")));
        assert_eq!(properties.keys().len(), batch.num_rows());
        let queues = batch.column_by_name("queue_id").unwrap().as_primitive::<Int32Type>();
        let offsets = batch.column_by_name("queue_offset").unwrap().as_primitive::<Int64Type>();
        places.extend(queues.values().iter().copied().zip(offsets.values().iter().copied()));
    }
    places.sort_unstable();
    assert_eq!(places, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
}

#[test]
fn a_dead_letter_that_comes_back_to_its_own_topic_is_left_out() {
    let kafka = Kafka::new(&[("orders", 1)]);
    let mut records = plain(1);
    records[0].value = Some(b"no JSON".to_vec());
    kafka.send("orders", &records);
    let pipelines = kafka.run(
        "
name: lake
source:
  kafka: {bootstrap: 'BOOTSTRAP', topic: orders, until: caught_up}
decode: {format: json}
sink:
  parquet: {path: lake}
errors: {then: dead_letter, dead_letter: retry}
---
name: again
source:
  topic: {name: retry, until: caught_up}
sink:
  kafka: {bootstrap: 'BOOTSTRAP', topic: orders}
",
    );
    assert_eq!((fate(&pipelines[0], "dead"), fate(&pipelines[1], "filtered")), (1, 1), "{pipelines:?}");
    assert_eq!(kafka.receive("orders", 1).len(), 1);
}

/// Records with all that a message does not have by itself.
fn odd() -> Vec<Seen> {
    let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
    let with = |key: Option<&[u8]>, value: Option<&[u8]>, headers| Seen {
        partition: 0,
        key: key.map(<[u8]>::to_vec),
        value: value.map(<[u8]>::to_vec),
        headers,
        time: 1_700_000_000_123,
    };
    vec![
        with(Some(b"key"), Some(b"value"), vec![header("a", Some(b"1")), header("b", Some("ü".as_bytes()))]),
        with(None, Some(b""), vec![]),
        with(Some(b""), Some(b"{}"), vec![header("a", Some(b"1")), header("a", Some(b"2"))]),
        with(
            Some(b"gone"),
            None,
            vec![header("", Some(b"x")), header("null", None), header("empty", Some(b""))],
        ),
        with(
            Some(b"\xff\x00 k"),
            Some(b"\x00\x01"),
            vec![header("TAGS", Some(b"t")), header("bin", Some(b"\xfe"))],
        ),
        with(
            Some(b"two words"),
            Some(b"v"),
            vec![header("rocketmq.TAGS", Some(b"t")), header("z", Some(b"1"))],
        ),
    ]
}

#[test]
fn records_come_back_from_a_topic_as_they_were() {
    let kafka = Kafka::new(&[("first", 1), ("second", 1)]);
    kafka.send("first", &odd());
    let pipelines = kafka.run(
        "
name: in
source:
  kafka: {bootstrap: 'BOOTSTRAP', topic: first, until: caught_up}
sink:
  topic: {name: between}
---
name: out
source:
  topic: {name: between, until: caught_up}
sink:
  kafka: {bootstrap: 'BOOTSTRAP', topic: second}
",
    );
    assert_eq!(pipelines.iter().map(|p| fate(p, "written")).collect::<Vec<_>>(), [6, 6], "{pipelines:?}");
    assert_eq!(kafka.receive("second", 1), odd());
    let tail = kafka.sluice(&["topic", "tail", "between", "--limit", "1"]);
    let told = String::from_utf8_lossy(&tail.stdout).into_owned();
    assert!(told.contains("first/0/0") && told.contains("kafka.origin"), "{told}");
}

#[test]
fn chains_of_more_partitions_than_begin_at_a_time_go_on_where_they_were() {
    let kafka = Kafka::new(&[("first", 34), ("second", 34)]);
    let config = "
name: copy
source:
  kafka: {bootstrap: 'BOOTSTRAP', topic: first, until: caught_up}
sink:
  kafka: {bootstrap: 'BOOTSTRAP', topic: second, partition: source}
";
    let all: Vec<Seen> = (0..34)
        .map(|partition| Seen { partition, value: Some(vec![1]), time: 1, ..Seen::default() })
        .collect();
    for _ in 0..2 {
        kafka.send("first", &all);
        let pipelines = kafka.run(config);
        assert_eq!(fate(&pipelines[0], "written"), 34, "{pipelines:?}");
    }
    kafka.run(
        "
name: lake
source:
  kafka: {bootstrap: 'BOOTSTRAP', topic: second, until: caught_up}
sink:
  parquet: {path: lake}
",
    );
    let queues = |batch: &RecordBatch| {
        batch.column_by_name("queue_id").unwrap().as_primitive::<Int32Type>().values().to_vec()
    };
    let mut seen: Vec<i32> = rows(&kafka).iter().flat_map(queues).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..34).flat_map(|partition| [partition; 2]).collect::<Vec<_>>());
}

const OUT: &str = "
name: out
source:
  file: {path: in.csv, format: csv, keys: [id], tag: origin}
sink:
  kafka: {bootstrap: 'BOOTSTRAP', topic: orders, properties: {message.max.bytes: 2000, batch.size: 2000}}
errors: {then: dead_letter, dead_letter: out-dlq}
";

#[test]
fn what_is_too_long_for_kafka_becomes_a_dead_letter_and_the_rest_goes_on() {
    let kafka = Kafka::new(&[("orders", 1)]);
    let row = |i: usize| format!("{i},{}\n", if i == 7 { "x".repeat(3000) } else { "EWR".to_owned() });
    fs::write(kafka.path("in.csv"), format!("id,origin\n{}", (0..20).map(row).collect::<String>())).unwrap();
    let pipelines = kafka.run(OUT);
    assert_eq!((fate(&pipelines[0], "written"), fate(&pipelines[0], "dead")), (19, 1), "{pipelines:?}");
    let pipelines = kafka.run(OUT);
    assert_eq!(pipelines[0]["rows"], 0, "the position is Kafka's: {pipelines:?}");
    let seen = kafka.receive("orders", 1);
    assert_eq!(seen.len(), 19);
    assert_eq!(seen[0].key.as_deref(), Some(&b"0"[..]));
    let names: Vec<&str> = seen[0].headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["rocketmq.origin", "rocketmq.TAGS"]);
    assert_eq!(seen[0].headers[0].1.as_deref(), Some(&b"in.csv/0/0"[..]));
    let letters = kafka.sluice(&["dlq", "list", "out-dlq"]);
    let told = String::from_utf8_lossy(&letters.stdout).into_owned();
    assert!(told.contains("message.max.bytes"), "{told}");
}

#[test]
fn a_partition_has_the_number_of_the_queue_if_asked_for() {
    let kafka = Kafka::new(&[("orders", 3), ("copy", 3), ("small", 2)]);
    kafka.send("orders", &plain(30));
    let copy = |topic: &str| {
        format!(
            "
name: to-{topic}
source:
  kafka: {{bootstrap: 'BOOTSTRAP', topics: ['^ord'], until: caught_up}}
sink:
  kafka: {{bootstrap: 'BOOTSTRAP', topic: {topic}, partition: source}}
"
        )
    };
    let pipelines = kafka.run(&copy("copy"));
    assert_eq!(fate(&pipelines[0], "written"), 30, "{pipelines:?}");
    let mut copies = kafka.receive("copy", 3);
    for (copy, number) in
        copies.iter_mut().zip((0..3).flat_map(|p| (0..10).map(move |o| format!("orders/{p}/{o}@"))))
    {
        let (name, place) = copy.headers.pop().unwrap();
        assert!(name == "kafka.origin" && place.unwrap().starts_with(number.as_bytes()));
    }
    assert_eq!(copies, kafka.receive("orders", 3));
    let pipelines = kafka.run(&copy("small"));
    assert_eq!(pipelines[0]["state"], "blocked");
    assert!(pipelines[0]["error"].as_str().unwrap().contains("add partitions"), "{pipelines:?}");
}

#[test]
fn at_least_once_needs_no_positions() {
    let kafka = Kafka::new(&[("orders", 3), ("copy", 1)]);
    kafka.send("orders", &plain(30));
    let config = "
name: out
delivery: at_least_once
source:
  kafka: {bootstrap: 'BOOTSTRAP', topic: orders, until: caught_up}
sink:
  kafka: {bootstrap: 'BOOTSTRAP', topic: copy, positions: none-such}
";
    assert_eq!(fate(&kafka.run(config)[0], "written"), 30);
    assert_eq!(kafka.run(config)[0]["rows"], 0, "it goes on where the group stands");
    assert_eq!(kafka.receive("copy", 1).len(), 30);
}

#[test]
fn a_topic_that_was_made_again_is_told_and_not_read() {
    let kafka = Kafka::new(&[("orders", 3)]);
    kafka.send("orders", &plain(300));
    kafka.run(LAKE);
    // The mock can not delete: another cluster has a topic of that name.
    let other = Kafka::new(&[("orders", 3)]);
    let mut records = plain(300);
    records.iter_mut().for_each(|record| record.time += 5);
    other.send("orders", &records);
    fs::rename(kafka.path("lake"), other.path("lake")).unwrap();
    let told = &other.run(LAKE)[0];
    assert_eq!(told["state"], "blocked");
    assert!(told["error"].as_str().unwrap().contains("is not the one that was read before"), "{told}");
}

#[test]
fn what_is_not_there_is_told() {
    let kafka = Kafka::new(&[("orders", 1)]);
    let told = kafka.told("run", &LAKE.replace("topic: orders", "topic: orderz"));
    assert!(told.contains("no such topic: orderz"), "{told}");
    let told = kafka.told("check", &LAKE.replace("BOOTSTRAP", "127.0.0.1:1"));
    assert!(told.contains("the brokers do not answer") && told.contains("refused"), "{told}");
    fs::write(kafka.path("in.csv"), "id,origin\n1,EWR\n").unwrap();
    let told = &kafka.run(&OUT.replace("topic: orders", "topic: orderz"))[0];
    assert_eq!(told["state"], "blocked", "{told}");
    assert!(told["error"].as_str().unwrap().contains("partitions: N"), "{told}");
}

#[test]
fn lint_finds_what_librdkafka_would_refuse_and_what_a_guarantee_hangs_on() {
    let kafka = Kafka::new(&[]);
    let told = kafka.told(
        "lint",
        "name: bad
source:
  kafka:
    bootstrap: localhost
    topics: [a, '^(']
    properties:
      isolation.level: read_uncommitted
      sasl.password: open
sink:
  kafka:
    bootstrap: localhost:9092
    topic: sluice-positions
    key: $body
    properties:
      acks: 1
      linger.ms: soon
",
    );
    assert!(told.contains(":13:10: sink.kafka.key: `$body` can hold no key"), "{told}");
    let told = kafka
        .told("lint", &fs::read_to_string(kafka.path("pipeline.yaml")).unwrap().replace("$body", "$keys"));
    for line in [
        ":4:16: source.kafka.bootstrap: `localhost` is no address",
        ":5:17: source.kafka.topics.[1]: no regular expression",
        ":7:24: source.kafka.properties.isolation.level: `isolation.level` can not be set",
        ":8:22: source.kafka.properties.sasl.password: the text of this file is kept in the target",
        "sink.kafka.positions: is the topic that rows go to",
        ":15:13: sink.kafka.properties.acks: `acks` can not be set",
    ] {
        assert!(told.contains(line), "{line} is not in\n{told}");
    }
}

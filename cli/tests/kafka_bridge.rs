//! Moving between Kafka and Sluice: both sides compared, bridges both ways, groups that go on at the other side. Kafka is
//! librdkafka's mock.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test over processes takes the machine's environment")]

mod kafka_mock;
mod served;

use std::fs;

use kafka_mock::{Kafka, Seen};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;
use served::Served;

fn record(partition: i32, key: Option<&str>, value: &str) -> Seen {
    Seen {
        partition,
        key: key.map(|key| key.as_bytes().to_vec()),
        value: Some(value.as_bytes().to_vec()),
        headers: vec![("a".to_owned(), Some(b"1".to_vec()))],
        time: 1_700_000_000_000,
    }
}

/// Records of 20 keys, each in a partition of its own, and some without a key.
fn records(count: usize) -> Vec<Seen> {
    let one = |i: usize| {
        let key = format!("k{}", i % 20);
        record(i32::try_from(i % 20 % 3).unwrap(), (i % 20 != 19).then_some(&key), &i.to_string())
    };
    (0..count).map(one).collect()
}

/// Compares two sides; what is said of them, and the exit code.
fn verify(kafka: &Kafka, between: &str, and: &str, more: &[&str]) -> (Value, i32) {
    let sides = [between, and].map(|side| side.replace("KAFKA", &kafka.bootstrap()));
    let arguments = ["bridge", "verify", "--json", "--between", &sides[0], "--and", &sides[1]];
    let out = kafka.sluice(&[&arguments[..], more].concat());
    let found = serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{out:?}"));
    (found, out.status.code().unwrap())
}

fn is_same(kafka: &Kafka, between: &str, and: &str, more: &[&str]) -> u64 {
    let (found, code) = verify(kafka, between, and, more);
    assert!(code == 0 && found["same"] == true, "{found:#}");
    assert_eq!(found["between"]["digest"], found["and"]["digest"]);
    found["and"]["messages"].as_u64().unwrap()
}

const IN: &str = "
name: in
source:
  kafka: {bootstrap: 'BOOTSTRAP', topic: orders, until: caught_up}
sink:
  topic: {name: orders, queues: 2}
";

#[test]
fn both_sides_of_a_bridge_are_the_same_also_with_few_keys_in_memory() {
    let kafka = Kafka::new(&[("orders", 3)]);
    kafka.send("orders", &records(300));
    kafka.send("orders", &[Seen { value: None, ..record(1, Some("gone"), "") }]);
    kafka.run(IN);
    let sides = ("kafka:KAFKA/orders", "store:sluice-data/orders");
    for more in [&["--times"][..], &["--memory", "1KiB", "--ranges", "7"], &["--any-order"]] {
        assert_eq!(is_same(&kafka, sides.0, sides.1, more), 301);
    }
    kafka.send("orders", &records(1));
    let (found, code) = verify(&kafka, sides.0, sides.1, &[]);
    assert_eq!((code, found["differing"].as_array().unwrap().len()), (1, 1), "{found:#}");
}

#[test]
fn what_differs_is_told_with_the_first_message_of_each_side() {
    let kafka = Kafka::new(&[("orders", 3), ("other", 3)]);
    let all = records(300);
    kafka.send("orders", &all);
    let mut changed = all.clone();
    changed[40].value = Some(b"changed".to_vec());
    // Of k2, two change places.
    changed.swap(102, 122);
    // The last one without a key is missing, and one of k5.
    changed.remove(299);
    changed.remove(65);
    kafka.send("other", &changed);
    let (found, code) = verify(&kafka, "kafka:KAFKA/orders", "kafka:KAFKA/other", &["--memory", "1KiB"]);
    assert_eq!((code, &found["same"]), (1, &Value::Bool(false)));
    let keys = found["keys"].as_array().unwrap();
    let of = |key: &str| {
        let is_it = |found: &&Value| found["key"].as_str() == Some(key);
        keys.iter().find(is_it).unwrap_or_else(|| panic!("no {key} in {found:#}"))["first_difference"].clone()
    };
    assert_eq!(keys.len(), 4, "{found:#}");
    assert_eq!(
        (of("key k0")["position"].as_u64(), &of("key k0")["what"]),
        (Some(3), &"another value".into())
    );
    assert_eq!(of("key k2")["what"], "they come in another order");
    assert_eq!(of("key k5")["what"], "missing on the second side");
    assert!(of("key k5")["between"].as_str().unwrap().starts_with("orders/2/"), "{found:#}");
    let without_key = keys.iter().find(|found| found["key"].is_null()).unwrap();
    assert_eq!(without_key["first_difference"]["and"], Value::Null);
    let any = verify(&kafka, "kafka:KAFKA/orders", "kafka:KAFKA/other", &["--any-order"]).0;
    assert_eq!(any["keys"].as_array().unwrap().len(), 3, "{any:#}");
    // For a person.
    let side = |topic: &str| format!("kafka:{}/{topic}", kafka.bootstrap());
    let out = kafka.sluice(&["bridge", "verify", "--between", &side("orders"), "--and", &side("other")]);
    let told = String::from_utf8(out.stdout).unwrap();
    for part in [
        "300 messages in 3 queues",
        "298 messages",
        "key k5: 15 and 14 messages; number 4 differs",
        "different: ",
    ] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
}

#[test]
fn sides_that_are_none_are_told() {
    let kafka = Kafka::new(&[("orders", 1)]);
    let side = format!("kafka:{}/", kafka.bootstrap());
    for (between, part) in [
        (format!("{side}orderz"), "no such topic: orderz"),
        ("store:nowhere/orders".to_owned(), "there is no store"),
        ("kafka:127.0.0.1:1/orders".to_owned(), "do not answer"),
        ("orders".to_owned(), "expected kafka:HOST:PORT/TOPIC"),
        (format!("{side}orders"), "both sides are"),
    ] {
        let out =
            kafka.sluice(&["bridge", "verify", "--between", &between, "--and", &format!("{side}orders")]);
        let told = String::from_utf8(out.stderr).unwrap();
        assert!(!out.status.success() && told.contains(part), "{told}");
    }
}

/// Runs pipelines again and again until none of them writes anything, and gives how often that took.
fn settle(kafka: &Kafka, config: &str) -> usize {
    for round in 1..6 {
        let pipelines = kafka.run(config);
        let written: u64 = pipelines.iter().map(|p| p["fates"]["written"].as_u64().unwrap()).sum();
        assert!(pipelines.iter().all(|p| p["state"] == "done"), "{pipelines:?}");
        if written == 0 {
            return round;
        }
    }
    panic!("rows go round and round");
}

#[test]
fn bridges_both_ways_send_nothing_back() {
    let kafka = Kafka::new(&[("orders", 3)]);
    kafka.send("orders", &records(100));
    let lines: String = (0..50).map(|i| format!("s{i},{i}\n")).collect();
    fs::write(kafka.path("in.csv"), format!("id,number\n{lines}")).unwrap();
    let config = format!(
        "{IN}---
name: load
source:
  file: {{path: in.csv, format: csv, keys: [id]}}
sink:
  topic: {{name: orders, queues: 2}}
---
name: out
source:
  topic: {{name: orders, until: caught_up}}
sink:
  kafka: {{bootstrap: 'BOOTSTRAP', topic: orders}}
"
    );
    assert!(settle(&kafka, &config) <= 3);
    assert_eq!(is_same(&kafka, "kafka:KAFKA/orders", "store:sluice-data/orders", &["--times"]), 150);
    kafka.send("orders", &records(10));
    settle(&kafka, &config);
    assert_eq!(is_same(&kafka, "kafka:KAFKA/orders", "store:sluice-data/orders", &["--times"]), 160);
}

#[test]
fn a_topic_of_the_same_name_elsewhere_is_not_the_one_that_rows_came_from() {
    let kafka = Kafka::new(&[("orders", 3)]);
    let lines: String = (0..50).map(|i| format!("s{i},{i}\n")).collect();
    fs::write(kafka.path("in.csv"), format!("id,number\n{lines}")).unwrap();
    let out = "
name: load
source:
  file: {path: in.csv, format: csv, keys: [id]}
sink:
  topic: {name: orders}
---
name: out
source:
  topic: {name: orders, until: caught_up}
sink:
  kafka: {bootstrap: 'BOOTSTRAP', topic: orders}
";
    kafka.run(out);
    fs::rename(kafka.path("sluice-data"), kafka.path("first")).unwrap();
    let pipelines = kafka.run(IN);
    assert_eq!(pipelines[0]["fates"]["written"], 50, "{pipelines:?}");
    assert_eq!(is_same(&kafka, "store:first/orders", "store:sluice-data/orders", &["--times"]), 50);
    // And on to another Kafka, whose topic has the same name too.
    let other = Kafka::new(&[("orders", 3)]);
    fs::rename(kafka.path("sluice-data"), other.path("sluice-data")).unwrap();
    let on = "
name: on
source:
  topic: {name: orders, until: caught_up}
sink:
  kafka: {bootstrap: 'BOOTSTRAP', topic: orders}
";
    assert_eq!(other.run(on)[0]["fates"]["written"], 50);
}

#[test]
fn two_kafkas_bridged_both_ways_send_nothing_back() {
    let (one, other) = (Kafka::new(&[("orders", 3)]), Kafka::new(&[("orders", 3)]));
    one.send("orders", &records(100));
    other.send("orders", &records(40));
    let pipeline = |name: &str, from: &str, to: &str| {
        format!(
            "name: {name}\nsource:\n  kafka: {{bootstrap: '{from}', topic: orders, until: caught_up}}\n\
             sink:\n  kafka: {{bootstrap: '{to}', topic: orders}}\n"
        )
    };
    let (first, second) = (one.bootstrap(), other.bootstrap());
    let config = format!("{}---\n{}", pipeline("there", &first, &second), pipeline("back", &second, &first));
    assert!(settle(&one, &config) <= 3);
    let sides = ("kafka:KAFKA/orders".to_owned(), format!("kafka:{second}/orders"));
    // Keys come from both sides here, and nothing orders those of one against those of the other.
    assert_eq!(is_same(&one, &sides.0, &sides.1, &["--any-order", "--times"]), 140);
}

#[test]
fn a_topic_between_two_kafkas_sends_each_row_on_once() {
    let (one, other) = (Kafka::new(&[("orders", 3)]), Kafka::new(&[("orders", 3)]));
    one.send("orders", &records(60));
    other.send("orders", &records(40));
    let both = |number: usize, kafka: &Kafka| {
        let bootstrap = kafka.bootstrap();
        format!(
            "name: in-{number}\nsource:\n  kafka: {{bootstrap: '{bootstrap}', topic: orders, until: caught_up}}\n\
             sink:\n  topic: {{name: orders}}\n---\nname: out-{number}\n\
             source:\n  topic: {{name: orders, group: g{number}, until: caught_up}}\n\
             sink:\n  kafka: {{bootstrap: '{bootstrap}', topic: orders}}\n"
        )
    };
    let config = format!("{}---\n{}", both(1, &one), both(2, &other));
    assert!(settle(&one, &config) <= 4);
    let here = "store:sluice-data/orders";
    for kafka in [&one, &other] {
        let there = format!("kafka:{}/orders", kafka.bootstrap());
        assert_eq!(is_same(&one, &there, here, &["--any-order", "--times"]), 100);
    }
}

fn commit(kafka: &Kafka, group: &str, offsets: &[i64]) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .set("group.id", group)
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    for (partition, offset) in (0..).zip(offsets) {
        list.add_partition_offset("orders", partition, Offset::Offset(*offset)).unwrap();
    }
    consumer.commit(&list, CommitMode::Sync).unwrap();
}

#[test]
fn a_group_goes_on_at_the_other_side() {
    let kafka = Kafka::new(&[("orders", 3)]);
    kafka.send("orders", &records(300));
    let broker = Served::broker(&kafka.path("broker"), &[]);
    let names = broker.names();
    let config = format!(
        "
name: in
delivery: at_least_once
source:
  kafka: {{bootstrap: 'BOOTSTRAP', topic: orders, until: caught_up}}
sink:
  topic: {{name: orders, cluster: '{names}', queues: 3, queue: source}}
---
name: out
source:
  topic: {{name: orders, cluster: '{names}', until: caught_up}}
sink:
  kafka: {{bootstrap: 'BOOTSTRAP', topic: orders}}
"
    );
    settle(&kafka, &config);
    let (there, here) = (format!("rocketmq:{names}/orders"), format!("kafka:{}/orders", kafka.bootstrap()));
    assert_eq!(is_same(&kafka, &here, &there, &[]), 300);
    commit(&kafka, "billing", &[40, 7, 80]);
    let translate = |from: &str, to: &str, more: &[&str]| {
        let arguments = ["bridge", "offsets", "--group", "billing", "--from", from, "--to", to];
        let out = kafka.sluice(&[&arguments[..], more].concat());
        (
            String::from_utf8(out.stdout).unwrap(),
            String::from_utf8(out.stderr).unwrap(),
            out.status.code().unwrap(),
        )
    };
    let next = |found: &str| -> Vec<i64> {
        let found: Value = serde_json::from_str(found).unwrap();
        found["queues"].as_array().unwrap().iter().map(|queue| queue["next"].as_i64().unwrap()).collect()
    };
    // Partition by partition the queues have the same messages.
    let (told, _, code) = translate(&here, &there, &["--json"]);
    assert_eq!((next(&told), code), (vec![40, 7, 80], 0), "{told}");
    let (told, ..) = translate(&here, &there, &[]);
    assert!(told.contains("GOES ON AT") && told.contains("--apply commits"), "{told}");
    let back = translate(&there, &here, &[]);
    assert!(back.2 == 1 && back.1.contains("has committed no offset"), "a dry run commits nothing: {back:?}");
    let (told, stderr, code) = translate(&here, &there, &["--apply"]);
    assert!(code == 0 && told.contains("committed for 3 queues"), "{told}{stderr}");
    // And back again, by what Kafka's records are copies of.
    let (told, _, code) = translate(&there, &here, &["--json"]);
    assert_eq!((next(&told), code), (vec![40, 7, 80], 0), "{told}");
    // Messages that were sent there first: the group has consumed some.
    let sent: String = (0..30).map(|i| format!("{i}\n")).collect();
    let out = served::sluice_with(&sent, &["topic", "send", "orders", "--namesrv", &names, "--key", "k0"]);
    assert!(out.status.success(), "{out:?}");
    let (told, stderr, code) = translate("store:broker/orders", &here, &[]);
    assert!(code == 1 && stderr.contains("groups are a broker's"), "{told}{stderr}");
    broker.end();
}

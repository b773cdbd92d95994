//! The client over `sluice broker`: members that read everything, and bodies that are compressed.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test over processes takes the machine's time")]

mod served;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluice_client::{
    Client, Consumer, ConsumerSettings, Error, Message, Producer, ProducerSettings, PushConsumer, Start,
    Subscription, TopicName,
};
use sluice_protocol::heartbeat::MessageModel;
use tokio::time::timeout;

use served::{Served, get, json, sluice, sluice_with, until};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn send(client: &Client, topic: &TopicName, texts: std::ops::Range<usize>) {
    let producer = Producer::new(client, ProducerSettings::default()).unwrap();
    for text in texts {
        producer.send(&Message::new(topic, text.to_string())).await.unwrap();
    }
    producer.close().await.unwrap();
}

async fn member(client: &Client, topic: &TopicName, file: Option<&Path>) -> Result<Consumer, Error> {
    let settings = ConsumerSettings { start: Start::First, ..ConsumerSettings::new("caches") };
    Consumer::broadcast(client, settings, [Subscription::all(topic)], file.map(PathBuf::from)).await
}

/// So many messages, in the order of their numbers.
async fn take(consumer: &mut Consumer, messages: usize) -> Vec<usize> {
    let mut found = Vec::new();
    while found.len() < messages {
        let batch = timeout(Duration::from_secs(30), consumer.next_batch()).await;
        for record in batch.expect("more messages").unwrap().records {
            found.push(String::from_utf8_lossy(&record.body).parse().unwrap());
        }
    }
    found.sort_unstable();
    found
}

#[test]
fn each_member_of_a_broadcast_gets_every_message_and_goes_on_where_its_file_says() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Served::broker(&dir.path().join("store"), &[]);
    let file = dir.path().join("offsets").join("one.json");
    sluice(&["topic", "create", "prices", "--queues", "3", "--namesrv", &broker.names()]);
    let topic = TopicName::new("prices").unwrap();
    runtime().block_on(async {
        let (one, other) = (broker.client(), broker.client());
        send(&one, &topic, 0..30).await;
        let mut with_file = member(&one, &topic, Some(&file)).await.unwrap();
        let mut without = member(&other, &topic, None).await.unwrap();
        let all: Vec<usize> = (0..30).collect();
        assert_eq!(take(&mut with_file, 30).await, all);
        assert_eq!(take(&mut without, 30).await, all);
        assert_eq!((with_file.queues().len(), without.queues().len()), (3, 3));
        let members = sluice_client::Admin::new(&one).group_members("caches").await.unwrap();
        assert!(members.values().all(|m| m.message_model == Some(MessageModel::Broadcasting)));
        with_file.close().await.unwrap();
        without.close().await.unwrap();

        send(&one, &topic, 30..40).await;
        let mut again = member(&one, &topic, Some(&file)).await.unwrap();
        assert_eq!(take(&mut again, 10).await, (30..40).collect::<Vec<_>>());
        again.close().await.unwrap();
        let mut anew = member(&other, &topic, None).await.unwrap();
        assert_eq!(take(&mut anew, 40).await.len(), 40);
        anew.close().await.unwrap();

        // As Java's clients write it.
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            text.starts_with(r#"{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"prices"}:"#),
            "{text}"
        );
        std::fs::write(&file, "not json").unwrap();
        let error = member(&one, &topic, Some(&file)).await.err().unwrap();
        assert!(
            error.to_string().contains(&format!("cannot read the offsets in {}", file.display())),
            "{error}"
        );
    });
    let lag = json(&["group", "lag", "caches", "--namesrv", &broker.names()]);
    assert_eq!(lag["queues"], serde_json::json!([]), "brokers keep no offsets of it");
}

#[test]
fn a_function_that_fails_in_a_broadcast_is_not_called_again() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Served::broker(dir.path(), &[]);
    sluice(&["topic", "create", "prices", "--queues", "1", "--namesrv", &broker.names()]);
    let topic = TopicName::new("prices").unwrap();
    runtime().block_on(async {
        let client = broker.client();
        send(&client, &topic, 0..5).await;
        let settings = ConsumerSettings { start: Start::First, ..ConsumerSettings::new("caches") };
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (sender, mut done) = tokio::sync::mpsc::unbounded_channel();
        let handled = Arc::clone(&seen);
        let consumer =
            PushConsumer::broadcast(&client, settings, [Subscription::all(&topic)], None, move |record| {
                let text = String::from_utf8_lossy(&record.body).into_owned();
                handled.lock().unwrap().push(text.clone());
                if text == "4" {
                    sender.send(()).unwrap();
                }
                async move { if text == "2" { Err("not this one".into()) } else { Ok(()) } }
            });
        let consumer = consumer.await.unwrap();
        timeout(Duration::from_secs(30), done.recv()).await.expect("all messages");
        consumer.close().await.unwrap();
        assert_eq!(*seen.lock().unwrap(), ["0", "1", "2", "3", "4"]);
    });
}

#[test]
fn large_bodies_travel_compressed_and_come_out_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Served::broker(dir.path(), &["--metrics", "127.0.0.1:0"]);
    let names = &*broker.names();
    let line = format!("{{\"text\": \"{}\"}}", "region=EU;".repeat(10_000));
    let out = sluice_with(&line, &["topic", "send", "orders", "--compress-from", "4KiB", "--namesrv", names]);
    assert!(out.status.success(), "{out:?}");
    let metrics = broker.text("metrics");
    let stored = || -> usize {
        let (_, text) = get(&metrics, "/metrics");
        let line = text.lines().find(|line| line.starts_with("sluice_broker_bytes_in_total ")).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    until("the bytes are counted", || stored() > 0);
    assert!(stored() < line.len() / 20, "{} bytes of {}", stored(), line.len());
    let row: serde_json::Value =
        serde_json::from_str(&sluice(&["topic", "tail", "orders", "--namesrv", names])).unwrap();
    assert_eq!(row["body"].to_string(), line.replace(": ", ":"));
    let id = row["offset_id"].as_str().unwrap();
    assert_eq!(json(&["message", "show", id, "--namesrv", names])["body"], row["body"]);
}

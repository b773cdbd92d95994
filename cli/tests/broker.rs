//! `sluice broker` as a process: killed while clients produce and consume, and started again.
//!
//! A few rounds; `SLUICE_KILL_ROUNDS=100 cargo test --release -p sluice-cli --test broker` for all.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test over processes takes the machine's time and environment"
)]

mod served;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use served::{Served, messages};
use sluice_client::{
    Admin, Client, Consumer, ConsumerSettings, Message, Producer, ProducerSettings, Queue, Start,
    Subscription, TopicName,
};

/// What was acknowledged: where each message of that text is.
type Acknowledged = Arc<Mutex<BTreeMap<String, (Queue, i64)>>>;

/// Sends numbered messages until the broker is gone.
async fn produce(client: Client, topic: TopicName, round: usize, sent: Acknowledged) {
    let settings = ProducerSettings { retries_max: 0, ..ProducerSettings::default() };
    let producer = Producer::new(&client, settings).unwrap();
    for number in 0.. {
        let text = format!("{round}-{number}");
        match producer.send(&Message::new(&topic, text.clone())).await {
            Ok(result) => {
                let before = sent.lock().unwrap().insert(text.clone(), (result.queue, result.queue_offset));
                assert!(before.is_none(), "{text} was acknowledged twice");
            }
            Err(_) => return,
        }
    }
}

/// Consumes as a group until the broker is gone, and commits after each batch.
async fn consume(client: Client, topic: TopicName) {
    let settings = ConsumerSettings { start: Start::First, ..ConsumerSettings::new("killed") };
    let Ok(mut consumer) = Consumer::subscribe(&client, settings, vec![Subscription::all(&topic)]).await
    else {
        return;
    };
    while consumer.next_batch().await.is_ok() {
        if consumer.commit().await.is_err() {
            return;
        }
    }
}

#[test]
fn a_killed_broker_has_what_it_acknowledged_once_and_no_offset_ahead_or_behind() {
    let rounds: usize = std::env::var("SLUICE_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let dir = tempfile::tempdir().unwrap();
    let topic = TopicName::new("killed").unwrap();
    let sent = Acknowledged::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut committed: BTreeMap<Queue, i64> = BTreeMap::new();
    for round in 0..rounds {
        let broker = Served::broker(dir.path(), &[]);
        runtime.block_on(async {
            let client = || broker.client();
            let admin = Admin::new(&client());
            admin.create_topic(&topic, 4).await.unwrap();
            for offset in admin.group_offsets("killed", Some(&topic)).await.unwrap() {
                let before = committed.insert(offset.queue.clone(), offset.committed).unwrap_or(0);
                assert!(offset.committed >= before, "{offset:?} moved back from {before}");
                assert!(offset.committed <= offset.max_offset, "{offset:?} is ahead of the messages");
            }
            let work = [
                tokio::spawn(produce(client(), topic.clone(), 2 * round, Arc::clone(&sent))),
                tokio::spawn(produce(client(), topic.clone(), 2 * round + 1, Arc::clone(&sent))),
            ];
            let reading = tokio::spawn(consume(client(), topic.clone()));
            // At another moment in each round, and after some messages in all of them.
            let wanted = sent.lock().unwrap().len() + 50 + 97 * round % 400;
            while sent.lock().unwrap().len() < wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            drop(broker);
            for task in work {
                task.await.unwrap();
            }
            reading.abort();
        });
    }
    let broker = Served::broker(dir.path(), &[]);
    let sent = sent.lock().unwrap();
    runtime.block_on(async {
        let mut found: BTreeMap<String, (i32, i64)> = BTreeMap::new();
        for record in messages(&broker.client(), &topic).await {
            let text = String::from_utf8(record.body.to_vec()).unwrap();
            let before = found.insert(text.clone(), (record.queue_id, record.queue_offset));
            assert!(before.is_none(), "{text} stands twice");
        }
        for (text, (queue, offset)) in sent.iter() {
            assert_eq!(found.get(text), Some(&(queue.id.get(), *offset)), "{text} was acknowledged");
        }
        assert!(sent.len() >= 50 * rounds);
        println!("{rounds} rounds, {} messages acknowledged", sent.len());
    });
}

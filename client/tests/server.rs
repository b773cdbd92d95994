//! Producer, consumer and administration against a running server, ours or `RocketMQ`'s.
//!
//! ```text
//! SLUICE_NAMESRV=127.0.0.1:9876 cargo test -p sluice-client --test server -- --ignored
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluice_client::{
    Admin, Batch, Client, ClientSettings, Consumer, ConsumerSettings, Error, Filter, HeaderKind, Message,
    Producer, ProducerSettings, PushConsumer, Record, Start, Subscription, TopicName,
};

fn client() -> Client {
    client_of(HeaderKind::Binary)
}

#[expect(clippy::disallowed_methods, reason = "it says where the server is")]
fn client_of(header_kind: HeaderKind) -> Client {
    let name_servers = std::env::var("SLUICE_NAMESRV").expect("SLUICE_NAMESRV names no name server");
    // The real broker makes a topic's name known before it answers.
    let request_timeout = Duration::from_secs(30);
    Client::new(ClientSettings { header_kind, request_timeout, ..ClientSettings::new(name_servers) }).unwrap()
}

/// A name that no earlier run used.
#[expect(clippy::disallowed_methods, reason = "names differ by time")]
fn unique(name: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("{name}-{}-{}", since.as_millis(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

async fn topic(client: &Client, queues: i32) -> TopicName {
    let topic = TopicName::new(&unique("client")).unwrap();
    Admin::new(client).create_topic(&topic, queues).await.unwrap();
    // The next registration may be 30 s away.
    until("it has a route", async || client.fetch_route(&topic).await.is_ok()).await;
    topic
}

/// Servers on a busy machine take their time; this ends early.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    for _ in 0..900 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

fn from_first(group: &str) -> ConsumerSettings {
    ConsumerSettings { start: Start::First, ..ConsumerSettings::new(group) }
}

async fn next(consumer: &mut Consumer) -> Option<Batch> {
    tokio::time::timeout(Duration::from_secs(30), consumer.next_batch()).await.ok().map(Result::unwrap)
}

/// So many messages, or what came until none did for half a minute.
async fn take(consumer: &mut Consumer, messages: usize) -> Vec<Record> {
    let mut records = Vec::new();
    while records.len() < messages {
        let Some(batch) = next(consumer).await else { break };
        records.extend(batch.records);
    }
    records
}

#[tokio::test]
#[ignore = "needs a server"]
async fn what_is_sent_comes_back_with_all_that_it_had() {
    for kind in [HeaderKind::Binary, HeaderKind::Json] {
        let client = client_of(kind);
        let topic = topic(&client, 4).await;
        let producer = Producer::new(&client, ProducerSettings::default()).unwrap();
        let message = |i: usize| {
            let message = Message::new(&topic, format!("body {i}")).tag("even").unwrap().flag(7);
            message.key(&format!("k{i}")).unwrap().property("n", &i.to_string()).unwrap()
        };
        let mut sent = vec![producer.send(&message(0)).await.unwrap()];
        let batch: Vec<Message> = (1..50).map(message).collect();
        sent.extend(producer.send_batch(&batch).await.unwrap());
        let mut receipts = Vec::new();
        for i in 50..1000 {
            receipts.push(producer.submit(&message(i)).await.unwrap());
        }
        for receipt in receipts {
            sent.push(receipt.await.unwrap());
        }
        producer.close().await.unwrap();

        let queues = client.route(&topic).await.unwrap().read_queues.clone();
        let assigned = queues.into_iter().map(|queue| (queue, Start::First));
        let mut consumer =
            Consumer::assign(&client, from_first("none"), assigned, Filter::All).await.unwrap();
        let records = take(&mut consumer, 1000).await;
        assert_eq!(records.len(), 1000);
        let by_place: BTreeMap<_, _> = records.iter().map(|r| ((r.queue_id, r.queue_offset), r)).collect();
        for (i, sent) in sent.iter().enumerate() {
            let record = by_place[&(sent.queue.id.get(), sent.queue_offset)];
            assert_eq!(record.body, format!("body {i}"));
            assert_eq!((record.tag(), record.flag, record.topic.as_str()), (Some("even"), 7, topic.as_str()));
            assert_eq!(
                (record.property("n"), record.keys().next()),
                (Some(&*i.to_string()), Some(&*format!("k{i}")))
            );
            assert_eq!(record.message_id(), sent.message_id);
            assert_eq!(Some(record.offset_id()), sent.offset_id, "message {i} of {kind:?}");
        }
        let seen = Admin::new(&client).message(sent[60].offset_id.unwrap()).await.unwrap();
        assert_eq!(seen.body, "body 60");
        consumer.close().await.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs a server"]
async fn members_share_queues_and_whoever_stays_goes_on_where_the_other_was() {
    let (one, other, group) = (client(), client(), unique("group"));
    let topic = topic(&one, 4).await;
    let producer = Producer::new(&one, ProducerSettings::default()).unwrap();
    let send = async |from: usize, to: usize| {
        for i in from..to {
            producer.submit(&Message::new(&topic, i.to_string())).await.unwrap();
        }
        producer.flush().await.unwrap();
    };
    send(0, 400).await;
    let subscription = || [Subscription::all(&topic)];
    let mut first = Consumer::subscribe(&one, from_first(&group), subscription()).await.unwrap();
    assert_eq!(first.queues().len(), 4);
    assert!(
        matches!(
            Consumer::subscribe(&one, from_first(&group), subscription()).await,
            Err(Error::Setting { name: "group", .. })
        ),
        "a client has one member of a group"
    );
    let mut seen: Vec<Record> = take(&mut first, 400).await;
    first.commit().await.unwrap();

    let mut second = Consumer::subscribe(&other, from_first(&group), subscription()).await.unwrap();
    until("each has two queues", async || first.queues().len() == 2 && second.queues().len() == 2).await;
    let both: BTreeSet<_> = first.queues().into_iter().chain(second.queues()).collect();
    assert_eq!((first.queues().len(), second.queues().len(), both.len()), (2, 2, 4));
    send(400, 800).await;
    let (of_first, of_second) = tokio::join!(take(&mut first, 200), take(&mut second, 200));
    assert_eq!((of_first.len(), of_second.len()), (200, 200));
    first.close().await.unwrap();
    until("the second has all queues", async || second.queues().len() == 4).await;
    send(800, 1200).await;
    seen.extend(of_first.into_iter().chain(of_second));
    seen.extend(take(&mut second, 400).await);
    second.commit().await.unwrap();
    let bodies: BTreeSet<_> = seen.iter().map(|record| record.body.clone()).collect();
    assert_eq!((seen.len(), bodies.len()), (1200, 1200), "each message came once");
    let offsets = Admin::new(&other).group_offsets(&group, Some(&topic)).await.unwrap();
    assert_eq!(offsets.iter().map(sluice_client::GroupOffset::lag).sum::<i64>(), 0);
    assert_eq!(offsets.iter().map(|queue| queue.committed).sum::<i64>(), 1200);
    second.close().await.unwrap();
}

#[tokio::test]
#[ignore = "needs a server"]
async fn tags_and_expressions_filter_by_group_and_by_queue() {
    let client = client();
    let topic = topic(&client, 2).await;
    let producer = Producer::new(&client, ProducerSettings::default()).unwrap();
    for i in 0..300 {
        let message = Message::new(&topic, i.to_string()).tag(["a", "b", "c"][i % 3]).unwrap();
        producer.submit(&message.property("n", &i.to_string()).unwrap()).await.unwrap();
    }
    producer.flush().await.unwrap();
    let filters = [
        (Filter::All, 300),
        (Filter::tags("a || c"), 200),
        (Filter::Sql("n BETWEEN 10 AND 19 AND TAGS <> 'a'".into()), 7),
    ];
    for (filter, wanted) in filters {
        let subscription = Subscription { topic: topic.clone(), filter: filter.clone() };
        let group = unique("filter");
        let mut consumer = Consumer::subscribe(&client, from_first(&group), [subscription]).await.unwrap();
        let records = take(&mut consumer, wanted).await;
        assert_eq!(records.len(), wanted, "{filter:?} as a group");
        consumer.close().await.unwrap();

        let queues = client.route(&topic).await.unwrap().read_queues.clone();
        let assigned = queues.into_iter().map(|queue| (queue, Start::First));
        let mut consumer =
            Consumer::assign(&client, from_first(&group), assigned, filter.clone()).await.unwrap();
        assert_eq!(take(&mut consumer, wanted).await.len(), wanted, "{filter:?} by queues");
    }
    let bad = Subscription { topic, filter: Filter::Sql("n >".into()) };
    let refused = Consumer::subscribe(&client, from_first(&unique("filter")), [bad]).await;
    assert!(refused.is_err_and(|error| error.response_code().is_some()));
}

#[tokio::test]
#[ignore = "needs a server"]
async fn a_start_can_be_the_end_a_time_or_an_offset() {
    let client = client();
    let topic = topic(&client, 1).await;
    let producer = Producer::new(&client, ProducerSettings::default()).unwrap();
    let mut stored = 0;
    for i in 0..10 {
        if i == 5 {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        producer.send(&Message::new(&topic, i.to_string())).await.unwrap();
        stored = i;
    }
    assert_eq!(stored, 9);
    let queue = client.route(&topic).await.unwrap().read_queues[0].clone();
    let reads = async |start: Start, more: usize| {
        let assigned = [(queue.clone(), start)];
        let mut consumer =
            Consumer::assign(&client, from_first("none"), assigned, Filter::All).await.unwrap();
        take(&mut consumer, more).await
    };
    let all = reads(Start::First, 10).await;
    assert_eq!(all.len(), 10);
    assert_eq!(reads(Start::Offset(7), 3).await[0].body, "7");
    assert_eq!(reads(Start::Time(all[5].store_timestamp_ms), 5).await[0].body, "5");
    let assigned = [(queue.clone(), Start::Last)];
    let mut consumer = Consumer::assign(&client, from_first("none"), assigned, Filter::All).await.unwrap();
    producer.send_one_way(&Message::new(&topic, "new")).await.unwrap();
    assert_eq!(take(&mut consumer, 1).await[0].body, "new");
}

#[tokio::test]
#[ignore = "needs a server"]
async fn a_message_whose_function_fails_comes_again() {
    let (client, group) = (client(), unique("push"));
    let topic = topic(&client, 2).await;
    let producer = Producer::new(&client, ProducerSettings::default()).unwrap();
    let seen: Arc<Mutex<Vec<(String, String, i32)>>> = Arc::default();
    let handled = Arc::clone(&seen);
    let consumer =
        PushConsumer::start(&client, from_first(&group), [Subscription::all(&topic)], move |record| {
            let handled = Arc::clone(&handled);
            async move {
                let body = String::from_utf8_lossy(&record.body).into_owned();
                let fails = body == "7" && record.reconsume_times == 0;
                handled.lock().unwrap().push((body, record.topic.to_string(), record.reconsume_times));
                if fails { Err("not this one".into()) } else { Ok(()) }
            }
        });
    let consumer = consumer.await.unwrap();
    for i in 0..20 {
        producer.submit(&Message::new(&topic, i.to_string())).await.unwrap();
    }
    producer.flush().await.unwrap();
    // The first wait of a message that comes again is ten seconds; the retry topic may be new as well.
    until("all came", async || seen.lock().unwrap().len() == 21).await;
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 21);
    assert_eq!(seen[20], ("7".to_owned(), topic.to_string(), 1));
    consumer.close().await.unwrap();
    let offsets = Admin::new(&client).group_offsets(&group, Some(&topic)).await.unwrap();
    assert_eq!(offsets.iter().map(|queue| queue.committed).sum::<i64>(), 20);
}

#[tokio::test]
#[ignore = "needs a server"]
async fn topics_and_messages_are_listed_and_found() {
    let client = client();
    let admin = Admin::new(&client);
    let topic = topic(&client, 3).await;
    let producer = Producer::new(&client, ProducerSettings::default()).unwrap();
    let sent = producer.send(&Message::new(&topic, "b").key("order-17").unwrap()).await.unwrap();
    assert!(admin.topics().await.unwrap().contains(&topic.to_string()));
    assert_eq!(admin.topic_config(&topic).await.unwrap().write_queue_nums, 3);
    // The real broker shows a message a moment after it answered for it.
    let ends = async || -> Vec<i64> {
        admin.queue_offsets(&topic).await.unwrap().iter().map(|queue| queue.max_offset).collect()
    };
    until("the message is in a queue", async || ends().await.iter().sum::<i64>() == 1).await;
    let ends = ends().await;
    assert_eq!(ends.len(), 3);
    assert_eq!(admin.masters().await.unwrap().len(), 1);
    let by_key = async || admin.messages_with_key(&topic, "order-17", (0, i64::MAX), 10).await.unwrap();
    until("it is found by its key", async || by_key().await.len() == 1).await;
    let by_key = by_key().await;
    assert_eq!((by_key.len(), by_key[0].message_id()), (1, sent.message_id.clone()));
    assert_eq!(admin.messages_with_id(&topic, &sent.message_id).await.unwrap().len(), 1);

    let none = TopicName::new(&unique("none")).unwrap();
    let error = client.fetch_route(&none).await.unwrap_err();
    assert!(matches!(&error, Error::NoRoute { topic, .. } if *topic == none.to_string()), "{error}");
    admin.delete_topic(&topic).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a server"]
async fn a_topic_that_is_not_there_is_made_by_its_first_message() {
    let client = client();
    let topic = TopicName::new(&unique("made")).unwrap();
    let producer = Producer::new(&client, ProducerSettings::default()).unwrap();
    let sent = producer.send(&Message::new(&topic, "b")).await.unwrap();
    assert_eq!((sent.queue_offset, sent.queue.topic), (0, topic));
}

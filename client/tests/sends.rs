//! What a producer does with answers of all kinds, against a broker that says what the test wants.

mod support;

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use sluice_client::{Error, Message, Producer, ProducerSettings, TopicName};
use sluice_protocol::batch::items;
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::compression::inflate;
use sluice_protocol::fields::Fields;
use sluice_protocol::heartbeat::{Heartbeat, ProducerData};
use sluice_protocol::message::property;

use support::{Fake, Reply, stored};

fn topic() -> TopicName {
    TopicName::new("orders").unwrap()
}

fn message(body: &str) -> Message {
    Message::new(&topic(), body.to_owned())
}

fn producer(fake: &Fake, settings: ProducerSettings) -> Producer {
    Producer::new(&fake.client(), settings).unwrap()
}

/// A broker that says no so often and then stores.
async fn refusing(queues: i32, code: ResponseCode, times: usize) -> Fake {
    let left = AtomicUsize::new(times);
    let (take, next) = (|left: usize| left.checked_sub(1), AtomicI64::new(0));
    Fake::start(queues, move |_| match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
        Ok(_) => Reply::Code(code, Fields::new()),
        Err(_) => stored(next.fetch_add(1, Ordering::SeqCst)),
    })
    .await
}

#[tokio::test]
async fn what_waits_while_a_request_is_under_way_goes_as_one_batch() {
    let next = AtomicI64::new(0);
    let fake = Fake::start(1, move |asked| {
        let messages =
            if asked.code == RequestCode::SEND_BATCH_MESSAGE { items(&asked.body).count() } else { 1 };
        stored(next.fetch_add(i64::try_from(messages).unwrap(), Ordering::SeqCst))
    })
    .await;
    let producer = producer(&fake, ProducerSettings::default());
    let mut receipts = Vec::new();
    for i in 0..100 {
        receipts.push(producer.submit(&message(&i.to_string())).await.unwrap());
    }
    for (receipt, i) in receipts.into_iter().zip(0..) {
        let sent = receipt.await.unwrap();
        assert_eq!((sent.queue_offset, sent.message_id.len()), (i, 32));
    }
    let mut bodies = Vec::new();
    let asked = fake.asked();
    assert!(asked.len() < 10, "{} requests", asked.len());
    for asked in &asked {
        match asked.code {
            RequestCode::SEND_BATCH_MESSAGE => {
                assert_eq!((asked.fields.get("m"), asked.fields.get("i")), (Some("true"), None));
                bodies.extend(items(&asked.body).map(|item| item.unwrap().body.to_vec()));
            }
            _ => bodies.push(asked.body.clone()),
        }
    }
    let wanted: Vec<Vec<u8>> = (0..100).map(|i: i32| i.to_string().into_bytes()).collect();
    assert_eq!(bodies, wanted);
}

#[tokio::test]
async fn a_code_that_may_pass_is_tried_again_and_another_one_fails_at_once() {
    let fake = refusing(2, ResponseCode::SYSTEM_BUSY, 2).await;
    let producer = producer(&fake, ProducerSettings::default());
    producer.send(&message("a")).await.unwrap();
    let queues: Vec<_> = fake.asked().iter().map(|asked| asked.fields.get("e").map(str::to_owned)).collect();
    assert_eq!(queues.len(), 3);
    assert_ne!(queues[0], queues[1], "another attempt goes to another queue");

    let fake = refusing(2, ResponseCode::MESSAGE_ILLEGAL, 9).await;
    let producer = self::producer(&fake, ProducerSettings::default());
    let error = producer.send(&message("a")).await.unwrap_err();
    assert_eq!((error.response_code(), fake.asked().len()), (Some(ResponseCode::MESSAGE_ILLEGAL), 1));
    let text = error.to_string();
    for part in [&*fake.address, "orders", "13 MESSAGE_ILLEGAL", "as told"] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn a_message_for_a_queue_goes_to_no_other_and_gives_up_in_the_end() {
    let fake = refusing(4, ResponseCode::SYSTEM_ERROR, usize::MAX).await;
    let producer = producer(&fake, ProducerSettings { retries_max: 2, ..ProducerSettings::default() });
    let queue = producer.queues(&topic()).await.unwrap().remove(2);
    let error = producer.send_to(&message("a"), &queue).await.unwrap_err();
    assert_eq!(error.response_code(), Some(ResponseCode::SYSTEM_ERROR));
    let queues: Vec<_> = fake.asked().iter().map(|asked| asked.fields.get("e").map(str::to_owned)).collect();
    assert_eq!(queues, vec![Some("2".to_owned()); 3]);
}

#[tokio::test]
async fn a_lost_connection_is_opened_again() {
    let first = AtomicUsize::new(0);
    let fake = Fake::start(1, move |_| match first.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Close,
        _ => stored(0),
    })
    .await;
    producer(&fake, ProducerSettings::default()).send(&message("a")).await.unwrap();
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test]
async fn no_answer_and_rubbish_are_errors_that_name_the_broker() {
    let settings = ProducerSettings {
        retries_max: 0,
        send_timeout: Duration::from_millis(100),
        ..ProducerSettings::default()
    };
    let fake = Fake::start(1, |_| Reply::Nothing).await;
    let error = producer(&fake, settings.clone()).send(&message("a")).await.unwrap_err();
    assert!(matches!(&error, Error::Timeout { address, .. } if **address == fake.address), "{error}");

    let fake = Fake::start(1, |_| Reply::Bytes(vec![0xFF; 64])).await;
    let error = producer(&fake, settings.clone()).send(&message("a")).await.unwrap_err();
    assert!(matches!(&error, Error::Frame { address, .. } if **address == fake.address), "{error}");

    let fake = Fake::start(1, |_| Reply::Code(ResponseCode::SUCCESS, Fields::new())).await;
    let error = producer(&fake, settings).send(&message("a")).await.unwrap_err();
    assert!(matches!(&error, Error::Unreadable { address, .. } if **address == fake.address), "{error}");
}

#[tokio::test]
async fn bytes_in_flight_are_bounded_and_flush_waits_for_all() {
    let next = AtomicI64::new(0);
    let fake = Fake::start(1, move |_| stored(next.fetch_add(1, Ordering::SeqCst))).await;
    let settings =
        ProducerSettings { bytes_in_flight_max: 1000, batch_messages_max: 1, ..ProducerSettings::default() };
    let producer = producer(&fake, settings);
    let big = message(&"x".repeat(600));
    let first = producer.submit(&big).await.unwrap();
    let second = producer.submit(&big).await.unwrap();
    // There was room for the second only once the first had its answer.
    assert_eq!(first.await.unwrap().queue_offset, 0);
    let larger_than_all = producer.submit(&message(&"x".repeat(5000))).await.unwrap();
    producer.flush().await.unwrap();
    assert_eq!(fake.asked().len(), 3);
    assert_eq!((second.await.unwrap().queue_offset, larger_than_all.await.unwrap().queue_offset), (1, 2));
    producer.close().await.unwrap();
    assert!(matches!(producer.send(&big).await, Err(Error::Closed { .. })));
}

#[tokio::test]
async fn messages_that_can_not_be_a_batch_are_refused_before_anything_is_sent() {
    let fake = Fake::start(1, |_| stored(0)).await;
    let producer = producer(&fake, ProducerSettings { body_bytes_max: 100, ..ProducerSettings::default() });
    let other = Message::new(&TopicName::new("other").unwrap(), "b");
    let delayed = message("c").property("DELAY", "3").unwrap();
    assert!(matches!(producer.send_batch(&[message("a"), other]).await, Err(Error::Mixed { .. })));
    assert!(matches!(producer.send_batch(&[message("a"), delayed]).await, Err(Error::Mixed { .. })));
    assert!(matches!(producer.send(&message(&"x".repeat(101))).await, Err(Error::TooLarge { .. })));
    let many = vec![message(&"x".repeat(40)); 3];
    assert!(matches!(producer.send_batch(&many).await, Err(Error::TooLarge { .. })));
    assert!(producer.send_batch(&[]).await.unwrap().is_empty());
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn a_batch_for_a_queue_goes_there_whole_and_has_one_answer() {
    let fake = refusing(2, ResponseCode::SYSTEM_BUSY, 1).await;
    let settings =
        ProducerSettings { batch_messages_max: 3, batch_bytes_max: 1000, ..ProducerSettings::default() };
    let producer = producer(&fake, settings);
    let queue = producer.queues(&topic()).await.unwrap().remove(1);
    let mut batch = producer.batch(&queue);
    let own = "0123456789ABCDEF0123456789ABCDEF";
    assert!(batch.push(b"one", [("a", "1"), ("UNIQ_KEY", own)]).unwrap());
    for alone in [("DELAY", "3"), ("TIMER_DELAY_MS", "9"), ("WAIT", "false")] {
        assert!(!batch.push(b"later", [alone]).unwrap(), "{alone:?}");
    }
    assert!(batch.push(b"bad", [("a", "\u{2}")]).is_err());
    assert!(!batch.push(&[b'x'; 900], []).unwrap(), "more bytes than one request may have");
    assert!(batch.push(b"two", []).unwrap() && batch.push(b"three", []).unwrap());
    assert!(!batch.push(b"four", []).unwrap(), "more messages than one request may have");
    assert_eq!(batch.len(), 3);
    producer.submit_batch(batch).await.unwrap().await.unwrap();

    let asked = fake.asked();
    assert_eq!(asked.len(), 2, "the first answer was that the broker is busy");
    for asked in &asked {
        assert_eq!((asked.code, asked.fields.get("e")), (RequestCode::SEND_BATCH_MESSAGE, Some("1")));
        let items: Vec<_> = items(&asked.body).map(|item| item.unwrap()).collect();
        let bodies: Vec<&[u8]> = items.iter().map(|item| item.body).collect();
        assert_eq!(bodies, [&b"one"[..], b"two", b"three"]);
        let ids: Vec<_> = items.iter().map(|item| property(item.properties, "UNIQ_KEY").unwrap()).collect();
        assert_eq!((ids[0], ids[1].len(), property(items[0].properties, "a")), (own, 32, Some("1")));
        assert_ne!(ids[1], ids[2]);
    }

    let empty = producer.batch(&queue);
    assert!(empty.is_empty());
    producer.submit_batch(empty).await.unwrap().await.unwrap();
    let fake = refusing(2, ResponseCode::MESSAGE_ILLEGAL, 9).await;
    let producer = self::producer(&fake, ProducerSettings::default());
    let mut batch = producer.batch(&queue);
    assert!(batch.push(&[b'x'; 900], []).unwrap());
    let error = producer.submit_batch(batch).await.unwrap().await.unwrap_err();
    assert_eq!((error.response_code(), fake.asked().len()), (Some(ResponseCode::MESSAGE_ILLEGAL), 1));
}

#[tokio::test]
async fn large_bodies_are_compressed_alone_and_in_batches_and_small_or_dense_ones_are_not() {
    let next = AtomicI64::new(0);
    let fake = Fake::start(1, move |asked| {
        let messages =
            if asked.code == RequestCode::SEND_BATCH_MESSAGE { items(&asked.body).count() } else { 1 };
        stored(next.fetch_add(i64::try_from(messages).unwrap(), Ordering::SeqCst))
    })
    .await;
    let settings = ProducerSettings { compress_from_bytes: Some(4096), ..ProducerSettings::default() };
    let producer = producer(&fake, settings);
    let text = "region=EU;".repeat(1000);
    let mut random = 1_u32;
    let dense: Vec<u8> = std::iter::repeat_with(|| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 24) as u8
    })
    .take(5000)
    .collect();
    producer.send(&message("small")).await.unwrap();
    producer.send(&Message::new(&topic(), dense.clone())).await.unwrap();
    for _ in 0..20 {
        producer.submit(&message(&text)).await.unwrap();
    }
    producer.flush().await.unwrap();
    let (mut plain, mut inflated) = (Vec::new(), 0);
    for asked in fake.asked() {
        let bodies: Vec<Vec<u8>> = match asked.code {
            RequestCode::SEND_BATCH_MESSAGE => items(&asked.body).map(|i| i.unwrap().body.to_vec()).collect(),
            _ => vec![asked.body],
        };
        match asked.fields.get("f").unwrap() {
            "0" => plain.extend(bodies),
            // 0x301: compressed, by zlib.
            "769" => {
                for body in bodies {
                    assert_eq!(inflate(&body, 769).unwrap(), text.as_bytes());
                    inflated += 1;
                }
            }
            other => panic!("flags {other}"),
        }
    }
    assert_eq!((plain, inflated), (vec![b"small".to_vec(), dense], 20));
}

#[tokio::test]
async fn brokers_hear_of_a_producer_and_of_its_end() {
    let fake = Fake::start(1, |_| stored(0)).await;
    let settings = ProducerSettings { group: "billing".into(), ..ProducerSettings::default() };
    let producer = Producer::new(&fake.client(), settings).unwrap();
    producer.send(&message("a")).await.unwrap();
    let heard = async |code| {
        let found = || fake.presence.lock().unwrap().iter().find(|asked| asked.code == code).cloned();
        let until_found = async {
            while found().is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), until_found).await.expect("it is told");
        found().unwrap()
    };
    let heartbeat = Heartbeat::decode(&heard(RequestCode::HEART_BEAT).await.body).unwrap();
    assert_eq!(heartbeat.producer_data_set, [ProducerData { group_name: "billing".into() }]);
    producer.close().await.unwrap();
    let left = heard(RequestCode::UNREGISTER_CLIENT).await;
    assert_eq!(left.fields.get("producerGroup"), Some("billing"));
}

//! What a client does about a group's first offsets, against a broker that loses them as RocketMQ may.

#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluice_client::{Client, Error, Filter, QueueReader, ReaderSettings, TopicName};
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::fields::Fields;

use support::{Asked, Fake, Reply};

type Offsets = Arc<Mutex<BTreeMap<String, String>>>;

/// Says yes to each offset, and keeps none of the first ones: so many.
async fn forgetful(offsets: Offsets, forgets: usize) -> Fake {
    let forgotten = Mutex::new(0);
    Fake::start(4, move |asked: &Asked| {
        let field = |name| asked.fields.get(name).unwrap().to_owned();
        let mut offsets = offsets.lock().unwrap();
        match asked.code {
            RequestCode::UPDATE_CONSUMER_OFFSET => {
                let mut forgotten = forgotten.lock().unwrap();
                if *forgotten < forgets {
                    *forgotten += 1;
                } else {
                    offsets.insert(field("queueId"), field("commitOffset"));
                }
                Reply::Code(ResponseCode::SUCCESS, Fields::new())
            }
            RequestCode::QUERY_CONSUMER_OFFSET => match offsets.get(&field("queueId")) {
                Some(offset) => {
                    let mut fields = Fields::new();
                    fields.push("offset", offset.clone());
                    Reply::Code(ResponseCode::SUCCESS, fields)
                }
                None => Reply::Code(ResponseCode::QUERY_NOT_FOUND, Fields::new()),
            },
            other => panic!("{other:?} is not asked for"),
        }
    })
    .await
}

async fn readers(client: &Client) -> Vec<QueueReader> {
    let route = client.route(&TopicName::new("orders").unwrap()).await.unwrap();
    let reader = |queue| {
        let settings = ReaderSettings {
            group: "billing".into(),
            filter: Filter::All,
            messages_max: 1,
            bytes_max: 1,
            hold: Duration::ZERO,
        };
        QueueReader::new(client, queue, settings).unwrap()
    };
    route.read_queues.iter().map(reader).collect()
}

#[tokio::test]
async fn the_first_offset_of_each_queue_is_sent_until_the_broker_keeps_it() {
    let offsets = Offsets::default();
    let fake = forgetful(Arc::clone(&offsets), 3).await;
    let client = fake.client();
    let readers = readers(&client).await;
    let commits = readers.iter().map(|reader| reader.commit(7));
    futures::future::try_join_all(commits).await.unwrap();
    assert_eq!(offsets.lock().unwrap().len(), 4);
    assert!(offsets.lock().unwrap().values().all(|offset| offset == "7"));

    // Another client's first offset may have come between, so each is looked at once more, and then no more.
    for reader in &readers {
        reader.commit(8).await.unwrap();
    }
    fake.asked.lock().unwrap().clear();
    for reader in &readers {
        reader.commit(9).await.unwrap();
    }
    assert!(fake.asked().iter().all(|asked| asked.code == RequestCode::UPDATE_CONSUMER_OFFSET));
    assert_eq!(fake.asked().len(), 4);
    assert!(offsets.lock().unwrap().values().all(|offset| offset == "9"));
}

#[tokio::test]
async fn a_broker_that_keeps_no_offset_is_told_of() {
    let fake = forgetful(Offsets::default(), usize::MAX).await;
    let client = fake.client();
    let reader = readers(&client).await.remove(0);
    let refused = reader.commit(7).await.unwrap_err();
    assert!(matches!(&refused, Error::NotKept { group, .. } if group == "billing"), "{refused}");
    let sent = fake.asked().iter().filter(|asked| asked.code == RequestCode::UPDATE_CONSUMER_OFFSET).count();
    assert_eq!(sent, 5);
    assert_eq!(reader.committed().await.unwrap(), None);
}

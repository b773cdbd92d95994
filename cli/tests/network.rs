//! `sluice topic | group | message` against brokers on the network, as a user meets them.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test over processes takes the machine's time")]

mod served;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_client::{
    Admin, Batch, Consumer, ConsumerSettings, Filter, Message, Producer, ProducerSettings, Start,
    Subscription, TopicName,
};
use tokio::time::timeout;

use served::{Served, client, json, refused, sluice, sluice_with, table, until};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn from_first(group: &str) -> ConsumerSettings {
    ConsumerSettings { start: Start::First, ..ConsumerSettings::new(group) }
}

/// Takes so many messages and gives their texts.
async fn take(consumer: &mut Consumer, messages: usize) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.len() < messages {
        let batch = timeout(Duration::from_secs(30), consumer.next_batch()).await;
        let Batch { records, .. } = batch.expect("more messages").unwrap();
        texts.extend(records.iter().map(|record| String::from_utf8_lossy(&record.body).into_owned()));
    }
    texts
}

#[test]
fn a_topic_is_made_described_sent_to_listed_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Served::broker(&dir.path().join("store"), &[]);
    let names = &*broker.names();
    let on = ["--namesrv", names];
    let made = sluice(&["topic", "create", "orders", "--queues", "2", "--namesrv", names]);
    assert_eq!(made, "topic orders: 2 queues at each broker\n");
    assert_eq!(
        json(&["topic", "create", "other", "--namesrv", names]),
        json!({"topic": "other", "queues": 4})
    );
    let all = sluice(&[&["topic", "list"][..], &on].concat());
    let all: BTreeSet<&str> = all.lines().collect();
    assert!(all.contains("orders") && all.contains("other"), "{all:?}");
    let listed = json(&[&["topic", "list"][..], &on].concat());
    let listed: BTreeSet<&str> =
        listed["topics"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!(listed, all);

    let send = ["topic", "send", "orders", "--namesrv", names, "--tag", "made", "--key", "k1"];
    let lines = "{\"id\": 1}\n\nnot json\r\n";
    let sent = sluice_with(lines, &[&send[..], &["--prop", "region=EU"]].concat());
    assert_eq!(String::from_utf8(sent.stdout).unwrap(), "2 messages sent to orders\n");
    let whole = dir.path().join("whole.txt");
    std::fs::write(&whole, "two\nlines\n").unwrap();
    let send = ["topic", "send", "orders", "--whole", "--file", whole.to_str().unwrap()];
    let send = [&send[..], &on, &["--prop", "region=US"]].concat();
    assert_eq!(json(&send), json!({"topic": "orders", "sent": 1}));

    let described = sluice(&[&["topic", "describe", "orders"][..], &on].concat());
    let described = table(&described);
    assert_eq!(described[0], ["topic", "orders", "at", &broker.text("broker")]);
    assert_eq!(described[1], ["BROKER", "QUEUE", "FIRST", "NEXT", "MESSAGES", "NEWEST"]);
    assert_eq!(described.len(), 4, "{described:?}");
    let shown = json(&[&["topic", "describe", "orders"][..], &on].concat());
    assert_eq!(shown["brokers"], json!([broker.text("broker")]));
    for (i, (row, queue)) in described[2..].iter().zip(shown["queues"].as_array().unwrap()).enumerate() {
        let next = queue["next"].to_string();
        assert_eq!(row[..5], ["broker-a", &*i.to_string(), "0", &*next, &*next]);
        assert_eq!((&queue["broker"], &queue["queue_id"]), (&json!("broker-a"), &json!(i)));
        assert_eq!(row[5] == "-", next == "0", "{row:?}");
    }
    let messages: i64 = shown["queues"].as_array().unwrap().iter().map(|q| q["next"].as_i64().unwrap()).sum();
    assert_eq!(messages, 3);

    let rows = |more: &[&str]| -> Vec<Value> {
        let text = sluice(&[&["topic", "tail", "orders"], &on[..], more].concat());
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let bodies = |rows: &[Value]| rows.iter().map(|row| row["body"].to_string()).collect::<BTreeSet<_>>();
    assert_eq!(
        bodies(&rows(&[])),
        ["{\"id\":1}", "\"not json\"", "\"two\\nlines\\n\""].map(str::to_owned).into()
    );
    let of_eu = rows(&["--where", "region = 'EU' AND $tags = 'made'"]);
    assert_eq!(bodies(&of_eu), ["{\"id\":1}", "\"not json\""].map(str::to_owned).into());
    assert_eq!((&of_eu[0]["tags"], &of_eu[0]["keys"]), (&json!("made"), &json!("k1")));
    assert_eq!(rows(&["--limit", "1"]).len(), 1);
    assert_eq!(rows(&["--from", "99"]), [] as [Value; 0]);

    let id = of_eu[0]["offset_id"].as_str().unwrap();
    assert_eq!(json(&[&["message", "show", id][..], &on].concat()), of_eu[0]);
    let pretty: Value = serde_json::from_str(&sluice(&[&["message", "show", id][..], &on].concat())).unwrap();
    assert_eq!(pretty, of_eu[0]);
}

#[test]
fn what_can_not_be_done_says_why_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let broker = Served::broker(dir.path(), &["--advertise", &nobody, "--auto-create", "false"]);
    let names = &*broker.names();
    let unknown = refused(&["topic", "describe", "none", "--namesrv", names]);
    assert!(unknown.contains(&format!("name servers {names} know no route of topic none")), "{unknown}");
    let refused_name = refused(&["topic", "create", "a b", "--namesrv", names]);
    assert!(refused_name.contains("a b"), "{refused_name}");
    let nowhere = refused(&["topic", "list", "--namesrv", &nobody]);
    assert!(nowhere.contains(&format!("cannot connect to {nobody}")), "{nowhere}");
    assert!(!nowhere.contains("--advertise"), "{nowhere}");
    let behind = refused(&["topic", "create", "orders", "--namesrv", names]);
    let told = format!("{names} sends clients to a broker at {nobody}, which can not be reached from here");
    assert!(behind.contains(&told) && behind.contains("--advertise HOST:PORT"), "{behind}");
    let no_field = refused(&["topic", "tail", "orders", "--namesrv", names, "--where", "$.id = 1"]);
    assert!(no_field.contains("`$.id` is a field of the body"), "{no_field}");
    let no_pair = refused(&["topic", "send", "orders", "--namesrv", names, "--prop", "region"]);
    assert!(no_pair.contains("`region` is not NAME=VALUE"), "{no_pair}");
    let no_id = refused(&["message", "show", "7F00", "--namesrv", names]);
    assert!(no_id.contains("7F00"), "{no_id}");
}

#[test]
fn a_group_is_shown_with_its_members_and_how_far_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Served::broker(dir.path(), &[]);
    let names = &*broker.names();
    sluice(&["topic", "create", "orders", "--queues", "1", "--namesrv", names]);
    sluice_with("a\nb\nc\nd\n", &["topic", "send", "orders", "--namesrv", names]);
    let lag = ["group", "lag", "billing", "--namesrv", names];
    assert!(refused(&lag).contains("group billing has committed no offset"));
    assert_eq!(json(&lag), json!({"group": "billing", "lag": 0, "queues": []}));
    let members = ["group", "members", "billing", "--namesrv", names];
    assert_eq!(json(&members), json!({"group": "billing", "members": {}, "subscriptions": {}}));
    let runtime = runtime();
    runtime.block_on(async {
        let client = broker.client();
        let settings = ConsumerSettings { commit_interval: None, ..from_first("billing") };
        let topic = TopicName::new("orders").unwrap();
        let wants = Subscription { topic: topic.clone(), filter: Filter::Sql("TAGS IS NULL".into()) };
        let mut consumer = Consumer::subscribe(&client, settings, [wants]).await.unwrap();
        assert_eq!(take(&mut consumer, 4).await, ["a", "b", "c", "d"]);
        consumer.commit_to(&consumer.queues()[0], 3).await.unwrap();

        let shown = sluice(&lag);
        let shown = table(&shown);
        assert_eq!(shown[0], ["TOPIC", "BROKER", "QUEUE", "COMMITTED", "NEXT", "LAG"]);
        assert_eq!(shown[1], ["orders", "broker-a", "0", "3", "4", "1"]);
        assert_eq!(shown[2], ["1", "messages", "behind"]);
        let queue = json!({
            "topic": "orders", "broker": "broker-a", "queue_id": 0, "committed": 3, "next": 4, "lag": 1,
        });
        let of_topic = [&lag[..], &["--topic", "orders"]].concat();
        assert_eq!(json(&of_topic), json!({"group": "billing", "lag": 1, "queues": [queue]}));

        let shown = sluice(&members);
        let shown: Vec<&str> = shown.lines().collect();
        assert!(shown[0].starts_with(&format!("{}  127.0.0.1:", client.id())), "{shown:?}");
        assert_eq!(shown[1], "subscribes to orders: TAGS IS NULL");
        let shown = json(&members);
        assert!(shown["members"][client.id()].as_str().unwrap().starts_with("127.0.0.1:"), "{shown}");
        assert_eq!(shown["subscriptions"], json!({"orders": "TAGS IS NULL"}));
        let described = sluice(&["topic", "describe", "orders", "--namesrv", names]);
        assert!(described.ends_with("read by billing\n"), "{described}");
        consumer.close().await.unwrap();
    });
}

#[test]
fn a_topic_is_spread_over_the_brokers_of_a_name_server() {
    let dir = tempfile::tempdir().unwrap();
    let names = Served::start(&["namesrv", "--listen", "127.0.0.1:0"]);
    let names = &*names.names();
    let brokers = ["broker-a", "broker-b"].map(|name| Served::joined(&dir.path().join(name), name, names));
    let runtime = runtime();
    runtime.block_on(async {
        let client = client(names);
        let admin = Admin::new(&client);
        let both = async {
            while !admin.masters().await.is_ok_and(|masters| masters.len() == 2) {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), both).await.expect("both brokers join");
    });
    sluice(&["topic", "create", "orders", "--queues", "2", "--namesrv", names]);
    let describe = ["topic", "describe", "orders", "--namesrv", names];
    // Brokers tell the name server of a topic after they have answered.
    until("both brokers have the topic", || {
        let out = sluice_with("", &[&describe[..], &["--json"]].concat());
        let shown: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        shown["queues"].as_array().is_some_and(|queues| queues.len() == 4)
    });
    let wanted: BTreeSet<String> = (0..400).map(|i| i.to_string()).collect();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    runtime.block_on(async {
        let (client, topic) = (client(names), TopicName::new("orders").unwrap());
        let producer = Producer::new(&client, ProducerSettings::default()).unwrap();
        let mut receipts = Vec::new();
        for text in &wanted {
            receipts.push(producer.submit(&Message::new(&topic, text.clone())).await.unwrap());
        }
        for receipt in receipts {
            let queue = receipt.await.unwrap().queue;
            *places.entry(format!("{} {}", queue.broker, queue.id)).or_default() += 1;
        }
        producer.close().await.unwrap();
        let subscription = [Subscription::all(&topic)];
        let mut consumer = Consumer::subscribe(&client, from_first("billing"), subscription).await.unwrap();
        assert_eq!(consumer.queues().len(), 4);
        let read: BTreeSet<String> = take(&mut consumer, wanted.len()).await.into_iter().collect();
        assert_eq!(read, wanted);
        consumer.close().await.unwrap();
    });
    assert_eq!(places.len(), 4, "{places:?}");
    let shown = sluice(&describe);
    for (row, (place, count)) in table(&shown)[2..].iter().zip(&places) {
        assert_eq!((format!("{} {}", row[0], row[1]), row[3]), (place.clone(), &*count.to_string()));
    }
    let lag = json(&["group", "lag", "billing", "--topic", "orders", "--namesrv", names]);
    assert_eq!((&lag["lag"], lag["queues"].as_array().unwrap().len()), (&json!(0), 4));

    let [one, other] = brokers;
    other.end();
    let shown = json(&describe);
    assert_eq!(shown["brokers"], json!([one.text("broker")]), "one that ends leaves its name server");
}

#[test]
fn brokers_are_shown_a_topic_is_deleted_and_a_group_goes_on_where_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Served::broker(&dir.path().join("store"), &[]);
    let names = &*broker.names();
    let on = ["--namesrv", names];
    let shown = sluice(&[&["cluster"][..], &on].concat());
    let rows = table(&shown);
    assert_eq!(rows[1][..4], ["DefaultCluster", "broker-a", "0", &*broker.text("broker")]);
    let told = json(&[&["cluster"][..], &on].concat());
    assert!(
        told["brokers"][0]["status"]["brokerVersionDesc"].as_str().unwrap().starts_with("Sluice"),
        "{told}"
    );
    sluice(&[&["topic", "create", "orders", "--queues", "1"][..], &on].concat());
    sluice_with("one\ntwo\n", &[&["topic", "send", "orders"][..], &on].concat());
    runtime().block_on(async {
        let wants = [Subscription { topic: TopicName::new("orders").unwrap(), filter: Filter::All }];
        let mut consumer = Consumer::subscribe(&client(names), from_first("billing"), wants).await.unwrap();
        take(&mut consumer, 2).await;
        consumer.close().await.unwrap();
    });
    let reset = ["group", "reset", "billing", "--topic", "orders", "--to"];
    let lag = || json(&[&["group", "lag", "billing", "--topic", "orders"][..], &on].concat())["lag"].clone();
    assert_eq!(lag(), 0);
    let told = json(&[&reset[..], &["earliest"], &on].concat());
    assert_eq!(told["queues"], json!([{"broker": "broker-a", "queue_id": 0, "offset": 0}]));
    assert_eq!(lag(), 2);
    sluice(&[&reset[..], &["latest"], &on].concat());
    assert_eq!(lag(), 0);
    assert_eq!(sluice_with("", &[&reset[..], &["soon"], &on].concat()).status.code(), Some(2));
    assert_eq!(sluice(&[&["topic", "delete", "orders"][..], &on].concat()), "topic orders: deleted\n");
    assert!(refused(&[&["topic", "delete", "orders"][..], &on].concat()).contains("no route"));
}

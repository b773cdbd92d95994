//! Pipelines from and to queues, as a user runs them. The broker lives in this process, and connections are real.
#![cfg(feature = "amqp091")]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test over processes takes the machine's environment")]

#[path = "queues/broker.rs"]
mod broker;
#[allow(dead_code, reason = "each test file uses its part")]
#[path = "queues/place.rs"]
mod place;

use std::fs;
use std::path::PathBuf;

use broker::{Broker, PLAIN, Stored, headers, long};
use place::{fate, terminate, until};

type Place = place::Place<Broker>;

fn new(queues: &[&str]) -> Place {
    let broker = Broker::start(queues);
    let url = broker.url();
    Place::of(broker, url)
}

fn fill(place: &Place, queue: &str, ids: std::ops::Range<i64>) {
    for id in ids {
        place.broker.send(queue, &PLAIN, format!("{{\"id\": {id}}}").as_bytes());
    }
}

const LAKE: &str = "
name: lake
source:
  amqp091: {url: 'URL', queue: orders, prefetch: 100, until: caught_up}
decode: {format: json, schema: {mode: declared, fields: {id: int64}}}
sink:
  parquet: {path: lake}
delivery: at_least_once
";

#[test]
fn a_queue_goes_into_files_and_is_acknowledged_once_they_are_there() {
    let place = new(&["orders"]);
    fill(&place, "orders", 0..1000);
    let pipelines = place.run(LAKE);
    assert_eq!(fate(&pipelines[0], "written"), 1000);
    {
        let state = place.broker.state.lock().unwrap();
        assert_eq!((state.acknowledged, state.queues["orders"].len()), (1000, 0));
        assert!(state.held_max <= 100, "{} were handed out at once", state.held_max);
    }
    assert!(place.files().len() >= 10, "files end before the broker stops handing out");
    assert_eq!(place.ids(), (0..1000).collect::<Vec<_>>());
    assert_eq!(place.run(LAKE)[0]["rows"], 0);
    fill(&place, "orders", 1000..1010);
    assert_eq!(fate(&place.run(LAKE)[0], "written"), 10);
    assert_eq!(place.ids(), (0..1010).collect::<Vec<_>>());
    place.audited();
}

#[test]
fn what_a_killed_run_had_in_hand_comes_again() {
    let place = new(&["orders"]);
    let forever = LAKE.replace(", until: caught_up", "");
    fill(&place, "orders", 0..5000);
    for round in 1..=3 {
        let mut run = place.begin(&forever);
        let before = place.files().len();
        until("files", || place.files().len() > before + round);
        run.kill().unwrap();
        run.wait().unwrap();
    }
    place.run(LAKE);
    assert_eq!(place.broker.state.lock().unwrap().queues["orders"].len(), 0);
    let mut ids = place.ids();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, (0..5000).collect::<Vec<_>>(), "each message at least once");
    place.audited();
}

#[test]
fn a_plan_that_a_crash_left_is_given_back() {
    let place = new(&["orders"]);
    fill(&place, "orders", 0..80);
    place.run(LAKE);
    // As if the run had died between putting its last plan and giving the file its name.
    let chain = place.path("lake/_sluice/lake/orders/0");
    let mut done: Vec<PathBuf> = fs::read_dir(&chain).unwrap().map(|entry| entry.unwrap().path()).collect();
    done.retain(|path| path.extension().is_some_and(|e| e == "done"));
    done.sort();
    let (last_done, last_file) = (done.pop().unwrap(), place.files().pop().unwrap());
    fs::remove_file(&last_done).unwrap();
    fs::remove_file(&last_file).unwrap();
    let lost: Vec<i64> = (0..80).filter(|id| !place.ids().contains(id)).collect();
    assert!(!lost.is_empty());
    fill(&place, "orders", lost[0]..80);
    let pipelines = place.run(LAKE);
    assert_eq!(fate(&pipelines[0], "written"), lost.len() as u64);
    assert_eq!(place.ids(), (0..80).collect::<Vec<_>>());
    let told = place.audited();
    assert!(told.contains("(1 given back)"), "{told}");
    assert!(place.sluice(&["compact", "lake", "--allow-reader-gap"]).status.success());
    assert_eq!(place.ids().len(), 80);
    place.audited();
}

#[test]
fn a_broker_that_goes_away_is_waited_for() {
    let place = new(&["orders"]);
    fill(&place, "orders", 0..300);
    let mut run = place.begin(&LAKE.replace(", until: caught_up", ""));
    until("files", || !place.files().is_empty());
    place.broker.cut();
    fill(&place, "orders", 300..600);
    until("each message is acknowledged", || place.broker.state.lock().unwrap().acknowledged == 600);
    terminate(&run);
    assert!(run.wait().is_ok());
    let mut ids = place.ids();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, (0..600).collect::<Vec<_>>());
    place.audited();
}

#[test]
fn what_can_not_be_reached_or_is_refused_is_told() {
    let place = new(&["orders"]);
    let told = place.told("run", &LAKE.replace("queue: orders", "queue: orderz"));
    assert!(told.contains("no queue 'orderz'"), "{told}");
    let wrong = LAKE.replace("queue: orders", "queue: orders, user: me, password: \"${WRONG:wrong}\"");
    let told = place.told("run", &wrong);
    assert!(told.contains("as user me") && told.contains("ACCESS_REFUSED"), "{told}");
    let told = place.told("run", &LAKE.replace("URL", "amqp://127.0.0.1:1"));
    assert!(told.contains("RabbitMQ at 127.0.0.1:1: cannot connect") && told.contains("refused"), "{told}");
    let sink = "
name: out
source: {generate: {rows: 3}}
sink:
  amqp091: {url: 'URL', TO}
delivery: at_least_once
";
    let told = place.told("run", &sink.replace("TO", "exchange: eventz, routing_key: orders"));
    assert!(told.contains("exchange eventz"), "{told}");
    let told = place.told("run", &sink.replace("TO", "exchange: events, routing_key: nobody"));
    assert!(told.contains("no queue takes messages with routing key `nobody`"), "{told}");
    place.write(LAKE);
    let check = place.sluice(&["check", "pipeline.yaml"]);
    assert!(check.status.success(), "{check:?}");
    place.write(&sink.replace("TO", "queue: orders"));
    let check = place.sluice(&["check", "pipeline.yaml"]);
    assert!(String::from_utf8_lossy(&check.stdout).contains("queue orders of RabbitMQ"), "{check:?}");
}

#[test]
fn lint_says_what_a_queue_can_not_give() {
    let place = new(&[]);
    for (from, to, part) in [
        ("delivery: at_least_once", "", "may come twice after a failure: write `delivery: at_least_once`"),
        ("at_least_once", "exactly_once", "dedupe: {key: $message_id}"),
        ("sink:", "steps: [{dedupe: {key: $message_id}}]\nsink:", "a queue has none"),
        ("'URL'", "'amqp://me:x@h'", "write `user` and `password: ${VAR}`"),
        ("'URL'", "'http://h'", "amqp://HOST:PORT"),
        ("'URL'", "'URL', tls: {}", "amqps://"),
        ("'URL'", "'URL', user: me, password: open", "write it as ${VAR}"),
        ("prefetch: 100", "prefetch: 0", "at least 1"),
        ("queue: orders", "queue: ''", "the name is missing"),
        ("queue: orders", "queues: orders", "queue"),
    ] {
        let told = place.told("lint", &LAKE.replace(from, to));
        assert!(told.contains(part), "{to}: {told}");
    }
    let sink = "name: out\nsource: {generate: {rows: 3}}\nsink: {amqp091: {url: 'URL', TO}}\ndelivery: at_least_once\n";
    for (to, part) in [
        ("user: me", "where messages go is missing"),
        ("queue: q, exchange: e", "give one of them"),
        ("queue: q, routing_key: k", "goes with `exchange`"),
    ] {
        let told = place.told("lint", &sink.replace("TO", to));
        assert!(told.contains(part), "{to}: {told}");
    }
    let told = place.told("lint", &sink.replace("TO", "queue: q").replace("at_least_once", "exactly_once"));
    assert!(told.contains("keeps no positions"), "{told}");
}

/// Properties with types, nested ones, a message id and a timestamp.
fn odd() -> Vec<Stored> {
    let table = [&b"F"[..], &long("\x01aI\0\0\0\x07")].concat();
    let all: [(&str, &[u8]); 5] = [
        ("n", b"I\0\0\0\x07"),
        ("nested", &table),
        ("nothing", b"V"),
        ("text", &[&b"S"[..], &long("plain")].concat()),
        ("yes", b"t\x01"),
    ];
    // A content type, headers, delivery mode 1, a message id and a timestamp.
    let flags: u16 = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7 | 1 << 6;
    let properties = [
        &flags.to_be_bytes()[..],
        &broker::short("text/plain"),
        &headers(&all)[2..],
        &[1],
        &broker::short("id-1"),
        &1_700_000_000_u64.to_be_bytes(),
    ];
    let stored = |properties: Vec<u8>, body: &[u8]| Stored {
        routing_key: "first".to_owned(),
        properties,
        body: body.to_vec(),
        redelivered: false,
    };
    vec![
        stored(properties.concat(), b"{}"),
        stored(PLAIN.to_vec(), b""),
        stored(headers(&[]), b"\0\xff"),
        stored(PLAIN.to_vec(), &vec![b'x'; 300_000]),
    ]
}

const THROUGH: &str = "
name: in
source:
  amqp091: {url: 'URL', queue: first, until: caught_up}
sink:
  topic: {name: between}
delivery: at_least_once
---
name: out
source:
  topic: {name: between, until: caught_up}
sink:
  amqp091: {url: 'URL', exchange: events}
delivery: at_least_once
";

#[test]
fn messages_come_back_as_they_were() {
    let place = new(&["first"]);
    for stored in odd() {
        place.broker.send("first", &stored.properties, &stored.body);
    }
    place.run(THROUGH.split("---").next().unwrap());
    assert!(place.broker.state.lock().unwrap().queues["first"].is_empty());
    place.run(THROUGH.split("---").nth(1).unwrap());
    // By their own routing key.
    let state = place.broker.state.lock().unwrap();
    assert_eq!(state.queues["first"].iter().cloned().collect::<Vec<_>>(), odd());
}

#[test]
fn headers_are_properties_and_what_does_not_fit_goes_where_errors_says() {
    let place = new(&["orders"]);
    place.broker.send("orders", &headers(&[("origin", &[&b"S"[..], &long("JFK")].concat())]), b"{\"id\": 1}");
    place.broker.send("orders", &headers(&[("origin", b"I\0\0\0\x07")]), b"{\"id\": 2}");
    // Nested so deep that a reader of its own accord would run out of stack.
    let deep = (0..20_000).fold(b"t\x01".to_vec(), |inner, _| {
        [&b"A"[..], &u32::try_from(inner.len()).unwrap().to_be_bytes(), &inner].concat()
    });
    place.broker.send("orders", &headers(&[("deep", &deep)]), b"{\"id\": 3}");
    place.broker.send("orders", &PLAIN, &vec![b' '; 2000]);
    place.broker.send("orders", &headers(&[("origin", &[&b"S"[..], &long("JFK")].concat())]), b"{\"id\": 4}");
    let config = LAKE
        .replace("prefetch: 100", "prefetch: 100, body_max: 1KiB")
        .replace("decode:", "where: \"origin = 'JFK' OR origin > 6\"\ndecode:")
        + "errors: {then: dead_letter, dead_letter: dead}\n";
    let pipelines = place.run(&config);
    assert_eq!(place.ids(), [1, 2, 4]);
    assert_eq!(fate(&pipelines[0], "dead"), 2);
    assert_eq!(place.broker.state.lock().unwrap().acknowledged, 5);
    let dead = place.sluice(&["dlq", "list", "dead"]);
    let told = String::from_utf8_lossy(&dead.stdout).into_owned();
    assert!(told.contains("nested more than 32 deep"), "{told}");
    assert!(told.contains("a body of 2000 bytes exceeds the limit of 1024 bytes"), "{told}");
}

//! Pipelines from and to queues by AMQP 1.0, as a user runs them. The broker lives in this process, and connections are
//! real.
#![cfg(feature = "amqp10")]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test over processes takes the machine's environment")]

#[path = "amqp10/broker.rs"]
mod broker;
#[allow(dead_code, reason = "each test file uses its part")]
#[path = "queues/place.rs"]
mod place;

use broker::{Broker, compound, data, decoded, described, properties, text};
use place::{fate, terminate, until};

type Place = place::Place<Broker>;

fn new(queues: &[&str]) -> Place {
    let broker = Broker::start(queues);
    let url = broker.url();
    Place::of(broker, url)
}

fn fill(place: &Place, queue: &str, ids: std::ops::Range<i64>) {
    for id in ids {
        place.broker.send(queue, data(format!("{{\"id\": {id}}}").as_bytes()));
    }
}

const LAKE: &str = "
name: lake
source:
  amqp10: {url: 'URL', queue: orders, prefetch: 100, until: caught_up}
decode: {format: json, schema: {mode: declared, fields: {id: int64}}}
sink:
  parquet: {path: lake}
delivery: at_least_once
";

#[test]
fn a_queue_goes_into_files_and_is_accepted_once_they_are_there() {
    let place = new(&["orders"]);
    fill(&place, "orders", 0..1000);
    let pipelines = place.run(LAKE);
    assert_eq!(fate(&pipelines[0], "written"), 1000);
    {
        let state = place.broker.state.lock().unwrap();
        assert_eq!((state.accepted, state.queues["orders"].len()), (1000, 0));
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
fn a_broker_that_goes_away_is_waited_for() {
    let place = new(&["orders"]);
    fill(&place, "orders", 0..300);
    let mut run = place.begin(&LAKE.replace(", until: caught_up", ""));
    until("files", || !place.files().is_empty());
    place.broker.cut();
    fill(&place, "orders", 300..600);
    until("each message is accepted", || place.broker.state.lock().unwrap().accepted >= 600);
    terminate(&run);
    assert!(run.wait().is_ok());
    let mut ids = place.ids();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, (0..600).collect::<Vec<_>>());
    place.audited();
}

const OUT: &str = "
name: out
source: {generate: {rows: 3}}
sink:
  amqp10: {url: 'URL', queue: orders}
delivery: at_least_once
";

#[test]
fn what_can_not_be_reached_or_is_refused_is_told() {
    let place = new(&["orders"]);
    for config in [LAKE, OUT] {
        let told = place.told("run", &config.replace("queue: orders", "queue: orderz"));
        assert!(told.contains("no queue 'orderz'"), "{told}");
        let wrong = config.replace("queue: orders", "queue: orders, user: me, password: \"${WRONG:wrong}\"");
        let told = place.told("run", &wrong);
        assert!(told.contains("as me") && told.contains("Auth"), "{told}");
        let away = config.replace("URL", "amqp://127.0.0.1:1") + "errors: {retry: 0s}\n";
        let told = place.told("run", &away);
        assert!(
            told.contains("AMQP broker at 127.0.0.1:1: cannot connect") && told.contains("refused"),
            "{told}"
        );
        let right = config.replace("queue: orders", "queue: orders, user: me, password: \"${RIGHT:right}\"");
        place.write(&right);
        let check = place.sluice(&["check", "pipeline.yaml"]);
        assert!(check.status.success(), "{check:?}");
    }
    let check = place.sluice(&["check", "pipeline.yaml"]);
    assert!(String::from_utf8_lossy(&check.stdout).contains("queue orders of the AMQP broker"), "{check:?}");
}

#[test]
fn lint_says_what_a_queue_can_not_give() {
    let place = new(&[]);
    for (from, to, part) in [
        ("delivery: at_least_once", "", "may come twice after a failure: write `delivery: at_least_once`"),
        ("at_least_once", "exactly_once", "dedupe: {key: $message_id}"),
        ("'URL'", "'amqp://me:x@h'", "write `user` and `password: ${VAR}`"),
        ("'URL'", "'amqp://h/path'", "has a path"),
        ("'URL'", "'URL', tls: {}", "amqps://"),
        ("'URL'", "'URL', user: me, password: open", "write it as ${VAR}"),
        ("'URL'", "'URL', password: \"${P:p}\"", "`password` stands without `user`"),
        ("prefetch: 100", "prefetch: 0", "at least 1"),
        ("queue: orders", "queue: ''", "the name is missing"),
        ("queue: orders", "queues: orders", "queue"),
    ] {
        let told = place.told("lint", &LAKE.replace(from, to));
        assert!(told.contains(part), "{to}: {told}");
    }
    let told = place.told("lint", &OUT.replace("at_least_once", "exactly_once"));
    assert!(told.contains("keeps no positions"), "{told}");
    let told = place.told("lint", &OUT.replace("sink:", "steps: [{route: \"'x'\"}]\nsink:"));
    assert!(told.contains("has one queue"), "{told}");
}

/// Messages of all sorts.
fn odd() -> Vec<Vec<u8>> {
    let headers = properties(&[
        ("big", vec![0x80, 0, 0, 1, 0, 0, 0, 0, 0]),
        ("bytes", vec![0xA0, 2, 0, 1]),
        ("nothing", vec![0x40]),
        ("yes", vec![0x41]),
    ]);
    vec![
        data(b"{}"),
        [headers, data(b"typed")].concat(),
        described(0x77, &[0xA1, 2, b'h', b'i']),
        described(0x77, &[0x54, 7]),
        [data(b"one"), data(b"two")].concat(),
        data(&vec![b'x'; 300_000]),
    ]
}

const THROUGH: &str = "
name: in
source:
  amqp10: {url: 'URL', queue: first, until: caught_up}
sink:
  topic: {name: between}
delivery: at_least_once
---
name: out
source:
  topic: {name: between, until: caught_up}
sink:
  amqp10: {url: 'URL', queue: second}
delivery: at_least_once
";

#[test]
fn messages_come_back_as_they_were() {
    let place = new(&["first", "second"]);
    for message in odd() {
        place.broker.send("first", message);
    }
    place.run(THROUGH.split("---").next().unwrap());
    assert!(place.broker.state.lock().unwrap().queues["first"].is_empty());
    place.run(THROUGH.split("---").nth(1).unwrap());
    let state = place.broker.state.lock().unwrap();
    let seen: Vec<_> = state.queues["second"].iter().map(|message| decoded(message)).collect();
    assert_eq!(seen, odd().iter().map(|message| decoded(message)).collect::<Vec<_>>());
}

#[test]
fn headers_are_properties_and_what_does_not_fit_goes_where_errors_says() {
    let place = new(&["orders"]);
    let with = |headers: &[(&str, Vec<u8>)], body: &[u8]| [properties(headers), data(body)].concat();
    place.broker.send("orders", with(&[("origin", text("JFK"))], b"{\"id\": 1}"));
    place.broker.send("orders", with(&[("origin", vec![0x54, 7])], b"{\"id\": 2}"));
    // Nested so deep that a reader of its own accord would run out of stack.
    let deep = (0..20_000).fold(vec![0x41], |inner, _| compound(0xD0, &[inner]));
    place.broker.send("orders", with(&[("deep", deep)], b"{\"id\": 3}"));
    place.broker.send("orders", data(&vec![b' '; 300_000]));
    place.broker.send("orders", with(&[("origin", text("JFK"))], b"{\"id\": 4}"));
    let config = LAKE
        .replace("prefetch: 100", "prefetch: 100, body_max: 200KiB")
        .replace("decode:", "where: \"origin = 'JFK' OR origin > 6\"\ndecode:")
        + "errors: {then: dead_letter, dead_letter: dead}\n";
    let pipelines = place.run(&config);
    assert_eq!(place.ids(), [1, 2, 4]);
    assert_eq!(fate(&pipelines[0], "dead"), 2);
    assert_eq!(place.broker.state.lock().unwrap().accepted, 5);
    let dead = place.sluice(&["dlq", "list", "dead"]);
    let told = String::from_utf8_lossy(&dead.stdout).into_owned();
    assert!(told.contains("nested more than 32 deep"), "{told}");
    assert!(told.contains("it has more than 204800 bytes: raise `body_max`"), "{told}");
}

#[test]
fn a_message_that_the_broker_rejects_goes_where_errors_says_and_the_others_once() {
    let place = new(&["first", "second"]);
    for number in 0..40 {
        let body = if number == 17 { "reject me".to_owned() } else { format!("{number}") };
        place.broker.send("first", data(body.as_bytes()));
    }
    place.run(THROUGH.split("---").next().unwrap());
    let out = THROUGH.split("---").nth(1).unwrap();
    let told = place.told("run", out);
    assert!(told.contains("the broker rejected it: nobody wants this"), "{told}");
    place.broker.state.lock().unwrap().queues.get_mut("second").unwrap().clear();
    let out = out.replace("name: out", "name: out-again") + "errors: {then: skip}\n";
    assert_eq!(fate(&place.run(&out)[0], "skipped"), 1);
    assert_eq!(place.broker.state.lock().unwrap().queues["second"].len(), 39);
}

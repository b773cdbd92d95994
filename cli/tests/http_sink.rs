//! Pipelines into a receiver by HTTP, as a user runs them: it takes, refuses, fails, drops and delays.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test over processes takes the machine's environment")]

#[allow(dead_code, reason = "each test file uses its part")]
#[path = "queues/place.rs"]
mod place;
#[path = "http/server.rs"]
mod server;

use std::fs;
use std::ops::Range;
use std::time::{Duration, Instant};

use place::{fate, until};
use serde_json::Value;
use server::{Got, Receiver, Reply};

type Place = place::Place<Receiver>;

const TAKEN: Reply = Reply::Answer(200, "", "");

fn new(does: impl Fn(usize, &Got) -> Reply + Send + Sync + 'static) -> Place {
    let receiver = Receiver::new(does);
    let url = format!("http://{}/in", receiver.addr);
    Place::of(receiver, url)
}

fn write(place: &Place, ids: Range<i64>) {
    let lines: String = ids.map(|id| format!("{{\"id\": {id}}}\n")).collect();
    fs::write(place.path("rows.ndjson"), lines).unwrap();
}

const OUT: &str = "
name: out
source:
  file: {path: rows.ndjson, format: ndjson}
sink:
  http: {url: 'URL', batch: {rows: 10}, timeout: 1s}
delivery: at_least_once
errors: {then: dead_letter, dead_letter: dead}
";

/// The ids in the body of a request of either format.
fn ids(body: &str) -> Vec<i64> {
    let values: Vec<Value> = match body.strip_prefix('[') {
        Some(_) => serde_json::from_str(body).unwrap(),
        None => body.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
    };
    values.iter().map(|value| value["id"].as_i64().unwrap()).collect()
}

fn all_ids(place: &Place) -> Vec<i64> {
    place.broker.got().iter().flat_map(|got| ids(&got.body)).collect()
}

#[test]
fn rows_go_in_their_order_many_at_once_and_named() {
    let place = new(|_, _| TAKEN);
    write(&place, 0..25);
    assert_eq!(fate(&place.run(OUT)[0], "written"), 25);
    assert_eq!(all_ids(&place), (0..25).collect::<Vec<_>>());
    let got = place.broker.got();
    let keys: Vec<&str> = got.iter().map(|got| got.header("idempotency-key")).collect();
    assert_eq!(keys, ["out/rows.ndjson/0/0-9", "out/rows.ndjson/0/10-19", "out/rows.ndjson/0/20-24"]);
    assert_eq!(got[0].line, "POST /in");
    assert_eq!(got[0].header("content-type"), "application/x-ndjson");
    assert!(got[0].header("user-agent").starts_with("sluice/"));
    assert_eq!(got[0].body.lines().next(), Some("{\"id\": 0}"), "a body is sent as it came");
}

#[test]
fn an_array_a_token_and_headers_are_sent_and_no_secret_is_kept_or_shown() {
    let place = new(|number, got| {
        let is_right =
            got.header("authorization") == "Bearer a-token-for-the-test" && got.header("x-a") == "b";
        if number == 0 && is_right { TAKEN } else { Reply::Answer(403, "", "who are you?\u{1b}[31m") }
    });
    write(&place, 0..15);
    let config = OUT.replace(
        "batch: {rows: 10}",
        "format: json, token: '${TOKEN:a-token-for-the-test}', headers: {x-a: b}, batch: {bytes: 1KiB}",
    );
    assert_eq!(fate(&place.run(&config)[0], "written"), 15);
    let got = place.broker.got();
    assert_eq!((got.len(), got[0].header("content-type")), (1, "application/json"));
    assert_eq!(ids(&got[0].body), (0..15).collect::<Vec<_>>());
    fs::write(place.path("more.ndjson"), "{\"id\": 15}\n").unwrap();
    let told = place.told("run", &config.replace("rows.ndjson", "more.ndjson"));
    assert!(told.contains("403 Forbidden: look at `token`") && told.contains("who are you? [31m"), "{told}");
    assert!(!told.contains("a-token"), "{told}");
}

#[test]
fn rows_that_are_refused_go_where_errors_says_and_all_others_arrive_once() {
    let place = new(|_, got| match ids(&got.body) {
        ids if ids.contains(&7) => Reply::Answer(422, "", "7 is no id"),
        ids if ids.contains(&33) => Reply::Answer(400, "", ""),
        ids if ids.len() > 6 => Reply::Answer(413, "", "six at most"),
        _ => TAKEN,
    });
    write(&place, 0..50);
    let pipelines = place.run(OUT);
    assert_eq!((fate(&pipelines[0], "written"), fate(&pipelines[0], "dead")), (48, 2));
    let wrong = |ids: &Vec<i64>| ids.contains(&7) || ids.contains(&33) || ids.len() > 6;
    let requests = place.broker.got().into_iter().map(|got| ids(&got.body));
    let mut taken: Vec<i64> = requests.filter(|ids| !wrong(ids)).flatten().collect();
    taken.sort_unstable();
    assert_eq!(taken, (0..50).filter(|id| ![7, 33].contains(id)).collect::<Vec<_>>());
    let dead = place.sluice(&["dlq", "list", "dead"]);
    let told = String::from_utf8_lossy(&dead.stdout).into_owned();
    assert!(
        told.contains("422 Unprocessable Entity: 7 is no id") && told.contains("400 Bad Request"),
        "{told}"
    );
    let stops = OUT.replace("errors: {then: dead_letter, dead_letter: dead}", "");
    let told = place.told("run", &stops.replace("name: out", "name: stops"));
    assert!(told.contains("queue offset 7") && told.contains("7 is no id"), "{told}");
}

#[test]
fn a_receiver_that_fails_drops_and_delays_gets_all_in_the_end() {
    let place = new(|number, _| match number {
        0 => Reply::Answer(503, "Retry-After: 0\r\n", "later"),
        1 => Reply::Drop,
        2 => Reply::Answer(429, "", ""),
        4 => Reply::Silence(Duration::from_secs(3)),
        6 => Reply::Answer(500, "", "<html>"),
        8 => Reply::Drop,
        _ => TAKEN,
    });
    write(&place, 0..50);
    assert_eq!(fate(&place.run(OUT)[0], "written"), 50);
    let got = place.broker.got();
    assert!(got.len() > 10, "{} requests", got.len());
    let mut ids = all_ids(&place);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, (0..50).collect::<Vec<_>>());
    // What comes again has the name that it had.
    let mut by_key = std::collections::BTreeMap::new();
    for got in &got {
        let before = by_key.insert(got.header("idempotency-key").to_owned(), got.body.clone());
        assert!(before.is_none_or(|before| before == got.body), "{got:?}");
    }
    assert_eq!(by_key.len(), 5);
}

#[test]
fn a_receiver_may_ask_for_a_pause() {
    let place =
        new(|number, _| if number == 0 { Reply::Answer(429, "Retry-After: 1\r\n", "") } else { TAKEN });
    write(&place, 0..1);
    let begun = Instant::now();
    place.run(OUT);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(place.broker.got().len(), 2);
}

#[test]
fn a_killed_run_sends_again_what_it_had_no_answer_for() {
    let place = new(|_, _| {
        std::thread::sleep(Duration::from_millis(5));
        TAKEN
    });
    write(&place, 0..1000);
    for round in 1..=3 {
        let before = place.broker.got().len();
        let mut run = place.begin(OUT);
        until("requests", || place.broker.got().len() > before + 5 * round);
        run.kill().unwrap();
        run.wait().unwrap();
    }
    place.run(OUT);
    let mut ids = all_ids(&place);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, (0..1000).collect::<Vec<_>>(), "each row at least once");
}

#[test]
fn columns_become_json_and_bodies_that_are_none_are_told() {
    let place = new(|_, _| TAKEN);
    fs::write(place.path("rows.csv"), "id,name\n1,a\n2,\n").unwrap();
    let csv = OUT.replace("rows.ndjson, format: ndjson", "rows.csv, format: csv");
    let csv = csv.replace("sink:", "decode: {format: json}\nsteps: [{select: {rename: {name: n}}}]\nsink:");
    assert_eq!(fate(&place.run(&csv)[0], "written"), 2);
    let bodies: Vec<String> = place.broker.got().into_iter().map(|got| got.body).collect();
    let lines: Vec<Value> = bodies.concat().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["n"], "a", "{lines:?}");
    let raw = OUT.replace("sink:", "decode: {format: raw}\nsink:");
    let told = place.told("lint", &raw);
    assert!(told.contains("must be JSON, not bytes of any kind") && told.contains("select"), "{told}");
}

#[test]
fn lint_and_check_say_what_is_wrong() {
    let place = new(|_, got| match got.line.as_str() {
        "HEAD /in" => Reply::Answer(405, "", ""),
        _ => Reply::Answer(401, "", ""),
    });
    write(&place, 0..1);
    for (from, to, part) in [
        (
            "delivery: at_least_once",
            "",
            "pipeline.yaml:5:1: sink: a request that has no answer is sent again",
        ),
        ("url: 'URL'", "url: 'nowhere'", "pipeline.yaml:6:15: sink.http.url: no URL"),
        ("url: 'URL'", "url: 'http://x.example/', token: '${T:abc}'", "could be read on its way"),
        ("url: 'URL'", "url: 'URL', token: abc", "write it as ${VAR}"),
        ("url: 'URL'", "url: 'URL', headers: {x-api-key: abc}", "write it as ${VAR}"),
        ("url: 'URL'", "url: 'URL', format: xml", "expected"),
        ("timeout: 1s", "timeout: 1x", "no length of time"),
        ("timeout: 1s", "timeout: 1s, retries: 3", "retries"),
        ("sink:", "steps: [{headers: {set: {a: b}}}]\nsink:", "headers are properties of messages"),
        ("sink:", "steps: [{route: a}]\nsink:", "one URL"),
    ] {
        let told = place.told("lint", &OUT.replace(from, to));
        assert!(told.contains(part), "{to}: {told}");
    }
    place.write(OUT);
    let check = place.sluice(&["check", "pipeline.yaml"]);
    let told = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.success() && told.contains("are answered: at_least_once"), "{check:?}");
    let told = place.told("check", &OUT.replace("URL", "URL2"));
    assert!(told.contains("401 Unauthorized: look at `token`"), "{told}");
    let told = place.told("check", &OUT.replace("URL", "http://127.0.0.1:1/"));
    assert!(told.contains("http://127.0.0.1:1/: cannot connect"), "{told}");
}

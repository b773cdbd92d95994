//! Pipelines from requests by HTTP, as a user runs them: what is acknowledged is in the target, whatever is killed; and
//! what is too much, wrong or slow is refused.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test over processes takes the machine's environment")]

#[allow(dead_code, reason = "each test file uses its part")]
#[path = "queues/place.rs"]
mod place;
#[allow(dead_code, reason = "each test file uses its part")]
#[path = "http/server.rs"]
mod server;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use place::{fate, terminate, until};
use reqwest::{Client, Response};
use serde_json::Value;
use server::{Receiver, Reply};
use tokio::runtime::Runtime;

type Place = place::Place<Runtime>;

/// `URL` is an address that was free a moment ago.
fn new() -> (Place, String) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    (Place::of(runtime, addr.clone()), addr)
}

const IN: &str = "
name: in
source:
  http: {listen: 'URL', path: /orders, headers: [x-region]}
sink:
  topic: {name: orders}
delivery: at_least_once
";

const LAKE: &str = "
name: lake
source:
  topic: {name: orders, until: caught_up}
decode: {format: json, schema: {mode: declared, fields: {id: int64}}}
sink:
  parquet: {path: lake}
";

/// Requests into files.
const FILES: &str = "
name: files
source:
  http: {listen: 'URL', SET}
decode: {format: json, schema: {mode: declared, fields: {id: int64}}}
sink:
  parquet: {path: lake, rotate: {age: 1h}}
delivery: at_least_once
";

fn client() -> Client {
    Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap()
}

async fn post(client: &Client, addr: &str, kind: &str, body: String) -> reqwest::Result<Response> {
    client.post(format!("http://{addr}/orders")).header("content-type", kind).body(body).send().await
}

fn listening(addr: &str) {
    until("it listens", || TcpStream::connect(addr).is_ok());
}

/// Sends bytes as they are, and gives what comes back until the connection ends.
fn raw(addr: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // It may be turned away before all is sent.
    let _ = stream.write_all(bytes);
    let mut told = Vec::new();
    let _ = stream.read_to_end(&mut told);
    String::from_utf8_lossy(&told).into_owned()
}

/// The status of an answer to a request with these headers and this body, and all of it.
fn ask(addr: &str, line: &str, headers: &str, body: &str) -> (u16, String) {
    let len = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n{headers}Content-Length: {len}\r\n\r\n"
    );
    let told = raw(addr, format!("{head}{body}").as_bytes());
    (told.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0), told)
}

const JSON: &str = "Content-Type: application/json\r\n";
const NDJSON: &str = "Content-Type: application/x-ndjson\r\n";

#[test]
fn messages_of_each_kind_come_with_their_headers_and_are_in_the_topic_when_that_is_told() {
    let (place, addr) = new();
    let mut run = place.begin(IN);
    listening(&addr);
    let (status, told) = ask(&addr, "POST /orders", &format!("{JSON}X-Region: eu\r\n"), " {\"id\": 0}\n");
    assert!(status == 200 && told.ends_with("{\"stored\":1}\n"), "{told}");
    let (_, told) = ask(&addr, "POST /orders", NDJSON, "{\"id\": 1}\n\n{\"id\": 2}\r\n{\"id\": 3}");
    assert!(told.ends_with("{\"stored\":3}\n"), "{told}");
    let (_, told) = ask(&addr, "POST /orders", JSON, "[{\"id\": 4},\n {\"id\": 5}]");
    assert!(told.ends_with("{\"stored\":2}\n"), "{told}");
    let (_, told) = ask(&addr, "POST /orders", JSON, "[]");
    assert!(told.ends_with("{\"stored\":0}\n"), "{told}");
    // A client that sends its body in pieces.
    let pieces = format!(
        "POST /orders?a=b HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n{NDJSON}\r\n\
         5\r\n{{\"id\"\r\n5\r\n: 6}}\n\r\n0\r\n\r\n"
    );
    assert!(raw(&addr, pieces.as_bytes()).contains("{\"stored\":1}"));
    run.kill().unwrap();
    run.wait().unwrap();
    let tail = place.sluice(&["topic", "tail", "orders", "--where", "\"x-region\" = 'eu'", "--limit", "1"]);
    assert!(String::from_utf8_lossy(&tail.stdout).contains("\"body\":{\"id\":0}"), "{tail:?}");
    place.run(LAKE);
    assert_eq!(place.ids(), (0..7).collect::<Vec<_>>());
}

#[test]
fn what_was_acknowledged_is_in_the_topic_whatever_is_killed() {
    let (place, addr) = new();
    let (next, stop) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
    let stored: Arc<Mutex<BTreeSet<i64>>> = Arc::default();
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let (next, stop, stored, addr) = (next.clone(), stop.clone(), stored.clone(), addr.clone());
            place.broker.spawn(async move {
                let client = client();
                while !stop.load(Ordering::SeqCst) {
                    let first = next.fetch_add(3, Ordering::SeqCst);
                    let ids = first..first + 3;
                    let lines: String = ids.clone().map(|id| format!("{{\"id\": {id}}}\n")).collect();
                    // As clients do: until it is acknowledged.
                    while !stop.load(Ordering::SeqCst) {
                        match post(&client, &addr, "application/x-ndjson", lines.clone()).await {
                            Ok(answer) if answer.status() == 200 => {
                                stored.lock().unwrap().extend(ids.clone());
                                break;
                            }
                            Ok(answer) => assert_eq!(answer.status(), 503, "sender {sender}"),
                            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                        }
                    }
                }
            })
        })
        .collect();
    for round in 1..=4 {
        let mut run = place.begin(IN);
        let before = stored.lock().unwrap().len();
        until("acknowledged messages", || stored.lock().unwrap().len() >= before + 50 * round);
        if round % 2 == 0 {
            terminate(&run);
            assert!(run.wait().is_ok());
        } else {
            run.kill().unwrap();
            run.wait().unwrap();
        }
    }
    stop.store(true, Ordering::SeqCst);
    place.broker.block_on(async {
        for sender in senders {
            sender.await.unwrap();
        }
    });
    place.run(LAKE);
    let there: BTreeSet<i64> = place.ids().into_iter().collect();
    let stored = stored.lock().unwrap();
    let lost: Vec<&i64> = stored.difference(&there).collect();
    assert!(lost.is_empty() && stored.len() > 500, "{} stored, lost: {lost:?}", stored.len());
}

#[test]
fn an_acknowledged_request_takes_milliseconds() {
    let (place, addr) = new();
    let mut run = place.begin(IN);
    listening(&addr);
    let client = client();
    let mut times: Vec<Duration> = place.broker.block_on(async {
        let mut times = Vec::new();
        for id in 0..200 {
            let begun = Instant::now();
            let answer = post(&client, &addr, "application/json", format!("{{\"id\": {id}}}")).await.unwrap();
            assert_eq!(answer.text().await.unwrap(), "{\"stored\":1}\n");
            times.push(begun.elapsed());
        }
        times
    });
    times.sort_unstable();
    println!("p50 {:?}, p99 {:?}", times[100], times[198]);
    // The idle pipeline looks again after 200 ms; who waits for that would show.
    assert!(times[100] < Duration::from_millis(100), "p50 {:?}", times[100]);
    terminate(&run);
    assert!(run.wait().is_ok());
}

#[test]
fn what_is_not_right_is_refused_and_told() {
    let (place, addr) = new();
    let config = IN.replace(
        "headers:",
        "token: '${T:a-token-of-enough-letters}', body_max: 1KiB, unacknowledged: 5, headers:",
    );
    let mut run = place.begin(&config);
    listening(&addr);
    let bearer = "Authorization: Bearer a-token-of-enough-letters\r\n";
    let json = format!("{bearer}{JSON}");
    let long = format!("{{\"a\": \"{}\"}}", "x".repeat(1024));
    let region = |len| format!("{json}X-Region: {}\r\n", "x".repeat(len));
    for (line, headers, body, status, part) in [
        ("POST /orders", JSON.to_owned(), "{}", 401, "www-authenticate: Bearer"),
        (
            "POST /orders",
            format!("{JSON}Authorization: Bearer a-token\r\n"),
            "{}",
            401,
            "expected the header",
        ),
        ("POST /other", json.clone(), "{}", 404, "messages go to /orders"),
        ("GET /orders", json.clone(), "", 405, "allow: POST"),
        ("POST /orders", bearer.to_owned(), "{}", 415, "application/x-ndjson"),
        ("POST /orders", format!("{bearer}Content-Type: text/plain\r\n"), "{}", 415, "`text/plain`"),
        ("POST /orders", format!("{json}Content-Encoding: gzip\r\n"), "{}", 415, "gzip"),
        ("POST /orders", json.clone(), &long, 413, "over the limit of 1024 bytes"),
        ("POST /orders", json.clone(), "[{},{},{},{},{},{}]", 413, "more than 5 messages"),
        ("POST /orders", json.clone(), "{\"a\": 1", 400, "line 1, column 7"),
        ("POST /orders", json.clone(), "[{},\n{},\n7]", 400, "message 3: expected a JSON object"),
        ("POST /orders", format!("{bearer}{NDJSON}"), "{}\n{}\n{oops}\n{}", 400, "line 3, column 2"),
        ("POST /orders", region(1025), "{}", 431, "x-region has 1025 bytes"),
        ("POST /orders", region(100_000), "{}", 431, ""),
        ("POST /orders", region(1024), "{}", 200, "{\"stored\":1}"),
    ] {
        let (found, told) = ask(&addr, line, &headers, body);
        assert!(found == status && told.contains(part), "{line} {body}: {told}");
    }
    // Pieces that become too long, though nobody said how long.
    let piece = format!("3f0\r\n{}\r\n", "x".repeat(0x3f0));
    let head = format!("POST /orders HTTP/1.1\r\nHost: {addr}\r\nTransfer-Encoding: chunked\r\n{json}\r\n");
    assert!(raw(&addr, format!("{head}{piece}{piece}0\r\n\r\n").as_bytes()).starts_with("HTTP/1.1 413"));
    terminate(&run);
    assert!(run.wait().is_ok());
    place.run(&LAKE.replace("fields: {id: int64}", "fields: {id: int64, a: utf8}"));
    assert_eq!(place.rows().iter().map(arrow::array::RecordBatch::num_rows).sum::<usize>(), 1);
}

#[test]
fn a_page_in_a_browser_may_not_send_without_a_token() {
    let (place, addr) = new();
    let mut run = place.begin(IN);
    listening(&addr);
    let origin = format!("{JSON}Origin: http://evil.example\r\n");
    assert_eq!(ask(&addr, "POST /orders", &origin, "{}").0, 403);
    assert_eq!(ask(&addr, "OPTIONS /orders", &origin, "").0, 403);
    terminate(&run);
    assert!(run.wait().is_ok());
}

#[test]
fn garbage_and_slow_clients_hold_nobody_up() {
    let (place, addr) = new();
    let mut run = place.begin(&IN.replace("headers:", "timeout: 300ms, connections: 40, headers:"));
    listening(&addr);
    // Half a head, half a body, and nothing at all.
    let head = format!("POST /orders HTTP/1.1\r\nHost: {addr}\r\n{JSON}Content-Length: 100\r\n\r\n{{");
    let mut slow: Vec<TcpStream> = (0..30).map(|_| TcpStream::connect(&addr).unwrap()).collect();
    for (number, stream) in slow.iter_mut().enumerate() {
        let bytes = [&head.as_bytes()[..20], head.as_bytes(), b""][number % 3];
        stream.write_all(bytes).unwrap();
    }
    let mut seed = 7_u32;
    for len in 0..200 {
        let garbage: Vec<u8> = (0..len)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 24) as u8
            })
            .collect();
        let mut stream = TcpStream::connect(&addr).unwrap();
        // It may hang up first.
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(Shutdown::Write);
        let mut told = Vec::new();
        let _ = stream.read_to_end(&mut told);
        assert!(!told.starts_with(b"HTTP/1.1 200"), "{garbage:?}");
    }
    for id in 0..10 {
        assert_eq!(ask(&addr, "POST /orders", JSON, &format!("{{\"id\": {id}}}")).0, 200);
    }
    // A body that ends early, and one that does not come.
    assert!(!raw(&addr, b"POST /orders HTTP/1.1\r\nConnection: close\r\n\r\n").contains(" 200 "));
    let mut told = String::new();
    let _ = slow[1].read_to_string(&mut told);
    assert!(told.starts_with("HTTP/1.1 408") && told.contains("300ms"), "{told}");
    terminate(&run);
    assert!(run.wait().is_ok());
    place.run(LAKE);
    assert_eq!(place.ids(), (0..10).collect::<Vec<_>>());
}

#[test]
fn files_end_while_requests_wait_and_hold_what_came_meanwhile() {
    let (place, addr) = new();
    let mut run = place.begin(&FILES.replace("SET", "path: /orders, timeout: 1s"));
    listening(&addr);
    let client = client();
    let begun = Instant::now();
    place.broker.block_on(async {
        let all: Vec<_> = (0..50)
            .map(|id| {
                let (client, addr) = (client.clone(), addr.clone());
                tokio::spawn(async move {
                    let answer = post(&client, &addr, "application/json", format!("{{\"id\": {id}}}")).await;
                    answer.unwrap().status()
                })
            })
            .collect();
        for answer in all {
            assert_eq!(answer.await.unwrap(), 200);
        }
    });
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    assert!(place.files().len() <= 3, "{:?}", place.files());
    let mut ids = place.ids();
    ids.sort_unstable();
    assert_eq!(ids, (0..50).collect::<Vec<_>>());
    terminate(&run);
    assert!(run.wait().is_ok());
    place.audited();
}

/// Requests on to a receiver.
fn onward(receiver: &Receiver, set: &str) -> String {
    let url = format!("http://{}/", receiver.addr);
    IN.replace("path: /orders, headers: [x-region]", set)
        .replace("topic: {name: orders}", &format!("http: {{url: '{url}', timeout: 1m}}"))
}

#[test]
fn what_may_wait_is_bounded_and_an_ordered_end_answers_those_who_wait() {
    let (place, addr) = new();
    let is_open = Arc::new(AtomicBool::new(false));
    let opened = is_open.clone();
    let receiver = Receiver::new(move |_, _| {
        while !opened.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Reply::Answer(200, "", "")
    });
    let mut run = place.begin(&onward(&receiver, "unacknowledged: 6, timeout: 1m"));
    listening(&addr);
    let waiting = std::thread::spawn({
        let addr = addr.clone();
        move || ask(&addr, "POST /", NDJSON, "{\"id\": 0}\n{\"id\": 1}\n")
    });
    until("the receiver has it", || receiver.got().len() == 1);
    let (status, told) = ask(&addr, "POST /", NDJSON, "{}\n{}\n{}\n{}\n{}");
    assert!(status == 503 && told.contains("retry-after: 1") && told.contains("6 messages"), "{told}");
    terminate(&run);
    // It takes nothing more, and ends what it began.
    until("it is ending", || TcpStream::connect(&addr).is_err());
    is_open.store(true, Ordering::SeqCst);
    assert!(run.wait().is_ok());
    let (status, told) = waiting.join().unwrap();
    assert!(status == 200 && told.ends_with("{\"stored\":2}\n"), "{told}");
    assert_eq!(receiver.got()[0].body, "{\"id\": 0}\n{\"id\": 1}\n");
}

#[test]
fn a_target_that_takes_too_long_is_told_in_time() {
    let (place, addr) = new();
    let receiver = Receiver::new(|_, _| Reply::Silence(Duration::from_secs(60)));
    let mut run = place.begin(&onward(&receiver, "timeout: 300ms"));
    listening(&addr);
    let (status, told) = ask(&addr, "POST /", JSON, "{\"id\": 1}");
    assert!(status == 503 && told.contains("within 300ms") && told.contains("retry-after"), "{told}");
    run.kill().unwrap();
    run.wait().unwrap();
}

#[test]
fn messages_that_come_twice_under_a_key_are_told_apart() {
    let (place, addr) = new();
    let mut run = place.begin(IN);
    listening(&addr);
    for _ in 0..2 {
        let named = format!("{NDJSON}Idempotency-Key: k-1\r\n");
        assert_eq!(ask(&addr, "POST /orders", &named, "{\"id\": 1}\n{\"id\": 2}\n").0, 200);
    }
    terminate(&run);
    assert!(run.wait().is_ok());
    let once = LAKE.replace("sink:", "steps: [{dedupe: {key: $message_id}}]\nsink:");
    assert_eq!(fate(&place.run(&once)[0], "deduplicated"), 2);
    assert_eq!(place.ids(), [1, 2]);
}

#[test]
fn lint_and_check_say_what_is_wrong() {
    let (place, addr) = new();
    for (from, to, part) in [
        ("delivery: at_least_once", "", "a client sends again what it has no answer for"),
        (
            "'URL'",
            "'0.0.0.0:80'",
            "pipeline.yaml:4:18: source.http.listen: 0.0.0.0:80 can be reached from other machines",
        ),
        ("'URL'", "'localhost'", "no address with a port"),
        ("'URL'", "'URL', token: 'a-token-of-enough-letters'", "write it as ${VAR}"),
        ("'URL'", "'URL', token: '${T:short}'", "at least 16 characters"),
        ("path: /orders", "path: orders", "begins with /"),
        ("[x-region]", "[KEYS]", "gives property `KEYS` a meaning"),
        ("[x-region]", "[x-region], body_max: 1GiB", "64.0 MiB"),
        ("[x-region]", "[x-region], unacknowledged: 0", "1 to 1000000"),
        ("[x-region]", "[x-region], timeout: 1ms", "100ms to 1h"),
        ("[x-region]", "[x-region], format: json", "format"),
        ("sink:", "where: x_region = 'eu'\nsink:", "x-region"),
        ("sink:", "steps: [{dedupe: {key: x}}]\nsink:", "a queue has none"),
    ] {
        let told = place.told("lint", &IN.replace(from, to));
        assert!(told.contains(part), "{to}: {told}");
    }
    place.write(IN);
    assert!(place.sluice(&["check", "pipeline.yaml"]).status.success());
    let _taken = TcpListener::bind(&addr).unwrap();
    let told = place.told("check", IN);
    assert!(told.contains(&format!("cannot listen at {addr}")) && told.contains("in use"), "{told}");
    let told: Value =
        serde_json::from_slice(&place.sluice(&["lint", "pipeline.yaml", "--json"]).stdout).unwrap();
    assert_eq!(told["problems"].as_array().unwrap().len(), 0);
}

//! `sluice message trace`: a message's life, as far as clients, brokers and targets know it.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test over processes takes the machine's time")]

mod served;

use serde_json::{Value, json};

use served::{Served, json, refused, sluice, sluice_with, table, until};

/// What happened, without times.
fn events(traced: &Value) -> Vec<[String; 3]> {
    let text = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
    let events = traced["events"].as_array().unwrap().iter();
    events.map(|event| [text(event, "event"), text(event, "who"), text(event, "where")]).collect()
}

#[test]
fn a_message_is_followed_from_its_producer_into_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Served::broker(&dir.path().join("store"), &[]);
    let names = &*broker.names();
    sluice(&["topic", "create", "orders", "--queues", "1", "--namesrv", names]);
    sluice_with("{\"id\":1}\n{\"id\":2}\n", &["topic", "send", "orders", "--namesrv", names]);
    let rows = sluice(&["topic", "tail", "orders", "--namesrv", names]);
    let row: Value = serde_json::from_str(rows.lines().nth(1).unwrap()).unwrap();
    let (id, offset_id) = (row["message_id"].as_str().unwrap(), row["offset_id"].as_str().unwrap());

    let unknown = refused(&["message", "trace", id, "--namesrv", names]);
    assert!(
        unknown.contains(&format!("nothing is known of message {id}")) && unknown.contains("--topic"),
        "{unknown}"
    );
    // The key index follows the log.
    let trace = ["message", "trace", id, "--topic", "orders", "--namesrv", names];
    until("the message is found by its id", || sluice_with("", &trace).status.success());
    let shown = sluice(&trace);
    let rows = table(&shown);
    assert_eq!(rows[0], ["message", id, "of", "topic", "orders"]);
    assert_eq!(rows[1], ["TIME", "EVENT", "WHO", "WHERE", "WHAT"]);
    assert_eq!(rows[2][1..7], ["stored", "orders", "queue", "0", "offset", "1"]);
    assert!(
        shown.ends_with("no client traced it: who got it is known by committed offsets alone\n"),
        "{shown}"
    );
    // The broker's own id of it names its topic, too.
    let by_place = json(&["message", "trace", offset_id, "--namesrv", names]);
    assert_eq!((&by_place["message_id"], &by_place["topic"]), (&json!(id), &json!("orders")));

    let bodies = [
        format!(
            "Pub\u{1}1700000000000\u{1}r\u{1}shop\u{1}orders\u{1}{id}\u{1}\u{1}\u{1}127.0.0.1:10911\u{1}8\u{1}3\u{1}0\u{1}{offset_id}\u{1}true\u{2}"
        ),
        format!("SubBefore\u{1}4000000000000\u{1}r\u{1}billing\u{1}R1\u{1}{id}\u{1}0\u{1}\u{2}"),
        format!(
            "SubAfter\u{1}R1\u{1}{id}\u{1}5\u{1}false\u{1}\u{1}2\u{2}SubBefore\u{1}4000000000009\u{1}r\u{1}billing\u{1}R2\u{1}{id}\u{1}1\u{1}\u{2}"
        ),
        format!("SubAfter\u{1}R2\u{1}{id}\u{1}6\u{1}true\u{1}\u{1}0\u{2}"),
    ];
    for body in &bodies {
        let send = ["topic", "send", "RMQ_SYS_TRACE_TOPIC", "--whole", "--key", id, "--namesrv", names];
        assert!(sluice_with(body, &send).status.success());
    }
    let expected = [["sent", "shop", "127.0.0.1:10911"], ["stored", "", "orders queue 0 offset 1"]];
    let delivered = ["delivered", "billing", ""];
    let trace = ["message", "trace", id, "--namesrv", names];
    let mut traced = Value::Null;
    until("all traces are found", || {
        let out = sluice_with("", &[&trace[..], &["--json"]].concat());
        traced = serde_json::from_slice(&out.stdout).unwrap_or_default();
        let events = traced["events"].as_array();
        events.is_some_and(|events| {
            events.iter().any(|event| event["detail"] == "came 1 times before, consumed in 6 ms")
        })
    });
    let found = events(&traced);
    let wanted: Vec<[String; 3]> =
        expected.into_iter().chain([delivered, delivered]).map(|event| event.map(str::to_owned)).collect();
    assert_eq!(found, wanted, "{traced}");
    assert_eq!(traced["events"][2]["detail"], "failed: an exception in 5 ms");
    assert_eq!(traced["traced"], true);

    let lake = dir.path().join("lake");
    let config = dir.path().join("lake.yaml");
    let text = format!(
        "name: lake\nsource: {{topic: {{name: orders, cluster: \"{names}\", until: caught_up}}}}\nsink: {{parquet: {{path: {lake:?}}}}}\n"
    );
    std::fs::write(&config, text).unwrap();
    let data = dir.path().join("embedded");
    sluice(&["run", config.to_str().unwrap(), "--data-dir", data.to_str().unwrap()]);
    let target = ["--target", lake.to_str().unwrap()];
    let traced = json(&[&trace[..], &target].concat());
    let published =
        traced["events"].as_array().unwrap().iter().find(|event| event["event"] == "published").unwrap();
    assert_eq!(published["who"], "lake");
    let detail = published["detail"].as_str().unwrap();
    let file = detail.strip_prefix("in ").unwrap();
    assert!(lake.join(file).is_file(), "{detail}");
    let passed = events(&traced).into_iter().find(|event| event[0] == "passed").unwrap();
    assert_eq!(passed, ["passed", "lake", "orders queue 0"]);
}

//! Rows and messages that end as dead letters: their cause, the way back, and when there are too many of them.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test over processes takes the machine's clock")]

mod served;

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_client::{
    Consumer, ConsumerSettings, Member, MemberSettings, Message, Producer, ProducerSettings, Start,
    Subscription, TopicName,
};
use sluice_protocol::code::RequestCode;
use sluice_protocol::request;
use tempfile::TempDir;

use served::{Served, json, refused, sluice, sluice_with};

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn text(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.text(name), text).unwrap();
        self.text(name)
    }

    /// A file of rows of which each with `is_bad` has a body that the pipelines below do not take.
    fn rows(&self, count: u32, is_bad: impl Fn(u32) -> bool) {
        let row = |i| {
            format!(
                "{{\"id\": {}, \"origin\": \"EWR\"}}\n",
                if is_bad(i) { "\"x\"".to_owned() } else { i.to_string() }
            )
        };
        self.write("rows.ndjson", &(0..count).map(row).collect::<String>());
    }

    /// The rows into a topic, and on into files; what does not fit becomes a dead letter.
    fn pipelines(&self, more: &str) -> String {
        let (rows, lake) = (self.text("rows.ndjson"), self.text("lake"));
        format!(
            "
name: load
source: {{file: {{path: {rows}, format: ndjson, properties: [origin], keys: [id], tag: origin}}}}
sink: {{topic: {{name: t}}}}
---
name: lake
source: {{topic: {{name: t, until: caught_up}}}}
decode: {{format: json, schema: {{mode: declared, fields: {{id: int64, origin: utf8}}}}}}
sink: {{parquet: {{path: {lake}}}}}
errors: {{then: dead_letter, dead_letter: lake-dlq{more}}}
"
        )
    }

    fn run(&self, config: &str) -> (Option<i32>, Value) {
        let file = self.write("pipelines.yaml", config);
        let out = sluice_with("", &["run", &file, "--json", "--data-dir", &self.text("data")]);
        let summary = serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{out:?}"));
        (out.status.code(), summary)
    }

    /// The dead letters of a topic of the store.
    fn letters(&self, more: &[&str]) -> Vec<Value> {
        let data = self.text("data");
        let arguments = ["dlq", "list", "lake-dlq", "--data-dir", &data, "--json"];
        lines(&sluice(&[&arguments[..], more].concat()))
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_dead_letter_tells_its_cause_and_goes_back_as_it_was() {
    let place = Place::new();
    place.rows(100, |i| i == 7 || i == 30);
    let (code, summary) = place.run(&place.pipelines(""));
    assert_eq!((code, &summary["pipelines"][1]["fates"]["dead"]), (Some(0), &json!(2)), "{summary}");
    let letters = place.letters(&[]);
    assert_eq!(letters.len(), 2);
    let letter = &letters[0];
    assert_eq!((&letter["place"], &letter["pipeline"]), (&json!("t/0:7"), &json!("lake")), "{letter}");
    assert!(letter["reason"].as_str().unwrap().contains("$.id"), "{letter}");
    assert_eq!(letter["body"], json!({"id": "x", "origin": "EWR"}), "{letter}");
    assert_eq!(letter["properties"], json!({"origin": "EWR", "KEYS": "x", "TAGS": "EWR"}), "{letter}");
    assert_eq!(place.letters(&["--where", "dead_offset = 30 AND origin = 'EWR'"]), letters[1..]);
    assert_eq!(place.letters(&["--where", "origin = 'JFK'"]).len(), 0);
    assert_eq!(place.letters(&["--from", "1"]), letters[1..]);
    assert_eq!(place.letters(&["--limit", "1"]), letters[..1]);

    let data = place.text("data");
    let replay = |more: &[&str]| {
        let arguments = ["dlq", "replay", "lake-dlq", "--data-dir", &data];
        sluice(&[&arguments[..], more].concat())
    };
    assert_eq!(replay(&["--dry-run"]).lines().last(), Some("2 dead letters would be sent to t"));
    assert_eq!(replay(&["--where", "dead_offset = 30"]), "1 dead letter sent to t\n");
    let sent = lines(&sluice(&["topic", "tail", "t", "--data-dir", &data, "--from", "100"]));
    assert_eq!(sent.len(), 1);
    assert_eq!(
        (&sent[0]["body"], &sent[0]["keys"], &sent[0]["tags"]),
        (&letter["body"], &json!("x"), &json!("EWR"))
    );
    assert_eq!(sent[0]["properties"], json!({"origin": "EWR"}));
    let said = refused(&["dlq", "replay", "lake-dlq", "--data-dir", &data, "--to", "nowhere"]);
    assert!(said.contains("no such topic: nowhere"), "{said}");
    let said = refused(&["dlq", "list", "lake-dlx", "--data-dir", &data]);
    assert!(said.contains("no such topic: lake-dlx; there are: lake-dlq, t"), "{said}");
}

#[test]
fn a_pipeline_whose_rows_do_not_fit_is_blocked() {
    let place = Place::new();
    place.rows(1000, |i| i >= 500 && i % 5 == 0);
    let (code, summary) = place.run(&place.pipelines(", stop_after: {ratio: 0.05, of: 100}"));
    let lake = &summary["pipelines"][1];
    assert_eq!((code, &lake["state"]), (Some(1), &json!("blocked")), "{summary}");
    let error = lake["error"].as_str().unwrap();
    assert!(error.contains("rows do not fit, more than `errors.stop_after` allows (0.05 of 100)"), "{error}");
    assert!(error.contains("the last one: ") && error.contains("$.id"), "{error}");
    // With more patience it goes on from where it was.
    let (code, summary) = place.run(&place.pipelines(", stop_after: {ratio: 0.3, of: 100}"));
    assert_eq!((code, &summary["pipelines"][1]["state"]), (Some(0), &json!("done")), "{summary}");
    let found: Value = serde_json::from_str(&sluice(&["audit", &place.text("lake"), "--json"])).unwrap();
    let fates = &found["chains"][0]["fates"];
    assert_eq!((&fates["written"], &fates["dead"]), (&json!(900), &json!(100)), "{found}");
    assert_eq!(place.letters(&[]).len(), 100);

    let lint = |more: &str| {
        let file = place.write("lint.yaml", &place.pipelines(more));
        let out = sluice_with("", &["lint", &file]);
        assert_eq!(out.status.code(), Some(1));
        String::from_utf8(out.stdout).unwrap()
    };
    assert!(
        lint(", stop_after: {ratio: 10}").contains(":10:72: errors.stop_after.ratio: 10 is no share of rows")
    );
    assert!(lint(", stop_after: {ratio: 0.1, of: 0}").contains("errors.stop_after.of: 0 rows"));
    assert!(lint(", stop_after: {share: 0.1}").contains("unknown key `share`"));
    let stops = place
        .pipelines(", stop_after: {ratio: 0.1}")
        .replace("then: dead_letter, dead_letter: lake-dlq", "then: stop");
    let file = place.write("lint.yaml", &stops);
    let told = String::from_utf8(sluice_with("", &["lint", &file]).stdout).unwrap();
    assert!(told.contains("`stop_after` goes with `then: skip` or `then: dead_letter`"), "{told}");
}

#[test]
fn a_row_that_the_broker_refuses_is_found_and_the_others_are_sent_once() {
    let place = Place::new();
    let broker = Served::broker(&place.0.path().join("broker"), &[]);
    let names = broker.names();
    // Brokers take no time that is no number.
    let row = |i: u32| format!("{i},{}\n", if i == 61 || i == 62 { "soon" } else { "" });
    place.write("rows.csv", &format!("id,TIMER_DELAY_SEC\n{}", (0..200).map(row).collect::<String>()));
    let config = |errors: &str| {
        format!(
            "
name: send
delivery: at_least_once
source: {{file: {{path: {}, format: csv, keys: [id], properties: [TIMER_DELAY_SEC]}}}}
sink: {{topic: {{name: out, cluster: '{names}', queues: 2}}}}
errors: {{{errors}}}
",
            place.text("rows.csv")
        )
    };
    let (code, summary) = place.run(&config("then: stop"));
    let error = summary["pipelines"][0]["error"].as_str().unwrap();
    assert_eq!(code, Some(1), "{summary}");
    assert!(error.contains("is \"soon\" and no number") && error.contains("queue offset 61"), "{error}");

    sluice(&["topic", "create", "again", "--queues", "1", "--namesrv", &names]);
    let again = config("then: dead_letter, dead_letter: lake-dlq").replace("name: out", "name: again");
    let (code, summary) = place.run(&again);
    let fates = &summary["pipelines"][0]["fates"];
    assert_eq!((code, &fates["written"], &fates["dead"]), (Some(0), &json!(198), &json!(2)), "{summary}");
    let stats = json(&["topic", "describe", "again", "--namesrv", &names]);
    assert_eq!(stats["queues"][0]["next"], 198, "{stats}");
    let letters = place.letters(&[]);
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[0]["properties"], json!({"TIMER_DELAY_SEC": "soon", "KEYS": "61"}));
    assert!(letters[0]["reason"].as_str().unwrap().contains("no number of 64 bits"), "{}", letters[0]);
    let said = refused(&["dlq", "replay", "lake-dlq", "--data-dir", &place.text("data")]);
    assert!(said.contains("give --to TOPIC"), "{said}");
}

#[test]
fn dead_letters_of_a_consumer_group_go_back_to_their_topic() {
    let place = Place::new();
    let broker = Served::broker(&place.0.path().join("broker"), &[]);
    let names = broker.names();
    sluice(&["topic", "create", "orders", "--queues", "1", "--namesrv", &names]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, topic) = (broker.client(), TopicName::new("orders").unwrap());
        let producer = Producer::new(&client, ProducerSettings::default()).unwrap();
        for number in 0..3 {
            let region = ["EU", "US"][number % 2];
            let message = Message::new(&topic, format!("order {number}")).key(&format!("k{number}")).unwrap();
            producer.send(&message.tag("paid").unwrap().property("region", region).unwrap()).await.unwrap();
        }
        let settings =
            MemberSettings { group: "billing".into(), start: Start::First, lease: Duration::from_mins(1) };
        let member = Member::join(&client, settings, Subscription::all(&topic)).await.unwrap();
        assert_eq!(**member.members().borrow(), [client.id().to_owned()]);
        let route = client.route(&topic).await.unwrap();
        let queues = route.read_queues.iter().map(|queue| (queue.clone(), Start::First));
        let reads = ConsumerSettings { commit_interval: None, ..ConsumerSettings::new("billing") };
        let mut consumer = Consumer::assign(&client, reads, queues, Default::default()).await.unwrap();
        let mut given_up = 0;
        while given_up < 3 {
            for record in consumer.next_batch().await.unwrap().records {
                let header = request::ConsumerSendMsgBack {
                    offset: i64::try_from(record.log_offset.get()).unwrap(),
                    group: "billing",
                    delay_level: -1,
                    origin_msg_id: None,
                    origin_topic: Some("orders"),
                    unit_mode: None,
                    max_reconsume_times: None,
                };
                let (address, code) =
                    (record.store_host.to_string().into(), RequestCode::CONSUMER_SEND_MSG_BACK);
                client.ask(&address, code, header.fields(), &[], "billing").await.unwrap();
                given_up += 1;
            }
        }
        member.leave().await;
    });
    let dlq = |command: &str, more: &[&str]| {
        sluice(&[&["dlq", command, "--group", "billing", "--namesrv", &names][..], more].concat())
    };
    let told = dlq("list", &[]);
    assert!(told.contains("orders") && told.contains("consumption failed 1 times"), "{told}");
    assert!(told.ends_with("3 dead letters\n"), "{told}");
    let letters = lines(&dlq("list", &["--json", "--where", "region = 'EU'"]));
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[0]["properties"]["UNIQ_KEY"].as_str().map(str::len), Some(32));
    let own = json!({"KEYS": "k0", "TAGS": "paid", "UNIQ_KEY": letters[0]["properties"]["UNIQ_KEY"], "region": "EU"});
    assert_eq!(letters[0]["properties"], own, "nothing that a broker or a retry added");
    let summary: Value =
        serde_json::from_str(&dlq("replay", &["--where", "region = 'EU'", "--json"])).unwrap();
    assert_eq!(summary, json!({"sent": {"orders": 2}, "cut": 0, "dry_run": false}));
    let sent = lines(&sluice(&["topic", "tail", "orders", "--namesrv", &names, "--from", "3"]));
    let bodies: Vec<&Value> = sent.iter().map(|message| &message["body"]).collect();
    assert_eq!(bodies, ["order 0", "order 2"]);
    let first = &sent[0];
    assert_eq!(
        (&first["keys"], &first["tags"], &first["properties"]["region"]),
        (&json!("k0"), &json!("paid"), &json!("EU"))
    );
    let left: Vec<&String> = first["properties"].as_object().unwrap().keys().collect();
    // What the broker adds to each message is among them.
    assert_eq!(left, ["CLUSTER", "KEYS", "MSG_REGION", "TAGS", "TRACE_ON", "UNIQ_KEY", "region"], "{first}");
}

//! What `sluice broker` is told by flags and by a file, and what it tells clients and Prometheus.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test over processes takes the machine's time")]

mod served;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_client::{Consumer, ConsumerSettings, Filter, Subscription, TopicName};

use served::{Served, client, get, refused, sluice, sluice_with, until};

/// Runs the command line in a folder, with one variable set.
fn sluice_in(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command
        .args(arguments)
        .current_dir(dir)
        .env("SLUICE_TEST_PORT", "no port")
        .env("SLUICE_ADMIN_SECRET", "s3cret")
        .env("SLUICE_APP_SECRET", "s3cret")
        .output()
        .unwrap()
}

/// What it says of a file that is not right.
fn problems(config: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("broker.yaml"), config).unwrap();
    for arguments in
        [&["broker", "--config", "broker.yaml"][..], &["broker", "--config", "broker.yaml", "--check"]]
    {
        let out = sluice_in(dir.path(), arguments);
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "something was made");
        if arguments.len() == 4 {
            let text = String::from_utf8(out.stderr).unwrap();
            return text.lines().skip(1).map(str::to_owned).collect();
        }
    }
    unreachable!("both commands ran")
}

#[test]
fn every_mistake_in_a_file_is_told_with_its_place() {
    let config = "\
data_dir: [a]
lisen: 127.0.0.1:10911
namesrv_listen: localhost
namesrv: ns1:9876;ns2
flush: synch
name: ${SLUICE_TEST_NAME}
cluster: ${SLUICE_TEST_CLUSTER:DefaultCluster}
metrics: 127.0.0.1:${SLUICE_TEST_PORT}
auto_create: yes
retain_hours: -1
flush: sync
";
    assert_eq!(
        problems(config),
        [
            "broker.yaml:1:11: data_dir: expected a path, got a list",
            "broker.yaml:2:1: unknown key `lisen`; did you mean `listen`?",
            "broker.yaml:3:17: namesrv_listen: `localhost` is not HOST:PORT",
            "broker.yaml:4:10: namesrv: `ns2` is not HOST:PORT",
            "broker.yaml:5:8: flush: unknown name `synch`, expected one of: async, sync; did you mean `sync`?",
            "broker.yaml:6:7: variable `SLUICE_TEST_NAME` is not set; set it, or write ${SLUICE_TEST_NAME:default}",
            "broker.yaml:8:10: metrics: expected another value, got the value of a variable",
            "broker.yaml:9:14: auto_create: expected true or false, got the text \"yes\"",
            "broker.yaml:10:15: retain_hours: expected a whole number from 0, got the number -1",
            "broker.yaml:11:1: key `flush` stands here a second time",
        ]
    );
    let both = problems("namesrv: ns1:9876\nnamesrv_listen: 127.0.0.1:9876\n");
    assert_eq!(
        both,
        [
            "broker.yaml:2:17: namesrv_listen: stands beside `namesrv`: name servers elsewhere are joined, or one is \
          started here"
        ]
    );
    let guarded = problems(
        "\
acl:
  file: plain_acl.yml
  accounts: []
tls:
  key: key.pem
namesrv_access: {access_key: a, ca: ca.pem}
",
    );
    assert_eq!(
        guarded,
        [
            "broker.yaml:2:9: acl.file: stands beside accounts: they are here, or in that file",
            "broker.yaml:4:1: tls: `certificate` is missing",
            "broker.yaml:6:1: namesrv_access: `access_key` and `secret_key` stand together",
            "broker.yaml:6:1: namesrv_access: says how to get into the name servers of `namesrv`, which is not said",
        ]
    );
    let checks = problems("transaction_check:\n  after: soon\n  every: 10ms\n  time: 3\n");
    assert_eq!(
        checks,
        [
            "broker.yaml:2:10: transaction_check.after: \"soon\" is no length of time such as 5m or 200ms: expected number at 0",
            "broker.yaml:3:10: transaction_check.every: 10ms is too often: 100ms is the least",
            "broker.yaml:4:3: transaction_check: unknown key `time`; did you mean `times`?",
        ]
    );
    let accounts = problems(
        "\
acl:
  accounts:
    - {accessKey: a, secretKey: 0123, admin: true}
    - {accessKey: b, secretKey: x, topicPerms: [orders], groupPerms: [g=ALL], defaultTopicPerm: PUBSUB}
    - {accessKey: b, secretKey: '', whiteRemoteAddress: '10.0.0.0/8, host'}
    - {accesKey: c}
",
    );
    assert_eq!(
        accounts,
        [
            "broker.yaml:3:33: acl.accounts.[0].secretKey: is a number to YAML: write it in quotes",
            "broker.yaml:4:49: acl.accounts.[1].topicPerms.[0]: `orders` is not NAME=PERMISSION, as orders=PUB|SUB",
            "broker.yaml:4:71: acl.accounts.[1].groupPerms.[0]: `ALL` is no permission, expected one of: DENY, PUB, SUB, PUB|SUB",
            "broker.yaml:4:97: acl.accounts.[1].defaultTopicPerm: `PUBSUB` is no permission, expected one of: DENY, PUB, SUB, PUB|SUB",
            "broker.yaml:5:33: acl.accounts.[2].secretKey: is empty",
            "broker.yaml:5:57: acl.accounts.[2].whiteRemoteAddress: `host` is no address: write 10.0.0.7, a network as 10.0.0.0/8, or 10.0.0.* for 10.0.0.0/24",
            "broker.yaml:6:7: acl.accounts.[3]: key `accessKey` is missing",
            "broker.yaml:6:8: acl.accounts.[3]: unknown key `accesKey`; did you mean `accessKey`?",
        ]
    );
    let twice = problems("acl: {accounts: [{accessKey: a, secretKey: b}, {accessKey: a, secretKey: c}]}\n");
    assert_eq!(
        twice,
        ["broker.yaml:1:60: acl.accounts.[1].accessKey: another account has the name `a`, too"]
    );
    assert_eq!(
        problems("listen: 0.0.0.0:10911\n")[0].split(": name accounts").next().unwrap(),
        "broker.yaml:1:9: listen: at 0.0.0.0:10911 every machine that reaches it could read, write and delete everything"
    );
    assert_eq!(
        problems("name: a\n---\nname: b\n"),
        ["broker.yaml:3:1: a second document: these settings stand in one"]
    );
    assert!(
        refused(&["broker", "--config", "/nowhere.yaml"]).contains("/nowhere.yaml:1:1: cannot read the file")
    );
}

#[test]
fn a_file_that_is_right_is_checked_without_opening_anything() {
    let dir = tempfile::tempdir().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples/deploy/broker.yaml");
    fs::write(dir.path().join("empty.yaml"), "# nothing is said\n").unwrap();
    for file in [example.to_str().unwrap(), "empty.yaml"] {
        let out = sluice_in(dir.path(), &["broker", "--config", file, "--check"]);
        assert_eq!(String::from_utf8(out.stdout).unwrap(), format!("ok: {file}\n"));
        assert!(out.status.success());
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something was made");
    assert_eq!(sluice_with("", &["broker", "--check"]).status.code(), Some(2));
}

#[test]
fn a_flag_wins_over_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broker.yaml");
    let store = dir.path().join("store");
    let config = format!(
        "data_dir: {}\nlisten: 127.0.0.1:0\nnamesrv: 127.0.0.1:1\nname: of-file\nflush: sync\nauto_create: false\n",
        store.display()
    );
    fs::write(&file, config).unwrap();
    let file = file.to_str().unwrap();
    let broker =
        Served::start(&["broker", "--config", file, "--namesrv-listen", "127.0.0.1:0", "--name", "of-flag"]);
    assert_eq!((&broker.ready["flush"], &broker.ready["data_dir"]), (&json!("sync"), &json!(store)));
    assert_eq!(broker.ready["name_servers"], json!([]), "a name server of its own is not one elsewhere");
    let names = broker.names();
    let refused = refused(&["topic", "send", "orders", "--whole", "--file", file, "--namesrv", &names]);
    assert!(refused.contains("orders"), "{refused}");
    sluice(&["topic", "create", "orders", "--namesrv", &names]);
    let shown = served::json(&["topic", "describe", "orders", "--namesrv", &names]);
    assert_eq!(shown["queues"][0]["broker"], "of-flag");
}

#[test]
fn clients_are_told_the_address_by_which_they_came_or_the_one_that_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let anywhere = ["--listen", "0.0.0.0:0", "--namesrv-listen", "0.0.0.0:0", "--allow-anonymous"];
    let start = |name: &str, more: &[&str]| {
        let store = dir.path().join(name);
        Served::start(&[&["broker", "--data-dir", store.to_str().unwrap()], more].concat())
    };
    let port = |addr: String| addr.rsplit_once(':').unwrap().1.to_owned();
    let told = |names: &str| {
        let shown = served::json(&["topic", "describe", "orders", "--namesrv", names]);
        shown["brokers"][0].as_str().unwrap().to_owned()
    };
    let broker = start("every", &anywhere);
    let (names, own) = (port(broker.names()), port(broker.text("broker")));
    sluice(&["topic", "create", "orders", "--namesrv", &format!("127.0.0.1:{names}")]);
    for host in ["127.0.0.1", "127.0.0.2"] {
        assert_eq!(told(&format!("{host}:{names}")), format!("{host}:{own}"));
    }

    // Elsewhere the name server's own connection shows the address.
    let names = Served::start(&["namesrv", "--listen", "127.0.0.1:0"]);
    let joins = start("joins", &["--listen", "0.0.0.0:0", "--namesrv", &names.names(), "--allow-anonymous"]);
    until("it has joined", || {
        sluice_with("", &["topic", "create", "orders", "--namesrv", &names.names()]).status.success()
    });
    until("the topic is known", || {
        sluice_with("", &["topic", "describe", "orders", "--namesrv", &names.names()]).status.success()
    });
    assert_eq!(told(&names.names()), format!("127.0.0.1:{}", port(joins.text("broker"))));

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listen = format!("0.0.0.0:{}", free.port());
    let advertised = format!("localhost:{}", free.port());
    let here = ["--namesrv-listen", "127.0.0.1:0", "--allow-anonymous"];
    let given = start("given", &[&["--listen", &listen, "--advertise", &advertised][..], &here].concat());
    sluice(&["topic", "create", "orders", "--namesrv", &given.names()]);
    assert_eq!(told(&given.names()), advertised);
    sluice_with("hello\n", &["topic", "send", "orders", "--namesrv", &given.names()]);
    let row: Value =
        serde_json::from_str(&sluice(&["topic", "tail", "orders", "--namesrv", &given.names()])).unwrap();
    // The id of a message holds the address that clients ask for it.
    let id = row["offset_id"].as_str().unwrap();
    assert_eq!(id[..16], format!("7F000001{:08X}", free.port()));
    assert_eq!(served::json(&["message", "show", id, "--namesrv", &given.names()])["body"], "hello");
}

/// The value of a series.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn what_goes_through_is_counted_for_prometheus() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Served::broker(dir.path(), &["--metrics", "127.0.0.1:0"]);
    let (names, metrics) = (broker.names(), broker.text("metrics"));
    let scrape = || {
        let (head, text) = get(&metrics, "/metrics");
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert!(head.contains("text/plain"), "{head}");
        text
    };
    assert!(get(&metrics, "/other").0.starts_with("HTTP/1.1 404"));
    let series = |name: &str| value(&scrape(), name);
    assert_eq!(series("sluice_broker_messages_in_total"), 0.0);
    sluice(&["topic", "create", "orders", "--queues", "1", "--namesrv", &names]);
    let lines: String = (0..100).map(|i| format!("message {i}\n")).collect();
    sluice_with(&lines, &["topic", "send", "orders", "--namesrv", &names]);
    assert_eq!(series("sluice_broker_messages_in_total"), 100.0);
    let bytes = series("sluice_broker_bytes_in_total");
    sluice(&["topic", "tail", "orders", "--namesrv", &names]);
    assert_eq!(series("sluice_broker_messages_out_total"), 100.0);
    assert_eq!(series("sluice_broker_bytes_out_total"), bytes);
    let requests = |request: &str, outcome: &str| {
        format!("sluice_broker_requests_total{{request=\"{request}\",outcome=\"{outcome}\"}}")
    };
    assert_eq!(series(&requests("UPDATE_AND_CREATE_TOPIC", "SUCCESS")), 1.0);
    refused(&["topic", "describe", "none", "--namesrv", &names]);
    assert_eq!(series(&requests("GET_ROUTEINFO_BY_TOPIC", "TOPIC_NOT_EXIST")), 1.0);

    let conflicts = || series("sluice_broker_subscription_conflicts_total");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let member = async |topics: &[&str], tags: &str| {
        let settings =
            ConsumerSettings { hold: Duration::from_millis(200), ..ConsumerSettings::new("billing") };
        let wants = topics
            .iter()
            .map(|topic| Subscription { topic: TopicName::new(topic).unwrap(), filter: Filter::tags(tags) });
        Consumer::subscribe(&client(&names), settings, wants).await.unwrap()
    };
    sluice(&["topic", "create", "other", "--namesrv", &names]);
    runtime.block_on(async {
        let one = member(&["orders"], "a").await;
        let same = member(&["orders"], "a").await;
        assert_eq!(conflicts(), 0.0);
        until("pulls are held", || series("sluice_broker_pulls_held") > 0.0);
        assert!(series("sluice_broker_connections{to=\"broker\"}") >= 2.0);
        let more_topics = member(&["orders", "other"], "a").await;
        let before = conflicts();
        assert!(before > 0.0);
        more_topics.close().await.unwrap();
        let other_tags = member(&["orders"], "b").await;
        assert!(conflicts() > before);
        drop((one, same, other_tags));
    });
    drop(runtime);
    until("all are gone", || series("sluice_broker_pulls_held") == 0.0);
    until("all are gone", || series("sluice_broker_connections{to=\"broker\"}") == 0.0);
}

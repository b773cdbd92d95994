//! Access control: who is let in, what each may do, how accounts change while the broker runs, and what the audit log
//! keeps of it.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;

use sluice_broker::{Account, Accounts, Credentials, Permission, Secret, Security};
use sluice_protocol::code::{RequestCode as C, ResponseCode as R};
use sluice_protocol::fields::Fields;
use sluice_protocol::header::{Header, HeaderKind};
use sluice_protocol::heartbeat::{ConsumerData, Heartbeat, SubscriptionData};
use sluice_protocol::id::{QueueId, QueueOffset, TopicName};
use sluice_protocol::message;
use sluice_protocol::record::records;
use sluice_protocol::request;
use sluice_store::Store;

use support::{Client, Response, TestBroker, encoded, pull_header, send_header};

const AUDIT: &str = "SLUICE_AUDIT";

/// An account whose secret is its name and `-secret`.
fn account(name: &str, admin: bool, topics: &[(&str, &str)], groups: &[(&str, &str)]) -> Account {
    let table = |pairs: &[(&str, &str)]| -> HashMap<String, Permission> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), text.parse().unwrap())).collect()
    };
    Account {
        access_key: name.to_owned(),
        secret: Secret::new(&format!("{name}-secret")),
        admin,
        trusted: Vec::new(),
        default_topic: Permission::default(),
        default_group: Permission::default(),
        topics: table(topics),
        groups: table(groups),
    }
}

/// `boss` may do everything, `app` sends to `orders` and reads `events` as a member of `readers`.
fn accounts() -> Accounts {
    let app = account("app", false, &[("orders", "PUB"), ("events", "SUB")], &[("readers", "SUB")]);
    Accounts::new([account("boss", true, &[], &[]), app], Vec::new())
}

fn start(dir: &std::path::Path, accounts: Accounts) -> (TestBroker, Arc<Security>) {
    let security = Arc::new(Security::new(Some(accounts), None).unwrap());
    let of_broker = Arc::clone(&security);
    (TestBroker::with(dir, false, |settings| settings.security = of_broker), security)
}

/// A connection whose requests an account signs.
struct Signing {
    client: Client,
    by: Credentials,
}

impl Signing {
    fn new(addr: std::net::SocketAddr, name: &str) -> Self {
        Self { client: Client::connect(addr), by: Credentials::new(name, &format!("{name}-secret")) }
    }

    fn call(&mut self, code: C, fields: Fields<'_>, body: &[u8]) -> Response {
        let header = Header::request(code, 0, fields);
        let signed = self.by.sign(&header, body);
        self.client.call(code, signed.fields, body)
    }

    fn send(&mut self, topic: &str, body: &str) -> Response {
        let properties = encoded(&[]);
        self.call(C::SEND_MESSAGE_V2, send_header(topic, 0, &properties).fields(), body.as_bytes())
    }

    fn pull(&mut self, topic: &str, group: &str) -> Response {
        let header = pull_header(topic, 0, 0, ("TAG", "*"), 0);
        let header = request::PullMessage { consumer_group: group, ..header };
        self.call(C::PULL_MESSAGE, header.fields(), &[])
    }

    fn create(&mut self, topic: &str) -> Response {
        let header = request::CreateTopic {
            topic,
            default_topic: "TBW102",
            read_queue_nums: 1,
            write_queue_nums: 1,
            perm: 6,
            topic_filter_type: "SINGLE_TAG",
            topic_sys_flag: None,
            order: false,
            attributes: None,
            force: None,
        };
        self.call(C::UPDATE_AND_CREATE_TOPIC, header.fields(), &[])
    }

    fn heartbeat(&mut self, group: &str, topic: &str) -> Response {
        let subscription =
            SubscriptionData { topic: topic.into(), sub_string: "*".into(), ..Default::default() };
        let consumer = ConsumerData {
            group_name: group.into(),
            subscription_data_set: vec![subscription],
            ..Default::default()
        };
        let heartbeat =
            Heartbeat { client_id: "c".into(), consumer_data_set: vec![consumer], ..Default::default() };
        self.call(C::HEART_BEAT, Fields::new(), &heartbeat.encode())
    }
}

#[track_caller]
fn denied(response: &Response, words: &[&str]) {
    assert_eq!(response.code, R::NO_PERMISSION, "{response:?}");
    for word in words {
        assert!(response.remark.contains(word), "{word:?} is not in {:?}", response.remark);
    }
}

/// The entries of the audit log: action, user, outcome, and the whole body.
fn audit(store: &Store) -> Vec<(String, Option<String>, String, String)> {
    let topic = TopicName::new(AUDIT).unwrap();
    let Some((first, end)) = store.offsets(&topic, QueueId::ZERO) else { return Vec::new() };
    assert_eq!(first, QueueOffset::new(0));
    let mut entries = Vec::new();
    let mut next = first;
    while next < end {
        let read = store.read(&topic, QueueId::ZERO, next, 1 << 20).unwrap();
        for record in read.runs.iter().flat_map(|run| records(&run.bytes)).map(Result::unwrap) {
            let property = |name| message::property(record.properties, name).map(str::to_owned);
            assert_eq!(property("TAGS"), property("action"));
            entries.push((
                property("action").unwrap(),
                property("user"),
                property("outcome").unwrap(),
                String::from_utf8(record.body.to_vec()).unwrap(),
            ));
        }
        next = read.next;
    }
    entries
}

#[test]
fn only_requests_that_an_account_signed_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, _) = start(dir.path(), accounts());
    for kind in [HeaderKind::Json, HeaderKind::Binary] {
        let mut nobody = broker.client();
        nobody.kind = kind;
        denied(&nobody.send("orders", 0, "m", &[]), &["signed requests only", "access key"]);
        let mut names = Client::connect(broker.names);
        names.kind = kind;
        let route = request::GetRouteInfo { topic: "orders", accept_standard_json_only: None };
        denied(&names.call(C::GET_BROKER_CLUSTER_INFO, Fields::new(), &[]), &["signed requests only"]);

        let mut boss = Signing::new(broker.addr, "boss");
        boss.client.kind = kind;
        assert_eq!(boss.create("orders").code, R::SUCCESS);
        assert_eq!(boss.send("orders", "of the boss").code, R::SUCCESS);
        let mut at_names = Signing::new(broker.names, "boss");
        assert_eq!(at_names.call(C::GET_BROKER_CLUSTER_INFO, Fields::new(), &[]).code, R::SUCCESS);
        // Where a topic is everybody may know, as from RocketMQ's name servers.
        assert_eq!(names.call(C::GET_ROUTEINFO_BY_TOPIC, route.fields(), &[]).code, R::SUCCESS);

        for (name, secret) in [("boss", "app-secret"), ("nobody", "nobody-secret"), ("boss", "")] {
            let mut wrong = Signing::new(broker.addr, "boss");
            wrong.by = Credentials::new(name, secret);
            denied(&wrong.send("orders", "m"), &[name, "secret key"]);
        }
        // Signed, and then changed on the way.
        let properties = encoded(&[]);
        let send = send_header("orders", 0, &properties);
        let header = Header::request(C::SEND_MESSAGE_V2, 0, send.fields());
        let by = Credentials::new("boss", "boss-secret");
        let signed = by.sign(&header, b"10 coins");
        let mut client = broker.client();
        denied(&client.call(C::SEND_MESSAGE_V2, signed.fields.clone(), b"99 coins"), &["boss"]);
        let mut other = Fields::new();
        signed.fields.iter().for_each(|(n, v)| other.push(n, if n == "b" { "ordera" } else { v }));
        denied(&client.call(C::SEND_MESSAGE_V2, other, b"10 coins"), &["boss"]);
        assert_eq!(client.call(C::SEND_MESSAGE_V2, signed.fields.clone(), b"10 coins").code, R::SUCCESS);
    }
    let orders = TopicName::new("orders").unwrap();
    assert_eq!(broker.store.offsets(&orders, QueueId::ZERO).unwrap().1.get(), 4, "nothing else was stored");
}

#[test]
fn an_account_does_what_it_is_permitted_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, _) = start(dir.path(), accounts());
    let (mut boss, mut app) = (Signing::new(broker.addr, "boss"), Signing::new(broker.addr, "app"));
    for topic in ["orders", "events", "secrets"] {
        assert_eq!(boss.create(topic).code, R::SUCCESS);
        assert_eq!(boss.send(topic, topic).code, R::SUCCESS);
    }
    assert_eq!(app.send("orders", "m").code, R::SUCCESS);
    denied(&app.send("events", "m"), &["app", "PUB of topic events"]);
    denied(&app.send("made-by-a-send", "m"), &["PUB of topic made-by-a-send"]);
    denied(&app.send("%RETRY%others", "m"), &["SUB of group others"]);
    denied(&app.send("RMQ_SYS_TRANS_HALF_TOPIC", "m"), &["PUB"]);

    assert_eq!(app.pull("events", "readers").messages(), [(0, "events".to_owned())]);
    denied(&app.pull("orders", "readers"), &["SUB of topic orders"]);
    denied(&app.pull("events", "others"), &["SUB of group others"]);
    denied(&app.pull("%RETRY%others", "readers"), &["SUB of group others"]);
    denied(&app.pull(AUDIT, "readers"), &["SUB of topic SLUICE_AUDIT"]);
    assert_eq!(boss.pull(AUDIT, "readers").code, R::SUCCESS);

    assert_eq!(app.heartbeat("readers", "events").code, R::SUCCESS);
    denied(&app.heartbeat("readers", "orders"), &["topic orders"]);
    denied(&app.heartbeat("others", "events"), &["group others"]);

    // A message that is named by its place alone.
    let secret = boss.pull("secrets", "readers");
    let of_secret = records(&secret.body).next().unwrap().unwrap().log_offset;
    let of_event = records(&boss.pull("events", "readers").body).next().unwrap().unwrap().log_offset;
    let view = |client: &mut Signing, offset: u64| {
        let offset = i64::try_from(offset).unwrap();
        client.call(
            C::VIEW_MESSAGE_BY_ID,
            request::ViewMessage { topic: Some("events"), offset }.fields(),
            &[],
        )
    };
    assert_eq!(view(&mut app, of_event).code, R::SUCCESS);
    denied(&view(&mut app, of_secret), &["SUB of topic secrets"]);
    let back = |offset: u64| request::ConsumerSendMsgBack {
        offset: i64::try_from(offset).unwrap(),
        group: "readers",
        delay_level: 0,
        origin_msg_id: None,
        origin_topic: Some("events"),
        unit_mode: None,
        max_reconsume_times: None,
    };
    denied(&app.call(C::CONSUMER_SEND_MSG_BACK, back(of_secret).fields(), &[]), &["SUB of topic secrets"]);
    assert_eq!(app.call(C::CONSUMER_SEND_MSG_BACK, back(of_event).fields(), &[]).code, R::SUCCESS);

    denied(&app.create("mine"), &["UPDATE_AND_CREATE_TOPIC", "admin"]);
    let of = |topic: &'static str| {
        let mut fields = Fields::new();
        fields.push("topic", topic);
        fields
    };
    denied(&app.call(C::DELETE_TOPIC_IN_BROKER, of("orders"), &[]), &["admin"]);
    assert_eq!(app.call(C::GET_TOPIC_STATS_INFO, of("orders"), &[]).code, R::SUCCESS);
    denied(&app.call(C::GET_TOPIC_STATS_INFO, of("secrets"), &[]), &["topic secrets"]);
    let mut names = Signing::new(broker.names, "app");
    let put = request::PutKvConfig { namespace: "n", key: "k", value: "v" };
    denied(&names.call(C::PUT_KV_CONFIG, put.fields(), &[]), &["admin"]);
    denied(&names.call(C::REGISTER_BROKER, Fields::new(), &[]), &["admin"]);
}

#[test]
fn no_request_code_is_open_by_accident() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, _) = start(dir.path(), Accounts::new([account("none", false, &[], &[])], Vec::new()));
    // By a signature alone: what leads to topics that are checked one by one, and what names nothing.
    let open = [
        C::GET_ROUTEINFO_BY_TOPIC,
        C::GET_BROKER_CLUSTER_INFO,
        C::GET_ALL_TOPIC_LIST_FROM_NAMESERVER,
        C::GET_TOPICS_BY_CLUSTER,
        C::GET_KV_CONFIG,
        C::GET_KVLIST_BY_NAMESPACE,
        C::GET_SYSTEM_TOPIC_LIST_FROM_BROKER,
        // Looked at where the message is found.
        C::VIEW_MESSAGE_BY_ID,
        C::END_TRANSACTION,
    ];
    for addr in [broker.addr, broker.names] {
        let mut client = Signing::new(addr, "none");
        for code in C::ALL.iter().copied().filter(|code| !open.contains(code)) {
            let answer = client.call(code, Fields::new(), b"");
            let unreadable = answer.code == R::SYSTEM_ERROR
                && (answer.remark.contains("is missing")
                    || answer.remark.contains("the body is not readable"));
            // An empty heartbeat and an empty good-bye are of nobody.
            let nobody = matches!(code, C::HEART_BEAT | C::UNREGISTER_CLIENT);
            assert!(unreadable || nobody || answer.code == R::NO_PERMISSION, "{code}: {answer:?}");
        }
        let asked = client.call(C::from(4711), Fields::new(), b"");
        assert_eq!(asked.code, R::REQUEST_CODE_NOT_SUPPORTED);
    }
}

#[test]
fn accounts_change_while_clients_are_connected() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, security) = start(dir.path(), accounts());
    let (mut boss, mut app) = (Signing::new(broker.addr, "boss"), Signing::new(broker.addr, "app"));
    assert_eq!(boss.create("orders").code, R::SUCCESS);
    assert_eq!(app.send("orders", "m").code, R::SUCCESS);
    security.set_accounts(Accounts::new([account("app", false, &[("orders", "SUB")], &[])], Vec::new()));
    denied(&app.send("orders", "m"), &["PUB of topic orders"]);
    denied(&boss.send("orders", "m"), &["no account \"boss\""]);
    let mut trusting = account("app", false, &[], &[]);
    trusting.trusted.push("127.0.0.0/8".parse().unwrap());
    security.set_accounts(Accounts::new([trusting], Vec::new()));
    app.by = Credentials::new("app", "any");
    assert_eq!(app.send("orders", "from a trusted address").code, R::SUCCESS);
    denied(&broker.client().send("orders", 0, "m", &[]), &["signed"]);
    security.set_accounts(Accounts::new([], vec!["127.0.0.1".parse().unwrap()]));
    assert_eq!(broker.client().send("orders", 0, "m", &[]).code, R::SUCCESS);
}

#[test]
fn changes_and_denials_are_kept_in_a_topic_that_nobody_can_write() {
    let dir = tempfile::tempdir().unwrap();
    let (broker, security) = start(dir.path(), accounts());
    let mut boss = Signing::new(broker.addr, "boss");
    assert_eq!(boss.create("orders").code, R::SUCCESS);
    assert_eq!(boss.create("bad name").code, R::INVALID_PARAMETER);
    let mut names = Signing::new(broker.names, "boss");
    let put = request::PutKvConfig { namespace: "n", key: "k", value: "hunter2" };
    assert_eq!(names.call(C::PUT_KV_CONFIG, put.fields(), &[]).code, R::SUCCESS);
    let mut app = Signing::new(broker.addr, "app");
    for _ in 0..10 {
        denied(&app.create("mine"), &["admin"]);
    }
    security.set_accounts(accounts());
    security.keep_accounts("plain_acl.yml:3:1: unknown key");
    denied(&boss.send(AUDIT, "forged"), &["the broker's own"]);
    let deleted = boss.call(C::DELETE_TOPIC_IN_BROKER, request::TopicOnly { topic: AUDIT }.fields(), &[]);
    assert_eq!(deleted.code, R::INVALID_PARAMETER);

    let entries = audit(&broker.store);
    let seen: Vec<(&str, Option<&str>, &str)> =
        entries.iter().map(|(a, u, o, _)| (a.as_str(), u.as_deref(), o.as_str())).collect();
    assert_eq!(
        seen,
        [
            ("UPDATE_AND_CREATE_TOPIC", Some("boss"), "SUCCESS"),
            ("UPDATE_AND_CREATE_TOPIC", Some("boss"), "INVALID_PARAMETER"),
            ("PUT_KV_CONFIG", Some("boss"), "SUCCESS"),
            ("UPDATE_AND_CREATE_TOPIC", Some("app"), "NO_PERMISSION"),
            ("RELOAD_ACCOUNTS", None, "SUCCESS"),
            ("RELOAD_ACCOUNTS", None, "SYSTEM_ERROR"),
            ("DELETE_TOPIC_IN_BROKER", Some("boss"), "INVALID_PARAMETER"),
        ]
    );
    let all: String = entries.iter().map(|(.., body)| body.as_str()).collect();
    assert!(all.contains(r#""topic":"orders""#) && all.contains(r#""client":"127.0.0.1:"#), "{all}");
    assert!(all.contains(r#""key":"k""#) && all.contains("plain_acl.yml:3:1"), "{all}");
    for secret in ["hunter2", "Signature", "secret"] {
        assert!(!all.contains(secret), "{all}");
    }
}

#[test]
fn without_accounts_changes_are_kept_with_the_address_alone() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), true);
    let mut anyone = Signing::new(broker.addr, "anyone");
    assert_eq!(anyone.create("orders").code, R::SUCCESS);
    // It is durable a moment after it was appended.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while audit(&broker.store).is_empty() {
        assert!(std::time::Instant::now() < deadline, "no entry comes");
        std::thread::yield_now();
    }
    let entries = audit(&broker.store);
    assert_eq!(entries.len(), 1);
    assert!(entries[0].3.contains(r#""user":null"#), "{entries:?}");
}

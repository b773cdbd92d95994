//! What a client sees: send, pull, filters, long polls, groups, offsets, routes.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a failure is a failed test")]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sluice_broker::Server;

use sluice_protocol::batch::{self, BatchItem};
use sluice_protocol::body::ConsumerList;
use sluice_protocol::code::{RequestCode as C, ResponseCode as R};
use sluice_protocol::fields::Fields;
use sluice_protocol::header::HeaderKind;
use sluice_protocol::message;
use sluice_protocol::record::{self, Record};
use sluice_protocol::request;
use sluice_protocol::route::Route;
use sluice_protocol::topic::SubscriptionGroupConfig;

use support::{Client, TestBroker, encoded, pull_header, send_header};

#[test]
fn messages_come_back_with_what_the_broker_adds_in_both_header_kinds_and_flush_modes() {
    for (kind, sync) in [(HeaderKind::Json, false), (HeaderKind::Binary, false), (HeaderKind::Json, true)] {
        let dir = tempfile::tempdir().unwrap();
        let broker = TestBroker::start(dir.path(), sync);
        let mut client = broker.client();
        client.kind = kind;
        let sent = client.send("t", 1, "hello", &[("KEYS", "k"), ("TAGS", "A"), ("UNIQ_KEY", "U1")]);
        assert_eq!((sent.code, sent.remark.as_str()), (R::SUCCESS, ""));
        assert_eq!(
            (sent.field("queueId"), sent.field("queueOffset"), sent.field("transactionId")),
            ("1", "0", "U1")
        );
        assert_eq!(client.send("t", 1, "again", &[]).field("queueOffset"), "1");
        let pulled = client.pull("t", 1, 0, ("TAG", "*"), 0);
        assert_eq!(
            (pulled.code, pulled.remark.as_str(), pulled.field("nextBeginOffset")),
            (R::SUCCESS, "FOUND", "2")
        );
        assert_eq!(pulled.messages(), [(0, "hello".to_owned()), (1, "again".to_owned())]);
        let record = Record::decode(&pulled.body).unwrap();
        for (name, value) in [
            ("KEYS", "k"),
            ("MSG_REGION", "DefaultRegion"),
            ("CLUSTER", "DefaultCluster"),
            ("TRACE_ON", "true"),
        ] {
            assert_eq!(message::property(record.properties, name), Some(value), "{name}");
        }
        assert_eq!(record.born_timestamp_ms, 1_700_000_000_000);
        let view = request::ViewMessage { topic: None, offset: i64::try_from(record.log_offset).unwrap() };
        let viewed = client.call(C::VIEW_MESSAGE_BY_ID, view.fields(), &[]);
        assert_eq!(viewed.messages(), [(0, "hello".to_owned())]);
        assert_eq!(client.pull("t", 1, 2, ("TAG", "*"), 0).code, R::PULL_NOT_FOUND);
        assert_eq!(client.pull("t", 1, 9, ("TAG", "*"), 0).field("nextBeginOffset"), "2");
    }
}

#[test]
fn requests_of_one_write_are_answered_each() {
    let dir = tempfile::tempdir().unwrap();
    for sync in [false, true] {
        let broker = TestBroker::start(&dir.path().join(sync.to_string()), sync);
        let mut client = broker.client();
        client.send("t", 0, "first", &[]);
        let mut bytes = Vec::new();
        let properties = encoded(&[]);
        for i in 0..500 {
            let body = format!("m{i}");
            bytes.extend(
                client
                    .encode(C::SEND_MESSAGE_V2, send_header("t", 0, &properties).fields(), body.as_bytes())
                    .0,
            );
        }
        client.write(&bytes);
        let mut offsets: Vec<i64> =
            (0..500).map(|_| client.read().unwrap().field("queueOffset").parse().unwrap()).collect();
        offsets.sort_unstable();
        assert_eq!(offsets, (1..=500).collect::<Vec<_>>());
        let mut next = 0;
        while next < 501 {
            let pulled = client.pull("t", 0, next, ("TAG", "*"), 0);
            assert_eq!(pulled.code, R::SUCCESS);
            assert!(pulled.messages().len() <= 32);
            next = pulled.field("nextBeginOffset").parse().unwrap();
        }
    }
}

#[test]
fn a_client_batch_is_as_many_messages() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    let mut body = Vec::new();
    for (text, key) in [("a", "U1"), ("b", "U2")] {
        let properties = encoded(&[("UNIQ_KEY", key), ("TAGS", text)]);
        let item = BatchItem { flag: 0, body: text.as_bytes(), properties: properties.as_bytes() };
        batch::push(&mut body, &item).unwrap();
    }
    let properties = encoded(&[("UNIQ_KEY", "BATCH"), ("WAIT", "true")]);
    let mut header = send_header("t", 2, &properties);
    header.batch = Some(true);
    let sent = client.call(C::SEND_BATCH_MESSAGE, header.fields(), &body);
    assert_eq!(
        (sent.code, sent.field("queueOffset"), sent.field("transactionId")),
        (R::SUCCESS, "0", "U1,U2")
    );
    assert_eq!(sent.field("msgId").split(',').count(), 2);
    let pulled = client.pull("t", 2, 0, ("TAG", "b || c"), 0);
    assert_eq!(pulled.messages(), [(1, "b".to_owned())]);
    let record = record::records(&pulled.body).next().unwrap().unwrap();
    assert_eq!(message::property(record.properties, "UNIQ_KEY"), Some("U2"));
    let refused = client.call(C::SEND_BATCH_MESSAGE, header.fields(), b"\0\0\0\x07nothing");
    assert_eq!(refused.code, R::MESSAGE_ILLEGAL);
}

#[test]
fn sql92_is_filtered_by_the_broker_and_refused_where_it_can_not_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    for i in 0..100 {
        client.send("t", 0, &format!("m{i}"), &[("n", &i.to_string())]);
    }
    let pulled = client.pull("t", 0, 0, ("SQL92", "n > 97"), 0);
    assert_eq!(pulled.messages(), [(98, "m98".to_owned()), (99, "m99".to_owned())]);
    assert_eq!(pulled.field("nextBeginOffset"), "100");
    let none = client.pull("t", 0, 0, ("SQL92", "n > 1000"), 0);
    assert_eq!((none.code, none.field("nextBeginOffset")), (R::PULL_RETRY_IMMEDIATELY, "100"));
    let bad = client.pull("t", 0, 0, ("SQL92", "n >"), 0);
    assert_eq!(bad.code, R::SUBSCRIPTION_PARSE_FAILED);
    assert!(bad.remark.contains("SQL92"), "{}", bad.remark);
    assert_eq!(client.heartbeat("c", "readers", "t", "SQL92", "n = 7").code, R::SUCCESS);
    let held = pull_header("t", 0, 0, ("", ""), 0);
    let pulled = client.call(C::PULL_MESSAGE, held.fields(), &[]);
    assert_eq!(pulled.messages(), [(7, "m7".to_owned())]);
    assert_eq!(client.heartbeat("c2", "others", "t", "SQL92", "n =").code, R::SUBSCRIPTION_PARSE_FAILED);
}

#[test]
fn a_pull_is_held_until_a_message_comes_that_matches() {
    let dir = tempfile::tempdir().unwrap();
    for sync in [false, true] {
        let broker = TestBroker::start(&dir.path().join(sync.to_string()), sync);
        let (mut reader, mut writer) = (broker.client(), broker.client());
        writer.send("t", 0, "old", &[("TAGS", "B")]);
        let held = pull_header("t", 0, 1, ("TAG", "A"), 15_000);
        let (bytes, opaque) = reader.encode(C::PULL_MESSAGE, held.fields(), &[]);
        reader.write(&bytes);
        // Other requests of the connection are answered meanwhile.
        let ends = request::GetMaxOffset { topic: "t", queue_id: 0, committed: None };
        assert_eq!(reader.call(C::GET_MAX_OFFSET, ends.fields(), &[]).field("offset"), "1");
        writer.send("t", 0, "no", &[("TAGS", "B")]);
        writer.send("t", 0, "yes", &[("TAGS", "A")]);
        let answer = reader.read().unwrap();
        assert_eq!((answer.opaque, answer.code), (opaque, R::SUCCESS));
        assert_eq!(answer.messages(), [(2, "yes".to_owned())]);
        let over = reader.pull("t", 0, 3, ("TAG", "A"), 50);
        assert_eq!((over.code, over.field("nextBeginOffset")), (R::PULL_NOT_FOUND, "3"));
    }
}

#[test]
fn a_held_pull_that_passed_over_messages_is_answered_long_before_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let (mut reader, mut writer) = (broker.client(), broker.client());
    writer.send("t", 0, "first", &[("TAGS", "A")]);
    let held = pull_header("t", 0, 1, ("TAG", "A"), 60_000);
    let (bytes, _) = reader.encode(C::PULL_MESSAGE, held.fields(), &[]);
    reader.write(&bytes);
    let ends = request::GetMaxOffset { topic: "t", queue_id: 0, committed: None };
    assert_eq!(reader.call(C::GET_MAX_OFFSET, ends.fields(), &[]).field("offset"), "1");
    writer.send("t", 0, "no", &[("TAGS", "B")]);
    // The client waits for 20 s; what it commits then is behind the message.
    let answer = reader.read().unwrap();
    assert_eq!((answer.code, answer.field("nextBeginOffset")), (R::PULL_NOT_FOUND, "2"));
}

#[test]
fn members_of_a_group_know_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let (mut one, mut two) = (broker.client(), broker.client());
    one.send("t", 0, "m", &[]);
    assert_eq!(one.heartbeat("one", "g", "t", "TAG", "*").code, R::SUCCESS);
    assert_eq!(two.heartbeat("two", "g", "t", "TAG", "*").code, R::SUCCESS);
    let told = one.read().unwrap();
    assert!(told.is_request);
    assert_eq!((told.code.0, told.field("consumerGroup")), (C::NOTIFY_CONSUMER_IDS_CHANGED.0, "g"));
    let asked = request::GetConsumerList { consumer_group: "g" };
    let list = one.call(C::GET_CONSUMER_LIST_BY_GROUP, asked.fields(), &[]);
    assert_eq!(ConsumerList::decode(&list.body).unwrap().consumer_id_list, ["one", "two"]);
    drop(two);
    let told = one.read().unwrap();
    assert_eq!(told.code.0, C::NOTIFY_CONSUMER_IDS_CHANGED.0);
    let list = one.call(C::GET_CONSUMER_LIST_BY_GROUP, asked.fields(), &[]);
    assert_eq!(ConsumerList::decode(&list.body).unwrap().consumer_id_list, ["one"]);
    let leave =
        request::UnregisterClient { client_id: "one", producer_group: None, consumer_group: Some("g") };
    assert_eq!(one.call(C::UNREGISTER_CLIENT, leave.fields(), &[]).code, R::SUCCESS);
    assert_eq!(one.call(C::GET_CONSUMER_LIST_BY_GROUP, asked.fields(), &[]).code, R::SYSTEM_ERROR);
}

#[test]
fn committed_offsets_outlive_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    let commit =
        request::UpdateConsumerOffset { consumer_group: "g", topic: "t", queue_id: 0, commit_offset: 3 };
    let query = |queue_id, set_zero_if_not_found| request::QueryConsumerOffset {
        consumer_group: "g",
        topic: "t",
        queue_id,
        set_zero_if_not_found,
    };
    {
        let broker = TestBroker::start(dir.path(), false);
        let mut client = broker.client();
        for _ in 0..5 {
            client.send("t", 0, "m", &[]);
        }
        assert_eq!(client.call(C::QUERY_CONSUMER_OFFSET, query(0, None).fields(), &[]).field("offset"), "0");
        assert_eq!(
            client.call(C::QUERY_CONSUMER_OFFSET, query(0, Some(false)).fields(), &[]).code,
            R::QUERY_NOT_FOUND
        );
        let unknown = client.call(C::UPDATE_CONSUMER_OFFSET, commit.fields(), &[]);
        assert_eq!(unknown.code, R::SUBSCRIPTION_GROUP_NOT_EXIST);
        client.heartbeat("c", "g", "t", "TAG", "*");
        assert_eq!(client.call(C::UPDATE_CONSUMER_OFFSET, commit.fields(), &[]).code, R::SUCCESS);
    }
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    assert_eq!(client.call(C::QUERY_CONSUMER_OFFSET, query(0, None).fields(), &[]).field("offset"), "3");
    let search =
        |timestamp| request::SearchOffset { topic: "t", queue_id: 0, timestamp, boundary_type: None };
    assert_eq!(client.call(C::SEARCH_OFFSET_BY_TIMESTAMP, search(0).fields(), &[]).field("offset"), "0");
    assert_eq!(
        client.call(C::SEARCH_OFFSET_BY_TIMESTAMP, search(i64::MAX).fields(), &[]).field("offset"),
        "5"
    );
}

#[test]
fn settings_of_groups_are_kept_and_count() {
    let dir = tempfile::tempdir().unwrap();
    let settings = SubscriptionGroupConfig {
        group_name: "readers".to_owned(),
        consume_enable: false,
        ..SubscriptionGroupConfig::default()
    };
    {
        let broker = TestBroker::start(dir.path(), false);
        let mut client = broker.client();
        client.send("t", 0, "m", &[]);
        assert_eq!(client.pull("t", 0, 0, ("TAG", "*"), 0).code, R::SUCCESS);
        let set = client.call(C::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, Fields::new(), &settings.encode());
        assert_eq!(set.code, R::SUCCESS);
    }
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    assert_eq!(client.pull("t", 0, 0, ("TAG", "*"), 0).code, R::NO_PERMISSION);
    let asked = request::GetSubscriptionGroupConfig { group: "readers" };
    let kept = client.call(C::GET_SUBSCRIPTIONGROUP_CONFIG, asked.fields(), &[]);
    assert_eq!(SubscriptionGroupConfig::decode(&kept.body).unwrap(), settings);
}

#[test]
fn routes_name_the_broker_and_what_may_be_done() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let (mut client, mut names) = (broker.client(), Client::connect(broker.names));
    let route = |topic| request::GetRouteInfo { topic, accept_standard_json_only: None };
    assert_eq!(names.call(C::GET_ROUTEINFO_BY_TOPIC, route("t").fields(), &[]).code, R::TOPIC_NOT_EXIST);
    assert_eq!(names.call(C::GET_ROUTEINFO_BY_TOPIC, route("TBW102").fields(), &[]).code, R::SUCCESS);
    client.send("t", 0, "m", &[]);
    let found = names.call(C::GET_ROUTEINFO_BY_TOPIC, route("t").fields(), &[]);
    let found = Route::decode(&found.body).unwrap();
    assert_eq!(found.broker_datas[0].broker_addrs[&0], broker.addr.to_string());
    assert_eq!((found.queue_datas[0].read_queue_nums, found.queue_datas[0].perm), (4, 6));
    let update = request::CreateTopic {
        topic: "t",
        default_topic: "TBW102",
        read_queue_nums: 8,
        write_queue_nums: 6,
        perm: 4,
        topic_filter_type: "SINGLE_TAG",
        topic_sys_flag: None,
        order: false,
        attributes: None,
        force: None,
    };
    assert_eq!(client.call(C::UPDATE_AND_CREATE_TOPIC, update.fields(), &[]).code, R::SUCCESS);
    let found = names.call(C::GET_ROUTEINFO_BY_TOPIC, route("t").fields(), &[]);
    let queues = &Route::decode(&found.body).unwrap().queue_datas[0];
    assert_eq!((queues.read_queue_nums, queues.write_queue_nums, queues.perm), (8, 6, 4));
    assert_eq!(client.send("t", 0, "m", &[]).code, R::NO_PERMISSION);
    assert_eq!(client.pull("t", 7, 0, ("TAG", "*"), 0).code, R::PULL_NOT_FOUND);
    assert_eq!(client.pull("t", 8, 0, ("TAG", "*"), 0).code, R::INVALID_PARAMETER);
}

#[test]
fn every_name_server_that_a_broker_joins_hears_of_a_topic_at_once() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let elsewhere: Vec<Server> =
        (0..3).map(|_| runtime.block_on(Server::name_server(any, Default::default())).unwrap()).collect();
    let addrs: Vec<SocketAddr> = elsewhere.iter().map(|server| server.name_server_addr().unwrap()).collect();
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::with(dir.path(), false, |settings| {
        settings.name_servers = addrs.iter().map(SocketAddr::to_string).collect();
    });
    let knows = |addr: SocketAddr, topic: &str| {
        let route = request::GetRouteInfo { topic, accept_standard_json_only: None };
        let mut names = Client::connect(addr);
        // A registration comes every 30 s by itself; the client gives up before.
        let deadline = Instant::now() + Duration::from_secs(15);
        while names.call(C::GET_ROUTEINFO_BY_TOPIC, route.fields(), &[]).code != R::SUCCESS {
            assert!(Instant::now() < deadline, "{addr} does not know {topic}");
            std::thread::yield_now();
        }
    };
    addrs.iter().for_each(|addr| knows(*addr, "TBW102"));
    broker.client().send("t", 0, "m", &[]);
    addrs.iter().for_each(|addr| knows(*addr, "t"));
    drop(broker);
    elsewhere.into_iter().for_each(|server| runtime.block_on(server.stop()));
}

#[test]
fn what_can_not_be_done_is_refused_in_codes_that_clients_know() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::with(dir.path(), false, |settings| settings.auto_create_topics = false);
    let mut client = broker.client();
    let unknown = client.call(C::from(4711), Fields::new(), &[]);
    assert_eq!(unknown.code, R::REQUEST_CODE_NOT_SUPPORTED);
    assert!(unknown.remark.contains("4711"));
    assert_eq!(client.send("t", 0, "m", &[]).code, R::TOPIC_NOT_EXIST);
    broker.store.create_topic(&sluice_protocol::id::TopicName::new("t").unwrap(), 1).unwrap();
    assert_eq!(client.send("t", 1, "m", &[]).code, R::INVALID_PARAMETER);
    assert_eq!(client.send("t", 0, "", &[]).code, R::MESSAGE_ILLEGAL);
    assert_eq!(client.send("t t", 0, "m", &[]).code, R::INVALID_PARAMETER);
    assert_eq!(client.send(&"t".repeat(200), 0, "m", &[]).code, R::INVALID_PARAMETER);
    assert_eq!(client.send("t", 0, &"m".repeat((4 << 20) + 1), &[]).code, R::MESSAGE_ILLEGAL);
    assert_eq!(client.send("t", 0, "m", &[("a", &"v".repeat(32_700))]).code, R::MESSAGE_ILLEGAL);
    let missing = client.call(C::SEND_MESSAGE_V2, Fields::new(), b"m");
    assert_eq!(missing.code, R::SYSTEM_ERROR);
    assert!(missing.remark.contains("missing"), "{}", missing.remark);
    assert_eq!(client.send("t", -1, "m", &[]).code, R::SUCCESS);
}

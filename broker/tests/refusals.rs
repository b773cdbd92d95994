//! What a broker refuses: the response code that clients act on, and a remark that names the thing and the way out.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod support;

use sluice_protocol::code::{RequestCode as C, ResponseCode as R};
use sluice_protocol::fields::Fields;
use sluice_protocol::header::{HeaderKind, ONE_WAY};
use sluice_protocol::heartbeat::Heartbeat;
use sluice_protocol::request;
use sluice_protocol::topic::perm;

use support::{Client, Response, TestBroker, encoded, pull_header, send_header};

/// The response has the code, and its remark all of the words.
#[track_caller]
fn check(response: &Response, code: R, words: &[&str]) {
    assert_eq!(response.code, code, "{response:?}");
    for word in words {
        assert!(response.remark.contains(word), "{word:?} is not in {:?}", response.remark);
    }
}

fn fields(pairs: &[(&'static str, &'static str)]) -> Fields<'static> {
    let mut fields = Fields::new();
    pairs.iter().for_each(|(name, value)| fields.push(*name, *value));
    fields
}

/// Sets the permission of a topic, as an administrator does.
fn permit(client: &mut Client, topic: &str, perm: i32) {
    let update = request::CreateTopic {
        topic,
        default_topic: "TBW102",
        read_queue_nums: 2,
        write_queue_nums: 2,
        perm,
        topic_filter_type: "SINGLE_TAG",
        topic_sys_flag: None,
        order: false,
        attributes: None,
        force: None,
    };
    assert_eq!(client.call(C::UPDATE_AND_CREATE_TOPIC, update.fields(), &[]).code, R::SUCCESS);
}

fn both_kinds(broker: &TestBroker) -> [Client; 2] {
    [HeaderKind::Json, HeaderKind::Binary].map(|kind| {
        let mut client = broker.client();
        client.kind = kind;
        client
    })
}

#[test]
fn request_codes_that_nobody_knows_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let [json, binary] = both_kinds(&broker);
    for mut client in [json, binary, Client::connect(broker.names)] {
        for code in [0, 4711, 9999] {
            let refused = client.call(C::from(code), fields(&[("topic", "t")]), b"body");
            check(&refused, R::REQUEST_CODE_NOT_SUPPORTED, &[&format!("request code {code}")]);
        }
        assert_eq!(
            client.send("t", 0, "m", &[]).code == R::SUCCESS,
            client.stream.peer_addr().unwrap() == broker.addr
        );
    }
}

#[test]
fn a_missing_or_odd_header_field_is_named_and_the_connection_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let at_broker = [
        (C::SEND_MESSAGE, "producerGroup"),
        (C::SEND_MESSAGE_V2, "a/"),
        (C::SEND_BATCH_MESSAGE, "a/"),
        (C::PULL_MESSAGE, "consumerGroup"),
        (C::LITE_PULL_MESSAGE, "consumerGroup"),
        (C::UNREGISTER_CLIENT, "clientID"),
        (C::GET_CONSUMER_LIST_BY_GROUP, "consumerGroup"),
        (C::GET_CONSUMER_CONNECTION_LIST, "consumerGroup"),
        (C::GET_PRODUCER_CONNECTION_LIST, "producerGroup"),
        (C::QUERY_CONSUMER_OFFSET, "consumerGroup"),
        (C::UPDATE_CONSUMER_OFFSET, "consumerGroup"),
        (C::GET_MAX_OFFSET, "topic"),
        (C::GET_MIN_OFFSET, "topic"),
        (C::SEARCH_OFFSET_BY_TIMESTAMP, "topic"),
        (C::GET_EARLIEST_MSG_STORETIME, "topic"),
        (C::GET_CONSUME_STATS, "consumerGroup"),
        (C::VIEW_MESSAGE_BY_ID, "offset"),
        (C::UPDATE_AND_CREATE_TOPIC, "topic"),
        (C::GET_TOPIC_CONFIG, "topic"),
        (C::GET_TOPIC_STATS_INFO, "topic"),
        (C::QUERY_TOPIC_CONSUME_BY_WHO, "topic"),
        (C::GET_SUBSCRIPTIONGROUP_CONFIG, "group"),
    ];
    let at_names = [
        (C::GET_ROUTEINFO_BY_TOPIC, "topic"),
        (C::REGISTER_BROKER, "brokerName"),
        (C::UNREGISTER_BROKER, "brokerName"),
        (C::QUERY_DATA_VERSION, "brokerName"),
        (C::GET_TOPICS_BY_CLUSTER, "cluster"),
        (C::DELETE_TOPIC_IN_NAMESRV, "topic"),
        (C::WIPE_WRITE_PERM_OF_BROKER, "brokerName"),
        (C::PUT_KV_CONFIG, "namespace"),
        (C::GET_KV_CONFIG, "namespace"),
    ];
    let mut names = Client::connect(broker.names);
    for (code, field) in at_names {
        let refused = names.call(code, Fields::new(), &[]);
        check(&refused, R::SYSTEM_ERROR, &["header field", field, "is missing"]);
    }
    for mut client in both_kinds(&broker) {
        for (code, field) in at_broker {
            let refused = client.call(code, Fields::new(), b"body");
            check(&refused, R::SYSTEM_ERROR, &["header field", field, "is missing"]);
        }
        let odd = fields(&[("topic", "t"), ("queueId", "first")]);
        let refused = client.call(C::GET_MAX_OFFSET, odd, &[]);
        check(&refused, R::SYSTEM_ERROR, &["header field queueId", "\"first\"", "number of 32 bits"]);
        let refused = client.call(C::HEART_BEAT, Fields::new(), b"no JSON");
        check(&refused, R::SYSTEM_ERROR, &["the body is not readable"]);
        let refused = client.call(C::HEART_BEAT, Fields::new(), &Heartbeat::default().encode());
        check(&refused, R::INVALID_PARAMETER, &["client id", "1 to 1024 bytes"]);
        assert_eq!(client.send("t", 0, "m", &[]).code, R::SUCCESS);
    }
    // Nobody is told of a one-way request.
    let mut client = broker.client();
    let (bytes, _) = client.encode(C::SEND_MESSAGE_V2, Fields::new(), b"m");
    client.write(&one_way(&bytes));
    assert_eq!(client.send("t", 0, "m", &[]).code, R::SUCCESS);
}

/// The frame of a request with the flag that nobody wants an answer.
fn one_way(frame: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(frame[8..].to_vec()).unwrap();
    let text = text.replace("\"flag\":0", &format!("\"flag\":{ONE_WAY}"));
    [&frame[..8], text.as_bytes()].concat()
}

#[test]
fn topics_without_permission_say_which_one_they_have() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    for mut client in both_kinds(&broker) {
        permit(&mut client, "t", perm::READ);
        check(
            &client.send("t", 0, "m", &[]),
            R::NO_PERMISSION,
            &["topic t may not be written", "4", "set it to 6"],
        );
        assert_ne!(client.pull("t", 0, 0, ("TAG", "*"), 0).code, R::NO_PERMISSION);
        permit(&mut client, "t", perm::WRITE);
        let pulled = client.pull("t", 1, 0, ("TAG", "*"), 0);
        check(&pulled, R::NO_PERMISSION, &["topic t may not be read", "2", "set it to 6"]);
        assert_eq!(client.send("t", 0, "m", &[]).code, R::SUCCESS);
        permit(&mut client, "t", 0);
        check(&client.send("t", 0, "m", &[]), R::NO_PERMISSION, &["permission 0"]);
        permit(&mut client, "t", perm::READ | perm::WRITE);
        assert_eq!(client.send("t", 0, "m", &[]).code, R::SUCCESS);
        for own in ["SCHEDULE_TOPIC_XXXX", "RMQ_SYS_TRANS_HALF_TOPIC"] {
            check(&client.send(own, 0, "m", &[]), R::NO_PERMISSION, &[own, "the broker's own"]);
        }
    }
}

#[test]
fn names_bodies_and_properties_over_their_limits_say_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    for mut client in both_kinds(&broker) {
        check(&client.send(&"t".repeat(128), 0, "m", &[]), R::INVALID_PARAMETER, &["topic name", "1 to 127"]);
        assert_eq!(client.send(&"t".repeat(127), 0, "m", &[]).code, R::SUCCESS);
        check(&client.send("a b", 0, "m", &[]), R::INVALID_PARAMETER, &["\"a b\"", "letters, digits"]);
        // In a binary header an empty field is none.
        let code = if client.kind == HeaderKind::Json { R::INVALID_PARAMETER } else { R::SYSTEM_ERROR };
        check(&client.send("", 0, "m", &[]), code, &["topic"]);
        let long = "v".repeat(32_700);
        let refused = client.send("t", 0, "m", &[("a", &long)]);
        check(&refused, R::MESSAGE_ILLEGAL, &["32767"]);
        // As long as a client may send them: the broker adds its own.
        assert_eq!(client.send("t", 0, "m", &[("a", &"v".repeat(32_000))]).code, R::SUCCESS);
        let mut raw = send_header("t", 0, "a\x01b\0c\x02");
        let refused = client.call(C::SEND_MESSAGE_V2, raw.fields(), b"m");
        check(&refused, R::MESSAGE_ILLEGAL, &["zero byte"]);
        raw.properties = None;
        check(&client.call(C::SEND_MESSAGE_V2, raw.fields(), &[]), R::MESSAGE_ILLEGAL, &["no body"]);
        let limit = 4 << 20;
        let refused = client.call(C::SEND_MESSAGE_V2, raw.fields(), &vec![7; limit + 1]);
        check(&refused, R::MESSAGE_ILLEGAL, &["4194305", "the limit is 4194304", "split"]);
        assert_eq!(client.call(C::SEND_MESSAGE_V2, raw.fields(), &vec![7; limit]).code, R::SUCCESS);
        let refused = client.call(C::SEND_BATCH_MESSAGE, raw.fields(), &[0, 0, 0, 30, 1, 2]);
        check(&refused, R::MESSAGE_ILLEGAL, &["item at byte 0", "bad size"]);
    }
    // A frame over its limit has no number that an answer could have.
    let mut client = broker.client();
    client.write(&(16_u32 << 20).to_be_bytes());
    assert!(client.read().is_none());
}

#[test]
fn groups_queues_offsets_and_filters_that_can_not_be_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::with(dir.path(), false, |settings| settings.auto_create_topics = false);
    for mut client in both_kinds(&broker) {
        check(
            &client.send("none", 0, "m", &[]),
            R::TOPIC_NOT_EXIST,
            &["topic none does not exist", "create it"],
        );
        check(&client.pull("none", 0, 0, ("TAG", "*"), 0), R::TOPIC_NOT_EXIST, &["create it"]);
        permit(&mut client, "t", perm::READ | perm::WRITE);
        check(&client.send("t", 2, "m", &[]), R::INVALID_PARAMETER, &["topic t has 2 queues", "number 2"]);
        check(&client.pull("t", 2, 0, ("TAG", "*"), 0), R::INVALID_PARAMETER, &["2 queues to read"]);
        check(&client.pull("t", -1, 0, ("TAG", "*"), 0), R::INVALID_PARAMETER, &["number -1"]);
        let long = "g".repeat(256);
        let mut pull = pull_header("t", 0, 0, ("TAG", "*"), 0);
        pull.consumer_group = &long;
        check(
            &client.call(C::PULL_MESSAGE, pull.fields(), &[]),
            R::INVALID_PARAMETER,
            &["group name", "1 to 255"],
        );
        let refused = client.pull("t", 0, 0, ("CLASS", "Filter"), 0);
        check(&refused, R::SUBSCRIPTION_PARSE_FAILED, &["CLASS", "use TAG or SQL92"]);
        let refused = client.pull("t", 0, 0, ("SQL92", &format!("a IN ('{}')", "x".repeat(40_000))), 0);
        check(&refused, R::SUBSCRIPTION_PARSE_FAILED, &["the limit is 32768"]);
        check(&client.pull("t", 0, 0, ("SQL92", "a >"), 0), R::SUBSCRIPTION_PARSE_FAILED, &["SQL92"]);
        let mut commit = request::UpdateConsumerOffset {
            consumer_group: "readers",
            topic: "t",
            queue_id: 0,
            commit_offset: -5,
        };
        let refused = client.call(C::UPDATE_CONSUMER_OFFSET, commit.fields(), &[]);
        check(&refused, R::INVALID_PARAMETER, &["offset -5"]);
        commit = request::UpdateConsumerOffset { consumer_group: "nobody", commit_offset: 0, ..commit };
        let refused = client.call(C::UPDATE_CONSUMER_OFFSET, commit.fields(), &[]);
        check(&refused, R::SUBSCRIPTION_GROUP_NOT_EXIST, &["group nobody is not known"]);
        let view = request::ViewMessage { topic: None, offset: i64::MAX };
        let refused = client.call(C::VIEW_MESSAGE_BY_ID, view.fields(), &[]);
        check(&refused, R::SYSTEM_ERROR, &["no message stands at log offset"]);
        let properties = encoded(&[]);
        let header = send_header("t", 0, &properties);
        assert_eq!(client.call(C::SEND_MESSAGE_V2, header.fields(), b"m").code, R::SUCCESS);
    }
}

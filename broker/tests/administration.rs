//! What administrators do: reset offsets, ask clients; and replies that the broker hands to clients.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a failure is a failed test")]

mod support;

use sluice_protocol::body::TopicList;
use sluice_protocol::code::{RequestCode as C, ResponseCode as R};
use sluice_protocol::fields::Fields;
use sluice_protocol::frame;
use sluice_protocol::header::Header;
use sluice_protocol::heartbeat::{AllProducers, Heartbeat, ProducerData, QuerySubscription};
use sluice_protocol::message::property;
use sluice_protocol::queue::{BrokerConsumeStats, ConsumeTimeSpans, QueryConsumeQueue, ResetOffsets};
use sluice_protocol::request;
use sluice_protocol::topic::{
    SubscriptionGroupConfig, SubscriptionGroupList, SubscriptionGroupTable, TopicConfig, TopicConfigList,
};

use support::{Client, Response, TestBroker, encoded, pull_header, send_header};

fn reset(
    client: &mut Client,
    topic: &str,
    timestamp: i64,
    is_force: bool,
    one: Option<(i32, i64)>,
) -> Response {
    let (queue_id, offset) = one.unzip();
    let reset = request::ResetOffset { topic, group: "readers", timestamp, is_force, queue_id, offset };
    client.call(C::INVOKE_BROKER_TO_RESET_OFFSET, reset.fields(), &[])
}

fn commit(client: &mut Client, queue_id: i32, commit_offset: i64) {
    let commit =
        request::UpdateConsumerOffset { consumer_group: "readers", topic: "t", queue_id, commit_offset };
    assert_eq!(client.call(C::UPDATE_CONSUMER_OFFSET, commit.fields(), &[]).code, R::SUCCESS);
}

fn committed(client: &mut Client, queue_id: i32) -> String {
    let query = request::QueryConsumerOffset {
        consumer_group: "readers",
        topic: "t",
        queue_id,
        set_zero_if_not_found: None,
    };
    client.call(C::QUERY_CONSUMER_OFFSET, query.fields(), &[]).field("offset").to_owned()
}

#[test]
fn a_member_goes_on_where_its_group_is_reset_to_whatever_it_commits_before() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    for i in 0..8 {
        client.send("t", i % 2, &i.to_string(), &[]);
    }
    client.heartbeat("c", "readers", "t", "TAG", "*");
    (0..2).for_each(|queue| commit(&mut client, queue, 3));
    let answer = reset(&mut client, "t", 0, true, None);
    let table = ResetOffsets::decode(&answer.body).unwrap().offset_table;
    assert_eq!(
        table.iter().map(|(queue, at)| (queue.queue_id, *at)).collect::<Vec<_>>(),
        [(0, 0), (1, 0), (2, 0), (3, 0)]
    );
    commit(&mut client, 0, 4);
    assert_eq!(committed(&mut client, 0), "0");
    // A pull that commits does not undo it either.
    let mut pull = pull_header("t", 0, 4, ("TAG", "*"), 0);
    (pull.sys_flag, pull.commit_offset) = (pull.sys_flag | 1, 4);
    let told = client.call(C::PULL_MESSAGE, pull.fields(), &[]);
    assert_eq!((told.code, told.remark.as_str()), (R::PULL_OFFSET_MOVED, "OFFSET_RESET"));
    assert_eq!((told.field("nextBeginOffset"), told.field("maxOffset")), ("0", "4"));
    assert_eq!(committed(&mut client, 0), "0");
    assert_eq!(client.pull("t", 0, 0, ("TAG", "*"), 0).messages().len(), 4);
    commit(&mut client, 0, 4);
    assert_eq!(committed(&mut client, 0), "4");
    // Who pulls from there already is told nothing.
    assert_eq!(client.pull("t", 1, 0, ("TAG", "*"), 0).messages().len(), 4);
    assert_eq!(reset(&mut client, "t", i64::MAX, false, None).code, R::SUCCESS);
    assert_eq!((committed(&mut client, 0), committed(&mut client, 1)), ("4".to_owned(), "0".to_owned()));
    assert_eq!(reset(&mut client, "t", -1, true, None).code, R::SUCCESS);
    assert_eq!(committed(&mut client, 1), "4");
    assert_eq!(reset(&mut client, "t", 0, true, Some((1, 2))).code, R::SUCCESS);
    assert_eq!(committed(&mut client, 1), "2");
    assert_eq!(reset(&mut client, "t", 0, true, Some((9, 2))).code, R::INVALID_PARAMETER);
    assert_eq!(reset(&mut client, "none", 0, true, None).code, R::TOPIC_NOT_EXIST);
}

fn answer(client: &mut Client, asked: &Response, body: &[u8]) {
    let mut bytes = Vec::new();
    let header = Header::response(R::SUCCESS, asked.opaque, Fields::new());
    frame::encode(&mut bytes, client.kind, &header, body).unwrap();
    client.write(&bytes);
}

#[test]
fn a_client_is_asked_on_behalf_of_an_administrator() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let (mut admin, mut member) = (broker.client(), broker.client());
    let sent = admin.send("t", 0, "m", &[]);
    member.heartbeat("c", "readers", "t", "TAG", "*");
    let ask = |msg_id, client_id| request::ToConsumer { consumer_group: "readers", client_id, msg_id };
    for (code, msg_id) in
        [(C::GET_CONSUMER_RUNNING_INFO, None), (C::CONSUME_MESSAGE_DIRECTLY, Some(sent.field("msgId")))]
    {
        let (bytes, opaque) = admin.encode(code, ask(msg_id, Some("c")).fields(), &[]);
        admin.write(&bytes);
        let asked = member.read().unwrap();
        assert_eq!((asked.is_request, asked.code.0, asked.field("clientId")), (true, code.0, "c"));
        assert_eq!(asked.messages().len(), usize::from(msg_id.is_some()));
        answer(&mut member, &asked, b"{\"a\":1}");
        let told = admin.read().unwrap();
        assert_eq!((told.opaque, told.code, told.body.as_slice()), (opaque, R::SUCCESS, &b"{\"a\":1}"[..]));
    }
    for (code, asked) in [
        (R::SYSTEM_ERROR, ask(None, Some("nobody"))),
        (R::SYSTEM_ERROR, ask(None, None)),
        (R::INVALID_PARAMETER, ask(Some("none"), Some("c"))),
    ] {
        assert_eq!(admin.call(C::GET_CONSUMER_RUNNING_INFO, asked.fields(), &[]).code, code);
    }
    // A client that goes away is not waited for.
    let (bytes, _) = admin.encode(C::GET_CONSUMER_RUNNING_INFO, ask(None, Some("c")).fields(), &[]);
    admin.write(&bytes);
    member.read().unwrap();
    drop(member);
    assert_eq!(admin.read().unwrap().code, R::CONSUME_MSG_TIMEOUT);
}

#[test]
fn a_reply_reaches_the_producer_that_asked() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let (mut asker, mut replier) = (broker.client(), broker.client());
    let producer = ProducerData { group_name: "p".to_owned() };
    let beat = Heartbeat {
        client_id: "asker".to_owned(),
        producer_data_set: vec![producer],
        ..Heartbeat::default()
    };
    asker.call(C::HEART_BEAT, Fields::new(), &beat.encode());
    let reply = |client: &mut Client, to: &[(&str, &str)]| {
        let properties = encoded(to);
        let header = send_header("DefaultCluster_REPLY_TOPIC", 0, &properties);
        client.call(C::SEND_REPLY_MESSAGE_V2, header.fields(), b"answer")
    };
    let sent = reply(&mut replier, &[("REPLY_TO_CLIENT", "asker"), ("CORRELATION_ID", "7")]);
    assert_eq!((sent.code, sent.field("queueOffset")), (R::SUCCESS, "0"));
    let pushed = asker.read().unwrap();
    assert_eq!((pushed.code.0, pushed.body.as_slice()), (C::PUSH_REPLY_MESSAGE_TO_CLIENT.0, &b"answer"[..]));
    let properties = pushed.field("properties").as_bytes();
    assert_eq!(property(properties, "CORRELATION_ID"), Some("7"));
    assert!(property(properties, "PUSH_REPLY_TIME").is_some());
    answer(&mut asker, &pushed, b"");
    assert_eq!(reply(&mut replier, &[("REPLY_TO_CLIENT", "nobody")]).code, R::SYSTEM_ERROR);
    assert_eq!(reply(&mut replier, &[]).code, R::SYSTEM_ERROR);
}

#[test]
fn a_deleted_topic_is_gone_for_all_and_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    {
        let broker = TestBroker::start(dir.path(), false);
        let (mut client, mut held) = (broker.client(), broker.client());
        let mut names = Client::connect(broker.names);
        for i in 0..3 {
            client.send("t", 0, &i.to_string(), &[]);
        }
        client.heartbeat("c", "readers", "t", "TAG", "*");
        commit(&mut client, 0, 3);
        let (bytes, _) =
            held.encode(C::PULL_MESSAGE, pull_header("t", 0, 3, ("TAG", "*"), 60_000).fields(), &[]);
        held.write(&bytes);
        let delete = |topic| request::TopicOnly { topic };
        let refused = client.call(C::DELETE_TOPIC_IN_BROKER, delete("SCHEDULE_TOPIC_XXXX").fields(), &[]);
        assert_eq!(refused.code, R::INVALID_PARAMETER);
        for _ in 0..2 {
            assert_eq!(client.call(C::DELETE_TOPIC_IN_BROKER, delete("t").fields(), &[]).code, R::SUCCESS);
        }
        let route = request::GetRouteInfo { topic: "t", accept_standard_json_only: None };
        assert_eq!(names.call(C::GET_ROUTEINFO_BY_TOPIC, route.fields(), &[]).code, R::TOPIC_NOT_EXIST);
        assert_eq!(client.pull("t", 0, 0, ("TAG", "*"), 0).code, R::TOPIC_NOT_EXIST);
        // It may have been told of the topic's end before it was held.
        assert_eq!(held.read().unwrap().code, R::TOPIC_NOT_EXIST);
        assert_eq!(client.send("t", 0, "new", &[]).field("queueOffset"), "0");
    }
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    assert_eq!(client.pull("t", 0, 0, ("TAG", "*"), 0).messages(), [(0, "new".to_owned())]);
    assert_eq!(committed(&mut client, 0), "0");
}

#[test]
fn tools_see_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    for i in 0..3 {
        client.send("t", 0, &i.to_string(), &[("TAGS", "TagA")]);
    }
    client.heartbeat("c", "readers", "t", "TAG", "TagA");
    commit(&mut client, 0, 2);
    let producer = ProducerData { group_name: "p".to_owned() };
    let beat =
        Heartbeat { client_id: "c".to_owned(), producer_data_set: vec![producer], ..Heartbeat::default() };
    client.call(C::HEART_BEAT, Fields::new(), &beat.encode());

    let producers = client.call(C::GET_ALL_PRODUCER_INFO, Fields::new(), &[]);
    let producers = AllProducers::decode(&producers.body).unwrap().data;
    assert_eq!(producers["p"].iter().map(|p| p.client_id.as_str()).collect::<Vec<_>>(), ["c"]);
    let subscription = |topic| request::QuerySubscription { group: "readers", topic };
    let topics = client.call(C::QUERY_TOPICS_BY_CONSUMER, subscription(None).fields(), &[]);
    assert_eq!(TopicList::decode(&topics.body).unwrap().topic_list, ["t"]);
    let one = client.call(C::QUERY_SUBSCRIPTION_BY_CONSUMER, subscription(Some("t")).fields(), &[]);
    let one = QuerySubscription::decode(&one.body).unwrap().subscription_data.unwrap();
    assert_eq!(one.sub_string, "TagA");

    let spans = request::QueryConsumeTimeSpan { topic: "t", group: "readers" };
    let spans = client.call(C::QUERY_CONSUME_TIME_SPAN, spans.fields(), &[]);
    let spans = ConsumeTimeSpans::decode(&spans.body).unwrap().consume_time_span_set;
    assert_eq!(spans.len(), 4);
    assert!(spans[0].min_time_stamp > 0 && spans[0].consume_time_stamp >= spans[0].min_time_stamp);
    assert_eq!((spans[1].min_time_stamp, spans[1].consume_time_stamp), (-1, -1));

    let queue = |index, count| request::QueryConsumeQueue {
        topic: "t",
        queue_id: 0,
        index,
        count,
        consumer_group: Some("readers"),
    };
    let units = client.call(C::QUERY_CONSUME_QUEUE, queue(1, 10).fields(), &[]);
    let units = QueryConsumeQueue::decode(&units.body).unwrap();
    assert_eq!((units.min_queue_index, units.max_queue_index, units.queue_data.len()), (0, 3, 2));
    assert!(units.queue_data.iter().all(|unit| unit.tags_code == 2_598_919 && unit.physic_size > 91));
    for (index, count) in [(3, 10), (-1, 10), (0, -1)] {
        let none = client.call(C::QUERY_CONSUME_QUEUE, queue(index, count).fields(), &[]);
        assert_eq!(QueryConsumeQueue::decode(&none.body).unwrap().queue_data, []);
    }

    let stats = client.call(C::GET_BROKER_CONSUME_STATS, Fields::new(), &[]);
    let stats = BrokerConsumeStats::decode(&stats.body).unwrap();
    assert_eq!((stats.total_diff, stats.consume_stats_list[0]["readers"].len()), (1, 1));
    let config = client.call(C::GET_BROKER_CONFIG, Fields::new(), &[]);
    assert!(String::from_utf8(config.body).unwrap().contains("brokerName=broker-a\n"));
    let own = client.call(C::GET_SYSTEM_TOPIC_LIST_FROM_BROKER, Fields::new(), &[]);
    let own = TopicList::decode(&own.body).unwrap().topic_list;
    assert!(own.iter().any(|name| name == "SCHEDULE_TOPIC_XXXX") && own.iter().all(|name| name != "t"));
    assert_eq!(client.call(C::DELETE_EXPIRED_COMMITLOG, Fields::new(), &[]).code, R::SUCCESS);
}

#[test]
fn topics_and_groups_are_made_in_lists_and_a_deleted_group_stays_deleted() {
    let dir = tempfile::tempdir().unwrap();
    {
        let broker = TestBroker::start(dir.path(), false);
        let mut client = broker.client();
        let topic = |name: &str| TopicConfig { topic_name: name.to_owned(), ..TopicConfig::default() };
        let topics = TopicConfigList { topic_config_list: vec![topic("t"), topic("u")] };
        let made = client.call(C::UPDATE_AND_CREATE_TOPIC_LIST, Fields::new(), &topics.encode());
        assert_eq!((made.code, made.remark.as_str()), (R::SUCCESS, ""));
        assert_eq!(client.send("u", 15, "m", &[]).code, R::SUCCESS);
        let own = TopicConfigList { topic_config_list: vec![topic("SCHEDULE_TOPIC_XXXX")] };
        let refused = client.call(C::UPDATE_AND_CREATE_TOPIC_LIST, Fields::new(), &own.encode());
        assert_eq!(refused.code, R::INVALID_PARAMETER);
        let group = |name: &str| SubscriptionGroupConfig {
            group_name: name.to_owned(),
            retry_max_times: 3,
            ..SubscriptionGroupConfig::default()
        };
        let groups = SubscriptionGroupList { group_config_list: vec![group("readers"), group("others")] };
        let made = client.call(C::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST, Fields::new(), &groups.encode());
        assert_eq!(made.code, R::SUCCESS);
        commit(&mut client, 0, 0);
        let delete = request::DeleteSubscriptionGroup { group_name: "readers", clean_offset: Some(true) };
        assert_eq!(client.call(C::DELETE_SUBSCRIPTIONGROUP, delete.fields(), &[]).code, R::SUCCESS);
    }
    let broker = TestBroker::start(dir.path(), false);
    let kept = broker.client().call(C::GET_ALL_SUBSCRIPTIONGROUP_CONFIG, Fields::new(), &[]);
    let kept = SubscriptionGroupTable::decode(&kept.body).unwrap().subscription_group_table;
    assert_eq!(
        kept.into_iter().map(|(name, group)| (name, group.retry_max_times)).collect::<Vec<_>>(),
        [("others".to_owned(), 3)]
    );
    assert_eq!(broker.store.groups_of(&sluice_protocol::id::TopicName::new("t").unwrap()), [] as [String; 0]);
}

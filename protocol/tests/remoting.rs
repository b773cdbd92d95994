//! Frames and bodies that `RocketMQ`'s own classes print, and frames seen between real clients and servers:
//! Java 5.3.3 and 4.9.8, Go 2.1.2.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::borrow::Cow;

use serde_json::Value;
use sluice_protocol::batch::{self, BatchItem};
use sluice_protocol::body::*;
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::fields::{FieldError, Fields};
use sluice_protocol::frame::{self, Frame, FrameError};
use sluice_protocol::header::{Header, HeaderKind, Language};
use sluice_protocol::heartbeat::*;
use sluice_protocol::message_id::MessageId;
use sluice_protocol::queue::*;
use sluice_protocol::record::{body_crc, records};
use sluice_protocol::registration::Registration;
use sluice_protocol::route::*;
use sluice_protocol::topic::*;
use sluice_protocol::{request, response, version};

fn vectors() -> Vec<Value> {
    serde_json::from_str(include_str!("remoting.json")).unwrap()
}

fn group(group: &str) -> Vec<Value> {
    let found: Vec<_> = vectors().into_iter().filter(|v| v["group"] == group).collect();
    assert!(!found.is_empty(), "{group}");
    found
}

fn vector(name: &str) -> Value {
    vectors().into_iter().find(|v| v["name"] == name).unwrap()
}

fn text(name: &str) -> String {
    vector(name)["text"].as_str().unwrap().to_owned()
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

fn given(name: &str) -> Vec<u8> {
    bytes(&vector(name)["hex"])
}

fn decode(bytes: &[u8]) -> (Frame<'_>, Header<'_>) {
    let (frame, len) = Frame::decode(bytes).unwrap().unwrap();
    assert_eq!(len, bytes.len());
    (frame, frame.header().unwrap())
}

fn encode(kind: HeaderKind, header: &Header<'_>, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode(&mut out, kind, header, body).unwrap();
    out
}

#[test]
fn frames_of_the_java_classes_decode_and_encode_to_the_same_bytes() {
    for vector in group("frame").iter().filter(|v| v["hex"].is_string()) {
        let given = bytes(&vector["hex"]);
        let (frame, header) = decode(&given);
        let name = vector["name"].as_str().unwrap();
        assert_eq!(frame.kind == HeaderKind::Binary, name.starts_with("rocketmq"), "{name}");
        let written = encode(frame.kind, &header, frame.body);
        if name == "rocketmq_oneway_ext" {
            // Its field of length 0 is none, to Java as well.
            assert_eq!((header.fields.get("k1"), header.fields.get("empty")), (Some("v1"), None));
            continue;
        }
        assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(&given), "{name}");
        assert_eq!(written, given, "{name}");
    }
}

#[test]
fn headers_hold_what_the_frames_say() {
    let bytes = given("json_response_remark_body");
    let (frame, header) = decode(&bytes);
    assert_eq!((frame.body, header.remark.as_deref()), (&b"BODY"[..], Some("No topic route info")));
    assert_eq!(header.response_code(), ResponseCode::TOPIC_NOT_EXIST);
    assert_eq!((header.opaque, header.version, header.language), (7, version::CURRENT, Language::Java));
    assert!(header.is_response() && !header.is_one_way());
    let written =
        Header::response(ResponseCode::TOPIC_NOT_EXIST, 7, Fields::new()).with_remark("No topic route info");
    assert_eq!(header, written);
    let bytes = given("rocketmq_pop_code_truncated");
    let (_, header) = decode(&bytes);
    assert_eq!((header.code, RequestCode::POP_MESSAGE.0 & 0xFFFF), (3442, 3442));
    let too_large = Header::request(RequestCode::POP_MESSAGE, 1, Fields::new());
    let mut out = vec![7];
    assert!(frame::encode_head(&mut out, HeaderKind::Binary, &too_large, 0).is_err());
    assert_eq!(out, [7]);
}

#[test]
fn sends_are_the_same_under_long_names_letters_and_in_binary() {
    let all = ["json_send_v1", "json_send_v2", "rocketmq_send_v2_fast"].map(given);
    let [v1, v2, binary] = all.each_ref().map(|bytes| decode(bytes).1);
    let send = request::SendMessage::parse(&v2.fields).unwrap();
    assert_eq!((send.producer_group, send.topic, send.default_topic), ("PG", "TopicTest", "TBW102"));
    assert_eq!((send.default_topic_queue_nums, send.queue_id, send.sys_flag), (4, 2, 0));
    assert_eq!((send.born_timestamp, send.flag), (1_700_000_000_000, 0));
    let properties = "KEYS\u{1}k1\u{2}UNIQ_KEY\u{1}7F0000010001000000000000000A0001\u{2}WAIT\u{1}true\u{2}TAGS\u{1}TagA\u{2}";
    assert_eq!(send.properties, Some(properties));
    assert_eq!((send.reconsume_times, send.max_reconsume_times), (Some(0), None));
    assert_eq!((send.batch, send.unit_mode, send.broker_name), (Some(false), Some(false), Some("broker-a")));
    assert_eq!(request::SendMessage::parse(&v1.fields), Ok(send.clone()));
    assert_eq!(request::SendMessage::parse(&binary.fields), Ok(send.clone()));
    assert_eq!(
        encode(HeaderKind::Json, &Header { fields: send.fields(), ..v2.clone() }, b"Hello RocketMQ"),
        all[1]
    );
    assert_eq!(
        encode(HeaderKind::Binary, &Header { fields: send.fields(), ..binary.clone() }, b"Hello RocketMQ"),
        all[2]
    );
}

#[test]
fn responses_are_written_as_the_java_broker_writes_them() {
    let send = response::SendMessage {
        queue_id: 2,
        transaction_id: Some("7F0000010001000000000000000A0001"),
        msg_id: "7F00000100002A9F0000000000000064",
        trace_on: Some(true),
        region: Some("DefaultRegion"),
        queue_offset: 5,
        recall_handle: None,
    };
    let header = Header::response(ResponseCode::SUCCESS, 100, send.fields());
    assert_eq!(encode(HeaderKind::Json, &header, b""), given("json_send_response"));
    let binary = given("rocketmq_send_response");
    assert_eq!(response::SendMessage::parse(&decode(&binary).1.fields), Ok(send));
    let pull = response::PullMessage {
        suggest_which_broker_id: 0,
        group_sys_flag: Some(0),
        next_begin_offset: 11,
        max_offset: 11,
        min_offset: 0,
        topic_sys_flag: Some(0),
    };
    let header = Header::response(ResponseCode::SUCCESS, 102, pull.fields()).with_remark("FOUND");
    assert_eq!(encode(HeaderKind::Json, &header, b""), given("json_pull_response_header_only"));
    let binary = given("rocketmq_pull_response_header_only");
    assert_eq!(response::PullMessage::parse(&decode(&binary).1.fields), Ok(pull));
}

#[test]
fn pulls_are_the_same_in_both_kinds() {
    let (json, binary) = (given("json_pull"), given("rocketmq_pull"));
    let header = decode(&json).1;
    let pull = request::PullMessage::parse(&header.fields).unwrap();
    assert_eq!(
        (pull.consumer_group, pull.topic, pull.queue_id, pull.queue_offset),
        ("CG", "TopicTest", 0, 10)
    );
    assert_eq!((pull.max_msg_nums, pull.sys_flag, pull.commit_offset), (32, 3, 9));
    assert_eq!((pull.suspend_timeout_millis, pull.sub_version), (15_000, 1_700_000_000_001));
    assert_eq!((pull.subscription, pull.expression_type), (None, Some("TAG")));
    assert_eq!((pull.max_msg_bytes, pull.broker_name), (Some(262_144), Some("broker-a")));
    assert_eq!(request::PullMessage::parse(&decode(&binary).1.fields), Ok(pull));
}

#[test]
fn odd_headers_are_read_as_java_reads_them() {
    for vector in group("lenient").iter().filter(|v| v["name"].as_str().unwrap().starts_with("header_")) {
        let header = vector["input"]["text"].as_str().unwrap();
        let header = Header::decode(HeaderKind::Json, header.as_bytes()).unwrap();
        assert_eq!((header.code, i64::from(header.opaque)), (10, vector["opaque"].as_i64().unwrap()));
        assert_eq!(header.language.name().unwrap_or("null"), vector["language"]);
        let fields = vector["extFields"].as_object().cloned().unwrap_or_default();
        for (name, value) in &fields {
            assert_eq!(header.fields.get(name), value.as_str());
        }
        assert_eq!(header.fields.len(), fields.values().filter(|v| v.is_string()).count());
    }
}

#[test]
fn fields_that_are_missing_or_wrong_are_named() {
    let mut fields = Fields::new();
    fields.push("topic", "T");
    assert_eq!(request::GetMinOffset::parse(&fields), Err(FieldError::Missing { name: "queueId" }));
    fields.push("queueId", "one");
    let error = request::GetMinOffset::parse(&fields).unwrap_err();
    assert_eq!(error.to_string(), "header field queueId is \"one\" and not a number of 32 bits");
    fields.push("queueId", "1");
    assert_eq!(request::GetMinOffset::parse(&fields).unwrap().queue_id, 1, "the last one counts");
    let error = request::SendMessage::parse(&fields).unwrap_err();
    assert_eq!(error.to_string(), "header field a/producerGroup is missing");
}

/// Whether that was written, but for the order of maps, which Java leaves to its hashes.
fn same(written: &[u8], body: &[u8]) {
    let sorted = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes.sort_unstable();
        bytes
    };
    assert_eq!(sorted(written), sorted(body), "{}", String::from_utf8_lossy(written));
}

/// Reads the fields and body of a captured frame by its code.
fn check_captured(name: &str, header: &Header<'_>, body: &[u8]) {
    let fields = &header.fields;
    if header.is_response() {
        let code: i32 = name.split(' ').nth(1).unwrap().parse().unwrap();
        if header.response_code() == ResponseCode::SUCCESS {
            match code {
                10 | 310 | 320 => drop(response::SendMessage::parse(fields).unwrap()),
                11 | 361 => assert!(records(body).all(|record| record.unwrap().check_body_crc())),
                14 | 29 | 30 | 31 => drop(response::Offset::parse(fields).unwrap()),
                32 => drop(response::Timestamp::parse(fields).unwrap()),
                34 => assert!(response::Heartbeat::parse(fields).unwrap().is_support_heart_beat_v2),
                38 => same(&ConsumerList::decode(body).unwrap().encode(), body),
                41 => same(&LockedBatch::decode(body).unwrap().encode(), body),
                105 => check_route(body),
                106 => same(&ClusterInfo::decode(body).unwrap().encode(), body),
                202 => same(&TopicStats::decode(body).unwrap().encode(), body),
                206 => same(&TopicList::decode(body).unwrap().encode(), body),
                208 => same(&ConsumeStats::decode(body).unwrap().encode(), body),
                _ => {}
            }
        }
        if matches!(code, 11 | 361) {
            response::PullMessage::parse(fields).unwrap();
        }
        return;
    }
    match header.code {
        10 | 310 | 320 => {
            let send = request::SendMessage::parse(fields).unwrap();
            if send.batch == Some(true) {
                assert_eq!(batch::items(body).map(Result::unwrap).count(), 2);
            }
        }
        11 | 361 => drop(request::PullMessage::parse(fields).unwrap()),
        12 => drop(request::QueryMessage::parse(fields).unwrap()),
        14 => drop(request::QueryConsumerOffset::parse(fields).unwrap()),
        15 => drop(request::UpdateConsumerOffset::parse(fields).unwrap()),
        17 => drop(request::CreateTopic::parse(fields).unwrap()),
        29 => drop(request::SearchOffset::parse(fields).unwrap()),
        30 => drop(request::GetMaxOffset::parse(fields).unwrap()),
        31 => drop(request::GetMinOffset::parse(fields).unwrap()),
        32 => drop(request::GetEarliestMsgStoreTime::parse(fields).unwrap()),
        33 => drop(request::ViewMessage::parse(fields).unwrap()),
        34 => {
            let heartbeat = Heartbeat::decode(body).unwrap();
            assert!(!heartbeat.client_id.is_empty());
            if header.language == Language::Java && header.version == version::CURRENT {
                same(&heartbeat.encode(), body);
            }
        }
        35 => drop(request::UnregisterClient::parse(fields).unwrap()),
        36 => drop(request::ConsumerSendMsgBack::parse(fields).unwrap()),
        37 => drop(request::EndTransaction::parse(fields).unwrap()),
        38 => drop(request::GetConsumerList::parse(fields).unwrap()),
        39 => {
            request::CheckTransactionState::parse(fields).unwrap();
            assert_eq!(records(body).map(Result::unwrap).count(), 1);
        }
        40 => drop(request::NotifyConsumerIdsChanged::parse(fields).unwrap()),
        41 | 42 => assert!(!LockBatch::decode(body).unwrap().mq_set.is_empty()),
        46 => same(&CheckClientConfig::decode(body).unwrap().encode(), body),
        103 => {
            let register = request::RegisterBroker::parse(fields).unwrap();
            assert_eq!(register.body_crc32, Some(body_crc(body)));
            let topics = Registration::decode_as(body, register.compressed == Some(true)).unwrap();
            assert!(topics.topics.topic_config_table.contains_key("TBW102"));
        }
        105 => drop(request::GetRouteInfo::parse(fields).unwrap()),
        200 => assert!(!SubscriptionGroupConfig::decode(body).unwrap().group_name.is_empty()),
        202 | 215 | 300 | 351 => drop(request::TopicOnly::parse(fields).unwrap()),
        203 => drop(request::GetConsumerConnection::parse(fields).unwrap()),
        204 => drop(request::GetProducerConnection::parse(fields).unwrap()),
        207 => drop(request::DeleteSubscriptionGroup::parse(fields).unwrap()),
        208 => drop(request::GetConsumeStats::parse(fields).unwrap()),
        216 => drop(request::DeleteTopicInNamesrv::parse(fields).unwrap()),
        315 => drop(request::ViewBrokerStats::parse(fields).unwrap()),
        326 => drop(request::PushReply::parse(fields).unwrap()),
        303 => drop(request::QueryConsumeTimeSpan::parse(fields).unwrap()),
        343 | 345 => drop(request::QuerySubscription::parse(fields).unwrap()),
        222 => drop(request::ResetOffset::parse(fields).unwrap()),
        _ => {}
    }
}

fn check_route(body: &[u8]) {
    let route = Route::decode(body).unwrap();
    let quoted = body.windows(3).any(|w| w == b"{\"0");
    same(&route.encode_for(if quoted { 401 } else { 317 }, false), body);
}

#[test]
fn captured_frames_are_readable() {
    for vector in group("captured") {
        let name = vector["name"].as_str().unwrap();
        let given = bytes(&vector["hex"]);
        let (frame, header) = decode(&given);
        check_captured(name, &header, frame.body);
        // Java writes what we write, but for objects without fields, which we leave out.
        let java = header.language == Language::Java && frame.kind == HeaderKind::Json;
        if java && !String::from_utf8_lossy(frame.header).contains("\"extFields\":{}") {
            assert_eq!(encode(frame.kind, &header, frame.body), given, "{name}");
        }
        let mut binary = Vec::new();
        if header.encode(HeaderKind::Binary, &mut binary).is_ok() {
            let mut again = Header::decode(HeaderKind::Binary, &binary).unwrap();
            again.remark = again.remark.or(header.remark.clone().filter(|r| r.is_empty()));
            let texts = |fields: &Fields<'_>| {
                let pairs = fields.iter().filter(|(_, value)| !value.is_empty());
                pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<Vec<_>>()
            };
            assert_eq!(texts(&again.fields), texts(&header.fields), "{name}");
            assert_eq!((again.remark, again.code), (header.remark, header.code), "{name}");
        }
    }
}

/// Reads the text of a vector as that type and writes the same text.
macro_rules! same_text {
    ($($name:literal $ty:ty,)*) => {$(
        let read = <$ty>::decode(text($name).as_bytes()).unwrap();
        assert_eq!(String::from_utf8(read.encode()).unwrap(), text($name), $name);
    )*};
}

#[test]
fn bodies_are_written_as_java_writes_them() {
    same_text! {
        "route_legacy_unquoted_keys" Route,
        "cluster_info" ClusterInfo,
        "topic_list" TopicList,
        "kv_table" KvTable,
        "heartbeat_tag" Heartbeat,
        "heartbeat_sql92" Heartbeat,
        "subscription_data_all" SubscriptionData,
        "consumer_list" ConsumerList,
        "lock_batch_request" LockBatch,
        "lock_batch_response" LockedBatch,
        "unlock_batch_request" LockBatch,
        "topic_stats_table" TopicStats,
        "consume_stats" ConsumeStats,
        "reset_offset_body" ResetOffsets,
        "reset_offset_body_for_c" ResetOffsetList,
        "consumer_status_body" ConsumerStatus,
        "consumer_connection" ConsumerConnection,
        "producer_connection" ProducerConnection,
        "group_list" GroupList,
        "topic_config" TopicConfig,
        "topic_config_wrapper" TopicConfigTable,
        "topic_config_and_mapping_wrapper" TopicConfigTable,
        "register_broker_body_plain" Registration,
        "data_version" DataVersion,
        "subscription_group_config_default" SubscriptionGroupConfig,
        "subscription_group_wrapper" SubscriptionGroupTable,
        "check_client_config" CheckClientConfig,
        "query_subscription_response" QuerySubscription,
        "consume_time_span" ConsumeTimeSpans,
        "consumer_offset_table" ConsumerOffsetTable,
        "broker_stats_data" BrokerStats,
    }
    let default = SubscriptionGroupConfig { group_name: "CG".into(), ..SubscriptionGroupConfig::default() };
    assert_eq!(String::from_utf8(default.encode()).unwrap(), text("subscription_group_config_default"));
}

#[test]
fn routes_have_quoted_broker_ids_for_new_clients() {
    let route = Route::decode(text("route_standard").as_bytes()).unwrap();
    assert_eq!(route, Route::decode(text("route_legacy_unquoted_keys").as_bytes()).unwrap());
    for (version, standard, expected) in [
        (401, false, "route_standard"),
        (399, true, "route_standard"),
        (399, false, "route_legacy_unquoted_keys"),
    ] {
        assert_eq!(String::from_utf8(route.encode_for(version, standard)).unwrap(), text(expected));
    }
    assert_eq!(route.broker_datas[0].broker_addrs[&MASTER], "192.168.1.20:10911");
    let old = Route::decode(br#"{"queueDatas":[{"topicSynFlag":3}]}"#).unwrap();
    assert_eq!(old.queue_datas[0].topic_sys_flag, 3);
}

#[test]
fn registrations_are_read_in_both_forms() {
    let plain = text("register_broker_body_plain");
    assert_eq!(vector("register_broker_body_plain")["bodyCrc32"], body_crc(plain.as_bytes()));
    let plain = Registration::decode_as(plain.as_bytes(), false).unwrap();
    let compressed = Registration::decode_as(&given("register_broker_body_compressed"), true).unwrap();
    assert_eq!(compressed.topics.topic_config_table, plain.topics.topic_config_table);
    assert_eq!(compressed.topics.data_version, plain.topics.data_version);
    assert_eq!(compressed, Registration::decode_as(&compressed.encode_compressed(), true).unwrap());
    let topic = &compressed.topics.topic_config_table["TopicTest"];
    assert_eq!(topic.line(), text("topic_config_line"));
    assert_eq!(TopicConfig::from_line("T 4 5 6 SINGLE_TAG").unwrap().write_queue_nums, 5);
    assert!(Registration::decode_as(b"nonsense", true).is_err());
}

#[test]
fn odd_bodies_are_read_as_java_reads_them() {
    let queue = MessageQueue { broker_name: "a".into(), queue_id: 0, topic: "T".into() };
    for vector in group("lenient") {
        let name = vector["name"].as_str().unwrap();
        let input = vector["input"]["text"].as_str().unwrap().as_bytes();
        match name {
            "heartbeat_enum_ordinals_string_number" | "heartbeat_mixed_case_enum" => {
                let read = Heartbeat::decode(input).unwrap();
                assert_eq!(String::from_utf8(read.encode()).unwrap(), vector["reencoded"]);
            }
            "route_decode" => {
                let route = Route::decode(input).unwrap();
                assert_eq!(route.broker_datas[0].broker_addrs[&MASTER], vector["master"]);
            }
            "topic_stats_decode" => {
                assert_eq!(TopicStats::decode(input).unwrap().offset_table[&queue].max_offset, 9);
            }
            "quoted_object_key_consume_stats" => {
                assert_eq!(ConsumeStats::decode(input).unwrap().offset_table[&queue].pull_offset, 7);
            }
            "quoted_object_key_reset_offset" => {
                assert_eq!(ResetOffsets::decode(input).unwrap().offset_table[&queue], 5);
            }
            _ => assert!(name.starts_with("header_"), "{name}"),
        }
    }
}

#[test]
fn batches_are_read_and_written() {
    let given = given("client_batch_body");
    let items: Vec<_> = batch::items(&given).map(Result::unwrap).collect();
    assert_eq!(
        items.iter().map(|item| (item.flag, item.body)).collect::<Vec<_>>(),
        [(0, &b"body0"[..]), (1, &b"body1"[..])]
    );
    assert!(items[1].properties.starts_with(b"TAGS\x01T1\x02UNIQ_KEY\x01"));
    let mut out = Vec::new();
    for item in &items {
        batch::push(&mut out, item).unwrap();
    }
    assert_eq!(out, given);
    let cut: Vec<_> = batch::items(&given[..given.len() - 1]).collect();
    assert!(cut.len() == 2 && cut[0].is_ok() && cut[1].is_err());
    let long = BatchItem { flag: 0, body: b"", properties: &vec![b'x'; 32_768] };
    assert!(batch::push(&mut out, &long).is_err());
    assert_eq!(out, given);
}

#[test]
fn message_ids_are_those_of_java() {
    for vector in group("msgid").iter().filter(|v| v["name"] != "uniq_id_parts") {
        let id: MessageId = vector["id"].as_str().unwrap().parse().unwrap();
        assert_eq!(id.to_string(), vector["id"].as_str().unwrap());
        assert_eq!(id.store_host.ip().to_string(), vector["input"]["host"]);
        assert_eq!(i64::from(id.store_host.port()), vector["input"]["port"].as_i64().unwrap());
        assert_eq!(id.log_offset.get(), vector["input"]["offset"].as_u64().unwrap());
    }
    for bad in ["", "7F", "+F00000100002A9F0000000000000064", "7F000001FFFF2A9F0000000000000064", "ü"] {
        assert!(bad.parse::<MessageId>().is_err(), "{bad}");
    }
}

#[test]
fn unfinished_frames_are_no_error_and_bad_ones_are() {
    let whole = given("json_response_remark_body");
    for len in 0..whole.len() {
        assert_eq!(Frame::decode(&whole[..len]), Ok(None), "{len}");
    }
    assert_eq!(frame::frame_len(&whole[..4], 1000), Ok(Some(whole.len())));
    let error = Frame::decode_within(&whole[..4], whole.len() - 1).unwrap_err();
    assert_eq!(error, FrameError::TooLong { len: whole.len(), max: whole.len() - 1 });
    assert!(Frame::decode_within(&whole, whole.len()).unwrap().is_some());
    assert!(matches!(Frame::decode(&[0x16, 3, 1, 2]), Err(FrameError::TooLong { .. })), "a TLS handshake");
    assert!(matches!(Frame::decode(&[0, 0, 0, 3]), Err(FrameError::HeaderLength { .. })));
    let beyond = [0, 0, 0, 4, 0, 0, 0, 1];
    assert_eq!(Frame::decode(&beyond), Err(FrameError::HeaderLength { len: 8, header_len: 1 }));
    assert_eq!(Frame::decode(&[0, 0, 0, 4, 2, 0, 0, 0]), Err(FrameError::HeaderKind { kind: 2 }));
    let mut two = whole.clone();
    two.extend_from_slice(&whole);
    assert_eq!(Frame::decode(&two).unwrap().unwrap().1, whole.len());
    let header = Header::default();
    assert!(frame::encode_head(&mut Vec::new(), HeaderKind::Json, &header, frame::FRAME_BYTES_MAX).is_err());
}

#[test]
fn texts_keep_every_character() {
    let odd = "\u{1}\u{2}\"\\/\u{8}\t\n\u{c}\r\u{b}\u{1f}\u{7f}ü中\u{1F600}";
    let mut fields = Fields::new();
    fields.push("i", odd);
    let header = Header::request(RequestCode::SEND_MESSAGE_V2, -5, fields).with_remark(odd);
    for kind in [HeaderKind::Json, HeaderKind::Binary] {
        let mut out = Vec::new();
        header.encode(kind, &mut out).unwrap();
        assert_eq!(Header::decode(kind, &out).unwrap(), header);
    }
    let pair = r#"{"remark":"\ud83d\ude00 \ud83d \u00e4\/\'"}"#;
    let read = Header::decode(HeaderKind::Json, pair.as_bytes()).unwrap();
    assert_eq!(read.remark.as_deref(), Some("\u{1F600} \u{FFFD} ä/'"));
    let raw = Header::decode(HeaderKind::Json, b"{\"remark\":\"\xff\"}").unwrap();
    assert_eq!(raw.remark, Some(Cow::Borrowed("\u{FFFD}")));
}

#[test]
fn codes_have_one_name_each() {
    assert_eq!(RequestCode(310).name(), Some("SEND_MESSAGE_V2"));
    assert_eq!(RequestCode::PULL_MESSAGE.to_string(), "11 PULL_MESSAGE");
    assert_eq!(ResponseCode::from(999).to_string(), "999");
    for codes in [RequestCode::ALL.len(), ResponseCode::ALL.len()] {
        assert!(codes > 30);
    }
}

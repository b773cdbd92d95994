//! The bytes that `RocketMQ`'s own classes print, and bytes of any kind.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use proptest::prelude::*;
use serde_json::Value;
use sluice_protocol::compression::inflate;
use sluice_protocol::id::{QueueId, TopicName};
use sluice_protocol::message::{self, Message, property, push_property, tag_hash};
use sluice_protocol::record::{self, MAGIC_V2, Record, body_crc, encode, patch, records};

fn vectors() -> Vec<Value> {
    serde_json::from_str(include_str!("golden.json")).unwrap()
}

fn vector(name: &str) -> Value {
    vectors().into_iter().find(|v| v["name"] == name).unwrap()
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

fn check_stored(name: &str, born: &str, store: &str, sys_flag: i32) {
    let given = bytes(&vector(name)["hex"]);
    let read = Record::decode(&given).unwrap();
    assert!(read.check_body_crc());
    assert_eq!((read.size, read.queue_id, read.flag), (given.len(), 3, 7));
    assert_eq!((read.queue_offset, read.log_offset), (123_456_789, 9_876_543_210));
    assert_eq!((read.born_timestamp_ms, read.store_timestamp_ms), (1_700_000_000_000, 1_700_000_000_123));
    assert_eq!((read.born_host.to_string(), read.store_host.to_string()), (born.into(), store.into()));
    assert_eq!((read.sys_flag, read.reconsume_times, read.prepared_transaction_offset), (sys_flag, 2, 55));
    assert_eq!((read.topic, read.body_crc), ("TopicTest", 1_774_740_973));
    assert_eq!(&given[read.body_start..][..read.body.len()], b"Hello RocketMQ");
    assert_eq!(&given[read.properties_start..], read.properties);
    assert_eq!(property(read.properties, message::KEYS), Some("key1 key2"));
    assert_eq!(message::tag_hash_of(read.properties), 2_598_919);
    assert_eq!(encoded_again(&read), given);
}

fn encoded_again(read: &Record<'_>) -> Vec<u8> {
    let message = Message {
        body: read.body,
        properties: read.properties,
        flag: read.flag,
        sys_flag: read.sys_flag,
        born_timestamp_ms: read.born_timestamp_ms,
        born_host: read.born_host,
        store_host: read.store_host,
        reconsume_times: read.reconsume_times,
        prepared_transaction_offset: read.prepared_transaction_offset,
    };
    let mut out = Vec::new();
    encode(&mut out, read.topic, QueueId::new(read.queue_id).unwrap(), &message).unwrap();
    patch(&mut out, read.queue_offset, read.log_offset, read.store_timestamp_ms);
    out
}

#[test]
fn stored_messages_of_the_java_classes_decode_and_encode_to_the_same_bytes() {
    check_stored("stored_message_ipv4", "192.168.1.10:40000", "192.168.1.20:10911", 0);
    check_stored("stored_message_ipv6", "[2001:db8::1]:40000", "[2001:db8::2]:10911", 48);
    let zlib = bytes(&vector("stored_message_zlib")["hex"]);
    let read = Record::decode(&zlib).unwrap();
    assert!(read.check_body_crc(), "the checksum is that of the compressed body");
    assert_eq!(encoded_again(&read), zlib);
}

#[test]
fn bodies_that_java_compresses_come_out_as_they_were() {
    for (name, flags) in [("body_zlib", 0x301), ("body_lz4", 0x101), ("body_zstd", 0x201)] {
        let body = inflate(&bytes(&vector(name)["hex"]), flags).unwrap();
        assert_eq!(body, b"RocketMQ ".repeat(40), "{name}");
    }
}

#[test]
fn the_encoder_writes_what_the_java_broker_writes() {
    for name in ["broker_encoder_v1", "broker_encoder_v2_long_topic", "broker_encoder_no_properties"] {
        let vector = vector(name);
        let input = &vector["input"];
        let message = Message {
            body: b"Hello RocketMQ",
            properties: input["properties"].as_str().unwrap_or("").as_bytes(),
            born_timestamp_ms: 1_700_000_000_000,
            born_host: "192.168.1.10:40000".parse().unwrap(),
            store_host: "192.168.1.20:10911".parse().unwrap(),
            ..Message::default()
        };
        let mut out = Vec::new();
        encode(&mut out, input["topic"].as_str().unwrap(), QueueId::new(1).unwrap(), &message).unwrap();
        patch(&mut out, 7, 0, 1_700_000_000_123);
        assert_eq!(out, bytes(&vector["hex"]), "{name}");
        assert_eq!(Record::decode(&out).unwrap().topic, input["topic"].as_str().unwrap());
    }
    let v2 = bytes(&vector("broker_encoder_v2_long_topic")["hex"]);
    assert_eq!(v2[4..8], MAGIC_V2.to_be_bytes());
}

#[test]
fn properties_decode_as_the_java_classes_do() {
    for vector in vectors().iter().filter(|v| v["group"] == "properties") {
        let encoded = if vector["name"] == "decode" { &vector["input"]["hex"] } else { &vector["hex"] };
        let encoded = bytes(encoded);
        let expected = vector.get("decoded").or(vector.get("decoded_back")).unwrap().as_object().unwrap();
        let read: Vec<_> = message::properties(&encoded).collect();
        for (name, value) in &read {
            assert_eq!(expected[*name], *value, "{vector}");
        }
        assert!(expected.keys().all(|k| property(&encoded, k) == expected[k].as_str()), "{vector}");
        assert!(read.iter().all(|(name, _)| expected.contains_key(*name)), "{vector}");
    }
}

#[test]
fn hashes_and_checksums_are_those_of_the_java_classes() {
    for vector in vectors() {
        match vector["name"].as_str().unwrap() {
            "tag_code" => {
                let tag = vector["input"]["tag"].as_str().unwrap_or("");
                assert_eq!(tag_hash(tag), vector["tagsCode"].as_i64().unwrap(), "{tag}");
            }
            "crc32_masked" => {
                let body = vector["input"]["utf8"].as_str().unwrap();
                assert_eq!(u64::from(body_crc(body.as_bytes())), vector["value"].as_u64().unwrap());
            }
            _ => {}
        }
    }
}

#[test]
fn records_end_at_the_first_one_that_is_cut() {
    let one = bytes(&vector("stored_message_ipv4")["hex"]);
    let two = [&one[..], &one[..]].concat();
    assert_eq!(records(&two).flatten().count(), 2);
    let cut: Vec<_> = records(&two[..two.len() - 1]).collect();
    assert!(cut.len() == 2 && cut[0].is_ok() && cut[1].is_err());
}

#[test]
fn the_fields_that_the_store_sets_do_not_change_the_hash_over_the_run() {
    for name in ["stored_message_ipv4", "stored_message_ipv6"] {
        let mut record = bytes(&vector(name)["hex"]);
        let hash = |record: &[u8]| {
            let mut hasher = crc32fast::Hasher::new();
            record::hash_unpatched(&mut hasher, record);
            hasher.finalize()
        };
        let before = hash(&record);
        patch(&mut record, 1, 2, 3);
        assert_eq!(hash(&record), before);
        patch(&mut record, 0, 0, 0);
        assert_eq!(crc32fast::hash(&record), before);
        record[48] ^= 1;
        assert_ne!(hash(&record), before);
    }
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself(
        topic in "[A-Za-z0-9_%|-]{1,200}",
        queue in 0..i32::MAX,
        body in prop::collection::vec(any::<u8>(), 0..600),
        pairs in prop::collection::vec(("[a-zA-Z]{1,8}", "[^\u{0}\u{2}]{1,20}"), 0..5),
        numbers in any::<(i32, i32, i64, i64, u64, i64)>(),
        hosts in any::<(std::net::SocketAddr, std::net::SocketAddr)>(),
    ) {
        let mut properties = Vec::new();
        for (name, value) in &pairs {
            push_property(&mut properties, name, value).unwrap();
        }
        let (flag, sys_flag, born, queue_offset, log_offset, stored) = numbers;
        let message = Message {
            body: &body, properties: &properties, flag, sys_flag, born_timestamp_ms: born,
            born_host: hosts.0, store_host: hosts.1, ..Message::default()
        };
        let topic = TopicName::stored(&topic).unwrap();
        let mut out = Vec::new();
        let size = encode(&mut out, topic.as_str(), QueueId::new(queue).unwrap(), &message).unwrap();
        patch(&mut out, queue_offset, log_offset, stored);
        let read = Record::decode(&out).unwrap();
        prop_assert_eq!(read.size, size);
        prop_assert!(read.check_body_crc());
        prop_assert_eq!(
            (read.topic, read.queue_id, read.body, read.properties, read.flag),
            (topic.as_str(), queue, &body[..], &properties[..], flag)
        );
        prop_assert_eq!((read.queue_offset, read.log_offset, read.store_timestamp_ms), (queue_offset, log_offset, stored));
        prop_assert_eq!((read.born_host.ip(), read.store_host.port()), (hosts.0.ip(), hosts.1.port()));
        let back: Vec<_> = message::properties(read.properties).collect();
        prop_assert_eq!(back, pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect::<Vec<_>>());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), v2 in any::<bool>(), size in 0..400u32) {
        let _ = records(&bytes).count();
        let _ = message::properties(&bytes).count();
        patch(&mut bytes, 1, 2, 3);
        if bytes.len() >= 8 {
            bytes[..4].copy_from_slice(&size.to_be_bytes());
            bytes[4..8].copy_from_slice(&if v2 { record::MAGIC_V2 } else { record::MAGIC_V1 }.to_be_bytes());
            let _ = records(&bytes).count();
            record::hash_unpatched(&mut crc32fast::Hasher::new(), &bytes);
        }
    }

    #[test]
    fn a_valid_record_cut_or_changed_anywhere_never_panics(at in 0..225usize, byte in any::<u8>()) {
        let mut record = bytes(&vector("stored_message_ipv4")["hex"]);
        prop_assert!(Record::decode(&record[..at]).is_err());
        record[at] = byte;
        let _ = Record::decode(&record).map(|r| r.check_body_crc());
    }
}

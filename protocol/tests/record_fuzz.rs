//! Bytes and fields of any kind: records, batches and typed headers are read or refused, and nothing panics.
//!
//! The number of inputs of each test is `SLUICE_FUZZ_INPUTS`; more by
//! `SLUICE_FUZZ_INPUTS=1000000 cargo test --release -p sluice-protocol`.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod odd;

use std::net::SocketAddr;
use std::sync::LazyLock;

use odd::{inputs, odd};
use proptest::prelude::*;
use sluice_protocol::batch::{self, BatchItem};
use sluice_protocol::fields::{FieldError, Fields};
use sluice_protocol::id::QueueId;
use sluice_protocol::message::{self, Message, PROPERTIES_BYTES_MAX, push_property};
use sluice_protocol::record::{self, RECORD_BYTES_MIN, Record};
use sluice_protocol::{request, response};

const PROPERTIES: &[u8] = b"KEYS\x01k\x02TAGS\x01Tag\x02a\x011";

/// Records of both magics and address lengths, alone and one after the other; batches; properties.
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let hosts: [SocketAddr; 2] = ["10.0.0.1:9876".parse().unwrap(), "[::1]:10911".parse().unwrap()];
    let mut seeds = vec![PROPERTIES.to_vec(), record::filler(100).to_vec()];
    for (born_host, store_host) in hosts.into_iter().flat_map(|born| hosts.map(|store| (born, store))) {
        for topic in ["t".to_owned(), "long-".repeat(40)] {
            for body in [&b""[..], b"some body", &[7; 300]] {
                let message =
                    Message { body, properties: PROPERTIES, born_host, store_host, ..Message::default() };
                let mut bytes = Vec::new();
                record::encode(&mut bytes, &topic, QueueId::ZERO, &message).unwrap();
                let len = bytes.len();
                record::patch(&mut bytes[..len], 5, 700, 1_700_000_000_000);
                record::encode(&mut bytes, "other", QueueId::ZERO, &message).unwrap();
                seeds.extend([bytes[..len].to_vec(), bytes]);
            }
        }
    }
    for count in 1..4 {
        let mut bytes = Vec::new();
        for _ in 0..count {
            batch::push(&mut bytes, &BatchItem { flag: 0, body: b"body", properties: PROPERTIES }).unwrap();
        }
        seeds.push(bytes);
    }
    seeds
});

/// Names of fields: those that typed headers have, as their source spells them, and others.
static NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let quoted = |source: &'static str| source.split('"').skip(1).step_by(2);
    let sources = [include_str!("../src/request.rs"), include_str!("../src/response.rs")];
    sources.into_iter().flat_map(quoted).chain(["", "odd", "queueid"]).collect()
});

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => any::<i32>().prop_map(|number| number.to_string()),
        2 => any::<i64>().prop_map(|number| number.to_string()),
        1 => prop::sample::select(vec!["true", "TRUE", "false", "", "-", "+1", " 1", "1e3", "99999999999999999999"])
            .prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

/// Reads the fields as those headers; what can be read is written and read again as the same.
macro_rules! read_headers {
    ($fields:expr, $($ty:ty),* $(,)?) => {$(
        match <$ty>::parse($fields) {
            Ok(read) => {
                let written = read.fields();
                prop_assert_eq!(&<$ty>::parse(&written).unwrap(), &read);
            }
            Err(FieldError::Missing { name }) => prop_assert!(name.split('/').all(|n| $fields.get(n).is_none())),
            Err(FieldError::Bad { value, .. }) => prop_assert!(value.chars().count() <= 100),
        }
    )*};
}

proptest! {
    #![proptest_config(inputs())]

    #[test]
    fn any_bytes_are_records_or_an_error(bytes in odd(&SEEDS), patched in any::<(i64, u64, i64)>()) {
        let mut at = 0;
        for record in record::records(&bytes) {
            let Ok(record) = record else { break };
            prop_assert!(record.size >= RECORD_BYTES_MIN && record.properties.len() <= PROPERTIES_BYTES_MAX);
            let own = &bytes[at..at + record.size];
            prop_assert_eq!(&own[record.body_start..][..record.body.len()], record.body);
            prop_assert_eq!(&own[record.properties_start..][..record.properties.len()], record.properties);
            let parts = record.body.len() + record.topic.len() + record.properties.len();
            prop_assert!(parts <= record.size - RECORD_BYTES_MIN + 1);
            let _ = (record.check_body_crc(), message::tag_hash_of(record.properties));
            for (name, value) in message::properties(record.properties) {
                prop_assert!(name.len() + value.len() < record.properties.len());
            }
            at += record.size;
        }
        prop_assert!(at <= bytes.len());
        // What the store does before it knows whether there is a record.
        let _ = record::filler_size(&bytes);
        record::hash_unpatched(&mut crc32fast::Hasher::new(), &bytes);
        let mut bytes = bytes;
        record::patch(&mut bytes, patched.0, patched.1, patched.2);
        if let Ok(record) = Record::decode(&bytes) {
            prop_assert_eq!((record.queue_offset, record.log_offset, record.store_timestamp_ms), patched);
        }
    }

    #[test]
    fn records_are_read_as_they_were_written(
        (body, properties) in (prop::collection::vec(any::<u8>(), 0..300), prop::collection::vec(any::<u8>(), 0..100)),
        topic in "[a-zA-Z0-9_%|-]{1,250}",
        queue in 0..=i32::MAX,
        (flag, sys_flag, times) in any::<(i32, i32, i32)>(),
        (born, prepared) in any::<(i64, i64)>(),
        (born_host, store_host) in any::<(SocketAddr, SocketAddr)>(),
    ) {
        let message = Message {
            body: &body, properties: &properties, flag, sys_flag, born_timestamp_ms: born, born_host, store_host,
            reconsume_times: times, prepared_transaction_offset: prepared,
        };
        let mut bytes = Vec::new();
        let size = record::encode(&mut bytes, &topic, QueueId::new(queue).unwrap(), &message).unwrap();
        let read = Record::decode(&bytes).unwrap();
        prop_assert!(read.check_body_crc());
        prop_assert_eq!((size, read.topic, read.queue_id), (bytes.len(), topic.as_str(), queue));
        prop_assert_eq!((read.body, read.properties, read.flag), (&body[..], &properties[..], flag));
        prop_assert_eq!((read.reconsume_times, read.prepared_transaction_offset), (times, prepared));
        prop_assert_eq!((read.born_host.ip(), read.store_host.port()), (born_host.ip(), store_host.port()));
        prop_assert!(Record::decode(&bytes[..size - 1]).is_err());
    }

    #[test]
    fn any_bytes_are_a_batch_or_an_error(bytes in odd(&SEEDS)) {
        let mut left = bytes.len();
        for item in batch::items(&bytes) {
            let Ok(item) = item else { break };
            let mut again = Vec::new();
            batch::push(&mut again, &item).unwrap();
            prop_assert!(again.len() <= left);
            left -= again.len();
        }
    }

    #[test]
    fn any_properties_take_another_one(bytes in odd(&SEEDS), name in "[a-z]{1,5}", value in "[0-9]{1,5}") {
        let mut properties = bytes;
        if push_property(&mut properties, &name, &value).is_ok() {
            prop_assert_eq!(message::property(&properties, &name), Some(value.as_str()));
            prop_assert!(properties.len() <= PROPERTIES_BYTES_MAX);
        }
    }

    #[test]
    fn any_fields_are_a_typed_header_or_an_error(
        texts in prop::collection::vec((prop::sample::select(NAMES.clone()), text()), 0..40),
        all in prop::option::of(text()),
    ) {
        use request as q;
        use response as r;
        let mut fields = Fields::new();
        if let Some(text) = &all {
            NAMES.iter().for_each(|name| fields.push(*name, text.as_str()));
        }
        for (name, value) in &texts {
            fields.push(*name, value.as_str());
        }
        read_headers!(
            &fields, q::SendMessage<'_>, q::PullMessage<'_>, q::QueryMessage<'_>, q::QueryConsumerOffset<'_>,
            q::UpdateConsumerOffset<'_>, q::CreateTopic<'_>, q::SearchOffset<'_>, q::GetMaxOffset<'_>,
            q::GetMinOffset<'_>, q::GetEarliestMsgStoreTime<'_>, q::ViewMessage<'_>, q::UnregisterClient<'_>,
            q::ConsumerSendMsgBack<'_>, q::EndTransaction<'_>, q::GetConsumerList<'_>,
            q::CheckTransactionState<'_>, q::NotifyConsumerIdsChanged<'_>, q::RegisterBroker<'_>,
            q::UnregisterBroker<'_>, q::GetRouteInfo<'_>, q::BrokerHeartbeat<'_>, q::TopicOnly<'_>,
            q::DeleteTopicInNamesrv<'_>, q::GetConsumeStats<'_>, q::GetConsumerConnection<'_>,
            q::GetProducerConnection<'_>, q::DeleteSubscriptionGroup<'_>, q::GetSubscriptionGroupConfig<'_>,
            q::ResetOffset<'_>, q::KvConfig<'_>, q::PutKvConfig<'_>, q::GetKvList<'_>, q::GetTopicsByCluster<'_>,
            q::WritePermOfBroker<'_>, q::QueryDataVersion<'_>, q::QueryConsumeTimeSpan<'_>,
            q::QuerySubscription<'_>, q::ViewBrokerStats<'_>, q::PushReply<'_>, r::SendMessage<'_>,
            r::PullMessage, r::Offset, r::Timestamp, r::QueryMessage, r::Heartbeat, r::RegisterBroker<'_>,
            r::GetKvConfig<'_>, r::QueryDataVersion, r::WipeWritePerm, r::AddWritePerm,
        );
    }
}

//! Bytes of any kind: nothing panics, and what is written is read again.
//!
//! The number of inputs of each test is `SLUICE_FUZZ_INPUTS`; more by
//! `SLUICE_FUZZ_INPUTS=1000000 cargo test --release -p sluice-protocol`.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod odd;

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::LazyLock;

use odd::{inputs, odd};
use proptest::prelude::*;
use serde_json::Value;
use sluice_protocol::batch::{self, BatchItem};
use sluice_protocol::body::{ConsumerList, KvTable};
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::fields::{FIELDS_MAX, Fields};
use sluice_protocol::frame::{self, Frame};
use sluice_protocol::header::{Header, HeaderError, HeaderKind};
use sluice_protocol::heartbeat::{ConsumerConnection, Heartbeat, SubscriptionData};
use sluice_protocol::id::LogOffset;
use sluice_protocol::json::{DEPTH_MAX, ITEMS_MAX, JsonError};
use sluice_protocol::message_id::MessageId;
use sluice_protocol::queue::{ConsumerOffsetTable, LockBatch, MessageQueue, ResetOffsets, TopicStats};
use sluice_protocol::registration::{INFLATED_BYTES_MAX, Registration, RegistrationError};
use sluice_protocol::route::{ClusterInfo, Route};
use sluice_protocol::topic::{SubscriptionGroupTable, TopicConfig};
use sluice_protocol::{request, response};

/// Frames and texts that are right, for others to be made of them.
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let vectors: Vec<Value> = serde_json::from_str(include_str!("remoting.json")).unwrap();
    let hex = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    };
    let mut seeds = Vec::new();
    for vector in &vectors {
        seeds.extend(vector["hex"].as_str().map(hex));
        for text in [&vector["text"], &vector["input"]["text"]] {
            seeds.extend(text.as_str().map(|text| text.as_bytes().to_vec()));
        }
    }
    let bodies: Vec<_> = seeds
        .iter()
        .filter_map(|seed| Frame::decode(seed).ok()?.map(|(frame, _)| frame))
        .flat_map(|frame| [frame.header.to_vec(), frame.body.to_vec()])
        .collect();
    seeds.extend(bodies);
    seeds
});

/// Reads the body as that type; what can be read is written and read again as the same.
macro_rules! read_again {
    ($bytes:expr, $($ty:ty),*) => {$(
        if let Ok(read) = <$ty>::decode($bytes) {
            let written = read.encode();
            prop_assert_eq!(&<$ty>::decode(&written).unwrap(), &read);
        }
    )*};
}

/// The texts of a header take no more than three bytes for each that came, which is what U+FFFD takes.
fn check_size(header: &Header<'_>, len: usize) {
    let texts: usize = header.fields.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(texts + header.remark.as_ref().map_or(0, |r| r.len()) <= 3 * len);
    assert!(header.fields.len() <= FIELDS_MAX.min(len));
}

proptest! {
    #![proptest_config(inputs())]

    #[test]
    fn any_bytes_are_a_frame_or_an_error(bytes in odd(&SEEDS)) {
        if let Ok(Some((frame, len))) = Frame::decode(&bytes) {
            prop_assert!(len <= bytes.len());
            prop_assert_eq!(8 + frame.header.len() + frame.body.len(), len);
        }
        for kind in [HeaderKind::Json, HeaderKind::Binary] {
            let Ok(header) = Header::decode(kind, &bytes) else { continue };
            check_size(&header, bytes.len());
            let _ = request::SendMessage::parse(&header.fields);
            let _ = request::PullMessage::parse(&header.fields);
            let _ = response::SendMessage::parse(&header.fields);
            let mut out = Vec::new();
            header.encode(HeaderKind::Json, &mut out).unwrap();
            prop_assert_eq!(Header::decode(HeaderKind::Json, &out).unwrap(), header);
        }
    }

    #[test]
    fn any_bytes_are_a_body_or_an_error(bytes in odd(&SEEDS)) {
        read_again!(&bytes, Heartbeat, Route, ClusterInfo, TopicStats, ResetOffsets, LockBatch, KvTable,
            ConsumerList, ConsumerConnection, ConsumerOffsetTable, SubscriptionGroupTable, Registration,
            TopicConfig);
        let _ = Registration::decode_as(&bytes, true);
        let _ = TopicConfig::from_line(&String::from_utf8_lossy(&bytes));
        let items = batch::items(&bytes).count();
        prop_assert!(items <= bytes.len() / 22 + 1);
        let _ = String::from_utf8_lossy(&bytes).parse::<MessageId>();
    }

    #[test]
    fn headers_are_read_as_they_were_written(
        code in any::<i16>(), opaque in any::<i32>(), flag in any::<i32>(),
        remark in prop::option::of(".{1,20}"),
        texts in prop::collection::vec((".{0,8}", ".{1,40}"), 0..20),
        body in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let mut fields = Fields::new();
        for (name, value) in &texts {
            fields.push(name.as_str(), value.as_str());
        }
        let mut header = Header::request(RequestCode(code.into()), opaque, fields);
        header.flag = flag;
        header.remark = remark.map(Into::into);
        for kind in [HeaderKind::Json, HeaderKind::Binary] {
            let mut out = vec![];
            frame::encode(&mut out, kind, &header, &body).unwrap();
            let (frame, len) = Frame::decode(&out).unwrap().unwrap();
            prop_assert_eq!((len, frame.body), (out.len(), &body[..]));
            prop_assert_eq!(&frame.header().unwrap(), &header);
        }
    }

    #[test]
    fn json_headers_are_json(texts in prop::collection::btree_map(any::<String>(), any::<String>(), 1..10)) {
        let mut fields = Fields::new();
        for (name, value) in &texts {
            fields.push(name.as_str(), value.as_str());
        }
        let mut out = Vec::new();
        Header::response(ResponseCode::SUCCESS, 1, fields).encode(HeaderKind::Json, &mut out).unwrap();
        let read: Value = serde_json::from_slice(&out).unwrap();
        let read: BTreeMap<String, String> = serde_json::from_value(read["extFields"].clone()).unwrap();
        prop_assert_eq!(read, texts);
    }

    #[test]
    fn bodies_are_read_as_they_were_written(
        texts in prop::collection::btree_map(any::<String>(), any::<String>(), 0..5),
        queues in prop::collection::vec((any::<String>(), any::<i32>(), any::<String>(), any::<i64>()), 0..5),
        tags in prop::collection::vec(any::<String>(), 0..5),
        codes in prop::collection::vec(any::<i64>(), 0..5),
    ) {
        let queues = queues.into_iter().map(|(broker_name, queue_id, topic, offset)| {
            (MessageQueue { broker_name, queue_id, topic }, offset)
        });
        let offsets = ResetOffsets { offset_table: queues.collect() };
        prop_assert_eq!(ResetOffsets::decode(&offsets.encode()).unwrap(), offsets);
        let subscription =
            SubscriptionData { tags_set: tags, code_set: codes, ..SubscriptionData::default() };
        prop_assert_eq!(SubscriptionData::decode(&subscription.encode()).unwrap(), subscription);
        let table = KvTable { table: texts };
        prop_assert_eq!(KvTable::decode(&table.encode()).unwrap(), table);
    }

    #[test]
    fn batches_are_read_as_they_were_written(
        messages in prop::collection::vec(
            (any::<i32>(), prop::collection::vec(any::<u8>(), 0..50), prop::collection::vec(any::<u8>(), 0..50)),
            0..8,
        ),
    ) {
        let items: Vec<_> =
            messages.iter().map(|(flag, body, properties)| BatchItem { flag: *flag, body, properties }).collect();
        let mut out = Vec::new();
        for item in &items {
            batch::push(&mut out, item).unwrap();
        }
        prop_assert_eq!(batch::items(&out).collect::<Result<Vec<_>, _>>().unwrap(), items);
    }

    #[test]
    fn message_ids_are_read_as_they_were_written(host in any::<SocketAddr>(), offset in any::<u64>()) {
        let store_host = SocketAddr::new(host.ip(), host.port());
        let id = MessageId { store_host, log_offset: LogOffset::new(offset) };
        prop_assert_eq!(id.to_string().parse::<MessageId>().unwrap(), id);
    }
}

#[test]
fn what_nests_or_lists_too_much_is_refused() {
    let deep = |n: usize| format!("{{\"x\":{}{}}}", "[".repeat(n), "]".repeat(n));
    let max = DEPTH_MAX as usize - 1;
    assert!(Heartbeat::decode(deep(max).as_bytes()).is_ok());
    for n in [max + 1, 1_000_000] {
        let read = Heartbeat::decode(deep(n).as_bytes());
        assert!(matches!(read, Err(JsonError::Depth { .. })), "{n}");
        let read = Header::decode(HeaderKind::Json, &deep(n).into_bytes()).map(drop);
        assert!(matches!(read, Err(HeaderError::Json(JsonError::Depth { .. }))), "{n}");
    }
    let list = |n: u32| format!("{{\"consumerIdList\":[{}]}}", vec!["1"; n as usize].join(","));
    assert!(ConsumerList::decode(list(ITEMS_MAX - 1).as_bytes()).is_ok());
    assert!(matches!(ConsumerList::decode(list(ITEMS_MAX).as_bytes()), Err(JsonError::Items { .. })));
    let fields = |n| format!("{{\"extFields\":{{{}}}}}", vec!["a:1"; n].join(","));
    assert!(Header::decode(HeaderKind::Json, fields(FIELDS_MAX).as_bytes()).is_ok());
    let read = Header::decode(HeaderKind::Json, fields(FIELDS_MAX + 1).as_bytes()).map(drop);
    assert_eq!(read, Err(HeaderError::Fields { max: FIELDS_MAX }));
}

#[test]
fn what_inflates_too_much_is_refused() {
    let mut bomb = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::copy(&mut std::io::repeat(0).take(INFLATED_BYTES_MAX as u64 + 1), &mut bomb).unwrap();
    let read = Registration::decode_as(&bomb.finish().unwrap(), true);
    assert!(matches!(read, Err(RegistrationError::TooLarge { max: INFLATED_BYTES_MAX, unit: "bytes" })));
}

//! A topic as a sink: which queue a row goes to, what is no message, and the position beside the rows.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryViewArray, Int64Array, RecordBatch, StringViewArray};
use proptest::collection::vec;
use proptest::prelude::*;
use sluice_connect::batch;
use sluice_connect::task::{Chain, Class, Fates, Range, Slice, TransactTask};
use sluice_protocol::id::{QueueId, QueueOffset, TopicName};
use sluice_protocol::message::{self, KEYS, PROPERTIES_BYTES_MAX, TAGS};
use sluice_protocol::record::records;
use sluice_sinks::topic::TopicSink;
use sluice_store::file::RealDisk;
use sluice_store::{ATOMIC_PROPERTIES_BYTES_MAX, BODY_BYTES_MAX, Settings, Store};
use sluice_testkit::ManualClock;
use tempfile::TempDir;

struct Place {
    store: Store,
    sink: TopicSink,
    _folder: TempDir,
}

impl Place {
    fn new(queues: u32) -> Self {
        let folder = TempDir::new().unwrap();
        let clock = ManualClock::new(1000).clock();
        let settings = Settings::embedded(folder.path());
        let store = Store::open(settings, Arc::new(RealDisk), clock.clone()).unwrap();
        let mut sink = TopicSink::new("t", queues, store.clone(), clock).unwrap();
        sink.begin(&chain(), 0, "i").unwrap();
        Self { store, sink, _folder: folder }
    }

    /// Body, key and tag of the messages of a queue.
    fn messages(&self, queue: i32) -> Vec<(String, Option<String>, Option<String>)> {
        let queue = QueueId::new(queue).unwrap();
        let read =
            self.store.read(&TopicName::new("t").unwrap(), queue, QueueOffset::new(0), 64 << 20).unwrap();
        let all = read.runs.iter().flat_map(|run| records(&run.bytes)).map(Result::unwrap);
        let text = |properties, name| message::property(properties, name).map(str::to_owned);
        all.map(|r| {
            let body = String::from_utf8(r.body.to_vec()).unwrap();
            (body, text(r.properties, KEYS), text(r.properties, TAGS))
        })
        .collect()
    }
}

fn chain() -> Chain {
    Chain { pipeline: "p".into(), topic: "source".into(), queue: 0 }
}

fn slice(start: i64, envelope: RecordBatch) -> Slice {
    let end = start + i64::try_from(envelope.num_rows()).unwrap();
    let range = Range { start, end };
    Slice {
        range,
        envelope,
        decoded: None,
        filtered: 0,
        absent: 0,
        deduplicated: Vec::new(),
        rejects: Vec::new(),
        bytes: 0,
        stored_ms: None,
    }
}

fn keyed(start: i64, rows: &[(&str, Option<&str>)]) -> Slice {
    let offsets: Int64Array = (start..).take(rows.len()).collect();
    let bodies: BinaryViewArray = rows.iter().map(|(body, _)| Some(body.as_bytes())).collect();
    let keys: StringViewArray = rows.iter().map(|(_, key)| *key).collect();
    let columns: [(&str, ArrayRef); 4] = [
        ("queue_offset", Arc::new(offsets)),
        ("body", Arc::new(bodies)),
        ("keys", Arc::new(keys.clone())),
        ("tags", Arc::new(keys)),
    ];
    slice(
        start,
        RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, n != "queue_offset"))).unwrap(),
    )
}

fn fates(written: u64) -> Fates {
    Fates { written, ..Fates::default() }
}

#[test]
fn equal_keys_meet_in_one_queue_and_rows_without_are_spread() {
    let mut place = Place::new(4);
    let rows =
        keyed(0, &[("a0", Some("a")), ("b0", Some("b")), ("a1", Some("a")), ("n0", None), ("n1", None)]);
    place.sink.commit(&chain(), "i", &rows, &fates(5)).unwrap();
    let rows = keyed(5, &[("x", None), ("a2", Some("a"))]);
    place.sink.commit(&chain(), "i", &rows, &fates(2)).unwrap();
    let queues: Vec<_> = (0..4).map(|queue| place.messages(queue)).collect();
    let of_a: Vec<_> = queues
        .iter()
        .map(|q| {
            q.iter()
                .filter(|(_, key, _)| key.as_deref() == Some("a"))
                .map(|(b, ..)| b.as_str())
                .collect::<Vec<_>>()
        })
        .filter(|found| !found.is_empty())
        .collect();
    assert_eq!(of_a, [["a0", "a1", "a2"]]);
    let place_of = |body: &str| queues.iter().position(|q| q.iter().any(|(b, ..)| b == body)).unwrap();
    assert_ne!(place_of("n0"), place_of("n1"));
    assert_eq!(queues.iter().map(Vec::len).sum::<usize>(), 7);
    assert!(queues.iter().flatten().all(|(_, key, tag)| key == tag));
    assert_eq!(place.sink.position(&chain()).unwrap(), Some((7, "i".to_owned())));
}

#[test]
fn rows_that_do_not_begin_at_the_position_are_refused_and_nothing_is_stored() {
    let mut place = Place::new(1);
    place.sink.commit(&chain(), "i", &keyed(0, &[("a", None)]), &fates(1)).unwrap();
    for start in [0, 2] {
        let error = place.sink.commit(&chain(), "i", &keyed(start, &[("b", None)]), &fates(1)).unwrap_err();
        assert_eq!(error.class, Class::Fatal, "{error}");
    }
    assert_eq!(place.messages(0).len(), 1);
    assert_eq!(place.sink.position(&chain()).unwrap(), Some((1, "i".to_owned())));
    // A range without rows moves the position too.
    let nothing = Slice { range: Range { start: 1, end: 9 }, ..keyed(1, &[]) };
    place.sink.commit(&chain(), "i", &nothing, &Fates { filtered: 8, ..Fates::default() }).unwrap();
    assert_eq!(place.sink.position(&chain()).unwrap(), Some((9, "i".to_owned())));
}

/// Rows of a key and up to two properties: most of what clients write, and here and there a byte that must not be in it.
fn odd_rows() -> impl Strategy<Value = Vec<(String, Vec<(String, String)>)>> {
    let plain = || "[a-z\u{e9}]{1,12}|[a-z]{13,30}";
    // A column keeps up to 12 bytes of a text beside its length, and longer ones elsewhere.
    let odd = || "[a-z]{0,12}[\u{0}-\u{3}]?[a-z]{0,12}|[a-z]{11}[\u{0}-\u{3}]|[a-z]{12}[\u{0}-\u{3}]";
    let text = || prop_oneof![20 => plain().boxed(), 1 => odd().boxed(), 1 => Just(String::new()).boxed()];
    vec((text(), vec((text(), text()), 0..3)), 1..6)
}

#[test]
fn rows_are_told_exactly_if_a_property_of_theirs_can_not_be_read_back() {
    let place = Place::new(1);
    proptest!(|(rows in odd_rows())| {
        let body = &b"x"[..];
        let all = (0..).zip(&rows).map(|(offset, (_, pairs))| (offset, pairs.clone(), body));
        let plain = batch::messages(all).unwrap();
        let keys: StringViewArray = rows.iter().map(|(key, _)| Some(key)).collect();
        let schema = plain.schema();
        let columns = schema.fields().iter().map(|field| field.name()).zip(plain.columns().to_vec());
        let columns = columns.map(|(name, column)| (name.as_str(), column));
        let columns = columns.chain([("keys", Arc::new(keys) as ArrayRef)]);
        let envelope = RecordBatch::try_from_iter(columns).unwrap();
        let fits = |(key, pairs): &(String, Vec<(String, String)>)| {
            let key = [(KEYS, key.as_str())].into_iter();
            let mut all = key.chain(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            all.all(|(name, value)| value.is_empty() || message::check_property(name, value).is_ok())
        };
        let expected: Vec<usize> = (0..rows.len()).filter(|row| !fits(&rows[*row])).collect();
        for from in 0..rows.len() {
            let part = envelope.slice(from, rows.len() - from);
            let found = place.sink.unfit(&slice(0, part));
            let found: Vec<usize> = found.iter().map(|(row, _)| row + from).collect();
            let expected: Vec<usize> = expected.iter().copied().filter(|row| *row >= from).collect();
            prop_assert_eq!(found, expected);
        }
    });
}

#[test]
fn each_row_that_fits_alone_fits_as_the_first_of_a_batch_and_all_others_are_told() {
    let mut place = Place::new(1);
    let pairs = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let most = "v".repeat(ATOMIC_PROPERTIES_BYTES_MAX - 3);
    let fitting = [pairs("a", &most), pairs("a", "1\u{1}2"), pairs("a", ""), pairs("", "")];
    let long = "v".repeat(PROPERTIES_BYTES_MAX - 3);
    let over = format!("{most}v");
    let unfit = [
        (pairs("a", &over), "properties of"),
        (pairs("a", &long), "properties of"),
        (pairs("a", "\0"), "property \"a\" holds a separator or zero byte in its value"),
        (pairs("a", "\u{2}"), "property \"a\" holds a separator or zero byte in its value"),
        (pairs("a\u{1}", "1"), "property \"a\\u{1}\" holds a separator or zero byte in its name"),
        (pairs("", "1"), "a property has no name"),
    ];
    let large = vec![0; BODY_BYTES_MAX + 1];
    let rows = |start: i64| {
        let good = fitting.iter().map(|p| (p.clone(), &b"x"[..]));
        let bad = unfit.iter().map(|(p, _)| (p.clone(), &b"x"[..]));
        let all = good.chain(bad).chain([(Vec::new(), &large[..]), (Vec::new(), &large[1..])]);
        let all = (start..).zip(all).map(|(offset, (pairs, body))| (offset, pairs, body));
        slice(start, batch::messages(all).unwrap())
    };
    let found = place.sink.unfit(&rows(0));
    assert_eq!(found.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [4, 5, 6, 7, 8, 9, 10]);
    for ((_, reason), (_, expected)) in found.iter().zip(&unfit) {
        assert!(reason.starts_with(expected), "{reason}");
    }
    assert_eq!(found[6].1, "body of 4194305 bytes exceeds the limit of 4194304 bytes");
    for row in 0..rows(0).envelope.num_rows() {
        let alone = place.sink.unfit(&slice(0, rows(0).envelope.slice(row, 1)));
        assert_eq!(alone.len(), usize::from((4..=10).contains(&row)), "row {row} alone: {alone:?}");
    }
    for (start, row) in (0..).zip([0, 1, 2, 3, 11]) {
        let one = slice(start, rows(start).envelope.slice(row, 1));
        place.sink.commit(&chain(), "i", &one, &fates(1)).unwrap();
    }
}

//! A topic as a source: its queues, where each begins and ends, and what is a reject.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::io::Write;
use std::sync::Arc;

use arrow::array::AsArray;
use bytes::Bytes;
use sluice_connect::batch;
use sluice_connect::progress::Progress;
use sluice_connect::task::{Class, Needs, Range, Read, Slice, SourceTask};
use sluice_filters::{Dialect, Filter};
use sluice_protocol::id::{QueueId, QueueOffset, TopicName};
use sluice_protocol::message::{self, Message, sys_flag};
use sluice_sources::topic::{Begin, TopicConfig, TopicSource, Until, slice};
use sluice_store::file::RealDisk;
use sluice_store::{Batch, Run, Settings, Store};
use sluice_testkit::ManualClock;
use tempfile::TempDir;

const ALL: Range = Range { start: 0, end: i64::MAX };
const ZLIB: i32 = sys_flag::COMPRESSED | 0x300;

fn queue(number: i32) -> QueueId {
    QueueId::new(number).unwrap()
}

fn topic() -> TopicName {
    TopicName::new("t").unwrap()
}

struct Place {
    store: Store,
    _folder: TempDir,
}

impl Place {
    fn new(queues: u32) -> Self {
        let folder = TempDir::new().unwrap();
        let clock = ManualClock::new(1000).clock();
        let store = Store::open(Settings::embedded(folder.path()), Arc::new(RealDisk), clock).unwrap();
        store.create_topic(&topic(), queues).unwrap();
        Self { store, _folder: folder }
    }

    fn append(&self, number: i32, messages: &[Message<'_>]) {
        let mut batch = Batch::new();
        for message in messages {
            batch.push(&topic(), queue(number), message).unwrap();
        }
        self.store.append(batch).unwrap();
    }

    fn source(&self, start: Begin, until: Until, feeders: Vec<Arc<Progress>>) -> TopicSource {
        let config = TopicConfig {
            name: "t".to_owned(),
            cluster: None,
            access: Default::default(),
            group: None,
            start,
            until,
        };
        let mut source = TopicSource::new(&config, "p", self.store.clone(), feeders).unwrap();
        source.open(&needs()).unwrap();
        source
    }

    fn runs(&self, number: i32) -> Vec<Run> {
        self.store.read(&topic(), queue(number), QueueOffset::new(0), 64 << 20).unwrap().runs
    }
}

fn needs() -> Needs {
    Needs { columns: vec!["body", "queue_id"], ..Needs::default() }
}

fn body(text: &str) -> Message<'_> {
    Message { body: text.as_bytes(), ..Message::default() }
}

fn bodies(slice: &Slice) -> Vec<String> {
    let bodies = slice.envelope.column_by_name("body").unwrap().as_binary_view();
    bodies.iter().map(|body| String::from_utf8(body.unwrap().to_vec()).unwrap()).collect()
}

fn read(source: &mut TopicSource, queue: i32, range: Range) -> Option<Slice> {
    match source.read("t", queue, range, 1 << 20).unwrap() {
        Read::Slice(slice) => Some(slice),
        Read::Ended => None,
        Read::Idle | Read::Gone | Read::Held => panic!("nothing there yet"),
    }
}

fn zlib(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn each_queue_has_its_own_rows_and_the_end_waits_for_those_who_feed_it() {
    let place = Place::new(3);
    place.append(0, &[body("a0"), body("a1")]);
    place.append(2, &[body("c0")]);
    let feeder = Arc::new(Progress::default());
    let mut source = place.source(Begin::Earliest, Until::CaughtUp, vec![Arc::clone(&feeder)]);
    let queues = source.queues().unwrap();
    assert_eq!(
        queues.iter().map(|q| (q.queue, q.first, q.origin)).collect::<Vec<_>>(),
        [(0, 0, 0), (1, 0, 0), (2, 0, 0)]
    );
    let first = read(&mut source, 0, ALL).unwrap();
    assert_eq!((bodies(&first), first.range.end), (vec!["a0".to_owned(), "a1".to_owned()], 2));
    assert_eq!(bodies(&read(&mut source, 2, ALL).unwrap()), ["c0"]);
    assert!(matches!(source.read("t", 1, ALL, 1).unwrap(), Read::Idle), "the feeder may add rows");
    feeder.end();
    assert!(read(&mut source, 1, ALL).is_none());
    assert_eq!((source.end("t", 0), source.end("t", 1)), (Some(2), Some(0)));
    let confirmer = source.confirmer();
    confirmer.confirm("t", 2, 1).unwrap();
    assert_eq!((confirmer.confirmed("t", 2).unwrap(), confirmer.confirmed("t", 0).unwrap()), (Some(1), None));

    let latest = place.source(Begin::Latest, Until::Forever, Vec::new()).queues().unwrap();
    assert_eq!(latest.iter().map(|q| q.origin).collect::<Vec<_>>(), [2, 0, 1]);
    let cut = read(&mut source, 0, Range { start: 1, end: 2 }).unwrap();
    assert_eq!(bodies(&cut), ["a1"]);
    let config = TopicConfig {
        name: "u".to_owned(),
        cluster: None,
        access: Default::default(),
        group: None,
        start: Begin::Earliest,
        until: Until::Forever,
    };
    let error =
        TopicSource::new(&config, "p", place.store.clone(), Vec::new()).unwrap().queues().unwrap_err();
    assert_eq!((error.class, error.message.as_str()), (Class::Config, "no such topic: u"));
}

#[test]
fn offsets_without_a_record_are_absent() {
    let place = Place::new(1);
    place.append(0, &[body("0"), body("1"), body("2"), body("3")]);
    let mut runs = place.runs(0);
    // Only the first two and the last one are there.
    let sizes: Vec<usize> =
        sluice_protocol::record::records(&runs[0].bytes).map(|r| r.unwrap().size).collect();
    let all = runs.remove(0);
    let at: usize = sizes[..3].iter().sum();
    let runs = [
        Run { bytes: all.bytes.slice(..sizes[0] + sizes[1]), ..all.clone() },
        Run { bytes: all.bytes.slice(at..), ..all },
    ];
    let slice = slice(&runs, Range { start: 0, end: 6 }, &needs()).unwrap();
    assert_eq!(bodies(&slice), ["0", "1", "3"]);
    assert_eq!((slice.absent, slice.filtered, slice.rejects.len()), (3, 0, 0));
}

#[test]
fn a_body_that_does_not_match_its_checksum_is_a_reject_with_its_bytes_counted() {
    let place = Place::new(1);
    let mut properties = Vec::new();
    message::push_property(&mut properties, "origin", "EWR").unwrap();
    place.append(0, &[body("good"), Message { properties: &properties, ..body("damaged") }]);
    let mut runs = place.runs(0);
    let mut bytes = runs[0].bytes.to_vec();
    let at = bytes.windows(7).position(|w| w == b"damaged").unwrap();
    bytes[at] = b'D';
    runs[0].bytes = Bytes::from(bytes);
    let slice = slice(&runs, Range { start: 0, end: 2 }, &needs()).unwrap();
    assert_eq!(bodies(&slice), ["good"]);
    let reject = &slice.rejects[0];
    assert_eq!((reject.offset, &reject.body[..]), (1, &b"Damaged"[..]));
    assert_eq!(reject.reason, "the body does not match its checksum");
    assert_eq!(reject.place, "topic t queue 0 offset 1");
    assert_eq!(reject.properties, [("origin".to_owned(), "EWR".to_owned())]);
    let alone = sluice_protocol::record::records(&runs[0].bytes).next().unwrap().unwrap().size;
    assert_eq!(slice.bytes, alone + 7);
}

#[test]
fn compressed_bodies_come_out_as_they_were_and_damaged_ones_are_rejects() {
    let place = Place::new(1);
    let text = "some text ".repeat(1000);
    let mut frame = lz4_flex::frame::FrameEncoder::new(Vec::new());
    frame.write_all(text.as_bytes()).unwrap();
    let packed =
        [zlib(text.as_bytes()), frame.finish().unwrap(), zstd::encode_all(text.as_bytes(), 1).unwrap()];
    let bomb = zlib(&vec![0; (4 << 20) + 1]);
    let message = |body, flags| Message { body, sys_flag: flags, ..Message::default() };
    let cut = &packed[0][..packed[0].len() / 2];
    place.append(
        0,
        &[
            message(&packed[0], ZLIB),
            message(&packed[0], sys_flag::COMPRESSED),
            message(&packed[1], sys_flag::COMPRESSED | 0x100),
            message(&packed[2], sys_flag::COMPRESSED | 0x200),
            message(cut, ZLIB),
            message(&bomb, ZLIB),
            message(b"plain", 0),
        ],
    );
    let runs = place.runs(0);
    let whole = slice(&runs, Range { start: 0, end: 7 }, &needs()).unwrap();
    assert_eq!(bodies(&whole), [&text, &text, &text, &text, "plain"]);
    assert!(whole.bytes > 4 * text.len());
    let told: Vec<_> = whole.rejects.iter().map(|r| (r.offset, r.reason.as_str())).collect();
    assert_eq!(told[1], (5, "the unpacked body exceeds the limit of 4194304 bytes"));
    assert!(told[0].0 == 4 && told[0].1.starts_with("the compressed body is damaged"), "{told:?}");
    // Who needs no body is not stopped by one.
    let bare = slice(&runs, Range { start: 0, end: 7 }, &Needs::default()).unwrap();
    assert_eq!((batch::offsets(&bare.envelope).len(), bare.rejects.len()), (7, 0));
}

#[test]
fn a_slice_ends_before_unpacked_bodies_hold_too_much() {
    let place = Place::new(1);
    let large = zlib(&vec![b'x'; 3 << 20]);
    let mut properties = Vec::new();
    message::push_property(&mut properties, "out", "1").unwrap();
    let packed = Message { body: &large, sys_flag: ZLIB, ..Message::default() };
    let out = Message { properties: &properties, ..packed };
    place.append(0, &[packed, out, packed, out, packed, packed, out]);
    let filter = Filter::parse("out IS NULL", Dialect::Sluice).unwrap();
    let needs = Needs { filter: Some(Arc::new(filter)), properties: vec!["out".to_owned()], ..needs() };
    let runs = place.runs(0);
    let (mut start, mut cuts) = (0, Vec::new());
    while start < 7 {
        let slice = slice(&runs, Range { start, end: 7 }, &needs).unwrap();
        let rows = slice.envelope.num_rows() as u64;
        assert_eq!(rows + slice.filtered, u64::try_from(slice.range.end - start).unwrap());
        start = slice.range.end;
        cuts.push((rows, slice.filtered));
    }
    assert_eq!(cuts, [(2, 2), (2, 1)]);
}

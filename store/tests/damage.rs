//! Files that are lost, torn or changed: what is made again, and what only a person can decide.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use common::{Place, SEGMENT_BYTES, at, batch, batch_for, bodies, bodies_of, mark, queue, topic};
use sluice_protocol::id::GroupName;
use sluice_protocol::message::{Message, push_property};
use sluice_protocol::record::{self, Record, records};
use sluice_store::file::RealDisk;
use sluice_store::{Batch, Error, Retention, Store};

fn write(path: &Path, bytes: &[u8], at: u64) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

fn read<const N: usize>(path: &Path, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    File::open(path).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

fn place_of(path: &Path, text: &str) -> u64 {
    let bytes = fs::read(path).unwrap();
    bytes.windows(text.len()).position(|w| w == text.as_bytes()).unwrap() as u64
}

fn check_refused(place: &Place, log_offset: u64) {
    let before = fs::read(place.segment(0)).unwrap();
    match place.try_open_on(Arc::new(RealDisk)) {
        Err(Error::Damaged { path, reason }) => {
            assert_eq!(path, place.segment(0));
            assert!(reason.contains(&format!("log offset {log_offset} ")), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert!(Store::open_read_only(&place.dir()).is_err());
    assert!(fs::read(place.segment(0)).unwrap() == before, "nothing was changed");
}

#[test]
fn a_changed_byte_before_the_checkpoint_is_damage_and_nothing_is_cut() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    let mut third = 0;
    for i in 0..40 {
        let appended = store.append(batch(&[&format!("message {i}")])).unwrap();
        third = if i == 3 { appended.log_offset.get() } else { third };
    }
    store.checkpoint().unwrap();
    let damage = place_of(&place.segment(0), "message 3");
    let killed = place.crashed();
    store.close().unwrap();
    for place in [&killed, &place] {
        write(&place.segment(0), b"M", damage);
        check_refused(place, third);
        // The way out that the error names.
        let copy = place.crashed();
        write(&copy.segment(0), b"m", damage);
        assert_eq!(bodies(&copy.open()).len(), 40);
        File::options().write(true).open(place.segment(0)).unwrap().set_len(third).unwrap();
        let store = place.open();
        assert_eq!(bodies(&store), ["message 0", "message 1", "message 2"]);
        store.append(batch(&["message 3"])).unwrap();
        store.close().unwrap();
        assert_eq!(bodies(&place.open()).len(), 4);
    }
}

#[test]
fn a_changed_byte_in_a_store_that_another_broker_ended_is_damage() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    let appended: Vec<_> = ["one", "two", "three"].map(|b| store.append(batch(&[b])).unwrap()).into();
    store.close().unwrap();
    fs::remove_dir_all(place.dir().join("sluice")).unwrap();
    write(&place.segment(0), b"T", place_of(&place.segment(0), "two"));
    check_refused(&place, appended[1].log_offset.get());
    fs::write(place.dir().join("abort"), "").unwrap();
    let store = place.open();
    assert_eq!(bodies(&store), ["one"], "but not in one that ended anyhow");
    assert_eq!(store.recovery().cut_at, Some(appended[1].log_offset));
}

#[test]
fn an_atomic_batch_with_a_changed_byte_is_damage_if_anything_whole_follows_it() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    let batch = store.append_chain(batch(&["one", "two", "three"]), &mark("c", 0, 3)).unwrap();
    store.close().unwrap();
    let last = place.crashed();
    write(&last.segment(0), b"T", place_of(&last.segment(0), "three"));
    assert_eq!(last.open().position("c"), None, "as if its end were torn");
    write(&place.segment(0), b"T", place_of(&place.segment(0), "two"));
    check_refused(&place, batch.log_offset.get());
}

/// Queue 1 has rows in the first segment only, queue 0 goes on.
fn idle_queue(retention: Retention) -> (Place, Store) {
    let mut place = Place::lazy();
    place.settings.retention = retention;
    let store = place.open();
    store.create_topic(&topic("t"), 3).unwrap();
    store.append(batch_for("t", 1, &["one", "two"])).unwrap();
    for i in 0..30 {
        store.append(batch(&[&format!("{i} {}", "x".repeat(2000))])).unwrap();
    }
    let group = GroupName::new("g").unwrap();
    store.commit_offset(&group, &topic("t"), queue(1), at(2)).unwrap();
    (place, store)
}

#[test]
fn an_idle_queue_whose_files_are_lost_comes_back() {
    for lost in ["consumequeue", "consumequeue/t/1"] {
        let (place, store) = idle_queue(Retention::default());
        store.checkpoint().unwrap();
        let killed = place.crashed();
        store.close().unwrap();
        for place in [killed, place] {
            fs::remove_dir_all(place.dir().join(lost)).unwrap();
            let reader = Store::open_read_only(&place.dir()).unwrap();
            assert_eq!(bodies_of(&reader, "t", 1), ["one", "two"], "{lost}");
            let store = place.open();
            assert_eq!(store.recovery().queues_rebuilt, if lost == "consumequeue" { 2 } else { 1 });
            assert_eq!((bodies(&store).len(), bodies_of(&store, "t", 1).len()), (30, 2), "{lost}");
            let group = GroupName::new("g").unwrap();
            assert_eq!(store.committed_offset(&group, &topic("t"), queue(1)), Some(at(2)));
            assert_eq!(store.append(batch_for("t", 1, &["three"])).unwrap().queue_offsets, [at(2)]);
            drop(store);
            assert_eq!(place.open().recovery().queues_rebuilt, 0);
        }
    }
}

#[test]
fn an_idle_queue_goes_on_where_it_ended_even_if_all_its_rows_have_expired() {
    let (place, store) = idle_queue(Retention { age: None, bytes: Some(3 * SEGMENT_BYTES) });
    assert!(store.retain().unwrap() > 0);
    store.close().unwrap();
    fs::remove_dir_all(place.dir().join("consumequeue")).unwrap();
    for life in 0..3 {
        let store = place.open();
        assert_eq!(store.offsets(&topic("t"), queue(1)), Some((at(2), at(2))));
        assert_eq!(store.recovery().queues_rebuilt, if life == 0 { 2 } else { 0 });
        store.close().unwrap();
    }
    let store = place.open();
    assert_eq!(store.append(batch_for("t", 1, &["three"])).unwrap().queue_offsets, [at(2)]);
    drop(store);
    assert_eq!(bodies_of(&place.open(), "t", 1), ["three"]);
}

#[test]
fn a_unit_torn_in_its_middle_does_not_move_the_end_of_its_queue() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    store.create_topic(&topic("other"), 1).unwrap();
    store.append(batch_for("other", 0, &["not of t"])).unwrap();
    for i in 0..102 {
        store.append(batch(&[&format!("{i}")])).unwrap();
    }
    for _ in 0..2 {
        store.append(batch_for("other", 0, &[&"y".repeat(7000)])).unwrap();
    }
    store.checkpoint().unwrap();
    for i in 102..160 {
        store.append(batch(&[&format!("{i}")])).unwrap();
    }
    store.flush().unwrap();
    // Unit 102 begins in a sector that did not reach the disk, and ends in one that did.
    let path = place.dir().join(format!("consumequeue/t/0/{:020}", 0));
    write(&path, &[0; 8], 2040);
    let killed = place.crashed();
    let store = killed.open();
    let expected: Vec<String> = (0..160).map(|i| i.to_string()).collect();
    assert_eq!((bodies(&store), store.recovery().queues_rebuilt), (expected, 1));
}

#[test]
fn a_torn_unit_has_its_tag_again() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    let mut properties = Vec::new();
    push_property(&mut properties, "TAGS", "TagA").unwrap();
    let mut tagged = Batch::new();
    let message = Message { body: b"x", properties: &properties, ..Message::default() };
    tagged.push(&topic("t"), queue(0), &message).unwrap();
    for _ in 0..30 {
        store.append(tagged.clone()).unwrap();
    }
    store.flush().unwrap();
    let killed = place.crashed();
    let path = killed.dir().join(format!("consumequeue/t/0/{:020}", 0));
    let whole: [u8; 600] = read(&path, 0);
    // The sector ends between a unit's size and its tag.
    assert_eq!(512 % 20, 12);
    write(&path, &[0; 88], 512);
    killed.open().close().unwrap();
    assert_eq!(read(&path, 0), whole);
}

#[test]
fn a_topic_that_another_broker_made_again_shows_its_new_rows_only() {
    for with_checkpoint in [false, true] {
        let place = Place::lazy();
        let store = place.open();
        store.create_topic(&topic("t"), 1).unwrap();
        store.create_topic(&topic("u"), 1).unwrap();
        store.append(batch(&["old 0", "old 1", "old 2"])).unwrap();
        let old = store.append(batch_for("u", 0, &["stays"])).unwrap();
        store.close().unwrap();
        // The new rows have the first offsets again.
        let mut bytes = fs::read(place.segment(0)).unwrap();
        let mut end = usize::try_from(old.log_offset.get() + old.bytes).unwrap();
        let mut units = Vec::new();
        for (offset, body) in [(0, "new 0"), (1, "new 1")] {
            let mut record = Vec::new();
            let message = Message { body: body.as_bytes(), ..Message::default() };
            record::encode(&mut record, "t", queue(0), &message).unwrap();
            record::patch(&mut record, offset, end as u64, 1_700_000_000_000);
            units.extend((end as u64).to_be_bytes());
            units.extend(u32::try_from(record.len()).unwrap().to_be_bytes());
            units.extend([0; 8]);
            bytes[end..end + record.len()].copy_from_slice(&record);
            end += record.len();
        }
        fs::write(place.segment(0), &bytes).unwrap();
        units.resize(6_000_000, 0);
        fs::write(place.dir().join(format!("consumequeue/t/0/{:020}", 0)), &units).unwrap();
        if !with_checkpoint {
            fs::remove_dir_all(place.dir().join("sluice")).unwrap();
            fs::remove_dir_all(place.dir().join("consumequeue/u")).unwrap();
        }
        let store = place.open();
        assert_eq!(bodies(&store), ["new 0", "new 1"]);
        assert_eq!(bodies_of(&store, "u", 0), ["stays"]);
        store.append(batch(&["new 2"])).unwrap();
        store.close().unwrap();
        assert_eq!(bodies(&place.open()), ["new 0", "new 1", "new 2"]);
    }
}

#[test]
fn numbers_that_no_store_can_reach_are_no_records_and_no_segments() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    store.append(batch(&["a"])).unwrap();
    store.close().unwrap();
    fs::remove_dir_all(place.dir().join("sluice")).unwrap();
    fs::remove_dir_all(place.dir().join("consumequeue")).unwrap();
    let pristine = fs::read(place.segment(0)).unwrap();
    let size = Record::decode(&pristine).unwrap().size;
    for offset in [i64::MAX, i64::MAX / 20, -1] {
        let mut bytes = pristine.clone();
        record::patch(&mut bytes[..size], offset, 0, 5);
        assert_eq!(records(&bytes[..size]).count(), 1);
        let copy = place.crashed();
        fs::write(copy.segment(0), &bytes).unwrap();
        fs::write(copy.dir().join("commitlog").join(u64::MAX.to_string()), "").unwrap();
        let store = copy.open();
        assert_eq!(store.offsets(&topic("t"), queue(0)), Some((at(0), at(0))), "{offset}");
        store.append(batch(&["b"])).unwrap();
    }
}

#[test]
fn a_queue_goes_on_in_its_next_file() {
    const FILE_UNITS: i64 = 300_000;
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    store.append(batch(&["first"])).unwrap();
    store.close().unwrap();
    // As if so many records before it had expired.
    let mut bytes = fs::read(place.segment(0)).unwrap();
    let size = Record::decode(&bytes).unwrap().size;
    record::patch(&mut bytes[..size], FILE_UNITS - 3, 0, 5);
    fs::write(place.segment(0), &bytes).unwrap();
    fs::remove_dir_all(place.dir().join("sluice")).unwrap();
    fs::remove_dir_all(place.dir().join("consumequeue")).unwrap();
    let store = place.open();
    let appended = store.append(batch(&["2", "3", "4", "5"])).unwrap();
    assert_eq!(appended.queue_offsets, [2, 1, 0, -1].map(|before| at(FILE_UNITS - before)));
    store.append(batch(&["6"])).unwrap();
    let expected = ["first", "2", "3", "4", "5", "6"];
    assert_eq!(bodies(&store), expected);
    let read = store.read(&topic("t"), queue(0), at(FILE_UNITS - 3), 1 << 20).unwrap();
    assert_eq!((read.records, read.runs.len()), (6, 1), "one read goes over the end of a file");
    let killed = place.crashed();
    let gone = place.crashed();
    fs::remove_file(gone.dir().join(format!("consumequeue/t/0/{:020}", FILE_UNITS * 20))).unwrap();
    store.close().unwrap();
    for place in [killed, gone, place] {
        let store = place.open();
        assert_eq!(bodies(&store), expected);
        assert_eq!(store.append(batch(&["7"])).unwrap().queue_offsets, [at(FILE_UNITS + 3)]);
    }
}

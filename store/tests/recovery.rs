//! What a store finds after its process ended anyhow.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::{
    Place, SEGMENT_BYTES, at, batch, batch_for, bodies, bodies_of, mark, push, queue, seeds, topic,
};
use sluice_protocol::id::{GroupName, QueueOffset};
use sluice_protocol::record::records;
use sluice_store::{Batch, Store};

/// How a log ends that was torn at a place.
#[derive(Clone, Copy, Debug)]
enum Torn {
    Truncated,
    Zeroed,
}

fn tear(path: &Path, at: u64, how: Torn) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    match how {
        Torn::Truncated => file.set_len(at).unwrap(),
        Torn::Zeroed => {
            let len = file.metadata().unwrap().len();
            file.write_all_at(&vec![0; usize::try_from((len - at).min(4096)).unwrap()], at).unwrap();
        }
    }
}

/// Tears the log at every byte of its last batch: `whole` bodies stay whatever happens, of `last` those whose
/// record (or whose batch, if it is atomic) is whole.
fn check_torn(closed: bool, atomic: bool) {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    store.append(batch(&["a", "b"])).unwrap();
    store.append_chain(batch(&["c"]), &mark("chain", 0, 1)).unwrap();
    let last = if atomic {
        store.append_chain(batch(&["d", "ee", "fff"]), &mark("chain", 1, 4)).unwrap()
    } else {
        store.append(batch(&["d", "ee", "fff"])).unwrap()
    };
    let read = store.read(&topic("t"), queue(0), at(3), 1 << 20).unwrap();
    let sizes: Vec<u64> = records(&read.runs[0].bytes).map(|r| r.unwrap().size as u64).collect();
    let pristine = if closed {
        store.close().unwrap();
        place.crashed()
    } else {
        place.crashed()
    };
    let start = last.log_offset.get();
    for byte in start..start + last.bytes {
        for how in [Torn::Truncated, Torn::Zeroed] {
            // Each byte in one way, and once more after a kill or after a close; all of it when the long run is
            // asked for.
            let few = seeds(0) == 0;
            if few && byte.is_multiple_of(2) == matches!(how, Torn::Zeroed) {
                continue;
            }
            let torn = pristine.crashed();
            tear(&torn.segment(0), byte, how);
            let ends = sizes.iter().scan(start, |end, size| {
                *end += size;
                Some(*end)
            });
            let survivors = if atomic { 0 } else { ends.filter(|end| *end <= byte).count() };
            let mut expected: Vec<String> = ["a", "b", "c", "d", "ee", "fff"].map(String::from).to_vec();
            expected.truncate(3 + survivors);
            let what = format!("{how:?} at {byte} of {start}, closed {closed}, atomic {atomic}");

            let store = torn.open();
            assert_eq!(bodies(&store), expected, "{what}");
            assert_eq!(store.position("chain").unwrap().end, 1, "{what}");
            let kept: u64 = sizes[..survivors].iter().sum();
            if let Some(cut) = store.recovery().cut_at {
                assert_eq!(cut.get(), start + kept, "{what}");
            }
            // One append as long as the first lost record: what was behind it must not come back.
            let body = ["d", "ee", "fff"][survivors];
            expected.push(body.to_uppercase());
            let appended = store.append(batch(&[&body.to_uppercase()])).unwrap();
            assert_eq!(appended.log_offset.get(), start + kept, "{what}");
            let mut again = Vec::new();
            if !few || byte % 4 < 2 {
                again.push(torn.crashed());
            }
            drop(store);
            if !few || again.is_empty() {
                again.push(torn);
            }
            for place in &again {
                let store = place.open();
                assert_eq!(bodies(&store), expected, "again, {what}");
                assert_eq!(store.recovery().cut_at, None, "again, {what}");
            }
        }
    }
}

#[test]
fn a_batch_torn_at_any_byte_leaves_its_whole_records_and_nothing_old_comes_back() {
    check_torn(false, false);
}

#[test]
fn an_atomic_batch_torn_at_any_byte_is_absent_and_its_chain_stands_before_it() {
    check_torn(false, true);
}

#[test]
fn a_closed_store_torn_at_any_byte_of_its_last_batch_opens_as_well() {
    check_torn(true, false);
    check_torn(true, true);
}

#[test]
fn a_filler_or_a_batch_behind_it_that_is_torn_ends_the_log_there() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    let large = "x".repeat(5000);
    let first = store.append(batch(&[&large])).unwrap();
    let second = store.append_chain(batch(&[&large]), &mark("c", 0, 9)).unwrap();
    assert_eq!(second.log_offset.get(), SEGMENT_BYTES);
    let pristine = place.crashed();
    for byte in
        (0..8).map(|byte| first.bytes + byte).chain((0..second.bytes).step_by(97).map(|b| b + SEGMENT_BYTES))
    {
        let torn = pristine.crashed();
        tear(&torn.segment(byte - byte % SEGMENT_BYTES), byte % SEGMENT_BYTES, Torn::Zeroed);
        let store = torn.open();
        assert_eq!((bodies(&store), store.position("c")), (vec![large.clone()], None), "{byte}");
        // Where the segment is not full, the log goes on in it; the next one begins anew.
        let small = store.append(batch(&["small"])).unwrap().log_offset.get();
        assert_eq!(small, if byte < SEGMENT_BYTES { first.bytes } else { SEGMENT_BYTES }, "{byte}");
        store.append(batch(&["next ".repeat(800).as_str()])).unwrap();
        let killed = torn.crashed();
        drop(store);
        for place in [&killed, &torn] {
            let store = place.open();
            assert_eq!(bodies(&store).len(), 3, "{byte}");
            assert_eq!((store.recovery().cut_at, store.position("c")), (None, None), "{byte}");
        }
    }
}

#[test]
fn every_property_byte_is_vouched_for_by_the_tail() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    store.append(batch(&["a"])).unwrap();
    let last = store.append(batch(&["b", "c"])).unwrap();
    let read = store.read(&topic("t"), queue(0), at(1), 1 << 20).unwrap();
    let starts: Vec<u64> = records(&read.runs[0].bytes).map(|r| r.unwrap().properties_start as u64).collect();
    let torn = place.crashed();
    let file = OpenOptions::new().write(true).open(torn.segment(0)).unwrap();
    file.write_all_at(b"B", last.log_offset.get() + starts[0]).unwrap();
    let store = torn.open();
    assert_eq!(bodies(&store), ["a"], "no record of a changed run can be told from a changed one");
    assert_eq!(store.recovery().cut_at, Some(last.log_offset));
    assert_eq!(store.recovery().cut_bytes, last.bytes);
}

#[test]
fn changes_survive_a_crash_and_their_tail_may_be_cut_anywhere() {
    let place = Place::lazy();
    let store = place.open();
    let group = GroupName::new("g").unwrap();
    store.create_topic(&topic("t"), 2).unwrap();
    let made = store.topic(&topic("t")).unwrap();
    store.append(batch(&["a", "b", "c"])).unwrap();
    store.commit_offset(&group, &topic("t"), queue(0), at(2)).unwrap();
    store.append_chain(Batch::new(), &mark("chain", 0, 9)).unwrap();
    store.commit_offset(&group, &topic("t"), queue(0), at(3)).unwrap();
    let copy = place.crashed();
    let store = copy.open();
    assert_eq!(store.topic(&topic("t")), Some(made.clone()));
    assert_eq!(store.committed_offset(&group, &topic("t"), queue(0)), Some(at(3)));
    assert_eq!(store.position("chain").unwrap().end, 9);
    assert_eq!((store.recovery().records, store.recovery().records_checked), (3, 0));
    drop(store);

    let tail = fs::read_dir(place.dir().join("sluice/tail")).unwrap().next().unwrap().unwrap().file_name();
    let tail = Path::new("sluice/tail").join(tail);
    // Zeros follow the last entry, which ends with the JSON of a change.
    let written = fs::read(place.dir().join(&tail)).unwrap();
    let len = written.iter().rposition(|&byte| byte != 0).unwrap() as u64 + 1;
    let mut seen = Vec::new();
    for cut in (0..len).rev() {
        let copy = place.crashed();
        File::options().write(true).open(copy.dir().join(&tail)).unwrap().set_len(cut).unwrap();
        let store = copy.open();
        assert_eq!(bodies(&store), ["a", "b", "c"], "records are checked one by one where the tail is gone");
        let offset = store.committed_offset(&group, &topic("t"), queue(0)).map(QueueOffset::get);
        let state = (store.position("chain").map(|p| p.end), offset, store.topics().len());
        if seen.last() != Some(&state) {
            seen.push(state);
        }
    }
    let expected = [(Some(9), Some(2), 1), (None, Some(2), 1), (None, None, 1)];
    assert_eq!(seen, expected, "a prefix of the changes; a topic with records comes back from them");
}

#[test]
fn a_change_is_void_without_the_rows_that_came_before_it() {
    let place = Place::lazy();
    let store = place.open();
    let group = GroupName::new("g").unwrap();
    store.create_topic(&topic("t"), 1).unwrap();
    store.append_chain(batch(&["a"]), &mark("chain", 0, 1)).unwrap();
    store.commit_offset(&group, &topic("t"), queue(0), at(1)).unwrap();
    let lost = store.append_chain(batch(&["b"]), &mark("chain", 1, 2)).unwrap();
    store.append_chain(Batch::new(), &mark("chain", 2, 50)).unwrap();
    store.commit_offset(&group, &topic("t"), queue(0), at(2)).unwrap();
    for close in [false, true] {
        let torn = if close {
            let closed = place.crashed();
            closed.open().close().unwrap();
            closed
        } else {
            place.crashed()
        };
        tear(&torn.segment(0), lost.log_offset.get(), Torn::Zeroed);
        let store = torn.open();
        assert_eq!(bodies(&store), ["a"]);
        assert_eq!(store.position("chain").unwrap().end, 1, "closed {close}");
        assert_eq!(store.committed_offset(&group, &topic("t"), queue(0)), Some(at(1)), "closed {close}");
    }
}

#[test]
fn consume_queues_that_are_gone_or_wrong_are_made_again() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 2).unwrap();
    let mut expected = Vec::new();
    for i in 0..60 {
        let body = format!("{i} {}", "x".repeat(1000));
        store.append(batch(&[&body])).unwrap();
        store.append(batch_for("t", 1, &["one"])).unwrap();
        expected.push(body);
    }
    store.checkpoint().unwrap();
    store.append(batch(&["last"])).unwrap();
    expected.push("last".into());
    assert!(place.segment(SEGMENT_BYTES * 3).exists());
    let queue_file = format!("consumequeue/t/0/{:020}", 0);
    for damage in ["gone", "short", "behind"] {
        let copy = place.crashed();
        let path = copy.dir().join(&queue_file);
        match damage {
            "gone" => fs::remove_dir_all(copy.dir().join("consumequeue")).unwrap(),
            "short" => File::options().write(true).open(&path).unwrap().set_len(20 * 30).unwrap(),
            _ => File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .write_all_at(&[0xFF; 20 * 9], 20 * 61)
                .unwrap(),
        }
        let store = copy.open();
        assert_eq!(bodies(&store), expected, "{damage}");
        assert_eq!(bodies_of(&store, "t", 1).len(), 60, "{damage}");
        let rebuilt = store.recovery().queues_rebuilt;
        assert_eq!(
            rebuilt,
            ["short", "gone"].iter().position(|d| *d == damage).map_or(0, |i| i as u64 + 1),
            "{damage}"
        );
        assert_eq!(store.append(batch(&["more"])).unwrap().queue_offsets, [at(61)]);
        drop(store);
        assert_eq!(bodies(&copy.open()).len(), 62, "{damage}");
    }
}

#[test]
fn a_store_of_another_broker_opens_and_keeps_its_settings() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    let body = "x".repeat(2000);
    for _ in 0..15 {
        store.append(batch(&[&body])).unwrap();
    }
    store.close().unwrap();
    fs::remove_dir_all(place.dir().join("sluice")).unwrap();
    let topics = r#"{"dataVersion":{"counter":7,"stateVersion":0,"timestamp":5},"topicConfigTable":{
        "t":{"attributes":{"+message.type":"FIFO"},"order":true,"perm":6,"readQueueNums":4,"topicFilterType":
        "SINGLE_TAG","topicName":"t","topicSysFlag":0,"writeQueueNums":2}}}"#;
    fs::write(place.dir().join("config/topics.json"), topics).unwrap();
    let offsets = r#"{"offsetTable":{"t@g":{0:3,1:0}},"dataVersion":{"counter":1}}"#;
    fs::write(place.dir().join("config/consumerOffset.json"), "{").unwrap();
    fs::write(place.dir().join("config/consumerOffset.json.bak"), offsets).unwrap();

    let larger = Place {
        settings: sluice_store::Settings { segment_bytes: 1 << 20, ..place.settings.clone() },
        ..place
    };
    let store = larger.open();
    assert_eq!(bodies(&store).len(), 15);
    assert_eq!(store.recovery().records, 15);
    assert_eq!(store.topic(&topic("t")).unwrap().queues, 4);
    assert!(!store.topic(&topic("t")).unwrap().incarnation.is_empty());
    let group = GroupName::new("g").unwrap();
    assert_eq!(store.committed_offset(&group, &topic("t"), queue(0)), Some(at(3)));
    store.create_topic(&topic("u"), 1).unwrap();
    for _ in 0..15 {
        store.append(batch(&[&body])).unwrap();
    }
    let incarnation = store.topic(&topic("t")).unwrap().incarnation;
    store.close().unwrap();
    assert_eq!(
        fs::metadata(larger.segment(SEGMENT_BYTES * 3)).unwrap().len(),
        SEGMENT_BYTES,
        "existing length"
    );
    let written = fs::read_to_string(larger.dir().join("config/topics.json")).unwrap();
    assert!(written.contains("\"+message.type\":\"FIFO\"") && written.contains("\"counter\":8"), "{written}");
    assert!(!larger.dir().join("abort").exists());
    let store = larger.open();
    assert_eq!(store.topic(&topic("t")).unwrap().incarnation, incarnation);
    assert_eq!(bodies(&store).len(), 30);
}

#[test]
fn a_damaged_table_is_an_error_that_names_its_file() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    store.close().unwrap();
    for name in ["config/topics.json", "sluice/positions.json"] {
        let copy = place.crashed();
        fs::write(copy.dir().join(name), "{ nothing").unwrap();
        let error =
            copy.try_open_on(std::sync::Arc::new(sluice_store::file::RealDisk)).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("damaged"), "{error}");
    }
    let copy = place.crashed();
    fs::remove_file(copy.segment(0)).unwrap();
    let store = copy.open();
    assert!(bodies(&store).is_empty(), "an empty log may be missing");
}

#[test]
fn a_log_without_its_segments_is_never_begun_anew() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    for _ in 0..30 {
        store.append(batch(&[&"x".repeat(1000)])).unwrap();
    }
    store.close().unwrap();
    let gap = place.crashed();
    let files: Vec<_> = fs::read_dir(place.dir().join("commitlog")).unwrap().collect();
    assert!(files.len() > 2);
    fs::remove_file(gap.segment(SEGMENT_BYTES)).unwrap();
    assert!(gap.try_open_on(std::sync::Arc::new(sluice_store::file::RealDisk)).is_err());
    let none = place.crashed();
    fs::remove_dir_all(none.dir().join("commitlog")).unwrap();
    assert!(none.try_open_on(std::sync::Arc::new(sluice_store::file::RealDisk)).is_err());
}

#[test]
fn only_what_came_after_the_last_checkpoint_is_read_beyond_its_segment() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    for _ in 0..100 {
        store.append(batch(&[&"x".repeat(1000)])).unwrap();
    }
    let whole = place.crashed().open().recovery().records;
    assert_eq!(whole, 100);
    store.checkpoint().unwrap();
    let after = place.crashed();
    let store_after: Store = after.open();
    assert!(store_after.recovery().records < 15, "{:?}", store_after.recovery());
    assert_eq!(bodies(&store_after).len(), 100);
    let mut more = Batch::new();
    push(&mut more, "t", 0, &["more"]);
    store_after.append(more).unwrap();
}

#[test]
fn times_of_messages_that_come_later_are_made_again_with_their_consume_queue() {
    use sluice_protocol::delay::{TIMER_TOPIC, TOPIC};
    use sluice_protocol::message::Message;
    let place = Place::lazy();
    let store = place.open();
    let expected = [(TOPIC, vec![1_700_000_010_000]), (TIMER_TOPIC, vec![1_700_000_000_123, -77])];
    for (name, properties) in [
        (TOPIC, [&b"DELAY\x013\x02TAGS\x01A\x02"[..]].as_slice()),
        (
            TIMER_TOPIC,
            &[b"TIMER_OUT_MS\x011700000000123\x02", b"TIMER_OUT_MS\x0177\x02TIMER_DEL_UNIQKEY\x01t+u\x02"],
        ),
    ] {
        store.create_topic(&topic(name), 3).unwrap();
        for properties in properties {
            let mut batch = Batch::new();
            batch.push(&topic(name), queue(2), &Message { properties, ..Message::default() }).unwrap();
            store.append(batch).unwrap();
        }
    }
    let codes = |store: &Store, name| store.tag_codes(&topic(name), queue(2), at(0), 10).unwrap();
    expected.iter().for_each(|(name, expected)| assert_eq!(codes(&store, name), *expected));
    store.close().unwrap();
    let reader = Store::open_read_only(&place.dir()).unwrap();
    expected.iter().for_each(|(name, expected)| assert_eq!(codes(&reader, name), *expected));
    fs::remove_dir_all(place.dir().join("consumequeue")).unwrap();
    let store = place.open();
    expected.iter().for_each(|(name, expected)| assert_eq!(codes(&store, name), *expected));
}

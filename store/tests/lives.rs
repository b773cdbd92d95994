//! What one life of a store leaves to the next, and what another broker does between two of them.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{Place, at, batch, bodies, bodies_of, mark, queue, topic};
use sluice_protocol::id::{GroupName, QueueId};
use sluice_protocol::message::{BATCH_MARK, Message, push_property};
use sluice_protocol::record::{self, Record, records};
use sluice_store::{Appended, Batch, Error, Store};
use sluice_testkit::FaultyDisk;

/// The store's process ends, and of its last words nothing reaches the disk.
fn kill(disk: &FaultyDisk, store: Store) {
    disk.power_off_after(0);
    drop(store);
}

/// What a power loss left of a run that had not reached the disk.
fn lose(place: &Place, run: &Appended) {
    let file = File::options().write(true).open(place.segment(0)).unwrap();
    let zeros = vec![0; usize::try_from(run.bytes).unwrap()];
    file.write_all_at(&zeros, run.log_offset.get()).unwrap();
}

/// Another broker appends to queue 0 of topic `t`, body and properties each, from a queue offset on.
fn others_append(place: &Place, mut offset: i64, messages: &[(&str, &[u8])]) {
    let path = place.segment(0);
    let mut bytes = fs::read(&path).unwrap();
    let mut at: usize = records(&bytes).map_while(Result::ok).map(|r| r.size).sum();
    for (body, properties) in messages {
        let mut record = Vec::new();
        let message = Message { body: body.as_bytes(), properties, ..Message::default() };
        record::encode(&mut record, "t", QueueId::ZERO, &message).unwrap();
        record::patch(&mut record, offset, at as u64, 1_700_000_000_001);
        bytes[at..at + record.len()].copy_from_slice(&record);
        at += record.len();
        offset += 1;
    }
    fs::write(&path, &bytes).unwrap();
}

#[test]
fn a_void_change_stays_void_when_the_log_grows_past_it() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    store.append_chain(batch(&["a"]), &mark("c", 0, 10)).unwrap();
    store.close().unwrap();

    let disk = FaultyDisk::new();
    let store = place.open_on(&disk);
    assert!(store.recovery().clean);
    let lost = store.append_chain(batch(&["rows 10..20"]), &mark("c", 10, 20)).unwrap();
    store.append_chain(Batch::new(), &mark("c", 20, 50)).unwrap();
    kill(&disk, store);
    lose(&place, &lost);

    let disk = FaultyDisk::new();
    let store = place.open_on(&disk);
    assert!(!store.recovery().clean, "the store was opened after it was closed");
    assert_eq!(store.position("c").unwrap().end, 10);
    let rows = ["rows 10..20, longer than before", "and one more"];
    store.append_chain(batch(&rows), &mark("c", 10, 20)).unwrap();
    kill(&disk, store);

    let store = place.open();
    assert_eq!(store.position("c").unwrap().end, 20, "no row between 20 and 50 is there");
    assert_eq!(bodies(&store), ["a", rows[0], rows[1]]);
}

#[test]
fn a_power_loss_in_the_open_that_follows_a_close_loses_nothing() {
    for calls in 0..60 {
        let place = Place::lazy();
        let store = place.open();
        store.create_topic(&topic("t"), 1).unwrap();
        store.append_chain(batch(&["a", "b"]), &mark("c", 0, 2)).unwrap();
        store.close().unwrap();
        let properties = {
            let bytes = fs::read(place.segment(0)).unwrap();
            Record::decode(&bytes).unwrap().properties.to_vec()
        };
        others_append(&place, 2, &[("c", &properties), ("d", b"")]);
        let disk = FaultyDisk::new();
        disk.power_off_after(calls);
        let opened = place.try_open_on(Arc::new(disk.clone()));
        disk.crash(calls, sluice_testkit::PowerLoss::Tear);
        let done = opened.is_ok();
        drop(opened);
        let store = place.open();
        assert_eq!(bodies(&store), ["a", "b", "c", "d"], "power off after {calls} calls");
        assert_eq!(store.position("c").unwrap().end, 2);
        if done {
            return;
        }
    }
    panic!("an open takes fewer calls");
}

#[test]
fn a_store_is_not_read_again_unless_its_last_segment_was_written_to_since() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    store.append_chain(batch(&["a", "b"]), &mark("c", 0, 2)).unwrap();
    store.append(batch(&["last"])).unwrap();
    // It is closed long after.
    let file = File::options().write(true).open(place.segment(0)).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)).unwrap();
    store.close().unwrap();
    let store = place.open();
    assert_eq!((store.recovery().clean, store.recovery().records), (true, 0));
    assert_eq!(
        (bodies(&store), store.position("c").unwrap().end),
        (["a", "b", "last"].map(String::from).to_vec(), 2)
    );
    store.close().unwrap();

    // Whoever wrote to it may have cut it first.
    others_append(&place, 3, &[("else", b"")]);
    let store = place.open();
    assert_eq!((store.recovery().clean, store.recovery().records), (false, 4));
    store.append(batch(&["ours"])).unwrap();
    assert_eq!(bodies(&store), ["a", "b", "last", "else", "ours"]);
}

#[test]
fn what_another_broker_wrote_is_not_judged_by_our_marks() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    store.append_chain(batch(&["a", "b"]), &mark("c", 0, 2)).unwrap();
    store.close().unwrap();
    // It copies all properties when it sends a message back, and knows nothing of zero bytes.
    let bytes = fs::read(place.segment(0)).unwrap();
    let marked = Record::decode(&bytes).unwrap().properties.to_vec();
    let others = [("1", &b""[..]), ("2", &marked), ("3", b"zero\x01\0\x02"), ("4", b"")];
    others_append(&place, 2, &others);
    let mut expected = ["a", "b", "1", "2", "3", "4"].map(String::from).to_vec();
    let reader = Store::open_read_only(&place.dir()).unwrap();
    assert_eq!((bodies(&reader), reader.position("c").unwrap().end), (expected.clone(), 2));

    let disk = FaultyDisk::new();
    let store = place.open_on(&disk);
    assert_eq!((bodies(&store), store.recovery().cut_bytes), (expected.clone(), 0));
    assert!(!store.recovery().clean);
    let torn = store.append_chain(batch(&["ours", "torn"]), &mark("c", 2, 4)).unwrap();
    kill(&disk, store);
    lose(&place, &Appended { bytes: 8, ..torn });
    let store = place.open();
    assert_eq!((bodies(&store), store.position("c").unwrap().end), (expected.clone(), 2));
    store.append(batch(&["last"])).unwrap();
    expected.push("last".into());
    store.close().unwrap();
    fs::remove_dir_all(place.dir().join("sluice")).unwrap();
    fs::remove_dir_all(place.dir().join("consumequeue")).unwrap();
    assert_eq!(bodies(&place.open()), expected, "nor where nothing of ours is left but the records");
}

#[test]
fn a_mark_that_a_client_sends_marks_nothing() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    let mut properties = Vec::new();
    push_property(&mut properties, "k", "v").unwrap();
    let zero = format!("{:020}", 0);
    let value = format!("0000000002 0000000400 {zero} {:020} {} i c", 9, [zero.as_str(); 5].join(" "));
    push_property(&mut properties, BATCH_MARK, &value).unwrap();
    let mut sent = Batch::new();
    let message = Message { body: b"sent", properties: &properties, ..Message::default() };
    sent.push(&topic("t"), queue(0), &message).unwrap();
    store.append(sent.clone()).unwrap();
    store.append_chain(sent, &mark("real", 0, 1)).unwrap();
    let killed = place.crashed();
    let without_tail = place.crashed();
    fs::remove_dir_all(without_tail.dir().join("sluice/tail")).unwrap();
    for place in [killed, without_tail] {
        let store = place.open();
        assert_eq!(bodies(&store), ["sent", "sent"]);
        assert_eq!((store.position("c"), store.position("real").unwrap().end), (None, 1));
    }
}

#[test]
fn a_chain_without_its_last_rows_stands_where_it_stood_before_them() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    store.begin_chain("c", 100, "i").unwrap();
    store.append_chain(Batch::new(), &mark("c", 100, 500)).unwrap();
    store.checkpoint().unwrap();
    let last = store.append_chain(batch(&["a"]), &mark("c", 500, 501)).unwrap();
    store.close().unwrap();
    lose(&place, &last);
    let store = place.open();
    assert_eq!((store.position("c").unwrap().end, bodies(&store).len()), (500, 0));
    store.append_chain(batch(&["a"]), &mark("c", 500, 501)).unwrap();
}

#[test]
fn what_another_broker_made_of_the_tables_stays() {
    let place = Place::lazy();
    let store = place.open();
    let group = GroupName::new("g").unwrap();
    store.create_topic(&topic("t"), 1).unwrap();
    for i in 0..10 {
        store.append(batch(&[&format!("{i}")])).unwrap();
    }
    store.commit_offset(&group, &topic("t"), queue(0), at(3)).unwrap();
    store.close().unwrap();
    assert_eq!(fs::read_dir(place.dir().join("sluice/tail")).unwrap().count(), 0);
    let path = place.dir().join("config/consumerOffset.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("0:3", "0:9")).unwrap();
    for _ in 0..2 {
        let store = place.open();
        assert_eq!(store.committed_offset(&group, &topic("t"), queue(0)), Some(at(9)));
        store.close().unwrap();
    }
}

#[test]
fn what_is_acknowledged_beside_a_close_is_part_of_what_was_closed() {
    for round in 0..40 {
        let place = Place::lazy();
        let store = place.open();
        store.create_topic(&topic("t"), 1).unwrap();
        let other = store.clone();
        let appends = std::thread::spawn(move || {
            let mut count = 0;
            while other.append(batch(&["x"])).is_ok() {
                count += 1;
            }
            assert!(matches!(other.append(batch(&["x"])), Err(Error::Closed { .. })));
            assert!(matches!(other.flush(), Err(Error::Closed { .. })));
            assert!(matches!(other.checkpoint(), Err(Error::Closed { .. })));
            assert!(matches!(other.retain(), Err(Error::Closed { .. })));
            count
        });
        while bodies_of(&store, "t", 0).len() < round % 7 {
            std::thread::yield_now();
        }
        store.close().unwrap();
        let acknowledged = appends.join().unwrap();
        let store = place.open();
        assert!(store.recovery().clean, "round {round}");
        assert_eq!(bodies(&store).len(), acknowledged);
    }
}

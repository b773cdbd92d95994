//! Appending and reading, as callers see it.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::time::Duration;

use common::{Place, SEGMENT_BYTES, at, batch, batch_for, bodies, bodies_of, mark, push, queue, topic};
use sluice_protocol::id::GroupName;
use sluice_protocol::message::{self, Message, sys_flag};
use sluice_protocol::record::{FILLER_BYTES, filler_size, records};
use sluice_store::{Batch, Error, Flush};
use sluice_testkit::FaultyDisk;

#[test]
fn batches_over_several_queues_are_read_back_in_queue_order() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 2).unwrap();
    store.create_topic(&topic("u"), 1).unwrap();
    let mut mixed = batch(&["a0"]);
    push(&mut mixed, "t", 1, &["b0"]);
    push(&mut mixed, "t", 0, &["a1", "a2"]);
    push(&mut mixed, "u", 0, &["c0"]);
    let appended = store.append(mixed).unwrap();
    assert_eq!(appended.queue_offsets, [0, 0, 1, 2, 0].map(at));
    assert_eq!((appended.log_offset.get(), appended.store_timestamp_ms), (0, place.clock.now_ms()));
    place.clock.advance_ms(-5);
    let again = store.append(batch(&["a3"])).unwrap();
    assert_eq!(again.log_offset.get(), appended.bytes);
    assert_eq!(again.store_timestamp_ms, appended.store_timestamp_ms, "store timestamps never fall");
    assert_eq!(bodies(&store), ["a0", "a1", "a2", "a3"]);
    assert_eq!(bodies_of(&store, "t", 1), ["b0"]);
    assert_eq!(bodies_of(&store, "u", 0), ["c0"]);

    let read = store.read(&topic("t"), queue(0), at(0), 1 << 20).unwrap();
    let runs: Vec<usize> = read.runs.iter().map(|r| records(&r.bytes).count()).collect();
    assert_eq!(runs, [1, 2, 1], "records side by side form one run");
    assert_eq!((read.records, read.next), (4, at(4)));
    let one = store.read(&topic("t"), queue(0), at(1), 1).unwrap();
    assert_eq!((one.records, one.next), (1, at(2)), "at least one record");
    assert!(store.append(Batch::new()).unwrap().queue_offsets.is_empty());
}

#[test]
fn a_store_that_was_closed_opens_with_everything() {
    let place = Place::lazy();
    let store = place.open();
    let made = store.create_topic(&topic("t"), 3).unwrap();
    assert_eq!(store.create_topic(&topic("t"), 9).unwrap(), made, "an existing topic stays as it is");
    let group = GroupName::new("g").unwrap();
    store.append(batch(&["a", "b"])).unwrap();
    store.append_chain(batch_for("t", 2, &["c"]), &mark("chain", 5, 8)).unwrap();
    store.commit_offset(&group, &topic("t"), queue(2), at(1)).unwrap();
    store.begin_chain("other", 77, "j").unwrap();
    store.close().unwrap();

    let store = place.open();
    assert!(store.recovery().clean && store.recovery().records_checked == 0);
    assert_eq!(store.topics(), [made]);
    assert_eq!((bodies(&store), bodies_of(&store, "t", 2)), (vec!["a".into(), "b".into()], vec!["c".into()]));
    let position = store.position("chain").unwrap();
    assert_eq!((position.end, position.incarnation.as_str()), (8, "i"));
    assert_eq!(store.position("other").unwrap().end, 77);
    assert_eq!(store.committed_offset(&group, &topic("t"), queue(2)), Some(at(1)));
    assert_eq!(store.committed_offset(&group, &topic("t"), queue(0)), None);
    let appended = store.append(batch(&["d"])).unwrap();
    assert_eq!(appended.queue_offsets, [at(2)]);
}

#[test]
fn a_chain_moves_with_its_rows_and_only_from_where_it_stands() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    store.begin_chain("c", 10, "i").unwrap();
    store.begin_chain("c", 99, "i").unwrap();
    let check_refused =
        |start: i64, stored_is: i64| match store.append_chain(batch(&["no"]), &mark("c", start, 50)) {
            Err(Error::WrongPosition { chain, stored, start: refused }) => {
                assert_eq!((chain.as_str(), stored, refused), ("c", stored_is, start));
            }
            other => panic!("{other:?}"),
        };
    check_refused(0, 10);
    store.append_chain(batch(&["a", "b"]), &mark("c", 10, 12)).unwrap();
    check_refused(10, 12);
    store.append_chain(Batch::new(), &mark("c", 12, 40)).unwrap();
    check_refused(12, 40);
    assert_eq!(bodies(&store), ["a", "b"]);
    drop(store);
    let store = place.open();
    assert_eq!(store.position("c").unwrap().end, 40);
    store.append_chain(batch(&["new"]), &mark("unknown", 3, 4)).unwrap();
    assert_eq!(store.position("unknown").unwrap().end, 4);
}

#[test]
fn a_record_that_does_not_fit_goes_to_the_next_segment_behind_a_filler() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    let body = "x".repeat(3000);
    let mut expected = Vec::new();
    for _ in 0..20 {
        store.append(batch(&[&body])).unwrap();
        expected.push(body.clone());
    }
    assert_eq!(bodies(&store), expected);
    let first = std::fs::read(place.segment(0)).unwrap();
    assert_eq!(first.len() as u64, SEGMENT_BYTES);
    let read = store.read(&topic("t"), queue(0), at(0), 1 << 20).unwrap();
    let in_first: usize = read.runs[0].bytes.len();
    let rest = first.len() - in_first;
    assert_eq!(filler_size(&first[in_first..]), Some(u32::try_from(rest).unwrap()));
    assert!(rest >= FILLER_BYTES);
    assert_eq!(read.runs[1].log_offset.get(), SEGMENT_BYTES);
    drop(store);
    assert_eq!(bodies(&place.open()), expected);
}

#[test]
fn what_the_store_can_not_hold_is_refused_and_nothing_is_written() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    assert!(matches!(store.append(batch_for("none", 0, &["a"])), Err(Error::NoTopic { .. })));
    assert!(matches!(store.append(batch_for("t", 1, &["a"])), Err(Error::NoQueue { queues: 1, .. })));
    let large = "x".repeat(usize::try_from(SEGMENT_BYTES).unwrap());
    assert!(matches!(store.append(batch(&[&large])), Err(Error::TooLarge { .. })));
    assert!(matches!(store.create_topic(&topic("u"), 0), Err(Error::Setting { .. })));
    let beyond = store.read(&topic("t"), queue(0), at(1), 100);
    assert!(matches!(beyond, Err(Error::BeyondEnd { next, .. }) if next == at(0)));
    assert_eq!(store.append(batch(&["a"])).unwrap().log_offset.get(), 0);
    // As large as a segment takes.
    let mut fits = batch(&["x"]);
    let one = fits.bytes();
    let rest = usize::try_from(SEGMENT_BYTES).unwrap() - FILLER_BYTES - one;
    let overhead = one - 1;
    let message = Message { body: &vec![7; rest - (overhead - "body_x_".len())], ..Message::default() };
    fits.push(&topic("t"), queue(0), &message).unwrap();
    assert_eq!(fits.bytes() as u64, SEGMENT_BYTES - 8);
    assert_eq!(store.append(fits).unwrap().log_offset.get(), SEGMENT_BYTES);
}

#[test]
fn halves_of_open_transactions_stand_in_the_log_and_in_no_queue() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    let mut batch = batch(&["a"]);
    for sys_flag in [sys_flag::TRANSACTION_PREPARED, sys_flag::TRANSACTION_ROLLBACK] {
        batch
            .push(&topic("t"), queue(0), &Message { sys_flag, body: b"half", ..Message::default() })
            .unwrap();
    }
    let commit = sys_flag::TRANSACTION_COMMIT;
    batch
        .push(&topic("t"), queue(0), &Message { sys_flag: commit, body: b"whole", ..Message::default() })
        .unwrap();
    store.append(batch).unwrap();
    assert_eq!(bodies(&store), ["a", "whole"]);
    assert_eq!(bodies(&place.crashed().open()), ["a", "whole"], "and neither after a crash");
}

#[test]
fn a_mark_of_a_batch_is_the_only_property_that_is_added() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    store.append_chain(batch(&["a", "b"]), &mark("c", 0, 2)).unwrap();
    let read = store.read(&topic("t"), queue(0), at(0), 1 << 20).unwrap();
    let names = |record: &sluice_protocol::record::Record<'_>| {
        message::properties(record.properties).map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
    };
    let found: Vec<_> = records(&read.runs[0].bytes).map(|r| names(&r.unwrap())).collect();
    assert_eq!(found, [vec!["body", message::BATCH_MARK], vec!["body"]]);
}

#[test]
fn a_waiter_is_woken_by_an_append_and_by_nothing_else() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    let seen = store.wait(u64::MAX, Duration::ZERO);
    assert_eq!(store.wait(seen, Duration::from_millis(1)), seen);
    let waiter = store.clone();
    let thread = std::thread::spawn(move || waiter.wait(seen, Duration::from_mins(1)));
    store.append(batch(&["a"])).unwrap();
    assert!(thread.join().unwrap() > seen);
}

#[test]
fn ten_thousand_queues_are_written_read_and_found_again() {
    let place = Place::lazy();
    let settings = sluice_store::Settings { segment_bytes: 8 << 20, ..place.settings.clone() };
    let place = Place { settings, ..place };
    let disk = FaultyDisk::new();
    let store = place.open_on(&disk);
    store.create_topic(&topic("t"), 10_000).unwrap();
    for round in ["first", "second"] {
        for ids in (0..10_000).collect::<Vec<i32>>().chunks(1000) {
            let mut batch = Batch::new();
            for id in ids {
                push(&mut batch, "t", *id, &[&format!("{round} {id}")]);
            }
            store.append(batch).unwrap();
        }
    }
    store.close().unwrap();
    let store = place.open_on(&disk);
    for id in [0, 1, 4999, 9999] {
        assert_eq!(bodies_of(&store, "t", id), [format!("first {id}"), format!("second {id}")]);
    }
}

#[test]
fn many_threads_append_in_sync_mode_and_every_queue_stays_in_order() {
    let place = Place::new(Flush::Sync);
    let store = place.open_whole();
    store.create_topic(&topic("t"), 4).unwrap();
    let threads: Vec<_> = (0..4)
        .map(|id| {
            let store = store.clone();
            std::thread::spawn(move || {
                for i in 0..50 {
                    store.append(batch_for("t", id, &[&format!("{i}")])).unwrap();
                    let (_, next) = store.offsets(&topic("t"), queue(id)).unwrap();
                    assert_eq!(next.get(), i + 1, "what was acknowledged is visible");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let expected: Vec<String> = (0..50).map(|i| i.to_string()).collect();
    for id in 0..4 {
        assert_eq!(bodies_of(&store, "t", id), expected);
    }
    store.close().unwrap();
    assert_eq!(bodies_of(&place.open(), "t", 3), expected);
}

#[test]
fn the_thread_flushes_makes_segments_and_ends_at_close() {
    let place = Place::new(Flush::Async { interval: Duration::from_millis(1) });
    let store = place.open_whole();
    store.create_topic(&topic("t"), 1).unwrap();
    let body = "x".repeat(1000);
    for _ in 0..100 {
        store.append(batch(&[&body])).unwrap();
    }
    let other = store.clone();
    store.close().unwrap();
    assert!(matches!(other.append(batch(&["late"])), Err(Error::Closed { .. })));
    assert_eq!(bodies(&other).len(), 100, "a closed store can still be read");
    assert_eq!(bodies(&place.open()).len(), 100);
}

#[test]
fn a_store_on_a_real_disk_opens_again_after_a_kill_and_after_a_close() {
    let place = Place::on_disk(Flush::Sync);
    let store = place.open_whole();
    store.create_topic(&topic("t"), 1).unwrap();
    let body = "x".repeat(3000);
    for start in 0..4 {
        store.append_chain(batch(&[&body]), &mark("c", start, start + 1)).unwrap();
    }
    let killed = Place::on_disk(Flush::Sync);
    sluice_testkit::copy_dir(&place.dir(), &killed.dir()).unwrap();
    store.close().unwrap();
    for place in [killed, place] {
        let store = place.open_whole();
        assert_eq!((bodies(&store).len(), store.position("c").unwrap().end), (4, 4));
        store.append_chain(batch(&[&body]), &mark("c", 4, 5)).unwrap();
        assert_eq!(bodies(&store).len(), 5);
    }
}

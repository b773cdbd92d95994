//! Disks that are full or fail, a second writer, and what retention drops.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Place, SEGMENT_BYTES, at, batch, batch_for, bodies, bodies_of, mark, queue, topic};
use nix::errno::Errno;
use sluice_protocol::id::GroupName;
use sluice_store::file::RealDisk;
use sluice_store::{Batch, Error, Flush, Retention, Store};
use sluice_testkit::{Call, FaultyDisk, PowerLoss};

#[test]
fn no_space_at_a_roll_is_an_error_and_the_same_append_succeeds_once_there_is_space() {
    for flush in [Flush::Sync, Flush::Async { interval: Duration::from_hours(1) }] {
        let place = Place::new(flush);
        let disk = FaultyDisk::new();
        let store = place.open_on(&disk);
        store.create_topic(&topic("t"), 1).unwrap();
        let body = "x".repeat(5000);
        store.append(batch(&[&body])).unwrap();
        disk.fail(Call::Allocate, 1, Errno::ENOSPC);
        assert!(matches!(store.append(batch(&[&body])), Err(Error::NoSpace { op: "allocate", .. })));
        disk.set_full(true);
        for _ in 0..3 {
            match store.append_chain(batch(&[&body]), &mark("c", 0, 1)) {
                Err(Error::NoSpace { path, .. }) => assert_eq!(path, place.segment(SEGMENT_BYTES)),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((bodies(&store).len(), store.position("c")), (1, None));
        disk.set_full(false);
        store.append_chain(batch(&[&body]), &mark("c", 0, 1)).unwrap();
        assert_eq!((bodies(&store).len(), store.position("c").unwrap().end), (2, 1));
        store.flush().unwrap();
        disk.crash(1, PowerLoss::Forget);
        drop(store);
        assert_eq!(bodies(&place.open()).len(), 2);
    }
}

#[test]
fn a_full_disk_in_the_middle_of_an_append_leaves_nothing_of_it() {
    let place = Place::lazy();
    let disk = FaultyDisk::new();
    let store = place.open_on(&disk);
    store.create_topic(&topic("t"), 2).unwrap();
    store.append(batch(&["a"])).unwrap();
    disk.set_full(true);
    // The segment has space for the records; the consume queue of a new queue has none.
    let mut both = batch(&["b"]);
    common::push(&mut both, "t", 1, &["c"]);
    assert!(matches!(store.append(both.clone()), Err(Error::NoSpace { .. })));
    assert_eq!((bodies(&store).len(), bodies_of(&store, "t", 1).len()), (1, 0));
    let group = GroupName::new("g").unwrap();
    let commit = |offset| store.commit_offset(&group, &topic("t"), queue(0), at(offset));
    let refused = (0..10_000).find(|&offset| commit(offset).is_err()).unwrap();
    assert!(matches!(commit(refused), Err(Error::NoSpace { .. })));
    assert_eq!(store.committed_offset(&group, &topic("t"), queue(0)), Some(at(refused - 1)));
    let while_full = place.crashed();
    let reopened = while_full.open();
    assert_eq!(
        (bodies(&reopened), reopened.recovery().cut_bytes),
        (vec!["a".to_owned()], 0),
        "nothing to cut"
    );
    disk.set_full(false);
    store.append(both).unwrap();
    assert_eq!((bodies(&store).len(), bodies_of(&store, "t", 1).len()), (2, 1));
}

#[test]
fn whichever_write_fails_an_append_is_whole_or_absent() {
    for nth in 1..=12 {
        let place = Place::lazy();
        let disk = FaultyDisk::new();
        let store = place.open_on(&disk);
        store.create_topic(&topic("t"), 2).unwrap();
        store.append(batch(&["a"])).unwrap();
        disk.fail(Call::Write, nth, Errno::EIO);
        let mut expected = vec!["a".to_owned()];
        for i in 0..4 {
            let body = format!("{i} {}", "x".repeat(2500));
            let mut batch = batch(&[&body]);
            common::push(&mut batch, "t", 1, &["other"]);
            match store.append(batch) {
                Ok(_) => expected.push(body),
                Err(error) => assert!(matches!(error, Error::Io { .. }), "{error:?}"),
            }
        }
        assert_eq!(bodies(&store), expected, "write {nth}");
        let killed = place.crashed().open();
        assert_eq!(bodies(&killed), expected, "write {nth}, killed");
        assert_eq!(bodies_of(&killed, "t", 1).len(), expected.len() - 1);
        store.close().unwrap();
        assert_eq!(bodies(&place.open()), expected, "write {nth}, closed");
    }
}

#[test]
fn a_refused_append_does_not_come_back_after_power_loss() {
    for seed in 0..common::seeds(80) {
        let place = Place::lazy();
        let disk = FaultyDisk::new();
        let store = place.open_on(&disk);
        store.create_topic(&topic("t"), 1).unwrap();
        store.append(batch(&["a"])).unwrap();
        store.flush().unwrap();
        // Longer than a sector each, so that some may be written back and others not; the tail's entry fails.
        let rows = ["d", "e", "f"].map(|c| c.repeat(600));
        disk.fail(Call::Write, 3, Errno::ENOSPC);
        let refused = store.append(batch(&rows.each_ref().map(String::as_str)));
        assert!(matches!(refused, Err(Error::NoSpace { .. })));
        disk.crash(seed, PowerLoss::Tear);
        drop(store);
        assert_eq!(bodies(&place.open()), ["a"], "SEED {seed}");
    }
}

#[test]
fn a_segment_that_was_made_before_is_not_removed_when_it_can_not_be_opened() {
    let place = Place::lazy();
    let disk = FaultyDisk::new();
    let store = place.open_on(&disk);
    store.create_topic(&topic("t"), 1).unwrap();
    let body = "x".repeat(5000);
    store.append(batch(&[&body])).unwrap();
    for was_there in [false, true] {
        if was_there {
            std::fs::write(place.segment(SEGMENT_BYTES), "").unwrap();
        }
        disk.fail(Call::Allocate, 1, Errno::ENOSPC);
        assert!(matches!(store.append(batch(&[&body])), Err(Error::NoSpace { op: "allocate", .. })));
        assert_eq!(place.segment(SEGMENT_BYTES).exists(), was_there);
    }
    store.append(batch(&[&body])).unwrap();
    assert_eq!(bodies(&store).len(), 2);
}

#[test]
fn a_topic_that_is_there_is_given_back_when_it_is_durable() {
    let place = Place::lazy();
    let disk = FaultyDisk::new();
    let store = place.open_on(&disk);
    let made = store.create_topic(&topic("t"), 1).unwrap();
    store.append(batch(&["a"])).unwrap();
    assert_eq!(store.create_topic(&topic("t"), 1).unwrap(), made);
    disk.crash(0, PowerLoss::Forget);
    drop(store);
    assert_eq!(bodies(&place.open()), ["a"], "all that was written before the call");
}

#[test]
fn a_failed_sync_poisons_the_store_until_it_is_opened_again() {
    let place = Place::new(Flush::Sync);
    let disk = FaultyDisk::new();
    let store = place.open_on(&disk);
    store.create_topic(&topic("t"), 1).unwrap();
    store.append(batch(&["a"])).unwrap();
    disk.fail(Call::Sync, 1, Errno::EIO);
    let poisoned = store.append(batch(&["lost"])).unwrap_err();
    assert!(matches!(poisoned, Error::Poisoned { op: "sync", .. }), "{poisoned:?}");
    assert!(poisoned.to_string().contains("commitlog"), "{poisoned}");
    assert!(matches!(store.append(batch(&["b"])), Err(Error::Poisoned { .. })));
    assert!(matches!(store.flush(), Err(Error::Poisoned { .. })));
    assert!(matches!(store.create_topic(&topic("u"), 1), Err(Error::Poisoned { .. })));
    assert_eq!(bodies(&store), ["a"], "what was not acknowledged is not shown, what was can be read");
    disk.crash(0, PowerLoss::Forget);
    drop(store);
    let store = place.open();
    store.append(batch(&["b"])).unwrap();
    assert_eq!(bodies(&store), ["a", "b"]);
}

#[test]
fn readers_in_sync_mode_see_durable_records_only() {
    let place = Place::new(Flush::Sync);
    let disk = FaultyDisk::new();
    let store = place.open_on(&disk);
    store.create_topic(&topic("t"), 1).unwrap();
    disk.fail(Call::Sync, 1, Errno::EIO);
    assert!(store.append(batch(&["a"])).is_err());
    assert_eq!(store.offsets(&topic("t"), queue(0)), Some((at(0), at(0))));
    assert_eq!(bodies(&place.crashed().open()), ["a"], "it was written");
}

#[test]
fn a_second_writer_is_refused_and_told_who_the_first_is() {
    let place = Place::lazy();
    let store = place.open();
    match place.try_open_on(Arc::new(RealDisk)) {
        Err(error @ Error::Locked { .. }) => {
            let text = error.to_string();
            assert!(text.contains(&std::process::id().to_string()) && text.contains("store"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    let other = store.clone();
    store.close().unwrap();
    place.open().close().unwrap();
    drop(other);
    drop(place.open());
    place.open();
}

fn filled(retention: Retention) -> (Place, FaultyDisk, Store) {
    let mut place = Place::lazy();
    place.settings.retention = retention;
    let disk = FaultyDisk::new();
    let store = place.open_on(&disk);
    store.create_topic(&topic("t"), 1).unwrap();
    store.create_topic(&topic("u"), 1).unwrap();
    store.append_chain(batch_for("u", 0, &["row"]), &mark("c", 0, 9)).unwrap();
    for i in 0..10 {
        store.append(batch(&[&format!("{i} {}", "x".repeat(5000))])).unwrap();
        place.clock.advance_ms(1000);
    }
    (place, disk, store)
}

fn check_dropped(place: &Place, store: Store, first: i64) {
    let check = |store: &Store| {
        assert_eq!(store.offsets(&topic("t"), queue(0)), Some((at(first), at(10))));
        assert_eq!(bodies(store).len(), usize::try_from(10 - first).unwrap());
        match store.read(&topic("t"), queue(0), at(first - 1), 100) {
            Err(Error::Expired { first: kept, .. }) => assert_eq!(kept, at(first)),
            other => panic!("{other:?}"),
        }
        assert_eq!(store.offsets(&topic("u"), queue(0)), Some((at(1), at(1))));
        assert_eq!(store.position("c").unwrap().end, 9, "a position outlives its rows");
    };
    assert!(!place.segment(0).exists());
    check(&store);
    assert_eq!(store.retain().unwrap(), 0);
    check(&place.crashed().open());
    store.close().unwrap();
    let store = place.open();
    check(&store);
    assert_eq!(store.append(batch_for("u", 0, &["later"])).unwrap().queue_offsets, [at(1)]);
}

#[test]
fn retention_by_age_drops_segments_whose_records_are_all_too_old() {
    let (place, _, store) = filled(Retention { age: Some(Duration::from_secs(5)), bytes: None });
    // Record i is stored at second i, one record a segment but for the first, and it is second 10 now.
    let read = store.read(&topic("t"), queue(0), at(0), 1 << 20).unwrap();
    assert_eq!(read.runs.len(), 10);
    assert_eq!(store.retain().unwrap(), 4);
    check_dropped(&place, store, 4);
}

#[test]
fn retention_by_size_drops_the_oldest_segments_and_never_the_last() {
    let (place, _, store) = filled(Retention { age: None, bytes: Some(3 * SEGMENT_BYTES) });
    let held = store.read(&topic("t"), queue(0), at(0), 1 << 20).unwrap();
    assert_eq!(store.retain().unwrap(), 7);
    assert!(held.runs[0].bytes.windows(4).any(|w| w == b"xxxx"), "what is being read stays readable");
    check_dropped(&place, store, 7);
    let (_place, _, store) = filled(Retention { age: Some(Duration::ZERO), bytes: Some(0) });
    assert_eq!(store.retain().unwrap(), 9);
    assert_eq!(bodies(&store).len(), 1);
}

#[test]
fn a_checkpoint_that_fails_anywhere_leaves_everything_to_the_next() {
    for (call, mode) in [Call::Write, Call::Sync]
        .into_iter()
        .flat_map(|call| [PowerLoss::Keep, PowerLoss::Forget, PowerLoss::Tear].map(|mode| (call, mode)))
    {
        for nth in 1..=12 {
            let place = Place::lazy();
            let disk = FaultyDisk::new();
            let store = place.open_on(&disk);
            store.create_topic(&topic("t"), 1).unwrap();
            store.append_chain(batch(&["a"]), &mark("c", 0, 4)).unwrap();
            let group = GroupName::new("g").unwrap();
            store.commit_offset(&group, &topic("t"), queue(0), at(1)).unwrap();
            store.flush().unwrap();
            disk.fail(call, nth, Errno::EIO);
            let failed = store.checkpoint().is_err();
            let check = |store: &Store| {
                assert_eq!(bodies(store), ["a"]);
                assert_eq!(store.position("c").unwrap().end, 4);
                assert_eq!(store.committed_offset(&group, &topic("t"), queue(0)), Some(at(1)));
            };
            check(&place.crashed().open());
            if failed && !matches!(store.append(Batch::new()), Err(Error::Poisoned { .. })) {
                let _ = store.checkpoint();
            }
            disk.crash(nth, mode);
            drop(store);
            check(&place.open());
        }
    }
}

/// A store with something in it, flushed, on a disk whose `nth` write from now on finds no space.
fn full_at(nth: u64, running: bool) -> (Place, FaultyDisk, Option<Store>) {
    let place = Place::lazy();
    let mut disk = FaultyDisk::new();
    let mut store = Some(place.open_on(&disk));
    store.as_ref().unwrap().create_topic(&topic("t"), 1).unwrap();
    store.as_ref().unwrap().append_chain(batch(&["a"]), &mark("c", 0, 4)).unwrap();
    store.as_ref().unwrap().flush().unwrap();
    if !running {
        disk.power_off_after(0);
        store = None;
        disk = disk.restarted();
    }
    disk.fail(Call::Write, nth, Errno::ENOSPC);
    (place, disk, store)
}

fn check_goes_on(place: &Place, disk: &FaultyDisk, store: Store) {
    store.append_chain(batch(&["b"]), &mark("c", 4, 5)).unwrap();
    store.checkpoint().unwrap();
    disk.crash(0, PowerLoss::Forget);
    drop(store);
    let store = place.open();
    assert_eq!((bodies(&store), store.position("c").unwrap().end), (vec!["a".into(), "b".into()], 5));
}

fn no_space_for(error: &Error) -> String {
    match error {
        Error::NoSpace { path, .. } => path.display().to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_open_or_a_checkpoint_without_space_is_an_error_and_the_next_one_succeeds_once_there_is_some() {
    for running in [false, true] {
        let mut met = Vec::new();
        for nth in 1.. {
            let (place, disk, store) = full_at(nth, running);
            let result = match &store {
                Some(store) => store.checkpoint(),
                None => place.try_open_on(Arc::new(disk.clone())).map(drop),
            };
            let Err(error) = result else { break };
            met.push(no_space_for(&error));
            check_goes_on(&place, &disk, store.unwrap_or_else(|| place.open_on(&disk)));
        }
        for name in ["/sluice/tail/", "/config/topics.json", "/checkpoint", "/sluice/positions.json"] {
            assert!(met.iter().any(|path| path.contains(name)), "{name}: {met:?}");
        }
    }
}

//! A sync that fails leaves bytes that the system believes written and never writes again: a process that starts
//! after it, on the same machine, must not rely on them.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use common::{Place, at, batch, batch_for, bodies, bodies_of, queue, topic};
use nix::errno::Errno;
use sluice_protocol::id::GroupName;
use sluice_store::{Error, Flush, Store};
use sluice_testkit::{Call, FaultyDisk, PowerLoss};

/// What is done until a sync fails: appends over two segments, an offset, a checkpoint.
fn work(store: &Store, acknowledged: &mut Vec<String>) -> Result<(), Error> {
    let group = GroupName::new("g").unwrap();
    for number in 0..4 {
        let body = format!("{number} {}", "x".repeat(5000));
        store.append(batch(&[&body]))?;
        acknowledged.push(body);
        store.append(batch_for("t", 1, &["other"]))?;
        store.commit_offset(&group, &topic("t"), queue(0), at(1))?;
        if number == 1 {
            store.checkpoint()?;
        }
    }
    store.checkpoint()
}

#[test]
fn what_is_shown_after_a_restart_is_durable_whichever_sync_failed_before() {
    let mut poisoned = 0;
    for nth in 1.. {
        let place = Place::new(Flush::Sync);
        let disk = FaultyDisk::new();
        let store = place.open_on(&disk);
        store.create_topic(&topic("t"), 2).unwrap();
        disk.fail(Call::Sync, nth, Errno::EIO);
        let mut acknowledged = Vec::new();
        if work(&store, &mut acknowledged).is_ok() {
            assert!(poisoned >= 10, "{poisoned} of {nth}");
            return;
        }
        poisoned += u64::from(matches!(store.flush(), Err(Error::Poisoned { .. })));
        // The process ends, and the machine goes on.
        disk.power_off_after(0);
        drop(store);
        let disk = disk.restarted();
        let store = place.open_on(&disk);
        let shown = [bodies(&store), bodies_of(&store, "t", 1)];
        assert!(shown[0].starts_with(&acknowledged), "sync {nth}");
        disk.crash(nth, PowerLoss::Forget);
        drop(store);
        let store = place.open();
        assert_eq!([bodies(&store), bodies_of(&store, "t", 1)], shown, "sync {nth}");
        assert_eq!(store.recovery().queues_rebuilt, 0, "sync {nth}");
        assert!(!place.dir().join("sluice/unsure").exists(), "sync {nth}");
    }
}

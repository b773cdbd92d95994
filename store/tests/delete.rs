//! Topics that are deleted, and made again under the same name.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use common::{Place, at, batch, batch_for, bodies_of, queue, topic};
use sluice_protocol::id::GroupName;
use sluice_store::{Error, Store};
use sluice_testkit::{FaultyDisk, PowerLoss};

/// A store with a topic `t` of messages `old`, and one `kept`, both with a committed offset.
fn begun(place: &Place, checkpoint: bool) -> Store {
    let store = place.open();
    let group = GroupName::new("g").unwrap();
    for name in ["t", "kept"] {
        store.create_topic(&topic(name), 2).unwrap();
        for i in 0..30 {
            store.append(batch_for(name, i % 2, &["old"])).unwrap();
        }
        store.commit_offset(&group, &topic(name), queue(0), at(7)).unwrap();
    }
    if checkpoint {
        store.checkpoint().unwrap();
    }
    store
}

fn check(store: &Store, again: bool) {
    let group = GroupName::new("g").unwrap();
    let names: Vec<String> = store.topics().iter().map(|topic| topic.name.to_string()).collect();
    assert_eq!(bodies_of(store, "kept", 1), vec!["old"; 15]);
    assert_eq!(store.committed_offset(&group, &topic("kept"), queue(0)), Some(at(7)));
    assert_eq!(store.committed_offset(&group, &topic("t"), queue(0)), None);
    if again {
        assert_eq!(names, ["kept", "t"]);
        assert_eq!(
            (bodies_of(store, "t", 0), bodies_of(store, "t", 1)),
            (vec!["new".to_owned(); 3], Vec::new())
        );
    } else {
        assert_eq!(names, ["kept"]);
        assert!(matches!(store.append(batch(&["m"])), Err(Error::NoTopic { .. } | Error::ReadOnly { .. })));
    }
}

/// How a store ends and comes again.
#[derive(Clone, Copy, Debug)]
enum Ends {
    Closed,
    Killed,
    Checkpointed,
}

fn end(place: Place, store: Store, how: Ends) -> Place {
    match how {
        Ends::Closed => store.close().unwrap(),
        Ends::Checkpointed => store.checkpoint().unwrap(),
        Ends::Killed => {}
    }
    place.crashed()
}

#[test]
fn a_deleted_topic_stays_deleted_and_a_new_one_begins_at_zero() {
    for checkpoint in [false, true] {
        for again in [false, true] {
            for how in [Ends::Closed, Ends::Killed, Ends::Checkpointed] {
                let place = Place::lazy();
                let store = begun(&place, checkpoint);
                let reader = Store::open_read_only(&place.dir()).unwrap();
                let lists = |place: &Place| Store::lists_topic(&place.dir(), &topic("t")).unwrap();
                assert!(lists(&place) || !checkpoint);
                store.delete_topic(&topic("t")).unwrap();
                assert!(!lists(&place));
                assert!(matches!(store.delete_topic(&topic("t")), Err(Error::NoTopic { .. })));
                check(&store, false);
                reader.refresh().unwrap();
                check(&reader, false);
                if again {
                    store.create_topic(&topic("t"), 2).unwrap();
                    for _ in 0..3 {
                        store.append(batch(&["new"])).unwrap();
                    }
                    reader.refresh().unwrap();
                    check(&reader, true);
                }
                check(&store, again);
                let mut place = end(place, store, how);
                assert!(lists(&place) == again || again && matches!(how, Ends::Killed));
                for how in [Ends::Killed, Ends::Closed, Ends::Closed] {
                    check(&Store::open_read_only(&place.dir()).unwrap(), again);
                    let store = place.open();
                    check(&store, again);
                    place = end(place, store, how);
                }
                assert_eq!(place.dir().join("consumequeue/t").exists(), again, "{checkpoint} {how:?}");
            }
        }
    }
}

#[test]
fn power_loss_leaves_a_deleted_topic_deleted() {
    for checkpoint in [false, true] {
        for again in [false, true] {
            for seed in 0..20 {
                let place = Place::lazy();
                let disk = FaultyDisk::new();
                drop(begun(&place, checkpoint).close());
                let store = place.open_on(&disk);
                store.delete_topic(&topic("t")).unwrap();
                if again {
                    store.create_topic(&topic("t"), 2).unwrap();
                    for _ in 0..3 {
                        store.append(batch(&["new"])).unwrap();
                    }
                    store.flush().unwrap();
                }
                disk.crash(seed, PowerLoss::Tear);
                drop(store);
                check(&place.open(), again);
            }
        }
    }
}

//! A reader beside a writer.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Place, at, batch, batch_for, bodies, bodies_of, mark, queue, topic};
use sluice_protocol::id::GroupName;
use sluice_store::{Batch, Error, Flush, Retention, Store};

fn files(dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            files(&entry.path(), found);
        } else {
            found.insert(entry.path(), std::fs::read(entry.path()).unwrap());
        }
    }
}

#[test]
fn a_reader_that_came_before_the_first_segment_sees_all_that_follows() {
    let place = Place::lazy();
    let commit_log = place.dir().join("commitlog");
    std::fs::create_dir_all(&commit_log).unwrap();
    // As a writer leaves it for a moment: there, and without its length.
    for first in [None, Some("00000000000000000000")] {
        if let Some(name) = first {
            std::fs::write(commit_log.join(name), "").unwrap();
        }
        let reader = Store::open_read_only(&place.dir()).unwrap();
        assert!(reader.topics().is_empty());
        reader.refresh().unwrap();
        let writer = place.open();
        writer.create_topic(&topic("t"), 1).unwrap();
        let long: Vec<String> = (0..40).map(|i| format!("{i} {}", "x".repeat(1500))).collect();
        for body in &long {
            writer.append(batch(&[body])).unwrap();
        }
        reader.refresh().unwrap();
        assert_eq!(bodies(&reader), long);
        writer.append(batch(&["more"])).unwrap();
        reader.refresh().unwrap();
        assert_eq!(bodies(&reader).last().map(String::as_str), Some("more"));
        drop((reader, writer));
        std::fs::remove_dir_all(place.dir()).unwrap();
        std::fs::create_dir_all(&commit_log).unwrap();
    }
}

#[test]
fn a_reader_sees_what_the_writer_appends_and_writes_nothing() {
    let place = Place::lazy();
    let writer = place.open();
    writer.create_topic(&topic("t"), 1).unwrap();
    writer.append(batch(&["a"])).unwrap();
    let reader = Store::open_read_only(&place.dir()).unwrap();
    assert_eq!(bodies(&reader), ["a"]);
    let mut expected = vec!["a".to_owned()];
    let seen = reader.wait(u64::MAX, Duration::ZERO);
    for i in 0..40 {
        let body = format!("{i} {}", "x".repeat(1500));
        writer.append(batch(&[&body])).unwrap();
        expected.push(body);
        if i % 7 == 3 {
            writer.checkpoint().unwrap();
        }
        if i == 20 {
            writer.create_topic(&topic("u"), 2).unwrap();
            writer.append(batch_for("u", 1, &["new"])).unwrap();
        }
        if i % 3 == 0 {
            reader.refresh().unwrap();
            assert_eq!(bodies(&reader), expected);
        }
    }
    let group = GroupName::new("g").unwrap();
    writer.commit_offset(&group, &topic("t"), queue(0), at(5)).unwrap();
    writer.append_chain(batch(&["row"]), &mark("c", 0, 3)).unwrap();
    expected.push("row".into());
    let mut before = BTreeMap::new();
    files(&place.dir(), &mut before);
    reader.refresh().unwrap();
    assert_eq!(bodies(&reader), expected);
    assert_eq!(bodies_of(&reader, "u", 1), ["new"]);
    assert_eq!(reader.topics(), writer.topics());
    assert_eq!(reader.committed_offset(&group, &topic("t"), queue(0)), Some(at(5)));
    assert_eq!(reader.position("c"), writer.position("c"));
    assert!(reader.wait(seen, Duration::ZERO) > seen);
    assert!(matches!(reader.append(batch(&["no"])), Err(Error::ReadOnly { .. })));
    assert!(matches!(reader.flush(), Err(Error::ReadOnly { .. })));
    drop(Store::open_read_only(&place.dir()).unwrap());
    drop(reader);
    let mut after = BTreeMap::new();
    files(&place.dir(), &mut after);
    assert!(before == after, "a reader changes no file");
}

#[test]
fn a_reader_beside_a_writer_never_sees_a_part_of_a_batch() {
    let place = Place::new(Flush::Async { interval: Duration::from_millis(2) });
    let writer = place.open_whole();
    writer.create_topic(&topic("t"), 2).unwrap();
    let reader = Store::open_read_only(&place.dir()).unwrap();
    let thread = std::thread::spawn(move || {
        for i in 0..300_i64 {
            let mut both = batch(&[&format!("{i}"), &format!("{i} again")]);
            common::push(&mut both, "t", 1, &[&format!("{i} too")]);
            writer.append_chain(both, &mark("c", i, i + 1)).unwrap();
        }
        writer.close().unwrap();
    });
    loop {
        let ended = thread.is_finished();
        reader.refresh().unwrap();
        let counts = [0, 1].map(|id| bodies_of(&reader, "t", id).len());
        assert_eq!(counts[0], counts[1] * 2, "both queues show the same batches");
        let position = reader.position("c").map_or(0, |p| p.end);
        assert_eq!(position, i64::try_from(counts[1]).unwrap(), "and the chain stands at their end");
        if ended {
            assert_eq!(counts[1], 300);
            break;
        }
    }
    thread.join().unwrap();
}

#[test]
fn a_reader_of_a_torn_store_ends_at_the_last_whole_batch_and_cuts_nothing() {
    let place = Place::lazy();
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    store.append(batch(&["a"])).unwrap();
    let last = store.append_chain(batch(&["b", "c"]), &mark("c", 0, 2)).unwrap();
    let copy = place.crashed();
    let path = copy.segment(0);
    let mut bytes = std::fs::read(&path).unwrap();
    let end = usize::try_from(last.log_offset.get() + last.bytes).unwrap();
    bytes[end - 10..end].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let reader = Store::open_read_only(&copy.dir()).unwrap();
    assert_eq!((bodies(&reader), reader.position("c")), (vec!["a".to_owned()], None));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    // A writer cuts and goes on; the reader follows.
    let writer = copy.open();
    writer.append(batch(&["d"])).unwrap();
    reader.refresh().unwrap();
    assert_eq!(bodies(&reader), ["a", "d"]);
}

#[test]
fn a_reader_follows_retention_and_outlives_the_writer() {
    let mut place = Place::lazy();
    place.settings.retention = Retention { age: None, bytes: Some(20_000) };
    let writer = place.open();
    writer.create_topic(&topic("t"), 1).unwrap();
    writer.append(batch(&["first"])).unwrap();
    let reader = Store::open_read_only(&place.dir()).unwrap();
    for _ in 0..8 {
        writer.append(batch(&[&"x".repeat(5000)])).unwrap();
    }
    writer.retain().unwrap();
    reader.refresh().unwrap();
    assert_eq!(reader.offsets(&topic("t"), queue(0)), writer.offsets(&topic("t"), queue(0)));
    assert!(matches!(reader.read(&topic("t"), queue(0), at(0), 100), Err(Error::Expired { .. })));
    let left = bodies(&writer);
    writer.append_chain(Batch::new(), &mark("c", 0, 1)).unwrap();
    writer.close().unwrap();
    reader.refresh().unwrap();
    assert_eq!((bodies(&reader), reader.position("c").unwrap().end), (left, 1));
}

#[test]
fn a_folder_without_a_store_is_an_error_that_names_it() {
    let place = Place::lazy();
    let error = Store::open_read_only(&place.dir()).unwrap_err().to_string();
    assert!(error.contains("commitlog"), "{error}");
    assert!(!place.dir().exists());
}

//! Lengths in files that are not true: no more is read into memory than a record can have.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use common::{Place, batch, bodies, mark, topic};
use peak_alloc::PeakAlloc;
use sluice_store::file::RealDisk;
use sluice_store::{Error, Flush, Store};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Of a segment that has all of its space on the disk, as a broker's has.
const SEGMENT_BYTES: u64 = 64 << 20;
/// What an open may take.
const BYTES_MAX: usize = 12 << 20;

/// Appends something and writes over a part of it, as `place_of` finds that in its bytes; then opens the store.
fn check(append: impl Fn(&Store), place_of: impl Fn(&[u8]) -> usize, damage: &[u8]) {
    let mut place = Place::new(Flush::Sync);
    place.settings.segment_bytes = SEGMENT_BYTES;
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    store.append(batch(&["before"])).unwrap();
    let at = store.log_end().get();
    append(&store);
    let place = place.crashed();
    let segment = File::options().read(true).write(true).open(place.segment(0)).unwrap();
    let mut bytes = vec![0; 4096];
    segment.read_at(&mut bytes, at).unwrap();
    segment.write_all_at(damage, at + place_of(&bytes) as u64).unwrap();
    ALLOCATED.reset_peak_usage();
    let before = ALLOCATED.current_usage();
    assert_eq!(bodies(&place.open()), ["before"]);
    let taken = ALLOCATED.peak_usage() - before;
    assert!(taken < BYTES_MAX, "{taken} bytes");
}

#[test]
fn a_length_that_is_not_true_is_not_read_into_memory() {
    let alone = |store: &Store| drop(store.append(batch(&["alone"])).unwrap());
    check(alone, |_| 0, &60_000_000_u32.to_be_bytes());
    // The mark says how many records and bytes its batch has, in ten digits each.
    let marked = |store: &Store| drop(store.append_chain(batch(&["row"]), &mark("c", 0, 1)).unwrap());
    let bytes_of = |bytes: &[u8]| bytes.windows(11).position(|w| w == b"0000000001 ").unwrap() + 11;
    check(marked, bytes_of, b"0060000000");
}

#[test]
fn a_checkpoint_that_names_shorter_segments_than_there_are_is_damage_and_nothing_is_cut() {
    let place = Place::new(Flush::Sync);
    let store = place.open();
    store.create_topic(&topic("t"), 1).unwrap();
    for _ in 0..6 {
        store.append(batch(&[&"x".repeat(1000)])).unwrap();
    }
    for place in [place.crashed(), {
        store.close().unwrap();
        place
    }] {
        let path = place.dir().join("sluice/positions.json");
        let text = fs::read_to_string(&path).unwrap();
        let log = fs::read(place.segment(0)).unwrap();
        fs::write(&path, text.replace(":16384,", ":5384,")).unwrap();
        match place.try_open_on(Arc::new(RealDisk)) {
            Err(Error::Damaged { reason, .. }) => assert!(reason.contains("5384"), "{reason}"),
            other => panic!("{other:?}"),
        }
        assert!(fs::read(place.segment(0)).unwrap() == log);
    }
}

//! Files of a store damaged by chance: it opens or says which file is damaged, never panics, reads no more into
//! memory than there is, and loses nothing that stands before the damage.
//!
//! Each seed is one damaged store; `SLUICE_FUZZ_INPUTS=1000000 cargo test --release -p sluice-store --test
//! recovery_fuzz` tries so many. A failure names its seed.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Place, SEGMENT_BYTES, at, batch_for, mark, queue, topic};
use peak_alloc::PeakAlloc;
use sluice_protocol::delay::Levels;
use sluice_protocol::id::GroupName;
use sluice_protocol::record::records;
use sluice_store::file::RealDisk;
use sluice_store::{Batch, Error, Flush, Store, With};
use sluice_testkit::{Random, copy_dir, scratch};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

const QUEUES: [(&str, i32); 4] = [("t", 0), ("t", 1), ("t", 2), ("u", 0)];
/// The most that one store may take while it is opened: the blank units of a consume queue's file, and room.
const BYTES_MAX: usize = 16 << 20;

/// A message where it stands.
struct Stored {
    queue: usize,
    offset: i64,
    body: String,
    /// Log offset behind it.
    end: u64,
}

/// A store as it was left, and what is in it.
struct Left {
    place: Place,
    /// Paths in it, but for those that do not count.
    files: Vec<PathBuf>,
    stored: Vec<Stored>,
}

/// A store of so many appends: messages, chains, offsets, settings; a checkpoint in its middle.
fn left(appends: usize, end: impl Fn(&Place, Store) -> Place) -> Left {
    let place = Place::new(Flush::Sync);
    let store = place.open();
    store.create_topic(&topic("t"), 3).unwrap();
    store.create_topic(&topic("u"), 1).unwrap();
    let group = GroupName::new("g").unwrap();
    store.set_group(&group, r#"{"groupName":"g","retryMaxTimes":16}"#).unwrap();
    let mut random = Random::new(1);
    let (mut stored, mut next) = (Vec::new(), [0; QUEUES.len()]);
    for number in 0..appends {
        let chosen = usize::try_from(random.below(QUEUES.len() as u64)).unwrap();
        let (name, id) = QUEUES[chosen];
        let rows = [format!("{number} a"), format!("{number} {}", "b".repeat(number * 7))];
        let both = batch_for(name, id, &[&rows[0], &rows[1]]);
        let start = i64::try_from(number).unwrap();
        let appended = match number % 3 {
            0 => store.append(both),
            _ => store.append_chain(both, &mark(["c", "d"][number % 2], start - 2, start)),
        };
        let appended =
            appended.unwrap_or_else(|_| store.append(batch_for(name, id, &[&rows[0], &rows[1]])).unwrap());
        let end = appended.log_offset.get() + appended.bytes;
        for body in rows {
            stored.push(Stored { queue: chosen, offset: next[chosen], body, end });
            next[chosen] += 1;
        }
        store.commit_offset(&group, &topic("t"), queue(0), at(next[0])).unwrap();
        if number == appends / 3 || number == appends * 5 / 6 {
            store.create_topic(&topic("gone"), 1).unwrap();
            store.append(batch_for("gone", 0, &["gone"])).unwrap();
            store.delete_topic(&topic("gone")).unwrap();
            let (level, next) = (Levels::default().get(1).unwrap(), at(start));
            store.append_with(Batch::new(), &With::Delivered { level, next }).unwrap();
        }
        if number == appends * 2 / 3 {
            store.checkpoint().unwrap();
        }
    }
    let place = end(&place, store);
    let mut files = Vec::new();
    list(&place.dir(), &mut files);
    files.retain(|path| {
        !path.ends_with("lock") && !path.ends_with("sluice/holder") && !path.ends_with("abort")
    });
    Left { place, files, stored }
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { list(&path, files) } else { files.push(path) }
    }
    files.sort();
}

/// Stores as a close, a kill, and another broker leave them.
fn all_left() -> Vec<Left> {
    let closed = |place: &Place, store: Store| {
        store.close().unwrap();
        place.crashed()
    };
    let foreign = |place: &Place, store: Store| {
        let place = closed(place, store);
        fs::remove_dir_all(place.dir().join("sluice")).unwrap();
        place
    };
    let aborted = |place: &Place, store: Store| {
        let place = foreign(place, store);
        fs::write(place.dir().join("abort"), "").unwrap();
        place
    };
    let killed = |place: &Place, _: Store| place.crashed();
    let all = vec![left(60, closed), left(60, killed), left(60, foreign), left(60, aborted)];
    assert!(all[0].stored.last().unwrap().end > 2 * SEGMENT_BYTES, "some segments");
    // And in one segment.
    all.into_iter().chain([left(24, closed), left(24, killed)]).collect()
}

/// Bytes that lengths, offsets and counts are made of where they hurt.
fn odd_bytes(random: &mut Random) -> Vec<u8> {
    let number = match random.below(4) {
        0 => u64::MAX,
        1 => i64::MAX.unsigned_abs(),
        2 => 1 << random.below(64),
        _ => random.number(),
    };
    match random.below(5) {
        0 => u32::try_from(number >> 32).unwrap().to_be_bytes().to_vec(),
        1 => number.to_be_bytes().to_vec(),
        2 => number.to_string().into_bytes(),
        3 => vec![u8::try_from(random.below(256)).unwrap()],
        _ => vec![0; usize::try_from(random.below(700)).unwrap()],
    }
}

/// Damages one file; gives its path and the first byte that is not as it was.
fn damage(left: &Left, dir: &Path, random: &mut Random) -> (PathBuf, u64) {
    let path = &left.files[usize::try_from(random.below(left.files.len() as u64)).unwrap()];
    let path = dir.join(path.strip_prefix(left.place.dir()).unwrap());
    let Ok(file) = File::options().read(true).write(true).open(&path) else { return (path, 0) };
    let mut held = vec![0; 40_000];
    let len = file.read_at(&mut held, 0).unwrap();
    held.truncate(len);
    // Most of a file of units, and the end of a segment, is zero: what stands before is hit more often.
    let used = held.iter().rposition(|b| *b != 0).map_or(0, |last| last as u64 + 1);
    let within = if random.chance(90) { used } else { held.len() as u64 };
    let place = random.below(within.max(1));
    match random.below(12) {
        0 => file.set_len(place).unwrap(),
        1 => {
            fs::remove_file(&path).unwrap();
            return (path, 0);
        }
        2 => {
            let len = file.metadata().unwrap().len();
            file.write_all_at(&odd_bytes(random), len).unwrap();
            return (path, len);
        }
        3 => {
            // A number in a text becomes another one, or longer.
            let digits = held.iter().enumerate().filter(|(_, b)| b.is_ascii_digit()).map(|(i, _)| i);
            let digits: Vec<usize> = digits.collect();
            let Some(&at) = digits.get(usize::try_from(random.below(digits.len() as u64)).unwrap()) else {
                return (path, u64::MAX);
            };
            let put = random.number().to_string().into_bytes();
            if random.chance(50) {
                held[at] = put[0];
            } else {
                held.splice(at..at, put);
            }
            file.write_all_at(&held, 0).unwrap();
            return (path, at as u64);
        }
        4..8 => {
            let bit = 1 << random.below(8);
            let changed = held.get(usize::try_from(place).unwrap()).map_or(1, |byte| byte ^ bit);
            file.write_all_at(&[changed], place).unwrap();
        }
        _ => file.write_all_at(&odd_bytes(random), place).unwrap(),
    }
    (path, place)
}

/// What is in a queue where it can be read, by offset.
fn readable(store: &Store, number: usize) -> Vec<(i64, String)> {
    let (name, id) = QUEUES[number];
    let Some((first, next)) = store.offsets(&topic(name), queue(id)) else { return Vec::new() };
    let mut found = Vec::new();
    let mut from = first;
    while from < next {
        // One record at a time, so that a unit that points anywhere hides no other.
        match store.read_records(&topic(name), queue(id), from, 1, 1) {
            Ok(read) => {
                for record in read.runs.iter().flat_map(|run| records(&run.bytes)).flatten() {
                    let is_own = (record.topic, record.queue_id) == (name, id);
                    if is_own && record.queue_offset == from.get() {
                        found.push((from.get(), String::from_utf8_lossy(record.body).into_owned()));
                    }
                }
                assert!(read.next > from, "a read moves on");
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        if found.len() > 1000 || next.get() - from.get() > 1000 {
            // A damaged number made the queue long; what is asked for stands at its beginning.
            from = if from.get() < 200 { at(from.get() + 1) } else { next };
        } else {
            from = at(from.get() + 1);
        }
    }
    found
}

/// Opens the store of a seed and looks at it. The messages that must be there are those that end before the log is
/// damaged, and before the damage of a consume queue's units in that queue.
fn check(left: &Left, seed: u64) {
    let root = scratch().unwrap();
    let dir = root.path().join("store");
    copy_dir(&left.place.dir(), &dir).unwrap();
    let mut random = Random::new(seed);
    let mut log_whole = u64::MAX;
    let mut units_whole = [i64::MAX; QUEUES.len()];
    let mut what = format!("SEED {seed}");
    for _ in 0..=random.below(3) {
        let (path, from) = damage(left, &dir, &mut random);
        write!(what, ", {} from {from} on", path.strip_prefix(&dir).unwrap().display()).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().parse::<u64>().unwrap_or(0);
        if path.starts_with(dir.join("commitlog")) {
            log_whole = log_whole.min(name.saturating_add(from));
        }
        for (number, (topic, id)) in QUEUES.iter().enumerate() {
            if path.starts_with(dir.join(format!("consumequeue/{topic}/{id}"))) {
                units_whole[number] = units_whole[number].min(i64::try_from(from / 20).unwrap());
            }
        }
    }
    let log = |to: u64| -> Vec<u8> {
        let mut files = Vec::new();
        list(&dir.join("commitlog"), &mut files);
        let start = |path: &Path| path.file_name().unwrap().to_str().unwrap().parse::<u64>().unwrap();
        let mut bytes = Vec::new();
        for path in files {
            let whole = fs::read(&path).unwrap();
            let keep =
                usize::try_from(to.saturating_sub(start(&path))).unwrap_or(usize::MAX).min(whole.len());
            bytes.extend_from_slice(&whole[..keep]);
        }
        bytes
    };
    // A run that is damaged anywhere is torn, and cut from its beginning on.
    let whole_to =
        left.stored.iter().map(|stored| stored.end).filter(|end| *end <= log_whole).max().unwrap_or(0);
    let before = log(whole_to);
    let reader = Store::open_read_only(&dir).map(drop);
    let mut settings = left.place.settings.clone();
    settings.dir.clone_from(&dir);
    let opened = Store::open_without_upkeep(settings, Arc::new(RealDisk), left.place.clock.clock());
    assert!(log(whole_to) == before, "{what}: the log was changed before its damage");
    let store = match opened {
        Ok(store) => store,
        Err(Error::Damaged { .. } | Error::Setting { .. } | Error::Io { .. }) => return,
        Err(error) => panic!("{what}: {error:?}"),
    };
    assert!(reader.is_ok(), "{what}: {reader:?} but it can be opened to write");
    for number in 0..QUEUES.len() {
        let found = readable(&store, number);
        for stored in left.stored.iter().filter(|stored| stored.queue == number && stored.end <= whole_to) {
            let is_there = || found.contains(&(stored.offset, stored.body.clone()));
            assert!(
                stored.offset >= units_whole[number] || is_there(),
                "{what}: offset {} of {:?} is gone",
                stored.offset,
                QUEUES[number]
            );
        }
    }
    let appended = store.append(batch_for("t", 0, &["goes on"]));
    assert!(
        matches!(appended, Ok(_) | Err(Error::NoTopic { .. } | Error::NoQueue { .. })),
        "{what}: {appended:?}"
    );
}

#[test]
fn a_damaged_store_opens_or_says_so_and_loses_nothing_before_the_damage() {
    let all = all_left();
    let seeds = common::number_of("SLUICE_FUZZ_INPUTS", 400);
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    ALLOCATED.reset_peak_usage();
    let before = ALLOCATED.current_usage();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let seed = next.fetch_add(1, Ordering::Relaxed)
                    && seed < seeds
                {
                    check(&all[usize::try_from(seed % all.len() as u64).unwrap()], seed);
                }
            });
        }
    });
    let peak = ALLOCATED.peak_usage() - before;
    assert!(peak < threads * BYTES_MAX, "{peak} bytes were taken");
    println!("{seeds} damaged stores, {peak} bytes at most by {threads} threads");
}

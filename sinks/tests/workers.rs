//! Two workers on one chain in a folder, each cutting its own ranges and killed at any operation: a seed decides whose
//! operation is next and where each life ends. Every row comes out once, and the audit proves it.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod support;

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use sluice_connect::task::{Class, SinkTask};
use sluice_sinks::audit::audit;
use sluice_sinks::location::Location;
use sluice_sinks::place;
use sluice_store::file::{Disk, DiskFile, Open, RealDisk};
use sluice_testkit::{Random, scratch};
use support::{BY_ORIGIN, Cut, KINDS, Kind, Source, check_rows, run, sink};

const WORKERS: usize = 2;
const END: i64 = 16;

/// Whose operation is next.
#[derive(Debug)]
struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    chance: Random,
    working: [bool; WORKERS],
    next: usize,
}

impl State {
    fn pass_on(&mut self) {
        let working: Vec<usize> = (0..WORKERS).filter(|worker| self.working[*worker]).collect();
        if !working.is_empty() {
            self.next = working[usize::try_from(self.chance.below(working.len() as u64)).unwrap()];
        }
    }
}

/// The disk of one life of a worker: names are given and taken in turns.
#[derive(Clone, Debug)]
struct TurnDisk {
    turns: Arc<Turns>,
    worker: usize,
    /// Operations until the life ends.
    left: Arc<Mutex<u64>>,
}

impl TurnDisk {
    fn is_dead(&self) -> bool {
        *self.left.lock().unwrap() == 0
    }

    fn turn<T>(&self, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.is_dead() {
            return Err(io::Error::other("the process died here"));
        }
        let mut state = self.turns.state.lock().unwrap();
        while state.next != self.worker {
            state = self.turns.changed.wait(state).unwrap();
        }
        *self.left.lock().unwrap() -= 1;
        let result =
            if self.is_dead() { Err(io::Error::other("the process died here")) } else { operation() };
        state.pass_on();
        self.turns.changed.notify_all();
        result
    }
}

impl Disk for TurnDisk {
    fn open(&self, path: &Path, open: Open) -> io::Result<Arc<dyn DiskFile>> {
        self.turn(|| RealDisk.open(path, open))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.turn(|| RealDisk.create_dir_all(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.turn(|| RealDisk.create_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        support::disk::only_hints(to);
        self.turn(|| RealDisk.rename(from, to))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.turn(|| RealDisk.hard_link(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.turn(|| RealDisk.remove(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.turn(|| RealDisk.sync_dir(path))
    }
}

/// Makes a sink of a format over a target, with partition columns.
type MakeOn = fn(Kind, &Path, &[&str], Arc<dyn Disk>) -> Box<dyn SinkTask>;

/// Makes the sink of a life.
type Make<'a> = dyn Fn(Arc<dyn Disk>) -> Box<dyn SinkTask> + 'a;

fn work(worker: usize, seed: u64, turns: &Arc<Turns>, make: &Make<'_>) {
    let _leave = Leave { turns, worker };
    let mut chance = Random::new(seed.wrapping_mul(31) + worker as u64);
    for life in 0.. {
        assert!(life < 1000, "seed {seed}: worker {worker} never comes to the end");
        // A life is about 80 operations; three of four end before.
        let left = if chance.chance(75) { 1 + chance.below(100) } else { u64::MAX };
        let disk = TurnDisk { turns: turns.clone(), worker, left: Arc::new(Mutex::new(left)) };
        let mut rows = |below: u64| 1 + i64::try_from(chance.below(below)).unwrap();
        let cut = Cut { slice_rows: rows(4), plan_rows: rows(8) };
        let mut sink = make(Arc::new(disk.clone()));
        match run(sink.as_mut(), &mut Source::default(), END, cut, 0) {
            Ok(()) => break,
            Err(_) if disk.is_dead() => {}
            Err(e) => assert_eq!(e.class, Class::Retry, "seed {seed}: {e}: {:?}", e.source),
        }
    }
}

/// Also where a check fails: the other worker must not wait for ever.
struct Leave<'a> {
    turns: &'a Turns,
    worker: usize,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.state.lock().unwrap();
        state.working[self.worker] = false;
        state.pass_on();
        self.turns.changed.notify_all();
    }
}

fn race(seeds: std::ops::Range<u64>, kinds: &[Kind], make: MakeOn) {
    for seed in seeds {
        let (kind, partition) =
            (kinds[seed as usize % kinds.len()], [&[][..], BY_ORIGIN][seed as usize / kinds.len() % 2]);
        let target = scratch().unwrap();
        let state = State { chance: Random::new(seed), working: [true; WORKERS], next: 0 };
        let turns = Arc::new(Turns { state: Mutex::new(state), changed: Condvar::new() });
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let (turns, target) = (&turns, target.path());
                scope.spawn(move || {
                    work(worker, seed, turns, &|disk| make(kind, target, partition, disk));
                });
            }
        });
        check_rows(kind, target.path(), 0, END, partition)
            .unwrap_or_else(|e| panic!("seed {seed} {kind:?} {partition:?}: {e}"));
        let place = place::open(&Location::Folder(target.path().to_owned()), None, Arc::new(RealDisk));
        let found = audit(place.unwrap().as_ref()).unwrap();
        assert!(found.is_proven(), "seed {seed} {kind:?} {partition:?}: {found:?}");
        assert_eq!(found.chains[0].fates.written, u64::try_from(END).unwrap());
    }
}

#[test]
fn two_workers_killed_anywhere_leave_every_row_once() {
    race(0..400, &KINDS, file_sink);
}

#[cfg(feature = "delta")]
#[test]
fn two_workers_killed_anywhere_leave_every_row_of_a_table_once() {
    race(0..100, &[Kind::Parquet], table_sink);
}

#[cfg(feature = "delta")]
#[test]
#[ignore = "takes minutes; `cargo test --workspace --test workers -- --ignored`"]
fn two_workers_killed_anywhere_leave_every_row_of_a_table_once_by_2000_seeds() {
    race(100..2100, &[Kind::Parquet], table_sink);
}

#[cfg(feature = "iceberg")]
#[test]
fn two_workers_killed_anywhere_leave_every_row_of_an_iceberg_table_once() {
    race(0..60, &[Kind::Parquet], iceberg_sink);
}

#[cfg(feature = "iceberg")]
#[test]
#[ignore = "takes minutes; `cargo test --workspace --test workers --features … -- --ignored`"]
fn two_workers_killed_anywhere_leave_every_row_of_an_iceberg_table_once_by_2000_seeds() {
    race(60..2060, &[Kind::Parquet], iceberg_sink);
}

#[cfg(feature = "iceberg")]
fn iceberg_sink(_: Kind, target: &Path, partition: &[&str], disk: Arc<dyn Disk>) -> Box<dyn SinkTask> {
    let config = serde_json::json!({"path": target, "partition": partition, "rotate": {"rows": 10}});
    let config = serde_json::from_value(config).unwrap();
    Box::new(sluice_sinks::iceberg::IcebergSink::new(&config, disk).unwrap())
}

fn file_sink(kind: Kind, target: &Path, partition: &[&str], disk: Arc<dyn Disk>) -> Box<dyn SinkTask> {
    Box::new(sink(kind, target, partition, disk))
}

#[cfg(feature = "delta")]
fn table_sink(_: Kind, target: &Path, partition: &[&str], disk: Arc<dyn Disk>) -> Box<dyn SinkTask> {
    let config = serde_json::json!({"path": target, "partition": partition, "rotate": {"rows": 10}});
    let config = serde_json::from_value(config).unwrap();
    Box::new(sluice_sinks::delta::DeltaSink::new(&config, disk).unwrap())
}

#[test]
#[ignore = "takes a minute; `cargo test --workspace --test workers -- --ignored`"]
fn two_workers_killed_anywhere_leave_every_row_once_by_3000_seeds() {
    race(400..3400, &KINDS, file_sink);
}

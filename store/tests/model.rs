//! Random histories with crashes against a model of them. A failure names its seed; `SLUICE_SEEDS=2000`
//! makes the long run.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Place, at, bodies_of, mark, push, queue, seeds, topic};
use sluice_protocol::id::{GroupName, QueueOffset};
use sluice_store::{Batch, Flush, Store};
use sluice_testkit::{FaultyDisk, PowerLoss, Random};

const QUEUES: [(&str, i32); 3] = [("t", 0), ("t", 1), ("u", 0)];

/// One thing that was done, in the order of the log.
#[derive(Clone, Debug)]
enum Done {
    /// A record, with the number of its atomic batch if it has one, whether that batch ends here, and where
    /// the batch moves the chain to.
    Record { queue: usize, body: String, batch: Option<u64>, last: bool, moves: Option<i64> },
    /// The chain moved.
    Position(i64),
    /// The group committed an offset of queue 0.
    Offset(i64),
    /// Topic `u` was made.
    Topic,
}

struct Model {
    history: Vec<Done>,
    /// What is certainly durable, as a length of the history.
    durable: usize,
    position: i64,
    batches: u64,
    bodies: u64,
}

impl Model {
    /// The queues after so many things were done.
    fn queues(&self, len: usize) -> BTreeMap<usize, Vec<String>> {
        let mut queues: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for done in &self.history[..len] {
            if let Done::Record { queue, body, .. } = done {
                queues.entry(*queue).or_default().push(body.clone());
            }
        }
        queues
    }

    /// Finds which part of the history the store holds, and goes on from there.
    fn check(&mut self, store: &Store, what: &str) {
        let mut found = BTreeMap::new();
        for (number, (name, id)) in QUEUES.iter().enumerate() {
            let bodies = bodies_of(store, name, *id);
            if !bodies.is_empty() {
                found.insert(number, bodies);
            }
        }
        let records: usize = found.values().map(Vec::len).sum();
        let position = store.position("chain").map_or(0, |p| p.end);
        let group = GroupName::new("g").unwrap();
        let offset = store.committed_offset(&group, &topic("t"), queue(0)).map_or(0, QueueOffset::get);

        // The records tell how far the log survived. Changes lie in another file, where a prefix of them
        // survived that holds at least the durable ones, and none that came after what is left of the log.
        let mut seen = 0;
        let mut end = None;
        for len in 0..=self.history.len() {
            if seen == records {
                end = Some(len);
            }
            seen += usize::from(matches!(self.history.get(len), Some(Done::Record { .. })));
        }
        let end = end.unwrap_or_else(|| panic!("{what}: {records} records are more than were appended"));
        assert!(end >= self.durable, "{what}: of {} durable things {end} are left", self.durable);
        assert_eq!(found, self.queues(end), "{what}: not a prefix of what was appended");
        let kept = &self.history[..end];
        if let Some(Done::Record { batch: Some(batch), last: false, .. }) =
            kept.iter().rfind(|d| matches!(d, Done::Record { .. }))
        {
            panic!("{what}: atomic batch {batch} is there in part");
        }
        let topic_u = store.topic(&topic("u")).is_some();
        let values = |changes: usize| {
            let mut state = (0, 0, false);
            for (i, done) in kept.iter().enumerate() {
                match done {
                    Done::Record { moves, .. } => state.0 = moves.unwrap_or(state.0),
                    Done::Position(end) if i < changes => state.0 = *end,
                    Done::Offset(next) if i < changes => state.1 = *next,
                    Done::Topic if i < changes => state.2 = true,
                    _ => {}
                }
            }
            state
        };
        let fits = |changes: &usize| {
            let (p, o, t) = values(*changes);
            // A topic that came later than what is left of the log may stay.
            (p, o) == (position, offset) && (!t || topic_u)
        };
        let changes = (self.durable..=end).rev().find(fits).unwrap_or_else(|| {
            let expected: Vec<_> = (self.durable..=end).map(values).collect();
            panic!(
                "{what}: chain, group, topic: {:?}, expected one of {expected:?}",
                (position, offset, topic_u)
            )
        });
        let mut left = kept.to_vec();
        let mut number = 0;
        left.retain(|done| {
            number += 1;
            matches!(done, Done::Record { .. }) || number <= changes
        });
        if topic_u && !left.iter().any(|d| matches!(d, Done::Topic)) {
            left.push(Done::Topic);
        }
        self.history = left;
        self.durable = self.history.len();
        self.position = position;
    }

    fn body(&mut self, random: &mut Random) -> String {
        self.bodies += 1;
        let len = usize::try_from(random.below(1200)).unwrap();
        format!("{} {}", self.bodies, "x".repeat(len))
    }

    /// Does one random thing. Whether it was acknowledged as durable is noted; an error ends the life of
    /// this store.
    fn step(&mut self, store: &Store, random: &mut Random, sync: bool) -> Result<(), sluice_store::Error> {
        let group = GroupName::new("g").unwrap();
        let mut batch = Batch::new();
        let queues = if self.history.iter().any(|d| matches!(d, Done::Topic)) { 3 } else { 2 };
        match random.below(12) {
            0..=5 => {
                let chained = random.chance(50);
                let atomic = chained || random.chance(30);
                self.batches += 1;
                let number = atomic.then_some(self.batches);
                let count = 1 + random.below(4);
                let start = self.position;
                if chained {
                    self.position += i64::try_from(count).unwrap();
                }
                for i in 0..count {
                    let queue = usize::try_from(random.below(queues)).unwrap();
                    let body = self.body(random);
                    push(&mut batch, QUEUES[queue].0, QUEUES[queue].1, &[&body]);
                    let moves = chained.then_some(self.position);
                    let last = i + 1 == count;
                    self.history.push(Done::Record { queue, body, batch: number, last, moves });
                }
                if chained {
                    store.append_chain(batch, &mark("chain", start, self.position))?;
                } else {
                    if atomic {
                        batch.atomic();
                    }
                    store.append(batch)?;
                }
            }
            6 => {
                let start = self.position;
                self.position += 1;
                self.history.push(Done::Position(self.position));
                store.append_chain(Batch::new(), &mark("chain", start, self.position))?;
            }
            7 | 8 => {
                let (_, next) = store.offsets(&topic("t"), queue(0)).unwrap();
                self.history.push(Done::Offset(next.get()));
                store.commit_offset(&group, &topic("t"), queue(0), next)?;
            }
            9 => {
                if queues == 2 {
                    self.history.push(Done::Topic);
                }
                store.create_topic(&topic("u"), 1)?;
                if queues == 2 {
                    self.durable = self.history.len();
                }
            }
            10 => {
                store.flush()?;
                self.durable = self.history.len();
            }
            _ => {
                store.checkpoint()?;
                self.durable = self.history.len();
            }
        }
        if sync {
            self.durable = self.history.len();
        }
        Ok(())
    }
}

fn run(seed: u64, flush: Flush) {
    let sync = flush == Flush::Sync;
    let mut random = Random::new(seed);
    let place = Place::new(flush);
    let mut disk = FaultyDisk::new();
    let mut store = place.open_on(&disk);
    store.create_topic(&topic("t"), 2).unwrap();
    let mut model = Model { history: Vec::new(), durable: 0, position: 0, batches: 0, bodies: 0 };
    for life in 0..6 {
        let what = format!("SEED {seed} ({flush:?}), life {life}");
        if random.chance(60) {
            disk.power_off_after(random.below(120));
        }
        let steps = random.below(25);
        let mut killed = false;
        let alive = (0..steps).all(|_| model.step(&store, &mut random, sync).is_ok());
        if alive && random.chance(20) {
            if store.close().is_ok() {
                model.durable = model.history.len();
            }
            disk.crash(random.number(), PowerLoss::Tear);
            disk = FaultyDisk::new();
        } else if alive && random.chance(30) {
            // The process is killed: all that was written is there, and what was not synced may still go.
            disk.power_off_after(0);
            drop(store);
            disk = disk.restarted();
            killed = true;
        } else {
            // The power goes before the store is dropped, or its last words would be heard.
            disk.crash(random.number(), if random.chance(30) { PowerLoss::Forget } else { PowerLoss::Tear });
            drop(store);
            disk = FaultyDisk::new();
        }
        while random.chance(25) {
            killed = false;
            // The power may go again while the store recovers.
            disk.power_off_after(random.below(40));
            let opened = place.try_open_on(std::sync::Arc::new(disk.clone()));
            disk.crash(random.number(), PowerLoss::Tear);
            drop(opened);
            disk = FaultyDisk::new();
        }
        if killed {
            model.durable = model.history.len();
        }
        store =
            place.try_open_on(std::sync::Arc::new(disk.clone())).unwrap_or_else(|e| panic!("{what}: {e:?}"));
        model.check(&store, &what);
    }
}

#[test]
fn after_power_loss_sync_keeps_all_that_was_acknowledged() {
    (0..seeds(60)).for_each(|seed| run(seed, Flush::Sync));
}

#[test]
fn after_power_loss_async_loses_a_suffix_only_and_never_half_a_batch() {
    let flush = Flush::Async { interval: Duration::from_hours(1) };
    (0..seeds(60)).for_each(|seed| run(seed, flush));
}

#[test]
fn after_a_kill_everything_that_was_written_is_there() {
    for seed in 0..seeds(20) {
        let mut random = Random::new(seed);
        let place = Place::lazy();
        let store = place.open();
        store.create_topic(&topic("t"), 2).unwrap();
        let mut model = Model { history: Vec::new(), durable: 0, position: 0, batches: 0, bodies: 0 };
        for _ in 0..30 {
            model.step(&store, &mut random, true).unwrap();
            if random.chance(20) {
                let len = model.history.len();
                let copy = place.crashed();
                model.check(&copy.open(), &format!("SEED {seed}"));
                assert_eq!(model.history.len(), len, "SEED {seed}");
            }
        }
        assert_eq!(store.offsets(&topic("t"), queue(0)).unwrap().0, at(0));
    }
}

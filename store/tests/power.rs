//! Each sync of the store is there for a reason: without it, some power loss shows.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Place, at, batch_for, bodies_of, mark, queue, topic};
use sluice_protocol::id::GroupName;
use sluice_store::{Batch, Flush, Retention, Store};
use sluice_testkit::{FaultyDisk, PowerLoss};

/// The same thing happens in each run, step by step; after each step all of it is durable, but where the step
/// is named [`UNFLUSHED`].
struct Scenario {
    place: Place,
    disk: FaultyDisk,
    store: Option<Store>,
    /// Of the queues `busy` and `idle`.
    bodies: [Vec<String>; 2],
    position: i64,
    offset: i64,
    incarnation: Option<String>,
    closed: bool,
}

type Step = fn(&mut Scenario);

const BUSY: usize = 0;
const IDLE: usize = 1;
const TOPICS: [&str; 2] = ["busy", "idle"];
const UNFLUSHED: &str = "append and do not flush";
/// In this step the power may also go between two calls.
const RETAIN: &str = "retain";
/// So much fills a segment.
const LARGE: usize = 5000;

const STEPS: &[(&str, Step)] = &[
    ("open", Scenario::open),
    ("topic", |s| {
        let made = s.store().create_topic(&topic("busy"), 1).unwrap();
        s.incarnation = Some(made.incarnation);
    }),
    ("another topic", |s| drop(s.store().create_topic(&topic("idle"), 1).unwrap())),
    ("append", |s| s.append(BUSY, 100)),
    ("append to the other", |s| s.append(IDLE, 100)),
    ("chain", |s| {
        let (start, end) = (s.position, s.position + 1);
        s.store().append_chain(batch_for("busy", 0, &["row"]), &mark("c", start, end)).unwrap();
        s.bodies[BUSY].push("row".into());
        s.store().append_chain(Batch::new(), &mark("c", end, end + 5)).unwrap();
        s.position = end + 5;
        s.store().flush().unwrap();
    }),
    ("commit", Scenario::commit),
    ("roll", |s| s.append(BUSY, LARGE)),
    ("roll on", |s| s.append(BUSY, LARGE)),
    ("checkpoint", Scenario::checkpoint),
    ("append after it", |s| s.append(BUSY, 100)),
    ("append to the other after it", |s| s.append(IDLE, 100)),
    ("commit after it", Scenario::commit),
    ("second checkpoint", Scenario::checkpoint),
    ("commit after the second", Scenario::commit),
    ("roll after the second", |s| s.append(BUSY, LARGE)),
    ("end torn and open", |s| {
        // The first of these is torn, the next are not, and all of it reached the disk.
        for body in ["lost", "torn", "torn"] {
            s.store().append(batch_for("idle", 0, &[&body.repeat(200)])).unwrap();
        }
        s.disk.power_off_after(0);
        s.store = None;
        let path = last_segment(&s.place);
        let mut bytes = std::fs::read(&path).unwrap();
        let lost = bytes.windows(4).position(|w| w == b"lost").unwrap();
        bytes[lost] = b'L';
        std::fs::write(&path, bytes).unwrap();
        s.disk.crash(0, PowerLoss::Keep);
        s.disk = s.disk.restarted();
        s.open();
    }),
    (UNFLUSHED, |s| {
        s.store().append(batch_for("busy", 0, &[&"more".repeat(200)])).unwrap();
        s.bodies[BUSY].push("more".repeat(200));
    }),
    ("flush", |s| s.store().flush().unwrap()),
    ("roll after it", |s| s.append(BUSY, LARGE)),
    ("roll further", |s| s.append(BUSY, LARGE)),
    ("third checkpoint", Scenario::checkpoint),
    ("append to the other before retention", |s| s.append(IDLE, 100)),
    ("roll before retention", |s| s.append(BUSY, LARGE)),
    (RETAIN, |s| drop(s.store().retain())),
    ("append after retention", |s| s.append(BUSY, 100)),
    ("append to the other at the end", |s| s.append(IDLE, 100)),
    ("close", |s| {
        s.store.take().unwrap().close().unwrap();
        s.closed = true;
    }),
    ("open again", Scenario::open),
    ("append at last", |s| s.append(BUSY, 10)),
    ("roll at last", |s| s.append(BUSY, LARGE)),
];

fn last_segment(place: &Place) -> std::path::PathBuf {
    let files = std::fs::read_dir(place.dir().join("commitlog")).unwrap();
    files.map(|f| f.unwrap().path()).max().unwrap()
}

impl Scenario {
    fn new(skipped: Option<usize>) -> Self {
        let mut place = Place::new(Flush::Async { interval: Duration::from_secs(3600) });
        place.settings.retention = Retention { age: None, bytes: Some(40_000) };
        let disk = FaultyDisk::new();
        if let Some(skipped) = skipped {
            disk.skip_sync(skipped);
        }
        Self {
            place,
            disk,
            store: None,
            bodies: [Vec::new(), Vec::new()],
            position: 0,
            offset: 0,
            incarnation: None,
            closed: false,
        }
    }

    fn open(&mut self) {
        self.store = Some(self.place.open_on(&self.disk));
        self.closed = false;
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn append(&mut self, queue: usize, len: usize) {
        let body = format!("{} {}", self.bodies[queue].len(), "x".repeat(len));
        self.store().append(batch_for(TOPICS[queue], 0, &[&body])).unwrap();
        self.bodies[queue].push(body);
        self.store().flush().unwrap();
    }

    fn commit(&mut self) {
        self.offset = i64::try_from(self.bodies[BUSY].len()).unwrap();
        let group = GroupName::new("g").unwrap();
        self.store().commit_offset(&group, &topic("busy"), queue(0), at(self.offset)).unwrap();
        self.store().flush().unwrap();
    }

    fn checkpoint(&mut self) {
        self.store().checkpoint().unwrap();
    }

    /// The power goes; says what is not as it was.
    fn crash_and_check(mut self, seed: u64, mode: PowerLoss, flushed: bool) -> Result<(), String> {
        self.disk.crash(seed, mode);
        self.store = None;
        let disk = Arc::new(FaultyDisk::new());
        let store = self.place.try_open_on(disk.clone()).map_err(|e| format!("does not open: {e}"))?;
        let check = |what: &str, same: bool| if same { Ok(()) } else { Err(what.to_owned()) };
        let Some(incarnation) = &self.incarnation else { return Ok(()) };
        let made = store.topic(&topic("busy")).ok_or("no topic")?;
        check("another incarnation", made.incarnation == *incarnation)?;
        for (name, all) in TOPICS.iter().zip(&self.bodies) {
            let Some((first, next)) = store.offsets(&topic(name), queue(0)) else {
                check("a topic is gone", all.is_empty())?;
                continue;
            };
            let (first, next) = (usize::try_from(first.get()).unwrap(), usize::try_from(next.get()).unwrap());
            check("records are lost or came back", next == all.len() || (!flushed && next + 1 == all.len()))?;
            check("other records", bodies_of(&store, name, 0) == all[first.min(next)..next])?;
        }
        check("the chain moved", store.position("c").map_or(0, |p| p.end) == self.position)?;
        let group = GroupName::new("g").unwrap();
        let offset = store.committed_offset(&group, &topic("busy"), queue(0)).map_or(0, |o| o.get());
        check("the committed offset moved", offset == self.offset)?;
        check("the tail does not vouch for a run", !flushed || store.recovery().records_checked == 0)?;
        check("a closed store does not open as one", !self.closed || store.recovery().clean)
    }
}

/// Runs the steps up to one; the last one only for so many calls of the disk, if that is said. `None` if a
/// step fails.
fn run(steps: usize, skipped: Option<usize>, calls: Option<u64>) -> Option<Scenario> {
    let mut scenario = Scenario::new(skipped);
    for (number, (_, step)) in STEPS[..steps].iter().enumerate() {
        if let Some(calls) = calls.filter(|_| number + 1 == steps) {
            scenario.disk.power_off_after(calls);
        }
        let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| step(&mut scenario)));
        stepped.ok()?;
    }
    Some(scenario)
}

/// Steps to run, calls of the last one, seed and mode of the power loss.
type Loss = (usize, Option<u64>, u64, PowerLoss);

/// All losses tried from a step on; those that show most at first.
fn losses(from: usize) -> impl Iterator<Item = Loss> {
    let modes = std::iter::once((0, PowerLoss::Forget)).chain((0..12).map(|seed| (seed, PowerLoss::Tear)));
    modes.flat_map(move |(seed, mode)| {
        (from..=STEPS.len()).flat_map(move |steps| {
            let inside = if STEPS[steps - 1].0 == RETAIN { 60 } else { 0 };
            let calls = std::iter::once(None).chain((0..inside).map(Some));
            calls.map(move |calls| (steps, calls, seed, mode))
        })
    })
}

fn check((steps, calls, seed, mode): Loss, skipped: Option<usize>) -> Result<(), String> {
    let scenario = run(steps, skipped, calls).ok_or("a step fails")?;
    let flushed = STEPS[steps - 1].0 != UNFLUSHED;
    scenario.crash_and_check(seed, mode, flushed)
}

#[test]
fn with_all_its_syncs_nothing_durable_is_lost_at_any_step() {
    for loss in losses(1) {
        assert_eq!(check(loss, None), Ok(()), "{:?}, {loss:?}", STEPS[loss.0 - 1].0);
    }
}

#[test]
fn without_any_one_of_its_syncs_something_durable_is_lost() {
    let after: Vec<_> =
        (1..=STEPS.len()).map(|steps| run(steps, None, None).unwrap().disk.syncs().len()).collect();
    let all = run(STEPS.len(), None, None).unwrap().disk.syncs();
    // The losses that are looked for end in panics of the steps.
    std::panic::set_hook(Box::new(|_| {}));
    let mut needless = Vec::new();
    for (skipped, name) in all.iter().enumerate() {
        let issued = after.iter().position(|&n| n > skipped).unwrap();
        if losses(issued + 1).all(|loss| check(loss, Some(skipped)).is_ok()) {
            eprintln!("needless {skipped}: {name} in {:?}", STEPS[issued].0);
            needless.push(format!("{skipped}: {name} in {:?}", STEPS[issued].0));
        }
    }
    let _ = std::panic::take_hook();
    assert!(needless.is_empty(), "of {} syncs these are never missed:\n{}", all.len(), needless.join("\n"));
}

//! Each sync of the store is there for a reason: without it, some power loss shows.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Place, at, batch_for, bodies_of, mark, queue, topic};
use sluice_protocol::id::{GroupName, QueueOffset};
use sluice_protocol::message::Message;
use sluice_store::{Batch, Flush, Retention, Store};
use sluice_testkit::{FaultyDisk, PowerLoss};

/// The same thing happens in each run, step by step; after each step all of it is durable, but where the step
/// is named [`UNFLUSHED`].
struct Scenario {
    place: Place,
    disk: FaultyDisk,
    store: Option<Store>,
    /// By topic.
    bodies: Vec<Vec<String>>,
    incarnations: Vec<String>,
    position: i64,
    offset: i64,
    closed: bool,
}

type Step = fn(&mut Scenario);

/// What is written last before a checkpoint and then left alone, while others fill segments, must be found
/// by what the checkpoint made durable: each of the last five topics fills segments once.
const TOPICS: [&str; 7] = ["aaa", "bbb", "ccc", "ddd", "eee", "fff", "ggg"];
const UNFLUSHED: &str = "append and do not flush";
/// In these steps the power may also go between two calls of the disk.
const INSIDE: [&str; 2] = ["retain", "retain again"];

const STEPS: &[(&str, Step)] = &[
    ("open", Scenario::open),
    ("first topic", Scenario::create_topic),
    ("second topic", Scenario::create_topic),
    ("third topic", Scenario::create_topic),
    ("fourth topic", Scenario::create_topic),
    ("fifth topic", Scenario::create_topic),
    ("sixth topic", Scenario::create_topic),
    ("seventh topic", Scenario::create_topic),
    ("append", |s| s.append(0)),
    ("append to another", |s| s.append(1)),
    ("chain", |s| {
        let (start, end) = (s.position, s.position + 1);
        s.store().append_chain(batch_for("aaa", 0, &["row"]), &mark("c", start, end)).unwrap();
        s.bodies[0].push("row".into());
        s.store().append_chain(Batch::new(), &mark("c", end, end + 5)).unwrap();
        s.position = end + 5;
        s.store().flush().unwrap();
    }),
    ("commit", Scenario::commit),
    ("checkpoint", Scenario::checkpoint),
    ("roll", |s| s.roll(2)),
    ("roll on", |s| s.roll(2)),
    ("checkpoint of the rolls", Scenario::checkpoint),
    ("append after the checkpoint", |s| s.append(0)),
    ("append to another after the checkpoint", |s| s.append(1)),
    ("commit after the checkpoint", Scenario::commit),
    ("second checkpoint", Scenario::checkpoint),
    ("commit after the second", Scenario::commit),
    ("roll after the second", |s| s.roll(3)),
    ("roll on after the second", |s| s.roll(3)),
    ("checkpoint after the second rolls", Scenario::checkpoint),
    ("roll before the end", |s| s.roll(3)),
    ("end torn and open", |s| {
        s.end_torn();
        s.open();
    }),
    (UNFLUSHED, |s| {
        s.store().append(batch_for("aaa", 0, &["more"])).unwrap();
        s.bodies[0].push("more".into());
    }),
    ("flush", |s| s.store().flush().unwrap()),
    ("roll after the flush", |s| s.roll(4)),
    ("roll on after the flush", |s| s.roll(4)),
    ("append before retention", |s| s.append(0)),
    ("retain", |s| drop(s.store().retain())),
    ("roll after retention", |s| s.roll(5)),
    ("roll on after retention", |s| s.roll(5)),
    ("append after retention", |s| s.append(1)),
    ("retain again", |s| {
        s.place.clock.advance_ms(100_000);
        drop(s.store().retain());
    }),
    ("append before the close", |s| s.append(0)),
    ("close", |s| {
        s.store.take().unwrap().close().unwrap();
        s.closed = true;
    }),
    ("open again", Scenario::open),
    ("roll at last", |s| s.roll(6)),
    ("roll on at last", |s| s.roll(6)),
    ("checkpoint at last", Scenario::checkpoint),
];

fn last_segment(place: &Place) -> std::path::PathBuf {
    let files = std::fs::read_dir(place.dir().join("commitlog")).unwrap();
    files.map(|f| f.unwrap().path()).max().unwrap()
}

impl Scenario {
    fn new(skipped: Option<usize>) -> Self {
        let mut place = Place::new(Flush::Async { interval: Duration::from_hours(1) });
        place.settings.retention = Retention { age: Some(Duration::from_mins(1)), bytes: Some(70_000) };
        let disk = FaultyDisk::new();
        if let Some(skipped) = skipped {
            disk.skip_sync(skipped);
        }
        let (bodies, incarnations) = (vec![Vec::new(); TOPICS.len()], Vec::new());
        Self { place, disk, store: None, bodies, incarnations, position: 0, offset: 0, closed: false }
    }

    fn open(&mut self) {
        self.store = Some(self.place.open_on(&self.disk));
        self.closed = false;
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn create_topic(&mut self) {
        let name = TOPICS[self.incarnations.len()];
        let made = self.store().create_topic(&topic(name), 1).unwrap();
        self.incarnations.push(made.incarnation);
    }

    fn append_body(&mut self, number: usize, body: String) {
        self.store().append(batch_for(TOPICS[number], 0, &[&body])).unwrap();
        self.bodies[number].push(body);
        self.store().flush().unwrap();
    }

    fn append(&mut self, number: usize) {
        self.append_body(number, format!("{} of {number}", self.bodies[number].len()));
    }

    /// Fills more than half a segment, so that each call begins a new one.
    fn roll(&mut self, number: usize) {
        self.append_body(number, "x".repeat(5000));
    }

    fn commit(&mut self) {
        self.offset += 1;
        let group = GroupName::new("g").unwrap();
        self.store().commit_offset(&group, &topic("aaa"), queue(0), at(self.offset)).unwrap();
        self.store().flush().unwrap();
    }

    fn checkpoint(&mut self) {
        self.store().checkpoint().unwrap();
    }

    /// Ends the process when the first of three records is torn and the next are not, and all of it has
    /// reached the disk. The second begins a sector.
    fn end_torn(&mut self) {
        let lost = batch_for("bbb", 0, &["lost"]);
        let mut pad = Batch::new();
        let body = vec![b'p'; 512];
        pad.push(&topic("bbb"), queue(0), &Message { body: &body, ..Message::default() }).unwrap();
        self.append(1);
        let read = self.store().read(&topic("bbb"), queue(0), at(0), 1 << 20).unwrap();
        let end = read.runs.last().map(|r| r.log_offset.get() + r.bytes.len() as u64).unwrap();
        let over = (usize::try_from(end).unwrap() + pad.bytes() + lost.bytes()) % 512;
        let body = "p".repeat(body.len() + 512 - over);
        let mut pad = Batch::new();
        pad.push(&topic("bbb"), queue(0), &Message { body: body.as_bytes(), ..Message::default() }).unwrap();
        self.store().append(pad).unwrap();
        self.bodies[1].push(body);
        let lost_at = self.store().append(lost).unwrap();
        assert_eq!((lost_at.log_offset.get() + lost_at.bytes) % 512, 0);
        for _ in 0..2 {
            self.store().append(batch_for("bbb", 0, &["torn"])).unwrap();
        }
        self.disk.power_off_after(0);
        self.store = None;
        let path = last_segment(&self.place);
        let mut bytes = std::fs::read(&path).unwrap();
        let lost = bytes.windows(4).position(|w| w == b"lost").unwrap();
        bytes[lost] = b'L';
        std::fs::write(&path, bytes).unwrap();
        self.disk.crash(0, PowerLoss::Keep);
        self.disk = self.disk.restarted();
    }

    /// The power goes; says what is not as it was.
    fn crash_and_check(mut self, seed: u64, mode: PowerLoss, flushed: bool) -> Result<(), String> {
        self.disk.crash(seed, mode);
        self.store = None;
        let disk = Arc::new(FaultyDisk::new());
        let store = self.place.try_open_on(disk.clone()).map_err(|e| format!("does not open: {e}"))?;
        let check = |what: &str, same: bool| if same { Ok(()) } else { Err(what.to_owned()) };
        for ((name, incarnation), all) in TOPICS.iter().zip(&self.incarnations).zip(&self.bodies) {
            let found = store.topic(&topic(name)).ok_or("no topic")?;
            check("another incarnation", found.incarnation == *incarnation)?;
            let (first, next) = store.offsets(&topic(name), queue(0)).unwrap();
            let (first, next) = (usize::try_from(first.get()).unwrap(), usize::try_from(next.get()).unwrap());
            check("records are lost or came back", next == all.len() || (!flushed && next + 1 == all.len()))?;
            check("other records", bodies_of(&store, name, 0) == all[first.min(next)..next])?;
        }
        check("the chain moved", store.position("c").map_or(0, |p| p.end) == self.position)?;
        let group = GroupName::new("g").unwrap();
        let offset = store.committed_offset(&group, &topic("aaa"), queue(0)).map_or(0, QueueOffset::get);
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
            let inside = if INSIDE.contains(&STEPS[steps - 1].0) { 40 } else { 0 };
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

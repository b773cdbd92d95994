//! Each sync of the store is there for a reason: without it, some power loss shows.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use common::{Place, at, batch_for, bodies_of, mark, queue, seeds, topic};
use sluice_protocol::id::{GroupName, QueueOffset};
use sluice_protocol::message::{Message, sys_flag};
use sluice_store::{Batch, Flush, Lease, LeaseChange, Retention, Store};
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

const TOPICS: [&str; 3] = ["aaa", "bbb", "ccc"];
/// How many syncs are tried in every test run.
const SYNCS_FEW: usize = 12;
/// The tail that a process left is synced at the next open for what it never flushed, of which the steps promise
/// nothing: [`an_open_that_loses_power_keeps_no_change_without_those_before_it`] shows it. That open writes the leases
/// again, of which the steps have none: [`a_checkpoint_that_loses_power_keeps_the_leases`].
const SHOWN_ELSEWHERE: [&str; 2] = ["end torn and open", "end and open"];
/// For how many losses each of those is tried; a few need more.
const TRIES_FEW: usize = 100;
/// More seeds show nothing new.
const SEEDS_MAX: u64 = 30;
const UNFLUSHED: &str = "append and do not flush";
/// Those of the record that is torn, or as many others.
const LOST_PROPERTIES: &[u8] = b"body\x01gone\x02";
/// In these steps the power may also go between two calls of the disk.
const INSIDE: [&str; 2] = ["retain", "retain again"];

/// What is written before a checkpoint is left alone behind it while the log rolls on, and a further checkpoint
/// relies on it: then only the first one can have made it durable.
const STEPS: &[(&str, Step)] = &[
    ("open", Scenario::open),
    ("first topic", Scenario::create_topic),
    ("second topic", Scenario::create_topic),
    ("append", |s| s.append(0)),
    ("append to another", |s| s.append(1)),
    ("chain", |s| {
        let (start, end) = (s.position, s.position + 1);
        s.store().append_chain(batch_for("aaa", 0, &["row"]), &mark("c", start, end)).unwrap();
        s.bodies[0].push("row".into());
        s.position = end;
        s.move_chain(5);
        s.store().flush().unwrap();
    }),
    ("commit", Scenario::commit),
    ("end torn and open", |s| {
        s.end_torn();
        s.open();
    }),
    // Nothing touches the queues before the next checkpoint: what that relies on, the open made durable.
    (UNFLUSHED, |s| drop(s.store().append(hidden("bbb", b"gone", LOST_PROPERTIES)).unwrap())),
    ("flush", |s| {
        s.move_chain(1);
        s.store().flush().unwrap();
    }),
    ("roll after the open", Scenario::roll),
    ("roll on after the open", Scenario::roll),
    ("checkpoint after the open", Scenario::checkpoint),
    ("append once more", |s| s.append(0)),
    ("third topic", Scenario::create_topic),
    ("append to the third", |s| s.append(2)),
    ("checkpoint", Scenario::checkpoint),
    ("commit after it", Scenario::commit),
    ("roll", Scenario::roll),
    ("roll on", Scenario::roll),
    ("second checkpoint", Scenario::checkpoint),
    ("append after it", |s| s.append(0)),
    ("commit after the second", Scenario::commit),
    ("end and open", |s| {
        // The process ends, with what is not synced still to be lost.
        s.append_unflushed(2);
        s.store().append(large()).unwrap();
        s.append_unflushed(2);
        s.disk.power_off_after(0);
        s.store = None;
        s.disk = s.disk.restarted();
        s.open();
    }),
    ("roll after it", Scenario::roll),
    ("roll on after it", Scenario::roll),
    ("third checkpoint", Scenario::checkpoint),
    ("append before retention", |s| s.append(0)),
    ("retain", |s| drop(s.store().retain())),
    ("roll after retention", Scenario::roll),
    ("roll on after retention", Scenario::roll),
    ("append after retention", |s| s.append(1)),
    ("retain again", |s| {
        s.place.clock.advance_ms(100_000);
        drop(s.store().retain());
    }),
    ("append before the close", |s| s.append(2)),
    ("close", |s| {
        s.store.take().unwrap().close().unwrap();
        s.closed = true;
    }),
    ("open again", Scenario::open),
    ("roll at last", Scenario::roll),
    ("roll on at last", Scenario::roll),
    ("checkpoint at last", Scenario::checkpoint),
    ("append at last", |s| s.append(0)),
];

/// A batch that no consume queue shows.
fn hidden(name: &str, body: &[u8], properties: &[u8]) -> Batch {
    let sys_flag = sys_flag::TRANSACTION_PREPARED;
    let mut batch = Batch::new();
    batch
        .push(&topic(name), queue(0), &Message { body, properties, sys_flag, ..Message::default() })
        .unwrap();
    batch
}

/// One of more than half a segment.
fn large() -> Batch {
    hidden("aaa", &[b'x'; 10_000], b"")
}

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

    fn append(&mut self, number: usize) {
        self.append_unflushed(number);
        self.store().flush().unwrap();
    }

    fn append_unflushed(&mut self, number: usize) {
        let body = format!("{} of {number}", self.bodies[number].len());
        self.store().append(batch_for(TOPICS[number], 0, &[&body])).unwrap();
        self.bodies[number].push(body);
    }

    /// Each call begins a new segment. Nobody sees what is appended; the move that follows is void without it.
    fn roll(&mut self) {
        self.store().append(large()).unwrap();
        self.move_chain(1);
        self.store().flush().unwrap();
    }

    fn move_chain(&mut self, by: i64) {
        let (start, end) = (self.position, self.position + by);
        self.store().append_chain(Batch::new(), &mark("c", start, end)).unwrap();
        self.position = end;
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

    /// Ends the process when the first of three records is torn and the next are not, and all three have
    /// reached the disk. The second begins a sector.
    fn end_torn(&mut self) {
        let plain = |body: &str| {
            let mut batch = Batch::new();
            let message = Message { body: body.as_bytes(), ..Message::default() };
            batch.push(&topic("bbb"), queue(0), &message).unwrap();
            batch
        };
        let lost = batch_for("bbb", 0, &["lost"]);
        let probe = self.store().append(plain("probe")).unwrap();
        self.bodies[1].push("probe".into());
        let end = usize::try_from(probe.log_offset.get() + probe.bytes).unwrap();
        let over = (end + plain("").bytes() + lost.bytes()) % 512;
        let pad = "p".repeat(512 - over);
        self.store().append(plain(&pad)).unwrap();
        self.bodies[1].push(pad);
        let lost_at = self.store().append(lost).unwrap();
        assert_eq!(lost_at.bytes, hidden("bbb", b"gone", LOST_PROPERTIES).bytes() as u64);
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
        self.disk = self.disk.restarted();
        self.disk.settle(&path);
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
            check("records are lost or came back", next == all.len())?;
            check("other records", bodies_of(&store, name, 0) == all[first.min(next)..next])?;
        }
        check("the chain moved", store.position("c").map_or(0, |p| p.end) == self.position)?;
        let group = GroupName::new("g").unwrap();
        let offset = store.committed_offset(&group, &topic("aaa"), queue(0)).map_or(0, QueueOffset::get);
        check("the committed offset moved", offset == self.offset)?;
        check("a consume queue was not durable", store.recovery().queues_rebuilt == 0)?;
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
fn losses(from: usize, seeds: u64) -> impl Iterator<Item = Loss> {
    let of_step = |steps: usize| {
        let inside = if INSIDE.contains(&STEPS[steps - 1].0) { 40 } else { 0 };
        std::iter::once(None).chain((0..inside).map(Some)).map(move |calls| (steps, calls))
    };
    let forgets =
        (from..=STEPS.len()).flat_map(of_step).map(|(steps, calls)| (steps, calls, 0, PowerLoss::Forget));
    let tears = (from..=STEPS.len())
        .flat_map(of_step)
        .flat_map(move |(steps, calls)| (0..seeds).map(move |seed| (steps, calls, seed, PowerLoss::Tear)));
    forgets.chain(tears)
}

fn check((steps, calls, seed, mode): Loss, skipped: Option<usize>) -> Result<(), String> {
    let scenario = run(steps, skipped, calls).ok_or("a step fails")?;
    let flushed = STEPS[steps - 1].0 != UNFLUSHED;
    scenario.crash_and_check(seed, mode, flushed)
}

#[test]
fn with_all_its_syncs_nothing_durable_is_lost_at_any_step() {
    for loss in losses(1, seeds(3)) {
        assert_eq!(check(loss, None), Ok(()), "{:?}, {loss:?}", STEPS[loss.0 - 1].0);
    }
}

#[test]
fn units_of_many_sectors_that_no_checkpoint_made_durable_are_written_again() {
    for seed in 0..seeds(10) {
        let place = Place::new(Flush::Sync);
        let disk = FaultyDisk::new();
        let store = place.open_on(&disk);
        store.create_topic(&topic("t"), 1).unwrap();
        let mut expected = Vec::new();
        for i in 0..200 {
            // Checkpoints come in the middle of a sector of units.
            if i == 40 {
                store.checkpoint().unwrap();
            }
            expected.push(i.to_string());
            store.append(batch_for("t", 0, &[&expected[i]])).unwrap();
        }
        disk.crash(seed, if seed == 0 { PowerLoss::Forget } else { PowerLoss::Tear });
        drop(store);
        for _ in 0..2 {
            let store = place.open();
            assert_eq!(bodies_of(&store, "t", 0), expected, "SEED {seed}");
        }
    }
}

#[test]
fn an_open_that_loses_power_keeps_no_change_without_those_before_it() {
    for (calls, seed) in (0..40).flat_map(|calls| (0..seeds(4)).map(move |seed| (calls, seed))) {
        let place = Place::new(Flush::Async { interval: Duration::from_hours(1) });
        let disk = FaultyDisk::new();
        let store = place.open_on(&disk);
        let group = GroupName::new("g").unwrap();
        let commit = |next| store.commit_offset(&group, &topic("t"), queue(0), at(next)).unwrap();
        store.create_topic(&topic("t"), 1).unwrap();
        store.append(batch_for("t", 0, &["a", "b"])).unwrap();
        store.append_chain(Batch::new(), &mark("c", 0, 5)).unwrap();
        // The changes fill more than a sector of the tail.
        (0..8).for_each(|_| commit(1));
        commit(2);
        disk.power_off_after(0);
        drop(store);
        let disk = disk.restarted();
        disk.power_off_after(calls);
        let opened = place.try_open_on(Arc::new(disk.clone()));
        disk.crash(seed, PowerLoss::Tear);
        drop(opened);
        let store = place.open();
        let last = store.committed_offset(&group, &topic("t"), queue(0)) == Some(at(2));
        assert!(!last || store.position("c").is_some(), "SEED {seed}, power off after {calls} calls");
    }
}

/// Whether that sync is of the folder of `leases.json` and comes before the one of `positions.json`.
fn is_of_leases(syncs: &[String], number: usize) -> bool {
    let Some([this, next, ..]) = syncs.get(number..) else { return false };
    this.starts_with("dir ") && this.ends_with("/sluice") && next.contains("positions.json")
}

#[test]
fn a_checkpoint_that_loses_power_keeps_the_leases() {
    let group = GroupName::new("g").unwrap();
    // Calls of the disk that the checkpoint may make, and the sync that is left out.
    let is_kept = |calls: u64, seed: u64, skipped: Option<usize>| {
        let place = Place::new(Flush::Async { interval: Duration::from_hours(1) });
        let disk = FaultyDisk::new();
        if let Some(skipped) = skipped {
            disk.skip_sync(skipped);
        }
        let store = place.open_on(&disk);
        store.create_topic(&topic("t"), 1).unwrap();
        store.append(batch_for("t", 0, &["a", "b"])).unwrap();
        let lease = Lease { popped_ms: 1_700_000_000_000, handle: 7, until_ms: 1_700_000_060_000, times: 1 };
        let change = LeaseChange { next: 1, begun: vec![(0, lease)], ended: Vec::new() };
        store.lease(&group, &topic("t"), queue(0), &change).unwrap();
        store.flush().unwrap();
        disk.power_off_after(calls);
        let written = store.checkpoint();
        disk.crash(seed, PowerLoss::Tear);
        drop(store);
        let kept = place.open().leases().iter().any(|(.., leases)| leases.open.contains_key(&0));
        (kept, written.is_ok(), disk.syncs())
    };
    let losses = |seeds| (0..seeds).flat_map(|seed| (0..40).map(move |calls| (calls, seed)));
    for (calls, seed) in losses(seeds(4)) {
        assert!(is_kept(calls, seed, None).0, "SEED {seed}, power off after {calls} calls");
    }
    let (_, written, syncs) = is_kept(u64::MAX, 0, None);
    let of_leases = (0..syncs.len()).rfind(|&number| is_of_leases(&syncs, number));
    assert!(written && of_leases.is_some(), "{syncs:?}");
    assert!(
        losses(100).any(|(calls, seed)| !is_kept(calls, seed, of_leases).0),
        "no loss shows {of_leases:?}"
    );
}

/// Every so-manieth sync; all of them with `SLUICE_SEEDS=30 cargo test --release -p sluice-store --test power`,
/// which takes some minutes.
#[test]
fn without_any_one_of_its_syncs_something_durable_is_lost() {
    let few = seeds(0) == 0;
    let after: Vec<_> =
        (1..=STEPS.len()).map(|steps| run(steps, None, None).unwrap().disk.syncs().len()).collect();
    let all = run(STEPS.len(), None, None).unwrap().disk.syncs();
    quiet_when_told();
    let (mut shown, mut needless) = (0, Vec::new());
    for (skipped, name) in all.iter().enumerate().step_by(if few { all.len() / SYNCS_FEW } else { 1 }) {
        let issued = after.iter().position(|&n| n > skipped).unwrap();
        let step = STEPS[issued].0;
        let elsewhere = SHOWN_ELSEWHERE.contains(&step)
            && (name.starts_with("file sluice/tail") || is_of_leases(&all, skipped));
        if elsewhere {
            shown += 1;
            continue;
        }
        let tries = if few { TRIES_FEW } else { usize::MAX };
        match losses(issued + 1, SEEDS_MAX).take(tries).find(|loss| shows(*loss, skipped)) {
            Some(loss) => {
                assert_eq!(check(loss, None), Ok(()), "{skipped}: {name}, {loss:?}");
                shown += 1;
            }
            None => needless.push(format!("{skipped}: {name} in {step:?}")),
        }
    }
    println!("{shown} of {} syncs were shown to be necessary", all.len());
    let needless_max = if few { SYNCS_FEW / 4 } else { 0 };
    assert!(needless.len() <= needless_max, "these syncs are never missed:\n{}", needless.join("\n"));
}

/// Losses that are looked for end in panics, which nobody wants to read.
fn shows(loss: Loss, skipped: usize) -> bool {
    QUIET.set(true);
    let checked = std::panic::catch_unwind(|| check(loss, Some(skipped)));
    QUIET.set(false);
    !matches!(checked, Ok(Ok(())))
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

fn quiet_when_told() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !QUIET.get() {
            hook(info);
        }
    }));
}

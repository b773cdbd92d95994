//! Runs that end at any moment, by a kill or by power loss: the next run leaves every row once.

mod support;

use std::sync::Arc;

use nix::errno::Errno;
use sluice_connect::task::{Class, SinkTask};
use sluice_store::file::Disk;
use sluice_testkit::{Call, FaultyDisk, PowerLoss, scratch};
use support::disk::MortalDisk;
use support::{BY_ORIGIN, Cut, KINDS, Kind, Source, check_rows, run, sink, walk};
use tempfile::TempDir;

/// Rows of the source.
const END: i64 = 9;

/// Rows more that the last life finds.
const MORE: i64 = 2;

/// Each life cuts slices and plans in its own way, as clocks would.
const CUTS: [Cut; 3] = [
    Cut { slice_rows: 2, plan_rows: 5 },
    Cut { slice_rows: 3, plan_rows: 4 },
    Cut { slice_rows: 4, plan_rows: 6 },
];

/// A target and its source over several lives.
struct Story {
    kind: Kind,
    partition: &'static [&'static str],
    target: TempDir,
    disk: FaultyDisk,
    source: Source,
    lives: usize,
}

/// How a life ended.
struct Life {
    operations: u64,
    /// It was not killed.
    is_whole: bool,
}

impl Story {
    fn new(kind: Kind, partition: &'static [&'static str]) -> Self {
        let target = scratch().unwrap();
        Self { kind, partition, target, disk: FaultyDisk::new(), source: Source::default(), lives: 0 }
    }

    /// Runs until an operation kills it, or to the end.
    fn live(&mut self, dies_at: u64) -> Result<Life, String> {
        let disk = MortalDisk::new(Arc::new(self.disk.clone()), dies_at);
        let result = self.live_on(Arc::new(disk.clone()), END);
        let life = Life { operations: disk.operations(), is_whole: !disk.is_dead() };
        if life.is_whole { result.map(|()| life) } else { Ok(life) }
    }

    fn live_on(&mut self, disk: Arc<dyn Disk>, end: i64) -> Result<(), String> {
        let mut sink = sink(self.kind, self.target.path(), self.partition, disk);
        let cut = CUTS[self.lives];
        let latest = i64::try_from(self.lives).unwrap() * 2;
        self.lives += 1;
        run(&mut sink, &mut self.source, end, cut, latest).map_err(|e| format!("{e}: {:?}", e.source))
    }

    /// The last life, without faults: every row must be there once, and nothing else.
    fn end(mut self) -> Result<(), String> {
        self.live_on(Arc::new(FaultyDisk::new()), END + MORE)?;
        let origin = self.source.origin.expect("a run to the end began");
        check_rows(self.kind, self.target.path(), origin, END + MORE, self.partition)?;
        let left = walk(self.target.path()).into_iter().find(|path| path.to_str().unwrap().contains("/tmp-"));
        left.map_or(Ok(()), |path| Err(format!("{} stays", path.display())))
    }
}

fn all_stories() -> impl Iterator<Item = (Kind, &'static [&'static str])> {
    KINDS.into_iter().flat_map(|kind| [(kind, &[][..]), (kind, BY_ORIGIN)])
}

#[test]
fn a_full_disk_is_told_and_the_run_goes_on_once_there_is_space() {
    for (kind, partition) in all_stories() {
        let mut story = Story::new(kind, partition);
        let disk = story.disk.clone();
        let mut sink = sink(kind, story.target.path(), partition, Arc::new(disk.clone()));
        sink.begin(&support::chain(), 0, "first").unwrap();
        disk.set_full(true);
        let error = run(&mut sink, &mut story.source, END, CUTS[0], 0).unwrap_err();
        assert_eq!(error.class, Class::Retry, "{error}");
        assert!(error.message.contains(story.target.path().to_str().unwrap()), "{error}");
        disk.set_full(false);
        sink.discard(&support::chain()).unwrap();
        run(&mut sink, &mut story.source, END, CUTS[1], 0).unwrap();
        check_rows(kind, story.target.path(), 0, END, partition).unwrap();
    }
}

#[test]
fn any_failed_sync_or_write_is_told_and_the_same_task_goes_on() {
    for (kind, partition) in all_stories() {
        // A failure that no call met would show nothing: so many of each a run has at least.
        for (call, at_least) in [(Call::Sync, 15), (Call::Write, 7)] {
            for nth in 1.. {
                let mut story = Story::new(kind, partition);
                let mut sink = sink(kind, story.target.path(), partition, Arc::new(story.disk.clone()));
                story.disk.fail(call, nth, Errno::EIO);
                let Err(error) = run(&mut sink, &mut story.source, END, CUTS[0], 0) else {
                    assert!(nth > at_least, "{kind:?} {partition:?}: {call:?} {nth} was never made");
                    break;
                };
                assert_eq!(error.class, Class::Retry, "{error}");
                sink.discard(&support::chain()).unwrap();
                run(&mut sink, &mut story.source, END, CUTS[1], 0).unwrap();
                check_rows(kind, story.target.path(), 0, END, partition)
                    .unwrap_or_else(|e| panic!("{kind:?} {partition:?} {call:?} {nth}: {e}"));
            }
        }
    }
}

#[test]
fn a_kill_at_any_operation_loses_and_doubles_nothing() {
    for (kind, partition) in all_stories() {
        for dies_at in 1.. {
            let mut story = Story::new(kind, partition);
            let life = story.live(dies_at).unwrap();
            story
                .end()
                .unwrap_or_else(|e| panic!("{kind:?} {partition:?} killed at operation {dies_at}: {e}"));
            if life.is_whole {
                assert!(dies_at > 50, "the run is about {dies_at} operations");
                break;
            }
        }
    }
}

#[test]
fn power_loss_at_any_operation_loses_and_doubles_nothing() {
    for (kind, partition) in all_stories() {
        for mode in [PowerLoss::Forget, PowerLoss::Tear] {
            for dies_at in 1.. {
                let mut story = Story::new(kind, partition);
                let life = story.live(dies_at).unwrap();
                story.disk.crash(dies_at, mode);
                story.end().unwrap_or_else(|e| {
                    panic!("{kind:?} {partition:?} {mode:?} at operation {dies_at}: {e}");
                });
                if life.is_whole {
                    break;
                }
            }
        }
    }
}

/// A kill at one operation, then power loss at one of the next run; `step` thins the second out.
fn kill_then_power_loss(step: u64) {
    for (kind, partition) in all_stories() {
        let mut operations = u64::MAX;
        let mut killed_at = 0;
        while killed_at <= operations {
            killed_at += 1;
            let mut lost_at = 1 + killed_at % step;
            loop {
                let mut story = Story::new(kind, partition);
                let first = story.live(killed_at).unwrap();
                if first.is_whole {
                    operations = first.operations;
                }
                let second = story.live(lost_at).unwrap();
                story.disk.crash(
                    lost_at,
                    if lost_at.is_multiple_of(2) { PowerLoss::Forget } else { PowerLoss::Tear },
                );
                story.end().unwrap_or_else(|e| {
                    panic!("{kind:?} {partition:?} killed at {killed_at}, then lost at {lost_at}: {e}")
                });
                if second.is_whole {
                    break;
                }
                lost_at += step;
            }
        }
    }
}

#[test]
fn power_loss_in_the_run_after_a_kill_loses_and_doubles_nothing() {
    kill_then_power_loss(47);
}

#[test]
#[ignore = "takes minutes; `cargo test -p sluice-sinks --test crash -- --ignored`"]
fn power_loss_anywhere_in_the_run_after_a_kill_loses_and_doubles_nothing() {
    kill_then_power_loss(1);
}

/// Whether some power loss in the run after the kill, at operation `from` or later, shows that its sync call
/// number `skipped` (from 0) was left out; `None` if it has fewer. `from` becomes the operation after the call.
fn is_noticed(
    kind: Kind,
    partition: &'static [&'static str],
    killed_at: u64,
    skipped: usize,
    from: &mut u64,
) -> Option<bool> {
    let mut is_skipped = false;
    for lost_at in *from.. {
        let mut story = Story::new(kind, partition);
        story.live(killed_at).unwrap();
        let before = story.disk.syncs().len();
        story.disk.skip_sync(before + skipped);
        let life = story.live(lost_at);
        if story.disk.syncs().len() <= before + skipped {
            match life {
                Ok(Life { is_whole: false, .. }) => continue,
                _ => return None,
            }
        }
        if !is_skipped {
            (is_skipped, *from) = (true, lost_at);
        }
        story.disk.crash(lost_at, PowerLoss::Forget);
        if story.end().is_err() || life.is_err() {
            return Some(true);
        }
        if life.is_ok_and(|life| life.is_whole) {
            return Some(false);
        }
    }
    unreachable!("a run ends");
}

/// The sync calls of a run without faults.
fn calls(kind: Kind, partition: &'static [&'static str]) -> Vec<String> {
    let mut story = Story::new(kind, partition);
    story.live(u64::MAX).unwrap();
    story.disk.syncs()
}

#[test]
fn each_sync_call_is_needed() {
    for (kind, partition) in all_stories() {
        let (mut skipped, mut from) = (0, 1);
        // A first life that is killed at once leaves all to the second.
        while let Some(is_noticed) = is_noticed(kind, partition, 1, skipped, &mut from) {
            assert!(
                is_noticed,
                "{kind:?} {partition:?}: nobody needs sync call {skipped}, {:?}",
                calls(kind, partition).get(skipped)
            );
            skipped += 1;
        }
        assert!(skipped > 10, "{skipped} sync calls");
    }
}

#[test]
fn what_a_killed_run_named_but_did_not_sync_is_synced_by_the_next() {
    for kind in KINDS {
        let operations = Story::new(kind, &[]).live(u64::MAX).unwrap().operations;
        // The first sync of a recovery is for the plan's name, the second for the names of its files.
        for skipped in [0, 1] {
            let is_needed =
                (2..operations).any(|at| is_noticed(kind, &[], at, skipped, &mut 1) == Some(true));
            assert!(is_needed, "{kind:?}: nobody needs sync call {skipped} of a recovery");
        }
    }
}

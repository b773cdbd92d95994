//! Messages for later while a clock is set and while the process ends: none early, none lost, none twice.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "what the broker waits by is no clock that can be set")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_protocol::code::ResponseCode as R;
use sluice_protocol::delay::Levels;
use sluice_store::file::{Disk, RealDisk};
use sluice_store::{Flush, Settings, Store};
use sluice_testkit::{FaultyDisk, ManualClock, scratch};

use support::{Client, TestBroker};

const HOUR_MS: i64 = 3_600_000;
/// How long a test waits for what has to come, in ms.
const SOON: i64 = 15_000;
const LEVEL_MS: i64 = 400;

struct Place {
    dir: tempfile::TempDir,
    clock: ManualClock,
}

impl Place {
    fn new() -> Self {
        Self { dir: scratch().unwrap(), clock: ManualClock::new(1_700_000_000_000) }
    }

    fn start(&self, disk: Arc<dyn Disk>) -> TestBroker {
        let mut settings = Settings::embedded(self.dir.path().join("store"));
        settings.segment_bytes = 64 * 1024;
        settings.delay_levels = Levels::new(&[LEVEL_MS]).unwrap();
        settings.flush = Flush::Async { interval: Duration::from_hours(1) };
        let store = Store::open_without_upkeep(settings, disk, self.clock.clock()).unwrap();
        TestBroker::over(store, false, |_| {})
    }
}

fn send(client: &mut Client, body: &str, property: (&str, &str)) {
    assert_eq!(client.send("t", 0, body, &[property]).code, R::SUCCESS);
}

/// The message at an offset, when it comes.
fn next(client: &mut Client, offset: i64) -> String {
    let pulled = client.pull("t", 0, offset, ("TAG", "*"), SOON);
    assert_eq!(pulled.code, R::SUCCESS, "nothing came");
    pulled.messages().remove(0).1
}

fn is_there(client: &mut Client, offset: i64) -> bool {
    client.pull("t", 0, offset, ("TAG", "*"), 0).code == R::SUCCESS
}

#[test]
fn a_clock_that_is_set_back_holds_up_no_delay_level_and_lets_none_come_early() {
    let place = Place::new();
    let broker = place.start(Arc::new(RealDisk));
    let mut client = broker.client();
    send(&mut client, "before", ("DELAY", "1"));
    place.clock.advance_ms(-HOUR_MS);
    let sent = Instant::now();
    send(&mut client, "after", ("DELAY", "1"));
    assert_eq!(next(&mut client, 0), "before");
    // The clock stands still: it has waited by itself, as the other one does.
    assert_eq!(next(&mut client, 1), "after");
    assert!(sent.elapsed() >= Duration::from_millis(LEVEL_MS.unsigned_abs()));
    drop(broker);
    let broker = place.start(Arc::new(RealDisk));
    let mut client = broker.client();
    send(&mut client, "restarted", ("DELAY", "1"));
    assert_eq!(next(&mut client, 2), "restarted");
}

#[test]
fn a_clock_that_is_set_forward_brings_what_is_due_by_it() {
    let place = Place::new();
    let broker = place.start(Arc::new(RealDisk));
    let mut client = broker.client();
    send(&mut client, "time", ("TIMER_DELAY_MS", "1800000"));
    send(&mut client, "level", ("DELAY", "1"));
    place.clock.advance_ms(HOUR_MS);
    let mut came = vec![next(&mut client, 0), next(&mut client, 1)];
    came.sort_unstable();
    assert_eq!(came, ["level", "time"]);
}

#[test]
fn a_time_of_delivery_is_one_of_the_clock_whichever_way_it_is_set() {
    let place = Place::new();
    let broker = place.start(Arc::new(RealDisk));
    let mut client = broker.client();
    let due = 1_700_000_060_000_i64;
    send(&mut client, "m", ("TIMER_DELIVER_MS", &due.to_string()));
    place.clock.advance_ms(-HOUR_MS);
    // Another one that the broker delivers meanwhile tells that it has looked.
    send(&mut client, "other", ("TIMER_DELAY_MS", "59000"));
    place.clock.advance_ms(59_000);
    assert_eq!(next(&mut client, 0), "other");
    place.clock.advance_ms(HOUR_MS - 1);
    assert!(!is_there(&mut client, 1));
    place.clock.advance_ms(2_000);
    assert_eq!(next(&mut client, 1), "m");
}

#[test]
fn whenever_the_process_ends_a_delayed_message_comes_once() {
    // Until it comes whatever happens after.
    let mut came = 0;
    for calls in 0..60 {
        let place = Place::new();
        let disk = FaultyDisk::new();
        let broker = place.start(Arc::new(disk.clone()));
        let mut client = broker.client();
        send(&mut client, "m", ("DELAY", "1"));
        disk.power_off_after(calls);
        place.clock.advance_ms(LEVEL_MS);
        came += usize::from(client.pull("t", 0, 0, ("TAG", "*"), 1_000).code == R::SUCCESS);
        broker.end();
        let broker = place.start(Arc::new(disk.restarted()));
        let mut client = broker.client();
        assert_eq!(next(&mut client, 0), "m", "after {calls} calls");
        // Whatever is to come has come when another one has.
        send(&mut client, "other", ("DELAY", "1"));
        place.clock.advance_ms(LEVEL_MS);
        assert_eq!(next(&mut client, 1), "other", "after {calls} calls");
        if came == 2 {
            assert!(calls > 2, "the process ended before it came, too");
            return;
        }
    }
    panic!("it never came before the process ended");
}

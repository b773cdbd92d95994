//! A clock that is set an hour forward or back: times of messages never fall, and nothing expires by it.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::path::Path;
use std::time::Duration;

use common::{Place, at, batch, bodies, queue, topic};
use serde_json::Value;
use sluice_protocol::record::records;
use sluice_store::{Flush, Retention, Store};

const HOUR_MS: i64 = 3_600_000;

/// When each message was stored.
fn times(store: &Store) -> Vec<i64> {
    let read = store.read(&topic("t"), queue(0), at(0), 1 << 20).unwrap();
    read.runs.iter().flat_map(|run| records(&run.bytes)).map(|r| r.unwrap().store_timestamp_ms).collect()
}

#[test]
fn lookups_by_time_hold_however_the_clock_is_set_and_over_a_restart() {
    for jump in [HOUR_MS, -HOUR_MS] {
        let place = Place::new(Flush::Sync);
        let mut store = place.open();
        store.create_topic(&topic("t"), 1).unwrap();
        for number in 0..60_usize {
            match number {
                20 => place.clock.advance_ms(jump),
                40 => place.clock.advance_ms(-jump),
                30 => {
                    store.close().unwrap();
                    store = place.open();
                }
                50 => store = place.crashed().open(),
                _ => place.clock.advance_ms(1000),
            }
            store.append(batch(&[&number.to_string()])).unwrap();
        }
        let times = times(&store);
        assert_eq!(times.len(), 60);
        assert!(times.is_sorted(), "{times:?}");
        for time in &times {
            let first = times.iter().position(|t| t == time).unwrap();
            assert_eq!(store.offset_at(&topic("t"), queue(0), *time).unwrap(), at(first as i64), "{jump}");
        }
        assert_eq!(store.offset_at(&topic("t"), queue(0), times[59] + 1).unwrap(), at(60));
    }
}

/// Where queue 0 of topic `t` ended at the last checkpoint.
fn checkpointed(dir: &Path) -> i64 {
    let text = std::fs::read_to_string(dir.join("sluice/positions.json")).unwrap_or_default();
    let checkpoint: Value = serde_json::from_str(&text).unwrap_or_default();
    checkpoint["ends"]["t"][0].as_i64().unwrap_or(0)
}

#[test]
fn a_clock_set_forward_expires_nothing_and_one_set_back_stops_no_checkpoint() {
    for jump in [HOUR_MS, -HOUR_MS] {
        let mut place = Place::new(Flush::Async { interval: Duration::from_millis(1) });
        place.settings.retention = Retention { age: Some(Duration::from_mins(30)), bytes: None };
        let store = place.open_whole();
        store.create_topic(&topic("t"), 1).unwrap();
        let large = "x".repeat(5000);
        let mut sent = 0;
        // Each append begins a segment, and so wakes the store's thread: checkpoint, then retention.
        let mut roll = |times: usize| {
            for _ in 0..times {
                store.append(batch(&[&large])).unwrap();
                sent += 1;
                while sent > 1 && checkpointed(&place.dir()) < sent {
                    std::thread::yield_now();
                }
            }
            sent
        };
        roll(3);
        place.clock.advance_ms(jump);
        let sent = roll(4);
        assert_eq!(store.offsets(&topic("t"), queue(0)), Some((at(0), at(sent))), "{jump}");
        assert_eq!(bodies(&store).len() as i64, sent);
        store.close().unwrap();
    }
}

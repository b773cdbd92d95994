//! What the store's tests share: a folder, a way to open it, short words for long calls.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sluice_protocol::id::{QueueId, QueueOffset, TopicName};
use sluice_protocol::message::{Message, push_property};
use sluice_protocol::record::{Record, records};
use sluice_store::file::{Disk, RealDisk};
use sluice_store::{Batch, ChainMark, Error, Flush, Retention, Settings, Store};
use sluice_testkit::{FaultyDisk, ManualClock, copy_dir, scratch};
use tempfile::TempDir;

/// Segments small enough to roll in a test.
pub const SEGMENT_BYTES: u64 = 16 * 1024;

pub struct Place {
    pub root: TempDir,
    pub clock: ManualClock,
    pub settings: Settings,
}

impl Place {
    pub fn new(flush: Flush) -> Self {
        Self::below(scratch().unwrap(), flush)
    }

    /// On a disk, not in memory.
    pub fn on_disk(flush: Flush) -> Self {
        Self::below(TempDir::new().unwrap(), flush)
    }

    fn below(root: TempDir, flush: Flush) -> Self {
        let settings = Settings {
            dir: root.path().join("store"),
            segment_bytes: SEGMENT_BYTES,
            flush,
            retention: Retention::default(),
            delay_levels: Default::default(),
        };
        Self { root, clock: ManualClock::new(1_700_000_000_000), settings }
    }

    /// Flushed by hand.
    pub fn lazy() -> Self {
        Self::new(Flush::Async { interval: Duration::from_hours(1) })
    }

    /// A copy of the store's files as a killed process would leave them.
    pub fn crashed(&self) -> Self {
        let copy = Self::new(self.settings.flush);
        copy_dir(&self.dir(), &copy.dir()).unwrap();
        copy
    }

    pub fn dir(&self) -> PathBuf {
        self.settings.dir.clone()
    }

    /// Opened without its thread, so that everything happens in order.
    pub fn try_open_on(&self, disk: Arc<dyn Disk>) -> Result<Store, Error> {
        Store::open_without_upkeep(self.settings.clone(), disk, self.clock.clock())
    }

    pub fn open_on(&self, disk: &FaultyDisk) -> Store {
        self.try_open_on(Arc::new(disk.clone())).unwrap()
    }

    /// Opened on a disk that takes no time to sync.
    pub fn open(&self) -> Store {
        self.open_on(&FaultyDisk::new())
    }

    /// Opened with its thread on the real disk.
    pub fn open_whole(&self) -> Store {
        Store::open(self.settings.clone(), Arc::new(RealDisk), self.clock.clock()).unwrap()
    }

    /// The last file of the commit log that holds something.
    pub fn segment(&self, start: u64) -> PathBuf {
        self.dir().join(format!("commitlog/{start:020}"))
    }
}

pub fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

pub fn queue(id: i32) -> QueueId {
    QueueId::new(id).unwrap()
}

pub fn at(offset: i64) -> QueueOffset {
    QueueOffset::new(offset)
}

/// A batch of text bodies for one queue.
pub fn batch_for(name: &str, id: i32, bodies: &[&str]) -> Batch {
    let mut batch = Batch::new();
    push(&mut batch, name, id, bodies);
    batch
}

pub fn push(batch: &mut Batch, name: &str, id: i32, bodies: &[&str]) {
    for body in bodies {
        let mut properties = Vec::new();
        push_property(&mut properties, "body", body).unwrap();
        let message = Message { body: body.as_bytes(), properties: &properties, ..Message::default() };
        batch.push(&topic(name), queue(id), &message).unwrap();
    }
}

pub fn batch(bodies: &[&str]) -> Batch {
    batch_for("t", 0, bodies)
}

pub fn mark(chain: &str, start: i64, end: i64) -> ChainMark {
    ChainMark { chain: chain.into(), incarnation: "i".into(), start, end, fates: [0; 5] }
}

/// All bodies of a queue, read in small steps, each record checked.
pub fn bodies_of(store: &Store, name: &str, id: i32) -> Vec<String> {
    let Some((first, next)) = store.offsets(&topic(name), queue(id)) else { return Vec::new() };
    let mut bodies = Vec::new();
    let mut from = first;
    while from < next {
        let read = store.read(&topic(name), queue(id), from, 700).unwrap();
        assert!(read.next > from, "a read moves on");
        let mut offset = from.get();
        for run in &read.runs {
            let mut log_offset = run.log_offset.get();
            for record in records(&run.bytes) {
                let record: Record<'_> = record.unwrap();
                assert!(record.check_body_crc());
                assert_eq!((record.topic, record.queue_id), (name, id));
                assert_eq!((record.queue_offset, record.log_offset), (offset, log_offset));
                bodies.push(String::from_utf8(record.body.to_vec()).unwrap());
                offset += 1;
                log_offset += record.size as u64;
            }
        }
        assert_eq!(offset, read.next.get());
        from = read.next;
    }
    bodies
}

pub fn bodies(store: &Store) -> Vec<String> {
    bodies_of(store, "t", 0)
}

/// How many seeds a loop runs with: `SLUICE_SEEDS`, or the small number that goes with every test run.
pub fn seeds(few: u64) -> u64 {
    number_of("SLUICE_SEEDS", few)
}

/// The number that a variable of the environment asks for, or the small one that goes with every test run.
#[expect(clippy::disallowed_methods, reason = "the long run is asked for from outside")]
pub fn number_of(name: &str, few: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(few)
}

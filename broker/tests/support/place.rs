//! A folder whose disk fails when it is told to, and a broker over it whenever one is started.

use std::sync::Arc;
use std::time::Duration;

use sluice_store::{Flush, Settings, Store};
use sluice_testkit::{FaultyDisk, ManualClock, scratch};
use tempfile::TempDir;

use super::TestBroker;

pub struct Place {
    pub root: TempDir,
    pub clock: ManualClock,
    pub sync: bool,
}

impl Place {
    pub fn new(sync: bool) -> Self {
        Self { root: scratch().unwrap(), clock: ManualClock::new(1_700_000_000_000), sync }
    }

    /// Without the store's thread: it flushes when it is told to.
    pub fn start(&self, disk: &FaultyDisk) -> TestBroker {
        let mut settings = Settings::embedded(self.root.path().join("store"));
        settings.segment_bytes = 64 * 1024;
        settings.flush =
            if self.sync { Flush::Sync } else { Flush::Async { interval: Duration::from_hours(1) } };
        let store = Store::open_without_upkeep(settings, Arc::new(disk.clone()), self.clock.clock()).unwrap();
        TestBroker::over(store, self.sync, |_| {})
    }
}

//! A clock that stands still until it is moved.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use sluice_store::Clock;

/// A clock that tests move; clones show the same time.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that shows a time, in ms since 1970-01-01 UTC.
    pub fn new(now_ms: i64) -> Self {
        Self(Arc::new(AtomicI64::new(now_ms)))
    }

    /// Moves it forward.
    pub fn advance_ms(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }

    /// What it shows, in ms since 1970-01-01 UTC.
    pub fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    /// The clock as a store takes it.
    pub fn clock(&self) -> Clock {
        let shown = self.0.clone();
        Arc::new(move || shown.load(Ordering::SeqCst))
    }
}

//! Wakes a source that waits for any of its queues.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Counts what arrived.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    count: Mutex<u64>,
    changed: Condvar,
}

impl Arrivals {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn seen(&self) -> u64 {
        *self.lock()
    }

    pub(crate) fn add(&self) {
        *self.lock() += 1;
        self.changed.notify_all();
    }

    /// Waits until something arrived after `seen`.
    pub(crate) fn wait(&self, seen: u64, timeout: Duration) {
        let unchanged = |count: &mut u64| *count == seen;
        drop(self.changed.wait_timeout_while(self.lock(), timeout, unchanged));
    }
}

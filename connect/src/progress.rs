//! What a running pipeline tells of itself: counters that move once a slice, and its state.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::task::Fates;

/// Asks all pipelines of a run to end cleanly: what is in hand is finished and published.
#[derive(Debug, Default)]
pub struct Stop {
    asked: AtomicBool,
    lock: Mutex<()>,
    told: Condvar,
}

impl Stop {
    /// Asks.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.told.notify_all();
    }

    /// Whether it was asked for.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Waits; ends early when a stop is asked for.
    pub fn wait(&self, timeout: Duration) {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_asked() {
            drop(self.told.wait_timeout(guard, timeout));
        }
    }
}

/// Counters of one pipeline; rows are source offsets.
#[derive(Debug, Default)]
pub struct Progress {
    rows_in: AtomicU64,
    fates: [AtomicU64; 6],
    files: AtomicU64,
    lag: AtomicI64,
    memory: AtomicU64,
    memory_peak: AtomicU64,
    ended: AtomicBool,
    state: Mutex<String>,
}

/// One reading of a [`Progress`].
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reading {
    /// Rows read, those of unfinished plans included.
    pub rows_in: u64,
    /// Rows whose fate is published.
    pub fates: Fates,
    /// Files published.
    pub files: u64,
    /// Rows between the last one read and the source's end, where it is known.
    pub lag: Option<u64>,
    /// What rows on their way hold in memory, in bytes.
    pub memory: u64,
    /// The most that they held.
    pub memory_peak: u64,
    /// What it does.
    pub state: String,
}

impl Progress {
    /// Counts a slice that was read.
    pub fn read(&self, rows: u64) {
        self.rows_in.fetch_add(rows, Ordering::Relaxed);
    }

    /// Counts what is published, for good.
    pub fn published(&self, fates: &Fates, files: u64) {
        let Fates { written, filtered, deduplicated, skipped, dead, absent } = *fates;
        let counts = [written, filtered, deduplicated, skipped, dead, absent];
        for (counter, count) in self.fates.iter().zip(counts) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
        self.files.fetch_add(files, Ordering::Relaxed);
    }

    /// A new start: what was read and not published will be read again.
    pub fn restart(&self) {
        let published = self.reading().fates.total();
        self.rows_in.store(published, Ordering::Relaxed);
    }

    /// Sets the lag, in rows; `None` if the source does not know its end.
    pub fn lag(&self, rows: Option<i64>) {
        self.lag.store(rows.map_or(-1, |r| r.max(0)), Ordering::Relaxed);
    }

    /// Sets what rows on their way hold in memory, in bytes.
    pub fn memory(&self, bytes: usize) {
        self.memory.store(bytes as u64, Ordering::Relaxed);
        self.memory_peak.fetch_max(bytes as u64, Ordering::Relaxed);
    }

    /// Says what the pipeline does.
    pub fn state(&self, text: impl Into<String>) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = text.into();
    }

    /// Says that the pipeline has ended, well or not.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    /// Whether the pipeline has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Reads all counters.
    pub fn reading(&self) -> Reading {
        let [written, filtered, deduplicated, skipped, dead, absent] =
            std::array::from_fn(|i| self.fates[i].load(Ordering::Relaxed));
        Reading {
            rows_in: self.rows_in.load(Ordering::Relaxed),
            fates: Fates { written, filtered, deduplicated, skipped, dead, absent },
            files: self.files.load(Ordering::Relaxed),
            lag: u64::try_from(self.lag.load(Ordering::Relaxed)).ok(),
            memory: self.memory.load(Ordering::Relaxed),
            memory_peak: self.memory_peak.load(Ordering::Relaxed),
            state: self.state.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

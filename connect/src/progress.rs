//! What a running pipeline tells of itself: counters that move once a slice, and its state.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::histogram::Histogram;
use crate::task::{Fates, Slice};

/// Bounds of times, in microseconds.
const TIMES: &[u64] =
    &[1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10_000_000, 60_000_000];
/// Bounds of file sizes, in bytes: from too small to read well to what lakes like.
const SIZES: &[u64] =
    &[1 << 16, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 128 << 20, 256 << 20, 512 << 20, 1 << 30];
/// What rows are like is told by the last ones: after so many an earlier row counts half.
const RECENT_ROWS: f64 = 65_536.0;

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
    fenced: AtomicU64,
    lag: AtomicI64,
    memory: AtomicU64,
    memory_peak: AtomicU64,
    ended: AtomicBool,
    state: Mutex<String>,
    measured: Mutex<Measured>,
}

/// What is counted beside the rows.
#[derive(Debug)]
struct Measured {
    retries: u64,
    bytes_in: u64,
    recent: Recent,
    behind_ms: Option<i64>,
    batch: Histogram,
    commit: Histogram,
    files: Histogram,
}

impl Default for Measured {
    fn default() -> Self {
        Self {
            retries: 0,
            bytes_in: 0,
            recent: Recent::default(),
            behind_ms: None,
            batch: Histogram::new(TIMES),
            commit: Histogram::new(TIMES),
            files: Histogram::new(SIZES),
        }
    }
}

/// What the last rows were like.
#[derive(Debug, Default)]
struct Recent {
    rows: f64,
    passed: f64,
    bytes: f64,
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate"
)]
impl Recent {
    fn add(&mut self, rows: u64, filtered: u64, bytes: usize) {
        let fade = 0.5_f64.powf(rows as f64 / RECENT_ROWS);
        self.rows = self.rows * fade + rows as f64;
        self.passed = self.passed * fade + rows.saturating_sub(filtered) as f64;
        self.bytes = self.bytes * fade + bytes as f64;
    }

    /// So many rows times a mean of the last ones; `None` before the first one.
    fn scale(&self, rows: u64, of: f64) -> Option<u64> {
        (self.rows > 0.0).then(|| (rows as f64 * of / self.rows).round() as u64)
    }
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
    /// How often another worker had planned the rows first.
    pub fenced: u64,
    /// Rows between the last one read and the source's end, where it is known.
    pub lag: Option<u64>,
    /// About how many of those rows pass the filter, by the share of the last ones that did.
    pub matching_lag: Option<u64>,
    /// About how long those rows are, in bytes, by the mean of the last ones.
    pub lag_bytes: Option<u64>,
    /// When the last row was stored that was read of the queue that is the furthest behind, in ms since 1970-01-01 UTC;
    /// `None` where nothing waits or the source does not know.
    pub behind_ms: Option<i64>,
    /// What rows on their way hold in memory, in bytes.
    pub memory: u64,
    /// The most that they held.
    pub memory_peak: u64,
    /// Starts after a failure that time may heal.
    pub retries: u64,
    /// What was read, in bytes: as much of each record as the pipeline asks for.
    pub bytes_in: u64,
    /// How long the steps took for a record batch, in microseconds.
    #[serde(skip)]
    pub batch: Histogram,
    /// How long a publication or a transaction took, in microseconds.
    #[serde(skip)]
    pub commit: Histogram,
    /// The sizes of published files, in bytes.
    #[serde(skip)]
    pub file_bytes: Histogram,
    /// What it does.
    pub state: String,
}

impl Progress {
    fn measured(&self) -> MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a slice that was read.
    pub fn read(&self, slice: &Slice) {
        self.rows_in.fetch_add(slice.range.rows(), Ordering::Relaxed);
        self.measured().bytes_in += slice.bytes as u64;
    }

    /// Counts a slice that has passed the steps, and what they took for it.
    pub fn passed(&self, slice: &Slice) {
        self.measured().recent.add(slice.range.rows(), slice.filtered, slice.bytes);
    }

    /// Counts how long the steps took for a record batch.
    pub fn batch(&self, took: Duration) {
        self.measured().batch.add(micros(took));
    }

    /// Counts how long a publication or a transaction took.
    pub fn commit(&self, took: Duration) {
        self.measured().commit.add(micros(took));
    }

    /// Counts the sizes of files that are published, in bytes.
    pub fn file_sizes(&self, sizes: &[u64]) {
        let mut measured = self.measured();
        sizes.iter().for_each(|size| measured.files.add(*size));
    }

    /// Counts a start after a failure.
    pub fn retry(&self) {
        self.measured().retries += 1;
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

    /// Counts that another worker had planned the rows first.
    pub fn fence(&self) {
        self.fenced.fetch_add(1, Ordering::Relaxed);
    }

    /// A new start: what was read and not published will be read again.
    pub fn restart(&self) {
        let published = self.reading().fates.total();
        self.rows_in.store(published, Ordering::Relaxed);
    }

    /// Sets the lag, in rows; `None` if the source does not know its end. `behind_ms`: [`Reading::behind_ms`].
    pub fn lag(&self, rows: Option<i64>, behind_ms: Option<i64>) {
        self.lag.store(rows.map_or(-1, |r| r.max(0)), Ordering::Relaxed);
        self.measured().behind_ms = behind_ms;
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
        let lag = u64::try_from(self.lag.load(Ordering::Relaxed)).ok();
        let measured = self.measured();
        let recent = &measured.recent;
        Reading {
            rows_in: self.rows_in.load(Ordering::Relaxed),
            fates: Fates { written, filtered, deduplicated, skipped, dead, absent },
            files: self.files.load(Ordering::Relaxed),
            fenced: self.fenced.load(Ordering::Relaxed),
            lag,
            matching_lag: lag.and_then(|lag| recent.scale(lag, recent.passed)),
            lag_bytes: lag.and_then(|lag| recent.scale(lag, recent.bytes)),
            behind_ms: measured.behind_ms,
            memory: self.memory.load(Ordering::Relaxed),
            memory_peak: self.memory_peak.load(Ordering::Relaxed),
            retries: measured.retries,
            bytes_in: measured.bytes_in,
            batch: measured.batch.clone(),
            commit: measured.commit.clone(),
            file_bytes: measured.files.clone(),
            state: self.state.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// When something that is counted begins. It is for display alone: what happens depends on no clock but the pipeline's.
#[expect(clippy::disallowed_methods, reason = "its milliseconds are too long for what takes microseconds")]
pub(crate) fn begin() -> Instant {
    Instant::now()
}

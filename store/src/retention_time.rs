//! The time by which retention tells what is too old: the clock's, but a clock that is set forward makes nothing
//! older than it is. Never reads a clock.

use std::time::{Duration, Instant};

/// A clock that runs ahead of the time that passes by more than this was set, in ms.
const DRIFT_MS: i64 = 60_000;

/// Follows a clock.
#[derive(Debug)]
pub(crate) struct RetentionTime {
    /// What it told last, in ms since 1970-01-01 UTC.
    last_ms: i64,
    /// When it told that.
    at: Instant,
    /// Since when the clock is ahead.
    ahead_since: Option<Instant>,
}

impl RetentionTime {
    /// As the clock shows at the start.
    pub(crate) fn new(clock_ms: i64, at: Instant) -> Self {
        Self { last_ms: clock_ms, at, ahead_since: None }
    }

    /// The time at `at`, when the clock shows `clock_ms`, in ms since 1970-01-01 UTC. After `age` all that was
    /// stored before the clock was set is too old in any case, and the clock counts again.
    pub(crate) fn now_ms(&mut self, clock_ms: i64, at: Instant, age: Duration) -> i64 {
        let passed = at.saturating_duration_since(self.at).as_millis();
        let steady_ms = self.last_ms.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX));
        let ahead = clock_ms.saturating_sub(steady_ms) > DRIFT_MS;
        if ahead && self.ahead_since.is_none() {
            tracing::warn!(
                ahead_ms = clock_ms.saturating_sub(steady_ms),
                "the clock was set forward; retention goes by the time that passes"
            );
        }
        self.ahead_since = ahead.then(|| self.ahead_since.unwrap_or(at));
        if self.ahead_since.is_some_and(|since| at.saturating_duration_since(since) >= age) {
            self.ahead_since = None;
        }
        self.last_ms = if self.ahead_since.is_some() { steady_ms } else { clock_ms };
        self.at = at;
        self.last_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;
    const AGE: Duration = Duration::from_hours(2);

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    fn a_clock_set_forward_counts_once_what_was_stored_before_is_too_old() {
        let start = Instant::now();
        let mut time = RetentionTime::new(0, start);
        let mut at = |minutes: u64, clock_ms| {
            time.now_ms(clock_ms, start + Duration::from_mins(minutes), AGE) / 60_000
        };
        assert_eq!(at(10, HOUR_MS / 6), 10);
        assert_eq!(at(20, HOUR_MS / 3 + HOUR_MS), 20, "an hour forward");
        assert_eq!(at(80, 80 * 60_000 + HOUR_MS), 80);
        assert_eq!(at(139, 139 * 60_000 + HOUR_MS), 139);
        assert_eq!(at(140, 140 * 60_000 + HOUR_MS), 200, "two hours later");
        assert_eq!(at(141, 141 * 60_000), 141, "and back");
        assert_eq!(at(142, 142 * 60_000 - HOUR_MS), 82, "an hour behind");
        assert_eq!(at(143, 143 * 60_000), 83, "which is forward again");
    }
}

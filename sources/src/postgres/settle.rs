//! Up to which value of a column rows can be read, without passing over some that are on their way.
//!
//! A transaction takes a row's value (of a sequence, or of the clock) before it commits the row, so others with greater
//! values may be seen first. What a look sees as the greatest value is settled once `lag` has passed and every transaction
//! that was writing then has ended: PostgreSQL numbers those (`xid`) and tells the first that runs, and a number that the look
//! takes for itself is greater than all of them.

use std::collections::VecDeque;
use std::time::Duration;

/// Looks that wait at once, at most.
const WAITING_MAX: usize = 64;
/// How long the end of transactions is waited for before it is looked again.
const WRITERS_PAUSE: Duration = Duration::from_millis(200);
/// A wait for writers that is worth telling.
const WRITERS_LONG: Duration = Duration::from_mins(1);

/// What one look saw, in one snapshot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshot {
    /// The greatest value, if there is any row.
    pub(super) max: Option<i64>,
    /// The first transaction that was writing then.
    pub(super) first_running: i64,
    /// A number above those of all transactions that had begun to write.
    pub(super) first_unborn: i64,
}

/// A look whose value is not settled yet.
#[derive(Debug)]
struct Waiting {
    at: Duration,
    max: i64,
    first_unborn: i64,
}

/// Watches the column. Times are since any fixed moment.
#[derive(Debug)]
pub(super) struct Settle {
    lag: Duration,
    interval: Duration,
    waiting: VecDeque<Waiting>,
    settled: Option<i64>,
    /// What the first look saw.
    goal: Option<Option<i64>>,
    due: Duration,
    /// A long wait was told.
    told: bool,
}

impl Settle {
    pub(super) fn new(lag: Duration, interval: Duration) -> Self {
        let (settled, goal, due, told) = (None, None, Duration::ZERO, false);
        Self { lag, interval, waiting: VecDeque::new(), settled, goal, due, told }
    }

    /// When to look next.
    pub(super) fn due(&self) -> Duration {
        self.due
    }

    /// The greatest value up to which all rows are there.
    pub(super) fn settled(&self) -> Option<i64> {
        self.settled
    }

    /// Whether all that the first look saw is settled and lies at or before `read`.
    pub(super) fn is_caught_up(&self, read: Option<i64>) -> bool {
        self.goal.is_some_and(|goal| goal.is_none_or(|goal| self.settled >= Some(goal) && read >= Some(goal)))
    }

    /// Takes a look into account.
    pub(super) fn look(&mut self, now: Duration, seen: Snapshot) {
        self.goal.get_or_insert(seen.max);
        let newest = self.waiting.back().map(|waiting| waiting.max).or(self.settled);
        if let Some(max) = seen.max.filter(|max| newest.is_none_or(|newest| *max > newest))
            && self.waiting.len() < WAITING_MAX
        {
            self.waiting.push_back(Waiting { at: now, max, first_unborn: seen.first_unborn });
        }
        let lag = self.lag;
        while let Some(waiting) = self
            .waiting
            .pop_front_if(|waiting| waiting.at + lag <= now && seen.first_running >= waiting.first_unborn)
        {
            self.settled = self.settled.max(Some(waiting.max));
            self.told = false;
        }
        let later = now + self.interval;
        self.due = match self.waiting.front() {
            None => later,
            Some(waiting) if waiting.at + lag > now => later.min(waiting.at + lag),
            Some(waiting) => {
                if !self.told && waiting.at + lag + WRITERS_LONG <= now {
                    self.told = true;
                    let transaction = seen.first_running;
                    tracing::warn!(
                        transaction,
                        "rows wait for the end of a transaction that has been writing for long"
                    );
                }
                later.min(now + WRITERS_PAUSE)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn seen(max: impl Into<Option<i64>>, first_running: i64, first_unborn: i64) -> Snapshot {
        Snapshot { max: max.into(), first_running, first_unborn }
    }

    #[test]
    fn a_value_settles_when_its_lag_is_over_and_its_writers_have_ended() {
        let mut settle = Settle::new(ms(1000), ms(5000));
        settle.look(ms(0), seen(10, 5, 8));
        assert_eq!((settle.settled(), settle.due()), (None, ms(1000)));
        settle.look(ms(1000), seen(20, 7, 9));
        assert_eq!((settle.settled(), settle.due()), (None, ms(1200)), "7 still writes");
        settle.look(ms(1200), seen(20, 8, 9));
        assert_eq!((settle.settled(), settle.due()), (Some(10), ms(2000)));
        settle.look(ms(2000), seen(20, 9, 9));
        assert_eq!((settle.settled(), settle.due()), (Some(20), ms(7000)));
    }

    #[test]
    fn without_lag_and_writers_a_value_is_settled_at_once() {
        let mut settle = Settle::new(ms(0), ms(100));
        settle.look(ms(0), seen(3, 9, 9));
        assert_eq!(settle.settled(), Some(3));
        assert!(!settle.is_caught_up(None) && !settle.is_caught_up(Some(2)) && settle.is_caught_up(Some(3)));
        settle.look(ms(100), seen(8, 9, 10));
        assert_eq!(settle.settled(), Some(3));
        assert!(settle.is_caught_up(Some(3)), "what came later does not count");
    }

    #[test]
    fn an_empty_table_is_caught_up_with_and_read_once_it_has_rows() {
        let mut settle = Settle::new(ms(0), ms(100));
        assert!(!settle.is_caught_up(None), "nobody has looked");
        settle.look(ms(0), seen(None, 9, 9));
        assert!(settle.is_caught_up(None));
        settle.look(ms(100), seen(1, 9, 9));
        assert_eq!(settle.settled(), Some(1));
    }

    #[test]
    fn looks_that_wait_are_bounded() {
        let mut settle = Settle::new(ms(0), ms(1));
        for look in 0..200_u32 {
            settle.look(ms(u64::from(look)), seen(i64::from(look), 1, 2));
        }
        assert_eq!(settle.waiting.len(), WAITING_MAX);
        settle.look(ms(500), seen(200, 9, 9));
        assert_eq!(settle.settled(), Some(63));
        settle.look(ms(501), seen(200, 9, 9));
        assert_eq!(settle.settled(), Some(200));
    }
}

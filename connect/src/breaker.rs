//! The breaker: ends a pipeline when too many of its rows do not fit, since then not the rows are wrong.

use crate::config::StopAfter;
use crate::task::{Class, Slice, TaskError};

/// Counts rows and rejects in windows of at least so many rows.
#[derive(Debug)]
pub(crate) struct Breaker {
    limit: StopAfter,
    rows: u64,
    rejects: u64,
}

impl Breaker {
    pub(crate) const fn new(limit: StopAfter) -> Self {
        Self { limit, rows: 0, rejects: 0 }
    }

    /// Counts what is known of a slice before the target takes it.
    pub(crate) fn count(&mut self, slice: &Slice) -> Result<(), TaskError> {
        let rejects = slice.rejects.len() as u64;
        self.add(slice.envelope.num_rows() as u64 + rejects, rejects, || {
            slice.rejects.last().map_or_else(String::new, |r| format!("{}: {}", r.place, r.reason))
        })
    }

    /// Counts one row that counted as fit and was refused by the target.
    pub(crate) fn refuse(&mut self, reason: &str) -> Result<(), TaskError> {
        self.add(0, 1, || reason.to_owned())
    }

    fn add(&mut self, rows: u64, rejects: u64, last: impl FnOnce() -> String) -> Result<(), TaskError> {
        self.rows += rows;
        self.rejects += rejects;
        if self.rows < self.limit.of {
            return Ok(());
        }
        let (rows, rejects) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.rejects));
        if rejects as f64 <= self.limit.ratio * rows as f64 {
            return Ok(());
        }
        let message = format!(
            "{rejects} of the last {rows} rows do not fit, more than `errors.stop_after` allows ({} of {}); the last \
             one: {}. Rows before them are where they belong; a run goes on from there once the cause is gone",
            self.limit.ratio,
            self.limit.of,
            last()
        );
        Err(TaskError::new(Class::Config, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_trips_above_its_share_and_not_at_it_nor_before_a_window_is_full() {
        let add = |breaker: &mut Breaker, rows, rejects| breaker.add(rows, rejects, || "why".to_owned());
        let limit = StopAfter { ratio: 0.1, of: 100 };
        let mut breaker = Breaker::new(limit);
        assert!(add(&mut breaker, 99, 99).is_ok(), "too few rows to say");
        assert!(add(&mut breaker, 1, 0).unwrap_err().message.contains("99 of the last 100 rows"));
        for _ in 0..10 {
            assert!(add(&mut breaker, 100, 10).is_ok());
        }
        let error = add(&mut breaker, 1000, 101).unwrap_err();
        assert_eq!(error.class, Class::Config);
        assert!(error.message.contains("the last one: why"), "{error}");
        let mut none = Breaker::new(StopAfter { ratio: 0.0, of: 1 });
        assert!(add(&mut none, 5, 0).is_ok() && add(&mut none, 5, 1).is_err());
    }
}

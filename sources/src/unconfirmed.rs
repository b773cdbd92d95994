//! The confirmer of sources that keep no positions.

use sluice_connect::task::{Confirm, TaskError};

/// A source that has nothing to secure and keeps no positions: what it gives can always be made again.
pub(crate) struct Unconfirmed;

impl Confirm for Unconfirmed {
    fn secure(&self, _topic: &str, _queue: i32, _end: i64) -> Result<(), TaskError> {
        Ok(())
    }

    fn confirm(&self, _topic: &str, _queue: i32, _end: i64) -> Result<(), TaskError> {
        Ok(())
    }

    fn confirmed(&self, _topic: &str, _queue: i32) -> Result<Option<i64>, TaskError> {
        Ok(None)
    }
}

//! Statements that clients hold: those that were planned and not fetched yet, and prepared ones with their values.
//! Both are few, and the oldest go first; what is gone is planned, or to be prepared, again.

use std::collections::VecDeque;
use std::time::Duration;

use datafusion::common::ParamValues;
use tokio::time::Instant;

use crate::engine::Planned;

/// Statements that were planned and not fetched.
const PLANNED_MAX: usize = 32;
/// How long such a one stays as it was planned; later it is planned over what is there then.
const PLANNED_AGE_MAX: Duration = Duration::from_secs(60);
/// Prepared statements that are open.
const PREPARED_MAX: usize = 512;

/// By the command that asked for them.
#[derive(Default)]
pub(super) struct Held {
    planned: VecDeque<(Vec<u8>, Planned, Instant)>,
    prepared: VecDeque<(String, Prepared)>,
    handles: u64,
}

/// A prepared statement.
#[derive(Clone)]
pub(super) struct Prepared {
    pub(super) text: String,
    /// The values of its parameters, once they are given.
    pub(super) values: Option<ParamValues>,
}

impl Held {
    pub(super) fn plan(&mut self, command: Vec<u8>, planned: Planned) {
        self.planned.retain(|(_, _, since)| since.elapsed() < PLANNED_AGE_MAX);
        if self.planned.len() >= PLANNED_MAX {
            self.planned.pop_front();
        }
        self.planned.push_back((command, planned, Instant::now()));
    }

    /// Takes what was planned last for a command, if it is not too old.
    pub(super) fn take(&mut self, command: &[u8]) -> Option<Planned> {
        let at = self.planned.iter().rposition(|(of, _, _)| of == command)?;
        let (_, planned, since) = self.planned.remove(at)?;
        (since.elapsed() < PLANNED_AGE_MAX).then_some(planned)
    }

    /// Keeps a statement and gives its handle.
    pub(super) fn prepare(&mut self, text: String) -> String {
        if self.prepared.len() >= PREPARED_MAX {
            self.prepared.pop_front();
        }
        self.handles += 1;
        let handle = self.handles.to_string();
        self.prepared.push_back((handle.clone(), Prepared { text, values: None }));
        handle
    }

    pub(super) fn prepared(&mut self, handle: &[u8]) -> Option<&mut Prepared> {
        self.prepared.iter_mut().find(|(of, _)| of.as_bytes() == handle).map(|(_, prepared)| prepared)
    }

    pub(super) fn close(&mut self, handle: &[u8]) {
        self.prepared.retain(|(of, _)| of.as_bytes() != handle);
    }
}

//! Group commit: one `fdatasync` acknowledges all that waited while the one before it ran.
//!
//! Counts what was written by tickets. Never knows what is written, or where.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::Error;

/// Who syncs, and how far everything is durable.
#[derive(Debug, Default)]
pub(crate) struct GroupCommit {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// All writes up to this ticket are durable.
    durable: u64,
    /// Someone syncs just now.
    running: bool,
}

impl GroupCommit {
    /// Returns when the writes up to `ticket` are durable. `sync` makes durable what is written when it
    /// is called, and says up to which ticket; an error of it goes to the one who called it, and the others
    /// try themselves.
    pub(crate) fn wait(&self, ticket: u64, sync: impl Fn() -> Result<u64, Error>) -> Result<(), Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.durable < ticket {
            if state.running {
                state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.running = true;
            drop(state);
            let synced = sync();
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.running = false;
            if let Ok(durable) = synced {
                state.durable = state.durable.max(durable);
            }
            self.done.notify_all();
            synced?;
        }
        Ok(())
    }
}

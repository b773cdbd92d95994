//! Group commit: one sync acknowledges all that waited while the one before it ran.
//!
//! Who finds no sync running makes it; who comes meanwhile sleeps, and is woken when it is served, or to make
//! the next sync for all who came with it. Counts what was written by tickets; never knows what is written,
//! or where.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};

use crate::Error;

/// Who syncs, and how far everything is durable.
#[derive(Debug, Default)]
pub(crate) struct GroupCommit {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// All writes up to this ticket are durable.
    durable: u64,
    /// Someone syncs, or was woken to do so.
    running: bool,
    waiting: Vec<(u64, Arc<Waiter>)>,
}

#[derive(Debug)]
struct Waiter {
    thread: Thread,
    call: AtomicU8,
}

const WAIT: u8 = 0;
const SERVED: u8 = 1;
const SYNC: u8 = 2;

impl Waiter {
    fn wake(&self, call: u8) {
        self.call.store(call, Ordering::Release);
        self.thread.unpark();
    }
}

impl GroupCommit {
    /// Returns when the writes up to `ticket` are durable. `sync` makes durable what is written when it
    /// is called, and says up to which ticket. An error of it goes to the one who called it; the others
    /// try themselves, one after the other.
    pub(crate) fn wait(&self, ticket: u64, sync: impl Fn() -> Result<u64, Error>) -> Result<(), Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.durable >= ticket {
            return Ok(());
        }
        if state.running {
            let waiter = Arc::new(Waiter { thread: thread::current(), call: AtomicU8::new(WAIT) });
            state.waiting.push((ticket, waiter.clone()));
            drop(state);
            while waiter.call.load(Ordering::Acquire) == WAIT {
                thread::park();
            }
            if waiter.call.load(Ordering::Acquire) == SERVED {
                return Ok(());
            }
        } else {
            state.running = true;
            drop(state);
        }
        let synced = sync();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(durable) = synced {
            state.durable = state.durable.max(durable);
        }
        let durable = state.durable;
        let (served, waiting) = std::mem::take(&mut state.waiting).into_iter().partition(|w| w.0 <= durable);
        state.waiting = waiting;
        // One of those who are left makes the next sync at once, for all of them.
        let next = state.waiting.pop();
        state.running = next.is_some();
        drop(state);
        if let Some((_, next)) = next {
            next.wake(SYNC);
        }
        let served: Vec<(u64, Arc<Waiter>)> = served;
        for (_, waiter) in served {
            waiter.wake(SERVED);
        }
        synced.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_waiter_is_served_by_a_sync_that_began_after_its_write() {
        let (group, written, synced) = (GroupCommit::default(), AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let ticket = written.fetch_add(1, Ordering::SeqCst) + 1;
                        let sync = || {
                            let covered = written.load(Ordering::SeqCst);
                            thread::yield_now();
                            synced.fetch_max(covered, Ordering::SeqCst);
                            Ok(covered)
                        };
                        group.wait(ticket, sync).unwrap();
                        assert!(synced.load(Ordering::SeqCst) >= ticket);
                    }
                });
            }
        });
        assert_eq!(synced.load(Ordering::SeqCst), 3200);
    }

    #[test]
    fn an_error_reaches_every_waiter() {
        let group = GroupCommit::default();
        let failed = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let sync = || {
                        thread::yield_now();
                        Err(Error::Closed { dir: "d".into() })
                    };
                    failed.fetch_add(u64::from(group.wait(1, sync).is_err()), Ordering::SeqCst);
                });
            }
        });
        assert_eq!(failed.load(Ordering::SeqCst), 8);
    }
}

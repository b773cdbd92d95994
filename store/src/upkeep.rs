//! The store's one thread: flushes, makes the next segment ahead, writes checkpoints, drops what expired.
//!
//! It only calls what any thread may call; without it everything still works, by the caller's hand.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use crate::commit_log::CommitLog;
use crate::retention_time::RetentionTime;
use crate::{Error, Flush};

/// Time between two checkpoints, and between two looks at what expired.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(10);
/// Longest sleep, so that checkpoints come in time.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What the thread is woken for.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    wishes: Mutex<Wish>,
    wake: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    rolled: bool,
    stop: bool,
}

impl Wishes {
    /// A segment is full: the next one is wanted, and a checkpoint.
    pub(crate) fn rolled(&self) {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner).rolled = true;
        self.wake.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.wake.notify_one();
    }

    fn wait(&self, timeout: Duration) -> Wish {
        let wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.wake.wait_timeout_while(wishes, timeout, |w| !w.rolled && !w.stop);
        let mut wishes = waited.unwrap_or_else(PoisonError::into_inner).0;
        let wish = *wishes;
        wishes.rolled = false;
        wish
    }
}

/// Starts the thread.
pub(crate) fn start(log: Arc<CommitLog>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("sluice-store".into()).spawn(move || run(&log))
}

#[expect(clippy::disallowed_methods, reason = "what comes now and then must come when the clock is set, too")]
fn run(log: &CommitLog) {
    let sleep = match log.flush {
        Flush::Async { interval } => interval.clamp(Duration::from_millis(1), SLEEP_MAX),
        Flush::Sync => SLEEP_MAX,
    };
    let mut last = Instant::now();
    let mut time = RetentionTime::new((log.clock)(), last);
    make_ahead(log);
    loop {
        let wish = log.wishes.wait(sleep);
        if wish.stop {
            return;
        }
        make_ahead(log);
        if log.flush != Flush::Sync {
            report("flush", log.flush());
        }
        let now = Instant::now();
        if wish.rolled || now.duration_since(last) >= CHECKPOINT_EVERY {
            report("checkpoint", log.checkpoint());
            let now_ms = time.now_ms((log.clock)(), now, log.retention.age.unwrap_or_default());
            report("retention", log.retain(now_ms).map(drop));
            last = now;
        }
    }
}

/// Makes the next segment. Where that fails the append that needs it tries itself, and says why.
fn make_ahead(log: &CommitLog) {
    let Ok(start) = log.lock_open().map(|state| state.active.segment.end()) else { return };
    let mut ahead = log.ahead.lock().unwrap_or_else(PoisonError::into_inner);
    if ahead.as_ref().is_some_and(|next| next.segment.start() >= start) {
        return;
    }
    match log.create_segment(start) {
        Ok(next) => *ahead = Some(next),
        Err(error) => tracing::debug!(%error, log_offset = start, "could not make a segment ahead"),
    }
}

fn report(task: &'static str, done: Result<(), Error>) {
    match done {
        // What poisoned the store was said when it happened.
        Ok(()) | Err(Error::Poisoned { .. } | Error::Closed { .. }) => {}
        Err(error) => tracing::warn!(%error, task, "upkeep of the store failed, it will be tried again"),
    }
}

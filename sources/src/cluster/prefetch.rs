//! Pulls one queue ahead of its reader, within a bound of bytes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sluice_client::{Error, Fetched, QueueReader};
use sluice_connect::task::Range;
use sluice_protocol::id::LogOffset;
use sluice_protocol::record;
use sluice_store::Run;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::arrivals::Arrivals;

/// The wait after a pull that found nothing at once, although the broker could have held it.
const PAUSE_EMPTY: Duration = Duration::from_millis(20);

/// What one pull brought.
struct Pull {
    start: i64,
    next: i64,
    bytes: Bytes,
}

/// Why a queue is pulled no further.
#[derive(Clone)]
enum End {
    Failed(Error),
    /// The next offset is not in the queue; the nearest one that is.
    Moved(i64),
}

struct State {
    pulls: VecDeque<Pull>,
    held: usize,
    /// Where the next pull starts.
    next: i64,
    max_offset: i64,
    end: Option<End>,
}

struct Shared {
    state: Mutex<State>,
    /// Something was released.
    room: Notify,
}

/// One queue's pulls. Ends with its owner.
pub(super) struct Prefetch {
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// Records of successive pulls.
pub(super) struct Pulled {
    pub(super) runs: Vec<Run>,
    /// The first offset that they do not account for.
    pub(super) end: i64,
    pub(super) max_offset: i64,
    /// The asked offset is not in the queue; the nearest one that is.
    pub(super) moved: Option<i64>,
}

impl Prefetch {
    /// Begins at an offset and holds about `bytes_max`.
    pub(super) fn start(
        runtime: &Runtime,
        reader: QueueReader,
        offset: i64,
        bytes_max: usize,
        arrivals: &Arc<Arrivals>,
    ) -> Self {
        let state = State { pulls: VecDeque::new(), held: 0, next: offset, max_offset: 0, end: None };
        let shared = Arc::new(Shared { state: Mutex::new(state), room: Notify::new() });
        let task = run(reader, Arc::clone(&shared), bytes_max, Arc::clone(arrivals));
        Self { shared, task: runtime.spawn(task).abort_handle() }
    }

    /// Whether a read may go on at that offset.
    pub(super) fn reaches(&self, offset: i64) -> bool {
        let state = lock(&self.shared.state);
        let first = state.pulls.front().map_or(state.next, |pull| pull.start);
        (first..=state.next).contains(&offset)
    }

    /// What was pulled of a range, about `bytes_max` of it; `None` if it is yet to come.
    pub(super) fn take(&self, range: Range, bytes_max: usize) -> Result<Option<Pulled>, Error> {
        let state = lock(&self.shared.state);
        let max_offset = state.max_offset;
        let mut pulled = Pulled { runs: Vec::new(), end: range.start, max_offset, moved: None };
        let mut bytes = 0;
        for pull in state.pulls.iter().filter(|pull| pull.next > range.start) {
            if bytes >= bytes_max || pull.start >= range.end {
                break;
            }
            bytes += pull.bytes.len();
            pulled.end = pull.next.min(range.end);
            if let Some(Ok(first)) = record::records(&pull.bytes).next() {
                let log_offset = LogOffset::new(first.log_offset);
                pulled.runs.push(Run { bytes: pull.bytes.clone(), log_offset });
            }
        }
        if pulled.end > range.start {
            return Ok(Some(pulled));
        }
        match &state.end {
            None => Ok(None),
            Some(End::Failed(error)) => Err(error.clone()),
            Some(End::Moved(nearest)) => Ok(Some(Pulled { moved: Some(*nearest), ..pulled })),
        }
    }

    /// Drops what lies before an offset.
    pub(super) fn release(&self, offset: i64) {
        let mut state = lock(&self.shared.state);
        while let Some(pull) = state.pulls.pop_front_if(|pull| pull.next <= offset) {
            state.held -= pull.bytes.len();
        }
        drop(state);
        self.shared.room.notify_one();
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(reader: QueueReader, shared: Arc<Shared>, bytes_max: usize, arrivals: Arc<Arrivals>) {
    let mut offset = lock(&shared.state).next;
    loop {
        while lock(&shared.state).held >= bytes_max {
            shared.room.notified().await;
        }
        let begun = Instant::now();
        let fetched = reader.fetch(offset).await;
        let next = lock(&shared.state).add(offset, fetched);
        arrivals.add();
        match next {
            None => return,
            Some(next) if next == offset && begun.elapsed() < PAUSE_EMPTY => {
                tokio::time::sleep(PAUSE_EMPTY).await;
            }
            Some(next) => offset = next,
        }
    }
}

impl State {
    /// Takes what a pull from an offset on brought; where the next one starts, unless that was the last one.
    fn add(&mut self, offset: i64, fetched: Result<Fetched, Error>) -> Option<i64> {
        let fetched = match fetched {
            Err(error) => {
                self.end = Some(End::Failed(error));
                return None;
            }
            Ok(fetched) if fetched.moved || fetched.next_offset < offset => {
                self.end = Some(End::Moved(fetched.next_offset));
                return None;
            }
            Ok(fetched) => fetched,
        };
        self.max_offset = fetched.max_offset;
        if fetched.next_offset > offset {
            self.held += fetched.bytes.len();
            self.next = fetched.next_offset;
            self.pulls.push_back(Pull { start: offset, next: self.next, bytes: fetched.bytes });
        }
        Some(self.next)
    }
}

/// What these locks protect is changed by single assignments, so it is whole even if a thread panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The limit of open files: raised at the start, and divided so that connections never take what the store needs.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::Semaphore;

/// Open files that are left to the store: consume queues most of all, of which it keeps 512 open.
const STORE_FILES: u64 = 640;

/// Lets this process open as many files as the system allows it. Clients are many, and each is one.
pub fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files can not be raised");
    }
}

/// How many connections may be open at a time.
pub(crate) fn connections_max() -> usize {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    let most = limit.saturating_sub(STORE_FILES).max(limit / 4);
    usize::try_from(most).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)
}

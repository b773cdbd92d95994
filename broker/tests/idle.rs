//! Five thousand clients that have nothing to say: what each costs, and one beside them that works.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod support;

use nix::sys::resource::{Resource, getrlimit};
use peak_alloc::PeakAlloc;
use sluice_protocol::code::{RequestCode as C, ResponseCode as R};
use sluice_protocol::request;

use support::{Client, TestBroker};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

const CLIENTS: u64 = 5000;
/// What each may cost at both ends together: the broker's task and two halves of a socket, the client's part.
const CLIENT_BYTES_MAX: usize = 5 * 1024;

/// Memory of the process that is no file's, in bytes, as the system counts it.
fn anonymous_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<usize>().unwrap() * 1024
}

#[test]
fn five_thousand_idle_clients_cost_little_and_hold_nobody_up() {
    sluice_broker::raise_open_files();
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // Both ends are in this process, and the broker leaves files to its store.
    if limit < 2 * CLIENTS + 2000 {
        eprintln!(
            "SKIPPED: {CLIENTS} clients need {} open files, this system allows {limit}",
            2 * CLIENTS + 2000
        );
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut working = broker.client();
    assert_eq!(working.send("t", 0, "m", &[]).code, R::SUCCESS);
    let (allocated, anonymous) = (ALLOCATED.current_usage(), anonymous_bytes());
    let mut idle: Vec<Client> = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = broker.client();
        // Each was heard once, so that what a request needs was there, and is gone again.
        let ends = request::GetMaxOffset { topic: "t", queue_id: 0, committed: None };
        assert_eq!(client.call(C::GET_MAX_OFFSET, ends.fields(), &[]).code, R::SUCCESS);
        idle.push(client);
    }
    let each = |bytes: usize| bytes / usize::try_from(CLIENTS).unwrap();
    let allocated = each(ALLOCATED.current_usage() - allocated);
    let anonymous = each(anonymous_bytes().saturating_sub(anonymous));
    println!("{CLIENTS} idle clients: {allocated} bytes allocated each, {anonymous} bytes of RssAnon");
    assert!(allocated < CLIENT_BYTES_MAX, "{allocated} bytes each");
    assert!(anonymous < 2 * CLIENT_BYTES_MAX, "{anonymous} bytes of RssAnon each");
    for number in 0..200 {
        assert_eq!(working.send("t", 0, "m", &[]).field("queueOffset"), (number + 1).to_string());
    }
    assert_eq!(working.pull("t", 0, 190, ("TAG", "*"), 0).messages().len(), 11);
    // They are still there.
    for client in idle.iter_mut().step_by(500) {
        assert_eq!(client.send("t", 0, "m", &[]).code, R::SUCCESS);
    }
}

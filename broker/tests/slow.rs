//! Clients that are slow, deaf or dead: what the broker holds for them is bounded, and others do not notice.
//!
//! Bytes are those that this process has allocated, client and broker together.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod support;

use std::io::{ErrorKind, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peak_alloc::PeakAlloc;
use sluice_protocol::code::{RequestCode as C, ResponseCode as R};
use sluice_protocol::id::{QueueId, TopicName};
use sluice_protocol::message::Message;
use sluice_store::file::RealDisk;
use sluice_store::{Batch, Flush, Settings, Store};
use sluice_testkit::{FaultyDisk, ManualClock, scratch};
use tempfile::TempDir;

use support::{Client, TestBroker, encoded, pull_header, send_header};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;
/// What one client that does not read may cost: 4 MiB of answers in buffers that grow by doubling, what was read of
/// it, and what goes on beside.
const DEAF_BYTES_MAX: usize = 32 * MIB;

/// Tests that count bytes run one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    ALLOCATED.reset_peak_usage();
    alone
}

/// Sends of another client while nothing more is taken: then it is not slow, but stopped.
const STALLS: usize = 500;

/// Writes `bytes` again and again until the broker takes no more and adds nothing to topic `t`, or so often.
fn write_deaf(deaf: &mut Client, bytes: &[u8], times: usize, broker: &TestBroker) -> usize {
    let mut other = broker.client();
    deaf.stream.set_nonblocking(true).unwrap();
    let end = || broker.store.offsets(&TopicName::new("t").unwrap(), QueueId::ZERO);
    let (mut written, mut stalls, mut before) = (0, 0, None);
    while written < times * bytes.len() && stalls < STALLS {
        match deaf.stream.write(&bytes[written % bytes.len()..]) {
            Ok(len) => (written, stalls) = (written + len, 0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                assert_eq!(other.send("other", 0, "m", &[]).code, R::SUCCESS);
                let now = end();
                stalls = if now == before { stalls + 1 } else { 0 };
                before = now;
            }
        }
    }
    written / bytes.len()
}

/// Messages of 8 KiB by turns in queues 0 and 1: an answer of them is copied together.
fn by_turns(store: &Store, count: usize) {
    let topic = TopicName::new("t").unwrap();
    store.create_topic(&topic, 2).unwrap();
    let mut batch = Batch::new();
    for queue in (0..2 * count).map(|number| QueueId::new((number % 2) as i32).unwrap()) {
        let message = Message { body: &[7; 8192], ..Message::default() };
        batch.push(&topic, queue, &message).unwrap();
    }
    store.append(batch).unwrap();
}

#[test]
fn a_client_that_sends_one_byte_at_a_time_is_served_and_costs_others_nothing() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let (mut slow, mut other) = (broker.client(), broker.client());
    slow.stream.set_nodelay(true).unwrap();
    let properties = encoded(&[]);
    let (bytes, opaque) =
        slow.encode(C::SEND_MESSAGE_V2, send_header("t", 0, &properties).fields(), &[7; 1000]);
    for (number, byte) in bytes.iter().enumerate() {
        slow.write(&[*byte]);
        if number % 20 == 0 {
            assert_eq!(other.send("t", 1, "m", &[]).code, R::SUCCESS);
        }
    }
    let answer = slow.read().unwrap();
    assert_eq!((answer.opaque, answer.code), (opaque, R::SUCCESS));
    assert_eq!(other.pull("t", 0, 0, ("TAG", "*"), 0).messages().len(), 1);
}

#[test]
fn what_is_announced_and_does_not_come_takes_no_memory_and_what_came_goes_with_its_client() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut other = broker.client();
    other.send("t", 0, "m", &[]);
    let before = ALLOCATED.current_usage();
    // 15 MiB each, of which a hundred bytes come.
    let mut announced = b"\0\xf0\0\0\0\0\0\x20".to_vec();
    announced.resize(100, b'{');
    let clients: Vec<Client> = (0..200)
        .map(|_| {
            let mut client = broker.client();
            client.write(&announced);
            client
        })
        .collect();
    let mut two_gib = broker.client();
    two_gib.write(b"\x7f\xff\xff\xff\0\0\0\0");
    assert!(two_gib.read().is_none(), "it is told by the end of its connection");
    // Half of a large message, and no more.
    let mut half = broker.client();
    let properties = encoded(&[]);
    let body = vec![7; 4 * MIB];
    let (bytes, _) = half.encode(C::SEND_MESSAGE_V2, send_header("t", 0, &properties).fields(), &body);
    half.write(&bytes[..bytes.len() / 2]);
    drop((bytes, body));
    let held = || ALLOCATED.current_usage().saturating_sub(before);
    for _ in 0..100 {
        assert_eq!(other.send("t", 0, "m", &[]).code, R::SUCCESS);
    }
    assert!(held() < 200 * 24 * 1024 + 8 * MIB, "{} bytes", held());
    drop((clients, half));
    while held() > MIB {
        assert_eq!(other.send("t", 0, "m", &[]).code, R::SUCCESS);
    }
}

#[test]
fn acknowledgements_that_nobody_reads_stop_their_sender_in_both_flush_modes() {
    let _alone = alone();
    for sync in [false, true] {
        let root = scratch().unwrap();
        let mut settings = Settings::embedded(root.path());
        settings.flush = if sync { Flush::Sync } else { settings.flush };
        let clock = ManualClock::new(1_700_000_000_000).clock();
        let store = Store::open(settings, Arc::new(RealDisk), clock).unwrap();
        let broker = TestBroker::over(store, sync, |_| {});
        let mut deaf = broker.client();
        // The answer repeats a message's key.
        let properties = encoded(&[("UNIQ_KEY", &"k".repeat(30_000))]);
        let header = send_header("t", 0, &properties);
        let (bytes, _) = deaf.encode(C::SEND_MESSAGE_V2, header.fields(), b"m");
        ALLOCATED.reset_peak_usage();
        let before = ALLOCATED.current_usage();
        let times = 4000;
        assert!(write_deaf(&mut deaf, &bytes, times, &broker) < times, "it is never stopped");
        let peak = ALLOCATED.peak_usage() - before;
        assert!(peak < DEAF_BYTES_MAX, "{peak} bytes, sync {sync}");
    }
}

/// A broker on a disk that takes no time.
fn quick_broker() -> (TempDir, TestBroker) {
    let root = scratch().unwrap();
    let clock = ManualClock::new(1_700_000_000_000).clock();
    let settings = Settings::embedded(root.path());
    let store = Store::open_without_upkeep(settings, Arc::new(FaultyDisk::new()), clock).unwrap();
    (root, TestBroker::over(store, false, |_| {}))
}

/// A client of which much is read at once, as a large message came before.
fn eager(broker: &TestBroker) -> Client {
    let mut client = broker.client();
    for _ in 0..4 {
        assert_eq!(client.send("other", 0, &"m".repeat(2 * MIB), &[]).code, R::SUCCESS);
    }
    client
}

#[test]
fn answers_to_pulls_that_nobody_reads_are_not_collected() {
    let _alone = alone();
    let (_root, broker) = quick_broker();
    by_turns(&broker.store, 100);
    let mut deaf = eager(&broker);
    let pull = pull_header("t", 0, 0, ("TAG", "*"), 0);
    let (bytes, _) = deaf.encode(C::PULL_MESSAGE, pull.fields(), &[]);
    ALLOCATED.reset_peak_usage();
    let before = ALLOCATED.current_usage();
    // As many as one read of the socket takes; the answer of each has 256 KiB.
    let (many, times) = (bytes.repeat(1000), 400);
    assert!(write_deaf(&mut deaf, &many, times, &broker) < times, "it is never stopped");
    let peak = ALLOCATED.peak_usage() - before;
    assert!(peak < DEAF_BYTES_MAX, "{peak} bytes");
}

#[test]
fn held_pulls_of_a_client_that_does_not_read_are_answered_a_few_at_a_time() {
    let _alone = alone();
    let (_root, broker) = quick_broker();
    by_turns(&broker.store, 1);
    let (mut deaf, mut other) = (broker.client(), broker.client());
    let pull = pull_header("t", 0, 1, ("TAG", "*"), 60_000);
    for _ in 0..1000 {
        let (bytes, _) = deaf.encode(C::PULL_MESSAGE, pull.fields(), &[]);
        deaf.write(&bytes);
    }
    // An answer to this one means that the pulls before it are held.
    let ended = deaf.pull("t", 0, 0, ("TAG", "*"), 0);
    assert_eq!(ended.code, R::SUCCESS);
    let before = ALLOCATED.current_usage();
    by_turns(&broker.store, 40);
    ALLOCATED.reset_peak_usage();
    for _ in 0..300 {
        // Each wakes those that are held.
        assert_eq!(other.send("t", 0, "m", &[]).code, R::SUCCESS);
    }
    let peak = ALLOCATED.peak_usage() - before;
    assert!(peak < DEAF_BYTES_MAX, "{peak} bytes");
}

#[test]
fn held_pulls_go_with_their_client() {
    let _alone = alone();
    let (_root, broker) = quick_broker();
    let mut other = broker.client();
    assert_eq!(other.send("t", 0, "m", &[]).code, R::SUCCESS);
    let before = ALLOCATED.current_usage();
    for _ in 0..3 {
        let mut client = broker.client();
        let pull = pull_header("t", 0, 1, ("TAG", "*"), 60_000);
        for _ in 0..2000 {
            let (bytes, _) = client.encode(C::PULL_MESSAGE, pull.fields(), &[]);
            client.write(&bytes);
        }
        assert_eq!(client.pull("t", 0, 0, ("TAG", "*"), 0).code, R::SUCCESS);
        assert!(ALLOCATED.current_usage() - before > 2000 * 500, "they are held");
        drop(client);
        // Asks and stores nothing: the test's disk keeps what is written in memory.
        let gone = (0..50_000).any(|_| {
            assert_eq!(other.pull("t", 0, 0, ("TAG", "*"), 0).code, R::SUCCESS);
            ALLOCATED.current_usage().saturating_sub(before) < 2000 * 100
        });
        assert!(gone, "{} bytes are held", ALLOCATED.current_usage() - before);
    }
}

#[test]
fn cold_pulls_that_nobody_reads_stop_their_client() {
    let _alone = alone();
    let root = scratch().unwrap();
    let clock = ManualClock::new(1_700_000_000_000).clock();
    let settings = Settings::embedded(root.path());
    let store = Store::open_without_upkeep(settings, Arc::new(RealDisk), clock).unwrap();
    by_turns(&store, 100);
    let later = TopicName::new("later").unwrap();
    store.create_topic(&later, 1).unwrap();
    let body = vec![7; 4 * MIB];
    for _ in 0..70 {
        let mut batch = Batch::new();
        batch.push(&later, QueueId::ZERO, &Message { body: &body, ..Message::default() }).unwrap();
        store.append(batch).unwrap();
    }
    drop(body);
    let broker = TestBroker::over(store, false, |_| {});
    let mut deaf = broker.client();
    let pull = pull_header("t", 0, 0, ("TAG", "*"), 0);
    let (bytes, _) = deaf.encode(C::PULL_MESSAGE, pull.fields(), &[]);
    ALLOCATED.reset_peak_usage();
    let before = ALLOCATED.current_usage();
    let times = 200_000;
    assert!(write_deaf(&mut deaf, &bytes, times, &broker) < times, "it is never stopped");
    let peak = ALLOCATED.peak_usage() - before;
    assert!(peak < DEAF_BYTES_MAX, "{peak} bytes");
    // Who reads gets all of them.
    let mut reader = broker.client();
    for _ in 0..50 {
        let (bytes, _) = reader.encode(C::PULL_MESSAGE, pull.fields(), &[]);
        reader.write(&bytes);
    }
    for _ in 0..50 {
        assert_eq!(reader.read().unwrap().code, R::SUCCESS);
    }
}

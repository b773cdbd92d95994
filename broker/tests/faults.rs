//! A disk that is full or fails, and a clock that is set: what clients are told, and how it goes on.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod support;

use nix::errno::Errno;
use sluice_protocol::code::{RequestCode as C, ResponseCode as R};
use sluice_protocol::record::records;
use sluice_protocol::request::{self, pull_flag};
use sluice_testkit::{Call, FaultyDisk, PowerLoss};

use support::place::Place;
use support::{Client, Response, encoded, pull_header, send_header};

const HOUR_MS: i64 = 3_600_000;

/// All messages of queue 0.
fn bodies(client: &mut Client) -> Vec<String> {
    let mut bodies = Vec::new();
    loop {
        let pulled = client.pull("t", 0, bodies.len() as i64, ("TAG", "*"), 0);
        if pulled.code == R::PULL_NOT_FOUND {
            return bodies;
        }
        assert_eq!(pulled.code, R::SUCCESS, "{}", pulled.remark);
        bodies.extend(pulled.messages().into_iter().map(|(_, body)| body));
    }
}

#[track_caller]
fn check_refused(response: &Response, words: &[&str]) {
    // What clients take as: ask another broker.
    assert_eq!(response.code, R::SERVICE_NOT_AVAILABLE, "{}", response.remark);
    for word in words {
        assert!(response.remark.contains(word), "{word:?} is not in {:?}", response.remark);
    }
}

fn commit(client: &mut Client, commit_offset: i64) -> Response {
    let commit =
        request::UpdateConsumerOffset { consumer_group: "readers", topic: "t", queue_id: 0, commit_offset };
    client.call(C::UPDATE_CONSUMER_OFFSET, commit.fields(), &[])
}

fn committed(client: &mut Client) -> String {
    let query = request::QueryConsumerOffset {
        consumer_group: "readers",
        topic: "t",
        queue_id: 0,
        set_zero_if_not_found: None,
    };
    client.call(C::QUERY_CONSUMER_OFFSET, query.fields(), &[]).field("offset").to_owned()
}

#[test]
fn a_full_disk_is_said_while_consumers_go_on_and_all_goes_on_when_there_is_space() {
    for sync in [false, true] {
        let place = Place::new(sync);
        let disk = FaultyDisk::new();
        let broker = place.start(&disk);
        let mut client = broker.client();
        let mut acknowledged = Vec::new();
        let mut send = |client: &mut Client, number: usize| {
            let body = format!("{number} {}", "x".repeat(5000));
            let sent = client.send("t", 0, &body, &[]);
            if sent.code == R::SUCCESS {
                assert_eq!(sent.field("queueOffset"), acknowledged.len().to_string());
                acknowledged.push(body);
            }
            sent
        };
        for number in 0..20 {
            assert_eq!(send(&mut client, number).code, R::SUCCESS);
        }
        assert_eq!(client.heartbeat("c", "readers", "t", "TAG", "*").code, R::SUCCESS);
        disk.set_full(true);
        let words = ["no space left to", "No space left on device", "free some"];
        let first = (20..100).find(|number| send(&mut client, *number).code != R::SUCCESS).unwrap();
        for number in first..first + 10 {
            check_refused(&send(&mut client, number), &words);
        }
        let offset = (1..5000).find(|offset| commit(&mut client, *offset).code != R::SUCCESS).unwrap();
        check_refused(&commit(&mut client, offset), &["no space left to", "free some"]);
        assert_eq!(committed(&mut client), (offset - 1).to_string());
        check_refused(&client.send("new", 0, "m", &[]), &["no space left to"]);
        // A push consumer commits as it pulls.
        let mut pull = pull_header("t", 0, 0, ("TAG", "*"), 0);
        (pull.sys_flag, pull.commit_offset) = (pull.sys_flag | pull_flag::COMMIT, offset + 1);
        let pulled = client.call(C::PULL_MESSAGE, pull.fields(), &[]);
        assert_eq!(pulled.code, R::SUCCESS, "{}", pulled.remark);
        assert_eq!(pulled.messages()[0].0, 0);
        assert_eq!(client.heartbeat("c", "readers", "t", "TAG", "*").code, R::SUCCESS);
        disk.set_full(false);
        for number in first..first + 10 {
            let sent = send(&mut client, number);
            assert_eq!(sent.code, R::SUCCESS, "{}", sent.remark);
        }
        assert_eq!(commit(&mut client, offset).code, R::SUCCESS);
        assert_eq!(client.send("new", 0, "m", &[]).code, R::SUCCESS);
        assert!(bodies(&mut client) == acknowledged, "not what was acknowledged");
        if !sync {
            broker.store.flush().unwrap();
        }
        disk.power_off_after(0);
        broker.end();
        disk.crash(1, PowerLoss::Forget);
        let broker = place.start(&FaultyDisk::new());
        let mut client = broker.client();
        assert!(bodies(&mut client) == acknowledged, "not what was acknowledged, after a power loss");
        assert_eq!(committed(&mut client), offset.min(acknowledged.len() as i64).to_string());
    }
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_or_shown_until_the_broker_is_started_again() {
    let place = Place::new(true);
    let disk = FaultyDisk::new();
    let broker = place.start(&disk);
    let (mut client, mut reader) = (broker.client(), broker.client());
    assert_eq!(client.send("t", 0, "a", &[]).code, R::SUCCESS);
    assert_eq!(reader.heartbeat("c", "readers", "t", "TAG", "*").code, R::SUCCESS);
    let held = pull_header("t", 0, 1, ("TAG", "*"), 1000);
    let (bytes, _) = reader.encode(C::PULL_MESSAGE, held.fields(), &[]);
    reader.write(&bytes);
    disk.fail(Call::Sync, 1, Errno::EIO);
    let properties = encoded(&[]);
    let header = send_header("t", 0, &properties);
    let many: Vec<(Vec<u8>, i32)> =
        (0..50).map(|_| client.encode(C::SEND_MESSAGE_V2, header.fields(), b"lost")).collect();
    client.write(&many.iter().flat_map(|(bytes, _)| bytes.clone()).collect::<Vec<u8>>());
    let words = ["takes no more writes", "failed to sync", "start the broker again"];
    let mut answered = Vec::new();
    for _ in &many {
        let response = client.read().unwrap();
        check_refused(&response, &words);
        answered.push(response.opaque);
    }
    answered.sort_unstable();
    assert!(answered == many.iter().map(|(_, opaque)| *opaque).collect::<Vec<_>>(), "each is told");
    check_refused(&client.send("t", 0, "b", &[]), &words);
    check_refused(&client.send("new", 0, "b", &[]), &words);
    check_refused(&commit(&mut client, 1), &words);
    assert_eq!(reader.read().unwrap().code, R::PULL_NOT_FOUND, "it was held, and nothing came");
    assert_eq!(bodies(&mut client), ["a"]);
    disk.power_off_after(0);
    broker.end();
    // The process starts again on the same machine: what it shows now stays, although the system believes that
    // what the sync failed to write is on the disk.
    let disk = disk.restarted();
    let broker = place.start(&disk);
    let mut client = broker.client();
    assert_eq!(client.send("t", 0, "c", &[]).code, R::SUCCESS);
    let shown = bodies(&mut client);
    assert_eq!((shown.first().unwrap().as_str(), shown.last().unwrap().as_str()), ("a", "c"));
    disk.power_off_after(0);
    broker.end();
    disk.crash(1, PowerLoss::Forget);
    let broker = place.start(&FaultyDisk::new());
    assert_eq!(bodies(&mut broker.client()), shown);
}

#[test]
fn with_async_flush_a_failed_sync_stops_the_acknowledgements_that_follow() {
    let place = Place::new(false);
    let disk = FaultyDisk::new();
    let broker = place.start(&disk);
    let mut client = broker.client();
    assert_eq!(client.send("t", 0, "a", &[]).code, R::SUCCESS);
    // A group that pulls for the first time is made, which a failed disk would refuse.
    assert_eq!(bodies(&mut client), ["a"]);
    assert_eq!(client.send("t", 0, "b", &[]).code, R::SUCCESS);
    disk.fail(Call::Sync, 1, Errno::EIO);
    assert!(broker.store.flush().is_err());
    check_refused(&client.send("t", 0, "c", &[]), &["failed to sync", "start the broker again"]);
    assert_eq!(bodies(&mut client), ["a", "b"]);
    broker.end();
}

#[test]
fn a_clock_set_an_hour_forward_or_back_moves_no_lookup_and_no_held_pull() {
    for jump in [HOUR_MS, -HOUR_MS] {
        let place = Place::new(false);
        let broker = place.start(&FaultyDisk::new());
        let (mut client, mut reader) = (broker.client(), broker.client());
        let mut sent = 1;
        let mut hold = |client: &mut Client, jump: i64| {
            let (bytes, _) =
                reader.encode(C::PULL_MESSAGE, pull_header("t", 0, sent, ("TAG", "*"), 15_000).fields(), &[]);
            reader.write(&bytes);
            place.clock.advance_ms(jump);
            assert_eq!(client.send("t", 0, "m", &[]).code, R::SUCCESS);
            assert_eq!(reader.read().unwrap().messages().len(), 1);
            sent += 1;
            // One whose time is over ends by the time that passes.
            assert_eq!(client.pull("t", 0, sent, ("TAG", "*"), 20).code, R::PULL_NOT_FOUND);
        };
        assert_eq!(client.send("other", 0, "m", &[]).code, R::SUCCESS);
        assert_eq!(client.send("t", 0, "m", &[]).code, R::SUCCESS);
        hold(&mut client, 1000);
        hold(&mut client, jump);
        hold(&mut client, 1000);
        hold(&mut client, -jump);
        hold(&mut client, 1000);
        let pulled = client.pull("t", 0, 0, ("TAG", "*"), 0);
        let times: Vec<i64> = records(&pulled.body).map(|r| r.unwrap().store_timestamp_ms).collect();
        assert!(times.is_sorted(), "{times:?}");
        for time in &times {
            let first = times.iter().position(|t| t == time).unwrap();
            let search =
                request::SearchOffset { topic: "t", queue_id: 0, timestamp: *time, boundary_type: None };
            let found = client.call(C::SEARCH_OFFSET_BY_TIMESTAMP, search.fields(), &[]);
            assert_eq!(found.field("offset"), first.to_string(), "{times:?}");
        }
    }
}

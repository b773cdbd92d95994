//! Half messages: committed, taken back, asked for, given up, across restarts.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a failure is a failed test")]

mod support;

use std::path::Path;
use std::time::Duration;

use sluice_broker::TransactionCheck;
use sluice_protocol::code::{RequestCode as C, ResponseCode as R};
use sluice_protocol::fields::Fields;
use sluice_protocol::heartbeat::{Heartbeat, ProducerData};
use sluice_protocol::message::property;
use sluice_protocol::message_id::MessageId;
use sluice_protocol::record::Record;
use sluice_protocol::request;

use support::{Client, Response, TestBroker};

const COMMIT: i32 = 8;
const ROLLBACK: i32 = 12;
const UNKNOWN: i32 = 0;

/// Where a half stands: queue offset and log offset.
type Half = (i64, i64);

fn start(dir: &Path, times: u32) -> TestBroker {
    let (after, every) = (Duration::ZERO, Duration::from_millis(20));
    TestBroker::with(dir, false, |settings| {
        settings.transaction_check = TransactionCheck { after, every, times }
    })
}

/// A broker that never asks.
fn silent(dir: &Path, sync: bool) -> TestBroker {
    TestBroker::start(dir, sync)
}

fn send_half(client: &mut Client, body: &str) -> Half {
    let sent =
        client.send("t", 1, body, &[("TRAN_MSG", "true"), ("PGROUP", "p"), ("UNIQ_KEY", body), ("k", "v")]);
    assert_eq!((sent.code, sent.field("queueId"), sent.field("transactionId")), (R::SUCCESS, "1", body));
    let id: MessageId = sent.field("msgId").parse().unwrap();
    (sent.field("queueOffset").parse().unwrap(), i64::try_from(id.log_offset.get()).unwrap())
}

fn end(client: &mut Client, half: Half, how: i32) -> Response {
    end_as(client, half, how, "p")
}

fn end_as(client: &mut Client, half: Half, how: i32, group: &str) -> Response {
    let end = request::EndTransaction {
        producer_group: group,
        tran_state_table_offset: half.0,
        commit_log_offset: half.1,
        commit_or_rollback: how,
        from_transaction_check: false,
        msg_id: "",
        transaction_id: None,
        topic: None,
    };
    client.call(C::END_TRANSACTION, end.fields(), &[])
}

fn join(client: &mut Client) {
    join_as(client, "c");
}

fn join_as(client: &mut Client, id: &str) {
    let producer = ProducerData { group_name: "p".to_owned() };
    let beat =
        Heartbeat { client_id: id.to_owned(), producer_data_set: vec![producer], ..Heartbeat::default() };
    assert_eq!(client.call(C::HEART_BEAT, Fields::new(), &beat.encode()).code, R::SUCCESS);
}

/// The next question of the broker: where the half stands now, and the message's record.
fn asked(client: &mut Client) -> (Half, Vec<u8>) {
    let asked = client.read().unwrap();
    assert!(asked.is_request && asked.code.0 == C::CHECK_TRANSACTION_STATE.0, "{asked:?}");
    let number = |name| asked.field(name).parse().unwrap();
    ((number("tranStateTableOffset"), number("commitLogOffset")), asked.body)
}

fn seen(client: &mut Client) -> Vec<(i64, String)> {
    client.pull("t", 1, 0, ("TAG", "*"), 0).messages()
}

#[test]
fn only_a_committed_message_is_seen_and_once() {
    let dir = tempfile::tempdir().unwrap();
    for sync in [false, true] {
        let broker = silent(&dir.path().join(sync.to_string()), sync);
        let mut client = broker.client();
        let halves = ["a", "b", "c"].map(|body| send_half(&mut client, body));
        assert_eq!(client.pull("t", 1, 0, ("TAG", "*"), 0).code, R::PULL_NOT_FOUND);
        assert_eq!(end_as(&mut client, halves[0], COMMIT, "others").code, R::SYSTEM_ERROR);
        assert_eq!(end(&mut client, (halves[0].0, halves[1].1), COMMIT).code, R::SYSTEM_ERROR);
        assert_eq!(end(&mut client, (99, 99), COMMIT).code, R::SYSTEM_ERROR);
        assert_eq!(end(&mut client, halves[1], ROLLBACK).code, R::SUCCESS);
        assert_eq!(end(&mut client, halves[2], UNKNOWN).code, R::SUCCESS);
        assert_eq!(end(&mut client, halves[0], COMMIT).code, R::SUCCESS);
        for again in [COMMIT, ROLLBACK] {
            assert_eq!(end(&mut client, halves[0], again).code, R::SYSTEM_ERROR);
            assert_eq!(end(&mut client, halves[1], again).code, R::SYSTEM_ERROR);
        }
        let pulled = client.pull("t", 1, 0, ("TAG", "*"), 15_000);
        assert_eq!(pulled.messages(), [(0, "a".to_owned())]);
        let record = Record::decode(&pulled.body).unwrap();
        assert_eq!((record.sys_flag & 0xC, record.prepared_transaction_offset), (8, halves[0].1));
        assert_eq!(record.born_timestamp_ms, 1_700_000_000_000);
        for (name, value) in [
            ("UNIQ_KEY", Some("a")),
            ("__transactionId__", Some("a")),
            ("k", Some("v")),
            ("TRAN_MSG", Some("true")),
        ] {
            assert_eq!(property(record.properties, name), value, "{name}");
        }
    }
}

#[test]
fn a_restart_forgets_no_open_transaction_and_no_ended_one() {
    let dir = tempfile::tempdir().unwrap();
    let halves = {
        let broker = silent(dir.path(), false);
        let mut client = broker.client();
        let halves = ["a", "b", "c"].map(|body| send_half(&mut client, body));
        end(&mut client, halves[1], COMMIT);
        halves
    };
    let broker = silent(dir.path(), false);
    let mut client = broker.client();
    assert_eq!(end(&mut client, halves[1], COMMIT).code, R::SYSTEM_ERROR);
    assert_eq!(end(&mut client, halves[0], ROLLBACK).code, R::SUCCESS);
    assert_eq!(end(&mut client, halves[2], COMMIT).code, R::SUCCESS);
    assert_eq!(seen(&mut client), [(0, "b".to_owned()), (1, "c".to_owned())]);
}

#[test]
fn the_producer_of_an_open_transaction_is_asked_until_it_says_and_no_answer_counts_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second);
    {
        let broker = start(dir.path(), u32::MAX);
        let mut client = broker.client();
        join(&mut client);
        first = send_half(&mut client, "a");
        let (now, record) = asked(&mut client);
        assert!(now > first);
        let record = Record::decode(&record).unwrap();
        assert_eq!((record.topic, record.queue_id, record.body), ("t", 1, &b"a"[..]));
        assert_eq!(property(record.properties, "TRANSACTION_CHECK_TIMES"), Some("1"));
        second = asked(&mut client).0;
        assert!(second > now);
    }
    let broker = start(dir.path(), u32::MAX);
    let mut client = broker.client();
    join(&mut client);
    let (third, record) = asked(&mut client);
    let times = property(Record::decode(&record).unwrap().properties, "TRANSACTION_CHECK_TIMES");
    assert!(times.unwrap().parse::<u32>().unwrap() >= 3);
    // The answer to the first question comes late, the one to the last too.
    let fourth = asked(&mut client).0;
    assert_eq!(end(&mut client, third, COMMIT).code, R::SUCCESS);
    for late in [first, second, third, fourth] {
        assert_eq!(end(&mut client, late, COMMIT).code, R::SYSTEM_ERROR);
    }
    assert_eq!(seen(&mut client), [(0, "a".to_owned())]);
}

#[test]
fn two_producers_of_a_group_that_are_asked_at_once_end_a_transaction_once() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), u32::MAX);
    let mut clients = [broker.client(), broker.client()];
    for (client, id) in clients.iter_mut().zip(["one", "two"]) {
        join_as(client, id);
    }
    for (number, how) in [[COMMIT, COMMIT], [COMMIT, ROLLBACK], [ROLLBACK, COMMIT]].into_iter().enumerate() {
        let before = seen(&mut clients[0]).len();
        send_half(&mut clients[0], &format!("m{number}"));
        // Each is asked for the same half sooner or later, for another copy of it: two checks are under way.
        let halves = clients.each_mut().map(|client| asked(client).0);
        assert_ne!(halves[0], halves[1]);
        let codes: Vec<R> = std::thread::scope(|scope| {
            let answers = clients
                .iter_mut()
                .zip(halves)
                .zip(how)
                .map(|((client, half), how)| scope.spawn(move || end(client, half, how).code));
            answers.collect::<Vec<_>>().into_iter().map(|answer| answer.join().unwrap()).collect()
        });
        let first = codes.iter().position(|code| *code == R::SUCCESS).unwrap();
        assert_eq!(codes[1 - first], R::SYSTEM_ERROR, "only one of them ends it");
        let committed = usize::from(how[first] == COMMIT);
        assert_eq!(seen(&mut clients[0]).len(), before + committed, "{how:?}, {codes:?}");
    }
}

#[test]
fn a_producer_that_dies_while_it_is_asked_leaves_its_transaction_to_the_others_of_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), u32::MAX);
    let (mut dies, mut lives) = (broker.client(), broker.client());
    join_as(&mut dies, "dies");
    send_half(&mut dies, "m");
    let first = asked(&mut dies).0;
    drop(dies);
    join_as(&mut lives, "lives");
    let now = asked(&mut lives).0;
    assert!(now > first);
    assert_eq!(end(&mut lives, now, COMMIT).code, R::SUCCESS);
    assert_eq!(seen(&mut lives), [(0, "m".to_owned())]);
}

#[test]
fn a_transaction_that_nobody_ends_goes_to_a_topic_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), 2);
    let mut client = broker.client();
    join(&mut client);
    let half = send_half(&mut client, "a");
    let last = [asked(&mut client).0, asked(&mut client).0][1];
    let ended = std::time::Instant::now() + Duration::from_secs(15);
    let mut given_up = client.pull("TRANS_CHECK_MAX_TIME_TOPIC", 0, 0, ("TAG", "*"), 0);
    while given_up.code != R::SUCCESS && std::time::Instant::now() < ended {
        given_up = client.pull("TRANS_CHECK_MAX_TIME_TOPIC", 0, 0, ("TAG", "*"), 100);
    }
    assert_eq!(given_up.messages(), [(0, "a".to_owned())]);
    for late in [half, last] {
        assert_eq!(end(&mut client, late, COMMIT).code, R::SYSTEM_ERROR);
    }
    assert_eq!(client.pull("t", 1, 0, ("TAG", "*"), 0).code, R::PULL_NOT_FOUND);
}

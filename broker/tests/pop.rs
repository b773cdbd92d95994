//! Messages that are popped: handed out for a time, acknowledged or handed out again.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a failure is a failed test")]

mod support;

use std::time::{Duration, Instant};

use sluice_protocol::code::{RequestCode as C, ResponseCode as R};
use sluice_protocol::fields::Fields;
use sluice_protocol::heartbeat::MessageModel;
use sluice_protocol::message::property;
use sluice_protocol::pop::{
    AckOfPop, Assignments, BatchAck, QueryAssignment, RequestMode, RequestModes, SetRequestMode,
};
use sluice_protocol::record::records;
use sluice_protocol::request;
use sluice_protocol::topic::SubscriptionGroupConfig;
use sluice_testkit::copy_dir;

use support::pop::{
    ASK, Ask, GROUP, LONG, SOON, ack, ack_all, bodies, change, committed, header, pop, pop_raw, popped,
};
use support::{Client, TestBroker};

/// How long a message is held that shall come again soon, in ms.
const SHORT: i64 = 300;

fn send(client: &mut Client, queue: i32, bodies: &[&str]) {
    bodies.iter().for_each(|body| assert_eq!(client.send("t", queue, body, &[]).code, R::SUCCESS));
}

#[test]
fn what_is_popped_nobody_else_gets_and_what_is_acknowledged_nobody_gets_again() {
    let dir = tempfile::tempdir().unwrap();
    for sync in [false, true] {
        let broker = TestBroker::start(&dir.path().join(sync.to_string()), sync);
        let (mut client, mut other) = (broker.client(), broker.client());
        send(&mut client, 0, &["a", "b", "c"]);
        send(&mut client, 3, &["d"]);
        let first = pop(&mut client, Ask { queue: 0, max: 2, ..ASK });
        assert_eq!(bodies(&first), ["a", "b"]);
        let mut rest = pop(&mut other, ASK);
        rest.sort_by_key(|message| message.queue);
        assert_eq!(bodies(&rest), ["c", "d"]);
        assert!(pop(&mut client, ASK).is_empty());
        assert_eq!(committed(&broker, 0), Some(0));
        // The committed offset is that of the first message that is not consumed.
        for (message, expected) in [(&first[1], 0), (&first[0], 2), (&rest[0], 3)] {
            assert_eq!(ack(&mut other, message), R::SUCCESS);
            assert_eq!(committed(&broker, 0), Some(expected));
        }
        assert_eq!(committed(&broker, 3), Some(0));
        assert_eq!(ack(&mut client, &rest[1]), R::SUCCESS);
        assert_eq!(ack(&mut client, &rest[1]), R::SUCCESS, "late ones are passed over");
        assert_eq!(committed(&broker, 3), Some(1));
    }
}

#[test]
fn what_is_not_acknowledged_in_time_comes_again_and_is_a_dead_letter_after_the_last_try() {
    let dir = tempfile::tempdir().unwrap();
    for sync in [false, true] {
        let broker = TestBroker::start(&dir.path().join(sync.to_string()), sync);
        let mut client = broker.client();
        let settings = SubscriptionGroupConfig {
            group_name: GROUP.to_owned(),
            retry_max_times: 2,
            ..SubscriptionGroupConfig::default()
        };
        let made = client.call(C::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, Fields::new(), &settings.encode());
        assert_eq!(made.code, R::SUCCESS);
        client.send("t", 1, "m", &[("UNIQ_KEY", "U"), ("TAGS", "A")]);
        client.send("t", 1, "fine", &[]);
        let begun = Instant::now();
        let first = pop(&mut client, Ask { invisible: SHORT, ..ASK });
        assert_eq!(ack(&mut client, &first[1]), R::SUCCESS);
        let mut before = first[0].clone();
        assert_eq!((before.body.as_str(), before.times), ("m", 0));
        for times in 1..=2 {
            // Held until the time of the message is over.
            let again = pop(&mut client, Ask { invisible: SHORT, poll: SOON, ..ASK });
            assert_eq!((bodies(&again), again[0].times), (vec!["m"], times));
            assert!(begun.elapsed() >= Duration::from_millis(SHORT.unsigned_abs()) * times.unsigned_abs());
            assert_eq!((again[0].queue, again[0].offset), (1, 0), "it comes from where it stands");
            assert_eq!(ack(&mut client, &before), R::SUCCESS, "too late, and passed over");
            assert_ne!(change(&mut client, &mut before, 0), R::SUCCESS, "another one has it");
            before = again[0].clone();
        }
        // Who asks next finds out that it came too often.
        assert!(pop(&mut client, Ask { poll: 2 * SHORT, ..ASK }).is_empty());
        let dead = client.pull("%DLQ%poppers", 0, 0, ("TAG", "*"), 0);
        let record = records(&dead.body).next().unwrap().unwrap();
        assert_eq!((record.body, record.reconsume_times), (&b"m"[..], 3));
        for (name, value) in [("RETRY_TOPIC", "t"), ("UNIQ_KEY", "U"), ("TAGS", "A")] {
            assert_eq!(property(record.properties, name), Some(value), "{name}");
        }
        assert_eq!(committed(&broker, 1), Some(2));
    }
}

#[test]
fn what_a_member_held_that_died_comes_to_another_when_its_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let (mut dies, mut lives) = (broker.client(), broker.client());
    send(&mut dies, 0, &["m"]);
    let begun = Instant::now();
    assert_eq!(bodies(&pop(&mut dies, Ask { invisible: SHORT, ..ASK })), ["m"]);
    drop(dies);
    let again = pop(&mut lives, Ask { poll: SOON, ..ASK });
    assert_eq!((bodies(&again), again[0].times), (vec!["m"], 1));
    assert!(begun.elapsed() >= Duration::from_millis(SHORT.unsigned_abs()));
}

#[test]
fn several_messages_are_acknowledged_together() {
    let dir = tempfile::tempdir().unwrap();
    for sync in [false, true] {
        let broker = TestBroker::start(&dir.path().join(sync.to_string()), sync);
        let mut client = broker.client();
        send(&mut client, 0, &["0", "1", "2", "3"]);
        send(&mut client, 1, &["4", "5"]);
        let messages = pop(&mut client, Ask { invisible: SHORT, ..ASK });
        assert_eq!(messages.len(), 6);
        let of = |queue: i32, bits: &[usize], topic: &str| {
            let info = &messages.iter().find(|m| m.queue == queue).unwrap().extra_info;
            let part: Vec<&str> = info.split(' ').collect();
            AckOfPop {
                bits: bits.iter().copied().collect(),
                consumer_group: GROUP.to_owned(),
                invisible_time: SHORT,
                pop_time: part[1].parse().unwrap(),
                queue_id: queue,
                kind: "0".to_owned(),
                revive_queue_id: part[3].parse().unwrap(),
                start_offset: part[0].parse().unwrap(),
                topic: topic.to_owned(),
            }
        };
        let acks = vec![of(0, &[0, 1, 3], "t"), of(0, &[2], "unknown"), of(1, &[0, 1, 2, 999], "t")];
        let body = BatchAck { acks, broker_name: "broker-a".to_owned() }.encode();
        assert_eq!(client.call(C::BATCH_ACK_MESSAGE, Fields::new(), &body).code, R::SUCCESS);
        assert_eq!((committed(&broker, 0), committed(&broker, 1)), (Some(2), Some(2)));
        assert_eq!(bodies(&pop(&mut client, Ask { poll: SOON, ..ASK })), ["2"]);
    }
}

#[test]
fn a_message_comes_sooner_or_later_when_its_time_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    for sync in [false, true] {
        let broker = TestBroker::start(&dir.path().join(sync.to_string()), sync);
        let (mut client, mut waiting) = (broker.client(), broker.client());
        send(&mut client, 0, &["sooner", "later"]);
        let mut messages = pop(&mut client, Ask { invisible: LONG, ..ASK });
        let later = pop_raw(&mut waiting, Ask { poll: 1, ..ASK });
        assert_eq!(later.code, R::POLLING_TIMEOUT);
        let (bytes, _) = waiting.encode(C::POP_MESSAGE, header(Ask { poll: SOON, ..ASK }).fields(), &[]);
        waiting.write(&bytes);
        assert_eq!(change(&mut client, &mut messages[0], 0), R::SUCCESS);
        let again = popped(&waiting.read().unwrap());
        assert_eq!((bodies(&again), again[0].times), (vec!["sooner"], 1));
        assert_eq!(change(&mut client, &mut messages[0], 0), R::NO_MESSAGE, "another one has it");
        // What it is acknowledged with is what the change gave.
        let before = messages[1].clone();
        assert_eq!(change(&mut client, &mut messages[1], LONG), R::SUCCESS);
        assert_eq!(ack(&mut client, &before), R::SUCCESS);
        assert_eq!(committed(&broker, 0), Some(0));
        assert_eq!(ack(&mut client, &messages[1]), R::SUCCESS);
        ack_all(&mut client, &again);
        assert_eq!(committed(&broker, 0), Some(2));
    }
}

#[test]
fn leases_and_acknowledgements_hold_across_a_restart_and_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (alive, killed) = (dir.path().join("alive"), dir.path().join("killed"));
    let broker = TestBroker::start(&alive, false);
    let mut client = broker.client();
    send(&mut client, 0, &["0", "1", "2", "3", "4"]);
    let held = pop(&mut client, Ask { max: 3, ..ASK });
    assert_eq!(ack(&mut client, &held[1]), R::SUCCESS);
    let soon = pop(&mut client, Ask { max: 1, invisible: SHORT, ..ASK });
    assert_eq!(bodies(&soon), ["3"]);
    copy_dir(&alive, &killed).unwrap();
    drop(broker);
    for dir in [&alive, &killed] {
        let broker = TestBroker::start(dir, false);
        let mut client = broker.client();
        let mut rest = pop(&mut client, Ask { poll: SOON, ..ASK });
        if rest.len() < 2 {
            rest.extend(pop(&mut client, Ask { poll: SOON, ..ASK }));
        }
        rest.sort_by_key(|message| message.offset);
        assert_eq!(rest.iter().map(|m| (m.body.as_str(), m.times)).collect::<Vec<_>>(), [("3", 1), ("4", 0)]);
        assert!(pop(&mut client, ASK).is_empty(), "the others are held, or acknowledged");
        ack_all(&mut client, &rest);
        assert_eq!(ack(&mut client, &held[2]), R::SUCCESS);
        assert_eq!(committed(&broker, 0), Some(0));
        assert_eq!(ack(&mut client, &held[0]), R::SUCCESS);
        assert_eq!(committed(&broker, 0), Some(5));
        assert!(pop(&mut client, ASK).is_empty());
    }
    let broker = TestBroker::start(&alive, false);
    assert!(pop(&mut broker.client(), ASK).is_empty() && broker.store.leases().is_empty());
}

#[test]
fn filters_choose_what_is_popped_and_what_they_leave_out_is_consumed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let (mut client, mut waiting) = (broker.client(), broker.client());
    for (body, tag, n) in [("a", "A", "1"), ("b", "B", "2"), ("c", "A", "3"), ("d", "B", "4")] {
        client.send("t", 0, body, &[("TAGS", tag), ("n", n)]);
    }
    let tags = pop(&mut client, Ask { max: 1, filter: ("TAG", "A || C"), ..ASK });
    assert_eq!(bodies(&tags), ["a"]);
    let sql = pop(&mut client, Ask { filter: ("SQL92", "n > 2"), ..ASK });
    assert_eq!(bodies(&sql), ["c", "d"]);
    ack_all(&mut client, &sql);
    ack_all(&mut client, &tags);
    assert_eq!(committed(&broker, 0), Some(4));
    let bad = pop_raw(&mut client, Ask { filter: ("SQL92", "n >"), ..ASK });
    assert_eq!((bad.code, bad.remark.is_empty()), (R::SUBSCRIPTION_PARSE_FAILED, false));
    // One that waits is not answered by what it does not want.
    let wanted = Ask { poll: SOON, filter: ("TAG", "A"), ..ASK };
    let (bytes, _) = waiting.encode(C::POP_MESSAGE, header(wanted).fields(), &[]);
    waiting.write(&bytes);
    for tag in ["B", "B", "A"] {
        client.send("t", 2, tag, &[("TAGS", tag)]);
    }
    assert_eq!(bodies(&popped(&waiting.read().unwrap())), ["A"]);
}

#[test]
fn a_pop_is_held_until_a_message_comes_to_any_of_its_queues() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    send(&mut client, 0, &["0"]);
    let all = pop(&mut client, ASK);
    ack_all(&mut client, &all);
    for (asked, queue) in [(-1, 0), (-1, 3), (2, 2)] {
        let mut waiting = broker.client();
        let (bytes, _) =
            waiting.encode(C::POP_MESSAGE, header(Ask { queue: asked, poll: SOON, ..ASK }).fields(), &[]);
        waiting.write(&bytes);
        send(&mut client, queue, &["m"]);
        let came = popped(&waiting.read().unwrap());
        assert_eq!(came.iter().map(|m| (m.body.as_str(), m.queue)).collect::<Vec<_>>(), [("m", queue)]);
    }
    let over = Instant::now();
    let nothing = pop_raw(&mut client, Ask { poll: 50, ..ASK });
    assert_eq!(nothing.code, R::POLLING_TIMEOUT);
    assert!(over.elapsed() >= Duration::from_millis(50));
}

#[test]
fn what_a_client_knows_of_a_pop_is_not_stored_when_it_sends_the_message_on() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    client.send("t", 0, "m", &[("POP_CK", "0 1 2 3 0 broker-a 0 0"), ("k", "v")]);
    let pulled = client.pull("t", 0, 0, ("TAG", "*"), 0);
    let record = records(&pulled.body).next().unwrap().unwrap();
    assert_eq!((property(record.properties, "POP_CK"), property(record.properties, "k")), (None, Some("v")));
}

#[test]
fn a_group_that_was_never_here_starts_where_it_asks_to() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    send(&mut client, 0, &["old"]);
    // A young queue is read from its beginning either way, so that no message is missed of before the first pop.
    assert_eq!(bodies(&pop(&mut client, Ask { from_end: true, ..ASK })), ["old"]);
}

#[test]
fn in_order_a_queue_waits_for_the_messages_before() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let (mut client, mut other) = (broker.client(), broker.client());
    send(&mut client, 0, &["0", "1", "2"]);
    let ordered = Ask { queue: 0, max: 2, order: true, ..ASK };
    let first = pop(&mut client, Ask { invisible: SHORT, ..ordered });
    assert_eq!(bodies(&first), ["0", "1"]);
    assert!(pop(&mut other, ordered).is_empty());
    assert_eq!(ack(&mut client, &first[0]), R::SUCCESS);
    assert!(pop(&mut other, ordered).is_empty());
    let again = pop(&mut other, Ask { poll: SOON, ..ordered });
    assert_eq!((bodies(&again), again[0].times), (vec!["1"], 1));
    let (bytes, _) = client.encode(C::POP_MESSAGE, header(Ask { poll: SOON, ..ordered }).fields(), &[]);
    client.write(&bytes);
    ack_all(&mut other, &again);
    assert_eq!(bodies(&popped(&client.read().unwrap())), ["2"], "who waits is told");
}

#[test]
fn a_group_that_holds_too_many_messages_gets_no_more_and_is_told() {
    const QUEUE_MAX: usize = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    send(&mut client, 0, &["first"]);
    let mut batch = sluice_store::Batch::new();
    let topic = sluice_protocol::id::TopicName::new("t").unwrap();
    for _ in 0..QUEUE_MAX + 5 {
        let message = sluice_protocol::message::Message { body: b"m", ..Default::default() };
        batch.push(&topic, sluice_protocol::id::QueueId::ZERO, &message).unwrap();
    }
    broker.store.append(batch).unwrap();
    let mut held = Vec::new();
    let full = loop {
        let response = pop_raw(&mut client, Ask { queue: 0, poll: SOON, ..ASK });
        if response.code != R::SUCCESS {
            break response;
        }
        held.extend(popped(&response));
    };
    assert_eq!((full.code, held.len()), (R::POLLING_FULL, QUEUE_MAX));
    ack_all(&mut client, &held[..3]);
    assert_eq!(pop(&mut client, Ask { queue: 0, ..ASK }).len(), 3);
    assert_eq!(pop_raw(&mut client, ASK).code, R::POLLING_FULL);
}

#[test]
fn a_reset_or_a_commit_of_a_puller_counts_more_than_what_was_popped() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    send(&mut client, 0, &["0", "1", "2", "3"]);
    let held = pop(&mut client, Ask { max: 3, ..ASK });
    let reset = request::ResetOffset {
        topic: "t",
        group: GROUP,
        timestamp: 0,
        is_force: true,
        queue_id: Some(0),
        offset: Some(1),
    };
    assert_eq!(client.call(C::INVOKE_BROKER_TO_RESET_OFFSET, reset.fields(), &[]).code, R::SUCCESS);
    assert_eq!(ack(&mut client, &held[2]), R::SUCCESS, "of before the reset, and passed over");
    assert_eq!(committed(&broker, 0), Some(1));
    assert_eq!(bodies(&pop(&mut client, Ask { max: 2, ..ASK })), ["1", "2"]);
    let commit =
        request::UpdateConsumerOffset { consumer_group: GROUP, topic: "t", queue_id: 0, commit_offset: 3 };
    assert_eq!(client.call(C::UPDATE_CONSUMER_OFFSET, commit.fields(), &[]).code, R::SUCCESS);
    assert_eq!(bodies(&pop(&mut client, ASK)), ["3"]);
}

#[test]
fn what_can_not_be_popped_or_acknowledged_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    send(&mut client, 0, &["m"]);
    let message = pop(&mut client, ASK).remove(0);
    for (ask, code) in [
        (Ask { max: 33, ..ASK }, R::INVALID_PARAMETER),
        (Ask { max: 0, ..ASK }, R::INVALID_PARAMETER),
        (Ask { queue: 4, ..ASK }, R::INVALID_PARAMETER),
        (Ask { queue: -2, ..ASK }, R::INVALID_PARAMETER),
        (Ask { invisible: -1, ..ASK }, R::INVALID_PARAMETER),
        (Ask { invisible: i64::MAX, ..ASK }, R::INVALID_PARAMETER),
        (Ask { filter: ("CLASS", "x"), ..ASK }, R::SUBSCRIPTION_PARSE_FAILED),
    ] {
        let refused = pop_raw(&mut client, ask);
        assert_eq!((refused.code, refused.remark.is_empty()), (code, false), "{}", refused.remark);
    }
    let unknown = request::PopMessage { topic: "unknown", ..header(ASK) };
    assert_eq!(client.call(C::POP_MESSAGE, unknown.fields(), &[]).code, R::TOPIC_NOT_EXIST);
    for (queue, offset, extra_info, code) in [
        (9, 0, message.extra_info.as_str(), R::MESSAGE_ILLEGAL),
        (0, 1, &message.extra_info, R::NO_MESSAGE),
        (0, -1, &message.extra_info, R::NO_MESSAGE),
        (0, 0, "nonsense", R::MESSAGE_ILLEGAL),
    ] {
        let ack =
            request::AckMessage { consumer_group: GROUP, topic: "t", queue_id: queue, extra_info, offset };
        assert_eq!(
            client.call(C::ACK_MESSAGE, ack.fields(), &[]).code,
            code,
            "{queue} {offset} {extra_info}"
        );
    }
    assert_eq!(committed(&broker, 0), Some(0));
}

fn notified(client: &mut Client, poll_time: i64) -> String {
    let ask = request::Notification {
        consumer_group: GROUP,
        topic: "t",
        queue_id: -1,
        poll_time,
        born_time: 0,
        order: None,
        attempt_id: None,
    };
    client.call(C::NOTIFICATION, ask.fields(), &[]).field("hasMsg").to_owned()
}

#[test]
fn who_asks_is_told_when_there_is_something_to_pop() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    send(&mut client, 0, &["m"]);
    assert_eq!(notified(&mut client, 0), "true");
    assert_eq!(bodies(&pop(&mut client, Ask { invisible: SHORT, ..ASK })), ["m"]);
    assert_eq!(notified(&mut client, 1), "false");
    assert_eq!(notified(&mut client, SOON), "true", "its time is over");
    let all = pop(&mut client, ASK);
    ack_all(&mut client, &all);
    assert_eq!(notified(&mut client, 0), "false");
}

fn peek(client: &mut Client, queue_id: i32, max_msg_nums: i32) -> (R, Vec<(String, i32)>, String) {
    let ask = request::PeekMessage { topic: "t", queue_id, max_msg_nums, consumer_group: GROUP };
    let peeked = client.call(C::PEEK_MESSAGE, ask.fields(), &[]);
    let of = |record: sluice_protocol::record::Record<'_>| {
        (String::from_utf8_lossy(record.body).into_owned(), record.reconsume_times)
    };
    let messages = records(&peeked.body).map(|record| of(record.unwrap())).collect();
    (peeked.code, messages, peeked.field("restNum").to_owned())
}

#[test]
fn a_peek_shows_what_a_pop_would_bring_and_hands_nothing_out() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    let texts = |messages: &[(&str, i32)]| -> Vec<(String, i32)> {
        messages.iter().map(|(body, times)| ((*body).to_owned(), *times)).collect()
    };
    send(&mut client, 0, &["a", "b"]);
    send(&mut client, 1, &["c"]);
    for _ in 0..2 {
        assert_eq!(
            peek(&mut client, -1, 32),
            (R::SUCCESS, texts(&[("a", 0), ("b", 0), ("c", 0)]), "3".to_owned())
        );
    }
    assert_eq!(peek(&mut client, -1, 2), (R::SUCCESS, texts(&[("a", 0), ("b", 0)]), "3".to_owned()));
    assert_eq!(peek(&mut client, 1, 32), (R::SUCCESS, texts(&[("c", 0)]), "1".to_owned()));
    assert_eq!(peek(&mut client, 2, 32), (R::PULL_NOT_FOUND, texts(&[]), "0".to_owned()));
    assert_eq!(peek(&mut client, 9, 32).0, R::INVALID_PARAMETER);
    let held = pop(&mut client, Ask { queue: 0, max: 1, invisible: SHORT, ..ASK });
    assert_eq!(bodies(&held), ["a"]);
    assert_eq!(peek(&mut client, 0, 32), (R::SUCCESS, texts(&[("b", 0)]), "1".to_owned()));
    assert_eq!(notified(&mut client, SOON), "true");
    let end = Instant::now() + Duration::from_secs(15);
    while peek(&mut client, 0, 32).2 == "1" && Instant::now() < end {}
    assert_eq!(peek(&mut client, 0, 32), (R::SUCCESS, texts(&[("a", 1), ("b", 0)]), "2".to_owned()));
    let all = pop(&mut client, ASK);
    ack_all(&mut client, &all);
    assert_eq!(peek(&mut client, -1, 32), (R::PULL_NOT_FOUND, texts(&[]), "0".to_owned()));
}

#[test]
fn pops_that_wait_are_counted_by_group_topic_and_queue() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    send(&mut client, 0, &["m"]);
    let all = pop(&mut client, ASK);
    ack_all(&mut client, &all);
    let waiting = |client: &mut Client, queue_id: i32| {
        let ask = request::PollingInfo { consumer_group: GROUP, topic: "t", queue_id };
        let answer = client.call(C::POLLING_INFO, ask.fields(), &[]);
        assert_eq!(answer.code, R::SUCCESS, "{}", answer.remark);
        answer.field("pollingNum").parse::<i32>().unwrap()
    };
    let until = |client: &mut Client, queue, count| {
        let end = Instant::now() + Duration::from_secs(15);
        while waiting(client, queue) != count {
            assert!(Instant::now() < end, "{} wait at queue {queue}", waiting(client, queue));
        }
    };
    let mut held: Vec<Client> = [-1, -1, 2]
        .map(|queue| {
            let mut other = broker.client();
            let (bytes, _) =
                other.encode(C::POP_MESSAGE, header(Ask { queue, poll: SOON, ..ASK }).fields(), &[]);
            other.write(&bytes);
            other
        })
        .into();
    for (queue, count) in [(-1, 2), (2, 1), (0, 0)] {
        until(&mut client, queue, count);
    }
    held.pop();
    until(&mut client, 2, 0);
    send(&mut client, 1, &["for one of them"]);
    until(&mut client, -1, 1);
}

#[test]
fn a_group_pops_from_all_queues_once_its_mode_is_set_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let asked = |topic: &str, strategy: &str| {
        QueryAssignment {
            client_id: "c1".to_owned(),
            consumer_group: GROUP.to_owned(),
            message_model: Some(MessageModel::Clustering),
            strategy_name: strategy.to_owned(),
            topic: topic.to_owned(),
        }
        .encode()
    };
    let assigned = |client: &mut Client, topic: &str| {
        let response = client.call(C::QUERY_ASSIGNMENT, Fields::new(), &asked(topic, "AVG"));
        assert_eq!(response.code, R::SUCCESS, "{}", response.remark);
        let list = Assignments::decode(&response.body).unwrap().message_queue_assignments;
        list.into_iter().map(|a| (a.mode.unwrap(), a.message_queue.queue_id)).collect::<Vec<_>>()
    };
    let mode = |topic: &str| SetRequestMode {
        consumer_group: GROUP.to_owned(),
        mode: Some(RequestMode::Pop),
        pop_share_queue_num: 0,
        topic: topic.to_owned(),
    };
    {
        let broker = TestBroker::start(dir.path(), false);
        let mut client = broker.client();
        send(&mut client, 0, &["m"]);
        for id in ["c1", "c2"] {
            assert_eq!(client.heartbeat(id, GROUP, "t", "TAG", "*").code, R::SUCCESS);
        }
        assert_eq!(assigned(&mut client, "t"), [(RequestMode::Pull, 0), (RequestMode::Pull, 1)]);
        let other = client.call(C::QUERY_ASSIGNMENT, Fields::new(), &asked("t", "MACHINE_ROOM"));
        assert_eq!(other.code, R::INVALID_PARAMETER);
        let set = |client: &mut Client, topic| {
            client.call(C::SET_MESSAGE_REQUEST_MODE, Fields::new(), &mode(topic).encode()).code
        };
        assert_eq!(set(&mut client, "t"), R::SUCCESS);
        assert_eq!(set(&mut client, "%RETRY%poppers"), R::INVALID_PARAMETER);
        assert_eq!(assigned(&mut client, "t"), [(RequestMode::Pop, -1)]);
    }
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    assert_eq!(assigned(&mut client, "t"), [(RequestMode::Pop, -1)]);
    assert_eq!(assigned(&mut client, "%RETRY%poppers"), []);
    let all = client.call(C::GET_ALL_MESSAGE_REQUEST_MODE, Fields::new(), &[]);
    let all = RequestModes::decode(&all.body).unwrap().message_request_mode_map;
    assert_eq!(all["t"][GROUP], mode("t"));
    let file = std::fs::read_to_string(dir.path().join("config/messageRequestMode.json")).unwrap();
    assert!(file.contains(r#""mode":"POP""#), "{file}");
}

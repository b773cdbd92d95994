//! Queue locks: who consumes in order, and who goes on when that one is gone.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a failure is a failed test")]

mod support;

use sluice_protocol::code::{RequestCode as C, ResponseCode as R};
use sluice_protocol::fields::Fields;
use sluice_protocol::queue::{LockBatch, LockedBatch, MessageQueue};
use sluice_protocol::request;

use support::{Client, TestBroker, send_header};

fn batch(client_id: &str, topic: &str, queues: &[i32]) -> Vec<u8> {
    let queue = |&queue_id| MessageQueue { broker_name: "broker-a".into(), queue_id, topic: topic.into() };
    let mq_set = queues.iter().map(queue).collect();
    let (client_id, consumer_group) = (client_id.to_owned(), "g".to_owned());
    LockBatch { client_id, consumer_group, mq_set, only_this_broker: false }.encode()
}

fn lock(client: &mut Client, id: &str, topic: &str, queues: &[i32]) -> Vec<i32> {
    let answer = client.call(C::LOCK_BATCH_MQ, Fields::new(), &batch(id, topic, queues));
    assert_eq!(answer.code, R::SUCCESS);
    let locked = LockedBatch::decode(&answer.body).unwrap().lock_ok_mq_set;
    locked.iter().map(|queue| queue.queue_id).collect()
}

#[test]
fn a_queue_has_one_holder_until_it_is_given_back_or_the_holder_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let (mut one, mut two) = (broker.client(), broker.client());
    one.send("t", 0, "m", &[]);
    two.heartbeat("two", "g", "t", "TAG", "*");
    one.heartbeat("one", "g", "t", "TAG", "*");
    assert_eq!(lock(&mut one, "one", "t", &[0, 1, 2, 9]), [0, 1, 2]);
    assert_eq!(lock(&mut two, "two", "t", &[0, 3]), [3]);
    assert_eq!(lock(&mut one, "one", "t", &[0, 1]), [0, 1]);
    assert_eq!(lock(&mut one, "one", "none", &[0]), [] as [i32; 0]);
    two.call(C::UNLOCK_BATCH_MQ, Fields::new(), &batch("two", "t", &[0]));
    assert_eq!(lock(&mut two, "two", "t", &[0]), [] as [i32; 0]);
    one.call(C::UNLOCK_BATCH_MQ, Fields::new(), &batch("one", "t", &[0]));
    assert_eq!(lock(&mut two, "two", "t", &[0, 1]), [0]);
    drop(one);
    // The broker tells the group when a member is gone, and its queues are free then.
    while two.read().unwrap().code.0 != C::NOTIFY_CONSUMER_IDS_CHANGED.0 {}
    let mut locked = lock(&mut two, "two", "t", &[1, 2]);
    while locked != [1, 2] {
        // There may be a word of its own coming still.
        while two.read().unwrap().code.0 != C::NOTIFY_CONSUMER_IDS_CHANGED.0 {}
        locked = lock(&mut two, "two", "t", &[1, 2]);
    }
    let leave =
        request::UnregisterClient { client_id: "two", producer_group: None, consumer_group: Some("g") };
    two.call(C::UNREGISTER_CLIENT, leave.fields(), &[]);
    assert_eq!(lock(&mut broker.client(), "three", "t", &[0, 1, 2, 3]), [0, 1, 2, 3]);
}

#[test]
fn a_holder_that_is_gone_before_its_first_heartbeat_holds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    TestBroker::start(dir.path(), false).client().send("t", 0, "m", &[]);
    // To a broker that was started again its clients are unknown, and go on.
    let broker = TestBroker::start(dir.path(), false);
    let (mut leaves, mut dies, mut next) = (broker.client(), broker.client(), broker.client());
    assert_eq!(lock(&mut leaves, "leaves", "t", &[0]), [0]);
    assert_eq!(lock(&mut dies, "dies", "t", &[1]), [1]);
    let leave =
        request::UnregisterClient { client_id: "leaves", producer_group: None, consumer_group: Some("g") };
    leaves.call(C::UNREGISTER_CLIENT, leave.fields(), &[]);
    assert_eq!(lock(&mut next, "next", "t", &[0, 1]), [0]);
    drop(dies);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(15);
    while lock(&mut next, "next", "t", &[1]).is_empty() {
        assert!(std::time::Instant::now() < end, "the dead one holds its queue");
    }
}

#[test]
fn what_a_group_that_consumes_in_order_gives_up_is_a_dead_letter() {
    let dir = tempfile::tempdir().unwrap();
    let broker = TestBroker::start(dir.path(), false);
    let mut client = broker.client();
    client.send("t", 0, "m", &[]);
    client.heartbeat("one", "g", "t", "TAG", "*");
    assert_eq!(lock(&mut client, "one", "t", &[0]), [0]);
    let properties = support::encoded(&[("DELAY", "3")]);
    let given_up = send_header("%RETRY%g", 0, &properties);
    assert_eq!(client.call(C::SEND_MESSAGE_V2, given_up.fields(), b"m").code, R::SUCCESS);
    assert_eq!(client.pull("%DLQ%g", 0, 0, ("TAG", "*"), 0).messages(), [(0, "m".to_owned())]);
}

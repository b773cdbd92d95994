//! Pops and what is sent back for what they bring, as a client puts it together.

use std::collections::BTreeMap;

use sluice_protocol::code::{RequestCode as C, ResponseCode as R};
use sluice_protocol::id::{GroupName, QueueId, TopicName};
use sluice_protocol::record::records;
use sluice_protocol::request;

use super::{Client, Response, TestBroker};

pub const GROUP: &str = "poppers";
/// How long a test waits for what has to come, in ms.
pub const SOON: i64 = 15_000;
/// Longer than any test takes, in ms.
pub const LONG: i64 = 600_000;
/// A popped message, with what its client sends back.
#[derive(Clone, Debug, PartialEq)]
pub struct Popped {
    pub body: String,
    pub queue: i32,
    pub offset: i64,
    pub times: i32,
    pub extra_info: String,
}

#[derive(Clone, Copy)]
pub struct Ask {
    pub queue: i32,
    pub max: i32,
    pub invisible: i64,
    pub poll: i64,
    pub from_end: bool,
    pub order: bool,
    pub filter: (&'static str, &'static str),
}

pub const ASK: Ask =
    Ask { queue: -1, max: 32, invisible: LONG, poll: 0, from_end: false, order: false, filter: ("TAG", "*") };

pub fn header(ask: Ask) -> request::PopMessage<'static> {
    request::PopMessage {
        consumer_group: GROUP,
        topic: "t",
        queue_id: ask.queue,
        max_msg_nums: ask.max,
        invisible_time: ask.invisible,
        poll_time: ask.poll,
        born_time: 0,
        init_mode: i32::from(ask.from_end),
        expression_type: Some(ask.filter.0),
        expression: Some(ask.filter.1),
        order: Some(ask.order),
        attempt_id: None,
    }
}

pub fn pop_raw(client: &mut Client, ask: Ask) -> Response {
    client.call(C::POP_MESSAGE, header(ask).fields(), &[])
}

/// What a pop brought, put together as the Java client does.
pub fn popped(response: &Response) -> Vec<Popped> {
    assert!(matches!(response.code, R::SUCCESS | R::POLLING_TIMEOUT), "{response:?}");
    let mut starts = BTreeMap::new();
    for entry in response.field("startOffsetInfo").split(';').filter(|entry| !entry.is_empty()) {
        let [kind, queue, start] = entry.split(' ').collect::<Vec<_>>()[..] else { panic!("{entry}") };
        assert_eq!(kind, "0");
        starts.insert(queue.parse::<i32>().unwrap(), start.to_owned());
    }
    let mut told: Vec<(i32, i64)> = Vec::new();
    for entry in response.field("msgOffsetInfo").split(';').filter(|entry| !entry.is_empty()) {
        let [_, queue, offsets] = entry.split(' ').collect::<Vec<_>>()[..] else { panic!("{entry}") };
        told.extend(offsets.split(',').map(|offset| (queue.parse().unwrap(), offset.parse().unwrap())));
    }
    let (time, invisible) = (response.field("popTime"), response.field("invisibleTime"));
    let revive = response.field("reviveQid");
    let messages: Vec<Popped> = records(&response.body)
        .map(|record| {
            let record = record.unwrap();
            let (queue, offset) = (record.queue_id, record.queue_offset);
            let start = &starts[&queue];
            Popped {
                body: String::from_utf8_lossy(record.body).into_owned(),
                queue,
                offset,
                times: record.reconsume_times,
                extra_info: format!("{start} {time} {invisible} {revive} 0 broker-a {queue} {offset}"),
            }
        })
        .collect();
    assert_eq!(messages.iter().map(|m| (m.queue, m.offset)).collect::<Vec<_>>(), told);
    messages
}

pub fn pop(client: &mut Client, ask: Ask) -> Vec<Popped> {
    popped(&pop_raw(client, ask))
}

pub fn bodies(messages: &[Popped]) -> Vec<&str> {
    messages.iter().map(|message| message.body.as_str()).collect()
}

pub fn ack(client: &mut Client, message: &Popped) -> R {
    let ack = request::AckMessage {
        consumer_group: GROUP,
        topic: "t",
        queue_id: message.queue,
        extra_info: &message.extra_info,
        offset: message.offset,
    };
    client.call(C::ACK_MESSAGE, ack.fields(), &[]).code
}

pub fn ack_all(client: &mut Client, messages: &[Popped]) {
    messages.iter().for_each(|message| assert_eq!(ack(client, message), R::SUCCESS));
}

/// Changes the time of a message, which has other extra info from then on.
pub fn change(client: &mut Client, message: &mut Popped, invisible_time: i64) -> R {
    let change = request::ChangeInvisibleTime {
        consumer_group: GROUP,
        topic: "t",
        queue_id: message.queue,
        extra_info: &message.extra_info,
        offset: message.offset,
        invisible_time,
    };
    let changed = client.call(C::CHANGE_MESSAGE_INVISIBLETIME, change.fields(), &[]);
    if changed.code == R::SUCCESS {
        let [time, invisible, revive] =
            ["popTime", "invisibleTime", "reviveQid"].map(|name| changed.field(name));
        let Popped { queue, offset, .. } = message;
        message.extra_info = format!("{offset} {time} {invisible} {revive} 0 broker-a {queue} {offset}");
    }
    changed.code
}

pub fn committed(broker: &TestBroker, queue: i32) -> Option<i64> {
    let (group, topic) = (GroupName::new(GROUP).unwrap(), TopicName::new("t").unwrap());
    let queue = QueueId::new(queue).unwrap();
    broker.store.committed_offset(&group, &topic, queue).map(|offset| offset.get())
}

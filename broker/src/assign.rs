//! Which queues of a topic are a client's, for clients that leave it to the broker, and whether they pull or pop from
//! them; codes 400 to 402.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_protocol::code::ResponseCode;
use sluice_protocol::heartbeat::MessageModel;
use sluice_protocol::id::{GroupName, TopicName};
use sluice_protocol::pop::{
    Assignment, Assignments, QueryAssignment, RequestMode, RequestModes, SetRequestMode,
};
use sluice_protocol::queue::MessageQueue;
use sluice_protocol::route::QueueData;
use sluice_protocol::topic::{RETRY_PREFIX, perm};
use sluice_store::{Error as StoreError, QUEUES_MAX, Store};

use crate::broker::Broker;
use crate::dispatch::{Answer, Request, Turn};
use crate::outlet::Replies;
use crate::register;
use crate::reply::Reply;

/// Topics and groups whose mode is kept.
const MODES_MAX: usize = 10_000;
/// Queues of one topic at all brokers.
const ASSIGNED_MAX: usize = QUEUES_MAX as usize;

/// How groups get the messages of topics, where it was set.
pub(crate) struct Modes(Mutex<RequestModes>);

impl Modes {
    /// What the store keeps.
    pub(crate) fn load(store: &Store) -> Result<Self, StoreError> {
        let read = store.request_modes()?.map(|text| RequestModes::decode(text.as_bytes()));
        let modes = read.unwrap_or_else(|| Ok(RequestModes::default())).unwrap_or_else(|error| {
            tracing::warn!(%error, "config/messageRequestMode.json can not be read; all groups pull until it is set anew");
            RequestModes::default()
        });
        Ok(Self(Mutex::new(modes)))
    }

    fn lock(&self) -> MutexGuard<'_, RequestModes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a group gets a topic's messages. Retry topics are always pulled.
    fn of(&self, topic: &str, group: &str) -> (RequestMode, i32) {
        let modes = self.lock();
        let set = modes.message_request_mode_map.get(topic).and_then(|groups| groups.get(group));
        let set = set.filter(|_| !topic.starts_with(RETRY_PREFIX));
        set.map_or((RequestMode::Pull, 0), |set| {
            (set.mode.unwrap_or(RequestMode::Pull), set.pop_share_queue_num)
        })
    }
}

impl Broker {
    /// How all groups get their messages, where it was set: code 402.
    pub(crate) fn request_modes(&self) -> Reply {
        Reply::body(self.modes.lock().encode())
    }

    /// Sets how a group gets a topic's messages. Its clients hear of it when they ask again, within 20 s.
    pub(crate) fn set_request_mode(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = SetRequestMode::decode(request.body)?;
        let (group, topic) = (GroupName::new(&asked.consumer_group)?, TopicName::new(&asked.topic)?);
        let mode = asked.mode.ok_or_else(|| bad("the mode is PULL or POP"))?;
        if topic.as_str().starts_with(RETRY_PREFIX) {
            return Err(bad(format!("retry topic {topic} is always pulled")));
        }
        let mut modes = self.modes.lock();
        let mut changed = modes.clone();
        changed
            .message_request_mode_map
            .entry(topic.to_string())
            .or_default()
            .insert(group.to_string(), asked);
        let count: usize = changed.message_request_mode_map.values().map(|groups| groups.len()).sum();
        if count > MODES_MAX {
            return Err(bad(format!("the modes of {MODES_MAX} topics and groups are set already")));
        }
        let text = String::from_utf8(changed.encode()).unwrap_or_default();
        // It waits for the disk.
        tokio::task::block_in_place(|| self.store.set_request_modes(&text))?;
        *modes = changed;
        tracing::info!(%group, %topic, mode = mode.name(), "set how a group gets its messages");
        Ok(Reply::ok())
    }

    /// The queues of a client.
    pub(crate) fn query_assignment(
        self: &Arc<Self>,
        request: &Request<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Reply> {
        let asked = QueryAssignment::decode(request.body)?;
        TopicName::new(&asked.topic)?;
        GroupName::new(&asked.consumer_group)?;
        if !matches!(asked.strategy_name.as_str(), AVERAGE | AVERAGE_BY_CIRCLE) {
            // The client computes it itself then.
            let remark =
                format!("strategy {:?} is not known here; use AVG or AVG_BY_CIRCLE", asked.strategy_name);
            return Err(bad(remark));
        }
        if self.settings.name_servers.is_empty() {
            let queues = self.name_server.as_ref().map(|names| names.queues_of(&asked.topic));
            return Ok(self.assign(&asked, queues.unwrap_or_default()).into());
        }
        let (broker, outlet) = (Arc::clone(self), Arc::clone(turn.outlet));
        let (kind, opaque) = (request.kind, request.header.opaque);
        tokio::spawn(async move {
            let reply =
                match register::queues_of(&broker.settings.way, &broker.settings.name_servers, &asked.topic)
                    .await
                {
                    Ok(queues) => broker.assign(&asked, queues),
                    Err(error) => {
                        let remark = format!("no name server says where topic {} is: {error}", asked.topic);
                        Reply::refuse(ResponseCode::SYSTEM_ERROR, remark)
                    }
                };
            let mut replies = Replies::default();
            replies.push(kind, &reply.header(opaque), &reply.body);
            // A failed send has ended the connection; nobody is left to be told.
            let _ = outlet.send(replies).await;
        });
        Ok(Answer::Elsewhere)
    }

    /// The client's part of the queues that there are.
    fn assign(&self, asked: &QueryAssignment, queues: Vec<QueueData>) -> Reply {
        let readable = queues.iter().filter(|queues| queues.perm & perm::READ != 0);
        let queue = |broker: &str, queue_id| MessageQueue {
            broker_name: broker.to_owned(),
            queue_id,
            topic: asked.topic.clone(),
        };
        let mut all: Vec<MessageQueue> = readable
            .flat_map(|of| (0..of.read_queue_nums).map(move |id| queue(&of.broker_name, id)))
            .take(ASSIGNED_MAX)
            .collect();
        all.sort_unstable();
        let group = GroupName::new(&asked.consumer_group).ok();
        let members = group.map(|group| self.groups.client_ids(&group)).unwrap_or_default();
        let (mode, share) = self.modes.of(&asked.topic, &asked.consumer_group);
        let mine = if asked.message_model == Some(MessageModel::Broadcasting) {
            all
        } else if mode == RequestMode::Pop {
            shared(&asked.strategy_name, all, &members, &asked.client_id, share)
        } else {
            let mine = part(&asked.strategy_name, &all, &members, &asked.client_id);
            mine.into_iter().cloned().collect()
        };
        let assigned = |message_queue| Assignment { attachments: None, message_queue, mode: Some(mode) };
        let message_queue_assignments = mine.into_iter().map(assigned).collect();
        Reply::body(Assignments { message_queue_assignments }.encode())
    }
}

const AVERAGE: &str = "AVG";
const AVERAGE_BY_CIRCLE: &str = "AVG_BY_CIRCLE";

fn bad(remark: impl Into<std::borrow::Cow<'static, str>>) -> Reply {
    Reply::refuse(ResponseCode::INVALID_PARAMETER, remark)
}

/// One member's part of the queues; members and queues are sorted, and who is no member gets nothing.
fn part<'a, Q>(strategy: &str, queues: &'a [Q], members: &[String], member: &str) -> Vec<&'a Q> {
    let Some(place) = members.iter().position(|other| other == member) else { return Vec::new() };
    if strategy == AVERAGE_BY_CIRCLE {
        return queues.iter().skip(place).step_by(members.len()).collect();
    }
    let (each, rest) = (queues.len() / members.len(), queues.len() % members.len());
    let start = each * place + place.min(rest);
    queues.iter().skip(start).take(each + usize::from(place < rest)).collect()
}

/// What a member pops from: all queues of each broker, or its part and those of so many members after it.
fn shared(
    strategy: &str,
    queues: Vec<MessageQueue>,
    members: &[String],
    member: &str,
    share: i32,
) -> Vec<MessageQueue> {
    let place = members.iter().position(|other| other == member);
    let share = usize::try_from(share).unwrap_or(0);
    let Some(place) = place.filter(|_| share > 0 && share + 1 < members.len()) else {
        let mut brokers = queues;
        brokers.iter_mut().for_each(|queue| queue.queue_id = -1);
        brokers.dedup();
        return brokers;
    };
    // With fewer queues than members each has the one that it would share.
    if queues.len() < members.len() {
        return queues.get(place % queues.len().max(1)).cloned().into_iter().collect();
    }
    let following = members.iter().cycle().skip(place).take(share + 1);
    following.flat_map(|of| part(strategy, &queues, members, of)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("c{i}")).collect()
    }

    #[test]
    fn members_have_the_parts_that_java_gives_them() {
        let of = |strategy, queues: i32, count, member: &str| {
            let queues: Vec<i32> = (0..queues).collect();
            part(strategy, &queues, &members(count), member).into_iter().copied().collect::<Vec<_>>()
        };
        assert_eq!(
            ["c0", "c1", "c2"].map(|c| of(AVERAGE, 8, 3, c)),
            [vec![0, 1, 2], vec![3, 4, 5], vec![6, 7]]
        );
        assert_eq!(["c0", "c1"].map(|c| of(AVERAGE_BY_CIRCLE, 5, 2, c)), [vec![0, 2, 4], vec![1, 3]]);
        assert!(of(AVERAGE, 8, 3, "other").is_empty() && of(AVERAGE, 8, 0, "c0").is_empty());
    }

    #[test]
    fn who_pops_does_so_from_all_queues_or_from_those_of_some_members() {
        let queue = |queue_id| MessageQueue { broker_name: "b".into(), queue_id, topic: "t".into() };
        let of = |queues, count, member: &str, share| {
            let queues: Vec<MessageQueue> = (0..queues).map(queue).collect();
            let shared = shared(AVERAGE, queues, &members(count), member, share);
            shared.into_iter().map(|queue| queue.queue_id).collect::<Vec<_>>()
        };
        assert_eq!(of(4, 2, "c0", 0), [-1]);
        assert_eq!(of(4, 4, "other", 1), [-1]);
        assert_eq!(of(4, 4, "c1", 3), [-1]);
        assert_eq!(of(4, 4, "c3", 1), [3, 0]);
        assert_eq!(of(2, 4, "c3", 1), [1]);
        assert!(of(0, 4, "c3", 1).is_empty());
    }
}

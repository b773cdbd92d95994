//! Consume by pulling: codes 11 and 361, with long polling.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_filters::{Filter, Verdict};
use sluice_protocol::code::ResponseCode;
use sluice_protocol::header::{Header, HeaderKind};
use sluice_protocol::id::{GroupName, QueueId, QueueOffset, TopicName};
use sluice_protocol::message::tag_hash_of;
use sluice_protocol::record;
use sluice_protocol::request::{self, pull_flag};
use sluice_protocol::response;
use sluice_protocol::topic::{SubscriptionGroupConfig, perm};
use sluice_store::{Access, Error as StoreError};

use crate::broker::Broker;
use crate::dispatch::{Answer, Request, Turn};
use crate::outlet::{Outlet, Replies, Room};
use crate::reply::{Reply, no_topic};

/// Bytes of one answer, as `RocketMQ` 5.3.3 gives from memory; one message may be longer.
pub(crate) const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Messages of one answer.
const ANSWER_MESSAGES_MAX: usize = 4096;
/// Bytes of messages that one pull passes over in search of some that match.
const SCAN_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest time that a pull is held.
pub(crate) const HOLD_MAX: Duration = Duration::from_secs(60);
/// A held pull that passed over messages is answered after so long at the latest, so that its consumer commits that it is past
/// them; `RocketMQ` 5.3.3 looks at held pulls every 5 s.
const PASSED_HOLD_MAX: Duration = Duration::from_secs(5);
/// A record so far behind the log's end may have to come from the disk, in bytes.
const HOT_BYTES: u64 = 256 * 1024 * 1024;

/// Which messages a consumer wants.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    All,
    /// Hashes of tags, sorted.
    Tags(Arc<[i64]>),
    Sql(Arc<Filter>),
}

impl Wanted {
    fn takes(&self, record: &record::Record<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Tags(hashes) => hashes.binary_search(&tag_hash_of(record.properties)).is_ok(),
            Self::Sql(filter) => filter.matches(record.properties) == Verdict::True,
        }
    }
}

/// A pull with everything that its answer depends on.
#[derive(Clone)]
pub(crate) struct Pull {
    opaque: i32,
    kind: HeaderKind,
    topic: TopicName,
    queue: QueueId,
    from: i64,
    messages_max: usize,
    bytes_max: usize,
    wanted: Wanted,
}

/// What a queue has for a pull.
pub(crate) struct Found {
    pub(crate) code: ResponseCode,
    pub(crate) next: i64,
    min: i64,
    max: i64,
    /// Log offset of the first message, where all are wanted.
    first_at: Option<u64>,
    pub(crate) body: Vec<Bytes>,
}

impl Broker {
    /// Answers a pull, or holds it until there is something.
    pub(crate) fn pull(
        self: &Arc<Self>,
        request: &Request<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Reply> {
        let pull = request::PullMessage::parse(&request.header.fields)?;
        let group = GroupName::new(pull.consumer_group)?;
        let topic = TopicName::new(pull.topic)?;
        let (_, access) = self.readable(&group, &topic)?;
        let queue = read_queue(&topic, access.read_queues, pull.queue_id)?;
        let wanted = if pull.sys_flag & pull_flag::SUBSCRIPTION != 0 {
            let kind = pull.expression_type.unwrap_or("TAG");
            self.filters.compile(kind, pull.subscription.unwrap_or_default())?
        } else {
            self.groups.wanted(&group, &topic, pull.sub_version)?
        };
        if let Some(next) = self.resets.take(&group, &topic, queue).filter(|next| *next != pull.queue_offset)
        {
            return Ok(self.go_on_at(&topic, queue, next).into());
        }
        if pull.sys_flag & pull_flag::COMMIT != 0 && pull.commit_offset >= 0 {
            let offset = QueueOffset::new(pull.commit_offset);
            if let Err(error) = self.commit(&group, &topic, queue, offset) {
                // The disk may be full: what is there can be consumed all the same.
                tracing::warn!(%group, %topic, %error, "an offset that came with a pull is not committed");
            }
        }
        let positive = |n: i32| usize::try_from(n).unwrap_or(0).max(1);
        let asked = Pull {
            opaque: request.header.opaque,
            kind: request.kind,
            topic,
            queue,
            from: pull.queue_offset,
            messages_max: positive(pull.max_msg_nums).min(ANSWER_MESSAGES_MAX),
            bytes_max: pull.max_msg_bytes.map_or(ANSWER_BYTES_MAX, positive).min(ANSWER_BYTES_MAX),
            wanted,
        };
        let hold = (pull.sys_flag & pull_flag::SUSPEND != 0)
            .then(|| Duration::from_millis(pull.suspend_timeout_millis.try_into().unwrap_or(0)).min(HOLD_MAX))
            .filter(|hold| !hold.is_zero());
        // A filter looks at the messages, so where they lie is asked before; otherwise they are found untouched.
        let all = matches!(asked.wanted, Wanted::All);
        if !all && self.first_at(&asked).is_some_and(|at| self.is_cold(at)) {
            turn.cold.push(asked);
            return Ok(Answer::Elsewhere);
        }
        let found = self.find(&asked)?;
        if found.first_at.is_some_and(|at| self.is_cold(at)) {
            turn.cold.push(asked);
            return Ok(Answer::Elsewhere);
        }
        match hold.filter(|_| found.code == ResponseCode::PULL_NOT_FOUND) {
            Some(hold) => self.hold(asked, hold, turn.outlet)?,
            None => found.answer(&asked, &mut turn.replies),
        }
        Ok(Answer::Elsewhere)
    }

    /// A group's settings and what it may do with a topic; refuses if it may not read there.
    pub(crate) fn readable(
        &self,
        group: &GroupName,
        topic: &TopicName,
    ) -> Result<(Arc<SubscriptionGroupConfig>, Access), Reply> {
        let settings = self.group(group)?;
        if !settings.consume_enable {
            let remark = format!("group {group} may not consume, by its settings");
            return Err(Reply::refuse(ResponseCode::NO_PERMISSION, remark));
        }
        let Some(known) = self.store.topic(topic) else { return Err(no_topic(topic)) };
        if known.access.perm & perm::READ == 0 {
            let perm = known.access.perm;
            let remark =
                format!("topic {topic} may not be read (permission {perm}); set it to 6 to allow that");
            return Err(Reply::refuse(ResponseCode::NO_PERMISSION, remark));
        }
        Ok((settings, known.access))
    }

    /// Tells a member where to go on after its group's offsets were reset.
    fn go_on_at(&self, topic: &TopicName, queue: QueueId, next: i64) -> Reply {
        let (first, end) = self.store.offsets(topic, queue).unwrap_or_default();
        let fields = response::PullMessage {
            suggest_which_broker_id: 0,
            group_sys_flag: None,
            next_begin_offset: next,
            max_offset: end.get(),
            min_offset: first.get(),
            topic_sys_flag: None,
        };
        let code = ResponseCode::PULL_OFFSET_MOVED;
        Reply { code, remark: Some("OFFSET_RESET".into()), ..Reply::fields(&fields.fields()) }
    }

    /// Answers a pull by a thread that may wait for the disk.
    pub(crate) fn answer_cold(self: &Arc<Self>, pull: Pull, outlet: Arc<Outlet>, room: Room) {
        let broker = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let mut replies = Replies::default();
            match broker.find(&pull) {
                Ok(found) => {
                    found.body.iter().for_each(touch);
                    found.answer(&pull, &mut replies);
                }
                Err(reply) => replies.push(pull.kind, &reply.header(pull.opaque), &reply.body),
            }
            tokio::spawn(async move {
                let _room = room;
                // A failed send has ended the connection; nobody is left to be told.
                outlet.send(replies).await
            });
        });
    }

    /// Waits for messages on behalf of a pull, and answers it with what there is when its time is over.
    fn hold(self: &Arc<Self>, mut pull: Pull, hold: Duration, outlet: &Arc<Outlet>) -> Result<(), Reply> {
        let (broker, outlet) = (Arc::clone(self), Arc::clone(outlet));
        let held = self.long_poll.hold(outlet.id).ok_or_else(|| {
            let remark = "too many pulls are held for this connection";
            Reply::refuse(ResponseCode::SYSTEM_BUSY, remark)
        })?;
        tokio::spawn(async move {
            let _held = held;
            let arrivals = broker.long_poll.arrivals(&pull.topic, pull.queue);
            let mut closed = outlet.closed();
            let mut deadline = tokio::time::Instant::now() + hold;
            let mut replies = Replies::default();
            let _room = loop {
                let arrived = arrivals.notified();
                tokio::pin!(arrived);
                // Listen before looking, or what comes between is missed.
                arrived.as_mut().enable();
                let Ok(room) = outlet.room(ANSWER_BYTES_MAX).await else { return };
                let found = match broker.find(&pull) {
                    Ok(found) => found,
                    Err(reply) => {
                        replies.push(pull.kind, &reply.header(pull.opaque), &reply.body);
                        break room;
                    }
                };
                if found.code == ResponseCode::PULL_RETRY_IMMEDIATELY {
                    // Nothing of it matched: the consumer need not know at once.
                    pull.from = found.next;
                    deadline = deadline.min(tokio::time::Instant::now() + PASSED_HOLD_MAX);
                    tokio::task::yield_now().await;
                    continue;
                }
                let over = tokio::time::Instant::now() >= deadline;
                if found.code != ResponseCode::PULL_NOT_FOUND || over {
                    found.answer(&pull, &mut replies);
                    break room;
                }
                drop(room);
                tokio::select! {
                    () = arrived => {}
                    () = tokio::time::sleep_until(deadline) => {}
                    _ = closed.changed() => return,
                }
            };
            // A failed send has ended the connection; nobody is left to be told.
            let _ = outlet.send(replies).await;
        });
        Ok(())
    }

    /// Where the first message of a pull lies in the log.
    pub(crate) fn first_at(&self, pull: &Pull) -> Option<u64> {
        let from = QueueOffset::new(pull.from);
        let read = self.store.read_records(&pull.topic, pull.queue, from, 1, 1).ok()?;
        read.runs.first().map(|run| run.log_offset.get())
    }

    /// Whether what lies at a log offset may have to come from the disk.
    pub(crate) fn is_cold(&self, at: u64) -> bool {
        self.store.log_end().get().saturating_sub(at) > HOT_BYTES
    }

    /// What the queue has from the asked offset on.
    pub(crate) fn find(&self, pull: &Pull) -> Result<Found, Reply> {
        let Some((min, max)) = self.store.offsets(&pull.topic, pull.queue) else {
            return Err(no_topic(&pull.topic));
        };
        let (min, max) = (min.get(), max.get());
        let nothing = |code, next| Found { code, next, min, max, first_at: None, body: Vec::new() };
        if pull.from == max {
            return Ok(nothing(ResponseCode::PULL_NOT_FOUND, max));
        }
        if pull.from > max || pull.from < min {
            let next = if pull.from < min { min } else { max };
            return Ok(nothing(ResponseCode::PULL_OFFSET_MOVED, next));
        }
        let mut found = nothing(ResponseCode::SUCCESS, pull.from);
        let (mut messages, mut bytes, mut scanned) = (0, 0, 0);
        while found.next < max
            && messages < pull.messages_max
            && bytes < pull.bytes_max
            && scanned < SCAN_BYTES_MAX
        {
            let all = matches!(pull.wanted, Wanted::All);
            let (read_bytes, read_messages) = if all {
                (pull.bytes_max - bytes, pull.messages_max - messages)
            } else {
                (ANSWER_BYTES_MAX, usize::MAX)
            };
            let from = QueueOffset::new(found.next);
            let read = match self.store.read_records(&pull.topic, pull.queue, from, read_bytes, read_messages)
            {
                Ok(read) => read,
                // Retention passed it meanwhile.
                Err(StoreError::Expired { first, .. }) if messages == 0 => {
                    return Ok(nothing(ResponseCode::PULL_OFFSET_MOVED, first.get()));
                }
                Err(StoreError::Expired { .. }) => break,
                Err(error) => return Err(error.into()),
            };
            scanned += read.bytes;
            if all {
                messages = read.records;
                found.first_at = read.runs.first().map(|run| run.log_offset.get());
                found.body.extend(read.runs.into_iter().map(|run| run.bytes));
                found.next = read.next.get();
                break;
            }
            let full = pull.select(&read.runs, &mut found, &mut messages, &mut bytes)?;
            if full {
                break;
            }
            found.next = read.next.get();
        }
        if messages == 0 {
            found.code = ResponseCode::PULL_RETRY_IMMEDIATELY;
        } else {
            self.metrics.pulled(messages, found.body.iter().map(Bytes::len).sum());
        }
        Ok(found)
    }
}

impl Pull {
    /// A look at a queue that nobody is answered by.
    pub(crate) fn of(
        topic: &TopicName,
        queue: QueueId,
        from: i64,
        messages_max: usize,
        bytes_max: usize,
        wanted: Wanted,
    ) -> Self {
        let (opaque, kind, topic) = (0, HeaderKind::Json, topic.clone());
        Self { opaque, kind, topic, queue, from, messages_max, bytes_max, wanted }
    }

    /// Adds the messages of some runs that match, as pieces of the log; says whether the answer is full, and
    /// then leaves `found.next` behind the last message taken.
    fn select(
        &self,
        runs: &[sluice_store::Run],
        found: &mut Found,
        messages: &mut usize,
        bytes: &mut usize,
    ) -> Result<bool, Reply> {
        for run in runs {
            let (mut at, mut piece) = (0, 0..0);
            let mut full = false;
            for record in record::records(&run.bytes) {
                let record = record.map_err(|error| {
                    let at = run.log_offset.get() + at as u64;
                    Reply::refuse(ResponseCode::SYSTEM_ERROR, format!("record at log offset {at}: {error}"))
                })?;
                if self.wanted.takes(&record) {
                    if *messages > 0 && *bytes + record.size > self.bytes_max {
                        full = true;
                        break;
                    }
                    if piece.end == at {
                        piece.end += record.size;
                    } else {
                        found.body.push(run.bytes.slice(piece.clone()));
                        piece = at..at + record.size;
                    }
                    *messages += 1;
                    *bytes += record.size;
                }
                found.next = record.queue_offset + 1;
                at += record.size;
                if *messages == self.messages_max {
                    full = true;
                    break;
                }
            }
            found.body.push(run.bytes.slice(piece));
            if full {
                found.body.retain(|piece| !piece.is_empty());
                return Ok(true);
            }
        }
        found.body.retain(|piece| !piece.is_empty());
        Ok(false)
    }
}

impl Found {
    fn answer(&self, pull: &Pull, replies: &mut Replies) {
        let fields = response::PullMessage {
            suggest_which_broker_id: 0,
            group_sys_flag: None,
            next_begin_offset: self.next,
            max_offset: self.max,
            min_offset: self.min,
            topic_sys_flag: None,
        };
        let remark = match self.code {
            ResponseCode::SUCCESS => "FOUND",
            ResponseCode::PULL_RETRY_IMMEDIATELY => "NO_MATCHED_MESSAGE",
            ResponseCode::PULL_NOT_FOUND => "OFFSET_OVERFLOW_ONE",
            _ if self.next == self.min => "OFFSET_TOO_SMALL",
            _ => "OFFSET_OVERFLOW_BADLY",
        };
        let header = Header::response(self.code, pull.opaque, fields.fields()).with_remark(remark);
        replies.push(pull.kind, &header, &self.body);
    }
}

/// The queue of a number, if readers may have it.
pub(crate) fn read_queue(topic: &TopicName, queues: u32, number: i32) -> Result<QueueId, Reply> {
    if u32::try_from(number).is_ok_and(|number| number < queues) {
        return Ok(QueueId::new(number)?);
    }
    let remark = format!("topic {topic} has {queues} queues to read, there is none with number {number}");
    Err(Reply::refuse(ResponseCode::INVALID_PARAMETER, remark))
}

/// Brings the pages of a piece of the log into memory.
pub(crate) fn touch(bytes: &Bytes) {
    let sum = bytes.iter().step_by(4096).fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    std::hint::black_box(sum);
}

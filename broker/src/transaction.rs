//! Transactions: half messages that consumers do not see before their producer commits them; codes 37 and 39.
//!
//! As `RocketMQ`'s broker keeps them: a half stands in [`HALF`], and a record in [`DONE`] names the queue offsets of
//! those that have ended. A half whose end nobody told is stored again each time that its producer is asked, with the
//! number of the time, so that the first open half is never old and a restart has little to read. An end and what it
//! releases are one atomic batch: after a crash both are there or none.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::header::{Header, HeaderKind, ONE_WAY};
use sluice_protocol::id::{GroupName, LogOffset, QueueId, QueueOffset, TopicName};
use sluice_protocol::message::{self, Message, TAGS, UNIQ_KEY, sys_flag};
use sluice_protocol::message_id::MessageId;
use sluice_protocol::record::{self, Record};
use sluice_protocol::request;
use sluice_store::{Access, Batch, Error as StoreError, Store};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::access::Act;
use crate::broker::Broker;
use crate::dispatch::{Answer, Request, Turn};
use crate::divert::{Released, real};
use crate::outlet::{Outlet, Replies};
use crate::reply::Reply;
use crate::topic::own_topic;

/// The topic of half messages.
pub(crate) const HALF: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
/// The topic of ended halves.
pub(crate) const DONE: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
/// The topic of halves whose producers never told how they end.
const GIVEN_UP: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
/// The group whose committed offsets say from where the two are read.
const GROUP: &str = "CID_RMQ_SYS_TRANS";
/// Property: a message is a half.
pub(crate) const TRAN_MSG: &str = "TRAN_MSG";
/// Property: the id of the transaction, which is the message's own.
pub(crate) const TRANSACTION_ID: &str = "__transactionId__";
/// Property: the producer's group.
const PRODUCER_GROUP: &str = "PGROUP";
/// Property: how often the producer was asked.
const CHECK_TIMES: &str = "TRANSACTION_CHECK_TIMES";
/// Property: how long the producer is not asked, in s.
const IMMUNITY: &str = "CHECK_IMMUNITY_TIME_IN_SECONDS";
/// Bytes of halves that are read or stored again together.
const READ_BYTES: usize = 1 << 20;

/// When producers are asked how their transactions end.
#[derive(Clone, Copy, Debug)]
pub struct TransactionCheck {
    /// Not before a half is so old.
    pub after: Duration,
    /// How often.
    pub every: Duration,
    /// How many times; then the half goes to a topic of its own.
    pub times: u32,
}

impl Default for TransactionCheck {
    /// As `RocketMQ` 5.3.3.
    fn default() -> Self {
        Self { after: Duration::from_secs(6), every: Duration::from_secs(30), times: 15 }
    }
}

/// The halves that have not ended.
pub(crate) struct Transactions {
    half: TopicName,
    done: TopicName,
    group: GroupName,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By queue offset.
    open: BTreeMap<i64, Half>,
    /// Queue offsets under which a producer may still know an open half, with where that copy stands in the log and
    /// the offset of the last copy.
    earlier: HashMap<i64, (u64, i64)>,
    /// First offset of the queue of halves that was not looked at.
    read_to: i64,
    /// Queue offsets of records of ends, rising, each with that of its half.
    ends: VecDeque<(i64, i64)>,
}

/// An open half.
#[derive(Clone, Copy)]
struct Half {
    log_offset: u64,
    stored_ms: i64,
    immune_ms: i64,
    checks: u32,
}

impl Half {
    fn of(record: &Record<'_>, check: &TransactionCheck) -> Self {
        let number = |name| message::property(record.properties, name).and_then(|v| v.parse::<u32>().ok());
        let after = i64::try_from(check.after.as_millis()).unwrap_or(i64::MAX);
        Self {
            log_offset: record.log_offset,
            stored_ms: record.store_timestamp_ms,
            immune_ms: number(IMMUNITY).map_or(after, |seconds| i64::from(seconds) * 1000),
            checks: number(CHECK_TIMES).unwrap_or(0),
        }
    }
}

impl Transactions {
    /// What the store says of the halves that are open.
    pub(crate) fn load(store: &Store, check: &TransactionCheck) -> Result<Self, StoreError> {
        let group = GroupName::new(GROUP).expect("the broker's own names are names");
        let this = Self { half: own_topic(HALF), done: own_topic(DONE), group, state: Mutex::default() };
        let mut state = this.lock();
        let from =
            |topic| store.committed_offset(&this.group, topic, QueueId::ZERO).map_or(0, QueueOffset::get);
        state.read_to = from(&this.half);
        this.catch_up(&mut state, store, check)?;
        let mut ends = Vec::new();
        each_record(store, &this.done, from(&this.done), |record| {
            ends.push((record.queue_offset, String::from_utf8_lossy(record.body).into_owned()));
        })?;
        for (at, halves) in ends {
            for half in halves.split(',').filter_map(|half| half.trim().parse().ok()) {
                state.open.remove(&half);
                state.ends.push_back((at, half));
            }
        }
        let open = state.open.len();
        drop(state);
        if open > 0 {
            tracing::info!(open, "transactions of before are open");
        }
        Ok(this)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole once the store has taken it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up the halves that were stored since the last look.
    fn catch_up(&self, state: &mut State, store: &Store, check: &TransactionCheck) -> Result<(), StoreError> {
        let open = &mut state.open;
        state.read_to = each_record(store, &self.half, state.read_to, |record| {
            open.entry(record.queue_offset).or_insert_with(|| Half::of(record, check));
        })?;
        Ok(())
    }

    /// The record that ends a half.
    fn push_end(&self, batch: &mut Batch, broker: &Broker, half: i64) -> Result<(), Reply> {
        let mut properties = Vec::new();
        message::push_property(&mut properties, TAGS, "d").map_err(|e| failed(e.to_string()))?;
        let body = half.to_string();
        let born_timestamp_ms = broker.store.now_ms()?;
        let (born_host, store_host) = (broker.host, broker.host);
        let body = body.as_bytes();
        let end = Message {
            body,
            properties: &properties,
            born_timestamp_ms,
            born_host,
            store_host,
            ..Message::default()
        };
        Ok(batch.push(&self.done, QueueId::ZERO, &end)?)
    }

    /// Commits from where the two topics must be read after a restart.
    fn advance(&self, state: &mut State, store: &Store) -> Result<(), StoreError> {
        let first_open = state.open.keys().next().copied().unwrap_or(state.read_to);
        let mut ends_from = None;
        while let Some(&(at, half)) = state.ends.front()
            && half < first_open
        {
            ends_from = Some(at + 1);
            state.ends.pop_front();
        }
        for (topic, next) in [(&self.done, ends_from), (&self.half, Some(first_open))] {
            let Some(next) = next.map(QueueOffset::new) else { continue };
            if store.committed_offset(&self.group, topic, QueueId::ZERO) != Some(next) {
                store.commit_offset(&self.group, topic, QueueId::ZERO, next)?;
            }
        }
        Ok(())
    }
}

impl State {
    /// Forgets a half that is open no more.
    fn close(&mut self, half: i64) {
        self.open.remove(&half);
        self.earlier.retain(|_, (_, last)| *last != half);
    }

    /// A half has a newer copy, which its producer may or may not hear of.
    fn moved(&mut self, from: i64, to: i64, half: Half) {
        let Some(before) = self.open.remove(&from) else { return };
        self.earlier.values_mut().filter(|(_, last)| *last == from).for_each(|(_, last)| *last = to);
        self.earlier.insert(from, (before.log_offset, to));
        self.open.insert(to, half);
    }
}

/// Hands the records of a topic's first queue from an offset on to `take`; gives the offset after the last one.
fn each_record(
    store: &Store,
    topic: &TopicName,
    from: i64,
    mut take: impl FnMut(&Record<'_>),
) -> Result<i64, StoreError> {
    let Some((first, end)) = store.offsets(topic, QueueId::ZERO) else { return Ok(from) };
    let mut next = QueueOffset::new(from).clamp(first, end);
    while next < end {
        let read = match store.read_records(topic, QueueId::ZERO, next, READ_BYTES, usize::MAX) {
            // Retention passed it meanwhile.
            Err(StoreError::Expired { first, .. }) => {
                next = first;
                continue;
            }
            read => read?,
        };
        for record in read.runs.iter().flat_map(|run| record::records(&run.bytes)).map_while(Result::ok) {
            take(&record);
        }
        next = read.next;
    }
    Ok(next.get())
}

fn failed(remark: impl Into<std::borrow::Cow<'static, str>>) -> Reply {
    Reply::refuse(ResponseCode::SYSTEM_ERROR, remark)
}

/// Starts the task that asks producers.
pub(crate) fn start(broker: &Arc<Broker>, stop: &watch::Receiver<bool>, tasks: &mut JoinSet<()>) {
    let (broker, mut stop) = (Arc::clone(broker), stop.clone());
    tasks.spawn(async move {
        let every = broker.settings.transaction_check.every;
        while !*stop.borrow() {
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                _ = stop.changed() => break,
            }
            let checking = Arc::clone(&broker);
            match tokio::task::spawn_blocking(move || checking.check_transactions()).await {
                Ok(Ok(asked)) => {
                    for (outlet, request) in asked {
                        // A failed send has ended the connection; another producer is asked next time.
                        let _ = outlet.send(request).await;
                    }
                }
                Ok(Err(reply)) => {
                    let reason = reply.remark.unwrap_or_default();
                    tracing::warn!(%reason, "open transactions can not be checked, trying again");
                }
                Err(_) => return,
            }
        }
    });
}

impl Broker {
    /// A producer says how its transaction ends.
    pub(crate) fn end_transaction(
        &self,
        request: &Request<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Reply> {
        let end = request::EndTransaction::parse(&request.header.fields)?;
        let commit = match end.commit_or_rollback {
            sys_flag::TRANSACTION_COMMIT => true,
            sys_flag::TRANSACTION_ROLLBACK => false,
            // Not known yet: it will be asked again.
            _ => return Ok(Reply::ok().into()),
        };
        let transactions = &self.transactions;
        let mut state = transactions.lock();
        transactions.catch_up(&mut state, &self.store, &self.settings.transaction_check)?;
        let asked = end.tran_state_table_offset;
        let (log_offset, now) = match (state.open.get(&asked), state.earlier.get(&asked)) {
            (Some(half), _) => (half.log_offset, asked),
            (None, Some(&earlier)) => earlier,
            (None, None) => {
                let remark = format!("no open transaction has its half at queue offset {asked}");
                return Err(failed(remark));
            }
        };
        if i64::try_from(log_offset) != Ok(end.commit_log_offset) {
            let remark = format!("the half at queue offset {asked} stands at log offset {log_offset}");
            return Err(failed(remark));
        }
        let bytes = self.store.record(LogOffset::new(log_offset));
        let bytes = bytes.ok_or_else(|| failed(format!("the half at log offset {log_offset} is gone")))?;
        let half = Record::decode(&bytes).map_err(|error| failed(error.to_string()))?;
        if message::property(half.properties, PRODUCER_GROUP) != Some(end.producer_group) {
            let remark = format!("the transaction is not one of producer group {}", end.producer_group);
            return Err(failed(remark));
        }
        self.permit_record(request, turn.outlet.peer, Act::Publish, &half)?;
        let mut released = Released::default();
        transactions.push_end(&mut released.batch, self, now)?;
        if commit {
            let message = Message {
                store_host: self.host,
                sys_flag: half.sys_flag & !sys_flag::TRANSACTION | sys_flag::TRANSACTION_COMMIT,
                prepared_transaction_offset: end.commit_log_offset,
                ..half.message()
            };
            released.push(self, half.properties, &message).map_err(failed)?;
        }
        released.batch.atomic();
        let (answer, appended) = turn.store(self, request, released.batch, released.places)?;
        state.close(now);
        state.ends.push_back((appended.queue_offsets.first().map_or(0, |end| end.get()), now));
        Ok(answer)
    }

    /// Stores the halves again whose ends should be known by now, and gives the questions to their producers.
    fn check_transactions(&self) -> Result<Vec<(Arc<Outlet>, Replies)>, Reply> {
        let transactions = &self.transactions;
        let mut asked = Vec::new();
        let mut state = transactions.lock();
        transactions.catch_up(&mut state, &self.store, &self.settings.transaction_check)?;
        let now = self.store.now_ms()?;
        // A clock that was set back does not keep them from being asked for.
        let is_due = |half: &Half| now - half.stored_ms >= half.immune_ms || now < half.stored_ms;
        let due = state.open.iter().filter(|(_, half)| is_due(half)).map(|(at, half)| (*at, *half));
        let mut due: VecDeque<(i64, Half)> = due.collect();
        while !due.is_empty() {
            asked.extend(self.check_some(&mut state, &mut due)?);
        }
        transactions.advance(&mut state, &self.store)?;
        Ok(asked)
    }

    /// The same for the first of some halves, which one batch ends and stores again.
    fn check_some(
        &self,
        state: &mut State,
        due: &mut VecDeque<(i64, Half)>,
    ) -> Result<Vec<(Arc<Outlet>, Replies)>, Reply> {
        let (transactions, times) = (&self.transactions, self.settings.transaction_check.times);
        let mut batch = Batch::new();
        let mut checked = Vec::new();
        while batch.bytes() < READ_BYTES
            && let Some((at, half)) = due.pop_front()
        {
            let Some(bytes) = self.store.record(LogOffset::new(half.log_offset)) else {
                tracing::warn!(queue_offset = at, "retention dropped a half whose transaction was open");
                state.close(at);
                continue;
            };
            let record = Record::decode(&bytes).map_err(|error| failed(error.to_string()))?;
            let given_up = half.checks >= times;
            let topic = if given_up { own_topic(GIVEN_UP) } else { transactions.half.clone() };
            if given_up {
                tracing::warn!(
                    queue_offset = at,
                    times,
                    "nobody told how a transaction ends: its half goes to {GIVEN_UP}"
                );
                self.topic_or_make(&topic, Access::all(1))?;
            }
            let checks = half.checks + u32::from(!given_up);
            let mut properties = record.properties.to_vec();
            let set = message::set_property(&mut properties, CHECK_TIMES, &checks.to_string());
            set.map_err(|error| failed(error.to_string()))?;
            transactions.push_end(&mut batch, self, at)?;
            let copy = Message { properties: &properties, store_host: self.host, ..record.message() };
            batch.push(&topic, QueueId::ZERO, &copy)?;
            checked.push((at, Half { checks, ..half }, given_up));
        }
        batch.atomic();
        let appended = self.store.append(batch)?;
        let (offsets, _) = appended.queue_offsets.as_chunks();
        let mut asked = Vec::new();
        for ((at, half, given_up), [end, moved]) in checked.into_iter().zip(offsets) {
            state.ends.push_back((end.get(), at));
            if given_up {
                state.close(at);
            } else if let Some((copy, log_offset)) = self.copy_of(&transactions.half, moved.get()) {
                let stored_ms = appended.store_timestamp_ms;
                state.moved(at, moved.get(), Half { log_offset, stored_ms, ..half });
                asked.extend(self.question(&copy));
            }
        }
        Ok(asked)
    }

    /// The record at an offset of the queue of halves, and where it stands.
    fn copy_of(&self, topic: &TopicName, at: i64) -> Option<(bytes::Bytes, u64)> {
        let read = self.store.read_records(topic, QueueId::ZERO, QueueOffset::new(at), 1, 1).ok()?;
        let run = read.runs.into_iter().next()?;
        Some((run.bytes, run.log_offset.get()))
    }

    /// The question how a half ends, for one of its producers, if any is there.
    fn question(&self, half: &[u8]) -> Option<(Arc<Outlet>, Replies)> {
        let half = Record::decode(half).ok()?;
        let outlet = self.groups.producer(message::property(half.properties, PRODUCER_GROUP)?)?;
        let (topic, queue) = real(half.properties)?;
        let mut body = Vec::new();
        record::encode(&mut body, topic.as_str(), queue, &half.message()).ok()?;
        record::patch(&mut body, half.queue_offset, half.log_offset, half.store_timestamp_ms);
        let id = message::property(half.properties, UNIQ_KEY);
        let log_offset = LogOffset::new(half.log_offset);
        let offset_id = MessageId { store_host: half.store_host, log_offset }.to_string();
        let fields = request::CheckTransactionState {
            topic: Some(HALF),
            tran_state_table_offset: half.queue_offset,
            commit_log_offset: i64::try_from(half.log_offset).ok()?,
            msg_id: id,
            transaction_id: id,
            offset_msg_id: Some(&offset_id),
            broker_name: Some(&self.settings.name),
        };
        let mut header = Header::request(RequestCode::CHECK_TRANSACTION_STATE, 0, fields.fields());
        header.flag |= ONE_WAY;
        let mut request = Replies::default();
        request.push(HeaderKind::Json, &header, &[body.into()]);
        Some((outlet, request))
    }
}

//! The broker's state, and which of its handlers takes which request.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use sluice_protocol::body::KvTable;
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::id::LogOffset;
use sluice_protocol::message::{REAL_TOPIC, property};
use sluice_protocol::record::Record;
use sluice_protocol::request;
use sluice_store::Store;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::Settings;
use crate::access::Act;
use crate::assign::Modes;
use crate::dispatch::{Answer, Request, Turn};
use crate::flusher::Flusher;
use crate::group::Groups;
use crate::lease::Held;
use crate::long_poll::LongPoll;
use crate::metrics::Metrics;
use crate::name_server::NameServer;
use crate::reply::Reply;
use crate::reset::Resets;
use crate::send::UniqueKeys;
use crate::subscription::Expressions;
use crate::timer::Timers;
use crate::topic::is_system;
use crate::transaction::Transactions;

/// How long the advertised name is looked up.
const LOOKUP_MAX: Duration = Duration::from_secs(3);

/// One broker.
pub(crate) struct Broker {
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) groups: Groups,
    pub(crate) filters: Expressions,
    pub(crate) long_poll: Arc<LongPoll>,
    pub(crate) flusher: Flusher,
    pub(crate) held: Held,
    pub(crate) modes: Modes,
    pub(crate) transactions: Transactions,
    pub(crate) timers: Timers,
    pub(crate) resets: Resets,
    pub(crate) metrics: Metrics,
    /// The address that stands in records and message ids.
    pub(crate) host: SocketAddr,
    pub(crate) unique_keys: UniqueKeys,
    /// The name server of this process.
    pub(crate) name_server: Option<Arc<NameServer>>,
    /// Wakes who tells the other name servers of a change, each of them.
    pub(crate) topics_changed: watch::Sender<()>,
    pub(crate) started_ms: i64,
    /// Whether answers to sends wait until the messages are durable.
    pub(crate) sync: bool,
}

impl Broker {
    /// Answers a request; `None` if it is not for a broker.
    pub(crate) fn handle(
        self: &Arc<Self>,
        request: &Request<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Option<Answer>, Reply> {
        use RequestCode as C;
        let reply = match request.header.request_code() {
            C::PULL_MESSAGE | C::LITE_PULL_MESSAGE => {
                return self.pull(request, turn).map(Some);
            }
            C::POP_MESSAGE => return self.pop(request, turn).map(Some),
            C::ACK_MESSAGE => return self.ack(request, turn).map(Some),
            C::BATCH_ACK_MESSAGE => return self.batch_ack(request, turn).map(Some),
            C::CHANGE_MESSAGE_INVISIBLETIME => return self.change_invisible_time(request, turn).map(Some),
            C::PEEK_MESSAGE => self.peek(request)?,
            C::POLLING_INFO => self.polling_info(request)?,
            C::NOTIFICATION => return self.notification(request, turn).map(Some),
            C::QUERY_ASSIGNMENT => return self.query_assignment(request, turn).map(Some),
            C::SET_MESSAGE_REQUEST_MODE => self.set_request_mode(request)?,
            C::GET_ALL_MESSAGE_REQUEST_MODE => self.request_modes(),
            C::CONSUMER_SEND_MSG_BACK => return self.send_back(request, turn).map(Some),
            C::END_TRANSACTION => return self.end_transaction(request, turn).map(Some),
            C::HEART_BEAT => self.heartbeat(request, turn.outlet, &mut turn.replies)?,
            C::UNREGISTER_CLIENT => self.unregister(request)?,
            C::LOCK_BATCH_MQ => self.lock_queues(request, turn.outlet.id)?,
            C::UNLOCK_BATCH_MQ => self.unlock_queues(request)?,
            C::GET_CONSUMER_LIST_BY_GROUP => self.consumer_list(request)?,
            C::CHECK_CLIENT_CONFIG => self.check_client(request)?,
            C::GET_CONSUMER_CONNECTION_LIST => self.consumer_connection(request)?,
            C::GET_PRODUCER_CONNECTION_LIST => self.producer_connection(request)?,
            C::QUERY_CONSUMER_OFFSET => self.query_offset(request)?,
            C::UPDATE_CONSUMER_OFFSET => self.commit_offset(request)?,
            C::GET_MAX_OFFSET => self.max_offset(request)?,
            C::GET_MIN_OFFSET => self.min_offset(request)?,
            C::SEARCH_OFFSET_BY_TIMESTAMP => self.search_offset(request)?,
            C::GET_EARLIEST_MSG_STORETIME => self.earliest_time(request)?,
            C::GET_CONSUME_STATS => self.consume_stats(request)?,
            C::GET_CONSUMER_RUNNING_INFO | C::CONSUME_MESSAGE_DIRECTLY => {
                return self.relay(request, turn).map(Some);
            }
            C::INVOKE_BROKER_TO_RESET_OFFSET => self.reset_offset(request)?,
            C::RECALL_MESSAGE => return self.recall(request, turn).map(Some),
            C::QUERY_MESSAGE => return self.query_message(request, turn).map(Some),
            C::VIEW_MESSAGE_BY_ID => self.view_message(request, turn.outlet.peer)?,
            C::UPDATE_AND_CREATE_TOPIC => self.update_topic(request)?,
            C::DELETE_TOPIC_IN_BROKER => self.delete_topic(request)?,
            C::GET_TOPIC_CONFIG => self.topic_config(request)?,
            C::GET_ALL_TOPIC_CONFIG => Reply::body(self.topic_table().encode()),
            C::GET_TOPIC_STATS_INFO => self.topic_stats(request)?,
            C::QUERY_TOPIC_CONSUME_BY_WHO => self.topic_groups(request)?,
            C::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => self.update_group(request)?,
            C::GET_SUBSCRIPTIONGROUP_CONFIG => self.group_config(request)?,
            C::GET_ALL_SUBSCRIPTIONGROUP_CONFIG => Reply::body(self.group_table().encode()),
            C::UPDATE_AND_CREATE_TOPIC_LIST => self.update_topics(request)?,
            C::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST => self.update_groups(request)?,
            C::DELETE_SUBSCRIPTIONGROUP => self.delete_group(request)?,
            C::GET_BROKER_CONFIG => self.broker_config(),
            C::GET_SYSTEM_TOPIC_LIST_FROM_BROKER => self.own_topics(),
            C::CLEAN_EXPIRED_CONSUMEQUEUE | C::CLEAN_UNUSED_TOPIC | C::DELETE_EXPIRED_COMMITLOG => {
                self.drop_expired()?
            }
            C::QUERY_TOPICS_BY_CONSUMER => self.topics_of_group(request)?,
            C::QUERY_SUBSCRIPTION_BY_CONSUMER => self.subscription(request)?,
            C::QUERY_CONSUME_TIME_SPAN => self.time_spans(request)?,
            C::QUERY_CONSUME_QUEUE => self.consume_queue(request)?,
            C::GET_ALL_PRODUCER_INFO => self.all_producers()?,
            C::GET_BROKER_CONSUME_STATS => self.all_consume_stats(),
            C::GET_BROKER_RUNTIME_INFO => Reply::body(self.runtime().encode()),
            _ => return Ok(None),
        };
        Ok(Some(reply.into()))
    }

    /// One message by its place in the log.
    fn view_message(&self, request: &Request<'_>, peer: SocketAddr) -> Result<Reply, Reply> {
        let asked = request::ViewMessage::parse(&request.header.fields)?;
        let at = u64::try_from(asked.offset).ok().map(LogOffset::new);
        let Some(record) = at.and_then(|at| self.store.record(at)) else {
            let remark = format!("no message stands at log offset {}", asked.offset);
            return Err(Reply::refuse(ResponseCode::SYSTEM_ERROR, remark));
        };
        let decoded = Record::decode(&record).map_err(|error| {
            let remark = format!("the record at log offset {}: {error}", asked.offset);
            Reply::refuse(ResponseCode::SYSTEM_ERROR, remark)
        })?;
        self.permit_record(request, peer, Act::Subscribe, &decoded)?;
        Ok(Reply { body: vec![record], ..Reply::ok() })
    }

    /// Whether a caller may do that with a message that it named by its place alone.
    pub(crate) fn permit_record(
        &self,
        request: &Request<'_>,
        peer: SocketAddr,
        act: Act,
        record: &Record<'_>,
    ) -> Result<(), Reply> {
        // One that waits for its time or its end is of the topic that it is for.
        let real = is_system(record.topic).then(|| property(record.properties, REAL_TOPIC)).flatten();
        request.caller.may(act, real.unwrap_or(record.topic)).map_err(|denied| {
            self.settings.security.denied(&denied, request, peer);
            denied.into()
        })
    }

    /// What the broker tells of itself, as `mqadmin clusterList` reads it.
    fn runtime(&self) -> KvTable {
        let mut table: BTreeMap<String, String> = BTreeMap::new();
        let mut tell = |name: &str, value: String| drop(table.insert(name.to_owned(), value));
        tell("brokerActive", "true".to_owned());
        tell("brokerVersion", sluice_protocol::version::CURRENT.to_string());
        tell("brokerVersionDesc", concat!("Sluice ", env!("CARGO_PKG_VERSION")).to_owned());
        tell("bootTimestamp", self.started_ms.to_string());
        tell("commitLogMaxOffset", self.store.log_end().get().to_string());
        for rate in ["putTps", "getTransferredTps", "getTotalTps", "getFoundTps", "getMissTps"] {
            tell(rate, "0.0 0.0 0.0".to_owned());
        }
        for queue in ["send", "pull", "ack"] {
            tell(&format!("{queue}ThreadPoolQueueSize"), "0".to_owned());
            tell(&format!("{queue}ThreadPoolQueueHeadWaitTimeMills"), "0".to_owned());
        }
        for zero in [
            "pageCacheLockTimeMills",
            "timerReadBehind",
            "timerOffsetBehind",
            "timerCongestNum",
            "earliestMessageTimeStamp",
            "msgPutTotalYesterdayMorning",
            "msgPutTotalTodayMorning",
            "msgPutTotalTodayNow",
            "msgGetTotalYesterdayMorning",
            "msgGetTotalTodayMorning",
            "msgGetTotalTodayNow",
        ] {
            tell(zero, "0".to_owned());
        }
        for rate in ["timerEnqueueTps", "timerDequeueTps", "commitLogDiskRatio"] {
            tell(rate, "0.0".to_owned());
        }
        KvTable { table }
    }
}

/// The address that stands in records and message ids, which clients ask for a message by: what they are told, or
/// where the broker listens at every address, this machine's.
pub(crate) async fn record_host(settings: &Settings) -> SocketAddr {
    if let Some(advertised) = &settings.advertise {
        match timeout(LOOKUP_MAX, tokio::net::lookup_host(advertised)).await {
            // Clients of all versions read the ids of four-byte addresses.
            Ok(Ok(found)) => match found.min_by_key(SocketAddr::is_ipv6) {
                Some(addr) => return addr,
                None => tracing::warn!(advertised, "has no address; message ids name another one"),
            },
            Ok(Err(error)) => {
                tracing::warn!(advertised, %error, "not found; message ids name another address")
            }
            Err(_) => tracing::warn!(advertised, "not found in time; message ids name another address"),
        }
    }
    let ip = settings.listen.ip();
    let ip = if ip.is_unspecified() { own_ip().unwrap_or(Ipv4Addr::LOCALHOST.into()) } else { ip };
    SocketAddr::new(ip, settings.listen.port())
}

/// The address that this machine has towards others; asks the system, sends nothing.
fn own_ip() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // An address of nobody (RFC 5737): the way to it is the way to anybody.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

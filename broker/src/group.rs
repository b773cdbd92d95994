//! Who is there: clients with their producer and consumer groups, from heartbeats; codes 34, 35, 38, 46, 203, 204.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use sluice_protocol::body::ConsumerList;
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::header::{Header, HeaderKind, Language, ONE_WAY};
use sluice_protocol::heartbeat::{
    AllProducers, CheckClientConfig, Connection, ConsumeFromWhere, ConsumeType, ConsumerConnection,
    ConsumerData, Heartbeat, MessageModel, Producer, ProducerConnection, SubscriptionData,
};
use sluice_protocol::id::{GroupName, TopicName};
use sluice_protocol::topic::{SubscriptionGroupConfig, SubscriptionGroupTable};
use sluice_protocol::{request, response};
use sluice_store::Store;
use tokio::time::Instant;

use crate::broker::Broker;
use crate::dispatch::Request;
use crate::lock::Locks;
use crate::metrics;
use crate::outlet::{Outlet, Replies};
use crate::pull::Wanted;
use crate::reply::Reply;
use crate::subscription::Expressions;

/// A client that sent no heartbeat for this long is gone, unless its heartbeats ask for less.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// The least that they may ask for.
const LEASE_MIN: Duration = Duration::from_secs(1);
/// Clients of one group.
const CLIENTS_MAX: usize = 10_000;
/// Groups and subscriptions of one heartbeat.
const ENTRIES_MAX: usize = 10_000;
/// Longest client id, in bytes.
const CLIENT_ID_BYTES_MAX: usize = 1024;

/// Longest list of subscriptions in a log line, in characters.
const SHOWN_CHARS_MAX: usize = 300;
/// Hashes of subscriptions are compared within this process alone.
const FIXED: BuildHasherDefault<DefaultHasher> = BuildHasherDefault::new();

/// Groups of tools and of clients' own, which need no settings (`RocketMQ` 5.3.3).
const SYSTEM: [&str; 10] = [
    "DEFAULT_CONSUMER",
    "DEFAULT_PRODUCER",
    "TOOLS_CONSUMER",
    "SCHEDULE_CONSUMER",
    "FILTERSRV_CONSUMER",
    "__MONITOR_CONSUMER",
    "SELF_TEST_C_GROUP",
    "SELF_TEST_P_GROUP",
    "CLIENT_INNER_PRODUCER",
    "CID_ONSAPI_OWNER",
];

/// The groups that have clients now, and the settings of all.
pub(crate) struct Groups {
    pub(crate) locks: Locks,
    tables: Mutex<Tables>,
    settings: RwLock<HashMap<GroupName, Arc<SubscriptionGroupConfig>>>,
}

#[derive(Default)]
struct Tables {
    consumers: HashMap<GroupName, Consumers>,
    producers: HashMap<String, BTreeMap<String, Client>>,
}

/// A client of a group.
struct Client {
    outlet: Arc<Outlet>,
    language: Language,
    version: i32,
    seen: Instant,
    /// How long it may be silent.
    lease: Duration,
    /// A consumer's subscriptions, hashed.
    wants: u64,
}

/// The clients of a consumer group and what they want.
#[derive(Default)]
struct Consumers {
    clients: BTreeMap<String, Client>,
    consume_type: Option<ConsumeType>,
    model: Option<MessageModel>,
    from: Option<ConsumeFromWhere>,
    /// By topic, as the client that changed it last said.
    subscriptions: BTreeMap<String, (SubscriptionData, Wanted)>,
    /// Whether it was said that the group's clients want different things.
    told: bool,
}

impl Groups {
    /// No clients yet; the settings that the store has.
    pub(crate) fn new(store: &Store) -> Self {
        let of_group = |group: GroupName| {
            let settings = SubscriptionGroupConfig::decode(store.group(&group)?.as_bytes()).ok()?;
            Some((group, Arc::new(settings)))
        };
        let settings = store.groups().into_iter().filter_map(of_group).collect();
        Self { locks: Locks::default(), tables: Mutex::default(), settings: RwLock::new(settings) }
    }

    /// The settings of a group, if it is known.
    pub(crate) fn settings(&self, group: &GroupName) -> Option<Arc<SubscriptionGroupConfig>> {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = settings.get(group) {
            return Some(Arc::clone(known));
        }
        let system = SYSTEM.contains(&group.as_str()) || group.as_str().starts_with("CID_RMQ_SYS_");
        system.then(Arc::default)
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a group wants of a topic, as its heartbeats say.
    pub(crate) fn wanted(&self, group: &GroupName, topic: &TopicName, version: i64) -> Result<Wanted, Reply> {
        let tables = self.lock();
        let Some(consumers) = tables.consumers.get(group) else {
            let remark = format!("no client of group {group} has sent a heartbeat");
            return Err(Reply::refuse(ResponseCode::SUBSCRIPTION_NOT_EXIST, remark));
        };
        let Some((subscription, wanted)) = consumers.subscriptions.get(topic.as_str()) else {
            let remark = format!("group {group} does not subscribe to topic {topic}");
            return Err(Reply::refuse(ResponseCode::SUBSCRIPTION_NOT_EXIST, remark));
        };
        if subscription.sub_version < version {
            let remark =
                format!("the subscription of group {group} to topic {topic} is older than the client's");
            return Err(Reply::refuse(ResponseCode::SUBSCRIPTION_NOT_LATEST, remark));
        }
        Ok(wanted.clone())
    }

    /// All groups that have settings.
    pub(crate) fn names(&self) -> Vec<GroupName> {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<GroupName> = settings.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// Forgets the settings of a group.
    pub(crate) fn forget(&self, group: &GroupName) {
        self.settings.write().unwrap_or_else(PoisonError::into_inner).remove(group);
    }

    /// What a group subscribes to, by topic.
    pub(crate) fn subscriptions(&self, group: &GroupName) -> BTreeMap<String, SubscriptionData> {
        let tables = self.lock();
        let subscriptions = tables.consumers.get(group).into_iter().flat_map(|c| &c.subscriptions);
        subscriptions.map(|(topic, (data, _))| (topic.clone(), data.clone())).collect()
    }

    /// The clients of all producer groups.
    pub(crate) fn all_producers(&self, now_ms: i64) -> AllProducers {
        let tables = self.lock();
        let producer = |(id, client): (&String, &Client)| Producer {
            client_id: id.clone(),
            language: client.language.name().unwrap_or("OTHER").to_owned(),
            last_update_timestamp: now_ms
                - i64::try_from(client.seen.elapsed().as_millis()).unwrap_or(i64::MAX),
            remote_ip: client.outlet.peer.to_string(),
            version: client.version,
        };
        let groups = tables.producers.iter();
        AllProducers {
            data: groups.map(|(group, all)| (group.clone(), all.iter().map(producer).collect())).collect(),
        }
    }

    /// The clients of a consumer group, sorted.
    pub(crate) fn client_ids(&self, group: &GroupName) -> Vec<String> {
        let tables = self.lock();
        tables
            .consumers
            .get(group)
            .map(|consumers| consumers.clients.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// A client of a consumer group.
    pub(crate) fn consumer(&self, group: &GroupName, client_id: &str) -> Option<Arc<Outlet>> {
        let tables = self.lock();
        tables.consumers.get(group)?.clients.get(client_id).map(|client| Arc::clone(&client.outlet))
    }

    /// A client of any producer group.
    pub(crate) fn producer_client(&self, client_id: &str) -> Option<Arc<Outlet>> {
        let tables = self.lock();
        let client = tables.producers.values().find_map(|clients| clients.get(client_id));
        client.map(|client| Arc::clone(&client.outlet))
    }

    /// A client of a producer group, each in turn.
    pub(crate) fn producer(&self, group: &str) -> Option<Arc<Outlet>> {
        static TURN: AtomicUsize = AtomicUsize::new(0);
        let tables = self.lock();
        let clients = tables.producers.get(group)?;
        let turn = TURN.fetch_add(1, Ordering::Relaxed).checked_rem(clients.len())?;
        clients.values().nth(turn).map(|client| Arc::clone(&client.outlet))
    }

    /// A connection ended: its clients left all of their groups.
    pub(crate) fn left(&self, outlet: &Arc<Outlet>) {
        self.remove(|_, client| client.outlet.id == outlet.id);
        self.locks.left(outlet.id);
    }

    /// Drops the clients that are silent.
    pub(crate) fn expire(&self) {
        self.remove(|_, client| client.seen.elapsed() > client.lease);
        self.locks.expire(Instant::now());
    }

    fn remove(&self, gone: impl Fn(&str, &Client) -> bool) {
        let mut tables = self.lock();
        let mut changed = Vec::new();
        for (group, consumers) in &mut tables.consumers {
            let before = consumers.clients.len();
            consumers.clients.retain(|id, client| {
                let gone = gone(id, client);
                if gone {
                    self.locks.release(group, id, None);
                }
                !gone
            });
            if consumers.clients.len() < before {
                changed.push((group.clone(), consumers.outlets()));
            }
        }
        tables.consumers.retain(|_, consumers| !consumers.clients.is_empty());
        for clients in tables.producers.values_mut() {
            clients.retain(|id, client| !gone(id, client));
        }
        tables.producers.retain(|_, clients| !clients.is_empty());
        drop(tables);
        for (group, outlets) in changed {
            notify(&group, outlets);
        }
    }

    fn leave(&self, client_id: &str, producer: Option<&str>, consumer: Option<&str>) {
        let mut tables = self.lock();
        if let Some(clients) = producer.and_then(|group| tables.producers.get_mut(group)) {
            clients.remove(client_id);
        }
        tables.producers.retain(|_, clients| !clients.is_empty());
        let Some(group) = consumer.and_then(|group| GroupName::new(group).ok()) else { return };
        // After a restart it may hold some before its first heartbeat.
        self.locks.release(&group, client_id, None);
        let Some(consumers) = tables.consumers.get_mut(&group) else { return };
        let left = consumers.clients.remove(client_id).is_some();
        let outlets = consumers.outlets();
        if outlets.is_empty() {
            tables.consumers.remove(&group);
        }
        drop(tables);
        if left {
            notify(&group, outlets);
        }
    }

    /// Takes a consumer's part of a heartbeat; says whether the group's other clients must hear of it.
    fn join(
        &self,
        client_id: &str,
        mut client: Client,
        group: &GroupName,
        data: &ConsumerData,
        expressions: &Expressions,
    ) -> Result<Option<Vec<Arc<Outlet>>>, Reply> {
        let mut tables = self.lock();
        let consumers = tables.consumers.entry(group.clone()).or_default();
        consumers.consume_type = data.consume_type.or(consumers.consume_type);
        consumers.model = data.message_model.or(consumers.model);
        consumers.from = data.consume_from_where.or(consumers.from);
        let mut changed = false;
        for subscription in &data.subscription_data_set {
            let known = consumers.subscriptions.get(&subscription.topic);
            if let Some((known, _)) = known
                && (known.sub_version > subscription.sub_version
                    || known.sub_string == subscription.sub_string
                        && known.expression_type == subscription.expression_type)
            {
                if known.sub_string == subscription.sub_string
                    && known.sub_version < subscription.sub_version
                    && let Some((known, _)) = consumers.subscriptions.get_mut(&subscription.topic)
                {
                    known.sub_version = subscription.sub_version;
                }
                continue;
            }
            let wanted = expressions.compile(&subscription.expression_type, &subscription.sub_string)?;
            changed = true;
            consumers.subscriptions.insert(subscription.topic.clone(), (subscription.clone(), wanted));
        }
        // What the group's only client does not name any more, nobody wants.
        if consumers.clients.len() <= 1 && consumers.clients.keys().all(|id| id == client_id) {
            let before = consumers.subscriptions.len();
            consumers
                .subscriptions
                .retain(|topic, _| data.subscription_data_set.iter().any(|s| s.topic == *topic));
            changed |= consumers.subscriptions.len() != before;
        }
        if consumers.clients.len() >= CLIENTS_MAX && !consumers.clients.contains_key(client_id) {
            let remark = format!("group {group} has {CLIENTS_MAX} clients already");
            return Err(Reply::refuse(ResponseCode::SYSTEM_BUSY, remark));
        }
        let wants: BTreeSet<_> = data.subscription_data_set.iter().map(wants).collect();
        client.wants = FIXED.hash_one(&wants);
        consumers.compare(client_id, client.wants, group, &wants);
        let outlet = client.outlet.id;
        let before = consumers.clients.insert(client_id.to_owned(), client);
        changed |= before.is_none_or(|before| before.outlet.id != outlet);
        Ok(changed.then(|| consumers.outlets()))
    }
}

/// Topic, kind and expression of a subscription.
fn wants(subscription: &SubscriptionData) -> [&str; 3] {
    let SubscriptionData { topic, expression_type, sub_string, .. } = subscription;
    [topic, expression_type, sub_string]
}

impl Consumers {
    fn outlets(&self) -> Vec<Arc<Outlet>> {
        self.clients.values().map(|client| Arc::clone(&client.outlet)).collect()
    }

    /// Tells when a client wants something else than another one: each message goes to one of them, and that one
    /// may not want it. It is counted each time, and logged once until they agree.
    fn compare(&mut self, client_id: &str, hash: u64, group: &GroupName, wants: &BTreeSet<[&str; 3]>) {
        let differs = |(id, other): &(&String, &Client)| *id != client_id && other.wants != hash;
        let Some((other, _)) = self.clients.iter().find(differs) else {
            self.told = false;
            return;
        };
        metrics::subscriptions_conflict();
        if !std::mem::replace(&mut self.told, true) {
            let wants: Vec<String> = wants.iter().map(|wants| wants.join(" ")).collect();
            let wants: String = wants.join("; ").chars().take(SHOWN_CHARS_MAX).collect();
            tracing::warn!(
                %group, client = client_id, other, wants,
                "clients of one group subscribe differently: a message may go to one that does not want it, and is \
                 lost to the group; give them the same subscriptions, or groups of their own"
            );
        }
    }
}

/// Tells clients that the clients of their group changed, so that they share the queues anew.
fn notify(group: &GroupName, outlets: Vec<Arc<Outlet>>) {
    for outlet in outlets {
        let replies = changed(group);
        // A failed send has ended the connection, and so the client has left.
        tokio::spawn(async move { outlet.send(replies).await });
    }
}

fn changed(group: &GroupName) -> Replies {
    let fields = request::NotifyConsumerIdsChanged { consumer_group: group.as_str() };
    let mut header = Header::request(RequestCode::NOTIFY_CONSUMER_IDS_CHANGED, 0, fields.fields());
    header.flag |= ONE_WAY;
    let mut replies = Replies::default();
    replies.push(HeaderKind::Json, &header, &[]);
    replies
}

impl Broker {
    /// The settings of a group; one that is not known yet is made.
    pub(crate) fn group(&self, group: &GroupName) -> Result<Arc<SubscriptionGroupConfig>, Reply> {
        if let Some(known) = self.groups.settings(group) {
            return Ok(known);
        }
        let made =
            SubscriptionGroupConfig { group_name: group.to_string(), ..SubscriptionGroupConfig::default() };
        self.set_group(group, made)
    }

    pub(crate) fn set_group(
        &self,
        group: &GroupName,
        settings: SubscriptionGroupConfig,
    ) -> Result<Arc<SubscriptionGroupConfig>, Reply> {
        let text = String::from_utf8(settings.encode()).unwrap_or_default();
        // It waits for the disk.
        tokio::task::block_in_place(|| self.store.set_group(group, &text))?;
        self.make_retry_topic(group)?;
        let settings = Arc::new(settings);
        let mut table = self.groups.settings.write().unwrap_or_else(PoisonError::into_inner);
        table.insert(group.clone(), Arc::clone(&settings));
        Ok(settings)
    }

    /// Makes a consumer group, or changes its settings.
    pub(crate) fn update_group(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = SubscriptionGroupConfig::decode(request.body)?;
        let group = GroupName::new(&asked.group_name)?;
        self.set_group(&group, asked).map(|_| Reply::ok())
    }

    /// The settings of one group.
    pub(crate) fn group_config(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::GetSubscriptionGroupConfig::parse(&request.header.fields)?;
        Ok(Reply::body(self.group(&GroupName::new(asked.group)?)?.encode()))
    }

    /// The settings of all groups.
    pub(crate) fn group_table(&self) -> SubscriptionGroupTable {
        let settings = self.groups.settings.read().unwrap_or_else(PoisonError::into_inner);
        let table = settings.iter().map(|(group, settings)| (group.to_string(), (**settings).clone()));
        SubscriptionGroupTable {
            subscription_group_table: table.collect(),
            ..SubscriptionGroupTable::default()
        }
    }

    pub(crate) fn heartbeat(
        &self,
        request: &Request<'_>,
        outlet: &Arc<Outlet>,
        replies: &mut Replies,
    ) -> Result<Reply, Reply> {
        let heartbeat = Heartbeat::decode(request.body)?;
        let id = heartbeat.client_id.as_str();
        if id.is_empty() || id.len() > CLIENT_ID_BYTES_MAX {
            let remark = format!("a client id has 1 to {CLIENT_ID_BYTES_MAX} bytes");
            return Err(Reply::refuse(ResponseCode::INVALID_PARAMETER, remark));
        }
        let subscriptions: usize =
            heartbeat.consumer_data_set.iter().map(|c| c.subscription_data_set.len()).sum();
        if heartbeat.consumer_data_set.len() + heartbeat.producer_data_set.len() + subscriptions > ENTRIES_MAX
        {
            let remark = format!("a heartbeat holds {ENTRIES_MAX} groups and subscriptions at most");
            return Err(Reply::refuse(ResponseCode::INVALID_PARAMETER, remark));
        }
        let asked = request::Heartbeat::parse(&request.header.fields)?.lease_ms;
        let asked = asked.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
        let lease = asked.map_or(SILENCE_MAX, |asked| asked.clamp(LEASE_MIN, SILENCE_MAX));
        let client = || Client {
            outlet: Arc::clone(outlet),
            lease,
            language: request.header.language,
            version: request.header.version,
            seen: Instant::now(),
            wants: 0,
        };
        for producer in &heartbeat.producer_data_set {
            GroupName::new(&producer.group_name)?;
            let mut tables = self.groups.lock();
            tables.producers.entry(producer.group_name.clone()).or_default().insert(id.to_owned(), client());
        }
        for data in &heartbeat.consumer_data_set {
            let group = GroupName::new(&data.group_name)?;
            self.group(&group)?;
            if let Some(outlets) = self.groups.join(id, client(), &group, data, &self.filters)? {
                // The sender hears of it too, and before the answer, as from RocketMQ's broker.
                replies.extend(changed(&group));
                notify(&group, outlets.into_iter().filter(|other| other.id != outlet.id).collect());
            }
        }
        let fields = response::Heartbeat { is_support_heart_beat_v2: false, is_sub_change: true };
        Ok(Reply::fields(&fields.fields()))
    }

    pub(crate) fn unregister(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let leaves = request::UnregisterClient::parse(&request.header.fields)?;
        self.groups.leave(leaves.client_id, leaves.producer_group, leaves.consumer_group);
        Ok(Reply::ok())
    }

    pub(crate) fn consumer_list(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::GetConsumerList::parse(&request.header.fields)?;
        let group = GroupName::new(asked.consumer_group)?;
        let tables = self.groups.lock();
        let Some(consumers) = tables.consumers.get(&group) else {
            let remark = format!("no client of group {group} is there");
            return Err(Reply::refuse(ResponseCode::SYSTEM_ERROR, remark));
        };
        let list = ConsumerList { consumer_id_list: consumers.clients.keys().cloned().collect() };
        Ok(Reply::body(list.encode()))
    }

    /// Whether a client's subscription can be filtered by, asked before it starts.
    pub(crate) fn check_client(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = CheckClientConfig::decode(request.body)?;
        let SubscriptionData { expression_type, sub_string, .. } = &asked.subscription_data;
        self.filters.compile(expression_type, sub_string).map(|_| Reply::ok())
    }

    pub(crate) fn consumer_connection(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::GetConsumerConnection::parse(&request.header.fields)?;
        let group = GroupName::new(asked.consumer_group)?;
        let tables = self.groups.lock();
        let Some(consumers) = tables.consumers.get(&group) else {
            let remark = format!("no client of group {group} is there");
            return Err(Reply::refuse(ResponseCode::CONSUMER_NOT_ONLINE, remark));
        };
        let subscriptions = consumers.subscriptions.iter();
        let connection = ConsumerConnection {
            connection_set: connections(&consumers.clients),
            consume_from_where: consumers.from,
            consume_type: consumers.consume_type,
            message_model: consumers.model,
            subscription_table: subscriptions
                .map(|(topic, (data, _))| (topic.clone(), data.clone()))
                .collect(),
        };
        Ok(Reply::body(connection.encode()))
    }

    pub(crate) fn producer_connection(&self, request: &Request<'_>) -> Result<Reply, Reply> {
        let asked = request::GetProducerConnection::parse(&request.header.fields)?;
        let tables = self.groups.lock();
        let Some(clients) = tables.producers.get(asked.producer_group) else {
            let remark = format!("no client of producer group {} is there", asked.producer_group);
            return Err(Reply::refuse(ResponseCode::SYSTEM_ERROR, remark));
        };
        Ok(Reply::body(ProducerConnection { connection_set: connections(clients) }.encode()))
    }

    /// The consumer groups that subscribe to a topic now, or committed an offset in it.
    pub(crate) fn groups_of(&self, topic: &TopicName) -> Vec<String> {
        let tables = self.groups.lock();
        let here = tables.consumers.iter().filter(|(_, c)| c.subscriptions.contains_key(topic.as_str()));
        let mut groups: Vec<String> = here.map(|(group, _)| group.to_string()).collect();
        drop(tables);
        groups.extend(self.store.groups_of(topic));
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}

fn connections(clients: &BTreeMap<String, Client>) -> Vec<Connection> {
    let connection = |(id, client): (&String, &Client)| Connection {
        client_addr: client.outlet.peer.to_string(),
        client_id: id.clone(),
        language: client.language.name().unwrap_or("OTHER").to_owned(),
        version: client.version,
    };
    clients.iter().map(connection).collect()
}

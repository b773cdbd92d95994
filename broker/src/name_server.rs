//! The name server: which brokers there are, and where topics are; codes 100 to 106, 205, 206, 216, 219, 224, 322,
//! 327 and 904. Keeps nothing on the disk: brokers tell it again every 30 s.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sluice_protocol::body::{DataVersion, KvTable, TopicList};
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::record::body_crc;
use sluice_protocol::registration::Registration;
use sluice_protocol::route::{BrokerData, ClusterInfo, MASTER, QueueData, Route};
use sluice_protocol::topic::{TopicConfigTable, perm};
use sluice_protocol::{request, response};
use tokio::time::Instant;

use crate::Settings;
use crate::dispatch::Request;
use crate::outlet::Outlet;
use crate::reply::Reply;

/// A broker that says nothing for this long is gone, unless it names another time.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// Brokers and settings that are kept.
const BROKERS_MAX: usize = 10_000;
const SETTINGS_MAX: usize = 10_000;
/// Longest name, key or value of a setting, in bytes.
const SETTING_BYTES_MAX: usize = 64 * 1024;
/// Settings of ordered topics (`RocketMQ` 4.x and 5.x).
const ORDERED: &str = "ORDER_TOPIC_CONFIG";

/// What brokers told.
#[derive(Default)]
pub(crate) struct NameServer {
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    /// By name.
    brokers: BTreeMap<String, BrokerData>,
    /// By address.
    live: HashMap<String, Live>,
    /// By topic and broker name.
    topics: HashMap<String, BTreeMap<String, QueueData>>,
    /// By name space and key.
    settings: BTreeMap<String, BTreeMap<String, String>>,
}

struct Live {
    broker: String,
    id: i64,
    version: DataVersion,
    seen: Instant,
    silence_max: Duration,
    /// The connection by which it registered; none for the broker of this process, which is never silent.
    outlet: Option<u64>,
}

impl NameServer {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the broker of this process says of its topics.
    pub(crate) fn register_own(&self, settings: &Settings, topics: &TopicConfigTable) {
        let addr = settings.address();
        let live = Live {
            broker: settings.name.clone(),
            id: MASTER,
            version: topics.data_version.clone(),
            seen: Instant::now(),
            silence_max: Duration::MAX,
            outlet: None,
        };
        let mut tables = self.lock();
        tables.add(&settings.cluster, &addr, live);
        tables.set_topics(&settings.name, topics);
    }

    /// Drops the brokers that are silent.
    pub(crate) fn expire(&self) {
        self.lock().drop_brokers(|live| live.seen.elapsed() > live.silence_max);
    }

    /// A connection ended, and with it the brokers that registered by it.
    pub(crate) fn left(&self, outlet: &Arc<Outlet>) {
        self.lock().drop_brokers(|live| live.outlet == Some(outlet.id));
    }

    /// Answers a request; `None` if it is not for a name server.
    pub(crate) fn handle(&self, request: &Request<'_>, outlet: &Arc<Outlet>) -> Result<Option<Reply>, Reply> {
        use RequestCode as C;
        let fields = &request.header.fields;
        Ok(Some(match request.header.request_code() {
            C::GET_ROUTEINFO_BY_TOPIC => self.route(request, outlet)?,
            C::REGISTER_BROKER => self.register(request, outlet)?,
            C::UNREGISTER_BROKER => {
                let asked = request::UnregisterBroker::parse(fields)?;
                let gone = |live: &Live| live.broker == asked.broker_name && live.id == asked.broker_id;
                self.lock().drop_brokers(gone);
                Reply::ok()
            }
            C::BROKER_HEARTBEAT => {
                let asked = request::BrokerHeartbeat::parse(fields)?;
                if let Some(live) = self.lock().live.get_mut(asked.broker_addr) {
                    live.seen = Instant::now();
                }
                Reply::ok()
            }
            C::QUERY_DATA_VERSION => {
                let asked = request::QueryDataVersion::parse(fields)?;
                let theirs = DataVersion::decode(request.body)?;
                let mut tables = self.lock();
                let known = tables.live.get_mut(asked.broker_addr);
                let changed = known.as_ref().is_none_or(|live| live.version != theirs);
                let version = known.map(|live| {
                    live.seen = Instant::now();
                    live.version.encode()
                });
                let reply = Reply::fields(&response::QueryDataVersion { changed }.fields());
                Reply { body: version.map(Bytes::from).into_iter().collect(), ..reply }
            }
            C::GET_BROKER_CLUSTER_INFO => Reply::body(self.cluster(outlet).encode()),
            C::GET_ALL_TOPIC_LIST_FROM_NAMESERVER => {
                let topics: BTreeSet<String> = self.lock().topics.keys().cloned().collect();
                Reply::body(
                    TopicList { topic_list: topics.into_iter().collect(), ..TopicList::default() }.encode(),
                )
            }
            C::GET_TOPICS_BY_CLUSTER => {
                let asked = request::GetTopicsByCluster::parse(fields)?;
                Reply::body(self.topics_of(asked.cluster).encode())
            }
            C::DELETE_TOPIC_IN_NAMESRV => {
                let asked = request::DeleteTopicInNamesrv::parse(fields)?;
                self.lock().topics.remove(asked.topic);
                Reply::ok()
            }
            C::WIPE_WRITE_PERM_OF_BROKER => {
                let asked = request::WritePermOfBroker::parse(fields)?;
                let count = self.lock().set_write(asked.broker_name, false);
                Reply::fields(&response::WipeWritePerm { wipe_topic_count: count }.fields())
            }
            C::ADD_WRITE_PERM_OF_BROKER => {
                let asked = request::WritePermOfBroker::parse(fields)?;
                let count = self.lock().set_write(asked.broker_name, true);
                Reply::fields(&response::AddWritePerm { add_topic_count: count }.fields())
            }
            C::PUT_KV_CONFIG => {
                let asked = request::PutKvConfig::parse(fields)?;
                self.put_setting(asked.namespace, asked.key, asked.value)?
            }
            C::GET_KV_CONFIG => {
                let asked = request::KvConfig::parse(fields)?;
                let tables = self.lock();
                let value = tables.settings.get(asked.namespace).and_then(|settings| settings.get(asked.key));
                let Some(value) = value else { return Err(no_setting(asked.namespace)) };
                Reply::fields(&response::GetKvConfig { value }.fields())
            }
            C::DELETE_KV_CONFIG => {
                let asked = request::KvConfig::parse(fields)?;
                if let Some(settings) = self.lock().settings.get_mut(asked.namespace) {
                    settings.remove(asked.key);
                }
                Reply::ok()
            }
            C::GET_KVLIST_BY_NAMESPACE => {
                let asked = request::GetKvList::parse(fields)?;
                let table = self.lock().settings.get(asked.namespace).cloned();
                let Some(table) = table else { return Err(no_setting(asked.namespace)) };
                Reply::body(KvTable { table }.encode())
            }
            _ => return Ok(None),
        }))
    }

    fn register(&self, request: &Request<'_>, outlet: &Arc<Outlet>) -> Result<Reply, Reply> {
        let asked = request::RegisterBroker::parse(&request.header.fields)?;
        if let Some(crc) = asked.body_crc32.filter(|crc| *crc != 0)
            && crc != body_crc(request.body)
        {
            let remark = "the body does not match its checksum";
            return Err(Reply::refuse(ResponseCode::SYSTEM_ERROR, remark));
        }
        let compressed = asked.compressed.unwrap_or(false);
        let registration = Registration::decode_as(request.body, compressed)
            .map_err(|error| Reply::refuse(ResponseCode::SYSTEM_ERROR, error.to_string()))?;
        let silence =
            asked.heartbeat_timeout_millis.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
        let live = Live {
            broker: asked.broker_name.to_owned(),
            id: asked.broker_id,
            version: registration.topics.data_version.clone(),
            seen: Instant::now(),
            silence_max: silence.filter(|silence| !silence.is_zero()).unwrap_or(SILENCE_MAX),
            outlet: Some(outlet.id),
        };
        let mut tables = self.lock();
        if tables.live.len() >= BROKERS_MAX && !tables.live.contains_key(asked.broker_addr) {
            let remark = format!("this name server has {BROKERS_MAX} brokers already");
            return Err(Reply::refuse(ResponseCode::SYSTEM_ERROR, remark));
        }
        let before = tables.live.get(asked.broker_addr).map(|live| live.version.clone());
        if before.is_none() {
            tracing::info!(broker = asked.broker_name, address = asked.broker_addr, "broker registered");
        }
        tables.add(asked.cluster_name, asked.broker_addr, live);
        if asked.broker_id == MASTER && before.as_ref() != Some(&registration.topics.data_version) {
            tables.set_topics(asked.broker_name, &registration.topics);
        }
        let master = tables.brokers.get(asked.broker_name).and_then(|b| b.broker_addrs.get(&MASTER)).cloned();
        let master = master.filter(|_| asked.broker_id != MASTER);
        let fields = response::RegisterBroker { ha_server_addr: None, master_addr: master.as_deref() };
        let reply = Reply::fields(&fields.fields());
        let ordered = tables.settings.get(ORDERED).map(|table| KvTable { table: table.clone() }.encode());
        Ok(Reply { body: ordered.map(Bytes::from).into_iter().collect(), ..reply })
    }

    fn route(&self, request: &Request<'_>, outlet: &Arc<Outlet>) -> Result<Reply, Reply> {
        let asked = request::GetRouteInfo::parse(&request.header.fields)?;
        let tables = self.lock();
        let Some(queues) = tables.topics.get(asked.topic).filter(|queues| !queues.is_empty()) else {
            let remark = format!("no broker has topic {}", asked.topic);
            return Err(Reply::refuse(ResponseCode::TOPIC_NOT_EXIST, remark));
        };
        let brokers = queues.keys().filter_map(|name| tables.brokers.get(name));
        let route = Route {
            broker_datas: brokers.map(|broker| reachable(broker, outlet)).collect(),
            order_topic_conf: tables.settings.get(ORDERED).and_then(|table| table.get(asked.topic)).cloned(),
            queue_datas: queues.values().cloned().collect(),
            ..Route::default()
        };
        let standard = asked.accept_standard_json_only.unwrap_or(false);
        Ok(Reply::body(route.encode_for(request.header.version, standard)))
    }

    /// A topic's queues, at each broker that has it.
    pub(crate) fn queues_of(&self, topic: &str) -> Vec<QueueData> {
        self.lock().topics.get(topic).map(|queues| queues.values().cloned().collect()).unwrap_or_default()
    }

    fn cluster(&self, outlet: &Arc<Outlet>) -> ClusterInfo {
        let tables = self.lock();
        let mut info = ClusterInfo::default();
        for (name, broker) in &tables.brokers {
            info.broker_addr_table.insert(name.clone(), reachable(broker, outlet));
            info.cluster_addr_table.entry(broker.cluster.clone()).or_default().push(name.clone());
        }
        info
    }

    fn topics_of(&self, cluster: &str) -> TopicList {
        let tables = self.lock();
        let of_cluster = |name: &String| tables.brokers.get(name).is_some_and(|b| b.cluster == cluster);
        let topics = tables.topics.iter().filter(|(_, queues)| queues.keys().any(of_cluster));
        let topics: BTreeSet<String> = topics.map(|(topic, _)| topic.clone()).collect();
        TopicList { topic_list: topics.into_iter().collect(), ..TopicList::default() }
    }

    fn put_setting(&self, namespace: &str, key: &str, value: &str) -> Result<Reply, Reply> {
        let mut tables = self.lock();
        let count: usize = tables.settings.values().map(BTreeMap::len).sum();
        if count >= SETTINGS_MAX || namespace.len().max(key.len()).max(value.len()) > SETTING_BYTES_MAX {
            let remark = format!("{SETTINGS_MAX} settings of {SETTING_BYTES_MAX} bytes are the limit");
            return Err(Reply::refuse(ResponseCode::SYSTEM_ERROR, remark));
        }
        tables.settings.entry(namespace.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
        Ok(Reply::ok())
    }
}

impl Tables {
    /// Adds a broker; the same one at another address replaces the old.
    fn add(&mut self, cluster: &str, addr: &str, live: Live) {
        self.live.retain(|other, known| other == addr || known.broker != live.broker || known.id != live.id);
        let broker = self.brokers.entry(live.broker.clone()).or_default();
        broker.broker_name.clone_from(&live.broker);
        cluster.clone_into(&mut broker.cluster);
        broker.broker_addrs.retain(|id, other| *id == live.id || other != addr);
        broker.broker_addrs.insert(live.id, addr.to_owned());
        self.live.insert(addr.to_owned(), live);
    }

    fn set_topics(&mut self, broker: &str, topics: &TopicConfigTable) {
        for (topic, queues) in &mut self.topics {
            if !topics.topic_config_table.contains_key(topic) {
                queues.remove(broker);
            }
        }
        for (topic, config) in &topics.topic_config_table {
            let queues = QueueData {
                broker_name: broker.to_owned(),
                perm: config.perm,
                read_queue_nums: config.read_queue_nums,
                topic_sys_flag: config.topic_sys_flag,
                write_queue_nums: config.write_queue_nums,
            };
            self.topics.entry(topic.clone()).or_default().insert(broker.to_owned(), queues);
        }
        self.topics.retain(|_, queues| !queues.is_empty());
    }

    fn drop_brokers(&mut self, gone: impl Fn(&Live) -> bool) {
        let dropped: Vec<String> =
            self.live.iter().filter(|(_, live)| gone(live)).map(|(addr, _)| addr.clone()).collect();
        for addr in dropped {
            let Some(live) = self.live.remove(&addr) else { continue };
            tracing::info!(broker = live.broker, address = addr, "broker is gone");
            let Some(broker) = self.brokers.get_mut(&live.broker) else { continue };
            broker.broker_addrs.retain(|id, other| *id != live.id || *other != addr);
            if broker.broker_addrs.is_empty() {
                self.brokers.remove(&live.broker);
                for queues in self.topics.values_mut() {
                    queues.remove(&live.broker);
                }
            }
        }
        self.topics.retain(|_, queues| !queues.is_empty());
    }

    /// Gives the write permission to a broker's topics, or takes it; counts them.
    fn set_write(&mut self, broker: &str, write: bool) -> i32 {
        let mut count = 0;
        for queues in self.topics.values_mut().filter_map(|queues| queues.get_mut(broker)) {
            queues.perm = if write { queues.perm | perm::WRITE } else { queues.perm & !perm::WRITE };
            count += 1;
        }
        count
    }
}

/// A broker as the asking client reaches it: one of this process that listens at every address, and names none,
/// is where the client found us.
fn reachable(broker: &BrokerData, outlet: &Outlet) -> BrokerData {
    let mut broker = broker.clone();
    for addr in broker.broker_addrs.values_mut() {
        if let Ok(anywhere) = addr.parse::<SocketAddr>()
            && anywhere.ip().is_unspecified()
        {
            *addr = SocketAddr::new(outlet.local.ip().to_canonical(), anywhere.port()).to_string();
        }
    }
    broker
}

fn no_setting(namespace: &str) -> Reply {
    Reply::refuse(ResponseCode::QUERY_NOT_FOUND, format!("name space {namespace} has no such setting"))
}

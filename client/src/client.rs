//! What producers and consumers share: name servers, routes, one connection an address.
//!
//! Routes are kept and asked for again every 30 s and after errors. A lost connection is opened again by the
//! next request to its address.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::fields::Fields;
use sluice_protocol::header::HeaderKind;
use sluice_protocol::id::TopicName;
use sluice_protocol::request;
use sluice_protocol::route::Route;
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::access::{Access, Way};
use crate::connection::{Connection, ConnectionLimits, OnRequest, Request, Response, ServerRequest};
use crate::error::Error;
use crate::route::{QUEUES_MAX, Queue, TEMPLATE_TOPIC, TopicRoute};
use crate::unique::host_address;

/// How often routes are asked for again.
const ROUTE_INTERVAL: Duration = Duration::from_secs(30);

/// How often the time of requests is looked at.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(50);

/// Requests of brokers that a slow consumer may leave unread.
const SERVER_REQUESTS_MAX: usize = 256;

/// Settings of a [`Client`].
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// `host:port` with semicolons between.
    pub name_servers: String,
    /// How request headers are written; binary takes less time at both ends, every broker of 4.x and 5.x reads
    /// both.
    pub header_kind: HeaderKind,
    /// How long a request waits for its response, unless it says otherwise.
    pub request_timeout: Duration,
    /// Bounds of each connection.
    pub limits: ConnectionLimits,
    /// How brokers and name servers let it in.
    pub access: Access,
}

impl ClientSettings {
    /// The defaults with these name servers.
    pub fn new(name_servers: impl Into<String>) -> Self {
        Self {
            name_servers: name_servers.into(),
            header_kind: HeaderKind::Binary,
            request_timeout: Duration::from_secs(3),
            limits: ConnectionLimits::default(),
            access: Access::default(),
        }
    }

    /// The addresses of the name servers, if they are written right.
    pub fn check(&self) -> Result<Vec<Arc<str>>, Error> {
        let addresses = self.name_servers.split(';').map(str::trim).filter(|a| !a.is_empty());
        let addresses: Vec<Arc<str>> = addresses.map(Arc::from).collect();
        let fine =
            |address: &Arc<str>| address.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok());
        if addresses.is_empty() || !addresses.iter().all(fine) {
            let (name, expected) = ("name_servers", "host:port with semicolons between");
            return Err(Error::Setting { name, value: self.name_servers.clone(), expected });
        }
        Ok(addresses)
    }
}

/// Connections and routes; cheap to clone, all clones share them.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    settings: ClientSettings,
    id: String,
    name_servers: Vec<Arc<str>>,
    /// Place of the name server that answered last.
    name_server: AtomicUsize,
    connections: Mutex<HashMap<Arc<str>, Arc<Slot>>>,
    routes: Mutex<HashMap<TopicName, Arc<TopicRoute>>>,
    /// Groups of which a member lives here.
    groups: Mutex<HashSet<String>>,
    server_requests: broadcast::Sender<ServerRequest>,
    on_request: OnRequest,
    way: Arc<Way>,
}

/// The connection to one address, while there is one.
#[derive(Default)]
struct Slot {
    open: Mutex<Option<Arc<Connection>>>,
    /// Held while connecting, so that all who need it wait for one attempt.
    opening: tokio::sync::Mutex<()>,
    /// How often it was seen by this connection that a group has an offset of a queue.
    offsets_seen: Mutex<HashMap<(String, Queue), u8>>,
}

impl Client {
    /// A client of these name servers. Connects to nobody yet; must be called within a runtime.
    pub fn new(settings: ClientSettings) -> Result<Self, Error> {
        let name_servers = settings.check()?;
        let way = Arc::new(Way::new(&settings.access)?);
        let (server_requests, _) = broadcast::channel(SERVER_REQUESTS_MAX);
        let sender = server_requests.clone();
        let inner = Arc::new(Inner {
            id: client_id(name_servers.first().map_or("", |address| address)),
            settings,
            name_servers,
            name_server: AtomicUsize::new(0),
            connections: Mutex::default(),
            routes: Mutex::default(),
            groups: Mutex::default(),
            server_requests,
            on_request: Arc::new(move |request| drop(sender.send(request))),
            way,
        });
        tokio::spawn(expire(Arc::downgrade(&inner)));
        tokio::spawn(refresh(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// The settings.
    pub fn settings(&self) -> &ClientSettings {
        &self.inner.settings
    }

    /// How brokers know this client: `address@process#number`.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// What brokers ask of their clients from now on, such as code 40.
    pub fn server_requests(&self) -> broadcast::Receiver<ServerRequest> {
        self.inner.server_requests.subscribe()
    }

    /// The open connection to an address, or a new one.
    pub async fn connection(&self, address: &Arc<str>) -> Result<Arc<Connection>, Error> {
        let slot = self.slot(address);
        let open = || lock(&slot.open).as_ref().filter(|connection| !connection.is_closed()).cloned();
        if let Some(connection) = open() {
            return Ok(connection);
        }
        let _opening = slot.opening.lock().await;
        if let Some(connection) = open() {
            return Ok(connection);
        }
        let settings = &self.inner.settings;
        let connection = Connection::open(
            Arc::clone(address),
            settings.header_kind,
            settings.limits.clone(),
            Arc::clone(&self.inner.on_request),
            Arc::clone(&self.inner.way),
        );
        let connection = Arc::new(connection.await?);
        // A broker that began anew may have lost some.
        lock(&slot.offsets_seen).clear();
        *lock(&slot.open) = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Sends a request and waits for its response, of whatever code.
    pub async fn call(
        &self,
        address: &Arc<str>,
        request: Request<'_>,
        timeout: Duration,
    ) -> Result<Response, Error> {
        self.connection(address).await?.call(request, timeout).await
    }

    /// Sends a request and waits for its response; a code other than 0 is an error that names the subject.
    pub async fn ask(
        &self,
        address: &Arc<str>,
        code: RequestCode,
        fields: Fields<'_>,
        body: &[u8],
        subject: &str,
    ) -> Result<Response, Error> {
        let request = Request::new(code, fields, body);
        let response = self.call(address, request, self.inner.settings.request_timeout).await?;
        check(&response, address, code, subject)?;
        Ok(response)
    }

    /// Asks the name servers, beginning with the one that answered last, until one answers.
    pub async fn ask_name_server(
        &self,
        code: RequestCode,
        fields: Fields<'_>,
        subject: &str,
    ) -> Result<(Arc<str>, Bytes), Error> {
        let inner = &self.inner;
        let first = inner.name_server.load(Ordering::Relaxed);
        let mut failure = Error::Closed { what: "list of name servers" };
        for i in 0..inner.name_servers.len() {
            let at = (first + i) % inner.name_servers.len();
            let Some(address) = inner.name_servers.get(at) else { continue };
            match self.ask(address, code, fields.clone(), &[], subject).await {
                Ok(response) => {
                    inner.name_server.store(at, Ordering::Relaxed);
                    return Ok((Arc::clone(address), response.body));
                }
                // Name servers do not know of each other: another one may know the topic. An answer says
                // more than that somebody else did not answer.
                Err(error) if failure.response_code().is_none() => failure = error,
                Err(_) => {}
            }
        }
        Err(failure)
    }

    /// The route of a topic, as it is known or else from a name server.
    pub async fn route(&self, topic: &TopicName) -> Result<Arc<TopicRoute>, Error> {
        let known = lock(&self.inner.routes).get(topic).cloned();
        match known {
            Some(route) => Ok(route),
            None => self.fetch_route(topic).await,
        }
    }

    /// The route of a topic from a name server.
    pub async fn fetch_route(&self, topic: &TopicName) -> Result<Arc<TopicRoute>, Error> {
        let (address, route) = self.raw_route(topic.as_str()).await.inspect_err(|error| {
            if matches!(error, Error::NoRoute { .. }) {
                lock(&self.inner.routes).remove(topic);
            }
        })?;
        let route = TopicRoute::new(topic, &route).map_err(|count| excess(&address, count))?;
        Ok(self.keep(topic, route))
    }

    /// The route for sending: of a topic that does not exist, the one that it will have.
    pub(crate) async fn write_route(&self, topic: &TopicName, queues: i32) -> Result<Arc<TopicRoute>, Error> {
        match self.fetch_route(topic).await {
            Err(Error::NoRoute { .. }) => {
                let (address, template) =
                    self.raw_route(TEMPLATE_TOPIC).await.map_err(|error| match error {
                        Error::NoRoute { name_servers, .. } => {
                            Error::NoRoute { topic: topic.to_string(), name_servers }
                        }
                        other => other,
                    })?;
                let route = TopicRoute::of_template(topic, &template, queues)
                    .map_err(|count| excess(&address, count))?;
                Ok(Arc::new(route))
            }
            other => other,
        }
    }

    /// Marks a group as having its member here, or says that it has one.
    pub(crate) fn join(&self, group: &str) -> bool {
        lock(&self.inner.groups).insert(group.to_owned())
    }

    pub(crate) fn leave(&self, group: &str) {
        lock(&self.inner.groups).remove(group);
    }

    /// The broker says that the group has an offset of the queue.
    pub(crate) fn see_offset(&self, address: &Arc<str>, group: &str, queue: &Queue) {
        let slot = self.slot(address);
        let mut seen = lock(&slot.offsets_seen);
        let times = seen.entry((group.to_owned(), queue.clone())).or_default();
        *times = times.saturating_add(1);
    }

    /// How often it said so since it was connected with.
    pub(crate) fn offset_seen(&self, address: &Arc<str>, group: &str, queue: &Queue) -> u8 {
        let slot = self.slot(address);
        lock(&slot.offsets_seen).get(&(group.to_owned(), queue.clone())).copied().unwrap_or(0)
    }

    fn slot(&self, address: &Arc<str>) -> Arc<Slot> {
        Arc::clone(lock(&self.inner.connections).entry(Arc::clone(address)).or_default())
    }

    /// As the settings say them.
    pub(crate) fn name_servers(&self) -> &str {
        &self.inner.settings.name_servers
    }

    async fn raw_route(&self, topic: &str) -> Result<(Arc<str>, Route), Error> {
        let code = RequestCode::GET_ROUTEINFO_BY_TOPIC;
        let header = request::GetRouteInfo { topic, accept_standard_json_only: Some(true) };
        let (address, body) =
            self.ask_name_server(code, header.fields(), topic).await.map_err(|error| match error {
                Error::Refused { code: ResponseCode::TOPIC_NOT_EXIST, .. } => {
                    Error::NoRoute { topic: topic.to_owned(), name_servers: self.name_servers().to_owned() }
                }
                other => other,
            })?;
        let route = Route::decode(&body).map_err(|e| Error::unreadable(&address, code, "body", e))?;
        Ok((address, route))
    }

    fn keep(&self, topic: &TopicName, route: TopicRoute) -> Arc<TopicRoute> {
        let mut routes = lock(&self.inner.routes);
        if let Some(known) = routes.get(topic).filter(|known| ***known == route) {
            return Arc::clone(known);
        }
        let route = Arc::new(route);
        routes.insert(topic.clone(), Arc::clone(&route));
        route
    }
}

/// An error unless the response has code 0.
pub(crate) fn check(
    response: &Response,
    address: &Arc<str>,
    request: RequestCode,
    subject: &str,
) -> Result<(), Error> {
    let header = response.header().map_err(|error| Error::unreadable(address, request, "header", error))?;
    match header.response_code() {
        ResponseCode::SUCCESS => Ok(()),
        code => Err(Error::refused(address, request, subject, code, header.remark.as_deref())),
    }
}

fn excess(address: &Arc<str>, count: i32) -> Error {
    Error::Excess {
        address: Arc::clone(address),
        request: RequestCode::GET_ROUTEINFO_BY_TOPIC,
        count: count.into(),
        unit: "queues",
        max: QUEUES_MAX.into(),
    }
}

/// Nothing here can panic while it holds a lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name that no other client has, also none of this process.
fn client_id(name_server: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let start = crate::clock::now_ms();
    format!("{}@{}#{start}{number:03}", host_address(name_server), std::process::id())
}

async fn expire(client: Weak<Inner>) {
    loop {
        tokio::time::sleep(EXPIRY_INTERVAL).await;
        let Some(inner) = client.upgrade() else { return };
        let slots: Vec<Arc<Slot>> = lock(&inner.connections).values().cloned().collect();
        let now = Instant::now();
        for slot in slots {
            let open = lock(&slot.open).clone();
            if let Some(connection) = open {
                connection.expire(now);
            }
        }
    }
}

async fn refresh(client: Weak<Inner>) {
    loop {
        tokio::time::sleep(ROUTE_INTERVAL).await;
        let Some(inner) = client.upgrade() else { return };
        let client = Client { inner };
        let topics: Vec<TopicName> = lock(&client.inner.routes).keys().cloned().collect();
        for topic in topics {
            if let Err(error) = client.fetch_route(&topic).await {
                tracing::warn!(topic = topic.as_str(), %error, "could not refresh a route");
            }
        }
    }
}

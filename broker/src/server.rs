//! Listens, serves each connection in a task of its own, and ends cleanly.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sluice_store::Store;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::Settings;
use crate::broker::{Broker, record_host};
use crate::connection;
use crate::dispatch::Service;
use crate::flusher::Flusher;
use crate::group::Groups;
use crate::long_poll::LongPoll;
use crate::metrics::Metrics;
use crate::name_server::NameServer;
use crate::open_files::connections_max;
use crate::register;
use crate::schedule;
use crate::security::Security;
use crate::send::UniqueKeys;
use crate::timer::{self, Timers};
use crate::topic::make_own_topics;
use crate::transaction::{self, Transactions};

/// How often silent clients and brokers are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// After the listener failed, for example because there are too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A server that did not start.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields")]
pub enum Error {
    /// It can not listen there.
    #[error("cannot listen at {addr}")]
    Listen { addr: SocketAddr, source: io::Error },
    /// The store refuses what the broker needs itself.
    #[error("cannot make and read the broker's own topics")]
    Own { source: sluice_store::Error },
    /// A thread can not be started.
    #[error("cannot start a thread")]
    Thread { source: io::Error },
}

/// A running broker, name server, or both.
pub struct Server {
    broker: Option<Arc<Broker>>,
    broker_addr: Option<SocketAddr>,
    name_server_addr: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    /// A permit for each connection that may still come.
    connections: Arc<Semaphore>,
}

impl Server {
    /// Starts a broker over a store, and a name server beside it where one shall listen. `sync` says that the
    /// store makes messages durable before they are acknowledged. Must be called in a tokio runtime of several
    /// threads.
    pub async fn broker(
        mut settings: Settings,
        store: Store,
        sync: bool,
        name_server: Option<SocketAddr>,
        now_ms: i64,
    ) -> Result<Self, Error> {
        let listener = listen(settings.listen).await?;
        settings.listen =
            listener.local_addr().map_err(|source| Error::Listen { addr: settings.listen, source })?;
        let addr = settings.listen;
        let mut server = Self::new();
        let names = match name_server {
            Some(addr) => Some(server.serve_names(addr, Arc::clone(&settings.security)).await?),
            None => None,
        };
        let host = record_host(&settings).await;
        let long_poll = Arc::new(LongPoll::default());
        let own = || {
            make_own_topics(&store, &settings.cluster)?;
            store.start_key_index()?;
            Ok((Timers::load(&store)?, Transactions::load(&store, &settings.transaction_check)?))
        };
        let (timers, transactions) = own().map_err(|source| Error::Own { source })?;
        // The last that may fail: it keeps the store open until it is stopped.
        let flusher =
            Flusher::start(store.clone(), Arc::clone(&long_poll), tokio::runtime::Handle::current());
        let broker = Arc::new(Broker {
            groups: Groups::new(&store),
            store,
            filters: Default::default(),
            long_poll,
            flusher: flusher.map_err(|source| Error::Thread { source })?,
            timers,
            resets: Default::default(),
            transactions,
            metrics: Metrics::new(),
            host,
            unique_keys: UniqueKeys::new(host, now_ms),
            name_server: names.clone(),
            topics_changed: watch::Sender::new(()),
            started_ms: now_ms,
            sync,
            settings,
        });
        broker.settings.security.audit_to(&broker);
        schedule::start(&broker, &server.stop.subscribe(), &mut server.tasks);
        timer::start(&broker, &server.stop.subscribe(), &mut server.tasks);
        transaction::start(&broker, &server.stop.subscribe(), &mut server.tasks);
        broker.tell_name_servers();
        for elsewhere in &broker.settings.name_servers {
            let (broker, stop) = (Arc::clone(&broker), server.stop.subscribe());
            server.tasks.spawn(register::keep(broker, elsewhere.clone(), stop));
        }
        let security = Arc::clone(&broker.settings.security);
        let service = Service { broker: Some(Arc::clone(&broker)), name_server: names, security };
        server.accept(listener, Arc::new(service));
        let sweeping = Arc::clone(&broker);
        server.sweep(move || sweeping.groups.expire());
        server.broker_addr = Some(addr);
        server.broker = Some(broker);
        Ok(server)
    }

    /// Starts a name server alone.
    pub async fn name_server(addr: SocketAddr, security: Arc<Security>) -> Result<Self, Error> {
        let mut server = Self::new();
        server.serve_names(addr, security).await?;
        Ok(server)
    }

    fn new() -> Self {
        let (stop, _) = watch::channel(false);
        let connections = Arc::new(Semaphore::new(connections_max()));
        Self {
            broker: None,
            broker_addr: None,
            name_server_addr: None,
            stop,
            tasks: JoinSet::new(),
            connections,
        }
    }

    async fn serve_names(
        &mut self,
        addr: SocketAddr,
        security: Arc<Security>,
    ) -> Result<Arc<NameServer>, Error> {
        let listener = listen(addr).await?;
        self.name_server_addr = listener.local_addr().ok();
        let names = Arc::new(NameServer::default());
        let service = Service { broker: None, name_server: Some(Arc::clone(&names)), security };
        self.accept(listener, Arc::new(service));
        let sweeping = Arc::clone(&names);
        self.sweep(move || sweeping.expire());
        Ok(names)
    }

    /// Looks now and then for who is silent, until the server stops.
    fn sweep(&mut self, expire: impl Fn() + Send + 'static) {
        let mut stop = self.stop.subscribe();
        self.tasks.spawn(async move {
            while !*stop.borrow() {
                tokio::select! {
                    () = tokio::time::sleep(SWEEP_EVERY) => expire(),
                    _ = stop.changed() => {}
                }
            }
        });
    }

    fn accept(&mut self, listener: TcpListener, service: Arc<Service>) {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let mut stop = self.stop.subscribe();
        let free = Arc::clone(&self.connections);
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            let mut full = false;
            while !*stop.borrow() {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = stop.changed() => break,
                };
                // Those that have ended hold memory until they are taken.
                while connections.try_join_next().is_some() {}
                match (accepted, Arc::clone(&free).try_acquire_owned()) {
                    (Ok((stream, peer)), Ok(permit)) => {
                        let service = Arc::clone(&service);
                        let id = NUMBER.fetch_add(1, Ordering::Relaxed);
                        connections.spawn(async move {
                            let _permit = permit;
                            connection::serve(service, stream, peer, id).await;
                        });
                        full = false;
                    }
                    (Ok((_, peer)), Err(_)) => {
                        if !full {
                            tracing::warn!(%peer, "connections are closed: the limit of open files (ulimit -n) allows no more");
                        }
                        full = true;
                    }
                    (Err(error), _) => {
                        tracing::warn!(%error, "a connection can not be accepted");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                }
            }
            connections.shutdown().await;
        });
    }

    /// Where the broker listens, if there is one.
    pub fn broker_addr(&self) -> Option<SocketAddr> {
        self.broker_addr
    }

    /// Where the name server listens, if there is one.
    pub fn name_server_addr(&self) -> Option<SocketAddr> {
        self.name_server_addr
    }

    /// Takes no more requests, leaves the name servers, and closes the connections. The store stays open.
    pub async fn stop(mut self) {
        // Nobody listens any more if all tasks have ended.
        let _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
        if let Some(broker) = &self.broker {
            tokio::task::block_in_place(|| broker.flusher.stop());
        }
    }
}

async fn listen(addr: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(addr).await.map_err(|source| Error::Listen { addr, source })
}

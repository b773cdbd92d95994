//! Reads one queue at offsets that the caller says, records as they are stored; a member of no group.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sluice_protocol::id::GroupName;
use sluice_protocol::route::MASTER;

use crate::assigned::{Start, commit, committed, start_at, to_read};
use crate::client::Client;
use crate::error::Error;
use crate::pull::{Fetched, Filter, Wanted, fetch};
use crate::route::Queue;

/// What a [`QueueReader`] asks for.
#[derive(Clone, Debug)]
pub struct ReaderSettings {
    /// The consumer group in whose name it reads and commits.
    pub group: String,
    /// Which messages.
    pub filter: Filter,
    /// Most messages of one pull; brokers have their own limit.
    pub messages_max: i32,
    /// Most bytes of one pull; brokers have their own limit.
    pub bytes_max: i32,
    /// How long a broker may hold a pull while there is nothing; zero for an answer at once.
    pub hold: Duration,
}

/// Reads one queue. Cheap to clone.
#[derive(Clone)]
pub struct QueueReader {
    client: Client,
    wanted: Arc<Wanted>,
    /// Whom the broker says to ask next.
    broker_id: Arc<AtomicI64>,
}

impl QueueReader {
    /// A reader of that queue.
    pub fn new(client: &Client, queue: &Queue, settings: ReaderSettings) -> Result<Self, Error> {
        GroupName::new(&settings.group)?;
        let ReaderSettings { group, filter, messages_max, bytes_max, hold } = settings;
        let (queue, tags) = (queue.clone(), filter.tag_set());
        let wanted = Wanted { group, queue, filter, tags, version: None, messages_max, bytes_max, hold };
        let broker_id = Arc::new(AtomicI64::new(MASTER));
        Ok(Self { client: client.clone(), wanted: Arc::new(wanted), broker_id })
    }

    /// The queue.
    pub fn queue(&self) -> &Queue {
        &self.wanted.queue
    }

    /// Pulls once from that offset on. Of a filter by tags more may come than is wanted: brokers compare hashes.
    pub async fn fetch(&self, offset: i64) -> Result<Fetched, Error> {
        let (client, queue) = (&self.client, &self.wanted.queue);
        let broker_id = self.broker_id.load(Ordering::Relaxed);
        let fetched = async {
            let address = to_read(client, queue, broker_id).await?;
            fetch(client, &address, &self.wanted, offset).await
        };
        let fetched = fetched.await;
        let next = fetched.as_ref().map_or(MASTER, |fetched| fetched.broker_id);
        self.broker_id.store(next, Ordering::Relaxed);
        fetched
    }

    /// The offset of a start, at the master.
    pub async fn offset(&self, start: Start) -> Result<i64, Error> {
        start_at(&self.client, &self.wanted.queue, start).await
    }

    /// What the group committed, if it did.
    pub async fn committed(&self) -> Result<Option<i64>, Error> {
        committed(&self.client, &self.wanted.group, &self.wanted.queue).await
    }

    /// Commits the group's offset and waits until the broker has it.
    pub async fn commit(&self, offset: i64) -> Result<(), Error> {
        commit(&self.client, &self.wanted.group, &self.wanted.queue, offset).await
    }
}

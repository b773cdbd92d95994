//! Reads messages: queues that it is given, or a group's share of the queues of topics.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use sluice_protocol::id::{GroupName, TopicName};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::{AbortHandle, JoinHandle};

use crate::assigned::{Assigned, Delivery, Puller, Start, commit, start_at, start_of_group};
use crate::client::{Client, lock};
use crate::error::Error;
use crate::group::{ASKED_AT_ONCE, Membership};
use crate::offsets::LocalOffsets;
use crate::pull::{Filter, Pulled, Wanted};
use crate::record::Record;
use crate::route::Queue;

/// Settings of a [`Consumer`].
#[derive(Clone, Debug)]
pub struct ConsumerSettings {
    /// The consumer group.
    pub group: String,
    /// Where the group begins in a queue that it never committed.
    pub start: Start,
    /// Most messages of one pull; brokers have their own limit, 32 by default.
    pub messages_max: i32,
    /// Most bytes of one pull; brokers have their own limit.
    pub bytes_max: i32,
    /// How long a broker may hold a pull while there is nothing.
    pub hold: Duration,
    /// Most pulled batches that wait for [`Consumer::next_batch`].
    pub waiting_batches_max: usize,
    /// Most bytes of them.
    pub waiting_bytes_max: usize,
    /// How often what is consumed is committed without being asked; a batch counts as consumed once the next one
    /// is taken. `None`: only [`Consumer::commit`] commits.
    pub commit_interval: Option<Duration>,
}

impl ConsumerSettings {
    /// The defaults with that group.
    pub fn new(group: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            start: Start::default(),
            messages_max: 32,
            bytes_max: 1 << 20,
            hold: Duration::from_secs(15),
            waiting_batches_max: 64,
            waiting_bytes_max: 64 << 20,
            commit_interval: Some(Duration::from_secs(5)),
        }
    }
}

/// What a group wants of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The topic.
    pub topic: TopicName,
    /// Which of its messages.
    pub filter: Filter,
}

impl Subscription {
    /// All messages of a topic.
    pub fn all(topic: &TopicName) -> Self {
        Self { topic: topic.clone(), filter: Filter::All }
    }
}

/// Messages of one queue in their order, at least one.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The queue.
    pub queue: Queue,
    /// The messages.
    pub records: Vec<Record>,
    /// What is committed once they are consumed.
    pub next_offset: i64,
    /// The queue's end when they were pulled: how far behind the consumer is.
    pub max_offset: i64,
}

/// Reads messages of some queues. Dropping it ends it without a commit; see [`Consumer::close`].
pub struct Consumer {
    shared: Arc<Shared>,
    deliveries: Receiver<Delivery>,
    /// The queue of the batch that was returned last.
    last: Option<Arc<Assigned>>,
    tasks: Vec<JoinHandle<()>>,
}

/// What a consumer shares with its tasks.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) settings: ConsumerSettings,
    /// Its membership of the group, unless queues were given to it.
    pub(crate) membership: Option<Membership>,
    /// Its own offsets, if it reads all queues whoever else does.
    pub(crate) local: Option<LocalOffsets>,
    queues: Mutex<BTreeMap<Queue, Held>>,
    deliveries: Sender<Delivery>,
    room: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

struct Held {
    assigned: Arc<Assigned>,
    task: AbortHandle,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Consumer {
    /// Reads these queues from there on, whoever else does. The group is only named, not joined: commit to it or
    /// not.
    pub async fn assign(
        client: &Client,
        settings: ConsumerSettings,
        queues: impl IntoIterator<Item = (Queue, Start)>,
        filter: Filter,
    ) -> Result<Self, Error> {
        let (shared, deliveries) = Shared::new(client, settings, None, None)?;
        let starts = queues.into_iter().map(|(queue, start)| async move {
            let offset = start_at(client, &queue, start).await?;
            Ok((queue, offset))
        });
        shared.start_all(starts, &filter).await?;
        Ok(Self::started(shared, deliveries, Vec::new()))
    }

    /// The same, from where the group committed, else from where the settings say.
    pub async fn assign_committed(
        client: &Client,
        settings: ConsumerSettings,
        queues: impl IntoIterator<Item = Queue>,
        filter: Filter,
    ) -> Result<Self, Error> {
        let (shared, deliveries) = Shared::new(client, settings, None, None)?;
        let (group, start) = (&shared.settings.group, shared.settings.start);
        let starts = queues.into_iter().map(|queue| async move {
            let offset = start_of_group(client, group, &queue, start).await?;
            Ok((queue, offset))
        });
        shared.start_all(starts, &filter).await?;
        Ok(Self::started(shared, deliveries, Vec::new()))
    }

    /// Joins the group and reads its share of these topics. A client can have one member of a group.
    pub async fn subscribe(
        client: &Client,
        settings: ConsumerSettings,
        subscriptions: impl IntoIterator<Item = Subscription>,
    ) -> Result<Self, Error> {
        Self::join(client, settings, subscriptions, None).await
    }

    /// Joins the group and reads all queues of these topics: each member gets every message. How far this member
    /// is it keeps itself, in the file, which must be its own, or without one in memory: then it begins where the
    /// settings say. A group must not mix members that share with members that do not.
    pub async fn broadcast(
        client: &Client,
        settings: ConsumerSettings,
        subscriptions: impl IntoIterator<Item = Subscription>,
        offsets: Option<PathBuf>,
    ) -> Result<Self, Error> {
        Self::join(client, settings, subscriptions, Some(LocalOffsets::open(offsets)?)).await
    }

    async fn join(
        client: &Client,
        settings: ConsumerSettings,
        subscriptions: impl IntoIterator<Item = Subscription>,
        local: Option<LocalOffsets>,
    ) -> Result<Self, Error> {
        let membership = Membership::new(client, &settings.group, subscriptions.into_iter().collect())?;
        let (shared, deliveries) = Shared::new(client, settings, Some(membership), local)?;
        crate::group::join(&shared).await?;
        let task = tokio::spawn(crate::group::run(Arc::clone(&shared)));
        Ok(Self::started(shared, deliveries, vec![task]))
    }

    fn started(shared: Arc<Shared>, deliveries: Receiver<Delivery>, mut tasks: Vec<JoinHandle<()>>) -> Self {
        if let Some(interval) = shared.settings.commit_interval {
            tasks.push(tokio::spawn(commit_often(Arc::clone(&shared), interval)));
        }
        Self { shared, deliveries, last: None, tasks }
    }

    /// The next messages; waits for some. An error is one that does not pass by itself, such as a topic that may
    /// not be read; calling again goes on. May be cancelled without losing messages.
    pub async fn next_batch(&mut self) -> Result<Batch, Error> {
        if let Some(last) = self.last.take() {
            last.finish();
        }
        loop {
            let (assigned, pulled) = self.take().await?;
            if pulled.records.is_empty() {
                // Nothing else of this queue is out, or it would have been finished above.
                assigned.finish();
                continue;
            }
            let (queue, next_offset, max_offset) =
                (assigned.queue.clone(), pulled.next_offset, pulled.max_offset);
            self.last = Some(assigned);
            return Ok(Batch { queue, records: pulled.records, next_offset, max_offset });
        }
    }

    /// What was pulled next of a queue that is still read, perhaps without messages.
    pub(crate) async fn take(&mut self) -> Result<(Arc<Assigned>, Pulled), Error> {
        loop {
            let delivery = self.deliveries.recv().await.ok_or(Error::Closed { what: "consumer" })?;
            let Delivery { assigned, pulled, room } = delivery;
            drop(room);
            if !assigned.is_revoked() {
                let pulled = pulled?;
                assigned.take(pulled.next_offset);
                return Ok((assigned, pulled));
            }
        }
    }

    /// The queues that it reads now.
    pub fn queues(&self) -> Vec<Queue> {
        lock(&self.shared.queues).keys().cloned().collect()
    }

    /// Commits all batches that were returned, and waits until the brokers have it, or the file of one that
    /// broadcasts.
    pub async fn commit(&self) -> Result<(), Error> {
        for assigned in self.shared.assigned() {
            assigned.finish();
        }
        self.shared.commit().await
    }

    /// Commits an offset of a queue, whether it is one of this consumer or not.
    pub async fn commit_to(&self, queue: &Queue, offset: i64) -> Result<(), Error> {
        match &self.shared.local {
            Some(local) => local.keep([(queue, offset)]).await,
            None => commit(&self.shared.client, &self.shared.settings.group, queue, offset).await,
        }
    }

    /// Ends it: with a commit interval, commits all batches that were returned; leaves the group.
    pub async fn close(self) -> Result<(), Error> {
        let committed = match self.shared.settings.commit_interval {
            Some(_) => self.commit().await,
            None => Ok(()),
        };
        self.leave().await;
        committed
    }

    /// Ends it without a commit.
    pub(crate) async fn leave(self) {
        let shared = Arc::clone(&self.shared);
        drop(self);
        crate::group::leave(&shared).await;
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// How far it is: of each queue the offset after the last batch that was returned or held nothing that is
    /// wanted, or where it began.
    pub fn positions(&self) -> Vec<(Queue, i64)> {
        self.shared.assigned().iter().map(|assigned| (assigned.queue.clone(), assigned.position())).collect()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        for held in std::mem::take(&mut *lock(&self.shared.queues)).into_values() {
            held.assigned.revoke();
        }
        if let Some(membership) = &self.shared.membership {
            self.shared.client.leave(&membership.group);
        }
    }
}

impl Shared {
    fn new(
        client: &Client,
        settings: ConsumerSettings,
        membership: Option<Membership>,
        local: Option<LocalOffsets>,
    ) -> Result<(Arc<Self>, Receiver<Delivery>), Error> {
        GroupName::new(&settings.group)?;
        let (deliveries, receiver) = channel(settings.waiting_batches_max.clamp(1, Semaphore::MAX_PERMITS));
        let room_max = settings.waiting_bytes_max.clamp(1, u32::MAX as usize >> 1);
        let shared = Self {
            client: client.clone(),
            settings: ConsumerSettings { waiting_bytes_max: room_max, ..settings },
            membership,
            local,
            queues: Mutex::default(),
            deliveries,
            room: Arc::new(Semaphore::new(room_max)),
            turns: Arc::new(Semaphore::new(ASKED_AT_ONCE)),
        };
        Ok((Arc::new(shared), receiver))
    }

    /// Starts to read a queue.
    pub(crate) fn start(&self, queue: Queue, filter: Filter, version: Option<i64>, offset: i64) {
        let settings = &self.settings;
        let assigned = Arc::new(Assigned::new(queue.clone(), offset));
        let wanted = Wanted {
            group: settings.group.clone(),
            queue: queue.clone(),
            tags: filter.tag_set(),
            filter,
            version,
            messages_max: settings.messages_max,
            bytes_max: settings.bytes_max,
            hold: settings.hold,
        };
        let puller = Puller {
            client: self.client.clone(),
            wanted,
            assigned: Arc::clone(&assigned),
            deliveries: self.deliveries.clone(),
            room: Arc::clone(&self.room),
            room_max: settings.waiting_bytes_max,
            turns: Arc::clone(&self.turns),
        };
        let task = tokio::spawn(puller.run(offset)).abort_handle();
        lock(&self.queues).insert(queue, Held { assigned, task });
    }

    /// Starts to read queues that are given, each from where it is said to start.
    async fn start_all(
        &self,
        starts: impl Iterator<Item = impl Future<Output = Result<(Queue, i64), Error>>>,
        filter: &Filter,
    ) -> Result<(), Error> {
        let mut starts = futures::stream::iter(starts).buffer_unordered(ASKED_AT_ONCE);
        while let Some(start) = starts.next().await {
            let (queue, offset) = start?;
            self.start(queue, filter.clone(), None, offset);
        }
        Ok(())
    }

    /// Stops reading a queue and commits what was consumed of it.
    pub(crate) async fn stop(&self, queue: &Queue) {
        let Some(held) = lock(&self.queues).remove(queue) else { return };
        held.assigned.revoke();
        if self.settings.commit_interval.is_some()
            && let Err(error) = self.commit_these(&[Arc::clone(&held.assigned)]).await
        {
            tracing::warn!(%queue, %error, "could not commit a queue that is given up");
        }
    }

    pub(crate) fn assigned(&self) -> Vec<Arc<Assigned>> {
        lock(&self.queues).values().map(|held| Arc::clone(&held.assigned)).collect()
    }

    /// Where a member starts in a queue of its group.
    pub(crate) async fn start_of(&self, queue: &Queue) -> Result<i64, Error> {
        let Self { client, settings, .. } = self;
        let Some(local) = &self.local else {
            return start_of_group(client, &settings.group, queue, settings.start).await;
        };
        match local.get(queue).await {
            Some(offset) => Ok(offset),
            None => start_at(client, queue, settings.start).await,
        }
    }

    /// Commits what is consumed; the first error, after all were tried.
    pub(crate) async fn commit(&self) -> Result<(), Error> {
        self.commit_these(&self.assigned()).await
    }

    async fn commit_these(&self, queues: &[Arc<Assigned>]) -> Result<(), Error> {
        if let Some(local) = &self.local {
            return local.keep(queues.iter().filter_map(|a| Some((&a.queue, a.done()?)))).await;
        }
        let commits =
            queues.iter().map(|assigned| assigned.commit(&self.client, &self.settings.group).boxed());
        let commits: Vec<_> = commits.collect();
        let commits = futures::stream::iter(commits).buffer_unordered(ASKED_AT_ONCE);
        commits.fold(Ok(()), |outcome: Result<(), Error>, committed| async { outcome.and(committed) }).await
    }
}

async fn commit_often(shared: Arc<Shared>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        if let Err(error) = shared.commit().await {
            tracing::warn!(group = shared.settings.group, %error, "could not commit");
        }
    }
}

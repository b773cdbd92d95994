//! A consumer that hands messages to a function; what the function can not do comes again later.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sluice_protocol::code::RequestCode;
use sluice_protocol::id::TopicName;
use sluice_protocol::message::RETRY_TOPIC;
use sluice_protocol::request;
use sluice_protocol::route::MASTER;
use sluice_protocol::topic::RETRY_PREFIX;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use crate::assigned::{Assigned, to_read};
use crate::client::Client;
use crate::consumer::{Consumer, ConsumerSettings, Shared, Subscription};
use crate::error::Error;
use crate::pull::Filter;
use crate::record::Record;
use crate::route::Queue;

/// Why a message could not be consumed; it is logged, and the message comes again.
pub type HandlerError = Box<dyn StdError + Send + Sync>;

/// Batches of one queue that wait for its handler.
const QUEUE_BATCHES_MAX: usize = 2;

/// The wait after a message could neither be consumed nor be given back.
const PAUSE: Duration = Duration::from_secs(1);

/// After so many failures a message goes to the dead letters.
const RECONSUME_TIMES_MAX: i32 = 16;

/// The wait of a failed message is for the broker to choose.
const DELAY_LEVEL_OF_BROKER: i32 = 0;

/// Hands messages of a group's share to a function, queue by queue in order, queues beside one another.
///
/// A message whose function fails is given back to the broker and comes again later, as one of the group's retry
/// topic; messages after it are not held up. Each queue is committed up to where its messages are consumed or
/// given back.
pub struct PushConsumer {
    shared: Arc<Shared>,
    task: JoinHandle<Consumer>,
    stop: tokio::sync::oneshot::Sender<()>,
}

/// One queue's handler.
struct Worker {
    assigned: Arc<Assigned>,
    batches: Sender<(Vec<Record>, i64)>,
    task: JoinHandle<()>,
}

impl PushConsumer {
    /// Joins the group and calls the function for each message.
    pub async fn start<H, F>(
        client: &Client,
        settings: ConsumerSettings,
        subscriptions: impl IntoIterator<Item = Subscription>,
        handler: H,
    ) -> Result<Self, Error>
    where
        H: Fn(Record) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let retry = TopicName::stored(&format!("{RETRY_PREFIX}{}", settings.group))?;
        let mut subscriptions: Vec<Subscription> = subscriptions.into_iter().collect();
        subscriptions.push(Subscription { topic: retry, filter: Filter::All });
        Ok(Self::over(Consumer::subscribe(client, settings, subscriptions).await?, handler))
    }

    /// The same, for every message of these topics; see [`Consumer::broadcast`]. A message whose function fails is
    /// logged and does not come again: no other member stands in for this one.
    pub async fn broadcast<H, F>(
        client: &Client,
        settings: ConsumerSettings,
        subscriptions: impl IntoIterator<Item = Subscription>,
        offsets: Option<PathBuf>,
        handler: H,
    ) -> Result<Self, Error>
    where
        H: Fn(Record) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        Ok(Self::over(Consumer::broadcast(client, settings, subscriptions, offsets).await?, handler))
    }

    fn over<H, F>(consumer: Consumer, handler: H) -> Self
    where
        H: Fn(Record) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let shared = Arc::clone(consumer.shared());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(hand_out(consumer, Arc::new(handler), stopped));
        Self { shared, task, stop }
    }

    /// The queues that it reads now.
    pub fn queues(&self) -> Vec<Queue> {
        self.shared.assigned().iter().map(|assigned| assigned.queue.clone()).collect()
    }

    /// Ends it after the message that each queue is at, commits, and leaves the group.
    pub async fn close(self) -> Result<(), Error> {
        drop(self.stop);
        let consumer = self.task.await.map_err(|_| Error::Closed { what: "consumer" })?;
        let committed = self.shared.commit().await;
        consumer.leave().await;
        committed
    }
}

/// Takes what was pulled to the handler of its queue, until told to stop.
async fn hand_out<H, F>(
    mut consumer: Consumer,
    handler: Arc<H>,
    mut stopped: tokio::sync::oneshot::Receiver<()>,
) -> Consumer
where
    H: Fn(Record) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    let mut workers: HashMap<Queue, Worker> = HashMap::new();
    loop {
        let taken = tokio::select! {
            _ = &mut stopped => break,
            taken = consumer.take() => taken,
        };
        let (assigned, pulled) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                tracing::error!(%error, "could not pull");
                continue;
            }
        };
        workers.retain(|_, worker| !worker.assigned.is_revoked());
        let start = || Worker::start(consumer.shared(), &assigned, &handler);
        let worker = workers.entry(assigned.queue.clone()).or_insert_with(start);
        if !Arc::ptr_eq(&worker.assigned, &assigned) {
            *worker = start();
        }
        tokio::select! {
            _ = &mut stopped => break,
            // It fails only if the handler panicked, which shows at the end.
            _ = worker.batches.send((pulled.records, pulled.next_offset)) => {}
        }
    }
    for Worker { assigned, batches, task } in workers.into_values() {
        assigned.revoke();
        drop(batches);
        if task.await.is_err() {
            tracing::error!(queue = %assigned.queue, "the handler of a queue panicked");
        }
    }
    consumer
}

impl Worker {
    fn start<H, F>(shared: &Arc<Shared>, assigned: &Arc<Assigned>, handler: &Arc<H>) -> Self
    where
        H: Fn(Record) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let (batches, waiting) = channel(QUEUE_BATCHES_MAX);
        let work = work(Arc::clone(shared), Arc::clone(assigned), Arc::clone(handler), waiting);
        Self { assigned: Arc::clone(assigned), batches, task: tokio::spawn(work) }
    }
}

async fn work<H, F>(
    shared: Arc<Shared>,
    assigned: Arc<Assigned>,
    handler: Arc<H>,
    mut batches: Receiver<(Vec<Record>, i64)>,
) where
    H: Fn(Record) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    while let Some((records, next_offset)) = batches.recv().await {
        for record in records {
            let (queue, after) = (&assigned.queue, record.queue_offset.saturating_add(1));
            let record = of_its_topic(record);
            while let Err(error) = handler(record.clone()).await {
                tracing::warn!(%queue, queue_offset = record.queue_offset, %error, "could not consume a message");
                if shared.local.is_some() {
                    break;
                }
                match send_back(&shared, queue, &record).await {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::warn!(%queue, queue_offset = record.queue_offset, %error, "could not give it back");
                        if assigned.is_revoked() {
                            return;
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
            assigned.finish_to(after);
            if assigned.is_revoked() {
                return;
            }
        }
        assigned.finish_to(next_offset);
    }
}

/// A message that comes again has the topic that it was first sent to.
fn of_its_topic(mut record: Record) -> Record {
    if let Some(topic) = record.property(RETRY_TOPIC).and_then(|topic| TopicName::stored(topic).ok()) {
        record.topic = topic;
    }
    record
}

async fn send_back(shared: &Shared, queue: &Queue, record: &Record) -> Result<(), Error> {
    let (group, id) = (&shared.settings.group, record.message_id());
    let header = request::ConsumerSendMsgBack {
        offset: i64::try_from(record.log_offset.get()).unwrap_or(i64::MAX),
        group,
        delay_level: DELAY_LEVEL_OF_BROKER,
        origin_msg_id: Some(&id),
        origin_topic: Some(record.topic.as_str()),
        unit_mode: Some(false),
        max_reconsume_times: Some(RECONSUME_TIMES_MAX),
    };
    let address = to_read(&shared.client, queue, MASTER).await?;
    let code = RequestCode::CONSUMER_SEND_MSG_BACK;
    shared.client.ask(&address, code, header.fields(), &[], &queue.to_string()).await.map(drop)
}

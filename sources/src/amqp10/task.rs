//! The client of source `amqp10`: one receiver, each of whose messages is settled by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fe2o3_amqp::link::delivery::DeliveryInfo;
use fe2o3_amqp::link::receiver::ReceiverDisposer;
use sluice_bridges::amqp10::client::{Link, Received};
use sluice_bridges::amqp10::mapping::to_message;
use sluice_client::Tls;
use sluice_connect::task::{Class, SourceTask, TaskError};
use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;

use super::Amqp10Config;
use crate::queue::{Acknowledge, Delivery, QueueSettings, QueueSource, Receive};

/// After so long without a message a queue counts as empty: brokers tell nothing of it.
const QUIET: Duration = Duration::from_secs(2);

/// The source's task.
pub(crate) fn open(settings: &Amqp10Config) -> Box<dyn SourceTask> {
    let queue = QueueSettings {
        name: settings.queue.clone(),
        until: settings.until,
        unacknowledged_max: usize::from(settings.prefetch),
    };
    let settings = settings.clone();
    Box::new(QueueSource::new(queue, move || Client::new(&settings)))
}

type Channel = Receiver<Result<Received, TaskError>>;

struct Client {
    settings: Amqp10Config,
    /// Made by the first read: whoever only looks takes no messages.
    receiving: Option<Channel>,
    disposer: Arc<std::sync::Mutex<Option<ReceiverDisposer>>>,
    /// What came while it was waited for.
    waiting: Option<Result<Received, TaskError>>,
    /// When the last message came.
    last: Instant,
    link: Arc<Link>,
}

#[expect(clippy::disallowed_methods, reason = "whether a queue is quiet is for the machine's own clock")]
fn now() -> Instant {
    Instant::now()
}

impl Client {
    fn new(settings: &Amqp10Config) -> Result<Self, TaskError> {
        let way = settings.way().map_err(|problem| TaskError::new(Class::Config, problem))?;
        let tls = way.address.is_secure.then(|| tls(settings, &way.address.host)).transpose()?;
        let link = Arc::new(Link::open(&way, tls.as_ref())?);
        let (settings, disposer) = (settings.clone(), Arc::default());
        Ok(Self { settings, receiving: None, disposer, waiting: None, last: now(), link })
    }

    fn receiving(&mut self) -> Result<&mut Channel, TaskError> {
        if self.receiving.is_none() {
            // The credit is given again when half of it was settled.
            let credit = u32::from((self.settings.prefetch / 2).max(1));
            let bytes_max = self.settings.body_max.as_u64();
            let (receiving, disposer) = self.link.receive(&self.settings.queue, credit, bytes_max)?;
            *self.disposer.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(disposer);
            (self.receiving, self.last) = (Some(receiving), now());
        }
        self.receiving.as_mut().ok_or_else(|| TaskError::new(Class::Fatal, "there is no receiver"))
    }

    fn ended(&self) -> TaskError {
        TaskError::new(Class::Retry, format!("queue {}: the receiver has ended", self.settings.queue))
    }
}

fn tls(settings: &Amqp10Config, host: &str) -> Result<sluice_bridges::stream::Tls, TaskError> {
    let tls = settings.tls.clone().unwrap_or_default();
    let what = "cannot speak TLS as asked for";
    let tls = Tls::new(&tls).map_err(|e| TaskError::new(Class::Config, what).because(e))?;
    tls.to(host).map_err(|e| TaskError::new(Class::Config, what).because(e))
}

impl Receive for Client {
    type Tag = DeliveryInfo;

    fn next(&mut self) -> Result<Option<Delivery<DeliveryInfo>>, TaskError> {
        let next = match self.waiting.take() {
            Some(waiting) => waiting,
            None => match self.receiving()?.try_recv() {
                Ok(next) => next,
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => return Err(self.ended()),
            },
        };
        self.last = now();
        let (tag, message) = next?;
        let mapped = message.and_then(|message| to_message(&self.settings.queue, message));
        Ok(Some(match mapped {
            Ok((mapped, born, body)) => {
                Delivery { tag, mapped: Ok((mapped, born)), body: body.unwrap_or_default().into() }
            }
            Err(reason) => Delivery { tag, mapped: Err(reason), body: Bytes::new() },
        }))
    }

    fn wait(&mut self, timeout: Duration) {
        let link = Arc::clone(&self.link);
        if let (None, Some(receiving)) = (&self.waiting, &mut self.receiving) {
            let next = link.wait(async { tokio::time::timeout(timeout, receiving.recv()).await });
            self.waiting = next.ok().flatten();
        }
    }

    fn ready(&mut self) -> Option<u64> {
        None
    }

    fn is_empty(&mut self) -> Result<bool, TaskError> {
        Ok(self.waiting.is_none() && self.receiving.is_some() && self.last.elapsed() >= QUIET)
    }

    fn acknowledge(&self) -> Arc<dyn Acknowledge<DeliveryInfo>> {
        let queue = self.settings.queue.clone();
        Arc::new(Acker { queue, disposer: Arc::clone(&self.disposer), link: Arc::clone(&self.link) })
    }
}

struct Acker {
    queue: String,
    disposer: Arc<std::sync::Mutex<Option<ReceiverDisposer>>>,
    link: Arc<Link>,
}

impl Acknowledge<DeliveryInfo> for Acker {
    fn acknowledge(&self, tags: Vec<DeliveryInfo>) -> Result<(), TaskError> {
        let disposer = self.disposer.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let Some(disposer) = disposer else { return Ok(()) };
        let what = format!("cannot acknowledge messages of queue {}", self.queue);
        self.link.wait(async {
            for tag in tags {
                self.link.answer(&what, disposer.accept(tag)).await?;
            }
            Ok(())
        })
    }
}

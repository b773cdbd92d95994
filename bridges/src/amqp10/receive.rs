//! Receives from a node. The receiver lives in a task of its own, which gives credit, settles, and asks the broker whether
//! there is more; messages wait in a channel that holds as many as there was credit for.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::delivery::DeliveryInfo;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::link::{DispositionError, IllegalLinkStateError, RecvError};
use fe2o3_amqp::types::definitions::SenderSettleMode;
use fe2o3_amqp::types::messaging::{Body, Message};
use fe2o3_amqp::types::primitives::LazyValue;
use sluice_connect::task::{Class, TaskError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::client::{ANSWER_MAX, CLOSE_MAX, Link, failed};
use super::guard::SharedSeen;

/// What settles a message.
pub type Tag = DeliveryInfo;

/// A message as it was received, or why it can not be read.
pub type Received = (Tag, Result<Message<Body<LazyValue>>, String>);

enum Command {
    Begin,
    Accept(Vec<Tag>, oneshot::Sender<Result<(), DispositionError>>),
    Drain,
    Close(oneshot::Sender<()>),
}

/// The messages that came from a node.
pub struct Messages {
    channel: UnboundedReceiver<Result<Received, TaskError>>,
    /// What came while it was waited for.
    waiting: Option<Result<Received, TaskError>>,
    /// Messages that were taken.
    taken: u64,
    /// When the broker was asked whether there is more, since the last message.
    asked: Option<Instant>,
    /// Whether the broker has leave to send: whoever only looks takes no messages.
    has_begun: bool,
    settler: Arc<Settler>,
}

/// Settles messages; ends the receiver when it is dropped, behind all that it was told before.
pub struct Settler {
    commands: UnboundedSender<Command>,
    node: String,
    link: Arc<Link>,
}

impl Messages {
    /// Attaches to a node. From the first [`Self::try_next`] on, at most `credit` messages are on their way or not settled.
    pub fn attach(link: &Arc<Link>, node: &str, credit: u32) -> Result<Self, TaskError> {
        let what = format!("cannot receive from {node}");
        let mut session = link.session();
        let attach = async {
            Receiver::builder()
                .name(link.name(node))
                .source(node)
                .sender_settle_mode(SenderSettleMode::Unsettled)
                .credit_mode(CreditMode::Manual)
                .attach(&mut session)
                .await
        };
        let receiver = link.ask(&what, attach)?;
        drop(session);
        let (commands, to_do) = unbounded_channel();
        let (messages, channel) = unbounded_channel();
        let seen = link.seen.clone();
        let told = link.told(&what);
        let drain = Drain::No;
        let reception = Reception { receiver, credit, unsettled: 0, settled: 0, drain, seen, messages, told };
        link.runtime.spawn(reception.run(to_do));
        let settler = Arc::new(Settler { commands, node: node.to_owned(), link: Arc::clone(link) });
        Ok(Self { channel, waiting: None, taken: 0, asked: None, has_begun: false, settler })
    }

    /// The half that settles.
    pub fn settler(&self) -> Arc<Settler> {
        Arc::clone(&self.settler)
    }

    /// The next message that is here.
    pub fn try_next(&mut self) -> Result<Option<Received>, TaskError> {
        if !self.has_begun {
            self.settler.tell(Command::Begin)?;
            self.has_begun = true;
        }
        let Some(next) = self.waiting.take().or_else(|| self.channel.try_recv().ok()) else {
            return if self.channel.is_closed() && self.channel.is_empty() {
                Err(TaskError::new(Class::Retry, self.settler.told("the receiver has ended")))
            } else {
                Ok(None)
            };
        };
        let (tag, message) = next?;
        self.taken += 1;
        self.asked = None;
        let refused = self.settler.link.seen.lock().refused.remove(&tag.delivery_id());
        Ok(Some((tag, refused.map_or(message, Err))))
    }

    /// Waits until one is here, `longest` at most.
    pub fn wait(&mut self, longest: Duration) {
        if self.waiting.is_none() {
            let link = Arc::clone(&self.settler.link);
            let next = link.wait(async { timeout(longest, self.channel.recv()).await });
            self.waiting = next.ok().flatten();
            // A receiver that has ended says so at the next read, and at once.
        }
    }

    /// Whether none is here and the broker has said that it has no more. Asks it if need be.
    #[expect(clippy::disallowed_methods, reason = "how long a broker is waited for decides about no row")]
    pub fn is_drained(&mut self) -> Result<bool, TaskError> {
        let Some(asked) = self.asked else {
            self.settler.link.seen.lock().is_drained = false;
            self.settler.tell(Command::Drain)?;
            self.asked = Some(Instant::now());
            return Ok(false);
        };
        let (is_drained, messages) = {
            let seen = self.settler.link.seen.lock();
            (seen.is_drained, seen.messages)
        };
        if !is_drained && asked.elapsed() > ANSWER_MAX {
            // It may have been asked when all it could hand out was in hand.
            self.asked = None;
        }
        Ok(is_drained && self.waiting.is_none() && self.taken == messages)
    }
}

impl Settler {
    /// Accepts messages: the broker forgets them.
    pub fn accept(&self, tags: Vec<Tag>) -> Result<(), TaskError> {
        let what = format!("cannot settle messages of {}", self.node);
        let (told, answer) = oneshot::channel();
        self.tell(Command::Accept(tags, told))?;
        let answered = async { answer.await.unwrap_or(Err(IllegalLinkStateError::IllegalState)) };
        self.link.ask(&what, answered)
    }

    fn tell(&self, command: Command) -> Result<(), TaskError> {
        self.commands
            .send(command)
            .map_err(|_| TaskError::new(Class::Retry, self.told("the receiver has ended")))
    }

    fn told(&self, what: &str) -> String {
        self.link.told(&format!("{}: {what}", self.node))
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        let (told, closed) = oneshot::channel();
        if self.commands.send(Command::Close(told)).is_ok() {
            drop(self.link.wait(async { timeout(CLOSE_MAX, closed).await }));
        }
    }
}

/// Whether the broker was asked to say when it has no more.
#[derive(PartialEq, Eq)]
enum Drain {
    No,
    /// It is asked once a message is settled: now all that it may hand out is in hand.
    Wanted,
    Asked,
}

/// The receiver in its task.
struct Reception {
    receiver: Receiver,
    credit: u32,
    /// Messages in hand.
    unsettled: u32,
    /// Those that were settled since credit was given.
    settled: u32,
    drain: Drain,
    seen: SharedSeen,
    messages: UnboundedSender<Result<Received, TaskError>>,
    /// What a failure is called.
    told: String,
}

enum Event {
    Command(Option<Command>),
    Message(Box<Result<Received, RecvError>>),
}

impl Reception {
    async fn run(mut self, mut commands: UnboundedReceiver<Command>) {
        loop {
            let event = {
                let mut next = pin!(self.receiver.recv::<Body<LazyValue>>());
                // What was not yet complete stays in the receiver.
                poll_fn(|context| match commands.poll_recv(context) {
                    Poll::Ready(command) => Poll::Ready(Event::Command(command)),
                    Poll::Pending => next.as_mut().poll(context).map(|delivery| {
                        Event::Message(Box::new(delivery.map(|delivery| {
                            let (tag, message) = delivery.into_parts();
                            (tag, Ok(message))
                        })))
                    }),
                })
                .await
            };
            let done = match event {
                Event::Command(None) => return,
                Event::Command(Some(Command::Close(told))) => {
                    let _ = self.receiver.close().await;
                    let _ = told.send(());
                    return;
                }
                Event::Command(Some(Command::Accept(tags, told))) => {
                    let done = self.accept(tags).await;
                    // Who asked may have waited long enough.
                    let _ = told.send(done);
                    Ok(())
                }
                Event::Command(Some(command @ (Command::Begin | Command::Drain))) => {
                    if matches!(command, Command::Drain) {
                        self.drain = Drain::Wanted;
                    }
                    self.ask_for_more().await.map_err(|error| failed(self.told.clone(), error))
                }
                Event::Message(received) => self.take(*received),
            };
            if let Err(error) = done {
                let _ = self.messages.send(Err(error));
                return;
            }
        }
    }

    fn take(&mut self, received: Result<Received, RecvError>) -> Result<(), TaskError> {
        let received = match received {
            Ok(received) => received,
            Err(RecvError::MessageDecode(error)) => {
                (error.info, Err(format!("the message can not be read: {}", error.source)))
            }
            Err(error) => return Err(failed(self.told.clone(), error)),
        };
        self.unsettled += 1;
        // Nobody listens once the source is gone.
        let _ = self.messages.send(Ok(received));
        Ok(())
    }

    async fn accept(&mut self, tags: Vec<Tag>) -> Result<(), DispositionError> {
        let count = u32::try_from(tags.len()).unwrap_or(u32::MAX);
        self.receiver.accept_all(tags).await?;
        self.unsettled = self.unsettled.saturating_sub(count);
        self.settled = self.settled.saturating_add(count);
        let is_draining = self.drain == Drain::Asked && !self.seen.lock().is_drained;
        let is_due = self.settled >= (self.credit / 4).max(1);
        if self.drain == Drain::Wanted || is_due && !is_draining { self.ask_for_more().await } else { Ok(()) }
    }

    /// Gives credit again, and asks the broker to say when it has no more for it, if that is wanted.
    async fn ask_for_more(&mut self) -> Result<(), IllegalLinkStateError> {
        let credit = self.credit.saturating_sub(self.unsettled);
        if credit == 0 {
            return Ok(());
        }
        self.settled = 0;
        self.receiver.set_credit(credit).await?;
        if self.drain == Drain::Wanted {
            self.receiver.drain().await?;
            self.drain = Drain::Asked;
        } else {
            self.drain = Drain::No;
        }
        Ok(())
    }
}

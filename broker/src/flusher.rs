//! Group commit for connections: one thread waits for the disk on behalf of all who sent meanwhile.

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use sluice_store::{Store, Ticket};
use tokio::runtime::Handle;

use crate::long_poll::LongPoll;
use crate::outlet::{Outlet, Replies, Room};
use crate::reply::Reply;
use crate::send::Place;

/// Answers to sends that wait for the disk, and the queues where messages arrive then.
pub(crate) struct Unflushed {
    pub(crate) ticket: Ticket,
    pub(crate) replies: Replies,
    pub(crate) places: Vec<Place>,
}

struct Waiting {
    unflushed: Unflushed,
    outlet: Arc<Outlet>,
    /// None if nobody is there to be answered.
    room: Option<Room>,
}

/// The thread that waits for the disk.
pub(crate) struct Flusher {
    sender: Mutex<Option<Sender<Waiting>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Flusher {
    /// Starts it; answers are sent by `runtime`.
    pub(crate) fn start(store: Store, long_poll: Arc<LongPoll>, runtime: Handle) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel::<Waiting>();
        let work = move || {
            while let Ok(first) = receiver.recv() {
                let mut served = vec![first];
                served.extend(receiver.try_iter());
                let last = served.iter().map(|waiting| waiting.unflushed.ticket).max();
                let durable = last.map_or(Ok(()), |ticket| store.durable(ticket));
                let refusal = durable.err().map(|error| {
                    tracing::error!(%error, "messages may be lost, and are not acknowledged");
                    Reply::from(error)
                });
                for Waiting { unflushed: Unflushed { mut replies, places, .. }, outlet, room } in served {
                    if let Some(refusal) = &refusal {
                        replies = replies.refused(refusal);
                    }
                    runtime.spawn(async move {
                        let _room = room;
                        outlet.send(replies).await
                    });
                    if refusal.is_none() {
                        long_poll.arrived_at(&places);
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("sluice-flusher".to_owned()).spawn(work)?;
        Ok(Self { sender: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) })
    }

    /// Sends the answers once they are true, and tells who waits at the queues. They are refused if the disk fails:
    /// whether the messages are stored nobody can say then, and the client asks another broker.
    pub(crate) fn when_durable(&self, unflushed: Unflushed, outlet: Arc<Outlet>, room: Option<Room>) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = Waiting { unflushed, outlet, room };
        if let Some(Err(mpsc::SendError(waiting))) = sender.as_ref().map(|sender| sender.send(waiting)) {
            tracing::error!("the flusher has ended");
            waiting.outlet.close();
        }
    }

    /// Serves who waits, and ends.
    pub(crate) fn stop(&self) {
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A panic of the thread was reported where it happened.
            let _ = thread.join();
        }
    }
}

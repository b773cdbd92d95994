//! Group commit for connections: one thread waits for the disk on behalf of all who sent meanwhile.

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use sluice_protocol::code::ResponseCode;
use sluice_store::{Store, Ticket};
use tokio::runtime::Handle;

use crate::long_poll::LongPoll;
use crate::outlet::{Outlet, Replies};
use crate::send::Place;

struct Waiting {
    ticket: Ticket,
    replies: Replies,
    outlet: Arc<Outlet>,
    places: Vec<Place>,
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
                let last = served.iter().map(|waiting| waiting.ticket).max();
                let durable = last.map_or(Ok(()), |ticket| store.durable(ticket));
                if let Err(error) = &durable {
                    tracing::error!(%error, "messages may be lost, and are not acknowledged");
                }
                for Waiting { replies, outlet, places, .. } in served {
                    if durable.is_err() {
                        // Whether they are stored nobody can say; the client will ask another broker.
                        outlet.close();
                        continue;
                    }
                    runtime.spawn(async move { outlet.send(replies).await });
                    places.iter().for_each(|(topic, queue)| long_poll.arrived(topic, *queue));
                }
            }
        };
        let thread = std::thread::Builder::new().name("sluice-flusher".to_owned()).spawn(work)?;
        Ok(Self { sender: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) })
    }

    /// Sends replies once everything up to a ticket is durable, and tells who waits at the queues.
    pub(crate) fn when_durable(
        &self,
        ticket: Ticket,
        replies: Replies,
        outlet: Arc<Outlet>,
        places: Vec<Place>,
    ) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = Waiting { ticket, replies, outlet, places };
        if let Some(Err(mpsc::SendError(waiting))) = sender.as_ref().map(|sender| sender.send(waiting)) {
            tracing::error!(code = %ResponseCode::SERVICE_NOT_AVAILABLE, "the flusher has ended");
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

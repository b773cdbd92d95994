//! A send that did not go at once: connects, waits for room, tries again at other queues.

use std::sync::Arc;
use std::time::Duration;

use sluice_protocol::code::RequestCode;

use crate::clock::now_ms;
use crate::connection::{Connection, Pushed, Waiter};
use crate::error::Error;
use crate::lane::{Batch, Lane, Outgoing, Stored, stored};
use crate::producer::Core;
use crate::route::Queue;

/// How long a queue that failed is passed over where there are others.
const SHUN_MS: i64 = 5_000;

/// The wait before the second attempt at the same broker; doubles with each.
const PAUSE_FIRST: Duration = Duration::from_millis(50);

/// The longest wait between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Sends a batch until it is stored, refused, or tried often enough; then lets its lane go on. With an error, one
/// attempt was made already.
pub(crate) fn start(core: Arc<Core>, lane: Arc<Lane>, mut batch: Batch, error: Option<Error>) {
    tokio::spawn(async move {
        let mut queue = lane.queue.clone();
        let outgoing = batch.outgoing();
        let mut failure = error;
        let mut retries = 0;
        let outcome = loop {
            if let Some(error) = failure {
                if !error.is_retryable() || retries == core.settings().retries_max {
                    break Err(error);
                }
                retries += 1;
                tracing::debug!(topic = queue.topic.as_str(), retries, %error, "sends again");
                queue = next_queue(&core, queue, batch.kind.is_pinned, retries).await;
            }
            match attempt(&core, &lane, &queue, &outgoing).await {
                Ok(stored) => break Ok(stored),
                Err(error) => failure = Some(error),
            }
        };
        batch.finish(&core, &queue, outcome);
        lane.go_on(&core);
    });
}

/// Hands a request over as soon as the connection has room.
pub(crate) fn push_later(
    core: Arc<Core>,
    queue: Queue,
    connection: Arc<Connection>,
    outgoing: Outgoing,
    waiter: Waiter,
) {
    tokio::spawn(async move {
        let mut waiter = waiter;
        let timeout = core.settings().send_timeout;
        loop {
            let room = connection.room();
            let pushed = {
                let parts = outgoing.parts();
                let header = parts.header(&core, &queue);
                connection.push(&mut parts.request(&header), timeout, waiter)
            };
            match pushed {
                Pushed::Done => return,
                Pushed::Failed(error, waiter) => return waiter(Err(error)),
                Pushed::Full(back) => waiter = back,
            }
            room.await;
        }
    });
}

async fn attempt(core: &Core, lane: &Lane, queue: &Queue, outgoing: &Outgoing) -> Result<Stored, Error> {
    let address = core.master(queue).await?;
    let connection = core.client().connection(&address).await?;
    if *queue == lane.queue {
        lane.use_connection(Arc::clone(&connection));
    }
    let parts = outgoing.parts();
    let header = parts.header(core, queue);
    let response = connection.call(parts.request(&header), core.settings().send_timeout).await?;
    let header = response
        .header()
        .map_err(|error| Error::unreadable(&address, RequestCode::SEND_MESSAGE_V2, "header", error))?;
    stored(&header, &address, queue)
}

/// Where the next attempt goes, once it may start: another broker at once, the same one after a pause.
async fn next_queue(core: &Arc<Core>, failed: Queue, is_pinned: bool, retries: u32) -> Queue {
    core.shun(&failed, now_ms() + SHUN_MS);
    let next = if is_pinned { None } else { core.another_queue(&failed).await };
    let next = next.unwrap_or_else(|| failed.clone());
    if next.broker == failed.broker {
        tokio::time::sleep(pause(retries)).await;
        core.refresh(&failed.topic).await;
    }
    next
}

fn pause(retries: u32) -> Duration {
    PAUSE_FIRST.saturating_mul(1 << retries.saturating_sub(1).min(16)).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        assert_eq!([1, 2, 3, 9, 99].map(|n| pause(n).as_millis()), [50, 100, 200, 2000, 2000]);
    }
}

//! Which chains the source's half reads: those of the source's queues that its scope names, each from where the target
//! stands.

use std::sync::Arc;

use super::{Feed, Scope, SourceHalf, nobody_listens};
use crate::assignment::Assignment;
use crate::target::{Message, Start};
use crate::task::{Chain, Class, SourceQueue, TaskError};

impl SourceHalf<'_> {
    /// Begins to read what is new among the chains that are wanted, and gives up what is another worker's now.
    pub(super) fn find_queues(&mut self) -> Result<(), TaskError> {
        let queues = self.source.queues()?;
        let queues = match self.scope {
            Scope::Shared(assignment) => self.shared(assignment, queues)?,
            Scope::All | Scope::Unfinished(_) => queues,
        };
        let mut found = Vec::new();
        for queue in queues {
            let chain = Chain {
                pipeline: Arc::clone(&self.name),
                topic: Arc::clone(&queue.topic),
                queue: queue.queue,
            };
            let is_wanted = match self.scope {
                Scope::All | Scope::Shared(_) => true,
                Scope::Unfinished(chains) => chains.contains(&chain),
            };
            let known = self.known.get(&chain).copied();
            let is_read = known.and_then(|number| self.feeds.get(number)).is_some_and(|feed| !feed.given_up);
            if is_wanted && !is_read {
                found.push((chain, queue, known));
            }
        }
        if !found.is_empty() {
            let chains = found.iter().map(|(chain, ..)| chain.clone()).collect();
            self.sender.send(0, Message::Prepare(chains)).map_err(|_| nobody_listens())?;
        }
        for (chain, queue, known) in found {
            self.open(chain, &queue, known)?;
        }
        if let Scope::Shared(assignment) = self.scope {
            let here = self.feeds.iter().filter(|feed| !feed.given_up && !feed.ended);
            assignment.set_running(here.map(|f| format!("{}/{}", f.chain.topic, f.chain.queue)).collect());
        }
        Ok(())
    }

    /// The queues that are this worker's now. Gives up the others, and those that another worker was faster with:
    /// they begin again from where the target stands then.
    fn shared(
        &mut self,
        assignment: &Assignment,
        queues: Vec<SourceQueue>,
    ) -> Result<Vec<SourceQueue>, TaskError> {
        for chain in self.recall.take() {
            if let Some(&number) = self.known.get(&chain) {
                self.give_up(number)?;
            }
        }
        let mut mine = assignment.share(queues, salt(&self.name));
        for number in 0..self.feeds.len() {
            let Feed { chain, given_up, .. } = &self.feeds[number];
            let is_mine = mine.iter().any(|q| q.topic == chain.topic && q.queue == chain.queue);
            if !is_mine && !given_up {
                tracing::info!(task = %chain, "gave a task up");
                self.give_up(number)?;
            }
        }
        self.unsettled = !assignment.is_settled((self.clock)());
        if self.unsettled {
            mine.clear();
        }
        Ok(mine)
    }

    /// What was read of the chain is published, unless another worker was faster.
    fn give_up(&mut self, number: usize) -> Result<(), TaskError> {
        let feed = &mut self.feeds[number];
        feed.given_up = true;
        feed.lag = None;
        self.source.release(&feed.chain.topic, feed.chain.queue);
        self.steps.forget(number);
        self.send_end(number)
    }

    /// Publishes what was read of a queue that is gone; its number may become another one's.
    pub(super) fn close(&mut self, number: usize) -> Result<(), TaskError> {
        if self.steps.holds(number) {
            self.release()?;
        }
        self.give_up(number)?;
        self.known.remove(&self.feeds[number].chain);
        self.free.push(number);
        Ok(())
    }

    /// Begins to read a chain from where the target stands; `known` is its number if it was read before.
    fn open(&mut self, chain: Chain, queue: &SourceQueue, known: Option<usize>) -> Result<(), TaskError> {
        let Start { next, until, without_schema, schema } =
            self.ask(|reply| Message::Open(chain.clone(), queue.clone(), reply))?;
        if next < queue.first {
            return Err(TaskError::new(
                Class::Config,
                format!(
                    "{chain}: the next row is {next}, and the source keeps rows from {} only: what lies between is lost to this pipeline",
                    queue.first
                ),
            ));
        }
        if self.scope.is_shared() {
            tracing::info!(task = %chain, queue_offset = next, "took a task");
        }
        let ended = self.scope.is_unfinished() && until.is_none();
        let lag = self.source.end(&queue.topic, queue.queue).map(|end| end.saturating_sub(next));
        let wanted_from = next.saturating_sub(self.steps.looks_back()).max(0);
        let warm_from = wanted_from.max(queue.first);
        if warm_from < next && warm_from > wanted_from {
            let kept_from = queue.first;
            tracing::warn!(%chain, kept_from, next, "rows that a window looks back at are gone from the source");
        }
        let warm = (warm_from < next).then_some(warm_from);
        let feed = Feed {
            chain: chain.clone(),
            next,
            until,
            without_schema,
            schema,
            warm,
            ended,
            given_up: false,
            lag,
            stored_ms: None,
        };
        match known.and_then(|number| self.feeds.get_mut(number)) {
            Some(before) => *before = feed,
            None => match self.free.pop().and_then(|number| Some((number, self.feeds.get_mut(number)?))) {
                Some((number, closed)) => {
                    *closed = feed;
                    self.known.insert(chain, number);
                }
                None => {
                    self.known.insert(chain, self.feeds.len());
                    self.feeds.push(feed);
                }
            },
        }
        Ok(())
    }
}

/// A number of a name, the same in every worker.
fn salt(name: &str) -> u32 {
    name.bytes().fold(0, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)))
}

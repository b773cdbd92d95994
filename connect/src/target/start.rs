//! Where a chain starts in the target: its position, and what an earlier run left unfinished.

use arrow::datatypes::SchemaRef;

use super::{Open, Start, Target, TargetHalf};
use crate::pipeline::Scope;
use crate::plan::Plan;
use crate::task::{Chain, Class, Fates, Range, SourceQueue, TaskError};

impl TargetHalf<'_> {
    /// Finishes the unfinished plans of queues that the source does not have any more, as far as their files are
    /// there; the rows of the others can not be read again.
    pub(crate) fn finish_lost(&mut self, queues: &[SourceQueue], scope: &Scope) -> Result<(), TaskError> {
        let Target::Files(sink) = &mut self.target else { return Ok(()) };
        for (chain, plan) in sink.unfinished(&self.name)? {
            let is_there = queues.iter().any(|q| q.topic == chain.topic && q.queue == chain.queue);
            let is_asked = match scope {
                Scope::All | Scope::Shared(_) => true,
                Scope::Unfinished(chains) => chains.contains(&chain),
            };
            if is_there || !is_asked {
                continue;
            }
            if !self.is_published(&chain, &plan)? {
                return Err(TaskError::new(
                    Class::Config,
                    format!(
                        "{chain}: the plan of its rows {} to {} is not finished, and the source has no such queue or file \
                         any more: bring it back, and the plan is finished first",
                        plan.start, plan.end
                    ),
                ));
            }
            self.finish(&chain, &plan)?;
        }
        Ok(())
    }

    /// Finds or fixes a chain's position.
    pub(super) fn start(&mut self, chain: Chain, queue: SourceQueue) -> Result<Start, TaskError> {
        let (position, unfinished) = match &mut self.target {
            Target::Files(sink) => match sink.position(&chain)? {
                Some(position) => (Some((position.next, position.incarnation)), position.unfinished),
                None => {
                    // An origin that power loss takes from the source would mean other rows.
                    self.confirmer.secure(&queue.topic, queue.queue, queue.origin)?;
                    sink.begin(&chain, queue.origin, &queue.incarnation)?;
                    (None, None)
                }
            },
            Target::Transact(task) => match task.position(&chain)? {
                Some(position) => (Some(position), None),
                None => {
                    // A target without positions goes on where the source's group stands.
                    let confirmed = self.confirmer.confirmed(&queue.topic, queue.queue)?;
                    let origin = match confirmed {
                        Some(offset) if !task.keeps_positions() => offset.max(queue.first),
                        _ => queue.origin,
                    };
                    self.confirmer.secure(&queue.topic, queue.queue, origin)?;
                    task.begin(&chain, origin, &queue.incarnation)?;
                    (Some((origin, queue.incarnation.clone())), None)
                }
            },
        };
        let (mut next, incarnation) = position.unwrap_or((queue.origin, queue.incarnation.clone()));
        if !self.confirmer.same(&queue.topic, queue.queue, &incarnation, &queue.incarnation)? {
            return Err(TaskError::new(
                Class::Config,
                format!(
                    "{chain}: `{}` is not the one that was read before (it was replaced, or deleted and made again); its offsets mean other rows now. \
                     To take it from its beginning, give the pipeline a new name",
                    queue.topic
                ),
            ));
        }
        let mut redo = None;
        if let Some(plan) = unfinished {
            if self.is_published(&chain, &plan)? {
                self.finish(&chain, &plan)?;
            } else if !self.confirmer.rereads() {
                self.give_back(&chain, &plan)?;
            } else if plan.config != self.config.1 {
                // A worker that shares the pipeline may not have its new config yet; its plan is finished by the old one.
                let class = if self.recall.is_some() { Class::Retry } else { Class::Config };
                return Err(TaskError::new(
                    class,
                    format!(
                        "{chain}: the plan of its rows {} to {} was made by another config ({}, this one is {}) and is not \
                         finished: another worker runs this pipeline with that config; end it, then run again",
                        plan.start, plan.end, plan.config, self.config.1
                    ),
                ));
            } else {
                next = plan.start;
                redo = Some(plan);
            }
        }
        let until = redo.as_ref().map(|plan| plan.end);
        let without_schema = redo.as_ref().is_some_and(|plan| plan.schema.is_empty());
        let schema = match &redo {
            Some(plan) if !without_schema => Some(self.schema_of(&chain, plan)?),
            _ => None,
        };
        let range = Range { start: next, end: next };
        let open = Open {
            incarnation: queue.incarnation,
            range,
            fates: Fates::default(),
            rejects: Vec::new(),
            reject_bytes: 0,
            since_ms: (self.clock)(),
            redo,
        };
        self.open.insert(chain, open);
        Ok(Start { next, until, without_schema, schema })
    }

    /// Leaves a plan as it is whose rows come again under other offsets. Those of its files that are there stay.
    fn give_back(&mut self, chain: &Chain, plan: &Plan) -> Result<(), TaskError> {
        let (start, end) = (plan.start, plan.end);
        tracing::warn!(%chain, start, end, "a plan was not finished; its rows come again from the queue");
        match &mut self.target {
            Target::Files(sink) => sink.give_back(chain, plan),
            Target::Transact(_) => Ok(()),
        }
    }

    /// The schema that a plan was begun with, by which it is finished.
    pub(super) fn schema_of(&mut self, chain: &Chain, plan: &Plan) -> Result<SchemaRef, TaskError> {
        let found = match &mut self.target {
            Target::Files(sink) => sink.schema_by_hash(&self.name, &plan.schema)?,
            Target::Transact(_) => None,
        };
        found.ok_or_else(|| {
            let message = format!(
                "{chain}: the schema {} of the unfinished plan of its rows {} to {} is not beside the plans any more: put \
                 its `schema-….json` back",
                plan.schema, plan.start, plan.end
            );
            TaskError::new(Class::Config, message)
        })
    }

    /// Files that are there prove that the dead letters are; a plan without files proves nothing.
    pub(super) fn is_published(&mut self, chain: &Chain, plan: &Plan) -> Result<bool, TaskError> {
        let Target::Files(sink) = &mut self.target else { return Ok(false) };
        Ok((!plan.files.is_empty() || plan.fates.dead == 0) && sink.published(chain, plan)?)
    }
}

//! Which of a pipeline's tasks a worker runs: a task is a queue of its source, and each of the workers that share a
//! pipeline computes on its own which are whose, all with the same result.
//!
//! A worker that is wrong about it does work in vain and no harm: the chain of plans in the target is the fence.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::task::SourceQueue;

/// How long a task that comes from another worker is left alone, in ms: a worker that lives publishes what it has of
/// it first.
const HANDOVER_MS: i64 = 1000;

/// This worker's place among those that share a pipeline; changes while the pipeline runs.
#[derive(Debug, Default)]
pub struct Assignment {
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Place among the workers, and how many they are. Nobody knows of this one yet while they are 0.
    place: usize,
    workers: usize,
    /// Since when, in ms since 1970-01-01 UTC.
    since_ms: i64,
    /// The tasks that run here, each as `topic/queue`.
    running: Vec<String>,
}

impl Assignment {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets this worker's place among the workers, from 0, and how many they are; 0 if it has no place now.
    pub fn set(&self, place: usize, workers: usize, now_ms: i64) {
        let mut state = self.lock();
        (state.place, state.workers, state.since_ms) = (place, workers, now_ms);
    }

    /// The tasks that run here now, each as `topic/queue`, in order.
    pub fn running(&self) -> Vec<String> {
        self.lock().running.clone()
    }

    pub(crate) fn set_running(&self, running: Vec<String>) {
        self.lock().running = running;
    }

    /// Whether a task that is new to this worker may begin.
    pub(crate) fn is_settled(&self, now_ms: i64) -> bool {
        let since = now_ms - self.lock().since_ms;
        // A clock may be set back.
        !(0..HANDOVER_MS).contains(&since)
    }

    /// The queues that are this worker's. Contiguous parts, as `RocketMQ`'s members share the queues of a topic.
    /// `salt` begins with another worker for each pipeline, so that pipelines of one queue do not all meet in one
    /// place.
    pub(crate) fn share(&self, mut queues: Vec<SourceQueue>, salt: u32) -> Vec<SourceQueue> {
        let State { place, workers, .. } = *self.lock();
        if workers == 0 {
            return Vec::new();
        }
        queues.sort_by(|one, other| (&one.topic, one.queue).cmp(&(&other.topic, other.queue)));
        let place = (place + salt as usize % workers) % workers;
        let (each, rest) = (queues.len() / workers, queues.len() % workers);
        let start = each * place + place.min(rest);
        let len = each + usize::from(place < rest);
        queues.into_iter().skip(start).take(len).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(count: i32) -> Vec<SourceQueue> {
        let queue = |queue| SourceQueue {
            topic: "t@b".into(),
            queue,
            incarnation: String::new(),
            first: 0,
            origin: 0,
        };
        (0..count).rev().map(queue).collect()
    }

    #[test]
    fn each_queue_is_the_task_of_one_worker_whatever_the_salt() {
        for (count, workers, salt) in [(8, 3, 0), (8, 3, 7), (2, 5, 1), (1, 2, u32::MAX), (0, 1, 0)] {
            let mut all = Vec::new();
            let mut sizes = Vec::new();
            for place in 0..workers {
                let assignment = Assignment::default();
                assignment.set(place, workers, 0);
                let share = assignment.share(queues(count), salt);
                sizes.push(share.len());
                all.extend(share.into_iter().map(|queue| queue.queue));
            }
            all.sort_unstable();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
        }
    }

    #[test]
    fn who_has_no_place_has_no_task_and_a_new_one_waits_for_the_handover() {
        let assignment = Assignment::default();
        assert!(assignment.share(queues(4), 0).is_empty());
        assignment.set(0, 1, 10_000);
        assert_eq!(assignment.share(queues(4), 0).len(), 4);
        let settled = [9_999, 10_000, 10_999, 11_000].map(|now| assignment.is_settled(now));
        assert_eq!(settled, [true, false, false, true], "and a clock that was set back holds nothing up");
    }
}

//! Messages that come later. By level: property [`DELAY`](crate::message::DELAY) names one, and the broker keeps the message in that level's
//! queue of [`TOPIC`] until its time has come. By time: one of [`TIMERS`] asks for it, and the broker keeps the message in
//! [`TIMER_TOPIC`] until [`TIMER_DUE`].

use std::sync::Arc;

use crate::id::QueueId;

/// The topic that holds delayed messages; level n has queue n - 1.
pub const TOPIC: &str = "SCHEDULE_TOPIC_XXXX";

/// The topic that holds messages with a time of delivery; ours, as `RocketMQ` keeps them in files of their own.
pub const TIMER_TOPIC: &str = "rmq_sys_sluice_timer";
/// Properties by which a message asks for a time, the one that counts first: a delay in s, one in ms, and a time in ms since
/// 1970-01-01 UTC.
pub const TIMERS: [&str; 3] = ["TIMER_DELAY_SEC", "TIMER_DELAY_MS", "TIMER_DELIVER_MS"];
/// Property of a message in [`TIMER_TOPIC`]: when it is due, in ms since 1970-01-01 UTC.
pub const TIMER_DUE: &str = "TIMER_OUT_MS";
/// Property of a record in [`TIMER_TOPIC`] that takes a message back; the body is that one's queue offset.
pub const TIMER_RECALLED: &str = "TIMER_DEL_UNIQKEY";

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// How long each level lasts, in ms, from level 1 on; as `RocketMQ` has them.
const LEVELS_MS: [i64; 18] = [
    SECOND,
    5 * SECOND,
    10 * SECOND,
    30 * SECOND,
    MINUTE,
    2 * MINUTE,
    3 * MINUTE,
    4 * MINUTE,
    5 * MINUTE,
    6 * MINUTE,
    7 * MINUTE,
    8 * MINUTE,
    9 * MINUTE,
    10 * MINUTE,
    20 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
];

/// Most levels.
pub const LEVELS_MAX: usize = 64;
/// Longest time that a level lasts, in ms: 30 days.
pub const LEVEL_MS_MAX: i64 = 30 * 24 * HOUR;

/// The delay levels of a broker; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels(Arc<[i64]>);

/// Levels that no broker can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields and their units")]
pub enum LevelsError {
    /// None, or more than can be.
    #[error("{count} delay levels; there can be 1 to {LEVELS_MAX}")]
    Count { count: usize },
    /// One that lasts no time or too long.
    #[error("delay level {level} lasts {ms} ms; it can be 1 ms to 30 days")]
    Time { level: usize, ms: i64 },
}

impl Default for Levels {
    fn default() -> Self {
        Self(Arc::new(LEVELS_MS))
    }
}

impl Levels {
    /// How long each level lasts, in ms, from level 1 on.
    pub fn new(levels_ms: &[i64]) -> Result<Self, LevelsError> {
        if levels_ms.is_empty() || levels_ms.len() > LEVELS_MAX {
            return Err(LevelsError::Count { count: levels_ms.len() });
        }
        match (1..).zip(levels_ms).find(|(_, ms)| !(1..=LEVEL_MS_MAX).contains(*ms)) {
            Some((level, &ms)) => Err(LevelsError::Time { level, ms }),
            None => Ok(Self(levels_ms.into())),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The level of a number; numbers beyond the last one count as that, and there is none below 1.
    pub fn get(&self, number: i64) -> Option<Level> {
        let last = self.0.len();
        let number = usize::try_from(number).unwrap_or(if number > 0 { last } else { 0 }).min(last);
        let ms = *self.0.get(number.checked_sub(1)?)?;
        Some(Level { number: i32::try_from(number).ok()?, ms })
    }

    /// The level whose messages a queue of [`TOPIC`] holds. One that is beyond the last level, because there were more
    /// once, lasts as long as that.
    pub fn of_queue(&self, queue: QueueId) -> Level {
        let ms = self.0.get(queue.index()).or(self.0.last()).copied().unwrap_or(0);
        Level { number: queue.get().saturating_add(1), ms }
    }
}

/// A delay level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    number: i32,
    ms: i64,
}

impl Level {
    /// Its number, from 1.
    pub fn get(self) -> i32 {
        self.number
    }

    /// How long it lasts, in ms.
    pub fn ms(self) -> i64 {
        self.ms
    }

    /// Its queue.
    pub fn queue(self) -> QueueId {
        QueueId::new(self.number - 1).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_the_one_asked_for_or_the_last() {
        let levels = Levels::default();
        let of = |number| levels.get(number).map(|level| (level.get(), level.ms(), level.queue().get()));
        assert_eq!(of(3), Some((3, 10_000, 2)));
        for beyond in [18, 99, i64::MAX] {
            assert_eq!(of(beyond), Some((18, 7_200_000, 17)));
        }
        for none in [0, -1, i64::MIN] {
            assert_eq!(of(none), None);
        }
        assert_eq!(levels.count(), 18);
    }

    #[test]
    fn a_queue_of_a_level_that_is_no_more_lasts_as_long_as_the_last() {
        let levels = Levels::new(&[5, 70]).unwrap();
        let of = |queue| levels.of_queue(QueueId::new(queue).unwrap());
        assert_eq!([0, 1, 9].map(|queue| (of(queue).get(), of(queue).ms())), [(1, 5), (2, 70), (10, 70)]);
    }

    #[test]
    fn levels_that_can_not_be_are_refused() {
        assert_eq!(Levels::new(&[]), Err(LevelsError::Count { count: 0 }));
        assert_eq!(Levels::new(&[1; 65]), Err(LevelsError::Count { count: 65 }));
        for ms in [0, -1, LEVEL_MS_MAX + 1] {
            assert_eq!(Levels::new(&[1, ms]), Err(LevelsError::Time { level: 2, ms }));
        }
    }
}

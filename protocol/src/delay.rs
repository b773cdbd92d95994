//! Messages that come later. By level: property [`DELAY`] names one, and the broker keeps the message in that level's
//! queue of [`TOPIC`] until its time has come. By time: one of [`TIMERS`] asks for it, and the broker keeps the message in
//! [`TIMER_TOPIC`] until [`TIMER_DUE`].

use crate::id::QueueId;
use crate::message::{DELAY, property};

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
pub const LEVELS_MS: [i64; 18] = [
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

/// A delay level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(u8);

impl Level {
    /// All of them, rising.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..).zip(LEVELS_MS).map(|(level, _)| Self(level))
    }

    /// The level of a number; numbers beyond the last one count as that, and there is none below 1.
    pub fn new(level: i64) -> Option<Self> {
        let last = LEVELS_MS.len();
        (level >= 1).then(|| Self(usize::try_from(level).unwrap_or(last).min(last) as u8))
    }

    /// The level that a message asks for.
    pub fn of(properties: &[u8]) -> Option<Self> {
        Self::new(property(properties, DELAY)?.parse().ok()?)
    }

    /// Its number, from 1.
    pub fn get(self) -> i32 {
        i32::from(self.0)
    }

    /// How long it lasts, in ms.
    pub fn ms(self) -> i64 {
        LEVELS_MS.get(usize::from(self.0) - 1).copied().unwrap_or(0)
    }

    /// Its queue.
    pub fn queue(self) -> QueueId {
        QueueId::new(self.get() - 1).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_the_one_asked_for_or_the_last() {
        let of = |text: &[u8]| Level::of(text).map(|level| (level.get(), level.ms(), level.queue().get()));
        assert_eq!(of(b"DELAY\x013\x02"), Some((3, 10_000, 2)));
        assert_eq!(of(b"DELAY\x0199\x02"), Some((18, 7_200_000, 17)));
        for none in [&b""[..], b"DELAY\x010\x02", b"DELAY\x01-1\x02", b"DELAY\x01x\x02"] {
            assert_eq!(of(none), None);
        }
        assert_eq!(Level::all().count(), 18);
    }
}

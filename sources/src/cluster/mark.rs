//! Tells a queue of a foreign broker from another one of the same name: brokers know no incarnation of a topic,
//! so the record at some offset stands for it. Of a queue that was empty when a run began nothing is known until the
//! next run.

use std::fmt;

use sluice_protocol::record;

/// One record of a queue, or that none was there. As text `offset:log offset:store time in ms`, or
/// `offset:empty`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The queue offset.
    pub(super) offset: i64,
    /// Where in the log the record lies, and when it was stored.
    record: Option<(u64, i64)>,
}

impl Mark {
    /// The mark of what a pull at an offset brought.
    pub(super) fn of(offset: i64, bytes: &[u8]) -> Self {
        let first = record::records(bytes).next().and_then(Result::ok).filter(|r| r.queue_offset == offset);
        Self { offset, record: first.map(|r| (r.log_offset, r.store_timestamp_ms)) }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (offset, record) = text.split_once(':')?;
        let record = match record.split_once(':') {
            Some((log_offset, stored)) => Some((log_offset.parse().ok()?, stored.parse().ok()?)),
            None if record == "empty" => None,
            None => return None,
        };
        Some(Self { offset: offset.parse().ok()?, record })
    }

    /// Whether the queue that begins with `first` is the one that this mark was taken of; `None` if the record at
    /// the mark's offset must be asked.
    pub(super) fn is_of(&self, first: &Self) -> Option<bool> {
        if first.offset < self.offset && self.record.is_some() {
            return None;
        }
        if first.offset == self.offset && self.record.is_some() {
            return Some(first.record == self.record);
        }
        // The record is not kept any more: what came after it lies further on in the log. A queue that was made
        // again begins before.
        let after = |kept: (u64, i64)| self.record.is_none_or(|own| kept.0 > own.0);
        Some(first.offset >= self.offset && first.record.is_none_or(after))
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.record {
            Some((log_offset, stored)) => write!(f, "{}:{log_offset}:{stored}", self.offset),
            None => write!(f, "{}:empty", self.offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_as_text_and_knows_its_queue() {
        let at = |text: &str| Mark::parse(text).unwrap();
        for text in ["0:empty", "7:4096:1700000000000"] {
            assert_eq!(at(text).to_string(), text);
        }
        assert_eq!([Mark::parse("7"), Mark::parse("x:empty"), Mark::parse("7:8:")], [None; 3]);
        let mark = at("7:4096:1000");
        assert_eq!(mark.is_of(&at("7:4096:1000")), Some(true));
        assert_eq!(mark.is_of(&at("7:9999:2000")), Some(false), "made again, and filled as far");
        assert_eq!(mark.is_of(&at("3:1024:500")), None, "older records are back: ask for the one at 7");
        assert_eq!(mark.is_of(&at("9:8192:2000")), Some(true), "retention took it");
        assert_eq!(mark.is_of(&at("9:1024:500")), Some(false));
        assert_eq!(at("7:empty").is_of(&at("7:4096:1000")), Some(true));
        assert_eq!(at("7:empty").is_of(&at("0:4096:1000")), Some(false));
    }
}

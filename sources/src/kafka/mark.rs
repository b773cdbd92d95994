//! Tells a partition from another one of the same name: clients are not told which topic is meant, so the first
//! record that is kept stands for it. Of a partition that was empty when a pipeline began nothing is known until the
//! next run.

use std::fmt;

use sluice_bridges::kafka::records::Record;

/// A record of a partition, or that none was there. As text `offset:time in ms:CRC-32 of key and value`, or
/// `offset:empty`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The record's offset, or where one would be.
    pub(super) offset: i64,
    record: Option<(i64, u32)>,
}

impl Mark {
    pub(super) fn of(record: &Record<'_>) -> Self {
        let mut crc = crc32fast::Hasher::new();
        for part in [record.key(), record.payload()] {
            let bytes = part.unwrap_or_default();
            crc.update(&(bytes.len() as u64).to_le_bytes());
            crc.update(bytes);
        }
        let time = record.timestamp().to_millis().unwrap_or(-1);
        Self { offset: record.offset(), record: Some((time, crc.finalize())) }
    }

    /// A partition without records from an offset on.
    pub(super) fn empty(offset: i64) -> Self {
        Self { offset, record: None }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (offset, record) = text.split_once(':')?;
        let record = match record.split_once(':') {
            Some((time, crc)) => Some((time.parse().ok()?, crc.parse().ok()?)),
            None if record == "empty" => None,
            None => return None,
        };
        Some(Self { offset: offset.parse().ok()?, record })
    }

    /// Whether the partition that begins with `first` is the one that this mark was taken of; `None` if the record at
    /// the mark's offset must be asked.
    pub(super) fn is_of(&self, first: &Self) -> Option<bool> {
        match self.record {
            Some(_) if first.offset < self.offset => None,
            Some(record) if first.offset == self.offset => {
                Some(first.record.is_none_or(|other| other == record))
            }
            // Retention took the record; one that was made again begins at 0.
            Some(_) | None => Some(first.offset >= self.offset),
        }
    }

    /// Whether the record at this mark's offset, or the first one after it, is still the one.
    pub(super) fn is_still(&self, found: &Self) -> bool {
        found == self || found.offset > self.offset && found.record.is_some()
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.record {
            Some((time, crc)) => write!(f, "{}:{time}:{crc}", self.offset),
            None => write!(f, "{}:empty", self.offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_as_text_and_knows_its_partition() {
        let at = |text: &str| Mark::parse(text).unwrap();
        for text in ["0:empty", "7:1700000000000:4096"] {
            assert_eq!(at(text).to_string(), text);
        }
        assert_eq!([Mark::parse("7"), Mark::parse("x:empty"), Mark::parse("7:8:")], [None; 3]);
        let mark = at("7:1000:5");
        assert_eq!(mark.is_of(&at("7:1000:5")), Some(true));
        assert_eq!(mark.is_of(&at("7:2000:5")), Some(false), "made again, and filled as far");
        assert_eq!(mark.is_of(&at("3:500:1")), None, "older records are back: ask for the one at 7");
        assert_eq!(mark.is_of(&at("9:2000:1")), Some(true), "retention took it");
        assert_eq!(mark.is_of(&at("7:empty")), Some(true), "retention took it and all after it");
        assert_eq!(mark.is_of(&at("0:empty")), None);
        assert!(mark.is_still(&mark) && mark.is_still(&at("8:3000:1")), "compaction may take it");
        assert!(!mark.is_still(&at("7:9:9")) && !mark.is_still(&at("7:empty")));
        assert_eq!(at("7:empty").is_of(&at("7:1000:5")), Some(true));
        assert_eq!(at("7:empty").is_of(&at("0:1000:5")), Some(false));
    }
}

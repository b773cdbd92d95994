//! The records of one file, whatever its format, and how they become rows.
//!
//! Knows no queue and no position: which record is which offset is its callers'.

use bytes::Bytes;
use sluice_connect::task::{Class, REJECT_BODY_BYTES_MAX, Reject, TaskError};

use super::config::{FileConfig, FileFormat};
use super::csv::CsvRecords;
use super::input::Input;
use super::lines::LineRecords;
use crate::envelope::{Mapping, Rows};

/// What a reject keeps of its record, in bytes.
pub(super) const HEAD_BYTES_MAX: usize = REJECT_BODY_BYTES_MAX;

/// What a step to the next record found.
pub(super) enum Next {
    Record,
    Bad(String),
    /// No whole record yet; the file may still grow.
    Pending,
    End,
}

/// The records of one file.
pub(super) enum Records {
    Csv(Box<CsvRecords>),
    Lines(Box<LineRecords>),
}

impl Records {
    /// The records of a file, `place` by name, and what of each goes where. `None` if its header is not whole yet.
    pub(super) fn open(
        config: &FileConfig,
        input: Input,
        place: &str,
    ) -> Result<Option<(Self, Mapping)>, TaskError> {
        let records = match config.format {
            FileFormat::Csv => {
                let nulls = config.nulls.as_deref().unwrap_or(&[]);
                let default = [String::new()];
                let nulls = if config.nulls.is_none() { &default } else { nulls };
                let Some(records) = CsvRecords::new(input, nulls, place)? else { return Ok(None) };
                Self::Csv(Box::new(records))
            }
            FileFormat::Ndjson => Self::Lines(Box::new(LineRecords::new(input, config.columns()))),
        };
        let mapping = mapping(config, records.names(), place)?;
        Ok(Some((records, mapping)))
    }

    fn names(&self) -> &[String] {
        match self {
            Self::Csv(records) => records.names(),
            Self::Lines(records) => records.names(),
        }
    }

    pub(super) fn next(&mut self) -> Result<Next, TaskError> {
        match self {
            Self::Csv(records) => records.next(),
            Self::Lines(records) => records.next(),
        }
    }

    /// The byte of the unpacked content at which the next record begins.
    pub(super) fn position(&self) -> u64 {
        match self {
            Self::Csv(records) => records.position(),
            Self::Lines(records) => records.position(),
        }
    }

    /// The byte at which this record begins.
    pub(super) fn start(&self) -> u64 {
        self.position().saturating_sub(self.raw().1)
    }

    /// Goes on to a byte at which a record begins; whether the file has that many.
    pub(super) fn skip_to(&mut self, byte: u64) -> Result<bool, TaskError> {
        match self {
            Self::Csv(records) => records.skip_to(byte),
            Self::Lines(records) => records.input().skip_to(byte),
        }
    }

    /// The bytes that records are read from.
    pub(super) fn input(&mut self) -> &mut Input {
        match self {
            Self::Csv(records) => records.input(),
            Self::Lines(records) => records.input(),
        }
    }

    fn raw(&self) -> (&[u8], u64) {
        match self {
            Self::Csv(records) => records.raw(),
            Self::Lines(records) => records.raw(),
        }
    }

    /// The line of this record, from 1, counted from where reading began.
    pub(super) fn line(&self) -> u64 {
        match self {
            Self::Csv(records) => records.line(),
            Self::Lines(records) => records.line(),
        }
    }

    fn value(&self, at: usize) -> Option<&[u8]> {
        match self {
            Self::Csv(records) => records.value(at),
            Self::Lines(records) => records.value(at),
        }
    }

    fn write_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Csv(records) => records.write_body(out),
            Self::Lines(records) => records.write_body(out),
        }
    }

    /// Adds the next record to the rows under an offset. `place` says where it stands.
    pub(super) fn push_next(
        &mut self,
        rows: &mut Rows<'_>,
        offset: i64,
        place: impl FnOnce(&Self) -> String,
    ) -> Result<Next, TaskError> {
        let next = self.next()?;
        match &next {
            Next::Record => rows.push(offset, |out| self.write_body(out), |at| self.value(at)),
            Next::Bad(reason) => {
                let (head, body_bytes) = self.raw();
                rows.reject(Reject {
                    offset,
                    reason: reason.clone(),
                    body: Bytes::copy_from_slice(head),
                    body_bytes,
                    place: place(self),
                    properties: Vec::new(),
                });
            }
            Next::Pending | Next::End => {}
        }
        Ok(next)
    }
}

/// Where properties, keys and tag stand among the file's columns.
fn mapping(config: &FileConfig, names: &[String], place: &str) -> Result<Mapping, TaskError> {
    // A file without a header has no records.
    if names.is_empty() {
        return Ok(Mapping::default());
    }
    let find = |list: &str, column: &String| {
        names.iter().position(|name| name == column).ok_or_else(|| {
            let near = names.iter().map(|name| (strsim::damerau_levenshtein(name, column), name)).min();
            let hint = match near {
                Some((distance, name)) if distance <= 3 => format!("; did you mean `{name}`?"),
                _ => format!("; it has {}", listed(names)),
            };
            TaskError::new(Class::Config, format!("`{list}`: {place} has no column `{column}`{hint}"))
        })
    };
    Ok(Mapping {
        properties: config
            .properties
            .iter()
            .map(|column| Ok((column.clone(), find("properties", column)?)))
            .collect::<Result<_, TaskError>>()?,
        keys: config.keys.iter().map(|column| find("keys", column)).collect::<Result<_, _>>()?,
        tag: config.tag.as_ref().map(|column| find("tag", column)).transpose()?,
    })
}

/// The first names of a header, for an error.
fn listed(names: &[String]) -> String {
    let shown = names.iter().take(20).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > 20 { format!("{shown}, …") } else { shown }
}

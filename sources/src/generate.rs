//! Source `generate`: made-up rows at a rate, for trying things.
//!
//! A row is a function of the seed and its offset alone, so that a rerun gives the same rows. Its body is
//! `{"id": 0, "name": "…", "value": 1.25, "flag": true, "group": "a"}`; `group` and `value` are properties
//! too. Reads no clock of its own.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use sluice_connect::task::{Class, Confirm, Needs, Range, Read, SourceQueue, SourceTask, TaskError};

use crate::envelope::{Mapping, Rows};
use crate::file::{Unconfirmed, fnv1a};

/// The one topic of this source.
pub const TOPIC: &str = "generate";

/// Settings of source `generate`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerateConfig {
    /// How many rows there are.
    pub rows: u64,
    /// Rows a second; as fast as it goes if not given.
    #[serde(default)]
    pub rate: Option<u64>,
    /// Another seed gives other rows.
    #[serde(default)]
    pub seed: u64,
}

impl GenerateConfig {
    /// What is wrong with the settings.
    pub fn check(&self) -> Result<(), TaskError> {
        if self.rate == Some(0) {
            return Err(TaskError::new(Class::Config, "`rate` is 0 rows a second; leave it out for no limit"));
        }
        if i64::try_from(self.rows).is_err() {
            return Err(TaskError::new(Class::Config, format!("`rows` is {}, more than {}", self.rows, i64::MAX)));
        }
        Ok(())
    }
}

/// The time as this source sees it.
pub struct Clock {
    /// Time since some fixed moment.
    pub now: Box<dyn FnMut() -> Duration + Send>,
    /// Lets time pass.
    pub sleep: Box<dyn FnMut(Duration) + Send>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the edge where time comes in")]
        let start = std::time::Instant::now();
        Self { now: Box::new(move || start.elapsed()), sleep: Box::new(std::thread::sleep) }
    }
}

/// Makes rows.
pub struct GenerateSource {
    config: GenerateConfig,
    clock: Clock,
    needs: Needs,
    mapping: Mapping,
    /// When the first row was asked for, and rows given since.
    started: Option<Duration>,
    given: u64,
    body_bytes: usize,
}

impl GenerateSource {
    /// A source of the rows that the settings describe.
    pub fn new(config: GenerateConfig, clock: Clock) -> Self {
        let mapping = Mapping {
            properties: vec![("group".to_owned(), GROUP), ("value".to_owned(), VALUE)],
            ..Mapping::default()
        };
        Self { config, clock, needs: Needs::default(), mapping, started: None, given: 0, body_bytes: 0 }
    }

    /// Rows that the rate allows now.
    fn allowed(&mut self) -> u64 {
        let Some(rate) = self.config.rate else { return u64::MAX };
        let now = (self.clock.now)();
        let passed = now.saturating_sub(*self.started.get_or_insert(now));
        // The first row is due at once.
        let due = passed.as_micros() * u128::from(rate) / 1_000_000 + 1;
        u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(self.given)
    }
}

impl SourceTask for GenerateSource {
    fn open(&mut self, needs: &Needs) -> Result<(), TaskError> {
        self.config.check()?;
        self.needs = needs.clone();
        Ok(())
    }

    fn queues(&mut self) -> Result<Vec<SourceQueue>, TaskError> {
        let settings = [self.config.seed.to_be_bytes(), self.config.rows.to_be_bytes()].concat();
        let incarnation = format!("{:016x}", fnv1a(&settings));
        Ok(vec![SourceQueue { topic: TOPIC.into(), queue: 0, incarnation, first: 0, origin: 0 }])
    }

    fn read(&mut self, topic: &str, queue: i32, range: Range, bytes_max: usize) -> Result<Read, TaskError> {
        if topic != TOPIC || queue != 0 || range.start < 0 {
            let message = format!("source generate has no offset {} of {topic}/{queue}", range.start);
            return Err(TaskError::new(Class::Fatal, message));
        }
        let rows_end = i64::try_from(self.config.rows).unwrap_or(i64::MAX);
        if range.start >= rows_end {
            return Ok(Read::Ended);
        }
        let allowed = i64::try_from(self.allowed()).unwrap_or(i64::MAX);
        let end_max = range.end.min(rows_end).min(range.start.saturating_add(allowed));
        if range.start >= end_max {
            return Ok(Read::Idle);
        }
        let mut rows = Rows::new(&self.needs, &self.mapping, self.body_bytes);
        let mut next = range.start;
        while next < end_max && (next == range.start || !rows.is_full(bytes_max)) {
            let row = Row::new(self.config.seed, next);
            rows.push(next, |out| row.write_body(next, out), |at| row.value(at));
            next += 1;
        }
        self.given += next.abs_diff(range.start);
        self.body_bytes = rows.body_bytes();
        Ok(Read::Slice(rows.finish(TOPIC, Range { start: range.start, end: next })?))
    }

    fn wait(&mut self, timeout: Duration) {
        let (Some(rate), Some(started)) = (self.config.rate, self.started) else { return };
        let due = u128::from(self.given) * 1_000_000 / u128::from(rate.max(1)) + 1;
        let due = started + Duration::from_micros(u64::try_from(due).unwrap_or(u64::MAX));
        let pause = due.saturating_sub((self.clock.now)()).min(timeout);
        if !pause.is_zero() {
            (self.clock.sleep)(pause);
        }
    }

    fn end(&mut self, topic: &str, queue: i32) -> Option<i64> {
        (topic == TOPIC && queue == 0).then(|| i64::try_from(self.config.rows).unwrap_or(i64::MAX))
    }

    fn confirmer(&self) -> Arc<dyn Confirm> {
        Arc::new(Unconfirmed)
    }
}

const GROUP: usize = 0;
const VALUE: usize = 1;

const COLOURS: [&str; 8] = ["amber", "azure", "coral", "green", "ivory", "lilac", "ochre", "white"];
const ANIMALS: [&str; 8] = ["badger", "crane", "falcon", "heron", "lynx", "otter", "salmon", "wolf"];

struct Row {
    name: [&'static str; 2],
    value: String,
    flag: bool,
    group: [u8; 1],
}

impl Row {
    #[expect(clippy::cast_possible_truncation, reason = "only some of the bits are wanted")]
    fn new(seed: u64, offset: i64) -> Self {
        let bits = mixed(mixed(seed) ^ offset.unsigned_abs());
        let pick = |shift: u32| (bits >> shift) as usize % 8;
        let quarters = (bits >> 16) % 4000;
        Self {
            name: [COLOURS[pick(0)], ANIMALS[pick(3)]],
            value: format!("{}.{}", quarters / 4, ["0", "25", "5", "75"][(quarters % 4) as usize]),
            flag: bits >> 63 == 1,
            group: [b'a' + pick(6) as u8],
        }
    }

    fn value(&self, at: usize) -> Option<&[u8]> {
        match at {
            GROUP => Some(&self.group),
            VALUE => Some(self.value.as_bytes()),
            _ => None,
        }
    }

    fn write_body(&self, id: i64, out: &mut Vec<u8>) {
        let Self { name: [colour, animal], value, flag, group } = self;
        let group = char::from(group[0]);
        // Writing to a vector can't fail.
        let _ = write!(
            out,
            r#"{{"id": {id}, "name": "{colour} {animal}", "value": {value}, "flag": {flag}, "group": "{group}"}}"#
        );
    }
}

/// One step of SplitMix64, whose constants these are.
fn mixed(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

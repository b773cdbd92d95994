//! Source `generate`: made-up rows at a rate, for trying things.
//!
//! A row is a function of the seed and its offset alone, so that a rerun gives the same rows. Its body is
//! `{"id": 0, "name": "…", "value": 1.25, "flag": true, "group": "a"}`; `group` and `value` are properties
//! too. Reads no clock of its own.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_connect::config::hash;
use sluice_connect::task::{Class, Confirm, Needs, Range, Read, SourceQueue, SourceTask, TaskError};

use crate::KeyProblem;
use crate::envelope::{Mapping, Rows};
use crate::source::{Beside, Source};
use crate::unconfirmed::Unconfirmed;

/// The one topic of this source.
pub const TOPIC: &str = "generate";

/// Settings of source `generate`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
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
            return Err(TaskError::new(
                Class::Config,
                "`rate` is 0 rows a second; leave it out for no limit",
            ));
        }
        if i64::try_from(self.rows).is_err() {
            return Err(TaskError::new(
                Class::Config,
                format!("`rows` is {}, more than {}", self.rows, i64::MAX),
            ));
        }
        Ok(())
    }
}

impl Source for GenerateConfig {
    fn problems(&self) -> Vec<KeyProblem> {
        self.check().err().map(|error| (Vec::new(), error.to_string())).into_iter().collect()
    }

    fn open(&self, _: Beside<'_>) -> Result<Box<dyn SourceTask>, TaskError> {
        Ok(Box::new(GenerateSource::new(self.clone(), Clock::system())))
    }

    fn properties(&self) -> Option<Vec<String>> {
        Some(PROPERTIES.map(|(name, _)| name.to_owned()).to_vec())
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
            properties: PROPERTIES.map(|(name, place)| (name.to_owned(), place)).to_vec(),
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
        let incarnation = hash(&settings);
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

/// The properties of each row, with their places.
pub(crate) const PROPERTIES: [(&str, usize); 2] = [("group", GROUP), ("value", VALUE)];

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

/// One step of `SplitMix64`, whose constants these are.
fn mixed(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use arrow::array::AsArray;
    use serde_json::Value;
    use sluice_connect::task::Slice;

    use super::*;

    fn source(config: &str) -> (GenerateSource, Arc<Mutex<Duration>>) {
        let time = Arc::new(Mutex::new(Duration::from_secs(1000)));
        let (now, sleep) = (Arc::clone(&time), Arc::clone(&time));
        let clock = Clock {
            now: Box::new(move || *now.lock().unwrap()),
            sleep: Box::new(move |pause| *sleep.lock().unwrap() += pause),
        };
        let mut source = GenerateSource::new(serde_json::from_str(config).unwrap(), clock);
        let needs = Needs {
            columns: vec!["body"],
            properties: vec!["group".to_owned(), "value".to_owned()],
            ..Needs::default()
        };
        source.open(&needs).unwrap();
        (source, time)
    }

    fn slice(source: &mut GenerateSource, start: i64, bytes_max: usize) -> Option<Slice> {
        match source.read(TOPIC, 0, Range { start, end: i64::MAX }, bytes_max).unwrap() {
            Read::Slice(slice) => Some(slice),
            Read::Ended => None,
            Read::Idle | Read::Gone | Read::Held => panic!("the rate holds rows back"),
        }
    }

    fn bodies(slice: &Slice) -> Vec<Value> {
        let bodies = slice.envelope.column_by_name("body").unwrap().as_binary_view();
        bodies.iter().map(|body| serde_json::from_slice(body.unwrap()).unwrap()).collect()
    }

    #[test]
    fn rows_depend_on_seed_and_offset_alone() {
        let (mut source, _) = self::source(r#"{"rows": 20000}"#);
        let (mut all, mut next) = (Vec::new(), 0);
        while let Some(slice) = slice(&mut source, next, 5000) {
            assert_eq!(slice.range.start, next);
            next = slice.range.end;
            all.extend(bodies(&slice));
        }
        assert_eq!(all.len(), 20_000);
        assert!(all.iter().enumerate().all(|(at, row)| row["id"] == at));
        for key in ["name", "value", "flag", "group"] {
            assert!(all.iter().any(|row| row[key] != all[0][key]), "{key} never changes");
        }
        let again = slice(&mut source, 777, 5000).unwrap();
        assert_eq!(bodies(&again)[..], all[777..777 + bodies(&again).len()]);
        let value =
            again.envelope.column_by_name("properties.value").unwrap().as_string_view().value(0).to_owned();
        assert_eq!(value.parse::<Value>().unwrap(), all[777]["value"]);
        assert_eq!(
            again.envelope.column_by_name("properties.group").unwrap().as_string_view().value(0),
            all[777]["group"]
        );

        let (mut other, _) = self::source(r#"{"rows": 20000, "seed": 1}"#);
        assert_ne!(bodies(&slice(&mut other, 0, 5000).unwrap()), all[..bodies(&again).len()]);
        assert_ne!(other.queues().unwrap()[0].incarnation, source.queues().unwrap()[0].incarnation);
    }

    #[test]
    fn a_rate_gives_rows_as_time_passes_and_wait_sleeps_until_the_next() {
        let (mut source, time) = self::source(r#"{"rows": 25, "rate": 10}"#);
        let read = |source: &mut GenerateSource, start| {
            source.read(TOPIC, 0, Range { start, end: i64::MAX }, 1 << 20).unwrap()
        };
        let Read::Slice(first) = read(&mut source, 7) else { panic!("the first row is due at once") };
        assert_eq!(first.range, Range { start: 7, end: 8 });
        assert!(matches!(read(&mut source, 8), Read::Idle));
        source.wait(Duration::from_millis(30));
        assert!(matches!(read(&mut source, 8), Read::Idle), "the timeout was shorter than the wait");
        source.wait(Duration::from_secs(9));
        let passed = time.lock().unwrap().saturating_sub(Duration::from_secs(1000));
        assert!((Duration::from_millis(100)..Duration::from_millis(101)).contains(&passed), "{passed:?}");
        let Read::Slice(second) = read(&mut source, 8) else { panic!("a tenth of a second has passed") };
        assert_eq!(second.range, Range { start: 8, end: 9 });
        *time.lock().unwrap() += Duration::from_secs(1);
        let Read::Slice(third) = read(&mut source, 9) else { panic!("a second has passed") };
        assert_eq!(third.range, Range { start: 9, end: 19 });
        *time.lock().unwrap() += Duration::from_mins(1);
        let Read::Slice(rest) = read(&mut source, 19) else { panic!("a minute has passed") };
        assert_eq!(rest.range, Range { start: 19, end: 25 });
        assert!(matches!(read(&mut source, 25), Read::Ended));
    }

    #[test]
    fn no_rows_end_at_once_and_a_rate_of_none_is_refused() {
        let (mut source, _) = self::source(r#"{"rows": 0}"#);
        assert!(slice(&mut source, 0, 1).is_none());
        let config: GenerateConfig = serde_json::from_str(r#"{"rows": 1, "rate": 0}"#).unwrap();
        assert_eq!(config.check().unwrap_err().class, Class::Config);
        assert!(serde_json::from_str::<GenerateConfig>(r#"{"rows": 1, "speed": 1}"#).is_err());
    }
}

//! When a plan of files ends, and what its files are called.
//!
//! It reads no clock: the age of a plan's first row is the runtime's to watch.

use std::fmt::Write;
use std::time::Duration;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use sluice_connect::task::Chain;

use crate::name;

/// A plan is full at this number of files, and never has more; a slice with more partition values goes into
/// several plans.
pub const FILES_MAX: usize = 1024;

/// When a plan ends: at the end of the slice that reaches the first of these limits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rotate {
    /// Encoded size of all files of a plan, about, written with its unit: `128MiB`.
    #[serde(deserialize_with = "positive_bytes")]
    #[schemars(with = "String")]
    pub bytes: ByteSize,
    /// Rows in all files of a plan.
    #[serde(deserialize_with = "positive_rows")]
    #[schemars(with = "u64")]
    pub rows: u64,
    /// How long the first row of a plan waits, written with its unit: `5m`.
    #[serde(deserialize_with = "positive_age")]
    #[schemars(with = "String")]
    pub age: Duration,
}

impl Default for Rotate {
    fn default() -> Self {
        Self { bytes: ByteSize::mib(128), rows: 2_000_000, age: Duration::from_mins(5) }
    }
}

impl Rotate {
    /// Whether a plan with so much in it ends here; `bytes` is the encoded size, about.
    pub fn is_full(&self, bytes: u64, rows: u64, files: usize) -> bool {
        bytes >= self.bytes.as_u64() || rows >= self.rows || files >= FILES_MAX
    }
}

/// Path below the target's folder of a plan's file `number`, counted from 0 in the order of first rows; `separator` stands
/// between the pipeline and the topic.
pub(crate) fn file_name(
    chain: &Chain,
    partition: &[(String, Option<String>)],
    start: i64,
    number: usize,
    separator: char,
    extension: &str,
) -> String {
    let mut path = String::new();
    for (column, value) in partition {
        path.push_str(&name::partition_folder(column, value.as_deref()));
        path.push('/');
    }
    let stem = name::file_stem(chain, separator);
    write!(path, "{stem}-{start:020}-{number:04}.{extension}").expect("a string takes all");
    path
}

/// A size with its unit that is not 0.
pub(crate) fn positive_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    let bytes = sluice_connect::config::size(deserializer)?;
    if bytes.as_u64() == 0 {
        Err(Error::custom("a size of 0 bytes, expected at least 1B"))
    } else {
        Ok(bytes)
    }
}

/// A count of rows that is not 0.
pub(crate) fn positive_rows<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match u64::deserialize(deserializer)? {
        0 => Err(Error::custom("0 rows, expected at least 1")),
        rows => Ok(rows),
    }
}

/// Files that are open at a time, if the config does not say.
pub(crate) fn open_partitions_default() -> usize {
    64
}

/// A count of files that is not 0.
pub(crate) fn positive_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::deserialize(deserializer)? {
        0 => Err(Error::custom("0 files, expected at least 1")),
        files => Ok(files),
    }
}

fn positive_age<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    match humantime::parse_duration(&text) {
        Ok(age) if !age.is_zero() => Ok(age),
        Ok(_) => Err(Error::custom("a duration of 0, expected at least 1ms")),
        Err(_) => {
            Err(Error::custom(format!("{text:?} is no duration, expected a number with a unit, as in 5m")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(topic: &str) -> Chain {
        Chain { pipeline: "late".into(), topic: topic.into(), queue: 3 }
    }

    #[test]
    fn a_file_is_named_by_partition_chain_start_and_number() {
        let partition = [("origin".to_owned(), Some("a/b".to_owned())), ("day".to_owned(), None)];
        assert_eq!(
            file_name(&chain("flights"), &partition, 17, 2, '-', "parquet"),
            "origin=a%2Fb/day=__HIVE_DEFAULT_PARTITION__/late-flights-3-00000000000000000017-0002.parquet"
        );
        assert_eq!(
            file_name(&chain("in/a b.csv"), &[], 0, 0, '-', "arrow"),
            "late-in%2Fa%20b.csv-3-00000000000000000000-0000.arrow"
        );
    }

    #[test]
    fn each_limit_alone_fills_a_plan() {
        let rotate = Rotate { bytes: ByteSize::b(10), rows: 5, age: Duration::from_secs(1) };
        assert!(!rotate.is_full(9, 4, FILES_MAX - 1));
        assert!(rotate.is_full(10, 0, 0));
        assert!(rotate.is_full(0, 5, 0));
        assert!(rotate.is_full(0, 0, FILES_MAX));
    }

    #[test]
    fn settings_are_strict() {
        let parse = |text: &str| serde_saphyr::from_str::<Rotate>(text);
        assert_eq!(parse("{bytes: 1MiB}").unwrap(), Rotate { bytes: ByteSize::mib(1), ..Rotate::default() });
        assert_eq!(parse("{age: 90s, rows: 7}").unwrap().age, Duration::from_secs(90));
        for bad in
            ["{byte: 1MiB}", "{bytes: 0}", "{rows: 0}", "{rows: -1}", "{age: 0s}", "{age: five}", "{age: 5}"]
        {
            assert!(parse(bad).is_err(), "{bad} was taken");
        }
    }
}

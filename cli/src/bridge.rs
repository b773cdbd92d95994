//! `sluice bridge verify | offsets`: moving house between Kafka and RocketMQ or Sluice: whether both sides hold the same
//! messages, and where a consumer group goes on at the other side.

mod digest;
mod offsets;
mod side;
mod verify;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use sluice_bridges::kafka::{KeyPlace, Properties, Property};

use self::side::SideSettings;
use crate::access::AccessArguments;

#[derive(Subcommand)]
pub(crate) enum BridgeCommand {
    /// Compare the messages of two topics: counts and digests over ranges of keys
    #[command(after_help = "Examples:
  sluice bridge verify --between kafka:127.0.0.1:9092/orders --and rocketmq:127.0.0.1:9876/orders
  sluice bridge verify --between kafka:old:9092/orders --and kafka:new:9092/orders --times --json
  sluice bridge verify --between kafka:k:9092/orders --and store:./sluice-data/orders

Each side is read from its first message to where it ended when the command began, so producers and bridges should be at
rest. Compared are keys, bodies, tags and headers or properties, and the order of the messages of each key. What bridges
add (where a message came from) and the unique id are left out, and so are the properties that RocketMQ gives a meaning.

Exit code 0: the same; 1: different, with the ranges, and for some keys the first message that differs on each side.")]
    Verify(verify::VerifyArguments),
    /// Translate where a consumer group stands from one side of a bridge to the other
    #[command(after_help = "Examples:
  sluice bridge offsets --group billing --from kafka:127.0.0.1:9092/orders --to rocketmq:127.0.0.1:9876/orders
  sluice bridge offsets --group billing --from rocketmq:ns:9876/orders --to kafka:k:9092/orders --apply

Which message is which is told by what the bridge wrote: property and header kafka.origin and rocketmq.origin. A queue of the
other side goes on at its first message that the group has not consumed, so nothing is passed over, and some may come again
where partitions were mixed. Without --apply nothing is committed. Stop the group's members on both sides first.

Exit code 1 if a queue can not be translated; the others are committed all the same.")]
    Offsets(offsets::OffsetsArguments),
}

/// How the sides are reached, and where keys stand.
#[derive(Args)]
pub(super) struct Reach {
    /// librdkafka's properties for the sides at Kafka, a line `name=value` each (TLS, SASL); given twice: one for each side
    #[arg(long, value_name = "FILE")]
    kafka_config: Vec<PathBuf>,
    /// Where messages have the key of a record: `$keys`, or a property, as the bridge was told by `key`
    #[arg(long, value_name = "PLACE", default_value = "$keys", value_parser = key_place)]
    key: KeyPlace,
    #[command(flatten)]
    access: AccessArguments,
}

fn key_place(text: &str) -> Result<KeyPlace, String> {
    KeyPlace::try_from(text.to_owned())
}

/// The same, read.
struct Settings<'a> {
    properties: [Properties; 2],
    reach: &'a Reach,
}

impl Reach {
    fn settings(&self) -> Result<Settings<'_>> {
        let properties = match self.kafka_config.as_slice() {
            [] => [Properties::new(), Properties::new()],
            [both] => [properties(both)?, properties(both)?],
            [one, other] => [properties(one)?, properties(other)?],
            _ => bail!("--kafka-config: at most one for each side"),
        };
        Ok(Settings { properties, reach: self })
    }
}

impl Settings<'_> {
    /// Those of the first or second side.
    fn side(&self, number: usize) -> SideSettings<'_> {
        let properties = &self.properties[number.min(1)];
        SideSettings { properties, access: &self.reach.access, key: &self.reach.key }
    }
}

/// Properties from a file as Kafka's own tools have them.
fn properties(file: &PathBuf) -> Result<Properties> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut found = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line
            .split_once('=')
            .with_context(|| format!("{}:{}: expected `name=value`", file.display(), number + 1))?;
        found.insert(name.trim().to_owned(), Property(value.trim().to_owned()));
    }
    Ok(found)
}

/// A key for a person: as text if it is some.
fn key_text(key: Option<&[u8]>) -> String {
    match key {
        None => "a message without key".to_owned(),
        Some(key) => format!("key {}", key.escape_ascii()),
    }
}

pub(crate) fn run(command: &BridgeCommand) -> Result<ExitCode> {
    match command {
        BridgeCommand::Verify(arguments) => verify::run(arguments),
        BridgeCommand::Offsets(arguments) => offsets::run(arguments),
    }
}

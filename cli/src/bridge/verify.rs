//! `sluice bridge verify`: whether both sides of a bridge hold the same messages, and where they do not.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Result, bail};
use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::digest::{Compared, Digest, Parts, RangeDigest, differing, digest};
use super::side::{Address, Side};
use super::{Reach, key_text};
use crate::show::{count, plural};

/// Keys that are shown, at most.
const KEYS_SHOWN_MAX: usize = 10;
/// Ranges that are shown one by one, at most.
const RANGES_SHOWN_MAX: usize = 20;
/// Messages of a shown key that are compared one by one, at most.
const MESSAGES_MAX: usize = 10_000;
/// What a key takes in memory, in bytes, about: of a table that has just grown.
const KEY_BYTES: u64 = 192;

#[derive(clap::Args)]
pub(crate) struct VerifyArguments {
    /// One side: kafka:HOST:PORT/TOPIC, rocketmq:HOST:PORT/TOPIC (a name server) or store:DIR/TOPIC
    #[arg(long, value_name = "SIDE")]
    between: Address,
    /// The other side
    #[arg(long, value_name = "SIDE")]
    and: Address,
    /// Into how many ranges keys are divided
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    ranges: u32,
    /// Compare timestamps, too; RocketMQ's brokers do not keep those of Kafka's records
    #[arg(long)]
    times: bool,
    /// Do not ask in which order the messages of a key come
    #[arg(long)]
    any_order: bool,
    /// Memory for keys; with more of them the topics are read again for the rest
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    memory: ByteSize,
    /// Print one JSON document instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

/// A key with its messages on both sides.
#[derive(Default)]
struct Example {
    /// `None` for a message without a key.
    key: Option<Vec<u8>>,
    /// The first messages of each side, with the place of each.
    messages: [Vec<(Parts, String)>; 2],
    counts: [u64; 2],
}

impl Example {
    /// The first position at which both differ, and what is there.
    fn first_difference(&self) -> Option<(usize, [Option<String>; 2], &'static str)> {
        let [left, right] = &self.messages;
        let length = left.len().max(right.len());
        let at = (0..length).find(|at| left.get(*at).map(|m| m.0) != right.get(*at).map(|m| m.0))?;
        let has = |side: &[(Parts, String)], from: usize, parts: &Parts| {
            side.iter().skip(from).any(|(other, _)| other == parts)
        };
        let what = match (left.get(at), right.get(at)) {
            (Some(_), None) => "missing on the second side",
            (None, _) => "missing on the first side",
            (Some((one, _)), Some((other, _))) => match (has(right, at + 1, one), has(left, at + 1, other)) {
                (true, true) => "they come in another order",
                (false, true) => "missing on the second side",
                (true, false) => "missing on the first side",
                (false, false) if one.value != other.value => "another value",
                (false, false) if one.headers != other.headers => "other headers",
                (false, false) => "another timestamp",
            },
        };
        let place = |side: &'_ [(Parts, String)]| side.get(at).map(|(_, place)| place.clone());
        Some((at, [place(left), place(right)], what))
    }
}

/// How two digests of a range differ.
fn difference(one: &RangeDigest, other: &RangeDigest) -> Option<&'static str> {
    match () {
        () if one.messages != other.messages => Some("count"),
        () if one.content != other.content => Some("content"),
        () if one.order != other.order => Some("order"),
        () => None,
    }
}

pub(crate) fn run(arguments: &VerifyArguments) -> Result<ExitCode> {
    let settings = arguments.reach.settings()?;
    if arguments.between == arguments.and {
        bail!("both sides are {}", arguments.and);
    }
    let open = |address, number| Side::open(address, &settings.side(number));
    let sides = [open(&arguments.between, 0)?, open(&arguments.and, 1)?];
    let keys_max = usize::try_from(arguments.memory.as_u64() / KEY_BYTES).unwrap_or(usize::MAX).max(2);
    let compared =
        Compared { ranges: arguments.ranges, order: !arguments.any_order, times: arguments.times, keys_max };
    let total = sides.iter().map(Side::offsets).sum();
    let bar = progress(total, arguments.json);
    let [one, other] = [&sides[0], &sides[1]].map(|side| digest(side, &compared, || bar.inc(1)));
    let digests = [one?, other?];
    let pairs = digests[0].ranges.iter().zip(&digests[1].ranges);
    let ranges: Vec<Option<&str>> = pairs.map(|(one, other)| difference(one, other)).collect();
    let examples = if ranges.iter().any(Option::is_some) {
        bar.reset();
        bar.set_length(total * 2);
        bar.set_message("looking for the keys that differ");
        examples([&sides[0], &sides[1]], &compared, &ranges, || bar.inc(1))?
    } else {
        Vec::new()
    };
    bar.finish_and_clear();
    let found = Found { sides: &sides, digests: &digests, ranges: &ranges, examples: &examples };
    let mut out = std::io::stdout().lock();
    match arguments.json {
        true => writeln!(out, "{}", found.json())?,
        false => found.show(&mut out)?,
    }
    Ok(if found.is_same() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Progress over messages, on a terminal alone.
pub(super) fn progress(total: u64, json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "{wide_bar} {human_pos} of {human_len} messages, {per_sec}, {eta} left {msg}",
    );
    let bar = ProgressBar::new(total);
    style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
}

/// Some keys of ranges that differ, with their messages on both sides.
fn examples(
    sides: [&Side; 2],
    compared: &Compared,
    ranges: &[Option<&str>],
    mut tick: impl FnMut(),
) -> Result<Vec<Example>> {
    let wanted: Vec<bool> = ranges.iter().map(Option::is_some).collect();
    let ids = differing(sides, compared, &wanted, KEYS_SHOWN_MAX, &mut tick)?;
    let mut found: HashMap<u128, Example> = ids.iter().map(|id| (*id, Example::default())).collect();
    for (number, side) in sides.into_iter().enumerate() {
        side.read(|seen| {
            tick();
            let parts = Parts::of(seen, compared);
            let Some(example) = found.get_mut(&parts.id) else { return Ok(()) };
            example.key = seen.record.key.as_deref().map(<[u8]>::to_vec);
            if let (Some(messages), Some(count)) =
                (example.messages.get_mut(number), example.counts.get_mut(number))
            {
                *count += 1;
                if messages.len() < MESSAGES_MAX {
                    let queue = side.queues.get(seen.queue).map_or_else(String::new, ToString::to_string);
                    messages.push((parts, format!("{queue}/{}", seen.offset)));
                }
            }
            Ok(())
        })?;
    }
    let mut examples: Vec<Example> = ids.iter().filter_map(|id| found.remove(id)).collect();
    if !compared.order {
        let all = examples.iter_mut().flat_map(|example| &mut example.messages);
        all.for_each(|messages| messages.sort_by_key(|(parts, _)| parts.whole()));
    }
    Ok(examples)
}

/// What both sides hold.
struct Found<'a> {
    sides: &'a [Side; 2],
    digests: &'a [Digest; 2],
    /// How each range differs.
    ranges: &'a [Option<&'static str>],
    examples: &'a [Example],
}

impl Found<'_> {
    fn is_same(&self) -> bool {
        self.ranges.iter().all(Option::is_none)
    }

    fn spread(&self) -> u64 {
        self.digests.iter().map(|digest| digest.spread).max().unwrap_or(0)
    }

    /// Ranges that differ: number, digest of each side, how.
    fn differing(&self) -> impl Iterator<Item = (usize, &RangeDigest, &RangeDigest, &'static str)> {
        let pairs = self.digests[0].ranges.iter().zip(&self.digests[1].ranges).zip(self.ranges);
        pairs.enumerate().filter_map(|(at, ((one, other), how))| Some((at, one, other, (*how)?)))
    }

    fn show(&self, out: &mut impl Write) -> Result<()> {
        for (side, digest) in self.sides.iter().zip(self.digests) {
            writeln!(
                out,
                "{}: {} messages in {}, digest {:032x}",
                side.address,
                count(digest.messages),
                plural(side.queues.len(), "queue"),
                digest.whole()
            )?;
        }
        if self.is_same() {
            writeln!(out, "same: {} of {} ranges of keys", self.ranges.len(), self.ranges.len())?;
            return Ok(());
        }
        let number = self.differing().count();
        for (at, one, other, how) in self.differing().take(RANGES_SHOWN_MAX) {
            let what = match how {
                "count" => "one side has more",
                "content" => "as many, and others",
                _ => "the same, and those of a key come in another order",
            };
            writeln!(
                out,
                "range {} of {}: {} and {} messages: {what}",
                at + 1,
                self.ranges.len(),
                count(one.messages),
                count(other.messages)
            )?;
        }
        if number > RANGES_SHOWN_MAX {
            writeln!(out, "and {} more", plural(number - RANGES_SHOWN_MAX, "range"))?;
        }
        for example in self.examples {
            let name = key_text(example.key.as_deref());
            let [one, other] = example.counts;
            let counts = format!("{name}: {} and {} messages", count(one), count(other));
            match example.first_difference() {
                Some((at, [left, right], what)) => {
                    let nothing = || "nothing".to_owned();
                    let (left, right) = (left.unwrap_or_else(nothing), right.unwrap_or_else(nothing));
                    writeln!(out, "{counts}; number {} differs: {left} and {right}: {what}", at + 1)?;
                }
                None => writeln!(out, "{counts}; the first {} are the same", count(MESSAGES_MAX as u64))?,
            }
        }
        if self.spread() > 0 && self.ranges.contains(&Some("order")) {
            writeln!(
                out,
                "note: {} lie in several queues, and nothing orders the messages of those; --any-order leaves order out",
                plural(usize::try_from(self.spread()).unwrap_or(usize::MAX), "key")
            )?;
        }
        writeln!(out, "different: {number} of {} ranges of keys", self.ranges.len())?;
        Ok(())
    }

    fn json(&self) -> Value {
        let side = |number: usize| {
            let (side, digest) = (&self.sides[number], &self.digests[number]);
            json!({
                "side": side.address.to_string(), "messages": digest.messages, "queues": side.queues.len(),
                "digest": format!("{:032x}", digest.whole()), "spread_keys": digest.spread,
            })
        };
        let ranges: Vec<Value> = self
            .differing()
            .map(|(at, one, other, how)| {
                let digest = |range: &RangeDigest| {
                    json!({
                        "messages": range.messages, "content": format!("{:032x}", range.content),
                        "order": format!("{:032x}", range.order),
                    })
                };
                json!({"range": at + 1, "differs": how, "between": digest(one), "and": digest(other)})
            })
            .collect();
        let keys: Vec<Value> = self
            .examples
            .iter()
            .map(|example| {
                let first = example.first_difference().map(|(at, [left, right], what)| {
                    json!({"position": at + 1, "between": left, "and": right, "what": what})
                });
                let key = example.key.as_deref().map(|key| key_text(Some(key)));
                json!({"key": key, "messages": example.counts, "first_difference": first})
            })
            .collect();
        json!({
            "same": self.is_same(), "between": side(0), "and": side(1), "ranges": self.ranges.len(),
            "differing": ranges, "keys": keys,
        })
    }
}

//! `sluice bridge offsets`: where a consumer group goes on at the other side of a bridge.
//!
//! Both sides are read once. A message of the other side that says which message it was, is consumed if the group has
//! committed beyond that one. One that was there first is consumed if the group's side has its copy before a committed
//! offset; of those each queue keeps two numbers, since copies of one queue come in its order, in each partition.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use sluice_bridges::kafka::mapping::Place;

use super::Reach;
use super::side::{Address, Seen, Side};
use super::verify::progress;
use crate::show::{count, plural};

#[derive(clap::Args)]
pub(crate) struct OffsetsArguments {
    /// The consumer group; it has the same name on both sides
    #[arg(long)]
    group: String,
    /// The side where the group stands: kafka:HOST:PORT/TOPIC or rocketmq:HOST:PORT/TOPIC (a name server)
    #[arg(long, value_name = "SIDE")]
    from: Address,
    /// The side where it shall go on
    #[arg(long, value_name = "SIDE")]
    to: Address,
    /// Commit what was found
    #[arg(long)]
    apply: bool,
    /// Print one JSON document instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

/// What copies on the group's side say of a queue of the other side.
#[derive(Clone, Copy, Debug, Default)]
struct Copies {
    /// One past the last message that was consumed as a copy.
    consumed: i64,
    /// The first that was not.
    waiting: Option<i64>,
}

/// What is known of a queue of the other side.
#[derive(Clone, Debug, Default)]
struct Found {
    /// Its first message that the group has not consumed.
    next: Option<i64>,
    /// Messages from there on that it has consumed, and that will come again.
    again: u64,
    /// Messages that neither came from the group's side nor went there.
    foreign: u64,
    /// Messages of which something is known.
    known: u64,
}

/// Where a group stands, and what that means at the other side.
#[derive(Debug, Default)]
struct Translation {
    /// By queue of the other side.
    queues: Vec<Found>,
    /// By queue of the group's side: one past the last message of which there is a copy.
    copied: Vec<i64>,
    /// The same of the last message that was consumed and did not come from the other side.
    consumed: Vec<i64>,
}

fn queue_at(side: &Side, seen: &Seen<'_>) -> Option<(usize, i64)> {
    // The last place is the latest.
    let places = seen.places.iter().rev().filter_map(|place| Place::parse(place));
    { places }.find_map(|place| Some((side.queue_of(&place)?, place.offset)))
}

fn translate(from: &Side, to: &Side, committed: &[Option<i64>], tick: impl Fn()) -> Result<Translation> {
    let is_consumed =
        |queue: usize, offset: i64| committed.get(queue).copied().flatten().is_some_and(|end| offset < end);
    let mut copies = vec![Copies::default(); to.queues.len()];
    let queues = vec![Found::default(); to.queues.len()];
    let none = vec![0; from.queues.len()];
    let mut made = Translation { queues, copied: none.clone(), consumed: none };
    from.read(|seen| {
        tick();
        let consumed = is_consumed(seen.queue, seen.offset);
        if let Some((queue, offset)) = queue_at(to, seen)
            && let Some(copies) = copies.get_mut(queue)
        {
            if consumed {
                copies.consumed = copies.consumed.max(offset + 1);
            } else {
                copies.waiting = Some(copies.waiting.map_or(offset, |waiting| waiting.min(offset)));
            }
        } else if let Some(last) = made.consumed.get_mut(seen.queue).filter(|_| consumed) {
            *last = seen.offset + 1;
        }
        Ok(())
    })?;
    to.read(|seen| {
        tick();
        let Some(found) = made.queues.get_mut(seen.queue) else { return Ok(()) };
        let copies = copies.get(seen.queue).copied().unwrap_or_default();
        let consumed = match queue_at(from, seen) {
            Some((queue, offset)) => {
                if let Some(copied) = made.copied.get_mut(queue) {
                    *copied = (*copied).max(offset + 1);
                }
                found.known += 1;
                is_consumed(queue, offset)
            }
            None => {
                let is_known = copies.consumed > 0 || copies.waiting.is_some();
                found.known += u64::from(is_known);
                found.foreign += u64::from(!is_known);
                seen.offset < copies.consumed && copies.waiting.is_none_or(|waiting| seen.offset < waiting)
            }
        };
        match (consumed, found.next) {
            (true, Some(_)) => found.again += 1,
            (false, None) => found.next = Some(seen.offset),
            _ => {}
        }
        Ok(())
    })?;
    Ok(made)
}

/// One line of the table.
struct Line {
    queue: String,
    /// Where the group goes on, or why that is not known.
    next: Result<i64, &'static str>,
    end: i64,
    notes: Vec<String>,
}

fn lines(to: &Side, made: &Translation) -> Vec<Line> {
    let line = |(queue, found): (&super::side::SideQueue, &Found)| {
        let (mut notes, end) = (Vec::new(), queue.end);
        let next = match found.next {
            _ if queue.first == end => Ok(end),
            _ if found.known == 0 => Err("no message says that it came from there, or went there"),
            next => Ok(next.unwrap_or(end)),
        };
        if next.is_ok() && found.again > 0 {
            notes.push(format!("{} that were consumed come again", count(found.again)));
        }
        if next.is_ok() && found.foreign > 0 {
            notes.push(format!("{} of its own count as not consumed", count(found.foreign)));
        }
        Line { queue: queue.to_string(), next, end, notes }
    };
    to.queues.iter().zip(&made.queues).map(line).collect()
}

/// What of the group's side has no place at the other one.
fn warnings(from: &Side, made: &Translation, committed: &[Option<i64>]) -> Vec<String> {
    let mut found = Vec::new();
    let of_copies = made.copied.iter().zip(&made.consumed);
    for ((queue, committed), (copied, consumed)) in from.queues.iter().zip(committed).zip(of_copies) {
        if committed.is_none() && queue.end > queue.first {
            let what = "the group has committed nothing here, so all of it counts as not consumed";
            found.push(format!("{queue}: {what}"));
        } else if copied < consumed {
            found.push(format!(
                "{queue}: consumed up to {consumed}, and copied up to {copied} (both exclusive): what is copied later comes \
                 again, so let the bridge come to its end first"
            ));
        }
    }
    found
}

pub(crate) fn run(arguments: &OffsetsArguments) -> Result<ExitCode> {
    let OffsetsArguments { group, from, to, apply, json, reach } = arguments;
    let settings = reach.settings()?;
    if from == to {
        bail!("both sides are {to}");
    }
    let (from, to) = (Side::open(from, &settings.side(0))?, Side::open(to, &settings.side(1))?);
    let committed = from.committed(group)?;
    if committed.iter().all(Option::is_none) {
        bail!("group {group} has committed no offset at {}", from.address);
    }
    let bar = progress(from.offsets() + to.offsets(), *json);
    let made = translate(&from, &to, &committed, || bar.inc(1))?;
    bar.finish_and_clear();
    if made.queues.iter().all(|found| found.known == 0) && to.offsets() > 0 {
        bail!(
            "no message of {} says that it came from {}, and none the other way: was it bridged, by a version that says so?",
            to.address,
            from.address
        );
    }
    let (lines, warnings) = (lines(&to, &made), warnings(&from, &made, &committed));
    let found = lines.iter().enumerate().filter_map(|(queue, line)| Some((queue, line.next.ok()?)));
    let offsets: Vec<(usize, i64)> = found.collect();
    if *apply {
        to.commit(group, &offsets)?;
    }
    let mut out = std::io::stdout().lock();
    if *json {
        let queue = |line: &Line| json!({"queue": line.queue, "next": line.next.ok(), "end": line.end, "reason": line.next.err(), "notes": line.notes});
        let queues: Vec<Value> = lines.iter().map(queue).collect();
        writeln!(
            out,
            "{}",
            json!({"group": group, "applied": apply, "queues": queues, "warnings": warnings})
        )?;
    } else {
        writeln!(out, "{:32}  {:>12}  {:>12}  NOTES", "QUEUE", "GOES ON AT", "END")?;
        for Line { queue, next, end, notes } in &lines {
            let (next, notes) = match next {
                Ok(next) => (next.to_string(), notes.join("; ")),
                Err(reason) => ("-".to_owned(), format!("not translated: {reason}")),
            };
            let line = format!("{queue:32}  {next:>12}  {end:>12}  {notes}");
            writeln!(out, "{}", line.trim_end())?;
        }
        warnings.iter().try_for_each(|warning| writeln!(out, "note: {warning}"))?;
        let all = plural(offsets.len(), "queue");
        match apply {
            true => writeln!(out, "group {group}: committed for {all} of {}", to.address)?,
            false => writeln!(out, "group {group}: {all} of {} translated; --apply commits", to.address)?,
        }
    }
    Ok(if lines.iter().all(|line| line.next.is_ok()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

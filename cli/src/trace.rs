//! `sluice message trace`: one message's life, from what clients wrote to the trace topic, from where brokers have it and
//! its copies, from how far groups are, and from the plans of a target of files.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sluice_client::{Admin, Client, Error, MessageId, Record, TopicName};
use sluice_protocol::message::UNIQ_KEY;
use sluice_protocol::topic::{DLQ_PREFIX, RETRY_PREFIX};
use sluice_protocol::trace::{self, Trace, traces};
use sluice_sinks::location::Location;
use sluice_sinks::place;
use sluice_sinks::trace::{Fate, fates};
use sluice_store::file::RealDisk;

use crate::network::NetworkArguments;
use crate::show::time_text;

/// Messages of the trace topic that are asked for.
const TRACES_MAX: i32 = 512;

#[derive(clap::Args)]
pub(crate) struct TraceArguments {
    /// The message's unique id, as its producer has it, or the id that its broker gave it
    id: String,
    /// The topic that it was sent to; not needed where its producer traces
    #[arg(long)]
    topic: Option<String>,
    /// The topic that clients write traces to
    #[arg(long, value_name = "TOPIC", default_value = trace::TOPIC)]
    trace_topic: String,
    /// Look also into targets of pipelines: folders, or s3://bucket/prefix
    #[arg(long, value_name = "DIR|URL")]
    target: Vec<String>,
    #[command(flatten)]
    network: NetworkArguments,
}

/// One thing that happened.
#[derive(Debug)]
struct Event {
    /// In ms since 1970-01-01 UTC; none where nobody says when.
    time_ms: Option<i64>,
    what: &'static str,
    /// The group or pipeline.
    who: String,
    /// The queue or address.
    place: String,
    detail: String,
}

/// What is known of a message.
#[derive(Default)]
struct Life {
    events: Vec<Event>,
    topic: Option<TopicName>,
    /// Where it stands itself.
    stored: Vec<Record>,
    /// Names of brokers by the addresses that clients are told.
    brokers: BTreeMap<String, String>,
    /// Whether any client told of it.
    traced: bool,
}

pub(crate) fn run(arguments: &TraceArguments) -> Result<ExitCode> {
    let topic = arguments.topic.as_deref().map(TopicName::new).transpose()?;
    let trace_topic = TopicName::new(&arguments.trace_topic)?;
    let (id, mut life) =
        arguments.network.run(async |client| follow(&client, &arguments.id, topic, &trace_topic).await)?;
    for target in &arguments.target {
        let location = Location::try_from(target.clone()).map_err(anyhow::Error::msg)?;
        let place = place::open(&location, None, Arc::new(RealDisk))?;
        for record in &life.stored {
            let broker = life.brokers.get(&record.store_host.to_string());
            // A chain of a cluster names the broker too.
            let is_of = |chain: &str| match chain.split_once('@') {
                Some((topic, name)) => {
                    topic == record.topic.as_str() && broker.is_none_or(|broker| broker == name)
                }
                None => chain == record.topic.as_str(),
            };
            let found = fates(place.as_ref(), is_of, record.queue_id, record.queue_offset)
                .with_context(|| format!("cannot look into {target}"))?;
            life.events.extend(found.into_iter().map(|fate| of_pipeline(target, fate)));
        }
    }
    if life.events.is_empty() {
        let hint = match arguments.topic {
            Some(_) => "it is not in that topic any more",
            None => "its producer does not trace; name the topic that it was sent to by --topic",
        };
        bail!("nothing is known of message {id}: {hint}");
    }
    life.events.sort_by_key(|event| event.time_ms.unwrap_or(i64::MAX));
    let mut out = std::io::stdout().lock();
    if arguments.network.json() {
        writeln!(out, "{}", document(&id, &life))?;
    } else {
        show(&id, &life, &mut out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks for all that brokers have of a message.
async fn follow(
    client: &Client,
    id: &str,
    topic: Option<TopicName>,
    trace_topic: &TopicName,
) -> Result<(String, Life)> {
    let admin = Admin::new(client);
    let mut life = Life { topic, ..Life::default() };
    let mut id = id.to_owned();
    // Ids of both kinds look alike: one that a broker gave names a place where a message is.
    if let Ok(place) = id.parse::<MessageId>()
        && let Ok(record) = admin.message(place).await
    {
        life.topic.get_or_insert(record.topic.clone());
        if let Some(unique) = record.property(UNIQ_KEY) {
            id = unique.to_owned();
        }
    }
    let mut groups = Vec::new();
    let told = admin.messages_with_key(trace_topic, &id, (0, i64::MAX), TRACES_MAX).await;
    for record in known(told)? {
        let body = String::from_utf8_lossy(&record.body).into_owned();
        life.add_traces(&id, &body, &mut groups);
    }
    life.name_outcomes();
    let Some(topic) = life.topic.clone() else { return Ok((id, life)) };
    life.stored = known(admin.messages_with_id(&topic, &id).await)?;
    for (name, broker) in admin.cluster().await?.broker_addr_table {
        life.brokers.extend(broker.broker_addrs.into_values().map(|address| (address, name.clone())));
    }
    for record in &life.stored {
        life.events.push(stored("stored", String::new(), record));
    }
    groups.extend(known(admin.groups_of_topic(&topic).await)?);
    groups.sort_unstable();
    groups.dedup();
    // RocketMQ's broker names the topic itself as one more of its groups.
    groups.retain(|group| group != topic.as_str());
    for group in groups {
        for (prefix, what) in [(RETRY_PREFIX, "retried"), (DLQ_PREFIX, "dead letter")] {
            let copies = TopicName::stored(&format!("{prefix}{group}"))?;
            for record in known(admin.messages_with_id(&copies, &id).await)? {
                life.events.push(stored(what, group.clone(), &record));
            }
        }
        for offset in known(admin.group_offsets(&group, Some(&topic)).await)? {
            let here = life.stored.iter().find(|record| record.queue_id == offset.queue.id.get());
            let Some(record) = here else { continue };
            let passed = record.queue_offset < offset.committed;
            life.events.push(Event {
                time_ms: None,
                what: if passed { "passed" } else { "waits" },
                who: group.clone(),
                place: format!("{} queue {}", topic, record.queue_id),
                detail: format!("the group has committed offset {}", offset.committed),
            });
        }
    }
    Ok((id, life))
}

/// What was found; nothing where a topic or group is not there.
fn known<T>(found: Result<Vec<T>, Error>) -> Result<Vec<T>> {
    use sluice_protocol::code::ResponseCode as R;
    match found {
        Err(Error::NoQueue { .. } | Error::NoRoute { .. }) => Ok(Vec::new()),
        Err(error)
            if matches!(
                error.response_code(),
                Some(R::TOPIC_NOT_EXIST | R::QUERY_NOT_FOUND | R::SUBSCRIPTION_GROUP_NOT_EXIST)
            ) =>
        {
            Ok(Vec::new())
        }
        found => Ok(found?),
    }
}

fn stored(what: &'static str, who: String, record: &Record) -> Event {
    let again = match record.reconsume_times {
        0 => String::new(),
        times => format!(", came {times} times before"),
    };
    Event {
        time_ms: Some(record.store_timestamp_ms),
        what,
        who,
        place: format!("{} queue {} offset {}", record.topic, record.queue_id, record.queue_offset),
        detail: format!("{} bytes, id {}{again}", record.body.len(), record.offset_id()),
    }
}

fn of_pipeline(target: &str, fate: Fate) -> Event {
    let Fate { pipeline, start, end, decided_ms, is_done, files, is_written } = fate;
    let or = if is_written { "" } else { "; or it was filtered, skipped or a dead letter" };
    let detail = match files.as_slice() {
        [] => format!("of offsets {start} to {end}, not in a file: filtered, skipped or a dead letter"),
        [file] => format!("in {file}{or}"),
        [first, ..] => format!("in one of {} files, such as {first}{or}", files.len()),
    };
    Event {
        time_ms: Some(decided_ms),
        what: if is_done { "published" } else { "planned" },
        who: pipeline,
        place: target.to_owned(),
        detail,
    }
}

impl Life {
    /// Takes what one body of the trace topic tells of the message.
    fn add_traces(&mut self, id: &str, body: &str, groups: &mut Vec<String>) {
        for trace in traces(body).filter(|trace| trace.id() == id) {
            self.traced = true;
            let event = match trace {
                Trace::Sent { time_ms, group, topic, store_host, body_bytes, cost_ms, success, .. } => {
                    if self.topic.is_none() {
                        self.topic = TopicName::new(topic).ok();
                    }
                    Event {
                        time_ms: Some(time_ms),
                        what: if success { "sent" } else { "not sent" },
                        who: group.to_owned(),
                        place: store_host.to_owned(),
                        detail: format!("to {topic}, {body_bytes} bytes, in {cost_ms} ms"),
                    }
                }
                Trace::Got { time_ms, group, request, times, .. } => {
                    groups.push(group.to_owned());
                    Event {
                        time_ms: Some(time_ms),
                        what: "delivered",
                        who: group.to_owned(),
                        // By this its outcome is found.
                        place: request.to_owned(),
                        detail: if times == 0 { String::new() } else { format!("came {times} times before") },
                    }
                }
                Trace::Consumed { request, cost_ms, success, outcome, .. } => {
                    let outcome = match outcome {
                        _ if success => "consumed",
                        Some(1) => "failed: it took too long",
                        Some(2) => "failed: an exception",
                        Some(3) => "failed: it answered nothing",
                        _ => "failed",
                    };
                    Event {
                        time_ms: None,
                        what: OUTCOME,
                        who: String::new(),
                        place: request.to_owned(),
                        detail: format!("{outcome} in {cost_ms} ms"),
                    }
                }
                Trace::Ended { time_ms, group, topic, state, asked, .. } => Event {
                    time_ms: Some(time_ms),
                    what: match state {
                        "COMMIT_MESSAGE" => "committed",
                        "ROLLBACK_MESSAGE" => "taken back",
                        _ => "undecided",
                    },
                    who: group.to_owned(),
                    place: topic.to_owned(),
                    detail: if asked { "when asked by the broker" } else { "" }.to_owned(),
                },
                Trace::Recalled { time_ms, group, topic, success, .. } => Event {
                    time_ms: Some(time_ms),
                    what: if success { "taken back" } else { "not taken back" },
                    who: group.to_owned(),
                    place: topic.to_owned(),
                    detail: String::new(),
                },
            };
            self.events.push(event);
        }
    }

    /// Joins what consumers got with what became of it.
    fn name_outcomes(&mut self) {
        let mut outcomes: BTreeMap<String, String> = BTreeMap::new();
        self.events.retain(|event| {
            let outcome = event.what == OUTCOME;
            if outcome {
                outcomes.insert(event.place.clone(), event.detail.clone());
            }
            !outcome
        });
        for event in self.events.iter_mut().filter(|event| event.what == "delivered") {
            let request = std::mem::take(&mut event.place);
            let outcome = outcomes.get(&request).map_or("outcome unknown", String::as_str);
            let separator = if event.detail.is_empty() { "" } else { ", " };
            event.detail = format!("{}{separator}{outcome}", event.detail);
        }
    }
}

/// An event that only tells what became of another one.
const OUTCOME: &str = "outcome";

fn document(id: &str, life: &Life) -> Value {
    let events: Vec<Value> = life
        .events
        .iter()
        .map(|event| {
            json!({
                "time": event.time_ms.map(time_text), "event": event.what, "who": event.who, "where": event.place,
                "detail": event.detail,
            })
        })
        .collect();
    let topic = life.topic.as_ref().map(TopicName::as_str);
    json!({"message_id": id, "topic": topic, "traced": life.traced, "events": events})
}

fn show(id: &str, life: &Life, out: &mut impl Write) -> Result<()> {
    let of = life.topic.as_ref().map_or(String::new(), |topic| format!(" of topic {topic}"));
    writeln!(out, "message {id}{of}")?;
    let width = |of: fn(&Event) -> &str, least: usize| {
        life.events.iter().map(|event| of(event).chars().count()).max().unwrap_or(0).max(least)
    };
    let (what, who, place) = (width(|e| e.what, 5), width(|e| &e.who, 3), width(|e| &e.place, 5));
    let head = ["TIME", "EVENT", "WHO", "WHERE"];
    writeln!(out, "{:24}  {:what$}  {:who$}  {:place$}  WHAT", head[0], head[1], head[2], head[3])?;
    for event in &life.events {
        let time = event.time_ms.map_or("-".to_owned(), time_text);
        let row = format!(
            "{time:24}  {:what$}  {:who$}  {:place$}  {}",
            event.what, event.who, event.place, event.detail
        );
        writeln!(out, "{}", row.trim_end())?;
    }
    if !life.traced {
        writeln!(out, "no client traced it: who got it is known by committed offsets alone")?;
    }
    Ok(())
}

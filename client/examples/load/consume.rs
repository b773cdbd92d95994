//! Drains what a topic holds when the run starts, by given queues or as members of a group.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::bail;
use serde_json::{Value, json};
use sluice_client::{Admin, Consumer, ConsumerSettings, Filter, Queue, Start, Subscription};
use tokio::task::JoinSet;

use crate::args::Args;
use crate::cost::{Cost, merged};

/// How often it looks whether the rest of a queue holds nothing that is wanted.
const LOOK: Duration = Duration::from_millis(5);

/// A run that brings nothing for that long has failed.
const STALL_MAX: Duration = Duration::from_secs(30);

pub(crate) async fn drain(args: &Args) -> anyhow::Result<Value> {
    let (clients, topic) = (args.clients().await?, args.topic()?);
    let filter = match (args.text("sql"), args.text("tag")) {
        (Some(_), Some(_)) => bail!("either --sql or --tag"),
        (Some(text), None) => Filter::Sql(text.to_owned()),
        (None, tag) => Filter::tags(tag.unwrap_or("*")),
    };
    let Some(first) = clients.first() else { bail!("no connection") };
    let ends: BTreeMap<Queue, (i64, i64)> = Admin::new(first)
        .queue_offsets(&topic)
        .await?
        .into_iter()
        .filter(|offsets| offsets.max_offset > offsets.min_offset)
        .map(|offsets| (offsets.queue, (offsets.min_offset, offsets.max_offset)))
        .collect();
    let held: i64 = ends.values().map(|(min, max)| max - min).sum();
    let mut settings = ConsumerSettings::new(args.text("group").unwrap_or("load-assigned"));
    settings.start = Start::First;
    settings.messages_max = args.number("pull", 32)?;
    settings.commit_interval = args.text("group").map(|_| Duration::from_secs(5));
    settings.hold = Duration::from_millis(args.number("hold-ms", 15_000)?);

    let cost = Cost::start();
    let mut consumers = Vec::new();
    for (i, client) in clients.iter().enumerate() {
        consumers.push(if args.text("group").is_some() {
            let subscription = Subscription { topic: topic.clone(), filter: filter.clone() };
            Consumer::subscribe(client, settings.clone(), [subscription]).await?
        } else {
            let share =
                ends.keys().skip(i).step_by(clients.len()).cloned().map(|queue| (queue, Start::First));
            Consumer::assign(client, settings.clone(), share, filter.clone()).await?
        });
    }
    let mut tasks = JoinSet::new();
    for consumer in consumers {
        tasks.spawn(drain_share(consumer, ends.clone()));
    }
    let (mut messages, mut bytes, mut elapsed) = (0, 0, Duration::ZERO);
    while let Some(ended) = tasks.join_next().await {
        let (consumer, share_messages, share_bytes) = ended??;
        elapsed = elapsed.max(cost.elapsed());
        (messages, bytes) = (messages + share_messages, bytes + share_bytes);
        consumer.close().await?;
    }
    let what = json!({ "mode": "consume", "held": held, "body_bytes": bytes });
    let per_held = json!({ "held_per_second": held as f64 / elapsed.as_secs_f64() });
    Ok(merged(merged(what, cost.figures_after(messages, elapsed)), per_held))
}

/// Queues that are not known to have ended, from which on the positions of all are looked at with each that ends.
const LAST_QUEUES: usize = 8;

/// The same for more queues.
const LOOK_AT_MANY: Duration = Duration::from_millis(250);

/// Reads until its queues are where they ended at the start. A group's members must have settled before; run one
/// member, or a backlog that lasts longer than the settling.
async fn drain_share(
    mut consumer: Consumer,
    ends: BTreeMap<Queue, (i64, i64)>,
) -> anyhow::Result<(Consumer, u64, u64)> {
    let (mut messages, mut bytes, mut idle) = (0, 0, Duration::ZERO);
    let mut open: BTreeSet<Queue> = ends.keys().cloned().collect();
    loop {
        match tokio::time::timeout(LOOK, consumer.next_batch()).await {
            Ok(batch) => {
                let batch = batch?;
                messages += batch.records.len() as u64;
                bytes += batch.records.iter().map(|record| record.body.len() as u64).sum::<u64>();
                idle = Duration::ZERO;
                if ends.get(&batch.queue).is_some_and(|(_, max)| batch.next_offset < *max) {
                    continue;
                }
                open.remove(&batch.queue);
            }
            Err(_) => idle += LOOK,
        }
        // Where a filter leaves out the last messages of a queue, only the positions tell; those of many queues are
        // looked at when nothing has come for a while.
        if open.len() > LAST_QUEUES && idle < LOOK_AT_MANY {
            continue;
        }
        let ended = |(queue, at): &(Queue, i64)| match ends.get(queue) {
            Some((_, max)) => at >= max,
            None => true,
        };
        let positions = consumer.positions();
        if positions.iter().all(ended) {
            return Ok((consumer, messages, bytes));
        }
        if idle > STALL_MAX {
            bail!("nothing came for {STALL_MAX:?}, at {positions:?} of {ends:?}");
        }
    }
}

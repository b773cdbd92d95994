//! Messages that shall be delivered at a time of their own: how late they are, beside others that wait for theirs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use sluice_client::{
    Client, Consumer, ConsumerSettings, Error, Filter, Message, Producer, ProducerSettings, Start,
};
use tokio::task::JoinSet;

use crate::args::Args;
use crate::cost::{Cost, merged};
use crate::histogram::Histogram;

/// When a message shall be delivered, in ms since 1970-01-01 UTC: the property of RocketMQ 5.
const DELIVER: &str = "TIMER_DELIVER_MS";
/// The same where a consumer finds it: brokers keep the original to themselves.
const DUE: &str = "due";
/// Messages that wait without being delivered in this run are due so much later.
const PENDING_MS: u64 = 3_600_000;
/// What has not come so long after the last was due does not come.
const LATE_MAX: Duration = Duration::from_secs(30);

fn now_ms() -> anyhow::Result<u64> {
    Ok(u64::try_from(
        SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?.as_millis(),
    )?)
}

fn message(args: &Args, due: u64) -> anyhow::Result<Message> {
    let bytes = args.number("bytes", 1024)?;
    let due = due.to_string();
    Ok(Message::new(&args.topic()?, vec![b'x'; bytes]).property(DUE, &due)?.property(DELIVER, &due)?)
}

/// Sends messages of these times, with so many requests without an answer.
async fn send_all(producer: &Producer, args: &Args, due: Vec<u64>, in_flight: usize) -> anyhow::Result<()> {
    let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();
    for due in due {
        if tasks.len() >= in_flight {
            tasks.join_next().await.context("no request")???;
        }
        let (producer, message) = (producer.clone(), message(args, due)?);
        tasks.spawn(async move { producer.send(&message).await.map(drop) });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// Reads what is delivered, until so many came.
async fn receive(mut consumer: Consumer, messages: u64) -> anyhow::Result<(u64, u64, Histogram)> {
    let (mut came, mut early, mut late) = (0, 0, Histogram::new());
    while came < messages {
        let batch = consumer.next_batch().await?;
        let now = now_ms()?;
        for record in &batch.records {
            let due: u64 = record.property(DUE).context("no time in a message")?.parse()?;
            came += 1;
            early += u64::from(now < due);
            late.record(Duration::from_millis(now.saturating_sub(due)));
        }
    }
    Ok((came, early, late))
}

/// Sends those that only wait, then the others within one delay, and reads these.
pub(crate) async fn deliver(args: &Args) -> anyhow::Result<Value> {
    let clients = args.clients().await?;
    let client: &Client = clients.first().context("no connection")?;
    let (messages, pending) = (args.number("messages", 10_000_u64)?, args.number("pending", 0_u64)?);
    let (in_flight, delay_ms) = (args.number("in-flight", 64_usize)?, args.number("delay-ms", 10_000_u64)?);
    let topic = args.topic()?;
    let settings =
        ProducerSettings { group: "load".into(), batch_messages_max: 1, ..ProducerSettings::default() };
    let producer =
        Producer::new(client, ProducerSettings { requests_per_queue_max: usize::MAX, ..settings })?;

    let cost = Cost::start();
    let far = now_ms()? + PENDING_MS;
    // A minute wide, so that not all of them are due at once.
    send_all(&producer, args, (0..pending).map(|n| far + n % 60_000).collect(), in_flight).await?;
    let pending_per_second = pending as f64 / cost.elapsed().as_secs_f64();

    let route = client.fetch_route(&topic).await?;
    let queues = route.read_queues.iter().cloned().map(|queue| (queue, Start::Last));
    let consumer = Consumer::assign(client, ConsumerSettings::new("load-delay"), queues, Filter::All).await?;
    let cost = Cost::start();
    // All are sent before the first is due, and due evenly over as long.
    let first = now_ms()? + delay_ms;
    let due = (0..messages).map(|n| first + n * delay_ms / messages.max(1)).collect();
    let receiving = tokio::spawn(receive(consumer, messages));
    send_all(&producer, args, due, in_flight).await?;
    let sent = cost.elapsed();
    if sent > Duration::from_millis(delay_ms) {
        bail!("sending took {sent:?}, longer than the delay: ask for a longer one, or fewer messages");
    }
    let left = Duration::from_millis(2 * delay_ms).saturating_sub(sent) + LATE_MAX;
    let received = tokio::time::timeout(left, receiving).await.context("messages did not come")?;
    let (came, early, late) = received??;
    let what = json!({
        "mode": "delay", "pending": pending, "pending_per_second": pending_per_second, "early": early,
        "sent_per_second": messages as f64 / sent.as_secs_f64(),
    });
    Ok(merged(merged(what, cost.figures(came)), late.json()))
}

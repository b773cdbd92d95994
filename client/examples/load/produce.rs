//! Sends: as fast as answers come, or at a fixed rate whatever the answers do.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use serde_json::{Value, json};
use sluice_client::{Client, Error, Message, Producer, ProducerSettings};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;

use crate::args::Args;
use crate::cost::{Cost, merged};
use crate::histogram::Histogram;

/// Messages that are due within this go together, so that the generator sleeps most of the time; in µs.
const TICK_US: u64 = 100;

/// How messages are put together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Batching {
    /// What waits goes as one batch.
    Auto,
    /// So many messages a request, 1 without the form of a batch.
    Fixed(usize),
}

impl Batching {
    fn of(args: &Args) -> anyhow::Result<Self> {
        match args.text("batch") {
            Some("auto") => Ok(Self::Auto),
            _ => Ok(Self::Fixed(args.number("batch", 1)?)),
        }
    }

    pub(crate) fn producer(self, client: &Client) -> Result<Producer, Error> {
        let mut settings = ProducerSettings { group: "load".into(), ..ProducerSettings::default() };
        if self != Self::Auto {
            settings.batch_messages_max = 1;
            settings.requests_per_queue_max = usize::MAX;
        }
        Producer::new(client, settings)
    }
}

fn message(args: &Args) -> anyhow::Result<Message> {
    let bytes = args.number("bytes", 1024)?;
    Ok(Message::new(&args.topic()?, vec![b'x'; bytes]))
}

/// A message of a batch; with `--modulo M` its property `n` is its number in the batch modulo M.
fn numbered(args: &Args, number: usize) -> anyhow::Result<Message> {
    let modulo: usize = args.number("modulo", 0)?;
    match number.checked_rem(modulo) {
        Some(n) => Ok(message(args)?.property("n", &n.to_string())?),
        None => message(args),
    }
}

/// As fast as answers come, with so many requests without one (with `auto`: messages).
pub(crate) async fn closed(args: &Args) -> anyhow::Result<Value> {
    let clients = args.clients().await?;
    let (messages, in_flight) =
        (args.number("messages", 1_000_000_u64)?, args.number("in-flight", 64_usize)?);
    let batching = Batching::of(args)?;
    let size = if let Batching::Fixed(n) = batching { n.max(1) } else { 1 };
    let batch = Arc::new((0..size).map(|number| numbered(args, number)).collect::<anyhow::Result<Vec<_>>>()?);
    let (left, latencies) = (Arc::new(AtomicU64::new(messages)), Arc::new(Mutex::new(Histogram::new())));
    let producers: Result<Vec<Producer>, Error> =
        clients.iter().map(|client| batching.producer(client)).collect();
    let producers = producers?;
    // The topic, its route and the connections are there before time counts.
    for producer in &producers {
        producer.send(&batch[0]).await?;
    }
    let cost = Cost::start();
    let mut tasks = JoinSet::new();
    for producer in producers.iter().cycle().take(in_flight.max(producers.len())) {
        let (producer, batch) = (producer.clone(), Arc::clone(&batch));
        tasks.spawn(send_all(producer, batch, Arc::clone(&left), Arc::clone(&latencies)));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let figures = cost.figures(messages);
    let latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner).json();
    Ok(merged(merged(json!({ "mode": "produce", "in_flight": in_flight }), figures), latencies))
}

async fn send_all(
    producer: Producer,
    batch: Arc<Vec<Message>>,
    left: Arc<AtomicU64>,
    latencies: Arc<Mutex<Histogram>>,
) -> Result<(), Error> {
    let size = batch.len() as u64;
    let take = |left: u64| (left > 0).then(|| left.saturating_sub(size));
    while let Ok(left) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
        let begun = now();
        match &batch[..usize::try_from(left.min(size)).unwrap_or(usize::MAX)] {
            [message] => drop(producer.send(message).await?),
            messages => drop(producer.send_batch(messages).await?),
        }
        latencies.lock().unwrap_or_else(PoisonError::into_inner).record(begun.elapsed());
    }
    Ok(())
}

/// At a fixed rate; a message's latency counts from when it should have been sent.
pub(crate) async fn open(args: &Args) -> anyhow::Result<Value> {
    let clients = args.clients().await?;
    let (rate, seconds) = (args.number("rate", 10_000.0_f64)?, args.number("seconds", 10.0_f64)?);
    if !(rate > 0.0 && rate.is_finite() && seconds > 0.0 && seconds < 1e6) {
        bail!("--rate and --seconds are above 0");
    }
    let (batching, message) = (Batching::of(args)?, Rc::new(message(args)?));
    let producers: Result<Vec<Producer>, Error> =
        clients.iter().map(|client| batching.producer(client)).collect();
    let producers = producers?;
    for producer in &producers {
        producer.send(&message).await?;
    }
    let messages = (rate * seconds) as u64;
    let cost = Cost::start();
    let latencies = Arc::new(Mutex::new(Histogram::new()));
    let mut pace = Pace::start(rate, messages, Duration::from_micros(args.number("tick-us", TICK_US)?))?;
    let mut turn = producers.iter().cycle();
    let failed = Arc::new(AtomicU64::new(0));
    while let Some((at, count)) = pace.due().await? {
        for _ in 0..count {
            let producer = turn.next().context("no producer")?;
            let receipt = producer.submit(&message).await?;
            let (latencies, failed) = (Arc::clone(&latencies), Arc::clone(&failed));
            tokio::spawn(async move {
                match receipt.await {
                    Ok(_) => {
                        let latency = now().saturating_duration_since(at);
                        latencies.lock().unwrap_or_else(PoisonError::into_inner).record(latency);
                    }
                    Err(_) => drop(failed.fetch_add(1, Ordering::Relaxed)),
                }
            });
        }
    }
    for producer in &producers {
        producer.flush().await?;
    }
    tokio::task::yield_now().await;
    let figures = cost.figures(messages);
    let latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner).json();
    let what = json!({ "mode": "produce-rate", "rate": rate, "failed": failed.load(Ordering::Relaxed) });
    Ok(merged(merged(what, figures), latencies))
}

/// Tells when how many messages are due, never early. The runtime's own timers have steps of 1 ms; this one
/// is of the system.
struct Pace {
    timer: AsyncFd<OwnedFd>,
    rate: f64,
    start: Instant,
    /// Between two looks.
    step: Duration,
    looks: u32,
    told: u64,
    messages: u64,
}

impl Pace {
    #[expect(deprecated, reason = "an owned descriptor stays open; what shall be used instead is unsafe")]
    fn start(rate: f64, messages: u64, tick: Duration) -> anyhow::Result<Self> {
        let step = tick.max(Duration::from_secs_f64(1.0 / rate)).max(Duration::from_micros(1));
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        timer.set(Expiration::Interval(TimeSpec::from_duration(step)), TimerSetTimeFlags::empty())?;
        Ok(Self {
            timer: AsyncFd::new(OwnedFd::from(timer))?,
            rate,
            start: now(),
            step,
            looks: 0,
            told: 0,
            messages,
        })
    }

    /// The next messages: when they were due, and how many.
    async fn due(&mut self) -> anyhow::Result<Option<(Instant, u64)>> {
        while self.told < self.messages {
            let after = self.step * (self.looks + 1);
            let at = self.start + after;
            if now() < at {
                let mut ready = self.timer.readable().await?;
                // Reading is what arms it again.
                let _ = nix::unistd::read(self.timer.get_ref(), &mut [0; 8]);
                ready.clear_ready();
                continue;
            }
            self.looks += 1;
            let due = ((after.as_secs_f64() * self.rate + 1e-6) as u64).min(self.messages);
            if due > self.told {
                let count = due - self.told;
                self.told = due;
                return Ok(Some((at, count)));
            }
        }
        Ok(None)
    }
}

#[expect(clippy::disallowed_methods, reason = "it measures")]
fn now() -> Instant {
    Instant::now()
}

//! A layer of `tracing` that writes events to a topic, as RocketMQ's appenders do for Java: with feature `tracing`.
//!
//! An event is one message: its tag is the level, its body one line of JSON,
//! `{"time_ms": 1700000000000, "level": "INFO", "target": "shop", "message": "made", "fields": {"order": "7"}, "spans": ["checkout"]}`,
//! with the time in ms since 1970-01-01 UTC and the texts of the event's fields. Who logs never waits: lines that come
//! faster than they are sent, and those that no broker takes, are counted and left out. Events of this crate are
//! passed over, or each would make others.

use std::fmt::{self, Debug, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use sluice_protocol::id::TopicName;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::clock::now_ms;
use crate::{Message, Producer};

/// Lines that wait to be sent, and lines whose answers are waited for.
const WAITING_MAX: usize = 8_192;
/// Longest line in bytes; a longer message or field is cut.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Writes events to a topic; see the module.
#[derive(Debug)]
pub struct TopicLayer {
    lines: mpsc::Sender<Message>,
    topic: TopicName,
    lost: Arc<AtomicU64>,
}

/// Sends what a [`TopicLayer`] hands over.
#[derive(Debug)]
pub struct TopicLog {
    task: JoinHandle<u64>,
    stop: mpsc::Sender<()>,
    lost: Arc<AtomicU64>,
}

/// What became of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Those that a broker has.
    pub sent: u64,
    /// Those that came too fast, or that no broker took.
    pub lost: u64,
}

impl TopicLayer {
    /// A layer for a subscriber, and what sends its lines by a producer; within a runtime.
    pub fn new(producer: Producer, topic: &TopicName) -> (Self, TopicLog) {
        let (lines, received) = mpsc::channel(WAITING_MAX);
        let (stop, stopped) = mpsc::channel(1);
        let lost = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(send(producer, received, stopped, Arc::clone(&lost)));
        let log = TopicLog { task, stop, lost: Arc::clone(&lost) };
        (Self { lines, topic: topic.clone(), lost }, log)
    }

    fn message(&self, body: String, level: &str) -> Option<Message> {
        Message::new(&self.topic, body).tag(level).ok()
    }
}

impl TopicLog {
    /// Lines that were left out so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Sends what was logged so far, and tells what became of all; what is logged from now on is left out.
    pub async fn close(self) -> Logged {
        drop(self.stop);
        // A panic of the task was reported where it happened.
        let sent = self.task.await.unwrap_or_default();
        Logged { sent, lost: self.lost.load(Ordering::Relaxed) }
    }
}

/// Sends lines until nobody logs any more, and counts those that a broker has.
async fn send(
    producer: Producer,
    mut lines: mpsc::Receiver<Message>,
    mut stopped: mpsc::Receiver<()>,
    lost: Arc<AtomicU64>,
) -> u64 {
    let mut sent = 0;
    let mut answers = FuturesUnordered::new();
    let mut open = true;
    let mut count = |ok: bool| {
        if ok {
            sent += 1;
        } else {
            lost.fetch_add(1, Ordering::Relaxed);
        }
    };
    loop {
        tokio::select! {
            biased;
            _ = stopped.recv(), if open => {
                // What waits is taken, and no more.
                lines.close();
                open = false;
            }
            line = lines.recv(), if answers.len() < WAITING_MAX => match line {
                Some(line) => match producer.submit(&line).await {
                    Ok(receipt) => answers.push(receipt),
                    Err(_) => count(false),
                },
                None => break,
            },
            Some(answer) = answers.next() => count(answer.is_ok()),
        }
    }
    while let Some(answer) = answers.next().await {
        count(answer.is_ok());
    }
    // What could not be sent was counted.
    let _ = producer.close().await;
    sent
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for TopicLayer {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        if metadata.target().starts_with("sluice_client") {
            return;
        }
        let mut line = format!("{{\"time_ms\":{},\"level\":\"{}\",\"target\":", now_ms(), metadata.level());
        push_text(&mut line, metadata.target());
        let mut fields = Fields::default();
        event.record(&mut fields);
        line.push_str(",\"message\":");
        push_text(&mut line, &fields.message);
        if !fields.others.is_empty() {
            // Writing to a string never fails.
            let _ = write!(line, ",\"fields\":{{{}}}", fields.others);
        }
        let mut separator = ",\"spans\":[";
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            line.push_str(separator);
            push_text(&mut line, span.name());
            separator = ",";
        }
        line.push_str(if separator == "," { "]}" } else { "}" });
        let taken = self.message(line, metadata.level().as_str()).map(|message| self.lines.try_send(message));
        if !matches!(taken, Some(Ok(()))) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The fields of an event: its message, and the others as members of a JSON object.
#[derive(Default)]
struct Fields {
    message: String,
    others: String,
}

impl Fields {
    fn add(&mut self, field: &Field, text: &str) {
        if field.name() == "message" {
            text.clone_into(&mut self.message);
            return;
        }
        if !self.others.is_empty() {
            self.others.push(',');
        }
        push_text(&mut self.others, field.name());
        self.others.push(':');
        push_text(&mut self.others, text);
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        struct Shown<'a>(&'a dyn Debug);
        impl fmt::Display for Shown<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        self.add(field, &Shown(value).to_string());
    }
}

/// Adds a JSON text, cut to the limit.
fn push_text(out: &mut String, text: &str) {
    out.push('"');
    let end = text.floor_char_boundary(text.len().min(TEXT_BYTES_MAX));
    for c in text.get(..end).unwrap_or_default().chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

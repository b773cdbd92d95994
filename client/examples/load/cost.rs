//! What the run costs this process: seconds on a processor, of all its threads.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub(crate) struct Cost {
    cpu: Duration,
    started: Instant,
}

impl Cost {
    #[expect(clippy::disallowed_methods, reason = "it measures")]
    pub(crate) fn start() -> Self {
        Self { cpu: cpu(), started: Instant::now() }
    }

    /// Figures of a run over so many messages that ended now.
    pub(crate) fn figures(&self, messages: u64) -> Value {
        self.figures_after(messages, self.started.elapsed())
    }

    /// Of one that took that long.
    pub(crate) fn figures_after(&self, messages: u64, elapsed: Duration) -> Value {
        let (seconds, cpu) = (elapsed.as_secs_f64(), cpu().saturating_sub(self.cpu).as_secs_f64());
        json!({
            "messages": messages,
            "seconds": seconds,
            "messages_per_second": messages as f64 / seconds,
            "own_cpu_seconds": cpu,
            "own_cpu_seconds_per_million": cpu * 1e6 / messages.max(1) as f64,
        })
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Time on a processor so far; the first number of each thread's `schedstat` is in ns.
fn cpu() -> Duration {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return Duration::ZERO };
    let thread = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    };
    threads.filter_map(Result::ok).filter_map(thread).sum()
}

/// Puts the members of one object behind those of another.
pub(crate) fn merged(mut one: Value, other: Value) -> Value {
    if let (Value::Object(one), Value::Object(other)) = (&mut one, other) {
        one.extend(other);
    }
    one
}

//! Runs a pipeline until it ends: first what an earlier config left unfinished, then its own rows; and
//! again from the target's positions when something failed that time may heal.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::pipeline::{self, Clock, Pipeline, Scope};
use crate::progress::{Progress, Stop};
use crate::target::Target;
use crate::task::{Chain, Class, TaskError};

/// Makes the pipeline's tasks: from its document, or from the text of an earlier config of the same name.
pub type Build<'a> = dyn Fn(Option<&str>) -> Result<Pipeline, TaskError> + Sync + 'a;

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Runs the chains of `scope` until the source has ended or a stop is asked for. `retry_for` is how long failures of
/// [`Class::Retry`] may go on without any progress.
pub fn run(
    build: &Build<'_>,
    scope: &Scope,
    stop: &Stop,
    progress: &Progress,
    clock: &Clock,
    retry_for: Duration,
) -> Result<(), TaskError> {
    let mut pauses = pauses();
    let mut failing: Option<(i64, u64)> = None;
    loop {
        progress.restart();
        let error = match run_once(build, scope, stop, progress, clock) {
            Ok(()) => {
                progress.state(if stop.is_asked() { "stopped" } else { "done" });
                return Ok(());
            }
            Err(error) => error,
        };
        let published = progress.reading().fates.total();
        let (since, _) = match failing {
            Some((since, at)) if at == published => (since, at),
            _ => {
                pauses = self::pauses();
                ((clock)(), published)
            }
        };
        failing = Some((since, published));
        let tried_ms = u128::try_from((clock)().saturating_sub(since)).unwrap_or(0);
        if error.class != Class::Retry || stop.is_asked() || tried_ms >= retry_for.as_millis() {
            progress.state(if error.class == Class::Config { "blocked" } else { "failed" });
            return Err(error);
        }
        progress.retry();
        let pause = pauses.next().unwrap_or(RETRY_MAX);
        let text = chain_of_causes(&error);
        tracing::warn!(error = %text, pause_ms = u64::try_from(pause.as_millis()).unwrap_or(0), "pipeline failed, trying again");
        progress.state(format!("retrying: {text}"));
        stop.wait(pause);
    }
}

/// Rising pauses without end. Each is longer by chance, up to the double: what failed for many at once is not tried
/// again by all of them at once.
fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(RETRY_FIRST)
        .with_max_delay(RETRY_MAX)
        .without_max_times()
        .with_jitter()
        .build()
}

fn run_once(
    build: &Build<'_>,
    scope: &Scope,
    stop: &Stop,
    progress: &Progress,
    clock: &Clock,
) -> Result<(), TaskError> {
    let mut pipeline = build(None)?;
    let mut older: Vec<(String, Vec<Chain>)> = Vec::new();
    if let Target::Files(sink) = &mut pipeline.target {
        for (chain, plan) in sink.unfinished(&pipeline.name)? {
            if plan.config == pipeline.config.1 {
                continue;
            }
            match older.iter_mut().find(|(hash, _)| *hash == plan.config) {
                Some((_, chains)) => chains.push(chain),
                None => older.push((plan.config, vec![chain])),
            }
        }
        for (hash, chains) in older {
            let text = sink.config(&pipeline.name, &hash)?;
            let earlier = build(Some(&text))?;
            pipeline::run(earlier, &Scope::Unfinished(chains), stop, progress, clock)?;
        }
    }
    pipeline::run(pipeline, scope, stop, progress, clock)
}

/// An error with its causes on one line.
pub fn chain_of_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

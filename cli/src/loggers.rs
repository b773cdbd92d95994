//! Log levels: those of the environment at the start, and what the management API sets later.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};
use tracing_subscriber::EnvFilter;

/// The variable with the levels at the start, such as `info` or `info,sluice_connect=debug`.
const VARIABLE: &str = "SLUICE_LOG";
/// The variable with the format: `text`, or `json` with one object a line.
const FORMAT: &str = "SLUICE_LOG_FORMAT";
/// What is logged if nobody says otherwise.
const DEFAULT: &str = "warn";
/// The name of all other loggers.
const ROOT: &str = "root";
const LEVELS: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "OFF"];

type Reload = Box<dyn Fn(EnvFilter) -> Result<()> + Send + Sync>;

struct Loggers {
    /// What the environment said.
    first: String,
    /// What was set, by logger: the level, and when in ms since 1970-01-01 UTC.
    set: Mutex<BTreeMap<String, (String, i64)>>,
    reload: Reload,
}

static LOGGERS: OnceLock<Loggers> = OnceLock::new();

/// Logs to standard error from now on.
pub(crate) fn start() {
    let first = variable(VARIABLE).filter(|text| EnvFilter::try_new(text).is_ok());
    let first = first.unwrap_or_else(|| DEFAULT.to_owned());
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_env_filter(EnvFilter::new(&first));
    let reload: Reload = match variable(FORMAT).as_deref() {
        Some("json") => {
            let builder = builder.json().with_span_list(false).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Box::new(move |filter| Ok(handle.reload(filter)?))
        }
        format => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            if let Some(other) = format.filter(|format| *format != "text") {
                tracing::warn!("{FORMAT} is {other:?}, expected text or json: text is logged");
            }
            Box::new(move |filter| Ok(handle.reload(filter)?))
        }
    };
    // It is called once.
    let _ = LOGGERS.set(Loggers { first, set: Mutex::default(), reload });
}

#[expect(clippy::disallowed_methods, reason = "cli is where the environment comes in")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn lock(loggers: &Loggers) -> MutexGuard<'_, BTreeMap<String, (String, i64)>> {
    loggers.set.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The levels by logger.
pub(crate) fn levels() -> Value {
    let Some(loggers) = LOGGERS.get() else { return json!({}) };
    let hint = EnvFilter::new(&loggers.first).max_level_hint();
    let first = hint.map_or_else(|| DEFAULT.to_uppercase(), |level| level.to_string().to_uppercase());
    let mut all = serde_json::Map::new();
    all.insert(ROOT.to_owned(), json!({"level": first, "last_modified": null}));
    for (name, (level, at)) in &*lock(loggers) {
        all.insert(name.clone(), json!({"level": level, "last_modified": at}));
    }
    Value::Object(all)
}

/// Sets the level of a logger: a module's path such as `sluice_connect`, or `root`.
pub(crate) fn set(name: &str, level: &str) -> Result<()> {
    let loggers = LOGGERS.get().ok_or_else(|| anyhow!("nothing is logged"))?;
    let level = level.to_uppercase();
    if !LEVELS.contains(&level.as_str()) {
        bail!("invalid log level '{level}': expected one of {}", LEVELS.join(", "));
    }
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':') {
        bail!(
            "{name:?} is no logger: expected {ROOT}, or the path of a module such as sluice_connect::worker"
        );
    }
    let mut set = lock(loggers);
    let mut wanted = set.clone();
    wanted.insert(name.to_owned(), (level, (crate::clock())()));
    // The last one that says something of a logger counts.
    let mut text = loggers.first.clone();
    for (name, (level, _)) in &wanted {
        let directive =
            if name == ROOT { level.to_lowercase() } else { format!("{name}={}", level.to_lowercase()) };
        text = format!("{text},{directive}");
    }
    (loggers.reload)(EnvFilter::try_new(&text)?)?;
    *set = wanted;
    Ok(())
}

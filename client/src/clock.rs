//! The machine's clock.

/// Now, in ms since 1970-01-01 UTC.
#[expect(clippy::disallowed_methods, reason = "the edge where time comes in")]
pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

//! Latencies in buckets of at most 1.6 % width.

use std::time::Duration;

/// Buckets of each power of two, as bits.
const BITS: u32 = 6;

pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_ns: u64,
    in_1_ms: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; (64 - BITS as usize + 1) << BITS], total: 0, max_ns: 0, in_1_ms: 0 }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(ns)) {
            *count += 1;
        }
        self.total += 1;
        self.max_ns = self.max_ns.max(ns);
        self.in_1_ms += u64::from(ns <= 1_000_000);
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "share_within_1_ms": self.in_1_ms as f64 / self.total.max(1) as f64,
            "p50_ms": self.quantile_ms(0.5),
            "p99_ms": self.quantile_ms(0.99),
            "p99_9_ms": self.quantile_ms(0.999),
            "p99_99_ms": self.quantile_ms(0.9999),
            "max_ms": self.max_ns as f64 / 1e6,
        })
    }

    /// Upper end of the bucket that the quantile is in.
    fn quantile_ms(&self, quantile: f64) -> f64 {
        let wanted = (self.total as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        for (i, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted.max(1) {
                return upper(i).min(self.max_ns) as f64 / 1e6;
            }
        }
        0.0
    }
}

/// Small values have a bucket each, then each power of two has `1 << BITS`.
fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(BITS + 1);
    ((u64::from(shift) << BITS) + (value >> shift)) as usize
}

fn upper(bucket: usize) -> u64 {
    let shift = (bucket >> BITS).saturating_sub(1);
    let value = (bucket - (shift << BITS)) as u64;
    ((value + 1) << shift) - 1
}

//! Messages a second that source `topic` looks at, one core: 8 properties each, of which a filter passes 1 in 1,000.
//!
//! `cargo bench -p sluice-sources --bench scan`; `SCAN_MESSAGES` says how many (5,000,000), `SCAN_DIR` where.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a benchmark measures and prints"
)]

use std::sync::Arc;
use std::time::Instant;

use sluice_connect::task::{Needs, Range, Read, SourceTask};
use sluice_filters::{Dialect, Filter};
use sluice_protocol::id::{QueueId, TopicName};
use sluice_protocol::message::{Message, push_property};
use sluice_sources::topic::{TopicConfig, TopicSource};
use sluice_store::file::RealDisk;
use sluice_store::{Batch, Settings, Store};

const BATCH: usize = 1000;
const READ_BYTES: usize = 2 << 20;
const ROUNDS: usize = 3;

fn main() {
    let count: usize = std::env::var("SCAN_MESSAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(5_000_000);
    let dir = match std::env::var_os("SCAN_DIR") {
        Some(dir) => tempfile::tempdir_in(dir).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let store = Store::open(Settings::embedded(dir.path()), Arc::new(RealDisk), Arc::new(|| 1)).unwrap();
    let topic = TopicName::new("scan").unwrap();
    store.create_topic(&topic, 1).unwrap();
    for first in (0..count).step_by(BATCH) {
        let mut batch = Batch::new();
        for i in first..(first + BATCH).min(count) {
            let mut properties = Vec::new();
            for (name, value) in [
                ("UNIQ_KEY", format!("7F000001{i:024X}")),
                ("KEYS", format!("order-{i}")),
                ("TAGS", "created".to_owned()),
                ("region", if i % 2 == 0 { "EU" } else { "US" }.to_owned()),
                ("amount", (i % 1000).to_string()),
                ("customer", format!("c{}", i % 9973)),
                ("channel", "web".to_owned()),
                ("priority", (i % 5).to_string()),
            ] {
                push_property(&mut properties, name, &value).unwrap();
            }
            let message = Message { body: &[b'x'; 64], properties: &properties, ..Message::default() };
            batch.push(&topic, QueueId::ZERO, &message).unwrap();
        }
        store.append(batch).unwrap();
    }
    for expression in ["amount = 7", "region = 'US' AND amount = 7 AND channel IN ('web', 'app')"] {
        let mut rates = Vec::new();
        let mut passed = 0;
        for _ in 0..ROUNDS {
            let config: TopicConfig =
                serde_json::from_str(r#"{"name": "scan", "until": "caught_up"}"#).unwrap();
            let mut source = TopicSource::new(&config, "bench", store.clone(), Vec::new()).unwrap();
            let filter = Filter::parse(expression, Dialect::Sluice).unwrap();
            source
                .open(&Needs { columns: vec!["body"], filter: Some(Arc::new(filter)), ..Needs::default() })
                .unwrap();
            let (began, mut next) = (Instant::now(), 0);
            passed = 0;
            while let Read::Slice(slice) =
                source.read("scan", 0, Range { start: next, end: i64::MAX }, READ_BYTES).unwrap()
            {
                passed += slice.envelope.num_rows();
                next = slice.range.end;
            }
            rates.push(count as f64 / began.elapsed().as_secs_f64() / 1e6);
        }
        rates.sort_unstable_by(f64::total_cmp);
        println!("{:.2} million messages/s: {passed} of {count} pass {expression}", rates[ROUNDS / 2]);
    }
}

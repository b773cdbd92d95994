//! Reads messages as a member of a group until there are no more for five seconds.
//!
//! ```text
//! cargo run -p sluice-client --example consume -- 127.0.0.1:9876 orders billing 'new || paid'
//! ```

#![expect(clippy::print_stdout, reason = "it is what it is for")]

use std::time::Duration;

use anyhow::Context;
use sluice_client::{
    Client, ClientSettings, Consumer, ConsumerSettings, Filter, Start, Subscription, TopicName,
};

const USAGE: &str = "usage: consume NAME_SERVERS TOPIC GROUP [TAGS]";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let client = Client::new(ClientSettings::new(args.next().context(USAGE)?))?;
    let topic = TopicName::new(&args.next().context(USAGE)?)?;
    let group = args.next().context(USAGE)?;
    let filter = Filter::tags(&args.next().unwrap_or_default());

    let settings = ConsumerSettings { start: Start::First, ..ConsumerSettings::new(group) };
    let mut consumer = Consumer::subscribe(&client, settings, [Subscription { topic, filter }]).await?;
    while let Ok(batch) = tokio::time::timeout(Duration::from_secs(5), consumer.next_batch()).await {
        let batch = batch?;
        for record in &batch.records {
            println!("{} {} {}", batch.queue, record.queue_offset, String::from_utf8_lossy(&record.body));
        }
        // Everything returned so far is consumed; without this it happens every five seconds.
        consumer.commit().await?;
    }
    consumer.close().await?;
    Ok(())
}

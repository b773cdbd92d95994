//! Gets every message of a topic, whatever other members of its group get, until Enter is pressed; each member has a
//! file of its own in which it keeps how far it is.
//!
//! ```text
//! cargo run -p sluice-client --example broadcast -- 127.0.0.1:9876 prices caches ./cache-1.json
//! ```

#![expect(clippy::print_stdout, reason = "it is what it is for")]

use anyhow::Context;
use sluice_client::{Client, ClientSettings, ConsumerSettings, PushConsumer, Subscription, TopicName};

const USAGE: &str = "usage: broadcast NAME_SERVERS TOPIC GROUP [OFFSETS_FILE]";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let client = Client::new(ClientSettings::new(args.next().context(USAGE)?))?;
    let topic = TopicName::new(&args.next().context(USAGE)?)?;
    let settings = ConsumerSettings::new(args.next().context(USAGE)?);
    // Without a file it gets what is sent from now on.
    let offsets = args.next().map(Into::into);

    let subscriptions = [Subscription::all(&topic)];
    let consumer = PushConsumer::broadcast(&client, settings, subscriptions, offsets, async |record| {
        println!("{}", String::from_utf8_lossy(&record.body));
        Ok(())
    });
    let consumer = consumer.await?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    consumer.close().await?;
    Ok(())
}

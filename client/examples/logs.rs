//! Logs to a topic by `tracing`, as the appenders of Java's loggers do.
//!
//! ```text
//! cargo run -p sluice-client --features tracing --example logs -- 127.0.0.1:9876 logs
//! ```

#![expect(clippy::print_stdout, reason = "it is what it is for")]

use anyhow::Context;
use sluice_client::{Client, ClientSettings, Producer, ProducerSettings, TopicLayer, TopicName};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let name_servers = args.next().context("usage: logs NAME_SERVERS TOPIC")?;
    let topic = TopicName::new(&args.next().context("usage: logs NAME_SERVERS TOPIC")?)?;

    let client = Client::new(ClientSettings::new(name_servers))?;
    let producer = Producer::new(&client, ProducerSettings::default())?;
    let (layer, log) = TopicLayer::new(producer, &topic);
    tracing_subscriber::registry().with(layer).init();

    let checkout = tracing::info_span!("checkout").entered();
    for order in 0..10 {
        tracing::info!(order, "order made");
    }
    tracing::error!(order = 7, "card refused");
    drop(checkout);

    let logged = log.close().await;
    println!("{} lines sent, {} lost", logged.sent, logged.lost);
    Ok(())
}

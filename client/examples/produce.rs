//! Sends ten messages and prints where they are.
//!
//! ```text
//! cargo run -p sluice-client --example produce -- 127.0.0.1:9876 orders
//! ```

#![expect(clippy::print_stdout, reason = "it is what it is for")]

use anyhow::Context;
use sluice_client::{Client, ClientSettings, Message, Producer, ProducerSettings, TopicName};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let name_servers = args.next().context("usage: produce NAME_SERVERS TOPIC")?;
    let topic = TopicName::new(&args.next().context("usage: produce NAME_SERVERS TOPIC")?)?;

    let client = Client::new(ClientSettings::new(name_servers))?;
    let producer = Producer::new(&client, ProducerSettings::default())?;

    // One after the other, each known to be stored.
    for i in 0..5 {
        let message = Message::new(&topic, format!("order {i}")).tag("new")?.key(&format!("o-{i}"))?;
        let sent = producer.send(&message).await?;
        println!("{} is at {} offset {}", sent.message_id, sent.queue, sent.queue_offset);
    }

    // Handed over at once: what waits goes as one batch to each queue.
    let mut receipts = Vec::new();
    for i in 5..10 {
        receipts.push(producer.submit(&Message::new(&topic, format!("order {i}")).tag("new")?).await?);
    }
    for receipt in receipts {
        let sent = receipt.await?;
        println!("{} is at {} offset {}", sent.message_id, sent.queue, sent.queue_offset);
    }
    producer.close().await?;
    Ok(())
}

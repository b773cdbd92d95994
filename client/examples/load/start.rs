//! Times a start: from spawning a command to the first message that its broker acknowledged.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use sluice_client::{Message, Producer, ProducerSettings};

use crate::args::Args;
use crate::cost::Cost;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(2);

/// After that long the start has failed.
const WAIT_MAX: Duration = Duration::from_mins(2);

pub(crate) async fn time(args: &Args) -> anyhow::Result<Value> {
    let command = args.text("command").context("no --command given")?;
    let message = Message::new(&args.topic()?, vec![b'x'; args.number("bytes", 100)?]);
    let clients = args.clients().await?;
    let client = clients.first().context("no connection")?;
    let settings = ProducerSettings {
        group: "load".into(),
        retries_max: 0,
        send_timeout: Duration::from_secs(1),
        ..ProducerSettings::default()
    };
    let producer = Producer::new(client, settings)?;
    let cost = Cost::start();
    let mut child =
        Command::new("sh").arg("-c").arg(format!("exec {command}")).spawn().context("cannot spawn")?;
    let outcome = loop {
        match producer.send(&message).await {
            Ok(_) => break Ok(cost.elapsed()),
            Err(error) if cost.elapsed() > WAIT_MAX => break Err(error),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
        if let Some(status) = child.try_wait()? {
            bail!("the command ended with {status} before a message was acknowledged");
        }
    };
    if args.text("keep") != Some("true") {
        child.kill().context("cannot end the command")?;
        child.wait().context("cannot end the command")?;
    }
    Ok(json!({ "mode": "start", "seconds": outcome?.as_secs_f64(), "pid": child.id() }))
}

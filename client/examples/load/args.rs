//! The command line: a mode, then names and values.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, bail};
use sluice_client::{Admin, Client, ClientSettings, HeaderKind, TopicName};

const NAMES: &[&str] = &[
    "bytes",
    "batch",
    "command",
    "connections",
    "delay-ms",
    "group",
    "header",
    "hold-ms",
    "in-flight",
    "keep",
    "messages",
    "modulo",
    "namesrv",
    "pending",
    "pull",
    "queues",
    "rate",
    "seconds",
    "sql",
    "tag",
    "threads",
    "tick-us",
    "topic",
];

pub(crate) struct Args {
    pub(crate) mode: String,
    values: BTreeMap<String, String>,
}

impl Args {
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mode = args.next().context("no mode given: produce, produce-rate, consume, delay, start")?;
        let mut values = BTreeMap::new();
        while let Some(arg) = args.next() {
            let name = arg.strip_prefix("--").filter(|name| NAMES.contains(name));
            let name = name.with_context(|| format!("{arg:?} is none of --{}", NAMES.join(" --")))?;
            let value = args.next().with_context(|| format!("--{name} has no value"))?;
            values.insert(name.to_owned(), value);
        }
        Ok(Self { mode, values })
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub(crate) fn number<T: FromStr>(&self, name: &str, default: T) -> anyhow::Result<T> {
        match self.text(name) {
            None => Ok(default),
            Some(text) => text.parse().ok().with_context(|| format!("--{name} {text:?} is no such number")),
        }
    }

    pub(crate) fn topic(&self) -> anyhow::Result<TopicName> {
        Ok(TopicName::new(self.text("topic").context("no --topic given")?)?)
    }

    /// One client a connection; makes the topic if that is asked for.
    pub(crate) async fn clients(&self) -> anyhow::Result<Vec<Client>> {
        let mut settings = ClientSettings::new(self.text("namesrv").context("no --namesrv given")?);
        settings.header_kind = match self.text("header") {
            None | Some("binary") => HeaderKind::Binary,
            Some("json") => HeaderKind::Json,
            Some(other) => bail!("--header {other:?} is neither binary nor json"),
        };
        let count = self.number("connections", 1_usize)?.max(1);
        let clients: Result<Vec<Client>, _> = (0..count).map(|_| Client::new(settings.clone())).collect();
        let clients = clients?;
        if let (Some(_), Some(client)) = (self.text("queues"), clients.first()) {
            let topic = self.topic()?;
            Admin::new(client).create_topic(&topic, self.number("queues", 8)?).await?;
            // A name server hears of it in a moment.
            for _ in 0..100 {
                match client.fetch_route(&topic).await {
                    Ok(route) if !route.write_queues.is_empty() => break,
                    _ => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                }
            }
        }
        Ok(clients)
    }
}

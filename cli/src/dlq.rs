//! `sluice dlq list | replay`: what became a dead letter and why, and the way back.

mod letters;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sluice_client::{ClientSettings, Message, Producer, ProducerSettings, TopicName};
use sluice_protocol::id::QueueId;
use sluice_protocol::message::{self, Message as StoredMessage};
use sluice_store::{Batch, Flush, Store};

use self::letters::{Letter, Selection, of_brokers, of_store};
use crate::StoreArguments;
use crate::access::AccessArguments;
use crate::build::Embedded;
use crate::network;
use crate::show::plural;

#[derive(Subcommand)]
pub(crate) enum DlqCommand {
    /// List dead letters with their cause
    #[command(after_help = "Examples:
  sluice dlq list late-flights-dlq
  sluice dlq list late-flights-dlq --where \"dead_reason LIKE '%carrier%'\" --json
  sluice dlq list --group billing --namesrv broker:9876

In --where a bare name is a property, of the original or `dead_reason`, `dead_pipeline`, `dead_topic`, `dead_queue`,
`dead_offset`; $name is an envelope column of the dead letter.")]
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Send dead letters as they were to the topic that they come from
    #[command(after_help = "Examples:
  sluice dlq replay late-flights-dlq --where \"dead_pipeline = 'late-flights'\" --dry-run
  sluice dlq replay --group billing --namesrv broker:9876
  sluice dlq replay late-flights-dlq --from 1200 --to flights-again

A store is written to only while no `sluice run` or `sluice broker` has it open: beside a broker use --namesrv. The
dead letters stay where they are: give --from to leave out those that were sent before. One that was cut because its
body was over 64 KiB is not sent, and counted.")]
    Replay {
        #[command(flatten)]
        which: Which,
        /// Send to this topic instead
        #[arg(long, value_name = "TOPIC")]
        to: Option<String>,
        /// Send to brokers of these name servers instead of where the dead letters are
        #[arg(long, value_name = "HOST:PORT")]
        to_namesrv: Option<String>,
        /// Print what would be sent, and send nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which dead letters are meant.
#[derive(Args)]
pub(crate) struct Which {
    /// The topic of the dead letters of pipelines
    #[arg(required_unless_present = "group")]
    topic: Option<String>,
    /// Those of this consumer group instead: topic %DLQ%GROUP
    #[arg(long, conflicts_with = "topic")]
    group: Option<String>,
    #[command(flatten)]
    store: StoreArguments,
    /// Read from brokers of these name servers instead of a store
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "data_dir")]
    namesrv: Option<String>,
    /// Only those for which this expression is TRUE
    #[arg(long = "where", value_name = "EXPR")]
    filter: Option<String>,
    /// First queue offset, of each queue
    #[arg(long, value_name = "OFFSET")]
    from: Option<i64>,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print JSON, one document a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: AccessArguments,
}

impl Which {
    fn selection(&self) -> Result<Selection> {
        let Self { topic, group, filter, from, limit, .. } = self;
        Selection::new(topic.as_deref(), group.as_deref(), filter.as_deref(), *from, *limit)
    }

    /// Each dead letter in turn.
    fn each(&self, mut each: impl FnMut(&Letter) -> Result<()>) -> Result<()> {
        let selection = self.selection()?;
        match &self.namesrv {
            Some(namesrv) => network::run(namesrv, &self.access, async |client| {
                of_brokers(&client, selection, async |letter| each(letter)).await
            }),
            None => of_store(&open(&self.store)?, selection, each),
        }
    }
}

/// The dead letters of a topic of a cluster, as JSON.
pub(crate) fn of_cluster(
    settings: ClientSettings,
    namesrv: &str,
    topic: &str,
    filter: Option<&str>,
    limit: u64,
) -> Result<Vec<Value>> {
    let selection = Selection::new(Some(topic), None, filter, None, Some(limit))?;
    network::run_with(settings, namesrv, async |client| {
        let mut found = Vec::new();
        of_brokers(&client, selection, async |letter| {
            found.push(letter.json());
            Ok(())
        })
        .await?;
        Ok(found)
    })
}

fn open(arguments: &StoreArguments) -> Result<Store> {
    let dir = &arguments.data_dir;
    if !dir.exists() {
        bail!("no store at {}; name another by --data-dir, or brokers by --namesrv", dir.display());
    }
    Store::open_read_only(dir).with_context(|| format!("cannot open the store {}", dir.display()))
}

pub(crate) fn run(command: DlqCommand) -> Result<ExitCode> {
    match command {
        DlqCommand::List { which } => list(&which)?,
        DlqCommand::Replay { which, to, to_namesrv, dry_run } => {
            let to = to.as_deref().map(TopicName::new).transpose().context("--to")?;
            Replay { which, to, to_namesrv, dry_run, sent: BTreeMap::new(), cut: 0 }.run()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(which: &Which) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut found = 0_usize;
    which.each(|letter| {
        if found == 0 && !which.json {
            writeln!(out, "{:>5}  {:>10}  {:24}  {:32}  REASON", "QUEUE", "OFFSET", "STORED", "FROM")?;
        }
        found += 1;
        let line = if which.json { letter.json().to_string() } else { letter.line() };
        Ok(writeln!(out, "{line}")?)
    })?;
    if !which.json {
        writeln!(out, "{}", plural(found, "dead letter"))?;
    }
    Ok(out.flush()?)
}

/// One replay.
struct Replay {
    which: Which,
    to: Option<TopicName>,
    to_namesrv: Option<String>,
    dry_run: bool,
    /// How many went to each topic.
    sent: BTreeMap<TopicName, usize>,
    /// Those that are not whole.
    cut: usize,
}

impl Replay {
    fn run(mut self) -> Result<()> {
        let target = self.to_namesrv.clone().or_else(|| self.which.namesrv.clone());
        // All are read before the first is sent: one that is sent may become a dead letter again.
        let mut letters = Vec::new();
        let mut cut = 0;
        let (to, is_store, dry_run, json) =
            (self.to.clone(), target.is_none(), self.dry_run, self.which.json);
        let out = RefCell::new(std::io::stdout().lock());
        self.which.each(|letter| {
            if !letter.is_whole() {
                cut += 1;
                return Ok(());
            }
            let topic = destination(letter, to.as_ref(), is_store)?;
            if dry_run {
                let mut out = out.borrow_mut();
                if json {
                    let mut shown = letter.json();
                    shown["to"] = topic.as_str().into();
                    writeln!(out, "{shown}")?;
                } else {
                    writeln!(out, "to {topic}: {}", letter.line().trim_start())?;
                }
            }
            letters.push((topic, letter.original(), letter.body.clone(), letter.flag));
            Ok(())
        })?;
        self.cut = cut;
        if !dry_run {
            match &target {
                Some(namesrv) => send(namesrv, &self.which.access, &letters)?,
                None => append(&self.which.store, &letters)?,
            }
        }
        for (topic, ..) in letters {
            match self.sent.entry(topic) {
                Entry::Occupied(mut entry) => *entry.get_mut() += 1,
                Entry::Vacant(entry) => drop(entry.insert(1)),
            }
        }
        self.sum_up(&mut *out.borrow_mut())
    }

    fn sum_up(&self, out: &mut impl Write) -> Result<()> {
        let Self { sent, cut, dry_run, .. } = self;
        if self.which.json {
            let sent: BTreeMap<&str, usize> = sent.iter().map(|(topic, n)| (topic.as_str(), *n)).collect();
            return Ok(writeln!(out, "{}", json!({"sent": sent, "cut": cut, "dry_run": dry_run}))?);
        }
        let verb = if *dry_run { "would be sent" } else { "sent" };
        for (topic, n) in sent {
            writeln!(out, "{} {verb} to {topic}", plural(*n, "dead letter"))?;
        }
        if sent.is_empty() {
            writeln!(out, "0 dead letters {verb}")?;
        }
        if *cut > 0 {
            writeln!(
                out,
                "{} left out: cut when they were stored, so the rest of the body is gone",
                plural(*cut, "dead letter")
            )?;
        }
        Ok(())
    }
}

/// Where a dead letter goes.
fn destination(letter: &Letter, to: Option<&TopicName>, into_store: bool) -> Result<TopicName> {
    let at = || format!("dead letter at queue {} offset {}", letter.queue_id, letter.queue_offset);
    if let Some(to) = to {
        return Ok(to.clone());
    }
    let Some((topic, is_clusters)) = letter.origin() else {
        bail!("{} does not say where it comes from: give --to TOPIC", at());
    };
    if is_clusters && into_store {
        bail!(
            "{} comes from topic {topic} of a cluster: give --to-namesrv HOST:PORT, or --to TOPIC for one of the store",
            at()
        );
    }
    TopicName::new(topic)
        .with_context(|| format!("{} comes from `{topic}`, which is no topic: give --to TOPIC", at()))
}

/// A message on its way: topic, encoded properties, body, flag.
type Outgoing = (TopicName, Vec<u8>, bytes::Bytes, i32);

fn send(namesrv: &str, access: &AccessArguments, letters: &[Outgoing]) -> Result<()> {
    let mut sent = 0;
    network::run(namesrv, access, async |client| {
        let producer = Producer::new(&client, ProducerSettings::default())?;
        let messages = letters.iter().map(|(topic, properties, body, flag)| {
            let mut message = Message::new(topic, body.clone()).flag(*flag);
            for (name, value) in message::properties(properties) {
                message = message.property(name, value)?;
            }
            Ok(message)
        });
        network::send_each(producer, messages, &mut sent).await
    })
    .with_context(|| {
        format!("{} were sent before", plural(usize::try_from(sent).unwrap_or(usize::MAX), "dead letter"))
    })
}

fn append(arguments: &StoreArguments, letters: &[Outgoing]) -> Result<()> {
    if letters.is_empty() {
        return Ok(());
    }
    let clock = crate::clock();
    let flush = Flush::Async { interval: Duration::from_millis(500) };
    let embedded = Embedded::new(arguments.data_dir.clone(), Some(flush), clock.clone());
    let store = embedded.store()?;
    let appended = (|| -> Result<()> {
        let queues: BTreeMap<&TopicName, u32> = letters
            .iter()
            .map(|(topic, ..)| {
                let known = store.topic(topic).with_context(|| format!("no such topic: {topic}"))?;
                Ok((topic, known.queues.max(1)))
            })
            .collect::<Result<_>>()?;
        let now = (clock)();
        for (number, (topic, properties, body, flag)) in letters.iter().enumerate() {
            let message = StoredMessage {
                body,
                properties,
                flag: *flag,
                born_timestamp_ms: now,
                ..StoredMessage::default()
            };
            let count = queues.get(topic).map_or(1, |count| *count as usize);
            let queue = QueueId::all(u32::try_from(count)?).nth(number % count).unwrap_or_default();
            let mut batch = Batch::new();
            batch.push(topic, queue, &message)?;
            store
                .append(batch)
                .with_context(|| format!("{} were sent before", plural(number, "dead letter")))?;
        }
        Ok(store.flush()?)
    })();
    drop(store);
    let closed = embedded.close();
    appended.and(closed)
}

//! `sluice topic list | tail | stats`: looks into the embedded broker's store read-only, without its lock.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::{Value, json};
use sluice_connect::batch;
use sluice_connect::progress::Stop;
use sluice_connect::task::{Needs, Range};
use sluice_filters::{Dialect, Filter, Name};
use sluice_protocol::id::{QueueId, QueueOffset, TopicName};
use sluice_store::{Store, Topic};

use crate::StoreArguments;
use crate::access::AccessArguments;
use crate::network::{self, TailOptions};
use crate::show::{count, time_text};

#[derive(Subcommand)]
pub(crate) enum TopicCommand {
    #[command(flatten)]
    Network(network::TopicCommand),
    /// List topics with their queues and messages
    #[command(after_help = "Examples:
  sluice topic list
  sluice topic list --data-dir /var/lib/sluice --json")]
    List {
        #[command(flatten)]
        store: StoreArguments,
        /// Ask these name servers instead of looking into a store
        #[arg(long, value_name = "HOST:PORT", conflicts_with = "data_dir")]
        namesrv: Option<String>,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        access: AccessArguments,
    },
    /// Print messages of a topic, one JSON object a line
    #[command(after_help = "Examples:
  sluice topic tail flights --limit 3
  sluice topic tail flights --from 1000 --where \"origin = 'JFK' AND dep_delay > 60\"
  sluice topic tail flights --follow --where '$queue_id = 0'
  sluice topic tail SLUICE_AUDIT --namesrv broker:9876 --where \"outcome = 'NO_PERMISSION'\"

In --where a bare name is a property and $name an envelope column; fields of the body need `sluice query`.")]
    Tail(TailArguments),
    /// Show offsets, times and counts of a topic's queues
    #[command(after_help = "Examples:
  sluice topic stats flights
  sluice topic stats flights --json | jq .queues")]
    Stats {
        /// The topic
        topic: String,
        #[command(flatten)]
        store: StoreArguments,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
pub(crate) struct TailArguments {
    /// The topic
    topic: String,
    #[command(flatten)]
    store: StoreArguments,
    /// Read from brokers of these name servers instead of a store
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "data_dir")]
    namesrv: Option<String>,
    /// Only messages for which this expression is TRUE
    #[arg(long = "where", value_name = "EXPR")]
    filter: Option<String>,
    /// First queue offset to print; the first that is kept if not said
    #[arg(long, value_name = "OFFSET")]
    from: Option<i64>,
    /// Print at most so many messages
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Wait for more messages instead of ending
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    access: AccessArguments,
}

pub(crate) fn run(command: TopicCommand) -> Result<ExitCode> {
    match command {
        TopicCommand::List { namesrv: Some(namesrv), json, access, .. } => {
            network::list(&namesrv, &access, json)?;
        }
        TopicCommand::List { store, json, .. } => list(&open(&store)?, json)?,
        TopicCommand::Network(command) => return network::topic(command),
        TopicCommand::Stats { topic, store, json } => {
            let store = open(&store)?;
            stats(&store, &find(&store, &topic)?, json)?;
        }
        TopicCommand::Tail(arguments) => match &arguments.namesrv {
            Some(namesrv) => {
                let TailArguments { topic, filter, from, limit, follow, .. } = &arguments;
                let (filter, from, limit, follow) = (filter.as_deref(), *from, *limit, *follow);
                let options = TailOptions { topic, filter, from, limit, follow };
                network::tail(namesrv, &arguments.access, &options)?;
            }
            None => tail(&arguments)?,
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn open(arguments: &StoreArguments) -> Result<Store> {
    let dir = &arguments.data_dir;
    if !dir.exists() {
        bail!("no store at {}; `sluice run` makes one, or name another by --data-dir", dir.display());
    }
    Store::open_read_only(dir).with_context(|| format!("cannot open the store {}", dir.display()))
}

fn find(store: &Store, name: &str) -> Result<Topic> {
    let topic = TopicName::new(name)?;
    store.topic(&topic).with_context(|| {
        let names: Vec<String> = store.topics().iter().map(|t| t.name.to_string()).collect();
        format!("no such topic: {topic}; there are: {}", names.join(", "))
    })
}

/// The queues of a topic with first and next offset.
fn queues(store: &Store, topic: &Topic) -> Vec<(QueueId, i64, i64)> {
    QueueId::all(topic.queues)
        .map(|id| {
            let (first, end) = store.offsets(&topic.name, id).unwrap_or_default();
            (id, first.get(), end.get())
        })
        .collect()
}

fn list(store: &Store, as_json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut rows = Vec::new();
    for topic in store.topics() {
        let messages: i64 = queues(store, &topic).iter().map(|(_, first, end)| end - first).sum();
        rows.push((topic.name.to_string(), topic.queues, u64::try_from(messages).unwrap_or(0)));
    }
    if as_json {
        let list: Vec<Value> =
            rows.iter().map(|(n, q, m)| json!({"topic": n, "queues": q, "messages": m})).collect();
        writeln!(out, "{}", json!({ "topics": list }))?;
        return Ok(());
    }
    let width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(5).max(5);
    writeln!(out, "{:width$}  {:>6}  {:>14}", "TOPIC", "QUEUES", "MESSAGES")?;
    for (name, queues, messages) in rows {
        writeln!(out, "{name:width$}  {queues:>6}  {:>14}", count(messages))?;
    }
    Ok(())
}

fn stats(store: &Store, topic: &Topic, as_json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut list = Vec::new();
    for (id, first, end) in queues(store, topic) {
        let time = |offset: i64| -> Result<Option<i64>> {
            if offset < first || offset >= end {
                return Ok(None);
            }
            let read = store.read(&topic.name, id, QueueOffset::new(offset), 1)?;
            let record = read.runs.first().and_then(|r| sluice_protocol::record::records(&r.bytes).next());
            Ok(record.transpose()?.map(|r| r.store_timestamp_ms))
        };
        list.push((id, first, end, time(first)?, time(end - 1)?));
    }
    if as_json {
        let list: Vec<Value> = list
            .iter()
            .map(|(id, first, end, oldest, newest)| {
                json!({"queue_id": id.get(), "first": first, "next": end, "oldest_ms": oldest, "newest_ms": newest})
            })
            .collect();
        writeln!(out, "{}", json!({"topic": topic.name.as_str(), "queues": list}))?;
        return Ok(());
    }
    writeln!(
        out,
        "{:>5}  {:>12}  {:>12}  {:>12}  {:24}  {:24}",
        "QUEUE", "FIRST", "NEXT", "MESSAGES", "OLDEST", "NEWEST"
    )?;
    for (id, first, end, oldest, newest) in list {
        let messages = count(u64::try_from(end - first).unwrap_or(0));
        let (oldest, newest) = (oldest.map_or("-".into(), time_text), newest.map_or("-".into(), time_text));
        writeln!(out, "{:>5}  {first:>12}  {end:>12}  {messages:>12}  {oldest:24}  {newest:24}", id.get())?;
    }
    Ok(())
}

fn tail(arguments: &TailArguments) -> Result<()> {
    let store = open(&arguments.store)?;
    let topic = find(&store, &arguments.topic)?;
    let mut needs = Needs {
        columns: vec!["body", "born_timestamp", "keys", "message_id", "queue_id", "store_timestamp", "tags"],
        all_properties: true,
        ..Needs::default()
    };
    if let Some(text) = &arguments.filter {
        let filter = Filter::parse(text, Dialect::Sluice).with_context(|| format!("--where \"{text}\""))?;
        for name in filter.names() {
            match name {
                Name::Field(_) => {
                    bail!("--where: `{name}` is a field of the body: ask `sluice query` for it")
                }
                Name::Envelope(c) if !batch::COLUMNS.contains(&c.as_str()) => {
                    bail!("--where: no envelope column `{name}`; there are: {}", batch::COLUMNS.join(", "))
                }
                _ => {}
            }
        }
        needs.filter = Some(Arc::new(filter));
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut positions: Vec<(QueueId, i64)> = queues(&store, &topic)
        .into_iter()
        .map(|(id, first, _)| (id, arguments.from.unwrap_or(first).max(first)))
        .collect();
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    let never = Stop::default();
    loop {
        let mut progressed = false;
        for (id, next) in &mut positions {
            if left == 0 {
                break;
            }
            // A queue may end before the first offset that was asked for.
            if store.offsets(&topic.name, *id).is_none_or(|(_, end)| end.get() <= *next) {
                continue;
            }
            let read = store.read(&topic.name, *id, QueueOffset::new(*next), 256 * 1024)?;
            if read.next.get() <= *next {
                continue;
            }
            let range = Range { start: *next, end: read.next.get() };
            let slice = sluice_sources::topic::slice(&read.runs, range, &needs)?;
            for row in 0..slice.envelope.num_rows() {
                if left == 0 {
                    break;
                }
                left -= 1;
                writeln!(out, "{}", message(&slice.envelope, row))?;
            }
            for reject in &slice.rejects {
                eprintln!("sluice: not shown: {}: {}", reject.place, reject.reason);
            }
            *next = slice.range.end;
            progressed = true;
        }
        if left == 0 || !progressed && !arguments.follow {
            break;
        }
        if !progressed {
            out.flush()?;
            never.wait(Duration::from_millis(100));
            store.refresh()?;
        }
    }
    out.flush()?;
    Ok(())
}

/// One message as JSON: the body as JSON where it is some, else as text.
fn message(envelope: &arrow::array::RecordBatch, row: usize) -> Value {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Int32Type, TimestampMillisecondType};
    let column = |name: &str| envelope.column_by_name(name).filter(|c| c.is_valid(row));
    let text =
        |name: &str| column(name).and_then(|c| c.as_string_view_opt()).map(|c| c.value(row).to_owned());
    let time = |name: &str| {
        column(name)
            .and_then(|c| c.as_primitive_opt::<TimestampMillisecondType>())
            .map(|c| time_text(c.value(row)))
    };
    let body = column("body").and_then(|c| c.as_binary_view_opt()).map(|c| {
        let bytes = c.value(row);
        serde_json::from_slice(bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()))
    });
    let properties: serde_json::Map<String, Value> =
        batch::properties_of(envelope, row).into_iter().map(|(n, v)| (n, Value::String(v))).collect();
    json!({
        "queue_id": column("queue_id").and_then(|c| c.as_primitive_opt::<Int32Type>()).map(|c| c.value(row)),
        "queue_offset": batch::offsets(envelope).get(row),
        "store_timestamp": time("store_timestamp"),
        "born_timestamp": time("born_timestamp"),
        "message_id": text("message_id"),
        "keys": text("keys"),
        "tags": text("tags"),
        "properties": properties,
        "body": body,
    })
}

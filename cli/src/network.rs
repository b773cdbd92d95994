//! `sluice topic | group | message` over the network: asks name servers and brokers, Sluice's or RocketMQ's.

use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sluice_client::{
    Admin, Client, ClientSettings, Consumer, ConsumerSettings, Filter as Wanted, Message, MessageId,
    Producer, ProducerSettings, Queue, Record, Start, TopicName,
};
use sluice_filters::{Dialect, Filter, Name};
use sluice_sources::topic::{Asked, passes};
use sluice_store::BODY_BYTES_MAX;

use crate::access::AccessArguments;
use crate::show::{count, time_text};

/// How long a tail that does not follow waits for what it knows to be there.
pub(crate) const TAIL_WAIT: Duration = Duration::from_secs(10);
/// How often a tap asks whether its reader is still there while nothing comes.
const TAP_SIGN: Duration = Duration::from_secs(2);
/// The group in whose name topics are looked into: one that brokers know without settings.
pub(crate) const TAIL_GROUP: &str = "TOOLS_CONSUMER";

#[derive(Args, Clone)]
pub(crate) struct NetworkArguments {
    /// Name servers to ask, with semicolons between
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9876")]
    namesrv: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: AccessArguments,
}

impl NetworkArguments {
    /// Whether JSON is wanted.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Runs work with a client of these name servers.
    pub(crate) fn run<T>(&self, work: impl AsyncFnOnce(Client) -> Result<T>) -> Result<T> {
        run(&self.namesrv, &self.access, work)
    }
}

#[derive(Subcommand)]
pub(crate) enum TopicCommand {
    /// Make a topic at every broker, or change how many queues it has
    #[command(after_help = "Example:
  sluice topic create orders --queues 8 --namesrv broker:9876")]
    Create {
        /// The topic
        topic: String,
        /// Queues at each broker
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=16_384))]
        queues: i32,
        #[command(flatten)]
        network: NetworkArguments,
    },
    /// Show where a topic is: brokers, queues, offsets, and who reads it
    #[command(after_help = "Example:
  sluice topic describe orders --namesrv broker:9876")]
    Describe {
        /// The topic
        topic: String,
        #[command(flatten)]
        network: NetworkArguments,
    },
    /// Delete a topic from every broker, with all of its messages
    #[command(after_help = "Example:
  sluice topic delete orders --namesrv broker:9876")]
    Delete {
        /// The topic
        topic: String,
        #[command(flatten)]
        network: NetworkArguments,
    },
    /// Send messages: one a line of a file or of standard input, or one whole file
    #[command(after_help = "Examples:
  echo '{\"id\": 1}' | sluice topic send orders --tag created --key 1
  sluice topic send orders --file orders.ndjson --prop region=EU
  sluice topic send images --file picture.png --whole")]
    Send(SendArguments),
}

#[derive(Args)]
pub(crate) struct SendArguments {
    /// The topic; made if the broker lets clients make topics
    topic: String,
    /// Read this file instead of standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Send all of the input as one message, not each line
    #[arg(long)]
    whole: bool,
    /// Tag of the messages
    #[arg(long)]
    tag: Option<String>,
    /// Key of the messages
    #[arg(long)]
    key: Option<String>,
    /// Properties of the messages
    #[arg(long, value_name = "NAME=VALUE")]
    prop: Vec<String>,
    /// Compress bodies of at least this size, such as 4KiB; consumers get them as they were
    #[arg(long, value_name = "SIZE")]
    compress_from: Option<ByteSize>,
    #[command(flatten)]
    network: NetworkArguments,
}

#[derive(Subcommand)]
pub(crate) enum GroupCommand {
    /// Show how far a consumer group is behind, queue by queue
    #[command(after_help = "Example:
  sluice group lag billing --namesrv broker:9876 --json | jq .lag")]
    Lag {
        /// The consumer group
        group: String,
        /// One topic only
        #[arg(long)]
        topic: Option<String>,
        #[command(flatten)]
        network: NetworkArguments,
    },
    /// Set where a consumer group goes on in a topic; its members are told
    #[command(after_help = "Examples:
  sluice group reset billing --topic orders --to earliest
  sluice group reset billing --topic orders --to 1760000000000      the first messages stored from then on")]
    Reset {
        /// The consumer group
        group: String,
        /// The topic
        #[arg(long)]
        topic: String,
        /// earliest, latest, or a time in ms since 1970-01-01 UTC
        #[arg(long, value_name = "WHERE", value_parser = reset_time)]
        to: i64,
        #[command(flatten)]
        network: NetworkArguments,
    },
    /// Show the clients of a consumer group and what they subscribe to
    Members {
        /// The consumer group
        group: String,
        #[command(flatten)]
        network: NetworkArguments,
    },
}

#[derive(Subcommand)]
pub(crate) enum MessageCommand {
    /// Show one message by the id that its broker gave it (32 or 56 hex digits)
    Show {
        /// The id, as `offset_id` says it
        id: String,
        #[command(flatten)]
        network: NetworkArguments,
    },
    /// Draw one message's life: sent, stored, delivered to whom, retried, dead, and in which file
    #[command(after_help = "Examples:
  sluice message trace 7F000001000118B4AAC27E3A1B5C0000 --namesrv broker:9876
  sluice message trace 7F000001000118B4AAC27E3A1B5C0000 --topic orders      its producer does not trace
  sluice message trace 7F00000100002A9F0000000000000000 --target ./lake/orders --json

Who got it, and what became of it there, clients tell that trace (Java: the constructors with enableMsgTrace). Without
that it is known where it stands, its copies in retry topics and dead letters, and which groups have passed it.")]
    Trace(crate::trace::TraceArguments),
}

/// What to show of a topic.
pub(crate) struct TailOptions<'a> {
    pub(crate) topic: &'a str,
    pub(crate) filter: Option<&'a str>,
    pub(crate) from: Option<i64>,
    pub(crate) limit: Option<u64>,
    pub(crate) follow: bool,
}

/// Runs work with a client of these name servers.
pub(crate) fn run<T>(
    namesrv: &str,
    access: &AccessArguments,
    work: impl AsyncFnOnce(Client) -> Result<T>,
) -> Result<T> {
    run_with(access.settings(namesrv)?, namesrv, work)
}

/// The same with settings that are known.
pub(crate) fn run_with<T>(
    settings: ClientSettings,
    namesrv: &str,
    work: impl AsyncFnOnce(Client) -> Result<T>,
) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let client = Client::new(settings)?;
        work(client).await.map_err(|error| explained(error, namesrv))
    })
}

/// Says where the address of a broker that can not be reached came from.
fn explained(error: anyhow::Error, namesrv: &str) -> anyhow::Error {
    let unreached = error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(sluice_client::Error::Connect { address, .. }) => Some(address.to_string()),
        _ => None,
    });
    match unreached.filter(|address| !namesrv.split(';').any(|name_server| name_server.trim() == address)) {
        Some(address) => error.context(format!(
            "{namesrv} sends clients to a broker at {address}, which can not be reached from here; behind NAT or in a \
             container a broker is started with the address that clients reach: --advertise HOST:PORT"
        )),
        None => error,
    }
}

pub(crate) fn topic(command: TopicCommand) -> Result<ExitCode> {
    match command {
        TopicCommand::Create { topic, queues, network } => {
            let topic = TopicName::new(&topic)?;
            network.run(async |client| Ok(Admin::new(&client).create_topic(&topic, queues).await?))?;
            let line = if network.json {
                json!({"topic": topic.as_str(), "queues": queues}).to_string()
            } else {
                format!("topic {topic}: {queues} queues at each broker")
            };
            writeln!(std::io::stdout(), "{line}")?;
        }
        TopicCommand::Delete { topic, network } => {
            let topic = TopicName::new(&topic)?;
            network.run(async |client| {
                // One that nobody knows is told: it may be a slip of the pen.
                client.fetch_route(&topic).await?;
                Ok(Admin::new(&client).delete_topic(&topic).await?)
            })?;
            let line = if network.json {
                json!({"topic": topic.as_str(), "deleted": true}).to_string()
            } else {
                format!("topic {topic}: deleted")
            };
            writeln!(std::io::stdout(), "{line}")?;
        }
        TopicCommand::Describe { topic, network } => describe(&TopicName::new(&topic)?, &network)?,
        TopicCommand::Send(arguments) => send(&arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// `sluice topic list --namesrv`.
pub(crate) fn list(namesrv: &str, access: &AccessArguments, as_json: bool) -> Result<()> {
    let topics = run(namesrv, access, async |client| Ok(Admin::new(&client).topics().await?))?;
    let mut out = std::io::stdout().lock();
    if as_json {
        writeln!(out, "{}", json!({ "topics": topics }))?;
    } else {
        topics.iter().try_for_each(|topic| writeln!(out, "{topic}"))?;
    }
    Ok(())
}

fn describe(topic: &TopicName, network: &NetworkArguments) -> Result<()> {
    let (queues, groups, route) = network.run(async |client| {
        let admin = Admin::new(&client);
        let route = client.fetch_route(topic).await?;
        Ok((admin.queue_offsets(topic).await?, admin.groups_of_topic(topic).await?, route))
    })?;
    let mut out = std::io::stdout().lock();
    if network.json {
        let queues: Vec<Value> = queues
            .iter()
            .map(|q| {
                json!({
                    "broker": &*q.queue.broker, "queue_id": q.queue.id.get(), "first": q.min_offset,
                    "next": q.max_offset, "newest_ms": q.last_update_ms,
                })
            })
            .collect();
        let brokers: Vec<&str> = route.addresses().map(|a| &**a).collect();
        writeln!(
            out,
            "{}",
            json!({"topic": topic.as_str(), "brokers": brokers, "queues": queues, "groups": groups})
        )?;
        return Ok(());
    }
    writeln!(out, "topic {topic} at {}", route.addresses().map(|a| &**a).collect::<Vec<_>>().join(", "))?;
    writeln!(
        out,
        "{:16}  {:>5}  {:>12}  {:>12}  {:>12}  {:24}",
        "BROKER", "QUEUE", "FIRST", "NEXT", "MESSAGES", "NEWEST"
    )?;
    for q in &queues {
        let messages = count(u64::try_from(q.max_offset - q.min_offset).unwrap_or(0));
        let newest = if q.last_update_ms > 0 { time_text(q.last_update_ms) } else { "-".to_owned() };
        let (broker, id) = (&q.queue.broker, q.queue.id.get());
        writeln!(
            out,
            "{broker:16}  {id:>5}  {:>12}  {:>12}  {messages:>12}  {newest:24}",
            q.min_offset, q.max_offset
        )?;
    }
    if !groups.is_empty() {
        writeln!(out, "read by {}", groups.join(", "))?;
    }
    Ok(())
}

fn send(arguments: &SendArguments) -> Result<()> {
    let topic = TopicName::new(&arguments.topic)?;
    let properties: Vec<(&str, &str)> = arguments
        .prop
        .iter()
        .map(|pair| pair.split_once('=').with_context(|| format!("--prop `{pair}` is not NAME=VALUE")))
        .collect::<Result<_>>()?;
    let message = |body: Vec<u8>| -> Result<Message> {
        let mut message = Message::new(&topic, body);
        if let Some(tag) = &arguments.tag {
            message = message.tag(tag)?;
        }
        if let Some(key) = &arguments.key {
            message = message.key(key)?;
        }
        properties.iter().try_fold(message, |message, (name, value)| Ok(message.property(name, value)?))
    };
    let mut input: Box<dyn BufRead> = match &arguments.file {
        Some(path) => {
            let file =
                std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            Box::new(std::io::BufReader::new(file))
        }
        None => Box::new(std::io::stdin().lock()),
    };
    let mut sent = 0_u64;
    arguments
        .network
        .run(async |client| {
            let compress_from_bytes =
                arguments.compress_from.map(|size| size.as_u64().try_into()).transpose()?;
            let settings = ProducerSettings { compress_from_bytes, ..ProducerSettings::default() };
            let producer = Producer::new(&client, settings)?;
            let bodies = std::iter::from_fn(|| next_body(&mut *input, arguments.whole).transpose());
            send_each(producer, bodies.map(|body| message(body?)), &mut sent).await
        })
        .with_context(|| format!("{} messages were sent before", count(sent)))?;
    let line = if arguments.network.json {
        json!({"topic": topic.as_str(), "sent": sent}).to_string()
    } else {
        format!("{} message{} sent to {topic}", count(sent), if sent == 1 { "" } else { "s" })
    };
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

/// Sends messages and waits for each answer; `sent` counts them.
pub(crate) async fn send_each(
    producer: Producer,
    messages: impl Iterator<Item = Result<Message>>,
    sent: &mut u64,
) -> Result<()> {
    let mut receipts = std::collections::VecDeque::new();
    for message in messages {
        receipts.push_back(producer.submit(&message?).await?);
        // Enough to fill batches; a failure is told before much more is sent.
        while receipts.len() > 4096 {
            let Some(receipt) = receipts.pop_front() else { break };
            receipt.await?;
            *sent += 1;
        }
    }
    for receipt in receipts {
        receipt.await?;
        *sent += 1;
    }
    Ok(producer.close().await?)
}

/// The next line that is not empty, or all of the input.
fn next_body(input: &mut dyn BufRead, whole: bool) -> Result<Option<Vec<u8>>> {
    loop {
        let mut body = Vec::new();
        let mut limited = Read::take(&mut *input, BODY_BYTES_MAX as u64 + 1);
        let read =
            if whole { limited.read_to_end(&mut body)? } else { limited.read_until(b'\n', &mut body)? };
        if read == 0 {
            return Ok(None);
        }
        if body.len() > BODY_BYTES_MAX {
            bail!("a message of more than {BODY_BYTES_MAX} bytes: brokers take no longer ones");
        }
        if !whole {
            let end = body.iter().rposition(|b| !matches!(b, b'\n' | b'\r')).map_or(0, |at| at + 1);
            body.truncate(end);
        }
        if !body.is_empty() {
            return Ok(Some(body));
        }
    }
}

/// A time as administrators say it: that of the first message, or after the last.
fn reset_time(text: &str) -> Result<i64, String> {
    match text {
        "earliest" => Ok(0),
        "latest" => Ok(-1),
        time => time.parse().ok().filter(|ms| *ms >= 0).ok_or_else(|| {
            format!("`{time}` is neither `earliest`, `latest`, nor a time in ms since 1970-01-01 UTC")
        }),
    }
}

pub(crate) fn group(command: GroupCommand) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match command {
        GroupCommand::Lag { group, topic, network } => {
            let topic = topic.map(|topic| TopicName::new(&topic)).transpose()?;
            let offsets = network
                .run(async |client| Ok(Admin::new(&client).group_offsets(&group, topic.as_ref()).await?))?;
            let lag: i64 = offsets.iter().map(|o| o.lag()).sum();
            if network.json {
                let queues: Vec<Value> = offsets
                    .iter()
                    .map(|o| {
                        json!({
                            "topic": o.queue.topic.as_str(), "broker": &*o.queue.broker, "queue_id": o.queue.id.get(),
                            "committed": o.committed, "next": o.max_offset, "lag": o.lag(),
                        })
                    })
                    .collect();
                writeln!(out, "{}", json!({"group": group, "lag": lag, "queues": queues}))?;
                return Ok(ExitCode::SUCCESS);
            }
            if offsets.is_empty() {
                bail!("group {group} has committed no offset");
            }
            writeln!(
                out,
                "{:24}  {:16}  {:>5}  {:>12}  {:>12}  {:>12}",
                "TOPIC", "BROKER", "QUEUE", "COMMITTED", "NEXT", "LAG"
            )?;
            for o in &offsets {
                let (topic, broker, id) = (o.queue.topic.as_str(), &o.queue.broker, o.queue.id.get());
                writeln!(
                    out,
                    "{topic:24}  {broker:16}  {id:>5}  {:>12}  {:>12}  {:>12}",
                    o.committed,
                    o.max_offset,
                    o.lag()
                )?;
            }
            writeln!(out, "{} messages behind", count(u64::try_from(lag).unwrap_or(0)))?;
        }
        GroupCommand::Reset { group, topic, to, network } => {
            let topic = TopicName::new(&topic)?;
            let offsets = network
                .run(async |client| Ok(Admin::new(&client).reset_group(&group, &topic, to).await?))?;
            if network.json {
                let queue = |(queue, offset): &(Queue, i64)| json!({"broker": &*queue.broker, "queue_id": queue.id.get(), "offset": offset});
                let queues: Vec<Value> = offsets.iter().map(queue).collect();
                writeln!(out, "{}", json!({"group": group, "topic": topic.as_str(), "queues": queues}))?;
                return Ok(ExitCode::SUCCESS);
            }
            writeln!(out, "{:16}  {:>5}  {:>12}", "BROKER", "QUEUE", "GOES ON AT")?;
            for (queue, offset) in &offsets {
                writeln!(out, "{:16}  {:>5}  {offset:>12}", queue.broker, queue.id.get())?;
            }
        }
        GroupCommand::Members { group, network } => {
            let brokers =
                network.run(async |client| Ok(Admin::new(&client).group_members(&group).await?))?;
            let mut members: BTreeMap<String, String> = BTreeMap::new();
            let mut topics: BTreeMap<String, String> = BTreeMap::new();
            for connection in brokers.values() {
                members.extend(
                    connection.connection_set.iter().map(|c| (c.client_id.clone(), c.client_addr.clone())),
                );
                topics.extend(
                    connection.subscription_table.iter().map(|(t, s)| (t.clone(), s.sub_string.clone())),
                );
            }
            if network.json {
                writeln!(out, "{}", json!({"group": group, "members": members, "subscriptions": topics}))?;
                return Ok(ExitCode::SUCCESS);
            }
            members.iter().try_for_each(|(id, addr)| writeln!(out, "{id}  {addr}"))?;
            topics
                .iter()
                .try_for_each(|(topic, expression)| writeln!(out, "subscribes to {topic}: {expression}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn message(command: MessageCommand) -> Result<ExitCode> {
    let (id, network) = match command {
        MessageCommand::Show { id, network } => (id, network),
        MessageCommand::Trace(arguments) => return crate::trace::run(&arguments),
    };
    let id: MessageId = id.parse()?;
    let record = network.run(async |client| Ok(Admin::new(&client).message(id).await?))?;
    let shown = shown(&record);
    let text = if network.json { shown.to_string() } else { serde_json::to_string_pretty(&shown)? };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(ExitCode::SUCCESS)
}

/// `sluice topic tail --namesrv`: from the first message to what is there now, or on and on.
pub(crate) fn tail(namesrv: &str, access: &AccessArguments, options: &TailOptions<'_>) -> Result<()> {
    let topic = TopicName::new(options.topic)?;
    let filter = filter_of_messages(options.filter)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    run(namesrv, access, async |client| {
        let offsets = Admin::new(&client).queue_offsets(&topic).await?;
        let start = |min: i64| Start::Offset(options.from.unwrap_or(min).max(min));
        let mut ends: BTreeMap<_, _> = offsets
            .iter()
            .filter(|o| {
                options.follow || options.from.unwrap_or(o.min_offset).max(o.min_offset) < o.max_offset
            })
            .map(|o| (o.queue.clone(), o.max_offset))
            .collect();
        let queues: Vec<_> = offsets
            .iter()
            .filter(|o| ends.contains_key(&o.queue))
            .map(|o| (o.queue.clone(), start(o.min_offset)))
            .collect();
        if queues.is_empty() {
            return Ok(());
        }
        let settings = ConsumerSettings { commit_interval: None, ..ConsumerSettings::new(TAIL_GROUP) };
        let mut consumer = Consumer::assign(&client, settings, queues, Wanted::All).await?;
        let mut left = options.limit.unwrap_or(u64::MAX);
        while left > 0 && !ends.is_empty() {
            let batch = if options.follow {
                consumer.next_batch().await?
            } else {
                let waited = tokio::time::timeout(TAIL_WAIT, consumer.next_batch()).await;
                waited.context("messages that are there did not come")??
            };
            for record in &batch.records {
                if left > 0 && filter.as_ref().is_none_or(|filter| passes(filter, &asked(record))) {
                    left -= 1;
                    writeln!(out, "{}", shown(record))?;
                }
            }
            if !options.follow && ends.get(&batch.queue).is_some_and(|end| batch.next_offset >= *end) {
                ends.remove(&batch.queue);
            }
            out.flush()?;
        }
        Ok(())
    })
}

/// Messages of a topic as they come, from now on, those for which the filter is TRUE; ends when `each` does not take
/// one. It is called with nothing now and then, so that it may say so while nothing comes.
pub(crate) fn tap(
    settings: ClientSettings,
    namesrv: &str,
    topic: &str,
    filter: Option<&str>,
    each: &mut dyn FnMut(Option<Value>) -> bool,
) -> Result<()> {
    let topic = TopicName::new(topic)?;
    let filter = filter_of_messages(filter)?;
    run_with(settings, namesrv, async |client| {
        let offsets = Admin::new(&client).queue_offsets(&topic).await?;
        let queues = offsets.iter().map(|o| (o.queue.clone(), Start::Offset(o.max_offset)));
        let settings = ConsumerSettings { commit_interval: None, ..ConsumerSettings::new(TAIL_GROUP) };
        let mut consumer = Consumer::assign(&client, settings, queues, Wanted::All).await?;
        // It is ready for what comes next.
        while each(None) {
            while let Ok(batch) = tokio::time::timeout(TAP_SIGN, consumer.next_batch()).await {
                for record in &batch?.records {
                    let passes = filter.as_ref().is_none_or(|filter| passes(filter, &asked(record)));
                    if passes && !each(Some(shown(record))) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    })
}

fn filter_of_messages(text: Option<&str>) -> Result<Option<Filter>> {
    let filter = text
        .map(|text| Filter::parse(text, Dialect::Sluice).with_context(|| format!("--where \"{text}\"")))
        .transpose()?;
    if let Some(name) = filter.iter().flat_map(Filter::names).find(|name| matches!(name, Name::Field(_))) {
        bail!("--where: `{name}` is a field of the body: ask `sluice query` for it");
    }
    Ok(filter)
}

fn asked(record: &Record) -> Asked<'_> {
    Asked {
        topic: record.topic.as_str(),
        queue_id: record.queue_id,
        queue_offset: record.queue_offset,
        store_timestamp_ms: record.store_timestamp_ms,
        born_timestamp_ms: record.born_timestamp_ms,
        properties: &record.properties,
    }
}

/// One message as JSON: the body as JSON where it is some, else as text.
fn shown(record: &Record) -> Value {
    let body: Value = serde_json::from_slice(&record.body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&record.body).into_owned()));
    let properties: serde_json::Map<String, Value> =
        record.properties().map(|(n, v)| (n.to_owned(), Value::String(v.to_owned()))).collect();
    json!({
        "queue_id": record.queue_id,
        "queue_offset": record.queue_offset,
        "store_timestamp": time_text(record.store_timestamp_ms),
        "born_timestamp": time_text(record.born_timestamp_ms),
        "message_id": record.message_id(),
        "offset_id": record.offset_id().to_string(),
        "keys": record.property("KEYS"),
        "tags": record.tag(),
        "properties": properties,
        "body": body,
    })
}

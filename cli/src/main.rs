//! The one binary `sluice`: reads arguments and the environment, prints, and sets the exit code.
//!
//! Exit codes: 0 done, 1 a config or the work failed, 2 wrong usage, 130 ended by Ctrl-C.

mod access;
mod audit;
mod bridge;
mod broker;
mod build;
mod check;
mod cluster;
mod compact;
mod connect;
mod dlq;
mod doctor;
mod filter;
mod generate;
mod load;
mod loggers;
mod network;
mod preview;
#[cfg(feature = "query")]
mod query;
mod run;
mod show;
mod steps;
mod test;
mod topic;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use mimalloc::MiMalloc;

/// For the C libraries, too. Records are made by one thread and dropped by another, and the system's allocator lets them wait
/// for each other.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const EXAMPLES: &str = "Examples:
  sluice run examples/flights.yaml               run the pipelines of a file, with the embedded broker
  sluice lint examples/flights.yaml              tell all that is wrong in it; opens nothing
  sluice check examples/flights.yaml             try connections, permissions and guarantees
  sluice test examples/flights.yaml              run the tests that it holds
  sluice preview examples/flights.yaml --rows 5  show rows, rejects, schema and files; writes nothing
  sluice topic tail flights --where \"origin = 'JFK' AND dep_delay > 60\"";

/// Stream-processing connectors with a RocketMQ-compatible store: files, topics and Parquet, filtered
/// with SQL92.
#[derive(Parser)]
#[command(name = "sluice", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Where the embedded broker keeps its topics, if not said.
const DATA_DIR: &str = "./sluice-data";

/// Where the embedded broker keeps its topics.
#[derive(clap::Args, Clone)]
struct StoreArguments {
    /// Folder of the embedded broker's store
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Run pipelines until their sources end, or until Ctrl-C
    #[command(after_help = "Examples:
  sluice run examples/flights.yaml
  sluice run a.yaml b.yaml --data-dir /var/lib/sluice --flush sync
  sluice run examples/flights.yaml --json | jq .pipelines

Ctrl-C once: what is in hand is finished and published, exit code 130. Twice: ends at once; nothing is
lost or doubled by that either, the next run goes on where this one was.")]
    Run(run::RunArguments),
    /// Run pipelines apart from the broker, their tasks shared with other workers
    #[command(after_help = "Examples:
  sluice connect lake.yaml --cluster ns1:9876
  sluice connect lake.yaml                       the source says `cluster: \"ns1:9876;ns2:9876\"`
  kill -HUP PID                                  reads the files again: what changed begins anew, the rest goes on
  sluice connect --cluster ns1:9876 --rest 127.0.0.1:8083 --pipelines ./pipelines
                                                 pipelines come and go by Kafka Connect's REST API; page at /ui
  sluice connect lake.yaml --rest 0.0.0.0:8083 --rest-token '${SLUICE_TOKEN}'

Start it on as many machines as you like: the workers of a pipeline are members of its consumer group (see
`sluice group members`), and each takes its share of the topic's queues. One that is killed or hangs loses its
tasks to the others within its lease; one that comes back too late is fenced by the plans in the target, and
doubles nothing. SIGTERM: what is in hand is published, then it leaves the group, exit code 0. What is told a worker
by --rest holds for that worker: one that pauses a pipeline leaves its tasks to the others.")]
    Connect(connect::ConnectArguments),
    /// Check pipeline files without opening anything
    #[command(after_help = "Example:
  sluice lint examples/*.yaml

Each problem is one line `FILE:LINE:COLUMN: KEY: what is wrong`; exit code 1 if there is any.")]
    Lint {
        /// Pipeline files (YAML)
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Print one JSON document instead of lines
        #[arg(long)]
        json: bool,
    },
    /// Try what pipelines need: connections, permissions, schemas, and what their targets guarantee; stores no row
    #[command(after_help = "Examples:
  sluice check examples/flights.yaml
  sluice check lake.yaml --cluster ns1:9876      as `sluice connect` would run it

A file target is written to and read back below its folder `_sluice`, and asked to give one name twice: it must
refuse the second time. Exit code 1 if anything does not hold.")]
    Check(check::CheckArguments),
    /// Prove that each source offset has one fate in a target of files, from its plans and footers alone
    #[command(after_help = "Examples:
  sluice audit ./lake/late_flights
  AWS_REGION=eu-central-1 sluice audit s3://lake/late_flights --json

Prints the numbers of each chain, and each gap, overlap, missing file and difference; exit code 1 if there is
any. An object store takes its settings from the standard variables AWS_*.")]
    Audit(audit::AuditArguments),
    /// Merge the small published Parquet files of a folder
    #[command(after_help = "Example:
  sluice compact ./lake/late_flights --allow-reader-gap

Goes on where an earlier one was ended; the pipelines may run meanwhile, and `sluice audit` still proves every
offset. Only plans that are done are touched, and not the last of each chain.")]
    Compact(compact::CompactArguments),
    /// Show what a pipeline would do with its first rows; writes nothing
    #[command(after_help = "Example:
  sluice preview examples/flights.yaml --pipeline load-flights --rows 3")]
    Preview(preview::PreviewArguments),
    /// Run the `tests` that pipeline files hold: given messages, expected rows; opens nothing
    #[command(after_help = "Examples:
  sluice test examples/*.yaml
  sluice test examples/steps.yaml --pipeline delays --json

A test is `{name, given: [{properties, body, keys, tags, store_timestamp}], expect: [{column: value}],
expect_rejects: [part of the reason]}`. Columns that are not named are not compared; `$name` is an envelope column,
`$route` and `$properties` too. Exit code 1 if anything differs.")]
    Test(test::TestArguments),
    /// Serve RocketMQ's clients: a broker with its name server, on loopback unless told otherwise
    #[command(after_help = "Examples:
  sluice broker                                   clients use the name server 127.0.0.1:9876
  sluice broker --data-dir /var/lib/sluice --flush sync
  sluice broker --listen 0.0.0.0:10911 --acl plain_acl.yml --tls-certificate cert.pem --tls-key key.pem
  sluice broker --listen 0.0.0.0:10911 --allow-anonymous --advertise broker.example.org:10911
  sluice broker --namesrv 'ns1:9876;ns2:9876'     joins name servers elsewhere
  sluice broker --config broker.yaml              each flag is a key of the file: data_dir, listen, flush, …

Where other machines reach it, it wants accounts (--acl) or TLS, or to be told that everybody may do everything. The
files of both are read again when they change, and by SIGHUP; one that is not right changes nothing. Who changed
topics, groups and offsets, and who was denied, stands in topic SLUICE_AUDIT.

SIGTERM or Ctrl-C once: it leaves its name servers, closes its store, and ends with exit code 0.")]
    Broker(Box<broker::BrokerArguments>),
    /// Serve as a name server alone
    #[command(after_help = "Example:
  sluice namesrv --listen 0.0.0.0:9876 --acl plain_acl.yml")]
    Namesrv(Box<broker::NameServerArguments>),
    /// Look at topics: of the embedded broker, also beside a running `sluice run`, or of brokers on the network
    #[command(
        subcommand,
        after_help = "Examples:
  sluice topic list
  sluice topic tail flights --limit 3 --where \"origin = 'JFK' AND dep_delay > 60\"
  sluice topic stats flights
  sluice topic list --namesrv broker:9876
  sluice topic tail orders --namesrv broker:9876 --follow --where \"region = 'EU'\"
  sluice topic send orders --namesrv broker:9876 --file orders.ndjson"
    )]
    Topic(topic::TopicCommand),
    /// Show the brokers that name servers know, and what each tells of itself
    #[command(after_help = "Examples:
  sluice cluster --namesrv broker:9876
  sluice cluster --namesrv broker:9876 --json | jq '.brokers[].status.brokerVersionDesc'

Exit code 1 if one of them does not answer.")]
    Cluster(cluster::ClusterArguments),
    /// Look at consumer groups of brokers on the network, and set where they go on
    #[command(
        subcommand,
        after_help = "Examples:
  sluice group lag billing --namesrv broker:9876
  sluice group reset billing --topic orders --to latest --namesrv broker:9876"
    )]
    Group(network::GroupCommand),
    /// List dead letters with their cause, and send them back where they come from
    #[command(
        subcommand,
        after_help = "Examples:
  sluice dlq list late-flights-dlq
  sluice dlq replay --group billing --namesrv broker:9876 --where \"region = 'EU'\" --dry-run"
    )]
    Dlq(dlq::DlqCommand),
    /// Move between Kafka and RocketMQ or Sluice: compare both sides, and translate where consumer groups stand
    #[command(
        subcommand,
        after_help = "Examples:
  sluice bridge verify --between kafka:127.0.0.1:9092/orders --and rocketmq:127.0.0.1:9876/orders
  sluice bridge offsets --group billing --from kafka:127.0.0.1:9092/orders --to rocketmq:127.0.0.1:9876/orders"
    )]
    Bridge(bridge::BridgeCommand),
    /// Look at single messages of brokers on the network
    #[command(
        subcommand,
        after_help = "Examples:
  sluice message show 7F00000100002A9F0000000000000000
  sluice message trace 7F000001000118B4AAC27E3A1B5C0000 --target ./lake/orders"
    )]
    Message(network::MessageCommand),
    /// Explain an expression, or try it on properties and on files of cases
    #[command(
        subcommand,
        after_help = "Examples:
  sluice filter explain \"origin = 'JFK' AND dep_delay > 60\"
  sluice filter test \"dep_delay > 15\" --props dep_delay=20"
    )]
    Filter(filter::FilterCommand),
    /// Look at this machine, and say what to change before a broker or a worker runs here for long
    #[command(after_help = "Examples:
  sluice doctor
  sluice doctor --data-dir /var/lib/sluice --listen 0.0.0.0:10911 --advertise broker.example.org:10911

Looks at limits, memory, clock, disk, ports and addresses; leaves nothing behind. Exit code 1 if something would
keep a broker from running here.")]
    Doctor(doctor::DoctorArguments),
    /// Print what a shell reads to complete the words of this command line
    #[command(after_help = "Examples:
  sluice completions bash > /etc/bash_completion.d/sluice
  sluice completions zsh > ~/.zfunc/_sluice
  sluice completions fish > ~/.config/fish/completions/sluice.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages of all commands into a folder
    #[command(after_help = "Example:
  sluice man /usr/local/share/man/man1")]
    Man {
        /// Made if it is not there
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Ask SQL of topics, of pipelines and of files, or serve it to clients of Arrow Flight SQL
    #[cfg(feature = "query")]
    #[command(after_help = "Examples:
  sluice query \"select origin, count(*) from flights group by origin\"
  sluice query \"select _queue_offset, carrier from flights where dep_delay > 300\"
  sluice query \"select origin, avg(dep_delay) from './lake/late_flights/' group by origin\"
  sluice query --pipelines lake.yaml 'select count(*) from \"late-flights\"'
  sluice query --serve 127.0.0.1:8815 --pipelines lake.yaml
  sluice query --serve 0.0.0.0:8815 --token '${file:/run/secrets/token}' --memory 4GiB
  sluice query --serve 0.0.0.0:8815 --token '${QUERY_TOKEN}' --tls-certificate cert.pem --tls-key key.pem

A topic's columns are the fields of its JSON bodies, typed by inference, and the envelope as _topic,
_queue_id, _queue_offset, _store_timestamp, _born_timestamp, _message_id, _keys, _tags, _properties.
A pipeline's table is what it has published and, through its steps, what the topic has beyond: each row once.
A topic and a pipeline of one name are topics.NAME and pipelines.NAME. With --serve ADBC, pyarrow and JDBC connect
to grpc://HOST:PORT. Both read beside a running broker or `sluice run`, and take no lock.")]
    Query(query::QueryArguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    loggers::start();
    let result = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Connect(arguments) => connect::run(&arguments),
        Command::Lint { files, json } => load::lint(&files, json),
        Command::Check(arguments) => check::run(&arguments),
        Command::Audit(arguments) => audit::run(&arguments),
        Command::Compact(arguments) => compact::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Preview(arguments) => preview::preview(&arguments),
        Command::Broker(arguments) => broker::broker(*arguments),
        Command::Namesrv(arguments) => broker::name_server(*arguments),
        Command::Topic(command) => topic::run(command),
        Command::Cluster(arguments) => cluster::run(&arguments),
        Command::Group(command) => network::group(command),
        Command::Dlq(command) => dlq::run(command),
        Command::Bridge(command) => bridge::run(&command),
        Command::Message(command) => network::message(command),
        Command::Filter(command) => filter::run(command),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Completions { shell } => generate::completions(shell, Arguments::command()),
        Command::Man { folder } => generate::man(&folder, Arguments::command()),
        #[cfg(feature = "query")]
        Command::Query(arguments) => query::run(&arguments),
    };
    match result {
        Ok(code) => code,
        // The reader of our output has seen enough.
        Err(error) if is_closed_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice: {}", show::causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// Whether an error is that nobody reads our output any more.
fn is_closed_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |e| e.source()).any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// Milliseconds since 1970-01-01 UTC, by this machine's clock.
#[expect(clippy::disallowed_methods, reason = "the edge where time comes in")]
fn clock() -> Arc<dyn Fn() -> i64 + Send + Sync> {
    Arc::new(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
    })
}

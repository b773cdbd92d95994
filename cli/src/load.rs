//! Reads pipeline files and other settings; `sluice lint`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use serde::de::DeserializeOwned;
use sluice_connect::config::{
    self, Decode, Delivery, Document, Format, Parsed, Problem, Step, Then, tree::Node, tree::Place,
    tree::Value, vars,
};
use sluice_formats::protobuf::Protobuf;
use sluice_sinks::SinkConfig;
use sluice_sources::SourceConfig;
use sluice_sources::source::BY_A_TOPIC;

use crate::build::Apart;

/// A document with the settings of our sources and sinks.
pub(crate) type Pipeline = Document<SourceConfig, SinkConfig>;
/// The same, with its text and places.
pub(crate) type ParsedPipeline = Parsed<SourceConfig, SinkConfig>;

/// The JSON Schema of a pipeline's document.
pub(crate) fn schema() -> serde_json::Value {
    schemars::generate::SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<Pipeline>()
        .to_value()
}

/// Reads all documents of one text, with the environment's variables.
pub(crate) fn parse(text: &str) -> Result<Vec<ParsedPipeline>, Vec<Problem>> {
    let parsed: Vec<ParsedPipeline> = config::parse(text, &lookup())?;
    let problems: Vec<Problem> = parsed.iter().flat_map(problems).collect();
    if problems.is_empty() { Ok(parsed) } else { Err(problems) }
}

/// Reads a file of settings by the rules of pipeline files.
pub(crate) fn settings<T: DeserializeOwned>(file: &Path) -> Result<(T, Node), Vec<Problem>> {
    config::parse_settings(&read_text(file)?, &lookup())
}

/// The environment's variables, and files.
fn lookup() -> impl Fn(&str) -> Result<String, String> {
    #[expect(clippy::disallowed_methods, reason = "cli is where the environment comes in")]
    let env = |name: &str| std::env::var(name).ok();
    vars::lookup(env, |path| std::fs::read_to_string(path))
}

/// What is wrong between a document's parts, as far as it shows without opening anything.
fn problems(parsed: &ParsedPipeline) -> Vec<Problem> {
    let Pipeline { source, sink, delivery, errors, .. } = &parsed.document;
    let mut found: Vec<Problem> =
        source.problems().into_iter().map(|(path, m)| at(parsed, "source", &path, m)).collect();
    let properties = source.properties();
    let in_sink = sink.problems(&parsed.document, parsed.output().as_deref(), properties.as_deref());
    found.extend(in_sink.into_iter().map(|(path, m)| at(parsed, "sink", &path, m)));
    if let Some(properties) = &properties {
        found.extend(parsed.unknown_properties(properties));
    }
    found.extend(open_secrets(parsed));
    let decode = parsed.document.decode.as_ref();
    found.extend(decode.and_then(|decode| descriptors(parsed, decode)));
    found.extend(crate::steps::problems(parsed));
    if let Some(read) = source.topic() {
        let loops = |topic: Option<(Option<&str>, &str)>| topic == Some(read);
        let message = "the pipeline would read what it writes, for ever: name another topic";
        if loops(sink.topic()) {
            found.push(parsed.problem(&["sink", "topic", "name"], message));
        }
        if loops(errors.dead_letter.as_deref().map(|name| (None, name))) {
            found.push(parsed.problem(&["errors", "dead_letter"], message));
        }
    }
    if let (SourceConfig::Kafka(read), SinkConfig::Kafka(written)) = (source, sink)
        && read.reads(&written.bootstrap, &written.topic)
    {
        let message = "the pipeline would read what it writes, for ever: name another topic";
        found.push(parsed.problem(&["sink", "kafka", "topic"], message));
    }
    if let (SourceConfig::Postgres(read), SinkConfig::Postgres(written)) = (source, sink)
        && read.table_at().is_some_and(|table| written.table_at() == Some(table))
    {
        let message = "the pipeline would read what it writes, for ever: name another table";
        found.push(parsed.problem(&["sink", "postgres", "table"], message));
    }
    found.extend(of_queue(parsed));
    if source.begins_at_end() && !sink.keeps_positions() && !sink.is_for_looking() {
        let message = "this sink keeps no positions, so each start, also that of a retry, would begin at the end of what is there \
                       then, and rows between would be lost: begin at the beginning, or write to a topic, and read that one";
        found.push(parsed.problem(&["source"], message));
    }
    if *delivery == Delivery::ExactlyOnce && source.comes_once().is_none() && !sink.keeps_positions() {
        let message = match sink.topic() {
            Some(_) => {
                "RocketMQ's protocol has no act that stores messages and a position together, so rows may come twice after a failure: write `delivery: at_least_once`"
            }
            None if matches!(sink, SinkConfig::Zeromq(_)) => {
                "ZeroMQ acknowledges nothing: messages may be lost on their way, and come twice after a failure: write `delivery: at_least_once`"
            }
            None if matches!(sink, SinkConfig::Http(_)) => {
                "a request that has no answer is sent again, so rows may come twice after a failure: write `delivery: at_least_once`; `Idempotency-Key` tells the receiver which rows a request has"
            }
            None => "this sink keeps no positions: write `delivery: at_least_once`",
        };
        found.push(parsed.problem(&["sink"], message));
    }
    found
}

/// What a queue whose messages have no offsets can not give.
fn of_queue(parsed: &ParsedPipeline) -> Vec<Problem> {
    let Pipeline { source, steps, delivery, .. } = &parsed.document;
    let mut found = Vec::new();
    if *delivery == Delivery::ExactlyOnce
        && let Some(message) = source.comes_once()
    {
        let key = if parsed.tree.find(&["delivery"]).is_some() { "delivery" } else { "source" };
        found.push(parsed.problem(&[key], message));
    }
    let Some(reason) = source.no_way_back() else { return found };
    for (at, step) in steps.iter().enumerate() {
        if matches!(step, Step::Dedupe(_)) {
            let message = format!(
                "reads again, after each start, the rows before its position, and {reason}: {BY_A_TOPIC}"
            );
            found.push(parsed.problem(&["steps", &format!("[{at}]"), "dedupe"], message));
        }
    }
    found
}

/// What is wrong with a Protobuf descriptor set: like a file of `${file:…}` it is a part of the config.
fn descriptors(parsed: &ParsedPipeline, decode: &Decode) -> Option<Problem> {
    let Format::Protobuf(format) = &decode.format else { return None };
    let bytes = match crate::build::descriptors(&format.descriptors) {
        Ok(bytes) => bytes,
        Err(error) => {
            let path = ["decode", "format", "protobuf", "descriptors"];
            return Some(parsed.problem(&path, crate::show::causes(&error)));
        }
    };
    let error = Protobuf::new(&bytes, &format.message, format.prefix.is_some()).err()?;
    Some(parsed.problem(&["decode", "format", "protobuf", "message"], error.to_string()))
}

/// Secrets that stand in the file: its text is kept in the target.
fn open_secrets(parsed: &ParsedPipeline) -> Vec<Problem> {
    let of_sink = parsed.document.sink.secrets();
    let of_sink = of_sink.into_iter().map(|path| std::iter::once("sink").chain(path).collect());
    let of_source = parsed.document.source.secrets();
    let of_source = of_source.into_iter().map(|path| std::iter::once("source").chain(path).collect());
    let of_registry = vec!["decode", "format", "avro", "registry", "password"];
    let is_open = |path: &Vec<&str>| parsed.tree.find(path).is_some_and(|node| !node.secret);
    let told = "the text of this file is kept in the target: write it as ${VAR}";
    let keys = of_source.chain(of_sink).chain([of_registry]).filter(is_open);
    keys.map(|path| parsed.problem(&path, told)).collect()
}

fn at(parsed: &ParsedPipeline, root: &str, path: &[String], message: String) -> Problem {
    let full: Vec<&str> = std::iter::once(root).chain(path.iter().map(String::as_str)).collect();
    parsed.problem(&full, message)
}

/// All pipelines of all files, or every problem in them, each a line `FILE:LINE:COLUMN: …`.
pub(crate) fn load(files: &[PathBuf]) -> Result<Vec<ParsedPipeline>> {
    let (pipelines, problems) = read(files);
    if problems.is_empty() {
        return Ok(pipelines.into_iter().map(|(_, pipeline)| pipeline).collect());
    }
    Err(not_right(&problems))
}

/// The same for pipelines that run apart from the embedded broker: their sources are topics of clusters, of this one if
/// they name none.
pub(crate) fn load_apart(files: &[PathBuf], cluster: Option<&str>) -> Result<Vec<ParsedPipeline>> {
    let found = load_apart_with(files, Vec::new(), cluster)?;
    Ok(found.into_iter().map(|(_, pipeline)| pipeline).collect())
}

/// The same, with texts of other files that were read already, and with the file of each.
pub(crate) fn load_apart_with(
    files: &[PathBuf],
    texts: Vec<(PathBuf, String)>,
    cluster: Option<&str>,
) -> Result<Found<ParsedPipeline>> {
    let read_here = files.iter().map(|file| (file.clone(), read_text(file)));
    let (mut pipelines, mut problems) =
        read_all(read_here.chain(texts.into_iter().map(|(file, text)| (file, Ok(text)))));
    let apart = Apart { cluster: cluster.map(str::to_owned) };
    let mut groups: Vec<(String, String)> = Vec::new();
    for (file, parsed) in &mut pipelines {
        apart.complete(parsed);
        problems.extend(apart_problems(parsed, &groups).into_iter().map(|problem| (file.clone(), problem)));
        groups.extend(group(parsed));
    }
    if problems.is_empty() { Ok(pipelines) } else { Err(not_right(&problems)) }
}

/// One document that is to run apart beside others.
pub(crate) fn one_apart(
    text: &str,
    cluster: Option<&str>,
    others: &[&ParsedPipeline],
) -> Result<ParsedPipeline, Vec<Problem>> {
    let mut all = parse(text)?.into_iter();
    let (Some(mut parsed), None) = (all.next(), all.next()) else {
        let place = Place { line: 1, column: 1 };
        let message = "more than one document: a pipeline is one".to_owned();
        return Err(vec![Problem { place, path: String::new(), message }]);
    };
    Apart { cluster: cluster.map(str::to_owned) }.complete(&mut parsed);
    let groups: Vec<(String, String)> = others.iter().filter_map(|other| group(other)).collect();
    let problems = apart_problems(&parsed, &groups);
    if problems.is_empty() { Ok(parsed) } else { Err(problems) }
}

/// A setting of the command line with the values of its variables.
pub(crate) fn expand(text: &str) -> Result<String> {
    let place = Place { line: 1, column: 1 };
    let mut node = Node { place, value: Value::Text(text.to_owned()), secret: false };
    let mut problems = Vec::new();
    vars::expand(&mut node, &lookup(), &mut problems);
    match (node.value, problems.first()) {
        (Value::Text(text), None) => Ok(text),
        (_, problem) => Err(anyhow!("{}", problem.map_or("no text", |problem| problem.message.as_str()))),
    }
}

/// The cluster and the group whose members share a pipeline's tasks.
fn group(parsed: &ParsedPipeline) -> Option<(String, String)> {
    let (cluster, group) = match &parsed.document.source {
        SourceConfig::Topic(config) => (config.cluster.clone()?, &config.group),
        SourceConfig::Kafka(config) => (config.bootstrap.clone(), &config.group),
        _ => return None,
    };
    Some((cluster, group.as_deref().unwrap_or(parsed.document.name.as_str()).to_owned()))
}

/// Sources that `sluice connect` runs.
pub(crate) const APART: [&str; 3] = ["topic", "kafka", "file"];

/// What only `sluice run` can do.
fn apart_problems(parsed: &ParsedPipeline, groups: &[(String, String)]) -> Vec<Problem> {
    let Pipeline { source, sink, .. } = &parsed.document;
    let mut found = Vec::new();
    let (cluster, key) = match source {
        SourceConfig::Topic(config) => (config.cluster.as_deref(), "topic"),
        SourceConfig::Kafka(_) => (None, "kafka"),
        // Its files are this machine's, so there is nothing to share.
        SourceConfig::File(_) => (None, "file"),
        _ => {
            let told = "workers share the queues of a topic, and this source has none: `sluice run` runs it";
            return vec![parsed.problem(&["source"], told)];
        }
    };
    match cluster {
        None if key != "topic" => {}
        None => found.push(parsed.problem(
            &["source", "topic"],
            "`sluice connect` runs apart from the embedded broker: name the topic's `cluster: HOST:PORT`, or give --cluster HOST:PORT",
        )),
        Some(cluster) => {
            if let Err(error) = sluice_client::ClientSettings::new(cluster).check() {
                found.push(parsed.problem(&["source", "topic"], error.to_string()));
            }
        }
    }
    if let Some((None, _)) = sink.topic() {
        found.push(parsed.problem(
            &["sink", "topic"],
            "`sluice connect` runs apart from the embedded broker: name the topic's `cluster: HOST:PORT`, with `delivery: at_least_once`",
        ));
    }
    if key == "file" && parsed.document.errors.then == Then::DeadLetter {
        let told = "dead letters go to a topic of the cluster that is read, and files have none: write `then: skip` or \
                    `stop`, or let `sluice run` run it";
        found.push(parsed.problem(&["errors", "then"], told));
    }
    if let Some(own) = group(parsed)
        && groups.contains(&own)
    {
        let told = format!(
            "group `{}` is another pipeline's: each needs one of its own, whose members share its tasks",
            own.1
        );
        found.push(parsed.problem(&["source", key, "group"], told));
    }
    found
}

/// The error that holds every problem, each on a line.
pub(crate) fn not_right(problems: &[(PathBuf, Problem)]) -> anyhow::Error {
    let lines: Vec<String> = problems.iter().map(|(file, p)| format!("{}:{p}", file.display())).collect();
    anyhow!("the config is not right\n{}", lines.join("\n"))
}

/// What was found in some files, each with its file.
pub(crate) type Found<T> = Vec<(PathBuf, T)>;

fn read(files: &[PathBuf]) -> (Found<ParsedPipeline>, Found<Problem>) {
    read_all(files.iter().map(|file| (file.clone(), read_text(file))))
}

fn read_all(
    files: impl Iterator<Item = (PathBuf, Result<String, Vec<Problem>>)>,
) -> (Found<ParsedPipeline>, Found<Problem>) {
    let (mut pipelines, mut problems): (Found<ParsedPipeline>, Found<Problem>) = (Vec::new(), Vec::new());
    for (file, text) in files {
        let parsed = text.and_then(|text| parse(&text));
        match parsed {
            Err(found) => problems.extend(found.into_iter().map(|p| (file.clone(), p))),
            Ok(parsed) => {
                for one in parsed {
                    if pipelines.iter().any(|(_, other)| other.document.name == one.document.name) {
                        let message = format!(
                            "pipeline `{}` stands in another file of this run too",
                            one.document.name
                        );
                        problems.push((file.clone(), one.problem(&["name"], message)));
                    }
                    pipelines.push((file.clone(), one));
                }
            }
        }
    }
    (pipelines, problems)
}

/// Where expressions mean something else to RocketMQ's own filter: the languages look alike.
fn differences(pipelines: &[(PathBuf, ParsedPipeline)]) -> Found<Problem> {
    let of_one = |(file, one): &(PathBuf, ParsedPipeline)| -> Found<Problem> {
        one.differences().into_iter().map(|note| (file.clone(), note)).collect()
    };
    pipelines.iter().flat_map(of_one).collect()
}

fn read_text(file: &Path) -> Result<String, Vec<Problem>> {
    std::fs::read_to_string(file).map_err(|error| {
        let place = Place { line: 1, column: 1 };
        vec![Problem { place, path: String::new(), message: format!("cannot read the file: {error}") }]
    })
}

fn told_json(p: &Problem) -> serde_json::Value {
    serde_json::json!({"line": p.place.line, "column": p.place.column, "key": p.path, "message": p.message})
}

/// `sluice lint --json` of a text that is to run apart.
pub(crate) fn lint_apart(text: &str, cluster: Option<&str>) -> serde_json::Value {
    let (problems, notes) = match one_apart(text, cluster, &[]) {
        Ok(parsed) => (Vec::new(), parsed.differences()),
        Err(problems) => (problems, Vec::new()),
    };
    let list = |found: &[Problem]| found.iter().map(told_json).collect::<Vec<_>>();
    serde_json::json!({"pipelines": 1, "problems": list(&problems), "notes": list(&notes)})
}

/// `sluice lint`.
pub(crate) fn lint(files: &[PathBuf], json: bool) -> Result<ExitCode> {
    let (pipelines, problems) = read(files);
    // Told only of what is right in itself.
    let told = if problems.is_empty() { differences(&pipelines) } else { Vec::new() };
    let mut out = std::io::stdout().lock();
    if json {
        let list = |problems: &[(PathBuf, Problem)]| -> Vec<serde_json::Value> {
            let one = |(file, p): &(PathBuf, Problem)| {
                let mut told = told_json(p);
                told["file"] = serde_json::json!(file);
                told
            };
            problems.iter().map(one).collect()
        };
        let (problems, notes) = (list(&problems), list(&told));
        let document =
            serde_json::json!({"pipelines": pipelines.len(), "problems": problems, "notes": notes});
        writeln!(out, "{document}")?;
    } else {
        for (file, problem) in &problems {
            writeln!(out, "{}:{problem}", file.display())?;
        }
        for (file, note) in &told {
            writeln!(out, "note: {}:{note}", file.display())?;
        }
        let (p, n) = (pipelines.len(), problems.len());
        match n {
            0 => writeln!(out, "ok: {p} pipeline{} in {} file{}", s(p), files.len(), s(files.len()))?,
            _ => eprintln!("{n} problem{}", s(n)),
        }
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn s(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

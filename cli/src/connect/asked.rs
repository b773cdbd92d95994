//! What the management API asks of a worker, and what the worker tells of its pipelines.

use std::sync::Arc;

use sluice_connect::config::tree::{Node, Value};
use sluice_connect::task;
use sluice_service::{
    Class, Command, Condition, Fault, Kind, Origin, Outcome, Pipeline as Shown, Reply, State, Version, Wanted,
};

use super::documents::Put;
use super::{Pipeline, Worker};
use crate::load::{self, ParsedPipeline};
use crate::show::causes;

impl Pipeline {
    fn state(&self) -> State {
        match (self.stop.is_some(), self.wanted) {
            (true, _) if self.again => State::Restarting,
            (_, Wanted::Paused) => State::Paused,
            (_, Wanted::Stopped) => State::Stopped,
            (true, Wanted::Running) => State::Running,
            (false, Wanted::Running) if self.error.is_some() => State::Failed,
            // Its source has ended.
            (false, Wanted::Running) => State::Stopped,
        }
    }

    fn shown(&self) -> Shown {
        Shown {
            name: self.parsed.document.name.to_string(),
            text: self.parsed.text.clone(),
            origin: self.origin.clone(),
            kind: kind(&self.parsed),
            state: self.state(),
            error: self.error.clone(),
            tasks: self.assignment.running(),
            reading: self.progress.reading(),
            topics: topics(&self.parsed),
        }
    }
}

/// The text at a path of a document, unless it came from a variable.
fn text<'a>(root: &'a Node, path: &[&str]) -> Option<&'a str> {
    match root.find(path) {
        Some(Node { value: Value::Text(text), secret: false, .. }) => Some(text),
        _ => None,
    }
}

/// Sources of which Connect's tools say that the topic is there and the connector is the sink.
pub(super) const TOPICS: [&str; 2] = ["topic", "kafka"];

/// What a pipeline is to tools of Connect: its sink, if it reads a topic.
fn kind(parsed: &ParsedPipeline) -> Kind {
    let key = |half: &str| match parsed.tree.find(&[half]).map(|node| &node.value) {
        Some(Value::Map(pairs)) => pairs.first().map_or("", |(_, key, _)| key.as_str()),
        Some(Value::Text(name)) => name.as_str(),
        _ => "",
    };
    let is_source = !TOPICS.contains(&key("source"));
    Kind { is_source, class: key(if is_source { "source" } else { "sink" }).to_owned() }
}

fn topics(parsed: &ParsedPipeline) -> Vec<String> {
    let paths: [&[&str]; 5] = [
        &["source", "topic", "name"],
        &["source", "kafka", "topic"],
        &["sink", "topic", "name"],
        &["sink", "kafka", "topic"],
        &["errors", "dead_letter"],
    ];
    let mut found: Vec<String> =
        paths.iter().filter_map(|path| text(&parsed.tree, path)).map(str::to_owned).collect();
    if let Some(Node { value: Value::Seq(items), .. }) = parsed.tree.find(&["source", "kafka", "topics"]) {
        found.extend(items.iter().filter_map(|item| text(item, &[])).map(str::to_owned));
    }
    found.sort();
    found.dedup();
    found
}

/// Who must act, in the words of the API.
pub(super) fn class(class: task::Class) -> Class {
    match class {
        task::Class::Retry => Class::Retry,
        task::Class::Record => Class::Record,
        task::Class::Config => Class::Config,
        task::Class::Fatal => Class::Fatal,
    }
}

fn unknown(name: &str) -> Fault {
    Fault::unknown(format!("Connector {name} not found"))
}

fn failed(error: &anyhow::Error) -> Fault {
    Fault::new(500, causes(error))
}

/// Answers; who asked may be gone.
fn tell<T>(reply: Reply<T>, answer: Result<T, Fault>) {
    let _ = reply.send(answer);
}

impl Worker {
    /// Answers one command.
    pub(super) fn answer(&mut self, command: Command) {
        match command {
            Command::List { reply } => {
                let shown = self.pipelines.values().filter(|one| !one.gone).map(Pipeline::shown).collect();
                tell(reply, Ok(shown));
            }
            Command::Get { name, reply } => tell(reply, self.known(&name).map(Pipeline::shown)),
            Command::Put { name, text, condition, wanted, reply } => {
                tell(reply, self.put(&name, &text, &condition, wanted));
            }
            Command::Delete { name, condition, reply } => tell(reply, self.delete(&name, &condition)),
            Command::Want { name, wanted, reply } => tell(reply, self.want(&name, wanted)),
            Command::Restart { name, only_failed, reply } => tell(reply, self.restart(&name, only_failed)),
            Command::Versions { name, reply } => tell(reply, self.versions(&name)),
        }
    }

    fn known(&self, name: &str) -> Result<&Pipeline, Fault> {
        self.pipelines.get(name).filter(|one| !one.gone).ok_or_else(|| unknown(name))
    }

    fn known_mut(&mut self, name: &str) -> Result<&mut Pipeline, Fault> {
        self.pipelines.get_mut(name).filter(|one| !one.gone).ok_or_else(|| unknown(name))
    }

    /// Whether the document may be replaced or deleted by the API.
    fn may_change(&self, name: &str, condition: &Condition) -> Result<(), Fault> {
        let standing = self.known(name).ok();
        let holds = match (condition, standing) {
            (Condition::Always, _) | (Condition::Absent, None) | (Condition::Present, Some(_)) => true,
            (Condition::Tags(tags), Some(one)) => tags.contains(&one.shown().tag()),
            _ => false,
        };
        if !holds {
            let told = match standing {
                Some(one) => format!("pipeline {name} is another one: its tag is {}", one.shown().tag()),
                None => format!("there is no pipeline {name}"),
            };
            return Err(Fault::new(412, told));
        }
        match standing.map(|one| &one.origin) {
            Some(Origin::File(file)) => Err(Fault::conflict(format!(
                "pipeline {name} stands in {}: change it there, and send the worker SIGHUP",
                file.display()
            ))),
            _ => Ok(()),
        }
    }

    fn put(
        &mut self,
        name: &str,
        text: &str,
        condition: &Condition,
        wanted: Wanted,
    ) -> Result<Outcome, Fault> {
        self.may_change(name, condition)?;
        let others: Vec<&ParsedPipeline> = self
            .pipelines
            .iter()
            .filter(|(other, one)| other.as_str() != name && !one.gone)
            .map(|(_, one)| one.parsed.as_ref())
            .collect();
        let parsed = load::one_apart(text, self.cluster.as_deref(), &others).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Fault::bad(format!(
                "Connector configuration is invalid and contains the following {} error(s):\n{}\nYou can also find \
                 the above list of errors at the endpoint `/connector-plugins/{{connectorType}}/config/validate`",
                lines.len(),
                lines.join("\n")
            ))
        })?;
        if parsed.document.name.as_str() != name {
            return Err(Fault::bad(format!(
                "Connector name configuration ({}) doesn't match connector name in the URL ({name})",
                parsed.document.name
            )));
        }
        let Some(documents) = &self.documents else {
            return Err(Fault::conflict(
                "this worker keeps no pipelines: start it with --pipelines DIR, or write a file and send it SIGHUP",
            ));
        };
        let standing = self.known(name).ok();
        let created = standing.is_none();
        let version = match standing.map(|one| &one.origin) {
            Some(Origin::Kept(version)) => version + 1,
            _ => documents.newest(name).map_err(|error| failed(&error))? + 1,
        };
        if created {
            // Before the document, so that a new one never runs that shall not.
            documents.want(name, wanted).map_err(|error| failed(&error))?;
        }
        match documents.put(name, version, Some(text)).map_err(|error| failed(&error))? {
            Put::Done => {}
            Put::Taken => {
                return Err(Fault::conflict(format!(
                    "another writer has put version {version} of pipeline {name}: send the worker SIGHUP to read it"
                )));
            }
        }
        let wanted = if created { Some(wanted) } else { None };
        self.place(parsed, Origin::Kept(version), wanted);
        Ok(Outcome { pipeline: self.known(name)?.shown(), created })
    }

    fn delete(&mut self, name: &str, condition: &Condition) -> Result<(), Fault> {
        self.known(name)?;
        self.may_change(name, condition)?;
        if let (Some(documents), Origin::Kept(version)) = (&self.documents, &self.known(name)?.origin) {
            let put = documents.put(name, version + 1, None).map_err(|error| failed(&error))?;
            if matches!(put, Put::Taken) {
                return Err(Fault::conflict(format!("another writer has changed pipeline {name}")));
            }
            documents.want(name, Wanted::Running).map_err(|error| failed(&error))?;
        }
        self.forget(name);
        Ok(())
    }

    fn want(&mut self, name: &str, wanted: Wanted) -> Result<(), Fault> {
        let before = self.known(name)?.wanted;
        if before != wanted
            && let Some(documents) = &self.documents
        {
            documents.want(name, wanted).map_err(|error| failed(&error))?;
        }
        let one = self.known_mut(name)?;
        one.wanted = wanted;
        match (wanted, &one.stop) {
            (Wanted::Paused | Wanted::Stopped, Some(stop)) => {
                one.again = false;
                stop.ask();
            }
            // Its end was asked for, and is on its way.
            (Wanted::Running, Some(_)) if before != Wanted::Running => one.again = true,
            (Wanted::Running, None) => self.begin_or_tell(name),
            _ => {}
        }
        Ok(())
    }

    fn restart(&mut self, name: &str, only_failed: bool) -> Result<Shown, Fault> {
        let one = self.known_mut(name)?;
        let has_failed = one.state() == State::Failed;
        if one.wanted == Wanted::Running && (has_failed || !only_failed) {
            match &one.stop {
                Some(stop) => {
                    one.again = true;
                    stop.ask();
                }
                None => self.begin_or_tell(name),
            }
        }
        Ok(self.known(name)?.shown())
    }

    fn versions(&self, name: &str) -> Result<Vec<Version>, Fault> {
        let one = self.known(name)?;
        match (&one.origin, &self.documents) {
            (Origin::Kept(_), Some(documents)) => documents.versions(name).map_err(|error| failed(&error)),
            _ => Ok(vec![Version { version: 1, text: Some(one.parsed.text.clone()) }]),
        }
    }

    /// Puts a document in place of the one of its name, and begins it as soon as the one before has ended.
    pub(super) fn place(&mut self, parsed: ParsedPipeline, origin: Origin, wanted: Option<Wanted>) {
        let name = parsed.document.name.to_string();
        let parsed = Arc::new(parsed);
        match self.pipelines.get_mut(&name) {
            None => {
                let one = Pipeline::new(parsed, origin, wanted.unwrap_or_default());
                self.pipelines.insert(name.clone(), one);
            }
            Some(one) => {
                (one.parsed, one.origin, one.gone) = (parsed, origin, false);
                one.wanted = wanted.unwrap_or(one.wanted);
                if let Some(stop) = &one.stop {
                    one.again = one.wanted == Wanted::Running;
                    return stop.ask();
                }
            }
        }
        if self.pipelines.get(&name).is_some_and(|one| one.wanted == Wanted::Running) {
            self.begin_or_tell(&name);
        }
    }

    /// Ends a pipeline, and forgets it then.
    pub(super) fn forget(&mut self, name: &str) {
        let Some(one) = self.pipelines.get_mut(name) else { return };
        match &one.stop {
            Some(stop) => {
                (one.gone, one.again) = (true, false);
                stop.ask();
            }
            None => {
                self.pipelines.remove(name);
                self.counts.remove(name);
            }
        }
    }
}

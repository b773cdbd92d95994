//! What the command line does with one document each, for the management API: the same functions, answers in JSON.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sluice_client::{Access, ClientSettings};
use sluice_service::{About, Fault, Kind, Tools};
use sluice_sinks::place;
use sluice_sources::SourceConfig;
use sluice_store::file::RealDisk;

use super::asked::TOPICS;
use crate::load::{self, ParsedPipeline};
use crate::show::causes;
use crate::{audit, check, dlq, filter, loggers, network, preview, test};

/// What the API tells of this program.
pub(super) fn about(cluster: Option<&str>, addr: SocketAddr) -> Result<About> {
    let document = crate::load::schema();
    let names = |half: &str| -> Vec<String> {
        let named = document.pointer(&format!("/$defs/{half}/oneOf")).and_then(Value::as_array);
        let one = |variant: &Value| -> Option<String> {
            let properties = variant.get("properties")?.as_object()?;
            properties.keys().next().cloned()
        };
        named.into_iter().flatten().filter_map(one).collect()
    };
    // Others are for `sluice run`; of topics the sink is the connector.
    let runs = |name: &String| load::APART.contains(&name.as_str()) && !TOPICS.contains(&name.as_str());
    let sources = names("SourceConfig").into_iter().filter(runs);
    let kind = |is_source| move |class| Kind { is_source, class };
    let mut kinds: Vec<Kind> = names("SinkConfig").into_iter().map(kind(false)).collect();
    kinds.extend(sources.map(kind(true)));
    Ok(About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        worker: addr.to_string(),
        cluster: cluster.map(str::to_owned),
        document,
        kinds,
    })
}

/// The functions behind the commands.
pub(super) fn tools(cluster: Option<&str>) -> Tools {
    let cluster = cluster.map(str::to_owned);
    let of_read = cluster.clone();
    let read = move |text: &str| -> Result<ParsedPipeline, Fault> {
        load::one_apart(text, of_read.as_deref(), &[]).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Fault::bad(format!("the config is not right\n{}", lines.join("\n")))
        })
    };
    let read = Arc::new(read);
    let (in_check, in_test, in_preview, in_audit, in_dead, in_tap) =
        (read.clone(), read.clone(), read.clone(), read.clone(), read.clone(), read);
    Tools {
        lint: Box::new(move |text: String| Ok(load::lint_apart(&text, cluster.as_deref()))),
        check: Box::new(move |text: String| Ok(check::check_apart(in_check(&text)?))),
        test: Box::new(move |text: String| {
            let outcomes = test::outcomes(&in_test(&text)?);
            Ok(json!({"ok": outcomes.iter().all(|outcome| outcome.ok), "tests": outcomes}))
        }),
        preview: Box::new(move |(text, rows)| {
            preview::preview_apart(&in_preview(&text)?, rows).map_err(|error| failed(&error))
        }),
        audit: Box::new(move |text: String| audited(&in_audit(&text)?)),
        dead_letters: Box::new(move |(text, filter, limit)| {
            dead_letters(&in_dead(&text)?, filter.as_deref(), limit)
        }),
        explain: Box::new(|(expression, dialect)| {
            filter::explain_json(&expression, &dialect).map_err(|error| Fault::bad(causes(&error)))
        }),
        tap: Box::new(move |(text, filter, limit), each| {
            let parsed = in_tap(&text)?;
            let (namesrv, settings, topic) = topic_of(&parsed)?;
            let mut left = limit;
            let mut take = |message: Option<Value>| match message {
                None => each(Value::Null),
                Some(message) => {
                    left -= 1;
                    each(message) && left > 0
                }
            };
            network::tap(settings, &namesrv, topic, filter.as_deref(), &mut take)
                .map_err(|error| failed(&error))
        }),
        loggers: Box::new(|set| {
            if let Some((name, level)) = set {
                loggers::set(&name, &level).map_err(|error| Fault::unknown(causes(&error)))?;
            }
            Ok(loggers::levels())
        }),
    }
}

fn failed(error: &anyhow::Error) -> Fault {
    Fault::bad(causes(error))
}

/// Whether each offset has one fate in the document's target.
fn audited(parsed: &ParsedPipeline) -> Result<Value, Fault> {
    let sink = &parsed.document.sink;
    let Some(location) = sink.location() else {
        return Err(Fault::new(
            501,
            "the target has no plans to prove anything from: it is no folder, bucket or table",
        ));
    };
    let found = (|| -> Result<Value> {
        let place =
            place::open(location, sink.store(), Arc::new(RealDisk)).context("cannot open the target")?;
        Ok(audit::json(&sluice_sinks::audit::audit(place.as_ref())?))
    })();
    found.map_err(|error| failed(&error))
}

/// The topic of RocketMQ's protocol that a document reads, and the way to it.
fn topic_of(parsed: &ParsedPipeline) -> Result<(String, ClientSettings, &str), Fault> {
    let SourceConfig::Topic(config) = &parsed.document.source else {
        return Err(Fault::new(
            501,
            "messages of this source can not be shown yet: only those of `source.topic`",
        ));
    };
    let namesrv = config.cluster.clone().unwrap_or_default();
    let access: Access = config.access.clone();
    let settings = ClientSettings { access, ..ClientSettings::new(&namesrv) };
    Ok((namesrv, settings, &config.name))
}

fn dead_letters(parsed: &ParsedPipeline, filter: Option<&str>, limit: u64) -> Result<Value, Fault> {
    let Some(topic) = &parsed.document.errors.dead_letter else {
        return Err(Fault::unknown("the pipeline has no dead letters: see `errors: {then: dead_letter}`"));
    };
    let (namesrv, settings, _) = topic_of(parsed)?;
    let found = dlq::of_cluster(settings, &namesrv, topic, filter, limit).map_err(|error| failed(&error))?;
    Ok(json!({"topic": topic, "dead_letters": found}))
}

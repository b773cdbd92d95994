//! Kafka Connect's paths: connectors, their tasks, offsets and topics, loggers, health.

use std::collections::BTreeMap;

use axum::extract::State;
use hyper::StatusCode;
use hyper::header::{ETAG, HeaderMap, HeaderValue, LOCATION};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json as object};

use crate::api::{Api, Route};
use crate::command::{Command, Condition, Outcome, Pipeline, State as Doing, Wanted};
use crate::fault::Fault;
use crate::flat::{self, CLASS, Flat};
use crate::shapes::{ConnectorInfo, ConnectorStateInfo, CreateConnector, ServerInfo, TaskInfo, TaskState};
use crate::take::{Answer, In, Json, Query, condition, empty, json};
use crate::{Service, Shared};

type Of = State<Shared>;

/// The paths of this module.
pub(crate) fn routes(api: &mut Api) {
    api.on(Route::get("/", "The worker's version.").gives::<ServerInfo>(200), root);
    api.on(Route::get("/health", "Whether the worker answers.").gives::<Health>(200), health);
    api.on(
        Route::get("/connectors", "Names of all pipelines, or more of each.")
            .query("expand", "string", "`info` or `status`, may stand twice")
            .gives::<Listed>(200),
        list,
    );
    api.on(
        Route::post("/connectors", "Makes a pipeline.")
            .takes::<CreateConnector>()
            .gives::<ConnectorInfo>(201),
        create,
    );
    api.on(Route::get("/connectors/{name}", "A pipeline.").gives::<ConnectorInfo>(200), get);
    api.on(
        Route::delete("/connectors/{name}", "Ends a pipeline; what it wrote stays.").gives_nothing(204),
        delete,
    );
    api.on(
        Route::get("/connectors/{name}/config", "Its settings, variables not expanded.").gives::<Flat>(200),
        config,
    );
    api.on(
        Route::put("/connectors/{name}/config", "Makes a pipeline (201) or replaces its settings (200).")
            .takes::<Map<String, Value>>()
            .gives::<ConnectorInfo>(200)
            .gives::<ConnectorInfo>(201),
        put_config,
    );
    api.on(
        Route::patch("/connectors/{name}/config", "Changes some settings; `null` takes one away.")
            .takes::<Map<String, Value>>()
            .gives::<ConnectorInfo>(200),
        patch_config,
    );
    api.on(Route::get("/connectors/{name}/status", "What it does.").gives::<ConnectorStateInfo>(200), status);
    api.on(
        Route::get("/connectors/{name}/tasks", "Its tasks: the queues that are read here.")
            .gives::<Vec<TaskInfo>>(200),
        tasks,
    );
    api.on(
        Route::get("/connectors/{name}/tasks/{task}/status", "What a task does.").gives::<TaskState>(200),
        task_status,
    );
    api.on(
        Route::post("/connectors/{name}/tasks/{task}/restart", "Begins the pipeline anew.")
            .gives_nothing(204),
        restart_task,
    );
    api.on(
        Route::post("/connectors/{name}/restart", "Begins it anew.")
            .query("includeTasks", "boolean", "tasks begin anew with their pipeline, always")
            .query("onlyFailed", "boolean", "only if it has failed")
            .gives::<ConnectorStateInfo>(202)
            .gives_nothing(204),
        restart,
    );
    api.on(Route::put("/connectors/{name}/pause", "Rests, until it is resumed.").gives_nothing(202), pause);
    api.on(Route::put("/connectors/{name}/resume", "Goes on.").gives_nothing(202), resume);
    api.on(Route::put("/connectors/{name}/stop", "Rests, without tasks.").gives_nothing(204), stop);
    api.on(
        Route::get("/connectors/{name}/offsets", "Where its chains stand in the target.")
            .gives::<Offsets>(200),
        offsets,
    );
    api.on(
        Route::patch("/connectors/{name}/offsets", "Refused: see the answer.")
            .takes::<Value>()
            .gives::<Value>(200),
        alter_offsets,
    );
    api.on(
        Route::delete("/connectors/{name}/offsets", "Refused: see the answer.").gives::<Value>(200),
        reset_offsets,
    );
    api.on(
        Route::get("/connectors/{name}/topics", "The topics that it reads and writes.")
            .gives::<BTreeMap<String, Topics>>(200),
        topics,
    );
    api.on(
        Route::put("/connectors/{name}/topics/reset", "Does nothing: topics are those of its settings.")
            .gives_nothing(202),
        reset_topics,
    );
    api.on(Route::get("/admin/loggers", "Log levels.").gives::<BTreeMap<String, Level>>(200), loggers);
    api.on(Route::get("/admin/loggers/{logger}", "The level of a logger.").gives::<Level>(200), logger);
    api.on(
        Route::put("/admin/loggers/{logger}", "Sets the level of a logger.")
            .takes::<SetLevel>()
            .gives::<Vec<String>>(200),
        set_logger,
    );
}

#[derive(Serialize, JsonSchema)]
struct Health {
    status: &'static str,
    message: &'static str,
}

/// Names, or more of each by its name.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Listed {
    Names(Vec<String>),
    Expanded(Map<String, Value>),
}

#[derive(Serialize, JsonSchema)]
struct Topics {
    topics: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct Offsets {
    offsets: Vec<Value>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Level {
    level: String,
    last_modified: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
struct SetLevel {
    level: String,
}

async fn root(State(service): Of) -> Answer {
    let about = &service.about;
    json(
        200,
        &ServerInfo {
            version: about.version.clone(),
            commit: "sluice".to_owned(),
            kafka_cluster_id: about.cluster.clone().unwrap_or_default(),
        },
    )
}

async fn health(State(service): Of) -> Answer {
    service.list().await?;
    json(
        200,
        &Health {
            status: "healthy",
            message: "Worker has completed startup and is ready to handle requests.",
        },
    )
}

impl Service {
    pub(crate) async fn list(&self) -> Result<Vec<Pipeline>, Fault> {
        self.ask(|reply| Command::List { reply }).await
    }

    pub(crate) async fn get(&self, name: &str) -> Result<Pipeline, Fault> {
        self.ask(|reply| Command::Get { name: name.to_owned(), reply }).await
    }

    pub(crate) async fn put(
        &self,
        name: &str,
        text: String,
        condition: Condition,
        wanted: Wanted,
    ) -> Result<Outcome, Fault> {
        self.ask(|reply| Command::Put { name: name.to_owned(), text, condition, wanted, reply }).await
    }

    async fn want(&self, name: String, wanted: Wanted) -> Answer {
        self.ask(|reply| Command::Want { name, wanted, reply }).await?;
        // As Connect does: it has another status for this one.
        empty(if wanted == Wanted::Stopped { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED })
    }
}

async fn list(State(service): Of, query: Query) -> Answer {
    let all = service.list().await?;
    let (mut info, mut status) = (false, false);
    for what in query.all("expand") {
        match what {
            "info" => info = true,
            "status" => status = true,
            // As Connect does: what it does not know says nothing.
            _ => {}
        }
    }
    if query.text("expand").is_none() {
        return json(200, &Listed::Names(all.into_iter().map(|pipeline| pipeline.name).collect()));
    }
    let mut expanded = Map::new();
    for pipeline in &all {
        let mut one = Map::new();
        if info {
            one.insert("info".to_owned(), value(&pipeline.info()?)?);
        }
        if status {
            one.insert("status".to_owned(), value(&pipeline.status(&service.about.worker))?);
        }
        expanded.insert(pipeline.name.clone(), Value::Object(one));
    }
    json(200, &Listed::Expanded(expanded))
}

fn value(of: &impl Serialize) -> Result<Value, Fault> {
    serde_json::to_value(of).map_err(|error| Fault::new(500, error.to_string()))
}

/// The settings that a tool sent, as text.
pub(crate) fn texts(config: Map<String, Value>) -> Result<Flat, Fault> {
    let one = |(key, value): (String, Value)| match value {
        Value::String(text) => Ok(Some((key, text))),
        // Connect's own way with them.
        Value::Number(_) | Value::Bool(_) => Ok(Some((key, value.to_string()))),
        Value::Null => Ok(None),
        Value::Array(_) | Value::Object(_) => Err(Fault::bad(format!(
            "{key}: expected text: a list or a mapping is written as YAML in a text, such as \"[a, b]\""
        ))),
    };
    config.into_iter().map(one).filter_map(Result::transpose).collect()
}

/// The document of settings, of the name in the path.
fn document(name: &str, mut config: Flat) -> Result<String, Fault> {
    match config.get("name") {
        Some(other) if other != name => {
            return Err(Fault::bad(format!(
                "Connector name configuration ({other}) doesn't match connector name in the URL ({name})"
            )));
        }
        _ => config.insert("name".to_owned(), name.to_owned()),
    };
    flat::document(&config).map_err(Fault::bad)
}

/// Whether the kind that a tool named is the pipeline's.
fn check_class(class: Option<&String>, pipeline: &str) -> Result<(), Fault> {
    let Some(class) = class else { return Ok(()) };
    let flat = flat::flatten(pipeline).map_err(Fault::bad)?;
    let prefixes = [format!("sink.{class}"), format!("source.{class}")];
    let names = |prefix: &String| {
        flat.keys()
            .any(|key| key == prefix || key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.')))
    };
    if prefixes.iter().any(names) {
        return Ok(());
    }
    Err(Fault::bad(format!(
        "{CLASS}: {class} is neither the sink nor the source of these settings: they have no key `sink.{class}.…`"
    )))
}

impl Service {
    /// Puts settings as a document.
    async fn put_flat(
        &self,
        name: &str,
        config: Flat,
        condition: Condition,
        wanted: Wanted,
    ) -> Result<Outcome, Fault> {
        let class = config.get(CLASS).cloned();
        let text = document(name, config)?;
        check_class(class.as_ref(), &text)?;
        self.put(name, text, condition, wanted).await
    }
}

/// The answer to a put, with where it stands and its tag.
fn put_answer(outcome: &Outcome) -> Answer {
    let pipeline = &outcome.pipeline;
    let mut response = json(if outcome.created { 201 } else { 200 }, &pipeline.info()?)?;
    if let (true, Ok(at)) = (outcome.created, HeaderValue::try_from(format!("/connectors/{}", pipeline.name)))
    {
        response.headers_mut().insert(LOCATION, at);
    }
    if let Ok(tag) = HeaderValue::try_from(pipeline.tag()) {
        response.headers_mut().insert(ETAG, tag);
    }
    Ok(response)
}

async fn create(State(service): Of, Json(asked): Json<CreateConnector>) -> Answer {
    let config = texts(asked.config)?;
    if asked.initial_offsets.is_some() {
        return Err(Fault::bad(MOVED));
    }
    let name = asked.name.or_else(|| config.get("name").cloned());
    let name = name.ok_or_else(|| Fault::bad("`name` is missing"))?;
    let wanted = asked.initial_state.unwrap_or_default();
    let outcome = service.put_flat(&name, config, Condition::Absent, wanted).await;
    put_answer(&outcome.map_err(|fault| match fault.status {
        412 => Fault::conflict(format!("Connector {name} already exists")),
        _ => fault,
    })?)
}

async fn get(State(service): Of, In(name): In<String>) -> Answer {
    json(200, &service.get(&name).await?.info()?)
}

async fn delete(State(service): Of, In(name): In<String>, headers: HeaderMap) -> Answer {
    let condition = condition(&headers)?;
    service.ask(|reply| Command::Delete { name, condition, reply }).await?;
    empty(StatusCode::NO_CONTENT)
}

async fn config(State(service): Of, In(name): In<String>) -> Answer {
    let pipeline = service.get(&name).await?;
    let mut response = json(200, &pipeline.config()?)?;
    if let Ok(tag) = HeaderValue::try_from(pipeline.tag()) {
        response.headers_mut().insert(ETAG, tag);
    }
    Ok(response)
}

async fn put_config(
    State(service): Of,
    In(name): In<String>,
    headers: HeaderMap,
    Json(config): Json<Map<String, Value>>,
) -> Answer {
    let condition = condition(&headers)?;
    put_answer(&service.put_flat(&name, texts(config)?, condition, Wanted::Running).await?)
}

async fn patch_config(
    State(service): Of,
    In(name): In<String>,
    headers: HeaderMap,
    Json(changes): Json<Map<String, Value>>,
) -> Answer {
    let pipeline = service.get(&name).await?;
    let mut config = pipeline.config()?;
    let removed: Vec<String> =
        changes.iter().filter(|(_, value)| value.is_null()).map(|(key, _)| key.clone()).collect();
    config.extend(texts(changes)?);
    config.retain(|key, _| !removed.contains(key));
    // What was read must still stand when it is written.
    let condition = condition(&headers)?;
    let asked = condition != Condition::Always;
    let condition = if asked { condition } else { Condition::Tags(vec![pipeline.tag()]) };
    let outcome = service.put_flat(&name, config, condition, Wanted::Running).await;
    put_answer(&outcome.map_err(|fault| match fault.status {
        412 if !asked => {
            Fault::conflict(format!("{name} was changed by another request meanwhile: send it again"))
        }
        _ => fault,
    })?)
}

async fn status(State(service): Of, In(name): In<String>) -> Answer {
    let pipeline = service.get(&name).await.map_err(|fault| match fault.status {
        404 => Fault::unknown(format!("No status found for connector {name}")),
        _ => fault,
    })?;
    json(200, &pipeline.status(&service.about.worker))
}

async fn tasks(State(service): Of, In(name): In<String>) -> Answer {
    let pipeline = service.get(&name).await?;
    let config = pipeline.config()?;
    let infos = pipeline.task_ids().into_iter().map(|id| TaskInfo { id, config: config.clone() });
    json(200, &infos.collect::<Vec<_>>())
}

async fn task_status(State(service): Of, In((name, task)): In<(String, usize)>) -> Answer {
    let unknown = || Fault::unknown(format!("No status found for task {name}-{task}"));
    let pipeline =
        service.get(&name).await.map_err(|fault| if fault.status == 404 { unknown() } else { fault })?;
    json(200, &pipeline.task_state(task, &service.about.worker).ok_or_else(unknown)?)
}

async fn restart_task(State(service): Of, In((name, task)): In<(String, usize)>) -> Answer {
    let pipeline = service.get(&name).await?;
    if pipeline.task_state(task, "").is_none() {
        return Err(Fault::unknown(format!("Unknown task: {name}-{task}")));
    }
    service.ask(|reply| Command::Restart { name, only_failed: false, reply }).await?;
    empty(StatusCode::NO_CONTENT)
}

async fn restart(State(service): Of, In(name): In<String>, query: Query) -> Answer {
    let (with_tasks, only_failed) = (query.flag("includeTasks", false)?, query.flag("onlyFailed", false)?);
    let pipeline = service.ask(|reply| Command::Restart { name, only_failed, reply }).await?;
    if with_tasks || only_failed {
        return json(202, &pipeline.status(&service.about.worker));
    }
    empty(StatusCode::NO_CONTENT)
}

async fn pause(State(service): Of, In(name): In<String>) -> Answer {
    service.want(name, Wanted::Paused).await
}

async fn resume(State(service): Of, In(name): In<String>) -> Answer {
    service.want(name, Wanted::Running).await
}

async fn stop(State(service): Of, In(name): In<String>) -> Answer {
    service.want(name, Wanted::Stopped).await
}

/// Why offsets are not moved.
const MOVED: &str = "offsets can not be set: a pipeline's position is the chain of plans in its target, written with \
                     the rows and never moved, so that no row is lost or doubled. To read again from elsewhere, make \
                     a pipeline of another name, with `source.topic.start` and another target";

async fn offsets(State(service): Of, In(name): In<String>) -> Answer {
    let pipeline = service.get(&name).await?;
    // A target that keeps no plans tells no chains.
    let audit = match service.work(|tools| &tools.audit, pipeline.text).await {
        Ok(audit) => audit,
        Err(fault) if fault.status == 501 => return json(200, &Offsets { offsets: Vec::new() }),
        Err(fault) => return Err(fault),
    };
    let none = Vec::new();
    let chains = audit["chains"].as_array().unwrap_or(&none);
    let of_it = chains.iter().filter(|chain| chain["pipeline"] == name.as_str());
    let offsets = of_it.map(|chain| {
        let topic = chain["topic"].as_str().unwrap_or("");
        let (topic, broker) = topic.split_once('@').unwrap_or((topic, ""));
        object!({
            "partition": {"kafka_topic": topic, "kafka_partition": chain["queue"], "broker": broker},
            "offset": {"kafka_offset": chain["end"]},
        })
    });
    json(200, &Offsets { offsets: offsets.collect() })
}

async fn alter_offsets(State(service): Of, In(name): In<String>, Json(_): Json<Value>) -> Answer {
    reset_offsets(State(service), In(name)).await
}

async fn reset_offsets(State(service): Of, In(name): In<String>) -> Answer {
    let pipeline = service.get(&name).await?;
    if pipeline.state != Doing::Stopped {
        return Err(Fault::bad(
            "Connectors must be in the STOPPED state before their offsets can be modified. This can be done for the \
             specified connector by issuing a 'PUT' request to the '/connectors/{name}/stop' endpoint",
        ));
    }
    Err(Fault::bad(MOVED))
}

async fn topics(State(service): Of, In(name): In<String>) -> Answer {
    let pipeline = service.get(&name).await?;
    json(200, &BTreeMap::from([(name, Topics { topics: pipeline.topics })]))
}

async fn reset_topics(State(service): Of, In(name): In<String>) -> Answer {
    service.get(&name).await?;
    empty(StatusCode::ACCEPTED)
}

async fn loggers(State(service): Of) -> Answer {
    json(200, &service.work(|tools| &tools.loggers, None).await?)
}

async fn logger(State(service): Of, In(name): In<String>) -> Answer {
    let all = service.work(|tools| &tools.loggers, None).await?;
    match all.get(&name) {
        Some(level) => json(200, level),
        None => Err(Fault::unknown(format!("Logger {name} not found."))),
    }
}

async fn set_logger(State(service): Of, In(name): In<String>, Json(set): Json<SetLevel>) -> Answer {
    service.work(|tools| &tools.loggers, Some((name.clone(), set.level))).await?;
    json(200, &[name])
}

//! The native paths below `/v1`: documents as they are written, with tags and versions, and what the command line does
//! with them; the page, and the document of all paths.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{ETAG, HeaderMap, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use crate::api::{Api, Route};
use crate::command::{Command, Condition, Outcome, Pipeline, Version, Wanted};
use crate::fault::Fault;
use crate::shapes::Told;
use crate::take::{Answer, In, Json, Query, Text, condition, empty, json};
use crate::{Service, Shared};

type Of = State<Shared>;

/// Rows of a preview, dead letters of an answer and messages of a tap, at most.
const ROWS_MAX: u64 = 10_000;

/// How often a tap asks whether its reader has taken something.
const READER_AGAIN: Duration = Duration::from_millis(10);

pub(crate) fn routes(api: &mut Api) {
    let tool = |path, what| Route::post(path, what).takes_yaml().gives::<Value>(200);
    api.on(
        tool("/v1/pipelines:lint", "Every problem of documents, with line and column; opens nothing."),
        lint,
    );
    api.on(tool("/v1/pipelines:check", "Connections, permissions and guarantees; stores no row."), check);
    api.on(tool("/v1/pipelines:test", "Runs the tests that the document holds."), test);
    api.on(
        tool("/v1/pipelines:preview", "Its first rows, rejects, schema and files; writes nothing.").query(
            "rows",
            "integer",
            "how many, 10 if not said",
        ),
        preview,
    );
    api.on(Route::get("/v1/pipelines", "All pipelines.").gives::<Vec<Summary>>(200), list);
    api.on(
        Route::get("/v1/pipelines/{name}", "Its document as written, variables not expanded.")
            .gives_text(200, "application/yaml"),
        get,
    );
    api.on(
        Route::put("/v1/pipelines/{name}", "Makes a pipeline (201) or replaces its document (200); `If-Match` and `If-None-Match: *` are kept.")
            .takes_yaml()
            .gives::<Summary>(200)
            .gives::<Summary>(201),
        put,
    );
    api.on(
        Route::delete("/v1/pipelines/{name}", "Ends a pipeline; what it wrote stays.").gives_nothing(204),
        delete,
    );
    api.on(
        Route::get("/v1/pipelines/{name}/versions", "The documents that it had.").gives::<Vec<Version>>(200),
        versions,
    );
    api.on(
        Route::post("/v1/pipelines/{name}/rollback", "Puts an earlier document again.")
            .query("version", "integer", "its number; the one before this if not said")
            .gives::<Summary>(200),
        rollback,
    );
    api.on(
        Route::get("/v1/pipelines/{name}/tap", "Messages of its source as they come, as server-sent events.")
            .query("where", "string", "only those for which this expression is TRUE")
            .query("limit", "integer", "ends after so many")
            .gives_text(200, "text/event-stream"),
        tap,
    );
    api.on(
        Route::get("/v1/pipelines/{name}/dead-letters", "Its dead letters with their cause.")
            .query("where", "string", "only those for which this expression is TRUE")
            .query("limit", "integer", "at most so many, 100 if not said")
            .gives::<Value>(200),
        dead_letters,
    );
    api.on(
        Route::get("/v1/pipelines/{name}/audit", "Whether each offset has one fate in its target.")
            .gives::<Value>(200),
        audit,
    );
    api.on(
        Route::post("/v1/filters:explain", "How an expression is read.")
            .takes::<Explain>()
            .gives::<Value>(200),
        explain,
    );
    api.on(Route::get("/openapi.json", "This document.").gives::<Value>(200), openapi);
    api.on(Route::get("/ui", "A page that shows all this.").gives_text(200, "text/html"), page);
}

/// One pipeline in short.
#[derive(Serialize, JsonSchema)]
struct Summary {
    name: String,
    state: crate::State,
    tag: String,
    sluice: Told,
}

impl Summary {
    fn of(pipeline: &Pipeline) -> Self {
        Self {
            name: pipeline.name.clone(),
            state: pipeline.state,
            tag: pipeline.tag(),
            sluice: pipeline.told(),
        }
    }
}

#[derive(Deserialize, JsonSchema)]
struct Explain {
    expression: String,
    /// `sluice` if not said, or `rocketmq`.
    dialect: Option<String>,
}

async fn lint(State(service): Of, Text(text): Text) -> Answer {
    json(200, &service.work(|tools| &tools.lint, text).await?)
}

async fn check(State(service): Of, Text(text): Text) -> Answer {
    json(200, &service.work(|tools| &tools.check, text).await?)
}

async fn test(State(service): Of, Text(text): Text) -> Answer {
    json(200, &service.work(|tools| &tools.test, text).await?)
}

async fn preview(State(service): Of, query: Query, Text(text): Text) -> Answer {
    let rows = usize::try_from(query.number("rows", 10, ROWS_MAX)?).unwrap_or(usize::MAX);
    json(200, &service.work(|tools| &tools.preview, (text, rows)).await?)
}

async fn list(State(service): Of) -> Answer {
    let all = service.list().await?;
    json(200, &all.iter().map(Summary::of).collect::<Vec<_>>())
}

fn tagged(mut response: Response, pipeline: &Pipeline) -> Response {
    if let Ok(tag) = HeaderValue::try_from(pipeline.tag()) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

async fn get(State(service): Of, In(name): In<String>) -> Answer {
    let pipeline = service.get(&name).await?;
    let response = ([(CONTENT_TYPE, "application/yaml")], pipeline.text.clone()).into_response();
    Ok(tagged(response, &pipeline))
}

fn put_answer(outcome: &Outcome) -> Answer {
    let status = if outcome.created { 201 } else { 200 };
    Ok(tagged(json(status, &Summary::of(&outcome.pipeline))?, &outcome.pipeline))
}

async fn put(State(service): Of, In(name): In<String>, headers: HeaderMap, Text(text): Text) -> Answer {
    put_answer(&service.put(&name, text, condition(&headers)?, Wanted::Running).await?)
}

async fn delete(State(service): Of, In(name): In<String>, headers: HeaderMap) -> Answer {
    let condition = condition(&headers)?;
    service.ask(|reply| Command::Delete { name, condition, reply }).await?;
    empty(StatusCode::NO_CONTENT)
}

impl Service {
    async fn versions(&self, name: &str) -> Result<Vec<Version>, Fault> {
        self.ask(|reply| Command::Versions { name: name.to_owned(), reply }).await
    }
}

async fn versions(State(service): Of, In(name): In<String>) -> Answer {
    json(200, &service.versions(&name).await?)
}

async fn rollback(State(service): Of, In(name): In<String>, query: Query) -> Answer {
    let all = service.versions(&name).await?;
    let now = all.last().map_or(0, |version| version.version);
    let wanted = query.number("version", now.saturating_sub(1).max(1), u64::MAX)?;
    let found = all.iter().find(|version| version.version == wanted);
    let text = found.and_then(|version| version.text.clone());
    let text =
        text.ok_or_else(|| Fault::unknown(format!("pipeline {name} has no document of version {wanted}")))?;
    let condition = Condition::Tags(vec![format!("\"{now}\"")]);
    put_answer(&service.put(&name, text, condition, Wanted::Running).await?)
}

async fn dead_letters(State(service): Of, In(name): In<String>, query: Query) -> Answer {
    let pipeline = service.get(&name).await?;
    let given =
        (pipeline.text, query.text("where").map(str::to_owned), query.number("limit", 100, ROWS_MAX)?);
    json(200, &service.work(|tools| &tools.dead_letters, given).await?)
}

async fn audit(State(service): Of, In(name): In<String>) -> Answer {
    let pipeline = service.get(&name).await?;
    json(200, &service.work(|tools| &tools.audit, pipeline.text).await?)
}

async fn explain(State(service): Of, Json(asked): Json<Explain>) -> Answer {
    let given = (asked.expression, asked.dialect.unwrap_or_else(|| "sluice".to_owned()));
    json(200, &service.work(|tools| &tools.explain, given).await?)
}

async fn tap(State(service): Of, In(name): In<String>, query: Query) -> Answer {
    let pipeline = service.get(&name).await?;
    let room = std::sync::Arc::clone(&service.taps).try_acquire_owned();
    let room =
        room.map_err(|_| Fault::new(503, format!("{} taps are open, and no more are", crate::TAPS_MAX)))?;
    let limit = query.number("limit", u64::MAX, u64::MAX)?;
    let given = (pipeline.text, query.text("where").map(str::to_owned), limit);
    // What the reader does not take holds the tap up, and nothing else.
    let (send, mut events) = tokio::sync::mpsc::channel::<String>(64);
    let tools = std::sync::Arc::clone(&service.tools);
    tokio::task::spawn_blocking(move || {
        let event = |kind: &str, value: &Value| format!("event: {kind}\ndata: {value}\n\n");
        let mut tell = |value: Value| match value {
            // Nothing came: is the reader still there?
            Value::Null => give(&send, ": nothing\n\n".to_owned()),
            value => give(&send, event("message", &value)),
        };
        let ended = match (tools.tap)(given, &mut tell) {
            Ok(()) => event("end", &Value::Object(serde_json::Map::new())),
            Err(fault) => {
                event("error", &serde_json::json!({"error_code": fault.status, "message": fault.message}))
            }
        };
        give(&send, ended);
        drop(room);
    });
    let events = futures::stream::poll_fn(move |context| {
        events.poll_recv(context).map(|text| text.map(Ok::<_, Infallible>))
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(events)).into_response())
}

/// Gives an event to its reader; `false` if that one is gone. Waits without a runtime, for the tool has one of its own.
fn give(send: &Sender<String>, mut event: String) -> bool {
    loop {
        match send.try_send(event) {
            Ok(()) => return true,
            Err(TrySendError::Closed(_)) => return false,
            Err(TrySendError::Full(refused)) => event = refused,
        }
        std::thread::sleep(READER_AGAIN);
    }
}

async fn openapi(State(service): Of) -> Answer {
    json(200, &service.document.get())
}

/// The page and its script are one file, so nothing of another origin is ever loaded.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

async fn page() -> Response {
    let headers = [(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_SECURITY_POLICY, POLICY)];
    (headers, include_str!("page.html")).into_response()
}

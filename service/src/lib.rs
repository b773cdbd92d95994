//! The management API of a worker: Kafka Connect's paths and bodies, so that tools made for Connect work, and the native
//! one below `/v1`; the document that describes both, and the server that they and `/metrics` are served by.
//!
//! Knows no connector and runs no pipeline. What a pipeline is asked or told goes as a [`Command`] to whoever owns them;
//! what the command line does with a document (lint, check, preview, …) is handed in as [`Tools`].

mod api;
mod command;
mod connectors;
mod fault;
pub mod flat;
mod guard;
mod native;
mod plugins;
mod server;
mod shapes;
mod take;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::response::{IntoResponse, Response};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::Value;
use tokio::sync::Semaphore;

pub use command::{
    Class, Command, Condition, Kind, Origin, Outcome, Pipeline, Reply, State, Version, Wanted,
};
pub use fault::Fault;
pub use guard::{Guard, Token, check_open};
pub use server::{Error, serve};

/// The text that `/metrics` serves, as it is now.
pub type Render = Arc<dyn Fn() -> String + Send + Sync>;
/// Where commands go; `false` if nobody takes them any more.
pub type Commands = Arc<dyn Fn(Command) -> bool + Send + Sync>;
/// Work on a thread that may block.
pub type Work<A> = Box<dyn Fn(A) -> Result<Value, Fault> + Send + Sync>;
/// Work that goes on until its reader is gone: it gives JSON documents, and ends when one is not taken.
pub type Stream<A> = Box<dyn Fn(A, &mut dyn FnMut(Value) -> bool) -> Result<(), Fault> + Send + Sync>;

/// Tools at work at a time; others wait.
const WORK_MAX: usize = 4;
/// Live taps at a time.
const TAPS_MAX: usize = 8;

/// What the command line does, for one document each.
pub struct Tools {
    /// Every problem of documents.
    pub lint: Work<String>,
    /// Connections, permissions and guarantees of a document.
    pub check: Work<String>,
    /// A document's own tests.
    pub test: Work<String>,
    /// Its first rows: the document, and how many.
    pub preview: Work<(String, usize)>,
    /// Whether each offset has one fate in its target.
    pub audit: Work<String>,
    /// Its dead letters: the document, an expression, and how many at most.
    pub dead_letters: Work<(String, Option<String>, u64)>,
    /// What an expression means: its text, and the name of the dialect.
    pub explain: Work<(String, String)>,
    /// Messages of its source as they come: the document, an expression, and how many at most.
    pub tap: Stream<(String, Option<String>, u64)>,
    /// The log levels by logger, `root` for the others; with a name and a level it is set before.
    pub loggers: Work<Option<(String, String)>>,
}

/// What the API tells of the program.
pub struct About {
    /// Its version.
    pub version: String,
    /// This worker, as status calls it.
    pub worker: String,
    /// The cluster that its pipelines read from, if all read from one.
    pub cluster: Option<String>,
    /// The JSON Schema of a pipeline's document.
    pub document: Value,
    /// The kinds of connectors that run here.
    pub kinds: Vec<Kind>,
}

/// All that handlers share.
pub(crate) struct Service {
    commands: Commands,
    tools: Arc<Tools>,
    about: About,
    work: Semaphore,
    taps: Arc<Semaphore>,
    document: OnceLock<Value>,
}

pub(crate) type Shared = Arc<Service>;

/// The whole API.
pub fn router(commands: Commands, tools: Tools, about: About, render: Render) -> Router {
    let mut api = api::Api::default();
    connectors::routes(&mut api);
    plugins::routes(&mut api);
    native::routes(&mut api);
    let (router, document) = api.finish(&about.version);
    let service = Service {
        commands,
        tools: Arc::new(tools),
        about,
        work: Semaphore::new(WORK_MAX),
        taps: Arc::new(Semaphore::new(TAPS_MAX)),
        document: OnceLock::from(document),
    };
    router.with_state(Arc::new(service)).merge(metrics(render))
}

/// `/metrics` alone.
pub fn metrics(render: Render) -> Router {
    let get = move || {
        let text = render();
        async move {
            let mut response: Response = text.into_response();
            let kind = HeaderValue::from_static("text/plain; version=0.0.4");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
    };
    Router::new().route("/metrics", axum::routing::get(get))
}

impl Service {
    /// Asks the owner of the pipelines.
    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Fault> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        if !(self.commands)(command(reply)) {
            return Err(Fault::new(503, "the worker is ending"));
        }
        answer.await.map_err(|_| Fault::new(503, "the worker is ending"))?
    }

    /// Runs one of the tools on a thread that may block.
    async fn work<A: Send + 'static>(
        &self,
        tool: impl FnOnce(&Tools) -> &Work<A> + Send + 'static,
        given: A,
    ) -> Result<Value, Fault> {
        // It is closed never.
        let _room = self.work.acquire().await.map_err(|_| Fault::new(503, "the worker is ending"))?;
        let tools = Arc::clone(&self.tools);
        let work = tokio::task::spawn_blocking(move || tool(&tools)(given));
        work.await.map_err(|_| Fault::new(500, "the work panicked; the log says where"))?
    }
}

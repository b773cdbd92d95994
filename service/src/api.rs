//! The routes and the document of them: each route is told once, and both are made of that.

use std::collections::BTreeMap;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::Shared;
use crate::fault::ErrorMessage;

/// One method of one path.
pub(crate) struct Route {
    method: (MethodFilter, &'static str),
    path: &'static str,
    what: &'static str,
    query: Vec<(&'static str, &'static str, &'static str)>,
    takes: Option<(&'static str, Make)>,
    gives: BTreeMap<u16, Option<(&'static str, Make)>>,
}

type Make = fn(&mut SchemaGenerator) -> Schema;

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";

impl Route {
    fn new(method: (MethodFilter, &'static str), path: &'static str, what: &'static str) -> Self {
        Self { method, path, what, query: Vec::new(), takes: None, gives: BTreeMap::new() }
    }
    pub(crate) fn get(path: &'static str, what: &'static str) -> Self {
        Self::new((MethodFilter::GET, "get"), path, what)
    }
    pub(crate) fn post(path: &'static str, what: &'static str) -> Self {
        Self::new((MethodFilter::POST, "post"), path, what)
    }
    pub(crate) fn put(path: &'static str, what: &'static str) -> Self {
        Self::new((MethodFilter::PUT, "put"), path, what)
    }
    pub(crate) fn patch(path: &'static str, what: &'static str) -> Self {
        Self::new((MethodFilter::PATCH, "patch"), path, what)
    }
    pub(crate) fn delete(path: &'static str, what: &'static str) -> Self {
        Self::new((MethodFilter::DELETE, "delete"), path, what)
    }

    /// A parameter of the query: its name, JSON type and meaning.
    pub(crate) fn query(mut self, name: &'static str, kind: &'static str, what: &'static str) -> Self {
        self.query.push((name, kind, what));
        self
    }
    /// A body in JSON.
    pub(crate) fn takes<T: JsonSchema>(mut self) -> Self {
        self.takes = Some((JSON, schema::<T>));
        self
    }
    /// A body in YAML, of which JSON is a part.
    pub(crate) fn takes_yaml(mut self) -> Self {
        self.takes = Some((YAML, schema::<Value>));
        self
    }
    pub(crate) fn gives<T: JsonSchema>(mut self, status: u16) -> Self {
        self.gives.insert(status, Some((JSON, schema::<T>)));
        self
    }
    pub(crate) fn gives_text(mut self, status: u16, kind: &'static str) -> Self {
        self.gives.insert(status, Some((kind, schema::<String>)));
        self
    }
    pub(crate) fn gives_nothing(mut self, status: u16) -> Self {
        self.gives.insert(status, None);
        self
    }
}

/// All routes that were told.
pub(crate) struct Api {
    router: Router<Shared>,
    paths: Map<String, Value>,
    generator: SchemaGenerator,
}

impl Default for Api {
    fn default() -> Self {
        let mut settings = SchemaSettings::draft2020_12();
        settings.definitions_path = "/components/schemas".into();
        Self { router: Router::new(), paths: Map::new(), generator: settings.into_generator() }
    }
}

impl Api {
    /// Adds a route and who answers it.
    pub(crate) fn on<T: 'static>(&mut self, route: Route, handler: impl Handler<T, Shared>) {
        let Route { method: (filter, method), path, what, query, takes, gives } = route;
        let router = std::mem::take(&mut self.router);
        self.router = router.route(path, on(filter, handler));
        let in_path = path.split('{').skip(1).filter_map(|part| part.split('}').next());
        let mut parameters: Vec<Value> = in_path
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
            .collect();
        parameters.extend(query.iter().map(|(name, kind, what)| {
            let mut schema = json!({"type": kind});
            if *kind == "integer" {
                // None means none, so none takes it.
                schema["minimum"] = json!(1);
            }
            json!({"name": name, "in": "query", "description": what, "schema": schema})
        }));
        let error = self.generator.subschema_for::<ErrorMessage>();
        let mut responses = Map::new();
        for (status, body) in gives {
            let mut told = json!({"description": if body.is_some() { "done" } else { "done; no body" }});
            if let Some((kind, make)) = body {
                told["content"] = json!({kind: {"schema": make(&mut self.generator)}});
            }
            responses.insert(status.to_string(), told);
        }
        responses.insert(
            "default".to_owned(),
            json!({"description": "not done; the message says why", "content": {JSON: {"schema": error}}}),
        );
        let mut told = json!({"summary": what, "parameters": parameters, "responses": responses});
        if let Some((kind, make)) = takes {
            let content = json!({kind: {"schema": make(&mut self.generator)}});
            told["requestBody"] = json!({"required": true, "content": content});
        }
        let methods = self.paths.entry(path).or_insert_with(|| json!({}));
        methods[method] = told;
    }

    /// The router, and the `OpenAPI` document of it.
    pub(crate) fn finish(mut self, version: &str) -> (Router<Shared>, Value) {
        let schemas = self.generator.take_definitions(true);
        let document = json!({
            "openapi": "3.1.0",
            "info": {"title": "Sluice", "version": version},
            "paths": self.paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
            "security": [{}, {"token": []}],
        });
        (self.router, document)
    }
}

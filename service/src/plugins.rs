//! Kafka Connect's paths of connector plugins: the kinds of sources and sinks, their settings as the types of the
//! pipeline's document have them, and what is wrong with given ones.

use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::api::{Api, Route};
use crate::command::Kind;
use crate::connectors::texts;
use crate::fault::Fault;
use crate::flat::{self, CLASS, Flat, TASKS_MAX};
use crate::take::{Answer, In, Json, Query, json};
use crate::{Service, Shared};

pub(crate) fn routes(api: &mut Api) {
    api.on(
        Route::get("/connector-plugins", "The kinds of connectors.")
            .query("connectorsOnly", "boolean", "there are no others")
            .gives::<Vec<Plugin>>(200),
        list,
    );
    api.on(
        Route::get("/connector-plugins/{plugin}/config", "The settings of a kind.")
            .gives::<Vec<Definition>>(200),
        config,
    );
    api.on(
        Route::put(
            "/connector-plugins/{plugin}/config/validate",
            "What is wrong with settings; opens nothing.",
        )
        .takes::<Map<String, Value>>()
        .gives::<Validated>(200),
        validate,
    );
}

#[derive(Serialize, JsonSchema)]
struct Plugin {
    class: String,
    #[serde(rename = "type")]
    kind: &'static str,
    version: String,
}

/// One setting.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Definition {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    required: bool,
    default_value: Option<String>,
    importance: &'static str,
    documentation: String,
    group: String,
    width: &'static str,
    display_name: String,
    dependents: Vec<String>,
    order: usize,
}

#[derive(Serialize, JsonSchema)]
struct Validated {
    name: String,
    error_count: usize,
    groups: Vec<String>,
    configs: Vec<Config>,
}

#[derive(Serialize, JsonSchema)]
struct Config {
    definition: Option<Definition>,
    value: Given,
}

#[derive(Serialize, JsonSchema)]
struct Given {
    name: String,
    value: Option<String>,
    recommended_values: Vec<String>,
    errors: Vec<String>,
    visible: bool,
}

async fn list(State(service): State<Shared>, query: Query) -> Answer {
    query.flag("connectorsOnly", true)?;
    let plugin = |kind: &Kind| Plugin {
        class: kind.class.clone(),
        kind: if kind.is_source { "source" } else { "sink" },
        version: service.about.version.clone(),
    };
    json(200, &service.about.kinds.iter().map(plugin).collect::<Vec<_>>())
}

async fn config(State(service): State<Shared>, In(plugin): In<String>) -> Answer {
    json(200, &service.definitions(&plugin)?)
}

impl Service {
    fn definitions(&self, plugin: &str) -> Result<Vec<Definition>, Fault> {
        let kind = self.about.kinds.iter().find(|kind| kind.class == plugin).ok_or_else(|| {
            let names: Vec<&str> = self.about.kinds.iter().map(|kind| kind.class.as_str()).collect();
            Fault::unknown(format!("Unknown plugin {plugin}; there are: {}", names.join(", ")))
        })?;
        Ok(definitions(&self.about.document, kind))
    }
}

/// The settings of the document's schema, as far as they are of this kind.
fn definitions(document: &Value, kind: &Kind) -> Vec<Definition> {
    let mut found = Vec::new();
    let own = [
        (CLASS, "STRING", "HIGH", "The kind of the connector: its key below `sink` or `source`."),
        (TASKS_MAX, "INT", "LOW", "Taken and not used: tasks are the queues of the source."),
    ];
    for (name, kind, importance, documentation) in own {
        found.push(Definition {
            name: name.to_owned(),
            kind,
            required: name == CLASS,
            default_value: None,
            importance,
            documentation: documentation.to_owned(),
            group: "connector".to_owned(),
            width: "NONE",
            display_name: name.to_owned(),
            dependents: Vec::new(),
            order: 0,
        });
    }
    let half = if kind.is_source { "source" } else { "sink" };
    let prefix = format!("{half}.");
    let own = format!("{half}.{}", kind.class);
    walk(
        document,
        document,
        "",
        true,
        &mut |name, definition| {
            let is_other = name.starts_with(&prefix)
                && name != own
                && !name.strip_prefix(&own).is_some_and(|rest| rest.starts_with('.'));
            if !is_other {
                found.push(definition);
            }
        },
        0,
    );
    for (order, definition) in found.iter_mut().enumerate() {
        definition.order = order + 1;
    }
    found
}

/// Levels of the schema that are followed.
const DEPTH_MAX: usize = 8;

/// Tells each leaf of a schema by its path.
fn walk(
    root: &Value,
    schema: &Value,
    path: &str,
    required: bool,
    tell: &mut impl FnMut(&str, Definition),
    depth: usize,
) {
    let (schema, documentation, default) = resolve(root, schema);
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let properties = schema.get("properties").and_then(Value::as_object);
    if let (Some(properties), true) = (properties, depth < DEPTH_MAX) {
        let needed = |key: &str| {
            schema["required"].as_array().is_some_and(|names| names.iter().any(|name| name == key))
        };
        for (key, below) in properties {
            walk(root, below, &join(key), required && needed(key), tell, depth + 1);
        }
        return;
    }
    let variants = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array);
    let mappings: Vec<&Value> =
        variants.into_iter().flatten().filter(|one| one.get("properties").is_some()).collect();
    if !mappings.is_empty() && depth < DEPTH_MAX {
        for one in &mappings {
            // One of them: none is required.
            walk(root, one, path, required && mappings.len() == 1, tell, depth + 1);
        }
        // A choice among names as well is a leaf of its own.
        if mappings.len() == variants.map_or(0, Vec::len) {
            return;
        }
    }
    let definition = Definition {
        name: path.to_owned(),
        kind: type_name(schema),
        required: required && default.is_none(),
        default_value: default.map(|value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        }),
        importance: if required { "HIGH" } else { "MEDIUM" },
        documentation,
        group: path.split('.').next().unwrap_or("").to_owned(),
        width: "NONE",
        display_name: path.to_owned(),
        dependents: Vec::new(),
        order: 0,
    };
    tell(path, definition);
}

/// What a schema refers to, with its own words on it; an optional value as the value.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> (&'a Value, String, Option<Value>) {
    let (mut schema, mut text, mut default) = (schema, None, None);
    for _ in 0..DEPTH_MAX {
        text = text.or_else(|| schema.get("description").and_then(Value::as_str));
        default = default.or_else(|| schema.get("default").filter(|value| !value.is_null()));
        let referred =
            schema.get("$ref").and_then(Value::as_str).and_then(|to| root.pointer(to.strip_prefix('#')?));
        let is_null = |one: &&Value| one.get("type").is_some_and(|kind| kind == "null");
        let optional =
            schema.get("anyOf").and_then(Value::as_array).filter(|all| all.iter().any(|one| is_null(&one)));
        let some = optional.and_then(|all| all.iter().find(|one| !is_null(one)));
        match referred.or(some) {
            Some(next) => schema = next,
            None => break,
        }
    }
    (schema, text.unwrap_or("").to_owned(), default.cloned())
}

fn type_name(schema: &Value) -> &'static str {
    let kind = match &schema["type"] {
        Value::String(kind) => kind.as_str(),
        Value::Array(kinds) => {
            kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("")
        }
        _ => "",
    };
    match kind {
        "integer" => "LONG",
        "number" => "DOUBLE",
        "boolean" => "BOOLEAN",
        "array" => "LIST",
        _ => "STRING",
    }
}

async fn validate(
    State(service): State<Shared>,
    In(plugin): In<String>,
    Json(config): Json<Map<String, Value>>,
) -> Answer {
    let mut definitions = service.definitions(&plugin)?;
    let given = texts(config)?;
    let mut problems: Vec<(String, String)> = Vec::new();
    match given.get(CLASS) {
        Some(class) if *class != plugin => {
            problems.push((CLASS.to_owned(), format!("{class} is not {plugin}, the kind that is asked for")));
        }
        None => problems.push((
            CLASS.to_owned(),
            "Missing required configuration which has no default value.".to_owned(),
        )),
        Some(_) => {}
    }
    match flat::document(&given) {
        Err(error) => problems.push((error.split('`').nth(1).unwrap_or("name").to_owned(), error)),
        Ok(text) => {
            let linted = service.work(|tools| &tools.lint, text).await?;
            let found = linted["problems"].as_array().cloned().unwrap_or_default();
            problems.extend(found.iter().map(|problem| {
                let text = |key: &str| problem[key].as_str().unwrap_or("").to_owned();
                (key_of(&text("key"), &text("message")), text("message"))
            }));
        }
    }
    // What is set elsewhere comes first, so that it is seen.
    definitions.sort_by_key(|definition| !given.contains_key(&definition.name));
    json(200, &validated(&plugin, definitions, &given, problems))
}

/// The key that a problem is about: of a missing or an unknown key it is that one, and not what it stands in.
fn key_of(path: &str, message: &str) -> String {
    let named = message.strip_prefix("key `").filter(|rest| rest.contains("` is missing"));
    let named = named.or_else(|| message.strip_prefix("unknown key `"));
    match named.and_then(|rest| rest.split('`').next()) {
        Some(key) if path.is_empty() => key.to_owned(),
        Some(key) => format!("{path}.{key}"),
        None if path.is_empty() => "name".to_owned(),
        None => path.to_owned(),
    }
}

fn validated(
    plugin: &str,
    definitions: Vec<Definition>,
    given: &Flat,
    mut problems: Vec<(String, String)>,
) -> Validated {
    let error_count = problems.len();
    let mut groups: Vec<String> = Vec::new();
    let mut configs = Vec::new();
    let mut config = |name: &str, definition: Option<Definition>, errors: Vec<String>| {
        let value = given.get(name).cloned().or_else(|| definition.as_ref()?.default_value.clone());
        let value =
            Given { name: name.to_owned(), value, recommended_values: Vec::new(), errors, visible: true };
        configs.push(Config { definition, value });
    };
    for definition in definitions {
        if !groups.contains(&definition.group) {
            groups.push(definition.group.clone());
        }
        let name = definition.name.clone();
        let below = format!("{name}.");
        let is_its = |(key, _): &(String, String)| {
            *key == name || (key.starts_with(&below) && definition.kind == "LIST")
        };
        let (its, others) = problems.into_iter().partition(is_its);
        problems = others;
        let its: Vec<(String, String)> = its;
        config(&name, Some(definition), its.into_iter().map(|(_, message)| message).collect());
    }
    // What no setting of this kind is.
    let mut others: Vec<String> = Vec::new();
    for (key, _) in &problems {
        if !others.contains(key) {
            others.push(key.clone());
        }
    }
    for key in others {
        let its = problems.iter().filter(|(other, _)| *other == key).map(|(_, message)| message.clone());
        config(&key, None, its.collect());
    }
    Validated { name: plugin.to_owned(), error_count, groups, configs }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_a_kind_are_the_leaves_of_the_documents_schema() {
        let document = serde_json::json!({
            "type": "object",
            "required": ["name", "sink"],
            "properties": {
                "name": {"type": "string", "description": "Its name."},
                "where": {"anyOf": [{"$ref": "#/$defs/Where"}, {"type": "null"}], "default": null},
                "sink": {"$ref": "#/$defs/Sink"},
            },
            "$defs": {
                "Where": {"type": "string"},
                "Sink": {"oneOf": [
                    {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#/$defs/A"}}},
                    {"type": "object", "required": ["b"], "properties": {"b": {"$ref": "#/$defs/A"}}},
                ]},
                "A": {"type": "object", "required": ["path"], "properties": {
                    "path": {"type": "string"}, "rows": {"type": "integer", "default": 5, "description": "Rows."},
                }},
            },
        });
        let found = definitions(&document, &Kind { is_source: false, class: "a".to_owned() });
        let names: Vec<&str> = found.iter().map(|definition| definition.name.as_str()).collect();
        assert_eq!(names, ["connector.class", "tasks.max", "name", "sink.a.path", "sink.a.rows", "where"]);
        let rows = &found[4];
        assert_eq!(
            (rows.kind, rows.default_value.as_deref(), rows.documentation.as_str()),
            ("LONG", Some("5"), "Rows.")
        );
        assert!(found[2].required && !found[5].required);
    }

    #[test]
    fn a_missing_key_is_the_one_that_is_missing() {
        assert_eq!(key_of("sink.parquet", "key `path` is missing"), "sink.parquet.path");
        assert_eq!(
            key_of("sink.parquet", "unknown key `codek`; did you mean `codec`?"),
            "sink.parquet.codek"
        );
        assert_eq!(key_of("sink.parquet.codec", "expected …"), "sink.parquet.codec");
        assert_eq!(key_of("", "key `sink` is missing"), "sink");
    }
}

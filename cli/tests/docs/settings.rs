//! The JSON Schema of a pipeline's document as lines of a table: one for each key.

use serde_json::Value;

/// Levels of the schema that are followed.
const DEPTH_MAX: usize = 8;

/// One key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Dotted, below what the page is about.
    pub(crate) key: String,
    /// What may stand there, in Markdown.
    pub(crate) kind: String,
    /// What holds if it is not said, in Markdown.
    pub(crate) default: String,
    /// What it means, in Markdown.
    pub(crate) meaning: String,
}

/// The JSON Schema of a pipeline's document.
pub(crate) fn document() -> Value {
    schemars::generate::SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<sluice_connect::config::Document<
            sluice_sources::SourceConfig,
            sluice_sinks::SinkConfig,
        >>()
        .to_value()
}

/// A schema with the words and the default of where it stands.
struct Place<'a> {
    schema: &'a Value,
    words: String,
    default: Option<&'a Value>,
}

/// What a schema refers to; an optional value as the value.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> Place<'a> {
    let mut place = Place { schema, words: String::new(), default: None };
    for _ in 0..DEPTH_MAX {
        let here = place.schema;
        if place.words.is_empty() {
            place.words = here["description"].as_str().unwrap_or_default().to_owned();
        }
        place.default = place.default.or_else(|| here.get("default").filter(|value| !value.is_null()));
        let is_null = |one: &Value| one["type"] == "null";
        let referred = here["$ref"].as_str().and_then(|to| root.pointer(to.strip_prefix('#')?));
        let any = here["anyOf"].as_array().filter(|all| all.iter().any(is_null));
        let some = any.and_then(|all| all.iter().find(|one| !is_null(one)));
        match referred.or(some) {
            Some(next) => place.schema = next,
            None => break,
        }
    }
    place
}

/// The variants of an enum: their name, what stands below it, and its words.
fn variants(schema: &Value) -> Vec<(String, Option<&Value>, String)> {
    if let Some(names) = schema["enum"].as_array() {
        let names = names.iter().filter_map(Value::as_str);
        return names.map(|name| (name.to_owned(), None, String::new())).collect();
    }
    let all = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array);
    let mut found = Vec::new();
    for one in all.into_iter().flatten() {
        let words = one["description"].as_str().unwrap_or_default().to_owned();
        if let Some(name) = one["const"].as_str() {
            found.push((name.to_owned(), None, words));
        } else if let Some(names) = one["enum"].as_array() {
            let names = names.iter().filter_map(Value::as_str);
            found.extend(names.map(|name| (name.to_owned(), None, String::new())));
        } else if let Some((name, below)) = one["properties"].as_object().and_then(|all| all.iter().next()) {
            found.push((name.clone(), Some(below), words));
        }
    }
    found
}

/// The kinds of connectors of one half, `source` or `sink`: their name, their words, their settings.
pub(crate) fn connectors(root: &Value, half: &str) -> Vec<(String, String, Vec<Setting>)> {
    let place = resolve(root, &root["properties"][half]);
    let kinds = variants(place.schema);
    assert!(kinds.len() > 5, "{half}: {}", place.schema);
    let of = |(name, below, words): (String, Option<&Value>, String)| {
        let mut found = Vec::new();
        properties(root, resolve(root, below.unwrap()).schema, "", &mut found, 0);
        (name, words, found)
    };
    kinds.into_iter().map(of).collect()
}

/// The keys of a document but those of its source and its sink.
pub(crate) fn of_pipeline(root: &Value) -> Vec<Setting> {
    let mut found = Vec::new();
    properties(root, root, "", &mut found, 0);
    found.retain(|one| {
        let first = one.key.split('.').next().unwrap_or_default();
        !matches!(first, "source" | "sink") || one.key == first
    });
    for one in &mut found {
        if matches!(one.key.as_str(), "source" | "sink") {
            one.kind = "one connector".to_owned();
            one.meaning = format!(
                "{} See [All connectors](README.md).",
                one.meaning.split(" `").next().unwrap_or_default().trim()
            );
        }
    }
    found
}

fn properties(root: &Value, schema: &Value, path: &str, found: &mut Vec<Setting>, depth: usize) {
    let Some(properties) = schema["properties"].as_object() else { return };
    let is_needed =
        |key: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|name| name == key));
    let mut keys: Vec<&String> = properties.keys().collect();
    keys.sort_by_key(|key| (!is_needed(key), key.as_str()));
    for key in keys {
        let (below, needed) = (&properties[key], is_needed(key));
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        setting(root, below, &path, needed, found, depth);
    }
}

fn setting(root: &Value, schema: &Value, path: &str, needed: bool, found: &mut Vec<Setting>, depth: usize) {
    let Place { schema, words, default } = resolve(root, schema);
    let variants = variants(schema);
    let is_mapping = schema["properties"].as_object().is_some();
    let mut meaning = text(&words);
    let told = variants.iter().filter(|(_, _, words)| !words.is_empty());
    let told: Vec<String> = told
        .map(|(name, _, words)| format!("`{name}`: {}", lower(text(words).trim_end_matches('.'))))
        .collect();
    if !told.is_empty() {
        meaning = format!("{} {}.", meaning.trim_end_matches('.').to_owned() + ".", told.join("; "));
    }
    let kind = if variants.is_empty() {
        kind(root, schema, default)
    } else {
        let names = variants.iter().map(|(name, below, _)| match below {
            Some(_) => format!("`{name}: …`"),
            None => format!("`{name}`"),
        });
        names.collect::<Vec<String>>().join(", ")
    };
    let default = match default {
        _ if needed => "**needed**".to_owned(),
        Some(value) => shown(value),
        None => String::new(),
    };
    found.push(Setting { key: path.to_owned(), kind, default, meaning });
    if depth < DEPTH_MAX {
        if is_mapping {
            properties(root, schema, path, found, depth + 1);
        }
        for (name, below, _) in &variants {
            if let Some(below) = below {
                let schema = resolve(root, below).schema;
                properties(root, schema, &format!("{path}.{name}"), found, depth + 1);
            }
        }
    }
}

/// What may stand there.
fn kind(root: &Value, schema: &Value, default: Option<&Value>) -> String {
    if let Some(default) = default {
        if default.as_str().is_some_and(|text| size(text).is_some()) {
            return "size".to_owned();
        }
        if span(default).is_some() || default.as_str().is_some_and(is_span) {
            return "time".to_owned();
        }
    }
    let name = match &schema["type"] {
        Value::String(name) => name.as_str(),
        Value::Array(names) => {
            names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or("")
        }
        _ => "",
    };
    match name {
        "string" => "text".to_owned(),
        "integer" => "whole number".to_owned(),
        "number" => "number".to_owned(),
        "boolean" => "`true`, `false`".to_owned(),
        "array" => {
            let items = resolve(root, &schema["items"]);
            match kind(root, items.schema, None).as_str() {
                "" => "list".to_owned(),
                items => format!("list of {items}"),
            }
        }
        "object" if schema["properties"].is_object() => "mapping".to_owned(),
        "object" => "mapping of names".to_owned(),
        _ => String::new(),
    }
}

/// A size as a person writes it, of the text that `bytesize` makes.
fn size(text: &str) -> Option<String> {
    let (number, unit) = text.split_once(' ')?;
    let number: f64 = number.parse().ok()?;
    matches!(unit, "B" | "KiB" | "MiB" | "GiB").then(|| format!("{number}{unit}"))
}

/// A length of time as a person writes it, of what serde makes of a `Duration`.
fn span(value: &Value) -> Option<String> {
    let (secs, nanos) = (value["secs"].as_u64()?, value["nanos"].as_u64()?);
    Some(match (secs, nanos) {
        (0, nanos) => format!("{}ms", nanos / 1_000_000),
        (secs, _) if secs % 3600 == 0 => format!("{}h", secs / 3600),
        (secs, _) if secs % 60 == 0 => format!("{}m", secs / 60),
        (secs, _) => format!("{secs}s"),
    })
}

/// Whether a text is a length of time, such as `10m`.
fn is_span(text: &str) -> bool {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    unit.len() < text.len() && matches!(unit, "ms" | "s" | "m" | "h" | "day")
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "empty".to_owned(),
        Value::String(text) => format!("`{}`", size(text).as_deref().unwrap_or(text)),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Object(pairs) if pairs.is_empty() => String::new(),
        Value::Object(_) if span(value).is_some() => format!("`{}`", span(value).unwrap_or_default()),
        // Its keys tell theirs.
        Value::Object(_) => String::new(),
        other => format!("`{other}`"),
    }
}

/// Words of a type as one line of a table.
fn text(words: &str) -> String {
    let line = words.split_whitespace().collect::<Vec<&str>>().join(" ");
    let line = line.replace("[`", "`").replace("`]", "`");
    line.replace('|', "\\|")
}

fn lower(words: &str) -> String {
    let mut letters = words.chars();
    match (letters.next(), letters.clone().next()) {
        // A name of several capitals stays.
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => words.to_owned(),
    }
}

#[test]
fn a_schema_becomes_a_line_for_each_key() {
    let root = serde_json::json!({
        "type": "object",
        "required": ["path", "mode"],
        "properties": {
            "path": {"type": "string", "description": "Where it\nlies."},
            "mode": {"$ref": "#/$defs/Mode"},
            "rotate": {"$ref": "#/$defs/Rotate", "description": "When it ends."},
            "rows": {"type": ["integer", "null"], "default": null},
        },
        "$defs": {
            "Mode": {"description": "How.", "oneOf": [
                {"const": "fast", "description": "Now."},
                {"type": "object", "properties": {"slow": {"$ref": "#/$defs/Rotate"}}, "description": "A|B."},
            ]},
            "Rotate": {"type": "object", "properties": {
                "age": {"type": "string", "default": {"secs": 300, "nanos": 0}},
                "bytes": {"type": "string", "default": "128.0 MiB"},
            }},
        },
    });
    let mut found = Vec::new();
    properties(&root, &root, "", &mut found, 0);
    let lines: Vec<String> =
        found.iter().map(|s| format!("{} | {} | {} | {}", s.key, s.kind, s.default, s.meaning)).collect();
    let expected = [
        "mode | `fast`, `slow: …` | **needed** | How. `fast`: now; `slow`: A\\|B.",
        "mode.slow.age | time | `5m` | ",
        "mode.slow.bytes | size | `128MiB` | ",
        "path | text | **needed** | Where it lies.",
        "rotate | mapping |  | When it ends.",
        "rotate.age | time | `5m` | ",
        "rotate.bytes | size | `128MiB` | ",
        "rows | whole number |  | ",
    ];
    assert_eq!(lines, expected);
}

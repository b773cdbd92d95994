//! A pipeline's document as the flat map that tools of Kafka Connect send and read: dotted keys are paths of the YAML
//! document, values are text.
//!
//! A value that begins with `[`, `{` or `"`, and one that is a number, a boolean or `null`, is read as YAML; all else, and
//! a name, is the text that it is. `name`, `connector.class` and `tasks.max` are Connect's own. Variables are never expanded here.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value as Json};
use sluice_connect::config::tree::{self, Node, Text, Value};

/// Connect's key of the connector's kind, which the document's own keys say as well.
pub const CLASS: &str = "connector.class";
/// Connect's key of the number of tasks; tasks are the source's queues here, so it is taken and says nothing.
pub const TASKS_MAX: &str = "tasks.max";

/// The key of the pipeline's name, which is text whatever it looks like.
const NAME: &str = "name";

/// Keys by path, values as text.
pub type Flat = BTreeMap<String, String>;

/// The most parts of a key.
const DEPTH_MAX: usize = 32;
/// The keys of a document in the order that a person writes them.
const ORDER: [&str; 10] =
    ["name", "source", "where", "decode", "steps", "sink", "delivery", "errors", "limits", "tests"];

/// The map of a document; `Err` if it is no YAML.
pub fn flatten(text: &str) -> Result<Flat, String> {
    let root = parse(text)?;
    let mut flat = Flat::new();
    let Value::Map(pairs) = &root.value else { return Err("the document is no mapping".to_owned()) };
    for (_, key, node) in pairs {
        add(key, node, &mut flat);
    }
    Ok(flat)
}

/// The document of a map, in block style; `Err` names the key that can not be meant.
pub fn document(flat: &Flat) -> Result<String, String> {
    let mut root = Map::new();
    for (key, text) in flat.iter().filter(|(key, _)| key.as_str() != CLASS && key.as_str() != TASKS_MAX) {
        let parts: Vec<&str> = key.split('.').collect();
        if parts.len() > DEPTH_MAX || parts.iter().any(|part| part.is_empty()) {
            return Err(format!("`{key}` is no path of a pipeline's document, such as sink.parquet.path"));
        }
        let value = if key == NAME { Ok(Json::String(text.clone())) } else { read(text) };
        let value = value.map_err(|error| format!("{key}: {error}"))?;
        put(&mut root, &parts, value).map_err(|above| {
            format!("`{key}` stands below `{}`, which has a value of its own", parts[..above].join("."))
        })?;
    }
    let mut text = String::new();
    let known = |key: &str| ORDER.iter().position(|name| *name == key).unwrap_or(ORDER.len());
    let mut pairs: Vec<(&String, &Json)> = root.iter().collect();
    pairs.sort_by_key(|(key, _)| known(key));
    for (key, value) in pairs {
        write(&mut text, 0, key, value);
    }
    Ok(text)
}

fn parse(text: &str) -> Result<Node, String> {
    let documents = tree::documents(text);
    let [one] = documents.as_slice() else {
        return Err(format!("{} documents, expected one", documents.len()));
    };
    tree::parse(one).map_err(|problem| problem.to_string())
}

fn add(key: &str, node: &Node, flat: &mut Flat) {
    match &node.value {
        Value::Map(pairs) if !pairs.is_empty() && pairs.iter().all(|(_, key, _)| is_plain(key)) => {
            for (_, part, below) in pairs {
                add(&format!("{key}.{part}"), below, flat);
            }
        }
        Value::Text(text) if key == NAME || read(text).as_ref() == Ok(&Json::String(text.clone())) => {
            flat.insert(key.to_owned(), text.clone());
        }
        value => {
            flat.insert(key.to_owned(), json(value).to_string());
        }
    }
}

/// Whether a key may be a part of a path.
fn is_plain(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn json(value: &Value) -> Json {
    match value {
        Value::Null | Value::Unset => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(i) => Json::from(*i),
        Value::Float(f) => Json::from(*f),
        Value::Text(text) => Json::String(text.clone()),
        Value::Seq(items) => items.iter().map(|item| json(&item.value)).collect(),
        Value::Map(pairs) => pairs.iter().map(|(_, key, node)| (key.clone(), json(&node.value))).collect(),
    }
}

/// A value of the map.
fn read(text: &str) -> Result<Json, String> {
    if text.starts_with(['[', '{', '"']) {
        let node = tree::parse(&Text { text, lines_before: 0 });
        return node
            .map(|node| json(&node.value))
            .map_err(|problem| format!("is read as YAML: {}", problem.message));
    }
    let is_number = |n: &Json| {
        let written = n.to_string();
        n.is_number() && written == text
    };
    Ok(match serde_json::from_str::<Json>(text) {
        Ok(value) if value.is_boolean() || value.is_null() || is_number(&value) => value,
        _ => Json::String(text.to_owned()),
    })
}

/// Puts a value at a path; `Err` is how many parts lead to a value that is none to go below.
fn put(into: &mut Map<String, Json>, parts: &[&str], value: Json) -> Result<(), usize> {
    let Some((first, rest)) = parts.split_first() else { return Err(0) };
    if rest.is_empty() {
        return match into.insert((*first).to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(1),
        };
    }
    match into.entry(*first).or_insert_with(|| Json::Object(Map::new())) {
        Json::Object(below) => put(below, rest, value).map_err(|above| above + 1),
        _ => Err(1),
    }
}

fn write(text: &mut String, depth: usize, key: &str, value: &Json) {
    let indent = "  ".repeat(depth);
    let key = if is_plain(key) && scalar(key) == key { key.to_owned() } else { quoted(key) };
    // Writing to a text does not fail.
    let _ = match value {
        Json::Object(below) if !below.is_empty() => {
            let _ = writeln!(text, "{indent}{key}:");
            return below.iter().for_each(|(key, value)| write(text, depth + 1, key, value));
        }
        Json::String(value) => writeln!(text, "{indent}{key}: {}", scalar(value)),
        value => writeln!(text, "{indent}{key}: {}", flow(value)),
    };
}

/// A text as YAML: as it is where nothing in it means anything, else in quotes.
fn scalar(text: &str) -> String {
    let is_safe = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let is_word = matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
    );
    if is_safe && !is_word { text.to_owned() } else { quoted(text) }
}

/// A text in double quotes, which YAML reads as JSON does; what YAML does not print is escaped.
fn quoted(text: &str) -> String {
    let mut out = String::new();
    for c in Json::String(text.to_owned()).to_string().chars() {
        match u32::from(c) {
            code @ (0x7f..=0x9f | 0x2028 | 0x2029 | 0xfeff | 0xfffe | 0xffff) => {
                let _ = write!(out, "\\u{code:04x}");
            }
            _ => out.push(c),
        }
    }
    out
}

fn flow(value: &Json) -> String {
    match value {
        Json::String(text) => quoted(text),
        Json::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Json::Object(pairs) => {
            let pairs = pairs.iter().map(|(key, value)| format!("{}: {}", quoted(key), flow(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DOCUMENT: &str = r#"
name: late
source: {topic: {name: flights, group: lake}}
where: "origin IN ('EWR', 'JFK') AND dep_delay > ${MIN:15}"
decode: {format: json, schema: {mode: declared, fields: {id: int64}}}
sink:
  parquet: {path: ./lake, partition: [$.origin], rotate: {rows: 2000000, age: 5m}}
  kafka: {properties: {security.protocol: SSL}}
errors: {then: skip, stop_after: {ratio: 0.5}}
limits: {}
"#;

    #[test]
    fn a_document_becomes_dotted_keys_with_variables_as_they_are_written() {
        let flat = flatten(DOCUMENT).unwrap();
        let of = |key: &str| flat[key].as_str();
        assert_eq!(of("source.topic.name"), "flights");
        assert_eq!(of("where"), "origin IN ('EWR', 'JFK') AND dep_delay > ${MIN:15}");
        assert_eq!(of("sink.parquet.partition"), "[\"$.origin\"]");
        assert_eq!(of("sink.parquet.rotate.rows"), "2000000");
        assert_eq!(of("sink.kafka.properties"), "{\"security.protocol\":\"SSL\"}");
        assert_eq!(of("errors.stop_after.ratio"), "0.5");
        assert_eq!(of("limits"), "{}");
        let again = document(&flat).unwrap();
        assert_eq!(flatten(&again).unwrap(), flat, "{again}");
        assert!(again.starts_with("name: late\nsource:\n  topic:\n    group: lake\n"), "{again}");
    }

    #[test]
    fn numbers_that_are_texts_keep_their_quotes() {
        let flat =
            flatten("name: a\nsink: {topic: {name: '123', key: 'true', tag: 007}}\nx: 'a: b'\n").unwrap();
        let values =
            ["sink.topic.name", "sink.topic.key", "sink.topic.tag", "x"].map(|key| flat[key].as_str());
        assert_eq!(values[..2], ["\"123\"", "\"true\""]);
        assert_eq!(values[3], "a: b");
        assert_eq!(flatten(&document(&flat).unwrap()).unwrap(), flat);
        let named = document(&Flat::from([("name".to_owned(), "0".to_owned())])).unwrap();
        assert_eq!((named.as_str(), flatten(&named).unwrap()["name"].as_str()), ("name: \"0\"\n", "0"));
    }

    #[test]
    fn a_key_below_a_value_and_an_empty_part_are_told() {
        let check = |pairs: &[(&str, &str)]| {
            document(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()).unwrap_err()
        };
        assert!(check(&[("sink.topic", "t"), ("sink.topic.name", "t")]).contains("below `sink.topic`"));
        assert!(check(&[("sink..name", "t")]).contains("`sink..name` is no path"));
        assert!(check(&[("steps", "[1")]).starts_with("steps: is read as YAML"));
    }

    proptest! {
        #[test]
        fn any_map_comes_back(
            pairs in proptest::collection::btree_map("[a-z_]{1,6}(\\.[a-z0-9_-]{1,6}){0,3}", "\\PC{0,12}|[\\[{\"0-9a-z:#'\\n\\t -]{0,8}", 0..8)
        ) {
            if let Ok(text) = document(&pairs) {
                let flat = flatten(&text);
                // A map of nothing is no document.
                if !text.is_empty() {
                    let again = document(&flat.map_err(TestCaseError::fail)?).map_err(TestCaseError::fail)?;
                    prop_assert_eq!(again, text);
                }
            }
        }
    }
}

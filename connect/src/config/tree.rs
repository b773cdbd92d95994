//! A YAML document as a tree in which every key and value knows its place.
//!
//! Reads no environment and gives no meaning to keys; that is [`super::strict`]'s and the types' work.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, MergeKeyPolicy, Spanned};

use super::Problem;

/// Largest pipeline file, in bytes.
pub const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A place in a file; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line in the file.
    pub line: u64,
    /// Column in the line.
    pub column: u64,
}

/// One value with its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where the value begins.
    pub place: Place,
    /// What it is.
    pub value: Value,
    /// The value came from `${…}`: never shown, and text that reads as a number counts as one.
    pub secret: bool,
}

/// A YAML value; YAML 1.2 core types.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Seq(Vec<Node>),
    /// Keys in the order of the file, doubled ones included.
    Map(Vec<(Place, String, Node)>),
    /// A variable without a value, which is told already.
    Unset,
}

impl Node {
    /// The value under `key` of a mapping, with the place of the key; of a list that under `[0]`.
    pub fn get(&self, key: &str) -> Option<(&Place, &Node)> {
        match &self.value {
            Value::Seq(items) => {
                let index: usize = key.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?;
                items.get(index).map(|item| (&item.place, item))
            }
            Value::Map(pairs) => {
                pairs.iter().find(|(_, k, _)| k == key).map(|(place, _, node)| (place, node))
            }
            _ => None,
        }
    }

    /// What `path` names, if it is there.
    pub fn find(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| Some(node.get(key)?.1))
    }

    /// The place of what `path` names, or of as much of it as is there.
    pub fn locate(&self, path: &[&str]) -> Place {
        let Some((key, rest)) = path.split_first() else { return self.place };
        let Some((key_place, node)) = self.get(key) else { return self.place };
        match (&node.value, rest) {
            (Value::Map(_) | Value::Seq(_), []) => *key_place,
            (_, []) => node.place,
            _ => node.locate(rest),
        }
    }
}

/// One document of a pipeline file.
#[derive(Clone, Debug)]
pub struct Text<'a> {
    /// The document as written, without its separator.
    pub text: &'a str,
    /// Lines of the file before it.
    pub lines_before: u64,
}

/// Splits a file at its `---` lines; documents of nothing but blanks and comments are left out.
pub fn documents(file: &str) -> Vec<Text<'_>> {
    let mut found = Vec::new();
    let (mut at, mut start, mut lines_before) = (0, 0, 0);
    for (number, line) in (1..).zip(file.split_inclusive('\n')) {
        if line.trim_end() == "---" || line.starts_with("--- ") || line.starts_with("---\t") {
            found.push(Text { text: &file[start..at], lines_before });
            // A document may begin on the line of its separator.
            let begins_here = says_something(&line[3..]);
            start = if begins_here { at } else { at + line.len() };
            lines_before = if begins_here { number - 1 } else { number };
        }
        at += line.len();
    }
    found.push(Text { text: &file[start..], lines_before });
    found.retain(|document| document.text.lines().any(says_something));
    found
}

fn says_something(line: &str) -> bool {
    !line.trim_start().is_empty() && !line.trim_start().starts_with('#')
}

/// Reads one document. Doubled keys are kept for [`super::strict`] to report.
pub fn parse(document: &Text<'_>) -> Result<Node, Problem> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
    };
    match serde_saphyr::from_str_with_options::<Spanned<Value>>(document.text, options) {
        Ok(spanned) => {
            let mut root = located(spanned);
            lower(&mut root, document.lines_before);
            Ok(root)
        }
        Err(error) => {
            let place = error
                .location()
                .map_or(Place { line: 1, column: 1 }, |at| Place { line: at.line(), column: at.column() });
            let text = error.without_snippet().to_string();
            let message = text.lines().next().unwrap_or("not YAML").to_owned();
            Err(Problem { place: shift(place, document.lines_before), path: String::new(), message })
        }
    }
}

fn shift(place: Place, lines: u64) -> Place {
    Place { line: place.line + lines, column: place.column }
}

fn located(spanned: Spanned<Value>) -> Node {
    let at = spanned.referenced;
    Node { place: Place { line: at.line(), column: at.column() }, value: spanned.value, secret: false }
}

/// Moves every place down to where the document stands in its file.
fn lower(node: &mut Node, lines: u64) {
    node.place = shift(node.place, lines);
    match &mut node.value {
        Value::Seq(nodes) => nodes.iter_mut().for_each(|n| lower(n, lines)),
        Value::Map(pairs) => {
            for (place, _, child) in pairs {
                *place = shift(*place, lines);
                lower(child, lines);
            }
        }
        _ => {}
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Int(v))
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        i64::try_from(v).map(Value::Int).map_err(|_| E::custom(format!("{v} is too large a number")))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Value::Float(v))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::Text(v.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Value>>()? {
            nodes.push(located(item));
        }
        Ok(Value::Seq(nodes))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let value = map.next_value::<Spanned<Value>>()?;
            let place = Place { line: key.referenced.line(), column: key.referenced.column() };
            pairs.push((place, key.value, located(value)));
        }
        Ok(Value::Map(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_and_doubled_key_knows_its_line_and_column() {
        let file = "# first\na: 1\n---\nname: x\nsink:\n  topic: {name: t, name: u}\nlist: [1, two]\n";
        let docs = documents(file);
        assert_eq!(docs.len(), 2);
        let root = parse(&docs[1]).unwrap();
        let (key, sink) = root.get("sink").unwrap();
        assert_eq!(*key, Place { line: 5, column: 1 });
        let (_, topic) = sink.get("topic").unwrap();
        let Value::Map(pairs) = &topic.value else { panic!("{topic:?}") };
        assert_eq!(pairs.len(), 2);
        assert_eq!(pairs[1].0, Place { line: 6, column: 20 });
        assert_eq!(pairs[1].2.place, Place { line: 6, column: 26 });
        assert_eq!(root.locate(&["list"]), Place { line: 7, column: 1 });
    }

    #[test]
    fn a_document_on_the_line_of_its_separator_is_read_with_its_places() {
        let docs = documents("a: 1\n--- {name: b}\n--- # c\nd: 2\n");
        let roots: Vec<Node> = docs.iter().map(|d| parse(d).unwrap()).collect();
        let places: Vec<Place> =
            ["a", "name", "d"].iter().zip(&roots).map(|(key, root)| *root.get(key).unwrap().0).collect();
        let place = |line, column| Place { line, column };
        assert_eq!(places, [place(1, 1), place(2, 6), place(4, 1)]);
    }

    #[test]
    fn broken_yaml_is_told_with_its_place_in_the_file() {
        let docs = documents("a: 1\n---\nb: [1\nc: 2\n");
        let problem = parse(&docs[1]).unwrap_err();
        assert!(problem.place.line >= 3, "{problem:?}");
    }
}

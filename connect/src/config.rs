//! A pipeline file: strict YAML documents, one a pipeline, read into typed settings; [`parse_settings`] reads
//! other files by the same rules.
//!
//! Knows no source and no sink: [`Document`] is generic over their settings, and the caller fills both
//! in. Opens nothing.

mod check;
mod decode;
mod document;
mod step;
pub mod strict;
pub mod tree;
pub mod vars;

use std::fmt;

use serde::de::DeserializeOwned;

pub use decode::*;
pub use document::*;
pub use step::*;
use tree::{Node, Place, Text, Value};

/// One thing that is wrong in a pipeline file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// The key it is about, from the document's root: `sink.parquet.codec`.
    pub path: String,
    /// What is wrong, what was expected, and the nearest known name.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.place.line, self.place.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// The known name that a person most likely meant.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&given.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= 1 + name.chars().count().min(given.chars().count()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// A document read from a file, with what is needed to speak of it.
#[derive(Clone, Debug)]
pub struct Parsed<Source, Sink> {
    /// The settings.
    pub document: Document<Source, Sink>,
    /// The text as written, variables not expanded.
    pub text: String,
    /// The tree, for places.
    pub tree: Node,
    /// Lines of the file before the text.
    lines_before: u64,
}

impl<Source, Sink> Parsed<Source, Sink> {
    /// A problem at the value of a path: `["sink", "parquet", "codec"]`. The message is not shown if the
    /// value came from a variable, because it may show the value.
    pub fn problem(&self, path: &[&str], message: impl Into<String>) -> Problem {
        let is_hidden = self.tree.find(path).is_some_and(|node| match &node.value {
            Value::Seq(items) => items.iter().any(|item| item.secret),
            _ => node.secret,
        });
        let message = if is_hidden { strict::HIDDEN.to_owned() } else { message.into() };
        Problem { place: self.tree.locate(path), path: path.join("."), message }
    }

    /// A hash of the text, in hex: what a plan names the config by.
    pub fn hash(&self) -> String {
        hash(self.text.as_bytes())
    }
}

/// 64 bits in hex, stable over versions and machines (FNV-1a, 64-bit parameters of its authors).
pub fn hash(bytes: &[u8]) -> String {
    let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// Reads all documents of a file; `Err` holds every problem found in any of them.
pub fn parse<Source: DeserializeOwned, Sink: DeserializeOwned>(
    file: &str,
    lookup: vars::Lookup<'_>,
) -> Result<Vec<Parsed<Source, Sink>>, Vec<Problem>> {
    let texts = documents(file)?;
    if texts.is_empty() {
        return Err(vec![at_start("no pipeline in this file")]);
    }
    let (mut parsed, mut problems) = (Vec::new(), Vec::new());
    for text in texts {
        let before = problems.len();
        let Some(tree) = expanded(&text, lookup, &mut problems) else { continue };
        match strict::read::<Document<Source, Sink>>(&tree) {
            Err(more) => problems.extend(more),
            // What lacks the value of a variable contradicts nothing.
            Ok(_) if problems.len() > before => {}
            Ok(document) => {
                let Text { text, lines_before } = text;
                let one = Parsed { document, text: text.to_owned(), tree, lines_before };
                problems.extend(one.contradictions());
                parsed.push(one);
            }
        }
    }
    for (i, one) in parsed.iter().enumerate() {
        if parsed[..i].iter().any(|other| other.document.name == one.document.name) {
            let message = format!("pipeline `{}` stands in this file twice", one.document.name);
            problems.push(one.problem(&["name"], message));
        }
    }
    problems.sort_by_key(|p| p.place);
    if problems.is_empty() { Ok(parsed) } else { Err(problems) }
}

/// Reads the settings of something else than a pipeline: one document by the same rules, with its tree for
/// places. A file that says nothing holds none.
pub fn parse_settings<T: DeserializeOwned>(
    file: &str,
    lookup: vars::Lookup<'_>,
) -> Result<(T, Node), Vec<Problem>> {
    let texts = documents(file)?;
    let mut problems = Vec::new();
    let tree = match texts.as_slice() {
        [] => Some(Node { place: START, value: Value::Map(Vec::new()), secret: false }),
        [text] => expanded(text, lookup, &mut problems),
        [_, second, ..] => {
            let place = Place { line: second.lines_before + 1, column: 1 };
            let message = "a second document: these settings stand in one".to_owned();
            return Err(vec![Problem { place, path: String::new(), message }]);
        }
    };
    let Some(tree) = tree else { return Err(problems) };
    match strict::read(&tree) {
        Ok(settings) if problems.is_empty() => return Ok((settings, tree)),
        Ok(_) => {}
        Err(more) => problems.extend(more),
    }
    problems.sort_by_key(|p| p.place);
    Err(problems)
}

const START: Place = Place { line: 1, column: 1 };

fn at_start(message: impl Into<String>) -> Problem {
    Problem { place: START, path: String::new(), message: message.into() }
}

fn documents(file: &str) -> Result<Vec<Text<'_>>, Vec<Problem>> {
    let (len, max) = (file.len(), tree::FILE_BYTES_MAX);
    if len > max {
        return Err(vec![at_start(format!("{len} bytes exceed the limit of {max}"))]);
    }
    Ok(tree::documents(file))
}

/// The tree of a document with the values of its variables; what is wrong goes to the problems.
fn expanded(text: &Text<'_>, lookup: vars::Lookup<'_>, problems: &mut Vec<Problem>) -> Option<Node> {
    match tree::parse(text) {
        Ok(mut tree) => {
            vars::expand(&mut tree, lookup, problems);
            Some(tree)
        }
        Err(problem) => {
            problems.push(problem);
            None
        }
    }
}

#[cfg(test)]
mod tests;

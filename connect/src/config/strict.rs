//! Typed settings from a [`Node`], strictly: every unknown or doubled key is a problem, and so is the
//! first value of the wrong type in each mapping.
//!
//! Serde stops at the first error of a pass. A value that fails is therefore reported, set aside as if
//! it were not there, and the pass is made again, until one finds nothing new.

mod access;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{self, DeserializeOwned, Deserializer, Expected, Unexpected, Visitor};

use self::access::{Items, Pairs, Variant};
use super::tree::{Node, Place, Value};
use super::{Problem, nearest};

/// What is said of a value that came from a variable, in place of a message that may show it.
pub const HIDDEN: &str = "expected another value, got the value of a variable";

/// Reads `T` from the tree, or tells all that is wrong with it.
pub fn read<T: DeserializeOwned>(root: &Node) -> Result<T, Vec<Problem>> {
    let pass = Pass::default();
    loop {
        let result = T::deserialize(Reader { node: root, path: String::new(), pass: &pass });
        let stop = match result {
            Ok(value) if pass.problems.borrow().is_empty() => return Ok(value),
            Ok(_) => true,
            Err(fault) => {
                let (place, path) = fault.at.unwrap_or((root.place, String::new()));
                if !fault.quiet {
                    pass.tell(place, &path, fault.message);
                }
                // A place set aside twice, or the whole document, can bring nothing new.
                path.is_empty() || !pass.aside.borrow_mut().insert(path)
            }
        };
        if stop {
            let mut problems = pass.problems.take();
            problems.sort_by_key(|p| p.place);
            return Err(problems);
        }
    }
}

#[derive(Default)]
struct Pass {
    problems: RefCell<Vec<Problem>>,
    /// Paths of values that failed; read as if they were not there.
    aside: RefCell<BTreeSet<String>>,
}

impl Pass {
    fn tell(&self, place: Place, path: &str, message: String) {
        let problem = Problem { place, path: path.to_owned(), message };
        let mut problems = self.problems.borrow_mut();
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    fn is_aside(&self, path: &str) -> bool {
        self.aside.borrow().contains(path)
    }
}

/// Why a pass ended.
#[derive(Debug)]
struct Fault {
    message: String,
    /// The message's part that shows nothing of the value.
    expected: Option<String>,
    /// Set for a missing key.
    missing: Option<&'static str>,
    /// A consequence of something that is reported already.
    quiet: bool,
    at: Option<(Place, String)>,
}

impl Fault {
    fn at(mut self, node: &Node, path: &str) -> Self {
        if self.at.is_none() {
            self.at = Some((node.place, path.to_owned()));
            if node.secret {
                self.message = self.expected.take().map_or_else(
                    || HIDDEN.to_owned(),
                    |expected| format!("{expected}, got the value of a variable"),
                );
            }
        }
        self
    }

    /// A consequence of what is reported already.
    fn quiet() -> Self {
        Self { quiet: true, ..<Self as de::Error>::custom("reported") }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), expected: None, missing: None, quiet: false, at: None }
    }
    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = format!("expected {}", plain(expected));
        Self {
            expected: Some(expected.clone()),
            ..Self::custom(format!("{expected}, got {}", got(&unexpected)))
        }
    }
    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }
    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let hint = nearest(variant, expected.iter().copied()).map(|n| format!("; did you mean `{n}`?"));
        let expected = format!("expected one of: {}", expected.join(", "));
        let message = format!("unknown name `{variant}`, {expected}{}", hint.unwrap_or_default());
        Self { expected: Some(expected), ..Self::custom(message) }
    }
    fn missing_field(field: &'static str) -> Self {
        Self { missing: Some(field), ..Self::custom(format!("key `{field}` is missing")) }
    }
}

/// Serde's words for a type, in a person's.
fn plain(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "a string" => "text".to_owned(),
        "path string" => "a path".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0".to_owned(),
        "i8" | "i16" | "i32" | "i64" => "a whole number".to_owned(),
        "f64" => "a number".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        _ if text.starts_with("struct ") => "a mapping".to_owned(),
        _ => text,
    }
}

fn got(unexpected: &Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Str(text) => format!("the text {text:?}"),
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        Unexpected::Map => "a mapping".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Signed(n) => format!("the number {n}"),
        Unexpected::Unsigned(n) => format!("the number {n}"),
        Unexpected::Float(n) => format!("the number {n}"),
        Unexpected::Bool(b) => b.to_string(),
        other => other.to_string(),
    }
}

#[derive(Clone)]
struct Reader<'a> {
    node: &'a Node,
    path: String,
    pass: &'a Pass,
}

impl<'a> Reader<'a> {
    fn child(&self, node: &'a Node, key: &str) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { node, path, pass: self.pass }
    }

    fn fault(&self, expected: &dyn Expected) -> Fault {
        let found = match &self.node.value {
            Value::Unset => return Fault::quiet().at(self.node, &self.path),
            Value::Null => Unexpected::Unit,
            Value::Bool(b) => Unexpected::Bool(*b),
            Value::Int(i) => Unexpected::Signed(*i),
            Value::Float(f) => Unexpected::Float(*f),
            Value::Text(t) => Unexpected::Str(t),
            Value::Seq(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
        };
        <Fault as de::Error>::invalid_type(found, expected).at(self.node, &self.path)
    }

    /// The pairs to read: known keys once each, unknown and doubled ones reported and left out.
    fn pairs(&self, known: Option<&'static [&'static str]>) -> Vec<(&'a str, Reader<'a>)> {
        let Value::Map(pairs) = &self.node.value else { return Vec::new() };
        let mut seen = BTreeSet::new();
        let mut kept = Vec::new();
        for (place, key, node) in pairs {
            if let Some(known) = known
                && !known.contains(&key.as_str())
            {
                let hint = nearest(key, known.iter().copied()).map_or_else(
                    || format!("; known keys: {}", known.join(", ")),
                    |n| format!("; did you mean `{n}`?"),
                );
                self.pass.tell(*place, &self.path, format!("unknown key `{key}`{hint}"));
            } else if !seen.insert(key.as_str()) {
                self.pass.tell(*place, &self.path, format!("key `{key}` stands here a second time"));
            } else {
                let child = self.child(node, key);
                if !self.pass.is_aside(&child.path) {
                    kept.push((key.as_str(), child));
                }
            }
        }
        kept
    }

    /// The first known one of the keys that choose a variant; all others are reported.
    fn variant(
        &self,
        pairs: &'a [(Place, String, Node)],
        variants: &'static [&'static str],
    ) -> Option<(&'a str, Reader<'a>)> {
        let mut first: Option<(&str, Reader<'_>)> = None;
        for (place, key, content) in pairs {
            let message = match &first {
                _ if !variants.contains(&key.as_str()) => {
                    <Fault as de::Error>::unknown_variant(key, variants).message
                }
                None => {
                    first = Some((key, self.child(content, key)));
                    continue;
                }
                Some((same, _)) if same == key => format!("key `{key}` stands here a second time"),
                Some((other, _)) => format!("`{key}` stands beside `{other}`, expected one of them"),
            };
            self.pass.tell(*place, &self.path, message);
        }
        first
    }

    fn map<'de, V: Visitor<'de>>(
        self,
        known: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if !matches!(self.node.value, Value::Map(_)) {
            return Err(self.fault(&visitor));
        }
        let pairs = self.pairs(known);
        visitor.visit_map(Pairs { pairs: pairs.into_iter(), value: None }).map_err(|mut fault| {
            if let Some(missing) = fault.missing.take()
                && fault.at.is_none()
            {
                fault.quiet = self.pass.is_aside(&self.child(self.node, missing).path);
            }
            fault.at(self.node, &self.path)
        })
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let at = |fault: Fault| fault.at(self.node, &self.path);
            match &self.node.value {
                Value::Int(i) => match u64::try_from(*i) {
                    Ok(u) => visitor.visit_u64(u).map_err(at),
                    Err(_) => visitor.visit_i64(*i).map_err(at),
                },
                Value::Float(f) => visitor.visit_f64(*f).map_err(at),
                Value::Text(t) if self.node.secret => match (t.parse::<i64>(), t.parse::<f64>()) {
                    (Ok(i), _) => match u64::try_from(i) {
                        Ok(u) => visitor.visit_u64(u).map_err(at),
                        Err(_) => visitor.visit_i64(i).map_err(at),
                    },
                    (_, Ok(f)) => visitor.visit_f64(f).map_err(at),
                    _ => Err(self.fault(&visitor)),
                },
                _ => Err(self.fault(&visitor)),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let at = |fault: Fault| fault.at(self.node, &self.path);
        match &self.node.value {
            Value::Null => visitor.visit_unit().map_err(at),
            Value::Bool(b) => visitor.visit_bool(*b).map_err(at),
            Value::Int(i) => visitor.visit_i64(*i).map_err(at),
            Value::Float(f) => visitor.visit_f64(*f).map_err(at),
            Value::Text(t) => visitor.visit_str(t).map_err(at),
            Value::Seq(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.map(None, visitor),
            Value::Unset => Err(self.fault(&visitor)),
        }
    }

    numbers! { deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16
    deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64 }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Text(t) if self.node.secret && (t == "true" || t == "false") => {
                visitor.visit_bool(t == "true")
            }
            _ => Err(self.fault(&visitor)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Text(t) => visitor.visit_str(t).map_err(|fault: Fault| fault.at(self.node, &self.path)),
            _ => Err(self.fault(&visitor)),
        }
    }
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }
    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Value::Seq(nodes) = &self.node.value else { return Err(self.fault(&visitor)) };
        let items: Vec<Reader<'_>> = nodes
            .iter()
            .enumerate()
            .map(|(i, node)| self.child(node, &format!("[{i}]")))
            .filter(|child| !self.pass.is_aside(&child.path))
            .collect();
        visitor.visit_seq(Items(items.into_iter())).map_err(|fault| fault.at(self.node, &self.path))
    }
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.map(None, visitor)
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.map(Some(fields), visitor)
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    /// A name alone, or a mapping of one key: the variant, and what it holds.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let (node, path) = (self.node, self.path.clone());
        let one_of = || format!("expected one key, one of: {}", variants.join(", "));
        let variant = match &node.value {
            Value::Text(name) => Variant { name: name.clone(), content: None },
            Value::Map(pairs) => match self.variant(pairs, variants) {
                Some((key, child)) if !self.pass.is_aside(&child.path) => {
                    Variant { name: key.to_owned(), content: Some(child) }
                }
                None if pairs.is_empty() => {
                    return Err(<Fault as de::Error>::custom(one_of()).at(node, &path));
                }
                _ => return Err(Fault::quiet().at(node, &path)),
            },
            Value::Unset => return Err(Fault::quiet().at(node, &path)),
            _ => return Err(<Fault as de::Error>::custom(one_of()).at(node, &path)),
        };
        visitor.visit_enum(variant).map_err(|fault| fault.at(node, &path))
    }

    serde::forward_to_deserialize_any! { i128 u128 bytes byte_buf unit unit_struct tuple tuple_struct ignored_any }
}

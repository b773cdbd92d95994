//! The steps of a pipeline as a person writes them: plain data. What lies between a step and the columns
//! that come to it is [`crate::steps`]'s.

use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use sluice_filters::{Name, ValueExpression};
use sluice_formats::json::schema_from_fields;

use super::{Expression, Span};

/// Rows that `dedupe` looks back, if not said.
const WINDOW_ROWS: u64 = 100_000;
/// Rows that `dedupe` looks back at most; each takes about 100 bytes, for each queue.
pub const WINDOW_ROWS_MAX: u64 = 10_000_000;

/// A step after decoding.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Rows for which this is not TRUE are left out.
    Where(Expression),
    /// Which columns there are, and what they are computed of.
    Select(Box<Select>),
    /// Values that nobody shall read in the target.
    Mask(Mask),
    /// Sets `$route` of each row: the topic of a topic sink, or a partition of a file sink.
    Route(Computed),
    /// Properties of the messages of a topic sink.
    Headers(Headers),
    /// A row for each element of a list.
    Explode(Explode),
    /// Rows whose key another row before them has are left out.
    Dedupe(Dedupe),
    /// A statement of SQL over each record batch, the table `batch`.
    Sql(String),
}

impl Step {
    /// Its key in the file.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Where(_) => "where",
            Self::Select(_) => "select",
            Self::Mask(_) => "mask",
            Self::Route(_) => "route",
            Self::Headers(_) => "headers",
            Self::Explode(_) => "explode",
            Self::Dedupe(_) => "dedupe",
            Self::Sql(_) => "sql",
        }
    }

    /// Whether the columns after it are not those before it.
    pub(crate) fn changes_columns(&self) -> bool {
        matches!(self, Self::Select(_) | Self::Mask(_) | Self::Explode(_) | Self::Sql(_))
    }

    /// Each expression in it, below its key.
    pub fn expressions(&self) -> Vec<(Vec<String>, Part<'_>)> {
        let named = |key: &str, list: &'_ Ordered<Computed>| -> Vec<_> {
            let one = |(name, computed): &(String, Computed)| {
                (vec![key.to_owned(), name.clone()], computed.0.clone())
            };
            list.0.iter().map(one).collect()
        };
        let values = match self {
            Self::Where(Expression(filter)) => return vec![(Vec::new(), Part::Condition(filter))],
            Self::Route(Computed(value)) => vec![(Vec::new(), value.clone())],
            Self::Select(select) => {
                let column = |(at, column): (usize, &Column)| match column {
                    Column::All(_) => None,
                    Column::One(name, Computed(value)) => {
                        let path = ["columns".to_owned(), format!("[{at}]")];
                        Some((path.into_iter().chain(name.clone()).collect(), value.clone()))
                    }
                };
                let columns = select.columns.iter().flatten().enumerate().filter_map(column);
                columns.chain(named("set", &select.set)).collect()
            }
            Self::Headers(headers) => named("set", &headers.set),
            Self::Dedupe(dedupe) => {
                let one = |(at, Computed(value)): (usize, &Computed)| {
                    let at = dedupe.key.is_list.then(|| format!("[{at}]"));
                    (std::iter::once("key".to_owned()).chain(at).collect(), value.clone())
                };
                dedupe.key.items.iter().enumerate().map(one).collect()
            }
            Self::Mask(_) | Self::Explode(_) | Self::Sql(_) => Vec::new(),
        };
        values.into_iter().map(|(path, value)| (path, Part::Value(value))).collect()
    }
}

/// An expression of a step.
pub enum Part<'a> {
    /// It says which rows pass.
    Condition(&'a sluice_filters::Filter),
    /// It makes a value.
    Value(ValueExpression),
}

impl Part<'_> {
    /// What it names.
    pub fn names(&self) -> &BTreeSet<Name> {
        match self {
            Self::Condition(filter) => filter.names(),
            Self::Value(value) => value.names(),
        }
    }
}

/// A value expression, compiled.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Computed(pub ValueExpression);

impl TryFrom<String> for Computed {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        ValueExpression::parse(&text)
            .map(Self)
            .map_err(|error| format!("{error}\n    {}", error.pointer().replace('\n', "\n    ")))
    }
}

/// Which columns there are; done in the order of these keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Select {
    /// The columns, and no others; all if not said.
    #[serde(default)]
    pub columns: Option<Vec<Column>>,
    /// Columns that are computed, beside those there are or in their place.
    #[serde(default)]
    pub set: Ordered<Computed>,
    /// Structs whose fields become columns `struct_field`, at any depth.
    #[serde(default)]
    pub flatten: Vec<String>,
    /// Columns of another type; a value that does not convert is a record error.
    #[serde(default)]
    pub cast: Ordered<TypeName>,
    /// Columns that are left out.
    #[serde(default)]
    pub drop: Vec<String>,
    /// New names by the old ones.
    #[serde(default)]
    pub rename: Ordered<String>,
}

/// One entry of `columns`.
#[derive(Clone, Debug)]
pub enum Column {
    /// `$.*`, or `$.a.*`: all fields of the body, or of a struct in it.
    All(Vec<String>),
    /// An expression, with a name unless it is a name itself.
    One(Option<String>, Computed),
}

impl<'de> Deserialize<'de> for Column {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneColumn;
        impl<'de> Visitor<'de> for OneColumn {
            type Value = Column;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an expression, `$.*`, or a name with its expression")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Column, E> {
                match text.strip_suffix(".*") {
                    Some("$") => Ok(Column::All(Vec::new())),
                    Some(path) => Ok(Column::All(FieldPath::try_from(path.to_owned()).map_err(E::custom)?.0)),
                    None => {
                        let computed = Computed::try_from(text.to_owned()).map_err(E::custom)?;
                        if computed.0.name().is_none() {
                            let named = "what is computed needs a name: write `- {name: expression}`";
                            return Err(E::custom(named));
                        }
                        Ok(Column::One(None, computed))
                    }
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Column, A::Error> {
                let Some((name, computed)) = map.next_entry::<String, Computed>()? else {
                    return Err(de::Error::custom("expected a name with its expression"));
                };
                if map.next_key::<String>()?.is_some() {
                    return Err(de::Error::custom(
                        "expected one name with its expression: each has its own `-`",
                    ));
                }
                Ok(Column::One(Some(name), computed))
            }
        }
        deserializer.deserialize_any(OneColumn)
    }
}

/// A type as in `decode.schema.fields`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct TypeName(pub arrow::datatypes::DataType);

impl TryFrom<String> for TypeName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let schema = schema_from_fields(&[("column".to_owned(), text)]).map_err(|e| e.to_string())?;
        Ok(Self(schema.field(0).data_type().clone()))
    }
}

/// A field of the decoded body, written `$.a.b`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct FieldPath(pub Vec<String>);

impl TryFrom<String> for FieldPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parsed = ValueExpression::parse(&text).ok();
        match parsed.as_ref().and_then(ValueExpression::name) {
            Some(Name::Field(path)) => Ok(Self(path.clone())),
            _ => Err(format!("{text:?} is no field of the decoded body, which is written `$.field`")),
        }
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Name::Field(self.0.clone()).fmt(f)
    }
}

/// Values that nobody shall read in the target. Nulls stay nulls.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mask {
    /// Fields that become HMAC-SHA-256 of their text, in hex: equal values stay equal.
    #[serde(default)]
    pub hash: Vec<FieldPath>,
    /// Fields whose text becomes `***`, and whose other values become null.
    #[serde(default)]
    pub redact: Vec<FieldPath>,
    /// The key of the hashes; written `${VAR}`.
    #[serde(default)]
    pub secret: Option<Secret>,
}

/// A value that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Properties of messages; `$tags` and `$keys` name the tag and the keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Headers {
    /// Properties that are set; one whose value is null is not there.
    #[serde(default)]
    pub set: Ordered<Computed>,
    /// Properties that are left out.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// A row for each element of a list. They share their queue offset, and so their fate counts once.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explode {
    /// The list.
    pub field: FieldPath,
    /// The element's column; the list's name if not said.
    #[serde(default, rename = "as")]
    pub name: Option<String>,
    /// Whether a row without elements stays, with a null; it is filtered if not.
    #[serde(default)]
    pub keep_empty: bool,
}

/// A row is left out if the last row with its key lies in the window before it. The window is one of queue
/// offsets of the same queue, so what is left out follows from the queue alone, whatever crashes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dedupe {
    /// One expression or several; a row with a null among them is never left out.
    pub key: Many<Computed>,
    /// How far the window reaches back, in offsets.
    #[serde(default = "window_rows")]
    pub rows: u64,
    /// How far it reaches back by the time when rows were stored; not limited if not said.
    #[serde(default)]
    pub age: Option<Span>,
}

fn window_rows() -> u64 {
    WINDOW_ROWS
}

/// One item, or a list of some.
#[derive(Clone, Debug)]
pub struct Many<T> {
    /// The items, at least one.
    pub items: Vec<T>,
    /// Whether they were written as a list.
    pub is_list: bool,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrMore<T> {
            type Value = Many<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an expression or a list of expressions")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Many<T>, E> {
                let item = T::deserialize(de::value::StrDeserializer::new(text))?;
                Ok(Many { items: vec![item], is_list: false })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Many<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                if items.is_empty() {
                    return Err(de::Error::custom("an empty list, expected an expression"));
                }
                Ok(Many { items, is_list: true })
            }
        }
        deserializer.deserialize_any(OneOrMore(PhantomData))
    }
}

/// Names with what belongs to each, in the order of the file.
#[derive(Clone, Debug)]
pub struct Ordered<T>(pub Vec<(String, T)>);

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Ordered<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of names")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered<T>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Ordered(pairs))
            }
        }
        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

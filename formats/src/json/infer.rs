//! A schema from the first bodies.
//!
//! Each body has a shape; the shapes of all bodies are merged into the smallest shape that takes them all.
//! What disagrees becomes text that holds every value (see [`ANY`]).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::number::{WIDE, exact_float, wide_integer};
use super::{ANY, Trouble};
use crate::path::Step;
use crate::{DEPTH_MAX, FIELDS_MAX};

/// Gathers what bodies have in common.
///
/// bool, int64, float64, utf8, list and struct, all nullable, columns in the order of first appearance.
/// Integers and floats together are float64, unless an integer would lose digits; so are integers beyond 64 bits that a float holds exactly. A field that was only
/// ever null is utf8; so are the items of a list that was always empty. Kinds that disagree, and objects
/// that were always empty, are utf8 with [`ANY`].
#[derive(Default)]
pub struct Inferer {
    root: Object,
    rows: usize,
    trouble: Trouble,
}

impl Inferer {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a body into account, or says why it can't be a row; then nothing has changed.
    pub fn add(&mut self, body: &[u8]) -> Result<(), String> {
        let text =
            std::str::from_utf8(body).map_err(|e| format!("$: not UTF-8 at byte {}", e.valid_up_to()))?;
        self.trouble.begin();
        let mut shape = self.look(text)?;
        if self.trouble.wide {
            self.trouble.by_text = true;
            shape = self.look(text)?;
        }
        let Shape::Object(row) = shape else { return Err("$: expected an object".to_owned()) };
        if self.root.fields() + row.fields() <= FIELDS_MAX {
            self.root.merge(row);
        } else {
            // Only a merge can tell how many fields are new.
            let mut merged = self.root.clone();
            merged.merge(row);
            if merged.fields() > FIELDS_MAX {
                return Err(format!("$: with this row the schema would have more than {FIELDS_MAX} fields"));
            }
            self.root = merged;
        }
        self.rows += 1;
        Ok(())
    }

    fn look(&mut self, text: &str) -> Result<Shape, String> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        Look { level: 0, trouble: &mut self.trouble }
            .deserialize(&mut deserializer)
            .and_then(|shape| deserializer.end().map(|()| shape))
            .map_err(|e| self.trouble.take(&e))
    }

    /// Bodies that were taken into account.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The schema that takes all of them.
    pub fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.root.to_fields()))
    }

    /// The same without the fields that showed no type yet: only null, and lists and objects of nothing else.
    pub fn shown(&self) -> SchemaRef {
        let mut root = self.root.clone();
        root.leave_out_empty();
        Arc::new(Schema::new(root.to_fields()))
    }
}

/// What a value looks like, or what many have in common.
#[derive(Clone)]
enum Shape {
    Null,
    Bool,
    /// `exact`: as a float too.
    Int {
        exact: bool,
    },
    Float,
    Text,
    List(Box<Shape>),
    Object(Object),
    Any,
}

#[derive(Clone, Default)]
struct Object {
    fields: Vec<(String, Shape)>,
    index: HashMap<String, usize>,
}

impl Object {
    /// Fields at all levels.
    fn fields(&self) -> usize {
        self.fields.iter().map(|(_, shape)| 1 + shape.fields()).sum()
    }

    fn merge(&mut self, other: Self) {
        for (at, (name, shape)) in other.fields.into_iter().enumerate() {
            let found = match self.fields.get(at) {
                Some((same, _)) if *same == name => Some(at),
                _ => self.index.get(&name).copied(),
            };
            match found {
                Some(found) => self.fields[found].1.merge(shape),
                None => self.push(name, shape),
            }
        }
    }

    fn push(&mut self, name: String, shape: Shape) {
        self.index.insert(name.clone(), self.fields.len());
        self.fields.push((name, shape));
    }

    fn leave_out_empty(&mut self) {
        self.fields.retain_mut(|(_, shape)| {
            shape.leave_out_empty();
            !shape.is_empty()
        });
    }

    fn to_fields(&self) -> Vec<Field> {
        self.fields.iter().map(|(name, shape)| shape.to_field(name)).collect()
    }
}

impl Shape {
    fn fields(&self) -> usize {
        match self {
            Self::List(item) => item.fields(),
            Self::Object(object) => object.fields(),
            _ => 0,
        }
    }

    /// Whether no value has shown a type.
    fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::List(item) => item.is_empty(),
            Self::Object(object) => object.fields.iter().all(|(_, shape)| shape.is_empty()),
            _ => false,
        }
    }

    fn leave_out_empty(&mut self) {
        match self {
            Self::List(item) => item.leave_out_empty(),
            Self::Object(object) => object.leave_out_empty(),
            _ => {}
        }
    }

    fn merge(&mut self, other: Self) {
        *self = match (std::mem::replace(self, Self::Null), other) {
            (Self::Null, shape) | (shape, Self::Null) => shape,
            (Self::Bool, Self::Bool) => Self::Bool,
            (Self::Int { exact: a }, Self::Int { exact: b }) => Self::Int { exact: a && b },
            (Self::Float, Self::Float | Self::Int { exact: true })
            | (Self::Int { exact: true }, Self::Float) => Self::Float,
            (Self::Text, Self::Text) => Self::Text,
            (Self::List(mut a), Self::List(b)) => {
                a.merge(*b);
                Self::List(a)
            }
            (Self::Object(mut a), Self::Object(b)) => {
                a.merge(b);
                Self::Object(a)
            }
            _ => Self::Any,
        }
    }

    fn to_field(&self, name: &str) -> Field {
        let data_type = match self {
            Self::Bool => DataType::Boolean,
            Self::Int { .. } => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::List(item) => DataType::List(Arc::new(item.to_field("item"))),
            // Parquet has no struct without fields.
            Self::Object(object) if !object.fields.is_empty() => DataType::Struct(object.to_fields().into()),
            Self::Null | Self::Text => DataType::Utf8,
            Self::Any | Self::Object(_) => {
                let any = HashMap::from([(ANY.0.to_owned(), ANY.1.to_owned())]);
                return Field::new(name, DataType::Utf8, true).with_metadata(any);
            }
        };
        Field::new(name, data_type, true)
    }
}

/// Reads the value of a key; whether it shows no type.
pub(super) fn shows_no_type<'de, A: MapAccess<'de>>(
    map: &mut A,
    level: usize,
    trouble: &mut Trouble,
) -> Result<bool, A::Error> {
    map.next_value_seed(Look { level, trouble }).map(|shape| shape.is_empty())
}

/// Reads the shape of one value.
struct Look<'a> {
    /// Level of the object or array around the value.
    level: usize,
    trouble: &'a mut Trouble,
}

impl Look<'_> {
    fn deeper<E: serde::de::Error>(&mut self) -> Result<usize, E> {
        if self.level == DEPTH_MAX {
            return Err(self.trouble.stop(format!("nested more than {DEPTH_MAX} levels deep")));
        }
        Ok(self.level + 1)
    }
}

impl<'de> DeserializeSeed<'de> for Look<'_> {
    type Value = Shape;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        if !self.trouble.by_text {
            return deserializer.deserialize_any(self);
        }
        let text = <&RawValue as Deserialize>::deserialize(deserializer)?.get();
        match wide_integer(text) {
            Some(Ok(_)) => Ok(Shape::Float),
            Some(Err(())) => Ok(Shape::Any),
            // What is wrong with it was found when the body was looked at first.
            None => serde_json::Deserializer::from_str(text).deserialize_any(self).map_err(D::Error::custom),
        }
    }
}

impl<'de> Visitor<'de> for Look<'_> {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Bool)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Shape, E> {
        Ok(Shape::Int { exact: exact_float(i128::from(value)).is_some() })
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Shape, E> {
        let exact = exact_float(i128::from(value)).is_some();
        Ok(match i64::try_from(value) {
            Ok(_) => Shape::Int { exact },
            Err(_) if exact => Shape::Float,
            Err(_) => Shape::Any,
        })
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Shape, E> {
        self.trouble.wide |= value.abs() >= WIDE;
        Ok(Shape::Float)
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Text)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Shape, A::Error> {
        let level = self.deeper()?;
        let (mut shape, mut items) = (Shape::Null, 0);
        loop {
            match seq.next_element_seed(Look { level, trouble: &mut *self.trouble }) {
                Ok(Some(item)) => shape.merge(item),
                Ok(None) => return Ok(Shape::List(Box::new(shape))),
                Err(error) => {
                    self.trouble.path.push(Step::Item(items));
                    return Err(error);
                }
            }
            items += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Shape, A::Error> {
        let level = self.deeper()?;
        let mut object = Object::default();
        while let Some(name) = map.next_key::<String>()? {
            if object.index.contains_key(&name) {
                self.trouble.path.push(Step::Field(name));
                return Err(self.trouble.stop("the key stands twice".to_owned()));
            }
            if object.fields.len() == FIELDS_MAX {
                return Err(self.trouble.stop(format!("more than {FIELDS_MAX} fields")));
            }
            match map.next_value_seed(Look { level, trouble: &mut *self.trouble }) {
                Ok(shape) => object.push(name, shape),
                Err(error) => {
                    self.trouble.path.push(Step::Field(name));
                    return Err(error);
                }
            }
        }
        Ok(Shape::Object(object))
    }
}

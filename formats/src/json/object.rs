//! Objects: the body itself, and the fields of it and of objects in it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Trouble;
use super::decode::{Cell, quoted};
use super::infer::shows_no_type;
use crate::column::Columns;
use crate::column::Unknown;
use crate::path::{NO_COLUMN, Step};

/// The body itself.
pub(super) struct Row<'a> {
    pub(super) columns: &'a mut Columns,
    pub(super) number: usize,
    pub(super) trouble: &'a mut Trouble,
}

impl Row<'_> {
    fn mismatch<E: serde::de::Error>(self, got: &str) -> E {
        self.trouble.stop(format!("expected an object, got {got}"))
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        read_object(self.columns, map, self.number, 1, self.trouble)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.mismatch("a list"))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Err(self.mismatch("null"))
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        Err(self.mismatch(&value.to_string()))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        Err(self.mismatch(&value.to_string()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        Err(self.mismatch(&value.to_string()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        Err(self.mismatch(&value.to_string()))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        Err(self.mismatch(&quoted(value)))
    }
}

/// Reads an object's fields as row `row` of `columns`, with null for those that are missing.
pub(super) fn read_object<'de, A: MapAccess<'de>>(
    columns: &mut Columns,
    mut map: A,
    row: usize,
    level: usize,
    trouble: &mut Trouble,
) -> Result<(), A::Error> {
    let (mut guess, mut seen) = (0, 0);
    while let Some(index) = map.next_key_seed(Key { columns, guess, trouble })? {
        let index = match index {
            Found::Column(index) => index,
            Found::PassOver => {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            Found::Empty(name) => {
                if shows_no_type(&mut map, level, trouble)? {
                    continue;
                }
                trouble.wider = true;
                trouble.path.push(Step::Field(name));
                return Err(trouble.stop(NO_COLUMN.to_owned()));
            }
        };
        let column = &mut columns.columns[index];
        if column.len() > row {
            trouble.path.push(Step::Field(column.field.name().clone()));
            return Err(trouble.stop("the key stands twice".to_owned()));
        }
        if let Err(error) = map.next_value_seed(Cell { column: &mut *column, level, trouble: &mut *trouble })
        {
            trouble.path.push(Step::Field(column.field.name().clone()));
            return Err(error);
        }
        guess = index + 1;
        seen += 1;
    }
    if seen < columns.columns.len() {
        columns.pad(row + 1);
    }
    Ok(())
}

/// Where the value of a key goes.
enum Found {
    /// Into the column at this place.
    Column(usize),
    /// Nowhere.
    PassOver,
    /// Nowhere, if it shows no type; the key's name for a reason.
    Empty(String),
}

/// A key, as what it finds.
struct Key<'a> {
    columns: &'a Columns,
    guess: usize,
    trouble: &'a mut Trouble,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Found;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    #[inline]
    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Found, E> {
        match (self.columns.find(name, self.guess), self.columns.unknown) {
            (Some(index), _) => Ok(Found::Column(index)),
            (None, Unknown::PassOver) => Ok(Found::PassOver),
            (None, Unknown::PassEmpty) => Ok(Found::Empty(name.to_owned())),
            (None, Unknown::Refuse) => {
                self.trouble.wider = true;
                self.trouble.path.push(Step::Field(name.to_owned()));
                Err(self.trouble.stop(NO_COLUMN.to_owned()))
            }
        }
    }
}

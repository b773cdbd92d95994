//! Objects: the body itself, and the fields of it and of objects in it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::column::Columns;
use super::decode::{Cell, quoted};
use super::{Step, Trouble};

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
        let Some(index) = index else {
            map.next_value::<IgnoredAny>()?;
            continue;
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

/// A key, as the index of its column; `None` if it is passed over.
struct Key<'a> {
    columns: &'a Columns,
    guess: usize,
    trouble: &'a mut Trouble,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    #[inline]
    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Option<usize>, E> {
        let found = self.columns.find(name, self.guess);
        if found.is_none() && !self.columns.skips {
            self.trouble.path.push(Step::Field(name.to_owned()));
            return Err(self.trouble.stop("the schema has no such field".to_owned()));
        }
        Ok(found)
    }
}

//! How a schema grows: by new columns, and by types that hold each value of the old ones.
//!
//! | from | to |
//! |---|---|
//! | Int32 | Int64, Float64 |
//! | Float32 | Float64 |
//! | Date32, Time32(ms) | - , Time64(us) |
//! | Timestamp | a finer unit |
//! | Decimal128 | more digits on either side of the point, up to 38 |
//! | List, Map, Struct | with parts that grew; a Struct also by new fields |
//!
//! Columns keep their order, and new ones come last, so a reader that unites files by column names reads both.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};

use crate::column::is_any;
use crate::{FIELDS_MAX, json, scalar};

/// Two schemas that no wider one takes both of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The column, with those around it.
    pub path: String,
    /// Its type that stands.
    pub standing: String,
    /// The other one.
    pub proposed: String,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} stands, and {} does not fit it", self.path, self.standing, self.proposed)
    }
}

/// The smallest schema that takes the rows of both; the standing one itself if it does.
pub fn widened(standing: &SchemaRef, proposed: &SchemaRef) -> Result<SchemaRef, Conflict> {
    let fields = fields(standing.fields(), proposed.fields(), "$")?;
    if fields == *standing.fields() {
        return Ok(Arc::clone(standing));
    }
    let columns = fields.iter().map(|field| count(field)).sum::<usize>();
    if columns > FIELDS_MAX {
        return Err(Conflict {
            path: "$".to_owned(),
            standing: format!("a schema of at most {FIELDS_MAX} fields"),
            proposed: format!("one of {columns}"),
        });
    }
    Ok(Arc::new(Schema::new_with_metadata(fields, standing.metadata().clone())))
}

/// Whether a schema takes all rows of another one.
pub fn covers(standing: &SchemaRef, other: &SchemaRef) -> bool {
    widened(standing, other).is_ok_and(|wider| wider.fields() == standing.fields())
}

fn count(field: &Field) -> usize {
    1 + match field.data_type() {
        DataType::Struct(fields) => fields.iter().map(|f| count(f)).sum(),
        DataType::List(item) => count(item) - 1,
        DataType::Map(entries, _) => count(entries) - 1,
        _ => 0,
    }
}

fn fields(standing: &Fields, proposed: &Fields, path: &str) -> Result<Fields, Conflict> {
    let mut all: Vec<FieldRef> = standing.iter().cloned().collect();
    for new in proposed {
        let inside = format!("{path}.{}", new.name());
        match all.iter_mut().find(|field| field.name() == new.name()) {
            None => all.push(Arc::clone(new)),
            Some(old) => *old = field(old, new, &inside)?,
        }
    }
    Ok(all.into())
}

fn field(standing: &FieldRef, proposed: &FieldRef, path: &str) -> Result<FieldRef, Conflict> {
    // Text of any value takes all.
    if is_any(standing) {
        return Ok(Arc::clone(standing));
    }
    let data_type = data_type(standing.data_type(), proposed.data_type(), path)?;
    if is_any(proposed) && !is_any(standing) {
        return Err(conflict(path, standing.data_type(), "values of several types"));
    }
    if data_type == *standing.data_type() {
        return Ok(Arc::clone(standing));
    }
    Ok(Arc::new(standing.as_ref().clone().with_data_type(data_type)))
}

fn conflict(path: &str, standing: &DataType, proposed: &str) -> Conflict {
    Conflict { path: path.to_owned(), standing: scalar::written(standing), proposed: proposed.to_owned() }
}

fn data_type(standing: &DataType, proposed: &DataType, path: &str) -> Result<DataType, Conflict> {
    use DataType::{
        Decimal128, Float32, Float64, Int32, Int64, List, Map, Struct, Time32, Time64, Timestamp, Utf8,
    };
    let keep = || Ok(standing.clone());
    match (standing, proposed) {
        (old, new) if old == new => keep(),
        // The value itself says whether it fits; text may be a time.
        (Int64, Int32) | (Float64, Int32 | Int64 | Float32) => keep(),
        (Timestamp(TimeUnit::Millisecond, Some(_)), Utf8) => keep(),
        (Int32, Int64) => Ok(Int64),
        (Int32 | Float32, Float64) | (Int32, Float32) | (Float32, Int32) => Ok(Float64),
        (Time64(_), Time32(_)) => keep(),
        (Time32(_), Time64(_)) => Ok(proposed.clone()),
        (Timestamp(old, zone), Timestamp(new, other)) if zone == other => {
            Ok(if finer(*new) > finer(*old) { proposed.clone() } else { standing.clone() })
        }
        (Decimal128(p, s), Decimal128(q, t)) => {
            let scale = (*s).max(*t);
            let whole = (i16::from(*p) - i16::from(*s)).max(i16::from(*q) - i16::from(*t));
            match u8::try_from(whole + i16::from(scale)) {
                Ok(precision) if precision <= 38 => Ok(Decimal128(precision, scale)),
                _ => Err(conflict(path, standing, &scalar::written(proposed))),
            }
        }
        (List(old), List(new)) => Ok(List(field(old, new, &format!("{path}[]"))?)),
        (Struct(old), Struct(new)) => Ok(Struct(fields(old, new, path)?)),
        (Map(old, sorted), Map(new, _)) => Ok(Map(field(old, new, path)?, *sorted)),
        _ => Err(conflict(path, standing, &scalar::written(proposed))),
    }
}

fn finer(unit: TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    }
}

/// The schema that takes the standing one and JSON bodies, gathered one by one: what conflicts is left out.
pub struct JsonGrowth {
    standing: SchemaRef,
    inferer: json::Inferer,
}

impl JsonGrowth {
    /// From the schema that stands.
    pub fn new(standing: SchemaRef) -> Self {
        Self { standing, inferer: json::Inferer::new() }
    }

    /// Takes a body into account if the schema can grow to take it.
    pub fn add(&mut self, body: &[u8]) {
        let mut alone = json::Inferer::new();
        if alone.add(body).is_ok() && widened(&self.standing, &alone.shown()).is_ok() {
            // Beyond the limits it stays a reject.
            let _ = self.inferer.add(body);
        }
    }

    /// The schema that takes them all, or the standing one.
    pub fn schema(&self) -> SchemaRef {
        widened(&self.standing, &self.inferer.shown()).unwrap_or_else(|_| Arc::clone(&self.standing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
        let fields = fields.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    #[test]
    fn a_type_grows_into_one_that_holds_each_of_its_values() {
        use DataType::{Date32, Decimal128, Float32, Float64, Int32, Int64, Timestamp, Utf8};
        let ms = Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        let us = Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let local = Timestamp(TimeUnit::Microsecond, None);
        for (old, new, expected) in [
            (Int32, Int64, Some(Int64)),
            (Int64, Int32, Some(Int64)),
            (Int32, Float64, Some(Float64)),
            (Int32, Float32, Some(Float64)),
            (Float32, Float64, Some(Float64)),
            (Float64, Int64, Some(Float64)),
            (Int64, Float64, None),
            (Int64, Utf8, None),
            (Utf8, Int64, None),
            (Date32, ms.clone(), None),
            (ms.clone(), us.clone(), Some(us.clone())),
            (us.clone(), ms, Some(us.clone())),
            (us, local, None),
            (Decimal128(5, 2), Decimal128(6, 4), Some(Decimal128(7, 4))),
            (Decimal128(38, 0), Decimal128(5, 2), None),
        ] {
            let (standing, proposed) = (schema(&[("a", old.clone())]), schema(&[("a", new.clone())]));
            let found = widened(&standing, &proposed);
            match expected {
                Some(expected) => assert_eq!(*found.unwrap().field(0).data_type(), expected, "{old} {new}"),
                None => assert_eq!(found.unwrap_err().path, "$.a", "{old} {new}"),
            }
        }
    }

    #[test]
    fn new_columns_come_last_at_each_level_and_what_stands_keeps_its_place() {
        let inner = |names: &[&str]| {
            let fields = names.iter().map(|n| Field::new(*n, DataType::Int64, true));
            DataType::Struct(fields.collect())
        };
        let standing = schema(&[("b", DataType::Utf8), ("s", inner(&["x"]))]);
        let proposed = schema(&[("a", DataType::Utf8), ("s", inner(&["w", "x"]))]);
        let wider = widened(&standing, &proposed).unwrap();
        assert_eq!(wider, schema(&[("b", DataType::Utf8), ("s", inner(&["x", "w"])), ("a", DataType::Utf8)]));
        assert!(covers(&wider, &standing) && covers(&wider, &proposed) && !covers(&standing, &proposed));
    }
}

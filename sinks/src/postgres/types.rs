//! Which of PostgreSQL's types hold which of Arrow's.
//!
//! | Arrow                                  | a column that is made          | columns that are there and take it          |
//! |----------------------------------------|--------------------------------|---------------------------------------------|
//! | Boolean                                | `boolean`                      | `boolean`, text                             |
//! | Int8, Int16, UInt8                     | `smallint`                     | integers, `numeric`, floats, text           |
//! | Int32, UInt16                          | `integer`                      | the same                                    |
//! | Int64, UInt32                          | `bigint`                       | the same                                    |
//! | UInt64                                 | `numeric(20)`                  | the same                                    |
//! | Float16, Float32                       | `real`                         | floats, `numeric`, text                     |
//! | Float64                                | `double precision`             | the same                                    |
//! | Decimal(p, s)                          | `numeric(p, s)`                | the same                                    |
//! | Utf8 and its views and dictionaries    | `text`                         | all: the server reads the text              |
//! | Binary and its views                   | `bytea`                        | `bytea`                                     |
//! | Date32, Date64                         | `date`                         | dates, timestamps, text                     |
//! | Time32, Time64                         | `time`                         | `time`, text                                |
//! | Timestamp with a zone                  | `timestamp with time zone`     | dates, timestamps, text; in UTC             |
//! | Timestamp without one                  | `timestamp`                    | the same                                    |
//! | Duration                               | `interval`                     | `interval`, text                            |
//! | List, Struct, Map                      | `jsonb`                        | `jsonb`, `json`, text                       |
//!
//! Text is `text`, `varchar` or `char`. A domain takes what a person made it for. Timestamps come down to microseconds;
//! in `jsonb` bytes are hexadecimal digits, and times as ISO 8601 has them.

use arrow::datatypes::DataType;

/// What values of a type are to PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Boolean,
    Integer,
    Decimal,
    Text,
    Bytes,
    Date,
    Time,
    Timestamp,
    Interval,
    Json,
}

impl Kind {
    /// `None` for types that have no place in a table.
    pub(super) fn of(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Boolean => Self::Boolean,
            data_type if data_type.is_integer() => Self::Integer,
            data_type if data_type.is_floating() || data_type.is_decimal() => Self::Decimal,
            DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text,
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => Self::Bytes,
            DataType::Date32 | DataType::Date64 => Self::Date,
            DataType::Time32(_) | DataType::Time64(_) => Self::Time,
            DataType::Timestamp(..) => Self::Timestamp,
            DataType::Duration(_) => Self::Interval,
            DataType::List(_)
            | DataType::LargeList(_)
            | DataType::FixedSizeList(..)
            | DataType::ListView(_)
            | DataType::LargeListView(_)
            | DataType::Struct(_)
            | DataType::Map(..) => Self::Json,
            DataType::Dictionary(_, values) => Self::of(values)?,
            _ => return None,
        })
    }

    /// Whether a column of this type, by its name in `pg_type`, takes such values at all.
    fn fits(self, type_name: &str) -> bool {
        let number = matches!(type_name, "int2" | "int4" | "int8" | "numeric" | "float4" | "float8");
        let json = matches!(type_name, "json" | "jsonb");
        let day = matches!(type_name, "date" | "timestamp" | "timestamptz");
        matches!(type_name, "text" | "varchar" | "bpchar") && self != Self::Bytes
            || match self {
                Self::Boolean => type_name == "bool",
                Self::Integer => number,
                Self::Decimal => number && !type_name.starts_with("int"),
                Self::Text => true,
                Self::Bytes => type_name == "bytea",
                Self::Date | Self::Timestamp => day,
                Self::Time => type_name == "time",
                Self::Interval => type_name == "interval",
                Self::Json => json,
            }
    }
}

/// The type of a column that is made for values of a type.
pub(super) fn made(data_type: &DataType) -> Option<String> {
    let fixed = match data_type {
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => "smallint",
        DataType::Int32 | DataType::UInt16 => "integer",
        DataType::Int64 | DataType::UInt32 => "bigint",
        DataType::UInt64 => "numeric(20)",
        DataType::Float16 | DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        DataType::Decimal32(digits, scale)
        | DataType::Decimal64(digits, scale)
        | DataType::Decimal128(digits, scale)
        | DataType::Decimal256(digits, scale) => return Some(numeric(*digits, *scale)),
        DataType::Timestamp(_, Some(_)) => "timestamp with time zone",
        DataType::Dictionary(_, values) => return made(values),
        other => match Kind::of(other)? {
            Kind::Boolean => "boolean",
            Kind::Text => "text",
            Kind::Bytes => "bytea",
            Kind::Date => "date",
            Kind::Time => "time",
            Kind::Timestamp => "timestamp",
            Kind::Interval => "interval",
            Kind::Json => "jsonb",
            Kind::Integer | Kind::Decimal => return None,
        },
    };
    Some(fixed.to_owned())
}

fn numeric(digits: u8, scale: i8) -> String {
    match u8::try_from(scale) {
        Ok(scale) => format!("numeric({}, {scale})", digits.max(scale)),
        // Zeros before the point, which the digits do not count.
        Err(_) => format!("numeric({})", u16::from(digits) + u16::from(scale.unsigned_abs())),
    }
}

/// Whether a column that is there takes values of a type. `is_plain` is false for domains and types that a person made.
pub(super) fn fits(data_type: &DataType, type_name: &str, is_plain: bool) -> bool {
    Kind::of(data_type).is_some_and(|kind| !is_plain || kind.fits(type_name))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{Field, TimeUnit};

    use super::*;

    #[test]
    fn each_type_has_a_column_and_fits_the_one_that_is_made_for_it() {
        let item = Arc::new(Field::new("item", DataType::Int64, true));
        let text = Box::new(DataType::Utf8);
        for (data_type, expected, name) in [
            (DataType::Boolean, "boolean", "bool"),
            (DataType::Int8, "smallint", "int2"),
            (DataType::UInt16, "integer", "int4"),
            (DataType::UInt32, "bigint", "int8"),
            (DataType::UInt64, "numeric(20)", "numeric"),
            (DataType::Float32, "real", "float4"),
            (DataType::Float64, "double precision", "float8"),
            (DataType::Decimal128(10, 2), "numeric(10, 2)", "numeric"),
            (DataType::Decimal128(5, -3), "numeric(8)", "numeric"),
            (DataType::Decimal256(2, 4), "numeric(4, 4)", "numeric"),
            (DataType::Utf8View, "text", "text"),
            (DataType::Dictionary(Box::new(DataType::Int32), text), "text", "varchar"),
            (DataType::BinaryView, "bytea", "bytea"),
            (DataType::Date32, "date", "date"),
            (DataType::Time64(TimeUnit::Microsecond), "time", "time"),
            (DataType::Timestamp(TimeUnit::Nanosecond, None), "timestamp", "timestamp"),
            (
                DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
                "timestamp with time zone",
                "timestamptz",
            ),
            (DataType::Duration(TimeUnit::Second), "interval", "interval"),
            (DataType::List(Arc::clone(&item)), "jsonb", "jsonb"),
            (DataType::Struct(vec![item].into()), "jsonb", "json"),
        ] {
            assert_eq!(made(&data_type).as_deref(), Some(expected), "{data_type}");
            assert!(fits(&data_type, name, true), "{data_type} does not fit {name}");
        }
    }

    #[test]
    fn values_that_no_row_could_give_to_a_column_are_refused_before_the_first() {
        for (data_type, name) in [
            (DataType::Boolean, "int4"),
            (DataType::Int64, "timestamp"),
            (DataType::Float64, "int8"),
            (DataType::BinaryView, "text"),
            (DataType::Date32, "int4"),
        ] {
            assert!(!fits(&data_type, name, true), "{data_type} fits {name}");
            assert!(fits(&data_type, name, false));
        }
        assert!(fits(&DataType::Utf8, "uuid", true) && fits(&DataType::Int64, "int4", true));
    }
}

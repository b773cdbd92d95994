//! Declared schemas: types as a person writes them in a pipeline file.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

use crate::column::Columns;
use crate::path::clipped;
use crate::{DEPTH_MAX, Error};

/// Names that other systems give to our types.
const OTHER_NAMES: [(&str, &str); 20] = [
    ("boolean", "bool"),
    ("int", "int64"),
    ("integer", "int64"),
    ("bigint", "int64"),
    ("long", "int64"),
    ("int32", "int64"),
    ("float", "float64"),
    ("float32", "float64"),
    ("double", "float64"),
    ("decimal", "float64"),
    ("number", "float64"),
    ("string", "utf8"),
    ("str", "utf8"),
    ("text", "utf8"),
    ("varchar", "utf8"),
    ("datetime", "timestamp"),
    ("date", "timestamp"),
    ("array", "list<…>"),
    ("object", "struct<name: …>"),
    ("map", "struct<name: …>"),
];

const NAMES: [&str; 7] = ["bool", "int64", "float64", "utf8", "timestamp", "list<…>", "struct<name: …>"];

/// The schema of fields with their types as written: `bool`, `int64`, `float64`, `utf8`, `timestamp`
/// (RFC 3339 text, kept as milliseconds UTC), `list<int64>`, `struct<a: int64, b: list<utf8>>`. All are nullable.
///
/// Fails for a type that is none of these, with the nearest one, for a name that stands twice, and
/// beyond [`crate::FIELDS_MAX`] and [`DEPTH_MAX`].
pub fn schema_from_fields(fields: &[(String, String)]) -> Result<SchemaRef, Error> {
    let fields = fields
        .iter()
        .map(|(name, written)| {
            let unknown = |hint| Error::UnknownType { field: name.clone(), written: clipped(written), hint };
            let mut rest = written.trim();
            let data_type = parse_type(&mut rest, 1).map_err(unknown)?;
            if !rest.is_empty() {
                return Err(unknown(format!("`{}` follows the type", clipped(rest))));
            }
            Ok(Field::new(name, data_type, true))
        })
        .collect::<Result<Vec<Field>, Error>>()?;
    let schema = Schema::new(fields);
    // The decoder's own checks: doubled names and limits.
    Columns::new(schema.fields())?;
    Ok(Arc::new(schema))
}

/// Refuses columns of types that JSON has no values of.
pub(crate) fn check_types(fields: &Fields) -> Result<(), Error> {
    check_below(fields, "")
}

fn check_below(fields: &Fields, parent: &str) -> Result<(), Error> {
    for field in fields {
        let mut path =
            if parent.is_empty() { field.name().clone() } else { format!("{parent}.{}", field.name()) };
        let mut data_type = field.data_type();
        while let DataType::List(item) = data_type {
            data_type = item.data_type();
            path.push_str("[]");
        }
        match data_type {
            DataType::Boolean | DataType::Int64 | DataType::Float64 | DataType::Utf8 => {}
            DataType::Timestamp(TimeUnit::Millisecond, Some(_)) => {}
            DataType::Struct(fields) => check_below(fields, &path)?,
            _ => {
                let (data_type, nullable) = (data_type.clone(), field.is_nullable());
                return Err(Error::UnsupportedColumn { column: path, data_type, nullable });
            }
        }
    }
    Ok(())
}

/// Takes one type from the front of `rest`, with the blanks that follow it; the error is a hint.
fn parse_type(rest: &mut &str, level: usize) -> Result<DataType, String> {
    if level > DEPTH_MAX {
        return Err(format!("it nests more than {DEPTH_MAX} levels deep"));
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    *rest = after.trim_start();
    Ok(match name {
        "bool" => DataType::Boolean,
        "int64" => DataType::Int64,
        "float64" => DataType::Float64,
        "utf8" => DataType::Utf8,
        "timestamp" => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
        "list" => {
            expect(rest, '<', "write `list<int64>`")?;
            let item = parse_type(rest, level + 1)?;
            expect(rest, '>', "write `list<int64>`")?;
            DataType::List(Arc::new(Field::new("item", item, true)))
        }
        "struct" => DataType::Struct(parse_struct(rest, level)?.into()),
        _ => return Err(hint(name)),
    })
}

fn parse_struct(rest: &mut &str, level: usize) -> Result<Vec<Field>, String> {
    const FORM: &str = "write `struct<a: int64, b: utf8>`";
    expect(rest, '<', FORM)?;
    let (mut fields, mut names) = (Vec::new(), HashSet::new());
    loop {
        let end = rest.find([':', ',', '<', '>']).ok_or(FORM)?;
        let (name, after) = rest.split_at(end);
        *rest = after;
        let name = name.trim();
        expect(rest, ':', FORM)?;
        if name.is_empty() {
            return Err(FORM.to_owned());
        }
        if !names.insert(name) {
            return Err(format!("`{}` stands twice in it", clipped(name)));
        }
        fields.push(Field::new(name, parse_type(rest, level + 1)?, true));
        if expect(rest, ',', FORM).is_err() {
            expect(rest, '>', FORM)?;
            return Ok(fields);
        }
    }
}

/// Takes one character and the blanks after it.
fn expect(rest: &mut &str, wanted: char, form: &str) -> Result<(), String> {
    *rest = rest.strip_prefix(wanted).ok_or(form)?.trim_start();
    Ok(())
}

fn hint(name: &str) -> String {
    let lower = name.to_lowercase();
    let near = OTHER_NAMES.iter().find(|(other, _)| *other == lower).map(|(_, ours)| *ours).or_else(|| {
        NAMES.into_iter().find(|known| {
            let known = known.split('<').next().unwrap_or(known);
            strsim::damerau_levenshtein(&lower, known) <= 2
        })
    });
    match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the types are {}", NAMES.join(", ")),
    }
}

//! Columns of a table, as Arrow and as Iceberg have them. A column of Iceberg is known by its id, which stands in the
//! schema of each data file as well (`field_id` of Parquet), and not by its name.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, TimeUnit};
use iceberg::spec::{
    ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, Schema as Columns, StructType, Type,
};
use iceberg::transaction::AddColumn;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

/// The table's columns as Arrow has them, with their ids.
pub(super) fn to_arrow(table: &StructType) -> Schema {
    Schema::new(fields(table))
}

fn fields(table: &StructType) -> Fields {
    table.fields().iter().map(|field| Arc::new(arrow_field(field, &field.name))).collect()
}

fn arrow_field(field: &NestedField, name: &str) -> Field {
    let data_type = arrow_type(&field.field_type);
    Field::new(name, data_type, !field.required).with_metadata(id(field.id))
}

fn id(id: i32) -> HashMap<String, String> {
    HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())])
}

fn arrow_type(table: &Type) -> DataType {
    match table {
        Type::Struct(inner) => DataType::Struct(fields(inner)),
        Type::List(list) => DataType::List(Arc::new(arrow_field(&list.element_field, "element"))),
        Type::Map(map) => {
            let entries = [arrow_field(&map.key_field, "key"), arrow_field(&map.value_field, "value")];
            let entries = DataType::Struct(entries.into_iter().map(Arc::new).collect());
            DataType::Map(Arc::new(Field::new("key_value", entries, false)), false)
        }
        Type::Primitive(primitive) => arrow_primitive(primitive),
    }
}

fn arrow_primitive(table: &PrimitiveType) -> DataType {
    let utc = || Some("UTC".into());
    match table {
        PrimitiveType::Boolean => DataType::Boolean,
        PrimitiveType::Int => DataType::Int32,
        PrimitiveType::Long => DataType::Int64,
        PrimitiveType::Float => DataType::Float32,
        PrimitiveType::Double => DataType::Float64,
        PrimitiveType::Decimal { precision, scale } => {
            // Of at most 38 digits.
            DataType::Decimal128(u8::try_from(*precision).unwrap_or(38), i8::try_from(*scale).unwrap_or(38))
        }
        PrimitiveType::Date => DataType::Date32,
        PrimitiveType::Time => DataType::Time64(TimeUnit::Microsecond),
        PrimitiveType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        PrimitiveType::Timestamptz => DataType::Timestamp(TimeUnit::Microsecond, utc()),
        PrimitiveType::TimestampNs => DataType::Timestamp(TimeUnit::Nanosecond, None),
        PrimitiveType::TimestamptzNs => DataType::Timestamp(TimeUnit::Nanosecond, utc()),
        PrimitiveType::String => DataType::Utf8,
        PrimitiveType::Uuid => DataType::FixedSizeBinary(16),
        PrimitiveType::Fixed(bytes) => DataType::FixedSizeBinary(i32::try_from(*bytes).unwrap_or(i32::MAX)),
        PrimitiveType::Binary => DataType::Binary,
    }
}

/// The columns of a table that is made for rows with these.
pub(super) fn columns(rows: &Schema) -> Result<Columns, String> {
    let mut next = 0;
    let fields = iceberg_fields(rows.fields(), &mut next)?;
    Columns::builder().with_fields(fields).build().map_err(|e| e.to_string())
}

/// Numbered as a catalog would: the fields of a struct first, and then what is inside of them.
fn iceberg_fields(rows: &Fields, next: &mut i32) -> Result<Vec<NestedFieldRef>, String> {
    let ids: Vec<i32> = rows.iter().map(|_| take(next)).collect();
    let field = |(field, id): (&FieldRef, i32)| {
        let field_type = iceberg_type(field.data_type(), next)?;
        Ok(Arc::new(NestedField::optional(id, field.name(), field_type)))
    };
    rows.iter().zip(ids).map(field).collect()
}

fn take(next: &mut i32) -> i32 {
    *next += 1;
    *next
}

/// The table's type of a column that is cast to it already.
fn iceberg_type(rows: &DataType, next: &mut i32) -> Result<Type, String> {
    let primitive = match rows {
        DataType::Struct(fields) => return Ok(Type::Struct(StructType::new(iceberg_fields(fields, next)?))),
        DataType::List(element) => {
            let id = take(next);
            let inner = iceberg_type(element.data_type(), next)?;
            let element_field = Arc::new(NestedField::list_element(id, inner, false));
            return Ok(Type::List(ListType { element_field }));
        }
        DataType::Map(entries, _) => {
            let (key, value) = entry(entries)?;
            let (key_id, value_id) = (take(next), take(next));
            let key = NestedField::map_key_element(key_id, iceberg_type(key.data_type(), next)?);
            let value =
                NestedField::map_value_element(value_id, iceberg_type(value.data_type(), next)?, false);
            return Ok(Type::Map(MapType { key_field: Arc::new(key), value_field: Arc::new(value) }));
        }
        DataType::Boolean => PrimitiveType::Boolean,
        DataType::Int32 => PrimitiveType::Int,
        DataType::Int64 => PrimitiveType::Long,
        DataType::Float32 => PrimitiveType::Float,
        DataType::Float64 => PrimitiveType::Double,
        DataType::Decimal128(precision, scale) => PrimitiveType::Decimal {
            precision: u32::from(*precision),
            scale: u32::try_from(*scale).map_err(|_| "a decimal has a scale below 0".to_owned())?,
        },
        DataType::Date32 => PrimitiveType::Date,
        DataType::Time64(TimeUnit::Microsecond) => PrimitiveType::Time,
        DataType::Timestamp(TimeUnit::Microsecond, None) => PrimitiveType::Timestamp,
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => PrimitiveType::Timestamptz,
        DataType::Utf8 => PrimitiveType::String,
        DataType::Binary => PrimitiveType::Binary,
        other => return Err(format!("{other} is no type of a table")),
    };
    Ok(Type::Primitive(primitive))
}

fn entry(entries: &Field) -> Result<(&FieldRef, &FieldRef), String> {
    match entries.data_type() {
        DataType::Struct(fields) => match &fields[..] {
            [key, value] => Ok((key, value)),
            _ => Err("a map has entries of other than two fields".to_owned()),
        },
        _ => Err("a map has entries that are no struct".to_owned()),
    }
}

/// A column that a table lacks.
pub(super) struct Missing {
    /// The column that it is inside of, by its full name; `None` at the top.
    parent: Option<String>,
    name: String,
    field_type: Type,
}

impl Missing {
    /// Its full name.
    pub(super) fn shown(&self) -> String {
        self.parent.as_ref().map_or_else(|| self.name.clone(), |parent| format!("{parent}.{}", self.name))
    }

    pub(super) fn add(self) -> AddColumn {
        // Ids are given by who adds it.
        match self.parent {
            Some(parent) => {
                let column = AddColumn::builder().name(self.name).field_type(self.field_type);
                column.parent(parent).build()
            }
            None => AddColumn::optional(self.name, self.field_type),
        }
    }
}

/// The columns of rows that a table lacks, at any depth; an error if the table has one that the rows must have and do
/// not.
pub(super) fn missing(rows: &Schema, table: &StructType) -> Result<Vec<Missing>, String> {
    let mut found = Vec::new();
    missing_fields(rows.fields(), table, None, &mut found)?;
    Ok(found)
}

fn missing_fields(
    rows: &Fields,
    table: &StructType,
    above: Option<&str>,
    found: &mut Vec<Missing>,
) -> Result<(), String> {
    let full = |name: &str| above.map_or_else(|| name.to_owned(), |above| format!("{above}.{name}"));
    for field in rows {
        match table.field_by_name(field.name()) {
            Some(standing) => {
                missing_in(field.data_type(), &standing.field_type, &full(field.name()), found)?;
            }
            None => {
                let field_type = iceberg_type(field.data_type(), &mut 0)?;
                let parent = above.map(str::to_owned);
                found.push(Missing { parent, name: field.name().clone(), field_type });
            }
        }
    }
    for standing in table.fields() {
        let given = rows.iter().find(|field| *field.name() == standing.name);
        if standing.required && given.is_none_or(|field| field.is_nullable()) {
            return Err(format!(
                "its column `{}` must not be null, and the rows may be without it: make it optional in the table",
                full(&standing.name)
            ));
        }
    }
    Ok(())
}

fn missing_in(rows: &DataType, table: &Type, shown: &str, found: &mut Vec<Missing>) -> Result<(), String> {
    match (rows, table) {
        (DataType::Struct(rows), Type::Struct(table)) => missing_fields(rows, table, Some(shown), found),
        (DataType::List(rows), Type::List(table)) => {
            let inner = &table.element_field.field_type;
            missing_in(rows.data_type(), inner, &format!("{shown}.element"), found)
        }
        (DataType::Map(entries, _), Type::Map(table)) => {
            let (key, value) = entry(entries)?;
            missing_in(key.data_type(), &table.key_field.field_type, &format!("{shown}.key"), found)?;
            missing_in(value.data_type(), &table.value_field.field_type, &format!("{shown}.value"), found)
        }
        // Whether the types fit is looked at before.
        _ => Ok(()),
    }
}

/// The rows' columns with the ids that the table has them by; an error with the name of one that it lacks.
pub(super) fn with_ids(rows: &Fields, table: &StructType) -> Result<Fields, String> {
    let field = |field: &FieldRef| {
        let standing = table
            .field_by_name(field.name())
            .ok_or_else(|| format!("it has no column `{}`", field.name()))?;
        with_id(field, standing).map(Arc::new)
    };
    rows.iter().map(field).collect()
}

fn with_id(field: &Field, standing: &NestedField) -> Result<Field, String> {
    let data_type = match (field.data_type(), standing.field_type.as_ref()) {
        (DataType::Struct(rows), Type::Struct(table)) => DataType::Struct(with_ids(rows, table)?),
        (DataType::List(rows), Type::List(table)) => {
            DataType::List(Arc::new(with_id(rows, &table.element_field)?))
        }
        (DataType::Map(entries, sorted), Type::Map(table)) => {
            let (key, value) = entry(entries)?;
            let inner = [with_id(key, &table.key_field)?, with_id(value, &table.value_field)?];
            let inner = DataType::Struct(inner.into_iter().map(Arc::new).collect());
            DataType::Map(Arc::new(Field::new(entries.name(), inner, false)), *sorted)
        }
        (other, _) => other.clone(),
    };
    Ok(Field::new(field.name(), data_type, field.is_nullable()).with_metadata(id(standing.id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Schema {
        let inner = vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)];
        let list = Field::new("element", DataType::Struct(inner.clone().into()), true);
        Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("deep", DataType::Struct(inner.into()), true),
            Field::new("list", DataType::List(Arc::new(list)), true),
            Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        ])
    }

    #[test]
    fn columns_come_back_as_they_were_with_their_ids() {
        let table = columns(&rows()).unwrap();
        let back = to_arrow(table.as_struct());
        let ids = with_ids(rows().fields(), table.as_struct()).unwrap();
        assert_eq!(back.fields(), &ids);
        let top: Vec<i32> = table.as_struct().fields().iter().map(|field| field.id).collect();
        assert_eq!(top, [1, 2, 3, 4], "as a catalog numbers them");
        assert!(missing(&rows(), table.as_struct()).unwrap().is_empty());
    }

    #[test]
    fn what_a_table_lacks_is_found_at_any_depth() {
        let narrow = |fields: &[&str]| {
            let all = rows();
            let kept = all.fields().iter().filter(|field| fields.contains(&field.name().as_str())).cloned();
            columns(&Schema::new(kept.collect::<Vec<_>>())).unwrap()
        };
        let names = |rows: &Schema, table: &Columns| -> Vec<String> {
            missing(rows, table.as_struct()).unwrap().iter().map(Missing::shown).collect()
        };
        assert_eq!(names(&rows(), &narrow(&["id", "list"])), ["deep", "at"]);
        let mut more = vec![Field::new("a", DataType::Int64, true), Field::new("c", DataType::Int64, true)];
        let list = Field::new("element", DataType::Struct(more.clone().into()), true);
        more.push(Field::new("b", DataType::Utf8, true));
        let wide = Schema::new(vec![
            Field::new("deep", DataType::Struct(more.into()), true),
            Field::new("list", DataType::List(Arc::new(list)), true),
        ]);
        assert_eq!(names(&wide, &columns(&rows()).unwrap()), ["deep.c", "list.element.c"]);
        assert!(with_ids(wide.fields(), narrow(&["list"]).as_struct()).unwrap_err().contains("`deep`"));
    }

    #[test]
    fn a_column_that_must_not_be_null_is_refused() {
        let table = StructType::new(vec![Arc::new(NestedField::required(
            1,
            "id",
            Type::Primitive(PrimitiveType::Long),
        ))]);
        let rows = |nullable| Schema::new(vec![Field::new("id", DataType::Int64, nullable)]);
        assert!(missing(&rows(true), &table).err().unwrap().contains("must not be null"));
        assert!(missing(&rows(false), &table).unwrap().is_empty());
    }
}

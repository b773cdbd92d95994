//! The types of a table: which ones rows get, and whether they fit those that stand.
//!
//! | rows                              | table                                                     |
//! |-----------------------------------|-----------------------------------------------------------|
//! | text, bytes, also of a fixed size | string, binary                                            |
//! | unsigned integers                 | the next wider signed one; of 64 bits decimal(20,0)       |
//! | integers of 8 and 16 bits         | as they are in Delta Lake, of 32 bits in Iceberg          |
//! | timestamps                        | microseconds; a finer value is a reject                   |
//! | time of day                       | microseconds in Iceberg; in Delta Lake none: refused      |
//!
//! A column that the table has wider is widened; one that it has narrower is refused.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, make_comparator};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, TimeUnit};

/// What the columns of a table format can be.
#[derive(Debug)]
pub struct Types {
    /// Characters that are not taken in a column's name.
    pub(crate) no_names: &'static [char],
    /// Whether there are integers of 8 and of 16 bits.
    pub(crate) has_small_integers: bool,
    /// Whether there is a time of day.
    pub(crate) has_times: bool,
}

/// The columns that rows are cast to, in their order; or why they do not fit, with the column's name.
pub(crate) fn columns(types: &Types, rows: &Schema, table: Option<&Schema>) -> Result<Schema, String> {
    let standing = table.map(Schema::fields);
    fields(types, rows.fields(), standing, "").map(Schema::new)
}

fn fields(types: &Types, rows: &Fields, table: Option<&Fields>, above: &str) -> Result<Fields, String> {
    let mut found: Vec<FieldRef> = Vec::with_capacity(rows.len());
    for field in rows {
        let name = field.name();
        let shown = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        if name.contains(types.no_names) {
            let step = "`steps: [{select: {rename: …}}]`";
            return Err(format!("column {shown:?} has a name that tables do not take: rename it by {step}"));
        }
        let same = |other: &str| other != name && other.eq_ignore_ascii_case(name);
        let others = found.iter().chain(table.into_iter().flatten());
        if let Some(other) = others.map(|other| other.name()).find(|other| same(other)) {
            return Err(format!("columns `{other}` and `{shown}` differ by case alone: rename one of them"));
        }
        let standing = table.and_then(|fields| fields.iter().find(|other| other.name() == name));
        let data_type = target(types, field.data_type(), standing.map(|f| f.data_type()), &shown)?;
        found.push(Arc::new(Field::new(name, data_type, true)));
    }
    Ok(found.into())
}

fn target(types: &Types, rows: &DataType, table: Option<&DataType>, shown: &str) -> Result<DataType, String> {
    let inner = |name: &str, field: &FieldRef, table: Option<&DataType>| {
        target(types, field.data_type(), table, shown).map(|data_type| Field::new(name, data_type, true))
    };
    let plain = match (rows, table) {
        (DataType::Struct(rows), Some(DataType::Struct(table))) => {
            return fields(types, rows, Some(table), shown).map(DataType::Struct);
        }
        (DataType::Struct(rows), None) => return fields(types, rows, None, shown).map(DataType::Struct),
        (DataType::List(row) | DataType::LargeList(row), None | Some(DataType::List(_))) => {
            let table = match table {
                Some(DataType::List(table)) => Some(table.data_type()),
                _ => None,
            };
            return Ok(DataType::List(Arc::new(inner("element", row, table)?)));
        }
        (DataType::Map(entries, _), None | Some(DataType::Map(..))) => {
            let of = |data_type: &DataType, at: usize| match data_type {
                DataType::Struct(fields) => fields.get(at).cloned(),
                _ => None,
            };
            let table = match table {
                Some(DataType::Map(entries, _)) => Some(entries.data_type()),
                _ => None,
            };
            let part = |name: &str, at: usize| {
                let field = of(entries.data_type(), at).ok_or_else(|| format!("column `{shown}` is no map"))?;
                let table = table.and_then(|table| of(table, at));
                inner(name, &field, table.as_ref().map(|field| field.data_type()))
            };
            let (key, value) = (part("key", 0)?.with_nullable(false), part("value", 1)?);
            let entries = Field::new("key_value", DataType::Struct(vec![key, value].into()), false);
            return Ok(DataType::Map(Arc::new(entries), false));
        }
        (rows, _) => plain(types, rows).ok_or_else(|| {
            let rows = named(rows);
            format!("column `{shown}` is a {rows}, which tables have no type for: cast it by `steps: [{{select: {{cast: …}}}}]`")
        })?,
    };
    match table {
        None => Ok(plain),
        Some(table) if *table == plain || is_wider(table, &plain) => Ok(table.clone()),
        Some(table) => Err(format!(
            "column `{shown}` is {} here and {} in the table, which can not hold it: cast it by \
             `steps: [{{select: {{cast: …}}}}]`, or widen the table's column",
            named(&plain),
            named(table)
        )),
    }
}

/// A type as a pipeline file writes it, about.
fn named(data_type: &DataType) -> String {
    data_type.to_string().to_lowercase()
}

/// The table's type of plain values.
fn plain(types: &Types, rows: &DataType) -> Option<DataType> {
    Some(match rows {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Dictionary(_, values) => plain(types, values)?,
        DataType::Int8 | DataType::Int16 | DataType::UInt8 if !types.has_small_integers => DataType::Int32,
        DataType::Time32(_) | DataType::Time64(_) if types.has_times => {
            DataType::Time64(TimeUnit::Microsecond)
        }
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Timestamp(_, None) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(_, Some(_)) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Decimal128(_, scale) if *scale < 0 => return None,
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32
        | DataType::Decimal128(..) => rows.clone(),
        _ => return None,
    })
}

/// Whether all values of `narrow` are values of `wide`.
fn is_wider(wide: &DataType, narrow: &DataType) -> bool {
    use DataType::{Decimal128, Float32, Float64, Int8, Int16, Int32, Int64};
    match (narrow, wide) {
        (Int8, Int16 | Int32 | Int64 | Float32 | Float64)
        | (Int16, Int32 | Int64 | Float32 | Float64)
        | (Int32, Int64 | Float64)
        | (Float32, Float64) => true,
        (Decimal128(p, s), Decimal128(wide_p, wide_s)) => {
            let whole = |p: u8, s: i8| i16::from(p) - i16::from(s);
            wide_s >= s && whole(*wide_p, *wide_s) >= whole(*p, *s)
        }
        _ => false,
    }
}

/// Rows with a time that is finer than a microsecond, each with the reason.
pub(crate) fn too_fine(types: &Types, rows: &RecordBatch) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        if !has_nanoseconds(field.data_type()) {
            continue;
        }
        let Some(changed) = changed_rows(types, field, column) else { continue };
        let name = field.name();
        found.extend(
            changed.into_iter().map(|row| {
                (row, format!("column `{name}` holds a time finer than the table's microseconds"))
            }),
        );
    }
    found
}

fn has_nanoseconds(data_type: &DataType) -> bool {
    match data_type {
        DataType::Timestamp(unit, _) | DataType::Time64(unit) => *unit == TimeUnit::Nanosecond,
        DataType::List(field) | DataType::LargeList(field) | DataType::Map(field, _) => {
            has_nanoseconds(field.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|field| has_nanoseconds(field.data_type())),
        DataType::Dictionary(_, values) => has_nanoseconds(values),
        _ => false,
    }
}

/// Rows that do not come back from the table's type as they were. `None` if the column does not fit at all, which is
/// told when it is put.
fn changed_rows(types: &Types, field: &Field, column: &ArrayRef) -> Option<Vec<usize>> {
    let target = target(types, field.data_type(), None, field.name()).ok()?;
    let back = cast(&cast(column, &target).ok()?, field.data_type()).ok()?;
    let compare = make_comparator(column.as_ref(), back.as_ref(), SortOptions::default()).ok()?;
    Some((0..column.len()).filter(|row| compare(*row, *row).is_ne()).collect())
}

#[cfg(test)]
mod tests {
    use arrow::array::TimestampNanosecondArray;

    use super::*;

    const DELTA: Types = Types { no_names: &[' '], has_small_integers: true, has_times: false };
    const ICEBERG: Types = Types { no_names: &['.'], has_small_integers: false, has_times: true };

    fn one(data_type: DataType) -> Schema {
        Schema::new(vec![Field::new("a", data_type, false)])
    }

    fn fit(rows: DataType, table: Option<DataType>) -> Result<DataType, String> {
        fit_in(&DELTA, rows, table)
    }

    fn fit_in(types: &Types, rows: DataType, table: Option<DataType>) -> Result<DataType, String> {
        let table = table.map(one);
        columns(types, &one(rows), table.as_ref()).map(|schema| schema.field(0).data_type().clone())
    }

    #[test]
    fn rows_get_the_tables_types_and_are_widened_but_never_narrowed() {
        use DataType::{Decimal128, Float64, Int16, Int32, Int64, UInt64, Utf8, Utf8View};
        assert_eq!(fit(Utf8View, None), Ok(Utf8));
        assert_eq!(fit(UInt64, None), Ok(Decimal128(20, 0)));
        assert_eq!(fit(Int32, Some(Int64)), Ok(Int64));
        assert_eq!(fit(Int16, Some(Float64)), Ok(Float64));
        assert_eq!(fit(Decimal128(9, 2), Some(Decimal128(12, 4))), Ok(Decimal128(12, 4)));
        for (rows, table) in
            [(Int64, Int32), (Int64, Float64), (Utf8, Int64), (Decimal128(9, 2), Decimal128(9, 3))]
        {
            let error = fit(rows.clone(), Some(table.clone())).unwrap_err();
            assert!(error.contains("column `a`") && error.contains("can not hold it"), "{error}");
        }
        let error = fit(DataType::Time64(TimeUnit::Microsecond), None).unwrap_err();
        assert!(error.contains("no type for"), "{error}");
    }

    #[test]
    fn each_format_has_its_own_integers_and_times() {
        use DataType::{Int16, Int32, Int64, Time32, Time64, UInt8};
        let times = Time64(TimeUnit::Microsecond);
        for (rows, table) in [(UInt8, Int32), (Int16, Int32), (Time32(TimeUnit::Second), times)] {
            assert_eq!(fit_in(&ICEBERG, rows, None), Ok(table));
        }
        assert_eq!(fit_in(&ICEBERG, Int16, Some(Int64)), Ok(Int64));
        assert_eq!((fit(UInt8, None), fit(Int16, None)), (Ok(Int16), Ok(Int16)));
    }

    #[test]
    fn nested_columns_fit_by_their_fields() {
        let row = DataType::Struct(vec![Field::new("b", DataType::Int32, true)].into());
        let table = DataType::Struct(
            vec![Field::new("c", DataType::Utf8, true), Field::new("b", DataType::Int64, true)].into(),
        );
        let wide = DataType::Struct(vec![Field::new("b", DataType::Int64, true)].into());
        assert_eq!(fit(row.clone(), Some(table)), Ok(wide));
        let list = DataType::List(Arc::new(Field::new_list_field(row, true)));
        assert!(matches!(fit(list, None), Ok(DataType::List(field)) if field.name() == "element"));
    }

    #[test]
    fn names_that_tables_do_not_take_are_told() {
        let named = |names: &[&str]| {
            let fields = names.iter().map(|name| Field::new(*name, DataType::Int64, true));
            columns(&DELTA, &Schema::new(fields.collect::<Vec<_>>()), None).unwrap_err()
        };
        assert!(named(&["a b"]).contains("rename it"));
        assert!(named(&["ab", "aB"]).contains("differ by case"));
    }

    #[test]
    fn times_finer_than_a_microsecond_are_found_by_row() {
        let times = TimestampNanosecondArray::from(vec![Some(1_000), None, Some(1_001)]).with_timezone("UTC");
        let schema = one(times.data_type().clone());
        let schema = Schema::new(vec![schema.field(0).clone().with_nullable(true)]);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(times)]).unwrap();
        let found = too_fine(&DELTA, &batch);
        assert!(found.len() == 1 && found[0].0 == 2, "{found:?}");
    }

    use arrow::array::Array;
}

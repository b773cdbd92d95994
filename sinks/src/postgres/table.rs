//! The table of the rows and the table of positions: found, made, and made to fit.

use std::collections::BTreeMap;

use arrow::datatypes::{Field, Schema};
use sluice_bridges::postgres::client::{Link, code};
use sluice_bridges::postgres::{TableName, quoted, quoted_list};
use sluice_connect::task::{Class, TaskError};
use tokio_postgres::types::Type;

use super::{PostgresConfig, columns_problem, types};

/// How often a table is looked at again that other workers may be making.
const LOOKS_MAX: usize = 4;

/// A column that is there.
pub(super) struct Column {
    /// The name of its type in `pg_type`.
    type_name: String,
    /// Whether the type is one of PostgreSQL's own.
    is_plain: bool,
    /// Whether each row must give it.
    is_needed: bool,
}

/// The columns of a table, if it is there.
pub(super) fn find(link: &Link, name: &TableName) -> Result<Option<BTreeMap<String, Column>>, TaskError> {
    let sql = "SELECT a.attname::text, t.typname::text, \
         t.typtype = 'b' AND t.typnamespace = 'pg_catalog'::regnamespace, \
         a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
         LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
         WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'f')";
    let what = format!("cannot look at table {name}");
    let rows = link.rows(&what, sql, &[(&name.schema, Type::TEXT), (&name.table, Type::TEXT)])?;
    if rows.is_empty() {
        return Ok(None);
    }
    let unread = |e: tokio_postgres::Error| TaskError::new(Class::Fatal, what.clone()).because(e);
    let mut found = BTreeMap::new();
    for row in rows {
        let Some(column) = row.try_get::<_, Option<String>>(0).map_err(unread)? else { continue };
        let type_name = row.try_get(1).map_err(unread)?;
        let (is_plain, is_needed) = (row.try_get(2).map_err(unread)?, row.try_get(3).map_err(unread)?);
        found.insert(column, Column { type_name, is_plain, is_needed });
    }
    Ok(Some(found))
}

/// Has the table take rows with these columns: made, or with columns added, where the settings say so.
pub(super) fn fit(
    link: &Link,
    config: &PostgresConfig,
    name: &TableName,
    rows: &Schema,
) -> Result<(), TaskError> {
    let refused =
        |message: String| TaskError::new(Class::Config, format!("PostgreSQL at {}: {message}", link.place()));
    if let Some(column) = config.key.iter().find(|column| rows.field_with_name(column).is_err()) {
        return Err(refused(format!(
            "rows for table {name} have no column `{column}`, which is part of `key`"
        )));
    }
    if let Some(problem) = columns_problem(rows) {
        return Err(refused(format!("table {name}: {problem}")));
    }
    for _ in 0..LOOKS_MAX {
        let (what, sql) = match find(link, name)? {
            None if config.create => {
                (format!("cannot make table {name}"), create(config, name, rows).map_err(refused)?)
            }
            None => return Err(missing(link, name)),
            Some(there) => {
                let new: Vec<&Field> = rows
                    .fields()
                    .iter()
                    .filter(|field| !there.contains_key(field.name()))
                    .map(AsRef::as_ref)
                    .collect();
                if new.is_empty() {
                    return check(config, name, rows, &there).map_err(refused);
                }
                let names =
                    new.iter().map(|field| format!("`{}`", field.name())).collect::<Vec<_>>().join(", ");
                if !config.create {
                    return Err(refused(format!(
                        "table {name} has no column {names}, and rows have: add it (ALTER TABLE … ADD COLUMN), write `create: \
                         true` and it is added, or leave it out by a step `select`"
                    )));
                }
                (format!("cannot add {names} to table {name}"), add(name, &new).map_err(refused)?)
            }
        };
        tracing::info!(table = %name, "{sql}");
        match link.run(&what, &sql) {
            Ok(()) => {}
            // Another worker makes the same at this moment.
            Err(error) if matches!(code(&error), Some("23505" | "42P07" | "42701" | "42P06" | "XX000")) => {
                tracing::info!(table = %name, "another one was faster");
            }
            Err(error) => return Err(error),
        }
    }
    Err(TaskError::new(Class::Retry, format!("table {name} does not stand still: others change it")))
}

/// What a run says of a table that it may not make.
pub(super) fn missing(link: &Link, name: &TableName) -> TaskError {
    let message = format!(
        "PostgreSQL at {}: there is no table {name}: make it, or write `create: true` and it is made of the columns of the rows",
        link.place()
    );
    TaskError::new(Class::Config, message)
}

/// What makes the table.
fn create(config: &PostgresConfig, name: &TableName, rows: &Schema) -> Result<String, String> {
    let mut parts = Vec::with_capacity(rows.fields().len() + 1);
    for field in rows.fields() {
        parts.push(column(field)?);
    }
    if !config.key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", quoted_list(config.key.iter().map(String::as_str))));
    }
    Ok(format!("CREATE TABLE IF NOT EXISTS {} ({})", name.quoted(), parts.join(", ")))
}

/// What adds columns.
fn add(name: &TableName, new: &[&Field]) -> Result<String, String> {
    let parts = new.iter().map(|field| Ok(format!("ADD COLUMN IF NOT EXISTS {}", column(field)?)));
    let parts = parts.collect::<Result<Vec<_>, String>>()?;
    Ok(format!("ALTER TABLE {} {}", name.quoted(), parts.join(", ")))
}

fn column(field: &Field) -> Result<String, String> {
    let made = types::made(field.data_type()).ok_or_else(|| {
        format!(
            "column `{}` of {} has no type in PostgreSQL: `select: {{cast: …}}` makes another",
            field.name(),
            field.data_type()
        )
    })?;
    Ok(format!("{} {made}", quoted(field.name())))
}

/// What is wrong between the rows and the table, that no row could make good.
fn check(
    config: &PostgresConfig,
    name: &TableName,
    rows: &Schema,
    there: &BTreeMap<String, Column>,
) -> Result<(), String> {
    for field in rows.fields() {
        let Some(Column { type_name, is_plain, .. }) = there.get(field.name()) else { continue };
        if !types::fits(field.data_type(), type_name, *is_plain) {
            let made = types::made(field.data_type());
            let way_out = made.map_or_else(String::new, |made| {
                format!(": alter it to {made}, or convert the rows' by `select: {{cast: …}}`")
            });
            return Err(format!(
                "column `{}` of table {name} is {type_name}, and rows have {} there{way_out}",
                field.name(),
                field.data_type()
            ));
        }
    }
    let is_given = |column: &str| rows.field_with_name(column).is_ok();
    match there.iter().find(|(column, found)| found.is_needed && !is_given(column)) {
        Some((column, _)) if !config.key.contains(column) => Err(format!(
            "column `{column}` of table {name} is NOT NULL without a default, and rows do not have it"
        )),
        _ => Ok(()),
    }
}

/// Makes the table of positions if it is not there.
pub(super) fn make_positions(link: &Link, name: &TableName) -> Result<(), TaskError> {
    // Who may not make tables may use one that is there.
    if find(link, name)?.is_some() {
        return Ok(());
    }
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS {} (pipeline text NOT NULL, topic text NOT NULL, queue integer NOT NULL, \
         position bigint NOT NULL, incarnation text NOT NULL, written bigint NOT NULL DEFAULT 0, \
         filtered bigint NOT NULL DEFAULT 0, deduplicated bigint NOT NULL DEFAULT 0, skipped bigint NOT NULL DEFAULT 0, \
         dead bigint NOT NULL DEFAULT 0, absent numeric NOT NULL DEFAULT 0, \
         changed_at timestamp with time zone NOT NULL DEFAULT now(), PRIMARY KEY (pipeline, topic, queue))",
        name.quoted()
    );
    match link.run(&format!("cannot make the table of positions, {name}"), &sql) {
        // Another worker was faster, and has made it.
        Err(error) if matches!(code(&error), Some("23505" | "42P07")) => Ok(()),
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::*;

    fn config(text: &str) -> PostgresConfig {
        serde_saphyr::from_str(&format!("url: 'postgres://h/db'\ntable: x\n{text}")).unwrap()
    }

    fn name() -> TableName {
        TableName { schema: "sales".to_owned(), table: "or\"ders".to_owned() }
    }

    #[test]
    fn a_table_is_made_of_the_columns_with_its_key() {
        let rows = Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("Note \"x\"; DROP TABLE y", DataType::Utf8, true),
        ]);
        assert_eq!(
            create(&config("key: [id]"), &name(), &rows).unwrap(),
            "CREATE TABLE IF NOT EXISTS \"sales\".\"or\"\"ders\" (\"id\" bigint, \"Note \"\"x\"\"; DROP TABLE y\" text, \
             PRIMARY KEY (\"id\"))"
        );
        assert_eq!(
            add(&name(), &[rows.field(0)]).unwrap(),
            "ALTER TABLE \"sales\".\"or\"\"ders\" ADD COLUMN IF NOT EXISTS \"id\" bigint"
        );
        let odd = Field::new("o", DataType::Interval(arrow::datatypes::IntervalUnit::DayTime), true);
        assert!(add(&name(), &[&odd]).unwrap_err().contains("`o`"));
    }

    #[test]
    fn what_no_row_could_make_good_is_told_with_table_and_column() {
        let there = |type_name: &str, is_needed| {
            BTreeMap::from([
                ("id".to_owned(), Column { type_name: "int8".to_owned(), is_plain: true, is_needed: false }),
                ("n".to_owned(), Column { type_name: type_name.to_owned(), is_plain: true, is_needed }),
            ])
        };
        let rows = |names: &[&str]| {
            Schema::new(
                names.iter().map(|name| Field::new(*name, DataType::Float64, true)).collect::<Vec<_>>(),
            )
        };
        let check = |rows: &Schema, there| check(&config("create: true"), &name(), rows, &there);
        assert!(check(&rows(&["n"]), there("float8", true)).is_ok());
        let told = check(&rows(&["n"]), there("int8", false)).unwrap_err();
        assert!(
            told.contains("column `n` of table sales.or\"ders is int8") && told.contains("double precision"),
            "{told}"
        );
        let told = check(&rows(&[]), there("int8", true)).unwrap_err();
        assert!(told.contains("column `n`") && told.contains("NOT NULL"), "{told}");
    }
}

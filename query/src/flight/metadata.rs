//! What the server tells of itself and of its tables.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::error::{FlightError, Result};
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::sql::{
    CommandGetCatalogs, CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables, SqlInfo,
    SqlSupportedTransaction,
};

use crate::Engine;
use crate::engine::{CATALOG, PIPELINES, TOPICS};

/// The one type of tables.
const TABLE: &str = "TABLE";

pub(super) fn catalogs(command: CommandGetCatalogs) -> Result<RecordBatch> {
    let mut builder = command.into_builder();
    builder.append(CATALOG);
    builder.build()
}

pub(super) fn schemas(command: CommandGetDbSchemas) -> Result<RecordBatch> {
    let mut builder = command.into_builder();
    builder.append(CATALOG, PIPELINES);
    builder.append(CATALOG, TOPICS);
    builder.build()
}

pub(super) fn table_types(command: CommandGetTableTypes) -> Result<RecordBatch> {
    let mut builder = command.into_builder();
    builder.append(TABLE);
    builder.build()
}

pub(super) fn tables_schema(command: CommandGetTables) -> SchemaRef {
    command.into_builder().schema()
}

/// Topics and pipelines. The columns are looked for of those that were asked for alone, for that may take reading them.
pub(super) fn tables(engine: &Engine, command: CommandGetTables) -> Result<RecordBatch> {
    let failed = |error: crate::Error| FlightError::from(super::service::status(error));
    let topics = engine.topics().map_err(failed)?.into_iter().map(|name| (TOPICS, name));
    let pipelines = engine.pipelines().map(|name| (PIPELINES, name.to_owned()));
    let all: Vec<(&str, String)> = topics.chain(pipelines).collect();
    let mut names = CommandGetTables { include_schema: false, ..command.clone() }.into_builder();
    for (schema, name) in &all {
        names.append(CATALOG, schema, name, TABLE, &Schema::empty())?;
    }
    let names = names.build()?;
    if !command.include_schema {
        return Ok(names);
    }
    let (schemas, tables) = (names.column(1).as_string::<i32>(), names.column(2).as_string::<i32>());
    let mut builder = command.into_builder();
    for (schema, name) in schemas.iter().flatten().zip(tables.iter().flatten()) {
        let columns = match engine.columns(schema, name) {
            Ok(Some(columns)) => columns,
            // It was deleted meanwhile.
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(table = name, %error, "a table's columns can not be told");
                Schema::empty().into()
            }
        };
        builder.append(CATALOG, schema, name, TABLE, &super::answer::wire_schema(&columns))?;
    }
    builder.build()
}

/// What the server is and can do.
pub(super) fn sql_info() -> Result<SqlInfoData> {
    let mut builder = SqlInfoDataBuilder::new();
    builder.append(SqlInfo::FlightSqlServerName, "Sluice");
    builder.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    builder.append(SqlInfo::FlightSqlServerArrowVersion, "1.3");
    builder.append(SqlInfo::FlightSqlServerReadOnly, true);
    builder.append(SqlInfo::FlightSqlServerSql, true);
    builder.append(SqlInfo::FlightSqlServerSubstrait, false);
    builder.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    builder.append(SqlInfo::FlightSqlServerCancel, false);
    builder.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    builder.build()
}

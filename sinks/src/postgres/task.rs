//! The task of sink `postgres`: one connection, and one transaction a slice.

use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use sluice_bridges::postgres::client::{Link, Verified};
use sluice_bridges::postgres::{SslMode, TableName, Way, quoted, quoted_list};
use sluice_client::Tls;
use sluice_connect::task::{Chain, Class, Fates, Slice, TaskError, TransactTask};
use tokio_postgres::types::Type;

use super::{PostgresConfig, copy, table};

/// The table that rows with a key go to first; each session has its own.
const BATCH: &str = "pg_temp.sluice_batch";

/// Writes one table.
pub(super) struct PostgresSink {
    settings: PostgresConfig,
    link: Link,
    table: TableName,
    positions: TableName,
    /// The statements for rows with the columns that came last.
    statements: Option<(SchemaRef, Statements)>,
}

/// What a transaction says for its rows.
struct Statements {
    copy: String,
    /// Moves the rows from where COPY puts them, with a key.
    upsert: Option<String>,
}

impl PostgresSink {
    /// Connects, and makes the table of positions.
    pub(super) fn new(settings: &PostgresConfig) -> Result<Self, TaskError> {
        let (link, table, positions) = open(settings)?;
        if !settings.create && table::find(&link, &table)?.is_none() {
            return Err(table::missing(&link, &table));
        }
        table::make_positions(&link, &positions)?;
        // What a crash of the server takes must not have been told to the source as written.
        let sync = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";
        link.run("cannot set up the session", sync)?;
        Ok(Self { settings: settings.clone(), link, table, positions, statements: None })
    }

    /// Has the table take rows with these columns, and says how.
    fn prepare(&mut self, rows: &SchemaRef) -> Result<(), TaskError> {
        if self.statements.as_ref().is_some_and(|(known, _)| known == rows) {
            return Ok(());
        }
        let Self { settings, link, table: name, .. } = self;
        table::fit(link, settings, name, rows)?;
        let statements = if settings.key.is_empty() {
            Statements { copy: copy_into(&name.quoted(), columns(rows)), upsert: None }
        } else {
            let number = number_column(rows);
            link.run(
                &format!("cannot make a temporary table like {name}"),
                &batch_table(name, rows, &number),
            )?;
            let copied = columns(rows).chain([number.as_str()]);
            let upsert = upsert(name, rows, &settings.key, &number);
            Statements { copy: copy_into(BATCH, copied), upsert: Some(upsert) }
        };
        self.statements = Some((SchemaRef::clone(rows), statements));
        Ok(())
    }

    /// What a transaction does between its begin and its end.
    fn transact(
        &self,
        chain: &Chain,
        incarnation: &str,
        slice: &Slice,
        fates: &Fates,
        rows: Option<Bytes>,
    ) -> Result<(), TaskError> {
        let count = |rows: u64| i64::try_from(rows).unwrap_or(i64::MAX);
        let moved = self.link.execute(
            &format!("cannot move the position of {chain}"),
            &format!(
                "UPDATE {} SET position = $5, incarnation = $6, written = written + $7, filtered = filtered + $8, \
                 deduplicated = deduplicated + $9, skipped = skipped + $10, dead = dead + $11, absent = absent + $12, \
                 changed_at = now() WHERE pipeline = $1 AND topic = $2 AND queue = $3 AND position = $4",
                self.positions.quoted()
            ),
            &[
                (&&*chain.pipeline, Type::TEXT),
                (&&*chain.topic, Type::TEXT),
                (&chain.queue, Type::INT4),
                (&slice.range.start, Type::INT8),
                (&slice.range.end, Type::INT8),
                (&incarnation, Type::TEXT),
                (&count(fates.written), Type::INT8),
                (&count(fates.filtered), Type::INT8),
                (&count(fates.deduplicated), Type::INT8),
                (&count(fates.skipped), Type::INT8),
                (&count(fates.dead), Type::INT8),
                (&count(fates.absent), Type::INT8),
            ],
        )?;
        if moved != 1 {
            let message = format!(
                "{chain}: its position in table {} is not {} any more: another worker has moved it, or its row was changed",
                self.positions, slice.range.start
            );
            return Err(TaskError::new(Class::Retry, message));
        }
        let (Some(rows), Some((_, statements))) = (rows, &self.statements) else { return Ok(()) };
        let what = format!("table {} does not take rows", self.table);
        self.link.copy(&what, &statements.copy, rows)?;
        statements.upsert.as_ref().map_or(Ok(()), |upsert| self.link.run(&what, upsert))
    }
}

/// How a server is verified, if it is to be.
fn verified(settings: &PostgresConfig, way: &Way) -> Result<Option<Verified>, TaskError> {
    if way.ssl_mode != SslMode::VerifyFull {
        return Ok(None);
    }
    let verified = Tls::config_for_host(settings.tls.as_ref(), &way.address.host);
    verified.map(Some).map_err(|e| TaskError::new(Class::Config, "cannot speak TLS as asked for").because(e))
}

/// A connection, and the names of both tables.
fn open(settings: &PostgresConfig) -> Result<(Link, TableName, TableName), TaskError> {
    let refused = |problem: String| TaskError::new(Class::Config, problem);
    let way = settings.way().map_err(refused)?;
    let (table, positions) = (settings.table().map_err(refused)?, settings.positions().map_err(refused)?);
    Ok((Link::open(&way, verified(settings, &way)?)?, table, positions))
}

fn columns(rows: &Schema) -> impl Iterator<Item = &str> {
    rows.fields().iter().map(|field| field.name().as_str())
}

fn copy_into<'a>(table: &str, columns: impl Iterator<Item = &'a str>) -> String {
    format!("COPY {table} ({}) FROM STDIN", quoted_list(columns))
}

/// A name that none of the columns has.
fn number_column(rows: &Schema) -> String {
    let mut name = "row_number".to_owned();
    while columns(rows).any(|column| column == name) {
        name.push('_');
    }
    name
}

/// What makes the table that rows go to first: the columns with the types of the table's, and the number of each row.
fn batch_table(table: &TableName, rows: &Schema, number: &str) -> String {
    format!(
        "DROP TABLE IF EXISTS {BATCH}; CREATE TEMPORARY TABLE sluice_batch ON COMMIT DELETE ROWS AS SELECT {}, 0::bigint AS {} \
         FROM {} WITH NO DATA",
        quoted_list(columns(rows)),
        quoted(number),
        table.quoted()
    )
}

/// What moves the rows from there into the table: of a key's rows the last one.
fn upsert(table: &TableName, rows: &Schema, key: &[String], number: &str) -> String {
    let all = quoted_list(columns(rows));
    let keys = quoted_list(key.iter().map(String::as_str));
    let rest = columns(rows).filter(|column| !key.iter().any(|key| key == column));
    let set: Vec<String> = rest.map(|column| format!("{0} = EXCLUDED.{0}", quoted(column))).collect();
    let action = if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
    // The order of the keys keeps workers out of one another's way.
    format!(
        "INSERT INTO {} ({all}) SELECT DISTINCT ON ({keys}) {all} FROM {BATCH} ORDER BY {keys}, {} DESC \
         ON CONFLICT ({keys}) DO {action}",
        table.quoted(),
        quoted(number)
    )
}

/// What a run finds at the server, for a person; stores nothing.
pub(super) fn check(settings: &PostgresConfig) -> Result<String, TaskError> {
    let (link, name, positions) = open(settings)?;
    let there = table::find(&link, &name)?;
    let standing = match &there {
        Some(columns) => {
            // Planned and not run, which asks for the permission and for the key's index.
            let keys = quoted_list(settings.key.iter().map(String::as_str));
            let nulls = vec!["NULL"; settings.key.len()].join(", ");
            let sql = if settings.key.is_empty() {
                format!("EXPLAIN INSERT INTO {} DEFAULT VALUES", name.quoted())
            } else {
                let table = name.quoted();
                format!("EXPLAIN INSERT INTO {table} ({keys}) SELECT {nulls} ON CONFLICT ({keys}) DO NOTHING")
            };
            link.run(&format!("table {name} can not be written"), &sql)?;
            format!("table {name} is there, with {} columns, and can be written", columns.len())
        }
        None if settings.create => format!("table {name} is made by the first run"),
        None => return Err(table::missing(&link, &name)),
    };
    let kept = match table::find(&link, &positions)? {
        Some(_) => {
            let sql = format!("EXPLAIN UPDATE {} SET position = 0 WHERE queue = 0", positions.quoted());
            link.run(&format!("table {positions} can not be written"), &sql)?;
            format!("positions in table {positions}")
        }
        None => format!("table {positions} is made for positions"),
    };
    for table in [(there.is_none(), &name), (!kept.starts_with("positions"), &positions)] {
        if let (true, table) = table {
            let sql =
                "SELECT has_schema_privilege(oid, 'CREATE') FROM pg_catalog.pg_namespace WHERE nspname = $1";
            let rows = link.rows("cannot look at schemas", sql, &[(&table.schema, Type::TEXT)])?;
            let may = rows.first().map(|row| row.try_get::<_, bool>(0).unwrap_or(false));
            let why = match may {
                Some(true) => continue,
                Some(false) => "this role may not make tables there",
                None => "there is no such schema",
            };
            let message = format!("table {table} can not be made in schema {}: {why}", table.schema);
            return Err(TaskError::new(Class::Config, message));
        }
    }
    Ok(format!("{standing}; {kept}: exactly_once"))
}

impl TransactTask for PostgresSink {
    fn position(&mut self, chain: &Chain) -> Result<Option<(i64, String)>, TaskError> {
        // The lock waits for the end of a transaction that another worker, or this one before, has begun.
        let sql = format!(
            "SELECT position, incarnation FROM {} WHERE pipeline = $1 AND topic = $2 AND queue = $3 FOR UPDATE",
            self.positions.quoted()
        );
        let what = format!("cannot read the position of {chain}");
        let rows = self.link.rows(
            &what,
            &sql,
            &[(&&*chain.pipeline, Type::TEXT), (&&*chain.topic, Type::TEXT), (&chain.queue, Type::INT4)],
        )?;
        let Some(row) = rows.first() else { return Ok(None) };
        let unread = |e: tokio_postgres::Error| {
            let message = format!("{what}: table {} is not one of sluice's", self.positions);
            TaskError::new(Class::Config, message).because(e)
        };
        Ok(Some((row.try_get(0).map_err(unread)?, row.try_get(1).map_err(unread)?)))
    }

    fn begin(&mut self, chain: &Chain, origin: i64, incarnation: &str) -> Result<(), TaskError> {
        let sql = format!(
            "INSERT INTO {} (pipeline, topic, queue, position, incarnation) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
            self.positions.quoted()
        );
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 5] = [
            (&&*chain.pipeline, Type::TEXT),
            (&&*chain.topic, Type::TEXT),
            (&chain.queue, Type::INT4),
            (&origin, Type::INT8),
            (&incarnation, Type::TEXT),
        ];
        self.link.execute(&format!("cannot keep the position of {chain}"), &sql, &parameters).map(drop)
    }

    fn unfit(&self, slice: &Slice) -> Vec<(usize, String)> {
        copy::unfit(slice.output(), &self.settings.key)
    }

    fn commit(
        &mut self,
        chain: &Chain,
        incarnation: &str,
        slice: &Slice,
        fates: &Fates,
    ) -> Result<(), TaskError> {
        let output = slice.output();
        let rows = if output.num_rows() == 0 {
            None
        } else {
            self.prepare(output.schema_ref())?;
            Some(Bytes::from(copy::encode(output, !self.settings.key.is_empty())?))
        };
        let what = format!("{chain}: cannot commit a transaction");
        self.link.run(&what, "BEGIN ISOLATION LEVEL READ COMMITTED")?;
        match self.transact(chain, incarnation, slice, fates, rows) {
            // Constraints that are checked at the end are checked here.
            Ok(()) => self.link.run(&what, "COMMIT"),
            Err(error) => {
                if let Err(lost) = self.link.run("cannot take a transaction back", "ROLLBACK") {
                    tracing::debug!(task = %chain, error = %lost, "the connection is gone");
                    let class = if error.class == Class::Record { Class::Retry } else { error.class };
                    return Err(TaskError { class, ..error });
                }
                Err(error)
            }
        }
    }

    /// A commit that was answered is as durable as the server makes it.
    fn secure(&mut self) -> Result<(), TaskError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::*;

    fn rows(names: &[&str]) -> Schema {
        Schema::new(names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect::<Vec<_>>())
    }

    #[test]
    fn of_a_keys_rows_the_last_one_stands() {
        let table = TableName { schema: "s".to_owned(), table: "t".to_owned() };
        let columns = rows(&["a", "b\"", "row_number"]);
        let number = number_column(&columns);
        assert_eq!(number, "row_number_");
        assert_eq!(
            upsert(&table, &columns, &["a".to_owned()], &number),
            "INSERT INTO \"s\".\"t\" (\"a\", \"b\"\"\", \"row_number\") SELECT DISTINCT ON (\"a\") \"a\", \"b\"\"\", \"row_number\" \
             FROM pg_temp.sluice_batch ORDER BY \"a\", \"row_number_\" DESC ON CONFLICT (\"a\") DO UPDATE SET \
             \"b\"\"\" = EXCLUDED.\"b\"\"\", \"row_number\" = EXCLUDED.\"row_number\""
        );
        let all = upsert(&table, &rows(&["a"]), &["a".to_owned()], "n");
        assert!(all.ends_with("ON CONFLICT (\"a\") DO NOTHING"), "{all}");
        assert_eq!(copy_into("x", ["a", "B c"].into_iter()), "COPY x (\"a\", \"B c\") FROM STDIN");
    }
}

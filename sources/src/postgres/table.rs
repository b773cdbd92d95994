//! What is asked of the server: the columns that there are, the greatest value, and rows in their order.

use sluice_bridges::postgres::client::Link;
use sluice_bridges::postgres::{literal, quoted};
use sluice_connect::config::nearest;
use sluice_connect::task::{Class, TaskError};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::place::Kind;
use super::settle::Snapshot;
use super::{PostgresConfig, Relation};

/// A longer body is a record that does not fit, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Where in a row of [`Table::page`] its values stand.
pub(super) const BODY: usize = 0;
pub(super) const BODY_BYTES: usize = 1;
pub(super) const NUMBER: usize = 2;
/// The first of the columns that were asked for by name; `tie_break` comes after them.
pub(super) const VALUES: usize = 3;

/// A table, view or statement with the columns that matter.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// As it stands behind FROM.
    from: String,
    /// A table's own number, which no other one of its name has.
    oid: Option<i64>,
    /// For a person.
    pub(super) name: String,
    column: String,
    pub(super) kind: Kind,
    /// Of a timestamp, the columns that tell rows apart, each with its type as SQL has it.
    pub(super) ties: Vec<(String, String)>,
    /// Columns that become properties, keys and the tag.
    pub(super) values: Vec<String>,
}

/// A row by which the next ones are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) number: i64,
    pub(super) ties: Vec<String>,
}

impl Table {
    /// Looks at the columns.
    pub(super) fn find(link: &Link, config: &PostgresConfig, values: Vec<String>) -> Result<Self, TaskError> {
        let refused = |message: String| {
            TaskError::new(Class::Config, format!("PostgreSQL at {}: {message}", link.place()))
        };
        let relation = config.relation().map_err(|(_, problem)| refused(problem))?;
        let (from, name) = match &relation {
            Relation::Table(table) => (table.quoted(), format!("table {table}")),
            // A comment at its end must not hide the bracket.
            Relation::Query(query) => (format!("({query}\n)"), "the query".to_owned()),
        };
        let columns = link
            .columns(&format!("cannot read {name}"), &format!("SELECT * FROM {from} AS t"))
            .map_err(as_config)?;
        let oid: Option<i64> = match &relation {
            Relation::Table(_) => {
                let sql = format!("SELECT {}", oid_of(&from));
                let found = link.rows(&format!("cannot look at {name}"), &sql, &[])?;
                found.first().map_or(Ok(None), |row| row.try_get(0)).map_err(unread)?
            }
            Relation::Query(_) => None,
        };
        let named = |key: &str, column: &str| {
            columns.iter().find(|(name, _)| name == column).ok_or_else(|| {
                let names = columns.iter().map(|(name, _)| name.as_str());
                let hint = match nearest(column, names.clone()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("it has {}", names.take(20).collect::<Vec<_>>().join(", ")),
                };
                refused(format!("`{key}`: {name} has no column `{column}`; {hint}"))
            })
        };
        let (column, kind) = named("column", &config.column)?;
        let kind = Kind::of(kind.name()).ok_or_else(|| {
            refused(format!("`column`: `{column}` of {name} is {kind}, expected an integer or a timestamp"))
        })?;
        for (key, list) in [("keys", &config.keys), ("properties", &config.properties)] {
            list.iter().try_for_each(|column| named(key, column).map(drop))?;
        }
        if let Some(tag) = &config.tag {
            named("tag", tag)?;
        }
        let ties = match (kind, &relation) {
            (Kind::Integer, _) => Vec::new(),
            (Kind::Timestamp { .. }, Relation::Table(table)) if config.tie_break.is_empty() => {
                let sql = "SELECT a.attname::text FROM pg_catalog.pg_index i \
                     JOIN pg_catalog.pg_class c ON c.oid = i.indrelid \
                     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                     JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey) \
                     WHERE i.indisprimary AND n.nspname = $1 AND c.relname = $2 ORDER BY array_position(i.indkey::int2[], a.attnum)";
                let parameters = [(&table.schema as _, Type::TEXT), (&table.table as _, Type::TEXT)];
                let found = link.rows(&format!("cannot look at {name}"), sql, &parameters)?;
                found.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(unread)?
            }
            (Kind::Timestamp { .. }, _) => config.tie_break.clone(),
        };
        if kind != Kind::Integer && ties.is_empty() {
            return Err(refused(format!(
                "`tie_break` is missing: `{column}` of {name} is a timestamp, and several rows may have the same one; name the \
                 columns that tell them apart"
            )));
        }
        let typed = |tie: String| {
            let (_, kind) = named("tie_break", &tie)?;
            Ok::<_, TaskError>((tie, format!("{}.{}", quoted(kind.schema()), quoted(kind.name()))))
        };
        let ties = ties.into_iter().map(typed).collect::<Result<_, _>>()?;
        Ok(Self { from, oid, name, column: config.column.clone(), kind, ties, values })
    }

    /// What gives the offsets their meaning: also which table it is, since one that is made again begins anew.
    pub(super) fn incarnation(&self) -> String {
        let kind = if self.kind == Kind::Integer { "integer" } else { "timestamp" };
        let ties = self.ties.iter().map(|(name, _)| format!(",{name}")).collect::<String>();
        let oid = self.oid.map_or_else(String::new, |oid| format!("@{oid}"));
        format!("{kind}:{}{ties}{oid}", self.column)
    }

    fn column(&self) -> String {
        format!("t.{}", quoted(&self.column))
    }

    /// The least value.
    pub(super) fn least(&self, link: &Link) -> Result<Option<i64>, TaskError> {
        let least = self.kind.number("m.value");
        let sql = format!(
            "SELECT {least} FROM (SELECT min({}) AS value FROM {} AS t) AS m",
            self.column(),
            self.from
        );
        let rows = link.rows(&self.what(), &sql, &[]).map_err(as_config)?;
        rows.first().map_or(Ok(None), |row| row.try_get(0).map_err(unread))
    }

    /// What a look sees of rows at or behind an offset.
    pub(super) fn snapshot(&self, link: &Link, offset: i64) -> Result<Snapshot, TaskError> {
        let rows = link.rows(&self.what(), &self.snapshot_sql(offset), &[]).map_err(as_config)?;
        let none = || TaskError::new(Class::Fatal, "an aggregate without a row");
        let row = rows.first().ok_or_else(none)?;
        let oid: Option<i64> = row.try_get(3).map_err(unread)?;
        if oid != self.oid {
            // The run that begins anew tells whoever must act.
            let message = format!("{}: another one has taken its place", self.name);
            return Err(TaskError::new(Class::Retry, message));
        }
        Ok(Snapshot {
            max: row.try_get(0).map_err(unread)?,
            first_running: row.try_get(1).map_err(unread)?,
            first_unborn: row.try_get(2).map_err(unread)?,
        })
    }

    fn snapshot_sql(&self, offset: i64) -> String {
        let from = self.kind.literal(self.kind.from(offset));
        let from = from.map_or_else(String::new, |from| format!(" WHERE {} >= {from}", self.column()));
        let oid = self.oid.map_or_else(|| "NULL::bigint".to_owned(), |_| oid_of(&self.from));
        // A snapshot's xmax is behind the last transaction that has ended, so some that are writing may lie behind it. A number
        // that is taken after the snapshot lies behind them all; ours has ended when the next look comes. A standby gives none.
        format!(
            "SELECT {}, txid_snapshot_xmin(s.s), \
             CASE WHEN pg_is_in_recovery() THEN txid_snapshot_xmax(s.s) ELSE txid_current() END, {oid} \
             FROM (SELECT max({}) AS value FROM {} AS t{from}) AS m, (SELECT txid_current_snapshot() AS s) AS s",
            self.kind.number("m.value"),
            self.column(),
            self.from
        )
    }

    /// Rows with numbers from one to another, or behind a row, in their order.
    pub(super) fn page(&self, from: i64, to: i64, behind: Option<&Last>, rows: usize) -> Option<String> {
        let column = self.column();
        let (from, to) = (self.kind.literal(from)?, self.kind.literal(to)?);
        let mut behind_sql = String::new();
        if let Some(Last { number, ties }) = behind {
            let names = std::iter::once(column.clone())
                .chain(self.ties.iter().map(|(tie, _)| format!("t.{}", quoted(tie))));
            let values =
                ties.iter().zip(&self.ties).map(|(value, (_, kind))| format!("{}::{kind}", literal(value)));
            let values = std::iter::once(self.kind.literal(*number)?).chain(values);
            let list = |items: Vec<String>| items.join(", ");
            behind_sql = format!(" AND ({}) > ({})", list(names.collect()), list(values.collect()));
        }
        let order =
            std::iter::once(self.column.as_str()).chain(self.ties.iter().map(|(tie, _)| tie.as_str()));
        let order = order.map(|name| format!("t.{}", quoted(name))).collect::<Vec<_>>().join(", ");
        let ties = self.ties.iter().map(|(tie, _)| tie);
        let texts = self.values.iter().chain(ties).map(|name| format!(", t.{}::text", quoted(name)));
        // Bodies are made of the rows that are left, each once. A `t` alone would be a column of that name.
        Some(format!(
            "SELECT CASE WHEN octet_length(j.body) <= {BODY_BYTES_MAX} THEN j.body END, octet_length(j.body), {}{} \
             FROM (SELECT * FROM {} AS t WHERE {column} BETWEEN {from} AND {to}{behind_sql} ORDER BY {order} LIMIT {rows}) AS t \
             CROSS JOIN LATERAL (SELECT row_to_json(t.*)::text AS body OFFSET 0) AS j ORDER BY {order}",
            self.kind.number(&column),
            texts.collect::<String>(),
            self.from
        ))
    }

    /// What a row's `tie_break` is.
    pub(super) fn ties_of(&self, row: &Row) -> Result<Vec<String>, TaskError> {
        let first = VALUES + self.values.len();
        let tie = |(at, (name, _)): (usize, &(String, String))| {
            let value: Option<String> = row.try_get(first + at).map_err(unread)?;
            value.ok_or_else(|| {
                let message = format!(
                    "{}: column `{name}` of `tie_break` is null in some row, which no other row comes before or behind",
                    self.name
                );
                TaskError::new(Class::Config, message)
            })
        };
        self.ties.iter().enumerate().map(tie).collect()
    }

    pub(super) fn what(&self) -> String {
        format!("cannot read {}", self.name)
    }
}

/// What gives a table's `oid` in SQL; null if there is none.
fn oid_of(from: &str) -> String {
    format!("to_regclass({})::oid::bigint", literal(from))
}

/// Of a source there are no rows that a server refuses: what it says of values is of the statement.
pub(super) fn as_config(error: TaskError) -> TaskError {
    let class = if error.class == Class::Record { Class::Config } else { error.class };
    TaskError { class, ..error }
}

pub(super) fn unread(error: tokio_postgres::Error) -> TaskError {
    TaskError::new(Class::Fatal, "cannot read what the server sent").because(error)
}

/// Columns with each name once, and where each of the given ones stands among them.
pub(super) fn places<'a>(columns: impl Iterator<Item = &'a String>) -> (Vec<String>, Vec<usize>) {
    let mut all: Vec<String> = Vec::new();
    let places = columns
        .map(|column| {
            all.iter().position(|known| known == column).unwrap_or_else(|| {
                all.push(column.clone());
                all.len() - 1
            })
        })
        .collect();
    (all, places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(kind: Kind, ties: &[(&str, &str)]) -> Table {
        Table {
            from: "\"public\".\"orders\"".to_owned(),
            oid: Some(16_385),
            name: "table public.orders".to_owned(),
            column: "at".to_owned(),
            kind,
            ties: ties.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect(),
            values: vec!["ori\"gin".to_owned()],
        }
    }

    #[test]
    fn rows_come_in_the_order_of_the_column_and_its_ties() {
        let integer = table(Kind::Integer, &[]);
        let page = integer.page(5, 9, None, 11).unwrap();
        assert!(page.contains("WHERE t.\"at\" BETWEEN 5 AND 9 ORDER BY t.\"at\" LIMIT 11)"), "{page}");
        assert!(page.contains(", t.\"at\"::bigint, t.\"ori\"\"gin\"::text FROM"), "{page}");
        let moment = table(Kind::Timestamp { zone: true }, &[("id", "\"pg_catalog\".\"int8\"")]);
        let last = Last { number: 1_000_001, ties: vec!["a'b".to_owned()] };
        let page = moment.page(1_000_000, 2_000_000, Some(&last), 3).unwrap();
        assert!(
            page.contains(
                " AND (t.\"at\", t.\"id\") > ('1970-01-01 00:00:01.000001+00'::timestamptz, 'a''b'::\"pg_catalog\".\"int8\") \
                 ORDER BY t.\"at\", t.\"id\" LIMIT 3"
            ),
            "{page}"
        );
        assert!(page.ends_with("ORDER BY t.\"at\", t.\"id\""), "{page}");
        assert!(page.contains("(SELECT row_to_json(t.*)::text AS body"), "{page}");
    }

    #[test]
    fn a_look_sees_which_table_it_is_and_takes_a_number_behind_all_writers() {
        let moment = table(Kind::Timestamp { zone: true }, &[("id", "\"pg_catalog\".\"int8\"")]);
        assert_eq!(moment.incarnation(), "timestamp:at,id@16385");
        let look = moment.snapshot_sql(0);
        assert!(look.contains(">= '1970-01-01 00:00:00+00'::timestamptz"), "{look}");
        assert!(look.contains("ELSE txid_current() END"), "{look}");
        assert!(look.contains("to_regclass('\"public\".\"orders\"')::oid::bigint"), "{look}");
        let query = Table { from: "(SELECT 1\n)".to_owned(), oid: None, ..table(Kind::Integer, &[]) };
        assert_eq!(query.incarnation(), "integer:at");
        assert!(query.snapshot_sql(0).contains(", NULL::bigint FROM"));
    }

    #[test]
    fn each_column_is_asked_for_once() {
        let names = ["a", "b", "a"].map(str::to_owned);
        assert_eq!(places(names.iter()), (vec!["a".to_owned(), "b".to_owned()], vec![0, 1, 0]));
    }
}

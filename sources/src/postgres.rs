//! Source `postgres`: rows of a table or a query of PostgreSQL, asked for again and again by a column that only rises.
//!
//! A row's body is what `row_to_json` makes of it. Its queue offset follows from the column's value ([`place`]), so rows can
//! be read again under the offsets that they had. A row may be committed after others with greater values: nothing is read
//! of a value before every transaction that was writing when it was seen has ended, and `lag` has passed ([`settle`]).
//! Rows that change or go after they were read are not seen by this.

#[cfg(feature = "postgres")]
mod place;
#[cfg(feature = "postgres")]
mod settle;
#[cfg(feature = "postgres")]
mod table;
#[cfg(feature = "postgres")]
mod task;

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_bridges::postgres::{SslMode, TableName, WITHOUT, Way, name_problem, problems};
use sluice_client::{SecretKey, TlsSettings};
use sluice_connect::config::Span;
use sluice_connect::task::{SourceTask, TaskError};

use crate::KeyProblem;
use crate::source::{Beside, Source};
use crate::topic::{Begin, Until};

/// The schema of a table that is said without one.
const SCHEMA: &str = "public";
/// Rows that one statement may ask for.
const BATCH_MAX: usize = 100_000;
/// Columns of one list.
const LIST_MAX: usize = 1600;

/// Settings of source `postgres`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// The server and the database: `postgres://HOST:PORT/DATABASE`. The folder of a socket file is written
    /// `postgres://%2Frun%2Fpostgresql/DATABASE`.
    pub url: String,
    /// The role; `postgres` if not said.
    #[serde(default)]
    pub user: Option<String>,
    /// Its password, written `${VAR}`.
    #[serde(default)]
    pub password: Option<SecretKey>,
    /// Whether TLS is spoken: `disable`, `prefer` (if the server does), `require`, or `verify-full`, which alone looks at the
    /// server's certificate. `prefer` if not said, `verify-full` beside `tls`.
    #[serde(default)]
    pub sslmode: Option<SslMode>,
    /// How the server is trusted, for `sslmode: verify-full`.
    #[serde(default)]
    pub tls: Option<TlsSettings>,
    /// The table or view: `table` (of schema `public`) or `schema.table`, with case as written; a name with a dot stands in
    /// double quotes.
    #[serde(default)]
    pub table: Option<String>,
    /// A `SELECT` in the place of a table.
    #[serde(default)]
    pub query: Option<String>,
    /// The column that only rises: an integer that no two rows share, or a timestamp. Rows without it are never read, and
    /// neither are those that get a value below one that was read already.
    pub column: String,
    /// For a timestamp: the columns that tell rows with one timestamp apart, none of them null. The primary key of the table
    /// if not said.
    #[serde(default)]
    pub tie_break: Vec<String>,
    /// Where a pipeline begins that has no position yet: `earliest` or `latest`.
    #[serde(default)]
    pub start: Begin,
    /// How often it is looked for new rows, once all were read.
    #[serde(default = "interval_default")]
    pub interval: Span,
    /// How long a value that was seen waits before rows up to it are read, for rows below it that are on their way. The end of
    /// the transactions that were writing then is always waited for.
    #[serde(default = "lag_default")]
    pub lag: Span,
    /// Rows that one statement asks for, at most 100000.
    #[serde(default = "batch_default")]
    pub batch: usize,
    /// Columns that become the keys, with blanks between.
    #[serde(default)]
    pub keys: Vec<String>,
    /// The column that becomes the tag.
    #[serde(default)]
    pub tag: Option<String>,
    /// Columns that become properties of the same name; a null is no property.
    #[serde(default)]
    pub properties: Vec<String>,
    /// When the pipeline ends: `forever`, or `caught_up` with the rows that were there when it began.
    #[serde(default)]
    pub until: Until,
}

fn interval_default() -> Span {
    Span(Duration::from_secs(5))
}

fn lag_default() -> Span {
    Span(Duration::from_secs(1))
}

fn batch_default() -> usize {
    5000
}

/// What rows are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// A table or a view.
    Table(TableName),
    /// A statement, as it stands in brackets.
    Query(String),
}

impl PostgresConfig {
    /// The server, and how to get in.
    fn way(&self) -> Result<Way, String> {
        let password = self.password.as_ref().map(|SecretKey(password)| password.as_str());
        Way::new(&self.url, self.user.as_deref(), password, self.sslmode, self.tls.is_some())
    }

    /// What rows are read from, or the key that says it wrongly.
    fn relation(&self) -> Result<Relation, (&'static str, String)> {
        match (&self.table, &self.query) {
            (Some(table), None) => {
                TableName::parse(table, SCHEMA).map(Relation::Table).map_err(|problem| ("table", problem))
            }
            (None, Some(query)) => {
                let query = query.trim().trim_end_matches(';').trim_end();
                if query.is_empty() || query.contains('\0') {
                    return Err(("query", "expected a statement: SELECT … FROM …".to_owned()));
                }
                Ok(Relation::Query(query.to_owned()))
            }
            (Some(_), Some(_)) => Err(("query", "beside `table`: give one of them".to_owned())),
            (None, None) => Err((
                "",
                "what rows are read from is missing: `table: NAME`, or `query: SELECT …`".to_owned(),
            )),
        }
    }

    /// The table and where it is, if it is one.
    pub fn table_at(&self) -> Option<String> {
        let (Ok(way), Ok(Relation::Table(table))) = (self.way(), self.relation()) else { return None };
        Some(format!("{}, {}", way.shown(), table.quoted()))
    }
}

impl Source for PostgresConfig {
    fn problems(&self) -> Vec<KeyProblem> {
        if !cfg!(feature = "postgres") {
            return vec![(Vec::new(), WITHOUT.to_owned())];
        }
        let at = |key: &str| if key.is_empty() { Vec::new() } else { vec![key.to_owned()] };
        let mut found = problems(&self.way(), self.tls.is_some());
        found.extend(self.relation().err().map(|(key, problem)| (at(key), problem)));
        found.extend(name_problem(&self.column).map(|problem| (at("column"), problem)));
        found.extend(self.tag.as_deref().and_then(name_problem).map(|problem| (at("tag"), problem)));
        let lists = [("tie_break", &self.tie_break), ("keys", &self.keys), ("properties", &self.properties)];
        for (key, list) in lists {
            if list.len() > LIST_MAX {
                found.push((at(key), format!("{} columns, expected at most {LIST_MAX}", list.len())));
            }
            for (number, column) in list.iter().enumerate().take(LIST_MAX) {
                if let Some(problem) = name_problem(column) {
                    found.push((at(key), problem));
                } else if list[..number].contains(column) {
                    found.push((at(key), format!("`{column}` stands there twice")));
                }
            }
        }
        if !(1..=BATCH_MAX).contains(&self.batch) {
            found.push((at("batch"), format!("{} rows, expected 1 to {BATCH_MAX}", self.batch)));
        }
        if self.interval.0.is_zero() {
            found.push((at("interval"), "a length of 0, expected at least 1ms".to_owned()));
        }
        found
    }

    #[cfg(feature = "postgres")]
    fn open(&self, beside: Beside<'_>) -> Result<Box<dyn SourceTask>, TaskError> {
        Ok(Box::new(task::PostgresSource::new(self, beside.stop)))
    }

    #[cfg(not(feature = "postgres"))]
    fn open(&self, _: Beside<'_>) -> Result<Box<dyn SourceTask>, TaskError> {
        Err(sluice_bridges::without(WITHOUT))
    }

    fn begins_at_end(&self) -> bool {
        self.start == Begin::Latest
    }

    fn has_gaps(&self) -> bool {
        true
    }

    fn properties(&self) -> Option<Vec<String>> {
        Some(self.properties.clone())
    }

    fn secrets(&self) -> Vec<Vec<&'static str>> {
        vec![vec!["password"]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> PostgresConfig {
        let json = format!("{{\"url\": \"postgres://h/db\", \"column\": \"id\", {text}}}");
        serde_json::from_str(&json).unwrap()
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn settings_that_can_not_be_followed_are_told_with_their_key() {
        let told = |text: &str| -> Vec<(String, String)> {
            let problems = config(text).problems();
            problems.into_iter().map(|(path, message)| (path.join("."), message)).collect()
        };
        assert!(
            told("\"table\": \"sales.orders\", \"tie_break\": [\"id\"], \"interval\": \"200ms\"").is_empty()
        );
        for (text, key, part) in [
            ("\"tag\": \"x\"", "", "`table: NAME`"),
            ("\"table\": \"a\", \"query\": \"SELECT 1\"", "query", "one of them"),
            ("\"query\": \" ; \"", "query", "SELECT"),
            ("\"table\": \"a.b.c\"", "table", "a schema and a table"),
            ("\"table\": \"a\", \"batch\": 0", "batch", "1 to 100000"),
            ("\"table\": \"a\", \"interval\": \"0s\"", "interval", "1ms"),
            ("\"table\": \"a\", \"keys\": [\"b\", \"b\"]", "keys", "twice"),
            ("\"table\": \"a\", \"tag\": \"\"", "tag", "missing"),
        ] {
            let found = told(text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].0 == key && found[0].1.contains(part), "{text}: {found:?}");
        }
    }

    #[test]
    fn a_statement_stands_in_brackets_without_its_end() {
        let query = config("\"query\": \" SELECT 1 AS id -- one\\n ; \"").relation();
        assert_eq!(query, Ok(Relation::Query("SELECT 1 AS id -- one".to_owned())));
    }
}

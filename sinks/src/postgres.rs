//! Sink `postgres`: rows become rows of a table of PostgreSQL, by COPY, and the source's position moves in the same
//! transaction.
//!
//! The position of a chain is a row of a table of ours beside it. Each transaction moves it from the start of its rows to
//! their end, and does nothing if it stands elsewhere: whoever was slower is shut out by that row's lock. With `key` a row
//! takes the place of the one that has its key. How values are held: [`types`].

#[cfg(feature = "postgres")]
mod copy;
#[cfg(feature = "postgres")]
mod table;
#[cfg(feature = "postgres")]
mod task;
#[cfg(feature = "postgres")]
mod types;

use arrow::datatypes::Schema;
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_bridges::postgres::{SslMode, TableName, WITHOUT, Way, name_problem, problems};
use sluice_client::{SecretKey, TlsSettings};
use sluice_connect::config::Delivery;
use sluice_connect::target::Target;
use sluice_connect::task::TaskError;

use crate::KeyProblem;
use crate::sink::{Known, Sink};

/// The schema of a table that is said without one.
const SCHEMA: &str = "public";
/// The table of positions if none is said, in the schema of the rows' table.
const POSITIONS: &str = "sluice_positions";
/// Columns that PostgreSQL's tables have, at most.
const COLUMNS_MAX: usize = 1600;
/// Names of columns that each table has of its own.
const SYSTEM_COLUMNS: [&str; 6] = ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"];

/// Settings of sink `postgres`.
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
    /// The table: `table` (of schema `public`) or `schema.table`, with case as written; a name with a dot stands in double
    /// quotes.
    pub table: String,
    /// Columns by which a row takes the place of the one that is there; the table has a unique index over them. Rows are
    /// added if not said.
    #[serde(default)]
    pub key: Vec<String>,
    /// Make the table if it is not there, and columns that it does not have. Else either is refused.
    #[serde(default)]
    pub create: bool,
    /// The table of positions, made if it is not there: `sluice_positions` in the schema of `table` if not said.
    #[serde(default)]
    pub positions: Option<String>,
}

impl PostgresConfig {
    /// The server, and how to get in.
    fn way(&self) -> Result<Way, String> {
        let password = self.password.as_ref().map(|SecretKey(password)| password.as_str());
        Way::new(&self.url, self.user.as_deref(), password, self.sslmode, self.tls.is_some())
    }

    fn table(&self) -> Result<TableName, String> {
        TableName::parse(&self.table, SCHEMA)
    }

    fn positions(&self) -> Result<TableName, String> {
        let table = self.table()?;
        TableName::parse(self.positions.as_deref().unwrap_or(POSITIONS), &table.schema)
    }

    /// The table and where it is.
    pub fn table_at(&self) -> Option<String> {
        let (Ok(way), Ok(table)) = (self.way(), self.table()) else { return None };
        Some(format!("{}, {}", way.shown(), table.quoted()))
    }
}

impl Sink for PostgresConfig {
    fn problems(&self, known: Known<'_>) -> Vec<KeyProblem> {
        if !cfg!(feature = "postgres") {
            return vec![(Vec::new(), WITHOUT.to_owned())];
        }
        let at = |key: &str| vec![key.to_owned()];
        let mut found = problems(&self.way(), self.tls.is_some());
        match (self.table(), self.positions()) {
            (Err(problem), _) => found.push((at("table"), problem)),
            (Ok(_), Err(problem)) => found.push((at("positions"), problem)),
            (Ok(table), Ok(positions)) if table == positions => {
                let message = "is the table of the rows: name another one for positions";
                found.push((
                    at(if self.positions.is_some() { "positions" } else { "table" }),
                    message.to_owned(),
                ));
            }
            (Ok(_), Ok(_)) => {}
        }
        for (number, column) in self.key.iter().enumerate() {
            let mut tell = |message: String| found.push((at("key"), message));
            if let Some(problem) = name_problem(column) {
                tell(problem);
            } else if self.key[..number].contains(column) {
                tell(format!("`{column}` stands there twice"));
            } else if let Some(output) = known.output
                && output.field_with_name(column).is_err()
            {
                let names: Vec<&str> = output.fields().iter().map(|field| field.name().as_str()).collect();
                tell(format!("rows have no column `{column}`; they have {}", names.join(", ")));
            }
        }
        if let Some(output) = known.output {
            found.extend(columns_problem(output).map(|problem| (Vec::new(), problem)));
        }
        found
    }

    fn shown(&self) -> String {
        // A URL that is refused may hold a password.
        let place = self.way().map_or_else(|_| "an unknown place".to_owned(), |way| way.shown());
        let table = self.table().map_or_else(|_| self.table.clone(), |table| table.to_string());
        let how =
            if self.key.is_empty() { String::new() } else { format!(", by key {}", self.key.join(", ")) };
        format!("table {table} of PostgreSQL at {place}{how}")
    }

    #[cfg(feature = "postgres")]
    fn open(&self, _: Delivery) -> Result<Target, TaskError> {
        Ok(Target::Transact(Box::new(task::PostgresSink::new(self)?)))
    }

    #[cfg(not(feature = "postgres"))]
    fn open(&self, _: Delivery) -> Result<Target, TaskError> {
        Err(sluice_bridges::without(WITHOUT))
    }

    #[cfg(feature = "postgres")]
    fn check(&self, _: Delivery) -> Result<String, TaskError> {
        task::check(self)
    }

    fn keeps_positions(&self) -> bool {
        true
    }

    fn no_route(&self) -> Option<&'static str> {
        Some("a sink of PostgreSQL has one table: write a pipeline for each, with `where`")
    }

    fn secrets(&self) -> Vec<Vec<&str>> {
        vec![vec!["password"]]
    }
}

/// What no table can have of these columns.
fn columns_problem(output: &Schema) -> Option<String> {
    let count = output.fields().len();
    if count > COLUMNS_MAX {
        return Some(format!("rows have {count} columns, and a table of PostgreSQL at most {COLUMNS_MAX}"));
    }
    output.fields().iter().find_map(|field| {
        let is_system = SYSTEM_COLUMNS.contains(&field.name().as_str());
        let own = is_system.then(|| "each table of PostgreSQL has one of that name for itself".to_owned());
        let problem = own.or_else(|| name_problem(field.name()))?;
        Some(format!("column `{}`: {problem}; `select: {{rename: …}}` gives it another", field.name()))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field};

    use super::*;

    fn config(text: &str) -> PostgresConfig {
        serde_saphyr::from_str(&format!("url: 'postgres://h/db'\n{text}")).unwrap()
    }

    fn told(text: &str, output: Option<&Schema>) -> Vec<(String, String)> {
        let problems = config(text).problems(Known { output, format: None });
        problems.into_iter().map(|(path, message)| (path.join("."), message)).collect()
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn settings_that_can_not_be_followed_are_told_with_their_key() {
        let schema = Schema::new(vec![Field::new("id", DataType::Int64, true)]);
        assert!(told("table: sales.orders\nkey: [id]", Some(&schema)).is_empty());
        for (text, key, part) in [
            ("table: a.b.c", "table", "a schema and a table"),
            ("table: sluice_positions", "table", "name another one"),
            ("table: x\npositions: public.x", "positions", "the table of the rows"),
            ("table: x\npositions: ''", "positions", "missing"),
            ("table: x\nkey: [id, id]", "key", "twice"),
            ("table: x\nkey: [nr]", "key", "no column `nr`; they have id"),
            ("table: x\nsslmode: require\ntls: {ca: ca.pem}", "tls", "verify-full"),
        ] {
            let found = told(text, Some(&schema));
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].0 == key && found[0].1.contains(part), "{text}: {found:?}");
        }
        let long = Schema::new(vec![Field::new("x".repeat(64), DataType::Int64, true)]);
        assert!(told("table: x", Some(&long))[0].1.contains("rename"));
        let many = (0..1601).map(|number| Arc::new(Field::new(format!("c{number}"), DataType::Int64, true)));
        let many = Schema::new(many.collect::<Vec<_>>());
        assert!(told("table: x", Some(&many))[0].1.contains("1600"));
    }

    #[test]
    fn columns_that_each_table_has_for_itself_are_refused() {
        let of = |name: &str| columns_problem(&Schema::new(vec![Field::new(name, DataType::Int64, true)]));
        for name in ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"] {
            let told = of(name).unwrap();
            assert!(told.contains(&format!("`{name}`")) && told.contains("select: {rename: …}"), "{told}");
        }
        assert_eq!((of("oid"), of("XMIN")), (None, None));
    }

    #[test]
    fn a_password_is_never_shown() {
        let refused = "url: 'http://me:secret@h'\ntable: x";
        let refused: PostgresConfig = serde_saphyr::from_str(refused).unwrap();
        assert!(!refused.shown().contains("secret"), "{}", refused.shown());
        let shown = format!("{:?}", config("table: x\npassword: secret"));
        assert!(!shown.contains("secret"), "{shown}");
        assert!(serde_saphyr::from_str::<PostgresConfig>("url: 'postgres://h'\ntable: x\ntabel: y").is_err());
    }
}

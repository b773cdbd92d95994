//! PostgreSQL: where a server is, how a pipeline gets in, and names as SQL takes them.

#[cfg(feature = "postgres")]
pub mod client;
#[cfg(feature = "postgres")]
mod error;
#[cfg(feature = "postgres")]
mod tls;

use std::fmt;

use percent_encoding::percent_decode_str;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::address::{Address, Schemes};

const SCHEMES: Schemes = [("postgres", 5432), ("postgresql", 5432)];

/// What a build without the feature says.
pub const WITHOUT: &str = "this program was built without PostgreSQL: build it with `--features postgres`";

/// The longest name of a table or a column, in bytes: the server cuts longer ones (`NAMEDATALEN` - 1).
pub const NAME_BYTES_MAX: usize = 63;

/// Whether TLS is spoken, by the names that PostgreSQL's own clients have for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the server speaks it; nobody looks at its certificate.
    Prefer,
    /// Always; nobody looks at the server's certificate.
    Require,
    /// Always, with a certificate for the server's name by an authority that is trusted.
    VerifyFull,
}

/// A password; never shown.
#[derive(Clone)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a server is, and how to get in.
#[derive(Clone, Debug)]
pub struct Way {
    /// The server's place; the host of a socket file is the folder that it lies in.
    pub address: Address,
    /// The database.
    pub database: String,
    /// The role.
    pub user: String,
    /// Its password.
    pub password: Option<Password>,
    /// Whether TLS is spoken.
    pub ssl_mode: SslMode,
}

impl Way {
    /// Of `postgres://HOST:PORT/DATABASE` and a role: `postgres` if none is said, and a database of its name. With settings
    /// of TLS (`has_tls`) certificates are verified unless `ssl_mode` says otherwise.
    pub fn new(
        url: &str,
        user: Option<&str>,
        password: Option<&str>,
        ssl_mode: Option<SslMode>,
        has_tls: bool,
    ) -> Result<Self, String> {
        let mut address = Address::parse(url, SCHEMES)?;
        address.is_secure = false;
        if address.host.contains('%') {
            let decoded = percent_decode_str(&address.host).decode_utf8();
            address.host = decoded.map_err(|_| format!("the host of `{url}` is no UTF-8"))?.into_owned();
        }
        let user = user.unwrap_or("postgres").to_owned();
        let database = match address.path.take() {
            Some(path) if !path.is_empty() => path,
            _ => user.clone(),
        };
        for (what, text) in
            [("user", &user), ("database", &database), ("password", &password.unwrap_or("").to_owned())]
        {
            if text.contains('\0') {
                return Err(format!("the {what} holds a byte 0"));
            }
        }
        let default = if has_tls { SslMode::VerifyFull } else { SslMode::Prefer };
        let password = password.map(|password| Password(password.to_owned()));
        Ok(Self { address, database, user, password, ssl_mode: ssl_mode.unwrap_or(default) })
    }

    /// The socket file of the server, if it is reached by one.
    pub fn socket_file(&self) -> Option<String> {
        let Address { host, port, .. } = &self.address;
        host.starts_with('/').then(|| format!("{host}/.s.PGSQL.{port}"))
    }

    /// A server's place and the database for a person.
    pub fn shown(&self) -> String {
        match self.socket_file() {
            Some(file) => format!("{file}, database {}", self.database),
            None => format!("{}/{}", self.address, self.database),
        }
    }
}

/// What is wrong with the settings of a connection, by the key.
pub fn problems(way: &Result<Way, String>, has_tls: bool) -> Vec<(Vec<String>, String)> {
    match way {
        Err(problem) => vec![(vec!["url".to_owned()], problem.clone())],
        Ok(way) if has_tls && way.ssl_mode != SslMode::VerifyFull => {
            let message = "says by what a server's certificate is verified: write `sslmode: verify-full`";
            vec![(vec!["tls".to_owned()], message.to_owned())]
        }
        Ok(_) => Vec::new(),
    }
}

/// The name of a table with its schema, each as the server has it: case and all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName {
    /// The schema.
    pub schema: String,
    /// The table's own name.
    pub table: String,
}

impl TableName {
    /// Reads `table` or `schema.table`; a name with a dot stands in double quotes. `schema` is that of a name without one.
    pub fn parse(text: &str, schema: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let (part, after) = match rest.strip_prefix('"') {
                Some(quoted) => quoted_part(quoted).ok_or_else(|| format!("`{text}` has an open quote"))?,
                None => {
                    let end = rest.find('.').unwrap_or(rest.len());
                    (rest[..end].to_owned(), &rest[end..])
                }
            };
            if let Some(problem) = name_problem(&part) {
                return Err(format!("`{text}`: {problem}"));
            }
            parts.push(part);
            match after.strip_prefix('.') {
                Some(next) => rest = next,
                None if after.is_empty() => break,
                None => return Err(format!("`{text}`: expected a dot after a quoted name")),
            }
        }
        let mut parts = parts.into_iter();
        match (parts.next(), parts.next(), parts.next()) {
            (Some(table), None, None) => Ok(Self { schema: schema.to_owned(), table }),
            (Some(schema), Some(table), None) => Ok(Self { schema, table }),
            _ => Err(format!("`{text}`: expected a table, or a schema and a table: sales.orders")),
        }
    }

    /// As SQL takes it.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.table))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// The name up to its closing quote, with doubled quotes read as one, and what comes after.
fn quoted_part(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                name.push('"');
                rest = after;
            }
            None => return Some((name, rest)),
        }
    }
}

/// What is wrong with the name of a table or a column.
pub fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("a name is missing".to_owned());
    }
    if name.contains('\0') {
        return Some("a name holds a byte 0".to_owned());
    }
    (name.len() > NAME_BYTES_MAX).then(|| {
        format!("a name of {} bytes, expected at most {NAME_BYTES_MAX}, as PostgreSQL has them", name.len())
    })
}

/// A name as SQL takes it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Names as a list in SQL takes them.
pub fn quoted_list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quoted).collect::<Vec<_>>().join(", ")
}

/// A text as SQL takes it, however backslashes are read.
pub fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!(" E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_url_says_host_port_and_database() {
        let way = |url, user| Way::new(url, user, None, None, false).unwrap();
        let plain = way("postgres://db.example:5433/sales", Some("sluice"));
        assert_eq!((plain.shown(), plain.user.as_str()), ("db.example:5433/sales".to_owned(), "sluice"));
        assert_eq!(plain.ssl_mode, SslMode::Prefer);
        assert_eq!(way("postgresql://h", Some("me")).shown(), "h:5432/me");
        let socket = way("postgres://%2Frun%2Fpostgresql:5433/a%20b", None);
        assert_eq!(socket.shown(), "/run/postgresql/.s.PGSQL.5433, database a b");
        assert_eq!(socket.user, "postgres");
    }

    #[test]
    fn settings_of_tls_mean_that_certificates_are_verified() {
        let way = |mode, has_tls| Way::new("postgres://h", None, None, mode, has_tls);
        assert_eq!(way(None, true).unwrap().ssl_mode, SslMode::VerifyFull);
        assert!(problems(&way(None, true), true).is_empty());
        let told = problems(&way(Some(SslMode::Require), true), true);
        assert!(told[0].1.contains("verify-full"), "{told:?}");
        let told = problems(&way(None, false).and(Way::new("http://h", None, None, None, false)), false);
        assert_eq!(told[0].0, ["url"]);
        let told = Way::new("postgres://me:secret@h", None, None, None, false).unwrap_err();
        assert!(told.contains("password: ${VAR}") && !told.contains("secret"), "{told}");
    }

    #[test]
    fn a_table_has_a_schema_and_odd_names_stand_in_quotes() {
        let parse = |text| TableName::parse(text, "public").map(|name| (name.schema, name.table));
        let names = |schema: &str, table: &str| Ok((schema.to_owned(), table.to_owned()));
        assert_eq!(parse("orders"), names("public", "orders"));
        assert_eq!(parse("Sales.Orders"), names("Sales", "Orders"));
        assert_eq!(parse(r#""odd.""name".x"#), names("odd.\"name", "x"));
        for (text, part) in [
            ("", "missing"),
            ("a..b", "missing"),
            ("a.b.c", "a schema and a table"),
            ("\"a", "open quote"),
            ("\"a\"b", "expected a dot"),
            ("a\0", "byte 0"),
        ] {
            let told = parse(text).unwrap_err();
            assert!(told.contains(part), "{text}: {told}");
        }
        assert!(parse(&"x".repeat(64)).unwrap_err().contains("63"));
    }

    /// Reads an identifier as PostgreSQL's lexer does: what it names, and what is left.
    fn read_identifier(sql: &str) -> (String, &str) {
        quoted_part(sql.strip_prefix('"').unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn whatever_a_name_holds_it_stays_one_name(name in "[^\0]{1,40}", rest in "[ ,.;)a-z]{0,5}") {
            let sql = format!("{}{rest}", quoted(&name));
            let (read, left) = read_identifier(&sql);
            prop_assert_eq!((read, left), (name, rest.as_str()));
        }

        #[test]
        fn a_quoted_table_name_is_read_back(schema in "[^\0]{1,15}", table in "[^\0]{1,15}") {
            let name = TableName { schema, table };
            prop_assert_eq!(TableName::parse(&name.quoted(), "public").unwrap(), name);
        }

        #[test]
        fn whatever_a_text_holds_its_literal_ends_where_it_does(text in "[^\0]{0,40}") {
            let sql = literal(&text);
            let (is_escaped, inner) = match sql.strip_prefix(" E'") {
                Some(inner) => (true, inner),
                None => (false, sql.strip_prefix('\'').unwrap()),
            };
            let inner = inner.strip_suffix('\'').unwrap();
            let (mut read, mut chars) = (String::new(), inner.chars());
            while let Some(c) = chars.next() {
                read.push(c);
                if c == '\'' || is_escaped && c == '\\' {
                    prop_assert_eq!(chars.next(), Some(c));
                }
            }
            prop_assert!(is_escaped || !read.contains('\\'));
            prop_assert_eq!(read, text);
        }
    }
}

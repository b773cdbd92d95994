//! A server's errors by who must act, and as a person reads them. Codes: PostgreSQL's documentation, appendix A.

use std::io;

use sluice_connect::task::{Class, TaskError};
use tokio_postgres::error::DbError;

/// What a server refused, with its code.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// `SQLSTATE`: five letters and digits.
    pub code: String,
    text: String,
}

/// The code of an error, if a server refused something.
pub fn code(error: &TaskError) -> Option<&str> {
    let cause = error.source.as_ref()?.downcast_ref::<Refused>()?;
    Some(&cause.code)
}

/// An error of a connection; `what` says what could not be done.
pub(super) fn failed(what: impl Into<String>, error: tokio_postgres::Error) -> TaskError {
    if let Some(refused) = error.as_db_error() {
        let code = refused.code().code().to_owned();
        let text = told(refused);
        return TaskError::new(class(&code, refused.where_()), what).because(Refused { code, text });
    }
    let class = if error.is_closed() {
        Class::Retry
    } else {
        match std::error::Error::source(&error) {
            // Of whoever answers there, which is another kind of server, or of TLS: its certificate is not trusted.
            Some(cause) => match cause.downcast_ref::<io::Error>() {
                Some(cause) => match cause.kind() {
                    io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Class::Config,
                    _ => Class::Retry,
                },
                // No TLS there, or no way to prove who asks.
                None => Class::Config,
            },
            None => Class::Retry,
        }
    };
    TaskError::new(class, what).because(error)
}

/// Who must act, by a code and its class, and by where the error arose.
fn class(code: &str, context: Option<&str>) -> Class {
    let group = code.get(..2).unwrap_or_default();
    // What is said of a value that COPY reads is the row's, unless it could have been said of any other.
    let is_of_value = context.and_then(copied_column).is_some();
    if is_of_value && !matches!(group, "08" | "40" | "53" | "57" | "58") {
        return Class::Record;
    }
    match code {
        // Rows that a statement would make too long for a page or an index.
        "54000" => Class::Record,
        // A server that is a standby now; who asks finds the other one, or it comes back.
        "25006" => Class::Retry,
        // What is asked for is not in a state that allows it: a view that nothing can be written to, one that was never filled.
        "55000" => Class::Config,
        _ => match group {
            // Data, constraints, what triggers and checks of views say.
            "22" | "23" | "44" | "P0" => Class::Record,
            // Connections, transactions that others were in the way of, resources, shutdown and time limits, the system.
            "08" | "25" | "40" | "53" | "55" | "57" | "58" | "XX" => Class::Retry,
            _ => Class::Config,
        },
    }
}

/// What the server says. Of values it tells what constraints do, which name the key.
fn told(error: &DbError) -> String {
    let mut text = format!("{} ({})", error.message(), error.code().code());
    let detail = match error.code().code() {
        "23503" | "23505" | "23P01" | "42P10" | "42830" => error.detail(),
        _ => None,
    };
    if let Some(detail) = detail {
        text = format!("{text}: {detail}");
    }
    if let Some(column) = error.where_().and_then(copied_column) {
        text = format!("column `{column}`: {text}");
    }
    if let Some(hint) = error.hint().filter(|_| error.code().code().starts_with("42")) {
        text = format!("{text}. {hint}");
    }
    text
}

/// The column of `COPY orders, line 3, column amount: "many"`.
fn copied_column(context: &str) -> Option<&str> {
    let (_, place) = context.strip_prefix("COPY ")?.split_once(", column ")?;
    Some(place.split_once(": ").map_or(place, |(column, _)| column))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_who_must_act() {
        for (code, expected) in [
            ("22003", Class::Record),
            ("22021", Class::Record),
            ("23502", Class::Record),
            ("23514", Class::Record),
            ("40001", Class::Retry),
            ("40P01", Class::Retry),
            ("53100", Class::Retry),
            ("57014", Class::Retry),
            ("57P01", Class::Retry),
            ("57P03", Class::Retry),
            ("55006", Class::Retry),
            ("55P03", Class::Retry),
            ("55000", Class::Config),
            ("08006", Class::Retry),
            ("28P01", Class::Config),
            ("3D000", Class::Config),
            ("42501", Class::Config),
            ("42703", Class::Config),
            ("42P01", Class::Config),
            ("42P10", Class::Config),
        ] {
            assert_eq!(class(code, None), expected, "{code}");
            assert_eq!(class(code, Some("COPY orders, line 3")), expected, "{code}");
        }
    }

    #[test]
    fn what_is_said_of_a_copied_value_is_the_rows() {
        for (code, expected) in [
            ("22P02", Class::Record),
            ("42P01", Class::Record),
            ("42704", Class::Record),
            ("54001", Class::Record),
            ("55P04", Class::Record),
            ("XX000", Class::Record),
            ("08006", Class::Retry),
            ("40001", Class::Retry),
            ("53200", Class::Retry),
            ("57014", Class::Retry),
            ("58030", Class::Retry),
        ] {
            let context = Some("COPY orders, line 3, column amount: \"many\"");
            assert_eq!(class(code, context), expected, "{code}");
        }
    }

    #[test]
    fn the_column_of_a_copy_is_told_without_its_value() {
        assert_eq!(copied_column("COPY orders, line 3, column amount: \"a: b\""), Some("amount"));
        assert_eq!(copied_column("COPY orders, line 3, column note"), Some("note"));
        assert_eq!(copied_column("COPY orders, line 3"), None);
        assert_eq!(copied_column("PL/pgSQL function f() line 3"), None);
    }
}

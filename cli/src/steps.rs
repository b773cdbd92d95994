//! Steps of a pipeline as far as they meet its source and its sink, and the engine that runs their SQL.

use sluice_connect::config::{Problem, Step};
use sluice_connect::steps::MakeSql;
use sluice_sources::SourceConfig;

use crate::load::ParsedPipeline;

/// What runs the statements of `sql` steps, if this program has it.
#[cfg(feature = "query")]
#[expect(clippy::unnecessary_wraps, reason = "a program without `query` has none")]
pub(crate) fn make_sql() -> Option<MakeSql> {
    Some(std::sync::Arc::new(sluice_query::step::make))
}

/// What runs the statements of `sql` steps, if this program has it.
#[cfg(not(feature = "query"))]
pub(crate) fn make_sql() -> Option<MakeSql> {
    None
}

/// What is wrong with steps before this source and this sink.
pub(crate) fn problems(parsed: &ParsedPipeline) -> Vec<Problem> {
    let document = &parsed.document;
    let mut found = Vec::new();
    for (at, step) in document.steps.iter().enumerate() {
        let at = format!("[{at}]");
        let path = ["steps", &at, step.key()];
        match step {
            Step::Headers(_) if !document.sink.takes_headers() => {
                let message = "headers are properties of messages: sinks `topic`, `kafka`, `amqp091` and `amqp10` write them";
                found.push(parsed.problem(&path, message));
            }
            Step::Route(_) if let Some(message) = document.sink.no_route() => {
                found.push(parsed.problem(&path, message));
            }
            Step::Dedupe(dedupe)
                if dedupe.age.is_some() && !matches!(document.source, SourceConfig::Topic(_)) =>
            {
                let message =
                    "`age` goes by the time when a broker stored a row, which this source does not have";
                found.push(parsed.problem(&[&path[..], &["age"]].concat(), message));
            }
            Step::Sql(text) => {
                if let Some(message) = sql_problem(text) {
                    found.push(parsed.problem(&path, message));
                }
            }
            _ => {}
        }
    }
    found
}

#[cfg(feature = "query")]
fn sql_problem(text: &str) -> Option<String> {
    sluice_query::step::check(text).err()
}

#[cfg(not(feature = "query"))]
fn sql_problem(_: &str) -> Option<String> {
    Some("this program was built without DataFusion (`--no-default-features`) and has no `sql`: build it with it, or use `where` and `select`".to_owned())
}

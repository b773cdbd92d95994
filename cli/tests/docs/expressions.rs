//! Each expression of the book, with the answer that stands beside it.

use std::fmt::Write;
use std::process::Command;

use serde_json::{Map, Value, json};
use sluice_filters::{Dialect, Filter, Verdict};
use sluice_protocol::message::push_property;

use crate::book::{code, pages};

/// A message as a cell tells it: `a=1, $tags=new, {"body": 1}`.
fn message(cell: &str) -> Value {
    let mut given = Map::new();
    let text = code(cell);
    let (before, body) = match text.find('{') {
        Some(at) => (&text[..at], Some(&text[at..])),
        None => (text, None),
    };
    let mut properties = Map::new();
    for pair in before.split(", ").map(|pair| pair.trim_end_matches(',')).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or_else(|| panic!("{cell}: {pair} is no pair"));
        match name.strip_prefix('$') {
            Some(column) => given.insert(column.to_owned(), value.into()),
            None => properties.insert(name.to_owned(), value.into()),
        };
    }
    given.insert("properties".to_owned(), properties.into());
    if let Some(body) = body {
        serde_json::from_str::<Value>(body).unwrap_or_else(|error| panic!("{cell}: {error}"));
        given.insert("body".to_owned(), body.into());
    }
    given.into()
}

#[test]
fn every_expression_has_the_answer_that_the_book_tells() {
    let (mut text, mut places, mut wrong) = (String::new(), Vec::new(), Vec::new());
    for page in pages() {
        for (place, cells) in page.tables(&["Expression", "Message", "Answer"]) {
            let expression = code(&cells[0]);
            if let Some(told) = cells[2].strip_prefix("refused:") {
                match Filter::parse(expression, Dialect::Sluice) {
                    Ok(_) => wrong.push(format!("{place}: {expression} is not refused")),
                    Err(error) if !error.render().contains(told.trim()) => {
                        wrong.push(format!("{place}: {expression} is refused: {}", error.render()));
                    }
                    Err(_) => {}
                }
                continue;
            }
            assert!(["TRUE", "FALSE", "UNKNOWN"].contains(&cells[2].as_str()), "{place}: {}", cells[2]);
            let mut document = json!({
                "name": format!("e{}", places.len()),
                "source": {"topic": {"name": "t"}},
                "where": format!("({expression}) IS {}", cells[2]),
                "sink": {"stdout": {}},
                "delivery": "at_least_once",
                "tests": [{"given": [message(&cells[1])], "expect": [{}]}],
            });
            if cells[1].contains('{') {
                document["decode"] = json!({"format": "json"});
            }
            writeln!(text, "---\n{document}").unwrap();
            places.push(format!("{place}: {expression}"));
        }
    }
    assert!(places.len() > 50, "the book has {} expressions", places.len());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("expressions.yaml");
    std::fs::write(&file, text).unwrap();
    let tested =
        Command::new(env!("CARGO_BIN_EXE_sluice")).args(["test", "--json"]).arg(&file).output().unwrap();
    let told: Value = serde_json::from_slice(&tested.stdout).unwrap_or_else(|_| panic!("{tested:?}"));
    let tests = told["tests"].as_array().unwrap();
    assert_eq!(tests.len(), places.len());
    for (test, place) in tests.iter().zip(&places) {
        if test["ok"] != true {
            wrong.push(format!("{place}: {}", test["differences"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn both_dialects_answer_as_the_book_tells() {
    let mut count = 0;
    for page in pages() {
        for (place, cells) in page.tables(&["Expression", "Properties", "Pipelines", "RocketMQ"]) {
            count += 1;
            let mut encoded = Vec::new();
            for pair in code(&cells[1]).split(", ") {
                let (name, value) = pair.split_once('=').unwrap();
                push_property(&mut encoded, name, value).unwrap();
            }
            for (dialect, told) in [(Dialect::Sluice, &cells[2]), (Dialect::RocketMq, &cells[3])] {
                let answer = match Filter::parse(code(&cells[0]), dialect) {
                    Err(_) => "refused",
                    Ok(filter) => match filter.matches(&encoded) {
                        Verdict::True => "TRUE",
                        Verdict::False => "FALSE",
                        Verdict::Unknown => "UNKNOWN",
                        Verdict::Failed => "fails",
                    },
                };
                assert_eq!(answer, told, "{place}: {} in {dialect:?}", cells[0]);
            }
        }
    }
    assert!(count > 5, "the book has {count} lines of both dialects");
}

//! A worker's management API as the book tells it: its paths, its metrics, and configs of connectors that it takes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::book::{Page, code, pages};
use crate::served::Served;

/// A worker without pipelines, and where its API is.
struct Worker {
    address: String,
    _process: Served,
}

impl Worker {
    fn new() -> Self {
        let process = Served::start(&["connect", "--rest", "127.0.0.1:0"]);
        Self { address: process.text("rest"), _process: process }
    }

    /// The body of an answer.
    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let Self { address, .. } = self;
        let mut stream = TcpStream::connect(address).unwrap();
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\n");
        write!(stream, "{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }
}

/// A table of all paths, of the `OpenAPI` document that a worker serves.
pub(crate) fn paths() -> String {
    let told: Value = serde_json::from_str(&Worker::new().ask("GET", "/openapi.json", "")).unwrap();
    let mut text = "| Request | Does | Parameters |\n|---|---|---|\n".to_owned();
    let sorted = |map: &Value| {
        let mut pairs: Vec<(String, Value)> = map.as_object().unwrap().clone().into_iter().collect();
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        pairs
    };
    for (path, methods) in sorted(&told["paths"]) {
        for (method, route) in sorted(&methods) {
            let parameters = route["parameters"].as_array().unwrap().iter();
            let parameters = parameters.filter(|one| one["in"] == "query").map(|one| {
                format!("`{}`: {}", one["name"].as_str().unwrap(), one["description"].as_str().unwrap())
            });
            let parameters = parameters.collect::<Vec<String>>().join("; ").replace('|', "\\|");
            let what = route["summary"].as_str().unwrap().replace('|', "\\|");
            writeln!(text, "| `{} {path}` | {what} | {parameters} |", method.to_uppercase()).unwrap();
        }
    }
    text
}

#[test]
fn every_config_of_a_connector_is_taken_by_the_management_api() {
    let worker = Worker::new();
    let mut count = 0;
    for block in pages().iter().flat_map(Page::blocks).filter(|block| block.language == "json") {
        let Ok(config) = serde_json::from_str::<Value>(&block.text) else {
            panic!("{}: no JSON", block.place)
        };
        // Names of Java classes stand beside, for comparison.
        let Some(class) = config["connector.class"].as_str().filter(|class| !class.contains('.')) else {
            continue;
        };
        count += 1;
        let path = format!("/connector-plugins/{class}/config/validate");
        let answer = worker.ask("PUT", &path, &config.to_string());
        let answer: Value =
            serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{}: {answer}", block.place));
        assert_eq!(answer["error_count"], 0, "{}: {answer}", block.place);
    }
    assert!(count > 0, "the book has no config of a connector");
}

#[test]
fn the_book_tells_every_series_of_a_pipeline_with_its_kind() {
    let served = Worker::new().ask("GET", "/metrics", "");
    let of_line = |line: &str| {
        let (name, kind) = line.strip_prefix("# TYPE sluice_pipeline_")?.split_once(' ')?;
        Some(format!("{name} {kind}"))
    };
    let served: BTreeSet<String> = served.lines().filter_map(of_line).collect();
    let mut told = BTreeSet::new();
    for page in pages() {
        for (_, cells) in page.tables(&["Series", "Kind", "Tells"]) {
            for name in cells[0].split(", ").map(code) {
                let name = name.split('{').next().unwrap_or_default();
                told.insert(format!("{name} {}", cells[1]));
            }
        }
    }
    assert_eq!(told, served);
    assert!(served.len() > 10, "{served:?}");
}

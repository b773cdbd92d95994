//! The client of a schema registry against one that answers what a test says.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use serde::Deserialize;
use sluice_connect::config::Registry;
use sluice_formats::avro::{LookupError, Registered};
use sluice_sources::registry::RegistryClient;

/// A registry on this machine; what it was asked for.
struct Stub {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Stub {
    /// Answers each path with its status and text, else with 404; `login` is the header that it wants, if any.
    fn new(answers: &[(&str, u16, &str)], login: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/api/", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let answers: HashMap<String, (u16, String)> = answers
            .iter()
            .map(|(path, status, text)| (format!("/api/{path}"), (*status, (*text).to_owned())))
            .collect();
        let seen = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let path = lines.next().unwrap().unwrap().split(' ').nth(1).unwrap().to_owned();
                let headers: Vec<String> =
                    lines.map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
                let is_known =
                    login.is_none_or(|login| headers.iter().any(|h| h.eq_ignore_ascii_case(login)));
                let missing = (404, "{\"error_code\": 40403}".to_owned());
                let (status, text) = if is_known {
                    answers.get(&path).unwrap_or(&missing).clone()
                } else {
                    (401, "{}".to_owned())
                };
                seen.lock().unwrap().push(path);
                let answer = format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                    text.len()
                );
                let mut stream = stream;
                // A client that has read enough hangs up.
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { url, asked }
    }

    fn get(&self, id: u32) -> Result<Registered, LookupError> {
        client(&format!("{{\"url\": \"{}\", \"user\": \"me\", \"password\": \"secret\"}}", self.url))
            .into_lookup()(id)
    }
}

fn client(settings: &str) -> RegistryClient {
    let settings = Registry::deserialize(&mut serde_json::Deserializer::from_str(settings)).unwrap();
    RegistryClient::new(&settings).unwrap()
}

#[test]
fn a_schema_comes_with_those_that_it_names_each_before_those_that_name_it() {
    let stub = Stub::new(
        &[
            (
                "schemas/ids/7",
                200,
                r#"{"schema": "top", "references": [{"name": "a", "subject": "a/1", "version": 2}, {"name": "b", "subject": "b", "version": 1}]}"#,
            ),
            (
                "subjects/a%2F1/versions/2",
                200,
                r#"{"schema": "a", "references": [{"name": "c", "subject": "c", "version": 1}]}"#,
            ),
            (
                "subjects/b/versions/1",
                200,
                r#"{"schema": "b", "references": [{"name": "c", "subject": "c", "version": 1}]}"#,
            ),
            ("subjects/c/versions/1", 200, r#"{"schema": "c", "id": 3}"#),
        ],
        // me:secret
        Some("authorization: Basic bWU6c2VjcmV0"),
    );
    let found = stub.get(7).unwrap();
    assert_eq!(found.schema, "top");
    let place = |name: &str| found.references.iter().position(|r| r == name).unwrap();
    assert!(found.references.len() == 3 && place("c") < place("a") && place("c") < place("b"), "{found:?}");
    assert_eq!(stub.asked.lock().unwrap().len(), 4, "each once");
}

#[test]
fn what_a_registry_answers_says_who_must_act() {
    let many = format!("{{\"schema\": \"{}\"}}", "x".repeat(3 << 20));
    let stub = Stub::new(
        &[
            ("schemas/ids/1", 503, "busy"),
            ("schemas/ids/2", 403, "{}"),
            ("schemas/ids/3", 200, "<html>"),
            ("schemas/ids/4", 200, r#"{"schema": "x", "schemaType": "PROTOBUF"}"#),
            ("schemas/ids/5", 302, ""),
            ("schemas/ids/6", 200, &many),
            (
                "schemas/ids/7",
                200,
                r#"{"schema": "x", "references": [{"name": "a", "subject": "gone", "version": 1}]}"#,
            ),
        ],
        None,
    );
    for (id, class, part) in [
        (1, "unavailable", "answers 503"),
        (2, "refused", "look at `user` and `password`"),
        (3, "refused", "no answer of a schema registry"),
        (4, "unusable", "is a schema of PROTOBUF"),
        (5, "refused", "answers 302"),
        (6, "refused", "answers more than"),
        (7, "unusable", "`gone`, which the registry does not have"),
        (8, "unusable", "is not in the schema registry"),
    ] {
        let error = stub.get(id).unwrap_err();
        let found = match &error {
            LookupError::Unusable { .. } => "unusable",
            LookupError::Unavailable(_) => "unavailable",
            LookupError::Refused(_) => "refused",
        };
        assert_eq!(found, class, "{error}");
        assert!(error.to_string().contains(part) && !error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn a_registry_that_is_not_there_is_waited_for() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = client(&format!("{{\"url\": \"http://{free}\"}}"));
    assert!(client.check().unwrap_err().source.is_some());
    let error = client.into_lookup()(1).unwrap_err();
    assert!(matches!(error, LookupError::Unavailable(_)), "{error}");
}

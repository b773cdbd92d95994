//! The management API of `sluice connect --rest`, as tools speak to it: pipelines come, rest, change and go; what is
//! wrong is told; and a killed worker finds all again.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test over processes takes the machine's environment and clock"
)]

mod served;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use served::{Served, sluice, until};

/// A broker with a topic of ten messages.
struct Place {
    dir: TempDir,
    _broker: Served,
    names: String,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = Served::broker(&dir.path().join("data"), &[]);
        let names = broker.names();
        sluice(&["topic", "create", "t", "--queues", "2", "--namesrv", &names]);
        let place = Self { dir, _broker: broker, names };
        place.send(0..10);
        place
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn send(&self, ids: std::ops::Range<u32>) {
        let lines: String = ids.map(|id| format!("{{\"id\": {id}}}\n")).collect();
        fs::write(self.path("rows.ndjson"), lines).unwrap();
        sluice(&["topic", "send", "t", "--namesrv", &self.names, "--file", &self.path("rows.ndjson")]);
    }

    fn worker(&self, more: &[&str]) -> Worker {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
            .args(["connect", "--json", "--cluster", &self.names, "--lease", "1s", "--rest", "127.0.0.1:0"])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let first: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("it said {line:?}"));
        let addr = first["rest"].as_str().unwrap().to_owned();
        Worker { child, said: Some(said), addr }
    }

    fn kept(&self) -> Worker {
        self.worker(&["--pipelines", &self.path("pipelines")])
    }

    /// Settings of a pipeline from the topic into a folder of its name.
    fn settings(&self, name: &str) -> Value {
        json!({
            "connector.class": "parquet",
            "tasks.max": "1",
            "source.topic.name": "t",
            "decode.format": "json",
            "decode.schema": "{mode: declared, fields: {id: int64}}",
            "sink.parquet.path": self.path(name),
            "sink.parquet.rotate.age": "1s",
        })
    }
}

struct Worker {
    child: Child,
    /// Read by nobody, and kept open.
    said: Option<BufReader<ChildStdout>>,
    addr: String,
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.said.take());
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer: its status, its head in lower case, and its body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{}\n{}", self.head, self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.split_once(": ").filter(|(key, _)| *key == name))
            .map(|(_, v)| v)
    }
}

impl Worker {
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.addr).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.addr);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let head = format!("{head}Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        // It may be turned away before it is read.
        let _ = stream.write_all(body.as_bytes());
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {text:?}"));
        let body = if head.to_lowercase().contains("transfer-encoding: chunked") {
            unchunked(body)
        } else {
            body.to_owned()
        };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_lowercase(), body }
    }

    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "")
    }

    fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.send(method, path, &[("Content-Type", "application/json")], &body.to_string())
    }

    /// Does it, and it is done.
    #[track_caller]
    fn done(&self, method: &str, path: &str, status: u16) {
        let answer = self.send(method, path, &[], "");
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    }

    #[track_caller]
    fn refused(&self, method: &str, path: &str, body: &Value, status: u16, told: &str) {
        let answer = self.json(method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        let error = answer.json();
        assert_eq!(error["error_code"], status, "{error}");
        assert!(error["message"].as_str().unwrap().contains(told), "{error}");
    }

    fn state(&self, name: &str) -> String {
        let status = self.get(&format!("/connectors/{name}/status")).json();
        status["connector"]["state"].as_str().unwrap_or_else(|| panic!("{status}")).to_owned()
    }

    fn written(&self, name: &str) -> u64 {
        let status = self.get(&format!("/connectors/{name}/status")).json();
        status["sluice"]["fates"]["written"].as_u64().unwrap()
    }
}

/// The body of chunks.
fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        let Some(chunk) = after.get(..size) else { break };
        body.push_str(chunk);
        rest = after[size..].trim_start_matches("\r\n");
        if size == 0 {
            break;
        }
    }
    body
}

#[test]
fn a_pipeline_is_made_rests_goes_on_changes_and_goes() {
    let place = Place::new();
    let worker = place.kept();
    assert_eq!(worker.get("/connectors").json(), json!([]));
    let made = worker.json("POST", "/connectors", &json!({"name": "lake", "config": place.settings("lake")}));
    assert_eq!((made.status, made.header("location")), (201, Some("/connectors/lake")), "{}", made.body);
    let info = made.json();
    assert_eq!((&info["type"], &info["config"]["connector.class"]), (&json!("sink"), &json!("parquet")));
    assert_eq!(info["config"]["sink.parquet.rotate.age"], "1s");
    until("all rows are written", || worker.written("lake") == 10);
    assert_eq!(worker.state("lake"), "RUNNING");
    let status = worker.get("/connectors/lake/status").json();
    assert_eq!(status["tasks"].as_array().unwrap().len(), 2, "a task for each queue: {status}");
    assert_eq!(worker.get("/connectors/lake/tasks/1/status").json()["state"], "RUNNING");
    assert_eq!(worker.get("/connectors/lake/topics").json(), json!({"lake": {"topics": ["t"]}}));
    let offsets = worker.get("/connectors/lake/offsets").json();
    let ends: i64 = offsets["offsets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o["offset"]["kafka_offset"].as_i64().unwrap())
        .sum();
    assert_eq!(ends, 10, "{offsets}");

    worker.done("PUT", "/connectors/lake/pause", 202);
    assert_eq!(worker.state("lake"), "PAUSED");
    until("its run has ended", || {
        worker.get("/connectors/lake/status").json()["sluice"]["state"] == "stopped"
    });
    place.send(10..15);
    worker.done("PUT", "/connectors/lake/resume", 202);
    until("new rows are written", || worker.written("lake") == 5);
    worker.done("POST", "/connectors/lake/restart", 204);
    let told = worker.send("POST", "/connectors/lake/restart?includeTasks=true", &[], "");
    assert_eq!((told.status, &told.json()["name"]), (202, &json!("lake")));
    until("it runs again", || worker.state("lake") == "RUNNING");
    worker.refused("DELETE", "/connectors/lake/offsets", &json!(null), 400, "must be in the STOPPED state");
    worker.done("PUT", "/connectors/lake/stop", 204);
    until("it is stopped", || worker.state("lake") == "STOPPED");
    assert_eq!(worker.get("/connectors/lake/tasks").json(), json!([]));
    let moved = json!({"offsets": []});
    worker.refused("PATCH", "/connectors/lake/offsets", &moved, 400, "never moved");

    let changed = worker.json(
        "PATCH",
        "/connectors/lake/config",
        &json!({"sink.parquet.rotate.age": "2s", "where": "a = 1"}),
    );
    assert_eq!(changed.status, 200, "{}", changed.body);
    let config = worker.get("/connectors/lake/config").json();
    assert_eq!((&config["where"], &config["sink.parquet.rotate.age"]), (&json!("a = 1"), &json!("2s")));
    worker.json("PATCH", "/connectors/lake/config", &json!({"where": null}));
    assert!(worker.get("/connectors/lake/config").json()["where"].is_null());
    assert_eq!(worker.state("lake"), "STOPPED", "a change begins nothing that rests");

    worker.done("DELETE", "/connectors/lake", 204);
    worker.refused("GET", "/connectors/lake", &json!(null), 404, "lake not found");
    worker.refused("DELETE", "/connectors/lake", &json!(null), 404, "lake not found");
    let audit: Value = serde_json::from_str(&sluice(&["audit", &place.path("lake"), "--json"])).unwrap();
    assert_eq!(audit["proven"], true, "what it wrote stays: {audit}");
}

#[test]
fn pipelines_and_what_they_are_to_do_survive_a_killed_worker() {
    let place = Place::new();
    let mut worker = place.kept();
    for (name, state) in [("a", "RUNNING"), ("b", "PAUSED"), ("c", "STOPPED")] {
        let mut config = place.settings(name);
        config["source.topic.group"] = name.into();
        let made = json!({"name": name, "config": config, "initial_state": state});
        assert_eq!(worker.json("POST", "/connectors", &made).status, 201);
    }
    worker.json("POST", "/connectors", &json!({"name": "d", "config": place.settings("d")}));
    worker.done("DELETE", "/connectors/d", 204);
    worker.child.kill().unwrap();
    worker.child.wait().unwrap();
    let worker = place.kept();
    assert_eq!(worker.get("/connectors").json(), json!(["a", "b", "c"]));
    let states = ["a", "b", "c"].map(|name| worker.state(name));
    assert_eq!(states, ["RUNNING", "PAUSED", "STOPPED"]);
    until("its rows are written", || worker.written("a") == 10);
    assert!(!fs::exists(place.path("b")).unwrap(), "one that is paused never began");
    let expanded = worker.get("/connectors?expand=info&expand=status").json();
    assert_eq!(expanded["c"]["info"]["config"]["sink.parquet.path"], place.path("c"));
    assert_eq!(expanded["c"]["status"]["connector"]["state"], "STOPPED");
}

#[test]
fn of_two_writers_of_one_document_one_is_told() {
    let place = Place::new();
    let worker = place.kept();
    let text = |age: &str| {
        let lake = place.path("lake");
        format!(
            "# kept as it is\nname: lake\nsource: {{topic: {{name: t}}}}\nsink: {{parquet: {{path: {lake}, rotate: {{age: {age}}}}}}}\n"
        )
    };
    let put =
        |headers: &[(&str, &str)], age: &str| worker.send("PUT", "/v1/pipelines/lake", headers, &text(age));
    assert_eq!(put(&[("If-Match", "\"1\"")], "1s").status, 412, "there is none");
    let first = put(&[("If-None-Match", "*")], "1s");
    assert_eq!((first.status, first.header("etag")), (201, Some("\"1\"")), "{}", first.body);
    assert_eq!(put(&[("If-None-Match", "*")], "1s").status, 412);
    assert_eq!(put(&[("If-Match", "\"1\"")], "2s").status, 200);
    let late = put(&[("If-Match", "\"1\"")], "3s");
    assert_eq!(late.status, 412);
    assert!(late.body.contains("its tag is \\\"2\\\""), "{}", late.body);
    let got = worker.get("/v1/pipelines/lake");
    assert_eq!((got.body.as_str(), got.header("etag")), (text("2s").as_str(), Some("\"2\"")));
    let config = worker.get("/connectors/lake/config");
    assert_eq!(config.header("etag"), Some("\"2\""), "both APIs tell the same tag");
    let stale = [("If-Match", "\"1\""), ("Content-Type", "application/json")];
    let answer = worker.send("PUT", "/connectors/lake/config", &stale, &place.settings("lake").to_string());
    assert_eq!(answer.status, 412);
    let back = worker.send("POST", "/v1/pipelines/lake/rollback?version=1", &[], "");
    assert_eq!((back.status, back.header("etag")), (200, Some("\"3\"")), "{}", back.body);
    assert_eq!(worker.get("/v1/pipelines/lake").body, text("1s"));
    let versions = worker.get("/v1/pipelines/lake/versions").json();
    assert_eq!(versions.as_array().unwrap().len(), 3);
    // Another worker with the same folder.
    let other = place.kept();
    assert_eq!(other.send("PUT", "/v1/pipelines/lake", &[], &text("4s")).status, 200);
    let taken = put(&[], "5s");
    assert_eq!(taken.status, 409, "{}", taken.body);
    assert!(taken.body.contains("another writer"), "{}", taken.body);
}

#[test]
fn what_a_file_says_is_changed_in_the_file() {
    let place = Place::new();
    let text = format!(
        "name: lake\nsource: {{topic: {{name: t}}}}\nsink: {{parquet: {{path: {}}}}}\n",
        place.path("lake")
    );
    fs::write(place.path("lake.yaml"), text).unwrap();
    let worker = place.worker(&[&place.path("lake.yaml")]);
    worker.refused(
        "PUT",
        "/connectors/lake/config",
        &place.settings("lake"),
        409,
        "lake.yaml: change it there",
    );
    worker.refused("DELETE", "/connectors/lake", &json!(null), 409, "lake.yaml");
    let other = json!({"name": "other", "config": place.settings("other")});
    worker.refused("POST", "/connectors", &other, 409, "start it with --pipelines DIR");
    worker.done("PUT", "/connectors/lake/pause", 202);
    assert_eq!(worker.state("lake"), "PAUSED");
}

#[test]
fn what_is_wrong_is_told_by_its_key() {
    let place = Place::new();
    let worker = place.kept();
    let mut config = place.settings("lake");
    config["name"] = "lake".into();
    let path = "/connector-plugins/parquet/config/validate";
    let right = worker.json("PUT", path, &config).json();
    assert_eq!(right["error_count"], 0, "{right}");
    config["sink.parquet.codec"] = "zippy".into();
    config["sink.parquet.rotate.agee"] = "1s".into();
    config["where"] = "id >".into();
    config.as_object_mut().unwrap().remove("sink.parquet.path");
    let wrong = worker.json("PUT", path, &config).json();
    let errors = |key: &str| -> String {
        let all = wrong["configs"].as_array().unwrap();
        all.iter()
            .filter(|one| one["value"]["name"] == key)
            .map(|one| one["value"]["errors"].to_string())
            .collect()
    };
    for (key, told) in [
        ("sink.parquet.codec", "zippy"),
        ("sink.parquet.rotate.agee", "did you mean `age`"),
        ("sink.parquet.path", "missing"),
        ("where", "id >"),
    ] {
        assert!(errors(key).contains(told), "{key}: {}\n{wrong}", errors(key));
    }
    assert_eq!(wrong["error_count"], 4, "{wrong}");
    let made = json!({"name": "lake", "config": config});
    worker.refused("POST", "/connectors", &made, 400, "contains the following 4 error(s)");
    let plugins = worker.get("/connector-plugins").json();
    assert!(
        plugins.as_array().unwrap().iter().any(|one| one["class"] == "parquet" && one["type"] == "sink"),
        "{plugins}"
    );
    let settings = worker.get("/connector-plugins/parquet/config").json();
    let row = settings
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "sink.parquet.row_group.rows")
        .unwrap()
        .clone();
    assert_eq!(row["type"], "LONG", "{row}");
    assert!(row["documentation"].as_str().unwrap().contains("Rows"), "{row}");
    worker.refused("GET", "/connector-plugins/parkett/config", &json!(null), 404, "parquet");
}

#[test]
fn requests_that_can_not_be_meant_are_refused_each_with_its_reason() {
    let place = Place::new();
    let worker = place.kept();
    let refused = |method: &str, path: &str, body: &Value, status: u16, told: &str| {
        worker.refused(method, path, body, status, told)
    };
    refused("GET", "/nowhere", &json!(null), 404, "Not Found");
    refused("DELETE", "/connectors", &json!(null), 405, "Not Allowed");
    refused("GET", "/connectors/x/pause", &json!(null), 405, "Not Allowed");
    refused("GET", "/connectors/x/status", &json!(null), 404, "x");
    refused("PUT", "/connectors/x/pause", &json!(null), 404, "x");
    refused("POST", "/connectors/x/restart?onlyFailed=maybe", &json!(null), 400, "expected true or false");
    refused("POST", "/connectors", &json!([1]), 400, "not right");
    refused("POST", "/connectors", &json!({"name": "x"}), 400, "config");
    refused("POST", "/connectors", &json!({"name": "x", "config": {"a": [1]}}), 400, "a: expected text");
    refused(
        "POST",
        "/connectors",
        &json!({"name": "X Y", "config": place.settings("x")}),
        400,
        "no pipeline name",
    );
    refused("POST", "/connectors", &json!({"name": "x", "config": {"name": "y"}}), 400, "doesn't match");
    let mut config = place.settings("x");
    config["connector.class"] = "kafka".into();
    refused("PUT", "/connectors/x/config", &config, 400, "sink.kafka");
    refused(
        "PUT",
        "/connectors/x/config",
        &json!({"sink": "a", "sink.topic.name": "b"}),
        400,
        "below `sink`",
    );
    refused("PUT", "/admin/loggers/root", &json!({"level": "LOUD"}), 404, "LOUD");
    refused("POST", "/v1/filters:explain", &json!({"expression": "a >"}), 400, "a >");
    let text = worker.send("POST", "/connectors", &[("Content-Type", "text/plain")], "{}");
    assert_eq!(text.status, 415, "{}", text.body);
    let broken = worker.send("POST", "/connectors", &[("Content-Type", "application/json")], "{\"name\": ");
    assert_eq!(broken.status, 400, "{}", broken.body);
    let huge = worker.send("PUT", "/v1/pipelines/x", &[], &"x".repeat(8 * 1024 * 1024));
    assert_eq!(huge.status, 413, "{}", huge.body);
    let page = worker.send(
        "POST",
        "/connectors",
        &[("Origin", "http://evil.example"), ("Content-Type", "application/json")],
        "{}",
    );
    assert_eq!(page.status, 403, "{}", page.body);
    assert_eq!(worker.get("/connectors").json(), json!([]), "nothing of it was done");
}

#[test]
fn the_native_paths_do_what_the_command_line_does() {
    let place = Place::new();
    let worker = place.kept();
    let text = format!(
        "name: lake\nsource: {{topic: {{name: t}}}}\ndecode: {{format: json, schema: {{mode: declared, fields: {{id: int64}}}}}}\nsteps: [where: $.id < 3]\nsink: {{parquet: {{path: {}, rotate: {{age: 1s}}}}}}\ntests:\n- given: [{{body: '{{\"id\": 1}}'}}, {{body: '{{\"id\": 5}}'}}]\n  expect: [{{id: 1}}]\n",
        place.path("lake")
    );
    let post = |path: &str, body: &str| worker.send("POST", path, &[], body);
    assert_eq!(post("/v1/pipelines:lint", &text).json()["problems"], json!([]));
    let problem =
        post("/v1/pipelines:lint", &text.replace("age: 1s", "age: soon")).json()["problems"][0].clone();
    assert_eq!(
        (&problem["line"], &problem["key"]),
        (&json!(5), &json!("sink.parquet.rotate.age")),
        "{problem}"
    );
    assert_eq!(post("/v1/pipelines:test", &text).json()["ok"], true);
    let checked = post("/v1/pipelines:check", &text);
    assert_eq!(checked.json()["ok"], true, "{}", checked.body);
    let preview = post("/v1/pipelines:preview?rows=2", &text);
    assert_eq!(preview.json()["rows"].as_array().map(Vec::len), Some(2), "{}", preview.body);
    assert_eq!(worker.send("PUT", "/v1/pipelines/lake", &[], &text).status, 201);
    until("its rows are written", || worker.written("lake") == 3);
    let audit = worker.get("/v1/pipelines/lake/audit").json();
    assert_eq!(audit["proven"], true, "{audit}");
    worker.refused("GET", "/v1/pipelines/lake/dead-letters", &json!(null), 404, "no dead letters");
    let explained = post_json(&worker, "/v1/filters:explain", &json!({"expression": "a = 1 AND b = 'x'"}));
    assert_eq!(explained["pushed_down"], "all", "{explained}");
    assert_eq!(
        worker.json("PUT", "/admin/loggers/sluice_connect", &json!({"level": "debug"})).json(),
        json!(["sluice_connect"])
    );
    assert_eq!(worker.get("/admin/loggers/sluice_connect").json()["level"], "DEBUG");
    let (head, metrics) = served::get(&worker.addr, "/metrics");
    assert!(
        head.starts_with("HTTP/1.1 200 ")
            && metrics.contains("sluice_pipeline_records_total{pipeline=\"lake\",outcome=\"written\"} 3")
    );
    let document = worker.get("/openapi.json").json();
    assert!(document["paths"]["/connectors/{name}/config"]["patch"].is_object(), "{document}");
    assert_eq!(worker.get("/health").json()["status"], "healthy");
}

fn post_json(worker: &Worker, path: &str, body: &Value) -> Value {
    let answer = worker.json("POST", path, body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

#[test]
fn a_tap_shows_messages_as_they_come() {
    let place = Place::new();
    let worker = place.kept();
    let config = json!({"name": "lake", "config": place.settings("lake"), "initial_state": "PAUSED"});
    assert_eq!(worker.json("POST", "/connectors", &config).status, 201);
    let mut stream = TcpStream::connect(&worker.addr).unwrap();
    let head = format!(
        "GET /v1/pipelines/lake/tap?limit=1&where=kind%20%3D%20%27b%27 HTTP/1.1\r\nHost: {}\r\n\r\n",
        worker.addr
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut events = BufReader::new(stream).lines();
    // The first comment says that it listens.
    while !events.next().unwrap().unwrap().starts_with(": ") {}
    for kind in ["a", "b"] {
        fs::write(place.path("one"), format!("{{\"kind\": \"{kind}\"}}\n")).unwrap();
        let property = format!("kind={kind}");
        sluice(&[
            "topic",
            "send",
            "t",
            "--namesrv",
            &place.names,
            "--file",
            &place.path("one"),
            "--prop",
            &property,
        ]);
    }
    let event = loop {
        let line = events.next().unwrap().unwrap();
        if let Some(data) = line.strip_prefix("data: ") {
            break serde_json::from_str::<Value>(data).unwrap();
        }
    };
    assert_eq!(event["body"]["kind"], "b", "{event}");
    assert!(events.any(|line| line.unwrap() == "event: end"));
}

#[test]
fn where_others_reach_it_a_token_is_needed() {
    let place = Place::new();
    let refused = |arguments: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_sluice"))
            .args(["connect", "--cluster", &place.names])
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(1));
        String::from_utf8(out.stderr).unwrap()
    };
    let told = refused(&["--rest", "0.0.0.0:0"]);
    assert!(told.contains("can be reached from other machines") && told.contains("--rest-token"), "{told}");
    assert!(refused(&["--rest", "0.0.0.0:0", "--rest-token", "short"]).contains("at least 16 characters"));
    fs::write(place.path("token"), "0123456789abcdef\n").unwrap();
    let from_file = format!("${{file:{}}}", place.path("token"));
    let worker = place.worker(&["--rest-token", &from_file]);
    assert_eq!(worker.get("/connectors").status, 401);
    assert_eq!(worker.get("/metrics").status, 401);
    assert_eq!(worker.get("/health").status, 200);
    assert_eq!(
        worker.send("GET", "/connectors", &[("Authorization", "Bearer 0123456789abcdeX")], "").status,
        401
    );
    assert_eq!(
        worker.send("GET", "/connectors", &[("Authorization", "Bearer 0123456789abcdef")], "").status,
        200
    );
}

//! Pipelines from and to topics of brokers on the network, as a user runs them beside `sluice broker`.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test over processes takes the machine's environment")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A broker with its name server that is killed when it is dropped.
struct Broker {
    child: Child,
    /// Address of the name server.
    namesrv: String,
}

impl Broker {
    fn start(data_dir: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
            .args([
                "broker",
                "--json",
                "--listen",
                "127.0.0.1:0",
                "--namesrv-listen",
                "127.0.0.1:0",
                "--data-dir",
            ])
            .arg(data_dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
        let namesrv = ready["name_server"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
        Self { child, namesrv }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // SIGKILL: nothing of the process runs any more.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let rows: Vec<String> = (0..1000).map(|i| format!("{i},{}\n", ["EWR", "JFK"][i % 2])).collect();
        fs::write(place.path("in.csv"), format!("id,origin\n{}", rows.concat())).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn sluice(&self, arguments: &[&str]) -> Output {
        let command = env!("CARGO_BIN_EXE_sluice");
        Command::new(command).args(arguments).current_dir(self.0.path()).output().unwrap()
    }

    /// Runs a config and gives the summary of each pipeline.
    fn run(&self, config: &str) -> Vec<Value> {
        fs::write(self.path("pipeline.yaml"), config).unwrap();
        let out = self.sluice(&["run", "pipeline.yaml", "--json"]);
        let summary: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{out:?}"));
        summary["pipelines"].as_array().unwrap_or_else(|| panic!("{out:?}")).clone()
    }
}

fn load(cluster: &str) -> String {
    format!(
        "
name: load
delivery: at_least_once
source:
  file: {{path: in.csv, format: csv, properties: [origin], keys: [id]}}
sink:
  topic: {{name: t, cluster: '{cluster}', queues: 3}}
"
    )
}

fn lake(cluster: &str) -> String {
    format!(
        "
name: lake
source:
  topic: {{name: t, cluster: '{cluster}', until: caught_up}}
where: \"origin = 'JFK'\"
decode: {{format: json}}
sink:
  parquet: {{path: lake}}
"
    )
}

fn fates(pipeline: &Value) -> (u64, u64, u64) {
    let fate = |name: &str| pipeline["fates"][name].as_u64().unwrap_or_else(|| panic!("{pipeline}"));
    (fate("written"), fate("filtered"), fate("absent"))
}

#[test]
fn rows_go_through_a_topic_of_a_cluster_into_files_once() {
    let place = Place::new();
    let broker = Broker::start(&place.path("data"));
    let both = format!("{}---{}", load(&broker.namesrv), lake(&broker.namesrv));
    let pipelines = place.run(&both);
    assert_eq!(fates(&pipelines[0]), (1000, 0, 0));
    assert_eq!(fates(&pipelines[1]), (500, 500, 0));
    assert!(!place.path("sluice-data").exists(), "nothing here is the embedded broker's");

    let pipelines = place.run(&lake(&broker.namesrv));
    assert_eq!(fates(&pipelines[0]), (0, 0, 0), "a rerun has nothing to do");
    let lag = place.sluice(&["group", "lag", "lake", "--namesrv", &broker.namesrv, "--json"]);
    let lag = String::from_utf8(lag.stdout).unwrap();
    assert!(lag.contains("\"lag\":0") && !lag.contains("\"lag\":1"), "the group shows how far it is: {lag}");

    // What file rows become goes again, since no position is kept; the lake takes what is new.
    place.run(&load(&broker.namesrv));
    let pipelines = place.run(&lake(&broker.namesrv));
    assert_eq!(fates(&pipelines[0]), (500, 500, 0));
}

#[test]
fn another_topic_of_the_same_name_blocks() {
    let place = Place::new();
    let broker = Broker::start(&place.path("data"));
    place.run(&load(&broker.namesrv));
    place.run(&lake(&broker.namesrv));
    drop(broker);
    let broker = Broker::start(&place.path("other"));
    place.run(&load(&broker.namesrv));
    fs::write(place.path("pipeline.yaml"), lake(&broker.namesrv)).unwrap();
    let out = place.sluice(&["run", "pipeline.yaml"]);
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("is not the one that was read before"), "{said}");
}

#[test]
fn what_can_not_be_is_said_before_or_with_the_address() {
    let place = Place::new();
    let refused = |config: &str, expected: &[&str]| {
        fs::write(place.path("pipeline.yaml"), config).unwrap();
        let out = place.sluice(&["run", "pipeline.yaml"]);
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{said}");
        for text in expected {
            assert!(said.contains(text), "{said} lacks {text}");
        }
    };
    let exactly = load("127.0.0.1:1").replace("delivery: at_least_once\n", "");
    refused(&exactly, &["pipeline.yaml:5:", "write `delivery: at_least_once`"]);
    refused(&lake("nowhere"), &["source.topic.cluster", "host:port"]);
    let nobody = format!("{}errors: {{retry: 0s}}\n", lake("127.0.0.1:1"));
    refused(&nobody, &["topic t of cluster 127.0.0.1:1", "cannot connect to 127.0.0.1:1"]);

    let broker = Broker::start(&place.path("data"));
    refused(&lake(&broker.namesrv), &["no route of topic t"]);
}

#[test]
fn rows_are_routed_to_topics_of_a_cluster_and_a_window_is_read_again_over_the_network() {
    let place = Place::new();
    let broker = Broker::start(&place.path("store"));
    let cluster = &broker.namesrv;
    let load = |name: &str, file: &str| {
        format!(
            "
name: {name}
delivery: at_least_once
source: {{file: {{path: {file}, format: csv, properties: [origin]}}}}
decode: {{format: json}}
steps:
  - headers: {{set: {{parity: \"CAST($.id % 2 AS TEXT)\"}}, remove: [origin]}}
  - route: \"'t-' || lower($.origin)\"
sink: {{topic: {{name: t, cluster: '{cluster}'}}}}
"
        )
    };
    let lake = format!(
        "
name: lake
source: {{topic: {{name: t-ewr, cluster: '{cluster}', until: caught_up}}}}
where: \"parity = 0\"
decode: {{format: json}}
steps: [{{dedupe: {{key: '$.id % 10'}}}}]
sink: {{parquet: {{path: lake}}}}
"
    );
    assert_eq!(place.run(&load("load", "in.csv"))[0]["fates"]["written"], 1000);
    let first = &place.run(&lake)[0]["fates"];
    assert_eq!((&first["written"], &first["deduplicated"]), (&5.into(), &495.into()), "{first}");
    // Only who reads the window again knows the keys.
    fs::copy(place.path("in.csv"), place.path("more.csv")).unwrap();
    place.run(&load("more", "more.csv"));
    let second = &place.run(&lake)[0]["fates"];
    assert_eq!((&second["written"], &second["deduplicated"]), (&0.into(), &500.into()), "{second}");
}

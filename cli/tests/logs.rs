//! What a service logs by `tracing` into a topic, and the pipeline that makes Parquet of it.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::disallowed_methods, reason = "a test over processes takes the machine's time")]

mod served;

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sluice_client::{Producer, ProducerSettings, TopicLayer, TopicName};
use tracing_subscriber::layer::SubscriberExt;

use served::{Served, sluice};

#[test]
fn events_are_messages_with_their_level_as_tag_and_rows_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Served::broker(&dir.path().join("store"), &[]);
    let names = &*broker.names();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let logged = runtime.block_on(async {
        let producer = Producer::new(&broker.client(), ProducerSettings::default()).unwrap();
        let (layer, log) = TopicLayer::new(producer, &TopicName::new("logs").unwrap());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let _span = tracing::info_span!("checkout").entered();
            for order in 0..50 {
                tracing::info!(target: "shop", order, place = "a \"b\"\n", "order made");
            }
            tracing::error!(target: "shop", "card refused");
            tracing::info!(target: "sluice_client::lane", "its own, and passed over");
        });
        log.close().await
    });
    assert_eq!((logged.sent, logged.lost), (51, 0));
    let tail = |filter: &str| -> Vec<Value> {
        let text = sluice(&["topic", "tail", "logs", "--namesrv", names, "--where", filter]);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let errors = tail("$tags = 'ERROR'");
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0]["body"]["message"], "card refused");
    let infos = tail("$tags = 'INFO'");
    assert_eq!(infos.len(), 50);
    let body = infos.iter().map(|row| &row["body"]).find(|body| body["fields"]["order"] == "7").unwrap();
    assert_eq!(body["fields"], json!({"order": "7", "place": "a \"b\"\n"}));
    assert_eq!((&body["target"], &body["spans"]), (&json!("shop"), &json!(["checkout"])));
    assert!(body["time_ms"].as_i64().unwrap() > 1_700_000_000_000);

    let example =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples/logs-to-parquet.yaml");
    let lake = dir.path().join("lake");
    let run = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["run", example.to_str().unwrap(), "--json", "--data-dir"])
        .arg(dir.path().join("embedded"))
        .envs([("LOGS_CLUSTER", names), ("LOGS_UNTIL", "caught_up"), ("LOGS_LAKE", lake.to_str().unwrap())])
        .output()
        .unwrap();
    assert!(run.status.success(), "{run:?}");
    let shown = String::from_utf8(run.stdout).unwrap();
    assert!(shown.contains("51"), "{shown}");
    let files = std::fs::read_dir(&lake).unwrap().map(|entry| entry.unwrap().path());
    assert!(files.filter(|path| path.extension().is_some_and(|ext| ext == "parquet")).count() >= 1);
}

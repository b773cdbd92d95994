//! `sluice broker` with few open files: more clients than it can have take none of those that the store needs.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use sluice_client::{Admin, Client, ClientSettings, Message, Producer, ProducerSettings, TopicName};

/// Open files that the broker may have; 640 are its store's.
const LIMIT: usize = 900;

/// A broker that is killed when it is dropped.
struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

#[test]
fn clients_beyond_the_limit_of_open_files_are_refused_and_the_store_goes_on() {
    // This process has the other ends.
    sluice_broker::raise_open_files();
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "ulimit -n {LIMIT} && exec \"$0\" broker --json --data-dir \"$1\" --listen 127.0.0.1:0 --namesrv-listen 127.0.0.1:0"
    );
    let mut child = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_sluice")])
        .arg(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let _broker = Broker(child);
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = |name: &str| -> SocketAddr { ready[name].as_str().unwrap().parse().unwrap() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::new(ClientSettings::new(address("name_server").to_string())).unwrap();
        let topic = TopicName::new("many").unwrap();
        Admin::new(&client).create_topic(&topic, 300).await.unwrap();
        let producer = Producer::new(&client, ProducerSettings::default()).unwrap();
        producer.send(&Message::new(&topic, "first")).await.unwrap();
        let clients: Vec<TcpStream> =
            (0..LIMIT).map(|_| TcpStream::connect(address("broker")).unwrap()).collect();
        // The last one to come is turned away; until then it waits to be looked at.
        let mut last = clients.last().unwrap();
        let turned_away = last.read(&mut [0]);
        assert!(
            matches!(&turned_away, Ok(0))
                || turned_away.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset)
        );
        // Each queue is a file that is opened anew.
        let queues = producer.queues(&topic).await.unwrap();
        assert_eq!(queues.len(), 300);
        for queue in &queues {
            producer.send_to(&Message::new(&topic, "m"), queue).await.unwrap();
        }
        drop(clients);
    });
}

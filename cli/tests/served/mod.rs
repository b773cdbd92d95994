//! `sluice broker` and `sluice namesrv` as processes on free ports, and the command line against them.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_client::{
    Admin, Client, ClientSettings, Consumer, ConsumerSettings, Filter, Record, Start, TopicName,
};

/// A process that said it is ready; killed when it is dropped.
pub struct Served {
    child: Child,
    /// What it said, as JSON.
    pub ready: Value,
}

impl Served {
    /// Starts it with these arguments and `--json`.
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        let mut child = command.args(arguments).arg("--json").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{arguments:?} said {line:?}"));
        Self { child, ready }
    }

    /// A broker with its name server, on free ports of loopback.
    pub fn broker(dir: &Path, more: &[&str]) -> Self {
        let dir = dir.to_str().unwrap();
        let any = "127.0.0.1:0";
        let own = ["broker", "--data-dir", dir, "--listen", any, "--namesrv-listen", any];
        Self::start(&[&own, more].concat())
    }

    /// A broker that joins a name server.
    pub fn joined(dir: &Path, name: &str, namesrv: &str) -> Self {
        let dir = dir.to_str().unwrap();
        let (any, joins) = (["--listen", "127.0.0.1:0"], ["--namesrv", namesrv, "--name", name]);
        Self::start(&[&["broker", "--data-dir", dir][..], &any, &joins].concat())
    }

    pub fn text(&self, key: &str) -> String {
        self.ready[key].as_str().unwrap_or_else(|| panic!("{} has no {key}", self.ready)).to_owned()
    }

    /// The name server's address.
    pub fn names(&self) -> String {
        self.text("name_server")
    }

    pub fn client(&self) -> Client {
        client(&self.names())
    }

    /// Asks it to end, and waits until it has.
    pub fn end(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client of these name servers; within a runtime.
pub fn client(names: &str) -> Client {
    Client::new(ClientSettings::new(names)).unwrap()
}

/// All messages of a topic.
pub async fn messages(client: &Client, topic: &TopicName) -> Vec<Record> {
    let offsets = Admin::new(client).queue_offsets(topic).await.unwrap();
    let total: i64 = offsets.iter().map(|o| o.max_offset - o.min_offset).sum();
    let queues = offsets.iter().map(|o| (o.queue.clone(), Start::First));
    let settings = ConsumerSettings { commit_interval: None, ..ConsumerSettings::new("judge") };
    let mut consumer = Consumer::assign(client, settings, queues, Filter::All).await.unwrap();
    let mut found = Vec::new();
    while i64::try_from(found.len()).unwrap() < total {
        found.extend(consumer.next_batch().await.unwrap().records);
    }
    found
}

/// Runs the command line with that input.
pub fn sluice_with(input: &str, arguments: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// What it prints when all goes well.
pub fn sluice(arguments: &[&str]) -> String {
    let out = sluice_with("", arguments);
    assert!(out.status.success(), "{arguments:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap()
}

/// The same as JSON.
pub fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&sluice(&[arguments, &["--json"]].concat())).unwrap()
}

/// What it says when it fails; by exit code 1.
pub fn refused(arguments: &[&str]) -> String {
    let out = sluice_with("", arguments);
    assert_eq!(out.status.code(), Some(1), "{arguments:?}: {out:?}");
    String::from_utf8(out.stderr).unwrap()
}

/// The words of each line, without the blanks that make columns.
pub fn table(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

/// Looks again until it is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The response to a GET, head and body.
pub fn get(addr: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(addr.parse::<SocketAddr>().unwrap()).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

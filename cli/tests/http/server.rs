//! A receiver of requests that does what it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a receiver got.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    /// Method and path.
    pub(crate) line: String,
    /// In lower case, but for the values.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

/// What becomes of a request.
pub(crate) enum Reply {
    /// An answer: its status, other headers, and its body.
    Answer(u16, &'static str, &'static str),
    /// The connection ends without an answer.
    Drop,
    /// Nothing, for so long.
    Silence(Duration),
}

/// The number of the request, from 0, and the request.
type Does = dyn Fn(usize, &Got) -> Reply + Send + Sync;

pub(crate) struct Receiver {
    pub(crate) addr: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    pub(crate) fn new(does: impl Fn(usize, &Got) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let got: Arc<Mutex<Vec<Got>>> = Arc::default();
        let (all, does): (_, Arc<Does>) = (Arc::clone(&got), Arc::new(does));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (all, does) = (Arc::clone(&all), Arc::clone(&does));
                // A client that is killed is no fault.
                std::thread::spawn(move || drop(stream.and_then(|s| serve(s, &all, does.as_ref()))));
            }
        });
        Self { addr, got }
    }

    /// All that came so far.
    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, all: &Mutex<Vec<Got>>, does: &Does) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut headers = Vec::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(": ") else { break };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
        let mut got = Got { line, headers, body: String::new() };
        let mut body = vec![0; got.header("content-length").parse().unwrap_or(0)];
        reader.read_exact(&mut body)?;
        got.body = String::from_utf8(body).unwrap();
        let number = {
            let mut all = all.lock().unwrap();
            all.push(got.clone());
            all.len() - 1
        };
        match does(number, &got) {
            Reply::Answer(status, headers, body) => {
                let len = body.len();
                write!(stream, "HTTP/1.1 {status} Told\r\n{headers}Content-Length: {len}\r\n\r\n{body}")?;
            }
            Reply::Drop => return Ok(()),
            Reply::Silence(time) => {
                std::thread::sleep(time);
                return Ok(());
            }
        }
    }
}

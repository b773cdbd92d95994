//! A broker that speaks as much AMQP 0-9-1 as the tests need: queues of raw messages, acknowledgements, confirms, and
//! connections that can be cut. Bytes as they go over the wire, so that both halves are seen as they are.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A message as it stands in a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) routing_key: String,
    /// Flags and properties of the content header.
    pub(crate) properties: Vec<u8>,
    pub(crate) body: Vec<u8>,
    pub(crate) redelivered: bool,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) queues: BTreeMap<String, VecDeque<Stored>>,
    pub(crate) acknowledged: usize,
    /// Handed out and not acknowledged, at most at one moment.
    pub(crate) held_max: usize,
    /// Connections of a lower number are cut.
    cut_below: usize,
    connections: usize,
}

pub(crate) struct Broker {
    pub(crate) port: u16,
    pub(crate) state: Arc<Mutex<State>>,
}

impl Broker {
    pub(crate) fn start(queues: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let queues = queues.iter().map(|name| ((*name).to_owned(), VecDeque::new())).collect();
        let state = Arc::new(Mutex::new(State { queues, ..State::default() }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, state) = (stream.unwrap(), Arc::clone(&shared));
                thread::spawn(move || {
                    let number = {
                        let mut state = state.lock().unwrap();
                        state.connections += 1;
                        state.connections
                    };
                    let mut connection = Connection::new(stream, state, number);
                    connection.serve();
                    connection.give_back();
                });
            }
        });
        Self { port, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.port)
    }

    pub(crate) fn send(&self, queue: &str, properties: &[u8], body: &[u8]) {
        let stored = Stored {
            routing_key: queue.to_owned(),
            properties: properties.to_vec(),
            body: body.to_vec(),
            redelivered: false,
        };
        self.state.lock().unwrap().queues.get_mut(queue).unwrap().push_back(stored);
    }

    /// Cuts all connections, as a broker that is killed does.
    pub(crate) fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.cut_below = state.connections + 1;
    }
}

/// Content header without properties.
pub(crate) const PLAIN: [u8; 2] = [0, 0];

/// Properties with a table of headers, each with its value encoded.
pub(crate) fn headers(all: &[(&str, &[u8])]) -> Vec<u8> {
    let table: Vec<u8> = all.iter().flat_map(|(name, value)| [&short(name)[..], value].concat()).collect();
    [&(1_u16 << 13).to_be_bytes()[..], &u32::try_from(table.len()).unwrap().to_be_bytes(), &table].concat()
}

pub(crate) fn short(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat()
}

pub(crate) fn long(text: &str) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

struct Connection {
    stream: TcpStream,
    state: Arc<Mutex<State>>,
    number: usize,
    read: Vec<u8>,
    prefetch: usize,
    consumes: Option<String>,
    delivered: u64,
    held: VecDeque<(u64, Stored)>,
    published: u64,
    /// What is being published: routing key, whether it must be routed, properties, length, body.
    incoming: Option<(String, Vec<u8>, u64, Vec<u8>)>,
    exchange: String,
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        head.to_vec()
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes(8).try_into().unwrap())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes(4).try_into().unwrap())
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.bytes(2).try_into().unwrap())
    }

    fn short(&mut self) -> String {
        let len = self.bytes(1)[0];
        String::from_utf8(self.bytes(usize::from(len))).unwrap()
    }

    fn long(&mut self) -> Vec<u8> {
        let len = self.u32();
        self.bytes(len as usize)
    }
}

impl Connection {
    fn new(stream: TcpStream, state: Arc<Mutex<State>>, number: usize) -> Self {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        Self {
            stream,
            state,
            number,
            read: Vec::new(),
            prefetch: usize::MAX,
            consumes: None,
            delivered: 0,
            held: VecDeque::new(),
            published: 0,
            incoming: None,
            exchange: String::new(),
        }
    }

    /// Until either side ends it.
    fn serve(&mut self) {
        let mut chunk = [0; 65536];
        loop {
            if self.number < self.state.lock().unwrap().cut_below {
                return;
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => self.read.extend_from_slice(&chunk[..count]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return,
            }
            while let Some((kind, channel, payload)) = self.frame() {
                if !self.take(kind, channel, &payload) {
                    return;
                }
            }
            self.deliver();
        }
    }

    fn give_back(&mut self) {
        let Some(queue) = &self.consumes else { return };
        let mut state = self.state.lock().unwrap();
        let queue = state.queues.get_mut(queue).unwrap();
        while let Some((_, stored)) = self.held.pop_back() {
            queue.push_front(Stored { redelivered: true, ..stored });
        }
    }

    fn frame(&mut self) -> Option<(u8, u16, Vec<u8>)> {
        if self.read.starts_with(b"AMQP") && self.read.len() >= 8 {
            self.read.drain(..8);
            let start = [&[0, 9, 0, 0, 0, 0][..], &long("PLAIN"), &long("en_US")].concat();
            self.method(0, [10, 10], &start);
        }
        let mut fields = Fields(self.read.get(..7)?);
        let (kind, channel, len) = (fields.bytes(1)[0], fields.u16(), fields.u32() as usize);
        let payload = self.read.get(7..7 + len)?.to_vec();
        self.read.get(7 + len)?;
        self.read.drain(..8 + len);
        Some((kind, channel, payload))
    }

    fn write(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let head =
            [&[kind][..], &channel.to_be_bytes(), &u32::try_from(payload.len()).unwrap().to_be_bytes()];
        // A client that is gone is seen by the next read.
        let _ = self.stream.write_all(&[&head.concat(), payload, &[0xCE]].concat());
    }

    fn method(&mut self, channel: u16, [class, method]: [u16; 2], arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.write(1, channel, &payload);
    }

    fn refuse(&mut self, channel: u16, code: u16, text: &str) {
        let class = if channel == 0 { [10, 50] } else { [20, 40] };
        let arguments = [&code.to_be_bytes()[..], &short(text), &[0, 0, 0, 0]].concat();
        self.method(channel, class, &arguments);
    }

    /// Takes a frame; whether the connection goes on.
    fn take(&mut self, kind: u8, channel: u16, payload: &[u8]) -> bool {
        let mut fields = Fields(payload);
        match kind {
            1 => return self.call(channel, [fields.u16(), fields.u16()], fields),
            2 => {
                let (_, _, len) = (fields.u16(), fields.u16(), fields.u64());
                if let Some((_, properties, rest, _)) = &mut self.incoming {
                    (*properties, *rest) = (fields.0.to_vec(), len);
                }
            }
            3 => {
                if let Some((.., body)) = &mut self.incoming {
                    body.extend_from_slice(payload);
                }
            }
            _ => {}
        }
        if let Some((key, properties, len, body)) = self.incoming.take() {
            if kind == 1 || (body.len() as u64) < len {
                self.incoming = Some((key, properties, len, body));
            } else {
                self.store(channel, &key, properties, body);
            }
        }
        true
    }

    fn store(&mut self, channel: u16, key: &str, properties: Vec<u8>, body: Vec<u8>) {
        self.published += 1;
        let stored = Stored { routing_key: key.to_owned(), properties, body, redelivered: false };
        let returned = match self.state.lock().unwrap().queues.get_mut(key) {
            Some(queue) => {
                queue.push_back(stored);
                None
            }
            None => Some(stored),
        };
        if let Some(stored) = returned {
            let arguments =
                [&312_u16.to_be_bytes()[..], &short("NO_ROUTE"), &short(&self.exchange), &short(key)]
                    .concat();
            self.method(channel, [60, 50], &arguments);
            self.content(channel, &stored);
        }
        let ack = [&self.published.to_be_bytes()[..], &[0]].concat();
        self.method(channel, [60, 80], &ack);
    }

    fn content(&mut self, channel: u16, stored: &Stored) {
        let len = stored.body.len() as u64;
        let header = [&[0, 60, 0, 0][..], &len.to_be_bytes(), &stored.properties].concat();
        self.write(2, channel, &header);
        for part in stored.body.chunks(100_000) {
            self.write(3, channel, part);
        }
    }

    fn call(&mut self, channel: u16, method: [u16; 2], mut fields: Fields<'_>) -> bool {
        match method {
            [10, 11] => {
                let (_, _, response) = (fields.long(), fields.short(), fields.long());
                if response.ends_with(b"wrong") {
                    self.refuse(0, 403, "ACCESS_REFUSED - Login was refused");
                } else {
                    self.method(0, [10, 30], &[0, 0, 0, 2, 0, 0, 0, 0]);
                }
            }
            [10, 40] => self.method(0, [10, 41], &[0]),
            [10, 50] => {
                self.method(0, [10, 51], &[]);
                return false;
            }
            [10, 51] => return false,
            [20, 10] => self.method(channel, [20, 11], &[0, 0, 0, 0]),
            [20, 40] => self.method(channel, [20, 41], &[]),
            [40, 10] => {
                fields.u16();
                if fields.short() == "events" {
                    self.method(channel, [40, 11], &[]);
                } else {
                    self.refuse(channel, 404, "NOT_FOUND - no exchange");
                }
            }
            [50, 10] => {
                fields.u16();
                let name = fields.short();
                let count = self.state.lock().unwrap().queues.get(&name).map(VecDeque::len);
                match count {
                    Some(count) => {
                        let count = u32::try_from(count).unwrap().to_be_bytes();
                        let ok = [&short(&name)[..], &count, &[0, 0, 0, 0]].concat();
                        self.method(channel, [50, 11], &ok);
                    }
                    None => self.refuse(channel, 404, &format!("NOT_FOUND - no queue '{name}' in vhost '/'")),
                }
            }
            [60, 10] => {
                fields.u32();
                self.prefetch = usize::from(fields.u16());
                self.method(channel, [60, 11], &[]);
            }
            [60, 20] => {
                fields.u16();
                self.consumes = Some(fields.short());
                self.method(channel, [60, 21], &short("consumer"));
            }
            [60, 40] => {
                fields.u16();
                self.exchange = fields.short();
                self.incoming = Some((fields.short(), Vec::new(), u64::MAX, Vec::new()));
            }
            [60, 80] => {
                let (tag, is_all) = (fields.u64(), fields.bytes(1)[0] == 1);
                let before = self.held.len();
                self.held.retain(|(held, _)| if is_all { *held > tag } else { *held != tag });
                self.state.lock().unwrap().acknowledged += before - self.held.len();
            }
            [85, 10] => self.method(channel, [85, 11], &[]),
            _ => {}
        }
        true
    }

    fn deliver(&mut self) {
        let Some(queue) = self.consumes.clone() else { return };
        while self.held.len() < self.prefetch {
            let next = self.state.lock().unwrap().queues.get_mut(&queue).unwrap().pop_front();
            let Some(stored) = next else { return };
            self.delivered += 1;
            let again = u8::from(stored.redelivered);
            let tag = self.delivered.to_be_bytes();
            let arguments =
                [&short("consumer")[..], &tag, &[again], &short(""), &short(&stored.routing_key)].concat();
            self.method(1, [60, 60], &arguments);
            self.content(1, &stored);
            self.held.push_back((self.delivered, stored));
            let mut state = self.state.lock().unwrap();
            state.held_max = state.held_max.max(self.held.len());
        }
    }
}

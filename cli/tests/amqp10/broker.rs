//! A broker that speaks as much AMQP 1.0 as the tests need: queues of raw messages, credit, drain, outcomes, and
//! connections that can be cut. Bytes as they go over the wire, so that both halves are seen as they are.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Messages that contain this are rejected.
pub(crate) const REJECTED: &[u8] = b"reject me";
/// The password of everybody.
const PASSWORD: &[u8] = b"right";
/// Bytes of a message that go into one frame.
const PART: usize = 10_000;

#[derive(Default)]
pub(crate) struct State {
    pub(crate) queues: BTreeMap<String, VecDeque<Vec<u8>>>,
    pub(crate) accepted: usize,
    /// Handed out and not settled, at most at one moment.
    pub(crate) held_max: usize,
    /// Connections of a lower number are cut.
    cut_below: usize,
    connections: usize,
}

pub(crate) struct Broker {
    port: u16,
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

    pub(crate) fn send(&self, queue: &str, message: Vec<u8>) {
        self.state.lock().unwrap().queues.get_mut(queue).unwrap().push_back(message);
    }

    /// Cuts all connections, as a broker that is killed does.
    pub(crate) fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.cut_below = state.connections + 1;
    }
}

/// A described value.
pub(crate) fn described(code: u8, value: &[u8]) -> Vec<u8> {
    [&[0, 0x53, code][..], value].concat()
}

/// Values with size and count, as a list (0xD0) or a map (0xD1).
pub(crate) fn compound(kind: u8, values: &[Vec<u8>]) -> Vec<u8> {
    let all = values.concat();
    let size = u32::try_from(4 + all.len()).unwrap();
    let count = u32::try_from(values.len()).unwrap();
    [&[kind][..], &size.to_be_bytes(), &count.to_be_bytes(), &all].concat()
}

/// Bytes (0xB0), a text (0xB1) or a symbol (0xB3).
pub(crate) fn variable(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    variable(0xB1, text.as_bytes())
}

/// Application properties.
pub(crate) fn properties(all: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let values: Vec<Vec<u8>> = all.iter().flat_map(|(name, value)| [text(name), value.clone()]).collect();
    described(0x74, &compound(0xD1, &values))
}

/// A message's body of one data section.
pub(crate) fn data(bytes: &[u8]) -> Vec<u8> {
    described(0x75, &variable(0xB0, bytes))
}

const NULL: [u8; 1] = [0x40];

fn uint(number: u32) -> Vec<u8> {
    [&[0x70][..], &number.to_be_bytes()].concat()
}

fn flag(is_set: bool) -> Vec<u8> {
    vec![if is_set { 0x41 } else { 0x42 }]
}

/// A value that was read: its type, what it says as a number or as bytes, and the values in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Value {
    kind: u8,
    number: u64,
    bytes: Vec<u8>,
    values: Vec<Value>,
}

impl Value {
    /// The value that bytes begin with, which are taken.
    fn read(bytes: &mut &[u8]) -> Self {
        let kind = take(bytes, 1)[0];
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let mut value = Self { kind: longest(kind), ..Self::default() };
        match kind >> 4 {
            0 => value.values = vec![Self::read(bytes), Self::read(bytes)],
            4 => value.number = u64::from(kind == 0x41),
            high @ 5..=9 => value.number = number(take(bytes, 1 << (high - 5))),
            high => {
                let width = if matches!(high, 0xA | 0xC | 0xE) { 1 } else { 4 };
                let size = usize::try_from(number(take(bytes, width))).unwrap();
                value.bytes = take(bytes, size).to_vec();
                if matches!(high, 0xC | 0xD) {
                    let inner = value.bytes.clone();
                    let (count, mut rest) = inner.split_at(width);
                    value.values = (0..number(count)).map(|_| Self::read(&mut rest)).collect();
                    value.bytes.clear();
                }
            }
        }
        value
    }

    fn at(&self, place: usize) -> Self {
        self.values.get(place).cloned().unwrap_or_default()
    }

    fn uint(&self, place: usize) -> u32 {
        u32::try_from(self.at(place).number).unwrap()
    }

    fn is_set(&self, place: usize) -> bool {
        self.at(place).number == 1
    }

    fn text(&self, place: usize) -> String {
        String::from_utf8(self.at(place).bytes).unwrap()
    }
}

/// The values that a message is, whatever of their encodings was chosen.
pub(crate) fn decoded(mut message: &[u8]) -> Vec<Value> {
    let mut all = Vec::new();
    while !message.is_empty() {
        all.push(Value::read(&mut message));
    }
    all
}

/// The longest encoding of a value's type.
fn longest(kind: u8) -> u8 {
    match kind {
        0x41 | 0x42 => 0x56,
        0x43 | 0x52 => 0x70,
        0x44 | 0x53 => 0x80,
        0x54 => 0x71,
        0x55 => 0x81,
        0x45 | 0xC0 => 0xD0,
        0xA0..=0xAF | 0xC1 | 0xE0 => kind + 0x10,
        other => other,
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (head, rest) = bytes.split_at(count);
    *bytes = rest;
    head
}

struct Connection {
    stream: TcpStream,
    state: Arc<Mutex<State>>,
    number: usize,
    read: Vec<u8>,
    /// What the client receives from.
    source: Option<String>,
    /// Deliveries that the client's credit goes to, counted as those that were made or given up.
    limit: u32,
    count: u32,
    drains: bool,
    /// Transfers and deliveries that were sent.
    transfers: u32,
    deliveries: u32,
    held: VecDeque<(u32, Vec<u8>)>,
    /// What the client sends to, what came of a message, and how many came.
    target: String,
    incoming: Vec<u8>,
    received: u32,
    /// A detach of the client is an answer.
    has_detached: bool,
}

/// Handles are the client's.
const HANDLE: u32 = 0;
const WINDOW: u32 = 1_000_000;

impl Connection {
    fn new(stream: TcpStream, state: Arc<Mutex<State>>, number: usize) -> Self {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        Self {
            stream,
            state,
            number,
            read: Vec::new(),
            source: None,
            limit: 0,
            count: 0,
            drains: false,
            transfers: 0,
            deliveries: 0,
            held: VecDeque::new(),
            target: String::new(),
            incoming: Vec::new(),
            received: 0,
            has_detached: false,
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
            while let Some((kind, body)) = self.frame() {
                if !body.is_empty() && !self.take(kind, &body) {
                    return;
                }
            }
            self.deliver();
        }
    }

    fn give_back(&mut self) {
        let Some(queue) = &self.source else { return };
        let mut state = self.state.lock().unwrap();
        let queue = state.queues.get_mut(queue).unwrap();
        while let Some((_, message)) = self.held.pop_back() {
            queue.push_front(message);
        }
    }

    /// The next frame that is whole: its type and body.
    fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        while self.read.starts_with(b"AMQP") && self.read.len() >= 8 {
            let header: Vec<u8> = self.read.drain(..8).collect();
            let _ = self.stream.write_all(&header);
            if header[4] == 3 {
                let mechanisms = [&[0xE0, 18, 2, 0xA3, 9][..], b"ANONYMOUS", &[5], b"PLAIN"].concat();
                self.write(1, &described(0x40, &compound(0xD0, &[mechanisms])));
            }
        }
        let len = u32::from_be_bytes(self.read.get(..4)?.try_into().unwrap()) as usize;
        let frame = self.read.get(..len)?;
        let (kind, body) = (frame[5], frame[8..].to_vec());
        self.read.drain(..len);
        Some((kind, body))
    }

    fn write(&mut self, kind: u8, body: &[u8]) {
        let len = u32::try_from(8 + body.len()).unwrap();
        // A client that is gone is seen by the next read.
        let _ = self.stream.write_all(&[&len.to_be_bytes()[..], &[2, kind, 0, 0], body].concat());
    }

    fn say(&mut self, code: u8, fields: &[Vec<u8>]) {
        self.write(0, &described(code, &compound(0xD0, fields)));
    }

    /// Takes a frame; whether the connection goes on.
    fn take(&mut self, kind: u8, body: &[u8]) -> bool {
        let mut rest = body;
        let value = Value::read(&mut rest);
        let (code, fields) = (value.at(0).number, value.at(1));
        match (kind, code) {
            (1, 0x41) => {
                let is_right = fields.text(0) == "ANONYMOUS" || fields.at(1).bytes.ends_with(PASSWORD);
                self.write(1, &described(0x44, &compound(0xD0, &[vec![0x50, u8::from(!is_right)]])));
            }
            (_, 0x10) => self.say(0x10, &[text("broker")]),
            (_, 0x11) => self.say(0x11, &[vec![0x60, 0, 0], uint(0), uint(WINDOW), uint(WINDOW)]),
            (_, 0x12) => self.attach(&fields),
            (_, 0x13) => {
                if self.source.is_some() && fields.values.len() > 6 {
                    self.limit = fields.uint(5).wrapping_add(fields.uint(6));
                    self.drains = fields.is_set(8);
                }
            }
            (_, 0x14) => self.store(&fields, rest),
            (_, 0x15) => self.settle(&fields),
            (_, 0x16) => {
                if !std::mem::take(&mut self.has_detached) {
                    self.say(0x16, &[uint(HANDLE), flag(true)]);
                }
            }
            (_, 0x17) => self.say(0x17, &[]),
            (_, 0x18) => {
                self.say(0x18, &[]);
                return false;
            }
            other => panic!("the tests need {other:x?}"),
        }
        true
    }

    fn attach(&mut self, fields: &Value) {
        let receives = fields.is_set(2);
        let node = fields.at(if receives { 5 } else { 6 }).at(1).text(0);
        let is_there = self.state.lock().unwrap().queues.contains_key(&node);
        let end = |code: u8, is_own: bool| match is_own && !is_there {
            true => NULL.to_vec(),
            false => described(code, &compound(0xD0, &[text(&node)])),
        };
        let (source, target) = (end(0x28, receives), end(0x29, !receives));
        self.say(
            0x12,
            &[
                text(&fields.text(0)),
                uint(HANDLE),
                flag(!receives),
                vec![0x50, 0],
                vec![0x50, 0],
                source,
                target,
                NULL.to_vec(),
                NULL.to_vec(),
                uint(0),
            ],
        );
        if !is_there {
            let why = error("amqp:not-found", &format!("no queue '{node}'"));
            self.has_detached = true;
            self.say(0x16, &[uint(HANDLE), flag(true), why]);
        } else if receives {
            self.source = Some(node);
        } else {
            self.target = node;
            self.flow(100, false);
        }
    }

    fn flow(&mut self, credit: u32, drained: bool) {
        let count = if self.source.is_some() { self.count } else { self.received };
        let fields = [
            uint(self.received),
            uint(WINDOW),
            uint(self.transfers),
            uint(WINDOW),
            uint(HANDLE),
            uint(count),
            uint(credit),
            uint(0),
            flag(drained),
        ];
        self.say(0x13, &fields);
    }

    fn store(&mut self, fields: &Value, part: &[u8]) {
        self.incoming.extend_from_slice(part);
        if fields.is_set(5) {
            return;
        }
        let message = std::mem::take(&mut self.incoming);
        let is_rejected = message.windows(REJECTED.len()).any(|window| window == REJECTED);
        let outcome = if is_rejected {
            described(0x25, &compound(0xD0, &[error("amqp:not-allowed", "nobody wants this")]))
        } else {
            self.state.lock().unwrap().queues.get_mut(&self.target).unwrap().push_back(message);
            described(0x24, &[0x45])
        };
        let id = uint(self.received);
        self.say(0x15, &[flag(true), id.clone(), id, flag(true), outcome]);
        self.received += 1;
        if self.received.is_multiple_of(50) {
            self.flow(100, false);
        }
    }

    fn settle(&mut self, fields: &Value) {
        let (first, last) = (fields.uint(1), fields.uint(2).max(fields.uint(1)));
        assert_eq!(fields.at(4).at(0).number, 0x24, "accepted");
        let before = self.held.len();
        self.held.retain(|(id, _)| !(first..=last).contains(id));
        self.state.lock().unwrap().accepted += before - self.held.len();
    }

    fn deliver(&mut self) {
        let Some(queue) = self.source.clone() else { return };
        while self.count < self.limit {
            let Some(message) = self.state.lock().unwrap().queues.get_mut(&queue).unwrap().pop_front() else {
                if self.drains {
                    self.count = self.limit;
                    self.drains = false;
                    self.flow(0, true);
                }
                return;
            };
            let id = self.deliveries;
            let parts: Vec<&[u8]> = message.chunks(PART).collect();
            for (place, part) in parts.iter().enumerate() {
                let fields = [
                    uint(HANDLE),
                    uint(id),
                    variable(0xB0, &id.to_be_bytes()),
                    uint(0),
                    flag(false),
                    flag(place + 1 < parts.len()),
                ];
                self.write(0, &[described(0x14, &compound(0xD0, &fields)), part.to_vec()].concat());
                self.transfers += 1;
            }
            (self.count, self.deliveries) = (self.count + 1, self.deliveries + 1);
            self.held.push_back((id, message));
            let mut state = self.state.lock().unwrap();
            state.held_max = state.held_max.max(self.held.len());
        }
    }
}

fn error(condition: &str, why: &str) -> Vec<u8> {
    described(0x1D, &compound(0xD0, &[variable(0xB3, condition.as_bytes()), text(why)]))
}

//! A broker and name server in one that answers as a test says, on a free port.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use sluice_client::{Client, ClientSettings};
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::fields::Fields;
use sluice_protocol::frame::{self, Frame};
use sluice_protocol::header::{Header, HeaderKind};
use sluice_protocol::route::{BrokerData, QueueData, Route};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) code: RequestCode,
    pub(crate) opaque: i32,
    pub(crate) kind: HeaderKind,
    pub(crate) fields: Fields<'static>,
    pub(crate) body: Vec<u8>,
}

/// What is answered.
pub(crate) enum Reply {
    Nothing,
    Close,
    Bytes(Vec<u8>),
    Code(ResponseCode, Fields<'static>),
}

pub(crate) type Handler = dyn Fn(&Asked) -> Reply + Send + Sync;

/// Requests that came, in their order.
pub(crate) type Seen = Arc<Mutex<Vec<Asked>>>;

pub(crate) struct Fake {
    pub(crate) address: String,
    /// All requests but those for routes and heartbeats.
    pub(crate) asked: Seen,
    /// Heartbeats and good-byes.
    pub(crate) presence: Seen,
}

impl Fake {
    /// Answers requests for routes with one broker of so many queues, all others as the handler says.
    pub(crate) async fn start(
        queues: i32,
        handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (asked, presence): (Seen, Seen) = Default::default();
        let handler: Arc<Handler> = Arc::new(handler);
        let route = route(&address, queues).encode_for(sluice_protocol::version::CURRENT, true);
        let seen = [Arc::clone(&asked), Arc::clone(&presence)];
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, seen.clone(), Arc::clone(&handler), route.clone()));
            }
        });
        Self { address, asked, presence }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(ClientSettings::new(&self.address)).unwrap()
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn route(address: &str, queues: i32) -> Route {
    let broker = BrokerData {
        broker_name: "a".into(),
        broker_addrs: BTreeMap::from([(0, address.to_owned())]),
        ..BrokerData::default()
    };
    let queues = QueueData {
        broker_name: "a".into(),
        perm: 6,
        read_queue_nums: queues,
        write_queue_nums: queues,
        ..QueueData::default()
    };
    Route { broker_datas: vec![broker], queue_datas: vec![queues], ..Route::default() }
}

async fn serve(mut stream: TcpStream, [seen, presence]: [Seen; 2], handler: Arc<Handler>, route: Vec<u8>) {
    let mut buffer = Vec::new();
    loop {
        while let Ok(Some((frame, len))) = Frame::decode(&buffer) {
            let header = frame.header().unwrap();
            let mut fields = Fields::new();
            for (name, value) in header.fields.iter() {
                fields.push(name.to_owned(), value.to_owned());
            }
            let asked = Asked {
                code: header.request_code(),
                opaque: header.opaque,
                kind: frame.kind,
                fields,
                body: frame.body.to_vec(),
            };
            drop(header);
            buffer.drain(..len);
            let mut out = Vec::new();
            let fine = Header::response(ResponseCode::SUCCESS, asked.opaque, Fields::new());
            if asked.code == RequestCode::GET_ROUTEINFO_BY_TOPIC {
                frame::encode(&mut out, asked.kind, &fine, &route).unwrap();
            } else if matches!(asked.code, RequestCode::HEART_BEAT | RequestCode::UNREGISTER_CLIENT) {
                frame::encode(&mut out, asked.kind, &fine, &[]).unwrap();
                presence.lock().unwrap().push(asked);
            } else {
                seen.lock().unwrap().push(asked.clone());
                match handler(&asked) {
                    Reply::Nothing => {}
                    Reply::Close => return,
                    Reply::Bytes(bytes) => out = bytes,
                    Reply::Code(code, fields) => {
                        let header = Header::response(code, asked.opaque, fields).with_remark("as told");
                        frame::encode(&mut out, asked.kind, &header, &[]).unwrap();
                    }
                }
            }
            stream.write_all(&out).await.unwrap();
        }
        if stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
            continue;
        }
        return;
    }
}

/// The response to a send that was stored at that offset.
pub(crate) fn stored(offset: i64) -> Reply {
    let mut fields = Fields::new();
    for (name, value) in [("queueId", "0"), ("msgId", "7F000001000029CC0000000000000007")] {
        fields.push(name, value);
    }
    fields.push("queueOffset", offset.to_string());
    Reply::Code(ResponseCode::SUCCESS, fields)
}

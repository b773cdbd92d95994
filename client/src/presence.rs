//! A producer's heartbeats: brokers know its group and its connections while it lives.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use sluice_protocol::code::RequestCode;
use sluice_protocol::fields::Fields;
use sluice_protocol::heartbeat::{Heartbeat, ProducerData};
use sluice_protocol::request;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::client::{Client, lock};
use crate::error::Error;

/// Tells brokers of a producer until it is dropped.
pub(crate) struct Presence {
    shared: Arc<Shared>,
    task: OnceLock<AbortHandle>,
}

struct Shared {
    client: Client,
    group: String,
    /// Whom to tell.
    brokers: Mutex<BTreeSet<Arc<str>>>,
    every: Duration,
    /// There is somebody who was not told yet.
    added: Notify,
}

impl Presence {
    /// Tells nobody yet, and then so often.
    pub(crate) fn new(client: &Client, group: &str, every: Duration) -> Self {
        let shared = Shared {
            client: client.clone(),
            group: group.to_owned(),
            brokers: Mutex::default(),
            every,
            added: Notify::new(),
        };
        Self { shared: Arc::new(shared), task: OnceLock::new() }
    }

    /// Tells these brokers from now on: new ones at once. Must be called within a runtime.
    pub(crate) fn at(&self, brokers: BTreeSet<Arc<str>>) {
        let known = std::mem::replace(&mut *lock(&self.shared.brokers), brokers.clone());
        if !brokers.is_subset(&known) {
            self.shared.added.notify_one();
        }
        self.task.get_or_init(|| tokio::spawn(keep(Arc::clone(&self.shared))).abort_handle());
    }

    /// Tells brokers that the producer is gone.
    pub(crate) async fn leave(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
        let Shared { client, group, .. } = &*self.shared;
        let header = request::UnregisterClient {
            client_id: client.id(),
            producer_group: Some(group),
            consumer_group: None,
        };
        self.shared.tell(RequestCode::UNREGISTER_CLIENT, &header.fields(), &[]).await;
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

async fn keep(shared: Arc<Shared>) {
    let heartbeat = Heartbeat {
        client_id: shared.client.id().to_owned(),
        producer_data_set: vec![ProducerData { group_name: shared.group.clone() }],
        ..Heartbeat::default()
    };
    let body = heartbeat.encode();
    loop {
        tokio::select! {
            () = tokio::time::sleep(shared.every) => {}
            () = shared.added.notified() => {}
        }
        shared.tell(RequestCode::HEART_BEAT, &Fields::new(), &body).await;
    }
}

impl Shared {
    /// Asks each broker; sends go on whether it listens or not.
    async fn tell(&self, code: RequestCode, fields: &Fields<'_>, body: &[u8]) {
        let brokers = lock(&self.brokers).clone();
        for address in brokers {
            let told: Result<_, Error> =
                self.client.ask(&address, code, fields.clone(), body, &self.group).await;
            if let Err(error) = told {
                tracing::debug!(group = self.group, peer = &*address, %error, "does not know of the producer");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_protocol::code::ResponseCode;
    use sluice_protocol::frame::{self, Frame};
    use sluice_protocol::header::Header;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;
    use crate::client::ClientSettings;

    /// Says yes to everything, and tells what it was asked.
    async fn broker(listener: TcpListener, asked: UnboundedSender<(RequestCode, Vec<u8>)>) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut received = Vec::new();
        while stream.read_buf(&mut received).await.unwrap() > 0 {
            while let Some((frame, len)) = Frame::decode(&received).unwrap() {
                let header = frame.header().unwrap();
                asked.send((header.request_code(), frame.body.to_vec())).unwrap();
                let yes = Header::response(ResponseCode::SUCCESS, header.opaque, Fields::new());
                let mut answer = Vec::new();
                frame::encode(&mut answer, frame.kind, &yes, &[]).unwrap();
                stream.write_all(&answer).await.unwrap();
                received.drain(..len);
            }
        }
    }

    #[tokio::test]
    async fn a_producer_is_told_of_again_and_again_until_it_leaves() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: Arc<str> = listener.local_addr().unwrap().to_string().into();
        let (sender, mut asked) = unbounded_channel();
        tokio::spawn(broker(listener, sender));
        let client = Client::new(ClientSettings::new(&*address)).unwrap();
        let presence = Presence::new(&client, "billing", Duration::from_millis(1));
        presence.at([address].into());
        for _ in 0..3 {
            let (code, body) = asked.recv().await.unwrap();
            let heartbeat = Heartbeat::decode(&body).unwrap();
            assert_eq!((code, heartbeat.client_id.as_str()), (RequestCode::HEART_BEAT, client.id()));
            assert_eq!(heartbeat.producer_data_set, [ProducerData { group_name: "billing".into() }]);
        }
        presence.leave().await;
        drop((presence, client));
        // The connection ends, and the good-bye is the last that came by it.
        let mut last = None;
        while let Some((code, _)) = asked.recv().await {
            last = Some(code);
        }
        assert_eq!(last, Some(RequestCode::UNREGISTER_CLIENT));
    }
}

//! How the client signs, and what it says of keys and files that it can not use.

#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sluice_client::{
    Access, Client, ClientSettings, Error, Message, Producer, ProducerSettings, SecretKey, TlsSettings,
    TopicName,
};
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::fields::Fields;
use sluice_protocol::header::{Header, HeaderKind};
use sluice_protocol::signature::Secret;

use support::{Asked, Fake, Reply, stored};

fn access() -> Access {
    Access {
        access_key: Some("app".into()),
        secret_key: Some(SecretKey("app-secret".into())),
        ..Access::default()
    }
}

/// The request is signed, by one signature.
fn check(asked: &Asked) {
    let of = |name: &str| asked.fields.iter().filter(|(n, _)| *n == name).count();
    assert_eq!((of("AccessKey"), of("Signature")), (1, 1), "{asked:?}");
    let header = Header::request(asked.code, asked.opaque, asked.fields.clone());
    assert!(Secret::new("app-secret").verify(&header, &asked.body), "{asked:?}");
}

#[tokio::test]
async fn every_request_is_signed_once_also_when_it_is_sent_again() {
    for header_kind in [HeaderKind::Json, HeaderKind::Binary] {
        let left = AtomicUsize::new(2);
        let fake = Fake::start(2, move |asked| match asked.code {
            RequestCode::SEND_MESSAGE_V2 | RequestCode::SEND_BATCH_MESSAGE
                if left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                    .is_ok() =>
            {
                Reply::Code(ResponseCode::SYSTEM_BUSY, Fields::new())
            }
            _ => stored(7),
        })
        .await;
        let settings = ClientSettings { access: access(), header_kind, ..ClientSettings::new(&fake.address) };
        assert!(!format!("{settings:?}").contains("app-secret"), "{settings:?}");
        let producer = Producer::new(&Client::new(settings).unwrap(), ProducerSettings::default()).unwrap();
        let topic = TopicName::new("orders").unwrap();
        producer.send(&Message::new(&topic, "a body".to_owned()).tag("ä tag").unwrap()).await.unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while fake.presence.lock().unwrap().is_empty() {
            assert!(tokio::time::Instant::now() < deadline, "no heartbeat comes");
            tokio::task::yield_now().await;
        }
        producer.close().await.unwrap();
        let sends = fake.asked();
        assert!(sends.len() >= 3, "{sends:?}");
        sends.iter().for_each(check);
        fake.presence.lock().unwrap().iter().for_each(check);
    }
}

#[tokio::test]
async fn keys_and_files_that_can_not_be_used_are_named() {
    let refused = |access: Access| {
        let settings = ClientSettings { access, ..ClientSettings::new("127.0.0.1:1") };
        let error = Client::new(settings).err().expect("it can not be used");
        (error.to_string(), error)
    };
    let (half, _) = refused(Access { secret_key: None, ..access() });
    assert!(half.contains("secret_key") && half.contains("missing"), "{half}");
    let tls = |tls| Access { tls: Some(tls), ..Access::default() };
    let (none, error) = refused(tls(TlsSettings { ca: Some("/none.pem".into()), ..TlsSettings::default() }));
    assert!(none.contains("/none.pem") && matches!(error, Error::Tls { .. }), "{none}");
    let (half, _) = refused(tls(TlsSettings { key: Some("/key.pem".into()), ..TlsSettings::default() }));
    assert!(half.contains("tls.certificate"), "{half}");
}

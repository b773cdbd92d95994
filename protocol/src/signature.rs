//! Signatures of requests, as the access control of `RocketMQ` 4.x and 5.x makes them ("ACL 1.0").
//!
//! Signed are the values of all header fields but `Signature`, the access key's too, in the order of their names and
//! with nothing between them, and then the body. The signature is the base64 of its HMAC-SHA1 under the secret key.
//! It says who sent a request and that nobody changed it; it does not cover the request's code, and does not keep
//! others from sending the same once more. Only TLS does.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use subtle::ConstantTimeEq;

use crate::fields::Fields;
use crate::header::Header;

/// Field that says whose signature it is.
pub const ACCESS_KEY: &str = "AccessKey";
/// Field of the signature.
pub const SIGNATURE: &str = "Signature";
/// Field of a token for a while, which some services hand out beside the keys; signed as any other.
pub const SECURITY_TOKEN: &str = "SecurityToken";

/// A field that clients up to [`UNIQUE_KEY_VERSION`] add after they signed.
const UNIQUE_KEY_QUERY: &str = "_UNIQUE_KEY_QUERY";
/// See [`UNIQUE_KEY_QUERY`]; 4.9.3.
const UNIQUE_KEY_VERSION: i32 = 399;

/// A secret key, made ready to sign; never shown.
#[derive(Clone)]
pub struct Secret(hmac::Key);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Secret {
    /// The secret of this text.
    pub fn new(secret_key: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret_key.as_bytes()))
    }

    /// Whether a request's signature was made with this secret. Takes equally long for all wrong ones.
    pub fn verify(&self, header: &Header<'_>, body: &[u8]) -> bool {
        let late = header.version <= UNIQUE_KEY_VERSION;
        let Some(tag) = self.tag(&header.fields, late, body) else { return false };
        let given = header.fields.get(SIGNATURE).and_then(|text| STANDARD.decode(text).ok());
        given.is_some_and(|given| tag.as_ref().ct_eq(&given).into())
    }

    /// What stands in the signature; `None` if a name is there twice, so that it is not clear what was signed.
    fn tag(&self, fields: &Fields<'_>, without_unique_key: bool, body: &[u8]) -> Option<hmac::Tag> {
        let is_signed = |name: &str| name != SIGNATURE && !(without_unique_key && name == UNIQUE_KEY_QUERY);
        let mut signed: Vec<(&str, &str)> = fields.iter().filter(|(name, _)| is_signed(name)).collect();
        signed.sort_unstable_by_key(|(name, _)| *name);
        if signed.windows(2).any(|pair| matches!(pair, [(one, _), (other, _)] if one == other)) {
            return None;
        }
        let mut context = hmac::Context::with_key(&self.0);
        for (_, value) in &signed {
            context.update(value.as_bytes());
        }
        context.update(body);
        Some(context.sign())
    }
}

/// By what a client signs.
#[derive(Clone, Debug)]
pub struct Credentials {
    access_key: String,
    secret: Secret,
}

impl Credentials {
    /// The two keys of an account.
    pub fn new(access_key: impl Into<String>, secret_key: &str) -> Self {
        Self { access_key: access_key.into(), secret: Secret::new(secret_key) }
    }

    /// Whose they are.
    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    /// The header with the access key and the signature of it and the body.
    #[must_use]
    pub fn sign<'a>(&'a self, header: &Header<'a>, body: &[u8]) -> Header<'a> {
        let mut signed = header.clone();
        signed.fields.push(ACCESS_KEY, self.access_key.as_str());
        let late = signed.version <= UNIQUE_KEY_VERSION;
        if let Some(tag) = self.secret.tag(&signed.fields, late, body) {
            signed.fields.push(SIGNATURE, STANDARD.encode(tag));
        }
        signed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::code::RequestCode;

    /// Fields, body and signature.
    type Signed = (Vec<(&'static str, &'static str)>, &'static [u8], &'static str);

    /// Signed by `RocketMQ`'s own classes (5.3.3): `AclUtils.calSignature` over `combineRequestContent`.
    fn golden() -> Vec<Signed> {
        vec![
            (
                vec![
                    ("AccessKey", "RocketMQAK"),
                    ("consumerGroup", "CG"),
                    ("topic", "TopicTest"),
                    ("queueId", "0"),
                    ("queueOffset", "10"),
                    ("maxMsgNums", "32"),
                    ("sysFlag", "2"),
                    ("commitOffset", "0"),
                    ("suspendTimeoutMillis", "15000"),
                    ("subVersion", "1"),
                    ("expressionType", "TAG"),
                    ("bname", "broker-a"),
                ],
                b"",
                "rq8+JOMjvP0dm9MEpYg3eq5ezr4=",
            ),
            (
                vec![
                    ("a", "PG"),
                    ("b", "TopicTest"),
                    ("c", "TBW102"),
                    ("d", "4"),
                    ("e", "2"),
                    ("f", "0"),
                    ("g", "1700000000000"),
                    ("h", "0"),
                    ("i", "TAGS\u{1}TagA\u{2}"),
                    ("j", "0"),
                    ("k", "false"),
                    ("m", "false"),
                    ("AccessKey", "RocketMQAK"),
                    ("SecurityToken", "STS"),
                ],
                b"Hello RocketMQ",
                "XVUHD9gGSl63i9xTfBSbkwCRLrY=",
            ),
            (vec![("AccessKey", "RocketMQAK")], b"{}", "BmBWd33RSceFZbN9hru8GXNCvoY="),
        ]
    }

    fn header<'a>(fields: &[(&'a str, &'a str)], version: i32) -> Header<'a> {
        let mut of = Fields::new();
        fields.iter().for_each(|(name, value)| of.push(*name, *value));
        Header { version, ..Header::request(RequestCode::PULL_MESSAGE, 1, of) }
    }

    #[test]
    fn signatures_of_java_are_right_and_ours_are_the_same() {
        let secret = Secret::new("RocketMQSK12345");
        let credentials = Credentials::new("RocketMQAK", "RocketMQSK12345");
        for (fields, body, signature) in golden() {
            let mut given = fields.clone();
            given.push(("Signature", signature));
            assert!(secret.verify(&header(&given, 479), body), "{fields:?}");
            assert!(!Secret::new("another").verify(&header(&given, 479), body));
            let unsigned: Vec<_> = fields.iter().copied().filter(|(name, _)| *name != ACCESS_KEY).collect();
            let header = header(&unsigned, 479);
            let signed = credentials.sign(&header, body);
            assert_eq!(signed.fields.get(SIGNATURE), Some(signature));
        }
    }

    #[test]
    fn a_field_that_old_clients_add_after_they_signed_is_left_out_for_them() {
        let credentials = Credentials::new("ak", "secret");
        let asked = header(&[("topic", "t")], 399);
        let mut signed = credentials.sign(&asked, &[]);
        signed.fields.push("_UNIQUE_KEY_QUERY", "true");
        assert!(Secret::new("secret").verify(&signed, &[]));
        signed.version = 401;
        assert!(!Secret::new("secret").verify(&signed, &[]));
    }

    #[test]
    fn a_secret_is_never_shown() {
        assert!(!format!("{:?}", Credentials::new("ak", "hunter2")).contains("hunter2"));
    }

    proptest! {
        #[test]
        fn what_was_changed_or_is_there_twice_is_not_signed(
            fields in proptest::collection::btree_map("[a-zA-Z]{1,6}", "[ -~]{1,12}", 1..6),
            body in proptest::collection::vec(any::<u8>(), 0..64),
            at in any::<proptest::sample::Index>(),
        ) {
            let pairs: Vec<(&str, &str)> =
                fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            prop_assume!(pairs.iter().all(|(name, _)| *name != ACCESS_KEY && *name != SIGNATURE));
            let (credentials, secret) = (Credentials::new("ak", "secret"), Secret::new("secret"));
            let asked = header(&pairs, 479);
            let signed = credentials.sign(&asked, &body);
            prop_assert!(secret.verify(&signed, &body));
            let mut longer = body.clone();
            longer.push(0);
            prop_assert!(!secret.verify(&signed, &longer));
            let (name, value) = pairs[at.index(pairs.len())];
            let mut twice = signed.clone();
            twice.fields.push(name, value);
            prop_assert!(!secret.verify(&twice, &body));
            let mut without = signed.clone();
            without.fields = Fields::new();
            signed.fields.iter().filter(|(n, _)| *n != name).for_each(|(n, v)| without.fields.push(n, v));
            prop_assert!(!secret.verify(&without, &body));
        }
    }
}

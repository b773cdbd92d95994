//! Sockets of ZeroMQ (ZMTP 3.0 over TCP, mechanism NULL, https://rfc.zeromq.org/spec/23), of four kinds: PUSH to PULL, and
//! PUB to SUB. Messages are lost when a peer goes, and PUB drops what a subscriber does not take; nothing is
//! acknowledged.
//!
//! Spoken here, and not by a library, because what peers send must be bounded.

#[cfg(feature = "zeromq")]
pub mod inbound;
#[cfg(feature = "zeromq")]
pub mod mapping;
#[cfg(feature = "zeromq")]
pub mod outbound;
#[cfg(feature = "zeromq")]
mod wire;

use crate::address::{Address, Schemes, is_loopback};

/// Without TLS there is one scheme, and ports have no default.
const SCHEMES: Schemes = [("tcp", 0), ("tcp", 0)];

/// What a build without the feature says.
pub const WITHOUT: &str = "this program was built without ZeroMQ: build it with `--features zeromq`";

/// A kind of socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Takes messages of PUSH sockets.
    Pull,
    /// Gives each message to one PULL socket.
    Push,
    /// Gives each message to all SUB sockets that asked for it.
    Pub,
    /// Asks PUB sockets for messages.
    Sub,
}

impl Kind {
    /// As it says so itself.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pull => "PULL",
            Self::Push => "PUSH",
            Self::Pub => "PUB",
            Self::Sub => "SUB",
        }
    }

    /// The kinds of sockets that it speaks with.
    pub fn peers(self) -> &'static [&'static str] {
        match self {
            Self::Pull => &["PUSH"],
            Self::Push => &["PULL"],
            Self::Pub => &["SUB", "XSUB"],
            Self::Sub => &["PUB", "XPUB"],
        }
    }
}

/// Where a socket is, or where its peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host and port.
    pub address: Address,
    /// Whether peers come here, else it goes to one.
    pub is_bound: bool,
}

impl Endpoint {
    /// Of what a pipeline says: `bind` or `connect`, each `tcp://HOST:PORT`. The key that is wrong, if one is, and why.
    pub fn new(
        bind: Option<&str>,
        connect: Option<&str>,
        allow_anonymous: bool,
    ) -> Result<Self, (Option<&'static str>, String)> {
        let (key, text) = match (bind, connect) {
            (Some(bind), None) => ("bind", bind),
            (None, Some(connect)) => ("connect", connect),
            (Some(_), Some(_)) => {
                return Err((Some("bind"), "beside `connect`: give one of them".to_owned()));
            }
            (None, None) => {
                let told =
                    "where peers are is missing: `bind: tcp://127.0.0.1:5557`, or `connect: tcp://HOST:PORT`";
                return Err((None, told.to_owned()));
            }
        };
        let told = |problem: String| (Some(key), problem);
        let mut address = Address::parse(text, SCHEMES).map_err(told)?;
        if address.port == 0 && !(key == "bind" && text.ends_with(":0")) {
            return Err(told(format!("`{text}` has no port: expected tcp://HOST:PORT")));
        }
        if address.path.as_ref().is_some_and(|path| !path.is_empty()) {
            return Err(told(format!("`{text}` has a path: expected tcp://HOST:PORT")));
        }
        let is_bound = key == "bind";
        if is_bound && address.host == "*" {
            "0.0.0.0".clone_into(&mut address.host);
        }
        if is_bound && !is_loopback(address.socket().0) && !allow_anonymous {
            let told =
                "whoever reaches it may send and read: bind to 127.0.0.1, or say `allow_anonymous: true`";
            return Err((Some(key), told.to_owned()));
        }
        Ok(Self { address, is_bound })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "tcp://{}", self.address)
    }
}

/// Messages that wait for one peer, at most, if not said otherwise; as for sockets of ZeroMQ.
pub const HIGH_WATER_MARK: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_bound_or_gone_to_and_beyond_loopback_only_if_told() {
        let bound = Endpoint::new(Some("tcp://127.0.0.1:5557"), None, false).unwrap();
        assert!(bound.is_bound && bound.to_string() == "tcp://127.0.0.1:5557");
        assert!(!Endpoint::new(None, Some("tcp://elsewhere:1"), false).unwrap().is_bound);
        assert_eq!(Endpoint::new(Some("tcp://*:1"), None, true).unwrap().address.host, "0.0.0.0");
        assert!(Endpoint::new(Some("tcp://[::1]:1"), None, false).is_ok());
        for (bind, connect, part) in [
            (None, None, "where peers are is missing"),
            (Some("tcp://h:1"), Some("tcp://h:1"), "give one of them"),
            (Some("tcp://0.0.0.0:1"), None, "allow_anonymous: true"),
            (Some("tcp://*:1"), None, "allow_anonymous: true"),
            (None, Some("tcp://h"), "has no port"),
            (None, Some("tcp://h:1/x"), "has a path"),
            (None, Some("ipc:///tmp/x"), "tcp://HOST:PORT"),
        ] {
            let (_, told) = Endpoint::new(bind, connect, false).unwrap_err();
            assert!(told.contains(part), "{told}");
        }
    }
}

//! Who may ask: with a token those who bear it; without one those on this machine, but no web page that a browser shows.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use subtle::ConstantTimeEq;

use crate::fault::Fault;
use crate::server::Error;

/// The fewest characters of a token.
const TOKEN_LEN_MIN: usize = 16;

/// What bearers show. Never printed.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// A token of at least 16 characters that a header can hold.
    pub fn new(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.len() < TOKEN_LEN_MIN || !text.chars().all(|c| c.is_ascii_graphic()) {
            return Err(Error::Token(format!(
                "a token has at least {TOKEN_LEN_MIN} characters of ASCII, none of them a blank"
            )));
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether this is what was shown, in a time that does not tell how much of it is right.
    pub fn is(&self, shown: &str) -> bool {
        bool::from(shown.as_bytes().ct_eq(self.0.as_bytes()))
    }
}

/// Refuses to listen where others reach a server that asks for no token. `what` others could do, and `option` is where a
/// token is given.
pub fn check_open(
    addr: SocketAddr,
    token: Option<&Token>,
    what: &'static str,
    option: &'static str,
) -> Result<(), Error> {
    if addr.ip().is_loopback() || token.is_some() {
        return Ok(());
    }
    Err(Error::Open { addr, what, option })
}

/// Who may ask.
#[derive(Clone)]
pub struct Guard {
    token: Option<Token>,
    /// Whether only this machine reaches the server: names of other machines are then a trick.
    is_local: bool,
}

impl Guard {
    /// For a server at this address. `option` is where a token is given, for the error of one that has none and can be
    /// reached by others.
    pub fn new(addr: SocketAddr, token: Option<Token>, option: &'static str) -> Result<Self, Error> {
        check_open(addr, token.as_ref(), "it may change pipelines", option)?;
        Ok(Self { token, is_local: addr.ip().is_loopback() })
    }

    /// For what everybody may read.
    pub fn none() -> Self {
        Self { token: None, is_local: false }
    }

    /// Why a request is turned away.
    fn refusal(&self, request: &Request) -> Option<Fault> {
        let header = |name: &HeaderName| request.headers().get(name).map(HeaderValue::to_str);
        let host = match header(&HOST) {
            None => None,
            Some(Ok(host)) => Some(host),
            Some(Err(_)) => return Some(Fault::bad("the header Host is not right")),
        };
        // A page of another site that a browser shows here may send, too.
        if let Some(origin) = header(&ORIGIN) {
            let same = origin.ok().and_then(|o| o.split_once("://")).is_some_and(|(_, at)| Some(at) == host);
            if !same {
                return Some(Fault::new(403, "a page of another origin may not ask"));
            }
        }
        match &self.token {
            // The name of another site may lead to this machine.
            None if self.is_local && !host.is_none_or(is_this_machine) => {
                Some(Fault::new(403, "without a token only 127.0.0.1, [::1] and localhost are answered for"))
            }
            None => None,
            Some(_) if is_open(request.uri().path()) => None,
            Some(token) => {
                let shown = header(&AUTHORIZATION).and_then(Result::ok).and_then(|h| h.split_once(' '));
                let shown = shown.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
                let is_right = shown.is_some_and(|(_, shown)| token.is(shown.trim()));
                (!is_right).then(|| Fault::new(401, "expected the header `Authorization: Bearer TOKEN`"))
            }
        }
    }
}

/// What tells nothing of pipelines: whether the worker lives, and the page, which asks for the token itself.
fn is_open(path: &str) -> bool {
    matches!(path, "/health" | "/ui")
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Turns away who may not.
pub(crate) async fn pass(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let Some(fault) = guard.refusal(&request) else { return next.run(request).await };
    let status = fault.status;
    let mut response = fault.into_response();
    if status == 401 {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn check(guard: &Guard, path: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        guard.refusal(&request.body(Body::empty()).unwrap()).map(|fault| fault.status)
    }

    #[test]
    fn pages_of_other_sites_and_names_of_other_machines_are_turned_away() {
        let guard = Guard::new("127.0.0.1:8083".parse().unwrap(), None, "--token").unwrap();
        for host in ["localhost:8083", "127.0.0.1:8083", "[::1]:8083", "localhost"] {
            assert_eq!(check(&guard, "/", &[("host", host)]), None, "{host}");
        }
        assert_eq!(check(&guard, "/", &[("host", "evil.example:8083")]), Some(403));
        let host = ("host", "localhost:8083");
        assert_eq!(check(&guard, "/", &[host, ("origin", "http://evil.example")]), Some(403));
        assert_eq!(check(&guard, "/", &[host, ("origin", "null")]), Some(403));
        assert_eq!(check(&guard, "/", &[host, ("origin", "http://localhost:8083")]), None);
    }

    #[test]
    fn where_others_reach_it_a_token_is_asked_for() {
        let addr = "0.0.0.0:8083".parse().unwrap();
        assert!(Guard::new(addr, None, "--token").is_err());
        assert!(Token::new("short").is_err() && Token::new("0123456789 123456").is_err());
        let guard = Guard::new(addr, Some(Token::new("0123456789abcdef\n").unwrap()), "--token").unwrap();
        let host = ("host", "worker.example:8083");
        assert_eq!(check(&guard, "/connectors", &[host]), Some(401));
        assert_eq!(check(&guard, "/connectors", &[host, ("authorization", "Bearer wrong")]), Some(401));
        assert_eq!(check(&guard, "/connectors", &[host, ("authorization", "Bearer 0123456789abcdef")]), None);
        assert_eq!(check(&guard, "/health", &[host]), None);
    }
}

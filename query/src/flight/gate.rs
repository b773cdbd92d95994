//! Who may ask: with a token those who bear it, or give it as the password of any user; without one everybody who
//! reaches the server.

use std::sync::Arc;

use arrow_flight::HandshakeResponse;
use futures::stream;
use tonic::codegen::http::{HeaderMap, HeaderValue};
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Request, Response, Status};

use super::service::Streamed;

/// Whether this is the token, in a time that does not tell how much of it is right.
pub type IsToken = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Turns away who may not.
pub(super) fn gate(is_token: Option<IsToken>) -> impl Interceptor + Clone + Send + Sync + 'static {
    move |request: Request<()>| {
        let Some(is_token) = &is_token else { return Ok(request) };
        match shown(request.metadata()) {
            Some(shown) if is_token(&shown) => Ok(request),
            _ => Err(Status::unauthenticated(
                "expected the header `authorization: Bearer TOKEN`, or the token as the password of any user",
            )),
        }
    }
}

/// The answer to a handshake that the gate let pass: the token that was shown, to be borne from here on.
pub(super) fn handshake(metadata: &MetadataMap) -> Response<Streamed<HandshakeResponse>> {
    let token = shown(metadata).unwrap_or_default();
    let bearer = format!("Bearer {token}").parse();
    let answer = HandshakeResponse { protocol_version: 0, payload: token.into() };
    let mut response: Response<Streamed<HandshakeResponse>> =
        Response::new(Box::pin(stream::iter([Ok(answer)])));
    if let Ok(bearer) = bearer {
        response.metadata_mut().insert("authorization", bearer);
    }
    response
}

/// What a request shows as its token.
fn shown(metadata: &MetadataMap) -> Option<String> {
    let (scheme, shown) = metadata.get("authorization")?.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(shown.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    // gRPC's own headers of bytes are written in base64, too.
    let mut headers = HeaderMap::new();
    headers.insert("shown-bin", HeaderValue::from_str(shown.trim()).ok()?);
    let decoded = MetadataMap::from_headers(headers).get_bin("shown-bin")?.to_bytes().ok()?;
    let (_, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: Option<&str>) -> bool {
        let mut request = Request::new(());
        if let Some(header) = header {
            request.metadata_mut().insert("authorization", header.parse().unwrap());
        }
        let is_token: IsToken = Arc::new(|shown| shown == "0123456789abcdef");
        gate(Some(is_token)).call(request).is_ok()
    }

    #[test]
    fn a_token_is_borne_or_the_password_of_any_user() {
        assert!(check(Some("Bearer 0123456789abcdef")));
        assert!(check(Some("bearer  0123456789abcdef")));
        // `analyst:0123456789abcdef`
        assert!(check(Some("Basic YW5hbHlzdDowMTIzNDU2Nzg5YWJjZGVm")));
        for wrong in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer 0123456789abcdeg"),
            Some("Basic 0123456789abcdef"),
            Some("Basic ***"),
            Some("Basic YW5hbHlzdA=="),
            Some("Digest 0123456789abcdef"),
        ] {
            assert!(!check(wrong), "{wrong:?}");
        }
    }
}

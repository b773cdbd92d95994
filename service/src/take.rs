//! What handlers take of a request, with faults in the shape of all others, and limits.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, IF_MATCH, IF_NONE_MATCH};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Fault;
use crate::command::Condition;

/// How long a body may take to come.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// What every handler gives.
pub(crate) type Answer = Result<Response, Fault>;

/// An answer in JSON.
pub(crate) fn json<T: Serialize>(status: u16, body: &T) -> Answer {
    let text = serde_json::to_vec(body).map_err(|error| Fault::new(500, error.to_string()))?;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    Ok((status, [(CONTENT_TYPE, "application/json")], text).into_response())
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Answer {
    Ok(status.into_response())
}

/// The names in the path.
pub(crate) struct In<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for In<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(names)) => Ok(Self(names)),
            Err(rejected) => Err(Fault::unknown(rejected.body_text())),
        }
    }
}

/// The query's parameters.
pub(crate) struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        let query = parts.uri.query().unwrap_or("");
        Ok(Self(url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()))
    }
}

impl Query {
    /// All values of a parameter.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool, Fault> {
        match self.text(name) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => Err(Fault::bad(format!("{name}={other}: expected true or false"))),
        }
    }

    pub(crate) fn number(&self, name: &str, default: u64, max: u64) -> Result<u64, Fault> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let wrong = || Fault::bad(format!("{name}={text}: expected a whole number from 1 to {max}"));
        let number = text.parse().map_err(|_| wrong())?;
        if (1..=max).contains(&number) { Ok(number) } else { Err(wrong()) }
    }
}

/// The body as text.
pub(crate) struct Text(pub(crate) String);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fault> {
        let bytes = tokio::time::timeout(BODY_TIME_MAX, Bytes::from_request(request, state)).await;
        let bytes = bytes.map_err(|_| Fault::new(408, "the body did not come in time"))?;
        let bytes = bytes.map_err(|rejected| {
            let status = rejected.status().as_u16();
            match status {
                413 => Fault::new(
                    413,
                    format!("the body is over the limit of {} bytes", crate::server::BODY_BYTES_MAX),
                ),
                _ => Fault::new(status, rejected.body_text()),
            }
        })?;
        if bytes.is_empty() {
            return Err(Fault::bad("the body is missing"));
        }
        let text = String::from_utf8(bytes.into()).map_err(|_| Fault::bad("the body is no UTF-8"))?;
        Ok(Self(text))
    }
}

/// The body as JSON.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fault> {
        let kind = header(request.headers(), &CONTENT_TYPE).unwrap_or("application/json");
        let kind = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        if kind != "application/json" {
            return Err(Fault::new(415, format!("the body is {kind}, expected application/json")));
        }
        let Text(text) = Text::from_request(request, state).await?;
        serde_json::from_str(&text)
            .map(Self)
            .map_err(|error| Fault::bad(format!("the body is not right: {error}")))
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What `If-Match` and `If-None-Match` ask for.
pub(crate) fn condition(headers: &HeaderMap) -> Result<Condition, Fault> {
    Ok(match (header(headers, &IF_MATCH), header(headers, &IF_NONE_MATCH)) {
        (None, None) => Condition::Always,
        (Some("*"), None) => Condition::Present,
        (Some(tags), None) => Condition::Tags(tags.split(',').map(|tag| tag.trim().to_owned()).collect()),
        (None, Some("*")) => Condition::Absent,
        _ => return Err(Fault::bad("expected `If-Match: \"TAG\"` or `If-None-Match: *`, one of them")),
    })
}

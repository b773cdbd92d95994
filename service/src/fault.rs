//! What the API answers when it does not do what was asked: a status, and Kafka Connect's body `{error_code, message}`.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hyper::header::CONTENT_TYPE;
use schemars::JsonSchema;
use serde::Serialize;

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The HTTP status.
    pub status: u16,
    /// For a person.
    pub message: String,
}

impl Fault {
    /// A fault with this status.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// The request can not be meant so.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// There is nothing of that name.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(404, message)
    }

    /// Something stands against it that somebody must change.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(409, message)
    }
}

/// The body of every answer that is no success.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ErrorMessage {
    /// The HTTP status.
    error_code: u16,
    /// What is wrong, and the way out.
    message: String,
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = ErrorMessage { error_code: status.as_u16(), message: self.message };
        // Two plain fields are never refused.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        (status, [(CONTENT_TYPE, "application/json")], body).into_response()
    }
}

/// The answer where no path leads.
pub(crate) async fn no_path() -> Fault {
    Fault::unknown("HTTP 404 Not Found")
}

/// The answer where the path takes other methods.
pub(crate) async fn no_method() -> Fault {
    Fault::new(405, "HTTP 405 Method Not Allowed")
}

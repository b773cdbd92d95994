//! The task of sink `http`: one request after the other, so that rows arrive in their order.

use std::time::Duration;

use reqwest::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue, RETRY_AFTER,
};
use reqwest::{Client, Response, StatusCode, Url};
use sluice_client::SecretKey;
use sluice_connect::batch;
use sluice_connect::task::{Chain, Class, Fates, Slice, TaskError, TransactTask};
use tokio::runtime::Runtime;

use super::request::{batches, key, unfit};
use super::{HttpConfig, is_local};
use crate::sink::Sink as _;
use crate::stored::{RowId, StoredRows, row_ids};
use crate::topic::Rows;

/// What is read of an answer for a person, in bytes.
const TOLD_BYTES: usize = 1024;
/// What is read of an answer so that its connection can be used again, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// The longest that a receiver which is busy is left alone here; the runtime waits longer, and longer each time.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Names the rows of a request.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Sends rows.
pub(super) struct HttpSink {
    settings: HttpConfig,
    runtime: Runtime,
    client: Client,
    url: Url,
    shown: String,
    stored: StoredRows,
}

impl HttpSink {
    /// Opens no connection yet.
    pub(super) fn new(settings: &HttpConfig) -> Result<Self, TaskError> {
        let shown = settings.shown();
        let refused = |what: &str| TaskError::new(Class::Config, format!("{shown}: {what}"));
        let url = settings.url().map_err(|problem| refused(&problem))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.headers {
            let (name, value) = HttpConfig::header(name, value).map_err(|problem| refused(&problem))?;
            headers.insert(name, value);
        }
        if let Some(token) = &settings.token {
            let value =
                bearer(token).map_err(|e| refused("the token can not stand in a header").because(e))?;
            headers.insert(AUTHORIZATION, value);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(settings.format.content_type()));
        let timeout = settings.timeout.0;
        let mut builder = Client::builder()
            .timeout(timeout)
            .connect_timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .default_headers(headers)
            .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")));
        if is_local(&url) {
            // A proxy would carry it off this machine.
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|e| refused("cannot make a client").because(e))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| TaskError::io("cannot start a runtime", e))?;
        Ok(Self { settings: settings.clone(), runtime, client, url, shown, stored: StoredRows::default() })
    }

    /// Sends a body that holds `count` rows.
    fn send(&self, key: &str, body: Vec<u8>, count: usize) -> Result<(), TaskError> {
        self.runtime.block_on(async {
            let failed = |e: reqwest::Error| self.failed(e);
            let request = self.client.post(self.url.clone()).header(IDEMPOTENCY_KEY, key).body(body);
            let mut response = request.send().await.map_err(failed)?;
            let status = response.status();
            if status.is_success() {
                // The rows are there, whatever becomes of the rest of the answer.
                let mut left = ANSWER_BYTES_MAX;
                while let Ok(Some(chunk)) = response.chunk().await {
                    left = left.saturating_sub(chunk.len());
                    if left == 0 {
                        break;
                    }
                }
                return Ok(());
            }
            Err(self.refused(status, response, count).await)
        })
    }

    fn failed(&self, error: reqwest::Error) -> TaskError {
        let error = error.without_url();
        let shown = &self.shown;
        if error.is_timeout() {
            let message = format!("{shown}: no answer within {:?}", self.settings.timeout.0);
            return TaskError::new(Class::Retry, message);
        }
        if error.is_builder() {
            return TaskError::new(Class::Config, format!("{shown}: cannot be made")).because(error);
        }
        let what = if error.is_connect() { "cannot connect" } else { "the connection was lost" };
        TaskError::new(Class::Retry, format!("{shown}: {what}")).because(error)
    }

    /// Why a receiver took nothing.
    async fn refused(&self, status: StatusCode, mut response: Response, count: usize) -> TaskError {
        let pause = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let pause = Duration::from_secs(pause.unwrap_or(0)).min(PAUSE_MAX);
        let mut told = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            told.extend_from_slice(chunk.get(..TOLD_BYTES.min(chunk.len())).unwrap_or_default());
            if told.len() >= TOLD_BYTES {
                told.truncate(TOLD_BYTES);
                break;
            }
        }
        let told = String::from_utf8_lossy(&told);
        let told = match told.trim() {
            "" => String::new(),
            told => format!(": {}", shown(told)),
        };
        let to = &self.shown;
        let rows = if count == 1 { "a row".to_owned() } else { format!("{count} rows") };
        match status {
            _ if is_passing(status) => {
                tokio::time::sleep(pause).await;
                TaskError::new(Class::Retry, format!("{to} are answered with {status}{told}"))
            }
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                TaskError::new(Class::Record, format!("{to}: {rows} refused with {status}{told}"))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let message = format!("{to} are answered with {status}: look at `token` and `headers`{told}");
                TaskError::new(Class::Config, message)
            }
            _ if status.is_redirection() => {
                let message =
                    format!("{to} are answered with {status}: write the URL that it leads to{told}");
                TaskError::new(Class::Config, message)
            }
            _ => {
                let message = format!("{to} are answered with {status}: look at `url`{told}");
                TaskError::new(Class::Config, message)
            }
        }
    }
}

/// Whether the same request may be taken later.
fn is_passing(status: StatusCode) -> bool {
    let is_busy =
        [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS].contains(&status);
    is_busy || status.is_server_error()
}

fn bearer(SecretKey(token): &SecretKey) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// What a receiver says, so that it steers no terminal.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What a run finds, for a person; sends no row.
pub(super) fn check(settings: &HttpConfig) -> Result<String, TaskError> {
    let sink = HttpSink::new(settings)?;
    let asked = sink.runtime.block_on(async { sink.client.head(sink.url.clone()).send().await });
    // What it answers to such a request says nothing of those with rows, unless it does not let us in.
    match asked.map_err(|e| sink.failed(e))?.status() {
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            let message = format!("{} are answered with {status}: look at `token` and `headers`", sink.shown);
            Err(TaskError::new(Class::Config, message))
        }
        _ => Ok(format!("{} are answered: at_least_once", sink.shown)),
    }
}

impl TransactTask for HttpSink {
    fn unfit(&self, slice: &Slice) -> Vec<(usize, String)> {
        let rows = Rows::new(&slice.envelope);
        (0..slice.envelope.num_rows()).filter_map(|row| Some((row, unfit(rows.body(row))?))).collect()
    }

    fn commit(
        &mut self,
        chain: &Chain,
        _incarnation: &str,
        slice: &Slice,
        _: &Fates,
    ) -> Result<(), TaskError> {
        let rows = Rows::new(&slice.envelope);
        let offsets = batch::offsets(&slice.envelope);
        let left: Vec<(usize, RowId)> =
            row_ids(offsets).enumerate().filter(|(_, place)| !self.stored.has(chain, *place)).collect();
        let mut sent: Vec<RowId> = Vec::new();
        for batch in batches(&self.settings.batch, left.into_iter(), |row| rows.body(row).len()) {
            let body = self.settings.format.body(batch.rows.iter().map(|(row, _)| rows.body(*row)));
            if let Err(error) = self.send(&key(chain, &batch), body, batch.rows.len()) {
                self.stored.add(chain, sent);
                return Err(error);
            }
            sent.extend(batch.rows.iter().map(|(_, place)| place));
        }
        self.stored.forget(chain, slice.range.end);
        Ok(())
    }

    /// A receiver keeps what it answered for, or not.
    fn secure(&mut self) -> Result<(), TaskError> {
        Ok(())
    }

    fn keeps_positions(&self) -> bool {
        false
    }
}

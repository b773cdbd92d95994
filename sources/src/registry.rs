//! Client of a schema registry with Confluent's paths: the schema of an id, and those that it names.
//!
//! Blocks the thread that asks, as a task may. Keeps nothing; the decoder keeps what it asked for.

use std::collections::HashSet;
use std::time::Duration;

use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sluice_connect::config::Registry;
use sluice_connect::task::{Class, TaskError};
use sluice_connect::worker::chain_of_causes;
use sluice_formats::avro::{Lookup, LookupError, REFERENCES_MAX, Registered, SCHEMA_BYTES_MAX};
use tokio::runtime::Runtime;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// An answer, in bytes: the schema with its quotes escaped.
const ANSWER_BYTES_MAX: usize = 2 * SCHEMA_BYTES_MAX + 64 * 1024;

/// One registry.
pub struct RegistryClient {
    runtime: Runtime,
    client: Client,
    url: Url,
    shown: String,
    login: Option<(String, Option<String>)>,
}

/// What is under an id, or a version of a subject.
#[derive(Deserialize)]
struct Answer {
    schema: String,
    #[serde(default, rename = "schemaType")]
    kind: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
}

#[derive(Clone, Deserialize)]
struct Reference {
    subject: String,
    version: i64,
}

impl RegistryClient {
    /// Opens no connection yet.
    pub fn new(settings: &Registry) -> Result<Self, TaskError> {
        let shown = settings.url.as_str().to_owned();
        let refused = |what: &str| TaskError::new(Class::Config, format!("schema registry {shown}: {what}"));
        let url = Url::parse(&shown).map_err(|e| refused("no URL").because(e))?;
        let mut builder = Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(TIMEOUT / 2)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")));
        if settings.url.is_local() {
            // A proxy would carry it off this machine.
            builder = builder.no_proxy();
        } else {
            builder = builder.https_only(true);
        }
        let client = builder.build().map_err(|e| refused("cannot make a client").because(e))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| TaskError::io("cannot start a runtime", e))?;
        let login = settings.user.clone().map(|user| (user, settings.password.clone()));
        Ok(Self { runtime, client, url, shown, login })
    }

    /// The client as the decoder takes it.
    pub fn into_lookup(self) -> Lookup {
        Box::new(move |id| self.schema(id))
    }

    /// Whether it answers, and knows us.
    pub fn check(&self) -> Result<(), TaskError> {
        match self.get::<Vec<String>>(&["schemas", "types"]) {
            // Some registries do not have this path, and answered all the same.
            Ok(_) | Err(Failure::Missing) => Ok(()),
            Err(Failure::Other(error)) => {
                Err(TaskError::new(Class::Config, format!("schema registry {}", self.shown)).because(error))
            }
        }
    }

    fn schema(&self, id: u32) -> Result<Registered, LookupError> {
        let unusable = |why: String| LookupError::Unusable { id, why };
        let answer: Answer = match self.get(&["schemas", "ids", &id.to_string()]) {
            Ok(answer) => answer,
            Err(Failure::Missing) => return Err(unusable("is not in the schema registry".to_owned())),
            Err(Failure::Other(error)) => return Err(error),
        };
        if let Some(kind) = answer.kind.filter(|kind| kind != "AVRO") {
            return Err(unusable(format!("is a schema of {kind}, expected Avro")));
        }
        // Depth first, so that each comes before those that name it.
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        let mut open: Vec<(Option<String>, Vec<Reference>)> = vec![(None, answer.references)];
        while let Some((schema, mut references)) = open.pop() {
            let Some(next) = references.pop() else {
                found.extend(schema);
                continue;
            };
            open.push((schema, references));
            if !seen.insert((next.subject.clone(), next.version)) {
                continue;
            }
            if seen.len() > REFERENCES_MAX {
                return Err(unusable(format!("names more than {REFERENCES_MAX} other schemas")));
            }
            let path = ["subjects", &next.subject, "versions", &next.version.to_string()];
            match self.get::<Answer>(&path) {
                Ok(answer) => open.push((Some(answer.schema), answer.references)),
                Err(Failure::Missing) => {
                    return Err(unusable(format!(
                        "names version {} of `{}`, which the registry does not have",
                        next.version, next.subject
                    )));
                }
                Err(Failure::Other(error)) => return Err(error),
            }
        }
        Ok(Registered { schema: answer.schema, references: found })
    }

    fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Failure> {
        let mut url = self.url.clone();
        url.path_segments_mut()
            .map_err(|()| self.refused("the URL has no path".to_owned()))?
            .pop_if_empty()
            .extend(path);
        self.runtime.block_on(async {
            let mut request = self
                .client
                .get(url)
                .header("Accept", "application/vnd.schemaregistry.v1+json, application/json");
            if let Some((user, password)) = &self.login {
                request = request.basic_auth(user, password.as_ref());
            }
            let failed = |e: reqwest::Error| self.unavailable(&chain_of_causes(&e.without_url()));
            let mut response = request.send().await.map_err(failed)?;
            let status = response.status();
            match status {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Err(Failure::Missing),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    return Err(self.refused(format!("answers {status}: look at `user` and `password`")));
                }
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                    return Err(self.unavailable(&format!("answers {status}")));
                }
                other if other.is_server_error() => {
                    return Err(self.unavailable(&format!("answers {status}")));
                }
                _ => return Err(self.refused(format!("answers {status}"))),
            }
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(failed)? {
                if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                    return Err(self.refused(format!("answers more than {ANSWER_BYTES_MAX} bytes")));
                }
                body.extend_from_slice(&chunk);
            }
            serde_json::from_slice(&body)
                .map_err(|e| self.refused(format!("answers what is no answer of a schema registry: {e}")))
        })
    }

    fn unavailable(&self, why: &str) -> Failure {
        Failure::Other(LookupError::Unavailable(format!("schema registry {}: {why}", self.shown)))
    }

    fn refused(&self, why: String) -> Failure {
        Failure::Other(LookupError::Refused(format!("schema registry {} {why}", self.shown)))
    }
}

enum Failure {
    /// There is no such path, id, subject or version.
    Missing,
    Other(LookupError),
}

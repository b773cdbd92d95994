//! Settings of source `file`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_connect::config::Span;
use sluice_connect::task::{Class, SourceTask, TaskError};
use sluice_protocol::message;

use super::FileSource;
use super::follow::FollowSource;
use crate::source::{Beside, Source};
use crate::{KeyProblem, at};

/// Settings of source `file`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// A path, or a pattern with `*`, `?`, `[…]` and `**`. It must match, unless files are followed; what it matches must
    /// be readable.
    pub path: String,
    /// What stands in the files.
    pub format: FileFormat,
    /// CSV fields with this text are null; `[""]` if not given. An empty field in quotes is empty too.
    #[serde(default)]
    pub nulls: Option<Vec<String>>,
    /// Columns that become properties of the same name; a null is no property.
    #[serde(default)]
    pub properties: Vec<String>,
    /// Columns whose values, joined by one blank, become the keys.
    #[serde(default)]
    pub keys: Vec<String>,
    /// The column that becomes the tag.
    #[serde(default)]
    pub tag: Option<String>,
    /// Whether files are followed: what is appended, rotation, and new files that the pattern matches. Without it each
    /// file is read once.
    #[serde(default)]
    pub follow: bool,
    /// Where a followed file begins that was never read before: those that appear later always begin at their
    /// beginning. `beginning` if not given.
    #[serde(default)]
    pub start: Option<FileStart>,
    /// How often followed files are looked at, from `10ms` to `1h`; `500ms` if not given.
    #[serde(default)]
    pub poll: Option<Span>,
    /// How long a file that was rotated away must be quiet before the next one is read, up to `1h`; `5s` if not given.
    #[serde(default)]
    pub rotate_wait: Option<Span>,
    /// What happens where the rest of a followed file can not be found. `block` if not given.
    #[serde(default)]
    pub on_lost: Option<OnLost>,
}

/// Where a followed file begins that was never read before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileStart {
    /// At its first record.
    #[default]
    Beginning,
    /// After its last whole line.
    End,
}

/// What happens where the rest of a followed file can not be found: it was cut without a copy beside it, or it was removed
/// or replaced while nobody read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnLost {
    /// The pipeline ends, blocked, and says which records may be lost.
    #[default]
    Block,
    /// A warning says so, and reading goes on with the file of that name that is there.
    Continue,
}

/// The times between two looks that can be asked for.
const POLL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_hours(1));
/// The longest quiet time after a rotation.
const ROTATE_WAIT_MAX: Duration = Duration::from_hours(1);

/// What stands in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    /// Comma-separated values with a header.
    Csv,
    /// One JSON object a line.
    Ndjson,
}

impl Source for FileConfig {
    fn problems(&self) -> Vec<KeyProblem> {
        self.problem().map(|(key, problem)| (at(key), problem)).into_iter().collect()
    }

    fn open(&self, beside: Beside<'_>) -> Result<Box<dyn SourceTask>, TaskError> {
        let stop = Arc::clone(beside.stop);
        Ok(match self.follow {
            true => Box::new(FollowSource::new(self.clone(), stop)),
            false => Box::new(FileSource::new(self.clone()).with_stop(stop)),
        })
    }

    fn no_way_back(&self) -> Option<&'static str> {
        self.follow.then_some("files that are followed may be gone by then")
    }

    fn begins_at_end(&self) -> bool {
        self.start == Some(FileStart::End)
    }

    fn properties(&self) -> Option<Vec<String>> {
        Some(self.properties.clone())
    }
}

impl FileConfig {
    /// What is wrong with the settings as far as they alone can tell, with the key; touches no file.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        if let Err(e) = glob::Pattern::new(&self.path) {
            let at = e.pos + 1;
            return Some((
                "path",
                format!("pattern `{}` is not valid at character {at}: {}", self.path, e.msg),
            ));
        }
        if self.format == FileFormat::Ndjson && self.nulls.is_some() {
            return Some(("nulls", "`nulls` is for format csv; NDJSON has a null of its own".to_owned()));
        }
        if let Some(problem) = self.problem_of_following() {
            return Some(problem);
        }
        for (list, columns) in [("properties", &self.properties), ("keys", &self.keys)] {
            let mut seen = HashSet::new();
            if let Some(column) = columns.iter().find(|column| !seen.insert(*column)) {
                return Some((list, format!("`{list}` has `{column}` twice")));
            }
        }
        // Such a property would not come back from a topic.
        let column = self.properties.iter().find(|column| message::is_reserved(column))?;
        Some((
            "properties",
            format!("`{column}` is a property with a meaning of its own; see `keys` and `tag`"),
        ))
    }

    fn problem_of_following(&self) -> Option<(&'static str, String)> {
        let given = [
            ("start", self.start.is_some()),
            ("poll", self.poll.is_some()),
            ("rotate_wait", self.rotate_wait.is_some()),
            ("on_lost", self.on_lost.is_some()),
        ];
        if let Some((key, _)) = given.into_iter().find(|(_, given)| *given && !self.follow) {
            return Some((key, format!("`{key}` is for files that are followed: add `follow: true`")));
        }
        if let Some(Span(poll)) = self.poll
            && !(POLL.0..=POLL.1).contains(&poll)
        {
            return Some(("poll", format!("{poll:?}, expected 10ms to 1h")));
        }
        let Span(wait) = self.rotate_wait.filter(|wait| wait.0 > ROTATE_WAIT_MAX)?;
        Some(("rotate_wait", format!("{wait:?}, expected at most 1h")))
    }

    /// Time between two looks at followed files.
    pub(super) fn poll(&self) -> Duration {
        self.poll.map_or(Duration::from_millis(500), |poll| poll.0)
    }

    /// Quiet time after a rotation.
    pub(super) fn rotate_wait(&self) -> Duration {
        self.rotate_wait.map_or(Duration::from_secs(5), |wait| wait.0)
    }

    /// [`FileConfig::problem`] as an error.
    pub fn check(&self) -> Result<(), TaskError> {
        self.problem().map_or(Ok(()), |(_, message)| Err(TaskError::new(Class::Config, message)))
    }

    /// Columns that become properties, keys or tag, each once.
    pub(super) fn columns(&self) -> Vec<String> {
        let mut seen = HashSet::new();
        let all = self.properties.iter().chain(&self.keys).chain(&self.tag);
        all.filter(|column| seen.insert(*column)).cloned().collect()
    }
}

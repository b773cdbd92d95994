//! Settings of source `file`.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_connect::task::{Class, TaskError};
use sluice_protocol::message;

/// Settings of source `file`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// A path, or a pattern with `*`, `?`, `[…]` and `**`. It must match, and what it matches must be readable.
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
}

/// What stands in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    /// Comma-separated values with a header.
    Csv,
    /// One JSON object a line.
    Ndjson,
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

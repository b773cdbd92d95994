//! The plan: one contiguous range of one queue that is published as one, and the order of its steps.

use arrow::datatypes::Schema;
use serde::{Deserialize, Serialize};

use crate::config::hash;

use crate::task::Fates;

/// What a plan calls a schema by.
pub fn schema_hash(schema: &Schema) -> String {
    hash(serde_json::to_string(schema).unwrap_or_default().as_bytes())
}

/// One file of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanFile {
    /// Path below the target's folder.
    pub name: String,
    /// Partition columns with their values, in the order of the config; `None` is null.
    pub partition: Vec<(String, Option<String>)>,
    /// Queue offset of its first row.
    pub first: i64,
    /// Queue offset of its last row, inclusive.
    pub last: i64,
    /// Rows in it.
    pub rows: u64,
    /// What it holds, if its format has no footer that could say to which plan it belongs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextSum>,
}

/// What proves a file of text: all of it, before it is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSum {
    /// Its length, in bytes.
    pub bytes: u64,
    /// Its CRC-32, as of gzip.
    pub crc32: u32,
}

/// What one publication holds; stored as JSON in the target, put if absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// First queue offset; the plan's name.
    pub start: i64,
    /// First queue offset after it.
    pub end: i64,
    /// Its files; none if no row was written.
    pub files: Vec<PlanFile>,
    /// Its offsets by fate; they sum up to `end - start`.
    pub fates: Fates,
    /// Rows in its files, where they are more than its offsets that were written: a step made several of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Hash of the pipeline's config text.
    pub config: String,
    /// Hash of the pipeline's schema.
    pub schema: String,
    /// The source topic's incarnation.
    pub incarnation: String,
    /// When the decision was made, in ms since 1970-01-01 UTC; the time of `now()` in every run of it.
    pub decided_ms: i64,
}

//! The steps of a pipeline as a person writes them, in a file of its own beside the document's: plain data.

use serde::Deserialize;

use super::Expression;

/// A step after decoding.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Rows for which this is not TRUE are left out.
    Where(Expression),
}

//! Where in a body a value stands that does not fit, and why it does not.

use std::fmt::Write;

/// One step from a value inwards.
#[derive(Debug)]
pub(crate) enum Step {
    Field(String),
    Item(usize),
    Key(String),
}

/// The path of steps that were gathered from the inside out: `$.legs[3].gate`.
pub(crate) fn written(steps: impl DoubleEndedIterator<Item = Step>) -> String {
    let mut text = String::from("$");
    for step in steps.rev() {
        // Writing to a String can't fail.
        let _ = match step {
            Step::Item(index) => write!(text, "[{index}]"),
            Step::Field(name) if is_plain(&name) => write!(text, ".{name}"),
            Step::Field(name) | Step::Key(name) => write!(text, "[{}]", clipped(&format!("{name:?}"))),
        };
    }
    text
}

/// A value that does not fit its column. The path is gathered while the error passes upwards, so that rows that
/// fit do not pay for it.
#[derive(Debug)]
pub(crate) struct Misfit {
    reason: String,
    path: Vec<Step>,
    /// A wider schema may take the row: it has a field without a column, or a number beyond its column.
    pub(crate) wider: bool,
}

impl Misfit {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), path: Vec::new(), wider: false }
    }

    pub(crate) fn no_column(name: &str) -> Self {
        Self { wider: true, ..Self::new(NO_COLUMN).at(Step::Field(name.to_owned())) }
    }

    pub(crate) fn or_wider(self) -> Self {
        Self { wider: true, ..self }
    }

    pub(crate) fn of_any_schema(self) -> Self {
        Self { wider: false, ..self }
    }

    pub(crate) fn at(mut self, step: Step) -> Self {
        self.path.push(step);
        self
    }

    /// Path and reason.
    pub(crate) fn into_text(self) -> String {
        format!("{}: {}", written(self.path.into_iter()), self.reason)
    }
}

/// The reason of a field without a column.
pub(crate) const NO_COLUMN: &str = "the schema has no such field";

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// At most 64 characters of a value, for a reason.
pub(crate) fn clipped(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

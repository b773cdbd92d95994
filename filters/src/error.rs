//! What can be wrong with an expression, and where in its text.

use std::ops::Range;

use arrow::error::ArrowError;

use crate::Name;

/// What is wrong with an expression, with the place in its text.
#[derive(Debug, thiserror::Error)]
#[error("{}{problem}", place(*.line, *.column))]
pub struct Error {
    /// What is wrong.
    #[source]
    pub problem: Box<Problem>,
    /// The place in bytes of the text; empty at the text's end.
    pub span: Range<usize>,
    /// Line of the place, from 1.
    pub line: usize,
    /// Column of the place in characters, from 1.
    pub column: usize,
    /// The line of the place.
    line_text: Box<str>,
}

/// The kinds of [`Error`].
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message names its fields and their units")]
pub enum Problem {
    /// The text is no expression.
    #[error("expected {expected}, found {found}")]
    Syntax { expected: &'static str, found: String },
    /// A quoted text, a quoted name or a comment never ends.
    #[error("{what} that starts here has no end")]
    Unclosed { what: &'static str },
    /// SQL, but not of this dialect.
    #[error("{what} is not part of this dialect{hint}")]
    Unsupported { what: String, hint: &'static str },
    /// A limit that keeps the work bounded.
    #[error("{what} exceeds the limit of {max}")]
    Limit { what: &'static str, max: usize },
    /// A number that no double can hold.
    #[error("number {text} is out of range")]
    OutOfRange { text: String },
    /// A `LIKE` pattern whose escapes make no sense.
    #[error("bad pattern: {reason}")]
    Pattern { reason: &'static str },
    /// Nothing has this name.
    #[error("there is no {name}")]
    UnknownName { name: Name },
    /// The types on both sides can never be compared like this.
    #[error("{name} is {found}, which {reason}")]
    Mismatch { name: Name, found: String, reason: &'static str },
    /// Two names whose types never compare.
    #[error("{left} is {left_type} and {right} is {right_type}, which never compare")]
    Incomparable { left: Name, left_type: String, right: Name, right_type: String },
    /// A computed value can never be compared like this, or is always null.
    #[error("{reason}")]
    Unfit { reason: &'static str },
    /// The caller resolved a name to a column of another length.
    #[error("column of {name} has {found} rows instead of {expected}")]
    Rows { name: Name, found: usize, expected: usize },
    /// A kernel refused.
    #[error("cannot evaluate over columns")]
    Evaluate {
        #[from]
        source: ArrowError,
    },
}

impl Error {
    pub(crate) fn new(text: &str, span: Range<usize>, problem: Problem) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_text = text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default().into();
        Self { problem: Box::new(problem), span, line, column, line_text }
    }

    /// The line of the place, a caret under the place, and what is wrong with its hint; no line end behind.
    /// A long line is cut around the place.
    pub fn render(&self) -> String {
        format!("{}\n{}", self.pointer(), self.problem)
    }

    /// The first two lines of [`Error::render`].
    pub fn pointer(&self) -> String {
        const BEFORE_MAX: usize = 60;
        const SHOWN_MAX: usize = 100;
        let skipped = (self.column - 1).saturating_sub(BEFORE_MAX);
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let shown: String = self.line_text.chars().skip(skipped).take(SHOWN_MAX).map(plain).collect();
        let before = self.column - 1 - skipped;
        let place = self.line_text.chars().skip(self.column - 1).take(SHOWN_MAX - before);
        let mut bytes = self.span.len();
        let carets = place.take_while(|c| {
            let inside = bytes > 0;
            bytes = bytes.saturating_sub(c.len_utf8());
            inside
        });
        let carets = "^".repeat(carets.count().max(1));
        format!("{shown}\n{}{carets}", " ".repeat(before))
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> String {
        self.problem.to_string()
    }
}

fn place(line: usize, column: usize) -> String {
    if line > 1 { format!("line {line}, column {column}: ") } else { format!("column {column}: ") }
}

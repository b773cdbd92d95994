//! Where RocketMQ's engine reads an expression otherwise than SQL does.

use std::ops::Range;

/// A place that a person should know about; the filter works, and does what is said here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The place, in bytes of the text.
    pub span: Range<usize>,
    /// Which of the engine's ways it is.
    pub quirk: Quirk,
    /// What the place means, in plain words: lower case, no full stop.
    pub text: String,
}

/// The engine's ways that differ from SQL's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Quirk {
    /// Text after the complete expression is not read.
    Ignored,
    /// `NOT` binds tighter than a comparison.
    TightNot,
    /// Two missing values are equal, and one on the right is different instead of unknown.
    MissingEqual,
    /// A text that is no number of the literal's type ends the whole evaluation.
    WholeNumber,
    /// As [`Quirk::WholeNumber`], by Java's reader of doubles.
    Double,
    /// TRUE and FALSE against text.
    TruthText,
    /// TRUE and FALSE against a number are never equal.
    TruthNumber,
    /// A property as a condition is never TRUE.
    BareProperty,
    /// `CONTAINS` and the like are FALSE for a missing property, negated too.
    SearchMissing,
    /// An empty part is in no text.
    EmptyPart,
    /// Two properties are ordered as numbers, never as text.
    PropertyOrder,
    /// Minus before what is no number is null.
    Minus,
    /// Two minus signs that look like a comment.
    MinusMinus,
    /// A comparison as an operand of another.
    Chain,
    /// A whole number against a decimal is rounded.
    Rounded,
}

impl Quirk {
    /// Whether the words themselves are read otherwise, or only some values make a difference.
    pub fn is_about_values(self) -> bool {
        matches!(
            self,
            Self::MissingEqual
                | Self::WholeNumber
                | Self::Double
                | Self::TruthText
                | Self::SearchMissing
                | Self::Rounded
        )
    }
}

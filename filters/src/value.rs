//! Values and answers as an evaluation by row sees them.

use std::ops::Not;

/// What an expression says of a row. A row passes exactly if it is [`Verdict::True`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The row does not pass.
    False,
    /// The row passes.
    True,
    /// Neither: something is missing.
    Unknown,
    /// Dialect `rocketmq` alone: the engine ends the evaluation with an error, whatever else the expression
    /// says, and the row does not pass.
    Failed,
}

impl Verdict {
    /// Whether the row passes.
    pub fn passes(self) -> bool {
        self == Self::True
    }

    /// Three-valued: a failed evaluation is UNKNOWN, as it is to who asks from outside.
    pub fn known(self) -> Option<bool> {
        match self {
            Self::True => Some(true),
            Self::False => Some(false),
            Self::Unknown | Self::Failed => None,
        }
    }
}

impl From<bool> for Verdict {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

impl From<Option<bool>> for Verdict {
    fn from(value: Option<bool>) -> Self {
        value.map_or(Self::Unknown, Self::from)
    }
}

impl Not for Verdict {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            other => other,
        }
    }
}

/// One value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Scalar<'a> {
    /// There is none.
    Null,
    /// Not known here: every test of it is UNKNOWN, `IS NULL` too.
    Unknown,
    /// Text; every property is.
    Text(&'a str),
    /// TRUE or FALSE.
    Truth(bool),
    /// A whole number of 32 bits.
    Int(i32),
    /// A whole number of 64 bits.
    Long(i64),
    /// Any other number.
    Double(f64),
    /// A time, in ns since 1970-01-01 UTC.
    Time(i128),
    /// A length of time, in ns.
    Interval(i128),
    /// Something that only `IS NULL` can be asked of.
    Other,
}

impl Scalar<'_> {
    /// A time in ms since 1970-01-01 UTC.
    pub fn millis(at: i64) -> Self {
        Self::Time(i128::from(at) * 1_000_000)
    }
}

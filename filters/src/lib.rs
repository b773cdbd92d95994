//! Which rows a consumer or a pipeline wants: expressions, compiled once, evaluated by row or by column.
//!
//! Never reads a message or a batch by itself: callers say what a name stands for. A bare name is a
//! property, `$name` an envelope column, `$.a.b` a field of the decoded body, with no falling through from
//! one to the other; `"any name"` in double quotes is a property, and `$."any name"` a field.
//!
//! # What an expression of dialect `sluice` means
//!
//! Standard SQL with three-valued logic; a row passes exactly if the whole is TRUE. A missing property and
//! a null are the same, and every test of them but `IS NULL` is UNKNOWN.
//!
//! | expression | meaning |
//! |---|---|
//! | `= <> != < <= > >=`, `[NOT] BETWEEN`, `[NOT] IN` | comparisons, see below; bounds in the wrong order hold nothing |
//! | `[NOT] LIKE`, `[NOT] ILIKE`, `ESCAPE` | `%` any run, `_` one code point; without `ESCAPE` all else is itself |
//! | `[NOT] CONTAINS`, `STARTSWITH`, `ENDSWITH` | part of the text, case-sensitive; each text has the empty one |
//! | `IS [NOT] NULL`, `TRUE`, `FALSE`, `UNKNOWN` | never UNKNOWN itself |
//! | `NOT`, `AND`, `OR`, parentheses | loosest last; a name alone is a condition, see truth values |
//! | `+ - * / %`, signs | exact in 64 bits, beyond that by doubles; UNKNOWN where there is no result, as for `x / 0`; `5 / 2` is 2.5 |
//! | `x || y` | the texts one after the other; null if one is |
//! | `lower upper length coalesce` | of text, `length` in code points; the first that is not null |
//! | `regexp_like(x, 'pattern')` | some part of the text matches; linear time |
//! | `CAST(x AS BIGINT)`, `DOUBLE`, `TEXT`, `BOOLEAN`, `TIMESTAMP` | null for what does not convert; `BIGINT` cuts the fraction off; times and lengths of time count in milliseconds |
//! | `TIMESTAMP '2013-01-31T12:00:00Z'`, `DATE '2013-01-31'`, `INTERVAL '5' MINUTE`, `INTERVAL '1 day 2 hours'` | times in UTC, and lengths of time from milliseconds to weeks |
//!
//! Properties are text, and what they are compared with says what they count as:
//!
//! - **A number**: any decimal form (`5`, `5.0`, `+5`, ` 5 `, `5e0`). A text that is none is UNKNOWN, and so
//!   is NaN, which is a double but no number. Whole values of 64 bits compare exactly, also with decimals
//!   and doubles; all else compares as the nearest double. `-0.0` is 0.
//! - **Text**, or another property: by code point.
//! - **TRUE or FALSE**: `true` and `false` in any case; other text is UNKNOWN. So is a name alone.
//!
//! Envelope columns and fields have their Arrow type. A timestamp compares with milliseconds since 1970 and
//! with text in RFC 3339. A comparison that can never work for a column's type is an error of
//! [`Filter::check`].

#![expect(clippy::doc_markdown, reason = "RocketMQ is a name, not code")]

mod column;
mod dialect;
mod engine;
mod error;
mod evaluate;
mod explain;
mod expr;
mod like;
mod notice;
mod number;
mod plan;
mod properties;
mod row;
mod steps;
mod time;
mod types;
mod value;
mod value_expression;
mod values;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

pub use crate::error::{Error, Problem};
pub use crate::explain::{Explain, Line, Warning};
use crate::expr::{Condition, Literal, Test, Value};
pub use crate::notice::{Notice, Quirk};
use crate::plan::Plan;
use crate::properties::Layout;
pub use crate::value::{Scalar, Verdict};
pub use crate::value_expression::ValueExpression;

/// The language that an expression is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// Standard SQL over properties, envelope columns and fields.
    Sluice,
    /// The language of RocketMQ's own filter, exactly as its engine reads it, for subscriptions of its
    /// clients; see [`Filter::notices`]. All names are properties.
    RocketMq,
}

/// What an expression names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// A property.
    Property(String),
    /// An envelope column, without its `$`.
    Envelope(String),
    /// A field of the decoded body, from the outside in.
    Field(Vec<String>),
}

/// Writes the name as an expression does.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let write = |f: &mut fmt::Formatter<'_>, name: &str| {
            if dialect::is_plain_name(name) {
                f.write_str(name)
            } else {
                write!(f, "\"{}\"", name.replace('"', "\"\""))
            }
        };
        match self {
            Self::Property(name) => write(f, name),
            Self::Envelope(name) => write!(f, "${name}"),
            Self::Field(path) => {
                f.write_str("$")?;
                path.iter().try_for_each(|field| {
                    f.write_str(".")?;
                    write(f, field)
                })
            }
        }
    }
}

/// A compiled expression; a clone shares it.
#[derive(Clone, Debug)]
pub struct Filter {
    compiled: Arc<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    text: Arc<str>,
    /// By slot. Halves of a split share the slots and leave some unused.
    slots: Arc<[Name]>,
    names: BTreeSet<Name>,
    condition: Condition,
    /// By slot: whether its texts are compared with numbers more than once.
    reused: Vec<bool>,
    /// Where the slots' values lie in encoded properties.
    layout: Layout,
    /// The condition for encoded properties, if it can have one.
    plan: Option<Plan>,
    /// Whether no slot needs anything else.
    only_properties: bool,
    dialect: Dialect,
    notices: Vec<Notice>,
}

impl Filter {
    /// Compiles a text. Bounded: 64 KiB of text, 128 levels of nesting (1,000 in dialect `rocketmq`), 10,000
    /// terms, 10,000 members in a list, 4 KiB in a pattern. All of the text must be the expression, but in
    /// dialect `rocketmq`.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Self, Error> {
        let (condition, slots, notices) = match dialect {
            Dialect::Sluice => {
                let tree = dialect::sluice::parse(text)?;
                let (condition, slots) = expr::compile(text, &tree)?;
                (condition, slots, Vec::new())
            }
            Dialect::RocketMq => {
                let parsed = dialect::rocketmq::parse(text)?;
                (parsed.condition, parsed.names, parsed.notices)
            }
        };
        Ok(Self::new(text.into(), slots.into(), condition.flat(), dialect, notices))
    }

    fn new(
        text: Arc<str>,
        slots: Arc<[Name]>,
        condition: Condition,
        dialect: Dialect,
        notices: Vec<Notice>,
    ) -> Self {
        let mut names = BTreeSet::new();
        let mut numeric = vec![0u32; slots.len()];
        let mut count = |value: &Value| {
            if let Value::Slot(slot) = value
                && let Some(uses) = numeric.get_mut(*slot)
            {
                *uses += 1;
            }
        };
        condition.visit(&mut |term| {
            names.extend(term.slots().filter_map(|slot| slots.get(slot).cloned()));
            match &term.test {
                Test::Compare(_, Literal::Number(_)) => count(&term.value),
                Test::In(members) if !members.numbers.is_empty() => count(&term.value),
                _ => {}
            }
        });
        let reused = numeric.into_iter().map(|uses| uses > 1).collect();
        let layout = Layout::new(&slots);
        let only_properties = slots.iter().all(|name| matches!(name, Name::Property(_)));
        let plan = Some(&condition).filter(|_| only_properties).and_then(Plan::new);
        Self {
            compiled: Arc::new(Compiled {
                text,
                slots,
                names,
                condition,
                reused,
                layout,
                plan,
                only_properties,
                dialect,
                notices,
            }),
        }
    }

    /// The language that it was written in.
    pub fn dialect(&self) -> Dialect {
        self.compiled.dialect
    }

    /// Where a text means something else to RocketMQ's own filter than it does here: nothing, if both dialects
    /// take it and agree on every message. An error is that of the dialect that does not take it.
    pub fn differences(text: &str) -> Result<Vec<Notice>, Error> {
        Self::parse(text, Dialect::Sluice)?;
        Ok(Self::parse(text, Dialect::RocketMq)?.compiled.notices.clone())
    }

    /// Where the expression is read otherwise than SQL reads it; only dialect `rocketmq` has any.
    pub fn notices(&self) -> &[Notice] {
        &self.compiled.notices
    }

    /// The text that it was compiled from. The halves of [`Filter::split`] keep the whole text, to which
    /// the places in their errors refer.
    pub fn text(&self) -> &str {
        &self.compiled.text
    }

    /// Every name that is needed for an answer.
    pub fn names(&self) -> &BTreeSet<Name> {
        &self.compiled.names
    }

    /// The part that needs no field of the body, and the rest: a row passes exactly if it passes both.
    /// `None` for a part that nothing is left for.
    pub fn split(&self) -> (Option<Self>, Option<Self>) {
        let has_field = |condition: &Condition| {
            let mut found = false;
            condition.visit(&mut |term| {
                found |=
                    term.slots().any(|slot| matches!(self.compiled.slots.get(slot), Some(Name::Field(_))));
            });
            found
        };
        if !has_field(&self.compiled.condition) {
            return (Some(self.clone()), None);
        }
        let (fields, plain): (Vec<_>, Vec<_>) = match &self.compiled.condition {
            Condition::And(terms) => terms.iter().cloned().partition(has_field),
            whole => (vec![whole.clone()], Vec::new()),
        };
        let half = |terms: Vec<Condition>| {
            let Compiled { text, slots, dialect, .. } = &*self.compiled;
            if terms.is_empty() {
                return None;
            }
            let condition = Condition::join(terms, true);
            Some(Self::new(text.clone(), slots.clone(), condition, *dialect, Vec::new()))
        };
        (half(plain), half(fields))
    }
}

//! A step, ready to run: one compiled form for each variant of [`Step`], each in a file of its own.

use sluice_filters::{Filter, ValueExpression};

use super::columns::{Columns, StepProblem};
use super::dedupe::{Dedupe, Window};
use super::explode::Explode;
use super::filter;
use super::headers::{self, Headers};
use super::mask::Mask;
use super::select::Select;
use super::sql::{MakeSql, Sql};
use crate::config::{Computed, Expression, Step};
use crate::task::{Slice, TaskError};

/// One compiled step.
pub(super) enum Stage {
    Where(Filter),
    Select(Select),
    Mask(Mask),
    Route(ValueExpression),
    Headers(Headers),
    Explode(Explode),
    Dedupe(Dedupe),
    Sql(Sql),
}

/// Goes through the steps in their order and knows what comes to each.
pub(crate) struct Planner<'a> {
    /// The columns before the next step.
    pub(crate) columns: Columns,
    exploded: bool,
    make_sql: Option<&'a MakeSql>,
    keeps_original: bool,
}

impl<'a> Planner<'a> {
    /// Before the first step. `keeps_original`: dead letters need what a message was.
    pub(super) fn new(columns: Columns, make_sql: Option<&'a MakeSql>, keeps_original: bool) -> Self {
        Self { columns, exploded: false, make_sql, keeps_original }
    }

    /// To check steps alone.
    pub(crate) fn to_check(columns: Columns) -> Self {
        Self::new(columns, None, false)
    }

    /// Checks a step, for whoever wants no more.
    pub(crate) fn check(&mut self, step: &Step) -> Result<(), StepProblem> {
        let stage = self.next(step);
        if stage.is_err() {
            self.columns = Columns::Unknown;
        }
        stage.map(drop)
    }

    /// Compiles the next step; `None` if what comes to it is not known, or nothing can run it.
    pub(super) fn next(&mut self, step: &Step) -> Result<Option<Stage>, StepProblem> {
        let columns = &self.columns;
        let (stage, after) = match step {
            Step::Where(Expression(filter)) => {
                filter::check(filter, columns)?;
                (Some(Stage::Where(filter.clone())), None)
            }
            Step::Select(select) => {
                let select = Select::new(select, columns)?;
                let after = select.as_ref().map_or(Columns::Unknown, |s| Columns::Known(s.schema().clone()));
                (select.map(Stage::Select), Some(after))
            }
            Step::Mask(mask) => {
                let mask = Mask::new(mask, columns)?;
                let after = mask.as_ref().map_or(Columns::Unknown, |m| Columns::Known(m.schema().clone()));
                (mask.map(Stage::Mask), Some(after))
            }
            Step::Route(Computed(value)) => {
                headers::check_route(value, columns)?;
                (Some(Stage::Route(value.clone())), None)
            }
            Step::Headers(headers) => {
                (Some(Stage::Headers(Headers::new(headers, columns, self.keeps_original)?)), None)
            }
            Step::Explode(explode) => {
                let explode = Explode::new(explode, columns)?;
                let after = explode.as_ref().map_or(Columns::Unknown, |e| Columns::Known(e.schema().clone()));
                self.exploded = true;
                (explode.map(Stage::Explode), Some(after))
            }
            Step::Dedupe(_) if self.exploded => {
                let message = "one record has many rows here, and a window of records none that bounds them: put it before `explode`";
                return Err(StepProblem::new(message));
            }
            Step::Dedupe(dedupe) => (Dedupe::new(dedupe, columns)?.map(Stage::Dedupe), None),
            Step::Sql(text) => match (columns, self.make_sql) {
                (Columns::None, _) => {
                    let message = format!("the table `batch` has no columns{}", columns.hint(""));
                    return Err(StepProblem::new(message));
                }
                (Columns::Known(schema), Some(make)) => {
                    let sql = make(text, schema).map_err(StepProblem::new)?;
                    let after = Columns::Known(sql.output.clone());
                    (Some(Stage::Sql(sql)), Some(after))
                }
                _ => (None, Some(Columns::Unknown)),
            },
        };
        if let Some(after) = after {
            self.columns = after;
        }
        Ok(stage)
    }
}

impl Stage {
    /// Takes the rows of a slice; `window` is this step's of the slice's chain.
    pub(super) fn apply(&mut self, slice: &mut Slice, window: &mut Window) -> Result<(), TaskError> {
        match self {
            Self::Where(filter) => filter::keep(filter, slice),
            Self::Select(select) => select.apply(slice),
            Self::Mask(mask) => mask.apply(slice),
            Self::Route(value) => headers::route(value, slice),
            Self::Headers(headers) => headers.apply(slice),
            Self::Explode(explode) => explode.apply(slice),
            Self::Dedupe(dedupe) => dedupe.apply(slice, window),
            Self::Sql(sql) => sql.apply(slice),
        }
    }
}

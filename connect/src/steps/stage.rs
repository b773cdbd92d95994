//! A step, ready to run: one compiled form for each variant of [`Step`], each in a file of its own.

use sluice_filters::{Filter, Name};

use super::filter;
use crate::config::{Expression, Step};
use crate::task::{Slice, TaskError};

/// One compiled step.
pub(super) enum Stage {
    /// See [`filter`].
    Where(Filter),
}

impl Stage {
    /// Compiles a step.
    pub(super) fn new(step: &Step) -> Self {
        match step {
            Step::Where(Expression(filter)) => Self::Where(filter.clone()),
        }
    }

    /// What it names.
    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        match self {
            Self::Where(filter) => filter.names().iter(),
        }
    }

    /// Takes the rows of a slice.
    pub(super) fn apply(&mut self, slice: &mut Slice) -> Result<(), TaskError> {
        match self {
            Self::Where(filter) => filter::keep(filter, slice),
        }
    }
}

//! The plan of a condition over columns of text, as nearly all properties are: its tests work on views.

use arrow::array::{Array, BooleanArray, StringViewArray};
use arrow::compute::kernels::boolean;
use arrow::error::ArrowError;

use super::answers::collect_views;
use super::{Answers, Batch, Column, Values, is};
use crate::expr::Condition;
use crate::plan::{Plan, Quick, WORDS_MAX};
use crate::value::Verdict;

impl Batch<'_> {
    /// Whether all columns are text, so that a plan can be evaluated.
    pub(crate) fn is_text(&self) -> bool {
        let is_text = |column: &Column| matches!(column.values, Values::Text(_));
        self.columns.iter().flatten().all(is_text)
    }

    /// The answers of a plan, which are those of its condition.
    pub(crate) fn planned(&self, plan: &Plan) -> Result<Answers, ArrowError> {
        match plan {
            Plan::Constant(verdict) => self.evaluate(&Condition::Constant(verdict.known())),
            Plan::And(plans) => self.join(plans, true, Self::planned),
            Plan::Or(plans) => self.join(plans, false, Self::planned),
            Plan::Not(inner) => self.planned(inner)?.map(boolean::not),
            Plan::Is(inner, value) => self.planned(inner)?.map(|answers| is(answers, *value)),
            Plan::Quick(slot, quick) => {
                Ok(self.quick(*slot, quick).unwrap_or_else(|| BooleanArray::new_null(self.rows).into()))
            }
            Plan::Other(_, condition) => self.evaluate(condition),
        }
    }

    /// A test whose answer most views of texts hold by themselves; `None` if the column is no text.
    pub(super) fn quick(&self, slot: usize, quick: &Quick) -> Option<Answers> {
        let Values::Text(texts) = &self.column(slot)?.values else { return None };
        if let Quick::IsNull { is } = quick {
            let found = if *is { boolean::is_null(texts) } else { boolean::is_not_null(texts) };
            return found.ok().map(Answers::from);
        }
        let found = match quick {
            Quick::Words { words, is_in } => match words.len() {
                1 => of_words::<1>(texts, words, *is_in),
                2 => of_words::<2>(texts, words, *is_in),
                3 => of_words::<3>(texts, words, *is_in),
                4 => of_words::<4>(texts, words, *is_in),
                _ => of_words::<WORDS_MAX>(texts, words, *is_in),
            },
            _ => collect_views(texts, |view| quick.of_view(view), |text| quick.of_text(text)),
        };
        match (quick.of_missing(), texts.nulls()) {
            (Verdict::False, Some(_)) => found.map(|answers| Ok(super::passing(answers))).ok(),
            _ => Some(found),
        }
    }
}

/// Whether texts are among up to `N` words; for a fixed number, the loop over the rows has none inside.
fn of_words<const N: usize>(texts: &StringViewArray, words: &[u64], is_in: bool) -> Answers {
    // Filled up with the last, which changes nothing.
    let mut all = [words.last().copied().unwrap_or_default(); N];
    for (place, word) in all.iter_mut().zip(words) {
        *place = *word;
    }
    collect_views(texts, |view| Some(Quick::is_word(view, &all) == is_in), |_| Verdict::Unknown)
}

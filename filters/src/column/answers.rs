//! What conditions say of each row: a value or null, and whether the evaluation failed there.

use arrow::array::{Array, BooleanArray, StringViewArray};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::compute::{and_kleene, or_kleene};
use arrow::error::ArrowError;

use crate::value::Verdict;

/// The answers for some rows.
pub(crate) struct Answers {
    /// Null is UNKNOWN. Where the evaluation failed, anything.
    known: BooleanArray,
    /// Only dialect `rocketmq` has any.
    failed: Option<BooleanBuffer>,
}

impl From<BooleanArray> for Answers {
    fn from(known: BooleanArray) -> Self {
        Self { known, failed: None }
    }
}

impl Answers {
    /// The same failures with other answers.
    pub(crate) fn map(
        self,
        change: impl FnOnce(&BooleanArray) -> Result<BooleanArray, ArrowError>,
    ) -> Result<Self, ArrowError> {
        Ok(Self { known: change(&self.known)?, failed: self.failed })
    }

    /// Whether no condition on the right of AND, or of OR if not `all`, can change a row.
    pub(crate) fn are_settled(&self, all: bool) -> bool {
        let count = if all { self.known.false_count() } else { self.known.true_count() };
        count == self.known.len()
    }

    /// The answers of AND, or of OR if not `all`. What fails on the right counts only where the left side
    /// leaves it open.
    pub(crate) fn join(self, right: Self, all: bool) -> Result<Self, ArrowError> {
        let failed = match (self.failed, right.failed) {
            (failed, None) => failed,
            (failed, Some(right)) => {
                let values = self.known.values();
                let mut settled = if all { !values } else { values.clone() };
                if let Some(nulls) = self.known.nulls() {
                    settled = &settled & nulls.inner();
                }
                let right = &right & &!&settled;
                Some(failed.map_or_else(|| right.clone(), |failed| &failed | &right))
            }
        };
        let kernel = if all { and_kleene } else { or_kleene };
        Ok(Self { known: kernel(&self.known, &right.known)?, failed })
    }

    /// The answers with failures as null.
    pub(crate) fn known(self) -> BooleanArray {
        let Some(failed) = self.failed else { return self.known };
        let valid = match self.known.nulls() {
            Some(nulls) => nulls.inner() & &!&failed,
            None => !&failed,
        };
        BooleanArray::new(self.known.values().clone(), Some(NullBuffer::new(valid)))
    }

    /// One row's answer.
    pub(crate) fn verdict(&self, row: usize) -> Verdict {
        if self.failed.as_ref().is_some_and(|failed| failed.value(row)) {
            return Verdict::Failed;
        }
        self.known.is_valid(row).then(|| self.known.value(row)).into()
    }
}

/// An array of what `test` says for each row.
pub(crate) fn collect(rows: usize, test: impl Fn(usize) -> Option<bool>) -> BooleanArray {
    let words = rows.div_ceil(64);
    let mut values = Vec::with_capacity(words);
    let mut known = Vec::with_capacity(words);
    for start in (0..rows).step_by(64) {
        let (mut value_word, mut known_word) = (0u64, 0u64);
        for bit in 0..64.min(rows - start) {
            if let Some(value) = test(start + bit) {
                known_word |= 1 << bit;
                value_word |= u64::from(value) << bit;
            }
        }
        values.push(value_word.to_le());
        known.push(known_word.to_le());
    }
    BooleanArray::new(bits(values, rows), Some(NullBuffer::new(bits(known, rows))))
}

/// As [`collect`], of tests that may fail.
pub(crate) fn collect_verdicts(rows: usize, mut test: impl FnMut(usize) -> Verdict) -> Answers {
    let words = rows.div_ceil(64);
    let (mut values, mut known) = (Vec::with_capacity(words), Vec::with_capacity(words));
    let (mut failed, mut any_failed) = (Vec::with_capacity(words), 0);
    for start in (0..rows).step_by(64) {
        let (mut value_word, mut known_word, mut failed_word) = (0u64, 0u64, 0u64);
        for bit in 0..64.min(rows - start) {
            let verdict = test(start + bit);
            value_word |= u64::from(verdict == Verdict::True) << bit;
            known_word |= u64::from(matches!(verdict, Verdict::True | Verdict::False)) << bit;
            failed_word |= u64::from(verdict == Verdict::Failed) << bit;
        }
        any_failed |= failed_word;
        values.push(value_word.to_le());
        known.push(known_word.to_le());
        failed.push(failed_word.to_le());
    }
    let known = BooleanArray::new(bits(values, rows), Some(NullBuffer::new(bits(known, rows))));
    Answers { known, failed: (any_failed != 0).then(|| bits(failed, rows)) }
}

/// As [`collect_verdicts`], of texts: `quick` sees their views and may leave the answer to `other`. Missing
/// texts are UNKNOWN.
pub(crate) fn collect_views(
    texts: &StringViewArray,
    quick: impl Fn(u128) -> Option<bool>,
    other: impl Fn(&str) -> Verdict,
) -> Answers {
    let words = texts.len().div_ceil(64);
    let (mut values, mut known) = (Vec::with_capacity(words), Vec::with_capacity(words));
    let (mut failed, mut any_failed, mut all_known) = (Vec::with_capacity(words), 0, true);
    for (start, views) in (0..).step_by(64).zip(texts.views().chunks(64)) {
        let (mut value_word, mut open) = (0u64, 0u64);
        for (bit, view) in views.iter().enumerate() {
            let found = quick(*view);
            value_word |= u64::from(found == Some(true)) << bit;
            open |= u64::from(found.is_none()) << bit;
        }
        let (mut known_word, mut failed_word) = (u64::MAX, 0u64);
        while open != 0 {
            let (row, bit) = (start + open.trailing_zeros() as usize, open & open.wrapping_neg());
            open ^= bit;
            match if texts.is_valid(row) { other(texts.value(row)) } else { Verdict::Unknown } {
                Verdict::True => value_word |= bit,
                Verdict::False => {}
                Verdict::Unknown => known_word ^= bit,
                Verdict::Failed => {
                    known_word ^= bit;
                    failed_word |= bit;
                }
            }
        }
        any_failed |= failed_word;
        all_known &= known_word == u64::MAX;
        values.push(value_word.to_le());
        known.push(known_word.to_le());
        failed.push(failed_word.to_le());
    }
    let rows = texts.len();
    let nulls = if all_known {
        texts.nulls().cloned()
    } else {
        NullBuffer::union(texts.nulls(), Some(&NullBuffer::new(bits(known, rows))))
    };
    let known = BooleanArray::new(bits(values, rows), nulls);
    Answers { known, failed: (any_failed != 0).then(|| bits(failed, rows)) }
}

fn bits(words: Vec<u64>, rows: usize) -> BooleanBuffer {
    BooleanBuffer::new(Buffer::from_vec::<u64>(words), 0, rows)
}

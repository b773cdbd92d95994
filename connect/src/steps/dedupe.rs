//! Step `dedupe`: a row is left out if the last row with its key lies in the window before it.
//!
//! The window is one of queue offsets, and every row with a key counts, those that are left out too. So
//! whether a row goes follows from the rows of its queue in the window alone: who begins anywhere reads the
//! window before that place first, and decides as whoever was there before.

use std::collections::{HashMap, VecDeque};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::{DataType, TimestampMillisecondType};
use arrow::row::{RowConverter, SortField};
use ring::digest;
use sluice_filters::{Name, ValueExpression};

use super::columns::{Columns, StepProblem};
use super::rows::{fatal, resolve, retain};
use crate::batch;
use crate::config::{self, WINDOW_ROWS_MAX};
use crate::task::{Slice, TaskError};

/// Keys, and how far back they count.
pub(super) struct Dedupe {
    keys: Vec<ValueExpression>,
    types: Vec<DataType>,
    /// In offsets.
    rows: i64,
    /// In ms.
    age: Option<i64>,
}

/// What the last rows of one queue were.
#[derive(Default)]
pub(super) struct Window {
    /// By key, offset and time of the last row that had it.
    last: HashMap<u128, (i64, Option<i64>)>,
    /// Offsets and keys, as they came.
    order: VecDeque<(i64, u128)>,
}

impl Dedupe {
    /// `None` if the columns that come in are not known.
    pub(super) fn new(dedupe: &config::Dedupe, columns: &Columns) -> Result<Option<Self>, StepProblem> {
        if !(1..=WINDOW_ROWS_MAX).contains(&dedupe.rows) {
            let message = format!("{} rows, expected 1 to {WINDOW_ROWS_MAX}", dedupe.rows);
            return Err(StepProblem::new(message).at(&["rows"]));
        }
        let (mut keys, mut types) = (Vec::new(), Vec::new());
        for (at, config::Computed(key)) in dedupe.key.items.iter().enumerate() {
            let place = format!("[{at}]");
            let path = if dedupe.key.is_list { vec!["key", &place] } else { vec!["key"] };
            let found =
                key.data_type(&|name| columns.data_type(name)).map_err(|e| columns.refused(&path, &e))?;
            if !RowConverter::supports_fields(&[SortField::new(found.clone())]) {
                let message = format!("`{}` is {found}, which makes no key", key.text());
                return Err(StepProblem::new(message).at(&path));
            }
            keys.push(key.clone());
            types.push(found);
        }
        if matches!(columns, Columns::Unknown) {
            return Ok(None);
        }
        let rows = i64::try_from(dedupe.rows).unwrap_or(i64::MAX);
        let age = dedupe.age.map(|age| i64::try_from(age.0.as_millis()).unwrap_or(i64::MAX));
        Ok(Some(Self { keys, types, rows, age }))
    }

    pub(super) fn apply(&self, slice: &mut Slice, window: &mut Window) -> Result<(), TaskError> {
        let count = slice.envelope.num_rows();
        let name = |name: &Name| resolve(&slice.envelope, slice.decoded.as_ref(), name);
        let columns = self.keys.iter().map(|key| key.column(count, &name));
        let columns: Vec<ArrayRef> =
            columns.collect::<Result<_, _>>().map_err(|e| fatal("cannot compute a key", e))?;
        let failed = |e| fatal("cannot compare keys", e);
        let fields = self.types.iter().cloned().map(SortField::new).collect();
        let rows = RowConverter::new(fields).map_err(failed)?.convert_columns(&columns).map_err(failed)?;
        let nulls: Vec<_> = columns.iter().filter_map(|column| column.logical_nulls()).collect();
        let stored = slice.envelope.column_by_name("store_timestamp");
        let stored = stored.and_then(|c| c.as_primitive_opt::<TimestampMillisecondType>());
        let mut kept = Vec::with_capacity(count);
        for (at, (offset, key)) in batch::offsets(&slice.envelope).iter().zip(&rows).enumerate() {
            if nulls.iter().any(|nulls| nulls.is_null(at)) {
                kept.push(true);
                continue;
            }
            let time = stored.filter(|times| times.is_valid(at)).map(|times| times.value(at));
            let is_new = !window.has(short(key.as_ref()), *offset, time, self);
            if !is_new {
                slice.deduplicated.push(*offset);
            }
            kept.push(is_new);
        }
        // Another such step may have left out some already.
        slice.deduplicated.sort_unstable();
        retain(slice, &BooleanArray::from(kept))
    }
}

/// 128 bits of a digest: that two keys of a window share them is not to be expected in the life of the universe.
fn short(key: &[u8]) -> u128 {
    let digest = digest::digest(&digest::SHA256, key);
    digest.as_ref().iter().take(16).fold(0, |short, byte| short << 8 | u128::from(*byte))
}

impl Window {
    /// Whether the window before a row has its key; from now on it has.
    fn has(&mut self, key: u128, offset: i64, time: Option<i64>, dedupe: &Dedupe) -> bool {
        let first = offset.saturating_sub(dedupe.rows);
        while let Some((old, old_key)) = self.order.front().copied().filter(|(old, _)| *old < first) {
            self.order.pop_front();
            if self.last.get(&old_key).is_some_and(|(last, _)| *last == old) {
                self.last.remove(&old_key);
            }
        }
        self.order.push_back((offset, key));
        match self.last.insert(key, (offset, time)) {
            None => false,
            Some((_, before)) => match (dedupe.age, time, before) {
                (Some(age), Some(now), Some(before)) => now.saturating_sub(before) <= age,
                _ => true,
            },
        }
    }
}

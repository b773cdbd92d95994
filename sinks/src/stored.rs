//! Rows of a slice that was refused which the target has all the same: they are not sent again when the slice comes in
//! parts.

use std::collections::BTreeSet;

use sluice_connect::task::Chain;

/// A row's offset, and its place among the rows of its record.
pub(crate) type RowId = (i64, usize);

/// Each row's place.
pub(crate) fn row_ids(offsets: &[i64]) -> impl Iterator<Item = RowId> {
    let mut before: Option<RowId> = None;
    offsets.iter().map(move |&offset| {
        let place = before.filter(|(other, _)| *other == offset).map_or(0, |(_, place)| place + 1);
        before = Some((offset, place));
        (offset, place)
    })
}

/// Rows that the target has.
#[derive(Debug, Default)]
pub(crate) struct StoredRows(BTreeSet<(Chain, RowId)>);

impl StoredRows {
    pub(crate) fn has(&self, chain: &Chain, place: RowId) -> bool {
        !self.0.is_empty() && self.0.contains(&(chain.clone(), place))
    }

    pub(crate) fn add(&mut self, chain: &Chain, places: impl IntoIterator<Item = RowId>) {
        self.0.extend(places.into_iter().map(|place| (chain.clone(), place)));
    }

    /// Forgets the rows before `end`: all of them are there.
    pub(crate) fn forget(&mut self, chain: &Chain, end: i64) {
        self.0.retain(|(other, place)| other != chain || place.0 >= end);
    }
}

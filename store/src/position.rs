//! Where connect's chains stand: from batch marks in the log, from the tail, and from what the last
//! checkpoint wrote. Of several positions of a chain the largest counts. Never writes a file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ChainPosition;

/// Where one chain stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredPosition {
    /// First source offset that is not stored.
    pub(crate) end: i64,
    /// The incarnation of the source's topic.
    pub(crate) incarnation: String,
    /// The position holds only if the log reaches this far, in bytes: the rows before it lie there.
    pub(crate) log: u64,
}

/// The chains of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Positions(BTreeMap<String, StoredPosition>);

impl Positions {
    pub(crate) fn get(&self, chain: &str) -> Option<ChainPosition> {
        self.0.get(chain).map(|p| ChainPosition { end: p.end, incarnation: p.incarnation.clone() })
    }

    /// Moves a chain forward; one that stands further already stays.
    pub(crate) fn advance(&mut self, chain: &str, position: StoredPosition) {
        match self.0.get_mut(chain) {
            Some(stored) if stored.end > position.end => {}
            Some(stored) => *stored = position,
            None => drop(self.0.insert(chain.to_owned(), position)),
        }
    }

    /// Takes over what another table knows further.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (chain, position) in &other.0 {
            self.advance(chain, position.clone());
        }
    }

    /// Drops positions whose rows the log does not hold; says whether there were any.
    pub(crate) fn void_after(&mut self, log_end: u64) -> bool {
        let before = self.0.len();
        self.0.retain(|_, position| position.log <= log_end);
        self.0.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_position_counts_and_one_without_its_rows_is_void() {
        let at = |end, log| StoredPosition { end, incarnation: "i".into(), log };
        let mut positions = Positions::default();
        positions.advance("c", at(5, 100));
        positions.advance("c", at(3, 200));
        assert_eq!(positions.get("c").unwrap().end, 5);
        assert!(!positions.void_after(100));
        assert!(positions.void_after(99));
        assert_eq!(positions.get("c"), None);
    }
}

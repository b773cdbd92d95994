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

/// One chain: where it stands, and where it stood when the log was shorter, in case that the log's end is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Chain {
    #[serde(flatten)]
    now: StoredPosition,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<StoredPosition>,
}

/// The chains of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Positions(BTreeMap<String, Chain>);

impl Positions {
    pub(crate) fn get(&self, chain: &str) -> Option<ChainPosition> {
        self.0
            .get(chain)
            .map(|Chain { now, .. }| ChainPosition { end: now.end, incarnation: now.incarnation.clone() })
    }

    /// Moves a chain forward; one that stands further already stays.
    pub(crate) fn advance(&mut self, chain: &str, position: StoredPosition) {
        match self.0.get_mut(chain) {
            Some(Chain { now, .. }) if now.end > position.end => {}
            Some(Chain { now, before }) => {
                let replaced = std::mem::replace(now, position);
                if replaced.log < now.log {
                    *before = Some(replaced);
                }
            }
            None => drop(self.0.insert(chain.to_owned(), Chain { now: position, before: None })),
        }
    }

    /// Takes over what another table knows further.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (chain, Chain { now, before }) in &other.0 {
            for position in before.iter().chain([now]) {
                self.advance(chain, position.clone());
            }
        }
    }

    /// Takes chains back whose rows the log does not hold; says whether one is not known any more.
    pub(crate) fn void_after(&mut self, log_end: u64) -> bool {
        let known = self.0.len();
        self.0.retain(|_, chain| {
            if chain.now.log > log_end
                && let Some(before) = chain.before.take()
            {
                chain.now = before;
            }
            chain.now.log <= log_end
        });
        self.0.len() < known
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

    #[test]
    fn a_void_position_falls_back_to_the_last_one_of_a_shorter_log() {
        let at = |end, log| StoredPosition { end, incarnation: "i".into(), log };
        let mut positions = Positions::default();
        for (end, log) in [(5, 100), (7, 100), (9, 200), (11, 200)] {
            positions.advance("c", at(end, log));
        }
        let text = serde_json::to_string(&positions).unwrap();
        let mut read: Positions = serde_json::from_str(&text).unwrap();
        assert_eq!(read, positions);
        assert!(!read.void_after(199));
        assert_eq!(read.get("c").unwrap().end, 7);
        assert!(positions.void_after(99));
    }
}

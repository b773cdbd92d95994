//! What the target's half tells the source's: chains whose rows another worker planned first. The rows on their way are
//! in vain; the chain begins again from where the target stands.

use std::sync::{Mutex, PoisonError};

use crate::task::Chain;

/// Chains to begin again, each once.
#[derive(Debug, Default)]
pub(crate) struct Recall {
    chains: Mutex<Vec<Chain>>,
}

impl Recall {
    /// Adds a chain.
    pub(crate) fn add(&self, chain: &Chain) {
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        if !chains.contains(chain) {
            chains.push(chain.clone());
        }
    }

    /// Takes all.
    pub(crate) fn take(&self) -> Vec<Chain> {
        std::mem::take(&mut *self.chains.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

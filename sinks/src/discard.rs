//! Sink `discard`: rows are counted and dropped, to measure a source and its steps. The example of a connector: this
//! file and its line in the registry (`lib.rs`) are all there is of it.

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_connect::config::Delivery;
use sluice_connect::target::Target;
use sluice_connect::task::{Chain, Fates, Slice, TaskError, TransactTask};

use crate::KeyProblem;
use crate::sink::{Known, Sink};

/// Settings of sink `discard`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiscardConfig {
    /// A row is told in the log after so many; none if not given.
    pub log_every: Option<u64>,
}

impl Sink for DiscardConfig {
    fn problems(&self, _: Known<'_>) -> Vec<KeyProblem> {
        let wrong = self.log_every == Some(0);
        wrong
            .then(|| (vec!["log_every".to_owned()], "0 rows, expected at least 1".to_owned()))
            .into_iter()
            .collect()
    }

    fn shown(&self) -> String {
        "nowhere".to_owned()
    }

    fn open(&self, _: Delivery) -> Result<Target, TaskError> {
        Ok(Target::Transact(Box::new(Discard { log_every: self.log_every, rows: 0 })))
    }
}

struct Discard {
    log_every: Option<u64>,
    rows: u64,
}

impl TransactTask for Discard {
    /// Takes all rows of a slice, or says why not: an error's class says who must act.
    fn commit(&mut self, chain: &Chain, _: &str, slice: &Slice, _: &Fates) -> Result<(), TaskError> {
        let before = self.rows;
        self.rows += slice.output().num_rows() as u64;
        if self.log_every.is_some_and(|every| before / every != self.rows / every) {
            tracing::info!(%chain, rows = self.rows, queue_offset = slice.range.end, "discarded");
        }
        Ok(())
    }

    fn bytes_wanted(&self) -> usize {
        0
    }

    fn secure(&mut self) -> Result<(), TaskError> {
        Ok(())
    }

    fn keeps_positions(&self) -> bool {
        false
    }
}

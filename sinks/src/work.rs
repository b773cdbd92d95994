//! Rows on their way into the files of plans that are not published: what each chain has open, and what all of
//! that holds in memory.
//!
//! It never names a file and never decides when a plan ends.

use std::collections::HashMap;
use std::path::PathBuf;

use arrow::datatypes::SchemaRef;
use sluice_connect::task::{Chain, Class, TaskError};

use crate::writer::Writer;

/// What is not published yet of one chain.
pub(crate) enum Work {
    Open(OpenPlan),
    /// Finished files of the plan that starts here, in the order of their numbers.
    Sealed {
        start: i64,
        temps: Vec<PathBuf>,
    },
    /// Files that could not be written: only `discard` goes on from here.
    Failed {
        temps: Vec<PathBuf>,
    },
}

#[derive(Default)]
pub(crate) struct OpenPlan {
    /// End of the last slice.
    pub(crate) end: Option<i64>,
    /// Of the rows as they came, partition columns and all.
    pub(crate) schema: Option<SchemaRef>,
    pub(crate) rows: u64,
    pub(crate) files: Vec<OpenFile>,
    /// Place in `files` by partition values.
    pub(crate) places: HashMap<Vec<Option<String>>, usize>,
}

pub(crate) struct OpenFile {
    pub(crate) temp: PathBuf,
    pub(crate) writer: Writer,
    pub(crate) values: Vec<Option<String>>,
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) rows: u64,
    /// The slice that it was written to last, counted over all chains.
    pub(crate) used: u64,
}

impl OpenPlan {
    pub(crate) fn temps(&self) -> Vec<PathBuf> {
        self.files.iter().map(|file| file.temp.clone()).collect()
    }
}

/// What is not published yet, by chain.
#[derive(Default)]
pub(crate) struct Works {
    by_chain: HashMap<Chain, Work>,
}

impl Works {
    pub(crate) fn get(&self, chain: &Chain) -> Option<&Work> {
        self.by_chain.get(chain)
    }

    pub(crate) fn insert(&mut self, chain: Chain, work: Work) {
        self.by_chain.insert(chain, work);
    }

    pub(crate) fn remove(&mut self, chain: &Chain) -> Option<Work> {
        self.by_chain.remove(chain)
    }

    /// The open plan's files; none if nothing was put.
    pub(crate) fn open_plan(&mut self, chain: &Chain) -> Result<OpenPlan, TaskError> {
        match self.by_chain.remove(chain) {
            None => Ok(OpenPlan::default()),
            Some(Work::Open(open)) => Ok(open),
            Some(work) => {
                let error = match &work {
                    Work::Failed { .. } => {
                        TaskError::new(Class::Retry, format!("the open plan of {chain} failed before"))
                    }
                    _ => broken(chain, "a sealed plan is neither published nor discarded"),
                };
                self.by_chain.insert(chain.clone(), work);
                Err(error)
            }
        }
    }

    /// What the open files of all chains hold, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.open_files().map(|(_, _, file)| file.writer.memory()).sum()
    }

    fn open_files(&self) -> impl Iterator<Item = (&Chain, usize, &OpenFile)> {
        self.by_chain.iter().flat_map(|(chain, work)| {
            let files = if let Work::Open(open) = work { &open.files[..] } else { &[] };
            files.iter().enumerate().map(move |(place, file)| (chain, place, file))
        })
    }

    /// Writes out the fullest files until all together hold at most `bytes_max`.
    pub(crate) fn bound_memory(&mut self, bytes_max: usize) -> Result<(), TaskError> {
        let mut excess = self.held().saturating_sub(bytes_max);
        if excess == 0 {
            return Ok(());
        }
        let held = self.open_files().map(|(chain, place, file)| (file.writer.memory(), chain.clone(), place));
        let mut held: Vec<_> = held.collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        for (memory, chain, place) in held {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(memory);
            self.write_out(&chain, place)?;
        }
        Ok(())
    }

    /// Writes out the files that were written to longest ago, until as few are open as asked for.
    pub(crate) fn bound_open(&mut self, files_max: usize) -> Result<(), TaskError> {
        let open = self.open_files().filter(|(_, _, file)| file.writer.memory() > 0);
        let mut open: Vec<_> = open.map(|(chain, place, file)| (file.used, chain.clone(), place)).collect();
        let excess = open.len().saturating_sub(files_max);
        if excess > 0 {
            open.sort_unstable();
            open.into_iter().take(excess).try_for_each(|(_, chain, place)| self.write_out(&chain, place))?;
        }
        Ok(())
    }

    /// Leaves nothing of an open file in memory.
    fn write_out(&mut self, chain: &Chain, place: usize) -> Result<(), TaskError> {
        let Some(Work::Open(open)) = self.by_chain.get_mut(chain) else { return Ok(()) };
        let Some(file) = open.files.get_mut(place) else { return Ok(()) };
        if let Err(e) = file.writer.flush(&file.temp) {
            let temps = open.temps();
            self.by_chain.insert(chain.clone(), Work::Failed { temps });
            return Err(e);
        }
        Ok(())
    }
}

pub(crate) fn broken(chain: &Chain, what: &str) -> TaskError {
    TaskError::new(Class::Fatal, format!("{what}, in {chain}"))
}

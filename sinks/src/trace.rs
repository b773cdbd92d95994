//! What became of one source offset in a target, from its plans alone. Reads only.

use sluice_connect::plan::Plan;
use sluice_connect::task::TaskError;

use crate::place::Place;
use crate::records::{chain_folder, chains, pipelines, read_compaction, read_plan};
use crate::writer::footer;

/// The plan of a pipeline that has an offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// The pipeline's name.
    pub pipeline: String,
    /// First offset of the plan.
    pub start: i64,
    /// First offset after it.
    pub end: i64,
    /// When the plan was decided, in ms since 1970-01-01 UTC.
    pub decided_ms: i64,
    /// Whether all of it is published.
    pub is_done: bool,
    /// The files whose first and last row lie around the offset, at most one of which has it: their names below the
    /// target, as they are called since they were merged.
    pub files: Vec<String>,
    /// Whether each offset of the plan became a row, so that one of the files has this one.
    pub is_written: bool,
}

/// The plans of all pipelines of a target that have an offset of a queue of the topic, as chains name it, that `is_of`
/// says yes to.
pub fn fates(
    place: &dyn Place,
    is_of: impl Fn(&str) -> bool,
    queue: i32,
    offset: i64,
) -> Result<Vec<Fate>, TaskError> {
    let mut found = Vec::new();
    for pipeline in pipelines(place)? {
        for (chain, standing) in chains(place, &pipeline)? {
            if chain.queue != queue || !is_of(&chain.topic) {
                continue;
            }
            let folder = chain_folder(&chain);
            let Some(&start) = standing.plans.range(..=offset).next_back() else { continue };
            if standing.is_back(start) {
                continue;
            }
            let Plan { end, files, fates, decided_ms, .. } = read_plan(place, &folder, start)?;
            if offset >= end {
                continue;
            }
            let around = files.into_iter().filter(|file| (file.first..=file.last).contains(&offset));
            let mut files: Vec<String> = around.map(|file| file.name).collect();
            for &number in &standing.compactions {
                for merged in read_compaction(place, &folder, number)?.files {
                    let Some(file) = files.iter_mut().find(|file| merged.of.contains(file)) else { continue };
                    // It has taken place once the merged file is there.
                    if footer(place, &merged.name)?.is_some() {
                        *file = merged.name;
                    }
                }
            }
            let is_written = fates.written == (end - start).unsigned_abs();
            let is_done = standing.done.contains(&start);
            found.push(Fate {
                pipeline: pipeline.clone(),
                start,
                end,
                decided_ms,
                is_done,
                files,
                is_written,
            });
        }
    }
    Ok(found)
}

//! The files of a chain as they lie in a place: their names, their JSON, and what holds for each of them.
//!
//! Reads only. Whoever reads a plan here may rely on it: what does not add up is refused.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sluice_connect::plan::Plan;
use sluice_connect::task::{Chain, Class, TaskError};

use crate::disk::failed;
use crate::name;
use crate::place::{Entry, Place};

/// No file of a chain is longer, in bytes.
pub(crate) const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The folder of all that is no data, below the target.
pub(crate) const ROOT: &str = "_sluice";

/// The folder of the log of a Delta Lake table, below the target.
pub(crate) const TABLE_LOG: &str = "_delta_log";

/// Where a chain begins.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Origin {
    pub(crate) origin: i64,
    pub(crate) incarnation: String,
}

/// A merge of published files, put before its first step as a plan is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Compaction {
    pub(crate) files: Vec<Merged>,
    pub(crate) decided_ms: i64,
}

/// One file that takes the place of several ones of plans that are done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Merged {
    /// Path below the target, as in a plan.
    pub(crate) name: String,
    pub(crate) rows: u64,
    /// The files that it replaces, in the order of their rows.
    pub(crate) of: Vec<String>,
}

/// What stands in the folder of one chain.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// Starts of the plans.
    pub(crate) plans: BTreeSet<i64>,
    /// Starts of the plans that are done.
    pub(crate) done: BTreeSet<i64>,
    /// Starts of the plans that were given back.
    pub(crate) back: BTreeSet<i64>,
    /// Numbers of the compactions.
    pub(crate) compactions: BTreeSet<i64>,
    pub(crate) has_origin: bool,
}

impl Standing {
    /// Whether the rows of a plan come again in later ones.
    pub(crate) fn is_back(&self, start: i64) -> bool {
        self.back.contains(&start) && !self.done.contains(&start)
    }

    /// Whether a plan is yet to be finished.
    pub(crate) fn is_open(&self, start: i64) -> bool {
        !self.back.contains(&start) && !self.done.contains(&start)
    }
}

/// The folder of all that belongs to a pipeline.
pub(crate) fn pipeline_folder(pipeline: &str) -> String {
    format!("{ROOT}/{}", name::folder(pipeline))
}

pub(crate) fn chain_folder(chain: &Chain) -> String {
    format!("{}/{}/{}", pipeline_folder(&chain.pipeline), name::topic_folders(&chain.topic), chain.queue)
}

pub(crate) fn plan_name(start: i64) -> String {
    format!("{start:020}.plan")
}

pub(crate) fn done_name(start: i64) -> String {
    format!("{start:020}.done")
}

pub(crate) fn back_name(start: i64) -> String {
    format!("{start:020}.back")
}

pub(crate) fn compaction_name(number: i64) -> String {
    format!("{number:020}.compact")
}

/// Where the merged file `place` of a compaction waits until the files that it replaces are gone.
pub(crate) fn staged_name(number: i64, place: usize) -> String {
    format!("{number:020}.merged-{place:04}")
}

pub(crate) fn schema_name(number: usize) -> String {
    format!("schema-{number}.json")
}

pub(crate) fn config_name(hash: &str) -> String {
    format!("config-{}.yaml", name::folder(hash))
}

pub(crate) fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, TaskError> {
    let mut bytes = serde_json::to_vec(value)
        .map_err(|e| TaskError::new(Class::Fatal, "cannot encode a file of the chain as JSON").because(e))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The whole file, `None` if it is not there; a longer one than any of ours is an error.
pub(crate) fn read(place: &dyn Place, key: &str) -> Result<Option<Vec<u8>>, TaskError> {
    let bytes = place.read(key, BYTES_MAX + 1).map_err(|e| failed("read", place.show(key), e))?;
    if bytes.as_ref().is_some_and(|bytes| bytes.len() as u64 > BYTES_MAX) {
        let message = format!("{} is longer than the limit of {BYTES_MAX} bytes", place.show(key));
        return Err(TaskError::new(Class::Config, message));
    }
    Ok(bytes.map(Into::into))
}

pub(crate) fn parse<T: DeserializeOwned>(place: &dyn Place, key: &str) -> Result<Option<T>, TaskError> {
    let Some(bytes) = read(place, key)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(e) => Err(TaskError::new(Class::Config, format!("{} is damaged", place.show(key))).because(e)),
    }
}

pub(crate) fn read_plan(place: &dyn Place, folder: &str, start: i64) -> Result<Plan, TaskError> {
    let key = format!("{folder}/{}", plan_name(start));
    let damaged = |why: &str| TaskError::new(Class::Config, format!("{} {why}", place.show(&key)));
    let plan = parse::<Plan>(place, &key)?.ok_or_else(|| damaged("is gone"))?;
    check(&plan).map_err(damaged)?;
    if plan.start == start { Ok(plan) } else { Err(damaged("starts at another offset than its name says")) }
}

pub(crate) fn read_compaction(place: &dyn Place, folder: &str, number: i64) -> Result<Compaction, TaskError> {
    let key = format!("{folder}/{}", compaction_name(number));
    let damaged = |why: &str| TaskError::new(Class::Config, format!("{} {why}", place.show(&key)));
    let compaction = parse::<Compaction>(place, &key)?.ok_or_else(|| damaged("is gone"))?;
    let names = compaction.files.iter().flat_map(|file| file.of.iter().chain([&file.name]));
    if names.into_iter().all(|name| is_below(name)) {
        Ok(compaction)
    } else {
        Err(damaged("names a file outside the target"))
    }
}

/// What holds for every plan, whoever wrote it.
pub(crate) fn check(plan: &Plan) -> Result<(), &'static str> {
    let Some(offsets) =
        plan.end.checked_sub(plan.start).and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0)
    else {
        return Err("has no offsets");
    };
    if plan.start < 0 {
        return Err("starts below 0");
    }
    let fates = &plan.fates;
    let total = [fates.filtered, fates.deduplicated, fates.skipped, fates.dead, fates.absent]
        .iter()
        .try_fold(fates.written, |sum, n| sum.checked_add(*n));
    if total != Some(offsets) {
        return Err("has other offsets than fates");
    }
    let rows = plan.files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.rows));
    // A step may have made several rows of a record, and never fewer than one of one that was written.
    let planned = plan.rows.unwrap_or(fates.written);
    if rows != Some(planned) || planned < fates.written || fates.written == 0 && planned > 0 {
        return Err("has other rows in its files than were written");
    }
    if plan.files.iter().all(|file| is_below(&file.name)) {
        Ok(())
    } else {
        Err("names a file outside the target")
    }
}

/// A name comes from a disk: it must not lead out of the target.
fn is_below(name: &str) -> bool {
    name.split('/').all(|part| !matches!(part, "" | "." | "..")) && !name.contains('\0')
}

pub(crate) fn list(place: &dyn Place, folder: &str) -> Result<Standing, TaskError> {
    place.list(folder).map(|entries| standing(&entries)).map_err(|e| failed("list", place.show(folder), e))
}

fn standing(entries: &[Entry]) -> Standing {
    let mut standing = Standing::default();
    for entry in entries {
        standing.has_origin |= entry.name == "origin.json";
        let parts = entry.name.split_once('.');
        let Some((start, kind)) = parts.filter(|(start, _)| start.len() == 20) else { continue };
        let Ok(start) = start.parse() else { continue };
        match kind {
            "plan" => drop(standing.plans.insert(start)),
            "done" => drop(standing.done.insert(start)),
            // A topic's folder may be called so.
            "back" if !entry.is_folder => drop(standing.back.insert(start)),
            "compact" => drop(standing.compactions.insert(start)),
            _ => {}
        }
    }
    standing
}

/// The pipelines that have chains in a target, sorted.
pub(crate) fn pipelines(place: &dyn Place) -> Result<Vec<String>, TaskError> {
    let entries = place.list(ROOT).map_err(|e| failed("list", place.show(ROOT), e))?;
    let folders = entries.into_iter().filter(|entry| entry.is_folder);
    let mut found: Vec<String> = folders.filter_map(|entry| name::from_folder(&entry.name)).collect();
    found.sort();
    Ok(found)
}

/// The chains of a pipeline with what stands of them, in the order of topic and queue.
pub(crate) fn chains(place: &dyn Place, pipeline: &str) -> Result<Vec<(Chain, Standing)>, TaskError> {
    let root = pipeline_folder(pipeline);
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        let entries = place.list(&folder).map_err(|e| failed("list", place.show(&folder), e))?;
        let is_temp = |name: &str| folder == root && name.starts_with("tmp-");
        let below = entries.iter().filter(|entry| entry.is_folder && !is_temp(&entry.name));
        folders.extend(below.map(|entry| format!("{folder}/{}", entry.name)));
        let standing = standing(&entries);
        if standing.plans.is_empty() && !standing.has_origin {
            continue;
        }
        let (topic, queue) = topic_and_queue(&root, &folder).ok_or_else(|| {
            let message = format!("{} holds plans and is no topic's folder", place.show(&folder));
            TaskError::new(Class::Config, message)
        })?;
        found.push((Chain { pipeline: pipeline.into(), topic: topic.into(), queue }, standing));
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

fn topic_and_queue(root: &str, folder: &str) -> Option<(String, i32)> {
    let parts = folder.strip_prefix(root)?.strip_prefix('/')?;
    let (topic, queue) = parts.rsplit_once('/')?;
    let number = queue.parse().ok().filter(|number: &i32| number.to_string() == queue)?;
    let topic: Vec<String> = topic.split('/').map(name::from_folder).collect::<Option<_>>()?;
    Some((topic.join("/"), number))
}

//! Proves from plans and footers alone, and from the text of files that have none, that each source offset of a target has one fate, or says where it has
//! none or two. Of a table its log has a say as well: each file of a plan came by one commit, and the chain stands where
//! its plans end. Reads only; asks neither the source nor the config.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sluice_connect::plan::{Plan, PlanFile};
use sluice_connect::task::{Chain, Class, Fates, TaskError};

use crate::disk::failed;
use crate::file::{EXTENSIONS, is_text};
use crate::name;
use crate::place::Place;
use crate::records::{
    Merged, Origin, ROOT, Standing, chain_folder, chains, parse, pipelines, read_compaction, read_plan,
};
use crate::table_log::TableLog;
use crate::writer::{Found, find, footer};

/// What was found of all chains of a target.
#[derive(Debug, Default, Serialize)]
pub struct Audit {
    /// The chains, in the order of pipeline, topic and queue.
    pub chains: Vec<ChainAudit>,
    /// What is wrong beside them: data files of Sluice that no plan names, or nothing to prove.
    pub problems: Vec<String>,
}

impl Audit {
    /// Whether each offset has one fate.
    pub fn is_proven(&self) -> bool {
        self.problems.is_empty() && self.chains.iter().all(|chain| chain.problems.is_empty())
    }
}

/// One chain: the numbers of its plans, and what contradicts them.
#[derive(Debug, Serialize)]
pub struct ChainAudit {
    /// The pipeline's name.
    pub pipeline: String,
    /// The source's topic.
    pub topic: String,
    /// The queue id.
    pub queue: i32,
    /// First offset of the chain.
    pub start: i64,
    /// First offset after its plans.
    pub end: i64,
    /// The offsets by fate, as the plans say.
    pub fates: Fates,
    /// Plans of the chain.
    pub plans: u64,
    /// Those of them that were not finished, because their rows came again from a queue.
    pub given_back: u64,
    /// Files that were found.
    pub files: u64,
    /// Rows in them, as their footers say.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Each gap, overlap, missing file and difference; none if all is proven.
    pub problems: Vec<String>,
}

/// Looks at all chains of a target.
pub fn audit(place: &dyn Place) -> Result<Audit, TaskError> {
    let mut audit = Audit::default();
    let mut named = BTreeSet::new();
    let log = TableLog::read(place)?;
    for pipeline in pipelines(place)? {
        for (chain, standing) in chains(place, &pipeline)? {
            audit.chains.push(one(place, &chain, &standing, log.as_ref(), &mut named)?);
        }
    }
    if audit.chains.is_empty() {
        audit.problems.push(format!("{} holds no chain of plans: nothing to prove", place.show("")));
    }
    strangers(place, &named, &mut audit.problems)?;
    Ok(audit)
}

/// `named` gets the names of all files that the chain's plans name.
fn one(
    place: &dyn Place,
    chain: &Chain,
    standing: &Standing,
    log: Option<&TableLog>,
    named: &mut BTreeSet<String>,
) -> Result<ChainAudit, TaskError> {
    let folder = chain_folder(chain);
    let mut found = ChainAudit {
        pipeline: chain.pipeline.to_string(),
        topic: chain.topic.to_string(),
        queue: chain.queue,
        start: 0,
        end: 0,
        fates: Fates::default(),
        plans: 0,
        given_back: 0,
        files: 0,
        rows: 0,
        bytes: 0,
        problems: Vec::new(),
    };
    let origin = or_problem(parse::<Origin>(place, &format!("{folder}/origin.json")), &mut found.problems)?;
    match origin.flatten() {
        Some(origin) => found.start = origin.origin,
        None => {
            found.problems.push(format!("{folder}/origin.json says not where the chain begins"));
            found.start = standing.plans.first().copied().unwrap_or(0);
        }
    }
    found.end = found.start;
    let mut committed = None;
    let mut merges = Merges::read(place, &folder, standing, &mut found.problems)?;
    for &start in &standing.plans {
        let Some(plan) = or_problem(read_plan(place, &folder, start), &mut found.problems)? else { continue };
        let end = found.end;
        match plan.start.cmp(&end) {
            std::cmp::Ordering::Greater => found.problems.push(format!(
                "a gap: no plan has the offsets {end} to {start} (exclusive), which lie before plan {start}"
            )),
            std::cmp::Ordering::Less => found.problems.push(format!(
                "an overlap: plan {start} has the offsets {start} to {end} (exclusive) a second time"
            )),
            std::cmp::Ordering::Equal => {}
        }
        found.end = found.end.max(plan.end);
        found.plans += 1;
        if standing.is_back(start) {
            given_back(place, &plan, named, &mut found)?;
            continue;
        }
        found.fates.add(&plan.fates);
        let is_done = standing.done.contains(&start);
        if plan.files.is_empty() && plan.fates.dead > 0 && !is_done {
            found.problems.push(format!(
                "plan {start} is not done, and nothing shows that its {} dead letters are stored: run the pipeline",
                plan.fates.dead
            ));
        }
        if is_done && !plan.files.is_empty() {
            committed = Some(plan.end);
        }
        for file in &plan.files {
            if !named.insert(file.name.clone()) && file.text.is_some() {
                let shown = place.show(&file.name);
                found
                    .problems
                    .push(format!("{shown} is no file of plan {start}: another plan names it, too"));
                continue;
            }
            if let Some(log) = log
                && is_elsewhere(place, log, start, file, is_done, &mut found)?
            {
                continue;
            }
            match merges.of.get(&file.name) {
                Some(&merge) => merges.take(place, merge, file, &mut found)?,
                None => {
                    let why = match (is_done, merges.pending.contains(&file.name)) {
                        (false, _) => "; the plan is not finished: run the pipeline",
                        (true, true) => "; a merge of it is not finished: run `sluice compact` again",
                        (true, false) => "",
                    };
                    one_file(place, &plan, file, why, &mut found)?;
                }
            }
        }
    }
    merges.end(place, named, &mut found)?;
    if let Some(log) = log {
        let at = log.positions.get(&chain.to_string()).copied();
        // A plan that is not done may have its commit already.
        if at < committed && (log.is_whole || at.is_some()) {
            let shown = at.map_or("nowhere".to_owned(), |at| format!("at {at}"));
            let planned = committed.unwrap_or_default();
            found.problems.push(format!(
                "the table's log has the chain {shown}, and its plans that are done end at {planned}: was it restored?"
            ));
        }
    }
    Ok(found)
}

/// A plan whose rows come again in later ones: its offsets count as absent, and those of its files that are there hold
/// rows that came twice.
fn given_back(
    place: &dyn Place,
    plan: &Plan,
    named: &mut BTreeSet<String>,
    found: &mut ChainAudit,
) -> Result<(), TaskError> {
    found.fates.absent += plan.fates.total();
    found.given_back += 1;
    for file in &plan.files {
        named.insert(file.name.clone());
        if footer(place, &file.name)?.is_some() {
            one_file(place, plan, file, "", found)?;
        }
    }
    Ok(())
}

/// Whether the rows of a plan's file lie in other files of the table by now; what the log says against it is told. Where
/// engines have cleaned the log up, a file that neither the table has nor the target was written anew, or taken away.
fn is_elsewhere(
    place: &dyn Place,
    log: &TableLog,
    start: i64,
    file: &PlanFile,
    is_done: bool,
    found: &mut ChainAudit,
) -> Result<bool, TaskError> {
    let name = &file.name;
    match log.added.get(name) {
        Some(1) => {}
        None if !is_done || !log.is_whole => {}
        None => found.problems.push(format!("no commit of the table adds {name} of plan {start}")),
        Some(n) => found.problems.push(format!("{n} commits of the table add {name} of plan {start}")),
    }
    let is_forgotten = is_done && !log.is_whole && !log.added.contains_key(name);
    let is_elsewhere = log.removed.contains(name) || is_forgotten && footer(place, name)?.is_none();
    if is_elsewhere {
        found.files += 1;
        found.rows += file.rows;
    }
    Ok(is_elsewhere)
}

/// The merges of a chain's files that have taken place.
#[derive(Default)]
struct Merges {
    files: Vec<Merge>,
    /// Place in `files` by the name of each file that is gone.
    of: BTreeMap<String, usize>,
    /// Parts of merges that are recorded and have not taken place.
    pending: BTreeSet<String>,
}

struct Merge {
    merged: Merged,
    /// Rows that the plans say of its parts.
    planned: u64,
}

impl Merges {
    fn read(
        place: &dyn Place,
        folder: &str,
        standing: &Standing,
        problems: &mut Vec<String>,
    ) -> Result<Self, TaskError> {
        let mut merges = Self::default();
        for &number in &standing.compactions {
            let compaction = read_compaction(place, folder, number);
            let Some(compaction) = or_problem(compaction, problems)? else { continue };
            for merged in compaction.files {
                // Without the merged file its parts must be there, as if nothing had begun.
                if footer(place, &merged.name)?.is_none() {
                    merges.pending.extend(merged.of);
                    continue;
                }
                merges.of.extend(merged.of.iter().map(|name| (name.clone(), merges.files.len())));
                merges.files.push(Merge { merged, planned: 0 });
            }
        }
        Ok(merges)
    }

    /// A file of a plan that is part of a merge.
    fn take(
        &mut self,
        place: &dyn Place,
        merge: usize,
        file: &PlanFile,
        found: &mut ChainAudit,
    ) -> Result<(), TaskError> {
        let Some(Merge { merged, planned }) = self.files.get_mut(merge) else { return Ok(()) };
        *planned += file.rows;
        if footer(place, &file.name)?.is_some() {
            let (part, whole) = (place.show(&file.name), place.show(&merged.name));
            found
                .problems
                .push(format!("the rows of {part} are also in {whole}: run `sluice compact` again"));
        }
        Ok(())
    }

    fn end(
        self,
        place: &dyn Place,
        named: &mut BTreeSet<String>,
        found: &mut ChainAudit,
    ) -> Result<(), TaskError> {
        for Merge { merged, planned } in self.files {
            let shown = place.show(&merged.name);
            if let Some(footer) = footer(place, &merged.name)? {
                found.files += 1;
                found.rows += footer.rows;
                found.bytes += footer.bytes;
                if footer.merged.as_ref() != Some(&merged) || footer.rows != planned {
                    found.problems.push(format!(
                        "{shown} has {} rows and should hold the {planned} of the files merged into it",
                        footer.rows
                    ));
                }
            }
            named.insert(merged.name);
        }
        Ok(())
    }
}

fn one_file(
    place: &dyn Place,
    plan: &Plan,
    file: &PlanFile,
    why_missing: &str,
    found: &mut ChainAudit,
) -> Result<(), TaskError> {
    let (shown, start) = (place.show(&file.name), plan.start);
    let Some(footer) = footer(place, &file.name)? else {
        let rows = file.rows;
        found.problems.push(format!("{shown} of plan {start} is missing with its {rows} rows{why_missing}"));
        return Ok(());
    };
    found.files += 1;
    found.bytes += footer.bytes;
    if file.text.is_some() {
        // The plan counted the rows of the text that it knows.
        if find(place, file, plan)? == Found::Same {
            found.rows += file.rows;
        } else {
            let what = "it does not hold the text that the plan says";
            found.problems.push(format!("{shown} is no file of plan {start}: {what}"));
        }
        return Ok(());
    }
    found.rows += footer.rows;
    if footer.plan.as_ref() != Some(plan) {
        found
            .problems
            .push(format!("{shown} is no file of plan {start}: its footer does not hold that plan"));
    } else if footer.rows != file.rows {
        let (rows, planned) = (footer.rows, file.rows);
        found.problems.push(format!("{shown} has {rows} rows, and plan {start} says {planned}"));
    }
    Ok(())
}

/// What a person must see to is a problem of the chain; what time may heal ends the audit.
fn or_problem<T>(result: Result<T, TaskError>, problems: &mut Vec<String>) -> Result<Option<T>, TaskError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.class == Class::Config => {
            problems.push(sluice_connect::worker::chain_of_causes(&error));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Data files with a plan in their footer, or of text with a name of a plan's, that no plan of this target names: a reader
/// sees their rows twice.
fn strangers(
    place: &dyn Place,
    named: &BTreeSet<String>,
    problems: &mut Vec<String>,
) -> Result<(), TaskError> {
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for entry in place.list(&folder).map_err(|e| failed("list", place.show(&folder), e))? {
            let key = if folder.is_empty() { entry.name } else { format!("{folder}/{}", entry.name) };
            if entry.is_folder {
                folders.extend((key != ROOT).then_some(key));
            } else if !named.contains(&key) && is_of_plan(place, &key)? {
                problems.push(format!(
                    "{} holds rows of a plan, and no plan here names it: move it away",
                    place.show(&key)
                ));
            }
        }
    }
    problems.sort();
    Ok(())
}

fn is_of_plan(place: &dyn Place, key: &str) -> Result<bool, TaskError> {
    if is_text(key) {
        return Ok(EXTENSIONS.iter().any(|extension| name::is_of_plan(key, extension)));
    }
    Ok(footer(place, key)?.is_some_and(|footer| footer.plan.is_some() || footer.merged.is_some()))
}

//! Chains of plans in a target's folder: reads them, and puts each file once and for good.
//!
//! Below `<target>/_sluice/<pipeline>/`, where the folders of a topic are its parts, percent-encoded where
//! they could clash:
//!
//! | file                               | holds                                                        |
//! |------------------------------------|--------------------------------------------------------------|
//! | `<topic>/<queue>/origin.json`      | where the chain begins, with the topic's incarnation          |
//! | `<topic>/<queue>/<start:020>.plan` | one plan as JSON                                             |
//! | `<topic>/<queue>/<start:020>.done` | nothing; the plan's files are there                          |
//! | `schema-0.json`                    | the pipeline's Arrow schema                                  |
//! | `config-<hash>.yaml`               | a config's text                                              |
//!
//! All but `.done` are put if absent: written under a temporary name, synced, linked, and the folder synced;
//! for schema and config that waits for the next plan. Whoever finds a name there can't know that it is
//! durable, so it syncs the folder before it builds on it. `.done` needs neither: what it says is also in the footers of the plan's files. It never writes the
//! files of a plan and never decides what a plan holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sluice_connect::plan::Plan;
use sluice_connect::task::{Chain, Claim, Class, Position, TaskError};
use sluice_store::file::{Disk, Open};

use crate::disk::{failed, read, remove};
use crate::name;
use crate::temp::TempFolder;

/// No file of a chain is longer, in bytes.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Origin {
    origin: i64,
    incarnation: String,
}

/// What stands in the folder of one chain.
#[derive(Default)]
struct Standing {
    /// Starts of the plans.
    plans: BTreeSet<i64>,
    /// Starts of the plans that are done.
    done: BTreeSet<i64>,
}

/// The chains of one target, with the task's temporary folders.
#[derive(Debug)]
pub(crate) struct Chains {
    disk: Arc<dyn Disk>,
    /// `<target>/_sluice`.
    root: PathBuf,
    /// By pipeline; made when first needed.
    temps: BTreeMap<Arc<str>, TempFolder>,
    /// Schemas and configs whose names may not be durable: they must be before a plan that needs them.
    unsynced: BTreeSet<PathBuf>,
    /// Origins, schemas and configs that are known to be durable.
    durable: BTreeSet<PathBuf>,
}

impl Chains {
    pub(crate) fn new(disk: Arc<dyn Disk>, target: &Path) -> Self {
        Self {
            disk,
            root: target.join("_sluice"),
            temps: BTreeMap::new(),
            unsynced: BTreeSet::new(),
            durable: BTreeSet::new(),
        }
    }

    /// The path of a temporary file that is not there yet.
    pub(crate) fn temp_file(&mut self, pipeline: &str) -> Result<PathBuf, TaskError> {
        if let Some(temp) = self.temps.get_mut(pipeline) {
            return Ok(temp.file());
        }
        let folder = self.pipeline_folder(pipeline);
        self.make(&folder)?;
        let mut temp = TempFolder::open(&self.disk, &folder)?;
        let file = temp.file();
        self.temps.insert(pipeline.into(), temp);
        Ok(file)
    }

    /// The folder of all that belongs to a pipeline.
    fn pipeline_folder(&self, pipeline: &str) -> PathBuf {
        self.root.join(name::folder(pipeline))
    }

    /// Where the chain stands, `None` if it never began. The origin and an unfinished plan that it gives are
    /// durable.
    pub(crate) fn position(&mut self, chain: &Chain) -> Result<Option<Position>, TaskError> {
        let folder = self.folder(chain);
        let standing = list(&folder)?;
        let origin_path = folder.join("origin.json");
        let Some(origin) = parse::<Origin>(&origin_path)? else {
            if standing.plans.is_empty() {
                return Ok(None);
            }
            let message = format!("{} is missing though plans stand beside it", origin_path.display());
            return Err(TaskError::new(Class::Config, message));
        };
        let Some(&start) = standing.plans.last() else {
            if !self.durable.contains(&origin_path) {
                self.sync(&folder)?;
                self.durable.insert(origin_path);
            }
            let Origin { origin, incarnation } = origin;
            return Ok(Some(Position { next: origin, incarnation, unfinished: None }));
        };
        let plan = read_plan(&folder, start)?;
        let is_done = standing.done.contains(&start);
        if !is_done {
            self.sync(&folder)?;
        }
        Ok(Some(Position {
            next: plan.end,
            incarnation: plan.incarnation.clone(),
            unfinished: (!is_done).then_some(plan),
        }))
    }

    /// Puts the chain's origin if none stands there.
    pub(crate) fn begin(&mut self, chain: &Chain, origin: i64, incarnation: &str) -> Result<(), TaskError> {
        let folder = self.folder(chain);
        self.make(&folder)?;
        let origin = Origin { origin, incarnation: incarnation.to_owned() };
        self.put(&chain.pipeline, &folder, "origin.json", &json(&origin)?)?;
        self.sync(&folder)?;
        self.durable.insert(folder.join("origin.json"));
        Ok(())
    }

    /// The pipeline's schema, put first if none stands there and one is proposed.
    pub(crate) fn schema(&self, pipeline: &str) -> Result<Option<SchemaRef>, TaskError> {
        Ok(parse::<Schema>(&self.pipeline_folder(pipeline).join("schema-0.json"))?.map(Arc::new))
    }

    pub(crate) fn put_schema(&mut self, pipeline: &str, schema: &SchemaRef) -> Result<(), TaskError> {
        self.keep(pipeline, "schema-0.json", &json(schema.as_ref())?)
    }

    /// Puts a config's text under its hash if none stands there.
    pub(crate) fn put_config(&mut self, pipeline: &str, hash: &str, text: &str) -> Result<(), TaskError> {
        self.keep(pipeline, &config_name(hash), text.as_bytes())
    }

    pub(crate) fn config(&self, pipeline: &str, hash: &str) -> Result<String, TaskError> {
        let path = self.pipeline_folder(pipeline).join(config_name(hash));
        let refused = |why: &str| TaskError::new(Class::Config, format!("{} {why}", path.display()));
        let bytes = read(&path, BYTES_MAX)?
            .ok_or_else(|| refused("is missing; a plan that was made by this config can not be finished"))?;
        String::from_utf8(bytes).map_err(|e| refused("is not UTF-8").because(e))
    }

    /// The plans of a pipeline that are not done, in the order of topic, queue and start.
    pub(crate) fn unfinished(&self, pipeline: &str) -> Result<Vec<(Chain, Plan)>, TaskError> {
        let root = self.pipeline_folder(pipeline);
        let mut found = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for path in entries(&folder)? {
                let is_temp = folder == root
                    && path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"tmp-"));
                let metadata = fs::symlink_metadata(&path);
                // A temporary folder may go while this lists.
                if !is_temp && metadata.map_err(|e| failed("look at", &path, e))?.is_dir() {
                    folders.push(path);
                }
            }
            let standing = list(&folder)?;
            for &start in standing.plans.difference(&standing.done) {
                let plan = read_plan(&folder, start)?;
                let (topic, queue) = topic_and_queue(&root, &folder).ok_or_else(|| {
                    let message = format!("{} holds plans and is no topic's folder", folder.display());
                    TaskError::new(Class::Config, message)
                })?;
                self.sync(&folder)?;
                found.push((Chain { pipeline: pipeline.into(), topic: topic.into(), queue }, plan));
            }
        }
        found.sort_by(|(a, plan_a), (b, plan_b)| (a, plan_a.start).cmp(&(b, plan_b.start)));
        Ok(found)
    }

    /// Puts the plan if none stands at its start.
    pub(crate) fn claim(&mut self, chain: &Chain, plan: &Plan) -> Result<Claim, TaskError> {
        check(plan)
            .map_err(|why| TaskError::new(Class::Fatal, format!("plan {} of {chain} {why}", plan.start)))?;
        let folder = self.folder(chain);
        self.make(&folder)?;
        let shared = self.pipeline_folder(&chain.pipeline);
        if self.unsynced.iter().any(|path| path.parent() == Some(&shared)) {
            self.sync(&shared)?;
            self.durable.extend(self.unsynced.extract_if(.., |path| path.parent() == Some(&shared)));
        }
        let is_new = self.put(&chain.pipeline, &folder, &plan_name(plan.start), &json(plan)?)?;
        self.sync(&folder)?;
        if is_new || read_plan(&folder, plan.start)? == *plan { Ok(Claim::Mine) } else { Ok(Claim::Theirs) }
    }

    /// Marks a plan as done; may be lost again in a crash.
    pub(crate) fn confirm(&self, chain: &Chain, start: i64) -> Result<(), TaskError> {
        let path = self.folder(chain).join(format!("{start:020}.done"));
        match self.disk.open(&path, Open::OrCreate) {
            Ok(_) => Ok(()),
            Err(e) => Err(failed("make", &path, e)),
        }
    }

    fn folder(&self, chain: &Chain) -> PathBuf {
        let mut folder = self.pipeline_folder(&chain.pipeline);
        folder.push(name::topic_folders(&chain.topic));
        folder.push(chain.queue.to_string());
        folder
    }

    fn make(&self, folder: &Path) -> Result<(), TaskError> {
        self.disk.create_dir_all(folder).map_err(|e| failed("make", folder, e))
    }

    fn sync(&self, folder: &Path) -> Result<(), TaskError> {
        self.disk.sync_dir(folder).map_err(|e| failed("sync", folder, e))
    }

    /// Puts a file beside the pipeline's chains, to be durable before the next plan.
    fn keep(&mut self, pipeline: &str, name: &str, bytes: &[u8]) -> Result<(), TaskError> {
        let folder = self.pipeline_folder(pipeline);
        let path = folder.join(name);
        if !self.durable.contains(&path) {
            self.put(pipeline, &folder, name, bytes)?;
            self.unsynced.insert(path);
        }
        Ok(())
    }

    /// Puts a file whole, or finds that one stands there: `false`. Its bytes are durable, its name is not.
    fn put(&mut self, pipeline: &str, folder: &Path, name: &str, bytes: &[u8]) -> Result<bool, TaskError> {
        let path = folder.join(name);
        if bytes.len() as u64 > BYTES_MAX {
            let message = format!("{} would have {} bytes, over {BYTES_MAX}", path.display(), bytes.len());
            return Err(TaskError::new(Class::Config, message));
        }
        if fs::symlink_metadata(&path).is_ok() {
            return Ok(false);
        }
        let from = self.temp_file(pipeline)?;
        let file = self.disk.open(&from, Open::New).map_err(|e| failed("make", &from, e))?;
        let written = file.write_at(&[bytes], 0).and_then(|()| file.sync());
        let is_new = match written {
            Err(e) => Err(failed("write", &from, e)),
            Ok(()) => match self.disk.hard_link(&from, &path) {
                Ok(()) => Ok(true),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
                Err(e) => Err(failed("make", &path, e)),
            },
        };
        remove(self.disk.as_ref(), &from)?;
        is_new
    }
}

fn plan_name(start: i64) -> String {
    format!("{start:020}.plan")
}

fn config_name(hash: &str) -> String {
    format!("config-{}.yaml", name::folder(hash))
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, TaskError> {
    let mut bytes = serde_json::to_vec(value)
        .map_err(|e| TaskError::new(Class::Fatal, "cannot encode a file of the chain as JSON").because(e))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, TaskError> {
    let Some(bytes) = read(path, BYTES_MAX)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(e) => Err(TaskError::new(Class::Config, format!("{} is damaged", path.display())).because(e)),
    }
}

fn read_plan(folder: &Path, start: i64) -> Result<Plan, TaskError> {
    let path = folder.join(plan_name(start));
    let damaged = |why: &str| TaskError::new(Class::Config, format!("{} {why}", path.display()));
    let plan = parse::<Plan>(&path)?.ok_or_else(|| damaged("is gone"))?;
    check(&plan).map_err(damaged)?;
    if plan.start == start { Ok(plan) } else { Err(damaged("starts at another offset than its name says")) }
}

/// What holds for every plan, whoever wrote it.
fn check(plan: &Plan) -> Result<(), &'static str> {
    let Some(offsets) =
        plan.end.checked_sub(plan.start).and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0)
    else {
        return Err("has no offsets");
    };
    if plan.start < 0 {
        return Err("starts below 0");
    }
    let fates = &plan.fates;
    let total = [fates.filtered, fates.skipped, fates.dead, fates.absent]
        .iter()
        .try_fold(fates.written, |sum, n| sum.checked_add(*n));
    if total != Some(offsets) {
        return Err("has other offsets than fates");
    }
    let rows = plan.files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.rows));
    if rows != Some(fates.written) {
        return Err("has other rows in its files than were written");
    }
    // The name comes from a disk: it must not lead out of the target.
    let is_below =
        |name: &str| name.split('/').all(|part| !matches!(part, "" | "." | "..")) && !name.contains('\0');
    if plan.files.iter().all(|file| is_below(&file.name)) {
        Ok(())
    } else {
        Err("names a file outside the target")
    }
}

/// The paths in a folder; none if it is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, TaskError> {
    let found = match fs::read_dir(folder) {
        Ok(found) => found,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed("list", folder, e)),
    };
    found.map(|entry| Ok(entry.map_err(|e| failed("list", folder, e))?.path())).collect()
}

fn list(folder: &Path) -> Result<Standing, TaskError> {
    let mut standing = Standing::default();
    for path in entries(folder)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let parts = name.split_once('.');
        let Some((start, kind)) = parts.filter(|(start, _)| start.len() == 20) else { continue };
        let Ok(start) = start.parse() else { continue };
        match kind {
            "plan" => drop(standing.plans.insert(start)),
            "done" => drop(standing.done.insert(start)),
            _ => {}
        }
    }
    Ok(standing)
}

fn topic_and_queue(root: &Path, folder: &Path) -> Option<(String, i32)> {
    let parts: Vec<&str> =
        folder.strip_prefix(root).ok()?.iter().map(|part| part.to_str()).collect::<Option<_>>()?;
    let (queue, topic) = parts.split_last()?;
    let queue =
        queue.parse().ok().filter(|queue: &i32| queue.to_string() == **parts.last().expect("just split"))?;
    let topic: Vec<String> = topic.iter().map(|part| name::from_folder(part)).collect::<Option<_>>()?;
    if topic.is_empty() { None } else { Some((topic.join("/"), queue)) }
}

//! Chains of plans in a target: reads them, and puts each file once and for good.
//!
//! Below `<target>/_sluice/<pipeline>/`, where the folders of a topic are its parts, percent-encoded where
//! they could clash:
//!
//! | file                               | holds                                                        |
//! |------------------------------------|--------------------------------------------------------------|
//! | `<topic>/<queue>/origin.json`      | where the chain begins, with the topic's incarnation          |
//! | `<topic>/<queue>/<start:020>.plan` | one plan as JSON                                             |
//! | `<topic>/<queue>/<start:020>.done` | nothing; the plan's files are there                          |
//! | `<topic>/<queue>/<start:020>.back` | nothing; if it is not done, its rows come again in later plans, and some of its files may be there |
//! | `schema-<n>.json`                  | the pipeline's Arrow schema, and those that it grew into     |
//! | `config-<hash>.yaml`               | a config's text                                              |
//!
//! All but `.done` are put if absent: in a folder written under a temporary name, synced, linked, and the folder
//! synced (for schema and config that waits for the next plan); in an object store by one conditional put.
//! Whoever finds a name there can't know that it is durable, so it syncs the folder before it builds on it. `.done`
//! needs neither: what it says is also in the footers of the plan's files. It never writes the files of a plan and
//! never decides what a plan holds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use sluice_connect::plan::{Plan, schema_hash};
use sluice_connect::task::{Chain, Claim, Class, Position, TaskError};
use sluice_formats::widen::covers;
use sluice_store::file::{Disk, Open};

use crate::disk::{failed, remove};
use crate::place::{Place, parent};
use crate::records::{
    BYTES_MAX, Origin, back_name, chain_folder, chains, check, config_name, done_name, json, list, parse,
    pipeline_folder, plan_name, read, read_plan, schema_name,
};
use crate::temp::TempFolder;

/// Schemas that one pipeline may have grown into.
const SCHEMAS_MAX: usize = 10_000;

/// The chains of one target, with the task's temporary folders.
#[derive(Debug)]
pub(crate) struct Chains {
    /// Where temporary files are written.
    disk: Arc<dyn Disk>,
    place: Arc<dyn Place>,
    /// By pipeline; made when first needed.
    temps: BTreeMap<Arc<str>, TempFolder>,
    /// Schemas and configs whose names may not be durable: they must be before a plan that needs them.
    unsynced: BTreeSet<String>,
    /// Origins, schemas and configs that are known to be durable.
    durable: BTreeSet<String>,
}

impl Chains {
    pub(crate) fn new(disk: Arc<dyn Disk>, place: Arc<dyn Place>) -> Self {
        Self { disk, place, temps: BTreeMap::new(), unsynced: BTreeSet::new(), durable: BTreeSet::new() }
    }

    /// The path of a temporary file that is not there yet.
    pub(crate) fn temp_file(&mut self, pipeline: &str) -> Result<PathBuf, TaskError> {
        if let Some(temp) = self.temps.get_mut(pipeline) {
            return Ok(temp.file());
        }
        let folder = self.place.spool(&pipeline_folder(pipeline));
        self.disk.create_dir_all(&folder).map_err(|e| failed("make", folder.display(), e))?;
        let mut temp = TempFolder::open(&self.disk, &folder)?;
        let file = temp.file();
        self.temps.insert(pipeline.into(), temp);
        Ok(file)
    }

    /// Where the chain stands, `None` if it never began. The origin and an unfinished plan that it gives are
    /// durable.
    pub(crate) fn position(&mut self, chain: &Chain) -> Result<Option<Position>, TaskError> {
        let folder = chain_folder(chain);
        let place = self.place.as_ref();
        let standing = list(place, &folder)?;
        let origin_key = format!("{folder}/origin.json");
        let Some(origin) = parse::<Origin>(place, &origin_key)? else {
            if standing.plans.is_empty() {
                return Ok(None);
            }
            let message = format!("{} is missing though plans stand beside it", place.show(&origin_key));
            return Err(TaskError::new(Class::Config, message));
        };
        let Some(&start) = standing.plans.last() else {
            if !self.durable.contains(&origin_key) {
                self.sync(&folder)?;
                self.durable.insert(origin_key);
            }
            let Origin { origin, incarnation } = origin;
            return Ok(Some(Position { next: origin, incarnation, unfinished: None }));
        };
        let plan = read_plan(place, &folder, start)?;
        let is_open = standing.is_open(start);
        if is_open || !standing.done.contains(&start) {
            self.sync(&folder)?;
        }
        Ok(Some(Position {
            next: plan.end,
            incarnation: plan.incarnation.clone(),
            unfinished: is_open.then_some(plan),
        }))
    }

    /// Puts the chain's origin if none stands there.
    pub(crate) fn begin(&mut self, chain: &Chain, origin: i64, incarnation: &str) -> Result<(), TaskError> {
        let folder = chain_folder(chain);
        self.make(&folder)?;
        let origin = Origin { origin, incarnation: incarnation.to_owned() };
        let key = format!("{folder}/origin.json");
        self.put(&chain.pipeline, &key, &json(&origin)?)?;
        self.sync(&folder)?;
        self.durable.insert(key);
        Ok(())
    }

    /// The pipeline's newest schema.
    pub(crate) fn schema(&self, pipeline: &str) -> Result<Option<SchemaRef>, TaskError> {
        Ok(self.schemas(pipeline)?.pop())
    }

    /// The one of the pipeline's schemas that plans call by this hash.
    pub(crate) fn schema_by_hash(&self, pipeline: &str, hash: &str) -> Result<Option<SchemaRef>, TaskError> {
        Ok(self.schemas(pipeline)?.into_iter().find(|schema| schema_hash(schema) == hash))
    }

    /// Puts a schema if none stands there, or if it is wider than the newest one.
    pub(crate) fn put_schema(&mut self, pipeline: &str, schema: &SchemaRef) -> Result<(), TaskError> {
        let standing = self.schemas(pipeline)?;
        let is_due = standing.last().is_none_or(|newest| covers(schema, newest) && !covers(newest, schema));
        if is_due {
            self.keep(pipeline, &schema_name(standing.len()), &json(schema.as_ref())?)?;
        } else if let Some(newest) = standing.len().checked_sub(1) {
            // Who put it may have died before its name was durable.
            self.keep(pipeline, &schema_name(newest), &json(schema.as_ref())?)?;
        }
        Ok(())
    }

    /// All schemas of the pipeline, in the order in which it grew.
    fn schemas(&self, pipeline: &str) -> Result<Vec<SchemaRef>, TaskError> {
        let folder = pipeline_folder(pipeline);
        let mut found = Vec::new();
        loop {
            let key = format!("{folder}/{}", schema_name(found.len()));
            match parse::<Schema>(self.place.as_ref(), &key)? {
                Some(schema) if found.len() < SCHEMAS_MAX => found.push(Arc::new(schema)),
                Some(_) => {
                    let message =
                        format!("{} is one of more than {SCHEMAS_MAX} schemas", self.place.show(&key));
                    return Err(TaskError::new(Class::Config, message));
                }
                None => return Ok(found),
            }
        }
    }

    /// Puts a config's text under its hash if none stands there.
    pub(crate) fn put_config(&mut self, pipeline: &str, hash: &str, text: &str) -> Result<(), TaskError> {
        self.keep(pipeline, &config_name(hash), text.as_bytes())
    }

    pub(crate) fn config(&self, pipeline: &str, hash: &str) -> Result<String, TaskError> {
        let key = format!("{}/{}", pipeline_folder(pipeline), config_name(hash));
        let refused = |why: &str| TaskError::new(Class::Config, format!("{} {why}", self.place.show(&key)));
        let bytes = read(self.place.as_ref(), &key)?
            .ok_or_else(|| refused("is missing; a plan that was made by this config can not be finished"))?;
        String::from_utf8(bytes).map_err(|e| refused("is not UTF-8").because(e))
    }

    /// The plans of a pipeline that are not done, in the order of topic, queue and start.
    pub(crate) fn unfinished(&self, pipeline: &str) -> Result<Vec<(Chain, Plan)>, TaskError> {
        let mut found = Vec::new();
        for (chain, standing) in chains(self.place.as_ref(), pipeline)? {
            let folder = chain_folder(&chain);
            for &start in standing.plans.iter().filter(|start| standing.is_open(**start)) {
                let plan = read_plan(self.place.as_ref(), &folder, start)?;
                self.sync(&folder)?;
                found.push((chain.clone(), plan));
            }
        }
        Ok(found)
    }

    /// Puts the plan if none stands at its start.
    pub(crate) fn claim(&mut self, chain: &Chain, plan: &Plan) -> Result<Claim, TaskError> {
        check(plan)
            .map_err(|why| TaskError::new(Class::Fatal, format!("plan {} of {chain} {why}", plan.start)))?;
        let folder = chain_folder(chain);
        self.make(&folder)?;
        let shared = pipeline_folder(&chain.pipeline);
        if self.unsynced.iter().any(|key| parent(key) == shared) {
            self.sync(&shared)?;
            self.durable.extend(self.unsynced.extract_if(.., |key| parent(key) == shared));
        }
        let key = format!("{folder}/{}", plan_name(plan.start));
        let is_new = self.put(&chain.pipeline, &key, &json(plan)?)?;
        self.sync(&folder)?;
        if is_new || read_plan(self.place.as_ref(), &folder, plan.start)? == *plan {
            Ok(Claim::Mine)
        } else {
            Ok(Claim::Theirs)
        }
    }

    /// The end of the last plan before `start` that has files.
    #[cfg(feature = "tables")]
    pub(crate) fn end_with_files(&self, chain: &Chain, start: i64) -> Result<Option<i64>, TaskError> {
        let folder = chain_folder(chain);
        let standing = list(self.place.as_ref(), &folder)?;
        for &earlier in standing.plans.range(..start).rev().filter(|start| !standing.is_back(**start)) {
            let plan = read_plan(self.place.as_ref(), &folder, earlier)?;
            if !plan.files.is_empty() {
                return Ok(Some(plan.end));
            }
        }
        Ok(None)
    }

    /// Puts a file into a folder of the target that is there, or finds that one stands there: `false`. Either is durable.
    #[cfg(feature = "delta")]
    pub(crate) fn put_durably(&mut self, pipeline: &str, key: &str, bytes: &[u8]) -> Result<bool, TaskError> {
        let is_new = self.put(pipeline, key, bytes)?;
        self.sync(parent(key))?;
        Ok(is_new)
    }

    /// Makes a folder of the target, durably.
    #[cfg(feature = "delta")]
    pub(crate) fn make_folder(&self, folder: &str) -> Result<(), TaskError> {
        self.make(folder)
    }

    pub(crate) fn is_done(&self, chain: &Chain, start: i64) -> Result<bool, TaskError> {
        let key = format!("{}/{}", chain_folder(chain), done_name(start));
        self.place.has(&key).map_err(|e| failed("look at", self.place.show(&key), e))
    }

    /// Marks a plan as done; may be lost again in a crash.
    pub(crate) fn confirm(&self, chain: &Chain, start: i64) -> Result<(), TaskError> {
        let key = format!("{}/{}", chain_folder(chain), done_name(start));
        self.place.mark(&key).map_err(|e| failed("make", self.place.show(&key), e))
    }

    /// Marks a plan as given back, durably.
    pub(crate) fn give_back(&self, chain: &Chain, start: i64) -> Result<(), TaskError> {
        let folder = chain_folder(chain);
        let key = format!("{folder}/{}", back_name(start));
        self.place.mark(&key).map_err(|e| failed("make", self.place.show(&key), e))?;
        self.sync(&folder)
    }

    /// Tries what a run needs: a list, a name given once and refused the second time, a read, a removal.
    pub(crate) fn try_out(&mut self, pipeline: &str) -> Result<(), TaskError> {
        let place = Arc::clone(&self.place);
        let folder = pipeline_folder(pipeline);
        let key = format!("{folder}/config-check-{}", std::process::id());
        let shown = place.show(&key);
        self.make(&folder)?;
        list(place.as_ref(), &folder)?;
        let remove = || place.remove(&key).map_err(|e| failed("remove", &shown, e));
        // Of a check that crashed.
        remove()?;
        let body = b"Written twice by `sluice check`; the second must be refused.\n";
        let is_given = self.put(pipeline, &key, body)?;
        let is_given_twice = self.put_anyway(pipeline, &key, body)?;
        let found = read(place.as_ref(), &key)?;
        remove()?;
        if is_given_twice {
            let message = format!(
                "{shown} was given twice: the target replaces what is there, and two workers would overwrite \
                 one another; `delivery: exactly_once` is not possible there"
            );
            return Err(TaskError::new(Class::Config, message));
        }
        if !is_given || found.as_deref() != Some(body) {
            let message = format!("{shown} was written, and something else is read there");
            return Err(TaskError::new(Class::Config, message));
        }
        Ok(())
    }

    fn make(&self, folder: &str) -> Result<(), TaskError> {
        self.place.make(folder).map_err(|e| failed("make", self.place.show(folder), e))
    }

    fn sync(&self, folder: &str) -> Result<(), TaskError> {
        self.place.sync(folder).map_err(|e| failed("sync", self.place.show(folder), e))
    }

    /// Puts a file beside the pipeline's chains, to be durable before the next plan.
    fn keep(&mut self, pipeline: &str, name: &str, bytes: &[u8]) -> Result<(), TaskError> {
        let key = format!("{}/{name}", pipeline_folder(pipeline));
        if !self.durable.contains(&key) {
            self.put(pipeline, &key, bytes)?;
            self.unsynced.insert(key);
        }
        Ok(())
    }

    /// Puts a file whole, or finds that one stands there: `false`. Its bytes are durable, its name may not be.
    pub(crate) fn put(&mut self, pipeline: &str, key: &str, bytes: &[u8]) -> Result<bool, TaskError> {
        let shown = self.place.show(key);
        if bytes.len() as u64 > BYTES_MAX {
            let message = format!("{shown} would have {} bytes, over {BYTES_MAX}", bytes.len());
            return Err(TaskError::new(Class::Config, message));
        }
        if self.place.has(key).map_err(|e| failed("look at", shown, e))? {
            return Ok(false);
        }
        self.put_anyway(pipeline, key, bytes)
    }

    /// The same without a look first: the place itself must refuse a name that is taken.
    fn put_anyway(&mut self, pipeline: &str, key: &str, bytes: &[u8]) -> Result<bool, TaskError> {
        let from = self.temp_file(pipeline)?;
        let file = self.disk.open(&from, Open::New).map_err(|e| failed("make", from.display(), e))?;
        let is_new = match file.write_at(&[bytes], 0).and_then(|()| file.sync()) {
            Err(e) => Err(failed("write", from.display(), e)),
            Ok(()) => self.place.put_file(&from, key).map_err(|e| failed("make", self.place.show(key), e)),
        };
        remove(self.disk.as_ref(), &from)?;
        is_new
    }
}

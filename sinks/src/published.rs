//! What readers may count on of a pipeline's files: of each chain the files that stand, and the offset from which on
//! the rows are in none of them. Both come from one look at the chain, so together with the log from that offset no
//! row is missing or there twice, whatever the pipeline does meanwhile. Reads only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use sluice_connect::task::{Chain, Class, Slice, TaskError};
use sluice_store::file::RealDisk;

use crate::SinkConfig;
use crate::disk::failed;
use crate::location::Location;
use crate::partition::Partition;
use crate::place::{self, Place};
use crate::plain;
use crate::records::{
    Origin, Standing, chain_folder, chains, parse, pipeline_folder, read_compaction, read_plan, schema_name,
    staged_name,
};
use crate::writer::{Found, find};

/// One chain as it stands.
#[derive(Clone, Debug)]
pub struct Published {
    /// The chain.
    pub chain: Chain,
    /// First queue offset whose rows are in no file.
    pub next: i64,
    /// The source topic's incarnation.
    pub incarnation: String,
    /// The hash of the config by which the rows from `next` on are being written, if some are.
    pub unfinished: Option<String>,
    /// The files.
    pub files: Vec<PublishedFile>,
}

/// One file of a chain.
#[derive(Clone, Debug)]
pub struct PublishedFile {
    /// Its path below the target.
    pub key: String,
    /// Partition columns with their values, in the order of the config; `None` is null.
    pub partition: Vec<(String, Option<String>)>,
}

/// How files are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Parquet.
    Parquet,
    /// Arrow IPC.
    Arrow,
}

/// A folder of plain files.
#[derive(Clone, Debug)]
pub struct Target {
    place: Arc<dyn Place>,
    root: PathBuf,
    partition: Partition,
    /// How its files are written.
    pub kind: Kind,
}

/// Looks at a chain that changes meanwhile.
const LOOKS_MAX: usize = 20;

impl Target {
    /// The target of a sink; what it is instead of a folder of plain files, if it is none.
    pub fn of(sink: &SinkConfig) -> Result<Self, String> {
        let (location, partition, kind) = match sink {
            SinkConfig::Parquet(config) => (&config.path, &config.partition, Kind::Parquet),
            SinkConfig::Arrow(config) => (&config.path, &config.partition, Kind::Arrow),
            SinkConfig::File(_) => {
                return Err("it writes NDJSON or CSV, and only Parquet and Arrow files are read".to_owned());
            }
            SinkConfig::Topic(config) if config.cluster.is_none() => {
                return Err(format!("it writes topic {}, which is a table of its own", config.name));
            }
            SinkConfig::Delta(_) | SinkConfig::Iceberg(_) => {
                return Err("it writes a table that engines read by its own log".to_owned());
            }
            _ => return Err("it writes no files".to_owned()),
        };
        let Location::Folder(root) = location else {
            return Err(format!("its files lie in an object store, {location}, and only folders are read"));
        };
        let disk = Arc::new(RealDisk);
        let place = place::open(location, None, disk).map_err(|e| e.to_string())?;
        let partition = Partition::new(partition).map_err(|e| e.to_string())?;
        Ok(Self { place, root: root.clone(), partition, kind })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The names of its partition columns, which stand in no file.
    pub fn partition_columns(&self) -> impl Iterator<Item = &str> {
        self.partition.columns().iter().map(|column| column.name())
    }

    /// The chains of a pipeline, in the order of topic and queue.
    pub fn published(&self, pipeline: &str) -> Result<Vec<Published>, TaskError> {
        let place = self.place.as_ref();
        let mut looks = 1;
        loop {
            let all = chains(place, pipeline)?.into_iter();
            match all.map(|(chain, standing)| one(place, chain, &standing)).collect() {
                Err(TaskError { class: Class::Retry, .. }) if looks < LOOKS_MAX => looks += 1,
                found => return found,
            }
        }
    }

    /// The newest schema of a pipeline's decoded rows, before its steps.
    pub fn schema(&self, pipeline: &str) -> Result<Option<SchemaRef>, TaskError> {
        let folder = pipeline_folder(pipeline);
        let mut newest = None;
        for number in 0.. {
            match parse::<Schema>(self.place.as_ref(), &format!("{folder}/{}", schema_name(number)))? {
                Some(schema) => newest = Some(schema.into()),
                None => break,
            }
        }
        Ok(newest)
    }

    /// The rows of a slice as readers of the files see them, the partition columns among them.
    pub fn rows(&self, slice: &Slice) -> Result<RecordBatch, TaskError> {
        let rows = self.partition.with_columns(slice)?;
        plain::batch(&rows, &plain::schema(rows.schema_ref())).map_err(|e| {
            TaskError::new(Class::Fatal, "cannot make the columns of a file of these rows").because(e)
        })
    }
}

fn one(place: &dyn Place, chain: Chain, standing: &Standing) -> Result<Published, TaskError> {
    let folder = chain_folder(&chain);
    if let Some(start) = standing.plans.iter().find(|start| standing.is_back(**start)) {
        let message = format!("{chain}: plan {start} was given back, as those of queues are");
        return Err(TaskError::new(Class::Config, message));
    }
    let (mut next, mut incarnation) = match parse::<Origin>(place, &format!("{folder}/origin.json"))? {
        Some(Origin { origin, incarnation }) => (origin, incarnation),
        None => (0, String::new()),
    };
    let mut files: BTreeMap<String, PublishedFile> = BTreeMap::new();
    let mut unfinished = None;
    for &start in &standing.plans {
        let plan = read_plan(place, &folder, start)?;
        if start != next {
            let message = format!("{chain}: no plan stands from {next} to {start}: see `sluice audit`");
            return Err(TaskError::new(Class::Retry, message));
        }
        // What stands before another one is done, though its mark may be lost.
        let is_last = standing.plans.last() == Some(&start);
        if is_last && !standing.done.contains(&start) {
            let mut is_there = !plan.files.is_empty();
            for file in &plan.files {
                is_there = is_there && find(place, file, &plan)? == Found::Same;
            }
            if !is_there {
                (next, incarnation, unfinished) = (plan.start, plan.incarnation, Some(plan.config));
                break;
            }
        }
        (next, incarnation) = (plan.end, plan.incarnation);
        for file in plan.files {
            let partition = file.partition;
            files.insert(file.name.clone(), PublishedFile { key: file.name, partition });
        }
    }
    merge(place, &folder, standing, &mut files)?;
    let files = files.into_values().collect();
    Ok(Published { chain, next, incarnation, unfinished, files })
}

/// Puts merged files in the place of their parts, also while a merge is under way.
fn merge(
    place: &dyn Place,
    folder: &str,
    standing: &Standing,
    files: &mut BTreeMap<String, PublishedFile>,
) -> Result<(), TaskError> {
    let has = |key: &str| place.has(key).map_err(|e| failed("look at", place.show(key), e));
    for &number in &standing.compactions {
        for (at, merged) in read_compaction(place, folder, number)?.files.into_iter().enumerate() {
            let key = if has(&merged.name)? {
                merged.name
            } else {
                let mut all = true;
                for part in &merged.of {
                    all = all && has(part)?;
                }
                if all {
                    continue;
                }
                // It waits here until its parts are gone; in between it got its name.
                let staged = format!("{folder}/{}", staged_name(number, at));
                if has(&staged)? { staged } else { merged.name }
            };
            let mut parts = merged.of.iter().filter_map(|part| files.remove(part));
            let Some(PublishedFile { partition, .. }) = parts.next() else { continue };
            parts.for_each(drop);
            files.insert(key.clone(), PublishedFile { key, partition });
        }
    }
    Ok(())
}

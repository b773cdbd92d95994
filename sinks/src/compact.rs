//! Merges the small published files of chains in a folder, for a person who allows readers a gap: between the
//! removal of the small files and the naming of the merged one their rows are not to be seen.
//!
//! 1. The merge is recorded beside the plans, put if absent, before anything else: `<n:020>.compact`.
//! 2. The merged file is written and waits beside the plans, durably: `<n:020>.merged-<i:04>`.
//! 3. The small files are removed, durably.
//! 4. The merged file gets its name, and what waited is removed.
//!
//! A merge that ended between any two of them goes on there at the next run, so rows are never lost and never
//! seen twice. Only plans that are done are touched, and of each chain not the last: by that `.done` the chain
//! stands. One process compacts a target at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow::datatypes::SchemaRef;
use bytesize::ByteSize;
use sluice_connect::plan::Plan;
use sluice_connect::task::{Chain, Class, TaskError};
use sluice_store::file::{Disk, Open};

use crate::chain::Chains;
use crate::disk::{failed, remove};
use crate::iceberg;
use crate::location::Location;
use crate::parquet::{self, Codec, ParquetConfig, ParquetFormat, RowGroup};
use crate::place::{Folder, Place, parent};
use crate::plain;
use crate::records::{
    Compaction, Merged, ROOT, Standing, TABLE_LOG, chain_folder, chains, compaction_name, json, pipelines,
    read_compaction, read_plan, staged_name,
};
use crate::rotate::{Rotate, open_partitions_default};
use crate::writer::{Format, MERGED_KEY, footer};

/// Files of one merge; more are left to the next run.
const MERGED_MAX: usize = 10_000;

/// What was merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Files that are gone.
    pub from: u64,
    /// Files that took their place.
    pub to: u64,
    /// Rows in them.
    pub rows: u64,
}

/// Whether a folder holds a table.
pub fn is_table(target: &Path) -> bool {
    target.join(TABLE_LOG).is_dir() || is_iceberg(target)
}

/// Whether a folder holds a table of Iceberg.
fn is_iceberg(target: &Path) -> bool {
    let entries = target.join(iceberg::METADATA).read_dir().into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_str().is_some_and(iceberg::is_metadata))
}

/// Merges files of a table in one commit; see [`compact`].
pub fn compact_table(
    target: PathBuf,
    disk: Arc<dyn Disk>,
    bytes: ByteSize,
    now_ms: i64,
) -> Result<Compacted, TaskError> {
    if is_iceberg(&target) {
        let message = format!(
            "{} is a table of Iceberg, which an engine compacts: Spark by `CALL system.rewrite_data_files(…)`, Trino by \
             `ALTER TABLE … EXECUTE optimize`. Sluice goes on writing meanwhile",
            target.display()
        );
        return Err(TaskError::new(Class::Config, message));
    }
    #[cfg(feature = "delta")]
    return crate::delta::compact::compact(target, disk, bytes, now_ms);
    #[cfg(not(feature = "delta"))]
    {
        let _ = (target, disk, bytes, now_ms);
        Err(TaskError::new(Class::Config, crate::WITHOUT_DELTA))
    }
}

/// Merges files below a folder to about `bytes` each; `now_ms` is since 1970-01-01 UTC.
pub fn compact(
    target: PathBuf,
    disk: Arc<dyn Disk>,
    bytes: ByteSize,
    now_ms: i64,
) -> Result<Compacted, TaskError> {
    let root = target.join(ROOT);
    if !root.is_dir() {
        let message = format!("{} holds no chain of plans: nothing to compact", target.display());
        return Err(TaskError::new(Class::Config, message));
    }
    if is_table(&target) {
        let message =
            format!("{} is a table: its files are exchanged by a commit to its log", target.display());
        return Err(TaskError::new(Class::Config, message));
    }
    let lock = root.join("compact.lock");
    let lock_file = disk.open(&lock, Open::OrCreate).map_err(|e| failed("open", lock.display(), e))?;
    match lock_file.file().try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let message = format!("{} is being compacted by another process", target.display());
            return Err(TaskError::new(Class::Config, message));
        }
        Err(TryLockError::Error(e)) => return Err(failed("lock", lock.display(), e)),
    }
    let place: Arc<dyn Place> = Arc::new(Folder::new(disk.clone(), target));
    let mut compactor = Compactor {
        chains: Chains::new(disk.clone(), place.clone()),
        place,
        disk,
        bytes: bytes.as_u64(),
        now_ms,
        done: Compacted::default(),
    };
    for pipeline in pipelines(compactor.place.as_ref())? {
        // Sweeps what a crashed run of this left.
        compactor.chains.temp_file(&pipeline)?;
        for (chain, standing) in chains(compactor.place.as_ref(), &pipeline)? {
            compactor.chain(&chain, &standing)?;
        }
    }
    Ok(compactor.done)
}

struct Compactor {
    chains: Chains,
    place: Arc<dyn Place>,
    disk: Arc<dyn Disk>,
    bytes: u64,
    now_ms: i64,
    done: Compacted,
}

impl Compactor {
    fn chain(&mut self, chain: &Chain, standing: &Standing) -> Result<(), TaskError> {
        let folder = chain_folder(chain);
        let mut replaced = BTreeSet::new();
        for &number in &standing.compactions {
            let compaction = read_compaction(self.place.as_ref(), &folder, number)?;
            self.carry_out(chain, number, &compaction)?;
            replaced.extend(compaction.files.into_iter().flat_map(|file| file.of));
        }
        let number = standing.compactions.last().map_or(0, |last| last + 1);
        let files = self.choose(chain, standing, number, &replaced)?;
        if files.is_empty() {
            return Ok(());
        }
        // By these names the plans are known to be done when their files are gone.
        self.sync(&folder)?;
        let compaction = Compaction { files, decided_ms: self.now_ms };
        let key = format!("{folder}/{}", compaction_name(number));
        if !self.chains.put(&chain.pipeline, &key, &json(&compaction)?)? {
            let message = format!("{} was put by another process", self.place.show(&key));
            return Err(TaskError::new(Class::Retry, message));
        }
        self.sync(&folder)?;
        self.carry_out(chain, number, &compaction)
    }

    /// Runs of small files of one partition and one schema, each of which comes to about the size asked for.
    fn choose(
        &self,
        chain: &Chain,
        standing: &Standing,
        number: i64,
        replaced: &BTreeSet<String>,
    ) -> Result<Vec<Merged>, TaskError> {
        let folder = chain_folder(chain);
        let last = standing.plans.last();
        let mut runs: BTreeMap<(String, String), (Merged, u64)> = BTreeMap::new();
        let mut chosen = Vec::new();
        for start in standing.plans.iter().filter(|start| Some(*start) != last) {
            if standing.is_back(*start) {
                continue;
            }
            if !standing.done.contains(start) || chosen.len() >= MERGED_MAX {
                break;
            }
            let plan = read_plan(self.place.as_ref(), &folder, *start)?;
            for file in plan.files.iter().filter(|file| !replaced.contains(&file.name)) {
                let Some(bytes) = self.small(&plan, &file.name)? else { continue };
                let run = (parent(&file.name).to_owned(), plan.schema.clone());
                let (merged, sum) = runs.entry(run).or_default();
                merged.rows += file.rows;
                merged.of.push(file.name.clone());
                *sum += bytes;
                if *sum >= self.bytes {
                    chosen.push(std::mem::take(merged));
                    *sum = 0;
                }
            }
        }
        chosen.extend(runs.into_values().map(|(merged, _)| merged));
        chosen.retain(|merged| merged.of.len() > 1);
        chosen.sort_by(|a, b| a.of.cmp(&b.of));
        for (place, merged) in chosen.iter_mut().enumerate() {
            merged.name = merged_name(&merged.of[0], number, place);
        }
        Ok(chosen)
    }

    /// The bytes of a Parquet file that is worth merging.
    fn small(&self, plan: &Plan, name: &str) -> Result<Option<u64>, TaskError> {
        if !name.ends_with(&format!(".{}", parquet::EXTENSION)) {
            return Ok(None);
        }
        match footer(self.place.as_ref(), name)? {
            Some(footer) if footer.plan.as_ref() == Some(plan) => {
                Ok((footer.bytes <= self.bytes / 2).then_some(footer.bytes))
            }
            _ => {
                let message = format!(
                    "{} of plan {} is not there, or is another file: see `sluice audit`",
                    self.place.show(name),
                    plan.start
                );
                Err(TaskError::new(Class::Config, message))
            }
        }
    }

    /// Steps 2 to 4, from wherever they stand.
    fn carry_out(&mut self, chain: &Chain, number: i64, compaction: &Compaction) -> Result<(), TaskError> {
        let folder = chain_folder(chain);
        for (place, merged) in compaction.files.iter().enumerate() {
            let staged = format!("{folder}/{}", staged_name(number, place));
            let mut left = Vec::new();
            for name in &merged.of {
                if self.has(name)? {
                    left.push(name.clone());
                }
            }
            let is_named = self.has(&merged.name)?;
            if !is_named {
                if !self.has(&staged)? {
                    self.write(chain, &staged, merged)?;
                }
                // Whoever named it may have died before the name was durable.
                self.sync(&folder)?;
            }
            for name in &left {
                self.place.remove(name).map_err(|e| failed("remove", self.place.show(name), e))?;
            }
            self.sync(parent(&merged.name))?;
            if !is_named {
                let from = self.place.spool(&staged);
                let named = self.place.put_file(&from, &merged.name);
                named.map_err(|e| failed("make", self.place.show(&merged.name), e))?;
                self.sync(parent(&merged.name))?;
            }
            if self.has(&staged)? {
                remove(self.disk.as_ref(), &self.place.spool(&staged))?;
            }
            if !is_named || !left.is_empty() {
                self.done.from += left.len() as u64;
                self.done.to += u64::from(!is_named);
                self.done.rows += merged.rows;
            }
        }
        Ok(())
    }

    /// Writes the merged file and lets it wait, durably but for its name.
    fn write(&mut self, chain: &Chain, staged: &str, merged: &Merged) -> Result<(), TaskError> {
        let temp = self.chains.temp_file(&chain.pipeline)?;
        let written = self.merge(&temp, merged);
        let named = written.and_then(|()| {
            self.place.put_file(&temp, staged).map_err(|e| failed("make", self.place.show(staged), e))
        });
        remove(self.disk.as_ref(), &temp)?;
        named.map(drop)
    }

    fn merge(&self, temp: &Path, merged: &Merged) -> Result<(), TaskError> {
        let mut writer = None;
        let mut first: Option<SchemaRef> = None;
        let mut rows = 0;
        for name in &merged.of {
            let shown = self.place.show(name);
            let damaged = |e: ::parquet::errors::ParquetError| {
                TaskError::new(Class::Config, format!("cannot read {shown}")).because(e)
            };
            let file = File::open(self.place.spool(name)).map_err(|e| failed("open", &shown, e))?;
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(damaged)?;
            let schema = plain::schema(&reader.schema().as_ref().clone().with_metadata(Default::default()));
            if first.get_or_insert_with(|| schema.clone()).fields() != schema.fields() {
                let message = format!("{shown} has other columns than {}", merged.of[0]);
                return Err(TaskError::new(Class::Config, message));
            }
            let writer = match &mut writer {
                Some(writer) => writer,
                None => {
                    let codec = codec(reader.metadata());
                    writer.insert(format(codec).writer(self.disk.clone(), temp, schema)?)
                }
            };
            for batch in reader.build().map_err(damaged)? {
                let batch = batch.map_err(|e| damaged(e.into()))?;
                rows += batch.num_rows() as u64;
                writer.write(temp, &batch)?;
            }
        }
        if rows != merged.rows {
            let message =
                format!("the files of {} have {rows} rows, their plans say {}", merged.name, merged.rows);
            return Err(TaskError::new(Class::Config, message));
        }
        let json = serde_json::to_string(merged)
            .map_err(|e| TaskError::new(Class::Fatal, "a merge can not be written as JSON").because(e))?;
        match writer {
            Some(writer) => writer.finish(temp, &[(MERGED_KEY, json)]),
            None => Err(TaskError::new(Class::Config, format!("{} is a merge of no files", merged.name))),
        }
    }

    fn has(&self, key: &str) -> Result<bool, TaskError> {
        self.place.has(key).map_err(|e| failed("look at", self.place.show(key), e))
    }

    fn sync(&self, folder: &str) -> Result<(), TaskError> {
        self.place.sync(folder).map_err(|e| failed("sync", self.place.show(folder), e))
    }
}

/// Sorts where its first file did, and is the name of no plan's file.
fn merged_name(first: &str, number: i64, place: usize) -> String {
    let stem = first.strip_suffix(&format!(".{}", parquet::EXTENSION)).unwrap_or(first);
    format!("{stem}-m{number}-{place}.{}", parquet::EXTENSION)
}

/// How the columns of a file are compressed, but for the level, which no file says.
pub(crate) fn codec(metadata: &::parquet::file::metadata::ParquetMetaData) -> Codec {
    use ::parquet::basic::Compression;
    let columns = metadata.row_groups().first().map(|group| group.columns());
    match columns.and_then(|columns| columns.first()).map(|column| column.compression()) {
        Some(Compression::SNAPPY) => Codec::Snappy,
        Some(Compression::LZ4_RAW) => Codec::Lz4,
        Some(Compression::UNCOMPRESSED) => Codec::None,
        _ => Codec::default(),
    }
}

pub(crate) fn format(codec: Codec) -> Format {
    let config = ParquetConfig {
        path: Location::Folder(PathBuf::new()),
        store: None,
        codec,
        partition: Vec::new(),
        open_partitions: open_partitions_default(),
        row_group: RowGroup::default(),
        rotate: Rotate::default(),
    };
    Format::Parquet(Box::new(ParquetFormat::new(&config)))
}
